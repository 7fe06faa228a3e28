"""What the paper says of error feedback, measured: rounds, bounds, equivalence, and training over real processes."""

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_breast_cancer, load_digits, load_svmlight_file
from torch import Tensor, nn

from paperworks.evidence import Measurement, Run, Table, Times, every, exact, mean, measures, races
from paperworks.optimization import EF21, EF21History, EF21State, LogisticClients, Payload, TopK, ef21_hook
from paperworks.papers.ef21_w.training import LINK, hooks, time_steps, train_on_digits
from paperworks.papers.ef21_w.workers import in_processes

LR = 0.3  # of training on digits: of 0.03, 0.1 and 0.3 the best for ours and for dense averaging on the seed 1000


def uneven(seed: int, n: int = 100, m: int = 12, d: int = 50, owned: Tensor | None = None) -> LogisticClients:
    """Return logistic regressions of clients whose data differ in scale by a log-normal factor."""
    rng = torch.Generator().manual_seed(seed)
    A = torch.randn(n, m, d, generator=rng, dtype=torch.float64) / math.sqrt(d)
    A *= torch.exp(1.5 * torch.randn(n, 1, 1, generator=rng, dtype=torch.float64))
    if owned is not None:
        A *= owned[:, None]
    truth = torch.randn(d, generator=rng, dtype=torch.float64)
    noise = 0.1 * torch.randn(n, m, generator=rng, dtype=torch.float64)
    return LogisticClients(A, torch.where(A @ truth + noise < 0, -1.0, 1.0).double(), owned=owned)


def both(clients: LogisticClients, steps: int, variant: Any = "ef21", **options: Any) -> list[EF21History]:
    """Run with the step of the older analysis and with that of the new one."""
    start = torch.zeros(clients.size, dtype=torch.float64)
    return [
        EF21(clients, TopK(1), rule, variant, **options).run(start, steps, generator=torch.Generator().manual_seed(0))
        for rule in ("quadratic", "arithmetic")
    ]


