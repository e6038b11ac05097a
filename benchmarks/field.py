"""The table of the field: every method, on every published text set, split family and encoder.

    FEWSHOT_BF16=1 python benchmarks/field.py [--sets huffpost reuters 20news amazon hwu64]
        [--families bao metaprompting metaprompter] [--shots 1 5] [--encoders minilm mpnet] [--tuned]
        [--max-tokens 384] [--rows ...] [--seeds 0 1 2] [--choose] [--out build/field]

5-way, 1 and 5 shots, 15 queries per class, 1,000 saved test episodes, the same for all methods. Encoders are
frozen (``field_data.py``: texts, features, episodes; ``field_rows.py``: the methods). A model that is trained
is trained jointly on the training classes of all sets of a family that have five, with three seeds; its best
step, every setting of a method, and whether features are centred, are chosen on validation classes. With
``--tuned``, encoders get LoRA adapters instead, trained in the same way, with as many seeds; models are
trained on features of the frozen encoder, for a tuned one knows the training classes too well.

The work is cut into *cells*: a set, a family, a number of shots, an encoder, a row, a seed. Each is a JSON
file in ``--out``, whole or not at all; what is there and was measured in the same way is not measured again.
So any subset can be run anywhere, interrupted, and joined by copying files. ``fewshot results --publish``
makes RESULTS.md of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path

import field_data as fd
import torch
from field_rows import BASELINE, CANDIDATES, ROWS, Trained

import fewshot_lib
from fewshot_lib.core import (
    EpisodeResults,
    Method,
    bfloat16_asked,
    compare_paired,
    evaluate,
    few_shot_method,
    keep_memory,
    pick_device,
)
from fewshot_lib.course.results.rows import Cell
from fewshot_lib.data.cache import write_whole


@dataclass(frozen=True)
class Field:
    """One split family as one encoder sees it; its sets are read when they are asked for."""

    family: str
    encoder: fd.Encoder
    out: Path

    def sets(self) -> list[str]:
        """All that have the family."""
        return [name for name in fd.SETS if fd.has_family(name, self.family)]

    @functools.cache  # noqa: B019 (there are as many as families and encoders)
    def prepared(self, name: str) -> fd.Prepared:
        print(f"{name}, {self.family}, {self.encoder.name}", flush=True)
        return fd.prepared(name, self.family, self.encoder)

    def path(self, name: str, n_shot: int, row: str, seed: int) -> Path:
        """Of the file of a cell."""
        slug = "".join(letter if letter.isalnum() else "-" for letter in row)
        kind = self.encoder.name.replace(" + ", "+") + "-lora" * (self.encoder.tuned != "frozen")
        if self.encoder.max_tokens != fd.MAX_TOKENS:
            kind += f"-{self.encoder.max_tokens}tokens"
        return self.out / self.family / name / f"{kind}-{n_shot}shot-{slug}-{seed}.json"

    def how(self, name: str, n_shot: int, row: str, seed: int) -> Cell:
        """What a cell is of and how it is measured: all that must be equal for it to be kept."""
        prepared = self.prepared(name)
        episodes, dataset = prepared.episodes[n_shot], prepared.task.dataset
        bfloat16 = bfloat16_asked(pick_device())
        return {
            "set": name,
            "family": self.family,
            "split": dataset.split_family,
            "encoder": self.encoder.name,
            "tuned": self.encoder.tuned,
            "method": row,
            "settings": settings_of(ROWS[row]),
            "baseline": settings_of(ROWS[BASELINE]),
            "shots": n_shot,
            "seed": seed,
            "n_way": episodes.n_way,
            "n_query": episodes.n_query,
            "episodes": len(episodes),
            "texts": fd.texts_of_test_classes(name),
            "max_tokens": self.encoder.max_tokens,
            "precision": "bfloat16" if bfloat16 else "float32",
            "features": prepared.space,
            "fingerprint": episodes.fingerprint()[:16],
        }

    def kept(self, name: str, n_shot: int, row: str, seed: int) -> Cell | None:
        """The cell, if it is there and was measured in the same way.

        Families with the same test classes have the same results: all of what is not trained, and of what is
        trained those that learn from the same classes.
        """
        here, how = self.path(name, n_shot, row, seed), self.how(name, n_shot, row, seed)
        trained = isinstance(ROWS[row], Trained) or self.encoder.tuned != "frozen"
        others = fd.trained_alike(self.family) if trained else fd.FAMILIES
        for family in (self.family, *others):
            path = replace(self, family=family).path(name, n_shot, row, seed)
            if not path.is_file():
                continue
            cell = json.loads(path.read_text(encoding="utf-8"))
            cell |= {"family": self.family, "split": how["split"]}
            if {key: cell.get(key) for key in how} == how:
                if path != here:
                    write_whole(here, json.dumps(cell))
                return cell
        return None

    def baseline(self, name: str, n_shot: int) -> EpisodeResults:
        """What every row is compared with, measured first if it is not there."""
        which = (name, n_shot, BASELINE, self.encoder.seed)
        if (cell := self.kept(*which)) is None:
            cell = self.measure(*which, ROWS[BASELINE], 0.0)
        method = few_shot_method(BASELINE, transductive=False)(lambda support, query: query)
        found = torch.tensor(cell["accuracies"], dtype=torch.float64)
        return EpisodeResults.of(found, method, self.prepared(name).episodes[n_shot])

    def measure(self, name: str, n_shot: int, row: str, seed: int, method: Method, training: float) -> Cell:
        """Measures a cell and writes its file. training: the seconds that it took, of all sets together."""
        task, episodes = self.prepared(name).task, self.prepared(name).episodes[n_shot]
        start = time.perf_counter()
        result = evaluate(method, episodes, task.features, 50, names=task.names)
        seconds = time.perf_counter() - start
        cell = self.how(name, n_shot, row, seed) | {
            "kind": "transductive" if result.transductive else "inductive",
            "mean": result.mean,
            "std": result.std,
            "ci95": result.ci95,
            "seconds": round(seconds, 2),
            "training_seconds": round(training, 1),
            **machine(),
            "accuracies": [round(value, 5) for value in result.accuracies[0].tolist()],
        }
        difference = None if row == BASELINE else compare_paired(result, self.baseline(name, n_shot))
        cell["minus_names"] = difference.mean if difference else 0.0
        cell["minus_names_ci95"] = difference.ci95 if difference else 0.0
        write_whole(self.path(name, n_shot, row, seed), json.dumps(cell))
        print(
            f"  {name}, {n_shot}-shot, {row}, seed {seed}: {result.mean:.1%} ± {result.ci95:.1%}", flush=True
        )
        return cell

    def run(self, row: str, seed: int, names: list[str], shots: list[int]) -> None:
        """Measures those cells of a row and a seed that are not there, after the training that they need."""
        method, training = ROWS[row], 0.0
        cells = [(name, k) for name in names for k in shots if self.kept(name, k, row, seed) is None]
        if not cells or (seed != self.encoder.seed and not isinstance(method, Trained)):
            return
        if isinstance(method, Trained):
            start = time.perf_counter()
            learnt_from = replace(self, encoder=self.encoder.frozen)
            tasks = [learnt_from.prepared(name).task for name in self.sets()]
            method = method([task for task in tasks if len(task.classes("train")) >= fd.N_WAY], seed)
            training = time.perf_counter() - start
        for name, n_shot in cells:
            self.measure(name, n_shot, row, seed, method, training)

    def choose(self, row: str, names: list[str]) -> None:
        """Prints what each candidate of a row reaches on validation classes."""
        for candidate in CANDIDATES[row]:
            found = [self.prepared(name).on_validation(candidate) for name in names]
            each = " ".join(f"{accuracy:.1%}" for accuracy in found)
            print(f"  {sum(found) / len(found):.2%} ({each})  {candidate}", flush=True)


def settings_of(method: Method | Trained) -> str:
    """What a row was made with: where it changes, cells are measured again."""
    if isinstance(method, Trained):
        return f"{method.training}{', rotated' * method.rotated}"
    return str(method) if is_dataclass(method) else ""


def machine() -> Cell:
    """Where and with what a cell was measured."""
    device = pick_device()
    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": f"fewshot_lib {fewshot_lib.__version__}, torch {torch.__version__}",
    }


def main() -> None:
    """Measures the cells asked for that are not there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chosen = {"sets": fd.SETS, "families": fd.FAMILIES, "encoders": fd.ENCODERS, "rows": ROWS}
    for name, all_of_them in chosen.items():
        parser.add_argument(f"--{name}", nargs="+", choices=list(all_of_them), default=list(all_of_them))
    parser.add_argument("--shots", nargs="+", type=int, choices=fd.SHOTS, default=list(fd.SHOTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of what is trained")
    parser.add_argument("--max-tokens", type=int, default=fd.MAX_TOKENS, help="that encoders read of a text")
    parser.add_argument("--tuned", action="store_true", help="encoders with adapters instead")
    parser.add_argument(
        "--choose", action="store_true", help="measure nothing: settings on validation classes"
    )
    parser.add_argument("--features", type=Path, help="folder that keeps features (default: in the cache)")
    parser.add_argument("--out", type=Path, default=Path("build/field"))
    options = parser.parse_args()
    keep_memory()
    for family in options.families:
        names = [each for each in options.sets if fd.has_family(each, family)]
        for encoder, seeds in encoders_of(family, options):
            field = Field(family, encoder, options.out)
            for row in options.rows:
                if not options.choose:
                    for seed in seeds:
                        field.run(row, seed, names, options.shots)
                elif row in CANDIDATES:
                    print(f"{row}: {', '.join(names)}, {family}, {encoder.key}", flush=True)
                    field.choose(row, names)


def encoders_of(family: str, options: argparse.Namespace) -> list[tuple[fd.Encoder, list[int]]]:
    """The encoders asked for, and the seeds of the models on each: a tuned one has a seed itself."""
    if options.tuned:
        asked = [(name, seed) for name in options.encoders for seed in options.seeds]
        return [
            (fd.TunedEncoder(name, family, seed, options.features, options.max_tokens), [seed])
            for name, seed in asked
        ]
    return [
        (fd.Encoder(name, options.features, options.max_tokens), options.seeds) for name in options.encoders
    ]


if __name__ == "__main__":
    main()
