import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paperworks.reduction import (
    Efficiency,
    KMedoids,
    LocalReducedBases,
    ROMNet,
    SnapshotPOD,
    calibrate,
    efficiency_criterion,
    fasterpam,
    gram_matrix,
    kolmogorov_width,
    projection_errors,
    row_norms,
    sine_dissimilarity,
    subspace_dissimilarity,
)

RNG = np.random.default_rng(0)
X = np.linspace(0, 1, 120)


def bumps(m=120, rng=RNG):
    inputs = rng.uniform([0.15, -1], [0.85, 1], size=(m, 2))
    return inputs, 10 ** inputs[:, 1:] * np.exp(-(((X - inputs[:, :1]) / 0.08) ** 2))


def mass(n):
    return sp.diags_array([np.full(n - 1, 1 / 6), np.full(n, 2 / 3), np.full(n - 1, 1 / 6)], offsets=[-1, 0, 1]).tocsr()


@pytest.mark.parametrize("inner", [None, RNG.uniform(0.1, 2, size=50), mass(50), mass(50).toarray()])
def test_the_sine_is_the_relative_projection_error(inner):
    U, V = RNG.normal(size=(7, 50)), RNG.normal(size=(5, 50))
    coefficients = gram_matrix(U, V, inner) / row_norms(V, inner) ** 2
    left = U[:, None] - coefficients[..., None] * V
    errors = row_norms(left.reshape(-1, 50), inner).reshape(7, 5) / row_norms(U, inner)[:, None]
    assert np.abs(sine_dissimilarity(U, V, inner) - errors).max() < 1e-12


@pytest.mark.parametrize("angle", [1e-3, 1e-5, 1e-7])
def test_small_angles_keep_their_digits(angle):
    Q, _ = np.linalg.qr(RNG.normal(size=(80, 2)))
    u, v = Q.T
    found = sine_dissimilarity(np.array([5 * u, -3e-7 * (np.cos(angle) * u + np.sin(angle) * v)]))[0, 1]
    assert found == pytest.approx(np.sin(angle), rel=1e-8)


@given(st.integers(0, 2**31), st.floats(-1e100, 1e100).filter(lambda c: abs(c) > 1e-100))
@settings(max_examples=30, deadline=None)
def test_the_sine_is_a_metric_of_lines(seed, scale):
    U = np.random.default_rng(seed).normal(size=(6, 3))
    D = sine_dissimilarity(U)
    assert np.array_equal(D, D.T)
    assert (np.diag(D) == 0).all()
    assert (D <= 1).all()
    assert np.abs(sine_dissimilarity(U * scale) - D).max() < 1e-12
    assert all(D[i, k] <= D[i, j] + D[j, k] + 1e-12 for i, j, k in itertools.permutations(range(6), 3))


KINDS = {
    "sine": lambda t: np.sin(t.max()),
    "chordal": lambda t: np.linalg.norm(np.sin(t)),
    "grassmann": np.linalg.norm,
    "schubert": np.linalg.norm,
    "fubini_study": lambda t: np.arccos(np.prod(np.cos(t))),
    "binet_cauchy": lambda t: np.sqrt(1 - np.prod(np.cos(t)) ** 2),
    "martin": lambda t: np.sqrt(-np.log(np.prod(np.cos(t)) ** 2)),
    "procrustes": lambda t: 2 * np.linalg.norm(np.sin(t / 2)),
    "asimov": np.max,
    "spectral": lambda t: 2 * np.sin(t.max() / 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_subspaces_are_apart_as_their_principal_angles_say(kind):
    bases = [np.linalg.qr(RNG.normal(size=(30, 3)))[0].T for _ in range(4)]
    found = subspace_dissimilarity(bases, kind=kind)
    for i, j in itertools.combinations(range(4), 2):
        assert (
            found[i, j] == found[j, i] == pytest.approx(KINDS[kind](subspace_angles(bases[i].T, bases[j].T)), rel=1e-9)
        )


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"schubert"}))
def test_close_and_orthogonal_subspaces(kind):
    Q = np.linalg.qr(RNG.normal(size=(30, 4)))[0].T
    tilted = np.array([Q[0], np.cos(1e-9) * Q[1] + np.sin(1e-9) * Q[2]])
    assert subspace_dissimilarity([Q[:2], tilted], kind=kind)[0, 1] == pytest.approx(1e-9, rel=1e-5)
    assert np.isfinite(subspace_dissimilarity([Q[:2], Q[2:]], kind=kind)).all()


