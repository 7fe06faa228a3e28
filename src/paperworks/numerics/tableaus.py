"""Explicit Runge-Kutta methods as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method.

    Parameters
    ----------
    order
        Order of convergence.
    a
        One row for each stage: weights of the slopes before it, which lead to where the stage is evaluated.
    b
        Weights of the stages' slopes in the step; they sum to one.
    error
        Weights of the same slopes, and last of the slope at the step's end, in the difference to an embedded method of
        another order; None for a method without one. The slope at the end is the first of the next step, so it costs
        nothing where the step is accepted.
    error_order
        The lower of the two orders, by which the size of a step is chosen.

    Raises
    ------
    ValueError
        For numbers of rows and weights that don't fit together.

    References
    ----------
    Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I (1993), chapter II.

    Examples
    --------
    >>> TABLEAUS["midpoint"].c
    (0, 0.5)
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...] | None = None
    error_order: int = 0

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(len(self.b))):
            rows = [len(row) for row in self.a]
            raise ValueError(f"a has rows of {rows} weights; with {len(self.b)} stages it takes rows of 0, 1, 2, ...")
        if self.error is not None and (len(self.error) != len(self.b) + 1 or self.error_order < 1):
            raise ValueError(
                f"error has {len(self.error)} weights and error_order {self.error_order}; "
                f"they take {len(self.b) + 1} and at least 1"
            )

    @property
    def c(self) -> tuple[float, ...]:
        """Where the stages are in the step, from 0 to 1."""
        return tuple(sum(row) for row in self.a)


TABLEAUS = {
    "euler": Tableau(1, ((),), (1.0,)),
    "midpoint": Tableau(2, ((), (1 / 2,)), (0.0, 1.0)),
    "heun": Tableau(2, ((), (1.0,)), (1 / 2, 1 / 2), (-1 / 2, 1 / 2, 0.0), 1),
    "heun3": Tableau(3, ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "kutta3": Tableau(3, ((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "bosh3": Tableau(
        3,
        ((), (1 / 2,), (0.0, 3 / 4)),
        (2 / 9, 1 / 3, 4 / 9),
        (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        2,
    ),
    "rk4": Tableau(4, ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": Tableau(
        5,
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        4,
    ),
}
"""Methods by name: ``heun3`` and ``kutta3`` are Heun's and Kutta's of order three, ``bosh3`` the pair of Bogacki and
Shampine, ``rk4`` the classical method, ``dopri5`` the pair of Dormand and Prince."""
