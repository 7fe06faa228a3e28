"""Paths, fields, losses and closed forms of stochastic interpolants, held to exact identities."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.diffusion import (
    Fields,
    Gamma,
    GaussianMixtureInterpolant,
    Interpolant,
    Path,
    best_noise_level,
    denoiser_loss,
    gaussian_schrodinger_bridge,
    kl_bound,
    score_loss,
    v_loss,
    velocity_loss,
    x0x1_denoiser_loss,
)

D = torch.float64
PATHS = ("linear", "trig", "encdec", "one_sided_linear", "one_sided_trig", "one_sided_vp", "mirror")
GAMMAS = ("brownian", "quadratic", "sin2", "sigmoid")
BELOW_ONE = ("brownian", "quadratic", "sigmoid")
TIMES = torch.tensor([0.1, 0.3, 0.45, 0.6, 0.9], dtype=D)


FOLLOWED = {"linear": 68, "trig": 68, "encdec": 26, "mirror": 99}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(path, gamma=None, dim=2, seed=0):
    """Return the exact interpolant from two modes to three with covariances that aren't round."""
    interpolant, g = Interpolant(path, gamma), rng(seed)

    def component(n):
        root = torch.randn(n, dim, dim, generator=g, dtype=D) / 2
        return (
            torch.rand(n, generator=g, dtype=D) + 0.2,
            2 * torch.randn(n, dim, generator=g, dtype=D),
            root @ root.mT + 0.2 * torch.eye(dim, dtype=D),
        )

    target, base = component(3), component(2)
    alone = interpolant.one_sided or interpolant.mirror
    return GaussianMixtureInterpolant(interpolant, *target, *(() if alone else base))


def points(n=5, dim=2, seed=1):
    return torch.randn(n, dim, generator=rng(seed), dtype=D)


# Functions of time


@pytest.mark.parametrize(("path", "gamma"), [(p, None) for p in PATHS] + [("trig", g) for g in BELOW_ONE])
def test_derivatives_are_those_of_the_functions(path, gamma):
    i, h = Interpolant(path, gamma), 1e-6
    for name in ("alpha", "beta", "gamma"):
        f = getattr(i, name)
        difference = (f(TIMES + h) - f(TIMES - h)) / (2 * h)
        assert torch.allclose(difference, getattr(i, f"{name}_dot")(TIMES), atol=1e-8)
    assert torch.allclose(i.gamma(TIMES) * i.gamma_dot(TIMES), i.gamma_times_dot(TIMES), atol=1e-12)


@pytest.mark.parametrize("name", [*GAMMAS, "zero"])
def test_gammas_vanish_at_the_ends_where_their_product_with_the_slope_is_finite(name):
    gamma, ends = Gamma.named(name), torch.tensor([0.0, 1.0], dtype=D)
    assert gamma.value(ends).abs().max() < 1e-12
    assert torch.isfinite(gamma.times_dot(ends)).all()
    assert bool((gamma.value(TIMES) > 0).all()) is (name != "zero")


def test_the_brownian_product_is_exact():
    i = Interpolant("linear", a=3.0)
    assert i.gamma_times_dot(0.0) == 1.5
    assert i.gamma_times_dot(1.0) == -1.5
    assert i.gamma(0.5) == math.sqrt(0.75)


@pytest.mark.parametrize("gamma", [*BELOW_ONE, "zero"])
def test_trig_keeps_the_variance_of_normal_ends(gamma):
    i = Interpolant("trig", gamma)
    assert torch.allclose(i.alpha(TIMES) ** 2 + i.beta(TIMES) ** 2 + i.gamma(TIMES) ** 2, torch.ones(5, dtype=D))


def test_encdec_is_pure_noise_in_the_middle():
    i = Interpolant("encdec")
    assert (i.alpha(0.5), i.beta(0.5), i.gamma(0.5)) == (0.0, 0.0, 1.0)
    assert i.beta(0.4) == i.alpha(0.6) == 0.0


