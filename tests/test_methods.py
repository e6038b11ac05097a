"""What every method promises, whatever it does: one list of methods, and the contracts that all of them keep.

A new method joins by one line in METHODS.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_lib.core import few_shot_method
from fewshot_lib.encoders import Conv4
from fewshot_lib.finetuning import TIM, EncoderFineTuning, FineTuning, TransductiveFineTuning
from fewshot_lib.graphs import Blocks, Combined, GATTransformer, InContext, RelationalNetwork, load_relational
from fewshot_lib.maml import MAML, Classifier, norms, prototype_head
from fewshot_lib.prompts import (
    LabelEmbedding,
    Mixture,
    PromptModel,
    PromptTuning,
    RepVerb,
    Template,
    Words,
    class_words,
    initial_prompt,
)
from fewshot_lib.prototypes import (
    NamesAsExamples,
    SoftKMeans,
    cosine_prototypes,
    euclidean_prototypes,
    logistic_regression,
    name_mix,
    names_as_examples,
    simple_shot,
    weighed_names,
    zero_shot,
)

E, N, K, M, D = 3, 4, 3, 6, 8


@dataclass(frozen=True)
class Case:
    """How a method is made, what it is fed, and what it promises.

    fed: "vectors", "images" or "ids" (then ``make`` gets a tiny language model).
    masks: whether it takes episodes whose numbers of shots and of queries differ.
    permutes: whether no way is special; a start drawn for each way makes one.
    looks_at_support: whether its answers depend on the examples.
    """

    make: Callable
    transductive: bool = False
    fed: str = "vectors"
    masks: bool = True
    permutes: bool = True
    looks_at_support: bool = True
    atol: float = 1e-6


def tuned(**settings) -> Case:
    transductive = settings.get("regulariser") == "entropy"
    fine_tuning = FineTuning(steps=6, lr=0.05, **settings)
    return Case(lambda: fine_tuning, transductive, permutes=fine_tuning.init != "random")


def encoder_tuned(head) -> Case:
    """With what could leak: batch norm with statistics of its own, and dropout, in training mode."""

    def make():
        torch.manual_seed(0)
        layers = nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 5)
        layers[1].running_mean.copy_(torch.linspace(-1, 1, 8))
        return EncoderFineTuning(nn.Sequential(*layers).double().train(), head, lr=0.01)

    return Case(make, head.transductive, permutes=head.init != "random")


def maml(norm, n_steps=2, fed="vectors", **options) -> Case:
    def make():
        torch.manual_seed(0)
        vectors = Classifier(nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Tanh()), 6, N)
        model = vectors if fed == "vectors" else Classifier(Conv4(width=4), 4, N)
        learner = MAML(norms.with_norm(model.double(), norm), inner_steps=2, inner_lr=0.3, **options)
        return learner.as_method(n_steps)

    return Case(make, norm == "batch", fed, masks=False, permutes="start" in options)


def trained(make_model, transductive) -> Case:
    """A network on graphs, as if trained: at the start, none of them looks at other queries."""

    def make():
        torch.manual_seed(0)
        model = make_model(transductive).double().eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        return model

    return Case(make, transductive)


def gat_transformer(transductive, **blocks):
    return GATTransformer(D, Blocks(hidden=12, heads=2, **blocks), transductive=transductive)


def combined(transductive):
    return Combined(RelationalNetwork(transductive=transductive), gat_transformer(transductive))


TEMPLATE = Template("[SOFT] {text} . [the] topic is [MASK] .")


def prompt(verbalizer, transductive=False, **options) -> Case:
    def make(lm):
        start = initial_prompt(lm, TEMPLATE, "noise", generator=torch.Generator().manual_seed(1))
        return PromptTuning(PromptModel(lm, start, verbalizer), **{"steps": 2, "lr": 0.05} | options)

    return Case(make, transductive, "ids")


GRAPHS = {
    "relational": lambda transductive: RelationalNetwork(transductive=transductive),
    "relational on a head": lambda transductive: RelationalNetwork(
        head=names_as_examples, transductive=transductive
    ),
    "GAT-Transformer": gat_transformer,
    "graph attention alone": lambda transductive: gat_transformer(transductive, transformer=False),
    "Transformer alone": lambda transductive: gat_transformer(transductive, graph=False),
    "combined": combined,
    "in-context": lambda transductive: InContext(
        D, Blocks(hidden=12, heads=2, graph=False), transductive=transductive
    ),
}
REGULARISERS = (None, "weight_decay", "entropy", "support_entropy")

METHODS = {
    "Euclidean prototypes": Case(lambda: euclidean_prototypes),
    "cosine prototypes": Case(lambda: cosine_prototypes),
    "zero-shot": Case(lambda: zero_shot, looks_at_support=False),
    "names + prototypes": Case(lambda: name_mix),
    "SimpleShot": Case(lambda: simple_shot(torch.ones(D))),
    "logistic regression": Case(lambda: logistic_regression, atol=1e-3),  # scikit-learn's own tolerance
    "names as examples": Case(lambda: names_as_examples),
    "names as examples, weighed": Case(lambda: weighed_names),
    "soft k-means": Case(SoftKMeans, transductive=True),
    "soft k-means, classes of any share": Case(lambda: SoftKMeans(balanced=False), transductive=True),
    "logistic regression, batched": Case(lambda: NamesAsExamples(uses_names=False)),
    **{
        f"{h} head, {r}": tuned(head=h, regulariser=r)
        for h in ("cosine", "linear", "euclidean")
        for r in REGULARISERS
    },
    "cosine head from means": tuned(init="means"),
    "cosine head from a random start": tuned(init="random", regulariser="weight_decay"),
    "linear head, random, entropy": tuned(head="linear", init="random", regulariser="entropy"),
    "head without bias, SGD": tuned(optimizer="sgd", normalise=False, bias=False),
    "transductive fine-tuning": Case(lambda: TransductiveFineTuning(steps=6, lr=0.05), transductive=True),
    "TIM": Case(lambda: TIM(steps=6, lr=0.05), transductive=True),
    "TIM of easyfsl": Case(lambda: TIM(head="cosine", normalise=False, steps=6, lr=0.05), transductive=True),
    "encoder + cosine head": encoder_tuned(FineTuning(steps=5)),
    "encoder + random head": encoder_tuned(FineTuning(init="random", optimizer="sgd", steps=5)),
    "encoder + query entropy": encoder_tuned(FineTuning(regulariser="entropy", steps=5)),
    "encoder + transductive": encoder_tuned(TransductiveFineTuning(steps=5)),
    **{f"MAML, {norm} norm": maml(norm) for norm in norms.NORMS},
    **{f"MAML on images, {norm} norm": maml(norm, fed="images") for norm in norms.NORMS},
    "MAML++": maml("running", 4, per_step_norm=True, rates="per_tensor_per_step"),
    "MAML from prototypes": maml("group", start=prototype_head),
    "ANIL": maml("running", adapt="head"),
    "ANIL, batch norm": maml("batch", adapt="head"),
    **{f"{name}, inductive": trained(make, False) for name, make in GRAPHS.items()},
    **{f"{name}, transductive": trained(make, True) for name, make in GRAPHS.items()},
    "relational, shipped": Case(lambda: load_relational().double()),
    "relational, shipped, transductive": Case(lambda: load_relational(transductive=True).double(), True),
    "soft prompt, words": prompt(Words),
    "soft prompt, label embedding": prompt(LabelEmbedding),
    "soft prompt, RepVerb": prompt(lambda lm: RepVerb()),
    "soft prompt, mixture": prompt(lambda lm: Mixture(Words(lm), RepVerb(centre="both")), transductive=True),
}


@dataclass(frozen=True)
class Batch:
    """support (E, N, K, ...), query (E, M, ...), the names of the N classes, and masks if there are any."""

    support: torch.Tensor
    query: torch.Tensor
    names: torch.Tensor
    masks: dict

    def episodes(self, chosen):
        masks = {name: mask[chosen] for name, mask in self.masks.items()}
        return Batch(self.support[chosen], self.query[chosen], self.names[chosen], masks)


def dealt(fed, lm=None):
    generator = torch.Generator().manual_seed(0)
    if fed == "ids":
        words = "node path edge wave noise sound glyph letter font signal graph with".split()
        picks = torch.randint(len(words), (E * (N * K + M), 3), generator=generator).tolist()
        ids = TEMPLATE.tokenise(lm, [" ".join(words[i] for i in pick) for pick in picks])
        support, query = ids.split([E * N * K, E * M])
        names = class_words(lm, ["graph", "signal", "font letter", "node"]).expand(E, -1, -1, -1)
        return Batch(support.view(E, N, K, -1), query.view(E, M, -1), names, {})
    size = (D,) if fed == "vectors" else (1, 16, 16)
    shapes = (E, N, K, *size), (E, M, *size), (E, N, *size)
    return Batch(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes), {})


@pytest.fixture(params=METHODS)
def case(request):
    return METHODS[request.param]


PADDED = [name for name, case in METHODS.items() if case.masks]


@pytest.fixture
def dealing(case, request):
    """The method and a batch of episodes."""
    lm = request.getfixturevalue("tiny_lm")() if case.fed == "ids" else None
    return case.make(*([] if lm is None else [lm])), dealt(case.fed, lm)


def logits_of(method, batch):
    """What ``evaluate`` would get: an inductive method hears nothing of other queries."""
    extra = {"names": batch.names} if getattr(method, "uses_names", False) else {}
    extra |= {
        name: mask for name, mask in batch.masks.items() if method.transductive or name == "support_mask"
    }
    with torch.no_grad():
        return method(batch.support, batch.query, **extra).double()


def depends_on_other_queries(method, batch, atol):
    """Whether the first query's logits change when the other queries are replaced or left out."""
    logits = logits_of(method, batch)[:, :1]
    others = batch.query[:, 1:].roll((1, 1), (0, 1))  # of another episode
    if others.is_floating_point():
        others = 5 * others - 2
    replaced = replace(batch, query=torch.cat([batch.query[:, :1], others], 1))
    alone = replace(batch, query=batch.query[:, :1])
    changed = (logits_of(method, other)[:, :1] for other in (replaced, alone))
    return not all(torch.allclose(logits, other, atol=atol, rtol=1e-6) for other in changed)


