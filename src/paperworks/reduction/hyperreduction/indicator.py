"""What the misfit of a reconstruction says of the error: a regression on logarithms, with its uncertainty."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import stdtrit
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from paperworks.core.validation import check_count, check_number
from paperworks.reduction.hyperreduction.material import ConvergenceError
from paperworks.reduction.hyperreduction.model import HyperReducedModel
from paperworks.reduction.hyperreduction.problem import Trajectory

Z = 1.64
"""The upper bound is this many standard deviations above the mean: 95 % of normal errors are below."""
FEWEST = 10
"""Pairs below which a line alone is fitted."""


class GappyErrorIndicator:
    r"""The error of a reduced model, from its residuals of reconstruction.

    Of decimal logarithms, a line and a Gaussian process for what the line leaves: :math:`\log e \approx a + b \log E +
    \mathrm{GP}(\log E)`.

    The Gaussian process alone would fall back to the mean of its data where residuals are larger than in training,
    which is where an indicator is needed; the line goes on rising there. Where there are too few pairs for it, or it
    can't be fitted, the line stands alone.

    Parameters
    ----------
    regressor
        A scikit-learn regressor whose `predict` takes `return_std`, fitted to what the line leaves; None, the default,
        is a Gaussian process with the kernel constant times RBF plus white noise, as in the paper; "linear" leaves
        it out.
    max_pairs
        The most pairs that the regressor sees, evenly taken from all in the order of E; 200 by default, since a
        Gaussian process costs their third power.

    Attributes
    ----------
    slope_, intercept_ : np.ndarray
        The lines in decimal logarithms, one for each quantity.
    scatter_ : np.ndarray
        Standard deviations of what the lines leave, in decades.
    correlation_ : np.ndarray
        Correlations of the logarithms of the calibration.

    References
    ----------
    Casenave and Akkari, doi 10.3390/mca24020041, 2019, section 4.

    Examples
    --------
    >>> E = np.geomspace(1e-4, 1e-1, 30)
    >>> indicator = GappyErrorIndicator().calibrate(E, 5 * E)
    >>> round(float(indicator.predict(0.02)), 3)
    0.1
    """

    def __init__(self, regressor: Any = None, max_pairs: int = 200) -> None:
        if (
            regressor is not None
            and regressor != "linear"
            and not (hasattr(regressor, "fit") and hasattr(regressor, "predict"))
        ):
            raise ValueError(f"regressor is {regressor!r}; it takes a regressor, None or 'linear'")
        self.regressor, self.max_pairs = regressor, check_count("max_pairs", max_pairs, at_least=2)

    def calibrate(self, E: ArrayLike, e: ArrayLike, groups: ArrayLike | None = None) -> "GappyErrorIndicator":
        """Fit the regression to pairs of residual and error.

        Parameters
        ----------
        E
            Residuals: (pairs,), or (pairs, quantities), each column with a regression of its own.
        e
            Errors of the same shape. Pairs that are not both positive are left out.
        groups
            For each pair the number of its trajectory. Errors of one trajectory lie on the same side of the line, so
            that what is known of the next one depends on the number of trajectories, not of pairs: `upper` then is a
            bound of Student's t for a new trajectory. None, the default, takes all pairs as independent.

        Returns
        -------
        GappyErrorIndicator
            The calibrated indicator.

        Raises
        ------
        ValueError
            Where shapes differ, or less than two different residuals are left.
        """
        x, y = np.asarray(E, dtype=float), np.asarray(e, dtype=float)
        if x.shape != y.shape or x.ndim not in (1, 2):
            raise ValueError(f"E and e have shapes {x.shape} and {y.shape}; they take (pairs,) or (pairs, quantities)")
        self._one = x.ndim == 1
        columns = [(x, y)] if self._one else [(x[:, j], y[:, j]) for j in range(x.shape[1])]
        labels = None if groups is None else np.asarray(groups)
        if labels is not None and labels.shape != x.shape[:1]:
            raise ValueError(f"groups has shape {labels.shape}; it takes one number for each of {len(x)} pairs")
        lines, self._models, self._margins = [], [], []
        for one, other in columns:
            kept = (one > 0) & (other > 0) & np.isfinite(one) & np.isfinite(other)
            a, b = np.log10(one[kept]), np.log10(other[kept])
            if len(np.unique(a)) < 2:
                raise ValueError(f"E has {len(np.unique(a))} different positive residuals; it takes two or more")
            slope, intercept = np.polyfit(a, b, 1)
            rest = b - slope * a - intercept
            correlation = np.corrcoef(a, b)[0, 1] if np.ptp(b) > 0 else 0.0
            lines.append((slope, intercept, float(rest.std(ddof=min(2, len(a) - 1))), correlation))
            self._models.append(self._fitted(a, rest))
            self._margins.append(0.0 if labels is None else _margin(rest, labels[kept]))
        self.slope_, self.intercept_, self.scatter_, self.correlation_ = np.array(lines).T
        return self

    def predict(self, E: ArrayLike, return_std: bool = False) -> Any:
        """Return the error to be expected.

        Parameters
        ----------
        E
            Residuals: any shape where one quantity was calibrated, else (..., quantities).
        return_std
            Whether to return also the standard deviation, in decades; false by default.

        Returns
        -------
        Any
            Errors of the shape of `E`, 0 where it is 0; with `return_std` a pair.

        Raises
        ------
        ValueError
            Where it is not calibrated, or `E` is no residual or has another number of quantities.
        """
        x = np.asarray(E, dtype=float)
        if not hasattr(self, "_models"):
            raise ValueError("the indicator is not calibrated; call calibrate first")
        if not (np.isfinite(x) & (x >= 0)).all():
            raise ValueError("E has values that are negative, NaN or infinite; it takes residuals")
        if not self._one and (not x.shape or x.shape[-1] != len(self._models)):
            raise ValueError(f"E has shape {x.shape}; it takes a last axis of {len(self._models)} quantities")
        flat = x.reshape(-1, len(self._models))
        mean, std = np.zeros_like(flat), np.zeros_like(flat)
        for j, model in enumerate(self._models):
            seen = flat[:, j] > 0
            if not seen.any():
                continue
            a = np.log10(flat[seen, j])
            mean[seen, j] = 10 ** (self.slope_[j] * a + self.intercept_[j])
            std[seen, j] = self.scatter_[j]
            if model is not None:
                more, deviation = model.predict(a[:, None], return_std=True)
                mean[seen, j] *= 10**more
                std[seen, j] = deviation
        return (mean.reshape(x.shape), std.reshape(x.shape)) if return_std else mean.reshape(x.shape)

    def upper(self, E: ArrayLike) -> Float[np.ndarray, "*shape"] | np.float64:
        """Return what the error stays below with a probability of 95 %: 1.64 standard deviations above the mean.

        Where `calibrate` was told of groups, it is at least the bound for a new one: Student's quantile with as many
        degrees of freedom as there are groups beyond the two parameters of the line.

        Parameters
        ----------
        E
            Residuals, as `predict` takes them.

        Returns
        -------
        np.ndarray
            Upper bounds of the error.
        """
        mean, std = self.predict(E, return_std=True)
        return np.asarray(
            mean * 10 ** np.maximum(Z * std, np.asarray(self._margins) if not self._one else self._margins[0])
        )

    def _fitted(self, a: np.ndarray, rest: np.ndarray) -> Any:
        """Return a regressor of what the line leaves, or None."""
        if self.regressor == "linear" or len(a) < FEWEST or not rest.std() > 1e-9:
            return None
        order = np.argsort(a, kind="stable")
        some = order[np.unique(np.linspace(0, len(a) - 1, min(len(a), self.max_pairs)).round().astype(int))]
        if self.regressor is not None:
            return clone(self.regressor).fit(a[some, None], rest[some])
        variance = float(rest.var())
        kernel = ConstantKernel(variance, (1e-4 * variance, 1e2 * variance)) * RBF(1.0, (0.2, 20.0))
        kernel = kernel + WhiteKernel(variance, (1e-4 * variance, 1e1 * variance))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a parameter at its bound, which is no failure
            try:
                return GaussianProcessRegressor(kernel).fit(a[some, None], rest[some])
            except np.linalg.LinAlgError:
                return None


def _margin(rest: np.ndarray, groups: np.ndarray) -> float:
    """Return how far above the line a new group may be, in decades, at the same probability as `Z`."""
    means = np.array([rest[groups == group].mean() for group in np.unique(groups)])
    within = float(np.mean([rest[groups == group].var() for group in np.unique(groups)]))
    free = len(means) - 2
    if free < 1:
        return 0.0
    between = float((means**2).sum()) / free * (1 + 1 / len(means))
    return float(stdtrit(free, 0.95)) * np.sqrt(between + within)


def calibration_pairs(
    rom: HyperReducedModel,
    trajectories: Sequence[Trajectory],
    rtols: Sequence[float] | None = None,
    leave_one_out: bool = True,
    smallest: float = 1e-3,
) -> tuple[Float[np.ndarray, "pairs quantities"], Float[np.ndarray, "pairs quantities"], Int[np.ndarray, " pairs"]]:
    r"""Return residuals and errors of models of degraded accuracy, on training loads: what an indicator learns from.

    A good model makes tiny errors in training, which say nothing of large ones. So models that have not seen the
    trajectory they are tried on are fitted as well, and models with looser tolerances. The error is
    :math:`|\tilde p - p|_{L^2} / \max_t |p|_{L^2}`.

    What a residual means depends on the tolerance: models of few modes are nearly blind to what they can't represent,
    with errors of up to a hundred times their residual where a good model makes three times its own. So tolerances
    are to be near the model's.

    Parameters
    ----------
    rom
        The model whose settings the others share but for the tolerances; it is not changed.
    trajectories
        Solutions of the full model under training loads.
    rtols
        Tolerances of the POD of the other models; None, the default, takes the model's own and three times that.
    leave_one_out
        Whether to fit also to all but one trajectory, for each of them; true by default, where there are two or more.
    smallest
        Times are left out at which a quantity is below this share of its greatest size in the trajectory: there
        residual and error are both near 0 / 0.

    Returns
    -------
    tuple[np.ndarray, np.ndarray, np.ndarray]
        Residuals and errors, one row a time of a trajectory and model, one column a quantity; and for each row a
        number of its group: pairs of one trajectory, as seen or not seen, move together.

    Raises
    ------
    ValueError
        Where tolerances are out of range or there is no trajectory.

    Examples
    --------
    >>> E, e, groups = calibration_pairs(rom, trajectories)  # doctest: +SKIP
    >>> indicator = GappyErrorIndicator().calibrate(E, e, groups)  # doctest: +SKIP
    """
    check_number("smallest", smallest, ge=0, lt=1)
    tried: list[tuple[Sequence[Trajectory], Sequence[Trajectory]]] = [(trajectories, trajectories)]
    if leave_one_out and len(trajectories) > 1:
        tried += [([*trajectories[:i], *trajectories[i + 1 :]], [t]) for i, t in enumerate(trajectories)]
    E, e, groups = [], [], []
    for rtol in (3 * rom.rtol_modes, rom.rtol_modes) if rtols is None else rtols:
        for way, (training, judged) in enumerate(tried):
            other = copy.copy(rom)
            other.rtol_modes = other.dual_rtol = check_number("rtols", rtol, gt=0, lt=1)
            other.fit(training)
            for number, trajectory in enumerate(judged):
                try:
                    found = other.solve(trajectory.loads, trajectory.times)
                except ConvergenceError:  # too few modes to follow these loads
                    continue
                rebuilt = [_rebuilt(other, found.states, name) for name in rom.quantities]
                errors, sizes = [], []
                for name, values in zip(rom.quantities, rebuilt, strict=True):
                    truth = trajectory.field(name)
                    sizes.append(rom.problem.norm(truth))
                    errors.append(rom.problem.norm(values.reshape(truth.shape) - truth) / sizes[-1].max())
                large = np.all([size > smallest * size.max() for size in sizes], axis=0)
                E.append(np.stack([found.residuals[name] for name in rom.quantities], axis=1)[large])
                e.append(np.stack(errors, axis=1)[large])
                groups.append(np.full(int(large.sum()), number if way == 0 else len(trajectories) + way - 1))
    if not E:
        raise ValueError("rtols and trajectories leave no model that could be solved; they take one or more of both")
    return np.concatenate(E), np.concatenate(e), np.concatenate(groups)


def _rebuilt(rom: HyperReducedModel, states: Sequence[Any], name: str) -> np.ndarray:
    return rom.gappy_[name].reconstruct(np.stack([rom.value(state, name) for state in states]))
