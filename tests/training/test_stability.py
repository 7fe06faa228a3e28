"""Tests of the exact stability of SGD, its certificates, the sharpness of networks, norms and the monitor."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.sparse.linalg import aslinearoperator, eigsh
from torch import nn

from paperworks.numerics import mlp, seeded
from paperworks.training import (
    EmpiricalFisherOperator,
    GGNOperator,
    HessianOperator,
    StabilityMonitor,
    critical_learning_rate,
    diag_linear_sharpness,
    extreme_eigenvalues,
    frobenius_norm,
    gradient_alignment,
    hessian_trace,
    mean_square_radius,
    output_gradients,
    path_norm,
    path_norm_complexity,
    per_sample_grad_norms,
    relu2_population_trace,
    stability_certificate,
)


def half(out, y):
    return (out - y).square().sum(1).mean() / 2


def rows(n=7, p=4, seed=0, c=None):
    shape = (n, p) if c is None else (n, c, p)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moments(G, lr, batch_size, replacement):
    """The map of second moments as a matrix on all of R^(p x p), by Kronecker products."""
    G = G if G.ndim == 3 else G[:, None]
    n, _, p = G.shape
    A = [g.T @ g for g in G]
    H = sum(A) / n
    q = 1 / batch_size if replacement else (n - batch_size) / (batch_size * (n - 1))
    eye = torch.eye(p, dtype=torch.float64)
    noise = sum(torch.kron(a, a) for a in A) / n
    return (
        torch.kron(eye, eye)
        - lr * (torch.kron(H, eye) + torch.kron(eye, H))
        + lr**2 * (q * noise + (1 - q) * torch.kron(H, H))
    )


@pytest.mark.parametrize("c", [None, 2])
@pytest.mark.parametrize(("batch_size", "replacement"), [(1, False), (3, False), (3, True), (7, False), (9, True)])
def test_the_threshold_is_where_the_radius_of_the_kronecker_matrix_is_one(batch_size, replacement, c):
    G = rows(c=c)

    def dense(lr):
        return float(torch.linalg.eigvalsh(second_moments(G, lr, batch_size, replacement)).abs().max())

    found = critical_learning_rate(G, batch_size, replacement=replacement)
    low = 1 / float(torch.linalg.matrix_norm(G if c else G[:, None], 2).square().max())
    assert found == pytest.approx(brentq(lambda lr: dense(lr) - 1, low, 3 * found, xtol=1e-12), rel=1e-8)
    for lr in (0.5 * found, 1.2 * found):
        assert mean_square_radius(G, lr, batch_size, replacement=replacement) == pytest.approx(dense(lr), rel=1e-10)
    flat = G.reshape(-1, G.shape[-1])
    gram = critical_learning_rate(flat @ flat.T, batch_size, replacement=replacement, gram=True, outputs=c or 1)
    assert gram == pytest.approx(found, rel=1e-8)


def test_large_ranks_agree_with_small_ones():
    blocks = torch.block_diag(rows(30, 30), 1e-3 * rows(3, 3))  # the second block is far below the edge
    assert critical_learning_rate(blocks) == pytest.approx(critical_learning_rate(rows(30, 30)), rel=1e-6)
    found = critical_learning_rate(rows(30, 30), 2)
    assert mean_square_radius(rows(30, 30), found, 2) == pytest.approx(1, abs=1e-8)


def test_known_thresholds():
    unit = torch.eye(15, dtype=torch.float64)
    assert critical_learning_rate(unit) == pytest.approx(2)
    q = (15 - 4) / (4 * 14)  # orthogonal gradients: q |g|^2 + (1 - q) |g|^2 / n
    assert critical_learning_rate(unit, 4) == pytest.approx(2 / (q + (1 - q) / 15))
    report = stability_certificate(unit, 3.0, 4)
    assert report.verdict == "stable"
    assert report.lr_max_exact > 2 / 1.0  # more than 2 / Tr H, which is of single samples
    one = torch.tensor([[2.0]], dtype=torch.float64)
    assert critical_learning_rate(one) == critical_learning_rate(one, 3, replacement=True) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_no_certificate_is_below_the_threshold(seed, batch_size):
    rng = np.random.default_rng(seed)
    G = torch.from_numpy(rng.standard_t(2, size=(6, 5)) if seed % 2 else rng.normal(size=(6, 9)))
    report = stability_certificate(G, 1e-3, batch_size)
    assert report.lr_sufficient <= report.lr_max_exact * (1 + 1e-9)
    for most in report.conditions.values():
        assert most >= report.lr_max_exact * (1 - 1e-9)
    above = stability_certificate(G, 1.01 * report.lr_max_exact, batch_size)
    assert (above.verdict, above.exact_radius > 1) == ("unstable", True)
    assert stability_certificate(G, 1.01 * report.lr_max_lambda, batch_size).violated[0] == "lambda_max"


def test_the_linearised_iteration_does_what_the_radius_says():
    G, rng = rows(5, 2), np.random.default_rng(0)
    lr = 0.9 * critical_learning_rate(G)
    moments, exact = torch.ones(2, 2, dtype=torch.float64), second_moments(G, lr, 1, False)
    state = torch.ones(20_000, 2, dtype=torch.float64)
    for _ in range(3):
        g = G[torch.from_numpy(rng.integers(5, size=len(state)))]
        state = state - lr * g * (g * state).sum(1, keepdim=True)
        moments = (exact @ moments.flatten()).view(2, 2)
    torch.testing.assert_close(state.T @ state / len(state), moments, rtol=0.2, atol=0.02)


def test_a_report_says_whether_the_network_interpolates():
    assert stability_certificate(rows(), 0.1).interpolating is None
    assert stability_certificate(rows(), 0.1, train_loss=1e-6).interpolating
    assert stability_certificate(rows(), 0.1, train_loss=0.1).interpolating is False


def batch(n=9, d=3, c=2):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, d, generator=rng).double(), torch.randn(n, c, generator=rng).double()


def network(c=2):
    with seeded(0):
        return mlp([3, 5, c], nn.Tanh).double()


@pytest.mark.parametrize("operator", [HessianOperator, GGNOperator, EmpiricalFisherOperator])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sharpness_is_that_of_the_dense_matrix(operator, reduction):
    loss = half if reduction == "mean" else lambda out, y: (out - y).square().sum() / 2
    op = operator(network(), loss, batch(), batch_size=4, reduction=reduction)
    matrix = op @ torch.eye(op.n, dtype=torch.float64)
    assert hessian_trace(op, "exact").trace == pytest.approx(float(matrix.trace()))
    assert hessian_trace(op, rtol=1e-9).trace == pytest.approx(float(matrix.trace()))
    assert frobenius_norm(op, "exact").norm == pytest.approx(float(matrix.norm()))
    found = frobenius_norm(op, n_probes=200)
    assert abs(found.norm - float(matrix.norm())) < 5 * found.standard_error + 1e-9
    values, _, residuals = extreme_eigenvalues(op, 2, which="both")
    dense = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(values, dense[[0, -1]], rtol=1e-6, atol=1e-8)
    assert residuals.max() < 1e-5
    assert eigsh(aslinearoperator(op), 1, which="LA")[0][0] == pytest.approx(float(dense[-1]))


def test_layers_add_up_to_the_trace():
    parts = [hessian_trace(GGNOperator(network(), half, batch(), [name]), "exact").trace for name in ("0", "2")]
    assert sum(parts) == pytest.approx(hessian_trace(GGNOperator(network(), half, batch()), "exact").trace)
    norms = per_sample_grad_norms(network(), half, batch(), batch_size=4)
    fisher = hessian_trace(EmpiricalFisherOperator(network(), half, batch()), "exact")
    assert float(norms.square().mean()) == pytest.approx(fisher.trace)


def test_the_certificate_of_a_network_is_that_of_its_gradients():
    x, y = batch(c=1)
    G = output_gradients(network(1), half, (x, y), batch_size=4)
    report = stability_certificate(G, 0.1)
    op = GGNOperator(network(1), half, (x, y))
    assert report.lr_max_trace == pytest.approx(2 / hessian_trace(op, "exact").trace)
    assert report.lr_max_lambda == pytest.approx(2 / float(extreme_eigenvalues(op).values))


def test_the_alignment_is_that_of_covariance_and_hessian():
    x, y = batch(c=1)
    model = network(1)
    G = output_gradients(model, half, (x, y))[:, 0]
    r = (model(x) - y).detach()
    noise, H = (r * G).T @ (r * G) / 9 - torch.outer((r * G).mean(0), (r * G).mean(0)), G.T @ G / 9
    expected = float((noise @ H).trace() / (2 * half(model(x), y).detach() * H.square().sum()))
    assert gradient_alignment(model, half, (x, y), batch_size=4) == pytest.approx(expected)


def test_norms_of_simple_networks():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, generator=rng), torch.randn(6, 4, generator=rng)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 1, bias=False))
    model[0].weight.data, model[2].weight.data = b, a[None]
    norm, trace = path_norm(model), relu2_population_trace(a, b)
    assert norm == pytest.approx(float((a.abs() * b.norm(dim=1)).sum()), rel=1e-6)
    assert trace >= 2 * norm  # root d
    balanced = b / b.norm(dim=1, keepdim=True) * 2 * a.abs()[:, None]
    model[0].weight.data = balanced
    assert relu2_population_trace(a, balanced) == pytest.approx(2 * path_norm(model), rel=1e-6)
    found = diag_linear_sharpness(a, b[:, 0])
    J = torch.diag(b[:, 0]), torch.diag(a)  # f has the gradient (b x, a x); E x x^T is the identity
    H = torch.cat(J) @ torch.cat(J).T
    assert found.trace == pytest.approx(float(H.trace()), rel=1e-5)
    assert found.frobenius == pytest.approx(float(H.norm()), rel=1e-5)
    assert found.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-5)
    assert found.trace >= 2 * found.l1
    assert found.frobenius >= 2 * found.l2
    assert found.lambda_max >= 2 * found.linf
    with_bias = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with_bias[0].weight.data, with_bias[0].bias.data = torch.tensor([[3.0]]), torch.tensor([4.0])
    with_bias[2].weight.data = torch.tensor([[1.0], [-2.0]])
    assert path_norm(with_bias) == 15.0
    assert path_norm_complexity(2.0, torch.full((4, 1), 3.0)) == 6.0


class Shared(nn.Module):
    """A convolutional network with batch normalisation, a matrix used twice, and a frozen part."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(8, 1).requires_grad_(False)

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(self.features(x)))))


