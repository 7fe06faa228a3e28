"""Train a small network on one family for a moment, then ask it for the law and the future of a noisy series."""

import torch

from paperworks.operators import (
    FAMILIES,
    PROSE,
    PROSEConfig,
    PROSETargets,
    SymbolicTokenizer,
    forecast_errors,
    generate_dataset,
    identify,
    integrate_systems,
    prose_loss,
)

torch.manual_seed(0)
data = generate_dataset(["four_wing"], n=128, random_state=0, noise=0.02, gamma=0.3, per_draw=1)
tokenizer = SymbolicTokenizer(max_dim=3)
network = PROSE(PROSEConfig(tokenizer, 48, 4, 2, 1, 1, 1, 1, 1, smooth_numbers=True))
optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
guess, mask = tokenizer.batch([tokenizer.skeleton(data.systems[0])] * 16)  # the terms are known, their numbers aren't
for _ in range(80):
    rows = torch.randint(128, (16,))
    series = torch.cat([data.times[:64].expand(16, -1)[..., None], data.observed[rows, :64]], 2)
    wanted, known = tokenizer.batch([tokenizer.encode(data.systems[i]) for i in rows], ends=True)
    output = network(series, None, guess, mask, data.times[64::4], wanted[:, :-1])
    optimizer.zero_grad()
    prose_loss(output, PROSETargets(data.observed[rows, 64::4], wanted[:, 1:], known[:, 1:])).backward()
    optimizer.step()

new = generate_dataset(["four_wing"], n=1, random_state=1, noise=0.02, gamma=0.3)
t, u = new.times.numpy(), new.observed[0].numpy()
found = identify(network, t[:64], u[:64], FAMILIES["four_wing"].system().skeleton(), t[64:])
print("true: ", new.systems[0])
print("found:", found.system)
future = integrate_systems([found.system], new.observed[:, 63], t[63:].tolist())[:, 1:]
print(f"its solution from the last measurement is off by {forecast_errors(future, new.clean[:, 64:]).relative[0]:.0%}")
