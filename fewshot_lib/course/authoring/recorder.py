"""``fewshot record``: runs notebooks in place and stores what a reader sees, and nothing else.

The profile, the number of threads and the hash seed are fixed, and :mod:`normalise` drops the rest of what
varies. A notebook is stored only when it reached its end.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat

from fewshot_lib.course.authoring.lint import lint
from fewshot_lib.course.authoring.normalise import normalised
from fewshot_lib.course.running import times
from fewshot_lib.course.running.execution import execute, kernel_environment, read_notebook
from fewshot_lib.course.running.parameters import declared, inject
from fewshot_lib.data.cache import write_whole

PROFILE, THREADS, CELL_SECONDS = "laptop", 2, 600


def record(paths: Sequence[Path], say: Callable[[str], None] = print) -> bool:
    """Runs each notebook with the laptop profile and its own parameters, and stores it if it reached its end.

    True where all did and the lint finds nothing in any. A notebook that fails is left as it was.
    """
    fixed = {"FEWSHOT_PROFILE": None, "FEWSHOT_STRICT": None, "PYTHONHASHSEED": "0", "COLUMNS": "100"}
    environment = kernel_environment(THREADS, **fixed)
    good = True
    for path in paths:
        before, notebook = path.read_text(encoding="utf-8"), read_notebook(path)
        declared(notebook)
        outcome = execute(inject(notebook, {}), path.parent, environment=environment, timeout=CELL_SECONDS)
        if outcome.failure:
            say(f"{path.stem}: FAILED in {outcome.failure}. The file is left as it was.")
            good = False
            continue
        after = nbformat.writes(normalised(outcome.notebook)) + "\n"
        if after != before:
            write_whole(path, after)
        times.keep_costs(path.parent, PROFILE, path.stem, outcome.seconds, outcome.peak_memory)
        verdict = "unchanged" if after == before else "recorded"
        say(f"{path.stem}: {verdict}, {times.in_words(outcome.seconds)}")
        good &= report_problems([path], say)
    return good


def report_problems(paths: Sequence[Path], say: Callable[[str], None] = print) -> bool:
    """Prints what the lint finds in the notebooks as they are; True where it finds nothing."""
    problems = [f"{path.stem}, {problem}" for path in paths for problem in lint(path)]
    for problem in problems:
        say(problem)
    return not problems
