"""Trees from SymPy's expressions, and back."""

import itertools
import re
from functools import reduce
from numbers import Real
from typing import Any

import sympy

from paperworks.operators.symbolic.heads import PLACEHOLDER

_VARIABLE, _UNKNOWN = re.compile(r"u_?(\d+)"), re.compile(r"C_?\d*")
_POWERS = 10  # greatest whole power that is written out


def read(expression: Any, kind: Any) -> Any:
    """Return the tree of a SymPy expression.

    Parameters
    ----------
    expression
        What `Expr.from_sympy` takes.
    kind
        The class of trees, `Expr`, which imports this module.

    Returns
    -------
    Expr
        A tree with the same values.

    Examples
    --------
    >>> from paperworks.operators import Expr
    >>> read(sympy.Symbol("u_0") ** 2 - 3, Expr)
    Expr('(pow2(u_0) - 3)')
    """
    plain = isinstance(expression, Real) and not isinstance(expression, (bool, sympy.Basic))
    e = sympy.sympify(expression) if plain else expression
    if isinstance(e, sympy.Symbol):
        if match := _VARIABLE.fullmatch(e.name):
            return kind.variable(int(match[1]))
        if _UNKNOWN.fullmatch(e.name):
            return kind(PLACEHOLDER)
        raise ValueError(
            f"expression has the symbol {e}; it takes u_0, u_1, ..., and C_0, C_1, ... for unknown numbers"
        )
    if isinstance(e, sympy.Integer):
        return kind(int(e))
    if isinstance(e, sympy.Rational):
        return kind(int(e.p)) / kind(int(e.q))
    if isinstance(e, sympy.Number) or e in (sympy.pi, sympy.E):
        return kind(float(e))
    if isinstance(e, sympy.Add):
        # Terms that aren't subtracted come first, so that no sum begins with a negation it doesn't need.
        terms = [
            (-1, read(-a, kind)) if a.could_extract_minus_sign() else (1, read(a, kind)) for a in e.as_ordered_terms()
        ]
        return kind.from_terms(sorted(terms, key=lambda term: -term[0]))
    if isinstance(e, sympy.Mul):
        return _product(e, kind)
    if isinstance(e, sympy.Pow):
        return _power(e.base, e.exp, kind)
    for function, head in ((sympy.sin, "sin"), (sympy.cos, "cos")):
        if isinstance(e, function):
            return kind(head, (read(e.args[0], kind),))
    raise ValueError(f"expression has {e}; it takes sums, products, whole powers, sines and cosines")


def _product(e: Any, kind: Any) -> Any:
    coefficient, rest = e.as_coeff_Mul()
    if coefficient == -1:
        return -read(rest, kind)
    over, under = e.as_numer_denom()
    if under != 1 and (over, under) != (e, 1):
        return read(over, kind) / read(under, kind)
    # SymPy's own factors part a negative number in two, of which a skeleton would have two unknowns.
    factors = [] if coefficient == 1 else [coefficient]
    return reduce(lambda a, b: a * b, (read(f, kind) for f in [*factors, *rest.as_ordered_factors()]))


def _power(base: Any, exponent: Any, kind: Any) -> Any:
    if exponent.is_number and exponent.is_real and float(exponent).is_integer():
        exponent = sympy.Integer(int(exponent))  # 2.0 is as whole as 2
    if not isinstance(exponent, sympy.Integer) or not 0 < abs(exponent) <= _POWERS:
        raise ValueError(f"expression has ({base})**({exponent}); it takes whole powers up to {_POWERS}")
    tree = read(base, kind)
    power = tree if exponent % 2 else tree.square()
    for _ in range((abs(int(exponent)) - 1) // 2):
        power = power * tree.square()
    return power if exponent > 0 else kind("inv", (power,))


def written(*trees: Any) -> list[sympy.Expr]:
    """Return the SymPy expressions of trees, whose placeholders are symbols of their own throughout.

    Parameters
    ----------
    *trees
        Trees of any kind.

    Returns
    -------
    list of sympy.Expr
        The same expressions.

    Examples
    --------
    >>> from paperworks.operators import Expr
    >>> written(Expr.variable(0).square() / 3, PLACEHOLDER * Expr.variable(0))
    [u_0**2/3, C_0*u_0]
    """
    unknowns = itertools.count()
    return [_written(tree, unknowns) for tree in trees]


def _written(tree: Any, unknowns: Any) -> Any:
    head, args = tree.head, [_written(a, unknowns) for a in tree.args]
    if not isinstance(head, str):
        return sympy.Integer(head) if isinstance(head, int) else sympy.Float(head)
    if head == PLACEHOLDER:
        return sympy.Symbol(f"C_{next(unknowns)}")
    operators: dict[str, Any] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "inv": lambda a: 1 / a,
        "sin": sympy.sin,
        "cos": sympy.cos,
        "pow2": lambda a: a**2,
    }
    return operators[head](*args) if head in operators else sympy.Symbol(head)
