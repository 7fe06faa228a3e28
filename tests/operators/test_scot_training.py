"""Pairs of snapshots, the loss, groups of parameters, errors, gains and rollouts."""

import math

import pytest
import torch

from paperworks.operators import (
    All2AllDataset,
    FluidNormalization,
    GroupedRelativeLoss,
    ScOT,
    ScOTConfig,
    finetune_param_groups,
    relative_lp_error,
    rollout,
    scaling_gains,
)

CONFIG = ScOTConfig(16, 2, 2, 2, 8, (1, 1), (2, 4), (1, 0), 4)
TIMES = torch.tensor([0.0, 0.1, 0.4, 1.0])


def numbered(n=3, snapshots=4):
    """Trajectories whose fields say which trajectory and snapshot they are."""
    return (
        (10 * torch.arange(n)[:, None] + torch.arange(snapshots))
        .float()[:, :, None, None, None]
        .expand(-1, -1, 1, 2, 2)
    )


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]),
        ({"include_identity": False}, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ({"mode": "vanilla"}, [(0, 0), (0, 1), (0, 2), (0, 3)]),
        ({"mode": "one_step"}, [(0, 1), (1, 2), (2, 3)]),
        ({"lead_steps": {0, 2}}, [(0, 0), (0, 2), (1, 1), (1, 3), (2, 2), (3, 3)]),
    ],
)
def test_each_mode_has_its_pairs(options, pairs):
    data = All2AllDataset(numbered(), TIMES, **options)
    assert len(data) == 3 * len(pairs)
    seen = [
        (x.flatten()[0].item(), round(t.item(), 6), y.flatten()[0].item())
        for x, t, y in (data[i] for i in range(len(data)))
    ]
    assert seen == [
        (10 * n + i, round((TIMES[j] - TIMES[i]).item(), 6), 10 * n + j) for n in range(3) for i, j in pairs
    ]


@pytest.mark.parametrize("k", [1, 7, 10])
def test_all_pairs_of_a_trajectory_are_counted(k):
    data = All2AllDataset(numbered(2, k + 1), torch.linspace(0, 1, k + 1))
    assert len(data) == 2 * (k + 1) * (k + 2) // 2


