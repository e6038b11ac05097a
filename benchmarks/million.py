"""A million short texts through ``fewshot predict``: does its memory grow, and what does ``kill -9`` cost?

    python benchmarks/million.py [--rows 10000 100000 1000000] [--kills 10] [--bfloat16 1000000]

The classifier is ``fewshot fit data/examples/library_desk.csv``; the texts are its own, cut into thirds and
put together anew (the first third of one, the middle of another, the end of a third one; 12 tokens on
average), a row each with its number. No text is encoded once for two rows. For every number of rows
``predict`` runs in a process of its own, and what the system says of that process (resident memory, processor
time) is noted twice a second, with the rows that are on the disk by then. The smallest file is labelled once
more by a process that is killed (SIGKILL) at random moments and started again; the largest is killed three
times.

``--bfloat16``: the sizes that are labelled at that precision alone; the smallest is labelled at both, and
compared. A run that is interrupted goes on where it stopped; what was noted so far stays (``--out``).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
EXAMPLES = [ROOT / "data/examples" / name for name in ("library_desk.csv", "library_desk_new.csv")]
STEP = 1_000_003  # a prime that the number of combinations is no multiple of: row i is combination i · STEP
BLOCK = 1 << 20


class Sample(NamedTuple):
    """Of a process at one moment: rows on the disk, resident MiB, processor seconds, seconds of age."""

    rows: int
    rss: float
    cpu: float
    wall: float


def texts(n: int) -> Iterator[str]:
    """The same n texts every time."""
    thirds: list[list[str]] = [[], [], []]
    for file in EXAMPLES:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                words = row["text"].split()
                cuts = [0, len(words) // 3, 2 * len(words) // 3, len(words)]
                for third, (start, end) in zip(thirds, pairwise(cuts), strict=True):
                    third.append(" ".join(words[start:end]))
    m = len(thirds[0])
    for i in range(n):
        first, second, third = i * STEP // m**2 % m, i * STEP // m % m, i * STEP % m
        yield f"{thirds[0][first]} {thirds[1][second]} {thirds[2][third]}".strip()


def write_texts(path: Path, n: int) -> None:
    """A table of n rows: id, text."""
    if path.exists():
        return
    part = path.with_suffix(".making")
    with part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts(n))])
    part.replace(path)


def fewshot(*arguments: object) -> list[str]:
    """The command line of a process that runs ``fewshot``."""
    return [sys.executable, "-m", "fewshot_lib", *map(str, arguments)]


def predict(command: list[str], out: Path, samples: Path, stop_at: int | None, rng: random.Random) -> bool:
    """One process; whether it came to its end. It is killed soon after ``stop_at`` rows are on the disk."""
    note = out.with_name(f"{out.name}.part.json")
    start, process = time.time(), subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(0.5)
        try:
            rows = json.loads(note.read_text())["rows"]
            times, rss = watched.cpu_times(), watched.memory_info().rss / 2**20
        except (OSError, ValueError, psutil.Error):  # nothing written yet, or the process has ended
            continue
        with samples.open("a") as file:
            print(json.dumps([rows, rss, times.user + times.system, time.time() - start]), file=file)
        if stop_at is not None and rows >= stop_at:
            time.sleep(rng.uniform(0, 2))  # while the next rows are computed, or written
            process.send_signal(signal.SIGKILL)
            process.wait()
            return False
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return True


def kept(out: Path) -> tuple[int, str]:
    """How many bytes of a partly labelled file are promised, and their sha256."""
    n = json.loads(out.with_name(f"{out.name}.part.json").read_text())["bytes"]
    return n, digest(out.with_name(f"{out.name}.part"), n)


def digest(path: Path, n: int) -> str:
    """sha256 of the first n bytes of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while n and (block := file.read(min(n, BLOCK))):
            found.update(block)
            n -= len(block)
    return found.hexdigest()


