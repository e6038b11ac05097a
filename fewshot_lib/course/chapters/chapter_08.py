"""Chapter 08: how the classes become tasks, and the schemes of attention, block, links and steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Wedge
from torch import Tensor, nn

from fewshot_lib.core import EpisodeResults, Episodes, PairedDifference, mean_interval, over_seeds
from fewshot_lib.course.contest import n_numbers
from fewshot_lib.course.lesson import Lesson
from fewshot_lib.course.plots import COLOURS, MARKERS, difference_plot
from fewshot_lib.course.records import markdown
from fewshot_lib.course.schemes import arrow, box
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4, TextEncoder, encode, extract_features
from fewshot_lib.graphs import Combined
from fewshot_lib.multitask import JointEpisodes, Task, evaluate_tasks, joined, task_episodes
from fewshot_lib.prototypes import centred, name_features, train_prototypical

# What a variant of the ablation is, by what it lacks
LEFT = {
    "− the whole GAT-Transformer": "= the relational network alone",
    "− the relational network": "= the GAT-Transformer alone",
}
Splits = dict[str, dict[str, Tensor]]  # task -> split -> its classes

# How the classes become tasks


@dataclass(frozen=True)
class Plan:
    """Which classes each task trains on, is chosen by and is tested on; ``unseen`` are tested on only.

    fresh: domains of the other splits that are large enough to be tasks, divided in the same way; where there
    are none, the tasks themselves. what: a sentence about where the tasks come from. n_way, train_ways: that
    all tasks have classes for.
    """

    tasks: Splits
    unseen: Splits
    fresh: Splits
    what: str
    n_way: int
    train_ways: int

    def table(self, dataset: ClassDataset) -> str:
        """The tasks and the sizes of their splits, as markdown."""
        lines = ["| task | classes to train on | to choose by | to test on | for example |", "|---" * 5 + "|"]
        for name, split in (self.tasks | self.unseen).items():
            n_train, n_val, n_test = (len(split.get(part, ())) for part in ("train", "val", "test"))
            examples = ", ".join(dataset.class_names[c] for c in split["test"][:2].tolist())
            cells = [name, n_train or "never trained on", n_val or "–", n_test, examples]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        return "\n".join(lines)


def plan_tasks(dataset: ClassDataset, n_way: int, seed: int) -> Plan:
    """A task per domain of the training split; groups of classes where no two domains are large enough."""
    draw, need = torch.Generator().manual_seed(seed), 2 * n_way + 2  # to train, to test, 2 to choose by
    groups, what = _domains(dataset, "train", need), "one task per domain"
    rest = torch.cat([dataset.classes(split) for split in ("train", "val") if split in dataset.splits])
    if len(groups) < 2:
        rest = rest[torch.randperm(len(rest), generator=draw)]
        parts = rest.tensor_split(max(2, min(3, len(rest) // need)))
        groups = {f"group {i}": part for i, part in enumerate(parts)}
        what = "no two domains are large enough, so groups of classes drawn at random"
    if min(map(len, groups.values())) < 6:  # too few to choose by and to test on in each
        tasks = _sharing(rest, n_way)
        what += ", which share the classes to choose by and to test on"
    else:
        tasks = {name: _divided(classes, n_way, draw) for name, classes in groups.items()}
    foreign = _domains(dataset, "test", n_way) or {"test classes": dataset.classes("test")}
    others = _others(dataset, torch.cat([c for split in tasks.values() for c in split.values()]), need)
    draw.manual_seed(seed)
    fresh = {name: _divided(classes, n_way, draw) for name, classes in others.items()} or tasks
    divided = [*tasks.values(), *fresh.values()]
    ways, train_ways = (min(n_way, *(len(split[part]) for split in divided)) for part in ("test", "train"))
    unseen = {name: {"test": c} for name, c in foreign.items()}
    return Plan(tasks, unseen, fresh, what, ways, train_ways)


def _domains(dataset: ClassDataset, split: str, least: int) -> dict[str, Tensor]:
    """Domain -> its classes in the split, for the six largest domains that have enough of them."""
    found: dict[str, list[int]] = {}
    for c in dataset.classes(split).tolist():
        found.setdefault(dataset.domains[c], []).append(c)
    largest = sorted(found, key=lambda domain: -len(found[domain]))[:6]
    return {name: torch.tensor(found[name]) for name in largest if name and len(found[name]) >= least}


def _others(dataset: ClassDataset, taken: Tensor, least: int) -> dict[str, Tensor]:
    """The large domains of the splits of which no class is taken."""
    found: dict[str, Tensor] = {}
    for split in ("val", "test"):
        if split in dataset.splits and not torch.isin(dataset.classes(split), taken).any():
            found |= _domains(dataset, split, least)
    return found


def _divided(classes: Tensor, n_way: int, draw: torch.Generator) -> dict[str, Tensor]:
    """The classes of a task, split anew: half to train on, a fifth to choose by, the rest to test on."""
    n = len(classes)
    n_val = max(2, round(0.2 * n))
    n_test = max(round(0.3 * n), min(n_way, (n - n_val) // 2))
    parts = classes[torch.randperm(n, generator=draw)].split([n - n_val - n_test, n_val, n_test])
    return dict(zip(("train", "val", "test"), parts, strict=True))


def _sharing(classes: Tensor, n_way: int) -> Splits:
    """Two tasks from 8 to 11 classes: each has its own to train on, and both share the others."""
    n_test = min(n_way, len(classes) - 6)
    val, test, rest = classes[:2], classes[2 : 2 + n_test], classes[2 + n_test :]
    # test: in another order, so that the two tasks are not asked the same questions
    return {
        f"group {i}": {"train": own, "val": val, "test": test.roll(i)}
        for i, own in enumerate(rest.tensor_split(2))
    }


def encoded(lesson: Lesson, dataset: ClassDataset, n_query: int) -> tuple[Tensor, Tensor | None]:
    """Features (n, d) of the examples and (C, d) of the names; for images of a Conv4 trained on ``train``."""
    if dataset.is_text:
        text_encoder = TextEncoder().to(lesson.device)
        return extract_features(text_encoder, dataset), name_features(text_encoder, dataset)
    conv4 = Conv4(in_channels=torch.as_tensor(dataset.inputs).shape[1]).to(lesson.device)
    steps, ways = lesson.pick(smoke=10, laptop=150, gpu=2000), min(20, len(dataset.classes("train")))
    train_prototypical(conv4, dataset, steps, n_way=ways, n_query=n_query, seed=lesson.seed, label="Conv4")
    return encode(conv4, torch.as_tensor(dataset.inputs)), None


def prepared(
    lesson: Lesson, dataset: ClassDataset, plan: Plan
) -> tuple[list[Task], list[Task], list[Task], dict[str, Any]]:
    """The plan's tasks, its unseen and its fresh ones, with features; and what a training step deals.

    What is computed of examples (the mean, for images the encoder) sees only classes that the tasks train on.
    The sizes, for ``TaskSampler``: 5 queries and up to 5 shots, or as many as half of the smallest class has.
    """
    seen = torch.cat([split["train"] for split in plan.tasks.values()])
    learning = replace(dataset, splits={"train": seen})
    splits = [*plan.tasks.values(), *plan.unseen.values(), *plan.fresh.values()]
    half = min(int(dataset.counts[classes].min()) for split in splits for classes in split.values()) // 2
    n_query = max(1, min(5, lesson.n_query, half - 1))
    sizes = {"n_way": plan.train_ways, "n_shot": (1, max(1, min(5, half - n_query))), "n_query": n_query}
    features = centred(learning, *encoded(lesson, learning, n_query))

    def tasks_of(splits: Splits) -> list[Task]:
        return [
            Task(name, replace(dataset, splits=split, name=f"{dataset.name}/{name}"), *features)
            for name, split in splits.items()
        ]

    return tasks_of(plan.tasks), tasks_of(plan.unseen), tasks_of(plan.fresh), sizes


def part_of(task: Task, kept: Tensor, splits: Mapping[str, Tensor]) -> Task:
    """The same task with some of the examples only, kept (n,) bool, and with other splits."""
    rows, inputs = kept.nonzero()[:, 0], task.dataset.inputs
    few = inputs[rows] if isinstance(inputs, Tensor) else [inputs[i] for i in rows.tolist()]
    dataset = replace(task.dataset, inputs=few, labels=task.dataset.labels[rows], splits=dict(splits))
    return replace(task, dataset=dataset, features=task.features[rows.to(task.features.device)])


def halves(tasks: Sequence[Task], n_shot: int) -> list[list[Task]]:
    """Tasks to train on and to test on: the same training classes, every other example of each.

    Two empty lists where a half is too small for a support and a query.
    """
    smallest = min(int(task.dataset.counts[task.classes("train")].min()) for task in tasks) // 2
    if smallest <= max(1, n_shot):
        return [[], []]
    labels = tasks[0].dataset.labels
    order = labels.argsort(stable=True)
    odd = torch.zeros(len(labels), dtype=torch.bool)
    odd[order[1::2]] = True
    return [
        [part_of(task, odd == i, {split: task.classes("train")}) for task in tasks]
        for i, split in enumerate(("train", "test"))
    ]


def poor(task: Task, n_classes: int, n_examples: int, seed: int = 0) -> Task:
    """The same task with so few classes to train on, of so few examples each; the other splits stay."""
    draw = torch.Generator().manual_seed(seed)
    classes, labels = task.classes("train"), task.dataset.labels
    kept = ~torch.isin(labels, classes)
    for c in classes[:n_classes].tolist():
        rows = (labels == c).nonzero()[:, 0]
        kept[rows[torch.randperm(len(rows), generator=draw)[:n_examples]]] = True
    return part_of(task, kept, {**task.dataset.splits, "train": classes[:n_classes]})


# What the model is made of


def parts_of(model: Combined) -> dict[str, tuple[int, str]]:
    """Part -> how many numbers it learns, and what it is for."""
    net, blocks = model.projected, list[Any](model.projected.blocks)
    ends = [net.enter, net.kinds, net.leave, net.to_class, net.to_query]
    parts: dict[str, tuple[list[Any], str]] = {
        "relational network": ([model.relational], "how to weigh names and examples"),
        "features → nodes → features": (ends, "directions of the feature space"),
        "graph attention (GATv2)": ([b.local for b in blocks], "reads along the edges"),
        "attention over all nodes": ([b.overall for b in blocks], "reads the whole episode"),
        "layer norms and MLPs": (
            [module for b in blocks for module in (b.norms, b.mlp)],
            "what a node makes of what it has read",
        ),
        "gate": ([model.gate_of_task], "how much of which family"),
    }
    return {name: (sum(map(_size, modules)), what_for) for name, (modules, what_for) in parts.items()}


def _size(module: nn.Module | None) -> int:
    return 0 if module is None else n_numbers(module)


# Schemes


def model_figure(parts: Mapping[str, tuple[int, str]]) -> Figure:
    """The whole model as boxes, each with the numbers that it learns: ``parts_of``."""
    n = {name: f"{count:,}" for name, (count, _) in parts.items()}
    fig, ax = plt.subplots(figsize=(10.5, 4), layout="constrained")
    grey, blue, orange, green = "#eeeeee", "#cfe5f5", "#fbe3bd", "#cdeee2"
    box(ax, 0, 1.5, "episode:\nnames, examples,\nqueries", grey, 2.0, 1.3, 10)
    box(ax, 5.2, 3.4, f"relational network, {n['relational network']}", green, 6.4, 0.8, 10)
    into = int(parts["features → nodes → features"][0])
    box(ax, 2.5, 0.9, f"features → nodes\n(and way back)\n{into:,}", grey, 1.9, 1.3, 10)
    box(ax, 5.2, 1.7, f"GATv2, along edges\n{n['graph attention (GATv2)']}", blue, 2.4, 0.8, 10)
    box(ax, 5.2, 0.1, f"attention, all nodes\n{n['attention over all nodes']}", orange, 2.4, 0.8, 10)
    ax.text(7.05, 0.9, "+", fontsize=18, ha="center", va="center")
    box(ax, 8.3, 0.9, f"norm, MLP\n{n['layer norms and MLPs']}", grey, 1.5, 0.8, 10)
    box(ax, 10.9, 2.2, f"gate γ, {n['gate']}", grey, 1.5, 0.8, 10)
    box(ax, 13.1, 2.2, "logits", grey, 1.2, 0.8, 10)
    for start, end in (
        ((1.0, 2.0), (2.0, 3.4)),
        ((1.0, 1.2), (1.55, 0.9)),
        ((3.45, 1.1), (4.0, 1.7)),
        ((3.45, 0.7), (4.0, 0.1)),
        ((6.4, 1.7), (6.85, 1.05)),
        ((6.4, 0.1), (6.85, 0.75)),
        ((7.25, 0.9), (7.55, 0.9)),
        ((9.05, 0.9), (10.15, 1.9)),
        ((8.4, 3.4), (10.15, 2.5)),
        ((11.65, 2.2), (12.5, 2.2)),
    ):
        arrow(ax, start, end)
    frame: dict[str, Any] = {"fill": False, "linestyle": "--", "edgecolor": "dimgrey"}
    ax.add_patch(FancyBboxPatch((3.65, -0.55), 5.6, 2.95, boxstyle="round,pad=0.05", **frame))
    ax.text(
        6.45, -0.95, "one block; there are two (numbers: of both)", ha="center", fontsize=10, color="dimgrey"
    )
    ax.text(9.75, 3.25, "1 − γ", fontsize=11)
    ax.text(9.75, 1.05, "γ", fontsize=11)
    ax.set(xlim=(-1.15, 13.9), ylim=(-1.2, 4))
    ax.axis("off")
    return fig


def steps_figure(tables: Sequence[tuple[str, Tensor]], between: Sequence[str], rows: Sequence[str]) -> Figure:
    """Matrices with their numbers, from left to right; an arrow with its operation between two of them."""
    widths = [table.shape[1] for _, table in tables]
    fig, ax = plt.subplots(figsize=(0.75 * sum(widths) + 1.25 * len(tables), 2.5), layout="constrained")
    x = 0.0
    for number, (title, table) in enumerate(tables):
        ax.text(x + widths[number] / 2, 3.35, title, ha="center", fontsize=11)
        for row, values in enumerate(table.tolist()):
            for column, value in enumerate(values):
                shade = COLOURS[0] if value > 0 else COLOURS[4]
                strength = 0.08 + 0.45 * min(abs(value) / 2, 1)
                ax.add_patch(
                    plt.Rectangle((x + column, 2 - row), 1, 1, facecolor=shade, alpha=strength, lw=0)
                )
                ax.add_patch(plt.Rectangle((x + column, 2 - row), 1, 1, fill=False, edgecolor="black"))
                ax.text(x + column + 0.5, 2.5 - row, f"{value:.2f}", ha="center", va="center", fontsize=10)
        x += widths[number]
        if number < len(between) and between[number]:
            arrow(ax, (x + 0.15, 1.5), (x + 1.65, 1.5))
            ax.text(x + 0.9, 1.75, between[number], ha="center", fontsize=9)
            x += 1.8
        else:
            x += 0.5
    for row, name in enumerate(rows):
        ax.text(-0.2, 2.5 - row, name, ha="right", va="center", fontsize=10)
    ax.set(xlim=(-1.8, x + 0.1), ylim=(-0.1, 3.8), aspect="equal")
    ax.axis("off")
    return fig


def links_figure(attention: Tensor, names: Sequence[str]) -> Figure:
    """Three task nodes and the episodes below them: attention (3, 3), row i is what node i reads."""
    fig, ax = plt.subplots(figsize=(8.5, 3.2), layout="constrained")
    for i, name in enumerate(names):
        box(ax, 4 * i, 2, f"task node {i + 1}\n{name}", "#f3dceb", 2.1, 0.9, 10)
        for j in range(5):
            ax.plot(4 * i - 0.8 + 0.4 * j, 0.4, marker=MARKERS[0], color=COLOURS[i], markersize=8)
            arrow(
                ax, (4 * i - 0.8 + 0.4 * j, 0.55), (4 * i - 0.3 + 0.15 * j, 1.5), color="grey", linewidth=0.8
            )
        ax.text(4 * i, -0.1, "5 examples", ha="center", fontsize=9)
        ax.text(4 * i, 1.68 + 1.0, f"reads itself: {attention[i, i]:.2f}", ha="center", fontsize=9)
    for i, j in ((0, 1), (1, 0), (1, 2), (2, 1)):
        up = 2.2 if j < i else 1.8
        step = 1.1 if j > i else -1.1  # node i reads node j: the arrow comes from j
        weight = float(attention[i, j])
        arrow(ax, (4 * j - step, up), (4 * i + step, up), linewidth=0.5 + 6 * weight)
        ax.text(2 * (i + j), up + (0.15 if up > 2 else -0.42), f"{weight:.2f}", ha="center", fontsize=10)
    for i, j, places, top in ((0, 2, (0.3, 7.7), 3.1), (2, 0, (8.3, -0.3), 3.6)):  # over the one between
        weight, (to, start) = 0.5 + 6 * float(attention[i, j]), places
        ax.plot([start, start, to], [2.95, top, top], color="black", linewidth=weight)
        arrow(ax, (to, top), (to, 2.95), linewidth=weight)
        ax.text(4, top + 0.08, f"{attention[i, j]:.2f}", ha="center", fontsize=10)
    ax.set(xlim=(-1.5, 9.5), ylim=(-0.4, 4))
    ax.axis("off")
    return fig


def wedge_figure(downhill: Tensor, steps: Mapping[str, Tensor]) -> Figure:
    """Two tasks' ways down (2, 2), the wedge where both losses fall, and steps (2,) with their gains."""
    styles = ("black", "-"), (COLOURS[1], ":"), (COLOURS[2], "--"), (COLOURS[3], "-.")
    fig, (ax, bars) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", width_ratios=[1.5, 1])
    angle = float(torch.atan2(downhill[1, 1], downhill[1, 0]).rad2deg())
    ax.add_patch(Wedge((0, 0), 6, angle - 90, 90, color="lightgrey", alpha=0.5))
    for number, way in enumerate(downhill.tolist()):
        arrow(ax, (0, 0), tuple(way), color=COLOURS[(0, 4)[number]], linewidth=3)
        place: dict[str, Any] = {"textcoords": "offset points", "xytext": (4, 6), "fontsize": 9}
        ax.annotate(f"task {number + 1}", way, **place)
    for number, ((name, step), (colour, style)) in enumerate(zip(steps.items(), styles, strict=False)):
        ax.plot([0, float(step[0])], [0, float(step[1])], color=colour, linestyle=style, lw=2, label=name)
        ax.plot(*step.tolist(), marker=MARKERS[number], color=colour)
        gains = (downhill / downhill.norm(dim=1, keepdim=True) @ step).tolist()
        pair, colours = [number - 0.2, number + 0.2], [COLOURS[0], COLOURS[4]]
        bars.bar(pair, gains, 0.36, color=colours, hatch=["", "//"], edgecolor="black")
    ax.set(xlim=(-3.2, 3.2), ylim=(-0.6, 3.2), aspect="equal", xlabel="parameter 1", ylabel="parameter 2")
    ax.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    bars.axhline(0, color="black", linewidth=1)
    bars.set(xticks=range(len(steps)), xticklabels=list(steps), ylim=(-1.2, 2.6))
    bars.set_ylabel("progress along each task's way down\n(plain: task 1, hatched: task 2)", fontsize=9)
    return fig


