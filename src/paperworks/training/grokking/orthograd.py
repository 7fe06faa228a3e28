"""⊥Grad: any optimiser with gradients orthogonal to the weights."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paperworks.core.validation import check_choice, check_number
from paperworks.training.grokking.projection import Granularity, Projection

_HOOKS = ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post")


def _projection(
    rescale: bool, granularity: Granularity, exclude_1d: bool, eps: float, foreach: bool | None
) -> Projection:
    check_choice("granularity", granularity, get_args(Granularity))
    chosen = {"rescale": rescale, "exclude_1d": exclude_1d} | ({} if foreach is None else {"foreach": foreach})
    for name, value in chosen.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; it takes True or False")
    return Projection(rescale, granularity, exclude_1d, check_number("eps", eps, ge=0), foreach)


def _check_parameter(p: Any) -> None:
    if not isinstance(p, Tensor):
        raise TypeError(f"params has a {type(p).__name__}; it takes tensors")
    if p.is_meta:
        raise ValueError("params has a tensor on the meta device, which has no values; materialise the module first")
    if p.is_complex():
        raise RuntimeError("params has a complex tensor, whose projection is not defined; view it as real")


def _with_gradients(params: Iterable[Tensor]) -> list[Tensor]:
    found = []
    for p in params:
        _check_parameter(p)
        if p.grad is None:
            continue
        if p.grad.layout != torch.strided:
            raise RuntimeError(f"a parameter has a sparse gradient ({p.grad.layout}); OrthoGrad takes dense ones")
        found.append(p)
    return found


@torch.no_grad()
def orthogonalize_gradients_(
    params: nn.Module | Tensor | Iterable[Tensor],
    *,
    rescale: bool = True,
    granularity: Literal["tensor", "global", "row"] = "tensor",
    exclude_1d: bool = False,
    eps: float = 1e-30,
    foreach: bool | None = None,
) -> None:
    r"""Replace gradients by their part orthogonal to the weights, ``g - (<w, g> / <w, w>) w``, in place.

    For training loops of one's own. Call it between `backward` and `step`: with data-parallel training after the
    reduction over processes (`DistributedDataParallel` reduces in `backward`), with a `GradScaler` after `unscale_`,
    with several micro-batches after the last one. With `rescale` norms stay, so that it makes no difference to clipping
    by norm whether that comes before or after; clip by value before.

    Parameters
    ----------
    params
        A network, a parameter or several; those without a gradient are left out.
    rescale
        Whether the gradient keeps its norm, as in the paper's code; its equation is the projection alone.
    granularity
        What is projected by itself: each ``tensor`` as in the paper's code, all parameters together (``global``), or
        each ``row``, the weights of one output unit.
    exclude_1d
        Whether to leave biases and scales as they are; the paper's code projects all.
    eps
        Added to denominators.
    foreach
        Whether to use operations on lists of tensors, which don't wait for an accelerator but for ``global``; by
        default where a parameter isn't on the CPU.

    Raises
    ------
    RuntimeError
        For sparse gradients and complex parameters.
    TypeError
        For what isn't a tensor.
    ValueError
        For another granularity, a negative `eps`, or parameters on the meta device.

    Notes
    -----
    Parameters that processes share as `DTensor`, as `fully_shard` leaves them, are projected as whole ones; rows take
    those that are sharded along the first axis.

    A tensor, or a row, of one element is left as it is (its projection would be 0), and so is one whose weights are all
    zero, or so small that `eps` outweighs their squares. Where a gradient points along the weights to rounding, it
    becomes 0, since no direction is left to scale.

    References
    ----------
    arXiv 2501.04697, the definition of ⊥Grad.

    Examples
    --------
    >>> w = torch.tensor([1.0, 0.0], requires_grad=True)
    >>> w.grad = torch.tensor([3.0, 4.0])
    >>> orthogonalize_gradients_([w])
    >>> w.grad
    tensor([0., 5.])
    """
    projection = _projection(rescale, granularity, exclude_1d, eps, foreach)
    if isinstance(params, nn.Module):
        params = params.parameters()
    found = _with_gradients([params] if isinstance(params, Tensor) else params)
    projection.apply(found, [p.grad for p in found if p.grad is not None], in_place=True)


class OrthoGrad(Optimizer):
    r"""⊥Grad: wraps any optimiser and gives it gradients orthogonal to the weights, ``g - (<w, g> / <w, w>) w``.

    Past the point where training data are fitted, gradients point along the weights, which makes logits grow and
    changes no prediction. Without that part generalisation follows memorisation almost at once.

    Groups, state and defaults are those of the wrapped optimiser: schedulers of either work, and a checkpoint of either
    fits the other. `p.grad` is the same after a step as before. With closures the gradients of the closure are
    projected. A `GradScaler` unscales before the projection, and accumulated gradients are projected as one.

    Parameters
    ----------
    base_optimizer
        The optimiser to wrap; or parameters, or groups of them, of which `base_cls` makes one.
    base_cls
        The class of the optimiser, where parameters are given.
    rescale, granularity, exclude_1d, eps, foreach
        As in `orthogonalize_gradients_`.
    **base_kwargs
        Options of the optimiser, where parameters are given.

    Raises
    ------
    RuntimeError
        For complex parameters, and in a step for sparse gradients.
    TypeError
        If what is given is no optimiser, or options come with a finished one; for one that must have a closure, as
        `torch.optim.LBFGS`.
    ValueError
        For another granularity, a negative `eps` or learning rate, or parameters on the meta device.

    Notes
    -----
    With plain gradient descent and the granularity ``tensor``, a step makes weights longer by
    ``|w|^2 -> |w|^2 + lr^2 |g|^2`` exactly. An adaptive optimiser scales elements, so its step is not orthogonal.
    Weight decay and momentum of the wrapped optimiser remain.

    References
    ----------
    arXiv 2501.04697, the definition of ⊥Grad.

    Examples
    --------
    >>> model = nn.Linear(4, 2)
    >>> optimizer = OrthoGrad(torch.optim.AdamW(model.parameters(), lr=1e-2))
    >>> schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    >>> model(torch.ones(3, 4)).square().sum().backward()
    >>> optimizer.step()
    >>> schedule.step()
    >>> optimizer.base_optimizer.param_groups[0]["lr"]
    0.005
    """

    def __init__(
        self,
        base_optimizer: Any,
        base_cls: type[Optimizer] | None = None,
        *,
        rescale: bool = True,
        granularity: Literal["tensor", "global", "row"] = "tensor",
        exclude_1d: bool = False,
        eps: float = 1e-30,
        foreach: bool | None = None,
        **base_kwargs: Any,
    ) -> None:
        projection = _projection(rescale, granularity, exclude_1d, eps, foreach)
        base = _wrapped(base_optimizer, base_cls, base_kwargs)
        self.__setstate__({"base_optimizer": base, "projection": projection})

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle or a copy holds: the wrapped optimiser with its state, and the options."""
        return {"base_optimizer": self.base_optimizer, "projection": self.projection}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a state, and share the wrapped optimiser's hooks of checkpoints."""
        self.base_optimizer: Optimizer = state["base_optimizer"]
        self.projection: Projection = state["projection"]
        for name in _HOOKS:
            hooks = f"_optimizer_{name}_hooks"
            if hasattr(self.base_optimizer, hooks):  # which some optimisers that wrap others lack
                setattr(self, hooks, getattr(self.base_optimizer, hooks))
        super().__setstate__({})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the wrapped optimiser."""
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the wrapped optimiser, by parameter."""
        return self.base_optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base_optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the wrapped optimiser."""
        return self.base_optimizer.defaults

    def __repr__(self) -> str:
        p = self.projection
        return f"OrthoGrad({self.base_optimizer!r}, granularity={p.granularity!r}, rescale={p.rescale})"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters to the wrapped optimiser.

        Parameters
        ----------
        param_group
            Its parameters as "params", and options that differ from the defaults.
        """
        self.base_optimizer.add_param_group(param_group)
        try:
            for p in self.param_groups[-1]["params"]:
                _check_parameter(p)
        except (RuntimeError, ValueError):
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimiser, which a bare one could load.

        Returns
        -------
        dict
            As that of the wrapped optimiser.
        """
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a wrapped or of a bare optimiser.

        Parameters
        ----------
        state_dict
            What `state_dict` of either returned.
        """
        self.base_optimizer.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients, as the wrapped optimiser does.

        Parameters
        ----------
        set_to_none
            Whether to drop them or to fill them with zeros.
        """
        self.base_optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Project the gradients, let the wrapped optimiser take its step, and put the gradients back.

        Parameters
        ----------
        closure
            Evaluates the loss and its gradients, once, before they are projected.

        Returns
        -------
        Any
            What the closure returned, None without one.

        Raises
        ------
        RuntimeError
            For sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = _with_gradients(p for group in self.param_groups for p in group["params"])
        grads = [p.grad for p in params if p.grad is not None]
        with torch.no_grad():
            projected = self.projection.apply(params, grads)
        try:
            for p, grad in zip(params, projected, strict=True):
                p.grad = grad
            self.base_optimizer.step()
        except Exception as error:
            if closure is not None:  # some optimisers only find out now that they miss it
                error.add_note("OrthoGrad evaluates closures itself, and calls the wrapped optimiser without one")
            raise
        finally:
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
        return loss


def _wrapped(base: Any, base_cls: type[Optimizer] | None, options: dict[str, Any]) -> Optimizer:
    """Return the optimiser to wrap: the one given, or a new one of a class."""
    if base_cls is not None:
        if not (inspect.isclass(base_cls) and issubclass(base_cls, Optimizer)):
            raise TypeError(f"base_cls is {base_cls!r}; it takes a class of optimisers")
        if isinstance(base, Optimizer):
            raise TypeError("base_cls is given with a finished optimiser; it takes parameters as base_optimizer")
        if "lr" in options and not isinstance(options["lr"], Tensor):
            check_number("lr", options["lr"], ge=0)
        base = base_cls(base, **options)
    elif not isinstance(base, Optimizer):
        raise TypeError(f"base_optimizer is a {type(base).__name__}; it takes an optimiser, or parameters and base_cls")
    elif options:
        raise TypeError(f"{', '.join(options)}: options come with a finished optimiser; it takes them with base_cls")
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        name = type(base).__name__
        raise TypeError(f"base_optimizer is {name}, which evaluates closures itself; nothing could be projected")
    for group in base.param_groups:
        for p in group["params"]:
            _check_parameter(p)
    return base
