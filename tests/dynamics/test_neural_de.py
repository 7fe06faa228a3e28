"""Neural differential equations: penalties by hand, ways to the gradient, sampling, paths, orders of convergence."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from paperworks.dynamics import (
    BrownianTree,
    ExponentialDecay,
    NeuralODE,
    NeuralSDE,
    local_regularizer,
    local_sde_regularizer,
    solve_sde,
)
from paperworks.dynamics.neural_de.stochastic import _step
from paperworks.numerics import PAIRS, first_step, take_step

U = torch.linspace(-1, 1.3, 12, dtype=torch.float64).reshape(4, 3)


class Field(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        self.calls = 0

    def forward(self, t, u):
        self.calls += 1
        place = t.reshape(-1, *[1] * (u.ndim - 1)) if t.ndim else t
        return torch.tanh(u @ self.a) * torch.cos(3 * place)


def test_the_penalty_is_that_of_one_step_by_hand():
    field, t, tol = Field(), 0.3, 1e-5
    slope = field(torch.tensor(t, dtype=torch.float64), U)
    (h,) = first_step(field, U, slope, t, 1.0, PAIRS["tsit5"], tol, tol)
    step = take_step(field, U, slope, t, float(h), PAIRS["tsit5"])
    scale = tol + tol * torch.maximum(U.abs(), step.end.abs())
    slopes = torch.stack(step.slopes.kept)
    error = h * torch.tensordot(torch.tensor(PAIRS["tsit5"].error, dtype=torch.float64), slopes, 1)
    by_hand = float(h) * float((error / scale).square().mean().sqrt().detach())
    assert local_regularizer(field, U, t, 1.0, tol, tol).item() == pytest.approx(by_hand, rel=1e-12)
    stiff, mixed = (
        float(local_regularizer(field, U, t, 1.0, tol, tol, kind)) for kind in ("stiffness_estimate", "mixed")
    )
    assert mixed == pytest.approx(by_hand + 0.1 * stiff)


def test_samples_of_their_own_are_the_mean_of_their_penalties():
    field, times = Field(), np.array([0.0, 0.3, 0.5, 0.9])
    together = local_regularizer(field, U, times, 1.0, control="sample")
    alone = [float(local_regularizer(field, U[i : i + 1], times[i], 1.0)) for i in range(4)]
    assert float(together) == pytest.approx(np.mean(alone), rel=1e-10)
    tolerances = torch.tensor([1e-6, 1e-5, 1e-4, 1e-3], dtype=torch.float64)
    each = local_regularizer(field, U, 0.1, 1.0, tolerances, tolerances, control="sample")
    alone = [float(local_regularizer(field, U[i : i + 1], 0.1, 1.0, float(tolerances[i]), float(tolerances[i])))
             for i in range(4)]  # fmt: skip
    assert float(each) == pytest.approx(np.mean(alone), rel=1e-10)


def test_a_trajectory_of_any_solver_will_do():
    field = Field()
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    states = torch.stack([U * (1 + t) for t in times])
    drawn = {round(float(local_regularizer(field, states, times, 1.0, generator=torch.Generator().manual_seed(k))), 15)
             for k in range(40)}  # fmt: skip
    each = {
        round(float(local_regularizer(field, u, float(t), 1.0)), 15) for u, t in zip(states[:-1], times, strict=False)
    }
    assert drawn == each  # all but the last


@pytest.mark.parametrize("kind", ["error_estimate", "stiffness_estimate"])
def test_gradients_of_a_step_are_those_of_finite_differences(kind):
    field, h = Field(), 0.3

    def penalty():
        return local_regularizer(field, U, 0.2, 1.0, 1e-3, 1e-3, kind, step=h, detach_slope=False)

    (gradient,) = torch.autograd.grad(penalty(), field.a)
    with torch.no_grad():
        values = []
        for shift in (1e-6, -2e-6):
            field.a[0, 1] += shift
            values.append(float(penalty()))
        field.a[0, 1] += 1e-6
    assert float(gradient[0, 1]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_what_is_detached_is_constant():
    """With the first slope held fast, a common factor of all slopes no longer cancels in their weighted sum."""
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    u = U.clone().requires_grad_()
    for state, slope in itertools.product((True, False), (None, True, False)):
        penalty = local_regularizer(lambda t, u: scale * torch.ones_like(u) * (1 + t), u, 0.2, 1.0, 1e-9, 1e-9,
                                    step=0.3, detach_state=state, detach_slope=slope)  # fmt: skip
        by_scale, by_state = torch.autograd.grad(penalty, [scale, u], allow_unused=True, materialize_grads=True)
        held = slope is True or (slope is None and state)
        assert (abs(float(by_scale)) > 1e3) == held  # of a solution that the step has exactly, the error is 0
        assert by_state.any() == (not state)


WAYS = [
    {"regularize": regularize, "control": control, "step_size": step_size, "detach_slope": False}
    for regularize, control, step_size in itertools.product(
        (None, "unbiased", "biased"), ("batch", "sample"), ("auto", "solver")
    )
] + [{"regularize": r, "detach_state": False, "step_size": "solver"} for r in ("unbiased", "biased")]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_both_ways_to_the_gradient_agree(options):
    field, found = Field(), []
    for adjoint in ("backprop", "adjoint"):
        u0 = U.clone().requires_grad_()
        layer = NeuralODE(field, atol=1e-9, rtol=1e-9, adjoint=adjoint, reg_type="stiffness_estimate", **options)
        u, info = layer(u0)
        loss = u.square().sum() + 0.1 * info.reg
        found.append([u, info.reg, *torch.autograd.grad(loss, [u0, field.a])])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_the_adjoint_takes_gradients_at_all_times():
    field, times, found = Field(), [0.0, 0.25, 0.8], []
    for adjoint in ("backprop", "adjoint"):
        u0 = U.clone().requires_grad_()
        states, _ = NeuralODE(field, atol=1e-9, rtol=1e-9, t_eval=times, adjoint=adjoint)(u0)
        found.append(torch.autograd.grad((states * states.detach()).sum(), [u0, field.a]))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("regularize", ["unbiased", "biased", "global"])
@pytest.mark.parametrize("control", ["batch", "sample"])
def test_evaluation_adds_nothing_and_training_says_what_it_adds(regularize, control):
    field = Field()
    plain, layer = (NeuralODE(field, control=control, regularize=r) for r in (None, regularize))
    field.calls = 0
    u, info = layer(U)
    assert field.calls == info.nfe
    wanted, bare = plain(U)
    assert torch.allclose(u, wanted, rtol=0, atol=1e-14)
    assert info.nfe - bare.nfe == (0 if regularize == "global" else 8)
    assert info.reg > 0
    assert info.reg.shape == ()
    evaluated, quiet = layer.eval()(U)
    assert torch.allclose(evaluated, wanted, rtol=0, atol=1e-14)
    assert (quiet.nfe, float(quiet.reg)) == (bare.nfe, 0.0)
    assert math.isnan(quiet.t_reg)


@pytest.mark.parametrize("solver", PAIRS)
@pytest.mark.parametrize("step_size", ["auto", "solver"])
def test_every_local_step_is_counted(solver, step_size):
    for regularize in ("unbiased", "biased"):
        field = Field()
        layer = NeuralODE(field, solver=solver, step_size=step_size, regularize=regularize, atol=1e-4, rtol=1e-4)
        assert layer(U)[1].nfe == field.calls


class Hidden(nn.Module):
    """Dynamics whose parameters are in a list, where a module doesn't find them."""

    def __init__(self):
        super().__init__()
        self.fields = [Field()]

    def forward(self, t, u):
        return self.fields[0](t, u)


