r"""Fine-tuning the encoder as well: θ and the head (W, b) descend the support's loss together.

Chen et al. (2019, arXiv:1904.04232) pre-train an encoder with an ordinary classifier over the training classes: a linear
one (Baseline), or one of cosines (Baseline++: ``CosineClassifier``). What is fine-tuned in an episode is then the head
alone (``finetune``) or, here, the encoder f_θ too:

    θ', W', b' = argmin over θ, W, b of the loss of the head on f_θ(support),   starting from the pre-trained θ.

A few examples can move a few parameters safely, and millions hardly. LoRA (Hu et al. 2022, arXiv:2106.09685) leaves a
weight W_0 as it is and learns W_0 + B A with B (d, r), A (r, d) of small rank r, starting at B = 0.

Every episode starts from the same θ, in evaluation mode: batch norm uses its running statistics and dropout is off, so an
inductive head stays inductive. Episodes run one after the other, because each has its own θ.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_lib.encoders import TextEncoder
from fewshot_lib.evaluation import Method
from fewshot_lib.finetune import OPTIMIZERS, FineTuning, Task, check_shapes, check_steps, descend
from fewshot_lib.prototypes import cosine_logits
from fewshot_lib.training import evaluation_mode


class CosineClassifier(nn.Module):
    """A classifier of cosines, as Baseline++ is pre-trained with: features (n, d) -> cos(w_c, f(x))/τ, (n, C).

    Training it pulls the features of a class to one direction, which is where ``cosine_prototypes`` will look for the
    classes to come. Chen et al. use 1/τ = 2, and 10 with more than 200 classes.
    """

    def __init__(self, n_features: int, n_classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"`temperature` is {temperature}: it must be positive.")
        self.weight = nn.Parameter(torch.randn(n_classes, n_features) / n_features**0.5)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return cosine_logits(features, self.weight, self.temperature)


@dataclass(frozen=True, eq=False)
class EncoderFineTuning:
    """A method on raw inputs: in each episode the encoder's parameters are fine-tuned with the head, and then forgotten.

    encoder: its parameters with ``requires_grad`` are fine-tuned, at the rate ``lr``; it is itself never changed. head:
    the settings of the head, of its own rate, and of the number of steps; a transductive one shows the encoder the
    queries. support (E, N, K, ...) and query (E, M, ...) hold what the encoder takes: images, or token ids.

    Raises ValueError for an encoder without trainable parameters, and for lr that is not positive.
    """

    encoder: nn.Module
    head: FineTuning
    lr: float = 1e-4
    label: str | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"`lr` is {self.lr}: it must be positive.")
        if not any(p.requires_grad for p in self.encoder.parameters()):
            raise ValueError("`encoder` has no parameter with requires_grad: there is nothing to fine-tune. Use its features and the head.")

    @property
    def name(self) -> str:
        return self.label or f"{self.head.name} + {type(self.encoder).__name__}"

    @property
    def transductive(self) -> bool:
        return self.head.transductive

    def __call__(self, support: Tensor, query: Tensor, support_mask: Tensor | None = None, query_mask: Tensor | None = None) -> Tensor:
        """Logits (E, M, N) after all of the head's steps."""
        return self.trajectory(support, query, [self.head.steps], support_mask, query_mask)[0]

    def trajectory(
        self,
        support: Tensor,
        query: Tensor,
        at: Sequence[int],
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits after each number of steps in ``at``, from one run: (T, E, M, N)."""
        check_steps("at", at)
        check_shapes(support, query, support_mask)
        episodes = []
        with evaluation_mode(self.encoder):
            for e in range(len(support)):  # slices keep the episode axis, which the head wants
                one = slice(e, e + 1)
                masks = (None if mask is None else mask[one] for mask in (support_mask, query_mask))
                episodes.append(self._episode(support[one], query[one], at, *masks))
        return torch.cat(episodes, 1)

    def _episode(self, support: Tensor, query: Tensor, at: Sequence[int], support_mask: Tensor | None, query_mask: Tensor | None) -> Tensor:
        """One episode: support (1, N, K, ...), query (1, M, ...) -> (T, 1, M, N)."""
        adapted = {name: p.detach().clone().requires_grad_() for name, p in self.encoder.named_parameters() if p.requires_grad}

        def encode(inputs: Tensor, axes: int) -> Tensor:
            flat = inputs.flatten(0, axes - 1)
            return functional_call(self.encoder, adapted, (flat,)).unflatten(0, inputs.shape[:axes])

        def task() -> Task:
            seen_queries = encode(query, 2) if self.transductive else None
            return self.head.task(encode(support, 3), seen_queries, support_mask, query_mask)

        with torch.no_grad():
            head = self.head.start(encode(support, 3), support_mask)
        groups = [{"params": self.head.trained(head)}, {"params": list(adapted.values()), "lr": self.lr}]
        optimizer = OPTIMIZERS[self.head.optimizer](groups, lr=self.head.lr)
        losses = [partial(_on_fresh_features, loss, head, task) for loss in self.head.losses()]
        kept = {}
        for step in descend(losses, optimizer, max(at)):
            if step in at:
                with torch.no_grad():
                    kept[step] = self.head.logits(head, encode(query, 2))
        if kept[max(at)].isnan().any():
            raise FloatingPointError(f"The logits stopped being numbers within {max(at)} steps: use smaller learning rates.")
        return torch.stack([kept[step] for step in at])


def _on_fresh_features(loss: Callable, head: object, task: Callable[[], Task]) -> Tensor:
    """A loss on the features as they are now, after the last step on the encoder."""
    return loss(head, task())


class TokenEncoder(nn.Module):
    """A ``TextEncoder`` that takes token ids, so that texts too can be dealt as one tensor: (n, L) -> features (n, d).

    It holds its own copy of the weights. Same features as the TextEncoder's for the same texts.
    """

    def __init__(self, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.model = copy.deepcopy(text_encoder.model)
        self.padding = text_encoder.tokenizer.pad_token_id
        self.n_features = text_encoder.n_features
        self.eval()  # dropout stays off, whoever restores this mode

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != self.padding
        longest = int(mask.sum(1).max())  # columns of padding only cost time
        ids, mask = ids[:, :longest], mask[:, :longest]
        tokens = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # (n, length, d)
        mask = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * mask).sum(1) / mask.sum(1)

    def in_batches(self, ids: Tensor, batch_size: int) -> Tensor:
        """The same, with gradients, in batches of texts of about the same length, which need little padding."""
        order = (ids != self.padding).sum(1).argsort()
        return torch.cat([self(ids[rows]) for rows in order.split(batch_size)])[order.argsort()]


class OnTokens(nn.Module):
    """A model on features, made a model on token ids, whose encoder can be trained with it, end to end.

    model: any method on support (E, N, K, d), query (E, M, d), labels (E, N, d). This takes the same with L token ids in place of
    d features, and gradients reach the encoder. A text that occurs twice in a batch is encoded once. To test on many
    episodes, run ``encoder`` over all texts instead (``encoders.encode``), and ``model`` over the features.
    """

    def __init__(self, encoder: TokenEncoder, model: Method, batch_size: int = 16) -> None:
        super().__init__()
        self.encoder, self.model, self.batch_size = encoder, model, batch_size
        self.transductive, self.uses_labels, self.name = model.transductive, model.uses_labels, f"{model.name}, end to end"
        called = model.forward if isinstance(model, nn.Module) else model
        self.has_task_nodes = "groups" in inspect.signature(called).parameters

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        labels: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        groups: Tensor | None = None,
    ) -> Tensor:
        given = {"support": support, "query": query, "labels": labels if self.uses_labels else None}
        given = {name: ids for name, ids in given.items() if ids is not None}
        rows = self.features(torch.cat([ids.flatten(0, -2) for ids in given.values()]))
        features = rows.split([ids[..., 0].numel() for ids in given.values()])
        extra = {"support_mask": support_mask, "query_mask": query_mask, "groups": groups if self.has_task_nodes else None}
        known = {name: rows.unflatten(0, given[name].shape[:-1]) for name, rows in zip(given, features, strict=True)}
        return self.model(**known, **{name: value for name, value in extra.items() if value is not None})

    def features(self, ids: Tensor) -> Tensor:
        """Token ids (n, L) -> features (n, d)."""
        texts, place = ids.unique(dim=0, return_inverse=True)
        return self.encoder.in_batches(texts, self.batch_size)[place]


def tokenise(text_encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Texts -> token ids (n, L), filled up with padding: the ``features`` that ``evaluate`` deals to an EncoderFineTuning."""
    batch = text_encoder.tokenizer(list(texts), padding=True, truncation=True, max_length=text_encoder.max_tokens, return_tensors="pt")
    return batch["input_ids"]


def with_lora(text_encoder: TextEncoder, rank: int = 8, targets: Sequence[str] = ("query", "value"), seed: int = 0) -> TokenEncoder:
    """A copy of a text encoder with LoRA adapters, the only parameters that can be trained: B A of rank r, times 2.

    targets: the linear layers that get adapters, by the end of their names. seed: of A; B = 0, so that nothing changes
    at first. Raises ValueError, from peft, for targets that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import: only those who use it wait for it

    encoder = TokenEncoder(text_encoder)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets)), encoder.model)
    return encoder.eval()
