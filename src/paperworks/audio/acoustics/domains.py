"""Large rooms in parts: one network for each part, joined by weights that add up to one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from paperworks.audio.acoustics.deeponet import AcousticDeepONet
from paperworks.core.validation import check_count, check_number


@dataclass(frozen=True)
class PartitionOfUnity:
    """Overlapping boxes with smooth weights that add up to one in their union.

    A box's weight is a product over the axes of ``6 s^5 - 15 s^4 + 10 s^3`` of the distance to its ends / `margin`,
    divided by the sum over the boxes, so that fields have two continuous derivatives where networks meet. Ends of the
    union itself have no ramp.

    Parameters
    ----------
    boxes
        Lowest and highest corner of each box, (boxes, 2, d), in metres.
    margin
        Width of the ramps in metres, at most the overlap.

    Raises
    ------
    ValueError
        For boxes without volume, or a margin that isn't positive.

    References
    ----------
    arXiv:2308.05141, domain decomposition.

    Examples
    --------
    >>> parts = PartitionOfUnity([[[0.0], [1.2]], [[0.8], [2.0]]], margin=0.4)
    >>> parts.weights([[0.5], [1.0], [1.1]]).round(3).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.104, 0.896]]
    """

    boxes: Any
    margin: float

    def __post_init__(self) -> None:
        try:
            boxes = np.asarray(self.boxes, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"boxes is {self.boxes!r}; it takes numbers (boxes, 2, d)") from None
        whole = boxes.ndim == 3 and boxes.shape[1] == 2 and np.isfinite(boxes).all()
        if not whole or not boxes.size or not (boxes[:, 0] < boxes[:, 1]).all():
            raise ValueError(
                f"boxes has shape {boxes.shape}; it takes finite (boxes, 2, d), lowest corners before highest"
            )
        object.__setattr__(self, "boxes", boxes)
        check_number("margin", self.margin, gt=0)

    @classmethod
    def of_grid(cls, size: Sequence[float], counts: Sequence[int], overlap: float) -> "PartitionOfUnity":
        """Return a box of equal parts.

        Parameters
        ----------
        size
            Lengths of the sides in metres.
        counts
            Parts along each axis.
        overlap
            Width in metres that neighbours share, which is also the margin.

        Returns
        -------
        PartitionOfUnity
            The parts, the last axis running fastest.
        """
        check_number("overlap", overlap, gt=0)
        if len(counts) != len(size):
            raise ValueError(f"counts has {len(counts)} numbers; it takes one for each of {len(size)} sides")
        spans = []
        for side, count in zip(size, counts, strict=True):
            ends = np.linspace(0, side, check_count("counts", count) + 1)
            if count > 1 and overlap >= side / count:
                raise ValueError(f"overlap is {overlap}; it takes less than a part of {side / count:g} m")
            spans.append([(max(a - overlap / 2, 0.0), min(b + overlap / 2, side)) for a, b in itertools.pairwise(ends)])
        return cls(np.array([np.transpose(part) for part in itertools.product(*spans)]), overlap)

    def contains(self, points: ArrayLike) -> Bool[np.ndarray, "n boxes"]:
        """Say which points are in which boxes, to split a room's data among the networks.

        Parameters
        ----------
        points
            (n, d) in metres.

        Returns
        -------
        ndarray
            A truth value for each point and box.
        """
        x = np.atleast_2d(np.asarray(points, np.float64))[:, None]
        slack = 1e-6 * float(np.ptp(self.boxes))
        return np.asarray(((x >= self.boxes[:, 0] - slack) & (x <= self.boxes[:, 1] + slack)).all(-1))

    def weights(self, points: ArrayLike) -> Float[np.ndarray, "n boxes"]:
        """Return the weight of each box at points.

        Parameters
        ----------
        points
            (n, d) in metres.

        Returns
        -------
        ndarray
            Weights from 0 to 1, whose rows add up to one.

        Raises
        ------
        ValueError
            For a point in no box.
        """
        x = np.atleast_2d(np.asarray(points, np.float64))
        if x.shape[1] != self.boxes.shape[2]:
            raise ValueError(f"points has shape {x.shape}; it takes (n, {self.boxes.shape[2]})")
        low, high = self.boxes[:, 0], self.boxes[:, 1]
        rising = np.where(low == low.min(0), 1.0, _smooth((x[:, None] - low) / self.margin))
        falling = np.where(high == high.max(0), 1.0, _smooth((high - x[:, None]) / self.margin))
        inside = self.contains(x)
        raw = (rising * falling).prod(-1) * inside
        # At the ends of boxes that meet no other, such as a wall of an L, ramps leave nothing.
        raw = np.where(raw.sum(1, keepdims=True) > 0, raw, inside)
        total = raw.sum(1, keepdims=True)
        if not (total > 0).all():
            raise ValueError(f"points has {x[total[:, 0] <= 0][0].tolist()}, which is inside no box")
        return np.asarray(raw / total)


class DecomposedDeepONet(nn.Module):
    """Networks of parts of a room, of which each answers for sources and receivers in its boxes.

    Parameters
    ----------
    models
        A network for each box of receivers; with a partition of sources, a row of them for each box of sources, flat.
        All have frames of the whole room.
    receivers
        Boxes of the receivers.
    sources
        Boxes of the sources; one for all by default.

    Raises
    ------
    ValueError
        For another number of networks.

    References
    ----------
    arXiv:2308.05141, domain decomposition.

    Examples
    --------
    >>> from paperworks.audio.acoustics import Room, RoomFrame, make_acoustic_deeponet
    >>> frame = RoomFrame(Room((4.0,)))
    >>> models = [make_acoustic_deeponet(frame, hidden=8, q=4) for _ in range(2)]
    >>> whole = DecomposedDeepONet(models, PartitionOfUnity.of_grid((4.0,), (2,), overlap=0.5))
    >>> whole.impulse_response([1.0], [[0.5], [2.0], [3.0]], np.linspace(0, 0.01, 9)).shape
    torch.Size([1, 3, 9])
    """

    def __init__(
        self,
        models: Sequence[AcousticDeepONet],
        receivers: PartitionOfUnity,
        sources: PartitionOfUnity | None = None,
    ) -> None:
        super().__init__()
        wanted = len(receivers.boxes) * (1 if sources is None else len(sources.boxes))
        if len(models) != wanted:
            raise ValueError(f"models has {len(models)} networks; it takes {wanted}")
        self.models = nn.ModuleList(models)
        self.receivers, self.sources = receivers, sources

    @torch.no_grad()
    def impulse_response(
        self, source_pos: ArrayLike, receiver_pos: ArrayLike, times: ArrayLike
    ) -> Float[Tensor, "batch receivers times"]:
        """Return the pressure over time at receivers; only networks whose boxes they are in are asked.

        Parameters
        ----------
        source_pos
            One source (d,) or several (batch, d), in metres.
        receiver_pos
            Receivers (receivers, d) in metres.
        times
            Times in seconds.

        Returns
        -------
        Tensor
            Pressure (batch, receivers, times) in Pa.

        Raises
        ------
        ValueError
            For places in no box.
        """
        x0, x = np.atleast_2d(np.asarray(source_pos, np.float64)), np.atleast_2d(np.asarray(receiver_pos, np.float64))
        of_receivers = self.receivers.weights(x)
        of_sources = np.ones((len(x0), 1)) if self.sources is None else self.sources.weights(x0)
        found = torch.zeros(len(x0), len(x), len(np.asarray(times).reshape(-1)))
        for number, model in enumerate(self.models):
            i, j = divmod(number, of_receivers.shape[1])
            rows, columns = np.flatnonzero(of_sources[:, i]), np.flatnonzero(of_receivers[:, j])
            if not len(rows) or not len(columns):
                continue
            assert isinstance(model, AcousticDeepONet)
            part = model.impulse_response(x0[rows], x[columns], times).to(found)
            weight = torch.as_tensor(np.outer(of_sources[rows, i], of_receivers[columns, j]), dtype=part.dtype)
            found[np.ix_(rows, columns)] += weight[:, :, None] * part
        return found


def _smooth(s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return a step from 0 to 1 with two continuous derivatives."""
    s = np.clip(s, 0, 1)
    return np.asarray(s**3 * (10 - 15 * s + 6 * s**2))
