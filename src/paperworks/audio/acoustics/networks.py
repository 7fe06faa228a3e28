"""The networks of the operator: gated sine layers, plain ones, convolutions, a linear map, features of frequencies."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.audio.acoustics.sources import SPEED_OF_SOUND
from paperworks.core.validation import check_choice, check_count, check_number

Activation = Literal["sin", "tanh", "relu"]
_FUNCTIONS = {"sin": torch.sin, "tanh": torch.tanh, "relu": torch.relu}


class SineMLP(nn.Module):
    """Layers with sine activations, of which the first multiplies its weights by `w0`; the plain network.

    Parameters
    ----------
    in_dim, out_dim
        Numbers of inputs and outputs.
    hidden
        Width of the hidden layers; 2048 in the paper.
    n_layers
        Number of hidden layers; 5 in three dimensions.
    activation
        "sin" with weights of the first layer from ``U(-1/in_dim, 1/in_dim)`` and of the others from
        ``U(-sqrt(6/d)/w0, sqrt(6/d)/w0)``, "tanh" with Xavier's and "relu" with He's; biases are zero.
    w0
        Factor of the first layer's weights, for sines alone; 30 by default, the paper's.
    siren_hidden
        Whether the hidden layers multiply by `w0` too, as sinusoidal networks usually do; no by default, as published.

    Raises
    ------
    ValueError
        For counts or choices out of range.

    References
    ----------
    arXiv:2308.05141, supplement on the network; Sitzmann et al., arXiv:2006.09661.

    Examples
    --------
    >>> SineMLP(3, 16, 2, 4)(torch.zeros(5, 3)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        n_layers: int,
        out_dim: int,
        activation: Activation = "sin",
        w0: float = 30.0,
        *,
        siren_hidden: bool = False,
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim = check_count("in_dim", in_dim), check_count("out_dim", out_dim)
        check_count("hidden", hidden)
        self.activation = check_choice("activation", activation, ("sin", "tanh", "relu"))
        self.w0 = check_number("w0", w0, gt=0) if activation == "sin" else 1.0
        self.hidden_w0 = self.w0 if siren_hidden else 1.0
        widths = [in_dim] + [hidden] * check_count("n_layers", n_layers)
        self.layers = nn.ModuleList(self._linear(a, b, i == 0) for i, (a, b) in enumerate(itertools.pairwise(widths)))
        self.output = self._linear(hidden, out_dim)

    def _linear(self, inputs: int, outputs: int, first: bool = False) -> nn.Linear:
        """Return a layer with weights as the activation wants them."""
        layer = nn.Linear(inputs, outputs)
        nn.init.zeros_(layer.bias)
        if self.activation == "sin":
            bound = 1 / inputs if first else math.sqrt(6 / inputs) / self.w0
            nn.init.uniform_(layer.weight, -bound, bound)
        elif self.activation == "tanh":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        return layer

    def _activated(self, i: int, x: Tensor) -> Tensor:
        """Return a hidden layer's answer: the factor multiplies its weights and leaves its bias alone."""
        factor = self.w0 if i == 0 else self.hidden_w0
        return _FUNCTIONS[self.activation](self.layers[i](factor * x if factor != 1 else x))

    def features(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch hidden"]:
        """Return what the output layer sees.

        Parameters
        ----------
        x
            Inputs in the last axis.

        Returns
        -------
        Tensor
            Answer of the last hidden layer.
        """
        for i in range(len(self.layers)):
            x = self._activated(i, x)
        return x

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Return the outputs.

        Parameters
        ----------
        x
            Inputs in the last axis.

        Returns
        -------
        Tensor
            Outputs in the last axis.

        Raises
        ------
        ValueError
            For another number of inputs.
        """
        if x.shape[-1] != self.in_dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; it takes {self.in_dim} inputs in the last axis")
        out: Tensor = self.output(self.features(x))
        return out


class ModifiedMLP(SineMLP):
    """Layers that two gates mix: after each hidden layer ``h`` becomes ``h U + (1 - h) V``.

    Parameters
    ----------
    in_dim, out_dim
        Numbers of inputs and outputs.
    hidden
        Width of the hidden layers and of the gates; 2048 in the paper in two and three dimensions, 512 in one.
    n_layers
        Number of hidden layers: 5 in three dimensions, 2 in two, 4 in one.
    activation
        "sin", "tanh" or "relu", with weights as `SineMLP` draws them.
    w0
        Factor of the first layer's weights, for sines alone; 30 by default, the paper's. Gates have none.
    gate_activation
        Whether the gates are activated too; yes by default. The published weights were trained without.
    siren_hidden
        Whether the hidden layers multiply by `w0` too; no by default, as published.

    Raises
    ------
    ValueError
        For counts or choices out of range.

    References
    ----------
    arXiv:2308.05141, supplement on the network; Wang, Teng and Perdikaris, arXiv:2001.04536.

    Examples
    --------
    >>> ModifiedMLP(21, 64, 2, 100)(torch.zeros(5, 21)).shape
    torch.Size([5, 100])
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        n_layers: int,
        out_dim: int,
        activation: Activation = "sin",
        w0: float = 30.0,
        gate_activation: bool = True,
        *,
        siren_hidden: bool = False,
    ) -> None:
        super().__init__(in_dim, hidden, n_layers, out_dim, activation, w0, siren_hidden=siren_hidden)
        self.gate_activation = gate_activation
        self.gate_u, self.gate_v = self._linear(in_dim, hidden, True), self._linear(in_dim, hidden, True)

    def features(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch hidden"]:
        """Return what the output layer sees.

        Parameters
        ----------
        x
            Inputs in the last axis.

        Returns
        -------
        Tensor
            Answer of the last hidden layer, mixed by the gates.
        """
        u, v = self.gate_u(x), self.gate_v(x)
        if self.gate_activation:
            u, v = _FUNCTIONS[self.activation](u), _FUNCTIONS[self.activation](v)
        for i in range(len(self.layers)):
            x = torch.lerp(v, u, self._activated(i, x))
        return x


class _SameConv(nn.Module):
    """A convolution of stride 1 or 2 that pads as JAX's SAME does: one more at the end than at the beginning."""

    def __init__(self, dim: int, inputs: int, outputs: int, kernel: int, stride: int, bias: bool = False) -> None:
        super().__init__()
        kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
        self.conv = kinds[dim](inputs, outputs, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for n in reversed(x.shape[2:]):
            missing = max((math.ceil(n / self.stride) - 1) * self.stride + self.kernel - n, 0)
            pads += [missing // 2, missing - missing // 2]
        out: Tensor = self.conv(nn.functional.pad(x, pads))
        return out


class _Block(nn.Module):
    """Two convolutions with normalisation, added to the input."""

    def __init__(self, dim: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dim]
        self.first, self.norm_first = _SameConv(dim, inputs, outputs, 3, stride), norm(outputs)
        self.second, self.norm_second = _SameConv(dim, outputs, outputs, 3, 1), norm(outputs)
        self.shortcut = _SameConv(dim, inputs, outputs, 1, stride, bias=True) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.norm_first(self.first(x)))
        return torch.relu(self.norm_second(self.second(z)) + self.shortcut(x))


class ResNetBranch(nn.Module):
    """A residual convolutional network that reads the source's field as an image or volume.

    Parameters
    ----------
    shape
        Sensors along each axis.
    out_dim
        Number of outputs.
    channels
        Channels of the groups; 16, 32, 64, 128 by default, the paper's. All groups but the first halve the resolution.
    blocks
        Blocks of each group; 3 each by default.
    hidden
        Widths of sine layers between the convolutions and the output; none by default.

    Raises
    ------
    ValueError
        For other than one to three axes, or groups that don't match.

    References
    ----------
    arXiv:2308.05141, supplement on the network; He et al., arXiv:1512.03385.

    Examples
    --------
    >>> ResNetBranch((13, 13), 100).eval()(torch.zeros(2, 13, 13)).shape
    torch.Size([2, 100])
    """

    def __init__(
        self,
        shape: Sequence[int],
        out_dim: int,
        channels: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (3, 3, 3, 3),
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.shape = tuple(check_count("shape", n) for n in shape)
        if not 1 <= len(self.shape) <= 3:
            raise ValueError(f"shape is {self.shape}; it takes 1 to 3 axes")
        if len(channels) != len(blocks) or not len(blocks):
            raise ValueError(f"channels has {len(channels)} groups and blocks {len(blocks)}; they take as many")
        dim = len(self.shape)
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dim]
        self.stem, self.norm = _SameConv(dim, 1, channels[0], 3, 1), norm(channels[0])
        made, width, sizes = [], channels[0], list(self.shape)
        for group, (wide, count) in enumerate(zip(channels, blocks, strict=True)):
            for i in range(check_count("blocks", count)):
                stride = 2 if i == 0 and group > 0 else 1
                made.append(_Block(dim, width, wide, stride))
                width, sizes = wide, [math.ceil(n / stride) for n in sizes]
        self.blocks = nn.ModuleList(made)
        self.out_shape = (width, *sizes)
        widths = [math.prod(self.out_shape), *hidden]
        dense = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.dense = nn.ModuleList(dense)
        self.output = nn.Linear(widths[-1], check_count("out_dim", out_dim))
        for layer in (*dense, self.output):
            inputs = layer.in_features
            bound = math.sqrt(6 / inputs) / 30 if layer is self.output else 1 / inputs
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def features(self, u: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Return what the output layer sees.

        Parameters
        ----------
        u
            Fields (batch, *shape), or flat ones.

        Returns
        -------
        Tensor
            Answer of the last layer but one.
        """
        x = torch.relu(self.norm(self.stem(u.reshape(len(u), 1, *self.shape))))
        for block in self.blocks:
            x = block(x)
        x = x.flatten(1)
        for layer in self.dense:
            x = torch.sin(layer(x))
        return x

    def forward(self, u: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        """Return the outputs.

        Parameters
        ----------
        u
            Fields (batch, *shape), or flat ones.

        Returns
        -------
        Tensor
            The outputs, (batch, outputs).
        """
        out: Tensor = self.output(self.features(u))
        return out


class FrequencyFeatures(nn.Module):
    """Append cosines and sines of each coordinate at physical frequencies: ``cos(2 pi f y / c)`` and the sine.

    They see the coordinates after their normalisation, as published, so that metres meet numbers from -1 to 1.

    Parameters
    ----------
    freqs_hz
        Frequencies in Hz; 500, 250 and 167 in the paper.
    c
        Speed of sound in m/s.

    Raises
    ------
    ValueError
        For frequencies or a speed that aren't positive.

    References
    ----------
    arXiv:2308.05141, supplement on the network.

    Examples
    --------
    >>> FrequencyFeatures((500, 250, 167))(torch.zeros(10, 4)).shape
    torch.Size([10, 28])
    """

    def __init__(self, freqs_hz: Sequence[float], c: float = SPEED_OF_SOUND) -> None:
        super().__init__()
        check_number("c", c, gt=0)
        waves = [2 * math.pi * check_number("freqs_hz", f, gt=0) / c for f in freqs_hz]
        self.waves: Tensor
        self.register_buffer("waves", torch.tensor(waves), persistent=False)

    def out_dim(self, in_dim: int) -> int:
        """Return how many numbers come out.

        Parameters
        ----------
        in_dim
            How many go in.

        Returns
        -------
        int
            The coordinates and two numbers for each at each frequency.
        """
        return in_dim * (1 + 2 * len(self.waves))

    def forward(self, y: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch features"]:
        """Return coordinates, all cosines and all sines.

        Parameters
        ----------
        y
            Coordinates in the last axis.

        Returns
        -------
        Tensor
            Features in the last axis: coordinates, then cosines by frequency, then sines.
        """
        angles = (self.waves[:, None] * y[..., None, :]).flatten(-2)
        return torch.cat([y, angles.cos(), angles.sin()], -1)
