"""
Find out why your network generalises late, or never
====================================================

Your network fits its training data after some dozens of steps. Its test accuracy stays at chance for thousands of
steps more, and sometimes for ever. This is called *grokking*. The usual advice is weight decay and patience.

This tutorial looks at what happens in between, finds that training goes on making logits larger and changes no
prediction, and takes the cause away by one line: :class:`~paperworks.training.OrthoGrad` round the optimiser.
"""

import time

import matplotlib.pyplot as plt
import torch
from torch.optim import AdamW

from paperworks.numerics import mlp, seeded
from paperworks.training import ModularArithmetic, NumericalStabilityMonitor, OrthoGrad, collapse_margin

# %%
# A task with the symptom
# -----------------------
# Given two numbers below 59, name their sum modulo 59. Half of the pairs are for training. There is a rule to find,
# and the table can be learnt by heart too: that is what makes generalisation late.

task = ModularArithmetic("+", p=59, train_fraction=0.5)
(x, y), (x_test, y_test) = task.train, task.test
print(f"{len(y)} pairs to train on, {len(y_test)} to test on; chance is {1 / 59:.1%}")

# %%
# Watch the training
# ------------------
# :class:`~paperworks.training.NumericalStabilityMonitor` takes logits and targets between ``backward`` and ``step``
# and looks at what goes wrong in floating point. It asks nothing of the model or the loop.
#
# The three runs begin with the same weights and see the same data.


def train(wrap=lambda optimizer: optimizer, weight_decay=0.0, steps=400):
    """Return the monitor and the test accuracy at each of its records."""
    with seeded(0):
        model = mlp([2 * 59, 200, 200, 59])
    optimizer = wrap(AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-25, weight_decay=weight_decay))
    monitor, accuracy = NumericalStabilityMonitor(model, every=10), []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(x)
        torch.nn.functional.cross_entropy(logits, y).backward()
        if monitor.update(logits, y):
            with torch.no_grad():
                accuracy.append(float((model(x_test).argmax(1) == y_test).float().mean()))
        optimizer.step()
    return monitor, accuracy


runs, seconds = {}, {}
for name, options in {
    "AdamW": {},
    "AdamW with weight decay 1": {"weight_decay": 1.0},
    "OrthoGrad of AdamW": {"wrap": OrthoGrad},
}.items():
    began = time.process_time()
    runs[name] = train(**options)
    seconds[name] = time.process_time() - began

# %%
# Read the report
# ---------------
# The verdict is a sentence; the records behind it are numbers. *Alignment* is the cosine between the step of gradient
# descent and the weights themselves: at 1 a step makes weights longer and nothing else, so that logits grow and no
# prediction changes. *Collapse* is the share of samples whose softmax is rounded to exactly 1: they have no gradient.

for name, (monitor, accuracy) in runs.items():
    report = monitor.report()
    last = report.records[-1]
    print(f"{name}: test accuracy {accuracy[-1]:.1%}")
    print(f"    fitted at step {report.fitted_at}, margin {last.margin:.1f}, alignment {last.alignment:.2f}")
    print(f"    {report.verdict}")
print(f"in float32 a sample's gradient vanishes at a margin of {collapse_margin(torch.float32):.1f}")

figure, axes = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
for (name, (monitor, accuracy)), style in zip(runs.items(), ("C1-", "C2--", "C0-"), strict=True):
    steps = [record.step for record in monitor.history]
    axes[0].plot(steps, accuracy, style, label=name)
    axes[1].plot(steps, [record.alignment for record in monitor.history], style, label=name)
axes[0].set(
    ylabel="test accuracy", ylim=(-0.03, 1.03), title="Test accuracy, and how far gradients point along weights"
)
axes[0].legend()
axes[1].set(xlabel="step of training", ylabel="cosine of descent and weights")

# %%
# Take the cause away
# -------------------
# Past the point where all is fitted, the gradient of plain AdamW turns along the weights. ``OrthoGrad(AdamW(...))``
# removes that part of each gradient, so what remains has to change predictions. It keeps the groups, the state and the
# schedulers of the wrapped optimiser. The monitor reads gradients before they are projected, so its curve shows what
# is taken away. Weight decay holds the weights down instead: it works too, more slowly here, and its strength is one
# more number to tune. The curves above show what it makes of the same weights and data; here is when each run first
# had nine test pairs in ten right.

for name, (monitor, accuracy) in runs.items():
    reached = next((r.step for r, a in zip(monitor.history, accuracy, strict=True) if a >= 0.9), None)
    print(f"{name:26}: step {reached or 'never'}, {seconds[name]:.0f} s of the processor for {monitor.steps} steps")

# %%
# What it costs, and when not to use it
# -------------------------------------
# A step of OrthoGrad costs one more pass over the parameters; its time is above. The monitor costs less than a step
# each time that it looks.
#
# * Where test accuracy rises along with training accuracy there is no such delay, and nothing to gain.
# * The report is the first thing to ask for. If it finds neither collapse nor alignment, the cause is another one: too
#   few data, a learning rate too high, a task without a rule.
# * Where the loss itself collapses in low precision, :class:`~paperworks.training.StableMaxCrossEntropyLoss` is the
#   other remedy: a head whose gradient doesn't vanish.

final = {name: accuracy[-1] for name, (_, accuracy) in runs.items()}
assert final["AdamW"] < 0.1
assert final["OrthoGrad of AdamW"] > 0.9
assert runs["AdamW"][0].history[-1].accuracy == 1.0
assert runs["AdamW"][0].history[-1].alignment > runs["OrthoGrad of AdamW"][0].history[-1].alignment
