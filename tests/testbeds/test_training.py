import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from paperworks.testbeds.data import digits
from paperworks.testbeds.networks import Classifier
from paperworks.testbeds.training import Muon, accuracy, fit


def cross_entropy(network, images, labels, generator):
    return functional.cross_entropy(network(images), labels)


def trained(steps, seed=0, **options):
    torch.manual_seed(3)
    return fit(
        Classifier(8, width=8), cross_entropy, digits(), steps=steps, batch_size=64, random_state=seed, **options
    )


def test_a_classifier_learns():
    images = digits()
    before = accuracy(Classifier(8, width=8), images[:], images.labels)
    seen = []
    network = trained(150, progress=lambda items, label: (seen.append(i) or i for i in items))
    assert before < 0.3
    assert accuracy(network, images[:], images.labels) > 0.9
    assert seen == list(range(150))
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


def test_same_seed_same_weights():
    first, same, other = trained(5), trained(5), trained(5, seed=1)
    for a, b, c in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_updates_of_matrices_are_nearly_orthogonal(rows, columns, seed, scale):
    g = torch.Generator().manual_seed(seed)
    weight = torch.zeros(rows, columns, requires_grad=True)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=g))
    right, _ = torch.linalg.qr(torch.randn(columns, columns, generator=g))
    rank = min(rows, columns)
    weight.grad = scale * left[:, :rank] * torch.linspace(1, 0.3, rank) @ right[:, :rank].T
    Muon([weight], lr=0.1).step()
    found = torch.linalg.svdvals(weight.detach()) / (0.1 * max(1, rows / columns) ** 0.5)
    assert found.max() < 1.3
    assert found.min() > 0.6
    # It goes downhill, along the singular directions of the gradient.
    assert torch.allclose(
        (left.T @ -weight.detach() @ right)[:rank, :rank].diagonal().sort().values,
        torch.linalg.svdvals(weight.detach()).sort().values,
        atol=1e-3,
    )


def test_muon_without_gradients_leaves_weights_alone():
    weight = torch.ones(2, 2, requires_grad=True)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_bad_loss_surfaces():
    def broken(network, images, labels, generator):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Classifier(8, width=8), broken, digits(), steps=1)
