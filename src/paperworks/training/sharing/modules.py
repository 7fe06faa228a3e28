"""Layers whose weights are recovered from a shared array at each call: linear, convolution, embedding."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count
from paperworks.training.sharing.parameter import SharedParameter


class SharedLayer(nn.Module):
    """What the three layers have in common: a store, their weight's number in it, and a dense layer's settings."""

    _settings: tuple[str, ...] = ()
    _by_rows = False
    bias: nn.Parameter | None

    def __init__(self, template: nn.Module, store: SharedParameter, piece: int | None, std: float | None) -> None:
        super().__init__()
        if not isinstance(store, SharedParameter):
            raise TypeError(f"store is {type(store).__name__}; it takes a SharedParameter")
        for name in self._settings:
            setattr(self, name, getattr(template, name))
        weight: Tensor = template.weight  # type: ignore[assignment]
        if piece is None:
            piece = store.add(weight.shape, self._usual_std(weight) if std is None else std, by_rows=self._by_rows)
        elif store.pieces[check_count("piece", piece, at_least=0, at_most=len(store.pieces) - 1)].shape != weight.shape:
            raise ValueError(f"piece is {piece} of shape {store.pieces[piece].shape}; it takes {tuple(weight.shape)}")
        self.piece = piece
        self.store = store

    def _usual_std(self, weight: Tensor) -> float:
        """Return the standard deviation that torch begins such a layer with."""
        return 1 / math.sqrt(3 * math.prod(weight.shape[1:]))

    def _begin_bias(self, size: int, fan_in: int, bias: bool) -> None:
        self.bias = None
        if bias:
            values = self.store.values
            self.bias = nn.Parameter(torch.empty(size, device=values.device, dtype=values.dtype))
            nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @property
    def weight(self) -> Float[Tensor, "..."]:
        """The layer's weights, recovered anew each time, with a gradient to the array.

        Returns
        -------
        Tensor
            In the shape that a dense layer's weight has.
        """
        return self.store.weight(self.piece)

    def _apply_weight(self, compute: Any) -> Tensor:
        """Call a function with the weights, which are recovered again for its gradient where the store says so."""
        if not self.store.recompute or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute(self.weight)
        weight, values = self.weight, self.store.values
        device = weight.device.type
        if torch.is_autocast_enabled(device) and weight.dtype == torch.float32:
            weight = weight.to(torch.get_autocast_dtype(device))  # else the layer keeps a copy of this type
        at, begins, kind, version = weight.data_ptr(), weight.storage_offset(), weight.dtype, values._version

        def pack(tensor: Tensor) -> Tensor | tuple[Any, ...]:  # autograd keeps it, so it mustn't hold the weight
            if tensor.data_ptr() != at or tensor.dtype != kind:
                return tensor
            return tensor.shape, tensor.stride(), tensor.storage_offset() - begins

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            if values._version != version:
                raise RuntimeError("values were changed between the forward and the backward pass of a shared layer")
            with torch.no_grad():
                again = self.weight.to(kind)
            shape, stride, offset = kept
            return again.as_strided(shape, stride, again.storage_offset() + offset)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return compute(weight)


class SharedLinear(SharedLayer):
    """A linear layer whose weight is part of a shared array.

    Parameters
    ----------
    in_features, out_features, bias
        As in `torch.nn.Linear`; the bias is the layer's own.
    store
        The array to share.
    piece
        Number of a weight that is there already, as of a tied layer; by default the store's next weights are taken.
    std
        Standard deviation to begin with; by default torch's.

    Raises
    ------
    ValueError
        Where the store has too few weights left, or the piece is of another shape.

    References
    ----------
    arXiv 2310.11611.

    Examples
    --------
    >>> store = SharedParameter(4 * 6 + 6 * 2, compression=6)
    >>> network = nn.Sequential(SharedLinear(4, 6, store=store), nn.ReLU(), SharedLinear(6, 2, store=store))
    >>> network(torch.zeros(3, 4)).shape, store.values.numel()
    (torch.Size([3, 2]), 6)
    """

    _settings = ("in_features", "out_features")
    in_features: int
    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        store: SharedParameter,
        piece: int | None = None,
        std: float | None = None,
    ) -> None:
        super().__init__(nn.Linear(in_features, out_features, False, device="meta"), store, piece, std)
        self._begin_bias(out_features, in_features, bias)

    def forward(self, input: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Return the layer's output.

        Parameters
        ----------
        input
            The inputs, `in_features` in the last dimension.

        Returns
        -------
        Tensor
            The outputs, `out_features` in the last dimension.
        """
        return self._apply_weight(lambda weight: functional.linear(input, weight, self.bias))

    extra_repr = nn.Linear.extra_repr


