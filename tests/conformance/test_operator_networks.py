"""Every exported operator network: a map of fields on grids. The examples at the end prove the checks."""

import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.discovery import Export, asks_for, kind_of, parameters
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, arguments
from paperworks.operators import ScOTConfig

pytestmark = pytest.mark.usefixtures("untyped")

CHANNELS = 2
# What an operator network is made with, by the field's usual names.
VALUES = {name: lambda: CHANNELS for name in ("in_channels", "out_channels", "channels")} | {
    name: lambda: 8 for name in ("width", "hidden", "dim")
}
# Networks that are made from a configuration of theirs, without conditioning on time.
VALUES["config"] = lambda: ScOTConfig(16, 2, CHANNELS, CHANNELS, 8, (2, 2), (2, 4), (1, 0), 4, time_conditioning=False)


def backbone() -> nn.Module:
    """What networks that are made of networks take."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 8, 3, padding=1, padding_mode="circular"),
        nn.GELU(),
        nn.Conv2d(8, CHANNELS, 3, padding=1, padding_mode="circular"),
    )


VALUES["backbone_factory"] = lambda: backbone


def made(subject: Subject, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    thing = subject.export.thing
    # Channels that have a default are given too: the fields of this suite have their own.
    given = {name: CHANNELS for name in ("in_channels", "out_channels", "channels") if asks_for(subject.export, name)}
    network = thing(**arguments(thing, VALUES, given | dict(subject.options))).double().eval()
    for p in network.parameters():
        if not p.any():  # layers that start at zero hide what stands before them
            nn.init.normal_(p, std=0.1)
    return network


def fields(subject: Subject, side: int = 16, batch: int = 3) -> Tensor:
    """Smooth fields on a grid of as many dimensions as the network says, two by default."""
    dimensions = getattr(subject.export.thing, "grid_dimensions", 2)
    axis = torch.linspace(0, 6, side + 1, dtype=torch.float64)[:-1]
    grid = sum(torch.meshgrid(*[axis] * dimensions, indexing="ij"))
    phases = torch.arange(batch * CHANNELS, dtype=torch.float64).reshape(batch, CHANNELS, *[1] * dimensions)
    found = torch.sin(grid + phases)
    return found[:, None] if of_blocks(subject) else found


def of_blocks(subject: Subject) -> bool:
    """Whether a network maps blocks of states, whose times stand before the channels."""
    return "block" in parameters(subject.export.thing.forward)


def narrow(export: Export) -> list[Subject]:
    """A narrow one, where the width is a choice: the contract is the same, and the paper's may take minutes."""
    return [Subject(export, {"width": 8} if asks_for(export, "width") else {})]


SUITE = Suite("operator network", narrow)


@SUITE.check
def it_maps_fields_and_leaves_them_alone(subject):
    x = fields(subject)
    y = made(subject)(x)
    assert torch.equal(x, fields(subject))
    assert y.shape[0] == x.shape[0]
    assert torch.isfinite(y).all()
    assert not torch.equal(y, x)


@SUITE.check
def another_grid_is_taken(subject):
    network = made(subject)
    coarse, fine = network(fields(subject, 16)), network(fields(subject, 32))
    assert fine.shape[-1] == 2 * coarse.shape[-1]


@SUITE.check
def a_batch_is_its_rows(subject):
    network, x = made(subject), fields(subject)
    rows = torch.cat([network(row[None]) for row in x])
    assert (network(x) - rows).abs().max() < 1e-10


@SUITE.check
def nan_stays_in_its_row_and_shows(subject):
    x = fields(subject)
    x[0].view(-1)[0] = float("nan")
    try:
        y = made(subject)(x)
    except ValueError:
        return
    assert not torch.isfinite(y[0]).all()
    assert torch.isfinite(y[1:]).all()


@SUITE.check
def other_channels_are_refused(subject):
    for bad in (fields(subject).narrow(2 if of_blocks(subject) else 1, 0, 1), fields(subject)[0, 0]):
        with pytest.raises(ValueError, match=r"shape|channels"):
            made(subject)(bad)


@SUITE.check
def seeds_repeat_and_differ(subject):
    x = fields(subject)
    assert torch.equal(made(subject)(x), made(subject)(x))
    assert not torch.equal(made(subject)(x), made(subject, 1)(x))


@SUITE.check
def its_state_makes_it_again(subject):
    first, second, x = made(subject), made(subject, 1), fields(subject)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), pickle.loads(pickle.dumps(first))(x))


@SUITE.check
def gradients_reach_every_parameter_and_the_input(subject):
    network, x = made(subject), fields(subject).requires_grad_()
    network(x).square().sum().backward()
    assert x.grad is not None
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@SUITE.check
def precision_and_device_are_kept(subject):
    for device in DEVICES:
        for dtype in (torch.float32, torch.float64):
            y = made(subject).to(device, dtype)(fields(subject).to(device, dtype))
            assert (y.dtype, y.device.type) == (dtype, device)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_operator_networks(check, subject):
    check(subject)


class Right(nn.Module):
    """Two periodic convolutions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, padding_mode="circular"),
            nn.GELU(),
            nn.Conv2d(width, channels, 3, padding=1, padding_mode="circular"),
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; it takes (batch, {self.channels}, height, width)")
        return self.layers(x)


class Careless(nn.Module):
    """One that breaks each rule."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(1))
        self.forget = lambda: None

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return x.nan_to_num_().mul_(1 + x.mean().detach()).float().flatten(1)[:, :8] + torch.rand(()) * 0


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_a_right_one_passes_each_check_and_a_careless_one_fails(check):
    example = Export("operators", "Right", Right)
    assert kind_of(example) == "operator network"
    assert inspect.isclass(example.thing)
    check(Subject(example))
    with pytest.raises(CAUGHT):
        check(Subject(Export("operators", "Careless", Careless)))
