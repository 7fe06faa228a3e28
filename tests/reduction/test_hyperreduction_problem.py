import sys

import numpy as np
import pytest

from paperworks.reduction import ConvergenceError, ElastoViscoPlastic, Loads, MaterialState, MechanicalProblem
from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole

skfem = pytest.importorskip("skfem")
meshio = pytest.importorskip("meshio")
RISE = [0.0, 1.0]


def bar(dim=2):
    grid = np.linspace(0, 1, 3)
    mesh = skfem.MeshQuad.init_tensor(2 * grid, grid) if dim == 2 else skfem.MeshHex.init_tensor(2 * grid, grid, grid)
    return mesh.with_defaults()


def pulled(mesh, material, pull=-50.0, **more):
    fixed = {"left": "x", "bottom": "y"} | ({"front": "z"} if mesh.dim() == 3 else {})
    return MechanicalProblem(mesh, material, Loads(pressure={"right": (RISE, [0.0, pull])}, **more), fixed)


@pytest.mark.parametrize(
    "mesh",
    [bar(), bar().to_meshtri().with_defaults(), bar(3), bar(3).to_meshtet().with_defaults()],
    ids=["quadrilaterals", "triangles", "hexahedra", "tetrahedra"],
)
def test_an_elastic_bar_stretches_as_hooke_says(mesh):
    E, nu = 1000.0, 0.25
    if "front" not in mesh.boundaries and mesh.dim() == 3:
        mesh = mesh.with_boundaries({"front": lambda x: x[2] < 1e-9})
    problem = pulled(mesh, ElastoViscoPlastic(E=E, nu=nu, R0=1e6))
    found = problem.solve([0.0, 0.5, 1.0])
    np.testing.assert_allclose(found.field("sigma_xx")[:, 0], [0, 25, 50], atol=1e-9)
    np.testing.assert_allclose(found.field("sigma_xx")[2], 50, rtol=1e-9)
    stretch = (1 - nu**2) / E if mesh.dim() == 2 else 1 / E
    assert found.u[2].max() == pytest.approx(2 * 50 * stretch, rel=1e-9)
    assert problem.newton_steps == 2


def test_a_bar_flows_as_one_point_does():
    law = ElastoViscoPlastic()
    problem = pulled(bar(3), law, -300.0)
    found = problem.solve(np.linspace(0, 1, 11))
    assert found.p[-1].min() == pytest.approx(found.p[-1].max(), rel=1e-8)
    state = MaterialState.virgin(1, 6)
    for k in range(1, 11):
        eps = problem.strain(found.u[k])[:1]
        sigma, state, _ = law.integrate(eps, np.full(1, 20.0), state, 0.1)
    np.testing.assert_allclose(sigma[0], [300, 0, 0, 0, 0, 0], atol=1e-3)
    assert state.p[0] == pytest.approx(found.p[-1, 0], rel=1e-9)


def test_free_heat_makes_no_stress_and_held_heat_makes_hookes():
    law = ElastoViscoPlastic(R0=1e6)
    hot = Loads(temperature=(RISE, [20.0, 120.0]))
    free = MechanicalProblem(bar(3), law, hot, {"left": "x", "bottom": "y", "front": "z"}).solve([0, 1])
    assert np.abs(free.sigma).max() < 1e-3
    assert free.u.max() == pytest.approx(2 * 2e-5 * 100)
    held = MechanicalProblem(bar(), law, hot, {"left": "x", "right": "x", "bottom": "y", "top": "y"}).solve([0, 1])
    np.testing.assert_allclose(held.sigma[1, :, :3], -2e5 / 0.4 * 2e-3, rtol=1e-9)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_rotating_bar_pulls_with_its_mass(dim):
    law = ElastoViscoPlastic(density=2.0, nu=0.0, R0=1e6)
    loads = Loads(speed=(RISE, [0.0, 3.0]), centre=None if dim == 2 else (0.0, 0.0, 7.0))
    problem = MechanicalProblem(
        bar(dim), law, loads, {"left": "x", "bottom": "y"} | ({"front": "z"} if dim == 3 else {})
    )
    force = problem.unit_forces(loads)[0]
    whole = problem.elements.rotation(loads.centre, None, 2.0)
    x = np.zeros_like(whole)
    x[problem.elements.basis.nodal_dofs[0]] = 1.0
    assert whole @ x == pytest.approx(2.0 * 2.0)  # density times the integral of x over 2 x 1
    assert force @ x < whole @ x  # nothing where displacements are given
    assert loads.factors(0.5)[0] == pytest.approx(1.5**2)
    if dim == 3:
        z = np.zeros_like(whole)
        z[problem.elements.basis.nodal_dofs[2]] = 1.0
        assert whole @ z == pytest.approx(0)  # nothing along the axis