def test_float_and_tensor_times_agree_and_float32_keeps_its_kind():
    i = Interpolant("trig")
    assert i.alpha(0.3) == float(i.alpha(torch.tensor(0.3, dtype=D)))
    assert i.alpha(torch.tensor([0.3])).dtype == torch.float32


def test_a_custom_path_is_differentiated_automatically():
    named = Interpolant("trig", "quadratic")
    x0, x1 = points(), points(seed=2)

    def mean(t, x0, x1):
        rest = (1 - (t * (1 - t)) ** 2).sqrt()
        return rest * (torch.cos(math.pi / 2 * t) * x0 + torch.sin(math.pi / 2 * t) * x1)

    weights = Path(alpha=lambda t: named.alpha(t), beta=lambda t: named.beta(t))
    for custom in (Path(mean=mean), weights):
        other = Interpolant(custom, Gamma(lambda t: t * (1 - t)))
        assert torch.allclose(other.dI(x0, x1, TIMES), named.dI(x0, x1, TIMES))
        assert torch.allclose(other.sample(x0, x1, TIMES, z=x1)[0], named.sample(x0, x1, TIMES, z=x1)[0])
        assert torch.allclose(other.gamma_times_dot(TIMES), named.gamma_times_dot(TIMES))


def test_a_custom_one_sided_path_takes_the_base_for_its_latent():
    custom = Interpolant(Path(alpha=lambda t: 1 - t, mean=lambda t, x1: t * x1, one_sided=True))
    named, x0, x1 = Interpolant("one_sided_linear"), points(), points(seed=2)
    assert torch.allclose(custom.sample(x0, x1, TIMES)[0], named.sample(x0, x1, TIMES)[0])
    assert torch.allclose(custom.dI(x0, x1, TIMES), x1)


@pytest.mark.parametrize("path", PATHS)
def test_the_ends_are_the_pairs(path):
    i, x0, x1 = Interpolant(path), points(), points(seed=2)
    first, last = (i.sample(x0, x1, t, generator=rng())[0] for t in (0.0, 1.0))
    assert torch.allclose(first, x1 if i.mirror else x0)
    assert torch.allclose(last, x1)


# Fields


@pytest.mark.parametrize("path", PATHS)
def test_density_and_fields_of_a_mixture_solve_the_transport_equation(path):
    exact, x, h = mixture(path), points(), 1e-5
    for t in (0.2, 0.37, 0.7):
        change = (exact.log_density(x, t + h) - exact.log_density(x, t - h)) / (2 * h)
        leaf = x.clone().requires_grad_()
        b = exact.b(leaf, t)
        (score,) = torch.autograd.grad(exact.log_density(leaf, t).sum(), leaf)
        divergence = sum(torch.autograd.grad(b[:, k].sum(), leaf, retain_graph=True)[0][:, k] for k in range(2))
        assert torch.allclose(exact.s(x, t), score, atol=1e-10)
        assert (change + divergence + (b * score).sum(1)).abs().max() < 1e-6


def test_a_time_for_each_sample_and_one_for_all_agree():
    exact, x = mixture("linear"), points()
    each = exact.b(x, TIMES)
    assert torch.allclose(each, torch.cat([exact.b(x[k : k + 1], float(t)) for k, t in enumerate(TIMES)]))


@pytest.mark.parametrize("path", ["linear", "one_sided_linear"])
def test_fields_are_conditional_expectations(path):
    exact = mixture(path, dim=1)
    x0, x1, _ = exact.sample(400_000, 0.5, rng())
    i, t = exact.interpolant, 0.4
    x, z = i.sample(x0, x1, t, generator=rng(1))
    near = (x[:, 0] - 0.5).abs() < 0.05
    at = torch.tensor([[0.5]], dtype=D)
    fields = exact.fields()
    moved = i.dI(x0, x1, t) + i.gamma_dot(t) * z
    for value, name in ((moved, "b"), (z, "eta"), (x1, "eta1"), (x0, "eta0")):
        sample = value[near]
        assert abs(float(sample.mean() - getattr(fields, name)(at, t))) < 5 * float(sample.std()) / len(sample) ** 0.5


