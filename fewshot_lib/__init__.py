"""Few-shot learning, from episodes to a graph-attention Transformer trained on many tasks.

An *N-way K-shot episode* is a small classification problem: N classes, K labelled support examples of each,
and queries to classify. A *method* maps support (E, N, K, d) and query (E, M, d) of E episodes to logits
(E, M, N); ``evaluate`` measures one, ``compare_paired`` two. The names below are what most programs need.
Each comes from a room, a folder that teaches one idea and hands on more::

    data        sets of classes: made from what is installed, published, or your own
    core        episodes, evaluation, training
    encoders    pictures and texts -> features
    prototypes  chapter 02: a class is the mean of its examples, of its name, or of both
    finetuning  chapter 03: a head of its own for every episode
    maml        chapter 04: a start from which few steps suffice
    prompts     chapters 05 and 06: a language model fills the gap in a question
    graphs      chapter 07: examples, names and queries of an episode read each other
    multitask   chapter 08: one model, many tasks, conflicting gradients
    classifier  your own data: a few labelled examples in, labels for the rest out

A name is imported when it is first asked for: whoever only deals episodes waits for nothing else.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "MAML",
    "TIM",
    "Conv4",
    "EpisodeSampler",
    "Episodes",
    "FewShotClassifier",
    "FineTuning",
    "GATTransformer",
    "MetaPrompting",
    "PhotoEncoder",
    "PromptTuning",
    "RelationalNetwork",
    "Task",
    "TextEncoder",
    "choose",
    "compare_paired",
    "cosine_prototypes",
    "data",
    "euclidean_prototypes",
    "evaluate",
    "extract_features",
    "few_shot_method",
    "load_masked_lm",
    "load_relational",
    "logistic_regression",
    "meta_train",
    "name_features",
    "name_mix",
    "names_as_examples",
    "train_jointly",
    "train_prototypical",
    "zero_shot",
]

if TYPE_CHECKING:  # what a type checker or an editor reads
    from fewshot_lib import data
    from fewshot_lib.classifier import FewShotClassifier
    from fewshot_lib.core import Episodes, EpisodeSampler, compare_paired, evaluate, few_shot_method
    from fewshot_lib.encoders import Conv4, PhotoEncoder, TextEncoder, extract_features, load_masked_lm
    from fewshot_lib.finetuning import TIM, FineTuning, choose
    from fewshot_lib.graphs import GATTransformer, RelationalNetwork, load_relational
    from fewshot_lib.maml import MAML, meta_train
    from fewshot_lib.multitask import Task, train_jointly
    from fewshot_lib.prompts import MetaPrompting, PromptTuning
    from fewshot_lib.prototypes import (
        cosine_prototypes,
        euclidean_prototypes,
        logistic_regression,
        name_features,
        name_mix,
        names_as_examples,
        train_prototypical,
        zero_shot,
    )
else:  # what Python does (PEP 562); a checker would take this for a module in which every name exists
    _ROOMS = {
        "classifier": "FewShotClassifier",
        "core": "Episodes EpisodeSampler compare_paired evaluate few_shot_method",
        "encoders": "Conv4 PhotoEncoder TextEncoder extract_features load_masked_lm",
        "finetuning": "TIM FineTuning choose",
        "graphs": "GATTransformer RelationalNetwork load_relational",
        "maml": "MAML meta_train",
        "multitask": "Task train_jointly",
        "prompts": "MetaPrompting PromptTuning",
        "prototypes": "cosine_prototypes euclidean_prototypes logistic_regression "
        "name_features name_mix names_as_examples train_prototypical zero_shot",
    }
    _ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name == "data":
            return importlib.import_module("fewshot_lib.data")
        if name not in _ROOM_OF:
            raise AttributeError(f"module 'fewshot_lib' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"fewshot_lib.{_ROOM_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return __all__
