"""The words beside the encoder: closed forms, and what a classifier makes of them."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn
from torch.testing import assert_close

from fewshot_lib import FewShotClassifier, load_relational
from fewshot_lib.classifier import WithWords, Words, words
from fewshot_lib.classifier.familiar import class_centres, familiarity
from fewshot_lib.classifier.inputs import features_of, text_encoder
from fewshot_lib.encoders import tokens_of

TEXTS = ["the card is late", "the card, the card!", "a parcel is here", "my parcel is lost"]
LABELS = ["card", "card", "post", "post"]
NEW = ["the card is lost", "parcel parcel late", "entirely unheard jargon", "late card zyzzyva"]


def ids_of(texts):
    return tokens_of(text_encoder("minilm"), list(texts))["input_ids"]


def of(texts, weight=1.0):
    return Words.of(text_encoder("minilm").tokenizer, ids_of(texts), weight)


def pieces(text):
    return text_encoder("minilm").tokenizer.tokenize(text)


def test_they_are_the_tfidf_of_scikit_learn_where_all_pieces_are_known():
    theirs = TfidfVectorizer(analyzer=pieces, sublinear_tf=True)
    expected = theirs.fit_transform(TEXTS).toarray()
    ours = of(TEXTS)
    tokenizer = text_encoder("minilm").tokenizer
    order = [theirs.vocabulary_[piece] for piece in tokenizer.convert_ids_to_tokens(ours.pieces.tolist())]
    assert_allclose(ours(ids_of(TEXTS))[:, :-1].numpy(), expected[:, order], atol=1e-6)
    assert ours(ids_of(TEXTS))[:, -1].count_nonzero() == 0
    known = [text for text in NEW if set(pieces(text)) <= set(theirs.vocabulary_)]
    assert len(known) == 2
    expected = theirs.transform(known).toarray()[:, order]
    assert_allclose(ours(ids_of(known))[:, :-1].numpy(), expected, atol=1e-6)


def test_what_is_unknown_shares_a_column_that_holds_its_length():
    ours, [vector] = of(TEXTS), of(TEXTS)(ids_of(["late zyzzyva"]))
    tokenizer = text_encoder("minilm").tokenizer
    late, unseen = 1 + math.log(5 / 2), 1 + math.log(5)
    n_unknown = len(pieces("zyzzyva"))  # all of them different
    assert n_unknown == len(set(pieces("zyzzyva"))) and not set(pieces("zyzzyva")) & set(
        pieces(" ".join(TEXTS))
    )
    column = ours.pieces.tolist().index(tokenizer.convert_tokens_to_ids("late"))
    assert vector[column] == pytest.approx(late / math.hypot(late, unseen * math.sqrt(n_unknown)))
    assert vector.count_nonzero() == 2
    assert ours(ids_of(["zyzzyva zyzzyva"]))[0].tolist() == pytest.approx([0.0] * len(ours.pieces) + [1.0])
    assert ours.of_names(ids_of(["zyzzyva"])).count_nonzero() == 0
    assert_close(ours.of_names(ids_of(["late zyzzyva"]))[0, :-1], vector[:-1])


def test_padding_order_and_company_change_nothing():
    ours = of(TEXTS, 0.6)
    together = ours(ids_of([*NEW, "the card " * 30]))[:-1]
    assert_close(together, torch.cat([ours(ids_of([text])) for text in NEW]))
    assert_close(ours(ids_of(["lost is card the"])), ours(ids_of(["the card is lost"])))
    assert_close(together.norm(dim=-1), torch.full((len(NEW),), 0.6))  # whatever of a text is known


def test_of_many_examples_the_commonest_pieces_stay(monkeypatch):
    monkeypatch.setattr(words, "NUMBERS", 4 * 3)
    tokenizer = text_encoder("minilm").tokenizer
    assert set(tokenizer.convert_ids_to_tokens(of(TEXTS).pieces.tolist())) == {"is", "the", "card"}


def test_features_are_the_encoders_and_the_words_side_by_side():
    encoder = text_encoder("minilm")
    both = words.with_words(encoder, TEXTS, 0.6)
    features, alone = features_of(both, NEW), features_of(encoder, NEW)
    d = alone.shape[1]
    assert_close(features[:, :d], nn.functional.normalize(alone, dim=-1), atol=1e-5, rtol=1e-5)
    assert_close(features[:, d:], of(TEXTS, 0.6)(ids_of(NEW)))
    named = words.encoded_names(both, ["card"], "this is about {}.")
    assert_close(named[:, :d], features_of(both, ["this is about card."])[:, :d])
    assert named[0, d:].count_nonzero() == 1  # "is" of the template is in the examples, and not in the name


def test_the_weight_is_what_the_words_count():
    one = FewShotClassifier(words=0).fit(TEXTS, LABELS)
    assert not isinstance(one.encoder_, WithWords)
    n_pieces = len({piece for text in TEXTS for piece in pieces(text)})
    default, heavy = FewShotClassifier().fit(TEXTS, LABELS), FewShotClassifier(words=50.0).fit(TEXTS, LABELS)
    assert default.features_.shape[1] - one.features_.shape[1] == n_pieces + 1
    assert float(default.encoder_.words.weight) == pytest.approx(words.WEIGHT)
    same_words = ["late is card the", "the card is late"]
    p = heavy.predict_proba(same_words)
    assert_allclose(p[0], p[1], atol=1e-3)  # the encoder, which knows the order, counts almost nothing
    with pytest.raises(ValueError, match="`words` is -1"):
        FewShotClassifier(words=-1).fit(TEXTS, LABELS)
    assert clone(heavy).words == 50.0


def test_trained_networks_own_encoders_and_other_inputs_have_no_words():
    class Own(nn.Module):
        def forward(self, texts):
            return torch.tensor([[len(text), text.count("a") + 1.0] for text in texts])

    for clf in (FewShotClassifier(load_relational()), FewShotClassifier(encoder=Own())):
        assert not isinstance(clf.fit(TEXTS, LABELS).encoder_, WithWords)
    assert FewShotClassifier().fit(np.eye(4), LABELS).encoder_ is None


def test_a_word_that_tells_classes_apart_is_enough():
    frame = ["a note about {} for the file", "please look at {} again", "we spoke of {} last time"]
    texts = [text.format(word) for word in ("zyx", "qwv") for text in frame]
    asked = [f"please note that we look at {word}" for word in ("zyx", "qwv") * 3]
    clf = FewShotClassifier().fit(texts, [0] * 3 + [1] * 3)
    assert_array_equal(clf.predict(asked), [0, 1] * 3)
    for text, word in zip(asked, ("zyx", "qwv"), strict=False):
        assert {piece for piece, _ in clf.explain(text).words} & set(pieces(word))


def test_classes_come_and_go_with_their_words(tmp_path):
    whole = FewShotClassifier().fit([*TEXTS, "the wifi is down"], [*LABELS, "net"])
    grown = FewShotClassifier().fit(TEXTS, LABELS).add_class("net", ["the wifi is down"])
    assert_array_equal(grown.encoder_.words.pieces, whole.encoder_.words.pieces)
    grown._learn(whole.method_)
    assert_allclose(grown.predict_proba(NEW), whole.predict_proba(NEW), atol=1e-5)
    smaller = grown.remove_class("net")
    fresh = FewShotClassifier().fit(TEXTS, LABELS)
    smaller._learn(fresh.method_)
    assert_allclose(smaller.predict_proba(NEW), fresh.predict_proba(NEW), atol=1e-5)


def test_saved_words_answer_to_the_bit_and_older_folders_have_none(tmp_path):
    for weight in (None, 0):
        clf = FewShotClassifier(words=weight).fit(TEXTS, LABELS)
        clf.save(tmp_path / str(weight))
        again = FewShotClassifier.load(tmp_path / str(weight))
        assert_array_equal(again.predict_proba(NEW), clf.predict_proba(NEW))
        assert again.words == weight
        assert_allclose(clone(again).fit(TEXTS, LABELS).predict_proba(NEW), clf.predict_proba(NEW), atol=1e-6)


def test_an_explanation_names_the_words_and_what_they_add_to_the_lead():
    clf = FewShotClassifier().fit(TEXTS, LABELS)
    why = clf.explain("the card is lost")
    added = dict(why.words)
    assert list(added.values()) == sorted(added.values(), reverse=True) and "card" in added
    assert f"card {added['card']:+.2f}" in str(why)
    d = FewShotClassifier(words=0).fit(TEXTS, LABELS).features_.shape[1]
    x = nn.functional.normalize(clf._encode(["the card is lost"]).double(), dim=-1)[0]
    lead = clf.head_.weights[0, 0] - clf.head_.weights[0, 1]
    of_words = (lead[d:-1] * x[d:-1]).tolist()  # all that words add, up and down
    assert sum(sorted(of_words, reverse=True)[: len(added)]) == pytest.approx(sum(added.values()))
    assert FewShotClassifier(words=0).fit(TEXTS, LABELS).explain("the card is lost").words == []


def test_a_character_that_the_tokenizer_does_not_know_counts_in_the_length_alone():
    ours = of([*TEXTS, "the 🦤"])
    assert text_encoder("minilm").tokenizer.unk_token_id not in ours.pieces
    known, with_unknown = ours(ids_of(["late", "late 🦤"]))
    assert known[:-1].norm() == pytest.approx(1) and 0 < with_unknown[:-1].norm() < 0.9


def test_examples_without_a_known_word_are_read_by_the_encoder_alone():
    clf = FewShotClassifier(names=None).fit(["🦤🦤", "🦤", "🦤 🦤 🦤", "🦤 🦤"], [0, 0, 1, 1])
    assert not isinstance(clf.encoder_, WithWords) and len(clf.predict(["🦤"])) == 1


def test_with_unlabelled_texts_classes_come_and_go_beside_the_old_words():
    pool = ["is the card here", "the parcel is late", "where is my card", "a lost parcel"]
    clf = FewShotClassifier().fit(TEXTS, LABELS, unlabelled=pool)
    pieces_before = clf.encoder_.words.pieces
    clf.add_class("net", ["the wifi is down", "no wifi"])
    assert clf.encoder_.words.pieces is pieces_before
    assert clf.method_.pool.shape[1] == clf.features_.shape[1] == clf.name_features_.shape[1]
    assert clf.predict(["the wifi"]).tolist() == ["net"]
    assert clf.remove_class("net").classes_.tolist() == ["card", "post"]


def test_words_asked_for_where_there_are_none_are_refused():
    class Own(nn.Module):
        def forward(self, texts):
            return torch.ones(len(texts), 2)

    with pytest.raises(ValueError, match="`words` is 0.5, and only a `TextEncoder`"):
        FewShotClassifier(words=0.5, encoder=Own()).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="`words` is 0.5, and `method` is a trained network"):
        FewShotClassifier(load_relational(), words=0.5).fit(TEXTS, LABELS)
    assert len(FewShotClassifier(words=0).fit(np.eye(4), LABELS).predict(np.eye(4))) == 4


def test_columns_are_bounded(monkeypatch):
    monkeypatch.setattr(words, "COLUMNS", 2)
    assert len(of(TEXTS).pieces) == 2
    assert of(TEXTS)(ids_of(["is the card late"])).shape == (1, 3)


def test_the_more_of_a_text_is_unknown_the_less_familiar_it_is():
    clf = FewShotClassifier().fit(TEXTS, LABELS)
    features = clf._encode(["the card is late"]).repeat(4, 1)
    d = features.shape[1] - clf.encoder_.words.width
    for row, share in enumerate((0.3, 0.6, 0.9), 1):  # of the words' length; the encoder's part is the same
        features[row, d:-1] *= (1 - share**2) ** 0.5
        features[row, -1] = share * words.WEIGHT
    centres = class_centres(clf.support_, clf.mask_, clf.name_features_)
    seen = familiarity(features, centres, clf._logits(features))
    assert (seen.diff() < 0).all()
    assert len(set(clf._logits(features).argmax(-1).tolist())) == 1
