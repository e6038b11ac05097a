"""Templates by hand, soft tokens that are words, and a mask that is read alike whatever stands beside it."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AddedToken, RobertaTokenizer

from fewshot_lib.prompts import templates
from fewshot_lib.prompts.templates import (
    Template,
    initial_prompt,
    mask_features,
    read_mask,
    trimmed,
    without_soft,
)

CLOSER = {"atol": 1e-12, "rtol": 0}
TEXTS = ["a graph", "the sound of a wave in the net", "node", "path of a node to a node with noise", "node"]
HARD = Template("{text} . the topic is [MASK] .")


def words_of(lm, ids):
    return [lm.tokenizer.convert_ids_to_tokens(i) if i >= 0 else i for i in ids]


def random_prompts(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_text_in_a_template(tiny_lm):
    lm = tiny_lm()
    ids = HARD.tokenise(lm, ["a graph", "node"])
    assert words_of(lm, ids[0].tolist()) == "[CLS] a graph . the topic is [MASK] . [SEP]".split()
    assert words_of(lm, ids[1].tolist()) == "[CLS] node . the topic is [MASK] . [SEP] [PAD]".split()
    whole = lm.tokenise([HARD.pattern.replace("{text}", text) for text in TEXTS])["tokens"]
    assert torch.equal(HARD.tokenise(lm, TEXTS), whole)


@pytest.mark.parametrize(
    "pattern", [HARD.pattern, "the topic : [MASK] . is {text}", "[MASK] : {text}", "{text} [MASK]"]
)
def test_words_keep_the_space_before_them_where_a_tokenizer_sees_it(tiny_lm, pattern):
    """Byte-level tokenizers, as RoBERTa's, have one token for " the" and others for "the"."""
    special, pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], ["Ġt", "Ġth", "Ġthe", "he"]
    letters = [*special, *"abcdefghijklmnopqrstuvwxyz.:Ġ", *pieces]
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("h", "e")]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    lm = tiny_lm("roberta", max_tokens=60)
    lm.tokenizer = RobertaTokenizer(
        vocab={token: i for i, token in enumerate(letters)}, merges=merges, mask_token=mask
    )
    lm.mask_token_id = lm.tokenizer.mask_token_id
    for text in ("the node", "a"):
        whole = lm.tokenizer(pattern.replace("{text}", text).replace("[MASK]", "<mask>"))["input_ids"]
        assert Template(pattern).tokenise(lm, [text])[0].tolist() == whole
        softened = Template(pattern).softened
        soft, words = softened.tokenise(lm, [text])[0].tolist(), softened.words(lm)
        assert [words[-1 - i] if i < 0 else i for i in soft] == whole


def test_soft_tokens_count_down_from_minus_one_wherever_they_stand(tiny_lm):
    lm = tiny_lm()
    template = Template("[SOFT*2] {text} [networks] what [SOFT] [MASK] [the topic]")
    (ids,) = template.tokenise(lm, ["a node"]).tolist()
    expected = "[CLS] -1 -2 a node -3 -4 -5 what -6 [MASK] -7 -8 [SEP]"
    assert " ".join(map(str, words_of(lm, ids))) == expected
    assert template.words(lm)[:2] == [None, None] and template.words(lm)[5] is None
    assert words_of(lm, template.words(lm)[2:5]) == ["net", "##work", "##s"]
    assert words_of(lm, template.words(lm)[6:]) == ["the", "topic"]


def test_hard_and_softened_templates():
    assert Template("[SOFT*3] {text} . [the] topic [MASK]").hard == Template("{text} . the topic [MASK]")
    assert Template("The topic : [MASK] . Input : {text}").softened == Template(
        "[The topic :] [MASK] [. Input :] {text}"
    )
    assert HARD.softened.hard == HARD


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("the topic is [MASK]", r"0 times \{text\}"),
        ("{text} . the topic", r"0 times \[MASK\]"),
        ("{text} [MASK] [MASK]", r"2 times \[MASK\]"),
        ("{text} {text} [MASK]", r"2 times \{text\}"),
        ("{text} {label} [MASK]", r"unknown slot \{label\}"),
        ("{text} [mask] [MASK]", r"unknown slot \[mask\]"),
        ("{text} [SOFT*0] [MASK]", r"unknown slot \[SOFT\*0\]"),
        ("{text} [SOFT *4] [MASK]", r"unknown slot \[SOFT \*4\]"),
        ("{text} [SFT] [MASK]", r"unknown slot \[SFT\]"),
        ("{text} [] [MASK]", r"unknown slot \[\]"),
    ],
)
def test_templates_that_are_none_are_refused(pattern, named):
    with pytest.raises(ValueError, match=named):
        Template(pattern)


