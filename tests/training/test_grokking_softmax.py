"""Tests of StableMax and its cross-entropy: exact values, all options of torch's loss, transforms and refusals."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from paperworks.training import (
    LogStableMax,
    StableMax,
    StableMaxCrossEntropyLoss,
    log_stablemax,
    stablemax,
    stablemax_cross_entropy,
)

EPS = torch.finfo(torch.float64).eps


def s(x):
    return torch.where(x < 0, 1 / (1 - x.clamp(max=0)), 1 + x)


def randn(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape, count=5, seed=1):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def reference(z, y, **options):
    """Torch's loss at log s(z), written with other operations."""
    return functional.cross_entropy(s(z).log(), y, **options)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_it_is_s_over_the_sum_of_s(dim):
    z = randn(6, 7, scale=50)
    expected = s(z) / s(z).sum(dim, keepdim=True)
    torch.testing.assert_close(stablemax(z, dim), expected, rtol=8 * EPS * 6, atol=0)
    torch.testing.assert_close(log_stablemax(z, dim), expected.log(), rtol=8 * EPS, atol=8 * EPS)


def test_log_s_is_the_symmetric_logarithm():
    z = torch.tensor([-1e6, -3.0, -1e-12, 0.0, 1e-12, 3.0, 1e6], dtype=torch.float64)
    symlog = z.sign() * z.abs().log1p()
    pairs = torch.stack([z, torch.zeros_like(z)], 1)  # s(0) is 1
    found = log_stablemax(pairs)[:, 0] - log_stablemax(pairs)[:, 1]
    torch.testing.assert_close(found, symlog, rtol=8 * EPS, atol=8 * EPS)


def test_its_derivative_at_0_is_1_and_it_is_not_shift_invariant():
    z = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    stablemax_cross_entropy(z, torch.tensor([2])).backward()
    assert z.grad.tolist() == [[0.25, 0.25, -0.75, 0.25]]
    assert not torch.allclose(stablemax(randn(5)), stablemax(randn(5) + 1))


def test_its_gradient_is_that_of_the_closed_form_and_never_rounds_to_0():
    z = torch.tensor([[400.0, 1.0, -3.0]], requires_grad=True)
    y = torch.tensor([0])
    stablemax_cross_entropy(z, y).backward()
    expected = (stablemax(z) - functional.one_hot(y, 3)) / (1 + z.abs())
    torch.testing.assert_close(z.grad, expected.detach(), rtol=1e-4, atol=0)
    softmax = z.detach().clone().requires_grad_()
    functional.cross_entropy(softmax, y).backward()
    assert not softmax.grad.any()
    assert z.grad.all()


OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"ignore_index": 2},
    {"ignore_index": 2, "reduction": "sum"},
    {"label_smoothing": 0.2},
    {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0], dtype=torch.float64)},
    {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0], dtype=torch.float64), "label_smoothing": 0.3, "ignore_index": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}" for k in o) or "defaults")
@pytest.mark.parametrize("shape", [(5,), (9, 5), (4, 5, 3), (2, 5, 3, 2)], ids=str)
def test_it_has_all_that_cross_entropy_has(shape, options):
    z = randn(*shape).requires_grad_()
    y = classes(*shape[:1], *shape[2:]) if len(shape) > 1 else classes()
    w = z.detach().clone().requires_grad_()
    found, expected = stablemax_cross_entropy(z, y, **options), reference(w, y, **options)
    torch.testing.assert_close(found, expected, equal_nan=True)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(z.grad, w.grad, equal_nan=True)


def test_it_takes_probabilities():
    z, y = randn(6, 5), randn(6, 5, seed=2).softmax(1)
    torch.testing.assert_close(stablemax_cross_entropy(z, y, label_smoothing=0.1), reference(z, y, label_smoothing=0.1))
    assert stablemax_cross_entropy(z.float(), y.float()).dtype == torch.float64


def test_places_that_do_not_count_have_no_gradient_and_none_that_count_no_mean():
    z, y = randn(4, 5).requires_grad_(), torch.tensor([1, -100, 2, -100])
    stablemax_cross_entropy(z, y).backward()
    assert not z.grad[[1, 3]].any()
    assert z.grad[[0, 2]].all()
    w, none = randn(2, 5).requires_grad_(), torch.full((2,), -100)
    loss = stablemax_cross_entropy(w, none)
    loss.backward()
    assert loss.isnan() == functional.cross_entropy(randn(2, 5), none).isnan()
    assert not w.grad.any()


