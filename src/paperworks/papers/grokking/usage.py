"""Why does training stall at zero loss? Watch gradients turn along the weights, and train with ⊥Grad instead."""

from collections.abc import Callable

import torch
from torch.optim import AdamW, Optimizer

from paperworks.numerics import mlp, seeded
from paperworks.training import ModularArithmetic, NumericalStabilityMonitor, OrthoGrad

task = ModularArithmetic("+", p=23, train_fraction=0.6)
(x, y), (x_test, y_test) = task.train, task.test


def train(wrap: Callable[[Optimizer], Optimizer]) -> None:
    with seeded(0):
        model = mlp([46, 100, 100, 23])
    optimizer = wrap(AdamW(model.parameters(), lr=1e-2, eps=1e-25, weight_decay=0))
    monitor = NumericalStabilityMonitor(model, every=20)
    for _ in range(300):
        optimizer.zero_grad()
        logits = model(x)
        torch.nn.functional.cross_entropy(logits, y).backward()
        monitor.update(logits, y)
        optimizer.step()
    accuracy = (model(x_test).argmax(1) == y_test).float().mean()
    print(f"test accuracy {accuracy:.2f}: {monitor.report().verdict}")


train(lambda optimizer: optimizer)
train(OrthoGrad)
