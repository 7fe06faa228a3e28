"""A solver made of small networks, each of which takes one coarse piece of a field a long step forward."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics import functional_call
from paperworks.operators.refiner import RolloutDiverged
from paperworks.operators.stagger.splitting import (
    check_divisible,
    check_factors,
    check_mask,
    stagger_merge,
    stagger_split,
)

Block = Float[Tensor, "batch times channels *grid"]
Next = Float[Tensor, "batch ahead channels *grid"]
Pieces = Float[Tensor, "batch times pieces channels *coarse"]
NextPieces = Float[Tensor, "batch ahead pieces channels *coarse"]
Boundary = str | float
Mode = Literal["full", "coarse-space", "coarse-time", "coarsest"]


class NeuralStagger(nn.Module):
    r"""A neural solver that predicts interleaved coarse pieces of a field, each by a small network of its own.

    In space, piece (i, j) of :math:`s_1 \times s_2` is a field of its own on a coarse grid (`stagger_split`). In time,
    networks step over :math:`s_T` fine steps at once, so that :math:`s_T` interleaved sequences run side by side; each
    call takes a block of :math:`s_T` states to the next one. Only the loss sees the merged fine field
    (`physics_loss`). Before it is trained, the solver changes nothing.

    Parameters
    ----------
    backbone_factory
        Called without arguments for each piece, returns its network: from (batch, channels, *coarse), with one more
        channel where there is a mask, to (batch, channels, *coarse), or (batch, time_factor * channels, *coarse) for
        the temporal variant "bundle". The network predicts the change of a state.
    factors
        By what each axis of the grid is divided, one number for each; (2, 2) by default. Their number is that of the
        axes: 1, 2 or 3.
    time_factor
        Fine steps in a step of the networks; 1 by default.
    channels
        Channels of the fields; 1 by default.
    share_weights
        Whether one network serves all pieces, for equations that are the same everywhere; False by default, the
        paper's.
    temporal
        "interleave" steps each state of a block over `time_factor` fine steps, and needs as many consecutive states to
        start from; "bundle" predicts the whole next block from the last state alone.
    grouped
        Whether the networks of all pieces run as one, their weights stacked and each convolution a grouped one. By
        default where the fields are on an accelerator: on processors one after the other takes a quarter less time.
        Networks with buffers, such as the statistics of normalisation, are trained one after the other.
    zero_init
        Whether the last layer of each network that has weights, in the order in which it was given its layers, starts
        at zero. True by default: independent networks would else make the merged field rough. A backbone whose output
        layer is another one starts it at zero itself.
    boundary
        What lies beyond the grid, for all axes or one for each: "periodic", "neumann", which repeats the outermost
        values, or a number, the value beyond. Only used with a `halo`.
    halo
        Points by which every piece is padded on each side, and its prediction cut; at least the reach of a backbone
        whose own padding isn't the boundary's. 0 by default.
    mask
        Obstacles: of the grid's shape, 1 in the domain and 0 in obstacles, where fields stay as they are. Networks see
        it, split like the fields, as one more channel.

    Attributes
    ----------
    networks
        The networks, in the order of `stagger_split`; a single one with `share_weights`. Each is a coarse solver.
    pieces
        Number of pieces.

    Raises
    ------
    ValueError
        For factors or counts below 1, an unknown variant or boundary, a factory that returns one module twice, or a
        mask that the factors don't divide or of other numbers than 0 and 1.
    TypeError
        Where the factory returns no module, or the mask is no tensor.

    References
    ----------
    Huang and others, arXiv:2302.10255: the decomposition; the temporal variants, the zero start and the padding are
    this library's reading of it.

    Examples
    --------
    >>> def backbone():
    ...     return nn.Conv1d(1, 1, 5, padding=2, padding_mode="circular")
    >>> model = NeuralStagger(backbone, factors=(4,), time_factor=2)
    >>> model(torch.zeros(3, 2, 1, 64)).shape
    torch.Size([3, 2, 1, 64])
    >>> model.rollout(torch.zeros(3, 1, 64), 6, mode="coarsest").shape  # one piece, every other time
    torch.Size([3, 4, 1, 16])
    """

    mask: Tensor | None

    def __init__(
        self,
        backbone_factory: Callable[[], nn.Module],
        factors: int | Sequence[int] = (2, 2),
        time_factor: int = 1,
        *,
        channels: int = 1,
        share_weights: bool = False,
        temporal: Literal["interleave", "bundle"] = "interleave",
        grouped: bool | None = None,
        zero_init: bool = True,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        halo: int = 0,
        mask: Shaped[Tensor, "*grid"] | None = None,
    ) -> None:
        super().__init__()
        self.factors, self.time_factor = check_factors(factors), check_count("time_factor", time_factor)
        self.channels, self.halo = check_count("channels", channels), check_count("halo", halo, at_least=0)
        self.temporal = check_choice("temporal", temporal, ("interleave", "bundle"))
        self.grouped, self.pieces = grouped, math.prod(self.factors)
        self.boundary = _boundaries(boundary, len(self.factors))
        made = [backbone_factory() for _ in range(1 if share_weights else self.pieces)]
        if not all(isinstance(network, nn.Module) for network in made):
            raise TypeError(f"backbone_factory returned {type(made[0]).__name__}; it takes one that returns a module")
        if len(set(map(id, made))) < len(made):
            raise ValueError(
                "backbone_factory returned one module twice; it takes a new one for each, or share_weights"
            )
        self.networks = nn.ModuleList(made)
        if zero_init:
            for network in made:
                _zero_last(network)
        if mask is not None:
            if check_mask(mask).ndim != len(self.factors):
                raise ValueError(f"mask has shape {tuple(mask.shape)}; it takes a grid of {len(self.factors)} axes")
            mask = stagger_split(mask[None, None].to(torch.get_default_dtype()), self.factors)[0]
        self.register_buffer("mask", mask)

    @property
    def needed(self) -> int:
        """The number of consecutive states that a start takes: a whole block, or one for the variant "bundle"."""
        return 1 if self.temporal == "bundle" else self.time_factor

    def forward(self, block: Block) -> Next:
        """Return the block of states after a block.

        Parameters
        ----------
        block
            Consecutive states, (batch, time_factor, channels, *grid); the variant "bundle" takes any number of them,
            and looks at the last.

        Returns
        -------
        Tensor
            The next `time_factor` states, (batch, time_factor, channels, *grid).

        Raises
        ------
        ValueError
            For a block of another shape, or a grid that the factors don't divide.
        """
        self._check(block)
        return self._merged(self.advance(self._split(block)))

    def advance(self, pieces: Pieces, chosen: Sequence[int] | None = None) -> NextPieces:
        """Return pieces of the next block: the small networks alone, whose calls can run in parallel.

        Parameters
        ----------
        pieces
            (batch, times, pieces, channels, *coarse), of consecutive states or, with "interleave", of any.
        chosen
            Which pieces they are, by their numbers; all by default.

        Returns
        -------
        Tensor
            The same pieces of the states `time_factor` steps later, or with "bundle" of the next `time_factor`.

        Raises
        ------
        ValueError
            For another number of pieces than were chosen, other channels, or a halo wider than a periodic piece.
        """
        at = range(self.pieces) if chosen is None else [check_count("chosen", i, at_least=0) for i in chosen]
        wanted = (*pieces.shape[:2], len(at), self.channels)
        fits = pieces.ndim == 4 + len(self.factors) and tuple(pieces.shape[:4]) == wanted and pieces.shape[1]
        if not (fits and at and max(at) < self.pieces):
            raise ValueError(
                f"pieces has shape {tuple(pieces.shape)}; it takes (batch, times, {len(at)}, {self.channels}, "
                f"*coarse), numbers of pieces below {self.pieces}"
            )
        x = pieces[:, -1:] if self.temporal == "bundle" else pieces
        change = self._networks(self._seen(x.flatten(0, 1), at), at)
        if self.halo:
            for axis in range(-len(self.factors), 0):
                change = change.narrow(axis, self.halo, change.shape[axis] - 2 * self.halo)
        heads = self.time_factor if self.temporal == "bundle" else 1
        shape = (heads * self.channels, *x.shape[4:])
        if tuple(change.shape[2:]) != shape:
            raise ValueError(
                f"backbone returned {tuple(change.shape[2:])} for a piece; it takes {shape} (channels, *coarse)"
            )
        if self.mask is not None:
            change = change * self.mask[list(at)].to(change.dtype)
        if self.temporal == "bundle":  # every head's change is that from the last known state
            return x + change.unflatten(2, (heads, self.channels)).movedim(2, 1)
        return x + change.unflatten(0, x.shape[:2])

    def rollout(
        self,
        u0: Float[Tensor, "batch channels *grid"],
        steps: int,
        warmup: Callable[[Tensor, int], Tensor] | None = None,
        mode: Mode = "full",
        piece: int = 0,
    ) -> Float[Tensor, "batch states channels *any"]:
        """Step forward again and again; gradients flow through all of it.

        Parameters
        ----------
        u0
            States at the start, on the fine grid.
        steps
            Number of fine steps.
        warmup
            Solver of the first `time_factor` - 1 steps, ``warmup(u0, n)`` returns the n states after `u0`, as
            `PhysicsResidual.solve` does. Needed with "interleave" where every fine time is asked for.
        mode
            "full": the fine grid at every fine step; "coarse-space": one piece at every step; "coarse-time": the fine
            grid at every `time_factor`-th step, one of the interleaved sequences; "coarsest": one piece of that.
        piece
            The number of the piece of coarse modes in space; 0 by default.

        Returns
        -------
        Tensor
            The states with `u0` first, steps + 1 of them, or in modes that are coarse in time steps / time_factor
            + 1; with one piece, on the coarse grid.

        Raises
        ------
        ValueError
            For shapes that don't fit, no solver for the warm-up where one is needed, or a number of steps that
            `time_factor` doesn't divide in modes that are coarse in time.
        RolloutDiverged
            Where a state is NaN or infinite: what came before is in its `states`.
        """
        check_choice("mode", mode, ("full", "coarse-space", "coarse-time", "coarsest"))
        check_count("steps", steps), check_count("piece", piece, at_least=0, at_most=self.pieces - 1)
        rare, alone = mode in ("coarse-time", "coarsest"), mode in ("coarse-space", "coarsest")
        stride = self.time_factor if rare else 1
        if steps % stride:
            raise ValueError(f"steps is {steps}; mode {mode!r} takes a multiple of time_factor, {stride}")
        block = u0[:, None] if rare else self._warmed(u0, warmup)
        self._check(block, any_times=True)
        chosen = [piece] if alone else list(range(self.pieces))
        x = self._split(block)[:, : steps // stride + 1, chosen]
        states, found = [x], x.shape[1]
        while found < steps // stride + 1:
            x = self.advance(x, chosen)
            if rare:
                x = x[:, -1:]
            x = x[:, : steps // stride + 1 - found]
            bad = ~torch.isfinite(x).flatten(2).all(2).all(0)
            if bad.any():
                good = int(bad.nonzero()[0])
                before = torch.cat([*states, x[:, :good]], 1)
                raise RolloutDiverged(found + good, before[:, :, 0] if alone else self._merged(before))
            states.append(x)
            found += x.shape[1]
        rolled = torch.cat(states, 1)
        return rolled[:, :, 0] if alone else self._merged(rolled)

    def _warmed(self, u0: Tensor, warmup: Callable[[Tensor, int], Tensor] | None) -> Tensor:
        missing = self.needed - 1
        if not missing:
            return u0[:, None]
        if warmup is None:
            raise ValueError(
                f"warmup is None; {self.time_factor} interleaved sequences take a solver of the first {missing} steps"
            )
        first = warmup(u0, missing)
        if first.shape != (len(u0), missing, *u0.shape[1:]):
            raise ValueError(f"warmup returned {tuple(first.shape)}; it takes {(len(u0), missing, *u0.shape[1:])}")
        return torch.cat([u0[:, None], first], 1)

    def _check(self, block: Tensor, *, any_times: bool = False) -> None:
        free = any_times or self.temporal == "bundle"
        fits = block.ndim == 3 + len(self.factors) and block.shape[2] == self.channels
        if not fits or (not free and block.shape[1] != self.time_factor):
            times = "times" if free else self.time_factor
            axes = f"a grid of {len(self.factors)} axes"
            raise ValueError(
                f"block has shape {tuple(block.shape)}; it takes (batch, {times}, {self.channels}, *grid), {axes}"
            )
        check_divisible("block", block.shape[3:], self.factors)
        coarse = tuple(n // s for n, s in zip(block.shape[3:], self.factors, strict=True))
        if self.mask is not None and tuple(self.mask.shape[2:]) != coarse:
            raise ValueError(f"block has a grid of {tuple(block.shape[3:])}, which isn't that of the mask")

    def _split(self, block: Tensor) -> Tensor:
        return stagger_split(block.flatten(0, 1), self.factors).unflatten(0, block.shape[:2])

    def _merged(self, pieces: Tensor) -> Tensor:
        return stagger_merge(pieces.flatten(0, 1), self.factors).unflatten(0, pieces.shape[:2])

    def _seen(self, x: Tensor, at: Sequence[int]) -> Tensor:
        """Add the mask and what lies beyond the boundary."""
        if self.mask is not None:
            mask = self.mask[list(at)].to(x.dtype)
            x = torch.cat([x, mask.expand(len(x), *mask.shape)], 2)
        if self.halo:
            flat, dims = x.flatten(0, 1), len(self.factors)
            sides = [n for n, kind in zip(x.shape[3:], self.boundary, strict=True) if kind == "periodic"]
            if sides and self.halo > min(sides):
                raise ValueError(f"halo is {self.halo}; it takes at most the {min(sides)} points of a periodic piece")
            for axis, kind in enumerate(self.boundary):
                widths = [0, 0] * dims
                widths[2 * (dims - 1 - axis) : 2 * (dims - axis)] = [self.halo, self.halo]
                mode = {"periodic": "circular", "neumann": "replicate"}.get(str(kind), "constant")
                flat = functional.pad(flat, widths, mode, float(kind) if mode == "constant" else None)
            x = flat.unflatten(0, x.shape[:2])
        return x

    def _networks(self, x: Tensor, at: Sequence[int]) -> Tensor:
        if len(self.networks) == 1:
            answers: Tensor = self.networks[0](x.flatten(0, 1))
            return answers.unflatten(0, tuple(x.shape[:2]))
        # Layers that keep statistics change their buffers, which a stack of copies would lose.
        learns = self.training and next(self.networks.buffers(), None) is not None
        if len(at) > 1 and not learns and (x.device.type != "cpu" if self.grouped is None else self.grouped):
            states = [{**dict(net.named_parameters()), **dict(net.named_buffers())} for net in map(self._network, at)]
            stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
            network = self._network(at[0])

            def one(state: dict[str, Tensor], seen: Tensor) -> Any:
                return functional_call(network, state, (seen,))

            return vmap(one, in_dims=(0, 1), out_dims=1, randomness="different")(stacked, x)
        return torch.stack([self._network(i)(x[:, k]) for k, i in enumerate(at)], 1)

    def _network(self, i: int) -> nn.Module:
        return self.networks[i]


def _zero_last(network: nn.Module) -> None:
    layers = [layer for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    for p in layers[-1].parameters(recurse=False) if layers else ():
        nn.init.zeros_(p)


def _boundaries(boundary: Any, dims: int) -> tuple[Boundary, ...]:
    kinds = list(boundary) if isinstance(boundary, list | tuple) else [boundary] * dims
    if len(kinds) != dims:
        raise ValueError(f"boundary has {len(kinds)} kinds; it takes one, or one for each of {dims} axes")
    return tuple(
        check_choice("boundary", kind, ("periodic", "neumann"))
        if isinstance(kind, str)
        else check_number("boundary", kind)
        for kind in kinds
    )