def test_the_tangent_keeps_newton_quadratic():
    mesh = plate_with_hole(6)
    problem, times = heated_plate(mesh, hot_spot(mesh.p, 400.0, (6.0, 6.0), 2.0))
    found = problem.solve(times[:21])
    assert problem.newton_steps < 5.5 * 20
    assert found.p.max() > 1e-3
    assert np.abs(problem.internal(found.sigma[7]) - problem.path.force(times[7])).max() < 1e-6 * problem.path.scale
    assert (np.diff(found.p, axis=0) >= 0).all()


def test_steps_go_on_from_any_state():
    mesh = plate_with_hole(4)
    problem, times = heated_plate(mesh, hot_spot(mesh.p, 200.0, (6.0, 6.0), 2.0))
    found = problem.solve(times[:6])
    again = problem.step(found.state(4), times[5])
    np.testing.assert_allclose(again.u, found.u[5], rtol=1e-12)
    seen = []
    problem.solve(times[:3], callback=seen.append)
    assert [state.t for state in seen] == times[1:3].tolist()


def test_a_step_that_is_too_long_is_halved_and_one_that_cannot_be_raises():
    law, fixed = ElastoViscoPlastic(), {"left": "x", "bottom": "y"}
    loads = Loads(pressure={"right": (RISE, [0.0, -400.0])})
    whole = MechanicalProblem(bar(), law, loads, fixed)
    whole.solve([0.0, 1.0])
    steps = whole.newton_steps
    strict = MechanicalProblem(bar(), law, loads, fixed, steps=steps)  # one less than it takes
    found = strict.solve([0.0, 1.0])
    np.testing.assert_allclose(found.field("sigma_xx")[1], 400, rtol=1e-4)
    assert strict.newton_steps > steps
    with pytest.raises(ConvergenceError, match=r"t = 0\.0625 within 1 steps"):
        MechanicalProblem(bar(), law, loads, fixed, steps=1).solve([0.0, 1.0])


def test_tables_repeat_after_their_period():
    loads = Loads(pressure={"top": ([0, 1, 2], [0, 5, 0])}, speed=2.0, period=2.0)
    for t in (0.3, 0.5, 1.7):
        assert loads.factors(t) == pytest.approx(loads.factors(t + 4))
    assert loads.factors(6.0).tolist() == [0, 4]
    assert Loads(pressure={"top": ([1, 2], [3, 5])}).factors(0.0).tolist() == [3]
    assert Loads(pressure={"top": ([1, 2], [3, 5])}).factors(9.0).tolist() == [5]


def test_the_norm_is_that_of_l2():
    problem = pulled(bar(), ElastoViscoPlastic())
    ones = np.ones((3, problem.elements.n_points))
    np.testing.assert_allclose(problem.norm(ones), np.sqrt(2))
    u = np.zeros(problem.elements.n_dofs)
    u[problem.elements.basis.nodal_dofs[0]] = problem.elements.basis.mesh.p[0]
    assert problem.norm(u) == pytest.approx(np.sqrt(8 / 3))
    assert u @ (problem.elements.mass() @ u) == pytest.approx(8 / 3)


