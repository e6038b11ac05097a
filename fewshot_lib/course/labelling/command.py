"""Labels for your own data, from the command line: ``fewshot fit``, ``predict``, ``suggest``, ``evaluate``.

    fewshot fit train.csv --out model              a few labelled examples -> a classifier
    fewshot predict model new.csv --out labelled.csv
    fewshot suggest model pool.csv -n 20           what to label next
    fewshot evaluate model test.csv --report report.html
    fewshot export model --out model.onnx          for programs without torch

Tables are csv, tsv, JSON, JSON lines or parquet, also compressed; the end of a name says what is written.
In place of a table, a folder of pictures. ``predict`` reads, answers and writes a chunk of rows at a time;
what is written stays (``journal``).
"""

import argparse
import copy
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_lib import data
from fewshot_lib.core import whole_number
from fewshot_lib.course.labelling.formats import format_of, written
from fewshot_lib.course.labelling.inputs import Pictures, Row, Texts, Unlabelled
from fewshot_lib.course.labelling.journal import Journal, alone, belonging, need_place, refuse_existing
from fewshot_lib.data.cache import atomic_write
from fewshot_lib.data.own.columns import shown
from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.reporting import DataError, first_few, progress
from fewshot_lib.data.sources import OPTIONS

if TYPE_CHECKING:
    from fewshot_lib.classifier import FewShotClassifier

ADDED = ("label", "probability", "rejected")
LABEL_TYPES = {"U": "string", "b": "bool"}  # as parquet calls them; other labels are whole numbers
REJECT = 0.05
MODEL = "folder of `fewshot fit`"
POOL = "table of texts (.csv, .tsv, .jsonl, .json, .parquet, also .gz) or folder of pictures"
OUT = "file for {}: .csv, .tsv, .jsonl or .parquet"


