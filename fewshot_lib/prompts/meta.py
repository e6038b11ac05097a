r"""MetaPrompting: the start of a soft prompt is learnt on many tasks, so that a few gradient steps suffice.

With chapter 04's MAML, on episodes of training classes (Hou et al. 2022, arXiv:2209.11486):

    min over θ of  mean over tasks of  L_query(θ − α ∇ L_support(θ) − …)       θ: prompt, and what else moves

The published method moves BERT as a whole, inside and outside; here the ``PromptModel`` says what moves. We
found no row of its ablation in the paper or its code: **0 inner steps**, ordinary training on the queries of
all episodes (``inner_steps=0``), and at test time adaptation by 0 steps (``as_method(0)``). Where the
verbalizer looks at the support, such a prompt still answers with it, as prototypes do.

One prompt for all tasks must be a compromise. **MetaPrompter** (Jiang et al. 2023, arXiv:2306.00618) learns a
pool of K prompts with keys, from which every text x gets a mixture of its own:

    (1)  a(x) = Softmax(κ q(x) / √d)          κ (K, d): the keys;  q(x) (d,): the *cue*
    (2)  θ(x) = Σ_k a_k(x) Θ_k                Θ (K, P, d): the pool

Keys and pool are adapted on each task's support, and their start is learnt with first-order MAML; the
language model stays frozen (55 thousand parameters with K = P = 8 and d = 768, besides its 110 million). The
answer is ½ RepVerb + ½ label words. The inner loop descends the loss of the words alone
(``Verbalizer.on_support``); the authors' code descends the mixture's, there with cosines over τ = 1.

The cue is the frozen model's [MASK] feature of the text, read once, with the template's words but without its
soft tokens. Position and type embeddings are added once, by the model; the authors' code feeds vectors to
which they are added already, and they are added again.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewshot_lib.core import (
    Episodes,
    EpisodeSampler,
    History,
    Settings,
    Stateful,
    data_facts,
    digest,
    one_of,
    whole_number,
)
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import MaskedLM
from fewshot_lib.maml import MAML, Tasks, meta_loss, meta_train, norms, plus_plus_loss, reptile_loss
from fewshot_lib.prompts.model import PromptModel
from fewshot_lib.prompts.templates import check_soft_tokens, trimmed
from fewshot_lib.prompts.tuning import PromptTuning
from fewshot_lib.prompts.verbalizers import Mixture, RepVerb, Words

OBJECTIVES = {"maml": meta_loss, "fomaml": meta_loss, "reptile": reptile_loss, "maml++": plus_plus_loss}


class MetaPrompting(MAML):
    """Chapter 04's MAML on a ``PromptModel``: it learns where the prompt (and what else moves) starts.

    model: taken as it is, or, where second derivatives are needed under vmap, as a copy with its norms
        written out.
    algorithm: "maml", "fomaml", "reptile" (without a verbalizer that looks at the support: it has no
        queries), or "maml++" (multi-step loss, and a learnt rate for every tensor and step).
    inner_steps: may be 0.
    settings: others of ``MAML``, for instance adapt ("prompt", "lm").
    """

    model: PromptModel

    def __init__(
        self,
        model: PromptModel,
        algorithm: str = "fomaml",
        *,
        inner_steps: int = 3,
        inner_lr: float = 0.1,
        engine: str = "vmap",
        name: str = "MetaPrompting",
        **settings: Any,
    ) -> None:
        one_of("algorithm", algorithm, tuple(OBJECTIVES))
        if algorithm == "reptile" and (inner_steps == 0 or model.verbalizer.uses_support):
            needs_support = f"{model.verbalizer.name} needs a support beside queries"
            reason = needs_support if inner_steps else "with 0 inner steps it learns nothing"
            raise ValueError(f"`algorithm` is 'reptile', and {reason}: use 'fomaml'.")
        first_order = algorithm in ("fomaml", "reptile")
        written_out = any(isinstance(module, norms.LayerNorm) for module in model.modules())
        if engine == "vmap" and not first_order and not written_out:
            model = cast(PromptModel, norms.vmap_safe(model))
        settings = {"first_order": first_order, "inner_steps": inner_steps, "inner_lr": inner_lr} | settings
        if algorithm == "maml++" and inner_steps:
            settings.setdefault("rates", "per_tensor_per_step")
        super().__init__(model, engine=engine, name=name, **settings)
        self.algorithm = algorithm

    # on tokenised texts, and all episodes at once
    def as_method(self, n_steps: int | None = None, name: str | None = None, **settings: Any) -> PromptTuning:  # type: ignore[override]
        """The learnt start as a method, tuned on each episode's support with n_steps (None: inner_steps).

        By the inner loop's own steps, or with another optimizer and lr: the published one takes 15 steps of
        AdamW at test time after 3 of SGD in training. settings: of ``PromptTuning``.
        """
        steps = self.inner_steps if n_steps is None else n_steps
        own: dict[str, Any] = {
            "adapt": self.adapted,
            "lr": self.inner_lr or 1.0,
            "label": name or f"{self.name}, {steps} steps",
        }
        if settings.get("optimizer", "sgd") == "sgd" and "lr" not in settings:
            own["rates"] = self.rate
        return PromptTuning(self.model, steps, **own | settings)

    @property
    def transductive(self) -> bool:
        """As its verbalizer is."""
        return self.model.verbalizer.transductive


class PromptPool(nn.Module):
    """Equations (1), (2): cues (n, d) -> prompts (n, P, d), from ``keys`` (K, d) and ``values`` (K, P, d)."""

    uses_cues = True

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        if keys.dim() != 2 or values.dim() != 3 or len(keys) != len(values):
            shapes = f"`keys` are {tuple(keys.shape)} and `values` {tuple(values.shape)}"
            raise ValueError(f"{shapes}: they must be (K, d) and (K, P, d).")
        self.keys, self.values = nn.Parameter(keys.detach().clone()), nn.Parameter(values.detach().clone())
        self.n_soft = values.shape[1]

    def forward(self, cues: Tensor) -> Tensor:
        attention = (cues @ self.keys.T / self.keys.shape[-1] ** 0.5).softmax(-1)  # (n, K)
        return (attention @ self.values.flatten(1)).unflatten(-1, self.values.shape[1:])


def prompt_pool(values: Tensor, generator: torch.Generator) -> PromptPool:
    """A pool with values (K, P, d), as K draws of ``initial_prompt``, and, as the authors', normal keys."""
    keys = torch.randn(len(values), values.shape[-1], generator=generator, dtype=values.dtype)
    return PromptPool(keys.to(values.device), values)


