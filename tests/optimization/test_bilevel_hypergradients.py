"""Hyper-gradients against closed forms, and diagnostics where the error bound holds and where it fails."""

from functools import partial

import pytest
import torch

from paperworks.optimization import estimate_error_bound, hypergradient, penalty_gap, prox_box

pytestmark = pytest.mark.usefixtures("untyped")


def quadratic(seed=0, dx=4, dy=6, rank=3):
    """A lower quadratic of low rank; the upper level decides among its solutions."""
    generator = torch.Generator().manual_seed(seed)
    A, B, C = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((rank, dy), (rank, dx), (dy,)))
    x = torch.randn(dx, generator=generator, dtype=torch.float64)

    def f(x, y):
        return (y - C).square().sum() / 2 + (x * x[[1, 2, 3, 0]]).sum() / 2

    def g(x, y):
        return (A @ y - B @ x).square().sum() / 2

    solution = C + torch.linalg.pinv(A) @ (B @ x - A @ C)  # the projection of C on the solutions
    pinv = torch.linalg.pinv(A) @ B
    exact = pinv.T @ (solution - C) + (x[[1, 2, 3, 0]] + x[[3, 0, 1, 2]]) / 2
    return f, g, x, solution, exact


@pytest.mark.parametrize("method", ["pinv", "cg"])
def test_several_lower_solutions(method):
    f, g, x, y, exact = quadratic()
    assert torch.allclose(hypergradient(f, g, x, y, method=method), exact, rtol=1e-8, atol=1e-10)


def test_the_penalty_is_of_first_order_and_extrapolates_to_second():
    f, g, x, y, exact = quadratic()
    errors = [
        [
            float((hypergradient(f, g, x, y, method="penalty", sigma=s, richardson=r) - exact).norm())
            for s in (1e-2, 1e-3)
        ]
        for r in (False, True)
    ]
    assert errors[0][0] / errors[0][1] == pytest.approx(10, rel=0.1)
    assert errors[1][0] / errors[1][1] == pytest.approx(100, rel=0.3)


