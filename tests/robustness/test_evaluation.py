import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.robustness import (
    VQVAE,
    FMRAugmenter,
    FMREvaluator,
    FMRReport,
    FoundationModelRobustness,
    LinearGenerator,
    Oracle,
    OracleConstrainedPerturber,
    PixelGenerator,
    StyleGenerator,
    VQGenerator,
    ZeroShotClassifier,
    learn_sparse_mask,
    rank_agreement,
)
from paperworks.robustness.evaluation.ascent import RULES, AdamAscent, EvolutionAscent, unit
from paperworks.robustness.evaluation.search import clipped


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(weights, scale=1.0):
    """Two classes of images of 1 x n pixels: class 1 where the weighted sum is positive."""
    layer = nn.Linear(len(weights), 2, bias=False)
    layer.weight.data = scale * torch.tensor([[0.0] * len(weights), weights])
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


def network(seed, classes=4, channels=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.SiLU(),
        nn.Flatten(), nn.Linear(32, classes), nn.Dropout(0.5),
    ).eval().requires_grad_(False)  # fmt: skip


def images(n=24, seed=0):
    return torch.rand(n, 1, 8, 8, generator=rng(seed))


def labelled(oracle, n=24, wrong=4):
    """Images with the oracle's labels, but for a few."""
    x = images(n)
    y = oracle.predict(x).clamp_min(0)
    y[:wrong] = (y[:wrong] + 1) % 4
    return x, y


# The search


def test_it_stops_at_the_last_step_before_the_oracles_boundary():
    # The oracle's boundary is x_0 = 0.5 and the model's gradient points straight at it.
    judge = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    judge[1].weight.data = torch.tensor([[0.0, 0, 0], [8.0, 0, 0]])
    judge[1].bias.data = torch.tensor([4.0, 0.0])
    perturber = OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), step_size=0.1, budget=50)
    x = torch.tensor([0.93, 0.81, 0.56, 0.3])[:, None, None, None] * torch.tensor([1.0, 0, 0]) + 0.1 * torch.tensor(
        [0.0, 1, 1]
    )
    made = perturber.generate(linear([1.0, 0, 0]), x, torch.ones(4, dtype=torch.long))
    assert made.accepted_steps.tolist() == [4, 3, 0, 0]
    assert made.validated.tolist() == [True, True, True, False]
    torch.testing.assert_close(made.x[:, 0, 0, 0], torch.tensor([0.53, 0.51, 0.56, 0.3]))
    assert torch.equal(made.x[..., 1:], x[..., 1:])
    assert torch.equal(made.start, x)


def test_a_rejected_step_is_halved_or_skipped():
    # The oracle sees class 1 everywhere but in a gap between 0.4 and 0.495.
    def judge(x):
        inside = ((x > 0.4) & (x < 0.495)).float().flatten(1)
        return torch.cat([8 * inside, 8 * (1 - inside)], dim=1)

    found = {}
    for on_reject in ("stop", "backtrack", "skip"):
        perturber = OracleConstrainedPerturber(
            PixelGenerator(), Oracle(judge), step_size=0.08, budget=5, on_reject=on_reject
        )
        made = perturber.generate(linear([1.0]), torch.full((1, 1, 1, 1), 0.6), torch.ones(1, dtype=torch.long))
        found[on_reject] = (round(made.x.item(), 3), made.accepted_steps.item())
    assert found == {"stop": (0.52, 1), "backtrack": (0.5, 2), "skip": (0.2, 4)}


