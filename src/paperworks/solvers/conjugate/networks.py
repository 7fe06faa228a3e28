"""The convolutional network that proposes search directions."""

import pickle
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count
from paperworks.solvers.conjugate.directions import Proposal
from paperworks.solvers.conjugate.domains import PoissonDomain
from paperworks.solvers.conjugate.unknowns import unknowns_of
from paperworks.solvers.systems import norm

Variant = Literal["n64", "n128"]
# Pairs of convolutions with a shortcut: before each pooling, at the lowest level, after each upsampling.
_PAIRS: dict[Variant, tuple[int, int, int]] = {"n64": (1, 3, 2), "n128": (2, 5, 3)}


class DCDMNet(nn.Module):
    r"""A network that maps a residual of norm one to a direction near that of $A^{-1} r$.

    It sees the residual alone: neither the matrix nor the geometry. Convolutions of width 3 with zeros around the grid
    keep its size; each is followed by ReLU, but for the first one and for the last, of width 1. At each level pairs
    $u \mapsto c(c(u)) + u$ come before the grid is halved by averages and after it is doubled by repetition, where the
    values from before are added. Grids of any size are padded with zeros to a multiple of $2^{levels}$.

    Parameters
    ----------
    dim
        Dimensions of the grid, 2 or 3.
    channels
        Width of all hidden layers. By default 16, the paper's.
    levels
        How often the grid is halved; the paper's networks do it once. Each level lets a direction reach twice as far.
    variant
        The paper's two depths: "n64" has 1, 3 and 2 pairs before, at and after the lowest level, "n128" 2, 5 and 3.
        In three dimensions they have 97,457 and 152,881 parameters.

    Raises
    ------
    ValueError
        If `dim` is neither 2 nor 3, a number is below 1, or the variant isn't known.

    References
    ----------
    arXiv:2205.10763, the figure of the architecture.

    Examples
    --------
    >>> sum(p.numel() for p in DCDMNet(3).parameters()), sum(p.numel() for p in DCDMNet(3, variant="n128").parameters())
    (97457, 152881)
    >>> DCDMNet(2, levels=2)(torch.zeros(5, 30, 33)).shape
    torch.Size([5, 30, 33])
    """

    def __init__(self, dim: int, channels: int = 16, levels: int = 1, variant: Variant = "n64") -> None:
        super().__init__()
        self.dim = check_choice("dim", check_count("dim", dim), (2, 3))
        self.channels = check_count("channels", channels)
        self.levels = check_count("levels", levels, at_most=32)
        self.variant = check_choice("variant", variant, get_args(Variant))
        convolution = nn.Conv2d if dim == 2 else nn.Conv3d
        before, lowest, after = _PAIRS[variant]

        def layer() -> nn.Module:
            # In place, which spares a quarter of the time of a pass.
            return nn.Sequential(convolution(channels, channels, 3, padding=1), nn.ReLU(inplace=True))

        def pairs(count: int) -> list[nn.Module]:
            return [_Pair(layer(), layer()) for _ in range(count)]

        self.first = convolution(1, channels, 3, padding=1)
        self.down = nn.ModuleList([nn.Sequential(layer(), *pairs(before), layer()) for _ in range(levels)])
        self.lowest = nn.Sequential(*pairs(lowest))
        self.up = nn.ModuleList([nn.Sequential(*pairs(after)) for _ in range(levels)])
        self.last = convolution(channels, 1, 1)
        self.pool = nn.AvgPool2d(2) if dim == 2 else nn.AvgPool3d(2)
        for module in self.modules():  # Glorot's law and no biases, as the paper's code starts; others stall at times
            if isinstance(module, convolution):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if dim == 2:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on processors

    def forward(self, r: Float[Tensor, " batch *grid"]) -> Float[Tensor, " batch *grid"]:
        """Propose directions for residuals of norm one.

        Parameters
        ----------
        r
            Residuals on the grid, one or several.

        Returns
        -------
        Tensor
            Directions of any norm and either sign, of the same shape.

        Raises
        ------
        ValueError
            If the grid has another number of dimensions than the network.
        """
        if r.ndim != self.dim + 1:
            raise ValueError(f"r has shape {tuple(r.shape)}; it takes a batch of grids of {self.dim} dimensions")
        multiple = 2**self.levels
        missing = [-size % multiple for size in r.shape[1:]]
        padding = [width for short in reversed(missing) for width in (0, short)]
        x = self.first(nn.functional.pad(r, padding).unsqueeze(1))
        kept = []
        for level in self.down:
            kept.append(level(x))
            x = self.pool(kept[-1])
        x = self.lowest(x)
        for level in self.up:
            x = level(nn.functional.interpolate(x, scale_factor=2, mode="nearest") + kept.pop())
        z = self.last(x).squeeze(1)
        return z[(slice(None), *(slice(size) for size in r.shape[1:]))].contiguous()

    def as_linear_operator(self, domain: PoissonDomain) -> LinearOperator:
        r"""Return $r \mapsto \|r\| f(r / \|r\|)$ as SciPy's operator, to precondition `flexible_cg` with.

        It is homogeneous but not linear: methods that rely on a fixed preconditioner, such as `cg`, may fail with it.

        Parameters
        ----------
        domain
            Domain of the system: directions are 0 outside of its fluid.

        Returns
        -------
        LinearOperator
            Operator on vectors with an entry for each voxel.

        Raises
        ------
        ValueError
            If the domain has another number of dimensions than the network.
        """
        where = unknowns_of(domain, None, self.dim)
        propose = Proposal(self, where)

        def matvec(r: np.ndarray) -> np.ndarray:
            if np.iscomplexobj(r):
                raise TypeError("r is complex; the network takes real residuals")
            row = np.asarray(r, dtype=float).reshape(1, -1)
            size = norm(row[0])
            return size * propose(row)[0] if size else np.zeros(where.n)

        return LinearOperator((where.n, where.n), matvec=matvec, dtype=np.dtype(float))

    def save(self, path: str | Path) -> None:
        """Write the settings and weights to a file.

        Parameters
        ----------
        path
            Where to write them; a file that is there is replaced.
        """
        settings = {name: getattr(self, name) for name in ("dim", "channels", "levels", "variant")}
        torch.save({"settings": settings, "weights": self.state_dict()}, path)

    @classmethod
    def load(cls, path: str | Path) -> "DCDMNet":
        """Read a network that `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path
            The file to read.

        Returns
        -------
        DCDMNet
            The network, in evaluation mode, on the processor.

        Raises
        ------
        ValueError
            If the file holds something else, or weights that aren't those of its settings.
        """
        says = f"path is {str(path)!r}, which holds no DCDMNet; it takes a file that DCDMNet.save wrote"
        try:
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
            settings, weights = found["settings"], found["weights"]
            with torch.device("meta"):  # no room is taken before the weights have shown that they fit
                net = cls(**settings)
            net.load_state_dict(weights, assign=True)
            kinds = {w.dtype for w in weights.values()}
            fit = (
                len(kinds) == 1 and kinds.pop().is_floating_point and all(w.isfinite().all() for w in weights.values())
            )
        except (
            AttributeError,
            EOFError,
            IndexError,
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            raise ValueError(f"{says}: {error!r}") from error
        if not fit:
            raise ValueError(f"{says}, with finite weights of one floating dtype")
        return net.eval()


class _Pair(nn.Module):
    """Two layers with a shortcut around them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + x
