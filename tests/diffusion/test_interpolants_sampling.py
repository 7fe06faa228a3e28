"""Samplers, likelihoods, bridges and converters of stochastic interpolants, held to exact laws and orders."""

import itertools
import math

import pytest
import torch

from paperworks.diffusion import (
    Fields,
    FrozenDenoiserSampler,
    GaussianMixtureInterpolant,
    Interpolant,
    LearnablePath,
    NetworkPath,
    NoiseScheduleVP,
    ODESampler,
    OptimalCoupling,
    SchrodingerBridgeTrainer,
    SDESampler,
    fields_from_noise_model,
    gaussian_schrodinger_bridge,
    log_likelihood,
    noise_model_from_fields,
    one_sided_time,
    rectified_pairs,
)
from paperworks.numerics import divergence
from paperworks.testbeds import bench_mixture_1d

D = torch.float64
WHOLE = (0.0, 1.0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def on_a_line(means, variances):
    n = len(means)
    return (
        torch.ones(n, dtype=D),
        torch.tensor(means, dtype=D)[:, None],
        torch.tensor(variances, dtype=D)[:, None, None],
    )


def exact_on_a_line(path="linear", gamma=None):
    """Return a mixture of two modes from N(0, 1), or from what the path starts from."""
    interpolant = Interpolant(path, gamma)
    alone = interpolant.one_sided or interpolant.mirror
    base = () if alone else on_a_line([0.0], [1.0])
    return GaussianMixtureInterpolant(interpolant, *on_a_line([-2.0, 1.0], [0.25, 0.5]), *base)


def grid(n=9):
    return torch.linspace(-2, 2, n, dtype=D)[:, None]


# Samplers


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_ode_methods_have_their_order(method, order):
    fields = exact_on_a_line("trig", "quadratic").fields()
    truth = ODESampler(fields).sample(grid(), 400, window=WHOLE).sample
    errors = [
        float((ODESampler(fields, method).sample(grid(), n, window=WHOLE).sample - truth).abs().max()) for n in (40, 80)
    ]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.35


def test_the_adaptive_method_meets_its_tolerance():
    fields = exact_on_a_line("trig", "quadratic").fields()
    truth = ODESampler(fields).sample(grid(), 400, window=WHOLE).sample
    result = ODESampler(fields, "dopri5", rtol=1e-7, atol=1e-7).sample(grid(), window=WHOLE, return_trajectory=True)
    assert (result.sample - truth).abs().max() < 1e-5
    assert len(result.trajectory) == len(result.times) == result.n_accept + 1
    assert result.times[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("path", ["linear", "one_sided_linear", "trig", "encdec"])
def test_the_ode_carries_quantiles(path):
    exact = exact_on_a_line(path)
    x = ODESampler(exact.fields()).sample(grid(), 200, window=WHOLE).sample
    weights, means, covs = exact.target
    got = (weights * torch.special.ndtr((x - means[:, 0]) / covs[:, 0, 0].sqrt())).sum(1)
    assert torch.allclose(got, torch.special.ndtr(grid()[:, 0]), atol=2e-5)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_the_ode_comes_back(method):
    fields = exact_on_a_line().fields()
    there = ODESampler(fields, "rk4").sample(grid(), 200)
    back = ODESampler(fields, "rk4").sample(there.sample, 200, direction="backward")
    assert (back.sample - grid()).abs().max() < 1e-3
    assert ODESampler(fields, method).sample(grid(), 3).nfe == 3 * {"euler": 1, "heun": 2, "rk4": 4}[method]


@pytest.mark.parametrize("gamma", ["brownian", "quadratic", "sin2", "sigmoid"])
def test_the_flow_of_a_mirror_is_the_identity(gamma):
    fields = exact_on_a_line("mirror", gamma).fields()
    middle = ODESampler(fields).sample(grid(), 100, window=(0.0, 0.5)).sample
    assert (middle - grid()).abs().max() > 0.01
    assert (ODESampler(fields).sample(grid(), 200, window=WHOLE).sample - grid()).abs().max() < 2e-4


def test_without_noise_the_sde_is_the_ode():
    fields = exact_on_a_line().fields()
    for method in ("euler", "heun"):
        still = SDESampler(fields, 0.0, method=method).sample(grid(), 20)
        assert torch.equal(still.sample, ODESampler(fields, method).sample(grid(), 20).sample)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_all_noise_levels_reach_the_same_moments(method, direction):
    exact = exact_on_a_line()
    n = 8000
    x0, x1, _ = exact.sample(n, 0.5, rng())
    start, end = (x0, x1) if direction == "forward" else (x1, x0)
    brownian = exact.interpolant.gamma
    for eps in (0.5, lambda t: 2 * brownian(t)):
        result = SDESampler(exact.fields(), eps, direction, method).sample(start, 60, generator=rng(1))
        assert abs(float(result.sample.mean() - end.mean())) < 0.06
        assert abs(float(result.sample.var() / end.var()) - 1) < 0.06


def test_frozen_denoisers_are_exact_for_a_point_and_make_ddim():
    i = Interpolant("linear", "quadratic")
    x0, x1, z = (torch.full((1, 2), v, dtype=D) for v in (1.0, -2.0, 0.5))
    fixed = Fields(i, eta0=lambda x, t: x0, eta1=lambda x, t: x1, eta=lambda x, t: z)
    start = i.sample(x0, x1, 0.25, z=z)[0]
    got = FrozenDenoiserSampler(fixed).sample(start, 1, window=(0.25, 0.75)).sample
    assert torch.allclose(got, i.sample(x0, x1, 0.75, z=z)[0])

    exact = exact_on_a_line("one_sided_linear")
    x, t, after = grid(), 0.3, 0.4
    eta = exact.fields().eta(x, t)
    ddim = after / t * x + ((1 - after) - (1 - t) * after / t) * eta
    assert torch.allclose(FrozenDenoiserSampler(exact.fields()).sample(x, 1, window=(t, after)).sample, ddim)


@pytest.mark.parametrize("path", ["linear", "one_sided_linear", "mirror"])
def test_frozen_denoisers_follow_the_flow(path):
    fields = exact_on_a_line(path, "quadratic" if path == "linear" else None).fields()
    window = (0.1, 0.9)
    truth = ODESampler(fields).sample(grid(), 100, window=window).sample
    errors = [
        (FrozenDenoiserSampler(fields).sample(grid(), n, window=window).sample - truth).abs().max() for n in (50, 100)
    ]
    assert 1.7 < float(errors[0] / errors[1]) < 2.3


# Likelihood


def test_divergences():
    matrix = torch.randn(3, 3, generator=rng(), dtype=D)
    x = torch.randn(4, 3, generator=rng(1), dtype=D)
    value, exact = divergence(lambda x: x @ matrix.mT, x)
    assert torch.allclose(value, x @ matrix.mT)
    assert torch.allclose(exact, matrix.trace().expand(4))
    signs = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]], dtype=D)  # all signs of two
    probes = signs[:, None].expand(4, 4, 3)
    assert torch.allclose(divergence(lambda x: x @ matrix.mT, x, probes)[1], exact)


