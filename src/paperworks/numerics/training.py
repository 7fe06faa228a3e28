"""The training loop of small networks, and what its loops share: schedules, averages, early stopping."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_number

Network = TypeVar("Network", bound=nn.Module)
Progress = Callable[..., Iterable[Any]]  # like `Run.progress`


def silent(items: Iterable[Any], label: str = "") -> Iterator[Any]:
    """Report no progress.

    Parameters
    ----------
    items
        What a loop goes through.
    label
        Words for whoever watches, not shown.

    Returns
    -------
    iterator
        The same items.

    Examples
    --------
    >>> list(silent(range(3), label="training"))
    [0, 1, 2]
    """
    yield from items


def train(
    loss: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    steps: int,
    *,
    schedule: Callable[[int], float] | None = None,
    clip: float | Callable[[int], float] = math.inf,
    callback: Callable[[int, float], bool | None] | None = None,
    progress: Progress = silent,
    label: str = "training",
) -> Float[np.ndarray, " steps"]:
    """Minimise a loss by gradient steps.

    Parameters
    ----------
    loss
        ``loss(step)`` returns the loss of a step, with a graph; it draws its own minibatch from a generator of its own,
        so that the same seeds give the same training.
    optimizer
        One, or several that share the parameters among them.
    steps
        Number of steps.
    schedule
        ``schedule(step)``, the share of its own rates that each optimiser takes in a step; 1 by default.
    clip
        Greatest norm of the gradient of all parameters together, a number or a function of the step; no bound by
        default.
    callback
        ``callback(step, loss)``, called after each step; where it returns True, as `EarlyStopping` does, training ends.
    progress
        Wraps the range of steps, as `Run.progress` does.
    label
        What `progress` calls it.

    Returns
    -------
    ndarray
        The loss of each step that was taken.

    Raises
    ------
    ValueError
        For fewer than one step, or a bound of the norm that isn't positive.
    FloatingPointError
        Where a loss is NaN or infinite; the step is not taken.

    Examples
    --------
    >>> weight = torch.ones(1, requires_grad=True)
    >>> losses = train(lambda step: weight.square().sum(), torch.optim.SGD([weight], 0.25), 3)
    >>> losses.tolist(), weight.item()
    ([1.0, 0.25, 0.0625], 0.125)
    """
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    groups = [group for o in optimizers for group in o.param_groups]
    parameters = [p for group in groups for p in group["params"]]
    rates = [group["lr"] for group in groups]
    losses: list[float] = []
    for step in progress(range(check_count("steps", steps)), label=label):
        if schedule is not None:
            share = schedule(step)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * share
        for o in optimizers:
            o.zero_grad(set_to_none=True)
        value = loss(step)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"loss is {losses[-1]} in step {step}; lower the optimizer's lr, or set clip")
        value.backward()
        bound = clip(step) if callable(clip) else clip
        if not bound > 0:
            raise ValueError(f"clip is {bound!r}; it takes a number > 0")
        if bound < math.inf:
            nn.utils.clip_grad_norm_(parameters, bound)
        for o in optimizers:
            o.step()
        if callback is not None and callback(step, losses[-1]):
            break
    return np.array(losses)


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Return the share of the full rate at a step: rising evenly to 1, then falling to 0 along a cosine.

    Parameters
    ----------
    step
        From 0 on.
    warmup
        Steps of the rise; 0 for none.
    steps
        Number of steps of the whole training; the cosine would be 0 in the step after the last.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> [warmup_cosine(step, 2, 6) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))) / 2


class ExponentialAverage:
    """A moving average of a network's weights, with a decay that grows in the first steps.

    Parameters
    ----------
    network
        The network whose weights are averaged; `network` of the average is a frozen copy in evaluation mode.
    decay
        How much of the average a step keeps: at most ``(1 + step) / (10 + step)`` in the first steps.

    Raises
    ------
    ValueError
        For a decay outside [0, 1].

    Examples
    --------
    >>> network = nn.Linear(1, 1)
    >>> average = ExponentialAverage(network, 0.9)
    >>> _ = network.weight.data.add_(1.0)
    >>> average.update(0)
    >>> round((network.weight - average.network.weight).item(), 4)
    0.1
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = check_number("decay", decay, ge=0, le=1)
        self.network: Any = copy.deepcopy(network).eval().requires_grad_(False)
        self._sources: list[Tensor] = list(network.parameters())
        self._averages: list[Tensor] = list(self.network.parameters())
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the present weights in; buffers are copied.

        Parameters
        ----------
        step
            The step that was just taken, from 0 on.
        """
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._sources, share)  # one call for all weights
        for mine, theirs in self._buffers:
            mine.copy_(theirs)


class EarlyStopping:
    """A callback of `train` that ends it where a value no longer falls, and brings the best weights back.

    Parameters
    ----------
    network
        The network whose best weights are kept.
    validate
        Returns the value to be low, such as the loss of held-out samples.
    patience
        Checks without a new least value after which training ends.
    every
        Steps from one check to the next.

    Raises
    ------
    ValueError
        For counts below 1.

    Examples
    --------
    >>> network = nn.Linear(1, 1, bias=False)
    >>> stopping = EarlyStopping(network, lambda: network.weight.square().item(), patience=2)
    >>> optimizer = torch.optim.SGD(network.parameters(), 1.5)  # too large: it moves away
    >>> len(train(lambda step: network.weight.square().sum(), optimizer, 100, callback=stopping))
    3
    """

    def __init__(self, network: nn.Module, validate: Callable[[], float], patience: int = 10, every: int = 1) -> None:
        self.network, self.validate = network, validate
        self.patience, self.every = check_count("patience", patience), check_count("every", every)
        self.best, self.best_step, self.checks_since = math.inf, -1, 0
        self._weights: dict[str, Tensor] = {}

    def __call__(self, step: int, loss: float) -> bool:
        """Check where it is time to; return whether to stop, with the best weights in place."""
        if (step + 1) % self.every:
            return False
        training = self.network.training
        with torch.no_grad():
            value = float(self.validate())
        self.network.train(training)
        if value < self.best:
            self.best, self.best_step, self.checks_since = value, step, 0
            self._weights = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
            return False
        self.checks_since += 1
        if self.checks_since < self.patience:
            return False
        self.restore()
        return True

    def restore(self) -> None:
        """Put the best weights back, as after a training that ended without being stopped."""
        if self._weights:
            self.network.load_state_dict(self._weights)


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers with an activation between each two.

    Parameters
    ----------
    sizes
        Inputs, hidden widths and outputs.
    activation
        Makes what follows each layer but the last.

    Returns
    -------
    nn.Sequential
        From (..., inputs) to (..., outputs).

    Raises
    ------
    ValueError
        For fewer than two sizes.

    Examples
    --------
    >>> [type(layer).__name__ for layer in mlp([2, 8, 1], nn.Tanh)]
    ['Linear', 'Tanh', 'Linear']
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes is {list(sizes)}; it takes inputs and outputs at least")
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])
