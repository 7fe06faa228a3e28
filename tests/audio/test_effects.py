"""Effects with knobs: the compressor against its definition, gradients of its recursion, and what each effect does."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.audio import (
    SIGNALS,
    Compressor4C,
    Denoise,
    Echo,
    Effect,
    LowPass,
    PitchShift,
    SimpleCompressor,
    TimeAlign,
    ballistics,
    beta_knobs,
    make_effect,
    register_effect,
    test_signal,
    time_coefficient,
)
from paperworks.audio.effects import kernels as kernels_module
from paperworks.audio.effects.kernels import smooth_adjoint_rows, smooth_rows


def random_state(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def compressed(x, threshold, ratio, attack, release, sr):
    """The definition, sample by sample."""
    down, up = (math.exp(-math.log(9) / (sr * t)) for t in (attack, release))
    s, y = 0.0, []
    for v in x:
        level = max(20 * math.log10(abs(v) + 1e-8), -96)
        g = threshold + (level - threshold) / ratio - level if level > threshold else 0.0
        a = down if g < s else up
        s = (1 - a) * g + a * s
        y.append(v * 10 ** (s / 20))
    return np.array(y)


class TestCompressor:
    @pytest.mark.parametrize("setting", [(-20, 4, 0.005, 0.02), (-30, 1, 0.04, 0.001), (-1, 5, 0.001, 0.04)])
    def test_it_is_its_definition(self, setting):
        x = random_state().uniform(-1, 1, 3000) * np.abs(np.sin(np.arange(3000) / 400))
        effect = Compressor4C(8000)
        expected = compressed(x, *setting, 8000)
        assert effect.process(x, effect.normalised(setting)) == pytest.approx(expected, abs=1e-12)
        single = effect.process(x.astype(np.float32), effect.normalised(setting))
        assert single.dtype == np.float32
        assert single == pytest.approx(expected, abs=1e-5)

    def test_levels_below_96_decibels_count_as_96(self):
        effect = Compressor4C(8000, {"threshold": -100.0, "ratio": 2.0, "attack": 1e-3, "release": 1e-3})
        x = np.full(500, 1e-7)
        assert effect.process(x) == pytest.approx(compressed(x, -100, 2, 1e-3, 1e-3, 8000), rel=1e-9)

    def test_each_row_has_its_own_knobs_and_state(self):
        effect, x = Compressor4C(8000), random_state().uniform(-1, 1, (2, 3, 400))
        knobs = random_state(1).uniform(-0.5, 0.5, (2, 3, 4))
        together = effect.process(x, knobs)
        for i in np.ndindex(2, 3):
            assert together[i] == pytest.approx(effect.process(x[i], knobs[i]), abs=1e-14)

    def test_a_ratio_of_one_changes_nothing(self):
        effect = Compressor4C(8000, {"ratio": 1.0})
        x = random_state().uniform(-1, 1, 100)
        assert effect.process(x, [0.3, 0.1, -0.2]) == pytest.approx(x, abs=1e-15)

    def test_rows_at_once_are_the_loop(self, monkeypatch):
        """What runs where numba isn't installed."""
        x = random_state().uniform(-1, 1, (3, 500))
        knobs = random_state(1).uniform(-0.5, 0.5, (3, 4))
        usual = Compressor4C(8000).process(x, knobs)
        plain = kernels_module.Kernels(smooth_rows, smooth_adjoint_rows)
        monkeypatch.setattr("paperworks.audio.effects.dynamics.kernels", lambda: plain)
        assert Compressor4C(8000).process(x, knobs) == pytest.approx(usual, abs=1e-14)