def test_of_unequal_subspaces_the_schubert_kind_counts_right_angles():
    Q = np.linalg.qr(RNG.normal(size=(30, 3)))[0].T
    assert subspace_dissimilarity([Q, Q[:1]], kind="grassmann")[0, 1] == pytest.approx(0, abs=1e-7)
    assert subspace_dissimilarity([Q, Q[:1]], kind="schubert")[0, 1] == pytest.approx(np.sqrt(2) * np.pi / 2)


def test_an_inner_product_turns_angles():
    weights = np.array([1.0, 4.0])
    bases = [np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]) / np.sqrt(5)]
    assert subspace_dissimilarity(bases, kind="sine", inner_product=weights)[0, 1] == pytest.approx(2 / np.sqrt(5))


def test_projection_errors_of_trajectories_and_of_tiny_ones():
    modes = np.linalg.qr(RNG.normal(size=(40, 3)))[0].T
    U = [RNG.normal(size=(4, 40)), RNG.normal(size=(6, 40)) * 1e-200]
    errors = projection_errors(U, [modes])
    assert errors[0, 0] == pytest.approx(np.linalg.norm(U[0] - U[0] @ modes.T @ modes) / np.linalg.norm(U[0]))
    inside = modes[:1] + 1e-9 * np.linalg.qr(np.vstack([modes, RNG.normal(size=(1, 40))]).T)[0].T[3:]
    assert projection_errors([inside], [modes])[0, 0] == pytest.approx(1e-9, rel=1e-6)
    with pytest.raises(ValueError, match="zero, number 1"):
        projection_errors([U[0], np.zeros((2, 40))], [modes])


@pytest.mark.usefixtures("untyped")
def test_medoids_of_whole_numbers_and_lists():
    D = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    for distances in (D, D.tolist(), D.astype(np.float32)):
        assert fasterpam(distances, [0, 1]).inertia == brute_force(D, 2)
        assert fasterpam(distances, [0]).medoids.tolist() == [4]


def brute_force(D, k):
    return min(D[:, list(c)].min(1).sum() for c in itertools.combinations(range(len(D)), k))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_medoids_are_the_best_of_all(k):
    for seed in range(5):
        D = np.random.default_rng(seed).uniform(size=(14, 14))
        D = np.triu(D, 1) + np.triu(D, 1).T
        model = KMedoids(k, "precomputed", n_init=10, random_state=0).fit(D)
        assert model.inertia_ == pytest.approx(brute_force(D, k))
        assert model.inertia_ == pytest.approx(D[np.arange(14), model.medoid_indices_[model.labels_]].sum())


def test_no_swap_of_the_result_helps():
    D = sine_dissimilarity(bumps(60)[1])
    found = fasterpam(D, np.arange(4))
    for i, j in itertools.product(range(4), range(60)):
        other = found.medoids.copy()
        other[i] = j
        assert D[:, other].min(1).sum() >= found.inertia - 1e-9


def test_medoids_of_the_sine_minimise_the_error_on_their_lines():
    _, U = bumps(60)
    model = LocalReducedBases(4, 1, random_state=0).fit(U)
    lines = [U[i : i + 1] / np.linalg.norm(U[i]) for i in model.medoid_indices_]
    errors = projection_errors(list(U[:, None]), lines)
    assert errors.min(1).sum() == pytest.approx(model.inertia_, rel=1e-9)


def test_small_clusters_are_merged():
    points = np.concatenate([RNG.normal(size=(20, 2)), RNG.normal(size=(20, 2)) + 10, [[100.0, 0.0]]])
    assert np.bincount(KMedoids(3, random_state=0).fit(points).labels_).min() == 1
    merged = KMedoids(3, min_size=2, random_state=0).fit(points)
    assert len(merged.medoid_indices_) == 2
    assert np.bincount(merged.labels_).min() >= 20


@pytest.mark.parametrize("kind", ["greedy", "pod", "l2"])
def test_widths(kind):
    _, U = bumps(40)
    N = np.arange(0, 30, 3)
    widths = kolmogorov_width(U, N, kind)
    assert widths[0] == pytest.approx(1)
    assert (np.diff(widths) <= 1e-14).all()
    assert (kolmogorov_width(U, N, "l2") <= widths + 1e-14).all()
    assert kolmogorov_width(U, 40, kind) < 1e-12
    unit = U / np.linalg.norm(U, axis=1, keepdims=True)
    if kind != "greedy":
        errors = projection_errors(list(unit[:, None]), [SnapshotPOD(6).fit(unit).modes_])
        of_six = errors.max() if kind == "pod" else np.sqrt((errors**2).mean())
        assert kolmogorov_width(U, 6, kind) == pytest.approx(of_six, rel=1e-6)


