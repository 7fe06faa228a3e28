"""Mixtures of frequencies: exact derivatives and algebra, gradients, solutions of equations, and what is refused."""

import math
import warnings

import gpytorch
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.solvers import (
    Advection,
    AllenCahn,
    Equation,
    GPHMSolver,
    Helmholtz,
    Linear,
    Poisson,
    SpectralMixtureKernel,
)
from paperworks.solvers.kernels.prior import Axis, Prior, cholesky, toeplitz
from paperworks.solvers.kernels.projection import DenseProjection, KroneckerProjection, Linearised, Problem

A = math.sqrt(5) * 1.3
PRECISE = {
    "student": lambda z: (1 + A * abs(z) + A**2 * z**2 / 3) * mpmath.exp(-A * abs(z)),
    "gauss": lambda z: mpmath.exp(-(mpmath.mpf(1.3) ** 2) * z**2),
}


def kernel_of(kind, n=2):
    kernel = SpectralMixtureKernel(kind, n, max_freq=0.7, init_lengthscale=1 / 1.3)
    with torch.no_grad():
        kernel.raw_mixture_weights.copy_(torch.tensor([0.2, -0.5]).log_softmax(0))
        kernel.raw_mixture_means.copy_(torch.tensor([0.3, -0.7]))
    return kernel


