"""Chapter 04, learning where to start: MAML, its family, and Reptile.

The inner loop takes a few gradient steps on a task's supports, and the outer loop moves their start so that
the queries are answered well *after* them (Finn et al. 2017, arXiv:1703.03400). ``inner`` is how a learner
adapts, ``outer`` how it is trained, ``norms`` are normalisation layers that a meta-gradient can pass through.
"""

from fewshot_lib.maml import norms
from fewshot_lib.maml.inner import MAML, Classifier, Tasks, prototype_head
from fewshot_lib.maml.outer import (
    episode_tasks,
    meta_loss,
    meta_train,
    plus_plus_loss,
    reptile_loss,
    train_on_episodes,
)
