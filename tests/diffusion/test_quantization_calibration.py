"""Calibration sets hold the inputs that the network has while a sampler runs it."""

import pytest
import torch
from torch import nn

from paperworks.diffusion import (
    NDTC,
    BDIASampler,
    CalibrationSet,
    DPMSolver,
    FixedTime,
    NoiseScheduleVP,
    UniformTimes,
    collect_calibration,
    wrap_model,
)

SCHEDULE = NoiseScheduleVP.linear()
STEPS = 12


class Network(nn.Module):
    """Answers by state, time and condition, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor(0.3))
        self.calls = []

    def forward(self, x, t, label=None):
        self.calls.append((x.clone(), t.clone()))
        shift = 0 if label is None else label[:, None]
        return torch.tanh(self.weight * x + t[:, None] + shift)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_state_is_what_the_network_sees_at_its_own_time():
    network = Network()
    found = collect_calibration(network, SCHEDULE, (3,), 40, steps=STEPS, generator=rng())
    # The same noise again, by hand.
    generator = rng()
    ranks = NDTC().draw(40, STEPS, generator)
    noise = torch.randn(40, 3, generator=generator)
    network.calls.clear()
    BDIASampler(wrap_model(network, SCHEDULE), SCHEDULE, gamma=0.0).sample(noise, STEPS)
    states = torch.stack([x for x, _ in network.calls])
    times = torch.stack([t[0] for _, t in network.calls])
    calls = STEPS - 1 - ranks  # from the noisy end
    assert torch.allclose(found.x, states[calls, torch.arange(40)], atol=1e-6)
    assert torch.allclose(found.t, times[calls], atol=1e-6)


def test_batches_of_trajectories_give_as_many_pairs():
    found = collect_calibration(Network(), SCHEDULE, (3,), 25, steps=STEPS, batch_size=10, generator=rng())
    assert len(found) == 25
    assert [len(args[0]) for args, _ in found.batches(10)] == [10, 10, 5]


def test_the_released_pairing_mistakes_the_end():
    options = {"shape": (3,), "n": 64, "steps": STEPS, "times": FixedTime(0.0)}
    ours = collect_calibration(Network(), SCHEDULE, generator=rng(), **options)
    theirs = collect_calibration(Network(), SCHEDULE, generator=rng(), legacy_pairing=True, **options)
    assert torch.equal(ours.t, theirs.t)
    # Drawn for the cleanest time, but kept after the first step from the noise.
    assert not torch.allclose(ours.x, theirs.x)
    last = collect_calibration(
        Network(), SCHEDULE, (3,), 64, steps=STEPS, times=FixedTime(1.0), legacy_pairing=True, generator=rng()
    )
    generator = rng()
    FixedTime(1.0).draw(64, STEPS, generator)
    noise = torch.randn(64, 3, generator=generator)
    end = BDIASampler(wrap_model(Network(), SCHEDULE), SCHEDULE, gamma=0.0).sample(noise, STEPS).sample
    assert torch.allclose(last.x, end, atol=1e-6)  # finished samples, called noise
    assert last.t.min() > 0.9


def test_each_mode_has_the_moments_it_should():
    images = torch.tensor([[2.0, -2.0], [2.2, -2.2]])
    options = {"shape": (2,), "n": 4000, "steps": 10, "times": FixedTime(0.5)}
    noise = collect_calibration(Network(), SCHEDULE, mode="noise", generator=rng(), **options)
    assert noise.x.std().item() == pytest.approx(1, abs=0.03)
    raw = collect_calibration(Network(), SCHEDULE, mode="raw", images=images, generator=rng(), **options)
    assert set(raw.x.flatten().tolist()) == set(images.flatten().tolist())
    forward = collect_calibration(Network(), SCHEDULE, mode="raw_forward", images=images, generator=rng(), **options)
    t = float(forward.t[0])
    residual = forward.x - SCHEDULE.alpha(t) * torch.tensor([2.1, -2.1])
    assert residual.mean().item() == pytest.approx(0, abs=0.03)
    spread = (SCHEDULE.sigma(t) ** 2 + (0.1 * SCHEDULE.alpha(t)) ** 2) ** 0.5
    assert residual.std().item() == pytest.approx(spread, abs=0.02)


def test_it_keeps_the_conditions_of_the_model():
    network, labels = Network(), torch.arange(8.0)
    model_fn = wrap_model(network, SCHEDULE, condition=labels)
    found = collect_calibration(network, SCHEDULE, (3,), 8, steps=STEPS, model_fn=model_fn, generator=rng())
    assert torch.equal(found.conditions[0], labels)


def test_any_sampler_with_a_grid_of_its_own_will_do():
    def sampler(model_fn, x):
        return DPMSolver(model_fn, SCHEDULE).sample(x, 9, 3)

    found = collect_calibration(Network(), SCHEDULE, (3,), 200, sampler=sampler, times=UniformTimes(), generator=rng())
    assert len(found.t.unique()) == 9


def test_a_scheduler_of_diffusers_is_stepped():
    from diffusers import DDIMScheduler

    network = Network()
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    found = collect_calibration(network, scheduler, (3,), 200, steps=10, times=UniformTimes(), generator=rng())
    assert set(found.t.tolist()) == set(range(0, 100, 10))
    forward = collect_calibration(
        network, scheduler, (3,), 30, steps=10, mode="raw_forward", images=torch.ones(4, 3), generator=rng()
    )
    assert forward.t.dtype == torch.int64
    assert torch.isfinite(forward.x).all()


def test_the_network_is_left_as_it_was():
    network = Network()
    collect_calibration(network, SCHEDULE, (3,), 5, steps=STEPS, generator=rng())
    assert not network._forward_pre_hooks


class TestBadInput:
    def collect(self, **changes):
        options = {"network": Network(), "schedule": SCHEDULE, "shape": (3,), "n": 8, "steps": STEPS}
        return collect_calibration(**{**options, "generator": rng(), **changes})

    def test_arguments(self, untyped):
        with pytest.raises(ValueError, match="mode is 'forward'"):
            self.collect(mode="forward")
        with pytest.raises(ValueError, match="n is 0"):
            self.collect(n=0)
        with pytest.raises(ValueError, match="images is None"):
            self.collect(mode="raw")
        with pytest.raises(ValueError, match=r"images is \(4, 2\)"):
            self.collect(mode="raw_forward", images=torch.zeros(4, 2))
        with pytest.raises(TypeError, match="schedule is a float"):
            self.collect(schedule=0.5)
        with pytest.raises(ValueError, match="does not call network"):
            self.collect(model_fn=lambda x, t: x)
        with pytest.raises(ValueError, match="made no call"):
            self.collect(sampler=lambda model_fn, x: x)

    def test_times_off_the_grid(self):
        class Beyond:
            def draw(self, n, total, generator):
                return torch.full((n,), total)

        with pytest.raises(ValueError, match="times drew ranks 12 to 12; the grid has 12 times"):
            self.collect(times=Beyond())

    def test_a_sampler_that_chooses_its_times(self):
        def sampler(model_fn, x):
            return model_fn(x, 0.5 if x.any() else 0.7)

        with pytest.raises(ValueError, match="chooses its times"):
            self.collect(sampler=sampler)

    def test_sets(self):
        with pytest.raises(ValueError, match="x is empty"):
            CalibrationSet(torch.empty(0, 2), torch.empty(0))
        with pytest.raises(ValueError, match="x has 2 NaN"):
            CalibrationSet(torch.full((1, 2), torch.nan), torch.zeros(1))
        with pytest.raises(ValueError, match="t has 3 rows and x 2"):
            CalibrationSet(torch.zeros(2, 2), torch.zeros(3))
        with pytest.raises(ValueError, match="label has 3 rows"):
            CalibrationSet(torch.zeros(2, 2), torch.zeros(2), named={"label": torch.zeros(3)})
