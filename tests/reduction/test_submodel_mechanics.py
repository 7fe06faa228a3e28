import copy
import pickle
import sys

import numpy as np
import pytest
import torch

from paperworks.reduction import (
    BootstrapSampler,
    Elastodynamics,
    Quantity,
    State,
    SubmodelUQ,
    UQResult,
    evaluate_quantities,
    extract_submodel,
    interpolate_histories,
)
from paperworks.testbeds import struck_bar, struck_plate

skfem = pytest.importorskip("skfem")


def basis_of(mesh, element):
    return skfem.Basis(mesh, skfem.ElementVector(element()))


def line(n=20):
    return basis_of(skfem.MeshLine(np.linspace(0, 1, n + 1)), skfem.ElementLineP1)


GRID = np.linspace(0, 1, 5)
QUADS = skfem.MeshQuad.init_tensor(np.linspace(0, 2, 9), GRID)
BASES = {
    "bar": line(),
    "quadrilaterals": basis_of(QUADS, skfem.ElementQuad1),
    "quadratic quadrilaterals": basis_of(
        skfem.MeshQuad.init_tensor(np.linspace(0, 2, 5), GRID[::2]), skfem.ElementQuadS2
    ),
    "triangles": basis_of(QUADS.to_meshtri(), skfem.ElementTriP1),
    "quadratic triangles": basis_of(
        skfem.MeshQuad.init_tensor(np.linspace(0, 2, 5), GRID[::2]).to_meshtri(), skfem.ElementTriP2
    ),
    "tetrahedra": basis_of(skfem.MeshTet.init_tensor(np.linspace(0, 2, 7), GRID[::2], GRID[::2]), skfem.ElementTetP1),
    "curved triangles": basis_of(skfem.MeshTri2.from_mesh(QUADS.to_meshtri()), skfem.ElementTriP2),
    "curved quadrilaterals": basis_of(skfem.MeshQuad2.from_mesh(QUADS), skfem.ElementQuad2),
    "hexahedra": basis_of(skfem.MeshHex.init_tensor(np.linspace(0, 2, 5), GRID[::2], GRID[::2]), skfem.ElementHex1),
}


@pytest.mark.parametrize("scheme", ["newmark", "central"])
@pytest.mark.parametrize("name", BASES)
def test_a_submodel_with_the_true_boundary_is_the_whole(name, scheme):
    basis = BASES[name]
    rng = np.random.default_rng(0)
    lam, mu, rho = rng.uniform(0.5, 1.5, size=(3, basis.nelems))
    ends = np.flatnonzero(basis.doflocs[0] < 1e-9)
    options = {"hht": -0.1} if scheme == "newmark" else {}
    whole = Elastodynamics(basis, lam, mu, rho, (0.3, 0.005), scheme, fixed=ends, **options)
    dt = 0.05 if scheme == "newmark" else 0.8 * whole.critical_dt
    profile = rng.normal(size=(basis.N, 2)) * (basis.doflocs[0] > basis.doflocs[0].max() - 1e-9)[:, None]
    u = whole.solve(f=lambda t: profile * np.sin(9 * t), dt=dt, steps=40)
    x = basis.mesh.p[0, basis.mesh.t].mean(0) / basis.mesh.p[0].max()
    for mask in ((x > 0.25) & (x < 0.75), x < 0.5):  # inside, and with the held end
        zone = extract_submodel(basis, mask)
        model = zone.model(whole)
        drive = np.moveaxis(zone.histories(u), (0, -1), (-1, 0)).reshape(41, -1, 2)
        found = model.solve((zone.boundary_dofs.ravel(), drive), dt=dt, steps=40)
        assert np.abs(found - u[:, zone.dof_map]).max() < 1e-11 * np.abs(u).max()
        np.testing.assert_array_equal(zone.restrict(u[..., 0]), u[:, zone.dof_map, 0])
        np.testing.assert_allclose(zone.basis.doflocs, basis.doflocs[:, zone.dof_map])
        np.testing.assert_array_equal(basis.mesh.p[:, zone.node_map], zone.basis.mesh.p[:, : len(zone.node_map)])


def test_bubbles_are_for_the_implicit_scheme():
    basis = basis_of(QUADS.to_meshtri(), skfem.ElementTriP1B)
    zone = extract_submodel(basis, QUADS.to_meshtri().p[0, QUADS.to_meshtri().t].mean(0) > 1)
    assert zone.boundary_dofs.shape == (2, 5)
    whole = Elastodynamics(basis, 1.0, 1.0, 1.0)
    push = np.zeros(basis.N)
    push[basis.nodal_dofs[0, :3]] = 1.0
    u = whole.solve(f=lambda t: push * np.sin(t), dt=0.1, steps=20)
    found = zone.model(whole).solve(
        (zone.boundary_dofs.ravel(), u[:, zone.full_boundary_dofs.ravel()]), dt=0.1, steps=20
    )
    np.testing.assert_allclose(found, u[:, zone.dof_map], atol=1e-12)
    with pytest.raises(ValueError, match="ElementTriP1B, whose functions do not add up"):
        Elastodynamics(basis, 1.0, 1.0, 1.0, scheme="central")


