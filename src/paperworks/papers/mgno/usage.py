"""Learn the pressure of flow through two-phase ground in seconds; and solve Poisson's equation without learning."""

import torch

from paperworks.operators import FieldNormalizer, MgNO, MultigridConv, RelativeH1Loss, RelativeL2Loss
from paperworks.testbeds import darcy_piecewise

torch.manual_seed(0)
pairs = darcy_piecewise(17, 80)
train, test = pairs[:64], pairs[64:]
scale_a, scale_u = FieldNormalizer.of(train.inputs, pointwise=False), FieldNormalizer.of(train.outputs)
network = MgNO(hidden_channels=8, n_layers=3, levels=4, resolution=17)  # Dirichlet boundary: zeros beyond it
optimizer = torch.optim.Adam(network.parameters(), 1e-2)
for _ in range(24):
    chosen = torch.randint(64, (8,))
    predicted = scale_u.decode(network(scale_a.encode(train.inputs[chosen])))
    optimizer.zero_grad()
    RelativeH1Loss()(predicted, train.outputs[chosen]).backward()
    optimizer.step()
with torch.no_grad():
    error = RelativeL2Loss("mean")(scale_u.decode(network(scale_a.encode(test.inputs))), test.outputs)
print(f"relative test error {error:.3f} with {sum(p.numel() for p in network.parameters())} parameters")

cycle = MultigridConv(1, 1, 4, [(1, 1)] * 3 + [(5, 0)], residual_restriction=True, boundary_mask=True).galerkin_(1 / 16)
f = torch.nn.functional.pad(torch.ones(1, 1, 15, 15), (1, 1, 1, 1))
u = torch.zeros_like(f)
with torch.no_grad():
    for _ in range(10):
        u += cycle(f - cycle.residual[0](u))
print(f"ten cycles: u(1/2, 1/2) = {u[0, 0, 8, 8]:.5f}, exact 0.07367")