def label(folder: Path, n: int, bfloat16: bool, kills: int, name: str) -> dict[str, Any]:
    """Labels n texts, interrupted so often; what there is to say of it, which is also kept in a file."""
    facts = folder / f"{name}.json"
    if facts.exists():
        return json.loads(facts.read_text())
    write_texts(folder / f"texts_{n}.csv", n)
    out, samples = folder / f"{name}.csv", folder / f"{name}.samples"
    command = fewshot("predict", folder / "model", folder / f"texts_{n}.csv", "--out", out)
    command += ["--bfloat16"] if bfloat16 else []
    rng, promises = random.Random(0), []
    moments = sorted(rng.randrange(n // 100, n) for _ in range(kills))
    for moment in [*moments, None]:
        if moment is not None and samples.exists() and read(samples)[-1].rows > moment:
            continue  # of a benchmark that was interrupted and goes on
        if predict(command, out, samples, moment, rng):
            break
        promises.append(kept(out))
    lost = sum(digest(out, size) != sha for size, sha in promises)
    found = {
        "rows": n,
        "bfloat16": bfloat16,
        "kills": len(promises),
        "promises broken": lost,
        "sha256": digest(out, out.stat().st_size),
        "complete": complete(folder / f"texts_{n}.csv", out),
    }
    facts.write_text(json.dumps(found))
    return found


def read(samples: Path) -> list[Sample]:
    """What was noted of the processes of one file, in order."""
    return [Sample(*json.loads(line)) for line in samples.read_text().splitlines()]


def complete(given: Path, out: Path) -> bool:
    """Whether every row is there, in order, with its columns, and labelled."""
    with given.open(encoding="utf-8", newline="") as a, out.open(encoding="utf-8", newline="") as b:
        pairs = zip(csv.reader(a), csv.reader(b), strict=True)
        return all(new[: len(old)] == old and all(new) for old, new in pairs)


def spent(found: list[Sample]) -> tuple[int, float, float]:
    """Rows, processor seconds and seconds between the first and the last note of every process, added up."""
    rows = cpu = wall = 0.0
    for a, b in pairwise(found):
        if b.wall > a.wall:  # the same process
            rows, cpu, wall = rows + b.rows - a.rows, cpu + b.cpu - a.cpu, wall + b.wall - a.wall
    return int(rows), cpu, wall


def line_of(folder: Path, name: str, facts: dict[str, Any]) -> str:
    """A row of the table."""
    found = read(folder / f"{name}.samples")
    rows, cpu, wall = spent(found)
    peak, early = max(s.rss for s in found), max(s.rss for s in found if s.rows <= max(found[0].rows, 5000))
    precision = "bfloat16" if facts["bfloat16"] else "float32"
    whole = "yes" if facts["complete"] and not facts["promises broken"] else "NO"
    return (
        f"| {facts['rows']:,} | {precision} | {facts['kills']} | {whole} | {early:,.0f} | {peak:,.0f} "
        f"| {rows / max(cpu, 1e-9):,.0f} | {rows / max(wall, 1e-9):,.0f} |"
    )


def agreement(a: Path, b: Path) -> str:
    """How far two labelled files of the same texts differ, in a sentence."""
    n = differ = refused = 0
    furthest = 0.0
    with a.open(encoding="utf-8", newline="") as one, b.open(encoding="utf-8", newline="") as other:
        for p, q in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            n, differ = n + 1, differ + (p["label"] != q["label"])
            refused += p["rejected"] != q["rejected"]
            furthest = max(furthest, abs(float(p["probability"]) - float(q["probability"])))
    return (
        f"bfloat16 against float32, {n:,} texts: {differ / n:.2%} of the labels and {refused / n:.2%} of the "
        f"marks `rejected` differ, probabilities by at most {furthest:.3f}."
    )


def page(folder: Path, runs: dict[str, dict[str, Any]]) -> str:
    """The tables, in words that follow from the numbers."""
    head = ["rows", "precision", "killed", "whole", "MiB at first", "MiB at most"]
    head += ["texts a processor second", "texts a second"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [line_of(folder, name, facts) for name, facts in runs.items()]
    small, killed = runs["smallest"], runs["smallest, killed"]
    same = "the same to the byte" if small["sha256"] == killed["sha256"] else "NOT the same"
    lines += [
        "",
        f"The smallest file, killed {killed['kills']} times, is {same} as the one labelled at one go "
        f"(sha256 {small['sha256'][:16]}… and {killed['sha256'][:16]}…).",
        "",
        agreement(folder / "smallest.csv", folder / "smallest, bfloat16.csv"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Labels, compares, writes and prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--bfloat16", nargs="*", type=int, default=[])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("build/million"))
    options = parser.parse_args()
    folder, least, most = options.out.absolute(), min(options.rows), max(options.rows)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        subprocess.run(fewshot("fit", EXAMPLES[0], "--out", folder / "model"), check=True, cwd=ROOT)
    runs = {
        "smallest": label(folder, least, False, 0, "smallest"),
        "smallest, bfloat16": label(folder, least, True, 0, "smallest, bfloat16"),
        "smallest, killed": label(folder, least, False, options.kills, "smallest, killed"),
    }
    for n in sorted(set(options.rows) - {least}):
        runs[f"{n}"] = label(folder, n, n in options.bfloat16, 3 if n == most else 0, f"{n}")
    (folder / "million.md").write_text(page(folder, runs), encoding="utf-8")
    print(page(folder, runs))


if __name__ == "__main__":
    main()
