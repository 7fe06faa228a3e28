"""The front end in its three forms, the network and its switches, losses, metrics, baselines, and released files."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from paperworks.audio import (
    Compressor4C,
    FourierFrontEnd,
    FramesAutoencoder,
    GreyBoxCompressor,
    MicroTCN,
    SignalTrain,
    SignalTrainLoss,
    a_weighted,
    error_to_signal,
    esr_loss,
    load_official,
    log_cosh,
    log_spectral_distance,
    loudness,
    loudness_error,
    mean_absolute_error,
    mu_compress,
    mu_expand,
    signal_to_noise,
    spectral_loss,
)
from paperworks.numerics import seeded

SMALL = {"chunk": 512, "ft": 64, "hop": 24, "rank": 16}


def small(seed=0, n_knobs=2, **changes):
    with seeded(seed):
        return SignalTrain(n_knobs, **{**SMALL, **changes})


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def knobs(n, k=2, seed=1):
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) - 0.5


class TestFrontEnd:
    @pytest.mark.parametrize("bank", ["literal", "half", "rfft"])
    @pytest.mark.parametrize(("ft", "hop", "n"), [(1024, 384, 8192), (64, 24, 512), (64, 16, 512), (32, 32, 128)])
    def test_synthesis_undoes_analysis(self, bank, ft, hop, n):
        front = FourierFrontEnd(ft, hop, bank, trainable=bank != "rfft")
        x = noise(2, n)
        real, imag = front.analysis(x)
        assert real.shape == (2, ft // 2 + 1, front.frames(n))
        y = front.synthesis(real, imag)
        assert torch.allclose(y, x, atol=1e-5)
        few = front.frames(n // 4)
        last = front.synthesis(real[..., -few:], imag[..., -few:])
        assert torch.allclose(last, x[:, -last.shape[1] :], atol=1e-5)

    def test_all_forms_are_the_same_map(self):
        x = noise(2, 512)
        literal, half, fast = (FourierFrontEnd(64, 24, b, trainable=b != "rfft") for b in ("literal", "half", "rfft"))
        spectra = [torch.stack(front.analysis(x)) for front in (literal, half, fast)]
        assert torch.allclose(spectra[0], spectra[1], atol=1e-6)
        assert torch.allclose(spectra[0], spectra[2], atol=1e-5)
        # Parts that no real sound has are treated alike, too.
        real, imag = noise(2, 33, 9, seed=1), noise(2, 33, 9, seed=2)
        sounds = [front.synthesis(real, imag) for front in (literal, half, fast)]
        assert torch.allclose(sounds[0], sounds[1], atol=1e-5)
        assert torch.allclose(sounds[0], sounds[2], atol=1e-5)

    @pytest.mark.parametrize("bank", ["literal", "half"])
    def test_filters_are_an_orthonormal_transform_behind_a_hamming_window(self, bank):
        front, frame = FourierFrontEnd(64, 24, bank), noise(64).numpy()
        direct = np.fft.rfft(np.hamming(64) * frame) / 8
        with torch.no_grad():
            assert (front.analysis_real.numpy() @ frame)[:33] == pytest.approx(direct.real, abs=1e-5)
            assert (front.analysis_imag.numpy() @ frame)[:33] == pytest.approx(direct.imag, abs=1e-5)

    @pytest.mark.parametrize(
        ("call", "message"),
        [((63, 24), "even"), ((64, 65), "hop is 65"), ((64, 24, "dct"), "bank"), ((64, 24, "rfft"), "isn't trained")],
    )
    @pytest.mark.usefixtures("untyped")
    def test_bad_arguments_are_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            FourierFrontEnd(*call)


class TestModel:
    def test_the_original_s_size(self):
        model = SignalTrain(4, bank="literal")
        assert (model.chunk, model.out_chunk) == (8192, 2048)
        assert [layer.weight.shape[::-1] for layer in model.magnitudes.encoder] == [
            (25, 64),
            (64, 32),
            (32, 16),
            (16, 16),
        ]
        assert model.magnitudes.add_knobs.in_features == 20
        assert [layer.out_features for layer in model.magnitudes.decoder] == [16, 32, 64, 9]
        assert sum(p.numel() for p in model.front.parameters()) == 4 * 1024 * 1024

    def test_chunks_without_whole_frames_are_reduced_with_a_warning(self):
        with pytest.warns(UserWarning, match="become 16256 and 3968"):
            model = SignalTrain(1, chunk=16384)
        x = torch.zeros(1, model.chunk)
        assert model(x, torch.zeros(1, 1)).shape == (1, 3968)
        with pytest.raises(ValueError, match="nothing would come out"):
            SignalTrain(1, chunk=1000, shrink=1000)

    def test_the_output_is_the_filtered_transform_and_the_input(self):
        """With autoencoders that answer 1 and 0, output is twice the input."""
        model = small(activation=nn.Identity)
        for head, bias in ((model.magnitudes, 1.0), (model.phases, 0.0)):
            nn.init.zeros_(head.decoder[-1].weight)
            nn.init.constant_(head.decoder[-1].bias, bias)
        x = noise(3, 512)
        assert torch.allclose(model(x, knobs(3)), 2 * x[:, -128:], atol=1e-5)

    def test_half_the_bins_and_the_fast_transform_answer_as_the_literal_banks(self):
        x, k = noise(3, 512, dtype=torch.float64), knobs(3).double()
        answers = []
        for changes in ({"bank": "literal"}, {"bank": "half"}, {"trainable_frontend": False}):
            answers.append(small(**changes).double()(x, k))
        assert torch.allclose(answers[0], answers[1], atol=1e-12)
        assert not [p for n, p in small(trainable_frontend=False).named_parameters() if n.startswith("front")]

    @pytest.mark.parametrize(
        "changes",
        [
            {"knob_mode": "film"},
            {"skip": "res"},
            {"skip": "exp"},
            {"skip": "none"},
            {"activation": nn.ReLU},
            {"init": "kaiming"},
            {"init": "default"},
            {"phase": False},
            {"unet": True},
            {"bank": "literal"},
            {"trainable_frontend": False},
            {"companding": 32.0},
        ],
        ids=str,
    )
    def test_every_switch_hears_its_knobs_and_has_gradients(self, changes):
        model, x = small(**changes), noise(2, 512)
        k = knobs(2).requires_grad_()
        y, magnitude = model(x, k, return_aux=True)
        assert y.shape == (2, 128)
        assert magnitude.shape == (2, 33, 9)
        SignalTrainLoss()(y, x[:, -128:], magnitude).backward()
        assert k.grad.abs().max() > 0
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        assert not torch.equal(y, small()(x, k))

    def test_silence_has_finite_gradients(self):
        model = small()
        model(torch.zeros(1, 512), torch.zeros(1, 2)).square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())

    def test_only_look_back_and_output_matter_and_alone(self):
        """Chunks of a batch don't mix."""
        model, x, k = small(), noise(3, 512), knobs(3)
        together = model(x, k)
        assert torch.allclose(together[1:2], model(x[1:2], k[1:2]), atol=1e-6)

    @pytest.mark.parametrize(
        ("x", "k", "message"),
        [
            (torch.zeros(2, 500), torch.zeros(2, 2), "chunks of 500"),
            (torch.zeros(2, 512), torch.zeros(2, 3), "knobs has shape"),
            (torch.zeros(2, 512), torch.zeros(1, 2), "knobs has shape"),
            (torch.zeros(2, 512), torch.full((2, 2), 0.6), "beyond their ends"),
            (torch.zeros(2, 512), torch.full((2, 2), math.nan), "beyond their ends"),
        ],
    )
    @pytest.mark.usefixtures("untyped")
    def test_what_does_not_fit_is_refused(self, x, k, message):
        for model in (small(), MicroTCN(2, 512, growth=2), GreyBoxCompressor(8000, 2, 512)):
            with pytest.raises(ValueError, match=message):
                model(x, k)

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(
        "changes", [{"rank": 10}, {"skip": "add"}, {"knob_mode": "sum"}, {"init": "zero"}, {"companding": 0.0}], ids=str
    )
    def test_bad_switches_are_refused(self, changes):
        with pytest.raises(ValueError, match=next(iter(changes))):
            small(**changes)

    def test_the_autoencoder_s_skips(self):
        x = noise(1, 3, 5).abs()
        for skip in ("sf", "res", "exp", "none"):
            with seeded(0):
                network = FramesAutoencoder(5, 2, 1, 4, skip)
            nn.init.zeros_(network.decoder[-1].weight)
            nn.init.ones_(network.decoder[-1].bias)
            last = x[..., -2:]
            expected = {
                "sf": last,
                "res": 1 + last,
                "exp": (math.log(1 + 1e-6) * (last + 1e-6).log()).exp(),
                "none": torch.ones_like(last),
            }
            assert torch.allclose(network(x, torch.zeros(1, 1)), expected[skip], atol=1e-5)


