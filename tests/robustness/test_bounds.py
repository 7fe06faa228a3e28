import pytest
import torch
from torch import nn

from bound_checks import METHODS, check_bounds, reached
from paperworks.papers.auto_lirpa.architectures import ARCHITECTURES, build
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm

BALL = PerturbationLpNorm(0.03)


def inputs(name, batch=2, scale=0.5):
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(batch, *ARCHITECTURES[name].shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bounds_hold_and_linear_ones_are_tighter_than_intervals(name):
    module, x = build(name), inputs(name)
    methods = METHODS if name in ("MLP", "residual CNN", "max-pooling CNN", "product gate") else METHODS[:-1]
    bounded = BoundedModule(module, x, {"steps": 4})
    widths = check_bounds(bounded, module, BALL, x, methods)
    assert widths["reached"] * (1 - 1e-9) <= widths["CROWN"] <= 0.8 * widths["IBP"]
    assert widths["CROWN"] <= widths["forward"] * 1.001
    assert widths["CROWN"] < 6 * widths["reached"]


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("norm", [1, 2, 3, torch.inf])
def test_linear_networks_are_bounded_exactly(method, norm):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 7), nn.Unflatten(1, (7, 1)), nn.Conv1d(7, 3, 1), nn.Flatten(), nn.Linear(3, 2))
    module = module.double()
    x, ball = torch.randn(3, 4, dtype=torch.float64), PerturbationLpNorm(0.3, norm)
    lower, upper = BoundedModule(module, x).compute_bounds(BoundedTensor(x, ball), method)
    slope = torch.func.jacrev(lambda z: module(z[None])[0])(x[0])
    dual = {1: torch.inf, 2: 2, 3: 1.5, torch.inf: 1}[norm]
    radius = 0.3 * torch.linalg.vector_norm(slope, dual, dim=1)
    torch.testing.assert_close(lower, module(x) - radius)
    torch.testing.assert_close(upper, module(x) + radius)


def by_hand(weights, biases, x, eps, C):
    """CROWN of a perceptron with adaptive slopes as in Zhang et al. (2018), equations 5 to 12, one sample, one row."""

    def lower_bound(row, depth, ends):
        constant = torch.zeros((), dtype=row.dtype)
        for k in range(depth, -1, -1):
            if k < depth:
                low, high = ends[k]
                for i in range(len(low)):
                    if low[i] < 0 < high[i]:
                        if row[i] > 0:
                            row[i] = row[i] * float(high[i] > -low[i])
                        else:
                            s = high[i] / (high[i] - low[i])
                            constant = constant - row[i] * s * low[i]
                            row[i] = row[i] * s
                    elif high[i] <= 0:
                        row[i] = 0
            constant = constant + row @ biases[k]
            row = row @ weights[k]
        return constant + row @ x - eps * row.abs().sum()

    ends = []
    for depth in range(len(weights) - 1):
        eye = torch.eye(len(biases[depth]), dtype=x.dtype)
        low = torch.stack([lower_bound(row.clone(), depth, ends) for row in eye])
        high = -torch.stack([lower_bound(-row, depth, ends) for row in eye])
        ends.append((low, high))
    return torch.stack([lower_bound(row.clone(), len(weights) - 1, ends) for row in C])


def test_crown_is_what_its_equations_say():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
    ).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    C = torch.randn(2, 4, 3, dtype=torch.float64)
    bounded = BoundedModule(module, x, {"intersect": False})
    lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.2)), "CROWN", C=C)
    layers = [part for part in module if isinstance(part, nn.Linear)]
    weights, biases = [part.weight.detach() for part in layers], [part.bias.detach() for part in layers]
    for i in range(2):
        torch.testing.assert_close(lower[i], by_hand(weights, biases, x[i], 0.2, C[i]))
        torch.testing.assert_close(upper[i], -by_hand(weights, biases, x[i], 0.2, -C[i]))


@pytest.mark.parametrize("method", METHODS)
def test_a_specification_is_a_layer_more(method):
    module, x = build("MLP"), inputs("MLP", 3)
    C = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    last = nn.Linear(3, 5, bias=False).double()
    last.weight.data = C[0]
    ball, opts = BoundedTensor(x, BALL), {"steps": 3, "stop_when_decided": False}
    with_rows = BoundedModule(module, x, opts).compute_bounds(ball, method, C=C)
    with_layer = BoundedModule(nn.Sequential(module, last), x, opts).compute_bounds(ball, method)
    for found, expected in zip(with_rows, with_layer, strict=True):
        if method != "IBP":
            torch.testing.assert_close(found, expected)
    if method == "IBP":  # rows merge with the last layer, which tightens intervals
        least, greatest = reached(lambda z: module(z) @ C[0].T, BALL, x)
        assert (with_layer[0] <= with_rows[0] + 1e-12).all()
        assert (with_rows[0] <= least).all()
        assert (with_rows[1] >= greatest).all()


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "forward+backward"])
@pytest.mark.parametrize("name", ["MLP", "residual CNN", "attention block"])
def test_the_linear_bounds_hold_at_every_point(name, method):
    module, x = build(name), inputs(name)
    bounded = BoundedModule(module, x, {"intersect": False})
    lower, upper, A = bounded.compute_bounds(BoundedTensor(x, BALL), method, return_A=True)
    (root,) = A
    assert root == "input_0"
    lA, lb, uA, ub = A[root]
    points = x + 0.03 * (2 * torch.rand(200, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) - 1)
    with torch.no_grad():
        out = module(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    below = torch.einsum("bsn,kbn->kbs", lA.flatten(2), points.flatten(2)) + lb
    above = torch.einsum("bsn,kbn->kbs", uA.flatten(2), points.flatten(2)) + ub
    assert (below <= out + 1e-10).all()
    assert (above >= out - 1e-10).all()
    x_flat = x.flatten(1)
    value = torch.einsum("bsn,bn->bs", lA.flatten(2), x_flat) + lb - 0.03 * lA.flatten(2).abs().sum(-1)
    torch.testing.assert_close(lower, value)
    value = torch.einsum("bsn,bn->bs", uA.flatten(2), x_flat) + ub + 0.03 * uA.flatten(2).abs().sum(-1)
    torch.testing.assert_close(upper, value)


@pytest.mark.parametrize("method", METHODS)
def test_one_side_alone_is_that_side(method):
    module, x = build("MLP"), inputs("MLP")
    bounded, ball = BoundedModule(module, x, {"steps": 3, "optimize_intermediate": False}), BoundedTensor(x, BALL)
    both = bounded.compute_bounds(ball, method)
    lower, none = bounded.compute_bounds(ball, method, bound_upper=False)
    assert none is None
    torch.testing.assert_close(lower, both[0])
    none, upper = bounded.compute_bounds(ball, method, bound_lower=False)
    assert none is None
    torch.testing.assert_close(upper, both[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_ball_of_radius_0_is_a_point(method):
    module, x = build("residual CNN"), inputs("residual CNN")
    bounded = BoundedModule(module, x, {"steps": 1})
    for bound in bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.0)), method):
        torch.testing.assert_close(bound, module(x))


