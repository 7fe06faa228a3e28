"""Quantised networks in files, by themselves and within pipelines of diffusers."""

import dataclasses
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paperworks.diffusion.files import whole_files
from paperworks.diffusion.quantization.config import QuantConfig

NETWORK, SETTINGS, TENSORS = "config.json", "quantization.json", "quantized_model.pt"


def save(model: Any, folder: str | Path, push_to_hub: bool = False) -> None:
    """Write a quantised model; see `QuantModel.save_pretrained`."""
    if push_to_hub:
        raise ValueError("push_to_hub is True; a quantised model is uploaded with the pipeline that it belongs to")
    text = json.dumps(dataclasses.asdict(model.quant_config), indent=2, sort_keys=True)
    with whole_files(folder) as aside:
        if hasattr(model.model, "save_config"):
            model.model.save_config(aside)
        (aside / SETTINGS).write_text(text + "\n", encoding="utf-8")
        torch.save(model.state_dict(), aside / TENSORS)


def load(folder: Path, network: nn.Module | None) -> tuple[nn.Module, QuantConfig, dict[str, Any]]:
    """Read what `save` wrote: a network of its kind, the settings and the tensors."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        config = QuantConfig(**{**settings, "skip": tuple(settings["skip"])})
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder / SETTINGS} holds no settings of a quantised model: {error!r}") from error
    try:
        state = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
    except (EOFError, pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{folder / TENSORS} holds no tensors of a quantised model: {error!r}") from error
    return network if network is not None else _network_of_diffusers(folder / NETWORK), config, state


def _network_of_diffusers(file: Path) -> nn.Module:
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    name = settings.get("_class_name", "")
    if name:
        import diffusers

        kind = getattr(diffusers, name, None)
        if isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin):
            known: Any = kind
            return known.from_config(settings)
    raise ValueError(
        f"model is None, and {file} names no network of diffusers (it has {name!r}); "
        "it takes a network like the one that was quantised"
    )


def offer_to_pipelines(cls: type) -> None:
    """Tell the pipelines of diffusers how to save a class, where they are loaded at all."""
    if "diffusers" in sys.modules:
        from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

        LOADABLE_CLASSES.setdefault(cls.__module__, {cls.__name__: ["save_pretrained", "from_pretrained"]})