def saved(old: EF21History, new: EF21History) -> list[float]:
    """Return old / new rounds to what the old step has reached after a quarter, a half and all of its rounds."""
    rounds = len(old.grad_norm_sq) - 1
    targets = [float(old.grad_norm_sq[: rounds // part + 1].min()) for part in (4, 2, 1)]
    return [old.rounds_to(target) / new.rounds_to(target) for target in targets]


@measures("e1-fewer-rounds")
def fewer_rounds(run: Run) -> Measurement:
    """Count rounds to what the old step reaches in the end."""
    steps, ratios, rows = run.at(smoke=200, desk=4000, full=20_000), [], []
    figure, axes = run.figure()
    for seed in run.progress(run.seeds, label="seeds"):
        old, new = both(uneven(seed), steps)
        predicted, measured = new.step / old.step, saved(old, new)
        ratios.append(measured[-1] / predicted)
        rows.append([seed, predicted, *measured])
        if seed == run.seed:
            axes.loglog(range(1, steps + 2), old.grad_norm_sq, label="quadratic mean")
            axes.loglog(range(1, steps + 2), new.grad_norm_sq, label="arithmetic mean")
    axes.set(xlabel="rounds + 1", ylabel="squared gradient")
    axes.legend()
    columns = ["seed", "predicted ratio", "measured, a quarter of the rounds", "half", "all"]
    return Measurement(mean(ratios), table=Table(columns, rows), figure=figure)


def dealt(X: np.ndarray, y: np.ndarray, n: int) -> LogisticClients:
    """Deal standardised rows out to clients in the order of their norms, as many to each."""
    X = X[:, X.std(0) > 0]
    X = (X - X.mean(0)) / X.std(0)
    order = np.argsort(np.linalg.norm(X, axis=1), kind="stable")
    m = len(X) // n
    order = order[: n * m]
    A, b = X[order].reshape(n, m, -1), np.where(y[order] > 0, 1.0, -1.0).reshape(n, m)
    return LogisticClients(torch.from_numpy(np.ascontiguousarray(A)), torch.from_numpy(b))


def libsvm() -> dict[str, LogisticClients]:
    """Return the paper's data sets, as far as `$PAPERWORKS_DATA/libsvm` has their files."""
    folder, found = Path(os.environ.get("PAPERWORKS_DATA", "."), "libsvm"), {}
    for name in ("mushrooms", "w8a", "a9a", "phishing", "w1a", "australian"):
        if (folder / name).is_file():
            X, y = load_svmlight_file(str(folder / name))
            found[name] = dealt(X.toarray(), y - (y.max() + y.min()) / 2, min(1000, len(y)))
    return found


@measures("e2-real-data")
def real_data(run: Run) -> Measurement:
    """Count rounds on real data dealt out by norm."""
    X, y = load_breast_cancer(return_X_y=True)
    pixels, digit = load_digits(return_X_y=True)
    data = {"breast_cancer": dealt(X, y, 56), "digits": dealt(pixels, digit % 2, 100)}
    if run.scale == "full":
        data |= libsvm()
    steps, slower, rows, ratios = run.at(smoke=150, desk=4000, full=20_000), 0, [], {}
    for name, clients in run.progress(data.items(), label="data sets"):
        old, new = both(clients, steps)
        measured = saved(old, new)
        slower += sum(ratio < 1 for ratio in measured)
        ratios[name] = measured[-1] / (new.step / old.step)
        rows.append([name, clients.n, new.step / old.step, *measured])
    columns = ["data", "clients", "predicted ratio", "measured, a quarter of the rounds", "half", "all"]
    values = {name: exact(ratios[name]) for name in ("breast_cancer", "digits")}
    return Measurement(values | {"slower_cases": exact(slower)}, table=Table(columns, rows))


@measures("e3-bound")
def bound(run: Run) -> Measurement:
    """Compare the mean squared gradient with the guarantee at every horizon."""
    steps, violations, closest, checked = run.at(smoke=15, desk=600, full=5000), 0, 0.0, 0
    for problem in run.progress(range(run.at(smoke=8, desk=50, full=50)), label="problems"):
        rng = run.rng(problem)
        clients = uneven(problem, n=int(rng.integers(2, 40)), m=5, d=int(rng.integers(2, 20)))
        histories = both(clients, steps)
        start = torch.randn(clients.size, generator=torch.Generator().manual_seed(problem), dtype=torch.float64)
        histories.append(EF21(clients, TopK(1), variant="w").run(start, steps))
        for history in histories:
            share = history.averages / history.bound
            violations += int((share > 1).sum())
            closest, checked = max(closest, float(share.max())), checked + steps
    return Measurement(
        exact(violations), remark=f"{checked} horizons; at the closest the mean is {closest:.3g} of its bound."
    )


@measures("e4-equivalence")
def equivalence(run: Run) -> Measurement:
    """Compare the two algorithms round by round."""
    start, worst, rounds = torch.zeros(50, dtype=torch.float64), [], run.at(smoke=100, desk=1000, full=1000)
    for seed in run.seeds[: run.at(smoke=1, desk=5, full=5)]:
        clients = uneven(seed)
        plain, weighted = (EF21(clients, TopK(1), "arithmetic", v).run(start, rounds) for v in ("ef21", "w"))
        squares = (weighted.grad_norm_sq / plain.grad_norm_sq - 1).abs().max()
        worst.append(max(float(squares), float((weighted.x - plain.x).norm() / plain.x.norm())))
    return Measurement(exact(max(worst)), remark="Squared gradients of all rounds, and the last points.")


@measures("e5-extensions")
def extensions(run: Run) -> Measurement:
    """Count rounds to thrice the larger of both noise floors."""
    share, rows = run.at(smoke=0.01, desk=1.0, full=4.0), []
    found: dict[str, list[float]] = {"stochastic": [], "partial": []}
    for seed in run.progress(run.seeds, label="seeds"):
        clients = uneven(seed)
        # So long that the old step comes near its floor; theory's steps with half of the clients are a third as long.
        cases: dict[str, tuple[int, str, dict[str, Any]]] = {
            "stochastic": (8000, "w-sgd", {"batch_size": 3}),
            "partial": (24_000, "w-pp", {"participation": 0.5}),
        }
        for name, (rounds, variant, options) in cases.items():
            steps = int(share * rounds)
            old, new = both(clients, steps, variant, **options)
            floors = [float(h.grad_norm_sq[-(steps // 10) :].mean()) for h in (old, new)]
            target = 3 * max(floors)
            found[name].append(max(old.rounds_to(target), 1.0) / max(new.rounds_to(target), 1.0))
            rows.append([name, seed, new.step / old.step, *floors, old.rounds_to(target), new.rounds_to(target)])
    columns = ["variant", "seed", "steps, new / old", "floor, old", "floor, new", "rounds, old", "rounds, new"]
    return Measurement({name: mean(ratios) for name, ratios in found.items()}, table=Table(columns, rows))


@measures("e6-training")
def training(run: Run) -> Measurement:
    """Train on digits in two processes, with whole gradients and with one entry in a hundred."""
    steps = run.at(smoke=10, desk=300, full=3000)
    found = in_processes(train_on_digits, 2, ["dense", "ours"], run.seeds, steps, LR, None, timeout=3600)[0]
    dense, ours = found["dense"], found["ours"]
    k = sum(p.numel() for p in nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)).parameters()) // 100
    gained = [a.accuracy - b.accuracy for a, b in zip(ours, dense, strict=True)]
    return Measurement(
        {
            "numbers": exact(max(t.last for t in ours) / 4 / (2 * k)),
            "traffic": exact(max(t.sent / t.dense for t in ours)),
            "accuracy": every(gained),
        },
        table=Table(
            ["seed", "accuracy, dense", "accuracy, ours", "uplink / dense", "received from the other / dense"],
            [[s, a.accuracy, b.accuracy, b.sent / b.dense, b.received / b.dense]
             for s, a, b in zip(run.seeds, dense, ours, strict=True)],
        ),
        remark=f"{steps} steps of the same size; the first, which is whole, is counted. With n workers a gathered "
        "message fans out to n - 1; here it is one.",
    )  # fmt: skip


def shared_features(seed: int, n: int = 100, d: int = 200, c: int = 5) -> Tensor:
    """Return which features occur at which client: c clients for each, and a few for every client."""
    keys = torch.rand(d, n, generator=torch.Generator().manual_seed(seed))
    owned = torch.zeros(n, d, dtype=torch.bool)
    owned[keys.topk(c, dim=1).indices.T, torch.arange(d)] = True
    for client in (~owned.any(dim=1)).nonzero()[:, 0].tolist():  # take a place from who has most
        giver = int(owned.sum(dim=1).argmax())
        feature = int(owned[giver].nonzero()[0])
        owned[giver, feature], owned[client, feature] = False, True
    return owned


@measures("e7-rare-features")
def rare_features(run: Run) -> Measurement:
    """Count rounds on sparse data with the steps of both rules for rare features."""
    steps, ratios, rows, violations = run.at(smoke=150, desk=4000, full=20_000), [], [], 0
    for seed in run.progress(run.seeds, label="seeds"):
        clients = uneven(seed, d=200, owned=shared_features(seed))
        old, new = both(clients, steps, "rf")
        violations += sum(int((h.averages > h.bound).sum()) for h in (old, new))
        predicted, measured = new.step / old.step, saved(old, new)
        ratios.append(measured[-1] / predicted)
        rows.append([seed, predicted, *measured])
    columns = ["seed", "predicted ratio", "measured, a quarter of the rounds", "half", "all"]
    return Measurement({"rounds": mean(ratios), "violations": exact(violations)}, table=Table(columns, rows))


@races("powersgd")
def against_powersgd(run: Run) -> Measurement:
    """Time steps over a slow link, and train with as many bytes."""
    width, rounds = run.at(smoke=64, desk=2048, full=2048), run.repeats(smoke=2, desk=6, full=12)
    rank = max(1, width // 128)
    timed = in_processes(time_steps, 2, width, rounds, rank, timeout=3600)[0]
    times = Times({name: seconds for name, (seconds, _) in timed.items()})
    # Of the digits' network, PowerSGD of rank 1 sends factors of two matrices and two biases whole: 276 numbers.
    steps = run.at(smoke=10, desk=300, full=3000)
    seeds = run.seeds[: run.at(smoke=1, desk=5, full=5)]
    trained = in_processes(train_on_digits, 2, ["PowerSGD", "ours"], seeds, steps, LR, 138, timeout=3600)[0]
    gained = [a.accuracy - b.accuracy for a, b in zip(trained["ours"], trained["PowerSGD"], strict=True)]
    bytes_ = {name: sent for name, (_, sent) in timed.items()}
    return Measurement(
        {
            "bytes": exact(bytes_["ours"] / bytes_["dense"]),
            "dense": times.ratio("ours", "dense"),
            "powersgd": times.ratio("ours", "PowerSGD"),
            "accuracy": every(gained),
        },
        table=Table(
            ["hook", "seconds of a step", "bytes of a step", "test accuracy"],
            [[name, times.median(name), bytes_[name], _accuracy(trained.get(name))] for name in hooks(None, 1)],
        ),
        remark=f"The link carries {LINK / 1e6:g} MB a second. PowerSGD has rank {rank} in the timed network; in "
        f"training both send {trained['ours'][0].last} and {trained['PowerSGD'][0].last} bytes a step.",
    )


def _accuracy(trained: list | None) -> float:
    return math.nan if trained is None else float(np.mean([t.accuracy for t in trained]))


class PlainTopK(TopK):
    """The same with torch's own selection."""

    def encode(self, v: Tensor, generator: torch.Generator | None = None) -> Payload:
        """Choose the entries by `torch.topk`."""
        return self._chosen(v, v.abs().topk(self.count(v.shape[-1]), sorted=False).indices)


class OneBucket:
    """All gradients as one bucket."""

    def __init__(self, gradient: Tensor) -> None:
        self.gradient, self.params = gradient, [torch.empty(len(gradient))]

    def buffer(self) -> Tensor:
        """Return the gradients."""
        return self.gradient

    def parameters(self) -> list[Tensor]:
        """Return what they are of."""
        return self.params

    def index(self) -> int:
        """Return the first place."""
        return 0

    def is_last(self) -> bool:
        """Return that there is no other."""
        return True


@races("topk")
def against_topk(run: Run) -> Measurement:
    """Count the processor time of the hook in a group of one, on gradients that change from call to call."""
    d = run.at(smoke=200_000, desk=10_000_000, full=10_000_000)
    gradients = [torch.randn(d, generator=run.torch_rng(seed)) for seed in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        try:

            def job(compressor: TopK) -> Callable[[], None]:
                state, bucket = EF21State(compressor=compressor), OneBucket(torch.empty(d))
                turn = iter(range(10_000))

                def call() -> None:
                    bucket.gradient.copy_(gradients[next(turn) % 2])
                    ef21_hook(state, bucket).wait()

                call()  # the whole gradients of the start
                return call

            jobs = {"ours": job(TopK(ratio=0.01)), "torch.topk": job(PlainTopK(ratio=0.01))}
            jobs["a dense step"] = _dense_step(d)
            times = _processor_times(run, jobs, run.repeats(smoke=2, desk=8, full=12))
        finally:
            dist.destroy_process_group()
    seconds = times.medians()
    return Measurement(
        times.ratio("ours", "torch.topk"),
        table=Table(["job", "seconds", "share of a dense step"],
                    [[name, s, s / seconds["a dense step"]] for name, s in seconds.items()]),
        remark="A dense step is forward and backward of a network of as many parameters on 64 images, on one thread.",
    )  # fmt: skip


def _processor_times(run: Run, jobs: dict[str, Callable[[], None]], rounds: int) -> Times:
    """Run the jobs in turn, after one round to warm up, and return the processor seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in run.progress(range(rounds + 1), label="timing"):
        for name, call in jobs.items() if number % 2 == 0 else reversed(jobs.items()):
            started = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - started)
    return Times(seconds)


def _dense_step(d: int) -> Callable[[], None]:
    """Return a forward and backward pass of a network of about d parameters."""
    width = int((math.sqrt(784**2 + 8 * d) - 784) / 4)  # 784 w + 2 w^2 = d
    network = nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
    )
    x = torch.randn(64, 784, generator=torch.Generator().manual_seed(0))
    return lambda: network(x).square().mean().backward()
