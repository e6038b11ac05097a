"""The start of a prompt or of a pool, learnt: engines agree, gradients are right, what is frozen stays."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.maml import meta_loss, norms
from fewshot_lib.prompts import (
    Mixture,
    RepVerb,
    Template,
    Words,
    class_words,
    initial_prompt,
    mask_features,
    meta_prompter,
    prompt_pool,
)
from fewshot_lib.prompts.meta import OBJECTIVES, MetaPrompting, PromptPool, prompt_tasks, train_metaprompting
from fewshot_lib.prompts.model import PromptModel
from fewshot_lib.prompts.templates import read_mask

CLOSER = {"atol": 1e-12, "rtol": 0}
CLOSE = {"atol": 1e-9, "rtol": 0}
TEMPLATE = Template("[SOFT] {text} . [the] topic is [MASK] .")
POOL_TEMPLATE = Template("[SOFT*2] {text} . topic is [MASK] .")
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
SIZES = {"n_way": 3, "n_query": 2}
VERBALIZERS = {
    "words": Words,
    "repverb": lambda lm: RepVerb(),
    "mixture": lambda lm: Mixture(Words(lm), RepVerb(centre="both")),
}


@pytest.fixture(autouse=True)
def _no_progress_bars(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


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


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def loss_of(learner, ids, words):
    """On the queries of episodes of training classes, after adaptation."""
    drawn = EpisodeSampler(DATASET.labels, DATASET.classes("train"), 3, 1, 2, seed=5).sample(30)
    logits = learner.as_method()(ids[drawn.support], ids[drawn.query], names=words[drawn.classes])
    return F.cross_entropy(logits.flatten(0, 1), drawn.query_labels.flatten()).item()


def gradients(learner, objective, tasks):
    """Of all that is learnt: of the loss, or what an objective has computed by itself."""
    learner.zero_grad()
    loss = objective(learner, tasks)["loss"]
    if loss.requires_grad:
        loss.backward()
    return [p.grad for p in learner.parameters() if p.requires_grad]


CASES = [("words", "prompt"), ("words", "lora"), ("words", "all"), ("mixture", "prompt"), ("repverb", "all")]


KINDS = [(a, *case) for a in OBJECTIVES for case in CASES if a != "reptile" or case[0] == "words"]


@pytest.mark.parametrize(("algorithm", "verbalizer", "tune"), KINDS)
def test_engines_agree(setting, algorithm, verbalizer, tune):
    model, _, _, tasks, _ = setting(verbalizer, tune)
    found = []
    for engine in ("loop", "vmap"):
        learner = MetaPrompting(model, algorithm, inner_steps=2, inner_lr=0.1, engine=engine)
        found.append(gradients(learner, OBJECTIVES[algorithm], tasks))
        written_out = any(isinstance(module, norms.LayerNorm) for module in learner.modules())
        assert written_out == (engine == "vmap" and not learner.first_order)
    assert any(g is not None and g.abs().max() > 1e-6 for g in found[0])
    for loop, batched in zip(*found, strict=True):
        if loop is not None:
            assert_close(batched, loop, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("verbalizer", VERBALIZERS)
def test_the_second_order_gradient_is_that_of_finite_differences(setting, verbalizer):
    model, _, _, tasks, _ = setting(verbalizer)
    exact, first_order = (
        gradients(MetaPrompting(model, name, inner_steps=2, inner_lr=0.3), meta_loss, tasks)[0]
        for name in ("maml", "fomaml")
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
    losses = [F.cross_entropy(model(x), y) for x, y in zip(parts, tasks.query_labels, strict=True)]
    assert_close(found, torch.autograd.grad(torch.stack(losses).mean(), model.prompt.tokens)[0])


def test_what_a_learner_is(setting):
    model, *_ = setting()
    plus = MetaPrompting(model, "maml++", inner_steps=3, inner_lr=0.2)
    assert {name: tuple(rate.shape) for name, rate in plus.rates.items()} == {"prompt/tokens": (3,)}
    assert MetaPrompting(model, "fomaml").model is model and MetaPrompting(model, "fomaml").first_order
    assert not MetaPrompting(model, "maml").first_order
    assert not plus.transductive and MetaPrompting(setting("mixture")[0]).transductive


def test_settings_that_cannot_be_are_refused(setting):
    model, *_ = setting()
    for settings, message in (
        ({"algorithm": "anil"}, "`algorithm` is 'anil'"),
        ({"algorithm": "reptile", "inner_steps": 0}, "with 0 inner steps it learns nothing"),
        ({"adapt": "lm"}, "`adapt` names 'lm'"),
    ):
        with pytest.raises(ValueError, match=message):
            MetaPrompting(model, **settings)
    with pytest.raises(ValueError, match="RepVerb needs a support"):
        MetaPrompting(setting("repverb")[0], "reptile")


MOVING = [("prompt", None), ("lora", None), ("lora", "prompt"), ("all", "prompt")]


@pytest.mark.parametrize(("tune", "adapt"), MOVING)
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
            assert method.name == f"MetaPrompting, {steps} steps"
            logits = method(ids[episodes.support], ids[episodes.query], names=words[episodes.classes])
            assert_close(logits, learner(tasks.support, tasks.support_labels, tasks.query, steps), **CLOSE)


@pytest.mark.parametrize(("algorithm", "steps"), [*((a, 2) for a in OBJECTIVES), ("fomaml", 0)])
def test_training_improves_the_start_and_moves_nothing_that_is_frozen(setting, algorithm, steps):
    model, ids, words, _, _ = setting()
    learner = MetaPrompting(model, algorithm, inner_steps=steps, inner_lr=0.1)
    frozen, start = state_of(learner.model.lm), learner.model.prompt.tokens.detach().clone()
    before = loss_of(learner, ids, words)
    train_metaprompting(learner, DATASET, ids, words, 30, episodes=SIZES, n_tasks=3, lr=0.1)
    assert loss_of(learner, ids, words) < before - 0.05
    assert not torch.equal(learner.model.prompt.tokens, start)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in learner.model.lm.state_dict().items())


def test_training_sees_training_classes_only(setting):
    model, ids, words, _, _ = setting()
    test_rows = ~torch.isin(DATASET.labels, DATASET.classes("train"))
    runs = []
    for other in (0, 1):  # what test classes are and hold makes no difference
        changed_ids, changed_words = ids.clone(), words.clone()
        if other:
            changed_ids[test_rows], changed_words[4:] = ids[0], words[0]
        learner = MetaPrompting(PromptModel(model.lm, model.prompt.tokens), inner_steps=1)
        train_metaprompting(learner, DATASET, changed_ids, changed_words, 3, episodes=SIZES, n_tasks=2)
        runs.append(learner.model.prompt.tokens.detach())
    assert torch.equal(*runs)


def test_an_interrupted_run_goes_on_to_the_same_numbers(setting, tmp_path):
    model, ids, words, _, _ = setting()

    def run(lr=0.05, data=DATASET, **loop):
        learner = MetaPrompting(PromptModel(model.lm, model.prompt.tokens), inner_steps=0)
        sizes = {"n_way": 2, "n_query": 1}
        train_metaprompting(learner, data, ids, words, 6, episodes=sizes, n_tasks=1, lr=lr, **loop)
        return learner.model.prompt.tokens.detach()

    def interrupt():
        raise KeyboardInterrupt

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, checkpoint_every=2, validate=interrupt, validate_every=5)
    assert torch.equal(run(checkpoint=checkpoint), run())
    with pytest.raises(ValueError, match="belongs to another run"):
        run(checkpoint=checkpoint, lr=0.01)
    splits = DATASET.splits | {"train": DATASET.classes("train").flip(0)}
    for fact, change in (("labels", {"labels": DATASET.labels.flip(0)}), ("train split", {"splits": splits})):
        with pytest.raises(ValueError, match=f"belongs to another run .*not the same {fact}"):
            run(checkpoint=checkpoint, data=replace(DATASET, **change))


def test_inputs_of_another_data_set_are_refused(setting):
    model, ids, words, _, _ = setting()
    learner = MetaPrompting(model)
    wide = Template("[SOFT*3] {text} [MASK]").tokenise(model.lm, TEXTS)
    for given, message in (
        ((ids[:-1], words), "`ids` has 29 rows, but tiny needs 30"),
        ((ids, words[:-1]), "`names` has 5 rows, but tiny needs 6"),
        ((wide, words), "have 3 soft tokens, and the prompt has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            train_metaprompting(learner, DATASET, *given, 1, episodes=SIZES)
    padded = EpisodeSampler(DATASET.labels, torch.arange(6), 3, (1, 2), 1, seed=0).sample(8)
    with pytest.raises(ValueError, match="`episodes` are padded"):
        prompt_tasks(model, padded, ids, words)


def test_the_published_test_time_adaptation_takes_another_optimizer(setting):
    model, *_ = setting()
    learner = MetaPrompting(model, "fomaml", inner_steps=3)
    adam = learner.as_method(5, optimizer="adam", lr=0.05, name="as published")
    assert (adam.optimizer, adam.lr, adam.rates, adam.name) == ("adam", 0.05, None, "as published")
    examples = learner.as_method(2, verbalizer=lambda lm: RepVerb(centre=None))
    assert isinstance(examples.answering, RepVerb) and not isinstance(model.verbalizer, RepVerb)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pool(k=3, scale=5.0):
    """Keys so large that texts get prompts that differ."""
    return PromptPool(scale * normal(k, 12, seed=3), normal(k, 2, 12, seed=4))


@pytest.fixture
def pool_setting(tiny_lm):
    """A language model, three episodes, the texts as ids for a pool, and the words of the classes."""
    lm = tiny_lm()
    episodes = EpisodeSampler(DATASET.labels, torch.arange(3), 3, 2, 2, seed=0).sample(3)
    return lm, episodes, POOL_TEMPLATE.tokenise(lm, TEXTS), class_words(lm, NAMES)


def test_attention_by_hand():
    """Cue (2, 0, 0, 0), keys whose first numbers are log 3 and 0: over √4 log 3 and 0, weights ¾ and ¼."""
    keys, values = torch.zeros(2, 4), torch.stack([torch.full((3, 4), 1.0), torch.full((3, 4), 5.0)])
    keys[0, 0] = math.log(3)
    made = PromptPool(keys, values)
    cues = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert_close(made(cues), torch.stack([torch.full((3, 4), 2.0), torch.full((3, 4), 3.0)]))
    with pytest.raises(ValueError, match=r"`keys` are \(2, 4\) and `values` \(3, 1, 4\)"):
        PromptPool(keys, torch.zeros(3, 1, 4))


def test_a_new_pool_has_normal_keys_of_its_generator():
    one, same = (prompt_pool(torch.zeros(4, 2, 500), torch.Generator().manual_seed(0)) for _ in range(2))
    assert one.keys.shape == (4, 500) and one.keys.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(one.keys, same.keys)


def test_equal_values_make_a_pool_one_soft_prompt(pool_setting):
    lm, _episodes, ids, _words = pool_setting
    values = normal(1, 2, 12)
    same = PromptModel(lm, PromptPool(normal(3, 12), values.expand(3, -1, -1)))
    one = PromptModel(lm, values[0])
    assert_close(same.features(ids, same.cues(ids)), one.features(ids), **CLOSER)


def test_cues_are_mask_features_without_soft_tokens(pool_setting):
    lm, _, ids, _ = pool_setting
    model = PromptModel(lm, pool())
    plain = Template("{text} . topic is [MASK] .").tokenise(lm, TEXTS)
    assert_close(model.cues(ids), mask_features(lm, plain).detach(), **CLOSER)
    assert not model.cues(ids).requires_grad
    with pytest.raises(ValueError, match="features of the .frozen. model"):
        PromptModel(lm, pool(), tune="lora")


def test_positions_and_types_are_added_once(pool_setting):
    """What goes in are word embeddings and mixtures of the pool's values: the model does the rest."""
    lm, _, ids, _ = pool_setting
    model = PromptModel(lm, pool())
    cues = model.cues(ids)
    weights = (cues @ model.prompt.keys.T / math.sqrt(12)).softmax(-1)
    vectors = lm.word_embeddings[ids.clamp_min(0)].clone()
    assert (ids[:, 1] == -1).all() and (ids[:, 2] == -2).all()
    vectors[:, 1:3] = torch.einsum("nk,kpd->npd", weights, model.prompt.values)
    hidden = lm.hidden(vectors, (ids != 0).long())
    assert_close(read_mask(lm, ids, model.prompt(cues)), hidden[ids == lm.mask_token_id], **CLOSER)


