"""A zone of a finite-element mesh as a model of its own: elements, cut, and how it sits in the whole."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from paperworks.reduction.submodel.elastodynamics import Elastodynamics, load_skfem


@dataclass(frozen=True)
class Submodel:
    """A zone with its own basis; displacements at its cut, the boundary inside the whole, drive it.

    Examples
    --------
    >>> import skfem
    >>> mesh = skfem.MeshQuad.init_tensor(np.linspace(0, 4, 5), np.linspace(0, 1, 2))
    >>> basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementQuad1()))
    >>> zone = extract_submodel(basis, mesh.p[0, mesh.t].mean(0) > 3)
    >>> zone.boundary_dofs.shape, int(zone.basis.N)
    ((2, 2), 8)
    """

    basis: Any
    """scikit-fem's basis of the zone alone."""
    boundary_dofs: Int[np.ndarray, "c cut"]
    """The zone's degrees of freedom at the cut: one row for each component, the nodes in their order along the cut."""
    node_map: Int[np.ndarray, " nodes"]
    """For each node of the zone its number in the whole mesh."""
    dof_map: Int[np.ndarray, " dofs"]
    """For each degree of freedom of the zone its number in the whole."""
    elements: Int[np.ndarray, " elements"]
    """The zone's elements in the whole mesh."""
    field_dofs: Int[np.ndarray, "c places"]
    """The zone's degrees of freedom, all of them, in rows for the components."""

    @property
    def full_boundary_dofs(self) -> Int[np.ndarray, "c cut"]:
        """The degrees of freedom at the cut, by their numbers in the whole."""
        return self.dof_map[self.boundary_dofs]

    def restrict(self, u: Float[np.ndarray, "... whole"]) -> Float[np.ndarray, "... dofs"]:
        """Return what the whole's vectors `u`, degrees of freedom along the last axis, are in the zone.

        Returns
        -------
        np.ndarray
            The zone's entries, in its own order.
        """
        return u[..., self.dof_map]

    def histories(self, u: Float[np.ndarray, "times dofs *batch"]) -> Float[np.ndarray, "*batch c cut times"]:
        """Return the histories at the cut that the whole's displacements `u` contain, as samplers learn them.

        Returns
        -------
        np.ndarray
            Histories of shape (C, n_b, n_t), or (n, C, n_b, n_t) for displacements with columns.
        """
        return np.moveaxis(u[:, self.full_boundary_dofs], (1, 2, 0), (-3, -2, -1))

    def trace(self, fields: Float[np.ndarray, "*batch c places times"]) -> Float[np.ndarray, "*batch c cut times"]:
        """Return histories at the cut from `fields` of the whole zone, (..., C, nodes, n_t) as `field_dofs` has them.

        Returns
        -------
        np.ndarray
            Histories of shape (..., C, n_b, n_t).
        """
        if fields.shape[-3:-1] != self.field_dofs.shape:
            raise ValueError(f"fields has shape {fields.shape}; it takes (..., *{self.field_dofs.shape}, times)")
        place = np.empty(int(self.basis.N), dtype=int)
        place[self.field_dofs[0]] = np.arange(self.field_dofs.shape[1])
        return fields[..., place[self.boundary_dofs[0]], :]

    def model(self, full: Elastodynamics) -> Elastodynamics:
        """Return the zone of a `full` model: the same scheme and damping, its materials, what is fixed there.

        Returns
        -------
        Elastodynamics
            A model on the zone's basis.
        """
        if full.n_dofs <= self.dof_map.max() or full.basis.nelems <= self.elements.max():
            raise ValueError(f"full has {full.n_dofs} degrees of freedom; it takes the model that the zone is of")
        here, there = self.basis.doflocs, full.basis.doflocs[:, self.dof_map]
        if not np.allclose(here, there, rtol=0, atol=1e-6 * np.ptp(self.basis.mesh.p), equal_nan=True):
            raise ValueError("full has another mesh; it takes the model that the zone is of")
        material = {name: getattr(full, name)[self.elements] for name in ("lam", "mu", "rho")}
        # What is fixed at the cut comes with the histories.
        fixed = np.setdiff1d(np.flatnonzero(np.isin(self.dof_map, full.fixed)), self.boundary_dofs)
        return Elastodynamics(
            self.basis, **material, damping=full.damping, scheme=full.scheme, hht=full.hht, fixed=fixed
        )


