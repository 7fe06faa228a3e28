import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.diffusion.sampling import check_state, combine, noise_like, per_sample


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_combine_is_the_sum(coefficients, in_place, as_rows):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in coefficients]
    expected = sum(c * x for c, x in zip(coefficients, tensors, strict=True))
    out = tensors[0] if in_place else None
    given_as = [torch.full((3, 1), c, dtype=torch.float64) for c in coefficients] if as_rows else coefficients
    result = combine(given_as, tensors, out=out)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert (result is tensors[0]) == in_place


def test_combine_leaves_its_terms_alone():
    x, y = torch.ones(2), torch.ones(2)
    assert combine((2.0, 3.0), (x, y)).tolist() == [5.0, 5.0]
    assert x.tolist() == y.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("first", [0.5, 1.0])
def test_blocks_add_up_like_the_whole(first):
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 200_001, generator=g) for _ in range(4)]
    coefficients = [first, -1.0, 2.0, 0.25]
    expected = sum(c * t.double() for c, t in zip(coefficients, tensors, strict=True))
    out = combine(coefficients, tensors)
    assert torch.allclose(out.double(), expected, atol=1e-5)
    strided = [t.T for t in tensors]
    assert torch.allclose(combine(coefficients, strided).double(), expected.T, atol=1e-5)
    assert torch.equal(combine(coefficients, tensors[:1]), first * tensors[0])
    rows = torch.arange(3.0)[:, None]
    assert torch.allclose(combine([rows, 2.0], tensors), rows * tensors[0] + 2 * tensors[1], atol=1e-5)
    recorded = [t.clone().requires_grad_() for t in tensors]
    combine(coefficients, recorded).sum().backward()
    assert [float(t.grad[0, 0]) for t in recorded] == coefficients
    assert combine(coefficients, tensors, out=tensors[0]) is tensors[0]
    assert torch.equal(tensors[0], out)


def test_noise_comes_from_the_generator():
    x = torch.zeros(4, 2, dtype=torch.float64)
    one, same, other = (noise_like(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == x.dtype
    with pytest.raises(ValueError, match="generator"):
        noise_like(x, None)


def test_per_sample_broadcasts():
    x = torch.zeros(3, 2, 2, dtype=torch.float32)
    assert per_sample(0.5, x) == 0.5
    rows = per_sample(torch.arange(3, dtype=torch.float64), x)
    assert rows.shape == (3, 1, 1)
    assert rows.dtype == torch.float32


def test_check_state(untyped):
    x = torch.zeros(2, 3)
    assert check_state("x", x) is x
    with pytest.raises(TypeError, match="int64"):
        check_state("x", torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="list"):
        check_state("x", [1.0])
    with pytest.raises(ValueError, match="batch"):
        check_state("x", torch.zeros(()))
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        check_state("x", torch.tensor([0.0, float("nan")]))
