"""Exercises that check themselves and never stop the notebook.

Until :func:`check` has accepted the learner's function, everything below it uses the reference, so "Run all" always
reaches the end. With ``FEWSHOT_STRICT=1`` every verdict but *ok* is an error: that is how the solutions are tested.
"""

from __future__ import annotations

import functools
import linecache
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fewshot_lib.course.comparison import close, copied, describe, has_ellipsis, same_form


class ExerciseFailed(AssertionError):
    """An exercise is not solved, in a run that demands solutions (``FEWSHOT_STRICT=1``)."""


class Exercise:
    """A function to be written by the learner, with the reference that stands in for it until it is right.

    accepted: whether calls go to the learner's function. verdict: "todo", "error", "shape", "value" or "ok" after a check.
    """

    def __init__(self, learner: Callable, reference: Callable) -> None:
        functools.update_wrapper(self, learner)
        self.learner, self.reference = learner, reference
        self.accepted, self.verdict = False, ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.learner if self.accepted else self.reference)(*args, **kwargs)


def exercise(reference: Callable) -> Callable[[Callable], Exercise]:
    """Decorates the learner's function; its body is ``return ...`` until it is written."""
    if not callable(reference):
        raise TypeError(f"`reference` is {reference!r}: give the function that a right answer agrees with.")
    return functools.partial(Exercise, reference=reference)


def check(
    answer: Exercise,
    cases: Sequence[tuple | dict],
    mistakes: Mapping[str, Callable] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> None:
    """Compares the learner's function with the reference and prints a verdict.

    cases: what to call both with; a tuple of arguments, or a dict of named ones. Each call gets its own copy.
    mistakes: message -> a wrong function. If the learner's values are those of a wrong function, its message is printed.

    Raises ValueError or TypeError where the exercise itself is set up wrongly, and ExerciseFailed in a strict run.
    """
    if not isinstance(answer, Exercise):
        raise TypeError(f"`answer` is {answer!r}: decorate the function with @course.exercise(reference=...) first.")
    _check_cases(cases)
    same = functools.partial(close, rtol=rtol, atol=atol)
    strict = os.environ.get("FEWSHOT_STRICT") == "1"
    if strict:
        _check_mistakes(answer, cases, mistakes or {}, same)
    answer.verdict, message = _judge(answer, cases, mistakes or {}, same)
    answer.accepted = answer.verdict == "ok"
    if strict and not answer.accepted:
        raise ExerciseFailed(f"{answer.__name__}: [{answer.verdict}] {message}")
    print(f"{answer.__name__}: [{answer.verdict}] {message}")


def _check_cases(cases: Sequence[tuple | dict]) -> None:
    if not cases:
        raise ValueError("`cases` is empty: give at least one tuple of arguments to compare on.")
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, tuple | dict):
            raise ValueError(f"Case {number} of `cases` is a {type(case).__name__}: write (x,) for a single argument x.")


def _call(function: Callable, case: tuple | dict) -> Any:
    """The function's answer, computed on copies: an answer that changes its arguments must not spoil the next call."""
    if isinstance(case, dict):
        return function(**copied(case))
    return function(*copied(case))


def _check_mistakes(answer: Exercise, cases: Sequence, mistakes: Mapping[str, Callable], same: Callable) -> None:
    """A "mistake" that agrees with the reference on every case would call a right answer wrong, or prove nothing."""
    for message, wrong in mistakes.items():
        if all(_agrees(wrong, case, _call(answer.reference, case), same) for case in cases):
            raise ValueError(
                f"`mistakes` of {answer.__name__}: {message!r} gives the right answer in all {len(cases)} cases. Add a case that tells."
            )


def _agrees(function: Callable, case: tuple | dict, value: Any, same: Callable) -> bool:
    try:
        return same(_call(function, case), value)
    except Exception:  # a wrong rule may not even apply to this case: then it does not explain the value
        return False


def _judge(answer: Exercise, cases: Sequence, mistakes: Mapping[str, Callable], same: Callable) -> tuple[str, str]:
    """The verdict and its explanation."""
    for number, case in enumerate(cases, start=1):
        expected = _call(answer.reference, case)
        try:
            got = _call(answer.learner, case)
        except Exception as error:  # whatever the learner's code raises is shown to the learner, not to "Run all"
            if _is_unfinished(error):
                return "todo", "not written yet; the cells below use the reference"
            return "error", f"case {number}: {type(error).__name__}: {error}{_place(error)}"
        if has_ellipsis(got):
            return "todo", "not written yet; the cells below use the reference"
        if not same_form(got, expected):
            return "shape", f"case {number}: you returned {describe(got)}, expected {describe(expected)}"
        if not same(got, expected):
            reasons = (text for text, wrong in mistakes.items() if _agrees(wrong, case, got, same))
            return "value", f"case {number}: " + next(reasons, "the values differ from the reference")
    return "ok", "1 case" if len(cases) == 1 else f"{len(cases)} cases"


def _is_unfinished(error: Exception) -> bool:
    """A placeholder ``...`` that is still computed with raises TypeError or AttributeError about an ellipsis."""
    return isinstance(error, NotImplementedError) or "ellipsis" in str(error).lower()


def _place(error: Exception) -> str:
    """Where in the learner's own code it happened, if that code can be seen."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith("<ipython") or "ipykernel" in frame.filename]
    line = linecache.getline(own[-1].filename, own[-1].lineno).strip() if own else ""
    return f" (in your line {own[-1].lineno}: {line})" if line else ""
