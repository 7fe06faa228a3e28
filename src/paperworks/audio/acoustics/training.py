"""Training of the operator on fields: shared coordinates, adaptive weights, and what comes over from another room."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from paperworks.audio.acoustics.deeponet import AcousticDeepONet
from paperworks.audio.acoustics.networks import ModifiedMLP, ResNetBranch, SineMLP
from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.numerics import silent, torch_generator, train


class SelfAdaptiveWeights(nn.Module):
    """One weight for each coordinate, which grows where the error stays large.

    The network minimises and the weights maximise ``mean(weight_j error_j^2)``. (The published code multiplies the
    prediction inside the square instead.)

    Parameters
    ----------
    n
        Number of coordinates.
    lr
        Rate of the weights' Adam; 1e-5 by default, the paper's.
    greatest
        Weights are clipped to 0 and this; 1000 by default.

    Raises
    ------
    ValueError
        For a count below 1 or a negative rate.

    References
    ----------
    arXiv:2308.05141, supplement on the training; McClenny and Braga-Neto, arXiv:2009.04544.

    Examples
    --------
    >>> weights = SelfAdaptiveWeights(3, lr=0.1)
    >>> weights(torch.tensor([[1.0, 4.0]]), torch.tensor([0, 2])).backward()
    >>> weights.ascend()
    >>> [round(w, 3) for w in weights.values.tolist()]
    [1.1, 1.0, 1.1]
    """

    def __init__(self, n: int, lr: float = 1e-5, greatest: float = 1000.0) -> None:
        super().__init__()
        self.greatest = check_number("greatest", greatest, gt=0)
        # Sparse: the momentum of coordinates that a step doesn't see must not move them.
        self.table = nn.Embedding(check_count("n", n), 1, sparse=True)
        nn.init.ones_(self.table.weight)
        self._optimizer = torch.optim.SparseAdam([self.table.weight], lr=check_number("lr", lr, ge=0), maximize=True)

    @property
    def values(self) -> Float[Tensor, " n"]:
        """The weights."""
        return self.table.weight[:, 0]

    def forward(self, squared: Float[Tensor, "batch points"], index: Int[Tensor, " points"]) -> Float[Tensor, ""]:
        """Return the weighted mean of squared errors.

        Parameters
        ----------
        squared
            Squared errors (batch, points).
        index
            Which coordinates the points are.

        Returns
        -------
        Tensor
            A number with a graph to the errors and to the weights.
        """
        return (squared * self.table(index)[:, 0]).mean()

    @torch.no_grad()
    def ascend(self) -> None:
        """Take a step uphill with the gradient that `backward` left, and clip."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.table.weight.clamp_(0, self.greatest)


