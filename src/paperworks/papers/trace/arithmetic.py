"""Random arithmetic: graphs with shared parts, and chains with a target to be met."""

from dataclasses import dataclass
from typing import Any

import numpy as np

UNARY = ("neg", "sin", "tanh", "exp", "sqrt")
BINARY = ("add", "sub", "mul", "div")


@dataclass(frozen=True)
class Recipe:
    """A graph of arithmetic: for each computed node its operator and the positions of its operands.

    Parameters
    ----------
    inputs
        Values of the roots.
    trainable
        How many of the roots, from the first on, are parameters.
    steps
        Operator and positions of operands for each computed node.
    """

    inputs: tuple[float, ...]
    trainable: int
    steps: tuple[tuple[str, int, int], ...]

    def run(self, roots: list[Any], numerics: Any) -> list[Any]:
        """Compute all nodes from roots of any type, with the functions of `numerics` (NumPy or torch)."""
        values = list(roots)
        for name, i, j in self.steps:
            x, y = values[i], values[j]
            if name == "neg":
                values.append(-x)
            elif name == "sqrt":
                values.append(numerics.sqrt(x * x + 1.0))
            elif name == "exp":
                values.append(numerics.exp(numerics.tanh(x)))
            elif name in UNARY:
                values.append(getattr(numerics, name)(x))
            elif name == "add":
                values.append(x + y)
            elif name == "sub":
                values.append(x - y)
            elif name == "mul":
                values.append(numerics.tanh(x) * y)
            else:
                values.append(x / (y * y + 1.0))
        return values


def random_recipe(rng: np.random.Generator, most: int = 300) -> Recipe:
    """Draw a graph whose nodes use any earlier ones, so that parts are shared."""
    roots, steps = int(rng.integers(2, 8)), []
    trainable = int(rng.integers(1, roots + 1))
    for n in range(int(rng.integers(5, max(most // 3, 6)))):
        i, j = (int(rng.integers(max(0, roots + n - 12), roots + n)) for _ in range(2))
        if rng.random() < 0.15:
            i = int(rng.integers(roots))
        steps.append((str(rng.choice(UNARY + BINARY)), i, j))
    return Recipe(tuple(rng.normal(size=roots).tolist()), trainable, tuple(steps))


@dataclass(frozen=True)
class Problem:
    """A chain of arithmetic with a target: change the parameters so that the output is the target.

    Parameters
    ----------
    start
        Parameters at the beginning.
    target
        What the output should be.
    steps
        Operator, whether the operand is a parameter, and the parameter's position or the constant.
    """

    start: tuple[float, ...]
    target: float
    steps: tuple[tuple[str, bool, float], ...]

    def run(self, parameters: Any) -> Any:
        """Compute the output from numbers or nodes."""
        value = parameters[0]
        for name, from_parameters, operand in self.steps:
            other = parameters[int(operand)] if from_parameters else operand
            value = value + other if name == "add" else value - other if name == "sub" else value * other
        return value

    def solved(self, output: float) -> bool:
        """Whether an output is on target to 1 %."""
        return abs(output - self.target) <= 0.01 * abs(self.target)

    def slopes(self, parameters: Any) -> np.ndarray:
        """Return the derivatives of the output by differences of complex steps, which are exact."""
        found = []
        for i in range(len(parameters)):
            shifted = [complex(p, 1e-30 if k == i else 0.0) for k, p in enumerate(parameters)]
            found.append(self.run(shifted).imag / 1e-30)
        return np.array(found)


def random_problem(rng: np.random.Generator) -> Problem:
    """Draw a chain in which every parameter matters, at the start or at a solution, with a target that can be met."""
    while True:
        k = int(rng.integers(2, 6))
        steps = [(str(rng.choice(["add", "sub", "mul"])), True, float(i)) for i in range(1, k)]
        steps += [
            (str(rng.choice(["add", "sub", "mul"])), bool(rng.random() < 0.4), 0.0)
            for _ in range(int(rng.integers(2, 6)))
        ]
        chain = tuple(
            (n, p, v if p and v else float(rng.integers(k)) if p else round(float(rng.uniform(-3, 3)), 2))
            for n, p, v in (steps[int(i)] for i in rng.permutation(len(steps)))
        )
        start, solution = rng.uniform(-5, 5, size=k), rng.uniform(-5, 5, size=k)
        problem = Problem(tuple(np.round(start, 2).tolist()), 0.0, chain)
        target = float(problem.run(np.round(solution, 2).tolist()))
        problem = Problem(problem.start, target, chain)
        scale = max(abs(target), 1.0)
        flat = np.maximum(abs(problem.slopes(problem.start)), abs(problem.slopes(solution))) < 1e-3 * scale
        if 0.1 <= abs(target) <= 1e3 and not flat.any() and not problem.solved(problem.run(problem.start)):
            return problem
