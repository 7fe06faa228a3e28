"""Learning rates and damping for a batch size: from the curvature of its batches, and by rules of thumb."""

import math
import warnings
from typing import Any, Literal, get_args

from paperworks.core.validation import check_choice, check_number
from paperworks.training.batch_size.outliers import batch_outlier, bulk_edge, effective_batch_size

Rule = Literal["rmt", "adam", "linear", "sqrt"]


def max_learning_rate(
    lam: float,
    s2: float | None,
    batch_size: int,
    n_data: int | None = None,
    *,
    momentum: float = 0.0,
    optimizer: Literal["sgd", "adam"] = "sgd",
    weight_decay: float = 0.0,
    **model: Any,
) -> float:
    r"""Return the largest learning rate that is stable for batches of a size.

    For SGD that is ``2 (1 + momentum)`` over the largest eigenvalue of a batch's curvature; without momentum it is
    ``2 lam b / (lam^2 b + s2)`` above the transition, linear in small batches, and ``(b / s2)^(1/2)`` below.

    Parameters
    ----------
    lam
        Largest eigenvalue for all data.
    s2, batch_size, n_data
        As in `batch_outlier`.
    momentum
        Momentum of the heavy ball, from 0 to below 1.
    optimizer
        ``sgd``, or ``adam`` for methods that divide by a curvature that is itself estimated from batches: their rate is
        ``(b / s2)^(1/2)`` times a number that belongs to the preconditioner, so only ratios of it have a meaning.
    weight_decay
        Added to the curvature, as an L2 penalty does.
    **model
        ``model``, ``bulk``, ``tau2`` and ``p_eff`` of `batch_outlier`.

    Returns
    -------
    float
        The rate; infinite for ``adam`` where the batch is all data.

    Raises
    ------
    ValueError
        As in `batch_outlier`, for ``lam`` that isn't positive, or a momentum out of bounds.

    Warns
    -----
    RuntimeWarning
        Where the outlier is lost in the noise of the batch, which then limits the rate instead.

    References
    ----------
    arXiv 2006.09092, the corollaries on learning rates; with momentum Polyak (1964).

    Examples
    --------
    >>> [round(max_learning_rate(2.0, 32.0, b), 3) for b in (16, 64, 4096)]  # the critical size is 8
    [0.667, 0.889, 0.998]
    >>> max_learning_rate(2.0, 32.0, 4096, optimizer="adam") / max_learning_rate(2.0, 32.0, 1024, optimizer="adam")
    2.0
    """
    check_choice("optimizer", optimizer, ("sgd", "adam"))
    check_number("lam", lam, gt=0)
    check_number("momentum", momentum, ge=0, lt=1)
    check_number("weight_decay", weight_decay, ge=0)
    if optimizer == "adam":
        if model or s2 is None or momentum:
            raise ValueError("optimizer is 'adam', whose rule takes s2, and neither a momentum nor another model")
        check_number("s2", s2, gt=0)
        return math.sqrt(effective_batch_size(batch_size, n_data) / s2)
    return 2 * (1 + momentum) / (_curvature(lam, s2, batch_size, n_data, **model) + weight_decay)


def _curvature(lam: float, s2: float | None, batch_size: int, n_data: int | None, **model: Any) -> float:
    """Return the largest eigenvalue of a batch's curvature, and warn where it is that of noise."""
    top = batch_outlier(lam, s2, batch_size, n_data, **model)
    if top <= bulk_edge(s2, batch_size, n_data, **model):
        message = f"learning rate limited by noise bulk: the outlier {lam:g} is lost in batches of {batch_size}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return top


