"""Foundation-model-oriented robustness: accuracy on images made for a model, relative to that on the originals."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count
from paperworks.robustness.evaluation.measures import diversity, ssim
from paperworks.robustness.evaluation.oracle import Classifier, Oracle, answers
from paperworks.robustness.evaluation.search import OracleConstrainedPerturber, PerturbedBatch

Pairs = tuple[Tensor, Tensor] | Iterable[Any]
"""Images and labels: two tensors, or batches of both such as a `DataLoader` gives."""


@dataclass(frozen=True)
class FMRReport:
    """What an evaluation found, image by image; the scores are computed from that.

    Parameters
    ----------
    labels
        Classes of the images.
    clean, reconstructed, perturbed
        Whether the model is right on the image, its reconstruction and the image made for it; the last two are as the
        first where the reconstruction was not validated.
    validated, kept
        Whether the judges saw the label in the reconstruction, and in the image made for the model.
    diagnostics
        For each image ``l2``, ``linf`` and ``ssim`` between it and the one made for the model, ``steps``, and
        ``features`` where asked for; and ``held_out_clean`` and ``held_out``, whether a held-out judge sees the label.
    diversity
        Mean cosine between changes of different images.
    n_resamples, random_state
        Number of resamples of the images behind the intervals, and their seed.

    Examples
    --------
    >>> right = np.array([True, True, False, True])
    >>> hurt = np.array([True, False, False, False])
    >>> report = FMRReport(np.arange(4), right, right, hurt, np.ones(4, bool), np.ones(4, bool))
    >>> report.SA, report.PA, round(report.FMR, 3)
    (0.75, 0.25, 0.333)
    """

    labels: np.ndarray
    clean: np.ndarray
    reconstructed: np.ndarray
    perturbed: np.ndarray
    validated: np.ndarray
    kept: np.ndarray
    diagnostics: Mapping[str, np.ndarray] = field(default_factory=dict)
    diversity: float = math.nan
    n_resamples: int = 1000
    random_state: int = 0

    @property
    def SA(self) -> float:
        """Standard accuracy."""
        return float(self.clean.mean())

    @property
    def SA_recon(self) -> float:
        """Accuracy on reconstructions, so that what the generator loses shows apart from what the search finds."""
        return float(self.reconstructed.mean())

    @property
    def PA(self) -> float:
        """Accuracy on the images made for the model; those not validated count as they are."""
        return float(self.perturbed.mean())

    @property
    def FMR(self) -> float:
        """PA / SA. It can exceed 1 where a reconstruction helps; NaN where nothing is right."""
        return _ratio(self.perturbed.mean(), self.clean.mean())

    @property
    def FMR_validated(self) -> float:
        """The same of validated images alone."""
        return _ratio((self.perturbed & self.validated).mean(), (self.clean & self.validated).mean())

    @property
    def conditional(self) -> float:
        """Fraction of validated images the model is right on that it stays right on: never above 1."""
        known = self.clean & self.validated
        return _ratio((self.perturbed & known).mean(), known.mean())

    @property
    def VR(self) -> float:
        """Validation rate: the share of images whose reconstruction shows the judges their label."""
        return float(self.validated.mean())

    @property
    def violations(self) -> int:
        """Number of validated images in whose last form the judges don't see the label; always 0."""
        return int((self.validated & ~self.kept).sum())

    @property
    def held_out_agreement(self) -> float:
        """Share of validated images in which the held-out judge sees the label, relative to the same of the originals.

        NaN without such a judge.
        """
        if "held_out" not in self.diagnostics:
            return math.nan
        after, before = (self.diagnostics[name] & self.validated for name in ("held_out", "held_out_clean"))
        return _ratio(after.mean(), before.mean())

    @property
    def ci(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of SA, PA and FMR by resampling images."""
        n = len(self.labels)
        times = np.random.default_rng(self.random_state).multinomial(n, np.full(n, 1 / n), size=self.n_resamples)
        clean, perturbed = times @ self.clean / n, times @ self.perturbed / n
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = {"SA": clean, "PA": perturbed, "FMR": np.where(clean > 0, perturbed / clean, np.nan)}
        return {name: _middle(values) for name, values in scores.items()}

    @property
    def per_class(self) -> dict[int, dict[str, float]]:
        """For each label the number of images, SA, PA, FMR and VR."""
        found = {}
        for label in np.unique(self.labels):
            rows = self.labels == label
            sa, pa = float(self.clean[rows].mean()), float(self.perturbed[rows].mean())
            found[int(label)] = {
                "n": int(rows.sum()),
                "SA": sa,
                "PA": pa,
                "FMR": _ratio(pa, sa),
                "VR": float(self.validated[rows].mean()),
            }
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the scores, their intervals and the means of the diagnostics over validated images.

        Returns
        -------
        dict[str, Any]
            Numbers by their names, for a file in JSON.
        """
        names = ("SA", "SA_recon", "PA", "FMR", "FMR_validated", "conditional", "VR", "violations", "diversity")
        chosen = self.validated if self.validated.any() else np.zeros_like(self.validated)
        means = {
            name: float(values[chosen].mean()) if chosen.any() else math.nan
            for name, values in self.diagnostics.items()
            if not name.startswith("held_out")
        }
        scores = {name: getattr(self, name) for name in names}
        return {**scores, "held_out_agreement": self.held_out_agreement, **means, "ci": self.ci}

    def to_dataframe(self) -> Any:
        """Return a pandas table with a row for each class and one for all of them.

        Returns
        -------
        Any
            A data frame of pandas, one row for each class and one for all.

        Raises
        ------
        ImportError
            Where pandas isn't installed.
        """
        import pandas

        overall = {"n": len(self.labels), "SA": self.SA, "PA": self.PA, "FMR": self.FMR, "VR": self.VR}
        rows: dict[Any, dict[str, float]] = dict(self.per_class)
        table = pandas.DataFrame.from_dict({**rows, "all": overall}, orient="index")
        return table.rename_axis("class")


class FMREvaluator:
    """Evaluates classifiers on images that are made for each of them.

    Parameters
    ----------
    perturber
        Makes the images.
    batch_size
        Images in one call of the model.
    n_resamples
        Number of resamples behind the intervals.
    random_state
        Seed of those; the same resamples are taken for every model.
    held_out
        A judge that the search doesn't ask, to see whether labels are really kept.
    features
        From images to vectors; the distances between those of an image before and after are reported.

    Raises
    ------
    ValueError
        For counts below 1.

    Notes
    -----
    arXiv 2308.10632: FMR = PA / SA. A low SA hides in it, so read all three. A generator whose images a model was
    trained on favours that model; compare with a second one.

    Examples
    --------
    >>> from paperworks.robustness import Oracle, PixelGenerator
    >>> judge = lambda x: x.flatten(1)[:, :2]
    >>> weak = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2, bias=False))
    >>> _ = weak[1].weight.data.copy_(torch.tensor([[1.0, 0, -1], [0, 1, 1]]))  # the third pixel is no evidence
    >>> evaluator = FMREvaluator(OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), step_size=0.2))
    >>> x = torch.tensor([[0.9, 0.2, 0.0], [0.2, 0.9, 0.5]]).view(2, 1, 1, 3)
    >>> report = evaluator.evaluate(weak, (x, torch.tensor([0, 1])))
    >>> report.SA, report.PA, report.violations
    (1.0, 0.5, 0)
    """

    def __init__(
        self,
        perturber: OracleConstrainedPerturber,
        batch_size: int = 256,
        n_resamples: int = 1000,
        random_state: int = 0,
        *,
        held_out: Oracle | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.perturber = perturber
        self.batch_size = check_count("batch_size", batch_size)
        self.n_resamples = check_count("n_resamples", n_resamples)
        self.random_state, self.held_out, self.features = random_state, held_out, features

    def evaluate(self, model: Classifier, dataset: Pairs) -> FMRReport:
        """Make images for a model and score it.

        Parameters
        ----------
        model
            From images to logits.
        dataset
            ``(images, labels)``, or batches of them such as a `DataLoader`'s.

        Returns
        -------
        FMRReport
            The model's scores with intervals, and what was made.

        Raises
        ------
        ValueError
            For images or labels out of range, or an empty set.
        """
        batches = [
            (images, self.perturber.generate(model, images, labels, self.batch_size))
            for images, labels in as_batches(dataset)
            if len(images)
        ]
        if not batches:
            raise ValueError("dataset is empty; it takes images and their labels")
        return self._report(model, batches)

    def compare(self, models: Mapping[str, Classifier], dataset: Pairs) -> dict[str, FMRReport]:
        """Return the report of each model, in the order of decreasing FMR.

        Parameters
        ----------
        models
            The models by their names.
        dataset
            Batches of images with their labels.

        Returns
        -------
        dict[str, FMRReport]
            The report of each model, in the order of decreasing FMR.
        """
        pairs = list(as_batches(dataset))
        reports = {name: self.evaluate(model, pairs) for name, model in models.items()}
        return dict(sorted(reports.items(), key=lambda item: -math.inf if math.isnan(item[1].FMR) else -item[1].FMR))

    def transfer_matrix(self, models: Mapping[str, Classifier], dataset: Pairs) -> Float[np.ndarray, "models models"]:
        """Return the accuracy of each model on the images made for each.

        Row i, column j, in the order of `models`: that of model j on the set made for model i.

        Parameters
        ----------
        models
            The models by their names.
        dataset
            Batches of images with their labels.

        Returns
        -------
        ndarray of shape (models, models)
            Accuracies from 0 to 1, of shape (models, models).
        """
        pairs = [(x, y) for x, y in as_batches(dataset) if len(x)]
        matrix = np.zeros((len(models), len(models)))
        for i, target in enumerate(models.values()):
            made = [self.perturber.generate(target, x, y, self.batch_size) for x, y in pairs]
            for j, model in enumerate(models.values()):
                matrix[i, j] = float(torch.cat([self._right(model, part.x, part.y) for part in made]).double().mean())
        return matrix

    def _right(self, model: Classifier, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([answers(model, part).argmax(1) for part in x.split(self.batch_size)]) == y

    def _report(self, model: Classifier, batches: list[tuple[Tensor, PerturbedBatch]]) -> FMRReport:
        def gathered(function: Callable[[Tensor, PerturbedBatch], Tensor]) -> np.ndarray:
            return np.concatenate([function(x, part).cpu().numpy() for x, part in parts])

        parts: list[tuple[Tensor, PerturbedBatch]] = []
        for x, made in batches:
            parts.extend(zip(x.split(self.batch_size), made.split(self.batch_size), strict=True))
        low, high = self.perturber.clip_range
        changes: dict[str, Callable[[Tensor, PerturbedBatch], Tensor]] = {
            "l2": lambda x, made: (made.x - x).flatten(1).norm(dim=1),
            "linf": lambda x, made: (made.x - x).flatten(1).abs().amax(1),
            "ssim": lambda x, made: ssim(made.x, x, high - low),
            "steps": lambda x, made: made.accepted_steps,
        }
        if (features := self.features) is not None:
            changes["features"] = lambda x, made: (features(made.x) - features(x)).flatten(1).norm(dim=1)
        if (judge := self.held_out) is not None:
            changes["held_out_clean"] = lambda x, made: judge.accepts(x, made.y)
            changes["held_out"] = lambda x, made: judge.accepts(made.x, made.y)
        with torch.no_grad():
            diagnostics = {name: gathered(function) for name, function in changes.items()}
        clean = gathered(lambda x, made: self._right(model, x, made.y))
        if not clean.any():
            warnings.warn("the model is right on no image; FMR is not defined and NaN", stacklevel=3)
        return FMRReport(
            labels=gathered(lambda _, made: made.y),
            clean=clean,
            reconstructed=gathered(lambda _, made: self._right(model, made.start, made.y)),
            perturbed=gathered(lambda _, made: self._right(model, made.x, made.y)),
            validated=gathered(lambda _, made: made.validated),
            kept=gathered(lambda _, made: self.perturber.oracle.accepts(made.x, made.y)),
            diagnostics=diagnostics,
            diversity=diversity(torch.cat([(made.x - x)[made.validated] for x, made in parts])),
            n_resamples=self.n_resamples,
            random_state=self.random_state,
        )


def rank_agreement(scores: Float[np.ndarray, "settings models"]) -> float:
    """Return how far settings rank models alike: the mean of Kendall's tau-b over all pairs of settings.

    Parameters
    ----------
    scores
        A row of the models' scores for each setting.

    Returns
    -------
    float
        The mean tau-b, -1 to 1.

    Raises
    ------
    ValueError
        For fewer than two settings or models, or scores that aren't finite.

    Examples
    --------
    >>> rank_agreement(np.array([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]))
    1.0
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or min(scores.shape) < 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores has shape {scores.shape}; it takes finite scores of two or more settings and models")
    first, second = np.triu_indices(scores.shape[1], 1)
    order = np.sign(scores[:, first] - scores[:, second])  # of each pair of models, by setting
    untied = (order**2).sum(1)
    with np.errstate(invalid="ignore"):
        tau = order @ order.T / np.sqrt(np.outer(untied, untied))
    return float(tau[np.triu_indices(len(scores), 1)].mean())


def as_batches(dataset: Pairs) -> Iterable[tuple[Tensor, Tensor]]:
    """Return batches of images and labels."""
    if isinstance(dataset, tuple) and len(dataset) == 2 and all(isinstance(part, Tensor) for part in dataset):
        return [dataset]
    return ((images, labels) for images, labels in dataset)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan


def _middle(values: np.ndarray) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if len(known) else (math.nan, math.nan)
