"""Prompts tuned on every episode at once: the same as one by one, as MAML's inner loop, and as steps taken by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.encoders import encode
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import compare_paired, evaluate
from fewshot_lib.maml import MAML
from fewshot_lib.prompt_model import MaskEncoder, PromptModel, own_lm, prompt_tasks
from fewshot_lib.prompt_tuning import PromptTuning
from fewshot_lib.prompts import Template, initial_prompt, mask_features, read_mask
from fewshot_lib.verbalizers import LabelEmbedding, Mixture, ProtoVerb, RepVerb, Words, class_words

TEMPLATE = Template("[SOFT] {text} . [the] topic is [MASK] .")
NAMES = ["graph", "signal", "font letter"]
TEXTS = [
    *["a node", "the edge of a graph", "path", "a path of edges to a node in the graph", "node node"],
    *["a wave", "noise in the sound", "signal", "the wave with noise and sound and noise", "sound"],
    *["glyph", "a letter of a font", "the glyph and the letter", "fonts", "letter with letters to a glyph"],
]
LABELS = torch.arange(3).repeat_interleave(5)
VERBALIZERS = {
    "words": Words,
    "label embedding": LabelEmbedding,
    "repverb": lambda lm: RepVerb(),
    "mixture": lambda lm: Mixture(Words(lm), RepVerb(centre="both")),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model_of(lm, verbalizer="words", tune="prompt", template=TEMPLATE):
    start = initial_prompt(lm, template, "noise", generator=generator(1)) if template.words(lm) else None
    return PromptModel(lm, start, VERBALIZERS[verbalizer], tune=tune, rank=2)


@pytest.fixture
def deal(tiny_lm):
    """A language model, its texts as ids, and one batch of episodes as ``evaluate`` deals it."""

    def make(n_episodes=3, n_shot=2, n_query=2, template=TEMPLATE, seed=0):
        lm = tiny_lm()
        ids, words = template.tokenise(lm, TEXTS), class_words(lm, NAMES)
        episodes = EpisodeSampler(LABELS, torch.arange(3), 3, n_shot, n_query, seed=seed).sample(n_episodes)
        return lm, episodes, ids, words

    return make


def batch(episodes, ids, words):
    return ids[episodes.support], ids[episodes.query], {"labels": words[episodes.classes]}


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_one_step_is_a_step_against_the_gradient_of_the_supports_loss(deal):
    lm, episodes, ids, words = deal(n_episodes=1)
    model = model_of(lm)
    support, query, extra = batch(episodes, ids, words)
    tuned = PromptTuning(model, steps=1, lr=0.3).tuned(support, **extra)["prompt.tokens"][0]
    start, way = model.prompt.tokens.detach(), torch.arange(3).repeat_interleave(2)

    def loss(prompt):
        logits = lm.logits_at(read_mask(lm, support[0].flatten(0, 1), prompt))
        ids_of = [[[i for i in word if i >= 0] for word in names if word[0] >= 0] for names in extra["labels"][0].tolist()]
        scores = [torch.stack([logits[:, word].mean(1) for word in names]).mean(0) for names in ids_of]
        return F.cross_entropy(torch.stack(scores, 1), way)

    for position in ((0, 0), (0, 7), (1, 3), (1, 11)):
        nudge, step = torch.zeros_like(start), 1e-5
        nudge[position] = step
        slope = (loss(start + nudge) - loss(start - nudge)).item() / (2 * step)
        assert tuned[position].item() == pytest.approx(start[position].item() - 0.3 * slope, abs=1e-8)


@pytest.mark.parametrize("tune", ["prompt", "lora", "all"])
@pytest.mark.parametrize("verbalizer", ["words", "repverb", "mixture"])
def test_gradient_descent_is_the_inner_loop_of_maml(deal, tune, verbalizer):
    lm, episodes, ids, words = deal()
    model = model_of(lm, verbalizer, tune)
    learner = MAML(model, inner_steps=2, inner_lr=0.05, first_order=True, engine="loop")
    tasks = prompt_tasks(model, episodes, ids, words)
    expected = learner(tasks.support, tasks.support_labels, tasks.query)
    support, query, extra = batch(episodes, ids, words)
    logits = PromptTuning(model, steps=2, lr=0.05, adapt=None)(support, query, **extra)
    assert_close(logits, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("tune", ["prompt", "lora", "all"])
def test_all_episodes_at_once_are_the_episodes_one_by_one(deal, tune, optimizer):
    lm, episodes, ids, words = deal()
    model = model_of(lm, "mixture", tune)
    support, query, extra = batch(episodes, ids, words)
    method = PromptTuning(model, steps=3, lr=0.05, lm_lr=0.01, adapt=None, optimizer=optimizer)
    logits = method(support, query, **extra)
    loop = [method(support[e : e + 1], query[e : e + 1], labels=extra["labels"][e : e + 1]) for e in range(3)]
    assert_close(logits, torch.cat(loop), atol=1e-9, rtol=0)
    small = PromptTuning(model, steps=3, lr=0.05, lm_lr=0.01, adapt=None, optimizer=optimizer, graph_tokens=1)
    assert_close(small(support, query, **extra), logits, atol=1e-9, rtol=0)
    assert not torch.allclose(PromptTuning(model, steps=0)(support, query, **extra), logits)


@pytest.mark.parametrize("tune", ["prompt", "lora", "all"])
def test_nothing_is_changed_by_tuning(deal, tune):
    lm, episodes, ids, words = deal()
    model = model_of(lm, "words", tune)
    before, lm_before = state_of(model), state_of(lm)
    support, query, extra = batch(episodes, ids, words)
    method = PromptTuning(model, steps=2, adapt=None, optimizer="adam")
    first = method(support, query, **extra)
    assert unchanged(model, before) and unchanged(lm, lm_before) and all(p.requires_grad for p in lm.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(method(support, query, **extra), first)


def test_what_may_move(deal):
    lm, _, _, _ = deal()
    model = model_of(lm)
    assert model.trainable() == model.trainable("prompt") == ["prompt.tokens"]
    assert model.lm.word_embeddings.data_ptr() == lm.word_embeddings.data_ptr()  # shared, not copied
    adapters = model_of(lm, tune="lora").trainable("lm")
    assert len(adapters) == 2 * 2 * 2 and all("lora_" in name for name in adapters)
    assert len(model_of(lm, tune="all").trainable()) == 1 + len(list(lm.parameters()))
    with pytest.raises(ValueError, match="`adapt` is 'lm', which fits no trainable parameter"):
        PromptTuning(model, adapt="lm")
    with pytest.raises(ValueError, match="`tune` is 'head'"):
        PromptModel(lm, None, tune="head")


def test_adapters_are_repeatable_change_nothing_at_first_and_leave_the_generator_alone(deal):
    lm, _, ids, _ = deal(template=TEMPLATE.hard)
    state = torch.get_rng_state()
    one, other = own_lm(lm, "lora", 2, seed=0), own_lm(lm, "lora", 2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert torch.equal(read_mask(one, ids), read_mask(lm, ids))


def test_a_hard_template_is_a_prompt_of_no_tokens(deal):
    lm, episodes, ids, words = deal(template=TEMPLATE.hard)
    support, query, extra = batch(episodes, ids, words)
    expected = Words(lm)(None, mask_features(lm, query), **extra)
    assert_close(PromptTuning(PromptModel(lm, None), steps=0)(support, query, **extra), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("verbalizer", VERBALIZERS)
@pytest.mark.parametrize("steps", [0, 2])
def test_the_method_is_as_inductive_as_its_verbalizer(deal, verbalizer, steps):
    lm, episodes, ids, words = deal()
    method = PromptTuning(model_of(lm, verbalizer), steps=steps, lr=0.3)
    support, query, extra = batch(episodes, ids, words)
    others = torch.cat([query[:, :1], query[:, 1:].flip(1).roll(1, 0)], 1)
    first = method(support, query, **extra)[:, :1]
    independent = torch.allclose(method(support, others, **extra)[:, :1], first, atol=1e-9) and torch.allclose(
        method(support, query[:, :1], **extra), first, atol=1e-9
    )
    assert method.transductive == (verbalizer == "mixture") == (not independent)


@pytest.mark.parametrize("verbalizer", VERBALIZERS)
@pytest.mark.parametrize("tune", ["prompt", "all"])
def test_padding_changes_nothing(deal, verbalizer, tune):
    lm, episodes, ids, words = deal(n_episodes=2)
    support, query, extra = batch(episodes, ids, words)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[:, 2], mask[0, 0, 1] = False, False
    query_mask = (episodes.query_labels < 2).sort(1, descending=True).values
    query = torch.stack([torch.cat([q[y < 2], q[y == 2]]) for q, y in zip(query, episodes.query_labels, strict=True)])
    method = PromptTuning(model_of(lm, verbalizer, tune), steps=2, lr=0.3, adapt=None)
    masks = {"support_mask": mask} | ({"query_mask": query_mask} if method.transductive else {})
    logits = method(support, query, **extra, **masks)
    assert (logits[..., 2] == -torch.inf).all()
    small = method(support[1:, :2], query[1:, :4], labels=extra["labels"][1:, :2])
    assert_close(logits[1:, :4, :2], small, atol=1e-9, rtol=0)
    filled = support.clone()
    filled[~mask] = support[0, 0, 0]
    assert_close(method(filled, query, **extra, **masks)[..., :2], logits[..., :2], atol=1e-9, rtol=0)


def test_one_run_gives_the_curve_over_steps(deal):
    lm, episodes, ids, words = deal()
    model = model_of(lm)
    support, query, extra = batch(episodes, ids, words)
    curve = PromptTuning(model, optimizer="adam", lr=0.05).trajectory(support, query, [3, 0, 1], **extra)
    for logits, steps in zip(curve, (3, 0, 1), strict=True):
        assert_close(logits, PromptTuning(model, steps=steps, optimizer="adam", lr=0.05)(support, query, **extra), atol=1e-9, rtol=0)


def test_many_starts_for_one_episode_are_one_batch(deal):
    lm, episodes, ids, words = deal(n_episodes=1)
    support, query, extra = batch(episodes, ids, words)
    starts = torch.stack([initial_prompt(lm, TEMPLATE, "noise", generator=generator(seed)) for seed in range(4)])
    copies = [each.expand(4, *each.shape[1:]) for each in (support, query, extra["labels"])]
    together = PromptTuning(model_of(lm), lr=0.3).trajectory(*copies[:2], [0, 2], labels=copies[2], start=starts)
    unmoved = PromptTuning(model_of(lm)).trajectory(*copies[:2], [0], labels=copies[2], start=starts)
    assert_close(unmoved[0], together[0], atol=1e-9, rtol=0)
    for e, start in enumerate(starts):
        alone = PromptTuning(PromptModel(lm, start), lr=0.3).trajectory(support, query, [0, 2], **extra)
        assert_close(together[:, e : e + 1], alone, atol=1e-9, rtol=0)


def test_without_a_step_every_text_is_read_once(deal, monkeypatch):
    lm, episodes, ids, words = deal(n_episodes=3)
    model, seen = model_of(lm), []
    hidden = model.lm.hidden
    monkeypatch.setattr(model.lm, "hidden", lambda **inputs: seen.append(len(inputs["inputs_embeds"])) or hidden(**inputs))
    evaluate(PromptTuning(model, steps=0), episodes, ids, label_features=words)
    assert sum(seen) == len(episodes.query.unique())
    seen.clear()
    evaluate(PromptTuning(model, steps=2), episodes, ids, label_features=words)
    assert sum(seen) == 2 * episodes.support.numel() + episodes.query.numel()


def test_answers_by_another_verbalizer(deal):
    lm, episodes, ids, words = deal()
    model = model_of(lm)
    support, query, extra = batch(episodes, ids, words)
    tuned = PromptTuning(model, steps=2, lr=0.3).tuned(support, **extra)["prompt.tokens"].unsqueeze(1)
    features = [mask_features(lm, each.flatten(1, -2), tuned).unflatten(1, each.shape[1:-1]) for each in (support, query)]
    for verbalizer in (RepVerb(centre="both"), ProtoVerb(dim=4, steps=5)):
        method = PromptTuning(model, steps=2, lr=0.3, verbalizer=lambda lm, verbalizer=verbalizer: verbalizer)
        assert method.transductive == verbalizer.transductive and method.uses_labels
        assert_close(method(support, query, **extra), verbalizer(*features), atol=1e-9, rtol=0)
    assert isinstance(model.verbalizer, Words)
    with pytest.raises(ValueError, match="ProtoVerb, which passes no gradient"):
        PromptModel(lm, None, lambda lm: ProtoVerb())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_mixture_is_tuned_by_its_words_and_answers_as_a_whole(deal, optimizer):
    lm, episodes, ids, words = deal(n_shot=1)
    support, query, extra = batch(episodes, ids, words)
    mixed, plain = model_of(lm, "mixture"), model_of(lm)
    method = PromptTuning(mixed, steps=2, lr=0.3, optimizer=optimizer)
    tuned = method.tuned(support, **extra)["prompt.tokens"]
    assert_close(tuned, PromptTuning(plain, steps=2, lr=0.3, optimizer=optimizer).tuned(support, **extra)["prompt.tokens"])
    assert not torch.allclose(tuned, mixed.prompt.tokens)
    features = [mask_features(lm, each.flatten(1, -2), tuned.unsqueeze(1)).unflatten(1, each.shape[1:-1]) for each in (support, query)]
    assert_close(method(support, query, **extra), VERBALIZERS["mixture"](lm)(*features, **extra), atol=1e-9, rtol=0)
    tasks = prompt_tasks(mixed, episodes, ids, words)
    one = {name: leaf[0] for name, leaf in tasks.support.items()}, {name: leaf[0] for name, leaf in tasks.query.items()}
    assert_close(mixed(one[0]), plain(one[0]))
    assert not torch.allclose(mixed(one[1]), plain({name: leaf for name, leaf in one[1].items() if name != "support"}).log_softmax(-1))


def test_it_runs_in_evaluate_and_is_compared_on_saved_episodes(deal):
    lm, episodes, ids, words = deal(n_episodes=20)
    model = model_of(lm)
    results = [evaluate(PromptTuning(model, steps=s, lr=0.5), episodes, ids, label_features=words) for s in (0, 10)]
    assert [r.method for r in results] == ["prompt tuning, 0 steps", "prompt tuning, 10 steps"]
    assert compare_paired(results[1], results[0]).n_episodes == 20
    support, _, extra = batch(episodes, ids, words)
    way = torch.arange(3).repeat_interleave(2).expand(20, -1)

    def fitted(steps):
        logits = PromptTuning(model, steps=steps, lr=0.5)(support, support.flatten(1, 2), **extra)
        return F.cross_entropy(logits.flatten(0, 1), way.flatten())

    assert fitted(20) < 0.7 * fitted(0)


def test_bad_settings_and_diverging_runs_are_named(deal):
    lm, episodes, ids, words = deal()
    model = model_of(lm)
    support, query, extra = batch(episodes, ids, words)
    for settings, message in (
        ({"optimizer": "lion"}, "`optimizer` is 'lion'"),
        ({"steps": -1}, "`steps` is -1"),
        ({"lr": 0.0}, r"`lr` is 0\.0"),
        ({"lm_lr": -1.0}, r"`lm_lr` is -1\.0"),
        ({"graph_tokens": 0}, "`graph_tokens` is 0"),
        ({"optimizer": "adam", "rates": lambda name, step: 0.1}, "use optimizer='sgd'"),
    ):
        with pytest.raises(ValueError, match=message):
            PromptTuning(model, **settings)
    with pytest.raises(FloatingPointError, match="use an `lr` below"):
        PromptTuning(model, lr=1e308, steps=3)(support, query, **extra)
    with pytest.raises(ValueError, match="the prompt has 2"):
        wide = Template("[SOFT*3] {text} [MASK]").tokenise(lm, TEXTS)
        evaluate(PromptTuning(model, steps=1), episodes, wide, label_features=words)


def test_a_hard_template_is_an_encoder_of_texts(deal):
    lm, _, ids, _ = deal(template=TEMPLATE.hard)
    encoder = MaskEncoder(lm, TEMPLATE.hard)
    assert_close(encode(encoder, TEXTS, batch_size=4), read_mask(lm, ids), atol=1e-12, rtol=0)
    assert "topic is [MASK]" in repr(encoder)  # so that another template is another entry of the feature cache
    with pytest.raises(ValueError, match="use template.hard"):
        MaskEncoder(lm, TEMPLATE)
