"""Curvature with its graph kept, for many products with a matrix that stays as it is."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from paperworks.core.validation import check_choice
from paperworks.numerics.curvature import Curvature, Loss, Reduction
from paperworks.numerics.functional import functional_call

FrozenKind = Literal["hessian", "gauss_newton"]
BatchNormMode = Literal["eval", "train"]
_WORK = {"cpu": 2**24, "other": 2**32}  # parameters times samples at and above which a vector keeps a device busy
_NO_SECOND_DERIVATIVE = ("twice", "double back", "not implemented")  # in what torch says of it


class FrozenCurvature(Curvature):
    r"""The Hessian or Gauss-Newton matrix at the present parameters, whose forward and backward pass are made once.

    Each product is one more backward pass through a graph that is kept, so it costs about half of one of `Curvature`,
    which begins anew and can therefore follow parameters that change. The graphs of all batches are held in memory.

    Parameters
    ----------
    module
        Any module, compiled ones too: they run uncompiled here, since compiled graphs have no second derivative.
        Attention runs by its plain formula for the same reason.
    loss
        ``loss(outputs, targets)``, the mean over a batch.
    batches
        Pairs of inputs and targets, each with the samples in front; read once.
    kind
        ``hessian`` or ``gauss_newton``; the latter takes modules that return one tensor.
    params
        As `Curvature` takes them.
    batch_norm
        ``eval``: batch normalisation uses its running statistics; ``train``: those of each batch, which is then what
        the matrix is of. Running statistics never change, dropout is off, and every layer's mode is put back.
    reduction
        As in `Curvature`.

    Raises
    ------
    ValueError
        For another kind or mode, no samples, a loss that is no number, or parameters that are complex or on the meta
        device.
    TypeError
        For batches that are no pairs.
    NotImplementedError
        Where an operation of the module has no second derivative.
    RuntimeError
        From products, where they aren't finite, or the parameters have changed or were replaced since.

    Examples
    --------
    >>> module, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> FrozenCurvature(module, nn.functional.mse_loss, [(x, y)]) @ torch.ones(1)  # second derivative of mean (w x)^2
    tensor([10.])
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Iterable[tuple[Any, Any]],
        kind: FrozenKind = "hessian",
        *,
        params: Iterable[Tensor | str] | None = None,
        batch_norm: BatchNormMode = "eval",
        reduction: Reduction = "mean",
    ) -> None:
        check_choice("kind", kind, get_args(FrozenKind))
        check_choice("batch_norm", batch_norm, get_args(BatchNormMode))
        super().__init__(module, loss, batches, kind, params=params, reduction=reduction)
        check_device(module)
        self._leaves = self._parameters()
        for name, p in self._leaves.items():
            if p.is_complex():
                raise ValueError(f"module has the complex parameter {name}; it takes real ones")
            p.requires_grad_()
        self._versions = [p._version for p in self._leaves.values()]
        self._sizes = [p.numel() for p in self._leaves.values()]
        make = self._hessian if kind == "hessian" else self._gauss_newton
        parts, samples = [], 0
        with differentiable_twice(module, batch_norm), torch.enable_grad():
            for batch in batches:
                if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                    found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, Sized) else repr(batch)
                    raise TypeError(f"batches has a {found}; it takes pairs of inputs and targets")
                inputs, targets = batch
                parts.append((len(targets) if reduction == "mean" else 1, make(inputs, targets)))
                samples += len(targets)
        if not samples:
            raise ValueError("batches holds no samples")
        share = samples if reduction == "mean" else 1
        self._parts = [(weight / share, multiply) for weight, multiply in parts]
        self.samples = samples
        self.batches = ()  # their graphs are what is kept

    def products(self, v: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the products with vectors in columns, as many at once as are faster together; see `product`.

        Parameters
        ----------
        v
            Vectors in columns, (n, k).

        Returns
        -------
        Tensor
            Shaped as `v`.
        """
        if v.ndim != 2 or len(v) != self.n:
            raise ValueError(f"v has shape {tuple(v.shape)}; it takes ({self.n}, k)")
        if not v.shape[1]:
            return v.clone()
        together = _WORK["cpu" if v.device.type == "cpu" else "other"] // (self.n * self.samples)
        return torch.cat([self._multiply(rows, True) for rows in v.T.split(min(max(together, 1), 16))]).T

    def _outputs(self, inputs: Any) -> Any:
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}  # which batch normalisation changes
        return functional_call(self.module, {**buffers, **self._leaves}, (inputs,))

    def _loss(self, outputs: Any, targets: Any) -> Tensor:
        value: Any = self.loss(outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise ValueError(f"loss returns a value of {what}; it takes one number as a tensor, the mean over a batch")
        return value

    def _hessian(self, inputs: Any, targets: Any) -> Callable[[list[Tensor]], list[Tensor]]:
        leaves = list(self._leaves.values())
        gradients = _grad([self._loss(self._outputs(inputs), targets)], leaves, create_graph=True)
        _check_graph(gradients)
        return lambda rows: _grad(gradients, leaves, rows)

    def _gauss_newton(self, inputs: Any, targets: Any) -> Callable[[list[Tensor]], list[Tensor]]:
        leaves, outputs = list(self._leaves.values()), self._outputs(inputs)
        if not isinstance(outputs, Tensor):
            raise ValueError(f"module returns a {type(outputs).__name__}; gauss_newton takes one that returns a tensor")
        at = outputs.detach().requires_grad_()
        slope = _grad([self._loss(at, targets)], [at], create_graph=True)
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        pulled = _grad([outputs], leaves, [cotangent], create_graph=True)  # linear in the cotangent

        def multiply(rows: list[Tensor]) -> list[Tensor]:
            pushed = _grad(pulled, [cotangent], rows)
            return _grad([outputs], leaves, _grad(slope, [at], pushed))

        return multiply

    def _multiply(self, rows: Float[Tensor, "k n"], together: bool) -> Float[Tensor, "k n"]:
        now = self._parameters().values()  # which share memory and version with the leaves unless they were replaced
        if any(p._version != version or p.data_ptr() != leaf.data_ptr()
               for p, leaf, version in zip(now, self._leaves.values(), self._versions, strict=True)):  # fmt: skip
            raise RuntimeError("the parameters have changed since the curvature was frozen; freeze it anew")
        pieces = zip(self._leaves.values(), rows.split(self._sizes, dim=1), strict=True)
        tangents = [piece.reshape(-1, *p.shape).to(p) for p, piece in pieces]
        with differentiable_twice(self.module):
            total = torch.zeros_like(rows)
            for weight, multiply in self._parts:
                total += weight * torch.cat([t.flatten(1) for t in multiply(tangents)], dim=1).to(rows)
        if not torch.isfinite(total).all():
            raise RuntimeError(f"a product with the {self.kind} matrix is NaN or infinite; loss or parameters overflow")
        return total


def _grad(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor] | None = None, *, create_graph: bool = False
) -> list[Tensor]:
    """Return a gradient, or with cotangents and no graph one for each of their rows; zeros where nothing depends."""
    rows = len(cotangents[0]) if cotangents is not None and not create_graph else 0
    kept = [k for k, out in enumerate(outputs) if out.requires_grad]
    found: list[Tensor | None] = [None] * len(inputs)
    if kept:
        along = None if cotangents is None else [cotangents[k] for k in kept]
        if rows == 1 and along is not None:  # which needs no vmap
            along = [c[0] for c in along]
        try:
            found = list(torch.autograd.grad([outputs[k] for k in kept], inputs, along, retain_graph=True,
                                             create_graph=create_graph, allow_unused=True,
                                             is_grads_batched=rows > 1))  # fmt: skip
        except (RuntimeError, NotImplementedError) as error:
            if any(word in str(error) for word in _NO_SECOND_DERIVATIVE):
                raise NotImplementedError(f"module or loss has no second derivative: {error}") from error
            raise
    lead = (rows,) if rows else ()
    return [
        p.new_zeros(*lead, *p.shape) if g is None else g.reshape(*lead, *p.shape)
        for g, p in zip(found, inputs, strict=True)
    ]


def _check_graph(tensors: list[Tensor]) -> None:
    """Raise NotImplementedError where a graph ends at an error, which gradients in chosen inputs would pass over."""
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if "Error" in node.name():
            raise NotImplementedError(
                "module or loss has no second derivative: a function of it is once_differentiable"
            )
        fresh = {child for child, _ in node.next_functions if child is not None} - seen
        seen |= fresh
        waiting += fresh


def check_device(module: nn.Module) -> None:
    """Raise ValueError where a parameter or buffer is on the meta device, which holds no numbers.

    Parameters
    ----------
    module
        The network whose parameters and buffers are looked at.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise ValueError(f"module has {name} on the meta device, which holds no numbers; load its weights first")


@contextlib.contextmanager
def differentiable_twice(module: nn.Module, batch_norm: BatchNormMode = "eval") -> Iterator[None]:
    """Run a module in evaluation mode, uncompiled, with plain attention; every part's mode is put back afterwards.

    Parameters
    ----------
    module
        The network, whose modes are changed meanwhile.
    batch_norm
        ``train`` lets batch normalisation, and nothing else, run in training mode.

    Returns
    -------
    context manager
        Within it second derivatives exist wherever the operations have any, in inference mode too.

    Examples
    --------
    >>> module = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    >>> with differentiable_twice(module, "train"):
    ...     [part.training for part in module]
    [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    if batch_norm == "train":
        for part, _ in modes:
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.training = True
    try:
        with torch.inference_mode(False), sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part, mode in modes:
            part.training = mode
