"""What a mesh contributes: strains, weights, masses and forces as matrices, from scikit-fem."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

SQRT2 = np.sqrt(2.0)
COMPONENTS = {2: ("xx", "yy", "zz", "xy"), 3: ("xx", "yy", "zz", "xy", "xz", "yz")}
_SHEARS = ((3, 0, 1), (4, 0, 2), (5, 1, 2))


def load_skfem() -> Any:
    """Import scikit-fem, or say what installs it."""
    try:
        import skfem
    except ImportError:
        raise ImportError(
            "mechanical problems are built on scikit-fem; `pip install 'paperworks[mechanics]'` installs it"
        ) from None
    return skfem


def as_basis(mesh: Any) -> Any:
    """Return a basis of vector elements: of one itself, of a mesh of scikit-fem or meshio, or of a mesh's file."""
    skfem = load_skfem()
    if isinstance(mesh, skfem.AbstractBasis):
        if not isinstance(mesh, skfem.CellBasis) or mesh.nelems != mesh.mesh.nelements:
            raise TypeError(f"mesh is a {type(mesh).__name__}; it takes a Basis of all of the mesh's elements")
        if not isinstance(mesh.elem, skfem.ElementVector):
            raise TypeError(f"mesh is a basis of {type(mesh.elem).__name__}; it takes one of ElementVector")
        return mesh
    if isinstance(mesh, (str, Path)):
        mesh = _read(Path(mesh))
    if type(mesh).__module__.partition(".")[0] == "meshio":
        mesh = _from_meshio(mesh)
    if not isinstance(mesh, skfem.Mesh):
        raise TypeError(
            f"mesh is {type(mesh).__name__}; it takes a basis or mesh of scikit-fem, a mesh of meshio or a file's name"
        )
    if mesh.dim() not in COMPONENTS:
        raise ValueError(f"mesh has {mesh.dim()} dimensions; it takes 2, as plane strain, or 3")
    simplex = mesh.refdom.nnodes == mesh.dim() + 1
    element = mesh.elem()
    # One point integrates the constant strains of a linear simplex, and products of the linear strains of a quadratic
    # one take order 2; the others take two points a direction where linear, three where quadratic.
    order = max(1, 2 * (element.maxdeg - 1)) if simplex else 2 * element.maxdeg // mesh.dim()
    return skfem.Basis(mesh, skfem.ElementVector(element), intorder=order)


def _read(path: Path) -> Any:
    """Return the mesh of a file, by meshio."""
    import meshio

    try:
        return meshio.read(path)
    except SystemExit:  # which meshio raises for files that none of its readers takes
        raise ValueError(f"mesh is the file {path}, which meshio can't read as a mesh of its suffix") from None


def _from_meshio(mesh: Any) -> Any:
    """Return a mesh of scikit-fem, or refuse what it would leave out."""
    from skfem.io.meshio import from_meshio

    dims = {block.type: _DIMENSIONS.get(block.type.rstrip("0123456789"), 0) for block in mesh.cells}
    largest = [kind for kind, dim in dims.items() if dim and dim == max(dims.values())]
    if len(largest) != 1 or largest[0].startswith(("wedge", "pyramid")):
        raise ValueError(
            f"mesh has cells {', '.join(sorted(dims)) or 'of no kind'}; it takes one kind of triangles or "
            "quadrilaterals or, in 3-D, of tetrahedra or hexahedra, and lines and surfaces beside them"
        )
    if dims[largest[0]] == 2 and mesh.points.shape[1] == 3:
        used = mesh.points[np.unique(np.concatenate([block.data.ravel() for block in mesh.cells]))]
        if np.ptp(used[:, 2]) > 1e-9 * np.ptp(used[:, :2]):
            raise ValueError(f"mesh has {largest[0]} cells that are not in a plane of constant z; shells are not taken")
    return from_meshio(mesh)


_DIMENSIONS = {"triangle": 2, "quad": 2, "tetra": 3, "hexahedron": 3, "wedge": 3, "pyramid": 3}


