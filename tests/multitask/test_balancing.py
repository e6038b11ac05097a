"""Many losses, one step: every balancer against its definition, a closed form, or a library."""

import io

import pytest
import torch
from torch import nn
from torchjd import aggregation, scalarization
from torchjd.linalg import DualConeProjector

from fewshot_lib.multitask.balancing import (
    BALANCERS,
    balancer,
    cagrad_weights,
    gradnorm_slope,
    pcgrad_weights,
    project,
    task_gradients,
    upgrad_weights,
)

NONE = torch.empty(3, 0)  # in place of gradients where none are needed
FROM_GRADIENTS = ["gradnorm", "pcgrad", "mgda", "cagrad", "upgrad"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def weights_of(name, gradients):
    """The weights that a balancer gives to gradients (T, P)."""
    return balancer(name, len(gradients)).weigh(torch.ones(len(gradients)), gradients).to(gradients)


def step_of(name, gradients):
    return weights_of(name, gradients) @ gradients


def problem(seed=0, n_tasks=3):
    """Parameters (5 numbers) and losses (T,) that pull them to different places, each at its own scale."""
    parameters = [nn.Parameter(randn(2, seed=seed)), nn.Parameter(randn(3, 1, seed=seed + 1))]
    distances = torch.cat([p.flatten() for p in parameters]) - randn(n_tasks, 5, seed=seed + 2)
    return parameters, (torch.arange(1, n_tasks + 1) * distances.square().mT).sum(0)


def test_task_gradients_are_one_row_per_task_with_zeros_for_what_is_not_used():
    a, b, unused = (nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate([(2, 2), (3,), (2,)]))
    losses = torch.stack([a.square().sum(), (a.sum() * b).sum(), b.pow(3).sum()])
    expected = torch.zeros(3, 9, dtype=torch.float64)
    expected[0, :4] = 2 * a.detach().flatten()
    expected[1, :4], expected[1, 4:7] = b.sum().item(), a.sum().item()
    expected[2, 4:7] = 3 * b.detach().square()
    same(task_gradients(losses, [a, b, unused]), expected)
    losses.sum().backward()  # the graph is still there


@pytest.mark.parametrize("name", BALANCERS)
def test_backward_adds_the_weighted_gradients_and_makes_them_only_where_needed(name, monkeypatch):
    (parameters, losses), seen, balancing = problem(), [], balancer(name, 3)
    expected = task_gradients(losses, parameters)
    weigh = balancing.weigh
    monkeypatch.setattr(
        balancing, "weigh", lambda of, gradients: seen.append(gradients) or weigh(of, gradients)
    )
    parameters[0].grad = torch.ones(2, dtype=torch.float64)
    weights = balancing.backward(losses, parameters)
    d = weights @ expected
    same(seen[0], expected if name in FROM_GRADIENTS else NONE.double())
    same(parameters[0].grad, 1 + d[:2])
    same(parameters[1].grad, d[2:].view(3, 1))
    assert weights.dtype == torch.float64 and not weights.requires_grad and (weights >= 0).all()
    if name in ("sum", "dwa", "gradnorm"):  # the last two: in their first step
        assert (weights == 1).all()


@pytest.mark.parametrize("name", BALANCERS)
def test_a_restored_balancer_goes_on_the_same_and_leaves_the_default_generator_alone(name):
    def run(balancing, steps):
        weights = []
        for i in steps:
            parameters, losses = problem(seed=3 * i, n_tasks=4)
            weights.append(balancing.backward(losses, parameters))
            for p in balancing.parameters():  # one step of plain gradient descent
                p.data -= 0.1 * p.grad
                p.grad = None
        return torch.cat(weights)

    before = torch.get_rng_state()
    balancing = balancer(name, 4, seed=5)
    first = run(balancing, range(45))  # more than two epochs of DWA
    buffer = io.BytesIO()
    torch.save(balancing.state_dict(), buffer)
    again = balancer(name, 4)
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert torch.equal(run(again, range(45, 50)), run(balancing, range(45, 50)))
    assert torch.equal(run(balancer(name, 4, seed=5), range(45)), first)
    assert torch.equal(torch.get_rng_state(), before)
    if name in ("random", "pcgrad"):
        assert not torch.equal(run(balancer(name, 4, seed=6), range(45)), first)


@pytest.mark.parametrize("name", [name for name in BALANCERS if name != "uw"])
def test_equal_tasks_weigh_the_same(name):
    gradients = randn(1, 6).expand(3, 6)
    d = step_of(name, gradients)
    same(d / d.norm(), gradients[0] / gradients[0].norm(), 1e-6)


@pytest.mark.parametrize("name", ["random", "pcgrad"])
def test_every_step_draws_anew(name):
    balancing, gradients = balancer(name, 5), randn(5, 4, seed=3)
    assert len({balancing.weigh(torch.ones(5), gradients)[0].item() for _ in range(8)}) > 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`balance` is 'nash': use one of 'sum', 'random', 'uw', .*'upgrad'"):
        balancer("nash", 3)
    parameters, losses = problem()
    with pytest.raises(ValueError, match=r"`losses` has the shape \(3,\), but there are 4 tasks: give one"):
        balancer("sum", 4).backward(losses, parameters)


def test_random_weights_are_those_of_torchjd():
    losses = torch.ones(3, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (expected,) = torch.autograd.grad(scalarization.Random()(losses), losses)  # they sum to 1
    same(balancer("random", 3, seed=0).weigh(torch.ones(3), NONE), 3 * expected, 1e-6)


def test_uncertainty_weighting_is_that_of_torchjd_and_has_its_optimum_at_the_log_of_the_loss():
    losses = double(0.1, 1.0, 7.0)
    balancing, oracle = balancer("uw", 3).double(), scalarization.UW(3).double()
    balancing.log_variances.data = oracle.log_var.data.clone() + randn(3)
    oracle.log_var.data += randn(3)
    p, q = nn.Parameter(losses.log()), nn.Parameter(losses.log())
    weights = balancing.backward(p.exp(), [p])
    oracle(q.exp()).backward()
    same(p.grad, q.grad)
    same(balancing.log_variances.grad, oracle.log_var.grad)
    same(weights, 0.5 * (-oracle.log_var).exp().detach())
    balancing.log_variances.grad = None
    balancing.log_variances.data = losses.log()
    same(balancing.weigh(losses, NONE) * losses, double(0.5, 0.5, 0.5))
    same(balancing.log_variances.grad, double(0, 0, 0))


def test_dynamic_weight_average_by_hand_and_against_torchjd():
    balancing, oracle = balancer("dwa", 2).double(), scalarization.DWA()
    balancing.every = 2
    epochs = [[(4.0, 1.0), (2.0, 3.0)], [(1.0, 3.0), (2.0, 1.0)], [(1.0, 1.0), (1.0, 1.0)]]
    found, expected = [], []
    for epoch in epochs:
        for pair in epoch:
            losses = double(*pair).requires_grad_()
            found.append(balancing.weigh(losses.detach(), NONE))
            expected.append(torch.autograd.grad(oracle(losses), losses)[0])
        oracle.step()
    same(found, expected)
    # means (3, 2), then (1.5, 2): ratios ½ and 1, over the temperature 2 ¼ and ½
    by_hand = double(0.25, 0.5).exp()
    same(found[4], 2 * by_hand / by_hand.sum())
    assert all(torch.equal(w, double(1, 1)) for w in found[:4])


def test_the_slope_of_gradnorm_is_the_finite_difference():
    weights, norms, ratios = 0.5 + randn(4).abs(), 0.5 + randn(4, seed=1).abs(), 0.2 + randn(4, seed=2).abs()
    target = (weights * norms).mean() * (ratios / ratios.mean()) ** 0.7  # a constant

    def loss(weights):  # equation 2, for a weight vector a row
        return (weights * norms - target).abs().sum(1)

    steps = 1e-6 * torch.eye(4, dtype=torch.float64)
    slope = gradnorm_slope(weights, norms, ratios, 0.7)
    same(slope, (loss(weights + steps) - loss(weights - steps)) / 2e-6, 1e-6)
    assert len(slope.sign().unique()) == 2


def test_gradnorm_moves_towards_the_slower_task_and_keeps_the_sum():
    norms, losses, left = double([1.0, 2.0, 0.5], [1.0, 1.0, 1.0], [0.9, 0.6, 0.3])
    balancing, gradients = balancer("gradnorm", 3).double(), norms.diag()
    assert torch.equal(balancing.weigh(losses, gradients), losses)  # the first weights
    for _ in range(300):
        used = balancing.weigh(left, gradients)
        assert used.sum().item() == pytest.approx(3) and (used > 0).all()
    assert ((used * norms).diff() < 0).all()  # the less is learnt, the larger the gradient
    target = left**balancing.alpha / norms
    same(used, 3 * target / target.sum(), 0.1)  # and not because of its own norm


@pytest.mark.parametrize("n_tasks", [2, 3, 6])
def test_pcgrad_by_hand_is_that_of_torchjd(n_tasks):
    gradients = randn(n_tasks, 4, seed=n_tasks)
    assert (gradients @ gradients.T < 0).any()  # some conflict
    by_hand = pcgrad_weights(gradients @ gradients.T, torch.Generator().manual_seed(3)) @ gradients
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        same(aggregation.PCGrad()(gradients), by_hand)
    same(balancer("pcgrad", n_tasks, seed=3).weigh(torch.ones(n_tasks), gradients) @ gradients, by_hand)


def test_pcgrad_of_two_tasks_has_a_closed_form():
    g, h = gradients = double([1.0, 0.0], [-1.0, 1.0])
    left = g - (g @ h) / (h @ h) * h, h - (g @ h) / (g @ g) * g
    step = step_of("pcgrad", gradients)
    same(step, left[0] + left[1])
    assert left[0] @ h == 0 == left[1] @ g and step @ g > 0 and step @ h > 0
    same(weights_of("pcgrad", torch.stack([g, -h])), double(1, 1))


@pytest.mark.parametrize("seed", range(4))
def test_mgda_of_two_tasks_is_the_shortest_vector_between_them(seed):
    g, h = gradients = randn(2, 3, seed=seed)
    share = ((h - g) @ h / (g - h).square().sum()).clamp(0, 1)  # of g
    same(weights_of("mgda", gradients), torch.stack([share, 1 - share]))


@pytest.mark.parametrize("n_tasks", [2, 3, 5, 12])
@pytest.mark.parametrize("degenerate", [False, True])
def test_upgrad_conflicts_with_no_task(n_tasks, degenerate):
    gradients = randn(n_tasks, 6, seed=n_tasks + 2)
    if degenerate:
        gradients[-1] = -gradients[0]
        gradients[-2] = 0 if n_tasks > 2 else gradients[-2]
    d, scale = step_of("upgrad", gradients), gradients.norm(dim=1).max() ** 2
    assert ((gradients @ d) / scale).min() > -1e-6
    agreeing = randn(n_tasks, 6).abs()
    same(step_of("upgrad", agreeing), agreeing.mean(0))


def test_upgrad_reproduces_the_example_of_torchjd():
    step = step_of("upgrad", double([-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]))
    same(step, double(0.2929, 1.9004, 1.9004), 1e-3)  # theirs is regularised


@pytest.mark.parametrize("seed", range(3))
def test_upgrad_is_that_of_torchjd(seed):
    class Projector(DualConeProjector):  # its own needs a solver that not every platform has
        def __call__(self, U, G):
            return project(U, G)

    products = randn(4, 3, seed=seed) @ randn(4, 3, seed=seed).T
    theirs = aggregation.UPGradWeighting(projector=Projector())(products)
    same(upgrad_weights(products, torch.Generator()), theirs)


def test_the_projection_is_the_nearest_point_of_the_dual_cone():
    gradients, u = randn(3, 4, seed=0), randn(3, seed=9).abs()
    v = project(u.unsqueeze(0), gradients @ gradients.T)[0]
    d, along = v @ gradients, u @ gradients
    assert (gradients @ d).min() > -1e-9 and (v - u).min() >= -1e-12 and (v - u).max() > 0.1
    assert abs((d - along) @ d) < 1e-8  # what is left is orthogonal: nothing is nearer


@pytest.mark.parametrize("n_tasks", [2, 3, 6])
@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_is_the_best_worst_case_in_the_ball(n_tasks, c):
    gradients = randn(n_tasks, 5, seed=4)
    weights, mean = cagrad_weights(gradients @ gradients.T, None, c), gradients.mean(0)
    d = weights @ gradients
    same((d - mean).norm(), c * mean.norm())
    assert (gradients @ d).min() > (gradients @ mean).min()
    v = weights - 1 / n_tasks
    g_v = (v / v.sum()) @ gradients
    bound = g_v @ mean + c * mean.norm() * g_v.norm()  # of the dual problem
    same((gradients @ d).min(), bound, 1e-5)


def test_cagrad_without_a_ball_is_the_mean():
    gradients = randn(4, 5, seed=4)
    same(cagrad_weights(gradients @ gradients.T, None, 0.0), double(0.25, 0.25, 0.25, 0.25))
    opposite = double([1.0, 0.0], [-1.0, 0.0], [0.0, 3.0])  # g_v vanishes at the optimum
    same(cagrad_weights(opposite @ opposite.T, None) @ opposite, opposite.mean(0))


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "cagrad", "upgrad"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_all_losses_does_not_change_the_weights(name, scale):
    gradients = randn(4, 5, seed=4)
    same(weights_of(name, scale * gradients), weights_of(name, gradients), 1e-5)
    assert weights_of(name, 0 * gradients).isfinite().all()