@pytest.mark.parametrize("kind", PRECISE)
def test_derivatives_are_those_of_many_digits(kind):
    kernel = kernel_of(kind)
    w, mu = (x.detach().tolist() for x in (kernel.weights, kernel.raw_mixture_means))

    def value(z):
        return PRECISE[kind](z) * sum(a * mpmath.cos(2 * mpmath.pi * m * z) for a, m in zip(w, mu, strict=True))

    with mpmath.workdps(40):
        for z in (-2.3, -0.02, 0.3, 1.9):
            for order in range(5):
                exact = float(mpmath.diff(value, mpmath.mpf(z), order))
                found = kernel(torch.tensor(z, dtype=torch.float64), order).item()
                assert found == pytest.approx(exact, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("kind", PRECISE)
def test_the_diagonal_of_derivatives_is_right_where_automatic_ones_lose_it(kind):
    kernel = kernel_of(kind)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    w, s = kernel.weights, 2 * math.pi * kernel.raw_mixture_means
    bend = A**2 / 3 if kind == "student" else 2 * 1.3**2
    assert kernel(zero, 2).item() == pytest.approx(float(-(w * (bend + s**2)).sum()), rel=1e-12)
    assert [kernel(zero, order).item() for order in (1, 3)] == [0, 0]
    fourth = A**4 if kind == "student" else 12 * 1.3**4
    assert kernel(zero, 4).item() == pytest.approx(float((w * (fourth + 6 * s**2 * bend + s**4)).sum()), rel=1e-12)
    if kind == "student":
        (first,) = torch.autograd.grad(kernel(zero).sum(), zero, create_graph=True)
        automatic = torch.autograd.grad(first, zero)[0].item()
        assert automatic == pytest.approx(float(-(w * s**2).sum()))  # without the a^2 / 3


@pytest.mark.parametrize("kind", PRECISE)
def test_parameters_have_exact_gradients(kind):
    kernel = kernel_of(kind)
    lags = torch.linspace(-1, 2, 7, dtype=torch.float64)

    def of(weights, means, scales):
        values = {"raw_mixture_weights": weights, "raw_mixture_means": means, "raw_mixture_scales": scales}
        return torch.func.functional_call(kernel, values, (lags, 2))

    inputs = [p.detach().clone().requires_grad_() for p in kernel.parameters()]
    assert torch.autograd.gradcheck(of, inputs)


def test_the_gaussian_mixture_is_gpytorchs():
    ours = kernel_of("gauss")
    theirs = gpytorch.kernels.SpectralMixtureKernel(num_mixtures=2).double()
    theirs.initialize(
        mixture_weights=ours.weights.detach(),
        mixture_means=ours.frequencies.detach().reshape(2, 1, 1),
        mixture_scales=(ours.raw_mixture_scales.detach().exp() / (2 * math.pi**2)).sqrt().reshape(2, 1, 1),
    )
    x = torch.linspace(0, 3, 20, dtype=torch.float64)
    K = Axis(x).matrices(ours, [0])[0]
    torch.testing.assert_close(K, theirs(x[:, None]).to_dense(), rtol=1e-10, atol=1e-10)


@given(
    st.integers(5, 30),
    st.lists(st.floats(-3, 1), min_size=3, max_size=3),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_covariances_are_positive_and_toeplitz(n, logs, means):
    x = torch.linspace(0, 2, n, dtype=torch.float64)
    for kind in PRECISE:
        kernel = SpectralMixtureKernel(kind, 3, max_freq=1.0)
        with torch.no_grad():
            kernel.raw_mixture_weights.copy_(torch.tensor(logs))
            kernel.raw_mixture_means.copy_(torch.tensor(means))
            even = Axis(x).matrices(kernel, [0, 1, 2])
            full = {order: kernel(x[:, None] - x, order) for order in even}
        for order, matrix in even.items():
            torch.testing.assert_close(matrix, full[order], rtol=1e-9, atol=1e-9)
        assert torch.linalg.eigvalsh(even[0]).min() > -1e-12 * n * float(kernel.weights.detach().sum())
        assert torch.linalg.eigvalsh(-even[2]).min() > -1e-9 * float(-full[2][0, 0])


def test_toeplitz_puts_lags_where_they_belong():
    column = torch.tensor([1.0, 2.0, 3.0])
    assert toeplitz(column).tolist() == [[1, 2, 3], [2, 1, 2], [3, 2, 1]]
    assert toeplitz(column - 1, odd=True).tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]


def test_jitter_is_raised_until_a_factor_exists_and_not_for_ever():
    matrix = torch.ones(4, 4, dtype=torch.float64) - 5e-7 * torch.eye(4, dtype=torch.float64)
    assert cholesky(matrix, 1e-9)[1] == pytest.approx(1e-6)
    with pytest.raises(torch.linalg.LinAlgError, match="jitter"):
        cholesky(-torch.eye(4, dtype=torch.float64), 1e-9)


def problem_of(equation, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    f, g = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    known = torch.ones(shape, dtype=torch.bool)
    known[(slice(1, -1),) * len(shape)] = False
    zero = torch.zeros(shape, dtype=torch.float64)
    return Problem(equation, f, g, known, 3.0, zero, zero)


def prior_of(equation, shape, kind="student", jitter=1e-4):
    axes = [Axis(torch.linspace(0, 1 + j, n, dtype=torch.float64)) for j, n in enumerate(shape)]
    return Prior(axes, [kernel_of(kind) for _ in shape], equation.coefficients, jitter)


SMALL = [
    (Poisson(2), (12, 9)),
    (Helmholtz(2.0, 2), (8, 7)),
    (Advection(3.0), (9, 8)),
    (Linear({(2, 0): 1.0, (1, 1): 0.5, (1, 0): -2.0, (0, 0): 1.0}), (8, 7)),
    (AllenCahn(3), (5, 6, 7)),
    (Linear({(1,): 1.0, (2,): 0.1}), (14,)),
]


def _named(value):
    """Name an equation without the addresses of its functions, which differ between processes."""
    return type(value).__name__ if not isinstance(value, tuple) else "x".join(map(str, value))


@pytest.mark.parametrize(("equation", "shape"), SMALL, ids=_named)
def test_kronecker_algebra_is_dense_algebra(equation, shape):
    problem, prior = problem_of(equation, shape), prior_of(equation, shape)
    logs = torch.tensor([0.3, -0.2], dtype=torch.float64)
    with torch.no_grad():
        U = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        W = prior.whitened(U)
        covariances = [L @ L.mT for L in prior.factors]

        def kron(orders):
            K = torch.ones(1, 1, dtype=torch.float64)
            for j, order in enumerate(orders):
                K = torch.kron(K, prior.derivatives[j][order] if order else covariances[j])
            return K

        K = kron([0] * len(shape))
        alpha = torch.linalg.solve(K, U.reshape(-1))
        left = sum(c * kron(index) @ alpha for index, c in equation.coefficients.items()).reshape(shape)
        torch.testing.assert_close(prior.operator(W), left, rtol=1e-8, atol=1e-8 * float(left.abs().max()))
        torch.testing.assert_close(prior.values(W), U)
        torch.testing.assert_close(prior.dual(W).reshape(-1), alpha, rtol=1e-6, atol=1e-6 * float(alpha.abs().max()))
        H = left - problem.source + (0 if equation.nonlinear is None else equation.nonlinear(U))
        off = (U - problem.boundary)[problem.known]
        dense = (
            torch.logdet(K) / 2
            + U.reshape(-1) @ alpha / 2
            + 1.5 * (math.exp(0.3) * off.square().sum() - 0.3 * len(off))
            + 0.5 * (math.exp(-0.2) * H.square().sum() + 0.2 * H.numel())
        )
        assert problem.objective(prior, W, logs)[0].item() == pytest.approx(float(dense), rel=1e-8)


@pytest.mark.parametrize(("equation", "shape"), SMALL, ids=_named)
def test_the_projection_is_the_least_squares_solution(equation, shape):
    problem, prior = problem_of(equation, shape), prior_of(equation, shape)
    logs = torch.tensor([2.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        start = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        linear = Linearised.around(problem, prior, start, logs)

        def least_squares(flat):
            W = flat.reshape(shape)
            U = prior.values(W)
            left = prior.operator(W) + (0 if linear.slope is None else linear.slope * U) - linear.f
            off = (U - linear.g)[linear.known]
            return (W.square().sum() + linear.p1 * off.square().sum() + linear.p2 * left.square().sum()) / 2

        zero = torch.zeros(start.numel(), dtype=torch.float64)
        hessian = torch.func.hessian(least_squares)(zero)
        exact = -torch.linalg.solve(hessian, torch.func.grad(least_squares)(zero))
        solver = DenseProjection(linear) if len(shape) == 1 else KroneckerProjection(linear, rtol=1e-12, steps=5000)
        torch.testing.assert_close(solver.solve(start).reshape(-1), exact, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            solver.apply_inverse(start).reshape(-1),
            torch.linalg.solve(hessian, start.reshape(-1)),
            rtol=1e-6,
            atol=1e-7,
        )
        if isinstance(solver, KroneckerProjection) and linear.slope is None:
            bases = [torch.ones(1, 1, dtype=solver.L[0].dtype)]
            for Q in solver.bases:
                bases.append(torch.kron(bases[-1], Q))
            rotated = bases[-1].mH @ hessian.to(solver.L[0].dtype) @ bases[-1]
            torch.testing.assert_close(solver.diagonal.reshape(-1), rotated.diagonal().real, rtol=1e-9, atol=1e-9)


def test_the_gradient_is_that_of_the_profiled_objective():
    """By the envelope theorem the whitened solution may be held fixed; finite differences solve anew."""
    equation, shape = Poisson(), (30,)
    problem = problem_of(equation, shape)
    axis = Axis(torch.linspace(0, 1, 30, dtype=torch.float64))
    kernel = kernel_of("student")
    logs = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)

    def profiled():
        prior = Prior([axis], [kernel], equation.coefficients, 1e-4)
        with torch.no_grad():
            around = Linearised.around(problem, prior, torch.zeros(30, dtype=torch.float64), logs)
            W = DenseProjection(around).solve()
        return problem.objective(prior, W, logs)[0]

    free = [*kernel.parameters(), logs]
    gradients = torch.autograd.grad(profiled(), free)
    for parameter, gradient in zip(free, gradients, strict=True):
        for i in range(2):
            values = []
            for h in (1e-4, -1e-4):
                with torch.no_grad():
                    parameter[i] += h
                    values.append(profiled().item())
                    parameter[i] -= h
            assert gradient[i].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-4, abs=1e-6)


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


def wave(k):
    return (lambda x: np.sin(k * x)), (lambda x: -(k**2) * np.sin(k * x))


OPTIONS = {"n_components": 12, "max_freq": 6, "steps": 80}


@pytest.mark.parametrize("kind", PRECISE)
def test_a_wave_is_found_with_its_frequency_and_derivatives(kind):
    u, f = wave(8 * math.pi)
    solver = GPHMSolver(Poisson(), (0, 1), 60, kernel=kind, **OPTIONS).fit(f, u)
    x = np.linspace(0, 1, 201)
    assert error(solver.predict(x), u(x)) < 1e-3
    assert error(solver.predict(x, 1), 8 * math.pi * np.cos(8 * math.pi * x)) < 1e-2
    assert error(solver.predict(x, 2), f(x)) < 1e-2
    spectrum = solver.spectrum_[0]
    assert abs(spectrum.frequencies[0] - 4) < 0.1
    assert (np.diff(spectrum.weights) <= 0).all()
    assert len(spectrum.active()) == 3
    np.testing.assert_allclose(solver.predict(solver.grid()[0]), solver.solution_, atol=1e-5)
    np.testing.assert_allclose(solver.predict(solver.grid()[0], 2) - f(solver.grid()[0]), solver.residual_, atol=0.05)
    np.testing.assert_array_equal(solver.predict_grid([x]), solver.predict(x))


def test_a_plain_kernel_fails_where_the_mixture_does_not():
    u, f = wave(2 * math.pi * 10)
    x = np.linspace(0, 2, 301)
    errors = {
        n: error(GPHMSolver(Poisson(), (0, 2), 80, n_components=n, max_freq=top, steps=60).fit(f, u).predict(x), u(x))
        for n, top in ((1, 0), (20, 14))
    }
    assert errors[20] < 1e-2 < 0.1 < errors[1]


def test_the_step_of_the_least_objective_is_returned_and_it_repeats_itself():
    u, f = wave(8 * math.pi)
    runs = [GPHMSolver(Poisson(), (0, 1), 40, **OPTIONS).fit(f, u) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].solution_, runs[1].solution_)
    best = min(runs[0].history_, key=lambda step: step.objective)
    assert runs[0].selected_ == best
    off = runs[0].solution_[[0, -1]] - u(np.array([0.0, 1.0]))
    assert np.mean(off**2) == pytest.approx(best.boundary_gap, rel=1e-3)
    assert np.mean(runs[0].residual_ ** 2) == pytest.approx(best.equation_gap, rel=1e-3)


def test_it_solves_a_nonlinear_equation_an_unknown_one_and_helmholtz():
    k = 6 * math.pi
    u, f = wave(k)
    x = np.linspace(0, 1, 201)
    options = {**OPTIONS, "steps": 40}
    cases = [
        (AllenCahn(), lambda x: f(x) + u(x) ** 3 - u(x)),
        (Equation({(2,): 1.0}, lambda v: 20 * v.sin(), lambda v: 20 * v.cos()), lambda x: f(x) + 20 * np.sin(u(x))),
        (Helmholtz(10.0), lambda x: f(x) + 100 * u(x)),
        (Linear({(2,): 0.01, (1,): 1.0}), lambda x: 0.01 * f(x) + k * np.cos(k * x)),
    ]
    for equation, source in cases:
        assert error(GPHMSolver(equation, (0, 1), 60, **options).fit(source, u).predict(x), u(x)) < 1e-2, equation


def test_two_variables_are_solved_and_predicted_alike_at_points_and_on_grids():
    u = lambda x, y: np.sin(12 * x) * np.cos(9 * y)  # noqa: E731
    solver = GPHMSolver(Poisson(2), [(0, 1), (0, 2)], (16, 24), n_components=5, max_freq=(3, 3), steps=14)
    solver.fit(lambda x, y: -225 * u(x, y), u)
    x, y = np.linspace(0, 1, 30), np.linspace(0, 2, 20)
    grid = np.meshgrid(x, y, indexing="ij")
    assert error(solver.predict_grid([x, y]), u(*grid)) < 2e-2
    points = np.column_stack([g.ravel() for g in grid])
    for orders in ((0, 0), (1, 0), (1, 2)):
        np.testing.assert_allclose(
            solver.predict(points, orders), solver.predict_grid([x, y], orders).ravel(), rtol=1e-9, atol=1e-8
        )
    step = 1e-4
    by_hand = (solver.predict([[0.5 + step, 1.1]]) - solver.predict([[0.5 - step, 1.1]])) / (2 * step)
    assert solver.predict([[0.5, 1.1]], (1, 0)) == pytest.approx(by_hand, rel=1e-4)


def test_evolution_needs_no_last_time():
    u = lambda x, t: np.sin(5 * x - 10 * t)  # noqa: E731
    known = np.ones((14, 14), dtype=bool)
    known[1:-1, 1:] = False
    known[-1, 1:] = False
    solver = GPHMSolver(Advection(2.0), [(0, 1), (0, 1)], 14, n_components=6, max_freq=3, steps=8)
    solver.fit(0.0, u, known=known)
    assert error(solver.solution_, u(*solver.grid())) < 0.02


def test_uneven_nodes_and_torch_data_are_taken():
    u, f = wave(8 * math.pi)
    nodes = np.sort(np.append(np.random.default_rng(0).uniform(0, 1, 68), [0, 1]))
    solver = GPHMSolver(Poisson(), nodes=nodes, **OPTIONS)
    solver.fit(torch.as_tensor(f(nodes)), torch.tensor([0.0, 0.0], dtype=torch.float64))
    x = np.linspace(0, 1, 100)
    assert error(solver.predict(x), u(x)) < 1e-2


def test_deviations_are_those_of_the_dense_posterior():
    u, f = wave(4 * math.pi)
    solver = GPHMSolver(Poisson(), (0, 1), 20, n_components=4, max_freq=3, steps=5, jitter=1e-4).fit(f, u)
    x = np.array([0.0, 0.02, 0.5])
    _, found = solver.predict(x, return_std=True)
    kernel, best = solver.kernels_[0], solver.selected_
    nodes, at = (torch.as_tensor(v) for v in (solver.grid()[0], x))
    with torch.no_grad():
        K = kernel(nodes[:, None] - nodes) + best.jitter * torch.eye(20, dtype=torch.float64)
        rows = torch.cat([torch.eye(20, dtype=torch.float64)[[0, -1]], kernel(nodes[:, None] - nodes, 2) @ K.inverse()])
        noise = torch.tensor([best.boundary_gap] * 2 + [best.equation_gap] * 20)
        inner = rows @ K @ rows.mT + torch.diag(noise)
        to = kernel(at[:, None] - nodes) @ K.inverse()
        posterior = K - K @ rows.mT @ torch.linalg.solve(inner, rows @ K)
        exact = kernel(torch.zeros(1, dtype=torch.float64)) - ((to @ K) * to).sum(1) + ((to @ posterior) * to).sum(1)
    np.testing.assert_allclose(found**2, exact, rtol=1e-3, atol=1e-6)
    assert (found < 0.1).all()  # 1 before anything is known
    flat = GPHMSolver(Poisson(2), [(0, 1), (0, 1)], 12, n_components=3, max_freq=2, steps=5)
    flat.fit(0.0, lambda x, y: x * y)
    _, inside = flat.predict([[0.0, 0.3], [0.5, 0.5]], return_std=True)
    assert (inside < 0.5).all()
    assert (inside > 0).all()


def test_an_extra_process_takes_what_the_first_leaves():
    u = lambda x: np.sin(20 * x) + x**2  # noqa: E731
    f = lambda x: -400 * np.sin(20 * x) + 2  # noqa: E731
    steps = []
    solver = GPHMSolver(Poisson(), (0, 1), 50, n_components=8, max_freq=4, steps=60, extra_gp=0.5)
    solver.fit(f, u, callback=lambda step, values: steps.append((step.number, error(values, u(solver.grid()[0])))))
    assert [number for number, _ in steps] == [step.number for step in solver.history_]
    x = np.linspace(0, 1, 100)
    assert len(solver.parts_) == 2
    assert error(solver.predict(x), u(x)) < 1e-3
    np.testing.assert_allclose(solver.predict(solver.grid()[0]), solver.solution_, atol=1e-4)


def test_data_of_any_layout_are_taken_alike():
    x = np.linspace(0, 1, 10)
    made = lambda source: solver_of(steps=2, n_components=2).fit(source, [0.0, 1.0]).solution_  # noqa: E731
    exact = made(x)
    fixed = x.copy()
    fixed.flags.writeable = False
    for same in (x[::-1].copy()[::-1], np.repeat(x, 2)[::2], fixed, list(x), torch.tensor(x, requires_grad=True)):
        np.testing.assert_array_equal(made(same), exact)


@pytest.mark.usefixtures("untyped")
def test_no_points_give_no_values_and_data_that_are_met_exactly_a_deviation_of_nothing():
    solver = solver_of(steps=2, n_components=2).fit(0.0, 0.0)
    assert [len(v) for v in solver.predict([], return_std=True)] == [0, 0]
    values, deviations = solver.predict([0.0, 0.5, 1e300], return_std=True)
    np.testing.assert_array_equal(values, 0)
    assert deviations[0] < 1e-3
    assert deviations[2] == pytest.approx(float(solver.kernels_[0].weights.sum().detach().sqrt()))
    np.testing.assert_array_equal(solver.predict([0.3], np.int64(2)), solver.predict([0.3], 2))


@pytest.mark.parametrize("kind", PRECISE)
def test_kernels_vanish_at_great_lags_and_keep_finite_gradients(kind):
    kernel = kernel_of(kind)
    for order in range(5):
        values = kernel(torch.tensor([1e4, -1e200, 1e300], dtype=torch.float64), order)
        assert values.tolist() == [0, 0, 0]
        assert all(g.isfinite().all() for g in torch.autograd.grad(values.sum(), list(kernel.parameters())))


def test_the_step_that_is_selected_is_the_one_that_is_returned_once_precisions_are_capped(monkeypatch):
    monkeypatch.setattr("paperworks.solvers.kernels.training.LOG_PRECISION_CAP", 0.2)
    u, f = wave(2 * math.pi)
    solver = GPHMSolver(Poisson(), (0, 1), 20, n_components=3, max_freq=2, steps=12).fit(f, u)
    best = min(solver.history_, key=lambda step: step.objective)
    assert best.equation_precision == pytest.approx(math.exp(0.2))
    assert solver.selected_.equation_precision < 1.22
    assert np.mean(solver.residual_**2) == pytest.approx(solver.selected_.equation_gap, rel=1e-3)


def test_what_was_found_survives_a_covariance_without_a_factor():
    with pytest.warns(UserWarning, match="training ended at step 1"):
        solver = solver_of(lr=1e300, steps=5, n_components=2).fit(0.0, [0.0, 1.0])
    assert np.isfinite(solver.predict([0.5])).all()
    assert solver.selected_.number == 0


@pytest.mark.parametrize(("length", "warns"), [(100, True), (1, False)])
def test_a_solution_that_misses_its_data_warns(length, warns):
    u, f = wave(8 * math.pi / length)
    solver = GPHMSolver(Poisson(), (0, length), 40, n_components=8, max_freq=5 / length, steps=40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solver.fit(f, u)
    assert any("misses source" in str(w.message) for w in caught) == warns


def test_joint_adam_lowers_the_same_objective_and_a_callback_stops_it():
    u, f = wave(2 * math.pi)
    made = lambda optimizer, steps: GPHMSolver(  # noqa: E731
        Poisson(), (0, 1), 20, n_components=3, max_freq=2, optimizer=optimizer, steps=steps
    )
    joint = made("adam", 60).fit(f, u)
    assert joint.history_[-1].objective < joint.history_[0].objective
    assert made("varpro", 5).fit(f, u).history_[0].objective < joint.history_[0].objective
    stopped = made("adam", 60).fit(f, u, callback=lambda step, values: step.number == 3)
    assert len(stopped.history_) == 4


def solver_of(**options):
    return GPHMSolver(**{"equation": Poisson(), "domain": (0, 1), "grid_shape": 10, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"grid_shape": 4}, "grid_shape is 4"),
        ({"domain": (1, 0)}, "strictly rising"),
        ({"domain": [(0, 1), (0, 1)]}, "2 axes; the equation has 1"),
        ({"nodes": [0.0, 1.0]}, "either domain and grid_shape, or nodes"),
        ({"kernel": "cosine"}, "kernel is 'cosine'"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"max_freq": "high"}, "max_freq is 'high'"),
        ({"max_freq": (1, 2)}, "one number for each of 1 axes"),
        ({"jitter": 1.0}, "jitter is 1.0"),
        ({"extra_gp": 1.0}, "extra_gp is 1.0"),
        ({"boundary_weight": -1}, "boundary_weight is -1"),
        ({"init_log_precisions": (1.0,)}, "two numbers"),
        ({"init_log_precisions": 1.0}, "two numbers"),
        ({"domain": 5}, "domain is 5; it takes two ends"),
        ({"domain": None, "grid_shape": None, "nodes": []}, "at least 5 on each axis"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        solver_of(**options)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"source": np.full(10, np.nan)}, "source has 10 NaN"),
        ({"source": np.zeros(10, dtype=np.float32)}, "source is torch.float32; it takes float64"),
        ({"source": np.zeros(9)}, r"source has the shape \(9,\)"),
        ({"boundary": np.zeros(3)}, r"boundary has the shape \(3,\)"),
        ({"boundary": np.array([0, np.nan])}, "boundary has 1 NaN"),
        ({"boundary": np.zeros(10) * 1j}, "boundary is complex"),
        ({"known": np.zeros(10, dtype=bool)}, "known is False everywhere"),
        ({"known": np.ones(10)}, "known has shape"),
        ({"source": torch.zeros(10, device="meta")}, "device meta"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_data_are_refused(data, match):
    with pytest.raises(ValueError, match=match):
        solver_of().fit(**{"source": 0.0, "boundary": [0.0, 1.0], **data})


@pytest.mark.usefixtures("untyped")
def test_bad_points_and_equations_are_refused():
    with pytest.raises(TypeError, match="equation is 'Poisson'"):
        solver_of(equation="Poisson")
    with pytest.raises(RuntimeError, match="not fitted"):
        solver_of().predict([0.5])
    solver = solver_of(steps=2, n_components=2).fit(0.0, [0.0, 1.0])
    for points, derivative, match in (
        ([[0.1, 0.2]], 0, "rows of 1 coordinates"),
        ([math.nan], 0, "points has 1 NaN"),
        ([0.1], 5, "derivative is 5"),
        ([0.1], (1, 1), "an order for each of 1 variables"),
    ):
        with pytest.raises(ValueError, match=match):
            solver.predict(points, derivative)
    with pytest.raises(ValueError, match="axes has 2 entries"):
        solver.predict_grid([[0.1], [0.2]])
    with pytest.raises(ValueError, match=r"an entry of the shape \(1, 2\)"):
        solver.predict_grid([[[0.1, 0.2]]])
    uneven = GPHMSolver(Poisson(2), nodes=[np.linspace(0, 1, 6), np.linspace(0, 1, 7)])
    assert uneven.grid_shape == (6, 7)
    for points, derivative in ((["a"], 0), ([0.1], 1.0)):
        with pytest.raises(TypeError, match=r"real numbers|whole number"):
            solver.predict(points, derivative)
    with pytest.raises(TypeError, match="source has the dtype object"):
        solver_of().fit(None, 0.0)
    for coefficients, nonlinear in (([1], None), ({(2,): 1.0}, 3)):
        with pytest.raises(TypeError, match=r"a mapping of constants|a function of a tensor"):
            Equation(coefficients, nonlinear, nonlinear)
    for phi, match in ((torch.sum, "nonlinear takes a tensor"), (torch.log, "nonlinear of 0 has 10 NaN or infinite")):
        with pytest.raises(ValueError, match=match):
            solver_of(equation=Equation({(2,): 1.0}, phi, torch.cos)).fit(0.0, 0.0)
    given = {(2,): 1.0}
    equation = Linear(given)
    given[(2,)] = 5.0
    assert equation.coefficients == {(2,): 1.0}
    for coefficients in ({}, {(1,): 1.0, (1, 0): 2.0}, {(5,): 1.0}, {(2,): 0.0}, {(2,): math.inf}):
        with pytest.raises(ValueError, match="coefficients"):
            Equation(coefficients)
    with pytest.raises(ValueError, match="belong together"):
        Equation({(2,): 1.0}, nonlinear=torch.sin)
    with pytest.raises(ValueError, match="order is 5"):
        kernel_of("gauss")(torch.zeros(1), order=5)
    with pytest.raises(ValueError, match="number of velocities"):
        Advection()


def test_what_is_doubtful_warns():
    with pytest.warns(UserWarning, match=r"max_freq is 5, and the nodes can't tell frequencies above 4.5"):
        solver_of(max_freq=5)
    with pytest.warns(UserWarning, match="more than two derivatives"):
        solver_of(equation=Linear({(4,): 1.0}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beam = GPHMSolver(Linear({(4,): 1.0}), (0, 1), 24, kernel="gauss", n_components=6, max_freq=4, steps=40)
        k = 4 * math.pi
        beam.fit(lambda x: k**4 * np.sin(k * x), lambda x: np.sin(k * x), known=np.isin(np.arange(24), [0, 1, 22, 23]))
    assert error(beam.solution_, np.sin(k * beam.grid()[0])) < 1e-2
    fitted = solver_of(steps=2, n_components=2).fit(0.0, [0.0, 1.0])
    with pytest.warns(UserWarning, match="derivative asks for more than two"):
        fitted.predict([0.5], 3)
