"""The page of ``metaprompting.py``: its finding and settings, the notes that stand there, and its table.

What is found is computed from the table, settings come from the program and from the rows that are kept.
"""

from __future__ import annotations

import json
from pathlib import Path

from metaprompting_rows import ABLATION, BAR, INNER_LR, INNER_STEPS, LR, N_TASKS, POOL, RATES, TRAIN_QUERIES

from fewshot_lib.course.records import markdown
from fewshot_lib.course.results.page import folded, prompt_rows
from fewshot_lib.course.results.publishing import read_lines
from fewshot_lib.course.results.rows import SHOTS
from fewshot_lib.data.cache import load_tensors

HERE = Path(__file__).parent
TABLE, PAGE = HERE / "metaprompting.csv", HERE / "metaprompting.md"
ROWS = HERE.parent / "results" / "metaprompting" / "rows"
BEGIN, END = "<!-- notes: begin -->", "<!-- notes: end -->"
Line = dict[str, str]


def page(before: str, table: Path) -> str:
    """The page anew; before: as it is, for its notes."""
    lines = read_lines(table)
    notes = before[before.index(BEGIN) : before.index(END) + len(END)]
    parts = [
        "# MetaPrompting on the published text sets",
        finding(lines),
        f"## Settings\n\n{settings(lines)}",
        notes,
        "## The rows",
        folded(markdown(list(lines[0]), [list(line.values()) for line in lines])),
    ]
    return "\n\n".join(parts) + "\n"


def finding(lines: list[Line]) -> str:
    """Two sentences: what the inner loop adds, and how far all of it is from a frozen sentence encoder."""
    gains = []
    for n_shot in SHOTS:
        for method in ABLATION:
            some = [line for line in lines if (line["method"], line["shots"]) == (method, str(n_shot))]
            found = [line["minus its 0-inner-step ablation, paired"].split(" ± ") for line in some]
            points = [float(mean) for mean, _ in found]
            surely = sum(float(mean) > float(half) for mean, half in found)
            how = "language model frozen" if "frozen" in method else "adapters trained"
            gains.append(
                f"{how}, {n_shot}-shot: {min(points):+.1f} to {max(points):+.1f}, above zero on {surely} of "
                f"{len(found)} sets"
            )
    means = {key: found[-1] for key, found in prompt_rows(lines).items()}
    ends = []
    for n_shot in SHOTS:
        best = max(
            mean.mean
            for (_, model, shots), mean in means.items()
            if model == "minilm-mlm" and shots == str(n_shot)
        )
        bar = means[BAR, "all-MiniLM-L6-v2", str(n_shot)].mean
        ends.append(f"{100 * best:.1f} against {100 * bar:.1f} % at {n_shot}-shot")
    return (
        "**What five steps of gradient descent on the examples add to a learnt prompt** (paired, in points): "
        f"{'; '.join(gains)}; each is one training. **It does not make up for the model**: in the mean "
        f"of the four sets the best row of the small language model stays behind {BAR} on a frozen sentence "
        "encoder, "
        f"{', '.join(ends)}."
    )


def settings(lines: list[Line]) -> str:
    """A list, from the program and from kept rows: chapter 06 reads the first table, that of the rows."""
    kept = [load_tensors(path) for path in sorted(ROWS.glob("*.safetensors"))]
    told = [found[1] for found in kept if found and "learning" in found[1]["settings"]]
    (steps,), (tokens,), (learning,) = (
        {json.loads(facts["settings"])[name] for facts in told}
        for name in ("steps", "max_tokens", "learning")
    )
    if learning != f"{INNER_STEPS} {INNER_LR} {LR} {POOL} {RATES}":
        raise ValueError("The kept rows were made with other settings than the program has now.")
    rates = {facts.get("inner rate at test time", "") for facts in told}
    chosen = (
        "not recorded with these rows" if rates == {""} else f"of the kept rows: {', '.join(sorted(rates))}"
    )
    sets = ", ".join(dict.fromkeys(f"{line['data set']} ({line['split family']})" for line in lines))
    (episodes,) = {line["episodes"] for line in lines}
    body = [
        ["inner steps S, in training and at test time", f"{INNER_STEPS}; 0 in the ablation"],
        ["inner rate α in training", f"{INNER_LR}"],
        [
            "inner rate α at test time",
            f"of {', '.join(map(str, RATES))} the best on 100 validation episodes; which one: {chosen}",
        ],
        ["outer rate", f"{LR} of the prompt; {LR / 10:g} of adapters, and of MetaPrompter's pool"],
        ["order", "first (the published MetaPrompting: second)"],
        [
            "training",
            f"{steps} meta-steps of {N_TASKS} episodes, 5-way, {TRAIN_QUERIES} queries per class, one seed",
        ],
        ["MetaPrompter's pool", f"{POOL[0]} prompts of {POOL[1]} tokens"],
        ["texts", f"cut to {tokens} tokens for the language model"],
        ["test", f"{episodes} episodes, 5-way, 15 queries per class; {sets}"],
    ]
    return "\n".join(f"- *{setting}*: {value}" for setting, value in body)