def test_the_greedy_width_takes_the_worst_each_time():
    U = RNG.normal(size=(10, 6))
    unit, basis = U / np.linalg.norm(U, axis=1, keepdims=True), np.zeros((0, 6))
    for n in range(1, 5):
        worst = np.linalg.norm(unit - unit @ basis.T @ basis, axis=1).argmax() if len(basis) else None
        if worst is not None:
            basis = np.linalg.qr(np.vstack([basis, unit[worst]]).T)[0].T
            left = np.linalg.norm(unit - unit @ basis.T @ basis, axis=1).max()
            assert kolmogorov_width(U, n, "greedy") == pytest.approx(left, rel=1e-9)
        else:  # all are of norm 1: the first that pivoting takes
            start = kolmogorov_width(U, 1, "greedy")
            basis = next(u[None] for u in unit if abs(np.sqrt(1 - (unit @ u) ** 2).max() - start) < 1e-12)


@pytest.mark.parametrize("clustering", ["kmedoids", "kmeans", "projection"])
def test_local_bases_beat_one_and_are_orthonormal(clustering):
    _, U = bumps()
    weights = RNG.uniform(0.5, 1.5, size=120) if clustering == "kmedoids" else None
    local = LocalReducedBases(5, 3, clustering=clustering, inner_product=weights, random_state=0).fit(U)
    for B in local.bases_:
        assert np.abs(gram_matrix(B, inner_product=weights) - np.eye(3)).max() < 1e-12
    errors = local.projection_errors(U)[np.arange(len(U)), local.predict(U)]
    one = projection_errors(list(U[:, None]), [local.global_basis_], weights)
    assert errors.mean() < one.mean() / (1.2 if clustering == "kmeans" else 3)  # amplitudes lead the means astray
    rest = U - local.project(U)
    assert row_norms(rest, weights) / row_norms(U, weights) == pytest.approx(errors, rel=1e-6)


@pytest.mark.parametrize("dissimilarity", ["sine", "chordal", "projection_error", "euclidean"])
def test_trajectories(dissimilarity):
    inputs, U = bumps(40)
    paths = [np.stack([u, np.roll(u, 2), np.roll(u, 4)]) for u in U]
    local = LocalReducedBases(3, 2, dissimilarity, trajectory_modes=2, random_state=0).fit(paths)
    same = LocalReducedBases(3, 2, dissimilarity, trajectory_modes=2, random_state=0).fit(np.stack(paths))
    assert np.array_equal(local.labels_, same.labels_)
    assert np.array_equal(local.predict(paths), local.labels_)
    assert local.projection_errors(paths).shape == (40, 3)
    assert [p.shape for p in local.project(paths)] == [(3, 120)] * 40
    if dissimilarity == "chordal":  # groups lie side by side in the centre of the bump
        ordered = local.labels_[np.argsort(inputs[:, 0])]
        assert (np.diff(ordered) != 0).sum() == 2


@pytest.mark.usefixtures("untyped")
def test_simulations_as_frames_lists_and_tensors():
    inputs, U = bumps(60)
    local = LocalReducedBases(3, 2, random_state=0).fit(U)
    for rows in (pd.DataFrame(U), U.tolist(), tuple(U)):
        assert np.array_equal(local.project(rows), local.project(U))
    paths = torch.from_numpy(np.stack([U, np.roll(U, 2, 1)], 1))
    assert LocalReducedBases(3, 2, "chordal", random_state=0).fit(paths).project(paths)[0].shape == (2, 120)
    cell = efficiency_criterion(U, inputs, [3], [2])[0]
    for rows, origin in ((pd.DataFrame(U), pd.DataFrame(inputs)), (U.tolist(), inputs.tolist())):
        assert efficiency_criterion(rows, origin, [3], [2])[0] == cell
    assert efficiency_criterion(U[:5], inputs[:5], [2], [1])[0].accuracy is not None  # there are four neighbours


def test_trajectories_of_unequal_lengths_are_grouped_by_projection():
    _, U = bumps(40)
    paths = [np.stack([u, np.roll(u, 2)])[: 1 + i % 2] for i, u in enumerate(U)]
    local = LocalReducedBases(3, 2, clustering="projection", random_state=0).fit(paths)
    assert np.array_equal(local.labels_, local.projection_errors(paths).argmin(1))


