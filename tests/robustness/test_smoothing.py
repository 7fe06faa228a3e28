import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri
from torch import nn

from paperworks.robustness import (
    CertificationResult,
    Smooth,
    average_certified_radius,
    certified_accuracy_curve,
    certified_accuracy_envelope,
    lower_confidence_bound,
    two_sided_p_value,
)
from paperworks.robustness.smoothing.certify import _looks


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def sign(x):
    """Class 0 where the first pixel is above 0: the true radius of an image is then its first pixel's size."""
    first = x.flatten(1)[:, :1]
    return torch.cat([first, -first], 1)


class Constant(nn.Module):
    """Always the same class of three; notes how it was asked."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Dropout().eval()
        self.asked = []

    def forward(self, x):
        self.asked.append((self.training, torch.is_grad_enabled(), len(x)))
        return torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3)


# The bound and the test.


@given(st.data(), st.integers(1, 10_000), st.floats(1e-6, 0.5))
def test_the_bound_is_where_so_many_successes_have_probability_alpha(data, n, alpha):
    count = data.draw(st.integers(1, n))
    bound = float(lower_confidence_bound(count, n, alpha))
    assert stats.binom.sf(count - 1, n, bound) == pytest.approx(alpha, rel=1e-7)


@pytest.mark.parametrize("n", [1, 20, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.3, 0.001, 1e-6])
def test_the_bound_is_scipys_exact_interval(n, alpha):
    counts = np.unique(np.linspace(0, n, 60).astype(int))
    expected = [
        stats.binomtest(int(k), n, alternative="greater").proportion_ci(1 - alpha, method="exact").low for k in counts
    ]
    # SciPy is given 1 - alpha, which rounds, and finds a root up to 1e-12.
    np.testing.assert_allclose(lower_confidence_bound(counts, n, alpha), expected, rtol=1e-8, atol=1e-11)


def test_the_bound_at_both_ends():
    assert lower_confidence_bound(0, 7, 0.01) == 0
    assert lower_confidence_bound(7, 7, 0.01) == 0.01 ** (1 / 7)
    radius = ndtri(lower_confidence_bound(100_000, 100_000, 0.001))
    assert radius == pytest.approx(3.81, abs=0.005)  # the largest certificate of the field's usual settings


def test_the_bound_exceeds_the_truth_with_probability_alpha_at_most():
    n, alpha = 40, 0.05
    bounds = lower_confidence_bound(np.arange(n + 1), n, alpha)
    truth = np.linspace(0.01, 0.99, 99)
    chance = (stats.binom.pmf(np.arange(n + 1), n, truth[:, None]) * (bounds > truth[:, None])).sum(1)
    assert chance.max() <= alpha
    assert chance.max() > 0.9 * alpha  # and no interval that holds at each of them is much tighter


def test_bounds_of_many_counts_have_their_shape_and_are_those_of_each():
    counts = np.random.default_rng(0).integers(0, 51, (20, 7))
    bounds = lower_confidence_bound(counts, 50, 0.01)
    assert bounds.shape == counts.shape
    assert all(bounds[i] == lower_confidence_bound(int(k), 50, 0.01) for i, k in np.ndenumerate(counts))
    assert (np.diff(lower_confidence_bound(np.arange(51), 50, 0.01)) > 0).all()


@given(st.data(), st.integers(0, 3000))
def test_the_two_sided_test_is_scipys(data, n):
    count = data.draw(st.integers(0, n))
    expected = stats.binomtest(count, n).pvalue if n else 1.0
    assert float(two_sided_p_value(count, n)) == pytest.approx(expected, rel=1e-9)


# Certificates of one image.


def reference_certify(classifier, x, sigma, classes, n0, n, alpha, batch_size):
    """Cohen's procedure, image by image and draw by draw."""

    def counts(draws):
        found = [0] * classes
        while draws:
            size = min(batch_size, draws)
            draws -= size
            noisy = x.expand(size, *x.shape) + sigma * torch.randn(size, *x.shape, dtype=x.dtype)
            for label in classifier(noisy).argmax(1).tolist():
                found[label] += 1
        return found

    selected = int(np.argmax(counts(n0)))
    bound = stats.beta.ppf(alpha, k := counts(n)[selected], n - k + 1)
    return (-1, 0.0) if bound < 0.5 else (selected, sigma * stats.norm.ppf(bound))


