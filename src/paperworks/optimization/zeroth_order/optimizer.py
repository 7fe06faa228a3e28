"""The optimiser: two forward passes a sample, one byte to send, the same update everywhere."""

import copy
import hashlib
import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.zeroth_order.codecs import CodecName, ScalarCodec
from paperworks.optimization.zeroth_order.directions import Noise, SharedDirection, Stream
from paperworks.optimization.zeroth_order.log import TrainingLog
from paperworks.optimization.zeroth_order.perturbation import (
    Backup,
    Place,
    from_kept_copies,
    in_copies,
    stacked,
    there_and_back,
)
from paperworks.optimization.zeroth_order.recipe import Memory, Recipe, Rule, Scale, weights_hash
from paperworks.optimization.zeroth_order.rounds import START, Round, chained
from paperworks.optimization.zeroth_order.transports import Transport

LARGEST_GROUPS = 255  # whose step sizes a round holds
_KEPT = ("eps", "samples", "machine_id", "exact", "transport", "restore_every", "log", "round", "shift", "digest",
         "memory", "nonfinite", "update_norm")  # fmt: skip


class OneByteSPSA(torch.optim.Optimizer):
    """Stochastic approximation by random perturbations whose projected gradients take one byte each (arXiv 2306.10015).

    In round t machine m evaluates, for each of its samples k, its own loss at ``theta + eps z`` and ``theta - eps z``
    along a direction z that (run, m, t, k) determines, and sends ``g = (l+ - l-) / (2 eps)`` in one byte. All machines
    subtract ``lr w sum g z`` over all machines and samples in one fixed order, with ``w = 1/sqrt(N)`` or ``1/N``, and
    so stay the same to the bit. Nothing else is sent, and no gradient is ever formed.

    Put the network into evaluation mode: both losses of a sample need the same function. All given parameters move,
    also those that the loss doesn't depend on, and those that require no gradient: give those alone that are trained.
    Weights of half precision may swallow perturbations: take a larger `eps`, or keep them in float32.

    Parameters
    ----------
    params
        Parameters, or groups of them; tied ones count once. All machines give them in the same order.
    lr
        Step size: a number, or one in each group. With ``scale="sqrt"`` steps grow with the square root of N, so rates
        of MeZO, which takes means, are to be divided by it.
    eps
        Length of the perturbation; 1e-3 is the paper's.
    samples
        How many samples this machine evaluates in a round.
    codec
        A `ScalarCodec` or its name: "int8-log" is one byte, "fp32", "fp16" and "sign" are there for comparison.
    noise
        Law of the directions' entries, as in `SharedDirection`.
    scale
        "sqrt", the official script's, or "mean".
    transport
        Joins the machines; None where there is one alone.
    machine_id
        Who this is, different on each machine.
    run_seed
        Which run this is, the same on all machines.
    weight_decay
        Decay of the weights, apart from the direction.
    variance_scaling
        Whether a tensor's direction is scaled by the deviation of its first weights over the mean one. What the factors
        are goes into the log.
    exact
        Whether the weights stay untouched while losses are evaluated: what a function of torch gets of them is replaced
        by a perturbed copy for that call alone, so that one call's tensors are all the memory it takes. Otherwise a
        copy of the weights is kept, they are overwritten, and put back from it. Both are free of drift. What doesn't
        call torch in Python, such as a compiled network, needs the second.
    restore_every
        The paper's way with memory: weights are moved there and back in place, nothing is copied, and after this many
        rounds (16 in the paper) they are set to those of a backup in a file and the rounds since then applied again,
        which undoes what rounding left. Between, machines agree to rounding only. 0 doesn't.
    check_every
        After how many rounds machines compare hashes of their weights; the logs are compared in each.
    rule, betas
        "sgd", "momentum" (the sum and `betas[0]` times those before) or "adam", from the sums of scalars times
        directions that all machines rebuild: nothing more is sent, but one or two numbers are kept for each weight.
    scale_weight
        Above 0, the perturbation's length is learned: its logarithm is moved as a weight whose direction has entries so
        much smaller.

    Raises
    ------
    ValueError
        For values out of range, or parameters that aren't of floating-point numbers.

    Examples
    --------
    >>> w = torch.ones(10)
    >>> optimiser = OneByteSPSA([w], lr=0.05, samples=4)
    >>> for _ in range(100):
    ...     loss = optimiser.step(lambda: w.square().sum())
    >>> bool(loss < 0.5), len(optimiser.log), optimiser.log.rounds[0].messages[0][1]
    (True, 100, 4)
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        eps: float = 1e-3,
        samples: int = 1,
        codec: CodecName | ScalarCodec = "int8-log",
        noise: Noise = "gaussian-lut",
        scale: Scale = "sqrt",
        transport: Transport | None = None,
        machine_id: int = 0,
        run_seed: int = 0,
        *,
        weight_decay: float = 0.0,
        variance_scaling: bool = False,
        exact: bool = False,
        restore_every: int = 0,
        check_every: int = 64,
        rule: Rule = "sgd",
        betas: tuple[float, float] = (0.9, 0.999),
        scale_weight: float = 0.0,
    ) -> None:
        check_number("lr", lr, ge=0)
        self.eps = check_number("eps", eps, gt=0)
        self.samples = check_count("samples", samples, at_most=2**14 - 1)
        self.machine_id = check_count("machine_id", machine_id, at_least=0, at_most=2**16 - 1)
        if transport is not None and not isinstance(transport, Transport):
            raise TypeError(f"transport is {type(transport).__name__}; it takes a Transport")
        super().__init__(params, {"lr": lr})
        self.exact, self.transport = bool(exact), transport
        factors = self._factors() if variance_scaling else ()
        coder = codec if isinstance(codec, ScalarCodec) else ScalarCodec(codec)
        recipe = Recipe(run_seed, noise, coder, scale, float(weight_decay), factors, check_every, rule,
                        tuple(map(float, betas)), float(scale_weight))  # type: ignore[arg-type]  # fmt: skip
        self.restore_every = check_count("restore_every", restore_every, at_least=0)
        if restore_every and (exact or check_every % restore_every):
            raise ValueError(f"restore_every is {restore_every}; it takes a divisor of check_every, {check_every}, and "
                             "exact=False")  # fmt: skip
        self.log = TrainingLog(recipe)
        """All rounds so far, which is all that a training is."""
        self.round, self.shift, self.digest = 0, 0, START
        self.memory = Memory()
        """What the next update needs of the rounds so far."""
        self._backup: tuple[Backup, Memory, list[Round]] | None = None
        self.nonfinite = 0
        """How many samples had a loss that was not finite, and were sent as 0."""
        self.update_norm = math.nan
        """Norm of the last update."""
        if transport is not None:
            said = json.dumps([recipe.to_json(), [len(group["params"]) for group in self.param_groups]]).encode()
            self.digest = hashlib.blake2b(said + weights_hash(self.tensors), digest_size=8).digest()
            transport.attach(self)

    @property
    def recipe(self) -> Recipe:
        """How bytes become updates."""
        return self.log.recipe

    @property
    def last_eps(self) -> float:
        """Length of the perturbation now, `eps` unless it is learned."""
        return self.eps * math.exp(self.memory.log_scale)

    @property
    def tensors(self) -> list[Tensor]:
        """All parameters, in their order."""
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters behind those that are there; all machines do it after the same round.

        Parameters
        ----------
        param_group
            As in torch: "params", and "lr" where it differs.
        """
        given = param_group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        if not any(isinstance(p, tuple) for p in params):
            params = list(dict.fromkeys(params))
        for p in params:
            tensor = p[1] if isinstance(p, tuple) else p
            if isinstance(tensor, Tensor) and not tensor.is_floating_point():
                raise ValueError(f"params has a tensor of {tensor.dtype}; it takes floating-point numbers")
            if isinstance(tensor, Tensor) and tensor.layout != torch.strided:
                raise ValueError(f"params has a tensor of layout {tensor.layout}; it takes dense ones")
        if len(self.param_groups) == LARGEST_GROUPS:
            raise ValueError(f"params has more groups than {LARGEST_GROUPS}; it takes as many at most")
        check_number("lr", param_group.get("lr", self.defaults["lr"]), ge=0)
        if hasattr(self, "_backup"):
            self.restore()
            self._backup = None
        super().add_param_group({**param_group, "params": params})

    def __getstate__(self) -> dict[str, Any]:
        if self.transport is not None:
            name = type(self.transport).__name__
            raise TypeError(f"transport is {name}; it takes None where an optimiser is copied")
        self.restore()
        return super().__getstate__() | {name: getattr(self, name) for name in _KEPT} | {"_backup": None}

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state and where the training is; `log` is kept by itself.

        Returns
        -------
        dict
            What `load_state_dict` takes.
        """
        here = {"round": self.round, "shift": self.shift, "digest": self.digest, "nonfinite": self.nonfinite}
        self.restore()
        moments = [
            {i: torch.from_numpy(m.copy()) for i, m in found.items()}
            for found in (self.memory.first, self.memory.second)
        ]
        memory = {"moments": moments, "log_scale": self.memory.log_scale}
        return {**super().state_dict(), "one_byte": {**here, **memory, "recipe": self.recipe.to_json()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another optimiser was; the weights are the caller's to load.

        Parameters
        ----------
        state_dict
            What `state_dict` returned.
        """
        if "one_byte" not in state_dict:
            raise ValueError("state_dict has no 'one_byte'; it takes the state of a OneByteSPSA")
        here = state_dict["one_byte"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "one_byte"})
        first, second = ({i: m.numpy().copy() for i, m in found.items()} for found in here.get("moments", ({}, {})))
        memory = Memory(first, second, here.get("log_scale", 0.0))
        self._go_to(Recipe.from_json(here["recipe"]), here["round"], here["shift"], here["digest"], memory)
        self.nonfinite = here["nonfinite"]

    def _go_to(self, recipe: Recipe, t: int, shift: int, digest: bytes, memory: Memory) -> None:
        self.round, self.shift, self.digest, self.memory, self._backup = t, shift, digest, memory, None
        rounds = self.log.rounds if self.log.t == t and self.recipe == recipe else ()
        self.log = TrainingLog(recipe, rounds)

    @torch.no_grad()
    def step(self, closure: Callable[..., Any], paired: bool = False) -> Any:  # type: ignore[override]
        """Take part in a round.

        Parameters
        ----------
        closure
            Returns the loss as a number; it is called twice for each sample, without gradients, and with the number k
            of the sample where it takes an argument that has no default. Both calls of a sample have to see the
            same data.
        paired
            Whether the closure evaluates both sides in one call: it then takes k and, for each parameter, a tensor that
            has both of its perturbed versions along a new first dimension, and returns the two losses. This suits
            `torch.func.vmap` of `functional_call`, where few weights are perturbed.

        Returns
        -------
        float or Tensor or None
            Mean loss of this machine's samples, None where the others had closed the round without it.

        Raises
        ------
        ValueError
            Where the closure doesn't return one number.
        ReplicaDivergence
            Where this machine's weights differ from the others'.
        """
        if not callable(closure):
            raise TypeError(f"closure is {type(closure).__name__}; it takes a function that returns the loss")
        called = closure if paired or _takes_argument(closure) else lambda k: closure()
        if self.restore_every and self._backup is None:
            self._backup = Backup(self.tensors), copy.deepcopy(self.memory), []
        if self.transport is None:
            loss, mine = self._evaluate(called, paired)
            self.apply(mine)
            return loss
        try:
            loss, closed = None, self.transport.poll(self.round)
            if closed is None:
                loss, mine = self._evaluate(called, paired)
                closed = self.transport.exchange(mine, self.digest)
            self.apply(closed)
        finally:
            self.transport.settle()
        return loss

    def _evaluate(self, closure: Callable[..., Any], paired: bool) -> tuple[Any, Round]:
        """Return the mean loss, and the round with this machine's message alone."""
        lrs = tuple(check_number("lr", float(group["lr"]), ge=0) for group in self.param_groups)
        found = [self._sample(closure, k, paired) for k in range(self.samples)]
        random_state = None
        if self.recipe.codec.stochastic:
            random_state = np.random.default_rng([self.recipe.run_seed, self.machine_id, self.round])
        payload = self.recipe.codec.encode([g for g, _ in found], self.shift, random_state)
        mine = Round(self.round, lrs, self.shift, ((self.machine_id, self.samples, payload),))
        return sum(mean for _, mean in found) / len(found), mine

    def apply(self, closed: Round) -> None:
        """Make the update of a round, and note it.

        Parameters
        ----------
        closed
            The round that comes next, with the messages of all machines.
        """
        if (closed.t, closed.shift) != (self.round, self.shift):
            raise ValueError(f"closed is round {closed.t} at shift {closed.shift}; "
                             f"it takes round {self.round} at {self.shift}")  # fmt: skip
        self.update_norm = self._update(closed)
        self.log.append(closed)
        self.shift = self.recipe.codec.next_shift(b"".join(data for _, _, data in closed.messages), self.shift)
        self.digest = chained(self.digest, closed)
        self.round += 1
        if self._backup is not None:
            self._backup[2].append(closed)
            if self.round % self.restore_every == 0:
                self.restore()
        if self.round % self.recipe.check_every == 0:
            self.digest = weights_hash(self.tensors)[:8]

    def _update(self, closed: Round) -> float:
        return self.recipe.apply([group["params"] for group in self.param_groups], closed, self.memory)

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what rounding left in weights that were moved there and back, as is done every `restore_every` rounds.

        The weights are set to those of the last time, and the rounds since then are applied again.
        """
        if self._backup is None or not self._backup[2]:
            return
        backup, memory, rounds = self._backup
        backup.restore(self.tensors)
        self.memory = memory
        for closed in rounds:
            self._update(closed)
        backup.save(self.tensors)
        self._backup = backup, copy.deepcopy(self.memory), []

    def _factors(self) -> tuple[float, ...]:
        deviations = [float(p.detach().double().std(correction=0)) for p in self.tensors]
        mean = sum(deviations) / len(deviations)
        if not mean > 0 or not math.isfinite(mean):
            raise ValueError("variance_scaling is True; it takes finite weights that aren't all constant")
        return tuple(d / mean for d in deviations)

    def _sample(self, closure: Callable[..., Any], k: int, paired: bool) -> tuple[float, Any]:
        """Return the projected gradient along the k-th direction, and the mean of the two losses."""
        stream = SharedDirection(self.recipe.run_seed, self.recipe.noise).stream(self.machine_id, self.round, k)
        places = self._places(stream)
        if paired:
            both = closure(k, stacked(places, stream))
            if not isinstance(both, Tensor) or both.shape != (2,):
                got = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
                raise ValueError(f"closure returned {got}; it takes a tensor of two losses where paired is True")
            plus, minus = both[0], both[1]
        elif self.exact:
            plus, minus = in_copies(places, stream, lambda: closure(k))
        elif self.restore_every:
            plus, minus = there_and_back(places, stream, lambda: closure(k))
        else:
            plus, minus = from_kept_copies(places, stream, lambda: closure(k))
        g = (_number(plus) - _number(minus)) / (2 * self.last_eps)
        if not math.isfinite(g):
            self.nonfinite += 1
            g = 0.0
        return g, (plus + minus) / 2

    def _places(self, stream: Stream) -> list[Place]:
        params, recipe, eps, longer = self.tensors, self.recipe, self.last_eps, 1.0
        if recipe.scale_weight:
            at = recipe.scale_offset(params)
            longer = math.exp(recipe.scale_weight * float(stream.read(at, at + 1)[0]))
        factors = recipe.factors or (1.0,) * len(params)
        factors += (1.0,) * (len(params) - len(factors))
        return [
            Place(p, offset, eps * factor * longer, eps * factor / longer)
            for p, offset, factor in zip(params, recipe.offsets(params), factors, strict=True)
        ]


def _number(loss: Any) -> float:
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise ValueError(f"closure returned a tensor of shape {tuple(loss.shape)}; it takes one number")
    try:
        return float(loss)
    except (TypeError, ValueError):
        raise ValueError(f"closure returned {type(loss).__name__}; it takes one number") from None


def _takes_argument(closure: Callable[..., Any]) -> bool:
    try:
        taken = inspect.signature(closure).parameters.values()
    except ValueError:  # of a built-in: the usual closure takes none
        return False
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in taken)
