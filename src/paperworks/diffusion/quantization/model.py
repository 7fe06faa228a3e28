"""A network with quantisers in it, and how it is calibrated."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.diffusion.quantization import storage
from paperworks.diffusion.quantization.attention import OperandQuantizers, counting_products
from paperworks.diffusion.quantization.calibration import CalibrationSet
from paperworks.diffusion.quantization.config import QuantConfig
from paperworks.diffusion.quantization.integer import Int8Model
from paperworks.diffusion.quantization.layers import QuantLayer, on_device_of, replace_layers, size_of, stored_bytes
from paperworks.diffusion.quantization.observers import MovingAverageObserver, WholeSetObserver
from paperworks.diffusion.quantization.quantizer import UniformAffineQuantizer
from paperworks.diffusion.quantization.storage import offer_to_pipelines

_ONE_AT_A_TIME = threading.RLock()  # the groups of a call's times are kept in the quantisers, for all threads
_TIME_NAMES = ("timestep", "timesteps", "t", "time")


class QuantModel(nn.Module):
    """A copy of a network that computes with quantised weights and activations; made by `quantize_diffusion`.

    It is called as the network is, has its attributes (`config`, `dtype`, `device`…), and goes where the network went:
    into `wrap_model`, a sampler, a pipeline of diffusers, which is saved and loaded with it. `set_quant_state` switches
    weights and activations; both off, it is the network it was made from.

    Parameters
    ----------
    model
        Network called as ``model(x, t, *conditions)``; it is copied.
    config
        How to quantise it; kept as `quant_config`.

    Raises
    ------
    ValueError
        Where the network has no layer to quantise.
    RuntimeError
        Where it is called with quantised activations before it was calibrated.

    Examples
    --------
    >>> model = QuantModel(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), QuantConfig())
    >>> model.set_quant_state(weights=False, activations=False)
    >>> model(torch.zeros(1, 2)).shape
    torch.Size([1, 2])
    """

    time_edges: Tensor

    def __init__(self, model: nn.Module, config: QuantConfig | None = None) -> None:
        super().__init__()
        self.quant_config = QuantConfig() if config is None else config
        self.model: Any = copy.deepcopy(model).eval()
        self.attention = nn.ModuleDict()
        replace_layers(self.model, self.quant_config)
        offer_to_pipelines(type(self))
        self.register_buffer("time_edges", torch.empty(0))  # between the groups of times
        self.set_quant_state(weights=True, activations=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns.

        Returns
        -------
        Any
            What the network returns, with quantised weights and activations.
        """
        if self.quant_config.timewise_groups == 1:
            return self.model(*args, **kwargs)
        with _ONE_AT_A_TIME:
            self._set_times(args, kwargs)
            return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def layers(self) -> dict[str, QuantLayer]:
        """Return the quantised layers by their names in the network.

        Returns
        -------
        dict[str, QuantLayer]
            The layers, in the network's order.
        """
        return {name: module for name, module in self.model.named_modules() if isinstance(module, QuantLayer)}

    def activation_quantizers(self) -> Iterator[UniformAffineQuantizer]:
        """Go through the quantisers of all activations.

        Returns
        -------
        Iterator[UniformAffineQuantizer]
            The quantisers, in the order of the layers.
        """
        yield from (layer.act_quantizer for layer in self.layers().values() if layer.act_quantizer is not None)
        yield from (module for module in self.attention.modules() if isinstance(module, UniformAffineQuantizer))

    def set_quant_state(self, weights: bool = True, activations: bool = True) -> None:
        """Switch the quantisation of weights and of activations on or off."""
        for layer in self.layers().values():
            layer.quantizes_weights, layer.quantizes_activations = weights, activations
        for operands in self.attention.values():
            operands.quantizes_activations = activations  # type: ignore[assignment]

    @torch.no_grad()
    def calibrate(self, calibration: CalibrationSet, batch_size: int = 256) -> "QuantModel":
        """Find all scales: those of weights from the weights, those of activations by running a set; return itself.

        Parameters
        ----------
        calibration
            Inputs of the network, on which activations are seen.
        batch_size
            Rows that go through at once.

        Returns
        -------
        QuantModel
            The model itself, with its scales set.

        Raises
        ------
        ValueError
            Where the set is empty, an activation is NaN or infinite, or there are fewer different times than groups.
        """
        c = self.quant_config
        for layer in self.layers().values():
            layer.weight_quantizer.fit(
                layer.weight, c.scale_method, symmetric=c.symmetric_w, p=c.metric_p, candidates=c.candidates
            )
        self._group_times(calibration.t)
        device = on_device_of(self.model)

        def run() -> None:
            for args, kwargs in calibration.batches(batch_size, device):
                self(*args, **kwargs)

        if c.quantize_attention:
            self.set_quant_state(weights=False, activations=False)
            args, kwargs = next(calibration.batches(1, device))
            with counting_products(self.model) as counts:
                self.model(*args, **kwargs)
            self._attach(counts)
        self.set_quant_state(weights=c.order == "after", activations=True)
        for layer in self.layers().values():
            layer.start_bounding()
        if c.ranges == "ema":
            self._calibrate_by_average(run)
        else:
            self._calibrate_over_set(run)
        for layer in self.layers().values():
            layer.finish_bounding()
        self.set_quant_state(weights=True, activations=True)
        return self

    def to_int8(self) -> Int8Model:
        """Return a copy that stores 8-bit integers and computes with integer kernels; see `Int8Model`.

        These take integers at what a layer sees. Where activations are quantised at what it returns (the default), the
        copy quantises instead what it sees, between the least and the greatest number of the calibration set.

        Returns
        -------
        Int8Model
            A new model, for inference alone.
        """
        return Int8Model(self)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **options: Any) -> None:
        """Write weights, scales, settings and the network's configuration into a folder, as a pipeline does.

        Parameters
        ----------
        save_directory
            The folder, which is made where it doesn't exist.
        push_to_hub
            False, since the model is uploaded with its pipeline.
        options
            What pipelines say on the kind of file, which is always one of tensors.

        Raises
        ------
        ValueError
            For `push_to_hub`.
        """
        storage.save(self, save_directory, push_to_hub)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        *,
        model: nn.Module | None = None,
        torch_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> "QuantModel":
        """Load what `save_pretrained` wrote; the model gives equal outputs.

        Parameters
        ----------
        pretrained_model_name_or_path
            The folder that it was saved into.
        subfolder
            Folder within it, ``unet`` for a pipeline's.
        model
            A network like the one that was quantised, whose weights don't matter; made from its configuration where
            it is one of diffusers.
        torch_dtype
            Type to convert the floating-point numbers to.
        options
            What pipelines say on how to load, which is without effect.

        Returns
        -------
        QuantModel
            The model, with its weights and scales.

        Raises
        ------
        FileNotFoundError
            Where the folder holds no such model.
        ValueError
            Where `model` is missing and the network is none of diffusers, or a file is damaged.
        """
        folder = Path(pretrained_model_name_or_path) / (subfolder or "")
        network, config, state = storage.load(folder, model)
        made = cls(network, config)
        made.load_state_dict(state)
        return made if torch_dtype is None else made.to(torch_dtype)

    def size_bytes(self) -> int:
        """Return the bytes it takes to store: packed codes with their scales, everything else in its own dtype.

        Returns
        -------
        int
            Number of bytes of the stored model.
        """
        layers = set(self.layers().values())
        inner = {id(tensor) for layer in layers for tensor in layer.state_dict(keep_vars=True).values()}
        rest = {id(t): t for t in self.model.state_dict(keep_vars=True).values() if id(t) not in inner}
        return sum(map(size_of, layers)) + sum(map(stored_bytes, rest.values()))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load scales, zero points and weights that a model of the same network and settings saved.

        Parameters
        ----------
        state_dict
            What ``state_dict()`` gave.

        Returns
        -------
        Any
            Missing and unexpected keys, as `nn.Module.load_state_dict` returns them.
        """
        counts: dict[str, int] = {}
        for key in state_dict:
            if key.startswith("attention.") and key.endswith(".scale"):
                owner = key.split(".")[1].replace("/", ".")
                counts[owner] = counts.get(owner, 0) + 1
        self._attach(counts)
        self.set_quant_state(weights=True, activations=True)
        if (edges := state_dict.get("time_edges")) is not None:
            self.time_edges = torch.empty_like(edges)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _attach(self, counts: Mapping[str, int]) -> None:
        """Give the modules that compute attention their quantisers, once."""
        for owner, count in counts.items():
            key = owner.replace(".", "/")
            if key not in self.attention:
                operands = OperandQuantizers(self.quant_config.n_bits_a, count)
                operands.attach(self.model.get_submodule(owner))
                self.attention[key] = operands

    def _calibrate_over_set(self, run: Callable[[], None]) -> None:
        found = {
            quantizer: WholeSetObserver(quantizer, self.quant_config) for quantizer in self.activation_quantizers()
        }

        def observe(by: str) -> None:
            for quantizer, observer in found.items():
                quantizer.observer = getattr(observer, by)
            try:
                run()
            finally:
                for quantizer in found:
                    quantizer.observer = None

        observe("bound")
        found = {quantizer: observer for quantizer, observer in found.items() if observer.seen}
        has_to_count = [observer.start_counting() for observer in found.values()]
        if any(has_to_count):
            observe("count")
        has_to_refine = [observer.start_refining() for observer in found.values()]
        if any(has_to_refine):
            observe("refine")
        for observer in found.values():
            observer.finish()

    def _calibrate_by_average(self, run: Callable[[], None]) -> None:
        quantizers = list(self.activation_quantizers())
        for quantizer in quantizers:
            quantizer.observer = MovingAverageObserver(quantizer, self.quant_config)
        try:
            run()
        finally:
            for quantizer in quantizers:
                quantizer.observer = None

    def _group_times(self, t: Tensor) -> None:
        groups = self.quant_config.timewise_groups
        if groups == 1:
            return
        times = t.double().unique()
        if len(times) < groups:
            raise ValueError(f"timewise_groups is {groups}; the calibration set has only {len(times)} different times")
        # As many different times in each group, which ends halfway between neighbours.
        ends = torch.tensor([len(times) * g // groups for g in range(1, groups)])
        self.time_edges = ((times[ends - 1] + times[ends]) / 2).to(on_device_of(self.model))

    def _set_times(self, args: Any, kwargs: Any) -> None:
        given = [kwargs[name] for name in _TIME_NAMES if name in kwargs]
        t = args[1] if len(args) > 1 else given[0] if given else None
        if t is None:
            raise ValueError("timewise_groups > 1 takes the time as second argument or by name; it got neither")
        x = args[0] if args else next(iter(kwargs.values()))
        t = torch.as_tensor(t, dtype=torch.float64, device=self.time_edges.device)
        group = torch.bucketize(t.expand(len(x)) if t.ndim == 0 else t, self.time_edges)
        for quantizer in self.activation_quantizers():
            quantizer.group = group


ModelMixin = QuantModel  # by this name pipelines ask a module what they may load from it


def quantize_diffusion(
    model: nn.Module, calibration: CalibrationSet, config: QuantConfig | None = None, *, batch_size: int = 256
) -> QuantModel:
    """Quantise a diffusion network after training: replace its layers, then find their scales on a calibration set.

    Parameters
    ----------
    model
        The network whose inputs the set holds, called as ``model(x, t, *conditions)``; it is copied, not changed.
    calibration
        Made by `collect_calibration`.
    config
        Bits and methods; `QuantConfig` by default, 8 bits for weights and activations.
    batch_size
        Samples run at once while calibrating (256 in the released code).

    Returns
    -------
    QuantModel
        A quantised copy, ready to sample with.

    Raises
    ------
    ValueError
        Where no layer can be quantised, or an activation is NaN or infinite.

    Examples
    --------
    >>> class Network(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(2, 2)
    ...     def forward(self, x, t):
    ...         return self.layer(x)
    >>> calibration = CalibrationSet(torch.randn(16, 2), torch.linspace(0, 1, 16))
    >>> quantized = quantize_diffusion(Network(), calibration)
    >>> quantized.layers()["layer"].weight_quantizer.scale.shape
    torch.Size([2])

    References
    ----------
    arXiv 2211.15736, section 3.
    """
    return QuantModel(model, config).calibrate(calibration, batch_size)
