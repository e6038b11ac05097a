"""SetFit's tuning in a loop of our own: the steps of its package, without what they need not wait for.

8 examples of 64 classes are 16,128 steps. All that they need is known before the first (pairs, their order,
the learning rate, which tokens there are), so

- a GPU, for which a step is a few milliseconds' work, need not wait for Python, which launches its kernels
  one after the other: a step is captured once as a CUDA graph and played, several fits side by side;
- a CPU reads the texts of a step end to end, without padding: each attends to its own tokens only;
- tokens that no example has take no part: their rows of the encoder's table only decay, all steps at once.

What the package does by default, with n examples: all pairs of two examples (an example with itself, too), in
a random order; the fewer of positive and negative ones repeated until there are as many of both; one epoch
over these P pairs, shuffled, in batches of 16. Loss: squared error of the cosine similarity, 1 for a pair of
one class and else 0. AdamW, 2e-5, in the first tenth of the steps rising from 0 and then falling to 0, weight
decay 0.01 for matrices, gradient cut at norm 1, dropout as the encoder was made with.

``setfit_peer.py`` runs it, and its ``--check`` compares it with the package. The masks of dropout are seeded,
and with several fits side by side still not the same from run to run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from fewshot_lib.encoders import TextEncoder, TokenEncoder, tokenise

BATCH, LR, DECAY, SEED, LARGEST_GRADIENT = 16, 2e-5, 0.01, 42, 1.0
WARM_UP = 3  # steps before one is captured: what is allocated once has been allocated then


def pairs_of(labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Of n examples: which two, (P, 2), positive and negative in turn, and 1 where classes agree, (P,)."""
    both = np.stack(np.triu_indices(len(labels)), axis=1)
    both = torch.from_numpy(both[np.random.RandomState(SEED).permutation(len(both))])
    _, label = np.unique(np.asarray(labels), return_inverse=True)
    same = torch.from_numpy(label)[both]
    kinds = [both[same[:, 0] == same[:, 1]], both[same[:, 0] != same[:, 1]]]
    most = max(map(len, kinds))
    in_turn = torch.stack([kind[torch.arange(most) % len(kind)] for kind in kinds], dim=1)
    return in_turn.flatten(0, 1), torch.tensor([1.0, 0.0]).repeat(most)


def order_of(n_pairs: int) -> Tensor:
    """The epoch's order of the pairs, (P,)."""
    return torch.randperm(n_pairs, generator=torch.Generator().manual_seed(SEED))


def rates_of(n_steps: int) -> Tensor:
    """The learning rate of each step, (n_steps,)."""
    step, rising = torch.arange(n_steps, dtype=torch.float64), math.ceil(0.1 * n_steps)
    falling = (n_steps - step) / max(1, n_steps - rising)
    return (LR * torch.where(step < rising, step / max(1, rising), falling)).float()


def attention_of_packed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, there: Tensor, **options: float
) -> tuple[Tensor, None]:
    """Attention within each of m texts that stand end to end, T tokens together: (1, heads, T, d) each.

    there (1, 1, m, L): which places of a table of the texts are tokens.
    """
    there = there[0, 0]

    def table(packed: Tensor) -> Tensor:  # (m, heads, L, d)
        tokens = packed[0].transpose(0, 1)
        return tokens.new_zeros(*there.shape, *tokens.shape[1:]).index_put((there,), tokens).transpose(1, 2)

    found = F.scaled_dot_product_attention(
        *map(table, (query, key, value)),
        attn_mask=there[:, None, None],
        dropout_p=options["dropout"],
        scale=options["scaling"],
    )
    return found.transpose(1, 2)[there].unsqueeze(0), None


AttentionInterface.register("packed", attention_of_packed)