@pytest.mark.parametrize("shift", [0.02, 1.0, 2.5])
def test_the_draws_and_the_certificate_are_those_of_the_reference(shift):
    weight = torch.randn(4, 48, generator=rng(), dtype=torch.float64)

    def classifier(x):
        return x.flatten(1) @ weight.T

    x = shift * weight[2].view(3, 4, 4) / weight[2].norm()
    settings = (30, 170, 0.01, 64)
    torch.manual_seed(5)
    expected = reference_certify(classifier, x, 0.5, 4, *settings)
    torch.manual_seed(5)
    found = Smooth(classifier, 4, 0.5).certify(x, *settings)
    assert found == pytest.approx(expected, rel=1e-12)
    assert (found[0] == Smooth.ABSTAIN) == (shift == 0.02)


def test_a_certificate_of_agreeing_draws():
    prediction, radius = Smooth(Constant(), 3, 0.7).certify(torch.zeros(1, 2, 2), n0=1, n=500, alpha=0.01)
    assert (prediction, radius) == (2, pytest.approx(0.7 * ndtri(0.01 ** (1 / 500))))


def test_too_few_draws_for_any_certificate_are_told():
    smooth = Smooth(Constant(), 3, 0.7)
    with pytest.warns(UserWarning, match="it takes 7 draws or more"):
        assert smooth.certify(torch.zeros(1), n0=1, n=6, alpha=0.01) == (-1, 0.0)
    with pytest.warns(UserWarning, match="it takes 7 draws or more"):
        assert smooth.certify_batch(torch.zeros(2, 1), n0=1, n=6, alpha=0.01).radii.tolist() == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert smooth.certify(torch.zeros(1), n0=1, n=7, alpha=0.01)[0] == 2
    # Half of the probability exactly isn't enough.
    with pytest.warns(UserWarning, match="it takes 3 draws or more"):
        assert smooth.certify(torch.zeros(1), n0=1, n=2, alpha=0.25)[1] == 0


def test_prediction_is_sure_or_abstains():
    smooth = Smooth(sign, 2, 1.0)
    assert smooth.predict(torch.tensor([3.0]), n=100, generator=rng()) == 0
    assert smooth.predict(torch.tensor([-3.0]), n=100, generator=rng()) == 1
    assert smooth.predict(torch.tensor([0.0]), n=100, generator=rng()) == Smooth.ABSTAIN
    # Ten equal draws have p = 1/512 and so decide at 0.002 but not at 0.001.
    assert Smooth(Constant(), 3, 1.0).predict(torch.zeros(2), n=10, alpha=0.002) == 2
    assert Smooth(Constant(), 3, 1.0).predict(torch.zeros(2), n=10, alpha=0.001) == Smooth.ABSTAIN


def test_draws_come_in_batches_without_gradients_and_leave_the_network_as_it_was():
    network = Constant()
    Smooth(network, 3, 1.0).certify(torch.zeros(2), n0=5, n=25, batch_size=10)
    assert network.asked == [(False, False, size) for size in (5, 8, 8, 8, 1)], "whole blocks of 16 numbers"
    assert network.training
    assert not network.frozen.training


def test_the_network_is_as_it_was_after_an_error():
    network = Constant()
    with pytest.raises(ValueError, match="base_classifier returned shape"):
        Smooth(network, 4, 1.0).certify(torch.zeros(2), n=25)
    assert network.training
    assert not network.frozen.training


