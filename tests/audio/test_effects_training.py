"""Training, its one cycle and range test, ablations, whole recordings and streams."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from paperworks.audio import (
    Compressor4C,
    GreyBoxCompressor,
    SignalTrain,
    SignalTrainLoss,
    StreamingProcessor,
    SynthAudioDataset,
    ablate,
    best_gain,
    evaluate,
    fit,
    lr_finder,
    one_cycle,
    process_file,
)
from paperworks.numerics import seeded

SMALL = {"chunk": 512, "ft": 64, "hop": 24, "rank": 16}


def small(seed=0, **changes):
    with seeded(seed):
        return SignalTrain(4, **{**SMALL, **changes})


def data(**changes):
    return SynthAudioDataset(Compressor4C(8000), 512, 128, **changes)


class TestOneCycle:
    def test_its_corners(self):
        assert one_cycle(0, 101) == pytest.approx((1 / 15, 0.95))
        assert one_cycle(30, 101) == pytest.approx((1, 0.85))
        assert one_cycle(100, 101) == pytest.approx((1 / 1500, 0.95))
        assert one_cycle(15, 101)[0] == pytest.approx((1 + 1 / 15) / 2)

    @pytest.mark.parametrize("steps", [1, 2, 3, 10])
    def test_few_steps(self, steps):
        for step in range(steps):
            share, beta = one_cycle(step, steps)
            assert 1 / 1500 - 1e-12 <= share <= 1
            assert 0.85 - 1e-12 <= beta <= 0.95 + 1e-12


class TestFit:
    def test_the_error_falls_below_that_of_the_best_gain(self):
        model = small(trainable_frontend=False)
        before = evaluate(model, data(random_state=1))
        fit(model, data(), 60, batch_size=16, lr=5e-3)
        after = evaluate(model, data(random_state=1))
        assert after.mae < 0.6 * before.mae
        assert after.mae < after.gain_mae < after.dry_mae
        assert np.mean(after.errors) == pytest.approx(after.mae, rel=1e-6)

    def test_the_same_seeds_train_the_same(self):
        trained = [fit(small(), data(), 3, batch_size=4) for _ in range(2)]
        assert np.array_equal(*trained)
        assert not np.array_equal(trained[0], fit(small(), data(), 3, batch_size=4, random_state=1))

    def test_the_front_end_s_gradient_is_bounded(self, monkeypatch):
        seen = []
        usual = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(
            "torch.nn.utils.clip_grad_norm_",
            lambda p, bound, norm_type=2: seen.append((len(p), bound, norm_type)) or usual(p, bound, norm_type),
        )
        model = small()
        fit(model, data(), 2, batch_size=2)
        assert seen == [(4, 1.0, 1)] * 2
        assert sum(float(p.grad.abs().sum()) for p in model.front.parameters()) <= 1 + 1e-4

    def test_bfloat16_trains(self):
        assert np.isfinite(fit(small(), data(), 3, batch_size=4, precision="bfloat16")).all()

    def test_a_grey_box_finds_the_settings(self):
        effect = Compressor4C(8000, {"threshold": -25.0, "ratio": 4.0, "attack": 0.005, "release": 0.02})
        box = GreyBoxCompressor(8000, 0, 512)
        examples = SynthAudioDataset(effect, 512, 384)
        box.out_chunk = 384
        fit(box, examples, 250, batch_size=32, lr=0.1, loss=SignalTrainLoss(data="mae"))
        found = {name: value.item() for name, value in box.settings(torch.zeros(1, 0)).items()}
        assert found == pytest.approx({"threshold": -25, "ratio": 4, "attack": 0.005, "release": 0.02}, rel=0.01)

    def test_an_interrupted_training_leaves_the_model_ready(self):
        def interrupt(*_):
            raise KeyboardInterrupt

        model = small()
        with pytest.raises(KeyboardInterrupt):
            fit(model, data(), 3, batch_size=2, callback=interrupt)
        assert not model.training

    def test_an_interrupted_training_goes_on_as_if_it_had_not_been(self, tmp_path, monkeypatch):
        def interrupt(step, _):
            if step == 4:
                raise KeyboardInterrupt

        monkeypatch.setattr("paperworks.audio.effects.training._EVERY", 2)
        whole, halves, options = small(), small(), {"batch_size": 2, "checkpoint": tmp_path / "state"}
        losses = fit(whole, data(), 7, batch_size=2)
        with pytest.raises(KeyboardInterrupt):
            fit(halves, data(), 7, callback=interrupt, **options)
        halves, seen = small(seed=9), []
        found = fit(halves, data(), 7, callback=lambda step, _: seen.append(step), **options)
        assert seen == [4, 5, 6]
        assert np.array_equal(found, losses)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))
        assert np.array_equal(fit(small(), data(), 7, **options), losses)  # which is over
        assert [f.name for f in tmp_path.iterdir()] == ["state"]
        with pytest.raises(ValueError, match="'steps': 7"):
            fit(small(), data(), 8, **options)
        with pytest.raises(ValueError, match="of another model"):
            fit(small(rank=32), data(), 7, **options)
        (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:500])
        with pytest.raises(ValueError, match="can't be read"):
            fit(small(), data(), 7, **options)

    @pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
    def test_data_take_the_type_of_the_model(self, kind):
        model = small().to(kind)
        assert np.isfinite(fit(model, data(), 2, batch_size=2)).all()
        assert np.isfinite(lr_finder(model, data(), steps=2, batch_size=2).losses).all()
        assert evaluate(model, data(), range(2)).mae > 0

    def test_another_rate_of_samples_is_refused(self):
        model = small(sr=44100)
        for call in (lambda: fit(model, data(), 1), lambda: lr_finder(model, data()), lambda: evaluate(model, data())):
            with pytest.raises(ValueError, match="data has 8000 samples a second; the model is made for 44100"):
                call()

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(
        "changes", [{"schedule": "cosine"}, {"precision": "int8"}, {"lr": 0.0}, {"batch_size": 0}], ids=str
    )
    def test_bad_arguments_are_refused(self, changes):
        with pytest.raises(ValueError, match=next(iter(changes))):
            fit(small(), data(), 1, **{"batch_size": 2, **changes})


class TestRangeTest:
    def test_it_stops_where_the_loss_explodes_and_leaves_the_model(self):
        model = small()
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        found = lr_finder(model, data(), 1e-5, 100.0, 40, batch_size=8)
        assert len(found.rates) < 40
        assert 1e-6 < found.suggested < 1
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        with pytest.raises(ValueError, match="high is"):
            lr_finder(model, data(), 1.0, 0.1)


def test_the_best_gain_is_the_best():
    x, y = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    y = 0.4 * x + 0.1 * y
    found = best_gain(x, y)
    errors = [float((g * x - y).abs().mean()) for g in (found, found - 1e-3, found + 1e-3)]
    assert errors[0] == min(errors)
    assert best_gain(torch.zeros(3), torch.ones(3)) == 0


class TestAblations:
    BASE = {f"model.{name}": value for name, value in SMALL.items()} | {"fit.batch_size": 4}

    def test_variants_differ_in_their_switch_alone(self):
        switches = {
            "film": {"model.knob_mode": "film"},
            "again": {},
            "mae": {"loss.data": "mae"},
            "pluck": {"data.signals": ["pluck"]},
            "threshold": {"data.effect": Compressor4C(8000, {"ratio": 4.0, "attack": 0.01, "release": 0.01})},
        }
        rows = {r.name: r for r in ablate(Compressor4C(8000), self.BASE, switches, 2, judged=8)}
        assert list(rows) == ["base", *switches]
        assert rows["again"].found.mae == rows["base"].found.mae
        assert rows["film"].found.mae != rows["base"].found.mae
        assert rows["pluck"].found.dry_mae == rows["base"].found.dry_mae  # judged on the same chunks
        assert rows["threshold"].found.dry_mae != rows["base"].found.dry_mae

    @pytest.mark.parametrize(
        ("switches", "message"),
        [
            ({"base": {}}, "switches has 'base'"),
            ({"x": {"model.depth": 1}}, "model.depth"),
            ({"x": {"rank": 1}}, "rank"),
        ],
    )
    def test_bad_switches_are_refused(self, switches, message):
        with pytest.raises(ValueError, match=message):
            next(ablate(Compressor4C(8000), self.BASE, switches, 1))


class TestUse:
    def sound(self, *shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) / 3

    @pytest.mark.parametrize("n", [1, 100, 128, 1000])
    def test_whole_recordings_are_chunks_that_look_back(self, n):
        model, x, knobs = small(), self.sound(2, n), [0.1, -0.2, 0.3, 0.0]
        y = process_file(model, x, knobs)
        assert y.shape == x.shape
        padded = torch.nn.functional.pad(x, (384, 128))
        with torch.no_grad():
            first = model(padded[:, :512], torch.tensor([knobs] * 2))
        assert torch.allclose(y[:, :128], first[:, :n], atol=1e-6)
        assert torch.allclose(process_file(model, x[0], knobs), y[0], atol=1e-6)

    def test_the_output_is_aligned(self):
        """A model without filters, which gives back twice what it hears, gives it back in its place."""
        model = small(activation=torch.nn.Identity)
        for head, bias in ((model.magnitudes, 1.0), (model.phases, 0.0)):
            torch.nn.init.zeros_(head.decoder[-1].weight)
            torch.nn.init.constant_(head.decoder[-1].bias, bias)
        x = self.sound(1000)
        for block in (128, 50):
            assert torch.allclose(process_file(model, x, [0.0] * 4, block), 2 * x, atol=1e-5)

    @pytest.mark.parametrize(
        ("block", "hop", "latency"),
        [(128, None, 0), (256, None, 0), (64, None, 0), (100, 128, 124), (100, 50, 0), (1, 16, 15), (37, None, 0)],
    )
    def test_streams_are_the_whole_some_samples_late(self, block, hop, latency):
        model, x, knobs = small(), self.sound(2, 20 * block), [0.1, -0.2, 0.3, 0.0]
        stream = StreamingProcessor(model, knobs, block, hop, channels=2)
        assert stream.latency == latency
        out = torch.cat([stream.push(part) for part in x.split(block, 1)], 1)
        whole = process_file(model, x, knobs, stream.hop)
        assert torch.allclose(out[:, latency:], whole[:, : 20 * block - latency], atol=1e-5)
        assert (out[:, :latency] == 0).all()

    def test_knobs_can_be_turned(self):
        model, x = small(), self.sound(1, 256)
        stream = StreamingProcessor(model, [0.5] * 4)
        first = stream.push(x[:, :128])
        stream.turn([-0.5] * 4)
        second = stream.push(x[:, 128:])
        assert torch.allclose(first, process_file(model, x, [0.5] * 4)[:, :128], atol=1e-6)
        assert torch.allclose(second, process_file(model, x, [-0.5] * 4)[:, 128:], atol=1e-6)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_a_push_that_fails_leaves_the_stream(self, monkeypatch, error):
        def fails(*_):
            raise error

        model, x = small(), self.sound(1, 384)
        stream = StreamingProcessor(model, [0.0] * 4)
        stream.push(x[:, :128])
        with monkeypatch.context() as broken:
            broken.setattr(model, "forward", fails)
            with pytest.raises(error):
                stream.push(x[:, 128:256])
        with pytest.raises(ValueError, match="beyond their ends"):
            stream.turn([0.7] * 4)
        out = torch.cat([stream.push(part) for part in x[:, 128:].split(128, 1)], 1)
        assert torch.allclose(out, process_file(model, x, [0.0] * 4)[:, 128:], atol=1e-6)

    def test_streams_of_threads_share_a_model(self):
        model, x = small(), self.sound(4, 12 * 64)

        def run(row):
            stream = StreamingProcessor(model, [0.0] * 4, 64)
            return torch.cat([stream.push(part) for part in row[None].split(64, 1)], 1)[0]

        with ThreadPoolExecutor(4) as threads:
            found = torch.stack(list(threads.map(run, x)))
        assert torch.allclose(found, process_file(model, x, [0.0] * 4, 64), atol=1e-5)

    def test_gradients_are_not_gathered(self):
        model, x = small(), self.sound(1, 256).requires_grad_()
        stream = StreamingProcessor(model, [0.0] * 4)
        assert not stream.push(x[:, :128]).requires_grad
        assert torch.equal(copy.deepcopy(stream).push(x[:, 128:]), stream.push(x[:, 128:]))

    @pytest.mark.parametrize("bank", ["half", "literal", "rfft"])
    @pytest.mark.parametrize(
        ("of_model", "of_sound", "near"),
        [
            (torch.float32, torch.float64, 1e-6),
            (torch.float64, torch.float32, 1e-5),
            (torch.bfloat16, torch.float32, 0.1),
            (torch.float16, torch.float32, 0.02),
        ],
        ids=str,
    )
    def test_sound_takes_the_type_of_the_model_and_comes_back_in_its_own(self, bank, of_model, of_sound, near):
        model, x = small(bank=bank, trainable_frontend=bank != "rfft"), self.sound(2, 300)
        expected = process_file(model, x, [0.0] * 4)
        stream = StreamingProcessor(model, [0.0] * 4, channels=2)
        model.to(of_model)  # after the stream was made
        y = process_file(model, x.to(of_sound), [0.0] * 4)
        assert y.dtype == of_sound
        assert (y - expected).abs().max() < near * expected.abs().max()
        assert stream.push(x[:, :128].to(of_sound)).dtype == of_sound

    @pytest.mark.usefixtures("untyped")
    def test_what_does_not_fit_is_refused(self):
        model = small(sr=8000)
        stream = StreamingProcessor(model, [0.0] * 4)
        for call, message in (
            (lambda: process_file(model, self.sound(300), [0.0] * 3), "knobs has shape"),
            (lambda: process_file(model, self.sound(300), [0.0] * 4, sr=44100), "resample"),
            (lambda: process_file(model, self.sound(0), [0.0] * 4), "no samples"),
            (lambda: process_file(model, torch.tensor([math.nan]), [0.0] * 4), "x has"),
            (lambda: process_file(model, self.sound(300), [0.0] * 4, 129), "block is 129"),
            (lambda: process_file(model, self.sound(300), [0.7] * 4), "beyond their ends"),
            (lambda: process_file(model, self.sound(300), [0.0] * 4, batch_size=0), "batch_size is 0"),
            (lambda: StreamingProcessor(model, [math.nan] * 4), "beyond their ends"),
            (lambda: stream.push(torch.zeros(2, 128)), "x has shape"),
            (lambda: stream.push(torch.zeros(1, 100)), "x has shape"),
            (lambda: StreamingProcessor(model, [0.0] * 4, sr=44100), "resample"),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        for x, message in ((torch.zeros(1, 128, dtype=torch.int16), "int16"), (np.zeros((1, 128)), "ndarray")):
            for call in (lambda x=x: process_file(model, x, [0.0] * 4), lambda x=x: stream.push(x)):
                with pytest.raises(TypeError, match=message):
                    call()