@pytest.fixture(scope="module")
def generators():
    torch.manual_seed(0)
    vq = VQVAE(width=4, codes=32, dim=4, halvings=1).requires_grad_(False)
    return {
        "pixels": PixelGenerator(),
        "pca": LinearGenerator.pca(images(100, 9), 10),
        "pca, projected": LinearGenerator.pca(images(100, 9), 60, residual=False),
        "dct": LinearGenerator.dct(8, 8, 4),
        "style": StyleGenerator(),
        "vq": VQGenerator(vq.encoder, vq.codebook, vq.decoder),
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["pixels", "pca", "pca, projected", "dct", "style", "vq"])
def test_the_oracle_sees_the_label_in_every_validated_image(generators, kind, rule):
    oracle, model = Oracle([network(1), network(2)]), network(0)
    x, y = labelled(oracle)
    ways = [
        {"on_reject": "stop"},
        {"on_reject": "backtrack", "quantize": True, "loss": "margin"},
        {"on_reject": "skip", "start": "clean", "early_stop": "misclassified"},
    ]
    for options in ways:
        perturber = OracleConstrainedPerturber(generators[kind], oracle, 0.2, budget=4, rule=rule, **options)
        made = perturber.generate(model, x, y, batch_size=7)
        assert torch.equal(oracle.accepts(made.x, y) | ~made.validated, torch.ones_like(made.validated))
        assert torch.equal(made.x[~made.validated], x[~made.validated])
        assert (made.x >= 0).all()
        assert (made.x <= 1).all()
        assert not made.accepted_steps[~made.validated].any()
        assert (made.accepted_steps <= 4).all()
        assert made.loss_trace.isfinite().all()
        if options.get("quantize"):
            bytes_ = 255 * made.x[made.validated]
            torch.testing.assert_close(bytes_, bytes_.round(), rtol=0, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 2), st.integers(0, 9), st.sampled_from(["mean", "majority", "unanimous"]))
def test_no_budget_step_or_rule_of_voting_breaks_it(seed, step, budget, rule):
    oracle = Oracle([network(seed + k) for k in (1, 2, 3)], rule)
    x, y = labelled(oracle)
    made = OracleConstrainedPerturber(PixelGenerator(), oracle, step, budget).generate(network(seed), x, y)
    assert oracle.accepts(made.x[made.validated], y[made.validated]).all()
    assert torch.equal(made.validated, oracle.accepts(x, y))


def test_the_loss_rises_and_the_trace_follows_it():
    oracle, model = Oracle(network(1)), network(0)
    x, y = labelled(oracle)
    made = OracleConstrainedPerturber(PixelGenerator(), oracle, 0.05, 6).generate(model, x, y)
    cross_entropy = nn.functional.cross_entropy
    torch.testing.assert_close(made.loss_trace[:, 0].float(), cross_entropy(model(x), y, reduction="none"))
    torch.testing.assert_close(made.loss_trace[:, -1].float(), cross_entropy(model(made.x), y, reduction="none"))
    assert (made.loss_trace.diff(dim=1) >= -1e-4).all()
    assert (made.loss_trace[:, -1] > made.loss_trace[:, 0])[made.accepted_steps > 0].all()


def test_batches_and_others_in_them_change_nothing():
    oracle, model = Oracle(network(1)), network(0)
    x, y = labelled(oracle)
    for rule in ("gradient", "adam"):
        perturber = OracleConstrainedPerturber(LinearGenerator.dct(8, 8, 4), oracle, 0.1, 8, rule)
        whole = perturber.generate(model, x, y)
        for batch_size in (1, 5, 24):
            made = perturber.generate(model, x, y, batch_size)
            torch.testing.assert_close(made.x, whole.x, rtol=1e-4, atol=1e-5)
            assert torch.equal(made.accepted_steps, whole.accepted_steps)


def test_a_budget_of_nothing_gives_reconstructions(generators):
    oracle = Oracle(network(1))
    x, y = labelled(oracle)
    generator = generators["pca, projected"]
    made = OracleConstrainedPerturber(generator, oracle, budget=0).generate(network(0), x, y)
    expected = generator.project(x).clamp(0, 1)
    assert torch.equal(made.x[made.validated], expected[made.validated])
    assert made.validated.any()
    clean = OracleConstrainedPerturber(generator, oracle, budget=0, start="clean").generate(network(0), x, y)
    assert torch.equal(clean.x, x)
    assert made.loss_trace.shape == (24, 1)