def test_the_adjoint_refuses_parameters_that_it_cannot_find():
    for func in (Hidden(), lambda t, u, field=Field(): field(t, u)):
        u, _ = NeuralODE(func, adjoint="adjoint")(U.clone().requires_grad_())
        with pytest.raises(RuntimeError, match=r"func has a parameter of shape \(3, 3\)"):
            u.sum().backward()


def test_the_gradient_with_the_first_slope_held_fast_is_that_of_its_weight():
    """For u' = a u the penalty has a closed form; with k1 constant its gradient is b1's term, millions of times it."""
    a, h, tol = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True), 0.009, 1.4e-8
    u, pair = torch.full((1, 1), 1.3, dtype=torch.float64), PAIRS["tsit5"]

    def by_hand(a, k1):
        slopes = [k1]
        for row in pair.a[1:]:
            slopes.append(a * (u + h * sum(w * k for w, k in zip(row, slopes, strict=True))))
        end = u + h * sum(w * k for w, k in zip(pair.b, slopes, strict=True))
        slopes.append(a * end)
        error = h * sum(w * k for w, k in zip(pair.error, slopes, strict=True))
        return (h * error.abs() / (tol + tol * torch.maximum(u, end))).sum()

    for held in (True, False):
        got = local_regularizer(lambda t, u: a * u, u, 0.0, 1.0, tol, tol, step=h, detach_slope=held)
        wanted = by_hand(a, (a.detach() if held else a) * u)
        assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
        gradient, expected = (float(torch.autograd.grad(x, a)[0]) for x in (got, wanted))
        assert gradient == pytest.approx(expected, rel=1e-3)
        first = -pair.error[0] * h * h * 1.3 / (tol * 2.3)
        assert (gradient == pytest.approx(first, rel=0.05)) == held
        assert (abs(gradient) > 1e5 * 1e-6) == held