def test_noise_and_radii_in_the_unit_of_pixels_from_zero_to_one():
    x = torch.rand(3, 2, 2, generator=rng(), dtype=torch.float64)
    shift = torch.tensor([0.5, 0.4, 0.6], dtype=torch.float64)

    def classifier(x):
        return x.flatten(2).mean(2) - shift

    plain = Smooth(classifier, 3, 0.5)
    scaled = Smooth(lambda x: classifier((x + 1) / 2), 3, 0.5, input_range=(-1.0, 1.0))
    assert (plain.noise, scaled.noise) == (0.5, 1.0)
    certificates = [s.certify(image, n=300, generator=rng()) for s, image in ((plain, x), (scaled, 2 * x - 1))]
    assert certificates[0] == certificates[1]
    assert certificates[0][1] > 0


# Certificates of many.


def line(n=200):
    """Points to both sides of the boundary of `sign`, with their true radii as pixels."""
    return torch.linspace(-2, 2, n)[:, None].repeat(1, 3)


def test_certificates_are_sound_and_tight():
    x = line(2000)
    result = Smooth(sign, 2, 1.0).certify_batch(x, n0=50, n=500, alpha=0.05)
    true = x[:, 0].abs().numpy()
    over = (result.radii > true) & (result.predictions != Smooth.ABSTAIN)
    assert over.sum() <= stats.binom.ppf(0.999, len(x), 0.05)
    far = true > 1
    assert (result.predictions[far] == (x[far, 0] < 0).numpy()).all()
    assert (result.radii / true)[(true > 0.9) & (true < 1.1)].mean() > 0.85
    np.testing.assert_array_equal(result.radii == 0, result.predictions == Smooth.ABSTAIN)


def test_radii_follow_from_counts():
    result = Smooth(sign, 2, 0.3).certify_batch(line(), n=400, alpha=0.01)
    certified = result.predictions >= 0
    bound = lower_confidence_bound(result.counts, 400, 0.01)
    np.testing.assert_allclose(result.radii[certified], 0.3 * ndtri(bound[certified]), rtol=1e-14)
    assert (result.draws[certified] == 400).all()
    assert (bound[~certified] < 0.5).all()
    np.testing.assert_array_equal(result.predictions[certified], result.selected[certified])


def test_parts_of_a_data_set_are_certified_as_the_whole():
    smooth, x, settings = Smooth(sign, 2, 1.0), line(40), {"n0": 30, "n": 200, "batch_size": 100}
    whole = smooth.certify_batch(x, **settings, random_state=3)
    parts = [smooth.certify_batch(x[a : a + 15], **settings, random_state=3, first=a) for a in range(0, 40, 15)]
    joined = CertificationResult.concatenate(parts)
    assert len(joined) == 40
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(joined, name), values)
    other = smooth.certify_batch(x, **settings, random_state=4)
    assert (other.counts != whole.counts).any()


def test_each_image_has_noise_of_its_own():
    same = torch.full((50, 3), 0.3)
    counts = Smooth(sign, 2, 1.0).certify_batch(same, n=200).counts
    assert len(np.unique(counts)) > 10


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_all_draws_are_counted_whatever_the_batch(batch_size):
    x = torch.full((3, 2), 9.0)
    result = Smooth(sign, 2, 1.0).certify_batch(x, n0=5, n=50, batch_size=batch_size)
    assert result.counts.tolist() == result.draws.tolist() == [50] * 3


def test_hopeless_images_are_given_up_early():
    def thirds(x):
        return torch.cat([x, x.roll(1, 1), x.roll(2, 1)], 1)[:, :3]  # each of three pixels may be the greatest

    x = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    result = Smooth(thirds, 3, 1.0).certify_batch(x, n=12_800)
    assert result.predictions.tolist() == [-1, 0]
    assert result.draws[0] <= 400
    assert result.draws[1] == 12_800


