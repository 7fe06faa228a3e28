"""What the paper on layer masking claims, on photographs and on garments whose evidence is known to the pixel."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    difference,
    every,
    greatest,
    interleaved,
    least,
    measures,
    races,
)
from paperworks.robustness import (
    LayerMaskedModel,
    LayerMaskLimeImageExplainer,
    MaskedImageClassifier,
    broken_mask,
    grid_segmenter,
    grid_segments,
    jaccard,
    keep_segments,
    missingness_curves,
    segment_alignment,
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


def some_photos(run: Run, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return EfficientNet-Lite0, a seed's random crops of photographs, and the logits of those."""
    network = imagenet_classifier("lite0").to(memory_format=torch.channels_last)
    photos = list(photographs().values())[: run.at(smoke=2, desk=10, full=10)]
    crops = random_crops(photos, run.at(smoke=1, desk=3, full=32), network.side, run.torch_rng(seed))
    with torch.no_grad():
        return network, crops, torch.cat([network(part) for part in crops.split(16)])


@measures("m1-colour")
def colour(run: Run) -> Measurement:
    """Fill the hole with other colours, noise, NaN and extremes, and compare the logits."""
    found = [fills_apart(run, seed) for seed in run.progress(run.seeds, label="seeds")]
    return Measurement(
        every([max_of(apart.values()) for apart in found]),
        table=Table(
            ["hole filled with", "largest difference of logits"],
            [[name, max_of(apart[name] for apart in found)] for name in found[0]],
        ),
    )


def max_of(values: Iterable[float]) -> float:
    """Return the largest number, NaN where there is one, which no bar lets pass."""
    return float(np.max(list(values)))


def fills_apart(run: Run, seed: int) -> dict[str, float]:
    """Return for each way to fill holes how far the logits are from those of the image itself."""
    network, images, _ = some_photos(run, seed)
    images = images[: run.at(smoke=1, desk=4, full=16)]
    mask = random_blocks(len(images), images.shape[2], run.torch_rng(seed))
    model = LayerMaskedModel(network)
    noise = torch.rand(images.shape, generator=run.torch_rng(seed + 1))
    fills: dict[str, Any] = {"black": 0.0, "white": 1.0, "noise": noise, "1e30": 1e30, "NaN": torch.nan}
    with torch.no_grad():
        logits = model(images, mask)
        return {
            name: float((model(torch.where(mask, images, fill), mask) - logits).abs().max())
            for name, fill in fills.items()
        }


@measures("m2-no-mask")
def no_mask(run: Run) -> Measurement:
    """Compare the logits under a mask of ones with the plain network's."""
    apart = []
    for seed in run.progress(run.seeds, label="seeds"):
        network, images, logits = some_photos(run, seed)
        model = LayerMaskedModel(network)
        ones = torch.ones(len(images), 1, *images.shape[2:])
        with torch.no_grad():
            found = torch.cat([model(*pair) for pair in zip(images.split(16), ones.split(16), strict=True)])
        apart.append(float((found - logits).abs().max()))
    return Measurement(every(apart))


def fractions(run: Run) -> tuple[float, ...]:
    """Return the shares of the squares that are hidden."""
    return run.at(smoke=(0.1, 0.5), desk=FRACTIONS, full=FRACTIONS)


