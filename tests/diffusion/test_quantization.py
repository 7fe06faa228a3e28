"""Quantisers and the search of their ranges, against the definitions computed one candidate at a time."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.diffusion import NDTC, FixedTime, QuantConfig, UniformAffineQuantizer, UniformTimes
from paperworks.diffusion.quantization.histogram import Histogram
from paperworks.diffusion.quantization.search import affine_parameters, search, shortlist


def rounded(x, scale, zero_point, n_bits):
    """Quantise by the definition, in float64."""
    codes = torch.clamp(torch.round(x / scale) + zero_point, 0, 2**n_bits - 1)
    return (codes - zero_point) * scale


def score(x, q, method, p):
    if method == "cosine":
        return 1 - float((q * x).sum() / (q.norm() * x.norm()))
    return float((q - x).abs().pow(1.0 if method == "l1" else p).mean())


def exhaustive(x, method, symmetric, n_bits, p, candidates):
    """Return the best score by trying every range of the paper on every number."""
    x, last = x.double(), 2**n_bits - 1
    best = float("inf")
    for i in range(1, candidates + 1):
        if symmetric or x.min() >= 0 or x.max() <= 0:
            reach = x.abs().max() * i / candidates
            ranges = [(-reach if x.min() < 0 else 0 * reach, reach if x.max() > 0 else 0 * reach)]
        else:
            width = (x.max() - x.min()) * i / candidates
            ranges = [(-z * width / last, width - z * width / last) for z in range(2**n_bits)]
        for lo, hi in ranges:
            scale, zero_point = affine_parameters(lo, hi, n_bits)
            best = min(best, score(x, rounded(x, scale, zero_point, n_bits), method, p))
    return best


def skewed(n=3000, seed=0):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return x.exp() - 0.5


class TestQuantizer:
    def test_codes_are_those_of_the_definition(self):
        quantizer = UniformAffineQuantizer(3).set_range(torch.tensor(-1.5), torch.tensor(2.0))
        assert quantizer.scale.item() == 0.5
        assert quantizer.zero_point.item() == 3
        x = torch.tensor([-9.0, -1.5, -0.25, 0.0, 0.25, 0.75, 1.9, 9.0])
        # 0.25 and 0.75 lie halfway between codes: the even one is taken.
        assert quantizer(x).tolist() == [-1.5, -1.5, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0]
        assert quantizer.codes(x).tolist() == [0, 0, 3, 3, 3, 5, 7, 7]

    def test_a_range_is_widened_to_contain_zero(self):
        scale, zero_point = affine_parameters(torch.tensor([1.0, -3.0, 0.0]), torch.tensor([3.0, -1.0, 0.0]), 2)
        assert torch.equal(scale, torch.tensor([1.0, 1.0, 1e-8]))
        assert zero_point.tolist() == [0, 3, 0]

    @given(bits=st.integers(2, 16), lo=st.floats(-5, 0), hi=st.floats(0.1, 5), seed=st.integers(0, 99))
    def test_numbers_in_range_move_by_half_a_scale_and_quantised_ones_stay(self, bits, lo, hi, seed):
        quantizer = UniformAffineQuantizer(bits).set_range(torch.tensor(lo), torch.tensor(hi))
        x = lo + (hi - lo) * torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        q = quantizer(x)
        # The zero point is rounded, so an end of the range may lie outside by half a scale.
        assert (q - x).abs().max() <= quantizer.scale * (1 + 1e-6)
        assert (quantizer(q) - q).abs().max() <= 1e-6 * hi
        assert quantizer(torch.zeros(1)).item() == 0

    @pytest.mark.parametrize("axis", [None, 0, 1])
    def test_the_kernel_is_the_definition(self, axis):
        x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
        quantizer = UniformAffineQuantizer(4, axis).fit(x, symmetric=False)
        shape = [1, 1, 1]
        if axis is not None:
            shape[axis] = -1
        expected = rounded(x, quantizer.scale.reshape(shape), quantizer.zero_point.reshape(shape), 4)
        assert torch.allclose(quantizer(x), expected, atol=1e-6)
        assert torch.allclose(quantizer(x.double()).float(), expected, atol=1e-6)

    def test_the_gradient_passes_through_where_nothing_is_clipped(self):
        quantizer = UniformAffineQuantizer(4).set_range(torch.tensor(-1.0), torch.tensor(1.0))
        for dtype in (torch.float32, torch.float64):
            x = torch.tensor([-3.0, -0.33, 0.4, 3.0], dtype=dtype, requires_grad=True)
            quantizer(x).sum().backward()
            assert x.grad.tolist() == [0, 1, 1, 0]

    def test_its_state_says_how_many_scales_it_has(self):
        fitted = UniformAffineQuantizer(8, axis=0).fit(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)))
        fresh = UniformAffineQuantizer(8, axis=0)
        fresh.load_state_dict(fitted.state_dict())
        x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
        assert torch.equal(fresh(x), fitted(x))

    def test_soft_rounding_starts_where_nothing_is_rounded(self):
        weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        quantizer = UniformAffineQuantizer(8).set_range(torch.tensor(-4.0), torch.tensor(4.0))
        nearest = quantizer(weight)
        alpha = quantizer.start_rounding(weight)
        assert torch.allclose(quantizer(weight), weight, atol=1e-5)
        assert alpha.requires_grad
        quantizer.finish_rounding()
        assert torch.allclose(quantizer(weight), nearest, atol=1e-6)

    def test_bad_input(self, untyped):
        with pytest.raises(ValueError, match="n_bits is 17; it takes a whole number >= 2 and <= 16"):
            UniformAffineQuantizer(17)
        with pytest.raises(RuntimeError, match="no scale yet"):
            UniformAffineQuantizer()(torch.zeros(1))
        with pytest.raises(ValueError, match="x has 1 NaN or infinite"):
            UniformAffineQuantizer().fit(torch.tensor([1.0, torch.nan]))
        with pytest.raises(ValueError, match="x is empty"):
            UniformAffineQuantizer().fit(torch.empty(0))
        with pytest.raises(ValueError, match="method is 'median'"):
            UniformAffineQuantizer().fit(torch.ones(2), "median")
        with pytest.raises(ValueError, match="p is 0"):
            UniformAffineQuantizer().fit(torch.ones(2), p=0)


class TestSearch:
    @pytest.mark.parametrize("method", ["mse", "l1", "cosine"])
    @pytest.mark.parametrize("bits", [3, 4, 8])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_it_is_as_good_as_trying_everything(self, method, bits, symmetric):
        x, candidates = skewed(), 8 if bits == 8 else 100
        scale, zero_point = search(x[None], method, symmetric=symmetric, n_bits=bits, p=2.4, candidates=candidates)
        found = score(x.double(), rounded(x.double(), scale.double(), zero_point.double(), bits), method, 2.4)
        assert found <= exhaustive(x, method, symmetric, bits, 2.4, candidates) * (1.02 if symmetric else 1.1)

    @pytest.mark.parametrize("method", ["mse", "l1", "cosine"])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_the_histogram_of_many_numbers_finds_the_same(self, method, symmetric):
        x = skewed(60_000)
        scale, zero_point = search(x[None], method, symmetric=symmetric, n_bits=4, p=2.4, candidates=50)
        found = score(x.double(), rounded(x.double(), scale.double(), zero_point.double(), 4), method, 2.4)
        assert found <= exhaustive(x, method, symmetric, 4, 2.4, 50) * 1.02

    def test_rows_are_searched_each_for_itself(self):
        rows = torch.stack([skewed(500, seed) * (seed + 1) for seed in range(4)])
        options = {"symmetric": True, "n_bits": 4, "p": 2.0, "candidates": 30}
        scale, zero_point = search(rows, "mse", **options)
        alone = [search(row[None], "mse", **options) for row in rows]
        assert torch.equal(scale, torch.cat([a[0] for a in alone]))
        assert torch.equal(zero_point, torch.cat([a[1] for a in alone]))

    @pytest.mark.parametrize("method", ["minmax", "mse", "l1", "cosine", "kl"])
    @pytest.mark.parametrize("symmetric", [True, False])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_numbers_of_one_sign_get_all_codes_on_that_side(self, method, symmetric, sign):
        x = sign * skewed().abs()
        _, zero_point = search(x[None], method, symmetric=symmetric, n_bits=4, p=2.4, candidates=20)
        assert zero_point.item() == (0 if sign > 0 else 15)

    @pytest.mark.parametrize("method", ["minmax", "mse", "l1", "cosine", "kl"])
    def test_a_finer_scale_for_more_bits_and_zero_for_zeros(self, method):
        x, options = skewed()[None], {"symmetric": False, "p": 2.4, "candidates": 20}
        assert search(x, method, n_bits=6, **options)[0] < search(x, method, n_bits=4, **options)[0]
        scale, zero_point = search(torch.zeros(1, 5000), method, n_bits=8, **options)
        assert rounded(torch.zeros(1), scale, zero_point, 8).item() == 0

    def test_kl_is_the_divergence_of_the_definition(self):
        from paperworks.diffusion.quantization.search import kl_divergences

        histogram = Histogram(torch.tensor([0.0]).double(), torch.tensor([8.0]).double(), torch.zeros(1, 8).double())
        histogram.counts[0] = torch.tensor([4.0, 2, 3, 1, 2, 0, 0, 4])
        # Codes 0 to 3 of scale 1.6 keep centres below 5.6, as (0.5), (1.5), (2.5, 3.5) and (4.5, 5.5).
        scale = torch.tensor([[1.6]], dtype=torch.float64)
        kept = torch.tensor([4.0, 2, 3, 1, 2 + 4], dtype=torch.float64) / 16
        spread = torch.tensor([4.0, 2, 2, 2, 2], dtype=torch.float64) / 12
        expected = (kept * (kept / spread).log()).sum()
        assert kl_divergences(histogram, scale, torch.zeros_like(scale), 2).item() == pytest.approx(expected.item())

    def test_a_histogram_in_parts_is_the_histogram(self):
        x = skewed(10_000)
        whole = Histogram.of(x[None], bins=64)
        parts = Histogram.between(x.min()[None], x.max()[None], bins=64)
        for part in x.split(999):
            parts.add(0, part)
        assert parts.counts.sum() == len(x)
        assert (parts.counts - whole.counts).abs().sum() <= 2  # numbers on an edge
        found = shortlist(parts, "mse", True, 4, 2.4, 50)
        assert torch.equal(found[0], shortlist(whole, "mse", True, 4, 2.4, 50)[0])


class TestTimes:
    def test_they_follow_their_laws(self):
        generator = torch.Generator().manual_seed(0)
        n, total = 100_000, 200
        ranks = NDTC(0.4, 0.2).draw(n, total, generator)
        normal = torch.distributions.Normal(0.4, 0.2)
        for quantile in (0.1, 0.3, 0.5, 0.8):
            expected = normal.cdf(torch.tensor(quantile)).item()
            assert (ranks < quantile * total).double().mean().item() == pytest.approx(expected, abs=0.006)
        assert ranks.min() == 0
        assert ranks.max() == total - 1
        counts = UniformTimes().draw(n, 10, generator).bincount().double() / n
        assert (counts - 0.1).abs().max() < 0.005
        assert [int(FixedTime(share).draw(1, 51, generator)) for share in (0, 0.5, 1)] == [0, 25, 50]

    def test_bad_input(self):
        for law, message in (
            (lambda: NDTC(1.2), "mean"),
            (lambda: NDTC(std=0), "std"),
            (lambda: FixedTime(2), "share"),
        ):
            with pytest.raises(ValueError, match=message):
                law()


def test_config_refuses_what_it_cannot_do(untyped):
    wrong = [
        {"n_bits_w": 1}, {"n_bits_a": 17}, {"scale_method": "best"}, {"metric_p": 0.0}, {"candidates": 0},
        {"activations": "both"}, {"ranges": "all"}, {"order": "together"}, {"timewise_groups": 0},
        {"timewise_groups": 2, "ranges": "ema"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            QuantConfig(**options)
    with pytest.raises(TypeError, match="skip is 'last'"):
        QuantConfig(skip="last")
    assert len({QuantConfig(n_bits_w=w, n_bits_a=a) for w, a in itertools.product((4, 8), (4, 8))}) == 4


@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_the_zero_point_of_a_symmetric_range_does_not_depend_on_the_last_bit(bits):
    reach = torch.rand(5000, generator=torch.Generator().manual_seed(0)) + 0.01
    for dtype in (torch.float32, torch.float64):
        assert (affine_parameters(-reach.to(dtype), reach.to(dtype), bits)[1] == 2 ** (bits - 1)).all()
