"""From pressure to sound: impulse responses in a band, moving sources and listeners, ears, files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.audio import (
    GaussianSource,
    Room,
    RoomFrame,
    binaural_ears,
    box_modes,
    gaussian_width,
    make_acoustic_deeponet,
    read_sound,
    render,
    responder,
    room_impulse_response,
    snap_to_grid,
    write_impulse_responses,
)

FRAME = RoomFrame(Room((2.0, 2.0)))


def model():
    torch.manual_seed(0)
    return make_acoustic_deeponet(FRAME, hidden=16, n_layers=2, q=8).eval()


@pytest.mark.parametrize("kind", ["pressure", "monopole"])
def test_the_source_s_width_divides_out(kind):
    t, x = np.arange(300) * 1e-4, [[1.5, 0.7]]
    found = []
    for sigma in (gaussian_width(1000.0), gaussian_width(1400.0)):
        p = box_modes((2.0, 2.0), GaussianSource([0.9, 1.0], sigma), x, t)[0, :, 0]
        found.append(room_impulse_response(p * np.hanning(600)[300:], 1e-4, 8000, sigma, 600.0, kind, dim=2))
    assert len(found[0]) == 240
    assert np.abs(found[0] - found[1])[:200].max() < 0.05 * np.abs(found[0]).max()


def test_the_band_ends_where_it_should():
    t = np.arange(400) * 1e-4
    p = box_modes((2.0, 2.0), GaussianSource([0.9, 1.0]), [[1.5, 0.7]], t)[0, :, 0] * np.hanning(800)[400:]
    h = room_impulse_response(p, 1e-4, 16000, gaussian_width(), 800.0, dim=2)
    spectrum, f = np.abs(np.fft.rfft(h * np.hanning(len(h)))), np.fft.rfftfreq(len(h), 1 / 16000)
    assert spectrum[f > 1300].max() < 0.01 * spectrum.max()
    batch = room_impulse_response(np.stack([p, 2 * p]), 1e-4, 16000, gaussian_width(), 800.0, dim=2)
    assert np.allclose(batch, [h, 2 * h])


def test_what_stays_is_convolved_once():
    rng = np.random.default_rng(0)
    dry, h = rng.standard_normal(500), rng.standard_normal((2, 60))
    asked = []

    def responses(sources, listeners):
        asked.append(len(sources))
        return np.repeat(h[None], len(sources), 0)

    still = render([1.0, 1.0], [0.5, 0.5], dry, 1000, responses)
    assert np.abs(still - [np.convolve(dry, one) for one in h]).max() < 1e-10
    moving = render(lambda t: [1.0 + 0.1 * t, 1.0], [0.5, 0.5], dry, 1000, responses)
    assert np.abs(moving - still).max() < 1e-10
    assert asked[0] == 1 < asked[1]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.floats(0.001, 0.2), st.integers(1, 30))
def test_blocks_of_any_length_add_up(samples, block, length):
    dry = np.random.default_rng(samples).standard_normal(samples)
    h = np.random.default_rng(length).standard_normal(length)
    wet = render(lambda t: [t], [0.0], dry, 1000, lambda a, b: np.tile(h, (len(a), 1)), block)
    assert wet.shape == (1, samples + length - 1)
    assert np.abs(wet[0] - np.convolve(dry, h)).max() < 1e-9


def test_a_moving_source_fades_from_one_response_to_the_next():
    wet = render(lambda t: [t], [0.0], np.ones(100), 100, lambda a, b: a[:, :1, None], 0.2)  # its own time, as a gain
    assert np.allclose(wet[0], np.arange(100) / 100, atol=1e-9)


def test_the_responder_is_the_network_s_response():
    net, t = model(), np.arange(100) * 2.5e-4
    responses = responder(net, t, 8000)
    sources, listeners = np.array([[0.5, 1.0], [0.7, 1.0], [0.5, 1.0]]), np.array([[1.5, 0.5], [1.5, 0.5], [1.2, 0.5]])
    found = responses(sources, listeners)
    assert found.shape == (3, 1, 200)
    for i in range(3):
        p = net.impulse_response(sources[i], listeners[i], t)[0, 0].double().numpy()
        wanted = room_impulse_response(p, 2.5e-4, 8000, FRAME.sigma, FRAME.f_max, dim=2)
        assert np.abs(found[i, 0] - wanted).max() < 1e-3 * np.abs(wanted).max()
    ears = responder(net, t, 8000, heading=[0.0, 1.0])(sources[:1], listeners[:1])
    left = responses(sources[:1], listeners[:1] - [[0.0875, 0.0]])
    assert np.abs(ears[0, 0] - left[0, 0]).max() < 1e-3 * np.abs(left).max()


def test_ears_are_at_the_sides():
    ears = binaural_ears([[1.0, 1.0, 1.7]], lambda place: [1.0, 0.0, 0.5])
    assert ears[0, :, 1].tolist() == pytest.approx([1.0875, 0.9125])  # left is +y where one looks along +x
    assert ears[0, :, [0, 2]].T.tolist() == [[1.0, 1.7]] * 2


def test_points_snap_to_a_grid():
    grid = FRAME.room.nodes(0.5)
    found, number = snap_to_grid([[0.3, 1.9]], grid)
    assert found.tolist() == [[0.5, 2.0]]
    assert (grid[number] == found).all()


def test_files_share_their_loudness(tmp_path):
    files = write_impulse_responses(tmp_path / "new", np.array([[0.0, 2.0], [0.0, -4.0]]), 8000, ["a", "b"])
    assert [file.name for file in files] == ["a.wav", "b.wav"]
    assert [read_sound(file).samples[0].tolist() for file in files] == [[0.0, 0.5], [0.0, -1.0]]


def test_a_file_stays_whole_where_the_new_one_fails(tmp_path, monkeypatch):
    (file,) = write_impulse_responses(tmp_path, np.ones((1, 9)), 8000)
    before = file.read_bytes()

    def full(path, *_):
        path.write_bytes(b"RIFF")
        raise OSError("no space left")

    monkeypatch.setattr("paperworks.audio.effects.files.wavfile.write", full)
    with pytest.raises(OSError, match="no space"):
        write_impulse_responses(tmp_path, np.zeros((1, 9)), 8000)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_room_that_still_sounds_at_the_end_rings_there_alone():
    t, x = np.arange(3000) * 1e-4, [[1.3, 0.4]]
    p = box_modes((2.0, 2.0), GaussianSource([0.7, 0.9]), x, t)[0, :, 0]
    long, short = (room_impulse_response(q, 1e-4, 8000, gaussian_width(), 800.0, dim=2) for q in (p, p[:500]))
    apart = np.abs(short - long[: len(short)])
    assert apart[: -round(8000 * 4 / 800)].max() < 0.02 * np.abs(long).max()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: room_impulse_response(np.ones(10), 1e-3, 8000, 0.2), "dt"),
        (lambda: room_impulse_response([np.nan, 1.0], 1e-4, 8000, 0.2), "finite"),
        (lambda: room_impulse_response(np.ones(10), 1e-4, 8000, 0.2, kind="dipole"), "kind"),
        (lambda: room_impulse_response(1.0, 1e-4, 8000, 0.2), "p has shape"),
        (lambda: room_impulse_response(np.ones(10), 1e-4, 8000, 10.0), "sigma"),
        (lambda: room_impulse_response(np.ones(10), 1e-4, 8000, 0.2, dim=0), "dim"),
        (lambda: room_impulse_response(np.ones(10), 1e-4, 8000, 0.2, c=0.0), "c is"),
        (lambda: render([1.0], [1.0], np.array([]), 100, None), "dry"),
        (lambda: render([1.0], [1.0], np.ones(9), 100, lambda a, b: np.full((1, 3), np.nan)), "responses"),
        (lambda: render([1.0], lambda t: [t], np.ones(9), 100, lambda a, b: np.ones((1, 3))), "responses"),
        (
            lambda: render([1.0, 1.0], [1.0, 0.5], np.ones(9), 44100, responder(model(), np.arange(9) * 2e-4, 8000)),
            "8000 samples",
        ),
        (lambda: responder(model(), [0.0, -1e-3, -2e-3], 8000), "times"),
        (lambda: binaural_ears([[1.0, 1.0]], [1.0]), "heading has shape"),
        (lambda: snap_to_grid([[1.0]], np.empty((0, 1))), "grid"),
        (lambda: snap_to_grid([[np.nan]], [[1.0]]), "points"),
        (lambda: write_impulse_responses(".", np.full((1, 3), np.inf), 8000), "finite"),
        (lambda: write_impulse_responses(".", np.ones((2, 3)), 8000, ["a", "a"]), "different names"),
        (lambda: write_impulse_responses(".", np.ones((1, 3)), 8000, ["../a"]), "without folders"),
        (lambda: render(np.ones((3, 1)), [1.0], np.ones(100), 100, None), "path_source"),
        (lambda: responder(model(), [0.1, 0.2], 8000), "times"),
        (lambda: binaural_ears([[1.0, 1.0]], [0.0, 0.0]), "heading"),
        (lambda: binaural_ears([[1.0]], [1.0]), "two or three"),
        (lambda: snap_to_grid([[1.0]], [[1.0, 1.0]]), "points"),
        (lambda: write_impulse_responses(".", np.ones((2, 3)), 8000, ["a"]), "names"),
    ],
)
def test_bad_input_is_refused(make, says, untyped):
    with pytest.raises(ValueError, match=says):
        make()
