"""Tests of curvature products in blocks and by layers, gradients of single samples, nested trace estimates."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator, eigsh
from torch import nn
from torch.nn import functional

from paperworks.numerics import (
    Curvature,
    estimate_trace,
    exact_trace,
    frobenius_norm,
    gauss_newton_factors,
    gauss_newton_gram,
    gauss_newton_trace,
    hutch_plus_plus,
    per_sample_gradients,
    per_sample_norms,
    seeded,
    xtrace,
)

KINDS = ("hessian", "gauss_newton", "empirical_fisher")


def squared(out, y):
    return (out - y).square().sum(1).mean() / 2


def data(n=7, d=3, c=2):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, d, generator=rng).double(), torch.randn(n, c, generator=rng).double()


def network(*layers):
    with seeded(0):
        return nn.Sequential(*(layers or (nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))).double()


class Tied(nn.Module):
    """Two names for one matrix."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.double()

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))[:, :2]


def dense(curvature):
    return curvature.products(torch.eye(curvature.n, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_block_of_products_is_the_products_one_by_one(kind, reduction):
    x, y = data()
    loss = squared if reduction == "mean" else lambda out, t: (out - t).square().sum() / 2
    curvature = Curvature(network(), loss, [(x[:3], y[:3]), (x[3:], y[3:])], kind, reduction=reduction)
    v = torch.randn(curvature.n, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = torch.stack([curvature.product(column) for column in v.T], dim=1)
    torch.testing.assert_close(curvature.products(v), each)
    mean = Curvature(network(), squared, [(x, y)], kind)
    torch.testing.assert_close(each, mean.products(v) * (1 if reduction == "mean" else len(x)))


def test_scipy_and_matrix_multiplication_take_it():
    curvature = Curvature(network(), squared, [data()])
    matrix = dense(curvature)
    operator = aslinearoperator(curvature)
    v = np.linspace(-1, 1, curvature.n)
    np.testing.assert_allclose(operator @ v, matrix.numpy() @ v)
    np.testing.assert_allclose(operator @ np.c_[v, v**2], matrix.numpy() @ np.c_[v, v**2])
    assert operator.dtype == np.float64
    assert eigsh(operator, 1, which="LA")[0][0] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]))
    tensor = torch.from_numpy(v)
    torch.testing.assert_close(curvature @ tensor, matrix @ tensor)
    torch.testing.assert_close(curvature @ torch.eye(curvature.n).double(), matrix)
    assert curvature.matvec(v[:, None]).shape == (curvature.n, 1)


@pytest.mark.parametrize("params", [["0"], ["2.weight"], ["2", "0.bias"]])
def test_layers_are_blocks_of_the_matrix(params):
    module = network()
    names = [name for name, _ in module.named_parameters()]
    chosen = [name for name in names if any(name == p or name.startswith(f"{p}.") for p in params)]
    where = torch.cat([torch.full((p.numel(),), name in chosen) for name, p in module.named_parameters()])
    whole = dense(Curvature(module, squared, [data()]))
    torch.testing.assert_close(dense(Curvature(module, squared, [data()], params=params)), whole[where][:, where])
    tensors = [p for name, p in module.named_parameters() if name in chosen]
    assert Curvature(module.requires_grad_(False), squared, [data()], params=tensors).names == chosen


def test_tied_weights_count_once():
    module, batch = Tied(), data()
    curvature = Curvature(module, squared, [batch])
    assert curvature.n == 9
    flat = module.first.weight.detach().flatten()
    of = lambda w: squared((torch.tanh(batch[0] @ w.view(3, 3).T) @ w.view(3, 3).T)[:, :2], batch[1])  # noqa: E731
    torch.testing.assert_close(dense(curvature), torch.autograd.functional.hessian(of, flat))
    assert Curvature(module, squared, [batch], params=["second"]).names == ["first.weight"]


