"""Right-hand sides of differential equations as trees of operators, variables and numbers."""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number

if TYPE_CHECKING:
    import sympy

PLACEHOLDER = "<PLACEHOLDER>"
"""Stands for a number that isn't known."""
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
_VARIABLE = re.compile(r"u_(\d+)")


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
        if isinstance(self.head, str):
            takes = ARITY.get(self.head, 0)
            if not takes and self.head != PLACEHOLDER and not _VARIABLE.fullmatch(self.head):
                raise ValueError(f"head is {self.head!r}; it takes an operator, a variable u_0, u_1, ..., or a number")
        else:
            check_number("head", self.head)
            takes = 0
        if len(self.args) != takes:
            raise ValueError(f"args has {len(self.args)} trees; {self.head!r} takes {takes}")

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

        return read(expression)

    def to_sympy(self) -> "sympy.Expr":
        """Return the SymPy expression, with symbols ``u_0``, ..., and ``C_0``, ... for placeholders.

        Returns
        -------
        sympy.Expr
            The same expression, simplified as SymPy does by itself.
        """
        from paperworks.operators.symbolic.algebra import written

        return written(self)

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
        return _evaluated((self,), 0, u, numbers)[:, 0]

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


def _is_number(head: Head) -> bool:
    return not isinstance(head, str) or head == PLACEHOLDER


