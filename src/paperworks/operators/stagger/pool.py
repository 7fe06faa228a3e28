"""States that a solver trains on: its own predictions, and fresh ones in place of those that grew old."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paperworks.core.validation import check_count, check_number

Blocks = Float[Tensor, "rows times channels *grid"]
Sampler = Callable[[int, torch.Generator | None], Tensor]
_TRIES = 10


class StatePool:
    """Blocks of states to train on, without labels: predictions go back in, and old ones are replaced.

    Parameters
    ----------
    sampler
        ``sampler(count, generator)`` returns so many fresh blocks, (count, times, channels, *grid), each with as many
        consecutive states as the model starts from.
    size
        Number of blocks that are kept.
    max_age
        Predictions after which a block is replaced: a number, or a function of the training step, such as
        `late_growth`. 1 by default, with which all blocks are fresh.
    generator
        torch's generator for the rows that are drawn and for the sampler; the global one by default.
    limit
        Greatest absolute value of a state that hasn't diverged, such as a few times that of fresh ones where the
        equation keeps states bounded; none by default. One that explodes would else outweigh all others for long
        before it is infinite.

    Attributes
    ----------
    blocks
        The blocks, (size, times, channels, *grid).
    ages
        How many predictions ago each was fresh.
    dropped
        How many blocks were replaced since they had diverged.

    Raises
    ------
    ValueError
        For a size below 1, a limit that isn't positive, or a sampler that returns another shape than it was asked for.
    TypeError
        For a sampler that returns no tensor, or whole numbers, to which predictions would be rounded.
    FloatingPointError
        Where the sampler keeps on returning blocks that have diverged.

    References
    ----------
    Huang and others, arXiv:2302.10255, training on states that the solver generates itself.

    Examples
    --------
    >>> pool = StatePool(lambda count, generator: torch.zeros(count, 1, 1, 8), size=4, max_age=2)
    >>> rows, blocks = pool.draw(2)
    >>> pool.put(rows, torch.stack([blocks[0] + 1, blocks[1] + torch.nan]))
    >>> float(pool.blocks.sum()), pool.dropped
    (8.0, 1)
    """

    def __init__(
        self,
        sampler: Sampler,
        size: int,
        max_age: int | Callable[[int], int] = 1,
        generator: torch.Generator | None = None,
        *,
        limit: float = math.inf,
    ) -> None:
        self.sampler, self.generator, self.dropped = sampler, generator, 0
        self.limit = check_number("limit", limit, gt=0) if limit != math.inf else math.inf
        self.max_age = max_age if callable(max_age) else check_count("max_age", max_age)
        self.ages = torch.zeros(check_count("size", size), dtype=torch.long)
        self.blocks = torch.empty(0)  # of any shape, until the sampler says which
        self.blocks = self._fresh(size)

    def draw(self, batch_size: int) -> tuple[Int[Tensor, " rows"], Blocks]:
        """Draw blocks without replacement.

        Parameters
        ----------
        batch_size
            Number of blocks, at most the size of the pool.

        Returns
        -------
        tuple of Tensor
            The rows, which `put` takes, and the blocks.

        Raises
        ------
        ValueError
            For a number out of bounds.
        """
        check_count("batch_size", batch_size, at_most=len(self.ages))
        at = None if self.generator is None else self.generator.device
        rows = torch.randperm(len(self.ages), generator=self.generator, device=at)[:batch_size].cpu()
        return rows, self.blocks[rows.to(self.blocks.device)]

    def diverged(self, blocks: Blocks) -> Bool[Tensor, " rows"]:
        """Tell which blocks have values that are NaN, infinite, or beyond the limit.

        Parameters
        ----------
        blocks
            Blocks of any number of states.

        Returns
        -------
        Tensor
            One truth value for each block.
        """
        sizes = blocks.detach().flatten(1).abs()
        return ~(torch.isfinite(sizes) & (sizes <= self.limit)).all(1)

    @torch.no_grad()
    def put(self, rows: Int[Tensor, " rows"], blocks: Blocks, step: int = 0) -> None:
        """Put predictions back, one older; replace by fresh blocks what is too old, and drop what has diverged.

        Parameters
        ----------
        rows
            The rows that `draw` returned.
        blocks
            The next block of each.
        step
            The training step, which decides the greatest age.

        Raises
        ------
        ValueError
            For blocks of another shape.
        """
        kept = self.blocks.shape[1]
        wanted = (len(rows), *self.blocks.shape[2:])
        fits = blocks.ndim == self.blocks.ndim and (len(blocks), *blocks.shape[2:]) == wanted
        if not fits or blocks.shape[1] < kept:
            raise ValueError(
                f"blocks has shape {tuple(blocks.shape)}; it takes {(len(rows), *self.blocks.shape[1:])}, or more times"
            )
        limit = check_count("max_age", self.max_age(step)) if callable(self.max_age) else self.max_age
        bad = self.diverged(blocks).cpu()
        self.dropped += int(bad.sum())
        self.ages[rows] += 1
        self.blocks[rows.to(self.blocks.device)] = blocks[:, -kept:].detach().to(self.blocks)
        replaced = rows[bad | (self.ages[rows] >= limit)]
        if len(replaced):
            self.blocks[replaced.to(self.blocks.device)] = self._fresh(len(replaced))
            self.ages[replaced] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs.

        Returns
        -------
        dict
            Blocks, ages, the count of what was dropped, and the generator's state.
        """
        generator = None if self.generator is None else self.generator.get_state()
        # Copies, since the pool writes into its own.
        blocks, ages = self.blocks.clone(), self.ages.clone()
        return {"blocks": blocks, "ages": ages, "dropped": self.dropped, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Parameters
        ----------
        state
            What `state_dict` returned.

        Raises
        ------
        ValueError
            For a state of a pool of other blocks, or where only one of both has a generator of its own.
        """
        if state["blocks"].shape != self.blocks.shape:
            raise ValueError(f"state has blocks of {tuple(state['blocks'].shape)}; it takes {tuple(self.blocks.shape)}")
        if (state["generator"] is None) != (self.generator is None):
            one, other = ("no", "one") if state["generator"] is None else ("a", "none")
            raise ValueError(f"state is of a pool with {one} generator of its own; this pool has {other}")
        self.blocks = state["blocks"].to(self.blocks).clone()
        self.ages, self.dropped = state["ages"].clone(), int(state["dropped"])
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _fresh(self, count: int) -> Tensor:
        found: list[Tensor] = []
        missing = count
        for _ in range(_TRIES):
            blocks = self.sampler(missing, self.generator)
            if not isinstance(blocks, Tensor) or not (blocks.is_floating_point() or blocks.is_complex()):
                kind = blocks.dtype if isinstance(blocks, Tensor) else type(blocks).__name__
                raise TypeError(
                    f"sampler returned {kind}; it takes one that returns a tensor of floating point numbers"
                )
            known = self.blocks.shape[1:] if self.blocks.ndim > 1 else blocks.shape[1:]
            if blocks.ndim < 4 or len(blocks) != missing or blocks.shape[1:] != known:
                raise ValueError(
                    f"sampler returned {tuple(blocks.shape)}; it takes ({missing}, times, channels, *grid)"
                )
            good = ~self.diverged(blocks)
            found.append(blocks[good].detach())
            missing -= int(good.sum())
            if not missing:
                return torch.cat(found)
            self.dropped += missing
        raise FloatingPointError(f"sampler returned blocks that have diverged {_TRIES} times in turn")


def late_growth(steps: int, horizon: int, fresh: float = 0.5) -> Callable[[int], int]:
    """Return a greatest age that is 1 at first, and then grows evenly to a horizon.

    Parameters
    ----------
    steps
        Steps of the whole training.
    horizon
        Blocks of the longest rollout, which the age comes to in the end.
    fresh
        Share of the training in which all states are fresh. Half by default: states that a young solver made are
        rough, and to train on them early keeps it from learning anything.

    Returns
    -------
    callable
        From a training step to an age, as `StatePool` takes it.

    Raises
    ------
    ValueError
        For counts below 1, or a share outside [0, 1].

    References
    ----------
    An extension of arXiv:2302.10255, which doesn't say how long states are kept.

    Examples
    --------
    >>> age = late_growth(100, horizon=5)
    >>> [age(step) for step in (0, 49, 60, 80, 99)]
    [1, 1, 2, 4, 5]
    """
    check_count("steps", steps), check_count("horizon", horizon)
    start = check_number("fresh", fresh, ge=0, le=1) * steps

    def age(step: int) -> int:
        share = (step + 1 - start) / max(1.0, steps - start)
        return min(horizon, 1 + math.ceil((horizon - 1) * max(0.0, share)))

    return age
