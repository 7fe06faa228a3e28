import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from paperworks.reduction import SnapshotPOD, correlation_matrix, gram_matrix

RNG = np.random.default_rng(0)


def snapshots(m=30, n=200, decay=0.5):
    left, _ = np.linalg.qr(RNG.normal(size=(m, m)))
    right, _ = np.linalg.qr(RNG.normal(size=(n, m)))
    return (left * decay ** np.arange(m)) @ right.T


def mass(n=200):
    return sp.diags_array([np.full(n - 1, 1 / 6), np.full(n, 2 / 3), np.full(n - 1, 1 / 6)], offsets=[-1, 0, 1]).tocsr()


INNER = {
    "euclidean": lambda: None,
    "weights": lambda: RNG.uniform(0.1, 2, size=200),
    "sparse": mass,
    "dense": lambda: mass().toarray(),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("method", ["svd", "snapshots", "randomized"])
def test_modes_are_orthonormal_and_leave_what_the_singular_values_say(method, inner):
    U, M = snapshots(), INNER[inner]()
    pod = SnapshotPOD(6, inner_product=M, method=method, random_state=0).fit(U)
    assert np.abs(gram_matrix(pod.modes_, inner_product=M) - np.eye(6)).max() < 1e-11
    rest = U - pod.inverse_transform(pod.transform(U))
    error = np.trace(gram_matrix(rest, inner_product=M)) / np.trace(gram_matrix(U, inner_product=M))
    assert np.sqrt(error) == pytest.approx(pod.relative_error_, rel=1e-6)
    dense = np.eye(200) if M is None else M.toarray() if sp.issparse(M) else M if M.ndim == 2 else np.diag(M)
    root = np.linalg.cholesky(dense)
    exact = np.linalg.svd(U @ root, compute_uv=False)
    assert pod.singular_values_[:6] == pytest.approx(exact[:6], rel=1e-8)


def test_snapshots_lose_half_of_the_digits_and_the_svd_none():
    U = snapshots(decay=0.3)
    exact = np.linalg.svd(U, compute_uv=False)
    found = SnapshotPOD().fit(U).singular_values_
    assert 25 <= len(found) <= 28  # 0.3**26 is 2.5e-14, near the rounding of 200 columns
    assert found[:20] == pytest.approx(exact[:20], rel=1e-4)
    found = SnapshotPOD(method="snapshots").fit(U).singular_values_
    assert 11 <= len(found) <= 15
    assert found[:10] == pytest.approx(exact[:10], rel=1e-4)


@pytest.mark.parametrize(("method", "rtol"), [("svd", 1e-11), ("snapshots", 1e-6), ("randomized", 1e-10)])
def test_errors_below_the_root_of_rounding_are_told_and_kept(method, rtol):
    U = snapshots(40, 300, 10 ** (-14 / 39))
    values = np.linalg.svd(U, compute_uv=False)
    left = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1] / (values @ values))
    pod = SnapshotPOD(35, rtol=rtol, method=method, random_state=0).fit(U)
    assert pod.n_modes_ == (left > rtol).sum()
    assert pod.relative_error_ == pytest.approx(left[pod.n_modes_], rel=0.05)
    assert np.abs(pod.modes_ @ pod.modes_.T - np.eye(pod.n_modes_)).max() < 1e-13


def test_what_the_correlation_cannot_show_is_told():
    U = snapshots(40, 300, 10 ** (-14 / 39))
    pod = SnapshotPOD(method="snapshots", rtol=1e-12).fit(U)
    rest = U - pod.inverse_transform(pod.transform(U))
    assert pod.relative_error_ == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(U), rel=0.5)
    assert np.abs(pod.modes_ @ pod.modes_.T - np.eye(pod.n_modes_)).max() < 1e-13


@pytest.mark.parametrize("method", ["svd", "snapshots", "randomized"])
@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
def test_any_scale(method, scale):
    U = snapshots(8, 20)
    for M in (None, np.ones(20), mass(20)):
        one, other = (SnapshotPOD(3, None, M, method, 0).fit(V) for V in (U, U * scale))
        assert other.relative_error_ == pytest.approx(one.relative_error_, rel=1e-9)
        assert other.singular_values_[:3] / scale == pytest.approx(one.singular_values_[:3], rel=1e-9)
        assert np.abs(other.modes_ - one.modes_).max() < 1e-9


@pytest.mark.parametrize("kind", ["bsr", "coo", "csc", "dia", "dok", "lil"])
def test_any_kind_of_sparse_matrix(kind):
    U, M = snapshots(), mass()
    found = SnapshotPOD(4, inner_product=M.asformat(kind)).fit(U).singular_values_
    assert found == pytest.approx(SnapshotPOD(4, inner_product=M).fit(U).singular_values_)


