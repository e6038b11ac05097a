"""Speed, side by side: this library, a plain loop, and its peers, in one command that writes README.md.

    python benchmarks/side_by_side.py [--parts evaluation maml ...] [--setfit results/setfit.jsonl]

The ways of a table take turns in one process on one thread, three or five rounds after one to warm up. Times
are processor seconds, which other work on the machine hardly changes; what is shown is their median, and the
median of the rounds' ratios with their range. easyfsl, higher and torchopt are fetched from the package index
into ``--out``, and left out where there is none.

A part that is finished is a file in ``--out``: a run that was interrupted goes on with the next part;
``--again`` measures anew. The page is made of what is there, and says what is not.
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
from speed import classifier, evaluation, finetuning, growth, joint, maml, notebooks, peers, prompts

from fewshot_lib.data.cache import atomic_write

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
    "notebooks": ("The notebooks", notebooks),
}
# part, by whom, in which rows: how many times as long as ours it is to take at least; why it may not
TARGETS = (
    (
        "evaluation",
        "easyfsl",
        "drawn and evaluated",
        20,
        "drawing, fetching the features and one product are most of what is left, see the row of that alone. "
        "Tried: fewer episodes at a time where features are wide (kept)",
    ),
    (
        "finetuning",
        "easyfsl",
        "",
        10,
        "the matrix products alone are a large part of our time, the softmax over the ways another. Tried: "
        "fewer episodes at a time (slower); a softmax along the other axis is quicker, but not taken, as it "
        "changes last digits of recorded numbers",
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


def run(part: str, options: argparse.Namespace) -> Found | None:
    """Measures a part; None where it has nothing to read."""
    start, curves = time.perf_counter(), []
    if part == "classifier":
        if not options.setfit.is_file():
            return None
        rows = classifier.measure(options.setfit)
    elif part == "growth":
        rows, curves = growth.measure(options.tiny)
    else:
        rows = PARTS[part][1].measure(options.tiny)
    minutes = (time.perf_counter() - start) / 60
    return Found(rows, machine(), date.today().isoformat(), minutes, curves)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


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


def page(found: dict[str, Found], pictures: Path) -> list[str]:
    """The generated half of README.md."""
    lines = ["## Speed, side by side", "", "`python benchmarks/side_by_side.py` wrote what follows.", ""]
    if targets := against_targets(found):
        head = ["case", "beside", "target", "measured", "verdict"]
        lines += ["Targets, by the median of the rounds:", "", *table(head, targets), ""]
    for part, (title, module) in PARTS.items():
        idea, *rest = module.__doc__.strip().split("\n\n")
        lines += [f"### {title}", "", idea, "", *rest[:1]]
        if part not in found:
            lines += ["", "Not run.", ""]
            continue
        result = found[part]
        lines += ["", *table(module.HEAD, result.rows), ""]
        lines += [f"{result.machine}; {result.day}, {result.minutes:.1f} minutes.", ""]
        if result.curves:
            alt = growth.picture(result.curves, str(pictures / "growth.png"))
            lines += [f"![{alt}]({pictures.name}/growth.png)", ""]
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Measures the parts that are not there, and writes the page of all that are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--setfit", type=Path, default=RECORDED, help="what setfit_peer.py has recorded")
    parser.add_argument("--again", action="store_true", help="measure parts again that are finished")
    parser.add_argument("--tiny", action="store_true", help="does everything run? (the numbers mean nothing)")
    parser.add_argument("--out", type=Path, default=Path("build/side_by_side"))
    parser.add_argument("--page", type=Path, default=HERE / "README.md", help="rewritten between two marks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    peers.fetch(options.out / "peers")
    found = {}
    for part in PARTS:
        kept = options.out / f"{part}.json"
        if part in options.parts and (options.again or not kept.is_file()):
            print(f"{part} …", flush=True)
            if (result := run(part, options)) is None:
                continue
            with atomic_write(kept) as temporary:
                temporary.write_text(json.dumps(result._asdict(), indent=1), encoding="utf-8")
        if kept.is_file():
            found[part] = Found(**json.loads(kept.read_text(encoding="utf-8")))
    pictures = options.page.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    before, _, rest = options.page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    text = "\n".join([before + START, "", *page(found, pictures), END]) + after
    with atomic_write(options.page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{options.page}: {len(found)} of {len(PARTS)} parts", flush=True)


if __name__ == "__main__":
    main()
