"""The problems that the claims on stochastic interpolants are measured on, and the networks that learn them."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.diffusion import Fields, GaussianMixtureInterpolant, Interpolant, log_likelihood
from paperworks.evidence import Run
from paperworks.numerics import Sums, fixed_plan, follow, train, warmup_cosine
from paperworks.testbeds import digits

D = torch.float64


def on_a_line(means: list[float], variances: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights, means and covariances of an even mixture in one dimension."""
    n = len(means)
    return (
        torch.full((n,), 1 / n, dtype=D),
        torch.tensor(means, dtype=D)[:, None],
        torch.tensor(variances, dtype=D)[:, None, None],
    )


def two_to_three_modes(interpolant: Interpolant) -> GaussianMixtureInterpolant:
    """Return the exact interpolant from two modes to three, or to the three from what its path starts from."""
    target = on_a_line([-6.0, 0.0, 6.0], [0.5, 0.33, 0.5])
    if interpolant.one_sided or interpolant.mirror:
        return GaussianMixtureInterpolant(interpolant, *target)
    return GaussianMixtureInterpolant(interpolant, *target, *on_a_line([-3.0, 3.0], [0.25, 0.25]))


def quantiles(exact: GaussianMixtureInterpolant, n: int) -> Tensor:
    """Return the n mid-point quantiles of a one-dimensional target, from its distribution function on a fine grid."""
    weights, means, covs = exact.target
    x = torch.linspace(-12, 12, 200_001, dtype=D)
    cdf = (weights * torch.special.ndtr((x[:, None] - means[:, 0]) / covs[:, 0, 0].sqrt())).sum(1)
    middle = (np.arange(n) + 0.5) / n
    return torch.from_numpy(np.interp(middle, cdf.numpy(), x.numpy()))


def gaussian_divergence(db: Tensor, ds: Tensor, eps: Tensor, steps: int) -> tuple[Tensor, float]:
    """Return the exact KL of the SDE's density from a Gaussian pair, and the integral of the variance.

    Means 0 and 2, variances 1 and 1/4, linear path, Brownian latent; the velocity is off by `db` and the score by
    ``ds (x - m)``. All laws stay Gaussian, so two ODEs for mean and variance say all.
    """

    def variance(t: float) -> tuple[float, float]:
        return (1 - t) ** 2 + 0.25 * t**2 + t * (1 - t), -2 * (1 - t) + 0.5 * t + 1 - 2 * t

    def slopes(state: Any, t: float, weighs: bool) -> tuple[tuple[Tensor, Tensor], tuple[()]]:
        (gap, v), (s, s_dot) = state, variance(t)
        rate = (0.5 * s_dot - eps) / s + eps * ds
        return (rate * gap + db, 2 * rate * v + 2 * eps), ()

    plan = fixed_plan("rk4", [k / steps for k in range(steps + 1)])
    gap, v = follow(slopes, (torch.zeros_like(db), torch.ones_like(db)), plan, Sums(0))
    ratio = 0.25 / v
    return 0.5 * (ratio - 1 - ratio.log() + gap**2 / v), (1 + 0.25) / 3 + 1 / 6


class Net(nn.Module):
    """A multilayer perceptron of x and t, with several outputs of the size of x that share the trunk."""

    def __init__(self, dim: int, width: int, layers: int, outputs: int = 1) -> None:
        super().__init__()
        sizes = [dim + 3, *[width] * layers]
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            blocks += [nn.Linear(a, b), nn.SiLU()]
        self.body = nn.Sequential(*blocks, nn.Linear(width, outputs * dim))
        self.outputs = outputs

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Return one field, or a tuple of several."""
        time = torch.stack([t, torch.sin(math.pi * t), torch.cos(math.pi * t)], dim=1)
        answer = self.body(torch.cat([x, time], dim=1))
        return answer if self.outputs == 1 else answer.chunk(self.outputs, dim=1)


def fit(net: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float = 2e-3) -> nn.Module:
    """Minimise a stochastic loss with Adam and a learning rate that falls like a cosine."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    train(lambda step: loss(), optimizer, steps, schedule=lambda step: warmup_cosine(step, 0, steps))
    return net.requires_grad_(False)


LEVELS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