def test_bodies_that_touch_at_one_node_are_cut_there():
    mesh = skfem.MeshQuad(
        np.array([[0, 1, 1, 0, 2, 2, 1.0], [0, 0, 1, 1, 1, 2, 2.0]]), np.array([[0, 2], [1, 4], [2, 5], [3, 6]])
    ).refined(1)
    basis = basis_of(mesh, skfem.ElementQuad1)
    whole = Elastodynamics(basis, 1.0, 1.0, 1.0)
    push = np.where(basis.doflocs[0] > 1.9, 1.0, 0.0)[:, None]
    u = whole.solve(f=lambda t: push * np.sin(9 * t), dt=0.05, steps=30)
    x, y = mesh.p[:, mesh.t].mean(1)
    for mask, nodes in ((x < 1, 1), ((x < 1) & (y > 0.5), 4)):  # three on a line, and the corner
        zone = extract_submodel(basis, mask)
        assert zone.boundary_dofs.shape == (2, nodes)
        drive = u[:, zone.full_boundary_dofs.ravel()]
        found = zone.model(whole).solve((zone.boundary_dofs.ravel(), drive), dt=0.05, steps=30)
        assert np.abs(u[:, zone.dof_map]).max() > 0.01
        assert np.abs(found - u[:, zone.dof_map]).max() < 1e-12 * np.abs(u).max()


def test_a_mesh_from_a_file_has_a_zone(tmp_path):
    meshio = pytest.importorskip("meshio")
    flat = QUADS.to_meshtri()
    points = np.column_stack([flat.p.T, np.zeros(flat.p.shape[1])])
    meshio.Mesh(points, [("triangle", flat.t.T)]).write(tmp_path / "plate.vtk", file_format="vtk")
    mesh = skfem.MeshTri.load(tmp_path / "plate.vtk")
    zone = extract_submodel(basis_of(mesh, skfem.ElementTriP1), mesh.p[0, mesh.t].mean(0) > 1)
    assert (zone.basis.doflocs[0, zone.boundary_dofs] == 1).all()
    assert zone.boundary_dofs.shape == (2, 5)


def test_nodes_of_no_element_are_refused():
    mesh = skfem.MeshTri(np.array([[5, 0, 1, 0, 1.0], [5, 0, 0, 1, 1.0]]), np.array([[1, 2], [2, 3], [3, 4]]))
    with pytest.raises(ValueError, match="basis has 2 degrees of freedom of no element"):
        Elastodynamics(basis_of(mesh, skfem.ElementTriP1), 1.0, 1.0, 1.0)
    Elastodynamics(basis_of(mesh.remove_unused_nodes(), skfem.ElementTriP1), 1.0, 1.0, 1.0)


@pytest.mark.parametrize("scheme", ["newmark", "central"])
def test_the_cut_moves_as_it_does_in_the_whole(scheme):
    whole, zone = zone_of_bar(40, scheme)
    dt, steps = 0.02, 80
    drive = ([0], lambda t: np.array([[1.0, 2.0]]) * np.exp(-(((t - 0.3) / 0.06) ** 2)))
    states = list(whole.march(drive, dt=dt, steps=steps))
    u = np.stack([state.u for state in states])
    inside = zone.model(whole).march((zone.boundary_dofs.ravel(), u[:, zone.full_boundary_dofs[0]]), dt=dt, steps=steps)
    for truth, found in zip(states, inside, strict=True):
        last = found.step == steps and scheme == "central"  # where the next displacement isn't known
        np.testing.assert_allclose(found.v, truth.v[zone.dof_map], atol=5 if last else 1e-9)
        np.testing.assert_allclose(found.a, truth.a[zone.dof_map], atol=500 if last else 1e-6)


@pytest.mark.parametrize("scheme", ["newmark", "central"])
def test_what_is_fixed_does_not_move(scheme):
    bar = Elastodynamics(line(), 1.0, 0.0, 1.0, scheme=scheme, fixed=[20])
    still = np.zeros(21)
    thrown = np.ones(21)  # against a wall
    states = list(bar.march(dt=0.02, steps=20, initial=(still, thrown)))
    assert all(not s.v[20].any() and not s.u[20].any() and not s.a[20].any() for s in states)
    thrown[20] = 0
    np.testing.assert_array_equal(states[-1].u[:, 0], bar.solve(dt=0.02, steps=20, initial=(still, thrown))[-1])


