"""A state-space layer that is as close to S4 as S4D isn't: how close, in a network, and step by step."""

import torch

from paperworks.dynamics import S4D, S4PTD, dplr_legs, hippo_legs, operator_gap, perturb_then_diagonalize

n = 16
A, B = hippo_legs(n)
unit = B / B.norm()
found = perturb_then_diagonalize(A)
print(f"condition {found.cond:.1f} by a perturbation of {found.rel_norm:.1%}")

V = found.V
perturbed = found.eigenvalues, torch.linalg.solve(V, unit.to(V.dtype)), unit.to(V.dtype) @ V
parts = dplr_legs(n)
dropped = parts.eigenvalues, parts.V.mH @ unit.to(parts.V.dtype) / 2, unit.to(parts.V.dtype) @ parts.V
for name, system in (("S4-PTD", perturbed), ("S4D", dropped)):
    gap, frequency = operator_gap((A, unit, unit), system)
    print(f"{name}: at most {gap:.4f} from S4, at frequency {abs(frequency):.1f}")

torch.manual_seed(0)
layer = S4PTD(d_model=8, d_state=n)  # (batch, features, time); a drop-in for S4D(8, n)
x = torch.randn(2, 8, 1000)
y = layer(x)
sizes = [sum(p.numel() for p in module.parameters()) for module in (S4D(8, n), layer)]
print(f"S4D has {sizes[0]} parameters, S4-PTD {sizes[1]}")

layer.setup_step()
state = layer.init_state(batch_size=2)
for k in range(x.shape[-1]):  # the same, as a stream
    last, state = layer.step(x[:, :, k], state)
print(f"stream and convolution differ by {(last - y[:, :, -1]).abs().max():.0e}")
