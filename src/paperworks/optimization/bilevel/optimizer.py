"""The penalty method as an optimiser of torch: upper parameters, a lower module, and a second copy of it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.bilevel.levels import RecursiveMomentum, Tensors, by, mixed
from paperworks.optimization.schedules import PolynomialDecay

Loss = Callable[[torch.nn.Module, Any], Tensor]
"""A loss of a lower module, called with it and a batch; it may use the upper parameters."""

Module = torch.nn.Module
Factory = Callable[..., Optimizer]


class PenaltyBilevelOptimizer(Optimizer):
    r"""Minimise an upper loss of a module that a lower loss trains, both by first-order gradients.

    Each step moves the module to follow `sigma * upper_loss + lower_loss` and a second copy, `reference`, to follow
    `lower_loss` alone, and then the upper parameters along
    :math:`\nabla_x f(x, y) + (\nabla_x g(x, y) - \nabla_x g(x, z)) / \sigma`.There are no second
    derivatives and no unrolled graphs: memory is that of two copies, four with momentum.

    Parameters
    ----------
    upper_params
        Upper parameters, or groups of them: hyper-parameters, weights of examples.
    lower_module
        The module that the lower level trains; upper parameters that it has are left to the upper level.
    upper_loss, lower_loss
        Functions `(module, batch)` that return a number. What decays weights belongs into the lower loss.
    lr
        Step size of the upper parameters; no more than about sigma times what a plain gradient would take.
    lower_lr
        Step size of the lower parameters.
    sigma
        Penalty parameter, or a schedule of the step such as `PolynomialDecay(0.1, 1 / 3)`, that doesn't rise.
    inner_steps
        Lower steps for each upper one.
    upper_opt, lower_opt
        Optimisers that take the steps, called with parameters and `lr`; both copies share the lower one.
    project_upper, project_lower
        Called without gradients after each step, with the list of parameters that it moved, to project them in place.
    prox_rho
        Lower steps minimise with a proximal term `|y - y_k|^2 / (2 prox_rho)`; None for none.
    averaging
        How far the lower parameters move to where the inner steps led, over 0 and up to 1.
    momentum
        Share of the new gradient in each estimate by recursive momentum (STORM), a number or a schedule of the step;
        takes one inner step, and each gradient twice. None for none.

    Raises
    ------
    ValueError
        If a number is out of range, the module has nothing to train, or sigma rises.
    RuntimeError
        If a loss is not differentiable in the module's parameters.

    References
    ----------
    arXiv:2309.01753, Algorithms 1 and 2.

    Examples
    --------
    How strong should weight decay be, for the sake of held-out data?

    >>> _ = torch.manual_seed(0)
    >>> X, weights = torch.randn(40, 5), torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0])
    >>> y = X @ weights + torch.randn(40)
    >>> decay, model = torch.nn.Parameter(torch.tensor(0.0)), torch.nn.Linear(5, 1)
    >>> def error(model, rows):
    ...     return (model(X[rows])[:, 0] - y[rows]).square().mean()
    >>> def penalised(model, rows):
    ...     return error(model, rows) + decay.exp() * model.weight.square().sum()
    >>> optimizer = PenaltyBilevelOptimizer([decay], model, error, penalised, lr=0.5, lower_lr=0.1)
    >>> for _ in range(100):
    ...     loss = optimizer.step(upper_batch=slice(20, 40), lower_batch=slice(0, 20))
    >>> decay.item() < -1
    True
    """

    def __init__(
        self,
        upper_params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lower_module: Module,
        upper_loss: Loss,
        lower_loss: Loss,
        *,
        lr: float = 0.01,
        lower_lr: float = 0.1,
        sigma: float | Callable[[int], float] = 0.1,
        inner_steps: int = 5,
        upper_opt: Factory = torch.optim.SGD,
        lower_opt: Factory = torch.optim.SGD,
        project_upper: Callable[[Tensors], Any] | None = None,
        project_lower: Callable[[Tensors], Any] | None = None,
        prox_rho: float | None = None,
        averaging: float = 1.0,
        momentum: float | Callable[[int], float] | None = None,
    ) -> None:
        check_number("lr", lr, ge=0)
        check_number("lower_lr", lower_lr, ge=0)
        self.sigma = sigma if callable(sigma) else PolynomialDecay(check_number("sigma", sigma, gt=0))
        self.inner_steps = check_count("inner_steps", inner_steps)
        self.rho = None if prox_rho is None else check_number("prox_rho", prox_rho, gt=0)
        self.averaging = check_number("averaging", averaging, gt=0, le=1)
        if momentum is not None and inner_steps != 1:
            raise ValueError(f"inner_steps is {inner_steps}; it takes 1 with momentum")
        if momentum is not None and not callable(momentum):
            momentum = PolynomialDecay(check_number("momentum", momentum, gt=0, le=1))
        self.momentum = momentum
        for name, loss in (("upper_loss", upper_loss), ("lower_loss", lower_loss)):
            if not callable(loss):
                raise TypeError(f"{name} is {type(loss).__name__}; it takes a function of a module and a batch")
        self.upper_loss, self.lower_loss = upper_loss, lower_loss
        self.project_upper, self.project_lower = project_upper, project_lower

        super().__init__(upper_params, {"lr": lr})
        upper = {id(p) for p in self._upper}
        if not isinstance(lower_module, torch.nn.Module):
            raise TypeError(f"lower_module is {type(lower_module).__name__}; it takes a module")
        self.lower_module = lower_module
        self.reference = copy.deepcopy(lower_module, {id(p): p for p in self._upper})
        self._y, self._z = (_trained(module, upper) for module in (self.lower_module, self.reference))
        if not self._y:
            raise ValueError("lower_module has no parameters of its own that take gradients; it takes one or more")
        self._make_upper, self._k, self._last_sigma = upper_opt, 0, float("inf")
        self._inner = lower_opt([*self._y, *self._z], lr=lower_lr)
        self._outer = self._adopted(upper_opt(self.param_groups, lr=lr))
        self._momenta = [RecursiveMomentum() for _ in range(5)]
        self._before: list[Tensors] | None = None
        self._loss, self._used = torch.zeros(()), [False]

    @property
    def _upper(self) -> Tensors:
        return [p for group in self.param_groups for p in group["params"]]

    def _adopted(self, outer: Optimizer) -> Optimizer:
        """Make the groups of the optimiser that takes the upper steps, and its state, ours."""
        self.param_groups, self.state = outer.param_groups, outer.state
        return outer

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of upper parameters.

        Parameters
        ----------
        param_group
            The parameters, under "params", with options of their own.
        """
        if hasattr(self, "_outer"):
            self._outer.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: of the upper and lower optimisers, the second copy, momentum and the step.

        Returns
        -------
        dict
            Tensors and plain values, to be saved and loaded with `weights_only=True`. The parameters themselves, of the
            upper level and of `lower_module`, are the caller's to keep.
        """
        found = super().state_dict()
        found["bilevel"] = {
            "step": self._k,
            "sigma": self._last_sigma,
            "lower": self._inner.state_dict(),
            "reference": self.reference.state_dict(),
            "momenta": [m.estimate for m in self._momenta],
            "before": self._before,
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Parameters
        ----------
        state_dict
            What `state_dict` returned, of an optimiser made from the same arguments.
        """
        state_dict = dict(state_dict)
        if "bilevel" not in state_dict:
            raise ValueError("state_dict has no entry 'bilevel'; it takes one of this optimiser")
        own = copy.deepcopy(state_dict.pop("bilevel"))
        self._outer.load_state_dict(state_dict)
        self._adopted(self._outer)
        self._inner.load_state_dict(own["lower"])
        self.reference.load_state_dict(own["reference"])
        self._k, self._last_sigma, self._before = own["step"], own["sigma"], own["before"]
        for m, estimate in zip(self._momenta, own["momenta"], strict=True):
            m.estimate = estimate

    def step(
        self, closure: Callable[[], Any] | None = None, *, upper_batch: Any = None, lower_batch: Any = None
    ) -> Any:  # fmt: skip
        """Take the inner steps and one upper step.

        Parameters
        ----------
        closure
            Evaluates what the upper level minimises beside, such as a regulariser of its parameters, and calls its
            `backward`: gradients that upper parameters have are added to the hyper-gradient.
        upper_batch, lower_batch
            What the losses are called with: a batch for all evaluations of this step, or an iterator that gives a new
            one for each inner step and for the upper one.

        Returns
        -------
        Tensor
            What the closure returned, without one the upper loss before the upper step.
        """
        given = None
        if closure is not None:
            with torch.enable_grad():
                given = closure()
        sigma = check_number("sigma", self.sigma(self._k), gt=0)
        if sigma > self._last_sigma * (1 + 1e-12):
            raise ValueError(f"sigma rises from {self._last_sigma:g} to {sigma:g}; it takes a falling schedule")
        before = [self._copied(p) for p in (self._upper, self._y, self._z)] if self.momentum else None
        anchor = self._copied(self._y + self._z) if self.rho is not None or self.averaging < 1 else None
        for _ in range(self.inner_steps):
            batches = _next(upper_batch), _next(lower_batch)
            of_f, of_y, of_z = self._smoothed(slice(0, 3), self._lower, batches, self._before)
            towards = mixed(sigma, of_f, of_y) + of_z
            if self.rho is not None and anchor is not None:
                with torch.no_grad():
                    towards = [
                        t + (p - a) / self.rho for t, p, a in zip(towards, self._y + self._z, anchor, strict=True)
                    ]
            _stepped(self._inner, self._y + self._z, towards)
            self._projected(self.project_lower, self._y)
            self._projected(self.project_lower, self._z)
        if self.averaging < 1 and anchor is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self._y + self._z, anchor, 1 - self.averaging)

        batches = _next(upper_batch), _next(lower_batch)
        # The upper gradients of the step before were taken with x before it, and with y and z after it.
        point = None if self._before is None or before is None else [self._before[0], before[1], before[2]]
        of_f, of_gap = self._smoothed(slice(3, 5), self._gradients, batches, point)
        loss = self._loss
        total = mixed(1 / sigma, of_gap, of_f)
        used = self._used
        total_or_none: list[Tensor | None] = [
            None if not u and p.grad is None else t if p.grad is None else t + p.grad
            for u, p, t in zip(used, self._upper, total, strict=True)
        ]
        if not all(bool(t.isfinite().all()) for t in total_or_none if t is not None):
            raise ValueError("the hyper-gradient is not finite: lr or lower_lr is too large, or a loss infinite")
        _stepped(self._outer, self._upper, total_or_none)
        self._projected(self.project_upper, self._upper)
        self._before, self._last_sigma = before, sigma
        self._k += 1
        return loss if closure is None else given

    def _smoothed(self, which: slice, gradients: Callable[..., Any], batches: tuple[Any, Any],
                  before: list[Tensors] | None) -> list[Tensors]:  # fmt: skip
        """Return gradients by recursive momentum."""
        new = gradients(*batches)
        if self.momentum is None:
            return list(new)
        eta, old = check_number("momentum", self.momentum(self._k), gt=0, le=1), None
        if eta < 1 and before is not None:
            kept = self._loss, self._used
            here = [self._copied(p) for p in (self._upper, self._y, self._z)]
            self._put(before)
            old = gradients(*batches)
            self._put(here)
            self._loss, self._used = kept
        return [
            m.update(value, eta, None if old is None else old[i])
            for i, (m, value) in enumerate(zip(self._momenta[which], new, strict=True))
        ]

    @torch.enable_grad()
    def _lower(self, upper_batch: Any, lower_batch: Any) -> tuple[Tensors, Tensors, Tensors]:
        of_f = by("upper_loss", self.upper_loss(self.lower_module, upper_batch), self._y)
        both = self.lower_loss(self.lower_module, lower_batch) + self.lower_loss(self.reference, lower_batch)
        found = by("lower_loss", both, self._y + self._z)
        return of_f, found[: len(self._y)], found[len(self._y) :]

    @torch.enable_grad()
    def _gradients(self, upper_batch: Any, lower_batch: Any) -> tuple[Tensors, Tensors]:
        loss = self.upper_loss(self.lower_module, upper_batch)
        gap = self.lower_loss(self.lower_module, lower_batch) - self.lower_loss(self.reference, lower_batch)
        upper = self._upper
        found = [
            torch.autograd.grad(value, upper, allow_unused=True) if value.requires_grad else [None] * len(upper)
            for value in (loss, gap)
        ]
        self._loss = loss.detach()
        self._used = [a is not None or b is not None for a, b in zip(*found, strict=True)]
        of_f, of_gap = (
            [torch.zeros_like(p) if d is None else d for d, p in zip(part, upper, strict=True)] for part in found
        )
        return of_f, of_gap

    @staticmethod
    def _copied(params: Tensors) -> Tensors:
        return [p.detach().clone() for p in params]

    @torch.no_grad()
    def _put(self, point: list[Tensors]) -> None:
        for params, values in zip((self._upper, self._y, self._z), point, strict=True):
            torch._foreach_copy_(params, values)

    @torch.no_grad()
    def _projected(self, projection: Callable[[Tensors], Any] | None, params: Tensors) -> None:
        if projection is not None:
            projection(params)


def _trained(module: Module, upper: set[int]) -> Tensors:
    return [p for p in module.parameters() if p.requires_grad and id(p) not in upper]


def _next(batch: Any) -> Any:
    return next(batch) if isinstance(batch, Iterator) else batch


def _stepped(optimizer: Optimizer, params: Tensors, gradients: Sequence[Tensor | None]) -> None:
    """Let an optimiser step along given gradients, and leave those that the parameters have."""
    kept = [p.grad for p in params]
    try:
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
    finally:
        for p, gradient in zip(params, kept, strict=True):
            p.grad = gradient
