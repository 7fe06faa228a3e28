"""Tests of pruning before training, of masks, and of lottery tickets by rewinding."""

import contextlib
import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from paperworks.numerics import mlp, seeded
from paperworks.training import apply_masks, lottery_ticket_rewind, prune_at_init

METHODS = ("random", "mag", "snip", "grasp", "synflow")


def network():
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 5),
        )  # fmt: skip


def batch(n=20):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.randint(5, (n,), generator=generator)


def masks_of(model, method, density=0.1, **settings):
    return prune_at_init(model, method, density, data=batch(), loss_fn=cross_entropy, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_exactly_the_share_stays_and_the_network_is_untouched(method):
    model = network()
    before = copy.deepcopy(model.state_dict())
    total = 36 + 144 * 20 + 100
    for density in (1.0, 0.1, 1 / 500, 1e-9):
        masks = masks_of(model, method, density, steps=7)
        assert sum(int(mask.sum()) for mask in masks.values()) == max(1, int(total * density))
    assert list(masks) == ["0", "4", "6"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_scores_are_their_definitions():
    model, (x, y) = mlp([3, 4, 2], nn.Tanh).double(), (torch.randn(6, 3).double(), torch.tensor([0, 1] * 3))
    names, weights = ["0", "2"], [model[0].weight, model[2].weight]

    def loss(flat, temperature=1.0):
        parts = flat.split([12, 8])
        state = {f"{n}.weight": p.view(w.shape) for n, p, w in zip(names, parts, weights, strict=True)}
        return cross_entropy(torch.func.functional_call(model, state, (x,)) / temperature, y)

    flat = torch.cat([w.detach().flatten() for w in weights])
    g = torch.autograd.functional.jacobian(loss, flat)
    cold = torch.autograd.functional.jacobian(lambda w: loss(w, 200.0), flat)
    hessian = torch.autograd.functional.hessian(lambda w: loss(w, 200.0), flat)
    scores = {"snip": (flat * g).abs(), "grasp": flat * (hessian @ cold), "mag": flat.abs()}
    for method, score in scores.items():
        masks = prune_at_init(model, method, 0.35, data=(x, y), loss_fn=cross_entropy)
        kept = torch.cat([masks[n].flatten() for n in names])
        assert set(kept.nonzero().flatten().tolist()) == set(score.topk(7).indices.tolist())


def test_synflow_scores_are_the_flow_through_each_weight_and_spare_layers():
    model = mlp([6, 5, 4])
    a, b = model[0].weight.detach().abs().double(), model[2].weight.detach().abs().double()
    first = a * b.sum(0)[:, None]  # of R = 1' B (A 1 + bias), biases aside for the first layer's scores
    masks = prune_at_init(model, "synflow", 11 / 50, data=(torch.zeros(1, 6), torch.zeros(1)), steps=1)
    second = b * (a.sum(1) + model[0].bias.detach().abs())
    score = torch.cat([first.flatten(), second.flatten()])
    kept = torch.cat([masks["0"].flatten(), masks["2"].flatten()])
    assert set(kept.nonzero().flatten().tolist()) == set(score.topk(11).indices.tolist())
    deep = mlp([30] * 8)
    for layer in deep[::2]:
        nn.init.zeros_(layer.bias)  # which would let flow past a layer
    at_once = prune_at_init(deep, "synflow", 0.01, data=(torch.zeros(1, 30), torch.zeros(1)), steps=1)
    slowly = prune_at_init(deep, "synflow", 0.01, data=(torch.zeros(1, 30), torch.zeros(1)), steps=100)
    assert all(mask.any() for mask in slowly.values())  # no layer collapses
    fewest = [min(int(m.sum()) for m in masks.values()) for masks in (at_once, slowly)]
    assert fewest[0] < fewest[1]


def test_synflow_does_not_overflow_in_deep_networks():
    with seeded(0):
        deep = mlp([40] * 60)
        for layer in deep[::2]:
            nn.init.normal_(layer.weight, std=30.0)
    masks = prune_at_init(deep, "synflow", 0.05, data=(torch.zeros(1, 40), torch.zeros(1)), steps=3)
    silent = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(30)))
    for layer in silent:
        nn.init.constant_(layer.weight, 1e-12)
    with pytest.raises(ValueError, match="scores are all 0"):
        prune_at_init(silent, "synflow", 0.5, data=(torch.zeros(1, 4), torch.zeros(1)))
    assert sum(int(m.sum()) for m in masks.values()) == int(0.05 * 59 * 1600)


def test_masks_hold_in_training_and_can_replace_one_another():
    model, (x, y) = network(), batch()
    masks = masks_of(model, "snip")
    apply_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    model(x)
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        assert not weight[~mask].any()
        assert weight[mask].any()
    other = masks_of(network(), "random", 0.2, random_state=3)
    apply_masks(model, other)
    assert all(not model.get_submodule(n).weight[~m].any() for n, m in other.items())
    again = masks_of(model, "mag", 0.05)
    assert list(again) == list(masks)
    prune.remove(model[0], "weight")
    twin = network()
    for name, mask in masks.items():
        prune.custom_from_mask(twin.get_submodule(name), "weight", mask)
    assert twin[4].weight_mask.dtype == torch.float32


