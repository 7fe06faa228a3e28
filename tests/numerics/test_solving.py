"""Embedded pairs: order conditions, orders of steps and dense output, stability, and the one loop round them."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK23, RK45

from paperworks.numerics import PAIRS, EmbeddedPair, first_step, solve_ode, take_step

U = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=torch.float64)


def swing(t, u):
    place = t.reshape(-1, *[1] * (u.ndim - 1)) if t.ndim else t
    return u * torch.cos(place)


def exact(u, t, start=0.0):
    return u * math.exp(math.sin(t) - math.sin(start))


@pytest.mark.parametrize("name", PAIRS)
def test_weights_meet_the_conditions_of_their_orders(name):
    pair = PAIRS[name]
    a = np.zeros((len(pair.b) + 1, len(pair.b) + 1))
    for i, row in enumerate((*pair.a, pair.b)):
        a[i, : len(row)] = row
    b, c, last = np.array((*pair.b, 0.0)), a.sum(1), np.array(pair.error)
    embedded = b - last
    trees = {
        1: [np.ones_like(c)],
        2: [c],
        3: [c**2, a @ c],
        4: [c**3, c * (a @ c), a @ c**2, a @ a @ c],
        5: [c**4, c**2 * (a @ c), (a @ c) ** 2, c * (a @ c**2), c * (a @ a @ c), a @ c**3, a @ (c * (a @ c)),
            a @ a @ c**2, a @ a @ a @ c],
    }  # fmt: skip
    values = {1: [1], 2: [1 / 2], 3: [1 / 3, 1 / 6], 4: [1 / 4, 1 / 8, 1 / 12, 1 / 24],
              5: [1 / 5, 1 / 10, 1 / 20, 1 / 15, 1 / 30, 1 / 20, 1 / 40, 1 / 60, 1 / 120]}  # fmt: skip
    for order in range(1, pair.order + 1):
        np.testing.assert_allclose([b @ tree for tree in trees[order]], values[order], atol=2e-14)
    for order in range(1, pair.error_order + 1):
        np.testing.assert_allclose([embedded @ tree for tree in trees[order]], values[order], atol=2e-14)
    np.testing.assert_allclose(np.sum(pair.dense, axis=1), b, atol=1e-14)
    # The dense output is of order 4 (3 for bosh3) at every share of the step.
    for share in (0.1, 0.37, 0.8):
        inside = np.array(pair.dense) @ share ** np.arange(1, len(pair.dense[0]) + 1)
        for order in range(1, min(pair.order, 4) + 1):
            wanted = np.array(values[order]) * share**order
            np.testing.assert_allclose([inside @ tree for tree in trees[order]], wanted, atol=1e-13)


def test_what_scipy_also_has_is_the_same():
    np.testing.assert_allclose(PAIRS["dopri5"].dense, RK45.P)
    np.testing.assert_allclose(PAIRS["bosh3"].dense, RK23.P)


@pytest.mark.parametrize("name", PAIRS)
def test_the_region_of_stability_ends_there(name):
    u = torch.ones(1, 1, dtype=torch.float64)
    grown = [
        float(take_step(lambda t, u, z=z: -z * u, u, -z * u, 0.0, 1.0, PAIRS[name]).end.abs())
        for z in (PAIRS[name].stability - 1e-3, PAIRS[name].stability + 1e-3)
    ]
    assert grown[0] < 1 < grown[1]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("h", [0.01, 0.5, -0.2])
def test_stiffness_is_the_eigenvalue_over_the_stability(name, h):
    trial = take_step(lambda t, u: -7.0 * u, U, -7.0 * U, 0.3, h, PAIRS[name])
    assert float(trial.stiffness_estimate("batch")) == pytest.approx(7 / PAIRS[name].stability, rel=1e-9)
    assert trial.stiffness_estimate("sample").shape == (2,)
    still = take_step(lambda t, u: 0 * u, U, 0 * U, 0.3, h, PAIRS[name])
    assert float(still.stiffness_estimate("batch")) == 0


@pytest.mark.parametrize("name", PAIRS)
def test_steps_converge_at_their_orders(name):
    pair, start = PAIRS[name], 0.4
    errors = []
    for h in (0.4, 0.2, 0.1):
        trial = take_step(swing, U, swing(torch.tensor(start), U), start, h, pair)
        wanted = [exact(U, start + share * h, start) for share in (1.0, 0.4)]
        estimate = float(trial.error_estimate(1.0, 0.0, "batch"))
        errors.append([*(float((got - w).abs().max()) for got, w in
                         zip((trial.end, trial.inside(0.4)), wanted, strict=True)), estimate])  # fmt: skip
    orders = np.log2(np.array(errors[:-1]) / errors[1:])[-1]
    assert orders[0] > pair.order + 0.5
    assert orders[1] > min(pair.order, 4) + 0.6
    assert orders[2] > pair.error_order + 0.5


def test_one_way_of_control_is_the_other_where_samples_are_alike():
    u = torch.ones(3, 4, dtype=torch.float64) * torch.tensor([1.0, 0.3, 2.0, 0.5])
    batch, sample = (solve_ode(swing, u, (0.0, 3.0), atol=1e-7, rtol=1e-7, control=c) for c in ("batch", "sample"))
    assert torch.allclose(batch.states, sample.states, rtol=0, atol=1e-13)
    assert sample.n_accept.tolist() == [int(batch.n_accept[0])] * 3
    for one, many in zip(batch.steps, sample.steps, strict=True):
        np.testing.assert_allclose(many.t, one.t[0], rtol=1e-9)
        np.testing.assert_allclose(many.h, one.h[0], rtol=1e-6)
        np.testing.assert_allclose(many.error, one.error, rtol=1e-5)


def test_samples_of_their_own_steps_take_those_of_solves_of_their_own():
    rate = torch.tensor([[1.0], [30.0], [5.0]], dtype=torch.float64)
    u = torch.ones(3, 1, dtype=torch.float64)
    times = [0.2, 0.21, 0.9]

    def field(t, u, rate=rate):
        return -rate * (u - torch.sin(t)[:, None])

    together = solve_ode(field, u, (0.0, 1.0), t_eval=times, control="sample")
    for i in range(3):
        alone = solve_ode(lambda t, u, i=i: field(t, u, rate[i : i + 1]), u[i : i + 1], (0.0, 1.0), t_eval=times,
                          control="sample")  # fmt: skip
        assert torch.allclose(together.states[:, i], alone.states[:, 0], rtol=0, atol=1e-12)
        counts = [int(x) for x in (alone.nfe[0], alone.n_accept[0], alone.n_reject[0])]
        assert [int(x[i]) for x in (together.nfe, together.n_accept, together.n_reject)] == counts
        taken = [float(step.h[i]) for step in together.steps if step.h[i]]
        np.testing.assert_allclose(taken, [float(step.h[0]) for step in alone.steps], rtol=1e-6)
    assert len({int(n) for n in together.n_accept}) == 3


@pytest.mark.parametrize("controller", ["i", "pi"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0), (-3.0, -1.0)])
def test_steps_lie_end_to_end_and_keep_the_tolerance(span, controller):
    solution = solve_ode(swing, U, span, atol=1e-8, rtol=1e-8, controller=controller)
    ends = [float(step.t[0] + step.h[0]) for step in solution.steps]
    starts = [float(step.t[0]) for step in solution.steps]
    assert starts[0] == span[0]
    assert ends[-1] == pytest.approx(span[1], abs=1e-15)
    np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-15)
    assert all(np.sqrt(np.mean(step.error**2)) <= 1 for step in solution.steps)
    assert torch.allclose(solution.states[-1], exact(U, span[1], span[0]), rtol=0, atol=1e-7)


def test_the_first_step_is_the_same_whoever_asks():
    slope = swing(torch.tensor(0.0), U)
    batch = first_step(swing, U, slope, 0.0, 1.0, PAIRS["tsit5"], 1e-6, 1e-6)
    each = first_step(swing, U, slope, np.zeros(2), 1.0, PAIRS["tsit5"], 1e-6, 1e-6, "sample")
    alone = [first_step(swing, U[i : i + 1], slope[i : i + 1], 0.0, 1.0, PAIRS["tsit5"], 1e-6, 1e-6)[0] for i in (0, 1)]
    np.testing.assert_allclose(each, alone)
    assert min(each) <= batch[0] <= max(each)
    assert first_step(swing, U, 0 * U, 0.0, 1.0, PAIRS["tsit5"], 1e-6, 1e-6)[0] > 0
    assert first_step(swing, U, slope, 1.0, 0.0, PAIRS["tsit5"], 1e-6, 1e-6)[0] < 0


def test_estimates_of_steps_carry_their_graph():
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for kind, count in itertools.product(("error_estimate", "stiffness_estimate", "mixed"), (1, 2)):
        control = "batch" if count == 1 else "sample"
        solution = solve_ode(lambda t, u: -rate * u, U, (0.0, 1.0), estimates=kind, control=control)
        assert all(step.estimate.shape == (count,) for step in solution.steps)
        total = torch.stack([step.estimate for step in solution.steps]).sum()
        (gradient,) = torch.autograd.grad(total, rate)
        assert gradient > 0
    with torch.no_grad():
        solution = solve_ode(lambda t, u: -rate * u, U, (0.0, 1.0), estimates="error_estimate", keep_states=True)
    for step in solution.steps:
        wanted = float(step.h[0]) * math.sqrt(float(np.mean(step.error**2)))
        assert float(step.estimate) == pytest.approx(wanted)
        assert torch.allclose(step.u, U * math.exp(-2 * float(step.t[0])), atol=1e-5)


def test_without_a_graph_nothing_is_kept():
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert not solve_ode(lambda t, u: -rate * u, U, (0.0, 1.0)).states.requires_grad


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_stiffness_knows_no_size(size):
    trial = take_step(lambda t, u: -7.0 * u, size * U, -7.0 * size * U, 0.3, 0.1, PAIRS["tsit5"])
    for control in ("batch", "sample"):
        wanted = torch.full_like(trial.stiffness_estimate(control), 7 / PAIRS["tsit5"].stability)
        assert torch.allclose(trial.stiffness_estimate(control), wanted, rtol=1e-9)


def test_stiffness_is_not_made_up_of_rounding():
    u = U.float()
    short = take_step(lambda t, u: -7.0 * u, u, -7.0 * u, 0.0, 1e-5, PAIRS["tsit5"])
    assert float(short.stiffness_estimate("batch")) <= 7 / PAIRS["tsit5"].stability


@pytest.mark.parametrize("control", ["batch", "sample"])
def test_a_rejected_step_that_is_not_finite_leaves_gradients_alone(control):
    """The second sample's first steps run into the logarithm of a negative number; the first's are fine."""
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    each = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    u = torch.tensor([[0.9], [8.0]], dtype=torch.float64)

    def end():
        field = lambda t, u: -rate * torch.log(u) * each  # noqa: E731
        return solve_ode(field, u, (0.0, 0.01), atol=1e-6, rtol=1e-6, control=control).states[-1].sum()

    (gradient,) = torch.autograd.grad(end(), rate)
    with torch.no_grad():
        ends = []
        for shift in (1e-4, -2e-4):
            rate.add_(shift)
            ends.append(float(end()))
    assert float(gradient) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3)


def test_functions_may_return_the_same_memory_each_time():
    memory = torch.empty_like(U)

    def fresh(t, u):
        return -20 * torch.sin(5 * u) * torch.cos(t)

    def reused(t, u):
        return memory.copy_(fresh(t, u))

    for graph in (True, False):
        with torch.set_grad_enabled(graph):
            one, other = (solve_ode(f, U, (0.0, 1.0), estimates="stiffness_estimate") for f in (fresh, reused))
        assert one.n_reject[0] > 0
        assert torch.equal(one.states, other.states)
        assert [step.estimate for step in one.steps] == [step.estimate for step in other.steps]


def test_times_may_be_long():
    still = torch.zeros_like(U)
    solution = solve_ode(lambda t, u: 1e-10 * torch.cos(1e-10 * t) * torch.ones_like(u), still, (0.0, 1e10))
    assert torch.allclose(solution.states, torch.full_like(U, math.sin(1.0)), atol=1e-5)


def test_failures_say_where_precision_is_short():
    with pytest.raises(RuntimeError, match="rtol is below the precision of torch"):
        solve_ode(swing, U.float(), (0.0, 1.0), atol=1e-12, rtol=1e-12, max_steps=100)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("u0", "func", "match"),
    [
        (U.half(), swing, "u0 is torch.float16"),
        (U.bfloat16(), swing, "u0 is torch.bfloat16"),
        (U.to(torch.complex128), swing, "u0 is torch.complex128"),
        (U.tolist(), swing, "u0 is list"),
        (U, lambda t, u: 1.0, "func returned float"),
        (U, lambda t, u: u.float(), "func returned torch.float32"),
    ],
)
def test_other_types_are_refused(u0, func, match):
    with pytest.raises(TypeError, match=match):
        solve_ode(func, u0, (0.0, 1.0))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pair": "rk4"}, "pair is 'rk4'"),
        ({"control": "both"}, "control is 'both'"),
        ({"controller": "d"}, "controller is 'd'"),
        ({"estimates": "all"}, "estimates is 'all'"),
        ({"t_eval": []}, "t_eval is"),
        ({"rtol": torch.tensor([1.0, math.inf])}, "rtol is down to 1; it takes finite"),
        ({"atol": torch.ones(3)}, r"atol has shape \(3,\)"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        solve_ode(swing, U, (0.0, 1.0), **options)


def test_a_span_is_finite():
    with pytest.raises(ValueError, match="t_span is"):
        solve_ode(swing, U, (-1e308, 1e308))


def test_pairs_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="error is None"):
        EmbeddedPair(1, ((),), (1.0,))
    with pytest.raises(ValueError, match=r"dense has rows of \[1\]"):
        EmbeddedPair(1, ((),), (1.0,), (1.0, -1.0), 1, ((1.0,),))
