"""The whole of a training: how it was run, and of each round who sent which bytes. It replays to the same weights."""

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from paperworks.optimization.zeroth_order.recipe import Memory, Recipe
from paperworks.optimization.zeroth_order.rounds import Round

_MAGIC = b"PWOB\x01\x00\x00\x00"


class TrainingLog:
    """The rounds of a training; with the first weights they give the last ones, to the bit.

    Parameters
    ----------
    recipe
        How bytes become updates.
    rounds
        The rounds so far, without gaps.

    Examples
    --------
    >>> log = TrainingLog(Recipe())
    >>> log.append(Round(0, (0.1,), 0, ((0, 1, b"@"),)))
    >>> w = torch.zeros(3)
    >>> _ = log.replay([w])
    >>> bool(w.any()), len(log)
    (True, 1)
    """

    def __init__(self, recipe: Recipe, rounds: Iterable[Round] = ()) -> None:
        self.recipe = recipe
        self.rounds: list[Round] = []
        for found in rounds:
            self.append(found)

    def __len__(self) -> int:
        return len(self.rounds)

    @property
    def t(self) -> int | None:
        """Number of the round after the last one, None where there are none."""
        return self.rounds[-1].t + 1 if self.rounds else None

    def get(self, t: int) -> Round | None:
        """Return a round.

        Parameters
        ----------
        t
            Number of the round.

        Returns
        -------
        Round or None
            The round, None where it isn't in the log.
        """
        at = t - self.rounds[0].t if self.rounds else -1
        return self.rounds[at] if 0 <= at < len(self.rounds) else None

    def append(self, found: Round) -> None:
        """Add the next round.

        Parameters
        ----------
        found
            The round after the last one.
        """
        if self.t not in (None, found.t):
            raise ValueError(f"found is round {found.t}; it takes round {self.t}")
        self.rounds.append(found)

    def to_bytes(self) -> bytes:
        """Return the log as it is sent and kept.

        Returns
        -------
        bytes
            A magic number, the recipe as JSON, and each round, all with their lengths and checksums.
        """
        records = [json.dumps(self.recipe.to_json()).encode(), *(found.to_bytes() for found in self.rounds)]
        return _MAGIC + b"".join(struct.pack("<II", len(r), zlib.crc32(r)) + r for r in records)

    @classmethod
    def from_bytes(cls, data: bytes) -> "TrainingLog":
        """Read what `to_bytes` wrote.

        Parameters
        ----------
        data
            The bytes of a log.

        Returns
        -------
        TrainingLog
            The log that was written.

        Raises
        ------
        ValueError
            Where it isn't one, or isn't whole.
        """
        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"data begins with {data[:8]!r}; it takes a training log of version 1")
        records: list[bytes] = []
        at = len(_MAGIC)
        while at < len(data):
            size, check = struct.unpack("<II", data[at : at + 8].ljust(8, b"\0"))
            record = data[at + 8 : at + 8 + size]
            if len(record) != size or zlib.crc32(record) != check or at + 8 > len(data):
                raise ValueError(f"data is broken at byte {at} of {len(data)}, after {max(0, len(records) - 1)} rounds")
            records.append(record)
            at += 8 + size
        if not records:
            raise ValueError("data has no recipe; it takes a training log")
        try:
            recipe = json.loads(records[0])
        except RecursionError:
            raise ValueError("data has a recipe of endless depth; it takes a training log") from None
        return cls(Recipe.from_json(recipe), map(Round.from_bytes, records[1:]))

    def save(self, path: str | Path) -> None:
        """Write the log to a file, in one step.

        Parameters
        ----------
        path
            Where it goes.
        """
        path = Path(path)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(self.to_bytes())
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    @classmethod
    def load(cls, path: str | Path) -> "TrainingLog":
        """Read a log from a file.

        Parameters
        ----------
        path
            Where `save` wrote it.

        Returns
        -------
        TrainingLog
            The log in the file.

        Raises
        ------
        ValueError
            Where the file is no log, or isn't whole.
        """
        return cls.from_bytes(Path(path).read_bytes())

    def replay(self, model: torch.nn.Module | Iterable[Tensor] | torch.optim.Optimizer) -> Memory:
        """Apply all rounds to the weights that the training began with.

        Parameters
        ----------
        model
            A network, whose parameters that require a gradient are trained; or tensors, one group; or an optimiser,
            by its groups.

        Returns
        -------
        Memory
            What the last update leaves to the next one.

        Raises
        ------
        ValueError
            Where the rounds before the log's first one would be needed, for momentum, Adam or the learned scale.
        """
        if isinstance(model, torch.optim.Optimizer):
            groups = [group["params"] for group in model.param_groups]
        elif isinstance(model, torch.nn.Module):
            groups = [[p for p in model.parameters() if p.requires_grad]]
        else:
            groups = [list(model)]
        return self._replay(groups)

    def memory(self, groups: Sequence[Sequence[Tensor]]) -> Memory:
        """Return what the last update leaves to the next one, without the weights that the training began with.

        Parameters
        ----------
        groups
            Tensors of the parameters' shapes, which stay as they are.

        Returns
        -------
        Memory
            Moments and scale.

        Raises
        ------
        ValueError
            As in `replay`.
        """
        if not self.recipe.remembers:
            return Memory()
        return self._replay([[torch.zeros_like(p) for p in group] for group in groups])

    def _replay(self, groups: Sequence[Sequence[Tensor]]) -> Memory:
        if self.rounds and self.rounds[0].t and self.recipe.remembers:
            raise ValueError(f"the log begins with round {self.rounds[0].t}; it takes one from round 0 on, "
                             f"for {self.recipe.rule}")  # fmt: skip
        for found in self.rounds:  # nothing changes where one of them is wrong
            self.recipe.check(found, len(groups))
        memory = Memory()
        for found in self.rounds:
            self.recipe.apply(groups, found, memory)
        return memory
