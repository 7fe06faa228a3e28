"""What the paper reports of bytes, losses and machines, measured over real connections and on a language model."""

import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    interleaved,
    mean,
    measures,
    races,
    statistic,
)
from paperworks.optimization import (
    OneByteSPSA,
    Peer,
    ScalarCodec,
    TrainingLog,
    spsa_contraction,
    spsa_lr,
)
from paperworks.papers.one_byte.machines import Machine, at_once, fresh_processes, quadratic_peer, run_peer, told
from paperworks.papers.one_byte.sentiment import LAYER, SentimentTask, memory_of
from paperworks.testbeds import MiniLM, digits


def minilm_size() -> int:
    """Return the number of MiniLM's parameters."""
    with torch.device("meta"):
        return sum(p.numel() for p in MiniLM().parameters())


@measures("o1-traffic")
def traffic(run: Run) -> Measurement:
    """Count the bytes that three machines hand to their sockets in a training."""
    rounds, rows = run.at(smoke=10, desk=200, full=1000), []
    for machines in run.at(smoke=(3,), desk=(2, 3, 8), full=(2, 3, 8)):
        with ExitStack() as stack:
            peers: list[Peer] = []
            for machine in range(machines):
                peers.append(stack.enter_context(quadratic_peer(machine, [p.address for p in peers], machines)))
            at_once(*(partial(run_peer, peer, rounds) for peer in peers))
            log = peers[0].optimiser.log.rounds
            # Kinds 3 and 4 are messages and closed rounds.
            sent = sum(p.transport.traffic[kind] for p in peers for kind in ("3", "4"))
        samples = sum(count for found in log for _, count, _ in found.messages)
        payload = sum(len(data) for found in log for _, _, data in found.messages)
        each = sent / rounds / machines
        rows.append([machines, payload / samples, each, 4 * minilm_size() / each])
    three = next(row for row in rows if row[0] == 3)
    return Measurement(
        {"payload_bytes": exact(three[1]), "framing_bytes": exact(three[2] - 1), "reduction": exact(three[3])},
        table=Table(
            ["machines", "payload per sample", "all bytes per machine and round", "fp32 gradients / all bytes"],
            rows,
        ),
        remark="All frames of messages and closed rounds on all connections, with lengths and checksums; what a byte "
        "takes to travel on to the other machines counts as framing. Greetings are sent once and left out.",
    )


def train_digits(codec: ScalarCodec | str, machines: int, seed: int, rounds: int) -> tuple[float, float]:
    """Return the last loss and accuracy of softmax regression on machines with a part of the data each."""
    images, labels = digits()[:].flatten(1), digits().labels
    model = torch.nn.Linear(64, 10)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    parts = [(images[k::machines].contiguous(), labels[k::machines]) for k in range(machines)]
    optimiser = OneByteSPSA(model.parameters(), lr=0.003, samples=machines, codec=codec, run_seed=seed)
    for _ in range(rounds):
        optimiser.step(lambda k: functional.cross_entropy(model(parts[k][0]), parts[k][1]))
    with torch.no_grad():
        logits = model(images)
    return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


@measures("o2-quantised")
def quantised(run: Run) -> Measurement:
    """Train with one byte and with fp32 along the same directions, and beside them with a bit and with wider levels."""
    rounds, machines = run.at(smoke=20, desk=1500, full=1500), run.at(smoke=(1, 4), desk=(1, 4, 16), full=(1, 4, 16))
    codecs: dict[str, ScalarCodec] = {
        "fp32": ScalarCodec("fp32"), "one byte": ScalarCodec(), "one byte, step 1/8": ScalarCodec(step=1 / 8),
        "one bit": ScalarCodec("sign"),
    }  # fmt: skip
    gaps, rows = [], []
    for number, seed in enumerate(run.progress(run.seeds[: run.at(smoke=1, desk=3, full=5)], label="seeds")):
        for n in machines:
            found = {
                name: train_digits(codec, n, seed, rounds)
                for name, codec in codecs.items()
                if (number == 0 and n == 4) or name in ("fp32", "one byte")
            }
            gaps.append(abs(found["one byte"][0] - found["fp32"][0]))
            rows += [[seed, n, name, loss, accuracy] for name, (loss, accuracy) in found.items()]
    return Measurement(
        every([max(gaps[i : i + len(machines)]) for i in range(0, len(gaps), len(machines))]),
        table=Table(["seed", "machines", "codec", "loss", "accuracy"], rows),
    )


