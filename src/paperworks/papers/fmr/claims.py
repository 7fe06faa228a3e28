"""What the paper claims of its evaluation, on garments with judges trained here, and on photographs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    difference,
    every,
    interleaved,
    mean,
    measures,
    races,
    ratio,
)
from paperworks.papers.fmr.networks import (
    KINDS,
    classifier,
    held_out,
    judges,
    training_images,
    vocabulary,
)
from paperworks.robustness import (
    FMREvaluator,
    FMRReport,
    ImageGenerator,
    LinearGenerator,
    Oracle,
    OracleConstrainedPerturber,
    PerturbedBatch,
    StyleGenerator,
    learn_sparse_mask,
    rank_agreement,
)
from paperworks.testbeds import fashion_mnist, imagenet_classifier, photographs, random_crops

BUDGET = 15
BUDGETS = (0, 5, BUDGET, 40, 100)
STEP = 0.25


def garments(run: Run, n: int = 400) -> tuple[Tensor, Tensor]:
    """Return test images in [0, 1] and their labels."""
    data, n = fashion_mnist("test"), run.at(smoke=20, desk=n, full=10_000)
    return (data[:n] + 1) / 2, data.labels[:n]


def components(run: Run) -> LinearGenerator:
    """Return the generator of most experiments."""
    return principal(100, run.at(smoke=500, desk=5000, full=5000))


@functools.cache
def principal(count: int, images: int) -> LinearGenerator:
    """Return principal components of so many training images."""
    return LinearGenerator.pca(training_images(images), count)


def evaluator(
    run: Run, oracle: Oracle, generator: ImageGenerator | None = None, budget: int = BUDGET, **options: Any
) -> FMREvaluator:
    """Return an evaluator with the step size of the record."""
    size = STEP if isinstance(generator, LinearGenerator | None) else None
    perturber = OracleConstrainedPerturber(generator or components(run), oracle, size, budget, **options)
    return FMREvaluator(perturber, held_out=held_out(run))


@measures("f1-labels-kept")
def labels_kept(run: Run) -> Measurement:
    """Search with each budget, and ask the judges, and one that the search doesn't know, about the results."""
    images, labels = garments(run)
    oracle, budgets = judges(run), run.at(smoke=(0, BUDGET), desk=BUDGETS, full=BUDGETS)
    violations, agreement = [0] * len(run.seeds), []
    rows: dict[int, list[list[float]]] = {budget: [] for budget in budgets}
    for number, budget in run.progress([(n, b) for n in range(len(run.seeds)) for b in budgets], label="searches"):
        model = classifier(run, "plain", run.seeds[number])
        report = evaluator(run, oracle, budget=budget).evaluate(model, (images, labels))
        violations[number] += report.violations
        if budget == BUDGET:
            agreement.append(report.held_out_agreement)
        distance, steps = (float(report.diagnostics[name][report.validated].mean()) for name in ("l2", "steps"))
        scores = report.held_out_agreement, report.PA, report.FMR
        rows[budget].append([report.VR, report.violations, *scores, steps, distance])
    columns = ["budget", "validated", "violations", "held-out agreement", "PA", "FMR", "steps accepted", "distance"]
    return Measurement(
        {"violations": every(violations), "held_out_agreement": mean(agreement)},
        table=Table(columns, [[budget, *np.mean(found, axis=0).tolist()] for budget, found in rows.items()]),
        figure=gallery(run, oracle, images, labels, classifier(run, "plain")),
    )


def gallery(run: Run, oracle: Oracle, images: Tensor, labels: Tensor, model: nn.Module) -> Any:
    """Draw images beside those made of them for a model."""
    n = 8
    made = evaluator(run, oracle).perturber.generate(model, images[:n], labels[:n])
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    with torch.no_grad():
        seen = model(made.x).argmax(1).tolist()
    figure, panels = run.figure(2, n, squeeze=False)
    figure.set_size_inches(11, 3.2)
    for column in range(n):
        for row, picture in enumerate((images[column, 0], made.x[column, 0])):
            panels[row, column].imshow(picture, cmap="gray_r", vmin=0, vmax=1)
            panels[row, column].set(xticks=[], yticks=[])
        panels[0, column].set_title(names[int(labels[column])], fontsize=9)
        panels[1, column].set_title(names[seen[column]], fontsize=9)
    panels[0, 0].set_ylabel("original")
    panels[1, 0].set_ylabel("made for it")
    figure.suptitle("Above each image its label, and what the evaluated network sees in the image made for it")
    return figure