def test_it_declares_whether_the_other_queries_matter_and_keeps_to_it(case, dealing):
    method, batch = dealing
    assert method.transductive == case.transductive
    assert depends_on_other_queries(method, batch, case.atol) == case.transductive


def test_a_batch_of_episodes_equals_a_loop(case, dealing):
    method, batch = dealing
    looped = torch.cat([logits_of(method, batch.episodes(slice(e, e + 1))) for e in range(E)])
    assert_close(logits_of(method, batch), looped, atol=case.atol, rtol=0)


def test_reordering_ways_shots_and_queries_reorders_the_logits(case, dealing):
    method, batch = dealing
    ways = torch.tensor([2, 0, 3, 1] if case.permutes else [0, 1, 2, 3])
    shots, queries = torch.tensor([1, 2, 0]), torch.tensor([5, 1, 3, 0, 2, 4])
    support = batch.support[:, ways][:, :, shots]
    reordered = Batch(support, batch.query[:, queries], batch.names[:, ways], {})
    expected = logits_of(method, batch)[:, queries][..., ways]
    assert_close(logits_of(method, reordered), expected, atol=case.atol, rtol=1e-6)


def spoiled(batch, masks):
    """The batch with these masks, and examples of other classes and episodes where they are False."""
    support, query = batch.support.clone(), batch.query.clone()
    support[~masks["support_mask"]] = batch.support.roll(1, 1)[~masks["support_mask"]]
    query[~masks["query_mask"]] = batch.query.roll(1, 0)[~masks["query_mask"]]
    return replace(batch, support=support, query=query, masks=masks)


