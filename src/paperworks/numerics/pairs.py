"""Embedded pairs with dense output: tableaus that know the solution all along a step, and where they turn unstable."""

from dataclasses import dataclass

from paperworks.numerics.tableaus import TABLEAUS, Tableau


@dataclass(frozen=True)
class EmbeddedPair(Tableau):
    """A tableau with an embedded method, dense output and the size of its region of stability.

    Parameters
    ----------
    order, a, b, error, error_order
        As a `Tableau` has them; `error` is required.
    dense
        For each slope, that at the step's end last, its weights of the first, second, ... power of the share of the
        step that is passed: the solution there is ``u + h * sum(weight * slope)``.
    stability
        How far the region of stability reaches along the negative axis. The slopes at the last stage and at the step's
        end tell how stiff the problem is; the two are at one time but for ``bosh3``.

    Raises
    ------
    ValueError
        For numbers of rows and weights that don't fit together.

    References
    ----------
    Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I (1993), sections II.4 to II.6.

    Examples
    --------
    >>> pair = PAIRS["tsit5"]
    >>> len(pair.b), pair.order, pair.error_order
    (6, 5, 4)
    """

    dense: tuple[tuple[float, ...], ...] = ()
    stability: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.error is None:
            raise ValueError("error is None; it takes the weights of an embedded method")
        if len(self.dense) != len(self.b) + 1 or len({len(row) for row in self.dense}) != 1:
            rows = [len(row) for row in self.dense]
            raise ValueError(
                f"dense has rows of {rows} weights; with {len(self.b)} stages it takes {len(self.b) + 1} "
                "rows, all as long"
            )


_TSIT5 = EmbeddedPair(
    5,
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.02826905039406838),
    ),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    (
        0.00178001105222577714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    4,
    (
        (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.1317, -0.2234, 0.1017),
        (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
        (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
    3.5068,
)


def _extended(name: str, dense: tuple[tuple[float, ...], ...], stability: float) -> EmbeddedPair:
    known = TABLEAUS[name]
    return EmbeddedPair(known.order, known.a, known.b, known.error, known.error_order, dense, stability)


PAIRS = {
    "tsit5": _TSIT5,
    "dopri5": _extended(
        "dopri5",
        (
            (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
            (0.0, 0.0, 0.0, 0.0),
            (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
            (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
            (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
            (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
            (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
        ),
        3.3066,
    ),
    "bosh3": _extended(
        "bosh3", ((1.0, -4 / 3, 5 / 9), (0.0, 1.0, -2 / 3), (0.0, 4 / 3, -8 / 9), (0.0, -1.0, 1.0)), 2.5127
    ),
}
"""Pairs by name: ``tsit5`` of Tsitouras (2011), ``dopri5`` of Dormand and Prince with the dense output of Shampine
(1986), ``bosh3`` of Bogacki and Shampine with the cubic one."""