def test_it_stops_early_where_the_model_errs():
    oracle, model = Oracle(network(1)), network(0)
    x, y = labelled(oracle, 60)
    far, early = (
        OracleConstrainedPerturber(PixelGenerator(), oracle, 0.1, 20, early_stop=stop).generate(model, x, y)
        for stop in (None, "misclassified")
    )
    was_wrong = model(x).argmax(1) != y
    assert not early.accepted_steps[was_wrong].any()
    assert (early.accepted_steps <= far.accepted_steps).all()
    assert early.accepted_steps.sum() < far.accepted_steps.sum()
    assert torch.equal(model(early.x).argmax(1) == y, (model(far.x).argmax(1) == y) & ~was_wrong)


def test_latents_move_only_where_the_mask_lets_them(generators):
    oracle, model = Oracle(network(1)), network(0)
    x, y = labelled(oracle)
    generator = generators["pca"]
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[2, 5]] = True
    for rule in RULES:
        perturber = OracleConstrainedPerturber(generator, oracle, 0.1, 3, rule, sparse_mask=mask, clip_range=(-9, 9))
        made = perturber.generate(model, x, y)
        moved = (generator.encode(made.x) - generator.encode(x)).abs().amax(0)
        assert (moved[~mask] < 1e-5).all()
        assert (moved[mask] > 1e-3).all()


def test_modes_are_what_they_were_and_dropout_is_off():
    oracle, model = Oracle(network(1).train()), network(0).train()
    model[1].eval()
    before = model[1].running_mean.clone()
    x, y = labelled(oracle)
    perturber = OracleConstrainedPerturber(PixelGenerator(), oracle, 0.1, 3)
    a, b = (perturber.generate(model, x, y).x for _ in range(2))
    assert torch.equal(a, b)
    assert [part.training for part in model] == [True, False, True, True, True, True, True, True]
    assert oracle.models[0].training
    assert torch.equal(model[1].running_mean, before)


# Steps


def test_unit_vectors_of_anything():
    vectors = torch.tensor([[3.0, 4], [0, 0], [3e-30, 4e-30], [3e30, 4e30], [torch.inf, 1], [torch.nan, 1]])
    expected = torch.tensor([[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8], [0, 0], [0, 0]])
    torch.testing.assert_close(unit(vectors), expected)


@pytest.mark.parametrize("rule", ["gradient", "sign", "random", "evolution"])
def test_a_step_has_its_length(rule):
    z = torch.randn(5, 7, generator=rng(), dtype=torch.float64)
    ascent = RULES[rule](0.3, z, None, range(len(z)))
    moved = ascent.propose(z, torch.arange(5), lambda z, index: (z.square() * (1 + index[:, None])).sum(1))[0] - z
    lengths = moved.norm(dim=1)
    assert ((lengths - 0.3).abs() < 1e-12)[lengths > 0].all()
    assert (lengths > 0).any()
    if rule == "gradient":
        torch.testing.assert_close(moved, 0.3 * nn.functional.normalize(z))
    if rule == "sign":
        torch.testing.assert_close(moved, 0.3 * z.sign() / math.sqrt(7))


