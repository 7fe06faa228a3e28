"""What pyroomacoustics says of a box: impulse responses by image sources, at its best settings."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.audio import gaussian_width

RATE = 16_000


def random_incidence(xi: float) -> float:
    """Return the absorption of a diffuse field, by Paris' formula: what tables of materials give."""
    if math.isinf(xi):
        return 0.0
    return 8 / xi * (1 + 1 / (1 + xi) - 2 / xi * math.log(1 + xi))


def farthest_order(size: Any, place: Any, ears: Float[np.ndarray, "n 3"], reach: float) -> int:
    """Return the highest order of an image that is within reach of an ear: more would cost time for nothing."""
    number = np.arange(-math.ceil(reach / min(size)) - 1, math.ceil(reach / min(size)) + 2)
    apart = [
        np.abs(np.where(number % 2, (number + 1) * side - x, number * side + x) - ears[:, i, None])
        for i, (side, x) in enumerate(zip(size, place, strict=True))
    ]
    squares = apart[0][:, :, None, None] ** 2 + apart[1][:, None, :, None] ** 2 + apart[2][:, None, None] ** 2
    order = np.abs(number)
    orders = order[:, None, None] + order[:, None] + order
    return int(np.where(squares <= reach**2, orders, 0).max())


def impulses(size: Any, place: Any, ears: Float[np.ndarray, "n 3"], order: int, absorbed: float) -> list[np.ndarray]:
    """Return the package's impulse responses."""
    import pyroomacoustics as pra

    pra.constants.set("c", 343.0)
    pra.constants.set("rir_hpf_enable", False)
    room = pra.ShoeBox(size, fs=RATE, materials=pra.Material(absorbed), max_order=order, air_absorption=False)
    room.add_source(place)
    room.add_microphone_array(ears.T)
    room.compute_rir()
    return [one[0] for one in room.rir]


def pressure(
    size: Any, place: Any, ears: Float[np.ndarray, "n 3"], times: Float[np.ndarray, " t"], absorbed: float
) -> Float[np.ndarray, "t n"]:
    """Return its pressure of a Gaussian source: each image sends an odd pulse, three widths away or more."""
    import pyroomacoustics as pra

    sigma, late = gaussian_width(), 0.003
    reach = int(late * RATE)
    tau = np.arange(-reach, reach + 1) / RATE
    pulse = -0.5 * 343 * tau * np.exp(-((343 * tau / sigma) ** 2))
    first = pra.constants.get("frac_delay_length") // 2 + reach
    order = farthest_order(size, place, ears, 343 * (float(times[-1]) + late))
    found = []
    for h in impulses(size, place, ears, order, absorbed):
        p = np.convolve(h, pulse)[first:]
        spectrum = np.fft.rfft(p, 4 * len(p))  # resampled finely, then read off
        fine = np.fft.irfft(spectrum, 64 * len(p)) * 16
        found.append(np.interp(times, np.arange(len(fine)) / (16 * RATE), fine))
    return np.array(found).T
