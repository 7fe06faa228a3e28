"""Tests of closed forms of batch eigenvalues, and of the rates that follow from them."""

import math
import warnings

import numpy as np
import pytest
import torch

from paperworks.numerics import Spectrum
from paperworks.training import (
    batch_density,
    batch_outlier,
    bulk_edge,
    critical_batch_size,
    deflate_eigenvalue,
    effective_batch_size,
    implied_noise,
    max_learning_rate,
    scale_damping,
    scale_learning_rate,
    spike_overlap,
)

GGN = {"model": "ggn", "tau2": 0.5, "p_eff": 300.0}


def goe(n, rng):
    a = rng.normal(size=(n, n)) / math.sqrt(2 * n)
    return a + a.T  # elements of variance 1 / n: s2 = 1


@pytest.mark.parametrize("lam", [3.0, 2.0, 1.4, -2.5])
def test_outliers_of_spiked_wigner_matrices(lam):
    rng = np.random.default_rng(0)
    noise = goe(1000, rng)
    noise[0, 0] += lam
    values, vectors = np.linalg.eigh(noise)
    k = -1 if lam > 0 else 0
    assert values[k] == pytest.approx(batch_outlier(lam, 4.0, 4), rel=0.03)
    assert vectors[0, k] ** 2 == pytest.approx(spike_overlap(lam, 4.0, 4), abs=0.06)
    inner = values[1:-1]
    assert inner[-1] == pytest.approx(bulk_edge(4.0, 4), rel=0.02)
    assert inner[0] == pytest.approx(bulk_edge(4.0, 4, side="lower"), rel=0.02)


def test_outliers_above_a_bulk_of_their_own():
    rng = np.random.default_rng(1)
    at = np.r_[np.full(500, -1.0), np.full(498, 1.0)]
    spikes = [3.0, -2.5]
    values = np.linalg.eigvalsh(0.5 * goe(1000, rng) + np.diag(np.r_[at, spikes]))
    s2 = 0.25
    assert values[-1] == pytest.approx(batch_outlier(3.0, s2, 1, bulk=at), rel=0.03)
    assert values[0] == pytest.approx(batch_outlier(-2.5, s2, 1, bulk=at), rel=0.03)
    assert values[-2] == pytest.approx(bulk_edge(s2, 1, bulk=at), rel=0.02)
    assert values[1] == pytest.approx(bulk_edge(s2, 1, bulk=at, side="lower"), rel=0.02)
    grid = np.linspace(-3, 3, 601)
    density = batch_density(grid, s2, 1, bulk=at)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.02)
    counts = np.histogram(values[1:-1], [-3, -1, 0, 1, 3])[0] / 1000
    exact = [np.trapezoid(density[(grid >= a) & (grid <= b)], grid[(grid >= a) & (grid <= b)])
             for a, b in ((-3, -1), (-1, 0), (0, 1), (1, 3))]  # fmt: skip
    np.testing.assert_allclose(counts, exact, atol=0.02)


def test_the_side_of_an_outlier_is_that_of_the_bulk_on_which_it_lies():
    """An outlier of negative sign above a bulk of more negative ones is moved up, not down."""
    rng = np.random.default_rng(3)
    at = np.linspace(-6, -4, 799)
    values, vectors = np.linalg.eigh(0.5 * goe(800, rng) + np.diag(np.r_[at, -2.0]))
    assert batch_outlier(-2.0, 0.25, 1, bulk=at) == pytest.approx(-2 + 0.25 * np.mean(1 / (-2 - at)))
    assert values[-1] == pytest.approx(batch_outlier(-2.0, 0.25, 1, bulk=at), abs=0.06)
    assert vectors[-1, -1] ** 2 == pytest.approx(spike_overlap(-2.0, 0.25, 1, bulk=at), abs=0.03)
    for lam in (-2.0, 0.0, -8.0):
        value = batch_outlier(lam, 0.25, 1, bulk=at)
        assert abs(value + 5) > abs(lam + 5)
        assert deflate_eigenvalue(value, 0.25, 1, bulk=at) == pytest.approx(lam, abs=1e-9)
        assert batch_outlier(-lam, 0.25, 1, bulk=-at) == pytest.approx(-value)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1.0, 1e10, 1e150])
