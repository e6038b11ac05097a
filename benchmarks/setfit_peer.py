"""SetFit beside ``FewShotClassifier``'s default, on the draws of ``own_data.py``.

    python benchmarks/setfit_peer.py --datasets hwu64 --shots 1 2 4 --draws 10 [--methods default setfit]
    python benchmarks/setfit_peer.py --page
    python benchmarks/setfit_peer.py --check

SetFit (Tunstall et al. 2022, arXiv:2209.11055) is the package (``pip install setfit==1.2.0``) with its own
defaults: all of the encoder is tuned for one epoch over the pairs of the examples, as many positive as
negative ones ("oversampling"), cosine loss, batches of 16 pairs, learning rate 2e-5, seed 42; then
scikit-learn's logistic regression on the features of the examples. The encoder is all-MiniLM-L6-v2, the file
that the course uses. Only its checkpoints and reports are switched off. Both learn from the same examples and
are asked about the same 1,500 texts, drawn at random from what a draw leaves over: differences are paired.

A fit is timed from the texts to the classifier that can answer, weights loaded before, nothing encoded
before; of the default that includes its estimate of its own accuracy. Seconds are those of the process's CPU
on one thread: others were busy on the machine.

On a GPU only SetFit is run, and not by its package: by the loop of ``setfit_steps.py``, which takes the same
steps with other masks of dropout, all draws side by side (if memory is short, ask for fewer ``--draws`` at a
time). Matrices are multiplied in TF32, the answers are given in float32, and its seconds are not compared.
``--loop`` takes the loop on a CPU, too. ``--bfloat16`` runs the tuning under autocast there (and the answers
of the package), which takes half of the time. A column of the page says which it was; where a draw was run in
two ways, the page takes the more exact arithmetic, the package before the loop, and says by how much the
accuracies differ.

``--check`` compares the loop with the package, dropout off, after all steps of a small fit: other pairs,
another order or rate would move the weights apart by as much as they move. On a GPU graphs are played.

Results go to ``--out`` one by one, a line of JSON each, what is there is not computed again, and ``--page``
writes their tables into setfit_peer.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from own_data_draws import called, chosen, compared, dealt, interval, table_head, table_row
from setfit_steps import tuned
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import BatchEncoding

from fewshot_lib import data
from fewshot_lib.classifier import FewShotClassifier
from fewshot_lib.core import half_width, keep_memory
from fewshot_lib.encoders import TextEncoder, encode, tokenise, tokens_of
from fewshot_lib.encoders.text import minilm_path

N_TESTED, RESULTS = 1500, Path("results/setfit.jsonl")
PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- made by setfit_peer.py --page: begin -->", "<!-- made by setfit_peer.py --page: end -->"
ON_GPU, LOOP = "TF32", "loop"
DEFAULT, SETFIT = "default", "setfit"


def examples(
    name: str, n_shot: int, draw: int, splits: tuple[str, ...], per_class: int | None
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Texts and labels to learn from, and to be asked about: a draw of ``own_data.py``."""
    dataset = data.load(name)
    classes, rows = chosen(dataset, splits, per_class)
    labels = torch.searchsorted(classes, dataset.labels[rows])
    support, rest = (part.flatten() for part in dealt(labels, len(classes), n_shot, draw))
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(draw))
    texts = dataset.take(rows)
    parts = []
    for part in (support, rest[order[:N_TESTED]]):
        parts.append([texts[row] for row in part.tolist()])
        parts.append([dataset.class_names[classes[labels[row]]] for row in part.tolist()])
    return tuple(parts)


