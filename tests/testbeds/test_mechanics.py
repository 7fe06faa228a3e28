import numpy as np
import pytest

from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole

skfem = pytest.importorskip("skfem")


@pytest.mark.parametrize("simplices", [False, True])
@pytest.mark.parametrize("thickness", [0.0, 3.0])
def test_the_plate_has_its_volume_and_boundaries(thickness, simplices):
    mesh = plate_with_hole(12, thickness=thickness, simplices=simplices)
    element = mesh.elem()
    volume = skfem.Basis(mesh, element, intorder=2).dx.sum()
    assert volume == pytest.approx((100 - np.pi * 16 / 4) * (thickness or 1), rel=0.01)
    names = {"left", "bottom", "right", "top", "hole"} | ({"back", "front"} if thickness else set())
    assert set(mesh.boundaries) == names
    assert sum(len(facets) for facets in mesh.boundaries.values()) == len(mesh.boundary_facets())


def test_a_pulled_plate_has_kirschs_concentration_at_the_hole():
    """Far from the edges the stress at the hole is three times the pull."""
    from paperworks.reduction import ElastoViscoPlastic, Loads, MechanicalProblem

    loads = Loads(pressure={"top": ([0.0, 1.0], [0.0, -1.0])})
    mesh = plate_with_hole(48, hole=0.05)
    problem = MechanicalProblem(mesh, ElastoViscoPlastic(R0=1e6), loads, {"left": "x", "bottom": "y"})
    assert problem.solve([0, 1]).field("sigma_yy")[1].max() == pytest.approx(3, rel=0.03)


def test_the_heated_plate_rests_after_each_cycle():
    mesh = plate_with_hole(4)
    problem, times = heated_plate(mesh, hot_spot(mesh.p, 200.0, (6.0, 6.0), 2.0), cycles=2, steps=8)
    assert len(times) == 9
    assert times[-1] == 4
    assert np.abs(problem.path.force(4.0)).max() == 0
    np.testing.assert_allclose(problem.path.temperature(2.0), 20)
    assert problem.path.temperature(3.0).max() > 500
