"""Many losses, one step: every balancer against its definition, a closed form, or the library of the field."""

import io

import pytest
import torch
from torch import nn
from torchjd import aggregation, scalarization

from fewshot_lib.balancing import (
    BALANCERS,
    NonNegativeProjector,
    balancer,
    cagrad_weights,
    conflicts,
    cosine_matrix,
    gradnorm_slope,
    pcgrad,
    task_gradients,
)

FROM_GRADIENTS = ["gradnorm", "pcgrad", "mgda", "cagrad", "upgrad"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def weights_of(name, gradients):
    """The weights that a balancer gives to gradients (T, P)."""
    return balancer(name, len(gradients)).weigh(torch.ones(len(gradients)), gradients, torch.arange(len(gradients))).to(gradients)


def step_of(name, gradients):
    return weights_of(name, gradients) @ gradients


def problem(seed=0, n_tasks=3):
    """Parameters (5 numbers) and losses (T,) that pull them to different places, each at its own scale."""
    parameters = [nn.Parameter(randn(2, seed=seed)), nn.Parameter(randn(3, 1, seed=seed + 1))]
    flat = torch.cat([p.flatten() for p in parameters])
    return parameters, (torch.arange(1, n_tasks + 1) * (flat - randn(n_tasks, 5, seed=seed + 2)).square().mT).sum(0)


# --- gradients, cosines, conflicts


def test_task_gradients_are_one_row_per_task_with_zeros_for_what_is_not_used():
    a, b, unused = (nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate([(2, 2), (3,), (2,)]))
    losses = torch.stack([a.square().sum(), (a.sum() * b).sum(), b.pow(3).sum()])
    zeros = torch.zeros(3, dtype=torch.float64)
    b_sum, a_sum = b.sum().item() * torch.ones(4, dtype=torch.float64), a.sum().item() * torch.ones(3, dtype=torch.float64)
    rows = [(2 * a.flatten(), zeros, zeros[:2]), (b_sum, a_sum, zeros[:2]), (zeros.new_zeros(4), 3 * b.square(), zeros[:2])]
    same(task_gradients(losses, [a, b, unused]), torch.stack([torch.cat(row) for row in rows]).detach())
    losses.sum().backward()  # the graph is still there


def test_cosines_and_conflicts():
    gradients = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, 5.0], [0.0, 0.0]])
    half = 0.5**0.5
    expected = torch.tensor([[1, -half, 0, 0], [-half, 1, half, 0], [0, half, 1, 0], [0, 0, 0, 0]])
    same(cosine_matrix(gradients), expected, 1e-6)
    assert conflicts(expected) == pytest.approx(1 / 6) and conflicts(torch.ones(1, 1)) == 0
    assert conflicts(torch.tensor([[1, -0.1], [-0.1, 1]])) == 1


# --- what holds for all


@pytest.mark.parametrize("name", BALANCERS)
def test_backward_adds_the_weighted_gradients(name):
    parameters, losses = problem()
    expected = task_gradients(losses, parameters)
    parameters[0].grad = torch.ones(2, dtype=torch.float64)
    balance = balancer(name, 3).backward(losses, parameters, record_gradients=True)
    d = balance.weights @ expected
    same(balance.gradients, expected)
    same(parameters[0].grad, 1 + d[:2])
    same(parameters[1].grad, d[2:].view(3, 1))
    assert balance.weights.dtype == torch.float64 and not balance.weights.requires_grad and (balance.weights >= 0).all()
    assert name not in ("sum", "dwa", "gradnorm") or (balance.weights == 1).all()  # the last two: in their first step


@pytest.mark.parametrize("name", BALANCERS)
def test_recording_changes_nothing_and_gradients_are_made_only_where_needed(name):
    found = []
    for record in (False, True):
        parameters, losses = problem()
        balance = balancer(name, 3).backward(losses, parameters, record_gradients=record)
        found.append([balance.weights, *(p.grad for p in parameters)])
        assert (balance.gradients is not None) == (record or name in FROM_GRADIENTS)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", BALANCERS)
def test_a_restored_balancer_goes_on_the_same_and_leaves_the_default_generator_alone(name):
    def run(balancing, steps):
        weights = []
        for i in steps:
            parameters, losses = problem(seed=3 * i, n_tasks=4)
            tasks = torch.arange(4) if i % 2 else torch.tensor([0, 2, 3])
            weights.append(balancing.backward(losses[tasks], parameters, tasks).weights)
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


