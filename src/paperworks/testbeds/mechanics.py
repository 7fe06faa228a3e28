"""A perforated plate and a blade-like block under load, heated in a spot: what reduced models of creep are tried on."""

from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_count, check_number
from paperworks.reduction import ElastoViscoPlastic, Loads, MechanicalProblem

PERIOD = 2.0
"""Seconds of a cycle: loads and heat rise for one, and fall for the other."""


def plate_with_hole(
    n: int = 24, side: float = 10.0, hole: float = 0.4, thickness: float = 0.0, simplices: bool = False
) -> Any:
    """Return the quarter of a square plate with a round hole.

    Parameters
    ----------
    n
        Elements along the hole and from it to the edge; even.
    side
        Side of the quarter.
    hole
        The hole's radius, as a share of the side.
    thickness
        0, the default, is plane; else the depth in z, in elements about as thick as they are wide.
    simplices
        Whether elements are triangles or tetrahedra instead of quadrilaterals or hexahedra; false by default.

    Returns
    -------
    Any
        A mesh of scikit-fem with the boundaries left, bottom, right, top and hole, in 3-D also back and front.

    Raises
    ------
    DatasetMissing
        Where scikit-fem isn't installed.

    Examples
    --------
    >>> plate_with_hole(4).nelements
    16
    """
    try:
        import skfem
    except ImportError as error:
        from paperworks.testbeds.data import DatasetMissing  # brings torch, which nothing else here needs

        raise DatasetMissing("the mesh needs scikit-fem; `pip install 'paperworks[mechanics]'` installs it") from error
    check_count("n", n, at_least=2)
    if n % 2:
        raise ValueError(f"n is {n}; it takes an even number, so that a node is in the corner")
    check_number("side", side, gt=0)
    check_number("hole", hole, gt=0, lt=1)
    check_number("thickness", thickness, ge=0)
    s = np.linspace(0, 1, n + 1)
    if thickness > 0:
        mesh = skfem.MeshHex.init_tensor(s, s, np.linspace(0, thickness, max(2, round(n * thickness / side)) + 1))
    else:
        mesh = skfem.MeshQuad.init_tensor(s, s)
    outward, angle = mesh.p[0] ** 1.5, mesh.p[1] * np.pi / 2  # finer towards the hole
    direction = np.stack([np.cos(angle), np.sin(angle)])
    edge = direction / direction.max(0)
    p = mesh.p.copy()
    p[:2] = side * ((1 - outward) * hole * direction + outward * edge)
    p[:2][abs(p[:2]) < 1e-12 * side] = 0.0
    near = 1e-6 * side
    names = {
        "left": lambda x: abs(x[0]) < near,
        "bottom": lambda x: abs(x[1]) < near,
        "right": lambda x: abs(x[0] - side) < near,
        "top": lambda x: abs(x[1] - side) < near,
        "hole": lambda x: np.hypot(x[0], x[1]) < side * hole + near,
    }
    if thickness > 0:
        names |= {"back": lambda x: abs(x[2]) < near, "front": lambda x: abs(x[2] - thickness) < near}
    mapped = type(mesh)(p, mesh.t)
    if simplices:
        mapped = mapped.to_meshtet() if thickness > 0 else mapped.to_meshtri()
    return mapped.with_boundaries(names)


def hot_spot(
    x: Float[np.ndarray, "dim nodes"], amplitude: float, centre: tuple[float, float], width: float, base: float = 400.0
) -> Float[np.ndarray, " nodes"]:
    """Return temperatures with a Gaussian hot spot, in degrees Celsius.

    Parameters
    ----------
    x
        Coordinates of the nodes, as columns; the spot goes through the thickness.
    amplitude
        By how much it is hotter in the middle of the spot.
    centre
        The middle of the spot, two coordinates.
    width
        The standard deviation of the Gaussian.
    base
        The temperature far away.

    Returns
    -------
    np.ndarray
        Temperatures at the nodes.

    Examples
    --------
    >>> hot_spot(np.array([[0.0, 3.0], [0.0, 0.0]]), 600.0, (0.0, 0.0), 1.0)
    array([1000.        ,  406.66539792])
    """
    check_number("width", width, gt=0)
    distance = ((x[:2] - np.asarray(centre)[:, None]) ** 2).sum(0)
    return np.asarray(base + amplitude * np.exp(-distance / (2 * width**2)))


def heated_plate(
    mesh: Any, temperature: Float[np.ndarray, " nodes"], cycles: int = 4, steps: int = 40
) -> tuple[MechanicalProblem, Float[np.ndarray, " times"]]:
    """Return the plate of `plate_with_hole`, pulled at its top and rotating, whose temperature rises to a field.

    Every cycle lasts two seconds: loads and temperature rise from rest for one and fall for the other, as in the test
    of the paper's code, whose material, pull of 100 MPa and cycle these are.

    Parameters
    ----------
    mesh
        A mesh with the boundaries of `plate_with_hole`.
    temperature
        The hottest temperatures at the nodes.
    cycles
        How many cycles there are.
    steps
        Steps of time in all of them.

    Returns
    -------
    tuple[MechanicalProblem, np.ndarray]
        The problem and the times to solve it at.

    Examples
    --------
    >>> mesh = plate_with_hole(4)
    >>> problem, times = heated_plate(mesh, hot_spot(mesh.p, 300.0, (4.0, 0.0), 2.0))
    >>> bool(problem.solve(times).p[-1].max() > 1e-3)
    True
    """
    check_count("cycles", cycles)
    check_count("steps", steps, at_least=2 * cycles)
    rise = [0.0, PERIOD / 2, PERIOD]
    material = ElastoViscoPlastic()
    cold = np.full_like(temperature, material.T_ref)
    loads = Loads(
        temperature=(rise, np.stack([cold, temperature, cold])),
        pressure={"top": (rise, [0.0, -100.0, 0.0])},
        speed=(rise, [0.0, 2000.0, 0.0]),
        centre=(0.0, -50.0) if mesh.dim() == 2 else (0.0, -50.0, 0.0),
        period=PERIOD,
    )
    fixed = {"left": "x", "bottom": "y"} | ({"back": "z"} if mesh.dim() == 3 else {})
    return MechanicalProblem(mesh, material, loads, fixed), np.linspace(0, PERIOD * cycles, steps + 1)
