r"""Relational attention: how two things are related decides, never what they are.

Attention multiplies a *weight* by a *value*. Ordinary layers learn both from the features, and with twenty training
classes they learn these twenty classes by heart. Here the values are the raw features, and a weight is a function of a few
numbers that say how its two ends are *related*. A class node starts as the label+prototype mix and is then written anew
in every round, as a weighted sum of its name l_k and of all supports x_j (all features have length 1):

    (1)  c_k ← e^{a_k} l_k + Σ_j (π_jk e^{a_jk} + b_jk / K) x_j      π_jk = 1/(K ‖μ_k‖) if j is an example of k, else 0
    (2)  (a_jk, b_jk) = MLP(r_jk),   a_k = MLP(r_k)
    (3)  p(k | q) ∝ exp((cos(q, c_k) + MLP(r_qk))/τ)

r_jk: the cosines of x_j to c_k and to l_k, membership, the soft assignment of x_j to the classes and its margin; and four
numbers about the whole task (``describe``): how well its names and its examples tell its classes apart, how close the classes are, and
how many examples there are. (1) needs no softmax: a cosine does not see the length of c_k. The last layers of all MLPs start
at zero, so that the untrained network *is* the label+prototype mix (``labels.label_mix``).

All that it sees are cosines, so it gives the same answers in every rotation of the feature space: it has no place to keep the
direction that means "sports". Transductive, the queries join the sum in (1), each with a weight b_qk of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.prototypes import class_means, cosine_logits, mask_ways

N_DESCRIPTORS = 4
_SHARPNESS = 10.0  # of soft assignments: 1/τ with the course's τ = 0.1


@dataclass(frozen=True, eq=False)
class Relations:
    """What a relational network may know of E episodes: features of length 1, and who belongs to whom.

    support (E, S, d) with S = N·K, query (E, M, d), names (E, N, d), means (E, N, d); member (E, S, N), 1 where support
    s is an example of class k, else 0; prior (E, S, N), π of equation (1); ways (E, N), False where a way is only padding;
    task (E, N_DESCRIPTORS).
    """

    support: Tensor
    query: Tensor
    names: Tensor
    means: Tensor
    member: Tensor
    prior: Tensor
    ways: Tensor
    task: Tensor

    @staticmethod
    def of(support: Tensor, query: Tensor, labels: Tensor | None, support_mask: Tensor | None) -> Relations:
        """support (E, N, K, d), query (E, M, d), labels (E, N, d) or None, support_mask (E, N, K) or None.

        Raises ValueError for shapes that do not fit, and for a single way.
        """
        e, n, k, d = support.shape
        if n < 2:
            raise ValueError(f"`support` has {n} way: there is nothing to tell apart. Give at least 2.")
        for argument, tensor, shape in (("query", query, (e, query.shape[1], d)), ("labels", labels, (e, n, d))):
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"`{argument}` has shape {tuple(tensor.shape)}: it must be {shape} to fit `support`.")
        present = support.new_ones(e, n, k) if support_mask is None else support_mask.to(support.dtype)
        support = F.normalize(support, dim=-1) * present.unsqueeze(-1)
        means = class_means(support, present.bool())
        names = F.normalize(means if labels is None else labels, dim=-1)
        ways = present.any(-1)
        counts = present.sum(-1).clamp_min(1)  # (E, N)
        member = torch.eye(n, device=support.device, dtype=support.dtype).repeat_interleave(k, 0) * present.flatten(1).unsqueeze(-1)
        prior = member / (counts * means.norm(dim=-1).clamp_min(1e-6)).unsqueeze(1)
        task = describe(support, F.normalize(means, dim=-1), names, present)
        flat = support.flatten(1, 2)
        return Relations(flat, F.normalize(query, dim=-1), names, F.normalize(means, dim=-1), member, prior, ways, task)

    @property
    def start(self) -> Tensor:
        """Class nodes before the first round: name + prototype, (E, N, d)."""
        return self.means + self.names

    def assign(self, cosines: Tensor) -> Tensor:
        """Cosines (E, ..., N) -> soft assignment to the classes and its margin over the best other class, (E, ..., N, 2)."""
        ways = self.ways.view(len(self.ways), *[1] * (cosines.dim() - 2), -1)
        p = (_SHARPNESS * cosines).masked_fill(~ways, -torch.inf).softmax(-1)
        best, second = p.topk(2, -1).values.split(1, -1)
        return torch.stack([p, p - torch.where(p == best, second, best)], -1)

    def of_samples(self, samples: Tensor, classes: Tensor, member: Tensor) -> Tensor:
        """r_jk without the task: samples (E, S, d), class nodes (E, N, d), member (E, S, N) -> (E, S, N, 5)."""
        to_class, to_name = _cosines(samples, classes), _cosines(samples, self.names)
        return torch.cat([torch.stack([to_class, to_name, member], -1), self.assign(to_class)], -1)

    def of_names(self, classes: Tensor) -> Tensor:
        """r_k without the task: class nodes (E, N, d) -> (E, N, 3): the name's cosine to class node and mean; the examples' spread."""
        spread = self.prior.amax(1).clamp_max(1)  # 1/(K ‖μ_k‖); without the bound opposite examples would make (1) overflow
        agreement = [(F.normalize(classes, dim=-1) * self.names).sum(-1), (self.means * self.names).sum(-1)]
        return torch.stack([*agreement, spread], -1)

    def of_queries(self, classes: Tensor) -> Tensor:
        """r_qk without the task: class nodes (E, N, d) -> (E, M, N, 9).

        The cosines to class node, name, mean and nearest example, each less its mean over the classes and as a soft
        assignment; and how well the name fits the mean.
        """
        nearest = _cosines(self.query, self.support).unsqueeze(-1) - 2 * (1 - self.member.unsqueeze(1))  # (E, M, S, N)
        parts = []
        for cosines in (_cosines(self.query, classes), _cosines(self.query, self.names), _cosines(self.query, self.means), nearest.amax(2)):
            n_ways = self.ways.sum(-1).view(-1, 1, 1)
            mean = (cosines * self.ways.unsqueeze(1)).sum(-1, keepdim=True) / n_ways
            parts += [cosines - mean, self.assign(cosines)[..., 0]]
        fits = (self.means * self.names).sum(-1).unsqueeze(1).expand_as(parts[0])
        return torch.stack([*parts, fits], -1)

    def with_task(self, relations: Tensor) -> Tensor:
        """Relations (E, ..., F) -> (E, ..., F + N_DESCRIPTORS)."""
        task = self.task.view(len(self.task), *[1] * (relations.dim() - 2), -1)
        return torch.cat([relations, task.expand(*relations.shape[:-1], -1)], -1)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """a (E, A, d), b (E, B, d) -> (E, A, B)."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(1, 2)