def by_hand(model, support, query, words, weight, centre):
    """weight · RepVerb + (1 − weight) · words for one episode, as log-probabilities."""

    def features(ids):
        return read_mask(model.lm, ids, model.prompt(model.cues(ids)))

    s, q = features(support.flatten(0, 1)), features(query)
    mean = {"support": s.mean(0), "both": torch.cat([s, q]).mean(0)}[centre]
    classes = (s - mean).view(3, 2, -1).mean(1)
    examples = (F.cosine_similarity((q - mean).unsqueeze(1), classes, dim=-1) / 0.1).softmax(-1)
    logits, scores = model.lm.logits_at(q), []
    for names in words.tolist():
        pieces = [[i for i in word if i >= 0] for word in names if word[0] >= 0]
        scores.append(torch.stack([logits[:, word].mean(1) for word in pieces]).mean(0))
    return (weight * examples + (1 - weight) * torch.stack(scores, 1).softmax(-1)).log()


@pytest.mark.parametrize("centre", ["support", "both"])
def test_its_answers_by_hand(pool_setting, centre):
    lm, episodes, ids, words = pool_setting
    learner = meta_prompter(lm, pool())
    weight = {"support": 0.5, "both": 0.3}[centre]

    def published(lm):
        return Mixture(RepVerb(centre="both"), Words(lm), weights=[weight, 1 - weight])

    method = learner.as_method(0, verbalizer=None if centre == "support" else published)
    logits = method(ids[episodes.support], ids[episodes.query], names=words[episodes.classes])
    assert method.transductive == (centre == "both")
    for e in range(3):
        rows = ids[episodes.support[e]], ids[episodes.query[e]], words[episodes.classes[e]]
        assert_close(logits[e], by_hand(learner.model, *rows, weight, centre), **CLOSE)


