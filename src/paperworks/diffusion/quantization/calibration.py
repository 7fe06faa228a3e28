"""Calibration sets: what a diffusion network sees while a sampler runs it, and what it might be shown instead."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_finite
from paperworks.diffusion.models import wrap_model
from paperworks.diffusion.quantization.times import NDTC, TimeLaw
from paperworks.diffusion.sampling import ModelFn
from paperworks.diffusion.schedules import NoiseSchedule

Mode = Literal["denoise", "noise", "raw", "raw_forward"]
Sampler = Callable[[ModelFn, Tensor], Any]


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of a network: states, their times, and what they are conditioned on, one row per sample.

    Parameters
    ----------
    x
        States of shape (n, ...).
    t
        Times, as the network takes them.
    conditions
        Further positional arguments.
    named
        Arguments by name.

    Raises
    ------
    ValueError
        Where the set is empty, not finite, or the rows don't match.

    Examples
    --------
    >>> calibration = CalibrationSet(torch.zeros(10, 1, 8, 8), torch.arange(10.0))
    >>> len(calibration), [len(args[0]) for args, _ in calibration.batches(4)]
    (10, [4, 4, 2])
    """

    x: Float[Tensor, " n *shape"]
    t: Tensor
    conditions: tuple[Tensor, ...] = ()
    named: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.x):
            raise ValueError("x is empty; a calibration set takes at least one sample")
        check_finite("x", self.x)
        check_finite("t", self.t)
        numbered = {f"condition {i}": tensor for i, tensor in enumerate(self.conditions)}
        for name, tensor in {"t": self.t, **numbered, **self.named}.items():
            if len(tensor) != len(self.x):
                raise ValueError(f"{name} has {len(tensor)} rows and x {len(self.x)}; they take one row per sample")

    def __len__(self) -> int:
        return len(self.x)

    def batches(
        self, size: int, device: torch.device | None = None
    ) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
        """Go through the set as positional and named arguments of the network.

        Parameters
        ----------
        size
            Rows of a batch, the last one perhaps smaller.
        device
            Where to put the batches, by default where the set is.

        Returns
        -------
        Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]
            Positional and named arguments, batch by batch.
        """
        for start in range(0, len(self), check_count("size", size)):
            yield self.rows(slice(start, start + size), device)

    def rows(
        self, index: slice | Tensor, device: torch.device | None = None
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return some rows as positional and named arguments of the network.

        Parameters
        ----------
        index
            Which rows, as tensors are indexed.
        device
            Where to put them, by default where the set is.

        Returns
        -------
        tuple[tuple[Tensor, ...], dict[str, Tensor]]
            Some rows as positional and named arguments of the network.
        """
        args = tuple(tensor[index].to(device) for tensor in (self.x, self.t, *self.conditions))
        return args, {name: tensor[index].to(device) for name, tensor in self.named.items()}


def collect_calibration(
    network: nn.Module,
    schedule: NoiseSchedule | Any,
    shape: Sequence[int],
    n: int = 1024,
    *,
    generator: torch.Generator,
    mode: Mode = "denoise",
    times: TimeLaw | None = None,
    steps: int = 50,
    model_fn: ModelFn | None = None,
    sampler: Sampler | None = None,
    images: Float[Tensor, " m *shape"] | None = None,
    batch_size: int | None = None,
    legacy_pairing: bool = False,
) -> CalibrationSet:
    """Build the set of inputs on which a network's activation ranges are found.

    In mode ``denoise`` one run of the full-precision sampler gives all of it (NDTC, arXiv 2211.15736, algorithm 1): the
    time of each of `n` trajectories is drawn first, and when the sampler gets there, that trajectory's state is kept,
    together with exactly the time and conditions that the network is called with.

    Parameters
    ----------
    network
        What will be quantised. The set holds its own inputs, whatever `model_fn` puts around it.
    schedule
        Noise schedule; or a scheduler with the interface of diffusers, which is then stepped with the network itself.
    shape
        Shape of one state.
    n
        Number of samples (1024 in the released code).
    generator
        Draws noise, times and images.
    mode
        ``denoise``: states of the sampler. ``noise``: pure noise at any time. ``raw``: images, not noised, at any time.
        ``raw_forward``: images with the noise of their time.
    times
        Law of the times on the sampler's grid; `NDTC` with mean and deviation 0.4 by default.
    steps
        Number of steps of the default sampler, DDIM.
    model_fn
        What the sampler calls, ``model_fn(x, t) -> noise``, by way of `network`; by default ``wrap_model(network,
        schedule)``. Conditions it holds have `batch_size` rows.
    sampler
        Runs `model_fn` from noise on a grid of times that doesn't depend on the noise:
        ``lambda model_fn, x: PNDMSampler(model_fn, schedule).sample(x, 50)``.
    images
        For the modes that need them.
    batch_size
        Trajectories at once; all by default.
    legacy_pairing
        Pair as the released code does by mistake: the state after the k-th step from the noise with the k-th time from
        the data.

    Returns
    -------
    CalibrationSet
        The inputs, as many as asked for.

    Raises
    ------
    ValueError
        Where a choice is unknown, images are missing, a time law leaves the grid, the grid depends on the noise, or
        the network is not what the model calls.

    Examples
    --------
    >>> from paperworks.diffusion import NoiseScheduleVP
    >>> class Network(nn.Module):
    ...     def forward(self, x, t):
    ...         return 0 * x
    >>> calibration = collect_calibration(
    ...     Network(), NoiseScheduleVP.linear(), (2,), 8, steps=10, generator=torch.Generator().manual_seed(0)
    ... )
    >>> calibration.x.shape, calibration.t.shape
    (torch.Size([8, 2]), torch.Size([8]))
    """
    check_choice("mode", mode, get_args(Mode))
    check_count("n", n)
    size = n if batch_size is None else min(n, check_count("batch_size", batch_size))
    process = _process(network, schedule, steps, model_fn, sampler)
    if mode.startswith("raw"):
        if images is None or tuple(images.shape[1:]) != tuple(shape):
            got = None if images is None else tuple(images.shape)
            raise ValueError(f"images is {got}; mode {mode!r} takes images of shape {tuple(shape)}")
        check_finite("images", images)
    grid = _grid_of(process, shape)
    ranks = (NDTC() if times is None else times).draw(n, len(grid), generator)
    if ranks.min() < 0 or ranks.max() >= len(grid):
        raise ValueError(f"times drew ranks {int(ranks.min())} to {int(ranks.max())}; the grid has {len(grid)} times")
    # Ranks count from the clean end; a sampler that looks ahead may call at times that don't fall steadily.
    order = torch.tensor(grid, dtype=torch.float64).argsort(stable=True)
    captured = []
    with torch.no_grad():
        for part in ranks.split(size):
            noise = process.sigma * torch.randn(len(part), *shape, generator=generator)
            calls = order[part]
            if mode == "denoise":
                x = _states_at(process, noise, grid, part + 1 if legacy_pairing else calls)
            elif mode == "noise":
                x = noise
            else:
                assert images is not None
                x = images[torch.randint(len(images), (len(part),), generator=generator)].to(noise)
                if mode == "raw_forward":
                    x = process.add_noise(x, torch.randn(x.shape, generator=generator), calls)
            captured.append(_inputs_of(network, process, x, calls))
    return _joined(captured)


@dataclass(frozen=True)
class _Process:
    """How states come about: a model, the sampler that runs it, and the forward process."""

    model_fn: Callable[[Tensor, Any], Tensor]
    run: Callable[[Callable[[Tensor, Any], Tensor], Tensor], Any]
    grid: list[Any]  # the time of each call, once it is known
    sigma: float  # standard deviation of the noise that a trajectory starts from
    noised: Callable[[Tensor, Tensor, Tensor], Tensor]

    def times(self, calls: Tensor) -> Tensor:
        """Return the time of each call."""
        times = torch.tensor(self.grid)
        return (times.double() if times.is_floating_point() else times)[calls]

    def add_noise(self, x: Tensor, noise: Tensor, calls: Tensor) -> Tensor:
        """Diffuse images to the times of calls."""
        return self.noised(x, noise, self.times(calls))


def _process(
    network: nn.Module, schedule: Any, steps: int, model_fn: ModelFn | None, sampler: Sampler | None
) -> _Process:
    if isinstance(schedule, NoiseSchedule):

        def ddim(model: Any, x: Tensor) -> Any:
            from paperworks.diffusion.inversion import BDIASampler

            return BDIASampler(model, schedule, gamma=0.0).sample(x, steps)

        def noised(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
            t = t.reshape(-1, *[1] * (x.ndim - 1)).double()
            return (schedule.alpha(t) * x + schedule.sigma(t) * noise).to(x)

        model = wrap_model(network, schedule) if model_fn is None else model_fn
        sigma = (schedule.alpha(schedule.t_max) ** 2 + schedule.sigma(schedule.t_max) ** 2) ** 0.5
        return _Process(model, sampler or ddim, [], sigma, noised)
    if not hasattr(schedule, "step") or not hasattr(schedule, "set_timesteps"):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; it takes a NoiseSchedule, "
            "or a scheduler with set_timesteps and step"
        )

    def step_through(model: Any, x: Tensor) -> Tensor:
        schedule.set_timesteps(steps)
        for t in schedule.timesteps:
            scaled = schedule.scale_model_input(x, t) if hasattr(schedule, "scale_model_input") else x
            x = schedule.step(model(scaled, t), t, x).prev_sample
        return x

    def call(x: Tensor, t: Any) -> Tensor:
        output = network(x, torch.as_tensor(t, device=x.device).expand(len(x)))
        return getattr(output, "sample", output)

    model = call if model_fn is None else model_fn
    return _Process(model, sampler or step_through, [], float(schedule.init_noise_sigma), schedule.add_noise)


def _grid_of(process: _Process, shape: Sequence[int]) -> list[float]:
    """Return the time of each call that the sampler makes, without running the network."""

    def record(x: Tensor, t: Any) -> Tensor:
        process.grid.append(_one_time(t))
        return torch.zeros_like(x)

    process.run(record, torch.zeros(1, *shape))
    if not process.grid:
        raise ValueError("sampler made no call of its model")
    return [float(t) for t in process.grid]


def _states_at(process: _Process, noise: Tensor, grid: list[float], calls: Tensor) -> Tensor:
    """Run the sampler and keep of each trajectory the state that the model sees at its call; past the last, the end."""
    kept = torch.empty_like(noise)
    count = 0

    def record(x: Tensor, t: Any) -> Tensor:
        nonlocal count
        if count >= len(grid) or float(_one_time(t)) != grid[count]:
            raise ValueError("sampler chooses its times by the states it meets; it takes one with a grid of its own")
        chosen = calls == count
        kept[chosen] = x[chosen].to(kept)
        count += 1
        return process.model_fn(x, t)

    end = process.run(record, noise)
    chosen = calls >= len(grid)
    kept[chosen] = getattr(end, "sample", end)[chosen].to(kept)
    return kept


def _one_time(t: Any) -> Any:
    """Return a call's time as a number, be it given as one or for each sample."""
    return t.flatten()[0].item() if isinstance(t, Tensor) else t


class _Captured(Exception):
    """Raised where the inputs are known and the rest of a forward pass isn't needed."""


def _inputs_of(network: nn.Module, process: _Process, x: Tensor, calls: Tensor) -> Any:
    """Return the arguments that the network gets when the model is called at states and times."""
    captured: list[Any] = []

    def capture(module: nn.Module, args: Any, kwargs: Any) -> None:
        captured.append((args, kwargs))
        raise _Captured

    handle = network.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        process.model_fn(x, process.times(calls).to(x.device))
    except _Captured:
        return captured[0]
    finally:
        handle.remove()
    raise ValueError("model_fn does not call network; it takes a model made of it")


def _joined(captured: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> CalibrationSet:
    """Make one set of the inputs of several calls; arguments that are no tensors with a row per sample are left out."""
    rows = len(captured[0][0][0])
    args, kwargs = captured[0]
    named = [name for name, value in kwargs.items() if isinstance(value, Tensor) and len(value) == rows]
    positions = [i for i, value in enumerate(args) if isinstance(value, Tensor)]
    joined = [torch.cat([call[0][i] for call in captured]) for i in positions]
    by_name = {name: torch.cat([call[1][name] for call in captured]) for name in named}
    if len(joined) < 2:
        raise ValueError("network is called without a time; it takes (x, t, ...)")
    return CalibrationSet(joined[0], joined[1], tuple(joined[2:]), by_name)
