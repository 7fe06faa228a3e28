"""Folders with a configuration and weights, as they are published."""

import dataclasses
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
_COMPUTED = ("relative_coords_table", "relative_position_index")  # which older files also hold
_ENDS = {  # by the field of the configuration, the part of the network that depends on it
    "in_channels": ("embeddings.patch_embeddings.",),
    "out_channels": ("patch_recovery.",),
}


def load(
    network: Callable[[Any], Network],
    config_of: Callable[[Mapping[str, Any]], Any],
    path: str | os.PathLike[str],
    in_channels: int | None = None,
    out_channels: int | None = None,
) -> Network:
    """Return the network that a folder holds.

    Parameters
    ----------
    network
        Makes one with new weights from a configuration.
    config_of
        Makes a configuration from the content of the file.
    path
        The folder.
    in_channels, out_channels
        Those of the problem, by default those of the file.

    Returns
    -------
    nn.Module
        With the file's weights, but for ends of other channels, in evaluation mode.
    """
    folder = Path(path)
    config = config_of(json.loads(_found(folder, CONFIG).read_text(encoding="utf-8")))
    wanted = {"in_channels": in_channels, "out_channels": out_channels}
    other = {name: n for name, n in wanted.items() if n is not None and n != getattr(config, name)}
    weights = {name: t for name, t in _read(folder).items() if not name.endswith(_COMPUTED)}
    if other:
        new = tuple(part for name in other for part in _ENDS[name])
        weights = {name: t for name, t in weights.items() if not name.startswith(new)}
        warnings.warn(
            f"{' and '.join(f'{name} is {n}, {getattr(config, name)} in the file' for name, n in other.items())}: "
            f"the weights of {' and '.join(part.rstrip('.') for part in new)} begin anew",
            stacklevel=3,
        )
        config = dataclasses.replace(config, **other, **({"channel_groups": None} if "out_channels" in other else {}))
    made = network(config)
    _put(made, weights, new if other else (), folder)
    return made.eval()


def save(path: str | os.PathLike[str], config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a configuration and weights into a folder.

    Parameters
    ----------
    path
        The folder, made where it doesn't exist.
    config
        Content of the configuration's file.
    weights
        Tensors by their names.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as aside:  # until both are whole
        new = Path(aside)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        # The mark says to `transformers` which library wrote the file.
        save_file({name: t.contiguous() for name, t in weights.items()}, new / WEIGHTS, metadata={"format": "pt"})
        shutil.copymode(new / CONFIG, new / WEIGHTS)
        for name in (WEIGHTS, CONFIG):
            (new / name).replace(folder / name)


def _found(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"path is {str(folder)!r}, which has no {name}; it takes a folder with a checkpoint")
    return folder / name


def _read(folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file() and (folder / OLD_WEIGHTS).is_file():
        found = torch.load(folder / OLD_WEIGHTS, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
            raise ValueError(f"path is {str(folder)!r}, whose {OLD_WEIGHTS} holds no tensors by their names")
        return found
    return load_file(_found(folder, WEIGHTS))


def _put(made: nn.Module, weights: dict[str, Tensor], new: tuple[str, ...], folder: Path) -> None:
    """Load weights, all of those that don't begin anew and no others."""
    takes = {name: t for name, t in made.state_dict().items() if not (new and name.startswith(new))}
    wrong = {
        "missing": sorted(takes.keys() - weights.keys()),
        "unknown": sorted(weights.keys() - takes.keys()),
        "of another shape": [n for n in sorted(takes.keys() & weights.keys()) if takes[n].shape != weights[n].shape],
    }
    if any(wrong.values()):
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items() if names)
        raise ValueError(f"path is {str(folder)!r}, whose weights don't fit its configuration: {said}")
    made.load_state_dict(weights, strict=False)
