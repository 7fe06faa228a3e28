import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.diffusion import (
    BDIADDIMInverseScheduler,
    BDIADDIMScheduler,
    BDIASampler,
    EDICTSampler,
    EDMSchedule,
    NoiseScheduleVP,
    ddim_invert,
    roundtrip_error_bound,
)
from paperworks.testbeds.mixtures import bench_mixture_1d

VP = NoiseScheduleVP.linear()
EDM = EDMSchedule()
MIXTURE = bench_mixture_1d()
NOISE = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
T_END = 0.02


def counted(model_fn):
    def count(x, t):
        count.calls += 1
        return model_fn(x, t)

    count.calls = 0
    return count


def worst(a, b):
    return (a - b).abs().max().item()


def error(steps, gamma=1.0, base="ddim"):
    sampler = BDIASampler(MIXTURE.model(VP), VP, gamma, base)
    return worst(sampler.sample(NOISE, steps, t_end=T_END).sample, MIXTURE.transport(NOISE, VP, 1.0, T_END))


@pytest.mark.parametrize(
    ("dtype", "gamma", "steps", "bar"),
    [
        (torch.float64, 1.0, 10, 1e-12),
        (torch.float64, 1.0, 200, 1e-12),
        (torch.float32, 1.0, 200, 1e-5),
        (torch.float64, 0.9, 20, 1e-13),
        (torch.float64, 0.5, 20, 1e-9),
    ],
)
def test_the_round_trip_from_the_pair_is_exact(dtype, gamma, steps, bar):
    sampler = BDIASampler(MIXTURE.model(VP), VP, gamma)
    noise = NOISE.to(dtype)
    there = sampler.sample(noise, steps, t_end=T_END)
    back = sampler.invert(*there.pair, steps, t_end=T_END)
    assert worst(back.sample, noise) <= bar
    assert worst(sampler.resume(back.pair, steps, t_end=T_END).sample, there.sample) <= bar


