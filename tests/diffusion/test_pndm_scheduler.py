import math

import numpy as np
import pytest
import torch

from paperworks.diffusion.models import wrap_model
from paperworks.diffusion.pndm import PNDMSampler
from paperworks.diffusion.pndm_scheduler import PNDMScheduler
from paperworks.diffusion.schedulers import training_betas
from paperworks.diffusion.schedules import NoiseScheduleVP
from paperworks.testbeds.mixtures import bench_mixture_1d

F64 = torch.float64
BENCH = bench_mixture_1d()
X_T = torch.linspace(-2.5, 2.5, 41, dtype=F64)[:, None]


def network(x, t):
    """Answers that depend on state and time in ways no symmetry hides."""
    return torch.tanh(x) * (0.5 + int(t) / 2000) + 0.2 * x


def run(scheduler, steps, x=X_T, model=network):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample
    return x


def diffusers_scheduler(**options):
    """The peer with its levels in float64; it keeps them in float32, which alone makes a difference of 1e-6."""
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.PNDMScheduler(**options)
    betas = training_betas(1000, 1e-4, 2e-2, options.get("beta_schedule", "linear"))
    peer.alphas_cumprod = torch.from_numpy(np.cumprod(1 - betas))
    peer.final_alpha_cumprod = torch.ones((), dtype=F64) if peer.config.set_alpha_to_one else peer.alphas_cumprod[0]
    return peer


@pytest.mark.parametrize("skip_prk_steps", [False, True])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
def test_parity_with_diffusers(skip_prk_steps, set_alpha_to_one, beta_schedule, spacing, offset):
    options = {
        "skip_prk_steps": skip_prk_steps,
        "set_alpha_to_one": set_alpha_to_one,
        "beta_schedule": beta_schedule,
        "timestep_spacing": spacing,
        "steps_offset": offset,
    }
    for steps in (4, 10, 50):
        peer, ours = diffusers_scheduler(**options), PNDMScheduler(**options)
        expected = run(peer, steps)
        result = run(ours, steps)
        assert torch.equal(ours.timesteps, peer.timesteps)
        # A cosine schedule starts where alpha is 5e-5, and so are rounding errors magnified.
        rtol = 1e-10 if beta_schedule != "squaredcos_cap_v2" or spacing == "leading" else 1e-5
        assert torch.allclose(result, expected, rtol=rtol, atol=1e-10)


def test_timesteps_have_one_entry_per_evaluation():
    scheduler = PNDMScheduler()
    scheduler.set_timesteps(10)
    runge_kutta = [900, 850, 850, 800, 800, 750, 750, 700, 700, 650, 650, 600]
    assert scheduler.timesteps.tolist() == [*runge_kutta, 600, 500, 400, 300, 200, 100, 0]
    assert scheduler.num_inference_steps == 10
    plms = PNDMScheduler(skip_prk_steps=True)
    plms.set_timesteps(5)
    assert plms.timesteps.tolist() == [800, 600, 600, 400, 200, 0]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("skip_prk_steps", "method"), [(False, "F-PNDM"), (True, "PLMS")])
def test_scheduler_and_sampler_are_one_method(spacing, skip_prk_steps, method):
    """20 steps of even length, so the middle of a step is a training step for both."""
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear"))
    model_fn = BENCH.model(schedule)
    sampler = PNDMSampler(model_fn, schedule, method, timestep_spacing=spacing)
    scheduler = PNDMScheduler(skip_prk_steps=skip_prk_steps, timestep_spacing=spacing, set_alpha_to_one=True)
    result = run(scheduler, 20, model=lambda x, n: model_fn(x, (int(n) + 1) / 1000))
    tolerance = 1e-10 if skip_prk_steps or spacing != "linspace" else 5e-3  # 999 - 946: the middle is rounded
    assert torch.allclose(result, sampler.sample(X_T, 20).sample, rtol=0, atol=tolerance)


def test_odd_steps_are_closer_to_the_exact_solution_than_diffusers():
    """With steps of 25 diffusers moves to 963 and evaluates at 962."""
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear"))
    model_fn = BENCH.model(schedule)
    options = {"set_alpha_to_one": True}
    truth = BENCH.transport(X_T, schedule, 0.976, 1e-3)
    errors = []
    for scheduler in (PNDMScheduler(**options), diffusers_scheduler(**options)):
        scheduler.set_timesteps(40)
        x = X_T
        for n in scheduler.timesteps:
            before = x
            x = scheduler.step(model_fn(x, (int(n) + 1) / 1000), n, x).prev_sample
        errors.append((before - truth).abs().max())  # the last step goes beyond the last level
    assert errors[0] < errors[1]


def test_every_v_prediction_becomes_noise_at_its_own_state():
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear"))
    exact_v, exact_noise = BENCH.model(schedule, "v"), BENCH.model(schedule)
    for skip in (False, True):
        by_v = PNDMScheduler(prediction_type="v_prediction", skip_prk_steps=skip)
        by_noise = PNDMScheduler(skip_prk_steps=skip)
        results = [
            run(s, 10, model=lambda x, n, m=m: m(x, (int(n) + 1) / 1000))
            for s, m in ((by_v, exact_v), (by_noise, exact_noise))
        ]
        assert torch.allclose(*results, rtol=0, atol=1e-10)


