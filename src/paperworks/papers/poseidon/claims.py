"""What the paper says of its network and of pretraining, measured on networks and problems that train in minutes."""

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    interleaved,
    measures,
    races,
    ratio,
)
from paperworks.numerics import torch_generator
from paperworks.operators import All2AllDataset, ScOT, ScOTConfig, fourier_resample, scaling_gains
from paperworks.papers.poseidon.problems import (
    BATCH,
    MIDDLE,
    SNAPSHOTS,
    TEST,
    TIMES,
    best_rate,
    errors,
    finetuned,
    fit,
    flows,
    new,
    pretrained,
    scratch,
    steps_of,
    test_set,
    training_set,
)


@measures("c1-architecture")
def architecture(run: Run) -> Measurement:
    """Count the parameters of the published sizes, without memory for them."""
    counts = {}
    for size in ("T", "B", "L"):
        with torch.device("meta"):
            counts[size] = sum(p.numel() for p in ScOT.from_size(size).parameters())
    return Measurement(
        {name: exact(counts[size]) for name, size in (("tiny", "T"), ("base", "B"), ("large", "L"))},
        table=Table(["size", "parameters"], [[size, f"{count:,}"] for size, count in counts.items()]),
    )


@measures("c2-pretraining")
def pretraining(run: Run) -> Measurement:
    """Train on few trajectories from the pretrained network and from the start, for as many steps."""
    counts = run.at(smoke=[2, 4], desk=[4, 16, 64], full=[1, 4, 16, 64, 256, 1024])
    middle = counts[len(counts) // 2]
    test = test_set(run, "sheets")
    found: dict[str, list[Any]] = {"pretrained": [], "from scratch": []}
    for n in run.progress(counts, label="vortex sheets"):
        found["pretrained"].append(errors(finetuned(run, "sheets", n), test).numpy())
        found["from scratch"].append(errors(scratch(run, "sheets", n), test).numpy())
    ours, theirs = (np.stack(rows, 1) for rows in found.values())  # trajectories by numbers of samples
    other = {
        name: errors(make(run, "phases", middle), test_set(run, "phases")).numpy()
        for name, make in (("pretrained", finetuned), ("from scratch", scratch))
    }

    def efficiency(a: Any, b: Any) -> float:
        return scaling_gains(counts, np.median(b, 0).tolist(), counts, np.median(a, 0).tolist(), counts[-1]).efficiency

    def accuracy(a: Any, b: Any) -> float:
        return float(np.median(b) / np.median(a))

    column = counts.index(middle)
    gains = scaling_gains(counts, np.median(theirs, 0).tolist(), counts, np.median(ours, 0).tolist(), counts[-1])
    alone = _still(test)
    figure, axes = run.figure()
    for name, curves in (("pretrained", ours), ("from scratch", theirs)):
        axes.loglog(counts, np.median(curves, 0), "o-", label=name)
    axes.axhline(alone, color="gray", linestyle=":", label="nothing changes")
    axes.set(xlabel="trajectories trained on", ylabel="median error at the end, %", title="vortex sheets")
    axes.legend()
    return Measurement(
        {
            "efficiency_vortex": bootstrap(efficiency, ours, theirs, of="test trajectories"),
            "accuracy_vortex": bootstrap(accuracy, ours[:, column], theirs[:, column], of="test trajectories"),
            "accuracy_allen_cahn": bootstrap(accuracy, *other.values(), of="test trajectories"),
        },
        table=Table(
            ["problem", "trajectories", "error pretrained, %", "error from scratch, %", "if nothing changed, %"],
            [
                *(
                    ["vortex sheets", n, float(np.median(ours[:, i])), float(np.median(theirs[:, i])), alone]
                    for i, n in enumerate(counts)
                ),
                ["Allen-Cahn", middle, *(float(np.median(e)) for e in other.values()), _still(test_set(run, "phases"))],
            ],
        ),
        figure=figure,
        remark=(
            f"One training each of {steps_of(run)} steps, the rate of either chosen on other vortex sheets; chance is "
            f"that of the test trajectories. The efficiency gain is {gains.bound or 'about'} {gains.efficiency:.3g}; "
            "where more trajectories leave the error from scratch as it is, it says nothing of samples."
        ),
    )


@measures("c3-all-pairs")
def all_pairs(run: Run) -> Measurement:
    """Train on all pairs and on pairs from the start, for as many steps, and predict the end at once."""
    n, steps = run.at(smoke=(4, 2), desk=(32, 360), full=(1024, 20_000))
    modes = ("all2all", "vanilla")
    test = flows(run, "sines", run.at(smoke=8, desk=64, full=240), TEST)[:, : SNAPSHOTS - 1]
    found: dict[str, list[Any]] = {mode: [] for mode in modes}
    identity: list[Any] = []
    for seed in run.progress(range(run.at(smoke=1, desk=2, full=3)), label="seeds"):
        data = flows(run, "sines", n, 10 + seed)[:, : SNAPSHOTS - 1]
        for mode in modes:
            pairs = All2AllDataset(data, TIMES[: SNAPSHOTS - 1], mode)
            network = run.trained(
                "poseidon-pairs",
                new(run, seed=seed),
                lambda network, pairs=pairs, seed=seed: fit(network, pairs, steps, seed),
                **{"mode": mode, "seed": seed, "steps": steps, "scale": run.scale},
            )
            found[mode].append(errors(network, test, SNAPSHOTS - 2).numpy())
            if mode == "all2all":
                identity.append(errors(network, test, 0).numpy())
    all2all, vanilla = (np.stack(rows, 1) for rows in found.values())
    figure, axes = run.figure()
    axes.plot(vanilla, all2all, ".")
    most = float(max(vanilla.max(), all2all.max()))
    axes.plot([0, most], [0, most], "k", linewidth=0.6)
    axes.set(xlabel="error with pairs from the start, %", ylabel="error with all pairs, %", title="test trajectories")
    return Measurement(
        {
            "to_vanilla": bootstrap(lambda a, b: np.median(a) / np.median(b), all2all, vanilla, of="test trajectories"),
            "identity": bootstrap(lambda e: np.median(e) / 100, np.stack(identity, 1), of="test trajectories"),
        },
        table=Table(
            ["seed", "all pairs, error at the end, %", "pairs from the start", "if nothing changed"],
            [
                [i, float(np.median(a)), float(np.median(b)), _still(test)]
                for i, (a, b) in enumerate(zip(all2all.T, vanilla.T, strict=True))
            ],
        ),
        figure=figure,
        remark=f"{n} trajectories, {steps} steps of {BATCH} pairs; both seeds' networks count alike.",
    )


@measures("c4-continuous-time")
def continuous_time(run: Run) -> Measurement:
    """Ask the network that saw every second snapshot for those between."""
    network = pretrained(run)
    test = flows(run, "sines", run.at(smoke=8, desk=64, full=240), TEST)
    found = np.stack([errors(network, test, k).numpy() for k in range(SNAPSHOTS)], 1)
    still = np.stack([errors(lambda x, t: x, test, k).numpy() for k in range(SNAPSHOTS)], 1)
    seen, unseen = found[:, ::2], found[:, 1::2]
    beside = (seen[:, :-1] + seen[:, 1:]) / 2  # errors grow with time, and the first time and the last one are seen
    figure, axes = run.figure()
    times = TIMES.numpy()
    axes.plot(times, np.median(still, 0), ":", color="gray", label="nothing changes")
    axes.plot(times, np.median(found, 0), color="gray", linewidth=0.8)
    axes.plot(times[::2], np.median(seen, 0), "o", label="lead times of the training")
    axes.plot(times[1::2], np.median(unseen, 0), "s", label="unseen lead times")
    axes.set(xlabel="lead time", ylabel="median error, %")
    axes.legend()
    return Measurement(
        bootstrap(lambda a, b: np.median(a, 0).mean() / np.median(b, 0).mean(), unseen, beside, of="test trajectories"),
        table=Table(
            ["lead time", "median error, %", "if nothing changed, %", "seen in training"],
            [
                [float(t), float(np.median(e)), float(np.median(s)), "no" if k % 2 else "yes"]
                for k, (t, e, s) in enumerate(zip(times, found.T, still.T, strict=True))
            ],
        ),
        figure=figure,
    )


@measures("c5-exact-parts")
def exact_parts(run: Run) -> Measurement:
    """Compare each part with what its definition says, token by token."""
    rows: list[list[Any]] = [
        [name, *(part(dtype, torch_generator(run.seed)) for dtype in (torch.float32, torch.float64))]
        for name, part in (
            ("round trip of band-limited fields", _round_trip),
            ("windows put together", _windows),
            ("mask of shifted windows", _mask),
            ("conditioned norm", _norm_value),
            ("gradient of the conditioned norm", _norm_gradient),
            ("attention", _attention),
        )
    ]
    parts = rows[:-1]
    return Measurement(
        {
            "float32": exact(max(float(row[1]) for row in parts)),
            "float64": exact(max(float(row[2]) for row in parts)),
        },
        table=Table(["part", "error in float32", "in float64"], rows),
        remark="Attention as a whole is shown without a bar: its rounding grows with the sharpness of its logits, and"
        " the weights here are 25 times the initial ones.",
    )


def _round_trip(dtype: torch.dtype, generator: torch.Generator) -> float:
    worst = 0.0
    for start, other in (((16, 16), (32, 32)), ((15, 16), (20, 33)), ((9, 9), (12, 10))):
        coarse = torch.randn(4, 7, 7, dtype=torch.float64, generator=generator)
        x = fourier_resample(coarse, start).to(dtype)
        worst = max(worst, float((fourier_resample(fourier_resample(x, other), start) - x).abs().max() / x.abs().max()))
    return worst


def _windows(dtype: torch.dtype, generator: torch.Generator) -> float:
    """Attend alike to all tokens of a window, and compare with windows' means on the grid."""
    attention = _attention_of(dtype)
    with torch.no_grad():
        for part in (attention.query, attention.continuous_position_bias_mlp[2]):
            part.weight.zero_()
        x = torch.randn(2, 12, 8, 6, generator=generator, dtype=dtype)
        means = attention.value(x).view(2, 3, 4, 4, 2, 6).mean((2, 4), keepdim=True).expand(-1, -1, 4, -1, 2, -1)
        return float((attention(x, (4, 2), (0, 0)) - means.reshape(2, 12, 8, 6)).abs().max() / means.abs().max())


def _mask(dtype: torch.dtype, generator: torch.Generator) -> float:
    """Count pairs that the mask takes for neighbours wrongly, or wrongly not."""
    wrong = 0
    for grid, window, shift in (((8, 8), (4, 4), (2, 2)), ((12, 8), (4, 4), (2, 2)), ((6, 4), (3, 4), (1, 0))):
        places = torch.cartesian_prod(*map(torch.arange, grid)).view(*grid, 2).roll((-shift[0], -shift[1]), (0, 1))
        tokens = places.unfold(0, window[0], window[0]).unfold(1, window[1], window[1]).flatten(3).flatten(0, 1).mT
        far = (tokens[:, :, None] - tokens[:, None]).abs() >= torch.tensor(window)
        with torch.no_grad():
            parted = _attention_of(dtype).bias(grid, window, shift) < -100
        wrong += int((parted != far.any(-1)[:, None]).sum())
    return float(wrong)


def _attention_of(dtype: torch.dtype) -> Any:
    """Return an attention over 6 features by 2 heads, out of a network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ScOT(ScOTConfig(8, 2, 1, 1, 6, (1,), (2,), (0,), 4, initializer_range=0.5))
    return network.encoder.layers[0].blocks[0].attention["self"].to(dtype)


def _norm_parts(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor], Any]:
    norm = ScOT(ScOTConfig(8, 2, 1, 1, 6, (1,), (2,), (0,), 4)).embeddings.norm.to(dtype)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(3, 4, 6, dtype=dtype, generator=generator, requires_grad=True)
    t = torch.rand(3, dtype=dtype, generator=generator)
    return x, t, [x, *norm.parameters()], norm


def _norm_by_hand(x: Tensor, t: Tensor, norm: Any) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    z = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    scale, shift = (t[:, None, None] * part.weight[:, 0] + part.bias for part in (norm.weight, norm.bias))
    return scale * z + shift


def _norm_value(dtype: torch.dtype, generator: torch.Generator) -> float:
    x, t, _, norm = _norm_parts(dtype, generator)
    expected = _norm_by_hand(x, t, norm).detach()
    return float((norm(x, t).detach() - expected).abs().max() / expected.abs().max())


def _norm_gradient(dtype: torch.dtype, generator: torch.Generator) -> float:
    x, t, inputs, norm = _norm_parts(dtype, generator)
    ours = torch.autograd.grad(norm(x, t).sin().sum(), inputs)
    theirs = torch.autograd.grad(_norm_by_hand(x, t, norm).sin().sum(), inputs)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def _attention(dtype: torch.dtype, generator: torch.Generator) -> float:
    """Compare shifted attention with a softmax over all tokens that are near enough, in double precision."""
    attention = _attention_of(torch.float64)
    window, shift, grid = (4, 4), (2, 2), (8, 8)
    x = torch.randn(1, *grid, 6, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        q, k, v = (f(x).view(-1, 2, 3).transpose(0, 1) for f in (attention.query, attention.key, attention.value))
        cosine = torch.einsum("hid,hjd->hij", nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1))
        logits = attention.logit_scale.exp() * cosine
        steps = [torch.arange(1 - n, n, dtype=torch.float64) * 8 / (n - 1) for n in window]
        places = torch.cartesian_prod(*(s.sign() * (1 + s.abs()).log2() / 3 for s in steps))
        bias = (16 * torch.sigmoid(attention.continuous_position_bias_mlp(places))).T
        # Windows and neighbours by their rows and columns on the grid itself.
        place = torch.cartesian_prod(*map(torch.arange, grid))
        which = (place - torch.tensor(shift)).remainder(torch.tensor(grid)) // torch.tensor(window)
        near = (which[:, None] == which[None]).all(-1)
        near &= ((place[:, None] - place[None]).abs() < torch.tensor(window)).all(-1)
        apart = place[:, None] - place[None] + torch.tensor(window) - 1
        index = (apart[..., 0] * (2 * window[1] - 1) + apart[..., 1]).where(near, 0)
        logits = (logits + bias[:, index]).where(near, -torch.inf)
        expected = (logits.softmax(-1) @ v).transpose(0, 1).reshape(1, *grid, 6)
        rolled = x.to(dtype).roll((-shift[0], -shift[1]), (1, 2))
        found = attention.to(dtype)(rolled, window, shift).roll(shift, (1, 2))
    return float((found - expected).abs().max() / expected.abs().max())


@measures("c6-real-data")
def real_data(run: Run) -> Measurement:
    """Learn a screened Poisson problem whose sources are photographs, from 16 of them."""
    n = run.at(smoke=4, desk=16, full=16)
    test = test_set(run, "images")
    networks = {"pretrained": finetuned(run, "images", n), "from scratch": scratch(run, "images", n)}
    found = {name: errors(network, test).numpy() for name, network in networks.items()}
    figure, axes = run.figure(1, 4)
    with torch.no_grad():
        shown = [network(test[:1, 0], torch.ones(1))[0, 0] for network in networks.values()]
    pictures = dict(zip(("source", "solution", *networks), (test[0, 0, 0], test[0, 1, 0], *shown), strict=True))
    for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=-2, vmax=2)
        axis.set(title=name, xticks=[], yticks=[])
    return Measurement(
        bootstrap(lambda a, b: np.median(a) / np.median(b), *found.values(), of="test photographs' parts"),
        table=Table(["network", "median error, %"], [[name, float(np.median(e))] for name, e in found.items()]),
        figure=figure,
        remark=f"Parts of five photographs to learn from, of five others to judge by; {steps_of(run)} steps each.",
    )


@races("scot")
def against_official(run: Run) -> Measurement:
    """Race the authors' network, from a checkout that `PAPERWORKS_POSEIDON` names, with the same weights."""
    official = _official()
    size = run.at(smoke="small", desk="T", full="B")
    ours = ScOT(_SMALL if size == "small" else ScOTConfig.of_size(size)).eval()
    values = ours.config.to_official()
    names: tuple[str, ...] = (
        "image_size",
        "patch_size",
        "embed_dim",
        "depths",
        "num_heads",
        "window_size",
        "mlp_ratio",
        "p",
    )
    names += ("num_channels", "num_out_channels", "skip_connections", "drop_path_rate", "use_conditioning")
    theirs = official.ScOT(official.ScOTConfig(**{name: values[name] for name in names})).eval()
    generator = torch_generator(run.seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 4, *ours.config.grid, generator=generator)
    t = torch.tensor([0.5])
    found: dict[str, Tensor] = {}

    def run_ours() -> None:
        found["ours"] = ours(x, t)

    def run_theirs() -> None:
        found["theirs"] = theirs(pixel_values=x, time=t).output

    with torch.no_grad():
        times = interleaved(run, {"ours": run_ours, "theirs": run_theirs}, run.at(smoke=2, desk=15, full=15))
    return Measurement(
        {
            "time": ratio(times.seconds["ours"], times.seconds["theirs"]),
            "difference": exact(float((found["ours"] - found["theirs"]).abs().max())),
        },
        table=Table(["network", "seconds"], [[name, times.median(name)] for name in ("ours", "theirs")]),
        settings="one sample, no gradients, evaluation mode; the authors' file with the blocks of transformers 5",
    )


_SMALL = ScOTConfig(16, 2, 4, 4, 8, (2, 2), (2, 4), (1, 0), 4)


def _official() -> Any:
    """Import the authors' module, and give it what later versions of `transformers` no longer have."""
    folder = os.environ.get("PAPERWORKS_POSEIDON")
    if not folder:
        raise ImportError("PAPERWORKS_POSEIDON names no checkout of camlab-ethz/poseidon", name="scOT")
    sys.path.insert(0, str(Path(folder).resolve()))
    import scOT.model as official
    from transformers.models.swinv2.modeling_swinv2 import Swinv2Attention

    class Attention(Swinv2Attention):
        """Takes the mask of heads that older versions take, which is None."""

        def forward(  # type: ignore[override]
            self, x: Any, mask: Any = None, head_mask: Any = None, output_attentions: bool = False
        ) -> Any:
            return super().forward(x, mask, output_attentions)

    if not hasattr(official.ScOT, "get_head_mask"):
        official.Swinv2Attention = Attention
        official.ScOT.get_head_mask = lambda self, head_mask, layers: [None] * layers
    return official


@races("transformers", exclusive=False)
def against_transformers(run: Run) -> Measurement:
    """Compare blocks with plain norms with those of Swin v2."""
    from transformers.models.swinv2.modeling_swinv2 import Swinv2Config, Swinv2Layer

    config = Swinv2Config(embed_dim=24, num_heads=[3], depths=[2], window_size=8)
    plain = ScOTConfig(32, 2, 2, 2, 24, (2,), (3,), (0,), 8, time_conditioning=False)
    rows: list[list[Any]] = []
    for shift in (0, 4):
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            theirs = Swinv2Layer(config, 24, (16, 16), 3, shift_size=shift).eval()
            for parameter in theirs.parameters():
                nn.init.normal_(parameter, std=0.3)
        ours = ScOT(plain).eval().encoder.layers[0].blocks[bool(shift)]
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 16, 16, 24, generator=torch_generator(run.seed))
        with torch.no_grad():
            expected = theirs(x.flatten(1, 2), (16, 16))[0].view_as(x)
            rows.append([f"shifted by {shift}", float((ours(x, None) - expected).abs().max())])
    return Measurement(
        exact(max(float(row[1]) for row in rows)),
        table=Table(["block", "largest difference"], rows),
        settings="24 features, 3 heads, windows of 8 by 8 on a grid of 16 by 16; values are of the order of 1",
    )


