import pytest
import torch

from fewshot_lib import course
from fewshot_lib.course.exercises import ExerciseFailed


def mean(x):
    return x.mean(0)


CASES = [(torch.arange(6.0).view(3, 2),), (torch.ones(2, 2),)]
MISTAKES = {"you summed; divide by the number of shots": lambda x: x.sum(0), "you took the maximum": lambda x: x.max(0).values}


def raises(x):
    return x.no_such_thing


def unfinished(x):
    total = ...
    return total / len(x)


def not_implemented(x):
    raise NotImplementedError("later")


@pytest.mark.parametrize(
    ("learner", "verdict", "words"),
    [
        (lambda x: x.mean(dim=0), "ok", "2 cases"),
        (lambda x: ..., "todo", "not written yet"),
        (unfinished, "todo", "not written yet"),
        (not_implemented, "todo", "not written yet"),
        (raises, "error", "case 1: AttributeError"),
        (lambda x: x.mean(1), "shape", "you returned a tensor of shape (3,), expected a tensor of shape (2,)"),
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
    def first_row(x):
        return x[0]

    same_rows = torch.ones(3, 2)
    answer = course.exercise(reference=mean)(first_row)
    course.check(answer, cases=[(same_rows,), (torch.eye(2),)], mistakes={"that is only the first": lambda x: x[0]})
    assert "case 2: that is only the first" in capsys.readouterr().out


def test_an_accepted_answer_is_what_is_called():
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


def test_a_broken_answer_after_a_right_one_is_not_used():
    answer = course.exercise(reference=mean)(mean)
    course.check(answer, cases=CASES)
    answer.learner = raises
    course.check(answer, cases=CASES)
    assert not answer.accepted


def test_an_answer_that_changes_its_argument_does_not_spoil_the_cases():
    def in_place(x):
        return x.sub_(x.mean(0)).sum(0)

    x = torch.arange(4.0).view(2, 2)
    answer = course.exercise(reference=lambda x: (x - x.mean(0)).sum(0))(in_place)
    course.check(answer, cases=[(x,), (x,)])
    assert answer.accepted and torch.equal(x, torch.arange(4.0).view(2, 2))


def test_named_arguments_and_nested_answers():
    def both(x, scale):
        return {"mean": x.mean(0) * scale, "n": len(x)}

    answer = course.exercise(reference=both)(lambda x, scale: {"mean": scale * x.sum(0) / len(x), "n": len(x)})
    course.check(answer, cases=[{"x": torch.ones(3, 2), "scale": 2.0}])
    assert answer.accepted


def test_random_answers_are_compared_from_the_same_generator_state():
    def draw(generator):
        return torch.rand(3, generator=generator)

    answer = course.exercise(reference=draw)(lambda generator: torch.rand(3, generator=generator))
    course.check(answer, cases=[(torch.Generator().manual_seed(0),)])
    assert answer.accepted


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
