import numpy as np
import pytest

from paperworks.reduction import correlation_matrix, gram_matrix, orthonormal_rows, row_norms

RNG = np.random.default_rng(0)


def test_orthonormal_rows_of_dependent_and_badly_scaled_vectors():
    U = np.vstack([RNG.normal(size=(3, 50)) * np.array([[1.0], [1e-9], [1e9]]), np.zeros((1, 50))])
    Q = orthonormal_rows(np.vstack([U, U[:2] * 3]))
    assert Q.shape == (3, 50)
    assert np.abs(Q @ Q.T - np.eye(3)).max() < 1e-14
    assert np.abs(U - U @ Q.T @ Q).max() < 1e-6 * np.abs(U).max()


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
@pytest.mark.parametrize("inner", [None, np.linspace(0.5, 2, 20), np.diag(np.linspace(0.5, 2, 20))])
def test_any_scale(scale, inner):
    U = RNG.normal(size=(8, 20))
    weights = np.ones(20) if inner is None else np.linspace(0.5, 2, 20)
    assert row_norms(U * scale, inner) / scale == pytest.approx(np.sqrt((U**2 * weights).sum(1)), rel=1e-12)
    Q = orthonormal_rows(U * scale, inner)
    assert np.abs(gram_matrix(Q, inner_product=inner) - np.eye(8)).max() < 1e-13
    with pytest.raises(ValueError, match="too large to multiply"):
        gram_matrix(U * 1e200)


def test_a_square_that_is_negative_is_refused():
    M = np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="inner_product gives a vector the square -2"):
        row_norms(np.array([[1.0, -1.0]]), M)
    with pytest.raises(ValueError, match="inner_product leads to eigenvalues from -"):
        orthonormal_rows(np.array([[1.0, -0.1], [0.1, -1.0]]), M)


@pytest.mark.usefixtures("untyped")
def test_helpers_take_whole_and_half_numbers_and_lists():
    U = np.arange(6).reshape(2, 3)
    for V in (U, U.tolist(), U.astype(np.float16)):
        assert gram_matrix(V).tolist() == correlation_matrix(V).tolist() == [[5, 14], [14, 50]]
        assert row_norms(V) == pytest.approx([5**0.5, 50**0.5])
        assert orthonormal_rows(V).shape == (2, 3)


@pytest.mark.parametrize("helper", [gram_matrix, row_norms, correlation_matrix, orthonormal_rows])
@pytest.mark.usefixtures("untyped")
def test_helpers_refuse_what_is_no_set_of_real_vectors(helper):
    for U, message in [
        (np.array([[1.0, np.nan]]), "not finite"),
        (np.array([[1.0, np.inf]]), "not finite"),
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((2, 3)) * 1j, "complex128"),
    ]:
        with pytest.raises(ValueError, match=message):
            helper(U)
    with pytest.raises(ValueError, match=r"inner_product has shape \(1,\)"):
        helper(np.ones((2, 3)), inner_product=np.ones(1))
    with pytest.raises(ValueError, match="V has vectors of length 3"):
        gram_matrix(np.ones((2, 4)), np.ones((2, 3)))