def test_a_model_and_its_quantities_go_to_other_processes():
    whole, zone = zone_of_bar()
    drive = ([0], lambda t: np.array([np.sin(t)]))
    u = whole.solve(drive, dt=0.02, steps=9)
    model = zone.model(whole)
    for again in (pickle.loads(pickle.dumps(whole)), copy.deepcopy(whole)):
        np.testing.assert_array_equal(again.solve(drive, dt=0.02, steps=9), u)
    kinds = (Quantity.displacement(3), Quantity.arrival(3, 0.1), Quantity.von_mises(model), Quantity.energy(model))
    for quantity in kinds:
        state = State(0, 0.0, *np.random.default_rng(0).normal(size=(3, model.n_dofs, 2)))
        again = pickle.loads(pickle.dumps(quantity))
        np.testing.assert_allclose(again.at_step(state), quantity.at_step(state))


def test_many_moduli_leave_few_factorisations():
    bar = Elastodynamics(line(), 1.0, 0.0, 1.0, fixed=[20])
    drive = ([0], lambda t: np.array([np.sin(t)]))
    together = bar.solve(drive, dt=0.02, steps=9, stiffness=np.linspace(0.5, 1.5, 50))
    assert len(bar._factors) < 10
    np.testing.assert_allclose(bar.solve(drive, dt=0.02, steps=9, stiffness=0.5), together[..., 0])


def test_a_load_that_fills_one_array_again_is_read_in_time():
    bar = Elastodynamics(line(), 1.0, 0.0, 1.0, hht=-0.2, fixed=[20])
    buffer = np.zeros(21)

    def load(t):
        buffer[:] = np.sin(t)
        return buffer

    fresh = bar.solve(f=lambda t: np.full(21, np.sin(t)), dt=0.02, steps=9)
    np.testing.assert_array_equal(bar.solve(f=load, dt=0.02, steps=9), fresh)


def test_the_cut_is_in_order():
    mesh = skfem.MeshQuad.init_tensor(np.linspace(0, 6, 7), np.linspace(0, 5, 6))
    centre = mesh.p[:, mesh.t].mean(1)
    for element in (skfem.ElementQuad1, skfem.ElementQuadS2):
        basis = basis_of(mesh, element)
        zone = extract_submodel(basis, (np.abs(centre - [[3], [2.5]]) < [[2], [1.5]]).all(0))
        for row, component in zip(zone.boundary_dofs, range(2), strict=True):
            at = zone.basis.doflocs[:, row]
            gaps = np.linalg.norm(np.diff(np.concatenate([at, at[:, :1]], 1), axis=1), axis=0)
            np.testing.assert_allclose(gaps, gaps[0])  # a closed line without jumps
            assert (np.isin(row, zone.field_dofs[component])).all()
        half = extract_submodel(basis, centre[0] > 3)
        at = half.basis.doflocs[:, half.boundary_dofs[1]]
        assert (at[0] == 3).all()
        assert (np.diff(at[1]) > 0).all()
        strip = extract_submodel(basis, np.abs(centre[0] - 3) < 1)  # two lines
        at = strip.basis.doflocs[:, strip.boundary_dofs[0]]
        assert (np.diff(at[0]) != 0).sum() == 1


def test_the_bar_follows_dalemberts_solution():
    bar = Elastodynamics(line(400), 1.0, 0.0, 1.0, scheme="central", fixed=[400])

    def pulse(t):
        return np.exp(-(((t - 0.2) / 0.05) ** 2))

    steps = 600
    u = bar.solve(([0], lambda t: np.array([pulse(t)])), dt=1.2 / steps, steps=steps)
    x = np.linspace(0, 1, 401)
    np.testing.assert_allclose(u[400], pulse(0.8 - x), atol=5e-3)  # c = 1
    np.testing.assert_allclose(u[600], pulse(1.2 - x) - pulse(1.2 - (2 - x)), atol=1e-2)  # what comes back is turned


@pytest.mark.parametrize("scheme", ["newmark", "central"])
def test_the_order_is_two(scheme):
    basis = line(8)
    finest, errors = None, []
    for steps in (1280, 20, 40, 80):
        bar = Elastodynamics(basis, 1.0, 0.0, 1.0, (0.1, 0.0), scheme, fixed=[8])
        u = bar.solve(([0], lambda t: np.array([t**4])), dt=1 / steps, steps=steps)[-1]
        if finest is None:
            finest = u
        else:
            errors.append(np.abs(u - finest).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.1)


