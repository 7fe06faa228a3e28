"""Systems of equations as sequences of tokens, numbers as sign, mantissa and exponent."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.operators.symbolic.expressions import ARITY, PLACEHOLDER, Expr, Head
from paperworks.operators.symbolic.systems import System

BOS, EOS, PAD, BAR = "<BOS>", "<EOS>", "<PAD>", "|"
_DEEPEST = 200  # no equation nests deeper, and Python's stack ends somewhere


@dataclass(frozen=True)
class SymbolicTokenizer:
    """Tokens of systems in Polish order, and systems of tokens (arXiv 2309.16816, section 3.1).

    A whole number of small size is one token. Any other number is three, or more with a longer mantissa: -0.17 is
    ``- N170 E-3``, the sign, the digits of ``%.2e`` as a whole number, and the power of ten that goes with it.

    Parameters
    ----------
    float_precision
        Digits after the first one; 2 in the paper.
    mantissa_len
        Tokens of a mantissa; its ``float_precision + 1`` digits are shared among them evenly. 1 in the paper.
    max_exponent
        Greatest power of ten; numbers whose power is below its negative are 0. 10 in the authors' code.
    max_int
        Greatest size of whole numbers that are one token; 10 in the authors' code.
    max_dim
        Most components of a system; 5 in the paper.

    Raises
    ------
    ValueError
        For digits that `mantissa_len` doesn't divide.

    Examples
    --------
    >>> tokenizer = SymbolicTokenizer()
    >>> tokens = tokenizer.encode(System((-0.17 * Expr.variable(0) + 2,)))
    >>> tokens
    ['add', 'mul', '-', 'N170', 'E-3', 'u_0', '2']
    >>> print(tokenizer.decode(tokens))
    u_0' = ((-0.17 * u_0) + 2)
    >>> tokenizer.decode(tokens[1:]) is None
    True
    """

    float_precision: int = 2
    mantissa_len: int = 1
    max_exponent: int = 10
    max_int: int = 10
    max_dim: int = 5

    def __post_init__(self) -> None:
        check_count("float_precision", self.float_precision, at_least=0)
        check_count("mantissa_len", self.mantissa_len)
        check_count("max_exponent", self.max_exponent)
        check_count("max_int", self.max_int, at_least=0)
        check_count("max_dim", self.max_dim)
        if (self.float_precision + 1) % self.mantissa_len:
            raise ValueError(
                f"mantissa_len is {self.mantissa_len}; it takes a divisor of the {self.float_precision + 1} digits "
                "that float_precision asks for"
            )
        if self._digits > 4:
            raise ValueError(f"a mantissa token has {self._digits} digits; it takes at most 4: a longer mantissa_len")

    @property
    def _digits(self) -> int:
        return (self.float_precision + 1) // self.mantissa_len

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All tokens; the place of one is its number.

        Returns
        -------
        tuple of str
            Special tokens, operators, variables, whole numbers, signs, mantissas and exponents.
        """
        ints = [str(i) for i in range(-self.max_int, self.max_int + 1)]
        exponents = [f"E{i}" for i in range(-self.max_exponent, self.max_exponent + 1)]
        return (
            *(PAD, BOS, EOS, PLACEHOLDER, BAR),
            *ARITY,
            *(f"u_{i}" for i in range(self.max_dim)),
            *ints,
            *("+", "-"),
            *self.mantissas,
            *exponents,
        )

    @cached_property
    def mantissas(self) -> tuple[str, ...]:
        """The tokens of mantissas, in the order of their values.

        Returns
        -------
        tuple of str
            From ``N000`` to ``N999`` with three digits.
        """
        return tuple(f"N{i:0{self._digits}d}" for i in range(10**self._digits))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary)}

    def rounded(self, number: float) -> float:
        """Return the number that a number's tokens stand for.

        Parameters
        ----------
        number
            Any number within the range of exponents.

        Returns
        -------
        float
            The nearest one of `float_precision` digits after the first; 0 where it is too small.

        Raises
        ------
        ValueError
            For a number beyond `max_exponent`, or one that isn't finite.
        """
        return self._number(self._of_number(check_number("number", number)))

    def encode(self, tree: System | Expr) -> list[str]:
        """Return the tokens of a system, without those of beginning and end.

        Parameters
        ----------
        tree
            A system, or a single tree.

        Returns
        -------
        list of str
            Tokens in Polish order, with ``|`` between components.

        Raises
        ------
        ValueError
            For more components than `max_dim`, a variable beyond it, or a number beyond `max_exponent`.
        """
        if isinstance(tree, System) and tree.dimension > self.max_dim:
            raise ValueError(f"tree has {tree.dimension} components; max_dim is {self.max_dim}")
        tokens: list[str] = []
        for head in tree.prefix():
            if not isinstance(head, str):
                whole = isinstance(head, int) and abs(head) <= self.max_int
                tokens += [str(head)] if whole else self._of_number(float(head))
            elif head in self._ids:
                tokens.append(head)
            else:
                raise ValueError(f"tree has {head}; with max_dim={self.max_dim} it takes u_0 to u_{self.max_dim - 1}")
        return tokens

    def decode(self, tokens: Sequence[str]) -> System | None:
        """Return the system of tokens, or None where they make none, which is never an error.

        Parameters
        ----------
        tokens
            Tokens without those of beginning and end.

        Returns
        -------
        System or None
            What the tokens stand for; None also for more components than `max_dim`.

        Raises
        ------
        TypeError
            For what is no sequence of strings, such as their numbers, which `tokens` turns into them.
        """
        if isinstance(tokens, str):
            raise TypeError(f"tokens is the string {tokens!r}; it takes a sequence of strings")
        components: list[list[str]] = [[]]
        for token in tokens:
            if not isinstance(token, str):
                raise TypeError(f"tokens has {token!r}; it takes strings")
            if token == BAR:
                components.append([])
            else:
                components[-1].append(token)
        if len(components) > self.max_dim:
            return None
        try:
            return System(tuple(Expr.from_prefix(self._heads(component)) for component in components))
        except ValueError:
            return None

    def skeleton(self, tree: System) -> list[str]:
        """Return the tokens of a system whose numbers aren't known.

        Parameters
        ----------
        tree
            A system with or without numbers.

        Returns
        -------
        list of str
            Tokens with a placeholder for each number.
        """
        return self.encode(tree.skeleton())

    def batch(
        self, sequences: Sequence[Sequence[str]], ends: bool = False
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Return sequences of tokens as numbers, padded to the longest.

        Parameters
        ----------
        sequences
            Tokens of each sample.
        ends
            Whether to put the token of the beginning before each sequence, and that of the end behind it.

        Returns
        -------
        ids, mask : Tensor
            Numbers of tokens, and where they are no padding.

        Raises
        ------
        ValueError
            For an unknown token.
        """
        rows = [[BOS, *row, EOS] if ends else list(row) for row in sequences]
        longest = max(map(len, rows), default=0)
        for row in rows:
            for token in row:
                if token not in self._ids:
                    raise ValueError(f"sequences has the token {token!r}; it takes those of the vocabulary")
        ids = torch.tensor([[self._ids[t] for t in [*row, *[PAD] * (longest - len(row))]] for row in rows])
        return ids.long(), torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]

    def tokens(self, ids: Int[Tensor, " length"]) -> list[str]:
        """Return the tokens of numbers up to the end, without those of beginning, end and padding.

        Parameters
        ----------
        ids
            Numbers of one sample's tokens.

        Returns
        -------
        list of str
            What `decode` takes.

        Raises
        ------
        ValueError
            For a number that no token has.
        """
        size = len(self.vocabulary)
        found: list[str] = []
        for i in ids.tolist():
            if not 0 <= i < size:
                raise ValueError(f"ids has {i}; it takes 0 to {size - 1}")
            token = self.vocabulary[i]
            if token == EOS:
                break
            if token not in (BOS, PAD):
                found.append(token)
        return found

    def _of_number(self, number: float) -> list[str]:
        # `%e` carries where rounding makes a digit more, as in 9.999.
        mantissa, _, power = f"{abs(number):.{self.float_precision}e}".partition("e")
        digits, exponent = mantissa.replace(".", ""), int(power) - self.float_precision
        if exponent > self.max_exponent:
            raise ValueError(f"number is {number:g}; with max_exponent={self.max_exponent} it has too many digits")
        if exponent < -self.max_exponent or not int(digits):
            digits, exponent, number = "0" * len(digits), 0, 0.0
        parts = [digits[i : i + self._digits] for i in range(0, len(digits), self._digits)]
        return ["-" if number < 0 else "+", *(f"N{part}" for part in parts), f"E{exponent}"]

    def _number(self, tokens: Sequence[str]) -> float:
        sign, *mantissa, exponent = tokens
        known = all(token in self._ids for token in tokens)
        if not known or sign not in "+-" or any(t[0] != "N" for t in mantissa) or exponent[0] != "E":
            raise ValueError(f"tokens are {list(tokens)}; a number takes a sign, its mantissa and an exponent")
        digits = "".join(token[1:] for token in mantissa)
        return float(f"{sign}{digits}e{exponent[1:]}")  # read as text, so that it is the nearest number

    def _heads(self, tokens: Sequence[str]) -> list[Head]:
        """Put the tokens of each number together."""
        heads: list[Head] = []
        length, at, needed, depth = self.mantissa_len + 2, 0, [1], 0
        while at < len(tokens):
            token = tokens[at]
            if token in ("+", "-"):
                heads.append(self._number(tokens[at : at + length]))
                at += length
            elif token in ARITY or token == PLACEHOLDER or token.startswith("u_"):
                if token not in self._ids:
                    raise ValueError(f"tokens has {token!r}; it takes those of the vocabulary")
                heads.append(token)
                at += 1
            else:
                if token not in self._ids or not token.lstrip("-").isdigit():
                    raise ValueError(f"tokens has {token!r}, which begins no tree")
                heads.append(int(token))
                at += 1
            # How many arguments each open operator still waits for says how deep the tree is.
            needed[-1:] = [] if not needed else [needed[-1] - 1]
            takes = ARITY.get(heads[-1], 0) if isinstance(heads[-1], str) else 0
            if takes:
                needed.append(takes)
            while needed and needed[-1] == 0:
                needed.pop()
            depth = max(depth, len(needed))
            if depth > _DEEPEST:
                raise ValueError(f"tokens nest deeper than {_DEEPEST}")
        return heads