def test_bounds_are_per_sample():
    module, x = build("CNN with batch norm"), inputs("CNN with batch norm", 4)
    bounded = BoundedModule(module, x)
    together = bounded.compute_bounds(BoundedTensor(x, BALL))
    for i in range(4):
        alone = bounded.compute_bounds(BoundedTensor(x[i : i + 1], BALL))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


def test_parts_of_a_pass_make_the_whole():
    module, x = build("CNN with batch norm"), inputs("CNN with batch norm")
    whole = BoundedModule(module, x).compute_bounds(BoundedTensor(x, BALL))
    parts = BoundedModule(module, x, {"memory": 1e4}).compute_bounds(BoundedTensor(x, BALL))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_bounds_are_differentiable_in_the_weights():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bounded = BoundedModule(module, x)
    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def bound(method):
        def run(*values):
            for name, value in zip(names, values, strict=True):
                module.get_parameter(name).data = value.detach()
            lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)), method)
            return lower.sum() - 2 * upper.sum()

        return run

    for method in ("IBP", "CROWN-IBP", "CROWN", "forward"):
        module.zero_grad()
        bound(method)(*weights).backward()
        for name, weight in zip(names, weights, strict=True):
            gradient = module.get_parameter(name).grad
            direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
            moved = [
                [w + s * 1e-6 * direction if n == name else w for n, w in zip(names, weights, strict=True)]
                for s in (1, -1)
            ]
            with torch.no_grad():
                slope = (bound(method)(*moved[0]) - bound(method)(*moved[1])) / 2e-6
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-6)
        bound(method)(*weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "crown"}, "method is 'crown'; it takes one of 'IBP'"),
        ({"C": torch.ones(2, 1, 4)}, r"C has shape \(2, 1, 4\); it takes \(2, specs, 3\)"),
        ({"C": torch.ones(3, 1, 3)}, "C has shape"),
        ({"C": torch.ones(2, 0, 3)}, "C has shape"),
        ({"C": torch.full((2, 1, 3), torch.nan)}, "C has NaN or infinite elements"),
        ({"bound_lower": False, "bound_upper": False}, "at least one is True"),
        ({"method": "IBP", "return_A": True}, "return_A is True with method 'IBP'"),
    ],
)
def test_it_refuses_what_it_cannot_do(arguments, message, untyped):
    module, x = build("MLP"), inputs("MLP")
    with pytest.raises(ValueError, match=message):
        BoundedModule(module, x).compute_bounds(BoundedTensor(x, BALL), **arguments)


def test_it_refuses_inputs_that_do_not_fit(untyped):
    module, x = build("MLP"), inputs("MLP")
    bounded = BoundedModule(module, x)
    with pytest.raises(ValueError, match="nothing is perturbed"):
        bounded.compute_bounds(x)
    with pytest.raises(ValueError, match=r"x\[0\] has shape \(2, 5\); it takes \(2, 6\)"):
        bounded.compute_bounds(BoundedTensor(x[:, :5], BALL))
    with pytest.raises(ValueError, match="x has 2 inputs; this module takes 1"):
        bounded.compute_bounds([x, x])
    with pytest.raises(ValueError, match="x has 1 NaN"):
        bounded.compute_bounds(BoundedTensor(torch.where(torch.arange(12).view(2, 6) == 3, torch.nan, x), BALL))
    with pytest.raises(ValueError, match="axis 0 takes the batch, one sample at least"):
        bounded.compute_bounds(BoundedTensor(x[:0], BALL))
    with pytest.raises(TypeError, match=r"x\[0\] is torch.complex128; it takes real numbers"):
        BoundedModule(module, x + 0j)
    with pytest.raises(TypeError, match="module is function; it takes a"):
        BoundedModule(lambda x: x, x)
    with pytest.raises(ValueError, match="bound_opts is 'rellu'; it takes one of 'relu'"):
        BoundedModule(module, x, {"rellu": "adaptive"})
