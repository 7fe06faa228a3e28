"""
Prove that small changes can't fool your classifier
===================================================

You have a network that reads handwritten digits. An attack that fails proves nothing: the next one may succeed. You
want to know for which images *no* change of any pixel up to a given size changes the answer, and to see the changed
image where one does.

This tutorial trains a small network, bounds its outputs over all changes at once, lets branch and bound decide what
the bounds leave open, and checks the proofs with an attack of another kind. At the end the question is written as a
file that other verifiers read.
"""

import tempfile
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from paperworks.robustness import (
    APGD,
    BoundedModule,
    BoundedTensor,
    CrossEntropyLoss,
    PerturbationLpNorm,
    margin_spec,
    read_vnnlib,
    robustness_property,
    verify,
    verify_robustness,
    write_vnnlib,
)
from paperworks.testbeds import digits

# %%
# A network to ask about
# ----------------------
# Pixels are scaled to [0, 1]. The last 297 of the digits are kept for testing.

torch.manual_seed(0)
images, labels = (digits()[:] + 1) / 2, digits().labels
network = nn.Sequential(
    nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10)
)
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(150):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images[:1500]), labels[:1500]).backward()
    optimizer.step()

x, y = images[1500:], labels[1500:]
right = network(x).argmax(1) == y
print(f"{right.float().mean():.1%} of {len(x)} test images are classified right")

# %%
# Bound the margins
# -----------------
# The margin of an image is the logit of its class less that of another class. Where a lower bound of all nine margins
# over all allowed changes is positive, the answer is proved. :class:`~paperworks.robustness.BoundedModule` wraps the
# network; ``"IBP"`` bounds are cheap and loose, ``"CROWN"`` ones tighter. Both are sound: what they certify holds.

bounded = BoundedModule(network, x)
radii = np.linspace(0.005, 0.12, 12)
certified = {"IBP": [], "CROWN": []}
for method, shares in certified.items():
    for eps in radii:
        allowed = PerturbationLpNorm(eps=float(eps), x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1))
        ball = BoundedTensor(x, allowed)
        margins, _ = bounded.compute_bounds(ball, method, C=margin_spec(y, 10), bound_upper=False)
        shares.append(float((margins > 0).all(1).float().mean()))

# %%
# An attack bounds the same share from the other side: an image that it changes successfully can't be certified by
# anybody. Here it is :class:`~paperworks.robustness.APGD`, which climbs the loss with steps that adapt themselves.

survived = []
for eps in radii:
    attacked = APGD(CrossEntropyLoss(), eps=float(eps), steps=20, bounds=(0, 1))(network, x)
    survived.append(float((network(attacked.adv).argmax(1) == y).float().mean()))

for k in (1, 5, 9):
    print(
        f"change {radii[k]:.3f}: proved by IBP {certified['IBP'][k]:.1%}, by CROWN {certified['CROWN'][k]:.1%}; "
        f"not broken by the attack {survived[k]:.1%}"
    )

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.fill_between(radii, certified["CROWN"], survived, alpha=0.2, color="C2", label="open: neither proved nor broken")
axis.plot(radii, survived, "C1s-", label="not broken by APGD")
axis.plot(radii, certified["CROWN"], "C0o-", label="proved by CROWN")
axis.plot(radii, certified["IBP"], "C0^--", label="proved by IBP")
axis.set(xlabel="greatest change of a pixel (white is 1)", ylabel="share of the test images", ylim=(0, 1))
axis.set_title("Test images whose class no change can move")
axis.legend()

# %%
# Decide what is open
# -------------------
# In between neither side knows. :func:`~paperworks.robustness.verify_robustness` goes on to tighter bounds and to
# branch and bound, which splits the question until each part is decided or the time is up. Here for 30 images at one
# radius.

eps = 0.08
began = time.perf_counter()
verdicts = verify_robustness(network, x[:30], y[:30], eps=eps, timeout=20)
print(f"30 images took {time.perf_counter() - began:.1f} s")
for (answer, stage), count in sorted(Counter((v.answer, v.stage) for v in verdicts).items()):
    print(f"{count:3d} {answer}, decided by: {stage}")

# %%
# A violated property comes with the image that violates it: within the allowed change, and read as another digit.

broken = [i for i, verdict in enumerate(verdicts) if verdict.answer == "violated" and right[i]][:4]
figure, axes = plt.subplots(2, len(broken), figsize=(7, 3.8), layout="constrained", squeeze=False)
for i, (above, below) in zip(broken, axes.T, strict=True):
    changed = verdicts[i].counterexample.reshape(1, 1, 8, 8).float()
    for axis, picture in ((above, x[i : i + 1]), (below, changed)):
        axis.imshow(picture[0, 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"read as {network(picture).argmax().item()}", fontsize=10)
        axis.axis("off")
figure.suptitle(f"Test images (above) and changes of at most {eps} that the network falls for (below)")

# %%
# Check the proofs
# ----------------
# No attack may succeed on an image that is proved. We try with ten restarts of a hundred steps, and compare: a single
# success would show that the bounds are wrong.

proved = torch.tensor([verdict.answer == "holds" for verdict in verdicts])
hard = APGD(CrossEntropyLoss(), eps=eps, steps=100, restarts=10, bounds=(0, 1))(network, x[:30][proved])
fooled = int((network(hard.adv).argmax(1) != y[:30][proved]).sum())
print(f"{fooled} of {int(proved.sum())} proved images are broken by a stronger attack")

# %%
# Ask another verifier
# --------------------
# The property of one image as a VNN-LIB file, the language of the verification competition. Together with the network
# in ONNX (``torch.onnx.export``; :func:`~paperworks.robustness.load_onnx` reads it back) any of its verifiers can be
# asked the same, and files of others are decided here.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "digit.vnnlib")
    write_vnnlib(path, robustness_property(x[0], eps, int(y[0]), 10, clip=(0, 1)))
    print(*path.read_text().splitlines()[-11:-8], "...", sep="\n")
    again = verify(network, read_vnnlib(path), input_shape=(1, 8, 8), timeout=20)
print(f"read from the file: {again.answer}; before: {verdicts[0].answer}")

# %%
# What it costs, and when not to use it
# -------------------------------------
# CROWN costs some dozens of passes through the network for a batch, branch and bound up to its time limit for each
# image.
#
# * A network that was trained for accuracy alone is seldom provable at changes that an eye would notice. Train it on
#   the bounds (:func:`~paperworks.robustness.robust_cross_entropy`), or take a smoothed classifier
#   (:class:`~paperworks.robustness.Smooth`), whose proofs scale to large networks but hold with a probability.
# * Bounds loosen with depth. For a ResNet of ImageNet they say nothing.
# * The proof is about changes of pixels within a box: not about rotations, other handwriting or other cameras.

decided = [verdict for verdict in verdicts if verdict.decided]
assert fooled == 0
assert len(decided) >= 25
assert all(c <= s for c, s in zip(certified["CROWN"], survived, strict=True)), "a proved image was broken"
assert np.mean(certified["CROWN"]) > np.mean(certified["IBP"])
assert again.answer == verdicts[0].answer
assert len(broken) >= 1
