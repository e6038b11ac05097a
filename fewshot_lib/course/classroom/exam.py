"""The exam room of one chapter: a process that runs the course's cells and lets each submission answer.

For every exercise it makes the cases, as the notebook's cell does and once more with other seeds; then each
submission's function answers them in a child of its own (:mod:`.sandbox`), and what comes back is data:
numbers, shapes, an error's name. A submission never meets a reference, since this process holds none: the
answers that it imports are hollow. The verdicts are found by another child, which reads references and data.

    python -m fewshot_lib.course.classroom.exam FOLDER    does FOLDER/job.json; leaves verdicts
"""

import ast
import base64
import functools
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_lib import course
from fewshot_lib.course import answers, exercises
from fewshot_lib.course.classroom import cells as cutting
from fewshot_lib.course.classroom.sandbox import Limits, confined
from fewshot_lib.course.comparison import copied, has_ellipsis

Names = dict[str, Any]
MOST_TEXT, MOST_PARTS = 300, 10_000
YOURS = "<your cell>"  # the file that a submission's code is said to be from
NOT_MADE = "its cases could not be made here"
UNREADABLE = "what came back cannot be read"
ON_OTHERS = "right on the cases of the notebook, then stopped on others of the same kind: {}"
HARD_CODED = "right on the cases of the notebook and wrong on others of the same kind: look at the code"


def enter(folder: Path) -> None:
    """Does the job of the folder."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    random.seed(job["seed"])
    hollow = _hollow_answers(job["answers"])
    sources, asking = job["cells"], job["asking"]
    names: Names = {"__name__": "__main__"}
    for position, tree in enumerate(cutting.context(sources, list(asking.values()))):
        if position not in asking.values():
            _run(tree, names, f"cell {position}")
            continue
        (name,) = (name for name, place in asking.items() if place == position)
        asked = [capture(tree, names), capture(tree, dict(names), shift=random.randrange(1, 10**6))]
        _examine(folder, job, name, asked, names)
        _in_a_child(functools.partial(_judge_all, folder, job, name, asked, names, hollow, sources[position]))


def _run(tree: ast.Module, names: Names, where: str) -> None:
    """Runs code of the course. What fails is left: an exercise that needed it will say so."""
    try:
        exec(compile(ast.fix_missing_locations(tree), where, "exec"), names)
    except Exception as error:
        print(f"{where}: {type(error).__name__}: {error}", file=sys.stderr)


def _hollow_answers(sources: dict[str, str]) -> list[ModuleType]:
    """Puts modules without answers where the notebook's imports look."""
    made = []
    for name, source in sources.items():
        module = ModuleType(f"{answers.__name__}.{name}")
        exec(compile(source, f"{name}, hollow", "exec"), module.__dict__)
        sys.modules[module.__name__] = module
        setattr(answers, name, module)
        made.append(module)
    return made


class Asked(dict):
    """What a cell gave to ``course.check``: answer, cases, mistakes. Empty: nothing."""


def capture(tree: ast.Module, names: Names, shift: int | None = None) -> Asked:
    """Runs an exercise's cell and returns what it would have checked; with other seeds if there is a shift.

    Where the cell draws nothing at random, other cases are the same with numbers that are a little larger.
    """
    asked = Asked()

    def check(answer: Any, cases: Any, mistakes: Any = None) -> None:
        asked.update(answer=answer, cases=list(cases), mistakes=mistakes or {})

    other = cutting.OtherSeeds(shift or 0)
    tree = ast.parse(ast.unparse(tree)) if shift is None else other.visit(ast.parse(ast.unparse(tree)))
    original, course.check = course.check, check
    try:
        _run(tree, names, "an exercise")
    finally:
        course.check = original
    if shift is not None and not other.changed and asked:
        asked["cases"] = [_larger(case) for case in asked["cases"]]
    return asked


