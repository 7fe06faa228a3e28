"""Tests of Lanczos quadrature, of early stops at the largest eigenvalue, and of curvature whose graph is kept."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator, eigsh
from torch import nn
from torch.nn import functional

from paperworks.numerics import (
    Curvature,
    FrozenCurvature,
    Spectrum,
    lanczos_quadrature,
    largest_eigenvalue,
    per_sample_products,
    seeded,
)
from paperworks.numerics.frozen import differentiable_twice


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(n=30, seed=0):
    a = torch.randn(n, n, generator=rng(seed), dtype=torch.float64)
    return (a + a.T) / 2


def quadrature(matrix, steps, n_probes=3, **options):
    return lanczos_quadrature(matrix.__matmul__, len(matrix), steps, n_probes, rng(1), **options)


@pytest.mark.parametrize("probe", ["sign", "normal"])
def test_moments_of_each_run_are_those_of_its_start(probe):
    matrix, k = symmetric(), 4
    found = quadrature(matrix, k, probe=probe)
    if probe == "sign":
        starts = 2 * torch.randint(0, 2, (3, 30), generator=rng(1)).double() - 1
    else:
        starts = torch.randn(3, 30, generator=rng(1), dtype=torch.float64)
    starts = starts / starts.norm(dim=1, keepdim=True)
    for j in range(2 * k):
        exact = [float(v @ torch.linalg.matrix_power(matrix, j) @ v) for v in starts]
        assert (found.weights * found.nodes**j).sum(1).tolist() == pytest.approx(exact, rel=1e-10)
        assert found.moment(j) == pytest.approx(np.mean(exact), rel=1e-10)
    beyond = [float(v @ torch.linalg.matrix_power(matrix, 2 * k) @ v) for v in starts]
    assert found.moment(2 * k) != pytest.approx(np.mean(beyond), rel=1e-6)


def test_a_full_run_has_all_eigenvalues():
    matrix = symmetric()
    found, exact = quadrature(matrix, 30), torch.linalg.eigvalsh(matrix)
    for nodes in found.nodes:
        torch.testing.assert_close(nodes, exact)
    assert found.largest == pytest.approx(float(exact[-1]))
    assert found.smallest == pytest.approx(float(exact[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonality_lasts(dtype):
    """Without reorthogonalisation, copies of converged eigenvalues take the places of others."""
    values = torch.cat([torch.tensor([100.0, 50.0]), torch.linspace(0, 1, 198)]).to(dtype)
    found = lanczos_quadrature(lambda v: values[:, None] * v, 200, 100, 2, rng(), dtype=dtype)
    assert ((found.nodes > 2).sum(1) == 2).all()
    torch.testing.assert_close(found.weights.sum(1), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)


def test_runs_that_are_over_stop_by_themselves():
    values = torch.tensor([0.0] * 5 + [2.0] * 4 + [7.0], dtype=torch.float64)
    asked = []

    def product(v):
        asked.append(v.shape)
        return values[:, None] * v

    found = lanczos_quadrature(product, 10, 10, 4, rng())
    assert asked == [(10, 4)] * 3
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        torch.testing.assert_close(nodes, torch.tensor([0.0, 2.0, 7.0], dtype=torch.float64), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(weights, torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64))
    mixed = torch.block_diag(symmetric(5), torch.zeros(5, 5, dtype=torch.float64))
    start = torch.cat([torch.zeros(1, 5), torch.ones(1, 5)], dim=1)  # in the null space: one run ends before the other
    both = torch.cat([start, torch.ones(1, 10)]).double()
    from paperworks.numerics.spectra import _Runs

    runs = _Runs(both, 6)
    while runs.advance(mixed.__matmul__):
        pass
    values, first, _ = runs.ritz()
    assert values[0].tolist() == [0.0] * 6
    assert float((first[0] ** 2).sum()) == pytest.approx(1)
    assert (first[1] ** 2 * values[1] ** 3).sum() == pytest.approx(
        float(both[1] @ torch.linalg.matrix_power(mixed, 3) @ both[1]) / 10
    )


def test_densities_shifts_and_transforms():
    matrix = symmetric()
    found = quadrature(matrix, 20, 8)
    grid = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    density = found.density(grid, 0.5)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, rel=1e-9)
    assert float(torch.trapezoid(density * grid**2, grid)) == pytest.approx(found.moment(2) + 0.25, rel=1e-8)
    assert float(torch.trapezoid(found.density(grid), grid)) == pytest.approx(1, rel=1e-3)
    assert found.shift(0.3).moment(1) == pytest.approx(found.moment(1) + 0.3)
    absolute = found.absolute()
    assert absolute.smallest >= 0
    assert (absolute.nodes.diff(dim=1) >= 0).all()
    assert absolute.moment(2) == pytest.approx(found.moment(2))
    size, error = found.mean(torch.abs)
    assert absolute.moment(1) == pytest.approx(size)
    exact = float(torch.linalg.eigvalsh(matrix).abs().mean())
    assert abs(size - exact) < 4 * error
    (z,) = found.stieltjes(torch.tensor([20.0 + 1j], dtype=torch.complex128)).tolist()
    exact_z = (1 / (20 + 1j - torch.linalg.eigvalsh(matrix))).mean()
    assert abs(z - exact_z) < 3e-2 * abs(exact_z)
    assert np.isnan(quadrature(matrix, 3, 1).mean(torch.abs)[1])


def test_the_largest_eigenvalue_stops_early_and_is_right():
    values = torch.cat([torch.linspace(-30, 1, 500), torch.tensor([2.0, 5.0])]).double()
    for rtol in (1e-3, 1e-6, 1e-9):
        found = largest_eigenvalue(lambda v: values[:, None] * v, 502, rng(), rtol=rtol, steps=300)
        assert abs(found.value - 5) <= 10 * 30 * rtol
        assert found.products < 120
        v = found.vector
        assert float((values * v - found.value * v).norm()) == pytest.approx(found.residual, rel=1e-3, abs=1e-9)
    assert largest_eigenvalue(lambda v: values[:, None] * v, 502, rng(), rtol=0, steps=7).products == 7
    warm = largest_eigenvalue(lambda v: values[:, None] * v, 502, rng(), start=v, steps=300)
    assert warm.products < found.products


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float64, (1e-300, 1e-160, 1e160, 1e300)),
                                               (torch.float32, (1e-36, 1e-25, 1e25, 1e36))])  # fmt: skip
def test_spectra_of_any_scale(dtype, scales):
    """Squares of these numbers overflow or underflow, which must not look like the end of a run."""
    values = torch.arange(1, 11, dtype=dtype)
    for scale in scales:
        found = lanczos_quadrature(lambda v, s=scale: s * values[:, None] * v, 10, 10, 2, rng(), dtype=dtype)
        for nodes in found.nodes:
            torch.testing.assert_close(nodes / scale, values.double(), rtol=1e-4, atol=0)
        top = largest_eigenvalue(lambda v, s=scale: s * values[:, None] * v, 10, rng(), dtype=dtype)
        assert top.value == pytest.approx(10 * scale, rel=1e-5)
        grid = torch.linspace(-5, 16, 20_001, dtype=torch.float64) * scale
        assert float(torch.trapezoid(found.density(grid), grid)) == pytest.approx(1, rel=1e-6)


def test_densities_are_shaped_as_their_grids():
    found = quadrature(symmetric(), 5)
    at = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    assert found.density(at).shape == (1, 2)
    assert found.density(at.numpy()).tolist() == found.density(at).tolist()
    assert float(found.density(at[0, 0])) == float(found.density(at)[0, 0])


def loss_of(out, y):
    return functional.cross_entropy(out, y)


def network(*layers):
    with seeded(0):
        return nn.Sequential(*(layers or (nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)))).double()


def data(n=9, shape=(3,)):
    return torch.randn(n, *shape, generator=rng(2), dtype=torch.float64), torch.randint(4, (n,), generator=rng(3))


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_frozen_products_are_those_of_curvature(kind, reduction):
    x, y = data()
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    loss = loss_of if reduction == "mean" else lambda out, t: functional.cross_entropy(out, t, reduction="sum")
    live = Curvature(network(), loss, batches, kind, reduction=reduction)
    frozen = FrozenCurvature(network(), loss, batches, kind, reduction=reduction)
    v = torch.randn(live.n, 18, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(frozen @ v, live @ v)
    torch.testing.assert_close(frozen @ v[:, 0], live @ v[:, 0])
    assert frozen.shape == live.shape
    assert eigsh(aslinearoperator(frozen), 1, which="LA")[0][0] == pytest.approx(
        float(torch.linalg.eigvalsh(live @ torch.eye(live.n).double())[-1])
    )
    part = FrozenCurvature(network(), loss, batches, kind, params=["2"], reduction=reduction)
    torch.testing.assert_close(part @ torch.eye(part.n).double(), (live @ torch.eye(live.n).double())[20:, 20:])


class Transformer(nn.Module):
    """A small transformer whose embedding is its output's matrix too, with frozen positions."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.embed = nn.Embedding(4, 8)
        self.positions = nn.Parameter(torch.randn(5, 8), requires_grad=False)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.out = nn.Linear(8, 4, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.layer(self.embed(tokens) + self.positions)).transpose(1, 2)


