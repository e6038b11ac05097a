"""benchmarks/field.py: cells are whole or not there, and nothing is measured twice."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewshot_lib.classifier.words import WEIGHT
from fewshot_lib.core import few_shot_method
from fewshot_lib.course.results import publishing as results
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.multitask import Task
from fewshot_lib.prototypes import NamesAsExamples, SoftKMeans, zero_shot

ROOT = Path(__file__).parents[1]
SOME = ["--sets", "huffpost", "reuters", "--families", "bao", "--encoders", "minilm"]


@pytest.fixture
def field(monkeypatch, tmp_path):
    """The program, on small made-up sets; call it with arguments."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import field

    monkeypatch.setattr(field.fd, "prepared", lambda name, family, encoder: small(field.fd, name))
    monkeypatch.setattr(field.fd, "load", lambda name, family: split(small(field.fd, name), family))
    monkeypatch.setattr(field.fd, "N_EPISODES", 12)
    field.fd.trained_alike.cache_clear()
    few = ("zero-shot", "names as examples", "balanced soft k-means with names (T)", "relational")
    monkeypatch.setattr(field, "ROWS", {row: field.ROWS[row] for row in few})

    def run(*arguments):
        command = ["field.py", *SOME, *arguments, "--out", str(tmp_path / "cells")]
        monkeypatch.setattr(sys, "argv", command)
        field.main()
        return {path: path.read_bytes() for path in sorted((tmp_path / "cells").rglob("*.json"))}

    run.module = field
    yield run
    field.fd.trained_alike.cache_clear()


def small(fd, name):
    """18 classes of 22 texts whose features are known, in three splits."""
    generator = torch.Generator().manual_seed(len(name))
    labels = torch.arange(18).repeat_interleave(22)
    splits = dict(zip(("train", "val", "test"), torch.arange(18).split(6), strict=True))
    names = [f"{name} {c}" for c in range(18)]
    texts = [f"text {i}" for i in range(len(labels))]
    dataset = ClassDataset(texts, labels, names, splits, name=name, split_family="bao")
    centres = torch.randn(18, 8, generator=generator)
    features = centres[labels] + 0.5 * torch.randn(len(labels), 8, generator=generator)
    return fd.Prepared(Task(name, dataset, features, centres), "raw")


def split(prepared, family):
    """In the family `metaprompter` training and validation classes have changed places."""
    dataset = prepared.task.dataset
    train, val = (dataset.splits[part] for part in ("train", "val"))
    return replace(
        dataset,
        splits=dataset.splits | {"train": val, "val": train} if family == "metaprompter" else dataset.splits,
    )


def test_every_cell_is_measured_once_and_can_be_published(field, monkeypatch):
    cells = field("--rows", "zero-shot", "balanced soft k-means with names (T)")
    assert len(cells) == 2 * 2 * 3  # sets, shots, rows: the baseline comes along
    for cell in map(json.loads, cells.values()):
        assert set(results.COLUMNS) < set(cell) and len(cell["accuracies"]) == 12
        assert cell["mean"] == pytest.approx(sum(cell["accuracies"]) / 12, abs=1e-4)
        assert (cell["kind"] == "transductive") == cell["method"].endswith("(T)")
    monkeypatch.setattr(field.module.Field, "measure", None)  # would fail
    assert field("--rows", "zero-shot") == cells
    twins = field("--rows", "zero-shot", "--families", "metaprompting")  # the same test classes
    copies = [json.loads(cell) for path, cell in twins.items() if "metaprompting" in path.parts]
    assert len(copies) == 4 and {cell["family"] for cell in copies} == {"metaprompting"}


def test_an_interrupted_run_loses_nothing_and_goes_on(field, monkeypatch):
    asked = []

    @few_shot_method("stops", transductive=False, uses_names=True)
    def stops(support, query, names):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return zero_shot(support, query, names)

    monkeypatch.setitem(field.module.ROWS, "zero-shot", stops)
    with pytest.raises(KeyboardInterrupt):
        field("--rows", "zero-shot")
    whole = field("--rows", "zero-shot")
    assert len(asked) == 5 and len(whole) == 8  # two before, the third again, and the fourth


def test_an_encoder_that_reads_more_of_a_text_has_cells_of_its_own(field):
    before = field("--rows", "zero-shot", "--sets", "huffpost")
    both = field("--rows", "zero-shot", "--sets", "huffpost", "--max-tokens", "384")
    assert before.items() <= both.items()
    new = [json.loads(both[path]) for path in both.keys() - before.keys()]
    assert len(new) == len(before) and {cell["max_tokens"] for cell in new} == {384}
    assert len({results.identity(json.loads(cell)) for cell in both.values()}) == len(both)


