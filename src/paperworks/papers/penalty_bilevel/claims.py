"""What the paper says of penalties: how near they are, how fast the methods converge, and data that they clean."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    difference,
    every,
    exact,
    interleaved,
    mean,
    measures,
    median,
    proportion,
    races,
    ratio,
)
from paperworks.numerics import mlp
from paperworks.optimization import (
    BilevelResult,
    PenaltyBilevelOptimizer,
    PolynomialDecay,
    hypergradient,
    penalty_bilevel,
    penalty_gap,
)
from paperworks.papers.penalty_bilevel.problems import DOUBLE, Cleaning, Noisy, Quadratic


@measures("p1-penalty-gap")
def penalty_gaps(run: Run) -> Measurement:
    """Solve both penalised problems on rank-deficient quadratics, and compare with closed forms."""
    sigmas = run.at(smoke=(1e-2, 1e-3), desk=(1e-1, 1e-2, 1e-3, 1e-4), full=(1e-1, 1e-2, 1e-3, 1e-4))
    gaps = []
    for seed in run.progress(run.seeds, label="seeds"):
        problem = Quadratic.draw(seed, rank=3)
        y = problem.solution(problem.x)
        truth = hypergradient(problem.f, problem.g, problem.x, y)
        for sigma in sigmas:
            found = penalty_gap(problem.f, problem.g, problem.x, y, sigma=sigma, atol=1e-12)
            value = float(problem.f(problem.x, y)) - found.value[0]
            beyond = float((found.extrapolated_gradient - truth).norm())
            gaps.append([value, float((found.gradient[0] - truth).norm()), beyond])
    errors = np.array(gaps).reshape(len(run.seeds), len(sigmas), 3)
    late = slice(-min(3, len(sigmas)), None)
    slopes = [np.polyfit(np.log(sigmas[late]), np.log(row[late]), 1)[0] for row in errors]
    figure, axes = run.figure()
    axes.loglog(sigmas, np.median(errors, 0), "o-", label=["value", "gradient", "extrapolated gradient"])
    axes.set(xlabel="sigma", ylabel="error")
    axes.legend()
    return Measurement(
        {"value_slope": every([s[0] for s in slopes]), "gradient_slope": every([s[1] for s in slopes])},
        table=Table(
            ["sigma", "error of the value", "of the gradient", "of the extrapolated gradient"],
            [[s, *map(float, row)] for s, row in zip(sigmas, np.median(errors, 0), strict=True)],
        ),
        figure=figure,
    )


@measures("p2-hypergradient")
def explicit_gradients(run: Run) -> Measurement:
    """Compare with central differences on quadratics of low rank and on quadratics with boxes, half each."""
    errors: dict[str, list[float]] = {"several solutions": [], "box": []}
    count, seed = run.at(smoke=3, desk=25, full=100), run.seed
    while min(map(len, errors.values())) < count:
        seed += 1000
        problem = Quadratic.draw(seed, rank=3)
        if len(errors["several solutions"]) < count:
            found = hypergradient(problem.f, problem.g, problem.x, problem.solution(problem.x))
            errors["several solutions"].append(float((found - problem.differences(problem.solution)).abs().max()))
        problem = Quadratic.draw(seed, rank=8)
        y = problem.boxed(problem.x)
        pull = problem.A.T @ (problem.A @ y - problem.B @ problem.x)
        free = y.abs() < 1 - 1e-9
        if float(pull[~free].abs().min() if (~free).any() else 0) < 1e-2 or bool((y[free].abs() > 0.99).any()):
            continue  # a multiplier, or the way to a bound, is almost 0: there the gradient is one-sided
        found = hypergradient(
            problem.f, problem.g, problem.x, y, constraints=lambda y: torch.cat([y - 1, -1 - y])
        )  # fmt: skip
        errors["box"].append(float((found - problem.differences(problem.boxed)).abs().max()))
    return Measurement(
        exact(max(max(found) for found in errors.values())),
        table=Table(["kind", "instances", "largest error"], [[k, len(v), max(v)] for k, v in errors.items()]),
    )


@measures("p3-deterministic-rate")
def deterministic_rate(run: Run) -> Measurement:
    """Follow the true gradient on a batch of non-convex problems, with the schedules of the theory."""
    count, dx, dy = run.repeats(smoke=3, desk=8, full=16), 4, 5
    generator = run.torch_rng()
    B = torch.randn(count, dy, dx, generator=generator, dtype=DOUBLE) / 2
    c = torch.randn(count, dy, generator=generator, dtype=DOUBLE)
    Q = torch.rand(count, dy, generator=generator, dtype=DOUBLE) + 0.5
    x0 = torch.randn(count, dx, generator=generator, dtype=DOUBLE)

    def lower(x: Tensor) -> Tensor:
        return torch.tanh((B @ x[..., None])[..., 0])

    def f(x: Tensor, y: Tensor) -> Tensor:
        return (y - c).square().sum() / 2 + 0.1 * torch.cos(3 * x).sum()

    def g(x: Tensor, y: Tensor) -> Tensor:
        return (Q * (y - lower(x)).square()).sum() / 2

    def gradient(x: Tensor) -> Tensor:
        y = lower(x)
        return (((1 - y**2) * (y - c))[..., None] * B).sum(-2) - 0.3 * torch.sin(3 * x)

    figure, axes = run.figure()
    slopes, rows = {}, []
    for inner in run.progress((1, 5, 10), label="inner steps"):
        steps = run.at(smoke=130, desk=20_000 if inner == 1 else 4000, full=20_000)
        norms: list[Tensor] = []
        penalty_bilevel(
            f, g, x0, lower(x0), sigma=0.1, lr_x=0.1, lr_y=0.5, prox_rho=math.inf, inner_steps=inner, steps=steps,
            callback=lambda r, norms=norms: norms.append(gradient(r.x).norm(dim=-1)),
        )  # fmt: skip
        least = np.minimum.accumulate(torch.stack(norms).numpy(), axis=0)
        k = np.unique(np.geomspace(100, steps, 200).astype(int)) - 1
        found = [float(np.polyfit(np.log(k + 1), np.log(column[k]), 1)[0]) for column in least.T]
        slopes[f"inner_{inner}"] = median(found, "problems")
        rows.append([inner, steps, float(np.median(found)), min(found), max(found)])
        axes.loglog(np.arange(1, steps + 1), np.median(least, 1), label=f"{inner} inner steps")
    axes.set(xlabel="outer step k", ylabel="least |gradient| so far, median of problems")
    axes.legend()
    return Measurement(
        slopes, figure=figure,
        table=Table(["inner steps", "outer steps", "median exponent", "least", "greatest"], rows),
        remark="sigma and the upper step start at 0.1 and fall with the power 1/3 of 1 + k/10; fitted from k = 100.",
    )  # fmt: skip


GRID = [(a, b) for a in (0.03, 0.1, 0.3, 1.0) for b in (0.1, 0.3, 1.0)]
"""First steps of x and of y that each method tries; above 4/3, constant steps of y are unstable in some problems."""

STOCHASTIC: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
    "momentum": ({"method": "single_loop", "sigma": PolynomialDecay(0.1, 1 / 5, 10)}, (3 / 5, 2 / 5)),
    "no momentum": (
        {"method": "f2sa", "inner_steps": 1, "batch_size": 1, "sigma": PolynomialDecay(0.1, 1 / 7, 10)},
        (5 / 7, 4 / 7),
    ),
    "growing batches": (
        {
            "inner_steps": lambda k: math.ceil((1 + k) ** (4 / 3)),
            "sigma": PolynomialDecay(0.1, 1 / 3, 10),
            "prox_rho": math.inf,
            "averaging": 1.0,
        },
        (1 / 3, 0.0),
    ),
    "constant batches": (
        {
            "inner_steps": 5,
            "batch_size": 20,
            "inner_batch_size": 4,
            "sigma": PolynomialDecay(0.1, 1 / 3, 10),
            "prox_rho": math.inf,
            "averaging": 1.0,
        },
        (1 / 3, 0.0),
    ),
}


def final_gradients(name: str, seeds: list[int], samples: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the RMS of both gradients over the last tenth, by seed and constants, and the gradients per sample."""
    problem = Noisy(seeds, len(GRID))
    options, powers = STOCHASTIC[name]
    steps = torch.tensor(GRID, dtype=DOUBLE).repeat(len(seeds), 1)
    lr_x, lr_y = (lambda k, s=steps[:, i : i + 1], p=powers[i]: s * (1 + k / 10) ** -p for i in range(2))
    seen: list[tuple[int, Tensor, Tensor]] = []

    def follow(result: BilevelResult) -> None:
        if result.n_samples > 0.9 * samples:
            seen.append((result.n_samples, problem.gradient(result.x), problem.penalised(result.x, result.sigma)))
        if result.n_samples >= samples:
            raise StopIteration

    start = torch.ones(problem.rows, 4, dtype=DOUBLE)
    found = penalty_bilevel(
        problem.f, problem.g, start, torch.zeros_like(start), sampler=problem.sampler, lr_x=lr_x, lr_y=lr_y,
        steps=samples, callback=follow, **options,
    )  # fmt: skip
    shape = len(seeds), len(GRID)
    true, penalised = (
        torch.stack(found).square().mean(0).sqrt().reshape(shape)
        for found in ([true for _, true, _ in seen], [penalised for _, _, penalised in seen])
    )
    evaluations = round((found.n_grad_f + found.n_grad_g) / found.n_samples)
    return np.nan_to_num(true.numpy(), nan=np.inf), np.nan_to_num(penalised.numpy(), nan=np.inf), evaluations


