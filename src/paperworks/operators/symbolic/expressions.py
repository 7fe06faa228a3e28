"""Right-hand sides of differential equations as trees of operators, variables and numbers."""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.operators.symbolic.heads import PLACEHOLDER

if TYPE_CHECKING:
    import sympy

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": operator.neg,
    "inv": lambda x: 1 / x,
    "sin": lambda x: x.sin(),
    "cos": lambda x: x.cos(),
    "pow2": lambda x: x.square(),
}
ARITY = {**dict.fromkeys(BINARY, 2), **dict.fromkeys(UNARY, 1)}

Head = str | int | float
States = TypeVar("States", np.ndarray, Tensor)
_VARIABLE = re.compile(r"u_(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Expr:
    """A tree: an operator with its arguments, a variable, a number or a placeholder (arXiv 2309.16816, section 3).

    Trees are written with Python's operators, and with the methods `sin`, `cos` and `square` that tensors have too, so
    that one function of variables and coefficients makes a tree of trees, and values of tensors.

    Parameters
    ----------
    head
        ``add``, ``sub``, ``mul`` or ``div`` (two arguments), ``neg``, ``inv``, ``sin``, ``cos`` or ``pow2`` (one), a
        variable ``u_0``, ``u_1``, ..., a finite number, or `PLACEHOLDER`.
    args
        Arguments of the operator, none for the others.

    Raises
    ------
    ValueError
        For an unknown head, a number that isn't finite, or another number of arguments than the head takes.
    TypeError
        For a head that is no number, and for arguments that are no trees.

    Examples
    --------
    >>> u = [Expr.variable(i) for i in range(2)]
    >>> tree = u[1].sin() - 0.17 * u[0]
    >>> tree.prefix()
    ['sub', 'sin', 'u_1', 'mul', 0.17, 'u_0']
    >>> tree
    Expr('(sin(u_1) - (0.17 * u_0))')
    """

    head: Head
    args: tuple["Expr", ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", tuple(self.args))
        if isinstance(self.head, str):
            takes = ARITY.get(self.head, 0)
            if not takes and self.head != PLACEHOLDER and not _VARIABLE.fullmatch(self.head):
                raise ValueError(f"head is {self.head!r}; it takes an operator, a variable u_0, u_1, ..., or a number")
        else:
            try:
                value = check_number("head", self.head)
            except OverflowError as error:
                raise ValueError("head is a whole number beyond the range of floating point") from error
            # Numbers of other libraries become Python's, so that a whole number is one whoever made it.
            object.__setattr__(self, "head", int(self.head) if isinstance(self.head, Integral) else value)
            takes = 0
        if len(self.args) != takes:
            raise ValueError(f"args has {len(self.args)} trees; {self.head!r} takes {takes}")
        for tree in self.args:
            if not isinstance(tree, Expr):
                raise TypeError(f"args has {tree!r}; it takes trees, Expr")

    @classmethod
    def variable(cls, index: int) -> "Expr":
        """Return the variable of an index, from 0 on.

        Parameters
        ----------
        index
            Which component of the state.

        Returns
        -------
        Expr
            The leaf ``u_<index>``.
        """
        return cls(f"u_{index}")

    @classmethod
    def from_prefix(cls, heads: Sequence[Head]) -> "Expr":
        """Return the tree whose heads stand in Polish order, each operator before its arguments.

        Parameters
        ----------
        heads
            What `prefix` returned, or another such sequence.

        Returns
        -------
        Expr
            The tree of these heads.

        Raises
        ------
        ValueError
            For heads that make no tree, or more than one.
        """
        stack: list[Expr] = []
        for head in reversed(heads):
            takes = ARITY.get(head, 0) if isinstance(head, str) else 0
            if takes > len(stack):
                raise ValueError(f"heads is {list(heads)}; {head!r} takes {takes} arguments, and {len(stack)} follow")
            stack.append(cls(head, tuple(stack.pop() for _ in range(takes))))
        if len(stack) != 1:
            raise ValueError(f"heads is {list(heads)}; it takes one tree, and these are {len(stack)}")
        return stack[0]

    @classmethod
    def from_sympy(cls, expression: "sympy.Expr") -> "Expr":
        """Return the tree of a SymPy expression.

        Parameters
        ----------
        expression
            Sums, products, whole powers, sines and cosines of numbers and of symbols ``u_0`` or ``u0``, ...; a symbol
            ``C_0``, ``C_1``, ... is a placeholder.

        Returns
        -------
        Expr
            A tree with the same values.

        Raises
        ------
        ValueError
            For a function or a symbol that trees don't have.
        """
        from paperworks.operators.symbolic.algebra import read

        return read(expression, cls)

    def to_sympy(self) -> "sympy.Expr":
        """Return the SymPy expression, with symbols ``u_0``, ..., and ``C_0``, ... for placeholders.

        Returns
        -------
        sympy.Expr
            The same expression, simplified as SymPy does by itself.
        """
        from paperworks.operators.symbolic.algebra import written

        (expression,) = written(self)
        return expression

    def prefix(self) -> list[Head]:
        """Return the heads in Polish order, each operator before its arguments.

        Returns
        -------
        list of str, int or float
            One head for each node.
        """
        return [node.head for node in self.nodes()]

    def nodes(self) -> Iterator["Expr"]:
        """Go through all subtrees in Polish order, this one first.

        Yields
        ------
        Iterator[Expr]
            The subtrees one by one.
        """
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.args))

    def evaluate(self, u: States, numbers: Float[Tensor, "n k"] | None = None) -> States:
        """Return the values at states.

        Parameters
        ----------
        u
            States in rows, (n, d), an array or a tensor of floating point.
        numbers
            Values to take in place of the tree's own numbers and placeholders, in Polish order, for each state.

        Returns
        -------
        ndarray or Tensor
            One value for each state, of the states' type.

        Raises
        ------
        ValueError
            For states without a variable that the tree has, and for placeholders without `numbers`.
        """
        return evaluated((self,), 0, u, numbers)[:, 0]

    def terms(self) -> list[tuple[int, "Expr"]]:
        """Return the terms of the sum that this tree is, each with its sign, 1 or -1.

        Returns
        -------
        list of tuple
            Sign and tree of each term, in their order.
        """
        if self.head in ("add", "sub"):
            left, right = self.args
            sign = 1 if self.head == "add" else -1
            return [*left.terms(), *((sign * s, term) for s, term in right.terms())]
        if self.head == "neg":
            return [(-s, term) for s, term in self.args[0].terms()]
        return [(1, self)]

    @classmethod
    def from_terms(cls, terms: Sequence[tuple[int, "Expr"]]) -> "Expr":
        """Return the sum of terms; where the first one is subtracted, it is negated.

        Parameters
        ----------
        terms
            Sign and tree of each, as `terms` returns them.

        Returns
        -------
        Expr
            Their sum from left to right.

        Raises
        ------
        ValueError
            For a sum of nothing.
        """
        if not terms:
            raise ValueError("terms is empty; it takes one or more")
        (sign, total), *others = terms
        total = total if sign > 0 else -total
        for sign, term in others:
            total = total + term if sign > 0 else total - term
        return total

    def __add__(self, other: Any) -> "Expr":
        return Expr("add", (self, wrapped(other)))

    def __radd__(self, other: Any) -> "Expr":
        return Expr("add", (wrapped(other), self))

    def __sub__(self, other: Any) -> "Expr":
        return Expr("sub", (self, wrapped(other)))

    def __rsub__(self, other: Any) -> "Expr":
        return Expr("sub", (wrapped(other), self))

    def __mul__(self, other: Any) -> "Expr":
        return Expr("mul", (self, wrapped(other)))

    def __rmul__(self, other: Any) -> "Expr":
        return Expr("mul", (wrapped(other), self))

    def __truediv__(self, other: Any) -> "Expr":
        return Expr("div", (self, wrapped(other)))

    def __rtruediv__(self, other: Any) -> "Expr":
        return Expr("inv", (self,)) if other == 1 else Expr("div", (wrapped(other), self))

    def __neg__(self) -> "Expr":
        return Expr("neg", (self,))

    def sin(self) -> "Expr":
        """Return the sine.

        Returns
        -------
        Expr
            The tree of ``sin``.
        """
        return Expr("sin", (self,))

    def cos(self) -> "Expr":
        """Return the cosine.

        Returns
        -------
        Expr
            The tree of ``cos``.
        """
        return Expr("cos", (self,))

    def square(self) -> "Expr":
        """Return the square.

        Returns
        -------
        Expr
            The tree of ``pow2``.
        """
        return Expr("pow2", (self,))

    def __str__(self) -> str:
        signs = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
        if self.head in signs:
            return f"({self.args[0]} {signs[str(self.head)]} {self.args[1]})"
        if self.args:
            return f"{self.head}({self.args[0]})"
        return "?" if self.head == PLACEHOLDER else str(self.head)

    def __repr__(self) -> str:
        return f"Expr({str(self)!r})"


