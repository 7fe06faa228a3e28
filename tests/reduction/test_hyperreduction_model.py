import copy
import dataclasses
import pickle
from functools import cache

import joblib
import numpy as np
import pytest

from paperworks.reduction import (
    AdaptiveROM,
    GappyErrorIndicator,
    HyperReducedModel,
    Loads,
    Trajectory,
    calibration_pairs,
    gram_matrix,
)
from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole

pytest.importorskip("skfem")
SPOTS = [(100.0, (4.0, 0.0)), (300.0, (7.0, 7.0)), (600.0, (3.0, 9.0))]
TIMES = np.linspace(0, 2, 11)


@cache
def cases():
    """One problem, and the full solutions under three temperature fields."""
    mesh = plate_with_hole(4)
    problems = [heated_plate(mesh, hot_spot(mesh.p, *spot, 2.0))[0] for spot in SPOTS]
    first = problems[0]
    return first, [first.with_loads(problem.loads).solve(TIMES) for problem in problems]


@cache
def model(**options):
    problem, full = cases()
    return HyperReducedModel(problem, **options).fit(full[:2])


def error(problem, found, truth):
    return problem.norm(found - truth).max() / problem.norm(truth).max()


def test_training_is_followed_and_new_fields_are_not():
    problem, full = cases()
    errors = []
    for truth in full:
        rebuilt = model().reconstruct(model().solve(truth.loads, TIMES))
        errors.append(error(problem, rebuilt.p, truth.p))
        assert (rebuilt.p >= 0).all()
    assert max(errors[:2]) < 0.005
    assert errors[2] > 0.05


@pytest.mark.parametrize("hyper_reduction", [True, False])
def test_modes_are_orthonormal_and_points_integrate_positively(hyper_reduction):
    problem, _ = cases()
    rom = model(hyper_reduction=hyper_reduction)
    np.testing.assert_allclose(
        gram_matrix(rom.modes_, inner_product=problem.elements.mass()), np.eye(len(rom.modes_)), atol=1e-9
    )
    assert not rom.modes_[:, np.setdiff1d(np.arange(problem.elements.n_dofs), problem.elements.free)].any()
    assert (rom.weights_ >= 0).all()
    G, w = rom.integrands(), problem.elements.weights
    assert np.linalg.norm(G[:, rom.points_] @ rom.weights_ - G @ w) <= 1e-3 * np.linalg.norm(G @ w)
    assert rom.weights_.sum() == pytest.approx(w.sum(), rel=1e-3)
    assert (len(rom.points_) < len(w)) == hyper_reduction


def test_with_all_modes_and_points_the_reduced_model_is_the_full_one():
    problem, _ = cases()
    strict = copy.copy(problem)
    strict.rtol = 1e-11
    truth = strict.solve(TIMES)
    rom = HyperReducedModel(strict, rtol=1e-8, hyper_reduction=False, newton_rtol=1e-11).fit([truth])
    found = rom.reconstruct(rom.solve(truth.loads, TIMES))
    for name in ("u", "p", "sigma"):
        assert error(problem, found.field(name), truth.field(name)) < 1e-6


def test_the_tangent_is_the_derivative_of_the_forces():
    rom = model()
    rng = np.random.default_rng(0)
    state = rom.solve(cases()[1][0].loads, TIMES[:6]).states[-1]
    T = np.full(len(rom.points_), 300.0)
    q = state.u * 1.05
    sigma, _, tangent = rom.material.integrate(rom.strain(q), T, state.material, 0.1)
    direction = rng.normal(size=len(q)) * np.abs(q)
    more = rom.material.integrate(rom.strain(q + 1e-6 * direction), T, state.material, 0.1)[0]
    force = (rom.internal(more) - rom.internal(sigma)) / 1e-6
    np.testing.assert_allclose(rom.solve_tangent(tangent, force), direction, rtol=1e-3, atol=1e-6)