def train_deeponet(
    model: AcousticDeepONet,
    u: Float[Tensor, "sources ..."],
    y: Float[Tensor, "points d_plus_1"],
    p: Float[Tensor, "sources points"],
    steps: int,
    *,
    batch_size: int = 64,
    coordinates: int = 1000,
    shared: bool = True,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    clip: float = 0.01,
    schedule: Callable[[int], float] | None = None,
    adaptive: SelfAdaptiveWeights | None = None,
    source_fields: Float[Tensor, "others ..."] | None = None,
    ceod_weight: float = 10.0,
    random_state: int = 0,
    callback: Callable[[int, float], bool | None] | None = None,
    progress: Callable[..., Any] = silent,
) -> Float[np.ndarray, " steps"]:
    """Train a network on fields of several sources by AdamW.

    Parameters
    ----------
    model
        The network, trained in place; parameters that don't require gradients stay.
    u
        Fields of the sources (sources, *sensors) in Pa.
    y
        Coordinates (points, d + 1), as the network takes them.
    p
        Pressure (sources, points) in Pa.
    steps
        Number of steps; 60,000 to 80,000 in the paper.
    batch_size
        Sources of a step, at most all; 64 by default, the paper's.
    coordinates
        Coordinates of a step, drawn at random; 1000 by default.
    shared
        Whether all sources of a step share the coordinates, which takes one pass of the trunk instead of one for each
        source, as published.
    lr
        Rate of the first step; 1e-3 by default.
    weight_decay
        AdamW's; 1e-4 by default.
    clip
        Greatest norm of the gradient; 0.01 by default, the paper's, which hardly matters to Adam.
    schedule
        Share of the rate in a step; 0.9 to the power of the step / 2000 by default, the paper's.
    adaptive
        Weights of the coordinates, which are trained beside the network; none by default.
    source_fields
        Fields of another room's sources, for which `ceod` is added to the loss; none by default.
    ceod_weight
        Factor of that term; 10 by default, the paper's.
    random_state
        Seed of the sources and coordinates of the steps.
    callback
        Called with the step and the loss after each; training ends where it returns True.
    progress
        Wraps the range of steps, as `Run.progress` does.

    Returns
    -------
    ndarray
        The loss of each step.

    Raises
    ------
    ValueError
        For shapes that don't match or data that isn't finite.

    References
    ----------
    arXiv:2308.05141, supplement on the training.

    Examples
    --------
    >>> from paperworks.audio.acoustics import GaussianSource, Room, RoomFrame, image_source_1d, make_acoustic_deeponet
    >>> frame, places, times = RoomFrame(Room((2.0,))), np.linspace(0, 2, 21), np.linspace(0, 0.005, 11)
    >>> sources = np.linspace(0.7, 1.3, 5)[:, None]
    >>> p = image_source_1d(2.0, GaussianSource(sources, frame.sigma), places, times)
    >>> p = torch.as_tensor(p.transpose(0, 2, 1).reshape(5, -1), dtype=torch.float32)
    >>> model = make_acoustic_deeponet(frame, hidden=32, q=16)
    >>> y = frame.coordinates(places[:, None], times)
    >>> losses = train_deeponet(model, frame.source_fields(sources), y, p, 100, coordinates=100)
    >>> bool(losses[-1] < losses[0])
    True
    """
    if len(u) != len(p) or p.shape[1:] != y.shape[:1]:
        raise ValueError(
            f"u, y and p have shapes {tuple(u.shape)}, {tuple(y.shape)} and {tuple(p.shape)}; p takes "
            f"({len(u)}, {len(y)})"
        )
    for name, data in (("u", u), ("y", y), ("p", p)):
        if not isinstance(data, Tensor):
            raise TypeError(f"{name} is {type(data).__name__}; it takes a tensor")
        if not len(data):
            raise ValueError(f"{name} is empty; it takes one row or more")
        check_finite(name, data)
    trained = [q for q in model.parameters() if q.requires_grad]
    if not trained:
        raise ValueError("model has no parameter that requires gradients; it takes one or more")
    if adaptive is not None and len(adaptive.values) != len(y):
        raise ValueError(f"adaptive has {len(adaptive.values)} weights; it takes one for each of {len(y)} coordinates")
    if source_fields is not None and not shared:
        raise ValueError("shared is False; the discrepancy takes coordinates that sources share")
    generator = torch_generator(random_state)
    rows = min(check_count("batch_size", batch_size), len(u))
    points = min(check_count("coordinates", coordinates), len(y))
    optimizer = torch.optim.AdamW(trained, lr, weight_decay=weight_decay, fused=True)

    def loss(step: int) -> Tensor:
        some = slice(None) if rows == len(u) else torch.randperm(len(u), generator=generator)[:rows]
        # With replacement: a permutation of all coordinates would cost more than a small network.
        at = torch.randint(len(y), (points,) if shared else (rows, points), generator=generator)
        true = p[some].gather(1, at) if not shared else p.index_select(1, at)[some]
        found = model(u[some], y[at])
        squared = (found - true).square()
        value = squared.mean() if adaptive is None else adaptive(squared, at)
        if source_fields is not None:
            others = torch.randperm(len(source_fields), generator=generator)[:rows]
            theirs = source_fields[others]
            if len(theirs) != len(true):
                raise ValueError(f"source_fields has {len(theirs)} fields; it takes at least {len(true)}")
            discrepancy = ceod(
                model.branch_features(u[some], last=False),
                true,
                model.branch_features(theirs, last=False),
                model(theirs, y[at]),
            )
            value = value + ceod_weight * discrepancy
        return value

    def after(step: int, value: float) -> bool | None:
        if adaptive is not None:
            adaptive.ascend()
        return callback(step, value) if callback is not None else None

    model.train()
    losses = train(
        loss,
        optimizer,
        steps,
        schedule=schedule or (lambda step: math.pow(0.9, step / 2000)),
        clip=clip,
        callback=after,
        progress=progress,
    )
    model.eval()
    if model.frame is not None:
        model.trained_until = float(y[..., -1].max())
    return losses