@pytest.mark.parametrize("steps", [0, 2])
def test_another_query_changes_nothing(pool_setting, steps):
    lm, episodes, ids, words = pool_setting
    method = meta_prompter(lm, pool(), inner_steps=steps).as_method()
    support, query, names = ids[episodes.support], ids[episodes.query], words[episodes.classes]
    first = method(support, query, names=names)[:, :1]
    others = torch.cat([query[:, :1], query[:, 1:].roll(1, 0)], 1)
    assert not method.transductive and method.name == f"MetaPrompter, {steps} steps"
    for changed in (others, query[:, :1]):
        assert_close(method(support, changed, names=names)[:, :1], first, **CLOSE)


def test_engines_and_the_batched_method_agree(pool_setting):
    lm, episodes, ids, words = pool_setting
    found, answers = [], []
    for engine in ("loop", "vmap"):
        learner = meta_prompter(lm, pool(), inner_steps=2, engine=engine)
        tasks = prompt_tasks(learner.model, episodes, ids, words)
        loss = meta_loss(learner, tasks)["loss"]
        found.append(torch.autograd.grad(loss, list(learner.model.prompt.parameters())))
        answers.append(learner(tasks.support, tasks.support_labels, tasks.query))
    method = learner.as_method()
    answers.append(method(ids[episodes.support], ids[episodes.query], names=words[episodes.classes]))
    for loop, batched in zip(*found, strict=True):
        assert_close(batched, loop, atol=1e-9, rtol=1e-7)
    for answer in answers[1:]:
        assert_close(answer, answers[0], **CLOSE)