class Remembering(TextEncoder):
    """A text encoder that reads every text once, whatever it is asked for: n texts -> (n, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], Tensor] = {}

    def forward(self, texts: Any) -> Tensor:
        batch = tokens_of(self, texts)
        pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        keys = [tuple(ids[mask > 0].tolist()) for ids, mask in pairs]
        new = [row for row, key in enumerate(keys) if key not in self.known]
        if new:
            features = super().forward(BatchEncoding({name: part[new] for name, part in batch.items()}))
            self.known |= zip([keys[row] for row in new], features, strict=True)
        return torch.stack([self.known[key] for key in keys])


def of_default(
    texts: list[str], labels: list[str], asked: list[str], encoder: Remembering
) -> tuple[np.ndarray, dict[str, Any]]:
    """The answers of ``FewShotClassifier``, and what its fit took, with everything that it reads."""
    with clock() as taken:
        FewShotClassifier().fit(texts, labels)
    return FewShotClassifier(encoder=encoder).fit(texts, labels).predict(asked), taken


def of_setfit(
    texts: list[str], labels: list[str], asked: list[str], bfloat16: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """The answers of SetFit, and what its fit took."""
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(str(minilm_path()))
    with clock() as taken:
        steps = fit_setfit(model, texts, labels, bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        return np.asarray(model.predict(asked)), taken | {"steps": steps}


def fit_setfit(model: Any, texts: list[str], labels: list[str], bfloat16: bool = False) -> int:
    """Fits a ``SetFitModel`` with the defaults of its package; returns the steps that it took."""
    from datasets import Dataset
    from setfit import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        quiet = {"report_to": "none", "save_strategy": "no", "show_progress_bar": False, "output_dir": folder}
        trainer = Trainer(
            model, TrainingArguments(**quiet), Dataset.from_dict({"text": texts, "label": labels})
        )
        if bfloat16:  # around the loss alone: what autocast has cast must not outlive an optimizer's step
            trainer.st_trainer.compute_loss_context_manager = lambda: torch.autocast("cpu", torch.bfloat16)
        trainer.train()
    return trainer.st_trainer.state.global_step


def device() -> str:
    """Where the loop runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check() -> None:
    """Stops with an error where a fit of ``setfit_steps.py`` does not end at the package's weights."""
    from setfit import SetFitModel

    # 22 texts: the last batch is not a whole one
    texts, labels = (part[:22] for part in examples("hwu64", 2, 0, *compared("hwu64"))[:2])
    model = SetFitModel.from_pretrained(str(minilm_path()))
    for module in model.model_body.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    package = model.model_body[0].auto_model
    start = {name: w.detach().cpu().clone() for name, w in package.named_parameters()}
    steps = fit_setfit(model, texts, labels)
    (own,) = tuned(TextEncoder().to(device()), [texts], [labels], dropout=False)
    end = {name: w.detach().cpu() for name, w in package.named_parameters()}
    moved = max(float((end[name] - w).abs().max()) for name, w in start.items())
    apart = max(float((end[name] - w.cpu()).abs().max()) for name, w in own.model.named_parameters())
    print(f"{steps} steps. Weights moved by {moved:.1e} and differ by {apart:.1e}.")
    if apart > moved / 20:
        raise SystemExit("These are not the package's steps.")


def of_steps(name: str, n_shot: int, draws: list[int], bfloat16: bool = False) -> Iterator[dict[str, Any]]:
    """What ``of_setfit`` would measure, by the loop, all draws side by side; the head is the package's."""
    drawn = [examples(name, n_shot, draw, *compared(name)) for draw in draws]
    if not drawn:
        return
    encoder = TextEncoder().to(device())
    torch.backends.cuda.matmul.allow_tf32 = True
    with clock() as taken:
        encoders = tuned(encoder, [each[0] for each in drawn], [each[1] for each in drawn], bfloat16=bfloat16)
    together = {"side_by_side": len(draws), "seconds_of_all": taken["seconds"]}
    torch.backends.cuda.matmul.allow_tf32 = False
    for draw, own, (texts, labels, asked, truth) in zip(draws, encoders, drawn, strict=True):
        # of length 1, as all-MiniLM-L6-v2 gives them in sentence-transformers
        seen, new = (
            F.normalize(encode(own, tokenise(encoder, some).to(encoder.model.device))).cpu().numpy()
            for some in (texts, asked)
        )
        answers = LogisticRegression().fit(seen, labels).predict(new)
        row = {"dataset": called(name), "shots": n_shot, "draw": draw, "method": SETFIT}
        accuracy = 100 * float((answers == np.array(truth)).mean())
        yield row | {"accuracy": round(accuracy, 4), "tested": len(truth), **together}


