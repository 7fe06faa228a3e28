import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.diffusion import DPMSolver, DPMSolverScheduler, NoiseScheduleVP
from paperworks.diffusion.schedulers import Scheduler, training_betas
from paperworks.diffusion.schedules import SKIP_TYPES
from paperworks.testbeds import bench_mixture_64d

F64 = torch.float64
BETAS = torch.linspace(1e-4, 2e-2, 1000, dtype=F64)
SCHEDULE = NoiseScheduleVP.discrete(betas=BETAS)
MODEL = bench_mixture_64d().model(SCHEDULE)
START = torch.randn(6, 64, generator=torch.Generator().manual_seed(0), dtype=F64)


def run(scheduler, x, begin=0, generator=None):
    for step in scheduler.timesteps[begin:]:
        t = (float(step) + 1) / SCHEDULE.total
        x = scheduler.step(MODEL(x, t), step, x, generator=generator).prev_sample
    return x


def rms(a, b):
    return (a - b).square().mean().sqrt().item()


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("method", ["multistep", "singlestep"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("skip_type", SKIP_TYPES)
def test_steps_are_the_solvers(algorithm, method, order, skip_type):
    scheduler = DPMSolverScheduler(
        trained_betas=BETAS,
        solver_order=order,
        algorithm_type=algorithm,
        method=method,
        skip_type=skip_type,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(16)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 16
    solver = DPMSolver(MODEL, SCHEDULE, algorithm)
    expected = solver.sample(START, 16, order, skip_type, method).sample
    # The network's times are float32 in a scheduler.
    torch.testing.assert_close(run(scheduler, START), expected, rtol=0, atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["dpmsolver", "dpmsolver++"]),
    st.sampled_from(["multistep", "singlestep"]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 20),
    st.sampled_from(["epsilon", "sample", "v_prediction"]),
)
def test_the_last_step_to_zero_noise_is_finite_and_lands_on_the_data(algorithm, method, order, steps, kind):
    scheduler = DPMSolverScheduler(
        trained_betas=BETAS, solver_order=order, algorithm_type=algorithm, method=method, prediction_type=kind
    )
    scheduler.set_timesteps(steps)
    model = bench_mixture_64d().model(SCHEDULE, {"epsilon": "noise", "sample": "x_start", "v_prediction": "v"}[kind])
    x = before = START
    for step in scheduler.timesteps:
        before, x = x, scheduler.step(model(x, (float(step) + 1) / 1000), step, x).prev_sample
    assert torch.isfinite(x).all()
    if scheduler._plan[-2 if steps > 1 else -1].advances:
        t = (float(scheduler.timesteps[-1]) + 1) / 1000
        torch.testing.assert_close(x, bench_mixture_64d().model(SCHEDULE, "x_start")(before, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_multistep_agrees_with_diffusers(algorithm, order, solver_type):
    diffusers = pytest.importorskip("diffusers")
    steps = [999, 900, 750, 600, 500, 410, 300, 222, 150, 99, 60, 33, 10]
    settings = {
        "solver_order": order,
        "algorithm_type": algorithm,
        "solver_type": solver_type,
        "final_sigmas_type": "sigma_min",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = diffusers.DPMSolverMultistepScheduler(trained_betas=BETAS.numpy(), **settings)
    theirs.set_timesteps(timesteps=steps)
    # Theirs rounds its noise levels to float32; the exact ones leave only the arithmetic of the steps to differ.
    t = (torch.tensor([*steps, 0], dtype=F64) + 1) / 1000
    theirs.sigmas = SCHEDULE.sigma(t) / SCHEDULE.alpha(t)
    ours = DPMSolverScheduler(trained_betas=BETAS, legacy_3m=True, **settings)
    ours.set_timesteps(timesteps=steps)
    x = START.float()
    torch.testing.assert_close(run(ours, x), run(theirs, x), rtol=0, atol=1e-5)


def test_third_order_update_agrees_with_diffusers_in_double_precision():
    diffusers = pytest.importorskip("diffusers")
    from paperworks.diffusion.dpm_solver.exponential import Form
    from paperworks.diffusion.dpm_solver.plans import multistep_plan

    times = (0.9, 0.7, 0.4, 0.3)
    theirs = diffusers.DPMSolverMultistepScheduler(trained_betas=BETAS.numpy(), solver_order=3)
    t = torch.tensor(times, dtype=F64)
    theirs.sigmas, theirs._step_index = SCHEDULE.sigma(t) / SCHEDULE.alpha(t), 2
    values = list(torch.randn(3, 6, 64, generator=torch.Generator().manual_seed(1), dtype=F64))
    expected = theirs.multistep_dpm_solver_third_order_update(values, sample=START)
    stage = multistep_plan(SCHEDULE, Form(data=True, sde=False), times, (1, 2, 3), "dpmsolver", True)[-1]
    c = stage.coefficients
    ours = c[0] * START + c[1] * values[2] + c[2] * values[1] + c[3] * values[0]
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    full = multistep_plan(SCHEDULE, Form(data=True, sde=False), times, (1, 2, 3), "dpmsolver", False)[-1]
    assert abs(full.coefficients[3] - c[3]) > 1e-3


def test_a_diffusers_pipeline_takes_it():
    diffusers = pytest.importorskip("diffusers")
    unet = tiny_network(diffusers)
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(beta_schedule="scaled_linear"))
    pipeline.scheduler = DPMSolverScheduler.from_config(pipeline.scheduler.config, solver_order=3)
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    unet.register_forward_hook(lambda module, inputs, output: calls.append(float(inputs[1])))
    images = pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=7, output_type="pt").images
    assert images.shape == (2, 3, 8, 8)
    assert calls == pipeline.scheduler.timesteps.tolist()
    again = pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=7, output_type="pt").images
    assert torch.equal(images, again)
    # The same from the same start by the solver itself.
    schedule = pipeline.scheduler.schedule
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = lambda x, t: unet(x, torch.tensor(schedule.input_time(t), dtype=torch.float32)).sample  # noqa: E731
    with torch.no_grad():
        pipeline.scheduler.set_timesteps(7)
        for step in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(model(x, (float(step) + 1) / 1000), step, x).prev_sample
    torch.testing.assert_close((x / 2 + 0.5).clamp(0, 1), images, rtol=0, atol=1e-5)


def test_an_image_to_image_pipeline_takes_it():
    diffusers = pytest.importorskip("diffusers")

    class ImageToImage(diffusers.DiffusionPipeline):
        def __init__(self, unet, scheduler):
            super().__init__()
            self.register_modules(unet=unet, scheduler=scheduler)

        @torch.no_grad()
        def __call__(self, image, strength, steps, generator):
            self.scheduler.set_timesteps(steps, device="cpu")
            begin = (steps - int(steps * strength)) * self.scheduler.order
            self.scheduler.set_begin_index(begin)
            timesteps = self.scheduler.timesteps[begin:]
            noise = torch.randn(image.shape, generator=generator)
            x = self.scheduler.add_noise(image, noise, timesteps[:1].repeat(len(image)))
            for step in self.progress_bar(timesteps):
                output = self.unet(self.scheduler.scale_model_input(x, step), step).sample
                (x,) = self.scheduler.step(output, step, x, return_dict=False)
            return x

    pipeline = ImageToImage(tiny_network(diffusers), DPMSolverScheduler())
    pipeline.set_progress_bar_config(disable=True)
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    slightly = pipeline(image, 0.1, 20, torch.Generator().manual_seed(2))
    strongly = pipeline(image, 0.9, 20, torch.Generator().manual_seed(2))
    assert pipeline.scheduler.step_index == 20
    assert rms(slightly, image) < 0.5 * rms(strongly, image)
    assert torch.isfinite(strongly).all()


def tiny_network(diffusers):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


@pytest.mark.parametrize("method", ["multistep", "singlestep"])
@pytest.mark.parametrize("announced", [True, False])
def test_starting_late_solves_the_rest(method, announced):
    mixture = bench_mixture_64d()
    data = mixture.sample(6, torch.Generator().manual_seed(3))
    scheduler = DPMSolverScheduler(
        trained_betas=BETAS, solver_order=3, method=method, skip_type="logSNR", final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(60)
    begin = 25  # in the midst of a step of the singlestep solver
    if announced:
        scheduler.set_begin_index(begin)
    start = scheduler.timesteps[begin]
    x = scheduler.add_noise(data, START, start)
    t = (float(start) + 1) / 1000
    exact = DPMSolver(MODEL, SCHEDULE).sample(x, 300, 3, "logSNR", "singlestep", t).sample
    assert rms(run(scheduler, x, begin), exact) < 5e-3


def test_noise_of_the_sde_comes_from_the_generator():
    scheduler = DPMSolverScheduler(trained_betas=BETAS, algorithm_type="sde-dpmsolver++", final_sigmas_type="sigma_min")
    samples = []
    for seed in (0, 0, 1):
        scheduler.set_timesteps(8)
        samples.append(run(scheduler, START, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    solver = DPMSolver(MODEL, SCHEDULE, "sde-dpmsolver++")
    expected = solver.sample(START, 8, generator=torch.Generator().manual_seed(0)).sample
    torch.testing.assert_close(samples[0], expected, rtol=0, atol=2e-4)
    # One for each sample gives each the noise of its own, and none is torch's.
    scheduler.set_timesteps(8)
    together = run(scheduler, START[:2], generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)])
    scheduler.set_timesteps(8)
    alone = run(scheduler, START[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(together[1:], alone)
    scheduler.set_timesteps(8)
    torch.manual_seed(0)
    assert torch.equal(run(scheduler, START), samples[0])
    scheduler.set_timesteps(8)
    with pytest.raises(ValueError, match="generator has 2 entries; it takes one for each of 6 samples"):
        run(scheduler, START, generator=[torch.Generator(), torch.Generator()])


def test_state_is_not_changed_and_a_new_run_starts_anew():
    scheduler = DPMSolverScheduler(trained_betas=BETAS, solver_order=3)
    before = START.clone()
    scheduler.set_timesteps(6)
    first = run(scheduler, START)
    assert torch.equal(START, before)
    scheduler.set_timesteps(6)
    run(scheduler, START, begin=3)  # left after half of it
    scheduler.set_timesteps(6)
    assert torch.equal(run(scheduler, START), first)


def test_thresholding_bounds_the_result():
    x = 5 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for thresholding, within in ((True, True), (False, False)):
        scheduler = DPMSolverScheduler(thresholding=thresholding)
        scheduler.set_timesteps(5)
        y = x
        for step in scheduler.timesteps:
            y = scheduler.step(-y, step, y).prev_sample
        assert bool((y.abs() <= 1.0001).all()) == within


def test_configuration_is_carried_over():
    config = {
        "num_train_timesteps": 500,
        "use_karras_sigmas": True,
        "prediction_type": "v_prediction",
        "solver_type": "bh2",
        "clip_sample": False,
    }
    scheduler = DPMSolverScheduler.from_config(config, solver_order=3)
    assert scheduler.config["use_karras_sigmas"] is True
    assert scheduler.config.num_train_timesteps == len(scheduler) == 500
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.solver_type == "midpoint"
    assert scheduler.config.solver_order == 3
    assert scheduler.config.clip_sample is False  # carried along
    assert DPMSolverScheduler.from_config(scheduler.config).config == scheduler.config


def test_training_noise():
    assert training_betas(1000, 1e-4, 0.02, "linear")[[0, -1]] == pytest.approx([1e-4, 0.02])
    scaled = training_betas(1000, 8.5e-4, 0.012, "scaled_linear")
    assert scaled[500] == pytest.approx((math.sqrt(8.5e-4) + 500 / 999 * (math.sqrt(0.012) - math.sqrt(8.5e-4))) ** 2)
    cosine = training_betas(1000, 1e-4, 0.02, "squaredcos_cap_v2")
    assert cosine.max() == 0.999
    signal = [math.cos((n / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for n in (0, 400)]
    assert (1 - cosine[:400]).prod() == pytest.approx(signal[1] / signal[0])
    scheduler = DPMSolverScheduler()
    products = torch.cumprod(1 - torch.from_numpy(training_betas(1000, 1e-4, 0.02, "linear")), 0)
    torch.testing.assert_close(scheduler.alphas_cumprod, products.float())
    x, z = torch.ones(2, 3), torch.full((2, 3), 2.0)
    noised = scheduler.add_noise(x, z, torch.tensor([0, 999]))
    expected = products[[0, 999], None].sqrt() * x + (1 - products[[0, 999], None]).sqrt() * z
    torch.testing.assert_close(noised.double(), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(scheduler, Scheduler)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"solver_order": 4}, "solver_order"),
        ({"algorithm_type": "dpm"}, "algorithm_type"),
        ({"solver_type": "bh1"}, "solver_type"),
        ({"method": "adaptive"}, "method"),
        ({"skip_type": "x"}, "skip_type"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type"),
        ({"prediction_type": "noise"}, "prediction_type"),
        ({"beta_schedule": "x"}, "beta_schedule"),
        ({"beta_start": 0.0}, "beta_start"),
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
        ({"trained_betas": [0.1, 2.0]}, "betas"),
        ({"dynamic_thresholding_ratio": 0.0}, "ratio"),
        ({"thresholding": True, "algorithm_type": "dpmsolver"}, "thresholding"),
        ({"method": "singlestep", "algorithm_type": "sde-dpmsolver++"}, "multistep"),
        ({"sample_max_value": 0.5}, "sample_max_value"),
        ({"timestep_spacing": "x"}, "timestep_spacing"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"flow_shift": 0.0}, "flow_shift"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "one at most"),
        ({"prediction_type": "flow_prediction"}, "use_flow_sigmas"),
        ({"use_flow_sigmas": True}, "flow_prediction"),
    ],
)
def test_bad_settings(settings, says, untyped):
    with pytest.raises(ValueError, match=says):
        DPMSolverScheduler(**settings)


def test_bad_use(untyped):
    scheduler = DPMSolverScheduler()
    x = torch.zeros(1, 3)
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(x, 999, x)
    with pytest.raises(TypeError, match="one of"):
        scheduler.set_timesteps()
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match="fall strictly"):
        scheduler.set_timesteps(timesteps=[1, 2])
    with pytest.raises(ValueError, match="999"):
        scheduler.set_timesteps(timesteps=[1000, 2])
    with pytest.raises(ValueError, match="nothing to do"):
        DPMSolverScheduler(final_sigmas_type="sigma_min").set_timesteps(timesteps=[10, 0])
    scheduler.set_timesteps(timesteps=[10, 0])
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(torch.zeros(1, 2), 10, x)
    for step in (10, 0):
        scheduler.step(x, step, x)
    with pytest.raises(RuntimeError, match="after the last of 2"):
        scheduler.step(x, 0, x)
    scheduler.set_timesteps(2)
    scheduler.set_begin_index(2)
    with pytest.raises(ValueError, match="begin_index"):
        scheduler.step(x, 10, x)
    with pytest.raises(ValueError, match="timesteps"):
        scheduler.add_noise(x, x, torch.tensor([1000]))
