import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.robustness import (
    ACG,
    APGD,
    FGSM,
    FMN,
    PGD,
    BifurcationLayer,
    CrossEntropyLoss,
    DifferenceLogitsLoss,
    DifferenceLogitsRatioLoss,
    DivergenceLoss,
    DynamicDistortion,
    GroupDifferenceLogitsLoss,
    SquaredErrorLoss,
)
from paperworks.robustness.attacks.auto_step import checkpoints
from paperworks.robustness.attacks.region import Region, lengths

NORMS = (math.inf, 2, 1)
KINDS = (FGSM, PGD, APGD, ACG)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def line(weights, bias=0.0):
    """A policy whose action is a weighted sum."""
    layer = nn.Linear(len(weights), 1)
    layer.weight.data, layer.bias.data = torch.tensor([weights]), torch.tensor([bias])
    return layer.requires_grad_(False)


def network(seed=0, features=6, outputs=8):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, outputs))


def observations(n=40, features=6, seed=0, dtype=torch.float32):
    return torch.rand(n, features, generator=rng(seed), dtype=dtype)


# The layer


def test_groups_of_a_discrete_policy():
    logits = torch.tensor([[1.0, 5.0, 2.0, 3.0]])
    identity = nn.Identity()
    assert BifurcationLayer(identity)(logits).tolist() == [[5, 3]]
    assert BifurcationLayer(identity, [[0, 2], [1], [3]])(logits).tolist() == [[2, 5, 3]]
    smooth = BifurcationLayer(identity, reduce="lse", temperature=0.5)(logits)
    expected = 0.5 * torch.tensor([[(2.0, 10.0), (4.0, 6.0)]]).logsumexp(-1)
    torch.testing.assert_close(smooth, expected)
    sharp = BifurcationLayer(identity, reduce="lse", temperature=1e-3)(logits)
    torch.testing.assert_close(sharp, torch.tensor([[5.0, 3.0]]))


def test_pairs_of_a_continuous_policy():
    action = torch.tensor([[0.75], [0.2]])
    identity = nn.Identity()
    assert BifurcationLayer(identity)(action).tolist() == [[0.75, -0.75], [pytest.approx(0.2), pytest.approx(-0.2)]]
    torch.testing.assert_close(
        BifurcationLayer(identity, threshold=0.5)(action), torch.tensor([[0.25, -0.25], [-0.3, 0.3]])
    )
    torch.testing.assert_close(
        BifurcationLayer(identity, slopes=(2.0, -1.0), intercepts=(-0.5, 0.5))(action),
        torch.tensor([[1.0, -0.25], [-0.1, 0.3]]),
    )
    two = BifurcationLayer(identity, continuous=True)(torch.tensor([[0.1, -0.4, 0.3]]))
    torch.testing.assert_close(two, torch.tensor([[[0.1, -0.1], [-0.4, 0.4], [0.3, -0.3]]]))


# Losses


def test_differences_of_logits_leave_the_own_logit_out():
    # A helper that multiplies by 1 - onehot would say 0 - (-1) here, with no gradient.
    z = torch.tensor([[-1.0, -3.0, -4.0]], requires_grad=True)
    loss = DifferenceLogitsLoss()(z, torch.tensor([0]))
    assert loss.item() == -2
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert gradient.tolist() == [[-1, 1, 0]]
    assert DifferenceLogitsLoss(targeted=True)(z, torch.tensor([1])).item() == -2
    assert DifferenceLogitsRatioLoss()(z, torch.tensor([0])).item() == pytest.approx(-2 / 3)
    torch.testing.assert_close(CrossEntropyLoss()(z, torch.tensor([0])), -z.log_softmax(1)[:, 0], rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.booleans())
def test_a_difference_is_positive_exactly_where_the_decision_changed(seed, many):
    logits = torch.randn(20, *((4, 3) if many else (5,)), generator=rng(seed))
    y = torch.randint(3, logits.shape[:-1], generator=rng(seed + 1))
    loss = GroupDifferenceLogitsLoss() if many else DifferenceLogitsLoss()
    changed = logits.argmax(-1) != y
    assert torch.equal(loss.success(logits, y), changed.any(1) if many else changed)
    targeted = type(loss)(targeted=True)
    assert torch.equal(targeted.success(logits, y), ~(changed.any(1) if many else changed))
    torch.testing.assert_close(targeted(logits, y), -loss(logits, y))
    if not many:
        assert torch.equal(loss(logits, y) > 0, changed)


