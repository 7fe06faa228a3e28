import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.robustness import (
    LayerMaskedModel,
    LayerMaskLimeImageExplainer,
    MaskedImageClassifier,
    broken_mask,
    grid_segmenter,
    grid_segments,
    jaccard,
    keep_segments,
    linearity,
    missingness_curves,
    paint,
    quickshift_segmenter,
    segment_alignment,
    shape_bias,
    slic_segmenter,
    top_segments,
)
from paperworks.robustness.masking import ImageExplanation, segment_sums
from paperworks.robustness.masking import lime as module


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def network(classes=4, channels=3, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)).requires_grad_(False)


def blocks(n=5, side=16, keep=0.6, block=4):
    coarse = torch.rand(n, 1, side // block, side // block, generator=rng()) < keep
    return coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)


IMAGES, MASKS = torch.rand(5, 3, 16, 16, generator=rng(1)), blocks()


# Painting


def test_images_that_are_explained_lie_one_after_another_in_memory():
    seen = []

    def classify(images, masks):
        seen.append((images.shape, masks.flags.c_contiguous))
        return np.ones((len(masks), 2))

    options = {"num_samples": 20, "segmentation_fn": grid_segmenter(4), "batch_size": 8}
    LayerMaskLimeImageExplainer(random_state=0).explain_instance(np.zeros((16, 16, 3)), classify, **options)
    assert seen == [((n, 16, 16, 3), True) for n in (8, 8, 4)]


def test_a_grey_image_is_explained_for_a_network_of_one_channel():
    picture = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    options = {"num_samples": 40, "segmentation_fn": grid_segmenter(4), "top_labels": 1}

    def weights(image, net):
        classifier = MaskedImageClassifier(net).predict_proba
        found = LayerMaskLimeImageExplainer(random_state=0).explain_instance(image, classifier, **options)
        return found.top_labels, dict(found.local_exp[found.top_labels[0]])

    one = network(channels=1)
    grey = weights(picture, one)
    assert grey == weights(picture[..., None], one)
    assert max(map(abs, grey[1].values())) > 0
    weights(picture, network())  # LIME's own convention: three equal channels
    with pytest.raises(ValueError, match="three channels that differ"):
        weights(np.random.default_rng(0).random((16, 16, 3)).astype(np.float32), one)


def test_paint_fills_the_hole_and_nothing_else():
    colours = {
        "black": torch.zeros(3),
        "grey": torch.tensor([0.485, 0.456, 0.406]),
        (0.1, 0.2, 0.3): torch.tensor([0.1, 0.2, 0.3]),
    }
    for fill, colour in colours.items():
        painted = paint(IMAGES, MASKS, fill)
        assert torch.equal(painted * MASKS, IMAGES * MASKS)
        assert torch.equal(painted, torch.where(MASKS, IMAGES, colour[:, None, None]))
    mean = paint(IMAGES, MASKS, "mean")
    torch.testing.assert_close(mean[0, :, ~MASKS[0, 0]][:, 0], IMAGES[0].mean((1, 2)))
    assert paint(IMAGES[:, :1], MASKS, "grey")[0, 0][~MASKS[0, 0]][0] == pytest.approx(0.449)


def test_a_blurred_edge_is_grey_deep_inside_and_near_the_image_at_the_border():
    image, mask = torch.ones(1, 3, 17, 17), torch.ones(1, 1, 17, 17)
    mask[..., 2:15, 2:15] = 0
    blurred, grey = paint(image, mask, "blur-grey"), paint(image, mask, "grey")
    torch.testing.assert_close(blurred[..., 4:13, 4:13], grey[..., 4:13, 4:13])
    line = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    inward = 1 - line[:2].sum() / line.sum()  # of the kernel at the first hidden row lies inside
    assert blurred[0, 0, 2, 8].item() == pytest.approx(1 - inward * (1 - 0.485), abs=1e-6)
    assert torch.equal(blurred * mask, image * mask)
    constant = torch.full((1, 3, 9, 9), 0.485)
    torch.testing.assert_close(paint(constant, mask[..., :9, :9], "blur-grey")[:, :1], constant[:, :1])


