"""Laws of excursions: exact values, three ways to one law, validity, simulation, and what is refused."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import digamma
from scipy.stats import kstest

from paperworks.dynamics import (
    IIA,
    CallableCovariance,
    Diffusion,
    Matern,
    RandomAcceleration,
    RationalQuadratic,
    SlepianIIA,
    SquaredExponential,
    persistence_probability,
    simulate_excursions,
    slepian_model,
)

PRECISE = {
    Diffusion(2): lambda t: mpmath.sech(t / 2),
    Diffusion(0.7): lambda t: mpmath.sech(t / 2) ** mpmath.mpf("0.35"),
    RandomAcceleration(): lambda t: (3 * mpmath.exp(-t / 2) - mpmath.exp(-3 * t / 2)) / 2,
    SquaredExponential(2.0): lambda t: mpmath.exp(-(t**2) / 8),
    RationalQuadratic(0.5): lambda t: (1 + t**2) ** mpmath.mpf("-0.5"),
    Matern(1.5, 2.0): lambda t: (1 + mpmath.sqrt(3) * t / 2) * mpmath.exp(-mpmath.sqrt(3) * t / 2),
    Matern(2.0): lambda t: 2 * t**2 * mpmath.besselk(2, 2 * t) if t else mpmath.mpf(1),
    Matern(1.25): lambda t: (
        2 ** mpmath.mpf("-0.25") / mpmath.gamma(1.25) * (mpmath.sqrt(2.5) * t) ** 1.25
        * mpmath.besselk(1.25, mpmath.sqrt(2.5) * t)
    ),
    SquaredExponential() * Diffusion(1): lambda t: mpmath.exp(-(t**2) / 2) * mpmath.sqrt(mpmath.sech(t / 2)),
    Matern(1.5).mix(SquaredExponential(), 0.25): lambda t: (
        mpmath.mpf("0.75") * (1 + mpmath.sqrt(3) * t) * mpmath.exp(-mpmath.sqrt(3) * t) + mpmath.exp(-(t**2) / 2) / 4
    ),
}  # fmt: skip
LAWS = [Diffusion(1), Diffusion(2), RandomAcceleration(), SquaredExponential(3.0), Matern(1.5), Matern(2.5, 0.2)]


@pytest.mark.parametrize("r", PRECISE, ids=repr)
def test_values_and_derivatives_are_those_of_many_digits(r):
    with mpmath.workdps(40):
        for t in (0.01, 0.3, 1.7, 6.0):
            value = PRECISE[r]
            assert float(r(t)) == pytest.approx(float(value(mpmath.mpf(t))), rel=1e-13)
            assert float(r.d1(t)) == pytest.approx(float(mpmath.diff(value, mpmath.mpf(t))), rel=1e-12)
            assert float(r.d2(t)) == pytest.approx(float(mpmath.diff(value, mpmath.mpf(t), 2)), rel=1e-11)
        for t in (1e-7, 1e-3, 0.3):
            assert float(r.complement(t)) == pytest.approx(float(1 - value(mpmath.mpf(t))), rel=1e-12)
    assert r.lambda2 == pytest.approx(-float(r.d2(0.0)), rel=1e-12)
    assert float(r(-1.7)) == float(r(1.7))
    assert float(r.d1(-1.7)) == -float(r.d1(1.7))


def test_the_exponent_of_two_dimensions_solves_its_closed_equation():
    theta = SlepianIIA(Diffusion(2)).persistency_exponent().theta
    assert theta * (digamma((1.5 - theta) / 2) - digamma((0.5 - theta) / 2)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("r", LAWS, ids=repr)
def test_the_law_is_one_law_by_all_ways(r):
    law, other = SlepianIIA(r), IIA(r)
    scale = math.sqrt(r.lambda2)
    assert law.validity().status == "valid"
    assert law.mean() == pytest.approx(math.pi / scale, rel=1e-10)
    s = np.array([0.0, 0.1, 1.0, 10.0]) * scale
    np.testing.assert_allclose(law.laplace(s), other.laplace(s), rtol=0, atol=1e-12)
    t = np.geomspace(1e-2, 20, 50) / scale
    np.testing.assert_allclose(law.clipped_mean(t), other.clipped_mean(t), rtol=0, atol=1e-10)
    assert kstest(law.rvs(20_000, random_state=1), law.cdf).pvalue > 1e-3
    # The tail is the exponential that the exponent and its constant say.
    exponent = law.persistency_exponent()
    late = 40 / scale
    assert float(law.sf(late)) == pytest.approx(exponent.constant * math.exp(-exponent.theta * late), rel=1e-3)
    beyond = law.horizon * np.array([0.999999, 1.000001])
    assert float(np.ptp(law.sf(beyond)) / law.sf(law.horizon)) < 1e-3


@pytest.mark.parametrize("r", LAWS, ids=repr)
def test_density_and_persistence_are_derivative_and_integral(r):
    law = SlepianIIA(r)
    t = np.linspace(0, 8, 20_001) / math.sqrt(r.lambda2)
    np.testing.assert_allclose(
        np.gradient(law.cdf(t), t)[5:-5], law.pdf(t)[5:-5], rtol=0, atol=1e-4 * math.sqrt(r.lambda2)
    )
    lost = np.trapezoid(law.sf(t), t) / (2 * law.mean())
    assert float(law.persistence(0.0)) == 0.5
    assert float(law.persistence(t[-1])) == pytest.approx(0.5 - lost, abs=1e-6)
    far = law.persistence(np.array([1.0, 1.1]) * 1.5 * law.horizon)
    rate = law.persistency_exponent().theta
    assert math.log(far[0] / far[1]) == pytest.approx(rate * 0.15 * law.horizon, rel=1e-9)


@pytest.mark.parametrize("r", [*LAWS, Matern(1.1), RationalQuadratic(1.0)], ids=repr)
def test_the_divisor_is_a_distribution_as_scipys_are(r):
    law = SlepianIIA(r).divisor
    q = np.array([1e-6, 0.1, 0.5, 0.9, 1 - 1e-9])
    np.testing.assert_allclose(law.sf(law.isf(q)), q, rtol=1e-9)
    np.testing.assert_allclose(law.cdf(law.ppf(q[1:4])), q[1:4], rtol=1e-9)
    assert kstest(law.rvs(20_000, random_state=0), law.cdf).pvalue > 1e-3
    t = law.isf(np.array([0.8, 0.5, 0.1]))
    np.testing.assert_allclose((law.cdf(t * 1.0001) - law.cdf(t * 0.9999)) / (0.0002 * t), law.pdf(t), rtol=1e-5)
    assert law.ppf([0.0, 1.0]).tolist() == [0, math.inf]
    assert np.isnan(law.ppf([-0.1, 1.1])).all()
    assert law.mean() == pytest.approx(SlepianIIA(r).mean() / 2)


def test_rough_processes_have_their_law_from_the_very_start():
    law = SlepianIIA(Matern(1.1))
    times = law.rvs(200_000, random_state=0)
    assert kstest(times, law.cdf).statistic < 0.008
    assert (times < 1e-8).mean() == pytest.approx(float(law.cdf(1e-8)), abs=0.005)


def test_heavy_tails_have_no_exponent_and_the_law_even_so():
    law = SlepianIIA(RationalQuadratic(1.0))
    with pytest.raises(ValueError, match="no exponent"):
        law.persistency_exponent()
    times = law.rvs(50_000, random_state=0)
    assert kstest(times, law.cdf).pvalue > 1e-3
    assert float(law.sf(1e4)) == pytest.approx(2 * float(law.clipped_mean(1e4)), rel=0.1)  # one long variable of two
    with pytest.raises(ValueError, match="without an exponent"):
        law.persistence(1e4)


def sinc(t):
    return torch.sinc(t / math.pi)


def fast(t):
    return (-(t**2) / 2).exp() * torch.cos(3 * t)


def damped(t):
    return (-0.1 * t).exp() * (torch.cos(t) + 0.1 * torch.sin(t))


@pytest.mark.parametrize(
    ("r", "rise", "least"), [(sinc, 7.04, -0.0137), (fast, 2.44, -0.0172), (damped, 5.79, -0.0032)]
)
def test_covariances_that_oscillate_are_found_invalid(r, rise, least):
    law = SlepianIIA(CallableCovariance(r))
    report = law.validity()
    assert (report.status, report.valid, report.monotone_covariance) == ("invalid", False, False)
    assert report.rises_at == pytest.approx(rise, abs=0.03)
    assert report.least == pytest.approx(least, abs=1e-4)
    with pytest.raises(ValueError, match="no survival function"):
        law.rvs(3)


def test_the_condition_suffices_and_is_not_needed():
    law = SlepianIIA(CallableCovariance(lambda t: (-(t**2) / 2).exp() * torch.cos(t)))
    report = law.validity()
    assert (report.status, report.monotone_mean, report.rises_at) == ("valid numerically", False, None)
    assert law.persistency_exponent().valid
    assert not SlepianIIA(CallableCovariance(damped)).persistency_exponent().valid


@pytest.mark.parametrize(
    "given",
    [
        CallableCovariance(lambda t: torch.cosh(t / 2) ** -1),
        CallableCovariance(lambda t: 1 / np.cosh(t / 2)),
        CallableCovariance(Diffusion(2), Diffusion(2).d1, Diffusion(2).d2, tail_rate=0.5),
    ],
    ids=["torch", "complex step", "given"],
)
def test_functions_of_the_users_own_have_the_same_law(given):
    ours, theirs = SlepianIIA(Diffusion(2)), SlepianIIA(given)
    t = np.linspace(0, 30, 100)
    assert given.lambda2 == pytest.approx(0.25, rel=1e-5)
    assert given.tail_rate == pytest.approx(0.5, rel=1e-3)
    np.testing.assert_allclose(theirs.sf(t), ours.sf(t), rtol=0, atol=1e-5)
    assert theirs.persistency_exponent().theta == pytest.approx(ours.persistency_exponent().theta, rel=1e-5)
    np.testing.assert_allclose(given.d2(t[1:]), Diffusion(2).d2(t[1:]), rtol=0, atol=1e-8)


def test_times_scale_with_the_length():
    one, many = SlepianIIA(Matern(2.5)), SlepianIIA(Matern(2.5, 1e6))
    t = np.array([0.3, 2.0, 9.0])
    np.testing.assert_allclose(one.sf(t), many.sf(1e6 * t), rtol=1e-9)
    assert many.persistency_exponent().theta == pytest.approx(1e-6 * one.persistency_exponent().theta, rel=1e-9)


def test_slepians_model_is_the_process_given_an_up_crossing():
    """Its moments are those of (X(s), X(t)) given X(0) = 0, the slope at 0 then put back."""
    r, t = Matern(2.5), np.array([0.4, 1.1])
    slope, rest = slepian_model(r, t)
    joint = np.array([[1, 0, *r(t)], [0, r.lambda2, *-r.d1(t)]])
    cross, given = joint[:, 2:], np.diag([1, r.lambda2])
    np.testing.assert_allclose(rest, r(t[:, None] - t) - cross.T @ np.linalg.solve(given, cross), atol=1e-14)
    np.testing.assert_allclose(slope, -r.d1(t) / math.sqrt(r.lambda2))


@pytest.mark.parametrize("method", ["slepian", "circulant"])
@pytest.mark.parametrize("r", [Diffusion(2), SquaredExponential()], ids=repr)
def test_simulated_excursions_have_about_the_law(r, method):
    scale = math.sqrt(r.lambda2)
    times = simulate_excursions(r, 20_000, 0.05 / scale, 12 / scale, method, random_state=0)
    assert times.shape == (20_000,)
    assert times.min() > 0
    grid = np.linspace(0, 12, 100) / scale
    simulated = np.searchsorted(np.sort(times), grid, side="right") / len(times)
    assert np.abs(simulated - SlepianIIA(r).cdf(grid)).max() < 0.025
    assert np.isinf(times).mean() == pytest.approx(float(SlepianIIA(r).sf(12 / scale)), abs=0.01)
    again = simulate_excursions(r, 20_000, 0.05 / scale, 12 / scale, method, random_state=0)
    np.testing.assert_array_equal(times, again)


def test_orthant_probabilities_are_those_known_exactly():
    r = Diffusion(2)
    found = persistence_probability(r, 2.0, 2, n_qmc=2**13, random_state=0)
    one, two = (float(np.arcsin(r(t))) for t in (1.0, 2.0))
    exact = [0.5, 0.25 + one / (2 * math.pi), 0.125 + (2 * one + two) / (4 * math.pi)]
    np.testing.assert_allclose(found.probability, exact, rtol=0, atol=3e-5)
    assert found.t.tolist() == [0, 1, 2]
    assert (np.abs(found.probability - exact) <= 6 * found.standard_error + 1e-12).all()
    # From an up-crossing one point alone is above 0 with probability (1 + E_0) / 2.
    single = persistence_probability(r, 1.5, 1, n_qmc=2**13, seen_from="up-crossing", random_state=0)
    assert single.probability[0] == 1
    assert single.probability[1] == pytest.approx((1 + float(SlepianIIA(r).clipped_mean(1.5))) / 2, abs=1e-5)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Matern(1.0), ValueError, r"r''\(0\) must be finite"),
        (lambda: CallableCovariance(lambda t: torch.exp(-t.abs())), ValueError, r"r''\(0\) must be finite"),
        (lambda: CallableCovariance(lambda t: np.exp(-t)), ValueError, r"r''\(0\) must be finite"),
        (lambda: CallableCovariance(torch.cos), ValueError, "periodic"),
        (lambda: CallableCovariance(lambda t: torch.sin(t)), ValueError, "positive there"),
        (lambda: CallableCovariance(3.0), TypeError, "function is 3.0"),
        (lambda: Diffusion(0), ValueError, "d is 0"),
        (lambda: SquaredExponential(-1.0), ValueError, "length is -1"),
        (lambda: Matern(2.5).mix(Matern(1.5), 1.5), ValueError, "weight is 1.5"),
        (lambda: SlepianIIA(np.exp), TypeError, "StationaryCovariance"),
        (lambda: SlepianIIA(Diffusion(2)).sf(math.nan), ValueError, "t is nan"),
        (lambda: SlepianIIA(Diffusion(2)).clipped_mean(-1.0), ValueError, "t is -1"),
        (lambda: SlepianIIA(Diffusion(2)).laplace(1j), TypeError, "complex"),
        (lambda: SlepianIIA(Diffusion(2)).laplace(-0.3), ValueError, "persistency exponent"),
        (lambda: SlepianIIA(Diffusion(2)).laplace(math.inf), ValueError, "finite"),
        (lambda: SlepianIIA(Diffusion(2)).rvs(-1), ValueError, "size is -1"),
        (lambda: SlepianIIA(Diffusion(2)).persistency_exponent(0.0), ValueError, "rtol is 0"),
        (lambda: slepian_model(Diffusion(2), [0.0, 1.0]), ValueError, "times > 0"),
        (lambda: simulate_excursions(Diffusion(2), 0, 0.1, 5.0), ValueError, "n is 0"),
        (lambda: simulate_excursions(Diffusion(2), 5, 0.1, 0.1), ValueError, "t_max is 0.1"),
        (lambda: simulate_excursions(Diffusion(2), 5, 0.1, 5.0, "exact"), ValueError, "method is 'exact'"),
        (lambda: persistence_probability(Diffusion(2), 5.0, 10, "mc"), ValueError, "method is 'mc'"),
        (lambda: persistence_probability(Diffusion(2), 5.0, 10, seen_from="here"), ValueError, "seen_from is 'here'"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_covariance_that_is_not_1_at_0_is_divided_with_a_warning():
    with pytest.warns(UserWarning, match="4 at 0"):
        r = CallableCovariance(lambda t: 4 * (-(t**2) / 2).exp())
    assert float(r(1.0)) == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("size", [0, 1])
def test_few_draws(size):
    assert SlepianIIA(Diffusion(2)).rvs(size, random_state=0).shape == (size,)


def test_shapes_follow_the_times():
    law = SlepianIIA(Diffusion(2))
    for method in (law.sf, law.cdf, law.pdf, law.clipped_mean, law.persistence, law.laplace, law.divisor.sf):
        assert np.shape(method(0.5)) == ()
        assert method(np.full((2, 3), 0.5)).shape == (2, 3)
        assert method([]).shape == (0,)
    assert law.sf([-1.0, 0.0]).tolist() == [1, 1]
    assert law.pdf(-1.0) == 0


@pytest.mark.parametrize("length", [1e-9, 1e-4, 1.0, 1e6])
@pytest.mark.parametrize("exp", [np.exp, lambda x: x.exp()], ids=["numpy", "torch"])
def test_callables_of_any_time_scale_give_the_same_law(exp, length):
    mine, own = CallableCovariance(lambda t: exp(-((t / length) ** 2) / 2)), SquaredExponential(length)
    assert mine.lambda2 == pytest.approx(own.lambda2, rel=1e-9)
    theta = SlepianIIA(mine).persistency_exponent().theta
    assert theta == pytest.approx(SlepianIIA(own).persistency_exponent().theta, rel=1e-9)


@pytest.mark.parametrize("exp", [np.exp, lambda x: x.exp()], ids=["numpy", "torch"])
def test_callables_of_rough_processes_keep_their_digits(exp):
    mine, own = SlepianIIA(CallableCovariance(lambda t: (1 + t) * exp(-t))), SlepianIIA(Matern(1.5, math.sqrt(3)))
    assert mine.persistency_exponent().theta == pytest.approx(own.persistency_exponent().theta, rel=1e-8)
    assert mine.validity().status == "valid"
    np.testing.assert_allclose(mine.sf([0.1, 1.0, 5.0]), own.sf([0.1, 1.0, 5.0]), atol=1e-7)


def test_jumps_at_0_and_bad_rates_are_refused():
    with pytest.raises(ValueError, match="jumps at 0"):
        CallableCovariance(lambda t: np.where(t == 0, 1.0, 0.9 * np.exp(-(t**2) / 2)))
    with pytest.raises(ValueError, match="tail_rate is -1"):
        CallableCovariance(lambda t: np.exp(-(t**2) / 2), tail_rate=-1.0)
    with pytest.raises(ValueError, match="d1 has to be given"):
        CallableCovariance(lambda t: np.exp(-(np.abs(t) ** 2) / 2))


def test_smooth_matern_processes_tend_to_the_squared_exponential():
    times = np.array([0.0, 1e-9, 1e-5, 1e-2, 0.5, 2.0])
    for nu in (20.0, 60.0, 100.0):
        r = Matern(nu)
        z = [mpmath.sqrt(2 * nu) * mpmath.mpf(t) for t in times[1:]]
        exact = [2 ** (1 - mpmath.mpf(nu)) / mpmath.gamma(nu) * x**nu * mpmath.besselk(nu, x) for x in z]
        np.testing.assert_allclose(r(times[1:]), np.array(exact, dtype=float), rtol=1e-11)
    theta = SlepianIIA(Matern(100.0)).persistency_exponent().theta
    assert theta == pytest.approx(SlepianIIA(SquaredExponential()).persistency_exponent().theta, rel=5e-3)
    with pytest.raises(ValueError, match="nu is 150"):
        Matern(150.0)


def test_rates_of_sums_and_products_are_known():
    a, b = Diffusion(1), Matern(2.5)
    assert a.mix(b, 0.3).tail_rate == a.tail_rate
    assert (a * b).tail_rate == pytest.approx(a.tail_rate + b.tail_rate)
    assert (a * SquaredExponential()).tail_rate == math.inf
    law = SlepianIIA(b.mix(SquaredExponential(3.0), 0.3) * a)  # whose tail isn't exponential for long
    assert 0 < law.persistency_exponent().theta < law.covariance.tail_rate


@pytest.mark.parametrize("r", [Diffusion(2), SquaredExponential(), RationalQuadratic(2.0)], ids=repr)
def test_quantiles_reach_the_deepest_tail(r):
    law = SlepianIIA(r).divisor
    p = np.array([0.5, 1e-17, 1e-100, 1e-180])
    np.testing.assert_allclose(law.sf(law.isf(p)), p, rtol=1e-9)


def test_densities_of_laws_are_never_negative():
    assert (SlepianIIA(Diffusion(2)).pdf([0.0, 1e-9, 1e-3, 50.0]) >= 0).all()


def test_noise_in_the_last_digits_is_no_tail():
    noisy = CallableCovariance(lambda t: (-(t**2) / 2).exp() + 1e-12 * torch.sin(1e3 * t) * torch.exp(-0.01 * t))
    ours, theirs = SlepianIIA(SquaredExponential()), SlepianIIA(noisy)
    assert theirs.mean() == pytest.approx(ours.mean(), rel=1e-5)
    assert float(theirs.sf(2.0)) == pytest.approx(float(ours.sf(2.0)), abs=1e-5)