def fine_tune(run: Run, seed: int) -> dict[str, tuple[float, float]]:
    """Return validation loss and accuracy before and after a fine-tuning, with one byte and with fp32."""
    task = SentimentTask(seed, run.at(smoke=40, desk=1000, full=1000), run.at(smoke=60, desk=10**9, full=10**9),
                         run.at(smoke=LAYER + 1, desk=LAYER, full=0))  # fmt: skip
    start = [p.detach().clone() for p in task.params]
    found = {"before": task.validate()}
    for name, codec in (("one byte", "int8-log"), ("fp32 scalars", "fp32")):
        torch._foreach_copy_([p.data for p in task.params], start)
        optimiser = OneByteSPSA(task.params, lr=2e-4, samples=4, codec=codec, run_seed=seed, restore_every=16)
        for t in run.progress(range(run.at(smoke=1, desk=100, full=2000)), label=f"rounds, {name}"):
            optimiser.step(lambda k, t=t: task.loss(task.batch(seed, t, k)))
        optimiser.restore()
        found[name] = task.validate()
    return found


@measures("o3-language-model")
def language_model(run: Run) -> Measurement:
    """Fine-tune MiniLM's last layers on the sentiment of words, and measure the memory of a step."""
    falls, gaps, rows = [], [], []
    for seed in run.seeds[: run.at(smoke=1, desk=2, full=3)]:
        found = fine_tune(run, seed)
        falls.append(found["before"][0] - found["one byte"][0])
        gaps.append(abs(found["one byte"][0] - found["fp32 scalars"][0]))
        for when, (loss, accuracy) in found.items():
            rows.append([f"validation loss, seed {seed}, {when}", loss])
            rows.append([f"validation accuracy, seed {seed}, {when}", accuracy])
    kinds = ("inference", "one byte", "one byte, copies for each call", "one byte, copy of the weights",
             "back-propagation")  # fmt: skip
    repeats = run.at(smoke=1, desk=6, full=10)
    spawn = multiprocessing.get_context("spawn")
    context = run.at(smoke=fresh_processes(), desk=spawn, full=spawn)
    memory = {
        kind: [memory_of(kind, context) for _ in range(repeats if kind in kinds[:2] else 1)]
        for kind in run.at(smoke=kinds[:2], desk=kinds, full=kinds)
    }
    rows += [
        [f"peak memory beyond the model's, MiB, {kind}", float(np.median(taken))] for kind, taken in memory.items()
    ]
    ratios = [a / max(b, 1e-3) for a, b in zip(memory["one byte"], memory["inference"], strict=True)]
    return Measurement(
        {"loss_fall": every(falls), "difference": every(gaps), "memory": mean(ratios, "pairs of fresh processes")},
        table=Table(["what", "value"], rows),
        remark="Memory is that of batches of 34 words through all layers, two of which are perturbed.",
    )


@measures("o4-more-machines")
def more_machines(run: Run) -> Measurement:
    """Minimise a quadratic with the best step size for each number of machines."""
    size, repetitions = 200, run.repeats(smoke=3, desk=24, full=100)
    machines = run.at(smoke=(16, 64), desk=(1, 4, 16, 64), full=(1, 4, 16, 64))
    target = run.at(smoke=0.3, desk=1e-3, full=1e-3)
    counts: dict[int, list[float]] = {n: [] for n in machines}
    ratios: dict[int, list[float]] = {n: [] for n in machines}
    for repetition in run.progress(range(repetitions), label="repetitions"):
        for n in machines:
            w = torch.ones(size, dtype=torch.float64)
            optimiser = OneByteSPSA([w], lr=spsa_lr(1.0, size, n, "gaussian"), samples=n, codec="fp32",
                                    noise="gaussian", scale="mean", run_seed=1000 * run.seed + repetition)  # fmt: skip
            values = [size / 2]
            while values[-1] > target * values[0]:
                optimiser.step(lambda w=w: w.dot(w) / 2)
                values.append(float(w @ w) / 2)
            counts[n].append(len(values) - 1)
            ratios[n] += list(np.divide(values[1:], values[:-1]))
    rows, deviations = [], []
    theory = {n: math.log(1 / target) / -math.log1p(-n / (size + n + 1)) for n in machines}
    for n in machines:
        expected = spsa_contraction(spsa_lr(1.0, size, n, "gaussian"), 1.0, size, n, "gaussian")
        found = np.array(ratios[n])
        deviations.append(abs(found.mean() - expected) / (found.std(ddof=1) / math.sqrt(len(found))))
        rows.append([n, float(found.mean()), expected, float(np.mean(counts[n])), theory[n]])

    def off(*samples: np.ndarray) -> float:
        return max(
            max(0.0, abs(float(np.mean(s)) - theory[n]) - 1) / theory[n] for n, s in zip(machines, samples, strict=True)
        )

    return Measurement(
        {
            "standard_errors": statistic(
                max(deviations), "greatest of the deviations of means from theory, in standard errors"
            ),
            "scaling_deviation": bootstrap(off, *counts.values(), of="repetitions"),
        },
        table=Table(["machines", "contraction", "theory", f"mean rounds to {target:g}", "theory"], rows),
    )