def test_energy_is_kept_and_damping_takes_it():
    basis = BASES["quadrilaterals"]
    fixed = np.flatnonzero(basis.doflocs[0] < 1e-9)
    u0 = np.zeros(basis.N)
    u0[basis.nodal_dofs[1]] = 0.1 * basis.mesh.p[0] ** 2
    energies = {}
    for name, options in {"none": {}, "damped": {"damping": (0.5, 0.0)}, "hht": {"hht": -0.2}}.items():
        model = Elastodynamics(basis, 1.0, 1.0, 1.0, fixed=fixed, **options)
        states = model.march(dt=0.05, steps=60, initial=(u0, np.zeros(basis.N)))
        energies[name] = np.array([model.energy(s.u, s.v)[0] for s in states])
    np.testing.assert_allclose(energies["none"], energies["none"][0], rtol=1e-10)
    assert energies["damped"][-1] < 0.5 * energies["damped"][0]
    assert energies["hht"][-1] < energies["none"][-1]


def test_columns_march_as_they_do_alone():
    basis = BASES["quadrilaterals"]
    held = np.flatnonzero(basis.doflocs[0] < 1e-9)
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(13, len(held), 7)), 0) * 1e-2
    factors = np.array([1.0, 0.5, 1.0, 2.0, 0.5, 1.0, 1.5])
    for scheme in ("newmark", "central"):
        model = Elastodynamics(basis, 1.0, 1.0, 1.0, scheme=scheme)
        dt = 0.05
        together = model.solve((held, values), dt=dt, steps=12, stiffness=factors)
        cut = model.solve((held, values), dt=dt, steps=12, stiffness=factors, batch_size=2)
        np.testing.assert_allclose(cut, together, atol=1e-13)
        for k in range(7):
            softer = Elastodynamics(basis, factors[k], factors[k], 1.0, scheme=scheme)
            alone = softer.solve((held, values[..., k]), dt=dt, steps=12)
            np.testing.assert_allclose(together[..., k], alone, atol=1e-11)
        tip = model.solve((held, values), dt=dt, steps=12, stiffness=factors, observe=lambda state: state.u[-1])
        np.testing.assert_array_equal(tip, together[:, -1])


def test_large_systems_are_factorised_sparsely():
    mesh = skfem.MeshQuad.init_tensor(np.linspace(0, 2, 31), np.linspace(0, 1, 16))
    basis = basis_of(mesh, skfem.ElementQuad1)
    held = np.flatnonzero(basis.doflocs[0] < 1e-9)
    model = Elastodynamics(basis, 1.0, 1.0, 1.0)
    values = np.linspace(0, 1e-2, 6)[:, None, None] * np.ones((6, len(held), 3))
    u = model.solve((held, values), dt=0.1, steps=5)
    *_, last = model.march((held, values), dt=0.1, steps=5)
    free = np.setdiff1d(np.arange(basis.N), held)
    assert len(free) > 700
    np.testing.assert_allclose(u[-1], last.u)
    assert np.abs(model.forces(last)[free]).max() < 1e-12  # in equilibrium


def test_von_mises_of_known_stresses():
    lam, mu, e = 2.0, 1.5, 1e-3
    for name in ("quadrilaterals", "triangles", "quadratic triangles", "hexahedra"):
        basis = BASES[name]
        model = Elastodynamics(basis, lam, mu, 1.0)
        components = np.zeros(basis.N, dtype=int)
        for table in (basis.nodal_dofs, basis.facet_dofs, basis.edge_dofs):
            for row, dofs in enumerate(table):
                components[dofs] = row % basis.mesh.dim()
        pull = np.where(components == 0, e * basis.doflocs[0], 0.0)
        np.testing.assert_allclose(model.von_mises(pull), 2 * mu * e, rtol=1e-9)  # sigma_xx - sigma_yy
        shear = np.where(components == 0, e * basis.doflocs[1], 0.0)
        np.testing.assert_allclose(
            model.von_mises(np.stack([shear, 2 * shear], 1))[:, 1], 2 * np.sqrt(3) * mu * e, rtol=1e-9
        )
    np.testing.assert_allclose(
        Elastodynamics(line(), lam, mu, 1.0).von_mises(-e * np.linspace(0, 1, 21)), (lam + 2 * mu) * e
    )


def test_the_lumped_mass_is_the_whole_mass():
    for name, basis in BASES.items():
        model = Elastodynamics(basis, 1.0, 1.0, 3.0, scheme="central")
        volume = basis.mesh.p.max(1).prod() if basis.mesh.dim() > 1 else 1.0
        assert model.mass.diagonal().min() > 0, name
        assert model.mass.sum() == pytest.approx(3 * volume * basis.mesh.dim())