@pytest.mark.parametrize("suffix", ["vtk", "msh", "vtu"])
def test_meshes_come_from_files_with_their_boundaries(tmp_path, suffix):
    mesh = plate_with_hole(4)
    if suffix == "msh":  # as Gmsh writes it: a physical group for each boundary
        lines, names = [], {}
        for number, (name, facets) in enumerate(mesh.boundaries.items()):
            names[name] = np.array([number + 1, 1])
            lines += [(pair, number + 1) for pair in mesh.facets[:, facets].T]
        written = meshio.Mesh(
            np.pad(mesh.p.T, ((0, 0), (0, 1))),
            [("line", np.array([pair for pair, _ in lines])), ("quad", mesh.t.T)],
            cell_data={
                key: [np.array([number for _, number in lines]), np.full(mesh.t.shape[1], 99)]
                for key in ("gmsh:physical", "gmsh:geometrical")
            },
            field_data={**names, "plate": np.array([99, 2])},
        )
        written.write(tmp_path / "plate.msh", file_format="gmsh22", binary=False)
    else:
        mesh.save(tmp_path / f"plate.{suffix}")
    law, loads = ElastoViscoPlastic(), Loads(pressure={"top": (RISE, [0.0, -50.0])})
    fixed = {"left": "x", "bottom": "y"}
    ours = MechanicalProblem(mesh, law, loads, fixed).solve([0, 1])
    read = MechanicalProblem(tmp_path / f"plate.{suffix}", law, loads, fixed).solve([0, 1])
    np.testing.assert_allclose(np.sort(read.u[1]), np.sort(ours.u[1]), rtol=1e-9)


QUADRATIC = [skfem.MeshTri2, skfem.MeshQuad2, skfem.MeshTet2, skfem.MeshHex2]


@pytest.mark.parametrize("kind", QUADRATIC)
def test_quadratic_elements_take_points_enough_and_bend_exactly(kind):
    mesh = kind().refined(0 if kind is skfem.MeshHex2 else 1).with_boundaries({"left": lambda x: x[0] < 1e-9})
    law = ElastoViscoPlastic(E=1000.0, nu=0.25, R0=1e6)
    elements = MechanicalProblem(mesh, law, Loads(), {"left": "xyz"[: mesh.dim()]}).elements
    moduli = law.integrate(
        np.zeros((elements.n_points, len(elements.components))),
        np.full(elements.n_points, 20.0),
        MaterialState.virgin(elements.n_points, len(elements.components)),
        1.0,
    )[2]
    c = len(elements.components)
    weighted = (elements.weights[:, None, None] * moduli) @ elements.strain.toarray().reshape(-1, c, elements.n_dofs)
    stiffness = elements.strain.T @ weighted.reshape(-1, elements.n_dofs)
    values = np.linalg.eigvalsh(stiffness)
    assert (values < 1e-9 * values[-1]).sum() == (3 if mesh.dim() == 2 else 6)  # rigid motions alone
    np.testing.assert_allclose(elements.interpolation @ mesh.p[0], elements.points[:, 0], atol=1e-14)


@pytest.mark.parametrize(("fixed", "left"), [({}, 3), ({"left": "x"}, 1), ({"left": "x", "right": "x"}, 1)])
def test_supports_that_let_a_part_move_are_refused(fixed, left):
    with pytest.raises(ValueError, match=f"leaves {left} rigid motions"):
        MechanicalProblem(bar(), ElastoViscoPlastic(), Loads(), fixed)
    held = MechanicalProblem(bar(), ElastoViscoPlastic(), Loads(), {"left": "xy"})
    assert not held.solve([0, 1]).u.any()
    with pytest.raises(ValueError, match="leaves 3 rigid motions"):
        MechanicalProblem(bar(3), ElastoViscoPlastic(), Loads(), {"left": "x"})


