"""Prototype classifiers (02): a class is the mean of its few examples, by cosine or by distance (``means``).

Beside them the baselines that every result must be compared with (``baselines``): names alone, names +
prototypes, SimpleShot, logistic regression. And the strongest of them, logistic regression in which a name is
one more example (``names_as_examples``), counting as much as the examples say (``weighed_names``); and,
transductive, prototypes that the queries move (``with_queries``).
"""

from fewshot_lib.prototypes.baselines import (
    NAME_TEMPLATE,
    centred,
    logistic_regression,
    name_features,
    name_mix,
    simple_shot,
    zero_shot,
)
from fewshot_lib.prototypes.means import (
    class_means,
    cosine_logits,
    cosine_prototypes,
    euclidean_prototypes,
    prototypical_loss,
    squared_euclidean_logits,
    train_prototypical,
)
from fewshot_lib.prototypes.name_examples import NamesAsExamples, SoftmaxHead, fit_softmax, names_as_examples
from fewshot_lib.prototypes.name_weight import found_weight, usual_weight, weighed_names
from fewshot_lib.prototypes.with_queries import SoftKMeans
