"""Tests of the detectors of softmax collapse, of the monitor, and of the algorithmic tasks."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from paperworks.numerics import mlp, seeded
from paperworks.testbeds.garments import SmallResNet
from paperworks.training import (
    ModularArithmetic,
    NumericalStabilityMonitor,
    SparseParity,
    collapse_margin,
    homogeneity_degree,
    nlm_alignment,
    softmax_collapse,
    zero_gradient_fraction,
    zero_loss_fraction,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize(("dtype", "margin"), list(zip(DTYPES, [7.62, 5.55, 16.64, 36.74], strict=True)))
@pytest.mark.parametrize("classes", [2, 5])
def test_the_softmax_collapses_at_the_margin(dtype, margin, classes):
    assert collapse_margin(dtype) == pytest.approx(margin, abs=0.005)
    for lead, share in ((1.02 * collapse_margin(dtype, classes), 1.0), (0.97 * collapse_margin(dtype), 0.0)):
        logits = torch.zeros(3, classes, dtype=dtype)
        logits[:, 1] = lead
        assert softmax_collapse(logits) == share
        y = torch.full((3,), 1)
        assert zero_loss_fraction(logits, y) == zero_gradient_fraction(logits, y) == share
        assert zero_loss_fraction(logits, 0 * y) == 0  # a wrong class is never rounded away
        assert softmax_collapse(logits.T, dim=0) == share


def test_what_the_detectors_say_of_single_precision_is_what_torch_computes():
    logits = 8 * torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    y = logits.argmax(1)
    z = logits.requires_grad_()
    losses = functional.cross_entropy(z, y, reduction="none")
    losses.sum().backward()
    gradients = z.grad.gather(1, y[:, None])
    assert 0 < zero_gradient_fraction(logits, y) < 1
    assert zero_gradient_fraction(logits, y) == (gradients == 0).double().mean()
    assert zero_loss_fraction(logits, y) == (losses == 0).double().mean()
    assert softmax_collapse(logits, torch.float16) > softmax_collapse(logits) > softmax_collapse(logits, torch.float64)


def test_alignment_is_the_cosine_of_the_step_also_of_tiny_gradients():
    model = mlp([4, 5, 3]).double()
    model(torch.ones(2, 4, dtype=torch.float64)).square().sum().backward()
    model[2].bias.grad = None
    params = {name: p for name, p in model.named_parameters() if p.grad is not None}
    step = torch.cat([-p.grad.flatten() for p in params.values()])
    weights = torch.cat([p.detach().flatten() for p in params.values()])
    expected = functional.cosine_similarity(step, weights, dim=0).item()
    for given in (model, params, list(params.values()), iter(params.values())):
        assert nlm_alignment(given) == pytest.approx(expected, rel=1e-12)
    each = nlm_alignment(model, per_tensor=True)
    p = model[0].weight
    assert list(each) == list(params)
    assert each["0.weight"] == pytest.approx(
        functional.cosine_similarity(-p.grad.flatten(), p.detach().flatten(), 0).item()
    )
    for q in model.parameters():
        q.grad = None if q.grad is None else q.grad * 1e-170
    assert nlm_alignment(model) == pytest.approx(expected, rel=1e-9)


def test_alignment_of_an_exact_direction_is_1_and_of_zeros_is_undefined():
    p, zero = nn.Parameter(torch.tensor([3.0, -4.0])), nn.Parameter(torch.zeros(2))
    p.grad, zero.grad = -2 * p.detach(), torch.ones(2)
    assert nlm_alignment(p) == pytest.approx(1)
    assert math.isnan(nlm_alignment([p, zero], per_tensor=True)["1"])


class Squared(nn.Module):
    """A weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False, dtype=torch.float64)
        self.second = nn.Linear(3, 3, bias=False, dtype=torch.float64)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_the_degree_of_networks_is_found():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with seeded(0):
        plain = nn.Sequential(*(nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(3)))
        shared, biased = Squared(), mlp([3, 8, 2]).double()
    for model, degree in ((plain, 3), (shared, 2)):
        found = homogeneity_degree(model, x)
        assert found.degree == pytest.approx(degree, abs=1e-9)
        assert found.residual < 1e-12
    assert homogeneity_degree(biased, x).residual > 1e-4


def test_a_network_is_the_same_after_its_degree_was_found():
    with seeded(0):
        model = SmallResNet(4, (4, 8))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    homogeneity_degree(model.train(), torch.randn(4, 1, 28, 28))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.training