def test_transformers_with_tied_and_frozen_weights():
    with seeded(0):
        model = Transformer().double()
    tokens, targets = torch.randint(4, (6, 5), generator=rng()), torch.randint(4, (6, 5), generator=rng(1))
    for kind in ("hessian", "gauss_newton"):
        op = FrozenCurvature(model, loss_of, [(tokens, targets)], kind)
        assert op.n == sum(p.numel() for p in model.parameters() if p.requires_grad)
        matrix = op @ torch.eye(op.n, dtype=torch.float64)
        torch.testing.assert_close(matrix, matrix.T)
    assert model.training
    assert model.layer.self_attn.training
    assert all(p.grad is None for p in model.parameters())
    weight = model.embed.weight.detach().clone()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names[0] == "embed.weight"

    def objective(w):
        return loss_of(torch.func.functional_call(model, {"embed.weight": w}, (tokens,)), targets)

    with differentiable_twice(model):
        exact = torch.autograd.functional.hessian(objective, weight).reshape(32, 32)
    block = FrozenCurvature(model, loss_of, [(tokens, targets)], params=["embed"])
    torch.testing.assert_close(block @ torch.eye(32, dtype=torch.float64), exact)


def test_batch_norm_is_explicit_and_keeps_its_statistics():
    model = network(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.Linear(8, 4))
    x, y = data(6, (1, 4, 4))
    before = {name: b.clone() for name, b in model.named_buffers()}
    evaluated, trained = (FrozenCurvature(model, loss_of, [(x, y)], batch_norm=mode) for mode in ("eval", "train"))
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())
    assert all(part.training for part in model.modules())
    eye = torch.eye(evaluated.n, dtype=torch.float64)
    torch.testing.assert_close(evaluated @ eye, Curvature(model.eval(), loss_of, [(x, y)]) @ eye)
    matrix = trained @ eye
    torch.testing.assert_close(matrix, matrix.T)
    # In training mode the first layer's bias is taken out by the batch's mean, in evaluation mode it is not.
    torch.testing.assert_close(matrix[18:20], torch.zeros_like(matrix[18:20]), atol=1e-9, rtol=0)
    assert (evaluated @ eye)[18:20].abs().max() > 1e-3