def flat(kind, cells, points=None, z=0.0):
    mesh = plate_with_hole(4)
    p = np.column_stack([mesh.p.T, np.broadcast_to(z, mesh.p.shape[1])]) if points is None else points
    return meshio.Mesh(p, [(kind, mesh.t.T if cells is None else cells)])


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("mesh", "match"),
    [
        (
            meshio.Mesh(np.random.default_rng(0).random((5, 3)), [("quad", [[0, 1, 2, 3]]), ("triangle", [[0, 1, 4]])]),
            "one kind",
        ),
        (flat("line", [[0, 1]]), "mesh has cells line"),
        (flat("wedge", [[0, 1, 2, 3, 4, 5]]), "mesh has cells wedge"),
        (flat("pyramid", [[0, 1, 2, 3, 4]]), "mesh has cells pyramid"),
        (meshio.Mesh(np.zeros((3, 3)), []), "of no kind"),
        (flat("quad", None, z=np.arange(25.0)), "plane of constant z"),
        (flat("quad", None, plate_with_hole(4).p.T[:, [0, 1, 1]]), "plane of constant z"),
    ],
    ids=["mixed", "lines", "wedges", "pyramids", "empty", "shell", "tilted"],
)
def test_meshes_of_which_a_part_would_be_lost_are_refused(mesh, match):
    with pytest.raises(ValueError, match=match):
        MechanicalProblem(mesh, ElastoViscoPlastic(), Loads(), {})


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "plate.msh").write_text("nothing")  # where meshio would end Python
    with pytest.raises(ValueError, match=r"plate\.msh, which meshio can't read"):
        MechanicalProblem(tmp_path / "plate.msh", ElastoViscoPlastic(), Loads(), {})


def test_nodes_of_no_element_do_not_move():
    grid = plate_with_hole(4)
    lone = skfem.MeshQuad(np.column_stack([[99.0, 99.0], grid.p]), grid.t + 1)
    names = {"left": lambda x: abs(x[0]) < 1e-6, "bottom": lambda x: abs(x[1]) < 1e-6}
    loads = Loads(temperature=(RISE, np.array([20.0, 120.0])[:, None] + np.zeros(26)))
    fixed = {"left": "x", "bottom": "y"}
    found = MechanicalProblem(lone.with_boundaries(names), ElastoViscoPlastic(), loads, fixed).solve([0, 1])
    loads = Loads(temperature=(RISE, [20.0, 120.0]))
    truth = MechanicalProblem(grid, ElastoViscoPlastic(), loads, fixed).solve([0, 1])
    np.testing.assert_allclose(np.sort(found.u[1]), np.sort(np.append(truth.u[1], [0, 0])), atol=1e-15)


