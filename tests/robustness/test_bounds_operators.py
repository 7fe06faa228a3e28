"""Every operator: bounds hold by each method, and are exact where the operator is linear."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_checks import check_bounds
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W, V, K1, K2, K3 = normal(3, 4), normal(4), normal(4, 2, 3), normal(4, 3, 3, 2), normal(2, 2, 2, 2, 2)
M3, COLUMN, B3 = normal(3, 4, 2), normal(3, 1), normal(3, 4, 4)
MASK = torch.tensor([True, False, True, True])
PLACES = torch.tensor([2, 0, 0, 3])
ROWS = torch.tensor([[0, 4], [2, 1], [3, 0]])

LINEAR = {
    "linear": (lambda x: F.linear(x, W, V[:3]), (4,)),
    "matmul with a vector": (lambda x: x @ V, (2, 4)),
    "vector times matrix": (lambda x: V @ x, (4, 2)),
    "matmul from the left": (lambda x: W @ x, (4, 2)),
    "batched matmul": (lambda x: x @ M3, (3, 2, 4)),
    "einsum": (lambda x: torch.einsum("bij,kj->bki", x, W), (2, 4)),
    "tensordot": (lambda x: torch.tensordot(x, W, dims=([2], [1])), (2, 4)),
    "bilinear with a constant": (lambda x: F.bilinear(x, torch.ones_like(x), B3), (4,)),
    "sums and scalings": (lambda x: 2 - 3 * (x - 1) / 4 + torch.sub(x, 2, alpha=3), (4,)),
    "addition with alpha": (lambda x: torch.add(x, 2 * x, alpha=-2) - torch.rsub(x, V), (4,)),
    "broadcast addition": (lambda x: x[:, :, None] - 2 * x[:, None] + COLUMN, (3,)),
    "reshape": (lambda x: x.reshape(-1, 2, 6).flatten(1).unflatten(1, (3, 4)), (3, 4)),
    "permutations": (lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).movedim(1, 3).mT, (2, 3, 4)),
    "squeeze": (lambda x: x.unsqueeze(2).squeeze(1) + x.squeeze(1)[:, None], (1, 4)),
    "expand": (lambda x: x[:, None].expand(-1, 3, -1) * COLUMN, (4,)),
    "repeat": (lambda x: x.repeat(1, 2) + x.repeat_interleave(2, 1), (4,)),
    "sums": (lambda x: x.sum(1) + x.mean(1) - x.sum((1, 2), keepdim=True)[..., 0], (3, 4)),
    "cumulative sum": (lambda x: x.cumsum(1), (4,)),
    "concatenation": (lambda x: torch.cat([x, torch.ones(len(x), 2, dtype=x.dtype), -x], 1), (4,)),
    "stack": (lambda x: torch.stack([x, 2 * x, V.expand_as(x)], 1), (4,)),
    "slices": (lambda x: x[:, 1:, ::2] + x[:, 0, 2:].unsqueeze(1), (3, 4)),
    "negative slices": (lambda x: x[:, -2:] - x[:, :-2], (4,)),
    "chunk": (lambda x: x.chunk(2, 1)[0] - x.chunk(2, 1)[1], (4,)),
    "split": (lambda x: x.split([1, 3], 1)[1] * 2, (4,)),
    "unbind": (lambda x: x.unbind(1)[0] + x.unbind(1)[2], (3, 4)),
    "index select": (lambda x: x.index_select(1, PLACES), (4,)),
    "integer indices": (lambda x: x[:, PLACES] - x[:, [1, 1, 2, 3]], (4,)),
    "pairs of indices": (lambda x: x[:, [0, 1], [2, 0]], (3, 4)),
    "boolean index": (lambda x: x[:, MASK], (4,)),
    "gather": (lambda x: x.gather(1, PLACES.expand(len(x), -1)), (4,)),
    "take along an axis": (lambda x: torch.take_along_dim(x, PLACES[None, :, None].expand(len(x), -1, 2), 1), (4, 2)),
    "scatter": (lambda x: torch.ones(len(x), 5, 2).to(x).scatter(1, ROWS.expand(len(x), -1, -1), x), (3, 2)),
    "scatter of a part": (lambda x: x.scatter(2, PLACES[None, None, :2].expand(len(x), 3, -1), 5 * x[..., 2:]), (3, 4)),
    "scatter of a number": (lambda x: x.scatter(1, PLACES.expand(len(x), -1), 2.0), (4,)),
    "scattered sum": (lambda x: x.scatter_add(1, PLACES.expand(len(x), -1), 2 * x), (4,)),
    "scattered sum over rows": (
        lambda x: x.new_ones(len(x), 5, 2).scatter_add(1, ROWS.expand(len(x), -1, -1), x),
        (3, 2),
    ),
    "sum at an index": (lambda x: x.new_zeros(len(x), 6).index_add(1, PLACES, x, alpha=-2), (4,)),
    "where": (lambda x: torch.where(MASK, x, -2 * x), (4,)),
    "masked fill": (lambda x: x.masked_fill(MASK, 3.0), (4,)),
    "masked fill far below": (lambda x: x.masked_fill(MASK, -1e10), (4,)),
    "masked fill with the least number": (lambda x: x.masked_fill(MASK, torch.finfo(x.dtype).min), (4,)),
    "tril": (lambda x: x.tril() - x.triu(1), (3, 3)),
    "diagonal": (lambda x: x.diagonal(dim1=1, dim2=2) + torch.diag_embed(x[:, 0]).sum(1), (3, 3)),
    "flip and roll": (lambda x: x.flip(1) - 2 * x.roll(1, 1), (4,)),
    "padding": (lambda x: F.pad(x, (1, 2), value=2.0), (4,)),
    "reflection and replication": (lambda x: F.pad(x, (1, 2), "reflect") - F.pad(x, (2, 1), "replicate"), (2, 4)),
    "circular padding": (lambda x: F.pad(x, (1, 2), "circular"), (2, 4)),
    "padding of images": (lambda x: F.pad(x, (1, 0, 1, 1), "reflect").flatten(1), (1, 3, 3)),
    "1-d convolution": (lambda x: F.conv1d(x, K1, V, stride=2, padding=1), (2, 6)),
    "dilated groups": (lambda x: F.conv1d(x, K1, padding="same", dilation=2, groups=2), (4, 6)),
    "2-d convolution": (lambda x: F.conv2d(x, K2, V, stride=(2, 1), padding=(0, 1)), (3, 6, 4)),
    "3-d convolution": (lambda x: F.conv3d(x, K3), (2, 3, 3, 2)),
    "1-d transposed": (lambda x: F.conv_transpose1d(x, K1, V[:2], stride=2, padding=1, output_padding=1), (4, 3)),
    "2-d transposed": (lambda x: F.conv_transpose2d(x, K2, stride=2, dilation=2), (4, 3, 3)),
    "transposed in groups": (lambda x: F.conv_transpose1d(x, K1, groups=2), (4, 3)),
    "batch norm": (lambda x: F.batch_norm(x, V, V.abs() + 0.1, V, V, eps=1e-3), (4, 3)),
    "average pooling": (lambda x: F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False), (2, 3, 4)),
    "1-d average pooling": (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 5)),
    "adaptive pooling": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (2, 5, 4)),
    "1-d adaptive pooling": (lambda x: F.adaptive_avg_pool1d(x, 3), (2, 5)),
    "nearest upsampling": (lambda x: F.interpolate(x, scale_factor=2), (2, 3)),
    "bilinear upsampling": (lambda x: F.interpolate(x, size=(5, 4), mode="bilinear"), (2, 3, 3)),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), (4, 2, 2)),
    "unfold": (lambda x: F.unfold(x, 2), (2, 3, 3)),
    "fold": (lambda x: F.fold(x, (3, 3), 2), (8, 4)),
    "windows": (lambda x: x.unfold(1, 3, 2), (6,)),
    "lerp": (lambda x: torch.lerp(x, -x, 0.3), (4,)),
    "identity": (lambda x: F.dropout(x.contiguous().clone(), training=False), (4,)),
    "precision": (lambda x: x.to(torch.float64).type_as(x).double(), (4,)),
}
REPEATED = {  # use an element more than once, which intervals can't know
    *("sums and scalings", "addition with alpha", "broadcast addition", "squeeze", "sums", "chunk", "integer indices"),
    *("flip and roll", "reflection and replication", "circular padding", "lerp", "negative slices", "repeat", "split"),
    *("scatter of a part", "scattered sum", "slices", "unbind", "diagonal", "tril", "bilinear with a constant"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_are_bounded_exactly(name):
    function, shape = LINEAR[name]
    x = normal(2, *shape, seed=1)
    module = Lambda(function)
    bounded = BoundedModule(module, x)
    slopes = torch.stack([torch.func.jacrev(lambda z: function(z[None])[0])(one) for one in x])
    radius = 0.3 * slopes.flatten(-len(shape)).abs().sum(-1)
    value = function(x)
    ball = BoundedTensor(x, PerturbationLpNorm(0.3))
    for method in ("forward", "CROWN"):
        lower, upper = bounded.compute_bounds(ball, method)
        torch.testing.assert_close(upper, value + radius, msg=lambda m, k=method: f"{k}: {m}")
        torch.testing.assert_close(lower, value - radius, msg=lambda m, k=method: f"{k}: {m}")
    lower, upper = bounded.compute_bounds(ball, "IBP")
    assert (lower <= value - radius + 1e-12).all()
    assert (upper >= value + radius - 1e-12).all()
    if name not in REPEATED:
        torch.testing.assert_close(upper - lower, 2 * radius)


CURVED = {
    "relu": F.relu,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "prelu": lambda x: F.prelu(x, V.abs() / 2),
    "relu6": lambda x: F.relu6(4 * x),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "hardsigmoid": lambda x: F.hardsigmoid(3 * x),
    "hardswish": lambda x: F.hardswish(3 * x),
    "softshrink and hardshrink": lambda x: F.softshrink(x, 0.2),
    "threshold by clamp": lambda x: x.clamp(-0.2, 0.5) + x.clamp(min=0.1) - x.clamp_max(0.0),
    "clamp by tensors": lambda x: x.clamp(-V.abs() / 3, V.abs() / 2),
    "sigmoid": lambda x: torch.sigmoid(3 * x),
    "tanh": lambda x: torch.tanh(3 * x),
    "erf": lambda x: torch.erf(2 * x),
    "arctan": lambda x: torch.atan(3 * x),
    "tangent": lambda x: torch.tan(0.7 * x.tanh()),
    "arcsine, arccosine": lambda x: torch.asin(0.9 * x.tanh()) - 2 * torch.acos(0.8 * x.tanh()),
    "hyperbolic": lambda x: torch.sinh(x) + torch.cosh(x) + torch.erfc(x),
    "inverse hyperbolic": lambda x: torch.asinh(x) + torch.acosh(2 + x.tanh()) + torch.atanh(0.9 * x.tanh()),
    "real powers": lambda x: x.relu() ** 1.5 + x.relu() ** 0.7 + (x + 4) ** -1.3,
    "power of both": lambda x: (x + 4) ** x.flip(1) + torch.xlogy(x, x + 4),
    "angle": lambda x: torch.atan2(x, x.flip(1) + 4) + torch.atan2(x + 4, x) + torch.hypot(x, x + 4),
    "sorted": lambda x: x.sort(1).values * V + x.sort(dim=1, descending=True, stable=True).values,
    "greatest of all": lambda x: x.topk(2, 1).values + x.topk(2, 1, largest=False).values - x.median(1, True).values,
    "order statistic": lambda x: x.kthvalue(3, 1).values + x.flip(1).kthvalue(1, 1, keepdim=True).values[:, 0],
    "running": lambda x: x.cumprod(1) + x.cummax(1).values - x.cummin(1).values,
    "hard threshold": lambda x: F.threshold(x, 0.1, 0.1),
    "log sigmoid": F.logsigmoid,
    "softsign": lambda x: x / (1 + x.abs()),
    "tanhshrink": F.tanhshrink,
    "softplus": lambda x: F.softplus(2 * x, beta=2.0),
    "elu": lambda x: F.elu(2 * x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(2 * x, 0.7),
    "gelu": lambda x: F.gelu(3 * x),
    "gelu by tanh": lambda x: F.gelu(3 * x, approximate="tanh"),
    "silu": lambda x: F.silu(4 * x),
    "mish": lambda x: F.mish(3 * x),
    "exp": torch.exp,
    "exp2, expm1": lambda x: torch.exp2(x) - torch.expm1(x) + 2.0**x,
    "log": lambda x: torch.log(x + 3) + torch.log2(x + 3) + torch.log10(x + 3) + torch.log1p(x + 2),
    "root": lambda x: torch.sqrt(x + 3) + (x + 3).rsqrt() + (x + 3) ** 0.5,
    "reciprocal": lambda x: 1 / (x + 3) + (x - 3).reciprocal() + 2 / (x + 4) ** 2,
    "powers": lambda x: x**2 + x**3 - x**4 + x.square() + (x + 3) ** 1.5,
    "absolute value": lambda x: x.abs() - 2 * (x - 0.1).abs(),
    "sine": lambda x: torch.sin(5 * x) + torch.sin(x + 9),
    "cosine": lambda x: torch.cos(5 * x) - torch.cos(x - 20),
    "many waves": lambda x: torch.sin(40 * x),
    "maximum": lambda x: torch.maximum(x, V) + torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, -x.flip(1)),
    "amax": lambda x: x.amax(1) + x.max(1).values - x.min(1).values - x.amin(1),
    "product": lambda x: x * x.flip(1) + x[:, :1] * x,
    "product over an axis": lambda x: x.prod(1) + x[:, 1:3].prod(1, keepdim=True)[:, 0],
    "square as product": lambda x: x * x,
    "quotient": lambda x: x / (2 + x.flip(1).square()),
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: F.log_softmax(3 * x, 1),
    "log-sum-exp": lambda x: torch.logsumexp(3 * x, 1) + torch.logaddexp(x[:, 0], x[:, 1]),
    "cross-entropy": lambda x: F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long), reduction="none"),
    "norms": lambda x: torch.stack([(x + 3).norm(dim=1), x.norm(1, dim=1), x.norm(torch.inf, dim=1)], 1),
    "normalize": lambda x: F.normalize(x + 3, dim=1),
    "cosine similarity": lambda x: F.cosine_similarity(x + 3, V.abs().expand_as(x) + 0.5, dim=1),
    "variance": lambda x: x.var(1, keepdim=True) + x.flip(1).std(1, correction=0, keepdim=True),
    "glu": lambda x: F.glu(3 * x, 1),
    "layer norm": lambda x: F.layer_norm(x, (4,), V, V),
    "rms norm": lambda x: F.rms_norm(x, (4,), V, 0.1),
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(1), value=0.5) + torch.addcdiv(x, x, x + 4),
}
IMAGES = {
    "max pooling": (lambda x: F.max_pool2d(x, 2), (2, 4, 4)),
    "max pooling with padding": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 5, 4)),
    "max pooling, dilated": (lambda x: F.max_pool2d(x, 2, 1, dilation=2, ceil_mode=True), (2, 4, 4)),
    "1-d max pooling": (lambda x: F.max_pool1d(x, 2, stride=1), (2, 5)),
    "3-d max pooling": (lambda x: F.max_pool3d(x, 2), (1, 2, 2, 4)),
    "adaptive max pooling, overlapping": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), (2, 5, 4)),
    "1-d adaptive max pooling": (lambda x: F.adaptive_max_pool1d(x, 2), (2, 5)),
    "3-d adaptive max pooling": (lambda x: F.adaptive_max_pool3d(x, (1, None, 2)), (1, 2, 2, 4)),
    "sorted rows": (lambda x: x.sort(1).values @ x.mT, (5, 2)),
    "adaptive max pooling": (lambda x: F.adaptive_max_pool2d(x, 2), (2, 4, 4)),
    "group norm": (lambda x: F.group_norm(x, 2, V, V), (4, 3)),
    "instance norm": (lambda x: F.instance_norm(x, weight=V, bias=V), (4, 5)),
    "product of matrices": (lambda x: x @ x.mT, (2, 3)),
    "einsum of both": (lambda x: torch.einsum("bij,bkj->bik", x, x.tanh()), (2, 3)),
    "self-attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 3, 4)),
    "causal attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), (2, 3, 4)),
    "gather of products": (lambda x: (x * x.flip(2))[:, :, PLACES], (2, 4)),
    "in-place": (lambda x: (x + 1).mul_(2).add_(x).transpose_(1, 2).relu_(), (2, 3)),
    "slice assignment": (lambda x: _assigned(x), (2, 3)),
}


def _assigned(x):
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 1].tanh()
    y[:, 1:, 1] = 2.0
    return y * x


CURVED = {name: (function, (4,)) for name, function in CURVED.items()} | IMAGES


@pytest.mark.parametrize("name", CURVED)
def test_curved_operators_are_bounded(name):
    function, shape = CURVED[name]
    module, x = Lambda(function), normal(2, *shape, seed=3)
    bounded = BoundedModule(module, x, {"steps": 2})
    widths = check_bounds(bounded, function, PerturbationLpNorm(0.02), x, ("CROWN",))
    assert widths["CROWN"] <= 2 * widths["reached"], widths
    methods = ("IBP", "forward", "CROWN", "alpha-CROWN")
    widths = check_bounds(bounded, function, PerturbationLpNorm(0.4), x, methods)
    assert widths["alpha-CROWN"] <= widths["CROWN"] * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [-1e18, -1e30])
def test_finite_constants_below_any_limit_are_kept(dtype, number):
    class Added(nn.Module):
        def forward(self, x):
            return x + torch.tensor([number, 0.0], dtype=x.dtype)

    x = torch.zeros(1, 2, dtype=dtype)
    bounded = BoundedModule(Added(), x)
    for method in ("IBP", "forward", "CROWN"):
        lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)), method)
        expected = torch.tensor(number, dtype=dtype)
        assert lower[0, 0] <= expected <= upper[0, 0]
        torch.testing.assert_close(lower[0, 0], upper[0, 0], rtol=1e-5, atol=0)  # apart by what rounding may do
        torch.testing.assert_close(upper[0, 1], torch.tensor(0.1, dtype=dtype), rtol=1e-5, atol=0)
