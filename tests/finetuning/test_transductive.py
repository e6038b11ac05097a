"""TIM and transductive fine-tuning against loops written from the papers, and what the entropies do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fewshot_lib.finetuning import TIM, FineTuning, TransductiveFineTuning, entropy, marginal_entropy
from fewshot_lib.prototypes import cosine_prototypes


def tim_by_hand(support, query, steps, lr):
    """One episode, from the paper: λ CE − H(Y) + α H(Y|X), λ = α = 0.1, with logits −15/2 ‖w − z‖²."""
    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    labels = torch.arange(support.shape[0]).repeat_interleave(support.shape[1])
    weights = support.mean(1).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=lr)
    for _ in range(steps):
        p_s, p_q = (
            (-15 / 2 * (z.unsqueeze(1) - weights).square().sum(-1)).softmax(-1)
            for z in (support.flatten(0, 1), query)
        )
        cross_entropy = -p_s[torch.arange(len(labels)), labels].log().mean()
        conditional = -(p_q * p_q.log()).sum(-1).mean()
        marginal = -(p_q.mean(0) * p_q.mean(0).log()).sum()
        optimizer.zero_grad()
        (0.1 * cross_entropy - marginal + 0.1 * conditional).backward()
        optimizer.step()
    return (-15 / 2 * (query.unsqueeze(1) - weights).square().sum(-1)).softmax(-1).detach()


def test_tim_is_the_papers_algorithm(batch):
    support, query = batch()
    expected = torch.stack([tim_by_hand(s, q, 40, 0.01) for s, q in zip(support, query, strict=True)])
    assert_close(TIM(steps=40, lr=0.01)(support, query).softmax(-1), expected, atol=1e-6, rtol=0)


def test_transductive_fine_tuning_is_the_papers_algorithm(batch):
    """Dhillon et al.: W = M, b = 0; an Adam step on the cross-entropy, then one on the query entropy."""
    support, query = batch()
    fine_tuning = TransductiveFineTuning(steps=15, lr=0.01, temperature=1.0, weight=0.5)
    for s, q, logits in zip(support, query, fine_tuning(support, query), strict=True):
        x, z = F.normalize(s, dim=-1).flatten(0, 1), F.normalize(q, dim=-1)
        labels = torch.arange(4).repeat_interleave(2)
        classifier = nn.Linear(5, 4, dtype=torch.float64)
        with torch.no_grad():
            classifier.weight.copy_(F.normalize(s.mean(1), dim=-1))
            classifier.bias.zero_()
        optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
        for _ in range(15):
            optimizer.zero_grad()
            F.cross_entropy(classifier(x), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            (0.5 * torch.distributions.Categorical(logits=classifier(z)).entropy().mean()).backward()
            optimizer.step()
        assert_close(logits, classifier(z).detach(), atol=1e-8, rtol=0)


def test_without_a_step_both_are_cosine_prototypes_at_one_shot(batch):
    support, query = batch(k=1)
    p = cosine_prototypes(support, query).softmax(-1)  # τ = 0.1
    assert_close(TIM(steps=0, temperature=0.1)(support, query).softmax(-1), p)
    assert_close(TransductiveFineTuning(steps=0, temperature=0.1)(support, query).softmax(-1), p)


def test_marginal_entropy_is_that_of_the_mean_prediction():
    one_class, balanced = torch.tensor([[9.0, -99.0]] * 4), torch.tensor([[99.0, -99.0], [-99.0, 99.0]] * 2)
    logits = torch.stack([one_class, balanced, torch.zeros(4, 2)])
    everyone = torch.ones(3, 4, dtype=torch.bool)
    assert_close(marginal_entropy(logits, everyone), torch.tensor([0, 2.0, 2.0]).log().clamp_min(0))
    assert_close(entropy(logits).mean(-1), torch.tensor([0, 0, torch.tensor(2.0).log()]))
    every_other = torch.tensor([True, False, True, False]).expand(3, 4)
    assert_close(marginal_entropy(logits, every_other)[1], torch.tensor(0.0))


def crowded_episodes(shares, e=100):
    """Two overlapping classes, a pair of supports that leans to one side, queries in the given shares."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(40) >= shares * 40).long().expand(e, 40)
    centres = F.normalize(torch.tensor([[1.0, 0.4, 0.0], [1.0, -0.4, 0.0]]), dim=-1)
    query = centres[labels] + 0.15 * torch.randn(e, 40, 3, generator=generator)
    return (centres.view(1, 2, 1, 3) + 0.3 * torch.randn(e, 2, 1, 3, generator=generator)), query, labels


def test_tim_helps_on_balanced_queries_and_assumes_the_balance():
    tim = TIM(steps=200, lr=0.01)

    def gain(shares):
        support, query, labels = crowded_episodes(shares)
        right = [m(support, query).argmax(-1) == labels for m in (tim, FineTuning(steps=0))]
        return right[0].float().mean() - right[1].float().mean()

    assert gain(0.5) > 0.05
    assert gain(0.9) < gain(0.5) - 0.1


def test_tim_predicts_every_class_where_entropy_alone_need_not():
    support, query, _ = crowded_episodes(0.5)
    everyone = torch.ones(query.shape[:2], dtype=torch.bool)
    tim = TIM(steps=200, lr=0.01)(support, query)
    alone = FineTuning(regulariser="entropy", weight=10.0, steps=200)(support, query)
    assert (marginal_entropy(tim, everyone) > 0.9 * torch.tensor(2.0).log()).all()
    assert (marginal_entropy(alone, everyone) < 0.1).any()


def test_settings_of_another_method_are_refused():
    with pytest.raises(ValueError, match="`regulariser` is 'weight_decay': use one of 'information'"):
        TIM(regulariser="weight_decay")
    with pytest.raises(ValueError, match="`regulariser` is None: use one of 'entropy'"):
        TransductiveFineTuning(regulariser=None)
    with pytest.raises(ValueError, match=r"`alpha` is -1\.0"):
        TIM(alpha=-1.0)
