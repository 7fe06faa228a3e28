import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from paperworks.reduction import (
    Elastodynamics,
    boundary_spectrum,
    energy_input,
    field_errors,
    memorisation_ratio,
    relative_w1,
    sampling_floor,
    sliced_w1,
)

RNG = np.random.default_rng(0)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 5), st.integers(2, 40), st.integers(2, 40))
def test_a_distance_is_one_of_shift_and_scale(shift, scale, n, m):
    a, b = np.random.default_rng(n).normal(size=n), np.random.default_rng(m + 99).normal(size=m)
    assert relative_w1(b + shift * b.std(), b) == pytest.approx(abs(shift), abs=1e-9)
    assert relative_w1(scale * a, scale * b) == pytest.approx(relative_w1(a, b), rel=1e-9)
    assert sliced_w1(a[:, None], b[:, None]) == pytest.approx(sliced_w1(b[:, None], a[:, None]))


def test_the_floor_is_what_exact_draws_have():
    real = RNG.normal(size=1000)
    floor = sampling_floor(real)
    draws = [relative_w1(RNG.normal(size=500), RNG.normal(size=500)) for _ in range(40)]
    assert floor == pytest.approx(np.mean(draws), rel=0.3)
    assert sampling_floor(RNG.normal(size=16_000)) < floor / 3
    assert sampling_floor(3 * real + 5) == pytest.approx(floor)


def test_the_sliced_distance_of_gaussians():
    a, b = RNG.normal(size=(4000, 3)), RNG.normal(size=(3000, 3))
    assert sliced_w1(a, b) < 0.05
    shift = np.array([2.0, 0, 0])
    # The mean of |u_1| over the sphere is a half in three dimensions.
    assert sliced_w1(a + shift, a, projections=2000) == pytest.approx(1.0, rel=0.05)
    assert sliced_w1(a.reshape(-1, 3, 1), b.reshape(-1, 3, 1)) == sliced_w1(a, b)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40))
def test_the_sliced_distance_along_one_direction_is_exact(n, m):
    a, b = RNG.normal(size=n), RNG.normal(size=m)
    assert sliced_w1(a[:, None], b[:, None]) == pytest.approx(wasserstein_distance(a, b), rel=1e-9)


def test_copies_are_found():
    train, test = RNG.normal(size=(400, 3)), RNG.normal(size=(400, 3))
    copied = train[:200] + 1e-3 * RNG.normal(size=(200, 3))
    assert memorisation_ratio(copied, train, test) < 0.02
    assert memorisation_ratio(RNG.normal(size=(400, 3)), train, test) == pytest.approx(1, abs=0.15)
    assert memorisation_ratio(3 * test, train, test) > 1.5
    assert memorisation_ratio(test, train, train[:9]) == np.inf


def test_field_errors_are_relative_norms():
    X = RNG.normal(2, 1, size=(500, 2, 5))
    assert field_errors(X, X) == (0, 0)
    mean, std = field_errors(X + 0.1 * X.mean(0), X)
    assert mean == pytest.approx(0.1)
    assert std == pytest.approx(0, abs=1e-12)
    assert field_errors(X.mean(0) + 1.2 * (X - X.mean(0)), X).std == pytest.approx(0.2)
    with pytest.raises(ValueError, match="that is zero"):
        field_errors(X, np.ones_like(X))


def test_a_spectrum_has_the_signals_power():
    t = np.arange(128) * 0.01
    X = 3 * np.sin(2 * np.pi * 12.5 * t + RNG.uniform(0, 6, (7, 2, 1)))
    f, power = boundary_spectrum(X, 0.01)
    assert power.shape == (2, len(f))
    np.testing.assert_allclose(f[power.argmax(1)], 12.5)
    np.testing.assert_allclose(2 * power.sum(1), 9 / 2, rtol=1e-9)


def test_the_work_at_the_boundary_is_the_energy_inside():
    skfem = pytest.importorskip("skfem")
    basis = skfem.Basis(skfem.MeshLine(np.linspace(0, 1, 41)), skfem.ElementVector(skfem.ElementLineP1()))
    bar = Elastodynamics(basis, 1.0, 0.0, 1.0)
    held = np.array([0, 40])
    states = list(bar.march((held, lambda t: np.array([[t**3, 2 * t**3], [0, 0]])), dt=0.01, steps=80))
    force = np.stack([bar.forces(s)[held] for s in states])
    work = energy_input(force, np.stack([s.u[held] for s in states]))
    energy = np.stack([bar.energy(s.u, s.v) for s in states])
    np.testing.assert_allclose(work[-1], energy[-1], rtol=1e-6)
    assert (work >= -1e-12).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: relative_w1([1.0, 2.0], [1.0, 1.0]), "does not vary"),
        (lambda: relative_w1([0.1] * 5, [0.1] * 500), "does not vary"),  # but by rounding
        (lambda: sampling_floor(np.full(9, 0.1)), "does not vary"),
        (lambda: boundary_spectrum(np.ones((3, 8)), 0.0), "dt is 0"),
        (lambda: relative_w1([1.0, np.nan], [1.0, 2.0]), "generated has 1"),
        (lambda: relative_w1([1.0], [1.0, 2.0]), "two samples"),
        (lambda: relative_w1(np.ones((3, 2)), np.ones((3, 2))), "one number a sample"),
        (lambda: sampling_floor([1.0, 2.0]), "four numbers"),
        (lambda: sampling_floor(np.arange(9), splits=0), "splits is 0"),
        (lambda: sliced_w1(np.ones((3, 2)), np.ones((3, 3))), "take the same"),
        (lambda: sliced_w1(np.ones((3, 2)), np.ones((3, 2)), projections=0), "projections is 0"),
        (lambda: memorisation_ratio(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 1))), "take the same"),
        (lambda: energy_input(np.ones((3, 2)), np.ones((3, 1))), "both"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_samples_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
