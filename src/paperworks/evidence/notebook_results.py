"""Results of methods as tables in notebooks, after ``%load_ext paperworks``.

Their classes know nothing of notebooks: IPython is told their names, and asks here once one is shown.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from paperworks.evidence import formatting
from paperworks.evidence.notebook import Html, facts

RESULTS: dict[str, tuple[str, ...]] = {
    "diffusion.adjoint.tasks": ("AdversarialResult", "ConditioningResult"),
    "diffusion.inversion.pipeline": ("BDIAImages",),
    "diffusion.inversion.sampler": ("BDIAResult",),
    "diffusion.sampling": ("SampleResult",),
    "dynamics.state_space.diagonalization": ("PTDResult",),
    "inference.continual.attacks": ("GameResult",),
    "inference.evaluation.bootstrap": ("BootstrapResult",),
    "inference.evaluation.comparison": ("ComparisonResult", "FriedmanResult"),
    "inference.evaluation.decomposition": ("BiasVarianceResult",),
    "inference.evaluation.models": ("CochransQResult", "LooneyFResult", "McNemarResult", "ProportionZResult"),
    "inference.evaluation.paired": ("CombinedFResult", "PairedTResult"),
    "inference.evaluation.permutation": ("PermutationResult",),
    "inference.evaluation.selection": ("NestedCVResult",),
    "inference.holdout.attacks": ("FreedmanResult",),
    "inference.importance.adaptive": ("ExpectationsResult",),
    "inference.importance.sobol": ("SobolResult",),
    "numerics.eigenvalues": ("LanczosResult",),
    "optimization.bilevel.diagnostics": ("ErrorBoundResult", "PenaltyGapResult"),
    "optimization.bilevel.solve": ("BilevelResult",),
    "optimization.targets.linear": ("LinearSSOResult",),
    "optimization.workflows.training": ("TrainingResult",),
    "reduction.database_inverse.query": ("QueryResult",),
    "reduction.submodel.uq": ("UQResult",),
    "robustness.attacks.attack": ("AttackResult",),
    "robustness.attacks.stealth": ("FeatureTestResult", "TwoSampleResult"),
    "robustness.smoothing.certify": ("CertificationResult",),
    "solvers.energy.descent": ("PGDResult",),
    "solvers.systems": ("SolveResult",),
    "training.stability.sharpness": ("EigenResult",),
}
"""The classes of results by their modules, within `paperworks`."""
_FEW = 12  # numbers of an array that are shown one by one
_MOST = 500  # characters of anything else


def load_ipython_extension(ipython: Any) -> None:
    """Have a notebook show the results of methods as tables: what ``%load_ext paperworks`` calls.

    Parameters
    ----------
    ipython
        The shell of IPython, which passes itself.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={}))
    >>> load_ipython_extension(shell)  # a shell that shows no HTML
    """
    formatter = ipython.display_formatter.formatters.get("text/html")
    for module, names in RESULTS.items() if formatter is not None else ():
        for name in names:
            formatter.for_type_by_name(f"paperworks.{module}", name, result_html)


def result_html(result: Any) -> Html:
    """Return a result as a table of its fields: numbers rounded, arrays by their shape and range.

    Examples
    --------
    >>> from collections import namedtuple
    >>> "0.3333" in result_html(namedtuple("TestResult", ["pvalue"])(1 / 3))
    True
    """
    return facts(type(result).__name__, {name: _shown(value) for name, value in _fields(result)})


def _fields(result: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(result):
        names = [field.name for field in dataclasses.fields(result)]
    else:
        properties = [name for name, found in vars(type(result)).items() if isinstance(found, property)]
        names = list(getattr(result, "_fields", ())) or [*properties, *vars(result)]
    return ((name, getattr(result, name)) for name in names if not name.startswith("_"))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str):
        return _clip(value or "–")
    if isinstance(value, (bool, float)):
        return formatting.number(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    if isinstance(value, Mapping):
        return _clip(", ".join(f"{name}: {_shown(item)}" for name, item in list(value.items())[:_FEW]))
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_shown(item) for item in value[:_FEW])
        return _clip(shown + (f", … ({len(value)} in all)" if len(value) > _FEW else "")) or "–"
    return _clip(str(value))


def _array(value: Any) -> str:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    numbers = _few(value) if 0 < math.prod(value.shape) <= _FEW else []
    kind = f"{' × '.join(map(str, value.shape)) or 'scalar'}, {str(value.dtype).removeprefix('torch.')}"
    if numbers:
        listed = ", ".join(_shown(number) for number in numbers)
        return listed if value.shape == () else f"{listed} ({kind})"
    try:
        low, high = formatting.number(float(value.min())), formatting.number(float(value.max()))
    except (TypeError, ValueError, RuntimeError):  # of no numbers, of complex ones, or of text
        return kind
    return f"{kind}, from {low} to {high}"


def _few(value: Any) -> list[Any]:
    try:
        return list(value.reshape(-1).tolist())
    except (AttributeError, TypeError, ValueError, RuntimeError):  # of a sparse matrix, or a series of pandas
        return []


def _clip(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
