"""Accuracy, generality and speed of SignalTrain on a compressor with four knobs, and races of its parts."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.audio import (
    Compressor4C,
    FourierFrontEnd,
    SignalTrainLoss,
    ablate,
    ballistics,
    best_gain,
    esr_loss,
    fit,
    process_file,
    time_coefficient,
)
from paperworks.evidence import (
    AudibleMeasurement,
    Measurement,
    Recording,
    Run,
    Table,
    bootstrap,
    exact,
    interleaved,
    mean,
    measures,
    races,
)
from paperworks.papers.signaltrain.problems import (
    MIX,
    PLUCKS,
    Mixture,
    baseline,
    batch_size,
    compressor,
    decibels,
    errors,
    examples,
    instrument,
    model_of,
    options,
    rate,
    trained,
)
from paperworks.testbeds import plucked_strings

SETTINGS = (-20.0, 4.0, 0.005, 0.02)  # of the compressor that is raced: dB, ratio, seconds


def judged(run: Run) -> int:
    """Return how many chunks decide."""
    return run.repeats(smoke=16, desk=512, full=2048)


def twice_the_seeds(run: Run) -> range:
    """Return more seeds at desk scale, whose short trainings differ a lot from one to the next."""
    return range(len(run.seeds) * run.at(smoke=1, desk=2, full=1))


@measures("n1-front-end")
def front_end(run: Run) -> Measurement:
    """Send noise through analysis and synthesis, without what is between them."""
    x = torch.randn(1, 8192, generator=run.torch_rng())
    x /= x.abs().max()
    rows, worst, delays = [], 0.0, []
    figure, axes = run.figure()
    for bank in ("literal", "half", "rfft"):
        front = FourierFrontEnd(1024, 384, bank, trainable=bank != "rfft")
        with torch.no_grad():
            real, imag = front.analysis(x)
            whole = front.synthesis(real, imag)
            last = front.synthesis(real[..., -9:], imag[..., -9:])
        apart = [float((a - x[:, -a.shape[1] :]).abs().max()) for a in (whole, last)]
        # The lag at which the output is most like the input.
        products = torch.fft.irfft(torch.fft.rfft(whole, 16384) * torch.fft.rfft(x, 16384).conj())[0]
        lag = int(products.argmax())
        delays.append(lag if lag < 8192 else lag - 16384)
        rows.append([bank, *apart, delays[-1]])
        worst = max(worst, *apart)
        axes.semilogy((whole - x)[0].abs().unfold(0, 128, 128).amax(1), label=bank)
    axes.set(xlabel="place in the chunk, in blocks of 128 samples", ylabel="largest error / peak")
    axes.legend()
    return Measurement(
        {"error": exact(worst), "latency": exact(max(delays, key=abs))},
        table=Table(["banks", "error over 8192 samples", "over the last 2048 from 9 frames", "delay"], rows),
        figure=figure,
    )


@measures("n2-compressor")
def learns_a_compressor(run: Run) -> Measurement:
    """Judge the model at knobs and signals that it has not seen, beside what else learns a compressor."""
    steps = run.at(smoke=5, desk=600, full=100_000)
    data, seed = examples(run, MIX, 0), 0
    test = examples(run, MIX, run.seed, test=True).batch(range(judged(run)))
    dry = test.x[:, -test.y.shape[1] :]
    gained = best_gain(dry, test.y) * dry
    models = {
        "SignalTrain": trained(run, "mix", data, steps, seed),
        # So many steps that a training takes about as long.
        "micro-TCN": baseline(run, "micro-TCN", data, run.at(smoke=2, desk=100, full=100_000), seed),
        "grey box": baseline(run, "grey box", data, run.at(smoke=5, desk=300, full=3000), seed),
    }
    with torch.no_grad():
        answers = {name: torch.cat([model(*part) for part in _parts(test)]) for name, model in models.items()}
    answers |= {"dry": dry, "best constant gain": gained}
    apart = {name: errors(y, test.y).numpy() for name, y in answers.items()}
    rows = [[n, float(e.mean()), decibels(answers[n] - test.y, test.y)] for n, e in apart.items()]

    def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(ours.mean() / theirs.mean())

    figure, (left, right) = run.figure(1, 2)
    figure.set_size_inches(10, 3.6)
    shown = int(np.argsort(apart["dry"])[-len(apart["dry"]) // 4])  # one that is compressed clearly
    for name, y in (("dry", dry), ("compressor", test.y), ("SignalTrain", answers["SignalTrain"])):
        left.plot(y[shown], label=name, linewidth=0.9)
    left.set(xlabel="sample of the output", ylabel="amplitude", title="One chunk")
    left.legend()
    right.loglog(apart["dry"] + 1e-6, apart["SignalTrain"] + 1e-6, ".", markersize=3)
    ends = [float(apart["dry"].min()) + 1e-6, float(apart["dry"].max())]
    right.loglog(ends, ends, color="black", linewidth=0.6, label="no better than dry")
    right.set(xlabel="mean absolute error of the dry chunk", ylabel="of SignalTrain's", title="Each chunk")
    right.legend()
    return AudibleMeasurement(
        {
            "to_dry": bootstrap(relative, apart["SignalTrain"], apart["dry"], of="chunks"),
            "to_gain": bootstrap(relative, apart["SignalTrain"], apart["best constant gain"], of="chunks"),
        },
        table=Table(["what answers", "mean absolute error", "error to signal, dB"], rows),
        figure=figure,
        remark="The grey box is the compressor itself with unknown settings, which it learns through the recursion.",
        recordings=_listening(run, models["SignalTrain"]),
    )


def _listening(run: Run, model: torch.nn.Module) -> list[Recording]:
    """Compress plucked strings that no training had, by the compressor and by the model."""
    effect, sr = compressor(run), int(compressor(run).sr)
    dry = plucked_strings(3 * sr, sr, run.rng(2**20), notes=12).astype(np.float32)
    knobs = effect.normalised([-30, 4, 0.005, 0.04])
    sounds = {
        "Plucked strings, dry": dry,
        "The compressor, from -30 dB on by 4 to 1": effect.process(dry, knobs),
        "SignalTrain at the same knobs": process_file(model, torch.as_tensor(dry), knobs).numpy(),
    }
    return [Recording(says, sound, sr) for says, sound in sounds.items()]


def _parts(test: Any) -> Any:
    return zip(test.x.split(128), test.knobs.split(128), strict=True)


@measures("n3-one-instrument")
def one_instrument(run: Run) -> Measurement:
    """Train on one kind of sound and on several, and judge both on both."""
    steps = run.at(smoke=3, desk=300, full=100_000)
    names = ("piano", "guitar", "drums") if run.scale == "full" else ("pluck",)
    inside: list[float] = []
    outside: list[float] = []
    rows = []
    seeds = twice_the_seeds(run)
    for seed in seeds:
        if run.scale == "full":
            parts = {name: [instrument(run, name, seed, test=test) for test in (False, True)] for name in names}
            general, wide = (Mixture([parts[name][k] for name in names]) for k in (0, 1))
        else:
            parts = {"pluck": [examples(run, PLUCKS, seed, test=test) for test in (False, True)]}
            general, wide = (examples(run, MIX, seed, test=test) for test in (False, True))
        broad = trained(run, "mix", general, steps, seed)
        found = []
        for name in names:
            narrow = trained(run, name, parts[name][0], steps, seed)
            mae = {}
            for place, data in (("in", parts[name][1]), ("out", wide)):
                test = data.batch(range(judged(run)))
                for kind, model in (("narrow", narrow), ("broad", broad)):
                    with torch.no_grad():
                        y = torch.cat([model(*part) for part in _parts(test)])
                    mae[kind, place] = float(errors(y, test.y).mean())
            found.append([mae["narrow", place] / mae["broad", place] for place in ("in", "out")])
            rows.append([seed, name, *(mae[k, place] for place in ("in", "out") for k in ("narrow", "broad"))])
        inside.append(float(np.mean([a for a, _ in found])))
        outside.append(float(np.mean([b for _, b in found])))
    figure, axes = run.figure()
    for label, values in (("on the instrument", inside), ("on all", outside)):
        axes.plot(seeds, values, "o", label=label)
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set(xlabel="seed", ylabel="error / the general model's", xticks=seeds)
    axes.legend()
    return Measurement(
        {"in_domain": mean(inside), "out_of_domain": mean(outside)},
        table=Table(
            ["seed", "instrument", "its model on it", "general on it", "its model on all", "general on all"], rows
        ),
        figure=figure,
    )


ABLATIONS: dict[str, dict[str, Any]] = {
    "loss: mean absolute error": {"loss.data": "mae"},
    "no bound of magnitudes": {"loss.strength": 0.0},
    "companding, mu 32": {"model.companding": 32.0},
    "knobs by FiLM": {"model.knob_mode": "film"},
    "init: Kaiming": {"model.init": "kaiming"},
    "frozen transform": {"model.trainable_frontend": False},
}
MORE: dict[str, dict[str, Any]] = {  # at full scale, where time is
    "loss: ESR": {"loss.data": "esr"},
    "loss: multi-resolution STFT": {"loss.data": "mrstft"},
    "activation: leaky ReLU": {"model.activation": torch.nn.LeakyReLU},
    "skip: residual": {"model.skip": "res"},
    "no phase branch": {"model.phase": False},
    "U-Net": {"model.unet": True},
    "constant rate": {"fit.schedule": "constant"},
    "bfloat16": {"fit.precision": "bfloat16"},
    "rank 128": {"model.rank": 128},
    "knobs of wide ranges": {
        "data.effect": Compressor4C(
            44100, {"threshold": (-50.0, 0.0), "ratio": (1.5, 10.0), "attack": (1e-3, 1.0), "release": (1e-3, 1.0)}
        )
    },
}


@measures("n4-marginal-changes")
def marginal_changes(run: Run) -> Measurement:
    """Train the base and variants that differ in one switch, and count those within 15 % of the base."""
    base = {f"model.{name}": value for name, value in options(run).items()}
    base |= {"data.signals": MIX, "fit.batch_size": batch_size(run), "fit.lr": rate(run)}
    steps = run.at(smoke=2, desk=150, full=600)
    switches = run.at(smoke=dict(list(ABLATIONS.items())[:2]), desk=ABLATIONS, full=ABLATIONS | MORE)
    seeds = run.at(smoke=1, desk=1, full=3)
    found = list(
        ablate(compressor(run), base, switches, steps, range(seeds), judged=judged(run), progress=run.progress)
    )
    (noise,) = ablate(compressor(run), base, {}, steps, [seeds], judged=judged(run))
    of_base = {row.seed: row.found.mae for row in found if row.name == "base"}
    relative = {name: [row.found.mae / of_base[row.seed] for row in found if row.name == name] for name in switches}
    # Errors of each chunk, whose choice is what the interval is about: (chunks, variants), means over seeds.
    own = {name: np.mean([row.found.errors for row in found if row.name == name], 0) for name in ("base", *switches)}

    def within(errors: np.ndarray) -> float:
        of_all = errors.mean(0)
        return float((np.abs(of_all[1:] / of_all[0] - 1) <= 0.15).sum())

    rows = [
        [
            name,
            float(np.mean([row.found.mae for row in found if row.name == name])),
            float(np.mean(relative.get(name, [1.0]))),
            float(np.mean([row.found.esr for row in found if row.name == name])),
            float(np.mean([row.seconds for row in found if row.name == name])),
        ]
        for name in ("base", *switches)
    ]
    rows.append(["base, another seed", noise.found.mae, noise.found.mae / of_base[0], noise.found.esr, noise.seconds])
    apart = {name: np.mean(values) - 1 for name, values in relative.items()}
    figure, axes = run.figure()
    axes.barh(list(apart), [100 * v for v in apart.values()])
    axes.axvspan(-15, 15, color="grey", alpha=0.2, label="within 15 %")
    axes.axvline(100 * (noise.found.mae / of_base[0] - 1), color="black", linewidth=0.8, label="base, another seed")
    axes.set(xlabel="mean absolute error against the base's, %", title=f"After {steps} steps")
    axes.legend()
    return Measurement(
        bootstrap(within, np.stack(list(own.values()), 1), of="chunks"),
        table=Table(["variant", "mean absolute error", "/ the base's", "ESR, dB", "seconds of training"], rows),
        figure=figure,
        settings=f"{seeds} seed{'s' * (seeds > 1)}",
    )


@measures("n5-cheaper", exclusive=True)
def cheaper(run: Run) -> Measurement:
    """Time steps of the forms of the transform at the original size, and train the reduced model with each."""
    sizes = run.at(smoke={"chunk": 512, "ft": 64, "hop": 24, "rank": 16}, desk={}, full={})
    batch = run.at(smoke=2, desk=4, full=200)
    forms: dict[str, dict[str, Any]] = {
        "literal": {"bank": "literal"},
        "half the bins": {},
        "frozen": {"trainable_frontend": False},
    }
    models = {
        name: model_of(run, 0, **{"chunk": 8192, "ft": 1024, "hop": 384, **sizes, **f}) for name, f in forms.items()
    }
    x = 0.3 * torch.randn(batch, models["literal"].chunk, generator=run.torch_rng())
    knobs = torch.rand(batch, 4, generator=run.torch_rng()) - 0.5
    y = x[:, -models["literal"].out_chunk :] / 2
    steps = {name: _step(model, x, knobs, y) for name, model in models.items()}
    steps["half the bins, bfloat16"] = _step(copy.deepcopy(models["half the bins"]), x, knobs, y, torch.bfloat16)
    difference = _difference(run, sizes)
    times = interleaved(run, steps, run.at(smoke=1, desk=11, full=15))
    seconds = run.at(smoke=0.1, desk=4.0, full=10.0)
    sound = 0.3 * torch.randn(round(44100 * seconds), generator=run.torch_rng())
    streams = {name: (lambda model=model: process_file(model, sound, [0.0] * 4)) for name, model in models.items()}
    played = interleaved(run, streams, run.at(smoke=1, desk=3, full=7))

    count = run.at(smoke=2, desk=200, full=20_000)
    test = examples(run, MIX, 0, test=True).batch(range(judged(run)))
    reduced: dict[str, dict[str, Any]] = {"half the bins": {}, "frozen": {"trainable_frontend": False}}
    apart: dict[str, np.ndarray] = {}  # (seeds,)
    seeds = twice_the_seeds(run)
    for name, form in reduced.items():
        found = []
        for seed in seeds:
            model = trained(run, "cheaper", examples(run, MIX, seed), count, seed, **form)
            with torch.no_grad():
                found.append(float(errors(torch.cat([model(*part) for part in _parts(test)]), test.y).mean()))
        apart[name] = np.array(found)
    low = model_of(run, run.seed)
    data = examples(run, MIX, run.seed)
    fit(
        low,
        data,
        count,
        random_state=run.seed,
        batch_size=batch_size(run),
        lr=rate(run),
        precision="bfloat16",
        progress=run.progress,
    )
    with torch.no_grad():
        y_hat = torch.cat([low(*part) for part in _parts(test)])
    apart["half the bins, bfloat16"] = errors(y_hat, test.y).mean().reshape(1).numpy()
    rows = [
        [
            name,
            1000 * times.median(name),
            times.median("literal") / times.median(name),
            seconds / played.median(name) if name in streams else None,
            float(apart[name].mean()) if name in apart else None,
        ]
        for name in steps
    ]
    return Measurement(
        {
            "half_speed": times.ratio("literal", "half the bins"),
            "half_difference": exact(difference),
            "frozen_speed": times.ratio("literal", "frozen"),
            "frozen_error": mean(apart["frozen"] / apart["half the bins"]),
        },
        table=Table(
            [
                "front end",
                f"milliseconds a step of {batch} chunks",
                "literal / it",
                "times real time at 44.1 kHz",
                f"error after {count} steps, reduced model, mean of seeds",
            ],
            rows,
        ),
        remark="With half the bins the reduced model's training is the literal one's, so that one stands for both.",
    )


def _step(
    model: torch.nn.Module, x: Tensor, knobs: Tensor, y: Tensor, precision: torch.dtype | None = None
) -> Callable[[], None]:
    """Return a step of training as a function."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-5)
    loss = SignalTrainLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            found, magnitude = model(x, knobs, return_aux=True)
        loss(found.float(), y, magnitude.float()).backward()
        optimizer.step()

    return step


