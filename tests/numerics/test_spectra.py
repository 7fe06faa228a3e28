import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from paperworks.numerics import (
    Curvature,
    divergence,
    energy_distance,
    extreme_eigenvalues,
    hutch_plus_plus,
    hutchinson,
    lanczos,
    seeded,
    torch_generator,
)

EYE = torch.eye(3, dtype=torch.float64)


def symmetric(n=30, seed=0):
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


def network(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batch(n=7, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=rng, dtype=torch.float64), torch.randint(0, 3, (n,), generator=rng)


def test_lanczos_gives_all_eigenvalues_of_a_small_matrix():
    a = symmetric()
    found = lanczos(lambda v: a @ v, torch.ones(30, dtype=torch.float64), 30)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(a))
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(found.vectors * found.values, a @ found.vectors)
    assert found.weights.sum() == pytest.approx(1)


def test_few_steps_of_lanczos_find_the_ends_and_integrate_the_spectrum_exactly():
    a, v = symmetric(200), torch.ones(200, dtype=torch.float64)
    found = lanczos(lambda w: a @ w, v, 40)
    assert found.values[-1] == pytest.approx(float(torch.linalg.eigvalsh(a)[-1]), rel=1e-6)
    for value, residual in zip(found.values[[0, -1]], found.residuals[[0, -1]], strict=True):
        assert (torch.linalg.eigvalsh(a) - value).abs().min() <= residual + 1e-12
    power = torch.linalg.matrix_power(a, 5)  # exact up to degree 2 k - 1
    assert (found.weights * found.values**5).sum() * 200 == pytest.approx(float(v @ power @ v), rel=1e-8)


def test_lanczos_stops_where_the_space_is_exhausted():
    a = torch.diag(torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64))
    found = lanczos(lambda v: a @ v, torch.ones(4, dtype=torch.float64), 4)
    torch.testing.assert_close(found.values, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert found.residuals.max() < 1e-12


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude", "both"])
def test_extreme_eigenvalues_are_those_of_the_dense_matrix(which):
    a = symmetric()
    dense = torch.linalg.eigvalsh(a)
    expected = {
        "largest": dense[-4:],
        "smallest": dense[:4],
        "magnitude": dense[dense.abs().argsort()[-4:]].sort().values,
        "both": dense[[0, 1, -2, -1]],
    }[which]
    values, vectors = extreme_eigenvalues(lambda v: a @ v, 30, 4, which=which)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(a @ vectors, vectors * values)


@pytest.mark.parametrize("estimate", ["sign", "normal", "hutch++"])
def test_trace_estimates_have_no_bias_and_right_standard_errors(estimate):
    a = symmetric(20)
    rng = torch.Generator().manual_seed(0)

    def once():
        if estimate == "hutch++":
            return hutch_plus_plus(lambda v: a @ v, 20, 30, rng)
        return hutchinson(lambda v: a @ v, 20, 10, rng, probe=estimate)

    found = [once() for _ in range(1500)]
    traces, errors = np.array([(f.trace, f.standard_error) for f in found]).T
    spread = traces.std(ddof=1)
    assert abs(traces.mean() - float(a.trace())) < 4 * spread / np.sqrt(len(traces))
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.1)
    if estimate != "hutch++":
        off = a - torch.diag(a.diag()) if estimate == "sign" else a
        assert spread == pytest.approx(float((2 * off.square().sum() / 10).sqrt()), rel=0.1)


def test_hutch_plus_plus_is_exact_for_low_rank_and_better_for_falling_spectra():
    q, _ = torch.linalg.qr(symmetric(60, 1))
    values = 1 / torch.arange(1, 61, dtype=torch.float64) ** 2
    a, rng = (q * values) @ q.T, torch.Generator().manual_seed(0)
    errors = {
        "plain": [hutchinson(lambda v: a @ v, 60, 30, rng).trace - float(values.sum()) for _ in range(100)],
        "++": [hutch_plus_plus(lambda v: a @ v, 60, 30, rng).trace - float(values.sum()) for _ in range(100)],
    }
    assert np.std(errors["++"]) < 0.1 * np.std(errors["plain"])
    low = (q[:, :5] * values[:5]) @ q[:, :5].T
    found = hutch_plus_plus(lambda v: low @ v, 60, 15, rng)
    assert found.trace == pytest.approx(float(values[:5].sum()), abs=1e-10)
    assert found.standard_error < 1e-10
    assert found.products == 15


def dense(module, function):
    """The Jacobian of a function of the flat parameters."""
    named = [(name, p.detach()) for name, p in module.named_parameters()]
    flat = torch.cat([p.flatten() for _, p in named])

    def of(theta):
        pieces = theta.split([p.numel() for _, p in named])
        state = {name: piece.view_as(p) for (name, p), piece in zip(named, pieces, strict=True)}
        return function(lambda x: torch.func.functional_call(module, state, (x,)))

    return of, flat


