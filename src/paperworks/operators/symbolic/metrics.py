"""How good forecasts and equations are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.operators.symbolic.systems import System


class ForecastErrors(NamedTuple):
    """Errors of forecasts, one number for each sample.

    Parameters
    ----------
    relative
        Norm of the error over all times and components / norm of the solution.
    first_half, second_half
        The same in the halves of the window.
    r2
        Coefficient of determination of all values of a sample.

    Examples
    --------
    >>> import torch
    >>> forecast_errors(torch.full((1, 4, 1), 1.1), torch.ones(1, 4, 1)).relative.round(decimals=3)
    tensor([0.1000])
    """

    relative: Float[Tensor, " n"]
    first_half: Float[Tensor, " n"]
    second_half: Float[Tensor, " n"]
    r2: Float[Tensor, " n"]


def forecast_errors(prediction: Float[Tensor, "n times d"], truth: Float[Tensor, "n times d"]) -> ForecastErrors:
    """Compare forecasts with solutions (arXiv 2309.16816, the section on evaluation).

    Parameters
    ----------
    prediction
        Forecasts; columns that a sample's system doesn't have are 0 here or left out by a mask before.
    truth
        Solutions, or measurements.

    Returns
    -------
    ForecastErrors
        Relative errors over the window and its halves, and coefficients of determination.

    Raises
    ------
    ValueError
        For another shape, or fewer than two times.
    TypeError
        For a truth that isn't of floating point.

    Examples
    --------
    >>> import torch
    >>> truth = torch.linspace(0, 1, 5)[None, :, None]
    >>> forecast_errors(truth + 0.1, truth).r2.round(decimals=2)
    tensor([0.9200])
    """
    if prediction.shape != truth.shape or truth.ndim != 3 or truth.shape[1] < 2:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and truth {tuple(truth.shape)}; they take one shape of "
            "(n, times, d) with two times or more"
        )
    if not truth.is_floating_point():
        raise TypeError(f"truth is {truth.dtype}; it takes a tensor of floating point")
    a, b = prediction.double(), truth.double()
    half = a.shape[1] // 2

    def relative(x: Tensor, y: Tensor) -> Tensor:
        return ((x - y).norm(dim=(1, 2)) / y.norm(dim=(1, 2)).clamp_min(1e-12)).to(truth.dtype)

    spread = (b - b.mean(1, keepdim=True)).square().sum((1, 2)).clamp_min(1e-12)
    r2 = 1 - (a - b).square().sum((1, 2)) / spread
    return ForecastErrors(
        relative(a, b), relative(a[:, :half], b[:, :half]), relative(a[:, half:], b[:, half:]), r2.to(truth.dtype)
    )


class ExpressionScores(NamedTuple):
    """What written equations are worth, one entry for each sample.

    Parameters
    ----------
    valid
        Whether the tokens make a system whose values are finite.
    skeleton
        Whether it has the true terms, whatever the numbers.
    error
        Norm of the difference of right-hand sides / norm of the true one; NaN for what isn't valid.

    Examples
    --------
    >>> from paperworks.operators import FAMILIES
    >>> truth = FAMILIES["thomas"].system()
    >>> scores = expression_scores([truth, None], [truth, truth], random_state=0)
    >>> scores.valid.tolist(), scores.error.tolist()
    ([True, False], [0.0, nan])
    """

    valid: Bool[np.ndarray, " n"]
    skeleton: Bool[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]


def expression_scores(
    found: Sequence[System | None],
    truth: Sequence[System],
    random_state: int | np.random.Generator,
    points: int = 50,
    reach: float = 5.0,
) -> ExpressionScores:
    """Compare equations with the true ones at random states (arXiv 2309.16816, the section on evaluation).

    Parameters
    ----------
    found
        What the tokenizer decoded, None where there is no system.
    truth
        The true systems.
    random_state
        Seed of the states, or NumPy's generator.
    points
        Number of states; 50 in the authors' code.
    reach
        States are drawn evenly from [-reach, reach] in each component; 5 in the authors' code.

    Returns
    -------
    ExpressionScores
        Validity, equality of skeletons, and errors.

    Raises
    ------
    ValueError
        For another number of systems, or no states.

    Examples
    --------
    >>> from paperworks.operators import FAMILIES
    >>> family = FAMILIES["four_wing"]
    >>> scores = expression_scores([family.system([0.22, 0.01, -0.4])], [family.system()], random_state=0)
    >>> bool(scores.skeleton[0]), bool(scores.error[0] < 0.02)
    (True, True)
    """
    if len(found) != len(truth):
        raise ValueError(f"found has {len(found)} systems and truth {len(truth)}; they take as many of both")
    check_count("points", points)
    check_number("reach", reach, gt=0)
    rng = np.random.default_rng(random_state)
    rows = []
    for system, true in zip(found, truth, strict=True):
        u = rng.uniform(-reach, reach, (points, true.dimension))
        valid, same, error = False, False, np.nan
        if system is not None and system.dimension == true.dimension and not np.isnan(system.numbers()).any():
            a, b = system.evaluate(u), true.evaluate(u)
            if np.isfinite(a).all():
                valid, error = True, float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12)
                same = system.skeleton() == true.skeleton()
        rows.append((valid, same, error))
    valid_, same_, error_ = zip(*rows, strict=True) if rows else ((), (), ())
    return ExpressionScores(np.array(valid_, bool), np.array(same_, bool), np.array(error_, float))
