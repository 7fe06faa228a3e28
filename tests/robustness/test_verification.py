"""Verification: answers and least margins of small networks, held against the enumeration of all their pieces."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from paperworks.robustness import (
    PGD,
    BoundedModule,
    Property,
    Verdict,
    robustness_property,
    verify,
    verify_robustness,
)
from paperworks.robustness.bounds.parts import PartBounds


def perceptron(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def least_margin(model: nn.Sequential, prop: Property) -> float:
    """Return the least margin of polytopes of one row, over all patterns of activation, by linear programs."""
    layers = [
        (m.weight.detach().double().numpy(), m.bias.detach().double().numpy())
        for m in model
        if isinstance(m, nn.Linear)
    ]
    box = list(zip(prop.lower.flatten().tolist(), prop.upper.flatten().tolist(), strict=True))
    hidden = [len(b) for _, b in layers[:-1]]
    best = math.inf
    for pattern in itertools.product((0.0, 1.0), repeat=sum(hidden)):
        M, c, place, rows, limits = np.eye(len(box)), np.zeros(len(box)), 0, [], []
        for W, b in layers[:-1]:
            M, c = W @ M, W @ c + b
            on = np.array(pattern[place : place + len(b)])
            place += len(b)
            sign = 1 - 2 * on  # on: -z <= 0, off: z <= 0
            rows.append(sign[:, None] * M)
            limits.append(-sign * c)
            M, c = on[:, None] * M, on * c
        M, c = layers[-1][0] @ M, layers[-1][0] @ c + layers[-1][1]
        for A, b in prop.unsafe:
            a = A[0].numpy()
            found = linprog(a @ M, np.vstack(rows), np.concatenate(limits), bounds=box)
            if found.status == 0:
                best = min(best, float(found.fun + a @ c - float(b[0])))
    return best


def moved(prop: Property, distance: float) -> Property:
    """Return a property of margins that are less by a distance."""
    return Property(prop.lower, prop.upper, [(A, b + distance) for A, b in prop.unsafe])


@pytest.mark.parametrize("seed", range(3))
def test_answers_agree_with_enumeration(seed):
    model = perceptron(2, 4, 3, 3, seed=seed)
    prop = robustness_property(torch.tensor([0.3, -0.2]), 1.0, 0, 3)
    exact = least_margin(model, prop)
    for method in ("input-split", "relu-split"):
        holds = verify(model, moved(prop, exact - 1e-3), method=method, attack=None, timeout=20)
        assert holds.answer == "holds"
        assert 0 < holds.bounds[0] <= 1e-3 * (1 + 1e-9)
        violated = verify(model, moved(prop, exact + 1e-3), method=method, attack=None, timeout=20)
        assert violated.answer == "violated"
        assert -1e-3 * (1 + 1e-6) <= violated.bounds[1] <= 0


def test_several_rows_and_several_polytopes():
    model = perceptron(2, 6, 3, seed=4)
    A = torch.tensor([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])  # output 1 is the greatest
    x = torch.rand(50_000, 2, dtype=torch.float64) * 2 - 1
    prop = Property(-torch.ones(2), torch.ones(2), [(A, torch.zeros(2)), (-A, torch.zeros(2))])
    reached = prop.margin(model.double()(x)).min().item()
    for method in ("input-split", "relu-split"):
        low = Property(prop.lower, prop.upper, [(A, b + reached - 0.01) for A, b in prop.unsafe])
        high = Property(prop.lower, prop.upper, [(A, b + reached + 0.01) for A, b in prop.unsafe])
        assert verify(model, low, method=method, timeout=20).answer == "holds"
        assert verify(model, high, method=method, timeout=20).answer == "violated"


def test_a_counterexample_lies_in_the_box_and_is_unsafe():
    model = perceptron(6, 12, 12, 4, seed=1)
    for seed in range(4):
        x = torch.rand(6, generator=torch.Generator().manual_seed(seed))
        prop = robustness_property(x, 0.7, int(model(x[None]).argmax()), 4, clip=(0, 1))
        found = verify(model, prop, timeout=10)
        if found.answer == "violated":
            assert bool(prop.holds_input(found.counterexample[None]))
            again = model.double()(found.counterexample[None]).detach()
            model.float()
            assert float(prop.margin(again)) == found.bounds[1] <= 0
            assert torch.equal(again[0], found.output)
            return
    raise AssertionError("no property of the four was violated")


@pytest.mark.parametrize("attack", [None, PGD])
def test_parts_are_bounded_soundly(attack):
    model = perceptron(3, 10, 10, 2, seed=2)
    prop = robustness_property(torch.zeros(3), 1.0, 0, 2)
    x = torch.rand(20_000, 3, dtype=torch.float64) * 2 - 1
    margin = prop.margin(model.double()(x)).min().item()
    for split in ("input-split", "relu-split"):
        found = verify(model, moved(prop, margin - 0.02), method=split, attack=attack, timeout=0.5)
        assert found.bounds[0] <= 0.02


def test_splits_hold_on_their_sides_with_any_multipliers():
    model = perceptron(3, 8, 8, 2, seed=3).double().requires_grad_(False)
    bounded = BoundedModule(model, torch.zeros(1, 3, dtype=torch.float64), {"sound": True})
    bounds = PartBounds(bounded)
    end = torch.ones(1, 3, dtype=torch.float64)
    C = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    _, root = bounds.root(-end, end, C, False)
    x = torch.rand(10_000, 3, dtype=torch.float64) * 2 - 1
    first = model[0](x)
    second = model[2](model[1](first))
    pre = torch.cat([first, second], 1)
    value = model(x) @ C[0, 0]
    generator = torch.Generator().manual_seed(0)
    checked = 0
    for _ in range(12):
        part = root[torch.zeros(1, dtype=torch.long)]
        open_ = part.undecided[0].nonzero().flatten()
        chosen = open_[torch.randperm(len(open_), generator=generator)[:3]]
        signs = torch.randint(0, 2, (3,), generator=generator).double() * 2 - 1
        part.signs[0, chosen] = signs
        part.beta[0] = torch.rand(16, generator=generator, dtype=torch.float64) * 2
        part.alpha[0] = torch.rand(16, generator=generator, dtype=torch.float64)
        inside = (pre[:, chosen] * signs >= 0).all(1)
        for steps in (0, 3):
            found = bounds.bound(part[:], C, torch.full((1, 1), 99.0, dtype=torch.float64), True, steps)
            if bool(inside.any()):
                checked += 1
                assert float(found.bounds) <= float(value[inside].min()) + 1e-12
    assert checked > 8


def test_multipliers_tighten_bounds():
    model = perceptron(3, 8, 8, 2, seed=3).double().requires_grad_(False)
    bounds = PartBounds(BoundedModule(model, torch.zeros(1, 3, dtype=torch.float64), {"sound": True}))
    end = torch.ones(1, 3, dtype=torch.float64)
    C = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    _, root = bounds.root(-end, end, C, True)
    open_ = root.undecided[0].nonzero().flatten()
    count = len(open_)
    at = root[torch.zeros(2 * count, dtype=torch.long)]
    at.signs[torch.arange(count), open_], at.signs[count + torch.arange(count), open_] = 1, -1
    rows, far = C.expand(2 * count, -1, -1), torch.full((2 * count, 1), 99.0, dtype=torch.float64)
    free, kept = at[:], at[:]
    with_multipliers = bounds.bound(free, rows, far, False, 20).bounds
    kept.below = torch.where(kept.signs > 0, kept.below.clamp(min=0), kept.below)
    kept.above = torch.where(kept.signs < 0, kept.above.clamp(max=0), kept.above)
    kept.signs = torch.zeros_like(kept.signs)  # the same ends, and no multipliers
    without = bounds.bound(kept, rows, far, False, 20).bounds
    assert float(free.beta.max()) > 0
    assert float((with_multipliers - without).max()) > 1e-3


def test_convolutions_and_residual_connections():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
            self.last = nn.Linear(32, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.last(torch.relu(x + self.second(x)).flatten(1))

    torch.manual_seed(0)
    model = Residual()
    x = torch.rand(1, 4, 4)
    label = int(model(x[None]).argmax())
    answers = [verify(model, robustness_property(x, eps, label, 3), timeout=10).answer for eps in (0.01, 0.1, 3.0)]
    assert answers[0] == "holds"
    assert answers[-1] == "violated"
    assert "unknown" not in answers


def test_networks_without_relu_are_cut_by_their_inputs():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 201)] * 2)
    prop = robustness_property(torch.zeros(2), 1.0, 0, 2)
    margin = prop.margin(model(grid)).min().item()
    assert verify(model, moved(prop, margin - 0.02), method="relu-split", timeout=60).answer == "holds"
    assert verify(model, moved(prop, margin + 0.02), timeout=60).answer == "violated"


def test_stages_end_where_they_are_told_to():
    model = perceptron(4, 30, 30, 3, seed=5)
    label = int(model(torch.zeros(1, 4)).argmax())
    assert verify(model, robustness_property(torch.zeros(4), 1e-4, label, 3)).stage == "bounds"
    wide = robustness_property(torch.zeros(4), 1.0, label, 3)
    shifted = moved(wide, verify(model, wide, method="CROWN").bounds[1] - 0.02)
    for method in ("CROWN", "alpha-CROWN"):
        found = verify(model, shifted, method=method)
        assert (found.answer, found.branches) == ("unknown", 0)
        assert found.bounds[0] <= 0 < found.bounds[1]
    crown, alpha = (verify(model, shifted, method=m).bounds[0] for m in ("CROWN", "alpha-CROWN"))
    assert crown <= alpha


def test_time_is_kept():
    model = perceptron(8, 60, 60, 60, 4, seed=6)
    prop = robustness_property(torch.zeros(8), 1.0, 0, 4)
    margin = verify(model, prop, method="CROWN").bounds[1]
    began = time.monotonic()
    found = verify(model, moved(prop, margin - 0.05), timeout=1.0, attack=None)
    assert not found.decided or found.seconds < 1
    assert time.monotonic() - began < 30  # a wide margin for a busy machine: without the limit it takes hours
    assert found.bounds[0] <= found.bounds[1]


def test_several_properties_all_have_to_hold():
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    safe = Property(torch.zeros(1), torch.ones(1), [(torch.ones(1, 1), torch.tensor([-1.0]))])
    unsafe = Property(torch.zeros(1), torch.ones(1), [(torch.ones(1, 1), torch.tensor([0.5]))])
    assert verify(model, [safe, safe]).answer == "holds"
    assert verify(model, [safe, unsafe]).answer == "violated"


def test_what_takes_long_leaves_time_for_the_others():
    model = perceptron(8, 60, 60, 60, 4, seed=6)
    hard = robustness_property(torch.zeros(8), 1.0, 0, 4)
    hard = moved(hard, verify(model, hard, method="CROWN").bounds[1] - 0.05)
    x = torch.rand(2000, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    unsafe = [(-torch.eye(4)[:1], -model(x)[:, 0].max().detach()[None])]
    assert verify(model, [hard, Property(hard.lower, hard.upper, unsafe)], timeout=5).answer == "violated"


def test_time_that_is_over_is_no_error():
    model = perceptron(3, 8, 2)
    prop = robustness_property(torch.zeros(3), 1.0, 0, 2)
    found = verify(model, moved(prop, -100.0), timeout=1e-9)
    assert (found.answer, found.bounds[0]) == ("unknown", -math.inf)
    bounds = PartBounds(BoundedModule(model, torch.zeros(1, 3)))
    bounds.until = 0.0
    with pytest.raises(TimeoutError):
        bounds.root(-torch.ones(1, 3), torch.ones(1, 3), torch.eye(2)[None], optimize=False)


def test_counterexamples_are_ones_of_the_networks_own_type():
    checked = 0
    for seed in range(6):
        model = perceptron(4, 12, 3, seed=seed)
        prop = robustness_property(torch.rand(4), 0.7, 0, 3)  # its ends are no numbers of single precision
        found = verify(model, prop, timeout=10)
        if found.answer == "violated":
            x = found.counterexample.float()
            assert torch.equal(x.double(), found.counterexample)
            assert bool(prop.holds_input(x[None]))
            assert float(prop.margin(model(x[None]).detach())) <= 0
            checked += 1
    assert checked >= 3


def test_images_in_one_call():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3))
    images = torch.rand(4, 1, 3, 3)
    labels = model(images).argmax(1)
    labels[3] = (labels[3] + 1) % 3  # is classified otherwise
    found = verify_robustness(model, images, labels, 0.005)
    assert [v.answer for v in found] == ["holds"] * 3 + ["violated"]
    assert found[3].counterexample.shape == (1, 3, 3)
    assert all(isinstance(v, Verdict) for v in found)


def test_a_point_is_decided_by_its_output():
    model = perceptron(3, 5, 2)
    x = torch.rand(3)
    label = int(model(x[None]).argmax())
    assert verify(model, robustness_property(x, 0.0, label, 2)).answer == "holds"
    assert verify(model, robustness_property(x, 0.0, 1 - label, 2)).answer == "violated"


@pytest.mark.usefixtures("untyped")
def test_bad_input_is_named():
    model, x = perceptron(3, 4, 2), torch.zeros(3)
    prop = robustness_property(x, 0.1, 0, 2)
    with pytest.raises(ValueError, match="method is 'beta'"):
        verify(model, prop, method="beta")
    with pytest.raises(ValueError, match="timeout"):
        verify(model, prop, timeout=0)
    with pytest.raises(TypeError, match="attack"):
        verify(model, prop, attack="pgd")
    with pytest.raises(TypeError, match="property takes"):
        verify(model, [])
    with pytest.raises(TypeError, match="model is function"):
        verify(lambda x: x, prop)
    with pytest.raises(ValueError, match="2 outputs; this model has 5"):
        verify(perceptron(3, 4, 5), prop)
    with pytest.raises(ValueError, match="box of 3 inputs"):
        verify(model, prop, input_shape=(4,))
    with pytest.raises(ValueError, match="label"):
        robustness_property(x, 0.1, 2, 2)
    with pytest.raises(ValueError, match="x0 has values"):
        robustness_property(x - 1, 0.1, 0, 2, clip=(0, 1))
    with pytest.raises(ValueError, match="lower is above upper"):
        Property(torch.ones(1), torch.zeros(1), [(torch.ones(1, 1), torch.zeros(1))])
    with pytest.raises(ValueError, match="unsafe is empty"):
        Property(torch.zeros(1), torch.ones(1), [])
    with pytest.raises(ValueError, match=r"unsafe\[0\]"):
        Property(torch.zeros(1), torch.ones(1), [(torch.ones(1, 2), torch.zeros(2))])
    with pytest.raises(ValueError, match="labels have shape"):
        verify_robustness(model, torch.zeros(2, 3), torch.zeros(1, dtype=torch.long), 0.1)
