"""Small algorithmic data sets on which networks memorise long before they generalise."""

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.random import torch_generator

Operation = Literal["+", "-", "*"]
Encoding = Literal["onehot", "tokens"]
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class LabelledExamples(NamedTuple):
    """Inputs with their classes.

    Parameters
    ----------
    x
        Inputs, one row each.
    y
        The class of each row.

    Examples
    --------
    >>> x, y = ModularArithmetic("+", 5).train
    >>> x.shape, y.shape
    (torch.Size([10, 10]), torch.Size([10]))
    """

    x: Shaped[Tensor, "n inputs"]
    y: Int64[Tensor, " n"]


@dataclass(frozen=True)
class ModularArithmetic:
    """All pairs (a, b) below p with the class ``a op b mod p``, split at random.

    Parameters
    ----------
    op
        ``+``, ``-`` or ``*``.
    p
        The modulus; 113 in the paper.
    train_fraction
        Share of pairs to train on, between 0 and 1; 0.4 in the paper.
    random_state
        Seed of the split.
    encoding
        ``onehot`` gives rows of 2p zeros and two ones, ``tokens`` the two numbers.

    Raises
    ------
    ValueError
        For another operation or encoding, a modulus below 2, a share outside (0, 1), or one that leaves a side empty.

    References
    ----------
    arXiv 2501.04697, algorithmic data sets.

    Examples
    --------
    >>> task = ModularArithmetic("*", p=5, train_fraction=0.4, encoding="tokens")
    >>> bool(((task.train.x[:, 0] * task.train.x[:, 1]) % 5 == task.train.y).all())
    True
    >>> len(task.train.y), len(task.test.y)
    (10, 15)
    """

    op: Operation = "+"
    p: int = 113
    train_fraction: float = 0.4
    random_state: int = 0
    encoding: Encoding = "onehot"

    def __post_init__(self) -> None:
        check_choice("op", self.op, get_args(Operation))
        check_count("p", self.p, at_least=2)
        check_choice("encoding", self.encoding, get_args(Encoding))
        _train_count(self.p**2, self.train_fraction)

    @property
    def classes(self) -> int:
        """Number of classes, the modulus."""
        return self.p

    @property
    def train(self) -> LabelledExamples:
        """The pairs to train on."""
        return self._split[0]

    @property
    def test(self) -> LabelledExamples:
        """All other pairs."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[LabelledExamples, LabelledExamples]:
        pairs = torch.cartesian_prod(torch.arange(self.p), torch.arange(self.p))
        y = _OPERATIONS[self.op](pairs[:, 0], pairs[:, 1]) % self.p
        x = functional.one_hot(pairs, self.p).flatten(1).float() if self.encoding == "onehot" else pairs
        return _parted(x, y, self.train_fraction, self.random_state)


@dataclass(frozen=True)
class SparseParity:
    """Random bits whose class is the parity of the first few; the others are noise.

    Parameters
    ----------
    n
        Number of samples; 2000 in the paper's code.
    parity_bits
        Bits that count, 3 in the paper's code.
    noise_bits
        Bits that don't, 40 in the paper's code.
    train_fraction
        Share of samples to train on, between 0 and 1.
    random_state
        Seed of the bits and of the split.

    Raises
    ------
    ValueError
        For counts that are too low, a share outside (0, 1), or one that leaves a side empty.

    References
    ----------
    arXiv 2501.04697, algorithmic data sets.

    Examples
    --------
    >>> task = SparseParity(n=100)
    >>> x, y = task.train
    >>> x.shape, bool((x[:, :3].sum(1) % 2 == y).all())
    (torch.Size([50, 43]), True)
    """

    n: int = 2000
    parity_bits: int = 3
    noise_bits: int = 40
    train_fraction: float = 0.5
    random_state: int = 0

    def __post_init__(self) -> None:
        check_count("parity_bits", self.parity_bits)
        check_count("noise_bits", self.noise_bits, at_least=0)
        _train_count(check_count("n", self.n, at_least=2), self.train_fraction)

    @property
    def classes(self) -> int:
        """Number of classes: even and odd."""
        return 2

    @property
    def train(self) -> LabelledExamples:
        """The samples to train on."""
        return self._split[0]

    @property
    def test(self) -> LabelledExamples:
        """All other samples."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[LabelledExamples, LabelledExamples]:
        generator = torch_generator(self.random_state, 1)
        bits = torch.randint(2, (self.n, self.parity_bits + self.noise_bits), generator=generator)
        y = bits[:, : self.parity_bits].sum(1) % 2
        return _parted(bits.float(), y, self.train_fraction, self.random_state)


def _train_count(n: int, fraction: float) -> int:
    count = int(check_number("train_fraction", fraction, gt=0, lt=1) * n)
    if not 0 < count < n:
        raise ValueError(f"train_fraction is {fraction}, which leaves {count} of {n} samples to train on")
    return count


def _parted(x: Tensor, y: Tensor, fraction: float, random_state: int) -> tuple[LabelledExamples, LabelledExamples]:
    order = torch.randperm(len(y), generator=torch_generator(random_state))
    train, test = order.tensor_split([_train_count(len(y), fraction)])
    return LabelledExamples(x[train], y[train]), LabelledExamples(x[test], y[test])