def test_the_monitor_follows_a_network_with_batch_norm_tied_and_frozen_parts():
    with seeded(0):
        model = Shared()
        x, y = torch.randn(6, 1, 4, 4), torch.randn(6, 1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    monitor = StabilityMonitor(optimizer, model, half, every=2, rtol=1e-6)
    frozen = model.last.weight.clone()
    for _ in range(4):
        optimizer.zero_grad()
        half(model(x), y).backward()
        optimizer.step()
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        monitor.step((x, y))
        assert all(g is None or torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert [record.step for record in monitor.history] == [2, 4]
    assert all(part.training for part in model.modules())
    assert torch.equal(frozen, model.last.weight)
    model.eval()
    op = GGNOperator(model, half, (x, y))
    assert monitor.history[-1].trace_ratio == pytest.approx(0.005 * hessian_trace(op, "exact").trace, rel=1e-3)
    top = float(extreme_eigenvalues(op).values)
    assert monitor.history[-1].lambda_ratio == pytest.approx(0.005 * top, rel=1e-3)


def test_the_monitor_scales_each_group_by_its_rate_and_warns_above_the_edge():
    model, (x, y) = network(1), batch(c=1)
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters(), "lr": 2.0}]
    monitor = StabilityMonitor(torch.optim.SGD(groups), model, half, estimators=["trace"], rtol=1e-9)
    traces = [hessian_trace(GGNOperator(model, half, (x, y), [name]), "exact").trace for name in ("0", "2")]
    with pytest.warns(UserWarning, match="lr Tr / 2 is"):
        record = monitor.measure((x, y))
    assert record.trace_ratio == pytest.approx((0.5 * traces[0] + 2 * traces[1]) / 2, rel=1e-6)
    assert math.isnan(record.lambda_ratio)
    assert record.lr == 2.0
    with pytest.warns(UserWarning, match="without momentum"):
        StabilityMonitor(torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9), model, half)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = StabilityMonitor(torch.optim.SGD(model.parameters(), lr=1e-4), model, half, batch_size=2, rtol=1e-9)
        assert small.measure((x, y)).trace_ratio == pytest.approx(1e-4 * sum(traces) / 4, rel=1e-6)