def extract_submodel(basis: Any, element_mask: ArrayLike) -> Submodel:
    r"""Cut a zone out of a mesh.

    Its boundary falls into the cut :math:`\Gamma_s`, inside the whole, and parts of the whole's own boundary. With the
    true displacements at the cut, the same scheme, step and parameters, the zone's equations are the whole's, so its
    solution is the whole's up to rounding.

    Parameters
    ----------
    basis
        The whole's basis, of an ElementVector of scikit-fem.
    element_mask
        Which elements the zone has: truth values (elements,), or their numbers.

    Returns
    -------
    Submodel
        The zone, with the nodes of its cut in order: along x in 1-D, along the line in 2-D, by coordinates in 3-D.

    Raises
    ------
    TypeError, ValueError
        For a basis of another element, a mask of another shape, and a zone that is empty or everything.

    References
    ----------
    Boukraichi et al., arXiv:2110.13680, 2021, the submodel.

    Examples
    --------
    >>> import skfem
    >>> mesh = skfem.MeshLine(np.linspace(0, 1, 11))
    >>> basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementLineP1()))
    >>> extract_submodel(basis, [6, 7]).full_boundary_dofs
    array([[6, 8]])
    """
    skfem = load_skfem()
    if not isinstance(getattr(basis, "elem", None), skfem.ElementVector):
        raise TypeError(f"basis is {type(basis).__name__}; it takes a skfem.Basis of an ElementVector")
    mesh = basis.mesh
    mask = np.asarray(element_mask)
    if mask.dtype == bool:
        if mask.shape != (mesh.nelements,):
            raise ValueError(f"element_mask has shape {mask.shape}; it takes ({mesh.nelements},)")
        elements = np.flatnonzero(mask)
    else:
        if mask.ndim != 1 or (mask.size and (mask.dtype.kind not in "iu" or mask.min() < 0)):
            raise ValueError("element_mask takes truth values, or the numbers of elements")
        elements = np.unique(mask)
        if len(elements) and elements[-1] >= mesh.nelements:
            raise ValueError(f"element_mask has the element {elements[-1]}; it takes numbers below {mesh.nelements}")
    if not 0 < len(elements) < mesh.nelements:
        raise ValueError(f"element_mask has {len(elements)} of {mesh.nelements} elements; it takes some and not all")
    part, node_map = _restricted(mesh, elements)
    zone = skfem.Basis(part, basis.elem)
    dof_map = np.empty(int(zone.N), dtype=int)
    dof_map[zone.element_dofs] = basis.element_dofs[:, elements]
    there, size = basis.doflocs[:, dof_map], np.ptp(part.p)
    if not np.allclose(zone.doflocs, there, rtol=0, atol=1e-6 * size, equal_nan=True):  # bubbles have no place
        raise ValueError("basis has elements whose degrees of freedom depend on the mesh around them; it takes others")
    # A body that hangs on by one node alone is cut there too, without a facet.
    dofs = np.flatnonzero(np.isin(dof_map, np.delete(basis.element_dofs, elements, 1)))
    if not len(dofs):
        raise ValueError("element_mask has a part of the mesh that touches nothing else; it takes one with a cut")
    components = _components(zone)
    position = _positions(zone, _cut_facets(mesh, elements, part, node_map))
    rows = [dofs[components[dofs] == c] for c in range(mesh.dim())]
    boundary = np.stack([row[np.argsort(position[row], kind="stable")] for row in rows])
    field = np.stack([np.flatnonzero(components == c) for c in range(mesh.dim())])
    return Submodel(zone, boundary, np.asarray(node_map), dof_map, elements, field)


def _restricted(mesh: Any, elements: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return the mesh of some elements, and the numbers of its nodes in the whole."""
    part, node_map = mesh.restrict(elements, return_mapping=True)
    places, own = mesh.dofs.element_dofs[:, elements], part.dofs.element_dofs
    if mesh.doflocs.shape[1] > mesh.nvertices:  # curved elements, of which skfem leaves nodes on edges behind
        doflocs = np.empty((len(mesh.doflocs), own.max() + 1))
        doflocs[:, own] = mesh.doflocs[:, places]
        part = replace(part, doflocs=doflocs)
    return part, np.asarray(node_map)


def _cut_facets(mesh: Any, elements: np.ndarray, part: Any, node_map: np.ndarray) -> np.ndarray:
    """Return the facets of the zone that have an element on the other side in the whole."""
    inside = np.zeros(mesh.nelements, dtype=bool)
    inside[elements] = True
    a, b = mesh.f2t
    between = (b >= 0) & (inside[a] != inside[b])
    wanted = {tuple(sorted(nodes)) for nodes in mesh.facets[:, between].T.tolist()}
    own = np.sort(np.asarray(node_map)[part.facets], 0).T.tolist()
    return np.array([k for k in part.boundary_facets() if tuple(own[k]) in wanted], dtype=int)


def _components(basis: Any) -> np.ndarray:
    """Return which component each degree of freedom is."""
    found = np.full(int(basis.N), -1)
    dim = basis.mesh.dim()
    for table in (basis.nodal_dofs, basis.facet_dofs, basis.edge_dofs, basis.interior_dofs):
        for row, dofs in enumerate(np.asarray(table)):
            found[dofs] = row % dim
    return found


def _positions(basis: Any, cut: np.ndarray) -> np.ndarray:
    """Return for each degree of freedom a number that rises along the cut."""
    mesh = basis.mesh
    if mesh.dim() != 2:
        found = np.empty(int(basis.N))
        found[np.lexsort(basis.doflocs[::-1])] = np.arange(int(basis.N))
        return found
    place = _walk(mesh, cut)
    found = np.full(int(basis.N), np.inf)
    for dofs in basis.nodal_dofs:
        found[dofs] = place
    ends = np.sort(place[mesh.facets[:, cut]], 0)
    # A line that closes has a last piece from its end back to its beginning.
    middle = np.where(ends[1] - ends[0] > 1.5, ends[1] + 0.5, ends.mean(0))
    for dofs in basis.facet_dofs:
        found[dofs[cut]] = middle
    return found


def _walk(mesh: Any, cut: np.ndarray) -> np.ndarray:
    """Number the nodes of the cut along its lines; each begins at an end, or where it closes at its first node."""
    beside: dict[int, list[int]] = {}
    for a, b in mesh.facets[:, cut].T.tolist():
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    rank = {node: (len(near) != 1, *mesh.p[:, node].tolist()) for node, near in beside.items()}
    place = np.full(mesh.nvertices, np.inf)
    count, left = 0, set(beside)
    while left:
        node: int | None = min(left, key=rank.__getitem__)
        while node is not None:
            place[node], count = count, count + 1
            left.discard(node)
            following = [other for other in beside[node] if other in left]
            node = min(following, key=rank.__getitem__) if following else None
        count += 2  # so that no two lines are taken for neighbours
    return place