@pytest.mark.parametrize("name", BALANCERS)
def test_tasks_are_told_apart_by_their_numbers(name):
    """A balancer that sees tasks 2 and 0 answers as one that knows only these two, in that order."""
    some, two = balancer(name, 3).double(), balancer(name, 2).double()
    weights = []
    for i in range(3):
        for balancing, tasks in ((some, torch.tensor([2, 0])), (two, None)):
            parameters, losses = problem(seed=i)
            weights.append(balancing.backward(losses[[2, 0]], parameters, tasks).weights)
    relative = [w / w.sum() for w in weights]
    same(relative[::2], relative[1::2])


@pytest.mark.parametrize("name", [name for name in BALANCERS if name != "uw"])
def test_equal_tasks_weigh_the_same(name):
    gradients = randn(1, 6).expand(3, 6)
    d = step_of(name, gradients)
    same(d / d.norm(), gradients[0] / gradients[0].norm(), 1e-6)


@pytest.mark.parametrize("name", ["random", "pcgrad"])
def test_every_step_draws_anew(name):
    balancing, gradients = balancer(name, 5), randn(5, 4, seed=3)
    assert len({balancing.weigh(torch.ones(5), gradients, torch.arange(5))[0].item() for _ in range(8)}) > 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`name` is 'nash': use one of 'sum', 'random', 'uw', .*'upgrad'"):
        balancer("nash", 3)
    parameters, losses = problem()
    with pytest.raises(ValueError, match=r"`losses` has the shape \(3,\), but there are 4 tasks: give one loss per task"):
        balancer("sum", 4).backward(losses, parameters)


# --- from the losses


def test_random_weights_are_those_of_torchjd():
    losses = torch.ones(3, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (expected,) = torch.autograd.grad(scalarization.Random()(losses), losses)  # they sum to 1
    same(balancer("random", 3, seed=0).weigh(torch.ones(3), None, torch.arange(3)), 3 * expected, 1e-6)


def test_uncertainty_weighting_is_that_of_torchjd_and_has_its_optimum_at_the_log_of_the_loss():
    losses = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    balancing, oracle = balancer("uw", 3).double(), scalarization.UW(3).double()
    balancing.log_variances.data = oracle.log_var.data.clone() + randn(3)
    oracle.log_var.data += randn(3)
    p, q = nn.Parameter(losses.log()), nn.Parameter(losses.log())
    balance = balancing.backward(p.exp(), [p])
    oracle(q.exp()).backward()
    same(p.grad, q.grad)
    same(balancing.log_variances.grad, oracle.log_var.grad)
    same(balance.weights, 0.5 * (-oracle.log_var).exp().detach())
    balancing.log_variances.grad = None
    balancing.log_variances.data = losses.log()
    same(balancing.weigh(losses, None, torch.arange(3)) * losses, torch.full((3,), 0.5, dtype=torch.float64))
    same(balancing.log_variances.grad, torch.zeros(3, dtype=torch.float64))


def test_dynamic_weight_average_by_hand_and_against_torchjd():
    balancing, oracle = balancer("dwa", 2).double(), scalarization.DWA()
    balancing.every = 2
    epochs = [[(4.0, 1.0), (2.0, 3.0)], [(1.0, 3.0), (2.0, 1.0)], [(1.0, 1.0), (1.0, 1.0)]]
    found, expected = [], []
    for epoch in epochs:
        for pair in epoch:
            losses = torch.tensor(pair, dtype=torch.float64, requires_grad=True)
            found.append(balancing.weigh(losses.detach(), None, torch.arange(2)))
            expected.append(torch.autograd.grad(oracle(losses), losses)[0])
        oracle.step()
    same(found, expected)
    # means (3, 2), then (1.5, 2): ratios ½ and 1, over the temperature 2 ¼ and ½
    by_hand = torch.tensor([0.25, 0.5], dtype=torch.float64).exp()
    same(found[4], 2 * by_hand / by_hand.sum())
    assert all(torch.equal(w, torch.ones(2, dtype=torch.float64)) for w in found[:4]) and found[4][1] > found[4][0]


def test_dynamic_weight_average_knows_nothing_of_a_task_it_has_not_seen_twice():
    balancing = balancer("dwa", 3)
    balancing.every = 1
    for loss in (4.0, 2.0, 1.0):
        weights = balancing.weigh(torch.tensor([loss]), None, torch.tensor([1]))
    assert balancing.means[:, 0].tolist() == [0, 0] and weights.item() < 1  # ratio ½ against the neutral 1 of the others


# --- GradNorm


def gradnorm_loss(weights, norms, ratios, alpha, target_weights):
    """Equation 2 in the paper's terms; the target is a constant."""
    target = (target_weights * norms).mean() * (ratios / ratios.mean()) ** alpha
    return (weights * norms - target).abs().sum()


def test_the_slope_of_gradnorm_is_the_finite_difference():
    weights, norms, ratios = 0.5 + randn(4).abs(), 0.5 + randn(4, seed=1).abs(), 0.2 + randn(4, seed=2).abs()
    h, steps = 1e-6, torch.eye(4, dtype=torch.float64)
    higher, lower = ([gradnorm_loss(weights + sign * h * e, norms, ratios, 0.7, weights) for e in steps] for sign in (1, -1))
    slope = gradnorm_slope(weights, norms, ratios, 0.7)
    same(slope, (torch.stack(higher) - torch.stack(lower)) / (2 * h), 1e-6)
    assert len(slope.sign().unique()) == 2


def test_gradnorm_moves_towards_the_slower_task_and_keeps_the_sum():
    norms, losses = torch.tensor([[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]], dtype=torch.float64)
    balancing, gradients = balancer("gradnorm", 3).double(), norms.diag()
    assert torch.equal(balancing.weigh(losses, gradients, torch.arange(3)), losses)  # the first weights
    for _ in range(300):
        used = balancing.weigh(losses * torch.tensor([0.9, 0.6, 0.3]), gradients, torch.arange(3))
        assert used.sum().item() == pytest.approx(3) and (used > 0).all()
    assert used[0] * norms[0] > used[1] * norms[1] > used[2] * norms[2]  # the less is learnt, the larger the gradient
    target = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64) ** balancing.alpha / norms
    same(used, 3 * target / target.sum(), 0.1)  # and not because of its own norm


