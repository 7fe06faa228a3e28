"""What the paper on layer masking claims, on photographs and on garments whose evidence is known to the pixel."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table, interleaved, measures, races
from paperworks.robustness import (
    LayerMaskedModel,
    LayerMaskLimeImageExplainer,
    MaskedImageClassifier,
    grid_segmenter,
    grid_segments,
    jaccard,
    keep_segments,
    missingness_curves,
    segment_alignment,
    shape_bias,
    top_segments,
)
from paperworks.testbeds import (
    PastedGarments,
    SmallResNet,
    accuracy,
    imagenet_classifier,
    pasted_garments,
    photographs,
    random_crops,
    trained_garment_classifier,
)

NAMES = {
    "neighbor": "layer masking",
    "zero": "zeros in every layer",
    "partial": "partial convolutions",
    "grey": "grey",
    "blur-grey": "grey, blurred edge",
    "black": "black",
}
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
PATCH = 4  # side of the squares that explanations of garments speak of, in pixels


def random_blocks(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Return masks of which half of the squares of 16 pixels are kept."""
    segments = grid_segments(side, side, 16).expand(n, -1, -1)
    return keep_segments(segments, torch.rand(n, int(segments.max()) + 1, generator=generator) < 0.5)


def some_photos(run: Run) -> tuple[nn.Module, Tensor, Tensor]:
    """Return EfficientNet-Lite0, random crops of photographs, and the logits of those."""
    network = imagenet_classifier("lite0").to(memory_format=torch.channels_last)
    photos = list(photographs().values())[: run.at(smoke=2, desk=10, full=10)]
    crops = random_crops(photos, run.at(smoke=2, desk=8, full=32), network.side, run.torch_rng())
    with torch.no_grad():
        return network, crops, torch.cat([network(part) for part in crops.split(16)])


@measures("m1-colour")
def colour(run: Run) -> Measurement:
    """Fill the hole with other colours, noise, NaN and extremes, and compare the logits."""
    network, images, _ = some_photos(run)
    images = images[: run.at(smoke=1, desk=4, full=16)]
    mask = random_blocks(len(images), images.shape[2], run.torch_rng())
    model = LayerMaskedModel(network)
    noise = torch.rand(images.shape, generator=run.torch_rng(1))
    fills: dict[str, Any] = {"black": 0.0, "white": 1.0, "noise": noise, "1e30": 1e30, "NaN": torch.nan}
    with torch.no_grad():
        logits = model(images, mask)
        apart = {
            name: (model(torch.where(mask, images, fill), mask) - logits).abs().max() for name, fill in fills.items()
        }
    # torch's maximum of NaN is NaN, which no bar lets pass.
    return Measurement(
        float(torch.stack(list(apart.values())).max()),
        table=Table(
            ["hole filled with", "largest difference of logits"], [[name, float(d)] for name, d in apart.items()]
        ),
    )


@measures("m2-no-mask")
def no_mask(run: Run) -> Measurement:
    """Compare the logits under a mask of ones with the plain network's."""
    network, images, logits = some_photos(run)
    model = LayerMaskedModel(network)
    ones = torch.ones(len(images), 1, *images.shape[2:])
    with torch.no_grad():
        found = torch.cat([model(*pair) for pair in zip(images.split(16), ones.split(16), strict=True)])
    return Measurement(float((found - logits).abs().max()))


def fractions(run: Run) -> tuple[float, ...]:
    """Return the shares of the squares that are hidden."""
    return run.at(smoke=(0.1, 0.5), desk=FRACTIONS, full=FRACTIONS)