def wrapped(value: Any) -> Expr:
    """Return a number as a leaf, and a tree as it is.

    Parameters
    ----------
    value
        A number or a tree.

    Returns
    -------
    Expr
        The tree itself, or a leaf.

    Examples
    --------
    >>> wrapped(2).head
    2
    """
    return value if isinstance(value, Expr) else Expr(value)


def is_number(head: Head) -> bool:
    """Return whether a head is a number, or stands for one."""
    return not isinstance(head, str) or head == PLACEHOLDER


def heads_of(components: Sequence[Expr]) -> list[Head]:
    """Return the heads of all trees in Polish order."""
    return [head for component in components for head in component.prefix()]


def variables_of(components: Sequence[Expr]) -> int:
    """Return one more than the greatest index of a variable."""
    found = [_VARIABLE.fullmatch(head) for head in heads_of(components) if isinstance(head, str)]
    return max((1 + int(match[1]) for match in found if match), default=0)


def evaluated(components: Sequence[Expr], least: int, u: States, numbers: Tensor | None) -> States:
    """Return the values of trees at states of at least so many components, one column for each tree."""
    # A copy is what torch takes whatever the strides and the order of bytes.
    states = torch.from_numpy(u.astype(u.dtype.newbyteorder("="), order="C")) if isinstance(u, np.ndarray) else u
    if not isinstance(states, Tensor) or not states.is_floating_point():
        raise TypeError(f"u is {getattr(u, 'dtype', type(u).__name__)}; it takes an array of floating point")
    needed = max(variables_of(components), least)
    if states.ndim != 2 or states.shape[1] < needed:
        raise ValueError(f"u has shape {tuple(states.shape)}; it takes rows of {needed} components")
    given = None
    if numbers is not None:
        count = sum(map(is_number, heads_of(components)))
        if numbers.shape != (len(states), count):
            raise ValueError(
                f"numbers has shape {tuple(numbers.shape)}; it takes {count} in each of {len(states)} rows"
            )
        given = iter(numbers.to(states).unbind(1))
    columns = states.unbind(1)
    found = torch.stack([_value(c, columns, given, states).expand(len(states)) for c in components], 1)
    return found.numpy() if isinstance(u, np.ndarray) else found


def _value(node: Expr, columns: Sequence[Tensor], given: Iterator[Tensor] | None, like: Tensor) -> Tensor:
    head = node.head
    if is_number(head):
        if given is not None:
            return next(given)
        if head == PLACEHOLDER:
            raise ValueError("the system has placeholders; evaluating it takes numbers for them")
        return like.new_tensor(head)
    assert isinstance(head, str)
    if head in BINARY:
        left = _value(node.args[0], columns, given, like)
        return BINARY[head](left, _value(node.args[1], columns, given, like))
    if head in UNARY:
        return UNARY[head](_value(node.args[0], columns, given, like))
    return columns[int(head[2:])]
