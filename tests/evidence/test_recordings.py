import io
import wave

import numpy as np
import pytest

from paperworks.evidence import Recording, paper_views, read_evidence, run_papers
from paperworks.evidence.store import add_entry


def test_a_recording_is_written_as_it_sounds():
    left = np.array([0.0, 0.5, -1.0, 2.0])
    with wave.open(io.BytesIO(Recording("A ramp", np.stack([left, -left]), 8000).wav())) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        heard = np.frombuffer(file.readframes(4), "<i2").reshape(4, 2)
    assert heard[:, 0].tolist() == [0, 16384, -32767, 32767], "what is beyond full scale is clipped, not wrapped"
    assert heard[:, 1].tolist() == [0, -16384, 32767, -32767]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"says": " "}, "says is empty"),
        ({"sr": 0}, "sr is 0"),
        ({"samples": np.zeros(0)}, r"samples have shape \(0,\)"),
        ({"samples": np.zeros((3, 8))}, r"samples have shape \(3, 8\)"),
        ({"samples": np.zeros(80001)}, "samples last 10 s"),
        ({"samples": np.array([0, np.nan])}, "samples hold a NaN"),
    ],
)
def test_what_is_no_sound_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Recording(**{"says": "A tone", "samples": np.zeros(8), "sr": 8000, **wrong})


def test_recordings_of_a_claim_are_kept_in_order_and_go_with_its_measurement(make_paper, make_entry, value, tmp_path):
    source = """
        import numpy as np
        @measures("c1")
        def c1(run):
            sounds = [Recording(f"sound {n}", np.full(8, n / 20), 8000) for n in range(12)]
            return AudibleMeasurement(exact(1.0), recordings=sounds)
    """
    paper = make_paper(source, {"c1": {}})
    run_papers([paper], scale="smoke", folder=tmp_path / "own")
    (view,) = paper_views(paper, read_evidence(paper.slug, tmp_path / "own"))
    sounds = view.sounds()
    assert [says for _, says in sounds] == [f"sound {n}" for n in range(12)]
    for number, (path, _) in enumerate(sounds):
        assert path.read_bytes() == Recording("x", np.full(8, number / 20), 8000).wav()
    add_entry(paper.slug, tmp_path / "own", make_entry(scale="smoke", values={"": value(1.0)}))
    evidence = read_evidence(paper.slug, tmp_path / "own")
    assert not list((tmp_path / "own").rglob("*.wav")), "the newest measurement has no sound"
    assert [entry.recordings for entry in evidence.entries] == [(), ()]
