"""Prove for which images no change of any pixel by 0.02 can change what a small network says."""

import torch
from torch import nn

from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm, margin_spec, verify_robustness
from paperworks.testbeds import digits

torch.manual_seed(0)
images, labels = (digits()[:] + 1) / 2, digits().labels
network = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images[:1500]), labels[:1500]).backward()
    optimizer.step()

x, y = images[1500:], labels[1500:]
bounded = BoundedModule(network, x)
ball = BoundedTensor(x, PerturbationLpNorm(eps=0.02))
for method in ("IBP", "CROWN-IBP", "CROWN"):
    margins, _ = bounded.compute_bounds(ball, method, C=margin_spec(y, 10), bound_upper=False)
    print(f"{method}: {(margins > 0).all(1).sum()} of {len(x)} images certified")

verdicts = verify_robustness(network, x[:20], y[:20], eps=0.05, timeout=5)  # branch and bound decides the others
print([verdict.answer for verdict in verdicts])