@settings(max_examples=25, deadline=None)
@given(st.floats(0.8, 1.0), st.integers(2, 25), st.integers(0, 2**31))
def test_any_model_on_any_grid_can_be_undone(gamma, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    times = sorted((0.05 + 0.95 * torch.rand(steps + 1, generator=generator, dtype=torch.float64)).tolist())[::-1]
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    sampler = BDIASampler(lambda x, t: torch.tanh(x @ weights), VP, gamma)
    there = sampler.sample(noise, timesteps=times)
    back = sampler.invert(*there.pair, timesteps=times)
    scale = 1 + max(there.sample.abs().max().item(), noise.abs().max().item())
    assert worst(back.sample, noise) <= 1e4 * scale * roundtrip_error_bound(gamma, steps, torch.float64)


def test_a_real_sample_without_a_pair_comes_back():
    sampler = BDIASampler(MIXTURE.model(VP), VP)
    data = MIXTURE.sample(16, torch.Generator().manual_seed(0))
    there = sampler.invert(data, steps=30)
    assert worst(sampler.resume(there.pair, steps=30).sample, data) <= 1e-12


def test_heun_both_ways_can_be_undone_also_from_time_zero():
    sampler = BDIASampler(MIXTURE.model(EDM), EDM, base="edm", backward="heun")
    there = sampler.sample(80 * NOISE, 18, skip_type="karras")
    assert there.times[-1] == 0
    assert worst(sampler.invert(*there.pair, 18, skip_type="karras").sample, 80 * NOISE) <= 1e-11


@pytest.mark.parametrize(("base", "schedule"), [("ddim", VP), ("edm", EDM), ("dpmpp2m", VP)])
def test_gamma_0_is_the_base_sampler_and_the_general_rule_its_sum(base, schedule):
    # The rule z_{i-1} = z_i + D_f + gamma [(z_{i+1} - z_i) - D_b] is linear in gamma at the second step.
    noise = NOISE * schedule.sigma(schedule.t_max)
    second = [
        BDIASampler(MIXTURE.model(schedule), schedule, g, base).sample(noise, timesteps=[1.0, 0.7, 0.5]).sample
        for g in (0.0, 0.5, 1.0)
    ]
    assert worst(second[1], (second[0] + second[2]) / 2) <= 1e-13
    assert worst(second[0], second[2]) > 1e-4


def test_gamma_0_is_of_first_order():
    assert error(200, 0.0) / error(400, 0.0) == pytest.approx(2, rel=0.05)  # first order


@pytest.mark.parametrize(("gamma", "tolerance"), [(0.25, 0.08), (0.5, 0.08), (0.75, 0.08), (0.9, 0.08)])
def test_the_error_is_the_share_of_ddims_that_theory_gives(gamma, tolerance):
    assert error(800, gamma) / error(800, 0.0) == pytest.approx((1 - gamma) / (1 + gamma), rel=tolerance)


@pytest.mark.parametrize("base", ["ddim", "dpmpp2m"])
def test_gamma_1_is_of_second_order(base):
    order = math.log2(error(400, base=base) / error(800, base=base))
    assert order == pytest.approx(2, abs=0.15)


def test_calls_of_the_model():
    model_fn = counted(MIXTURE.model(VP))
    sampler = BDIASampler(model_fn, VP)
    there = sampler.sample(NOISE, 20)
    assert there.nfe == model_fn.calls == 20
    back = sampler.invert(*there.pair, 20)
    assert back.nfe == 19
    assert model_fn.calls == 39
    model_fn = counted(MIXTURE.model(VP))
    assert EDICTSampler(model_fn, VP).sample(NOISE, 20).nfe == model_fn.calls == 40
    model_fn = counted(MIXTURE.model(EDM))
    assert BDIASampler(model_fn, EDM, base="edm").sample(NOISE, 18, skip_type="karras").nfe == model_fn.calls == 35


def test_edict_comes_back_from_its_pair():
    sampler = EDICTSampler(MIXTURE.model(VP), VP)
    there = sampler.sample(NOISE, 50, t_end=T_END)
    back = sampler.invert(there.trajectory[-2:], 50, t_end=T_END)
    assert worst(back.sample, NOISE) <= 1e-9
    again = sampler.sample(back.trajectory[-2:], 50, t_end=T_END)
    assert worst(again.sample, there.sample) <= 1e-7


def test_ddim_inversion_is_of_first_order():
    def drift(steps):
        there = BDIASampler(MIXTURE.model(VP), VP, 0.0).sample(NOISE, steps, t_end=T_END).sample
        return worst(ddim_invert(MIXTURE.model(VP), VP, there, steps, t_end=T_END).sample, NOISE)

    assert drift(400) / drift(800) == pytest.approx(2, rel=0.2)


def test_an_edit_to_the_same_model_returns_the_data_and_to_another_changes_it():
    sampler = BDIASampler(MIXTURE.model(VP), VP)
    data = MIXTURE.sample(16, torch.Generator().manual_seed(0))
    for strength in (0.3, 1.0):
        same = sampler.edit(data, sampler.model_fn, 40, strength=strength)
        assert worst(same.sample, data) <= 1e-12
    shifted = bench_mixture_1d()
    shifted.means.add_(3)
    moved = sampler.edit(data, shifted.model(VP), 40).sample - data
    assert moved.mean().item() == pytest.approx(3, abs=0.2)


def test_trajectory_and_callback_see_every_step():
    seen = []
    sampler = BDIASampler(MIXTURE.model(VP), VP)
    result = sampler.sample(NOISE, 5, return_trajectory=True, callback=seen.append)
    assert len(result.trajectory) == len(result.times) == 6
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(result.trajectory[-1], result.sample)
    assert torch.equal(result.trajectory[-2], result.pair[1])
    back = sampler.invert(*result.pair, 5, return_trajectory=True)
    assert worst(torch.stack(back.trajectory[::-1]), torch.stack(list(result.trajectory))) <= 1e-12


def drive(scheduler, model_fn, x, begin=0):
    if begin:
        scheduler.set_begin_index(begin)
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(model_fn(x, (t.item() + 1) / 1000), t, x).prev_sample
    return x


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_schedulers_are_the_sampler_in_both_directions(gamma):
    scheduler, inverse = BDIADDIMScheduler(gamma=gamma), BDIADDIMInverseScheduler(gamma=gamma)
    model_fn = MIXTURE.model(scheduler.schedule)
    sampler = BDIASampler(model_fn, scheduler.schedule, gamma)
    scheduler.set_timesteps(20)
    inverse.set_timesteps(20)
    z0 = drive(scheduler, model_fn, NOISE)
    assert worst(z0, sampler.sample(NOISE, 20).sample) <= 1e-5  # timesteps are float32
    z1 = scheduler.previous_sample
    inverse.previous_sample = z0
    noise = drive(inverse, model_fn, z1, begin=1)
    assert worst(noise, NOISE) <= 1e-9
    older = inverse.previous_sample
    scheduler.set_timesteps(20)
    scheduler.previous_sample = noise
    assert worst(drive(scheduler, model_fn, older, begin=1), z0) <= 1e-9


def test_a_scheduler_runs_in_a_pipeline():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    pipeline = diffusers.DDPMPipeline(unet=network, scheduler=BDIADDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, num_inference_steps=5, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    assert images.shape == (2, 8, 8, 1)


def test_a_scheduler_tells_when_it_is_misused():
    scheduler = BDIADDIMScheduler()
    with pytest.raises(RuntimeError, match="before set_timesteps"):
        scheduler.step(NOISE, 999, NOISE)
    scheduler.set_timesteps(2)
    for t in scheduler.timesteps:
        scheduler.step(NOISE, t, NOISE)
    with pytest.raises(RuntimeError, match="after the last of 2 steps"):
        scheduler.step(NOISE, 0, NOISE)
    with pytest.raises(ValueError, match="gamma is 0"):
        BDIADDIMInverseScheduler(gamma=0)


def test_amplification_is_foretold():
    sampler = BDIASampler(MIXTURE.model(VP), VP, 0.5)
    with pytest.warns(RuntimeWarning, match=r"gamma 0\.5 over 50 steps"):
        sampler.invert(NOISE, steps=50)
    assert roundtrip_error_bound(0.5, 2000, torch.float64) == math.inf


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BDIASampler(MIXTURE.model(VP), VP, 1.5), "gamma is 1.5"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP, math.nan), "gamma is nan"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP, base="euler"), "base is 'euler'"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP, base="edm"), "schedule scales the data"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).sample(NOISE, 1), "steps is 1"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).sample(NOISE), "steps and timesteps"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).sample(NOISE, timesteps=[0.1, 0.5, 0.2]), "fall strictly"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).sample(NOISE, timesteps=[0.9, 0.5, 0.0]), "positive times"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).sample(NOISE, 5, t_start=0.1, t_end=0.9), "falling times"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).sample(NOISE * math.nan, 5), "x has 41 NaN"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP, 0.0).invert(NOISE, steps=5), "gamma is 0"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP, base="dpmpp2m").invert(NOISE, steps=5), "can't be undone"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).invert(NOISE, NOISE[:2], 5), "two alike states"),
        (lambda: BDIASampler(MIXTURE.model(VP), VP).edit(NOISE, MIXTURE.model(VP), 5, strength=0), "strength is 0"),
        (lambda: EDICTSampler(MIXTURE.model(VP), VP, mixing=0.5), "mixing is 0.5"),
        (lambda: roundtrip_error_bound(0, 5), "gamma is 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
