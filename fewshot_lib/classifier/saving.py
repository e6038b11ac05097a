"""A fitted classifier as a folder: ``classifier.json`` and ``classifier.safetensors`` with its numbers.

No pickle: loading runs no code of the file. The encoder is not in it, but its name, where it cuts texts, and
the sha256 of its weights and settings are, and another encoder is refused. What is saved is the whole state,
the head included, so the answers afterwards are the same to the bit on the same machine. Both files are known
by checksums: a folder of which one was replaced, or edited, is noticed. A save that is killed leaves the old
classifier or the new one: the new numbers are in ``classifier.new.safetensors`` until their description is
written.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from torch import Tensor, nn

from fewshot_lib.classifier.held_out import HeldOut
from fewshot_lib.classifier.inputs import encoder_for, named
from fewshot_lib.classifier.tuning import TunedEncoder, with_adapters
from fewshot_lib.classifier.unlabelled import WithUnlabelled
from fewshot_lib.classifier.words import WithWords, Words, n_ids, without_words
from fewshot_lib.core import Method
from fewshot_lib.data.cache import atomic_write, save_tensors
from fewshot_lib.encoders import TextEncoder, encoder_fingerprint
from fewshot_lib.finetuning import TIM, FineTuning, TransductiveFineTuning
from fewshot_lib.graphs import load_relational
from fewshot_lib.prototypes import (
    NamesAsExamples,
    SoftmaxHead,
    cosine_prototypes,
    euclidean_prototypes,
    logistic_regression,
    name_mix,
    weighed_names,
    zero_shot,
)

VERSION, READABLE = 5, (3, 5)  # 3: no words beside the encoder; 4: no column for unknown ones
UNWRITTEN = 128  # `max_tokens` of text encoders in folders that do not say it
DESCRIPTION, NUMBERS, NEW_NUMBERS = "classifier.json", "classifier.safetensors", "classifier.new.safetensors"
KINDS = (NamesAsExamples, WithUnlabelled, FineTuning, TransductiveFineTuning, TIM)
SETTINGS: dict[str, Any] = {kind.__name__: kind for kind in KINDS}
METHODS = (cosine_prototypes, euclidean_prototypes, logistic_regression, name_mix, weighed_names, zero_shot)
FUNCTIONS = {method.name: method for method in METHODS}
LABELS = "iubUf"  # the kinds of labels, as numpy calls them
OF_COLUMNS = ("n_features_in_", "feature_names_in_")
KEYS = set(
    "format version kind classes label_type names inputs picture_shape template temperature method encoder "
    "features numbers_sha256 asked".split()
)
ASKED = {"auto", None, "given"}
TENSORS = ("features_", "labels_", "mask_", "rows_")


def save(classifier: Any, folder: Path) -> None:
    """Writes the new numbers beside the old ones, then the description, whose checksum says which count."""
    tensors = {name: getattr(classifier, name) for name in TENSORS}
    tensors |= {f"held_out.{f.name}": getattr(classifier.held_out_, f.name) for f in _fields(HeldOut)}
    if classifier.name_features_ is not None:
        tensors["name_features_"] = classifier.name_features_
    if isinstance(classifier.method_, WithUnlabelled):
        tensors["pool"] = classifier.method_.pool
    if classifier.head_ is not None:
        tensors |= {"head.weights": classifier.head_.weights, "head.biases": classifier.head_.biases}
    description = {
        "format": "fewshot_lib classifier",
        "version": VERSION,
        "kind": classifier.kind_,
        "classes": classifier.classes_.tolist(),
        "label_type": classifier.classes_.dtype.str,
        "names": classifier.names_,
        "inputs": classifier.inputs_,
        "picture_shape": classifier.picture_shape_,
        "template": classifier.template,
        "temperature": classifier.temperature_,
        "method": _described(classifier.method_),
        "encoder": None if classifier.encoder_ is None else _described_encoder(classifier),
        "features": _columns(classifier),
        "asked": _asked(classifier),
    }
    if isinstance(classifier.encoder_, WithWords):
        tensors |= {
            f"words.{name}": buffer for name, buffer in classifier.encoder_.words.state_dict().items()
        }
    if isinstance(tuned := without_words(classifier.encoder_), TunedEncoder):
        tensors |= {f"adapter.{name}": p for name, p in tuned.adapters().items()}
    _end_saving(folder)  # an earlier save may have been killed when its numbers counted already
    save_tensors(folder / NEW_NUMBERS, tensors)
    description["numbers_sha256"] = hashlib.sha256((folder / NEW_NUMBERS).read_bytes()).hexdigest()
    description["sha256"] = _checksum(description)
    with atomic_write(folder / DESCRIPTION) as temporary:
        text = json.dumps(description, ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
    _end_saving(folder)


def _end_saving(folder: Path) -> None:
    """Gives the new numbers the name of the old ones, if it is they that the description means."""
    new = folder / NEW_NUMBERS
    absent, damaged = (
        (FileNotFoundError, NotADirectoryError),
        (ValueError, RecursionError, KeyError, TypeError),
    )
    with contextlib.suppress(*absent, *damaged):
        numbers = hashlib.sha256(new.read_bytes()).hexdigest()
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8", errors="surrogatepass"))
        if about["numbers_sha256"] == numbers:
            new.replace(folder / NUMBERS)


def load(classifier: Any, folder: Path, method: Method | None, encoder: nn.Module | None) -> Any:
    """Fills a new classifier with what a folder holds."""
    about, tensors = _read(folder)
    classifier.kind_, classifier.template = about["kind"], about["template"]
    classifier.classes_ = np.array(about["classes"]).astype(about["label_type"])
    classifier.names_, classifier.inputs_ = about["names"], about["inputs"]
    classifier.picture_shape_ = None
    if shape := about["picture_shape"]:
        classifier.picture_shape_ = tuple(shape)
        classifier.size, classifier.color = f"{shape[1]}x{shape[2]}", shape[0] == 3
    for name in TENSORS:
        setattr(classifier, name, tensors[name])
    classifier.support_ = classifier.features_[classifier.rows_]
    classifier.name_features_ = tensors.get("name_features_")
    has_head = "head.weights" in tensors
    classifier.head_ = SoftmaxHead(tensors["head.weights"], tensors["head.biases"]) if has_head else None
    classifier.held_out_ = HeldOut(*(tensors[f"held_out.{field.name}"] for field in _fields(HeldOut)))
    classifier.n_examples_ = np.bincount(classifier.labels_.numpy(), minlength=len(classifier.classes_))
    classifier.method_ = classifier.method = _restored(about["method"], method, tensors)
    _ask_again(classifier, about.get("asked", {}))
    classifier.encoder = encoder or (about["encoder"] or {}).get("source")
    classifier.max_tokens = _max_tokens(about) if encoder is None else None
    classifier.encoder_ = _restored_encoder(about, classifier, tensors)
    for name, value in about["features"].items():
        setattr(classifier, name, np.array(value, dtype=object) if isinstance(value, list) else value)
    classifier._judge()
    classifier.temperature_ = about["temperature"]
    return classifier


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8", errors="surrogatepass"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _nothing_saved(folder, DESCRIPTION) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / DESCRIPTION} is damaged ({error}): save the classifier again.") from None
    if not isinstance(about, dict) or about.get("format") != "fewshot_lib classifier":
        raise ValueError(f"{folder / DESCRIPTION} describes no classifier of this library.")
    if (version := about.get("version")) not in READABLE:
        reads = f"this library reads versions {' and '.join(map(str, READABLE))}"
        fix = f"{reads}: save it again, or use the library that wrote it"
        raise ValueError(f"{folder} has version {version} of the format, and {fix}.")
    if about.pop("sha256", None) != _checksum(about):
        raise ValueError(f"{folder / DESCRIPTION} was changed after it was saved: save the classifier again.")
    numbers = _numbers(folder, about.get("numbers_sha256"))
    try:
        tensors = load_bytes(numbers)
        if wrong := _misfit(about, tensors):
            raise ValueError(f"{wrong} is not as this library writes it")
    except (KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        why = f"missing or of another kind: {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{folder} holds no classifier of this library ({why}): save it again.") from None
    return about, tensors


def _numbers(folder: Path, sha256: str | None) -> bytes:
    """The numbers that the description means: under the new name where saving was killed before its end."""
    files = [file for name in (NUMBERS, NEW_NUMBERS) if (file := folder / name).is_file()]
    if not files:
        raise _nothing_saved(folder, NUMBERS)
    for file in files:
        if hashlib.sha256(content := file.read_bytes()).hexdigest() == sha256:
            return content
    raise ValueError(f"{folder / NUMBERS} is not the file that was saved: save the classifier again.")


def _nothing_saved(folder: Path, missing: str) -> ValueError:
    found = f"there is no file {folder / missing}"
    return ValueError(f"{folder} holds no saved classifier: {found}. Name the folder of `save`.")


def _misfit(about: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
    """What does not fit the rest, in files that may come from anybody; KeyError where one is missing."""
    n_way, n, k = len(about["classes"]), len(tensors["labels_"]), tensors["mask_"].shape[-1]
    d, n_held_out = tensors["features_"].shape[-1], len(tensors["held_out.labels"])
    empty = torch.zeros(0, dtype=torch.int64)
    n_pieces = len(tensors.get("words.pieces", empty))
    shapes: dict[str, tuple[int, ...]] = {
        "features_": (n, d),
        "labels_": (n,),
        "mask_": (n_way, k),
        "rows_": (n_way, k),
        "name_features_": (n_way, d),
        "pool": (len(tensors.get("pool", ())), d),
        "head.weights": (1, n_way, d),
        "head.biases": (1, n_way),
        "held_out.rows": (n_held_out,),
        "held_out.logits": (n_held_out, n_way),
        "held_out.labels": (n_held_out,),
        "held_out.familiarity": (n_held_out,),
        "words.pieces": (n_pieces,),
        "words.idf": (n_pieces,),
        "words.unseen": (),
        "words.weight": (),
    }
    of_words = ("words.pieces", "words.idf", "words.unseen", "words.weight")
    optional = [("name_features_",), ("pool",), ("head.weights", "head.biases"), of_words]
    expected = set(shapes) - {name for names in optional if names[0] not in tensors for name in names}
    types = np.dtype(about["label_type"])
    keys, asked = (KEYS if about["version"] == VERSION else KEYS - {"asked"}), about.get("asked", {})
    are_texts = {isinstance(label, str) for label in about["classes"]}
    fits = {
        "the list of what it says": about.keys() == keys,
        "`asked`": asked == {} or _is_asked(**asked),
        "`kind`": about["kind"] in ("texts", "pictures", "features"),
        "`classes`": n_way > 1 and len(set(map(str, about["classes"]))) == n_way,
        "`label_type`": types.kind in LABELS and types.itemsize and are_texts == {types.kind == "U"},
        "`features`": about["features"].keys() <= set(OF_COLUMNS),
        "`temperature`": 0 < about["temperature"] < float("inf"),
        "`names`": about["names"] is None or len(about["names"]) == n_way,
        "`method`": isinstance(about["method"].get("settings", {}), dict),
        "`encoder`": about["encoder"] is None or _is_encoder(about["encoder"]),
        "the range of `labels_`": _in_range(tensors["labels_"], n_way),
        "the range of `rows_`": _in_range(tensors["rows_"], n),
        "the range of `words.pieces`": n_pieces < d and _in_range(tensors.get("words.pieces", empty), 2**31),
        **{f"the shape of `{name}`": tuple(tensors[name].shape) == shapes[name] for name in expected},
        **{f"NaN in `{name}`": bool(tensors[name].isfinite().all()) for name in expected},
    }
    return next((name for name, right in fits.items() if not right), None)


def _in_range(numbers: Tensor, end: int) -> bool:
    return not numbers.is_floating_point() and bool(((numbers >= 0) & (numbers < end)).all())


def _is_asked(names: Any, method: Any, words: Any) -> bool:
    return {names, method} <= ASKED and (words is None or 0 <= words < float("inf"))


def _is_encoder(described: dict[str, Any]) -> bool:
    known = described.keys() - {"max_tokens"} == {"source", "own", "sha256"}
    source, most = described.get("source"), described.get("max_tokens", UNWRITTEN)
    return known and (source is None or isinstance(source, str)) and type(most) is int


def _checksum(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _described(method: Any) -> dict[str, Any]:
    if isinstance(method, nn.Module):
        return {"name": method.name, "own": True, "sha256": encoder_fingerprint(method)}
    if type(method).__name__ in SETTINGS and dataclasses.is_dataclass(method):
        settings = {field.name: getattr(method, field.name) for field in _fields(type(method))}
        settings.pop("pool", None)  # it is among the numbers
        return {"settings_of": type(method).__name__, "settings": settings}
    return {"name": method.name, "own": FUNCTIONS.get(method.name) is not method}


def _asked(classifier: Any) -> dict[str, Any]:
    """What the classifier was told to find out, so that it does when it is fitted anew."""
    names, method = classifier.names, classifier.method
    return {
        "names": "given" if isinstance(names, Mapping) else names,
        "method": method if method is None or isinstance(method, str) else "given",
        "words": classifier.words,
    }


def _ask_again(classifier: Any, asked: dict[str, Any]) -> None:
    if asked.get("method", "given") in ("auto", None):
        classifier.method = asked["method"]
    classifier.words = asked.get("words", 0.0)
    classifier.names = asked.get("names", "auto")
    if classifier.names == "given":
        classifier.names = dict(zip(classifier.classes_.tolist(), classifier.names_ or [], strict=False))


def _restored(described: dict[str, Any], method: Method | None, tensors: dict[str, Tensor]) -> Method:
    known = SETTINGS.get(described["settings_of"]) if "settings_of" in described else None
    if known is not None and {f.name for f in _fields(known)} - {"pool"} == described["settings"].keys():
        pool = {"pool": tensors["pool"]} if known is WithUnlabelled else {}
        return known(**described["settings"], **pool)
    if known is not None or not described.get("own"):
        if (function := FUNCTIONS.get(str(described.get("name")))) is None:
            raise ValueError(f"The method {described} is unknown to this library.")
        return function
    if method is None:
        shipped = [load_relational(transductive=reads_queries) for reads_queries in (False, True)]
        known_by = described.get("sha256")
        method = next((network for network in shipped if encoder_fingerprint(network) == known_by), None)
    if method is None or method.name != described["name"]:
        found = f"the classifier was saved with the method {described['name']!r} of your own"
        raise ValueError(f"`method` is {method!r}, and {found}: pass that one to `load`.")
    if isinstance(method, nn.Module) and encoder_fingerprint(method) != described.get("sha256"):
        raise ValueError(
            f"`method` is not the {method.name!r} that was saved: its weights or settings differ."
        )
    return method


def _described_encoder(classifier: Any) -> dict[str, Any]:
    own = isinstance(classifier.encoder, nn.Module)
    source = None if own else named(classifier.kind_, classifier.encoder)
    cut = {} if own or classifier.kind_ != "texts" else {"max_tokens": classifier.encoder_.max_tokens}
    return {"source": source, "own": own, "sha256": encoder_fingerprint(classifier.encoder_), **cut}


def _max_tokens(about: dict[str, Any]) -> int | None:
    """Where a text encoder known by name cuts; it was the same for all before it was written down."""
    described = about["encoder"]
    known_by_name = about["kind"] == "texts" and described is not None and not described["own"]
    return described.get("max_tokens", UNWRITTEN) if known_by_name else None


def _restored_encoder(about: dict[str, Any], classifier: Any, tensors: dict[str, Tensor]) -> nn.Module | None:
    if (described := about["encoder"]) is None:
        return None
    if described["own"] and not isinstance(classifier.encoder, nn.Module):
        raise ValueError("`encoder` is missing: the classifier was saved with a module of your own; pass it.")
    restored = without_words(encoder_for(about["kind"], classifier.encoder, classifier.max_tokens))
    adapters, words = (_of(part, tensors) for part in ("adapter.", "words."))
    if adapters and isinstance(restored, TextEncoder):
        restored = with_adapters(restored, adapters)
    if words and hasattr(restored, "tokenizer") and int(words["pieces"].max()) < n_ids(restored.tokenizer):
        restored = WithWords(restored, Words(restored.tokenizer, **words))
    if restored is None or encoder_fingerprint(restored) != described["sha256"]:
        raise ValueError("`encoder` is not the one that the classifier was fitted with: its weights differ.")
    return restored


def _of(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}


def _columns(classifier: Any) -> dict[str, Any]:
    """What scikit-learn's checks know of the columns of features."""
    found = {name: getattr(classifier, name) for name in OF_COLUMNS if hasattr(classifier, name)}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}


def _fields(kind: type) -> tuple:
    return dataclasses.fields(kind)