class SharedConv2d(SharedLayer):
    """A convolution of images whose weight is part of a shared array.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in `torch.nn.Conv2d`; the bias is the layer's own.
    store, piece, std
        As in `SharedLinear`.

    Raises
    ------
    ValueError
        Where the store has too few weights left, or the piece is of another shape.

    References
    ----------
    arXiv 2310.11611.

    Examples
    --------
    >>> layer = SharedConv2d(2, 4, 3, padding=1, store=SharedParameter(72, num_params=9))
    >>> layer(torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 4, 8, 8])
    """

    _settings = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
                 "padding_mode", "transposed", "output_padding", "_reversed_padding_repeated_twice")  # fmt: skip

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        store: SharedParameter,
        piece: int | None = None,
        std: float | None = None,
    ) -> None:
        template = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False,
            padding_mode,  # type: ignore[arg-type]
            device="meta",
        )  # fmt: skip
        super().__init__(template, store, piece, std)
        self._begin_bias(out_channels, math.prod(template.weight.shape[1:]), bias)

    def forward(self, input: Float[Tensor, "*batch inputs height width"]) -> Float[Tensor, "*batch outputs h w"]:
        """Return the layer's output.

        Parameters
        ----------
        input
            Images of `in_channels`.

        Returns
        -------
        Tensor
            Images of `out_channels`.
        """
        convolve: Any = nn.Conv2d._conv_forward  # it asks for the settings alone
        return self._apply_weight(lambda weight: convolve(self, input, weight, self.bias))

    extra_repr: Any = nn.Conv2d.extra_repr


class SharedEmbedding(SharedLayer):
    """An embedding whose table is part of a shared array; only rows that are asked for are recovered.

    Parameters
    ----------
    num_embeddings, embedding_dim, padding_idx, scale_grad_by_freq
        As in `torch.nn.Embedding`; the row of `padding_idx` is 0 and stays so.
    store, piece, std
        As in `SharedLinear`.

    Raises
    ------
    ValueError
        Where the store has too few weights left, the piece is of another shape, or `padding_idx` is no row.

    References
    ----------
    arXiv 2310.11611.

    Examples
    --------
    >>> table = SharedEmbedding(1000, 8, store=SharedParameter(8000, compression=100))
    >>> table(torch.tensor([[3, 999]])).shape
    torch.Size([1, 2, 8])
    """

    _settings = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq",
                 "sparse")  # fmt: skip
    _by_rows = True
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    scale_grad_by_freq: bool

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        *,
        store: SharedParameter,
        piece: int | None = None,
        std: float | None = None,
    ) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx is {padding_idx}; it takes a row of {num_embeddings}")
        template = nn.Embedding(
            num_embeddings, embedding_dim, padding_idx, scale_grad_by_freq=scale_grad_by_freq, device="meta"
        )
        super().__init__(template, store, piece, std)

    def _usual_std(self, weight: Tensor) -> float:
        return 1.0

    @property
    def weight(self) -> Float[Tensor, "rows columns"]:
        """The whole table, recovered anew each time, with a gradient to the array.

        Returns
        -------
        Tensor
            (num_embeddings, embedding_dim).
        """
        weight = self.store.weight(self.piece)
        if self.padding_idx is None:
            return weight
        return weight * (torch.arange(self.num_embeddings, device=weight.device) != self.padding_idx)[:, None]

    def forward(self, input: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch columns"]:
        """Return the rows of numbers.

        Parameters
        ----------
        input
            From 0 to ``num_embeddings - 1``.

        Returns
        -------
        Tensor
            One more dimension than the input.

        Raises
        ------
        IndexError
            For a number of no row.
        """
        few = not torch.compiler.is_compiling() and 2 * input.numel() < self.num_embeddings
        if not few:
            return functional.embedding(
                input, self.weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
            )
        rows, of = torch.unique(input, return_inverse=True)
        if len(rows) and (rows[0] < 0 or rows[-1] >= self.num_embeddings):
            raise IndexError(f"input has {int(rows[0])} to {int(rows[-1])}; it takes 0 to {self.num_embeddings - 1}")
        table = self.store.rows(self.piece, rows)
        if self.padding_idx is not None:
            table = table * (rows != self.padding_idx)[:, None]
        return functional.embedding(of, table, scale_grad_by_freq=self.scale_grad_by_freq)

    extra_repr: Any = nn.Embedding.extra_repr


def usual_std(shape: Sequence[int]) -> float:
    """Return the standard deviation of a weight that has none of its own: one over the root of its inputs."""
    return 1 / math.sqrt(math.prod(shape[1:]))
