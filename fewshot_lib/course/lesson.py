"""What the first cells of a notebook set up: a profile, checked parameters, a device, and claims that are tested.

A *profile* says how large everything is (``smoke`` for tests, ``laptop`` for reading, ``gpu`` for real data). It never
changes what is computed or what is claimed. :func:`setup` returns a :class:`Lesson`, which holds all of it: there is no
global state.
"""

from __future__ import annotations

import operator
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from fewshot_lib import data
from fewshot_lib.course import records
from fewshot_lib.course.figures import say
from fewshot_lib.training import pick_device, seed_everything

PROFILES = ("smoke", "laptop", "gpu")  # from small to large

# The parameters cell of every notebook holds exactly these (and perhaps some of its own).
PARAMETER_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"profile": None, "seed": 0, "dataset": None, "n_way": 5, "n_shot": 1, "n_query": 15, "n_episodes": None}
)
EPISODES: Mapping[str, int] = MappingProxyType({"smoke": 100, "laptop": 1000, "gpu": 1000})
SMALLEST = {"seed": 0, "n_way": 2, "n_shot": 1, "n_query": 1, "n_episodes": 2}
WHY_SMALLEST = {
    "seed": "seeds are counted from 0",
    "n_way": "with one class there is nothing to tell apart",
    "n_shot": "every class needs at least one example to learn from",
    "n_query": "every class needs at least one example to be judged on",
    "n_episodes": "an interval needs at least two episodes",
}


class ClaimFailed(AssertionError):
    """A statement of the course does not hold in a run in which it should."""


def resolve_profile(profile: str | None = None) -> str:
    """The profile: the argument, else ``FEWSHOT_PROFILE``, else "laptop". Raises ValueError for an unknown one."""
    source, value = "profile", profile
    if value is None and os.environ.get("FEWSHOT_PROFILE"):
        source, value = "FEWSHOT_PROFILE", os.environ["FEWSHOT_PROFILE"]
    if value is None:
        return "laptop"
    if value not in PROFILES:
        raise ValueError(f"`{source}` is {value!r}: choose one of {', '.join(map(repr, PROFILES))}.")
    return value


def check_parameters(**parameters: Any) -> None:
    """Refuses impossible values of the course-wide parameters, by name; other names are left alone.

    Raises ValueError that names the parameter, the value found and the fix.
    """
    if "profile" in parameters:
        resolve_profile(parameters["profile"])
    for name in SMALLEST.keys() & parameters.keys():
        value = parameters[name]
        if value is not PARAMETER_DEFAULTS[name]:
            _check_integer(name, value)
    dataset = parameters.get("dataset")
    if dataset is not None and not (isinstance(dataset, str) and dataset):
        raise ValueError(f"`dataset` is {dataset!r}: give the name of a data set, for example 'glyphs', or None for the notebook's own.")
    if dataset is not None:
        data.check_name(dataset)


def _check_integer(name: str, value: Any) -> None:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"`{name}` is {value!r}: give a whole number, {SMALLEST[name]} or more.")
    if number < SMALLEST[name]:
        raise ValueError(f"`{name}` is {number}: {WHY_SMALLEST[name]}. Give {SMALLEST[name]} or more.")
    if name == "seed" and number >= 2**32:
        raise ValueError(f"`seed` is {number}: give a number below 2**32, which is what every random generator takes.")


@dataclass(frozen=True)
class Lesson:
    """The checked set-up of one notebook run. Made by :func:`setup`.

    is_default: no parameter differs from the course's own, so that every claim must hold. The profile does not count.
    extra: parameters that only this notebook has.
    rows: what :meth:`record` recorded so far, by method, data set and setting.
    """

    notebook: str
    profile: str
    seed: int
    dataset: str
    n_way: int
    n_shot: int
    n_query: int
    n_episodes: int
    device: torch.device
    is_default: bool
    extra: Mapping[str, Any]
    rows: dict[tuple, dict[str, Any]] = field(default_factory=dict, repr=False)

    def pick(self, *, smoke: Any, laptop: Any, gpu: Any) -> Any:
        """The value for the profile of this run: ``lesson.pick(smoke=10, laptop=300, gpu=3000)``."""
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[self.profile]

    def claim(self, text: str, condition: Any, needs: str = "laptop") -> None:
        """States something about the results of this run and tests it.

        condition: a bool, or an array or tensor with one element. In profiles smaller than ``needs`` the claim is not
        judged. With parameters or data of your own a false claim is only printed; with the course's own parameters it
        raises ClaimFailed, since then the text of the notebook would be wrong.
        """
        if needs not in PROFILES:
            raise ValueError(f"`needs` is {needs!r}: choose one of {', '.join(map(repr, PROFILES))}.")
        if PROFILES.index(self.profile) < PROFILES.index(needs):
            print(f"– not judged in the {self.profile} profile: {text}")
        elif _truth(condition):
            print(f"✓ {text}")
        elif self.is_default:
            raise ClaimFailed(f"This should hold in the {self.profile} profile with the default parameters, and does not: {text}")
        else:
            print(f"✗ does not hold in this run: {text}")

    def record(self, method: str, results: Any, *, dataset: Any, note: str = "") -> None:
        """Adds a row to the table of results that ``fewshot run`` and ``fewshot results`` collect.

        results: evaluation.EpisodeResults or PairedDifference. dataset: the ClassDataset that they were measured on.
        Raises TypeError where one of them lacks what every reported number must carry.
        """
        row = records.make_row(method, results, dataset=dataset, note=note, notebook=self.notebook, profile=self.profile)
        self.rows[tuple(row[name] for name in records.IDENTITY)] = row
        records.show_row(row)

    def footer(self) -> None:
        """Closes the notebook: how it was run, and the table of what it recorded."""
        parameters = "the default parameters" if self.is_default else "your own parameters"
        lines = [f"**{self.notebook}**: profile {self.profile}, seed {self.seed}, {parameters}, {_versions()}."]
        if self.rows:
            lines += ["", records.markdown_table(list(self.rows.values()), records.SHORT_COLUMNS)]
        say("\n".join(lines))


