"""Curvature of a module's loss in its parameters: products with the Hessian, the Gauss-Newton matrix, the Fisher."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from paperworks.core.validation import check_choice

Kind = Literal["hessian", "gauss_newton", "empirical_fisher"]
Loss = Callable[[Any, Any], Tensor]


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
        is as it stands.
    loss
        ``loss(outputs, targets)``, the mean over a batch.
    batches
        Pairs of inputs and targets, each with the samples in front. A list keeps them; an iterable such as a
        `DataLoader` is read once for each product.
    kind
        ``hessian``, ``gauss_newton`` or ``empirical_fisher``.

    Raises
    ------
    ValueError
        For an unknown kind, or a module without parameters that take a gradient.

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
        self, module: nn.Module, loss: Loss, batches: Iterable[tuple[Any, Any]], kind: Kind = "hessian"
    ) -> None:
        self.kind: Kind = check_choice("kind", kind, get_args(Kind))
        self.module, self.loss, self.batches = module, loss, batches
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        if not self._names:
            raise ValueError("module has no parameter that takes a gradient")

    @property
    def n(self) -> int:
        """Rows of the matrix: the number of parameters that take a gradient."""
        return sum(p.numel() for p in self._parameters().values())

    def _parameters(self) -> dict[str, Tensor]:
        state = dict(self.module.named_parameters())
        return {name: state[name].detach() for name in self._names}

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
        """
        parameters = self._parameters()
        if v.shape != (self.n,):
            raise ValueError(f"v has shape {tuple(v.shape)}; it takes ({self.n},)")
        sizes = [p.numel() for p in parameters.values()]
        pieces = zip(parameters.items(), v.split(sizes), strict=True)
        tangent = {name: piece.view_as(p).to(p) for (name, p), piece in pieces}
        total, samples = torch.zeros_like(v), 0
        for inputs, targets in self.batches:
            found = self._of_batch(parameters, tangent, inputs, targets)
            total += len(targets) * torch.cat([found[name].detach().flatten() for name in parameters]).to(v)
            samples += len(targets)
        if not samples:
            raise ValueError("batches holds no samples")
        return total / samples

    def products(self, v: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the products with vectors in columns, one after the other; see `product`.

        Parameters
        ----------
        v
            Vectors in columns, (n, k).

        Returns
        -------
        Tensor
            Shaped as `v`.
        """
        return torch.stack([self.product(column) for column in v.T], dim=1)

    def _of_batch(
        self, parameters: dict[str, Tensor], tangent: dict[str, Tensor], inputs: Any, targets: Any
    ) -> dict[str, Tensor]:
        def outputs(p: dict[str, Tensor]) -> Any:
            return functional_call(self.module, p, (inputs,))

        def objective(p: dict[str, Tensor]) -> Tensor:
            return self.loss(outputs(p), targets)

        if (
            self.kind == "hessian"
        ):  # a symmetric Jacobian of the gradient: pulling back needs no forward mode of the loss
            pull: Any = vjp(grad(objective), parameters)[1]
            return pull(tangent)[0]
        at, change = _push(outputs, parameters, tangent)
        pull = vjp(outputs, parameters)[1]
        if self.kind == "gauss_newton":

            def of_outputs(out: Tensor) -> Tensor:
                return self.loss(out, targets)

            curve: Any = vjp(grad(of_outputs), at)[1]
            return pull(curve(change)[0])[0]
        each = vmap(grad(lambda out, y: self.loss(out[None], y[None])))(at, targets)
        along = (each * change).flatten(1).sum(1) / len(targets)
        return pull(each * along.reshape(-1, *[1] * (each.ndim - 1)))[0]


def _push(function: Any, at: Any, tangent: Any) -> tuple[Tensor, Tensor]:
    """Return a function's value and its derivative along a tangent."""
    value, change, *_ = jvp(function, (at,), (tangent,))
    return value, change
