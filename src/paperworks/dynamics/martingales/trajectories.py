"""Sampled paths of a process in continuous time, with rewards and what is paid at the end."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number


class Trajectories:
    """Paths on grids of time, one for all or one for each, even or not.

    Parameters
    ----------
    t
        Times, (K + 1,) for all paths or (M, K + 1), or a list of one array for each path; they increase along a path.
    x
        States at those times, (M, K + 1), (M, K + 1, d), or a list.
    r
        Rewards, (M, K) or a list: rates, in reward / time, at the left end of each step.
    terminal
        What is paid at the end, (M,); None where paths were only cut off, as over an infinite horizon.
    discount
        The rate at which rewards are discounted, in 1 / time.
    integrated
        Whether rewards are those of the whole step, reward times time, and no rates.

    Raises
    ------
    ValueError
        For times that don't increase, shapes that don't fit, or values that are not finite.

    Examples
    --------
    >>> paths = Trajectories(np.linspace(0, 1, 5), np.zeros((3, 5)), np.ones((3, 4)), np.zeros(3))
    >>> len(paths), paths.steps, paths.returns()[0].tolist()
    (3, 4, [1.0, 0.75, 0.5, 0.25, 0.0])
    """

    def __init__(
        self,
        t: ArrayLike | Sequence[ArrayLike],
        x: ArrayLike | Sequence[ArrayLike],
        r: ArrayLike | Sequence[ArrayLike],
        terminal: ArrayLike | None = None,
        discount: float = 0.0,
        *,
        integrated: bool = False,
    ) -> None:
        self.discount = check_number("discount", discount, ge=0)
        if isinstance(x, Sequence) and len({np.shape(path)[:1] for path in x}) > 1:
            t, x, r, lengths = _padded(t, x, r)
        else:
            lengths = None
        self.x = _finite("x", x)
        if self.x.ndim not in (2, 3) or self.x.shape[1] < 2 or not len(self.x):
            raise ValueError(f"x has shape {self.x.shape}; it takes (paths, times) or (paths, times, dimensions)")
        paths, nodes = self.x.shape[:2]
        self.t = np.atleast_2d(_finite("t", t))
        if self.t.shape not in ((1, nodes), (paths, nodes)):
            raise ValueError(f"t has shape {self.t.shape}; it takes ({nodes},) or ({paths}, {nodes}), as many as x has")
        self.dt = np.diff(self.t, axis=1)
        self.steps = nodes - 1
        self.ended: Bool[np.ndarray, "m n"] = np.arange(nodes) >= (
            np.full((1, 1), self.steps) if lengths is None else lengths[:, None] - 1
        )
        if (self.dt[~np.broadcast_to(self.ended[:, :-1], self.dt.shape)] <= 0).any():
            raise ValueError(f"t has a step of {self.dt.min():g}; it takes times that increase")
        rewards = _finite("r", r)
        if rewards.shape != (paths, self.steps):
            raise ValueError(f"r has shape {rewards.shape}; it takes ({paths}, {self.steps}), one for each step")
        self.income = rewards if integrated else rewards * self.dt
        self.terminal = None if terminal is None else _finite("terminal", terminal)
        if self.terminal is not None and self.terminal.shape != (paths,):
            raise ValueError(f"terminal has shape {self.terminal.shape}; it takes ({paths},), one for each path")
        self._integrated = integrated
        self._rewards = rewards

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Trajectories({len(self)} paths of {self.steps} steps, discount={self.discount:g})"

    @property
    def factors(self) -> Float[np.ndarray, "m k"]:
        """Factors by which a step discounts, (1, K) or (M, K)."""
        return np.exp(-self.discount * self.dt)

    def at_end(self, values: Any) -> Any:
        """Put what is paid at the end in place of a family's values there.

        Parameters
        ----------
        values
            Values at all times, (M, K + 1), which are changed.

        Returns
        -------
        ndarray
            The values, with the terminal ones where paths have ended, if there are any.
        """
        if self.terminal is None:
            return values
        if len(self.ended) > 1:
            return np.where(self.ended, self.terminal[:, None], values)
        values[:, -1] = self.terminal
        return values

    def returns(self) -> Float[np.ndarray, "m n"]:
        """Return the discounted rewards from each time on, with what is paid at the end.

        Returns
        -------
        ndarray
            Returns at all times, (M, K + 1); where nothing is paid at the end they are cut off there.
        """
        found = np.zeros(self.x.shape[:2])
        if self.terminal is not None:
            found[:, -1] = self.terminal
        factors = np.broadcast_to(self.factors, self.income.shape)
        for i in range(self.steps)[::-1]:
            found[:, i] = self.income[:, i] + factors[:, i] * found[:, i + 1]
        return found

    def coarsened(self, stride: int) -> "Trajectories":
        """Return the same paths seen at every so many times only.

        Parameters
        ----------
        stride
            Steps that become one; it divides the number of steps.

        Returns
        -------
        Trajectories
            The same paths on the coarser grid, with rewards of its left ends, or sums of integrated ones.
        """
        k = check_count("stride", stride)
        if self.steps % k or not self.ended.shape[0] == 1:
            raise ValueError(f"stride is {stride}; it takes a divisor of {self.steps} steps, which all paths have")
        rewards = self._rewards.reshape(len(self), -1, k)
        rewards = rewards.sum(2) if self._integrated else rewards[:, :, 0]
        return Trajectories(
            self.t[:, ::k], self.x[:, ::k], rewards, self.terminal, self.discount, integrated=self._integrated
        )

    def __getitem__(self, paths: slice) -> "Trajectories":
        """Return some of the paths, without copies."""
        if not isinstance(paths, slice):
            raise TypeError(f"paths is {paths!r}; it takes a slice")
        part = object.__new__(Trajectories)
        vars(part).update(vars(self))
        for name in ("x", "income", "_rewards"):
            setattr(part, name, getattr(self, name)[paths])
        for name in ("t", "dt", "ended"):
            value = getattr(self, name)
            setattr(part, name, value if len(value) == 1 else value[paths])
        part.terminal = None if self.terminal is None else self.terminal[paths]
        return part

    def parts(self, batch_size: int) -> Iterator["Trajectories"]:
        """Give the paths in parts, so that features of all at once need not be held.

        Parameters
        ----------
        batch_size
            Paths of a part.

        Yields
        ------
        Trajectories
            The parts, in order.
        """
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]


def collect(
    env: Any,
    policy: Callable[[Any], Any],
    dt: float,
    episodes: int,
    discount: float = 0.0,
    *,
    max_steps: int = 10_000,
    random_state: int | None = None,
) -> Trajectories:
    """Run a policy in a gymnasium environment, and return its paths.

    Parameters
    ----------
    env
        The environment; a reward is that of a whole step.
    policy
        Gives an action for an observation.
    dt
        Time of a step.
    episodes
        Episodes to run.
    discount
        The rate of discount, in 1 / time.
    max_steps
        Steps after which an episode is cut off.
    random_state
        Seed of the first reset; the later ones go on from there.

    Returns
    -------
    Trajectories
        One path an episode. Episodes that terminate pay nothing more; where all are cut off there is no end payment.

    Raises
    ------
    ValueError
        Where some episodes terminate and others are cut off, which have no common condition at the end.

    Examples
    --------
    >>> import gymnasium  # doctest: +SKIP
    >>> collect(gymnasium.make("Pendulum-v1"), policy, dt=0.05, episodes=8)  # doctest: +SKIP
    Trajectories(8 paths of 200 steps, discount=0)
    """
    step = check_number("dt", dt, gt=0)
    count = check_count("episodes", episodes)
    times, states, rewards, done = [], [], [], []
    for episode in range(count):
        observation, _ = env.reset(seed=random_state if episode == 0 else None)
        path, terminated, truncated = [np.ravel(observation)], False, False
        gained: list[float] = []
        while not (terminated or truncated or len(gained) >= max_steps):
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            path.append(np.ravel(observation))
            gained.append(float(reward))
        times.append(step * np.arange(len(path)))
        states.append(np.array(path, dtype=np.float64))
        rewards.append(np.array(gained))
        done.append(terminated)
    if any(done) and not all(done):
        raise ValueError(f"env has {sum(done)} of {count} episodes that terminate; it takes all of them or none")
    if len({len(path) for path in states}) == 1:
        return Trajectories(
            times[0],
            np.array(states),
            np.array(rewards),
            np.zeros(count) if all(done) else None,
            discount,
            integrated=True,
        )
    return Trajectories(times, states, rewards, np.zeros(count) if all(done) else None, discount, integrated=True)


def _finite(name: str, values: Any) -> Float[np.ndarray, "..."]:
    if np.iscomplexobj(values):
        raise TypeError(f"{name} is complex; it takes real numbers")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is no array of numbers, or its paths have different lengths than x's") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has {int((~np.isfinite(array)).sum())} NaN or infinite values; it takes finite ones")
    return array


def _padded(t: Any, x: Any, r: Any) -> tuple[Any, Any, Any, Any]:
    """Repeat the last time and state of shorter paths: steps of no length and without reward add nothing."""
    states = [_finite("x", path) for path in x]
    lengths = np.array([len(path) for path in states])
    for name, paths, less in (("t", t, 0), ("r", r, 1)):
        if len(paths) != len(states) or any(
            np.shape(p)[:1] != (n - less,) for p, n in zip(paths, lengths, strict=True)
        ):
            raise ValueError(
                f"{name} has lengths {[np.shape(p)[:1] for p in paths][:5]}; it takes those of x less {less}"
            )
    if lengths.min() < 2:
        raise ValueError(f"x has a path of {lengths.min()} times; it takes two or more")
    most = lengths.max()
    ends = lambda paths: np.stack([np.concatenate([p, np.repeat(p[-1:], most - len(p), axis=0)]) for p in paths])  # noqa: E731
    gains = np.stack([np.append(_finite("r", p), np.zeros(most - 1 - len(p))) for p in r])
    return ends([_finite("t", p) for p in t]), ends(states), gains, lengths
