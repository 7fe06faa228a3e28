"""What learning rate does another batch size take? Estimate the noise, scale the rate, or let it be learnt."""

import torch
from torch.nn.functional import cross_entropy

from paperworks.numerics import mlp, seeded
from paperworks.testbeds import digits
from paperworks.training import LanczosLRScheduler, estimate_hessian_noise, max_learning_rate, scale_learning_rate

with seeded(0):
    model, order = mlp([64, 20, 10], torch.nn.Tanh), torch.randperm(1797)
x, y = digits()[order].flatten(1), digits().labels[order]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = LanczosLRScheduler(optimizer, model, cross_entropy)  # sets rate and momentum

for step, rows in enumerate(torch.arange(1797).split(64)):
    optimizer.zero_grad()
    loss = cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    if record := scheduler.step((x[rows], y[rows])):
        print(f"step {step}: loss {loss:.2f}, lr {record.lr:.3f}, momentum {record.momentum:.2f}")
    optimizer.step()

noise = estimate_hessian_noise(model, cross_entropy, (x, y), repeats=4)
print(f"largest eigenvalue {noise.lam:.2f}; rates grow with batches up to about {noise.critical_batch_size:.0f}")
for size in (32, 256):
    lr = scale_learning_rate(0.1, 64, size, lam=noise.lam, s2=noise.s2, n_data=1797)
    print(
        f"batch {size}: lr 0.1 becomes {lr:.3f}, stable up to {max_learning_rate(noise.lam, noise.s2, size, 1797):.2f}"
    )
