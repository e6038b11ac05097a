"""A classifier asks its examples how much the names of its classes count, and keeps what they said."""

import numpy as np
import torch
from torch.testing import assert_close

from fewshot_lib.classifier import FewShotClassifier, methods
from fewshot_lib.prototypes import NamesAsExamples, found_weight

D = 24


class Letters(torch.nn.Module):
    """A text of words "<class>.<seed>" is a noisy centre; a name is the centre of the class it says."""

    def forward(self, texts):
        return torch.stack([self.one(text.removeprefix("this is about ").rstrip(".")) for text in texts])

    @staticmethod
    def one(text):
        kind, _, seed = text.partition(" ")
        centre = torch.randn(D, generator=torch.Generator().manual_seed(ord(kind[0])))
        noise = torch.randn(D, generator=torch.Generator().manual_seed(1000 + int(seed))) if seed else 0
        return centre + 2.5 * noise


KINDS = ["apple", "bread", "chair", "dress", "earth", "flame"]
WRONG = dict(zip(KINDS, np.roll(KINDS, 1).tolist(), strict=True))


def texts(n, start):
    """n texts of each kind, and their labels."""
    both = [(f"{kind} {start + 100 * i + j}", kind) for i, kind in enumerate(KINDS) for j in range(n)]
    return map(list, zip(*both, strict=True))


def fitted(method=None, names="auto", n=3, **options):
    return FewShotClassifier(method, names=names, encoder=Letters()).fit(*texts(n, 0), **options)


def test_with_wrong_names_it_is_better_than_one_that_trusts_them():
    asked = list(texts(60, 9000))
    trusting, doubting = (fitted(method, WRONG).score(*asked) for method in (NamesAsExamples(), None))
    assert doubting > trusting + 0.05


def test_what_the_examples_say_is_what_they_say_of_the_episode_and_stays_when_classes_come_and_go(tmp_path):
    clf = fitted(names=WRONG)
    weight = clf.method_.weight
    assert weight == float(found_weight(clf.support_[None], clf.name_features_[None], clf.mask_[None])) < 1
    assert fitted(NamesAsExamples(2.0), WRONG).method_.weight == 2
    clf.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model", encoder=Letters())
    for each in (clf, again):
        each.remove_class("chair").add_class("green", ["green 1", "green 2"])
        assert each.method_.weight == weight
    assert_close(again.head_.weights, clf.head_.weights, rtol=0, atol=0)
    assert again.accuracy_ == clf.accuracy_


def test_unlabelled_texts_and_the_rivals_of_auto_keep_the_weight():
    weight = fitted(names=WRONG).method_.weight
    pool, _ = texts(5, 7000)
    helped = fitted("auto", WRONG, unlabelled=pool)
    assert fitted(names=WRONG, unlabelled=pool).method_.weight == weight
    rivals = methods.candidates(helped._default_method(), helped.name_features_)
    names = [each for each in rivals if getattr(each, "uses_names", False) and hasattr(each, "weight")]
    assert [each.weight for each in names] == [weight, weight]


def test_without_names_there_is_nothing_to_weigh():
    assert fitted(names=None).method_ == NamesAsExamples(uses_names=False)
