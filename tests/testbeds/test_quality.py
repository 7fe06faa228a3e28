import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.testbeds.data import Images, digits
from paperworks.testbeds.quality import (
    PrincipalComponents,
    block_means,
    frechet_distance,
    pseudo_values,
    trained_classifier,
)

F64 = torch.float64


def whitened(n, d, seed=0):
    """Draw samples whose mean is exactly 0 and covariance exactly 1."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T


def test_exact_values():
    x = whitened(500, 3)
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + torch.tensor([1.0, 2.0, 2.0], dtype=F64)) == pytest.approx(9)
    assert frechet_distance(x, x * scale) == pytest.approx(0 + 1 + 4)
    # Covariances that don't commute: tr(A + B - 2 (A B)^{1/2}) by the eigenvalues of the product.
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0]], dtype=F64)
    a, b = torch.diag(scale**2), mix.T @ mix
    expected = a.trace() + b.trace() - 2 * torch.linalg.eigvals(a @ b).real.sqrt().sum()
    assert frechet_distance(x * scale, x @ mix) == pytest.approx(expected.item())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), d=st.integers(1, 6), shift=st.floats(-3, 3), factor=st.floats(0.1, 3))
def test_symmetric_and_invariant_under_rotation(seed, d, shift, factor):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(30, d, generator=g, dtype=F64), shift + factor * torch.randn(40, d, generator=g, dtype=F64)
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=F64))
    found = frechet_distance(x, y)
    assert found >= -1e-9
    assert frechet_distance(y, x) == pytest.approx(found, abs=1e-7)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(found, abs=1e-7)


def test_rank_deficient_features():
    x = torch.zeros(5, 4, dtype=F64)
    assert frechet_distance(x, x + 1) == pytest.approx(4)


def test_pseudo_values_take_the_bias_of_a_variance_away():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = pseudo_values(lambda x: float(x.var(correction=0)), x, groups=40)
    assert sum(found) / 40 == pytest.approx(float(x.var()), rel=1e-12)


def test_pseudo_values_take_most_of_the_bias_of_a_frechet_distance_away():
    exact = 16.0
    far = torch.zeros(8, dtype=F64).index_fill(0, torch.tensor([0]), 4.0)
    reference = whitened(4000, 8, seed=99)
    plain, corrected = [], []
    for seed in range(20):
        x = far + torch.randn(64, 8, generator=torch.Generator().manual_seed(seed), dtype=F64)
        plain.append(frechet_distance(x, reference))
        corrected.append(sum(pseudo_values(lambda x: frechet_distance(x, reference), x)) / 16)
    bias, left = (abs(sum(values) / 20 - exact) for values in (plain, corrected))
    assert left < 0.6 * bias


def test_pseudo_values_leave_out_rows_that_belong_together():
    x = torch.arange(6.0, dtype=F64)
    assert pseudo_values(lambda a, b: float((b - a).sum()), x, x, groups=3) == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="samples have"):
        pseudo_values(lambda a, b: 0.0, x, x[:3], groups=3)
    with pytest.raises(ValueError, match="at least 7"):
        pseudo_values(lambda a: 0.0, x, groups=7)


@given(n=st.integers(1, 50), at_most=st.integers(1, 60))
def test_means_of_blocks(n, at_most):
    x = torch.arange(float(n), dtype=F64)
    found = block_means(x, at_most)
    assert len(found) == min(n, at_most)
    if n % len(found) == 0:
        assert float(found.mean()) == pytest.approx((n - 1) / 2)


def test_principal_components_are_those_of_the_singular_value_decomposition():
    images = digits()
    rows = images[:].flatten(1).double()
    centred = rows - rows.mean(0)
    components = PrincipalComponents.of(images, 5)
    exact = torch.linalg.svd(centred, full_matrices=False)
    found = components(images[:]).double()
    assert torch.allclose(found.abs(), (centred @ exact.Vh[:5].T).abs(), atol=1e-3)
    assert torch.allclose(found.norm(dim=0), exact.S[:5], rtol=1e-4)


def test_classifier_of_digits_is_good_on_what_it_never_saw(tmp_path):
    from paperworks.testbeds.training import accuracy

    classifier = trained_classifier("digits", root=tmp_path)
    images = digits()
    assert accuracy(classifier, images[slice(1500, None)], images.labels[1500:]) > 0.93
    again = trained_classifier("digits", root=tmp_path)
    assert torch.equal(classifier(images[:3]), again(images[:3]))


def test_bad_input():
    with pytest.raises(ValueError, match="same features"):
        frechet_distance.__wrapped__(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="n >= 2"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="y has 1 NaN"):
        frechet_distance(torch.zeros(2, 1), torch.tensor([[1.0], [float("nan")]]))
    with pytest.raises(ValueError, match="n is 65"):
        PrincipalComponents.of(Images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2).long(), 16), 65)