def ceod(
    features: Float[Tensor, "n k"],
    outputs: Float[Tensor, "n m"],
    other_features: Float[Tensor, "n k"],
    other_outputs: Float[Tensor, "n m"],
    gamma: float = 5.0,
    ridge: float = 1.0,
) -> Float[Tensor, ""]:
    """Return the discrepancy of two conditional laws, embedded by Gaussian kernels.

    It is the squared Hilbert-Schmidt distance between the regressions of the kernel features of outputs on those of
    inputs, from samples of each.

    Parameters
    ----------
    features, outputs
        Samples of inputs and outputs of one room, (n, k) and (n, m).
    other_features, other_outputs
        As many samples of the other room.
    gamma
        Kernels are ``exp(-gamma |a - b|^2)``; 5 by default, as published.
    ridge
        Regularisation of the regressions, times n; 1 by default.

    Returns
    -------
    Tensor
        A number of 0 or more.

    Raises
    ------
    ValueError
        For other numbers of samples.

    References
    ----------
    arXiv:2308.05141, transfer learning; Goswami et al., arXiv:2204.09810, section on the loss.

    Examples
    --------
    >>> x, y = torch.rand(8, 3), torch.rand(8, 5)
    >>> abs(float(ceod(x, y, x, y))) < 1e-5
    True
    """
    n = len(features)
    if not n == len(outputs) == len(other_features) == len(other_outputs):
        raise ValueError(f"features has {n} samples; all four take as many")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        apart = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return torch.exp(-gamma * apart)

    def regression(x: Tensor) -> Tensor:
        return torch.linalg.inv(kernel(x, x) + n * ridge * torch.eye(n, dtype=x.dtype, device=x.device))

    p, q = regression(features), regression(other_features)
    same = (p @ kernel(outputs, outputs) @ p * kernel(features, features)).sum()
    other = (q @ kernel(other_outputs, other_outputs) @ q * kernel(other_features, other_features)).sum()
    cross = (p @ kernel(outputs, other_outputs) @ q * kernel(features, other_features)).sum()
    return same + other - 2 * cross


def transfer(
    source: AcousticDeepONet,
    target: AcousticDeepONet,
    branch: Sequence[int] = (0, 1),
    trunk: Sequence[int] = (0,),
    *,
    gates: bool = True,
    bias: bool = False,
) -> None:
    """Load the weights of another room's network, and freeze some layers.

    Parameters
    ----------
    source
        The trained network.
    target
        The network that takes them, with the same layers.
    branch, trunk
        Numbers of the hidden layers that are frozen, from 0 on; the paper's by default, 0 and 1 of the branch and 0 of
        the trunk. A convolutional branch is frozen up to its dense layers, as published.
    gates
        Whether gates of branch and trunk are frozen too; yes by default.
    bias
        Whether the constant is frozen; no by default.

    Raises
    ------
    ValueError
        For networks with other layers, or layers that aren't there.

    References
    ----------
    arXiv:2308.05141, section on transfer learning.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room, RoomFrame, make_acoustic_deeponet
    >>> first, second = (make_acoustic_deeponet(RoomFrame(Room((2.0,))), hidden=8, n_layers=2, q=4) for _ in range(2))
    >>> transfer(first, second)
    >>> len([p for p in second.parameters() if not p.requires_grad])
    14
    """
    theirs, ours = source.state_dict(), target.state_dict()
    if apart := [
        k for k in theirs.keys() | ours.keys() if k not in ours or k not in theirs or ours[k].shape != theirs[k].shape
    ]:
        raise ValueError(f"target has other layers than source: {', '.join(sorted(apart)[:3])}")
    frozen: list[nn.Module] = []
    for name, network, numbers in (("branch", target.branch, branch), ("trunk", target.trunk, trunk)):
        inner = network[-1] if isinstance(network, nn.Sequential) else network
        if isinstance(inner, ResNetBranch):
            frozen += [inner.stem, inner.norm, inner.blocks]
        elif isinstance(inner, SineMLP):
            for i in numbers:
                if not 0 <= i < len(inner.layers):
                    raise ValueError(f"{name} has layer {i}; it takes 0 to {len(inner.layers) - 1}")
                frozen.append(inner.layers[i])
            if gates and isinstance(inner, ModifiedMLP):
                frozen += [inner.gate_u, inner.gate_v]
        elif numbers:
            raise ValueError(f"{name} is {type(inner).__name__}, whose layers have no numbers; it takes ()")
    target.load_state_dict(theirs)
    for parameter in target.parameters():
        parameter.requires_grad_(True)
    if target.bias is not None:
        target.bias.requires_grad_(not bias)
    for part in frozen:
        part.requires_grad_(False)
