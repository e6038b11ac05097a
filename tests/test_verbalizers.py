"""Verbalizers on cases computed by hand, and held to their word about queries and padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.verbalizers import LabelEmbedding, Mixture, ProtoVerb, RepVerb, Words, class_words

NAMES = ["networks", "the wave of signals", "font_letter"]
PARTS = ("mean", [[["net", "##work", "##s"]], [["wave"], ["signal", "##s"]], [["font"], ["letter"]]])


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(d=12, e=2, n=3, k=2, m=4):
    return vectors(e, n, k, d), vectors(e, m, d, seed=1)


def dealt(words, e=2):
    return words.expand(e, *words.shape)


def test_class_words_are_the_pieces_of_the_words_of_a_name(tiny_lm):
    lm = tiny_lm()
    table = class_words(lm, NAMES)
    assert table.shape == (3, 2, 3)
    pieces = [[[lm.tokenizer.convert_ids_to_tokens(i) for i in word if i >= 0] for word in words] for words in table.tolist()]
    assert [[word for word in words if word] for words in pieces] == PARTS[1]


def test_class_words_of_ones_own_and_first_pieces(tiny_lm):
    lm = tiny_lm()
    ids = lm.tokenizer.convert_tokens_to_ids
    table = class_words(lm, ["font", "sound"], {"font": ["glyph", "letters", "font"]}, pieces="first")
    assert table.tolist() == [[[ids("glyph")], [ids("letter")], [ids("font")]], [[ids("sound")], [-1], [-1]]]
    with pytest.raises(ValueError, match="`words` has 'letter', which is no class name"):
        class_words(lm, ["font"], {"letter": ["a"]})
    for name in ("the", "zebra"):
        with pytest.raises(ValueError, match=f"`class_names` has '{name}', which holds no word that is known"):
            class_words(lm, ["font", name])
    with pytest.raises(ValueError, match="`pieces` is 'last'"):
        class_words(lm, ["font"], pieces="last")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_words_are_means_of_the_models_own_logits(tiny_lm, kind):
    lm = tiny_lm(kind)
    query, logits = vectors(2, 4, 12), Words(lm)(None, vectors(2, 4, 12), labels=dealt(class_words(lm, NAMES)))
    full = lm.logits_at(query)
    for c, words in enumerate(PARTS[1]):
        by_hand = [torch.stack([full[..., lm.tokenizer.convert_tokens_to_ids(p)] for p in pieces]).mean(0) for pieces in words]
        assert_close(logits[..., c], torch.stack(by_hand).mean(0))


def test_a_centre_takes_off_the_mean_logit_over_its_texts(tiny_lm):
    lm = tiny_lm()
    words, (support, query), others = dealt(class_words(lm, NAMES)), episodes(), vectors(7, 12, seed=2)
    plain = Words(lm)(support, query, labels=words)
    for centre, texts in (
        (others, others.expand(2, -1, -1)),
        (others[0], others[:1].expand(2, -1, -1)),
        ("support", support.flatten(1, 2)),
        ("both", torch.cat([support.flatten(1, 2), query], 1)),
    ):
        usual = Words(lm)(support, texts, labels=words).mean(1, keepdim=True)
        verbalizer = Words(lm, centre)
        assert_close(verbalizer(support, query, labels=words), plain - usual)
        assert verbalizer.uses_support == isinstance(centre, str) and verbalizer.transductive == (
            usual is not None and texts.shape[1] == 10
        )
    for wrong in (vectors(2, 4, 12), vectors(3, 11), vectors(0, 12)):
        with pytest.raises(ValueError, match=r"`centre` is \(\d, .*it must be \(n, 12\)"):
            Words(lm, wrong)
    with pytest.raises(ValueError, match="`centre` is 'query'"):
        Words(lm, "query")


def test_label_embedding_is_the_cosine_with_the_words_rows(tiny_lm):
    lm = tiny_lm()
    words, query, prior = class_words(lm, NAMES), vectors(2, 4, 12), vectors(7, 12, seed=2)
    table, ids = lm.word_embeddings, lm.tokenizer.convert_tokens_to_ids
    rows = torch.stack([torch.stack([table[ids(pieces)].mean(0) for pieces in w]).mean(0) for w in PARTS[1]])
    t = lm.model.cls.predictions.transform
    for given, shift in ((None, 0), (prior, t(prior).mean(0))):
        by_hand = F.cosine_similarity((t(query) - shift).unsqueeze(2), rows, dim=-1) / 0.2
        assert_close(LabelEmbedding(lm, given, temperature=0.2)(None, query, labels=dealt(words)), by_hand)


def test_only_the_rows_of_the_classes_are_computed(tiny_lm, monkeypatch):
    """The decoder over the whole vocabulary is never called."""
    lm = tiny_lm()
    monkeypatch.setattr(lm.model.get_output_embeddings(), "forward", None)
    assert Words(lm)(None, vectors(2, 4, 12), labels=dealt(class_words(lm, NAMES))).shape == (2, 4, 3)


SUPPORT = torch.tensor([[[[3.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]]])  # one episode, two ways, two shots
QUERY = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    "centre, query, means",
    [
        (None, [[1, 1], [1, 0]], [[2, 0], [0, 2]]),
        ("support", [[0, 0], [0, -1]], [[1, -1], [-1, 1]]),  # m = (1, 1)
        ("both", [[0, 1 / 6], [0, -5 / 6]], [[1, -5 / 6], [-1, 7 / 6]]),  # m = (1, 5/6)
        (torch.tensor([0.0, 1.0]), [[1, 0], [1, -1]], [[2, -1], [0, 1]]),
    ],
    ids=["none", "support", "both", "fixed"],
)
def test_repverb_by_hand(centre, query, means):
    logits = RepVerb(temperature=0.5, centre=centre)(SUPPORT, QUERY)
    query, means = torch.tensor(query, dtype=torch.float32), torch.tensor(means, dtype=torch.float32)
    assert_close(logits[0], F.cosine_similarity(query.unsqueeze(1), means, dim=-1) / 0.5)


def test_repverb_uncentred_in_numbers():
    assert_close(RepVerb(temperature=1.0, centre=None)(SUPPORT, QUERY)[0], torch.tensor([[HALF, HALF], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="`centre` is 'query'"):
        RepVerb(centre="query")


def test_mixture_by_hand(tiny_lm):
    one, two = RepVerb(1.0, None, name="one"), RepVerb(0.25, None, name="two")
    mixed = Mixture(one, two, weights=[0.75, 0.25])
    assert mixed.name == "one + two"
    p = torch.tensor([[1 / (1 + math.exp(-1))], [1 / (1 + math.exp(-4))]])  # of the second query, cosines 1 and 0
    expected = 0.75 * p[0] + 0.25 * p[1]
    assert_close(mixed(SUPPORT, QUERY).exp()[0, 1], torch.cat([expected, 1 - expected]))
    assert_close(mixed(SUPPORT, QUERY).logsumexp(-1), torch.zeros(1, 2), atol=1e-6, rtol=0)
    assert not mixed.uses_labels and Mixture(one, Words(tiny_lm())).uses_labels
    assert Mixture(one, RepVerb(centre="both")).transductive
    for weights in ([0.5], [0.5, 0.6], [1.0, 0.0]):
        with pytest.raises(ValueError, match="`weights` are"):
            Mixture(one, two, weights=weights)
    with pytest.raises(ValueError, match="for 0 verbalizers"):
        Mixture()


def test_in_an_inner_loop_a_mixture_is_its_words(tiny_lm):
    """At one shot examples alone are certain of themselves, and what is left of the words' gradient is next to nothing."""
    lm = tiny_lm()
    (support, _), words, way = episodes(k=1), dealt(class_words(lm, NAMES)), torch.arange(3).expand(2, -1)
    one, other, examples = Words(lm), LabelEmbedding(lm, "support"), RepVerb()

    def loss_and_gradient(verbalizer):
        moving = support.clone().requires_grad_()
        loss = F.cross_entropy(run(verbalizer, moving, moving.flatten(1, 2), words).flatten(0, 1), way.flatten())
        return loss.item(), torch.autograd.grad(loss, moving)[0]

    assert loss_and_gradient(examples)[0] < 1e-3
    assert Mixture(one, examples).inner is one and Mixture(examples, other, weights=[0.9, 0.1]).inner is other
    both = Mixture(one, examples, other, weights=[0.2, 0.5, 0.3]).inner
    for found, expected in zip(loss_and_gradient(both), loss_and_gradient(Mixture(one, other, weights=[0.4, 0.6])), strict=True):
        assert_close(found, expected)
    nested = Mixture(Mixture(one, examples), examples)
    assert nested.inner is one
    for alone in (one, examples, Mixture(examples, RepVerb(centre=None))):
        assert alone.inner is alone


