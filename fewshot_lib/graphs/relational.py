r"""Relational attention: how two things are related decides, never what they are.

Attention multiplies a *weight* by a *value*. Ordinary layers learn both from the features, and with twenty
training classes they learn these twenty classes by heart. Here the values are the raw features, and a weight
is a function of a few numbers that say how its two ends are *related*. A class node starts as the
label+prototype mix and is then written anew in every round, as a weighted sum of its name l_k and of all
supports x_j (all features have length 1):

    (1)  c_k ← e^{a_k} l_k + Σ_j (π_jk e^{a_jk} + b_jk / K) x_j   π_jk = 1/(K ‖μ_k‖) if j is of k, else 0
    (2)  (a_jk, b_jk) = MLP(r_jk),   a_k = MLP(r_k)
    (3)  p(k | q) ∝ exp((cos(q, c_k) + MLP(r_qk))/τ)

The relations are recomputed in every round from the class nodes as they then are: edge weights that adapt.
With p = Softmax(10 cosines), a soft assignment to the classes:

    r_jk   support and class   cos(x_j, c_k)   cos(x_j, l_k)   is j of class k?   p_jk   p_jk − max_m≠k p_jm
    r_k    name and class      cos(l_k, c_k)   cos(l_k, μ_k)   1/(K ‖μ_k‖)
    r_qk   query and class     for c_k, l_k, μ_k, and the nearest example: cosine − mean over classes, p_qk
                               cos(l_k, μ_k)

To all of them come four numbers about the whole task (``describe``): how well its names and its examples tell
its classes apart, how close the classes are, and how many examples there are. (1) needs no softmax: a cosine
does not see the length of c_k. The last layers of all MLPs start at zero, so that the untrained network *is*
the label+prototype mix (``prototypes.name_mix``).

All that it sees are cosines, so it gives the same answers in every rotation of the feature space: it has no
place to keep the direction that means "sports". Transductive, the queries join the sum in (1), each with a
weight b_qk of its own.

With a ``head`` (``prototypes.names_as_examples``) it starts from that one's answers a_qk, not from the mix,
and adds to them what the rounds changed; r_qk then holds a_qk, too:

    (3')  p(k | q) ∝ exp(a_qk + (cos(q, c_k) − cos(q, l_k + μ_k) + MLP(r_qk))/τ)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import check_axes, whole_number
from fewshot_lib.prototypes import NamesAsExamples, class_means, cosine_logits

N_DESCRIPTORS = 4  # of a task
N_OF_SAMPLE, N_OF_NAME, N_OF_QUERY = (n + N_DESCRIPTORS for n in (5, 3, 9))  # of r_jk, r_k and r_qk
N_OF_HEAD = 2  # more in r_qk where there is a head
TEMPERATURE = 0.1  # that of the start, ``name_mix``
_cosines = partial(cosine_logits, temperature=1.0)


@dataclass(frozen=True, eq=False)
class Relations:
    """What a relational network may know of E episodes: features of length 1, and who belongs to whom."""

    support: Tensor  # (E, S, d) with S = N·K, way by way
    query: Tensor  # (E, M, d)
    names: Tensor  # (E, N, d); where classes have no names, their means
    means: Tensor  # (E, N, d)
    member: Tensor  # (E, S, N), 1 where the support is an example of the class, else 0
    prior: Tensor  # (E, S, N), π of equation (1)
    task: Tensor  # (E, N_DESCRIPTORS)

    @staticmethod
    def of(
        support: Tensor, query: Tensor, names: Tensor | None = None, support_mask: Tensor | None = None
    ) -> Relations:
        """support (E, N, K, d), query (E, M, d), names (E, N, d), support_mask (E, N, K)."""
        inputs = {"support": (support, "ENKd"), "query": (query, "EMd"), "names": (names, "ENd")}
        check_axes(**inputs, support_mask=(support_mask, "ENK"))
        e, n, k, _ = support.shape
        if n < 2:
            raise ValueError(f"`support` has {n} way: there is nothing to tell apart. Give at least 2.")
        present = support.new_ones(e, n, k) if support_mask is None else support_mask.to(support.dtype)
        support = F.normalize(support, dim=-1) * present.unsqueeze(-1)
        means = class_means(support, present.bool())
        length_of_sum = present.sum(-1) * means.norm(dim=-1).clamp_min(1e-6)  # (E, N), K ‖μ_k‖
        names = F.normalize(means if names is None else names, dim=-1)
        means = F.normalize(means, dim=-1)
        own_class = torch.eye(n, device=support.device, dtype=support.dtype).repeat_interleave(k, 0)  # (S, N)
        member = own_class * present.flatten(1).unsqueeze(-1)
        prior = member / length_of_sum.unsqueeze(1)
        task = describe(support, means, names, present)
        return Relations(support.flatten(1, 2), F.normalize(query, dim=-1), names, means, member, prior, task)

    @property
    def start(self) -> Tensor:
        """Class nodes before the first round: name + prototype, (E, N, d)."""
        return self.means + self.names

    def of_samples(self, samples: Tensor, classes: Tensor, member: Tensor) -> Tensor:
        """r_jk: samples (E, S, d), class nodes (E, N, d), member (E, S, N) -> (E, S, N, N_OF_SAMPLE)."""
        to_class, to_name = _cosines(samples, classes), _cosines(samples, self.names)
        return self._with_task(to_class, to_name, member, *assign(to_class))

    def of_names(self, classes: Tensor) -> Tensor:
        """r_k: class nodes (E, N, d) -> (E, N, N_OF_NAME)."""
        # Without the bound opposite examples, whose mean is 0, would make (1) overflow.
        inverse_length = self.prior.amax(1).clamp_max(1)
        to_class = (F.normalize(classes, dim=-1) * self.names).sum(-1)
        return self._with_task(to_class, (self.means * self.names).sum(-1), inverse_length)

    def of_queries(self, classes: Tensor) -> Tensor:
        """r_qk: class nodes (E, N, d) -> (E, M, N, N_OF_QUERY)."""
        n_way = classes.shape[1]
        absent = self.member.sum(-1).view(len(classes), 1, n_way, -1) == 0  # (E, 1, N, K)
        to_supports = _cosines(self.query, self.support).unflatten(-1, (n_way, -1))  # (E, M, N, K)
        nearest = to_supports.masked_fill(absent, -2).amax(-1)  # of the class's own supports
        to_centres = [_cosines(self.query, centres) for centres in (classes, self.names, self.means)]
        numbers = []
        for cosines in (*to_centres, nearest):
            numbers += [cosines - cosines.mean(-1, keepdim=True), assign(cosines)[0]]
        fits = (self.means * self.names).sum(-1).unsqueeze(1).expand_as(nearest)
        return self._with_task(*numbers, fits)

    def _with_task(self, *numbers: Tensor) -> Tensor:
        """F numbers of each pair, (E, ...), and those of its task -> (E, ..., F + N_DESCRIPTORS)."""
        relations = torch.stack(numbers, -1)
        task = self.task.view(len(self.task), *[1] * (relations.dim() - 2), -1)
        return torch.cat([relations, task.expand(*relations.shape[:-1], -1)], -1)


def assign(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines (..., N) -> soft assignment p to the classes, and its margin over the best other class."""
    p = (10 * cosines).softmax(-1)  # 1/τ with the course's τ = 0.1
    best, second = p.topk(2, -1).values.split(1, -1)
    return p, p - torch.where(p == best, second, best)