def test_states_go_to_the_mesh_and_back():
    rom = model()
    state = rom.solve(cases()[1][1].loads, TIMES[:7]).states[-1]
    whole = rom.lift(state)
    back = rom.restrict(whole)
    np.testing.assert_allclose(back.u, state.u, atol=1e-12 * np.abs(state.u).max())
    for name in ("eps_p", "a", "p"):
        np.testing.assert_array_equal(getattr(back.material, name), getattr(state.material, name))
    assert np.abs(whole.material.eps_p[:, :3].sum(1)).max() < 1e-10  # rebuilt flow keeps the volume


def test_a_snapshot_that_was_added_is_represented():
    problem, full = cases()
    rom = copy.deepcopy(model(), {id(problem): problem})
    before = set(rom.points_)
    state = full[2].state(5)
    rom.enrich(state)
    projected = rom.restrict(state).u @ rom.modes_
    assert problem.norm(projected - state.u) < 2e-3 * problem.norm(state.u)
    assert len(before & set(rom.points_)) > 0.5 * len(before)  # it began with the present points
    reduced = rom.restrict(state)
    assert problem.norm(rom.lift(reduced).material.p - state.material.p) < 0.05 * problem.norm(state.material.p)
    assert set(model().points_) == before  # the copy alone has changed


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_subdomains_add_up_to_the_whole(n_jobs):
    with joblib.parallel_config("threading"):
        subdomains(n_jobs)


def subdomains(n_jobs):
    problem, full = cases()
    x = problem.elements.points
    parts = (x[:, 0] > 5).astype(int) + 2 * (x[:, 1] > 5)
    rom = HyperReducedModel(problem, parts=parts, n_jobs=n_jobs).fit(full[:2])
    one = model()
    assert len(rom.modes_) == len(one.modes_)
    overlap = gram_matrix(rom.modes_, one.modes_, problem.elements.mass())
    np.testing.assert_allclose(np.abs(np.diag(overlap)), 1, atol=1e-4)  # correlations lose half of the digits
    G, w = rom.integrands(), problem.elements.weights
    for part in range(4):  # each has a rule of its own
        inside, mine = parts == part, parts[rom.points_] == part
        b = G[:, inside] @ w[inside]
        assert np.linalg.norm(G[:, rom.points_[mine]] @ rom.weights_[mine] - b) <= 1e-3 * np.linalg.norm(b)
    found = rom.reconstruct(rom.solve(full[0].loads, TIMES))
    assert error(problem, found.p, full[0].p) < 0.005


@cache
def calibrated(rom):
    return GappyErrorIndicator().calibrate(*calibration_pairs(rom, cases()[1][:2]))


@pytest.mark.parametrize(
    "options", [{}, {"hyper_reduction": False}, {"quantities": ("p", "sigma_yy")}], ids=["hyper", "primal", "vector"]
)
def test_enrichment_brings_the_error_down(options):
    problem, full = cases()
    rom = model(**options)
    indicator = calibrated(rom)
    new = problem.with_loads(full[2].loads)
    plain = AdaptiveROM(rom, new, indicator, on_excess="report").solve(TIMES)
    adaptive = AdaptiveROM(rom, new, indicator, rtol=0.05)
    found = adaptive.solve(TIMES)
    assert plain.n_hf_steps == 0
    assert plain.indicator.max() > 0.05
    assert 0 < found.n_hf_steps <= 15
    assert len(set(found.enrichments)) == found.n_hf_steps  # never twice at one step
    assert found.stopped is None
    assert error(problem, found.trajectory.p, full[2].p) < 0.5 * error(problem, plain.trajectory.p, full[2].p)
    assert adaptive.rom_ is not rom
    assert (found.indicator >= found.expected).all()


def test_it_stops_before_the_first_step_that_it_does_not_believe():
    problem, full = cases()
    rom = model()
    found = AdaptiveROM(rom, problem.with_loads(full[2].loads), calibrated(rom), on_excess="stop").solve(TIMES)
    assert found.stopped is not None
    assert len(found.trajectory.times) == len(found.indicator) == found.stopped
    assert found.indicator.max() <= 0.05
    few = AdaptiveROM(rom, problem.with_loads(full[2].loads), calibrated(rom), max_enrich=1).solve(TIMES)
    assert few.n_hf_steps == 1
    assert few.indicator.max() > 0.05  # and says so