def _difference(run: Run, sizes: dict[str, Any]) -> float:
    """Return how far output and gradients with half the bins are from those of the literal banks.

    Rows of the literal synthesis that mirror each other are one row of half the bins, whose gradient is their sum. In
    double precision, so that angles at the cut of the plane don't decide.
    """
    made = [
        model_of(run, 1, **{"chunk": 2048, "ft": 256, "hop": 96, **sizes, "bank": b}).double()
        for b in ("literal", "half")
    ]
    x = 0.3 * torch.randn(2, made[0].chunk, generator=run.torch_rng(1), dtype=torch.float64)
    knobs = torch.rand(2, 4, generator=run.torch_rng(2), dtype=torch.float64) - 0.5
    outputs = []
    for model in made:
        y, magnitude = model(x, knobs, return_aux=True)
        SignalTrainLoss()(y, x[:, -y.shape[1] :] / 2, magnitude).backward()
        outputs.append(y)
    literal, half = ({name: p.grad for name, p in model.named_parameters()} for model in made)
    worst = _apart(outputs[0], outputs[1])
    for name, gradient in half.items():
        theirs = literal[name]
        assert theirs is not None
        assert gradient is not None
        if name.startswith("front."):
            bins = len(gradient)
            if "synthesis" in name:
                sign = 1 if name.endswith("real") else -1
                theirs = torch.cat(
                    [theirs[:1], theirs[1 : bins - 1] + sign * theirs[bins:].flip(0), theirs[bins - 1 : bins]]
                )
            theirs = theirs[:bins]
        worst = max(worst, _apart(theirs, gradient))
    return worst


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


