"""The docstrings: only prose survives, only public modules count, nothing is imported, and packages are kept apart."""

import gc
import re
import sys
import warnings

import pytest
import torch

from fewshot_lib import data
from fewshot_lib.data import docstrings
from fewshot_lib.data.summaries import MAX_WORDS, MIN_WORDS, summary

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda omicron sigma upsilon omega".split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The real corpus, harvested once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load("docstrings"), data.load("docstrings", "module")


def functions(start: int, n: int, topic: str) -> str:
    """Source of n functions with n different sentences."""
    sentences = [f"Compute the {topic} of {WORDS[i // 15]} and {WORDS[i % 15]} values" for i in range(start, start + n)]
    return "\n".join(f'def f{i}():\n    """{sentence}."""\n' for i, sentence in enumerate(sentences))


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
        ("Compute the convex hull of points.\n\nParameters\n----------\nx : array", "Compute the convex hull of points."),
        ("compute the convex hull\nof a set of points", "Compute the convex hull of a set of points."),
        ("hull(points, axis=0)\n\nCompute the convex hull of points.", "Compute the convex hull of points."),
        ("Hulls\n=====\n\nCompute the convex hull of points.", "Compute the convex hull of points."),
        ("Draw it with :meth:`~matplotlib.axes.Axes.plot` or ``np.save()``.", "Draw it with plot or save."),
        ("Apply the `Remez <https://example.org>`_ *exchange* algorithm [1]_ here.", "Apply the Remez exchange algorithm here."),
        ("A [Trainer](../trainer) for **very** large models.", "A Trainer for very large models."),
        ("Set the .Text of this\n:class:`Axes` to a string.", "Set the Text of this Axes to a string."),
        ("Fit the model to data X.\n- first\n- second", "Fit the model to data X."),
        ("Fit the model to data X.\n:param X: data", "Fit the model to data X."),
        ("Fit a linear model to X. The loss is $x^2 = 1$. Then stop.", "Fit a linear model to X."),
        ("Fit a linear model to X. See the notes for more information.", "Fit a linear model to X."),
        ("Accept some kind of wildcard (e.g. A\nor B) in names.", "Accept some kind of wildcard (e.g. A or B) in names."),
        ("Fit a linear model to X. Patterns (such as\n* and ?) do not work.", "Fit a linear model to X."),
        ("Draw a random number from the interval [0, 1) uniformly.", "Draw a random number from the interval [0, 1) uniformly."),
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


def test_nothing_is_imported(toy):
    docstrings.harvest(["toy"])
    assert not [name for name in sys.modules if name.split(".")[0] == "toy"]