def test_closed_forms_scale_with_the_hessian(scale):
    at, grid = np.array([-1.0, 0.5, 1.0]), np.linspace(-3, 3, 7)
    s2 = 0.25 * scale**2
    for bulk, big in ((None, None), (at, scale * at)):
        for lam in (4.0, 0.2, -3.0):
            value = batch_outlier(lam, 0.25, 1, bulk=bulk)
            assert batch_outlier(scale * lam, s2, 1, bulk=big) == pytest.approx(scale * value, rel=1e-12)
            overlap = spike_overlap(lam, 0.25, 1, bulk=bulk)
            assert spike_overlap(scale * lam, s2, 1, bulk=big) == pytest.approx(overlap, rel=1e-12)
        assert deflate_eigenvalue(4 * scale, s2, 1, bulk=big) == pytest.approx(
            scale * deflate_eigenvalue(4.0, 0.25, 1, bulk=bulk)
        )
        np.testing.assert_allclose(
            scale * batch_density(scale * grid, s2, 1, bulk=big), batch_density(grid, 0.25, 1, bulk=bulk), rtol=1e-6
        )
    assert critical_batch_size(scale, s2) == pytest.approx(0.25)
    assert critical_batch_size(1e-200, 1.0, 100) == pytest.approx(100)
    assert deflate_eigenvalue(4e200, None, 1, model="ggn", tau2=1e200, p_eff=0.5) < 4e200


@pytest.mark.parametrize("s2", [1e-300, 1e-40, 1e-20])
def test_noise_too_small_to_be_seen_moves_nothing(s2):
    bulk = np.linspace(0, 1, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batch_outlier(2.0, s2, 1, bulk=bulk) == pytest.approx(2.0)
        assert bulk_edge(s2, 1, bulk=bulk) == pytest.approx(1.0)
        assert deflate_eigenvalue(2.0, s2, 1, bulk=bulk) == pytest.approx(2.0)
        assert spike_overlap(2.0, s2, 1, bulk=bulk) == pytest.approx(1.0)


def test_a_bulk_as_a_spectrum_is_that_of_its_eigenvalues():
    at = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)
    seen = Spectrum(torch.stack([at, at]), torch.full((2, 3), 1 / 3, dtype=torch.float64), 3)
    for lam in (2.0, -2.0, 0.1):
        assert batch_outlier(lam, 0.3, 1, bulk=seen) == pytest.approx(batch_outlier(lam, 0.3, 1, bulk=at))
    assert batch_outlier(2.0, 0.3, 1, bulk=at) == pytest.approx(2 + 0.3 * np.mean([1 / 3, 1 / 2, 1 / 1.5]))
    shifted = batch_outlier(2.0, 0.3, 1, bulk=at + 1)
    assert shifted == pytest.approx(1 + batch_outlier(1.0, 0.3, 1, bulk=at))
    np.testing.assert_allclose(batch_density(np.zeros(1), 1.0, 1, width=1e-4), 1 / np.pi, rtol=1e-3)


@pytest.mark.parametrize(("samples", "ell"), [(600, 3.0), (100, 3.0)])
def test_outliers_of_spiked_covariances(samples, ell):
    rng = np.random.default_rng(2)
    x = math.sqrt(0.5) * rng.normal(size=(samples, 300))
    x[:, 0] *= math.sqrt(ell / 0.5)
    values, vectors = np.linalg.eigh(x.T @ x / samples)
    assert values[-1] == pytest.approx(batch_outlier(ell, None, samples, **GGN), rel=0.15)
    assert values[-2] == pytest.approx(bulk_edge(None, samples, **GGN), rel=0.05)
    assert vectors[0, -1] ** 2 == pytest.approx(spike_overlap(ell, None, samples, **GGN), abs=0.1)
    if samples > 300:
        assert values[0] == pytest.approx(bulk_edge(None, samples, side="lower", **GGN), rel=0.2)


