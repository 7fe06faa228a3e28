"""Which range should random hidden weights have? Advice, a fit, and what no fit from a narrower band can do."""

import numpy as np

from paperworks.solvers import BandlimitedRandomFeaturesRegressor, minimal_budget, recommend_scale, spectral_lower_bound

x = np.linspace(-1, 1, 500)[:, None]
y = np.sin(20 * x[:, 0])
advice = recommend_scale(x, y)
print(f"the target's band ends near {advice.band:.0f}; advised range {advice.scale:.1f}, error {advice.error:.0e}")

between = np.linspace(-1, 1, 2001)[:, None]
for scale in (0.5, advice.scale, 500.0):
    model = BandlimitedRandomFeaturesRegressor(300, scale=scale, random_state=0).fit(x, y)
    error = np.abs(model.predict(between) - np.sin(20 * between[:, 0])).max()
    print(
        f"300 units with weights up to {scale:5.1f}: error {error:.0e}, coefficients {np.linalg.norm(model.coef_):.0e}"
    )


def packet(w: np.ndarray) -> np.ndarray:  # the transform of exp(-x²/2) cos 12x
    return np.sqrt(np.pi / 2) * (np.exp(-((w - 12) ** 2) / 2) + np.exp(-((w + 12) ** 2) / 2))


bound = spectral_lower_bound(packet, lam=4.0, budget=10.0, activation="gauss")
print(f"a wave packet, weights up to 4, coefficients up to 10: no error below {bound.relative:.0%} of its norm")
print(f"for one of 10 %, coefficients of {minimal_budget(packet, 4.0, 0.1 * 0.941, 'gauss'):.0f} are needed at least")
