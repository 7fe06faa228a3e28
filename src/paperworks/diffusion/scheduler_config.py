"""Configurations of schedulers: what is read of another scheduler's, what is refused, and how they are kept in files.

A setting of another scheduler belongs to one of four kinds: the scheduler has it itself; it is without effect here,
and is carried along for whoever the configuration is given to next; it changes samples in a way that isn't supported,
and is refused unless its value is neutral; it is unknown, and refused by name.
"""

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from paperworks.diffusion.files import whole_files

CONFIG_NAME = "scheduler_config.json"
AnyConfigured = TypeVar("AnyConfigured", bound="Configured")  # runtime type checkers refuse Self in methods

# What says how the network was trained: taken also where it is only the other scheduler's default.
OF_THE_NETWORK = frozenset({
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
})  # fmt: skip
# How another solver does its own work, and what pipelines read by themselves.
OF_OTHER_SOLVERS = frozenset({
    "algorithm_type", "base_image_seq_len", "base_shift", "clip_sample", "clip_sample_range", "corrector_order",
    "disable_corrector", "dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift", "gamma",
    "interpolation_type", "lambda_min_clipped", "legacy_3m", "lower_order_final", "max_image_seq_len", "max_shift",
    "method", "noise_sampler_seed", "original_inference_steps", "predict_x0", "predictor_order", "sample_max_value",
    "set_alpha_to_one", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p", "solver_type",
    "time_shift_type", "timestep_scaling", "variance_type",
})  # fmt: skip
# What changes samples, and the values that leave them alone; the first is the one to ask for.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "timestep_spacing": ("linspace",),
    "steps_offset": (0,),
    "skip_type": ("time_uniform",),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False,),
    "invert_sigmas": (False,),
    "shift_terminal": (None,),
    "stochastic_sampling": (False,),
    "timestep_type": ("discrete",),
    "tau_func": (None,),
}


class SchedulerOutput(NamedTuple):
    """What `step` returns: its entry is read by name, by key or by number.

    Examples
    --------
    >>> import torch
    >>> output = SchedulerOutput(torch.ones(1))
    >>> output.prev_sample is output["prev_sample"] is output[0]
    True
    """

    prev_sample: Tensor

    def __getitem__(self, index: Any) -> Any:
        return getattr(self, index) if index in self._fields else tuple.__getitem__(self, index)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the entries.

        Returns
        -------
        tuple of str
            The names.
        """
        return self._fields

    def to_tuple(self) -> tuple[Tensor, ...]:
        """Return the entries alone.

        Returns
        -------
        tuple
            The entries.
        """
        return tuple(self)


class SchedulerConfig(dict[str, Any]):
    """The settings of a scheduler, read as items or as attributes.

    Examples
    --------
    >>> SchedulerConfig(solver_order=2).solver_order
    2
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the scheduler's config has no {name!r}") from None


