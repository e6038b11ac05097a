"""MetaPrompting and MetaPrompter on the published text sets, beside baselines and an ablation of our own.

    python benchmarks/metaprompting.py [--datasets huffpost amazon reuters 20news] [--lm minilm-mlm]
    [--episodes 1000] [--steps 2000]
    python benchmarks/metaprompting.py --page

5-way, 1 and 5 shots, 15 queries per class (fewer where a class is too small), split family ``bao``; every row
on the same saved episodes of test classes, with paired differences. Two groups of rows, which must not be
mixed up: those of the frozen *sentence encoder* (all-MiniLM-L6-v2), and those of one *masked language model*,
``--lm`` ("bert-base-uncased" for the papers'). Learners are trained for each number of shots on ``--steps`` ×
4 episodes of training classes, first-order, with fixed settings; the step size of the inner loop at test time
is chosen on validation classes, and nothing on test classes. Inner loops descend the loss of the words alone
(``Mixture.on_support``). The papers: 6,000 and 4,000 episodes of second and first order.

What is learnt from training classes is learnt with each of ``--seeds``; its interval is that over test
episodes and that over seeds, squares and root, as of two independent sources.

Interrupted, it goes on: training from its checkpoints, finished rows from ``--out/rows``; so ``--rows`` and
``--seeds`` can be shared out, and the folders joined. results/metaprompting has rows of the last runs, a file
for each with the accuracies of its episodes: ``--out results/metaprompting --episodes 200 --steps 100
--max-tokens 64`` goes on from them. Writes metaprompting.csv there. ``--page`` writes the page of
benchmarks/metaprompting.csv anew, around its notes.

With ``--lm minilm-mlm`` only ``--family bao`` is clean: that model has read the texts of these training
classes (data/minilm-mlm.md). A GPU takes hours for all of it; ``--steps 10 --episodes 20 --queries 2
--datasets reuters`` tries it on a laptop.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

from metaprompting_page import PAGE, TABLE, page
from metaprompting_rows import (
    ABLATION,
    BAR,
    INNER_LR,
    INNER_STEPS,
    LR,
    N_TASKS,
    POOL,
    RATES,
    ROWS_OF_SEEDS,
    SHOTS,
    Run,
    encoder_rows,
    prompt_rows,
    slug,
)

from fewshot_lib import data
from fewshot_lib.core import (
    EpisodeResults,
    PairedDifference,
    compare_paired,
    digest,
    few_shot_method,
    half_width,
    over_seeds,
    pick_device,
)
from fewshot_lib.data.cache import load_tensors, save_tensors
from fewshot_lib.encoders import TextEncoder, load_masked_lm

HEAD = [
    "data set",
    "split family",
    "model",
    "method",
    "kind",
    "shots",
    "episodes",
    "training seeds",
    "accuracy in %",
    "95 % interval",
]
HEAD += [f"minus {BAR}, paired", "minus its 0-inner-step ablation, paired"]


def kept(
    run: Run, name: str, settings: dict[str, str], compute: Callable[[], EpisodeResults]
) -> EpisodeResults:
    """What an earlier run has kept of this row, or what ``compute`` returns.

    ValueError where it was made with other settings.
    """
    path = run.options.out / "rows" / f"{run.key}-{slug(name)}-{run.seed}.safetensors"
    episodes = run.episodes
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {**settings, "episodes": episodes.fingerprint(), "words": " | ".join(run.dataset.class_names)}
    if path.exists() and (found := load_tensors(path)) is not None:
        tensors, metadata = found
        if json.loads(metadata["settings"]) != settings:
            raise ValueError(
                f"`--out` holds {path.name} of a run with other settings: give another --out, or delete the "
                "file."
            )
        kind = few_shot_method(name, transductive=metadata["transductive"] == "True")
        return EpisodeResults.of(tensors["accuracies"], kind(compute), episodes)
    run.chosen.clear()
    result = compute()
    facts = {"settings": json.dumps(settings), "transductive": str(result.transductive)}
    if run.chosen:
        facts["inner rate at test time"] = str(run.chosen[-1])
    save_tensors(path, {"accuracies": result.accuracies}, facts)
    return result


def table_row(run: Run, model: str, name: str, results: dict[str, EpisodeResults]) -> list[str]:
    """One row of the table, in the order of HEAD."""
    result = results[name]
    facts = [
        run.dataset.name,
        run.dataset.split_family,
        model,
        name,
        "transductive" if result.transductive else "inductive",
        str(run.n_shot),
        f"{result.n_episodes:,}",
        str(result.n_seeds) if name in ROWS_OF_SEEDS else "–",
    ]
    low, high = max(0, result.mean - width(result)), min(1, result.mean + width(result))
    cells = [*facts, f"{100 * result.mean:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
    for other in (BAR, ABLATION.get(name)):
        difference = None if name == other or other not in results else compare_paired(result, results[other])
        cells.append(
            "–" if difference is None else f"{100 * difference.mean:+.1f} ± {100 * width(difference):.1f}"
        )
    return cells


def width(result: EpisodeResults | PairedDifference) -> float:
    """Half of the 95 % interval: over episodes, and over seeds where there are several."""
    of_seeds = half_width(result.accuracies.mean(1)) if result.n_seeds > 1 else 0.0
    return math.hypot(half_width(result.accuracies.mean(0)), of_seeds)


def rows_of(run: Run, encoder: TextEncoder) -> list[list[str]]:
    """All rows of one data set at one number of shots."""
    results, models = {}, {}
    # the weights alone: what torch prints of a module changes with torch, and rows of machines are joined
    of_lm, of_text = (
        digest(*chain.from_iterable(sorted(each.state_dict().items()))) for each in (run.lm, encoder)
    )
    learning = {
        "steps": str(run.options.steps),
        "lm": of_lm,
        "max_tokens": str(run.lm.max_tokens),
        "learning": f"{INNER_STEPS} {INNER_LR} {LR} {POOL} {RATES}",
    }
    reading = {"encoder": of_text, "max_tokens": str(encoder.max_tokens)}
    of_encoder = encoder_rows(run, encoder)
    of_seed = cache(lambda seed: prompt_rows(replace(run, seed=seed)))
    names = [*of_encoder, *of_seed(0)]
    if unknown := sorted(set(run.options.rows or []) - set(names)):
        raise ValueError(f"`--rows` names {', '.join(unknown)}: the rows are {'; '.join(names)}.")
    for name in [name for name in names if name in (run.options.rows or names)]:
        if name in of_encoder:
            models[name], results[name] = "all-MiniLM-L6-v2", kept(run, name, reading, of_encoder[name])
        else:
            seeds = run.options.seeds if name in ROWS_OF_SEEDS else [0]
            runs = [
                kept(replace(run, seed=seed), name, learning | {"seed": str(seed)}, of_seed(seed)[name])
                for seed in seeds
            ]
            models[name], results[name] = run.options.lm, over_seeds(runs)
        found = results[name]
        print(f"  {run.n_shot}-shot, {name}: {found.mean:.1%} ± {width(found):.1%}", flush=True)
    return [table_row(run, models[name], name, results) for name in results]


def main() -> None:
    """Writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["huffpost", "amazon", "reuters", "20news"])
    parser.add_argument("--family", default="bao")
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument(
        "--lm", default="minilm-mlm", help='"minilm-mlm", or a hub id such as "bert-base-uncased"'
    )
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000, help=f"meta-steps of {N_TASKS} episodes")
    parser.add_argument("--queries", type=int, default=15, help="per class, in test episodes")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=25, help="test episodes at a time")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--rows", nargs="+", help="only these methods (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/metaprompting"))
    parser.add_argument("--page", action="store_true", help="write the page of what was published, no more")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), TABLE), encoding="utf-8")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    device, rows = pick_device(), []
    encoder, lm = (
        TextEncoder(max_tokens=200).to(device),
        load_masked_lm(options.lm, options.max_tokens).to(device),
    )
    for name in options.datasets:
        dataset = data.load(name, split_family=options.family)
        print(dataset, flush=True)
        for n_shot in options.shots:
            rows += rows_of(Run(dataset, lm, n_shot, options), encoder)
        write(rows, options.out)  # after each data set: an interrupted run has a table, too


def write(rows: list[list[str]], out: Path) -> None:
    """The table as csv."""
    with (out / "metaprompting.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    print(f"written to {out}")


if __name__ == "__main__":
    main()
