import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from paperworks.robustness import LayerMaskedModel, MaskedTensor2d, UnsupportedLayerError, neighbor_pad, register_rule
from paperworks.robustness.masking.regions import Region


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_mask(n=3, h=17, w=14, keep=0.6, seed=0, block=1):
    coarse = torch.rand(n, 1, -(-h // block), -(-w // block), generator=rng(seed)) < keep
    return coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, :h, :w]


def maps(n=3, c=4, h=17, w=14, seed=0, dtype=torch.float64):
    return torch.randn(n, c, h, w, generator=rng(seed), dtype=dtype)


def agree(a, b, mask=None, tolerance=1e-12):
    a, b = (t if mask is None else t * mask for t in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# What the paper says, layer by layer: everything is masked after every layer, and all of the maps are summed over.


def reference_pad(x, mask, iters):
    x, mask = x * mask, mask.to(x)
    box = torch.ones(1, 1, 3, 3, dtype=x.dtype)
    for _ in range(iters):
        num = F.conv2d(x, box.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
        den = F.conv2d(mask, box, padding=1)
        x = x + (1 - mask) * num / (den + 1e-5)
        mask = (mask + den).clamp(max=1)
    return x, mask


def reference(layer, x, mask, iters=None):
    mask = mask.to(x)
    if isinstance(layer, nn.Conv2d):
        iters = max(layer.kernel_size) if iters is None else iters
        window = F.pad(mask, (layer.padding[1],) * 2 + (layer.padding[0],) * 2)
        seen = F.max_pool2d(window, layer.kernel_size, layer.stride, 0, layer.dilation)
        return layer(reference_pad(x, mask, iters)[0]) * seen, seen
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        seen = (layer(mask) > 0).to(x)
        return layer(x * mask) * seen, seen
    return layer(x * mask) * mask, mask


def test_the_band_is_the_one_of_the_formula():
    x, mask = maps(), random_mask(keep=0.3, block=4)
    for iters in range(6):
        filled, grown = neighbor_pad(x, mask, iters)
        expected, expected_grown = reference_pad(x, mask, iters)
        agree(filled, expected)
        assert torch.equal(grown, expected_grown > 0)
        agree(filled, x, mask)


def test_a_hand_made_band():
    x = torch.tensor([[[[5.0, 9, 9], [9, 9, 9], [9, 9, 1]]]])
    mask = torch.tensor([[[[1, 0, 0], [0, 0, 0], [0, 0, 1]]]])
    filled, grown = neighbor_pad(x, mask, 1)
    torch.testing.assert_close(filled[0, 0], torch.tensor([[5.0, 5, 0], [5, 3, 1], [0, 1, 1]]), rtol=2e-5, atol=0)
    assert grown.tolist() == [[[[1, 1, 0], [1, 1, 1], [0, 1, 1]]]]
    filled, grown = neighbor_pad(x, mask, 2)
    torch.testing.assert_close(filled[0, 0, 0, 2], torch.tensor((5 + 3 + 1) / 3), rtol=5e-5, atol=0)
    assert grown.all()


CONVOLUTIONS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "5x5 depthwise": {"kernel_size": 5, "padding": 2, "groups": 4},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "oblong": {"kernel_size": (1, 5), "padding": (0, 2)},
    "1x1": {"kernel_size": 1},
    "strided 1x1": {"kernel_size": 1, "stride": 2},
    "no padding": {"kernel_size": 4, "stride": 3, "bias": False},
    "wide padding": {"kernel_size": 3, "padding": 3},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_the_papers(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, **CONVOLUTIONS[kind], dtype=torch.float64)
    x, mask = maps(), random_mask(keep=0.2, block=3)
    y = layer(MaskedTensor2d(x, mask))
    (kh, kw), d = layer.kernel_size, layer.dilation[0]
    expected, seen = reference(layer, x, mask, iters=d * max(kh, kw))  # more than is needed
    if kind == "wide padding":
        # The official mask calls outputs hidden that see nothing but padding; the plain network's are what they are.
        agree(y.values[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
        agree(y.values[..., 0, :], layer(x)[..., 0, :])
    else:
        agree(y.values, expected)
        assert torch.equal(y.mask, seen > 0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(1, 2),
    st.floats(0.05, 0.95),
    st.integers(0, 999),
)
def test_kept_outputs_see_no_further_than_the_band(kernel, stride, padding, dilation, keep, seed):
    torch.manual_seed(seed)
    padding = min(padding, dilation * (kernel - 1) // 2)
    layer = nn.Conv2d(2, 3, kernel, stride, padding, dilation, dtype=torch.float64)
    x, mask = maps(2, 2, 13, 12, seed), random_mask(2, 13, 12, keep, seed, block=2)
    expected, seen = reference(layer, x, mask, iters=dilation * kernel + 3)
    y = layer(MaskedTensor2d(x, mask))
    agree(y.values, expected)
    assert torch.equal(y.mask, seen > 0)
    assert (F.interpolate(y.mask.double(), size=(13, 12)) > 0).any() == mask.any() or not mask.any() or stride > 1


def test_a_chain_of_layers_is_the_papers_though_it_masks_less_often():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 6, 1), nn.Sigmoid(),
        nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(6, 5, 3, bias=False), nn.Hardswish(),
    ).double().eval()  # fmt: skip
    for norm in (layers[1], layers[5]):
        norm.running_mean.uniform_(-1, 1)
        norm.bias.data.uniform_(-1, 1)
    x, mask = maps(h=24, w=21), random_mask(h=24, w=21, keep=0.2, block=5)
    x, seen = x * mask, mask
    y = MaskedTensor2d(x, mask)
    for layer in copy.deepcopy(layers):
        x, seen = reference(layer, x, seen)
        y = layer(y)
        agree(y.values, x)
        assert torch.equal(y.mask, seen > 0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3, dtype=torch.float64))
    assert type(head(y)) is torch.Tensor
    agree(head(y), head[2](x.sum((2, 3)) / seen.sum((2, 3))))


# Networks that use functions, methods and layers of many kinds


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class Everything(nn.Module):
    """A residual network with explicit padding, squeeze and excitation, shuffling, ConvNeXt's norm and more."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze = Squeeze(8)
        self.deep = nn.Conv2d(8, 8, 3, padding="same")
        self.layer_norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.group = nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.one, self.three = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        if x.size(0) == 0 or x.shape[1] != 3:  # looks that no tracing could follow
            raise ValueError
        x = F.relu_(self.norm(self.stem(F.pad((x - 0.5) / 0.25, (0, 1, 0, 1)))))
        y = self.squeeze(x)
        y = self.deep(y)
        y += x
        z = y.permute(0, 2, 3, 1)
        z = self.narrow(F.gelu(self.wide(self.layer_norm(z)))).permute(0, 3, 1, 2)
        y = torch.add(y, 0.5 * z)
        a, b = y.chunk(2, dim=1)
        y = torch.cat([self.one(a), F.relu(self.three(b))], dim=1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        y = self.instance(self.group(y))
        y = F.interpolate(F.max_pool2d(y, 2), scale_factor=2.0)[:, :, :h, :w]
        y = F.dropout(self.last(y), training=self.training)
        return torch.flatten(F.adaptive_avg_pool2d(y, 1), 1)


@pytest.fixture(scope="module")
def everything():
    torch.manual_seed(0)
    network = Everything().double().eval()
    network.norm.running_mean.uniform_(-1, 1)
    return network


@pytest.mark.parametrize("padding", ["neighbor", "zero", "partial"])
def test_what_is_hidden_is_never_seen(everything, padding):
    x, mask = maps(c=3, h=16, w=16), random_mask(h=16, w=16, block=4)
    model = LayerMaskedModel(everything, padding)
    logits = model(x, mask)
    assert logits.isfinite().all()
    for colour in (0.0, 1e30, -torch.inf, torch.nan):
        assert torch.equal(model(torch.where(mask, x, colour), mask), logits)
    assert not torch.equal(logits, everything(x))


@pytest.mark.parametrize("padding", ["neighbor", "zero", "partial"])
def test_without_holes_nothing_changes_also_for_some_images_of_a_batch(everything, padding):
    x, mask = maps(c=3, h=16, w=16), random_mask(h=16, w=16, block=4)
    mask[0] = True
    model, plain = LayerMaskedModel(everything, padding), everything(x)
    assert torch.equal(model(x), plain)
    assert torch.equal(model(x, torch.ones_like(mask)), plain)
    agree(model(x, mask)[0], plain[0])


def test_an_image_of_nothing_has_finite_logits(everything):
    model = LayerMaskedModel(everything)
    logits = model(maps(c=3, h=16, w=16), torch.zeros(3, 16, 16))
    assert logits.isfinite().all()
    assert torch.equal(logits[0], logits[1])
    # Where the last pooling has nothing to take a mean of, all that remains is the bias of what follows.
    head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = LayerMaskedModel(head.eval())(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8))
    torch.testing.assert_close(found[0], head[4].bias)


def test_gradients_reach_what_is_kept_alone_and_are_right(everything):
    x, mask = maps(1, 3, 8, 8), random_mask(1, 8, 8, block=2)
    model = LayerMaskedModel(everything)
    x.requires_grad_()
    model(x, mask).sum().backward()
    assert torch.equal((x.grad != 0).any(1, keepdim=True), mask)
    assert torch.autograd.gradcheck(lambda z: model(z, mask), x.detach().requires_grad_(), fast_mode=True)


def test_one_image_with_many_masks_and_many_images_with_one_mask(everything):
    x, mask = maps(c=3, h=16, w=16), random_mask(h=16, w=16, block=4)
    model = LayerMaskedModel(everything)
    agree(model(x[:1], mask), model(x[:1].expand(3, -1, -1, -1), mask))
    agree(model(x, mask[:1]), model(x, mask[:1].expand(3, -1, -1, -1)))
    agree(model(x, mask[:, 0].double()), model(x, mask))


def test_means_and_maxima_are_over_kept_places():
    x, mask = maps(), random_mask(keep=0.4)
    y = MaskedTensor2d(x, mask)
    count = mask.sum((2, 3))
    mean = (x * mask).sum((2, 3)) / count
    best = x.masked_fill(~mask, -torch.inf).amax((2, 3))
    for found in (
        y.mean((2, 3)), y.mean([-2, -1], keepdim=True).flatten(1), y.flatten(2).mean(-1), y.view(3, 4, -1).mean(2),
        F.avg_pool2d(y, (17, 14)).flatten(1), nn.AdaptiveAvgPool2d((1, 1))(y)[:, :, 0, 0],
        y.permute(0, 2, 3, 1).mean((1, 2)),
    ):  # fmt: skip
        assert type(found) is torch.Tensor
        agree(found, mean)
    for found in (y.amax((2, 3)), F.adaptive_max_pool2d(y, 1).flatten(1)):
        agree(found, best)
    agree(y.mean(1, keepdim=True).values, (x * mask).mean(1, keepdim=True))
    assert F.adaptive_max_pool2d(MaskedTensor2d(x, mask & False), 1).abs().sum() == 0


def test_norms_take_statistics_of_kept_places():
    x, mask = maps(), random_mask(keep=0.4)
    y = nn.InstanceNorm2d(4)(MaskedTensor2d(x, mask)).values
    kept = mask.expand_as(x)
    for i in range(3):
        values = y[i][kept[i]].view(4, -1)
        agree(values.mean(1), torch.zeros(4, dtype=torch.float64), tolerance=1e-10)
        agree(values.var(1, correction=0), torch.ones(4, dtype=torch.float64), tolerance=1e-3)
    agree(F.group_norm(MaskedTensor2d(x, mask | True), 2).as_subclass(torch.Tensor), F.group_norm(x, 2))


def test_average_pooling_can_take_means_of_kept_places():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    mask = torch.ones(1, 1, 4, 4)
    mask[..., 0, 0] = mask[..., 2:, 2:] = 0
    plain, exact = (nn.AvgPool2d(2)(MaskedTensor2d(x, mask, renormalize=r)) for r in (False, True))
    assert plain.values.tolist() == [[[[2.5, 4.5], [10.5, 0.0]]]]
    torch.testing.assert_close(exact.values, torch.tensor([[[[10 / 3, 4.5], [10.5, 0.0]]]]))
    assert exact.mask.tolist() == [[[[True, True], [True, False]]]]


def test_partial_convolution_is_exact_on_constant_images():
    layer = nn.Conv2d(1, 1, 3, padding=1, dtype=torch.float64)
    x, mask = torch.ones(2, 1, 9, 9, dtype=torch.float64), random_mask(2, 9, 9, keep=0.5)
    nn.init.constant_(layer.weight, 0.1)
    y = layer(MaskedTensor2d(x, mask, padding="partial"))
    agree(y.values, layer(x) * y.mask)


def test_what_a_concatenation_keeps():
    x = maps()
    masks = [random_mask(keep=0.5, seed=s) for s in range(3)]
    votes = sum(m.long() for m in masks)
    for rule, expected in (("union", votes > 0), ("majority", votes > 1.5)):
        parts = [MaskedTensor2d(x, m, concat=rule) for m in masks]
        joined = torch.cat(parts, 1)
        assert torch.equal(joined.mask, expected)
        agree(joined.values, torch.cat([x * m for m in masks], 1) * expected)
    assert torch.cat([MaskedTensor2d(x, masks[0]), x], 1).mask.all()  # an ordinary tensor is kept everywhere


def test_a_sum_keeps_what_both_keep():
    a, b = random_mask(seed=1), random_mask(seed=2)
    x = maps()
    for y in (MaskedTensor2d(x, a) + MaskedTensor2d(x, b), MaskedTensor2d(x, a).mul_(MaskedTensor2d(x, b))):
        assert torch.equal(y.mask, a & b)
    y = MaskedTensor2d(x.clone(), a)
    y.add_(MaskedTensor2d(x, b))  # in place, and its mask with it
    agree(y.values, 2 * x * (a & b))


def test_explicit_padding_is_not_part_of_the_hole():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 5, 3, padding=1, dtype=torch.float64)
    explicit = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 5, 3, dtype=torch.float64))
    explicit[1].load_state_dict(conv.state_dict())
    x, mask = maps(), random_mask(keep=0.2, block=4)
    for padding in ("neighbor", "zero", "partial"):
        a, b = (layer(MaskedTensor2d(x, mask, padding=padding)) for layer in (conv, explicit))
        agree(a.values, b.values)
        assert torch.equal(a.mask, b.mask)
    reflecting = nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect", dtype=torch.float64)
    agree(reflecting(MaskedTensor2d(x, mask | True)).as_subclass(torch.Tensor), reflecting(x))


def test_depth_masks_the_first_layers_alone():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, nn.Conv2d(4, 4, 3), nn.Flatten()).double().eval()
    x, mask = maps(c=3), random_mask(block=4)
    first = network[0](MaskedTensor2d(x, mask)).values
    second = block(network[0](MaskedTensor2d(x, mask))).values
    rest = nn.Sequential(*network[2:])
    agree(LayerMaskedModel(network, depth=1)(x, mask), rest(block(first)))
    agree(LayerMaskedModel(network, depth="0")(x, mask), rest(block(first)))
    agree(LayerMaskedModel(network, depth="1")(x, mask), rest(second))
    agree(LayerMaskedModel(network, depth=99)(x, mask), LayerMaskedModel(network)(x, mask))


def test_depth_ends_for_skip_connections_too():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            y = self.a(x)
            return (self.b(y) + x + y).mean((2, 3))

    torch.manual_seed(0)
    network = Block().double()
    x, mask = maps(c=3), random_mask(block=4)
    y = network.a(MaskedTensor2d(x, mask)).values
    agree(LayerMaskedModel(network, depth=1)(x, mask), (network.b(y) + x * mask + y).mean((2, 3)))


def test_a_swish_written_as_an_autograd_function():
    model = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-b0", image_size=32)
    model.eval()
    x, mask = torch.rand(2, 3, 32, 32, generator=rng()), random_mask(2, 32, 32, block=8)
    with torch.no_grad():
        masked = LayerMaskedModel(model)
        assert torch.equal(masked(torch.where(mask, x, torch.nan), mask), masked(x, mask))
        assert torch.equal(masked(x, mask & False), masked(x * 2, mask & False))


class Reorder(nn.Module):
    def forward(self, x):
        return F.pixel_unshuffle(x, 2)


def test_a_rule_of_ones_own():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Reorder(), nn.Conv2d(16, 2, 3), nn.Flatten()).double()
    x, mask = maps(c=3, h=12, w=12), random_mask(h=12, w=12, block=3)
    with pytest.raises(UnsupportedLayerError, match=r"module '1', Reorder: no rule for 'pixel_unshuffle'"):
        LayerMaskedModel(network)(x, mask)
    register_rule(Reorder, lambda module, x: MaskedTensor2d(module(x.values), F.max_pool2d(x.mask.double(), 2)))
    first = network[0](MaskedTensor2d(x, mask))
    second = MaskedTensor2d(F.pixel_unshuffle(first.values, 2), F.max_pool2d(first.mask.double(), 2))
    agree(LayerMaskedModel(network)(x, mask), network[2](second).values.flatten(1))
    assert "forward" not in vars(network[1])  # the module is as it was


def test_layers_without_a_rule_are_named():
    deconvolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2))
    with pytest.raises(UnsupportedLayerError, match="module '1', ConvTranspose2d"):
        LayerMaskedModel(deconvolution)
    x, mask = torch.rand(1, 3, 8, 8), random_mask(1, 8, 8)
    with pytest.raises(UnsupportedLayerError, match="module '1', ConvTranspose2d: no rule for 'conv_transpose2d'"):
        LayerMaskedModel(deconvolution, check=False)(x, mask)
    assert LayerMaskedModel(deconvolution, depth=1)(x, mask).shape == (1, 2, 7, 7)
    late = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ConvTranspose2d(3, 2, 2))  # after the places are gone
    assert LayerMaskedModel(late, check=False)(x, mask).shape == (1, 2, 2, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(),
        lambda x: x.mean(2),
        lambda x: x.mean(),
        lambda x: x.softmax(-1),
        lambda x: x[0],
        lambda x: x[:, :, torch.tensor([0, 1])],
        lambda x: x.transpose(2, 3),
        lambda x: x.view(-1, 1, 17, 14),
        lambda x: F.linear(x, torch.ones(2, 14).double()),
        lambda x: F.layer_norm(x, (17, 14)),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x: torch.cat([x, x], 2),
        lambda x: x + x[:, :, :1],
        lambda x: x @ x,
        lambda x: x.data,
        lambda x: F.conv2d(x.permute(0, 2, 3, 1), torch.ones(1, 14, 1, 1).double()),
    ],
)
def test_functions_that_mix_places_are_refused(function):
    with pytest.raises(UnsupportedLayerError):
        function(MaskedTensor2d(maps(), random_mask()))


def test_half_precision_keeps_its_dtype():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1))
    x, mask = torch.rand(2, 3, 9, 9, generator=rng()), random_mask(2, 9, 9, block=3)
    exact = LayerMaskedModel(network)(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = LayerMaskedModel(network)(x, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.03, atol=0.03)
    found = LayerMaskedModel(network.bfloat16())(x.bfloat16(), mask)
    torch.testing.assert_close(found.float(), exact, rtol=0.03, atol=0.03)


def test_the_region_of_the_last_mask_is_kept_and_no_other(everything):
    model, x = LayerMaskedModel(everything), maps(c=3, h=16, w=16)
    first, second = random_mask(h=16, w=16, seed=1), random_mask(h=16, w=16, seed=2)
    a, b = model(x, first), model(x, second)
    region = model._last
    assert torch.equal(model(x, second.clone()), b)
    assert model._last is region
    assert torch.equal(model(x, first), a)


def test_a_region_works_out_its_bands_once():
    region = Region(random_mask(keep=0.1, block=5)[:, 0])
    two = region.bands(2)
    assert region.bands(4)[:2] == two
    assert len(region.bands(1)) == 1
    assert len(region.bands(99)) < 20
    rows = torch.cat([band.rows for band in region.bands(99)])
    assert torch.equal(rows.sort().values, region.hidden_rows)


def test_it_runs_in_threads(everything):
    model, x, mask = LayerMaskedModel(everything), maps(c=3, h=16, w=16), random_mask(h=16, w=16)
    expected, found = model(x, mask), []
    threads = [threading.Thread(target=lambda: found.append(model(x, mask))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(f, expected) for f in found)
    assert len(found) == 4


def test_a_model_in_training_mode_is_told_of():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    with pytest.warns(UserWarning, match="training mode"):
        LayerMaskedModel(network)(torch.rand(2, 3, 8, 8), random_mask(2, 8, 8))


def test_it_shows_itself():
    assert repr(MaskedTensor2d(torch.ones(1, 1, 1, 2), torch.tensor([[[1, 0]]]))) == (
        "MaskedTensor2d(tensor([[[[1., 0.]]]]), kept 50%)"
    )


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(maps(c=3), torch.full((3, 1, 17, 14), 0.5)), "mask has 714 elements other than 0 and 1"),
        (lambda m: m(maps(c=3), torch.full((3, 1, 17, 14), torch.nan)), "mask has 714 elements"),
        (lambda m: m(maps(c=3), torch.ones(3, 1, 17, 13)), r"mask has shape \(3, 1, 17, 13\)"),
        (lambda m: m(maps(c=3), torch.ones(2, 1, 17, 14)), r"mask has shape \(2, 1, 17, 14\)"),
        (lambda m: m(maps(c=3), torch.ones(3, 3, 17, 14)), r"mask is a tensor of shape \(3, 3, 17, 14\)"),
        (lambda m: m(maps(c=3), [1]), "mask is list"),
        (lambda m: m(maps(c=3)[0], torch.ones(1, 17, 14)), r"x is a tensor of shape"),
        (lambda m: LayerMaskedModel(m.model, "reflect"), "padding is 'reflect'"),
        (lambda m: LayerMaskedModel(m.model, concat="any"), "concat is 'any'"),
        (lambda m: LayerMaskedModel(m.model, depth=0), "depth is 0"),
        (lambda m: LayerMaskedModel(m.model, depth="layer9"), "depth is 'layer9'"),
        (lambda m: neighbor_pad(maps(), random_mask(), -1), "steps is -1"),
        (lambda m: MaskedTensor2d(maps(), random_mask(), padding="none"), "padding is 'none'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(LayerMaskedModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).double()))


@pytest.mark.usefixtures("untyped")
def test_bad_rules():
    with pytest.raises(TypeError, match="module_type is 'Conv2d'"):
        register_rule("Conv2d", lambda module, x: x)
    with pytest.raises(TypeError, match="fn is 3"):
        register_rule(Reorder, 3)