def test_adam_is_adam():
    z = torch.randn(3, 4, generator=rng(), dtype=torch.float64)
    target = torch.randn(3, 4, generator=rng(1), dtype=torch.float64)
    ascent = AdamAscent(0.1, z, None, range(len(z)))
    theirs = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], 0.1, maximize=True)
    index = torch.arange(3)
    for _ in range(5):
        z = ascent.propose(z, index, lambda z, i: -(z - target[i]).square().sum(1))[0]
        optimizer.zero_grad()
        (-(theirs - target).square().sum()).backward()
        optimizer.step()
        torch.testing.assert_close(z, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_evolution_finds_the_gradient_of_a_linear_loss():
    slope = torch.randn(2, 3, generator=rng(), dtype=torch.float64)
    z = torch.zeros(2, 3, dtype=torch.float64)
    ascent = EvolutionAscent(0.1, z, None, range(len(z)))
    ascent.pairs = 4000
    moved = ascent.propose(z, torch.arange(2), lambda z, i: (z * slope[i]).sum(1))[0]
    assert (torch.cosine_similarity(moved, slope) > 0.995).all()


@pytest.mark.parametrize("rule", ["random", "evolution"])
def test_a_black_box_needs_no_gradient(rule):
    oracle = Oracle(network(1))
    x, y = labelled(oracle)
    inner = network(0)

    def model(x):
        return torch.from_numpy(inner(torch.from_numpy(x.detach().numpy())).numpy())

    made = OracleConstrainedPerturber(PixelGenerator(), oracle, 0.1, 10, rule).generate(model, x, y)
    assert (made.loss_trace.diff(dim=1) >= -1e-6).all()
    assert made.accepted_steps.sum() > 20


# Judges


def constant(*rows):
    table = torch.tensor(rows)
    return lambda x: table[: len(x)].log()


def test_how_judges_vote():
    x = images(3)
    models = [
        constant([0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.6, 0.2, 0.2]),
        constant([0.3, 0.6, 0.1], [0.4, 0.35, 0.25], [0.1, 0.7, 0.2]),
        constant([0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]),
    ]
    assert Oracle(models).predict(x).tolist() == [0, 1, 1]
    # The third image has a vote for each: the likeliest wins.
    assert Oracle(models, "majority").predict(x).tolist() == [1, 0, 1]
    assert Oracle(models, "unanimous").predict(x).tolist() == [-1, -1, -1]
    assert Oracle(models[1:], "unanimous").predict(x).tolist() == [1, -1, -1]
    assert Oracle(models, weights=[1, 4, 1]).predict(x).tolist() == [1, 1, 1]
    assert Oracle(models, "majority", [3, 1, 1]).predict(x).tolist() == [0, 0, 0]
    torch.testing.assert_close(Oracle(models, weights=[2, 1, 1]).probabilities(x)[0], torch.tensor([0.55, 0.35, 0.1]))


def test_the_unanimous_are_asked_in_order_of_size_and_only_while_they_agree():
    asked = []

    class Judge(nn.Module):
        def __init__(self, name, size, labels):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(size))
            self.name, self.labels = name, torch.tensor(labels)

        def forward(self, x):
            asked.append((self.name, len(x)))
            return 9 * nn.functional.one_hot(self.labels[x[:, 0, 0, 0].long()], 3).float()

    oracle = Oracle([Judge("large", 9, [0, 1, 2]), Judge("small", 1, [0, 1, 0])], "unanimous")
    x = torch.arange(3.0)[:, None, None, None]
    assert oracle.accepts(x, torch.tensor([0, 0, 0])).tolist() == [True, False, False]
    assert asked == [("small", 3), ("large", 2)]


def test_a_classifier_from_descriptions():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    text = torch.randn(3, 4, 5, generator=rng())
    logits = ZeroShotClassifier(encoder, text, scale=10)(images())
    prompts = nn.functional.normalize(text, dim=2).mean(1)
    expected = 10 * torch.cosine_similarity(encoder(images())[:, None], prompts[None], dim=2)
    torch.testing.assert_close(logits, expected)
    alone = ZeroShotClassifier(encoder, 7 * text[:, 0])(images())
    torch.testing.assert_close(alone, 100 * torch.cosine_similarity(encoder(images())[:, None], text[None, :, 0], 2))


# Scores


def report(**options):
    defaults = {
        "labels": np.array([0, 0, 1, 1, 1]),
        "clean": np.array([True, True, True, True, False]),
        "reconstructed": np.array([True, False, True, True, True]),
        "perturbed": np.array([True, False, False, True, True]),
        "validated": np.array([True, True, True, False, True]),
        "kept": np.array([True, True, True, False, True]),
    }
    return FMRReport(**{**defaults, **options})