@pytest.mark.parametrize("method", ["svd", "snapshots", "randomized"])
def test_a_matrix_that_is_not_positive_is_refused(method):
    M = np.eye(20)
    M[0, 1] = M[1, 0] = 2
    with pytest.raises(ValueError, match=r"inner_product (leads to eigenvalues from -|gives a vector the square -)"):
        SnapshotPOD(5, inner_product=M, method=method).fit(RNG.normal(size=(30, 20)))


def test_the_tolerance_keeps_the_larger_of_both_rules():
    U = np.diag([1.0, 0.3, 0.3, 0.3, 0.05])
    pod = SnapshotPOD(rtol=0.2).fit(U)
    assert pod.n_modes_ == 4  # four values are above 0.2
    assert pod.relative_error_ <= 0.2
    many = np.diag(np.concatenate([[1.0], np.full(400, 0.09)]))
    assert SnapshotPOD(rtol=0.1).fit(many).n_modes_ > 380  # none is above 0.1, but together they weigh


def test_parts_of_a_domain_add_up():
    U, w = snapshots(), RNG.uniform(0.5, 1.5, size=200)
    whole = SnapshotPOD(5, inner_product=w).fit(U)
    parts = slice(0, 80), slice(80, 200)
    C = sum(correlation_matrix(U[:, p], w[p]) for p in parts)
    fits = [SnapshotPOD(5, None, w[p], "randomized").fit(U[:, p], correlation=C) for p in parts]
    assert [pod.relative_error_ for pod in fits] == pytest.approx([whole.relative_error_] * 2, rel=1e-9)
    modes = np.hstack([pod.modes_ for pod in fits])
    signs = np.sign((modes * whole.modes_ * w).sum(1))
    assert np.abs(modes * signs[:, None] - whole.modes_).max() < 1e-10


def test_snapshots_can_be_added():
    U = snapshots()
    pod = SnapshotPOD()
    for block in np.split(U, 3):
        pod.partial_fit(block)
    whole = SnapshotPOD().fit(U)
    assert pod.singular_values_[:20] == pytest.approx(whole.singular_values_[:20], rel=1e-8)


def test_randomized_agrees_with_scikit_learns():
    U = snapshots(60, 300, 0.8)
    ours = SnapshotPOD(10, method="randomized", random_state=0).fit(U).singular_values_[:10]
    theirs = randomized_svd(U, 10, n_iter=2, random_state=0)[1]
    assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize("inner", INNER)
def test_small_singular_values_are_found_in_any_inner_product(inner):
    U, M = snapshots(decay=0.35), INNER[inner]()
    dense = np.eye(200) if M is None else M.toarray() if sp.issparse(M) else M if M.ndim == 2 else np.diag(M)
    exact = np.linalg.svd(U @ np.linalg.cholesky(dense), compute_uv=False)
    found = SnapshotPOD(inner_product=M).fit(U)
    assert len(found.singular_values_) > 24
    assert found.singular_values_[:24] == pytest.approx(exact[:24], rel=1e-4)  # down to 3e-11 of the largest
    gram = gram_matrix(found.modes_, inner_product=M)
    assert np.abs(gram - np.eye(len(gram))).max() < 1e-12


def test_single_precision_stays():
    U = snapshots().astype(np.float32)
    for M in (None, np.ones(200), mass()):
        pod = SnapshotPOD(3, inner_product=M).fit(U)
        assert pod.modes_.dtype == pod.transform(U).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "qr"}, "method is 'qr'"),
        ({"n_modes": 0}, "n_modes is 0"),
        ({"rtol": 0}, "rtol is 0"),
        ({"method": "randomized"}, "n_modes is None"),
        ({"inner_product": np.ones(3)}, r"inner_product has shape \(3,\)"),
        ({"inner_product": -np.ones(200)}, "positive"),
        ({"inner_product": np.triu(np.ones((200, 200)))}, "symmetric"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SnapshotPOD(**options).fit(snapshots())


@pytest.mark.usefixtures("untyped")
def test_nothing_but_zeros_is_refused():
    with pytest.raises(ValueError, match="no snapshot that is not zero"):
        SnapshotPOD().fit(np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"correlation has shape"):
        SnapshotPOD().fit(np.eye(4), correlation=np.eye(3))
    with pytest.raises(ValueError, match="correlation is not finite or not symmetric"):
        SnapshotPOD().fit(np.eye(4), correlation=np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="correlation leads to eigenvalues"):
        SnapshotPOD().fit(np.eye(4), correlation=-np.eye(4))
    with pytest.raises(ValueError, match="coefficients contains NaN"):
        SnapshotPOD(2).fit(snapshots()).inverse_transform(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match=r"coefficients have shape"):
        SnapshotPOD(2).fit(snapshots()).inverse_transform(np.ones((3, 5)))
