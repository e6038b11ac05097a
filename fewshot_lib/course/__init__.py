"""What only a notebook needs: profiles, exercises that check themselves, widgets, figures, claims and records.

The names below are the whole vocabulary of a notebook; the runner, the recorder and the lint are for the command line
(``python -m fewshot_lib``) and are imported only there.
"""

from fewshot_lib.course.exercises import check, exercise
from fewshot_lib.course.explorer import explore
from fewshot_lib.course.figures import say, show
from fewshot_lib.course.lesson import PARAMETER_DEFAULTS, PROFILES, ClaimFailed, Lesson, setup
from fewshot_lib.course.machine import check_machine

__all__ = [
    "PARAMETER_DEFAULTS",
    "PROFILES",
    "ClaimFailed",
    "Lesson",
    "check",
    "check_machine",
    "exercise",
    "explore",
    "say",
    "setup",
    "show",
]
