"""Every exported attack on observations: what it may touch, where it may go, and that rows and seeds count alone."""

import inspect
import math
import pickle

import pytest
import torch
from torch import nn

from conformance.discovery import Export
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, arguments
from paperworks.robustness import PGD, AttackResult, CrossEntropyLoss

pytestmark = pytest.mark.usefixtures("untyped")

EPS = 0.3
OBS = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def policy(dtype: torch.dtype = torch.float64) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(5, 3)
    layer.weight.data, layer.bias.data = torch.randn(3, 5, generator=generator), torch.zeros(3)
    return nn.Sequential(layer, nn.Tanh(), nn.Dropout(0.0)).to(dtype)


VALUES = {
    "loss": CrossEntropyLoss,
    "eps": lambda: EPS,
    "attack": lambda: PGD(CrossEntropyLoss(), EPS, steps=5),
    "eps_list": lambda: [EPS / 2, EPS],
}


def made(subject: Subject, **options):
    thing = subject.export.thing
    options = {"eps": EPS, **options}
    taken = options.keys() & inspect.signature(thing).parameters.keys()
    more = {name: options[name] for name in taken}
    for cls in thing.__mro__[1:]:  # an attack hands on what it doesn't name to the one it extends
        if "options" in inspect.signature(thing).parameters and hasattr(cls, "__init__"):
            names = inspect.signature(cls).parameters if cls is not object else {}
            more |= {name: value for name, value in options.items() if name in names}
    if "attack" in inspect.signature(thing).parameters:
        more["attack"] = PGD(CrossEntropyLoss(), steps=5, **options)
    return thing(**arguments(thing, VALUES, subject.options) | more)


SUITE = Suite("attack")


@SUITE.check
def what_it_gets_is_left_alone(subject):
    model, obs = policy().train(), OBS.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    result = made(subject)(model, obs)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(obs, OBS)
    assert result.adv.data_ptr() != obs.data_ptr()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training


@SUITE.check
def it_returns_what_attacks_return(subject):
    result = made(subject)(policy(), OBS)
    assert isinstance(result, AttackResult)
    assert result.adv.shape == OBS.shape
    assert all(len(column) == len(OBS) for column in (result.success, result.norm, result.n_grad, result.loss))
    assert not any(column.requires_grad for column in (result.adv, result.norm, result.loss))
    assert (result.adv - OBS).abs().max() > 0


@SUITE.check
def it_stays_where_it_may(subject):
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=OBS.dtype)
    for norm in (math.inf, 2, 1):
        result = made(subject, norm=norm, mask=mask)(policy(), OBS)
        change = result.adv - OBS
        size = torch.linalg.vector_norm(change, norm, dim=1)
        assert (size <= EPS * (1 + 1e-6)).all()
        assert torch.allclose(size, result.norm)
        assert (change[:, 2] == 0).all()
        assert result.adv.min() >= 0
        assert result.adv.max() <= 1


@SUITE.check
def success_is_what_the_policy_says(subject):
    model = policy()
    result = made(subject)(model, OBS)
    changed = model(result.adv).argmax(1) != model(OBS).argmax(1)
    assert torch.equal(result.success, changed)


@SUITE.check
def bad_observations_are_refused_by_name(subject):
    broken = OBS.clone()
    broken[0, 0] = float("nan")
    for obs in (broken, OBS[0], (10 * OBS).long(), OBS + 5):
        with pytest.raises((ValueError, TypeError), match=r"^obs "):
            made(subject)(policy(), obs)


@SUITE.check
def a_policy_without_a_gradient_is_refused(subject):
    with pytest.raises(ValueError, match="model"):
        made(subject)(nn.Sequential(policy(), Rounded()), OBS)


class Rounded(nn.Module):
    def forward(self, x):
        return x.detach().round()


@SUITE.check
def precision_and_device_are_kept(subject):
    for device in DEVICES:
        for dtype in (torch.float32, torch.float64):
            result = made(subject)(policy(dtype).to(device), OBS.to(device, dtype))
            assert (result.adv.dtype, result.adv.device.type) == (dtype, device)


@SUITE.check
def a_batch_is_its_rows(subject):
    model, attack = policy(), made(subject)
    rows = torch.cat([attack(model, row[None]).adv for row in OBS])
    assert (attack(model, OBS).adv - rows).abs().max() < 1e-9


@SUITE.check
def runs_repeat_and_seeds_count(subject):
    model = policy()
    try:
        first, second, other = (made(subject, restarts=3, random_state=seed) for seed in (0, 0, 1))
    except TypeError:
        first = second = made(subject)  # draws nothing
        other = None
    assert torch.equal(first(model, OBS).adv, first(model, OBS).adv)
    assert torch.equal(first(model, OBS).adv, second(model, OBS).adv)
    assert other is None or isinstance(other(model, OBS), AttackResult)


@SUITE.check
def it_can_be_pickled(subject):
    attack = made(subject)
    again = pickle.loads(pickle.dumps(attack))
    assert torch.equal(attack(policy(), OBS).adv, again(policy(), OBS).adv)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_attacks(check, subject):
    check(subject)


class Careless:
    """An attack that breaks each rule."""

    def __init__(self, loss, eps, norm=math.inf, mask=None):
        self.forget = lambda: None

    def __call__(self, model, obs):
        model.eval()
        obs.add_(torch.rand(()) + obs.nan_to_num().double().mean())
        return obs.float()


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_each_check_catches_a_careless_attack(check):
    before = OBS.clone()
    try:
        with pytest.raises(CAUGHT):
            check(Subject(Export("robustness", "Careless", Careless)))
    finally:
        OBS.copy_(before)