def test_seeds_decide_random_masks():
    a, b, c = (masks_of(network(), "random", random_state=seed)["4"] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_dropout_has_the_seed_too_and_leaves_torchs_alone(method):
    model = nn.Sequential(network(), nn.Dropout(0.5))
    before = torch.get_rng_state()
    a, b, c = (masks_of(model, method, random_state=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_tied_and_frozen_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    assert list(prune_at_init(model, "mag", 0.5)) == ["0"]


class Tied(nn.Module):
    """A transformer whose output shares the embedding's weight, with a part that it doesn't use."""

    def __init__(self):
        super().__init__()
        self.tokens, self.unused = nn.Embedding(20, 8), nn.Linear(3, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, x):
        return self.out(self.layer(self.tokens(x)))


@pytest.mark.parametrize("method", METHODS)
def test_a_transformer_of_words_is_pruned_in_all_its_tied_layers_and_trains(method):
    with seeded(0):
        model = Tied()
    x = torch.randint(20, (7, 5), generator=torch.Generator().manual_seed(3))

    def loss_of(out, y):
        return cross_entropy(out.flatten(0, 1), y.flatten())

    with torch.no_grad():  # scores have gradients all the same
        masks = prune_at_init(model, method, 0.25, data=(x, x), loss_fn=loss_of, steps=5)
    assert list(masks) == ["tokens", "unused", "layer.linear1", "layer.linear2"]  # attention has no layer to mask
    if method in ("snip", "grasp", "synflow"):
        assert not masks["unused"].any()
    apply_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model(x), x).backward()
        optimizer.step()
    model(x)
    assert model.out.weight_orig is model.tokens.weight_orig
    for layer in (model.out, model.tokens):
        assert torch.equal(layer.weight != 0, masks["tokens"])


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_hooks_make(method):
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    for norm in (spectral_norm, weight_norm, parametrizations.weight_norm):
        with pytest.warns(FutureWarning) if norm is weight_norm else contextlib.nullcontext():
            model = nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
        for density in (0.5, 0.25):  # again with masks
            masks = prune_at_init(model, method, density, data=(x, y), loss_fn=cross_entropy)
            assert list(masks) == ["2"]
            apply_masks(model, masks)
            model(x)


def test_rewinding_goes_back_to_the_early_point_with_the_optimiser_and_prunes_by_magnitude():
    x, y = batch()
    seen, starts = [], []

    def train(model, start, stop, state):
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        if state is not None:
            optimizer.load_state_dict(state)
        if start:
            buffer = optimizer.state[model[4].bias]["momentum_buffer"]
            starts.append((model[4].weight_orig.detach().clone(), buffer.clone(), model[1].running_mean.clone()))
        for _ in range(start, stop):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        seen.append((start, stop, (model[4].weight_orig * model[4].weight_mask).detach()))
        return optimizer.state_dict()

    levels = []
    model = network()
    ticket = lottery_ticket_rewind(
        model, train, 0.01, steps=9, rewind=2, levels=3, callback=lambda level, _: levels.append(level)
    )
    assert [(a, b) for a, b, _ in seen] == [(0, 2)] + [(2, 9)] * 4
    assert levels == [0, 1, 2, 3]
    for later in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(starts[0], later, strict=True))
    total = 36 + 144 * 20 + 100
    assert ticket.densities == pytest.approx([int(total * 0.01 ** (i / 3)) / total for i in (1, 2, 3)])
    assert sum(int(m.sum()) for m in ticket.masks.values()) == int(total * 0.01)
    assert not model[4].weight[~ticket.masks["4"]].any()
    kept = [weight != 0 for _, _, weight in seen]
    for before, after in itertools.pairwise(kept[1:]):
        assert not (after & ~before).any()  # what was pruned stays pruned
    lost, stayed = kept[1] & ~kept[2], kept[2]
    assert float(seen[1][2][lost].abs().max()) <= float(seen[1][2][stayed].abs().min())


def silent(model, start, stop, state):
    return state


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks_of(network(), "taylor"), "method"),
        (lambda: masks_of(network(), "mag", 0.0), "density"),
        (lambda: masks_of(network(), "mag", 1.5), "density"),
        (lambda: prune_at_init(network(), "snip", 0.5), "data is None; snip"),
        (lambda: prune_at_init(network(), "synflow", 0.5), "data is None; synflow"),
        (lambda: prune_at_init(network(), "grasp", 0.5, data=batch()), "loss_fn is None; grasp"),
        (lambda: prune_at_init(nn.ReLU(), "mag", 0.5), "model has no layer to prune"),
        (lambda: masks_of(network(), "synflow", steps=0), "steps is 0"),
        (lambda: prune_at_init(network(), "snip", 1.0, data=batch(0), loss_fn=cross_entropy), "data has no example"),
        (lambda: masks_of(network().to("meta"), "random"), "weight of '0' on the meta device"),
        (lambda: apply_masks(network(), {"6": torch.full((5, 20), 0.5)}), "other numbers than 0 and 1 for '6'|masks"),
        (lambda: apply_masks(network(), {"9": torch.ones(1).bool()}), "masks have '9'"),
        (lambda: apply_masks(network(), {"0": torch.ones(1).bool()}), "masks have shape"),
        (lambda: lottery_ticket_rewind(network(), silent, 0.5, steps=3, rewind=3), "rewind is 3"),
        (lambda: lottery_ticket_rewind(network(), silent, 0.5, steps=3, rewind=0, levels=0), "levels is 0"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_scores_that_are_not_finite_are_an_error():
    model = network()
    with torch.no_grad():
        model[4].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="scores has 1 NaN"):
        masks_of(model, "mag")
