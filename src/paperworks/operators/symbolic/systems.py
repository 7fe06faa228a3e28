"""Systems of differential equations: a tree for each component of the slope."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.operators.symbolic.expressions import (
    PLACEHOLDER,
    Expr,
    Head,
    States,
    evaluated,
    heads_of,
    is_number,
    variables_of,
    wrapped,
)

if TYPE_CHECKING:
    import sympy


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
        if (variables := variables_of(self.components)) > self.dimension:
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
        return heads_of(self.components)

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
            As `Expr.to_sympy` returns them; each placeholder of the system is a symbol of its own.
        """
        from paperworks.operators.symbolic.algebra import written

        return written(*self.components)

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
        return evaluated(self.components, self.dimension, u, numbers)

    def numbers(self) -> list[float]:
        """Return all numbers in Polish order; a placeholder's is NaN.

        Returns
        -------
        list of float
            As many as `evaluate` takes as `numbers`.
        """
        return [float("nan") if isinstance(h, str) else float(h) for h in self._heads() if is_number(h)]

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
        count = sum(map(is_number, self._heads()))
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


def _with(node: Expr, given: Iterator[float | str]) -> Expr:
    if is_number(node.head):
        return Expr(next(given))
    return Expr(node.head, tuple(_with(argument, given) for argument in node.args)) if node.args else node
