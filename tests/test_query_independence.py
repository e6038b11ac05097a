"""Every method is held to its word: inductive means that a query's answer does not depend on the other queries."""

import pytest
import torch
from torch import nn

from fewshot_lib import norms
from fewshot_lib.baselines import baseline, baseline_plus_plus, simple_shot
from fewshot_lib.encoders import Conv4, end_to_end, uses_batch_statistics
from fewshot_lib.evaluation import method
from fewshot_lib.finetune import FineTuning
from fewshot_lib.gat_transformer import MIXES, Combined, GATTransformer
from fewshot_lib.labels import label_mix, logistic_regression, zero_shot
from fewshot_lib.maml import MAML, Classifier, prototype_head
from fewshot_lib.meta_training import BestModels
from fewshot_lib.prototypes import cosine_prototypes, euclidean_prototypes
from fewshot_lib.relational import RelationalNetwork
from fewshot_lib.transductive import TIM, TransductiveFineTuning


def maml(norm, **options):
    """A learner of two inner steps on vectors; its name says which."""
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh()), 6, 5)
    return MAML(norms.with_norm(model, norm), inner_steps=2, inner_lr=0.3, name=f"MAML, {norm}, {', '.join(options)}", **options)


def ensemble(norm):
    """The last two states of a learner."""
    best = BestModels(maml(norm), score=lambda: 0.0, k=2)
    best.validate(), best.validate()
    return best.as_method()


def attention(transductive):
    """Relational, projected, and combined, as if trained: at the start, none of them looks at other queries."""
    torch.manual_seed(0)
    for_all = {"transductive": transductive}
    blocks = {mix: GATTransformer(8, 12, 2, **for_all, mix=mix, name=f"GAT-Transformer, {mix}") for mix in MIXES}
    models = [RelationalNetwork(**for_all), *blocks.values(), Combined(RelationalNetwork(**for_all), GATTransformer(8, 12, 2, **for_all))]
    for model in models:
        for parameter in model.eval().parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return models


INDUCTIVE = [
    euclidean_prototypes,
    cosine_prototypes,
    zero_shot,
    label_mix,
    logistic_regression,
    simple_shot(torch.ones(8)),
    baseline(),
    baseline_plus_plus(),
    FineTuning(),
    FineTuning(head="linear"),
    FineTuning(head="euclidean"),
    FineTuning(regulariser="weight_decay"),
    FineTuning(regulariser="support_entropy"),
    maml("running").as_method(),
    maml("running", per_step_norm=True, rates="per_tensor_per_step").as_method(n_steps=4),
    maml("support").as_method(),
    maml("group").as_method(),
    maml("group", start=prototype_head).as_method(),
    maml("running", adapt="head").as_method(),
    ensemble("running"),
    *attention(transductive=False),
]
TRANSDUCTIVE = [
    FineTuning(regulariser="entropy"),
    TIM(lr=0.01, steps=50),
    TransductiveFineTuning(),
    maml("batch").as_method(),
    maml("batch", adapt="head").as_method(),
    ensemble("batch"),
    *attention(transductive=True),
]


def run(few_shot_method, support, query):
    """The logits; a method that uses the names of the classes gets some."""
    if getattr(few_shot_method, "uses_labels", False):
        return few_shot_method(support, query, labels=support.mean(2).roll(1, dims=1))
    return few_shot_method(support, query)


def depends_on_other_queries(few_shot_method, support, query):
    """Whether the first query's logits change when the other queries are replaced or left out (to float precision)."""
    logits = run(few_shot_method, support, query)[:, :1]
    others = torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1)
    return not (
        torch.allclose(run(few_shot_method, support, others)[:, :1], logits, atol=1e-5)
        and torch.allclose(run(few_shot_method, support, query[:, :1]), logits, atol=1e-5)
    )


def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 3, 8, generator=generator), torch.randn(2, 10, 8, generator=generator)


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 2, 1, 28, 28, generator=generator), torch.rand(2, 6, 1, 28, 28, generator=generator)


@method("centred prototypes", transductive=True)
def centred(support, query):
    """A known transductive method: features are centred with the mean over the queries."""
    centre = query.mean(1, keepdim=True)
    return cosine_prototypes(support - centre.unsqueeze(1), query - centre)


@pytest.mark.parametrize("few_shot_method", [*INDUCTIVE, *TRANSDUCTIVE, centred], ids=lambda m: m.name)
def test_methods_are_what_they_declare(few_shot_method):
    assert few_shot_method.transductive == (few_shot_method not in INDUCTIVE)
    assert depends_on_other_queries(few_shot_method, *vectors()) == few_shot_method.transductive


@pytest.mark.parametrize("training", [True, False], ids=["batch statistics", "running statistics"])
def test_batch_norm_in_training_mode_is_transductive(training):
    torch.manual_seed(0)
    encoder = Conv4(width=8).train(training)
    assert uses_batch_statistics(encoder) == training
    with torch.no_grad():
        end_to_end_method = end_to_end(encoder, euclidean_prototypes)
        assert end_to_end_method.transductive == training
        assert depends_on_other_queries(end_to_end_method, *images()) == training


@pytest.mark.parametrize("norm", norms.NORMS)
def test_the_norm_of_maml_is_a_choice_between_them(norm):
    torch.manual_seed(0)
    model = norms.with_norm(Classifier(Conv4(width=8), 8, 3), norm)
    few_shot_method = MAML(model, inner_steps=2, inner_lr=0.3).as_method()
    assert few_shot_method.transductive == (norm == "batch")
    assert depends_on_other_queries(few_shot_method, *images()) == few_shot_method.transductive


@pytest.mark.parametrize("few_shot_method", [*INDUCTIVE, *TRANSDUCTIVE], ids=lambda m: m.name)
def test_calling_twice_gives_the_same_logits(few_shot_method):
    support, query = vectors()
    assert torch.equal(run(few_shot_method, support, query), run(few_shot_method, support, query))