def test_protoverb_starts_at_the_means_and_learns():
    support, query = episodes(k=3)
    start = ProtoVerb(dim=None, steps=0)(support, query)
    assert_close(start, RepVerb(centre=None)(F.normalize(support, dim=-1), query))
    right = torch.arange(3).expand(2, 3)

    def loss(steps, dim):
        logits = ProtoVerb(dim=dim, steps=steps)(support, support.flatten(1, 2))
        return F.cross_entropy(logits.unflatten(1, (3, 3)).permute(0, 3, 1, 2), right.unsqueeze(-1).expand(2, 3, 3))

    for dim in (None, 6):
        assert loss(50, dim) < 0.8 * loss(0, dim)
    assert not support.requires_grad and torch.is_grad_enabled()


def test_the_loss_of_protoverb_by_hand():
    """Examples a, b, c of class 0 (one masked out) and d, e, f of class 1, compared by cosines over τ."""
    support, means, projection = vectors(1, 2, 3, 5), vectors(1, 2, 4, seed=1), vectors(1, 4, 5, seed=2)
    mask = torch.tensor([[[True, True, False], [True, True, True]]])
    z = [(projection[0] @ support[0, k, i], k) for k in (0, 1) for i in range(3) if mask[0, k, i]]

    def weight(a, b):
        return torch.exp(F.cosine_similarity(a, b, dim=0) / 0.3)

    finds_class, finds_example, finds_other = [], [], []
    for i, (example, k) in enumerate(z):
        finds_class.append(weight(example, means[0, k]) / sum(weight(example, c) for c in means[0]))
        finds_example.append(weight(example, means[0, k]) / sum(weight(other, means[0, k]) for other, _ in z))
        rest = [(other, j) for number, (other, j) in enumerate(z) if number != i]
        finds_other += [weight(example, other) / sum(weight(example, o) for o, _ in rest) for other, j in rest if j == k]
    by_hand = -sum(torch.stack(each).log().mean() for each in (finds_class, finds_example, finds_other))
    assert len(finds_other) == 2 + 6
    assert_close(ProtoVerb(dim=4, temperature=0.3).loss([means, projection], support, mask)[0], by_hand)


