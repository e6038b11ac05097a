"""Chapter 08: one model for many tasks.

Every step deals episodes of all tasks and goes along d = Σ_t w_t ∇L_t. A plain sum, uncertainty weighting,
PCGrad, MGDA and others (``balancing``) differ in the weights w; whether any of them, or joint training at
all, helps a task is measured. Augmentations keep a model from learning the training classes by heart.
"""

from fewshot_lib.multitask.augmentation import ClassMixup, NameDropout, RandomRotation
from fewshot_lib.multitask.balancing import BALANCERS, balancer, pcgrad_weights, task_gradients
from fewshot_lib.multitask.encoder import scale_adapters, tune_encoder, validation_accuracy
from fewshot_lib.multitask.tasks import JointEpisodes, Task, TaskSampler, joined, sampling_probabilities
from fewshot_lib.multitask.training import evaluate_tasks, task_episodes, train_jointly
