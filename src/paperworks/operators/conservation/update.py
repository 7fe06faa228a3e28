"""The update as a layer, after any network that returns means and variances."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_finite, check_number
from paperworks.operators.conservation.conditioning import condition_linear
from paperworks.operators.conservation.quadrature import Rule, quadrature_weights


class ConservativeUpdate(nn.Module):
    """Makes a field with error bars keep its integrals: G u = value, exactly or up to noise.

    Parameters
    ----------
    constraint_matrix
        G, of shape (m, n) or (n,). Without one, `forward` takes the points and integrates over them.
    noise_var
        Variance of the noise of the constraint. 0, the default, is the limit in which it holds exactly; "learned"
        makes its logarithm a parameter.
    mode
        "prob", which moves the field where it is uncertain; or "hard", the projection that moves all of it alike, and
        leaves the variances as they were.
    rule
        Quadrature for points: "trapezoid", "left", "right" or "simpson".
    pseudo_inverse
        Whether rows of the matrix may depend on each other, as totals of totals do, as long as their values agree.
    dtype
        Precision of the parameters; the update itself is made in float64.

    Raises
    ------
    ValueError
        For a negative variance, an unknown mode, or a matrix of another shape or with numbers that aren't finite.

    Notes
    -----
    arXiv 2302.11002, step 2 of ProbConserv; "hard" is its baseline HardC. A learned variance starts at 0.01, as the
    paper's precision starts at 100.

    Examples
    --------
    >>> x = torch.linspace(0, 1, 5)
    >>> update = ConservativeUpdate()
    >>> mean, variance = update(torch.ones(5), torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]), torch.tensor([1.5]), x=x)
    >>> mean
    tensor([1., 1., 2., 2., 1.])
    """

    G: Tensor | None

    def __init__(
        self,
        constraint_matrix: Float[Tensor, "*rows n"] | None = None,
        noise_var: float | Literal["learned"] = 0.0,
        mode: Literal["prob", "hard"] = "prob",
        *,
        rule: Rule = "trapezoid",
        pseudo_inverse: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.mode = check_choice("mode", mode, ("prob", "hard"))
        if constraint_matrix is not None and constraint_matrix.ndim not in (1, 2):
            raise ValueError(f"constraint_matrix has shape {tuple(constraint_matrix.shape)}; it takes (m, n) or (n,)")
        if constraint_matrix is not None:
            check_finite("constraint_matrix", constraint_matrix)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; it takes one of floating point")
        self.rule: Rule = check_choice("rule", rule, get_args(Rule))
        self.pseudo_inverse = pseudo_inverse
        self.register_buffer("G", None if constraint_matrix is None else constraint_matrix.detach().to(dtype))
        if noise_var == "learned":
            self.log_precision: nn.Parameter | None = nn.Parameter(torch.tensor(100.0, dtype=dtype).log())
            self.noise_var = 0.0
        else:
            self.log_precision = None
            self.noise_var = check_number("noise_var", noise_var, ge=0)

    def noise(self) -> float | Tensor:
        """Return the variance of the constraint's noise.

        Returns
        -------
        float or Tensor
            A number, or what the parameter says.
        """
        return self.noise_var if self.log_precision is None else (-self.log_precision).exp()

    def forward(
        self,
        mean: Float[Tensor, "*batch n"],
        cov: Float[Tensor, "*shape"],
        value: Float[Tensor, "*values"],
        *,
        x: Float[Tensor, "*grid n"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update means and variances.

        Parameters
        ----------
        mean
            Means of the field, (..., n).
        cov
            Variances (..., n), or covariances (..., n, n).
        value
            What G u is: (m,) or (..., m), or one number for each slice where there is one row.
        x
            Points to integrate over, (n,) or (..., n), where there is no matrix.

        Returns
        -------
        tuple of Tensor
            Means, and variances or covariances, as given.

        Raises
        ------
        ValueError
            Without matrix and points, or with both; and as `condition_linear`.
        """
        if (self.G is None) == (x is None):
            raise ValueError("x is given beside a matrix, or neither is; it takes the points where there is no matrix")
        G: Any = quadrature_weights(x.double(), self.rule)[..., None, :] if x is not None else self.G
        if (G.ndim == 1 or G.shape[-2] == 1) and value.shape == mean.shape[:-1]:
            value = value[..., None]
        spread = torch.ones_like(mean) if self.mode == "hard" else cov
        found = condition_linear(mean, spread, G, value, self.noise(), pseudo_inverse=self.pseudo_inverse)
        if self.mode == "hard":
            if cov.shape not in (mean.shape, (*mean.shape, mean.shape[-1])):
                raise ValueError(
                    f"cov has shape {tuple(cov.shape)}; it takes {tuple(mean.shape)}, or an axis more for covariances"
                )
            return found.mean, check_finite("cov", cov)
        return found.mean, found.variance if cov.ndim <= mean.ndim else found.covariance
