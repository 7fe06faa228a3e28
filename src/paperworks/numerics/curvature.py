"""Curvature of a module's loss in its parameters: products with the Hessian, the Gauss-Newton matrix, the Fisher."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.backends import mha
from torch.func import grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from paperworks.core.validation import check_choice
from paperworks.numerics.functional import functional_call

Kind = Literal["hessian", "gauss_newton", "empirical_fisher"]
Reduction = Literal["mean", "sum"]
Loss = Callable[[Any, Any], Tensor]

_COLUMNS = 16  # vectors that go through the module at once


class Curvature:
    r"""A symmetric matrix of second order of a loss in a module's parameters, known by its products with vectors.

    The loss is the mean over all samples of all batches. Its Hessian is ``J^T H J + sum of loss' * output''``; the
    Gauss-Newton matrix ``J^T H J`` keeps the first part, with ``H`` the Hessian of the loss in the outputs. Where the
    loss is a cross-entropy or a squared error it is the Fisher information. The empirical Fisher is the mean of
    ``g g^T`` over the gradients of single samples.

    Parameters
    ----------
    module
        Any module that torch.func can transform: its path must not depend on values. Its mode, training or evaluation,
        is as it stands. Attention is computed by its definition, since its fused kernels have no second derivatives,
        and `torch.autocast` is off meanwhile.
    loss
        ``loss(outputs, targets)``, the mean over a batch.
    batches
        Pairs of inputs and targets, each with the samples in front. A list keeps them; an iterable such as a
        `DataLoader` is read once for each product.
    kind
        ``hessian``, ``gauss_newton`` or ``empirical_fisher``.
    params
        The parameters whose block of the matrix is meant: tensors, their names, or names of submodules, such as a
        layer's. All that take a gradient by default; those named here need not.
    reduction
        Whether `loss` is the ``mean`` or the ``sum`` over a batch; with ``sum`` so is the matrix, n times as large.

    Raises
    ------
    ValueError
        For an unknown kind or reduction, a module without parameters that take a gradient, or `params` that are none of
        the module's.
    RuntimeError
        From products where batch normalisation or dropout is in training mode, since the loss is then no mean over
        samples, and where a product is NaN or infinite.

    Notes
    -----
    What takes SciPy's linear operators takes this, by ``scipy.sparse.linalg.aslinearoperator``: arrays go in and come
    out of `matvec` and `matmat`. Tensors are multiplied by ``@``. Weights that a module uses twice count once.

    References
    ----------
    Pearlmutter, Fast exact multiplication by the Hessian (1994); Schraudolph, Fast curvature matrix-vector products for
    second-order gradient descent (2002).

    Examples
    --------
    >>> module, x, y = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> hessian = Curvature(module, torch.nn.functional.mse_loss, [(x, y)])
    >>> hessian.product(torch.ones(1))  # the second derivative of the mean of (w x)^2
    tensor([10.])
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Iterable[tuple[Any, Any]],
        kind: Kind = "hessian",
        *,
        params: Iterable[Tensor | str] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        self.kind: Kind = check_choice("kind", kind, get_args(Kind))
        self.reduction: Reduction = check_choice("reduction", reduction, get_args(Reduction))
        self.module, self.loss, self.batches = module, loss, batches
        self.names = parameter_names(module, params)

    @property
    def n(self) -> int:
        """Rows of the matrix: the number of parameters that take a gradient."""
        return sum(p.numel() for p in self._parameters().values())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.n, self.n

    @property
    def dtype(self) -> np.dtype:
        """NumPy's name of the floating-point type of vectors, that of the parameters or single precision for less."""
        return np.dtype(str(self.like.dtype).removeprefix("torch."))

    @property
    def like(self) -> Tensor:
        """An empty tensor of the vectors' type and place."""
        return vectors_like(self._parameters().values())

    def _parameters(self) -> dict[str, Tensor]:
        return selected(self.module, self.names)

    def product(self, v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the product with a vector.

        Parameters
        ----------
        v
            One number for each parameter, in the order of ``module.parameters()``.

        Returns
        -------
        Tensor
            As long as `v`.

        Raises
        ------
        ValueError
            For a vector of another length, or no samples.
        RuntimeError
            Where a layer's mode makes samples depend on each other or on chance, or the product is not finite.
        """
        if v.shape != (self.n,):
            raise ValueError(f"v has shape {tuple(v.shape)}; it takes ({self.n},)")
        return self._multiply(v[None], together=False)[0]

    def products(self, v: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the products with vectors in columns, sixteen at a time through one pass of the module; see `product`.

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
        return torch.cat([self._multiply(rows, together=len(rows) > 1) for rows in v.T.split(_COLUMNS)]).T

    def matvec(self, v: Any) -> Any:
        """Return the product with one vector, as `scipy.sparse.linalg.LinearOperator.matvec` does.

        Parameters
        ----------
        v
            A tensor or an array of shape (n,) or (n, 1).

        Returns
        -------
        Tensor or np.ndarray
            As `v` is, in type and shape.
        """
        if isinstance(v, Tensor):
            return self.product(v.reshape(-1)).reshape(v.shape)
        return self._of_array(self.matvec, v)

    rmatvec = matvec  # the matrix is symmetric

    def matmat(self, v: Any) -> Any:
        """Return the products with vectors in columns, as `scipy.sparse.linalg.LinearOperator.matmat` does.

        Parameters
        ----------
        v
            A tensor or an array of shape (n, k).

        Returns
        -------
        Tensor or np.ndarray
            As `v` is, in type and shape.
        """
        return self.products(v) if isinstance(v, Tensor) else self._of_array(self.products, v)

    rmatmat = matmat

    def __matmul__(self, v: Any) -> Any:
        return self.matvec(v) if v.ndim == 1 else self.matmat(v)

    def _of_array(self, multiply: Callable[[Tensor], Tensor], v: Any) -> np.ndarray:
        return multiply(torch.tensor(np.asarray(v), dtype=self.like.dtype, device=self.like.device)).cpu().numpy()

    def _multiply(self, rows: Float[Tensor, "k n"], together: bool) -> Float[Tensor, "k n"]:
        """Return the products with vectors in rows, all at once or the only one by itself."""
        check_mode(self.module)
        parameters = self._parameters()
        sizes = [p.numel() for p in parameters.values()]
        pieces = zip(parameters.items(), rows.split(sizes, dim=1), strict=True)
        tangents = {name: piece.reshape(-1, *p.shape).to(p) for (name, p), piece in pieces}
        total, samples = torch.zeros_like(rows), 0
        for inputs, targets in self.batches:
            with plainly(rows.device):
                of_batch = self._of_batch(parameters, inputs, targets)
                if together:
                    found = vmap(of_batch)(tangents)
                else:
                    alone = of_batch({name: t[0] for name, t in tangents.items()})
                    found = {name: t[None] for name, t in alone.items()}
            weight = len(targets) if self.reduction == "mean" else 1
            total += weight * torch.cat([found[name].detach().flatten(1) for name in parameters], dim=1).to(rows)
            samples += len(targets)
        if not samples:
            raise ValueError("batches holds no samples")
        if not torch.isfinite(total).all():
            raise RuntimeError(f"a product with the {self.kind} matrix is NaN or infinite; loss or parameters overflow")
        return total / samples if self.reduction == "mean" else total

    def _of_batch(
        self, parameters: dict[str, Tensor], inputs: Any, targets: Any
    ) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the map from a tangent to its product with a batch's matrix."""

        def outputs(p: dict[str, Tensor]) -> Any:
            return functional_call(self.module, p, (inputs,))

        def objective(p: dict[str, Tensor]) -> Tensor:
            return self.loss(outputs(p), targets)

        if (
            self.kind == "hessian"
        ):  # a symmetric Jacobian of the gradient: pulling back needs no forward mode of the loss
            turn: Any = vjp(grad(objective), parameters)[1]
            return lambda tangent: turn(tangent)[0]
        found: Any = vjp(outputs, parameters)
        at, pull = found[0], found[1]
        if self.kind == "gauss_newton":

            def of_outputs(out: Tensor) -> Tensor:
                return self.loss(out, targets)

            curve: Any = vjp(grad(of_outputs), at)[1]
            return lambda tangent: pull(curve(_push(outputs, parameters, tangent))[0])[0]
        each = vmap(grad(lambda out, y: self.loss(out[None], y[None])))(at, targets)
        share = len(targets) if self.reduction == "mean" else 1

        def fisher(tangent: dict[str, Tensor]) -> dict[str, Tensor]:
            along = (each * _push(outputs, parameters, tangent)).flatten(1).sum(1) / share
            return pull(each * along.reshape(-1, *[1] * (each.ndim - 1)))[0]

        return fisher


def _push(function: Any, at: Any, tangent: Any) -> Tensor:
    """Return a function's derivative along a tangent."""
    _, change, *_ = jvp(function, (at,), (tangent,))
    return change


def parameter_names(module: nn.Module, params: Iterable[Tensor | str] | None = None) -> list[str]:
    """Return the names of parameters that are given as tensors, by their names or by those of submodules.

    Parameters
    ----------
    module
        Whose parameters they are.
    params
        What is wanted; None for all that take a gradient.

    Returns
    -------
    list[str]
        Names in the order of ``module.named_parameters()``, each once.

    Raises
    ------
    ValueError
        Where nothing is left, something is none of the module's, or parameters are on the meta device.
    """
    named = dict(module.named_parameters())
    for name, p in named.items():
        if p.is_meta:
            raise ValueError(
                f"module has {name} on the meta device, where it has no values; load or initialise it first"
            )
    if params is None:
        names = [name for name, p in named.items() if p.requires_grad]
        if not names:
            raise ValueError("module has no parameter that takes a gradient")
        return names
    if isinstance(params, (str, Tensor)):
        params = [params]
    known = {id(p): name for name, p in named.items()}
    chosen: set[str] = set()
    for item in params:
        if isinstance(item, Tensor):
            found = {known[id(item)]} if id(item) in known else set()
        else:  # tied weights have several names, and stand under their first
            every = module.named_parameters(remove_duplicate=False)
            found = {known[id(p)] for name, p in every if name == item or name.startswith(f"{item}.")}
        if not found:
            what = f"a tensor of shape {tuple(item.shape)}" if isinstance(item, Tensor) else repr(item)
            raise ValueError(f"params has {what}; it takes parameters of the module, or names of them or of submodules")
        chosen |= found
    if not chosen:
        raise ValueError("params is empty; it takes at least one parameter")
    return [name for name in named if name in chosen]


def selected(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return a module's parameters of these names, detached.

    Parameters
    ----------
    module
        Whose parameters they are.
    names
        As `parameter_names` gives them.

    Returns
    -------
    dict[str, Tensor]
        The tensors by name, which share the parameters' memory.
    """
    state = dict(module.named_parameters())
    return {name: state[name].detach() for name in names}


def vectors_like(parameters: Iterable[Tensor]) -> Tensor:
    """Return an empty tensor of the type and place of vectors of numbers for parameters.

    Parameters
    ----------
    parameters
        Of one place; where types differ, that which holds all of them, and single precision for less.

    Returns
    -------
    Tensor
        It has no elements.
    """
    found = torch.empty(0)
    for p in parameters:
        found = torch.empty(0, dtype=torch.promote_types(found.dtype, p.dtype), device=p.device)
    return found


@contextmanager
def plainly(device: torch.device) -> Iterator[None]:
    """Have all computed by its definition, which can be differentiated any number of times, in its own precision.

    Fused kernels of attention and autocasting are off meanwhile.

    Parameters
    ----------
    device
        Where it is computed.

    Yields
    ------
    None
        PyTorch's settings are put back afterwards.
    """
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(device.type, enabled=False):
            yield
    finally:
        mha.set_fastpath_enabled(fast)


def check_mode(module: nn.Module) -> None:
    """Raise RuntimeError where batch normalisation or dropout makes outputs depend on other samples or on chance.

    Parameters
    ----------
    module
        The network whose parts are looked at.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
            why = "is in training mode" if part.training else "keeps no running statistics"
            raise RuntimeError(
                f"{name or 'module'}, a {type(part).__name__}, {why}, so samples depend on each other; "
                "call module.eval() first"
            )
        chance = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else 0
        if isinstance(part, (nn.MultiheadAttention, nn.RNNBase)):
            chance = part.dropout
        if part.training and chance > 0:
            raise RuntimeError(
                f"{name or 'module'}, a {type(part).__name__}, is in training mode; call module.eval() first"
            )
