"""The model of unconstrained features: exact minimisers, the flow, the linear map and its spectrum."""

import math
import re

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from paperworks.training import (
    VicinityUFM,
    central_path,
    nc_metrics,
    near_collapse_spectrum,
    optimal_head,
    reduced_loss_grad,
    ufm_minimizer,
    ufm_optimal_value,
)

K, n, d = 3, 4, 5
LABELS = np.repeat(np.arange(K), n)
H0 = np.random.default_rng(0).normal(size=(d, K * n))


def loss(W, H, lam_W, lam_H, beta=0.0, labels=LABELS):
    Y, N = np.eye(K)[labels].T, H.shape[1]
    penalties = lam_W / (2 * K) * np.sum(W**2) + lam_H / (2 * N) * np.sum(H**2)
    return np.sum((W @ H - Y) ** 2) / (2 * N) + penalties + beta / (2 * N) * np.sum((H - H0[:, :N]) ** 2)


@pytest.mark.parametrize("labels", [LABELS, np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])])
def test_the_best_head_and_the_gradient_at_it(labels):
    W = optimal_head(H0, labels, 0.3)
    assert abs(approx_fprime(W.ravel(), lambda w: loss(w.reshape(W.shape), H0, 0.3, 0.1, labels=labels))).max() < 1e-7
    value, gradient = reduced_loss_grad(H0, labels, 0.3, 0.1)
    assert value == pytest.approx(loss(W, H0, 0.3, 0.1, labels=labels), rel=1e-13)
    numeric = approx_fprime(H0.ravel(), lambda h: reduced_loss_grad(h.reshape(d, -1), labels, 0.3, 0.1)[0])
    np.testing.assert_allclose(gradient.ravel(), numeric, atol=1e-6)


def test_the_smaller_system_gives_the_same_head():
    wide = np.random.default_rng(1).normal(size=(20, K * n))
    A = wide @ wide.T + n * 0.3 * np.eye(20)
    Y = np.eye(K)[LABELS].T
    np.testing.assert_allclose(optimal_head(wide, LABELS, 0.3), Y @ wide.T @ np.linalg.inv(A), atol=1e-12)
    np.testing.assert_array_equal(
        optimal_head(wide, Y, 0.3), optimal_head(wide, np.array(["a", "b", "c"])[LABELS], 0.3)
    )


@pytest.mark.parametrize(("lam_W", "lam_H"), [(0.1, 0.4), (2.0, 0.05), (0.01, 0.01), (2.0, 0.6), (1.0, 1.0)])
def test_collapsed_features_minimise_the_model(lam_W, lam_H):
    W, H = ufm_minimizer(K, n, d, lam_W, lam_H, random_state=0)
    assert loss(W, H, lam_W, lam_H) == pytest.approx(ufm_optimal_value(lam_W, lam_H), rel=1e-12)
    assert abs(reduced_loss_grad(H, LABELS, lam_W, lam_H)[1]).max() < 1e-15
    if lam_W * lam_H < 1:
        c = math.sqrt(lam_W * lam_H)
        np.testing.assert_allclose(W @ H, (1 - c) * np.eye(K)[LABELS].T, atol=1e-14)
        found = nc_metrics(H.T, LABELS, W, which=("nc1", "nc1_trace", "nc2", "nc3"))
        assert max(found.nc1, found.nc1_trace, found.nc2, found.nc3) < 1e-14
        np.testing.assert_allclose(VicinityUFM(lam_W, lam_H, 0.7).fit(H, LABELS).H_, H, atol=1e-10)
    else:
        assert not H.any()


