import os
import subprocess
import sys

import pytest
import torch

from paperworks.diffusion.schedules import EDMSchedule, NoiseScheduleVP
from paperworks.testbeds import denoisers
from paperworks.testbeds.data import DatasetMissing, digits
from paperworks.testbeds.denoisers import Denoiser, trained_denoiser, unit_levels
from paperworks.testbeds.networks import UNet


class Wiener(torch.nn.Module):
    """The velocity of images that are normal with mean 0.5 and deviation 0.7, in place of a U-Net."""

    classes = 0

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(1, 1)

    def forward(self, x, lam, condition=None):
        alpha, sigma = unit_levels(lam)
        x0 = 0.5 + alpha * 0.49 / (alpha**2 * 0.49 + sigma**2) * (x - 0.5 * alpha)
        return alpha * (x - alpha * x0) / sigma - sigma * x0


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseScheduleVP.linear(),
        NoiseScheduleVP.cosine(),
        NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, 1000)),
        EDMSchedule(),
    ],
)
def test_one_denoiser_serves_every_schedule(schedule):
    denoiser = object.__new__(Denoiser)
    torch.nn.Module.__init__(denoiser)
    denoiser.network, denoiser.shape = Wiener(), (1, 4, 4)
    model_fn = denoiser.model(schedule)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    for t in (schedule.t_max, 0.3 * schedule.t_max, 0.01 * schedule.t_max):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        expected = sigma * (x - 0.5 * alpha) / (alpha**2 * 0.49 + sigma**2)
        found = model_fn(x, t)
        assert found.dtype == torch.float64
        assert torch.allclose(found, expected, atol=2e-4)
    assert model_fn.nfe == 3


def test_smoke_training_is_cached_and_repeatable(tmp_path):
    first = trained_denoiser("digits", size="smoke", root=tmp_path / "a")
    calls = []
    count = lambda items, label="": (calls.append(i) or i for i in items)  # noqa: E731
    again = trained_denoiser("digits", size="smoke", root=tmp_path / "a", progress=count)
    assert calls == []
    fresh = trained_denoiser("digits", size="smoke", root=tmp_path / "b", progress=count)
    assert calls
    other = trained_denoiser("digits", size="smoke", root=tmp_path / "b", random_state=1)
    x, lam = digits()[:4], torch.zeros(4)
    assert torch.equal(first(x, lam), again(x, lam))
    assert torch.equal(first(x, lam), fresh(x, lam))
    assert not torch.equal(first(x, lam), other(x, lam))


def test_training_lowers_the_loss(monkeypatch, tmp_path):
    settings = denoisers.Settings((16, 32), patch=1, steps=60, batch_size=64)
    monkeypatch.setitem(denoisers.SETTINGS, ("digits", "smoke"), settings)
    denoiser = trained_denoiser("digits", size="smoke", root=tmp_path)
    images = digits()[:500]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    lam = torch.zeros(500)
    alpha, sigma = unit_levels(lam)
    error = (denoiser(alpha * images + sigma * noise, lam) - noise).square().mean()
    linear = 0.5 * 0.6 / (0.5 * 0.6 + 0.5)  # of the best answer that doesn't look at neighbours
    assert error < 0.75 * linear


def test_conditional_and_guided(tmp_path):
    denoiser = trained_denoiser("digits", conditional=True, size="smoke", root=tmp_path)
    with torch.no_grad():  # ten steps teach it nothing; let the class matter
        denoiser.network.embed_class.weight.mul_(20)
        torch.nn.init.normal_(denoiser.network.last.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    schedule = NoiseScheduleVP.linear()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2])
    plain, conditional = denoiser.model(schedule), denoiser.model(schedule, labels)
    assert not torch.allclose(plain(x, 0.5), conditional(x, 0.5))
    embedded = denoiser.network.embed_class(labels)
    for condition in (labels, embedded):
        guided = denoiser.model(schedule, condition, scale=3.0)
        expected = plain(x, 0.5) + 3 * (conditional(x, 0.5) - plain(x, 0.5))
        assert torch.allclose(guided(x, 0.5), expected, atol=1e-4)


CLAIM = """
import os, pathlib, sys, time, torch
from paperworks.testbeds import trained_denoiser
torch.set_num_threads(1)
root, trainings = pathlib.Path(sys.argv[1]), []
(root / f"ready-{os.getpid()}").touch()
end = time.monotonic() + 60
while len(list(root.glob("ready-*"))) < 2 and time.monotonic() < end:
    time.sleep(0.01)
count = lambda items, label="": (trainings.append(i) or i for i in items)
trained_denoiser("digits", size="smoke", root=root / "cache", progress=count)
print(len(trainings))
"""


def test_of_two_processes_one_trains(tmp_path):
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        counts = sorted(int(worker.communicate(timeout=120)[0]) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)
    assert counts == [0, denoisers.SETTINGS["digits", "smoke"].steps]


def test_broken_off_training_leaves_nothing(tmp_path):
    def stop(items, label=""):
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained_denoiser("digits", size="smoke", root=tmp_path, progress=stop)
    assert not [p for p in os.listdir(tmp_path) if not p.endswith(".lock")]


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained_denoiser("digits", size="smoke", root=tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="dataset is 'cifar'"):
        denoisers.check_choice("dataset", "cifar", ("fashion-mnist", "digits"))
    with pytest.raises(ValueError, match="made without classes"):
        Denoiser(UNet((8, 16)), (1, 28, 28)).model(NoiseScheduleVP.linear(), torch.tensor([1]))(
            torch.zeros(1, 1, 28, 28), 0.5
        )
    assert issubclass(DatasetMissing, RuntimeError)