@pytest.mark.parametrize("path", PATHS)
def test_fields_that_follow_from_others_are_the_same(path):
    exact, x = mixture(path), points()
    names = ("b", "s", "eta", "v") if path == "encdec" else ("b", "s", "eta", "v", "eta0", "eta1")
    full = exact.fields()
    want = {name: getattr(full, name)(x, TIMES) for name in names}
    followed = 0
    for given_ in itertools.chain(itertools.combinations(names, 1), itertools.combinations(names, 2)):
        fields = Fields(exact.interpolant, **{n: lambda x, t, n=n: want[n] for n in given_})
        for name in names:
            try:
                got = getattr(fields, name)(x, TIMES)
            except ValueError:
                continue
            assert torch.allclose(got, want[name], atol=1e-10), (given_, name)
            followed += 1
    # Two of {b or v, s or eta, eta0, eta1} leave little open; a change that only raises would show here.
    assert followed == FOLLOWED.get(path, 126)


def test_fields_are_finite_at_both_ends():
    x, ends = points(2), torch.tensor([0.0, 1.0], dtype=D)
    for path in ("linear", "trig", "encdec", "mirror"):
        exact = mixture(path)
        assert torch.isfinite(exact.b(x, ends)).all()
        learnt = Fields(exact.interpolant, v=lambda x, t: x, eta=lambda x, t: x)
        assert torch.isfinite(learnt.b(x, ends)).all()
        assert torch.isfinite(learnt.s(x, ends)).all()


def test_a_one_sided_path_starts_from_the_mean_of_its_target():
    i, x = Interpolant("one_sided_linear"), points(2)
    mean1 = torch.tensor([3.0, -1.0], dtype=D)
    fields = Fields(i, eta=lambda x, t: x, mean1=mean1)
    assert torch.allclose(fields.b(x, 0.0), mean1 - x)
    with pytest.raises(ValueError, match="mean1"):
        Fields(i, eta=lambda x, t: x).b(x, 0.0)


def test_networks_that_share_a_trunk_are_called_once():
    calls = []

    def both(x, t):
        calls.append(t)
        return x, -x

    fields = Fields(Interpolant("linear"), joint=(("b", "s"), both))
    assert torch.equal(fields.drift(torch.ones(2, 1), 0.5, 0.25), torch.full((2, 1), 0.75))
    assert len(calls) == 1
    assert calls[0].shape == (2,)


# Losses


@pytest.mark.parametrize("path", ["linear", "one_sided_linear", "mirror", "encdec"])
def test_the_exact_fields_have_the_least_loss(path):
    exact = mixture(path)
    x0, x1, _ = exact.sample(4000, 0.5, rng())
    fields = exact.fields()
    cases = [(velocity_loss, fields.b), (score_loss, fields.s), (denoiser_loss, fields.eta), (v_loss, fields.v)]
    for loss, best in cases:
        values = [
            float(loss(exact.interpolant, lambda x, t, k=k, best=best: best(x, t) + k, x0, x1, rng(1), t_min=0.05))
            for k in (-0.2, 0.0, 0.2)
        ]
        # A constant shift c adds |c|^2/2 = 0.04 in two dimensions, up to what the sample leaves.
        assert values[1] < min(values[0], values[2]), loss.__name__
        assert abs((values[0] + values[2]) / 2 - values[1] - 0.04) < 1e-9


