"""Radii that grow while a network is trained to be robust."""

from abc import ABC, abstractmethod

from paperworks.core.validation import check_count, check_number


class _Scheduler(ABC):
    """A radius that grows from 0 to `max_eps`; `step` moves it on, once a batch."""

    def __init__(self, max_eps: float, start: int = 0) -> None:
        self.max_eps = check_number("max_eps", max_eps, gt=0)
        self.start = check_count("start", start, at_least=0)
        self.steps = 0
        self.eps = 0.0

    @property
    def kappa(self) -> float:
        """The share of linear bounds in a mixture with intervals: 1 at radius 0, and 0 at the greatest radius."""
        return (self.max_eps - self.eps) / self.max_eps

    def step(self, loss: float | None = None) -> None:
        """Go on by one batch, whose loss some schedules look at."""
        self.steps += 1
        self.eps = self._radius(loss)

    @abstractmethod
    def _radius(self, loss: float | None) -> float: ...


class LinearScheduler(_Scheduler):
    """A radius that grows linearly.

    Parameters
    ----------
    max_eps
        The radius to end with.
    start, length
        After how many steps it begins to grow, and how many it takes.

    Examples
    --------
    >>> scheduler = LinearScheduler(0.4, start=1, length=2)
    >>> for _ in range(4):
    ...     print(scheduler.eps, end=" ")
    ...     scheduler.step()
    0.0 0.0 0.2 0.4
    """

    def __init__(self, max_eps: float, start: int, length: int) -> None:
        super().__init__(max_eps, start)
        self.length = check_count("length", length)

    def _radius(self, loss: float | None) -> float:
        return self.max_eps * min(max((self.steps - self.start) / self.length, 0.0), 1.0)


class SmoothedScheduler(LinearScheduler):
    r"""A radius that grows as :math:`t^\beta` up to a point, and linearly at the slope it has there from then on.

    Parameters
    ----------
    max_eps
        The radius to end with.
    start, length
        After how many steps it begins to grow, and how many it takes.
    mid
        At which share of the length it becomes linear.
    beta
        Power of the smooth part.

    Examples
    --------
    >>> scheduler = SmoothedScheduler(1.0, start=0, length=4, mid=0.5, beta=2.0)
    >>> for _ in range(5):
    ...     print(round(scheduler.eps, 3), end=" ")
    ...     scheduler.step()
    0.0 0.083 0.333 0.667 1.0

    References
    ----------
    Gowal et al. (2018), arXiv 1810.12715; Xu et al. (2020), arXiv 2002.12920, appendix C.
    """

    def __init__(self, max_eps: float, start: int, length: int, mid: float = 0.25, beta: float = 4.0) -> None:
        super().__init__(max_eps, start, length)
        self.mid = check_number("mid", mid, gt=0, le=1)
        self.beta = check_number("beta", beta, ge=1)

    def _radius(self, loss: float | None) -> float:
        t = min(max((self.steps - self.start) / self.length, 0.0), 1.0)
        # a t^beta up to mid, and then the tangent, which is to reach the greatest radius at 1.
        a = self.max_eps / (self.mid**self.beta + self.beta * self.mid ** (self.beta - 1) * (1 - self.mid))
        if t <= self.mid:
            return a * t**self.beta
        return min(a * (self.mid**self.beta + self.beta * self.mid ** (self.beta - 1) * (t - self.mid)), self.max_eps)


class AdaptiveScheduler(_Scheduler):
    """A radius that grows faster while the loss falls, and more slowly where it jumps up.

    Parameters
    ----------
    max_eps
        The radius to end with.
    start
        After how many steps it begins to grow.
    min_step, max_step
        The least and the greatest growth in a step.
    increase_factor, increase_below
        By how much the growth is multiplied where the loss is below so many times the one before.
    decrease_factor, decrease_above
        By how much it is divided where the loss is above so many times the one before.
    small_loss
        A loss below which growth increases in any case.

    Raises
    ------
    ValueError
        Where `step` isn't told the loss.

    Examples
    --------
    >>> scheduler = AdaptiveScheduler(0.1, min_step=1e-4, max_step=1e-3)
    >>> for loss in (2.0, 1.9, 1.8):
    ...     scheduler.step(loss)
    >>> round(scheduler.eps, 6)
    0.000475
    """

    def __init__(
        self,
        max_eps: float,
        start: int = 0,
        min_step: float = 1e-9,
        max_step: float = 1e-4,
        increase_factor: float = 1.5,
        increase_below: float = 1.0,
        decrease_factor: float = 2.0,
        decrease_above: float = 1.5,
        small_loss: float = 0.05,
    ) -> None:
        super().__init__(max_eps, start)
        self.min_step, self.max_step = check_number("min_step", min_step, gt=0), check_number("max_step", max_step)
        if self.min_step > self.max_step:
            raise ValueError(f"min_step is {min_step:g} and max_step is {max_step:g}; it takes min_step <= max_step")
        self.increase_factor = check_number("increase_factor", increase_factor, ge=1)
        self.increase_below = check_number("increase_below", increase_below, gt=0)
        self.decrease_factor = check_number("decrease_factor", decrease_factor, ge=1)
        self.decrease_above = check_number("decrease_above", decrease_above, gt=0)
        self.small_loss = check_number("small_loss", small_loss, ge=0)
        self._growth, self._last = self.min_step, float("inf")

    def _radius(self, loss: float | None) -> float:
        if loss is None:
            raise ValueError("loss is None; an adaptive schedule takes the loss of every step")
        first = self._last == float("inf")
        if not first and (loss < self.increase_below * self._last or loss < self.small_loss):
            self._growth = min(self._growth * self.increase_factor, self.max_step)
        elif not first and loss > self.decrease_above * self._last:
            self._growth = max(self._growth / self.decrease_factor, self.min_step)
        self._last = loss
        return self.eps if self.steps <= self.start else min(self.eps + self._growth, self.max_eps)
