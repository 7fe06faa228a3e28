"""How a network is to be quantised."""

from dataclasses import dataclass
from typing import Literal, get_args

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.quantization.search import ScaleMethod

Placement = Literal["output", "input"]
RangeEstimator = Literal["histogram", "ema"]
Order = Literal["before", "after"]


@dataclass(frozen=True)
class QuantConfig:
    """Bits, scales and placement of the quantisers; the defaults are the paper's and its released script's.

    Parameters
    ----------
    n_bits_w, n_bits_a
        Bits of weights and activations, 2 to 16.
    channel_wise
        One weight scale per output channel instead of one per layer.
    symmetric_w, symmetric_a
        Search ranges ``[-r, r]`` only (1-D) instead of width and zero point (2-D). Data of one sign get ``[0, r]``.
    scale_method
        ``minmax``; ``mse``: mean of ``|q(x) - x|^metric_p``; ``l1``; ``cosine``; ``kl``.
    metric_p
        Exponent of ``mse``: 2.4 in the released code, 2 for the mean squared error of the text.
    candidates
        Ranges tried per tensor.
    first_last_8bit
        Keep at least 8 bits in the first and last convolution (the first and last layer where there is none).
    quantize_attention
        Quantise Conv1d layers and the operands of attention's two products as well: queries, keys, probabilities,
        values.
    skip
        Layers to leave in floating point, as names or `fnmatch` patterns (``"*lora*"``).
    activations
        Where activations are quantised. ``output``: what a layer returns, as in the paper, and not what the network
        returns. ``input``: what a layer sees, as integer kernels need it.
    ranges
        ``histogram``: search over the whole calibration set at once. ``ema``: as in the released code, search batch by
        batch, average ``0.1 new + 0.9 old``, and quantise each batch on the way.
    order
        Find activation ranges with weights still in floating point (``before``) or already quantised (``after``).
    timewise_groups
        Number of activation scales per tensor, each for a range of times.

    Raises
    ------
    ValueError
        Where a number is out of range or a choice unknown.

    Examples
    --------
    >>> QuantConfig(n_bits_w=4).n_bits_a
    8
    """

    n_bits_w: int = 8
    n_bits_a: int = 8
    channel_wise: bool = True
    symmetric_w: bool = True
    symmetric_a: bool = True
    scale_method: ScaleMethod = "mse"
    metric_p: float = 2.4
    candidates: int = 100
    first_last_8bit: bool = True
    quantize_attention: bool = False
    skip: tuple[str, ...] = ()
    activations: Placement = "output"
    ranges: RangeEstimator = "histogram"
    order: Order = "after"
    timewise_groups: int = 1

    def __post_init__(self) -> None:
        check_count("n_bits_w", self.n_bits_w, at_least=2, at_most=16)
        check_count("n_bits_a", self.n_bits_a, at_least=2, at_most=16)
        check_choice("scale_method", self.scale_method, get_args(ScaleMethod))
        check_number("metric_p", self.metric_p, gt=0)
        check_count("candidates", self.candidates)
        check_choice("activations", self.activations, get_args(Placement))
        check_choice("ranges", self.ranges, get_args(RangeEstimator))
        check_choice("order", self.order, get_args(Order))
        check_count("timewise_groups", self.timewise_groups)
        if isinstance(self.skip, str):
            raise TypeError(f"skip is {self.skip!r}; it takes a sequence of names or patterns")
        if self.timewise_groups > 1 and self.ranges == "ema":
            raise ValueError("ranges is 'ema'; timewise_groups > 1 takes ranges found over the whole set")