def score_row(name: str, report: FMRReport) -> list[Any]:
    """Return a row of a table of scores."""
    low, high = report.ci["FMR"]
    return [name, report.SA, report.SA_recon, report.PA, report.FMR, f"{low:.3f} to {high:.3f}", report.conditional]


SCORES = ["network", "SA", "SA of reconstructions", "PA", "FMR", "95 % interval", "conditional"]


@measures("f2-ranks-robustness")
def ranks_robustness(run: Run) -> Measurement:
    """Evaluate a plain network and one trained with noise, of each seed."""
    data, oracle = garments(run), judges(run)
    found: dict[str, list[float]] = {"score": [], "accuracy": []}
    rows = []
    for seed in run.progress(run.seeds, label="seeds"):
        plain, noise = (
            evaluator(run, oracle).evaluate(classifier(run, kind, seed), data) for kind in ("plain", "noise")
        )
        found["score"].append(noise.FMR - plain.FMR)
        found["accuracy"].append(abs(noise.SA - plain.SA))
        rows += [score_row(f"plain, seed {seed}", plain), score_row(f"noise, seed {seed}", noise)]
    return Measurement.over_seeds(found, table=Table(SCORES, rows))


@measures("f3-dynamic")
def dynamic(run: Run) -> Measurement:
    """Show the images made for each of four networks to all of them; rejected steps are halved, up to the boundary."""
    kinds, oracle, data = KINDS[:4], judges(run), garments(run)
    matrices = []
    for seed in run.progress(run.seeds, label="transfer matrices"):
        models = {kind: classifier(run, kind, seed) for kind in kinds}
        matrices.append(evaluator(run, oracle, on_reject="backtrack").transfer_matrix(models, data))
    models = {kind: classifier(run, kind) for kind in kinds}
    stopped = evaluator(run, oracle).transfer_matrix(models, data)
    worse, matrix = [misplaced(found) for found in matrices], np.mean(matrices, axis=0)
    figure, axes = run.figure()
    shown_matrix = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    axes.set(
        xticks=range(4), yticks=range(4), xticklabels=kinds, yticklabels=kinds,
        xlabel="accuracy of", ylabel="on images made for",
    )  # fmt: skip
    axes.grid(False)
    for (i, j), value in np.ndenumerate(matrix):
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
    figure.colorbar(shown_matrix, ax=axes)
    rows = [
        [kind, rule, *row]
        for rule, found in (("halve, mean over seeds", matrix), (f"stop, seed {run.seed}", stopped))
        for kind, row in zip(kinds, found.tolist(), strict=True)
    ]
    return Measurement(
        every(worse),
        table=Table(["images made for", "rejected steps", *kinds], rows),
        figure=figure,
        remark="Where the search stops at the first rejected step, "
        f"{misplaced(stopped)} of the rows of seed {run.seed} do.",
    )


def misplaced(matrix: np.ndarray) -> int:
    """Count the rows of a transfer matrix whose diagonal is not the smallest entry."""
    return int((matrix.diagonal() > matrix.min(1)).sum())


def generators(run: Run) -> dict[str, ImageGenerator]:
    """Return three generators: components, low frequencies, and a vocabulary learned from the training images."""
    return {"PCA": components(run), "DCT": LinearGenerator.dct(28, 28, 10), "VQ": vocabulary(run)}