def test_trajectories_are_written_for_paraview(tmp_path):
    mesh = plate_with_hole(4)
    problem, times = heated_plate(mesh, hot_spot(mesh.p, 200.0, (6.0, 6.0), 2.0))
    found = problem.solve(times[:4])
    files = problem.write(found, tmp_path / "creep.vtu")
    assert [file.name for file in files] == [f"creep-{k:04d}.vtu" for k in range(4)]
    read = meshio.read(files[3])
    assert read.point_data["displacement"].shape == (mesh.p.shape[1], 3)
    np.testing.assert_allclose(np.sort(read.point_data["displacement"][:, :2].ravel()), np.sort(found.u[3]), atol=1e-15)
    assert read.cell_data["p"][0].mean() == pytest.approx(found.p[3].reshape(-1, 4).mean(), rel=0.2)
    assert read.point_data["temperature"].max() == pytest.approx(20 + 0.6 * (600 - 20), rel=0.2)
    assert set(read.cell_data) >= {"sigma_xx", "sigma_yy", "sigma_zz", "sigma_xy", "von_mises", "p"}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: pulled(bar(), "steel"), TypeError, "material is str"),
        (lambda: MechanicalProblem(bar(), ElastoViscoPlastic(), Loads(), {"nowhere": "x"}), ValueError, "'nowhere'"),
        (lambda: MechanicalProblem(bar(), ElastoViscoPlastic(), Loads(), {"left": "z"}), ValueError, "letters xy"),
        (lambda: pulled(bar(), ElastoViscoPlastic(), temperature=(RISE, np.ones((2, 3)))), ValueError, "3 nodes"),
        (lambda: pulled(bar(), ElastoViscoPlastic(), speed=1.0, axis=(0, 0, 1)), ValueError, "axis is given"),
        (lambda: pulled(bar(), ElastoViscoPlastic()).solve([0.0]), ValueError, "times has shape"),
        (lambda: pulled(bar(), ElastoViscoPlastic()).solve([1.0, 0.5]), ValueError, "that rise"),
        (lambda: MechanicalProblem(7, ElastoViscoPlastic(), Loads(), {}), TypeError, "mesh is int"),
        (lambda: Loads(pressure={"top": ([1, 0], [0, 1])}), ValueError, "times rising"),
        (lambda: Loads(pressure={"top": ([0, 1], [0, np.nan])}), ValueError, "NaN"),
        (lambda: Loads(pressure={"top": (RISE, np.ones((2, 3)))}), ValueError, "fields"),
        (lambda: Loads(pressure=3.0), TypeError, "pressure is 3.0"),
        (lambda: Loads(period=0.0), ValueError, "period is 0"),
        (lambda: Loads(pressure={"top": ([0, 1, 5], [0, 1, 0])}, period=2.0), ValueError, "period is 2, but .* to 5"),
        (lambda: Loads(pressure={"top": ([0, np.inf], [0, 1])}), ValueError, "times or values"),
        (lambda: Loads(pressure={3: 1.0}), TypeError, "names of boundaries"),
        (lambda: Loads(temperature=np.full(9, 300.0)), TypeError, r"array of shape \(9,\)"),
        (lambda: MechanicalProblem(bar(), ElastoViscoPlastic(), Loads(), ["left"]), TypeError, "fixed is"),
        (lambda: MechanicalProblem(bar(), ElastoViscoPlastic(), Loads(), {"left": 3}), ValueError, "fixed holds 3"),
        (lambda: pulled(bar(), ElastoViscoPlastic()).norm(np.ones(7)), ValueError, r"values has shape \(7,\)"),
        (lambda: pulled(bar(), ElastoViscoPlastic()).write("creep", "a.vtu"), TypeError, "trajectory is str"),
        (lambda: MechanicalProblem(facets(), ElastoViscoPlastic(), Loads(), {}), TypeError, "Basis of all"),
        (lambda: MechanicalProblem(half(), ElastoViscoPlastic(), Loads(), {}), TypeError, "Basis of all"),
        (lambda: pulled(nan_mesh(), ElastoViscoPlastic()), ValueError, "coordinates"),
        (lambda: pulled(bar(), ElastoViscoPlastic()).solve([0, 1]).field("heat"), ValueError, "name is 'heat'"),
        (lambda: plate_with_hole(5), ValueError, "even"),
        (lambda: plate_with_hole(4, hole=1.5), ValueError, "hole is 1.5"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def facets():
    return skfem.FacetBasis(bar(), skfem.ElementVector(skfem.ElementQuad1()))


def half():
    return skfem.Basis(bar(), skfem.ElementVector(skfem.ElementQuad1()), elements=[0, 1])


def nan_mesh():
    mesh = bar()
    p = mesh.p.copy()
    p[0, 4] = np.nan
    return skfem.MeshQuad(p, mesh.t, _boundaries=mesh.boundaries)


def test_without_scikit_fem_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skfem", None)
    with pytest.raises(ImportError, match=r"paperworks\[mechanics\]"):
        MechanicalProblem("plate.msh", ElastoViscoPlastic(), Loads(), {})