@measures("p4-momentum")
def momentum(run: Run) -> Measurement:
    """Tune each method's first steps on other problems, and compare what it makes of equal samples."""
    judged = [100 + 100 * run.seed + i for i in range(run.repeats(smoke=3, desk=40, full=40))]
    tuning = [10_000 + i for i in range(run.at(smoke=1, desk=5, full=5))]
    counts = run.at(smoke=[60], desk=[1000, 4000, 20_000], full=[1000, 10_000, 100_000, 1_000_000])
    rows, curves, last = [], {}, {}
    for name in run.progress(STOCHASTIC, label="methods"):
        medians = []
        for samples in counts:
            true, penalised, evaluations = final_gradients(name, tuning + judged, samples)
            best = int(np.argmin(np.median(true[: len(tuning)], axis=0)))
            last[name] = true[len(tuning) :, best]
            medians.append(float(np.median(last[name])))
            of_penalised = float(np.median(penalised[len(tuning) :, best]))
            rows.append([name, samples, *GRID[best], medians[-1], of_penalised, evaluations])
        slope = np.polyfit(np.log(counts), np.log(medians), 1)[0] if len(counts) > 1 else math.nan
        curves[name] = float(slope)
    ours = last["momentum"]
    won = int((ours <= last["no momentum"]).sum())
    return Measurement(
        {
            "to_batches": ratio(ours.tolist(), last["constant batches"].tolist(), "problems"),
            "problems_won": proportion(won, len(judged), "problems"),
        },
        table=Table(
            ["method", "samples", "step of x", "of y", "median |gradient|", "of the penalised", "per sample"], rows
        ),
        remark="RMS over the last tenth. Exponents in the samples: "
        + ", ".join(f"{name} {slope:.2f}" for name, slope in curves.items()),
    )  # fmt: skip


