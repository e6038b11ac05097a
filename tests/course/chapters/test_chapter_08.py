"""Chapter 08: every class has one place among the tasks, a poor task is poor, and the figures count right."""

import pytest
import torch

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.course.answers import wrap_up_3
from fewshot_lib.course.chapters import chapter_08 as chapter
from fewshot_lib.course.measured import measured_table
from fewshot_lib.course.plots import plt
from fewshot_lib.data import ClassDataset
from fewshot_lib.graphs import Combined, GATTransformer, RelationalNetwork
from fewshot_lib.multitask import Task
from fewshot_lib.prototypes import cosine_prototypes


def dataset(n_train, domains, n_val=4, n_test=6, each=8):
    """Classes of two-word texts; the training classes have the given domains in turn."""
    n = n_train + n_val + n_test
    labels = torch.arange(n).repeat_interleave(each)
    ends = (0, n_train), (n_train, n_train + n_val), (n_train + n_val, n)
    splits = {name: torch.arange(*end) for name, end in zip(("train", "val", "test"), ends, strict=True)}
    where = [domains[c % len(domains)] if c < n_train else "elsewhere" for c in range(n)]
    texts = [f"text {i}" for i in range(len(labels))]
    return ClassDataset(texts, labels, [f"class {c}" for c in range(n)], domains=where, splits=splits)


@pytest.mark.parametrize(
    ("n_train", "domains", "n_way", "names"),
    [
        (30, ["a", "b"], 3, {"a", "b"}),
        (30, [""], 3, {"group 0", "group 1", "group 2"}),
        (6, ["a", "b"], 3, {"group 0", "group 1"}),  # too few: they share the classes to be judged by
    ],
)
def test_a_task_never_tests_what_it_trained_on_and_the_test_split_is_left_alone(
    n_train, domains, n_way, names
):
    ds = dataset(n_train, domains)
    plan = chapter.plan_tasks(ds, n_way, seed=0)
    assert set(plan.tasks) == names
    own = [set(split["train"].tolist()) for split in plan.tasks.values()]
    assert sum(map(len, own)) == len(set().union(*own))  # no class is trained on in two tasks
    judged = {c for split in plan.tasks.values() for part in ("val", "test") for c in split[part].tolist()}
    assert not judged & set().union(*own) and not judged & set(ds.classes("test").tolist())
    assert all(len(split["test"]) >= plan.n_way >= 2 for split in plan.tasks.values())
    assert {c for split in plan.unseen.values() for c in split["test"].tolist()} == set(
        range(n_train + 4, n_train + 10)
    )
    assert plan.table(ds).count("\n") == 1 + len(plan.tasks) + len(plan.unseen)
    assert plan.fresh == plan.tasks  # the other splits have no domain that is large enough


def test_a_fresh_task_is_a_large_domain_whose_classes_are_in_no_task():
    plan = chapter.plan_tasks(dataset(30, ["a", "b"], n_val=8, n_test=9), n_way=3, seed=0)
    (split,) = plan.fresh.values()  # both splits have the same domain; the last one counts
    parts = [set(part.tolist()) for part in split.values()]
    assert list(plan.fresh) == ["elsewhere"] and set().union(*parts) == set(range(38, 47))
    assert sum(map(len, parts)) == 9 and min(len(split["train"]), len(split["test"])) >= 3
    grouped = chapter.plan_tasks(dataset(30, [""], n_val=8, n_test=4), n_way=3, seed=0)
    assert grouped.fresh == grouped.tasks  # the groups hold the validation classes


def test_a_poor_task_has_few_classes_of_few_examples_and_keeps_the_features_of_its_rows():
    ds = dataset(10, ["a"])
    features = torch.arange(float(len(ds))).unsqueeze(1)
    poor = chapter.poor(Task("a", ds, features), n_classes=3, n_examples=5)
    counts = poor.dataset.counts
    assert counts[:10].tolist() == [5] * 3 + [0] * 7 and counts[10:].tolist() == [8] * 10
    assert poor.classes("train").tolist() == [0, 1, 2] and poor.classes("test").tolist() == list(
        range(14, 20)
    )
    assert [f"text {int(row)}" for row in poor.features[:, 0]] == poor.dataset.inputs


