"""Simple methods that any clever one has to beat, on the same pre-trained features.

**Baseline** and **Baseline++** (Chen et al. 2019, arXiv:1904.04232, section 3.2) fine-tune a fresh classifier from a random
start: a linear one, or one of cosines. They showed that these come close to the meta-learners of their time.
**SimpleShot** (Wang et al. 2019, arXiv:1911.04623, section 2) fine-tunes nothing: it moves the origin to where the
training classes are, and takes the nearest mean. What it leaves over is what fine-tuning can add.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.evaluation import Method, method
from fewshot_lib.finetune import FineTuning
from fewshot_lib.prototypes import euclidean_prototypes

_CLOSER_LOOK = {"init": "random", "regulariser": "weight_decay", "weight": 1e-3, "optimizer": "sgd", "lr": 0.01, "steps": 500}


def baseline(**changes: object) -> FineTuning:
    """Baseline's classifier: linear, from a random start, on features as they are; SGD with weight decay 1e-3.

    The paper's 100 epochs in batches of 4 are 200 steps at 5-way 1-shot and 700 at 5-shot; here 500 on full batches.
    ``changes``: other settings of ``FineTuning``, for instance ``steps=200``. To pre-train for it: a linear classifier.
    """
    settings = {"head": "linear", "temperature": 1.0, "normalise": False, "label": "Baseline"}
    return FineTuning(**{**_CLOSER_LOOK, **settings, **changes})


def baseline_plus_plus(**changes: object) -> FineTuning:
    """Baseline++'s classifier: cosines times 2, otherwise like ``baseline``. To pre-train for it: ``CosineClassifier``."""
    return FineTuning(**{**_CLOSER_LOOK, "head": "cosine", "temperature": 0.5, "label": "Baseline++", **changes})


def simple_shot(centre: Tensor) -> Method:
    """SimpleShot (CL2N): x̂ = (f(x) − centre)/‖f(x) − centre‖, then the nearest mean of the x̂ of a class.

    centre: the mean feature (d,) of the *training* classes, for instance ``features[dataset.rows("train")].mean(0)``.
    """

    @method("SimpleShot", transductive=False)
    def run(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
        centred = (F.normalize(features - centre.to(features), dim=-1) for features in (support, query))
        return euclidean_prototypes(*centred, support_mask)

    return run
