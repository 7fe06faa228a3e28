"""Families of value functions: linear in their parameters, or a network."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.dynamics.martingales.trajectories import Trajectories
from paperworks.numerics import functional_call

Array = Float[np.ndarray, "..."]


class LinearValue:
    r"""A family that is linear in its parameters: $J^\theta(t, x) = J_0(t, x) + \theta^\top \varphi(t, x)$.

    Parameters
    ----------
    features
        Gives (..., p) features for times (...) and states (...) or (..., d).
    offset
        Gives J_0 of the same shape as the times; 0 where it isn't given.
    vanishes_at
        The horizon, if features vanish there and `offset` is what is paid then; it is checked when it is fitted.

    Examples
    --------
    >>> family = LinearValue(lambda t, x: np.stack([x * (1 - t)], axis=-1), offset=lambda t, x: x)
    >>> family.theta = np.array([0.5])
    >>> float(family(np.array(0.0), np.array(2.0)))
    3.0
    """

    def __init__(
        self,
        features: Callable[[Any, Any], Any],
        offset: Callable[[Any, Any], Any] | None = None,
        vanishes_at: float | None = None,
    ) -> None:
        if not callable(features):
            raise TypeError(f"features is {features!r}; it takes a function of times and states")
        self.features, self.offset, self.vanishes_at = features, offset, vanishes_at
        self._theta: Float[np.ndarray, " p"] | None = None

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        """The parameters; zeros until they are set or fitted."""
        if self._theta is None:
            raise ValueError("theta isn't set; fit an estimator, or set it to one number for each feature")
        return self._theta

    @theta.setter
    def theta(self, value: Any) -> None:
        self._theta = np.array(value, dtype=np.float64)

    def __call__(self, t: Any, x: Any) -> Array:
        """Return the values.

        Parameters
        ----------
        t, x
            Times and states.

        Returns
        -------
        ndarray
            Values, of the shape of the times.
        """
        phi = self.gradient(t, x)
        theta = self.theta if self._theta is not None else np.zeros(phi.shape[-1])
        return np.asarray(self.fixed(t, x) + phi @ theta)

    def fixed(self, t: Any, x: Any) -> Array:
        """Return the part without parameters.

        Parameters
        ----------
        t, x
            Times and states.

        Returns
        -------
        ndarray
            Values of the offset, of the shape of the times.
        """
        times = np.asarray(t, dtype=np.float64)
        if self.offset is None:
            return np.zeros(times.shape)
        found = np.array(self.offset(times, np.asarray(x, dtype=np.float64)), dtype=np.float64)
        if found.shape not in (times.shape, ()):
            raise ValueError(f"offset gave shape {found.shape} for times of {times.shape}; it takes the same")
        if not np.isfinite(found).all():
            raise ValueError("offset gave NaN or infinite values; it takes finite ones")
        return found if found.shape == times.shape else np.full(times.shape, found)

    def gradient(self, t: Any, x: Any) -> Float[np.ndarray, "... p"]:
        """Return the features, which are the derivatives by the parameters.

        Parameters
        ----------
        t, x
            Times and states.

        Returns
        -------
        ndarray
            Features, (..., p).
        """
        times = np.asarray(t, dtype=np.float64)
        phi = np.asarray(self.features(times, np.asarray(x, dtype=np.float64)), dtype=np.float64)
        if phi.shape[:-1] != times.shape or not phi.ndim:
            raise ValueError(
                f"features gave shape {phi.shape} for times of {times.shape}; it takes one more axis, of features"
            )
        if not np.isfinite(np.vdot(phi, phi)) and not np.isfinite(phi).all():  # squares may overflow
            raise ValueError("features gave NaN or infinite values; it takes finite ones")
        return phi

    def check_end(self, paths: Trajectories) -> None:
        """Raise ValueError where features that have to vanish at the end don't.

        Parameters
        ----------
        paths
            The paths on which they are checked.
        """
        if self.vanishes_at is None:
            return
        ends = self.gradient(np.full(len(paths), self.vanishes_at), paths.x[:, -1])
        if (most := float(np.abs(ends).max())) > 1e-9:
            raise ValueError(
                f"features are up to {most:g} at t = {self.vanishes_at:g}; it takes some that vanish there"
            )


class TorchValue:
    """A family that is a network of times and states.

    Parameters
    ----------
    module
        Called with times (n,) and states (n,) or (n, d), it gives (n,) values, or (n, 1).
    terminal
        What is paid at the end, as a function of states in torch. Values are then this plus the module's output times
        the share of time that is left, so that they are right at the end whatever the parameters are.
    horizon
        The end, where `terminal` is given.
    stacked
        Whether the module takes one argument, (n, 1 + d), of times and states side by side.

    Examples
    --------
    >>> family = TorchValue(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), stacked=True)
    >>> family(np.zeros(3), np.ones(3)).shape
    (3,)
    """

    def __init__(
        self,
        module: nn.Module,
        terminal: Callable[[Tensor], Tensor] | None = None,
        horizon: float | None = None,
        *,
        stacked: bool = False,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module is {module!r}; it takes a torch.nn.Module")
        if (terminal is None) != (horizon is None):
            raise ValueError("terminal and horizon go together; it takes both or none")
        self.module, self.terminal, self.horizon, self.stacked = module, terminal, horizon, stacked

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchValue":
        return TorchValue(copy.deepcopy(self.module, memo), self.terminal, self.horizon, stacked=self.stacked)

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        """All parameters that are trained, one after the other."""
        return torch.cat([p.detach().reshape(-1) for p in self._trained()]).double().numpy()

    @theta.setter
    def theta(self, value: Any) -> None:
        numbers, count = np.asarray(value), sum(p.numel() for p in self._trained())
        if numbers.shape != (count,):
            raise ValueError(f"theta has shape {numbers.shape}; it takes ({count},), one for each parameter")
        nn.utils.vector_to_parameters(torch.as_tensor(numbers).to(next(self.module.parameters())), self._trained())

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def tensor(self, t: Tensor, x: Tensor, parameters: Any = None) -> Tensor:
        """Return values that gradients go through.

        Parameters
        ----------
        t, x
            Times and states as tensors.
        parameters
            Parameters by name that stand for the module's, as `paperworks.numerics.functional_call` takes them.

        Returns
        -------
        Tensor
            Values, (n,), with their graph.
        """
        inputs = (torch.cat([t[:, None], x.reshape(len(t), -1)], 1),) if self.stacked else (t, x)
        out = self.module(*inputs) if parameters is None else functional_call(self.module, parameters, inputs)
        out = out.reshape(len(t))
        if self.terminal is None or self.horizon is None:
            return out
        return self.terminal(x).reshape(len(t)) + (1 - t / self.horizon) * out

    def __call__(self, t: Any, x: Any) -> Array:
        """Return the values.

        Parameters
        ----------
        t, x
            Times and states.

        Returns
        -------
        ndarray
            Values, of the shape of the times.
        """
        times, states, shape = self._flat(t, x)
        with torch.no_grad():
            return self.tensor(times, states).double().numpy().reshape(shape)

    def gradient(self, t: Any, x: Any) -> Float[np.ndarray, "... p"]:
        """Return the derivatives of each value by the parameters.

        Parameters
        ----------
        t, x
            Times and states.

        Returns
        -------
        ndarray
            Derivatives, (..., p).
        """
        times, states, shape = self._flat(t, x)
        named = {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

        def one(parameters: Any, time: Tensor, state: Tensor) -> Tensor:
            return self.tensor(time[None], state[None], parameters)[0]

        found = torch.func.vmap(torch.func.grad(one), (None, 0, 0))(named, times, states)
        return torch.cat([g.reshape(len(times), -1) for g in found.values()], 1).double().numpy().reshape(*shape, -1)

    def _flat(self, t: Any, x: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        times, like = np.asarray(t, dtype=np.float64), next(self.module.parameters())
        states = np.broadcast_to(np.asarray(x, dtype=np.float64), times.shape + np.shape(x)[times.ndim :])
        rows = states.reshape(-1, *states.shape[times.ndim :])
        return torch.from_numpy(times.reshape(-1).copy()).to(like), torch.from_numpy(rows.copy()).to(like), times.shape


Value = LinearValue | TorchValue