def affine(y: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda X: X @ y["W"] + y["b"]


def early_stopped(data: Cleaning, labels: Tensor, steps: int) -> float:
    """Return the test accuracy of gradient descent on labels, stopped where the validation accuracy is best."""
    y = {"W": torch.zeros(64, 10, requires_grad=True), "b": torch.zeros(10, requires_grad=True)}
    best = (-1.0, 0.0)
    for step in range(steps):
        loss = F.cross_entropy(affine(y)(data.train), labels)
        grads = torch.autograd.grad(loss, list(y.values()))
        with torch.no_grad():
            for p, d in zip(y.values(), grads, strict=True):
                p -= d
            if step % 10 == 9:
                found = float((affine(y)(data.val).argmax(1) == data.val_labels).float().mean())
                best = max(best, (found, data.accuracy(affine(y))), key=lambda pair: pair[0])
    return best[1]


@measures("p5-data-cleaning")
def data_cleaning(run: Run) -> Measurement:
    """Weight the examples so that a softmax regression on them fits the validation set."""
    steps, rows = run.at(smoke=15, desk=800, full=2000), []
    for seed in run.progress(run.seeds[: run.at(smoke=1, desk=5, full=10) * run.effort], label="seeds"):
        data = Cleaning.draw(seed)
        found = penalty_bilevel(
            lambda x, y, data=data: data.upper(affine(y)),
            lambda x, y, data=data: data.lower(affine(y), x) + 1e-3 * y["W"].square().sum(),
            torch.zeros(800), {"W": torch.zeros(64, 10), "b": torch.zeros(10)},
            sigma=lambda k: 0.1, lr_x=lambda k: 300.0, lr_y=1.0, inner_steps=3, prox_rho=math.inf, steps=steps,
        )  # fmt: skip
        weights, right = torch.sigmoid(found.x), data.labels == data.clean
        rows.append([
            data.accuracy(affine(found.y)), data.auc(weights), data.accuracy(affine(found.z)),
            early_stopped(data, data.labels, steps), early_stopped(data, data.clean, steps),
            float(weights[right].mean()), float(weights[~right].mean()),
        ])  # fmt: skip
    table = np.array(rows)
    columns = ["test accuracy", "AUC of the weights", "accuracy of z", "uncleaned, stopped early", "clean labels known",
               "mean weight of right labels", "of wrong ones"]  # fmt: skip
    values = {"accuracy": mean(table[:, 0]), "auc": mean(table[:, 1])}
    if len(rows) > 1:
        values["gain"] = difference(table[:, 0], table[:, 3])
    else:
        values["gain"] = exact(float(table[0, 0] - table[0, 3]))
    shown = [[c, float(v)] for c, v in zip(columns, table.mean(0), strict=True)]
    return Measurement(values, table=Table(["quantity", "mean"], shown))


class Lent:
    """A tensor kept for a backward pass, counted while it is alive."""

    def __init__(self, tensor: Tensor, counter: "Saved") -> None:
        self.tensor, self.counter = tensor, counter
        self.key = tensor.untyped_storage().data_ptr()
        self.size = tensor.untyped_storage().nbytes()
        counter.add(self.key, self.size)

    def __del__(self) -> None:
        self.counter.remove(self.key, self.size)


class Saved:
    """The most bytes of tensors that were kept for backward passes at one time, each storage once."""

    def __init__(self) -> None:
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def add(self, key: int, size: int) -> None:
        self.alive[key] = self.alive.get(key, 0) + 1
        self.now += size if self.alive[key] == 1 else 0
        self.peak = max(self.peak, self.now)

    def remove(self, key: int, size: int) -> None:
        self.alive[key] -= 1
        self.now -= size if self.alive[key] == 0 else 0

    def of(self, job: Callable[[], Any]) -> int:
        """Return the peak while a job runs."""
        with torch.autograd.graph.saved_tensors_hooks(lambda t: Lent(t, self), lambda lent: lent.tensor):
            job()
        return self.peak


Stepper = tuple[torch.nn.Module, Tensor, Callable[[], Any], int]
"""A lower module, the weights of examples, one outer step, and how many copies of the module there are."""


def network(seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return mlp([64, 32, 10])


def penalty_steps(data: Cleaning, seed: int) -> Stepper:
    """Clean by five inner steps of each copy."""
    model, x = network(seed), torch.nn.Parameter(torch.zeros(800))
    optimizer = PenaltyBilevelOptimizer(
        [x], model, lambda m, _: data.upper(m), lambda m, _: data.lower(m, x), lr=0.1, lower_lr=0.5, sigma=0.1,
        inner_steps=5, upper_opt=torch.optim.Adam,
    )  # fmt: skip
    return model, x, optimizer.step, 2


def compare(run: Run, theirs: Callable[[Cleaning, int], Stepper], name: str, unrolled: bool = True) -> Measurement:
    """Race outer steps, and report what as many of them make of test accuracy and how much memory they keep."""
    data, jobs, rows, memory = Cleaning.draw(run.seed), {}, [], {}
    count = run.at(smoke=1, desk=60, full=300)
    for label, make in {"ours": penalty_steps, name: theirs}.items():
        model, x, step, copies = make(data, run.seed)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        memory[label] = Saved().of(step) + copies * size
        for _ in range(count):
            step()
        rows.append([label, data.accuracy(model), data.auc(x), memory[label] / 1e6])
        jobs[label] = step
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=30))
    seconds = times.medians()
    return Measurement(
        {**({"memory": exact(memory["ours"] / memory[name])} if unrolled else {}), "time": times.ratio("ours", name)},
        table=Table(
            ["method", f"test accuracy after {count} outer steps", "AUC of the weights", "MB kept", "seconds a step"],
            [[*row, seconds[str(row[0])]] for row in rows],
        ),
        settings="Adam with lr 0.1 for the weights and SGD with 0.5 for the network, as ours.",
    )