def test_features_are_kept_apart_by_how_much_of_a_text_was_read(field, monkeypatch, tmp_path):
    read = []

    class Reading(field.module.fd.Encoder):
        model = None

    def encode(model, texts, batch_size):
        read.append(texts)
        return torch.zeros(len(texts), 4)

    monkeypatch.setattr(field.module.fd, "encode", encode)
    for max_tokens in (200, 384, 200):
        encoder = Reading("mpnet", tmp_path, max_tokens)
        assert encoder.frozen is encoder  # what is prepared for it is prepared once
        encoder.kept("some", ["a text"])
    assert read == [["a text"]] * 2  # the third is the first


def test_words_stand_beside_the_features_and_no_test_text_is_counted(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import field_data as fd

    def seen(texts):
        """By an encoder whose own features are known."""
        classes = torch.arange(3)
        dataset = ClassDataset(
            texts, classes.repeat_interleave(2), ["train", "val", "test"], {}, name="some", split_family="bao"
        )
        dataset = replace(dataset, splits=dict(zip(("train", "val", "test"), classes.split(1), strict=True)))
        monkeypatch.setattr(fd, "load", lambda name, family: dataset)
        monkeypatch.setattr(fd.Prepared, "on_validation", lambda self, method: self.space == "raw")
        return fd.prepared("some", "bao", fd.Encoder(f"minilm{fd.WORDS}", tmp_path)).task

    monkeypatch.setattr(fd, "trained_alike", lambda family: [family])
    monkeypatch.setattr(fd.Encoder, "kept", lambda self, name, texts: torch.full((len(texts), 4), 3.0))
    texts = ["the train is late", "a late train", "a valley", "the value", "tests", "the tests"]
    task, other = seen(texts), seen([*texts[:4], "zebra", "zebra tests"])
    of_encoder, words = task.features.split([4, task.features.shape[1] - 4], dim=1)
    assert torch.equal(task.features[:4], other.features[:4])  # what the test texts say has no column
    torch.testing.assert_close(of_encoder, torch.full((6, 4), 0.5))
    torch.testing.assert_close(words.norm(dim=1), torch.full((6,), WEIGHT))
    assert task.names[:, -1].tolist() == [0, 0, 0]
    assert words.shape[1] == 1 + len({"the", "train", "is", "late", "a"})
    assert task.names[0, 4:].count_nonzero() == 1 and not task.names[2, 4:].any()
    plain, with_words = (fd.TunedEncoder(name, "bao", 0, tmp_path) for name in ("mpnet", f"mpnet{fd.WORDS}"))
    assert plain.key == with_words.key and with_words.frozen.has_words and not plain.frozen.has_words


def test_an_encoder_with_words_has_cells_of_its_own(field):
    before = field("--rows", "zero-shot", "--sets", "huffpost")
    both = field("--rows", "zero-shot", "--sets", "huffpost", "--encoders", "minilm + words")
    new = [json.loads(both[path]) for path in both.keys() - before.keys()]
    assert len(new) == len(before) and {cell["encoder"] for cell in new} == {"minilm + words"}


def test_another_setting_is_measured_again(field, monkeypatch):
    row = "balanced soft k-means with names (T)"
    before = field("--rows", row)
    monkeypatch.setitem(field.module.ROWS, row, SoftKMeans(rounds=1))
    after = field("--rows", row)
    changed = [path for path in before if before[path] != after[path]]
    assert len(changed) == 4 and all("balanced" in path.name for path in changed)
    monkeypatch.setitem(field.module.ROWS, "names as examples", NamesAsExamples(weight=1))
    other = field("--rows", row)  # what it is compared with has changed
    assert all(other[path] != after[path] for path in after)


@pytest.mark.slow
def test_what_is_trained_has_a_cell_per_seed(field, monkeypatch):
    quick = replace(
        field.module.ROWS["relational"], make=lambda d: torch_relational(), training={"n_steps": 2}
    )
    monkeypatch.setitem(field.module.ROWS, "relational", quick)
    cells = field("--rows", "relational", "zero-shot", "--seeds", "0", "1", "--shots", "1")
    found = [json.loads(cell) for cell in cells.values()]
    seeds = sorted((c["method"], c["seed"]) for c in found if c["set"] == "reuters")
    assert seeds == [("names as examples", 0), ("relational", 0), ("relational", 1), ("zero-shot", 0)]
    assert all((c["training_seconds"] > 0) == (c["method"] == "relational") for c in found)


def test_what_is_trained_is_shared_by_families_with_the_same_training_classes_alone(field, monkeypatch):
    module, trainings = field.module, []
    quick = replace(module.ROWS["relational"], make=lambda d: trainings.append(1) or torch_relational())
    quick = replace(quick, training={"n_steps": 2})
    monkeypatch.setitem(module.ROWS, "relational", quick)
    assert module.fd.trained_alike("metaprompting") == ["bao", "metaprompting"]
    assert module.fd.trained_alike("metaprompter") == ["metaprompter"]
    row = ("--rows", "relational", "--shots", "1", "--seeds", "0", "--families")
    found = {family: len(field(*row, family)) and len(trainings) for family in module.fd.FAMILIES}
    assert found == {"bao": 1, "metaprompting": 1, "metaprompter": 2}
    keys = {family: module.fd.TunedEncoder("mpnet", family, 0).key for family in module.fd.FAMILIES}
    assert keys["bao"] == keys["metaprompting"] != keys["metaprompter"]


def test_a_tuned_encoder_has_cells_of_its_own_for_every_seed_and_family(field, monkeypatch):
    """Models on it are trained on features of the frozen one, and it is compared with itself."""
    module, trained_on = field.module, []
    from field_rows import Trained

    model = Trained(make=lambda d: torch_relational(), training={})
    monkeypatch.setattr(
        type(model), "__call__", lambda self, tasks, seed: trained_on.append(len(tasks)) or zero_shot
    )
    monkeypatch.setitem(module.ROWS, "relational", model)
    seen = []

    def prepared(name, family, encoder):
        seen.append((encoder.key, encoder.tuned))
        return small(module.fd, name)

    monkeypatch.setattr(module.fd, "prepared", prepared)
    rows = ("--rows", "zero-shot", "relational", "--shots", "1", "--seeds", "0", "1")
    field("--families", "metaprompting", *rows[:2], "--shots", "1")  # frozen: must not be taken for tuned
    both = field("--tuned", "--encoders", "minilm", "mpnet", *rows)
    cells = [json.loads(cell) for path, cell in both.items() if "lora" in path.name]
    found = sorted((c["set"], c["method"], c["seed"]) for c in cells)
    methods = ("names as examples", "relational", "zero-shot")
    twice = [(s, m, k) for s in ("huffpost", "reuters") for m in methods for k in (0, 1) for _ in range(2)]
    assert found == twice  # with both encoders
    steps = {name: how["n_steps"] for name, how in module.fd.TUNING.items()}
    assert all(cell["tuned"] == f"LoRA, {steps[cell['encoder']]} steps" for cell in cells)
    tuned = {key for key, kind in seen if kind != "frozen"}
    assert len(tuned) == 4 and all(str(steps[key.split("-")[0]]) in key for key in tuned)
    assert len(trained_on) == 4 and {("minilm", "frozen"), ("mpnet", "frozen")} <= set(seen)


def torch_relational():
    from fewshot_lib.graphs import RelationalNetwork

    return RelationalNetwork()


def test_more_texts_later_come_on_top_of_the_first_ones(field, monkeypatch):
    fd = field.module.fd
    dataset = small(fd, "huffpost").task.dataset
    monkeypatch.setattr(fd, "BLOCK", 5)
    monkeypatch.setattr(fd, "OTHERS", 5)
    monkeypatch.setattr(fd, "TEXTS", {"huffpost": 10})
    few = fd.blocks(dataset)
    assert {c: sum(number_of == c for number_of, _ in few) for c in range(18)} == {
        c: 1 + (c >= 12) for c in range(18)
    }
    monkeypatch.setattr(fd, "TEXTS", {"huffpost": 20})
    many = fd.blocks(dataset)
    assert all(torch.equal(rows, many[block]) for block, rows in few.items())
    rows = torch.cat(list(many.values()))
    assert len(rows.unique()) == len(rows) == len(fd.thinned(dataset)) == 12 * 5 + 6 * 20
    assert torch.equal(fd.thinned(dataset).labels, dataset.labels[rows])


def test_another_choice_has_other_texts_of_the_test_classes_alone(field, monkeypatch):
    fd = field.module.fd
    dataset = small(fd, "huffpost").task.dataset
    monkeypatch.setattr(fd, "TEXTS", {"huffpost": 7})
    assert fd.n_choices(dataset) == 3  # of 22 texts
    found = [torch.cat(list(fd.blocks(dataset, choice).values())) for choice in range(3)]
    test = [rows[torch.isin(dataset.labels[rows], dataset.classes("test"))] for rows in found]
    others = [rows[torch.isin(dataset.labels[rows], dataset.classes("test"), invert=True)] for rows in found]
    assert len(torch.cat(test).unique()) == 3 * 6 * 7
    assert torch.equal(others[0], others[1]) and torch.equal(others[0], others[2])
    assert torch.equal(fd.thinned(dataset, 2).labels, dataset.labels[found[2]])
    monkeypatch.setattr(fd, "TEXTS", {"huffpost": 100})
    assert fd.n_choices(dataset) == 1


def test_the_page_of_other_choices_has_what_was_measured_and_its_first_is_that_of_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import field_choices

    lines = field_choices.read_lines(field_choices.TABLE)
    assert field_choices.page(lines) == field_choices.PAGE.read_text(encoding="utf-8")
    published = {
        (cell["set"], cell["method"], cell["shots"]): cell["mean"]
        for cell in results.read_table(ROOT / results.TABLE)
        if (cell["family"], cell["encoder"], cell["tuned"]) == ("bao", "minilm", "frozen")
        and not cell["seed"]
    }
    firsts = [line for line in lines if line["choice"] == "0"]
    assert len(firsts) == 4 * 2 * 5
    for line in firsts:
        known = published[line["set"], line["method"], int(line["shots"])]
        assert float(line["mean"]) == pytest.approx(known, abs=0.01), line
