"""Optimised relaxations: never worse, never unsound, and as good as the linear programme where that is known."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from bound_checks import check_bounds, reached
from paperworks.papers.auto_lirpa.architectures import ARCHITECTURES, build
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm

BALL = PerturbationLpNorm(0.1)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def triangle_optimum(layers, ends, x, eps, row):
    """Return the least value of a row over the triangle relaxation of a perceptron, by linear programming."""
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    # Variables: x, then pre-activations and activations of each hidden layer.
    size = widths[0] + 2 * sum(widths[1:-1])
    bounds = [(float(v) - eps, float(v) + eps) for v in x]
    equal, equal_to, below, below_to = [], [], [], []
    previous = torch.arange(widths[0])
    for layer, (low, high) in zip(layers[:-1], ends, strict=True):
        z = len(bounds) + torch.arange(layer.out_features)
        a = z + layer.out_features
        for i in range(layer.out_features):
            line = np.zeros(size)
            line[previous], line[z[i]] = layer.weight[i].detach().numpy(), -1
            equal.append(line)
            equal_to.append(-float(layer.bias[i].detach()))
        bounds += [(float(p), float(q)) for p, q in zip(low, high, strict=True)]
        bounds += [(0, max(0.0, float(q))) for q in high]
        for i in range(layer.out_features):
            line = np.zeros(size)
            line[z[i]], line[a[i]] = 1, -1
            below.append(line)  # a >= z
            below_to.append(0.0)
            line = np.zeros(size)
            slope = float(high[i].clamp(min=0) / (high[i].clamp(min=0) - low[i].clamp(max=0)))
            line[z[i]], line[a[i]] = -slope, 1
            below.append(line)  # a <= slope (z - l)
            below_to.append(-slope * min(float(low[i]), 0.0))
        previous = a
    cost = torch.zeros(size, dtype=torch.float64)
    cost[previous] = (row @ layers[-1].weight).detach()
    found = linprog(cost.numpy(), *map(np.array, (below, below_to, equal, equal_to)), bounds)
    return found.fun + float(row @ layers[-1].bias.detach())


def test_optimised_slopes_solve_the_triangle_relaxation():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 2)).double()
    x = normal(1, 4)
    opts = {"intersect": False, "optimize_intermediate": False}
    ball = BoundedTensor(x, PerturbationLpNorm(1.0))
    module.requires_grad_(False)
    crown = BoundedModule(module, x, opts).compute_bounds(ball, "CROWN")
    lower, upper = BoundedModule(module, x, {**opts, "steps": 150, "lr": 0.3}).compute_bounds(ball, "alpha-CROWN")
    # CROWN's intermediate bounds are those that the programme must start from.
    ends = []
    for depth in (1, 3):
        low, high = BoundedModule(module[:depth], x, opts).compute_bounds(ball, "CROWN")
        ends.append((low[0].detach(), high[0].detach()))
    layers = [part for part in module if isinstance(part, nn.Linear)]
    for i, row in enumerate(torch.eye(2, dtype=torch.float64)):
        least = triangle_optimum(layers, ends, x[0], 1.0, row)
        greatest = -triangle_optimum(layers, ends, x[0], 1.0, -row)
        assert float(lower[0, i]) <= least + 1e-6
        assert float(upper[0, i]) >= greatest - 1e-6
        assert float(lower[0, i]) >= least - 0.03 * (least - float(crown[0][0, i])) - 1e-4
        assert float(upper[0, i]) <= greatest + 0.03 * (float(crown[1][0, i]) - greatest) + 1e-4
    assert float((upper - lower).sum()) < 0.95 * float((crown[1] - crown[0]).sum()), "there was something to gain"


def envelope_optimum(layer, weights, f, x, eps):
    """Return the least of sum w_i env(f)_i over the ball, by linear programming on lines that support each w_i f."""
    z = layer(x)[0]
    radius = eps * layer.weight.abs().sum(1)
    inputs, neurons = layer.in_features, layer.out_features
    bounds = [(float(v) - eps, float(v) + eps) for v in x[0]] + [(None, None)] * neurons
    lines, limits = [], []
    for i, w in enumerate(weights):
        at = torch.linspace(0, 1, 2001, dtype=x.dtype) * 2 * radius[i] + z[i] - radius[i]
        value = w * f(at)
        chord = (value[-1:] - value[:1]) / (at[-1] - at[0])
        for slope in torch.cat([chord, value[::25].diff() / at[::25].diff()]):
            line = np.zeros(inputs + neurons)  # t_i >= slope z_i + intercept
            line[:inputs], line[inputs + i] = (slope * layer.weight[i]).numpy(), -1
            lines.append(line)
            limits.append(-float((value - slope * at).min() + slope * layer.bias[i]))
    cost = np.r_[np.zeros(inputs), np.ones(neurons)]
    return linprog(cost, np.array(lines), np.array(limits), bounds=bounds).fun


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_optimised_lines_of_s_shaped_functions_come_near_the_convex_envelope(activation):
    closed = []
    for seed in range(2):
        layer, head = nn.Linear(3, 8).double(), nn.Linear(8, 1, bias=False).double()
        layer.weight.data, layer.bias.data = 4 * normal(8, 3, seed=seed) / 3, normal(8, seed=seed + 10)
        head.weight.data = normal(1, 8, seed=seed + 20)
        module = nn.Sequential(layer, activation(), head).requires_grad_(False)
        x, eps = normal(1, 3, seed=seed + 30), 0.5
        best = envelope_optimum(layer, head.weight[0], activation(), x, eps)
        bounded, ball = BoundedModule(module, x), BoundedTensor(x, PerturbationLpNorm(eps))
        crown, found = (float(bounded.compute_bounds(ball, m)[0]) for m in ("CROWN", "alpha-CROWN"))
        assert found <= best + 1e-3, "no lines can do better"
        closed.append((found - crown) / (best - crown))
    assert min(closed) > 0.9, closed


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MLP", {}),
        ("residual CNN", {"share_alpha": True}),
        ("max-pooling CNN", {"optimize_intermediate": False}),
        ("product gate", {"optimize_intermediate": False}),
        ("SiLU, GELU, Mish", {"optimize_intermediate": False}),
    ],
)
def test_it_is_never_worse_than_crown(name, options):
    module = build(name)
    x = 0.5 * normal(2, *ARCHITECTURES[name].shape)
    bounded = BoundedModule(module, x, {"steps": 5, "stop_when_decided": False, **options})
    ball = BoundedTensor(x, BALL)
    C = normal(1, 2, 3, seed=3)
    for rows in (None, C):
        crown = bounded.compute_bounds(ball, "CROWN", C=rows)
        lower, upper = bounded.compute_bounds(ball, "alpha-CROWN", C=rows)
        assert (lower >= crown[0]).all()
        assert (upper <= crown[1]).all()
        assert float((upper - lower).sum().detach()) < float((crown[1] - crown[0]).sum().detach())
        least, greatest = reached((lambda z, r=rows: module(z) @ r[0].T) if rows is not None else module, BALL, x)
        assert (lower <= least).all()
        assert (upper >= greatest).all()


def test_passes_in_parts_have_parameters_of_their_own():
    module, x = build("CNN with batch norm"), 0.5 * normal(2, 1, 7, 7)
    bounded = BoundedModule(module, x, {"steps": 10, "memory": 6e4})
    widths = check_bounds(bounded, module, BALL, x, ("CROWN", "alpha-CROWN"))
    assert widths["alpha-CROWN"] < widths["CROWN"]


def test_the_linear_functions_of_the_best_parameters_bound():
    module, x = build("MLP"), normal(2, 6)
    bounded = BoundedModule(module, x, {"steps": 10, "intersect": False})
    lower, _, A = bounded.compute_bounds(BoundedTensor(x, BALL), "alpha-CROWN", return_A=True)
    lA, lb, uA, ub = A["input_0"]
    with torch.no_grad():
        points = x + 0.1 * (2 * torch.rand(500, 2, 6, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) - 1)
        out = module(points)
        assert (torch.einsum("bsn,kbn->kbs", lA, points) + lb <= out + 1e-10).all()
        assert (torch.einsum("bsn,kbn->kbs", uA, points) + ub >= out - 1e-10).all()
        value = torch.einsum("bsn,bn->bs", lA, x) + lb - 0.1 * lA.abs().sum(-1)
        assert (value <= lower + 1e-10).all()
        torch.testing.assert_close(value.sum(), lower.sum(), rtol=0.05, atol=0.05)


def test_optimised_bounds_keep_their_gradient():
    module, x = build("MLP"), normal(2, 6)
    lower, _ = BoundedModule(module, x, {"steps": 5}).compute_bounds(BoundedTensor(x, BALL), "alpha-CROWN")
    lower.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in module.parameters())
    with torch.no_grad():
        again, _ = BoundedModule(module, x, {"steps": 5}).compute_bounds(BoundedTensor(x, BALL), "alpha-CROWN")
    torch.testing.assert_close(again, lower.detach())
    assert not again.requires_grad