def test_labels_from_elsewhere():
    inputs, U = bumps()
    labels = KMeans(4, n_init=3, random_state=0).fit(inputs).labels_
    local = LocalReducedBases(4, 3).fit(U, labels=labels)
    assert np.array_equal(local.labels_, labels)
    assert np.array_equal(local.predict(U), local.projection_errors(U).argmin(1))


def test_a_rom_net_chooses_by_the_input():
    inputs, U = bumps(200)
    net = ROMNet(LocalReducedBases(5, 3, random_state=0), KNeighborsClassifier()).fit(inputs, U)
    new_inputs, new = bumps(100)
    classified, best, medoid = (net.errors(new_inputs, new, rule) for rule in ("classifier", "best", "medoid"))
    assert best.mean() <= min(classified.mean(), medoid.mean())
    assert classified.mean() < net.global_errors(new).mean() / 2
    assert np.array_equal(net.basis(new_inputs)[0], net.local_bases_.bases_[net.predict(new_inputs)[0]])
    again = pickle.loads(pickle.dumps(net))
    assert np.array_equal(again.predict(new_inputs), net.predict(new_inputs))


def test_the_criterion_predicts_what_a_rom_net_does():
    inputs, U = bumps(300)
    found = efficiency_criterion(U, inputs, [1, 5], [3], random_state=0)
    assert found[0].pays == "never"
    assert found[0].local_error == pytest.approx(found[0].global_error)
    cell = found[1]
    assert cell.pays in ("yes", "always")
    new_inputs, new = bumps(200)
    cheap = make_pipeline(StandardScaler(), KNeighborsClassifier())
    net = ROMNet(LocalReducedBases(5, 3, random_state=0), cheap).fit(inputs, U)
    assert net.errors(new_inputs, new).mean() == pytest.approx(cell.expected_error, rel=0.3)
    assert cell.confused_error == pytest.approx(cell.expected_error, rel=0.3)
    unknown = efficiency_criterion(U, None, [5], [3], random_state=0)[0]
    assert (unknown.accuracy, unknown.expected_gain) == (None, None)
    assert unknown.pays == "above"
    assert 0.3 < unknown.required_accuracy < 1
    assert efficiency_criterion(U, None, [5], [3], accuracy=0.0)[0].pays == "no"


def test_noise_as_input_does_not_pay():
    _, U = bumps(200)
    cell = efficiency_criterion(U, RNG.normal(size=(200, 2)), [5], [3])[0]
    assert cell.pays == "no"
    assert cell.required_accuracy > cell.accuracy
    with pytest.raises(ValueError, match="one global basis"):
        calibrate([cell], budget=1e9, n_simulations=1, simplified_cost=0, full_cost=0, full_per_cluster=9)


def test_the_algebra_of_the_criterion():
    cell = Efficiency(4, 5, 0.1, 0.5, 0.6, 0.2, 0.9, None, 20)
    assert (cell.required_accuracy, cell.coefficient, cell.expected_error) == pytest.approx((0.75, 3, 0.14))
    at_the_limit = Efficiency(4, 5, 0.1, 0.5, 0.6, 0.2, cell.required_accuracy, None, 20)
    assert (at_the_limit.coefficient, at_the_limit.expected_error) == pytest.approx((1, 0.2))
    assert Efficiency(4, 5, 0.1, 0.15, 0.6, 0.2, 0.1, None, 20).pays == "always"
    assert Efficiency(4, 5, 0.3, 0.15, 0.6, 0.2, 0.1, None, 20).required_accuracy is None


