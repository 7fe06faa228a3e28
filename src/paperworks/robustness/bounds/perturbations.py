"""Sets that inputs and weights range over, and the extreme values of linear functions on them."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.robustness.bounds.rounding import depth, split, unit


class Perturbation(ABC):
    """A set around a clean value; all a bound needs of it is the minimum of a linear function.

    A subclass states the minimum (`minimum`), the smallest box that holds the set (`box`), and whether the set *is*
    that box (`is_box`), in which case interval arithmetic at the root loses nothing.
    """

    is_box = False

    @abstractmethod
    def minimum(
        self, coefficients: Float[Tensor, "rows lead *shape"], center: Float[Tensor, " batch *shape"]
    ) -> Float[Tensor, "rows batch"]:
        """Return the minimum over the set of each row's linear function; `lead` is the batch or 1.

        Parameters
        ----------
        coefficients
            Coefficients of the linear functions, of shape (rows, batch or 1, ...).
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        Tensor of shape (rows, batch)
            The least value of each linear function, for each sample.
        """

    @abstractmethod
    def box(self, center: Float[Tensor, " batch *shape"]) -> tuple[Tensor, Tensor]:
        """Return the smallest box that holds the set, as lower and upper ends.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        tuple[Tensor, Tensor]
            Lower and upper ends, of the shape of the clean value.
        """

    def free(self, center: Float[Tensor, " batch *shape"]) -> Bool[Tensor, "*shape"]:
        """Return which coordinates can move for any sample of the batch.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        Tensor of shape (...)
            True for each coordinate that can move.
        """
        lower, upper = self.box(center)
        return (lower < upper).any(0)

    def rounding(self, center: Tensor, dtype: torch.dtype) -> tuple[float | Tensor, int]:
        """Return how far rounding in a type can move the ends of the box, and how many terms a minimum adds up.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).
        dtype
            The type that points of the set are given in.

        Returns
        -------
        tuple[float | Tensor, int]
            A distance that broadcasts to the clean value, by default 0; and a number, by default that of coordinates.
        """
        return 0.0, center[0].numel()

    def check(self, center: Tensor) -> None:
        """Raise ValueError where the clean value isn't finite or does not fit the set.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).
        """
        check_finite("x", center)


def _expands(shape: torch.Size, target: torch.Size) -> bool:
    """Return whether a shape broadcasts to another."""
    ends = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in ends)


def row_dot(rows: Tensor, values: Tensor, whole: int | None = None) -> Tensor:
    """Return the inner product of rows (rows, batch or 1, *shape) with values (batch or 1, *shape), (rows, batch).

    Values may have rows of their own in front. Rounding is that of a sum of `whole` terms, as many as there are by
    default.
    """
    if rows.ndim == 2:
        return rows * values
    if values.ndim == rows.ndim:
        return (rows * values).flatten(2).sum(-1)
    rows, values = rows.flatten(2), values.flatten(1)
    n = rows.shape[2]
    part = split(n, whole)
    if part < n:  # in parts, as rounding grows with the length of a sum
        if n % part:
            rows, values = (F.pad(t, (0, -n % part)) for t in (rows, values))
        count, lead = rows.shape[:2]
        rows, values = rows.reshape(count, -1, part), values.reshape(values.shape[0], -1, part)
        if lead == 1:
            return torch.bmm(values.transpose(0, 1), rows.permute(1, 2, 0)).sum(0).T
        values = values.expand(lead, -1, -1).reshape(-1, 1, part)
        # Rows as the second factor: the other way round a product of strided matrices and vectors is slow.
        return torch.bmm(values, rows.permute(1, 2, 0)).reshape(lead, -1, count).sum(1).T
    if rows.shape[1] == 1:
        return rows[:, 0] @ values.T
    if values.shape[0] == 1:
        return rows @ values[0]
    # One matrix-vector product a sample, on strided views: nothing of the size of `rows` is made.
    return torch.bmm(rows.transpose(0, 1), values[:, :, None])[:, :, 0].T


class PerturbationLpNorm(Perturbation):
    r"""An :math:`\ell_p` ball, or a box.

    Parameters
    ----------
    eps
        Radius, one for all or a tensor of one a sample.
    norm
        p of the norm, from 1 to infinity.
    x_L, x_U
        Ends of a box, in place of `eps` or to clip its ball to a valid range (p = infinity only).

    Raises
    ------
    ValueError
        For p < 1, a negative radius, ends that cross, or ends with a finite p.

    Examples
    --------
    >>> ball = PerturbationLpNorm(eps=0.5, norm=2)
    >>> ball.minimum(torch.tensor([[[3.0, 4.0]]]), torch.zeros(1, 2))
    tensor([[-2.5000]])

    References
    ----------
    Xu et al. (2020), arXiv 2002.12920, section 3.2: dual norms.
    """

    def __init__(
        self,
        eps: float | Tensor = 0.0,
        norm: float = math.inf,
        x_L: Tensor | None = None,
        x_U: Tensor | None = None,
    ) -> None:
        if not isinstance(norm, (int, float)) or not norm >= 1:
            raise ValueError(f"norm is {norm!r}; it takes a number from 1 to infinity")
        if isinstance(eps, Tensor):
            check_finite("eps", eps)
            if (eps < 0).any():
                raise ValueError(f"eps has the element {float(eps.min()):g}; it takes numbers >= 0")
        else:
            eps = check_number("eps", eps, ge=0)
        if (x_L is not None or x_U is not None) and norm != math.inf:
            raise ValueError(f"x_L, x_U are given with norm {norm:g}; they take norm = infinity")
        if x_L is not None and x_U is not None and (x_L > x_U).any():
            raise ValueError("x_L is above x_U in some coordinate; it takes x_L <= x_U")
        self.eps, self.norm, self.x_L, self.x_U = eps, float(norm), x_L, x_U
        self.is_box = norm == math.inf

    def __repr__(self) -> str:
        return f"PerturbationLpNorm(eps={self.eps!r}, norm={self.norm:g})"

    def check(self, center: Tensor) -> None:
        """Raise ValueError where ends or radii do not fit the clean value.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).
        """
        super().check(center)
        for name, end in (("x_L", self.x_L), ("x_U", self.x_U)):
            if end is not None and not _expands(end.shape, center.shape):
                raise ValueError(f"{name} has shape {tuple(end.shape)}; it takes one that fits {tuple(center.shape)}")
        if isinstance(self.eps, Tensor) and self.eps.ndim and self.eps.shape != center.shape[:1]:
            raise ValueError(f"eps has shape {tuple(self.eps.shape)}; it takes one number or ({center.shape[0]},)")
        lower, upper = self.box(center)
        if (lower > upper).any():
            raise ValueError("x_L is above x_U in some coordinate; it takes x_L <= x_U")

    def _radius(self, center: Tensor) -> float | Tensor:
        if isinstance(self.eps, Tensor):
            eps = self.eps.to(center)
            return eps.reshape(-1, *(1,) * (center.ndim - 1)) if eps.ndim else eps
        return self.eps

    def box(self, center: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest box around the ball.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        tuple[Tensor, Tensor]
            Lower and upper ends, of the shape of the clean value.
        """
        eps = self._radius(center)
        # A box given by its ends alone need not hold the clean value; a radius beside ends is clipped to them.
        has_radius = isinstance(eps, Tensor) or eps > 0
        lower, upper = center - eps, center + eps
        if self.x_L is not None:
            x_L = self.x_L.to(center).expand_as(center)
            lower = torch.maximum(lower, x_L) if has_radius else x_L
        if self.x_U is not None:
            x_U = self.x_U.to(center).expand_as(center)
            upper = torch.minimum(upper, x_U) if has_radius else x_U
        return lower, upper

    def rounding(self, center: Tensor, dtype: torch.dtype) -> tuple[float | Tensor, int]:
        """Return how far rounding in a type can move the ends of the box, and how many terms a minimum adds up.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).
        dtype
            The type that points of the set are given in.

        Returns
        -------
        tuple[float | Tensor, int]
            Two units of the ends where these are a centre plus a radius; and the terms of a sum taken in parts.
        """
        eps = self._radius(center)
        has_radius = isinstance(eps, Tensor) or eps > 0
        return 2 * unit(dtype) * (center.abs() + eps) if has_radius else 0.0, 2 * depth(center[0].numel())

    @property
    def dual(self) -> float:
        """The order q of the dual norm, 1/p + 1/q = 1."""
        return math.inf if self.norm == 1 else 1.0 if self.is_box else self.norm / (self.norm - 1)

    def minimum(self, coefficients: Tensor, center: Tensor) -> Tensor:
        """Return the value at the `center` minus radius times dual norm.

        Parameters
        ----------
        coefficients
            Coefficients of the linear functions, of shape (rows, batch or 1, ...).

        Returns
        -------
        Tensor
            The least value of each linear function, of shape (rows, batch).
        """
        if self.is_box:
            lower, upper = self.box(center)
            return row_dot(coefficients, (lower + upper) / 2) - row_dot(coefficients.abs(), (upper - lower) / 2)
        flat = coefficients.flatten(2)
        parts = torch.linalg.vector_norm(flat.unflatten(2, (-1, split(flat.shape[2]))), ord=self.dual, dim=-1)
        size = torch.linalg.vector_norm(parts, ord=self.dual, dim=-1) if parts.shape[2] > 1 else parts[..., 0]
        eps = self._radius(center)
        return row_dot(coefficients, center) - size * (eps.reshape(1, -1) if isinstance(eps, Tensor) else eps)


