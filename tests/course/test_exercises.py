import pytest
import torch

from fewshot_lib import course
from fewshot_lib.course.exercises import ExerciseFailed


def mean(x):
    return x.mean(0)


CASES = [(torch.arange(6.0).view(3, 2),), (torch.ones(2, 2),)]
MISTAKES = {
    "you summed; divide by the number of shots": lambda x: x.sum(0),
    "you took the maximum": lambda x: x.max(0).values,
}


def raises(x):
    return x.no_such_thing


def not_implemented(x):
    raise NotImplementedError("later")


@pytest.mark.parametrize(
    ("learner", "verdict", "words"),
    [
        (lambda x: x.mean(dim=0), "ok", "2 cases"),
        (lambda x: ..., "todo", "not written yet"),
        (lambda x: ... / len(x), "todo", "not written yet"),
        (not_implemented, "todo", "not written yet"),
        (raises, "error", "case 1: AttributeError"),
        (lambda x: x.mean(1), "shape", "a tensor of shape (3,), expected a tensor of shape (2,)"),
        (lambda x: None, "shape", "you returned None"),
        (lambda x: x.sum(0), "value", "you summed; divide"),
        (lambda x: x.max(0).values, "value", "you took the maximum"),
        (lambda x: x.mean(0) + 1, "value", "the values differ"),
    ],
)
def test_verdicts(learner, verdict, words, capsys, monkeypatch):
    answer = course.exercise(reference=mean)(learner)
    course.check(answer, cases=CASES, mistakes=MISTAKES)
    out = capsys.readouterr().out
    assert answer.verdict == verdict and f"[{verdict}]" in out and words in out
    # only a right answer is used below
    x = torch.tensor([[1.0], [3.0]])
    assert answer.accepted == (verdict == "ok")
    assert answer(x).item() == 2.0
    # and a strict run stops at anything else
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    if verdict == "ok":
        course.check(answer, cases=CASES, mistakes=MISTAKES)
    else:
        with pytest.raises(ExerciseFailed, match=rf"\[{verdict}\]"):
            course.check(answer, cases=CASES, mistakes=MISTAKES)


def test_a_mistake_in_a_later_case_is_found(capsys):
    cases = [(torch.ones(3, 2),), (torch.eye(2),)]  # in the first, all rows are the same
    answer = course.exercise(reference=mean)(lambda x: x[0])
    course.check(answer, cases=cases, mistakes={"that is only the first": lambda x: x[0]})
    assert "case 2: that is only the first" in capsys.readouterr().out


def test_of_two_mistakes_with_the_same_value_the_one_that_explains_all_cases_is_named(capsys):
    mistakes = {"twice": lambda n: 2 * n, "squared": lambda n: n * n}
    for learner, said in ((lambda n: n * n, "squared"), (lambda n: 2 * n, "twice"), (lambda n: 4, "twice")):
        answer = course.exercise(reference=lambda n: n)(learner)
        course.check(answer, cases=[(2,), (3,)], mistakes=mistakes)  # 4 = 2 + 2 = 2 * 2
        assert f"case 1: {said}" in capsys.readouterr().out


def test_an_accepted_answer_is_what_is_called_until_another_is_not_accepted():
    calls = []

    def learner(x):
        calls.append(1)
        return x.mean(0)

    answer = course.exercise(reference=mean)(learner)
    answer(CASES[0][0])
    assert not calls
    course.check(answer, cases=CASES)
    calls.clear()
    answer(CASES[0][0])
    assert calls and answer.__name__ == "learner"
    answer.learner = raises
    course.check(answer, cases=CASES)
    assert not answer.accepted


X = torch.arange(4.0).view(2, 2)


@pytest.mark.parametrize(
    ("reference", "learner", "cases"),
    [
        (lambda x: (x - x.mean(0)).sum(0), lambda x: x.sub_(x.mean(0)).sum(0), [(X,), (X,)]),
        (
            lambda x, k: {"m": [x.mean(0) * k, 1]},
            lambda x, k: {"m": [k * x.sum(0) / 2, 1]},
            [{"x": X, "k": 2.0}],
        ),
        (lambda g: torch.rand(3, generator=g), lambda g: torch.rand(3, generator=g), [(torch.Generator(),)]),
    ],
    ids=["changes its argument", "named arguments and nested answers", "random, from the same state"],
)
def test_each_call_gets_its_own_copy_of_nested_arguments(reference, learner, cases):
    answer = course.exercise(reference=reference)(learner)
    course.check(answer, cases=cases)
    assert answer.accepted and torch.equal(X, torch.arange(4.0).view(2, 2))


def test_an_exercise_set_up_wrongly_is_refused(monkeypatch):
    answer = course.exercise(reference=mean)(mean)
    with pytest.raises(TypeError, match="decorate"):
        course.check(mean, cases=CASES)
    with pytest.raises(ValueError, match="`cases` is empty"):
        course.check(answer, cases=[])
    with pytest.raises(ValueError, match=r"write \(x,\)"):
        course.check(answer, cases=[torch.ones(2)])
    with pytest.raises(TypeError, match="`reference`"):
        course.exercise(reference=None)
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    with pytest.raises(ValueError, match="gives the right answer in all 1 cases"):
        course.check(answer, cases=[(torch.ones(1, 2),)], mistakes={"you summed": lambda x: x.sum(0)})
