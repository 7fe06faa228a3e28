"""Certificates of SGD's stability at a minimum: the exact threshold, and cheap conditions that it implies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.training.stability.mean_square import minimum, radius, same_sample, threshold

Verdict = Literal["stable", "unstable"]


@dataclass(frozen=True)
class StabilityReport:
    """What is known of a learning rate at a minimum.

    Parameters
    ----------
    lr
        The learning rate.
    exact_radius
        Factor a step of the second moments of the distance to the minimum.
    lr_max_exact
        The exact threshold: stable at and below it.
    lr_max_trace
        ``2 c / (q Tr H)`` for c outputs, with q = 1 for single samples and about 1 / B for batches; infinite where q
        is 0.
    lr_max_lambda
        ``2 / lambda_max(H)``, that of gradient descent.
    lr_max_frobenius
        ``2 Tr H / ((1 - q) |H|_F^2)``; infinite for single samples.
    conditions
        Necessary conditions by name, each the greatest learning rate that meets it: ``lambda_max``, ``trace``,
        ``frobenius``, ``second_moment`` (of which the latter two are parts), ``top_eigenvector``.
    lr_sufficient
        ``2 / max |g_i|^2``, below which no sample's own step expands, whatever the batch.
    verdict
        ``stable`` or ``unstable``, by the exact threshold.
    interpolating
        Whether the training loss is small enough for the theory to hold; None where it was not given.

    Examples
    --------
    >>> report = stability_certificate(torch.eye(4, dtype=torch.float64), lr=1.0)
    >>> report.verdict, report.violated
    ('stable', ())
    """

    lr: float
    exact_radius: float
    lr_max_exact: float
    lr_max_trace: float
    lr_max_lambda: float
    lr_max_frobenius: float
    conditions: Mapping[str, float]
    lr_sufficient: float
    verdict: Verdict
    interpolating: bool | None

    @property
    def violated(self) -> tuple[str, ...]:
        """Names of the necessary conditions that the learning rate breaks."""
        return tuple(name for name, most in self.conditions.items() if self.lr > most)


def stability_certificate(
    gradients: Float[Tensor, "..."],
    lr: float,
    batch_size: int = 1,
    replacement: bool = False,
    *,
    gram: bool = False,
    outputs: int = 1,
    train_loss: float | None = None,
    atol: float = 1e-4,
) -> StabilityReport:
    r"""Certify a learning rate of SGD at an interpolating minimum.

    All conditions are Rayleigh quotients of the map of second moments and so never below the exact threshold:
    ``lr (q E|g|^4 + (1 - q) |H|_F^2) <= 2 Tr H`` from the identity, whose consequence for single samples is
    ``Tr H <= 2 / lr``, and the same along the top eigenvector. With c outputs a sample's own Hessian has rank c, and
    the consequence is ``Tr H <= 2 c / lr``.

    Parameters
    ----------
    gradients, batch_size, replacement, gram, outputs
        As in `critical_learning_rate`.
    lr
        The learning rate.
    train_loss
        The training loss at the point, to say whether it interpolates.
    atol
        The greatest loss that counts as interpolation.

    Returns
    -------
    StabilityReport
        The exact radius and threshold, the cheap ones, and the verdict.

    Raises
    ------
    ValueError
        For a learning rate that isn't positive, a batch larger than n without replacement, gradients that are not
        finite or all 0, or a matrix that is no Gram matrix.

    References
    ----------
    arXiv 2305.17490, the stability conditions of the main theorems.

    Examples
    --------
    >>> g = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> report = stability_certificate(g, lr=0.6)
    >>> report.verdict, round(report.lr_max_exact, 4), round(report.lr_max_trace, 4), report.lr_max_lambda
    ('unstable', 0.5, 0.8, 1.0)
    """
    check_number("lr", lr, gt=0)
    check_number("atol", atol, ge=0)
    if train_loss is not None:
        check_number("train_loss", train_loss, ge=0)
    at = minimum(gradients, gram=gram, outputs=outputs)
    q = same_sample(len(at.factors), batch_size, replacement)
    h = at.eigenvalues
    trace, square, top = float(h.sum()), float(h.square().sum()), float(h[-1])
    fourth = float(at.noise(torch.eye(len(h), dtype=torch.float64)[None])[0].trace())  # E |g|^4 for one output
    along = at.factors[:, :, -1].square().sum(1)  # (u^T g)^2 along the top eigenvector u
    third = q * float(along.square().mean()) + (1 - q) * top**2
    first = {
        "lambda_max": 2 / top,
        "trace": _over(2 * trace, q * trace**2 / at.factors.shape[1]),
        "frobenius": _over(2 * trace, (1 - q) * square),
        "second_moment": _over(2 * trace, q * fourth + (1 - q) * square),
        "top_eigenvector": _over(2 * top, third),
    }
    most = threshold(at, q)
    return StabilityReport(
        lr=lr,
        exact_radius=radius(at, q, lr),
        lr_max_exact=most,
        lr_max_trace=first["trace"],
        lr_max_lambda=first["lambda_max"],
        lr_max_frobenius=first["frobenius"],
        conditions=first,
        lr_sufficient=2 / float(at.squares.max()),
        verdict="stable" if lr <= most * (1 + 1e-12) else "unstable",
        interpolating=None if train_loss is None else train_loss <= atol,
    )


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf
