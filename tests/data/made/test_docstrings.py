"""The docstrings: only prose survives, only public modules count, nothing is imported, packages apart."""

import gc
import re
import sys
import textwrap
import warnings

import pytest
import torch

from fewshot_lib import data
from fewshot_lib.data.made import docstrings
from fewshot_lib.data.made.summaries import MAX_WORDS, MIN_WORDS, summary

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda omicron sigma upsilon omega".split()
INTERVAL = "Draw a random number from the interval [0, 1) uniformly."


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The real corpus, harvested once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load("docstrings"), data.load("docstrings", "module")


def functions(start: int, n: int, topic: str) -> str:
    """Source of n functions with n different sentences."""
    sentence = 'def f{}():\n    """Compute the {} of {} and {} values."""\n'
    return "\n".join(
        sentence.format(i, topic, WORDS[i // 15], WORDS[i % 15]) for i in range(start, start + n)
    )


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package "toy", in the list of packages; returns its folder."""
    folder = tmp_path / "toy"
    for name, source in {
        "__init__": "raise RuntimeError('imported')",
        "waves": functions(0, 30, "wave"),
        "few": functions(0, docstrings.MIN_TEXTS - 1, "scarcity"),
        "utils": functions(0, 30, "utility"),
        "_hidden": functions(0, 30, "secret"),
        "tests/test_waves": functions(0, 30, "test"),
        "graphs/__init__": "",
        "graphs/_private/_impl": functions(0, 28, "graph"),
        "graphs/_python4": "match 1:\n    broken",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(docstrings, "PACKAGES", {"toy": ("toy", "toy")})
    return folder


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Draw the hull of many points.\n\nParameters\n-----\nx : array", "Draw the hull of many points."),
        ("compute the convex hull\nof a set of points", "Compute the convex hull of a set of points."),
        ("hull(points, axis=0)\n\nCompute the convex hull of points.", "Compute the convex hull of points."),
        ("Hulls\n=====\n\nCompute the convex hull of points.", "Compute the convex hull of points."),
        ("Draw it with :meth:`~matplotlib.axes.Axes.plot` or ``np.save()``.", "Draw it with plot or save."),
        ("Apply `Remez <https://example.org>`_ *exchange* [1]_ now here.", "Apply Remez exchange now here."),
        ("A [Trainer](../trainer) for **very** large models.", "A Trainer for very large models."),
        ("Set the .Text of this\n:class:`Axes` to a string.", "Set the Text of this Axes to a string."),
        ("Fit the model to data X.\n- first\n- second", "Fit the model to data X."),
        ("Fit the model to data X.\n:param X: data", "Fit the model to data X."),
        ("Fit a linear model to X. The loss is $x^2 = 1$. Then stop.", "Fit a linear model to X."),
        ("Fit a linear model to X. See the notes for more information.", "Fit a linear model to X."),
        ("Accept some wildcards (e.g. A\nor B) in names.", "Accept some wildcards (e.g. A or B) in names."),
        ("Fit a linear model to X. Patterns (such as\n* and ?) do not work.", "Fit a linear model to X."),
        (INTERVAL, INTERVAL),
        ("Is this really a rotation matrix?", "Is this really a rotation matrix?"),
        ("Fit the model.", None),  # too short
        ("Compute :math:`\\sum_i x_i^2` over all of x.", None),
        (">>> compute(1, 2, 3)\n6", None),
        ("Parameters\n----------\nx : array of numbers to be summed", None),
        ("Deprecated since 1.2: use the other one instead.", None),
        ("The available methods of this class are:", None),
        ("", None),
    ],
)
def test_summary(docstring, text):
    assert summary(docstring) == text


def test_summary_stops_at_a_whole_sentence():
    sentence = "The quick brown fox jumps over one more very lazy dog."
    text = summary(" ".join([sentence] * 20))
    assert text.endswith("dog.")
    assert MAX_WORDS - len(sentence.split()) < len(text.split()) <= MAX_WORDS


def test_public_modules_only_and_private_files_under_their_parent(toy):
    texts = docstrings.harvest(["toy"])
    assert list(texts) == ["toy.graphs", "toy.waves"]
    assert len(texts["toy.graphs"]) == 28
    assert texts["toy.waves"][0] == "Compute the wave of alpha and alpha values."


def test_nothing_is_imported_and_the_collector_is_switched_on_again(toy):
    assert gc.isenabled()
    docstrings.harvest(["toy"])
    assert gc.isenabled()
    assert not [name for name in sys.modules if name.split(".")[0] == "toy"]


def test_somebody_elses_sloppiness_is_not_our_warning(toy):
    (toy / "waves.py").write_text('def f():\n    """Match the pattern \\d of a digit."""\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(docstrings.public_docstrings(toy / "waves.py"))) == 1


def test_only_public_names_count(toy):
    source = """
        '''Module docstrings are about the module.'''
        class Public:
            '''A public class of some kind.'''
            def method(self):
                '''A public method of some kind.'''
                def inner():
                    '''A function within a function body.'''
            def _method(self):
                '''A private method of some kind.'''
        class _Private:
            '''A private class of some kind.'''
            def method(self):
                '''A method of a private class.'''
        if True:
            async def f():
                '''A function under a condition here.'''
    """
    (toy / "waves.py").write_text(textwrap.dedent(source))
    first, second, third = docstrings.public_docstrings(toy / "waves.py")
    assert (first, second) == ("A public class of some kind.", "A public method of some kind.")
    assert third == "A function under a condition here."


def test_a_sentence_of_two_modules_or_of_its_own_package_is_dropped_and_numbers_make_no_other(toy):
    (toy / "other.py").write_text(functions(0, 2, "wave") + functions(0, 30, "tide"))
    twins, own = functions(3, 3, "2-wave") + functions(3, 3, "wave 3"), functions(60, 3, "Toy")
    (toy / "waves.py").write_text(functions(0, 30, "wave") + twins + own)
    texts = docstrings.harvest(["toy"])
    assert len(texts["toy.waves"]) == 28 and not set(texts["toy.waves"]) & set(texts["toy.other"])
    assert not re.search("toy", " ".join(texts["toy.waves"]), re.IGNORECASE)


def test_large_classes_are_thinned_evenly(toy):
    n = 4 * docstrings.MAX_TEXTS
    (toy / "waves.py").write_text(functions(0, n, "wave"))
    texts = docstrings.harvest(["toy"])["toy.waves"]
    assert len(texts) == docstrings.MAX_TEXTS
    assert sum("alpha and" in text or "beta and" in text for text in texts) < 10  # not just the first ones


def test_a_missing_package_is_left_out_with_a_warning_and_a_second_load_reads_the_cache(
    toy, monkeypatch, tmp_path
):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    packages = {"toy": ("torch", "toy"), "gone": ("no-such-distribution", "gone")}
    monkeypatch.setattr(docstrings, "PACKAGES", packages)
    with pytest.warns(UserWarning, match="no-such-distribution is not installed"):
        first = data.load("docstrings")
    assert first.class_names == ["toy graphs", "toy waves"]
    (toy / "waves.py").unlink()
    with pytest.warns(UserWarning, match="not installed"):
        assert data.load("docstrings").inputs == first.inputs


@pytest.mark.slow
def test_corpus_is_large_enough_and_packages_are_kept_apart(dataset):
    by_package, by_module = dataset
    train, val, test = ({by_package.domains[c] for c in ids.tolist()} for ids in by_package.splits.values())
    assert not train & val and not train & test and not val & test
    assert len(train | val | test) >= 12 and len(test) >= 4
    least = {"train": 80, "val": 15, "test": 25}
    assert all(len(by_package.classes(split)) >= n for split, n in least.items())
    assert by_module.inputs == by_package.inputs


@pytest.mark.slow
def test_corpus_is_what_the_card_says(dataset):
    by_package, _ = dataset
    counts = by_package.counts
    assert counts.min() >= docstrings.MIN_TEXTS and counts.max() == docstrings.MAX_TEXTS
    lengths = torch.tensor([len(text.split()) for text in by_package.inputs])
    assert lengths.min() >= MIN_WORDS and lengths.max() <= MAX_WORDS
    assert len(set(by_package.inputs)) == len(by_package)
    assert len(set(by_package.class_names)) == by_package.n_classes
    assert not [text for text in by_package.inputs if re.search(r"[`\\{}$]|https?:|\.\. |::", text)]
    for text, c in zip(by_package.inputs, by_package.labels.tolist(), strict=True):
        assert by_package.domains[c].lower() + "." not in text.lower()[:-1]


@pytest.mark.slow
def test_module_family_divides_every_package(dataset):
    _, by_module = dataset
    assert by_module.split_family == "module"
    for package in set(by_module.domains):
        for classes in by_module.splits.values():
            assert package in {by_module.domains[c] for c in classes.tolist()}
    assert sum(map(len, by_module.splits.values())) == by_module.n_classes


def test_readable_names():
    assert docstrings.readable("networkx.algorithms.shortest_paths") == "networkx shortest paths"
    assert docstrings.readable("sympy.physics.vector") != docstrings.readable("sympy.vector")