def test_dimensions_have_weights():
    pairs = torch.tensor([[[0.1, -0.1], [-0.4, 0.4], [0.3, -0.3]]])
    y = torch.tensor([[0, 0, 0]])
    assert GroupDifferenceLogitsLoss()(pairs, y).item() == pytest.approx(-0.2 + 0.8 - 0.6)
    loss = GroupDifferenceLogitsLoss(weights=(1, 0, 2))
    assert loss(pairs, y).item() == pytest.approx(-0.2 - 1.2)
    assert not loss.success(pairs, y)
    assert GroupDifferenceLogitsLoss().success(pairs, y)
    assert GroupDifferenceLogitsLoss(targeted=True, weights=(1, 0, 2)).success(pairs, y)


def test_losses_of_continuous_actions_and_of_distributions():
    before, after = torch.tensor([[0.2, 0.5]]), torch.tensor([[-0.1, 0.6]])
    loss = SquaredErrorLoss()
    assert loss(after, before).item() == pytest.approx(0.1)
    assert loss.success(after, before)
    assert not SquaredErrorLoss(threshold=-0.2).success(after, before)
    assert SquaredErrorLoss(targeted=True)(after, before).item() == pytest.approx(-0.1)
    p, q = (z.softmax(1) for z in (before, after))
    assert DivergenceLoss()(after, before).item() == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)
    assert not DivergenceLoss().success(after, before)
    assert DivergenceLoss().success(-after, before)