def test_somebody_elses_sloppiness_is_not_our_warning(toy):
    (toy / "waves.py").write_text('def f():\n    """Match the pattern \\d of a digit."""\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(docstrings.public_docstrings(toy / "waves.py"))) == 1


def test_only_public_names_count(toy):
    (toy / "waves.py").write_text(
        '"""Module docstrings are about the module."""\n'
        "class Public:\n"
        '    """A public class of some kind."""\n'
        '    def method(self):\n        """A public method of some kind."""\n'
        '        def inner():\n            """A function within a function body."""\n'
        '    def _method(self):\n        """A private method of some kind."""\n'
        'class _Private:\n    """A private class of some kind."""\n'
        '    def method(self):\n        """A method of a private class."""\n'
        'if True:\n    async def f():\n        """A function under a condition here."""\n'
    )
    found = list(docstrings.public_docstrings(toy / "waves.py"))
    assert found == ["A public class of some kind.", "A public method of some kind.", "A function under a condition here."]


def test_a_sentence_of_two_modules_is_dropped_from_both(toy):
    (toy / "other.py").write_text(functions(0, 2, "wave") + functions(0, 30, "tide"))
    texts = docstrings.harvest(["toy"])
    assert len(texts["toy.waves"]) == 28
    assert not set(texts["toy.waves"]) & set(texts["toy.other"])


def test_a_sentence_that_differs_in_numbers_only_is_kept_once(toy):
    (toy / "waves.py").write_text(functions(0, 30, "wave") + functions(0, 3, "wave").replace("wave", "2-wave"))
    (toy / "waves.py").write_text((toy / "waves.py").read_text() + functions(0, 3, "wave 3"))
    assert len([text for text in docstrings.harvest(["toy"])["toy.waves"] if "alpha and alpha" in text]) == 1


def test_a_sentence_that_names_its_own_package_is_left_out(toy):
    (toy / "waves.py").write_text(functions(0, 40, "wave").replace("alpha and", "a Toy and"))
    assert not re.search("toy", " ".join(docstrings.harvest(["toy"])["toy.waves"]), re.IGNORECASE)


def test_large_classes_are_thinned_evenly(toy):
    n = 4 * docstrings.MAX_TEXTS
    (toy / "waves.py").write_text(functions(0, n, "wave"))
    texts = docstrings.harvest(["toy"])["toy.waves"]
    assert len(texts) == docstrings.MAX_TEXTS
    assert sum("alpha and" in text or "beta and" in text for text in texts) < 10  # not just the first ones


def test_a_missing_package_is_left_out_with_a_warning(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(docstrings, "PACKAGES", {"toy": ("torch", "toy"), "gone": ("no-such-distribution", "gone")})
    with pytest.warns(UserWarning, match="no-such-distribution is not installed"):
        found = data.load("docstrings")
    assert found.class_names == ["toy graphs", "toy waves"]


def test_cache_is_read_and_a_damaged_file_is_made_again(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(docstrings, "PACKAGES", {"toy": ("torch", "toy")})
    first = data.load("docstrings")
    (toy / "waves.py").unlink()
    assert data.load("docstrings").inputs == first.inputs
    [file] = (tmp_path / "cache" / "docstrings").iterdir()
    file.write_bytes(b"\0" * 100)
    with pytest.warns(UserWarning, match="damaged"):
        again = data.load("docstrings")
    assert again.class_names == ["toy graphs"]


def test_collector_is_switched_on_again(toy):
    assert gc.isenabled()
    docstrings.harvest(["toy"])
    assert gc.isenabled()


def test_corpus_is_large_enough(dataset):
    by_package, by_module = dataset
    domains = {split: {by_package.domains[c] for c in classes.tolist()} for split, classes in by_package.splits.items()}
    assert len(set(by_package.domains)) >= 12
    assert len(by_package.classes("test")) >= 25
    assert len(domains["test"]) >= 4
    assert len(by_package.classes("val")) >= 15
    assert len(by_package.classes("train")) >= 80
    assert by_module.inputs == by_package.inputs


def test_corpus_is_what_the_card_says(dataset):
    by_package, _ = dataset
    counts = by_package.counts
    assert docstrings.MIN_TEXTS <= counts.min()
    assert counts.max() == docstrings.MAX_TEXTS
    lengths = torch.tensor([len(text.split()) for text in by_package.inputs])
    assert MIN_WORDS <= lengths.min()
    assert lengths.max() <= MAX_WORDS
    assert len(set(by_package.inputs)) == len(by_package)
    assert len(set(by_package.class_names)) == by_package.n_classes
    assert not [text for text in by_package.inputs if re.search(r"[`\\{}$]|https?:|\.\. |::", text)]
    for text, c in zip(by_package.inputs, by_package.labels.tolist(), strict=True):
        assert by_package.domains[c].lower() + "." not in text.lower()[:-1]


def test_package_family_keeps_packages_apart(dataset):
    by_package, _ = dataset
    domains = [{by_package.domains[c] for c in classes.tolist()} for classes in by_package.splits.values()]
    assert sum(map(len, domains)) == len(set.union(*domains))


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


def test_unknown_family():
    with pytest.raises(ValueError, match="'packages'; docstrings has 'package', 'module'"):
        data.load("docstrings", "packages")
