"""
Find the settings of a compressor from recordings
=================================================

You have a recording before and after a compressor, and the engineer who set its knobs isn't there any more. You want
the same effect for other sounds, and the settings themselves.

A compressor is a recursion with four numbers: threshold, ratio, attack and release.
:class:`~paperworks.audio.GreyBoxCompressor` learns them through that recursion. Here the device is
:class:`~paperworks.audio.Compressor4C` with settings that the training doesn't see, so that we can check what it
finds; the sounds are plucked strings. You can listen to all of them below.
"""

import base64
import io
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.io import wavfile

from paperworks.audio import Compressor4C, GreyBoxCompressor
from paperworks.testbeds import plucked_strings

# %%
# Recordings
# ----------
# Six seconds before the device and after, the latter with a little hiss, as recordings have. The first four seconds
# are for training, the last two for testing.

sr = 16_000
secret = {"threshold": -24.0, "ratio": 3.5, "attack": 0.004, "release": 0.025}  # dB, 1, seconds, seconds
rng = np.random.default_rng(0)
dry = np.concatenate([plucked_strings(sr, sr, rng, notes=4) for _ in range(6)])
device = Compressor4C(sr=sr)
hiss = 1e-3  # 60 dB below full scale
wet = device.process(dry, device.normalised(list(secret.values()))) + hiss * rng.standard_normal(len(dry))
train, test = slice(0, 4 * sr), slice(4 * sr, 6 * sr)


class Player:
    """A sound that a page plays."""

    def __init__(self, sound: np.ndarray) -> None:
        file = io.BytesIO()
        wavfile.write(file, sr, (32767 * np.clip(sound, -1, 1)).astype(np.int16))
        self.data = base64.b64encode(file.getvalue()).decode("ascii")

    def _repr_html_(self) -> str:
        return f'<audio controls src="data:audio/wav;base64,{self.data}"></audio>'


# %%
# Before the compressor:

Player(dry[test])

# %%
# And after it. Loud beginnings are held down, so that what rings on is nearer to them:

Player(wet[test])

# %%
# Learn the settings
# ------------------
# The model gets chunks of half a second and returns the last three quarters of each, since the compressor's state at
# the beginning of a chunk isn't known. Adam turns its four numbers until the sound is right.

chunk, kept = sr // 2, 3 * sr // 8
torch.manual_seed(0)
model = GreyBoxCompressor(sr, chunk=chunk, shrink=1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
steps = 150
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
x, y = (torch.as_tensor(sound[train], dtype=torch.float32) for sound in (dry, wet))
none = torch.zeros(8, 0)  # no knobs
history = {name: [] for name in secret}
began = time.perf_counter()
for _ in range(steps):
    at = torch.randint(len(x) - chunk, (8,))
    rows = at[:, None] + torch.arange(chunk)
    loss = (model(x[rows], none) - y[rows])[:, -kept:].abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    for name, value in model.settings(none[:1]).items():
        history[name].append(value.item())
print(f"trained in {time.perf_counter() - began:.0f} s")

# %%
# Is it right?
# ------------
# The settings are known here, and the sound of the last two seconds wasn't trained on. The least that a model must do
# is to beat the best constant gain, that is: turning down the volume. The best that it can do is to leave the hiss.

for name, true in secret.items():
    print(f"{name:10} found {history[name][-1]:8.4f}, true {true:8.4f}")

whole = GreyBoxCompressor(sr, chunk=2 * sr, shrink=1)
whole.load_state_dict(model.state_dict())
with torch.no_grad():
    modelled = whole(torch.as_tensor(dry[None, test], dtype=torch.float32), none[:1])[0].numpy()
target = wet[test]
late = slice(sr // 8, None)  # from where on the state at the beginning is forgotten
gain = (dry[test] @ target) / (dry[test] @ dry[test])
errors = {
    "as it was": np.abs(dry[test] - target)[late].mean(),
    "best constant gain": np.abs(gain * dry[test] - target)[late].mean(),
    "only the hiss": hiss * np.sqrt(2 / np.pi),
    "model": np.abs(modelled - target)[late].mean(),
}
for name, error in errors.items():
    print(f"{name:20} mean absolute error {error:.6f}")

figure, axes = plt.subplots(2, 1, figsize=(7, 6), layout="constrained")
for (name, values), colour in zip(history.items(), ("C0", "C1", "C2", "C3"), strict=True):
    axes[0].plot(np.array(values) / secret[name], color=colour, label=name)
axes[0].axhline(1, color="gray", linestyle=":")
axes[0].set(xlabel="step of training", ylabel="found / true", title="Settings of a compressor, found from its sound")
axes[0].legend(ncols=2)
t = np.arange(2 * sr) / sr


def level(sound: np.ndarray) -> np.ndarray:
    """Return the level in decibels, over 10 ms."""
    return 10 * np.log10(np.convolve(sound**2, np.ones(sr // 100) * 100 / sr, "same") + 1e-10)


axes[1].plot(t, level(dry[test]), "0.6", label="before")
axes[1].plot(t, level(target), "C1", linewidth=3, alpha=0.6, label="after the compressor")
axes[1].plot(t, level(modelled), "C0--", label="after the model")
axes[1].set(xlabel="time (s)", ylabel="level (dB of full scale)", ylim=(-45, 0))
axes[1].legend()

# %%
# After the model:

Player(modelled)

# %%
# What it costs, and when not to use it
# -------------------------------------
# Some seconds of training; a second of sound then takes milliseconds.
#
# * It knows one family of devices. For an effect without a known structure take a network that learns any,
#   :class:`~paperworks.audio.SignalTrain` or :class:`~paperworks.audio.MicroTCN`, and hours of training.
# * Where no sound exceeds the threshold nothing can be learnt of it: record loud and soft passages.
# * The recordings have to be aligned to the sample. Find the shift by their cross-correlation first.

assert errors["model"] < errors["best constant gain"] / 10
assert errors["model"] < 1.2 * errors["only the hiss"]
for name, tolerance in (("threshold", 0.05), ("ratio", 0.1), ("attack", 0.15), ("release", 0.15)):
    assert abs(history[name][-1] / secret[name] - 1) < tolerance, name