# Regions


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.sampled_from(NORMS), st.floats(0, 1.5), st.booleans())
def test_projections_are_in_the_region_and_fixed_there(seed, norm, eps, with_drift):
    obs = observations(8, 5, seed, torch.float64)
    mask = torch.rand(5, generator=rng(seed)) < 0.7
    drift = {"drift": 0.3} if with_drift else {}
    previous = observations(8, 5, seed + 1, torch.float64) if with_drift else None
    region = PGD(CrossEntropyLoss(), eps, norm, mask=mask, **drift).region(obs, previous=previous)
    points = (
        region.project(obs + 3 * torch.randn(8, 5, generator=rng(seed), dtype=obs.dtype)),
        region.random(rng(seed)),
    )
    for x in points:
        assert (lengths(x - obs, norm) <= eps + 1e-9).all()
        assert ((x >= 0) & (x <= 1)).all()
        assert torch.equal(x[:, ~mask], obs[:, ~mask])
        if with_drift:
            assert ((x - previous).abs() <= torch.maximum((obs - previous).abs(), torch.tensor(0.3)) + 1e-9).all()
        torch.testing.assert_close(region.project(x), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_projections_onto_balls_are_the_nearest_points(norm):
    center, wide = torch.zeros(3, 4, dtype=torch.float64), torch.full((3, 4), 99.0, dtype=torch.float64)
    region = Region(center, torch.full((3, 1), 0.8, dtype=torch.float64), norm, torch.ones(4).double(), -wide, wide)
    point = torch.randn(3, 4, generator=rng(), dtype=torch.float64) + 1
    nearest = region.project(point)
    distance = (point - nearest).norm(dim=1)
    for seed in range(200):
        other = region.random(rng(seed))
        assert ((point - other).norm(dim=1) >= distance - 1e-9).all()
        closer = region.project(torch.lerp(nearest, other, 0.01))
        assert ((point - closer).norm(dim=1) >= distance - 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_step_has_length_1_and_raises_most(norm):
    g = torch.randn(5, 6, generator=rng(), dtype=torch.float64)
    region = PGD(CrossEntropyLoss(), 1, norm).region(torch.full((5, 6), 0.5, dtype=torch.float64))
    step = region.steepest(g, region.center)
    torch.testing.assert_close(lengths(step, norm), torch.ones(5, dtype=torch.float64))
    dual = {math.inf: 1, 2: 2, 1: math.inf}[norm]
    torch.testing.assert_close((step * g).sum(1), lengths(g, dual))
    assert torch.equal(region.steepest(0 * g, region.center), 0 * g)


# Attacks


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_on_a_linear_policy(kind, norm):
    weights = [0.5, -2.0, 1.0, 0.0]
    policy = BifurcationLayer(line(weights, bias=2.0))
    obs = 0.4 + 0.2 * observations(10, 4)
    result = kind(GroupDifferenceLogitsLoss(), 0.1, norm)(policy, obs)
    dual = lengths(torch.tensor([weights]), {math.inf: 1, 2: 2, 1: math.inf}[norm]).item()
    clean = policy(obs)
    torch.testing.assert_close(result.loss, clean[:, 1] - clean[:, 0] + 2 * 0.1 * dual, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.loss, policy(result.adv)[:, 1] - policy(result.adv)[:, 0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_allowed_and_no_worse_than_nothing(kind, norm):
    obs, mask = observations(), torch.tensor([0, 1, 1, 1, 0, 1])
    policy = BifurcationLayer(network())
    loss = GroupDifferenceLogitsLoss()
    more = {} if kind is FGSM else {"steps": 7}
    attack = kind(loss, 0.15, norm, mask=mask, restarts=2, random_state=3, **more)
    result = attack(policy, obs)
    assert (result.norm <= 0.15 + 1e-5).all()
    assert torch.equal(result.adv[:, mask == 0], obs[:, mask == 0])
    assert ((result.adv >= 0) & (result.adv <= 1)).all()
    y = policy(obs).argmax(1)
    assert torch.equal(result.success, policy(result.adv).argmax(1) != y)
    assert (result.loss >= loss(policy(obs), y) - 1e-6).all()
    assert (result.n_grad == 2 * attack.steps).all()
    again = attack(policy, obs)
    assert torch.equal(again.adv, result.adv)
    torch.testing.assert_close(attack(policy, obs, eps=torch.zeros(40)).adv, obs)


def test_more_steps_and_starts_find_more():
    obs, policy, loss = observations(100), BifurcationLayer(network(3)), GroupDifferenceLogitsLoss()
    found = {
        name: attack(policy, obs).loss.mean()
        for name, attack in {
            "fgsm": FGSM(loss, 0.2),
            "pgd": PGD(loss, 0.2, steps=40),
            "apgd": APGD(loss, 0.2, steps=40),
            "acg": ACG(loss, 0.2, steps=40),
            "acg, 4 starts": ACG(loss, 0.2, steps=40, restarts=4),
        }.items()
    }
    assert found["fgsm"] < min(found["pgd"], found["apgd"], found["acg"])
    assert found["acg, 4 starts"] > found["acg"]


def test_restarts_keep_the_best_of_each():
    obs, policy, loss = observations(30), BifurcationLayer(network(1)), GroupDifferenceLogitsLoss()
    one, three = (ACG(loss, 0.3, steps=10, restarts=n)(policy, obs).loss for n in (1, 3))
    assert (three >= one).all()


def test_a_group_flips_more_easily_than_the_extreme_action():
    obs, policy = observations(60, seed=5), network(2)
    y = BifurcationLayer(policy)(obs).argmax(1)
    group = PGD(GroupDifferenceLogitsLoss(), 0.3)(BifurcationLayer(policy), obs)
    extreme = PGD(CrossEntropyLoss(targeted=True), 0.3)(policy, obs, torch.where(y == 0, 7, 0))
    assert group.success.sum() > extreme.success.sum()
    assert torch.equal(BifurcationLayer(policy)(group.adv).argmax(1) != y, group.success)


def test_flat_starts_need_a_random_one():
    obs, policy = observations(20), network(outputs=1)
    stuck = PGD(SquaredErrorLoss(), 0.2)(policy, obs)
    torch.testing.assert_close(stuck.adv, obs)
    assert (PGD(SquaredErrorLoss(), 0.2, random_start=True)(policy, obs).loss > 1e-4).all()


def test_targets_are_reached():
    obs, inner = observations(20), network(outputs=1)
    policy = BifurcationLayer(inner, threshold=float(inner(obs).median()))
    for target in (0, 1):
        y = torch.full((20,), target)
        result = ACG(GroupDifferenceLogitsLoss(targeted=True), 1.0, steps=50)(policy, obs, y)
        assert torch.equal(result.success, policy(result.adv).argmax(1) == target)
        assert result.success.float().mean() > 0.7


def test_the_own_group_is_that_of_the_clean_observation():
    # Once over the boundary the attack goes on, and does not turn back.
    policy = BifurcationLayer(line([1.0]), threshold=0.5)
    result = PGD(GroupDifferenceLogitsLoss(), 0.3, steps=20)(policy, torch.tensor([[0.55], [0.45]]))
    torch.testing.assert_close(result.adv, torch.tensor([[0.25], [0.75]]))


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1)[0] == 1


def test_steps_are_halved_where_they_overshoot():
    # The loss is a narrow ridge: steps of 2 eps jump over it, and only halved ones come near.
    class Ridge(nn.Module):
        def forward(self, x):
            height = -(x - 0.53).abs().sum(1, keepdim=True)
            return torch.cat([torch.zeros_like(height), height], 1)

    obs = torch.full((1, 3), 0.5)
    loss = DifferenceLogitsLoss()
    for kind in (APGD, ACG):
        short, long = (kind(loss, 0.1, steps=steps)(Ridge(), obs, torch.tensor([0])).loss.item() for steps in (5, 100))
        assert short < long
        assert long > -0.02


def test_conjugate_directions_are_hestenes_and_stiefels():
    attack = ACG(GroupDifferenceLogitsLoss(), 0.1)
    g, old, s = torch.randn(3, 4, 5, generator=rng())
    y = old - g
    beta = (-(g * y).sum(1) / (s * y).sum(1))[:, None]
    torch.testing.assert_close(attack._direction(g, old, s), g + beta * s)
    assert torch.equal(attack._direction(g, g, s), g)


# Smallest distortions


@pytest.mark.parametrize("norm", NORMS)
def test_the_smallest_distortion_of_a_linear_policy(norm):
    weights = [0.5, -2.0, 1.0]
    policy = BifurcationLayer(line(weights, bias=0.2))
    obs = 0.4 + 0.2 * observations(12, 3)
    dual = lengths(torch.tensor([weights]), {math.inf: 1, 2: 2, 1: math.inf}[norm]).item()
    exact = policy(obs)[:, 0].abs() / dual
    result = FMN(GroupDifferenceLogitsLoss(), norm=norm, steps=200)(policy, obs)
    assert result.success.all()
    assert (result.norm >= exact * (1 - 1e-4)).all()
    assert (result.norm <= 1.1 * exact + 1e-3).all()
    capped = FMN(GroupDifferenceLogitsLoss(), eps=float(exact.median()) * 1.05, norm=norm, steps=200)(policy, obs)
    assert torch.equal(capped.adv[~capped.success], obs[~capped.success])
    assert (~capped.success).any()


class Cornered(nn.Module):
    """Decides for the second class where x_1 is above 0.6, and more so where x_0 is below 0, out of range."""

    def forward(self, x):
        return torch.stack([torch.full_like(x[:, 0], 0.6), x[:, 1] - 20 * x[:, 0]], 1)


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_the_end_of_the_range_does_not_stall_the_search(norm):
    result = FMN(DifferenceLogitsLoss(), norm=norm)(Cornered(), torch.tensor([[0.0, 0.5]]))
    assert result.success.all()
    assert float(result.norm) == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
@pytest.mark.parametrize("kind", [FGSM, PGD, APGD, ACG, FMN])
def test_images_are_attacked_as_their_pixels_are(kind, norm):
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = torch.rand(5, 3, 2, 2)
    mask = (torch.arange(12) % 5 > 0).float()
    flat = kind(DifferenceLogitsLoss(), 0.3, norm=norm, mask=mask, bounds=(torch.zeros(12), torch.ones(12)))
    shaped = kind(
        DifferenceLogitsLoss(),
        0.3,
        norm=norm,
        mask=mask.view(3, 2, 2),
        bounds=(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)),
    )
    expected, found = flat(policy, images.flatten(1)), shaped(policy, images)
    assert torch.equal(found.adv, expected.adv.view_as(images))
    assert torch.equal(found.norm, expected.norm)
    several = DynamicDistortion(shaped, [0.1, 0.3])(policy, images)
    assert several.adv.shape == images.shape
    for attack in (shaped, DynamicDistortion(shaped, [0.1, 0.3])):
        assert attack(policy, images[:0]).adv.shape == (0, 3, 2, 2)


def test_it_may_start_from_another_observation():
    policy, obs, pool = BifurcationLayer(network(4)), observations(20), observations(15, seed=9)
    mask = torch.tensor([1, 1, 0, 1, 1, 1])
    attack = FMN(GroupDifferenceLogitsLoss(), steps=1, pool=pool, mask=mask)
    y = policy(obs).argmax(1)
    result = attack(policy, obs)
    # One of the pool that is across the boundary is enough to succeed, and the segment is shorter than the way there.
    reach = torch.stack([torch.where(mask == 1, other, obs) for other in pool])
    across = torch.stack([policy(candidates).argmax(1) != y for candidates in reach])
    assert (result.success | ~across.any(0)).all()
    nearest = torch.where(across, (reach - obs).abs().amax(2), torch.inf).amin(0)
    assert (result.norm[across.any(0)] <= nearest[across.any(0)] + 1e-6).all()
    assert torch.equal(result.adv[:, 2], obs[:, 2])


def test_the_smallest_of_several_distortions():
    obs, policy, loss = observations(60), BifurcationLayer(network(2)), GroupDifferenceLogitsLoss()
    grid = [0.3, 0.05, 0.1]
    result = DynamicDistortion(ACG(loss, 1.0, steps=20), grid)(policy, obs)
    assert torch.equal(result.adv[~result.success], obs[~result.success])
    assert (~result.success).any()
    assert result.success.any()
    previous = torch.zeros(60, dtype=torch.bool)
    for eps in sorted(grid):
        now = result.success & (result.norm <= eps + 1e-6)
        alone = ACG(loss, eps, steps=20)(policy, obs).success
        assert (now | ~alone).all(), "a distortion that succeeds alone is not passed over"
        assert (now | ~previous).all()
        previous = now
    assert torch.equal(policy(result.adv).argmax(1) != policy(obs).argmax(1), result.success)


def test_what_is_at_its_target_is_left_alone():
    obs, policy = observations(30), BifurcationLayer(network(2))
    y = torch.zeros(30, dtype=torch.long)
    attack = DynamicDistortion(PGD(GroupDifferenceLogitsLoss(targeted=True), 1.0), [0.1])
    result = attack(policy, obs, y)
    there = policy(obs).argmax(1) == 0
    assert result.success[there].all()
    assert torch.equal(result.adv[there], obs[there])
    assert not result.n_grad[there].any()


# Bad input


class Steps(nn.Module):
    def forward(self, x):
        return torch.round(x.detach())


def attacked(attack=None, policy=None, obs=None, **options):
    attack = attack or PGD(CrossEntropyLoss(), 0.1)
    return attack(policy or network(), observations() if obs is None else obs, **options)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BifurcationLayer(nn.Identity())(torch.zeros(1, 5)), "groups is None and the model has 5"),
        (lambda: BifurcationLayer(nn.Identity(), [[0], []]), "none of them empty"),
        (lambda: BifurcationLayer(nn.Identity(), [[0, 1]]), "groups is"),
        (lambda: BifurcationLayer(nn.Identity(), [[0], [0, 1]]), "each in one group"),
        (lambda: BifurcationLayer(nn.Identity(), [[0], [7]])(torch.zeros(1, 4)), "groups has action 7"),
        (lambda: BifurcationLayer(nn.Identity(), reduce="mean"), "reduce is 'mean'"),
        (lambda: BifurcationLayer(nn.Identity(), slopes=(1, 2)), "slopes is"),
        (lambda: BifurcationLayer(nn.Identity(), temperature=0), "temperature is 0"),
        (lambda: GroupDifferenceLogitsLoss(weights=[-1]), "weights is -1"),
        (lambda: GroupDifferenceLogitsLoss(weights=[0, 0]), "weights are all 0"),
        (
            lambda: GroupDifferenceLogitsLoss(weights=[1])(torch.zeros(1, 2, 2), torch.zeros(1, 2).long()),
            "weights has 1",
        ),
        (lambda: DifferenceLogitsRatioLoss()(torch.zeros(1, 2), torch.zeros(1).long()), "outputs has 2 logits"),
        (lambda: PGD(CrossEntropyLoss(), -0.1), "eps is -0.1"),
        (lambda: PGD(CrossEntropyLoss(), 0.1, norm=3), "norm is 3"),
        (lambda: PGD(CrossEntropyLoss(), 0.1, steps=0), "steps is 0"),
        (lambda: PGD(CrossEntropyLoss(), 0.1, step_size=0), "step_size is 0"),
        (lambda: ACG(CrossEntropyLoss(), 0.1, restarts=0), "restarts is 0"),
        (lambda: FMN(CrossEntropyLoss(), shrink=1), "shrink is 1"),
        (lambda: attacked(obs=2 * observations()), "out of bounds"),
        (lambda: attacked(obs=observations() * torch.nan), "out of bounds"),
        (lambda: attacked(obs=torch.zeros(3)), "obs has shape"),
        (lambda: attacked(obs=torch.zeros(3, 6, dtype=torch.long)), "obs has shape"),
        (lambda: attacked(PGD(CrossEntropyLoss(), 0.1, mask=torch.ones(5))), "mask has shape"),
        (lambda: attacked(PGD(CrossEntropyLoss(), 0.1, bounds=(torch.zeros(5), 1.0))), "bounds have shapes"),
        (lambda: attacked(PGD(CrossEntropyLoss(), 0.1, drift=0.1)), "previous is None"),
        (lambda: attacked(PGD(CrossEntropyLoss(True), 0.1)), "y is None"),
        (lambda: attacked(eps=torch.full((40,), -1.0)), "eps is"),
        (lambda: attacked(policy=Steps()), "without a gradient"),
        (lambda: DynamicDistortion(PGD(CrossEntropyLoss(), 0.1), []), "eps_list is empty"),
        (lambda: DynamicDistortion(PGD(CrossEntropyLoss(), 0.1), [-1]), "eps_list is -1"),
        (lambda: attacked(DynamicDistortion(PGD(CrossEntropyLoss(True), 0.1), [0.1])), "y is None"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-2, 3)), min_size=1, max_size=6),
    st.floats(0, 2),
    st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_projections_are_the_nearest_points_of_ball_and_box(pairs, eps, norm):
    center, x = torch.tensor(pairs, dtype=torch.float64).T[:, None]
    ones = torch.ones_like(center)
    region = Region(center, torch.full((1, 1), eps, dtype=torch.float64), norm, ones[0], 0 * ones, ones)
    found = region.project(x)
    assert float(region.size(found)) <= eps * (1 + 1e-9) + 1e-12
    assert bool(((found >= 0) & (found <= 1)).all())
    # A point of a convex set is the nearest one if no other point of it lies towards x.
    others = torch.rand(2000, len(pairs), generator=rng(), dtype=torch.float64)
    others = others[lengths(others - center, norm) <= eps]
    assert float(((others - found) @ (x - found).T).clamp_min(0).sum()) < 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_the_minimum_norm_attack_finds_what_there_is_in_any_norm(norm):
    # Nearly all that the box holds is needed, features of small weight too.
    found = FMN(GroupDifferenceLogitsLoss(), norm=norm)(
        BifurcationLayer(line([0.9, 3.5, 2.7], -6.69)), torch.zeros(1, 3)
    )
    assert bool(found.success)
    best = {1: 2 + 0.49 / 0.9, 2: math.sqrt(2 + (0.49 / 0.9) ** 2), math.inf: 6.69 / 7.1}[norm]
    assert float(found.norm) == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"mask": torch.tensor([1.0, 0.5])}, {}, "mask has values other than 0 and 1"),
        ({"mask": torch.tensor([1.0, math.nan])}, {}, "mask has values other than 0 and 1"),
        ({"drift": 0.1}, {"previous": torch.full((3, 2), math.nan)}, "previous has 6"),
        ({"drift": 0.1}, {"previous": torch.zeros(1, 2)}, "previous has shape"),
        ({}, {"start": torch.full((3, 2), math.nan)}, "start has 6"),
        ({}, {"start": torch.zeros(1, 2)}, "start has shape"),
        ({}, {"y": torch.tensor([0])}, "y has 1 rows"),
        ({}, {"obs": torch.zeros(3, 0)}, "one feature or more"),
        ({"pool": torch.zeros(2, 3)}, {}, "pool has shape"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_does_not_fit_the_observations_is_refused(options, call, message):
    attack = FMN(CrossEntropyLoss(), 0.1, **options)
    with pytest.raises(ValueError, match=message):
        attack(nn.Identity(), **{"obs": torch.full((3, 2), 0.5), **call})


@pytest.mark.usefixtures("untyped")
def test_labels_of_any_whole_numbers_are_taken():
    x = torch.tensor([[0.6, 0.5]])
    for dtype in (torch.int32, torch.uint8, torch.int64):
        assert bool(PGD(CrossEntropyLoss(), 0.2)(nn.Identity(), x, torch.zeros(1, dtype=dtype)).success)