@pytest.mark.parametrize(
    "method", ["neighbor", "zero", "partial", "black", "grey", "mean", "blur-grey", (1.0, 0.5, 0.0)]
)
def test_a_classifier_removes_in_any_way_and_in_batches(method):
    model = network()
    whole, parts = (MaskedImageClassifier(model, method, n)(IMAGES, MASKS) for n in (64, 2))
    torch.testing.assert_close(whole, parts)
    if method in ("neighbor", "zero", "partial"):
        torch.testing.assert_close(whole, LayerMaskedModel(model, method)(IMAGES, MASKS))
    else:
        torch.testing.assert_close(whole, model(paint(IMAGES, MASKS, method)))
    classifier = MaskedImageClassifier(model, method)
    torch.testing.assert_close(classifier(IMAGES, MASKS | True), model(IMAGES))
    torch.testing.assert_close(classifier(IMAGES[:1], MASKS), classifier(IMAGES[:1].expand(5, -1, -1, -1), MASKS))
    torch.testing.assert_close(classifier.of_mask(MASKS, IMAGES), whole)


def test_probabilities_as_lime_takes_them():
    classifier = MaskedImageClassifier(network(), "grey")
    pixels = (IMAGES * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    found = classifier.predict_proba(pixels, MASKS[:, 0].long().numpy())
    assert found.sum(1) == pytest.approx(np.ones(5))
    expected = classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, MASKS).softmax(1)
    assert found == pytest.approx(expected.numpy(), abs=1e-6)
    assert classifier.predict_proba(pixels / 255, MASKS[:, 0].numpy()) == pytest.approx(found, abs=1e-6)


def test_captum_ablates_segments():
    attr = pytest.importorskip("captum.attr")
    classifier = MaskedImageClassifier(network())
    segments = grid_segments(16, 16, 8)[None, None]
    found = attr.FeatureAblation(classifier.of_mask).attribute(
        torch.ones(1, 1, 16, 16), 0.0, 2, (IMAGES[:1],), segments, perturbations_per_eval=4
    )
    whole = classifier(IMAGES[:1], MASKS[:1] | True)[0, 2]
    for k in range(4):
        without = classifier(IMAGES[:1], segments != k)[0, 2]
        torch.testing.assert_close(found[segments == k], (whole - without).expand(64))


# Superpixels


def test_grids_number_their_squares():
    segments = grid_segments(5, 7, 3)
    assert segments.unique().tolist() == list(range(6))
    assert segments[0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert segments[4].tolist() == [3, 3, 3, 4, 4, 4, 5]
    assert np.array_equal(grid_segmenter(3)(np.zeros((5, 7, 3))), segments.numpy())


def test_superpixels_of_scikit_image():
    data = pytest.importorskip("skimage.data")
    image = data.chelsea()[100:200, 100:200]
    for segmenter, least, most in ((slic_segmenter(60), 30, 90), (quickshift_segmenter(), 20, 2000)):
        segments = segmenter(image)
        assert segments.shape == (100, 100)
        assert least < len(np.unique(segments)) < most
        assert np.array_equal(segments, segmenter(image))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 999))
def test_masks_and_sums_of_segments(n, count, seed):
    segments = torch.randint(count, (n, 6, 5), generator=rng(seed))
    kept = torch.rand(n, count, generator=rng(seed)) < 0.5
    values = torch.rand(n, 6, 5, generator=rng(seed))
    masks, sums = keep_segments(segments, kept), segment_sums(values, segments, count)
    for i in range(n):
        assert torch.equal(masks[i, 0], torch.isin(segments[i], kept[i].nonzero()[:, 0]))
        for k in range(count):
            torch.testing.assert_close(sums[i, k], values[i][segments[i] == k].sum())


# LIME


@pytest.fixture
def without_lime(monkeypatch):
    monkeypatch.setattr(module, "_explanation_class", lambda: ImageExplanation)