@measures("o5-join-and-leave")
def join_and_leave(run: Run) -> Measurement:
    """Kill one of three processes and let another join."""
    kill, join, end = run.at(smoke=(4, 8, 12), desk=(20, 40, 60), full=(20, 40, 60))
    machines: list[Machine] = []
    try:
        for number in range(3):
            machines.append(Machine(number, [m.address for m in machines], 3))
        told(machines, "run", kill)
        machines[0].end()  # the one that closes the rounds
        told(machines[1:], "run", join)
        late = Machine(3, [], 1)
        machines.append(late)
        late.pipe.send(("join", machines[1].address))
        told(machines[1:3], "wait", 3)
        late.answer()
        answers = told(machines[1:], "run", end)
    finally:
        for machine in machines:
            machine.end()
    weights, digests, logs = zip(*answers, strict=True)
    log, replayed = TrainingLog.from_bytes(logs[0]), torch.zeros(1000)
    log.replay([replayed])
    arrays = [np.frombuffer(data, np.uint8) for data in weights]
    rows = [[t, ", ".join(str(m) for m, _, _ in log.rounds[t].messages)] for t in (0, kill, join, end - 1)]
    return Measurement(
        {
            "differing_bytes": exact(int(sum((a != arrays[0]).sum() for a in arrays))),
            "joiner_agrees": exact(digests[2] == digests[0] and len(log) == end and len(log.rounds[-1].messages) == 3),
            "replay_agrees": exact(replayed.numpy().tobytes() == weights[0]),
        },
        table=Table(["round", "machines that took part"], rows),
    )


def alternating() -> Iterator[torch.Tensor]:
    """Yield losses that differ on both sides."""
    return itertools.cycle([torch.tensor(1.0), torch.tensor(0.0)])


@races("mezo")
def against_mezo(run: Run) -> Measurement:
    """Take steps on two layers, and on all parameters without a loss that costs anything."""
    import mezo

    small = run.at(smoke=True, desk=False, full=False)
    model = MiniLM(vocabulary=500 if small else 30522, layers=2 if small else 6)
    layer = len(model.layers) - 2
    rng = run.torch_rng()
    ids, mask = torch.randint(500, (34, 8), generator=rng), torch.ones(34, 8, dtype=torch.bool)
    label = torch.randn(384, generator=rng)
    upper = [p for block in model.layers[layer:] for p in block.parameters()]
    everything = list(model.parameters())
    with torch.no_grad():
        below = model.lower(ids, mask, layer)

    def theirs(params: list[Any], loss: Callable[[], torch.Tensor], lr: float = 1e-6) -> None:
        mezo.update(model, None, lambda *_: loss(), 1e-3, lr, 0, lambda _: params)

    two = OneByteSPSA(upper, lr=1e-6)
    every_one = OneByteSPSA(everything, lr=1e-9)
    fake, fake_theirs = alternating(), alternating()
    jobs: dict[str, Callable[[], Any]] = {
        "ours, two layers": lambda: two.step(lambda: (model.upper(below, mask, layer) @ label).mean()),
        "mezo, two layers": lambda: theirs(upper, lambda: (model(ids, mask) @ label).mean()),
        "mezo, two layers, what is below kept": lambda: theirs(
            upper, lambda: (model.upper(below, mask, layer) @ label).mean()
        ),
        "ours, noise and update of all": lambda: every_one.step(lambda: next(fake)),
        "mezo, noise and update of all": lambda: theirs(everything, lambda: next(fake_theirs)),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=15))
    forward = interleaved(run, {"forward": lambda: model.upper(below, mask, layer)}, run.at(smoke=1, desk=5, full=9))
    drift = {}
    for name, step in (
        ("ours", lambda: OneByteSPSA(upper, lr=0.0).step(lambda: next(fake))),
        ("mezo", lambda: theirs(upper, lambda: next(fake_theirs), 0.0)),
    ):
        before = [p.detach().clone() for p in upper]
        step()
        drift[name] = max(float((a - b).detach().abs().max()) for a, b in zip(before, upper, strict=True))
    rows = [[name, seconds] for name, seconds in times.medians().items()]
    rows.append(["forward passes in a step of ours on two layers", 2 * forward.median("forward")])
    rows += [[f"greatest change of a weight by a step of size 0, {name}", value] for name, value in drift.items()]
    return Measurement(
        {
            "step_time": times.ratio("ours, two layers", "mezo, two layers"),
            "noise_time": times.ratio("ours, noise and update of all", "mezo, noise and update of all"),
            "drift": exact(drift["ours"]),
        },
        table=Table(["what", "seconds, or change"], rows),
        settings="float32, one sample a step, batch of 34 words of 8 tokens",
        remark=f"{sum(p.numel() for p in upper):,} parameters in two layers, {minilm_size():,} in all of MiniLM.",
    )