def test_a_box_by_multipliers_and_by_penalty():
    target = torch.tensor([2.0, 0.3, -1.5], dtype=torch.float64)
    W = torch.tensor([[2.0, 0.4, 0.1], [0.4, 1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)
    f, g = lambda x, y: (y - 1).square().sum() / 2, lambda x, y: (y - x) @ W @ (y - x) / 2
    box = partial(prox_box, lower=-1.0, upper=1.0)
    # Coordinates 0 and 2 are at their bounds; the middle one solves the rest.
    y = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    y[1] = target[1] - (W[1, 0] * (y[0] - target[0]) + W[1, 2] * (y[2] - target[2])) / W[1, 1]
    exact = (y[1] - 1) * torch.stack([W[1, 0], W[1, 1], W[1, 2]]) / W[1, 1]
    constraints = lambda y: torch.cat([y - 1, -1 - y])  # noqa: E731
    assert torch.allclose(hypergradient(f, g, target, y, constraints=constraints), exact)
    by_penalty = hypergradient(f, g, target, y, method="penalty", project_y=box, richardson=True, sigma=1e-3)
    assert torch.allclose(by_penalty, exact, atol=1e-5)


def test_curved_constraints_add_their_curvature():
    """The nearest point of the unit ball is x / |x|."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    c = torch.tensor([1.0, -2.0], dtype=torch.float64)
    f, g = lambda x, y: c @ y, lambda x, y: (y - x).square().sum() / 2
    n = x / 5
    exact = (c - n * (n @ c)) / 5
    found = hypergradient(f, g, x, n, constraints=lambda y: (y.square().sum() - 1)[None] / 2)
    assert torch.allclose(found, exact)


def test_nests_come_back_as_nests():
    x = {"a": torch.tensor([2.0], dtype=torch.float64), "b": [torch.tensor([1.0], dtype=torch.float64)]}
    found = hypergradient(
        lambda x, y: (y[0] * 3).sum(), lambda x, y: (y[0] - x["a"] * x["b"][0]).square().sum(), x,
        [torch.tensor([2.0], dtype=torch.float64)],
    )  # fmt: skip
    assert found["a"] == pytest.approx(torch.tensor([3.0]))
    assert found["b"][0] == pytest.approx(torch.tensor([6.0]))


def test_single_precision_stays_single():
    f, g = lambda x, y: (y - 1).square().sum() / 2, lambda x, y: (y - x**2).square().sum() / 2
    x = torch.tensor([2.0])
    for method in ("pinv", "cg"):
        found = hypergradient(f, g, x, x**2, method=method)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(12.0, rel=1e-4)


def test_a_multiplier_at_zero_warns():
    f, g = lambda x, y: y.sum(), lambda x, y: (y - x).square().sum()
    one = torch.ones(1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="multiplier"):
        hypergradient(f, g, one, one, constraints=lambda y: y - 1)


def test_a_hessian_that_the_upper_gradient_leaves_warns():
    """Without a solution of least f the equation has none: y is not the optimistic one."""
    f, g, x, y, _ = quadratic()
    with pytest.warns(UserWarning, match="Krylov"):
        hypergradient(f, g, x, y + 1.0, method="cg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "unroll"}, "method is 'unroll'"),
        ({"sigma": 0.0}, "sigma is 0"),
        ({"method": "cg", "constraints": lambda y: y}, "constraints are given"),
        ({"project_y": prox_box}, "project_y is given"),
        ({"constraints": lambda y: y}, "constraints are violated"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    f, g = lambda x, y: y.sum(), lambda x, y: (y - x).square().sum()
    with pytest.raises(ValueError, match=message):
        hypergradient(f, g, torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), **options)


def test_the_gap_pairs_bracket_the_truth():
    f, g, x, y, exact = quadratic()
    found = penalty_gap(f, g, x, y, sigma=1e-2)
    truth = float(f(x, y))
    assert found.value[0] <= found.value[1] <= truth  # never above, and rising as sigma falls
    assert abs(found.extrapolated_value - truth) < 0.05 * (truth - found.value[1])
    errors = [float((gradient - exact).norm()) for gradient in (*found.gradient, found.extrapolated_gradient)]
    assert errors[2] < 0.05 * errors[1] < 0.05 * errors[0]


def counterexample(x):
    """The lower solutions jump from one end of the interval to the other where x changes sign."""
    return estimate_error_bound(
        lambda x, y: (x * y).sum(), lambda x, y: (x**2 + y**2).sum(), torch.tensor([x], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64), project_y=partial(prox_box, lower=-1.0, upper=1.0), rho=0.25, n_probe=1,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def test_the_error_bound_fails_in_the_counterexample_and_only_small_sigmas_show_it():
    found = counterexample(1e-3)
    assert found.mu < 2e-3
    assert found.by_sigma[0.1] > 0.1
    assert counterexample(1.0).mu > 0.3


def test_the_error_bound_of_a_strongly_convex_level():
    """A proximal step of a quadratic with one curvature a covers a / (1 + rho a) of the distance over rho."""
    found = estimate_error_bound(
        lambda x, y: (y - x).square().sum(), lambda x, y: 0.0 * y.sum(), torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64), rho=0.125, generator=torch.Generator().manual_seed(0), n_probe=1,
    )  # fmt: skip
    assert found.mu == pytest.approx(2 / 1.25, rel=1e-5)


def test_a_lower_level_without_a_minimum_is_refused():
    x, y = torch.ones(1, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="lower level is not finite"):
        hypergradient(lambda x, y: -(y[0] ** 2) + x.sum(), lambda x, y: (y[1] - x[0]) ** 2, x, y, method="penalty")
    with pytest.raises(ValueError, match="lower level is not finite"):
        hypergradient(lambda x, y: y.sum(), lambda x, y: (y - 2).log().sum() + x.sum(), x, y, method="penalty")
