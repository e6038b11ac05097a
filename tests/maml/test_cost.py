"""What a meta-step costs: its operations, the size of its graph, and its memory."""

from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, meta_loss, norms

from .helpers import WAYS, benchmark, both_engines, gradients, mlp, tasks, vector_net, vector_tasks


def operations(model, *shape, n_tasks=2, **options):
    """How often a meta-step calls each operation of the device."""
    learner, some_tasks = MAML(model, **options), tasks(*shape, n_tasks=n_tasks)
    with benchmark("speed/operations").Operations() as seen:
        meta_loss(learner, some_tasks)["loss"].backward()
    return seen.counts


def conv4(norm):
    return norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), norm).double()


def test_a_vmapped_meta_step_has_as_many_operations_for_8_tasks_as_for_2():
    for options in ({"inner_steps": 3}, {"inner_steps": 3, "first_order": True}):
        assert operations(mlp(), 4, n_tasks=8, **options) == operations(mlp(), 4, **options)
        few, many = (operations(mlp(), 4, n_tasks=t, engine="loop", **options).total() for t in (2, 8))
        assert 3.5 < many / few < 4.5
    for options in ({"inner_steps": 1}, {"inner_steps": 3, "first_order": True}):
        few, many = (operations(conv4("running"), 1, 28, 28, n_tasks=t, **options) for t in (2, 8))
        assert few == many


def test_what_grows_with_the_tasks_is_a_loop_over_groups_inside_torch():
    """From the second step on, weights differ by task and vmap makes grouped convolutions; torch's double
    backward takes those one group at a time: a convolution and two slices, for each task, further step, and
    layer but the first."""
    few, many = (operations(conv4("batch"), 1, 28, 28, n_tasks=t, inner_steps=3) for t in (2, 8))
    more, per_task = many - few, 6 * (3 - 1) * 3
    assert many.keys() == few.keys() and not few - many
    assert set(more) <= {"aten.convolution.default", "aten.slice.Tensor"}
    assert more["aten.convolution.default"] <= per_task and more["aten.slice.Tensor"] <= 2 * per_task


def test_a_first_order_graph_does_not_grow_with_the_inner_steps():
    """Counted in nodes that backward visits: the inner loop has no part in them."""

    def nodes(learner):
        seen, stack = set(), [meta_loss(learner, tasks(4))["loss"].grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack.extend(following for following, _ in node.next_functions)
        return len(seen)

    grown = {}
    for first_order in (True, False):
        one, five = (nodes(MAML(mlp(), s, first_order=first_order, engine="loop")) for s in (1, 5))
        grown[first_order] = five - one
    # one subtraction for each of 4 tensors, 4 more steps, 2 tasks; with its slices
    assert grown[True] <= 4 * 4 * 2 * 2 and grown[False] > 4 * grown[True]


def peak(n_tasks, **options):
    """The most bytes that a meta-step holds at one time."""
    learner = MAML(vector_net("batch"), inner_steps=3, **options)
    t = vector_tasks(n_tasks=n_tasks, n_support=30, n_query=60)
    with benchmark("speed/operations").Operations() as memory:
        gradients(learner, t)
    return memory.peak


@both_engines
def test_the_chunk_size_bounds_the_memory(engine):
    assert peak(16, engine=engine) > 6 * peak(2, engine=engine)  # without: all graphs at once
    assert peak(16, engine=engine, chunk_size=2) < 1.05 * peak(2, engine=engine)
    assert peak(16, engine=engine, first_order=True) < 0.5 * peak(16, engine=engine)
