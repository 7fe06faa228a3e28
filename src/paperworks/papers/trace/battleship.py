"""Battleship on 8 x 8 boards, many at once: 17 cells of ships, 40 shots, and what a policy may know of a cell."""

import numpy as np
from jaxtyping import Bool, Float

SHIPS, SIDE, SHOTS = (5, 4, 3, 3, 2), 8, 40
Cells = Float[np.ndarray, "boards 8 8"]


def random_boards(count: int, rng: np.random.Generator) -> Bool[np.ndarray, "boards 8 8"]:
    """Place the ships at random on each board, without overlap."""
    boards = np.zeros((count, SIDE, SIDE), dtype=bool)
    for board in boards:
        for length in SHIPS:
            while True:
                row, column = rng.integers(SIDE), rng.integers(SIDE - length + 1)
                place = (row, slice(column, column + length))
                view = board.T if rng.random() < 0.5 else board
                if not view[place].any():
                    view[place] = True
                    break
    return boards


def _shifted(cells: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the value of the neighbour in one direction, from cells with two more on each side."""
    return cells[:, 2 + rows : 2 + rows + SIDE, 2 + columns : 2 + columns + SIDE]


COLOUR = (np.indices((1, SIDE, SIDE)).sum(axis=0) % 2).astype(float)
DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def features(hits: Cells, unknown: Cells) -> tuple[Cells, Cells, Cells, Float[np.ndarray, "1 8 8"]]:
    """Return for each cell: hits beside it, pairs of hits in line with it, unknown neighbours, and its colour."""
    margin = np.zeros((2, len(hits), SIDE + 4, SIDE + 4))
    margin[:, :, 2:-2, 2:-2] = hits, unknown
    hits, unknown = margin
    beside = sum(_shifted(hits, r, c) for r, c in DIRECTIONS)
    in_line = sum(_shifted(hits, r, c) * _shifted(hits, 2 * r, 2 * c) for r, c in DIRECTIONS)
    free = sum(_shifted(unknown, r, c) for r, c in DIRECTIONS)
    return np.asarray(beside), np.asarray(in_line), np.asarray(free), COLOUR


class Game:
    """Games on many boards that go on together; a shot hits the unknown cell of greatest weight on each.

    Parameters
    ----------
    boards
        Where ships are.
    rng
        Draws the order of cells of equal weight, once for all shots.
    """

    def __init__(self, boards: Bool[np.ndarray, "boards 8 8"], rng: np.random.Generator) -> None:
        self.boards = boards
        self.hits, self.unknown = np.zeros(boards.shape), np.ones(boards.shape)
        self.order = 1e-9 * rng.random((SHOTS, *boards.shape))

    def shoot(self, weights: np.ndarray, number: int) -> None:
        """Shoot at the heaviest unknown cell of each board."""
        weights = np.where(self.unknown > 0, np.broadcast_to(weights, self.boards.shape) + self.order[number], -np.inf)
        count = len(self.boards)
        cells = weights.reshape(count, -1).argmax(axis=1)
        index = (np.arange(count), cells // SIDE, cells % SIDE)
        self.unknown[index] = 0.0
        self.hits[index] = self.boards[index]

    def score(self) -> Float[np.ndarray, " boards"]:
        """Return the hits on each board."""
        return self.hits.sum(axis=(1, 2))
