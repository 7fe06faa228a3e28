"""Is this learning rate stable for this network? The exact threshold, cheap certificates, and a monitor of training."""

import torch

from paperworks.numerics import mlp, seeded
from paperworks.training import StabilityMonitor, output_gradients, path_norm, stability_certificate


def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(1).mean() / 2


with seeded(0):
    model, x = mlp([4, 20, 1]), torch.randn(12, 4)
y = x[:, :1].relu()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
monitor = StabilityMonitor(optimizer, model, loss_fn, every=250)

for step in range(500):
    k = step * 7 % 12  # single samples in turn
    optimizer.zero_grad()
    loss_fn(model(x[k : k + 1]), y[k : k + 1]).backward()
    optimizer.step()
    if record := monitor.step((x, y)):
        print(f"step {record.step}: loss {record.train_loss:.1e}, lr Tr / 2 = {record.trace_ratio:.2f}")

report = stability_certificate(output_gradients(model, loss_fn, (x, y)), lr=0.05, train_loss=record.train_loss)
print(f"lr 0.05 is {report.verdict}: stable up to {report.lr_max_exact:.3f}, where gradient descent is up to "
      f"{report.lr_max_lambda:.3f}; path norm {path_norm(model):.1f}.")  # fmt: skip