def describe(support: Tensor, means: Tensor, names: Tensor, present: Tensor) -> Tensor:
    """Four numbers about a task, from its supports and names alone: (E, N_DESCRIPTORS).

    support (E, N, K, d), means and names (E, N, d) of length 1; present (E, N, K), 1 or 0. They are: 5 times
    the mean margin of the supports by the names (own cosine less the best other); the same by the means, each
    support left out of its own (0 at one shot); twice the mean cosine between two means; log K.
    """
    n = support.shape[1]
    same = torch.eye(n, device=support.device, dtype=torch.bool)

    def margin(to_own: Tensor, cosines: Tensor, counted: Tensor) -> Tensor:
        best_other = cosines.masked_fill(same.unsqueeze(1), -1.0).amax(-1)
        return ((to_own - best_other) * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)

    to_names = torch.einsum("enkd,emd->enkm", support, names)
    to_means = torch.einsum("enkd,emd->enkm", support, means)
    others = F.normalize(support.sum(2, keepdim=True) - support, dim=-1)  # the mean without this support
    with_others = present * (present.sum(-1, keepdim=True) > 1)
    by_names = margin((to_names * same.unsqueeze(1)).sum(-1), to_names, present)
    by_means = margin((others * support).sum(-1), to_means, with_others)
    between = torch.einsum("end,emd->enm", means, means).masked_fill(same, 0).sum((1, 2)) / (n * (n - 1))
    n_shot = present.sum((1, 2)) / n
    return torch.stack([5 * by_names, 5 * by_means, 2 * between, n_shot.log()], -1)