def test_scores_by_hand():
    r = report()
    assert (r.SA, r.PA, r.SA_recon, r.VR) == (0.8, 0.6, 0.8, 0.8)
    assert pytest.approx(0.75) == r.FMR
    assert pytest.approx(2 / 3) == r.FMR_validated
    assert r.conditional == pytest.approx(1 / 3)
    assert r.violations == 0
    assert r.per_class[1] == {"n": 3, "SA": pytest.approx(2 / 3), "PA": pytest.approx(2 / 3), "FMR": 1.0, "VR": 2 / 3}
    assert report(kept=np.array([False, True, True, False, True])).violations == 1
    held_out = {"held_out": np.array([1, 0, 1, 1, 1], bool), "held_out_clean": np.ones(5, bool)}
    assert report(diagnostics=held_out).held_out_agreement == pytest.approx(0.75)
    assert math.isnan(r.held_out_agreement)
    assert r.to_dict()["FMR"] == r.FMR
    assert list(r.to_dataframe().index) == [0, 1, "all"]
    assert r.to_dataframe().loc["all", "FMR"] == r.FMR


def test_intervals_are_those_of_a_proportion_and_of_a_sure_ratio():
    n = 400
    right = np.arange(n) % 4 > 0
    r = report(
        labels=np.zeros(n, int), clean=right, reconstructed=right, perturbed=right & (np.arange(n) % 4 > 1),
        validated=np.ones(n, bool), kept=np.ones(n, bool), n_resamples=4000,
    )  # fmt: skip
    low, high = r.ci["SA"]
    spread = 1.96 * math.sqrt(0.75 * 0.25 / n)
    assert (low, high) == pytest.approx((0.75 - spread, 0.75 + spread), abs=0.006)
    # Of images it was right on, 2 of 3 stay right: the ratio varies as such a proportion of 300 does.
    spread = 1.96 * math.sqrt(2 / 9 / 300)
    assert r.ci["FMR"] == pytest.approx((2 / 3 - spread, 2 / 3 + spread), abs=0.006)
    assert r.ci == r.ci
    assert report(perturbed=report().clean).ci["FMR"] == (1.0, 1.0)


@pytest.fixture(scope="module")
def setting():
    oracle = Oracle([network(1), network(2)])
    x, y = labelled(oracle, 50)
    return OracleConstrainedPerturber(LinearGenerator.dct(8, 8, 5), oracle, 0.1, 6), x, y


def test_an_evaluation_agrees_with_its_parts(setting):
    perturber, x, y = setting
    model = network(0)
    evaluator = FMREvaluator(
        perturber, held_out=Oracle(network(3)), features=lambda x: x.flatten(1)[:, :5], batch_size=13
    )
    r = evaluator.evaluate(model, (x, y))
    made = perturber.generate(model, x, y)
    assert float((model(x).argmax(1) == y).double().mean()) == r.SA
    assert float((model(made.x).argmax(1) == y).double().mean()) == r.PA
    assert r.violations == 0
    assert np.array_equal(r.validated, made.validated)
    assert r.diagnostics["l2"] == pytest.approx((made.x - x).flatten(1).norm(dim=1).numpy(), abs=1e-5)
    assert r.diagnostics["linf"].max() <= r.diagnostics["l2"].max()
    assert (r.diagnostics["ssim"] <= 1 + 1e-6).all()
    assert 0 < r.held_out_agreement <= 2
    assert -1 <= r.diversity <= 1
    assert set(r.to_dict()) >= {"SA", "PA", "FMR", "VR", "ci", "l2", "ssim", "steps", "features", "held_out_agreement"}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    assert evaluator.evaluate(model, loader).FMR == r.FMR
    metric = FoundationModelRobustness(model, perturber)
    metric.update(x[:30], y[:30])
    assert metric(x[30:], y[30:]).item() == pytest.approx(evaluator.evaluate(model, (x[30:], y[30:])).FMR)
    assert metric.compute().item() == pytest.approx(r.FMR)
    metric.reset()
    assert metric.compute().isnan()