def _larger(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach() * 1.03125
    if isinstance(value, dict):
        return {key: _larger(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_larger(part) for part in value)
    return value + 1 if type(value) is int else value


def _examine(folder: Path, job: dict, name: str, asked: Sequence[Asked], names: Names) -> None:
    """Lets every submission answer, each in a child that is shown its own file alone."""
    shown, others = (a.get("cases", []) for a in asked)
    limits = Limits(hidden=[Path(place) for place in job["hidden"]], **job["limits"])

    def work(file: int, submission: bytes) -> None:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            for outcome in _answers(json.loads(submission), name, names, [*shown, *others]):
                print(json.dumps(outcome), file=out, flush=True)

    for student in job["students"]:
        place = folder / student
        ended = confined(work, place / f"{name}.out", place / "cells.json", limits, job["strong"])
        (place / f"{name}.end").write_text(ended, encoding="utf-8")


def _answers(submitted: list[str], name: str, names: Names, cases: Sequence) -> Iterator[dict[str, Any]]:
    """In the child: defines what was submitted, and answers each case."""
    problem = None
    for source in submitted:
        try:
            for node in cutting.answering(source):
                _define(node, names)
        except SyntaxError as error:
            problem = problem or error
    function = names.get(name)
    if problem and (isinstance(function, exercises.Exercise) or function is None):
        yield {"error": ["SyntaxError", str(problem)[:MOST_TEXT]]}
    elif isinstance(function, exercises.Exercise):  # the course's own stub: nothing was defined
        yield {"missing": True}
    else:
        yield from (_outcome(function, case) for case in cases)


def _define(node: ast.stmt, names: Names) -> None:
    try:
        exec(compile(ast.Module([node], type_ignores=[]), YOURS, "exec"), names)
    except Exception:  # an import that is not there: the function that needs it will say so
        return


def _outcome(function: Any, case: Any) -> dict[str, Any]:
    try:
        value = function(**copied(case)) if isinstance(case, dict) else function(*copied(case))
        return {"todo": True} if has_ellipsis(value) else {"value": encoded(value)}
    except Exception as error:
        if isinstance(error, NotImplementedError) or "ellipsis" in str(error).lower():
            return {"todo": True}
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == YOURS]
        where = f" (in line {lines[-1]} of your cell)" if lines else ""
        return {"error": [type(error).__name__[:40], str(error)[:MOST_TEXT] + where]}


def encoded(value: Any, depth: int = 0) -> Any:
    """Nested tensors, arrays, numbers and texts as JSON; of anything else, the name of its type."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        tensor = torch.as_tensor(value).detach().cpu().resolve_conj().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        raw = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.zeros(0, dtype=torch.uint8)
        return {"tensor": [kind, list(tensor.shape), base64.b64encode(raw.numpy().tobytes()).decode()]}
    if value is None or isinstance(value, bool | float | int | str):
        return {"plain": value if not isinstance(value, str) else value[:MOST_TEXT]}
    if depth < 5 and isinstance(value, dict) and len(value) < MOST_PARTS:
        return {"dict": [[str(key), encoded(part, depth + 1)] for key, part in value.items()]}
    if depth < 5 and isinstance(value, list | tuple) and len(value) < MOST_PARTS:
        return {"list": [encoded(part, depth + 1) for part in value]}
    return {"other": type(value).__name__[:40]}


class Other:
    """Something that is neither a number, a text, nor a collection of them."""


def decoded(value: Any) -> Any:
    """The value again. Whatever the text says, this makes tensors and numbers, and runs nothing."""
    ((kind, content),) = value.items()
    if kind == "tensor":
        name, shape, text = content
        dtype = getattr(torch, name)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(name)
        raw = bytearray(base64.b64decode(text))
        return (torch.frombuffer(raw, dtype=dtype) if raw else torch.zeros(0, dtype=dtype)).reshape(shape)
    if kind == "plain":
        return content
    if kind == "dict":
        return {key: decoded(part) for key, part in content}
    return [decoded(part) for part in content] if kind == "list" else Other()


def _in_a_child(work: Callable[[], None]) -> None:
    """What the child learns, the references, it takes with it."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        work()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _judge_all(
    folder: Path, job: dict, name: str, asked: list[Asked], names: Names, hollow: list[ModuleType], cell: str
) -> None:
    """In a child that no submission descends from: reads the references, and writes the verdicts."""
    key = json.loads(Path(job["key"]).read_text(encoding="utf-8"))
    for module in hollow:
        exec(key["answers"][module.__name__.rpartition(".")[2]], module.__dict__)
    shown, others = asked
    with_references = capture(ast.parse(cell), dict(names))
    verdict: Callable[[Path], tuple[str, str]] = _not_graded
    if shown and with_references and shown["cases"]:
        for found in asked:
            found.update({part: with_references[part] for part in ("answer", "mistakes")})
        judges = [Judge(shown), *_trusted(others, key["solutions"][name], name, dict(names))]
        verdict = functools.partial(_verdict, judges=judges, n_shown=len(shown["cases"]), name=name)
    for student in job["students"]:
        try:
            result = verdict(folder / student)
        except Exception:  # whatever one of them sent must not cost the others their verdicts
            result = "error", UNREADABLE
        (folder / student / f"{name}.verdict").write_text(json.dumps(result), encoding="utf-8")


