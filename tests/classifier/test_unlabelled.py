import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from fewshot_lib.classifier import FewShotClassifier
from fewshot_lib.classifier.unlabelled import WEIGHT, WithUnlabelled, without_examples
from fewshot_lib.prototypes import NamesAsExamples, cosine_prototypes


def clouds(n, seed=0, noise=1.2, n_way=4, d=16):
    """Features (n_way n, d) around fixed centres, and their labels."""
    centres = torch.randn(n_way, d, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    points = centres.repeat_interleave(n, 0) + noise * torch.randn(n_way * n, d, generator=generator)
    return points.double().numpy(), np.arange(n_way).repeat(n)


def test_a_pool_moves_the_answers_towards_the_truth():
    (asked, truth), (pool, _) = clouds(100, 1), clouds(100, 2)
    gains = []
    for seed in range(10, 20):
        few = clouds(1, seed)
        plain, helped = FewShotClassifier().fit(*few), FewShotClassifier().fit(*few, unlabelled=pool)
        gains.append(helped.score(asked, truth) - plain.score(asked, truth))
    assert np.mean(gains) > 0.03


def test_it_stays_inductive():
    asked, _ = clouds(5, 1)
    clf = FewShotClassifier().fit(*clouds(2), unlabelled=clouds(20, 2)[0])
    assert not clf.method_.transductive
    alone = np.concatenate([clf.predict_proba(x[None]) for x in asked])
    np.testing.assert_allclose(clf.predict_proba(asked), alone, atol=1e-12)


def test_the_mean_of_each_class_joins_the_examples_with_a_weight_below_that_of_three_examples():
    x = torch.from_numpy(clouds(3)[0]).view(1, 4, 3, 16)
    pool = torch.from_numpy(clouds(20, 2)[0])
    method = WithUnlabelled(9.0, pool=pool)
    features, weights = method.training_set(x)
    assert features.shape == (1, 4, 4, 16) and weights.shape == (1, 4, 4)
    q = (2 * NamesAsExamples().fit(x)(pool.unsqueeze(0))[0]).softmax(-1)
    for k in range(4):
        mean = F.normalize((q[:, k : k + 1] * F.normalize(pool, dim=-1)).sum(0), dim=0)
        assert_close(features[0, k, 0], mean)
        assert_close(weights[0, k, 0], WEIGHT * (q[:, k] ** 2).sum() / q[:, k].sum())
    assert (weights[0, :, 0] < WEIGHT).all()


def test_episodes_of_a_batch_are_answered_as_if_alone():
    x = torch.from_numpy(np.stack([clouds(2, s)[0] for s in (3, 4)])).view(2, 4, 2, 16)
    method = WithUnlabelled(pool=torch.from_numpy(clouds(20, 2)[0]))
    together = method(x, x.flatten(1, 2), x[:, :, 0])
    alone = [method(x[e : e + 1], x[e : e + 1].flatten(1, 2), x[e : e + 1, :, 0]) for e in range(2)]
    assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_what_is_an_example_is_taken_out_of_the_pool_so_that_held_out_stays_unseen():
    points, labels = clouds(4)
    others = clouds(10, 2)[0]
    clean = FewShotClassifier().fit(points, labels, unlabelled=others)
    with_examples = FewShotClassifier().fit(points, labels, unlabelled=np.concatenate([3 * points, others]))
    assert_close(with_examples.held_out_.logits, clean.held_out_.logits)
    assert len(without_examples(torch.from_numpy(points), torch.from_numpy(points))) == 0


def test_a_pool_of_nothing_new_changes_nothing():
    points, labels = clouds(2)
    assert type(FewShotClassifier().fit(points, labels, unlabelled=points).method_) is NamesAsExamples


def test_saved_and_loaded_it_answers_the_same_and_keeps_its_pool(tmp_path):
    points, labels = clouds(3)
    clf = FewShotClassifier().fit(points, labels, unlabelled=clouds(20, 2)[0])
    clf.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model")
    assert_array_equal(again.predict_proba(points), clf.predict_proba(points))
    assert again.method_.name == "logistic regression, batched, with 80 unlabelled"
    for each in (clf, again):
        each.remove_class(3)
    assert_array_equal(again.predict_proba(points), clf.predict_proba(points))


def test_auto_may_choose_to_leave_the_pool_unread():
    clf = FewShotClassifier("auto").fit(*clouds(4), unlabelled=clouds(20, 2)[0])
    assert set(clf.choice_) == {
        "logistic regression, batched, with 80 unlabelled",
        "logistic regression, batched",
        "prototypes, cosine",
    }


def test_a_method_that_reads_none_is_refused():
    with pytest.raises(ValueError, match="`unlabelled` is given, and `method` .* reads none"):
        FewShotClassifier(cosine_prototypes).fit(*clouds(2), unlabelled=clouds(3)[0])
