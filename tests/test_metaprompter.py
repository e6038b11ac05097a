"""A pool of prompts: attention in numbers, cues that are read without soft tokens, and what its answers may depend on."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.meta_training import meta_loss
from fewshot_lib.metaprompter import PromptPool, meta_prompter, prompt_pool
from fewshot_lib.metaprompting import MetaPrompting, train_metaprompting
from fewshot_lib.prompt_model import PromptModel, prompt_tasks
from fewshot_lib.prompts import Template, embed, mask_features, read_mask
from fewshot_lib.verbalizers import class_words

TEMPLATE = Template("[SOFT*2] {text} . topic is [MASK] .")
NAMES = ["graph", "signal", "font letter"]
TEXTS = [
    *["a node", "the edge of a graph", "path", "a path of edges to a node in the graph", "node node"],
    *["a wave", "noise in the sound", "signal", "the wave with noise and sound and noise", "sound"],
    *["glyph", "a letter of a font", "the glyph and the letter", "fonts", "letter with letters to a glyph"],
]
DATASET = ClassDataset(TEXTS, torch.arange(3).repeat_interleave(5), NAMES, {"train": torch.arange(3)}, name="tiny")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pool(k=3, scale=5.0):
    """Keys so large that texts get prompts that differ."""
    return PromptPool(scale * normal(k, 12, seed=3), normal(k, 2, 12, seed=4))


@pytest.fixture
def setting(tiny_lm):
    lm = tiny_lm()
    episodes = EpisodeSampler(DATASET.labels, torch.arange(3), 3, 2, 2, seed=0).sample(3)
    return lm, episodes, TEMPLATE.tokenise(lm, TEXTS), class_words(lm, NAMES)


def test_attention_by_hand():
    """Cue (2, 0, 0, 0) and keys with first numbers log 3 and 0: products over √4 are log 3 and 0, weights ¾ and ¼."""
    keys, values = torch.zeros(2, 4), torch.stack([torch.full((3, 4), 1.0), torch.full((3, 4), 5.0)])
    keys[0, 0] = math.log(3)
    made = PromptPool(keys, values)
    cues = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert_close(made.attention(cues), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    assert_close(made(cues), torch.stack([torch.full((3, 4), 2.0), torch.full((3, 4), 3.0)]))
    with pytest.raises(ValueError, match=r"`keys` are \(2, 4\) and `values` \(3, 1, 4\)"):
        PromptPool(keys, torch.zeros(3, 1, 4))


def test_a_new_pool_has_normal_keys_of_its_generator():
    made = prompt_pool(torch.zeros(4, 2, 500), torch.Generator().manual_seed(0))
    assert made.keys.shape == (4, 500) and made.keys.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(made.keys, prompt_pool(torch.zeros(4, 2, 500), torch.Generator().manual_seed(0)).keys)


def test_equal_values_make_a_pool_one_soft_prompt(setting):
    lm, episodes, ids, words = setting
    values = normal(1, 2, 12)
    same, one = PromptModel(lm, PromptPool(normal(3, 12), values.expand(3, -1, -1))), PromptModel(lm, values[0])
    assert_close(same.features(ids, same.cues(ids)), one.features(ids), atol=1e-12, rtol=0)


def test_cues_are_mask_features_without_soft_tokens(setting):
    lm, _, ids, _ = setting
    model = PromptModel(lm, pool())
    plain = Template("{text} . topic is [MASK] .").tokenise(lm, TEXTS)
    assert_close(model.cues(ids), mask_features(lm, plain).detach(), atol=1e-12, rtol=0)
    assert not model.cues(ids).requires_grad
    with pytest.raises(ValueError, match="features of the .frozen. model"):
        PromptModel(lm, pool(), tune="lora")


def test_positions_and_types_are_added_once(setting):
    """What goes in are word embeddings and mixtures of the pool's values as they are: all else is the model's business."""
    lm, _, ids, _ = setting
    model = PromptModel(lm, pool())
    cues = model.cues(ids)
    prompts = torch.einsum("nk,kpd->npd", (cues @ model.prompt.keys.T / math.sqrt(12)).softmax(-1), model.prompt.values)
    vectors = lm.word_embeddings[ids.clamp_min(0)].clone()
    assert (ids[:, 1] == -1).all() and (ids[:, 2] == -2).all()
    vectors[:, 1:3] = prompts
    assert_close(embed(lm, ids, model.prompt(cues)), vectors, atol=1e-12, rtol=0)
    hidden = lm.hidden(inputs_embeds=vectors, attention_mask=(ids != 0).long())
    assert_close(read_mask(lm, ids, model.prompt(cues)), hidden[ids == lm.mask_token_id], atol=1e-12, rtol=0)


def by_hand(model, support, query, words, weight, centre):
    """½ RepVerb + ½ words for one episode, as log-probabilities."""

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


@pytest.mark.parametrize("transductive", [False, True])
def test_its_answers_by_hand(setting, transductive):
    lm, episodes, ids, words = setting
    learner = meta_prompter(lm, pool(), weight=0.3, transductive=transductive)
    logits = learner.as_method(0)(ids[episodes.support], ids[episodes.query], labels=words[episodes.classes])
    for e in range(3):
        rows = ids[episodes.support[e]], ids[episodes.query[e]], words[episodes.classes[e]]
        assert_close(logits[e], by_hand(learner.model, *rows, 0.3, "both" if transductive else "support"), atol=1e-9, rtol=0)


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("steps", [0, 2])
def test_it_is_as_inductive_as_it_says(setting, transductive, steps):
    lm, episodes, ids, words = setting
    method = meta_prompter(lm, pool(), transductive=transductive, inner_steps=steps).as_method()
    support, query, labels = ids[episodes.support], ids[episodes.query], words[episodes.classes]
    first = method(support, query, labels=labels)[:, :1]
    others = torch.cat([query[:, :1], query[:, 1:].roll(1, 0)], 1)
    independent = [torch.allclose(method(support, changed, labels=labels)[:, :1], first, atol=1e-9) for changed in (others, query[:, :1])]
    assert method.transductive == transductive and method.name == f"MetaPrompter, {steps} steps"
    assert independent == [not transductive] * 2


@pytest.mark.parametrize("transductive", [False, True])
def test_engines_and_the_batched_method_agree(setting, transductive):
    lm, episodes, ids, words = setting
    found, answers = [], []
    for engine in ("loop", "vmap"):
        learner = meta_prompter(lm, pool(), transductive=transductive, inner_steps=2, engine=engine)
        tasks = prompt_tasks(learner.model, episodes, ids, words, learner.model.cues(ids))
        found.append(torch.autograd.grad(meta_loss(learner, tasks)["loss"], list(learner.model.prompt.parameters())))
        answers.append(learner(tasks.support, tasks.support_labels, tasks.query))
        answers.append(learner.as_method()(ids[episodes.support], ids[episodes.query], labels=words[episodes.classes]))
    for loop, batched in zip(*found, strict=True):
        assert_close(batched, loop, atol=1e-9, rtol=1e-7)
    for answer in answers[1:]:
        assert_close(answer, answers[0], atol=1e-9, rtol=0)


def test_it_is_the_first_order_method_of_the_paper_on_keys_and_values_alone(setting):
    lm, _, _, _ = setting
    learner = meta_prompter(lm, pool())
    assert isinstance(learner, MetaPrompting) and learner.first_order and learner.inner_steps == 5
    assert learner.adapted == ["prompt.keys", "prompt.values"]
    assert sum(p.numel() for p in learner.parameters() if p.requires_grad) == 3 * 12 + 3 * 2 * 12
    with pytest.raises(ValueError, match=r"`weight` is 1\.0"):
        meta_prompter(lm, pool(), weight=1.0)


def test_training_improves_the_pool_and_leaves_the_model_alone(setting, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    lm, _, ids, words = setting
    start = pool()
    learner = meta_prompter(lm, start, inner_steps=1)
    drawn = EpisodeSampler(DATASET.labels, torch.arange(3), 3, 1, 2, seed=5).sample(30)
    frozen = {name: p.clone() for name, p in lm.named_parameters()}

    def loss():
        logits = learner.as_method()(ids[drawn.support], ids[drawn.query], labels=words[drawn.classes])
        return F.cross_entropy(logits.flatten(0, 1), drawn.query_labels.flatten()).item()

    before, keys = loss(), learner.model.prompt.keys.detach().clone()
    options = {"n_way": 3, "n_query": 2, "n_tasks": 3, "lr": 0.1}
    train_metaprompting(learner, DATASET, ids, words, 25, **options)
    assert loss() < before - 0.05 and not torch.equal(learner.model.prompt.keys, keys)
    assert all(torch.equal(p, frozen[name]) for name, p in lm.named_parameters())
    assert torch.equal(start.keys, keys)  # another learner may start from it
    given = meta_prompter(lm, pool(), inner_steps=1)  # with cues that were read beforehand
    train_metaprompting(given, DATASET, ids, words, 25, cues=given.model.cues(ids), **options)
    assert_close(given.model.prompt.values, learner.model.prompt.values, atol=1e-9, rtol=0)


def test_cues_are_needed_for_tasks_but_not_for_evaluation(setting):
    lm, episodes, ids, words = setting
    learner = meta_prompter(lm, pool(), inner_steps=1)
    with pytest.raises(ValueError, match="`cues` is missing"):
        prompt_tasks(learner.model, episodes, ids, words)
    assert evaluate(learner.as_method(), episodes, ids, label_features=words).n_episodes == 3
