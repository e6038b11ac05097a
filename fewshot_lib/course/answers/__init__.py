"""What exercises are checked against, a module per chapter: right answers, and mistakes that have a name.

They stand here and not in the notebooks, so that a reader does not meet the answer before the question.
``MISTAKES[exercise]`` maps what to tell the learner to the wrong function that would give the same values.
The students' edition (``fewshot students``) has them sealed.
"""

from pathlib import Path
from types import ModuleType

from fewshot_lib.course.classroom import sealing


def __getattr__(name: str) -> ModuleType:
    """A chapter of the students' edition; in the course itself every chapter is a file, and this an error."""
    file = Path(__file__).with_name(name + sealing.SUFFIX)
    if name.startswith("_") or not file.is_file():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = module = sealing.opened(file, f"{__name__}.{name}")
    return module
