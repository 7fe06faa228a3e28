"""What a training needs to go on after it was interrupted."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Checkpoint:
    """Weights, Adam's averages, draws and losses of a training in a file, which is whole or not there.

    Parameters
    ----------
    path
        The file; None keeps nothing.
    model, optimizer, generator
        Whose states are kept and brought back.
    settings
        Of the training, which have to be the same where it goes on.
    """

    def __init__(
        self,
        path: str | Path | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        **settings: int,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.model, self.optimizer, self.generator, self.settings = model, optimizer, generator, settings
        self.losses: list[float] = []

    def read(self) -> int:
        """Bring the states back where the file is there, and return the number of steps that were taken."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            held: Any = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, losses = dict(held["settings"]), [float(value) for value in held["losses"]]
        except Exception as error:  # broken files end in errors of any kind
            raise ValueError(f"checkpoint is {self.path}, which can't be read: {error}") from None
        if settings != self.settings:
            raise ValueError(f"checkpoint is {self.path}, of a training with {settings} instead of {self.settings}")
        # The rates are those of the schedule at that step; the groups have to keep the full ones.
        own = self.optimizer.state_dict()
        try:
            self.model.load_state_dict(held["model"])
            self.optimizer.load_state_dict({**own, "state": held["averages"]})
            self.generator.set_state(held["draws"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint is {self.path}, of another model: {error}") from None
        self.losses = losses
        return len(losses)

    def write(self) -> None:
        """Write the states, where there is a file."""
        if self.path is None:
            return
        held = {
            "settings": self.settings,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "averages": self.optimizer.state_dict()["state"],
            "draws": self.generator.get_state(),
        }
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".writing") as folder:
            whole = Path(folder) / self.path.name
            torch.save(held, whole)
            os.replace(whole, self.path)
