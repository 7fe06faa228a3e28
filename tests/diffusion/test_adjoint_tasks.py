import pytest
import torch
from torch import nn

from paperworks.diffusion import AdjointSampler, NoiseScheduleVP, adversarial_noise, optimize_conditioning
from paperworks.testbeds.mixtures import bench_mixture_1d

VP = NoiseScheduleVP.linear()
NOISE = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


class Shifted(nn.Module):
    """The exact model of a standard normal around the condition, and a weight that scales what it answers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, cond):
        return self.weight * VP.sigma(t) * (x - VP.alpha(t) * cond)


def mixture_sampler(**options):
    return AdjointSampler(bench_mixture_1d().model(VP), VP, **{"steps": 8, "t_end": 1e-2, **options})


@pytest.mark.parametrize("direction", ["sign", "gradient"])
def test_adversarial_noise_raises_each_objective_inside_its_box(direction):
    sampler, seen = mixture_sampler(), []
    before = sampler(NOISE)[:, 0].detach()
    result = adversarial_noise(
        sampler, NOISE, lambda x_0: x_0[:, 0], steps=6, direction=direction, callback=lambda *now: seen.append(now)
    )
    assert (result.x_T - NOISE).abs().max() <= 0.1 + 1e-12
    assert (result.objective > before).all()
    assert torch.equal(result.sample[:, 0], result.objective)
    assert torch.equal(sampler(result.x_T), result.sample)
    assert len(result.history) == 7
    assert seen == list(enumerate(result.history[:6]))
    assert result.history[0] == pytest.approx(before.mean().item())


def test_sign_steps_walk_by_lr_and_stop_at_the_box():
    # The sample rises with the noise, so the sign is 1 all along.
    result = adversarial_noise(mixture_sampler(), NOISE, lambda x_0: x_0[:, 0], steps=4, lr=0.01)
    assert torch.allclose(result.x_T, NOISE + 0.04, rtol=0, atol=1e-12)
    result = adversarial_noise(mixture_sampler(), NOISE, lambda x_0: x_0[:, 0], steps=4, lr=0.01, box=0.025)
    assert torch.allclose(result.x_T, NOISE + 0.025, rtol=0, atol=1e-12)


def test_each_sample_keeps_its_best_noise():
    # A step of 1.5 over a well of width 1 goes back and forth; the best was seen on the way.
    result = adversarial_noise(
        mixture_sampler(), NOISE, lambda x_0: -(x_0[:, 0] - 0.2).square(), steps=5, lr=1.5, box=4.0
    )
    assert result.objective.mean() > max(result.history)


def test_a_condition_is_found_by_its_samples_and_the_model_gets_no_gradient():
    model = Shifted()
    sampler = AdjointSampler(model, VP, steps=4, solver="euler")
    start = torch.zeros(9, 1, dtype=torch.float64)
    target = sampler(NOISE, start + 2.0).detach()
    result = optimize_conditioning(
        sampler, NOISE, {"cond": start}, lambda x_0: (x_0 - target).square().mean(), steps=50, lr=0.2
    )
    assert set(result.cond) == {"cond"}
    assert (result.cond["cond"] - 2).abs().max() < 0.05
    assert result.loss == min(result.history) < 1e-3 * result.history[0]
    assert torch.equal(start, torch.zeros_like(start))
    assert model.weight.grad is None


def test_any_optimizer_can_be_taken():
    sampler = AdjointSampler(Shifted(), VP, steps=6)
    start = torch.zeros(9, 1, dtype=torch.float64)
    result = optimize_conditioning(
        sampler, NOISE, start, lambda x_0: x_0.mean().square(), steps=3, lr=0.5, optimizer=torch.optim.SGD
    )
    assert isinstance(result.cond, torch.Tensor)
    assert len(result.history) == 4


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_weights_are_tuned_by_a_loss_of_the_samples(adjoint):
    """As in stylisation: second moments of the samples are pulled to those of other ones."""
    model = Shifted()
    sampler = AdjointSampler(model, VP, steps=10, adjoint=adjoint)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.05)
    x_T = torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cond = torch.zeros(64, 1, dtype=torch.float64)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (sampler(x_T, cond).square().mean() - 0.5).square()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.05 * losses[0]


@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused():
    sampler = mixture_sampler()
    for options, message in (
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr is -1"),
        ({"box": 0.0}, "box is 0"),
        ({"direction": "up"}, "direction is 'up'"),
    ):
        with pytest.raises(ValueError, match=message):
            adversarial_noise(sampler, NOISE, lambda x_0: x_0[:, 0], **options)
    with pytest.raises(ValueError, match="one number per sample"):
        adversarial_noise(sampler, NOISE, torch.sum)
    conditioned = AdjointSampler(Shifted(), VP, steps=3)
    cond = torch.zeros(9, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="nothing to optimise"):
        optimize_conditioning(conditioned, NOISE, cond.long(), torch.sum)
    with pytest.raises(ValueError, match="one number"):
        optimize_conditioning(conditioned, NOISE, cond, lambda x_0: x_0)
