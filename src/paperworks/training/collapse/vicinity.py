"""Features tied to given ones: the minimiser, and the linear map from deviations of the one to those of the other."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.training.collapse.unconstrained import Labels, Matrix, finite, head_of, targets

Order = Literal["exact", "large_beta"]


@dataclass(frozen=True)
class Products:
    """What the minimisation over the last layer needs of the data: its cost doesn't depend on the number of samples."""

    Y0: Float[np.ndarray, "K K"]  # Y Y^T
    S0: Float[np.ndarray, "K d"]  # Y H0^T
    Q0: Float[np.ndarray, "d d"]  # H0 H0^T
    ridge: float  # n lam_W
    lam_H: float
    beta: float


class HeadStep:
    """The loss, times N, as a function of the last layer alone, with the features that are best for it.

    These are `H = B (W^T Y + beta H0)` with `B = (W^T W + (lam_H + beta) I)^{-1}`, so all that the loss, its gradient
    and its curvature need of them are the d x d and K x d products `H H^T` and `Y H^T`.
    """

    def __init__(self, data: Products, W: Float[np.ndarray, "K d"]) -> None:
        self.data, self.W = data, W
        self.factor = cho_factor(W.T @ W + (data.lam_H + data.beta) * np.eye(W.shape[1]))
        # In terms of D = B^{-1} (H - H0) = W^T Y - T H0 nothing cancels where beta is large.
        T = W.T @ W + data.lam_H * np.eye(W.shape[1])
        TQ, TS, WS = T @ data.Q0, T @ data.S0.T, W.T @ data.S0
        moved = self.solve(WS - TQ)  # (H - H0) H0^T
        DD = W.T @ data.Y0 @ W - TS @ W - (TS @ W).T + TQ @ T
        both = self.solve(self.solve(DD).T)  # (H - H0) (H - H0)^T
        self.HH = data.Q0 + moved + moved.T + both
        self.YH = data.S0 + self.solve(W.T @ data.Y0 - TS).T
        self.gradient = W @ self.HH - self.YH + data.ridge * W
        self.BW = self.solve(W.T)
        self.miss = self.YH - W @ self.HH  # (Y - W H) H^T
        self.miss_Y = data.Y0 - W @ self.YH.T  # (Y - W H) Y^T
        # At these features the best last layer is W - step: Newton's step with the features held fixed.
        self.fixed = cho_factor(self.HH + data.ridge * np.eye(W.shape[1]))
        self.size = float(np.linalg.norm(self.precondition(self.gradient)))
        fit = np.vdot(W @ self.HH, W) - 2 * np.vdot(W, self.YH) + np.trace(data.Y0)
        penalties = data.ridge * np.vdot(W, W) + data.lam_H * np.trace(self.HH) + data.beta * np.trace(both)
        self.loss = float(fit + penalties) / 2

    def solve(self, right: Matrix) -> Matrix:
        """Return `B` times a matrix."""
        return cho_solve(self.factor, right, check_finite=False)

    def precondition(self, V: Float[np.ndarray, "K d"]) -> Float[np.ndarray, "K d"]:
        """Return V times the inverse curvature of the loss in W at features held fixed."""
        return cho_solve(self.fixed, V.T, check_finite=False).T

    def curvature(self, V: Float[np.ndarray, "K d"]) -> Float[np.ndarray, "K d"]:
        """Return the second derivative of the loss in W, times V."""
        W, BV, VH = self.W, self.solve(V.T), V @ self.HH
        # dH = B (V^T (Y - W H) - W^T V H); its products with H and Y are of rank 2K.
        dHH = (W @ BV) @ self.miss - (W @ self.BW) @ VH + (W @ self.miss.T) @ BV.T - (W @ VH.T) @ self.BW.T
        dYH = self.miss_Y.T @ BV.T - (self.YH @ V.T) @ self.BW.T
        return VH + dHH - dYH + self.data.ridge * V


def conjugate_gradients(
    apply: Callable[[Matrix], Matrix], right: Matrix, rtol: float, steps: int, precondition: Callable[[Matrix], Matrix]
) -> Matrix:
    """Solve a symmetric system; where a direction has no positive curvature, return what was found before it."""
    x, r = np.zeros_like(right), right.copy()
    z = precondition(r)
    p, rz, bound = z, np.vdot(r, z), rtol * np.linalg.norm(right)
    for _ in range(steps):
        if np.linalg.norm(r) <= bound:
            break
        Ap = apply(p)
        along = np.vdot(p, Ap)
        if along <= 0:
            return x if x.any() else p
        x = x + rz / along * p
        r = r - rz / along * Ap
        z = precondition(r)
        rz, before = np.vdot(r, z), rz
        p = z + rz / before * p
    return x