def setup(
    notebook: str,
    *,
    profile: str | None = None,
    seed: int = 0,
    dataset: str | None = None,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 15,
    n_episodes: int | None = None,
    default_dataset: str | Mapping[str, str] = "glyphs",
    episodes: Mapping[str, int] = EPISODES,
    extra_defaults: Mapping[str, Any] | None = None,
    **extra: Any,
) -> Lesson:
    """Checks the parameters, seeds every random generator, picks a device, and prints what this run will be.

    dataset, n_episodes: None takes ``default_dataset`` (one name, or a name per profile) and ``episodes[profile]``.
    extra: parameters that only this notebook has; ``extra_defaults`` gives the values that its claims are made for.

    Raises ValueError, before anything else is done, for a value that cannot work.
    """
    given = dict(seed=seed, dataset=dataset, n_way=n_way, n_shot=n_shot, n_query=n_query, n_episodes=n_episodes)
    check_parameters(profile=profile, **given)
    profile = resolve_profile(profile)
    defaults = dict(PARAMETER_DEFAULTS, dataset=_per_profile("default_dataset", default_dataset, profile))
    defaults["n_episodes"] = _per_profile("episodes", episodes, profile)
    resolved = {name: defaults[name] if value is None else value for name, value in given.items()}
    expected = _expected_extra(extra, extra_defaults or {})
    lesson = Lesson(
        notebook=notebook,
        profile=profile,
        device=pick_device(),
        is_default=all(resolved[name] == defaults[name] for name in given) and all(extra[k] == v for k, v in expected.items()),
        extra=MappingProxyType(extra),
        **resolved,
    )
    seed_everything(seed)
    _print_header(lesson)
    return lesson


def _per_profile(argument: str, value: Any, profile: str) -> Any:
    """The value for this profile of one value for all, or of a mapping; what serves laptop serves smoke."""
    if not isinstance(value, Mapping):
        return value
    for name in (profile, "laptop") if profile == "smoke" else (profile,):
        if name in value:
            return value[name]
    raise ValueError(f"`{argument}` is {dict(value)!r}: it says nothing for the {profile} profile. Add {profile!r} to it.")


def _expected_extra(extra: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(defaults.keys() - extra.keys())
    if unknown:
        raise ValueError(f"`extra_defaults` names {unknown[0]!r}, which was not passed to setup: pass {unknown[0]}={unknown[0]}.")
    return defaults


def _truth(condition: Any) -> bool:
    """A bool from a bool, a numpy bool or a one-element tensor, and from nothing else."""
    value = condition.item() if hasattr(condition, "item") else condition
    if not isinstance(value, bool):
        raise TypeError(f"`condition` is {value!r}, a {type(value).__name__}: give a comparison, which is True or False.")
    return value


def _versions() -> str:
    python = ".".join(platform.python_version_tuple()[:2])
    return f"torch {torch.__version__.split('+')[0]}, Python {python}"


def _print_header(lesson: Lesson) -> None:
    print(f"profile {lesson.profile} · device {lesson.device} · seed {lesson.seed} · {_versions()}")
    setting = f"{lesson.n_way}-way {lesson.n_shot}-shot, {lesson.n_query} queries per class"
    print(f"data set {lesson.dataset} · {setting}, {lesson.n_episodes:,} episodes")
    for name, value in lesson.extra.items():
        print(f"{name} = {value!r}")
    if not lesson.is_default:
        print("These are not the default parameters: claims are printed, not enforced.")
    if lesson.profile == "gpu" and lesson.device.type == "cpu":
        print("The gpu profile is meant for a GPU and none was found: expect hours, or set profile = 'laptop'.")
