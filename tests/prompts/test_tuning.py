"""Prompts tuned on all episodes at once: as one by one, as MAML's inner loop, and as steps taken by hand."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.maml import MAML
from fewshot_lib.prompts import PromptTuning, tuning
from fewshot_lib.prompts.meta import prompt_tasks
from fewshot_lib.prompts.model import PromptModel, own_lm
from fewshot_lib.prompts.templates import Template, initial_prompt, mask_features, read_mask
from fewshot_lib.prompts.verbalizers import LabelEmbedding, Mixture, RepVerb, Words, class_words

CLOSE = {"atol": 1e-9, "rtol": 0}
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


@dataclass
class Dealt:
    """A language model, its texts as ids, the words of the classes, and a batch as ``evaluate`` deals it."""

    lm: object
    episodes: object
    ids: torch.Tensor
    words: torch.Tensor

    @property
    def support(self):
        return self.ids[self.episodes.support]

    @property
    def texts(self):
        return self.support, self.ids[self.episodes.query]

    @property
    def names(self):
        return {"names": self.words[self.episodes.classes]}


@pytest.fixture
def deal(tiny_lm):
    def make(n_episodes=3, n_shot=2, template=TEMPLATE):
        lm = tiny_lm()
        episodes = EpisodeSampler(LABELS, torch.arange(3), 3, n_shot, 2, seed=0).sample(n_episodes)
        return Dealt(lm, episodes, template.tokenise(lm, TEXTS), class_words(lm, NAMES))

    return make


def features_of(lm, ids, prompts):
    """Of texts (E, ..., L), each read with the prompt of its episode."""
    return mask_features(lm, ids.flatten(1, -2), prompts.unsqueeze(1)).unflatten(1, ids.shape[1:-1])


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_one_step_is_a_step_against_the_gradient_of_the_supports_loss(deal):
    d = deal(n_episodes=1)
    model = model_of(d.lm)
    tuned = PromptTuning(model, steps=1, lr=0.3).tuned(d.support, **d.names)["prompt.tokens"][0]
    start, way = model.prompt.tokens.detach(), torch.arange(3).repeat_interleave(2)

    def loss(prompt):
        logits = d.lm.logits_at(read_mask(d.lm, d.support[0].flatten(0, 1), prompt))
        words = d.words[d.episodes.classes[0]].tolist()
        ids_of = [[[i for i in word if i >= 0] for word in names if word[0] >= 0] for names in words]
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
    d = deal()
    model = model_of(d.lm, verbalizer, tune)
    learner = MAML(model, inner_steps=2, inner_lr=0.05, first_order=True, engine="loop")
    tasks = prompt_tasks(model, d.episodes, d.ids, d.words)
    expected = learner(tasks.support, tasks.support_labels, tasks.query)
    logits = PromptTuning(model, steps=2, lr=0.05, adapt=None)(*d.texts, **d.names)
    assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("tune", ["prompt", "lora", "all"])
def test_all_episodes_at_once_are_the_episodes_one_by_one(deal, monkeypatch, tune, optimizer):
    d = deal()
    model = model_of(d.lm, "mixture", tune)
    method = PromptTuning(model, steps=3, lr=0.02, adapt=None, optimizer=optimizer)
    logits = method(*d.texts, **d.names)
    parts = (*d.texts, d.names["names"])
    loop = [method(s, q, names=names) for s, q, names in zip(*(part.split(1) for part in parts), strict=True)]
    assert_close(logits, torch.cat(loop), **CLOSE)
    monkeypatch.setattr(tuning, "CPU_TOKENS", 1)  # in groups of one, by itself
    assert_close(method(*d.texts, **d.names), logits, **CLOSE)
    assert not torch.allclose(PromptTuning(model, steps=0)(*d.texts, **d.names), logits)


@pytest.mark.parametrize("tune", ["prompt", "lora", "all"])
def test_nothing_is_changed_by_tuning(deal, tune):
    d = deal()
    model = model_of(d.lm, "words", tune)
    before, lm_before = state_of(model), state_of(d.lm)
    method = PromptTuning(model, steps=2, adapt=None, optimizer="adam")
    first = method(*d.texts, **d.names)
    assert unchanged(model, before) and unchanged(d.lm, lm_before)
    assert all(p.requires_grad for p in d.lm.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(method(*d.texts, **d.names), first)


def test_what_may_move(deal):
    d = deal()
    model = model_of(d.lm)
    assert model.trainable() == model.trainable("prompt") == ["prompt.tokens"]
    assert model.lm.word_embeddings.data_ptr() == d.lm.word_embeddings.data_ptr()  # shared, not copied
    adapters = model_of(d.lm, tune="lora").trainable("lm")
    assert len(adapters) == 2 * 2 * 2 and all("lora_" in name for name in adapters)
    assert len(model_of(d.lm, tune="all").trainable()) == 1 + len(list(d.lm.parameters()))
    with pytest.raises(ValueError, match="`adapt` is 'lm', which fits no trainable parameter"):
        PromptTuning(model, adapt="lm")
    with pytest.raises(ValueError, match="`tune` is 'head'"):
        PromptModel(d.lm, None, tune="head")


def test_adapters_are_repeatable_change_nothing_at_first_and_leave_the_generator_alone(deal):
    d = deal(template=TEMPLATE.hard)
    state = torch.get_rng_state()
    one, other = (own_lm(d.lm, "lora", 2, seed=0) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and unchanged(one, state_of(other))
    assert torch.equal(read_mask(one, d.ids), read_mask(d.lm, d.ids))


def test_a_hard_template_is_a_prompt_of_no_tokens(deal):
    d = deal(template=TEMPLATE.hard)
    expected = Words(d.lm)(None, mask_features(d.lm, d.texts[1]), **d.names)
    logits = PromptTuning(PromptModel(d.lm, None), steps=0)(*d.texts, **d.names)
    assert_close(logits, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("verbalizer", VERBALIZERS)
def test_masked_texts_change_nothing_where_all_weights_move(deal, verbalizer):
    d = deal(n_episodes=2)
    support_mask, query_mask = torch.ones(2, 3, 2, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    support_mask[0, :, 1], support_mask[1, 1, 1], query_mask[0, 4:] = False, False, False
    method = PromptTuning(model_of(d.lm, verbalizer, "all"), steps=2, lr=0.3, adapt=None)
    masks = {"support_mask": support_mask} | ({"query_mask": query_mask} if method.transductive else {})
    logits = method(*d.texts, **d.names, **masks)
    support, query = d.texts
    fewer = method(support[:1, :, :1], query[:1, :4], names=d.names["names"][:1])
    assert_close(logits[:1, :4], fewer, **CLOSE)
    filled, asked = support.clone(), query.clone()
    filled[~support_mask], asked[~query_mask] = support[0, 0, 0], support[0, 0, 0]
    again = method(filled, asked, **d.names, **masks)
    assert_close(again[:, :4], logits[:, :4], **CLOSE)


def test_one_run_gives_the_curve_over_steps(deal):
    d = deal()
    model = model_of(d.lm)
    settings = {"optimizer": "adam", "lr": 0.05}
    curve = PromptTuning(model, **settings).trajectory(*d.texts, [3, 0, 1], **d.names)
    for logits, steps in zip(curve, (3, 0, 1), strict=True):
        assert_close(logits, PromptTuning(model, steps, **settings)(*d.texts, **d.names), **CLOSE)


def test_many_starts_for_one_episode_are_one_batch(deal):
    d = deal(n_episodes=1)
    starts = [initial_prompt(d.lm, TEMPLATE, "noise", generator=generator(seed)) for seed in range(4)]
    copies = [each.expand(4, *each.shape[1:]) for each in (*d.texts, d.names["names"])]
    extra_copies = {"names": copies[2], "start": torch.stack(starts)}
    together = PromptTuning(model_of(d.lm), lr=0.3).trajectory(*copies[:2], [0, 2], **extra_copies)
    unmoved = PromptTuning(model_of(d.lm)).trajectory(*copies[:2], [0], **extra_copies)
    assert_close(unmoved[0], together[0], **CLOSE)
    for e, start in enumerate(starts):
        alone = PromptTuning(PromptModel(d.lm, start), lr=0.3).trajectory(*d.texts, [0, 2], **d.names)
        assert_close(together[:, e : e + 1], alone, **CLOSE)


def test_without_a_step_every_text_is_read_once(deal, monkeypatch):
    d = deal(n_episodes=3)
    model, seen = model_of(d.lm), []
    hidden = model.lm.hidden
    monkeypatch.setattr(model.lm, "hidden", lambda x, **mask: seen.append(len(x)) or hidden(x, **mask))
    evaluate(PromptTuning(model, steps=0), d.episodes, d.ids, names=d.words)
    assert sum(seen) == len(d.episodes.query.unique())
    seen.clear()
    evaluate(PromptTuning(model, steps=2), d.episodes, d.ids, names=d.words)
    assert sum(seen) == 2 * d.episodes.support.numel() + d.episodes.query.numel()


def test_answers_by_another_verbalizer(deal):
    d = deal()
    model = model_of(d.lm)
    tuned = PromptTuning(model, steps=2, lr=0.3).tuned(d.support, **d.names)["prompt.tokens"]
    features = [features_of(d.lm, each, tuned) for each in d.texts]
    for verbalizer in (RepVerb(centre="both"), RepVerb(centre=None)):
        method = PromptTuning(model, steps=2, lr=0.3, verbalizer=lambda lm, verbalizer=verbalizer: verbalizer)
        assert method.transductive == verbalizer.transductive and method.uses_names
        assert_close(method(*d.texts, **d.names), verbalizer(*features), **CLOSE)
    assert isinstance(model.verbalizer, Words)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_mixture_is_tuned_by_its_words_and_answers_as_a_whole(deal, optimizer):
    d = deal(n_shot=1)
    mixed, plain = model_of(d.lm, "mixture"), model_of(d.lm)
    method = PromptTuning(mixed, steps=2, lr=0.3, optimizer=optimizer)
    tuned = method.tuned(d.support, **d.names)["prompt.tokens"]
    alone = PromptTuning(plain, steps=2, lr=0.3, optimizer=optimizer)
    assert_close(tuned, alone.tuned(d.support, **d.names)["prompt.tokens"])
    assert not torch.allclose(tuned, mixed.prompt.tokens)
    features = [features_of(d.lm, each, tuned) for each in d.texts]
    assert_close(method(*d.texts, **d.names), VERBALIZERS["mixture"](d.lm)(*features, **d.names), **CLOSE)
    tasks = prompt_tasks(mixed, d.episodes, d.ids, d.words)
    asked, answered = ({name: leaf[0] for name, leaf in each.items()} for each in (tasks[0], tasks[2]))
    assert_close(mixed(asked), plain(asked))
    words_alone = plain({name: leaf for name, leaf in answered.items() if name != "support"})
    assert not torch.allclose(mixed(answered), words_alone.log_softmax(-1))


def test_tuning_fits_the_support(deal):
    d = deal(n_episodes=20)
    model, way = model_of(d.lm), torch.arange(3).repeat_interleave(2).expand(20, -1)

    def fitted(steps):
        method = PromptTuning(model, steps=steps, lr=0.5)
        assert method.name == f"prompt tuning, {steps} steps"
        logits = method(d.support, d.support.flatten(1, 2), **d.names)
        return F.cross_entropy(logits.flatten(0, 1), way.flatten())

    assert fitted(20) < 0.7 * fitted(0)


def test_bad_settings_and_diverging_runs_are_named(deal):
    d = deal()
    model = model_of(d.lm)
    for settings, message in (
        ({"optimizer": "lion"}, "`optimizer` is 'lion'"),
        ({"steps": -1}, "`steps` is -1"),
        ({"lr": 0.0}, r"`lr` is 0\.0"),
        ({"optimizer": "adam", "rates": lambda name, step: 0.1}, "use optimizer='sgd'"),
    ):
        with pytest.raises(ValueError, match=message):
            PromptTuning(model, **settings)
    with pytest.raises(FloatingPointError, match="use an `lr` below"):
        PromptTuning(model, lr=1e308, steps=3)(*d.texts, **d.names)
    wide = Template("[SOFT*3] {text} [MASK]").tokenise(d.lm, TEXTS)
    with pytest.raises(ValueError, match="the prompt has 2"):
        evaluate(PromptTuning(model, steps=1), d.episodes, wide, names=d.words)
    with pytest.raises(TypeError, match="`suport_mask` is unknown"):
        PromptTuning(model)(*d.texts, suport_mask=None)