def test_a_model_is_stored_and_goes_on():
    problem, full = cases()
    rom = pickle.loads(pickle.dumps(model()))
    ours, theirs = (one.solve(problem.loads, TIMES[:5]).states[-1].u for one in (rom, model()))
    np.testing.assert_array_equal(ours, theirs)
    rom.enrich(full[2].state(5))
    problem = pickle.loads(pickle.dumps(problem))
    np.testing.assert_allclose(problem.solve(TIMES[:3]).u, full[0].u[:3], rtol=1e-12)


def test_training_loads_need_no_enrichment():
    problem, full = cases()
    found = AdaptiveROM(model(), problem, calibrated(model())).solve(TIMES)
    assert found.n_hf_steps == 0
    assert error(problem, found.trajectory.u, full[0].u) < 0.005


def test_residuals_of_single_states_are_those_of_the_trajectory():
    rom = model()
    solution = rom.solve(cases()[1][1].loads, TIMES[:7])
    greatest = dict(rom.sizes_)
    for k, state in enumerate(solution.states):
        assert rom.residual(state, greatest)[0] == pytest.approx(solution.residuals["p"][k])
        greatest["p"] = max(greatest["p"], float(rom.gappy_["p"].size(state.material.p)))
    assert solution.residuals["p"][0] == 0


@pytest.mark.parametrize("regressor", [None, "linear"])
def test_the_indicator_learns_a_power_law_and_its_scatter(regressor):
    rng = np.random.default_rng(0)
    E = np.geomspace(1e-5, 1e-2, 300)
    e = 3 * E**1.2 * 10 ** (0.1 * rng.normal(size=300))
    indicator = GappyErrorIndicator(regressor).calibrate(E, e)
    assert indicator.slope_[0] == pytest.approx(1.2, abs=0.05)
    assert indicator.scatter_[0] == pytest.approx(0.1, abs=0.02)
    assert indicator.correlation_[0] > 0.98
    far = np.array([1e-1, 1.0])  # beyond all data it goes on rising
    np.testing.assert_allclose(indicator.predict(far), 3 * far**1.2, rtol=0.5)
    mean, std = indicator.predict(1e-3, return_std=True)
    assert std == pytest.approx(0.1, abs=0.03)
    assert indicator.upper(1e-3) == pytest.approx(mean * 10 ** (1.64 * std))
    assert np.mean(e <= indicator.upper(E)) == pytest.approx(0.95, abs=0.03)
    assert indicator.predict([0.0, 1e-3])[0] == 0


def test_few_trajectories_widen_the_bound_and_many_do_not():
    rng = np.random.default_rng(1)
    widths = {}
    for count in (4, 200):
        groups = np.repeat(np.arange(count), 10)
        E = 10 ** rng.uniform(-4, -2, len(groups))
        e = 2 * E * 10 ** (0.1 * rng.normal(size=count))[groups]
        indicator = GappyErrorIndicator("linear").calibrate(E, e, groups)
        widths[count] = np.log10(indicator.upper(1e-3) / indicator.predict(1e-3))
    assert widths[200] == pytest.approx(0.164, rel=0.15)
    assert widths[4] > widths[200]


def test_each_quantity_has_its_regression():
    E = np.geomspace(1e-4, 1e-1, 40)
    indicator = GappyErrorIndicator().calibrate(np.stack([E, E], 1), np.stack([2 * E, 9 * E**0.5], 1))
    np.testing.assert_allclose(indicator.predict([[1e-2, 1e-2]]), [[2e-2, 0.9]], rtol=1e-3)


