"""What the paper reports of delayed generalisation: its cause in the softmax's rounding, and two remedies."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from paperworks.evidence import Estimate, Measurement, Run, Table, every, exact, interleaved, measures, races
from paperworks.numerics import seeded
from paperworks.papers.grokking.problems import (
    METHODS,
    PairTransformer,
    Seen,
    adamw,
    fit,
    fitted_at,
    garments,
    image_network,
    pair_network,
    reached_at,
    softmax_loss,
    sparse_network,
)
from paperworks.training import (
    ModularArithmetic,
    OrthoGrad,
    SparseParity,
    orthogonalize_gradients_,
    stablemax_cross_entropy,
)

SINGLE, HALF, DOUBLE = torch.float32, torch.float16, torch.float64


def addition(run: Run, seed: int, method: str) -> list[Seen]:
    """Return how a method does on addition modulo 113 with two fifths of the pairs; several claims read it."""
    p, epochs = run.at(smoke=11, desk=113, full=113), run.at(smoke=20, desk=200, full=300)

    def make() -> list[tuple[float, ...]]:
        task, network = ModularArithmetic("+", p, 0.4, seed, "tokens"), pair_network(p, seed)
        return [tuple(s) for s in fit(network, METHODS[method](network), softmax_loss(SINGLE), task.train, task.test,
                                      epochs, run.at(smoke=10, desk=10, full=10))]  # fmt: skip

    return [Seen(*s) for s in run.cached("grokking-addition", make, seed=seed, method=method, p=p, epochs=epochs)]


def five(run: Run) -> tuple[int, ...]:
    """Return five seeds where the run has fewer, but for a smoke run."""
    return run.seeds if run.scale == "smoke" or len(run.seeds) >= 5 else tuple(range(run.seed, run.seed + 5))


def other_settings(run: Run) -> list[list[Any]]:
    """Train the paper's other networks and tasks with ⊥Grad and without, one seed each."""
    rows: list[list[Any]] = []

    def add(name: str, method: str, found: list[Seen]) -> None:
        rows.append([name, method, found[-1].epoch, found[-1].train, found[-1].test, fitted_at(found)])

    p, epochs = run.at(smoke=7, desk=113, full=113), run.at(smoke=4, desk=300, full=500)
    task = ModularArithmetic("+", p, 0.4, run.seed, "tokens")
    network = pair_network(p, run.seed).double()
    sgd = OrthoGrad(torch.optim.SGD(network.parameters(), 10.0, momentum=0.8))
    add("SGD, StableMax, double", "⊥Grad",
        fit(network, sgd, stablemax_cross_entropy, task.train, task.test, epochs, max(1, epochs // 10)))  # fmt: skip
    p, epochs = run.at(smoke=7, desk=43, full=113), run.at(smoke=4, desk=300, full=5000)
    task = ModularArithmetic("+", p, run.at(smoke=0.4, desk=0.6, full=0.4), run.seed, "tokens")
    for method, decay in (("⊥Grad", 0.0), ("nothing", 0.0), ("weight decay 1.5", 1.5)):
        with seeded(run.seed):
            transformer = PairTransformer(p, hidden=run.at(smoke=16, desk=512, full=2048))
            optimizer = adamw(transformer.parameters(), 1e-3, decay)
            add("transformer", method, fit(transformer, OrthoGrad(optimizer) if method == "⊥Grad" else optimizer,
                softmax_loss(SINGLE), task.train, task.test, epochs, max(1, epochs // 20)))  # fmt: skip
    parity, epochs = SparseParity(random_state=run.seed), run.at(smoke=4, desk=500, full=5000)
    for method in ("⊥Grad", "nothing"):
        bits = sparse_network(43, run.seed)
        add("sparse parity", method, fit(bits, METHODS[method](bits), softmax_loss(SINGLE), parity.train, parity.test,
                                         epochs, max(1, epochs // 20)))  # fmt: skip
    return rows


@measures("g1-orthograd")
def orthograd(run: Run) -> Measurement:
    """Train on addition with ⊥Grad, with nothing, with weight decay and with Grokfast-EMA."""
    seeds = five(run)
    found = {method: [addition(run, seed, method) for seed in run.progress(seeds, label=method)] for method in METHODS}
    rows: list[list[Any]] = []
    for method, runs in found.items():
        last = [one[-1] for one in runs]
        rows.append([f"addition, {len(seeds)} seeds", method, last[0].epoch, min(s.train for s in last),
                     min(s.test for s in last), max(fitted_at(one) for one in runs)])  # fmt: skip
    figure, axes = run.figure()
    for method, runs in found.items():
        axes.plot([s.epoch for s in runs[0]], [sum(s.test for s in at) / len(at) for at in zip(*runs, strict=True)],
                  label=method)  # fmt: skip
    axes.set(xlabel="epoch", ylabel="test accuracy, mean over seeds", ylim=(-0.02, 1.02))
    axes.legend()
    ours, theirs = ([one[-1] for one in found[method]] for method in ("⊥Grad", "nothing"))
    return Measurement(
        {
            "orthograd": every([s.test for s in ours]),
            "baseline": every([s.test for s in theirs]),
            "train": every([min(a.train, b.train) for a, b in zip(ours, theirs, strict=True)]),
        },
        table=Table(
            ["setting", "beside the optimiser", "epochs", "train accuracy", "test accuracy", "fitted at epoch"],
            rows + other_settings(run),
        ),
        figure=figure,
        remark="Of several seeds the lowest accuracies and the latest epoch at which all training samples were right, "
        "inf where some never were; Grokfast-EMA with its decay of 0.98 and gain of 2.",
    )


def collapsing(run: Run, seed: int, precision: torch.dtype, epochs: int, train_fraction: float = 0.5,
               until: Callable[[Seen], bool] = lambda seen: False) -> list[Seen]:  # fmt: skip
    """Train on addition with the softmax in a precision."""
    p = run.at(smoke=11, desk=59, full=113)
    task, network = ModularArithmetic("+", p, train_fraction, seed, "tokens"), pair_network(p, seed)
    return fit(network, adamw(network.parameters()), softmax_loss(precision), task.train, task.test, epochs,
               run.at(smoke=10, desk=10, full=50), precision=precision, until=until)  # fmt: skip


def half_collapsed(seen: Seen) -> bool:
    """Whether the softmax of half of the samples is rounded to 1."""
    return seen.collapse >= 0.5


@measures("g2-softmax-collapse")
def softmax_collapses(run: Run) -> Measurement:
    """Train to softmax collapse in three precisions, and study when it comes by the share of training pairs."""
    epochs, most = run.at(smoke=30, desk=3000, full=6000), run.at(smoke=30, desk=2000, full=4000)
    single = [collapsing(run, seed, SINGLE, epochs) for seed in run.progress(run.seeds, label="single precision")]
    half = [collapsing(run, seed, HALF, epochs, until=half_collapsed) for seed in run.seeds]
    double = [collapsing(run, seed, DOUBLE, most) for seed in run.seeds[: run.at(smoke=1, desk=1, full=3)]]
    rows: list[list[Any]] = []
    for name, runs in (("half", half), ("single", single), ("double", double)):
        for found in runs:
            rows.append([name, 0.5, found[-1].epoch, reached_at(found, half_collapsed), found[-1].collapse,
                         found[-1].margin, found[-1].test])  # fmt: skip
    for fraction in (0.4, 0.6, 0.7):
        for name, precision in (("half", HALF), ("single", SINGLE), ("double", DOUBLE)):
            found = collapsing(run, run.seed, precision, run.at(smoke=10, desk=300, full=20_000), fraction)
            rows.append([name, fraction, found[-1].epoch, reached_at(found, half_collapsed), found[-1].collapse,
                         found[-1].margin, found[-1].test])  # fmt: skip
    figure, (top, bottom) = run.figure(2, sharex=True)
    for name, found in (("half", half[0]), ("single", single[0]), ("double", double[0])):
        top.plot([s.epoch for s in found], [s.collapse for s in found], label=name)
        bottom.semilogy([s.epoch for s in found], [max(s.margin, 1e-2) for s in found], label=name)
    top.set(ylabel="share of samples rounded to 1")
    bottom.set(xlabel="epoch", ylabel="median lead of the right logit")
    top.legend()
    return Measurement(
        {
            "collapse": every([max(s.collapse for s in found) for found in single]),
            "test": every([found[-1].test for found in single]),
            "half_is_earlier": every(
                [
                    reached_at(a, half_collapsed) < reached_at(b, half_collapsed)
                    for a, b in zip(half, single, strict=True)
                ]
            ),
            "double_collapse": every([max(s.collapse for s in found) for found in double]),
        },
        table=Table(
            [
                "softmax in precision",
                "share of pairs",
                "epochs",
                "half rounded at epoch",
                "share rounded at end",
                "median lead",
                "test accuracy",
            ],
            rows,
        ),
        figure=figure,
        remark="One row a seed, then the first seed with other shares of pairs; runs in half precision end where half "
        "of the samples are rounded.",
    )


@measures("g3-stablemax")
def stablemax_generalises(run: Run) -> Measurement:
    """Train on addition with StableMax and with the softmax, neither regularised."""
    p, fraction = run.at(smoke=11, desk=43, full=113), run.at(smoke=0.7, desk=0.7, full=0.4)
    epochs = run.at(smoke=40, desk=8000, full=80_000)
    seeds, one = (
        run.seeds[: run.at(smoke=1, desk=2, full=5)],
        1 / len(ModularArithmetic("+", p, fraction, 0, "tokens").test.y),
    )
    found: dict[str, list[list[Seen]]] = {"StableMax": [], "softmax": []}
    for seed in run.progress(seeds, label="seeds"):
        task = ModularArithmetic("+", p, fraction, seed, "tokens")
        for name, loss in (("StableMax", stablemax_cross_entropy), ("softmax", softmax_loss(SINGLE))):
            network = pair_network(p, seed)
            found[name].append(fit(network, adamw(network.parameters(), beta=0.999), loss, task.train, task.test,
                                   epochs, max(1, epochs // 40)))  # fmt: skip
    ours, theirs = ([one_run[-1].test for one_run in found[name]] for name in ("StableMax", "softmax"))
    figure, axes = run.figure()
    for name, runs in found.items():
        axes.plot([s.epoch for s in runs[0]], [sum(s.test for s in at) / len(at) for at in zip(*runs, strict=True)],
                  label=name)  # fmt: skip
    axes.set(xlabel="epoch", ylabel="test accuracy, mean over seeds")
    axes.legend()
    rows = [[name, seed, fitted_at(runs[k]), runs[k][-1].loss, runs[k][len(runs[k]) // 2].test, runs[k][-1].test]
            for name, runs in found.items() for k, seed in enumerate(seeds)]  # fmt: skip
    return Measurement(
        {
            "test": every(ours),
            "to_cross_entropy": every([a / max(b, one) for a, b in zip(ours, theirs, strict=True)]),
        },
        table=Table(
            ["loss", "seed", "fitted at epoch", "loss at the end", "test accuracy half way", "and at the end"], rows
        ),
        figure=figure,
        remark=f"{epochs} epochs modulo {p}; where the softmax classifies no test sample right, one counts.",
    )


@measures("g4-alignment")
def alignment(run: Run) -> Measurement:
    """Follow the cosine of steps to the weights in the trainings of the first claim."""
    seeds = five(run)
    plain = [addition(run, seed, "nothing") for seed in run.progress(seeds, label="seeds")]
    ours = [addition(run, seed, "⊥Grad") for seed in seeds]
    fits = [next((s for s in found if s.train == 1), found[-1]) for found in plain]
    figure, axes = run.figure()
    for name, runs in (("without ⊥Grad", plain), ("with ⊥Grad, before the projection", ours)):
        means = [sum(s.alignment for s in at) / len(at) for at in zip(*runs, strict=True)]
        axes.plot([s.epoch for s in runs[0]], means, label=name)
    axes.set(xlabel="epoch", ylabel="cosine of -gradient to weights")
    axes.legend()
    rows = [[seed, first.epoch, first.alignment, found[-1].alignment, max(s.across for s in one)]
            for seed, first, found, one in zip(seeds, fits, plain, ours, strict=True)]  # fmt: skip
    return Measurement(
        {
            "alignment": every([found[-1].alignment for found in plain]),
            "rise": every([found[-1].alignment - first.alignment for first, found in zip(fits, plain, strict=True)]),
            "after_projection": every([max(s.across for s in found) for found in ours]),
        },
        table=Table(
            ["seed", "fitted at epoch", "cosine there", "cosine at the end", "of a tensor, after projection"], rows
        ),
        figure=figure,
    )


RATES = (1e-2, 1e-3, 1e-4)


def delays(run: Run, seed: int, logits: float, weights: float) -> list[Any]:
    """Train on a few images with logits multiplied; return what each method needs at its best rate.

    The target is 95 % of the best test accuracy that any run of the setting reaches; what is never reached counts as
    all epochs.
    """
    n, epochs = run.at(smoke=50, desk=200, full=1000), run.at(smoke=4, desk=400, full=5000)
    train, test = garments(n, run.at(smoke=100, desk=1000, full=10_000), seed)
    found: dict[str, list[list[Seen]]] = {"nothing": [], "⊥Grad": []}
    for lr in RATES[: run.at(smoke=1, desk=3, full=3)]:
        for method, runs in found.items():
            network = image_network(seed, logits, weights)
            optimizer = adamw(network.parameters(), lr)
            runs.append(fit(network, OrthoGrad(optimizer) if method == "⊥Grad" else optimizer, softmax_loss(SINGLE),
                            train, test, epochs, 4))  # fmt: skip
    target = 0.95 * max(s.test for runs in found.values() for one in runs for s in one)
    times = {
        method: min(
            (min(reached_at(one, lambda s: s.test >= target), epochs), min(fitted_at(one), epochs)) for one in runs
        )
        for method, runs in found.items()
    }
    (plain, fitted), (ours, _) = times["nothing"], times["⊥Grad"]
    return [logits, weights, seed, target / 0.95, fitted, plain, ours, ours / plain]


@measures("g5-images")
def images(run: Run) -> Measurement:
    """Train on few garments with multiplied logits and larger weights, with ⊥Grad and without."""
    seeds = run.seeds[: run.at(smoke=1, desk=1, full=5)]
    sizes = run.at(smoke=[(8, 1.0)], desk=[(1, 1.0), (8, 1.0), (32, 1.0), (100, 1.0), (1, 8.0)],
                   full=[(a, w) for w in (1.0, 8.0) for a in (1, 8, 32, 100)])  # fmt: skip
    rows = [delays(run, seed, a, w) for a, w in run.progress(sizes, label="settings") for seed in seeds]
    waits = {size: min(row[5] / row[4] for row in rows if (row[0], row[1]) == size) for size in sizes}
    slowest = max(waits, key=lambda size: waits[size])
    return Measurement(
        every([row[-1] for row in rows if (row[0], row[1]) == slowest]),
        table=Table(
            [
                "logits times",
                "weights times",
                "seed",
                "best test accuracy",
                "fitted at epoch",
                "epochs to 95 %, without ⊥Grad",
                "with ⊥Grad",
                "ratio",
            ],
            rows,
        ),
        remark=f"Both at the best of {len(RATES)} rates. The value is that of logits times {slowest[0]:g} and weights "
        f"times {slowest[1]:g}, where the delay is longest: there generalisation takes {waits[slowest]:.2g} times as "
        "many epochs as fitting the training images, where a delay is four times as many.",
    )


def parameters(count: int, side: int) -> list[torch.nn.Parameter]:
    """Return square matrices with gradients."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.nn.Parameter(torch.randn(side, side, generator=generator)) for _ in range(count)]
    for p in found:
        p.grad = torch.randn(side, side, generator=generator)
    return found


@races("torch")
def against_torch(run: Run) -> Measurement:
    """Time a wrapped step of AdamW on 10 million parameters, and the loss with 32 000 classes, forward and back."""
    count, rows = run.at(smoke=2, desk=100, full=100), run.at(smoke=4, desk=128, full=512)
    bare = torch.optim.AdamW(parameters(count, 316), foreach=True)
    wrapped = OrthoGrad(torch.optim.AdamW(parameters(count, 316), foreach=True))
    steps = interleaved(run, {"wrapped": wrapped.step, "bare": bare.step}, run.at(smoke=1, desk=15, full=30))
    generator = run.torch_rng()
    logits = torch.randn(rows, run.at(smoke=100, desk=32_000, full=32_000), generator=generator).requires_grad_()
    y = torch.randint(logits.shape[1], (rows,), generator=generator)

    def loss(function: Callable[..., Any], **options: Any) -> Callable[[], None]:
        def backward() -> None:
            logits.grad = None
            function(logits, y, **options).backward()

        return backward

    jobs = {"StableMax": loss(stablemax_cross_entropy, compute_dtype=torch.float32), "softmax": loss(cross_entropy),
            "StableMax in double precision": loss(stablemax_cross_entropy)}  # fmt: skip
    losses = interleaved(run, jobs, run.at(smoke=1, desk=12, full=30))
    rows_of_table = [[name, seconds] for times in (steps, losses) for name, seconds in times.medians().items()]
    return Measurement(
        {"step": steps.ratio("wrapped", "bare"), "loss": losses.ratio("StableMax", "softmax")},
        table=Table(["job", "seconds"], rows_of_table),
        settings="AdamW with foreach=True; cross_entropy in single precision",
    )


@races("pytorch-optimizer")
def against_pytorch_optimizer(run: Run) -> Measurement:
    """Project the same gradients, of large and of small tensors, in place."""
    from pytorch_optimizer import OrthoGrad as Theirs

    ratios: dict[str, Estimate] = {}
    rows: list[list[Any]] = []
    apart = 0.0
    for name, count, side in (("large", run.at(smoke=2, desk=100, full=100), 316),
                              ("small", run.at(smoke=20, desk=1000, full=1000), 32)):  # fmt: skip
        a, b = parameters(count, side), parameters(count, side)
        theirs = Theirs(torch.optim.AdamW(b))
        orthogonalize_gradients_(a)
        theirs.apply_orthogonal_gradients(b)
        apart = max(apart, *(float((p.grad - q.grad).norm() / q.grad.norm()) for p, q in zip(a, b, strict=True)))  # type: ignore[operator, union-attr]
        jobs = {
            "ours": partial(orthogonalize_gradients_, a),
            "theirs": partial(theirs.apply_orthogonal_gradients, b),
        }
        times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=30))
        ratios[name] = times.ratio("ours", "theirs")
        rows += [[f"{count} matrices of {side} x {side}", who, seconds] for who, seconds in times.medians().items()]
    return Measurement(
        {**ratios, "difference": exact(apart)},
        table=Table(["gradients", "package", "seconds"], rows),
        settings="its default on the CPU, tensor by tensor; its foreach=True takes longer there",
    )


@races("heavyball")
def against_heavyball(run: Run) -> Measurement:
    """Take steps of an adaptive optimiser with projected gradients, 10 million parameters in all."""
    import heavyball
    from heavyball import utils

    utils.compile_mode = None if run.scale == "smoke" else "default"
    utils.set_torch = lambda *_, **__: None  # which would set the threads of this process
    count, side = run.at(smoke=2, desk=20, full=20), run.at(smoke=20, desk=707, full=707)
    a, b = parameters(count, side), parameters(count, side)
    grads = [p.grad for p in a]
    ours = OrthoGrad(torch.optim.AdamW(a, 1e-3, fused=True))
    theirs = heavyball.OrthoLaProp(b, lr=1e-3)

    def step(params: list[torch.nn.Parameter], optimizer: Any) -> None:
        for p, grad in zip(params, grads, strict=True):  # theirs takes the gradients away
            p.grad = grad
        optimizer.step()

    jobs = {"ours": lambda: step(a, ours), "theirs": lambda: step(b, theirs)}
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=30))
    return Measurement(
        times.ratio("ours", "theirs"),
        table=Table(
            ["optimiser", "seconds"],
            [
                ["OrthoGrad(AdamW), fused", times.median("ours")],
                ["heavyball's OrthoLaProp, compiled", times.median("theirs")],
            ],
        ),
        settings="OrthoLaProp, its only optimiser with this projection, compiled by Inductor with its mode 'default'",
    )
