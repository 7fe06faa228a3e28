"""Poisson's equation on voxels that are fluid, solid or air, with a stencil that needs no matrix."""

from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import ndimage, sparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from paperworks.core.validation import check_choice, check_number

Array = TypeVar("Array", np.ndarray, Tensor)
Walls = Literal["dirichlet", "neumann"]


class PoissonDomain:
    r"""Negative Laplacian on the fluid voxels of a grid: 5 points in two dimensions, 7 in three.

    Unknowns are the values in fluid voxels. The value in air is 0 (Dirichlet), and nothing flows into solids
    (Neumann): $A_{ii}$ is the number of neighbours that aren't solid and $A_{ij} = -1$ between fluid neighbours, both
    over `spacing` squared. Rows of other voxels are zero, so that vectors have one entry for each voxel, the last axis
    fastest. Where a region of fluid touches neither air nor an open end, the matrix is singular there: right-hand
    sides have to sum to zero in it, and solutions are those of mean zero.

    Parameters
    ----------
    mask
        Grid of two or three dimensions: True where there is fluid and False where there is a solid, or whole numbers: 0
        solid, 1 fluid, 2 air.
    spacing
        Width of a voxel, from 1e-100 to 1e100. By default 1, as in arXiv:2205.10763, where the scale doesn't matter.
    bc
        What is beyond the grid: "dirichlet" – air, "neumann" – solid walls.

    Raises
    ------
    ValueError
        If the grid isn't of two or three dimensions, holds other numbers, or has no fluid.
    TypeError
        If `mask` holds neither truth values nor whole numbers.

    References
    ----------
    arXiv:2205.10763, the section on the model problem.

    Examples
    --------
    >>> box = PoissonDomain(np.ones((2, 2), bool))
    >>> box.apply(np.array([[1.0, 0.0], [0.0, 0.0]]))
    array([[ 4., -1.],
           [-1.,  0.]])
    """

    SOLID, FLUID, AIR = 0, 1, 2

    def __init__(self, mask: ArrayLike, spacing: float = 1.0, bc: Walls = "dirichlet") -> None:
        cells = np.asarray(mask)
        if cells.dtype.kind not in "bui":
            raise TypeError(f"mask holds {cells.dtype}; it takes truth values, or 0 (solid), 1 (fluid) and 2 (air)")
        if cells.ndim not in (2, 3) or not cells.size:
            raise ValueError(f"mask has shape {cells.shape}; it takes a grid of two or three dimensions")
        if not np.isin(cells, (self.SOLID, self.FLUID, self.AIR)).all():
            raise ValueError(f"mask holds {np.unique(cells).tolist()}; it takes 0 (solid), 1 (fluid) and 2 (air)")
        if not (cells == self.FLUID).any():
            raise ValueError("mask has no fluid voxel; it takes one at least")
        self.cells = cells.astype(np.int8)
        self.spacing = check_number("spacing", spacing, ge=1e-100, le=1e100)  # whose squares are numbers too
        self.bc = check_choice("bc", bc, get_args(Walls))
        self.grid: tuple[int, ...] = cells.shape
        self.fluid = self.cells == self.FLUID
        outside = self.AIR if bc == "dirichlet" else self.SOLID
        padded = np.pad(self.cells, 1, constant_values=outside) != self.SOLID
        inner = (slice(1, -1),) * cells.ndim
        neighbours = sum(np.roll(padded, by, axis)[inner].astype(int) for axis in range(cells.ndim) for by in (1, -1))
        self.diagonal: Float[np.ndarray, ...] = np.where(self.fluid, neighbours, 0) / self.spacing**2
        self._sides = [_sides(cells.ndim, axis) for axis in range(cells.ndim)]
        self._weights: dict[Any, tuple[Any, Any]] = {}

    @classmethod
    def from_sdf(
        cls, solid: ArrayLike, liquid: ArrayLike | None = None, spacing: float = 1.0, bc: Walls = "dirichlet"
    ) -> "PoissonDomain":
        """Make a domain from signed distances at the centres of voxels, as level sets give them.

        Parameters
        ----------
        solid
            Signed distance to the solids, below 0 inside of them.
        liquid
            Signed distance to the liquid's surface, below 0 in the liquid; beyond it is air. Default: no air.
        spacing
            Width of a voxel.
        bc
            What is beyond the grid, as in the class.

        Returns
        -------
        PoissonDomain
            The domain with a voxel for each distance.

        Examples
        --------
        >>> PoissonDomain.from_sdf(np.array([[-1.0, 0.5, 1.5]])).fluid
        array([[False,  True,  True]])
        """
        distance = np.asarray(solid, dtype=float)
        surface = np.full(distance.shape, -1.0) if liquid is None else np.asarray(liquid, dtype=float)
        if surface.shape != distance.shape:
            raise ValueError(f"liquid has shape {surface.shape}; it takes {distance.shape}, that of solid")
        for name, values in (("solid", distance), ("liquid", surface)):
            if np.isnan(values).any():
                raise ValueError(f"{name} has NaN; it takes distances")
        cells = np.where(distance < 0, cls.SOLID, np.where(surface < 0, cls.FLUID, cls.AIR))
        return cls(cells, spacing, bc)

    @property
    def n(self) -> int:
        """Number of voxels, which is that of rows of the matrix."""
        return self.fluid.size

    @cached_property
    def closed(self) -> Int[np.ndarray, "..."]:
        """For each voxel the number of the region without air or open ends that it is in, from 1 on; 0 for none."""
        regions, count = ndimage.label(self.fluid)
        # Its matrix times one: above 0 where there is a neighbour in which the value is fixed.
        held = self.apply(self.fluid.astype(float)) > 0.5 / self.spacing**2
        is_open = np.zeros(count + 1, bool)
        is_open[0] = True
        is_open[regions[held]] = True
        number = np.where(is_open, 0, np.cumsum(~is_open))
        return np.asarray(number[regions])

    def apply(self, x: Array) -> Array:
        """Multiply by the matrix.

        Parameters
        ----------
        x
            Values on the grid, as a NumPy array or a tensor whose last axes are the grid's; values outside of the fluid
            don't matter. Tensors may ask for gradients.

        Returns
        -------
        Array
            The product, of the same kind, shape and dtype; 0 outside of the fluid.

        Raises
        ------
        ValueError
            If the last axes aren't those of the grid.

        Examples
        --------
        >>> PoissonDomain(np.ones((2, 2), bool)).apply(torch.ones(2, 2))
        tensor([[2., 2.],
                [2., 2.]])
        """
        if tuple(x.shape[-len(self.grid) :]) != self.grid:
            raise ValueError(f"x has shape {tuple(x.shape)}; it takes {self.grid} as the last axes")
        scale, diagonal = self._weights_like(x)
        x = x * scale  # which is 0 outside of the fluid
        y = x * diagonal
        for low, high in self._sides:
            y[low] -= x[high]
            y[high] -= x[low]
        return y * (scale != 0)

    def matrix(self) -> sparse.csr_array:
        """Return the matrix with a row for each voxel.

        Returns
        -------
        scipy.sparse.csr_array
            Symmetric and positive semidefinite, with zero rows for voxels without fluid.

        Examples
        --------
        >>> PoissonDomain([[True, True]], bc="neumann").matrix().toarray()
        array([[ 1., -1.],
               [-1.,  1.]])
        """
        number = np.arange(self.n).reshape(self.grid)
        rows, columns = [], []
        for low, high in self._sides:
            both = self.fluid[low] & self.fluid[high]
            rows += [number[low][both], number[high][both]]
            columns += [number[high][both], number[low][both]]
        i, j = np.concatenate(rows), np.concatenate(columns)
        inside = number[self.fluid]
        values = np.concatenate([np.full(len(i), -1 / self.spacing**2), self.diagonal[self.fluid]])
        found = sparse.coo_array((values, (np.append(i, inside), np.append(j, inside))), shape=(self.n, self.n))
        return sparse.csr_array(found)

    def operator(self) -> "PoissonOperator":
        """Return the matrix as SciPy's linear operator, which needs no matrix.

        Returns
        -------
        PoissonOperator
            Operator on vectors with an entry for each voxel.
        """
        return PoissonOperator(self)

    def __repr__(self) -> str:
        share = float(self.fluid.mean())
        return f"PoissonDomain(grid={self.grid}, fluid={share:.0%}, spacing={self.spacing:g}, bc={self.bc!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_weights": {}}

    def _weights_like(self, x: Any) -> tuple[Any, Any]:
        """Return 1 / spacing squared in the fluid and 0 elsewhere, and the numbers of neighbours, as `x` is."""
        if not (x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"):
            raise TypeError(f"x holds {x.dtype}; it takes real floating numbers")
        key = (x.dtype, x.device if isinstance(x, Tensor) else None)
        if key not in self._weights:
            scale, counts = self.fluid / self.spacing**2, self.diagonal * self.spacing**2
            if isinstance(x, Tensor):
                with torch.inference_mode(False):  # else gradients couldn't go through them later
                    self._weights[key] = tuple(torch.from_numpy(a).to(x.device, x.dtype) for a in (scale, counts))  # type: ignore[assignment]
            else:
                self._weights[key] = scale.astype(x.dtype), counts.astype(x.dtype)
        return self._weights[key]


class PoissonOperator(LinearOperator):
    """The matrix of a domain as a linear operator: the stencil, applied to one vector or to several at once.

    Parameters
    ----------
    domain
        The domain whose matrix it is.

    Examples
    --------
    >>> PoissonOperator(PoissonDomain([[True, True]])) @ np.ones(2)
    array([3., 3.])
    """

    def __init__(self, domain: PoissonDomain) -> None:
        super().__init__(np.dtype(float), (domain.n, domain.n))
        self.domain = domain

    def _matmat(self, x: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(x):
            return self._matmat(x.real) + 1j * self._matmat(x.imag)
        values = x if x.dtype in (np.float32, np.float64) else x.astype(float)
        return self.domain.apply(values.T.reshape(-1, *self.domain.grid)).reshape(-1, self.domain.n).T

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x.reshape(-1, 1)).reshape(x.shape)

    def _adjoint(self) -> "PoissonOperator":
        return self  # real and symmetric


def _sides(dim: int, axis: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return slices of all voxels but the last, and of all but the first, along an axis of the grid."""
    after = (slice(None),) * (dim - axis - 1)
    return (..., slice(None, -1), *after), (..., slice(1, None), *after)