def test_the_critical_step_is_the_one_that_explodes():
    bar = Elastodynamics(line(), 1.0, 0.0, 1.0, scheme="central", fixed=[20])
    assert bar.critical_dt == pytest.approx(1 / 20, rel=0.01)  # h / c
    with pytest.raises(ValueError, match=r"dt is 0.052, above the critical 0\.0"):
        bar.solve(([0], lambda t: np.array([t])), dt=0.052, steps=3)
    u = bar.solve(([0], lambda t: np.array([min(t, 0.1)])), dt=0.999 * bar.critical_dt, steps=3000)
    assert np.abs(u).max() < 1
    assert Elastodynamics(line(), 1.0, 0.0, 1.0, (0, 0.1), "central").critical_dt < 0.02
    assert Elastodynamics(line(), 1.0, 0.0, 1.0).critical_dt == np.inf
    with pytest.raises(ValueError, match="above the critical"):
        bar.solve(([0], np.zeros((4, 1))), dt=0.049, steps=3, stiffness=[1.0, 1.5])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"lam": -1.0}, ValueError, "lam is -1"),
        ({"rho": 0.0}, ValueError, "rho is 0"),
        ({"mu": np.ones(3)}, ValueError, r"mu has shape \(3,\)"),
        ({"lam": np.nan}, ValueError, "lam is nan"),
        ({"lam": 0.0, "mu": 0.0}, ValueError, "lam \\+ 2 mu"),
        ({"damping": (0.1, -1)}, ValueError, "damping is -1"),
        ({"damping": (0.1, 0.1, 0.1)}, ValueError, "damping is"),
        ({"damping": 0.1}, ValueError, "damping is 0.1"),
        ({"scheme": "euler"}, ValueError, "scheme is 'euler'"),
        ({"hht": 0.1}, ValueError, "hht is 0.1"),
        ({"hht": -0.1, "scheme": "central"}, ValueError, "hht is -0.1"),
        ({"fixed": [99]}, ValueError, "fixed has 1 numbers from 99"),
        ({"fixed": [0.5]}, TypeError, "fixed has dtype float64"),
        ({"basis": 3}, TypeError, "basis is int"),
        ({"basis": skfem.Basis(skfem.MeshLine(), skfem.ElementLineP1())}, TypeError, "ElementVector"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_models_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        Elastodynamics(**{"basis": line(), "lam": 1.0, "mu": 1.0, "rho": 1.0, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dt": 0}, "dt is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"dirichlet": ([0, 0], np.zeros((4, 2)))}, "dirichlet has 2 numbers"),
        ({"dirichlet": ([20], np.zeros((4, 1)))}, "are fixed"),
        ({"dirichlet": ([0], np.zeros((3, 1)))}, r"shape \(3, 1\)"),
        ({"dirichlet": ([0], np.full((4, 1), np.nan))}, "NaN"),
        ({"dirichlet": ([0], lambda t: np.zeros(2))}, "dirichlet returns shape"),
        ({"dirichlet": (np.arange(20), np.zeros((4, 20)))}, "holds all"),
        ({"f": np.zeros((4, 20))}, "f has values of shape"),
        ({"f": lambda t: np.full(21, np.inf) if t > 0 else np.zeros(21)}, "NaN or infinite at step 1"),
        ({"dirichlet": ([0], np.zeros((4, 1, 2))), "f": np.zeros((4, 21, 3))}, r"\[2, 3\] columns"),
        ({"initial": (np.zeros(20), np.zeros(21))}, "initial has shape"),
        ({"stiffness": -1.0}, "stiffness has to be positive"),
        ({"dirichlet": ([0], np.zeros((4, 1, 2))), "stiffness": np.ones(3)}, "stiffness has 3 factors"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"dirichlet": [0]}, "dirichlet is list"),
        ({"initial": np.zeros(21)}, "initial is ndarray"),
        ({"dirichlet": ([0], np.zeros((4, 1, 2))), "observe": lambda s: s.u.max()}, r"observe returns shape \(\)"),
        ({"dirichlet": ([0], np.zeros((4, 1, 2))), "observe": lambda s: s.u[0, :1]}, r"observe returns shape \(1,\)"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_marches_are_refused(options, match):
    bar = Elastodynamics(line(), 1.0, 0.0, 1.0, fixed=[20])
    with pytest.raises(ValueError, match=match):
        bar.solve(**{"dt": 0.01, "steps": 3, **options})


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros(20, dtype=bool), "0 of 20 elements"),
        (np.ones(20, dtype=bool), "20 of 20 elements"),
        (np.ones(19, dtype=bool), r"shape \(19,\)"),
        ([20], "the element 20"),
        ([-1], "truth values"),
        ([[1]], "truth values"),
        ([0.5], "truth values"),
    ],
)
def test_bad_zones_are_refused(mask, match):
    with pytest.raises(ValueError, match=match):
        extract_submodel(line(), mask)


