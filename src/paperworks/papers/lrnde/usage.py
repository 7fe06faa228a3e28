"""A neural ODE that learns to tell an inner disc from its ring, with and without the penalty of a local step."""

from typing import Literal

import torch
from torch import Tensor, nn

from paperworks.dynamics import NeuralODE


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)).double()

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return self.net(torch.cat([u, t.expand(len(u), 1)], 1))


x = torch.randn(128, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
inner = (x.norm(dim=1, keepdim=True) < 1.2).double()
x = torch.cat([x, torch.zeros(128, 1)], 1)  # room to lift the disc out of the ring
samplings: tuple[None, Literal["unbiased"]] = (None, "unbiased")
for regularize in samplings:
    torch.manual_seed(0)
    layer = NeuralODE(Field(), atol=1e-5, rtol=1e-5, regularize=regularize, detach_slope=False)
    optimizer = torch.optim.Adam(layer.parameters(), 0.03)
    for _ in range(80):
        u, info = layer(x)
        loss = nn.functional.binary_cross_entropy_with_logits(u[:, 2:], inner)
        optimizer.zero_grad()
        (loss + 1e6 * info.reg).backward()
        optimizer.step()
    layer.eval()
    with torch.no_grad():
        u, info = layer(x)
    right = ((u[:, 2:] > 0) == inner).double().mean()
    print(f"{regularize or 'none'}: {info.nfe} evaluations, {right:.0%} right")
