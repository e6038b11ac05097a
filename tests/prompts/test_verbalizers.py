"""Verbalizers on cases computed by hand, and held to their word about queries and padding."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.prompts.verbalizers import LabelEmbedding, Mixture, RepVerb, Words, class_words

NAMES = ["networks", "the wave of signals", "font_letter"]
PIECES = [[["net", "##work", "##s"]], [["wave"], ["signal", "##s"]], [["font"], ["letter"]]]


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
    for words, pieces in zip(table.tolist(), PIECES, strict=True):
        found = [lm.tokenizer.convert_ids_to_tokens([i for i in word if i >= 0]) for word in words]
        assert [word for word in found if word] == pieces


def test_class_words_of_ones_own(tiny_lm):
    lm = tiny_lm()
    ids = lm.tokenizer.convert_tokens_to_ids
    table = class_words(lm, ["font", "sound"], {"font": ["glyph", "letters"]}).tolist()
    assert table == [[[ids("glyph"), -1], ids(["letter", "##s"])], [[ids("sound"), -1], [-1, -1]]]
    with pytest.raises(ValueError, match="`words` has 'letter', which is no class name"):
        class_words(lm, ["font"], {"letter": ["a"]})
    for name in ("the", "zebra"):
        with pytest.raises(ValueError, match=f"`class_names` has '{name}', which holds no word"):
            class_words(lm, ["font", name])


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_words_are_means_of_the_models_own_logits(tiny_lm, kind):
    lm = tiny_lm(kind)
    query = vectors(2, 4, 12)
    logits = Words(lm)(None, query, names=dealt(class_words(lm, NAMES)))
    full = lm.logits_at(query)
    for c, words in enumerate(PIECES):
        by_hand = [
            torch.stack([full[..., lm.tokenizer.convert_tokens_to_ids(p)] for p in pieces]).mean(0)
            for pieces in words
        ]
        assert_close(logits[..., c], torch.stack(by_hand).mean(0))


def test_a_centre_takes_off_the_mean_logit_over_its_texts(tiny_lm):
    lm = tiny_lm()
    words, (support, query), others = dealt(class_words(lm, NAMES)), episodes(), vectors(7, 12, seed=2)
    plain = Words(lm)(support, query, names=words)
    for centre, texts in (
        (others, others.expand(2, -1, -1)),
        (others[0], others[:1].expand(2, -1, -1)),
        ("support", support.flatten(1, 2)),
        ("both", torch.cat([support.flatten(1, 2), query], 1)),
    ):
        usual = Words(lm)(support, texts, names=words).mean(1, keepdim=True)
        verbalizer = Words(lm, centre)
        assert_close(verbalizer(support, query, names=words), plain - usual)
        assert verbalizer.uses_support == isinstance(centre, str)
    for wrong in (vectors(2, 4, 12), vectors(3, 11), vectors(0, 12)):
        with pytest.raises(ValueError, match=r"`centre` is \(\d, .*it must be \(n, 12\)"):
            Words(lm, wrong)
    with pytest.raises(ValueError, match="`centre` is 'query'"):
        Words(lm, "query")


def test_label_embedding_is_the_cosine_with_the_words_rows(tiny_lm):
    lm = tiny_lm()
    words, query, prior = class_words(lm, NAMES), vectors(2, 4, 12), vectors(7, 12, seed=2)
    table, ids = lm.word_embeddings, lm.tokenizer.convert_tokens_to_ids
    rows = torch.stack([torch.stack([table[ids(pieces)].mean(0) for pieces in w]).mean(0) for w in PIECES])
    t = lm.model.cls.predictions.transform
    for given, shift in ((None, 0), (prior, t(prior).mean(0))):
        by_hand = F.cosine_similarity((t(query) - shift).unsqueeze(2), rows, dim=-1) / 0.2
        assert_close(LabelEmbedding(lm, given, temperature=0.2)(None, query, names=dealt(words)), by_hand)


def test_only_the_rows_of_the_classes_are_computed(tiny_lm, monkeypatch):
    """The decoder over the whole vocabulary is never called."""
    lm = tiny_lm()
    monkeypatch.setattr(lm.decoder, "forward", None)
    assert Words(lm)(None, vectors(2, 4, 12), names=dealt(class_words(lm, NAMES))).shape == (2, 4, 3)


SUPPORT = torch.tensor([[[[3.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]]])  # one episode, 2 ways, 2 shots
QUERY = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])


@pytest.mark.parametrize(
    ("centre", "query", "means"),
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


def test_mixture_by_hand(tiny_lm):
    one, two = RepVerb(1.0, None), RepVerb(0.25, None)
    mixed = Mixture(one, two, weights=[0.75, 0.25])
    assert mixed.name == "RepVerb + RepVerb"
    p = torch.tensor([[1.0], [4.0]]).sigmoid()  # of the second query, cosines 1 and 0
    expected = 0.75 * p[0] + 0.25 * p[1]
    assert_close(mixed(SUPPORT, QUERY).exp()[0, 1], torch.cat([expected, 1 - expected]))
    assert_close(mixed(SUPPORT, QUERY).logsumexp(-1), torch.zeros(1, 2), atol=1e-6, rtol=0)
    assert not mixed.uses_names and Mixture(one, Words(tiny_lm())).uses_names
    assert Mixture(one, RepVerb(centre="both")).transductive
    for weights in ([0.5], [0.5, 0.6], [1.0, 0.0]):
        with pytest.raises(ValueError, match="`weights` are"):
            Mixture(one, two, weights=weights)
    with pytest.raises(ValueError, match="for 0 parts"):
        Mixture()


def test_in_an_inner_loop_a_mixture_is_its_words(tiny_lm):
    """At one shot examples are certain of themselves, and next to nothing is left of the words' gradient."""
    lm = tiny_lm()
    (support, _), words, way = episodes(k=1), dealt(class_words(lm, NAMES)), torch.arange(3).expand(2, -1)
    one, other, examples = Words(lm), LabelEmbedding(lm, "support"), RepVerb()

    def loss_and_gradient(verbalizer):
        moving = support.clone().requires_grad_()
        logits = run(verbalizer, moving, moving.flatten(1, 2), words)
        loss = F.cross_entropy(logits.flatten(0, 1), way.flatten())
        return loss.item(), torch.autograd.grad(loss, moving)[0]

    assert loss_and_gradient(examples)[0] < 1e-3
    assert Mixture(one, examples).on_support is one
    assert Mixture(examples, other, weights=[0.9, 0.1]).on_support is other
    both = Mixture(one, examples, other, weights=[0.2, 0.5, 0.3]).on_support
    expected = Mixture(one, other, weights=[0.4, 0.6])
    for each in zip(loss_and_gradient(both), loss_and_gradient(expected), strict=True):
        assert_close(*each)
    assert Mixture(Mixture(one, examples), examples).on_support is one
    for alone in (one, examples, Mixture(examples, RepVerb(centre=None))):
        assert alone.on_support is alone


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
    "mixture": lambda lm: Mixture(Words(lm), RepVerb()),
    "mixture, transductive": lambda lm: Mixture(Words(lm, "support"), RepVerb(centre="both")),
}