def scale_learning_rate(
    lr: float,
    from_size: int,
    to_size: int,
    *,
    rule: Rule = "rmt",
    lam: float | None = None,
    s2: float | None = None,
    n_data: int | None = None,
    max_lr: float = math.inf,
    **model: Any,
) -> float:
    """Return the learning rate for another batch size, from one that was tuned.

    Parameters
    ----------
    lr
        The tuned rate.
    from_size, to_size
        Batch size at which it was tuned, and the new one.
    rule
        ``rmt``: by the curvature of batches, for SGD with any momentum; ``adam``: by the root of the effective batch
        size, for adaptive methods; ``linear`` and ``sqrt``: by the batch size and its root, whatever the curvature.
    lam, s2
        As in `max_learning_rate`, which ``rmt`` alone takes.
    n_data
        Samples of all data, as in `effective_batch_size`; None for so many that it doesn't matter.
    max_lr
        The rate is cut off there; ``adam`` needs it where the new batch is all data.
    **model
        As in `max_learning_rate`.

    Returns
    -------
    float
        The new rate, at most `max_lr`.

    Raises
    ------
    ValueError
        For bad input as in `batch_outlier`, curvature for a rule that takes none, a rate without bound, or for ``adam``
        one that was tuned on all data.

    Warns
    -----
    RuntimeWarning
        For ``rmt`` as in `max_learning_rate`.

    References
    ----------
    arXiv 2006.09092; the linear rule: Goyal et al., arXiv 1706.02677; the root: Krizhevsky, arXiv 1404.5997.

    Examples
    --------
    >>> scale_learning_rate(0.1, 32, 128, rule="linear"), scale_learning_rate(0.1, 32, 128, rule="sqrt")
    (0.4, 0.2)
    >>> round(scale_learning_rate(0.1, 32, 128, lam=2.0, s2=320.0), 3)  # the critical size is 80
    0.195
    """
    check_choice("rule", rule, get_args(Rule))
    check_number("lr", lr, gt=0)
    if max_lr != math.inf:
        check_number("max_lr", max_lr, gt=0)
    before, after = (effective_batch_size(size, n_data) for size in (from_size, to_size))
    if rule != "rmt" and (lam is not None or s2 is not None or model):
        raise ValueError(f"rule is {rule!r}, which takes no curvature: neither lam nor s2, nor a model")
    if rule == "rmt":
        if lam is None or (s2 is None and not model):
            raise ValueError("rule is 'rmt', which takes lam and s2, as estimate_hessian_noise gives them")
        check_number("lam", lam, gt=0)
        ratio = _curvature(lam, s2, from_size, n_data, **model) / _curvature(lam, s2, to_size, n_data, **model)
    elif rule == "adam":
        if before == math.inf > after:
            raise ValueError(f"from_size is {from_size}, all data, whose rate says nothing of noise; it takes fewer")
        ratio = 1.0 if before == after else math.sqrt(after / before)
    else:
        ratio = to_size / from_size if rule == "linear" else math.sqrt(to_size / from_size)
    new = min(lr * ratio, max_lr)
    if not 0 < new < math.inf:
        raise ValueError(f"lr would become {new:g}, from a batch of {from_size} to {to_size} of {n_data}; give max_lr")
    return new


def scale_damping(
    damping: float,
    from_size: int,
    to_size: int,
    *,
    lr_ratio: float = 1.0,
    n_data: int | None = None,
) -> float:
    """Return the damping of a second-order method for another batch size, which grows as rate over batch size.

    Parameters
    ----------
    damping
        What is added to the curvature, tuned at `from_size`.
    from_size, to_size
        Batch size at which it was tuned, and the new one.
    lr_ratio
        New learning rate to the old one.
    n_data
        As in `scale_learning_rate`.

    Returns
    -------
    float
        The new damping; 0 where the new batch is all data, which has no noise to damp.

    Raises
    ------
    ValueError
        For numbers out of bounds, or where the tuned one was for all data.

    References
    ----------
    arXiv 2006.09092, first version, on damping.

    Examples
    --------
    >>> scale_damping(0.1, 32, 128, lr_ratio=2.0)
    0.05
    """
    check_number("damping", damping, ge=0)
    check_number("lr_ratio", lr_ratio, gt=0)
    before, after = (effective_batch_size(size, n_data) for size in (from_size, to_size))
    if before == math.inf:
        raise ValueError(f"from_size is {from_size}, all data, whose damping says nothing of noise; it takes fewer")
    return damping * lr_ratio * (before / after)
