import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.reduction import (
    WGANGP,
    BootstrapSampler,
    ConvCritic,
    ConvGenerator,
    FieldScaler,
    MLPCritic,
    MLPGenerator,
    PCAGaussian,
    PCAGaussianMixture,
    PODTransform,
    gradient_penalty,
    sliced_w1,
)

RNG = np.random.default_rng(0)
X = 3 + RNG.normal(size=(80, 3)) @ RNG.normal(size=(3, 2 * 3 * 9)) * [*np.linspace(1, 0.01, 54)]
X = X.reshape(80, 2, 3, 9)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def quick(**options):
    return WGANGP.on_modes(n_modes=3, latent_dim=4, **options)


def test_the_penalty_of_a_linear_critic_is_exact():
    w = torch.tensor([3.0, 4.0])
    real, fake = torch.randn(8, 2, generator=rng()), torch.randn(8, 2, generator=rng(1))

    def critic(x):
        return x @ w

    assert gradient_penalty(critic, real, fake).item() == pytest.approx(16)
    assert gradient_penalty(critic, real, fake, target=5).item() == pytest.approx(0)
    assert gradient_penalty(critic, real, fake, target=7).item() == pytest.approx(4)
    assert gradient_penalty(critic, real, fake, target=7, one_sided=True).item() == 0
    assert gradient_penalty(critic, real, fake, one_sided=True).item() == pytest.approx(16)


def test_the_penalty_is_of_the_whole_sample_and_between_real_and_fake():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.ones(6, 1, 2, 8), torch.zeros(6, 1, 2, 8)
    penalty = gradient_penalty(critic, real, fake, generator=rng())
    assert penalty.item() == pytest.approx((np.sqrt(16) - 1) ** 2, rel=1e-5)
    flat = seen[0].flatten(1)
    assert ((flat > 0) & (flat < 1)).all()
    assert (flat == flat[:, :1]).all()  # one share a sample
    assert len(flat[:, 0].unique()) == 6


def test_the_penalty_reaches_the_critic_and_not_the_generator():
    critic, fake = MLPCritic((5,)), torch.randn(4, 5, generator=rng(), requires_grad=True)
    gradient_penalty(critic, torch.randn(4, 5, generator=rng(1)), fake).backward()
    assert fake.grad is None
    assert all(p.grad is not None and p.grad.any() for n, p in critic.named_parameters() if n.endswith("weight"))


@pytest.mark.usefixtures("untyped")
def test_the_penalty_refuses_other_shapes():
    with pytest.raises(ValueError, match="real has shape"):
        gradient_penalty(lambda x: x[:, 0], torch.zeros(3, 2), torch.zeros(4, 2))


