"""The densities that are fitted to the expectations: Gaussians and mixtures of them, many at once."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import linalg, special

from paperworks.core.validation import check_choice, check_count

Family = Literal["sg", "gm"]
RIDGE = (
    1e-6  # of the released code, there in units of the variables; here of their variances, so that units don't matter
)
_TOLERANCE, _MOST_ITERATIONS = 1e-5, 500  # of EM, as in the released code
_ELEMENTS = 500_000  # of the largest array of `logpdf`: it stays in a processor's cache


class GaussianComponents:
    """J densities, each a Gaussian or a mixture of K Gaussians, evaluated together.

    It can be an input law as well: J laws, drawn from their equal mixture.

    Parameters
    ----------
    means
        Means of shape (J, d), or (J, K, d) for mixtures.
    covariances
        Covariances of shape (J, d, d) or (J, K, d, d).
    weights
        Weights of the Gaussians within each mixture, rows that sum to 1; equal by default.

    Raises
    ------
    ValueError
        Where shapes don't match, weights aren't rows of probabilities, or a covariance isn't positive definite.

    Examples
    --------
    >>> components = GaussianComponents([[0.0], [3.0]], [[[1.0]], [[4.0]]])
    >>> components.logpdf([[0.0]]).round(4)
    array([[-0.9189, -2.7371]])
    """

    def __init__(self, means: ArrayLike, covariances: ArrayLike, weights: ArrayLike | None = None) -> None:
        means, covariances = np.asarray(means, dtype=float), np.asarray(covariances, dtype=float)
        if means.ndim == 2:
            means, covariances = means[:, None], covariances[:, None]
        if means.ndim != 3 or covariances.shape != (*means.shape, means.shape[2]):
            raise ValueError(
                f"covariances has shape {covariances.shape}, means {means.shape}; they take (J, K, d, d) and (J, K, d)"
            )
        weights = np.full(means.shape[:2], 1 / means.shape[1]) if weights is None else np.asarray(weights, dtype=float)
        if weights.shape != means.shape[:2] or np.any(weights < 0) or not np.allclose(weights.sum(1), 1):
            raise ValueError(f"weights has shape {weights.shape}; it takes {means.shape[:2]} with rows that sum to 1")
        self.means, self.covariances, self.weights = means, covariances, weights
        try:
            self._factors = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError:
            raise ValueError("covariances has one that is not positive definite") from None
        d = means.shape[2]
        identity = np.eye(d)
        self._whitening = np.stack(
            [linalg.solve_triangular(f, identity, lower=True) for f in self._factors.reshape(-1, d, d)]
        )
        log_determinants = np.log(np.diagonal(self._factors, axis1=-2, axis2=-1)).sum(-1)
        with np.errstate(divide="ignore"):
            self._constants = np.log(weights) - log_determinants - d / 2 * np.log(2 * np.pi)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def d(self) -> int:
        """Number of variables."""
        return self.means.shape[2]

    def logpdf(self, X: ArrayLike) -> Float[np.ndarray, "n J"]:
        """Return the log densities at points of shape (n, d).

        Parameters
        ----------
        X
            Points of shape (n, d).

        Returns
        -------
        ndarray of shape (n, J)
            The log densities at points of shape (n, d).
        """
        return special.logsumexp(self.log_parts(X), axis=2) if self.means.shape[1] > 1 else self.log_parts(X)[..., 0]

    def at_least(self, covariance: Float[np.ndarray, "d d"]) -> "GaussianComponents":
        """Return the densities with no Gaussian narrower than `covariance` in any direction.

        Parameters
        ----------
        covariance
            Least covariance, of shape (d, d).

        Returns
        -------
        GaussianComponents
            The widened densities.
        """
        root = np.linalg.cholesky(covariance)
        inverse = linalg.solve_triangular(root, np.eye(self.d), lower=True)
        values, vectors = np.linalg.eigh(inverse @ self.covariances @ inverse.T)
        sides = root @ vectors
        widened = np.einsum("jkab,jkb,jkcb->jkac", sides, np.maximum(values, 1.0), sides)
        return GaussianComponents(self.means, widened, self.weights)

    def with_share_of(self, others: Sequence["GaussianComponents"], share: float) -> "GaussianComponents":
        """Return the densities mixed with those of others, which have a share in all.

        Parameters
        ----------
        others
            As many densities each; none leave all as it is.
        share
            Probability of the others, equal among them.

        Returns
        -------
        GaussianComponents
            The densities mixed with those of others.
        """
        if not others:
            return self
        everyone = [self, *others]
        shares = [1 - share] + [share / len(others)] * len(others)
        return GaussianComponents(
            np.concatenate([each.means for each in everyone], axis=1),
            np.concatenate([each.covariances for each in everyone], axis=1),
            np.concatenate([s * each.weights for s, each in zip(shares, everyone, strict=True)], axis=1),
        )

    def log_parts(self, X: ArrayLike) -> Float[np.ndarray, "n J K"]:
        """Return the log density of each Gaussian times its weight, at points of shape (n, d).

        Parameters
        ----------
        X
            Points of shape (n, d).

        Returns
        -------
        ndarray of shape (n, J, K)
            The log density of each Gaussian times its weight, at points of shape (n, d).
        """
        points = np.asarray(X, dtype=float)
        if points.ndim != 2 or points.shape[1] != self.d:
            raise ValueError(f"X has shape {points.shape}; it takes (n, {self.d})")
        # Distances are taken from the middle of the components, so that units of large means cost no digits.
        middle = self.means.mean(axis=(0, 1))
        whitening = self._whitening.reshape(-1, self.d)
        offsets = np.einsum("cij,cj->ci", self._whitening, (self.means - middle).reshape(-1, self.d)).reshape(-1, 1)
        rows = max(1, _ELEMENTS // len(whitening))
        parts = np.empty((len(points), self._constants.size))
        for start in range(0, len(points), rows):
            z = whitening @ (points[start : start + rows] - middle).T
            z -= offsets
            z *= z
            parts[start : start + rows] = z.reshape(self._constants.size, self.d, -1).sum(1).T
        return self._constants - parts.reshape(-1, *self._constants.shape) / 2

    def rvs(
        self, size: int, random_state: np.random.Generator | int | None = None, weights: ArrayLike | None = None
    ) -> Float[np.ndarray, "size d"]:
        """Draw from the mixture of the J densities, by default the equal one.

        Parameters
        ----------
        size
            Number of draws.
        random_state
            Seed or generator of NumPy; None draws a fresh one.
        weights
            Weight of each of the J densities, equal by default.

        Returns
        -------
        ndarray of shape (size, d)
            Draws in rows, of shape (size, d).
        """
        rng = np.random.default_rng(random_state)
        joint = self._shares(weights)
        labels = np.repeat(np.arange(joint.size), rng.multinomial(size, joint))
        return self._place(labels, rng.standard_normal((size, self.d)))

    def from_uniform(
        self, U: Float[np.ndarray, "n more_d"], weights: ArrayLike | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Map uniform points to draws from the mixture, smoothly within each Gaussian.

        Parameters
        ----------
        U
            Points of the open unit cube, of shape (n, 1 + d): the first coordinate chooses the Gaussian.
        weights
            Weight of each of the J densities, equal by default.

        Returns
        -------
        ndarray of shape (n, d)
            One draw for each point; well spread where the points are.
        """
        labels = np.searchsorted(np.cumsum(self._shares(weights))[:-1], U[:, 0], side="right")
        return self._place(labels, special.ndtri(U[:, 1:]))

    def _shares(self, weights: ArrayLike | None) -> Float[np.ndarray, " JK"]:
        """Return the probability of each Gaussian."""
        shares = np.full(len(self), 1 / len(self)) if weights is None else np.asarray(weights, dtype=float)
        joint = (shares[:, None] * self.weights).ravel()
        return joint / joint.sum()

    def _place(self, labels: Int[np.ndarray, " n"], z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return the standard normal points as ones of the labelled Gaussians."""
        factors = self._factors.reshape(-1, self.d, self.d)
        return self.means.reshape(-1, self.d)[labels] + np.einsum("nij,nj->ni", factors[labels], z)


def fit_cross_entropy(
    X: ArrayLike,
    p: ArrayLike,
    family: Family = "sg",
    n_components: int = 2,
    diag: bool = False,
    random_state: np.random.Generator | int | None = None,
) -> GaussianComponents:
    """Fit one density to each column of weights: the member of a family that is nearest in Kullback-Leibler divergence.

    With ``p = f phi / h`` at draws from h, that is the member nearest to the ideal density ``f phi / I``.

    Parameters
    ----------
    X
        Points, of shape (n, d).
    p
        Weights, of shape (n, J) or (n,), not negative.
    family
        ``sg``: single Gaussians, by weighted moments. ``gm``: mixtures of Gaussians, by weighted EM from random points.
    n_components
        Gaussians of each mixture (2 in the released code). One that no point belongs to most is dropped.
    diag
        Covariances are diagonal.
    random_state
        Draws the points that EM begins at.

    Returns
    -------
    GaussianComponents
        The J fitted densities, one for each column.

    Raises
    ------
    ValueError
        For shapes that don't match, negative weights, or a column with fewer than d + 2 points of positive weight.

    References
    ----------
    arXiv 2212.00568, section 4; 1e-6 of the points' variances is added to those of the Gaussians. In mixtures the
    covariance of a Gaussian with few effective points is drawn to that of the whole target, so that none is a spike.

    Examples
    --------
    >>> components = fit_cross_entropy([[0.0], [1.0], [2.0], [3.0]], [1, 1, 1, 1])
    >>> components.means.item(), round(components.covariances.item(), 4)
    (1.5, 1.25)
    """
    check_choice("family", family, get_args(Family))
    points, masses = np.asarray(X, dtype=float), np.asarray(p, dtype=float)
    masses = masses[:, None] if masses.ndim == 1 else masses
    if points.ndim != 2 or masses.ndim != 2 or len(points) != len(masses):
        raise ValueError(f"p has shape {masses.shape} and X {points.shape}; they take (n, J) and (n, d)")
    if not np.all(np.isfinite(points)) or not np.all(masses >= 0) or np.any(np.isinf(masses)):
        raise ValueError("X and p take finite numbers, and p none below 0")
    least = points.shape[1] + 2
    counts = np.count_nonzero(masses, axis=0)
    if np.any(counts < least):
        j = int(counts.argmin())
        raise ValueError(f"p has {counts[j]} positive weights in column {j}; a fit takes at least d + 2 = {least}")
    middle = points.mean(axis=0)
    centred, ridge = points - middle, RIDGE * points.var(axis=0)
    masses = (masses / masses.sum(axis=0)).T
    if family == "sg":
        means, covariances = _moments(centred, masses[:, None], ridge, diag)
        weights = np.ones(means.shape[:2])
    else:
        K = check_count("n_components", n_components)
        means, covariances, weights = _em(centred, masses, ridge, K, diag, np.random.default_rng(random_state))
    return GaussianComponents(means + middle, covariances, weights)


def _moments(
    X: Float[np.ndarray, "n d"], masses: Float[np.ndarray, "J K n"], ridge: Float[np.ndarray, " d"], diag: bool
) -> tuple[Float[np.ndarray, "J K d"], Float[np.ndarray, "J K d d"]]:
    """Return weighted means and covariances; where there is no mass, those of the points themselves."""
    total = masses.sum(axis=2, keepdims=True)
    masses = np.where(total > 0, masses, 1.0) / np.where(total > 0, total, len(X))
    means = masses @ X
    # Second moments about each target's own mean keep the digits of one that is narrow and far away.
    d = X.shape[1]
    covariances = np.empty((*masses.shape[:2], d, d))
    for index in np.ndindex(*masses.shape[:2]):
        offset = X - means[index]
        covariances[index] = offset.T @ (offset * masses[index][:, None])
    if diag:
        covariances *= np.eye(d)
    return means, covariances + np.diag(ridge)


def _em(
    X: Float[np.ndarray, "n d"],
    masses: Float[np.ndarray, "J n"],
    ridge: Float[np.ndarray, " d"],
    K: int,
    diag: bool,
    random_state: np.random.Generator,
) -> tuple[Float[np.ndarray, "J K d"], Float[np.ndarray, "J K d d"], Float[np.ndarray, "J K"]]:
    """Fit mixtures to all targets together, each until its own log-likelihood settles."""
    J, prior = len(masses), X.shape[1] + 1
    pooled = _moments(X, masses[:, None], ridge, diag)[1]
    responsibilities = np.stack([_nearest_seed(X, m, ridge, K, random_state) for m in masses])
    means, covariances = np.zeros((J, K, X.shape[1])), np.zeros((J, K, X.shape[1], X.shape[1]))
    weights, likelihood = np.zeros((J, K)), np.full(J, -np.inf)
    active = np.arange(J)
    for _ in range(_MOST_ITERATIONS):
        belonging = responsibilities[active]
        # A component that is no point's most likely one is dropped.
        fullest = (belonging == belonging.max(axis=1, keepdims=True)) & (masses[active] > 0)[:, None]
        joint = np.where(fullest.any(axis=2, keepdims=True), belonging, 0.0) * masses[active][:, None]
        weights[active] = joint.sum(axis=2) / joint.sum(axis=(1, 2))[:, None]
        means[active], fitted = _moments(X, joint, ridge, diag)
        # A few heavy points would draw a component together until it is a spike, which makes the ratio f phi / g_alpha
        # unbounded: where little else supports it, a covariance is drawn to that of the whole target.
        support = joint.sum(axis=2) ** 2 / np.maximum((joint**2).sum(axis=2), np.finfo(float).tiny)
        share = (prior / (prior + support))[..., None, None]
        covariances[active] = (1 - share) * fitted + share * pooled[active]
        parts = GaussianComponents(means[active], covariances[active], weights[active]).log_parts(X)
        density = special.logsumexp(parts, axis=2)
        responsibilities[active] = np.exp(parts - density[..., None]).transpose(1, 2, 0)
        new = np.einsum("jn,nj->j", masses[active], density)
        settled = np.abs(new - likelihood[active]) < _TOLERANCE * np.abs(new)
        likelihood[active] = new
        active = active[~settled]
        if not active.size:
            break
    return means, covariances, weights


def _nearest_seed(
    X: Float[np.ndarray, "n d"],
    mass: Float[np.ndarray, " n"],
    ridge: Float[np.ndarray, " d"],
    K: int,
    random_state: np.random.Generator,
) -> Float[np.ndarray, "K n"]:
    """Assign each point to the nearest of K random points that have weight."""
    Z = X / np.sqrt(ridge)
    seeds = Z[random_state.choice(np.flatnonzero(mass), min(K, int(np.count_nonzero(mass))), replace=False)]
    nearest = ((Z[None] - seeds[:, None]) ** 2).sum(axis=2).argmin(axis=0)
    return (nearest == np.arange(K)[:, None]).astype(float)