@contextlib.contextmanager
def clock() -> Any:
    """Fills a dictionary with the seconds of what is done inside: by the wall, and of this process."""
    taken: dict[str, Any] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield taken
    taken |= {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def measure(options: argparse.Namespace) -> None:
    """Adds what is missing to the results."""
    draws = range(options.first, options.first + options.draws)
    on_cpu = "bfloat16" if options.bfloat16 else "float32"
    if (gpu := torch.cuda.is_available()) or options.loop:
        if SETFIT not in options.methods:
            raise SystemExit("The loop runs SetFit only; on a GPU, too, the default is not measured.")
        keep_memory()
        used = f"{ON_GPU}, {torch.cuda.get_device_name()}" if gpu else f"{on_cpu}, {LOOP}"
        kind = ON_GPU if gpu else used
        there = {
            (r["dataset"], r["shots"], r["draw"])
            for r in results(options.out)
            if r["method"] == SETFIT and r["precision"].startswith(kind)
        }
        for name, n_shot in itertools.product(options.datasets, options.shots):
            missing = [draw for draw in draws if (called(name), n_shot, draw) not in there]
            # side by side only where it takes no longer than one after the other
            for some in [missing] if gpu else [[draw] for draw in missing]:
                for row in of_steps(name, n_shot, some, options.bfloat16 and not gpu):
                    keep(options.out, row | {"precision": used})
        return
    FewShotClassifier().fit(["warm", "cold"], ["up", "down"])  # loads the weights
    encoder = Remembering()
    known = {(r["dataset"], r["shots"], r["draw"], r["method"], r["precision"]) for r in results(options.out)}
    kinds = [(DEFAULT, "float32"), (SETFIT, on_cpu)]
    for key in itertools.product(options.datasets, options.shots, draws, kinds):
        name, n_shot, draw, (method, used) = key
        if method not in options.methods or (called(name), n_shot, draw, method, used) in known:
            continue
        texts, labels, asked, truth = examples(name, n_shot, draw, *compared(name))
        if method == DEFAULT:
            answers, taken = of_default(texts, labels, asked, encoder)
        else:
            answers, taken = of_setfit(texts, labels, asked, options.bfloat16)
        row = {"dataset": called(name), "shots": n_shot, "draw": draw, "method": method, "precision": used}
        accuracy = 100 * float((answers == np.array(truth)).mean())
        keep(options.out, row | {"accuracy": round(accuracy, 4), "tested": len(truth), **taken})


def keep(file: Path, row: dict[str, Any]) -> None:
    """Adds a line to the results."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
    print(row, flush=True)


def results(file: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


Fits = dict[tuple, dict[str, Any]]  # (data set, shots, draw, method, precision) -> a line of the results


def in_both(found: Fits) -> Iterator[tuple[str, int, dict[int, Any], dict[int, Any], list[int], list[float]]]:
    """Set, examples, fits of the default and of SetFit by draw, draws of both, what the default is ahead."""
    for name, n_shot in sorted({key[:2] for key in found}):
        ours = fits_of(found, name, n_shot, DEFAULT, "float32")
        theirs = fits_of(found, name, n_shot, SETFIT, None)
        draws = sorted(ours.keys() & theirs.keys())
        if len(draws) > 1:  # one has no interval
            ahead = [ours[d]["accuracy"] - theirs[d]["accuracy"] for d in draws]
            yield name, n_shot, ours, theirs, draws, ahead


def by_key(rows: list[dict[str, Any]]) -> Fits:
    """The lines of the results, each by what it is of."""
    return {(r["dataset"], r["shots"], r["draw"], r["method"], r["precision"]): r for r in rows}


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the page."""
    found = by_key(rows)
    columns = ["data set", "examples", "draws", "default", "SetFit", "difference", "SetFit in"]
    yield from table_head(*columns, "fit, default", "fit, SetFit", "ratio")
    for name, n_shot, ours, theirs, draws, ahead in in_both(found):
        accuracies = [interval([each[d]["accuracy"] for d in draws]) for each in (ours, theirs)]
        on_cpu = {used: fits_of(found, name, n_shot, SETFIT, used) for used in ("float32", "bfloat16")}
        used = next(filter(on_cpu.get, on_cpu), "")
        cells = interval(ahead), ways(theirs, draws), *times(ours, on_cpu.get(used, {}), used)
        yield table_row(name, n_shot, len(draws), *accuracies, *cells)
    yield from precisions(found)


def finding(rows: list[dict[str, Any]]) -> str:
    """Where the default is ahead of SetFit, at 95 %, and where not."""
    where: dict[str, dict[str, list[str]]] = {"ahead": {}, "not told apart": {}, "behind": {}}
    for name, n_shot, _, _, _, ahead in in_both(by_key(rows)):
        mean, half = statistics.mean(ahead), float(half_width(torch.tensor(ahead, dtype=torch.float64)))
        kind = "not told apart" if abs(mean) <= half else "ahead" if mean > 0 else "behind"
        where[kind].setdefault(name, []).append(str(n_shot))
    told = []
    for kind, sets in where.items():
        each = "; ".join(f"{name} at {', '.join(shots)}" for name, shots in sets.items())
        told += [f"- {kind} in {sum(map(len, sets.values()))}: {each}"] if sets else []
    return "\n".join(
        [
            "**`FewShotClassifier`'s default, beside SetFit**, at 95 %, by the examples of each class:",
            "",
            *told,
            "",
            "What a fit costs stands in the last columns. The default reads the names of the classes, SetFit "
            "does not.",
        ]
    )


def fits_of(
    found: Fits, name: str, n_shot: int, method: str, precision: str | None
) -> dict[int, dict[str, Any]]:
    """The results of a method by draw; precision None: float32 where it was run, else TF32, else the rest."""
    wanted = in_order({key[4] for key in found}) if precision is None else (precision,)
    keys = [key for p in wanted for key in found if (*key[:2], *key[3:]) == (name, n_shot, method, p)]
    return {key[2]: found[key] for key in keys}


def exactness(precision: str) -> tuple[int, bool]:
    """Of two runs of a draw the one with more of it counts: by its arithmetic, then the package's."""
    arithmetic, _, where = precision.partition(", ")
    return ("bfloat16", ON_GPU, "float32").index(arithmetic), where != LOOP


def in_order(precisions: set[str]) -> list[str]:
    """The most exact one last."""
    return sorted(precisions, key=lambda precision: (exactness(precision), precision))


def ways(theirs: dict[int, dict], draws: list[int]) -> str:
    """A cell: in what arithmetic SetFit was run, and how many draws of each where there are several."""
    kinds = (theirs[draw]["precision"].partition(", ") for draw in draws)
    counts = Counter(f"{kind} (loop)" if where == LOOP else kind for kind, _, where in kinds)
    return ", ".join(f"{n} {kind}" if len(counts) > 1 else kind for kind, n in sorted(counts.items()))


def times(ours: dict[int, dict], theirs: dict[int, dict], used: str) -> list[str]:
    """Cells: median CPU seconds of a fit of both, and the median ratio, on draws that both were timed on."""
    draws = ours.keys() & theirs.keys()
    own = statistics.median(ours[d]["cpu_seconds"] for d in draws or ours)
    if not draws:
        return [f"{own:.2f} s", "", ""]
    other = statistics.median(theirs[d]["cpu_seconds"] for d in draws)
    ratio = statistics.median(theirs[d]["cpu_seconds"] / ours[d]["cpu_seconds"] for d in draws)
    return [f"{own:.2f} s", f"{other:.0f} s, {used}", f"{ratio:.0f}"]


def precisions(found: Fits) -> Iterator[str]:
    """By how much SetFit's accuracy differs between two ways to run it, where draws were run in both."""
    kinds = in_order({key[4] for key in found if key[3] == SETFIT})
    for less, more in itertools.combinations(kinds, 2):
        both = [key[:3] for key in found if key[3:] == (SETFIT, less) and (*key[:4], more) in found]
        if len(both) > 1:
            accuracies = [[found[*k, SETFIT, p]["accuracy"] for k in both] for p in (less, more)]
            difference = interval([a - b for a, b in zip(*accuracies, strict=True)], ".2f")
            yield f"\nSetFit in {less} less SetFit in {more}, {len(both)} draws run in both: {difference}."


def main() -> None:
    """Measures, or prints the tables of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["hwu64"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=(DEFAULT, SETFIT), default=[DEFAULT, SETFIT])
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--bfloat16", action="store_true", help="SetFit under autocast, on a CPU")
    parser.add_argument("--loop", action="store_true", help="SetFit by setfit_steps.py, on a CPU, too")
    parser.add_argument("--page", action="store_true", help="write the tables, measure nothing")
    parser.add_argument("--check", action="store_true", help="compare the loop with the package")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    if options.page:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        rows = results(options.out)
        made = "\n".join([finding(rows), "", *tables(rows)])
        text = f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"
        PAGE.write_text(text, encoding="utf-8")
    elif options.check:
        check()
    else:
        measure(options)


if __name__ == "__main__":
    main()