def test_the_likelihood_of_the_ode_is_the_density():
    exact = exact_on_a_line("trig", "quadratic")
    x = grid()
    got = log_likelihood(exact.fields(), x, lambda y: exact.log_density(y, 0.0), steps=100, window=WHOLE)
    assert torch.allclose(got, exact.log_density(x, 1.0), atol=1e-6)
    probed = log_likelihood(
        exact.fields(), x, lambda y: exact.log_density(y, 0.0), steps=100, window=WHOLE, n_probes=1, generator=rng()
    )
    assert torch.allclose(probed, got)  # in one dimension any sign is exact


def test_the_likelihood_of_the_sde_is_the_density_and_the_bound_below_it():
    exact, x = exact_on_a_line(), grid(5)
    truth = exact.log_density(x, 1 - 1e-3)

    def found(method, fields=None, steps=200):
        return log_likelihood(
            fields or exact.fields(),
            x,
            lambda y: exact.log_density(y, 1e-3),
            method=method,
            eps=0.5,
            steps=steps,
            window=(1e-3, 1 - 1e-3),
            n_paths=100,
            generator=rng(),
        )

    assert (found("sde") - truth).abs().max() < 0.05
    assert (found("sde_bound") - truth).abs().max() < 0.12
    wrong = Fields(exact.interpolant, b=exact.b, s=lambda x, t: exact.s(x, t) + 0.5)
    assert (found("sde", wrong) > found("sde_bound", wrong)).all()


def test_the_density_of_the_chain_integrates_to_one():
    fields = Fields(Interpolant("linear"), b=lambda x, t: 0.3 * x + 0.1, s=lambda x, t: -0.7 * x)
    x = torch.linspace(-8, 8, 161, dtype=D)[:, None]
    normal = lambda y: -0.5 * y[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)  # noqa: E731
    for eps in (0.4, lambda t: 0.2 + 0.3 * t):
        log_p = log_likelihood(fields, x, normal, method="sde", eps=eps, steps=5, n_paths=500, generator=rng())
        assert abs(float(log_p.exp().sum() * 0.1) - 1) < 0.02


# Bridges