def test_the_local_step_stays_within_the_span():
    seen = []

    def field(t, u):
        seen.append(float(t))
        return -u

    local_regularizer(field, U, 0.9, 1.0, step=0.5)
    local_sde_regularizer(field, lambda t, u: 0.1 * u, U, 0.9, 1.0, step=0.5, estimator="lamba")
    assert max(seen) <= 1.0 + 1e-15


def test_times_are_drawn_as_they_say():
    layer = NeuralODE(Field(), (0.0, 2.0), regularize="biased", atol=1e-4, rtol=1e-4)
    starts = {round(float(step.t[0]), 12) for step in layer(U)[1].steps}
    assert {round(layer(U)[1].t_reg, 12) for _ in range(30)} == starts
    layer = NeuralODE(Field(), (1.0, 3.0), regularize="unbiased", atol=1e-3, rtol=1e-3)
    times = [layer(U)[1].t_reg for _ in range(60)]
    assert 1 <= min(times) < 1.2
    assert 2.8 < max(times) <= 3
    assert NeuralODE(Field(), (1.0, 3.0), regularize="unbiased", random_state=0)(U)[1].t_reg == times[0]


def test_global_penalties_add_up_all_steps():
    field = Field()
    _, info = NeuralODE(field, regularize="global")(U)
    errors = [float(step.h[0]) * math.sqrt(np.mean(step.error**2)) for step in info.steps]
    assert float(info.reg) == pytest.approx(sum(errors))
    _, mean = NeuralODE(field, regularize="global", aggregate="mean")(U)
    assert float(mean.reg) == pytest.approx(np.mean(errors))


def test_steer_moves_the_end_in_training_alone():
    layer = NeuralODE(lambda t, u: torch.ones_like(u), steer=0.5)
    ends = [float((layer(U)[0] - U)[0, 0]) for _ in range(50)]
    assert 0.5 <= min(ends) < 0.6
    assert 1.4 < max(ends) <= 1.5
    assert float((layer.eval()(U)[0] - U)[0, 0]) == pytest.approx(1)


