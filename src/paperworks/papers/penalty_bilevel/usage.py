"""Find mislabelled digits: weight the training examples so that a model of them fits a clean validation set."""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from paperworks.optimization import PenaltyBilevelOptimizer

torch.manual_seed(0)
X, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
X, labels, wrong = X.float() / 16, y[:800].clone(), torch.rand(800) < 0.3
labels[wrong] = torch.randint(10, (int(wrong.sum()),))

weights, model = torch.nn.Parameter(torch.zeros(800)), torch.nn.Linear(64, 10)
optimizer = PenaltyBilevelOptimizer(
    [weights], model, lr=0.1, lower_lr=1.0, sigma=0.1, inner_steps=3, upper_opt=torch.optim.Adam,
    upper_loss=lambda model, _: cross_entropy(model(X[800:1200]), y[800:1200]),
    lower_loss=lambda model, _: (weights.sigmoid() * cross_entropy(model(X[:800]), labels, reduction="none")).mean(),
)  # fmt: skip
for _ in range(150):
    loss = optimizer.step()
right = labels == y[:800]
accuracy = (model(X[1200:]).argmax(1) == y[1200:]).float().mean()
found = weights.sigmoid().detach()
print(f"Test accuracy {accuracy:.3f}.")
print(f"Mean weight of right labels {found[right].mean():.2f}, of wrong ones {found[~right].mean():.2f}.")