def test_words_in_brackets_must_be_known(tiny_lm):
    with pytest.raises(ValueError, match=r"the word \[zebra\]"):
        Template("{text} [zebra] [MASK]").tokenise(tiny_lm(), ["a"])


def test_only_the_text_is_cut(tiny_lm):
    lm = tiny_lm(max_tokens=12)
    long = Template("[the] [MASK] : {text} . [SOFT]").tokenise(lm, ["node " * 50, "node"])
    assert words_of(lm, long[0].tolist()) == ["[CLS]", -1, "[MASK]", ":", *["node"] * 5, ".", -2, "[SEP]"]
    assert long.shape == (2, 12) and (long == lm.mask_token_id).sum(1).tolist() == [1, 1]
    assert HARD.tokenise(lm, ["node " * 50], max_tokens=10).shape == (1, 10)
    with pytest.raises(ValueError, match="leaves 0 tokens for the text"):
        HARD.tokenise(lm, ["node"], max_tokens=8)
    with pytest.raises(ValueError, match="give a list"):
        HARD.tokenise(lm, "node")


def test_a_mask_that_stands_in_a_text_is_no_gap(tiny_lm):
    lm = tiny_lm()
    (ids,) = HARD.tokenise(lm, ["a [MASK] node [PAD] {text}"]).tolist()
    assert words_of(lm, ids)[:5] == ["[CLS]", "a", "[UNK]", "node", "[UNK]"]
    assert ids.count(lm.mask_token_id) == 1


def test_a_soft_prompt_of_the_words_embeddings_is_the_hard_prompt_exactly(tiny_lm):
    lm = tiny_lm()
    prompt = initial_prompt(lm, HARD.softened, "words")
    assert prompt.shape == (5, 12)
    hard, soft = HARD.tokenise(lm, TEXTS), HARD.softened.tokenise(lm, TEXTS)
    assert (soft < 0).sum(1).tolist() == [5] * 5
    assert torch.equal(read_mask(lm, soft, prompt), read_mask(lm, hard))
    assert torch.equal(read_mask(lm, soft, prompt.expand(5, -1, -1)), read_mask(lm, hard))
    assert not torch.allclose(read_mask(lm, soft, prompt.flip(0)), read_mask(lm, hard))


def test_neither_padding_nor_neighbours_change_a_text(tiny_lm):
    lm = tiny_lm()
    ids, prompt = HARD.softened.tokenise(lm, TEXTS), random_prompts(5, 12)
    read = read_mask(lm, ids, prompt)
    wide = torch.nn.functional.pad(ids, (0, 7), value=lm.tokenizer.pad_token_id)
    assert_close(read_mask(lm, wide, prompt), read, **CLOSER)
    alone = torch.cat([read_mask(lm, HARD.softened.tokenise(lm, [text]), prompt) for text in TEXTS])
    assert_close(alone, read, **CLOSER)
    assert torch.equal(trimmed(lm, wide)[0], ids)


@pytest.mark.parametrize("tokens_at_once", [1, 40, 10_000])
@pytest.mark.parametrize("kind", ["one", "of each text", "of each episode"])
def test_many_texts_are_read_as_in_one_pass(tiny_lm, monkeypatch, tokens_at_once, kind):
    monkeypatch.setattr(templates, "CPU_TOKENS", tokens_at_once)
    lm = tiny_lm()
    ids = HARD.softened.tokenise(lm, [*TEXTS, "a", "the edge", "a net"]).view(2, 4, -1)
    shape = {"one": (), "of each text": (2, 4), "of each episode": (2, 1)}[kind]
    prompt = random_prompts(*shape, 5, 12).requires_grad_()
    spread = prompt.expand(2, 4, 5, 12)
    expected = torch.stack([read_mask(lm, ids[e], spread[e]) for e in (0, 1)])
    features = mask_features(lm, ids, prompt)
    assert_close(features, expected, **CLOSER)
    weights = random_prompts(2, 4, 12, seed=1)
    gradients = [torch.autograd.grad((weights * each).sum(), prompt)[0] for each in (features, expected)]
    assert_close(gradients[0], gradients[1], atol=1e-10, rtol=0)


