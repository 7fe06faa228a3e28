import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from paperworks.numerics import (
    TABLEAUS,
    Sums,
    Tableau,
    Tolerance,
    adapt,
    fixed_plan,
    follow,
    odeint,
    runge_kutta_step,
)

START = torch.tensor([1.0, 0.5], dtype=torch.float64)
EMBEDDED = [name for name, tableau in TABLEAUS.items() if tableau.error is not None]


def pendulum(x, t):
    return torch.stack([x[1], -torch.sin(x[0]) + 0.3 * math.cos(2 * t)])


def nothing(state, s, weighs):
    return state, ()


def exactly(x, end):
    def slope(t, y):
        return [y[1], -np.sin(y[0]) + 0.3 * np.cos(2 * t)]

    return torch.from_numpy(solve_ivp(slope, (0, end), x.numpy(), "DOP853", rtol=1e-13, atol=1e-13).y[:, -1])


def order_of(errors):
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("method", [*TABLEAUS, "ab"])
def test_a_method_converges_with_its_order(method):
    order = 4 if method == "ab" else TABLEAUS[method].order
    truth = exactly(START, 2.0)
    errors = [(odeint(pendulum, START, np.linspace(0, 2, n + 1).tolist(), method) - truth).norm() for n in (32, 64)]
    assert order_of(errors) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("method", EMBEDDED)
def test_the_error_weights_estimate_with_the_lower_order(method):
    tableau = TABLEAUS[method]
    found = []
    for h in (0.1, 0.05):
        slopes = []
        for row, c in zip(tableau.a, tableau.c, strict=True):
            stage = START + sum((h * a * k for a, k in zip(row, slopes, strict=True)), torch.zeros(2))
            slopes.append(pendulum(stage, c * h))
        end = runge_kutta_step(pendulum, START, 0.0, h, method)
        slopes.append(pendulum(end, h))
        found.append(sum(h * e * k for e, k in zip(tableau.error, slopes, strict=True)).norm())
    assert order_of(found) == pytest.approx(tableau.error_order + 1, abs=0.35)
    assert sum(tableau.error) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("method", EMBEDDED)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_the_adaptive_error_is_within_a_few_tolerances_of_scipys_solution(method, tolerance):
    if method == "heun" and tolerance < 1e-5:
        tolerance = 1e-5
    found = odeint(pendulum, START, [0.0, 1.0, 3.0], method, rtol=tolerance, atol=tolerance)
    assert (found - exactly(START, 3.0)).abs().max() < 30 * tolerance


def test_adaptive_steps_cost_as_much_as_scipys():
    calls = []

    def counted(x, t):
        calls.append(t)
        return pendulum(x, t)

    odeint(counted, START, [0.0, 20.0], "dopri5", rtol=1e-6, atol=1e-6)
    theirs = solve_ivp(
        lambda t, y: pendulum(torch.from_numpy(y), t).numpy(), (0, 20), START.numpy(), rtol=1e-6, atol=1e-6
    )
    assert len(calls) < 1.3 * theirs.nfev


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shape_are_kept_and_the_input_is_untouched(dtype):
    x = torch.ones(3, 2, dtype=dtype)
    for options in ({}, {"method": "dopri5", "rtol": 1e-3}):
        found = odeint(lambda y, t: -y, x, [0.0, 1.0], **options)
        assert found.dtype == dtype
        assert found.shape == x.shape
    assert torch.equal(x, torch.ones(3, 2, dtype=dtype))


def test_backwards_undoes_forwards_and_the_callback_sees_each_time():
    seen, tight = [], {"rtol": 1e-10, "atol": 1e-10}
    there = odeint(pendulum, START, [0.0, 0.5, 2.0], "dopri5", **tight, callback=lambda t, x: seen.append(t))
    assert seen == [0.5, 2.0]
    back = odeint(pendulum, there, [2.0, 0.0], "dopri5", **tight)
    torch.testing.assert_close(back, START, rtol=0, atol=1e-8)
    fixed = []
    odeint(pendulum, START, [0.0, 0.5, 2.0], callback=lambda t, x: fixed.append(t))
    assert fixed == [0.5, 2.0]


def test_gradients_flow_through_both_loops():
    for options in ({"method": "rk4"}, {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9}):
        x = torch.ones(1, dtype=torch.float64, requires_grad=True)
        odeint(lambda y, t: -y, x, np.linspace(0, 1, 11).tolist(), **options).sum().backward()
        assert x.grad.item() == pytest.approx(math.exp(-1), rel=1e-5)


@pytest.mark.parametrize("method", ["rk4", "ab"])
def test_integrals_run_along(method):
    nodes = (np.linspace(0, 1, 41) ** 1.2).tolist()  # uneven
    field = lambda state, s, weighs: ((-state[0],), (state[0] ** 2, None))  # noqa: E731
    sums = Sums(2)
    follow(field, (torch.ones(1, dtype=torch.float64),), fixed_plan(method, nodes), sums)
    assert sums.values[0].item() == pytest.approx((1 - math.exp(-2)) / 2, rel=1e-5)
    assert sums.values[1] is None
    adaptive = Sums(2)
    adapt(field, (torch.ones(1, dtype=torch.float64),), 0.0, 1.0, Tolerance(1e-9, 1e-9), adaptive)
    assert adaptive.values[0].item() == pytest.approx((1 - math.exp(-2)) / 2, rel=1e-8)


def test_a_slope_that_is_not_finite_ends_the_adaptive_loop():
    with pytest.raises(RuntimeError, match="shrank to nothing"):
        odeint(lambda x, t: x * math.nan, torch.ones(1), [0.0, 1.0], "dopri5", rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: odeint(pendulum, START, [0.0]), "times is"),
        (lambda: odeint(pendulum, START, [0.0, 1.0, 0.5]), "times is"),
        (lambda: odeint(pendulum, START, [0.0, 0.0]), "times is"),
        (lambda: odeint(pendulum, START, [0.0, 1.0], "rk45"), "method is 'rk45'"),
        (lambda: odeint(pendulum, START, [0.0, 1.0], "rk4", rtol=1e-3), "method is 'rk4'"),
        (lambda: odeint(pendulum, START, [0.0, 1.0], "dopri5", rtol=1e-3, atol=0), "atol is 0"),
        (lambda: runge_kutta_step(pendulum, START, 0.0, 1.0, "ab"), "method is 'ab'"),
        (lambda: Tableau(1, ((), ()), (1.0,)), "a has rows"),
        (lambda: Tableau(1, ((),), (1.0,), (1.0,), 1), "error has 1 weights"),
        (
            lambda: adapt(
                lambda *_: ((START,), ()), (START,), 0.0, 1.0, Tolerance(1, 1), Sums(0), tableau=TABLEAUS["rk4"]
            ),
            "tableau is",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_plans_join_up():
    nodes = [3.0, 2.0, 1.5, 1.4, 0.0, -1.0]
    plan = fixed_plan("ab", nodes)
    assert [step.s for step in plan] == nodes[:-1]
    assert [step.h for step in plan] == [b - a for a, b in pairwise(nodes)]
    for step in plan:
        assert sum((*step.b, *step.history)) == pytest.approx(step.h)