# --- surgery


@pytest.mark.parametrize("n_tasks", [2, 3, 6])
def test_pcgrad_by_hand_is_that_of_torchjd(n_tasks):
    gradients = randn(n_tasks, 4, seed=n_tasks)
    assert conflicts(cosine_matrix(gradients)) > 0
    by_hand = pcgrad(gradients, torch.Generator().manual_seed(3)).sum(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        same(aggregation.PCGrad()(gradients), by_hand)
    same(balancer("pcgrad", n_tasks, seed=3).weigh(torch.ones(n_tasks), gradients, torch.arange(n_tasks)) @ gradients, by_hand)


def test_pcgrad_of_two_tasks_has_a_closed_form():
    g, h = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    projected = pcgrad(torch.stack([g, h]), torch.Generator())
    same(projected, torch.stack([g - (g @ h) / (h @ h) * h, h - (g @ h) / (g @ g) * g]))
    assert projected[0] @ h == 0 == projected[1] @ g and (projected.sum(0) @ g > 0) and (projected.sum(0) @ h > 0)
    agreeing = torch.stack([g, -h])
    assert torch.equal(pcgrad(agreeing, torch.Generator()), agreeing)


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
    gradients = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
    same(step_of("upgrad", gradients), torch.tensor([0.2929, 1.9004, 1.9004], dtype=torch.float64), 1e-3)  # theirs is regularised


def test_the_projection_is_the_nearest_point_of_the_dual_cone():
    gradients, u = randn(3, 4, seed=0), randn(3, seed=9).abs()
    v = NonNegativeProjector()(u.unsqueeze(0), gradients @ gradients.T)[0]
    d, along = v @ gradients, u @ gradients
    assert (gradients @ d).min() > -1e-9 and (v - u).min() >= -1e-12 and (v - u).max() > 0.1
    same((d - along) @ d, torch.tensor(0.0, dtype=torch.float64), 1e-8)  # what is left is orthogonal: nothing is nearer


@pytest.mark.parametrize("n_tasks", [2, 3, 6])
@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_is_the_best_worst_case_in_the_ball(n_tasks, c):
    gradients = randn(n_tasks, 5, seed=4)
    weights, mean = cagrad_weights(gradients @ gradients.T, c), gradients.mean(0)
    d = weights @ gradients
    same((d - mean).norm(), c * mean.norm())
    assert (gradients @ d).min() > (gradients @ mean).min()
    v = weights - 1 / n_tasks
    g_v = (v / v.sum()) @ gradients
    same((gradients @ d).min(), g_v @ mean + c * mean.norm() * g_v.norm(), 1e-5)  # the bound of the dual problem is reached


def test_cagrad_without_a_ball_is_the_mean():
    gradients = randn(4, 5, seed=4)
    same(cagrad_weights(gradients @ gradients.T, 0.0), torch.full((4,), 0.25, dtype=torch.float64))
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)  # g_w vanishes at the optimum
    same(cagrad_weights(opposite @ opposite.T) @ opposite, opposite.mean(0))


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "cagrad", "upgrad"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_all_losses_does_not_change_the_weights(name, scale):
    gradients = randn(4, 5, seed=4)
    same(weights_of(name, scale * gradients), weights_of(name, gradients), 1e-5)
    assert weights_of(name, 0 * gradients).isfinite().all()