@pytest.mark.parametrize("make", [torch.compile, lambda m: (m.compile(), m)[1]])
def test_compiled_modules_run_uncompiled(make):
    x, y = data()
    op = FrozenCurvature(make(network()), loss_of, [(x, y)])
    eye = torch.eye(op.n, dtype=torch.float64)
    torch.testing.assert_close(op @ eye, Curvature(network(), loss_of, [(x, y)]) @ eye)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_products_in_inference_mode_are_those_outside(kind):
    """No graph is made there, so that products would silently be zero."""
    x, y = data()
    expected = FrozenCurvature(network(), loss_of, [(x, y)], kind) @ torch.eye(44, dtype=torch.float64)
    model = network()
    with torch.inference_mode():
        op = FrozenCurvature(model, loss_of, [(x, y)], kind)
        torch.testing.assert_close(op @ torch.eye(44, dtype=torch.float64), expected)
        torch.testing.assert_close(op @ torch.eye(44, dtype=torch.float64)[0], expected[0])
    assert expected.any()


@pytest.mark.parametrize("change", [lambda m: setattr(m[0].weight, "data", 2 * m[0].weight.data),
                                    lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach() * 2)),
                                    lambda m: m.load_state_dict({k: 2 * t for k, t in m.state_dict().items()}),
                                    lambda m: m.load_state_dict({k: 2 * t for k, t in m.state_dict().items()},
                                                                assign=True)])  # fmt: skip
def test_parameters_that_were_replaced_have_changed_too(change):
    model = network()
    op = FrozenCurvature(model, loss_of, [data()])
    change(model)
    with pytest.raises(RuntimeError, match="parameters have changed"):
        op @ torch.ones(op.n).double()