class Tuning:
    """One fit: an encoder of its own, tuned step by step.

    ids (n, L), labels: of the examples. packed: read the texts of a step end to end. Not on a GPU, where
    steps are played from ``stream``: what is played has the same shapes in every step. bfloat16: read under
    autocast, on a CPU.
    """

    def __init__(
        self, encoder: TokenEncoder, ids: Tensor, labels: Sequence[str], packed: bool, bfloat16: bool
    ) -> None:
        device = ids.device
        self.encoder, self.packed, self.bfloat16 = encoder, packed, bfloat16
        self.there = ids != encoder.padding
        # eager keeps the mask of dropout for the gradient: fused kernels draw it again, from a counter that
        # graphs may share
        encoder.model.set_attn_implementation("packed" if packed else "eager")
        self.words: nn.Embedding = encoder.model.get_input_embeddings()
        self.known, self.ids = ids.unique(return_inverse=True)
        encoder.model.set_input_embeddings(nn.Embedding.from_pretrained(self.words.weight[self.known], False))
        pairs, same = pairs_of(labels)
        order = order_of(len(pairs))
        self.n_steps, self.n_done = math.ceil(len(pairs) / BATCH), 0
        self.pairs, self.same = pairs[order].to(device), same[order].to(device)
        self.rates = rates_of(self.n_steps).to(device)
        matrices = [p for p in encoder.model.parameters() if p.ndim > 1]
        others = [p for p in encoder.model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        on_gpu, rate = device.type == "cuda", torch.tensor(LR, device=device)
        self.optimizer = torch.optim.AdamW(groups, lr=rate, capturable=on_gpu, fused=True)
        self.stream = torch.cuda.Stream() if on_gpu else None
        self.graph, self.next = None, torch.zeros(1, dtype=torch.long, device=device)
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())

    def features(self, rows: Tensor) -> Tensor:
        """Of examples (m,): as the encoder's, (m, d), with its dropout; without a look at any value."""
        there = self.there[rows].to(torch.float32)
        mask = (1 - there)[:, None, None, :] * torch.finfo(torch.float32).min
        tokens = self.encoder.model(input_ids=self.ids[rows], attention_mask=mask).last_hidden_state
        return (tokens * there.unsqueeze(-1)).sum(1) / there.sum(1, keepdim=True)

    def features_of_packed(self, rows: Tensor) -> Tensor:
        """The same, read end to end."""
        there = self.there[rows]
        there = there[:, : int(there.sum(1).max())]
        text, place = there.nonzero(as_tuple=True)
        ids = self.ids[rows[text], place]
        read = self.encoder.model(ids[None], there[None, None], position_ids=place[None])
        tokens = read.last_hidden_state[0].float()
        return tokens.new_zeros(len(rows), tokens.shape[1]).index_add(0, text, tokens) / there.sum(1)[:, None]

    def update(self, pairs: Tensor, same: Tensor, rate: Tensor) -> None:
        """One step on pairs (b, 2)."""
        for group in self.optimizer.param_groups:
            group["lr"].copy_(rate)
        self.optimizer.zero_grad()
        features = self.features_of_packed if self.packed else self.features
        # around the reading alone: what autocast has cast must not outlive an optimizer's step
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            first, second = features(pairs.T.flatten()).chunk(2)
        F.mse_loss(F.cosine_similarity(first, second), same).backward()
        used = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        nn.utils.clip_grad_norm_(used, LARGEST_GRADIENT)
        self.optimizer.step()

    def from_counter(self) -> None:
        """The step that the counter on the device stands at: whole batches only."""
        at = self.next * BATCH + torch.arange(BATCH, device=self.next.device)
        self.update(self.pairs[at], self.same[at], self.rates[self.next].squeeze())
        self.next += 1

    def step(self) -> None:
        """The next step."""
        start, whole = self.n_done * BATCH, (self.n_done + 1) * BATCH <= len(self.pairs)
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            if not whole:  # the last batch of an epoch
                self.update(self.pairs[start:], self.same[start:], self.rates[self.n_done])
            elif self.graph is not None:
                self.graph.replay()
            else:
                self.from_counter()
        self.n_done += 1
        if self.stream and self.n_done == WARM_UP < self.n_steps:
            self.stream.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.from_counter()

    @torch.no_grad()
    def end(self) -> TokenEncoder:
        """The encoder, with all tokens in its table again."""
        tuned = self.encoder.model.get_input_embeddings().weight
        self.words.weight *= float(torch.prod(1 - DECAY * self.rates.cpu().double()))
        self.words.weight[self.known] = tuned
        self.encoder.model.set_input_embeddings(self.words)
        self.encoder.model.set_attn_implementation("sdpa")
        return self.encoder.eval()


def tuned(
    encoder: TextEncoder,
    texts: Sequence[Sequence[str]],
    labels: Sequence[Sequence[str]],
    dropout: bool = True,
    packed: bool | None = None,
    bfloat16: bool = False,
) -> list[TokenEncoder]:
    """An encoder for each of several fits, of texts and labels each: side by side on a GPU.

    packed (by default on a CPU), bfloat16: ``Tuning``'s.
    """
    torch.manual_seed(SEED)  # of dropout
    device, fits = encoder.model.device, []
    for some, of in zip(texts, labels, strict=True):
        own = TokenEncoder(encoder)
        own.model.train(dropout)
        ids = tokenise(encoder, some).to(device)
        fits.append(Tuning(own, ids, of, device.type == "cpu" if packed is None else packed, bfloat16))
    while any(fit.n_done < fit.n_steps for fit in fits):
        for fit in fits:
            if fit.n_done < fit.n_steps:
                fit.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return [fit.end() for fit in fits]
