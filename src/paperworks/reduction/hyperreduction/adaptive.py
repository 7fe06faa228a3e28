"""A reduced model that looks at its own error in every step, and asks the full model where it is too large."""

import copy
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.reduction.hyperreduction.equilibrium import MechanicalState
from paperworks.reduction.hyperreduction.indicator import GappyErrorIndicator
from paperworks.reduction.hyperreduction.model import HyperReducedModel
from paperworks.reduction.hyperreduction.problem import MechanicalProblem, Trajectory, check_times


@dataclass(frozen=True)
class AdaptiveTrajectory:
    """What an adaptive model computed, and what it thought of it.

    Examples
    --------
    >>> from paperworks.reduction import Loads
    >>> still = Trajectory(Loads(), np.zeros(1), np.zeros((1, 8)), *(np.zeros((1, 3, 4)),) * 3, np.zeros((1, 3)))
    >>> AdaptiveTrajectory(still, np.zeros(1), np.zeros(1), (3, 7), None).n_hf_steps
    2
    """

    trajectory: Trajectory
    """All fields on the whole mesh, each time rebuilt from the bases of that time."""
    indicator: Float[np.ndarray, " times"]
    """The value that was compared with the tolerance, of the accepted step."""
    expected: Float[np.ndarray, " times"]
    """The error to be expected, without the margin of an upper bound."""
    enrichments: tuple[int, ...]
    """Indices of the times whose step was taken by the full model as well."""
    stopped: int | None
    """The index of the first time that was not accepted, where the model stops there; else None."""

    @property
    def n_hf_steps(self) -> int:
        """How many steps the full model took.

        Returns
        -------
        int
            One for each enrichment.
        """
        return len(self.enrichments)


class AdaptiveROM:
    r"""A hyper-reduced model that enriches itself, or stops, where its indicator exceeds a tolerance.

    Each step is taken by the reduced model. Where the indicator stays below the tolerance it is accepted. Else all
    fields are rebuilt on the mesh at its begin, the full model takes that one step from there, bases, points and
    weights are updated with what it found, and the reduced model takes the step again, which is then accepted.

    Parameters
    ----------
    rom
        The fitted model to begin with; it is copied, not changed.
    problem
        The full model under the loads to be followed.
    indicator
        The calibrated indicator, for the quantities of `rom`; the largest of them decides.
    rtol
        The greatest error that is accepted; 0.05 by default, the paper's 5 %.
    max_enrich
        The most enrichments; None, the default, sets no limit. Beyond them steps are accepted as they are.
    on_excess
        "enrich", the default; "stop" ends the trajectory before the first step that exceeds the tolerance, and says
        so; "report" accepts every step and only reports the indicator.
    upper
        Whether the upper bound of the error decides, the default, or the error to be expected, which is too small for
        half of all models.

    Attributes
    ----------
    rom_ : HyperReducedModel
        The model after `solve`, with all that was added.

    References
    ----------
    Casenave and Akkari, doi 10.3390/mca24020041, 2019, section 4, the adaptive algorithm.

    Examples
    --------
    >>> indicator = GappyErrorIndicator().calibrate(*calibration_pairs(rom, trajectories))  # doctest: +SKIP
    >>> adaptive = AdaptiveROM(rom, problem.with_loads(hotter), indicator, rtol=0.05)  # doctest: +SKIP
    >>> adaptive.solve(times).n_hf_steps  # doctest: +SKIP
    3
    """

    def __init__(
        self,
        rom: HyperReducedModel,
        problem: MechanicalProblem,
        indicator: GappyErrorIndicator,
        rtol: float = 0.05,
        max_enrich: int | None = None,
        on_excess: str = "enrich",
        upper: bool = True,
    ) -> None:
        if not hasattr(rom, "modes_"):
            raise ValueError("rom is not fitted; call fit with training trajectories first")
        if problem.elements is not rom.problem.elements:
            raise ValueError("problem has other elements than rom; it takes rom.problem.with_loads(...)")
        if len(getattr(indicator, "slope_", ())) != len(rom.quantities):
            raise ValueError(f"indicator is not calibrated for the {len(rom.quantities)} quantities of rom")
        self.rom, self.problem, self.indicator = rom, problem, indicator
        self.rtol = check_number("rtol", rtol, gt=0)
        self.max_enrich = max_enrich if max_enrich is None else check_count("max_enrich", max_enrich, at_least=0)
        self.on_excess = check_choice("on_excess", on_excess, ("enrich", "stop", "report"))
        self.upper = upper

    def solve(self, times: ArrayLike) -> AdaptiveTrajectory:
        """Follow the part through the loads of the problem.

        Parameters
        ----------
        times
            Rising times; at the first the part is virgin.

        Returns
        -------
        AdaptiveTrajectory
            Fields, indicator, and where it was enriched or stopped.

        Raises
        ------
        ValueError
            Where times do not rise.
        ConvergenceError
            Where Newton's method fails, of the reduced or the full model, even in a sixteenth of a step.
        """
        at = check_times(times)
        rom = self.rom_ = copy.deepcopy(self.rom, {id(self.rom.problem): self.rom.problem})
        path, state = rom.load_path(self.problem.loads), rom.initial(at[0])
        states, indicators, expected = [rom.lift(state)], [0.0], [0.0]
        enrichments: list[int] = []
        greatest = dict(rom.sizes_)
        for k, t in enumerate(at[1:], start=1):
            new = rom.advance(state, path, t)
            value, mean = self._judge(rom, new, greatest)
            if value > self.rtol and self.on_excess == "stop":
                partial = Trajectory.of_states(self.problem.loads, states)
                return AdaptiveTrajectory(partial, np.array(indicators), np.array(expected), tuple(enrichments), k)
            more = self.max_enrich is None or len(enrichments) < self.max_enrich
            if value > self.rtol and self.on_excess == "enrich" and more:
                whole = rom.lift(state)
                rom.enrich(self.problem.step(whole, t))
                enrichments.append(k)
                path, state = rom.load_path(self.problem.loads), rom.restrict(whole)
                new = rom.advance(state, path, t)
                value, mean = self._judge(rom, new, greatest)
            state = new
            for name in rom.quantities:
                greatest[name] = max(greatest[name], float(rom.gappy_[name].size(rom.value(state, name))))
            states.append(rom.lift(state))
            indicators.append(value)
            expected.append(mean)
        whole_path = Trajectory.of_states(self.problem.loads, states)
        return AdaptiveTrajectory(whole_path, np.array(indicators), np.array(expected), tuple(enrichments), None)

    def _judge(self, rom: HyperReducedModel, state: MechanicalState, greatest: dict[str, float]) -> tuple[float, float]:
        """Return the value that decides and the error to be expected, of the worst quantity."""
        E = rom.residual(state, greatest)
        given = E if self.indicator._one is False else E[0]
        value = self.indicator.upper(given) if self.upper else self.indicator.predict(given)
        return float(np.max(value)), float(np.max(self.indicator.predict(given)))
