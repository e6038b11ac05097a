r"""Fine-tuning the encoder as well: θ and the head (W, b) descend the support's loss together.

Chen et al. (2019, arXiv:1904.04232) pre-train an encoder with an ordinary classifier over the training
classes: a linear one (Baseline), or one of cosines (Baseline++: ``CosineClassifier``). What is fine-tuned in
an episode is then the head alone (``FineTuning``) or, here, the encoder f_θ too:

    θ', W', b' = argmin over θ, W, b of the loss of the head on f_θ(support),   start: the pre-trained θ.

The encoder is in evaluation mode: batch norm uses its running statistics and dropout is off, so an inductive
head stays inductive. Episodes run one after the other, because each has its own θ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_lib.core import check_shapes, check_steps, evaluation_mode, positive
from fewshot_lib.finetuning.heads import OPTIMIZERS, FineTuning, Loss, descend
from fewshot_lib.prototypes import cosine_logits


class CosineClassifier(nn.Module):
    """A classifier of cosines, for pre-training: features (n, d) -> cos(w_c, f(x))/τ, (n, C).

    It pulls the features of a class to one direction, which is where ``cosine_prototypes`` will look for the
    classes to come. Chen et al. (Baseline++) use 1/τ = 2, and 10 with more than 200 classes.
    """

    def __init__(self, n_features: int, n_classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.weight = nn.Parameter(torch.randn(n_classes, n_features) / n_features**0.5)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return cosine_logits(features, self.weight, self.temperature)


@dataclass(frozen=True, eq=False)
class EncoderFineTuning:
    """A method on raw inputs: in each episode a copy of the encoder is fine-tuned with the head.

    encoder: what has ``requires_grad`` is fine-tuned, at the rate ``lr``. head: the settings of the head, its
    rate, and the number of steps; a transductive one shows the encoder the queries. support (E, N, K, ...)
    and query (E, M, ...) hold what the encoder takes: images, or token ids. Masks: as in ``FineTuning``.
    """

    encoder: nn.Module
    head: FineTuning
    lr: float = 1e-4
    label: str | None = None

    def __post_init__(self) -> None:
        positive(lr=self.lr)
        if not any(p.requires_grad for p in self.encoder.parameters()):
            found = "`encoder` has no parameter with requires_grad: there is nothing to fine-tune"
            raise ValueError(f"{found}. Use its features and the head.")

    @property
    def name(self) -> str:
        return self.label or f"{self.head.name} + {type(self.encoder).__name__}"

    @property
    def transductive(self) -> bool:
        return self.head.transductive

    def __call__(self, support: Tensor, query: Tensor, **masks: Tensor | None) -> Tensor:
        """Logits (E, M, N) after all of the head's steps."""
        return self.trajectory(support, query, [self.head.steps], **masks)[0]

    def trajectory(self, support: Tensor, query: Tensor, at: Sequence[int], **masks: Tensor | None) -> Tensor:
        """Logits after each number of steps in ``at``, from one run: (T, E, M, N)."""
        at = check_steps("at", at)
        check_shapes(support, query, masks.get("support_mask"))
        episodes = []
        with evaluation_mode(self.encoder):
            for e in range(len(support)):
                one = slice(e, e + 1)  # keeps the episode axis, which the head wants
                masks_of_one = {name: None if mask is None else mask[one] for name, mask in masks.items()}
                episodes.append(self._episode(support[one], query[one], at, **masks_of_one))
        return torch.cat(episodes, 1)

    @torch.no_grad()
    def _episode(self, support: Tensor, query: Tensor, at: Sequence[int], **masks: Tensor | None) -> Tensor:
        """``trajectory`` of one episode, with an encoder of its own: E = 1."""
        moving = {name: p for name, p in self.encoder.named_parameters() if p.requires_grad}
        adapted = {name: p.clone().requires_grad_() for name, p in moving.items()}

        def encode(inputs: Tensor, axes: int) -> Tensor:
            """Features of inputs whose first ``axes`` axes count examples, with the encoder as it is now."""
            features = functional_call(self.encoder, adapted, (inputs.flatten(0, axes - 1),))
            return features.unflatten(0, inputs.shape[:axes])

        head = self.head.start(encode(support, 3), masks.get("support_mask"))

        def on_features(loss: Loss) -> Tensor:
            x = encode(support, 3)
            z = encode(query, 2) if self.transductive else x.new_empty(1, 0, x.shape[-1])
            return loss(head, self.head.loss_inputs(x, z, **masks))

        groups = [{"params": self.head.trainable(head)}, {"params": list(adapted.values()), "lr": self.lr}]
        optimizer = OPTIMIZERS[self.head.optimizer](groups, lr=self.head.lr)
        losses = [partial(on_features, loss) for loss in self.head.losses()]
        logits = torch.stack(descend(losses, optimizer, at, lambda: self.head.logits(head, encode(query, 2))))
        if logits.isnan().any():
            found = f"The logits stopped being numbers within {max(at)} steps"
            raise FloatingPointError(f"{found}: use smaller learning rates.")
        return logits