def _sound(run: Run) -> np.ndarray:
    """Return ten seconds of noise whose level rises and falls."""
    n = round(44100 * run.at(smoke=0.2, desk=10.0, full=10.0))
    swell = np.abs(np.sin(np.arange(n) / 20000))
    return (swell * run.rng().uniform(-1, 1, n)).astype(np.float32)


@races("numpy")
def against_numpy(run: Run) -> Measurement:
    """Compress by a loop over samples, with all that can be done at once outside of it."""
    x, compressor = _sound(run), Compressor4C(44100)
    settings = compressor.normalised(SETTINGS)
    threshold, ratio, attack, release = SETTINGS

    def loop() -> np.ndarray:
        level = np.maximum(20 * np.log10(np.abs(x) + 1e-8), -96)
        gain = np.where(level > threshold, threshold + (level - threshold) / ratio - level, 0.0)
        down, up = (math.exp(-math.log(9) / (44100 * t)) for t in (attack, release))
        smoothed, s = np.zeros_like(gain), 0.0
        for n, g in enumerate(gain.tolist()):
            a = down if g < s else up
            s = (1 - a) * g + a * s
            smoothed[n] = s
        return x * 10 ** (smoothed / 20)

    times = interleaved(
        run, {"ours": lambda: compressor.process(x, settings), "loop": loop}, run.at(smoke=1, desk=21, full=41)
    )
    apart = float(np.abs(loop() - compressor.process(x, settings)).max())
    return Measurement(
        times.ratio("ours", "loop"),
        table=Table(["compressor", "milliseconds"], [[name, 1000 * s] for name, s in times.medians().items()]),
        settings=f"{x.size} samples of noise in single precision, one channel",
        remark=f"Largest difference of the sounds: {apart:.1e}.",
    )


