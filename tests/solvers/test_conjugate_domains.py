"""Poisson's equation on voxels: known matrices, one stencil for all kinds of arrays, closed regions."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from paperworks.solvers import PoissonDomain, laplacian

CELLS = arrays.arrays(
    np.int8, arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5), elements=st.integers(0, 2)
).filter(lambda cells: (cells == 1).any())


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 4)])
@pytest.mark.parametrize("bc", ["dirichlet", "neumann"])
def test_a_box_has_the_laplacian_of_its_grid(shape, bc):
    domain = PoissonDomain(np.ones(shape, bool), 0.5, bc)
    np.testing.assert_allclose(domain.matrix().toarray(), laplacian(shape, 0.5, bc).toarray())


def test_solids_take_no_flow_and_air_has_the_value_zero():
    # solid | fluid fluid | air, and air above and below.
    domain = PoissonDomain([[2, 2, 2, 2], [0, 1, 1, 2], [2, 2, 2, 2]])
    inside = domain.fluid.ravel()
    np.testing.assert_array_equal(domain.matrix().toarray()[inside][:, inside], [[3, -1], [-1, 4]])


@given(CELLS, st.sampled_from(["dirichlet", "neumann"]), st.sampled_from([1.0, 0.25]))
@settings(max_examples=60, deadline=None)
def test_the_stencil_is_the_matrix_for_all_kinds_of_arrays(cells, bc, spacing):
    domain = PoissonDomain(cells, spacing, bc)
    matrix = domain.matrix().toarray()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > -1e-10 * matrix.max(initial=1)
    assert not matrix[~domain.fluid.ravel()].any()
    x = np.random.default_rng(0).standard_normal((2, *cells.shape))
    expected = (x.reshape(2, -1) @ matrix).reshape(x.shape)
    np.testing.assert_allclose(domain.apply(x), expected, atol=1e-12 / spacing**2)
    np.testing.assert_allclose(domain.apply(torch.from_numpy(x)).numpy(), expected, atol=1e-12 / spacing**2)
    np.testing.assert_allclose(
        domain.operator() @ x.reshape(2, -1).T, expected.reshape(2, -1).T, atol=1e-12 / spacing**2
    )
    # Constants of the closed regions, and no others, are mapped to zero.
    for number in range(1, domain.closed.max() + 1):
        assert np.abs(matrix @ (domain.closed.ravel() == number)).max() < 1e-12 / spacing**2
    used = domain.fluid.ravel()
    rank = np.linalg.matrix_rank(matrix[used][:, used] * spacing**2, tol=1e-9)
    assert used.sum() - rank == domain.closed.max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept(dtype):
    domain = PoissonDomain(np.ones((3, 3), bool))
    assert domain.apply(np.ones((3, 3), dtype)).dtype == dtype
    assert (domain.operator() @ np.ones(9, dtype)).dtype == dtype
    assert domain.apply(torch.ones(3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gradients_go_through_the_stencil():
    domain = PoissonDomain([[1, 1, 0], [2, 1, 1]])
    x = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(domain.apply, (x,))


def test_gradients_go_through_after_a_first_use_without_them():
    domain, x = PoissonDomain([[1, 1]]), torch.ones(1, 2, requires_grad=True)
    with torch.inference_mode():
        domain.apply(x)
    domain.apply(x).sum().backward()
    assert x.grad.tolist() == [[3, 3]]


def test_complex_vectors_keep_both_parts():
    operator, x = PoissonDomain(np.tri(3, dtype=bool)).operator(), np.arange(9.0)
    np.testing.assert_array_equal(operator @ (x + 2j * x), (1 + 2j) * (operator @ x))


def test_input_is_left_alone():
    domain, x = PoissonDomain([[1, 0], [1, 1]]), np.ones((2, 2))
    domain.apply(x)
    assert (x == 1).all()


def test_a_chamber_in_a_solid_is_closed():
    mask = np.ones((7, 7), bool)
    mask[2:5, 2:5] = False
    mask[3, 3] = True
    closed = PoissonDomain(mask).closed
    assert closed[3, 3] == 1
    assert closed.sum() == 1
    assert (PoissonDomain(np.ones((3, 3), bool), bc="neumann").closed == 1).all()


def test_signed_distances_make_domains():
    x, y = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    solid = np.hypot(x - 3, y - 3) - 2
    domain = PoissonDomain.from_sdf(solid, y - 5.5, spacing=0.1)
    np.testing.assert_array_equal(domain.cells, np.where(solid < 0, 0, np.where(y < 5.5, 1, 2)))
    assert domain.spacing == 0.1


def test_copies_are_the_same():
    domain = PoissonDomain([[1, 1, 0]])
    again = pickle.loads(pickle.dumps(domain))
    np.testing.assert_array_equal(again.apply(np.ones((1, 3))), domain.apply(np.ones((1, 3))))
    assert repr(again) == "PoissonDomain(grid=(1, 3), fluid=67%, spacing=1, bc='dirichlet')"


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: PoissonDomain(np.ones(3, bool)), ValueError, "mask has shape"),
        (lambda: PoissonDomain(np.ones((3, 3))), TypeError, "mask holds float64"),
        (lambda: PoissonDomain([[1, 3]]), ValueError, r"mask holds \[1, 3\]"),
        (lambda: PoissonDomain([[0, 2]]), ValueError, "no fluid"),
        (lambda: PoissonDomain([[1]], 0.0), ValueError, "spacing"),
        (lambda: PoissonDomain([[1]], 1e-200), ValueError, "spacing"),
        (lambda: PoissonDomain([[1]], bc="periodic"), ValueError, "bc"),
        (lambda: PoissonDomain([[1, 1]]).apply(np.ones((2, 1))), ValueError, "x has shape"),
        (lambda: PoissonDomain([[1, 1]]).apply(np.ones((1, 2), int)), TypeError, "x holds int64"),
        (lambda: PoissonDomain.from_sdf([[np.nan]]), ValueError, "solid has NaN"),
        (lambda: PoissonDomain.from_sdf([[1.0]], [[1.0, 1.0]]), ValueError, "liquid has shape"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
