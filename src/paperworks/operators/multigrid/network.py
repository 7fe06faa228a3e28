"""A network whose neurons are functions and whose weights are multigrid cycles."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paperworks.core.validation import check_choice, check_count
from paperworks.operators.multigrid.cycle import (
    Growth,
    Init,
    Modes,
    MultigridConv,
    Norm,
    Smoothing,
    _axes,
    check_fields,
    normalization,
)
from paperworks.operators.multigrid.transfers import CONVOLUTIONS

Activation = Literal["gelu", "relu", "silu", "tanh"]
Variant = Literal["darcy", "darcy-rough", "navier-stokes", "helmholtz", "helmholtz-constant"]
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh,
}  # fmt: skip
_LAST = ("conv1x1", "multigrid")
_DARCY = [(1, 0)] * 5 + [(2, 0)]
_HELMHOLTZ: dict[str, Any] = {
    "n_layers": 4, "hidden_channels": 20, "padding_mode": "reflect", "transfer_padding": 0, "skip": None,
    "smoothing": [(1, 0)] * 4 + [(2, 0)], "resolution": 101,
}  # fmt: skip
_VARIANTS: dict[Variant, dict[str, Any]] = {
    "darcy": {"levels": 6, "smoothing": _DARCY},
    "darcy-rough": {"levels": 6, "smoothing": _DARCY, "n_layers": 4},
    "navier-stokes": {
        "hidden_channels": 32, "padding_mode": "circular", "norm": "layer", "skip": None, "residual": True,
        "resolution": 64, "smoothing": [(1, 0)] * 3 + [(2, 0)] * 2,
    },
    "helmholtz": {
        **_HELMHOLTZ, "level_growth": "linear", "bias": True, "activation_norm": "layer", "last": "multigrid",
    },
    "helmholtz-constant": {**_HELMHOLTZ, "norm": "layer"},
}  # fmt: skip


class MgNO(nn.Module):
    r"""A neural operator whose layers are learned multigrid cycles: $u \leftarrow \sigma(W u + A u + b)$.

    W is a `MultigridConv`, A and b a convolution of width 1 with bias. Neither lifting nor projection is needed: the
    first cycle goes from the input's channels to the hidden ones, and a convolution of width 1 combines these at the
    end. Cycles are real convolutions, so that any grid, boundary condition, precision and `torch.compile` work.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output; one each by default, such as a coefficient and a solution.
    hidden_channels
        Channels of the layers between; 24 by default, as in the paper's Darcy problems.
    n_layers
        Number of layers with an activation; 5 by default.
    levels
        Grids of each cycle; an axis has at least ``2 ** (levels - 1)`` nodes.
    smoothing
        Smoothings of each level on the way down and up; see `MultigridConv`.
    padding_mode
        How fields go on beyond the grid: "zeros", "reflect" or "circular", one word, one for each axis, or a pair for
        the two sides of each axis.
    activation
        "gelu", "relu", "silu" or "tanh".
    skip
        "conv1x1" for the term A u + b, None for none. Without it and without `bias` the network has no bias at all:
        it maps zero to zero.
    residual
        Whether the input is added to the output, as for the next frame of a flow.
    level_growth
        Whether all levels have the same channels ("constant"), or each as many more as the first has ("linear").
    resolution
        Nodes along each axis of the grid that the network is made for; needed for layer norms alone. Kernels of levels
        with an odd number are then smaller; other grids are taken still, where no norm is tied to one.
    ndim
        Dimensions of the grid: 1, 2 or 3.
    residual_restriction, bias, norm, transfer_padding, init
        Options of the cycles, as `MultigridConv` takes them.
    activation_norm
        Norm before each activation: "layer", "group" or None.
    last
        What maps hidden channels to the output's: "conv1x1", without bias, or "multigrid", another cycle.
    checkpointing
        Whether the layers' insides are computed again for the gradient instead of kept, for large grids.

    Raises
    ------
    ValueError
        For numbers and words out of range, or a residual where channels differ.

    References
    ----------
    He, Liu, Xu, arXiv 2310.19809, the definition of the network and its experiments.

    Examples
    --------
    >>> network = MgNO(hidden_channels=16, n_layers=4, resolution=65)
    >>> sum(p.numel() for p in network.parameters())
    194004
    >>> network(torch.ones(2, 1, 65, 65)).shape
    torch.Size([2, 1, 65, 65])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        hidden_channels: int = 24,
        n_layers: int = 5,
        levels: int = 5,
        smoothing: Smoothing | None = None,
        padding_mode: Modes = "zeros",
        activation: Activation = "gelu",
        skip: Literal["conv1x1"] | None = "conv1x1",
        residual: bool = False,
        level_growth: Growth = "constant",
        resolution: int | Sequence[int] | None = None,
        *,
        ndim: int = 2,
        residual_restriction: bool = False,
        bias: bool = False,
        norm: Norm | None = None,
        activation_norm: Norm | None = None,
        transfer_padding: int = 1,
        last: Literal["conv1x1", "multigrid"] = "conv1x1",
        init: Init = "default",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        hidden, count = check_count("hidden_channels", hidden_channels), check_count("n_layers", n_layers)
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = check_count("out_channels", out_channels)
        check_choice("activation", activation, get_args(Activation))
        check_choice("skip", skip, ("conv1x1", None))
        check_choice("last", last, _LAST)
        if activation_norm is not None:
            check_choice("activation_norm", activation_norm, get_args(Norm))
        if activation_norm == "layer" and resolution is None:
            raise ValueError("activation_norm is 'layer' and resolution is None; it takes the nodes of its grid")
        if residual and in_channels != out_channels:
            raise ValueError(
                f"residual is True with {in_channels} channels in and {out_channels} out; it takes as many"
            )
        self.residual = residual
        self.checkpointing = checkpointing

        def cycle(inputs: int, outputs: int) -> MultigridConv:
            return MultigridConv(
                inputs, outputs, levels, smoothing, padding_mode, residual_restriction, bias, norm, ndim,
                level_growth=level_growth, transfer_padding=transfer_padding, resolution=resolution, init=init,
            )  # fmt: skip

        grid = None if resolution is None else _axes(resolution, ndim)
        self.tied_to = grid if "layer" in (norm, activation_norm) else None  # the one grid that layer norms take
        self.layers = nn.ModuleList(
            _Layer(
                cycle(inputs, hidden),
                CONVOLUTIONS[ndim](inputs, hidden, 1) if skip else None,
                normalization(activation_norm, hidden, grid),
                _ACTIVATIONS[activation](),
            )
            for inputs in [in_channels] + [hidden] * (count - 1)
        )
        self.last = (
            cycle(hidden, out_channels)
            if last == "multigrid"
            else CONVOLUTIONS[ndim](hidden, out_channels, 1, bias=False)
        )
        self.ndim = ndim
        if ndim == 2:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on processors

    @classmethod
    def variant(cls, name: Variant, **changes: Any) -> "MgNO":
        """Make the network of one of the paper's experiments.

        Parameters
        ----------
        name
            "darcy": smooth coefficients; "darcy-rough": rough and multiscale ones; "navier-stokes": the next frame of
            a periodic flow, with layer norms and without width-1 convolutions; "helmholtz": channels that grow by
            level, biases, Neumann padding and a cycle as the last layer; "helmholtz-constant": the same channels on all
            levels, with layer norms inside of the cycles.
        changes
            Arguments of the constructor that differ from the experiment's.

        Returns
        -------
        MgNO
            A network with new weights.

        Raises
        ------
        ValueError
            For an unknown name.

        Examples
        --------
        >>> network = MgNO.variant("navier-stokes", hidden_channels=4, n_layers=2)
        >>> network(torch.zeros(1, 1, 64, 64)).abs().max().item()
        0.0
        """
        check_choice("name", name, get_args(Variant))
        return cls(**{**_VARIANTS[name], **changes})

    def forward(self, x: Float[Tensor, "batch in_channels *grid"]) -> Float[Tensor, "batch out_channels *grid"]:
        """Map fields to fields on the same grid.

        Parameters
        ----------
        x
            Values of the input's channels at the nodes.

        Returns
        -------
        Tensor
            Values of the output's channels at the same nodes.

        Raises
        ------
        TypeError
            For values that aren't real floating-point numbers.
        ValueError
            For another shape than the network takes, or fewer nodes than its levels need.
        """
        check_fields("x", x, self.in_channels, self.ndim, self.tied_to)
        u = x
        for layer in self.layers:
            again = self.checkpointing and torch.is_grad_enabled()
            u = checkpoint(layer, u, use_reentrant=False) if again else layer(u)
        u = self.last(u)
        return u + x if self.residual else u


class _Layer(nn.Module):
    """A cycle and a convolution of width 1 side by side, then a norm and the activation."""

    def __init__(self, cycle: MultigridConv, skip: nn.Module | None, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.cycle, self.skip, self.norm, self.activation = cycle, skip, norm, activation

    def forward(self, u: Tensor) -> Tensor:
        v = self.cycle(u)
        return self.activation(self.norm(v if self.skip is None else v + self.skip(u)))