@dataclass(frozen=True)
class System:
    """The right-hand side of ``u' = f(u)``: one tree for each component (arXiv 2309.16816, section 3).

    Parameters
    ----------
    components
        Trees in variables ``u_0`` to ``u_<d - 1>``, d of them.

    Raises
    ------
    ValueError
        For no component, and for a variable that the system has no component of.

    Examples
    --------
    >>> u, v = Expr.variable(0), Expr.variable(1)
    >>> lotka_volterra = System((0.5 * u - 0.02 * u * v, 0.02 * u * v - 0.8 * v))
    >>> lotka_volterra.evaluate(np.array([[10.0, 5.0]]))
    array([[ 4., -3.]])
    >>> print(lotka_volterra.skeleton())
    u_0' = ((? * u_0) - ((? * u_0) * u_1)), u_1' = (((? * u_0) * u_1) - (? * u_1))
    """

    components: tuple[Expr, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", tuple(self.components))
        if not self.components:
            raise ValueError("components is empty; it takes one tree or more")
        for component in self.components:
            if not isinstance(component, Expr):
                raise TypeError(f"components has {component!r}; it takes trees, Expr")
        if (variables := _variables(self.components)) > self.dimension:
            raise ValueError(
                f"components has the variable u_{variables - 1}; with {self.dimension} components it takes "
                f"u_0 to u_{self.dimension - 1}"
            )

    @property
    def dimension(self) -> int:
        """Number of components.

        Returns
        -------
        int
            As many as the state has.
        """
        return len(self.components)

    def _heads(self) -> list[Head]:
        return _heads(self.components)

    @classmethod
    def from_sympy(cls, expressions: "Sequence[sympy.Expr]") -> "System":
        """Return the system of SymPy expressions, one for each component.

        Parameters
        ----------
        expressions
            As `Expr.from_sympy` takes them.

        Returns
        -------
        System
            A system with the same values.
        """
        return cls(tuple(map(Expr.from_sympy, expressions)))

    def to_sympy(self) -> "list[sympy.Expr]":
        """Return one SymPy expression for each component.

        Returns
        -------
        list of sympy.Expr
            As `Expr.to_sympy` returns them.
        """
        return [component.to_sympy() for component in self.components]

    def prefix(self) -> list[Head]:
        """Return the heads of all components in Polish order, with ``|`` between components.

        Returns
        -------
        list of str, int or float
            One head for each node, and the bars.
        """
        heads = self.components[0].prefix()
        for component in self.components[1:]:
            heads += ["|", *component.prefix()]
        return heads

    def evaluate(self, u: States, numbers: Float[Tensor, "n k"] | None = None) -> States:
        """Return the right-hand side at states.

        Parameters
        ----------
        u
            States in rows, (n, d), an array or a tensor of floating point.
        numbers
            Values to take in place of the system's own numbers and placeholders, in Polish order, for each state; so
            systems that share a skeleton are evaluated at once.

        Returns
        -------
        ndarray or Tensor
            One row for each state and one column for each component, of the states' type; infinite or NaN where a
            division is by 0.

        Raises
        ------
        ValueError
            For states without a variable that the system has, placeholders without `numbers`, or another count of them.
        TypeError
            For states that aren't of floating point.
        """
        return _evaluated(self.components, self.dimension, u, numbers)

    def numbers(self) -> list[float]:
        """Return all numbers in Polish order; a placeholder's is NaN.

        Returns
        -------
        list of float
            As many as `evaluate` takes as `numbers`.
        """
        return [float("nan") if isinstance(h, str) else float(h) for h in self._heads() if _is_number(h)]

    def with_numbers(self, numbers: Sequence[float | str]) -> "System":
        """Return the system with other numbers.

        Parameters
        ----------
        numbers
            In Polish order, as many as `numbers` returns; each a number or `PLACEHOLDER`.

        Returns
        -------
        System
            The same trees with these leaves.

        Raises
        ------
        ValueError
            For another count of numbers.
        """
        count = sum(map(_is_number, self._heads()))
        if len(numbers) != count:
            raise ValueError(f"numbers has {len(numbers)}; it takes {count}, one for each number of the system")
        given = iter(numbers)
        return System(tuple(_with(component, given) for component in self.components))

    def skeleton(self) -> "System":
        """Return the system with every number replaced by a placeholder: what is known without measurements.

        Returns
        -------
        System
            The same trees without numbers.
        """
        return self.with_numbers([PLACEHOLDER] * len(self.numbers()))

    def perturb(self, random_state: int | np.random.Generator, p_add: float = 0.15, p_del: float = 0.15) -> "System":
        """Return a wrong system: with a term more, or one less (arXiv 2309.16816, the section on inputs).

        Parameters
        ----------
        random_state
            Seed, or NumPy's generator.
        p_add
            Chance that a term is added at a random place of a random component: a placeholder times a monomial of
            degree 2 or less; 0.15 in the authors' code.
        p_del
            Chance that a random term is deleted, of a component that has others; 0.15 in the authors' code.

        Returns
        -------
        System
            The wrong system, or this one where chance left it alone.

        Raises
        ------
        ValueError
            For chances outside [0, 1].
        """
        rng = np.random.default_rng(random_state)
        adds = rng.random() < check_number("p_add", p_add, ge=0, le=1)
        deletes = rng.random() < check_number("p_del", p_del, ge=0, le=1)
        components = list(self.components)
        if deletes:
            where = [i for i, component in enumerate(components) if len(component.terms()) > 1]
            if where:
                i = int(rng.choice(where))
                terms = components[i].terms()
                del terms[rng.integers(len(terms))]
                components[i] = Expr.from_terms(terms)
        if adds:
            i = int(rng.integers(self.dimension))
            term = wrapped(PLACEHOLDER)
            for index in rng.integers(self.dimension, size=rng.integers(3)):
                term = term * Expr.variable(int(index))
            terms = components[i].terms()
            terms.insert(int(rng.integers(len(terms) + 1)), (int(rng.choice([1, -1])), term))
            components[i] = Expr.from_terms(terms)
        return System(tuple(components))

    def __str__(self) -> str:
        return ", ".join(f"u_{i}' = {component}" for i, component in enumerate(self.components))


def _heads(components: Sequence[Expr]) -> list[Head]:
    return [head for component in components for head in component.prefix()]


def _variables(components: Sequence[Expr]) -> int:
    """Return one more than the greatest index of a variable."""
    found = [_VARIABLE.fullmatch(head) for head in _heads(components) if isinstance(head, str)]
    return max((1 + int(match[1]) for match in found if match), default=0)


def _evaluated(components: Sequence[Expr], least: int, u: States, numbers: Tensor | None) -> States:
    states = torch.from_numpy(u) if isinstance(u, np.ndarray) else u
    if not isinstance(states, Tensor) or not states.is_floating_point():
        raise TypeError(f"u is {getattr(u, 'dtype', type(u).__name__)}; it takes an array of floating point")
    needed = max(_variables(components), least)
    if states.ndim != 2 or states.shape[1] < needed:
        raise ValueError(f"u has shape {tuple(states.shape)}; it takes rows of {needed} components")
    given = None
    if numbers is not None:
        count = sum(map(_is_number, _heads(components)))
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
    if _is_number(head):
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


def _with(node: Expr, given: Iterator[float | str]) -> Expr:
    if _is_number(node.head):
        return Expr(next(given))
    return Expr(node.head, tuple(_with(argument, given) for argument in node.args)) if node.args else node