@pytest.mark.parametrize(
    "model", [{"s2": 9.0}, {"s2": 9.0, "bulk": np.zeros(4)}, {"s2": 9.0, "bulk": np.array([-0.5, 0.2])},
              {"s2": None, **GGN}],
)  # fmt: skip
def test_closed_forms_are_continuous_and_have_an_inverse(model):
    transition = deflate_eigenvalue(1e-3, batch_size=16, **model)
    edge = bulk_edge(batch_size=16, **model)
    assert batch_outlier(transition, batch_size=16, **model) == pytest.approx(edge)
    assert batch_outlier(transition * 1.0001, batch_size=16, **model) == pytest.approx(edge, rel=1e-6)
    assert batch_outlier(transition * 0.5, batch_size=16, **model) == pytest.approx(edge)
    assert spike_overlap(transition * (1 + 1e-9), batch_size=16, **model) == pytest.approx(0, abs=1e-6)
    assert spike_overlap(1e4 * transition, batch_size=16, **model) == pytest.approx(1, abs=1e-3)
    last = edge
    for factor in (1.01, 1.5, 4.0, 50.0):
        lam = factor * transition
        value = batch_outlier(lam, batch_size=16, **model)
        assert value > last
        assert deflate_eigenvalue(value, batch_size=16, **model) == pytest.approx(lam, rel=1e-9)
        assert batch_outlier(lam, batch_size=16, n_data=16, **model) == pytest.approx(lam)
        assert lam < batch_outlier(lam, batch_size=16, n_data=20, **model) < value
        last = value


def test_batches_of_all_data_have_no_noise():
    assert effective_batch_size(7, 7) == math.inf
    assert batch_outlier(2.0, 5.0, 7, 7) == 2.0
    assert bulk_edge(5.0, 7, 7) == 0.0
    assert spike_overlap(2.0, 5.0, 7, 7) == 1.0
    assert bulk_edge(5.0, 7, 7, bulk=np.array([0.5, 1.0])) == 1.0
    assert max_learning_rate(2.0, 5.0, 7, 7) == 1.0
    assert implied_noise(2.0, batch_outlier(2.0, 5.0, 6, 7), effective_batch_size(6, 7)) == pytest.approx(5.0)
    assert implied_noise(2.0, batch_outlier(2.0, 50.0, 1), 1.0) == pytest.approx(50.0)
    assert critical_batch_size(2.0, 0.0, 10) == 0.0