def test_weights_decay_by_one_factor():
    weight = ExponentialDecay(100.0, 1.0, 4)
    assert [weight(k + 1) / weight(k) for k in range(4)] == pytest.approx([0.01**0.25] * 4)
    assert weight(9) == 1


def test_layers_can_be_copied_with_their_generator():
    layer = NeuralODE(Field(), regularize="unbiased")
    layer(U)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        again = copy.deepcopy(layer)
        assert other(U)[1].t_reg == again(U)[1].t_reg


# Paths and stochastic equations.
def test_increments_and_areas_have_their_law():
    path = BrownianTree((40_000,), (1.0, 3.0), random_state=0)
    found = []
    for s, t in ((1.0, 1.3), (1.3, 1.31), (1.31, 3.0)):
        w, area = path(s, t)
        found += [w / math.sqrt(t - s), area / math.sqrt((t - s) / 12)]
    np.testing.assert_allclose(np.cov(torch.stack(found).numpy()), np.eye(6), atol=0.03)


def test_intervals_add_up_in_any_order():
    one, other = (BrownianTree((3, 2), (0.0, 1.0), random_state=5) for _ in range(2))
    places = [0.0, 0.123, 0.5, 0.5000001, 0.9, 1.0]
    parts = [one(s, t) for s, t in itertools.pairwise(places)]
    for s, t in reversed(list(itertools.combinations(range(6), 2))):
        w, area = other(places[s], places[t])
        total = sum(parts[k][0] for k in range(s, t))
        assert torch.allclose(w, total, atol=1e-12)
        # The area is the mean of the path over its chord, which parts give by their own areas and ends.
        mean, at = 0, 0
        for k in range(s, t):
            h = places[k + 1] - places[k]
            mean, at = mean + h * (at + parts[k][0] / 2 + parts[k][1]), at + parts[k][0]
        length = places[t] - places[s]
        assert torch.allclose(area, mean / length - w / 2, atol=1e-7 if length < 1e-3 else 1e-10)
    assert not torch.equal(one(0.0, 1.0)[0], BrownianTree((3, 2), (0.0, 1.0), random_state=6)(0.0, 1.0)[0])


def test_sosri_is_of_strong_order_three_halves():
    u0 = torch.ones(1000, 1, dtype=torch.float64)
    path = BrownianTree((1000, 1), (0.0, 1.0), random_state=1)
    wanted = (0.1 - 0.32 + 0.8 * path(0.0, 1.0)[0]).exp()
    errors = []
    for n in (8, 16, 32, 64):
        u = u0
        for i in range(n):
            u, _ = _step(lambda t, u: 0.1 * u, lambda t, u: 0.8 * u, u, i / n, 1 / n, *path(i / n, (i + 1) / n))
        errors.append(float((u - wanted).abs().mean()))
    assert np.polyfit(np.log(np.arange(3, 7)) * 0 + np.arange(3, 7), np.log2(errors), 1)[0] == pytest.approx(
        -1.45, abs=0.15
    )


def test_rejected_steps_leave_the_path_alone():
    path = BrownianTree((16, 2), (0.0, 1.0), random_state=0)
    u0 = torch.ones(16, 2, dtype=torch.float64)
    drift, diffusion = (lambda t, u: -20 * u * (t > 0.5)), (lambda t, u: 0.3 + 2.0 * (t > 0.5) * u)
    wild = solve_sde(drift, diffusion, u0, (0.0, 1.0), path, atol=0.05, rtol=0.05)
    assert wild.n_reject[0] > 0
    ends = [float(step.t[0] + step.h[0]) for step in wild.steps]
    np.testing.assert_allclose([float(step.t[0]) for step in wild.steps][1:], ends[:-1])
    brownian = solve_sde(lambda t, u: 0 * u, lambda t, u: torch.ones_like(u), torch.zeros(16, 2).double(), (0.0, 1.0),
                         path, t_eval=[0.3, 1.0])  # fmt: skip
    assert torch.allclose(brownian.states[1], path(0.0, 1.0)[0], atol=1e-12)
    assert torch.allclose(brownian.states[0], path(0.0, 0.3)[0], atol=1e-9)