def test_many_rows_in_chunks_are_as_few(monkeypatch):
    from paperworks.training.grokking import softmax

    z, y = randn(23, 5).requires_grad_(), classes(23)
    whole = stablemax_cross_entropy(z, y)
    (gradient,) = torch.autograd.grad(whole, z)
    monkeypatch.setattr(softmax, "_CHUNK", 10)
    parts = stablemax_cross_entropy(z, y)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, z)[0], gradient)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["in chunks", "whole"])
def test_gradients_can_be_differentiated_again_and_taken_twice(options):
    z, y = randn(4, 5).requires_grad_(), torch.tensor([0, 1, -100, 4])
    assert torch.autograd.gradcheck(lambda x: stablemax_cross_entropy(x, y, **options), z)
    assert torch.autograd.gradgradcheck(lambda x: stablemax_cross_entropy(x, y, **options), z)
    loss = stablemax_cross_entropy(z, y, **options)
    first, second = (torch.autograd.grad(loss, z, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_it_goes_through_transforms_and_forward_mode():
    z, y = randn(3, 4, 5), classes(3, 4)
    each = torch.stack([stablemax_cross_entropy(a, b) for a, b in zip(z, y, strict=True)])
    torch.testing.assert_close(torch.func.vmap(stablemax_cross_entropy)(z, y), each)
    gradient = torch.func.grad(stablemax_cross_entropy)(z[0], y[0])
    tangent = randn(4, 5, seed=4)
    _, along = torch.func.jvp(lambda x: stablemax_cross_entropy(x, y[0]), (z[0],), (tangent,))
    torch.testing.assert_close(along, (gradient * tangent).sum())


def test_hessians_are_those_of_one_row_after_another():
    z, y = randn(2, 3), torch.tensor([0, 2])
    for options in ({}, {"label_smoothing": 0.1}):
        hessians = [
            torch.autograd.functional.hessian(lambda x: stablemax_cross_entropy(x, y, **options), z, vectorize=at_once)  # noqa: B023
            for at_once in (False, True)
        ]
        torch.testing.assert_close(*hessians)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}" for k in o) or "defaults")
def test_it_can_be_compiled_without_breaks(options):
    z, y = randn(4, 5), classes(4)
    z[0, :3] = torch.tensor([0.0, -0.0, 1e300], dtype=z.dtype)
    torch._dynamo.reset()
    found = []
    for loss in (stablemax_cross_entropy, torch.compile(stablemax_cross_entropy, backend="eager", fullgraph=True)):
        x = z.clone().requires_grad_()
        values = loss(x, y, **options)
        values.sum().backward()
        found.append((values, x.grad))
    torch.testing.assert_close(*found)
    for function in (stablemax, log_stablemax):
        torch.testing.assert_close(torch.compile(function, backend="eager", fullgraph=True)(z), function(z))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_is_kept_and_half_precision_computed_in_single(dtype):
    z = torch.tensor([[60_000.0, 1.0, -60_000.0]]).to(dtype).requires_grad_()
    assert stablemax(z).dtype == log_stablemax(z).dtype == dtype
    assert stablemax(z, dtype=torch.float64).dtype == torch.float64
    loss = stablemax_cross_entropy(z, torch.tensor([1]), compute_dtype=None)
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert z.grad.dtype == dtype
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    exact = stablemax_cross_entropy(z.detach().double(), torch.tensor([1]))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 1e-9}], ids=["in chunks", "whole"])
def test_a_scaled_loss_keeps_small_gradients_of_half_precision(options):
    z = torch.tensor([[20_000.0, 1.0, 0.0], [3.0, 2.0, 1.0]]).half().requires_grad_()
    scale, y = 2.0**16, torch.tensor([0, 1])  # the first of a GradScaler, more than half precision holds
    (scale * stablemax_cross_entropy(z, y, **options)).backward()
    exact = z.detach().double().requires_grad_()
    (scale * stablemax_cross_entropy(exact, y)).backward()
    assert not (exact.grad / scale).half()[0, 0]  # which is too small where it isn't scaled
    torch.testing.assert_close(z.grad.double(), exact.grad, rtol=1e-3, atol=0)


def test_quarter_precision_is_computed_in_single():
    z = torch.tensor([[0.0, 1.0, -1.0]])
    found = stablemax(z.to(torch.float8_e4m3fn))
    assert found.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(found.float(), stablemax(z), rtol=0.07, atol=0)
    assert stablemax_cross_entropy(z.to(torch.float8_e4m3fn), torch.tensor([1]), compute_dtype=None) > 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 5, 2), (2, 5, 0)], ids=str)
