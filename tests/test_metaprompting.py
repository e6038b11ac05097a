"""The start of a prompt, learnt: engines agree, gradients are those of finite differences, and what is frozen stays."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib import norms
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import compare_paired, evaluate
from fewshot_lib.meta_training import meta_loss, plus_plus_loss, reptile_loss
from fewshot_lib.metaprompting import OBJECTIVES, MetaPrompting, train_metaprompting
from fewshot_lib.prompt_model import PromptModel, prompt_tasks
from fewshot_lib.prompts import Template, initial_prompt, mask_features
from fewshot_lib.verbalizers import Mixture, RepVerb, Words, class_words

TEMPLATE = Template("[SOFT] {text} . [the] topic is [MASK] .")
NAMES = ["graph", "signal", "font letter", "noise", "net", "letters"]
TEXTS = [
    *["a node", "the edge of a graph", "path", "a path of edges to a node in the graph", "node node"],
    *["a wave", "noise in the sound", "signal", "the wave with noise and sound and noise", "sound"],
    *["glyph", "a letter of a font", "the glyph and the letter", "fonts", "letter with letters to a glyph"],
    *["what noise", "a sound", "noise", "the noise of a wave", "sound of noise"],
    *["work", "networks", "a net of nodes", "the work of a network", "nodes in a net"],
    *["a letter", "letters", "glyphs and letters", "what letter", "the letter"],
]
DATASET = ClassDataset(
    TEXTS,
    torch.arange(6).repeat_interleave(5),
    NAMES,
    {"train": torch.arange(4), "test": torch.arange(4, 6)},
    name="tiny",
)
VERBALIZERS = {
    "words": Words,
    "repverb": lambda lm: RepVerb(),
    "mixture": lambda lm: Mixture(Words(lm), RepVerb(centre="both")),
}


@pytest.fixture
def setting(tiny_lm):
    """A model, the texts as ids, the words of the classes, and four tasks."""

    def make(verbalizer="words", tune="prompt", n_tasks=3):
        lm = tiny_lm()
        start = initial_prompt(lm, TEMPLATE, "noise", generator=torch.Generator().manual_seed(1))
        model = PromptModel(lm, start, VERBALIZERS[verbalizer], tune=tune, rank=2)
        ids, words = TEMPLATE.tokenise(lm, TEXTS), class_words(lm, NAMES)
        episodes = EpisodeSampler(DATASET.labels, DATASET.classes("train"), 3, 2, 2, seed=0).sample(n_tasks)
        return model, ids, words, prompt_tasks(model, episodes, ids, words), episodes

    return make


def gradients(learner, objective, tasks):
    learnt = [p for p in learner.parameters() if p.requires_grad]
    return torch.autograd.grad(objective(learner, tasks)["loss"], learnt, allow_unused=True)


CASES = [("words", "prompt"), ("words", "lora"), ("words", "all"), ("mixture", "prompt"), ("repverb", "all")]


@pytest.mark.parametrize(
    "algorithm, verbalizer, tune",
    [(a, v, t) for a in ("maml", "fomaml", "reptile", "maml++") for v, t in CASES if a != "reptile" or v == "words"],
)
def test_engines_agree(setting, algorithm, verbalizer, tune):
    model, _, _, tasks, _ = setting(verbalizer, tune)
    found = []
    for engine in ("loop", "vmap"):
        learner = MetaPrompting(model, algorithm, inner_steps=2, inner_lr=0.1, engine=engine)
        found.append(gradients(learner, OBJECTIVES[algorithm], tasks))
        assert (engine == "vmap" and algorithm in ("maml", "maml++")) == any(isinstance(m, norms.LayerNorm) for m in learner.modules())
    assert any(g is not None and g.abs().max() > 1e-6 for g in found[0])
    for loop, batched in zip(*found, strict=True):
        if loop is not None:
            assert_close(batched, loop, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("verbalizer", VERBALIZERS)
def test_the_second_order_gradient_is_that_of_finite_differences(setting, verbalizer):
    model, _, _, tasks, _ = setting(verbalizer)
    exact, first_order = (
        gradients(MetaPrompting(model, name, inner_steps=2, inner_lr=0.3), meta_loss, tasks)[0] for name in ("maml", "fomaml")
    )
    learner = MetaPrompting(model, "maml", inner_steps=2, inner_lr=0.3)
    tokens, step = learner.model.prompt.tokens, 1e-5
    direction = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            tokens += sign * step * direction
            losses.append(meta_loss(learner, tasks)["loss"])
            tokens -= sign * step * direction
    slope = (losses[0] - losses[1]) / (2 * step)
    assert_close((exact * direction).sum(), slope, atol=1e-7, rtol=1e-6)
    assert (first_order * direction).sum() != pytest.approx(slope.item(), rel=1e-3)


def test_without_inner_steps_it_is_training_on_the_queries_of_all_tasks(setting):
    model, _, _, tasks, _ = setting()
    learner = MetaPrompting(model, "maml", inner_steps=0)
    (found,) = gradients(learner, meta_loss, tasks)
    parts = [{name: leaf[t] for name, leaf in tasks.query.items()} for t in range(3)]
    loss = torch.stack([F.cross_entropy(model(x), y) for x, y in zip(parts, tasks.query_labels, strict=True)]).mean()
    assert_close(found, torch.autograd.grad(loss, learner.model.prompt.tokens if learner.model is model else model.prompt.tokens)[0])


def test_what_a_learner_is(setting):
    model, *_ = setting()
    plus = MetaPrompting(model, "maml++", inner_steps=3, inner_lr=0.2)
    assert {name: tuple(rate.shape) for name, rate in plus.rates.items()} == {"prompt/tokens": (3,)}
    assert OBJECTIVES == {"maml": meta_loss, "fomaml": meta_loss, "reptile": reptile_loss, "maml++": plus_plus_loss}
    assert MetaPrompting(model, "fomaml").model is model and MetaPrompting(model, "fomaml").first_order
    assert not MetaPrompting(model, "maml").first_order
    assert not plus.transductive and MetaPrompting(setting("mixture")[0]).transductive


def test_settings_that_cannot_be_are_refused(setting):
    model, *_ = setting()
    with pytest.raises(ValueError, match="`algorithm` is 'anil'"):
        MetaPrompting(model, "anil")
    with pytest.raises(ValueError, match="with 0 inner steps it learns nothing"):
        MetaPrompting(model, "reptile", inner_steps=0)
    with pytest.raises(ValueError, match="RepVerb needs a support"):
        MetaPrompting(setting("repverb")[0], "reptile")
    with pytest.raises(ValueError, match="`adapt` names 'lm'"):
        MetaPrompting(model, adapt="lm")


@pytest.mark.parametrize("tune, adapt", [("prompt", None), ("lora", None), ("lora", "prompt"), ("all", "prompt")])
@pytest.mark.parametrize("verbalizer", ["words", "mixture"])
def test_the_method_adapts_as_the_learner_does(setting, tune, adapt, verbalizer):
    model, ids, words, tasks, episodes = setting(verbalizer, tune)
    for rates in ("fixed", "per_parameter", "per_tensor_per_step"):
        learner = MetaPrompting(model, "fomaml", inner_steps=2, inner_lr=0.1, adapt=adapt, rates=rates)
        with torch.no_grad():
            for rate in learner.rates.values():
                rate *= torch.linspace(0.5, 3, rate.numel()).view(rate.shape)
        for steps in (0, 2, 4):
            method = learner.as_method(steps)
            assert method.name == f"MetaPrompting, {steps} steps" and method.transductive == (verbalizer == "mixture")
            logits = method(ids[episodes.support], ids[episodes.query], labels=words[episodes.classes])
            assert_close(logits, learner(tasks.support, tasks.support_labels, tasks.query, steps), atol=1e-9, rtol=0)


@pytest.mark.parametrize("algorithm, steps", [("maml", 2), ("fomaml", 2), ("reptile", 2), ("maml++", 2), ("fomaml", 0)])
def test_training_improves_the_start_and_moves_nothing_that_is_frozen(setting, monkeypatch, algorithm, steps):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    model, ids, words, _, _ = setting()
    learner = MetaPrompting(model, algorithm, inner_steps=steps, inner_lr=0.1)
    drawn = EpisodeSampler(DATASET.labels, DATASET.classes("train"), 3, 1, 2, seed=5).sample(30)

    def loss():
        logits = learner.as_method()(ids[drawn.support], ids[drawn.query], labels=words[drawn.classes])
        return F.cross_entropy(logits.flatten(0, 1), drawn.query_labels.flatten()).item()

    frozen = {name: p.clone() for name, p in learner.model.lm.named_parameters()}
    before, start = loss(), learner.model.prompt.tokens.detach().clone()
    train_metaprompting(learner, DATASET, ids, words, 30, n_way=3, n_query=2, n_tasks=3, lr=0.1)
    assert loss() < before - 0.05
    assert not torch.equal(learner.model.prompt.tokens, start)
    assert all(torch.equal(p, frozen[name]) for name, p in learner.model.lm.named_parameters())


def test_training_sees_training_classes_only(setting, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    model, ids, words, _, _ = setting()
    test_rows = ~torch.isin(DATASET.labels, DATASET.classes("train"))
    runs = []
    for other in (0, 1):  # what test classes are and hold makes no difference
        changed_ids, changed_words = ids.clone(), words.clone()
        if other:
            changed_ids[test_rows], changed_words[4:] = ids[0], words[0]
        learner = MetaPrompting(PromptModel(model.lm, model.prompt.tokens), inner_steps=1)
        train_metaprompting(learner, DATASET, changed_ids, changed_words, 3, n_way=3, n_query=2, n_tasks=2)
        runs.append(learner.model.prompt.tokens.detach())
    assert torch.equal(*runs)


def test_an_interrupted_run_goes_on_to_the_same_numbers(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    model, ids, words, _, _ = setting()
    options = {"n_way": 2, "n_query": 1, "n_tasks": 1, "lr": 0.05}

    def run(stop_at=None, **more):
        learner = MetaPrompting(PromptModel(model.lm, model.prompt.tokens), inner_steps=0, engine="loop")
        settings = {**options, **more}
        if stop_at is not None:
            import fewshot_lib.metaprompting as module

            dealt, original = [], module.prompt_tasks

            def interrupted(*inputs):
                dealt.append(1)
                if len(dealt) > stop_at:
                    raise KeyboardInterrupt
                return original(*inputs)

            with monkeypatch.context() as patch:
                patch.setattr(module, "prompt_tasks", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    train_metaprompting(learner, DATASET, ids, words, 120, **settings)
            return None
        train_metaprompting(learner, DATASET, ids, words, 120, **settings)
        return learner.model.prompt.tokens.detach()

    expected = run()
    run(stop_at=110, checkpoint=tmp_path / "run.pt")
    assert (tmp_path / "run.pt").exists()
    assert torch.equal(run(checkpoint=tmp_path / "run.pt"), expected)
    with pytest.raises(ValueError, match="belongs to another run"):
        run(checkpoint=tmp_path / "run.pt", lr=0.01)


def test_inputs_of_another_data_set_are_refused(setting):
    model, ids, words, _, _ = setting()
    learner = MetaPrompting(model)
    with pytest.raises(ValueError, match="`ids` has 29 rows, but tiny needs 30"):
        train_metaprompting(learner, DATASET, ids[:-1], words, 1)
    with pytest.raises(ValueError, match="`class_words` has 5 rows, but tiny needs 6"):
        train_metaprompting(learner, DATASET, ids, words[:-1], 1)
    padded = EpisodeSampler(DATASET.labels, torch.arange(6), (2, 4), 1, 1, seed=0).sample(8)
    with pytest.raises(ValueError, match="`episodes` are padded"):
        prompt_tasks(model, padded, ids, words)
    with pytest.raises(ValueError, match="have 3 soft tokens, and the prompt has 2"):
        wide = Template("[SOFT*3] {text} [MASK]").tokenise(model.lm, TEXTS)
        train_metaprompting(learner, DATASET, wide, words, 1, n_way=3, n_query=2)


def test_the_published_test_time_adaptation_takes_another_optimizer(setting):
    model, ids, words, _, episodes = setting()
    learner = MetaPrompting(model, "fomaml", inner_steps=3)
    adam = learner.as_method(5, optimizer="adam", lr=0.05, name="as published")
    assert (adam.optimizer, adam.lr, adam.rates, adam.name) == ("adam", 0.05, None, "as published")
    results = [evaluate(m, episodes, ids, label_features=words) for m in (adam, learner.as_method(5))]
    assert compare_paired(*results).n_episodes == 3
    answered = learner.as_method(2, verbalizer=lambda lm: RepVerb(centre=None))
    tuned = answered.tuned(ids[episodes.support], labels=words[episodes.classes])["prompt.tokens"].unsqueeze(1)
    support, query = ids[episodes.support], ids[episodes.query]
    features = [mask_features(model.lm, each.flatten(1, -2), tuned).unflatten(1, each.shape[1:-1]) for each in (support, query)]
    assert_close(answered(support, query, labels=words[episodes.classes]), RepVerb(centre=None)(*features), atol=1e-9, rtol=0)