def meta_prompter(lm: MaskedLM, pool: PromptPool, **settings: Any) -> MetaPrompting:
    """MetaPrompter as a learner: frozen lm, pool, and ½ RepVerb + ½ words. settings: of ``MetaPrompting``.

    RepVerb is centred by the support. The authors' code has centre="both", which is transductive.
    """
    model = PromptModel(lm, pool, lambda lm: Mixture(RepVerb(), Words(lm)))
    return MetaPrompting(model, **{"inner_steps": 5, "name": "MetaPrompter", **settings})


def prompt_tasks(model: PromptModel, episodes: Episodes, ids: Tensor, names: Tensor) -> Tasks:
    """Episodes as tasks for ``MAML``: ids (n, L) of the whole data set, names (C, W, P).

    Where the prompt is made from cues, those of the episodes' own texts are read, and of no other.
    """
    if episodes.is_padded:
        raise ValueError("`episodes` are padded, and tasks have one size: sample with numbers, not ranges.")
    check_soft_tokens(ids, model.prompt.n_soft)
    episodes = episodes.to(ids.device)
    n_tasks, n_way, n_shot = episodes.support.shape
    labels = torch.arange(n_way, device=ids.device).repeat_interleave(n_shot).expand(n_tasks, -1)
    support, query = trimmed(model.lm, ids[episodes.support], ids[episodes.query])
    words = names[episodes.classes].unsqueeze(1)
    asked: Any = {"ids": support.flatten(1, 2), "classes": words}
    answered: Any = {"ids": query, "classes": words}
    answered |= {"support": support} if model.verbalizer.uses_support else {}
    if (support_cues := model.cues(support)) is not None:
        asked["cues"] = support_cues.flatten(1, 2)
        answered |= {"cues": model.cues(query), "support_cues": support_cues}
    return Tasks(asked, labels, answered, episodes.query_labels)


def train_metaprompting(
    learner: MetaPrompting,
    dataset: ClassDataset,
    ids: Tensor,
    names: Tensor,
    n_steps: int,
    *,
    n_tasks: int = 4,
    episodes: Mapping[str, int] | None = None,
    **options: Any,
) -> History:
    """Learns the start on episodes of the *training* classes, n_tasks a step, with the learner's algorithm.

    ids: the data set's texts in the template, (n, L). names: the words of its classes, (C, W, P).
    episodes: n_way (5), n_shot (1), n_query (5) and seed (0) of the ``EpisodeSampler``.
    options: of ``meta_train``. lr is 0.01, right for a soft prompt; a language model that moves wants about a
        hundredth.
    """
    for name, rows, needed in (("ids", ids, len(dataset)), ("names", names, dataset.n_classes)):
        if len(rows) != needed:
            found = f"`{name}` has {len(rows)} rows, but {dataset.name} needs {needed}"
            raise ValueError(f"{found}: make it from this data set.")
    whole_number(1, n_steps=n_steps, n_tasks=n_tasks)
    drawing = {"n_way": 5, "n_shot": 1, "n_query": 5, "seed": 0} | dict(episodes or {})
    whole_number(1, n_shot=drawing["n_shot"])  # no range of them: tasks have one size
    sampler = EpisodeSampler.of(dataset, "train", **drawing)
    facts = data_facts(dataset) | {"token ids": digest(ids), "words": digest(names)}
    facts["verbalizer"] = learner.model.verbalizer.name
    settings = Settings(**drawing, n_tasks=n_tasks, **facts)

    def next_tasks(_: int) -> Tasks:
        return prompt_tasks(learner.model, sampler.sample(n_tasks), ids, names)

    states: Mapping[str, Stateful] = {"episodes": settings, "sampler": sampler}
    options = {"objective": OBJECTIVES[learner.algorithm], "lr": 1e-2, **options}
    return meta_train(learner, next_tasks, n_steps, states=states, **options)
