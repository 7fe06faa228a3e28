"""Interpolants between Gaussian mixtures, whose fields are known in closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_finite
from paperworks.diffusion.interpolants.fields import Fields, shared_time
from paperworks.diffusion.interpolants.interpolant import Interpolant
from paperworks.diffusion.interpolants.paths import Time


class GaussianMixtureInterpolant:
    r"""The exact law and fields of an interpolant between independent Gaussian mixtures: the ground truth of tests.

    A pair ij of components gives x_t the mean ``mu = alpha m_i + beta n_j`` and the covariance
    ``S = alpha^2 C_i + beta^2 D_j + gamma^2``; with posterior weights w of the pairs at x,
    ``b = sum w (mu' + S' S^-1 (x - mu)/2)`` and ``s = -sum w S^-1 (x - mu)`` (arXiv 2303.08797, appendix A).
    One Cholesky factor per pair and time; a time shared by the batch is factored once.

    Parameters
    ----------
    interpolant
        A weighted sum (any named path). One-sided takes no base; mirror takes none either.
    weights1, means1, covs1
        Weights, means and covariances of the target's components; weights are normalised.
    weights0, means0, covs0
        The same of the base, for two-sided interpolants.

    Raises
    ------
    ValueError
        Where shapes disagree, a weight isn't positive, a covariance isn't positive definite, or a base is missing or
        too much.

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> exact = GaussianMixtureInterpolant(Interpolant("linear", "brownian"), one, 2 * one[None], one[:, None, None],
    ...                                    one, 0 * one[None], one[:, None, None])
    >>> exact.b(one[None], 0.5), exact.log_density(one[None], 0.0)
    (tensor([[2.]], dtype=torch.float64), tensor([-1.4189], dtype=torch.float64))
    """

    def __init__(
        self,
        interpolant: Interpolant,
        weights1: Float[Tensor, " n1"],
        means1: Float[Tensor, "n1 dim"],
        covs1: Float[Tensor, "n1 dim dim"],
        weights0: Float[Tensor, " n0"] | None = None,
        means0: Float[Tensor, "n0 dim"] | None = None,
        covs0: Float[Tensor, "n0 dim dim"] | None = None,
    ) -> None:
        if not interpolant.linear:
            raise ValueError(f"interpolant is {interpolant!r}; a mixture takes a weighted sum of its ends")
        self.interpolant = interpolant
        alone = interpolant.one_sided or interpolant.mirror
        if any((part is None) != alone for part in (weights0, means0, covs0)):
            takes = "no base" if alone else "weights0, means0 and covs0"
            raise ValueError(f"the base of {interpolant!r} is {'given' if alone else 'incomplete'}; it takes {takes}")
        self.target = _checked("1", weights1, means1, covs1)
        if alone:  # the base of a one-sided path is the latent; that of a mirror has no weight
            eye = torch.eye(self.dim, dtype=means1.dtype, device=means1.device)[None]
            self.base = (torch.ones_like(weights1[:1]), torch.zeros_like(means1[:1]), eye)
        else:
            self.base = _checked("0", weights0, means0, covs0)  # type: ignore[arg-type]
            if self.base[1].shape[1] != self.dim:
                raise ValueError(
                    f"means0 has {self.base[1].shape[1]} columns and means1 {self.dim}; they take the same"
                )
        self._kept: tuple[object, tuple[Tensor, ...]] | None = None

    @property
    def dim(self) -> int:
        """The number of elements of one sample."""
        return self.target[1].shape[1]

    def sample(
        self, n: int, t: float, generator: torch.Generator
    ) -> tuple[Float[Tensor, "{n} dim"], Float[Tensor, "{n} dim"], Float[Tensor, "{n} dim"]]:
        """Draw `n` triples (x0, x1, x_t).

        Parameters
        ----------
        n
            How many triples to draw.
        t
            Time from 0 to 1.
        generator
            What draws the noise; its device is drawn on.

        Returns
        -------
        tuple[Tensor, Tensor, Tensor]
            The two ends and the interpolant, each of shape (n, dim).
        """
        check_count("n", n)
        x1 = _draw(self.target, n, generator)
        x0 = x1 if self.interpolant.mirror else _draw(self.base, n, generator)
        return x0, x1, self.interpolant.sample(x0, x1, t, generator=generator)[0]

    def fields(self) -> Fields:
        """Return the exact velocity and score as `Fields`, evaluated together.

        Returns
        -------
        Fields
            The exact velocity and score as `Fields`, evaluated together.
        """
        names = ("b", "s") if self.interpolant.has_latent else ("b",)
        return Fields(self.interpolant, joint=(names, lambda x, t: self._evaluate(x, t)[: len(names)]))  # type: ignore[arg-type]

    def b(self, x: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, "batch dim"]:
        """Return the velocity.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, dim)
            The velocity, of the shape of `x`.
        """
        return self._evaluate(x, t)[0]

    def s(self, x: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, "batch dim"]:
        """Return the score, which exists without a latent too.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, dim)
            The score, of the shape of `x`.
        """
        return self._evaluate(x, t)[1]

    def log_density(self, x: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, " batch"]:
        """Return the log-density of x_t.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch,)
            One number for each state, in nats.
        """
        return self._evaluate(x, t)[2]

    def _moments(self, t: Time) -> tuple[Tensor, ...]:
        """Return log weights, means, their slopes, inverse factors and half S' for all pairs, a row for each time."""
        if self._kept is not None and not isinstance(t, Tensor) and self._kept[0] == t:
            return self._kept[1]
        i = self.interpolant
        like = self.target[1]
        times = t.to(like) if isinstance(t, Tensor) else torch.tensor([t], dtype=like.dtype, device=like.device)
        beta, beta_dot = (f(times)[:, None, None, None] for f in (i.beta, i.beta_dot))  # type: ignore[index]
        if i.one_sided:  # alpha alpha' comes from the latent, finite at both ends; the base's mean is 0
            alpha = alpha_dot = torch.zeros_like(beta)
        else:
            alpha, alpha_dot = (f(times)[:, None, None, None] for f in (i.alpha, i.alpha_dot))  # type: ignore[index]
        gamma, times_dot = (f(times)[:, None, None, None] for f in (i.gamma, i.gamma_times_dot))  # type: ignore[index]
        (p, m, c), (q, n, d) = self.base, self.target
        m, n = m[:, None], n[None]
        c, d = c[:, None], d[None]
        mean = (alpha * m + beta * n).flatten(1, 2)
        slope = (alpha_dot * m + beta_dot * n).flatten(1, 2)
        eye = torch.eye(self.dim, dtype=like.dtype, device=like.device)
        deep = [w[..., None] for w in (alpha, alpha_dot, beta, beta_dot, gamma, times_dot)]
        cov = (deep[0] ** 2 * c + deep[2] ** 2 * d + deep[4] ** 2 * eye).flatten(1, 2)
        half = (deep[0] * deep[1] * c + deep[2] * deep[3] * d + deep[5] * eye).flatten(1, 2)
        factor = torch.linalg.cholesky(cov)
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        log_w = (p[:, None] * q[None]).log().flatten() - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        # Both linear maps of the whitened residual r = L^-1 (x - mu): S' S^-1 (x - mu)/2 and S^-1 (x - mu).
        maps = torch.cat([half @ inverse.mT, inverse.mT], dim=-2)
        kept = (log_w, mean, slope, inverse, maps)
        if not isinstance(t, Tensor):
            self._kept = (t, kept)
        return kept

    def _evaluate(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; it takes (batch, {self.dim})")
        t = shared_time(t)
        log_w, mean, slope, inverse, maps = (part.to(x) for part in self._moments(t))
        if isinstance(t, Tensor):
            residual = torch.einsum("bpij,bpj->bpi", inverse, x[:, None] - mean)
        else:  # one product for all points: (batch, dim) @ (dim, pairs dim)
            shift = torch.einsum("pij,pj->pi", inverse[0], mean[0])
            residual = torch.addmm(-shift.flatten(), x, inverse[0].flatten(0, 1).T).unflatten(1, shift.shape)
        logits = log_w - 0.5 * residual.square().sum(-1)
        w = torch.softmax(logits, dim=1)
        weighted = w[..., None] * residual
        if isinstance(t, Tensor):
            both = torch.einsum("bpij,bpj->bi", maps, weighted)
        else:
            both = weighted.flatten(1) @ maps[0].transpose(1, 2).flatten(0, 1)
        drift, minus_score = both.split(self.dim, dim=1)
        b = drift + (torch.einsum("bp,bpi->bi", w, slope) if isinstance(t, Tensor) else w @ slope[0])
        return b, -minus_score, torch.logsumexp(logits, dim=1) - 0.5 * self.dim * math.log(2 * math.pi)


Mixture = tuple[Tensor, Tensor, Tensor]


def _draw(mixture: Mixture, n: int, generator: torch.Generator) -> Tensor:
    weights, means, covs = mixture
    k = torch.multinomial(weights, n, replacement=True, generator=generator)
    z = torch.randn(n, means.shape[1], 1, generator=generator, dtype=means.dtype, device=means.device)
    return means[k] + (torch.linalg.cholesky(covs)[k] @ z)[..., 0]


def _checked(which: str, weights: Tensor, means: Tensor, covs: Tensor) -> Mixture:
    n, dim = means.shape if means.ndim == 2 else (-1, -1)
    if means.ndim != 2 or weights.shape != (n,) or covs.shape != (n, dim, dim):
        raise ValueError(
            f"weights{which}, means{which}, covs{which} have shapes {tuple(weights.shape)}, {tuple(means.shape)}, "
            f"{tuple(covs.shape)}; they take (n,), (n, dim), (n, dim, dim)"
        )
    for name, tensor in (("weights", weights), ("means", means), ("covs", covs)):
        check_finite(name + which, tensor)
    if not bool((weights > 0).all()):
        raise ValueError(f"weights{which} has a smallest element {weights.min().item():g}; it takes positive numbers")
    if bool(torch.linalg.cholesky_ex(covs).info.any()):
        raise ValueError(f"covs{which} has a matrix that isn't positive definite")
    return weights / weights.sum(), means, covs