@measures("f4-stable-ranking")
def stable_ranking(run: Run) -> Measurement:
    """Rank six networks in eighteen settings."""
    data = garments(run, 200)
    models = {kind: classifier(run, kind) for kind in KINDS}
    oracles = {"plain judges": judges(run), "judges trained with changes": judges(run, "mixed judge")}
    settings = [
        (generator_name, generator, judge_name, oracle, budget)
        for generator_name, generator in generators(run).items()
        for judge_name, oracle in oracles.items()
        for budget in run.at(smoke=(2,), desk=(5, BUDGET, 40), full=(5, BUDGET, 40))
    ]
    rows, clean, perturbed = [], [], []
    for generator_name, generator, judge_name, oracle, budget in run.progress(settings, label="settings"):
        judge = evaluator(run, oracle, generator, budget)
        reports = [judge.evaluate(model, data) for model in models.values()]
        rows.append([generator_name, judge_name, budget, *(report.FMR for report in reports)])
        clean = [report.clean for report in reports]  # the same in every setting
        perturbed.append([report.perturbed for report in reports])

    def agreement(perturbed: np.ndarray, clean: np.ndarray) -> float:
        scores = perturbed.mean(0) / np.maximum(clean.mean(0), 1e-9)
        return rank_agreement(scores.round(9))  # equal scores stay equal

    scores = np.array([row[3:] for row in rows], dtype=float)
    return Measurement(
        # Images first: they are what is drawn anew.
        bootstrap(agreement, np.moveaxis(np.array(perturbed), 2, 0), np.transpose(clean), of="images"),
        table=Table(["generator", "judges", "budget", *KINDS], rows),
        remark="; ".join(f"{name} {value:.2f}" for name, value in agreements(settings, scores).items()),
    )


def agreements(settings: Sequence[tuple[Any, ...]], scores: np.ndarray) -> dict[str, float]:
    """Return the mean rank correlation within each generator and within each oracle."""
    groups: dict[str, list[int]] = {}
    for number, (generator_name, _, judge_name, _, _) in enumerate(settings):
        for name in (f"within {generator_name}", f"within {judge_name}"):
            groups.setdefault(name, []).append(number)
    return {name: rank_agreement(scores[numbers]) for name, numbers in groups.items()}


@measures("f5-sparse-latents")
def sparse_latents(run: Run) -> Measurement:
    """Evaluate networks with all components and with the tenth that the judges' stand-in needs most."""
    data, oracle, stand_in = garments(run), judges(run), classifier(run, "judge", 104)
    training, kinds = fashion_mnist("train"), KINDS[:4]
    n, steps = run.at(smoke=100, desk=2000, full=20_000), run.at(smoke=5, desk=300, full=1000)
    budget = run.at(smoke=2, desk=BUDGET, full=BUDGET)

    def scores(generator: LinearGenerator, seeds: Sequence[int]) -> np.ndarray:
        """Return scores, (seeds, networks, 2): with all components, and with a tenth."""
        mask = learn_sparse_mask(
            generator, stand_in, (training[:n] + 1) / 2, training.labels[:n],
            keep=0.1, steps=steps, random_state=run.seed,
        )  # fmt: skip
        ways = [evaluator(run, oracle, generator, budget, sparse_mask=m) for m in (None, mask)]
        cases = run.progress([(seed, kind) for seed in seeds for kind in kinds], label="networks")
        found = [[way.evaluate(classifier(run, kind, seed), data).FMR for way in ways] for seed, kind in cases]
        return np.array(found).reshape(len(seeds), len(kinds), 2)

    found = scores(components(run), run.seeds)
    more = scores(principal(400, run.at(smoke=500, desk=5000, full=5000)), run.seeds[:1])
    changes, of_more = (np.abs(part[..., 0] - part[..., 1]) for part in (found, more))
    rows = [
        [kind, count, *pair]
        for count, part in ((100, found), (400, more))
        for kind, pair in zip(kinds, part.mean(0).tolist(), strict=True)
    ]
    return Measurement(
        {
            "score_change": mean(changes.max(1).tolist()),
            "same_ranking": every([bool((one[:, 0].argsort() == one[:, 1].argsort()).all()) for one in found]),
        },
        table=Table(["network", "components", "FMR with all", "FMR with a tenth"], rows),
        remark=f"The mean change is {changes.mean():.3f}; of a tenth of 400 components {of_more.mean():.3f}, "
        f"and at most {of_more.max():.3f}.",
    )