def test_it_is_the_first_order_method_of_the_paper_on_keys_and_values_alone(pool_setting):
    learner = meta_prompter(pool_setting[0], pool())
    assert learner.first_order and learner.inner_steps == 5
    assert learner.adapted == ["prompt.keys", "prompt.values"]
    assert sum(p.numel() for p in learner.parameters() if p.requires_grad) == 3 * 12 + 3 * 2 * 12


def test_training_improves_the_pool_and_leaves_the_model_alone(pool_setting):
    lm, _, ids, words = pool_setting
    start = pool()
    learner = meta_prompter(lm, start, inner_steps=1)
    frozen, keys = state_of(lm), start.keys.detach().clone()
    before = loss_of(learner, ids, words)
    train_metaprompting(learner, DATASET, ids, words, 25, episodes=SIZES, n_tasks=3, lr=0.1)
    assert loss_of(learner, ids, words) < before - 0.05 and not torch.equal(learner.model.prompt.keys, keys)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in lm.state_dict().items())
    assert torch.equal(start.keys, keys)  # another learner may start from it


def test_tasks_have_the_cues_of_their_own_texts_and_training_reads_no_others(pool_setting, monkeypatch):
    lm, episodes, ids, words = pool_setting
    learner = meta_prompter(lm, pool(), inner_steps=1)
    tasks, table = prompt_tasks(learner.model, episodes, ids, words), learner.model.cues(ids)
    assert_close(tasks.support["cues"], table[episodes.support].flatten(1, 2), **CLOSER)
    assert_close(tasks.query["support_cues"], table[episodes.support], **CLOSER)
    assert_close(tasks.query["cues"], table[episodes.query], **CLOSER)

    read, cues = [], PromptModel.cues
    monkeypatch.setattr(PromptModel, "cues", lambda model, ids: (read.append(ids), cues(model, ids))[1])
    train_metaprompting(learner, DATASET, ids, words, 2, episodes=SIZES | {"seed": 3}, n_tasks=1)
    sampler = EpisodeSampler.of(DATASET, "train", **SIZES, n_shot=1, seed=3)
    drawn = [rows for each in (sampler.sample(1), sampler.sample(1)) for rows in (each.support, each.query)]
    assert [len(each.flatten(0, -2)) for each in read] == [rows.numel() for rows in drawn]
    for each, rows in zip(read, drawn, strict=True):
        assert torch.equal(each, ids[rows][..., : each.shape[-1]])
