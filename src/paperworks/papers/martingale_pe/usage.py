"""What is a policy worth, by paths on a fine grid? Three estimators, a test of the answer, and the price of a call."""

import numpy as np

from paperworks.dynamics import CLSTD, CTD, LinearValue, MartingaleLoss, mesh_study, orthogonality_residual
from paperworks.testbeds import CallOption, OUQuadratic

problem = OUQuadratic()  # dX = -X dt + dW / 2, reward -x^2 a unit of time, -2 x^2 at the end
paths, others = problem.sample(2000, 100, random_state=0), problem.sample(2000, 100, random_state=1)
family = LinearValue(problem.features, problem.offset, vanishes_at=1.0)

print(f"true value at (0, 0.5): {problem.value(0.0, 0.5):.3f}")
for name, estimator in (
    ("least squares TD", CLSTD(family)),
    ("martingale loss", MartingaleLoss(family)),
    ("online TD", CTD(family, lam=0.1, lr=3.0)),
):
    estimator.fit(paths)
    test = orthogonality_residual(estimator.value_, others)
    print(f"{name}: {estimator.predict(0.0, 0.5):.3f}, orthogonality p = {test.p_value:.2f}")

study = mesh_study(CLSTD(family), paths)
print(f"steps {study.dt.tolist()}: first parameter {study.theta[:, 0].round(3)}, at 0 {study.extrapolated[0]:.3f}")

call = CallOption()
hinges = LinearValue(
    lambda t, x: np.stack([(1 - t) * np.maximum(x - k, 0) for k in (0.0, 0.8, 0.9, 1.0, 1.1, 1.2)], axis=-1),
    offset=lambda t, x: np.maximum(x - 1, 0),
)
price = CLSTD(hinges).fit(call.sample(10_000, 50, random_state=0)).predict(0.0, 1.0)
print(f"call: {price:.4f}, Black and Scholes {call.value(0.0, 1.0):.4f}")
