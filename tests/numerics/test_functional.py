"""Modules are called with other tensors, and left as they were."""

import pytest
import torch
from torch import nn

from paperworks.numerics import Curvature, FrozenCurvature, functional_call, per_sample_gradients


def twice():
    torch.manual_seed(0)
    part = nn.Linear(2, 2, dtype=torch.float64)
    return nn.Sequential(part, nn.Tanh(), part)


def tied():
    torch.manual_seed(0)
    first, last = nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 2, dtype=torch.float64)
    last.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), last)


X = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)


@pytest.mark.parametrize("make", [twice, tied])
@pytest.mark.parametrize("names", [["0.weight"], ["2.weight"], ["0.weight", "2.weight"]])
def test_one_name_stands_for_all_places(make, names):
    module, other = make(), make()
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    held = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        other[0].weight.copy_(weight)
    assert torch.equal(functional_call(module, dict.fromkeys(names, weight), (X,)), other(X))
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert all(p is held[name] for name, p in module.named_parameters(remove_duplicate=False))


def test_buffers_of_a_part_that_stands_twice_are_its_own_again():
    part = nn.BatchNorm1d(2, dtype=torch.float64)
    module = nn.Sequential(part, nn.Tanh(), part)
    given = {name: torch.full_like(b, 7) for name, b in module.named_buffers()}
    functional_call(module, given, (X,))
    assert part.running_mean.tolist() == [0, 0]
    assert given["0.running_mean"].tolist() != [7, 7]  # what training changes is what was given


def test_names_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"tensors names '0\.weigth'"):
        functional_call(twice(), {"0.weigth": torch.zeros(2, 2)}, (X,))


@pytest.mark.parametrize("make", [twice, tied])
def test_derivatives_leave_shared_parts_as_they_were(make):
    module, loss = make(), lambda f, y: (f - y).square().mean()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    batches = [(X, torch.zeros_like(X))]
    v = torch.ones(sum(p.numel() for p in module.parameters()), 1, dtype=torch.float64)
    direct = Curvature(module, loss, batches, kind="hessian").products(v)
    frozen = FrozenCurvature(module, loss, batches, kind="hessian").products(v)
    rows = per_sample_gradients(module, loss, batches)
    loss(module(X), torch.zeros_like(X)).backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(direct, frozen)
    torch.testing.assert_close(rows.mean(0), gradient)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