class TestLosses:
    def test_log_cosh(self):
        e = torch.tensor([-3.0, -0.1, 0.0, 0.5, 5.0], dtype=torch.float64)
        assert torch.allclose(log_cosh(e), e.cosh().log(), atol=1e-14)
        big = log_cosh(torch.tensor([-1e4, 1e4]))
        assert torch.allclose(big, torch.tensor(1e4 - math.log(2)))

    def test_the_bound_by_hand(self):
        magnitude = noise(2, 5, 3)
        zero = torch.zeros(2, 4)
        plain = SignalTrainLoss(strength=0.1, weighted=False)(zero, zero, magnitude)
        assert float(plain) == pytest.approx(0.1 * float(magnitude.abs().mean()))
        weights = np.exp(7 * np.arange(5) / 5)[:, None] / 10
        weighted = SignalTrainLoss(strength=0.1)(zero, zero, magnitude)
        assert float(weighted) == pytest.approx(0.1 * float((magnitude.abs().numpy() * weights).mean()), rel=1e-5)
        smooth = SignalTrainLoss(strength=0.1, weighted=False, bound="logcosh")(zero, zero, magnitude)
        assert float(smooth) == pytest.approx(0.1 * float(log_cosh(magnitude).mean()))

    @pytest.mark.parametrize("data", ["logcosh", "mae", "mse", "huber", "esr", "mrstft", "a-weighted"])
    def test_each_is_least_at_the_target(self, data):
        loss, y = SignalTrainLoss(data=data), noise(2, 1024)
        assert float(loss(y, y)) == pytest.approx(0, abs=1e-6)
        y_hat = (0.9 * y).requires_grad_()
        loss(y_hat, y).backward()
        assert float((y_hat.grad * y).sum()) < 0

    def test_esr_by_hand(self):
        y, y_hat = noise(3, 100, dtype=torch.float64), noise(3, 100, seed=1, dtype=torch.float64)
        filtered = [np.concatenate([t[:, :1], t[:, 1:] - 0.95 * t[:, :-1]], 1) for t in (y_hat.numpy(), y.numpy())]
        ratio = ((filtered[0] - filtered[1]) ** 2).sum(1) / (filtered[1] ** 2).sum(1)
        offset = (y_hat - y).mean(1).square() / y.square().mean(1)
        assert float(esr_loss(y_hat, y)) == pytest.approx((ratio + offset.numpy()).mean(), rel=1e-8)

    def test_the_a_weighting_has_its_published_values(self):
        for frequency, db in ((100, -19.1), (1000, 0.0), (2000, 1.2), (8000, -1.1)):
            tone = torch.sin(2 * math.pi * frequency * torch.arange(44100, dtype=torch.float64) / 44100)
            ratio = a_weighted(tone, 44100).square().sum() / tone.square().sum()
            assert 10 * math.log10(float(ratio)) == pytest.approx(db, abs=0.1)

    @pytest.mark.usefixtures("untyped")
    def test_bad_arguments_are_refused(self):
        for call, message in (
            (lambda: SignalTrainLoss(-1.0), "strength"),
            (lambda: SignalTrainLoss(data="psycho"), "data"),
            (lambda: SignalTrainLoss(bound="l2"), "bound"),
            (lambda: SignalTrainLoss()(noise(1, 3), noise(1, 4)), "y_hat has shape"),
            (lambda: spectral_loss(noise(1, 100), noise(1, 100)), "sizes"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


class TestMetrics:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_no_measure_passes_over_samples_that_are_not_finite(self, bad):
        y = noise(2, 48000)
        worse = y.clone()
        worse[1, 5] = bad
        for measure in (mean_absolute_error, error_to_signal, signal_to_noise, log_spectral_distance):
            for pair in ((worse, y), (y, worse)):
                with pytest.raises(ValueError, match="has 1 NaN or infinite"):
                    measure(*pair)
        with pytest.raises(ValueError, match="has 1 NaN or infinite"):
            loudness(worse, 48000)
        with pytest.raises(ValueError, match="sr is 2000"):  # its filters would not be stable
            loudness(y, 2000)

    @pytest.mark.usefixtures("untyped")
    def test_losses_do_not_broadcast(self):
        y = noise(2, 2048)
        for loss in (esr_loss, spectral_loss, SignalTrainLoss()):
            with pytest.raises(ValueError, match=r"y_hat has shape \(2, 1, 2048\)"):
                loss(y[:, None], y)

    def test_loudness_of_the_standard_s_tone(self):
        t = torch.arange(5 * 48000, dtype=torch.float64) / 48000
        tone = torch.sin(2 * math.pi * 997 * t)
        assert loudness(tone, 48000) == pytest.approx(-3.01, abs=0.01)
        assert loudness(torch.stack([tone, tone]) / 10, 48000) == pytest.approx(-20.0, abs=0.01)
        slow = torch.sin(2 * math.pi * 997 * torch.arange(5 * 44100, dtype=torch.float64) / 44100)
        assert loudness(slow, 44100) == pytest.approx(-3.01, abs=0.02)

    def test_silence_is_gated(self):
        tone = torch.sin(2 * math.pi * 997 * torch.arange(96000, dtype=torch.float64) / 48000)
        padded = torch.cat([tone, torch.zeros(480_000, dtype=torch.float64)])
        # Blocks with some of the tone stay: 17 whole ones, and three that fade.
        energy = 10 * math.log10((17 + 0.75 + 0.5 + 0.25) / 20)
        assert loudness(padded, 48000) == pytest.approx(loudness(tone, 48000) + energy, abs=0.02)
        assert loudness(torch.zeros(48000), 48000) == -math.inf
        assert loudness_error(torch.zeros(48000), torch.zeros(48000), 48000) == 0
        with pytest.raises(ValueError, match="at least 19200"):
            loudness(torch.zeros(100), 48000)

    @pytest.mark.usefixtures("untyped")
    def test_the_others_by_hand(self):
        y, y_hat = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
        assert mean_absolute_error(y_hat, y) == 0.25
        assert error_to_signal(y_hat, y) == pytest.approx(-20)
        assert error_to_signal(y, y) == -math.inf
        assert error_to_signal(y, torch.zeros(2)) == math.inf
        assert log_spectral_distance(noise(2000), noise(2000)) == 0
        for metric in (mean_absolute_error, error_to_signal, log_spectral_distance):
            with pytest.raises(ValueError, match="y_hat has shape"):
                metric(torch.zeros(2), torch.zeros(3))


class TestCompanding:
    def test_both_ways(self):
        y = torch.linspace(-1.2, 1.2, 101, dtype=torch.float64)
        z = mu_compress(y)
        assert torch.allclose(mu_expand(z), y, atol=1e-14)
        assert float(mu_compress(torch.tensor(0.1))) == pytest.approx(math.log(1 + 3.2) / math.log(33))
        assert (z.diff() > 0).all()
        with pytest.raises(ValueError, match="mu is 0"):
            mu_compress(y, 0.0)


class TestBaselines:
    def test_a_grey_box_with_the_right_settings_is_the_compressor(self):
        effect, box = Compressor4C(8000), GreyBoxCompressor(8000, 0, 512)
        with torch.no_grad():
            box.middle.copy_(torch.tensor([-2.0, math.log(3.0), math.log(0.005), math.log(0.02)]))
        x = noise(3, 512) / 3
        expected = effect.process(x.numpy(), effect.normalised([-20, 4, 0.005, 0.02]))[:, -128:]
        assert box(x, torch.zeros(3, 0)).detach().numpy() == pytest.approx(expected, abs=1e-5)

    def test_the_micro_tcn_is_causal_and_looks_back_as_far_as_it_says(self):
        with seeded(0):
            model = MicroTCN(2, 400, growth=2, kernel=5)
        assert model.seen == 1 + 4 * 15
        x, k = noise(1, 400), knobs(1)
        before = model(x, k)
        changed = x.clone()
        changed[0, 350] += 1
        moved = (model(changed, k) - before).abs()[0] > 0
        assert not moved[:50].any()  # the output begins at 300
        assert moved[50]
        changed = x.clone()
        changed[0, : 300 - model.seen + 1] += 1
        assert torch.allclose(model(changed, k), before)


class TestOfficial:
    def written(self, path, literal, **extra):
        """Write a file as the released code does, from a model with literal banks."""
        own = literal.state_dict()
        layers = {
            "fnn_enc": "encoder.0", "fnn_enc2": "encoder.1", "fnn_enc3": "encoder.2", "fnn_enc4": "encoder.3",
            "fnn_addknobs": "add_knobs", "fnn_dec4": "decoder.0", "fnn_dec3": "decoder.1", "fnn_dec2": "decoder.2",
            "fnn_dec": "decoder.3",
        }  # fmt: skip
        weights = {}
        for part in ("real", "imag"):
            weights[f"mpaec.dft_analysis.conv_analysis_{part}.weight"] = own[f"front.analysis_{part}"][:, None]
            weights[f"mpaec.dft_synthesis.conv_synthesis_{part}.weight"] = own[f"front.synthesis_{part}"][:, None]
        for theirs, ours in (("aenc", "magnitudes"), ("phs_aenc", "phases")):
            for a, b in layers.items():
                for kind in ("weight", "bias"):
                    weights[f"mpaec.{theirs}.{a}.{kind}"] = own[f"{ours}.{b}.{kind}"]
        torch.save({"state_dict": weights, "knob_ranges": np.array([[-30.0, 0.0], [1, 5]]), **extra}, path)

    @pytest.mark.parametrize("bank", ["literal", "half"])
    def test_a_trained_model_answers_as_before(self, tmp_path, bank):
        with seeded(0):
            literal = SignalTrain(2, bank="literal")
            for p in literal.parameters():  # as after training: filters that no transform has
                p.data += 1e-3 * torch.randn_like(p)
        self.written(tmp_path / "m.tar", literal, knob_names=["thresh", "ratio"], in_chunk_size=8192)
        found = load_official(tmp_path / "m.tar", bank)
        assert found.knob_names == ["thresh", "ratio"]
        assert found.knob_ranges.tolist() == [[-30, 0], [1, 5]]
        x, k = noise(2, 8192, dtype=torch.float64) / 3, knobs(2).double()
        with torch.no_grad():
            assert torch.allclose(found.model.double()(x, k), literal.double()(x, k), atol=1e-9)

    def test_files_that_hold_code_are_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        torch.save({"state_dict": {}, "knob_ranges": Evil()}, tmp_path / "m.tar")
        with pytest.raises(ValueError, match="can't be read as weights alone"):
            load_official(tmp_path / "m.tar")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.usefixtures("untyped")
    def test_other_files_say_so(self, tmp_path):
        (tmp_path / "a").write_bytes(b"nothing")
        torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "b")
        torch.save([1], tmp_path / "c")
        (tmp_path / "d").write_bytes(b"hello" * 100)
        torch.save({"state_dict": 3}, tmp_path / "e")
        for name, message in (
            ("a", "weights alone"),
            ("b", "lack"),
            ("c", "lack"),
            ("d", "weights alone"),
            ("e", "aren't those of a model"),
        ):
            with pytest.raises(ValueError, match=message):
                load_official(tmp_path / name)


def test_models_can_be_pickled():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = pickle.loads(pickle.dumps(small()))
    assert torch.equal(model(noise(1, 512), knobs(1)), small()(noise(1, 512), knobs(1)))
