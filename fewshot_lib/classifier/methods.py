"""Which method answers, and how one large episode is put to it.

N classes, up to K examples of each, m queries: episodes of this room have no axis E, it is added here.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_lib.classifier.unlabelled import WithUnlabelled
from fewshot_lib.core import Method
from fewshot_lib.prototypes import NamesAsExamples, SoftmaxHead, cosine_prototypes, name_mix, zero_shot

AUTO_FROM = 3  # examples of every class: with fewer, the choice is a lottery


def default_method(names: Tensor | None, pool: Tensor | None, weight: float) -> Any:
    """Names as examples, without names where there are none; it reads the unlabelled pool if one is given.

    weight: of a name.
    """
    if pool is not None and len(pool):
        return WithUnlabelled(weight=weight, uses_names=names is not None, pool=pool)
    return NamesAsExamples(weight, uses_names=names is not None)


def candidates(default: Any, names: Tensor | None) -> list[Any]:
    """What ``method="auto"`` chooses from, the default first: it wins where several are equal."""
    plain = [default, NamesAsExamples(uses_names=False), cosine_prototypes]
    with_names = [] if names is None else [NamesAsExamples(default.weight), name_mix, zero_shot]
    return list({method.name: method for method in plain + with_names}.values())


def check_method(method: Any, names: Tensor | None) -> None:
    """Refuses what is no method, and one that needs names where the classes have none."""
    if not isinstance(getattr(method, "transductive", None), bool):
        fix = 'give None, "auto", or a few-shot method of the library'
        raise ValueError(f"`method` is {method!r}: {fix}.")
    if names is None and getattr(method, "uses_names", False) and not _optional_names(method):
        fix = "pass names={label: name}, or another method"
        raise ValueError(f"`method` is {method.name!r}, which needs names, and the classes have none: {fix}.")


def head_of(method: Method, support: Tensor, mask: Tensor, names: Tensor | None) -> SoftmaxHead | None:
    """The head of a method that learns one and can keep it; None for those that read the support anew."""
    if not isinstance(method, NamesAsExamples):
        return None
    names = names.unsqueeze(0) if names is not None and method.uses_names else None
    head = method.fit(support.unsqueeze(0), names, mask.unsqueeze(0))
    # in the order in which files have it: another one would change the last digits of what is loaded
    return SoftmaxHead(head.weights.contiguous(), head.biases.contiguous())


@torch.no_grad()
def answer(method: Method, support: Tensor, mask: Tensor, query: Tensor, names: Tensor | None) -> Tensor:
    """Logits (m, N) float64: support (N, K, d), mask (N, K), query (m, d), names (N, d)."""
    if (head := head_of(method, support, mask, names)) is not None:
        return head(query.unsqueeze(0))[0]
    extra = extra_inputs(method, mask, names)
    example = next(method.parameters(), support) if isinstance(method, nn.Module) else support
    moved = {n: x.to(example) if x.is_floating_point() else x.to(example.device) for n, x in extra.items()}
    logits = method(support.unsqueeze(0).to(example), query.unsqueeze(0).to(example), **moved)
    return logits[0].double().cpu()


def extra_inputs(method: Any, mask: Tensor, names: Tensor | None) -> dict[str, Tensor]:
    """What a method gets beside support and query: of mask (N, K) and names (N, d) those that it needs."""
    extra = {} if mask.all() else {"support_mask": mask.unsqueeze(0)}
    if names is not None and getattr(method, "uses_names", False):
        extra["names"] = names.unsqueeze(0)
    return extra


def _optional_names(method: Any) -> bool:
    function = method.forward if isinstance(method, nn.Module) else method
    return inspect.signature(function).parameters["names"].default is None
