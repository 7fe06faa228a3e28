import pytest
import torch

from paperworks.testbeds.networks import Classifier, UNet


def noisy(network, seed=0):
    """Give every weight a value, also those that begin at zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return network.eval()


@pytest.mark.parametrize(("side", "widths", "patch"), [(28, (8, 16, 16), 2), (8, (8, 16), 1), (28, (8,), 4)])
def test_shapes_and_dependence_on_all_inputs(side, widths, patch):
    network = noisy(UNet(widths, patch, classes=3))
    x = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(1))
    level, label = torch.tensor([0.3, -1.0]), torch.tensor([0, 2])
    y = network(x, level, label)
    assert y.shape == x.shape
    assert not torch.allclose(y, network(x + 0.1, level, label))
    assert not torch.allclose(y, network(x, level + 0.1, label))
    assert not torch.allclose(y, network(x, level, torch.tensor([1, 1])))


def test_samples_do_not_mix():
    network = noisy(UNet((8, 16), classes=3))
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    level, label = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0, 2, 3])
    together = network(x, level, label)
    alone = torch.cat([network(x[i : i + 1], level[i : i + 1], label[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_no_class_and_embeddings_of_ones_own():
    network = noisy(UNet((8, 16), classes=3))
    x, level = torch.zeros(2, 1, 28, 28), torch.zeros(2)
    assert torch.equal(network(x, level), network(x, level, torch.tensor([3, 3])))
    embedded = network.embed_class(torch.tensor([1, 0]))
    assert torch.equal(network(x, level, embedded), network(x, level, torch.tensor([1, 0])))


def test_a_new_network_answers_zero():
    assert torch.equal(UNet((8, 16))(torch.ones(1, 1, 28, 28), torch.zeros(1)), torch.zeros(1, 1, 28, 28))


def test_a_network_without_classes_takes_no_condition():
    with pytest.raises(ValueError, match="made without classes"):
        UNet((8, 16))(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.tensor([0]))


@pytest.mark.parametrize("side", [8, 28])
def test_classifier_reads_out_its_features(side):
    network = Classifier(side, classes=4, width=8)
    x = torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), network.out(network.features(x)))
    assert network.features(x).shape == (3, 32)
