"""What a notebook calls: profiles, exercises that check themselves, widgets, figures, claims and records.

The names below are a notebook's whole vocabulary. ``running`` (the runner) and ``authoring`` (the recorder,
the lint) stand above them, and the command line (``python -m fewshot_lib``) above all.
"""

from fewshot_lib.course.course_map import show_map
from fewshot_lib.course.exercises import check, exercise
from fewshot_lib.course.explorer import explore
from fewshot_lib.course.figures import say, show
from fewshot_lib.course.lesson import PARAMETER_DEFAULTS, PROFILES, ClaimFailed, Lesson, setup
from fewshot_lib.course.machine import check_machine
