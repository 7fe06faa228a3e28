"""Sound files of all widths, and data sets: made, from files, and recorded from a device."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch.utils.data import DataLoader

from paperworks.audio import (
    AudioFileDataset,
    Compressor4C,
    Denoise,
    FileEffect,
    SynthAudioDataset,
    TimeAlign,
    read_sound,
    write_sound,
)

SR = 8000


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape)


class TestFiles:
    @pytest.mark.parametrize(
        ("kind", "scale", "offset", "step"),
        [
            (np.uint8, 128, 128, 1 / 128),
            (np.int16, 2**15, 0, 2**-15),
            (np.int32, 2**31, 0, 1e-7),
            (np.float32, 1, 0, 1e-7),
            (np.float64, 1, 0, 1e-7),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 2, 6])
    def test_all_widths_and_channels(self, tmp_path, kind, scale, offset, step, channels):
        x = noise(channels, 100)
        wavfile.write(tmp_path / "x.wav", SR, (x * scale + offset).astype(kind).T)
        sound = read_sound(tmp_path / "x.wav")
        assert sound.sr == SR
        assert sound.samples.dtype == np.float32
        assert sound.samples == pytest.approx(x, abs=1.01 * step)

    def test_24_bits(self, tmp_path):
        soundfile = pytest.importorskip("soundfile")
        x = noise(2, 100)
        soundfile.write(tmp_path / "x.wav", x.T, SR, "PCM_24")
        assert read_sound(tmp_path / "x.wav").samples == pytest.approx(x, abs=2e-7)
        soundfile.write(tmp_path / "x.flac", x.T, SR, "PCM_24")
        assert read_sound(tmp_path / "x.flac").samples == pytest.approx(x, abs=2e-7)

    def test_another_rate_keeps_the_sound(self, tmp_path):
        write_sound(tmp_path / "x.wav", np.sin(2 * np.pi * 300 * np.arange(SR) / SR)[None], SR)
        sound = read_sound(tmp_path / "x.wav", 11025)
        expected = np.sin(2 * np.pi * 300 * np.arange(11025) / 11025)
        assert sound.samples[0, 200:-200] == pytest.approx(expected[200:-200], abs=1e-2)

    def test_whole_numbers_clip_with_a_warning(self, tmp_path):
        with pytest.warns(UserWarning, match="1 samples exceed 1"):
            write_sound(tmp_path / "x.wav", np.array([[0.5, 1.5, -1.0]]), SR, "int16")
        assert read_sound(tmp_path / "x.wav").samples[0] == pytest.approx([0.5, 1, -1], abs=1e-4)

    def test_broken_files_say_so(self, tmp_path):
        for name, content in (("x.wav", b"RIFF"), ("x.flac", b"fLaC")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match="path is"):
                read_sound(tmp_path / name)
        with pytest.raises(ValueError, match="NaN"):
            write_sound(tmp_path / "y.wav", np.full((1, 2), np.nan), SR)

    def test_mu_law(self, tmp_path):
        soundfile = pytest.importorskip("soundfile")
        x = noise(2, 100)
        soundfile.write(tmp_path / "x.wav", x.T, SR, "ULAW")
        assert read_sound(tmp_path / "x.wav").samples == pytest.approx(x, abs=0.02)

    @pytest.mark.parametrize("kind", ["wav", "aiff", "flac"])
    def test_files_cut_short_are_refused(self, tmp_path, kind):
        if kind == "wav":
            write_sound(tmp_path / "x.wav", noise(1, 1000), SR)
        else:
            pytest.importorskip("soundfile").write(tmp_path / f"x.{kind}", noise(1000), SR)
        whole = (tmp_path / f"x.{kind}").read_bytes()
        assert read_sound(tmp_path / f"x.{kind}").samples.shape == (1, 1000)
        for length in (0, 4, 30, 100, len(whole) - 100):
            (tmp_path / f"x.{kind}").write_bytes(whole[:length])
            with pytest.raises(ValueError, match="path is"):
                read_sound(tmp_path / f"x.{kind}")

    def test_a_length_unknown_to_the_writer(self, tmp_path):
        write_sound(tmp_path / "x.wav", noise(2, 100), SR, "int16")
        whole = bytearray((tmp_path / "x.wav").read_bytes())
        expected = read_sound(tmp_path / "x.wav").samples
        whole[4:8] = whole[40:44] = b"\xff" * 4
        (tmp_path / "x.wav").write_bytes(whole)
        assert np.array_equal(read_sound(tmp_path / "x.wav").samples, expected)

    @pytest.mark.parametrize(("place", "value"), [(4, b"\0"), (16, b"\xff"), (20, b"\x63"), (22, b"\0"), (24, b"\0\0")])
    def test_wrong_headers_are_refused(self, tmp_path, place, value):
        write_sound(tmp_path / "x.wav", noise(2, 10), SR, "int16")
        whole = bytearray((tmp_path / "x.wav").read_bytes())
        whole[place : place + len(value)] = value
        (tmp_path / "x.wav").write_bytes(whole)
        with pytest.raises((ValueError, ImportError), match=r"path is|x\.wav"):
            read_sound(tmp_path / "x.wav")

    def test_samples_beyond_single_precision(self, tmp_path):
        wavfile.write(tmp_path / "x.wav", SR, np.full(10, 1e300))
        with pytest.raises(ValueError, match="beyond single precision"):
            read_sound(tmp_path / "x.wav")

    def test_a_rate_that_cannot_be_resampled(self, tmp_path):
        wavfile.write(tmp_path / "x.wav", 400_000_009, np.zeros(10, np.float32))
        with pytest.raises(ValueError, match="can't be resampled to 44100"):
            read_sound(tmp_path / "x.wav", 44100)

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(
        ("x", "sr", "message"),
        [
            (np.full((1, 2), np.nan), SR, "NaN"),
            (np.full((1, 2), 1e300), SR, "beyond single precision"),
            (np.ones((1, 2), np.int16), SR, "int16; it takes"),
            (np.ones((1, 0)), SR, r"shape \(1, 0\)"),
            (np.ones((2, 2, 2)), SR, r"shape \(2, 2, 2\)"),
            (np.ones((1000, 2)), SR, "1000 channels"),
            (np.ones((1, 2)), 2**33, "sr is"),
        ],
    )
    def test_what_cannot_be_written_leaves_the_file(self, tmp_path, x, sr, message):
        (tmp_path / "x.wav").write_bytes(b"old")
        with pytest.raises(ValueError, match=message):
            write_sound(tmp_path / "x.wav", x, sr)
        assert (tmp_path / "x.wav").read_bytes() == b"old"
        assert [f.name for f in tmp_path.iterdir()] == ["x.wav"]

    def test_a_write_that_fails_leaves_the_file(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError("no space")

        monkeypatch.setattr(wavfile, "write", full)
        (tmp_path / "x.wav").write_bytes(b"old")
        with pytest.raises(OSError, match="no space"):
            write_sound(tmp_path / "x.wav", noise(1, 10), SR)
        assert [f.read_bytes() for f in tmp_path.iterdir()] == [b"old"]


class TestSynthesised:
    def test_examples_are_their_number_s(self):
        data = SynthAudioDataset(Compressor4C(SR), 256, 64)
        batch = data.batch([5, 9])
        assert [t.dtype for t in batch] == [torch.float32] * 3
        for k, i in enumerate((5, 9)):
            assert all(torch.allclose(a[k], b, atol=1e-6) for a, b in zip(batch, data[i], strict=True))
        assert not torch.equal(data[5].x, SynthAudioDataset(Compressor4C(SR), 256, 64, random_state=1)[5].x)

    def test_targets_are_the_effect_s(self):
        effect = Compressor4C(SR)
        x, knobs, y = SynthAudioDataset(effect, 256, 64).batch(range(4))
        expected = effect.process(x.double().numpy(), knobs.double().numpy())[:, -64:]
        assert y.numpy() == pytest.approx(expected, abs=1e-5)

    def test_a_stream_has_the_state_of_what_came_before(self):
        effect = Compressor4C(SR, {"threshold": -40.0, "ratio": 5.0, "attack": 0.04, "release": 0.04})
        alone, stream = (SynthAudioDataset(effect, 128, signals=["white noise"], stream=s) for s in (None, 2000))
        gains = [
            float(b.y[:, :4].abs().sum() / b.x[:, :4].abs().sum()) for b in (d.batch(range(8)) for d in (alone, stream))
        ]
        assert gains[0] > 0.9
        assert gains[1] < 0.4

    @pytest.mark.parametrize("workers", [0, 2])
    def test_loaders_give_each_example_once(self, workers):
        data = SynthAudioDataset(Compressor4C(SR), 64, 16, size=8)
        batches = list(DataLoader(data, batch_size=4, num_workers=workers))
        rows = torch.cat([x for x, _, _ in batches])
        assert len(torch.unique(rows, dim=0)) == 8
        assert torch.equal(rows, data.batch(range(8)).x)

    def test_knobs_can_be_held_out(self):
        data = SynthAudioDataset(Compressor4C(SR), 64, knobs=lambda random_state, k: np.full(k, 0.25))
        assert torch.equal(data.batch(range(3)).knobs, torch.full((3, 4), 0.25))

    def test_half_of_the_flipped_are(self):
        plain, flipped = (SynthAudioDataset(Compressor4C(SR), 64, flip=f).batch(range(40)) for f in (False, True))
        signs = (plain.x * flipped.x).sum(1).sign()
        assert torch.equal(signs[:, None] * plain.x, flipped.x)
        assert torch.equal(signs[:, None] * plain.y, flipped.y)
        assert 8 < int((signs < 0).sum()) < 32

    def test_noise_is_in_the_input(self):
        x, _, y = SynthAudioDataset(Denoise(SR, {"strength": 0.5}), 64, signals=["sine"]).batch(range(4))
        assert x.diff().abs().mean() > 10 * y.diff().abs().mean()

    @pytest.mark.parametrize("effect", [Denoise(SR), TimeAlign(SR)])
    def test_what_is_random_does_not_depend_on_the_batch(self, effect):
        data = SynthAudioDataset(effect, 64, signals=["sine"])
        batch = data.batch([3, 5])
        assert all(torch.equal(a[1], b) for a, b in zip(batch, data[5], strict=True))

    @pytest.mark.usefixtures("untyped")
    def test_bad_arguments_are_refused(self):
        for changes, message in (
            ({"signals": []}, "signals is empty"),
            ({"signals": ["drone"]}, "signals"),
            ({"out": 65}, "out is 65"),
            ({"stream": 0}, "stream is 0"),
            ({"random_state": -1}, "random_state is -1"),
        ):
            with pytest.raises(ValueError, match=message):
                SynthAudioDataset(Compressor4C(SR), **{"chunk": 64, **changes})
        with pytest.raises(IndexError, match="example 200000"):
            SynthAudioDataset(Compressor4C(SR), 64)[200_000]
        with pytest.raises(ValueError, match="indices is empty"):
            SynthAudioDataset(Compressor4C(SR), 64).batch([])
        with pytest.raises(TypeError, match="integer"):
            SynthAudioDataset(Compressor4C(SR), 64).batch([1.5])


class TestFilesAsData:
    def test_chunks_of_streams_are_cut_from_the_processed_file(self, tmp_path):
        x = noise(2, 1000)
        write_sound(tmp_path / "a.wav", x, SR)
        effect = Compressor4C(SR)
        data = AudioFileDataset(tmp_path, effect, 200, 50)
        for i in range(5):
            part, knobs, y = data[i]
            whole = effect.process(data.sounds[0].astype(np.float64), knobs.double().numpy())
            places = [
                (c, n) for c in (0, 1) for n in range(801) if np.array_equal(data.sounds[c][n : n + 200], part.numpy())
            ]
            ((channel, place),) = places
            if channel == 0:
                assert y.numpy() == pytest.approx(whole[place + 150 : place + 200], abs=1e-5)

    def test_other_rates_and_short_files(self, tmp_path):
        write_sound(tmp_path / "a.wav", noise(1, 100), 4000)
        with pytest.raises(ValueError, match="resample=True"):
            AudioFileDataset(tmp_path, Compressor4C(SR), 64)
        with pytest.raises(ValueError, match="pad=True"):
            AudioFileDataset(tmp_path, Compressor4C(SR), 256, resample=True)
        data = AudioFileDataset(tmp_path, Compressor4C(SR), 256, resample=True, pad=True)
        assert (data[0].x[:56] == 0).all()

    def test_all_kinds_but_hidden_files(self, tmp_path):
        soundfile = pytest.importorskip("soundfile")
        for name in ("a.wav", "b.FLAC", "c.aiff", "d.aiff"):
            soundfile.write(tmp_path / name, noise(100), SR)
        (tmp_path / "c.aiff").rename(tmp_path / "c.aif")
        (tmp_path / "._a.wav").write_bytes(b"what another system keeps beside a file")
        assert len(AudioFileDataset(tmp_path, Compressor4C(SR), 64).sounds) == 4

    def test_no_files(self, tmp_path):
        with pytest.raises(ValueError, match="no sound files"):
            AudioFileDataset(tmp_path, Compressor4C(SR))
        with pytest.raises(ValueError, match="no pairs"):
            AudioFileDataset(tmp_path)


class TestRecorded:
    def pair(self, folder, name, knobs, seed=0, channels=1):
        x = noise(channels, 300, seed=seed)
        write_sound(folder / f"input_{name}_.wav", x, 44100)
        write_sound(folder / f"target_{name}_LA2A_3c__{knobs}.wav", 0.5 * x, 44100)

    def test_the_layout_of_the_la2a(self, tmp_path):
        self.pair(tmp_path, "138", "0__65")
        self.pair(tmp_path, "139", "1__0", seed=1)
        data = AudioFileDataset(tmp_path, chunk=100, out=20)
        assert data.effect.knobs == ("Limit/Comp", "Peak Reduction")
        x, knobs, y = data.batch(range(20))
        assert {tuple(row) for row in knobs.double().numpy().round(6)} == {(-0.5, 0.15), (0.5, -0.5)}
        assert torch.allclose(y, 0.5 * x[:, -20:])
        with pytest.raises(TypeError, match="LA-2A is known from recordings alone"):
            data.effect.process(np.zeros(5), [0, 0])

    def test_a_device_described_by_a_file(self, tmp_path):
        (tmp_path / "effect_info.ini").write_text(
            "[effect]\nname = 'Fuzz'\nknob_names = ['Drive']\nknob_ranges = [[-1, 3]]\n"
        )
        (tmp_path / "Train").mkdir()
        self.pair(tmp_path / "Train", "7", "-0.5", channels=2)
        data = AudioFileDataset(tmp_path / "Train", chunk=100)
        assert len(data.sounds) == 2
        assert float(data[0].knobs) == pytest.approx(-0.375)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[effect]\nname = x\n",
            "[effect]\nknob_names = __import__('os')\nknob_ranges = [[0, 1]]\n",
            "[effect]\nknob_names = ['a']\nknob_ranges = [[1, 1]]\n",
            "[effect]\nknob_names = ['a']\nknob_ranges = [[0, 1e999]]\n",
            "[effect]\nknob_names = ['a', 'a']\nknob_ranges = [[0, 1], [0, 2]]\n",
            f"[effect]\nknob_names = {'[' * 10000}\nknob_ranges = [[0, 1]]\n",
        ],
    )
    def test_files_that_describe_nothing(self, tmp_path, text):
        (tmp_path / "effect_info.ini").write_text(text)
        with pytest.raises(ValueError, match="describes no effect"):
            FileEffect.read(tmp_path)

    def test_pairs_that_do_not_fit(self, tmp_path):
        self.pair(tmp_path, "1", "0__101")
        with pytest.raises(ValueError, match=r"target_1_LA2A_3c__0__101\.wav has settings that don't fit: values is"):
            AudioFileDataset(tmp_path, chunk=100)
        self.pair(tmp_path, "1", "0__101")
        (tmp_path / "target_1_LA2A_3c__0__101.wav").rename(tmp_path / "target_1_LA2A_3c__0__1.wav")
        write_sound(tmp_path / "input_1_.wav", noise(2, 300), 44100)
        with pytest.raises(ValueError, match="its input"):
            AudioFileDataset(tmp_path, chunk=100)
        (tmp_path / "input_1_.wav").unlink()
        with pytest.raises(ValueError, match="no input beside it"):
            AudioFileDataset(tmp_path, chunk=100)
        (tmp_path / "target_1_LA2A_3c__0__1.wav").rename(tmp_path / "target_1.wav")
        with pytest.raises(ValueError, match="names no settings"):
            AudioFileDataset(tmp_path, chunk=100)