def add_commands(commands: Any, data_options: Mapping[str, dict[str, Any]]) -> None:
    """Adds the four commands to the subparsers of ``fewshot``; each sets ``function``.

    data_options: flag -> its settings, of ``fewshot data inspect``; each command takes those that concern it.
    """

    def add(name: str, function: Any, purpose: str, options: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.")
        command.set_defaults(function=_noted()(function))
        for option in options.split():
            command.add_argument(option, **data_options[option])
        return command

    labelled = "--text --label --encoding --drop-empty"
    fit = add("fit", _fit, "learn from a few labelled examples", f"{labelled} --size --color --min-examples")
    fit.add_argument(
        "source",
        type=os.path.expanduser,
        help="table with a text and a label in each row, or a folder of pictures",
    )
    fit.add_argument("--out", type=_path, required=True, help="folder for the classifier")
    fit.add_argument("--method", choices=("default", "auto"), default="default", help="who answers")
    fit.add_argument("--unlabelled", type=_path, metavar="FILE", help=f"learn from these too: {POOL}")
    tuned = "fine-tune the encoder, too, unless held-out examples speak against it: minutes"
    cut = "after how many tokens to stop reading a text (default: 256; at most 512)"
    fit.add_argument("--max-tokens", type=int, metavar="N", help=cut)
    words = "how much the words of a text count, where the encoder counts 1 (default: 0.6; 0 leaves them out)"
    fit.add_argument("--words", type=float, metavar="WEIGHT", help=words)
    fit.add_argument("--tune-encoder", action="store_true", help=tuned)
    fit.add_argument("--no-names", action="store_true", help="the labels are codes: do not read them")

    predict = add("predict", _predict, "label the rows of a file", "--text --encoding")
    predict.add_argument("model", type=_path, help=MODEL)
    predict.add_argument("file", type=_path, help=f"{POOL}; all columns and rows are kept")
    predict.add_argument("--out", type=_path, required=True, help=OUT.format("the labelled rows"))
    share = f"share of your own kind of texts that may be marked as foreign by mistake (default: {REJECT})"
    predict.add_argument("--reject", type=float, default=REJECT, metavar="SHARE", help=share)
    faster = "compute at half the digits: faster on a processor made for it, and a few labels differ"
    predict.add_argument("--bfloat16", action="store_true", help=faster)

    suggest = add("suggest", _suggest, "which rows to label next", "--text --encoding")
    suggest.add_argument("model", type=_path, help=MODEL)
    suggest.add_argument("file", type=_path, help=POOL)
    suggest.add_argument("-n", type=int, default=20, help="how many (default: 20)")
    suggest.add_argument("--out", type=_path, help=OUT.format("them"))

    evaluate = add("evaluate", _evaluate, "how good is it, on rows whose labels are known", labelled)
    evaluate.add_argument("model", type=_path, help=MODEL)
    evaluate.add_argument("source", type=os.path.expanduser, help="labelled data, as for `fit`")
    evaluate.add_argument("--report", type=_path, help="write one page of HTML with everything")

    export = add("export", _export, "write a classifier as one ONNX file, to be used without torch", "")
    export.add_argument("model", type=_path, help=MODEL)
    export.add_argument("--out", type=_path, required=True, help="file, such as model.onnx")


def _path(given: str) -> Path:
    """No shell has expanded the "~" of --out=~/model."""
    return Path(os.path.expanduser(given))


# fit, suggest, evaluate, export


def _fit(arguments: argparse.Namespace) -> bool:
    need_place("--out", arguments.out)
    with alone(arguments.out):
        return _fit_alone(arguments)


def _fit_alone(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.classifier import FewShotClassifier, picture_form

    replaces = arguments.out.exists() and not (arguments.out.is_dir() and not any(arguments.out.iterdir()))
    if replaces:
        _need_replaceable(arguments.out)
    form: dict[str, Any] = {}
    if Path(arguments.source).is_dir():
        height, width, color = picture_form(None, arguments.size, arguments.color)
        form = {"size": (height, width), "color": color}
    inputs, labels = _labelled(arguments, **form)
    if len(classes := set(labels)) < 2:
        fix = "give examples of two or more"
        raise DataError(f"{arguments.source} holds one class, {', '.join(map(shown, classes))}: {fix}.")
    method = "auto" if arguments.method == "auto" else None
    names = None if arguments.no_names else "auto"
    options = {name: getattr(arguments, name) for name in ("words", "max_tokens")}
    classifier = FewShotClassifier(method, names=names, **options)
    pool = None if arguments.unlabelled is None else _pool(arguments, inputs)
    with _noted():
        classifier.fit(inputs, labels, unlabelled=pool, tune_encoder=arguments.tune_encoder)
    classifier.save(arguments.out)
    for line in _about(classifier):
        print(line)
    new = "new_pictures" if classifier.kind_ == "pictures" else "new.csv"
    instead = ", in place of the classifier that was there" if replaces else ""
    print(
        f"Saved in {arguments.out}{instead}. Next: fewshot predict {arguments.out} {new} --out labelled.csv"
    )
    return True


def _need_replaceable(folder: Path) -> None:
    """ValueError unless the folder holds a classifier of this library, or of an earlier version of it."""
    from fewshot_lib.classifier import saving

    try:
        about = json.loads((folder / saving.DESCRIPTION).read_text(encoding="utf-8", errors="surrogatepass"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        about = None
    found, fix = f"`--out {folder}` exists", "name another folder, or an empty one"
    if not isinstance(about, dict) or about.get("format") != "fewshot_lib classifier":
        raise ValueError(f"{found} and is no classifier: {fix}.")
    if type(version := about.get("version")) is not int or version > saving.VERSION:
        known = f"this library knows up to {saving.VERSION}"
        raise ValueError(f"{found} and has version {version!r} of the format, and {known}: {fix}.")


def _pool(arguments: argparse.Namespace, inputs: Any) -> Any:
    """What ``--unlabelled`` names, of the same kind as the labelled inputs."""
    path = arguments.unlabelled
    if not path.exists():
        raise DataError(f"There is no {path}.")
    if path.is_dir() == isinstance(inputs, list):
        wanted = "a table" if isinstance(inputs, list) else "a folder of pictures"
        raise DataError(f"`--unlabelled {path}` and {arguments.source} are of two kinds: give {wanted}.")
    if isinstance(inputs, list):
        rows = Texts.of(path, arguments.text, arguments.encoding).rows()
        return [row.given for row in rows if row.given is not None]
    return Pictures.of(path, tuple(inputs.shape[1:])).images


def _about(classifier: "FewShotClassifier") -> Iterator[str]:
    """What was learnt, and how good it is as far as its own examples can tell."""
    from fewshot_lib.classifier import TunedEncoder, without_words
    from fewshot_lib.prototypes import NamesAsExamples, usual_weight

    counts = classifier.n_examples_
    each = " to ".join(map(str, sorted({counts.min(), counts.max()})))
    yield f"{len(counts)} classes, examples of each: {each}. Method: {classifier.method_.name}."
    for name, accuracy in getattr(classifier, "choice_", {}).items():
        yield f"  {accuracy:6.1%}  {name}"
    if isinstance(without_words(classifier.encoder_), TunedEncoder):
        frozen, tuned = (f"{classifier.tuning_[which]:.1%}" for which in ("frozen", "tuned"))
        yield f"The encoder was tuned: {tuned} of held-out examples are right, {frozen} with the frozen one."
    if classifier.kind_ == "texts" and classifier.names_ is None:
        yield "The labels are not used as names: they are codes, or you said so."
    method = classifier.method_
    if isinstance(method, NamesAsExamples) and method.uses_names:
        usual = usual_weight(len(counts))
        asked = "" if method.weight == usual else f" (so the examples say; {usual:.3g} before)"
        yield f"The name of a class counts as {method.weight:.1f} examples at most{asked}."
    if not (n := len(classifier.held_out_)):
        yield "How accurate it is cannot be told: no class has a second example."
        return
    low, high = classifier.accuracy_interval_
    yield (
        f"Held-out accuracy {classifier.accuracy_:.1%} (95 % interval {low:.1%} to {high:.1%}; "
        f"{n} examples, each answered by the others)."
    )


def _labelled(arguments: argparse.Namespace, **options: Any) -> tuple[Any, list[str]]:
    """Inputs and the names of their classes."""
    options = {name: getattr(arguments, name, None) for name in OPTIONS} | options
    if Path(arguments.source).exists():
        options["split"] = {"test": 1.0}  # all classes are wanted, and how few they are does not matter
    with _noted():
        dataset = data.load(arguments.source, **options)
    return dataset.inputs, [dataset.class_names[c] for c in dataset.labels.tolist()]


def _unlabelled(arguments: argparse.Namespace, classifier: "FewShotClassifier") -> Unlabelled:
    """What is to be labelled: the rows of a table, or the pictures of a folder."""
    path = arguments.file
    if not path.exists():
        raise DataError(f"There is no {path}.")
    _need_kind(arguments, classifier, path)
    shape = classifier.picture_shape_
    given: Unlabelled = (
        Texts.of(path, arguments.text, arguments.encoding) if shape is None else Pictures.of(path, shape)
    )
    for note in given.notes:
        _note(note)
    return given


def _need_kind(arguments: argparse.Namespace, classifier: "FewShotClassifier", path: Path) -> None:
    """Refuses a folder for a classifier of texts, a table for one of pictures, and options of the other."""
    kind = classifier.kind_
    if kind == "features":
        raise ValueError(f"{arguments.model} was fitted on features: use it in Python, with `predict`.")
    if path.exists() and path.is_dir() != (kind == "pictures"):
        wanted = "a folder of pictures" if kind == "pictures" else "a table, such as new.csv"
        raise ValueError(f"{arguments.model} was fitted on {kind}, and {path} holds none: give {wanted}.")
    for option in ("text", "label", "encoding"):
        if kind == "pictures" and getattr(arguments, option, None) is not None:
            raise ValueError(f"`--{option}` is an option of a table, and {path} is a folder: leave it out.")


def _suggest(arguments: argparse.Namespace) -> bool:
    whole_number(1, n=arguments.n)
    if arguments.out is not None:
        refuse_existing(arguments.out)
    classifier = _load(arguments.model)
    given = _unlabelled(arguments, classifier)
    # the column of labels to come is not that of labels which the file has
    form, column = None, _free("label", "new", given.header)
    if arguments.out is not None:
        names = [*given.header, column]
        form = format_of(arguments.out, names, ["string"], given)
    inputs: Any
    if isinstance(given, Pictures):
        places, rows, inputs = given.names, [[name] for name in given.names], given.images
    else:
        filled = [row for row in given.rows() if row.given is not None]
        places = [f"{row.place}: {' '.join(row.given.split())}" for row in filled]
        rows, inputs = [row.fields for row in filled], [row.given for row in filled]
    if not rows:
        raise DataError(f"{arguments.file} holds nothing to label.")
    if not (chosen := classifier.suggest(inputs, arguments.n).tolist()):
        raise DataError(f"{arguments.file} holds nothing but what {arguments.model} has learnt from.")
    for index in chosen:
        print(places[index])
    if form is not None:
        with alone(arguments.out):
            refuse_existing(arguments.out)  # it may have come meanwhile
            journal = Journal(arguments.out, belonging(arguments.model, [*given.key, arguments.n]), form)
            if not journal.resume():
                journal.append([[*rows[index], None] for index in chosen])
            journal.finish()
        print(f"Written to {arguments.out}, with an empty column {column!r} for the labels.")
        if column != "label":
            fix = f'`fewshot fit` reads the new one with --label "{column}"'
            print(f"{arguments.file} had a column 'label' already: {fix}.")
    return True


def _evaluate(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.classifier import are_examples
    from fewshot_lib.course.labelling.report import Report

    if arguments.report is not None:
        need_place("--report", arguments.report)
        if not _is_report(arguments.report):
            raise ValueError(f"`--report {arguments.report}` exists and is no report: name another file.")
    classifier = _load(arguments.model)
    _need_kind(arguments, classifier, Path(arguments.source))
    inputs, labels = _labelled(arguments, **_picture_options(classifier))
    known = [*map(written, classifier.classes_.tolist())]
    labels = _spelt_alike(labels, known)
    if not set(known) & set(labels):
        fix = f"it has {first_few(sorted(set(labels)))}, and the classes are {first_few(sorted(known))}"
        raise ValueError(f"No label of {arguments.source} is a class of {arguments.model}: {fix}.")
    features = classifier._encode(inputs, "encoding")
    probabilities = classifier._probabilities(classifier._logits(features)).numpy()
    n_learnt = int(are_examples(features, classifier.features_).sum())
    report = Report.of(known, probabilities, labels, inputs, n_learnt)
    print(report.in_words)
    if arguments.report is not None:
        with atomic_write(arguments.report) as part:
            names = [Path(place).resolve().name for place in (arguments.model, arguments.source)]
            part.write_text(report.html(*names), "utf-8", "replace")
        print(f"Report: {arguments.report}")
    return True


def _spelt_alike(labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """Labels of a file, spelt as the classes are: other programs write True for true, and 7.0 for 7."""
    are_bool = {name.casefold() for name in known} == {"true", "false"}
    form: Callable[[str], Any] = str.casefold if are_bool else _number
    spelt, exact = {form(name): name for name in known}, set(known)
    if None in spelt or len(spelt) < len(exact):
        return list(labels)
    return [label if label in exact else spelt.get(form(label), label) for label in labels]


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _export(arguments: argparse.Namespace) -> bool:
    refuse_existing(arguments.out)
    try:
        difference = _load(arguments.model).to_onnx(arguments.out)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    print(f"Written to {arguments.out}. Its probabilities are those of `predict` to {difference:.0e}.")
    return True


def _picture_options(classifier: "FewShotClassifier") -> dict[str, Any]:
    """How ``data.load`` reads pictures in the shape of those that a classifier knows."""
    if classifier.picture_shape_ is None:
        return {}
    channels, *size = classifier.picture_shape_
    return {"size": size, "color": channels == 3}


def _is_report(path: Path) -> bool:
    """Whether a page that stands here, if any, may be replaced: only one of our own."""
    return not path.exists() or (path.is_file() and b": report</title>" in path.read_bytes()[:2000])


def _load(folder: Path) -> "FewShotClassifier":
    from fewshot_lib.classifier import FewShotClassifier

    return FewShotClassifier.load(folder)


@contextmanager
def _noted() -> Iterator[None]:
    """What is warned of inside is printed as notes, at the end, each once: also what every chunk says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    if not caught:
        return
    from fewshot_lib.encoders import TextsCut

    groups: dict[str, list[Any]] = {}
    for found in (warning.message for warning in caught):
        groups.setdefault(found.what if isinstance(found, TextsCut) else str(found), []).append(found)
    for what, group in groups.items():
        cut = sum(found.n for found in group if isinstance(found, TextsCut))
        _note(f"{cut:,} {what}" if cut and len(group) > 1 else str(group[0]))


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# predict


def _predict(arguments: argparse.Namespace) -> bool:
    refuse_existing(arguments.out)
    if not 0 < arguments.reject < 1:
        raise ValueError(f"`--reject` is {arguments.reject:g}: give a share between 0 and 1, such as 0.05.")
    classifier = _load(arguments.model)
    if arguments.bfloat16 and classifier.encoder_ is not None:
        from fewshot_lib.classifier import without_words

        classifier.encoder_ = copy.deepcopy(classifier.encoder_)
        without_words(classifier.encoder_).bfloat16()
    given = _unlabelled(arguments, classifier)
    label = LABEL_TYPES.get(classifier.classes_.dtype.kind, "int64")
    names = [*given.header, *_added(given.header)]
    form = format_of(arguments.out, names, [label, "float64", "string"], given)
    reject = arguments.reject if len(classifier.held_out_) else None
    with alone(arguments.out):
        refuse_existing(arguments.out)  # it may have come meanwhile
        filled, empty = given.count()  # all are well-formed before one is answered
        options = [arguments.reject, arguments.bfloat16]
        journal = Journal(arguments.out, belonging(arguments.model, [*given.key, *options]), form)
        _write_answers(classifier, given, reject, journal, filled + empty)
    without = f", {empty:,} without a text left as they are" if empty else ""
    print(f"{filled:,} rows labelled{without}: {arguments.out}")
    if (n := len(classifier.held_out_)) < (least := math.ceil(1 / arguments.reject - 1e-9) - 1):
        why = f"that takes {least:,} held-out examples, and the classifier has {n}"
        print(f"At --reject {arguments.reject:g} none could be marked as foreign: {why}.")
    return True


def _write_answers(
    classifier: "FewShotClassifier", given: Unlabelled, reject: float | None, journal: Journal, n_rows: int
) -> None:
    """Answers the rows that are not written yet, a chunk at a time; KeyboardInterrupt says how many are."""
    done = journal.resume()
    if done:
        _note(f"going on after {done:,} rows that are labelled already.")
    rows = given.rows(done)
    try:
        with progress([], "labelling", " rows", total=n_rows) as bar:
            bar.update(done)
            while part := list(islice(rows, given.chunk)):
                answers = _answers(classifier, part, reject)
                journal.append([[*row.fields, *new] for row, new in zip(part, answers, strict=True)])
                bar.update(len(part))
        journal.finish()
    except KeyboardInterrupt:
        written = f"{journal.rows:,} of {n_rows:,} rows, which are written"
        raise KeyboardInterrupt(
            f"Stopped after {written}; the same command goes on with the others."
        ) from None


def _answers(classifier: "FewShotClassifier", rows: Sequence[Row], reject: float | None) -> list[list[Any]]:
    """Label, probability and yes or no for every row; all None where there is no text."""
    filled = [i for i, row in enumerate(rows) if row.given is not None]
    answers: list[list[Any]] = [[None, None, None] for _ in rows]
    for part in classifier.stream((rows[i].given for i in filled), reject=reject, chunk=len(rows)):
        found = zip(part.label.tolist(), part.probability.tolist(), part.rejected.tolist(), strict=True)
        for i, (label, probability, rejected) in zip(filled, found, strict=True):
            answers[i] = [label, round(probability, 4), "yes" if rejected else "no"]
    return answers


def _added(header: Sequence[str]) -> list[str]:
    """Names of the new columns; what the file calls so itself is kept, and the new one says what it is."""
    return [_free(name, "predicted", header) for name in ADDED]


def _free(name: str, before: str, header: Sequence[str]) -> str:
    """The name, with this word before it as often as a column of the file is called so already."""
    taken = set(map(tidy, header))
    while name in taken:
        name = f"{before} {name}"
    return name