@pytest.mark.parametrize("each", [7, 8])
def test_halves_share_their_training_classes_and_no_example(each):
    ds = dataset(10, ["a"], each=each)
    task = Task("a", ds, torch.arange(float(len(ds))).unsqueeze(1))
    (first,), (second,) = chapter.halves([task], n_shot=2)
    assert torch.equal(first.classes("train"), second.classes("test"))
    rows = torch.cat([first.features, second.features])[:, 0]
    assert torch.equal(rows.sort().values, task.features[:, 0])
    assert min(part.dataset.counts.min() for part in (first, second)) == each // 2
    assert chapter.halves([task], n_shot=each // 2) == [[], []]


def test_links_are_the_other_episodes_of_a_task_or_those_of_the_next():
    ds = dataset(10, ["a"])
    features = torch.randn(len(ds), 4, generator=torch.Generator().manual_seed(0))
    on = [Task(name, ds, features) for name in "ab"]
    episodes = {
        name: EpisodeSampler(ds.labels, torch.arange(10), 3, 2, 1, seed=i).sample(4)
        for i, name in enumerate("ab")
    }
    nodes = {name: features[e.support].mean((1, 2)) for name, e in episodes.items()}
    for same in (True, False):
        (joint, first), _ = chapter.with_links(on, episodes, 4, same)
        assert torch.equal(joint.query, features[episodes["a"].query])
        others = nodes["a" if same else "b"]
        for e in range(4):
            expected = (nodes["a"][e] + others.sum(0) - others[e]) / 4
            torch.testing.assert_close(first[e], expected)
    assert torch.equal(next(chapter.with_links(on, episodes, 1, same=False))[1], nodes["a"])


def test_the_size_of_the_poor_task_is_the_best_of_the_page():
    gains = {
        (*list(row.values())[:2], k): float(row[k].split()[0])
        for row in measured_table("poor_tasks")
        for k in ("gain, 1-shot", "gain, 5-shot")
    }
    assert max(gains, key=lambda size: gains[size]) == ("5", "10", "gain, 5-shot")  # 10: 5 shots, 5 queries


def test_the_parts_of_the_model_are_all_of_it():
    model = Combined(RelationalNetwork(), GATTransformer(n_features=12))
    parts = chapter.parts_of(model)
    assert sum(count for count, _ in parts.values()) == sum(p.numel() for p in model.parameters())
    texts = " ".join(text.get_text() for text in chapter.model_figure(parts).axes[0].texts)
    assert all(f"{count:,}" in texts for count, _ in parts.values())


def test_the_drawn_numbers_are_the_given_ones():
    table = torch.tensor([[0.25, -1.5], [2.0, 0.0]])
    ax = chapter.steps_figure([("left", table), ("right", table.T)], ["softmax"], ["one", "two"]).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("-1.50") == texts.count("0.25") == 2 and {"softmax", "one", "two"} < set(texts)
    attention = torch.tensor([[0.5, 0.4, 0.1], [0.3, 0.6, 0.1], [0.05, 0.15, 0.8]])
    texts = {text.get_text() for text in chapter.links_figure(attention, ["A", "A", "B"]).axes[0].texts}
    assert {"0.40", "0.30", "0.10", "0.15", "0.05", "reads itself: 0.80"} <= texts


def test_a_step_is_drawn_with_what_each_task_gets_of_it():
    downhill = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    bars = chapter.wedge_figure(downhill, {"sum": torch.tensor([0.5, -0.25])}).axes[1].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([0.5, -0.25])


def test_panels_on_one_scale_end_at_the_same_numbers():
    fig, (left, right) = plt.subplots(1, 2)
    left.set_xlim(-1, 2)
    right.set_xlim(-3, 1)
    assert {ax.get_xlim() for ax in chapter.on_one_scale(fig).axes} == {(-3, 2)}


def test_models_and_lines_stand_at_their_means():
    ds = dataset(10, ["a"])
    features = torch.randn(len(ds), 4, generator=torch.Generator().manual_seed(0))
    episodes = EpisodeSampler(ds.labels, ds.classes("test"), 3, 1, 2, seed=0).sample(5)
    result = evaluate(cosine_prototypes, episodes, features)
    ax = chapter.memory_figure({"prototypes": (result, result)}, supervised=0.75).axes[0]
    points = [line.get_xydata()[0].tolist() for line in ax.lines if len(line.get_xydata()) == 1]
    assert pytest.approx([100 * result.mean] * 2) in points
    assert 75 in {float(line.get_ydata()[0]) for line in ax.lines}
    gains = {"same": [torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])]}
    assert chapter.links_curve((1, 8), gains).axes[0].lines[0].get_ydata().tolist() == [2, 3]


@pytest.mark.parametrize("letter", "ABCD")
def test_the_models_that_listen_to_other_queries_are_those_of_the_quiz(letter):
    draw = torch.Generator().manual_seed(0)
    support, query = torch.randn(1, 3, 2, 6, generator=draw), torch.randn(1, 4, 6, generator=draw)
    facts = {"use_names": False, "transductive": letter in "BD"}
    model = RelationalNetwork(**facts) if letter in "AB" else GATTransformer(6, **facts)
    with torch.no_grad():
        for parameter in model.parameters():  # as after a training
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        changed = query.clone()
        changed[0, 3] += 2
        before, after = (model.eval()(support, q)[0, :3] for q in (query, changed))
    assert torch.allclose(before, after, atol=1e-5) == (letter not in wrap_up_3.listeners())


def test_small_batches_of_one_task_agree_as_far_as_their_gradients_do():
    ways = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.6, 0.8])}
    families = chapter.agreement(lambda task: [ways[task], -ways[task]], ["a", "b"], draws=2)
    assert families == pytest.approx([1, 0.6, 1, 0.6])  # same and different tasks, of two families
    assert "| before | 2 | +1.00 | +0.60 |" in chapter.agreement_table({("before", 2): families})


def test_a_supervised_classifier_knows_the_classes_that_it_was_trained_on():
    ds = dataset(6, ["a"])
    known = Task("a", ds, torch.eye(ds.n_classes)[ds.labels])
    sampled = EpisodeSampler(ds.labels, ds.classes("train"), 3, 1, 2, seed=0).sample(4)
    assert chapter.supervised([known], [known], {"a": sampled}).tolist() == [1] * 4
    result = evaluate(cosine_prototypes, sampled, known.features)
    assert chapter.over_tasks({"a": result, "b": result}).n_episodes == 8
