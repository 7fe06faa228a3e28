"""Tests of estimates of a Hessian's noise, and of spectra of networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from paperworks.numerics import FrozenCurvature, mlp, seeded
from paperworks.training import (
    GGNOperator,
    HessianOperator,
    batch_outlier,
    estimate_hessian_noise,
    lanczos_spectrum,
)
from paperworks.training.batch_size.noise import _fit


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Matrix(nn.Module):
    """A quadratic loss whose samples have Hessians that are given: w^T A_i w / 2."""

    def __init__(self, p):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(p, dtype=torch.float64))

    def forward(self, a):
        return torch.einsum("p,npq,q->n", self.w, a, self.w) / 2


def first(out, _):
    return out.mean()


def wigner(n=400, p=40, s2=4.0, spike=3.0, seed=0):
    """Sample Hessians that are the model itself: a spike, and independent symmetric noise of variance s2 / p."""
    a = torch.randn(n, p, p, generator=rng(seed), dtype=torch.float64) * math.sqrt(s2 / (2 * p))
    a = a + a.transpose(1, 2)
    a[:, 0, 0] += spike
    return a, torch.zeros(n)


@pytest.mark.parametrize("method", ["frobenius", "directional", "fit"])
def test_all_methods_find_the_noise_of_the_model(method):
    found = estimate_hessian_noise(Matrix(40), first, wigner(), method, n_probes=6, repeats=20, rtol=1e-8)
    full = float(torch.linalg.eigvalsh(wigner()[0].mean(0))[-1])
    assert found.lam == pytest.approx(full, rel=1e-6)
    assert found.s2 == pytest.approx(4.0, abs=max(4 * found.s2_stderr, 0.4))
    assert 0 < found.s2_stderr < 1
    assert found.method == method
    exact = found.s2 / full**2
    assert found.critical_batch_size == pytest.approx(exact / (1 + exact / 400))


def test_deviations_of_samples_are_those_of_dense_matrices():
    a, y = wigner(30, 6, seed=3)
    H = a.mean(0)
    _, vectors = torch.linalg.eigh(H)
    u = vectors[:, -1]
    off = (a - H) @ u
    off = off - torch.outer(off @ u, u)
    expected = float(off.square().sum() / 29)
    found = estimate_hessian_noise(Matrix(6), first, (a, y), "directional", rtol=1e-12)
    assert found.s2 == pytest.approx(expected, rel=1e-5)
    assert found.s2_stderr == pytest.approx(float(off.square().sum(1).std() / math.sqrt(30)) * 30 / 29, rel=1e-5)
    norms = float((a - H).square().sum() / 29 / 6)
    many = estimate_hessian_noise(Matrix(6), first, (a, y), "frobenius", n_probes=40)
    assert abs(many.s2 - norms) < 4 * many.s2_stderr


def test_the_fit_is_exact_for_eigenvalues_on_the_law():
    effective = np.array([4.0, 16.0, 64.0])
    values = [np.full(3, batch_outlier(2.0, 32.0, int(b))) for b in effective]
    s2, error, used = _fit(2.0, effective, values)
    assert (s2, error) == (pytest.approx(32.0), pytest.approx(0, abs=1e-9))
    assert used.tolist() == [False, True, True]  # 4 is below the transition at 8
    s2, _, used = _fit(2.0, effective[:1], values[:1])
    assert s2 == pytest.approx(32.0)
    assert not used.any()
    assert _fit(2.0, effective, [np.full(2, 1.9)] * 3)[0] == 0.0


def test_a_sample_of_the_data_gives_the_eigenvalue_without_its_bias():
    data = wigner(600, 60, s2=40.0, spike=4.0, seed=1)
    options = {"max_samples": 40, "batch_sizes": [30, 60, 120], "repeats": 4}
    found = [estimate_hessian_noise(Matrix(60), first, data, random_state=k, **options) for k in range(8)]
    full = float(torch.linalg.eigvalsh(data[0].mean(0))[-1])
    bias = batch_outlier(full, 40.0, 40, 600) - full
    errors = [f.lam - full for f in found]
    assert abs(np.mean(errors)) < 0.4 * bias
    assert [row.batch_size for row in found[0].table] == [30, 60, 120]
    assert found[0].table[0].effective == pytest.approx(1 / (1 / 30 - 1 / 600))


def loss_of(out, y):
    return functional.cross_entropy(out, y)


class Small(nn.Module):
    """Convolution, batch normalisation, dropout, tied matrices, and a frozen end."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5))
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(8, 3).requires_grad_(False)

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(self.features(x)))))


def images(n=160):
    return torch.randn(n, 1, 4, 4, generator=rng(1)), torch.randint(3, (n,), generator=rng(2))


