"""Parameters of a network as one vector, for methods whose formulas are of vectors."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


class FlatView:
    """Reads and writes parameters, and their gradients, as one vector.

    The parameters stay where they are, in their own shapes, types and places; the vector is of the first one's type
    and device.

    Parameters
    ----------
    params
        The parameters, in the order of the vector. One that occurs twice, as tied weights do, counts once.

    Raises
    ------
    ValueError
        If there are none.
    TypeError
        If one is no tensor of floating-point numbers.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> view = FlatView(layer.parameters())
    >>> view.copy_(torch.tensor([1.0, 2.0, 3.0]))
    >>> view.add_(torch.ones(3), alpha=0.5)
    >>> view.vector()
    tensor([1.5000, 2.5000, 3.5000])
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(dict.fromkeys(params))
        if not self.params:
            raise ValueError("params is empty; it takes one or more")
        for p in self.params:
            if not isinstance(p, Tensor) or not p.is_floating_point():
                what = str(p.dtype) if isinstance(p, Tensor) else type(p).__name__
                raise TypeError(f"params has {what}; it takes tensors of floating-point numbers")
        self.sizes = [p.numel() for p in self.params]

    def __len__(self) -> int:
        return sum(self.sizes)

    @torch.no_grad()
    def vector(self) -> Float[Tensor, " n"]:
        """Return a copy of the parameters as one vector.

        Returns
        -------
        Tensor
            All entries, parameter after parameter.
        """
        return self._joined(self.params)

    @torch.no_grad()
    def gradient(self) -> Float[Tensor, " n"]:
        """Return a copy of the gradients as one vector.

        Returns
        -------
        Tensor
            All entries of `.grad`, 0 for a parameter that has none.
        """
        return self._joined([torch.zeros_like(p) if p.grad is None else p.grad for p in self.params])

    @torch.no_grad()
    def copy_(self, vector: Float[Tensor, " n"]) -> None:
        """Set the parameters.

        Parameters
        ----------
        vector
            Their new entries, as many as the view has.
        """
        torch._foreach_copy_(self.params, self.split(vector))

    @torch.no_grad()
    def add_(self, vector: Float[Tensor, " n"], alpha: float = 1.0) -> None:
        """Add a multiple of a vector to the parameters.

        Parameters
        ----------
        vector
            What is added, as many entries as the view has.
        alpha
            By what it is multiplied.
        """
        parts = [part.to(p) for p, part in zip(self.params, self.split(vector), strict=True)]
        torch._foreach_add_(self.params, parts, alpha=alpha)

    def split(self, vector: Float[Tensor, " n"]) -> list[Tensor]:
        """Return the parts of a vector, in the shapes of the parameters.

        Parameters
        ----------
        vector
            A vector of as many entries as the view has.

        Returns
        -------
        list[Tensor]
            Views of the vector, one a parameter.
        """
        if vector.shape != (len(self),):
            raise ValueError(f"vector has shape {tuple(vector.shape)}; it takes ({len(self)},)")
        return [part.view(p.shape) for p, part in zip(self.params, vector.split(self.sizes), strict=True)]

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        first = self.params[0]
        return torch.cat([t.detach().reshape(-1).to(first) for t in tensors])