def test_a_zone_needs_vectors_and_a_cut():
    with pytest.raises(TypeError, match="ElementVector"):
        extract_submodel(skfem.Basis(skfem.MeshLine(), skfem.ElementLineP1()), [0])
    two = skfem.MeshQuad() + skfem.MeshQuad().translated((3, 0))
    with pytest.raises(ValueError, match="touches nothing"):
        extract_submodel(basis_of(two, skfem.ElementQuad1), [0])
    zone = extract_submodel(line(), [3, 4])
    with pytest.raises(ValueError, match="full has 4"):
        zone.model(Elastodynamics(line(3), 1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="another mesh"):
        zone.model(Elastodynamics(line(30), 1.0, 0.0, 1.0))


def test_without_scikit_fem_one_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "skfem", None)
    with pytest.raises(ImportError, match="mechanics"):
        Elastodynamics(None, 1.0, 1.0, 1.0)


def zone_of_bar(n=40, scheme="newmark"):
    basis = line(n)
    whole = Elastodynamics(basis, 1.0, 0.0, 1.0, scheme=scheme, fixed=[n])
    return whole, extract_submodel(basis, np.arange(int(0.6 * n), int(0.8 * n)))


class Fixed:
    """Draws given histories in turn."""

    def __init__(self, histories):
        self.histories = histories

    def sample(self, n, generator=None, condition=None):
        return self.histories[:n]


def test_quantities_inside_are_those_of_the_whole():
    whole, zone = zone_of_bar()
    dt, steps = 0.02, 80
    A = np.linspace(0.5, 1.5, 6)
    drive = ([0], lambda t: A[None] * np.exp(-(((t - 0.2) / 0.06) ** 2)) * min(1, t / 0.04))
    u = whole.solve(drive, dt=dt, steps=steps)
    model = zone.model(whole)
    qoi = {
        "stress": Quantity.von_mises(model),
        "peak": Quantity.displacement(4),
        "last": Quantity.displacement(4, "last"),
        "sum": Quantity.displacement(4, "sum"),
        "history": Quantity.displacement(4, "history"),
        "arrival": Quantity.arrival(4, 0.2),
        "energy": Quantity.energy(model),
    }
    truth = evaluate_quantities(whole.march(drive, dt=dt, steps=steps), qoi, zone)
    times = np.arange(steps + 1) * dt
    uq = SubmodelUQ(zone, Fixed(zone.histories(u)), qoi, model, dt, times)
    found = uq.run(6, batch_size=4).samples
    for name in qoi:
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-9, atol=1e-12)
    middle = np.abs(u[:, zone.dof_map[4]])
    np.testing.assert_allclose(truth["peak"], middle.max(0))
    np.testing.assert_allclose(truth["history"], middle.T)
    np.testing.assert_allclose(truth["sum"], middle.sum(0))
    np.testing.assert_allclose(truth["arrival"], times[(middle > 0.2).argmax(0)])
    field = zone.restrict(np.moveaxis(u, -1, 0))[..., zone.field_dofs].transpose(0, 2, 3, 1)
    by_field = SubmodelUQ(zone, Fixed(field), qoi, model, dt, times, support="field").run(6).samples
    np.testing.assert_allclose(by_field["peak"], truth["peak"])
    np.testing.assert_array_equal(zone.trace(field), zone.histories(u))
    coarse = SubmodelUQ(zone, Fixed(zone.histories(u)[..., 2::2]), qoi, model, dt, times[2::2]).run(6).samples
    np.testing.assert_allclose(coarse["peak"], truth["peak"], rtol=0.02)  # every second step, interpolated