@races("pedalboard")
def against_pedalboard(run: Run) -> Measurement:
    """Compress by its compressor, whose detector differs but whose work is alike."""
    from pedalboard import Compressor

    x, ours = _sound(run), Compressor4C(44100)
    settings = ours.normalised(SETTINGS)
    theirs = Compressor(SETTINGS[0], SETTINGS[1], 1000 * SETTINGS[2], 1000 * SETTINGS[3])
    jobs = {"ours": lambda: ours.process(x, settings), "pedalboard": lambda: theirs(x, 44100)}
    times = interleaved(run, jobs, run.at(smoke=1, desk=41, full=101))
    return Measurement(
        times.ratio("ours", "pedalboard"),
        table=Table(["compressor", "milliseconds"], [[name, 1000 * s] for name, s in times.medians().items()]),
        settings=f"{x.size} samples of noise in single precision, one channel; its detector works on amplitudes",
    )


def _gain_job(run: Run) -> tuple[Tensor, Tensor, Callable[[], tuple[Tensor, Tensor, Tensor]]]:
    """Return sound, and what makes a linear gain before smoothing and coefficients with gradients of all settings."""
    rows, n = run.at(smoke=(2, 2000), desk=(8, 44100), full=(32, 441000))
    x = 0.5 * torch.randn(rows, n, generator=run.torch_rng())
    threshold, ratio = (torch.full((rows, 1), v, requires_grad=True) for v in SETTINGS[:2])
    attack, release = (torch.full((rows,), v, requires_grad=True) for v in SETTINGS[2:])

    def job() -> tuple[Tensor, Tensor, Tensor]:
        over = (20 * (x.abs() + 1e-8).log10() - threshold).relu()
        gain = 10 ** (over * (1 / ratio - 1) / 20)
        return gain, time_coefficient(attack, 44100), time_coefficient(release, 44100)

    return x, threshold, job


