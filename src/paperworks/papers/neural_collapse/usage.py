"""How collapsed the layers of a network are, in one pass over the data, and what more weight decay would do to them."""

import torch
from torch import nn

from paperworks.training import VicinityUFM, layer_metrics, nc_metrics, near_collapse_spectrum

generator = torch.Generator().manual_seed(0)
labels = torch.arange(600) % 6
x = torch.eye(32)[labels] + 0.3 * torch.randn(600, 32, generator=generator)
network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 6, bias=False))
optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-3)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.mse_loss(network(x), torch.eye(6)[labels]).backward()
    optimizer.step()

for name, metrics in layer_metrics(network, zip(x.split(100), labels.split(100), strict=True), 6).items():
    print(f"Layer {name}: {metrics}")

features = network[:2](x).detach()  # tie free features to these, with more and more of their penalty
for lam_H in (0.001, 0.01, 0.1):
    model = VicinityUFM(lam_W=0.1, lam_H=lam_H, beta=1.0).fit(features.double().numpy().T, labels.numpy())
    after = nc_metrics(model.H_.T, labels.numpy(), model.W_)
    shrink = near_collapse_spectrum(6, 100, 64, 0.1, lam_H, 1.0).attenuation[:2].min()
    print(f"lam_H {lam_H}: {after}; near collapse deviations shrink to {shrink:.2f}")
