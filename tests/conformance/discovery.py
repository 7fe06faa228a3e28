"""Finds every exported name of every field, and tells by its structure what kind of thing it is."""

import dataclasses
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import LinearOperator
from sklearn.base import BaseEstimator

from paperworks.diffusion import SampleResult
from paperworks.papers import FIELDS

SCIPY_SOLVER = ("A", "b", "x0", "rtol", "maxiter", "callback")  # and M, where it can be preconditioned


class Export(NamedTuple):
    """A name that a field exports."""

    field: str
    name: str
    thing: Any

    @property
    def where(self) -> str:
        return f"{self.field}.{self.name}"


@cache
def exports() -> tuple[Export, ...]:
    """Every name in `__all__` of every field that exists."""
    found = []
    for field in FIELDS:
        if importlib.util.find_spec(f"paperworks.{field}"):
            package = importlib.import_module(f"paperworks.{field}")
            found += [Export(field, name, getattr(package, name)) for name in package.__all__]
    return tuple(found)


def of_kind(kind: str) -> list[Export]:
    return [export for export in exports() if kind_of(export) == kind]


def parameters(thing: Any) -> list[str]:
    """The names of what is called with, without self."""
    try:
        return [name for name in inspect.signature(thing).parameters if name != "self"]
    except (TypeError, ValueError):  # of a built-in
        return []


def asks_for(export: Export, *names: str) -> bool:
    """Whether a thing takes arguments of these names."""
    return set(names) <= set(parameters(export.thing))


def returned(function: Any) -> Any:
    """What a function says it returns, as a class where it is one."""
    return inspect.signature(function).return_annotation if callable(function) else None


def _returns(function: Any, test: Callable[[type], bool]) -> bool:
    annotation = returned(function)
    return inspect.isclass(annotation) and test(annotation)


def _is_test_result(cls: type) -> bool:
    fields = getattr(cls, "_fields", None) or [f.name for f in dataclasses.fields(cls)] if is_record(cls) else []
    return {"statistic", "pvalue"} <= set(fields)


def is_record(cls: type) -> bool:
    """Whether a class only holds values that it is given: a named tuple, or a frozen dataclass."""
    if issubclass(cls, tuple):
        return hasattr(cls, "_fields")
    return dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen


def _is_sampler(thing: Any) -> bool:
    if inspect.isclass(thing):
        if "model_fn" in parameters(thing) and _is_module(thing):
            return True
        return hasattr(thing, "sample") and _returns(thing.sample, lambda cls: issubclass(cls, SampleResult))
    if "model_fn" not in parameters(thing):
        return False
    states = [p.annotation for p in inspect.signature(thing).parameters.values() if p.name in ("x", "x_T")]
    return _returns(thing, lambda cls: issubclass(cls, SampleResult)) or str(returned(thing)) in map(str, states)


def _is_attack(cls: type) -> bool:
    return parameters(getattr(cls, "__call__", None))[:2] == ["model", "obs"]  # noqa: B004


def _is_private(thing: Any) -> bool:
    if inspect.isclass(thing):
        return callable(getattr(thing, "privacy", None))
    return _returns(thing, _is_private)


def _is_module(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, torch.nn.Module)


def _is_solver(thing: Any) -> bool:
    for called in (thing, getattr(thing, "solve", None), getattr(thing, "__call__", None)):  # noqa: B004
        if called is not None and set(SCIPY_SOLVER) <= set(parameters(called)):
            return True
    return False


def _solves(thing: Any, *names: str) -> bool:
    """Whether a thing is called, or made and called, with what a solver of differential equations takes."""
    takes = {*parameters(thing), *(parameters(thing.forward) if _is_module(thing) else ())}
    return {*names, "u0", "t_span", "atol", "rtol"} <= takes


def _maps_one(function: Any) -> bool:
    """Whether it is called with one thing, a field, and not with sets of points or a field's error bars as well."""
    asked = [p for p in inspect.signature(function).parameters.values() if p.name != "self" and p.default is p.empty]
    return len(asked) <= 1


# In this order: the first that fits is the kind.
KINDS: dict[str, Callable[[Export], bool]] = {
    "estimator": lambda e: inspect.isclass(e.thing) and issubclass(e.thing, BaseEstimator),
    "optimiser": lambda e: inspect.isclass(e.thing) and issubclass(e.thing, torch.optim.Optimizer),
    "workflow optimiser": lambda e: (
        inspect.isclass(e.thing) and {"zero_feedback", "backward", "propose"} <= set(dir(e.thing))
    ),
    "bandit": lambda e: (
        inspect.isclass(e.thing) and {"predict", "update", "probabilities", "state_dict"} <= set(dir(e.thing))
    ),
    "scheduler": lambda e: inspect.isclass(e.thing) and {"set_timesteps", "step", "add_noise"} <= set(dir(e.thing)),
    "sampler": lambda e: _is_sampler(e.thing),
    "attack": lambda e: inspect.isclass(e.thing) and _is_attack(e.thing),
    "private mechanism": lambda e: _is_private(e.thing),
    "hypothesis test": lambda e: inspect.isfunction(e.thing) and _returns(e.thing, _is_test_result),
    "value estimator": lambda e: (
        inspect.isclass(e.thing) and {"fit", "predict", "theta_"} <= set(dir(e.thing)) and asks_for(e, "value")
    ),
    "generative model": lambda e: (
        inspect.isclass(e.thing)
        and {"fit", "sample"} <= set(dir(e.thing))
        and parameters(e.thing.sample)[:3] == ["n", "generator", "condition"]
    ),
    "solver": lambda e: e.field == "solvers" and _is_solver(e.thing),
    "monotone solver": lambda e: (
        inspect.isfunction(e.thing)
        and asks_for(e, "F", "u0", "atol", "max_passes", "callback")
        and _returns(e.thing, lambda cls: issubclass(cls, OptimizeResult))
    ),
    "ODE solver": lambda e: _solves(e.thing, "func"),
    "SDE solver": lambda e: _solves(e.thing, "drift", "diffusion"),
    "time stepper": lambda e: inspect.isclass(e.thing) and {"loss", "step", "rollout"} <= set(dir(e.thing)),
    "operator network": lambda e: e.field == "operators" and _is_module(e.thing) and _maps_one(e.thing.forward),
}