def test_many_pairs_at_once_are_those_one_by_one_and_draws_repeat():
    data = All2AllDataset(numbered(), TIMES)
    index = torch.tensor([3, 29, 12])
    for row, parts in enumerate(zip(*data.batch(index), strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(parts, data[int(index[row])], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(data[-1], data[29], strict=True))
    draws = [data.draw(5, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))
    loaded = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert [part.shape for part in loaded] == [(4, 1, 2, 2), (4,), (4, 1, 2, 2)]
    with pytest.raises(IndexError):
        data[30]


@pytest.mark.usefixtures("untyped")
def test_trajectories_that_have_no_pairs_are_refused():
    with pytest.raises(ValueError, match="trajectories"):
        All2AllDataset(numbered()[:, :1], TIMES[:1])
    for times in (TIMES[:3], TIMES.flip(0), TIMES * math.nan, TIMES / (1 - TIMES)):
        with pytest.raises(ValueError, match="times"):
            All2AllDataset(numbered(), times)
    with pytest.raises(ValueError, match="mode"):
        All2AllDataset(numbered(), TIMES, "some")
    with pytest.raises(ValueError, match="lead_steps"):
        All2AllDataset(numbered(), TIMES, "one_step", lead_steps={2})


@pytest.mark.usefixtures("untyped")
def test_fluids_are_normalized_as_published():
    u = torch.tensor([1.11, 0.391, -0.356, 0.37], dtype=torch.float64).view(1, 4, 1, 1)
    assert FluidNormalization().normalize(u).flatten().tolist() == pytest.approx([1, 1, -1, 2])
    with_tracer = FluidNormalization.with_tracer()
    five = torch.cat([u, torch.full_like(u[:, :1], 0.19586183 + 0.37)], 1)
    assert with_tracer.normalize(five)[0, 4].item() == pytest.approx(1)
    assert (with_tracer.denormalize(with_tracer.normalize(five)) - five).abs().max() < 1e-15
    assert FluidNormalization().lead_time(14) == 0.7
    assert FluidNormalization().normalize(torch.ones(4, 1, 1, dtype=torch.int64)).isfinite().all()
    with pytest.raises(ValueError, match="u has shape"):
        with_tracer.normalize(u)
    for bad in ({"std": (1.0,)}, {"mean": (0.0,), "std": (0.0,)}, {"horizon": 0.0}):
        with pytest.raises(ValueError, match=r"std|horizon"):
            FluidNormalization(**bad)


def test_the_loss_is_a_ratio_over_the_batch_for_each_group():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    a, b = (torch.cat([t, t[:, :1]], 1)[:, :4] for t in (a, b))
    for p in (1, 2):
        terms = [(a[:, s] - b[:, s]).abs().pow(p).sum() / b[:, s].abs().pow(p).sum() for s in parts]
        assert GroupedRelativeLoss((1, 2, 1), p)(a, b).item() == pytest.approx(sum(terms).item() / 3, rel=1e-8)
    # Not the mean of the samples' ratios: a small sample that is wrong hardly counts.
    target = torch.tensor([100.0, 1.0]).view(2, 1, 1, 1)
    assert GroupedRelativeLoss()(target + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), target).item() == pytest.approx(
        1 / 101
    )


def test_what_is_unknown_has_no_error_and_no_gradient():
    target = torch.ones(2, 2, 3, 3)
    prediction = torch.full_like(target, 2.0).requires_grad_()
    unknown = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    unknown[:, 1] = True
    loss = GroupedRelativeLoss((1, 1))(prediction, target, unknown)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert prediction.grad[:, 0].all()
    assert not prediction.grad[:, 1].any()
    nothing = target.masked_fill(unknown, math.nan)
    loss = GroupedRelativeLoss((1, 1))(prediction, nothing, unknown)
    assert loss.item() == pytest.approx(0.5)
    assert torch.autograd.grad(loss, prediction)[0].isfinite().all()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types_do_not_overflow(dtype, p):
    prediction, target = (torch.full((2, 1, 300, 300), value).to(dtype) for value in (768, 512))
    share = 0.5 if p == 1 else 0.25
    assert GroupedRelativeLoss(p=p)(prediction, target).item() == pytest.approx(share)
    assert relative_lp_error(prediction, target, p=p).item() == pytest.approx(50)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_errors_have_no_scale(scale):
    a, b = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = relative_lp_error(a, b, p=2)
    assert relative_lp_error(scale * a, scale * b, p=2).item() == pytest.approx(expected.item())


@pytest.mark.usefixtures("untyped")
def test_losses_and_errors_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="p is 3"):
        GroupedRelativeLoss(p=3)
    with pytest.raises(ValueError, match="groups is"):
        GroupedRelativeLoss((1, 1))(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match="shapes"):
        GroupedRelativeLoss()(torch.ones(1, 3, 2, 2), torch.ones(1, 1, 2, 2))
    for measure in (GroupedRelativeLoss(), relative_lp_error):
        with pytest.raises(ValueError, match="shapes"):
            measure(torch.ones(0, 1, 2, 2), torch.ones(0, 1, 2, 2))
    with pytest.raises(ValueError, match="zero in 1 samples"):
        relative_lp_error(torch.ones(2, 1, 2, 2), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2))
    with pytest.raises(ValueError, match="reduction"):
        relative_lp_error(torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2), reduction="sum")


def test_reported_errors_are_means_over_groups_of_medians_over_samples():
    target = torch.ones(3, 3, 2, 2, dtype=torch.float64)
    off = torch.tensor([[0.01, 0.02, 0.04], [0.03, 0.06, 0.06], [0.5, 0.0, 0.1]], dtype=torch.float64)
    prediction = target + off[:, :, None, None]
    each = relative_lp_error(prediction, target, (1, 2), reduction="none")
    assert each.tolist() == [pytest.approx(row) for row in ([1, 3], [3, 6], [50, 5])]
    assert relative_lp_error(prediction, target, (1, 2)).item() == pytest.approx((3 + 5) / 2)
    assert relative_lp_error(prediction, target, (1, 2), reduction="mean").item() == pytest.approx((18 + 14 / 3) / 2)
    squares = relative_lp_error(prediction, target, p=2, reduction="none")[0, 0].item()
    assert squares == pytest.approx(100 * math.sqrt((0.01**2 + 0.02**2 + 0.04**2) / 3))


def test_groups_hold_each_parameter_once_with_its_rate_and_decay():
    model = ScOT(CONFIG)
    model.encoder.layers[0].blocks[0].attention["self"].logit_scale.requires_grad_(False)
    groups = finetune_param_groups(model, 1.0, 2.0, 3.0, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {g["name"]: {names[id(p)] for p in g["params"]} for g in groups}
    everything = [name for part in found.values() for name in part]
    assert sorted(everything) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in groups} == {
        "backbone": (1.0, 0.1),
        "backbone, not decayed": (1.0, 0.0),
        "embedding and recovery": (2.0, 0.1),
        "embedding and recovery, not decayed": (2.0, 0.0),
        "conditioned norms": (3.0, 0.0),
    }
    assert "encoder.layers.0.downsample.norm.weight.weight" in found["conditioned norms"]
    assert "residual_blocks.0.0.norm.bias.bias" in found["conditioned norms"]
    assert "embeddings.norm.weight.weight" in found["embedding and recovery, not decayed"]
    assert "patch_recovery.mixup.weight" in found["embedding and recovery"]
    assert all(name.endswith("bias") for name in found["backbone, not decayed"])
    torch.optim.AdamW(groups)
    wrapped = finetune_param_groups(torch.nn.ModuleDict({"module": model}), 1.0, 2.0, 3.0, 0.1)
    assert [[len(g["params"]), g["lr"]] for g in wrapped] == [[len(g["params"]), g["lr"]] for g in groups]
    plain = finetune_param_groups(ScOT(ScOTConfig(**{**CONFIG.__dict__, "time_conditioning": False})), 1.0)
    assert "conditioned norms" not in {g["name"] for g in plain}
    with pytest.raises(ValueError, match="lr_time"):
        finetune_param_groups(model, lr_time=-1.0)
    with pytest.raises(ValueError, match="no parameters"):
        finetune_param_groups(model.requires_grad_(False))