def test_the_loss_of_both_denoisers_is_least_for_them():
    exact = mixture("linear")
    x0, x1, _ = exact.sample(4000, 0.5, rng())
    fields = exact.fields()
    low, high = (
        float(
            x0x1_denoiser_loss(
                exact.interpolant, lambda x, t, k=k: tuple(e + k for e in fields.denoisers(x, t)[:2]), x0, x1, rng(1)
            )
        )
        for k in (0.0, 0.3)
    )
    assert low < high


@pytest.mark.parametrize("loss", [velocity_loss, score_loss, denoiser_loss, v_loss])
def test_the_squared_error_has_the_same_gradient(loss):
    x0, x1, z = points(), points(seed=2), points(seed=3)
    gradients = []
    for mse in (False, True):
        k = torch.tensor(0.7, dtype=D, requires_grad=True)
        value = loss(Interpolant("linear"), lambda x, t, k=k: k * x, x0, x1, t=TIMES, z=z, mse=mse)
        gradients.append(torch.autograd.grad(value, k)[0])
    assert torch.allclose(*gradients)


def test_the_antithetic_loss_is_the_mean_over_both_signs():
    i, x0, x1, z = Interpolant("linear"), points(), points(seed=2), points(seed=3)
    both = velocity_loss(i, lambda x, t: torch.sin(x), x0, x1, t=TIMES, z=z, antithetic=True)
    each = [velocity_loss(i, lambda x, t: torch.sin(x), x0, x1, t=TIMES, z=s * z, antithetic=False) for s in (1, -1)]
    assert torch.allclose(both, sum(each) / 2)


def test_weights_undo_another_density_of_times():
    x0, x1 = points(), points(seed=2)
    i = Interpolant("linear", "zero")
    one = velocity_loss(i, lambda x, t: x, x0, x1, t=TIMES)
    two = velocity_loss(i, lambda x, t: x, x0, x1, t=TIMES, weight=lambda t: torch.full_like(t, 2.0))
    assert torch.allclose(two, 2 * one)


# Bounds and bridges


@given(st.floats(0, 10), st.floats(1e-3, 10), st.floats(1e-3, 10))
@settings(max_examples=50)
def test_no_noise_level_beats_the_best_one(delta_b, delta_s, eps):
    assert kl_bound(delta_b, delta_s) <= kl_bound(delta_b, delta_s, eps) * (1 + 1e-12)
    if delta_b > 1e-6:
        at_best = kl_bound(delta_b, delta_s, best_noise_level(delta_b, delta_s))
        assert math.isclose(at_best, kl_bound(delta_b, delta_s), rel_tol=1e-9)


def test_nothing_bounds_the_ode():
    assert kl_bound(0.1, 0.1, 0.0) == math.inf
    assert kl_bound(0.0, 0.1, 0.0) == 0.0


@pytest.mark.parametrize(
    ("s0", "s1", "eps", "energy"), [(1, 0.5, 0.5, 0.70515), (1, 2, 0.1, 0.43318), (0.3, 1, 1, 0.21589)]
)
def test_the_bridge_on_a_line(s0, s1, eps, energy):
    bridge = gaussian_schrodinger_bridge(0.0, s0**2, 0.0, s1**2, eps)
    assert abs(bridge.energy - energy) < 1e-5
    coupling = 0.5 * (math.sqrt(4 * s0**2 * s1**2 + 4 * eps**2) - 2 * eps)
    assert math.isclose(float(bridge.coupling), coupling, rel_tol=1e-12)