@pytest.mark.parametrize("scheme", ["newmark", "central"])
def test_the_matching_stiffness_gives_the_whole_and_another_one_a_bias(scheme):
    n, dt, steps = 40, 0.02, 80
    whole, zone = zone_of_bar(n, scheme)
    E = np.array([0.8, 1.2, 0.8, 1.0])
    drive = ([0], lambda t: np.exp(-(((t - 0.2) / 0.06) ** 2)) * min(1, t / 0.04) * np.ones((1, 4)))
    u = whole.solve(drive, dt=dt, steps=steps, stiffness=E)
    model, qoi = zone.model(whole), {"history": Quantity.displacement(4, "history")}
    times = np.arange(steps + 1) * dt
    truth = np.abs(u[:, zone.dof_map[4]]).T
    sampler = Fixed(zone.histories(u))
    matched = SubmodelUQ(zone, sampler, qoi, model, dt, times, stiffness=lambda c: c[:, 0]).run(4, condition=E[:, None])
    np.testing.assert_allclose(matched.samples["history"], truth, atol=1e-11)
    mean = SubmodelUQ(zone, sampler, qoi, model, dt, times).run(4)
    assert np.abs(mean.samples["history"] - truth)[:3].max() > 0.02
    np.testing.assert_allclose(mean.samples["history"][3], truth[3], atol=1e-11)


def test_histories_that_do_not_begin_at_rest_rise_smoothly():
    whole, zone = zone_of_bar()
    times = np.linspace(0, 1, 21)
    uq = SubmodelUQ(zone, Fixed(None), {"peak": Quantity.displacement(4)}, zone.model(whole), 0.05, times, ramp=4)
    H = np.ones((2, 1, 2, 21))
    H[1] = times**2
    values = uq.boundary_values(H)
    assert values.shape == (21, 2, 2)
    assert values[0, 0, 0] == 0
    assert (np.diff(values[:5, 0, 0]) > 0).all()
    np.testing.assert_allclose(values[4:, 0, 0], 1)
    np.testing.assert_array_equal(values[:, 0, 1], times**2)  # at rest: as it is
    np.testing.assert_allclose(uq.boundary_values(1e-12 * H), 1e-12 * values)  # in any unit


def test_interpolation_is_exact_where_values_are_stored():
    stored = np.arange(1, 11) * 0.4
    values = np.sin(stored)[None] * np.array([[1.0], [2.0]])
    at = np.arange(41) * 0.1
    found = interpolate_histories(values, stored, at)
    np.testing.assert_allclose(found[:, 4::4], values)
    np.testing.assert_allclose(found[0], np.sin(at), atol=4e-4)
    assert found[0, 0] == 0
    np.testing.assert_array_equal(interpolate_histories(values, stored, [0, *stored])[:, 1:], values)
    for times, asked, match in (
        (stored[::-1], at, "rising"),
        (stored[:-1], at, "has 10 values for 9"),
        (stored, [4.5], "at goes from 4.5"),
        (stored, [np.nan], "at goes from nan"),
    ):
        with pytest.raises(ValueError, match=match):
            interpolate_histories(values, times, asked)


@pytest.mark.usefixtures("untyped")
def test_a_sampler_that_does_not_match_is_refused():
    whole, zone = zone_of_bar()
    times, model = np.linspace(0, 1, 21), zone.model(whole)
    good = {"submodel": zone, "sampler": Fixed(np.zeros((3, 1, 2, 21))), "qoi": {"peak": Quantity.displacement(4)}}
    good |= {"model": model, "dt": 0.05, "times": times}
    for options, error, match in (
        ({"sampler": Fixed(np.zeros((3, 1, 3, 21)))}, ValueError, "boundary's degrees of freedom"),
        ({"sampler": Fixed(np.zeros((3, 1, 2, 20)))}, ValueError, "boundary's degrees of freedom"),
        ({"sampler": Fixed(np.full((3, 1, 2, 21), np.nan))}, ValueError, "histories has values that are NaN"),
        ({"sampler": Fixed(np.zeros((3, 1, 5, 21))), "support": "field"}, ValueError, "fields has shape"),
        ({"sampler": 3}, TypeError, "sampler is int"),
        ({"qoi": {}}, ValueError, "qoi is empty"),
        ({"qoi": {"peak": np.max}}, TypeError, "qoi has 'peak' of type"),
        ({"model": whole}, ValueError, "model has 41 degrees of freedom"),
        ({"dt": 0.03}, ValueError, "multiple of dt"),
        ({"times": 1.0}, ValueError, r"times has shape \(\)"),
        ({"times": times[::-1]}, ValueError, "rising"),
        ({"sampler": Fixed(np.zeros((2, 1, 2, 21)))}, ValueError, "draws 2 samples where 3"),
        ({"support": "volume"}, ValueError, "support is 'volume'"),
        ({"qoi": {"peak": Quantity(lambda s: s.u[0], "mean")}}, ValueError, "over_time is 'mean'"),
        ({"stiffness": lambda c: c[:, 0]}, ValueError, "condition is None"),
    ):
        with pytest.raises(error, match=match):
            SubmodelUQ(**{**good, **options}).run(3)
    with pytest.raises(ValueError, match="2 rows for 3 samples"):
        SubmodelUQ(**good).run(3, condition=np.zeros((2, 1)))


