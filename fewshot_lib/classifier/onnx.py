"""A fitted classifier as one ONNX file: encoder, head and calibration, for programs without torch.

Inputs have any number of rows, and texts any length up to the encoder's ``max_tokens``:

    texts       input_ids, attention_mask   int64 (m, L)
    pictures    pictures                    float32 (m, channels, height, width) in 0..1
    features    features                    float32 (m, d)

Outputs are ``probabilities`` (m, N), calibrated, and ``known`` (m,): the p-value of "it is of one of the
classes". Refuse what is at most 0.05, if 5 % of your own kind of inputs may be refused by mistake. The
metadata hold the labels, and of texts the tokenizer. Using it takes onnxruntime, and for texts tokenizers:

    import json, numpy, onnxruntime, tokenizers

    session = onnxruntime.InferenceSession("model.onnx")
    about = session.get_modelmeta().custom_metadata_map
    labels, tokenizer = json.loads(about["labels"]), tokenizers.Tokenizer.from_str(about["tokenizer"])
    tokens = tokenizer.encode_batch(["Do you have a reading room?", "My card is lost."])
    ids = numpy.array([text.ids for text in tokens])
    mask = numpy.array([text.attention_mask for text in tokens])
    probabilities, known = session.run(None, {"input_ids": ids, "attention_mask": mask})
    print([labels[k] if p > 0.05 else None for k, p in zip(probabilities.argmax(1), known)])

Elsewhere, ONNX files were found to answer otherwise than torch (setfit, issue 291): padding, the mean over
tokens, or the cut of long texts was left to their users. Here all three are in the file, and it is written
only if onnxruntime gives what torch gives on examples of all lengths in one batch.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_lib.classifier import methods
from fewshot_lib.classifier.familiar import class_centres, familiarity
from fewshot_lib.core import evaluation_mode, extra, random_numbers
from fewshot_lib.data.cache import atomic_write
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.prototypes import SoftmaxHead

FIX = "names_as_examples, prototypes and relational networks have one"
FORMAT = "fewshot_lib classifier, 1"
AGREED = 1e-4  # of probabilities of float32 and float64
CHECKED = 256  # examples


NAMES = {"texts": ("input_ids", "attention_mask"), "pictures": ("pictures",), "features": ("features",)}


class Answers(nn.Module):
    """What is exported: the inputs of the file -> probabilities (m, N) float32, known (m,) float32."""

    centres: Tensor
    held_out: Tensor
    weights: Tensor
    biases: Tensor

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.kind, self.encoder, self.method = classifier.kind_, classifier.encoder_, classifier.method_
        self.temperature, head = classifier.temperature_, classifier.head_
        self.keep(
            centres=class_centres(classifier.support_, classifier.mask_, classifier.name_features_),
            held_out=classifier.held_out_.familiarity,
        )
        self.extra: tuple[str, ...] = ()
        if head is not None:
            self.keep(weights=head.weights, biases=head.biases)
        else:
            extra_inputs = methods.extra_inputs(self.method, classifier.mask_, classifier.name_features_)
            self.keep(support=classifier.support_.unsqueeze(0), **extra_inputs)
            self.extra = tuple(extra_inputs)

    def keep(self, **constants: Tensor) -> None:
        """Makes tensors part of the file; real numbers in float32."""
        for name, tensor in constants.items():
            self.register_buffer(name, tensor.float() if tensor.is_floating_point() else tensor)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self._features(*inputs)
        logits = self._logits(features.unsqueeze(0))[0]
        seen = familiarity(features, self.centres, logits).unsqueeze(1)
        known = ((self.held_out <= seen).sum(1) + 1) / (len(self.held_out) + 1)
        return (logits / self.temperature).softmax(-1), known.float()

    def _features(self, *inputs: Tensor) -> Tensor:
        if self.kind != "texts":
            return inputs[0] if self.encoder is None else self.encoder(*inputs)
        with extra("text"):
            from transformers import BatchEncoding

        return self.encoder(BatchEncoding(dict(zip(NAMES["texts"], inputs, strict=True))))

    def _logits(self, features: Tensor) -> Tensor:
        if not hasattr(self, "support"):
            return SoftmaxHead(self.weights, self.biases)(features)
        return self.method(self.support, features, **{name: getattr(self, name) for name in self.extra})


def to_onnx(classifier: Any, path: Path) -> float:
    """Writes the file; returns the largest difference of a probability from torch's, on up to 256 inputs.

    ValueError for a path that is a folder, and for what has no such form: a transductive method, one that
    trains at every call, an encoder of texts that reads no tokens.
    """
    with extra("onnx"):
        import onnxruntime
        import onnxscript  # noqa: F401  torch needs it
    _check(classifier.method_)
    tokenizer = tokenizer_of(classifier.encoder_) if classifier.kind_ == "texts" else None
    given, inputs = examples(classifier, tokenizer)
    facts = {"format": FORMAT, "kind": classifier.kind_, "labels": json.dumps(classifier.classes_.tolist())}
    if path.is_dir():
        raise ValueError(
            f"`path` is {str(path)!r}, a folder: name a file, such as {str(path / 'model.onnx')!r}."
        )
    with atomic_write(path) as temporary:  # around all: where nothing can be written, that is known at once
        program = _exported(classifier, inputs)
        program.model.metadata_props.update(
            facts if tokenizer is None else facts | {"tokenizer": tokenizer.to_str()}
        )
        with _quiet():
            ours = classifier._probabilities(classifier._logits(classifier._encode(given)))
        program.save(temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        theirs = session.run(None, dict(zip(NAMES[classifier.kind_], map(np.asarray, inputs), strict=True)))[
            0
        ]
        if not (difference := float(np.abs(theirs - ours.numpy()).max())) <= AGREED:
            found = f"its probabilities in ONNX differ from torch's by {difference:.2g}"
            raise ValueError(f"The classifier cannot be exported, {found}: use another encoder or `method`.")
    return difference


def _check(method: Any) -> None:
    found = "answers the inputs of a call together" if method.transductive else ""
    found = "trains on the examples in every call" if isinstance(method, FineTuning) else found
    if found:
        raise ValueError(f"`method` is {method.name!r}, which {found}: it has no form in ONNX, {FIX}.")


def _exported(classifier: Any, inputs: tuple[Tensor, ...]) -> Any:
    """torch's ONNX program, for any number of rows, and of tokens."""
    answers = copy.deepcopy(Answers(classifier)).cpu()  # the encoder may be on a GPU, and stays there
    sizes = {0: torch.export.Dim("rows")}
    if classifier.kind_ == "texts":
        sizes[1] = torch.export.Dim("tokens")
    with evaluation_mode(answers), torch.no_grad(), _quiet():
        try:
            return torch.onnx.export(
                answers,
                inputs,
                input_names=NAMES[classifier.kind_],
                output_names=("probabilities", "known"),
                dynamic_shapes=[tuple(sizes for _ in inputs)],
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever an encoder or a method runs into that somebody else wrote
            which = f"`method` {classifier.method_.name!r} or the encoder"
            raise ValueError(f"torch finds no form in ONNX for {which}: {FIX}.") from error


def tokenizer_of(encoder: nn.Module) -> Any:
    """A copy of an encoder's tokenizer that cuts and fills up as the encoder does."""
    of_encoder: Any = getattr(encoder, "tokenizer", None)
    if (fast := getattr(of_encoder, "backend_tokenizer", None)) is None:
        found = f"`encoder` is a {type(encoder).__name__}, which reads no tokens"
        raise ValueError(f"{found}: it has no form in ONNX, a TextEncoder has one.")
    tokenizer = type(fast).from_str(fast.to_str())
    tokenizer.enable_truncation(encoder.max_tokens)
    tokenizer.enable_padding(pad_id=of_encoder.pad_token_id, pad_token=of_encoder.pad_token)
    return tokenizer


def examples(classifier: Any, tokenizer: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """Inputs as the classifier takes them, and as the file does: its examples; of pictures noise."""
    if tokenizer is not None:
        texts = classifier.inputs_[:CHECKED]
        tokens = tokenizer.encode_batch(texts)
        return texts, (
            torch.tensor([text.ids for text in tokens]),
            torch.tensor([text.attention_mask for text in tokens]),
        )
    if classifier.kind_ == "features":
        return classifier.features_[:CHECKED].numpy(), (classifier.features_[:CHECKED].float(),)
    generator = random_numbers(0)
    pictures = torch.rand(8, *classifier.picture_shape_, generator=generator)
    return pictures, (pictures,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch's exporter does not warn of its own inner life."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