@races("torchcomp")
def against_torchcomp(run: Run) -> Measurement:
    """Smooth the same linear gain by both, backwards too; all before and after the smoothing is shared."""
    from torchcomp.core import compressor_core

    x, _, job = _gain_job(run)

    def ours() -> Tensor:
        gain, attack, release = job()
        return ballistics(gain, attack, release, 1.0)

    def theirs() -> Tensor:
        gain, attack, release = job()
        return compressor_core(gain, gain.new_ones(len(gain)), 1 - attack, 1 - release)

    jobs = {
        "ours": lambda: (x * ours()).square().mean().backward(),
        "torchcomp": lambda: (x * theirs()).square().mean().backward(),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=15))
    return Measurement(
        {
            "time": times.ratio("ours", "torchcomp"),
            "difference": exact(float((ours() - theirs()).detach().abs().max())),
        },
        table=Table(["package", "milliseconds"], [[name, 1000 * s] for name, s in times.medians().items()]),
        settings=f"{len(x)} rows of {x.shape[1]} samples in single precision; compiled before",
    )


@races("dasp-pytorch")
def against_dasp(run: Run) -> Measurement:
    """Compress with gradients by its compressor, which takes one time for both ways, by a Fourier transform."""
    from dasp_pytorch.functional import compressor as theirs

    x, _, job = _gain_job(run)
    settings = [torch.full((len(x), 1), v, requires_grad=True) for v in (-20.0, 4.0, 5.0, 20.0, 0.1, 0.0)]

    def ours() -> Tensor:
        gain, attack, release = job()
        return x * ballistics(gain, attack, release, 1.0)

    jobs = {
        "ours": lambda: ours().square().mean().backward(),
        "dasp-pytorch": lambda: theirs(x[:, None], 44100, *settings).square().mean().backward(),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=15, full=15))
    return Measurement(
        times.ratio("ours", "dasp-pytorch"),
        table=Table(["package", "milliseconds"], [[name, 1000 * s] for name, s in times.medians().items()]),
        settings=f"{len(x)} rows of {x.shape[1]} samples in single precision",
    )


@races("auraloss", exclusive=False)
def against_auraloss(run: Run) -> Measurement:
    """Compare error-to-signal ratios, with and without the term of the mean."""
    from auraloss.time import DCLoss, ESRLoss

    worst = 0.0
    for rows in (1, 8):
        y = 0.3 * torch.randn(rows, 1, 4096, generator=run.torch_rng(), dtype=torch.float64) + 0.1
        y_hat = 0.9 * y + 0.01
        plain, offset = ESRLoss()(y_hat, y), DCLoss()(y_hat, y)
        ours = [esr_loss(y_hat, y, dc=dc, pre_emphasis=0.0) for dc in (False, True)]
        worst = max(worst, float((ours[0] - plain).abs()), float((ours[1] - plain - offset).abs()))
    return Measurement(exact(worst))