def describe(support: Tensor, means: Tensor, names: Tensor, present: Tensor) -> Tensor:
    """Four numbers about a task, from its supports and names alone: (E, N_DESCRIPTORS).

    support (E, N, K, d), means (E, N, d), names (E, N, d) of length 1; present (E, N, K), 1 or 0. In this order: 5 times the
    mean margin of the supports by the names (own cosine less the best other), the same by the means, each support left out
    of its own (0 at one shot), twice the mean cosine between two means, and log K.
    """
    e, n, k, _ = support.shape
    own = torch.eye(n, device=support.device, dtype=torch.bool).unsqueeze(1)  # (N, 1, N)
    ways, total = present.any(-1), present.sum((1, 2))
    padding = ~ways.view(e, 1, 1, n)

    def margin(own_cosine: Tensor, all_cosines: Tensor, counted: Tensor) -> Tensor:
        other = all_cosines.masked_fill(own | padding, -1.0).amax(-1)
        return ((own_cosine - other) * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)

    to_names = torch.einsum("enkd,emd->enkm", support, names)
    to_means = torch.einsum("enkd,emd->enkm", support, means)
    others = F.normalize(support.sum(2, keepdim=True) - support, dim=-1)  # the direction of the mean without this support
    shared = present * (present.sum(-1, keepdim=True) > 1)
    by_names = margin((to_names * own).sum(-1), to_names, present)
    by_means = margin((others * support).sum(-1), to_means, shared)
    between = torch.einsum("end,emd->enm", means, means).masked_fill(torch.eye(n, device=own.device, dtype=torch.bool), 0).sum((1, 2))
    n_ways = ways.sum(-1)
    between = between / (n_ways * (n_ways - 1)).clamp_min(1)
    return torch.stack([5 * by_names, 5 * by_means, 2 * between, (total / n_ways).log()], -1)