def test_batch_norm_in_training_mode_is_an_error():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    for call in (
        lambda: hessian_trace(GGNOperator(model, half, batch())),
        lambda: per_sample_grad_norms(model, half, batch()),
        lambda: output_gradients(model, half, batch()),
    ):
        with pytest.raises(RuntimeError, match="1, a BatchNorm1d, is in training mode"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stability_certificate(rows(), 0.0), "lr is 0"),
        (lambda: stability_certificate(rows(), -0.1), "lr is -0.1"),
        (lambda: stability_certificate(rows(), 0.1, 8), "batch_size is 8; it takes a whole number >= 1 and <= 7"),
        (lambda: mean_square_radius(rows(), 0.1, 0), "batch_size is 0"),
        (lambda: mean_square_radius(rows(), math.nan), "lr is nan"),
        (lambda: critical_learning_rate(rows() * math.nan), "gradients has 28 NaN"),
        (lambda: critical_learning_rate(0 * rows()), "gradients are all 0"),
        (lambda: critical_learning_rate(rows(), gram=True), "gradients has shape"),
        (lambda: critical_learning_rate(-torch.eye(3), gram=True), "gradients has the eigenvalue -1"),
        (lambda: critical_learning_rate(torch.eye(3), gram=True, outputs=2), "outputs is 2"),
        (lambda: critical_learning_rate(rows()[0]), "gradients has shape"),
        (lambda: critical_learning_rate(rows()[:0]), "gradients holds no samples"),
        (lambda: critical_learning_rate(rows()[:, :0]), "gradients holds no samples"),
        (lambda: critical_learning_rate(rows() * 1e90), r"gradients are of size 2\.\de\+90; they take 1e-70 to 1e70"),
        (lambda: critical_learning_rate(rows().to("meta")), "gradients are of torch.float64 on meta"),
        (lambda: GGNOperator(network(), half, tuple(part.numpy() for part in batch())), "data is made of ndarray, nd"),
        (lambda: diag_linear_sharpness(torch.ones(0), torch.ones(0)), "both take"),
        (lambda: HessianOperator(network(), half, (batch()[0], batch()[1][:3])), "data has 9 inputs and 3 targets"),
        (lambda: hessian_trace(GGNOperator(network(), half, batch()), "power"), "method"),
        (lambda: hessian_trace(GGNOperator(network(), half, batch()), "exact", rtol=-1), "rtol is -1"),
        (lambda: frobenius_norm(GGNOperator(network(), half, batch()), n_probes=0), "n_probes is 0"),
        (lambda: extreme_eigenvalues(GGNOperator(network(), half, batch()), 99), "k is 99"),
        (lambda: gradient_alignment(network(), half, (batch()[0], network()(batch()[0]).detach())), "mean loss of 0"),
        (lambda: path_norm(network()), "model is made of Linear, Tanh, Linear"),
        (lambda: path_norm_complexity(-1.0, torch.eye(2)), "norm is -1"),
        (lambda: relu2_population_trace(torch.ones(2), torch.ones(3, 2)), "b"),
        (lambda: diag_linear_sharpness(torch.ones(2), torch.ones(3)), "b"),
        (lambda: StabilityMonitor(torch.optim.SGD([torch.ones(1)], 0.1), network(), half), "optimizer has no"),
        (lambda: StabilityMonitor(torch.optim.SGD([torch.ones(1)], 0.1), network(), half, every=0), "every is 0"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


class Language(nn.Module):
    """A small transformer whose embedding is its last layer, with frozen positions."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.positions = nn.Parameter(torch.randn(3, 4), requires_grad=False)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True), 1)
        self.last = nn.Linear(4, 7, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, x):
        return self.last(self.encoder(self.embedding(x) + self.positions))


def tokens(out, y):
    return nn.functional.cross_entropy(out.flatten(0, 1), y.flatten())


@pytest.fixture
def language():
    with seeded(0):
        return Language(), torch.randint(7, (5, 3)), torch.randint(7, (5, 3))


def test_the_curvature_of_a_transformer_with_tied_and_frozen_parts(language):
    model, x, y = language
    model = model.double().eval()
    kept = [p for p in model.parameters() if p.requires_grad]
    op = HessianOperator(model, tokens, (x, y))
    v = torch.randn(op.n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pieces = [piece.view_as(p) for piece, p in zip(v.split([p.numel() for p in kept]), kept, strict=True)]

    def gradient(step):
        with torch.no_grad():
            for p, piece in zip(kept, pieces, strict=True):
                p.add_(piece, alpha=step)
        found = torch.cat([g.flatten() for g in torch.autograd.grad(tokens(model(x), y), kept)])
        with torch.no_grad():
            for p, piece in zip(kept, pieces, strict=True):
                p.sub_(piece, alpha=step)
        return found

    torch.testing.assert_close(op @ v, (gradient(1e-5) - gradient(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-8)
    ggn = GGNOperator(model, tokens, (x, y))
    dense = ggn @ torch.eye(ggn.n, dtype=torch.float64)
    assert hessian_trace(ggn, "exact").trace == pytest.approx(float(dense.trace()))
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_monitor_follows_a_transformer_compiled_and_in_groups(language):
    model, x, y = language
    named = dict(model.named_parameters())
    groups = [
        [p for name, p in named.items() if p.requires_grad and ("norm" in name) == norm] for norm in (True, False)
    ]
    optimizer = torch.optim.SGD([{"params": groups[0], "lr": 0.01}, {"params": groups[1], "lr": 0.05}])
    monitors = [StabilityMonitor(optimizer, m, tokens) for m in (model, torch.compile(model, backend="eager"))]
    plain, compiled = (monitor.measure((x, y)) for monitor in monitors)
    assert plain.trace_ratio > 0
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert all(part.training for part in model.modules())


def test_a_rate_of_zero_as_at_the_start_of_a_warm_up_is_no_error():
    model = network(1)
    record = StabilityMonitor(torch.optim.SGD(model.parameters(), lr=0.0), model, half).measure(batch(c=1))
    assert (record.trace_ratio, record.lambda_ratio) == (0, 0)


class Mixed(nn.Module):
    """Half of it in bfloat16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 5).bfloat16(), nn.Linear(5, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.bfloat16())).float())


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "mixed"])
def test_vectors_have_single_precision_at_least(kind):
    with seeded(0):
        model = Mixed() if kind == "mixed" else mlp([3, 5, 2], nn.Tanh).to(getattr(torch, kind))
    x, y = (part.to(torch.float32 if kind == "mixed" else getattr(torch, kind)) for part in batch())
    with seeded(0):
        single = Mixed() if kind == "mixed" else mlp([3, 5, 2], nn.Tanh)
    if kind != "mixed":
        single.load_state_dict(model.state_dict())
    op, exactly = GGNOperator(model, half, (x, y)), GGNOperator(single, half, (x.float(), y.float()))
    trace = hessian_trace(exactly, "exact").trace
    assert op.dtype == np.float32
    for method in ("xtrace", "hutch++", "exact"):
        assert hessian_trace(op, method).trace == pytest.approx(trace, rel=0.05)
    top = float(extreme_eigenvalues(exactly).values)
    assert float(extreme_eigenvalues(op, rtol=1e-3).values) == pytest.approx(top, rel=0.02)
    monitor = StabilityMonitor(torch.optim.SGD(model.parameters(), lr=0.1), model, half)
    assert monitor.measure((x, y)).trace_ratio == pytest.approx(0.05 * trace / 2, rel=0.1)


