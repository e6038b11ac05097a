"""What ``on_gpu.py`` needs of data, in one small file, for a machine that can fetch nothing.

Omniglot's characters as bits (their rotations are made again), the headlines of HuffPost as token ids, both
with their classes and splits, and all-MiniLM-L6-v2 in half precision: about 52 MB, read with plain
safetensors. Made where the course and its data are at hand; see ``on_gpu.py --pack``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import TokenEncoder

FILE, SIDE, MAX_TOKENS, MOST_BYTES = "on_gpu.safetensors", 28, 32, 55_000_000
FAMILIES = ("vinyals", "mamlpp")


class Pack(NamedTuple):
    """Omniglot by split family; headlines as token ids (n, L) and (C, L) of the class names; an encoder."""

    omniglot: dict[str, ClassDataset]
    texts: ClassDataset
    names: Tensor
    encoder: TokenEncoder


def write(folder: Path) -> Path:
    """Packs what is at hand."""
    from fewshot_lib import data
    from fewshot_lib.encoders import TextEncoder, tokenise

    families = {family: data.load("omniglot", split_family=family) for family in FAMILIES}
    images, texts = families[FAMILIES[0]], data.load("huffpost")
    upright = torch.tensor([name.endswith(" 0°") for name in images.class_names])[images.labels]
    bits = np.packbits(images.inputs[upright].flatten(1).numpy() > 0, axis=1)
    encoder = TextEncoder(max_tokens=MAX_TOKENS)
    tensors = {
        "images": torch.from_numpy(bits),
        "characters": images.labels[upright] // 4,
        "ids": tokenise(encoder, texts.inputs).short(),
        "labels": texts.labels.short(),
        "names": tokenise(encoder, texts.class_names).short(),
        **{f"split {f} {s}": c for f, d in families.items() for s, c in d.splits.items()},
        **{f"split texts {s}": c for s, c in texts.splits.items()},
        **{f"model {name}": value.half() for name, value in encoder.model.state_dict().items()},
    }
    about = {"config": encoder.model.config.to_dict(), "classes": texts.class_names}
    about["padding"] = encoder.tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.clone() for k, v in tensors.items()}, folder / FILE, {"about": json.dumps(about)})
    size = (folder / FILE).stat().st_size
    assert size <= MOST_BYTES, f"{size:,} bytes are more than {MOST_BYTES:,}"
    return folder / FILE


def read(path: Path) -> Pack:
    """What ``write`` packed; the encoder in float32."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    bits = np.unpackbits(tensors["images"].numpy(), axis=1, count=SIDE * SIDE)
    upright = 255 * torch.from_numpy(bits).view(-1, 1, SIDE, SIDE)
    images = torch.cat([torch.rot90(upright, turns, (2, 3)) for turns in range(4)])
    labels = torch.cat([4 * tensors["characters"].long() + turns for turns in range(4)])
    named = [f"character {c // 4}, rotation {c % 4}" for c in range(int(labels.max()) + 1)]

    def splits(of: str) -> dict[str, Tensor]:
        start = f"split {of} "
        return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

    omniglot = {f: ClassDataset(images, labels, named, splits(f), name=f"omniglot/{f}") for f in FAMILIES}
    ids, names = tensors["ids"].long(), tensors["names"].long()
    texts = ClassDataset(
        ids, tensors["labels"].long(), about["classes"], splits("texts"), name="huffpost/bao"
    )
    weights = {n.removeprefix("model "): t.float() for n, t in tensors.items() if n.startswith("model ")}
    return _pack(omniglot, texts, names, _encoder(about["config"], about["padding"], weights))


def made_up() -> Pack:
    """A pack of noise, for the tests: does everything run?"""
    generator = torch.Generator().manual_seed(0)
    n_classes, parts = 30, {"train": slice(0, 15), "val": slice(15, 22), "test": slice(22, 30)}
    labels = torch.arange(n_classes).repeat_interleave(20)
    images = torch.randint(256, (len(labels), 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    splits = {name: torch.arange(n_classes)[part] for name, part in parts.items()}
    names = [f"class {c}" for c in range(n_classes)]
    ids = torch.randint(1, 50, (len(labels), 8), generator=generator)
    config = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 16, "max_position_embeddings": 16}
    omniglot = {family: ClassDataset(images, labels, names, splits, name="noise") for family in FAMILIES}
    texts = ClassDataset(ids, labels, names, splits)
    return _pack(omniglot, texts, ids[::20, :5], _encoder(config, 0, None))


def _pack(
    omniglot: dict[str, ClassDataset], texts: ClassDataset, names: Tensor, encoder: TokenEncoder
) -> Pack:
    """With names as long as texts, so that both can be dealt as one tensor."""
    longer = texts.inputs.shape[1] - names.shape[1]
    return Pack(omniglot, texts, F.pad(names, (0, longer), value=encoder.padding), encoder)


def _encoder(config: dict, padding: int, weights: dict[str, Tensor] | None) -> TokenEncoder:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**config))
    if weights is not None:
        model.load_state_dict(weights)
    tokenizer = SimpleNamespace(pad_token_id=padding)
    return TokenEncoder(SimpleNamespace(model=model, tokenizer=tokenizer, n_features=config["hidden_size"]))