def test_times_may_be_close_to_each_other():
    path = BrownianTree((4, 3), (0.0, 1.0), random_state=3)
    times = [1e-12, 0.5, 0.5 + 1.5e-12, 1.0]
    solution = solve_sde(lambda t, u: -u, lambda t, u: 0.1 * u, U, (0.0, 1.0), path, t_eval=times)
    assert torch.allclose(solution.states[1], solution.states[2], atol=1e-5)
    with pytest.raises(RuntimeError, match="it shrank to nothing"):
        solve_sde(lambda t, u: u / (t < 0.3), lambda t, u: 0.1 * u, U, (0.0, 1.0), path)


@pytest.mark.parametrize("regularize", ["unbiased", "biased", "global"])
def test_noisy_evaluations_are_counted(regularize):
    drift, diffusion = Field(), Field(1)
    layer = NeuralSDE(drift, diffusion, regularize=regularize, atol=0.1, rtol=0.1)
    _, info = layer(U, random_state=3)
    assert info.nfe == drift.calls + diffusion.calls
    assert info.reg > 0
    gradients = torch.autograd.grad(info.reg, [drift.a, diffusion.a])
    assert all(g.any() for g in gradients)
    _, quiet = layer.eval()(U, random_state=3)
    assert float(quiet.reg) == 0


