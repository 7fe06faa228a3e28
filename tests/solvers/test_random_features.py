"""Random features from a band: exact least squares, transforms against quadrature, bounds against the best there is."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import lstsq
from sklearn.datasets import load_iris

from paperworks.solvers import (
    BandlimitedRandomFeaturesClassifier,
    BandlimitedRandomFeaturesRegressor,
    RandomFeaturesTransformer,
    RidgeletSampler,
    admissibility_constant,
    budget_curve,
    coefficient_tail,
    dual_certificate,
    inverse_ridgelet,
    minimal_budget,
    recommend_scale,
    ridgelet_transform,
    spectral_lower_bound,
    spectrum_share,
)
from paperworks.solvers.random_features.activations import ACTIVATIONS
from paperworks.solvers.random_features.least_squares import decompose, within_budget
from paperworks.solvers.random_features.ridgelets import ridgelet, ridgelet_spectrum

X = np.linspace(-1, 1, 200)[:, None]


def packet(w):
    """The transform of exp(-x²/2) cos 12x."""
    return np.sqrt(np.pi / 2) * (np.exp(-((w - 12) ** 2) / 2) + np.exp(-((w + 12) ** 2) / 2))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu", "gauss", "softplus"])
def test_transforms_are_those_of_the_activations(name):
    # Against a function with a transform that is 0 near 0: <sigma, phi> = <sigma^, phi^> / 2 pi.
    sigma = ACTIVATIONS[name]
    order = 4 if sigma.parity == 1 else 5

    def direct(t):
        return float(sigma.function(np.array([t]))[0]) * float(ridgelet(np.array(t), order))

    def spectral(w):
        return (complex(sigma.transform(np.array(w))) * complex(ridgelet_spectrum(np.array(w), order)).conjugate()).real

    expected = quad(direct, -12, 0)[0] + quad(direct, 0, 12)[0]
    assert quad(spectral, 0, 30)[0] / math.pi == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 40), st.sampled_from([0.0, 1e-3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_errors_of_samples_left_out_are_those_of_refits(seed, n, k, ridge):
    rng = np.random.default_rng(seed)
    H, y = rng.normal(size=(n, k)), rng.normal(size=(n, 2))
    found = decompose(H).left_out(y, ridge)
    for i in range(min(n, 4)):
        rest = np.delete(np.arange(n), i)
        coef = decompose(H[rest]).solve(y[rest], ridge)
        if np.linalg.matrix_rank(H[rest]) == np.linalg.matrix_rank(H) or ridge or k >= n:
            np.testing.assert_allclose(found[i], y[i] - H[i] @ coef, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
@settings(max_examples=40, deadline=None)
def test_coefficients_within_a_budget_are_the_best_and_certified(seed, budget):
    rng = np.random.default_rng(seed)
    H, f = rng.normal(size=(12, 7)), rng.normal(size=12)
    c = within_budget(decompose(H), f, budget)
    free = lstsq(H, f)[0]
    assert np.linalg.norm(c) <= budget * (1 + 1e-6) + 1e-12
    if np.linalg.norm(free) <= budget:
        np.testing.assert_allclose(c, free, atol=1e-8)
    certificate = dual_certificate(H, f, budget)
    assert certificate.lower <= certificate.attained * (1 + 1e-9)
    assert certificate.lower == pytest.approx(certificate.attained, rel=1e-5, abs=1e-7)
    other = rng.normal(size=7)
    other *= budget / np.linalg.norm(other)
    assert np.linalg.norm(f - H @ other) >= certificate.lower - 1e-9


def test_a_budget_in_the_sum_of_sizes_is_certified_too():
    rng = np.random.default_rng(0)
    H, f = rng.normal(size=(12, 7)), rng.normal(size=12)
    for budget in (0.0, 0.3, 1.0, 100.0):
        found = dual_certificate(H, f, budget, "l1")
        assert np.abs(found.coefficients).sum() <= budget * (1 + 1e-9)
        assert found.lower == pytest.approx(found.attained, rel=1e-4)


def test_the_curve_of_budgets_is_that_of_the_certificates():
    rng = np.random.default_rng(0)
    H, f = rng.normal(size=(12, 7)), rng.normal(size=12)
    curve = budget_curve(H, f)
    assert (np.diff(curve.budgets) >= 0).all()
    for i in (10, 20, 30):
        assert dual_certificate(H, f, curve.budgets[i]).attained == pytest.approx(curve.errors[i])
    assert curve.errors[-1] == pytest.approx(np.linalg.norm(f - H @ lstsq(H, f)[0]))


@pytest.mark.parametrize("order", [2, 4])
def test_the_transform_keeps_the_norm_and_comes_back(order):
    x = np.linspace(-6, 6, 241)
    f, weights = np.exp(-(x**2) / 2), np.full(241, 0.05)
    a = (np.arange(60) + 0.5) * 0.1
    b = np.arange(-38, 38, 0.2)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    R = ridgelet_transform((x[:, None], f, weights), grid[:, :1], grid[:, 1], order)
    own = 2 * math.pi * math.gamma(order)
    assert 2 * (R**2).sum() * 0.1 * 0.2 == pytest.approx(own * (f**2 * weights).sum(), rel={2: 2e-3, 4: 1e-4}[order])
    at = np.linspace(-2, 2, 9)[:, None]
    back = sum(inverse_ridgelet(R, s * grid[:, :1], s * grid[:, 1], at, 0.02, "gauss", order) for s in (1, -1))
    np.testing.assert_allclose(back, np.exp(-(at[:, 0] ** 2) / 2), atol={2: 0.03, 4: 2e-3}[order])


def test_the_transform_along_a_bias_is_a_product():
    # Its Fourier transform over b is f^(w a) conj(rho^(w)).
    x = np.linspace(-6, 6, 481)
    f = np.exp(-((x - 0.5) ** 2) / 2)
    b = np.arange(-20, 20, 0.05)
    R = ridgelet_transform((x[:, None], f, np.full(481, 0.025)), np.full((len(b), 1), 1.3), b, 3)
    for w in (0.5, 1.7):
        found = (R * np.exp(-1j * w * b)).sum() * 0.05
        f_hat = math.sqrt(2 * math.pi) * np.exp(-((1.3 * w) ** 2) / 2 - 1j * 1.3 * w * 0.5)
        assert found == pytest.approx(f_hat * np.conj(ridgelet_spectrum(np.array(w), 3)), rel=1e-6)


def test_admissible_pairs():
    assert admissibility_constant("gauss", 2) == pytest.approx(-2 * math.pi)

    def integrand(w):
        return math.pi / math.sinh(math.pi * w / 2) * w**2 * math.sqrt(2 * math.pi) * math.exp(-(w**2) / 2)

    assert admissibility_constant("tanh", 3) == pytest.approx(2 * quad(integrand, 0, 20)[0])
    assert admissibility_constant("relu", 4, dim=2) != 0


@pytest.mark.parametrize("activation", ["gauss", "tanh", "relu"])
@pytest.mark.parametrize("lam", [2.0, 6.0])
def test_no_network_in_the_band_beats_its_bound(activation, lam):
    rng = np.random.default_rng(0)
    x = np.linspace(-20, 20, 1001)
    step = x[1] - x[0]
    f = np.exp(-(x**2) / 2) * np.cos(12 * x)
    # Continuous networks: units on a grid, gamma random or fitted with a ridge, norms by the grid's cell.
    a, b = np.meshgrid(np.linspace(-lam, lam, 21), np.linspace(-20, 20, 81), indexing="ij")
    cell = (2 * lam / 20) * (40 / 80)
    # Units come in differences, so that the function is in L² for tanh and relu as well.
    t = np.outer(a.ravel(), x) - b.ravel()[:, None]
    units = sum(c * ACTIVATIONS[activation].function(t + s) for c, s in ((1, -1.0), (-2, 0.0), (1, 1.0)))
    H = units.T * cell
    for gamma in (rng.normal(size=H.shape[1]), decompose(H * math.sqrt(step)).solve(f * math.sqrt(step), 1e-3)):
        error = math.sqrt(np.square(f - H @ gamma).sum() * step)
        budget = 4 * math.sqrt(np.square(gamma).sum() * cell)  # |1| + |-2| + |1| shifted copies of gamma
        assert spectral_lower_bound(packet, lam, budget, activation).bound <= error


def test_bounds_by_a_transform_and_by_samples_agree():
    x = np.linspace(-10, 10, 2001)
    values = np.exp(-(x**2) / 2) * np.cos(12 * x)
    exact = spectral_lower_bound(packet, 4.0, 9.3, "gauss")
    sampled = spectral_lower_bound(values, 4.0, 9.3, "gauss", spacing=0.01)
    assert sampled.bound == pytest.approx(exact.bound, rel=0.03)
    assert sampled.bound <= exact.bound + 1e-3
    assert exact.bound == pytest.approx(0.72, abs=0.01)
    plane = np.exp(-(x[::20, None] ** 2 + x[::20] ** 2) / 2)
    radial = spectral_lower_bound(lambda w: 2 * np.pi * np.exp(-(w**2) / 2), 0.3, 0.1, "tanh", dim=2)
    found = spectral_lower_bound(plane, 0.3, 0.1, "tanh", dim=2, spacing=0.2)
    assert found.bound == pytest.approx(radial.bound, rel=0.1)


def test_sines_have_no_frequencies_beyond_their_band():
    found = spectral_lower_bound(packet, 4.0, 1e12, "cos")
    assert found.relative == pytest.approx(1, abs=1e-6)
    assert minimal_budget(packet, 4.0, 0.1, "sin") == math.inf
    assert coefficient_tail(5.0, 4.0, "sin") == 0
    assert coefficient_tail(3.0, 4.0, "sin") == math.inf
    assert minimal_budget(packet, 4.0, 2.0, "gauss") == 0
    budgets = [minimal_budget(packet, lam, 0.1, "gauss") for lam in (2.0, 4.0, 8.0)]
    assert budgets == sorted(budgets, reverse=True)
    budget = budgets[1]
    assert spectral_lower_bound(packet, 4.0, budget * 0.99, "gauss").bound > 0.1


def test_shares_fall_as_the_band_grows():
    shares = [spectrum_share(packet, lam, "gauss") for lam in (2.0, 8.0, 20.0, 200.0)]
    assert [s.share for s in shares] == sorted((s.share for s in shares), reverse=True)
    assert shares[-1].truncation_error < 1e-2 < shares[0].truncation_error


def test_advice_finds_a_range_for_each_frequency():
    for w, most in ((5, 1e-9), (20, 1e-6), (60, 0.05)):
        y = np.sin(w * np.linspace(-1, 1, 400))
        x = np.linspace(-1, 1, 400)[:, None]
        advice = recommend_scale(x, y, n_features=200)
        model = BandlimitedRandomFeaturesRegressor(200, scale=advice.scale, random_state=0).fit(x, y)
        at = np.linspace(-1, 1, 777)[:, None]
        assert np.abs(model.predict(at) - np.sin(w * at[:, 0])).max() < most
    assert recommend_scale(X, X[:, 0], scales=[3.0]).scale == 3.0
    assert math.isfinite(recommend_scale(X, np.zeros(len(X))).scale)


@pytest.mark.parametrize("distribution", ["uniform", "normal", "sphere", "ridgelet"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_all_laws_and_activations_fit(distribution, activation):
    if distribution == "sphere" and activation in ("sin", "cos"):
        pytest.skip("on a line the sphere has two points, and waves of one frequency alone")
    y = np.sin(3 * X[:, 0])
    model = BandlimitedRandomFeaturesRegressor(
        60, scale=5.0, activation=activation, distribution=distribution, direct_links=True, random_state=0
    ).fit(X, y)
    assert np.abs(model.predict(X) - y).max() < 0.05


def test_a_budget_and_biases_of_the_paper():
    y = np.sin(20 * X[:, 0])
    model = BandlimitedRandomFeaturesRegressor(100, scale=10.0, coef_budget=2.0, random_state=0).fit(X, y)
    assert np.linalg.norm(model.coef_) == pytest.approx(2.0)
    wide = RandomFeaturesTransformer(50, scale=3.0, bias_scale="paper", random_state=0).fit(5 * X)
    assert 2 < np.abs(wide.biases_).max() <= 3
    assert RandomFeaturesTransformer(50, scale=3.0, random_state=0).fit(5 * X).biases_.max() > 10
    assert wide.transform(X.astype(np.float32)).dtype == np.float32
    both = BandlimitedRandomFeaturesRegressor(50, random_state=0).fit(X, np.column_stack([y, -y]))
    np.testing.assert_allclose(both.predict(X)[:, 0], -both.predict(X)[:, 1], atol=1e-6)


@pytest.mark.parametrize("unit", [1e-300, 1e-3, 1e160])
def test_units_and_places_of_data_do_not_matter(unit):
    y = np.sin(20 * X[:, 0])

    def error(x, y):
        found = BandlimitedRandomFeaturesRegressor(60, random_state=0).fit(x, y).predict(x)
        return np.abs(found / np.abs(y).max() - y / np.abs(y).max()).max()

    for x, values in ((X * unit, y), (X, y * unit), (X + 1000, y)):
        assert error(x, values) < 2e-4
    advice, other = (recommend_scale(x, y, n_features=60) for x in (X, X * unit))
    assert other.scale == pytest.approx(advice.scale / unit)
    assert other.band == pytest.approx(advice.band / unit)
    for H, f in ((1.0, unit), (unit, 1.0)):
        for norm, lower in (("l2", 3.0), ("l1", math.sqrt(12.5))):
            found = dual_certificate(H * np.eye(2), f * np.array([3.0, 4.0]), 2.0 * f / H, norm)
            assert found.lower / f == pytest.approx(lower)
            assert found.lower <= found.attained


def test_advice_is_for_the_biases_that_are_drawn():
    y = np.sin(20 * X[:, 0])
    given = recommend_scale(5 * X, y, n_features=60, bias_scale="paper", scales=[2.0])
    assert given.error != recommend_scale(5 * X, y, n_features=60, scales=[2.0]).error
    fitted = BandlimitedRandomFeaturesRegressor(60, scale=2.0, bias_scale="paper", random_state=0).fit(5 * X, y)
    assert np.abs(fitted.biases_).max() <= 2


def test_without_coefficients_the_target_is_the_error():
    for activation in ("cos", "gauss"):
        assert spectral_lower_bound(packet, 4.0, 0.0, activation).relative == 1
    curve = budget_curve(np.zeros((3, 2)), np.ones(3))
    assert (curve.budgets == 0).all()
    assert curve.errors == pytest.approx(math.sqrt(3))


def test_classes_are_told_apart():
    data = load_iris()
    model = BandlimitedRandomFeaturesClassifier(80, alpha="auto", random_state=0)
    assert model.fit(data.data[::2], data.target[::2]).score(data.data[1::2], data.target[1::2]) > 0.93


def test_ridgelets_are_drawn_where_the_target_is():
    # A target that varies on the right alone draws ridges there.
    y = np.where(X[:, 0] > 0, np.sin(40 * X[:, 0]), 0)
    a, b = RidgeletSampler(40.0, 2).draw(X, y, 400, random_state=0)
    assert (b / a[:, 0] > 0).mean() > 0.6
    again = RidgeletSampler(40.0, 2).draw(X, y, 400, random_state=0)
    np.testing.assert_array_equal(again[0], a)


BAD = {
    "scale": (lambda: BandlimitedRandomFeaturesRegressor(scale=0.0).fit(X, X[:, 0]), "scale"),
    "budget": (lambda: BandlimitedRandomFeaturesRegressor(scale=1.0, coef_budget=-1.0).fit(X, X[:, 0]), "coef_budget"),
    "activation": (lambda: BandlimitedRandomFeaturesRegressor(activation="step").fit(X, X[:, 0]), "activation"),
    "features": (lambda: RandomFeaturesTransformer(0).fit(X), "n_features"),
    "law": (lambda: BandlimitedRandomFeaturesRegressor(distribution="cauchy").fit(X, X[:, 0]), "distribution"),
    "bias": (lambda: RandomFeaturesTransformer(bias_scale="all").fit(X), "bias_scale"),
    "four dimensions": (
        lambda: BandlimitedRandomFeaturesRegressor(9, scale=1.0, distribution="ridgelet").fit(
            np.ones((5, 4)), np.arange(5)
        ),
        "4 dimensions",
    ),
    "one class": (lambda: BandlimitedRandomFeaturesClassifier(9).fit(X, np.ones(len(X))), "one class"),
    "no ranges": (lambda: recommend_scale(X, X[:, 0], scales=[]), "scales is empty"),
    "order": (lambda: admissibility_constant("gauss", 400), "order is 400"),
    "NaN parameters": (
        lambda: ridgelet_transform((X, X[:, 0], X[:, 0]), np.full((1, 1), np.nan), np.ones(1)),
        "a or b has NaN",
    ),
    "NaN values": (lambda: inverse_ridgelet(np.full(1, np.nan), np.ones((1, 1)), np.ones(1), X, 1.0), "R, a, b or x"),
    "parity": (lambda: admissibility_constant("tanh", 2), "not admissible"),
    "divergence": (lambda: admissibility_constant("relu", 2, dim=1), "not admissible"),
    "points": (lambda: admissibility_constant("cos", 2), "made of points"),
    "lam": (lambda: spectral_lower_bound(packet, 0.0, 1.0), "lam"),
    "negative budget": (lambda: spectral_lower_bound(packet, 1.0, -1.0), "budget"),
    "spacing": (lambda: spectral_lower_bound(np.ones(4), 1.0, 1.0), "spacing is None"),
    "axes": (lambda: spectral_lower_bound(np.ones(4), 1.0, 1.0, dim=2, spacing=1.0), "2 axes"),
    "zero": (lambda: spectral_lower_bound(lambda w: 0 * w, 1.0, 1.0), "is 0 at all"),
    "H": (lambda: dual_certificate(np.ones((2, 2)), np.ones(3), 1.0), "H has shape"),
    "NaN": (lambda: budget_curve(np.full((2, 2), np.nan), np.ones(2)), "NaN"),
    "ridges": (lambda: budget_curve(np.eye(2), np.ones(2), np.array([0.0])), "ridges"),
    "shapes": (lambda: ridgelet_transform((X, X[:, 0], X[:, 0]), np.ones((3, 2)), np.ones(3)), "a has shape"),
    "no quadrature": (lambda: ridgelet_transform(np.sin, np.ones((1, 1)), np.ones(1)), "x or weights is None"),
    "lengths": (lambda: inverse_ridgelet(np.ones(2), np.ones((3, 1)), np.ones(3), X, 1.0), "don't fit"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