def test_a_projection_pulls_examples_of_a_class_together():
    """Every class has a direction of its own, buried under a long common noise: only a projection can remove it."""
    generator = torch.Generator().manual_seed(0)
    own = torch.eye(8, dtype=torch.float64)[:3].view(1, 3, 1, 8)
    noise = torch.zeros(1, 3, 20, 8, dtype=torch.float64)
    noise[..., 3:] = 2 * torch.randn(1, 3, 20, 5, generator=generator, dtype=torch.float64)
    examples = own + noise
    support, query = examples[:, :, :10], examples[:, :, 10:].flatten(1, 2)
    truth = torch.arange(3).repeat_interleave(10)

    def accuracy(verbalizer):
        return (verbalizer(support, query)[0].argmax(-1) == truth).double().mean()

    assert accuracy(ProtoVerb(dim=8, steps=100)) > accuracy(RepVerb(centre=None)) + 0.1


VERBALIZERS = {
    "words": lambda lm: Words(lm),
    "calibrated": lambda lm: Words(lm, vectors(5, 12, seed=9)),
    "words, centred": lambda lm: Words(lm, "support"),
    "words, transductive": lambda lm: Words(lm, "both"),
    "label embedding": lambda lm: LabelEmbedding(lm),
    "label embedding, centred": lambda lm: LabelEmbedding(lm, "support"),
    "repverb": lambda lm: RepVerb(),
    "repverb, fixed centre": lambda lm: RepVerb(centre=torch.ones(12, dtype=torch.float64)),
    "repverb, transductive": lambda lm: RepVerb(centre="both"),
    "protoverb": lambda lm: ProtoVerb(dim=4, steps=10),
    "protoverb without projection": lambda lm: ProtoVerb(dim=None, steps=10),
    "mixture": lambda lm: Mixture(Words(lm), RepVerb()),
    "mixture, transductive": lambda lm: Mixture(Words(lm, "support"), RepVerb(centre="both")),
}


