"""Speed, side by side: this library, a plain loop, and its peers, in one command that writes README.md.

    python benchmarks/side_by_side.py --again [--parts evaluation maml ...]
    python benchmarks/side_by_side.py

The ways of a table take turns in one process on one thread, three or five rounds after one to warm up. Times
are processor seconds, which other work on the machine hardly changes; what is shown is their median, and the
median of the rounds' ratios with their range. As in the notebooks, the process keeps the memory that it frees
(``core.keep_memory``). easyfsl, higher and torchopt are fetched from the package index into ``--peers``, and
left out where there is none.

A part that is finished is a file in ``--out``, by default among the results of the repository: what is there
is not measured again, unless ``--again`` says so (half an hour of CPU; what else the machine does changes
the clock of the notebooks alone). The page is made of what is there, and says what is not; the fits beside
SetFit, and what the notebooks' recordings took, are read anew each time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from speed import classifier, evaluation, finetuning, growth, joint, laptop, maml, notebooks, peers, prompts

from fewshot_lib.core import keep_memory
from fewshot_lib.course.records import markdown
from fewshot_lib.data.cache import write_whole

HERE = Path(__file__).parent
RECORDED = HERE.parent / "results" / "setfit.jsonl"
START, END = "<!-- made by side_by_side.py: begin -->", "<!-- made by side_by_side.py: end -->"
PARTS = {
    "evaluation": ("Episodes, and prototypes on them", evaluation),
    "finetuning": ("Fine-tuning", finetuning),
    "maml": ("Meta-steps", maml),
    "prompts": ("Soft prompts", prompts),
    "classifier": ("A classifier of your own data", classifier),
    "joint": ("Joint training", joint),
    "growth": ("How cost grows", growth),
    "notebooks": ("The notebooks, small profile", notebooks),
    "laptop": ("The notebooks, on a laptop", laptop),
}
PEERS = ("easyfsl", "higher", "torchopt")
READ = ("classifier", "laptop")  # parts that were recorded elsewhere
# part, by whom, in which rows: how many times as long as ours it is to take at least; why it may not
TARGETS = (
    (
        "evaluation",
        "easyfsl",
        "drawn and evaluated",
        20,
        "drawing, fetching the features and one product are most of what is left, see the row of that alone. "
        "Tried: fewer episodes at a time where features are wide; rows fetched by index_select; the lengths "
        "of queries in one pass (all kept)",
    ),
    (
        "finetuning",
        "easyfsl",
        "",
        10,
        "the matrix products alone are a large part of our time. Tried: fewer episodes at a time (slower); a "
        "softmax along the other axis, and one for both entropies (kept)",
    ),
    ("prompts", "one by one, padded", "", 8, ""),
)


class Found(NamedTuple):
    """What a part has measured, where and when."""

    rows: list[list[str]]
    machine: str
    day: str
    minutes: float
    curves: list[dict]


def machine() -> str:
    """The processor and versions, as the page names them."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{names[0].split(':')[1].strip()}, {len(names)} cores" if names else cpu
    return f"{cpu}, one thread, torch {torch.__version__}, Python {platform.python_version()}"


def run(part: str, options: argparse.Namespace) -> Found:
    """Measures a part."""
    start, curves = time.perf_counter(), []
    if part == "growth":
        rows, curves = growth.measure(options.tiny)
    else:
        rows = PARTS[part][1].measure(options.tiny)
    minutes = (time.perf_counter() - start) / 60
    return Found(rows, machine(), date.today().isoformat(), minutes, curves)


def against_targets(found: dict[str, Found]) -> list[list[str]]:
    """A row for every target and case: what was to be reached, what was, and whether that is enough."""
    rows = []
    for part, by, cases, least, why in TARGETS:
        for case, way, _, ratio, *_ in found[part].rows if part in found else []:
            if way == by and case.startswith(cases):
                reached = float(ratio.strip("*"))
                verdict = "met" if reached >= least else f"missed by a factor of {least / reached:.2g}: {why}"
                rows.append([case, by, f"{least} ×", f"{reached:.3g} ×", verdict])
    return rows