class _FourierOperator(nn.Module):
    """A Fourier neural operator that takes the lead time as one more channel."""

    def __init__(self, channels: int, modes: int, hidden: int) -> None:
        super().__init__()
        from neuralop.models import FNO

        self.network = FNO((modes, modes), channels + 1, channels, hidden_channels=hidden)

    def forward(self, x: Float[Tensor, "b c h w"], lead_time: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Return the fields after the lead time."""
        t = lead_time[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.network(torch.cat([x, t], 1))


@races("neuraloperator", exclusive=False)
def against_fourier_operator(run: Run) -> Measurement:
    """Train a Fourier neural operator on the same few trajectories for longer, at the best of as many rates."""
    n = run.at(smoke=4, desk=MIDDLE, full=MIDDLE)
    data, test = training_set(run, "sheets", n), test_set(run, "sheets")
    steps = run.at(smoke=2, desk=5 * steps_of(run) // 3, full=10_000)  # for at least as many seconds
    seconds = {"a step of ours": _seconds(lambda: fit(new(run).train(), data, 3, 0)) / 3, "a step of theirs": 0.0}
    trained: dict[float, nn.Module] = {}

    def operator(rate: float) -> nn.Module:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            trained[rate] = _FourierOperator(2, *run.at(smoke=(8, 8), desk=(16, 32), full=(20, 96)))
        seconds["a step of theirs"] = _seconds(lambda: fit(trained[rate], data, steps, 0, rate)) / steps
        return trained[rate]

    rate = best_rate(run, operator)
    theirs = trained[rate] if rate in trained else operator(rate)
    ours = finetuned(run, "sheets", n)
    found = [errors(network, test).numpy() for network in (ours, theirs)]
    return Measurement(
        bootstrap(lambda a, b: np.median(a) / np.median(b), *found, of="test trajectories"),
        table=Table(
            ["network", "parameters", "steps", "seconds a step", "median error, %"],
            [
                [
                    name,
                    sum(p.numel() for p in network.parameters()),
                    count,
                    second,
                    float(np.median(e)),
                ]
                for name, network, count, second, e in zip(
                    ("ours, pretrained", "Fourier neural operator"),
                    (ours, theirs),
                    (steps_of(run), steps),
                    seconds.values(),
                    found,
                    strict=True,
                )
            ],
        ),
        settings=(
            "16 x 16 modes, 32 channels, 4 layers, the lead time as a channel, all pairs, the same decay; the rate of "
            "either chosen on other vortex sheets; seconds of pretraining aren't counted"
        ),
    )


def _still(test: Tensor) -> float:
    """Return the median error at the end of the prediction that nothing changes, in percent."""
    return float(errors(lambda x, t: x, test, test.shape[1] - 1).median())


def _seconds(action: Any) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start
