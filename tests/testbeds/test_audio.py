"""Real sound and computed strings: pitches, MIDI files, and what is said where a program is missing or fails."""

import math
import stat
import struct

import numpy as np
import pytest

from paperworks.audio import write_sound
from paperworks.testbeds import DatasetMissing, melody, plucked_strings, recorded_pluck, rendered_instrument, spoken
from paperworks.testbeds import audio as module


def test_strings_have_one_pitch_and_decay():
    y = plucked_strings(16000, 16000, np.random.default_rng(3))
    spectrum = np.abs(np.fft.rfft(y))
    first = 75 + int(spectrum[75:900].argmax())
    harmonics = [first * k for k in (2, 3)]
    quiet = np.median(spectrum)
    assert all(spectrum[h - 12 : h + 13].max() > 10 * quiet for h in harmonics)
    assert np.std(y[:1600]) > 2 * np.std(y[-1600:])
    assert np.abs(plucked_strings(8000, 8000, np.random.default_rng(0), notes=20)).max() <= 1


def test_the_recorded_pluck_is_a_third_of_a_second():
    try:
        y = recorded_pluck()
    except DatasetMissing as error:
        pytest.skip(str(error))
    assert y.shape == (3307,)
    assert 0.5 < np.abs(y).max() <= 1
    assert recorded_pluck(22050).shape == (6614,)


def test_a_python_without_its_tests_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DatasetMissing, match=r"pluck-pcm16\.wav is not in"):
        recorded_pluck.__wrapped__()


@pytest.mark.parametrize("instrument", ["piano", "guitar", "bass", "drums"])
def test_melodies_are_midi_files(instrument):
    data = melody(instrument, 3.0, random_state=1)
    assert data[:4] == b"MThd"
    assert struct.unpack(">IHHH", data[4:14]) == (6, 0, 1, 480)
    assert data[14:18] == b"MTrk"
    assert struct.unpack(">I", data[18:22])[0] == len(data) - 22
    track, at, ticks, sounding = data[22:], 0, 0, set()
    while True:
        delta = 0
        while True:
            delta = delta << 7 | track[at] & 0x7F
            at += 1
            if not track[at - 1] & 0x80:
                break
        ticks += delta
        status = track[at]
        if status == 0xFF:
            assert track[at:] == b"\xff\x2f\x00"
            break
        assert status & 0x0F == (9 if instrument == "drums" else 0)
        if status >> 4 == 0x9:
            assert not sounding
            sounding.add(track[at + 1])
        elif status >> 4 == 0x8:
            sounding.remove(track[at + 1])
        at += 2 if status >> 4 == 0xC else 3
    assert not sounding
    assert 3.0 <= ticks / 960 <= 3.5
    assert melody(instrument, 3.0, random_state=2) != data


class TestPrograms:
    @pytest.fixture
    def programs(self, tmp_path, monkeypatch):
        """Programs that write a sound of two seconds, or fail."""
        write_sound(tmp_path / "tone.wav", np.sin(np.arange(88200) / 20)[None].repeat(2, 0), 44100)
        font = tmp_path / "font.sf2"
        font.write_bytes(b"")
        monkeypatch.setattr(module, "_FONTS", (str(font),))
        monkeypatch.setenv("PATH", str(tmp_path))

        def install(name, line):
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod((tmp_path / name).stat().st_mode | stat.S_IEXEC)

        return install

    def test_what_they_render_is_cut_or_filled_to_length(self, programs, tmp_path):
        programs("fluidsynth", f'/bin/cp {tmp_path}/tone.wav "$7"')
        y = rendered_instrument("guitar", 1.0)
        assert y.shape == (2, 44100)
        assert y[0] == pytest.approx(np.sin(np.arange(44100) / 20), abs=1e-6)
        assert (rendered_instrument("guitar", 3.0)[:, 88200:] == 0).all()

    def test_what_they_say_is_resampled(self, programs, tmp_path):
        programs("espeak-ng", f'/bin/cp {tmp_path}/tone.wav "$2"')
        assert spoken("Hello").shape == (2, math.ceil(2 * 22050))

    def test_failures_and_absence_are_missing_data(self, programs, monkeypatch):
        with pytest.raises(DatasetMissing, match="apt install espeak-ng"):
            spoken("Hello")
        programs("espeak-ng", "echo no voice >&2; exit 3")
        with pytest.raises(DatasetMissing, match="failed with code 3: no voice"):
            spoken("Hello")
        with pytest.raises(DatasetMissing, match="apt install fluidsynth"):
            rendered_instrument("piano", 1.0)
        monkeypatch.setattr(module, "_FONTS", ())
        with pytest.raises(DatasetMissing, match="timgm6mb-soundfont"):
            rendered_instrument("piano", 1.0)

    @pytest.mark.usefixtures("untyped")
    def test_other_instruments_are_refused(self):
        with pytest.raises(ValueError, match="instrument"):
            rendered_instrument("kazoo", 1.0)