def unchanged_shares(run: Run, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Return for each method the shares of predictions that survive removal, by seed of the squares and fraction."""
    network, crops, logits = some_photos(run)
    probability, label = logits.softmax(1).max(1)
    sure = probability > 0.15
    images, labels = crops[sure], label[sure]
    shares: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    for seed, method in run.progress([(s, m) for s in run.seeds for m in methods], label="ways to remove"):
        curves = missingness_curves(
            network, images, labels, grid_segmenter(16), "random", fractions(run), method,
            random_state=seed, batch_size=16,
        )  # fmt: skip
        shares[method].append(curves["unchanged"])
    return {method: np.array(found) for method, found in shares.items()}


def share_table(run: Run, shares: dict[str, np.ndarray]) -> Table:
    """Return the mean shares by fraction."""
    columns = [f"{fraction:.0%} hidden" for fraction in fractions(run)]
    rows = [[NAMES[method], *found.mean(0).tolist(), float(found.mean())] for method, found in shares.items()]
    return Table(["removal", *columns, "mean"], rows)


@measures("m3-unchanged-predictions")
def unchanged_predictions(run: Run) -> Measurement:
    """Hide random squares of photographs in each way and count predictions that stay."""
    shares = unchanged_shares(run, ("neighbor", "blur-grey", "grey", "black"))
    figure, axes = run.figure()
    for method, found in shares.items():
        axes.plot(fractions(run), found.mean(0), "o-", label=NAMES[method])
    axes.legend()
    axes.set(xlabel="share of the image that is hidden", ylabel="share of predictions that stay", ylim=(0, 1))
    axes.set_title("EfficientNet-Lite0 on photographs with random squares hidden")
    over = {f"over_{paint}": (shares["neighbor"] - shares[paint]).mean(1).tolist() for paint in ("grey", "black")}
    return Measurement.over_seeds(over, table=share_table(run, shares), figure=figure)


@measures("m4-neighbour-padding")
def neighbour_padding(run: Run) -> Measurement:
    """Compare what fills the hole in each layer."""
    shares = unchanged_shares(run, ("neighbor", "zero", "partial"))
    gain = (shares["neighbor"] - shares["zero"]).mean(1)
    return Measurement.over_seeds(gain.tolist(), table=share_table(run, shares))


def garments(run: Run, n: int) -> PastedGarments:
    """Return the test pictures."""
    return pasted_garments("test", n=run.at(smoke=20, desk=n, full=10_000))


def classifier_of_garments(run: Run, seed: int | None = None, *, erasing: bool = False) -> SmallResNet:
    """Return a trained network."""
    size = run.at(smoke="smoke", desk="desk", full="desk")
    seed = run.seed if seed is None else seed
    network = trained_garment_classifier(erasing=erasing, size=size, random_state=seed, progress=run.progress)
    return network.to(memory_format=torch.channels_last)


def as_array(image: Tensor) -> np.ndarray:
    """Return an image as explainers take it."""
    return image.permute(1, 2, 0).double().numpy()


@measures("m5-lime")
def lime_alignment(run: Run) -> Measurement:
    """Explain garments by LIME with each way of removal and compare the weights with where the garment is."""
    n = run.at(smoke=2, desk=200, full=1000)
    network, data = classifier_of_garments(run), garments(run, 2000)
    images, objects = data[:n], data.objects[:n]
    segments = torch.from_numpy(grid_segmenter(PATCH)(as_array(images[0])))
    everywhere = segments.expand(n, -1, -1)
    samples = run.at(smoke=64, desk=512, full=512)
    scores: dict[str, Tensor] = {}
    for method in ("neighbor", "grey", "black"):
        classifier = MaskedImageClassifier(network, method, batch_size=128)
        weights = torch.zeros(n, int(segments.max()) + 1)
        for i in run.progress(range(n), label=NAMES[method]):
            explanation = LayerMaskLimeImageExplainer(random_state=run.seed).explain_instance(
                as_array(images[i]),
                classifier.predict_proba,
                top_labels=1,
                num_samples=samples,
                batch_size=128,
                segmentation_fn=grid_segmenter(PATCH),
            )
            ((_, parts),) = explanation.local_exp.items()
            numbers, values = zip(*parts, strict=True)
            weights[i, list(numbers)] = torch.tensor(np.array(values), dtype=torch.float32)
        chosen = top_segments(weights, everywhere)
        with torch.no_grad():
            # What is behind a garment is known, so that removing the chosen squares needs none of the methods.
            without = torch.where(chosen, data.backgrounds(slice(n)), images)
            stays = (network(without).argmax(1) == network(images).argmax(1)).float()
        aligned = segment_alignment(weights, everywhere, objects[:, 0])
        scores[method] = torch.stack([aligned, jaccard(chosen, objects), stays])
    mean = {method: score.mean(1).tolist() for method, score in scores.items()}
    return Measurement(
        {
            "over_grey": mean["neighbor"][0] - mean["grey"][0],
            "over_black": mean["neighbor"][0] - mean["black"][0],
            "jaccard": mean["neighbor"][1] - max(mean["grey"][1], mean["black"][1]),
        },
        table=Table(
            ["removal", "alignment", "Jaccard index of the top 20", "predictions that stay without the top 20"],
            [[NAMES[method], *values] for method, values in mean.items()],
        ),
    )


def gaps(run: Run, network: nn.Module, data: PastedGarments) -> dict[str, dict[str, float]]:
    """Hide where a garment was from textures without it, so that the hole's shape alone tells the class."""
    behind = data.backgrounds(slice(None))
    return {
        method: shape_bias(network, behind, data.labels, data.objects, method, batch_size=250)
        for method in ("neighbor", "blur-grey", "grey", "black")
    }


def gap_table(found: Sequence[dict[str, dict[str, float]]]) -> Table:
    """Return the accuracies, means over networks."""
    parts = ("object", "broken", "gap")
    return Table(
        ["removal", "accuracy with holes like the object", "with broken holes", "gap"],
        [
            [NAMES[method], *(float(np.mean([one[method][part] for one in found])) for part in parts)]
            for method in found[0]
        ],
    )


@measures("m6-shape-leak")
def shape_leak(run: Run) -> Measurement:
    """Compare holes that have the object's shape with broken ones, of a network for each seed."""
    data = garments(run, 2000)
    found = [gaps(run, classifier_of_garments(run, seed), data) for seed in run.seeds]
    ours, grey = (float(np.mean([abs(one[method]["gap"]) for one in found])) for method in ("neighbor", "grey"))
    per_seed = [abs(one["neighbor"]["gap"]) / max(abs(one["grey"]["gap"]), 1e-9) for one in found]
    return Measurement(ours / max(grey, 1e-9), per_seed=per_seed, table=gap_table(found))


@measures("m7-augmentation")
def augmentation(run: Run) -> Measurement:
    """Train with grey patches; see whether predictions then survive them, and whether the hole's shape still tells."""
    data = garments(run, 2000)
    few = run.at(smoke=10, desk=500, full=2000)
    stays: dict[bool, list[float]] = {False: [], True: []}
    found = []
    for seed in run.seeds:
        for erasing in (False, True):
            network = classifier_of_garments(run, seed, erasing=erasing)
            curves = missingness_curves(
                network, data[:few], data.labels[:few], grid_segmenter(PATCH), "random", FRACTIONS, "grey",
                random_state=seed, batch_size=250,
            )  # fmt: skip
            stays[erasing].append(float(curves["unchanged_auc"]))
        found.append(gaps(run, network, data))
        run.log.info("seed %d: accuracy %.3f", seed, accuracy(network, data[:], data.labels))
    ours, grey = (float(np.mean([abs(one[method]["gap"]) for one in found])) for method in ("neighbor", "grey"))
    per_seed = [abs(one["grey"]["gap"]) / max(abs(one["neighbor"]["gap"]), 1e-9) for one in found]
    return Measurement(
        grey / max(ours, 1e-9),
        per_seed=per_seed,
        table=gap_table(found),
        remark=f"Predictions that stay with 10 to 50 % painted grey: {np.mean(stays[True]):.2f} after training with "
        f"patches, {np.mean(stays[False]):.2f} without.",
    )


class Shades(nn.Module):
    """A classifier that costs next to nothing: the mean colours of the quarters of an image."""

    def forward(self, images: Tensor) -> Tensor:
        """Return twelve logits."""
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@races("lime")
def against_lime(run: Run) -> Measurement:
    """Explain a photograph by both with the same squares, samples and painted classifiers, and ours with masks too."""
    from lime.lime_image import LimeImageExplainer

    samples = run.at(smoke=16, desk=512, full=512)
    image = as_array(random_crops([photographs()["chelsea"]], 1, 224, run.torch_rng())[0])
    options: dict[str, Any] = {
        "top_labels": 1,
        "num_samples": samples,
        "segmentation_fn": grid_segmenter(16),
        "batch_size": 64,
    }

    def ours(network: nn.Module, method: str) -> Callable[[], Any]:
        classifier = MaskedImageClassifier(network, method).predict_proba
        return lambda: LayerMaskLimeImageExplainer(random_state=0).explain_instance(image, classifier, **options)

    def theirs(network: nn.Module) -> Callable[[], Any]:
        def classifier(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
                return network(batch).softmax(1).double().numpy()

        return lambda: LimeImageExplainer(random_state=0).explain_instance(image, classifier, hide_color=0, **options)

    light = Shades()
    seconds = interleaved(
        run, {"ours": ours(light, "black"), "lime": theirs(light)}, repeats=run.at(smoke=1, desk=5, full=15)
    )
    rows: list[list[Any]] = [["mean colours, painted", seconds["ours"], seconds["lime"]]]
    if run.scale != "smoke":
        heavy = imagenet_classifier("lite0").to(memory_format=torch.channels_last)
        jobs = {"painted": ours(heavy, "black"), "masked": ours(heavy, "neighbor"), "lime": theirs(heavy)}
        times = interleaved(run, jobs, repeats=1)
        rows.append(["EfficientNet-Lite0, painted", times["painted"], times["lime"]])
        rows.append(["EfficientNet-Lite0, layers masked", times["masked"], times["lime"]])
    return Measurement(
        seconds["ours"] / seconds["lime"],
        table=Table(["classifier of ours", "ours, seconds", "lime with paint, seconds"], rows),
        remark="Equal cost: both call the same classifier of mean colours, and ours paints for it.",
    )


Remover = Callable[[SmallResNet, Tensor], Tensor]


def deletion_race(run: Run, removers: dict[str, Remover]) -> Measurement:
    """Compare the area under the deletion curve of ablation maps by layer masking with the least of other ways.

    A remover returns the map of one image. Squares are deleted in the order of a map by showing what is behind the
    garment, which is known, so that the curve itself depends on none of the methods.
    """
    n = run.at(smoke=2, desk=100, full=1000)
    network, data = classifier_of_garments(run), garments(run, 2000)
    images, behind = data[:n].split(1), data.backgrounds(slice(n)).split(1)
    segments = grid_segments(images[0].shape[2], images[0].shape[3], PATCH)
    masked = MaskedImageClassifier(network, "neighbor", batch_size=256)
    steps = torch.linspace(0, 1, 21)

    def area(image: Tensor, background: Tensor, scores: Tensor) -> float:
        ranks = scores.argsort(descending=True, stable=True).argsort()
        kept = ranks >= (steps[:, None] * len(scores)).round()
        masks = keep_segments(segments.expand(len(steps), -1, -1), kept)
        probability = network(torch.where(masks, image, background)).softmax(1)
        return float(torch.trapezoid(probability[:, probability[0].argmax()], steps))

    everyone: dict[str, Remover] = {"layer masking": lambda _, image: ablation(masked, image, segments), **removers}
    areas = dict.fromkeys(everyone, 0.0)
    with torch.no_grad():
        for image, background in run.progress(list(zip(images, behind, strict=True)), label="ablation maps"):
            for name, remover in everyone.items():
                areas[name] += area(image, background, remover(network, image)) / n
    return Measurement(
        areas["layer masking"] / min(areas[name] for name in removers),
        table=Table(["map", "area under the deletion curve"], [[name, value] for name, value in areas.items()]),
    )


def ablation(classifier: Callable[[Tensor, Tensor], Tensor], image: Tensor, segments: Tensor) -> Tensor:
    """Return how much the probability of the predicted class falls when each square is hidden alone."""
    count = int(segments.max()) + 1
    masks = keep_segments(segments.expand(count, -1, -1), ~torch.eye(count, dtype=torch.bool))
    whole = classifier(image, torch.ones_like(masks[:1])).softmax(1)
    label = whole.argmax()
    return whole[0, label] - classifier(image, masks).softmax(1)[:, label]


@races("captum", exclusive=False)
def against_captum(run: Run) -> Measurement:
    """Ablate squares by captum with grey as the baseline."""
    from captum.attr import FeatureAblation

    def remover(network: SmallResNet, image: Tensor) -> Tensor:
        segments = grid_segments(image.shape[2], image.shape[3], PATCH)
        attribution = FeatureAblation(lambda x: network(x).softmax(1)).attribute(
            image,
            0.449,
            target=int(network(image).argmax()),
            feature_mask=segments[None, None],
            perturbations_per_eval=256,
        )
        return attribution[0, 0, ::PATCH, ::PATCH].flatten()

    return deletion_race(run, {"captum FeatureAblation, grey": remover})


@races("shap", exclusive=False)
def against_shap(run: Run) -> Measurement:
    """Ablate squares with shap's masker of images, which blurs what is hidden, at the best of three widths."""
    from shap.maskers import Image

    def remover(width: int) -> Remover:
        def ablate(network: SmallResNet, image: Tensor) -> Tensor:
            picture = np.round(255 * as_array(image[0])).astype(np.uint8)
            masker, flat = Image(f"blur({width},{width})", picture.shape), picture.ravel()

            def classifier(_: Tensor, masks: Tensor) -> Tensor:
                shown = np.concatenate([masker(mask.flatten().numpy(), flat)[0] for mask in masks])
                return network(torch.from_numpy(shown).view(len(masks), *image.shape[1:]).float() / 255)

            return ablation(classifier, image, grid_segments(image.shape[2], image.shape[3], PATCH))

        return ablate

    return deletion_race(run, {f"shap's masker, blur of {width} pixels": remover(width) for width in (5, 9, 17)})