class TestBallistics:
    def test_gradients_are_those_of_differences(self):
        gain = -10 * torch.rand(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        rest = [torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.3], [0.8, 0.9], [-1.0, 0.0])]
        arguments = [t.requires_grad_() for t in (gain, *rest)]
        assert torch.autograd.gradcheck(ballistics, arguments)

    def test_both_forms_have_the_same_gradients(self, monkeypatch):
        def gradients():
            gain = torch.linspace(-6, 0, 40, dtype=torch.float64).sin().mul(8).view(2, 20).requires_grad_()
            down, up = (torch.tensor([v, v], dtype=torch.float64, requires_grad=True) for v in (0.4, 0.9))
            ballistics(gain, down, up).square().sum().backward()
            return torch.cat([gain.grad.flatten(), down.grad, up.grad])

        usual = gradients()
        plain = kernels_module.Kernels(smooth_rows, smooth_adjoint_rows)
        monkeypatch.setattr("paperworks.audio.effects.smoothing.kernels", lambda: plain)
        assert torch.allclose(gradients(), usual, atol=1e-12)

    @given(st.floats(0, 0.999), st.floats(0, 0.999))
    @settings(max_examples=20, deadline=None)
    def test_it_stays_between_its_inputs(self, down, up):
        gain = -30 * torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        smoothed = ballistics(gain, down, up)
        assert smoothed.min() >= gain.min() - 1e-12
        assert smoothed.max() <= 1e-12

    def test_changes_in_place_are_found(self):
        """Else gradients would be wrong without a word."""
        gain = torch.linspace(-1, 1, 9, dtype=torch.float64, requires_grad=True)
        for change in (0, 1):
            parts = [gain * 2]
            parts.append(ballistics(parts[0], 0.9, 0.5))
            total = (parts[1] * 1).sum()
            parts[change].mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                total.backward()

    def test_the_time_is_that_from_10_to_90_percent(self):
        a = time_coefficient(0.01, 8000)
        steps = -1 + ballistics(torch.full((400,), 1.0, dtype=torch.float64), a, a)
        ten, ninety = (int((steps > -1 + part).nonzero()[0]) for part in (0.1, 0.9))
        assert ninety - ten == pytest.approx(80, abs=1)

    @pytest.mark.parametrize("bad", [1.0, -0.1, math.nan])
    def test_coefficients_out_of_range_are_refused(self, bad):
        with pytest.raises(ValueError, match="attack is"):
            ballistics(torch.zeros(3), bad, 0.5)
        with pytest.raises(TypeError, match="gain has type"):
            ballistics(torch.zeros(3, dtype=torch.float16), 0.5, 0.5)


class TestOthers:
    def test_the_simple_compressor_starts_settled(self):
        effect = SimpleCompressor(8000)
        y = effect.process(np.full((2, 50), 0.5), [effect.normalised([-20, 4, 100]), effect.normalised([0, 4, 100])])
        assert 20 * np.log10(y[0] / 0.5) == pytest.approx((20 * math.log10(0.5) + 20) * (1 / 4 - 1), abs=1e-4)
        assert y[1] == pytest.approx(0.5)

    def test_echoes_come_at_multiples_of_the_delay(self):
        effect = Echo(8000, {"delay": 100.0, "ratio": 0.5, "echoes": 3.0})
        y = effect.process(np.eye(1, 400)[0])
        assert y[[0, 100, 200, 300]].tolist() == [1, 0.5, 0.25, 0.125]
        assert y.sum() == pytest.approx(1.875)

    def test_the_low_pass_halves_the_power_at_its_cut_off(self):
        effect = LowPass(8000, {"cutoff": 500.0})
        tone = np.sin(2 * np.pi * 500 * np.arange(16000) / 8000)
        assert (effect.process(tone)[8000:] ** 2).mean() == pytest.approx(0.25, rel=1e-3)

    @pytest.mark.parametrize("steps", [-12.0, -5.0, 0.0, 7.0])
    def test_the_pitch_moves_by_steps(self, steps):
        tone = np.sin(2 * np.pi * 440 * np.arange(16384) / 16384)
        y = PitchShift(16384, {"steps": steps}).process(tone)
        assert y.shape == tone.shape
        assert int(np.abs(np.fft.rfft(y)).argmax()) == pytest.approx(440 * 2 ** (steps / 12), abs=1.5)
        assert np.std(y[2000:-2000]) == pytest.approx(np.std(tone), rel=0.1)

    def test_noise_and_shifts_are_to_be_undone(self):
        x = random_state().uniform(-1, 1, (4, 200))
        for effect in (Denoise(8000), TimeAlign(8000)):
            heard, wanted = effect.pair(x, [0.5], random_state(1))
            assert np.array_equal(wanted, x)
            assert not np.array_equal(heard, x)
            with pytest.raises(ValueError, match="random_state is None"):
                effect.process(x, [0.5])
        shifted = TimeAlign(8000).process(x, [0.5], random_state(1))
        for row, moved in zip(x, shifted, strict=True):
            kept = moved[moved != 0]
            assert kept.size >= 100
            assert kept.tobytes() in row.tobytes()

    def test_a_decompressor_swaps(self):
        x = random_state().uniform(-1, 1, 100)
        heard, wanted = make_effect("decompressor", 8000).pair(x, [0, 0, 0, 0])
        assert wanted is x
        assert np.array_equal(heard, Compressor4C(8000).process(x, [0, 0, 0, 0]))


