"""Energies against independent computations: finite differences, dense transforms, Newton's method, quadrature."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import newton_krylov

from paperworks.solvers import (
    EllipticEnergy,
    RidgeNetwork,
    SineSeries,
    TrigSum,
    barron_bound,
    iterations_for,
    laplacian,
    linear,
    minimal_surface,
    network_size,
    p4,
    paper_barron_bound,
    paper_constants,
    semilinear,
    sharp_constants,
    solve_pgd,
    width_for,
)
from paperworks.solvers.energy.representations import GridSpace, SineSpace, TorusSpace

PRESETS = {
    "linear": (linear(c=0.5), (0.5, 0.5), (1.0, 1.0)),
    "anisotropic": (linear(np.array([[2.0, 0.5], [0.5, 1.0]]), c=0.5), (0.5, 0.5), (0.7, 2.3)),
    "semilinear": (semilinear(0.5, 2.0), (0.5, 20.0), (1.0, 1.0)),
    "p4": (p4(0.3), (0.0, 0.0), (1.0, 30.0)),
    "minimal surface": (minimal_surface(), (0.0, 0.0), (0.01, 1.0)),
    "differentiated": (
        lambda x, u, p: 0.5 * (1 + x[:, 0]) * p.square().sum(1) + torch.cosh(u),
        (1.0, 30.0),
        (1.0, 2.0),
    ),
}


def cubic():
    c = np.zeros((3, 3))
    c[0, 0], c[2, 1] = 1.0, 0.2
    u = SineSeries(c)
    return EllipticEnergy.with_solution(semilinear(), u, c_bounds=(0.0, 6.75)), u


def wave(dim=2):
    return TrigSum.cosines(np.eye(dim, dtype=int) + np.eye(dim, k=1, dtype=int), np.ones(dim), 0.3)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("representation", ["sine", "grid"])
def test_the_gradient_is_that_of_the_energy(name, representation):
    L, c_bounds, p_bounds = PRESETS[name]
    rng = np.random.default_rng(0)
    if representation == "sine":
        problem = EllipticEnergy(L, SineSeries(rng.normal(size=(4, 4))), 2, c_bounds, p_bounds)
        space, weight = SineSpace(problem, 4), 0.25
    else:
        mask = rng.random((5, 6)) < 0.8
        problem = EllipticEnergy(L, rng.normal(size=(5, 6)), 2, c_bounds, p_bounds)
        space, weight = GridSpace(problem, mask, 0.2), 0.2**2
    u, v = (0.1 * rng.normal(size=space.zero().shape) for _ in range(2))
    step = 1e-5
    slope = (space.energy(u + step * v) - space.energy(u - step * v)) / (2 * step)
    tolerance = 1e-4 if name in ("minimal surface", "differentiated") and representation == "sine" else 1e-7
    assert weight * float(np.vdot(space.gradient(u)[0], v)) == pytest.approx(slope, rel=tolerance, abs=1e-9)


@pytest.mark.parametrize("name", ["linear", "anisotropic", "semilinear", "p4"])
def test_the_gradient_on_the_torus_is_that_of_the_energy(name):
    L, c_bounds, p_bounds = PRESETS[name]
    space = TorusSpace(EllipticEnergy(L, wave(), 2, c_bounds, p_bounds))
    u, v = 0.1 * wave() + 0.2, TrigSum.cosines([[1, 0], [2, 2], [0, 0]], [0.3, 0.1, 0.2], 1.0)
    step = 1e-5
    slope = (space.energy(u + step * v) - space.energy(u + (-step) * v)) / (2 * step)
    assert space.gradient(u)[0].inner(v) == pytest.approx(slope, rel=1e-7)


def test_hessians_are_those_of_the_integrands():
    rng = np.random.default_rng(0)
    u, p = rng.normal(size=50), rng.normal(size=(2, 50))
    torch_forms = {
        "semilinear": lambda x, u, p: 0.5 * p.square().sum(1) + 0.25 * u**2 + 0.5 * u**4,
        "p4": lambda x, u, p: 0.5 * p.square().sum(1) + 0.075 * p.square().sum(1) ** 2,
        "minimal surface": lambda x, u, p: (1 + p.square().sum(1)).sqrt(),
    }
    for name, form in torch_forms.items():
        other = EllipticEnergy(form, wave(), 2, (0, 1), (1, 1)).L
        np.testing.assert_allclose(PRESETS[name][0].hessian(None, u, list(p)), other.hessian([u, u], u, list(p)))
        np.testing.assert_allclose(PRESETS[name][0].rest(None, u, list(p)), other.rest([u, u], u, list(p)))
        within = PRESETS[name][0].hessian_within(np.abs(u).max(), np.linalg.norm(p, axis=0).max())
        reached = PRESETS[name][0].hessian(None, u, list(p))
        assert within.c_low <= reached.c_low <= reached.c_high <= within.c_high * (1 + 1e-12)
        assert within.p_low <= reached.p_low * (1 + 1e-12)
        assert reached.p_high <= within.p_high * (1 + 1e-12)


def test_descent_converges_at_the_proven_rate_with_a_certified_error():
    problem, u = cubic()
    history = []
    result = solve_pgd(
        problem, n_modes=15, rtol=1e-13, maxiter=40, track=("energy", "certified"), callback=history.append
    )
    assert result.converged
    errors = [u.h1_norm, *((v - u).h1_norm for v in history)]
    certified = result.history["certified"]
    assert all(e <= c * (1 + 1e-9) for e, c in zip(errors, certified, strict=True) if e > 1e-12)
    gaps = result.history["energy"] - result.history["energy"][-1]
    assert (gaps[1:9] <= result.constants.rate * gaps[:8]).all()
    assert result.u.barron_norm() == pytest.approx(7.908317617986, abs=1e-9)
    assert (result.hessian.c_low, result.hessian.p_high) == (0.0, 1.0)


def test_it_agrees_with_newtons_method_on_differences():
    problem, u = cubic()
    n = 63
    grid = np.stack(np.meshgrid(*[np.arange(1, n + 1) / (n + 1)] * 2, indexing="ij"), axis=-1)
    f = problem.f(grid).ravel()
    matrix = laplacian((n, n), 1 / (n + 1))
    newton = newton_krylov(lambda v: matrix @ v + v**3 - f, np.zeros(n * n), f_rtol=1e-8)
    on_points = EllipticEnergy(semilinear(), f.reshape(n, n), 2, c_bounds=(0.0, 6.75))
    mask = np.ones((n, n), dtype=bool)
    ours = solve_pgd(on_points, representation="grid", mask=mask, spacing=1 / (n + 1), rtol=1e-10)
    np.testing.assert_allclose(ours.u.ravel(), newton, atol=1e-7)
    np.testing.assert_allclose(ours.u, u(grid), atol=3e-3)
    assert np.isnan(ours.history["barron"]).all()


def test_domains_of_any_shape_and_solvers_of_ones_own():
    mask = np.hypot(*(np.indices((21, 21)) - 10.0)) < 9.5
    problem = EllipticEnergy(p4(0.5), lambda x, y: 1 + 0 * x * y, 2, p_bounds=(1.0, 1.5))
    called = []
    space = GridSpace(problem, mask, 0.1)

    def solve(g):
        called.append(1)
        return space.solve(g)

    options = {"representation": "grid", "mask": mask, "spacing": 0.1, "rtol": 1e-9}
    result = solve_pgd(problem, **options)
    again = solve_pgd(problem, solve=solve, **options)
    np.testing.assert_array_equal(result.u, again.u)
    assert called
    assert (result.u[~mask] == 0).all()
    assert np.abs(space.gradient(result.u[mask])[0]).max() < 1e-7
    assert solve_pgd(problem, start=result.u, **options).iterations == 0


def test_steps_that_raise_the_energy_are_halved():
    problem = cubic()[0]
    with pytest.warns(RuntimeWarning, match="halved"):
        result = solve_pgd(problem, n_modes=9, step=4.0, track=("energy",), maxiter=60)
    assert (np.diff(result.history["energy"]) <= 1e-9).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="infinite"):
            solve_pgd(problem, n_modes=9, step=100.0, maxiter=60)


def test_a_hessian_beyond_its_bounds_is_told():
    u = SineSeries(np.ones((1, 1)))
    problem = EllipticEnergy.with_solution(semilinear(), u, c_bounds=(0.0, 1.0))
    with pytest.warns(RuntimeWarning, match="c_bounds"):
        solve_pgd(problem, n_modes=3)


def test_solutions_on_the_torus_in_many_dimensions():
    u = 0.4 * wave(20).pruned(most=8)
    problem = EllipticEnergy.with_solution(semilinear(1.0, 1.0), u, c_bounds=(1.0, 1 + 3 * u.mass**2))
    options = {"representation": "trig", "step": "optimal", "track": ("certified",)}
    result = solve_pgd(problem, rtol=1e-7, prune=1e-9, **options)
    assert result.converged
    short = solve_pgd(problem, rtol=1e-7, most_terms=4, maxiter=5, **options)
    assert short.u.terms <= 4
    difference = result.u - u
    error = math.sqrt(difference.inner(difference) + sum(q.inner(q) for q in difference.grad()))
    assert error <= result.certified_error < 1e-4


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_sums_are_an_algebra(seed, dim):
    rng = np.random.default_rng(seed)

    def drawn(terms):
        return TrigSum.cosines(rng.integers(-3, 4, (terms, dim)), rng.normal(size=terms), rng.random(terms))

    u, v = drawn(4), drawn(3)
    x = rng.random((20, dim))
    np.testing.assert_allclose((u * v)(x), u(x) * v(x), atol=1e-10)
    np.testing.assert_allclose((2 * u - v + 1)(x), 2 * u(x) - v(x) + 1, atol=1e-10)
    step = 1e-6 * np.eye(dim)[0]
    np.testing.assert_allclose(u.grad()[0](x), (u(x + step) - u(x - step)) / 2e-6, atol=1e-5)
    np.testing.assert_allclose((u.precondition() - u.precondition().laplacian())(x), u(x), atol=1e-10)
    assert (u * v).barron_norm() <= u.barron_norm() * v.barron_norm() * (1 + 1e-12)
    assert (u + v).barron_norm() <= u.barron_norm() + v.barron_norm() + 1e-12
    assert u.inner(v) == pytest.approx((u * v).inner(0 * u + 1), abs=1e-10)
    small = u.pruned(0.3 * u.mass)
    assert np.abs(small(x) - u(x)).max() <= small.slack + 1e-12
    assert small.slack <= u.mass


def test_products_that_drop_terms_say_how_much():
    rng = np.random.default_rng(0)
    u = TrigSum.cosines(rng.integers(-5, 6, (30, 3)), 0.5 ** np.arange(30.0))
    x = rng.random((50, 3))
    exact = (u * u)(x)
    u.tolerance = 1e-3
    product = u * u
    assert product.terms < 500
    assert np.abs(product(x) - exact).max() <= product.slack <= 1.1e-3 * u.mass**2


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_series_are_sums(seed, dim, n):
    rng = np.random.default_rng(seed)
    u = SineSeries(rng.normal(size=(n,) * dim))
    x, t = rng.random((10, dim)), u.to_trig()
    np.testing.assert_allclose(t(x), u(x), atol=1e-10)
    assert t.barron_norm() == pytest.approx(u.barron_norm())
    assert t.mass == pytest.approx(u.mass)
    again = SineSeries.interpolating(lambda *axes: u(np.stack(np.broadcast_arrays(*axes), axis=-1)), dim, n + 1)
    np.testing.assert_allclose((again - u).coefficients, 0, atol=1e-10)
    assert u.norm**2 == pytest.approx(t.inner(t))
    values = u.on_grid(n + 2)
    places = np.stack(np.meshgrid(*[np.arange(n + 3) / (n + 2)] * dim, indexing="ij"), axis=-1)
    np.testing.assert_allclose(values, u(places), atol=1e-10)


def test_bounds_of_norms_hold_and_are_exact_for_one_step():
    problem, _ = cubic()
    for step in (sharp_constants(problem.c_bounds, problem.p_bounds, 2 * math.pi**2).step, 0.01):
        result = solve_pgd(problem, n_modes=15, step=step, maxiter=5, rtol=0.0)
        bounds = barron_bound(problem, 5, step)
        assert (np.log10(result.history["barron"][1:]) <= bounds[1:]).all()
        # By hand: b' = m b + step (b³ + |f|).
        least = 2 * math.pi**2
        m, b = max(abs(1 - step * least / (1 + least)), abs(1 - step)), 0.0
        for expected in 10 ** bounds[1:4]:
            b = m * b + step * (b**3 + problem.f.barron_norm())
            assert b == pytest.approx(expected)
    paper = paper_constants(1.0, 6.75).step
    assert (barron_bound(problem, 6, paper) <= paper_barron_bound(problem, 6)).all()
    assert paper_barron_bound(problem, 2000)[-1] == math.inf


def test_sizes():
    constants = paper_constants(1.0, 6.75)
    assert constants.rate == pytest.approx(1 - 1 / (2 * 6.75**4))
    assert iterations_for(1e-3, 1.0, constants) == math.ceil(math.log(2e6) / -math.log(constants.rate))
    assert iterations_for(10.0, 1.0, constants) == 0
    assert width_for(0.1, 2.0) == 1600
    problem, u = cubic()
    after, before, paper = (
        network_size(problem, 0.1, u),
        network_size(problem, 0.1),
        network_size(problem, 0.1, bound="paper"),
    )
    assert after.log10_width < before.log10_width < paper.log10_width
    # 4 C² / (eps / 2)² with the radius sqrt(2) / 2 of the square in C.
    assert after.log10_width == pytest.approx(math.log10(8 * u.barron_norm() ** 2 / 0.01))
    assert width_for(0.1, u) == math.ceil(2 * u.barron_norm() ** 2 / 0.01)
    assert network_size(problem, 0.1, 0.0 * u).log10_width == 0
    assert iterations_for(1e-200, 1.0, sharp_constants((0.0, 1.0), (1.0, 1.0), 9.0)) == 401


def test_the_width_of_sigmoids_has_the_radius_of_the_cube():
    # In 50 dimensions drawn networks break the bound without it.
    u = TrigSum.cosines(np.ones((1, 50), int), [1.0])
    x = torch.rand(2000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = torch.from_numpy(u(x.numpy()))
    with torch.no_grad():
        errors = [float((u.to_network("sigmoid", 200, s)(x) - truth).square().mean()) for s in range(10)]
    assert 4 * u.barron_norm() ** 2 / 200 < np.mean(errors) < 50 * u.barron_norm() ** 2 / 200
    assert width_for(1.0, u) == math.ceil(50 * u.barron_norm() ** 2)


def test_numbers_that_are_none_are_no_convergence():
    problem = EllipticEnergy(lambda x, u, p: 0.5 * p.square().sum(1) + u.log(), ONE, 2, (0.0, 1.0), (1.0, 1.0))
    with pytest.raises(RuntimeError, match="infinite"), np.errstate(all="ignore"):
        solve_pgd(problem, n_modes=3)
    bounds = barron_bound(EllipticEnergy(p4(0.1), ONE, 2, p_bounds=(1.0, 4.0)), 1000, 0.3)
    assert bounds[-1] == math.inf


@pytest.mark.parametrize("kind", ["cos", "sigmoid", "relu"])
def test_networks_are_the_function_in_the_mean(kind):
    u = TrigSum.cosines([[1, 0], [2, -1], [0, 0]], [1.0, 0.5, 0.3], [0.4, 1.0, 0.0])
    x = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = u.to_network(kind, width=200_000, random_state=0)
    scale = float(network.outer.abs().sum())
    np.testing.assert_allclose(network(x).detach(), u(x.numpy()), atol=5 * scale / math.sqrt(200_000))
    if kind == "cos":
        assert scale == pytest.approx(u.mass)
    if kind == "sigmoid":
        total = 0.0
        for k, amplitude, phase in ((np.array([1, 0]), 1.0, 0.4), (np.array([2, -1]), 0.5, 1.0)):
            size = np.linalg.norm(k)
            first, last = np.minimum(k, 0).sum() / size, np.maximum(k, 0).sum() / size
            speed = 2 * math.pi * size
            total += amplitude * quad(_slope, first, last, (speed, phase), limit=200)[0]
        assert scale == pytest.approx(total)


def _slope(z, speed, phase):
    return abs(speed * math.sin(speed * z + phase))


def test_a_smooth_sigmoid_comes_near_the_step():
    _, u = cubic()
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step, smooth = (u.to_network("sigmoid", 50, 0, slope=s) for s in (math.inf, 1e6))
    torch.testing.assert_close(step(x), smooth(x), atol=1e-3, rtol=0)
    before = (step(x) - torch.from_numpy(u(x.numpy()))).square().mean()
    after = (step.refit(x, torch.from_numpy(u(x.numpy())))(x) - torch.from_numpy(u(x.numpy()))).square().mean()
    assert after < 0.1 * before
    again = RidgeNetwork(
        *(p.detach() for p in (step.inner, step.shift, step.outer)),
        "sigmoid",
        (step.linear.detach(), float(step.constant)),
    )
    torch.testing.assert_close(again(x), step(x))


ONE = SineSeries(np.ones((1, 1)))
BAD = {
    "bounds in order": (lambda: sharp_constants((2.0, 1.0), (1.0, 1.0), 1.0), "c_bounds"),
    "lambda above 0": (lambda: sharp_constants((0.0, 1.0), (0.0, 1.0), 1.0), "p_bounds"),
    "a free constant": (lambda: sharp_constants((0.0, 1.0), (1.0, 1.0), 0.0), "strongly convex"),
    "bounds missing": (lambda: EllipticEnergy(semilinear(), ONE, 2), "c_bounds is missing"),
    "bounds missing of any L": (lambda: EllipticEnergy(lambda x, u, p: u, ONE, 2), "c_bounds is missing"),
    "dimensions": (lambda: EllipticEnergy(linear(), ONE, 3), "f has 2 dimensions"),
    "A": (lambda: linear(np.diag([1.0, -1.0])), "positive definite"),
    "too few modes": (lambda: solve_pgd(cubic()[0], n_modes=8), "n_modes is 8"),
    "n_modes missing": (lambda: solve_pgd(cubic()[0]), "n_modes is missing"),
    "strange option": (lambda: solve_pgd(cubic()[0], n_modes=9, spacing=0.1), "spacing is given"),
    "torus": (lambda: solve_pgd(cubic()[0], representation="trig"), "TrigSum"),
    "axes mixed": (
        lambda: EllipticEnergy.with_solution(linear(np.array([[2.0, 0.5], [0.5, 1.0]])), ONE),
        "mixes the axes",
    ),
    "axes mixed in a bound": (
        lambda: barron_bound(EllipticEnergy(linear(np.array([[2.0, 0.5], [0.5, 1.0]])), ONE, 2), 2, 0.5),
        "mixes the axes",
    ),
    "no finite source": (
        lambda: EllipticEnergy.with_solution(minimal_surface(), ONE, p_bounds=(0.01, 1.0)),
        "infinitely many",
    ),
    "NaN of a source": (
        lambda: solve_pgd(
            EllipticEnergy(linear(), lambda x, y: x * y * math.nan, 2),
            representation="grid",
            mask=np.ones((3, 3), bool),
            spacing=0.25,
        ),
        "f has complex, NaN",
    ),
    "complex source": (lambda: EllipticEnergy(linear(), 1j * np.ones((2, 2)), 2), "finite real"),
    "NaN times": (lambda: math.nan * wave(), "other is nan"),
    "frequencies": (lambda: TrigSum.cosines([[2**62]], [1.0]), "frequencies has"),
    "too wide": (lambda: width_for(1e-200, ONE), "eps"),
    "refit to NaN": (
        lambda: (
            wave()
            .to_network()
            .refit(torch.zeros(2, 2, dtype=torch.float64), torch.full((2,), math.nan, dtype=torch.float64))
        ),
        "x or y has NaN",
    ),
    "no polynomial": (
        lambda: solve_pgd(EllipticEnergy(minimal_surface(), wave(), 2, p_bounds=(0.1, 1.0)), representation="trig"),
        "no polynomial",
    ),
    "no bound": (
        lambda: barron_bound(EllipticEnergy(minimal_surface(), ONE, 2, p_bounds=(0.1, 1.0)), 2, 0.5),
        "no polynomial",
    ),
    "function": (lambda: barron_bound(EllipticEnergy(linear(), lambda x, y: x, 2), 2, 0.5), "SineSeries or a TrigSum"),
    "not real": (lambda: TrigSum([[1]], [1.0 + 0j]), "conjugate"),
    "NaN": (lambda: SineSeries(np.full((2, 2), np.nan)), "NaN"),
    "not square": (lambda: SineSeries(np.ones((2, 3))), "coefficients has shape"),
    "mask": (
        lambda: solve_pgd(
            EllipticEnergy(linear(), np.ones((3, 3)), 2),
            representation="grid",
            mask=np.zeros((3, 3), bool),
            spacing=1.0,
        ),
        "mask",
    ),
    "start": (lambda: solve_pgd(cubic()[0], n_modes=9, start=np.zeros((9, 9))), "start"),
    "period": (lambda: wave() + ONE.to_trig(), "period"),
    "mixed": (
        lambda: solve_pgd(
            EllipticEnergy(
                lambda x, u, p: p.square().sum(1) + u * p[:, 0] * p[:, 0],
                SineSeries(np.ones((2, 2))),
                2,
                (0, 1),
                (1, 1),
            ),
            n_modes=2,
            maxiter=3,
        ),
        "mixed second derivatives",
    ),
    "step": (lambda: solve_pgd(cubic()[0], n_modes=9, step=-1.0), "step"),
    "width": (lambda: wave().to_network(width=0), "width"),
    "constant": (lambda: TrigSum([[0, 0]], [1.0]).to_network("sigmoid"), "no terms that vary"),
    "refit": (
        lambda: wave().to_network().refit(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)),
        "y has shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_source_that_is_not_zero_at_the_boundary_is_told():
    problem = EllipticEnergy(linear(), lambda x, y: 1 + 0 * x * y, 2)
    with pytest.warns(RuntimeWarning, match="upper half of 16 modes"):
        result = solve_pgd(problem, n_modes=16)
    assert result.converged
