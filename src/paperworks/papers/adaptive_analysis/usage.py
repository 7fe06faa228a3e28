"""Choose features by what a holdout confirms, ask the same holdout how good they are, and believe the answer."""

import numpy as np

from paperworks.inference import ReusableHoldoutSelector, sign_vote

rng = np.random.default_rng(0)
X, y = rng.normal(size=(4000, 2000)), rng.choice([-1, 1], 4000)  # labels that nothing can predict
X_new, y_new = rng.normal(size=(2000, 2000)), rng.choice([-1, 1], 2000)

selector = ReusableHoldoutSelector(k=200, random_state=0).fit(X, y)
right = sign_vote(selector.weights_, X) == y
held_out = np.isin(np.arange(len(X)), selector.holdout_)
reusable = selector.reusable_holdout_.query_values(right[None, ~held_out], right[None, held_out])[0]
print(f"accuracy of {selector.get_support().sum()} features on the training data: {right[~held_out].mean():.3f}")
print(f"on the reusable holdout that helped to choose them: {reusable:.3f}")
print(f"on fresh data: {np.mean(sign_vote(selector.weights_, X_new) == y_new):.3f}")
