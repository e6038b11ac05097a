"""A few labelled examples of all classes at once: ``FewShotClassifier``'s default beside simpler methods.

    python benchmarks/own_data.py compare --datasets hwu64 --draws 10      one of PARTS, see below
    python benchmarks/own_data.py page                                     all tables so far -> own_data.md

Of HWU64 all 64 classes, of the other published sets the test classes of their default split and of each its
first 200 texts. A draw takes the given number of examples of each class, and the whole rest is tested. Every
method answers the same draws, so differences are paired; intervals are over draws. The encoder is
all-MiniLM-L6-v2, frozen, one thread.

``choose``, ``weight`` and ``words`` show how the settings of the default were chosen: on the training and
validation classes of five other sets, some tasks with a share of wrong names. HWU64, and all test classes,
play no part in it. ``outside`` and ``few_classes`` read tables that ``outside.py`` writes, of texts that no
other choice was made on; ``few_classes --datasets validation`` reads the five sets, too. Every table goes to
a file of its own in ``--out``; ``page`` only joins them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from own_data_draws import called
from own_data_parts import (
    auto,
    choose,
    compare,
    cut,
    few_classes,
    outside,
    suggest,
    unknown,
    unlabelled,
    weight,
    words,
    wrong_names,
)

from fewshot_lib.encoders import TextEncoder

PARTS = {
    "compare": compare,
    "outside": outside,
    "wrong_names": wrong_names,
    "cut": cut,
    "unlabelled": unlabelled,
    "auto": auto,
    "unknown": unknown,
    "suggest": suggest,
    "words": words,
    "weight": weight,
    "few_classes": few_classes,
    "choose": choose,
}


def page(out: Path) -> str:
    """The page: what each part says of itself, and below each the tables that there are."""
    sections = []
    for name, part in PARTS.items():
        tables = [file.read_text(encoding="utf-8") for file in sorted(out.glob(f"{name}-*.md"))]
        sections.append("\n".join([part.INTRODUCTION, *(tables or ["Not run yet.\n"])]))
    return "\n".join(sections)


def main() -> None:
    """Writes and prints one table per data set, or the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "page"])
    parser.add_argument("--datasets", nargs="+", default=["hwu64"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("build/own_data"))
    options = parser.parse_args()
    if options.part == "page":
        Path(__file__).with_suffix(".md").write_text(page(options.out), encoding="utf-8")
        return
    torch.set_num_threads(1)
    encoder = TextEncoder()
    options.out.mkdir(parents=True, exist_ok=True)
    on_validation = options.part in ("words", "weight", "choose")
    for name in ["validation"] if on_validation else options.datasets:
        lines = list(PARTS[options.part].table(name, options, encoder))
        file = options.out / f"{options.part}-{called(name)}.md"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines), f"\nwritten to {file}", flush=True)


if __name__ == "__main__":
    main()
