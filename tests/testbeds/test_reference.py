import pytest
import torch

from paperworks.diffusion.schedules import EDMSchedule, NoiseScheduleVP
from paperworks.testbeds.mixtures import bench_mixture_1d, bench_mixture_64d
from paperworks.testbeds.reference import reference_solution


@pytest.mark.parametrize(
    ("schedule", "t_end"),
    [
        (NoiseScheduleVP.linear(), 1e-3),
        (NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, 1000)), 1e-3),
        (EDMSchedule(), 0.01),
    ],
)
def test_agrees_with_the_exact_solution_at_fourth_order(schedule, t_end):
    mixture = bench_mixture_1d()
    x = schedule.sigma(schedule.t_max) * torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)[:, None]
    truth = mixture.transport(x, schedule, schedule.t_max, t_end)
    errors = [
        (reference_solution(mixture, schedule, x, schedule.t_max, t_end, n) - truth).abs().max() for n in (100, 200)
    ]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 10


def test_there_and_back_and_dtype():
    mixture, schedule = bench_mixture_64d(), NoiseScheduleVP.linear()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    there = reference_solution(mixture, schedule, x, 0.5, 0.2, 50, progress=lambda r: (seen.append(i) or i for i in r))
    assert there.dtype == torch.float32
    assert seen == list(range(50))
    assert torch.allclose(reference_solution(mixture, schedule, there, 0.2, 0.5, 50), x, atol=1e-5)


def test_bad_steps():
    with pytest.raises(ValueError, match="steps is 0"):
        reference_solution(bench_mixture_1d(), NoiseScheduleVP.linear(), torch.zeros(1, 1), 1.0, 0.5, 0)