def bytes_a_step() -> float:
    """Return the bytes that a machine of two sends in a round, all frames of training counted."""
    with quadratic_peer(0, [], 2) as first, quadratic_peer(1, [first.address], 2) as second:
        steps = 20
        at_once(*(partial(run_peer, peer, steps) for peer in (first, second)))
        return sum(p.transport.traffic[kind] for p in (first, second) for kind in ("3", "4")) / steps / 2


@races("torch", exclusive=False)
def against_powersgd(run: Run) -> Measurement:
    """Ask the hook how much it sends, and count our frames."""
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd

    model = MiniLM(vocabulary=500, layers=1) if run.scale == "smoke" else MiniLM()
    model.pooler.requires_grad_(False)  # sentences don't use it
    ids, mask = torch.randint(500, (4, 8), generator=run.torch_rng()), torch.ones(4, 8, dtype=torch.bool)
    with TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1, timeout=timedelta(seconds=120)
        )
        try:
            wrapped = torch.nn.parallel.DistributedDataParallel(model)
            state = powersgd.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
            wrapped.register_comm_hook(state, powersgd.powerSGD_hook)
            for _ in range(4):
                wrapped(ids, mask).sum().backward()
            _, before, after = state.compression_stats()
        finally:
            torch.distributed.destroy_process_group()
    share = after / before
    dense = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    ours = bytes_a_step()
    rows = [
        ["fp32 gradients", float(dense)],
        ["fp16 hook", dense / 2],
        ["PowerSGD, rank 1", share * dense],
        ["ours", ours],
    ]
    return Measurement(
        exact(ours / (share * dense)),
        table=Table(["what", "bytes that a machine sends in a step"], rows),
        settings="rank 1, the least that it sends",
        remark="Bytes alone: a step of PowerSGD has the whole gradient's direction, a step of ours one projection.",
    )


@races("hivemind", exclusive=False)
def against_hivemind(run: Run) -> Measurement:
    """Count the bytes of a gradient of MiniLM's size in hivemind's compressions, and our frames."""
    from hivemind.compression import BlockwiseQuantization, CompressionInfo, Float16Compression, Uniform8BitQuantization

    model = MiniLM(vocabulary=500, layers=1) if run.scale == "smoke" else MiniLM()
    model.pooler.requires_grad_(False)  # sentences don't use it
    generator = run.torch_rng()
    gradients = [torch.randn(p.shape, generator=generator) for p in model.parameters() if p.requires_grad]
    rows: list[list[Any]] = [["fp32 gradients", 4.0 * sum(g.numel() for g in gradients)]]
    for name, codec in run.progress(
        {"fp16": Float16Compression(), "8 bits": Uniform8BitQuantization(), "8 bits by blocks": BlockwiseQuantization()}
        .items(), label="compressions",
    ):  # fmt: skip
        try:
            sizes = [
                codec.compress(g, CompressionInfo.from_tensor(g, key=i)).ByteSize() for i, g in enumerate(gradients)
            ]
        except ImportError:
            continue  # blocks take bitsandbytes
        rows.append([f"hivemind, {name}", float(sum(sizes))])
    ours = bytes_a_step()
    least = min(size for _, size in rows)
    return Measurement(
        exact(ours / least),
        table=Table(["what", "bytes that a machine sends in a step"], [*rows, ["ours", ours]]),
        remark="Of hivemind one copy of the gradient, the least that averaging sends, in its smallest compression. Its "
        "step has the whole gradient's direction, a step of ours one projection.",
    )