class Resized(nn.Module):
    """A network of ImageNet that is shown images in its own size."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.network(functional.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True))


@measures("f6-imagenet")
def imagenet(run: Run) -> Measurement:
    """Evaluate EfficientNet-Lite0 on crops of photographs whose labels two larger ones agree on and keep."""
    networks = [imagenet_classifier(name) for name in ("lite0", "lite1", "lite2")]
    model, *larger = [network.to(memory_format=torch.channels_last) for network in networks]
    oracle = Oracle([Resized(network, network.side) for network in larger], "unanimous")
    photos = list(photographs().values())[: run.at(smoke=1, desk=10, full=10)]
    rows: dict[str, list[list[float]]] = {}
    violations = [0] * len(run.seeds)
    budget = run.at(smoke=1, desk=10, full=40)
    ways: dict[str, ImageGenerator] = {
        "low frequencies": LinearGenerator.dct(model.side, model.side, 28),
        "style": StyleGenerator(),
    }
    for number, name in run.progress([(n, way) for n in range(len(run.seeds)) for way in ways], label="crops"):
        crops = random_crops(photos, run.at(smoke=1, desk=2, full=100), model.side, run.torch_rng(run.seeds[number]))
        labels = torch.cat([oracle.predict(part) for part in crops.split(16)])
        images, labels = crops[labels >= 0], labels[labels >= 0]
        perturber = OracleConstrainedPerturber(ways[name], oracle, budget=budget)
        report = FMREvaluator(perturber, batch_size=16).evaluate(model, (images, labels))
        violations[number] += report.violations
        scores = report.SA, report.SA_recon, report.PA, report.FMR, report.conditional
        means = (float(report.diagnostics[part].mean()) for part in ("steps", "ssim"))
        rows.setdefault(name, []).append([len(labels), *scores, *means])
    columns = ["generator", "crops a seed", "SA", "SA of reconstructions", "PA", "FMR", "conditional"]
    return Measurement(
        every(violations),
        table=Table(
            [*columns, "steps accepted", "SSIM"],
            [[name, *np.mean(found, axis=0).tolist()] for name, found in rows.items()],
        ),
    )


# Races


Attack = Callable[[float], Callable[[Tensor, Tensor], Tensor]]
"""From a radius to a function that attacks images with their labels."""


WAYS = ("ours", "at equal distance", "at equal accuracy")


def attack_race(run: Run, name: str, attack_of: Callable[[nn.Module], Attack]) -> Measurement:
    """Search, and attack as far in the mean by projected gradients; ask a held-out judge, and take the time of a step.

    The attack knows nothing of labels that must stay, so an answer of the judges is added to the time of its steps.
    """
    found = np.array([compared(run, attack_of, seed) for seed in run.progress(run.seeds, label="networks")])
    agreement = found[:, :, 2]  # by seed and way
    model, oracle = classifier(run, "plain"), judges(run)
    perturber = evaluator(run, oracle).perturber
    made, x, y = made_for(run, model)
    attack = attack_of(model)(float(found[0, 0, 0]))
    leaf = x.clone().requires_grad_()
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: perturber.generate(model, x, y),
        "theirs": lambda: attack(x, y),
        "judges": lambda: oracle.predict(x),
        "gradient": lambda: torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf),
    }
    seconds = interleaved(run, jobs, repeats=run.at(smoke=1, desk=9, full=15)).seconds
    ours = [t / steps_tried(made) for t in seconds["ours"]]
    theirs, alone = (
        [(t / steps + judged) / len(x) for t, judged in zip(seconds[job], seconds["judges"], strict=True)]
        for job, steps in (("theirs", BUDGET), ("gradient", 1))
    )
    names = [way if way == "ours" else f"{name}, {way}" for way in WAYS]
    return Measurement(
        {
            "agreement": difference(agreement[:, 0].tolist(), agreement[:, 1].tolist(), of="paired networks"),
            "step_time": ratio(ours, theirs),
        },
        table=Table(
            ["attack", "mean distance", "accuracy", "held-out agreement", "judges' agreement"],
            [[way, *row] for way, row in zip(names, found.mean(0).tolist(), strict=True)],
        ),
        settings=f"{BUDGET} steps of 2.5 times the radius in all (arXiv 1706.06083), the whole batch at once",
        floor=ratio(alone, theirs).value,
        remark=f"A step of an image: {1e6 * np.median(ours):.0f} µs of ours with its judges, "
        f"{1e6 * np.median(theirs):.0f} µs of {name} with an answer of the judges.",
    )


def made_for(run: Run, model: nn.Module) -> tuple[PerturbedBatch, Tensor, Tensor]:
    """Return what the search makes for a network, and the validated images and labels that it starts from."""
    images, labels = garments(run, 200)
    made = evaluator(run, judges(run)).perturber.generate(model, images, labels)
    return made, images[made.validated], labels[made.validated]


def compared(run: Run, attack_of: Callable[[nn.Module], Attack], seed: int) -> list[list[float]]:
    """Return mean distance, accuracy and both judges' agreement of each way to attack a network."""
    model, oracle, judge = classifier(run, "plain", seed), judges(run), held_out(run)
    made, x, y = made_for(run, model)
    ours, attack = made.x[made.validated], attack_of(model)

    def distance(found: Tensor) -> float:
        return float((found - x).flatten(1).norm(dim=1).mean())

    def accuracy_on(found: Tensor) -> float:
        with torch.no_grad():
            return float((model(found).argmax(1) == y).double().mean())

    far = radius(run, lambda r: distance(attack(r)(x, y)), distance(ours))
    as_hard = radius(run, lambda r: -accuracy_on(attack(r)(x, y)), -accuracy_on(ours))
    return [
        [
            distance(found),
            accuracy_on(found),
            float(judge.accepts(found, y).double().mean()),
            float(oracle.accepts(found, y).double().mean()),
        ]
        for found in (ours, attack(far)(x, y), attack(as_hard)(x, y))
    ]


