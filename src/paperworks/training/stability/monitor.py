"""A monitor of how close training is to the edge of stability."""

import math
import warnings
from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.curvature import Loss, parameter_names, plainly, vectors_like
from paperworks.numerics.eigenvalues import extreme_eigenvalues
from paperworks.numerics.modes import evaluating
from paperworks.numerics.random import torch_generator
from paperworks.numerics.traces import estimate_trace
from paperworks.training.stability.operators import Data, GGNOperator, batches_of

Estimator = Literal["trace", "lambda_max"]


class StabilityRecord(NamedTuple):
    """What a monitor saw at a step.

    Parameters
    ----------
    step
        The step of training, from 1 on.
    lr
        The greatest learning rate of the optimiser's groups.
    trace_ratio
        ``lr Tr / 2`` over the batch size and the number of outputs: above 1 SGD can't stay at a minimum of this trace.
        NaN where it isn't estimated.
    lambda_ratio
        ``lr lambda_max / 2``: above 1 neither SGD nor gradient descent can. NaN where it isn't estimated.
    train_loss
        The mean loss on the data it was measured on.

    Examples
    --------
    >>> StabilityRecord(10, 0.1, 0.4, 0.2, 1e-3).trace_ratio
    0.4
    """

    step: int
    lr: float
    trace_ratio: float
    lambda_ratio: float
    train_loss: float


class StabilityMonitor:
    r"""Watches ``lr Tr / 2`` and ``lr lambda_max / 2`` during training and warns where one is above 1.

    The curvature is the Gauss-Newton matrix, that of the Hessian where samples are interpolated, and with several
    groups each parameter's rate scales its rows and columns. It is measured in evaluation mode, so that batch
    normalisation uses its running statistics; every layer's mode is put back afterwards, and gradients aren't touched.

    Parameters
    ----------
    optimizer
        Whose learning rates are read at each measurement, so that schedules are followed. The ratios are those of plain
        SGD; with momentum or another optimiser a warning says so.
    model
        The network; parameters that take no gradient, or that the optimiser doesn't have, are left out.
    loss_fn
        ``loss_fn(outputs, targets)``, the mean over a batch.
    every
        Steps from one measurement to the next.
    estimators
        ``trace``, ``lambda_max`` or both.
    batch_size
        Samples in a step of training, by which the limit of the trace grows.
    rtol
        Standard error of the trace, and accuracy of the eigenvalue.
    max_products
        Most products with the matrix for the trace.
    random_state
        Seed of the probes.

    Raises
    ------
    ValueError
        For counts below 1, another estimator, an optimiser without a parameter of the model, or one on the meta device.
    RuntimeError
        From a measurement, where the curvature is NaN or infinite.

    References
    ----------
    arXiv 2305.17490, the stability conditions.

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> monitor = StabilityMonitor(optimizer, model, lambda f, y: (f - y).square().mean() / 2)
    >>> record = monitor.measure((torch.tensor([[2.0], [4.0]]), torch.zeros(2, 1)))
    >>> round(record.trace_ratio, 4)
    0.5
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        loss_fn: Loss,
        every: int = 100,
        estimators: Collection[Estimator] = ("trace", "lambda_max"),
        *,
        batch_size: int = 1,
        rtol: float = 0.05,
        max_products: int = 120,
        random_state: int = 0,
    ) -> None:
        self.optimizer, self.model, self.loss_fn = optimizer, model, loss_fn
        self.every = check_count("every", every)
        for estimator in estimators:
            check_choice("estimators", estimator, get_args(Estimator))
        self.estimators = tuple(estimators)
        self.batch_size = check_count("batch_size", batch_size)
        self.rtol = check_number("rtol", rtol, gt=0)
        self.max_products = check_count("max_products", max_products, at_least=6)
        self.random_state = random_state
        self.steps = 0
        self.history: list[StabilityRecord] = []
        parameter_names(model)
        self._rates()
        if type(optimizer) is not torch.optim.SGD or any(group["momentum"] for group in optimizer.param_groups):
            warnings.warn("the ratios of StabilityMonitor are those of SGD without momentum", stacklevel=2)

    def _rates(self) -> dict[int, float]:
        """Return the learning rate of each parameter of the model that the optimiser moves."""
        known = {id(p) for p in self.model.parameters() if p.requires_grad}
        groups = [(float(g["lr"]), p) for g in self.optimizer.param_groups for p in g["params"]]
        rates = {id(p): lr for lr, p in groups if id(p) in known}
        if not rates:
            raise ValueError("optimizer has no parameter of the model that takes a gradient")
        return rates

    def step(self, data: Data) -> StabilityRecord | None:
        """Count a step of training, and measure if it is time to.

        Parameters
        ----------
        data
            Inputs and targets of the step, or of whatever is to be measured on, or batches of them. More samples than
            one step has tell more.

        Returns
        -------
        StabilityRecord or None
            What was measured, None between measurements.
        """
        self.steps += 1
        return None if self.steps % self.every else self.measure(data)

    def measure(self, data: Data) -> StabilityRecord:
        """Measure at once, keep the record in `history`, and warn where a ratio is above 1.

        Parameters
        ----------
        data
            As in `step`.

        Returns
        -------
        StabilityRecord
            The ratios, the learning rate and the loss.
        """
        rates = self._rates()
        moved = [p for p in self.model.parameters() if id(p) in rates]
        batches = list(batches_of(data))
        root = torch.cat([torch.full((p.numel(),), math.sqrt(rates[id(p)])) for p in moved]).to(vectors_like(moved))
        trace = top = math.nan
        with evaluating(self.model), plainly(root.device):
            with torch.no_grad():
                losses = [(len(y), float(self.loss_fn(self.model(x), y))) for x, y in batches]
                outputs = self.model(batches[0][0][:1]).numel()
            operator = GGNOperator(self.model, self.loss_fn, batches, moved)

            def scaled(v: Tensor) -> Tensor:
                scale = root if v.ndim == 1 else root[:, None]
                return scale * (operator @ (scale * v))

            if "trace" in self.estimators:
                generator = torch_generator(self.random_state, self.steps, device=root.device)
                found = estimate_trace(scaled, operator.n, generator, rtol=self.rtol, dtype=root.dtype,
                                       max_products=self.max_products)  # fmt: skip
                trace = found.trace / (2 * self.batch_size * outputs)
            if "lambda_max" in self.estimators:
                top = _largest(scaled, operator.n, root, self.rtol / 10) / 2
        samples = sum(count for count, _ in losses)
        loss = sum(count * value for count, value in losses) / samples
        record = StabilityRecord(self.steps, max(rates.values()), trace, top, loss)
        self.history.append(record)
        for name, ratio in (("lr Tr / 2", trace), ("lr lambda_max / 2", top)):
            if ratio > 1:
                warnings.warn(f"{name} is {ratio:.3g} at step {self.steps}: SGD can't stay here", stacklevel=2)
        return record


def _largest(product, n: int, like: Tensor, rtol: float) -> float:  # type: ignore[no-untyped-def]
    if n == 1:
        return float(product(torch.ones_like(like)))
    values, _ = extreme_eigenvalues(product, n, rtol=rtol, device=like.device, dtype=like.dtype)
    return float(values[-1])