def test_the_drift_of_the_bridge_moves_its_moments():
    g = rng()
    roots = torch.randn(2, 3, 3, generator=g, dtype=D)
    covs = roots @ roots.mT + 0.3 * torch.eye(3, dtype=D)
    bridge = gaussian_schrodinger_bridge(torch.zeros(3, dtype=D), covs[0], torch.ones(3, dtype=D), covs[1], 0.4)
    assert torch.allclose(bridge.cov(0.0), covs[0])
    assert torch.allclose(bridge.cov(1.0), covs[1])
    eye, h = torch.eye(3, dtype=D), 1e-5
    for t in (0.2, 0.5, 0.9):
        gain = (bridge.drift(eye, t) - bridge.drift(0 * eye, t)).mT
        slope = (bridge.cov(t + h) - bridge.cov(t - h)) / (2 * h)
        assert torch.allclose(gain @ bridge.cov(t) + bridge.cov(t) @ gain.mT + 0.8 * eye, slope, atol=1e-7)
        # The drift of a bridge is a gradient less its reciprocal's: b_F - eps s is the mean of both, hence symmetric.
        symmetric = gain - gain.mT
        assert symmetric.abs().max() < 1e-9
    assert torch.allclose(bridge.score(bridge.mean(0.3)[None], 0.3), torch.zeros(1, 3, dtype=D))


# Bad input


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interpolant("straight"), "path is 'straight'"),
        (lambda: Interpolant("linear", "wavy"), "gamma is 'wavy'"),
        (lambda: Interpolant("linear", a=0.0), "a is 0.0"),
        (lambda: Interpolant("one_sided_linear", "brownian"), "one-sided"),
        (lambda: Interpolant("one_sided_linear", gaussian_base=False), "gaussian_base"),
        (lambda: Interpolant("trig", "brownian", a=4.0), "below 1"),
        (lambda: Interpolant("trig", "sin2"), "below 1"),
        (lambda: Interpolant("linear", Gamma(lambda t: 1 + 0 * t)), "0 there"),
        (lambda: Path(alpha=lambda t: 1 - t), "beta is missing"),
        (lambda: Path(alpha=lambda t: t, beta=lambda t: t), "alpha goes from 0 to 1"),
        (lambda: Interpolant("linear").alpha(1.5), "t is 1.5"),
        (lambda: Interpolant("linear").alpha(torch.tensor([0.5, -0.1])), "t spans"),
        (lambda: Interpolant("linear").sample(points(), points(4), 0.5), "x1"),
        (lambda: Interpolant("linear").sample(points(), points(), 0.5), "generator"),
        (lambda: Interpolant("linear").sample(points(), points(), TIMES[:2], z=points()), "t has shape"),
        (lambda: Interpolant("linear").sample(points(), points(), 0.5, z=points(4)), "z has shape"),
        (lambda: Fields(Interpolant("linear")), "no field"),
        (lambda: Fields(Interpolant("linear", "zero"), b=lambda x, t: x).s(points(), 0.5), "gamma is zero"),
        (lambda: Fields(Interpolant("linear"), b=lambda x, t: x).s(points(), 0.5), "does not follow"),
        (lambda: score_loss(Interpolant("linear", "zero"), lambda x, t: x, points(), points(), rng()), "gamma is zero"),
        (lambda: velocity_loss(Interpolant("linear"), lambda x, t: x, points(), points()), "generator is None"),
        (lambda: velocity_loss(Interpolant("linear"), lambda x, t: x[:1], points(), points(), rng()), "f answers"),
        (
            lambda: velocity_loss(Interpolant("linear"), lambda x, t: x, points(), points(), rng(), t=0 * TIMES),
            "infinite",
        ),
        (
            lambda: x0x1_denoiser_loss(Interpolant("mirror"), lambda x, t: (x, x), points(), points(), rng()),
            "two-sided",
        ),
        (lambda: kl_bound(-1.0, 1.0), "delta_b is -1"),
        (lambda: best_noise_level(1.0, 0.0), "delta_s is 0"),
        (lambda: gaussian_schrodinger_bridge(0.0, 1.0, 0.0, -1.0, 0.5), "cov1"),
        (lambda: gaussian_schrodinger_bridge(0.0, 1.0, 0.0, 1.0, 0.0), "eps is 0"),
        (lambda: mixture("linear").b(points(5, 3), 0.5), "x has shape"),
        (
            lambda: GaussianMixtureInterpolant(
                Interpolant("linear"), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]
            ),
            "incomplete",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
