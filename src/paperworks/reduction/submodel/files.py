"""Trained models as files: tensors and settings in the format of safetensors, which holds no code."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from paperworks.reduction.submodel import networks
from paperworks.reduction.submodel.conditions import Conditions
from paperworks.reduction.submodel.transforms import FieldScaler, PODTransform

FORMAT = "paperworks WGANGP 1"
SETTINGS = ("latent_dim", "gp_weight", "n_critic", "lr", "betas", "ema", "one_sided")
NETWORKS = ("generator", "critic")
KNOWN = ("MLPGenerator", "MLPCritic", "ConvGenerator", "ConvCritic")
TRANSFORMS = {"FieldScaler": FieldScaler, "PODTransform": PODTransform}


def write_model(model: Any, path: Path) -> None:
    """Write a trained WGANGP to a file, whole or not at all."""
    state: dict[str, Any] = {name: getattr(model, name) for name in SETTINGS}
    tensors: dict[str, torch.Tensor] = {}
    for name in NETWORKS:
        network = getattr(model, name)
        if type(network).__name__ not in KNOWN or not isinstance(network, getattr(networks, type(network).__name__)):
            raise TypeError(f"{name} is {type(network).__name__}; a file takes one of {', '.join(KNOWN)}")
        state[name] = [type(network).__name__, network.config]
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in model.average.state_dict().items()}
    fitted = {key: value for key, value in vars(model.transform).items() if key.endswith("_")}
    state["transform"] = [
        type(model.transform).__name__,
        model.transform.get_params(),
        {key: value for key, value in fitted.items() if not isinstance(value, np.ndarray)},
    ]
    arrays = {f"transform.{key}": value for key, value in fitted.items() if isinstance(value, np.ndarray)}
    if model.conditions.dim:
        arrays |= {"condition.mean": model.conditions.mean, "condition.scale": model.conditions.scale}
    tensors |= {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    state["best_step_"] = model.best_step_
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        tensors = {key: value.contiguous().cpu() for key, value in tensors.items()}
        save_file(tensors, partial, {"format": FORMAT, "state": json.dumps(state, default=_plain)})
        os.chmod(partial, 0o644)  # for others to read, as any file
        Path(partial).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(partial).unlink()
        raise


def read_model(cls: Any, path: Path) -> Any:
    """Read a trained WGANGP from a file."""
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it isn't a dictionary
    except SafetensorError as error:
        raise ValueError(f"path is {path}, which is no file of safetensors: {error}") from None
    if about.get("format") != FORMAT:
        raise ValueError(f"path is {path}, of format {about.get('format')!r}; it takes what WGANGP.save wrote")
    try:
        return _made(cls, json.loads(about["state"]), tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
        raise ValueError(f"path is {path}, which is damaged: {error}") from None


def _made(cls: Any, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """Make a model of what a file holds."""

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    made = {name: _network(state[name], part(f"{name}.")) for name in NETWORKS}
    kind, options, fitted = state["transform"]
    if kind not in TRANSFORMS:
        raise ValueError(f"its transform is {kind!r}, not one of {', '.join(TRANSFORMS)}")
    transform = TRANSFORMS[kind](**options)
    arrays = {key: value.numpy() for key, value in part("transform.").items()}
    transform.__dict__.update(fitted | arrays)
    settings = {name: state[name] for name in SETTINGS}
    model = cls(**made, **settings | {"betas": tuple(settings["betas"])}, transform=TRANSFORMS[kind](**options))
    model.transform = transform
    model.average = _network(state["generator"], part("average."))
    model.conditions = Conditions(**{key: value.numpy() for key, value in part("condition.").items()})
    model.best_step_ = state["best_step_"]
    for network in (model.generator, model.critic, model.average):
        network.eval().requires_grad_(False)
    condition = np.zeros(model.conditions.dim) if model.conditions.dim else None
    if not np.isfinite(model.sample(1, torch.Generator(), condition)).all():
        raise ValueError("it draws samples that are NaN or infinite")
    return model


def _plain(x: Any) -> Any:
    """Return a number of NumPy as Python's, as settings may be."""
    if isinstance(x, np.generic):
        return x.item()
    raise TypeError(f"transform has the parameter {x!r}; a file takes numbers and names")


def _network(kind: Any, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    name, config = kind
    if name not in KNOWN:
        raise ValueError(f"it has the network {name!r}, not one of {', '.join(KNOWN)}")
    with torch.device("meta"):  # sizes that do not fit the weights take no memory
        made: torch.nn.Module = getattr(networks, name)(**config)
    made.load_state_dict(weights, assign=True)
    return made