class PerturbationL0Norm(Perturbation):
    """At most `eps` coordinates change, each to anything in the valid range.

    Parameters
    ----------
    eps
        How many coordinates may change.
    low, high
        The valid range, by default that of images.

    Examples
    --------
    >>> PerturbationL0Norm(1).minimum(torch.tensor([[[3.0, -4.0]]]), torch.tensor([[1.0, 0.0]]))
    tensor([[-1.]])

    References
    ----------
    Xu et al. (2020), arXiv 2002.12920, section 3.2.
    """

    def __init__(self, eps: int, low: float = 0.0, high: float = 1.0) -> None:
        self.eps = check_count("eps", eps, at_least=0)
        self.low, self.high = check_number("low", low), check_number("high", high)
        if low >= high:
            raise ValueError(f"low is {low:g} and high is {high:g}; it takes low < high")

    def __repr__(self) -> str:
        return f"PerturbationL0Norm(eps={self.eps})"

    def check(self, center: Tensor) -> None:
        """Raise ValueError where the clean value leaves the valid range.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).
        """
        super().check(center)
        if center.numel() and (center.min() < self.low or center.max() > self.high):
            raise ValueError(f"x leaves [{self.low:g}, {self.high:g}]; it takes values inside for an L0 ball")

    def box(self, center: Tensor) -> tuple[Tensor, Tensor]:
        """Return the valid range: any one coordinate may be the one that changes.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        tuple[Tensor, Tensor]
            Lower and upper ends, of the shape of the clean value.
        """
        if not self.eps:
            return center, center
        return torch.full_like(center, self.low), torch.full_like(center, self.high)

    def minimum(self, coefficients: Tensor, center: Tensor) -> Tensor:
        """Return the clean value minus the largest gains.

        Parameters
        ----------
        coefficients
            Coefficients of the linear functions, of shape (rows, batch or 1, ...).
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        Tensor
            The least value of each linear function, of shape (rows, batch).
        """
        value = row_dot(coefficients, center)
        if not self.eps:
            return value
        gains = torch.where(coefficients > 0, center - self.low, center - self.high) * coefficients
        gains = gains.flatten(2)
        return value - gains.topk(min(self.eps, gains.shape[-1]), dim=-1).values.sum(-1)