def _trusted(asked: Asked, solution: str, name: str, names: Names) -> Iterator["Judge"]:
    """A judge on other cases, if the course's own solution agrees with the reference there.

    It may not: a case with other numbers can be none that the exercise is about.
    """
    try:
        for node in cutting.answering(solution):
            _define(node, names)
        judge = Judge(asked)
        agrees = judge.accepts([_outcome(names[name], case) for case in asked["cases"]])
    except Exception:
        return
    if agrees:
        yield judge


def _not_graded(folder: Path) -> tuple[str, str]:
    return "not graded", NOT_MADE


def _verdict(folder: Path, judges: Sequence["Judge"], n_shown: int, name: str) -> tuple[str, str]:
    """What became of one submission's answers to one exercise."""
    ended = (folder / f"{name}.end").read_text(encoding="utf-8")
    *lines, cut_off = (folder / f"{name}.out").read_text(encoding="utf-8").split("\n")
    outcomes = [json.loads(line) for line in [*lines, *([] if ended else [cut_off])] if line.strip()]
    if outcomes and "missing" in outcomes[0]:
        return "missing", "this notebook holds no function of this name"
    if ended and len(outcomes) < n_shown:
        return "stopped", ended
    verdict, message = judges[0](outcomes[:n_shown])
    if verdict != "ok" or len(judges) == 1 or judges[1].accepts(outcomes[n_shown:]):
        return verdict, message
    if ended and len(outcomes) < n_shown + len(judges[1].expected):
        return "stopped", ON_OTHERS.format(ended)
    return "look", HARD_CODED


class Judge:
    """Finds the verdict that ``course.check`` would, on outcomes that were found elsewhere."""

    def __init__(self, asked: Asked) -> None:
        self.asked, reference = asked, asked["answer"].reference
        self.expected = [self._call(reference, i) for i in range(len(asked["cases"]))]
        mistaken = {text: functools.partial(self._call, wrong) for text, wrong in asked["mistakes"].items()}
        self.mistakes = {text: functools.cache(wrong) for text, wrong in mistaken.items()}

    def _call(self, function: Callable, number: int) -> Any:
        case = copied(self.asked["cases"][number])
        return function(**case) if isinstance(case, dict) else function(*case)

    def __call__(self, outcomes: Sequence[dict]) -> tuple[str, str]:
        """The verdict and its explanation. Cases are known by their number: each has its outcome already."""

        def learner(number: int) -> Any:
            outcome = (
                outcomes[number] if number < len(outcomes) else {"error": ["Stopped", "no answer came back"]}
            )
            if "value" in outcome:
                return decoded(outcome["value"])
            if "todo" in outcome:
                return ...
            kind, message = outcome["error"]
            raise type(str(kind), (Exception,), {})(str(message))

        answer = exercises.Exercise(learner, self.expected.__getitem__)
        cases = [(number,) for number in range(len(self.expected))]
        return exercises.judge(answer, cases, self.mistakes)

    def accepts(self, outcomes: Sequence[dict]) -> bool:
        return self(outcomes)[0] == "ok"


if __name__ == "__main__":
    torch.set_num_threads(1)
    enter(Path(sys.argv[1]))
