"""What a walk through the tube sounds like by the exact solution and by the network."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.audio import (
    AcousticDeepONet,
    GaussianSource,
    image_source_1d,
    render,
    responder,
    room_impulse_response,
)
from paperworks.evidence import Recording, Run
from paperworks.papers.sound_deeponet.problems import XI, Sound
from paperworks.testbeds import plucked_strings

RATE = 8000
BAND = 800.0
"""Highest frequency in Hz of the responses: at 1000 the source's spectrum is so low that errors grow 55 times."""


def walk(run: Run, model: AcousticDeepONet, data: Sound) -> list[Recording]:
    """Play plucked strings at an unseen place of the tube to a listener who walks from end to end."""
    seconds = run.at(smoke=0.25, desk=3.0, full=3.0)
    frame, source = data.frame, data.tests[0]
    dry = plucked_strings(int(seconds * RATE), RATE, run.rng(2**20), notes=12)

    def images(sources: Float[np.ndarray, "n 1"], listeners: Float[np.ndarray, "n 1"]) -> Float[np.ndarray, "n t"]:
        p = image_source_1d(2.0, GaussianSource(sources[:1], frame.sigma), listeners[:, 0], data.times, XI)[0].T
        return room_impulse_response(p, data.times[1], RATE, frame.sigma, BAND, dim=1)

    def heard(responses: Callable[..., Any]) -> Float[np.ndarray, " n"]:
        return render(source, lambda t: [0.2 + 1.6 * min(t / seconds, 1.0)], dry, RATE, responses, 0.05)[0]

    exact, network = heard(images), heard(responder(model, data.times, RATE, f_max=BAND))
    loudest, apart = float(np.abs(exact).max()), float(np.linalg.norm(network - exact) / np.linalg.norm(exact))
    return [
        Recording("Plucked strings, dry", dry, RATE),
        Recording("As a walker hears them in the tube, below 1 kHz, by the exact solution", exact / loudest, RATE),
        Recording(f"The same walk by the network; the difference is {apart:.0%} of the sound", network / loudest, RATE),
    ]
