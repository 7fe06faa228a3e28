"""The array that tensors share, with the scaler of its gradient that makes training independent of its scale."""

import math
from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from fractions import Fraction
from numbers import Rational
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.training.sharing.kernels import Piece, Recover, Scaled, by_slices, fold, kept_index
from paperworks.training.sharing.maps import Mapping, ShareMap

Scaler = Literal["v1", "v2", "v3", "v4", "v5", "adam", "none"]


class SharedParameter(nn.Module):
    r"""An array of m numbers of which n weights are signed and scaled copies: ``w_t = scale * g_t * values[h(t)]``.

    Each tensor's scale is the standard deviation that it should begin with, over that of the array. The gradient of
    an entry is divided by a number made of its weights' scales: with c of them, A their sum, B that of their squares,

    ======== ======================================= ===================================================
    `scaler` gradient divided by
    ======== ======================================= ===================================================
    ``v1``   ``A^2 / c``, the authors' default       a step of SGD moves weights by the mean of signed
                                                     gradients, whatever `init_std` is
    ``v2``   ``A``
    ``v3``   ``A / c``
    ``v4``   ``sqrt(B)``
    ``v5``   ``B``                                   as v1 where the scales are equal, otherwise smaller steps
    ``none`` 1                                       steps grow by ``1 / init_std^2``: ROAST and its defect
    ``adam`` 1                                       for optimisers whose steps don't depend on the scale of gradients
                                                     (ours): `values` are kept in units of the weights, times
                                                     ``sqrt(B / c)``, so that the same rate moves weights as without
                                                     sharing
    ======== ======================================= ===================================================

    The gradient is divided in the backward pass, so that accumulation, clipping, momentum and weight decay act after
    it, with any optimiser; `torch.autograd.grad` sees it divided too. Nothing else is stored: entries and signs are
    computed anew each time from the seed. The divisors are made when the first gradient is asked for.

    Parameters
    ----------
    n_total
        Weights that tensors can take in all.
    compression
        How many times fewer numbers are stored, at least 1; ``m = n_total div compression``, at least 1.
    num_params
        m itself, instead of `compression`.
    mapping, random_state, block
        As in `ShareMap`; the seed is also that of the array.
    init_std
        Standard deviation of the array, uniform about 0. 0.04 as in the authors' code.
    scaler
        One of those above.
    cache
        Whether to keep indices instead of computing them each time: a bit a weight for ``randomfold``, its sign, and 4
        bytes for the other maps, which are much faster with them.
    legacy_scale
        Draw the array from -init_std to init_std, as the authors' code does, which makes weights smaller by sqrt(3).
    recompute
        Whether to recover a layer's weights again for its backward pass instead of keeping them from the forward
        pass, so that never more than one layer's exist.
    device, dtype
        Where the array lies, and of which numbers.

    Raises
    ------
    ValueError
        For a compression below 1, not one of `compression` and `num_params`, the meta device, or what `ShareMap`
        refuses; on loading, for a state whose map is another.
    TypeError
        For a dtype that isn't floating, of 16 bits or more.

    References
    ----------
    arXiv 2310.11611, the sections on gradient scaling and on mapping functions.

    Examples
    --------
    >>> store = SharedParameter(24, compression=4)
    >>> piece = store.add((4, 6), std=0.5)
    >>> store.values.shape, store.weight(piece).shape
    (torch.Size([6]), torch.Size([4, 6]))
    """

    values: nn.Parameter

    def __init__(
        self,
        n_total: int,
        *,
        compression: float | None = None,
        num_params: int | None = None,
        mapping: Mapping = "randomfold",
        random_state: int = 0,
        init_std: float = 0.04,
        scaler: Scaler = "v1",
        block: tuple[int, int] = (32, 32),
        cache: bool = False,
        legacy_scale: bool = False,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("n_total", n_total)
        if (compression is None) == (num_params is None):
            raise ValueError(f"compression is {compression} and num_params {num_params}; one of them is to be given")
        if compression is not None:
            number = check_number("compression", compression, ge=1)
            exact = compression if isinstance(compression, Rational) else number
            num_params = max(1, int(Fraction(n_total) / Fraction(exact)))
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise TypeError(f"dtype is {dtype}; it takes a floating one of 16 bits or more")
        self.share = ShareMap(n_total, num_params, mapping, random_state, block)  # type: ignore[arg-type]
        self.scaler: Scaler = check_choice("scaler", scaler, get_args(Scaler))
        holds = torch.finfo(dtype)
        self.init_std = check_number("init_std", init_std, ge=holds.tiny, le=holds.max / 2)
        self.cache, self.recompute = bool(cache), bool(recompute)
        self.pieces: list[Piece] = []
        self._divisor: Tensor | None = None
        self._step: Tensor | None = None
        self._indices: dict[int, Tensor] = {}
        generator = torch.Generator().manual_seed(random_state)
        unit = 2 * torch.rand(self.share.m, generator=generator, dtype=torch.float64) - 1
        self.values = nn.Parameter((unit * init_std * (1 if legacy_scale else math.sqrt(3))).to(device, dtype))
        self._refuse_meta()

    def add(self, shape: Sequence[int], std: float, *, by_rows: bool = False) -> int:
        """Take the next weights for a tensor.

        Parameters
        ----------
        shape
            The tensor's sides.
        std
            Standard deviation that its weights are to begin with.
        by_rows
            As in `ShareMap.index`.

        Returns
        -------
        int
            The tensor's number, for `weight`.

        Raises
        ------
        ValueError
            Where fewer weights are left than the tensor has, or its scale or the divisors made of it are beyond the
            numbers of the array.
        """
        offset = sum(piece.numel for piece in self.pieces)
        self.share.index(offset, (1,))  # says where none is left
        scale = check_number("std", std, gt=0) / self.init_std
        holds, wide = torch.finfo(self.values.dtype), torch.finfo(_wide(self.values))
        if not (holds.tiny <= scale <= holds.max and wide.tiny <= scale * scale <= wide.max / self.share.n):
            raise ValueError(f"std is {std} and init_std {self.init_std}; {self.values.dtype} takes nearer ones")
        piece = Piece(offset, tuple(check_count("shape", side) for side in shape), scale, by_rows)
        if not piece.shape:
            raise ValueError("shape is (); it takes one side or more")
        if offset + piece.numel > self.share.n:
            raise ValueError(f"shape is {piece.shape}; of {self.share.n} weights only {self.share.n - offset} are left")
        if self.share.mapping == "roast":
            self.share.index(offset, (1, *piece.shape[1:]), by_rows=by_rows)  # says where no tile fits
        before = self._steps()
        self.pieces.append(piece)
        self._divisor = self._step = None
        after = self._steps()
        if after is not None:  # what the weights are stays, in the new units
            with torch.no_grad():
                self.values.mul_(1.0 if before is None else before).div_(after)
        return len(self.pieces) - 1

    def weight(self, piece: int) -> Float[Tensor, "..."]:
        """Return the weights of a tensor, with a gradient to the array.

        Parameters
        ----------
        piece
            The tensor's number.

        Returns
        -------
        Tensor
            In the tensor's shape.
        """
        values, of = self._source(), self.pieces[piece]
        if torch.compiler.is_compiling():  # in closed form, which the compiler fuses
            index = self.share.signed_index(of.offset, of.shape, by_rows=of.by_rows, device=values.device)
            return torch.cat([values, -values])[index] * of.scale
        return Recover.apply(values, self.share, of, self._index(piece))

    def rows(self, piece: int, rows: Int64[Tensor, " k"]) -> Float[Tensor, "k ..."]:
        """Return some rows of a tensor without recovering the others.

        Parameters
        ----------
        piece
            The tensor's number.
        rows
            Numbers of the rows.

        Returns
        -------
        Tensor
            One row for each number.
        """
        values, of = self._source(), self.pieces[piece]
        index = self.share.signed_index(of.offset, of.shape, by_rows=of.by_rows, rows=rows)
        return torch.cat([values, -values])[index] * of.scale

    def divisor(self) -> Float[Tensor, " m"]:
        """Return what the gradient of each entry is divided by; 1 for entries that no weight has.

        It is made at the first forward pass that has a gradient; before `torch.compile` with ``fullgraph`` ask for it.

        Returns
        -------
        Tensor
            As `values`, of 32 bits at least, since squares of scales leave the range of 16. Kept until tensors are
            added.
        """
        self._steps()
        if self._divisor is None or not _alike(self._divisor, self.values, _wide(self.values)):
            self._divisor = self._made_divisor()
        return self._divisor

    @torch.no_grad()
    def fit(self, weights: Sequence[Float[Tensor, "..."]]) -> None:
        """Set the array to what recovers given weights best, by least squares; exactly where no entry has two.

        Parameters
        ----------
        weights
            One tensor for each that was added.

        Raises
        ------
        ValueError
            For another number of tensors or other shapes.
        """
        if [tuple(w.shape) for w in weights] != [piece.shape for piece in self.pieces]:
            raise ValueError(
                f"weights have shapes {[tuple(w.shape) for w in weights]}; they take those that were added"
            )
        sums = torch.zeros_like(self.values, dtype=torch.float64)
        for piece, weight in zip(self.pieces, weights, strict=True):
            sums += fold(weight.detach().double(), self.share, piece, None)
        loads, _, squares = self.loads()
        fitted, steps = sums / squares.clamp(min=torch.finfo(torch.float64).tiny), self._steps()
        fitted = fitted if steps is None else fitted / steps
        self.values.copy_(torch.where(loads > 0, fitted, self.values.double()))

    @torch.no_grad()
    def loads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each entry how many weights it has, the sum of their scales, and that of the scales' squares.

        Returns
        -------
        tuple of Tensor
            Three tensors of m numbers in float64.
        """
        found = torch.zeros(3, self.share.m, dtype=torch.float64, device=self.values.device)
        for piece in self.pieces:
            kind = torch.tensor([1, piece.scale, piece.scale**2], dtype=torch.float64, device=found.device)[:, None]
            if by_slices(self.share):
                for entry, _, length in self.share.slices(piece.offset, piece.numel):
                    found[:, entry : entry + length] += kind
            else:
                index = self.share.index(piece.offset, piece.shape, by_rows=piece.by_rows, device=found.device)
                found += kind * torch.bincount(index.flatten(), minlength=self.share.m)
        return found[0], found[1], found[2]

    def extra_repr(self) -> str:
        """Return what the array is, for `repr`.

        Returns
        -------
        str
            One line of settings.
        """
        share = self.share
        return f"n_total={share.n}, num_params={share.m}, mapping={share.mapping!r}, scaler={self.scaler!r}"

    def get_extra_state(self) -> dict[str, Any]:
        """Return the map and the scales, which a state is loaded with.

        Returns
        -------
        dict
            Numbers and texts alone.
        """
        share = self.share
        return {
            "n": share.n,
            "m": share.m,
            "mapping": share.mapping,
            "random_state": share.random_state,
            "block": list(share.block),
            "units": "steps" if self.scaler == "adam" else "values",
            "shapes": [list(piece.shape) for piece in self.pieces],
            "scales": [piece.scale for piece in self.pieces],
        }

    def set_extra_state(self, state: Dictionary[str, Any]) -> None:
        """Take the scales of the state over.

        Parameters
        ----------
        state
            What `get_extra_state` returned.
        """
        self.pieces = [p._replace(scale=float(s)) for p, s in zip(self.pieces, state["scales"], strict=True)]
        self._divisor = self._step = None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Refuse the state of another map before anything of it is taken."""
        theirs = state_dict.get(f"{prefix}_extra_state")
        ours = self.get_extra_state()
        for name in () if theirs is None else ("n", "m", "mapping", "random_state", "block", "units", "shapes"):
            if theirs[name] != ours[name]:
                raise ValueError(f"state_dict is of {name} {theirs[name]}; this array takes {name} {ours[name]}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_divisor": None, "_step": None, "_indices": {}}

    def _source(self) -> Tensor:
        self._refuse_meta()
        steps = self._steps()
        if steps is not None:
            return self.values * steps
        if self.scaler == "none" or not (torch.is_grad_enabled() and self.values.requires_grad):
            return self.values
        return Scaled.apply(self.values, self.divisor())

    def _index(self, piece: int) -> Tensor | None:
        if not self.cache:
            return None
        found = self._indices.get(piece)
        if found is None or found.device != self.values.device:
            found = self._indices[piece] = kept_index(self.share, self.pieces[piece], self.values.device)
        return found

    def _steps(self) -> Tensor | None:
        """Return what `values` are multiplied by to be the array, where they are kept in units of weights."""
        if self.scaler != "adam" or not self.pieces:
            return None
        if self._step is None or not _alike(self._step, self.values, self.values.dtype):
            self._step = self._made_step()
        return self._step

    @torch.compiler.disable
    @torch.inference_mode(False)  # it is kept for training
    def _made_step(self) -> Tensor:
        loads, _, squares = self.loads()
        return torch.where(loads > 0, (loads / squares).sqrt(), 1.0).to(self.values.dtype)

    @torch.compiler.disable
    @torch.inference_mode(False)
    def _made_divisor(self) -> Tensor:
        c, a, b = self.loads()
        found = {"v1": a**2 / c, "v2": a, "v3": a / c, "v4": b.sqrt(), "v5": b}.get(self.scaler, torch.ones_like(a))
        return torch.where(c > 0, found, 1.0).to(_wide(self.values))

    def _refuse_meta(self) -> None:
        if self.values.is_meta:
            raise ValueError("device is meta; shared weights are computed from values, which it has none of")


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _alike(kept: Tensor, values: Tensor, dtype: torch.dtype) -> bool:
    return kept.device == values.device and kept.dtype == dtype