def nothing_flows():
    problem, full = cases()
    zeros = {name: np.zeros_like(full[0].field(name)) for name in ("eps_p", "a", "p")}
    HyperReducedModel(problem).fit([Trajectory(full[0].loads, full[0].times, full[0].u, full[0].sigma, **zeros)])


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda p: HyperReducedModel("plate"), TypeError, "problem is str"),
        (lambda p: HyperReducedModel(p, rtol=0.0), ValueError, "rtol is 0"),
        (lambda p: HyperReducedModel(p, cubature_rtol=-1.0), ValueError, "cubature_rtol is -1"),
        (lambda p: HyperReducedModel(p, quantities=("heat",)), ValueError, "name is 'heat'"),
        (lambda p: HyperReducedModel(p, quantities=("u",)), ValueError, "quantities has 'u'"),
        (lambda p: HyperReducedModel(p, quantities="p"), TypeError, "quantities is 'p'"),
        (lambda p: HyperReducedModel(p, parts=[0, 1]), ValueError, "parts has shape"),
        (lambda p: HyperReducedModel(p).fit([]), ValueError, "sequence of one or more"),
        (lambda p: HyperReducedModel(p).fit(cases()[1][0]), ValueError, "sequence of one or more"),
        (lambda p: HyperReducedModel(p).fit(["creep"]), TypeError, "trajectory is str"),
        (lambda p: HyperReducedModel(p).fit([spoiled(u=np.ones((11, 3)))]), ValueError, "u of shape"),
        (lambda p: HyperReducedModel(p).fit([spoiled(sigma=np.ones((3, 64, 4)))]), ValueError, "sigma of shape"),
        (lambda p: HyperReducedModel(p).fit([spoiled(p=np.full((11, 64), np.nan))]), ValueError, "p with values"),
        (lambda p: HyperReducedModel(p).solve(p.loads, TIMES), ValueError, "not fitted"),
        (lambda p: HyperReducedModel(p).integrands(), ValueError, "not fitted"),
        (lambda p: HyperReducedModel(p).enrich(cases()[1][0].state(3)), ValueError, "not fitted"),
        (lambda p: model().enrich(spoiled(u=np.ones((11, 3))).state(3)), ValueError, "u of shape"),
        (lambda p: model().solve({}, TIMES), TypeError, "loads is dict"),
        (lambda p: ready().predict(np.nan), ValueError, "E has values"),
        (lambda p: ready().upper([0.1, -0.1]), ValueError, "E has values"),
        (lambda p: ready().upper(np.inf), ValueError, "E has values"),
        (lambda p: GappyErrorIndicator(3), ValueError, "regressor is 3"),
        (lambda p: nothing_flows(), ValueError, "no plastic strain"),
        (lambda p: model().solve(Loads(temperature=([0.0], np.ones((1, 3)))), TIMES), ValueError, "3 nodes"),
        (lambda p: AdaptiveROM(HyperReducedModel(p), p, GappyErrorIndicator()), ValueError, "not fitted"),
        (lambda p: AdaptiveROM(model(), p, GappyErrorIndicator()), ValueError, "not calibrated"),
        (lambda p: AdaptiveROM(model(), p, ready(), rtol=0.0), ValueError, "rtol is 0"),
        (lambda p: AdaptiveROM(model(), p, ready(), on_excess="fly"), ValueError, "on_excess is 'fly'"),
        (lambda p: GappyErrorIndicator("cubic"), ValueError, "regressor is 'cubic'"),
        (lambda p: GappyErrorIndicator().calibrate([1.0, 2.0], [1.0]), ValueError, "shapes"),
        (lambda p: GappyErrorIndicator().calibrate([0.0, 0.0], [1.0, 1.0]), ValueError, "two or more"),
        (lambda p: GappyErrorIndicator().predict(0.1), ValueError, "not calibrated"),
        (lambda p: ready().calibrate([1.0, 2.0], [1.0, 2.0], [0]), ValueError, "groups has shape"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(cases()[0])


def spoiled(**fields):
    return dataclasses.replace(cases()[1][0], **fields)


def ready():
    return GappyErrorIndicator().calibrate([0.1, 0.2], [0.1, 0.2])