@pytest.mark.parametrize("method", ["frobenius", "directional", "fit"])
@pytest.mark.parametrize("make", [lambda m: m, torch.compile])
def test_networks_stay_as_they_are(method, make):
    with seeded(0):
        model = Small()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    made = make(model)
    loader = DataLoader(TensorDataset(*images()), batch_size=32)
    options = {"batch_sizes": [8, 16, 32], "repeats": 3, "n_probes": 2}
    found = estimate_hessian_noise(made, loss_of, loader, method, batch_size=64, **options)
    again = estimate_hessian_noise(model, loss_of, images(), method, **options)
    assert found.lam == pytest.approx(again.lam, rel=1e-3)
    assert found.s2 == pytest.approx(again.s2, rel=1e-2)
    assert found.s2 > 0
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(p.grad is None for p in model.parameters())
    if method == "fit":
        other = estimate_hessian_noise(model, loss_of, loader, batch_norm="train", **options)
        assert other.s2 != pytest.approx(again.s2, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_vectors_in_single(dtype):
    with seeded(0):
        model = mlp([5, 8, 3], nn.Tanh)
    x, y = torch.randn(60, 5, generator=rng()), torch.randint(3, (60,), generator=rng())
    exact = lanczos_spectrum(FrozenCurvature(model, loss_of, [(x, y)]), 40)
    half = lanczos_spectrum(FrozenCurvature(model.to(dtype), loss_of, [(x.to(dtype), y)]), 40)
    torch.testing.assert_close(half.nodes, exact.nodes, rtol=0, atol=0.03 * exact.largest)
    assert half.weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("operator", [HessianOperator, GGNOperator])
def test_spectra_of_networks_have_the_moments_of_their_matrices(operator):
    with seeded(0):
        model = mlp([3, 5, 3], nn.Tanh).double()
    x, y = torch.randn(9, 3, generator=rng(), dtype=torch.float64), torch.randint(3, (9,), generator=rng())
    op = operator(model, loss_of, (x, y))
    matrix = op @ torch.eye(op.n, dtype=torch.float64)
    exact = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    found = lanczos_spectrum(op, 20, 40)
    kind = "hessian" if operator is HessianOperator else "gauss_newton"
    frozen = lanczos_spectrum(FrozenCurvature(model, loss_of, [(x, y)], kind), 20, 40)
    torch.testing.assert_close(found.nodes[:, -3:], frozen.nodes[:, -3:])
    for order in range(1, 4):
        value, error = found.mean(lambda e, order=order: e**order)
        assert abs(value - float((exact**order).mean())) < 5 * error
    assert found.largest == pytest.approx(float(exact[-1]))
    shifted = lanczos_spectrum(op, 20, 40, weight_decay=0.5)
    assert shifted.moment(1) == pytest.approx(found.moment(1) + 0.5)
    absolute = lanczos_spectrum(op, 20, 40, absolute=True)
    value, error = absolute.mean(lambda e: e)
    assert abs(value - float(exact.abs().mean())) < 5 * error + 1e-9
    assert absolute.smallest >= 0
    assert lanczos_spectrum(op, 10_000).nodes.shape[1] <= op.n


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(40, 6), "guess"), "method"),
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(40, 6), batch_sizes=[40]), "batch_sizes is 40"),
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(40, 6), batch_sizes=[]), "batch_sizes is empty"),
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(40, 6)), "data has 40 samples"),
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(200, 6), repeats=0), "repeats is 0"),
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(200, 6), max_samples=1), "max_samples is 1"),
        (lambda: estimate_hessian_noise(Matrix(6), first, (-torch.ones(9, 6, 6).tril().triu().double(), torch.ones(9))),
         "largest eigenvalue -"),
        (lambda: estimate_hessian_noise(Matrix(6), first, []), "data holds no samples"),
        (lambda: estimate_hessian_noise(Matrix(6), first, [([1, 2], [3, 4])]), "no pairs of tensors"),
        (lambda: estimate_hessian_noise(Matrix(6), first, (torch.ones(3, 6, 6), torch.ones(2))), "3 inputs and 2"),
        (lambda: estimate_hessian_noise(Matrix(6).to("meta"), first, wigner(200, 6)), "meta device"),
        (
            lambda: estimate_hessian_noise(Matrix(6), first, wigner(200, 6), "frobenius", kind="gauss_newton"),
            "kind is 'gauss_newton'",
        ),
        (lambda: estimate_hessian_noise(Matrix(6), first, wigner(40, 6), batch_sizes=8), "batch_sizes"),
        (lambda: estimate_hessian_noise(Matrix(6), first, 3), "data"),
        (lambda: estimate_hessian_noise(Matrix(6), first, iter([{"x": 1, "y": 2}])), "no pairs of tensors"),
        (lambda: lanczos_spectrum(HessianOperator(Matrix(6).to("meta"), first, wigner(9, 6))), "meta device"),
        (lambda: lanczos_spectrum(HessianOperator(Matrix(6), first, wigner(9, 6)), 0), "steps is 0"),
        (lambda: lanczos_spectrum(HessianOperator(Matrix(6), first, wigner(9, 6)), weight_decay=-1), "weight_decay"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
