"""Several updates for each costly gradient, as an optimiser of torch."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.parameters import FlatView
from paperworks.optimization.schedules import ExponentialDecay, PolynomialDecay
from paperworks.optimization.targets.surrogates import Divergence, TargetSurrogate

EtaSchedule = Literal[
    "constant", "inv_sqrt", "exponential", "armijo", "adagrad_norm", "adagrad_diag", "adam", "newton"
]  # fmt: skip
SUFFICIENT, SHRINK, EXPAND, BACKTRACKS = 0.5, 0.9, 1.8, 100
FIRST_STEP, LEAST_STEP = 10.0, 1e-6


class SSO(Optimizer):
    r"""Surrogate optimisation in target space: one costly gradient of the loss, then many cheap steps of the model.

    A step evaluates the outputs :math:`z_t` of the model and, once, the gradient of the loss by them, and then descends
    `TargetSurrogate` by the parameters, for which only the model is evaluated. With the full batch and `eta` up to one
    over the smoothness of the loss in the outputs (`target_lipschitz`), no step raises the loss, however many inner
    steps it takes; one inner step of gradient descent is gradient descent.

    Parameters
    ----------
    params
        Parameters, or groups of them.
    eta
        Step size in the space of outputs, or what its schedule begins with.
    inner_steps
        Steps on each surrogate, at most.
    inner_optimizer
        "armijo" for gradient descent with backtracking, or an optimiser of torch, called with groups and `lr`.
    lr
        Step size of the parameters; with "armijo" what each line search tries first.
    eta_schedule
        "constant", "inv_sqrt" (`eta / sqrt(t + 1)`), "exponential" (`eta * (1 / T) ** (t / T)`), "armijo" (backtracking
        on the loss in the space of outputs, from 1.8 times the last one), "adagrad_norm", "adagrad_diag" and "adam"
        (one for each sample and output, see `data_idx`), or "newton" (by the curvature p (1 - p) of the logistic loss).
    divergence
        "euclidean", or "kl" for outputs that are probabilities.
    total_steps
        The T of "exponential".
    atol
        Inner steps end where the surrogate's gradient is at most this.

    Raises
    ------
    ValueError
        If a number is out of range, the schedule lacks `total_steps`, or a gradient is not finite.
    RuntimeError
        If the outputs change their shape within a step.

    Warns
    -----
    UserWarning
        If the first step finds that two evaluations of the model differ, as with dropout.

    References
    ----------
    arXiv:2302.02607, Algorithms 1 and 2. The published code writes `eta` for its inverse, sums over samples, and leaves
    out the 1/2 of the squared distance.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> X, model = torch.randn(50, 3), torch.nn.Linear(3, 1)
    >>> y = X.sum(1, keepdim=True)
    >>> optimizer = SSO(model.parameters(), eta=1.0, inner_steps=20)
    >>> for _ in range(5):
    ...     loss = optimizer.step(lambda: model(X), lambda z: (z - y).square().mean() / 2)
    >>> float(loss) < 1e-3, optimizer.n_oracle_calls
    (True, 5)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        eta: float,
        inner_steps: int = 10,
        inner_optimizer: Literal["armijo"] | Callable[..., Optimizer] = "armijo",
        lr: float = FIRST_STEP,
        *,
        eta_schedule: EtaSchedule = "constant",
        divergence: Divergence = "euclidean",
        total_steps: int | None = None,
        atol: float = 1e-6,
    ) -> None:
        check_number("eta", eta, gt=0)
        check_number("lr", lr, ge=0)
        self.inner_steps = check_count("inner_steps", inner_steps)
        self.eta_schedule = check_choice("eta_schedule", eta_schedule, get_args(EtaSchedule))
        self.divergence = check_choice("divergence", divergence, get_args(Divergence))
        self.atol = check_number("atol", atol, ge=0)
        if not callable(inner_optimizer):
            check_choice("inner_optimizer", inner_optimizer, ["armijo"])
        if eta_schedule == "exponential":
            steps = check_count("total_steps", total_steps)
            self._schedule: Callable[[int], float] = ExponentialDecay(eta, steps, 1 / steps)
        else:
            self._schedule = PolynomialDecay(eta, 0.5 if eta_schedule == "inv_sqrt" else 0.0)
        super().__init__(params, {"lr": lr})
        self._inner = inner_optimizer(self.param_groups, lr=lr) if callable(inner_optimizer) else None
        if self._inner is not None:
            self.param_groups = self._inner.param_groups
        self._memory: dict[str, Any] = {
            "step": 0, "oracle_calls": 0, "inner_steps": 0, "eta": eta, "squares": 0.0, "first": None, "second": None,
        }  # fmt: skip

    @property
    def n_oracle_calls(self) -> int:
        """How often the loss was evaluated, in line searches too."""
        return int(self._memory["oracle_calls"])

    @property
    def n_inner_steps(self) -> int:
        """How many steps were taken on surrogates."""
        return int(self._memory["inner_steps"])

    @property
    def last_eta(self) -> float:
        """The last step size in the space of outputs; where there is one for each, their median."""
        return float(self._memory["eta"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Parameters
        ----------
        param_group
            The parameters, under "params", with options of their own.
        """
        if getattr(self, "_inner", None) is not None:
            self._inner.add_param_group(param_group)  # type: ignore[union-attr]
        else:
            super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        own = ("inner_steps", "eta_schedule", "divergence", "atol", "_schedule", "_inner", "_memory")
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, with counts, accumulators, and that of the inner optimiser.

        Returns
        -------
        dict
            Tensors and plain values, to be saved and loaded with `weights_only=True`.
        """
        found = super().state_dict()
        found["targets"] = dict(self._memory)
        found["inner"] = None if self._inner is None else self._inner.state_dict()
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Parameters
        ----------
        state_dict
            What `state_dict` returned, of an optimiser made from the same arguments.
        """
        state_dict = dict(state_dict)
        if "targets" not in state_dict:
            raise ValueError("state_dict has no entry 'targets'; it takes one of this optimiser")
        self._memory = copy.deepcopy(state_dict.pop("targets"))
        inner = state_dict.pop("inner")
        super().load_state_dict(state_dict)
        if self._inner is not None and inner is not None:
            self._inner.load_state_dict(inner)
            self.param_groups = self._inner.param_groups

    def step(  # type: ignore[override]
        self,
        forward: Callable[[], Tensor] | None = None,
        loss: Callable[[Tensor], Tensor] | None = None,
        *,
        closure: Callable[[], Any] | None = None,
        loss_grad: Callable[[Tensor], Tensor] | Tensor | None = None,
        data_idx: Tensor | None = None,
    ) -> Any:
        """Evaluate the loss once, and take the inner steps.

        Parameters
        ----------
        forward
            Evaluates the model, cheaply and the same way throughout the step; its rows are the samples.
        loss
            The costly oracle: the mean loss over the samples, of the model's outputs.
        closure
            Without `forward`: evaluates a loss and calls its `backward`. The parameters themselves are then the
            outputs, as one sample, and the inner steps approach one gradient step of size `eta`.
        loss_grad
            Instead of `loss`: the gradient of the mean loss by the outputs, or a function of them that returns it, from
            a simulator, a policy gradient or a person.
        data_idx
            Which samples the rows are, for schedules that remember each; by default the first rows.

        Returns
        -------
        Tensor
            The loss before the step; None where only its gradient was given.
        """
        given = None
        if closure is not None:
            with torch.enable_grad():
                given = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if forward is None:
            if loss is not None:
                raise TypeError("forward is missing; it takes a function that evaluates the model")
            params = [p for p in params if p.grad is not None]
            if not params:
                return given
            loss_grad = torch.cat([p.grad.reshape(-1) for p in params])[None]
            forward = lambda: torch.cat([p.reshape(-1) for p in params])[None]  # noqa: E731
        if (loss is None) == (loss_grad is None):
            raise TypeError("loss and loss_grad: got both or none; it takes one of them")
        with torch.enable_grad():
            z = forward()
        if not isinstance(z, Tensor) or not z.is_floating_point() or not z.requires_grad:
            got = f"a tensor of {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"forward returned {got}; it takes a tensor of floating-point numbers that depends on "
                             "parameters that require a gradient")  # fmt: skip
        self._check_repeats(forward, z)
        value, g = self._oracle(z, loss, loss_grad)
        if value is not None and closure is None:
            given = value
        self._memory["oracle_calls"] += 1
        towards, eta = self._metric(z.detach(), g, value, loss, data_idx)
        surrogate = TargetSurrogate(z, towards, eta, self.divergence)
        self._descend(params, forward, surrogate, z)
        self._memory["step"] += 1
        return given

    def _check_repeats(self, forward: Callable[[], Tensor], z: Tensor) -> None:
        if self._memory["step"] == 0:
            with torch.no_grad():
                if not torch.equal(forward(), z):
                    warnings.warn("two evaluations of forward differ, as with dropout or batch normalisation; the "
                                  "surrogate takes one that is the same throughout a step", stacklevel=3)  # fmt: skip

    @staticmethod
    def _oracle(z: Tensor, loss: Any, loss_grad: Any) -> tuple[Tensor | None, Tensor]:
        if loss_grad is not None:
            g = loss_grad(z.detach()) if callable(loss_grad) else loss_grad
            if not isinstance(g, Tensor):
                raise TypeError(f"loss_grad is {type(g).__name__}; it takes a tensor")
            return None, g
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            value = loss(at)
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"loss returned {got}; it takes one number that depends on the outputs")
            return value.detach(), torch.autograd.grad(value, at)[0]

    @torch.no_grad()
    def _metric(
        self, z: Tensor, g: Tensor, value: Tensor | None, loss: Any, data_idx: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Return the direction and the step sizes in the space of outputs."""
        memory, n = self._memory, z.shape[0] if z.ndim else 1
        eta: Any = self._schedule(memory["step"])
        if g.shape != z.shape or not bool(g.isfinite().all()):
            return g, eta  # the surrogate says what is wrong
        each = n * g  # the gradients of single samples
        if self.eta_schedule == "armijo":
            if loss is None or value is None:
                raise ValueError("eta_schedule is 'armijo'; it takes loss, of which it searches along the gradient")
            eta, decrease = min(memory["eta"] * EXPAND, 1e4), float((each * g).sum())
            for _ in range(BACKTRACKS * 2):
                memory["oracle_calls"] += 1
                if float(loss(z - eta * each)) <= float(value) - SUFFICIENT * eta * decrease or eta <= 1e-4:
                    break
                eta *= SHRINK
            eta = max(eta, 1e-4)
        elif self.eta_schedule == "adagrad_norm":
            memory["squares"] += float((each * g).sum())
            eta = 1 / (math.sqrt(memory["squares"]) / eta + 1e-6)
        elif self.eta_schedule == "newton":
            p = torch.sigmoid(z)
            eta = eta / (p * (1 - p) + 1e-5)
        elif self.eta_schedule in ("adagrad_diag", "adam"):
            rows = torch.arange(n, device=z.device) if data_idx is None else data_idx
            if rows.shape != (n,):
                raise ValueError(f"data_idx has shape {tuple(rows.shape)}; it takes ({n},), an index for each row")
            if rows.dtype not in (torch.int64, torch.int32) or bool((rows < 0).any()):
                raise ValueError(f"data_idx has {rows.dtype} or negative entries; it takes whole numbers >= 0")
            each = each.reshape(n, *z.shape[1:])
            second = self._grown("second", rows, each)
            if self.eta_schedule == "adagrad_diag":
                second.index_put_((rows,), each**2, accumulate=True)  # a sample may be there more than once
                eta = eta / second[rows].clamp(1e-5, 1e5).sqrt()
            else:
                first, t = self._grown("first", rows, each), memory["step"] + 1
                first[rows] = 0.9 * first[rows] + 0.1 * each
                second[rows] = 0.999 * second[rows] + 0.001 * each**2
                g = first[rows].reshape(z.shape) / (1 - 0.9**t) / n
                eta = eta / ((second[rows] / (1 - 0.999**t)).sqrt() + 1e-8)
            eta = eta.reshape(z.shape)
        memory["eta"] = float(eta.median()) if isinstance(eta, Tensor) else eta
        return g, eta

    def _grown(self, name: str, rows: Tensor, like: Tensor) -> Tensor:
        """Return an accumulator with a row for each sample that was seen."""
        kept, size = self._memory[name], int(rows.max()) + 1
        if kept is None:
            kept = like.new_zeros(0, *like.shape[1:])
        if kept.shape[1:] != like.shape[1:]:
            raise ValueError(f"the outputs have {tuple(like.shape[1:])} entries a sample and had "
                             f"{tuple(kept.shape[1:])}; {self.eta_schedule} remembers each")  # fmt: skip
        if len(kept) < size:
            kept = torch.cat([kept, like.new_zeros(size - len(kept), *like.shape[1:])])
        self._memory[name] = kept
        return kept

    def _descend(
        self, params: list[Tensor], forward: Callable[[], Tensor], surrogate: TargetSurrogate, z: Tensor
    ) -> None:
        scale = 1.0
        for number in range(self.inner_steps):
            with torch.enable_grad():
                value = surrogate(z if number == 0 else forward())
                gradients = torch.autograd.grad(value, params, allow_unused=True)
            used = [(p, d.to_dense()) for p, d in zip(params, gradients, strict=True) if d is not None]
            if not used or float(torch.stack([d.norm() for _, d in used]).norm()) <= self.atol:
                return
            self._memory["inner_steps"] += 1
            if self._inner is not None:
                kept = [p.grad for p in params]
                try:
                    for p, d in zip(params, gradients, strict=True):
                        p.grad = d
                    self._inner.step()
                finally:
                    for p, before in zip(params, kept, strict=True):
                        p.grad = before
            else:
                found = self._line_search(used, forward, surrogate, float(value.detach()), scale)
                if found is None:
                    return
                scale = found * EXPAND

    @torch.no_grad()
    def _line_search(self, used: list[tuple[Tensor, Tensor]], forward: Callable[[], Tensor], surrogate: TargetSurrogate,
                     value: float, scale: float) -> float | None:  # fmt: skip
        """Take a gradient step by backtracking; None where none was found, and nothing moved."""
        rates = {id(p): float(group["lr"]) for group in self.param_groups for p in group["params"]}
        view = FlatView([p for p, _ in used])
        start = view.vector()
        direction = torch.cat([(rates[id(p)] * d).reshape(-1).to(start) for p, d in used])
        decrease = float(sum(rates[id(p)] * d.square().sum() for p, d in used))
        try:
            for _ in range(BACKTRACKS):
                view.copy_(start - scale * direction)
                if float(surrogate(forward())) <= value - SUFFICIENT * scale * decrease:
                    return scale
                scale *= SHRINK
                if scale * max(rates.values()) < LEAST_STEP:
                    break
        except BaseException:
            view.copy_(start)
            raise
        view.copy_(start)
        return None