def test_equal_texts_with_one_prompt_are_read_once_and_short_ones_without_long_ones(tiny_lm, monkeypatch):
    monkeypatch.setattr(templates, "CPU_TOKENS", 40)
    lm, shapes = tiny_lm(), []
    hidden = lm.hidden
    monkeypatch.setattr(lm, "hidden", lambda x, **mask: shapes.append(x.shape[:2]) or hidden(x, **mask))
    mask_features(lm, HARD.tokenise(lm, TEXTS))
    lengths = sorted(len(HARD.tokenise(lm, [text])[0]) for text in set(TEXTS))
    assert shapes == [(2, lengths[1]), (2, lengths[3])]


def test_a_prompt_that_is_missing_or_too_short_is_refused(tiny_lm):
    lm = tiny_lm()
    ids = HARD.softened.tokenise(lm, TEXTS)
    for n, prompt in ((0, None), (4, random_prompts(4, 12))):
        with pytest.raises(ValueError, match=f"have 5 soft tokens, and the prompt has {n}"):
            mask_features(lm, ids, prompt)


def test_without_soft_tokens_a_text_is_what_the_template_without_them_gives(tiny_lm):
    lm = tiny_lm()
    ids = without_soft(lm, Template("[SOFT*3] {text} . [the] topic is [MASK] .").tokenise(lm, TEXTS))
    assert torch.equal(trimmed(lm, ids)[0], Template("{text} . topic is [MASK] .").tokenise(lm, TEXTS))


def test_starts(tiny_lm):
    lm = tiny_lm()
    with torch.no_grad():  # two numbers of the embeddings are large and far from zero
        lm.word_embeddings[:, :2] = 100 + 10 * lm.word_embeddings[:, :2]
    template, table = Template("{text} [SOFT*200] [MASK]"), lm.word_embeddings.detach()

    def start(kind, seed=0, template=template, **options):
        return initial_prompt(lm, template, kind, generator=torch.Generator().manual_seed(seed), **options)

    noise = start("noise")
    assert_close(noise.mean(0), table.mean(0), atol=2.5, rtol=0.3)
    assert_close(noise.std(0), table.std(0), atol=0, rtol=0.3)
    assert torch.equal(noise, start("noise")) and not torch.equal(noise, start("noise", seed=1))
    chosen = (start("vocabulary").unsqueeze(1) == table).all(-1).nonzero()[:, 1].unique()
    drawn = set(lm.tokenizer.convert_ids_to_tokens(chosen.tolist()))
    assert {"graph", "node", "the"} < drawn and not drawn & {"[PAD]", "[MASK]", ".", "##s", "a"}
    names = start("labels", class_names=["networks", "graph"], template=Template("{text} [SOFT*3] [MASK]"))
    pieces = {
        name: table[[lm.tokenizer.convert_tokens_to_ids(p) for p in parts]].mean(0)
        for name, parts in {"networks": ["net", "##work", "##s"], "graph": ["graph"]}.items()
    }
    found = [next(name for name, value in pieces.items() if torch.allclose(value, row)) for row in names]
    assert sorted(found[:2]) == ["graph", "networks"]


def test_starts_that_cannot_be_are_refused(tiny_lm):
    lm, template = tiny_lm(), Template("{text} [SOFT] [MASK]")
    for start, message in (
        ("zeros", "`start` is 'zeros'"),
        ("words", "has .SOFT.: use .words."),
        ("noise", "`generator` is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            initial_prompt(lm, template, start)
    with pytest.raises(ValueError, match="`class_names` is .*give a list with at least one"):
        initial_prompt(lm, template, "labels", generator=torch.Generator())