# Measurements


def over_tasks(results: Mapping[str, EpisodeResults]) -> EpisodeResults:
    """One result from those of all tasks, equally many episodes of each."""
    first, rows = next(iter(results.values())), [result.accuracies for result in results.values()]
    fingerprint = " ".join(result.episodes_fingerprint for result in results.values())
    return replace(first, accuracies=torch.cat(rows, 1), episodes_fingerprint=fingerprint)


def by_task(
    models: Mapping[str, Sequence[Any]], on: Sequence[Task], episodes: Mapping[str, Episodes]
) -> dict[str, EpisodeResults]:
    """The results of each task, by name: of its own models, a model per training seed."""
    return {
        task.name: over_seeds(
            [evaluate_tasks(model, [task], episodes, batch_size=25)[task.name] for model in models[task.name]]
        )
        for task in on
    }


@dataclass(frozen=True)
class Exam:
    """What a lesson's tasks are tested with: the same new episodes for every model, and the record of it."""

    lesson: Lesson
    plan: Plan
    dataset: ClassDataset

    def episodes(
        self,
        on: Sequence[Task],
        split: str = "test",
        n_shot: int | None = None,
        number: int | None = None,
    ) -> dict[str, Episodes]:
        """So many episodes in all (by default half of the lesson's), equally many of every task.

        Where a class is too small for the lesson's queries beside so many shots, there are fewer.
        """
        of_each = max(2, (number or self.lesson.n_episodes // 2) // len(on))
        shots = n_shot or self.lesson.n_shot
        smallest = min(int(task.dataset.counts[task.classes(split)].min()) for task in on)
        queries = min(self.lesson.n_query, smallest - shots)
        return task_episodes(on, split, self.plan.n_way, shots, queries, of_each, self.lesson.seed)

    def record(self, name: str, result: EpisodeResults, note: str) -> None:
        """Tasks with too few classes have fewer ways: another question, which is not recorded."""
        if result.n_way == self.lesson.n_way:
            self.lesson.record(name, result, dataset=self.dataset, note=note)


def supervised(on: Sequence[Task], asked: Sequence[Task], episodes: Mapping[str, Episodes]) -> Tensor:
    """Accuracy per episode of a logistic regression on all training examples of all tasks ``on``.

    In an episode it chooses among the classes of the episode.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import: only who calls this waits

    known = [torch.isin(task.dataset.labels, task.classes("train")) for task in on]
    x = torch.cat([t.features[rows.to(t.features.device)] for t, rows in zip(on, known, strict=True)])
    y = torch.cat([t.dataset.labels[rows] for t, rows in zip(on, known, strict=True)])
    head = LogisticRegression(C=10, max_iter=500).fit(x.cpu(), y)
    column = {int(c): i for i, c in enumerate(head.classes_)}
    right = []
    for task in asked:
        e = episodes[task.name]
        p = torch.tensor(head.predict_proba(task.features[e.query.flatten()].cpu())).view(*e.query.shape, -1)
        ways = e.classes.clone().apply_(column.__getitem__).unsqueeze(1).expand(-1, e.query.shape[1], -1)
        right.append((p.gather(2, ways).argmax(-1) == e.query_labels).double().mean(1))
    return torch.cat(right)


def with_links(
    on: Sequence[Task], episodes: Mapping[str, Episodes], n_linked: int, same: bool = True
) -> Iterator[tuple[JointEpisodes, Tensor]]:
    """For every task its episodes, and for each the mean task node (E, d) of n_linked episodes.

    These are its own and the next ones: of the same task, or all but its own of the next task.
    """
    joint = {task.name: joined([task], [episodes[task.name]]) for task in on}
    nodes = {name: found.support.mean((1, 2)) for name, found in joint.items()}
    for i, task in enumerate(on):
        own, others = nodes[task.name], nodes[on[(i + 1 - same) % len(on)].name]
        linked = [own, *(others.roll(j, 0) for j in range(1, n_linked))]
        yield joint[task.name], torch.stack(linked).mean(0)


def agreement(
    gradients: Callable[[Any], Sequence[Tensor]], samplers: Sequence[Any], draws: int
) -> list[float]:
    """Mean cosines of two batches' gradients: of the same task and of different ones, family by family.

    gradients: a sampler of one task -> the gradient (P,) of each family on a new batch, of length 1.
    """
    sums: list[Tensor | float] = []
    for _ in range(draws):
        first, second = ([gradients(sampler) for sampler in samplers] for _ in range(2))
        cosines = [
            (torch.stack(a) @ torch.stack(b).T).cpu() / draws
            for a, b in zip(zip(*first, strict=True), zip(*second, strict=True), strict=True)
        ]
        sums = [total + c for total, c in zip(sums or [0.0] * len(cosines), cosines, strict=True)]
    same = torch.eye(len(samplers), dtype=torch.bool)
    return [float(torch.as_tensor(c)[which].mean()) for c in sums for which in (same, ~same)]


def agreement_table(cosines: Mapping[tuple[str, int], Sequence[float]]) -> str:
    """(stage, episodes of a batch) -> cosines of ``agreement``, as markdown."""
    head = ["model", "episodes", "relational: same task", "different tasks", "GAT-Transformer: same task"]
    lines = [
        [stage, str(number), *(f"{value:+.2f}" for value in values)]
        for (stage, number), values in cosines.items()
    ]
    return markdown([*head, "different tasks"], lines)


def ablation_figure(
    against_full: Mapping[str, PairedDifference], against_start: Mapping[str, PairedDifference]
) -> Figure:
    """Every variant against the full model, and against the model before any training."""
    rows = list(against_start)
    labels = [f"{row}\n{LEFT[row]}" if row in LEFT else row for row in rows]
    columns = [[found.get(row) for row in rows] for found in (against_full, against_start)]
    titles = ["Is the part missed?", "Has it learned anything?"]
    fig = difference_plot(columns, labels, titles, ["the full model", "the untrained start"])
    fig.set_size_inches(10.5, 3.9)
    return on_one_scale(fig)


def on_one_scale(fig: Figure) -> Figure:
    """The panels of a figure with one horizontal axis, so that lengths may be compared."""
    limits = [limit for ax in fig.axes for limit in ax.get_xlim()]
    for ax in fig.axes:
        ax.set_xlim(min(limits), max(limits))
    return fig


def memory_figure(models: Mapping[str, tuple[EpisodeResults, EpisodeResults]], supervised: float) -> Figure:
    """Accuracy on new classes and on those that come back, a point per model; a line for ``supervised``."""
    fig, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for number, (name, (new, back)) in enumerate(models.items()):
        known = [0 if result.n_seeds < 2 else 100 * result.ci95 for result in (new, back)]
        style: dict[str, Any] = {
            "fmt": MARKERS[number],
            "color": COLOURS[number],
            "markersize": 9,
            "capsize": 4,
        }
        ax.errorbar(100 * new.mean, 100 * back.mean, known[1], known[0], label=name, **style)
    ax.axhline(100 * supervised, color="black", linestyle="--", linewidth=1)
    ax.axline((50, 50), slope=1, color="grey", linewidth=1)
    ends = [
        end for pair in models.values() for r in pair for end in (r.interval if r.n_seeds > 1 else (r.mean,))
    ]
    limits = 100 * min(*ends, supervised) - 3, 100 * max(*ends, supervised) + 4
    ax.annotate(" supervised on these classes", (limits[0], 100 * supervised + 0.6), fontsize=9)
    ax.set(xlim=limits, ylim=limits, xlabel="accuracy on new classes, in %")
    ax.set_ylabel("accuracy on classes that come back, in %")
    ax.legend(fontsize=9, loc="lower right")
    ax.grid(alpha=0.3)
    return fig


def links_curve(numbers: Sequence[int], gains: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Points gained per episode (n,) against the number of linked episodes, a line per kind of link."""
    fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    for number, (kind, curve) in enumerate(gains.items()):
        ends = torch.tensor([mean_interval(points) for points in curve])
        means = [float(points.mean()) for points in curve]
        ax.plot(numbers, means, color=COLOURS[number], marker=MARKERS[number], label=kind)
        ax.fill_between(numbers, *ends.T.numpy(), color=COLOURS[number], alpha=0.25, linewidth=0)
    ax.axhline(0, color="black", linestyle="--", linewidth=1)
    ax.set(xlabel="linked episodes, the own one included", xscale="log", xticks=numbers, xticklabels=numbers)
    ax.minorticks_off()
    ax.set_ylabel("points gained\n(band: 95 % interval)")
    ax.legend(fontsize=9)
    ax.grid(alpha=0.3)
    return fig