def test_convolutions_with_batch_norm_take_evaluation_mode():
    module = network(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    x, y = torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    curvature = Curvature(module, squared, [(x, y)])
    with pytest.raises(RuntimeError, match="BatchNorm2d, is in training mode"):
        curvature.product(torch.ones(curvature.n).double())
    module.eval()
    matrix = dense(curvature)
    torch.testing.assert_close(matrix, matrix.T)
    factors = gauss_newton_factors(module, squared, [(x, y)])
    fisher = dense(Curvature(module, squared, [(x, y)], "gauss_newton"))
    torch.testing.assert_close(torch.einsum("icp,icq->pq", factors, factors) / 5, fisher)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_factors_and_gradients_of_samples_give_the_matrices(loss):
    x, y = data()
    loss, y = (squared, y) if loss == "squared" else (functional.cross_entropy, y.argmax(1))
    batches = [(x[:2], y[:2]), (x[2:], y[2:])]
    factors, matrix = (
        gauss_newton_factors(network(), loss, batches),
        dense(Curvature(network(), loss, batches, "gauss_newton")),
    )
    torch.testing.assert_close(torch.einsum("icp,icq->pq", factors, factors) / len(x), matrix)
    assert gauss_newton_trace(network(), loss, batches) == pytest.approx(float(matrix.trace()))
    gram = gauss_newton_gram(network(), loss, batches)
    assert float(gram.norm()) / len(x) == pytest.approx(float(matrix.norm()))
    gradients = per_sample_gradients(network(), loss, batches)
    fisher = dense(Curvature(network(), loss, batches, "empirical_fisher"))
    torch.testing.assert_close(gradients.T @ gradients / len(x), fisher)


@pytest.mark.parametrize("params", [None, ["2"], ["0.weight", "2.bias"]])
def test_norms_of_linear_layers_need_no_gradients(params):
    x, y = data()
    module = network()
    expected = per_sample_gradients(module, squared, [(x, y)], params).norm(dim=1)
    torch.testing.assert_close(per_sample_norms(module, squared, [(x[:3], y[:3]), (x[3:], y[3:])], params), expected)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("make", [Tied, lambda: network(nn.Unflatten(1, (1, 3)), nn.Linear(3, 2), nn.Flatten())])
def test_norms_of_other_modules_are_those_of_their_gradients(make):
    module, batch = make(), data()
    expected = per_sample_gradients(module, squared, [batch]).norm(dim=1)
    torch.testing.assert_close(per_sample_norms(module, squared, [batch]), expected)


def falling(n=60, power=1.5):
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    values = 1 / torch.arange(1, n + 1, dtype=torch.float64) ** power
    return (q * values) @ q.T, float(values.sum())


def test_xtrace_is_the_mean_over_left_out_probes():
    matrix, _ = falling(20)
    probes = 2.0 * torch.randint(0, 2, (20, 4), generator=torch.Generator().manual_seed(3)).double() - 1
    by_hand = []
    for k in range(4):
        others = [j for j in range(4) if j != k]
        q, _ = torch.linalg.qr(matrix @ probes[:, others])
        v = probes[:, k] - q @ (q.T @ probes[:, k])
        by_hand.append(float((q * (matrix @ q)).sum() + v @ matrix @ v))
    found = xtrace(lambda v: matrix @ v, 20, 8, torch.Generator().manual_seed(3))
    assert found.trace == pytest.approx(np.mean(by_hand), rel=1e-10)
    assert found.standard_error == pytest.approx(np.std(by_hand, ddof=1) / 2, rel=1e-8)
    assert found.products == 8


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_grown_estimates_have_no_bias_and_count_their_products(method):
    matrix, trace = falling()
    rng, made = torch.Generator().manual_seed(5), []

    def product(v):
        made.append(v.shape[1])
        return matrix @ v

    options = {"method": method, "rtol": 1e-12, "max_products": 48}
    found = [estimate_trace(product, 60, rng, **options) for _ in range(100)]
    assert sum(made) == 100 * 48 == sum(f.products for f in found)
    errors = np.array([f.trace - trace for f in found])
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(100)
    if method == "hutch++":
        once = [hutch_plus_plus(lambda v: matrix @ v, 60, 48, rng).trace - trace for _ in range(100)]
        assert errors.std() < 1.3 * np.std(once)


def test_estimates_stop_by_their_error_and_are_exact_where_that_costs_less():
    matrix, trace = falling()
    rng = torch.Generator().manual_seed(0)
    found = estimate_trace(lambda v: matrix @ v, 60, rng, rtol=0.1)
    assert found.standard_error <= 0.1 * found.trace
    assert found.products == 24
    found = estimate_trace(lambda v: matrix @ v, 60, rng, rtol=1e-12)
    assert (found.products, found.standard_error) == (60, 0.0)
    assert found.trace == pytest.approx(trace, rel=1e-12)
    low = matrix[:, :3] @ matrix[:, :3].T
    found = xtrace(lambda v: low @ v, 60, 12, rng)
    assert found.trace == pytest.approx(float(low.trace()), rel=1e-10)
    assert found.standard_error == 0.0
    assert exact_trace(lambda v: matrix @ v, 60).trace == pytest.approx(trace)


def test_frobenius_norms_have_right_standard_errors():
    matrix, _ = falling()
    rng = torch.Generator().manual_seed(0)
    found = np.array([frobenius_norm(lambda v: matrix @ v, 60, 40, rng)[:2] for _ in range(100)])
    assert abs(np.mean(found[:, 0] ** 2) / float(matrix.norm()) ** 2 - 1) < 0.1
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.25)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Curvature(network(), squared, [], params=["4"]), ValueError, "params has '4'"),
        (lambda: Curvature(network(), squared, [], params=[torch.ones(2)]), ValueError, "a tensor of shape"),
        (lambda: Curvature(network(), squared, [], params=[]), ValueError, "params is empty"),
        (lambda: Curvature(network(), squared, [], reduction="none"), TypeError, "reduction"),
        (lambda: Curvature(network(), squared, [data()]).products(torch.ones(3, 2)), ValueError, "v has shape"),
        (lambda: per_sample_gradients(network(), squared, []), ValueError, "no samples"),
        (lambda: per_sample_norms(network(nn.Dropout(), nn.Linear(3, 2)), squared, [data()]), RuntimeError, "Dropout"),
        (lambda: xtrace(lambda v: v, 9, 5, torch.Generator()), ValueError, "n_products is 5"),
        (lambda: xtrace(lambda v: v, 9, 20, torch.Generator()), ValueError, "n_products is 20"),
        (lambda: estimate_trace(lambda v: v, 9, torch.Generator(), method="exact"), TypeError, "method"),
        (lambda: estimate_trace(lambda v: v, 9, torch.Generator(), rtol=0), ValueError, "rtol is 0"),
        (lambda: estimate_trace(lambda v: v, 9, torch.Generator(), max_products=5), ValueError, "max_products is 5"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises((error, ValueError), match=message):
        call()


def test_a_product_that_is_nan_is_an_error():
    module = network()
    module[0].weight.data[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="NaN"):
        Curvature(module, squared, [data()]).product(torch.ones(26).double())
