"""A monitor of training that tells a stall by rounding from other ones."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count
from paperworks.training.grokking.detectors import (
    check_floating,
    check_network,
    named_tensors,
    nlm_alignment,
    softmax_collapse,
    zero_gradient_fraction,
    zero_loss_fraction,
)

Head = Literal["softmax", "stablemax"]


class NumericalStabilityRecord(NamedTuple):
    """What a monitor saw at a step.

    Parameters
    ----------
    step
        The step of training, from 1 on.
    accuracy
        Share of samples that are classified right.
    collapse
        Share of samples whose softmax is rounded to 1; NaN for a StableMax head, where it has no meaning.
    zero_loss
        Share of samples whose loss is exactly 0; NaN as above.
    zero_gradient
        Share of samples whose right class has a gradient of exactly 0; NaN as above.
    max_logit
        The largest absolute logit.
    margin
        Median lead of the right class over the best other one.
    alignment
        Cosine of ``-grad`` to the weights, NaN before `backward`.
    norms
        Euclidean norm of each parameter, by name.

    Examples
    --------
    >>> NumericalStabilityRecord(1, 1.0, 0.5, 0.5, 0.5, 20.0, 17.0, 0.9, {}).collapse
    0.5
    """

    step: int
    accuracy: float
    collapse: float
    zero_loss: float
    zero_gradient: float
    max_logit: float
    margin: float
    alignment: float
    norms: Mapping[str, float]


class NumericalStabilityReport(NamedTuple):
    """What a monitor saw in all.

    Parameters
    ----------
    records
        What was seen, step by step.
    fitted_at
        The first step at which all samples were classified right, None where there was none.
    collapsed_at
        The first step at which the softmax of half of the samples was rounded to 1, None where there was none.
    verdict
        One sentence on what to make of it.

    Examples
    --------
    >>> NumericalStabilityReport((), None, None, "nothing was seen").collapsed_at is None
    True
    """

    records: tuple[NumericalStabilityRecord, ...]
    fitted_at: int | None
    collapsed_at: int | None
    verdict: str


class NumericalStabilityMonitor:
    """Watches logits and gradients during training for softmax collapse and for gradients along the weights.

    Parameters
    ----------
    model
        The network; compiled, frozen or shared parts make no difference.
    every
        Steps from one record to the next.
    head
        What the logits go into: ``softmax`` or ``stablemax``.
    dtype
        What the softmax is computed in, that of the logits by default.

    Raises
    ------
    TypeError
        For what is no network, count or dtype.
    ValueError
        For a count below 1, another head, a dtype that isn't of floating-point numbers, or a network on the meta
        device.

    References
    ----------
    arXiv 2501.04697.

    Examples
    --------
    >>> model = nn.Linear(1, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.0], [20.0]]))
    >>> monitor = NumericalStabilityMonitor(model)
    >>> monitor.update(model(torch.ones(4, 1)), torch.ones(4, dtype=torch.long)).collapse
    1.0
    >>> monitor.report().collapsed_at
    1
    """

    def __init__(
        self, model: nn.Module, every: int = 1, *, head: Head = "softmax", dtype: torch.dtype | None = None
    ) -> None:
        named_tensors(check_network(model))
        self.model = model
        self.every = check_count("every", every)
        self.head: Head = check_choice("head", head, get_args(Head))
        self.dtype = None if dtype is None else check_floating("dtype", dtype)
        self.steps = 0
        self.history: list[NumericalStabilityRecord] = []

    @torch.no_grad()
    def update(
        self, logits: Float[Tensor, "batch classes"], targets: Int64[Tensor, " batch"]
    ) -> NumericalStabilityRecord | None:
        """Count a step of training, and look where it is time to: best between `backward` and `step`.

        Parameters
        ----------
        logits
            The network's logits.
        targets
            The right classes.

        Returns
        -------
        NumericalStabilityRecord or None
            What was seen, None between records.

        Raises
        ------
        ValueError
            For logits that aren't finite, or targets out of range or of another number.
        """
        self.steps += 1
        if self.steps % self.every:
            return None
        shares = (math.nan,) * 3
        # Checks what is given for either head.
        losses = zero_loss_fraction(logits, targets, self.dtype)
        if self.head == "softmax":
            shares = (softmax_collapse(logits, self.dtype), losses, zero_gradient_fraction(logits, targets, self.dtype))
        right = logits.gather(1, targets[:, None])[:, 0]
        others = logits.scatter(1, targets[:, None], -math.inf).amax(1)
        weights = named_tensors(self.model)
        aligned = nlm_alignment(weights) if any(p.grad is not None for p in weights.values()) else math.nan
        record = NumericalStabilityRecord(
            self.steps, float((right > others).double().mean()), *shares, float(logits.abs().max()),
            float((right - others).median()), float(aligned),  # type: ignore[arg-type]
            {name: _norm(p) for name, p in weights.items()},
        )  # fmt: skip
        self.history.append(record)
        return record

    def report(self) -> NumericalStabilityReport:
        """Return all records, the first step of fit and of collapse, and what to make of them.

        Returns
        -------
        NumericalStabilityReport
            The records so far, with a sentence.
        """
        fitted = next((r.step for r in self.history if r.accuracy == 1), None)
        collapsed = next((r.step for r in self.history if r.collapse >= 0.5), None)
        return NumericalStabilityReport(tuple(self.history), fitted, collapsed, self._verdict(fitted, collapsed))

    def _verdict(self, fitted: int | None, collapsed: int | None) -> str:
        if not self.history:
            return "nothing was seen yet"
        last = self.history[-1]
        if collapsed is not None:
            return (
                f"softmax collapse from step {collapsed} on ({last.collapse:.0%} of samples at the last): training "
                "stalls; use StableMax, OrthoGrad or a softmax in higher precision"
            )
        if fitted is not None and last.alignment > 0.5:
            return (
                f"fitted at step {fitted}, and gradients point along the weights (cosine {last.alignment:.2f}): logits "
                "grow towards softmax collapse; OrthoGrad removes that part"
            )
        return "no sign of softmax collapse"


def _norm(p: Tensor) -> float:
    """Return a norm in single precision at least, whose squares half precision can't hold."""
    return float(torch.linalg.vector_norm(p, dtype=torch.promote_types(p.dtype, torch.float32)))