class RelationalNetwork(nn.Module):
    """A few-shot method: support (E, N, K, d), query (E, M, d), labels (E, N, d) -> logits (E, M, N), for any d.

    rounds: how often equation (1) runs. hidden: units of every MLP. readout: whether (3) has its MLP. descriptors: whether
    relations include the task's. Without ``use_labels``, or without ``labels`` (images), the class means stand in for the names.
    Raises ValueError for rounds or hidden below 1.
    """

    def __init__(
        self,
        rounds: int = 2,
        hidden: int = 16,
        *,
        use_labels: bool = True,
        transductive: bool = False,
        readout: bool = True,
        descriptors: bool = True,
        temperature: float = 0.1,
        name: str = "relational attention",
    ) -> None:
        super().__init__()
        for argument, value in (("rounds", rounds), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"`{argument}` is {value}: it must be at least 1.")
        self.uses_labels, self.transductive, self.descriptors = use_labels, transductive, descriptors
        self.temperature, self.name = temperature, name
        more = N_DESCRIPTORS if descriptors else 0
        self.edges = nn.ModuleList(_mlp(5 + more, hidden, 2) for _ in range(rounds))
        self.names = nn.ModuleList(_mlp(3 + more, hidden, 1) for _ in range(rounds))
        self.queries = nn.ModuleList(_mlp(5 + more, hidden, 1) for _ in range(rounds if transductive else 0))
        self.readout = _mlp(9 + more, hidden, 1) if readout else None

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        labels: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        relations = Relations.of(support, query, labels if self.uses_labels else None, support_mask)
        classes = self.class_nodes(relations, query_mask)[-1]
        logits = cosine_logits(relations.query, classes, self.temperature)
        if self.readout is not None:
            logits = logits + self._ask(self.readout, relations, relations.of_queries(classes))[..., 0] / self.temperature
        return mask_ways(logits, support_mask)

    def class_nodes(self, relations: Relations, query_mask: Tensor | None = None) -> list[Tensor]:
        """The class nodes at the start and after every round, each (E, N, d)."""
        nodes = [relations.start]
        for number in range(len(self.edges)):
            name_weight, weights = self.weights(number, relations, nodes[-1])
            new = name_weight.unsqueeze(-1) * relations.names + torch.einsum("esn,esd->end", weights, relations.support)
            if self.transductive:
                new = new + torch.einsum("emn,emd->end", self._query_weights(number, relations, nodes[-1], query_mask), relations.query)
            nodes.append(new)
        return nodes

    def weights(self, number: int, relations: Relations, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Equation (2) in round ``number``: the weight of every name (E, N), and of every support in every class (E, S, N)."""
        seen = relations.of_samples(relations.support, classes, relations.member)
        a, b = self._ask(self.edges[number], relations, seen).unbind(-1)
        present = relations.member.sum(-1, keepdim=True)  # (E, S, 1): padding counts nowhere
        n_shot = present.sum(1, keepdim=True) / relations.ways.sum(-1).view(-1, 1, 1)
        name = self._ask(self.names[number], relations, relations.of_names(classes))[..., 0].exp()
        return name, relations.prior * a.exp() + b * present / n_shot

    def _query_weights(self, number: int, relations: Relations, classes: Tensor, query_mask: Tensor | None) -> Tensor:
        """b_qk: every query's weight in every class node, in proportion to its soft assignment, (E, M, N)."""
        of_no_class = relations.query.new_zeros(*relations.query.shape[:2], classes.shape[1])
        seen = relations.of_samples(relations.query, classes, of_no_class)
        weights = self._ask(self.queries[number], relations, seen)[..., 0] * seen[..., 3]
        there = torch.ones_like(weights[..., :1]) if query_mask is None else query_mask.unsqueeze(-1).to(weights.dtype)
        return weights * there * relations.ways.sum(-1).view(-1, 1, 1) / there.sum(1, keepdim=True).clamp_min(1)

    def _ask(self, mlp: nn.Module, relations: Relations, seen: Tensor) -> Tensor:
        return mlp(relations.with_task(seen) if self.descriptors else seen)


def _mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """One hidden layer; the last layer starts at zero."""
    last = nn.Linear(hidden, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_in, hidden), nn.GELU(), last)
