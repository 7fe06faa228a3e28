"""Distributed gradient descent with compressed differences, all clients in one process: what it costs and gains."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.compression.clients import Clients
from paperworks.optimization.compression.compressors import Compressor, Payload
from paperworks.optimization.compression.stepsizes import (
    FLOOR,
    Numbers,
    Rule,
    contraction,
    probabilities,
    smoothness_weights,
    stepsize_ef21,
)

Variant = Literal["ef21", "w", "w-sgd", "w-pp", "rf", "w-rf"]


@dataclass(frozen=True)
class EF21History:
    """What happened in a run, at the start and after each round.

    Parameters
    ----------
    x
        The last point.
    loss
        The mean of the clients' functions.
    grad_norm_sq
        Squared norm of its gradient.
    distance
        G, the weighted squared distance of the shifts from the gradients, in the weights of the guarantee.
    bits_up, bits_down
        Bits that all clients together have sent and received so far.
    bound
        What the theory guarantees of the mean squared gradient of the first 1, 2, ... points; infinite where the step
        is above the one it allows, or gradients are sampled. It holds in expectation where something is random.
    step
        The step size that was used.

    Examples
    --------
    >>> from paperworks.optimization import Identity, LeastSquaresClients
    >>> clients = LeastSquaresClients(torch.ones(2, 1, 1), torch.ones(2, 1))
    >>> history = EF21(clients, Identity()).run(torch.zeros(1), steps=1)
    >>> history.grad_norm_sq, history.rounds_to(0.0)
    (tensor([1., 0.]), 1.0)
    """

    x: Float[Tensor, " d"]
    loss: Float[Tensor, " points"]
    grad_norm_sq: Float[Tensor, " points"]
    distance: Float[Tensor, " points"]
    bits_up: Int64[Tensor, " points"]
    bits_down: Int64[Tensor, " points"]
    bound: Float[Tensor, " steps"]
    step: float

    @property
    def averages(self) -> Float[Tensor, " steps"]:
        """Mean squared gradient of the first 1, 2, ... points, which `bound` bounds."""
        squares = self.grad_norm_sq[:-1]
        return squares.cumsum(0) / torch.arange(1, len(squares) + 1, dtype=squares.dtype)

    def rounds_to(self, target: float) -> float:
        """Return after how many rounds the squared norm of the gradient is first at a target.

        Parameters
        ----------
        target
            The squared norm to get to.

        Returns
        -------
        float
            The number of rounds, infinity where it didn't get there.
        """
        there = (self.grad_norm_sq <= target).nonzero()
        return float(there[0]) if len(there) else math.inf


class EF21:
    """Gradient descent whose clients send compressed differences of their gradient to what they sent before.

    `x' = x - step g`, then each client sends `u_i = C(grad f_i(x') / (n w_i) - g_i)`, adds it to its shift `g_i`, and
    the server adds `w_i u_i` to `g`: algorithms EF21 (equal weights) and EF21-W (weights `L_i / sum L`) of arXiv
    2402.10774. For a deterministic, positively homogeneous compressor such as `TopK` the two are the same.

    Parameters
    ----------
    clients
        The functions, with their smoothness constants.
    compressor
        What is sent of a difference.
    step
        The step size, or the rule of `stepsize_ef21` to take it from.
    variant
        "ef21"; "w", with weights; "w-sgd", with weights and sampled gradients; "w-pp", with weights and clients that
        sometimes take part; "rf" and "w-rf", for rare features, where compression is within each client's own.
    weights
        Weights of the clients, of sum 1, where the variant has some; by default `L_i / sum L`.
    batch_size
        Rows that a client samples its gradient from; all by default.
    participation
        Probability that a client takes part in a round, or one for each client; all do by default.
    warm_start
        Whether the first shifts are "compressed" gradients, or the "full" ones.

    Raises
    ------
    TypeError
        If a rule is to give the step for a compressor that has no constant of contraction.
    ValueError
        If weights don't sum to 1 to 1e-6, or options don't go with the variant.

    Examples
    --------
    >>> from paperworks.optimization import LeastSquaresClients, TopK
    >>> rng = torch.Generator().manual_seed(0)
    >>> A = torch.randn(20, 5, 4, generator=rng, dtype=torch.float64)
    >>> clients = LeastSquaresClients(A, A.sum(dim=2))
    >>> history = EF21(clients, TopK(1)).run(torch.zeros(4, dtype=torch.float64), steps=300)
    >>> history.x
    tensor([1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    >>> bool((history.averages <= history.bound).all())
    True
    """

    def __init__(
        self,
        clients: Clients,
        compressor: Compressor,
        step: float | Rule = "arithmetic",
        variant: Variant = "ef21",
        weights: Numbers | None = None,
        *,
        batch_size: int | None = None,
        participation: float | Numbers | None = None,
        warm_start: Literal["compressed", "full"] = "compressed",
    ) -> None:
        check_choice("variant", variant, get_args(Variant))
        check_choice("warm_start", warm_start, ("compressed", "full"))
        if variant == "w-sgd" and batch_size is None:
            raise ValueError("batch_size is None; variant 'w-sgd' takes the rows of a sample")
        if variant == "w-pp" and participation is None:
            raise ValueError("participation is None; variant 'w-pp' takes probabilities")
        if variant.endswith("rf") and clients.owned is None:
            raise ValueError(f"clients own no variables of their own; variant {variant!r} takes some that do")
        if weights is not None and not variant.startswith("w"):
            raise ValueError(f"weights are given; variant {variant!r} takes none")
        self.clients, self.compressor, self.warm_start = clients, compressor, warm_start
        self.batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        self.participation = participation
        if participation is not None and len(probabilities(participation)) not in (1, clients.n):
            raise ValueError(f"participation has {len(participation)} entries; it takes 1 or {clients.n}")  # type: ignore[arg-type]
        n, self.smooth = clients.n, smoothness_weights(clients.L_i)
        equal = torch.full((n,), 1 / n, dtype=torch.float64)
        given = self.smooth if weights is None else _summing(weights, n)
        self.weights = given if variant.startswith("w") else equal
        self.owned = clients.owned if variant.endswith("rf") else None
        lengths = clients.size if self.owned is None else int(self.owned.sum(dim=1).max())
        self._alpha = compressor.alpha(lengths)
        if isinstance(step, str):
            self.step = self._allowed(step)
        else:
            self.step = check_number("step", step, gt=0)
        # A step of the older rule is guaranteed by the older analysis, in which all clients weigh the same.
        older = self._alpha is not None and self.step <= self._allowed("quadratic") * (1 + FLOOR)
        self._analysis = equal if older and not variant.startswith("w") else self.smooth

    def _allowed(self, rule: Rule) -> float:
        constants = self.clients.L_i.double()
        constants = constants.clamp(min=FLOOR * float(constants.max()))
        return stepsize_ef21(
            self.clients.L, constants, self._alpha, rule, participation=self.participation, owned=self.owned
        )

    def run(
        self,
        x0: Float[Tensor, " d"],
        steps: int,
        *,
        generator: torch.Generator | None = None,
        callback: Callable[[int, Tensor], Any] | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    ) -> EF21History:
        """Run a number of rounds.

        Parameters
        ----------
        x0
            Where to start, one vector.
        steps
            Number of rounds.
        generator
            Draws samples, clients and what compression has at random; torch's global one by default.
        callback
            Called after each round with its number, from 1, and the point.
        progress
            Wraps the range of rounds, as `Run.progress` does.

        Returns
        -------
        EF21History
            Losses, gradients, bits and the guarantee, round by round.

        Raises
        ------
        ValueError
            If `x0` has the wrong length or type, or the iterates leave the range of numbers.
        """
        check_count("steps", steps)
        if x0.shape != (self.clients.size,) or not x0.is_floating_point():
            raise ValueError(f"x0 is {x0.dtype} of shape {tuple(x0.shape)}; it takes {self.clients.size} real numbers")
        with torch.no_grad():
            server = _Server(self, x0, generator)
            records = [server.start()]
            for number in progress(range(steps)) if progress else range(steps):
                records.append(server.round(number))
                if callback:
                    callback(number + 1, server.x)
        loss, squares, distance, up, down = zip(*records, strict=True)
        first = float(loss[0])
        return EF21History(
            x=server.x,
            loss=torch.stack(loss).cpu(),
            grad_norm_sq=torch.stack(squares).cpu(),
            distance=torch.stack(distance).cpu(),
            bits_up=torch.tensor(up),
            bits_down=torch.tensor(down),
            bound=self._bound(first, float(distance[0]), steps),
            step=self.step,
        )

    def _bound(self, loss: float, distance: float, steps: int) -> Float[Tensor, " steps"]:
        T = torch.arange(1, steps + 1, dtype=torch.float64)
        best = 0.0 if self._alpha is None else max(self._allowed("arithmetic"), self._allowed("quadratic"))
        if self.batch_size is not None or self.step > best * (1 + FLOOR) or self._alpha is None:
            return torch.full_like(T, math.inf)
        theta = contraction(self._alpha, self.participation).theta
        shared = 1.0 if self.owned is None else float((self._analysis @ self.owned.double().cpu()).max())
        return (2 * (loss - self.clients.lower_bound) / self.step + shared * distance / theta) / T


class _Server:
    """The state of a run: the point, all shifts and their weighted sum."""

    def __init__(self, method: EF21, x0: Tensor, generator: torch.Generator | None) -> None:
        self.method, self.clients, self.generator = method, method.clients, generator
        self.x, self.n, self.d = x0.clone(), method.clients.n, method.clients.size
        self.w = method.weights.to(x0)
        self.scale = (1 / (self.n * self.w))[:, None]
        self.analysis = (method.weights**2 / method._analysis).to(x0)
        self.shifts = torch.zeros(self.n, self.d, dtype=x0.dtype, device=x0.device)
        self.g = torch.zeros_like(self.x)
        self.up = self.down = 0
        self.plain = method.weights.allclose(method.weights[:1])
        p = method.participation
        self.p = None if p is None else torch.as_tensor(p, dtype=torch.float64).to(x0.device).expand(self.n)
        if method.owned is not None:
            self.places, self.within = _places(method.owned)

    def start(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        loss, gradients = self.clients.evaluate(self.x)
        targets = self._targets(gradients)
        if self.method.warm_start == "full":
            self.shifts.copy_(targets)
            self.g = self.w @ self.shifts
            self.up = 32 * self.n * self.d
        else:
            self._send(targets, None)
        self.down = 32 * self.n * self.d
        return self._record(loss, gradients)

    def round(self, number: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
        self.x = self.x - self.method.step * self.g
        loss, gradients = self.clients.evaluate(self.x)
        if not math.isfinite(float(gradients.sum() + loss.sum())):
            raise ValueError(f"step is {self.method.step:g}; the iterates left the range of numbers in round {number}")
        if self.p is None:
            rows, present = None, self.n
        else:
            drawn = torch.rand(self.n, generator=self.generator, dtype=torch.float64, device=self.x.device)
            rows = (drawn < self.p).nonzero().squeeze(1)
            present = len(rows)
        if present:
            self._send(self._targets(gradients), rows)
        self.down += 32 * present * self.d
        return self._record(loss, gradients)

    def _targets(self, gradients: Tensor) -> Tensor:
        """Return what the shifts are to follow, exact or sampled."""
        if self.method.batch_size is not None:
            gradients = self.clients.sample(self.x, self.method.batch_size, self.generator)
        return gradients if self.plain else gradients * self.scale

    def _send(self, targets: Tensor, rows: Tensor | None) -> None:
        compressor = self.method.compressor
        difference = targets - self.shifts
        if rows is not None:
            difference = difference[rows]
        if self.method.owned is not None:
            places, within = (self.places, self.within) if rows is None else (self.places[rows], self.within[rows])
            payload = compressor.compress(difference.gather(1, places) * within, self.generator)
            change = torch.zeros_like(difference).scatter_add_(1, places, compressor.decompress(payload) * within)
            self._add_dense(change, rows)
        else:
            payload = compressor.compress(difference, self.generator)
            if compressor.sparse:
                self._add_sparse(payload, rows)
            else:
                self._add_dense(compressor.decompress(payload), rows)
        self.up += compressor.sent_bits(payload)

    def _add_sparse(self, payload: Payload, rows: Tensor | None) -> None:
        assert payload.indices is not None
        client = payload.indices // self.d
        place = payload.indices - client * self.d
        if rows is not None:
            client = rows[client]
        self.shifts.view(-1).index_add_(0, client * self.d + place, payload.values)
        self.g.index_add_(0, place, payload.values * self.w[client])

    def _add_dense(self, change: Tensor, rows: Tensor | None) -> None:
        if rows is None:
            self.shifts += change
            self.g += self.w @ change
        else:
            self.shifts[rows] += change
            self.g += self.w[rows] @ change

    def _record(self, loss: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, int, int]:
        error = self.shifts - (gradients if self.plain else gradients * self.scale)
        distance = self.analysis @ error.square().sum(dim=1)
        return loss.mean(), gradients.mean(dim=0).square().sum(), distance, self.up, self.down


def _places(owned: Tensor) -> tuple[Int64[Tensor, "n widest"], Bool[Tensor, "n widest"]]:
    """Return where each client's variables are, filled up to the same number, and 1 for those that are its own."""
    counts = owned.sum(dim=1)
    order = (~owned).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
    within = torch.arange(order.shape[1], device=owned.device) < counts[:, None]
    return order, within


def _summing(weights: Numbers, n: int) -> Float[Tensor, " n"]:
    found = torch.as_tensor(weights, dtype=torch.float64)
    if found.shape != (n,) or not bool((found > 0).all()) or abs(float(found.sum()) - 1) > 1e-6:
        total = float(found.sum())
        raise ValueError(f"weights are {found.numel()} of sum {total:g}; it takes {n} positive ones of sum 1")
    return found