def test_training_lowers_the_energy_towards_the_bridge():
    class Drift(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x, t):
            return (self.k[0] + self.k[1] * t + self.k[2] * t**2)[:, None] * x

    truth = gaussian_schrodinger_bridge(0.0, 1.0, 0.0, 4.0, 0.1)
    g = rng()

    def draw():
        return torch.randn(512, 1, generator=g), 2 * torch.randn(512, 1, generator=g)

    path = LearnablePath(2)
    trainer = SchrodingerBridgeTrainer(path, Drift(), 0.1, drift_lr=5e-2, path_lr=3e-2)
    assert len(trainer.fit(draw, 100, g)) == 100
    x0, x1 = torch.randn(100_000, 1, generator=g), 2 * torch.randn(100_000, 1, generator=g)
    assert abs(trainer.energy(x0, x1, g) / truth.energy - 1) < 0.1  # 0.88 above it to start with
    end = trainer.sample(torch.randn(20_000, 1, generator=g), 50, generator=g).sample
    assert abs(float(end.var()) - 4) < 0.4


@pytest.mark.parametrize("path", [LearnablePath(3), NetworkPath(torch.nn.Linear(5, 2))])
def test_learnable_paths_keep_their_ends(path):
    for parameter in path.parameters():
        torch.nn.init.normal_(parameter, generator=rng())
    x0, x1 = torch.randn(2, 4, 2, generator=rng())
    assert torch.equal(path(torch.zeros(4, 1), x0, x1), x0)
    assert torch.equal(path(torch.ones(4, 1), x0, x1), x1)
    assert not torch.allclose(path(torch.full((4, 1), 0.5), x0, x1), (x0 + x1) / 2)


# Converters


@pytest.mark.parametrize("path", ["one_sided_linear", "one_sided_trig", "one_sided_vp"])
def test_a_score_model_becomes_the_fields_and_comes_back(path):
    schedule, data = NoiseScheduleVP.linear(), bench_mixture_1d()
    i = Interpolant(path)
    means, covs = data.means.to(D), (data.stds.to(D) ** 2)[:, None, None]
    exact = GaussianMixtureInterpolant(i, data.weights.to(D), means, covs)
    fields = fields_from_noise_model(data.model(schedule), schedule, i)
    times = torch.linspace(0.2, 0.9, 9, dtype=D)
    assert torch.allclose(fields.b(grid(), times), exact.b(grid(), times), atol=1e-8)
    assert torch.allclose(fields.s(grid(), 0.4), exact.s(grid(), 0.4), atol=1e-8)
    back = noise_model_from_fields(exact.fields(), schedule)
    assert torch.allclose(back(grid(), 0.3), data.model(schedule)(grid(), 0.3), atol=1e-8)
    ratio = i.beta(times) / i.alpha(times)
    assert torch.allclose(one_sided_time(i, ratio), times)


def test_rectified_pairs_are_joined_by_the_flow():
    exact = exact_on_a_line("linear", "zero")
    x0, x1 = rectified_pairs(Fields(exact.interpolant, b=exact.b), grid(), 200)
    assert torch.equal(x0, grid())
    assert (x1[1:] > x1[:-1]).all()  # a flow on the line keeps the order
    weights, means, covs = exact.target
    got = (weights * torch.special.ndtr((x1 - means[:, 0]) / covs[:, 0, 0].sqrt())).sum(1)
    assert torch.allclose(got, torch.special.ndtr(grid()[:, 0]), atol=1e-5)


# Bad input

