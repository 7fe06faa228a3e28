"""What a compressed network holds: numbers stored, weights recovered, and bytes of each."""

from dataclasses import dataclass

from torch import Tensor, nn

from paperworks.training.sharing.compress import shared_layers
from paperworks.training.sharing.modules import SharedLayer


@dataclass(frozen=True)
class SharedTensor:
    """A weight of a compressed network.

    Parameters
    ----------
    name
        Name of its first layer.
    shape
        The weight's sides.
    entries
        Numbers of the array that it shares.
    scale
        By which its weights are scaled.

    Examples
    --------
    >>> SharedTensor("0", (4, 6), 6, 12.5).entries
    6
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    scale: float


@dataclass(frozen=True)
class CompressionReport:
    """What a compressed network holds; tied weights count once.

    Parameters
    ----------
    weights
        How many weights are shared.
    stored
        Numbers that they are made of.
    other
        Parameters that aren't shared: biases, norms, what was left out.
    buffers
        Numbers in buffers.
    parameter_bytes
        What all parameters take.
    index_bytes
        What kept indices take, 0 without `cache`.
    training_bytes
        What the gradient's divisors take, which exist once a gradient was asked for.
    peak_bytes
        What the largest weight takes, which exists while its layer computes; in training all weights do until the
        backward pass, unless the store was told to `recompute`.
    tensors
        Each shared weight.

    Examples
    --------
    >>> report = CompressionReport(1000, 100, 50, 0, 600, 0, 0, 4000, ())
    >>> report.shared_compression, report.compression
    (10.0, 7.0)
    """

    weights: int
    stored: int
    other: int
    buffers: int
    parameter_bytes: int
    index_bytes: int
    training_bytes: int
    peak_bytes: int
    tensors: tuple[SharedTensor, ...]

    @property
    def shared_compression(self) -> float:
        """Shared weights for each number of theirs.

        Returns
        -------
        float
            At least 1, but for arrays larger than what they are shared by.
        """
        return self.weights / self.stored

    @property
    def compression(self) -> float:
        """Parameters of the dense network for each of this one, biases and norms included.

        Returns
        -------
        float
            Less than `shared_compression` where there are others.
        """
        return (self.weights + self.other) / (self.stored + self.other)


def compression_report(model: nn.Module) -> CompressionReport:
    """Count what a compressed network holds.

    Parameters
    ----------
    model
        A network with shared layers.

    Returns
    -------
    CompressionReport
        Numbers, bytes and compressions, with and without biases and norms.

    Raises
    ------
    ValueError
        For a network without shared layers.

    Examples
    --------
    >>> from paperworks.training import compress_model
    >>> report = compression_report(compress_model(nn.Linear(100, 10), 10))
    >>> report.weights, report.stored, report.other, report.compression
    (1000, 100, 10, 9.181818181818182)
    """
    layers = shared_layers(model)
    if not layers:
        raise ValueError("model has no shared layer; `compress_model` makes them")
    first: dict[tuple[int, int], tuple[str, SharedLayer]] = {}
    for name, layer in layers.items():
        first.setdefault((id(layer.store), layer.piece), (name, layer))
    stores = {id(layer.store): layer.store for layer in layers.values()}
    arrays = {id(store.values) for store in stores.values()}
    pieces = [layer.store.pieces[layer.piece] for _, layer in first.values()]
    indices = [index for store in stores.values() for index in store._indices.values()]
    divisors = [d for store in stores.values() for d in (store._divisor, store._step) if d is not None]
    width = max(store.values.element_size() for store in stores.values())
    return CompressionReport(
        weights=sum(piece.numel for piece in pieces),
        stored=sum(store.share.m for store in stores.values()),
        other=sum(p.numel() for p in model.parameters() if id(p) not in arrays),
        buffers=sum(b.numel() for b in model.buffers()),
        parameter_bytes=_bytes(list(model.parameters())),
        index_bytes=_bytes(indices),
        training_bytes=_bytes(divisors),
        peak_bytes=width * max(piece.numel for piece in pieces),
        tensors=tuple(
            SharedTensor(name, piece.shape, layer.store.share.m, piece.scale)
            for (name, layer), piece in zip(first.values(), pieces, strict=True)
        ),
    )


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