def run(verbalizer, support, query, words, **masks):
    extra = {"labels": words} if verbalizer.uses_labels else {}
    if not verbalizer.transductive:
        masks.pop("query_mask", None)
    return verbalizer(support, query, **extra, **masks)


@pytest.mark.parametrize("name", VERBALIZERS)
def test_verbalizers_are_as_inductive_as_they_say(tiny_lm, name):
    lm = tiny_lm()
    verbalizer, (support, query), words = VERBALIZERS[name](lm), episodes(), dealt(class_words(lm, NAMES))
    first = run(verbalizer, support, query, words)[:, :1]
    others = run(verbalizer, support, torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1), words)[:, :1]
    assert verbalizer.transductive == ("transductive" in name) == (not torch.allclose(first, others))
    if "rep" in name or "proto" in name or "mix" in name:
        assert not torch.allclose(run(verbalizer, support.flip(1), query, words)[:, :1], first)


@pytest.mark.parametrize("name", VERBALIZERS)
def test_batches_equal_loops_and_padding_changes_nothing(tiny_lm, name):
    lm = tiny_lm()
    verbalizer, (support, query), words = VERBALIZERS[name](lm), episodes(), dealt(class_words(lm, NAMES))
    support_mask = torch.ones(2, 3, 2, dtype=torch.bool)
    support_mask[0, 2], support_mask[1, 1, 1] = False, False
    query_mask = torch.tensor([[True, True, False, False], [True] * 4])
    filled = support.masked_fill(~support_mask.unsqueeze(-1), 7.0)
    logits = run(
        verbalizer, filled, query.masked_fill(~query_mask.unsqueeze(-1), 7.0), words, support_mask=support_mask, query_mask=query_mask
    )
    assert (logits[0, :, 2] == -torch.inf).all()
    small = run(verbalizer, support[:1, :2], query[:1, :2], words[:1, :2])
    assert_close(logits[:1, :2, :2], small, atol=1e-8, rtol=0)
    loop = [run(verbalizer, filled[e : e + 1], query[e : e + 1], words[:1], support_mask=support_mask[e : e + 1]) for e in (0, 1)]
    if not verbalizer.transductive:
        assert_close(logits[:, :2], torch.cat(loop)[:, :2], atol=1e-8, rtol=0)


def test_verbalizers_are_methods_on_mask_features(tiny_lm):
    lm = tiny_lm()
    labels = torch.arange(3).repeat_interleave(5)
    features = torch.eye(3, 12, dtype=torch.float64)[labels] + 0.01 * vectors(15, 12)
    drawn = EpisodeSampler(labels, torch.arange(3), 2, 2, 2, seed=0).sample(20)
    words = class_words(lm, NAMES)
    for name, make in VERBALIZERS.items():
        results = evaluate(make(lm), drawn, features, label_features=words)
        assert results.transductive == ("transductive" in name)
        if "rep" in name or "proto" in name:
            assert results.mean == 1.0
