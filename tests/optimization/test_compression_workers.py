"""What the processes of `test_compression_hook.py` do, in a module that they can import."""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from paperworks.optimization import (
    EF21State,
    LeastSquaresClients,
    NaturalCompression,
    RankR,
    ScaledSign,
    TopK,
    ef21_hook,
)


class Bucket:
    """What DDP gives a hook."""

    def __init__(self, gradient, params, index=0, last=True):
        self._gradient, self._params, self._index, self._last = gradient, params, index, last

    def buffer(self):
        return self._gradient

    def parameters(self):
        return self._params

    def index(self):
        return self._index

    def is_last(self):
        return self._last


def call(state, gradient, params, **options):
    return ef21_hook(state, Bucket(gradient, params, **options)).wait()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 1))


def data(rank, step):
    rng = torch.Generator().manual_seed(100 * rank + step)
    x = torch.randn(8, 12, generator=rng)
    return x, x[:, :1] * (1 + rank)


def train(rank, first, last, state, model, optimizer, dies_at=None):
    for step in range(first, last):
        optimizer.zero_grad()
        x, y = data(rank, step)
        with model.no_sync():  # gradients of two halves are accumulated, and sent once
            (model(x[:4]) - y[:4]).square().mean().backward()
        if step == dies_at and rank == 1:
            os._exit(1)
        (model(x[4:]) - y[4:]).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def begin(state, **options):
    dist._DEFAULT_FIRST_BUCKET_BYTES = 2000
    model = DistributedDataParallel(network(), bucket_cap_mb=0.002, **options)
    model.register_comm_hook(state, ef21_hook)
    return model, torch.optim.SGD(model.parameters(), 0.01)


def whole_and_broken_training(rank, folder):
    anew = EF21State(compressor=TopK(ratio=0.05))
    model, optimizer = begin(anew)
    train(rank, 0, 3, anew, model, optimizer)
    state = EF21State(compressor=TopK(ratio=0.05))
    model, optimizer = begin(state, find_unused_parameters=True)
    whole = train(rank, 0, 6, state, model, optimizer)
    buckets = len(anew._buckets), len(state._buckets)
    state = EF21State(compressor=TopK(ratio=0.05))
    model, optimizer = begin(state, find_unused_parameters=True)
    train(rank, 0, 4, state, model, optimizer)
    torch.save({"hook": state.state_dict(), "model": model.module.state_dict()}, f"{folder}/{rank}.pt")
    try:
        train(rank, 4, 6, state, model, optimizer, dies_at=5)
    except RuntimeError as error:
        saved = state.state_dict()
        return whole, buckets, str(error), saved["iteration"]


def resumed_training(rank, folder):
    saved = torch.load(f"{folder}/{rank}.pt", weights_only=True)
    state = EF21State(compressor=TopK(ratio=0.05))
    model, optimizer = begin(state, find_unused_parameters=True)
    model.module.load_state_dict(saved["model"])
    state.load_state_dict(saved["hook"])
    return train(rank, 4, 6, state, model, optimizer)


def data_of_clients():
    A = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A[1] *= 4
    return A


CASES = [
    (TopK(2), {}),
    (TopK(2), {"weight": "smoothness"}),
    (ScaledSign(), {"weight": (0.3, 0.7)}),
    (NaturalCompression(stochastic=False), {"weight": (0.3, 0.7)}),
    (RankR(2), {"weight": (0.3, 0.7)}),
]


def least_squares(rank, cases):
    A, found = data_of_clients(), []
    for compressor, options in cases:
        if options.get("weight") == "smoothness":
            options = {**options, "smoothness": float(LeastSquaresClients(A, A[..., 0]).L_i[rank])}
        if isinstance(options.get("weight"), tuple):
            options = {**options, "weight": options["weight"][rank]}
        layer = nn.Linear(10, 1, bias=False).double()
        nn.init.zeros_(layer.weight)
        model = DistributedDataParallel(layer)
        state = EF21State(compressor=compressor, warm_start="compressed", dtype=torch.float64, **options)
        model.register_comm_hook(state, ef21_hook)
        optimizer = torch.optim.SGD(model.parameters(), 0.02)
        for _ in range(15):
            optimizer.zero_grad()
            ((model(A[rank])[:, 0] - A[rank, :, 0]).square().mean() / 2).backward()
            optimizer.step()
        found.append((layer.weight.detach()[0].clone(), state.bytes_sent, state.bytes_received))
    return found


def half_precision(rank):
    """Return what the hook and exact averaging give of gradients that end a thousand times smaller than they began."""
    first, last = (scale * (torch.arange(20.0) + 1 / (3 + rank)).bfloat16() for scale in (1.0, 2.0**-10))
    p, state = torch.zeros(20), EF21State(compressor=TopK(20))
    for gradient in (first, last):
        found = call(state, gradient.clone(), [p])
    exact = last.float() / 2
    dist.all_reduce(exact)
    return found, exact.bfloat16()


def disagreeing(rank):
    found = []
    state = EF21State()
    state.iteration = rank
    for wrong in (state, EF21State(weight=0.3)):
        try:
            call(wrong, torch.ones(4), [torch.zeros(4)])
        except (RuntimeError, ValueError) as error:
            found.append(str(error))
    return found