def test_it_is_lime_when_the_classifier_paints():
    lime_image = pytest.importorskip("lime.lime_image")
    model = network()
    image = IMAGES[0].permute(1, 2, 0).double().numpy()

    def theirs(images):
        return MaskedImageClassifier(model).predict_proba(images, np.ones(images.shape[:3], dtype=int))

    ours = MaskedImageClassifier(model, "black").predict_proba
    options = {"top_labels": 2, "num_samples": 50, "segmentation_fn": grid_segmenter(4)}
    expected = lime_image.LimeImageExplainer(random_state=3).explain_instance(image, theirs, hide_color=0, **options)
    found = LayerMaskLimeImageExplainer(random_state=3).explain_instance(image, ours, **options)
    assert isinstance(found, lime_image.ImageExplanation)
    assert [int(i) for i in expected.top_labels] == found.top_labels == list(found.local_exp)
    for label in found.top_labels:
        assert [part for part, _ in found.local_exp[label]] == [part for part, _ in expected.local_exp[label]]
        assert dict(found.local_exp[label]) == pytest.approx(dict(expected.local_exp[label]), abs=1e-7)
        assert found.intercept[label] == pytest.approx(expected.intercept[label], abs=1e-7)


@pytest.mark.usefixtures("without_lime")
def test_a_linear_classifier_is_explained_by_its_weights():
    weights = np.random.default_rng(0).normal(size=16)

    def classifier_fn(images, masks):
        kept = masks[:, ::4, ::4].reshape(len(masks), 16)
        assert images.shape == (len(masks), 16, 16, 3)
        return np.stack([kept @ weights, -kept @ weights], axis=1)

    explainer = LayerMaskLimeImageExplainer(random_state=0)
    found = explainer.explain_instance(
        np.zeros((16, 16, 3)), classifier_fn, (0, 1), None, num_samples=2000, segmentation_fn=grid_segmenter(4)
    )
    assert type(found) is ImageExplanation
    assert found.score > 0.99
    assert [found.local_exp[0][0][0]] == [np.abs(weights).argmax()]
    assert dict(found.local_exp[0])[3] == pytest.approx(weights[3], abs=0.05)
    assert dict(found.local_exp[1])[3] == pytest.approx(-weights[3], abs=0.05)
    few = explainer.explain_instance(
        np.zeros((16, 16)), classifier_fn, top_labels=1, num_features=3, segmentation_fn=grid_segmenter(4)
    )
    assert [len(parts) for parts in few.local_exp.values()] == [3]


def test_the_fallback_shows_supporting_superpixels():
    explanation = ImageExplanation(np.ones((1, 3, 3)), np.array([[5, 6, 7]]))
    explanation.local_exp[2] = [(7, -0.9), (6, 0.5), (5, 0.1)]
    image, mask = explanation.get_image_and_mask(2, num_features=1, hide_rest=True)
    assert mask.tolist() == [[0, 1, 0]]
    assert image[0, :, 0].tolist() == [0, 1, 0]
    with pytest.raises(KeyError, match="label is 9"):
        explanation.get_image_and_mask(9)


# Audits


class Brightest(nn.Module):
    """Its class is the quarter with the brightest pixel."""

    def forward(self, x):
        quarters = x.unflatten(2, (2, -1)).unflatten(4, (2, -1)).amax((1, 3, 5))
        return quarters.flatten(1)