class FiniteElements:
    """Matrices of a basis of scikit-fem: element by element, and sparse.

    Parameters
    ----------
    basis
        A basis of vector elements in 2-D, as plane strain, or 3-D.
    fixed
        For each boundary of the mesh, by its name, the components that are held: "x", "xy", ...
    """

    def __init__(self, basis: Any, fixed: Mapping[str, str]) -> None:
        if not np.isfinite(basis.mesh.p).all():
            raise ValueError("mesh has coordinates that are NaN or infinite; it takes finite ones")
        self.basis = basis
        self.dim = int(basis.mesh.dim())
        self.components = COMPONENTS[self.dim]
        self.dofs = np.ascontiguousarray(basis.element_dofs.T)
        elements, n_points = basis.dx.shape
        self.n_dofs, self.n_points, self.n_nodes = int(basis.N), elements * n_points, basis.mesh.p.shape[1]
        self.weights = basis.dx.ravel()
        self.points = np.moveaxis(np.asarray(basis.global_coordinates()), 0, -1).reshape(-1, self.dim)
        self.element_of_point = np.repeat(np.arange(elements), n_points)

        c, shape = len(self.components), (elements, n_points)
        blocks = np.zeros((elements, n_points, c, self.dofs.shape[1]))
        values = np.zeros((elements, n_points, self.dim, self.dofs.shape[1]))
        for i, (field, *_) in enumerate(basis.basis):
            grad = np.broadcast_to(field.grad, (self.dim, self.dim, *shape))
            for k in range(self.dim):
                blocks[:, :, k, i] = grad[k, k]
                values[:, :, k, i] = np.broadcast_to(np.asarray(field)[k], shape)
            for row, k, m in _SHEARS[: c - 3]:
                blocks[:, :, row, i] = (grad[k, m] + grad[m, k]) / SQRT2
        self.blocks = blocks
        self.strain = self._sparse(blocks)
        self.values = self._sparse(values)
        scalar = basis.with_element(basis.mesh.elem())
        shapes = np.stack([np.broadcast_to(np.asarray(field[0]), shape) for field in scalar.basis], axis=-1)
        rows = np.repeat(np.arange(self.n_points), shapes.shape[-1])
        columns = np.repeat(scalar.element_dofs.T, n_points, axis=0)
        self.interpolation = sp.csr_array((shapes.ravel(), (rows, columns.ravel())), (self.n_points, self.n_nodes))

        if not isinstance(fixed, Mapping):
            raise TypeError(
                f"fixed is {fixed!r}; it takes the components held on each boundary, such as {{'left': 'x'}}"
            )
        held = np.unique(np.concatenate([np.zeros(0, int), *(self._held(*pair) for pair in fixed.items())]))
        self._check_supports(held)
        self.free = np.setdiff1d(self.dofs, held)  # without nodes of no element, as centres of arcs in Gmsh
        self._pattern: Any = None
        self._mass: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mass": None}  # factors by SuperLU can't be copied, and are found again

    def mass(self) -> sp.csr_array:
        """Return the matrix of the L2 product of displacements."""
        return sp.csr_array(self.values.T @ sp.diags_array(np.repeat(self.weights, self.dim)) @ self.values)

    def rooted(self, u: np.ndarray) -> np.ndarray:
        """Return displacements at the points times the root of the weights: their Euclidean product is that of L2."""
        at_points = np.asarray((self.values @ u.T).T)
        return at_points * np.sqrt(np.repeat(self.weights, self.dim))

    def from_rooted(self, v: np.ndarray) -> np.ndarray:
        """Return the displacements that `rooted` gives `v` for."""
        if self._mass is None:
            self._mass = splu(sp.csc_array(self.mass()[self.free][:, self.free]))
        u = np.zeros((len(v), self.n_dofs))
        load = np.asarray(((v * np.sqrt(np.repeat(self.weights, self.dim))) @ self.values)[:, self.free])
        u[:, self.free] = self._mass.solve(np.ascontiguousarray(load.T)).T
        return u

    def internal(self, sigma: np.ndarray) -> np.ndarray:
        """Return the forces of a stress at the integration points."""
        return np.asarray((self.weights[:, None] * sigma).ravel() @ self.strain)

    def solve(self, tangent: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Solve with the stiffness of tangent moduli; the order of elimination is found once."""
        elements, n_points, c, nd = self.blocks.shape
        moduli = (self.weights[:, None, None] * tangent).reshape(elements, n_points, c, c)
        stacked = (moduli @ self.blocks).reshape(elements, n_points * c, nd)
        local = self.blocks.reshape(elements, n_points * c, nd).transpose(0, 2, 1) @ stacked
        if self._pattern is None:
            self._pattern = _Pattern(self.dofs, self.free, self.n_dofs)
        u = np.zeros(self.n_dofs)
        u[self.free] = self._pattern.solve(local.ravel(), r[self.free])
        return u

    def pressure(self, name: str) -> np.ndarray:
        """Return the forces of a unit pressure on a boundary."""
        skfem = load_skfem()
        boundary = skfem.FacetBasis(self.basis.mesh, self.basis.elem, facets=self._facets(name))
        form = skfem.LinearForm(lambda v, w: -sum(w.n[k] * v[k] for k in range(self.dim)))
        return np.asarray(form.assemble(boundary))

    def rotation(self, centre: Any, axis: Any, density: float) -> np.ndarray:
        """Return the forces of a unit angular velocity about an axis."""
        arm = self.points - self._vector("centre", centre, np.zeros(self.dim))
        if self.dim == 3:
            direction = self._vector("axis", axis, np.array([0.0, 0.0, 1.0]))
            if not (size := np.linalg.norm(direction)) > 0:
                raise ValueError("axis is 0; it takes a direction")
            arm = arm - np.outer(arm @ direction, direction) / size**2
        elif axis is not None:
            raise ValueError("axis is given in plane strain; there it is always z")
        return np.asarray((density * self.weights[:, None] * arm).ravel() @ self.values)

    def _vector(self, name: str, value: Any, default: np.ndarray) -> np.ndarray:
        found = default if value is None else np.asarray(value, dtype=float)
        if found.shape != (self.dim,) or not np.isfinite(found).all():
            raise ValueError(f"{name} is {value!r}; it takes {self.dim} finite coordinates")
        return found

    def _sparse(self, blocks: np.ndarray) -> sp.csr_array:
        """Return element matrices at points (elements, points, rows, dofs) as a sparse matrix."""
        elements, n_points, rows, nd = blocks.shape
        columns = np.repeat(self.dofs, n_points * rows, axis=0).ravel()
        starts = np.arange(0, elements * n_points * rows * nd + 1, nd)
        return sp.csr_array((blocks.ravel(), columns, starts), (elements * n_points * rows, self.n_dofs))

    def _facets(self, name: str) -> np.ndarray:
        boundaries = self.basis.mesh.boundaries or {}
        if name not in boundaries:
            raise ValueError(f"the mesh has no boundary {name!r}; it has {', '.join(sorted(boundaries)) or 'none'}")
        return np.asarray(boundaries[name])

    def _check_supports(self, held: np.ndarray) -> None:
        """Refuse supports that leave a rigid motion free: the stiffness would be singular."""
        at = self.basis.doflocs - self.basis.doflocs.mean(1, keepdims=True)
        axis = np.zeros(self.n_dofs, dtype=int)
        axis[self.dofs] = np.arange(self.dofs.shape[1]) % self.dim  # elements of vectors have the components in turn
        motions = [axis == k for k in range(self.dim)]
        for k, m in ((0, 1), (0, 2), (1, 2))[: 2 * self.dim - 3]:
            motions.append((axis == k) * at[m] - (axis == m) * at[k])
        rigid = np.array(motions, dtype=float)
        rigid /= np.linalg.norm(rigid, axis=1, keepdims=True)
        free = len(rigid) - np.linalg.matrix_rank(rigid[:, held] if len(held) else np.zeros((1, 1)), tol=1e-9)
        if free:
            raise ValueError(
                f"fixed leaves {free} rigid motions of the mesh free; it takes supports against all of them"
            )

    def _held(self, name: str, axes: str) -> np.ndarray:
        letters = "xyz"[: self.dim]
        if not isinstance(axes, str) or not axes or set(axes) - set(letters):
            raise ValueError(f"fixed holds {axes!r} of {name!r}; it takes some of the letters {letters}")
        found = self.basis.get_dofs(self._facets(name))
        return np.asarray(found.all([f"u^{letters.index(axis) + 1}" for axis in axes]))


class _Pattern:
    """Where element matrices go in the sparse matrix of free unknowns, in an order that keeps its factors sparse."""

    def __init__(self, dofs: np.ndarray, free: np.ndarray, n_dofs: int) -> None:
        number = np.full(n_dofs, -1)
        number[free] = np.arange(len(free))
        rows = np.repeat(number[dofs], dofs.shape[1], axis=1).ravel()
        columns = np.tile(number[dofs], (1, dofs.shape[1])).ravel()
        self.kept = np.flatnonzero((rows >= 0) & (columns >= 0))
        rows, columns, n = rows[self.kept], columns[self.kept], len(free)
        ones = sp.csc_array((np.ones(len(rows)), (rows, columns)), (n, n)) + n * sp.eye_array(n, format="csc")
        options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
        self.order = splu(sp.csc_array(ones), **options).perm_c
        place = self.order[rows] + n * self.order[columns].astype(np.int64)
        entries, self.entry = np.unique(place, return_inverse=True)
        self.indices = (entries % n).astype(np.int32)
        self.starts = np.searchsorted(entries, n * np.arange(n + 1, dtype=np.int64)).astype(np.int32)
        self.n = n

    def solve(self, local: np.ndarray, r: np.ndarray) -> np.ndarray:
        data = np.bincount(self.entry, weights=local[self.kept], minlength=len(self.indices))
        matrix = sp.csc_array((data, self.indices, self.starts), (self.n, self.n))
        # The tangent isn't symmetric, but its pattern is; pivots stay on the diagonal unless they are small.
        factor = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=1e-3, options={"SymmetricMode": True})
        permuted = np.empty_like(r)
        permuted[self.order] = r
        return np.asarray(factor.solve(permuted)[self.order])