B_AND_S = {"b": lambda x, t: x, "s": lambda x, t: -x}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: ODESampler(f, "rk5"), "method is 'rk5'"),
        (lambda f: ODESampler(f, rtol=0.0), "rtol"),
        (lambda f: ODESampler(f).sample(grid(), 0), "steps is 0"),
        (lambda f: ODESampler(f).sample(grid(), 5, window=(0.5, 0.2)), "window"),
        (lambda f: ODESampler(f).sample(grid(), 5, window=(0.0, 2.0)), "window"),
        (lambda f: ODESampler(f).sample(grid() * math.nan), "NaN"),
        (lambda f: SDESampler(f, -1.0), "eps is -1"),
        (lambda f: SDESampler(f, lambda t: -t).sample(grid(), generator=rng()), "eps is -"),
        (lambda f: SDESampler(f, 1.0, "sideways"), "direction"),
        (lambda f: SDESampler(f).sample(grid()), "generator is None"),
        (
            lambda f: SDESampler(Fields(Interpolant("linear", "zero"), b=B_AND_S["b"])).sample(grid(), generator=rng()),
            "gamma is zero",
        ),
        (lambda f: log_likelihood(f, grid(), lambda x: x[:, 0], method="pde"), "method is 'pde'"),
        (lambda f: log_likelihood(f, grid(), lambda x: x[:, 0], method="sde"), "generator"),
        (lambda f: log_likelihood(f, grid(), lambda x: x[:, 0], method="sde", eps=0.0, generator=rng()), "eps is 0"),
        (lambda f: SchrodingerBridgeTrainer(LearnablePath(), torch.nn.Linear(1, 1), 0.0), "eps is 0"),
        (lambda f: one_sided_time(Interpolant("linear"), 1.0), "one_sided"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(Fields(Interpolant("linear"), **B_AND_S))


# Couplings


def test_exact_pairs_are_those_of_the_least_cost_of_all():
    rng = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(6, 2, 3, generator=rng, dtype=D), torch.randn(6, 2, 3, generator=rng, dtype=D) + 1e3
    partners = OptimalCoupling().partners(x0, x1)

    def cost(order):
        return float((x0 - x1[torch.as_tensor(order)]).square().sum())

    assert cost(partners) == pytest.approx(min(cost(order) for order in itertools.permutations(range(6))), rel=1e-12)
    first, second = OptimalCoupling()(x0, x1)
    assert first is x0
    assert torch.equal(second, x1[partners])


def test_sinkhorns_pairs_follow_pots_plan_and_keep_both_laws():
    ot = pytest.importorskip("ot")
    rng = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(20, 2, generator=rng, dtype=D), torch.randn(30, 2, generator=rng, dtype=D) + 1
    cost = torch.cdist(x0, x1).square()
    coupling = OptimalCoupling("sinkhorn", reg=0.1, rtol=1e-10)
    plan = coupling._plan(cost)
    weights = [torch.full((n,), 1 / n, dtype=D).numpy() for n in (20, 30)]
    theirs = torch.from_numpy(ot.sinkhorn(*weights, cost.numpy(), 0.1 * float(cost.mean()), stopThr=1e-12))
    torch.testing.assert_close(plan, 20 * theirs, rtol=1e-6, atol=1e-9)
    drawn = torch.stack([coupling.partners(x0, x1, rng) for _ in range(2000)])
    shares = torch.nn.functional.one_hot(drawn, 30).double().mean(0)
    assert (shares - plan).abs().max() < 5 * (0.25 / 2000) ** 0.5
    torch.testing.assert_close(coupling._plan_in_logarithms(-cost / (0.1 * cost.mean()), 20 / 30), plan)
    # Little entropy: the exact pairs; much of it: anyone with anyone.
    same = torch.randn(30, 2, generator=rng, dtype=D)
    nearest = OptimalCoupling("sinkhorn", reg=1e-3, steps=5000).partners(same, same + 0.01, rng)
    assert (nearest == torch.arange(30)).double().mean() > 0.9
    assert OptimalCoupling("sinkhorn", reg=1e3)._plan(cost).sub(1 / 30).abs().max() < 1e-3


def test_a_straighter_coupling_has_a_velocity_that_varies_less_along_the_way():
    """For two points and two points the exact pairs are those nearby, and the least loss of a velocity falls to 0."""
    rng = torch.Generator().manual_seed(0)
    x0 = torch.where(torch.rand(64, 1, generator=rng) < 0.5, -1.0, 1.0).double()
    x1 = 2 * x0[torch.randperm(64, generator=rng)]
    a, b = OptimalCoupling()(x0, x1)
    assert torch.equal(b, 2 * a)


@pytest.mark.usefixtures("untyped")
def test_bad_batches_are_named():
    x = torch.randn(4, 2)
    for method, x0, x1, message in (
        ("exact", x, x[:3], "x0 has 4 samples and x1 3"),
        ("exact", x, x[:, :1], "samples of one shape"),
        ("exact", x * torch.nan, x, "x0 has 8 NaN"),
        ("sinkhorn", x, x, "generator is None"),
    ):
        with pytest.raises(ValueError, match=message):
            OptimalCoupling(method)(x0, x1)
    assert OptimalCoupling()(x[:0], x[:0])[1].shape == (0, 2)
    assert OptimalCoupling("sinkhorn")(x[:0], x, torch.Generator())[1].shape == (0, 2)


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_the_unit_of_a_coupling_is_of_no_matter_and_empty_batches_are_named(method):
    x0, x1 = (torch.randn(5, 2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    coupling, rng = OptimalCoupling(method, reg=0.01), torch.Generator()
    expected = coupling.partners(x0, x1, rng.manual_seed(0))
    for unit in (1e-300, 1e-200, 1e200, 1e300):
        assert torch.equal(coupling.partners(unit * x0, unit * x1, rng.manual_seed(0)), expected)
    assert coupling.partners(x0[:0], x1[:0], rng).shape == (0,)
    with pytest.raises(ValueError, match="x1 has no samples" if method == "sinkhorn" else "x0 has 5 samples and x1 0"):
        coupling.partners(x0, x1[:0], rng)
