import random

import numpy as np
import pytest
import torch

from fewshot_lib import course
from fewshot_lib.course import lesson
from fewshot_lib.course.lesson import EPISODES, check_parameters, resolve_profile

OUT_OF_RANGE = [("n_way", 1), ("n_shot", 0), ("n_query", 0), ("n_episodes", 1), ("seed", -1), ("seed", 2**32)]
OF_ANOTHER_KIND = [("n_way", 5.0), ("n_shot", "1"), ("n_query", None), ("n_way", True), ("dataset", 3)]
CHANGES = [
    ("seed", 1),
    ("n_way", 6),
    ("n_shot", 2),
    ("n_query", 14),
    ("n_episodes", 50),
    ("dataset", "reuters"),
]


def test_profile_is_the_argument_then_the_environment_then_laptop(monkeypatch):
    assert resolve_profile() == "laptop"
    monkeypatch.setenv("FEWSHOT_PROFILE", "smoke")
    assert resolve_profile() == "smoke"
    assert resolve_profile("gpu") == "gpu"


def test_an_unknown_profile_names_its_source_and_the_choices_before_anything_else(monkeypatch):
    with pytest.raises(ValueError, match=r"`profile` is 'lap'.*'smoke', 'laptop', 'gpu'"):
        course.setup("x", profile="lap", n_way=1)
    monkeypatch.setenv("FEWSHOT_PROFILE", "fast")
    with pytest.raises(ValueError, match="`FEWSHOT_PROFILE` is 'fast'"):
        course.setup("x")


@pytest.mark.parametrize(("name", "value"), [*OUT_OF_RANGE, *OF_ANOTHER_KIND, ("dataset", "")])
def test_impossible_values_are_refused_by_name_and_nothing_is_done(name, value, capsys):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=rf"`{name}` is {value!r}.*[Gg]ive"):
        course.setup("x", **{name: value})
    assert capsys.readouterr().out == "" and torch.equal(before, torch.get_rng_state())


def test_a_name_that_is_no_parameter_is_refused_by_setup_only():
    check_parameters(width="anything", n_way=2)  # a notebook may have parameters of its own
    with pytest.raises(ValueError, match="`parameters` is 'n_ways': use one of 'profile'"):
        course.setup("x", n_ways=3)


def test_setup_seeds_every_generator():
    def draw(seed):
        course.setup("x", seed=seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    first, other, again = draw(5), draw(6), draw(5)
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))


def test_setup_lets_the_kernel_keep_its_memory_but_not_where_it_refuses(monkeypatch):
    asked = []
    monkeypatch.setattr(lesson, "keep_memory", lambda: asked.append("kept"))
    with pytest.raises(ValueError, match="`n_way`"):
        course.setup("x", n_way=1)
    assert asked == []
    course.setup("x", profile="smoke")
    assert asked == ["kept"]


@pytest.mark.parametrize("profile", course.PROFILES)
def test_open_parameters_are_filled_by_the_profile(profile):
    lesson = course.setup("x", profile=profile, default_dataset={"laptop": "glyphs", "gpu": "omniglot"})
    assert lesson.dataset == ("omniglot" if profile == "gpu" else "glyphs")
    assert lesson.n_episodes == EPISODES[profile]
    assert lesson.pick(smoke="smoke", laptop="laptop", gpu="gpu") == profile
    assert lesson.is_default


def test_a_profile_that_nothing_was_said_about_is_an_error():
    with pytest.raises(ValueError, match=r"`episodes`.*smoke"):
        course.setup("x", profile="gpu", episodes={"smoke": 10})


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_any_changed_parameter_is_not_the_default(name, value):
    assert not course.setup("x", **{name: value}).is_default


def test_the_default_written_out_is_the_default_and_a_lesson_cannot_be_changed():
    lesson = course.setup("x", dataset="glyphs", n_episodes=EPISODES["laptop"])
    assert lesson.is_default
    with pytest.raises(AttributeError):
        lesson.n_way = 3


@pytest.mark.parametrize("true", [True, np.bool_(True), torch.tensor(True), torch.tensor([True])])
def test_claims_that_hold(true, capsys):
    course.setup("x").claim("1 < 2", true)
    assert "✓ 1 < 2" in capsys.readouterr().out


def test_a_false_claim_is_an_error_only_with_the_default_parameters(capsys):
    with pytest.raises(course.ClaimFailed, match="2 < 1"):
        course.setup("x").claim("2 < 1", np.float64(2) < 1)
    course.setup("x", n_way=7).claim("2 < 1", False)
    assert "✗ does not hold in this run: 2 < 1" in capsys.readouterr().out


@pytest.mark.parametrize("profile", course.PROFILES)
@pytest.mark.parametrize("needs", course.PROFILES)
def test_a_claim_is_judged_from_the_profile_it_needs(profile, needs, capsys):
    lesson = course.setup("x", profile=profile)
    if course.PROFILES.index(profile) < course.PROFILES.index(needs):
        lesson.claim("no", False, needs=needs)
        assert f"not judged in the {profile} profile: no" in capsys.readouterr().out
    else:
        with pytest.raises(course.ClaimFailed):
            lesson.claim("no", False, needs=needs)


@pytest.mark.parametrize("condition", [0.7, "yes", None, 1])
def test_a_claim_needs_a_comparison(condition):
    with pytest.raises(TypeError, match="give a comparison"):
        course.setup("x").claim("something", condition)


def test_unknown_needs_is_refused_in_every_profile():
    with pytest.raises(ValueError, match="`needs` is 'cpu'"):
        course.setup("x", profile="smoke").claim("something", True, needs="cpu")


def test_the_header_says_what_is_run_and_nothing_of_the_machine(capsys):
    course.setup("x", n_way=7)
    out = capsys.readouterr().out
    for part in ("laptop", "7-way 1-shot", "glyphs", "1,000 episodes", "not the default"):
        assert part in out
    assert "/" not in out and "+cpu" not in out


def test_the_footer_holds_every_recorded_row_once(displayed, results, glyphs):
    lesson = course.setup("x")
    for method in ("A", "B", "A"):
        lesson.record(method, results(), dataset=glyphs)
    lesson.footer()
    footer = displayed[-1][0]["text/markdown"]
    assert footer.count("| A |") == footer.count("| B |") == 1
    assert "<details><summary>All 2 results of this notebook</summary>\n\n| method" in footer
