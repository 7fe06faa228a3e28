"""Training by the residual of the fine grid alone: no labels, and states that the solver makes itself."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_number
from paperworks.numerics import silent, train, warmup_cosine
from paperworks.numerics.training import Progress
from paperworks.operators.stagger.pool import StatePool
from paperworks.operators.stagger.residuals import PhysicsResidual
from paperworks.operators.stagger.splitting import check_mask

Block = Float[Tensor, "batch times channels *grid"]
Next = Float[Tensor, "batch ahead channels *grid"]


def physics_loss(
    residual: PhysicsResidual, block: Block, predicted: Next, mask: Shaped[Tensor, "*grid"] | None = None
) -> Float[Tensor, ""]:
    r"""Return the mean squared residual of predicted states, on the fine grid.

    .. math:: L = \text{mean}\; \sum_{k=0}^{s_T - 1} \|R(\tilde u^{n + s_T - 1 + k}, \hat u^{n + s_T + k})\|^2 / s_T

    The first residual starts from the last known state, the others from predictions; gradients flow through both.

    Parameters
    ----------
    residual
        The residual of one fine step.
    block
        Known states, the last of which is the start, (batch, times, channels, *grid).
    predicted
        The states after it.
    mask
        Where the residual counts, 1, and where not, 0, such as in obstacles: of the grid's shape. Everywhere by
        default.

    Returns
    -------
    Tensor
        A number with a graph: the mean over batch, times, channels and the points that count.

    Raises
    ------
    ValueError
        For states of shapes that don't fit, or a mask on another grid, or of other numbers than 0 and 1.

    References
    ----------
    Huang and others, arXiv:2302.10255, the loss of the merged prediction.

    Examples
    --------
    >>> from paperworks.operators import Heat
    >>> heat = Heat(16, dt=0.1)
    >>> start = torch.randn(2, 1, 1, 16)
    >>> bool(physics_loss(heat, start, heat.solve(start[:, 0], 3)) < 1e-12)
    True
    """
    fits = block.ndim >= 4 and predicted.ndim == block.ndim and block.shape[1] and predicted.shape[1]
    if not fits or block[:, -1].shape != predicted[:, 0].shape:
        raise ValueError(
            f"predicted has shape {tuple(predicted.shape)}; it takes states like block's, {tuple(block.shape)}"
        )
    squares = residual.along(torch.cat([block[:, -1:], predicted], 1)).square()
    if mask is None:
        return squares.mean()
    if tuple(check_mask(mask).shape) != residual.points:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it takes {residual.points}")
    weight = mask.to(squares)
    return (squares * weight).mean() / weight.mean()


def physics_train(
    model: nn.Module,
    residual: PhysicsResidual,
    pool: StatePool,
    steps: int,
    *,
    batch_size: int = 64,
    lr: float = 2e-3,
    clip: float = 1.0,
    mask: Shaped[Tensor, "*grid"] | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 1000,
    callback: Callable[[int, float], bool | None] | None = None,
    progress: Progress = silent,
    label: str = "training",
) -> Float[np.ndarray, " steps"]:
    """Train a solver by the residual of its own predictions, with Adam and a cosine.

    In each step blocks are drawn from the pool, predicted, and the predictions put back. Rows whose prediction has
    diverged – is NaN, infinite, or beyond the pool's limit – are left out of the loss, and dropped from the pool, which
    counts them.

    Parameters
    ----------
    model
        From a block of states to the next block, such as `NeuralStagger`.
    residual
        The residual of one fine step, on the fine grid.
    pool
        Where blocks come from and predictions go to.
    steps
        Number of steps of the whole training.
    batch_size
        Blocks in each step; 64 by default.
    lr
        Adam's rate at the start, which falls to 0 along a cosine; 2e-3 by default.
    clip
        Greatest norm of the gradient; 1 by default.
    mask
        Where the residual counts, for `physics_loss`.
    checkpoint
        File that the training is written to, whole or not at all, and goes on from where it exists; none by default.
        A training that went on gives the same as one that was never stopped, where the pool has a generator of its own.
    save_every
        Steps from one checkpoint to the next; 1,000 by default.
    callback
        ``callback(step, loss)``, called after each step; where it returns True, training ends.
    progress
        Wraps the range of steps, as `Run.progress` does.
    label
        What `progress` calls it.

    Returns
    -------
    ndarray
        The loss of each step, those before a resumption included.

    Raises
    ------
    ValueError
        For counts or rates out of bounds, or a checkpoint of a training of another length.
    FloatingPointError
        Where every prediction of a step has diverged.

    References
    ----------
    Huang and others, arXiv:2302.10255, training without labels.

    Examples
    --------
    >>> from paperworks.operators import Heat, NeuralStagger
    >>> model = NeuralStagger(lambda: nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), factors=(2,))
    >>> pool = StatePool(lambda n, generator: torch.randn(n, 1, 1, 16, generator=generator), size=16)
    >>> losses = physics_train(model, Heat(16, dt=1e-3), pool, 20, batch_size=16, lr=0.02)
    >>> bool(losses[-1] < losses[0])
    True
    """
    check_number("lr", lr, gt=0), check_count("save_every", save_every), check_count("steps", steps)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    before: list[float] = []
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["steps"] != steps:
            raise ValueError(f"checkpoint {path} is of a training of {state['steps']} steps; it takes one of {steps}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        pool.load_state_dict(state["pool"])
        before = state["losses"]
        for group in optimizer.param_groups:
            group["lr"] = lr  # the schedule is a share of it
    start = len(before)
    if start >= steps:
        return np.array(before)
    losses = list(before)

    def loss(step: int) -> Tensor:
        rows, block = pool.draw(batch_size)
        predicted = model(block)
        good = ~pool.diverged(predicted)
        pool.put(rows, predicted, start + step)
        if not good.all():
            if not good.any():
                raise FloatingPointError(f"every prediction of step {start + step} has diverged; lower lr ({lr})")
            block = block[good]
            predicted = model(block)  # again, since the gradient of what is infinite is NaN for all
        return physics_loss(residual, block, predicted, mask)

    def after(step: int, value: float) -> bool | None:
        losses.append(value)
        stop = None if callback is None else callback(start + step, value)
        if path is not None and (stop or len(losses) % save_every == 0 or len(losses) == steps):
            state = {"steps": steps, "losses": losses, "model": model.state_dict(), "pool": pool.state_dict()}
            _save({**state, "optimizer": optimizer.state_dict()}, path)
        return stop

    train(
        loss,
        optimizer,
        steps - start,
        schedule=lambda step: warmup_cosine(start + step, 0, steps),
        clip=clip,
        callback=after,
        progress=progress,
        label=label,
    )
    return np.array(losses)


def _save(state: dict[str, object], path: Path) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
