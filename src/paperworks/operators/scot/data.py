"""Pairs of snapshots of trajectories, and the normalisation of published models."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Dataset

from paperworks.core.validation import check_choice, check_count, check_number

Sample = tuple[Tensor, Tensor, Tensor]


class All2AllDataset(Dataset[Sample]):
    """Pairs of snapshots of the same trajectory: the fields at one time, the lead time, and the fields after it.

    Since the solution at a later time is that of a problem which starts at an earlier one, a trajectory of K + 1
    snapshots has (K + 1) (K + 2) / 2 pairs to learn from (arXiv 2405.19101, the section on all2all training).

    Parameters
    ----------
    trajectories
        Snapshots of each trajectory, already normalised.
    times
        Time of each snapshot, rising, in the unit that the network takes; the published models take 1 for 20 snapshots.
    mode
        Which pairs: "all2all"; "vanilla", all that begin with the first snapshot; or "one_step", neighbours.
    include_identity
        Whether a snapshot is also paired with itself, as published, which teaches that no time changes nothing. There
        are none among pairs of neighbours.
    lead_steps
        Only pairs that are so many snapshots apart; None for all.

    Raises
    ------
    ValueError
        For trajectories that aren't five-dimensional or have one snapshot, times that don't rise or aren't as many as
        snapshots, an unknown mode, and options that leave no pairs.

    Examples
    --------
    >>> data = All2AllDataset(torch.zeros(3, 8, 1, 4, 4), torch.linspace(0, 1, 8))
    >>> len(data) == 3 * 36
    True
    >>> x, lead_time, y = data[1]
    >>> x.shape, round(lead_time.item(), 4)
    (torch.Size([1, 4, 4]), 0.1429)
    """

    def __init__(
        self,
        trajectories: Float[Tensor, "n snapshots channels height width"],
        times: Float[Tensor, " snapshots"],
        mode: Literal["all2all", "vanilla", "one_step"] = "all2all",
        include_identity: bool = True,
        lead_steps: Collection[int] | None = None,
    ) -> None:
        if trajectories.ndim != 5 or trajectories.shape[1] < 2 or not len(trajectories):
            raise ValueError(
                f"trajectories has shape {tuple(trajectories.shape)}; it takes (n, snapshots, channels, height, width) "
                "with two snapshots or more"
            )
        if times.shape != trajectories.shape[1:2] or not ((times.diff() > 0).all() and times[-1] < torch.inf):
            raise ValueError(f"times is {times.tolist()}; it takes {trajectories.shape[1]} rising finite numbers")
        check_choice("mode", mode, ("all2all", "vanilla", "one_step"))
        self.trajectories, self.times = trajectories, times
        first = range(1 if mode == "vanilla" else len(times))
        pairs = [(i, j) for i in first for j in range(i, len(times))]
        if mode == "one_step":
            pairs = [(i, j) for i, j in pairs if j == i + 1]
        pairs = [(i, j) for i, j in pairs if include_identity or j > i]
        pairs = [(i, j) for i, j in pairs if lead_steps is None or j - i in lead_steps]
        if not pairs:
            raise ValueError(f"lead_steps is {lead_steps}; it takes steps from 1 to {len(times) - 1} that the mode has")
        self.pairs = torch.tensor(pairs)

    def __len__(self) -> int:
        return len(self.trajectories) * len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index is {index}; it takes one of {len(self)} pairs")
        x, lead_time, y = self.batch(torch.tensor([index % len(self)]))
        return x[0], lead_time[0], y[0]

    def batch(self, index: Int64[Tensor, " batch"]) -> Sample:
        """Return many pairs at once.

        Parameters
        ----------
        index
            Numbers of pairs.

        Returns
        -------
        tuple of Tensor
            Fields, lead times, and fields after them, one row each.
        """
        i, j = self.pairs[index % len(self.pairs)].unbind(1)
        trajectory = index // len(self.pairs)
        return self.trajectories[trajectory, i], self.times[j] - self.times[i], self.trajectories[trajectory, j]

    def draw(self, batch_size: int, generator: torch.Generator | None = None) -> Sample:
        """Return pairs that are drawn at random, with repetition.

        Parameters
        ----------
        batch_size
            How many pairs.
        generator
            Draws them; by default torch's global one.

        Returns
        -------
        tuple of Tensor
            As `batch` returns them.
        """
        return self.batch(torch.randint(len(self), (check_count("batch_size", batch_size),), generator=generator))


@dataclass(frozen=True)
class FluidNormalization:
    """How fields of fluids are shifted and scaled for published models; the defaults are those of the models.

    Parameters
    ----------
    mean
        Shift of each channel: density, two velocities, pressure.
    std
        Scale of each channel.
    horizon
        Snapshots in one unit of lead time.

    Raises
    ------
    ValueError
        For as many scales as there aren't shifts, and scales or a horizon that aren't positive.

    Examples
    --------
    >>> fluid = FluidNormalization()
    >>> u = torch.ones(1, 4, 2, 2)
    >>> bool((fluid.denormalize(fluid.normalize(u)) - u).abs().max() < 1e-6), fluid.lead_time(10)
    (True, 0.5)
    """

    mean: Sequence[float] = (0.80, 0.0, 0.0, 0.0)
    std: Sequence[float] = (0.31, 0.391, 0.356, 0.185)
    horizon: float = 20.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise ValueError(f"std has {len(self.std)} numbers; it takes {len(self.mean)}, one for each mean")
        for value in self.mean:
            check_number("mean", value)
        for value in self.std:
            check_number("std", value, gt=0)
        check_number("horizon", self.horizon, gt=0)

    @classmethod
    def with_tracer(cls) -> "FluidNormalization":
        """Return that of the models with a fifth channel, a passive tracer.

        Returns
        -------
        FluidNormalization
            The defaults, and the tracer's shift and scale after them.
        """
        return cls((*cls.mean, 0.19586183), (*cls.std, 0.37))

    def normalize(
        self, u: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Return physical fields as the network takes them.

        Parameters
        ----------
        u
            Fields with as many channels as means.

        Returns
        -------
        Tensor
            Shifted and scaled.
        """
        mean, std = self._factors(u)
        return (u - mean) / std

    def denormalize(
        self, u: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Return the network's fields in physical units.

        Parameters
        ----------
        u
            Fields with as many channels as means.

        Returns
        -------
        Tensor
            Scaled and shifted back.
        """
        mean, std = self._factors(u)
        return u * std + mean

    def lead_time(self, snapshots: float) -> float:
        """Return the lead time of a number of snapshots.

        Parameters
        ----------
        snapshots
            How many lie between the two times, of the resolution in time of the pretraining data.

        Returns
        -------
        float
            In the network's unit.
        """
        return check_number("snapshots", snapshots, ge=0) / self.horizon

    def _factors(self, u: Tensor) -> list[Tensor]:
        if u.ndim < 3 or u.shape[-3] != len(self.mean):
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes (..., {len(self.mean)}, height, width)")
        dtype = u.dtype if u.is_floating_point() else None
        return [torch.tensor(values, dtype=dtype, device=u.device)[:, None, None] for values in (self.mean, self.std)]
