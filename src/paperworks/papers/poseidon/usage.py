"""Train on all pairs of a few trajectories, then ask for times between the snapshots."""

import math

import torch

from paperworks.operators import All2AllDataset, GroupedRelativeLoss, ScOT, ScOTConfig, relative_lp_error, rollout

angles = torch.arange(16) * 2 * math.pi / 16
times = torch.linspace(0, 1, 5)


def waves(phases: torch.Tensor, times: torch.Tensor) -> torch.Tensor:  # that travel along the diagonal and decay
    inside = angles[:, None] + angles + phases[:, None, None, None] - times[:, None, None]
    return (torch.exp(-times)[:, None, None] * torch.sin(inside))[:, :, None]


torch.manual_seed(0)
network = ScOT(ScOTConfig(16, 2, 1, 1, 12, (2, 2), (2, 4), (1, 0), 4, learn_residual=True))
data = All2AllDataset(waves(2 * math.pi * torch.rand(8), times), times)
print(f"{len(data)} pairs of {8 * len(times)} snapshots")
loss, optimizer = GroupedRelativeLoss(), torch.optim.AdamW(network.parameters(), 1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
for _ in range(40):
    x, lead_time, y = data.draw(16)
    optimizer.zero_grad()
    loss(network(x, lead_time), y).backward()
    optimizer.step()
    schedule.step()
phases = 2 * math.pi * torch.rand(8)
between = torch.tensor([0.3, 0.6, 0.9])
truth = waves(phases, between)
with torch.no_grad():
    start = waves(phases, torch.zeros(1))[:, 0]
    found = rollout(network.eval(), start, between)
for t, a, b in zip(between, found.unbind(1), truth.unbind(1), strict=True):
    still = relative_lp_error(start, b)
    print(f"t = {t:.1f}: error {relative_lp_error(a, b):.0f} %, {still:.0f} % if nothing changed")
