"""Models of the two degenerate problems: trained here, or with the authors' weights."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.evidence import Run
from paperworks.numerics import torch_generator, train, warmup_cosine
from paperworks.operators import AttentiveNeuralProcess, ConservativeUpdate, ProbConservANP, gaussian_log_likelihood
from paperworks.testbeds import ConservationProblem, DatasetMissing, FunctionBatch, PorousMedium, Stefan, on_grid

CASES: tuple[tuple[str, ConservationProblem, float], ...] = (
    ("porous medium, 1", PorousMedium(), 1.0),
    ("porous medium, 3", PorousMedium(), 3.0),
    ("porous medium, 6", PorousMedium(), 6.0),
    ("Stefan, 0.6", Stefan(), 0.6),
)
_TEST_SEED = 900  # of the contexts that models are judged on


class Prediction(NamedTuple):
    """Means and variances of a function at the time judged: plain, ours, and after a hard projection."""

    plain: tuple[Tensor, Tensor]
    ours: tuple[Tensor, Tensor]
    hard: tuple[Tensor, Tensor]


def trained_process(run: Run, problem: ConservationProblem, seed: int) -> AttentiveNeuralProcess:
    """Train a process on functions of random parameters, once for each problem and seed."""
    steps, functions, hidden = run.at(smoke=(10, 64, 16), desk=(300, 2000, 64), full=(20_000, 10_000, 128))
    torch.manual_seed(seed)
    process = AttentiveNeuralProcess(hidden=hidden)

    def fit(network: nn.Module) -> None:
        generator = torch_generator(seed)
        data = problem.sample_functions(functions, generator=generator)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

        def loss(step: int) -> Tensor:
            rows = torch.randint(functions, (32,), generator=generator)
            return process.loss(*(part[rows] for part in data), generator=generator)

        train(loss, optimizer, steps, schedule=lambda s: warmup_cosine(s, 50, steps), clip=100.0, progress=run.progress)

    run.trained("neural-process", process, fit, problem=type(problem).__name__, seed=seed, steps=steps, hidden=hidden)
    return process.eval()


def official_folder() -> Path:
    """Return the folder of the authors' weights that the user names.

    Raises
    ------
    DatasetMissing
        Where there is none.
    """
    folder = Path(os.environ.get("PAPERWORKS_DATA", "")) / "probconserv"
    if not (folder / "pme_anp.safetensors").is_file():
        raise DatasetMissing(
            "the authors' weights are not there; set PAPERWORKS_DATA to a folder with probconserv/pme_anp.safetensors,"
            " stefan_anp.safetensors and pme_test.npz, made of the files of amazon-science/probconserv"
        )
    return folder


def contexts(problem: ConservationProblem, parameter: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield points and values of one solution as they are seen by a model, many times."""
    only = type(problem)()
    only.parameters = (parameter, parameter)
    batch: FunctionBatch = only.sample_functions(count, generator=torch_generator(_TEST_SEED))
    yield from zip(batch.context_x, batch.context_y, strict=True)


def official_contexts(folder: Path, parameter: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the published test contexts of the porous medium."""
    with np.load(folder / "pme_test.npz") as data:
        chosen = np.flatnonzero(data["parameters"][:, 0] == parameter)[:count]
        points, values = data["input_contexts"][chosen], data["output_contexts"][chosen, :, 0]
    yield from zip(torch.from_numpy(points).float(), torch.from_numpy(values).float(), strict=True)


def predictions(
    process: AttentiveNeuralProcess, problem: ConservationProblem, parameter: float, seen: Any, n_samples: int
) -> Iterator[Prediction]:
    """Yield what a process predicts of each function seen, with the same draws for all three."""
    x, _, mass = on_grid(problem, parameter)
    models = [ProbConservANP(process, ConservativeUpdate(mode=mode), n_samples) for mode in ("prob", "prob", "hard")]
    t = torch.tensor(problem.judged)
    for number, (points, values) in enumerate(seen):
        with torch.no_grad():
            yield Prediction(
                *(
                    model(points, values, x, t, value, generator=torch_generator(number))
                    for model, value in zip(models, (None, mass, mass), strict=True)
                )
            )


def scores(found: Any, u: Tensor) -> Tensor:
    """Return the log-likelihood of a point and the squared error: function by way by score."""
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([gaussian_log_likelihood(u, mean, var).mean(), (mean - u).square().mean()])
                    for mean, var in prediction
                ]
            )
            for prediction in found
        ]
    )
