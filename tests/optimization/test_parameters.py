"""Parameters as one vector, and schedules."""

import pytest
import torch

from paperworks.optimization import ExponentialDecay, FlatView, PolynomialDecay


def test_a_vector_goes_in_and_comes_out():
    layer = torch.nn.Linear(3, 2)
    view = FlatView([*layer.parameters(), layer.weight])  # tied weights count once
    assert len(view) == 8
    assert torch.equal(view.gradient(), torch.zeros(8))
    layer(torch.ones(3)).sum().backward()
    assert torch.equal(view.gradient(), torch.ones(8))
    view.copy_(torch.arange(8.0))
    view.add_(torch.ones(8, dtype=torch.float64), alpha=2)
    assert torch.equal(view.vector(), torch.arange(8.0) + 2)
    assert torch.equal(layer.bias, torch.tensor([8.0, 9.0]))
    assert layer.weight.grad_fn is None


def test_bad_parameters_are_named():
    with pytest.raises(ValueError, match="params is empty"):
        FlatView([])
    with pytest.raises(TypeError, match=r"torch\.int64"):
        FlatView([torch.arange(3)])
    with pytest.raises(ValueError, match="vector has shape"):
        FlatView([torch.zeros(3)]).copy_(torch.zeros(2))


def test_schedules_decay_as_they_say():
    assert PolynomialDecay(2.0)(100) == 2.0
    assert PolynomialDecay(2.0, power=1 / 3, offset=10)(70) == pytest.approx(1.0)
    assert ExponentialDecay(2.0, 100, 0.25)(50) == pytest.approx(1.0)
    for bad in (lambda: PolynomialDecay(0.0), lambda: PolynomialDecay(1.0, -1), lambda: ExponentialDecay(1.0, 0, 0.5)):
        with pytest.raises(ValueError, match="it takes"):
            bad()