def five_modes(rng: torch.Generator, dim: int = 8) -> GaussianMixtureInterpolant:
    """Return the linear interpolant from N(0, 1) to five Gaussians at random places."""
    one, eye = torch.ones(1), torch.eye(dim)
    centres = 2.0 * torch.randn(5, dim, generator=rng)
    return GaussianMixtureInterpolant(
        Interpolant("linear"),
        torch.ones(5),
        centres,
        0.3 * eye.expand(5, dim, dim),
        one,
        torch.zeros(1, dim),
        eye[None],
    )


def learn_field(
    loss_of: Any, modes: GaussianMixtureInterpolant, net: nn.Module, steps: int, batch: int, rng: torch.Generator
) -> Any:
    """Learn one field of a mixture from samples."""

    def loss() -> Tensor:
        x0, x1, _ = modes.sample(batch, 0.5, rng)
        return loss_of(modes.interpolant, net, x0, x1, rng)

    return fit(net, loss, steps)


def divergences(
    modes: GaussianMixtureInterpolant, learnt: Fields, size: tuple[int, int, int], rng: torch.Generator
) -> Tensor:
    """Return log target - log sampler at points of the target by noise level: exact for the ODE, for SDEs too large.

    Their means are KL(target || sampler).
    """
    points, paths, steps = size
    _, x, _ = modes.sample(points, 1.0, rng)
    truth = modes.log_density(x, 1.0).double()
    found = []
    for eps in LEVELS:
        kind: Any = {"method": "sde", "eps": eps, "steps": steps} if eps else {"method": "ode", "steps": steps // 4}
        estimate = log_likelihood(
            learnt,
            x,
            lambda y: modes.log_density(y, 0.0),
            n_paths=paths,
            generator=rng,
            window=(1e-3, 1 - 1e-3),
            **kind,
        )
        found.append(truth - estimate.double())
    return torch.stack(found)


class LinearDrift(nn.Module):
    """A drift ``c(t) + k(t) x`` with polynomial coefficients: the class of the bridges between Gaussians."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(degree + 1, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift."""
        polynomials = [torch.special.legendre_polynomial_p(2 * t - 1, n) for n in range(len(self.coefficients))]
        c, k = (torch.stack(polynomials, dim=-1) @ self.coefficients).unbind(1)
        return c[:, None] + k[:, None] * x


def gradient_variance(
    loss_of: Callable[..., Tensor], net: nn.Module, draws: tuple[Tensor, Tensor, Tensor], t: float, antithetic: bool
) -> float:
    """Return the variance over draws of x0, x1 and z of the gradient of a single sample's loss at one time."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def single(p: dict[str, Tensor], x0: Tensor, x1: Tensor, z: Tensor) -> Tensor:
        f = lambda x, t: torch.func.functional_call(net, p, (x, t))  # noqa: E731
        return loss_of(f, x0[None], x1[None], t=torch.full((1,), t), z=z[None], antithetic=antithetic)

    gradients = torch.func.vmap(torch.func.grad(single), in_dims=(None, 0, 0, 0))(parameters, *draws)
    return sum(float(g.var(dim=0).sum()) for g in gradients.values())


@dataclass(frozen=True)
class Split:
    """Digits in 16 principal components of the training part, scaled to its deviation, and held-out ones."""

    data: Tensor
    held_out: Tensor
    labels: dict[str, Tensor]
    centre: Tensor
    directions: Tensor

    def of_class(self, k: int, part: str) -> Tensor:
        """Return the digits of one class in one part."""
        return getattr(self, part)[self.labels[part] == k]

    def image(self, point: Tensor) -> Tensor:
        """Return the picture of a point."""
        return (point @ self.directions + self.centre).reshape(8, 8)


def split_components(run: Run, seed: int) -> Split:
    """Split the digits at random, four fifths to train on."""
    images = digits()
    order = torch.randperm(len(images), generator=run.torch_rng(seed))
    pixels, labels = images[order].flatten(1), images.labels[order]
    n = len(pixels) * 4 // 5
    centre = pixels[:n].mean(0)
    directions = torch.linalg.svd(pixels[:n] - centre, full_matrices=False).Vh[:16]
    points = (pixels - centre) @ directions.T
    scale = points[:n].std()
    points = points / scale
    return Split(points[:n], points[n:], {"data": labels[:n], "held_out": labels[n:]}, centre, scale * directions)