def in_short(found: dict[str, Found], targets: list[list[str]]) -> str:
    """How many targets are met, and where a peer is quicker in every round."""
    met = sum(target[-1] == "met" for target in targets)
    told = [f"{met} of {len(targets)} targets are met." if targets else "No target was measured."]
    for peer in PEERS:
        slower = [
            f"{case} ({float(ratio.strip('*')):.2g} of our time)"
            for part in ("evaluation", "finetuning", "maml")
            for case, by, _, ratio, rounds, *_ in (found[part].rows if part in found else [])
            if by == peer and float(rounds.split(" to ")[1]) < 1
        ]
        if slower:
            told.append(f"{peer} is quicker than the library's default on {'; '.join(slower)}.")
    return " ".join(told)


def page(found: dict[str, Found], pictures: str) -> list[str]:
    """The generated half of README.md; pictures: the folder that it shows them from."""
    lines = ["## Speed, side by side", ""]
    targets = against_targets(found)
    lines += [in_short(found, targets), ""]
    if targets:
        head = ["case", "beside", "target", "measured", "verdict"]
        lines += ["Targets, by the median of the rounds:", "", markdown(head, targets), ""]
    lines += [
        "`python benchmarks/side_by_side.py` wrote this part of the page, from "
        "[results/speed](../results/speed),",
        "[results/setfit.jsonl](../results/setfit.jsonl) and "
        "[notebooks/times.json](../notebooks/times.json).",
        "A number above 1 in *× ours*: the library is quicker.",
        "",
    ]
    for part, (title, module) in PARTS.items():
        lines += [f"### {title}", "", module.__doc__.strip(), ""]
        if part not in found:
            lines += ["Not run.", ""]
            continue
        result = found[part]
        lines += [markdown(module.HEAD, result.rows), ""]
        if result.machine:
            took = f", {result.minutes:.1f} minutes" if result.minutes else ""
            lines += [f"{result.machine}; {result.day}{took}.", ""]
        if result.curves:
            lines += [f"![{growth.in_words(result.curves)}]({pictures}/growth.png)", ""]
    return lines


def kept(folder: Path, setfit: Path) -> dict[str, Found]:
    """The parts that are there."""
    found = {}
    for part in PARTS:
        if part == "laptop":
            found[part] = Found(laptop.measure(), "", "", 0.0, [])
        elif part == "classifier" and setfit.is_file():
            found[part] = Found(classifier.measure(setfit), "", "", 0.0, [])
        elif (path := folder / f"{part}.json").is_file():
            found[part] = Found(**json.loads(path.read_text(encoding="utf-8")))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measures the parts that are not there, and writes the page of all that are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--setfit", type=Path, default=RECORDED, help="what setfit_peer.py has recorded")
    parser.add_argument("--again", action="store_true", help="measure parts again that are finished")
    parser.add_argument("--tiny", action="store_true", help="does everything run? (the numbers mean nothing)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "speed")
    parser.add_argument("--peers", type=Path, default=Path("build/peers"), help="where they are kept")
    parser.add_argument("--page", type=Path, default=HERE / "README.md", help="rewritten between two marks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    there = set() if options.again else kept(options.out, options.setfit).keys()
    missing = [part for part in options.parts if part not in there and part not in READ]
    if missing:
        peers.fetch(options.peers)
    for part in missing:
        print(f"{part} …", flush=True)
        result = run(part, options)
        write_whole(options.out / f"{part}.json", json.dumps(result._asdict(), indent=1))
    found = kept(options.out, options.setfit)
    pictures = options.page.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    if "growth" in missing:  # drawn once: the same picture has other bytes with another matplotlib
        growth.picture(found["growth"].curves, str(pictures / "growth.png"))
    before, _, rest = options.page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    text = "\n".join([before + START, "", *page(found, pictures.name), END]) + after
    write_whole(options.page, text)
    print(f"{options.page}: {len(found)} of {len(PARTS)} parts", flush=True)


if __name__ == "__main__":
    main()