def weight_step(x: Tensor) -> torch.optim.Optimizer:
    return torch.optim.Adam([x], lr=0.1)


@races("higher")
def against_higher(run: Run) -> Measurement:
    """Unroll twenty inner steps with higher."""
    import higher

    def make(data: Cleaning, seed: int) -> Stepper:
        model, x = network(seed), torch.nn.Parameter(torch.zeros(800))
        inner, outer = torch.optim.SGD(model.parameters(), lr=0.5), weight_step(x)

        def step() -> None:
            with higher.innerloop_ctx(model, inner, copy_initial_weights=True) as (functional, unrolled):
                for _ in range(20):
                    unrolled.step(data.lower(functional, x))
                x.grad = torch.autograd.grad(data.upper(functional), x)[0]
                outer.step()
                model.load_state_dict(functional.state_dict())

        return model, x, step, 1

    return compare(run, make, "higher")


@races("torchopt")
def against_torchopt(run: Run) -> Measurement:
    """Unroll twenty inner steps with TorchOpt."""
    import torchopt

    def make(data: Cleaning, seed: int) -> Stepper:
        model, x = network(seed), torch.nn.Parameter(torch.zeros(800))
        inner, outer = torchopt.MetaSGD(model, lr=0.5), weight_step(x)

        def step() -> None:
            for _ in range(20):
                inner.step(data.lower(model, x))
            x.grad = torch.autograd.grad(data.upper(model), x)[0]
            outer.step()
            torchopt.stop_gradient(model)
            torchopt.stop_gradient(inner)

        return model, x, step, 1

    return compare(run, make, "torchopt")


