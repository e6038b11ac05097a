"""What the first cells of a notebook set up: a profile, checked parameters, a device, tested claims.

A *profile* says how large everything is (``smoke`` for tests, ``laptop`` for reading, ``gpu`` for real data).
It never changes what is computed or what is claimed. :func:`setup` returns a :class:`Lesson`, which holds all
of it: there is no global state.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from fewshot_lib import data
from fewshot_lib.core import keep_memory, one_of, pick_device, seed_everything
from fewshot_lib.course import needs, records
from fewshot_lib.course.figures import say
from fewshot_lib.data import ClassDataset

PROFILES = ("smoke", "laptop", "gpu")  # from small to large

# The parameters cell of every notebook holds exactly these (and perhaps some of its own).
PARAMETER_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"profile": None, "seed": 0, "dataset": None, "n_way": 5, "n_shot": 1, "n_query": 15, "n_episodes": None}
)
EPISODES: Mapping[str, int] = MappingProxyType({"smoke": 100, "laptop": 1000, "gpu": 1000})
SMALLEST = {
    "seed": (0, "seeds are counted from 0"),
    "n_way": (2, "with one class there is nothing to tell apart"),
    "n_shot": (1, "every class needs at least one example to learn from"),
    "n_query": (1, "every class needs at least one example to be judged on"),
    "n_episodes": (2, "an interval needs at least two episodes"),
}
LARGEST_SEED = 2**32 - 1  # that every generator takes
INDEX_BYTES, GIB = 8, 2**30  # of one example in an episode; the most that all episodes may take


class ClaimFailed(AssertionError):
    """A statement of the course does not hold in a run in which it should."""


def resolve_profile(profile: str | None = None) -> str:
    """The profile: the argument, else ``FEWSHOT_PROFILE``, else "laptop"."""
    if profile is not None:
        one_of("profile", profile, PROFILES)
        return profile
    from_outside = os.environ.get("FEWSHOT_PROFILE") or "laptop"
    one_of("FEWSHOT_PROFILE", from_outside, PROFILES)
    return from_outside


def check_parameters(**parameters: Any) -> None:
    """Refuses impossible values of the parameters that all notebooks have; other names are left alone."""
    resolve_profile(parameters.get("profile"))
    for name in SMALLEST.keys() & parameters.keys():
        value, (smallest, why) = parameters[name], SMALLEST[name]
        if value is PARAMETER_DEFAULTS[name]:
            continue
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"`{name}` is {value!r}: give a whole number, {smallest} or more.")
        if value < smallest:
            raise ValueError(f"`{name}` is {value}: {why}. Give {smallest} or more.")
        if name == "seed" and value > LARGEST_SEED:
            raise ValueError(f"`seed` is {value}: give a number below 2**32, which every generator takes.")
    _check_memory({**PARAMETER_DEFAULTS, **parameters})
    if (dataset := parameters.get("dataset")) is not None:
        if not isinstance(dataset, str | Mapping) or not dataset:
            what = "a name such as 'glyphs', a path, {'source': path, 'label': 'Topic', …}, or None"
            raise ValueError(f"`dataset` is {dataset!r}: give {what} for the notebook's own.")
        data.describe_parameter(dataset)


def _check_memory(parameters: Mapping[str, Any]) -> None:
    """Refuses more episodes than a laptop can hold as indices: E x N (K + M) of them."""
    n_episodes = parameters["n_episodes"]
    one = INDEX_BYTES * parameters["n_way"] * (parameters["n_shot"] + parameters["n_query"])
    if n_episodes is not None and n_episodes * one > GIB:
        size = f"drawing them takes {n_episodes * one / GIB:,.0f} GiB of memory"
        most = max(SMALLEST["n_episodes"][0], GIB // one)
        raise ValueError(f"`n_episodes` is {n_episodes}: {size}. Give at most {most:,} of this size.")


@dataclass(frozen=True)
class Lesson:
    """The checked set-up of one notebook run. Made by :func:`setup`.

    is_default: no parameter but the profile differs from the course's own, so that every claim must hold.
    dataset: a name, a path, or a mapping with options, as ``data.load`` takes them.
    rows: what :meth:`record` recorded so far, by method, data set and setting.
    """

    notebook: str
    profile: str
    seed: int
    dataset: str | Mapping[str, Any]
    n_way: int
    n_shot: int
    n_query: int
    n_episodes: int
    device: torch.device
    is_default: bool
    rows: dict[tuple, dict[str, Any]] = field(default_factory=dict, repr=False)

    def load(self) -> ClassDataset:
        """The data set of this lesson; ValueError where it cannot give the episodes that are asked for."""
        dataset = data.load(self.dataset)
        if problems := needs.problems(self.notebook, dataset, self.n_way, self.n_shot, self.n_query):
            raise ValueError("\n".join(problems))
        return dataset

    def pick(self, *, smoke: Any, laptop: Any, gpu: Any) -> Any:
        """The value for the profile of this run: ``lesson.pick(smoke=10, laptop=300, gpu=3000)``."""
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[self.profile]

    def claim(self, text: str, condition: Any, needs: str = "laptop") -> None:
        """States something about the results of this run and tests it.

        condition: a bool, or an array or tensor with one element. In profiles smaller than ``needs`` the
        claim is not judged. With parameters or data of your own a false claim is only printed; with the
        course's own parameters it raises ClaimFailed, since then the text of the notebook would be wrong.
        """
        one_of("needs", needs, PROFILES)
        if PROFILES.index(self.profile) < PROFILES.index(needs):
            print(f"– not judged in the {self.profile} profile: {text}")
        elif _truth(condition):
            print(f"✓ {text}")
        elif self.is_default:
            run = f"in the {self.profile} profile with the default parameters"
            raise ClaimFailed(f"This should hold {run}, and does not: {text}")
        else:
            print(f"✗ does not hold in this run: {text}")

    def record(self, method: str, results: Any, *, dataset: Any, note: str = "") -> None:
        """Adds a row, as in ``make_row``, to the table of the footer, which ``fewshot run`` collects, too."""
        run = {"notebook": self.notebook, "profile": self.profile}
        row = records.make_row(method, results, dataset=dataset, note=note, **run)
        self.rows[tuple(row[name] for name in records.IDENTITY)] = row
        records.store_row(row)

    def footer(self) -> None:
        """Closes the notebook: how it was run, and, folded, the table of what it recorded."""
        parameters = "the default parameters" if self.is_default else "your own parameters"
        how = f"profile {self.profile}, seed {self.seed}, {parameters}, {_versions()}"
        lines = [f"**{self.notebook}**: {how}."]
        if self.rows:
            n = "The result" if len(self.rows) == 1 else f"All {len(self.rows)} results"
            table = records.markdown_table(list(self.rows.values()), records.SHORT_COLUMNS)
            lines += ["", f"<details><summary>{n} of this notebook</summary>", "", table, "", "</details>"]
        say("\n".join(lines))


def setup(
    notebook: str,
    *,
    default_dataset: str | Mapping[str, str] = "glyphs",
    episodes: Mapping[str, int] = EPISODES,
    **parameters: Any,
) -> Lesson:
    """Checks the parameters, seeds every random generator, picks a device, and prints what this run will be.

    From here on the kernel keeps the memory that it frees (``core.keep_memory``).
    parameters: those of PARAMETER_DEFAULTS; a ValueError comes before anything else is done.
    default_dataset, episodes: what dataset and n_episodes of None mean, per profile or always.
    """
    for name in parameters:
        one_of("parameters", name, tuple(PARAMETER_DEFAULTS))
    check_parameters(**parameters)
    profile = resolve_profile(parameters.pop("profile", None))
    defaults = {name: value for name, value in PARAMETER_DEFAULTS.items() if name != "profile"}
    defaults["dataset"] = _per_profile("default_dataset", default_dataset, profile)
    defaults["n_episodes"] = _per_profile("episodes", episodes, profile)
    values = defaults | {name: value for name, value in parameters.items() if value is not None}
    lesson = Lesson(notebook, profile, **values, device=pick_device(), is_default=values == defaults)
    seed_everything(lesson.seed)
    keep_memory()
    print(f"profile {profile} · device {lesson.device} · seed {lesson.seed} · {_versions()}")
    setting = f"{lesson.n_way}-way {lesson.n_shot}-shot, {lesson.n_query} queries per class"
    print(f"data set {_described(lesson.dataset)} · {setting}, {lesson.n_episodes:,} episodes")
    if not lesson.is_default:
        print("These are not the default parameters: claims are printed, not enforced.")
    if profile == "gpu" and lesson.device.type == "cpu":
        print("The gpu profile is meant for a GPU, and none was found: expect hours, or set it to 'laptop'.")
    return lesson


def _described(dataset: str | Mapping[str, Any]) -> str:
    """The source, and the options in brackets: "my.csv (label='Topic')"."""
    if isinstance(dataset, str):
        return dataset
    options = ", ".join(f"{name}={value!r}" for name, value in dataset.items() if name != "source")
    return f"{dataset['source']} ({options})" if options else str(dataset["source"])


def _per_profile(argument: str, value: Any, profile: str) -> Any:
    """The value for this profile of one value for all, or of a mapping; what serves laptop serves smoke."""
    if not isinstance(value, Mapping):
        return value
    for name in (profile, "laptop") if profile == "smoke" else (profile,):
        if name in value:
            return value[name]
    what = f"it says nothing for the {profile} profile. Add {profile!r} to it."
    raise ValueError(f"`{argument}` is {dict(value)!r}: {what}")


def _truth(condition: Any) -> bool:
    """A bool from a bool, a numpy bool or a one-element tensor, and from nothing else."""
    value = condition.item() if hasattr(condition, "item") else condition
    if not isinstance(value, bool):
        kind = type(value).__name__
        raise TypeError(f"`condition` is {value!r}, a {kind}: give a comparison, which is True or False.")
    return value


def _versions() -> str:
    python = ".".join(platform.python_version_tuple()[:2])
    return f"torch {torch.__version__.split('+')[0]}, Python {python}"