@pytest.mark.parametrize("case", PADDED, indirect=True)
def test_masked_shots_and_queries_are_not_there_whatever_stands_in_them(case, dealing):
    """Episode e of the batch has K − e shots and M − 2e queries: as if dealt alone, with so many."""
    method, batch = dealing
    masks = {"support_mask": torch.arange(K) < K - torch.arange(E).view(E, 1, 1).expand(E, N, 1)}
    masks["query_mask"] = torch.arange(M) < M - 2 * torch.arange(E).view(E, 1)
    logits = logits_of(method, spoiled(batch, masks))
    for e in range(E):
        alone = batch.episodes(slice(e, e + 1))
        alone = replace(alone, support=alone.support[:, :, : K - e], query=alone.query[:, : M - 2 * e])
        assert_close(logits[e : e + 1, : M - 2 * e], logits_of(method, alone), atol=case.atol, rtol=1e-6)


@pytest.mark.parametrize("case", PADDED, indirect=True)
def test_classes_may_have_unequal_numbers_of_shots(case, dealing):
    method, batch = dealing
    shots = torch.tensor([1, 3, 2, 2]).view(1, N, 1)
    masks = {"support_mask": (torch.arange(K) < shots).expand(E, N, K)}
    masks["query_mask"] = torch.ones(E, M, dtype=torch.bool)
    logits = logits_of(method, replace(batch, masks=masks))
    assert_close(logits_of(method, spoiled(batch, masks)), logits, atol=case.atol, rtol=1e-6)
    assert not torch.allclose(logits, logits_of(method, batch), atol=1e-3) or not case.looks_at_support


def test_twice_the_same_and_nothing_is_drawn_from_the_global_generator(dealing):
    method, batch = dealing
    state = torch.get_rng_state()
    assert torch.equal(logits_of(method, batch), logits_of(method, batch))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_method_that_centres_by_the_queries_is_found_out():
    """The check of transductive methods could fail: it sees the known one."""

    @few_shot_method("centred prototypes", transductive=True)
    def centred(support, query):
        centre = query.mean(1, keepdim=True)
        return cosine_prototypes(support - centre.unsqueeze(1), query - centre)

    assert depends_on_other_queries(centred, dealt("vectors"), 1e-6)