@races("betty")
def against_betty(run: Run) -> Measurement:
    """Take hyper-gradients by twenty steps of conjugate gradients with betty, after five inner steps as ours has."""
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    def make(data: Cleaning, seed: int) -> Stepper:
        model = network(seed)

        class Weights(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.x = torch.nn.Parameter(torch.zeros(800))

            def forward(self) -> Tensor:
                return self.x

        class Upper(ImplicitProblem):
            def training_step(self, batch: Any) -> Tensor:
                return data.upper(self.lower)

        class Lower(ImplicitProblem):
            def training_step(self, batch: Any) -> Tensor:
                return data.lower(self.module, self.upper())

        weights = Weights()

        def endless() -> list[Any]:
            return [torch.zeros(1)]

        upper = Upper(
            "upper", Config(type="darts", retain_graph=True), weights, weight_step(weights.x), None, endless()
        )
        lower = Lower(
            "lower", Config(type="cg", cg_iterations=20, cg_alpha=1.0, unroll_steps=5), model,
            torch.optim.SGD(model.parameters(), lr=0.5), None, endless(),
        )  # fmt: skip
        links = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        engine = Engine(config=EngineConfig(train_iters=1), problems=[upper, lower], dependencies=links)

        def step() -> None:
            for _ in range(5):
                engine.train_step()

        return model, weights.x, step, 1

    return compare(run, make, "betty", unrolled=False)
