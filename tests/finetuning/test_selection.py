"""Settings are chosen on validation classes only; the curve over steps is what separate evaluations give."""

from dataclasses import replace

import pytest
import torch

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.finetuning import FineTuning, choose, evaluate_steps, grid
from fewshot_lib.prototypes import cosine_prototypes, simple_shot

LABELS = torch.arange(12).repeat_interleave(10)
FEATURES = torch.eye(12)[LABELS] + 0.6 * torch.randn(120, 12, generator=torch.Generator().manual_seed(0))
DATASET = ClassDataset(
    FEATURES,
    LABELS,
    [f"class {c}" for c in range(12)],
    {"train": torch.arange(4), "val": torch.arange(4, 8), "test": torch.arange(8, 12)},
    name="toy",
)


def episodes(split="val", n_shot=2):
    return EpisodeSampler(LABELS, DATASET.classes(split), 3, n_shot, 5, seed=0).sample(40)


def test_the_best_on_the_validation_episodes_is_chosen():
    random = FineTuning(init="random", steps=0)
    candidates = {"bad": random, "good": cosine_prototypes, "same": FineTuning(steps=0)}
    with pytest.raises(ValueError, match="`candidates` holds no named method"):
        choose({}, episodes(), FEATURES, DATASET)
    choice = choose(candidates, episodes(), FEATURES, DATASET)
    assert choice.method is cosine_prototypes and choice.name == "good"
    assert list(choice.results) == list(candidates)
    for name, method in candidates.items():
        assert torch.equal(choice.results[name].accuracies, evaluate(method, episodes(), FEATURES).accuracies)
    lines = str(choice).splitlines()
    assert [line.split()[0] for line in lines] == ["good", "same", "bad"]
    assert f"{choice.results['bad'].mean:.1%}" in lines[-1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_classes_than_those_for_validation_are_refused(split):
    first = int(episodes(split).classes[0, 0])
    found = rf"hold class {first} \('class {first}'\), which is not a validation class of toy"
    with pytest.raises(ValueError, match=found):
        choose({"any": cosine_prototypes}, episodes(split), FEATURES, DATASET)


def test_a_grid_holds_every_combination_and_says_which():
    base = FineTuning(head="linear")
    assert grid(base, steps=[0, 5], lr=[0.1]) == {
        "steps=0, lr=0.1": replace(base, steps=0, lr=0.1),
        "steps=5, lr=0.1": replace(base, steps=5, lr=0.1),
    }


def test_candidates_that_differ_in_steps_are_run_once(monkeypatch):
    runs = []
    heads = FineTuning.heads

    def spy(self, support, query, at, **masks):
        runs.append(max(at))
        return heads(self, support, query, at, **masks)

    monkeypatch.setattr(FineTuning, "heads", spy)
    candidates = {"simple": simple_shot(FEATURES[:40].mean(0))}  # has no steps, and takes part
    candidates |= grid(FineTuning(), steps=[0, 7, 3], lr=[0.01, 0.1])
    choice = choose(candidates, episodes(), FEATURES, DATASET)
    assert runs == [7, 7]
    assert list(choice.results) == list(candidates) and choice.method == candidates[choice.name]


@pytest.mark.parametrize("n_shot", [2, (1, 3)], ids=["fixed shots", "padded shots"])
@pytest.mark.parametrize("regulariser", [None, "entropy"])
def test_the_curve_over_steps_is_what_separate_evaluations_give(regulariser, n_shot):
    fine_tuning, drawn = FineTuning(regulariser=regulariser, lr=0.05), episodes(n_shot=n_shot)
    at = [4, 0, 9]
    curve = evaluate_steps(fine_tuning, drawn, FEATURES, at, batch_size=15)
    for steps, result in zip(at, curve, strict=True):
        alone = evaluate(replace(fine_tuning, steps=steps), drawn, FEATURES)
        assert torch.equal(result.accuracies, alone.accuracies)
        facts = {"accuracies": 0, "method": f"{fine_tuning.name}, {steps} steps"}
        assert vars(result) | {"accuracies": 0} == vars(alone) | facts
