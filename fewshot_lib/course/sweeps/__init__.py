"""Sweeps: notebooks at every point of a grid of parameters, on one machine or on many.

    plan(notebooks, {"n_shot": [1, 5], "seed": range(5)}, out) -> points; all is checked, nothing has started
    run(points, executor)                                      -> a folder per point, whole or not there
    results.join([out])                                        -> one table, with intervals over the seeds

The state is files (``points``), so whatever runs the points may die at any moment: the same sweep started
again runs what has no folder yet, and two sweeps in one directory share what they have in common. The
engine is any ``concurrent.futures.Executor``; ``engines`` makes three of them.
"""

from fewshot_lib.course.sweeps.engines import LocalKernels
from fewshot_lib.course.sweeps.planning import plan
from fewshot_lib.course.sweeps.points import Point
from fewshot_lib.course.sweeps.sweep import run
