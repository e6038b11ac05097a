"""Exercises that check themselves and never stop the notebook.

Until :func:`check` has accepted the learner's function, everything below it uses the reference, so "Run all"
always reaches the end. With ``FEWSHOT_STRICT=1`` every verdict but *ok* is an error: that is how the
solutions are tested.
"""

import functools
import linecache
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fewshot_lib.course.comparison import close, copied, describe, form, has_ellipsis

Case = tuple | dict  # what a function is called with: arguments, or named ones
TODO = "todo", "not written yet; the cells below use the reference"


class ExerciseFailed(AssertionError):
    """An exercise is not solved, in a run that demands solutions (``FEWSHOT_STRICT=1``)."""


class Exercise:
    """A function to be written by the learner, with the reference that stands in for it until it is right.

    accepted: whether calls go to the learner's function. verdict: "todo", "error", "shape", "value" or "ok"
    after a check.
    """

    __name__: str

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


def check(answer: Exercise, cases: Sequence[Case], mistakes: Mapping[str, Callable] | None = None) -> None:
    """Compares the learner's function with the reference and prints a verdict.

    cases: what to call both with; a tuple of arguments, or a dict of named ones. Each call gets its own copy.
    mistakes: message -> a wrong function; the message is printed where the learner's values are its values.
    In a strict run an exercise whose cases cannot tell a mistake from the right answer is a ValueError.
    """
    if not isinstance(answer, Exercise):
        raise TypeError(f"`answer` is {answer!r}: decorate it with @course.exercise(reference=...) first.")
    if not cases:
        raise ValueError("`cases` is empty: give at least one tuple of arguments to compare on.")
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, Case):
            kind = type(case).__name__
            raise ValueError(f"Case {number} of `cases` is a {kind}: write (x,) for a single argument x.")
    mistakes = mistakes or {}
    strict = os.environ.get("FEWSHOT_STRICT") == "1"
    if strict:
        _check_mistakes(answer, cases, mistakes)
    answer.verdict, message = judge(answer, cases, mistakes)
    answer.accepted = answer.verdict == "ok"
    sentence = f"{answer.__name__}: [{answer.verdict}] {message}"
    if strict and not answer.accepted:
        raise ExerciseFailed(sentence)
    print(sentence)


def _check_mistakes(answer: Exercise, cases: Sequence, mistakes: Mapping) -> None:
    """A mistake that agrees with the reference in every case would call a right answer wrong."""
    for message, wrong in mistakes.items():
        if all(_agrees(wrong, case, _call(answer.reference, case)) for case in cases):
            found = f"{message!r} gives the right answer in all {len(cases)} cases"
            raise ValueError(f"`mistakes` of {answer.__name__}: {found}. Add a case that tells.")


def _call(function: Callable, case: Case) -> Any:
    """The function's answer to a copy: one that changes its arguments must not spoil the next call."""
    return function(**copied(case)) if isinstance(case, dict) else function(*copied(case))


def _agrees(function: Callable, case: Case, value: Any) -> bool:
    try:
        return close(_call(function, case), value)
    except Exception:  # a wrong rule may not even apply to this case: then it does not explain the value
        return False


def judge(answer: Exercise, cases: Sequence, mistakes: Mapping) -> tuple[str, str]:
    """The verdict and its explanation."""
    for number, case in enumerate(cases, start=1):
        try:
            found = _call(answer.learner, case)
        except Exception as error:  # whatever the learner's code raises is for the learner, not for "Run all"
            # a placeholder ... that is computed with raises TypeError or AttributeError about an ellipsis
            if isinstance(error, NotImplementedError) or "ellipsis" in str(error).lower():
                return TODO
            return "error", f"case {number}: {type(error).__name__}: {error}{_place(error)}"
        if has_ellipsis(found):
            return TODO
        expected = _call(answer.reference, case)  # after the learner's: it may take a training
        if form(found) != form(expected):
            return "shape", f"case {number}: you returned {describe(found)}, expected {describe(expected)}"
        if not close(found, expected):
            texts = [text for text, wrong in mistakes.items() if _agrees(wrong, case, found)]
            reason = _most_likely(answer.learner, texts, mistakes, cases)
            return "value", f"case {number}: {reason}"
    return "ok", "1 case" if len(cases) == 1 else f"{len(cases)} cases"


def _most_likely(learner: Callable, texts: Sequence[str], mistakes: Mapping, cases: Sequence) -> str:
    """Of the mistakes that explain one value, the one that explains the answers to all cases, if any does."""

    def explains_all(text: str) -> bool:
        try:
            return all(_agrees(mistakes[text], case, _call(learner, case)) for case in cases)
        except Exception:  # the learner's code fails on another case: then only this one tells
            return False

    whole = filter(explains_all, texts if len(texts) > 1 else [])
    return next(whole, texts[0] if texts else "the values differ from the reference")


def _place(error: Exception) -> str:
    """Where in the learner's own code it happened, if that code can be seen."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<ipython") or "ipykernel" in frame.filename:
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f" (in your line {frame.lineno}: {line})" if line else ""
    return ""
