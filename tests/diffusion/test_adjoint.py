import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.diffusion import (
    AdjointSampler,
    BDIASampler,
    EDMSchedule,
    NoiseScheduleVP,
    odeint_dpm,
    wrap_model,
)
from paperworks.numerics import fixed_plan
from paperworks.testbeds.mixtures import GaussianMixture, bench_mixture_1d

VP = NoiseScheduleVP.linear()
EDM = EDMSchedule()
DISCRETE = NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, 1000))
MIXTURE = bench_mixture_1d()
NOISE = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
T_END = 1e-2
FIXED = ["euler", "midpoint", "heun", "rk4", "ab"]
SOLVERS = [*FIXED, "dopri5"]


def worst(a, b):
    return (a - b).abs().max().item()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


class Network(nn.Module):
    """A small network of x, t and two conditions, with a parameter that is never used."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x, t, shift=0.0, gain=None):
        hidden = x @ self.first + t + shift
        return torch.tanh(hidden if gain is None else hidden * gain[:, None]) @ self.second


def inputs():
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return draw(5, 3), {"shift": draw(5, 4), "gain": draw(5)}


def gradients(model_fn=None, **options):
    """Return the sample, and the gradients of a loss of it in noise, conditions and weights."""
    network = Network() if model_fn is None else model_fn
    x_T, cond = inputs()
    x_0 = odeint_dpm(network, VP, x_T, cond, **{"steps": 6, **options})
    x_0.square().sum().backward()
    assert network.unused.grad is None
    return [x_0.detach(), x_T.grad, *(c.grad for c in cond.values()), network.first.grad, network.second.grad]


def mixture_gradient(**options):
    x_T = NOISE.clone().requires_grad_()
    odeint_dpm(MIXTURE.model(VP), VP, x_T, t_end=T_END, **options).sum().backward()
    return x_T.grad


def exact_gradient(mixture):
    """Return the derivative of the sample by its noise, p_T(x_T) / p_0(x_0)."""
    there = mixture.transport(NOISE, VP, 1.0, T_END)
    start = mixture.log_density(NOISE, VP.alpha(1.0), VP.sigma(1.0))
    return (start - mixture.log_density(there, VP.alpha(T_END), VP.sigma(T_END))).exp()[:, None]


@pytest.fixture(scope="module")
def exact():
    return exact_gradient(MIXTURE)


# Sampling


@pytest.mark.parametrize(
    ("solver", "steps", "order"),
    [("euler", 100, 1), ("midpoint", 40, 2), ("heun", 40, 2), ("rk4", 20, 4), ("ab", 100, 4)],
)
@pytest.mark.parametrize("variable", ["rho", "t"])
def test_samples_converge_to_exact_transport_at_the_order_of_the_solver(solver, steps, order, variable):
    truth = MIXTURE.transport(NOISE, VP, 1.0, T_END)
    grid = {"rho": "logSNR", "t": "time_quadratic"}[variable]
    options = {"solver": solver, "t_end": T_END, "variable": variable, "skip_type": grid}
    coarse, fine = (
        worst(odeint_dpm(MIXTURE.model(VP), VP, NOISE, steps=n, **options), truth) for n in (steps, 2 * steps)
    )
    assert abs(math.log2(coarse / fine) - order) < 0.4


@pytest.mark.parametrize("schedule", [VP, EDM, DISCRETE])
@pytest.mark.parametrize("skip_type", ["logSNR", "time_uniform", "time_quadratic"])
def test_euler_in_rho_is_ddim(schedule, skip_type):
    noise = NOISE * schedule.sigma(schedule.t_max)
    grid = {"skip_type": skip_type, "t_end": schedule.t_end(12)}
    ours = odeint_dpm(MIXTURE.model(schedule), schedule, noise, steps=12, solver="euler", **grid)
    ddim = BDIASampler(MIXTURE.model(schedule), schedule, gamma=0.0).sample(noise, 12, **grid).sample
    assert relative(ours, ddim) < 1e-12


def test_dopri5_meets_its_tolerance_and_comes_back():
    errors = []
    for tolerance in (1e-4, 1e-7):
        sampler = AdjointSampler(MIXTURE.model(VP), VP, solver="dopri5", t_end=T_END, rtol=tolerance, atol=tolerance)
        errors.append(worst(sampler(NOISE), MIXTURE.transport(NOISE, VP, 1.0, T_END)))
        assert errors[-1] < 50 * tolerance
    back = odeint_dpm(
        MIXTURE.model(VP), VP, sampler(NOISE), solver="dopri5", t_start=T_END, t_end=1.0, rtol=1e-7, atol=1e-7
    )
    assert worst(back, NOISE) < 1e-4
    assert errors[1] < 0.01 * errors[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.05, 2.0), min_size=5, max_size=12), st.booleans(), st.integers(0, 3))
def test_adams_weights_integrate_cubics_exactly_on_any_grid(lengths, falling, power):
    nodes = [sum(lengths[:i]) * (-1 if falling else 1) for i in range(len(lengths) + 1)]
    plan = fixed_plan("ab", nodes)
    total = sum(weight * place**power for step in plan for weight, place in zip(step.weights, step.places, strict=True))
    exact = nodes[-1] ** (power + 1) / (power + 1)
    assert total == pytest.approx(exact, rel=1e-8, abs=1e-8)


def test_no_graph_is_made_where_none_is_wanted():
    network, (x_T, cond) = Network(), inputs()
    sampler = AdjointSampler(network, VP, steps=3)
    with torch.no_grad():
        assert not sampler(x_T, cond).requires_grad
    assert not sampler.requires_grad_(False)(x_T.detach()).requires_grad
    assert sampler.last_nfe == (12, 0)


# Gradients


@pytest.mark.parametrize("variable", ["rho", "t"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_discrete_and_symplectic_gradients_are_those_of_backpropagation(solver, variable):
    options = {"solver": solver, "variable": variable, "t_end": 0.05}
    reference = gradients(adjoint="backprop", **options)
    for adjoint in ("discrete", "symplectic"):
        for ours, theirs in zip(gradients(adjoint=adjoint, **options), reference, strict=True):
            assert relative(ours, theirs) < 1e-12


@pytest.mark.parametrize("solver", ["ab", "rk4"])
@pytest.mark.parametrize("adjoint", ["discrete", "symplectic"])
def test_gradients_pass_gradcheck(solver, adjoint):
    network, (x_T, cond) = Network(), inputs()

    def sample(x, shift, gain, first, second):
        model_fn = lambda x, t, shift, gain: torch.tanh((x @ first + t + shift) * gain[:, None]) @ second  # noqa: E731
        return odeint_dpm(
            model_fn,
            VP,
            x,
            {"shift": shift, "gain": gain},
            steps=4 if solver == "ab" else 2,
            solver=solver,
            adjoint=adjoint,
            params=[first, second],
            t_end=0.1,
        )

    x_T, cond = x_T[:2].detach().requires_grad_(), {k: v[:2].detach().requires_grad_() for k, v in cond.items()}
    assert torch.autograd.gradcheck(
        sample, (x_T, *cond.values(), network.first, network.second), atol=1e-6, fast_mode=True
    )


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_noise_gradient_of_a_mixture_converges_to_the_ratio_of_densities(adjoint, exact):
    coarse, fine = (relative(mixture_gradient(solver="rk4", adjoint=adjoint, steps=n), exact) for n in (25, 50))
    assert fine < 1e-4
    assert 3.5 < math.log2(coarse / fine) < 4.5


@pytest.mark.parametrize("solver", FIXED)
def test_continuous_gradients_approach_the_discrete_ones(solver):
    options = {"solver": solver, "t_end": 0.1}
    far, near = (
        [
            relative(ours, exact)
            for ours, exact in zip(
                gradients(adjoint="continuous", steps=n, **options), gradients(steps=n, **options), strict=True
            )
        ]
        for n in (20, 80)
    )
    assert max(far[1:]) > 0  # another gradient, not the same computed otherwise
    assert all(b < 0.5 * a for a, b in zip(far[1:], near[1:], strict=True))


def test_backward_solver_and_its_steps_are_one_s_own_choice(exact):
    rough = {"solver": "euler", "steps": 40, "adjoint": "continuous"}
    sampler = AdjointSampler(MIXTURE.model(VP), VP, t_end=T_END, backward_solver="rk4", backward_steps=15, **rough)
    x_T = NOISE.clone().requires_grad_()
    sampler(x_T).sum().backward()
    assert sampler.last_nfe == (40, 60)
    # From the exact end the backward solver alone decides; here the end is only Euler's.
    assert relative(x_T.grad, exact) < relative(mixture_gradient(**rough), exact)
    tight = {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-9, "adjoint": "continuous"}
    assert relative(mixture_gradient(**tight, backward_solver="rk4", backward_steps=100), exact) < 1e-5


def test_checkpoints_put_the_state_right_on_the_way_back():
    # Narrow modes attract the state, so that on the way back they repel it, and any error of it grows.
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    narrow = GaussianMixture(torch.ones(2, dtype=torch.float64), means, 0.1)

    def gradient(**options):
        x_T = NOISE.clone().requires_grad_()
        x_0 = odeint_dpm(narrow.model(VP), VP, x_T, t_end=T_END, **options)
        return torch.autograd.grad(x_0.sum(), x_T)[0]

    truth = exact_gradient(narrow)
    options = {"steps": 80, "solver": "heun", "adjoint": "continuous"}
    none, at_all_nodes = (relative(gradient(y_checkpoints=k, **options), truth) for k in (0, 79))
    assert at_all_nodes < 0.5 * none


@pytest.mark.parametrize("solver", ["ab", "dopri5"])
@pytest.mark.parametrize("checkpoints", [1, 20])
def test_checkpoints_never_break_the_gradient(solver, checkpoints, exact):
    options = {"solver": solver, "steps": 20, "adjoint": "continuous", "y_checkpoints": checkpoints, "rtol": 1e-3}
    assert relative(mixture_gradient(**options, backward_solver="dopri5"), exact) < 0.2


def test_dopri5_backwards_does_not_care_how_large_the_loss_is():
    def gradient(scale):
        x_T = NOISE.clone().requires_grad_()
        options = {"solver": "dopri5", "adjoint": "continuous", "rtol": 1e-2, "atol": 1e-2}
        x_0 = odeint_dpm(MIXTURE.model(VP), VP, x_T, t_end=T_END, **options)
        (x_0.sum() * scale).backward()
        return x_T.grad / scale

    assert relative(gradient(1e-12), gradient(1.0)) < 1e-12
    assert gradient(1.0).abs().min() > 0


def test_a_loss_that_ignores_the_sample_has_no_gradient():
    for adjoint in ("continuous", "discrete"):
        x_T = NOISE.clone().requires_grad_()
        (odeint_dpm(MIXTURE.model(VP), VP, x_T, solver="heun", adjoint=adjoint) * 0).sum().backward()
        assert torch.equal(x_T.grad, torch.zeros_like(x_T))


@pytest.mark.parametrize("adjoint", ["discrete", "symplectic", "continuous"])
def test_a_model_that_ignores_its_state_still_gets_its_gradients(adjoint):
    # eps = w: y(rho_0) = y_T + (rho_0 - rho_T) w, so the gradients are known.
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x_T = NOISE.clone().requires_grad_()
    odeint_dpm(lambda x, t: w.expand_as(x), VP, x_T, t_end=T_END, adjoint=adjoint, steps=5).sum().backward()
    a, b = VP.alpha(T_END), VP.alpha(1.0)
    assert torch.allclose(x_T.grad, torch.full_like(x_T, a / b), rtol=1e-12)
    length = math.exp(-VP.lam(T_END)) - math.exp(-VP.lam(1.0))
    assert w.grad.item() == pytest.approx(21 * a * length, rel=1e-12)


def test_only_what_is_asked_for_gets_a_gradient():
    network, (x_T, cond) = Network(), inputs()
    network.first.requires_grad_(False)
    labels = torch.arange(5)
    sampler = AdjointSampler(lambda x, t, shift, label: network(x, t, shift + label[:, None]), VP, steps=4)
    sampler(x_T.detach(), {"shift": cond["shift"], "label": labels}).sum().backward()
    assert x_T.grad is None
    assert network.first.grad is None
    assert cond["shift"].grad is not None
    assert network.second.grad is not None


# Where parameters are found


def test_parameters_of_any_callable_are_found_at_no_cost():
    network, (x_T, _) = Network(), inputs()
    offset = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    wrapped = wrap_model(lambda x, t: network(x, t[0]) + offset, VP)
    sampler = AdjointSampler(wrapped, VP, steps=4, solver="euler")
    sampler(x_T).sum().backward()
    assert sampler.last_nfe == (4, 4)
    assert wrapped.nfe == 8
    found = [network.first.grad, network.second.grad, offset.grad, x_T.grad]
    for tensor in (network.first, network.second, offset, x_T):
        tensor.grad = None
    AdjointSampler(wrapped, VP, steps=4, solver="euler", adjoint="backprop")(x_T).sum().backward()
    for ours, theirs in zip(found, (network.first, network.second, offset, x_T), strict=True):
        assert relative(ours, theirs.grad) < 1e-12


def test_classifier_free_guidance_passes_gradients_to_the_condition():
    network, (x_T, cond) = Network(), inputs()
    empty = torch.zeros_like(cond["shift"])

    def guided(x, t, shift):
        options = {"guidance": "classifier-free", "unconditional": empty, "scale": 3.0}
        return wrap_model(lambda x, t, c: network(x, t[:, None], c), VP, condition=shift, **options)(x, t)

    def gradient(adjoint):
        x_0 = odeint_dpm(guided, VP, x_T, cond["shift"], steps=5, adjoint=adjoint)
        return torch.autograd.grad(x_0.square().sum(), [x_T, cond["shift"], network.first])

    for ours, theirs in zip(gradient("discrete"), gradient("backprop"), strict=True):
        assert relative(ours, theirs) < 1e-12


def test_tensors_computed_outside_the_model_have_to_be_named():
    network, (x_T, _) = Network(), inputs()
    doubled = network.first.exp()
    model_fn = lambda x, t: torch.tanh(x @ doubled) @ network.second  # noqa: E731
    with pytest.raises(ValueError, match="computed outside it"):
        odeint_dpm(model_fn, VP, x_T, steps=3)
    odeint_dpm(model_fn, VP, x_T, steps=3, params=[doubled, network.second]).sum().backward()
    ours, network.first.grad = network.first.grad, None
    odeint_dpm(lambda x, t: torch.tanh(x @ network.first.exp()) @ network.second, VP, x_T, steps=3).sum().backward()
    assert relative(ours, network.first.grad) < 1e-12


# Memory, precision, and what is refused


def saved_bytes(adjoint, steps, **options):
    """Return the most bytes of tensors that were kept for going back, at any one time, parameters not counted."""
    network, (x_T, cond) = Network(), inputs()
    parameters = {p.data_ptr() for p in network.parameters()}
    live, peak = {}, 0

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        nonlocal peak
        kept = Kept(tensor.detach())  # with its graph it would keep itself alive
        if tensor.data_ptr() not in parameters:
            key = id(kept)
            live[key] = (tensor.data_ptr(), tensor.nbytes)
            weakref.finalize(kept, live.pop, key)
        peak = max(peak, sum(dict(live.values()).values()))
        return kept

    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            odeint_dpm(network, VP, x_T, cond, steps=steps, adjoint=adjoint, **options).sum().backward()
    finally:
        gc.enable()
    return peak, x_T.nbytes


@pytest.mark.parametrize("solver", FIXED)
def test_memory_of_each_gradient_mode(solver):
    few, many = 5, 10
    assert saved_bytes("continuous", few, solver=solver) == saved_bytes("continuous", many, solver=solver)
    for adjoint in ("discrete", "symplectic"):
        (small, state), (large, _) = (saved_bytes(adjoint, n, solver=solver) for n in (few, many))
        assert large - small == (many - few) * state
    (one, state), (all_, _) = (saved_bytes("backprop", n, solver=solver) for n in (few, many))
    assert all_ - one > 3 * (many - few) * state
    assert saved_bytes("symplectic", few, solver="rk4")[0] < saved_bytes("discrete", few, solver="rk4")[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_keep_their_type(dtype):
    network = Network().to(dtype)
    x_T = inputs()[0].detach().to(dtype).requires_grad_()
    x_0 = odeint_dpm(network, VP, x_T, steps=5)
    x_0.sum().backward()
    assert x_0.dtype == x_T.grad.dtype == network.first.grad.dtype == dtype


def test_the_way_back_uses_the_autocast_of_the_way_there():
    network, x_T = Network().float(), inputs()[0].detach().float().requires_grad_()

    def gradient(adjoint):
        with torch.autocast("cpu", torch.bfloat16):
            x_0 = odeint_dpm(network, VP, x_T, steps=5, adjoint=adjoint)
        return torch.autograd.grad(x_0.sum(), [x_T, network.first])

    for ours, theirs in zip(gradient("discrete"), gradient("backprop"), strict=True):
        assert relative(ours, theirs) < 1e-2  # of bfloat16: sums are rounded in another order


@pytest.mark.parametrize("adjoint", ["discrete", "symplectic", "continuous"])
def test_second_derivatives_are_refused(adjoint):
    x_T = NOISE.clone().requires_grad_()
    x_0 = odeint_dpm(MIXTURE.model(VP), VP, x_T, steps=4, adjoint=adjoint)
    (first,) = torch.autograd.grad(x_0.sum(), x_T, create_graph=True)
    assert relative(first.detach(), mixture_gradient(steps=4, adjoint=adjoint)) < 5  # itself, it is fine
    with pytest.raises(NotImplementedError, match="adjoint='backprop'"):
        torch.autograd.grad(first.sum(), x_T)


def test_derivatives_of_the_gradient_in_the_loss_are_refused_too():
    x_T, weights = NOISE.clone().requires_grad_(), torch.ones_like(NOISE, requires_grad=True)
    x_0 = odeint_dpm(MIXTURE.model(VP), VP, x_T, steps=4)
    (first,) = torch.autograd.grad(x_0, x_T, weights, create_graph=True)
    with pytest.raises(NotImplementedError, match="adjoint='backprop'"):
        torch.autograd.grad(first.sum(), weights)


def test_second_derivatives_by_backpropagation_are_not():
    x_T = NOISE.clone().requires_grad_()
    x_0 = odeint_dpm(MIXTURE.model(VP), VP, x_T, steps=4, adjoint="backprop")
    (first,) = torch.autograd.grad(x_0.sum(), x_T, create_graph=True)
    assert torch.autograd.grad(first.sum(), x_T)[0].abs().max() > 0


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_changes_in_place_between_the_ways_are_noticed(adjoint):
    network, (x_T, cond) = Network(), inputs()
    x_0 = odeint_dpm(network, VP, x_T, cond, steps=4, adjoint=adjoint)
    with torch.no_grad():
        network.first.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x_0.sum().backward()


def test_the_way_back_can_be_gone_twice():
    x_T = NOISE.clone().requires_grad_()
    x_0 = odeint_dpm(MIXTURE.model(VP), VP, x_T, steps=4)
    first, second = (torch.autograd.grad(x_0.sum(), x_T, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3, dtype=torch.float64)])
def test_models_that_answer_differently_each_time_are_refused(layer):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer.train()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x, t):
            return self.layer(x * self.weight)

    model, x_T = Noisy(), inputs()[0]
    with pytest.raises(ValueError, match="training mode"):
        odeint_dpm(model, VP, x_T)
    odeint_dpm(model.eval(), VP, x_T).sum().backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize(("dropout", "refused"), [(0.5, True), (0.0, False)])
def test_attention_drops_out_without_a_layer_of_its_own(dropout, refused):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

        def forward(self, x, t):
            return self.layer(x, x, x)[0]

    sampler, x_T = AdjointSampler(Attention(), VP, steps=1, solver="euler"), torch.ones(2, 3, 4)
    if not refused:
        assert sampler(x_T).requires_grad
        return
    with pytest.raises(ValueError, match="MultiheadAttention 'layer' in training mode"):
        sampler(x_T)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "leapfrog"}, "solver is 'leapfrog'"),
        ({"adjoint": "magic"}, "adjoint is 'magic'"),
        ({"skip_type": "cubic"}, "skip_type is 'cubic'"),
        ({"variable": "lambda"}, "variable is 'lambda'"),
        ({"backward_solver": "leapfrog"}, "backward_solver is 'leapfrog'"),
        ({"steps": 0}, "steps is 0"),
        ({"backward_steps": 0}, "backward_steps is 0"),
        ({"y_checkpoints": -1}, "y_checkpoints is -1"),
        ({"rtol": 0.0}, "rtol is 0.0"),
        ({"t_end": -1.0}, "t_end is -1.0"),
        ({"t_start": 0.5, "t_end": 0.5}, "two different times"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        odeint_dpm(MIXTURE.model(VP), VP, NOISE, **options)


@pytest.mark.usefixtures("untyped")
def test_bad_inputs_are_refused():
    sampler = AdjointSampler(Network(), VP, steps=3)
    x_T, cond = inputs()
    with pytest.raises(ValueError, match="shift has shape \\(3, 4\\)"):
        sampler(x_T, {"shift": cond["shift"][:3]})
    with pytest.raises(TypeError, match="gain is float"):
        sampler(x_T, {"gain": 1.0})
    with pytest.raises(ValueError, match="x_T has 1 NaN"):
        sampler(torch.tensor([[math.nan, 1.0, 1.0]]))
    with pytest.raises(TypeError, match=r"x_T is torch\.int64"):
        sampler(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"model_fn returned shape \(5, 2\)"):
        odeint_dpm(lambda x, t: x[:, :2], VP, x_T)
    with pytest.raises(ValueError, match="model_fn returned a tuple"):
        odeint_dpm(lambda x, t: (x, x), VP, x_T)


def test_nothing_that_is_not_finite_passes_in_silence():
    with pytest.raises(ValueError, match="came from model_fn"):
        odeint_dpm(lambda x, t: torch.full_like(x, math.nan), VP, NOISE)
    with pytest.raises(RuntimeError, match="shrank to nothing"):
        odeint_dpm(lambda x, t: torch.full_like(x, math.nan), VP, NOISE, solver="dopri5")
    x_T = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    x_0 = odeint_dpm(lambda x, t: x.abs().sqrt(), VP, x_T)  # its slope at zero is infinite
    with pytest.raises(RuntimeError, match="the gradient has NaN"):
        x_0.sum().backward()
