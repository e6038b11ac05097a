"""``FewShotClassifier``: a few labelled examples of your classes in, labels for the rest out.

    clf = FewShotClassifier().fit(texts, labels)
    clf.predict(new), clf.predict_proba(new), clf.accuracy_, clf.save("my_model")

Inputs become features by a frozen encoder, texts by their words as well. The examples are the support set of
one large episode, what is to be labelled are its queries, and any method of the library answers.
scikit-learn's interface throughout.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from fewshot_lib.classifier import methods, naming, saving, tuning
from fewshot_lib.classifier.copies import without_copies
from fewshot_lib.classifier.explanation import Explanation, explain
from fewshot_lib.classifier.familiar import class_centres, familiarity
from fewshot_lib.classifier.held_out import Answer, HeldOut, clearly_better, hold_out, wilson
from fewshot_lib.classifier.inputs import (
    OF_PIXELS,
    chunks,
    encoder_for,
    features_of,
    files_of,
    in_memory,
    is_image,
    labelled_folder,
    picture_form,
    recognise,
)
from fewshot_lib.classifier.labels import as_labels, tidied
from fewshot_lib.classifier.onnx import to_onnx
from fewshot_lib.classifier.suggestion import suggest
from fewshot_lib.classifier.unlabelled import WithUnlabelled, are_examples, without_examples
from fewshot_lib.classifier.words import WEIGHT, WithWords, encoded_names, with_words, without_words
from fewshot_lib.core import Method, positive, whole_number
from fewshot_lib.data.own.pictures import AT_ONCE, PictureFiles
from fewshot_lib.data.reporting import progress
from fewshot_lib.encoders import PhotoEncoder, TextEncoder
from fewshot_lib.prototypes import NamesAsExamples, found_weight

CHUNK = 1024  # inputs that are encoded and answered at a time


def _or_as_before(learn: Callable) -> Callable:
    """A method that changes a classifier altogether, or, where it fails or is stopped, not at all."""

    @wraps(learn)
    def safely(self: Any, *args: Any, **options: Any) -> Any:
        before = dict(vars(self))
        try:
            return learn(self, *args, **options)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return safely


class Labelled(NamedTuple):
    """Answers to m inputs: label (m,), its calibrated probability (m,), whether it is refused (m,)."""

    label: np.ndarray
    probability: np.ndarray
    rejected: np.ndarray


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of texts, pictures or features from a few examples of each class.

    method: None for the default, logistic regression that takes the name of a class for further examples of
        it (``NamesAsExamples``; for how many, the examples decide: ``prototypes.name_weight``). Or any
        few-shot method of the library; a transductive one answers the inputs of *one* call together. Or
        "auto": from three examples a class on, another method if it is clearly better on held-out examples.
    encoder: for texts, a name or path for ``TextEncoder`` (None: all-MiniLM-L6-v2) or a module; for pictures,
        "photos" (``PhotoEncoder``), "pixels" (no encoder at all) or a module (n, c, h, w) -> (n, d) (None:
        "photos" where it is installed, else "pixels").
    max_tokens: how many tokens of a text the encoder reads. None: as many as its publishers had it read, 256
        for MiniLM; with 512 it takes longer, and is better on 20 Newsgroups and worse on Reuters
        (``benchmarks/own_data.md``).
    size, color: how picture *files* are read, as in ``data.from_folder`` (None: as suits the encoder); arrays
        are taken as they are.
    names: "auto" (the labels themselves, where they are words), None, or {label: name}. Used with texts.
    template: the sentence that a name is put into.
    words: how much the words of a text count beside its encoding, which counts 1: α of ``words``. None: 0.6
        with a ``TextEncoder``; but 0 if ``method`` is a trained network, which has learnt the encoder's
        features alone.

    Learnt: ``classes_``; ``names_`` (None: no names); ``method_``; ``n_examples_`` per class; ``accuracy_``
    on held-out examples, the same that decided how much names count, with its 95 % ``accuracy_interval_``
    (NaN and (0, 1) where none can be held out); ``temperature_`` of the probabilities; with "auto",
    ``choice_`` {method: held-out accuracy}; where tuning was tried, ``tuning_`` {"frozen", "tuned": held-out
    accuracy}.
    """

    def __init__(
        self,
        method: Method | str | None = None,
        *,
        encoder: nn.Module | str | None = None,
        names: str | Mapping | None = "auto",
        template: str = naming.TEMPLATE,
        words: float | None = None,
        max_tokens: int | None = None,
        size: int | str | tuple[int, int] | None = None,
        color: bool | None = None,
    ) -> None:
        self.method = method
        self.encoder = encoder
        self.names = names
        self.template = template
        self.words = words
        self.max_tokens = max_tokens
        self.size = size
        self.color = color

    # Learning

    @_or_as_before
    def fit(self, X: Any, y: Any = None, *, unlabelled: Any = None, tune_encoder: bool = False) -> Self:
        """Learns from inputs X (n) and labels y (n,), of at least two classes.

        X may be a folder with one sub-folder of pictures per class; then there is no y.
        unlabelled: more inputs of the same kind, of which the default head learns what the classes look like.
        Semi-supervised: they are read here, once, and what is asked later is answered one by one.
        tune_encoder: of texts; whether to fine-tune the encoder on the examples as well (see ``tuning``),
            unless held-out examples speak against it: ``tuning_`` has what they said. Half a minute for 100
            short texts, minutes for long ones, and answers then take twice as long; what it brings is in
            ``benchmarks/tuning.md``.
        """
        self._check_options(unlabelled, tune_encoder)
        kind, inputs, labels = self._training_set(X, y)
        if kind != "features":
            inputs, labels = without_copies(inputs, labels, self.classes_)
        self.kind_, self.encoder_ = kind, without_words(encoder_for(kind, self.encoder, self.max_tokens))
        if kind == "pictures" and self.encoder is None and not PhotoEncoder.installed():
            warnings.warn(OF_PIXELS, stacklevel=3)
        if tune_encoder:
            tuning.check(self.encoder_, kind)
        self.names_ = naming.class_names(self.names, self.classes_) if kind == "texts" else None
        self.inputs_ = list(inputs) if kind == "texts" else None
        self.picture_shape_: tuple[int, ...] | None = tuple(inputs.shape[1:]) if kind == "pictures" else None
        if weight := self._weight_of_words():
            self.encoder_ = with_words(self.encoder_, inputs, weight)
        self.features_, self.labels_ = self._encode(inputs), torch.from_numpy(labels)
        self.name_features_ = self._encode_names()
        self.unlabelled_ = None
        if unlabelled is not None:
            pool = self._encode(self._recognised(unlabelled, PictureFiles), "encoding the unlabelled")
            self.unlabelled_ = without_examples(pool, self.features_)
        self._learn()
        return self._tune() if tune_encoder else self

    def _weight_of_words(self) -> float:
        network, reads_words = isinstance(self.method, nn.Module), isinstance(self.encoder_, TextEncoder)
        if self.words is None:
            return 0.0 if network or not reads_words else WEIGHT
        if self.words and (network or not reads_words):
            what = "`method` is a trained network" if network else "only a `TextEncoder` tells words"
            raise ValueError(f"`words` is {self.words}, and {what}: leave it out.")
        return self.words

    def _check_options(self, unlabelled: Any, tune_encoder: bool) -> None:
        if self.words is not None:
            positive(or_zero=True, words=self.words)
        if unlabelled is None:
            return
        if not (self.method is None or self.method == "auto"):
            fix = 'leave one out; the default method and "auto" learn from unlabelled inputs'
            raise ValueError(f"`unlabelled` is given, and `method` {self.method!r}, which reads none: {fix}.")
        if tune_encoder:
            fix = "leave one out: an encoder is tuned on the examples alone"
            raise ValueError(f"`unlabelled` is given, and `tune_encoder` is {tune_encoder}: {fix}.")

    def _training_set(self, X: Any, y: Any) -> tuple[str, Any, np.ndarray]:
        """The kind of inputs, the inputs, and their labels, counted from 0; sets ``classes_``."""
        form = picture_form(self.encoder, self.size, self.color)
        if y is None and isinstance(X, str | Path) and os.path.isdir(folder := os.path.expanduser(X)):
            X, y = labelled_folder(Path(folder), *form)
        kind, inputs = recognise(X, *form)
        if kind == "features":
            # of y only whether there is one: this would make floats of pandas' whole numbers
            inputs = validate_data(self, inputs, None if y is None else "no_validation")
        elif y is None:
            raise ValueError("`y` is None: give the label of every input.")
        y = as_labels(y, len(inputs))
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` holds one class, {str(self.classes_[0])!r}: give examples of two or more.")
        return kind, inputs, labels

    @_or_as_before
    def add_class(self, label: Any, X: Any, name: str | None = None) -> Self:
        """One class more, from its inputs X; the examples of the others are not encoded again.

        The method, and how much names count, stay as ``fit`` found them: fit anew to choose again.
        name: where the classes have names; None takes the label itself.
        """
        check_is_fitted(self)
        tuning.check_frozen(self.encoder_)
        label = self._new_label(label)
        if name is not None and self.names_ is None:
            raise ValueError(f"`name` is {name!r}, and the classes have no names: leave it out.")
        inputs = self._recognised(X)
        if not len(inputs):
            raise ValueError(f"`X` is empty: give one or more examples of {label!r}.")
        if self.kind_ != "features":
            inputs, _ = without_copies(inputs, np.zeros(len(inputs), dtype=int), np.array([label]))
        features = self._encode(inputs)
        old = self.classes_[self.labels_.numpy()].tolist()
        names = dict(zip(self.classes_.tolist(), self.names_ or [], strict=False))
        self.classes_, labels = np.unique(np.array([*old, *[label] * len(features)]), return_inverse=True)
        self.features_ = torch.cat([self.features_, features])
        self.labels_ = torch.from_numpy(labels)
        if self.inputs_ is not None:
            self.inputs_ = [*self.inputs_, *inputs]
        if self.names_ is not None:
            names[label] = name or naming.spoken(label)
            self.names_ = [names[known] for known in self.classes_.tolist()]
        return self._with_their_words()._learn(self.method_)

    def _new_label(self, label: Any) -> Any:
        """The label of a class that there was not, of the same type as the others."""
        if np.ndim(label):
            raise ValueError(f"`label` is {label!r}: add one class at a time.")
        label = tidied(label)
        if label in self.classes_.tolist():
            raise ValueError(f"`label` is {label!r}, which is a class already: fit anew to change it.")
        found, kind = as_labels([label], 1), self.classes_.dtype.kind
        if found.dtype.kind != kind:
            there = {"U": "texts", "f": "numbers", "b": "True and False"}.get(kind, "whole numbers")
            raise ValueError(f"`label` is {label!r}, and the other labels are {there}: give one like them.")
        return found.tolist()[0]

    @_or_as_before
    def remove_class(self, label: Any) -> Self:
        """One class less; two have to stay. The method stays, as in ``add_class``."""
        check_is_fitted(self)
        tuning.check_frozen(self.encoder_)
        label = tidied(label)
        if label not in self.classes_.tolist():
            raise ValueError(f"`label` is {label!r}, which is none of {self.classes_.tolist()}.")
        if len(self.classes_) < 3:
            raise ValueError(f"`label` is {label!r}: without it one class would be left, and two are needed.")
        gone = self.classes_.tolist().index(label)
        keep = self.labels_ != gone
        self.classes_ = np.delete(self.classes_, gone)
        self.features_, labels = self.features_[keep], self.labels_[keep]
        self.labels_ = labels - (labels > gone).long()
        if self.inputs_ is not None:
            self.inputs_ = [text for text, kept in zip(self.inputs_, keep.tolist(), strict=True) if kept]
        if self.names_ is not None:
            self.names_ = [name for c, name in enumerate(self.names_) if c != gone]
        return self._with_their_words()._learn(self.method_)

    def _learn(self, method: Method | None = None, held_out: HeldOut | None = None) -> Self:
        """From features, labels and names: the episode, the method, and what held-out examples say of it.

        method, held_out: where they are known already.
        """
        self.n_examples_ = np.bincount(self.labels_.numpy(), minlength=len(self.classes_))
        rows = torch.full((len(self.classes_), int(self.n_examples_.max())), -1)
        for c in range(len(rows)):
            own = (self.labels_ == c).nonzero()[:, 0]
            rows[c, : len(own)] = own
        self.rows_, self.mask_ = rows.clamp_min(0), rows >= 0
        self.support_ = self.features_[self.rows_]  # (N, K, d)
        self.method_ = self._chosen_method() if method is None else method
        self.head_ = methods.head_of(self.method_, self.support_, self.mask_, self.name_features_)
        self.held_out_ = self._hold_out(self.method_) if held_out is None else held_out
        self._judge()
        return self

    def _tune(self) -> Self:
        """Takes a tuned encoder in place of the frozen one, unless the examples speak against it."""
        if (held_out := tuning.checked(self)) is None:
            return self
        self.encoder_ = tuning.tune_on(self, self.rows_[self.mask_])
        self.features_, self.name_features_ = self._encode(self.inputs_), self._encode_names()
        return self._learn(self.method_, held_out)

    def _judge(self) -> None:
        n, correct = len(self.held_out_), int(self.held_out_.correct.sum())
        self.accuracy_ = correct / n if n else float("nan")
        self.accuracy_interval_ = wilson(correct, n)
        self.temperature_ = self.held_out_.temperature()

    def _chosen_method(self) -> Method:
        if self.method is None:
            return self._default_method()
        if not (isinstance(self.method, str) and self.method == "auto"):
            methods.check_method(self.method, self.name_features_)
            return self.method  # type: ignore[return-value]
        if self.n_examples_.min() < methods.AUTO_FROM:
            self.choice_: dict[str, float] = {}
            return self._default_method()
        candidates = methods.candidates(self._default_method(), self.name_features_)
        found = {m: self._hold_out(m) for m in candidates}
        self.choice_ = {m.name: float(h.correct.double().mean()) for m, h in found.items()}
        leads = [m for m in candidates if clearly_better(found[m], found[candidates[0]])]
        return max(leads, key=lambda method: self.choice_[method.name]) if leads else candidates[0]

    def _default_method(self) -> Method:
        weight = NamesAsExamples.weight
        if self.name_features_ is not None:
            episode = self.support_, self.name_features_, self.mask_
            weight = float(found_weight(*(part.unsqueeze(0) for part in episode)))
        return methods.default_method(self.name_features_, self.unlabelled_, weight)

    def _hold_out(self, method: Method) -> HeldOut:
        names = self.name_features_
        return hold_out(self.support_, self.mask_, self.rows_, names, self._answers_with(method, names))

    @staticmethod
    def _answers_with(method: Method, names: Tensor | None) -> Answer:
        def answer(support: Tensor, mask: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
            logits = methods.answer(method, support, mask, query, names)
            return logits, familiarity(query, class_centres(support, mask, names), logits)

        return answer

    # Answering

    def predict(self, X: Any, *, reject: float | None = None) -> np.ndarray:
        """Labels (m,) of X.

        reject: the share of inputs *of your classes* that may be refused by mistake, such as 0.05. What looks
        more foreign than all but that share of the held-out examples gets None, in an array of objects.
        """
        answers = self._labelled(self._scores(self._given(X)), reject)
        if reject is None:
            return answers.label
        labels = answers.label.astype(object)
        labels[answers.rejected] = None
        return labels

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on X (n), with labels y (n,) that are read as in ``fit``; cross-validation asks it, too.

        A scorer of scikit-learn, such as scoring="f1_macro", compares y as it stands.
        """
        answers = self.predict(X)
        truth = as_labels(y, len(answers), stacklevel=3)
        return float(accuracy_score(truth, answers, sample_weight=sample_weight))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities (m, N), the classes in the order of ``classes_``."""
        return self._probabilities(self._scores(self._given(X))[0]).numpy()

    def predict_set(self, X: Any, *, coverage: float = 0.9) -> list[np.ndarray]:
        """For each input the labels that hold the right one with this probability, the likeliest first."""
        _share("coverage", coverage)
        inputs = self._given(X)
        self._need_held_out("predict_set")
        limit, sets = self.held_out_.threshold(coverage, self.temperature_), []
        for p in self._probabilities(self._scores(inputs)[0]):
            n = max(1, int((1 - p <= limit).sum()))
            sets.append(self.classes_[p.argsort(descending=True)[:n].numpy()])
        return sets

    def stream(
        self, inputs: Iterable, *, reject: float | None = None, chunk: int = CHUNK
    ) -> Iterator[Labelled]:
        """Answers to any number of inputs, ``chunk`` at a time: memory does not grow with them.

        inputs: an iterable, or what ``predict`` takes: an array, a table, a folder of pictures.
        """
        check_is_fitted(self)
        whole_number(1, chunk=chunk)
        if self.method_.transductive:
            fix = "use `predict` on all of them, or an inductive method"
            raise ValueError(f"{self.method_.name!r} answers the inputs of one call together: {fix}.")
        if isinstance(inputs, str | Path):
            inputs = self._given(files_of(inputs, "inputs"))
        for part in chunks(inputs, chunk):
            yield self._labelled(self._scores(self._given(part)), reject)

    def suggest(self, pool: Any, n: int = 20) -> np.ndarray:
        """Which n inputs of a pool to label next: their rows (n,), the most useful first.

        What it has learnt from is passed over, so a pool may hold what was labelled since.
        """
        inputs = self._given(pool)
        whole_number(1, n=n)
        features = self._encode(inputs, "encoding the pool")
        rows = (~are_examples(features, self.features_)).nonzero()[:, 0]
        features = features[rows]
        return rows[suggest(self._probabilities(self._logits(features)), features, n)].numpy()

    def explain(self, x: Any, n: int = 5) -> Explanation:
        """Why one input got its label: its nearest examples, and what they and the names added to it."""
        check_is_fitted(self)
        whole_number(1, n=n)
        one = [x] if isinstance(x, str | Path) or is_image(x) else np.asarray(x)[None]
        if isinstance(one, np.ndarray) and (self.kind_ == "texts" or one.dtype.kind not in "biuf"):
            fix = f"give one of the {self.kind_} at a time, such as x[0]"
            raise ValueError(f"`x` is a {type(x).__name__}: {fix}.")
        return explain(self, self._encode(self._given(one)), n)

    def _given(self, X: Any) -> Any:
        """X recognised and checked, as in ``fit``; of picture files, a few are in memory at a time."""
        check_is_fitted(self)
        return self._recognised(X, PictureFiles)

    def _recognised(self, X: Any, reader: Callable[..., Any] = in_memory) -> Any:
        channels, height, width = self.picture_shape_ or (1, 1, 1)
        kind, inputs = recognise(X, height, width, channels == 3, self.kind_ == "texts", reader)
        if self.kind_ == kind == "features":
            return validate_data(self, inputs, reset=False)
        if kind != self.kind_ and len(inputs):
            raise ValueError(f"`X` holds {kind}, and this classifier was fitted on {self.kind_}.")
        if kind == "pictures" and tuple(inputs.shape[1:]) != self.picture_shape_:
            found = f"pictures of {tuple(inputs.shape[1:])}, and those of `fit` were {self.picture_shape_}"
            raise ValueError(f"`X` holds {found}: give (channels, height, width) as then.")
        return inputs

    def _scores(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Logits (m, N), familiarity (m,): a chunk at a time, or all together for a transductive method."""
        size = AT_ONCE if self.kind_ == "pictures" else CHUNK
        size = len(inputs) if self.method_.transductive else size
        starts = range(0, len(inputs), max(size, 1))
        shown = progress(starts, "labelling", " chunks") if len(starts) > 2 else starts
        logits, known = [], []
        centres = class_centres(self.support_, self.mask_, self.name_features_)
        for start in shown:
            features = self._encode(inputs[start : start + size] if len(starts) > 1 else inputs)
            logits.append(self._logits(features))
            known.append(familiarity(features, centres, logits[-1]))
        if not logits:
            return torch.zeros(0, len(self.classes_)), torch.zeros(0)
        return torch.cat(logits), torch.cat(known)

    def _logits(self, features: Tensor) -> Tensor:
        if self.head_ is not None:
            return self.head_(features.unsqueeze(0))[0]
        return methods.answer(self.method_, self.support_, self.mask_, features, self.name_features_)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature_).softmax(-1)

    def _labelled(self, scores: tuple[Tensor, Tensor], reject: float | None) -> Labelled:
        probabilities, chosen = self._probabilities(scores[0]).max(-1)
        rejected = torch.zeros(len(chosen), dtype=torch.bool)
        if reject is not None:
            _share("reject", reject)
            self._need_held_out("reject")
            rejected = self.held_out_.p_values(scores[1]) <= reject
        return Labelled(self.classes_[chosen.numpy()], probabilities.numpy(), rejected.numpy())

    def _need_held_out(self, what: str) -> None:
        if not len(self.held_out_):
            fix = "give some classes a second example, or all of them names"
            raise ValueError(f"`{what}` needs examples that can be held out, and there are none: {fix}.")

    # Features

    def _encode(self, inputs: Any, label: str = "") -> Tensor:
        if self.encoder_ is None:
            return torch.from_numpy(np.array(inputs, dtype=np.float64, order="C"))
        if not len(inputs):
            return torch.zeros(0, self.features_.shape[1])
        return features_of(self.encoder_, inputs, label)

    def _encode_names(self) -> Tensor | None:
        if self.names_ is None or self.encoder_ is None:
            return None
        return encoded_names(self.encoder_, self.names_, self.template)

    def _with_their_words(self) -> Self:
        """After other examples came or went, their words in place of the old; the encoder's part stays.

        All stays where there are unlabelled inputs: their texts are not kept, so the old words are theirs.
        """
        reads_pool = isinstance(self.method_, WithUnlabelled)
        if isinstance(self.encoder_, WithWords) and self.inputs_ is not None and not reads_pool:
            of_encoder = self.features_[:, : -self.encoder_.words.width]
            self.encoder_ = self.encoder_.anew(self.inputs_)
            self.features_ = torch.cat([of_encoder, self.encoder_.of_words(self.inputs_)], -1)
        self.name_features_ = self._encode_names()
        return self

    # Keeping

    def save(self, folder: str | Path) -> None:
        """Writes the classifier to a folder of two files, JSON and safetensors; no pickle. See ``saving``."""
        check_is_fitted(self)
        saving.save(self, Path(os.path.expanduser(folder)))

    def to_onnx(self, path: str | Path) -> float:
        """Writes encoder, head and calibration to one ONNX file, to be used without torch: see ``onnx``.

        Returns the largest difference of a probability from that of ``predict_proba``, on the examples.
        """
        check_is_fitted(self)
        return to_onnx(self, Path(os.path.expanduser(path)))

    @classmethod
    def load(
        cls, folder: str | Path, *, method: Method | None = None, encoder: nn.Module | None = None
    ) -> Self:
        """The classifier that was saved; method, encoder: where they are modules of your own."""
        return saving.load(cls(), Path(os.path.expanduser(folder)), method, encoder)


def _share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"`{name}` is {value}: give a share between 0 and 1, such as 0.05 or 0.9.")
