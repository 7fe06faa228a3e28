import copy
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.robustness import (
    KarrasGrid,
    RRCMClassifier,
    RRCMConvNet,
    RRCMLoss,
    RRCMViT,
    ScaleSchedule,
    TargetEMASchedule,
    consistency_regularizer,
    finetune_step,
    info_nce,
    layerwise_groups,
    mix_images,
    pretrain_encoder,
    random_views,
    update_target,
)
from paperworks.robustness.smoothing.encoder import projector, sinusoidal_embedding
from paperworks.robustness.smoothing.pretraining import warmup_cosine


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small(kind="conv", seed=0):
    torch.manual_seed(seed)
    if kind == "conv":
        return RRCMConvNet(image_size=8, patch_size=2, widths=(8, 16), hidden=16, out=8)
    return RRCMViT(image_size=8, channels=1, patch_size=4, width=16, depth=2, heads=2, hidden=16, out=8)


def batch(n=6, seed=0):
    return 2 * torch.rand(n, 1, 8, 8, generator=rng(seed)) - 1


# Schedules.


def test_the_grid_is_edms():
    levels = KarrasGrid().levels(81)
    a, b = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(a + i / 80 * (b - a)) ** 7 for i in range(81)]
    torch.testing.assert_close(levels, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (levels[0], levels[-1]) == (80.0, 0.002)


@given(st.floats(0.002, 80), st.integers(2, 100))
def test_the_nearest_level_is_one_of_the_grid_and_no_other_is_nearer(t, n):
    levels = KarrasGrid().levels(n)
    nearest = KarrasGrid().nearest(t, n)
    assert nearest in levels
    assert abs(nearest - t) == (levels - t).abs().min()


def test_the_number_of_levels_doubles_at_the_papers_steps():
    schedule = ScaleSchedule(300_000)
    period = math.ceil(300_000 / math.log2(5))
    steps = [0, 1, period, period + 1, 2 * period, 300_000]
    assert [schedule(step) for step in steps] == [21, 41, 41, 81, 81, 81]
    assert ScaleSchedule(10, start=20, end=20)(10) == 21


@pytest.mark.parametrize("sharpness", [10.0, 15.0])
def test_the_targets_decay_is_the_papers_formula(sharpness):
    schedule = TargetEMASchedule(1000, sharpness=sharpness)
    for step in (0, 1, 100, 999):
        e = math.sqrt(step / 1000 * (0.9999**2 - 0.99**2) + 0.99**2)
        c = 2 / (1 + math.exp(-sharpness * (e - 0.99) / (0.9999 - 0.99))) - 1
        assert schedule(step) == pytest.approx(c * 0.9999 + (1 - c) * 0.99, rel=1e-13)
    decays = [schedule(step) for step in range(1200)]
    assert decays == sorted(decays)
    assert decays[1000] == decays[-1]


def test_the_rate_warms_up_and_falls_to_nothing():
    rates = [warmup_cosine(step, 10, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert warmup_cosine(0, 0, 100) == 1


# Encoders.


def test_levels_are_embedded_by_the_papers_sinusoids():
    t = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    found = sinusoidal_embedding(t, 7)
    for row, level in zip(found, t.tolist(), strict=True):
        angles = [1000 * 0.25 * math.log(level) * 10_000 ** (-i / 3) for i in range(3)]
        expected = [*(math.cos(a) for a in angles), *(math.sin(a) for a in angles), 0.0]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_projector_is_three_layers_without_biases():
    kinds = [type(layer) for layer in projector(4, 8, 2)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in projector(4, 8, 2) if isinstance(layer, nn.Linear)] == [
        (8, 4), (8, 8), (2, 8),
    ]  # fmt: skip
    assert all(layer.bias is None for layer in projector(4, 8, 2) if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_an_encoder_scales_its_input_and_normalises_its_feature(kind):
    encoder, x = small(kind), batch()
    projection, feature = encoder(x, 1.5)
    embedding = sinusoidal_embedding(torch.tensor([1.5]), 16)
    torch.testing.assert_close(encoder.raw_features(x, 1.5), encoder.encode(x / math.hypot(1.5, 0.5), embedding))
    torch.testing.assert_close(feature, encoder.norm(encoder.raw_features(x, 1.5)))
    assert projection.shape == (6, 8)
    torch.testing.assert_close(encoder.features(x, torch.full((6,), 1.5)), feature)
    assert not torch.allclose(encoder.features(x, 0.5), feature)


@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_stages_are_all_parameters_but_the_last_normalisation_and_the_projector(kind):
    encoder = small(kind)
    staged = [id(p) for stage in encoder.stages() for p in stage]
    others = [id(p) for part in (encoder.norm, encoder.projector) for p in part.parameters()]
    assert sorted(staged + others) == sorted(id(p) for p in encoder.parameters())


def test_the_sizes_of_the_paper():
    with torch.device("meta"):
        base = RRCMViT.of_size("base")
    width, tokens = 768, 66
    attention, mlp, norms = 4 * width**2 + width, 8 * width**2 + 5 * width, 4 * width
    tokens_and_patches = (1 + tokens) * width + (3 * 4 * 4 + 1) * width
    found = sum(p.numel() for stage in base.stages() for p in stage)
    assert found == 12 * (attention + mlp + norms) + tokens_and_patches
    small = RRCMViT.of_size("small", image_size=224, patch_size=16, frozen_patches=True)
    assert (small.width, len(small.blocks), small.blocks[0].heads) == (512, 6, 8)
    assert [p.requires_grad for p in small.patches.parameters()] == [False, False]


# Losses.


def test_info_nce_is_the_cross_entropy_of_cosines():
    f, g = torch.randn(2, 5, 3, generator=rng(), dtype=torch.float64)
    cosine = torch.stack([torch.stack([a @ b / (a.norm() * b.norm()) for b in g]) for a in f]) / 0.2
    expected = -torch.stack([cosine[i, i] - cosine[i].exp().sum().log() for i in range(5)]).mean()
    torch.testing.assert_close(info_nce(f, g), expected)
    assert info_nce(f, g).dtype == torch.float64
    assert info_nce(f.bfloat16(), g.bfloat16()).dtype == torch.float32


def test_more_targets_are_more_negatives_and_get_no_gradient():
    f, g, more = (torch.randn(4, 3, generator=rng(k), requires_grad=True) for k in range(3))
    assert info_nce(f, torch.cat([g, more])) > info_nce(f, g)
    info_nce(f, g).backward()
    assert f.grad is not None
    assert g.grad is None


class Recorder(nn.Module):
    """Notes what it is asked, and returns multiples of the images as projection and feature."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.asked = []

    def forward(self, x, t):
        self.asked.append((x, t, torch.is_grad_enabled()))
        flat = x.flatten(1)
        return self.weight * flat[:, :10], self.weight * flat[:, 10:] ** 3


def test_the_loss_term_by_term():
    online, target = Recorder(), Recorder()
    x, aug1, aug2 = batch(seed=1), batch(seed=2), batch(seed=3)
    loss = RRCMLoss(ScaleSchedule(10))
    terms = loss(online, target, x, aug1, aug2, step=5, generator=rng())

    (views, least, _), (noisier, high, learns), (cleaner, low, target_learns) = online.asked
    ((target_views, target_level, target_of_views_learns),) = target.asked
    levels = loss.grid.levels(41).tolist()
    index = levels.index(high)
    assert (low, least, target_level) == (levels[index + 1], 0.002, 0.002)
    assert (learns, target_learns, target_of_views_learns) == (True, False, False)
    torch.testing.assert_close(views, target_views)
    noise = (noisier - x) / high
    assert 0.8 < noise.std() < 1.2
    torch.testing.assert_close(cleaner, x + low * noise, rtol=1e-4, atol=1e-4)  # one noise for both points
    torch.testing.assert_close(views, torch.cat([aug1 + 0.002 * noise, aug2 + 0.002 * noise]), rtol=1e-4, atol=1e-4)

    def first(x):
        return x.flatten(1)[:, :10]

    def rest(x):
        return x.flatten(1)[:, 10:] ** 3

    one, two = views.chunk(2)
    contrast = info_nce(first(one), first(two)) + info_nce(first(two), first(one))
    consistency = info_nce(rest(noisier), rest(cleaner))
    torch.testing.assert_close(terms["contrast"], contrast)
    torch.testing.assert_close(terms["consistency"], consistency)
    torch.testing.assert_close(terms["loss"], contrast + consistency)


def test_every_neighbouring_pair_of_levels_is_drawn():
    online, generator = Recorder(), rng()
    loss = RRCMLoss(ScaleSchedule(10, start=4, end=4))
    for _ in range(60):
        loss(online, online, batch(), batch(), batch(), 0, generator)
    high = {level for _, level, _ in online.asked[2::4]}
    assert high == set(loss.grid.levels(5).tolist()[:-1])


def test_without_consistency_the_trajectory_is_not_visited():
    online, loss = Recorder(), RRCMLoss(ScaleSchedule(10), consistency_weight=0.0)
    terms = loss(online, Recorder(), batch(), batch(seed=1), batch(seed=2), 1)
    assert len(online.asked) == 1
    assert terms["loss"] == terms["contrast"]


def test_the_gradient_comes_from_the_noisier_point_alone():
    x = batch()
    loss = RRCMLoss(ScaleSchedule(10))
    online = small()
    frozen = copy.deepcopy(online)

    def split(images, level):  # the cleaner point by a network that can't learn
        learns = torch.is_grad_enabled()
        return (online if learns else frozen)(images, level)

    grads = []
    for network in (online, split):
        online.zero_grad()
        loss(network, frozen, x, x, x, 3, rng(2))["loss"].backward()
        grads.append([p.grad.clone() for p in online.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def reference_regularizer(logits, lam, eta, kind):
    p = [torch.softmax(one, 1) for one in logits]
    mean = sum(p) / len(p)
    kl = sum((mean * (mean.log() - one.log())).sum(1) for one in p) / len(p)
    entropy = -(mean * mean.log()).sum(1)
    return {
        "default": lam * kl + eta * entropy,
        "xent": lam * (kl + entropy),
        "kl": lam * kl,
        "mse": lam * ((p[1] - p[0]) ** 2).sum(1),
    }[kind].mean()


@pytest.mark.parametrize("kind", ["default", "xent", "kl", "mse"])
@pytest.mark.parametrize("copies", [2, 3])
def test_the_regulariser_is_jeong_and_shins(kind, copies):
    logits = list(torch.randn(copies, 4, 5, generator=rng(), dtype=torch.float64))
    expected = reference_regularizer(logits, 7.0, 0.3, kind)
    torch.testing.assert_close(consistency_regularizer(logits, 7.0, 0.3, kind), expected)
    # "xent" is the mean cross-entropy of the copies against their mean.
    mean = sum(torch.softmax(one, 1) for one in logits) / copies
    cross = sum(-(mean * torch.log_softmax(one, 1)).sum(1).mean() for one in logits) / copies
    torch.testing.assert_close(consistency_regularizer(logits, 7.0, 0.3, "xent"), 7 * cross)


def test_sure_predictions_have_a_finite_regulariser():
    logits = [torch.tensor([[500.0, -500.0]], requires_grad=True), torch.tensor([[-500.0, 500.0]])]
    found = consistency_regularizer(logits, 1.0, 1.0)
    found.backward()
    assert found.item() == pytest.approx(500.0)
    assert logits[0].grad.isfinite().all()
    assert consistency_regularizer([logits[0].detach()], 5.0, 1.0) == 0  # one sure copy


# Pretraining.


def test_views_are_crops_at_their_own_scale():
    ramp = torch.linspace(0, 1, 16).expand(1, 16, 16)
    x = torch.stack([ramp, ramp.mT]).repeat(100, 1, 1, 1)
    views = random_views(x, (0.3, 0.5), generator=rng())
    assert views.shape == x.shape
    across, down = views[::2, 0], views[1::2, 0]
    torch.testing.assert_close(across, across[:, :1].expand(-1, 16, -1))  # rows stay equal
    torch.testing.assert_close(down, down[:, :, :1].expand(-1, -1, 16))
    assert (down.diff(dim=1) > 0).all()  # never upside down
    mirrored = across[:, 0, -1] < across[:, 0, 0]
    assert 30 < mirrored.sum() < 70
    inner = across[:, 0, 1:-1].diff().abs() * 15  # side of the crop
    assert inner.min() > math.sqrt(0.3 * 3 / 4) - 1e-4
    assert inner.max() < math.sqrt(0.5 * 4 / 3) + 1e-4
    assert not (random_views(x, flip=False, generator=rng())[::2, 0, 0].diff() < 0).any()


@given(st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 100))
@settings(max_examples=25)
def test_views_hold_nothing_that_the_image_does_not(low, share, seed):
    x = batch(seed=seed)
    views = random_views(x, (low, low + share * (1 - low)), generator=rng(seed))
    assert views.min() >= x.min() - 1e-6
    assert views.max() <= x.max() + 1e-6


def test_a_target_follows_parameters_and_copies_buffers():
    target, online = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        online.weight.fill_(3.0)
    online.running_mean.fill_(5.0)
    online.num_batches_tracked.fill_(7)
    update_target(target, online, 0.75)
    assert target.weight.tolist() == [1.5] * 3
    assert target.running_mean.tolist() == [5.0] * 3
    assert target.num_batches_tracked == 7
    assert online.weight.tolist() == [3.0] * 3


def test_pretraining_learns_and_repeats_itself():
    images = batch(64)
    loss = RRCMLoss(ScaleSchedule(60))

    def trained():
        encoder = small()
        return encoder, pretrain_encoder(encoder, images, loss, batch_size=32, lr=1e-2, warmup=5, decay=0.9)

    def value(encoder):
        with torch.no_grad():
            return float(loss(encoder.train(), encoder, images, images, images.flip(3), 60, rng(5))["contrast"])

    (encoder, averaged), (_, again) = trained(), trained()
    for a, b in zip(averaged.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not averaged.training
    assert all(p.requires_grad for p in averaged.parameters())
    chance = 2 * math.log(64)
    assert value(small()) > chance
    assert value(encoder) < chance - 0.3
    assert value(averaged) < chance - 0.3


def test_pretraining_takes_data_that_is_made_when_indexed():
    class Bytes:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return batch(20)[index]

    loss = RRCMLoss(ScaleSchedule(2))
    found = [pretrain_encoder(small(), data, loss, batch_size=4, warmup=0) for data in (Bytes(), batch(20))]
    for a, b in zip(*(f.parameters() for f in found), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


WORKER = """
import sys, torch
from torch import distributed
from paperworks.robustness import RRCMLoss, ScaleSchedule
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/store", rank=rank, world_size=2)
asked = []
def network(x, t):
    asked.append((t, x.flatten(1).double()))
    return asked[-1][1], asked[-1][1]
x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(rank))
terms = RRCMLoss(ScaleSchedule(9))(network, network, x, x, x, 5, torch.Generator().manual_seed(rank))
torch.save((asked, terms), f"{sys.argv[2]}/{rank}.pt")
"""


def test_workers_share_the_level_and_their_targets(tmp_path):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    (_, (_, target), noisier, cleaner), (_, (_, other_target), other_noisier, other_cleaner) = (
        [asked[i] for i in range(4)] for asked, _ in results
    )
    assert noisier[0] == other_noisier[0]
    assert cleaner[0] == other_cleaner[0]
    one, two = target.chunk(2)
    other_one, other_two = other_target.chunk(2)
    _, terms = results[0]
    contrast = info_nce(one, torch.cat([two, other_two])) + info_nce(two, torch.cat([one, other_one]))
    torch.testing.assert_close(terms["contrast"], contrast)
    consistency = info_nce(noisier[1], torch.cat([cleaner[1], other_cleaner[1]]))
    torch.testing.assert_close(terms["consistency"], consistency)
    _, other_terms = results[1]
    torch.testing.assert_close(
        other_terms["consistency"], info_nce(other_noisier[1], torch.cat([other_cleaner[1], cleaner[1]]))
    )


# Fine-tuning.


@pytest.mark.parametrize("normalized", [True, False])
def test_a_classifier_is_told_the_nearest_level(normalized):
    encoder, x = small(), batch()
    classifier = RRCMClassifier(encoder, 3, sigma=0.5, normalized=normalized)
    assert classifier.noise == 1.0
    assert classifier.level == KarrasGrid().nearest(1.0, 81)
    nn.init.normal_(classifier.head.weight)
    feature = (encoder.features if normalized else encoder.raw_features)(x, classifier.level)
    torch.testing.assert_close(classifier(x), classifier.head(feature))


def test_a_head_starts_without_opinion_and_the_encoder_stays_in_evaluation_mode():
    classifier = RRCMClassifier(small(), 10, 0.25).train()
    assert classifier.head.bias.abs().max() == 0
    assert 0 < classifier.head.weight.abs().max() < 2e-4
    assert classifier.training
    assert not any(part.training for part in classifier.encoder.modules())


def test_rates_fall_towards_the_first_layer():
    classifier = RRCMClassifier(small("vit"), 3, 0.5)
    groups = layerwise_groups(classifier, 1.0, 0.5)
    assert [group["lr"] for group in groups] == [0.125, 0.25, 0.5, 1.0]
    trained = {id(p) for group in groups for p in group["params"]}
    unused = [*classifier.encoder.projector.parameters(), *classifier.encoder.norm.parameters()]
    assert trained == {id(p) for p in classifier.parameters()} - {id(p) for p in unused}
    assert len(layerwise_groups(RRCMClassifier(small(), 3, 0.5, normalized=True), 1.0)[-1]["params"]) == 4


def test_a_linear_probe_trains_the_head_alone():
    classifier = RRCMClassifier(small(), 3, 0.5, linear_probe=True)
    (group,) = layerwise_groups(classifier, 0.1)
    before = copy.deepcopy(classifier.encoder.state_dict())
    finetune_step(classifier, torch.optim.SGD([group]), batch(), torch.arange(6) % 3, generator=rng())
    assert [tuple(p.shape) for p in group["params"]] == [(3, 16), (3,)]
    for name, value in classifier.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert classifier.head.bias.abs().max() > 0


@pytest.mark.parametrize("soft", [True, False])
def test_a_step_follows_the_gradient_of_its_loss(soft):
    x, labels = batch(), torch.arange(6) % 3
    shares = nn.functional.one_hot(labels, 3) * 0.8 + 0.2 / 3 if soft else labels
    classifier = RRCMClassifier(small(), 3, 0.5)
    nn.init.normal_(classifier.head.weight, generator=rng())
    expected = copy.deepcopy(classifier)
    terms = finetune_step(
        classifier, torch.optim.SGD(classifier.parameters(), 0.01), x, shares, lam=2.0, eta=0.1, generator=rng(4)
    )

    noise = torch.randn(12, 1, 8, 8, generator=rng(4))
    logits = [expected(x + part) for part in noise.chunk(2)]
    cross = sum(nn.functional.cross_entropy(one, shares) for one in logits) / 2
    consistency = reference_regularizer(logits, 2.0, 0.1, "default")
    (cross + consistency).backward()
    torch.testing.assert_close(terms["cross_entropy"], cross.detach())
    torch.testing.assert_close(terms["consistency"], consistency.detach())
    torch.testing.assert_close(terms["loss"], (cross + consistency).detach())
    for a, b in zip(classifier.parameters(), expected.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a, b - 0.01 * b.grad)


def test_one_copy_is_cross_entropy_and_entropy():
    classifier = RRCMClassifier(small(), 3, 0.5)
    optimizer = torch.optim.SGD(classifier.parameters(), 0.01)
    terms = finetune_step(classifier, optimizer, batch(), torch.arange(6) % 3, eta=1.0, copies=1)
    assert terms["consistency"] == pytest.approx(math.log(3), rel=1e-4)


# Mixtures.


def test_mixtures_hold_the_shares_of_their_labels():
    """An image's pixels are all its class, so what it holds of each class can be read off the mixture."""
    labels = torch.tensor([0, 1, 2, 3])
    x = labels.double()[:, None, None, None].expand(4, 1, 16, 16)
    overlaid, amounts = 0, []
    for seed in range(60):
        mixed, shares = mix_images(x, labels, 4, generator=rng(seed))
        held = torch.stack([(mixed == k).double().mean((1, 2, 3)) for k in range(4)], 1)
        if len(mixed[0].unique()) == 1 and mixed[0, 0, 0, 0] not in (0, 3):
            overlaid += 1
            torch.testing.assert_close(mixed[:, 0, 0, 0], (shares * torch.arange(4)).sum(1))
        else:
            torch.testing.assert_close(held, shares)
        torch.testing.assert_close(shares[0, 0] + shares[0, 3], torch.tensor(1.0, dtype=torch.float64))
        amounts.append(float(shares[0, 0]))
    assert 20 < overlaid < 45
    assert 0.35 < sum(amounts) / 60 < 0.75
    assert min(amounts) < 0.2
    assert max(amounts) > 0.9


def test_smoothed_labels_of_mixtures():
    labels = torch.tensor([0, 1])
    for seed in range(8):
        _, shares = mix_images(batch(2), labels, 4, label_smoothing=0.2, generator=rng(seed))
        _, plain = mix_images(batch(2), labels, 4, generator=rng(seed))
        torch.testing.assert_close(shares, 0.8 * plain + 0.05)


# Bad input.


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KarrasGrid(sigma_min=0.0), "sigma_min is 0.0"),
        (lambda: KarrasGrid(sigma_max=0.001), "sigma_max is 0.001"),
        (lambda: KarrasGrid(rho=0.0), "rho is 0.0"),
        (lambda: KarrasGrid().levels(1), "n is 1"),
        (lambda: KarrasGrid().nearest(81.0, 5), "t is 81.0"),
        (lambda: ScaleSchedule(0), "total is 0"),
        (lambda: ScaleSchedule(10, end=10), "end is 10"),
        (lambda: ScaleSchedule(10)(-1), "step is -1"),
        (lambda: TargetEMASchedule(10, start=1.0), "start is 1.0"),
        (lambda: TargetEMASchedule(10, end=0.9), "end is 0.9"),
        (lambda: TargetEMASchedule(10, sharpness=0.0), "sharpness is 0.0"),
        (lambda: TargetEMASchedule(10)(-1), "step is -1"),
        (lambda: info_nce(torch.ones(1, 2), torch.ones(1, 2)), "g has 1 rows"),
        (lambda: info_nce(torch.ones(3, 2), torch.ones(2, 2)), "g has 2 rows for 3 of f"),
        (lambda: info_nce(torch.ones(2, 2), torch.ones(2, 2), tau=0.0), "tau is 0.0"),
        (lambda: RRCMLoss(ScaleSchedule(1), tau=-1.0), "tau is -1.0"),
        (lambda: RRCMLoss(ScaleSchedule(1), consistency_weight=-1.0), "consistency_weight is -1.0"),
        (lambda: RRCMLoss(ScaleSchedule(1))(small(), small(), *[batch(1)] * 3, 0), "of two images or more"),
        (lambda: RRCMLoss(ScaleSchedule(1))(small(), small(), batch(3), batch(2), batch(3), 0), "x, aug1 and aug2"),
        (lambda: consistency_regularizer([], 1.0), "logits holds 0 copies"),
        (lambda: consistency_regularizer([torch.ones(1, 2)], 1.0, kind="mse"), "kind 'mse' takes 2"),
        (lambda: consistency_regularizer([torch.ones(1, 2)] * 2, 1.0, kind="l2"), "kind is 'l2'"),
        (lambda: consistency_regularizer([torch.ones(1, 2)] * 2, -1.0), "lam is -1.0"),
        (lambda: consistency_regularizer([torch.ones(1, 2)] * 2, 1.0, -1.0), "eta is -1.0"),
        (lambda: RRCMConvNet(image_size=28, patch_size=5), "image_size is 28; it takes a multiple"),
        (lambda: RRCMConvNet(widths=()), "widths is empty"),
        (lambda: RRCMConvNet(blocks=0), "blocks is 0"),
        (lambda: RRCMViT(image_size=30), "image_size is 30; it takes a multiple"),
        (lambda: RRCMViT(width=100), "width is 100; it takes a multiple"),
        (lambda: RRCMViT.of_size("huge"), "size is 'huge'"),
        (lambda: small()(batch(), 0.0), "t is 0.0"),
        (lambda: small()(batch(), torch.ones(3)), "one for each of the 6 images"),
        (lambda: random_views(batch(), (0.0, 1.0)), r"scale\[0\] is 0.0"),
        (lambda: random_views(batch(), (0.5, 0.4)), r"scale\[1\] is 0.4"),
        (lambda: update_target(small(), small(), 1.5), "decay is 1.5"),
        (lambda: pretrain_encoder(small(), batch(), RRCMLoss(ScaleSchedule(1)), batch_size=1), "batch_size is 1"),
        (lambda: pretrain_encoder(small(), batch(), RRCMLoss(ScaleSchedule(1)), batch_size=7), "batch_size is 7"),
        (lambda: mix_images(batch(), torch.arange(6), 6, mixup=0.0), "mixup is 0.0"),
        (lambda: mix_images(batch(), torch.arange(6), 6, cutmix=-1.0), "cutmix is -1.0"),
        (lambda: mix_images(batch(), torch.arange(6), 6, label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: mix_images(batch(), torch.arange(6), 1), "num_classes is 1"),
        (lambda: mix_images(batch(), torch.arange(5), 6), "labels has shape"),
        (lambda: RRCMClassifier(small(), 3, sigma=0.0), "sigma is 0.0"),
        (lambda: RRCMClassifier(small(), 3, sigma=50.0), "t is 100.0"),
        (lambda: RRCMClassifier(small(), 1, sigma=0.5), "num_classes is 1"),
        (lambda: layerwise_groups(RRCMClassifier(small(), 3, 0.5), 0.0), "lr is 0.0"),
        (lambda: layerwise_groups(RRCMClassifier(small(), 3, 0.5), 0.1, 1.5), "decay is 1.5"),
        (
            lambda: finetune_step(RRCMClassifier(small(), 3, 0.5), None, batch(), torch.zeros(5, dtype=torch.int64)),
            "labels has 5 rows; it takes one for each of the 6",
        ),
    ],
)  # fmt: skip
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
