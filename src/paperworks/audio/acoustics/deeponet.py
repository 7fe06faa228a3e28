"""The operator from a source's field to the pressure at any place and time, and what is stored for many queries."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from paperworks.audio.acoustics.frame import RoomFrame
from paperworks.audio.acoustics.networks import FrequencyFeatures, ModifiedMLP, ResNetBranch, SineMLP
from paperworks.audio.acoustics.rooms import check_times
from paperworks.core.validation import check_choice, check_count, check_number

BranchKind = Literal["modified-mlp", "mlp", "resnet", "linear"]


class AcousticDeepONet(nn.Module):
    """A network from a source's initial pressure to the pressure at any place and time.

    The answer is ``sum_i b_i(u) t_i(y) + b0``: the branch reads the field of the source, the trunk the coordinates.

    Parameters
    ----------
    branch
        From fields (batch, sensors) to (batch, q); which it gets flat.
    trunk
        From normalised coordinates (..., d + 1) to (..., q).
    q
        Number of products; 100 in the paper.
    bias
        Whether there is a constant b0; yes by default.
    frame
        The room and how its coordinates are normalised, for queries by places; without it the trunk gets coordinates as
        they are.
    u_scale
        By what fields are divided before the branch sees them; 2 by default, which maps [-2, 2] Pa to [-1, 1].

    Raises
    ------
    ValueError
        For a number of products below 1.

    References
    ----------
    arXiv:2308.05141, section on the DeepONet; Lu et al., arXiv:1910.03193.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room
    >>> model = make_acoustic_deeponet(RoomFrame(Room((2.0, 2.0))), hidden=32, q=8)
    >>> model.impulse_response([1.0, 1.0], [[0.5, 0.5], [1.5, 0.2]], np.linspace(0, 0.01, 20)).shape
    torch.Size([1, 2, 20])
    """

    def __init__(
        self,
        branch: nn.Module,
        trunk: nn.Module,
        q: int,
        bias: bool = True,
        *,
        frame: RoomFrame | None = None,
        u_scale: float = 2.0,
    ) -> None:
        super().__init__()
        self.branch, self.trunk, self.q = branch, trunk, check_count("q", q)
        self.frame, self.u_scale = frame, check_number("u_scale", u_scale, gt=0)
        self.bias = nn.Parameter(torch.zeros(())) if bias else None
        self.trained_until: float | None = None  # last time of the training in seconds

    def branch_features(self, u: Float[Tensor, "batch ..."], *, last: bool = True) -> Float[Tensor, "batch features"]:
        """Return what the branch makes of fields.

        Parameters
        ----------
        u
            Fields (batch, *sensors) in Pa.
        last
            Whether the output layer is applied; without it come the features of the last hidden layer.

        Returns
        -------
        Tensor
            Weights (batch, q) of the trunk's functions, or features.
        """
        inner: Any = self.branch if last else getattr(self.branch, "features", lambda x: x)
        if not isinstance(u, Tensor):
            raise TypeError(f"u is {type(u).__name__}; it takes a tensor")
        if u.ndim < 2:
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes fields (batch, *sensors)")
        out: Tensor = inner(self._own(u).flatten(1) / self.u_scale)
        return out

    def basis(self, y: Float[Tensor, "*batch d_plus_1"]) -> Float[Tensor, "*batch q"]:
        """Return the trunk's functions.

        Parameters
        ----------
        y
            Places in metres and times in seconds in the last axis; without a frame, what the trunk takes.

        Returns
        -------
        Tensor
            The q functions in the last axis.
        """
        # Normalised first: a network of 16 bits would round metres and seconds.
        out: Tensor = self.trunk(self._own(y if self.frame is None else self.frame.normalised(y)))
        return out

    def _own(self, x: Tensor) -> Tensor:
        """Return a tensor in the trunk's precision and on its device."""
        first = next(self.trunk.parameters(), None)
        return x if first is None else x.to(first)

    def forward(
        self, u: Float[Tensor, "batch ..."], y: Float[Tensor, "*coordinates d_plus_1"]
    ) -> Float[Tensor, "batch points"]:
        """Return the pressure of each source at each coordinate.

        Parameters
        ----------
        u
            Fields (batch, *sensors) in Pa.
        y
            Coordinates (points, d + 1) that all sources share, which costs one pass of the trunk, or (batch, points,
            d + 1).

        Returns
        -------
        Tensor
            Pressure (batch, points) in Pa.

        Raises
        ------
        ValueError
            For fields or coordinates of another shape.
        """
        if not isinstance(y, Tensor):
            raise TypeError(f"y is {type(y).__name__}; it takes a tensor")
        if y.ndim != 2 and (y.ndim != 3 or len(y) != len(u)):
            raise ValueError(f"y has shape {tuple(y.shape)}; it takes (points, d + 1) or ({len(u)}, points, d + 1)")
        weights, basis = self.branch_features(u), self.basis(y)
        if basis.shape[-1] != self.q or weights.shape[-1] != self.q:
            raise ValueError(
                f"branch and trunk return {weights.shape[-1]} and {basis.shape[-1]} numbers; they take q = {self.q}"
            )
        found = weights @ basis.T if y.ndim == 2 else torch.einsum("bq,bpq->bp", weights, basis)
        return found if self.bias is None else found + self.bias

    @torch.no_grad()
    def impulse_response(
        self, source_pos: ArrayLike, receiver_pos: ArrayLike, times: ArrayLike
    ) -> Float[Tensor, "batch receivers times"]:
        """Return the pressure over time at receivers.

        Parameters
        ----------
        source_pos
            One source (d,) or several (batch, d), in metres.
        receiver_pos
            Receivers (receivers, d) in metres.
        times
            Times in seconds.

        Returns
        -------
        Tensor
            Pressure (batch, receivers, times) in Pa.

        Raises
        ------
        ValueError
            For places outside the room, or a network without a frame.
        """
        return self.cache_receivers_at(receiver_pos, times).impulse_response(source_pos)

    @torch.no_grad()
    def cache_receivers(self, y: Float[Tensor, "points d_plus_1"]) -> "CachedReceivers":
        """Store the trunk's functions at coordinates, so that a new source costs a pass of the branch alone.

        Parameters
        ----------
        y
            Coordinates (points, d + 1), as `forward` takes them.

        Returns
        -------
        CachedReceivers
            Answers for any source by its `query`.
        """
        with _evaluating(self):
            return CachedReceivers(self, self.basis(y).T.contiguous())

    def cache_receivers_at(self, receiver_pos: ArrayLike, times: ArrayLike) -> "CachedReceivers":
        """Store the trunk's functions at receivers for all times.

        Parameters
        ----------
        receiver_pos
            Receivers (receivers, d) in metres.
        times
            Times in seconds.

        Returns
        -------
        CachedReceivers
            Also answers by positions of sources, with impulse responses.

        Raises
        ------
        ValueError
            For places outside the room or no times. Times beyond those of the training warn.
        """
        t = check_times("times", times)
        if not len(t):
            raise ValueError("times is empty; it takes one or more")
        if self.trained_until is not None and t.max() > self.trained_until * (1 + 1e-6):
            warnings.warn(
                f"times go to {t.max():.4g} s, beyond the training's {self.trained_until:.4g} s, where the answer "
                "means nothing",
                stacklevel=2,
            )
        cached = self.cache_receivers(self._frame().coordinates(receiver_pos, t))
        return CachedReceivers(self, cached.basis, len(t))

    @torch.no_grad()
    def cache_source(self, u: Float[Tensor, "batch ..."]) -> "CachedSource":
        """Store the branch's weights of sources, so that a moving receiver costs a pass of the trunk alone.

        Parameters
        ----------
        u
            Fields (batch, *sensors) in Pa.

        Returns
        -------
        CachedSource
            Answers for any coordinates by its `query`.
        """
        with _evaluating(self):
            return CachedSource(self, self.branch_features(u))

    def _frame(self) -> RoomFrame:
        if self.frame is None:
            raise ValueError("frame is None; queries by places take a network that was made with a RoomFrame")
        return self.frame