def test_without_samples_or_classes_it_is_as_cross_entropy(shape, reduction):
    z, y = torch.zeros(shape, dtype=torch.float64, requires_grad=True), torch.full((shape[0], *shape[2:]), -100)
    found = stablemax_cross_entropy(z, y, reduction=reduction)
    torch.testing.assert_close(found, reference(z, y, reduction=reduction), equal_nan=True)
    found.sum().backward()
    assert z.grad.shape == shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_may_be_of_any_whole_numbers(dtype):
    for shape in ((4, 5), (2, 5, 3)):
        z, y = randn(*shape), classes(*shape[:1], *shape[2:])
        assert stablemax_cross_entropy(z, y.to(dtype)) == stablemax_cross_entropy(z, y)


def test_under_autocast_it_is_in_its_own_precision():
    layer = nn.Linear(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(torch.ones(3, 4))
        loss = stablemax_cross_entropy(logits, torch.tensor([0, 1, 2]))
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float64)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32


def test_modules_do_as_the_functions():
    z, y = randn(6, 5), classes(6)
    assert torch.equal(StableMax(1)(z), stablemax(z, 1))
    assert torch.equal(LogStableMax(0)(z), log_stablemax(z, 0))
    assert "dim=1" in repr(StableMax(1))
    loss = StableMaxCrossEntropyLoss(torch.arange(5.0), label_smoothing=0.1, reduction="sum", compute_dtype=None)
    expected = stablemax_cross_entropy(
        z, y, torch.arange(5.0), label_smoothing=0.1, reduction="sum", compute_dtype=None
    )
    for module in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(module(z, y), expected)
    assert list(loss.state_dict()) == ["weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3, dtype=torch.long), torch.tensor([0, 1])), "input is of torch.int64"),
        ((torch.ones(2, 3, dtype=torch.complex64), torch.tensor([0, 1])), "input is of torch.complex64"),
        ((torch.ones(2, 3), torch.tensor([0, 3])), "target has class 3"),
        ((torch.ones(2, 3), torch.tensor([0, -1])), "target has class -1"),
        ((torch.ones(2, 3, 1), torch.tensor([[0], [3]])), "target"),
        ((torch.ones(2, 3), torch.tensor([0, 1, 2])), "target has shape"),
        ((torch.ones(2, 3), torch.ones(2, 4)), "target has shape"),
        ((torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(4)), "weight"),
        ((torch.ones(2, 3), torch.ones(2, dtype=torch.complex64)), "target is of torch.complex64"),
        ((torch.ones(2, 0), torch.tensor([0, 0])), "target"),
        ((torch.tensor(1.0), torch.tensor(0)), "input has no axis"),
        ((torch.ones(2, 3), torch.tensor([0, 1]), None, -100, "max"), "reduction"),
        ((torch.ones(2, 3), torch.tensor([0, 1]), None, -100, "mean", 1.5), "label_smoothing"),
        ((torch.ones(2, 3), torch.tensor([0, 1]), None, -100, "mean", 0.0, torch.int32), "dtype is torch.int32"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_arguments_of_the_loss_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        stablemax_cross_entropy(*arguments)


@pytest.mark.usefixtures("untyped")
def test_other_bad_arguments_are_refused_by_name():
    for dim in (2, -3):
        with pytest.raises(ValueError, match="dim is"):
            stablemax(torch.ones(2, 2), dim)
    with pytest.raises(TypeError, match="dim is"):
        log_stablemax(torch.ones(2), 0.5)
    with pytest.raises(TypeError, match="input is a list"):
        stablemax([1.0])
    with pytest.raises(TypeError, match="target is a list"):
        stablemax_cross_entropy(torch.ones(1, 2), [0])
    for bad in ("float32", float):
        with pytest.raises(TypeError, match="dtype is"):
            stablemax_cross_entropy(torch.ones(1, 2), torch.tensor([0]), compute_dtype=bad)
    for bad in (None, 1.5, "none"):
        with pytest.raises(TypeError, match="ignore_index is"):
            stablemax_cross_entropy(torch.ones(1, 2), torch.tensor([0]), None, bad)
    with pytest.raises(TypeError, match="weight is a list"):
        stablemax_cross_entropy(torch.ones(1, 2), torch.tensor([0]), [1.0, 2.0])
    with pytest.raises(ValueError, match="dtype is"):
        stablemax(torch.ones(2), dtype=torch.int64)
    with pytest.raises(ValueError, match="reduction"):
        StableMaxCrossEntropyLoss(reduction="median")
