"""How a step size or a penalty changes from step to step."""

from dataclasses import dataclass

from paperworks.core.validation import check_number


@dataclass(frozen=True)
class PolynomialDecay:
    """The schedule `initial * (1 + k / offset) ** -power`.

    Parameters
    ----------
    initial
        Value at step 0.
    power
        Exponent of the decay, 0 for a constant.
    offset
        How many steps it takes until the decay is felt.

    Examples
    --------
    >>> PolynomialDecay(0.1, power=0.5)(3)
    0.05
    """

    initial: float
    power: float = 0.0
    offset: float = 1.0

    def __post_init__(self) -> None:
        check_number("initial", self.initial, gt=0)
        check_number("power", self.power, ge=0)
        check_number("offset", self.offset, gt=0)

    def __call__(self, k: float) -> float:
        """Return the value at step `k`.

        Parameters
        ----------
        k
            The step, counted from 0.

        Returns
        -------
        float
            Value of the schedule there.
        """
        return self.initial * (1 + k / self.offset) ** -self.power


@dataclass(frozen=True)
class ExponentialDecay:
    """The schedule that falls from `initial` to `initial * final_ratio` geometrically within `steps`, and goes on so.

    Parameters
    ----------
    initial
        Value at step 0.
    steps
        After how many steps the final ratio is reached.
    final_ratio
        The value at step `steps` to the first.

    Examples
    --------
    >>> round(ExponentialDecay(1.0, steps=10, final_ratio=0.01)(5), 12)
    0.1
    """

    initial: float
    steps: float
    final_ratio: float

    def __post_init__(self) -> None:
        check_number("initial", self.initial, gt=0)
        check_number("steps", self.steps, gt=0)
        check_number("final_ratio", self.final_ratio, gt=0, le=1)

    def __call__(self, k: float) -> float:
        """Return the value at step `k`.

        Parameters
        ----------
        k
            The step, counted from 0.

        Returns
        -------
        float
            Value of the schedule there.
        """
        return self.initial * self.final_ratio ** (k / self.steps)