def steps_tried(made: PerturbedBatch) -> int:
    """Return how many steps a search took that stops at the first rejected one."""
    return int((made.accepted_steps[made.validated] + 1).clamp(max=BUDGET).sum())


def radius(run: Run, measure: Callable[[float], float], wanted: float) -> float:
    """Return the radius at which an attack measures what is wanted, which rises with the radius, by bisection."""
    low, high = 0.0, 8.0
    for _ in range(run.at(smoke=2, desk=10, full=14)):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) < wanted else (low, middle)
    return (low + high) / 2


@races("torchattacks")
def against_torchattacks(run: Run) -> Measurement:
    """Attack with torchattacks."""
    from torchattacks import PGDL2

    def attack_of(model: nn.Module) -> Attack:
        return lambda r: PGDL2(model, eps=r, alpha=2.5 * r / BUDGET, steps=BUDGET, random_start=False)

    return attack_race(run, "torchattacks", attack_of)


@races("foolbox")
def against_foolbox(run: Run) -> Measurement:
    """Attack with foolbox, with the same steps."""
    from foolbox import PyTorchModel
    from foolbox.attacks import L2ProjectedGradientDescentAttack

    def attack_of(model: nn.Module) -> Attack:
        network = PyTorchModel(model, bounds=(0, 1), device="cpu")
        method = L2ProjectedGradientDescentAttack(rel_stepsize=2.5 / BUDGET, steps=BUDGET, random_start=False)
        return lambda r: lambda x, y: method.run(network, x, y, epsilon=r)

    return attack_race(run, "foolbox", attack_of)


@races("art")
def against_art(run: Run) -> Measurement:
    """Attack with the Adversarial Robustness Toolbox, with the same steps."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    def attack_of(model: nn.Module) -> Attack:
        estimator = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), input_shape=(1, 28, 28), nb_classes=10, clip_values=(0, 1), device_type="cpu"
        )

        def with_radius(r: float) -> Callable[[Tensor, Tensor], Tensor]:
            method = ProjectedGradientDescent(
                estimator, norm=2, eps=r, eps_step=2.5 * r / BUDGET, max_iter=BUDGET, batch_size=512, verbose=False
            )
            return lambda x, y: torch.from_numpy(method.generate(x.numpy(), y.numpy()))

        return with_radius

    return attack_race(run, "ART", attack_of)
