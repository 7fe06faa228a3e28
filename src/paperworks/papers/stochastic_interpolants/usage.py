"""Learn a velocity and a score once, and sample with an ODE and with SDEs."""

import torch

from paperworks.diffusion import Fields, Interpolant, ODESampler, SDESampler, score_loss, velocity_loss

rng = torch.Generator().manual_seed(0)
torch.manual_seed(0)
interpolant = Interpolant("linear", gamma="brownian")
net = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)
)
both = lambda x, t: net(torch.cat([x, t[:, None]], dim=1)).split(1, dim=1)  # noqa: E731 - the velocity and the score
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(400):
    x0, x1 = torch.randn(2, 256, 1, generator=rng)
    x1 = 0.5 * x1 + 2 * torch.sign(x1)  # two modes
    loss = sum(
        f(interpolant, lambda x, t, k=k: both(x, t)[k], x0, x1, rng) for k, f in enumerate((velocity_loss, score_loss))
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

fields, x0 = Fields(interpolant, joint=(("b", "s"), both)), torch.randn(4000, 1, generator=rng)
with torch.no_grad():
    for name, sampler in {"ODE": ODESampler(fields), "SDE": SDESampler(fields, eps=0.5)}.items():
        x = sampler.sample(x0, 50, **({"generator": rng} if name == "SDE" else {})).sample
        print(f"{name}: mean of |x| {x.abs().mean():.2f} (2.40 in the data), {(x > 0).float().mean():.0%} right of 0")