def run(verbalizer, support, query, words, **masks):
    extra = {"names": words} if verbalizer.uses_names else {}
    if not verbalizer.transductive:
        masks.pop("query_mask", None)
    return verbalizer(support, query, **extra, **masks)


@pytest.mark.parametrize("name", VERBALIZERS)
def test_verbalizers_are_as_inductive_as_they_say(tiny_lm, name):
    lm = tiny_lm()
    verbalizer, (support, query), words = VERBALIZERS[name](lm), episodes(), dealt(class_words(lm, NAMES))
    first = run(verbalizer, support, query, words)[:, :1]
    changed = torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1)
    others = run(verbalizer, support, changed, words)[:, :1]
    assert verbalizer.transductive == ("transductive" in name) == (not torch.allclose(first, others))
    if "rep" in name or "mix" in name:
        assert not torch.allclose(run(verbalizer, support.flip(1), query, words)[:, :1], first)


@pytest.mark.parametrize("name", VERBALIZERS)
def test_batches_equal_loops_and_masked_texts_change_nothing(tiny_lm, name):
    lm = tiny_lm()
    verbalizer, (support, query), words = VERBALIZERS[name](lm), episodes(), dealt(class_words(lm, NAMES))
    support_mask, query_mask = torch.ones(2, 3, 2, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    support_mask[0, :, 1], support_mask[1, 1, 1], query_mask[0, 2:] = False, False, False
    masks = {"support_mask": support_mask, "query_mask": query_mask}
    filled = support.masked_fill(~support_mask.unsqueeze(-1), 7.0)
    asked = query.masked_fill(~query_mask.unsqueeze(-1), 7.0)
    logits = run(verbalizer, filled, asked, words, **masks)
    fewer = run(verbalizer, support[:1, :, :1], query[:1, :2], words[:1])
    assert_close(logits[:1, :2], fewer, atol=1e-8, rtol=0)
    for e in (0, 1):
        alone = {mask: tensor[e : e + 1] for mask, tensor in masks.items()}
        loop = run(verbalizer, filled[e : e + 1], asked[e : e + 1], words[:1], **alone)
        assert_close(logits[e : e + 1], loop, atol=1e-8, rtol=0)


def test_verbalizers_are_methods_on_mask_features(tiny_lm):
    lm, labels = tiny_lm(), torch.arange(3).repeat_interleave(5)
    features = torch.eye(3, 12, dtype=torch.float64)[labels] + 0.01 * vectors(15, 12)
    drawn = EpisodeSampler(labels, torch.arange(3), 2, 2, 2, seed=0).sample(20)
    words = class_words(lm, NAMES)
    for name, make in VERBALIZERS.items():
        results = evaluate(make(lm), drawn, features, names=words)
        assert results.transductive == ("transductive" in name)
        if "rep" in name:
            assert results.mean == 1.0
