import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from paperworks.reduction import EmpiricalCubature, GappyPOD, UpdatableNNLS, qdeim_points


def integrands(m=40, n=600, seed=0):
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, n)
    G = np.stack([np.cos(k * x * 3) * rng.normal() + np.sin(2 * k * x) / (1 + k) for k in range(m)])
    return G, rng.uniform(0.5, 1.5, n) / n


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 25), st.integers(1, 40), st.integers(0, 10**6))
def test_nnls_is_scipys(m, n, seed):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(m, n)), rng.normal(size=m)
    if seed % 3 == 0:
        A[:, n // 2] = A[:, 0]  # columns that depend on each other
    ours = UpdatableNNLS(A, b)
    while ours.add():
        pass
    theirs = nnls(A, b)[1]
    assert np.linalg.norm(ours.r) == pytest.approx(theirs, rel=1e-7, abs=1e-9)
    assert (ours.x > 0).all()
    assert np.allclose(A[:, ours.points] @ ours.x + ours.r, b)
    assert (A.T @ ours.r).max() < 1e-8  # the conditions of Karush, Kuhn and Tucker


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_nnls_goes_on_from_any_columns(seed):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(15, 30)), rng.normal(size=15)
    warm = UpdatableNNLS(A, b)
    some = rng.choice(30, size=12, replace=False)
    warm.begin(some, rng.uniform(size=12) if seed % 2 else None)
    assert (warm.x > 0).all()
    assert set(warm.points) <= set(some)
    while warm.add():
        pass
    assert np.linalg.norm(warm.r) == pytest.approx(nnls(A, b)[1], rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
def test_the_rule_integrates_within_the_tolerance_with_positive_weights(rtol, normalize):
    G, w = integrands()
    rule = EmpiricalCubature(rtol, normalize=normalize).fit(G, w)
    assert rule.converged_
    error = np.linalg.norm(G[:, rule.points_] @ rule.weights_ - G @ w) / np.linalg.norm(G @ w)
    assert error == pytest.approx(rule.residual_, rel=1e-6)
    assert error <= rtol
    assert abs(rule.weights_.sum() / w.sum() - 1) <= rtol
    assert (rule.weights_ > 0).all()
    assert (np.diff(rule.points_) > 0).all()
    assert len(rule.points_) <= len(G) + 1


def test_polynomials_need_no_more_points_than_there_are():
    x, w = np.polynomial.legendre.leggauss(300)
    rule = EmpiricalCubature(1e-12).fit(x ** np.arange(10)[:, None], w)
    assert len(rule.points_) <= 10
    assert rule.weights_ @ x[rule.points_] ** 8 == pytest.approx(2 / 9, abs=1e-10)


def test_an_update_keeps_most_points_and_takes_few_steps():
    G, w = integrands()
    rule = EmpiricalCubature(1e-5).fit(G, w)
    before = set(rule.points_)
    rule.update(np.vstack([G, np.cos(30 * np.linspace(0, 1, G.shape[1]))]), w)
    assert rule.converged_
    assert len(before & set(rule.points_)) > 0.7 * len(before)
    again = EmpiricalCubature(1e-5, init=rule.points_).fit(G, w)
    assert again.converged_


def test_rows_of_zeros_and_doubled_points_change_nothing():
    G, w = integrands()
    rule = EmpiricalCubature(1e-4).fit(G, w)
    padded = EmpiricalCubature(1e-4).fit(np.vstack([G, np.zeros((7, G.shape[1]))]), w)
    np.testing.assert_array_equal(padded.points_, rule.points_)
    np.testing.assert_allclose(padded.weights_, rule.weights_, rtol=1e-8)
    doubled = EmpiricalCubature(1e-4).fit(np.repeat(G, 2, axis=1), np.repeat(w, 2) / 2)
    assert doubled.converged_
    assert len(set(doubled.points_ // 2)) == len(doubled.points_)  # never both of a pair
    negative = EmpiricalCubature(1e-4).fit(-np.abs(G), w)  # integrals may be negative, weights not
    assert negative.converged_
    assert (negative.weights_ > 0).all()


def test_an_update_with_the_same_integrands_changes_nothing():
    G, w = integrands()
    rule = EmpiricalCubature(1e-5).fit(G, w)
    points, weights = rule.points_, rule.weights_
    rule.update(G, w)
    np.testing.assert_array_equal(rule.points_, points)
    np.testing.assert_allclose(rule.weights_, weights, rtol=1e-7)


def test_residuals_do_not_depend_on_the_number_of_points():
    rng = np.random.default_rng(0)
    modes = np.linalg.qr(rng.normal(size=(500, 4)))[0].T
    for n in (20, 100, 450):
        gappy = GappyPOD(modes, rng.choice(500, n, replace=False))
        residual = gappy.fit(rng.normal(size=(300, n)))[1]  # noise of variance 1, less what 4 modes take
        assert np.sqrt((residual**2).mean()) == pytest.approx(np.sqrt(1 - 4 / n), rel=0.03)


def test_a_limit_of_points_is_kept_and_said():
    G, w = integrands()
    rule = EmpiricalCubature(1e-6, max_points=5).fit(G, w)
    assert len(rule.points_) == 5
    assert not rule.converged_


def test_without_the_volume_weights_are_free():
    w = np.ones(4)
    rule = EmpiricalCubature(1e-9, volume=False).fit(np.array([[1.0, 2.0, 3.0, 10.0]]), w)
    assert rule.points_.tolist() == [3]
    assert rule.weights_ == pytest.approx([1.6])
    alone = EmpiricalCubature(1e-9).fit(np.zeros((2, 4)), w)  # nothing but the volume
    assert alone.weights_.sum() == pytest.approx(4)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda G, w: EmpiricalCubature(0.0), "rtol is 0"),
        (lambda G, w: EmpiricalCubature().fit(G, w[:-1]), "shapes"),
        (lambda G, w: EmpiricalCubature().fit(G * np.nan, w), "NaN"),
        (lambda G, w: EmpiricalCubature().fit(G, -w), "not positive"),
        (lambda G, w: EmpiricalCubature(init=[10**6]).fit(G, w), "init"),
        (lambda G, w: EmpiricalCubature(volume=False).fit(0 * G, w), "all 0"),
        (lambda G, w: EmpiricalCubature(max_points=-1), "max_points is -1"),
        (lambda G, w: EmpiricalCubature(init=[0, 1, 2], max_points=2).fit(G, w), "more than max_points"),
        (lambda G, w: EmpiricalCubature(init=[0.5]).fit(G, w), "row of indices"),
        (lambda G, w: EmpiricalCubature().update(G, w), "not fitted"),
        (lambda G, w: UpdatableNNLS(G, w), "A and b have shapes"),
        (lambda G, w: UpdatableNNLS(G * np.inf, w[: len(G)]), "NaN or infinite"),
        (lambda G, w: GappyPOD(G * np.nan, [0, 1]), "modes has values"),
        (lambda G, w: GappyPOD(np.ones((0, 5)), [0, 1]), "modes has shape"),
        (lambda G, w: GappyPOD(np.ones((1, 5)), [0.5, 1]), "dtype float64"),
        (lambda G, w: GappyPOD(np.ones((1, 5)), np.ones(5, bool)), "dtype bool"),
        (lambda G, w: GappyPOD(np.ones((1, 5)), [1, 2]).fit(np.array([1.0, np.nan])), "values has entries"),
        (lambda G, w: GappyPOD(G, [0, 1]), "at least as many"),
        (lambda G, w: GappyPOD(np.ones((2, 5)), [0, 1, 2]), "condition"),
        (lambda G, w: GappyPOD(np.ones((1, 5)), [7]), "indices below 5"),
        (lambda G, w: GappyPOD(np.ones((1, 5)), [1, 2]).fit(np.ones(3)), "it takes 2 values"),
        (lambda G, w: qdeim_points(np.ones((2, 5)), block=2), "multiple of block"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(*integrands())


def test_fields_in_the_span_are_rebuilt_and_others_leave_a_residual():
    rng = np.random.default_rng(0)
    modes = np.linalg.qr(rng.normal(size=(80, 5)))[0].T
    points = np.union1d(qdeim_points(modes), [3, 40, 70])
    gappy = GappyPOD(modes, points)
    z = rng.normal(size=(7, 5))
    found, residual = gappy.fit((z @ modes)[:, points])
    np.testing.assert_allclose(found, z, atol=1e-12)
    np.testing.assert_allclose(residual, 0, atol=1e-14)
    known = rng.normal(size=len(points))
    best = np.linalg.lstsq(modes[:, points].T, known, rcond=None)
    assert gappy.fit(known)[1] == pytest.approx(np.sqrt(best[1][0] / len(points)))
    square = GappyPOD(modes, qdeim_points(modes))  # as many points as modes: the residual is blind
    assert square.fit(rng.normal(size=5))[1] < 1e-13


def test_tensors_are_known_with_all_components_of_a_point():
    rng = np.random.default_rng(1)
    modes = rng.normal(size=(6, 30 * 4))
    points = qdeim_points(modes, block=4)
    gappy = GappyPOD(modes, points, block=4)
    field = (rng.normal(size=(2, 6)) @ modes).reshape(2, 30, 4)
    np.testing.assert_allclose(gappy.reconstruct(field[:, points]).reshape(2, 30, 4), field, atol=1e-10)
    np.testing.assert_allclose(gappy.size(field[:, points]), np.sqrt((field[:, points] ** 2).mean((1, 2))))


def test_qdeim_tells_modes_apart_as_well_as_its_bound():
    modes = np.linalg.qr(np.random.default_rng(2).normal(size=(200, 12)))[0].T
    at = modes[:, qdeim_points(modes)]
    assert 1 / np.linalg.svd(at, compute_uv=False)[-1] < np.sqrt(200 - 12 + 1) * np.sqrt(4**12 + 6 * 12 - 1) / 3
    assert np.linalg.cond(at) < 100