@pytest.mark.parametrize("skip_prk_steps", [False, True])
def test_a_trajectory_can_begin_anywhere(skip_prk_steps):
    """From the exact state at any entry of `timesteps` the sample ends up near the exact one."""
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear"))
    model_fn = BENCH.model(schedule)
    scheduler = PNDMScheduler(skip_prk_steps=skip_prk_steps)
    truth = BENCH.transport(X_T, schedule, 1.0, 1e-3)
    scheduler.set_timesteps(100)
    for begin in range(0, len(scheduler.timesteps), 5 if skip_prk_steps else 3):
        scheduler.set_timesteps(100)
        scheduler.set_begin_index(begin)
        rest = scheduler.timesteps[begin:]
        x = BENCH.transport(X_T, schedule, 1.0, (int(rest[0]) + 1) / 1000)
        for n in rest:
            x = scheduler.step(model_fn(x, (int(n) + 1) / 1000), n, x).prev_sample
        assert (x - truth).abs().max() < 0.02
        with pytest.raises(RuntimeError, match="after the last timestep"):
            scheduler.step(x, 0, x)


def test_set_timesteps_resets_a_run_that_was_broken_off():
    scheduler = PNDMScheduler()
    expected = run(scheduler, 10)
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps[:14]:
        scheduler.step(torch.full_like(X_T, 7.0), t, X_T)
    assert torch.equal(run(scheduler, 10), expected)


def test_noise_at_a_subset_of_timesteps():
    scheduler = PNDMScheduler()
    x0, noise = torch.ones(3, 2, 4, 4), torch.full((3, 2, 4, 4), 2.0)
    steps = torch.tensor([0, 500, 999])
    noisy = scheduler.add_noise(x0, noise, steps)
    assert noisy.dtype == torch.float32
    levels = torch.from_numpy(np.cumprod(1 - training_betas(1000, 1e-4, 2e-2, "linear")))[steps]
    assert torch.allclose(noisy[:, 0, 0, 0].double(), levels.sqrt() + 2 * (1 - levels).sqrt(), atol=1e-6)
    one = scheduler.add_noise(x0, noise, torch.tensor([500]))
    assert torch.equal(one[0], noisy[1])
    assert torch.equal(one[2], noisy[1])


def test_config_round_trip_and_foreign_config():
    scheduler = PNDMScheduler(num_train_timesteps=500, skip_prk_steps=True, prediction_type="v_prediction")
    again = PNDMScheduler.from_config(scheduler.config, steps_offset=1)
    assert again.config == {**scheduler.config, "steps_offset": 1}
    assert again.config.steps_offset == 1
    assert len(again) == 500
    diffusers = pytest.importorskip("diffusers")
    foreign = PNDMScheduler.from_config(diffusers.DDIMScheduler(beta_schedule="scaled_linear").config)
    assert foreign.config.beta_schedule == "scaled_linear"
    with pytest.raises(AttributeError, match="'eta'"):
        _ = foreign.config.eta


@pytest.mark.parametrize("skip_prk_steps", [False, True])
def test_inside_a_diffusers_pipeline(skip_prk_steps):
    """A class-conditional transformer pipeline with tiny random networks: same images as with the peer."""
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=1000,
    )
    transformer.eval()  # or labels are dropped at random
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1)
    images = []
    for scheduler in (PNDMScheduler(skip_prk_steps=skip_prk_steps), diffusers_scheduler(skip_prk_steps=skip_prk_steps)):
        pipeline = DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        made = pipeline([1, 2], generator=generator, num_inference_steps=6, output_type="np").images
        images.append(made)
    assert images[0].std() > 1e-3
    assert np.allclose(*images, atol=1e-5)


def test_v_prediction_through_the_model_wrapper_is_the_same_method():
    schedule = NoiseScheduleVP.discrete(betas=training_betas(1000, 1e-4, 2e-2, "linear"))
    wrapped = wrap_model(lambda x, n: network(x, n[0].round()), schedule, "v")
    sampler = PNDMSampler(wrapped, schedule, "PLMS")
    scheduler = PNDMScheduler(skip_prk_steps=True, prediction_type="v_prediction", set_alpha_to_one=True)
    assert torch.allclose(sampler.sample(X_T, 10).sample, run(scheduler, 10), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type is 'sample'"),
        ({"timestep_spacing": "odd"}, "timestep_spacing is 'odd'"),
        ({"beta_schedule": "odd"}, "beta_schedule is 'odd'"),
        ({"trained_betas": [0.1, 1.0]}, "betas"),
        ({"trained_betas": [0.0, 0.1]}, "betas"),
        ({"trained_betas": [0.1, math.nan]}, "betas"),
        ({"beta_start": -1.0}, "beta_start"),
        ({"steps_offset": -1}, "steps_offset is -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PNDMScheduler.__init__.__wrapped__(object.__new__(PNDMScheduler), **options)


def test_bad_calls():
    scheduler = PNDMScheduler()
    with pytest.raises(RuntimeError, match="before set_timesteps"):
        scheduler.step(X_T, 0, X_T)
    for steps, message in ((0, "num_inference_steps is 0"), (3, "takes at least 4"), (1001, "is 1001")):
        with pytest.raises(ValueError, match=message):
            scheduler.set_timesteps(steps)
    with pytest.raises(ValueError, match="steps_offset is 5"):
        PNDMScheduler(steps_offset=5).set_timesteps(1000)
    run(scheduler, 10)
    with pytest.raises(RuntimeError, match="after the last timestep"):
        scheduler.step(X_T, 0, X_T)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep is 123; the next one is"):
        scheduler.step(X_T, 123, X_T)
    scheduler.set_timesteps(10)
    scheduler.step(X_T, 900, X_T)
    with pytest.raises(ValueError, match="timestep is 500; the next one is 850"):
        scheduler.step(X_T, 500, X_T)
