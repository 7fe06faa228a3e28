"""A zero-sum game between a burglar and a policeman: strategies that neither can improve, from few rows and columns."""

import numpy as np

from paperworks.optimization import BilinearGame, game_gap, halpern_vr

houses = np.arange(1500)
wealth = np.abs(np.random.default_rng(0).normal(size=1500))
loot = wealth[:, None] * (1 - np.exp(-0.8 * np.abs(houses[:, None] - houses)))  # the burglar picks a row
game = BilinearGame(loot / np.linalg.norm(loot, 2))

start = np.full(game.size, 1 / 1500)
found = halpern_vr(game, start, atol=1e-2, max_passes=500, random_state=0)
policeman, burglar = game.split(found.x)
print(f"{found.message} Residual {found.residual:.2g} after {found.npasses:.0f} passes over the matrix.")
print(
    f"Expected loot {burglar @ loot @ policeman:.3f}; best answers would gain {game_gap(loot, policeman, burglar):.3f}."
)
