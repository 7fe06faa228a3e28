"""Fit digits with few gradients of the loss: twenty cheap steps of the network for each."""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from paperworks.optimization import SSO, target_lipschitz

torch.manual_seed(0)
X, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
X, model = X.float() / 16, torch.nn.Linear(64, 10)

optimizer = SSO(model.parameters(), eta=1 / target_lipschitz("cross_entropy"), inner_steps=20)
for _ in range(10):
    loss = optimizer.step(lambda: model(X), lambda logits: cross_entropy(logits, y))  # the loss is the costly oracle
accuracy = (model(X).argmax(1) == y).float().mean()
print(f"Loss {loss:.3f} and accuracy {accuracy:.3f} after {optimizer.n_oracle_calls} calls of the oracle.")