def unchanged_shares(run: Run, methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Return for each method the shares of predictions that survive removal, by seed and fraction."""
    cases = run.progress([(method, seed) for method in methods for seed in run.seeds], label="ways to remove")
    found = [unchanged_share(run, method, seed) for method, seed in cases]
    return dict(zip(methods, np.array(found).reshape(len(methods), len(run.seeds), -1), strict=True))


def unchanged_share(run: Run, method: str, seed: int) -> np.ndarray:
    """Return the share of predictions that survive removal by a method, by fraction."""

    def make() -> np.ndarray:
        network, crops, logits = some_photos(run, seed)
        probability, label = logits.softmax(1).max(1)
        sure = probability > 0.15
        curves = missingness_curves(
            network, crops[sure], label[sure], grid_segmenter(16), "random", fractions(run), method,
            random_state=seed, batch_size=16,
        )  # fmt: skip
        return np.asarray(curves["unchanged"])

    return run.cached("masking-unchanged", make, scale=run.scale, method=method, seed=seed)


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
    means = {method: found.mean(1).tolist() for method, found in shares.items()}
    over = {f"over_{paint}": difference(means["neighbor"], means[paint]) for paint in ("grey", "black")}
    return Measurement(over, table=share_table(run, shares), figure=figure)


@measures("m4-neighbour-padding")
def neighbour_padding(run: Run) -> Measurement:
    """Compare what fills the hole in each layer."""
    shares = unchanged_shares(run, ("neighbor", "zero", "partial"))
    ours, zeros = (shares[method].mean(1).tolist() for method in ("neighbor", "zero"))
    return Measurement(difference(ours, zeros), table=share_table(run, shares))


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
    methods = ("neighbor", "grey", "black")
    cases = [(number, method) for number in range(len(run.seeds)) for method in methods]
    found: dict[str, list[Tensor]] = {method: [] for method in methods}
    for number, method in run.progress(cases, label="explanations"):
        found[method].append(explained(run, number, method))
    scores = {method: torch.cat(parts, 1).tolist() for method, parts in found.items()}  # by score and image
    return Measurement(
        {
            "over_grey": difference(scores["neighbor"][0], scores["grey"][0], of="images"),
            "over_black": difference(scores["neighbor"][0], scores["black"][0], of="images"),
            "jaccard": least(
                [difference(scores["neighbor"][1], scores[paint][1], of="images") for paint in ("grey", "black")]
            ),
        },
        table=Table(
            ["removal", "alignment", "Jaccard index of the top 20", "predictions that stay without the top 20"],
            [[NAMES[method], *np.mean(values, axis=1).tolist()] for method, values in scores.items()],
        ),
    )


def explained(run: Run, number: int, method: str) -> Tensor:
    """Return alignment, Jaccard index and whether predictions stay, (3, images), of the network of a seed."""
    n, samples, seed = run.at(smoke=2, desk=34, full=1000), run.at(smoke=64, desk=512, full=512), run.seeds[number]

    def make() -> Tensor:
        network, data = classifier_of_garments(run, seed), garments(run, 2000)
        rows = slice(n * number, n * (number + 1))  # each network explains images of its own
        images, objects = data[rows], data.objects[rows]
        segments = torch.from_numpy(grid_segmenter(PATCH)(as_array(images[0])))
        everywhere = segments.expand(n, -1, -1)
        classifier = MaskedImageClassifier(network, method, batch_size=128)
        weights = torch.zeros(n, int(segments.max()) + 1)
        for i in range(n):
            explanation = LayerMaskLimeImageExplainer(random_state=seed).explain_instance(
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
            without = torch.where(chosen, data.backgrounds(rows), images)
            stays = (network(without).argmax(1) == network(images).argmax(1)).float()
        aligned = segment_alignment(weights, everywhere, objects[:, 0])
        return torch.stack([aligned, jaccard(chosen, objects), stays])

    inputs = {"method": method, "seed": seed, "first": n * number, "images": n, "samples": samples}
    return run.cached("masking-lime", make, scale=run.scale, **inputs)


Rights = dict[str, dict[str, np.ndarray]]
"""By way of removal, and by ``object`` and ``broken`` holes, whether each picture is put into its class."""


def rights(run: Run, network: nn.Module, data: PastedGarments) -> Rights:
    """Hide where a garment was from textures without it, so that the hole's shape alone tells the class."""
    behind = data.backgrounds(slice(None))
    found: Rights = {}
    for method in ("neighbor", "blur-grey", "grey", "black"):
        classifier = MaskedImageClassifier(network, method, batch_size=250)
        found[method] = {}
        for part, holes in (("object", data.objects), ("broken", broken_mask(data.objects))):
            with torch.no_grad():
                right = classifier(behind, ~holes).argmax(1) == data.labels
            found[method][part] = right.numpy().astype(float)
    return found


def gap_ratio(found: Rights, above: str, below: str) -> Estimate:
    """Return the ratio of two methods' gaps in accuracy, at most 1000, over pictures drawn anew."""

    def statistic(*right: np.ndarray) -> float:
        gaps = [abs(float(right[k].mean() - right[k + 1].mean())) for k in (0, 2)]
        return gaps[0] / max(gaps[1], gaps[0] / 1000, 1e-9)

    samples = [found[method][part] for method in (above, below) for part in ("object", "broken")]
    return bootstrap(statistic, *samples, of="pictures")


def gap_table(found: Sequence[Rights]) -> Table:
    """Return the accuracies, means over networks."""
    rows = []
    for method in found[0]:
        whole, apart = (float(np.mean([one[method][part] for one in found])) for part in ("object", "broken"))
        rows.append([NAMES[method], whole, apart, whole - apart])
    return Table(["removal", "accuracy with holes like the object", "with broken holes", "gap"], rows)


@measures("m6-shape-leak")
def shape_leak(run: Run) -> Measurement:
    """Compare holes that have the object's shape with broken ones, of a network for each seed."""
    data = garments(run, 2000)
    seeds = run.progress(run.seeds, label="networks")
    found = [rights(run, classifier_of_garments(run, seed), data) for seed in seeds]
    return Measurement(greatest([gap_ratio(one, "neighbor", "grey") for one in found]), table=gap_table(found))


@measures("m7-augmentation")
def augmentation(run: Run) -> Measurement:
    """Train with grey patches; see whether predictions then survive them, and whether the hole's shape still tells."""
    data = garments(run, 2000)
    few = run.at(smoke=10, desk=500, full=2000)
    stays: dict[bool, list[float]] = {False: [], True: []}
    found = []
    for seed in run.progress(run.seeds, label="networks"):
        for erasing in (False, True):
            network = classifier_of_garments(run, seed, erasing=erasing)
            curves = missingness_curves(
                network, data[:few], data.labels[:few], grid_segmenter(PATCH), "random", FRACTIONS, "grey",
                random_state=seed, batch_size=250,
            )  # fmt: skip
            stays[erasing].append(float(curves["unchanged_auc"]))
        found.append(rights(run, network, data))
        run.log.info("seed %d: accuracy %.3f", seed, accuracy(network, data[:], data.labels))
    return Measurement(
        least([gap_ratio(one, "grey", "neighbor") for one in found]),
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
    times = interleaved(
        run, {"ours": ours(light, "black"), "lime": theirs(light)}, repeats=run.at(smoke=1, desk=9, full=15)
    )
    rows: list[list[Any]] = [["mean colours, painted", samples, times.median("ours"), times.median("lime")]]
    if run.scale != "smoke":
        heavy = imagenet_classifier("lite0").to(memory_format=torch.channels_last)
        options["num_samples"] = 64  # its own cost is all that is seen, which grows with their number
        jobs = {"painted": ours(heavy, "black"), "masked": ours(heavy, "neighbor"), "lime": theirs(heavy)}
        slow = interleaved(run, jobs, repeats=1).medians()
        rows.append(["EfficientNet-Lite0, painted", 64, slow["painted"], slow["lime"]])
        rows.append(["EfficientNet-Lite0, layers masked", 64, slow["masked"], slow["lime"]])
    return Measurement(
        times.ratio("ours", "lime"),
        table=Table(["classifier of ours", "samples", "ours, seconds", "lime with paint, seconds"], rows),
        settings=f"{samples} samples in batches of 64, the same squares, hidden parts black",
        remark="Equal cost: both call the same classifier of mean colours, and ours paints for it.",
    )


Mapper = Callable[[nn.Module, Tensor], Tensor]
"""From a network and one image to a score of each of its squares."""
Classifier = Callable[[Tensor, Tensor], Tensor]
"""From one image and masks of what is kept to logits."""


def deletion_area(network: nn.Module, image: Tensor, behind: Tensor, segments: Tensor, scores: Tensor) -> float:
    """Return the area under the probability of the class while squares of the highest scores show what is behind."""
    steps = torch.linspace(0, 1, 21)
    ranks = scores.argsort(descending=True, stable=True).argsort()
    kept = ranks >= (steps[:, None] * len(scores)).round()
    masks = keep_segments(segments.expand(len(steps), -1, -1), kept)
    probability = network(torch.where(masks, image, behind)).softmax(1)
    return float(torch.trapezoid(probability[:, probability[0].argmax()], steps))


def squares(image: Tensor, patch: int = PATCH) -> Tensor:
    """Return the squares of one image."""
    return grid_segments(image.shape[2], image.shape[3], patch)


def by_layer_masking(network: nn.Module) -> Classifier:
    """Hide from every layer."""
    return MaskedImageClassifier(network, "neighbor", batch_size=256)


def deletion_areas(run: Run, mappers: dict[str, Mapper]) -> dict[str, list[float]]:
    """Return the areas under the deletion curves of several maps of garments.

    Squares are deleted in the order of a map by showing what is behind the garment, which is known, so that the curve
    itself depends on none of the methods.
    """
    n, data = run.at(smoke=2, desk=34, full=1000), garments(run, 2000)
    areas: dict[str, list[float]] = {name: [] for name in mappers}
    networks = [classifier_of_garments(run, seed) for seed in run.seeds]
    cases = [
        (network, n * number + i) for number, network in enumerate(networks) for i in range(n)
    ]  # images of its own
    with torch.no_grad():
        for network, i in run.progress(cases, label="maps"):
            image, behind = data[i : i + 1], data.backgrounds(slice(i, i + 1))
            for name, mapper in mappers.items():
                areas[name].append(deletion_area(network, image, behind, squares(image), mapper(network, image)))
    return areas


def to_best(areas: dict[str, list[float]]) -> Estimate:
    """Return the mean area of the first map over that of the best of the others."""
    (_, ours), *others = areas.items()
    return greatest([bootstrap(lambda a, b: a.mean() / b.mean(), ours, theirs, of="images") for _, theirs in others])


def ablation(classifier: Classifier, image: Tensor, segments: Tensor) -> Tensor:
    """Return how much the probability of the predicted class falls when each square is hidden alone."""
    count = int(segments.max()) + 1
    masks = keep_segments(segments.expand(count, -1, -1), ~torch.eye(count, dtype=torch.bool))
    whole = classifier(image, torch.ones_like(masks[:1])).softmax(1)
    label = whole.argmax()
    return whole[0, label] - classifier(image, masks).softmax(1)[:, label]


def regression(classifier: Classifier, image: Tensor, segments: Tensor) -> Tensor:
    """Return the weights of squares in a ridge regression of the probability where half of them are hidden at random.

    There are twice as many samples as squares, the same for every classifier.
    """
    count = int(segments.max()) + 1
    shown = torch.rand(2 * count, count, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = classifier(image, torch.ones_like(segments[None], dtype=torch.bool)).softmax(1)
    found = classifier(image, keep_segments(segments.expand(len(shown), -1, -1), shown)).softmax(1)
    return torch.from_numpy(Ridge(alpha=1).fit(shown.numpy(), found[:, whole.argmax()].numpy()).coef_)


@races("captum", exclusive=False)
def against_captum(run: Run) -> Measurement:
    """Ablate squares by captum with grey as the baseline."""
    from captum.attr import FeatureAblation

    def ours(network: nn.Module, image: Tensor) -> Tensor:
        return ablation(by_layer_masking(network), image, squares(image))

    def theirs(network: nn.Module, image: Tensor) -> Tensor:
        attribution = FeatureAblation(lambda x: network(x).softmax(1)).attribute(
            image,
            0.449,
            target=int(network(image).argmax()),
            feature_mask=squares(image)[None, None],
            perturbations_per_eval=256,
        )
        return attribution[0, 0, ::PATCH, ::PATCH].flatten()

    areas = deletion_areas(run, {"layer masking": ours, "captum FeatureAblation, grey": theirs})
    return Measurement(
        to_best(areas),
        table=Table(
            ["map", "area under the deletion curve"], [[name, float(np.mean(found))] for name, found in areas.items()]
        ),
        settings=f"each of {PATCH}x{PATCH} pixels hidden alone",
    )


@races("shap", exclusive=False)
def against_shap(run: Run) -> Measurement:
    """Hide squares alone, and half of them at once, with shap's masker of images, at the best of three blurs."""
    from shap.maskers import Image

    def by_blur(blur: int) -> Callable[[nn.Module], Classifier]:
        def of(network: nn.Module) -> Classifier:
            def classifier(image: Tensor, masks: Tensor) -> Tensor:
                picture = np.round(255 * as_array(image[0])).astype(np.uint8)
                channels, height, width = image.shape[1:]
                masker, flat = Image(f"blur({blur},{blur})", picture.shape), picture.ravel()
                by_value = (mask.flatten().repeat_interleave(channels).numpy() for mask in masks)
                shown = torch.from_numpy(np.concatenate([masker(mask, flat)[0] for mask in by_value]))
                parts = shown.view(len(masks), height, width, channels).movedim(-1, 1).split(64)
                return torch.cat([network(part.float() / 255) for part in parts])

            return classifier

        return of

    def mapper(of: Callable[[nn.Module], Classifier], scores: Callable[..., Tensor], patch: int = PATCH) -> Mapper:
        return lambda network, image: scores(of(network), image, squares(image, patch))

    widths = run.at(smoke=(9,), desk=(5, 9, 17), full=(5, 9, 17))
    ways = {"layer masking": by_layer_masking} | {
        f"shap's masker, blur of {width} pixels": by_blur(width) for width in widths
    }
    alone, half = (
        deletion_areas(run, {name: mapper(way, scores) for name, way in ways.items()})
        for scores in (ablation, regression)
    )
    # A larger classifier, on photographs, where a deleted square shows the mean colour: what is behind isn't known.
    large: dict[str, list[float]] = {name: [] for name in ways}
    network, crops, _ = some_photos(run, run.seed)
    with torch.no_grad():
        for i in run.progress(range(run.at(smoke=0, desk=6, full=200)), label="photographs"):
            image = crops[i : i + 1]
            behind = image.mean((2, 3), keepdim=True).expand_as(image)
            for name, way in ways.items():
                scores = mapper(way, regression, 32)(network, image)
                large[name].append(deletion_area(network, image, behind, squares(image, 32), scores))
    settings = {
        "garments, each square alone": alone,
        "garments, half of the squares at once": half,
        "photographs, EfficientNet-Lite0, half of the squares at once": large,
    }
    return Measurement(
        {"alone": to_best(alone), "half": to_best(half)},
        table=Table(
            ["hidden", "map", "area under the deletion curve"],
            [
                [setting, name, float(np.mean(found))]
                for setting, areas in settings.items()
                for name, found in areas.items()
                if found
            ],
        ),
        settings=f"squares of {PATCH}x{PATCH} pixels of garments, and of 32x32 of photographs",
    )