def minimise_head(data: Products, W: Float[np.ndarray, "K d"], rtol: float, steps: int) -> tuple[HeadStep, int]:
    """Minimise over the last layer by Newton's method with conjugate gradients, from W on."""
    state, taken = HeadStep(data, W), 0
    enough = rtol / (1 + np.sqrt(W.shape[1]) * np.linalg.norm(W))  # so that gradients in the features are below rtol
    while state.size > enough and taken < steps:
        accuracy = min(0.1, state.size / (1 + float(np.linalg.norm(state.W))))
        step = conjugate_gradients(state.curvature, -state.gradient, accuracy, 2 * W.size, state.precondition)
        slope, share = float(np.vdot(step, state.gradient)), 1.0
        while True:
            ahead = HeadStep(data, state.W + share * step)
            # Where losses differ by rounding alone, the gradient decides.
            level = abs(ahead.loss - state.loss) <= 1e-12 * (1 + abs(state.loss))
            if ahead.loss <= state.loss + 1e-4 * share * slope or (level and ahead.size < state.size):
                break
            share /= 2
            if share < 1e-6:
                return state, taken
        state, taken = ahead, taken + 1
    return state, taken


class VicinityUFM:
    r"""The model of unconstrained features that are tied to given ones.

    Minimises `|W H - Y|^2 / 2N + lam_W |W|^2 / 2K + (lam_H |H|^2 + beta |H - H0|^2) / 2N` (Eq. 3 of arXiv 2210.16658)
    from `H0` and its best last layer on. For each last layer the best features have a closed form, and all that the
    loss needs of them are products of size d x d: data are passed through once, and Newton's method on W does the rest.
    For a large beta the minimiser near H0 is the only one, and one implicit step of size 1 / beta of the flow that
    `central_path` follows; for a small one there can be others.

    Parameters
    ----------
    lam_W, lam_H
        Penalties of the last layer, positive, and of the features, 0 or more.
    beta
        How strongly features are tied to the given ones, 0 or more; with 0 `lam_H` has to be positive.
    rtol
        The gradient to reach: the largest entry of N times that of the reduced loss, over `1 + max |H0|`. What rounding
        leaves of a large beta is enough, too.
    steps
        Steps of Newton's method, at most.

    Attributes
    ----------
    H_ : np.ndarray
        The features, (d, N).
    W_ : np.ndarray
        The last layer, (K, d).
    n_iter_ : int
        Steps that were taken.
    grad_norm_ : float
        Largest entry of N times the gradient at `H_`.

    Raises
    ------
    ValueError
        For `lam_W <= 0`, negative `lam_H` or `beta`, or both of these 0.

    Examples
    --------
    >>> H0 = np.random.default_rng(0).normal(size=(4, 20))
    >>> model = VicinityUFM(0.1, 0.1, beta=1.0).fit(H0, np.repeat([0, 1], 10))
    >>> model.H_.shape, model.W_.shape, model.grad_norm_ < 1e-10
    ((4, 20), (2, 4), True)
    """

    H_: Float[np.ndarray, "d N"]
    W_: Float[np.ndarray, "K d"]
    n_iter_: int
    grad_norm_: float

    def __init__(self, lam_W: float, lam_H: float, beta: float, *, rtol: float = 1e-10, steps: int = 500) -> None:
        self.lam_W, self.lam_H = check_number("lam_W", lam_W, gt=0), check_number("lam_H", lam_H, ge=0)
        self.beta, self.rtol = check_number("beta", beta, ge=0), check_number("rtol", rtol, gt=0)
        self.steps = check_count("steps", steps)
        if lam_H == beta == 0:
            raise ValueError("lam_H and beta are both 0; one of them takes a positive number")

    def fit(self, H0: Float[np.ndarray, "d N"], labels: Labels | Float[np.ndarray, "K N"]) -> "VicinityUFM":
        """Find the minimiser.

        Parameters
        ----------
        H0
            Given features, one column a sample; d >= K.
        labels
            Class of each column, of any kind of value, classes in sorted order; or rows Y of targets. Where classes
            aren't balanced, n is N / K.

        Returns
        -------
        VicinityUFM
            The model itself, with `H_`, `W_`, `n_iter_` and `grad_norm_`; it warns where the gradient isn't reached.

        Raises
        ------
        ValueError
            For entries that aren't finite, d < K, other numbers of labels than of columns, or penalties so small that
            the systems of equations are singular in double precision.
        """
        H0 = finite("H0", H0)
        Y = targets(labels, H0)
        (K, N), scale = Y.shape, 1 + float(np.abs(H0).max())
        enough = scale * max(self.rtol, 16 * np.finfo(float).eps * (1 + self.beta))  # beta (H - H0) is rounded
        basis, inner = (None, H0) if len(H0) <= N else np.linalg.qr(H0)  # the minimiser is in the span of H0
        data = Products(Y @ Y.T, Y @ inner.T, inner @ inner.T, self.lam_W * N / K, self.lam_H, self.beta)
        start = head_of(data.Q0, data.S0, data.ridge)
        try:
            found, self.n_iter_ = minimise_head(data, start, 0.03 * self.rtol, self.steps)
        except LinAlgError:
            raise ValueError(
                f"lam_H + beta is {self.lam_H + self.beta:.1e} and lam_W {self.lam_W:.1e}, too small against "
                "the features for a system of equations to be solved; greater penalties are taken"
            ) from None
        H = found.solve(found.W.T @ Y + self.beta * inner)
        for _ in range(3):  # what products of all samples lose to rounding
            W = head_of(H @ H.T, Y @ H.T, data.ridge)
            gradient = self.lam_H * H + W.T @ (W @ H - Y) + self.beta * (H - inner)
            if np.abs(gradient).max() <= enough / 10:
                break
            polished = HeadStep(data, W)
            H = polished.solve(W.T @ Y + self.beta * inner)
        self.H_, self.W_ = (H, W) if basis is None else (basis @ H, W @ basis.T)
        self._H0, self._Y, self._ridge = H0, Y, data.ridge
        self.grad_norm_ = float(np.abs(gradient if basis is None else basis @ gradient).max())
        if self.grad_norm_ > enough:
            warnings.warn(
                f"the gradient is {self.grad_norm_:.1e} after {self.n_iter_} steps, not {enough:.1e}",
                RuntimeWarning,
                stacklevel=2,
            )
        return self

    def predict_perturbation(self, dH0: Float[np.ndarray, "d N"], order: Order = "exact") -> Float[np.ndarray, "d N"]:
        """Return how the minimiser's features move when the given ones move a little.

        Parameters
        ----------
        dH0
            Deviation of the given features, (d, N).
        order
            "exact" for `(I + M / beta)^{-1} dH0`, right to first order in `dH0` for every beta (Theorem 4.1 of arXiv
            2210.16658); "large_beta" for `(I - M / beta) dH0`, whose error is of order `beta^-2` (its Eq. 5).

        Returns
        -------
        np.ndarray
            The deviation of `H_`, to first order.

        Raises
        ------
        ValueError
            For an unknown order, another shape than that of the features, entries that aren't finite, or a beta of 0.
        AttributeError
            Before `fit`.
        """
        check_choice("order", order, ("exact", "large_beta"))
        dH0 = finite("dH0", dH0)
        if not hasattr(self, "H_"):
            raise AttributeError("H_ isn't there yet; call fit first")
        if dH0.shape != self.H_.shape:
            raise ValueError(f"dH0 has shape {dH0.shape}; it takes that of the features, {self.H_.shape}")
        if self.beta == 0:
            raise ValueError("beta is 0: the minimiser doesn't depend on the given features; it takes a number > 0")
        return self._exact(dH0) if order == "exact" else dH0 - self._curvature(dH0) / self.beta

    def perturbation_operator(self, order: Order = "exact") -> LinearOperator:
        """Return the linear map of deviations as an operator on vectors, whose columns are stacked (Fortran's order).

        Parameters
        ----------
        order
            As in `predict_perturbation`.

        Returns
        -------
        LinearOperator
            Symmetric, of size dN x dN; it holds no matrix of that size.

        Raises
        ------
        AttributeError
            Before `fit`.

        Examples
        --------
        >>> from paperworks.training import ufm_minimizer
        >>> W, H0 = ufm_minimizer(2, 3, 2, 0.25, 0.25)
        >>> operator = VicinityUFM(0.25, 0.25, 1.0).fit(H0, np.repeat([0, 1], 3)).perturbation_operator()
        >>> values = np.linalg.eigvalsh(operator @ np.eye(12))  # 1 / (1 + s), 1 / (1 + 4 lam_H (1 - c)) and 1
        >>> float(values[0].round(6)), float(values[8].round(6)), float(values[-1].round(6))
        (0.5, 0.571429, 1.0)
        """
        shape = self.H_.shape

        def apply(v: np.ndarray) -> np.ndarray:
            return self.predict_perturbation(v.reshape(shape, order="F"), order).ravel(order="F")

        size = self.H_.size
        return LinearOperator((size, size), matvec=apply, rmatvec=apply, dtype=float)

    def _head_response(self, dH: Matrix) -> Float[np.ndarray, "K d"]:
        """Return how the loss' gradient in W, times N, moves with the features."""
        return (self.W_ @ dH) @ self.H_.T + (self.W_ @ self.H_ - self._Y) @ dH.T

    def _curvature(self, dH: Matrix) -> Matrix:
        """Return M dH, the second derivative of N times the reduced loss."""
        W, H = self.W_, self.H_
        dW = -head_of(H @ H.T, self._head_response(dH), self._ridge)
        return self.lam_H * dH + W.T @ (W @ dH + dW @ H) + dW.T @ (W @ H - self._Y)

    def _exact(self, dH0: Matrix) -> Matrix:
        """Solve for the deviation of the last layer first, a system of size Kd, and return that of the features."""
        W, H, Y = self.W_, self.H_, self._Y
        data = Products(Y @ Y.T, Y @ self._H0.T, self._H0 @ self._H0.T, self._ridge, self.lam_H, self.beta)
        state = HeadStep(data, W)
        fixed = self.beta * state.solve(dH0)  # with the last layer as it is
        response = -self._head_response(fixed)
        dW = conjugate_gradients(state.curvature, response, 1e-13, 4 * W.size, state.precondition)
        return fixed - state.solve(W.T @ (dW @ H) + dW.T @ (W @ H - Y))
