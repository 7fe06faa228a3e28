"""What the processes of claims and races do: train networks over hooks, and time them over a slow link."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from paperworks.optimization import EF21State, TopK, ef21_hook
from paperworks.testbeds import digits

LINK = 100e6 / 8
"""Bytes that the simulated link carries in a second: 100 Mb/s."""
TEST = 360  # images of digits that are kept for testing


class Trained(NamedTuple):
    """What training over one hook gave."""

    accuracy: float  # of the test images, in points
    sent: int
    received: int
    dense: int
    last: int  # bytes that the last step sent


class Link:
    """Counts what collectives send and, at a given speed, makes them wait for it: a ring sends each byte once."""

    def __init__(self, speed: float | None = None) -> None:
        self.speed, self.sent = speed, 0
        self._reduce: Any = dist.all_reduce
        self._gather: Any = dist.all_gather

    def __enter__(self) -> "Link":
        vars(dist).update(all_reduce=self._all_reduce, all_gather=self._all_gather)
        return self

    def __exit__(self, *_: object) -> None:
        vars(dist).update(all_reduce=self._reduce, all_gather=self._gather)

    def _all_reduce(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        world = dist.get_world_size()
        self._carry(2 * (world - 1) / world * tensor.nbytes)
        return self._reduce(tensor, *args, **kwargs)

    def _all_gather(self, tensors: list[Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._carry((len(tensors) - 1) * tensor.nbytes)
        return self._gather(tensors, tensor, *args, **kwargs)

    def _carry(self, count: float) -> None:
        self.sent += int(count)
        if self.speed:
            time.sleep(count / self.speed)


def hooks(k: int | None, rank: int) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Return makers of a state and a hook by name; ours keeps k entries, or one in a hundred."""
    compressor = TopK(ratio=0.01) if k is None else TopK(k)
    power: dict[str, Any] = {"matrix_approximation_rank": rank, "start_powerSGD_iter": 2}
    return {
        "dense": lambda: (None, default_hooks.allreduce_hook),
        "fp16": lambda: (None, default_hooks.fp16_compress_hook),
        "PowerSGD": lambda: (powerSGD_hook.PowerSGDState(None, **power), powerSGD_hook.powerSGD_hook),
        "ours": lambda: (EF21State(compressor=compressor), ef21_hook),
    }


def train_on_digits(
    rank: int, names: list[str], seeds: tuple[int, ...], steps: int, lr: float, k: int | None
) -> dict[str, list[Trained]]:
    """Train a network on digits, half of them at each worker, by gradient descent over each hook from each seed."""
    images = digits()
    found: dict[str, list[Trained]] = {name: [] for name in names}
    pixels, labels = images[:].flatten(1), images.labels
    for seed in seeds:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        test, own = order[:TEST], order[TEST + rank :: 2]
        for name in names:
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            model = DistributedDataParallel(network)
            model.register_comm_hook(*hooks(k, 1)[name]())
            optimizer = torch.optim.SGD(model.parameters(), lr)
            dense = sum(p.numel() * 4 for p in network.parameters())
            with Link() as link:
                for _ in range(steps):
                    before = link.sent
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(pixels[own]), labels[own]).backward()
                    optimizer.step()
            with torch.no_grad():
                right = (network(pixels[test]).argmax(1) == labels[test]).double().mean()
            last = link.sent - before
            found[name].append(Trained(100 * float(right), link.sent, link.sent, steps * dense, last))
    return found


def time_steps(rank: int, width: int, rounds: int, power_rank: int) -> dict[str, tuple[list[float], int]]:
    """Time steps over each hook in turn and a slow link; return seconds, and the bytes of the last step."""
    # One bucket: over gloo the collectives that PowerSGD starts from callbacks get out of order where there are more.
    dist._DEFAULT_FIRST_BUCKET_BYTES = 500 << 20
    jobs: dict[str, Callable[[], None]] = {}
    rng = torch.Generator().manual_seed(rank)
    for name, make in hooks(None, power_rank).items():
        torch.manual_seed(0)
        layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
        model = DistributedDataParallel(
            nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, 10)), gradient_as_bucket_view=True, bucket_cap_mb=500
        )
        model.register_comm_hook(*make())

        def step(model: nn.Module = model) -> None:
            model.zero_grad()
            model(torch.randn(16, 784, generator=rng)).square().mean().backward()

        for _ in range(4):  # buckets are formed anew, and PowerSGD begins to compress
            step()
        jobs[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    sent = {}
    for number in range(rounds):
        for name in list(jobs) if number % 2 == 0 else reversed(list(jobs)):
            with Link(LINK) as link:
                dist.barrier()
                started = time.perf_counter()
                jobs[name]()
                seconds[name].append(time.perf_counter() - started)
            sent[name] = link.sent
    return {name: (seconds[name], sent[name]) for name in jobs}