def test_autocasting_changes_nothing():
    model, data = network().float(), tuple(part.float() for part in batch())
    expected = hessian_trace(HessianOperator(model, half, data), max_products=20)
    norms, rows = per_sample_grad_norms(model, half, data), output_gradients(model, half, data)
    with torch.autocast("cpu", torch.bfloat16):
        assert hessian_trace(HessianOperator(model, half, data), max_products=20) == expected
        torch.testing.assert_close(per_sample_grad_norms(model, half, data), norms)
        torch.testing.assert_close(output_gradients(model, half, data), rows)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_found_where_none_are_kept(mode):
    model, data = network(), batch()
    expected = per_sample_grad_norms(model, half, data)
    with mode():
        torch.testing.assert_close(per_sample_grad_norms(model, half, data), expected)


def test_an_iterator_of_batches_is_read_once_and_kept():
    x, y = batch()
    op = GGNOperator(network(), half, ((a, b) for a, b in zip(x.split(4), y.split(4), strict=True)))
    assert hessian_trace(op, rtol=1e-9).trace == pytest.approx(
        hessian_trace(GGNOperator(network(), half, batch()), "exact").trace
    )


def test_parts_on_the_meta_device_are_refused():
    model = mlp([3, 5, 2]).to("meta")
    for call in (
        lambda: GGNOperator(model, half, batch()),
        lambda: per_sample_grad_norms(model, half, batch()),
        lambda: output_gradients(model, half, batch()),
        lambda: StabilityMonitor(torch.optim.SGD(model.parameters(), lr=0.1), model, half),
        lambda: path_norm(model),
    ):
        with pytest.raises(ValueError, match="on the meta device"):
            call()