def kind_of(export: Export) -> str | None:
    thing = export.thing
    if (not inspect.isclass(thing) and not inspect.isroutine(inspect.unwrap(thing))) or inspect.isabstract(thing):
        return None
    return next((kind for kind, fits in KINDS.items() if fits(export)), None)


# What helps things of a kind, and is tested beside its concept. The first rule that fits says what it is.
HELPERS: dict[str, Callable[[Any], bool]] = {
    "a function: it has no state": lambda thing: inspect.isroutine(inspect.unwrap(thing)),
    "a record: it holds the values that it is given": is_record,
    "an abstract base, or a part that extends one": lambda cls: any(map(inspect.isabstract, cls.__mro__)),
    "an error": lambda cls: issubclass(cls, BaseException),
    "a tensor, a layer or a network": lambda cls: issubclass(cls, (torch.Tensor, torch.nn.Module)),
    "an environment of gymnasium, or a wrapper": lambda cls: any("gymnasium" in c.__module__ for c in cls.__mro__),
    "a linear operator, as SciPy takes it": lambda cls: (
        issubclass(cls, LinearOperator) or {"matvec", "matmat", "shape", "dtype"} <= set(dir(cls))
    ),
    "a family of functions, with parameters and derivatives by them": lambda cls: (
        {"theta", "gradient"} <= set(dir(cls))
    ),
    "a law, as SciPy freezes one": lambda cls: {"sf", "cdf", "pdf", "mean", "rvs"} <= set(dir(cls)),
    "a loss: called for a number": lambda cls: cls.__name__.endswith("Loss") and callable(cls),
}
# Classes of one use, which no other class shares; a second one of the same use is a kind.
SINGLE = {
    "audio": {"StreamingProcessor"},
    "diffusion": {
        "BDIAPipeline",
        "Fields",
        "GaussianMixtureInterpolant",
        "Interpolant",
        "NoiseModel",
        "OptimalCoupling",
        "PFGMPPNoise",
    },
    "robustness": {
        "Attacker",
        "FMRAugmenter",
        "FMREvaluator",
        "FoundationModelRobustness",
        "LayerMaskLimeImageExplainer",
        "MaskedImageClassifier",
        "MaskedTensor2d",
        "Oracle",
        "OracleConstrainedPerturber",
        "PartBounds",
        "Smooth",
    },
    "inference": {
        "AdaptivePrivacyGame",
        "BootstrapOutOfBag",
        "CausalGraph",
        "DiscreteSCM",
        "GaussianComponents",
        "ISCVEstimator",
        "SparseValidate",
        "WorstCaseRisk",
    },
    "optimization": {
        "BayesianOptimizer",
        "Bundle",
        "CodeParameter",
        "DistributedTransport",
        "EF21",
        "EF21State",
        "ExceptionNode",
        "FlatView",
        "LocalTransport",
        "MessageNode",
        "Module",
        "Node",
        "NodeRegistry",
        "ParameterNode",
        "Peer",
        "PosteriorPaths",
        "SharedDirection",
        "TCPTransport",
        "TargetSurrogate",
        "TraceGraph",
        "TrainingLog",
    },
    "dynamics": {"BrownianTree", "Trajectories"},
    "operators": {"All2AllDataset", "Conditioned", "StatePool"},
    "reduction": {
        "AdaptiveROM",
        "ElastoViscoPlastic",
        "Elastodynamics",
        "EmpiricalCubature",
        "FisherKolmogorov",
        "GappyErrorIndicator",
        "GappyPOD",
        "HyperReducedModel",
        "LoadPath",
        "MechanicalProblem",
        "SubmodelUQ",
        "TumorDatabase",
        "TumorQuery",
        "UpdatableNNLS",
    },
    "solvers": {
        "AdaptiveSolver",
        "DCDMSolver",
        "EllipticEnergy",
        "GPHMSolver",
        "PoissonDomain",
        "RidgeletSampler",
        "RitzDataset",
        "SineSeries",
        "SolveResult",
        "Splitting",
        "TrigSum",
    },
    "training": {
        "FeatureRecorder",
        "LanczosLRScheduler",
        "LayerwiseTrainer",
        "NeuralCollapseMeter",
        "NumericalStabilityMonitor",
        "ShareMap",
        "StabilityMonitor",
        "VicinityUFM",
    },
}


def helper_rule(export: Export) -> str | None:
    """Say by which rule a thing of no kind is a helper."""
    if export.name in SINGLE.get(export.field, ()):
        return "a class of one use"
    return next((rule for rule, fits in HELPERS.items() if fits(export.thing)), None)