class PerturbationSynonym(Perturbation):
    """Words are swapped for synonyms, at most `budget` of them a sentence.

    The root is the embedded sentence, (words, dimension) a sample; a bound takes the best choice of words by dynamic
    programming.

    Parameters
    ----------
    budget
        How many words may change.
    candidates
        For each sentence and word, the embeddings it may take: (batch, words, candidates, dimension).
    mask
        Which candidates exist, (batch, words, candidates); all by default. The clean word always does.

    Examples
    --------
    >>> sentence = torch.tensor([[[1.0], [2.0]]])
    >>> words = torch.tensor([[[[0.0], [0.5]], [[1.0], [3.0]]]])
    >>> PerturbationSynonym(1, words).minimum(torch.ones(1, 1, 2, 1), sentence)
    tensor([[2.]])

    References
    ----------
    Xu et al. (2020), arXiv 2002.12920, section 3.2 and its appendix.
    """

    def __init__(
        self,
        budget: int,
        candidates: Float[Tensor, "batch words candidates dim"],
        mask: Tensor | None = None,
    ) -> None:
        self.budget = check_count("budget", budget, at_least=0)
        if candidates.ndim != 4:
            raise ValueError(
                f"candidates has shape {tuple(candidates.shape)}; it takes (batch, words, candidates, dimension)"
            )
        if mask is not None and mask.shape != candidates.shape[:3]:
            raise ValueError(f"mask has shape {tuple(mask.shape)}; it takes {tuple(candidates.shape[:3])}")
        self.candidates, self.mask = candidates, mask

    def __repr__(self) -> str:
        return f"PerturbationSynonym(budget={self.budget}, candidates={tuple(self.candidates.shape)})"

    def check(self, center: Tensor) -> None:
        """Raise ValueError where candidates are not for this sentence.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).
        """
        super().check(center)
        takes = (*self.candidates.shape[:2], self.candidates.shape[3])
        if center.shape != takes:
            raise ValueError(f"x has shape {tuple(center.shape)}; these candidates take {takes}")

    def _choices(self, center: Tensor) -> Tensor:
        """Return all embeddings a word may take, its own first; a masked candidate is its own again."""
        own = center.unsqueeze(2)
        other = self.candidates.to(center)
        if self.mask is not None:
            other = torch.where(self.mask[..., None], other, own)
        return torch.cat([own, other], dim=2)

    def box(self, center: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and greatest embeddings of each word.

        Parameters
        ----------
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        tuple[Tensor, Tensor]
            Lower and upper ends, of the shape of the clean value.
        """
        if not self.budget:
            return center, center
        lower, upper = torch.aminmax(self._choices(center), dim=2)
        return lower, upper

    def minimum(self, coefficients: Tensor, center: Tensor) -> Tensor:
        """Return the least sum over words when at most `budget` change.

        Parameters
        ----------
        coefficients
            Coefficients of the linear functions, of shape (rows, batch or 1, ...).
        center
            The clean value, of shape (batch, ...).

        Returns
        -------
        Tensor
            The least value of each linear function, of shape (rows, batch).
        """
        batch, words = self.candidates.shape[:2]
        rows = coefficients.expand(-1, batch, -1, -1)
        scores = torch.einsum("rbwd,bwcd->rbwc", rows, self._choices(center))
        own, best = scores[..., 0], scores.amin(-1)
        # A word's gain does not depend on the others', so that the dynamic programme's optimum is the sum of all own
        # scores minus the `budget` greatest gains.
        gains = (own - best).topk(min(self.budget, words), dim=-1).values
        return own.sum(-1) - gains.sum(-1)