def test_gains_are_those_of_power_laws():
    s = [1, 2, 4, 8, 16, 32, 64, 128]
    reference, model = [20 * n**-0.5 for n in s], [5 * n**-0.5 for n in s]
    gains = scaling_gains(s, reference, s, model, 100)
    assert gains.efficiency == pytest.approx(16)
    assert gains.accuracy == pytest.approx(4)
    assert gains.bound == ""
    assert scaling_gains(s, reference, s, reference, 50).efficiency == pytest.approx(1)


def test_gains_that_the_curves_do_not_reach_are_bounds():
    gains = scaling_gains([1, 16], [8, 4], [2, 4], [1, 0.5], 16)
    assert (gains.efficiency, gains.bound, gains.accuracy) == (pytest.approx(8), ">=", None)
    gains = scaling_gains([1, 16], [8, 4], [2, 4], [10, 5], 16)
    assert (gains.efficiency, gains.bound) == (pytest.approx(4), "<=")
    # Where a curve isn't monotone, the first crossing counts.
    assert scaling_gains([1, 4], [4, 2], [1, 2, 4], [4, 1, 3], 4).efficiency == pytest.approx(4 / math.sqrt(2))
    for bad in (0.5, 32):
        with pytest.raises(ValueError, match="s_star"):
            scaling_gains([1, 16], [8, 4], [2, 4], [1, 0.5], bad)
    with pytest.raises(ValueError, match="rising"):
        scaling_gains([16, 1], [8, 4], [2, 4], [1, 0.5], 4)
    with pytest.raises(ValueError, match="err is"):
        scaling_gains([1, 16], [8, 4], [2, 4], [1, 0], 4)
    with pytest.raises(ValueError, match="samples and err"):
        scaling_gains([1, 16], [8, 4], [2, 4], [1], 4)


def flow(x, t):
    """The exact flow of u' = -u."""
    return x * torch.exp(-t)[:, None, None, None]


@pytest.mark.parametrize(
    "way", [{}, {"strategy": "ar"}, {"strategy": "ar", "steps": 3}, {"strategy": "ar", "steps": (0.5, 0.3, 0.2)}]
)
def test_a_flow_has_one_trajectory_by_every_way(way):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.2, 0.5, 2.0], dtype=torch.float64)
    expected = x[:, None] * torch.exp(-times)[:, None, None, None]
    assert (rollout(flow, x, times, **way) - expected).abs().max() < 1e-14


def test_steps_are_the_shares_that_were_asked_for():
    asked = []

    def model(x, t):
        asked.append(round(t[0].item(), 6))
        return x

    x = torch.zeros(1, 1, 2, 2)
    rollout(model, x, [0.5, 1.0], "ar", (0.5, 0.25, 0.25))
    rollout(model, x, [0.5, 1.0], "ar", 2)
    rollout(model, x, [0.5, 1.0])
    assert asked == [0.25, 0.125, 0.125] * 2 + [0.25] * 4 + [0.5, 1.0]


@pytest.mark.usefixtures("untyped")
def test_rollouts_refuse_times_and_shares_that_lead_nowhere():
    x = torch.zeros(1, 2, 2, 2)
    for times in ([], [1.0, 0.5], [0.0, 1.0], [math.nan], [1.0, math.nan, 2.0], [math.inf]):
        with pytest.raises(ValueError, match="times"):
            rollout(flow, x, times)
    for steps in ((0.5, 0.4), 0, (1.5, -0.5)):
        with pytest.raises(ValueError, match="steps"):
            rollout(flow, x, [1.0], "ar", steps)
    with pytest.raises(ValueError, match="floating-point"):
        rollout(flow, x.long(), [0.5])
    with pytest.raises(ValueError, match="strategy"):
        rollout(flow, x, [1.0], "both")
    with pytest.raises(ValueError, match="model gives fields"):
        rollout(lambda x, t: x[:, :1], x, [1.0], "ar")