@pytest.mark.parametrize("beta", [0.01, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("shape", [(5, 12), (20, 12)])
def test_the_minimiser_is_stationary_and_below_all_near_it(beta, shape):
    start = np.random.default_rng(2).normal(size=shape)
    model = VicinityUFM(0.2, 0.1, beta).fit(start, LABELS)
    gradient = 12 * reduced_loss_grad(model.H_, LABELS, 0.2, 0.1)[1] + beta * (model.H_ - start)
    assert abs(gradient).max() <= 1e-9 * max(1, beta * 1e-4)
    np.testing.assert_allclose(model.W_, optimal_head(model.H_, LABELS, 0.2), atol=1e-12)
    rng = np.random.default_rng(3)

    def value(H):
        return reduced_loss_grad(H, LABELS, 0.2, 0.1)[0] + beta / 24 * np.sum((H - start) ** 2)

    assert all(value(model.H_) < value(model.H_ + 1e-3 * rng.normal(size=shape)) for _ in range(20))


def test_columns_may_come_in_any_order_and_classes_be_unbalanced():
    order = np.random.default_rng(4).permutation(K * n)
    sorted_, mixed = VicinityUFM(0.2, 0.1, 1.0), VicinityUFM(0.2, 0.1, 1.0)
    np.testing.assert_allclose(
        mixed.fit(H0[:, order], LABELS[order]).H_, sorted_.fit(H0, LABELS).H_[:, order], atol=1e-10
    )
    uneven = VicinityUFM(0.2, 0.1, 1.0).fit(H0, np.array([0] * 8 + [1] * 3 + [2]))
    assert uneven.grad_norm_ < 1e-9


def test_the_plain_model_is_the_one_with_beta_0():
    model = VicinityUFM(0.2, 0.1, 0.0).fit(H0, LABELS)
    assert loss(model.W_, model.H_, 0.2, 0.1) == pytest.approx(ufm_optimal_value(0.2, 0.1), rel=1e-9)
    with pytest.raises(ValueError, match="beta is 0"):
        model.predict_perturbation(H0)


def test_a_minimiser_that_is_not_reached_is_said():
    with pytest.warns(RuntimeWarning, match="after 1 steps"):
        VicinityUFM(0.01, 0.0, 0.01, steps=1).fit(H0, LABELS)


@pytest.mark.parametrize("shape", [(5, 12), (20, 12)])
def test_the_linear_map_is_the_derivative(shape):
    start, direction = np.random.default_rng(5).normal(size=(2, *shape))
    model = VicinityUFM(0.2, 0.1, 0.5, rtol=1e-13).fit(start, LABELS)
    step = 1e-5
    ahead, behind = (
        VicinityUFM(0.2, 0.1, 0.5, rtol=1e-13).fit(start + s * direction, LABELS).H_ for s in (step, -step)
    )
    np.testing.assert_allclose(model.predict_perturbation(direction), (ahead - behind) / (2 * step), atol=1e-7)


def test_both_orders_are_of_one_symmetric_operator():
    model = VicinityUFM(0.2, 0.1, 3.0).fit(H0, LABELS)
    size = H0.size
    F = model.perturbation_operator("large_beta") @ np.eye(size)
    E = model.perturbation_operator() @ np.eye(size)
    np.testing.assert_allclose(F, F.T, atol=1e-13)
    np.testing.assert_allclose(E, np.linalg.inv(2 * np.eye(size) - F), atol=1e-11)


@pytest.mark.parametrize(("lam_W", "lam_H"), [(math.sqrt(2), 0.05), (0.3, 0.6), (0.1, 0.1)])
@pytest.mark.parametrize("dim", [3, 5])
def test_the_spectrum_near_collapse_is_the_closed_form(lam_W, lam_H, dim):
    _, H = ufm_minimizer(K, n, dim, lam_W, lam_H, random_state=1)
    model, closed = VicinityUFM(lam_W, lam_H, 7.0).fit(H, LABELS), near_collapse_spectrum(K, n, dim, lam_W, lam_H, 7.0)
    F = model.perturbation_operator("large_beta") @ np.eye(H.size)
    np.testing.assert_allclose(np.linalg.eigvalsh(7 * (np.eye(H.size) - F)), closed.spectrum, atol=1e-12)
    block = dim * n
    np.testing.assert_allclose(np.linalg.svd(F[:block, :block])[1], closed.block, atol=1e-12)
    cross = np.linalg.svd(F[:block, block : 2 * block])[1]
    np.testing.assert_allclose(cross, [closed.cross, *[0.0] * (block - 1)], atol=1e-12)
    E = model.perturbation_operator() @ np.eye(H.size)
    gains = np.sort(np.repeat(closed.attenuation, closed.multiplicities))
    np.testing.assert_allclose(np.linalg.eigvalsh(E), gains, atol=1e-12)
    assert closed.multiplicities.sum() == H.size


def test_variability_falls_along_the_flow_and_an_implicit_step_is_near_it():
    t = np.linspace(0, 2, 21)
    for lam_H in (0.0, 0.2):
        path = central_path(H0, LABELS, 0.3, lam_H, t)
        assert (np.diff(path.nc1_trace) < 0).all()
        assert (np.diff(np.exp(2 * lam_H * t) * path.trace_within) < 0).all()
        assert (np.diff(np.exp(2 * lam_H * t) * path.trace_between) > 0).all()
    measured = nc_metrics(path.H[5].T, LABELS, which=("nc1_trace",)).nc1_trace
    assert path.nc1_trace[5] == pytest.approx(measured, rel=1e-12)
    errors = [abs(central_path(H0, LABELS, 0.3, 0.2, t[:11:s], "implicit").H[-1] - path.H[10]).max() for s in (2, 1)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)


def test_the_flow_stays_in_the_span_of_wide_features():
    wide = np.linalg.qr(np.random.default_rng(0).normal(size=(20, d)))[0] @ H0
    np.testing.assert_allclose(
        central_path(wide, LABELS, 0.3, 0.1, [1.0]).nc1_trace,
        central_path(H0, LABELS, 0.3, 0.1, [1.0]).nc1_trace,
        rtol=1e-7,
    )
    np.testing.assert_array_equal(central_path(H0, LABELS, 0.3, 0.1, [0.0]).H[0], H0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_head(H0, LABELS, 0.0), "lam_W is 0.0"),
        (lambda: optimal_head(H0[:2], LABELS, 0.1), "H has d = 2 rows for 3 classes; it takes d >= K"),
        (lambda: optimal_head(np.full_like(H0, np.nan), LABELS, 0.1), "H has 60 NaN"),
        (lambda: optimal_head(H0, np.eye(3)[LABELS].T[:, :4], 0.1), "labels are of 4 samples and H has 12 columns"),
        (lambda: reduced_loss_grad(H0, LABELS, 0.1, -1.0), "lam_H is -1.0"),
        (lambda: ufm_minimizer(3, 2, 2, 0.1, 0.1), "d is 2 for 3 classes"),
        (lambda: ufm_minimizer(2, 2, 3, 0.1, 0.0), "lam_H is 0.0"),
        (lambda: ufm_minimizer(2, 2, 3, 0.1, 0.1, R=np.ones((3, 2))), "it takes 2 orthonormal columns with 3 entries"),
        (lambda: ufm_optimal_value(0.0, 1.0), "lam_W is 0.0"),
        (lambda: VicinityUFM(0.1, 0.1, -1.0), "beta is -1.0"),
        (lambda: VicinityUFM(0.1, 0.0, 0.0), "lam_H and beta are both 0"),
        (lambda: VicinityUFM(0.1, 0.1, 1.0).fit(H0, LABELS).predict_perturbation(H0[:3]), r"dH0 has shape \(3, 12\)"),
        (lambda: near_collapse_spectrum(2, 3, 4, 1.0, 1.0, 1.0), "have the product 1; it takes one below 1"),
        (lambda: near_collapse_spectrum(3, 3, 2, 0.1, 0.1, 1.0), "d is 2 for 3 classes"),
        (lambda: near_collapse_spectrum(2, 3, 4, 0.1, 0.1, 0.0), "beta is 0.0"),
        (lambda: central_path(H0, LABELS, 0.1, 0.1, [1.0, 0.5]), "it takes ascending times, 0 or more"),
        (lambda: central_path(H0, LABELS, 0.1, 0.1, [-1.0, 0.5]), "it takes ascending times, 0 or more"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    # Shapes are found by the tests' type checker first.
    assert isinstance(caught.value, TypeError) or re.search(message, str(caught.value))


def test_what_comes_before_fit_is_said():
    with pytest.raises(AttributeError, match="call fit first"):
        VicinityUFM(0.1, 0.1, 1.0).predict_perturbation(H0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda H, y: VicinityUFM(1e-12, 0.0, 1e-12).fit(H, y), "lam_H \\+ beta is 1.0e-12"),
        (lambda H, y: VicinityUFM(0.1, 0.1, 1.0).fit(1e200 * H, y), "H0 has entries up to .*, whose squares overflow"),
        (lambda H, y: optimal_head(1e200 * H, y, 0.1), "H has entries up to .*, whose squares overflow"),
        (lambda H, y: VicinityUFM(0.1, 0.1, 1.0).fit(H, np.where(y, np.nan, 0.0)), "labels has NaN"),
    ],
)
def test_what_double_precision_cannot_hold_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=(5, 20)), np.repeat([0, 1], 10))
