r"""The in-context head: an episode is a sequence of examples with their labels, and a Transformer reads on.

No gradient step, no prototype, no edge: how to learn from labelled examples is itself what is learnt (GPICL:
Kirsch et al. 2022, arXiv:2212.04458; on features of a frozen encoder: CAML, Fifty et al. 2024,
arXiv:2310.10971). Every sample of an episode is one token, its feature beside the code of its label:

    (1)  h = W x + e_y                        supports, and names with the code of their class
         h = W q + e_?                        queries: the code is unknown
    (2)  h ← blocks of multi-head attention   non-causal; a query is read by itself only, unless transductive
    (3)  logit_k = cos(q, μ_k + l_k)/τ + ⟨W' h_q, e_k⟩      which code would stand there?

e_1, …, e_N are orthonormal, so that no two classes are closer than others (ELMES of CAML, up to a vector that
all of them share), and they are drawn anew for every training episode: that code 3 means "sports" cannot be
learnt. In testing a class gets its code by its rank along a fixed direction, so that nothing depends on the
order of the ways. Attention starts as a look-up (keys are queries, so that alike finds alike, and values are
what was found): without that, 600 steps taught it nothing. W' starts at zero: the untrained model is
``prototypes.name_mix``, as its siblings are. Without the cosine in (3), ``start=False``, all that it can do
is learnt, as in these papers; W' then starts at I/20, so that it answers with the code that it looked up.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import check_axes
from fewshot_lib.graphs.gat_transformer import Block, Blocks
from fewshot_lib.prototypes import class_means, cosine_logits

SUPPORT, NAME, QUERY = range(3)
TRANSFORMER = Blocks(graph=False)


class InContext(nn.Module):
    """A few-shot method: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N).

    use_names: whether names are tokens; without (or without ``names``) there are none.
    transductive: whether anybody may read queries.
    start: whether it adds to the cosines of the label+prototype mix.
    """

    def __init__(
        self,
        n_features: int,
        blocks: Blocks = TRANSFORMER,
        *,
        use_names: bool = True,
        transductive: bool = False,
        start: bool = True,
        name: str = "in-context",
    ) -> None:
        super().__init__()
        if blocks.graph or not blocks.transformer:
            raise ValueError(f"`blocks` is {blocks}: here there are no edges, use Blocks(graph=False).")
        self.uses_names, self.transductive, self.start, self.name = use_names, transductive, start, name
        self.enter = nn.Linear(n_features, blocks.hidden)
        self.kinds = nn.Embedding(3, blocks.hidden)  # that of queries is e_?
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(blocks.n_blocks))
        for module in self.blocks.modules():
            if isinstance(module, nn.MultiheadAttention):
                look_up(module)
        self.leave = nn.LayerNorm(blocks.hidden)
        self.to_code = nn.Linear(blocks.hidden, blocks.hidden)
        nn.init.zeros_(self.to_code.bias)
        with torch.no_grad():
            self.to_code.weight.copy_(torch.eye(blocks.hidden) * (0 if start else 0.05))

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        names: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        inputs = {"support": (support, "ENKd"), "query": (query, "EMd"), "names": (names, "ENd")}
        check_axes(**inputs, support_mask=(support_mask, "ENK"), query_mask=(query_mask, "EM"))
        if support.shape[-1] != self.enter.in_features:
            fix = f"this model was made for n_features={self.enter.in_features}"
            raise ValueError(f"`support` has {support.shape[-1]} features: {fix}.")
        mask = support.new_ones(support.shape[:3], dtype=torch.bool) if support_mask is None else support_mask
        seen = query.new_ones(query.shape[:2], dtype=torch.bool) if query_mask is None else query_mask
        support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        classes = F.normalize(class_means(support, mask), dim=-1)
        told, kinds, present = support, [SUPPORT] * support.shape[2], mask
        if self.uses_names and names is not None:
            names = F.normalize(names, dim=-1)
            classes, told = classes + names, torch.cat([support, names.unsqueeze(2)], 2)
            kinds, present = [*kinds, NAME], F.pad(mask, (0, 1), value=True)
        codes = self.codes(classes)
        tokens = self.token(told, kinds) + codes.unsqueeze(2)
        h = torch.cat([tokens.flatten(1, 2), self.token(query, [QUERY])], 1)  # (E, P, h), queries last
        hidden_from = self.hidden_from(present.flatten(1), seen)
        h = h.flatten(0, 1)
        for block in self.blocks:
            h = block(h, None, hidden_from)
        answers = self.to_code(self.leave(h)).view(*hidden_from.shape[:2], -1)[:, -query.shape[1] :]
        logits = answers @ codes.mT
        return logits + cosine_logits(query, classes) if self.start else logits

    def token(self, x: Tensor, kinds: list[int]) -> Tensor:
        """Equation (1) without the code; entries near 1, as linear layers like them."""
        kind = self.kinds(torch.tensor(kinds, device=x.device))
        return self.enter(x * self.enter.in_features**0.5) + kind

    def codes(self, classes: Tensor) -> Tensor:
        """e_k with entries near 1: classes (E, N, d) -> (E, N, h)."""
        (E, N, _), size = classes.shape, self.enter.out_features
        if self.training:
            return size**0.5 * orthonormal(E, N, size, None).to(classes)
        rank = classes.sum(-1).argsort(1).argsort(1)
        codes = orthonormal(1, N, size, torch.Generator().manual_seed(0)).to(classes)
        return size**0.5 * codes[0, rank]

    def hidden_from(self, told: Tensor, asked: Tensor) -> Tensor:
        """True where a token (row) must not read another (column), (E, P, P): what is padding, and queries.

        told (E, S), asked (E, M): which tokens of supports and names, and of queries, are there.
        """
        silent = torch.cat([~told, ~asked if self.transductive else torch.ones_like(asked)], 1).unsqueeze(1)
        return silent & ~torch.eye(silent.shape[-1], dtype=torch.bool, device=silent.device)


@torch.no_grad()
def look_up(attention: nn.MultiheadAttention) -> None:
    """Its start: who is alike is attended to, and what is attended to is passed on as it is."""
    query, key, value = attention.in_proj_weight.chunk(3)
    key.copy_(query.mul_(2))  # sharp enough to tell who is more alike
    for weight in (value, attention.out_proj.weight):
        weight.copy_(torch.eye(len(weight)))


def orthonormal(n_episodes: int, n: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Random codes (E, n, size) of length 1, orthogonal to each other as far as there are dimensions."""
    bases = torch.randn(n_episodes, -(-n // size), size, size, generator=generator)
    return torch.linalg.qr(bases).Q.flatten(1, 2)[:, :n]