@pytest.mark.parametrize("loss", [functional.cross_entropy, lambda out, y: functional.mse_loss(out, EYE[y])])
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton", "empirical_fisher"])
def test_products_are_those_of_the_dense_matrices(kind, loss):
    module, (x, y) = network(), batch()
    curvature = Curvature(module, loss, [(x[:4], y[:4]), (x[4:], y[4:])], kind)
    of, flat = dense(module, lambda f: loss(f(x), y))
    if kind == "hessian":
        matrix = torch.autograd.functional.hessian(of, flat)
    else:
        outputs, _ = dense(module, lambda f: f(x))
        jacobian = torch.autograd.functional.jacobian(outputs, flat)
        if kind == "gauss_newton":
            out = outputs(flat)
            inner = torch.autograd.functional.hessian(lambda o: loss(o, y), out)
            matrix = torch.einsum("iap,iajb,jbq->pq", jacobian, inner, jacobian)
        else:
            each, _ = dense(module, lambda f: torch.stack([loss(f(x[[k]]), y[[k]]) for k in range(len(x))]))
            gradients = torch.autograd.functional.jacobian(each, flat)
            matrix = gradients.T @ gradients / len(x)
    torch.testing.assert_close(curvature.products(torch.eye(curvature.n, dtype=torch.float64)), matrix)


def test_the_gauss_newton_matrix_of_a_cross_entropy_is_the_fisher_information():
    module, (x, y) = network(), batch()
    outputs, flat = dense(module, lambda f: f(x).log_softmax(1))
    scores = torch.autograd.functional.jacobian(outputs, flat)  # sample, class, parameter
    p = outputs(flat).exp()
    fisher = torch.einsum("nc,ncp,ncq->pq", p, scores, scores) / len(x)
    curvature = Curvature(module, functional.cross_entropy, [(x, y)], "gauss_newton")
    torch.testing.assert_close(curvature.products(torch.eye(curvature.n, dtype=torch.float64)), fisher)


def test_frozen_parameters_are_left_out_and_nothing_is_changed():
    module, data = network(), batch()
    module[0].requires_grad_(False)
    before = [p.clone() for p in module.parameters()]
    curvature = Curvature(module, functional.cross_entropy, [data])
    assert curvature.n == 15
    curvature.product(torch.ones(15, dtype=torch.float64))
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(module.parameters(), before, strict=True))


def test_the_divergence_is_the_trace_of_the_jacobian():
    a = symmetric(3)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = lambda y: torch.sin(y @ a)  # noqa: E731
    value, found = divergence(f, x)
    exact = [torch.autograd.functional.jacobian(lambda r: f(r[None])[0], row).trace() for row in x]
    torch.testing.assert_close(found, torch.stack(exact))
    torch.testing.assert_close(value, f(x))
    rng = torch.Generator().manual_seed(1)
    probes = 2.0 * torch.randint(0, 2, (4000, 4, 3), generator=rng).double() - 1
    torch.testing.assert_close(divergence(f, x, probes)[1], found, rtol=0, atol=0.3)
    assert torch.equal(divergence(lambda y: torch.ones_like(y), x)[1], torch.zeros(4, dtype=torch.float64))


def test_the_energy_distance_has_no_bias_and_its_population_value():
    rng = torch.Generator().manual_seed(0)
    same = [energy_distance(*torch.randn(2, 30, 2, generator=rng)) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    shifted = energy_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
    assert shifted == pytest.approx(2 * (1 + 5 + 1 + 3) / 4 - 2 - 4)


def test_generators_of_other_keys_are_apart():
    draws = {key: torch.rand(1, generator=torch_generator(*key)).item() for key in [(0,), (1,), (0, 0), (0, 1), (1, 0)]}
    assert len(set(draws.values())) == 5
    assert draws[0, 1] == torch.rand(1, generator=torch_generator(0, 1)).item()
    state = torch.get_rng_state()
    with seeded(3):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lanczos(lambda v: v, torch.zeros(3), 1), "start has norm 0"),
        (lambda: lanczos(lambda v: v, torch.tensor([1.0, torch.nan]), 1), "start has norm nan"),
        (lambda: lanczos(lambda v: v, torch.ones(3), 4), "steps is 4"),
        (lambda: extreme_eigenvalues(lambda v: v, 3, 3), "k is 3"),
        (lambda: extreme_eigenvalues(lambda v: v, 3, which="LM"), "which"),
        (lambda: hutchinson(lambda v: v, 3, 0, torch.Generator()), "n_probes is 0"),
        (lambda: hutchinson(lambda v: v, 3, 1, torch.Generator(), probe="uniform"), "probe"),
        (lambda: hutch_plus_plus(lambda v: v, 3, 4, torch.Generator()), "n_products is 4"),
        (lambda: Curvature(nn.ReLU(), functional.mse_loss, []), "no parameter"),
        (lambda: Curvature(network(), functional.mse_loss, [], "fisher"), "kind"),
        (lambda: Curvature(network(), functional.mse_loss, []).product(torch.ones(31)), "batches holds no samples"),
        (lambda: Curvature(network(), functional.mse_loss, []).product(torch.ones(3)), "v has shape"),
        (lambda: energy_distance(torch.zeros(1, 1), torch.zeros(2, 1)), "a has shape"),
        (lambda: energy_distance(torch.zeros(2, 1), torch.zeros(2, 2)), "columns|dim"),
        (lambda: energy_distance(torch.full((2, 1), torch.nan), torch.zeros(2, 1)), "a has 2 NaN"),
        (lambda: torch_generator(-1), "random_state is -1"),
        (lambda: torch_generator(0, -2), "keys is -2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_lanczos_takes_a_product_made_in_place_and_refuses_one_that_is_not_finite():
    start = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    found = lanczos(lambda v: v.mul_(scale), start, 3)
    assert torch.allclose(found.values, scale)
    with pytest.raises(ValueError, match="product returned NaN or infinity in step 0"):
        lanczos(lambda v: v * float("nan"), start, 3)