def test_rates_grow_linearly_and_saturate():
    lam, s2 = 2.0, 400.0  # critical at 100
    assert critical_batch_size(lam, s2) == 100
    assert batch_outlier(lam, s2, 100) == 2 * lam
    with pytest.warns(RuntimeWarning, match="limited by noise bulk"):
        assert max_learning_rate(lam, s2, 25) == pytest.approx(5 / 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = [max_learning_rate(lam, s2, b) for b in (200, 400, 10**6)]
    assert rates == pytest.approx([2 * lam * b / (lam**2 * b + s2) for b in (200, 400, 10**6)])
    assert max_learning_rate(lam, s2, 400, momentum=0.9) == pytest.approx(1.9 * rates[1])
    assert max_learning_rate(lam, s2, 400, weight_decay=0.5) == pytest.approx(2 / (2.5 + 0.5))
    assert max_learning_rate(lam, s2, 400, optimizer="adam") == pytest.approx(1.0)
    assert max_learning_rate(4.0, None, 100, **GGN) == pytest.approx(2 / batch_outlier(4.0, None, 100, **GGN))


def test_transfers_follow_their_rules():
    assert scale_learning_rate(0.1, 8, 64, rule="linear", max_lr=0.5) == 0.5
    assert scale_learning_rate(0.1, 8, 64, rule="adam") == pytest.approx(0.1 * math.sqrt(8))
    assert scale_learning_rate(0.1, 50, 75, rule="adam", n_data=100) == pytest.approx(0.1 * math.sqrt(3))
    there = scale_learning_rate(0.1, 16, 128, lam=2.0, s2=32.0)
    assert there == pytest.approx(0.1 * batch_outlier(2.0, 32.0, 16) / batch_outlier(2.0, 32.0, 128))
    assert scale_learning_rate(there, 128, 16, lam=2.0, s2=32.0) == pytest.approx(0.1)
    with pytest.warns(RuntimeWarning, match="lost in batches of 4"):
        assert scale_learning_rate(0.1, 4, 1, lam=2.0, s2=32.0) == pytest.approx(0.05)
    assert scale_learning_rate(0.1, 64, 64, rule="adam", n_data=64) == 0.1
    assert scale_learning_rate(0.1, 8, 64, lam=4.0, **GGN) > 0.1
    assert scale_damping(0.1, 32, 64, lr_ratio=math.sqrt(2)) == pytest.approx(0.1 / math.sqrt(2))
    assert scale_damping(0.1, 32, 64, n_data=64) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: effective_batch_size(0), "batch_size is 0"),
        (lambda: batch_outlier(1.0, 1.0, 11, 10), "batch_size is 11; it takes a whole number >= 1 and <= 10"),
        (lambda: batch_outlier(0.0, 1.0, 2), "lam is 0"),
        (lambda: batch_outlier(math.nan, 1.0, 2), "lam is nan"),
        (lambda: batch_outlier(1.0, -1.0, 2), "s2 is -1"),
        (lambda: batch_outlier(1.0, None, 2), "s2 is None"),
        (lambda: batch_outlier(-1.0, None, 2, **GGN), "lam is -1"),
        (lambda: batch_outlier(1.0, 1.0, 2, **GGN), "s2 is given for the model 'ggn'"),
        (lambda: batch_outlier(1.0, 1.0, 2, tau2=1.0), "tau2 is given for the model 'hessian'"),
        (lambda: batch_outlier(1.0, None, 2, model="ggn", tau2=1.0), "p_eff is None"),
        (lambda: batch_outlier(1.0, 1.0, 2, bulk=np.array([np.nan])), "bulk has 1 eigenvalues"),
        (lambda: batch_outlier(1.0, 1.0, 2, bulk=np.array([])), "bulk has 0 eigenvalues"),
        (lambda: batch_outlier(1.0, 1.0, 2, model="wishart"), "model"),
        (lambda: bulk_edge(1.0, 2, side="left"), "side"),
        (lambda: batch_density(np.zeros(1), 0.0, 2), "no noise to smooth by"),
        (lambda: batch_density(np.zeros(1), 1.0, 2, 2), "no noise to smooth by"),
        (lambda: batch_density(np.zeros(1), 1.0, 2, width=0.0), "width is 0"),
        (lambda: batch_density(np.array([np.nan]), 1.0, 2), "grid has NaN"),
        (lambda: batch_outlier(0.0, 1.0, 2, bulk=np.array([-1.0, 1.0])), "lam is 0"),
        (lambda: scale_learning_rate(0.1, 16, 8, rule="adam", n_data=16), "from_size is 16, all data"),
        (lambda: max_learning_rate(-1.0, 1.0, 2), "lam is -1"),
        (lambda: max_learning_rate(1.0, 1.0, 2, momentum=1.0), "momentum is 1"),
        (lambda: max_learning_rate(1.0, 1.0, 2, optimizer="adam", momentum=0.5), "optimizer is 'adam'"),
        (lambda: max_learning_rate(1.0, 1.0, 2, optimizer="lion"), "optimizer"),
        (lambda: scale_learning_rate(0.1, 8, 16), "rule is 'rmt', which takes lam and s2"),
        (lambda: scale_learning_rate(0.1, 8, 16, rule="linear", lam=1.0), "rule is 'linear', which takes no curvature"),
        (lambda: scale_learning_rate(0.1, 8, 16, rule="adam", n_data=16), "lr would become inf"),
        (lambda: scale_learning_rate(-0.1, 8, 16, rule="sqrt"), "lr is -0.1"),
        (lambda: scale_learning_rate(0.1, 8, 16, rule="cube"), "rule"),
        (lambda: scale_damping(0.1, 16, 8, n_data=16), "from_size is 16, all data"),
        (lambda: critical_batch_size(0.0, 1.0), "lam is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