def test_comparisons_and_transfer(setting):
    perturber, x, y = setting
    models = {"a": network(0), "b": network(5), "c": network(6)}
    evaluator = FMREvaluator(perturber)
    reports = evaluator.compare(models, (x, y))
    scores = [r.FMR for r in reports.values()]
    assert scores == sorted(scores, reverse=True)
    matrix = evaluator.transfer_matrix(models, (x, y))
    assert matrix.shape == (3, 3)
    assert [matrix[i, i] for i in range(3)] == [reports[name].PA for name in models]
    other = perturber.generate(models["a"], x, y)
    assert matrix[0, 2] == pytest.approx(float((models["c"](other.x).argmax(1) == y).double().mean()))


def test_a_model_that_is_never_right(setting):
    perturber, x, _ = setting
    with pytest.warns(UserWarning, match="right on no image"):
        r = FMREvaluator(perturber).evaluate(network(0), (x[:1], (network(0)(x[:1]).argmax(1) + 1) % 4))
    assert r.SA == 0
    assert math.isnan(r.FMR)
    assert math.isnan(r.conditional)
    assert math.isnan(r.ci["FMR"][0])


def test_agreement_of_rankings():
    assert rank_agreement(np.array([[1, 2, 3], [3, 2, 1.0]])) == -1
    assert rank_agreement(np.array([[1, 2, 3], [4, 5, 6], [1, 3, 2.0]])) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_augmentation_makes_training_harder(setting):
    perturber, x, y = setting
    model = network(0)
    augment = FMRAugmenter(model, perturber, every=3, mix=0.4)
    batches = [augment(x, y) for _ in range(4)]
    assert [torch.equal(b, x) for b in batches] == [False, True, True, False]
    changed = (batches[0] != x).flatten(1).any(1)
    assert 1 <= changed.sum() <= 20
    loss = nn.functional.cross_entropy
    assert loss(model(batches[0]), y) > loss(model(x), y)
    assert torch.equal(FMRAugmenter(model, perturber, mix=0)(x, y), x)


def test_the_mask_finds_the_directions_a_model_uses():
    generator = LinearGenerator.pca(images(200), 20)
    # Two of the components decide.
    weights = generator._basis.directions[:, [3, 11]].T
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)).requires_grad_(False)
    model[1].weight.data = 20 * torch.cat([weights, -weights])
    x = images(200)
    y = model(x - x.mean(0)).argmax(1)
    mask = learn_sparse_mask(generator, model, x, y, keep=0.1, penalty=1e-2)
    assert mask.nonzero()[:, 0].tolist() == [3, 11]
    assert learn_sparse_mask(generator, model, x, y, keep=1e-9, steps=1).sum() == 1


# Bad input