def test_statistics_cover_what_they_estimate():
    rng = np.random.default_rng(0)
    inside = np.zeros(4)
    for _ in range(300):
        result = UQResult({"x": rng.exponential(size=200)})
        mean, deviation = result.ci(0.1)["x"], result.ci(0.1, of="std")["x"]
        _, low, high = result.quantile(0.9, 0.1)["x"]
        ends = (mean, deviation, (low, high), result.quantile(0.5, 0.1)["x"][1:])
        truth = (1.0, 1.0, np.log(10), np.log(2))
        inside += [a <= t <= b for (a, b), t in zip(ends, truth, strict=True)]
    shares = inside / 300
    assert (shares[[0, 2, 3]] > 0.84).all()
    assert shares[1] > 0.75  # of a skew law the normal interval of the deviation is short
    assert shares.max() < 0.97


def test_statistics_of_histories_and_few_samples():
    result = UQResult({"path": np.arange(12.0).reshape(4, 3), "x": np.arange(4.0)})
    np.testing.assert_allclose(result.mean["path"], [4.5, 5.5, 6.5])
    assert result.std["x"] == pytest.approx(np.std(np.arange(4), ddof=1))
    high = result.quantile(0.99)["x"][2]
    assert high == np.inf
    assert result.quantile(0.5)["path"][0].shape == (3,)
    assert result.kde("x")(1.5) > result.kde("x")(9.0)
    for call, match in (
        (lambda: result.kde("path"), "a history"),
        (lambda: result.kde("y"), "name is 'y'"),
        (lambda: result.quantile(1.0), "q is 1"),
        (lambda: result.ci(of="median"), "of is 'median'"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_monte_carlo_repeats_from_its_generator():
    whole, zone = zone_of_bar()
    runs = struck_bar(20, 0)
    uq = SubmodelUQ(
        zone,
        BootstrapSampler().fit(runs.histories),
        {"peak": Quantity.displacement(4)},
        zone.model(whole),
        runs.times[0],
        runs.times,
    )
    a, b = (uq.run(30, torch.Generator().manual_seed(1)).samples["peak"] for _ in range(2))
    np.testing.assert_array_equal(a, b)
    peaks = np.abs(runs.inside).max(1)
    assert peaks.min() * 0.8 < a.min() <= a.max() < peaks.max() * 1.2


def test_the_struck_plate():
    plate = struck_plate(12, 6)
    assert plate.dt < plate.model.critical_dt
    assert plate.zone(4, 2).sum() == 8
    mesh = plate.model.basis.mesh
    np.testing.assert_allclose(mesh.p[:, mesh.t[:, plate.zone(4, 2)]].mean((1, 2)), [1.0, 0.5])
    fine = [struck_plate(24, 12, scheme) for scheme in ("central", "newmark")]
    a, b = (p.model.solve(f=p.loads(3, 0), dt=p.dt / 2, steps=2 * p.steps) for p in fine)
    assert np.linalg.norm(a - b) < 0.25 * np.linalg.norm(a)
    assert not np.array_equal(plate.loads(3, 0)(0.2), plate.loads(3, 1)(0.2))


def test_the_struck_bar_is_the_finite_element_bar():
    runs = struck_bar(3, 1)
    assert np.abs(runs.histories[..., 0]).max() < 1e-3  # nothing has arrived
    again = struck_bar(3, 1)
    np.testing.assert_array_equal(runs.histories, again.histories)
    basis = line(200)
    whole = Elastodynamics(basis, 1.0, 0.0, 1.0, scheme="central")
    zone = extract_submodel(basis, np.arange(120, 160))
    uq = SubmodelUQ(
        zone,
        Fixed(runs.histories),
        {"middle": Quantity.displacement(20, "history")},
        zone.model(whole),
        0.004,
        runs.times,
        stiffness=lambda c: c[:, 0],
    )
    found = uq.run(3, condition=runs.modulus[:, None]).samples["middle"][:, 4::4]
    np.testing.assert_allclose(found, np.abs(runs.inside), atol=0.02)


def test_states_are_numbered():
    whole, _ = zone_of_bar(10)
    states = list(whole.march(([0], lambda t: np.array([t])), dt=0.1, steps=3))
    assert [s.step for s in states] == [0, 1, 2, 3]
    assert all(isinstance(s, State) and s.u.shape == (11, 1) for s in states)
    with pytest.raises(ValueError, match="2 different factors"):
        next(whole.march(([0], lambda t: np.array([[t, t]])), dt=0.1, steps=3, stiffness=[1.0, 2.0]))