class TestKnobs:
    @given(st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4))
    def test_values_and_positions_undo_each_other(self, knobs):
        effect = Compressor4C()
        assert effect.normalised(effect.values(knobs)) == pytest.approx(knobs, abs=1e-12)

    def test_ends_of_the_ranges(self):
        effect = Compressor4C()
        assert effect.values([-0.5] * 4).tolist() == [-30, 1, 1e-3, 1e-3]
        assert effect.values([0.5] * 4) == pytest.approx([0, 5, 4e-2, 4e-2])
        assert make_effect("compressor-large").values([-0.5] * 4).tolist() == [-50, 1.5, 1e-3, 1e-3]
        assert make_effect("compressor-one").knobs == ()

    @pytest.mark.parametrize(
        ("knobs", "message"),
        [
            ([0.0] * 3, "knobs has shape"),
            ([0.0, 0.0, 0.0, 0.51], "from -0.5 to 0.5"),
            ([math.nan, 0.0, 0.0, 0.0], "from -0.5 to 0.5"),
            (np.zeros((3, 4)), "knobs has shape"),
        ],
    )
    def test_knobs_that_do_not_fit_are_refused(self, knobs, message):
        with pytest.raises(ValueError, match=message):
            Compressor4C().process(np.zeros((2, 10)), knobs)

    def test_rounding_beyond_the_ends_is_none(self):
        assert Compressor4C().values([0.5 + 1e-7, 0, 0, 0])[0] == 0

    @pytest.mark.parametrize("x", [np.zeros(0), np.array([math.nan]), np.zeros(3, dtype=int), np.array(1.0)])
    @pytest.mark.usefixtures("untyped")
    def test_sound_that_is_none_is_refused(self, x):
        with pytest.raises(ValueError, match="x has"):
            Compressor4C().process(x, [0] * 4)

    @pytest.mark.parametrize(
        ("ranges", "message"),
        [({"depth": 1.0}, "ranges has"), ({"ratio": (3.0, 2.0)}, "low < high"), ({"ratio": math.nan}, "ratio")],
    )
    def test_ranges_that_do_not_fit_are_refused(self, ranges, message):
        with pytest.raises(ValueError, match=message):
            Compressor4C(44100, ranges)

    @pytest.mark.parametrize(
        ("effect", "ranges"),
        [
            (Compressor4C, {"ratio": (0.0, 5.0)}),
            (Compressor4C, {"attack": -1.0}),
            (Compressor4C, {"release": 0.0}),
            (SimpleCompressor, {"attack_release": 1.0}),
            (Echo, {"delay": (-5.0, 5.0)}),
            (LowPass, {"cutoff": 4000.0}),
            (LowPass, {"cutoff": [100, 5000]}),
            (Denoise, {"strength": -0.1}),
            (TimeAlign, {"strength": 1.5}),
            (PitchShift, {"steps": (-12, 1200)}),
        ],
    )
    def test_values_that_an_effect_cannot_do_are_refused(self, effect, ranges):
        (name,) = ranges
        with pytest.raises(ValueError, match=rf"ranges\['{name}'\] is .*; it takes a finite number [<>]"):
            effect(8000, ranges)
        with pytest.raises(ValueError, match="cutoff"):
            LowPass(3000)  # whose usual knob goes beyond half of it

    def test_the_register(self):
        with pytest.raises(ValueError, match="is taken"):
            register_effect("echo", Echo)
        with pytest.raises(ValueError, match="lowpass"):
            make_effect("phaser")
        with pytest.raises(ValueError, match="values is"):
            Compressor4C().normalised([-31, 2, 0.01, 0.01])


