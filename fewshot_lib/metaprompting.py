r"""MetaPrompting: the start of a soft prompt is learnt on many tasks, so that a few gradient steps suffice on a new one.

Prompt tuning depends strongly on its start. MetaPrompting (Hou et al. 2022, arXiv:2209.11486) learns it with chapter 04's MAML:

    min over θ of  mean over training tasks of  L_query(θ − α ∇ L_support(θ) − …)      θ: prompt, and language model if it moves

The tasks are episodes of training classes. The published method moves BERT as a whole, inside and outside; here the prompt
alone (``tune="prompt"``), with LoRA adapters, or with everything, as the ``PromptModel`` says. We found no row of its ablation
in the paper or its code: **0 inner steps**, ordinary training on the queries of all episodes (``inner_steps=0``), and at test time
adaptation by 0 steps (``as_method(0)``). Where the verbalizer looks at the support, as a mixture with ``RepVerb`` does, such a
prompt still answers with the support, as prototypes do, and only the prompt stays as it is; the paper's has words alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from torch import Tensor

from fewshot_lib import norms
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.finetune import one_of
from fewshot_lib.maml import MAML, Tasks
from fewshot_lib.masked_lm import MaskedLM
from fewshot_lib.meta_training import meta_loss, meta_train, plus_plus_loss, reptile_loss
from fewshot_lib.prompt_model import PromptModel, prompt_tasks
from fewshot_lib.prompt_tuning import PromptTuning
from fewshot_lib.training import History, Settings, Stateful
from fewshot_lib.verbalizers import Verbalizer

OBJECTIVES = {"maml": meta_loss, "fomaml": meta_loss, "reptile": reptile_loss, "maml++": plus_plus_loss}
FIRST_ORDER = ("fomaml", "reptile")


class MetaPrompting(MAML):
    """Chapter 04's MAML on a ``PromptModel``: what it learns is where the prompt (and what else the model lets move) starts.

    algorithm: "maml", "fomaml", "reptile", or "maml++" (multi-step loss, and a learnt rate for every tensor and step).
    inner_steps may be 0. adapt: what moves in the inner loop, as prefixes ("prompt", "lm"); None: all that is trainable.
    The model is taken as it is, or, where second derivatives are needed under vmap, as a copy with its norms written out.
    settings: others of ``MAML``.

    Raises ValueError for another algorithm, and for Reptile with 0 inner steps (it would learn nothing) or a verbalizer
    that looks at the support (Reptile has no queries).
    """

    def __init__(
        self,
        model: PromptModel,
        algorithm: str = "fomaml",
        *,
        inner_steps: int = 3,
        inner_lr: float = 0.1,
        adapt: str | Sequence[str] | None = None,
        engine: str = "vmap",
        name: str = "MetaPrompting",
        **settings: object,
    ) -> None:
        one_of("algorithm", algorithm, tuple(OBJECTIVES))
        if algorithm == "reptile" and (inner_steps == 0 or model.verbalizer.uses_support):
            reason = (
                "with 0 inner steps it learns nothing" if inner_steps == 0 else f"{model.verbalizer.name} needs a support beside queries"
            )
            raise ValueError(f"`algorithm` is 'reptile', and {reason}: use 'fomaml'.")
        first_order = algorithm in FIRST_ORDER
        if engine == "vmap" and not first_order and not any(isinstance(m, norms.LayerNorm) for m in model.modules()):
            model = norms.vmap_safe(model)
        rates = {"rates": "per_tensor_per_step"} if algorithm == "maml++" and inner_steps else {}
        settings = {"first_order": first_order, **rates, **settings}
        super().__init__(model, inner_steps=inner_steps, inner_lr=inner_lr, adapt=adapt, engine=engine, name=name, **settings)
        self.algorithm, self.adapt = algorithm, adapt

    def as_method(
        self,
        n_steps: int | None = None,
        name: str | None = None,
        *,
        optimizer: str = "sgd",
        lr: float | None = None,
        verbalizer: Callable[[MaskedLM], Verbalizer] | None = None,
        **settings: object,
    ) -> PromptTuning:
        """The learnt start as a method on tokenised texts, tuned on each episode's support with n_steps (None: inner_steps).

        By the inner loop's own steps, or with another optimizer and rate: the published one takes 15 steps of AdamW at
        test time after 3 of SGD in training. settings: others of ``PromptTuning``.
        """
        steps = self.inner_steps if n_steps is None else n_steps
        own = optimizer == "sgd" and lr is None
        return PromptTuning(
            self.model,
            steps=steps,
            lr=(self.inner_lr or 1.0) if lr is None else lr,
            optimizer=optimizer,
            adapt=self.adapt,
            rates=self.rate if own else None,
            verbalizer=verbalizer,
            label=name or f"{self.name}, {steps} steps",
            **settings,
        )

    @property
    def transductive(self) -> bool:
        """Whether its verbalizer lets the answer to a query depend on other queries."""
        return self.model.verbalizer.transductive


def train_metaprompting(
    learner: MetaPrompting,
    dataset: ClassDataset,
    ids: Tensor,
    class_words: Tensor,
    n_steps: int,
    *,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 5,
    n_tasks: int = 4,
    seed: int = 0,
    lr: float = 1e-2,
    schedule: str | None = "cosine",
    cues: Tensor | None = None,
    resume_with: dict[str, Stateful] | None = None,
    **options: object,
) -> History:
    """Learns the start on episodes of the *training* classes, n_tasks of them per step, with the learner's algorithm.

    ids (n, L): the data set's texts in the template; class_words (C, W, P). lr: of Adam, right for a soft prompt; a language
    model that moves wants about a hundredth. cues (n, d): for a prompt that is made from them; None: computed here, for the
    training classes. options: those of ``meta_train``, for instance checkpoint.

    Raises ValueError where ids or class_words do not belong to the data set, or have soft tokens that the prompt has not.
    """
    for name, value, wanted in (("ids", ids, len(dataset)), ("class_words", class_words, dataset.n_classes)):
        if len(value) != wanted:
            raise ValueError(f"`{name}` has {len(value)} rows, but {dataset.name} needs {wanted}: make it from this data set.")
    if cues is None:
        cues = _training_cues(learner.model, dataset, ids)
    sampler = EpisodeSampler(dataset.labels, dataset.classes("train"), n_way, n_shot, n_query, seed)
    data = hashlib.sha256(b"".join(each.cpu().numpy().tobytes() for each in (ids, class_words, dataset.labels))).hexdigest()
    settings = Settings(n_way=n_way, n_shot=n_shot, n_query=n_query, n_tasks=n_tasks, seed=seed, data=data)

    def next_tasks(_: int) -> Tasks:
        return prompt_tasks(learner.model, sampler.sample(n_tasks).to(ids.device), ids, class_words, cues)

    kept = {"episodes": settings, "sampler": sampler, **(resume_with or {})}
    objective = OBJECTIVES[learner.algorithm]
    return meta_train(learner, next_tasks, n_steps, objective=objective, lr=lr, schedule=schedule, resume_with=kept, **options)


def _training_cues(model: PromptModel, dataset: ClassDataset, ids: Tensor) -> Tensor | None:
    """The cues of all texts of training classes, in a tensor of all texts; None for a prompt without cues."""
    if not model.prompt.uses_cues:
        return None
    rows = dataset.rows("train").to(ids.device)
    found = model.cues(ids[rows])
    return found.new_zeros(len(ids), found.shape[1]).index_copy(0, rows, found)