class Configured:
    """What is made from a configuration and can be saved by it."""

    config_name = CONFIG_NAME
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # what a class refuses beside, or takes for neutral
    ignored: ClassVar[frozenset[str]] = OF_OTHER_SOLVERS  # what a class carries along, whatever its value
    _internal_dict: Mapping[str, Any]  # by that name pipelines replace outdated settings

    @property
    def config(self) -> Any:
        """The settings, as items and as attributes."""
        return self._internal_dict

    def _keep_config(self, arguments: Mapping[str, Any]) -> Any:
        """Keep the arguments of `__init__` as `config`."""
        _join_diffusers(type(self))
        self._internal_dict = SchedulerConfig({n: _plain(arguments[n]) for n in _parameters(type(self))})
        return self._internal_dict

    @classmethod
    def _translated(cls, config: Mapping[str, Any], origin: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return another scheduler's settings in the words of this one; `origin` has its defaults too."""
        return config

    @classmethod
    def from_config(
        cls: type[AnyConfigured], config: Mapping[str, Any], return_unused_kwargs: bool = False, **changes: Any
    ) -> Any:
        """Make a scheduler from the configuration of another one.

        Settings that have no effect here are kept in `config` for the next scheduler that is made from it. As in
        diffusers, a setting that is only the other scheduler's default counts for nothing, unless it says how the
        network was trained.

        Parameters
        ----------
        config
            Settings by their names, as ``scheduler.config`` holds them.
        return_unused_kwargs
            Return a pair, whose second entry holds the `changes` that had no effect.

        Returns
        -------
        scheduler
            A scheduler with these settings and the `changes`.

        Raises
        ------
        ValueError
            Where a setting is unknown, or changes samples and isn't supported.

        Examples
        --------
        >>> from paperworks.diffusion import DPMSolverScheduler
        >>> DPMSolverScheduler.from_config({"beta_schedule": "scaled_linear", "clip_sample": True}).config.beta_schedule
        'scaled_linear'
        """
        known = _parameters(cls)
        understood = {*known, *cls.ignored, *cls.neutral, *NEUTRAL} - OF_THE_NETWORK - changes.keys()
        defaults = understood.intersection(config.get("_use_default_values", ()))
        taken = {n: v for n, v in config.items() if n not in defaults and not n.startswith("_")}
        settings = cls._translated({**taken, **changes}, config)
        carried = {n: v for n, v in settings.items() if n not in known}
        for name, value in carried.items():
            cls._check_foreign(name, value)
        scheduler = cls(**{n: v for n, v in settings.items() if n in known})
        unset = {"_use_default_values": sorted(defaults)} if defaults else {}
        scheduler._internal_dict = SchedulerConfig({**carried, **scheduler._internal_dict, **unset})
        return (scheduler, {n: changes[n] for n in changes if n in carried}) if return_unused_kwargs else scheduler

    @classmethod
    def _check_foreign(cls, name: str, value: Any) -> None:
        """Raise ValueError where a setting that the scheduler doesn't have can't be left out."""
        neutral = {**NEUTRAL, **cls.neutral}.get(name)
        if neutral is None and name not in cls.ignored:
            raise ValueError(f"{cls.__name__} doesn't know the setting {name!r} (of value {value!r})")
        if neutral is not None and not any(value is each or value == each for each in neutral):
            raise ValueError(
                f"{name} is {value!r}, which changes samples and which {cls.__name__} doesn't support; "
                f"to do without it: from_config(config, {name}={neutral[0]!r})"
            )

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False) -> None:
        """Write the configuration into a folder, as a pipeline does that is saved.

        Parameters
        ----------
        save_directory
            The folder, which is made where it doesn't exist.
        push_to_hub
            False, since a scheduler is uploaded with its pipeline.

        Raises
        ------
        ValueError
            For `push_to_hub`.
        """
        if push_to_hub:
            raise ValueError("push_to_hub is True; a scheduler is uploaded with the pipeline that it belongs to")
        with whole_files(save_directory) as aside:
            (aside / CONFIG_NAME).write_text(self.to_json_string(), encoding="utf-8")

    save_config = save_pretrained

    def to_json_string(self) -> str:
        """Return the configuration as a file holds it.

        Returns
        -------
        str
            The settings in JSON, with the name of the class.
        """
        settings = {n: v for n, v in self._internal_dict.items() if not n.startswith("_")}
        return json.dumps({"_class_name": type(self).__name__, **settings}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_pretrained(
        cls: type[AnyConfigured],
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        **options: Any,
    ) -> Any:
        """Make a scheduler from a file of settings: of this one or of another, by itself or of a pipeline.

        Parameters
        ----------
        pretrained_model_name_or_path
            A folder or file; the name of a model on the hub takes diffusers.
        subfolder
            Folder within it, ``scheduler`` for a pipeline's.
        options
            Changes of settings, see `from_config`; and for the hub how to get the file.

        Returns
        -------
        scheduler
            A scheduler with these settings.

        Raises
        ------
        FileNotFoundError
            Where the folder holds no settings.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.exists():
            from diffusers import DDIMScheduler

            config, options = DDIMScheduler.load_config(
                str(pretrained_model_name_or_path), subfolder=subfolder, return_unused_kwargs=True, **options
            )
            return cls.from_config(config, **options)
        file = path if path.is_file() else path / (subfolder or "") / CONFIG_NAME
        return cls.from_config(json.loads(file.read_text(encoding="utf-8")), **options)


def _parameters(cls: type) -> list[str]:
    return list(inspect.signature(cls).parameters)


def _plain(value: Any) -> Any:
    """Return a setting as a file holds it."""
    if isinstance(value, np.ndarray | Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _join_diffusers(cls: type) -> None:
    """Make a class one of diffusers' schedulers, which pipelines save and take no other than.

    They ask `issubclass`, both where a pipeline is saved and where a scheduler is given to ``from_pretrained``, so an
    entry in their table of what can be loaded would not do; and a true base has to be there when a scheduler exists,
    which may be before diffusers is loaded or after. Loading it for that base alone takes seconds, longer than all the
    rest. So the base is added where diffusers is loaded already, as a scheduler is made.
    """
    if "diffusers" in sys.modules:
        from diffusers import ConfigMixin, SchedulerMixin

        if not issubclass(cls, SchedulerMixin):
            cls.__bases__ = (*cls.__bases__, SchedulerMixin, ConfigMixin)


def scheduler_mixin(name: str) -> Any:
    """Return diffusers' base of schedulers: the `__getattr__` of a module whose schedulers pipelines load.

    Raises
    ------
    AttributeError
        For any other name.
    """
    if name == "SchedulerMixin" and "diffusers" in sys.modules:
        from diffusers import SchedulerMixin

        return SchedulerMixin
    raise AttributeError(f"no attribute {name!r}")
