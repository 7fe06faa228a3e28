"""Norms of tokens: scaled and shifted by what the lead time says, or plain."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number


class ConditionalLayerNorm(nn.Module):
    """A layer norm whose scale and shift are affine functions of the lead time.

    Of a token x at lead time t it gives ``(a t + b) * (x - mean) / sqrt(var + eps) + c t + d`` with vectors a, b, c, d
    (arXiv 2405.19101, the section on the model).

    Parameters
    ----------
    dim
        Width of the tokens.
    eps
        Added to the variance.
    init
        "identity": it begins as a plain layer norm; "small": all but the biases are drawn with a deviation of 0.02, as
        in the published models, where the scale is then nearly 0.

    Raises
    ------
    ValueError, TypeError
        For a width below 1, an `eps` that isn't positive, or an unknown `init`.

    Examples
    --------
    >>> norm = ConditionalLayerNorm(2, init="identity")
    >>> norm(torch.tensor([[[1.0, 3.0]]]), torch.tensor([0.0])).round(decimals=3).tolist()
    [[[-1.0, 1.0]]]
    """

    def __init__(self, dim: int, eps: float = 1e-5, init: Literal["identity", "small"] = "identity") -> None:
        super().__init__()
        self.eps = check_number("eps", eps, gt=0)
        self.init = check_choice("init", init, ("identity", "small"))
        self.weight = nn.Linear(1, check_count("dim", dim))
        self.bias = nn.Linear(1, dim)
        self.reset_parameters()

    def reset_parameters(self, deviation: float = 0.02) -> None:
        """Draw the parameters anew.

        Parameters
        ----------
        deviation
            Standard deviation of the factors of t, with the initial values "small".
        """
        small = self.init == "small"
        for linear, start in ((self.weight, 0.0 if small else 1.0), (self.bias, 0.0)):
            nn.init.normal_(linear.weight, std=deviation) if small else nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, start)

    def forward(
        self, x: Float[Tensor, "batch *places dim"], lead_time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch *places dim"]:
        """Return the tokens normed.

        Parameters
        ----------
        x
            Tokens of each sample, in the last axis.
        lead_time
            One number for each sample.

        Returns
        -------
        Tensor
            Of the shape and type of `x`.
        """
        time = lead_time[:, None].to(self.weight.weight.dtype)
        shape = (len(time), *[1] * (x.ndim - 2), x.shape[-1])
        scale, shift = self.weight(time).view(shape), self.bias(time).view(shape)
        # `layer_norm` takes the variance of the differences: E[x^2] - E[x]^2 loses digits where the mean is large.
        return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=self.eps), scale)


class PlainLayerNorm(nn.LayerNorm):
    """A layer norm that takes a lead time, which it has no use for."""

    def forward(self, x: Tensor, lead_time: Tensor | None = None) -> Tensor:
        """Return the tokens normed."""
        return super().forward(x)