@pytest.mark.parametrize("estimator", ["sosri", "lamba", "milstein"])
def test_local_errors_shrink_with_the_step(estimator):
    drift, diffusion = Field(), Field(1)

    def error(h, seed):
        generator = torch.Generator().manual_seed(seed)
        penalty = local_sde_regularizer(drift, diffusion, U, 0.1, 1.0, generator=generator, estimator=estimator, step=h)
        return float(penalty.detach()) / h

    values = [np.mean([error(h, seed) for seed in range(50)]) for h in (0.04, 0.01)]
    # The order of what is left: 1 of Euler's g' g dW^2 and of SOSRI's first term, h times a sum of drifts; 3/2 of dW^3.
    wanted = 1.5 if estimator == "milstein" else 1.0
    assert math.log(values[0] / values[1]) / math.log(4) == pytest.approx(wanted, abs=0.3)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: NeuralODE(Field(), regularize="local"), ValueError, "regularize is 'local'"),
        (lambda: NeuralODE(Field(), reg_type="error"), ValueError, "reg_type is 'error'"),
        (lambda: NeuralODE(Field(), adjoint="both"), ValueError, "adjoint is 'both'"),
        (lambda: NeuralODE(Field(), regularize="global", adjoint="adjoint"), ValueError, "'global' with adjoint"),
        (lambda: NeuralODE(Field(), solver="euler"), ValueError, "solver is 'euler'"),
        (lambda: NeuralODE(Field(), (1.0, 0.0)), ValueError, "t_span is"),
        (lambda: NeuralODE(Field(), (0.0, 1.0, 2.0)), ValueError, "t_span has 3"),
        (lambda: NeuralODE(Field(), t_eval=[0.5, 0.1]), ValueError, "t_eval is"),
        (lambda: NeuralODE(Field(), atol=0), ValueError, "atol is 0"),
        (lambda: NeuralODE(Field(), steer=1.0), ValueError, "steer is 1.0"),
        (lambda: NeuralODE(Field(), steer=0.1, t_eval=[1.0]), ValueError, "steer moves"),
        (lambda: NeuralODE(Field(), max_steps=0), ValueError, "max_steps is 0"),
        (lambda: NeuralODE(Field(), aggregate="max"), ValueError, "aggregate is 'max'"),
        (lambda: NeuralODE(Field(), step_size="big"), ValueError, "step_size is 'big'"),
        (lambda: local_regularizer(Field(), U, 1.0, 1.0), ValueError, "t is 1"),
        (lambda: local_regularizer(Field(), U, 0.0, 1.0, atol=-1.0), ValueError, "atol is -1"),
        (lambda: local_regularizer(Field(), U, 0.0, 1.0, rtol=math.inf), ValueError, "rtol is inf"),
        (lambda: local_regularizer(Field(), U, 0.0, 1.0, rtol=torch.ones(3)), ValueError, r"rtol has shape \(3,\)"),
        (lambda: local_regularizer(Field(), U, 0.0, math.inf), ValueError, "t_end is inf"),
        (lambda: local_regularizer(Field(), U, 0.0, 1.0, step=np.full(4, 0.1)), ValueError, "step is"),
        (lambda: local_regularizer(Field(), U, 0.0, 1.0, step=-0.1, control="sample"), ValueError, "step is"),
        (lambda: local_regularizer(Field(), U, [0.0, 0.2, 0.1, 0.3], 1.0), ValueError, "that rise"),
        (lambda: local_regularizer(Field(), U, [0.0, 0.1, math.nan, 0.3], 1.0), ValueError, "that rise"),
        (lambda: local_regularizer(lambda t, u: u / (t == 0), U, 0.0, 1.0), RuntimeError, "local step's penalty"),
        (lambda: local_sde_regularizer(Field(), lambda t, u: u / 0, U, 0.0, 1.0), RuntimeError, "local step's penalty"),
        (lambda: local_sde_regularizer(Field(), lambda t, u: u[:, :1], U, 0.0, 1.0), ValueError, "diffusion returned"),
        (
            lambda: local_sde_regularizer(lambda t, u: u[:1], Field(), U, 0.0, 1.0, estimator="lamba"),
            ValueError,
            "drift",
        ),
        (
            lambda: solve_sde(Field(), Field(), U, (0.0, 1.0), BrownianTree((4, 3), (0.0, 1.0), 0, torch.float32)),
            TypeError,
            "path is torch.float32",
        ),
        (lambda: local_regularizer(Field(), U, [0.0, 1.0], 1.0), ValueError, "t has 2 times for 4"),
        (lambda: local_regularizer(Field(), U, 0.0, 1.0, kind="all"), ValueError, "kind is 'all'"),
        (lambda: local_regularizer(Field(), U * math.nan, 0.0, 1.0), ValueError, "u0 has 12 NaN"),
        (lambda: NeuralSDE(Field(), Field(), solver="em"), ValueError, "solver is 'em'"),
        (lambda: NeuralSDE(Field(), Field(), estimator="em"), ValueError, "estimator is 'em'"),
        (lambda: NeuralSDE(Field(), Field(), regularize="unbiased", step_size="solver"), ValueError, "step_size"),
        (lambda: BrownianTree((1,), (1.0, 1.0), 0), ValueError, "t_span is"),
        (lambda: BrownianTree((1,), (0.0, 1.0), 0)(0.5, 1.5), ValueError, "t is 1.5"),
        (lambda: BrownianTree((1,), (0.0, 1.0), 0)(0.5, 0.5), ValueError, "a time after s"),
        (lambda: ExponentialDecay(0.0, 1.0, 3), ValueError, "start is 0"),
        (lambda: ExponentialDecay(1.0, 1.0, 0), ValueError, "steps is 0"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_the_adjoint_finds_its_parameters_under_hooks_of_saved_tensors():
    func = torch.nn.Linear(2, 2).double()

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = func

        def forward(self, t, u):
            return self.inner(u)

    layer = NeuralODE(Field(), adjoint="adjoint", atol=1e-8, rtol=1e-8)
    u0 = torch.ones(1, 2, dtype=torch.float64)
    gradients = []
    for hooked in (False, True):
        func.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(torch.clone if hooked else lambda x: x, lambda x: x):
            layer(u0)[0].sum().backward()
        gradients.append(func.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert bool((gradients[0] != 0).any())