class RelationalNetwork(nn.Module):
    """A few-shot method: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N), any d.

    rounds: how often equation (1) runs. hidden: units of every MLP.
    head: where it starts, equation (3'); None: at the label+prototype mix.
    use_names: whether it uses the classes' names; without (or without ``names``) their means stand in.
    transductive: whether queries join the sum in (1).
    """

    def __init__(
        self,
        rounds: int = 2,
        hidden: int = 16,
        *,
        head: NamesAsExamples | None = None,
        use_names: bool = True,
        transductive: bool = False,
        name: str = "relational attention",
    ) -> None:
        super().__init__()
        whole_number(1, rounds=rounds, hidden=hidden)
        self.head, self.uses_names, self.transductive, self.name = head, use_names, transductive, name
        self.support_mlps = nn.ModuleList(_mlp(N_OF_SAMPLE, hidden, 2) for _ in range(rounds))
        self.name_mlps = nn.ModuleList(_mlp(N_OF_NAME, hidden, 1) for _ in range(rounds))
        self.query_mlps = nn.ModuleList(
            _mlp(N_OF_SAMPLE, hidden, 1) for _ in range(rounds if transductive else 0)
        )
        self.readout = _mlp(N_OF_QUERY + (N_OF_HEAD if head else 0), hidden, 1)

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        names: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        names = names if self.uses_names else None
        relations = Relations.of(support, query, names, support_mask)
        start, *_, classes = self.class_nodes(relations, query_mask)
        logits, r = cosine_logits(relations.query, classes, TEMPERATURE), relations.of_queries(classes)
        if self.head is not None:
            with torch.no_grad():  # it has nothing to learn
                answers = self.head(support, query, names, support_mask)
            logits = logits - cosine_logits(relations.query, start, TEMPERATURE) + answers
            centred = answers - answers.mean(-1, keepdim=True)
            r = torch.cat([r, torch.stack([centred * TEMPERATURE, answers.softmax(-1)], -1)], -1)
        return logits + self.readout(r)[..., 0] / TEMPERATURE

    def class_nodes(self, relations: Relations, query_mask: Tensor | None = None) -> list[Tensor]:
        """The class nodes at the start and after every round, each (E, N, d)."""
        nodes = [relations.start]
        for number in range(len(self.support_mlps)):
            of_names, of_supports = self.weights(number, relations, nodes[-1])
            new = of_names.unsqueeze(-1) * relations.names
            new = new + torch.einsum("esn,esd->end", of_supports, relations.support)
            if self.transductive:
                of_queries = self._query_weights(number, relations, nodes[-1], query_mask)
                new = new + torch.einsum("emn,emd->end", of_queries, relations.query)
            nodes.append(new)
        return nodes

    def weights(self, number: int, relations: Relations, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of (1) in a round: of names (E, N), and of every support in every class (E, S, N)."""
        r = relations.of_samples(relations.support, classes, relations.member)
        a, b = self.support_mlps[number](r).unbind(-1)
        present = relations.member.sum(-1, keepdim=True)  # (E, S, 1): padding counts nowhere
        n_shot = present.sum(1, keepdim=True) / classes.shape[1]
        of_names = self.name_mlps[number](relations.of_names(classes))[..., 0].exp()
        return of_names, relations.prior * a.exp() + b * present / n_shot

    def _query_weights(
        self, number: int, relations: Relations, classes: Tensor, query_mask: Tensor | None
    ) -> Tensor:
        """b_qk: every query's weight in every class node, in proportion to its soft assignment, (E, M, N)."""
        n_way = classes.shape[1]
        of_no_class = relations.query.new_zeros(*relations.query.shape[:2], n_way)
        r = relations.of_samples(relations.query, classes, of_no_class)
        weights = self.query_mlps[number](r)[..., 0] * r[..., 3]
        present = torch.ones_like(weights[..., :1]) if query_mask is None else query_mask.unsqueeze(-1)
        return weights * present * n_way / present.sum(1, keepdim=True).clamp_min(1)


def _mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """One hidden layer; the last layer starts at zero."""
    last = nn.Linear(hidden, n_out)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Linear(n_in, hidden), nn.GELU(), last)
