r"""How much the names of the classes count: the examples have a say in it.

In ``name_examples`` the name of a class counts as much as w r_k examples, with w = 3 chosen on training and
validation classes of five data sets, five or more at a time. Of N < 5 classes names count more, w_N = 15/N
(and else w_N = 3): all names together as much as 15 examples. Your names may say more than theirs, or
nothing. Where a class has two examples, one can be held out and asked about. With z_i(w) the logits of
example i of class y_i, by a head that has not seen it, s_i its weight in equation (1) there, and T the
temperature of the probabilities,

    (1)  log p(w | examples) ≈ log p(w) + max_T [ log p(T) + Σ_i s_i log Softmax(z_i(w) / T)[y_i] ] + constant
    (2)  log w = Σ_v p(v | examples) log v

over a few v, from w_N/10 to 3 w_N, with the best T in place of a mean over all. Before an example is asked,
log w ~ Normal(log w_N, 1) and log T ~ Normal(0, 1). Without T, larger logits would win, and with them a
larger w, for the answers of a few examples are less sure than they are right. What all this brings, with
names that fit and with wrong ones: ``benchmarks/own_data.md``.

The examples of each class are dealt into at most four folds, and a head has seen all but one of these: where
all classes have as many examples, each is short of as many as any other. Classes with one example have none
to spare, and take no part.
"""

import math

import torch
from torch import Tensor

from fewshot_lib.core import check_axes, few_shot_method
from fewshot_lib.prototypes.name_examples import fit_softmax, names_as_examples

OF_ALL = 15.0  # examples that all names of a task count for, at least
WEIGHTS = (0.1, 1 / 3, 1.0, 3.0)  # the v of (2), as multiples of w_N
LOG_T = torch.linspace(-4, 4, 81).tolist()
FOLDS, ENOUGH = 4, 256  # as many folds are asked as it takes to have so many answers
TOLERANCE = 1e-3  # of the heads that are asked, in the gradient: w is the same to four digits
MOST = 16  # examples of a class in the mean: beside more a name counts little, and asking them takes long


@few_shot_method("names as examples, weighed", transductive=False, uses_names=True)
def weighed_names(
    support: Tensor, query: Tensor, names: Tensor, support_mask: Tensor | None = None
) -> Tensor:
    """Names as examples with the w of (2).

    support (E, N, K, d), query (E, M, d), names (E, N, d), support_mask (E, N, K) -> logits (E, M, N).
    """
    weight = found_weight(support, names, support_mask)
    training_set = _weighed(weight, *names_as_examples.training_set(support, names, support_mask))
    return fit_softmax(*training_set, names_as_examples.C_of(support.shape[1]))(query).to(query.dtype)


def found_weight(support: Tensor, names: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """w of (2), (E,): support (E, N, K, d), names (E, N, d), support_mask (E, N, K).

    w_N where fewer than two classes have an example to spare, or those that have hold more than MOST each in
    the mean.
    """
    check_axes(support=(support, "ENKd"), names=(names, "ENd"), support_mask=(support_mask, "ENK"))
    mask = torch.ones_like(support[..., 0]) if support_mask is None else support_mask
    spare = mask.sum(-1) > 1  # (E, N)
    usual = usual_weight(support.shape[1])
    if spare.all():
        return _of_episodes(support, names, mask.bool(), usual=usual)
    found = support.new_full(spare.shape[:1], usual)
    for e, own in enumerate(spare):
        if own.sum() > 1:
            parts = (part[e, own].unsqueeze(0) for part in (support, names, mask.bool()))
            found[e] = _of_episodes(*parts, usual=usual)
    return found


def usual_weight(n_way: int) -> float:
    """w_N, of the names of N classes before any example is asked."""
    return max(names_as_examples.weight, OF_ALL / n_way)


def _of_episodes(support: Tensor, names: Tensor, mask: Tensor, *, usual: float) -> Tensor:
    """w of (2), (E,), where every class has two examples or more; usual: w_N."""
    held_out, asked = _folds(mask)
    n_folds, C = len(asked), names_as_examples.C_of(support.shape[1])
    kept = (mask & ~held_out).flatten(0, 1)
    sets = names_as_examples.training_set(support.repeat(n_folds, 1, 1, 1), names.repeat(n_folds, 1, 1), kept)
    query = support.masked_fill(~mask.unsqueeze(-1), 0).flatten(1, 2).repeat(n_folds, 1, 1)
    log_p = []
    for times in WEIGHTS:
        head = fit_softmax(*_weighed(query.new_full((len(query),), times * usual), *sets), C, TOLERANCE)
        logits = head(query).unflatten(1, mask.shape[1:]).unflatten(0, asked.shape[:2])
        log_p.append(_at_best_temperature(logits, asked) - math.log(times) ** 2 / 2)
    log_times = torch.tensor(WEIGHTS).to(log_p[0]).log()
    found = usual * (torch.stack(log_p, -1).softmax(-1) @ log_times).exp()
    return torch.where(asked.flatten(2).any(2).any(0), found, usual).to(support)


def _folds(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which examples are held out together, and the s_i of those that are asked, else 0: (F, E, N, K)."""
    counts = mask.sum(-1, keepdim=True)
    fold = (mask.cumsum(-1) - 1) % FOLDS
    held_out = torch.stack([mask & (fold == each) for each in range(min(FOLDS, int(counts.max())))])
    n = held_out.flatten(2).sum(2)  # (F, E)
    wanted = (n.cumsum(0) - n < ENOUGH) & (counts.float().mean((1, 2)) <= MOST)
    s = counts.float().mean(1, keepdim=True) / counts
    used = max(1, int(wanted.any(1).sum()))
    return held_out[:used], (held_out * wanted[..., None, None] * s)[:used]


def _at_best_temperature(logits: Tensor, asked: Tensor) -> Tensor:
    """The maximum over T in (1), (E,): logits (F, E, N, K, N) of examples with the s_i (F, E, N, K)."""
    fold, episode, own, shot = asked.nonzero(as_tuple=True)
    z = logits[fold, episode, own, shot]
    s = asked[fold, episode, own, shot].to(z)

    def at(log_t: float) -> Tensor:
        log_p = (z / math.exp(log_t)).log_softmax(-1).gather(-1, own.unsqueeze(-1))[:, 0]
        return s.new_zeros(asked.shape[1]).index_add(0, episode, s * log_p) - log_t**2 / 2

    return torch.stack([at(log_t) for log_t in LOG_T]).amax(0)


def _weighed(weight: Tensor, features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """A training set in which the names count as much as ``weight`` (E,) says."""
    of_names = weights[..., -1:] * (weight / names_as_examples.weight).view(-1, 1, 1)
    return features, torch.cat([weights[..., :-1].to(of_names), of_names], -1)