def fitted(lead):
    """A network of one input that gives class 1 a lead."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data.copy_(torch.tensor([[0.0], [lead]]))
    return model


def test_the_monitor_sees_collapse_and_alignment():
    model, x, y = fitted(20.0), torch.ones(6, 1), torch.ones(6, dtype=torch.long)
    monitor = NumericalStabilityMonitor(model, every=2)
    assert monitor.report().verdict == "nothing was seen yet"
    assert monitor.update(model(x), y) is None
    record = monitor.update(model(x), y)
    assert (record.step, record.accuracy, record.collapse, record.zero_loss, record.zero_gradient) == (2, 1, 1, 1, 1)
    assert (record.max_logit, record.margin, record.norms) == (20, 20, {"weight": 20})
    assert math.isnan(record.alignment)
    report = monitor.report()
    assert (report.fitted_at, report.collapsed_at, report.records) == (2, 2, (record,))
    assert "softmax collapse from step 2" in report.verdict


def test_the_monitor_tells_growing_logits_from_health():
    model, x, y = fitted(3.0), torch.ones(6, 1), torch.ones(6, dtype=torch.long)
    monitor = NumericalStabilityMonitor(model)
    logits = model(x)
    functional.cross_entropy(logits, y).backward()
    record = monitor.update(logits, y)
    assert record.alignment == pytest.approx(nlm_alignment(model))
    assert "along the weights" in monitor.report().verdict
    calm = NumericalStabilityMonitor(model)
    calm.update(logits, 0 * y)
    assert (calm.report().fitted_at, calm.report().verdict) == (None, "no sign of softmax collapse")


def test_the_monitor_says_nothing_of_collapse_for_a_stablemax_head_and_takes_other_precisions():
    model, x, y = fitted(20.0), torch.ones(6, 1), torch.ones(6, dtype=torch.long)
    stable = NumericalStabilityMonitor(torch.compile(model, backend="eager"), head="stablemax")
    record = stable.update(model(x), y)
    assert math.isnan(record.collapse)
    assert math.isnan(record.zero_loss)
    assert stable.report().collapsed_at is None
    double = NumericalStabilityMonitor(model, dtype=torch.float64)
    assert double.update(model(x), y).collapse == 0


@pytest.mark.parametrize(
    ("op", "function"), [("+", lambda a, b: a + b), ("-", lambda a, b: a - b), ("*", lambda a, b: a * b)]
)
def test_modular_arithmetic_has_every_pair_once(op, function):
    task = ModularArithmetic(op, p=7, train_fraction=0.3, random_state=2, encoding="tokens")
    (x, y), (x_test, y_test) = task.train, task.test
    assert (len(y), len(y_test), task.classes) == (14, 35, 7)
    pairs, targets = torch.cat([x, x_test]), torch.cat([y, y_test])
    assert sorted(map(tuple, pairs.tolist())) == [(a, b) for a in range(7) for b in range(7)]
    assert torch.equal(targets, function(pairs[:, 0], pairs[:, 1]) % 7)
    rows = ModularArithmetic(op, p=7, train_fraction=0.3, random_state=2)
    assert torch.equal(rows.train.x, functional.one_hot(x, 7).flatten(1).float())
    assert torch.equal(rows.train.y, y)
    assert not torch.equal(ModularArithmetic(op, p=7, train_fraction=0.3, encoding="tokens").train.x, x)


def test_sparse_parity_depends_on_the_first_bits_alone():
    task = SparseParity(n=300, parity_bits=2, noise_bits=5, train_fraction=0.25)
    assert (task.train.x.shape, len(task.test.y), task.classes) == ((75, 7), 225, 2)
    for x, y in (task.train, task.test):
        assert torch.equal(x[:, 0].logical_xor(x[:, 1]).long(), y)
        assert set(x.unique().tolist()) == {0, 1}


def test_complex_weights_are_pairs_of_real_ones():
    w = torch.tensor([3 + 4j, 1j], requires_grad=True)
    w.grad = torch.tensor([-3j, 1 + 0j])
    pairs = torch.view_as_real(w.detach()).requires_grad_()
    pairs.grad = torch.view_as_real(w.grad)
    assert nlm_alignment([w]) == nlm_alignment([pairs]) != 0
    model = nn.Linear(3, 2, bias=False, dtype=torch.complex128)
    degree, residual = homogeneity_degree(model, 1j * torch.eye(3, dtype=torch.complex128))
    assert degree == pytest.approx(1)
    assert residual < 1e-12


def test_norms_of_half_precision_do_not_overflow():
    model = nn.Linear(2, 2, bias=False).half()
    model.weight.data.fill_(60_000)
    record = NumericalStabilityMonitor(model).update(torch.ones(1, 2).half(), torch.tensor([0]))
    assert record.norms == {"weight": 120_000}


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_are_refused_by_name():
    two, y = torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)
    meta = nn.Linear(2, 2, device="meta")
    for act, error, message in [
        (lambda: softmax_collapse(torch.ones(2, 2, dtype=torch.long)), ValueError, "logits is torch.int64"),
        (lambda: softmax_collapse(two, torch.int32), ValueError, "dtype is torch.int32"),
        (lambda: softmax_collapse(two, dim=2), ValueError, "dim is 2"),
        (lambda: softmax_collapse(two[:0]), ValueError, "logits has shape"),
        (lambda: softmax_collapse(two / 0), ValueError, "logits has 4 NaN"),
        (lambda: softmax_collapse(two + 1e5, torch.float16), ValueError, "logits in torch.float16 has 4 NaN"),
        (lambda: softmax_collapse(torch.tensor(1.0)), ValueError, "logits has no axis"),
        (lambda: softmax_collapse(two.to("meta")), ValueError, "meta device"),
        (lambda: softmax_collapse([[1.0, 2.0]]), TypeError, "logits is a list"),
        (lambda: softmax_collapse(two, "float16"), TypeError, "dtype is 'float16'"),
        (lambda: softmax_collapse(two, dim=1.0), TypeError, "dim is 1.0"),
        (lambda: zero_loss_fraction(two, [0, 1]), TypeError, "targets is a list"),
        (lambda: zero_loss_fraction(two, y + 0j), ValueError, "targets has shape"),
        (lambda: collapse_margin("float32"), TypeError, "dtype"),
        (lambda: zero_loss_fraction(two, y + 2), ValueError, "targets are 2 to 2"),
        (lambda: zero_gradient_fraction(two, y[:1]), ValueError, "targets has shape"),
        (lambda: collapse_margin(torch.int8), ValueError, "dtype"),
        (lambda: collapse_margin(classes=1), ValueError, "classes"),
        (lambda: nlm_alignment(nn.Linear(2, 2)), ValueError, "no gradient"),
        (lambda: nlm_alignment(meta), ValueError, "meta device"),
        (lambda: nlm_alignment([1.0]), TypeError, "params has a float"),
        (lambda: nlm_alignment(1.0), TypeError, "params is a float"),
        (lambda: homogeneity_degree(torch.relu, two), TypeError, "model is a builtin"),
        (lambda: homogeneity_degree(nn.GRU(2, 2), two), TypeError, "model returns a tuple"),
        (lambda: homogeneity_degree(nn.Linear(2, 2), two, 1 + 1e-12), ValueError, "factor is 1.0"),
        (lambda: homogeneity_degree(meta, two), ValueError, "meta device"),
        (lambda: homogeneity_degree(nn.Linear(2, 2), two, 1.0), ValueError, "factor is 1"),
        (lambda: homogeneity_degree(nn.Linear(2, 2, bias=False), two), ValueError, "all 0"),
        (lambda: NumericalStabilityMonitor(meta), ValueError, "meta device"),
        (lambda: NumericalStabilityMonitor(nn.Linear(2, 2).parameters()), TypeError, "model is a generator"),
        (lambda: NumericalStabilityMonitor(nn.Linear(2, 2), dtype=torch.int32), ValueError, "dtype"),
        (lambda: NumericalStabilityMonitor(nn.Linear(2, 2), dtype="half"), TypeError, "dtype"),
        (lambda: NumericalStabilityMonitor(nn.Linear(2, 2), 0), ValueError, "every"),
        (lambda: NumericalStabilityMonitor(nn.Linear(2, 2), head="sigmoid"), ValueError, "head"),
        (lambda: NumericalStabilityMonitor(nn.Linear(2, 2)).update(two, y + 2), ValueError, "targets are 2 to 2"),
        (lambda: ModularArithmetic("/"), ValueError, "op"),
        (lambda: ModularArithmetic("+", 1), ValueError, "p is 1"),
        (lambda: ModularArithmetic("+", 5, 1.0), ValueError, "train_fraction"),
        (lambda: ModularArithmetic("+", 5, 0.01), ValueError, "train_fraction"),
        (lambda: ModularArithmetic("+", 5, encoding="binary"), ValueError, "encoding"),
        (lambda: SparseParity(1), ValueError, "n is 1"),
        (lambda: SparseParity(parity_bits=0), ValueError, "parity_bits"),
        (lambda: SparseParity(train_fraction=0), ValueError, "train_fraction"),
    ]:
        with pytest.raises(error, match=message):
            act()