def test_a_radius_that_is_enough_ends_the_drawing():
    x, n, alpha = line(), 3200, 0.01
    result = Smooth(sign, 2, 1.0).certify_batch(x, n=n, alpha=alpha, stop_radius=0.25)
    stopped = result.draws < n
    pairs = zip(result.counts.tolist(), result.draws.tolist(), strict=True)
    bound = np.array([lower_confidence_bound(count, draws, alpha / 8) for count, draws in pairs])
    enough = stopped & (result.predictions >= 0)
    assert (enough.sum(), enough[x[:, 0].abs() > 1].all()) == (pytest.approx(170, abs=15), True)
    np.testing.assert_allclose(result.radii[enough], ndtri(bound[enough]), rtol=1e-14)
    assert (result.radii[enough] >= 0.25).all()
    assert result.draws[enough].mean() < n / 10
    assert set(result.draws) <= set(_looks(n)) == {25, 50, 100, 200, 400, 800, 1600, 3200}


def test_stopping_keeps_the_probability_of_an_error():
    true, alpha = 0.3, 0.1
    x = torch.full((4000, 1), true)
    result = Smooth(sign, 2, 1.0).certify_batch(x, n0=40, n=640, alpha=alpha, stop_radius=true)
    over = (result.radii > true).mean()
    assert 0 < over <= alpha  # below: a union bound of dependent looks is not tight


def test_an_image_of_another_class_is_an_error_without_draws():
    x, labels = line(), torch.zeros(200, dtype=torch.int64)
    plain = Smooth(sign, 2, 1.0).certify_batch(x, n=300)
    informed = Smooth(sign, 2, 1.0).certify_batch(x, n=300, labels=labels)
    wrong = plain.selected == 1
    assert not informed.draws[wrong].any()
    assert not informed.radii[wrong].any()
    assert (informed.predictions[wrong] == 1).all()
    for name, values in vars(plain).items():
        np.testing.assert_array_equal(getattr(informed, name)[~wrong], values[~wrong])
    radii = [0.0, 0.5, 1.0]
    curves = [certified_accuracy_curve(result, labels, radii) for result in (plain, informed)]
    np.testing.assert_array_equal(*curves)
    assert average_certified_radius(plain, labels) == average_certified_radius(informed, labels)


def test_no_images_have_no_certificates():
    assert len(Smooth(sign, 2, 1.0).certify_batch(torch.zeros(0, 3), n=10)) == 0


# Curves.


def test_curve_envelope_and_mean_radius():
    labels = [0, 1, 2, 3]
    low = CertificationResult.of([0, 1, 2, 0], [0.9, 0.5, 0.1, 0.9])
    high = CertificationResult.of([0, -1, -1, -1], [3.0, 0.0, 0.0, 0.0])
    radii = np.array([0.0, 0.1, 0.5, 0.6, 3.0, 4.0])
    np.testing.assert_array_equal(certified_accuracy_curve(low, labels, radii), [0.75, 0.75, 0.5, 0.25, 0, 0])
    best, sigma = certified_accuracy_envelope({0.25: low, 1.0: high}, torch.tensor(labels), radii)
    np.testing.assert_array_equal(best, [0.75, 0.75, 0.5, 0.25, 0.25, 0])
    np.testing.assert_array_equal(sigma, [0.25, 0.25, 0.25, 0.25, 1.0, 0.25])
    assert average_certified_radius(low, labels) == pytest.approx((0.9 + 0.5 + 0.1) / 4)
    assert average_certified_radius(high, np.array(labels)) == pytest.approx(3 / 4)


def test_an_abstention_is_no_class():
    nowhere = CertificationResult.of([-1], [0.0])
    assert certified_accuracy_curve(nowhere, [0], [0.0]).tolist() == [0.0]