def perturber(**options):
    return OracleConstrainedPerturber(PixelGenerator(), Oracle(network(1)), **options)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Oracle([]), "models is empty"),
        (lambda: Oracle(network(1), "best"), "rule is 'best'"),
        (lambda: Oracle(network(1), weights=[1, 2]), "weights has 2"),
        (lambda: Oracle(network(1), weights=[0]), "weights is 0"),
        (lambda: ZeroShotClassifier(nn.Flatten(), torch.ones(3)), "text_embeddings has shape"),
        (lambda: perturber(budget=-1), "budget is -1"),
        (lambda: perturber(step_size=0), "step_size is 0"),
        (lambda: perturber(rule="newton"), "rule is 'newton'"),
        (lambda: perturber(on_reject="retry"), "on_reject is 'retry'"),
        (lambda: perturber(loss="hinge"), "loss is 'hinge'"),
        (lambda: perturber(start="noise"), "start is 'noise'"),
        (lambda: perturber(early_stop="soon"), "early_stop is 'soon'"),
        (lambda: perturber(clip_range=(1, 0)), "clip_range is 0"),
        (lambda: perturber().generate(network(0), 2 * images(), torch.zeros(24).long()), "x has values from"),
        (lambda: perturber().generate(network(0), images() * torch.nan, torch.zeros(24).long()), "x has values from"),
        (lambda: perturber().generate(network(0), images(), torch.zeros(3).long()), "x has shape"),
        (lambda: perturber().generate(network(0), images(0), torch.zeros(0).long()), "x has shape"),
        (lambda: perturber().generate(network(0), images(1), torch.tensor([4])), "y has labels from 4"),
        (lambda: perturber().generate(network(0), images(1), torch.tensor([-1])), "y has labels from -1"),
        (lambda: perturber().generate(network(0), images(1), torch.tensor([0]), 0), "batch_size is 0"),
        (lambda: perturber().generate(network(0, 5), images(1), torch.tensor([0])), "oracle has a model of 4 classes"),
        (
            lambda: perturber(sparse_mask=torch.ones(3)).generate(network(0), images(1), torch.tensor([0])),
            "sparse_mask has shape",
        ),
        (lambda: FMREvaluator(perturber(), 0), "batch_size is 0"),
        (lambda: FMREvaluator(perturber(), n_resamples=0), "n_resamples is 0"),
        (lambda: FMREvaluator(perturber()).evaluate(network(0), []), "dataset is empty"),
        (lambda: FMRAugmenter(network(0), perturber(), every=0), "every is 0"),
        (lambda: FMRAugmenter(network(0), perturber(), mix=2), "mix is 2"),
        (lambda: rank_agreement(np.ones((1, 3))), "scores has shape"),
        (lambda: rank_agreement(np.array([[1, np.nan], [1, 2]])), "scores has shape"),
        (lambda: mask(keep=0), "keep is 0"),
        (lambda: mask(steps=0), "steps is 0"),
        (lambda: mask(generator=StyleGenerator()), "generator has latents that are all zero"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def mask(generator=None, **options):
    return learn_sparse_mask(generator or PixelGenerator(), network(0), images(), torch.zeros(24).long(), **options)


def test_a_member_of_the_oracle_is_not_evaluated_by_it():
    judge = network(1)
    oracle = Oracle([judge, network(2)])
    x, y = labelled(oracle)
    for model in (judge, nn.Sequential(judge), copy.deepcopy(judge), nn.Sequential(copy.deepcopy(judge).double())):
        with pytest.raises(ValueError, match="member of the oracle"):
            OracleConstrainedPerturber(PixelGenerator(), oracle).generate(model, x, y)
    OracleConstrainedPerturber(PixelGenerator(), oracle, budget=1, allow_member=True).generate(judge, x, y)


def test_a_stranger_with_layers_like_a_judges_is_evaluated():
    judge = network(1)
    stranger = network(3)
    with torch.no_grad():
        for own, other in zip(list(stranger.parameters())[:-1], judge.parameters(), strict=False):
            own.copy_(other)  # a frozen part that both took from elsewhere
    x, y = labelled(Oracle(judge))
    OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), budget=1).generate(stranger, x, y)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_found_for_an_image_depends_on_no_other(rule, dtype):
    judge, model = network(1).to(dtype), network(0).to(dtype)
    x = images().to(dtype)
    x[:, :, :3] = 0  # black pixels, which rounding puts on either side of the end of the range
    y = Oracle(judge).predict(x)
    generator = LinearGenerator.pca(images(n=80).to(dtype), 12)
    perturber = OracleConstrainedPerturber(generator, Oracle(judge), step_size=0.05, budget=8, rule=rule)
    together = perturber.generate(model, x, y)
    for batch_size in (1, 7):
        torch.testing.assert_close(perturber.generate(model, x, y, batch_size).x, together.x, rtol=0, atol=1e-4)
    order = torch.randperm(len(x), generator=rng())[:9]
    some = perturber.generate(model, x[order], y[order], batch_size=4)
    torch.testing.assert_close(some.x, together.x[order], rtol=0, atol=1e-4)
    assert torch.equal(some.accepted_steps, together.accepted_steps[order])