@pytest.mark.parametrize(("d", "weight"), [(1.0, 10.0), (1.0, 1.0)])
def test_a_critic_between_two_points_is_as_steep_as_the_mathematics_says(d, weight):
    critic = nn.Linear(1, 1)
    nn.init.constant_(critic.weight, 0.5)  # from a negative slope it would have to cross a hill of the penalty
    real, fake = torch.full((8, 1), d), torch.zeros(8, 1)
    optimizer = torch.optim.Adam(critic.parameters(), 0.05)
    for k in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - k / 300)
        loss = weight * gradient_penalty(lambda x: critic(x)[:, 0], real, fake) - (critic(real) - critic(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (critic(real) - critic(fake)).mean().item() == pytest.approx(d * (1 + d / (2 * weight)), rel=3e-3)


@pytest.mark.parametrize("shape", [(1, 2, 100), (2, 44, 46), (3, 1, 7), (2, 16, 64)])
def test_convolutions_make_and_take_any_grid(shape):
    generator, critic = (
        ConvGenerator(5, shape, 4, condition_dim=2),
        ConvCritic(shape, 4, condition_dim=2, layer_norm=True),
    )
    condition = torch.randn(3, 2, generator=rng())
    made = generator(torch.randn(3, 5, generator=rng()), condition)
    assert made.shape == (3, *shape)
    assert critic(made, condition).shape == (3,)
    bounded = ConvGenerator(5, shape, 4, bounded=True)(100 * torch.randn(3, 5, generator=rng()))
    assert bounded.abs().max() <= 1


def test_a_critic_judges_each_sample_by_itself():
    x = torch.randn(4, 2, 6, 20, generator=rng())
    for critic in (ConvCritic((2, 6, 20), 4, layer_norm=True), MLPCritic((2, 6, 20))):
        torch.testing.assert_close(critic(x)[1:2], critic(x[1:2]))


def test_networks_refuse_other_sizes():
    with pytest.raises(ValueError, match="shape is"):
        ConvGenerator(4, (2, 3))
    with pytest.raises(ValueError, match="latent_dim is 0"):
        MLPGenerator(0, (3,))
    with pytest.raises(ValueError, match="shape is"):
        MLPCritic(())


def test_modes_share_one_scale():
    pod = PODTransform(rtol=1e-9).fit(X)
    q = pod.transform(X)
    assert pod.n_modes_ == 3
    np.testing.assert_allclose(q.mean(0), 0, atol=1e-12)
    assert q[:, 0].std() == pytest.approx(1)
    ratio = np.linalg.svd((X - X.mean(0)).reshape(80, -1), compute_uv=False)[:3]
    np.testing.assert_allclose(q.std(0), ratio / ratio[0], rtol=1e-9)  # not whitened
    np.testing.assert_allclose(pod.inverse_transform(q), X, atol=1e-9)


def test_scalers():
    for kind in ("max", "standard", "none"):
        scaler = FieldScaler(kind).fit(X)
        np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X)
    np.testing.assert_allclose(np.abs(FieldScaler().fit_transform(X)).max((0, 2, 3)), 1)
    standard = FieldScaler("standard").fit_transform(X)
    np.testing.assert_allclose([standard.mean((0, 2, 3)), standard.std((0, 2, 3))], [[0, 0], [1, 1]], atol=1e-9)
    with pytest.raises(ValueError, match="kind is 'log'"):
        FieldScaler("log").fit(X)
    with pytest.raises(ValueError, match="all the same"):
        PODTransform().fit(np.ones((4, 1, 2, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_does_not_vary_is_not_blown_up(dtype):
    still = np.full((500, 2, 3, 4), 0.3, dtype)  # whose deviation is rounding
    with pytest.raises(ValueError, match="all the same"):
        PODTransform().fit(still)
    still[:, 0] = RNG.normal(size=(500, 3, 4))
    scaler = FieldScaler("standard").fit(still)
    assert scaler.scale_[1] == 1
    assert np.abs(scaler.transform(still)[:, 1]).max() < 1e-6


def test_a_condition_that_does_not_vary_is_not_blown_up():
    gan = quick().fit(X, 1, 16, condition=np.full((80, 1), 0.1))
    near, far = (gan.sample(20, rng(), [c]) for c in (0.1, 0.2))
    np.testing.assert_allclose(far, near, atol=0.1 * np.abs(X).max())


def test_the_last_step_is_checked_and_patience_needs_checks():
    gan = quick().fit(X[:60], 5, 16, validation=X[60:], check_every=100)
    assert [step for step, *_ in gan.distances_] == [5]
    with pytest.raises(ValueError, match="patience is 3 without validation"):
        quick().fit(X, 5, 16, patience=3)


def test_training_needs_no_gradients_from_outside():
    outside = quick().fit(X, 2, 16)
    with torch.no_grad():
        inside = quick().fit(X, 2, 16)
    np.testing.assert_array_equal(inside.sample(3, rng()), outside.sample(3, rng()))


def test_training_repeats_from_its_seed():
    a, b, c = (quick().fit(X, 3, 16, random_state=seed).sample(5, rng(5)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_ring_is_learned_which_no_gaussian_is_like():
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, 600)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    gan = WGANGP(latent_dim=4, gp_weight=1.0, n_critic=3, lr=2e-3, ema=0.9, transform="none")
    gan.fit(ring[:400], 120, validation=ring[400:], check_every=40)
    drawn, gaussian = gan.sample(500, rng(5)), PCAGaussian().fit(ring[:400]).sample(500, rng(5))
    assert sliced_w1(drawn, ring[400:]) < 0.6 * sliced_w1(gaussian, ring[400:])


def test_the_generator_that_is_kept_is_the_one_nearest_to_validation():
    gan = quick().fit(X[:60], 12, 16, validation=X[60:], check_every=3)
    steps, gaps, distances = zip(*gan.distances_, strict=True)
    assert steps == (3, 6, 9, 12)
    assert gan.best_step_ == steps[int(np.argmin(distances))]
    assert np.isfinite(gaps).all()
    longer = quick().fit(X[:60], gan.best_step_, 16, validation=X[60:], check_every=3)
    np.testing.assert_array_equal(gan.sample(9, rng()), longer.sample(9, rng()))


def test_training_stops_by_patience_and_by_the_callback():
    seen = []
    gan = quick(lr=1e-12).fit(X[:60], 400, 16, validation=X[60:], check_every=1, patience=3)
    assert len(gan.distances_) < 400
    quick().fit(X, 9, 16, callback=lambda step, gap: seen.append((step, gap)) or step == 2)
    assert [step for step, _ in seen] == [0, 1, 2]
    assert np.isfinite([gap for _, gap in seen]).all()


def test_a_schedule_of_zero_trains_nothing():
    still = quick().fit(X, 3, 16, schedule=lambda step: 0.0)
    moved = quick().fit(X, 3, 16)
    assert not np.array_equal(still.sample(4, rng()), moved.sample(4, rng()))
    again = quick().fit(X, 5, 16, schedule=lambda step: 0.0)
    np.testing.assert_array_equal(still.sample(4, rng()), again.sample(4, rng()))


def test_a_conditional_generator_follows_its_condition():
    condition = RNG.uniform(-1, 1, size=(500, 1))
    data = np.concatenate([2 * condition + 0.05 * RNG.normal(size=(500, 1)), RNG.normal(size=(500, 1)) * 0.1], 1)
    gan = WGANGP(latent_dim=2, gp_weight=1.0, lr=2e-3, transform="standard").fit(
        data[:400], 60, condition=condition[:400], validation=(data[400:], condition[400:]), check_every=40
    )
    asked = np.repeat([-0.8, 0.8], 200)[:, None]
    drawn = gan.sample(400, rng(), asked)
    assert np.corrcoef(drawn[:, 0], asked[:, 0])[0, 1] > 0.9
    assert gan.sample(3, rng(), [0.5]).shape == (3, 2)
    assert np.isfinite(gan.critic_gap(data[:50], rng(), condition[:50]))
    assert gan.slopes(data[:50], rng(), condition[:50]).shape == (50,)
    with pytest.raises(ValueError, match="no condition"):
        gan.sample(3)
    with pytest.raises(ValueError, match="takes \\(3, 1\\)"):
        gan.sample(3, condition=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="a condition"):
        quick().fit(X, 1, 16).sample(3, condition=np.zeros((3, 2)))


@pytest.mark.parametrize(
    "gan",
    [
        quick(one_sided=True),
        WGANGP(ConvGenerator(4, (2, 3, 9), 2), ConvCritic((2, 3, 9), 2), latent_dim=4),
        WGANGP(latent_dim=4, transform="standard", ema=0.5),
    ],
    ids=["modes", "convolutions", "default networks"],
)
@pytest.mark.parametrize("conditioned", [False, True])
def test_a_saved_model_is_the_same(tmp_path, gan, conditioned):
    if conditioned and gan.generator is not None and gan.generator.config["condition_dim"] == 0:
        pytest.skip("these networks take no condition")
    gan = WGANGP(latent_dim=4, transform=gan.transform) if conditioned else gan
    C = RNG.normal(size=(80, 2)) if conditioned else None
    gan.fit(X, 2, 16, condition=C)
    path = gan.save(tmp_path / "gan.safetensors")
    again = WGANGP.load(path)
    ask = None if C is None else C[:7]
    for network in ("generator", "critic"):
        weights, read = (getattr(g, network).state_dict() for g in (gan, again))
        assert list(weights) == list(read)
        assert all(torch.equal(weights[name], read[name]) for name in weights)
    # What equal weights give may differ in its last bits, by where they lie in memory.
    np.testing.assert_allclose(again.sample(7, rng(), ask), gan.sample(7, rng(), ask), rtol=1e-5, atol=1e-6)
    gaps = [g.critic_gap(X[:9], rng(), None if C is None else C[:9]) for g in (gan, again)]
    assert gaps[1] == pytest.approx(gaps[0], rel=1e-4, abs=1e-6)
    for name in ("latent_dim", "gp_weight", "n_critic", "lr", "betas", "ema", "one_sided", "best_step_"):
        assert getattr(again, name) == getattr(gan, name)
    assert [p.name for p in tmp_path.iterdir()] == ["gan.safetensors"]


@pytest.mark.usefixtures("untyped")
def test_files_that_are_none_of_ours_are_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("no tensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    state = {"generator": ["os.system", {}], "critic": ["MLPCritic", {"shape": [3]}]}
    save_file({"x": torch.zeros(1)}, tmp_path / "evil", {"format": "paperworks WGANGP 1", "state": json.dumps(state)})
    numpys = PODTransform().set_params(n_modes=np.int64(3))  # a number that JSON doesn't know
    path = WGANGP(latent_dim=4, transform=numpys).fit(X, 1, 16).save(tmp_path / "good")
    assert path.stat().st_mode & 0o444 == 0o444  # others may read it
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-9])
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    path.unlink()
    wide = json.loads(about["state"])
    wide["generator"][1]["hidden"] = [10**9, 10**9]  # would take all memory
    tampered = {
        "unsaid": ({}, {"state": "{}"}),
        "garbled": ({}, {"state": "{"}),
        "wide": ({}, {"state": json.dumps(wide)}),
        "numberless": ({"transform.mean_": torch.full((2, 3, 9), torch.nan)}, {}),
        "modes": ({"transform.modes_": torch.zeros(2, 2)}, {}),
    }
    for name, (other, said) in tampered.items():
        save_file(tensors | other, tmp_path / name, about | said)
        with pytest.raises(ValueError, match=f"{name}, which is damaged"):
            WGANGP.load(tmp_path / name)
        (tmp_path / name).unlink()
    for name, match in (
        ("cut", "no file of safetensors"),
        ("text", "no file of safetensors"),
        ("other", "of format None"),
        ("evil", "network 'os.system'"),
    ):
        with pytest.raises(ValueError, match=match):
            WGANGP.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        WGANGP.load(tmp_path / "nothing")
    with pytest.raises(TypeError, match="generator is Sequential"):
        WGANGP(nn.Sequential(nn.Linear(4, 3)), latent_dim=4, transform=PODTransform(3)).fit(X, 1, 16).save(
            tmp_path / "x"
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "evil", "other", "text"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_critic": 0}, ValueError, "n_critic is 0"),
        ({"latent_dim": 0}, ValueError, "latent_dim is 0"),
        ({"gp_weight": -1}, ValueError, "gp_weight is -1"),
        ({"betas": 0.9}, ValueError, "betas is 0.9"),
        ({"betas": (0.0, 1.0)}, ValueError, "betas is 1.0"),
        ({"betas": (0.0, 0.5, 0.9)}, ValueError, "betas is"),
        ({"ema": 1.0}, ValueError, "ema is 1.0"),
        ({"lr": 0}, ValueError, "lr is 0"),
        ({"transform": "log"}, ValueError, "transform is 'log'"),
        ({"transform": 3}, TypeError, "transform is int"),
        ({"critic": 3}, TypeError, "critic is int"),
        ({"critic": nn.Sequential(nn.BatchNorm1d(3))}, ValueError, "critic has batch norm"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_settings_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        WGANGP(**options)


def test_whole_betas_are_taken_as_floats():
    gan = quick(betas=(0, 0.9)).fit(X, 1, 16)  # which torch's Adam refuses
    assert gan.betas == (0.0, 0.9)


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (np.where(X > 5, np.nan, X), {}, "X has .* NaN"),
        (X, {"batch_size": 81}, "batch_size is 81 for 80"),
        (X, {"steps": 0}, "steps is 0"),
        (X, {"condition": np.zeros((79, 1))}, r"condition has shape \(79, 1\)"),
        (X, {"condition": np.full((80, 1), np.nan)}, "condition has 80"),
        (X, {"patience": 0}, "patience is 0"),
        (X, {"validation": np.full((5, 2, 3, 9), np.inf)}, "validation has"),
        (X[:, 0, 0, 0], {}, "X has shape"),
    ],
)
def test_bad_data_are_refused(data, options, match):
    with pytest.raises(ValueError, match=match):
        quick().fit(data, **{"steps": 1, "batch_size": 16, **options})


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="generator makes samples of shape"):
        WGANGP(ConvGenerator(4, (2, 3, 8), 2), latent_dim=4).fit(X, 1, 16)
    with pytest.raises(ValueError, match="generator has latent_dim 5; the model asks for 4"):
        WGANGP(ConvGenerator(5, (2, 3, 9), 2), latent_dim=4).fit(X, 1, 16)
    with pytest.raises(ValueError, match="critic returns shape"):
        WGANGP(critic=nn.Flatten(), latent_dim=4).fit(X, 1, 16)
    with pytest.raises(RuntimeError, match="not trained"):
        quick().sample(3)


def test_the_linear_model_has_the_moments_of_the_data():
    law = PCAGaussian().fit(X)
    drawn = law.sample(20_000, rng())
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.1)
    np.testing.assert_allclose(drawn.std(0), X.std(0), atol=0.1)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.sampled_from(["mixture", "kde"]))
def test_mixtures_draw_finite_samples_of_the_shape(n_modes, law):
    drawn = PCAGaussianMixture(n_modes, None, law, components=2).fit(X).sample(4, rng())
    assert drawn.shape == (4, 2, 3, 9)
    assert np.isfinite(drawn).all()


def test_a_mixture_finds_two_groups():
    groups = np.concatenate([RNG.normal(-5, 0.1, (100, 2)), RNG.normal(5, 0.1, (100, 2))])
    for law in ("mixture", "kde"):
        drawn = PCAGaussianMixture(law=law).fit(groups).sample(1000, rng())[:, 0]
        assert np.mean(np.abs(np.abs(drawn) - 5) < (1 if law == "mixture" else 5)) > 0.9
    assert PCAGaussianMixture().fit(groups).mixture_.n_components == 2


def test_the_bootstrap_keeps_its_own_data():
    data = X.copy()
    law = BootstrapSampler().fit(data)
    data[:] = 0
    assert np.abs(law.sample(3, rng())).min() > 0


def test_the_bootstrap_draws_the_data():
    drawn = BootstrapSampler().fit(X).sample(30, rng())
    assert all(any(np.array_equal(row, x) for x in X) for row in drawn)


@pytest.mark.parametrize("law", [PCAGaussian(), PCAGaussianMixture(components=2), BootstrapSampler()])
def test_simple_laws_repeat_and_refuse(law):
    with pytest.raises(RuntimeError, match="not fitted"):
        law.sample(3)
    with pytest.raises(ValueError, match="NaN"):
        law.fit(np.where(X > 5, np.nan, X))
    law.fit(X)
    a, b = (law.sample(5, rng(1)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, law.sample(5, rng(2)))
    with pytest.raises(ValueError, match="condition is given"):
        law.sample(3, condition=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="n is 0"):
        law.sample(0)


def test_all_critics_take_all_generators_samples():
    z = torch.randn(2, 4, generator=rng())
    generators = (MLPGenerator(4, (2, 3, 9)), ConvGenerator(4, (2, 3, 9), 2))
    for generator, critic in itertools.product(generators, (MLPCritic((2, 3, 9)), ConvCritic((2, 3, 9), 2))):
        assert critic(generator(z)).shape == (2,)