# Bad input.


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_confidence_bound(3, 2), "count ranges from 3 to 3; it takes 0 to n = 2"),
        (lambda: lower_confidence_bound(np.array([-1, 1]), 2), "count ranges from -1 to 1"),
        (lambda: lower_confidence_bound(0, 0), "n is 0"),
        (lambda: lower_confidence_bound(1, 2, 0.0), "alpha is 0.0"),
        (lambda: lower_confidence_bound(1, 2, 1.0), "alpha is 1.0"),
        (lambda: two_sided_p_value(np.array([1, 4]), np.array([1, 3])), "count ranges from 1 to 4"),
        (lambda: Smooth(sign, 2, 0.0), "sigma is 0.0"),
        (lambda: Smooth(sign, 1, 1.0), "num_classes is 1"),
        (lambda: Smooth(sign, 2, 1.0, input_range=(1.0, 1.0)), "input_range is"),
        (lambda: Smooth(sign, 2, 1.0).certify(torch.zeros(1), n0=0), "n0 is 0"),
        (lambda: Smooth(sign, 2, 1.0).certify(torch.zeros(1), n=0), "n is 0"),
        (lambda: Smooth(sign, 2, 1.0).certify(torch.zeros(1), alpha=1.0), "alpha is 1.0"),
        (lambda: Smooth(sign, 2, 1.0).certify(torch.zeros(1), batch_size=0), "batch_size is 0"),
        (lambda: Smooth(sign, 2, 1.0).certify(torch.tensor([torch.nan])), "x has 1 NaN"),
        (lambda: Smooth(lambda x: x * torch.nan, 2, 1.0).predict(torch.zeros(2), n=3), "returned NaN"),
        (lambda: Smooth(sign, 3, 1.0).predict(torch.zeros(2), n=3), "returned shape"),
        (lambda: Smooth(sign, 2, 1.0).certify_batch(line(), labels=torch.zeros(3)), "labels has shape"),
        (lambda: Smooth(sign, 2, 1.0).certify_batch(line(), stop_radius=-1.0), "stop_radius is -1.0"),
        (lambda: Smooth(sign, 2, 1.0).certify_batch(line(), first=-1), "first is -1"),
        (lambda: Smooth(sign, 2, 1.0).certify_batch(line(), random_state=-1), "random_state is -1"),
        (lambda: certified_accuracy_curve(CertificationResult.of([0], [1.0]), [0, 1], [0]), "labels has shape"),
        (lambda: certified_accuracy_curve(CertificationResult.of([0], [1.0]), [0], [-1.0]), "radii is"),
        (lambda: certified_accuracy_envelope({}, [0], [1.0]), "results is empty"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_confidence_bound(1.5, 2), "count has dtype float64"),
        (lambda: lower_confidence_bound(1, 2.0), "n is 2.0"),
        (lambda: Smooth(sign, 2, 1.0).certify(torch.zeros(1, dtype=torch.uint8)), "x has dtype torch.uint8"),
        (lambda: Smooth(sign, 2, 1.0).certify_batch(torch.zeros(2, 1, dtype=torch.int64)), "x has dtype torch.int64"),
    ],
)
def test_wrong_kinds_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("shape", [(1, 15, 15), (3, 5, 5), (2,), (8, 8)])
def test_counts_do_not_depend_on_the_size_of_batches(shape):
    weights = torch.randn(math.prod(shape), 4, generator=torch.Generator().manual_seed(0))
    smooth = Smooth(lambda x: x.flatten(1) @ weights, 4, 0.5)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    counts = [smooth.certify_batch(x, n0=33, n=499, batch_size=size).counts for size in (1, 7, 100, 2000)]
    assert all(np.array_equal(counts[0], other) for other in counts[1:])


def test_a_bound_that_cannot_be_computed_is_no_bound():
    assert lower_confidence_bound(2, 2000, 1e-200) == 0
    with pytest.raises(ValueError, match="both finite"):
        Smooth(nn.Identity(), 2, 1.0, input_range=(0, math.inf))
