"""How the bytes of a round become an update, the same to the bit on all machines."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.zeroth_order.codecs import ScalarCodec
from paperworks.optimization.zeroth_order.directions import CHUNK, Noise, SharedDirection, as_tensor
from paperworks.optimization.zeroth_order.rounds import Round

Scale = Literal["sqrt", "mean"]
Rule = Literal["sgd", "momentum", "adam"]
ADAM_EPS = 1e-8
LARGEST_LOG_SCALE = 5.0  # perturbations get 148 times longer or shorter at most


@dataclass
class Memory:
    """What updates keep of the rounds before them. The bytes alone determine it, whatever the weights are.

    Parameters
    ----------
    first, second
        Moments of the estimated gradient, by the tensor's number, as flat float32.
    log_scale
        Logarithm of the factor by which the length of perturbations has changed.
    """

    first: dict[int, np.ndarray] = field(default_factory=dict)
    second: dict[int, np.ndarray] = field(default_factory=dict)
    log_scale: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """All that turns bytes into an update; it is the same on all machines.

    Parameters
    ----------
    run_seed, noise
        Those of the directions.
    codec
        How bytes are read.
    scale
        "sqrt" divides the sum over N samples by sqrt(N), as the official script does, and "mean" by N.
    weight_decay
        Decay of the weights, apart from the direction.
    factors
        By what each tensor's direction is multiplied, in their order; empty for 1.
    check_every
        After how many rounds the weights themselves go into the digest.
    rule
        What becomes of the sum: "sgd" subtracts it, "momentum" what it and the sums before it have become with
        `betas[0]`, and "adam" divides its mean by the root of its squares' mean, both corrected for their start.
    betas
        Decay of the first and of the second moment.
    scale_weight
        How strongly the logarithm of the perturbations' length is perturbed and moved along with the weights; 0 keeps
        the length.

    Examples
    --------
    >>> Recipe.from_json(Recipe(noise="rademacher").to_json()).noise
    'rademacher'
    """

    run_seed: int = 0
    noise: Noise = "gaussian-lut"
    codec: ScalarCodec = field(default_factory=ScalarCodec)
    scale: Scale = "sqrt"
    weight_decay: float = 0.0
    factors: tuple[float, ...] = ()
    check_every: int = 64
    rule: Rule = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    scale_weight: float = 0.0

    def __post_init__(self) -> None:
        SharedDirection(self.run_seed, self.noise)  # checks both
        check_choice("scale", self.scale, get_args(Scale))
        check_number("weight_decay", self.weight_decay, ge=0)
        check_count("check_every", self.check_every)
        check_choice("rule", self.rule, get_args(Rule))
        for factor in self.factors:
            check_number("factors", factor, ge=0)
        if len(self.betas) != 2:
            raise ValueError(f"betas is {self.betas}; it takes two numbers")
        for number, beta in enumerate(self.betas):
            check_number(f"betas[{number}]", beta, ge=0, lt=1)
        check_number("scale_weight", self.scale_weight, ge=0)

    @property
    def remembers(self) -> bool:
        """Whether an update depends on the rounds before."""
        return self.rule != "sgd" or self.scale_weight > 0

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON holds it.

        Returns
        -------
        dict
            Numbers, strings, lists and one more dict.
        """
        return {**asdict(self), "factors": list(self.factors), "betas": list(self.betas)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Recipe":
        """Read what `to_json` returned.

        Parameters
        ----------
        found
            The recipe as JSON holds it.

        Returns
        -------
        Recipe
            The recipe that was written.

        Raises
        ------
        ValueError
            Where it isn't one.
        """
        try:
            betas = tuple(found.get("betas", cls.betas))
            return cls(**{**found, "codec": ScalarCodec(**found["codec"]), "factors": tuple(found["factors"]),
                          "betas": betas})  # fmt: skip
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"found is no recipe: {error}") from None

    def offsets(self, params: Sequence[Tensor]) -> list[int]:
        """Return where in a direction each tensor begins.

        Parameters
        ----------
        params
            The tensors in their order.

        Returns
        -------
        list[int]
            One index for each tensor.
        """
        block = SharedDirection(self.run_seed, self.noise).block
        sizes = [-(-p.numel() // block) * block for p in params]
        return list(itertools.accumulate(sizes[:-1], initial=0)) if sizes else []

    def scale_offset(self, params: Sequence[Tensor]) -> int:
        """Return where in a direction the entry of the perturbations' length is: behind all tensors.

        Parameters
        ----------
        params
            The tensors in their order.

        Returns
        -------
        int
            Its index in each direction.
        """
        return self.offsets([*params, params[-1]])[-1]

    def check(self, found: Round, groups: int) -> None:
        """Raise ValueError where a round doesn't fit this recipe.

        Parameters
        ----------
        found
            The round to be checked.
        groups
            How many groups of parameters there are.
        """
        if not 1 <= len(found.lrs) <= groups:
            raise ValueError(
                f"round {found.t} has {len(found.lrs)} step sizes; it takes one for each of {groups} groups"
            )
        if min(found.lrs) < 0 or not found.messages:
            raise ValueError(f"round {found.t} has step sizes {found.lrs} and {len(found.messages)} machines")
        for _, count, data in found.messages:
            if count < 1:
                raise ValueError(f"round {found.t} has a machine without samples")
            self.codec.decode(data, count, found.shift)

    @torch.no_grad()
    def apply(self, groups: Sequence[Sequence[Tensor]], found: Round, memory: Memory | None = None) -> float:
        """Make the update of a round, chunk by chunk in one fixed order, so that all machines get the same bits.

        Parameters
        ----------
        groups
            The parameters of each group, changed in place.
        found
            The round that is applied.
        memory
            What the rounds before it left, changed in place; the first round takes `Memory()`. Without momentum, Adam
            and a scale that is learned, nothing is kept.

        Returns
        -------
        float
            Norm of the update.
        """
        self.check(found, len(groups))
        if memory is None:
            if self.remembers:
                raise ValueError(f"memory is None; it takes what the rounds before left, for {self.rule}")
            memory = Memory()
        directions = SharedDirection(self.run_seed, self.noise)
        terms = [
            (g, directions.stream(machine, found.t, k))
            for machine, count, data in found.messages
            for k, g in enumerate(self.codec.decode(data, count, found.shift))
        ]
        total = math.sqrt(len(terms)) if self.scale == "sqrt" else len(terms)
        live = [(g, stream) for g, stream in terms if g]
        params = [(p, lr) for group, lr in zip(groups, found.lrs, strict=False) for p in group]
        square = 0.0
        for number, ((p, lr), offset) in enumerate(zip(params, self.offsets([p for p, _ in params]), strict=True)):
            factor = self.factors[number] if number < len(self.factors) else 1.0
            flat = p.view(-1) if p.is_contiguous() else p.reshape(-1)
            if self.weight_decay:
                flat.mul_(1 - lr * self.weight_decay)
            for start in range(0, len(flat), CHUNK):
                stop = min(start + CHUNK, len(flat))
                update = np.zeros(stop - start, np.float32)
                for g, stream in live:
                    z = stream.read(offset + start, offset + stop)
                    update += np.multiply(z, g, out=z)
                if self.rule == "sgd":
                    update *= np.float32(-lr / total * factor)
                else:
                    update *= np.float32(factor / total)
                    self._moved(memory, number, len(flat), slice(start, stop), update, found.t)
                    update *= np.float32(-lr)
                square += float(np.dot(update, update))
                flat[start:stop] += as_tensor(update, flat)
            if not p.is_contiguous():
                p.copy_(flat.view(p.shape))
        if self.scale_weight and live:
            at = self.scale_offset([p for group in groups for p in group])
            pull = sum(float(g) * float(stream.read(at, at + 1)[0]) for g, stream in live)
            moved = memory.log_scale - found.lrs[0] * self.scale_weight / total * pull
            memory.log_scale = max(-LARGEST_LOG_SCALE, min(LARGEST_LOG_SCALE, moved))
        return math.sqrt(square)

    def _moved(self, memory: Memory, number: int, size: int, part: slice, d: np.ndarray, t: int) -> None:
        """Take an estimate into the moments of a tensor, and overwrite it with what they give."""
        decay, slow = (np.float32(beta) for beta in self.betas)
        first = memory.first.setdefault(number, np.zeros(size, np.float32))[part]
        first *= decay
        if self.rule == "momentum":
            first += d
            d[:] = first
            return
        second = memory.second.setdefault(number, np.zeros(size, np.float32))[part]
        first += d * (1 - decay)
        second *= slow
        second += np.square(d) * (1 - slow)
        np.sqrt(second * np.float32(1 / (1 - self.betas[1] ** (t + 1))), out=d)
        d += np.float32(ADAM_EPS)
        np.divide(first * np.float32(1 / (1 - self.betas[0] ** (t + 1))), d, out=d)


def weights_hash(params: Iterable[Tensor]) -> bytes:
    """Return a hash of all bytes of the weights."""
    found = hashlib.blake2b(digest_size=16)
    for p in params:
        found.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()