def test_dropout_within_attention_and_recurrent_layers_is_an_error():
    for layer in (nn.MultiheadAttention(4, 2, 0.1), nn.LSTM(4, 4, 2, dropout=0.1)):
        op = HessianOperator(layer, half, (torch.ones(2, 4), torch.ones(2, 4)))
        with pytest.raises(RuntimeError, match=f"a {type(layer).__name__}, is in training mode"):
            _ = op @ torch.ones(op.n)


def test_the_radius_at_large_rank_is_found_below_the_threshold():
    G = torch.eye(40, dtype=torch.float64) * torch.logspace(-6, 2, 40, dtype=torch.float64)[:, None]
    # Each coordinate by itself: 1 - 2 lr g^2 / n + lr^2 g^4 / n, least far from 1 for the smallest g.
    h = G.diag() ** 2
    most = critical_learning_rate(G)
    for lr in (0.1 * most, 0.9 * most):
        assert mean_square_radius(G, lr) == pytest.approx(
            float((1 - 2 * lr * h / 40 + lr**2 * h**2 / 40).max()), rel=1e-12
        )
    G = rows(60, 60)
    assert mean_square_radius(G, 0.5 * critical_learning_rate(G)) < 1
    assert mean_square_radius(G, critical_learning_rate(G)) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_the_threshold_follows_the_scale_of_gradients(scale):
    assert critical_learning_rate(rows() * scale) * scale**2 == pytest.approx(critical_learning_rate(rows()))
