"""Generators and critics of boundary histories: layers of neurons, and convolutions over nodes and time."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from paperworks.core.validation import check_count
from paperworks.numerics import mlp


class MLPGenerator(nn.Module):
    """Layers of neurons from a latent vector to a sample; what suits coefficients of modes.

    Parameters
    ----------
    latent_dim
        Length of the latent vector.
    shape
        Shape of a sample, such as (modes,).
    hidden
        Widths of the layers between; three of 128 by default, each followed by a SiLU.
    condition_dim
        Length of the vector that samples are conditioned on; 0, the default, for none.

    References
    ----------
    Boukraichi et al., "Uncertainty quantification in a mechanical submodel driven by a Wasserstein-GAN",
    arXiv:2110.13680, 2021.

    Examples
    --------
    >>> import torch
    >>> MLPGenerator(8, (5,))(torch.zeros(3, 8)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self, latent_dim: int, shape: Sequence[int], hidden: Sequence[int] = (128, 128, 128), condition_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = _config(latent_dim=latent_dim, shape=shape, hidden=hidden, condition_dim=condition_dim)
        sizes = [self.config["latent_dim"] + self.config["condition_dim"], *self.config["hidden"]]
        self.layers = mlp([*sizes, math.prod(self.config["shape"])], nn.SiLU)

    def forward(
        self, z: Float[Tensor, "batch latent"], condition: Float[Tensor, "batch k"] | None = None
    ) -> Float[Tensor, "batch ..."]:
        """Return one sample for each latent vector.

        Parameters
        ----------
        z
            Latent vectors, one for each sample.
        condition
            What each sample is conditioned on; None, the default, where the network was made without.

        Returns
        -------
        Tensor
            Samples of shape (batch, *shape).
        """
        return self.layers(_beside(z, condition)).unflatten(1, self.config["shape"])


class MLPCritic(nn.Module):
    """Layers of neurons from a sample to a number.

    Parameters
    ----------
    shape
        Shape of a sample.
    hidden
        Widths of the layers between; three of 128 by default, each followed by a SiLU, whose second derivative the
        gradient penalty uses.
    condition_dim
        Length of the vector that samples are conditioned on; 0, the default, for none.

    Examples
    --------
    >>> import torch
    >>> MLPCritic((5,))(torch.zeros(3, 5)).shape
    torch.Size([3])
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int] = (128, 128, 128), condition_dim: int = 0) -> None:
        super().__init__()
        self.config = _config(shape=shape, hidden=hidden, condition_dim=condition_dim)
        inputs = math.prod(self.config["shape"]) + self.config["condition_dim"]
        self.layers = mlp([inputs, *self.config["hidden"], 1], nn.SiLU)

    def forward(
        self, x: Float[Tensor, "batch ..."], condition: Float[Tensor, "batch k"] | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the critic's value of each sample.

        Parameters
        ----------
        x
            Samples of shape (batch, *shape).
        condition
            What each is conditioned on; None, the default, where the network was made without.

        Returns
        -------
        Tensor
            One value for each.
        """
        return self.layers(_beside(x.flatten(1), condition))[:, 0]


class ConvGenerator(nn.Module):
    """Convolutions over boundary nodes and time, from a latent vector to a history, as in DCGAN.

    A linear map to 4c channels on an eighth of the grid, three times doubled to the nearest and convolved with kernels
    of 5, and a last convolution. Along an axis too short for a kernel of 5 the kernel is as long as the axis allows.

    Parameters
    ----------
    latent_dim
        Length of the latent vector.
    shape
        Components, boundary nodes and stored times of a history: (C, n_b, n_t).
    channels
        Channels c of the last level; 32 by default.
    bounded
        Whether a hyperbolic tangent keeps the output between -1 and 1; False by default.
    condition_dim
        Length of the vector that samples are conditioned on; 0, the default, for none.

    Examples
    --------
    >>> import torch
    >>> ConvGenerator(8, (2, 5, 30), channels=4)(torch.zeros(3, 8)).shape
    torch.Size([3, 2, 5, 30])
    """

    def __init__(
        self, latent_dim: int, shape: Sequence[int], channels: int = 32, bounded: bool = False, condition_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = _config(
            latent_dim=latent_dim, shape=shape, channels=channels, bounded=bounded, condition_dim=condition_dim
        )
        components, *_ = _grid(self.config["shape"])
        self._sizes = _levels(self.config["shape"][1:], 3)[::-1]
        c, inputs = self.config["channels"], self.config["latent_dim"] + self.config["condition_dim"]
        self.start = nn.Linear(inputs, 4 * c * math.prod(self._sizes[0]))
        widths = (4 * c, 2 * c, c, c)
        self.levels = nn.ModuleList(
            _convolution(a, b, size) for a, b, size in zip(widths, widths[1:], self._sizes[1:], strict=False)
        )
        self.end = _convolution(c, components, self._sizes[-1])

    def forward(
        self, z: Float[Tensor, "batch latent"], condition: Float[Tensor, "batch k"] | None = None
    ) -> Float[Tensor, "batch c nodes times"]:
        """Return one history for each latent vector.

        Parameters
        ----------
        z
            Latent vectors, one for each sample.
        condition
            What each history is conditioned on; None, the default, where the network was made without.

        Returns
        -------
        Tensor
            Histories of shape (batch, C, n_b, n_t).
        """
        x = self.start(_beside(z, condition)).unflatten(1, (-1, *self._sizes[0])).relu()
        for level, size in zip(self.levels, self._sizes[1:], strict=True):
            x = level(interpolate(x, size)).relu()
        x = self.end(x)
        return x.tanh() if self.config["bounded"] else x


class ConvCritic(nn.Module):
    """Convolutions of stride 2 over boundary nodes and time, from a history to a number.

    It has no batch norm, with which the gradient penalty of a sample would depend on the others.

    Parameters
    ----------
    shape
        Components, boundary nodes and stored times of a history: (C, n_b, n_t).
    channels
        Channels c of the first level, doubled from one to the next; 32 by default.
    levels
        How often the grid is halved, each with a leaky ReLU of slope 0.2; 3 by default.
    layer_norm
        Whether each level but the first is normalised over its sample; False by default.
    condition_dim
        Length of the vector that samples are conditioned on, which joins as constant channels; 0, the default, for
        none.

    Examples
    --------
    >>> import torch
    >>> ConvCritic((2, 5, 30), channels=4)(torch.zeros(3, 2, 5, 30)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        levels: int = 3,
        layer_norm: bool = False,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.config = _config(
            shape=shape, channels=channels, levels=levels, layer_norm=layer_norm, condition_dim=condition_dim
        )
        _grid(self.config["shape"])
        width = self.config["shape"][0] + self.config["condition_dim"]
        sizes = _levels(self.config["shape"][1:], check_count("levels", levels))
        layers: list[nn.Module] = []
        for k, size in enumerate(sizes[1:]):
            out = self.config["channels"] * 2**k
            layers.append(_convolution(width, out, sizes[k], stride=2))
            if layer_norm and k:
                layers.append(nn.GroupNorm(1, out))
            layers.append(nn.LeakyReLU(0.2))
            width = out
            last = size
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * math.prod(last), 1))

    def forward(
        self, x: Float[Tensor, "batch c nodes times"], condition: Float[Tensor, "batch k"] | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the critic's value of each history.

        Parameters
        ----------
        x
            Histories of shape (batch, C, n_b, n_t).
        condition
            What each is conditioned on; None, the default, where the network was made without.

        Returns
        -------
        Tensor
            One value for each.
        """
        if condition is not None:
            x = torch.cat([x, condition[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        return self.layers(x)[:, 0]


def _config(**options: Any) -> dict[str, Any]:
    """Return checked arguments of a network, as plain values that can be written beside its weights."""
    for name, value in options.items():
        if name in ("shape", "hidden"):
            options[name] = [check_count(name, n) for n in value]
        elif not isinstance(value, bool):
            options[name] = check_count(name, value, at_least=0 if name == "condition_dim" else 1)
    if not options["shape"]:
        raise ValueError("shape is (); it takes one length or more")
    return options


def _grid(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"shape is {tuple(shape)}; it takes components, boundary nodes and times")
    return shape[0], shape[1], shape[2]


def _levels(size: Sequence[int], halvings: int) -> list[tuple[int, ...]]:
    """Return a grid's size and those of the grids of half, a quarter, ... of it, rounded up."""
    return [tuple(-(-n // 2**k) for n in size) for k in range(halvings + 1)]


def _convolution(a: int, b: int, size: Sequence[int], stride: int = 1) -> nn.Conv2d:
    """Return a convolution with kernels of 5, of 3 along two nodes and of 1 along one, where more would see zeros."""
    kernel = [min(5, 2 * n - 1) for n in size]
    return nn.Conv2d(a, b, (kernel[0], kernel[1]), stride, (kernel[0] // 2, kernel[1] // 2))


def _beside(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat([x, condition], 1)
