"""The flow of features along which the variability within classes falls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from paperworks.core.validation import check_choice, check_number
from paperworks.training.collapse.unconstrained import Labels, Matrix, finite, head_of, targets
from paperworks.training.collapse.vicinity import VicinityUFM

Method = Literal["RK45", "DOP853", "implicit"]


@dataclass(frozen=True)
class CentralPath:
    """Features along the flow, and their variability.

    Parameters
    ----------
    t
        Times, ascending from 0 on.
    H
        Features at each, (times, d, N).
    trace_within, trace_between
        Traces of the covariance within classes and of that of the class means, at each time.
    nfev
        Evaluations of the flow's velocity; 0 for implicit steps.

    Examples
    --------
    >>> path = central_path(np.random.default_rng(0).normal(size=(3, 8)), np.arange(8) % 2, 0.5, 0.0, [0.0, 1.0])
    >>> bool(path.nc1_trace[1] < path.nc1_trace[0])
    True
    """

    t: Float[np.ndarray, " times"]
    H: Float[np.ndarray, "times d N"]
    trace_within: Float[np.ndarray, " times"]
    trace_between: Float[np.ndarray, " times"]
    nfev: int

    @property
    def nc1_trace(self) -> Float[np.ndarray, " times"]:
        """Variability within classes over that between them, which falls with time; inf where no classes are apart.

        Returns
        -------
        np.ndarray
            The ratio of the traces at each time.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.trace_between > 0, self.trace_within / self.trace_between, np.inf)


def central_path(
    H0: Float[np.ndarray, "d N"],
    labels: Labels,
    lam_W: float,
    lam_H: float,
    t_eval: Sequence[float] | Float[np.ndarray, " times"],
    method: Method = "RK45",
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> CentralPath:
    r"""Follow `dH/dt = W^T (Y - W H) - lam_H H` with the best last layer W at every time.

    This is gradient descent on N times the loss of `reduced_loss_grad`. In balanced classes that aren't collapsed,
    `nc1_trace` and `exp(2 lam_H t) trace_within` strictly fall and `exp(2 lam_H t) trace_between` strictly rises.
    Source: Theorem 3.1 of arXiv 2210.16658.

    Parameters
    ----------
    H0
        Features at time 0, one column a sample; d >= K.
    labels
        Class of each column, of any kind of value.
    lam_W, lam_H
        Penalties of the last layer, positive, and of the features, 0 or more.
    t_eval
        Times to return, ascending, 0 or more.
    method
        A Runge-Kutta method of `scipy.integrate.solve_ivp`, or "implicit": one implicit step of Euler from each time to
        the next (to the first one from 0), each of which is the minimiser of a `VicinityUFM`.
    rtol, atol
        Tolerances of the Runge-Kutta method.

    Returns
    -------
    CentralPath
        Times, features and traces.

    Raises
    ------
    ValueError
        For times that don't ascend from 0 on, an unknown method, and as `VicinityUFM` and its `fit` do.
    RuntimeError
        Where `solve_ivp` fails.

    Examples
    --------
    >>> H0 = np.random.default_rng(0).normal(size=(3, 8))
    >>> exact = central_path(H0, np.arange(8) % 2, 0.5, 0.1, [0.01])
    >>> step = central_path(H0, np.arange(8) % 2, 0.5, 0.1, [0.01], method="implicit")
    >>> bool(abs(step.H - exact.H).max() < 1e-3)
    True
    """
    H0, method = finite("H0", H0), check_choice("method", method, ("RK45", "DOP853", "implicit"))
    if np.ndim(labels) != 1:
        raise ValueError(f"labels has shape {np.shape(labels)}; it takes a label for each column of H0")
    Y, t = targets(labels, H0), np.asarray(t_eval, dtype=float)
    if t.ndim != 1 or not t.size or not np.isfinite(t).all() or t[0] < 0 or (np.diff(t) <= 0).any():
        raise ValueError(f"t_eval is {t_eval!r}; it takes ascending times, 0 or more")
    lam_W, lam_H = check_number("lam_W", lam_W, gt=0), check_number("lam_H", lam_H, ge=0)
    if method == "implicit":
        H, evaluations = _implicit(H0, Y, lam_W, lam_H, t), 0
    else:
        H, evaluations = _runge_kutta(H0, Y, lam_W, lam_H, t, method, rtol, atol)
    counts = Y.sum(1)
    means = H @ Y.T / counts  # (times, d, K)
    within = np.square(H - means @ Y).sum((1, 2)) / H0.shape[1]
    between = np.square(means - means.mean(2, keepdims=True)).sum((1, 2)) / len(Y)
    return CentralPath(t, H, within, between, evaluations)


def _runge_kutta(
    H0: Matrix, Y: Matrix, lam_W: float, lam_H: float, t: np.ndarray, method: str, rtol: float, atol: float
) -> tuple[Float[np.ndarray, "times d N"], int]:
    # The flow stays in the span of its start.
    basis, start = (None, H0) if len(H0) <= H0.shape[1] else np.linalg.qr(H0)
    ridge = lam_W * H0.shape[1] / len(Y)

    def velocity(_: float, h: np.ndarray) -> np.ndarray:
        H = h.reshape(start.shape)
        W = head_of(H @ H.T, Y @ H.T, ridge)
        return (W.T @ (Y - W @ H) - lam_H * H).ravel()

    if t[-1] == 0:
        return H0[None].copy(), 0
    found = solve_ivp(velocity, (0.0, t[-1]), start.ravel(), method=method, t_eval=t, rtol=rtol, atol=atol)
    if not found.success:
        raise RuntimeError(f"solve_ivp stopped: {found.message}")
    H = found.y.T.reshape(len(t), *start.shape)
    return (H if basis is None else basis @ H), int(found.nfev)


def _implicit(H0: Matrix, Y: Matrix, lam_W: float, lam_H: float, t: np.ndarray) -> Float[np.ndarray, "times d N"]:
    H, path = H0, []
    for step in np.diff(t, prepend=0.0):
        H = VicinityUFM(lam_W, lam_H, 1 / step).fit(H, Y).H_ if step > 0 else H
        path.append(H)
    return np.stack(path)