def test_unused_parameters_and_linear_losses_have_no_curvature():
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    op = FrozenCurvature(model, loss_of, [data()])
    matrix = op @ torch.eye(op.n, dtype=torch.float64)
    assert not matrix[:3].any()
    assert matrix[3:, 3:].any()
    linear = FrozenCurvature(network(nn.Linear(3, 1)), lambda out, y: out.mean(), [data()])
    assert not (linear @ torch.eye(4, dtype=torch.float64)).any()


def test_products_of_samples_are_those_of_their_hessians():
    with seeded(0):
        model = Transformer(0.0).double().eval()
    tokens, targets = torch.randint(4, (6, 5), generator=rng()), torch.randint(4, (6, 5), generator=rng(1))
    v = torch.randn(Curvature(model, loss_of, []).n, generator=rng(), dtype=torch.float64)
    with differentiable_twice(model):
        found = per_sample_products(model, loss_of, [(tokens[:4], targets[:4]), (tokens[4:], targets[4:])], v)
    for k, row in enumerate(found):
        one = FrozenCurvature(model, loss_of, [(tokens[k : k + 1], targets[k : k + 1])])
        torch.testing.assert_close(row, one @ v)
    with pytest.raises((ValueError, TypeError), match="v"):
        per_sample_products(network(), loss_of, [data()], v)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def test_errors_say_what_is_wrong():
    class Cube(nn.Module):
        def forward(self, x):
            return Once.apply(x)

    with pytest.raises(NotImplementedError, match="no second derivative"):
        FrozenCurvature(network(nn.Linear(3, 4), Cube()), loss_of, [data()])
    with pytest.raises(ValueError, match=r"0\.weight on the meta device"):
        FrozenCurvature(nn.Sequential(nn.Linear(3, 4, device="meta")), loss_of, [data()])
    with pytest.raises(ValueError, match="batches holds no samples"):
        FrozenCurvature(network(), loss_of, [])
    with pytest.raises((ValueError, TypeError), match="kind"):
        FrozenCurvature(network(), loss_of, [data()], "empirical_fisher")
    with pytest.raises((ValueError, TypeError), match="batch_norm"):
        FrozenCurvature(network(), loss_of, [data()], batch_norm="off")
    model = network()
    op = FrozenCurvature(model, loss_of, [data()])
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="parameters have changed"):
        op @ torch.ones(op.n).double()
    op = FrozenCurvature(network(), lambda out, y: loss_of(out, y) * torch.nan, [data()])
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        op @ torch.ones(op.n).double()
    matrix = symmetric()
    for call, message in (
        (lambda: quadrature(matrix, 31), "steps is 31"),
        (lambda: quadrature(matrix, 3, 0), "n_probes is 0"),
        (lambda: quadrature(matrix, 3, probe="ones"), "probe"),
        (lambda: quadrature(matrix, 3, dtype=torch.complex64), "dtype is torch.complex64"),
        (lambda: largest_eigenvalue(matrix.__matmul__, 30, rng(), dtype=torch.int64), "dtype is torch.int64"),
        (lambda: lanczos_quadrature(lambda v: torch.ones(9) * v, 9, 3, 1, rng()), r"shape \(9, 9\) for vectors"),
        (
            lambda: FrozenCurvature(network(), loss_of, iter([dict(zip("xy", data(), strict=True))])),
            "batches has a dict of 2",
        ),
        (lambda: FrozenCurvature(network(), loss_of, iter([(*data(), 1)])), "batches has a tuple of 3"),
        (lambda: FrozenCurvature(network(), lambda out, y: (out - 1).abs(), [data()]), r"shape \(9, 4\)"),
        (lambda: FrozenCurvature(network(), lambda out, y: 1.0, [data()], "gauss_newton"), "float"),
        (lambda: FrozenCurvature(nn.Linear(3, 4).to(torch.complex64), loss_of, [data()]), "complex parameter weight"),
        (lambda: quadrature(matrix * torch.nan, 3), "NaN or infinity in step 0"),
        (lambda: quadrature(matrix, 3).density(torch.zeros(1), 0.0), "width is 0"),
        (lambda: quadrature(matrix, 3).moment(-1), "order is -1"),
        (lambda: largest_eigenvalue(matrix.__matmul__, 30, rng(), start=torch.zeros(30)), "start is zero"),
        (lambda: largest_eigenvalue(matrix.__matmul__, 30, rng(), start=torch.ones(3)), "start"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    assert isinstance(quadrature(matrix, 3), Spectrum)