def effect_of(apply):
    """Return an effect of a user, with one knob."""
    return type("Own", (Effect,), {"RANGES": {"drive": (0.0, 1.0)}, "_apply": lambda self, x, v, r: apply(x)})(8000)


class TestUsersEffects:
    @pytest.mark.parametrize(
        ("apply", "message"),
        [
            (lambda x: x[:, 1:], r"Own made samples of shape \(2, 4\)"),
            (lambda x: np.log(x - 1), "Own made samples that are NaN"),
            (lambda x: None, r"Own made samples of shape \(\)"),
            (lambda x: np.multiply(x, 2, out=x), "read-only"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:invalid value")
    @pytest.mark.usefixtures("untyped")
    def test_what_they_break_is_said(self, apply, message):
        with pytest.raises(ValueError, match=message):
            effect_of(apply).process(np.full((2, 5), 0.5), [0.0])

    def test_nothing_is_shared_with_the_caller(self):
        x = np.full((2, 5), 0.5)
        y = effect_of(lambda x: x).process(x, [0.0])
        y += 1
        assert (x == 0.5).all()

    @pytest.mark.usefixtures("untyped")
    def test_the_register_takes_effects_alone(self):
        with pytest.raises(TypeError, match="make 3"):
            register_effect("three", 3)
        register_effect("no effect", lambda sr: sr)
        with pytest.raises(TypeError, match="'no effect' makes 8000"):
            make_effect("no effect", 8000)


class TestSignals:
    @pytest.mark.parametrize("kind", SIGNALS)
    def test_each_is_finite_nowhere_silent_and_its_seed_s(self, kind):
        one, same, other = (test_signal(kind, 500, 8000, random_state(seed)) for seed in (3, 3, 4))
        assert np.isfinite(one).all()
        assert (one != 0).all()
        assert np.abs(one).max() < 4
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_the_staircase_rises_by_decibels(self):
        y = np.abs(test_signal("staircase", 40_000, 8000, random_state(0)))
        tops = 20 * np.log10(y.reshape(-1, 800).max(1))
        assert tops[0] == pytest.approx(round(tops[0]), abs=0.3)
        assert tops[-1] == pytest.approx(0, abs=0.05)
        assert (np.diff(tops) > -0.2).all()

    def test_pink_noise_falls_by_3_decibels_an_octave(self):
        power = np.mean(
            [np.abs(np.fft.rfft(test_signal("pink noise", 4096, 8000, random_state(s)))) ** 2 for s in range(30)], 0
        )
        low, high = power[64:128].mean(), power[512:1024].mean()
        assert 10 * math.log10(low / high) == pytest.approx(9, abs=1)

    def test_signs_are_random(self):
        signs = [np.sign(test_signal("box", 64, 8000, random_state(s)).mean()) for s in range(40)]
        assert 8 < signs.count(1) < 32

    def test_knobs_are_denser_at_the_ends(self):
        knobs = beta_knobs(random_state(), 20_000)
        assert np.abs(knobs).max() <= 0.5
        assert (np.abs(knobs) > 0.45).mean() > 1.2 * (np.abs(knobs) < 0.05).mean()

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(("kind", "n", "sr"), [("drone", 100, 8000), ("sine", 5, 8000), ("sine", 100, 0)])
    def test_bad_arguments_are_refused(self, kind, n, sr):
        with pytest.raises(ValueError, match=r"kind|n is|sr is"):
            test_signal(kind, n, sr, random_state())
