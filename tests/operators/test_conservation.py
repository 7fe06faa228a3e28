"""The update against dense algebra and autograd, closed forms against quadrature, the process against its own rules."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import BayesianRidge, LinearRegression

from paperworks.operators import (
    AttentiveNeuralProcess,
    ConservativeUpdate,
    ConservingRegressor,
    ProbConservANP,
    condition_linear,
    conservation_error,
    constrained_log_likelihood,
    gaussian_log_likelihood,
    law_residual,
    moment_match,
    project_inequality,
    quadrature_weights,
    second_difference_update,
    shock_location,
    truncate_monotone,
)
from paperworks.testbeds.gpme import PROBLEMS, PorousMedium, Stefan, on_grid

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def spd(*batch, n, seed=0):
    root = drawn(*batch, n, n, seed=seed)
    return root @ root.mT + 0.1 * torch.eye(n, dtype=F64)


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 3), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_the_update_is_the_formula(seed, n, m, noise):
    m = min(m, n)
    mu, S, G, b = (
        drawn(4, n, seed=seed),
        spd(4, n=n, seed=seed + 1),
        drawn(m, n, seed=seed + 2),
        drawn(4, m, seed=seed + 3),
    )
    found = condition_linear(mu, S, G, b, noise)
    inner = G @ S @ G.T + noise * torch.eye(m, dtype=F64)
    if float(torch.linalg.cond(inner).max()) > 1e6:
        return
    K = S @ G.T @ torch.linalg.inv(inner)
    torch.testing.assert_close(found.mean, mu - (K @ (mu @ G.T - b)[..., None])[..., 0], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.covariance, S - K @ G @ S, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.variance, found.covariance.diagonal(dim1=-2, dim2=-1), rtol=1e-9, atol=1e-12)
    # Variances alone are the same as a diagonal covariance.
    s = S.diagonal(dim1=-2, dim2=-1)
    one, other = condition_linear(mu, s, G, b, noise), condition_linear(mu, torch.diag_embed(s), G, b, noise)
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.covariance, other.covariance)
    same = condition_linear(mu.numpy(), s.numpy(), G.numpy(), b.numpy(), noise)
    np.testing.assert_allclose(same.mean, one.mean, atol=1e-12)
    np.testing.assert_allclose(same.covariance, one.covariance, atol=1e-12)


def test_noise_leaves_its_share_of_the_error():
    mu, s, g, b = drawn(5), torch.rand(5, generator=rng(), dtype=F64), drawn(5, seed=2), torch.tensor([0.7], dtype=F64)
    found = condition_linear(mu, s, g, b, 0.3)
    share = 0.3 / (0.3 + (g**2 * s).sum())
    torch.testing.assert_close((g @ found.mean - b).abs(), share * (g @ mu - b).abs())


def test_gradients_go_through():
    g = drawn(2, 4, seed=5)
    inputs = [drawn(3, 4).requires_grad_(), torch.rand(3, 4, dtype=F64, generator=rng()).add(0.1).requires_grad_()]
    value = drawn(3, 2, seed=6).requires_grad_()

    def call(mu, s, b):
        found = condition_linear(mu, s, g, b)
        return found.mean, found.variance

    assert torch.autograd.gradcheck(call, (*inputs, value))
    update = ConservativeUpdate(g, noise_var="learned")
    assert update.noise().item() == pytest.approx(0.01)
    update(*inputs, value)[0].sum().backward()
    assert update.log_precision.grad is not None


def test_observations_that_depend_on_each_other():
    mu, s = drawn(4), torch.ones(4, dtype=F64)
    row = drawn(4, seed=3)
    G, b = torch.stack([row, 2 * row]), torch.tensor([1.0, 2.0], dtype=F64)
    with pytest.raises(np.linalg.LinAlgError, match="2 observations have rank 1"):
        condition_linear(mu, s, G, b)
    found = condition_linear(mu, s, G, b, pseudo_inverse=True)
    torch.testing.assert_close(found.mean, condition_linear(mu, s, row, b[:1]).mean)
    with pytest.raises(np.linalg.LinAlgError, match="contradict"):
        condition_linear(mu, s, G, torch.tensor([1.0, 3.0], dtype=F64), pseudo_inverse=True)
    with pytest.raises(np.linalg.LinAlgError, match="rank 0"):
        condition_linear(mu, 0 * s, row, b[:1])


def test_what_is_known_already_is_not_seen_again():
    mu, S, g = drawn(30), spd(n=30, seed=1), drawn(30, seed=2)
    after = condition_linear(mu, S, g, torch.ones(1, dtype=F64))
    for scale in (1.0, 3.0):
        with pytest.raises(np.linalg.LinAlgError, match="rank 0"):
            condition_linear(after.mean, after.covariance, scale * g, scale * torch.ones(1, dtype=F64))
    again = condition_linear(after.mean, after.covariance, g, torch.ones(1, dtype=F64), pseudo_inverse=True)
    torch.testing.assert_close(again.mean, after.mean)
    with pytest.raises(np.linalg.LinAlgError, match="known for certain"):
        condition_linear(after.mean, after.covariance, g, 2 * torch.ones(1, dtype=F64), pseudo_inverse=True)


def test_observations_of_very_different_size_are_independent():
    mu, s = drawn(5), torch.rand(5, dtype=F64, generator=rng()) + 0.1
    G, b = drawn(3, 5, seed=1), drawn(3, seed=2)
    plain = condition_linear(mu, s, G, b)
    units = torch.tensor([1e-150, 1.0, 1e150], dtype=F64)
    found = condition_linear(mu, s, units[:, None] * G, units * b)
    torch.testing.assert_close(found.mean, plain.mean)
    torch.testing.assert_close(found.covariance, plain.covariance)
    for unit in (1e-150, 1e150):
        other = condition_linear(unit * mu, unit**2 * s, G, unit * b)
        torch.testing.assert_close(other.mean / unit, plain.mean)
        torch.testing.assert_close(other.variance / unit**2, plain.variance, rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="beyond what float64 holds"):
        condition_linear(mu, torch.full((5,), 1e308, dtype=F64), G, b)


def test_dependent_observations_in_a_batch_with_gradients():
    # The second slice knows its first half for certain, so of its two rows one and their sum are left.
    s = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 3.0, 4.0]], dtype=F64).requires_grad_()
    mu = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 3.0, 4.0]], dtype=F64).requires_grad_()
    G = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=F64)
    b = torch.tensor([[2.0, 5, 7], [1, 5, 6]], dtype=F64)
    found = condition_linear(mu, s, G, b, pseudo_inverse=True)
    torch.testing.assert_close(found.mean @ G.T, b)
    torch.testing.assert_close(found.mean[1, :2], mu[1, :2])
    torch.testing.assert_close(found.variance[:1], condition_linear(mu[:1], s[:1], G[:2], b[:1, :2]).variance)

    def call(mu, s):
        after = condition_linear(mu, s, G, b, pseudo_inverse=True)
        return after.mean[0], after.variance[0]

    with torch.no_grad():
        s[1] += 1e-3  # away from where variances end
    assert torch.autograd.gradcheck(call, (mu, s))
    with pytest.raises(np.linalg.LinAlgError, match="known for certain"):
        condition_linear(mu.detach()[1], torch.zeros(4, dtype=F64), G, b[1], pseudo_inverse=True)
    update = ConservativeUpdate(G, pseudo_inverse=True)
    torch.testing.assert_close(update(mu[:1], s[:1], b[:1])[0], found.mean[:1])


def test_a_field_in_two_dimensions_keeps_two_quantities_at_two_times():
    x, y = torch.linspace(0, 1, 4, dtype=F64), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    both = torch.outer(quadrature_weights(x), quadrature_weights(y)).flatten()
    moment = both * x.repeat_interleave(3)
    G = torch.block_diag(*[torch.stack([both, moment])] * 2)  # two times, stacked
    mu, s, b = drawn(24), torch.rand(24, dtype=F64, generator=rng()) + 0.1, torch.tensor([1.0, 0.3, 2.0, 0.5]).double()
    found = condition_linear(mu, s, G, b)
    torch.testing.assert_close(G @ found.mean, b)
    # Times that don't depend on each other can be done one by one.
    each = condition_linear(mu.reshape(2, 12), s.reshape(2, 12), torch.stack([both, moment]), b.reshape(2, 2))
    torch.testing.assert_close(each.mean.flatten(), found.mean)


def test_kinds_and_axes_are_kept():
    mu, s, g = np.ones(3, np.float32), np.ones(3), np.ones(3)
    found = condition_linear(mu, s, g, np.array(1.0))
    assert (found.mean.dtype, found.variance.dtype, found.covariance.dtype) == (np.float32,) * 3
    half = condition_linear(torch.ones(3).half(), torch.ones(3), torch.ones(3), torch.tensor(1.0))
    assert half.mean.dtype == half.variance.dtype == torch.float16
    # A covariance is told from variances by its axes, also where there are as many slices as places.
    S = spd(n=3)
    square = condition_linear(drawn(3, 3), S[None], torch.ones(3), drawn(3, 1, seed=1))
    assert square.covariance.shape == (3, 3, 3)
    torch.testing.assert_close(square.covariance[2], condition_linear(drawn(3), S, torch.ones(3), drawn(1)).covariance)
    assert condition_linear(drawn(3), S, torch.ones(3), drawn(5, 1)).covariance.shape == (5, 3, 3)
    assert condition_linear(drawn(4, 3), torch.ones(3), torch.ones(3), drawn(4, 1)).variance.shape == (4, 3)
    none = condition_linear(drawn(3), S, torch.empty(0, 3), torch.empty(0))
    torch.testing.assert_close(none.covariance, S)
    assert condition_linear(torch.empty(0, 3), torch.empty(0, 3), torch.ones(3), torch.empty(0, 1)).mean.shape == (0, 3)
    # In float32 what is left of a variance is as exact as float32 is: it is subtracted in float64.
    s = torch.tensor([1.0, 1e-6])
    after = condition_linear(torch.zeros(2), s, torch.ones(2), torch.zeros(1))
    assert float(after.variance[0]) == pytest.approx(1e-6 / (1 + 1e-6), rel=1e-6)


def test_the_layer_in_its_modes():
    x = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=F64)
    mean, variance, value = drawn(3, 4), torch.rand(3, 4, dtype=F64, generator=rng()), drawn(3, seed=4)
    g = quadrature_weights(x)
    by_points, by_matrix = (
        ConservativeUpdate()(mean, variance, value, x=x),
        ConservativeUpdate(g)(mean, variance, value),
    )
    torch.testing.assert_close(by_points, by_matrix)
    assert float(conservation_error(by_points[0], value, x).abs().max()) < 1e-12
    hard, kept = ConservativeUpdate(g, mode="hard")(mean, variance, value)
    torch.testing.assert_close(hard, mean - (mean @ g - value)[:, None] * g / (g @ g))
    assert kept is variance
    full, cov = ConservativeUpdate(g)(mean, torch.diag_embed(variance), value)
    torch.testing.assert_close(full, by_matrix[0])
    assert cov.shape == (3, 4, 4)
    single, _ = ConservativeUpdate()(mean.float(), variance.float(), value.float(), x=x.float())
    assert single.dtype == torch.float32
    assert float((single.double() @ g - value).abs().max()) < 1e-6
    update = ConservativeUpdate(g)
    again = pickle.loads(pickle.dumps(copy.deepcopy(update)))
    torch.testing.assert_close(again(mean, variance, value), update(mean, variance, value))


def test_weights_integrate():
    x = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0], dtype=F64)
    assert float(quadrature_weights(x) @ (2 * x)) == pytest.approx(1)
    assert float(quadrature_weights(x, "simpson") @ (3 * x**2)) == pytest.approx(1)
    assert float(quadrature_weights(x, "left") @ x) < 0.5 < float(quadrature_weights(x, "right") @ x)
    np.testing.assert_allclose(quadrature_weights(x.numpy()), quadrature_weights(x))
    with pytest.raises(ValueError, match="strictly increasing"):
        quadrature_weights(torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("name", PROBLEMS)
def test_solutions_have_their_masses(name):
    problem = PROBLEMS[name]
    for share in (0.0, 0.4, 1.0):
        parameter = problem.parameters[0] * (1 - share) + problem.parameters[1] * share
        x, u, mass = on_grid(problem, parameter, 40_001)
        assert float(torch.trapezoid(u, x)) == pytest.approx(float(mass), abs=3e-4)
        for t in (torch.tensor(v * problem.horizon, dtype=F64) for v in (0.2, 1.0)):
            u = problem.solution(parameter, t.expand_as(x), x)
            assert float(torch.trapezoid(u, x)) == pytest.approx(float(problem.mass(parameter, t)), abs=5e-4)
        start = problem.solution(parameter, torch.zeros(5), torch.linspace(*problem.domain, 5))
        assert bool(start.isfinite().all())
    batch = problem.sample_functions(3, 4, generator=rng())
    assert batch.context_x.shape == (3, 16, 2)
    assert bool(batch.target_y.isfinite().all())


def test_known_constants_of_the_stefan_problem():
    alpha, c1 = Stefan().constants(0.5)
    assert (alpha, c1) == pytest.approx((1.2401252666, 0.8071551669), abs=1e-9)
    assert float(Stefan().mass(0.6, torch.tensor(0.05, dtype=F64))) == pytest.approx(0.1859462060, abs=1e-9)
    assert Stefan().constants(0.6) == pytest.approx((1.0513395993, 0.7369656739), abs=1e-9)


def test_equations_hold_inside():
    t, x = torch.tensor(0.4, dtype=F64), torch.tensor(0.15, dtype=F64)
    m, h = 3.0, 1e-4

    def u(dt, dx):
        return PorousMedium().solution(m, t + dt, x + dx)

    left = (u(h, 0) - u(-h, 0)) / (2 * h)
    power = [u(0, d) ** (m + 1) / (m + 1) for d in (-h, 0, h)]
    assert float(left) == pytest.approx(float((power[0] - 2 * power[1] + power[2]) / h**2), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "t", "x"),
    [("heat", 0.1, 1.0), ("porous medium", 0.4, 0.15), ("Stefan", 0.05, 0.1), ("advection", 0.1, 0.2)]
    + [("Burgers", t, x) for t, x in ((0.2, -0.3), (0.2, 0.5), (0.9, -0.5))],
)
def test_laws_hold_in_differential_form(name, t, x):
    problem = PROBLEMS[name]
    parameter = problem.parameters[0]

    def predict(points):
        return problem.solution(parameter, points[..., 0], points[..., 1])

    points = torch.tensor([[t, x], [t + 0.001, x - 0.001]], dtype=F64)
    found = law_residual(predict, points, lambda u, u_x: problem.flux(parameter, u, u_x))
    assert float(found.abs().max()) < 1e-9
    off = law_residual(lambda p: predict(p) + p[..., 0] ** 2, points, lambda u, u_x: problem.flux(parameter, u, u_x))
    if name not in ("porous medium", "Burgers"):  # whose fluxes change with the field as well
        assert float(off[0]) == pytest.approx(2 * t, abs=0.02)
    # What is in changes by what flows through the ends.
    T = torch.tensor(t, dtype=F64).requires_grad_()
    (rate,) = torch.autograd.grad(problem.mass(parameter, T) + 0 * T, T)
    ends = torch.tensor([[t, problem.domain[0]], [t, problem.domain[1]]], dtype=F64).requires_grad_()
    u = predict(ends)
    slopes = torch.autograd.grad(u.sum(), ends)[0][:, 1] if u.requires_grad else 0 * u
    flows = problem.flux(parameter, u.detach(), slopes)
    assert float(rate) == pytest.approx(float(flows[0] - flows[1]), abs=1e-9)


def test_units_of_fields_dont_matter():
    mean, s = drawn(6), torch.rand(6, dtype=F64, generator=rng()) + 0.1
    smooth, cov = second_difference_update(mean, s)
    for unit in (1e-150, 1e-75, 1e75, 1e150):
        other, spread = second_difference_update(unit * mean, unit * s * unit)
        torch.testing.assert_close(other / unit, smooth)
        torch.testing.assert_close(spread / unit / unit, cov)
        for kind in ("nonneg", "monotone"):
            plain = project_inequality(mean, cov, kind)
            torch.testing.assert_close(project_inequality(unit * mean, unit * cov * unit, kind) / unit, plain)


def test_second_differences_are_smoothed():
    mean, variance = drawn(3, 7), torch.rand(3, 7, dtype=F64, generator=rng()) + 0.1
    found, cov = second_difference_update(mean, variance)
    D = torch.from_numpy(np.diff(np.eye(7), 2, axis=0))
    a, s = 0.9, variance[0]
    spread = [
        s[i] + 4 * s[i + 1] + s[i + 2] - 4 * a * (s[i] * s[i + 1]).sqrt() - 4 * a * (s[i + 1] * s[i + 2]).sqrt()
        + 2 * a**2 * (s[i] * s[i + 2]).sqrt()
        for i in range(5)
    ]  # fmt: skip
    S = torch.diag(s)
    K = S @ D.T @ torch.linalg.inv(D @ S @ D.T + torch.diag(torch.stack(spread)))
    torch.testing.assert_close(found[0], mean[0] - K @ D @ mean[0])
    torch.testing.assert_close(cov[0], S - K @ D @ S)
    assert float((found @ D.T).norm()) < float((mean @ D.T).norm())


@pytest.mark.parametrize("kind", ["nonneg", "monotone"])
def test_inequalities_are_the_nearest(kind):
    mean, S = drawn(5), spd(n=5, seed=1)
    found = project_inequality(mean, S, kind)
    inverse = torch.linalg.inv(S).numpy()

    def distance(v):
        return (v - mean.numpy()) @ inverse @ (v - mean.numpy())

    differences = np.eye(5) if kind == "nonneg" else np.eye(5) - np.eye(5, k=1)
    best = minimize(distance, np.zeros(5), constraints={"type": "ineq", "fun": lambda v: differences @ v}, tol=1e-12)
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert bool((found >= -1e-9).all())
    if kind == "monotone":
        assert bool((found.diff() <= 1e-9).all())
    u = truncate_monotone(mean)
    assert bool((u.diff() <= 0).all() & (u >= 0).all())


def test_mixtures_and_likelihoods():
    means, variances = drawn(50, 3), torch.rand(50, 3, dtype=F64, generator=rng())
    mean, variance = moment_match(means, variances)
    torch.testing.assert_close(variance, (variances + means**2).mean(0) - mean**2)
    assert bool((moment_match(means[:1], 0 * variances[:1])[1] == 1e-8).all())
    y, g = drawn(3, seed=1), torch.ones(3, dtype=F64)
    joint = torch.distributions.MultivariateNormal(
        mean, torch.diag(variance) - torch.outer(variance, variance) / (variance.sum() + 0.2)
    )
    # The field given its own integral, seen with noise: Bayes' rule with the density of that observation at no error.
    found = condition_linear(mean, variance, g, (g @ y)[None], 0.2)
    updated = torch.distributions.MultivariateNormal(found.mean, found.covariance).log_prob(y)
    assert float(constrained_log_likelihood(y, mean, variance, g, 0.2)) == pytest.approx(float(updated))
    assert joint.event_shape == (3,)
    torch.testing.assert_close(
        gaussian_log_likelihood(y, mean, variance), torch.distributions.Normal(mean, variance.sqrt()).log_prob(y)
    )


def test_fronts_are_located():
    x = torch.linspace(0, 1, 101, dtype=F64)
    found = shock_location(0.3 - x, torch.full((101,), 0.01**2, dtype=F64), x, generator=rng())
    assert found.low <= 0.3 <= found.high
    g = quadrature_weights(x)
    after = condition_linear(0.3 - x, torch.full((101,), 1e-4, dtype=F64), g, torch.tensor([-0.2], dtype=F64))
    assert shock_location(after.mean, after.covariance, x, generator=rng()).median == pytest.approx(0.3, abs=0.03)
    assert shock_location(1 + 0 * x, 0 * x, x).median == 1.0


def test_the_process_predicts_and_keeps_the_integral():
    process = AttentiveNeuralProcess(hidden=16).eval()
    points, values = torch.rand(8, 2, generator=rng()), torch.rand(8, generator=rng(1))
    x = torch.linspace(0, 1, 9)
    model = ProbConservANP(process, n_samples=5)
    plain, _ = model(points, values, x, torch.tensor(0.5), None, generator=rng())
    mean, variance = model(points, values, x, torch.tensor(0.5), torch.tensor(0.7), generator=rng())
    assert float(conservation_error(mean, torch.tensor(0.7), x.double()).abs()) < 1e-8
    assert bool((variance > 0).all())
    # As by hand, draw by draw.
    z_mean, z_log = process.latent_encoder(points, values)
    z = z_mean + (0.5 * z_log).exp() * torch.randn(5, 16, generator=rng())
    asked = torch.stack([torch.full((9,), 0.5), x], -1)
    each = torch.stack([process(points, values, asked, z=one)[0] for one in z])
    torch.testing.assert_close(each.double().mean(0), plain, atol=1e-5, rtol=1e-5)
    # The order of what is seen doesn't matter.
    order = torch.randperm(8, generator=rng())
    again, _ = model(points[order], values[order], x, torch.tensor(0.5), None, generator=rng())
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)


def test_training_learns():
    torch.manual_seed(0)
    process = AttentiveNeuralProcess(hidden=16)
    data = PorousMedium().sample_functions(32, 5, generator=rng())
    optimizer = torch.optim.Adam(process.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = process.loss(*data, generator=rng(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 20


def test_training_with_the_constraint_and_the_soft_penalty():
    torch.manual_seed(0)
    process = AttentiveNeuralProcess(hidden=16, dropout=0.0)
    data = PorousMedium().sample_functions(4, 5, generator=rng())
    grid = (data.context_x, data.context_y, data.target_x.unflatten(1, (5, 5)), data.target_y.unflatten(1, (5, 5)))
    model = ProbConservANP(process, ConservativeUpdate(noise_var="learned"))
    loss = model.loss(*grid, generator=rng(1))
    mean, deviation, _ = process.posterior(*data, generator=rng(1))
    plain = process.loss(*data, generator=rng(1))
    # Bayes' rule, slice by slice: density of the integral at its own value under the update, less that without.
    g = quadrature_weights(grid[2][..., 1])
    total, expected = (g * grid[3]).sum(-1), (g * mean.unflatten(1, (5, 5))).sum(-1)
    spread = (g**2 * deviation.square().unflatten(1, (5, 5))).sum(-1) + 0.01
    gain = torch.distributions.Normal(0, 0.1).log_prob(torch.tensor(0.0)) - torch.distributions.Normal(
        expected, spread.sqrt()
    ).log_prob(total)
    torch.testing.assert_close(loss, plain - gain.sum(-1).mean())
    loss.backward()
    assert model.update.log_precision.grad != 0
    with pytest.raises(ValueError, match="noise"):
        ProbConservANP(process).loss(*grid)
    process.zero_grad()
    penalty = law_residual(
        lambda points: process(data.context_x, data.context_y, points, generator=rng())[0],
        data.target_x,
        lambda u, u_x: PorousMedium().flux(2.0, u, u_x),
    )
    penalty.square().mean().backward()
    assert penalty.shape == (4, 25)
    assert bool(process.decoder.final_projection.weight.grad[0].any())


def test_the_process_smooths_and_keeps_several_integrals():
    process = AttentiveNeuralProcess(hidden=16).eval()
    points, values = torch.rand(8, 2, generator=rng()), torch.rand(8, generator=rng(1))
    x, t, value = torch.linspace(0, 1, 9), torch.tensor(0.5), torch.tensor(0.7)
    g = quadrature_weights(x.double())
    smooth, variance = ProbConservANP(process, n_samples=3, smoothing=0.9)(points, values, x, t, value, generator=rng())
    rough, other = ProbConservANP(process, n_samples=3)(points, values, x, t, value, generator=rng())
    assert float(g @ smooth) == pytest.approx(0.7)
    assert float(smooth.diff(n=2).norm()) < float(rough.diff(n=2).norm())
    assert bool((variance < other).all())
    halves = ConservativeUpdate(torch.stack([g * (x < 0.5), g * (x >= 0.5)]))
    mean, _ = ProbConservANP(process, halves, n_samples=3)(points, values, x, t, torch.tensor([0.2, 0.5]))
    torch.testing.assert_close(halves.G @ mean, torch.tensor([0.2, 0.5]).double())


def test_weights_are_loaded_without_unpickling(tmp_path):
    process = AttentiveNeuralProcess(hidden=16)
    official = {
        name.replace(".weight", ".linear_layer.weight").replace(".bias", ".linear_layer.bias")
        if "layer_norm" not in name
        else name: value
        for name, value in process.state_dict().items()
    }
    torch.save({"state_dict": official}, tmp_path / "anp.pt")
    loaded = AttentiveNeuralProcess.load_official(tmp_path / "anp.pt")
    for name, value in process.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    name = "latent_encoder.input_projection.weight"
    for other in ({"other": torch.ones(1)}, {name: torch.ones(3)}, {name: torch.ones(6, 3)}, {"state_dict": 3}):
        torch.save(other, tmp_path / "other.pt")
        with pytest.raises(ValueError, match="holds no weights"):
            AttentiveNeuralProcess.load_official(tmp_path / "other.pt")


@pytest.mark.parametrize("base", [None, BayesianRidge(), GaussianProcessRegressor(alpha=0.1)])
def test_a_regressor_keeps_totals(base):
    x = np.linspace(0, 1, 12)[:, None]
    y = np.sin(6 * x[:, 0])
    model = ConservingRegressor(base).fit(x, y)
    G, value = np.kron(np.eye(3), np.ones(4)), np.array([1.0, 2.0, 3.0])
    kept, spread = model.predict(x, G=G, value=value, return_std=True)
    np.testing.assert_allclose(G @ kept, value, atol=1e-8)
    assert (spread <= model.predict(x, return_std=True)[1] + 1e-9).all()
    np.testing.assert_allclose(model.predict(x), model.base_.predict(x))


BAD = {
    "rows": (lambda: condition_linear(drawn(4), torch.ones(4, dtype=F64), drawn(1, 3), drawn(1)), "G has shape"),
    "values": (lambda: condition_linear(drawn(4), torch.ones(4, dtype=F64), drawn(2, 4), drawn(3)), "b \\(3,\\)"),
    "cov": (lambda: condition_linear(drawn(4), torch.ones(3, 3, dtype=F64), drawn(1, 4), drawn(1)), "cov has shape"),
    "negative": (lambda: condition_linear(drawn(2), torch.tensor([-1.0, 1.0]), drawn(1, 2), drawn(1)), "negative"),
    "NaN": (lambda: condition_linear(drawn(2) * math.nan, torch.ones(2), drawn(1, 2), drawn(1)), "mean has 2 NaN"),
    "noise": (lambda: condition_linear(drawn(2), torch.ones(2), drawn(1, 2), drawn(1), -1.0), "noise"),
    "no points": (lambda: ConservativeUpdate()(drawn(2), torch.ones(2), drawn(1)), "x is given"),
    "mode": (lambda: ConservativeUpdate(mode="soft"), "mode"),
    "three points": (lambda: second_difference_update(drawn(2), torch.ones(2)), "n >= 3"),
    "alpha": (lambda: second_difference_update(drawn(3), torch.ones(3), 1.0), "alpha"),
    "heads": (lambda: AttentiveNeuralProcess(hidden=10, heads=4), "heads don't divide"),
    "contexts": (lambda: AttentiveNeuralProcess(hidden=8)(drawn(3, 2), drawn(4), drawn(3, 2)), "context_x"),
    "indefinite": (lambda: project_inequality(drawn(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "semidefinite"),
    "infinite": (lambda: constrained_log_likelihood(drawn(2), drawn(2), torch.ones(2), drawn(2), 0.0), "noise"),
    "asymmetric": (lambda: condition_linear(drawn(2), drawn(2, 2).abs(), drawn(1, 2), drawn(1)), "symmetric"),
    "leading": (lambda: condition_linear(drawn(3, 2), torch.ones(4, 2), drawn(1, 2), drawn(1)), "cov|leading"),
    "many noises": (lambda: condition_linear(drawn(2), torch.ones(2), drawn(1, 2), drawn(1), torch.ones(2)), "noise"),
    "rough": (lambda: second_difference_update(drawn(3), -torch.ones(3)), "3 negative"),
    "certain": (lambda: second_difference_update(drawn(3), torch.zeros(3)), "three neighbours"),
    "no parts": (lambda: moment_match(drawn(0, 2), drawn(0, 2)), "at least"),
    "NaN parts": (lambda: moment_match(drawn(2) * math.nan, drawn(2)), "means has 2 NaN"),
    "likelihood": (lambda: gaussian_log_likelihood(drawn(3, 1), drawn(3), torch.ones(3)), "that of y"),
    "masses": (lambda: conservation_error(drawn(5, 3), drawn(5, 1), torch.arange(3.0)), "value"),
    "front": (lambda: shock_location(drawn(2), torch.tensor([[1.0, 2], [2, 1]]), torch.arange(2.0)), "eigenvalue"),
    "unsorted": (lambda: shock_location(drawn(2), torch.ones(2), -torch.arange(2.0)), "increasing"),
    "no context": (lambda: AttentiveNeuralProcess(hidden=8)(drawn(0, 2), drawn(0), drawn(3, 2)), "n >= 1"),
    "pairs": (lambda: law_residual(lambda p: p[..., 0], drawn(3, 3), lambda u, u_x: u), "points"),
    "one each": (lambda: law_residual(lambda p: p, drawn(3, 2), lambda u, u_x: u), "predict"),
    "indefinite update": (
        lambda: condition_linear(drawn(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([1.0, -1.0]), drawn(1)),
        "semidefinite",
    ),
    "indefinite rows": (
        lambda: condition_linear(drawn(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.eye(2), drawn(2)),
        "semidefinite",
    ),
    "array of noises": (lambda: condition_linear(np.ones(2), np.ones(2), np.ones(2), np.ones(1), np.ones(2)), "noise"),
    "negative parts": (lambda: moment_match(drawn(2, 2), -torch.ones(2, 2)), "negative"),
    "NaN likelihood": (lambda: gaussian_log_likelihood(drawn(2) * math.nan, drawn(2), torch.ones(2)), "y has 2 NaN"),
    "NaN weights": (
        lambda: constrained_log_likelihood(drawn(2), drawn(2), torch.ones(2), drawn(2) * math.nan, 0.1),
        "g has 2 NaN",
    ),
    "many weights": (lambda: constrained_log_likelihood(drawn(2), drawn(2), torch.ones(2), drawn(3, 2), 0.1), "g has"),
    "infinite noise": (
        lambda: constrained_log_likelihood(drawn(2), drawn(2), torch.ones(2), drawn(2), math.inf),
        "noise is inf",
    ),
    "NaN field": (lambda: conservation_error(drawn(2) * math.nan, drawn(1)[0], torch.arange(2.0)), "u has 2 NaN"),
    "nothing nonneg": (lambda: project_inequality(drawn(0), drawn(0)), "value at least"),
    "asymmetric nonneg": (lambda: project_inequality(drawn(2), torch.tensor([[1.0, 0.5], [0, 1]])), "symmetric"),
    "asymmetric front": (
        lambda: shock_location(drawn(2), torch.tensor([[1.0, 5], [0, 1]]), torch.arange(2.0)),
        "symmetric",
    ),
    "no front": (lambda: shock_location(drawn(0), drawn(0), drawn(0)), "a point at least"),
    "far points": (lambda: quadrature_weights(torch.tensor([-1.7e308, 1.7e308], dtype=F64)), "distance"),
    "NaN matrix": (lambda: ConservativeUpdate(drawn(2) * math.nan), "constraint_matrix has 2 NaN"),
    "whole numbers": (lambda: ConservativeUpdate(drawn(2), dtype=torch.int32), "dtype"),
    "hard cov": (
        lambda: ConservativeUpdate(drawn(2), mode="hard")(drawn(2), torch.ones(3), drawn(1)),
        "cov has shape",
    ),
    "NaN context": (
        lambda: AttentiveNeuralProcess(hidden=8)(drawn(3, 2) * math.nan, drawn(3), drawn(3, 2)),
        "context_x has 6 NaN",
    ),
    "latent": (
        lambda: AttentiveNeuralProcess(hidden=8)(drawn(3, 2), drawn(3), drawn(3, 2), z=drawn(7)),
        "z has shape",
    ),
    "a mass for each draw": (
        lambda: ProbConservANP(AttentiveNeuralProcess(hidden=8), n_samples=3)(
            *(part.float() for part in (drawn(3, 2), drawn(3), torch.arange(4.0), drawn(1)[0], drawn(3)))
        ),
        "value has shape",
    ),
    "many times": (
        lambda: ProbConservANP(AttentiveNeuralProcess(hidden=8))(
            *(part.float() for part in (drawn(3, 2), drawn(3), torch.arange(4.0), drawn(4), drawn(1)))
        ),
        "t and x",
    ),
    "training with a matrix": (
        lambda: ProbConservANP(AttentiveNeuralProcess(hidden=8), ConservativeUpdate(drawn(2), 0.1)).loss(
            drawn(1, 3, 2), drawn(1, 3), drawn(1, 2, 2, 2), drawn(1, 2, 2)
        ),
        "update has a matrix",
    ),
    "infinite points": (lambda: quadrature_weights(torch.tensor([0.0, math.inf])), "x has 1 NaN"),
    "nonneg NaN": (lambda: project_inequality(drawn(2) * math.nan, torch.ones(2)), "mean has 2 NaN"),
    "one of two": (lambda: ConservingRegressor().fit(np.eye(3), np.ones(3)).predict(np.eye(3), G=np.ones(3)), "both"),
}  # fmt: skip


@pytest.mark.usefixtures("untyped")
def test_what_is_no_number_of_the_kind_is_refused():
    for call, message in (
        (lambda: condition_linear([0.0], torch.ones(1), torch.ones(1), torch.ones(1)), "mean is list"),
        (lambda: condition_linear(torch.ones(1, dtype=int), torch.ones(1), torch.ones(1), torch.ones(1)), "int64"),
        (lambda: condition_linear(drawn(1), 1j * torch.ones(1), torch.ones(1), torch.ones(1)), "complex"),
        (lambda: condition_linear(np.ones(1), 1j * np.ones(1), np.ones(1), np.ones(1)), "complex"),
        (lambda: quadrature_weights(np.arange(3)), "int64"),
        (
            lambda: (
                ConservingRegressor(LinearRegression()).fit(np.eye(3), np.ones(3)).predict(np.eye(3), np.ones(3), 1)
            ),
            "error bars",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