def test_the_gradient_fades_beyond_the_range():
    pixels = torch.tensor([-1.0, -1 / 510, -1e-16, 0.0, 0.5, 1.0, 1 + 1 / 510, 2.0], dtype=torch.float64)
    leaf = pixels.clone().requires_grad_()
    made = clipped(leaf, 0.0, 1.0)
    assert torch.equal(made, pixels.clamp(0, 1))
    made.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([0, 0.5, 1, 1, 1, 1, 0.5, 0], dtype=torch.float64))


def test_probabilities_instead_of_logits_are_told():
    x, y = labelled(Oracle(network(1)))
    with pytest.warns(UserWarning, match="the model returns rows that sum to 1"):
        perturber(budget=0).generate(nn.Sequential(network(0), nn.Softmax(1)), x, y)
    with pytest.warns(UserWarning, match="a model of the oracle returns rows"):
        Oracle(nn.Sequential(network(0), nn.Softmax(1))).predict(x)


class Called:
    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model(x)


class Buffers(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.structure = [copy.deepcopy(model).to("meta")]
        self.names = {name.replace(".", "_"): name for name in model.state_dict()}
        for name, original in self.names.items():
            self.register_buffer(name, model.state_dict()[original])

    def forward(self, x):
        return torch.func.functional_call(
            self.structure[0], {original: getattr(self, name) for name, original in self.names.items()}, (x,)
        )


def nudged(model):
    other = copy.deepcopy(model)
    next(other.parameters()).data.view(-1)[0] += 1e-7
    return other


@pytest.mark.parametrize(
    "disguise",
    [
        lambda judge: lambda x: judge(x),
        lambda judge: judge.forward,
        Called,
        lambda judge: copy.deepcopy(judge).half().float(),
        lambda judge: copy.deepcopy(judge).bfloat16().float(),
        lambda judge: nn.Sequential(torch.nn.utils.fuse_conv_bn_eval(judge[0], judge[1]), *judge[2:]),
        Buffers,
        nudged,
        lambda judge: lambda x: judge(x) + 3,
    ],
    ids=["lambda", "method", "object", "half", "bfloat16", "fused", "buffers", "nudged", "shifted"],
)
def test_a_member_in_disguise_is_recognised(disguise):
    judge = network(1)
    x, y = labelled(Oracle(judge))
    with pytest.raises(ValueError, match="member of the oracle"):
        OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), budget=1).generate(disguise(judge), x, y)


def test_a_fresh_normalisation_makes_no_member():
    judge = nn.Sequential(nn.Flatten(), nn.LayerNorm(64))
    oracle = Oracle(nn.Sequential(judge, nn.Unflatten(1, (4, 16)), nn.AdaptiveAvgPool1d(1), nn.Flatten()))
    x, y = labelled(oracle)
    stranger = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 4)).requires_grad_(False)
    OracleConstrainedPerturber(PixelGenerator(), oracle, budget=1).generate(stranger, x, y)


def test_answers_that_are_no_number_are_refused():
    judge = network(1)
    x, y = labelled(Oracle(judge))

    def broken(images):
        return judge(images).index_fill(1, torch.tensor([2]), math.nan)

    perturber = OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), budget=2)
    with pytest.raises(ValueError, match="the model returns NaN"):
        FMREvaluator(perturber).evaluate(broken, (x, y))
    with pytest.raises(ValueError, match="a model of the oracle returns NaN"):
        Oracle(broken).predict(x)


def test_an_empty_batch_is_passed_over():
    judge, model = network(1), network(2)
    x, y = labelled(Oracle(judge))
    evaluator = FMREvaluator(OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), budget=1))
    report = evaluator.evaluate(model, [(x, y), (x[:0], y[:0])])
    assert len(report.labels) == len(x)