COSTS = {"budget": 1e9, "n_simulations": 1, "simplified_cost": 0, "full_cost": 0, "full_per_cluster": 9}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda U: sine_dissimilarity(np.zeros((2, 3))), "zero snapshot, number 0"),
        (lambda U: sine_dissimilarity(np.array([[np.nan, 1.0]])), "not finite"),
        (lambda U: sine_dissimilarity(U, U[:, :3]), "V has snapshots of length 3"),
        (lambda U: sine_dissimilarity(U, None, np.diag(-np.ones(120))), "positive"),
        (lambda U: subspace_dissimilarity([]), "bases is empty"),
        (lambda U: subspace_dissimilarity([U[:2]]), "from orthonormal"),
        (lambda U: subspace_dissimilarity([np.eye(3)], kind="cosine"), "kind is 'cosine'"),
        (lambda U: kolmogorov_width(U, -1), "n_modes is -1"),
        (lambda U: kolmogorov_width(U, 1, "best"), "kind is 'best'"),
        (lambda U: KMedoids(200).fit(U), "n_clusters is 200"),
        (lambda U: KMedoids(2, "precomputed").fit(np.triu(np.ones((4, 4)))), "not symmetric"),
        (lambda U: KMedoids(2, "precomputed").fit(-np.ones((4, 4))), "negative"),
        (lambda U: KMedoids(2, "precomputed").fit(np.ones((4, 3))), "square"),
        (lambda U: fasterpam(np.ones((4, 4)), np.array([0, 0])), "different points"),
        (lambda U: fasterpam(np.ones((4, 4)), np.array([7])), "points from 0 to 3"),
        (lambda U: LocalReducedBases(200).fit(U), "n_clusters is 200"),
        (lambda U: LocalReducedBases(dissimilarity="cosine").fit(U), "dissimilarity is 'cosine'"),
        (lambda U: LocalReducedBases(clustering="pam").fit(U), "clustering is 'pam'"),
        (lambda U: LocalReducedBases().fit(np.zeros((9, 4))), "zero, number 0"),
        (lambda U: LocalReducedBases(2).fit(U, labels=np.full(120, 3)), "without gaps"),
        (lambda U: LocalReducedBases(2).fit(U, labels=np.zeros(3, dtype=int)), "labels have shape"),
        (lambda U: LocalReducedBases(2).fit([U[:2], U[:3, :5]]), "differ in length"),
        (lambda U: LocalReducedBases(2, 2, random_state=0).fit(U).predict(U[:, :5]), "features"),
        (lambda U: ROMNet(LocalReducedBases(2)).fit(np.ones((3, 2)), U), "inputs are 3"),
        (lambda U: efficiency_criterion(U, np.ones((3, 2))), "inputs are 3"),
        (lambda U: efficiency_criterion(U, accuracy=1.5), "accuracy is 1.5"),
        (lambda U: efficiency_criterion(U, cv=1), "cv is 1"),
        (lambda U: efficiency_criterion(U, n_clusters=4), "n_clusters is 4; it takes a list"),
        (lambda U: efficiency_criterion(U, n_modes=[]), "n_modes is"),
        (lambda U: calibrate([], **COSTS), "table is empty"),
        (lambda U: calibrate([Efficiency(2, 9, 0.1, 0.3, 0.4, 0.2, 0.9, 0.1, 8)], **COSTS), "as many simulations as"),
        (lambda U: ROMNet(LocalReducedBases(2, 2)).fit(U[:, :2], U).errors(U[:1, :2], U[:5]), "inputs are 1"),
        (lambda U: fasterpam(np.full((4, 4), np.nan), np.array([0])), "not finite"),
        (lambda U: fasterpam(np.ones((4, 4)), np.array([0.5])), "medoids are"),
        (lambda U: fasterpam(np.ones((4, 4)), np.array([0]), -1), "steps is -1"),
        (lambda U: KMedoids(2, lambda A, B: np.ones((2, 2))).fit(U), r"metric returned the shape \(2, 2\)"),
        (lambda U: LocalReducedBases(2, dissimilarity=lambda A, B: np.ones((2, 2))).fit(U), "dissimilarity returned"),
        (lambda U: LocalReducedBases(2).fit([U[:2], U[:2] * np.nan]), "NaN"),
        (lambda U: kolmogorov_width(U[:0], 1), "U has no snapshot"),
        (lambda U: sine_dissimilarity(U * 1j), "complex128"),
        (lambda U: projection_errors([], [U]), "trajectories have shapes"),
        (lambda U: projection_errors([U[:2], U[:2, :5]], [np.eye(120)]), "trajectories have shapes"),
        (lambda U: projection_errors([U], [np.eye(5)]), "bases have length 5"),
        (lambda U: projection_errors([U], [2 * np.eye(120)]), "bases has number 0 whose rows are 3 from orthonormal"),
        (lambda U: projection_errors([U], [np.full((1, 120), np.nan)]), "not finite"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(bumps()[1])


@pytest.mark.usefixtures("untyped")
def test_what_is_no_classifier_is_refused():
    inputs, U = bumps(20)
    with pytest.raises(TypeError, match="classifier is 'knn'"):
        ROMNet(LocalReducedBases(2, 2), "knn").fit(inputs, U)
    with pytest.raises(TypeError, match="bases is str"):
        efficiency_criterion(U, bases="sine")


def test_few_members_are_told():
    _, U = bumps(20)
    with pytest.warns(UserWarning, match="fewer snapshots than n_modes=10"):
        local = LocalReducedBases(5, 10, random_state=0).fit(U)
    assert min(map(len, local.bases_)) < 10