def bright(n=40):
    labels = torch.arange(n) % 4
    images = torch.zeros(n, 1, 16, 16)
    images[torch.arange(n), 0, 4 + 8 * (labels // 2), 4 + 8 * (labels % 2)] = 1
    return images, labels


def test_removal_in_the_order_of_saliency():
    images, labels = bright()
    options = {"saliency": images[:, 0], "fractions": (0, 1 / 16, 0.5, 1), "method": "black"}
    most, least = (
        missingness_curves(Brightest(), images, labels, grid_segmenter(4), order, **options)
        for order in ("most-salient", "least-salient")
    )
    assert most["accuracy"].tolist() == [1.0, 0.25, 0.25, 0.25]  # the one segment that matters goes first
    assert least["accuracy"].tolist() == [1.0, 1.0, 1.0, 0.25]
    assert most["unchanged"].tolist() == most["accuracy"].tolist()
    assert most["entropy"] == pytest.approx([np.log(4), 0, 0, 0])
    assert most["accuracy_auc"] == pytest.approx(np.mean([1, 0.25, 0.25, 0.25]))
    assert most["fraction"].tolist() == [0, 1 / 16, 0.5, 1]


def test_removal_at_random_is_the_same_for_all_methods_and_by_share():
    images, labels = bright(400)
    curves = [
        missingness_curves(Brightest(), images, labels, grid_segmenter(4), fractions=(0.5,), method=m, random_state=s)
        for m, s in (("black", 0), ((0.0,), 0), ("black", 1))
    ]
    assert curves[0]["accuracy"] == curves[1]["accuracy"] != curves[2]["accuracy"]
    assert curves[0]["accuracy"][0] == pytest.approx(0.5 + 0.5 * 0.25, abs=0.06)


def test_similarity_of_classes_and_images_with_few_segments():
    images, labels = bright(8)

    def segmenter(image):  # one or sixteen segments, numbered with gaps
        return 10 * grid_segments(16, 16, 4 if image[4, 4, 0] else 16).numpy()

    similarity = torch.eye(4).double() * 0.5 + 0.5
    curves = missingness_curves(
        Brightest(), images, labels, segmenter, fractions=(0, 1), method="black", similarity=similarity
    )
    assert curves["similarity"].tolist() == [1.0, 0.5 + 0.5 / 4]
    assert curves["accuracy"].tolist() == [1.0, 0.25]


def test_the_broken_mask_has_the_same_area_and_breaking_twice_mends():
    mask = blocks(keep=0.3)
    broken = broken_mask(mask)
    assert torch.equal(broken.sum((1, 2, 3)), mask.sum((1, 2, 3)))
    assert torch.equal(broken_mask(broken), mask)
    assert torch.equal(broken[..., :8, :8], mask[..., 8:, 8:])


def test_a_network_that_reads_the_hole_has_a_shape_bias():
    # Classes are bars, upright or lying; holes of their shape are seen by the contrast along each direction.
    class Edges(nn.Module):
        def forward(self, x):
            return torch.stack([x.diff(dim=3).abs().sum((1, 2, 3)), x.diff(dim=2).abs().sum((1, 2, 3))], dim=1)

    objects = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    objects[0, :, 2:14, 7:9] = objects[1, :, 7:9, 2:14] = True
    found = shape_bias(Edges(), torch.ones(2, 1, 16, 16), torch.tensor([0, 1]), objects, "black")
    assert found["object"] == 1.0
    assert found["gap"] == found["object"] - found["broken"]
    blind = shape_bias(network(2, 1), torch.ones(2, 1, 16, 16), torch.tensor([0, 1]), objects)
    assert blind["object"] == 0.5
    none = shape_bias(Edges(), torch.ones(1, 1, 16, 16), torch.tensor([1]), objects[:1], "black")
    assert none["object"] == 0.0


def test_alignment_and_overlap():
    segments = grid_segments(8, 8, 4)[None]
    objects = segments == 2
    assert segment_alignment(torch.tensor([[-1.0, -1, 3, -1]]), segments, objects).item() == pytest.approx(1)
    assert segment_alignment(torch.tensor([[1.0, 1, -3, 1]]), segments, objects).item() == pytest.approx(-1)
    assert segment_alignment(torch.zeros(1, 4), segments, objects).item() == 0
    chosen = top_segments(torch.tensor([[0.1, 0.9, 0.8, 0.3]]), segments, 2)[:, 0]
    assert torch.equal(chosen, (segments == 1) | (segments == 2))
    assert jaccard(chosen, objects).item() == pytest.approx(0.5)
    assert jaccard(objects & False, objects & False).item() == 1
    assert top_segments(torch.ones(1, 4), segments, 20).all()


def test_linearity():
    segments = grid_segments(16, 16, 4).expand(5, -1, -1)
    exact = linearity(lambda x, m: (x * m).sum((2, 3)), IMAGES, segments, rng())
    assert exact == pytest.approx({"cosine": 1, "distance": 0}, abs=1e-6)
    # Means over kept places of four patches add up to four times that of all.
    means = linearity(lambda x, m: (x * m).sum((2, 3)) / m.sum((2, 3)), IMAGES, segments, rng())
    assert means["cosine"] == pytest.approx(1, abs=1e-6)
    assert means["distance"] == pytest.approx(3, abs=1e-5)
    assert linearity(lambda x, m: (x * m).amax((2, 3)), IMAGES, segments, rng())["distance"] > 0.1


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paint(IMAGES, MASKS, "pink"), "fill is 'pink'"),
        (lambda: paint(IMAGES, MASKS, (0.5,)), r"fill is \(0.5,\)"),
        (lambda: paint(IMAGES, MASKS, (0.5, 0.5, np.nan)), "fill is nan"),
        (lambda: paint(IMAGES, MASKS[:2]), "mask has shape"),
        (lambda: MaskedImageClassifier(network(), "erase"), "method is 'erase'"),
        (lambda: MaskedImageClassifier(network(), batch_size=0), "batch_size is 0"),
        (lambda: grid_segments(4, 4, 0), "side is 0"),
        (lambda: slic_segmenter(0), "n_segments is 0"),
        (lambda: LayerMaskLimeImageExplainer(kernel_width=0), "kernel_width is 0"),
        (lambda: explain(np.zeros(4)), r"image has shape \(4,\)"),
        (
            lambda: explain(np.zeros((4, 4, 3)), segmentation_fn=lambda i: np.zeros((2, 2))),
            "segmentation_fn gave shape",
        ),
        (lambda: explain(np.zeros((4, 4, 3)), num_samples=0), "num_samples is 0"),
        (lambda: curves(order="salient"), "order is 'salient'"),
        (lambda: curves(order="most-salient"), "saliency is missing"),
        (lambda: curves(saliency=IMAGES[:, 0]), "saliency is given"),
        (lambda: curves(fractions=(0, 2)), "fractions is 2"),
        (lambda: curves(labels=torch.zeros(3).long()), "labels has 3"),
        (lambda: top_segments(torch.ones(1, 2), torch.zeros(1, 2, 2).long(), 0), "k is 0"),
        (lambda: linearity(None, IMAGES, torch.zeros(5, 16, 16).long(), rng()), "segments has an image of 1 segments"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def explain(image, **options):
    return LayerMaskLimeImageExplainer().explain_instance(image, lambda images, masks: None, **options)


def curves(labels=None, **options):
    labels = torch.zeros(5).long() if labels is None else labels
    return missingness_curves(network(), IMAGES, labels, grid_segmenter(4), **options)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(256, 4)),
        nn.ModuleDict({"aux": nn.Conv2d(3, 2, 1), "main": nn.Conv2d(1, 4, 3)}),
        network(channels=1).double(),
        network(channels=1).bfloat16(),
    ],
    ids=["no-convolution", "registered-first", "double", "bfloat16"],
)
def test_the_network_says_which_channels_and_type_it_takes(model):
    class Main(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["main"](x).mean((2, 3)) if isinstance(self.parts, nn.ModuleDict) else self.parts(x)

    grey = np.repeat(np.random.default_rng(0).random((2, 16, 16, 1)), 3, axis=3)
    masks = np.ones((2, 16, 16), dtype=np.int8)
    classifier = MaskedImageClassifier(Main(), method="grey")
    found = classifier.predict_proba(grey, masks)
    np.testing.assert_allclose(found.sum(1), 1, atol=0.01)
    with pytest.raises(ValueError, match="three channels that differ"):
        classifier.predict_proba(grey * [1, 0.5, 0.2], masks)


def test_a_grey_image_with_its_channel_is_explained_and_nan_refused():
    explainer = LayerMaskLimeImageExplainer(random_state=0)
    classify = MaskedImageClassifier(network(channels=1)).predict_proba
    image = np.random.default_rng(0).random((16, 16, 1)).astype(np.float32)
    explainer.explain_instance(image, classify, num_samples=8)
    with pytest.raises(ValueError, match="NaN"):
        explainer.explain_instance(image * np.nan, classify)


def test_no_images_give_no_rows():
    model = LayerMaskedModel(network())
    for masks in (0, 1):
        assert model(torch.zeros(0, 3, 8, 8), torch.zeros(masks, 8, 8)).shape == (0, 4)