@dataclass(frozen=True)
class CachedReceivers:
    """The trunk's functions at fixed receivers.

    Parameters
    ----------
    model
        The network, whose branch answers for sources.
    basis
        The functions (q, points).
    n_times
        Times of each receiver where they were stored so.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room
    >>> model = make_acoustic_deeponet(RoomFrame(Room((2.0,))), hidden=16, q=8)
    >>> cached = model.cache_receivers_at([[0.3], [1.2]], np.linspace(0, 0.01, 50))
    >>> cached.impulse_response([[1.0], [0.6], [0.9]]).shape
    torch.Size([3, 2, 50])
    """

    model: AcousticDeepONet
    basis: Float[Tensor, "q points"]
    n_times: int | None = None

    @torch.no_grad()
    def query(self, u: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch points"]:
        """Return the pressure of sources at the stored coordinates.

        Parameters
        ----------
        u
            Fields (batch, *sensors) in Pa.

        Returns
        -------
        Tensor
            Pressure (batch, points) in Pa.
        """
        with _evaluating(self.model):
            weights = self.model.branch_features(u)
        if self.model.bias is None:
            return weights @ self.basis
        return torch.addmm(self.model.bias, weights, self.basis)

    def impulse_response(self, source_pos: ArrayLike) -> Float[Tensor, "batch receivers times"]:
        """Return the pressure over time at the stored receivers.

        Parameters
        ----------
        source_pos
            One source (d,) or several (batch, d), in metres.

        Returns
        -------
        Tensor
            Pressure (batch, receivers, times) in Pa.

        Raises
        ------
        ValueError
            For a source outside the room, or coordinates that were not stored by receivers and times.
        """
        if self.n_times is None:
            raise ValueError("n_times is None; impulse responses take what cache_receivers_at stored")
        found = self.query(self.model._frame().source_fields(source_pos))
        return found.reshape(len(found), -1, self.n_times)

    @property
    def nbytes(self) -> int:
        """Memory of the stored functions in bytes."""
        return self.basis.numel() * self.basis.element_size()


@dataclass(frozen=True)
class CachedSource:
    """The branch's weights of fixed sources.

    Parameters
    ----------
    model
        The network, whose trunk answers for coordinates.
    weights
        Weights (batch, q) of the trunk's functions.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room
    >>> frame = RoomFrame(Room((2.0,)))
    >>> model = make_acoustic_deeponet(frame, hidden=16, q=8)
    >>> source = model.cache_source(frame.source_fields([1.0]))
    >>> source.query(frame.coordinates([[0.4]], [0.001, 0.002])).shape
    torch.Size([1, 2])
    """

    model: AcousticDeepONet
    weights: Float[Tensor, "batch q"]

    @torch.no_grad()
    def query(self, y: Float[Tensor, "points d_plus_1"]) -> Float[Tensor, "batch points"]:
        """Return the pressure of the stored sources at coordinates.

        Parameters
        ----------
        y
            Coordinates (points, d + 1), as the network takes them.

        Returns
        -------
        Tensor
            Pressure (batch, points) in Pa.
        """
        with _evaluating(self.model):
            found = self.weights @ self.model.basis(y).T
        return found if self.model.bias is None else found + self.model.bias


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Answer by the statistics of the training, also where a network is in training mode, and leave it so."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def low_precision_branch(model: AcousticDeepONet) -> AcousticDeepONet:
    """Return a copy whose branch computes with weights of 16 bits (bfloat16), for queries of single sources.

    The branch of one source takes as long as its weights take to come from memory, of which these are half. Its answer
    changes by a few tenths of a percent. The trunk is shared with the model, and stays as it is.

    Parameters
    ----------
    model
        The network in single precision.

    Returns
    -------
    AcousticDeepONet
        A network for inference alone.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room
    >>> frame = RoomFrame(Room((2.0,)))
    >>> model = make_acoustic_deeponet(frame, hidden=64, q=8)
    >>> u, y = frame.source_fields([1.0]), frame.coordinates([[0.5]], [0.001])
    >>> bool(abs(low_precision_branch(model)(u, y) - model(u, y)) < 0.02)
    True
    """
    quick = copy.copy(model)
    quick._modules = {**model._modules, "branch": _HalfPrecision(model.branch)}
    return quick.eval()


class _HalfPrecision(nn.Module):
    """A network in bfloat16 between inputs and outputs in their own precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).bfloat16().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.bfloat16())
        return out.to(x.dtype)

    def features(self, x: Tensor) -> Tensor:
        inner: Any = getattr(self.network, "features", lambda x: x)
        out: Tensor = inner(x.bfloat16())
        return out.to(x.dtype)


def make_acoustic_deeponet(
    frame: RoomFrame,
    hidden: int | None = None,
    n_layers: int | None = None,
    q: int = 100,
    branch: BranchKind = "modified-mlp",
    trunk: Literal["modified-mlp", "mlp"] = "modified-mlp",
    freqs_hz: Sequence[float] = (500.0, 250.0, 167.0),
    *,
    activation: Literal["sin", "tanh", "relu"] = "sin",
    gate_activation: bool = True,
    siren_hidden: bool = False,
) -> AcousticDeepONet:
    """Make an untrained network for a room with the paper's layers.

    Parameters
    ----------
    frame
        The room, its sensors and the normalisation.
    hidden
        Width of the layers; by default 512 in one dimension and 2048 in two and three.
    n_layers
        Number of hidden layers; by default 4, 2 and 5 in one, two and three dimensions.
    q
        Number of products; 100 by default.
    branch
        "modified-mlp", "mlp", "resnet", or "linear": a linear map without any bias, with which fields of sums of
        sources are sums of fields exactly, an extension of the paper's.
    trunk
        "modified-mlp" or "mlp".
    freqs_hz
        Frequencies of the trunk's features in Hz; none for an empty sequence.
    activation
        "sin", "tanh" or "relu", of branch and trunk.
    gate_activation
        Whether gates are activated; the published weights were trained without.
    siren_hidden
        Whether hidden layers have the factor of the first one too; no by default, as published.

    Returns
    -------
    AcousticDeepONet
        The network with weights drawn from torch's global generator.

    Raises
    ------
    ValueError
        For choices or counts out of range.

    References
    ----------
    arXiv:2308.05141, supplement on the network.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room
    >>> model = make_acoustic_deeponet(RoomFrame(Room((2.0,))), hidden=16, q=8, branch="linear")
    >>> model.bias is None
    True
    """
    check_choice("branch", branch, ("modified-mlp", "mlp", "resnet", "linear"))
    check_choice("trunk", trunk, ("modified-mlp", "mlp"))
    dim = frame.room.dim
    width = {1: 512, 2: 2048, 3: 2048}[dim] if hidden is None else hidden
    depth = {1: 4, 2: 2, 3: 5}[dim] if n_layers is None else n_layers
    options: dict[str, Any] = {"activation": activation, "siren_hidden": siren_hidden}

    def network(kind: str, inputs: int) -> nn.Module:
        if kind == "mlp":
            return SineMLP(inputs, width, depth, q, **options)
        return ModifiedMLP(inputs, width, depth, q, gate_activation=gate_activation, **options)

    sensors = int(np.prod(frame.sensor_shape))
    made: nn.Module
    if branch == "resnet":
        made = ResNetBranch(frame.sensor_shape, q)
    elif branch == "linear":
        made = nn.Linear(sensors, q, bias=False)
    else:
        made = network(branch, sensors)
    features = FrequencyFeatures(freqs_hz, frame.c)
    functions = nn.Sequential(features, network(trunk, features.out_dim(dim + 1)))
    return AcousticDeepONet(made, functions, q, bias=branch != "linear", frame=frame)
