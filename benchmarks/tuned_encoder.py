"""A text encoder whose adapters were trained on the training classes of several sets (``multitask.encoder``).

The adapters (LoRA of rank 16, in every linear layer) are trained on 10-way episodes of 1 to 5 shots, each of
one set; how strong they are to be, from 0 (the encoder as it came) to 1, validation classes choose.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import pick_device
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import TextEncoder, TokenEncoder, tokenise, with_lora
from fewshot_lib.multitask import Task, TaskSampler, scale_adapters, tune_encoder, validation_accuracy
from fewshot_lib.prototypes import NAME_TEMPLATE

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
ALL_LINEAR = {"minilm": ("query", "key", "value", "dense"), "mpnet": ("q", "k", "v", "o", "dense")}


def tuned_encoder(
    datasets: list[ClassDataset], name: str, *, n_steps: int, max_tokens: int, seed: int, checkpoint: Path
) -> TokenEncoder:
    """LoRA adapters, trained on the training classes of all sets, as strong as validation classes like it."""
    short = TextEncoder(name, max_tokens=max_tokens)
    tuned = with_lora(short, rank=16, targets=ALL_LINEAR[name], seed=seed)
    tuned = tuned.to(pick_device())
    tasks = [Task(ds.name, ds, *token_ids(ds, short, max_tokens)) for ds in datasets]
    samplers = [
        TaskSampler([task], min(10, len(task.classes("train"))), (1, 5), 2, 1, seed=seed + number)
        for number, task in enumerate(tasks)
    ]
    loop = {"validate_every": max(1, n_steps // 4), "checkpoint_every": 50, "checkpoint": checkpoint}
    tune_encoder(tuned, samplers, n_steps, **loop)
    whole, mean_of = copy.deepcopy(tuned.state_dict()), {}
    for strength in STRENGTHS:
        scale_adapters(tuned, strength)
        mean_of[strength] = sum(validation_accuracy(tuned, task) for task in tasks) / len(tasks)
        tuned.load_state_dict(whole)
    best = max(mean_of, key=mean_of.get)
    words = {strength: f"{accuracy:.1%}" for strength, accuracy in mean_of.items()}
    print("strength of the adapters: validation accuracy", words, "chosen:", best, flush=True)
    scale_adapters(tuned, best)
    return tuned


def token_ids(dataset: ClassDataset, encoder: TextEncoder, length: int) -> tuple[Tensor, Tensor]:
    """Token ids of the texts (n, L) and of the class names (C, L)."""
    names = [NAME_TEMPLATE.replace("{}", name) for name in dataset.class_names]
    padding = encoder.tokenizer.pad_token_id
    texts, names = (
        F.pad(ids, (0, length - ids.shape[1]), value=padding).to(pick_device())
        for ids in (tokenise(encoder, dataset.inputs), tokenise(encoder, names))
    )
    return texts, names
