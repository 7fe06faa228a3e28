"""The process of one task: `python -m paperworks.evidence.task FOLDER`.

It reads `spec.json` in the folder, measures, and leaves `result.json` and the figure there.
"""

import faulthandler
import fcntl
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from paperworks.evidence.entry import plain
from paperworks.evidence.files import write_atomically
from paperworks.evidence.measurement import Measurement, NotAtThisScale, Table
from paperworks.evidence.provenance import digest_of, loaded_sources, without_paths
from paperworks.evidence.run import Run, tasks_of
from paperworks.evidence.spec import TaskSpec, claims_module, paper_folder
from paperworks.evidence.spool import ProgressWriter

TRACEBACK_SIGNAL = signal.SIGUSR1  # makes a task that hangs show where


def main(folder: Path) -> None:
    """Measure what `spec.json` in `folder` asks for."""
    _die_with_supervisor()
    faulthandler.enable()
    faulthandler.register(TRACEBACK_SIGNAL, all_threads=False)
    spec: TaskSpec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    result = perform(spec, folder)
    write_atomically(folder / "result.json", json.dumps(plain(result), allow_nan=False).encode())


def perform(spec: TaskSpec, folder: Path) -> dict[str, Any]:
    """Measure, and return the part of an entry that only this process knows; the figure goes to `folder`."""
    started = time.perf_counter()
    result = _attempt(spec, folder)
    sources = loaded_sources(sys.modules)
    return {
        "seconds": time.perf_counter() - started,
        "sources": sources,
        "digest": digest_of(paper_folder(spec), sources),
        **result,
    }


def _attempt(spec: TaskSpec, folder: Path) -> dict[str, Any]:
    kind, id = spec["kind"], spec["id"]
    try:
        task = tasks_of(vars(_load_claims(spec))).get((kind, id))
        if task is None:
            decorator = "measures" if kind == "claim" else "races"
            return _error(f'claims.py has no function @{decorator}("{id}")')
        if task.exclusive and not spec["exclusive"]:
            return _error(f"{kind} '{id}' is exclusive, but its decorator's arguments are not literals")
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(spec["threads"])
    except Exception as error:
        return _raised(error, spec)
    run = Run(spec["scale"], tuple(spec["seeds"]))
    if spec["spool"]:
        run = replace(run, report=ProgressWriter(Path(spec["spool"]), spec["number"]))
    started = time.perf_counter()
    try:
        measurement = task.function(run)
        return {"seconds": time.perf_counter() - started, **_measured(measurement, folder)}
    except NotAtThisScale as why:
        return {"outcome": "not at this scale", "reason": str(why)}
    except ImportError as error:
        if kind == "peer" and (error.name or "").partition(".")[0] != "paperworks":
            return {"outcome": "not run", "reason": _line(error)}
        return _raised(error, spec)
    except Exception as error:
        if _is_missing_data(error):
            return {"outcome": "missing data", "reason": " ".join(str(error).split())}
        return _raised(error, spec)


def _is_missing_data(error: Exception) -> bool:
    """Tell whether a data set isn't there; the module that would say so is not imported for that."""
    data = sys.modules.get("paperworks.testbeds.data")
    return data is not None and isinstance(error, data.DatasetMissing)


def _load_claims(spec: TaskSpec) -> ModuleType:
    name = claims_module(spec)
    if not os.path.isabs(spec["folder"]):
        return importlib.import_module(name)
    found = importlib.util.spec_from_file_location(name, paper_folder(spec) / "claims.py")
    if found is None or found.loader is None:
        raise ImportError(f"can't import {name}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _measured(measurement: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(measurement, Measurement):
        raise TypeError(f"the function returned {type(measurement).__name__}; it has to return a Measurement")
    per_seed = measurement.seed_values
    result = {
        "outcome": "measured",
        "values": {name: _value(name, value) for name, value in measurement.values.items()},
        "unit": measurement.unit,
        "per_seed": per_seed,
        "interval": {name: ends for name, values in per_seed.items() if (ends := mean_interval(values))},
        "table": _table(measurement.table),
        "remark": measurement.remark,
    }
    if measurement.figure is not None:
        from paperworks.evidence.figures import save_figure

        save_figure(measurement.figure, folder / "figure")
    return result


def mean_interval(values: list[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of the mean by Student's t, or None for fewer than two values.

    Examples
    --------
    >>> low, high = mean_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    count = len(values)
    if count < 2:
        return None
    from scipy.special import stdtrit

    mean = sum(values) / count
    deviation = (sum((v - mean) ** 2 for v in values) / (count - 1)) ** 0.5
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * deviation / count**0.5
    return mean - half, mean + half


def _value(name: str, value: Any) -> float | bool:
    value = _scalar(value)
    if not isinstance(value, (bool, int, float)):
        where = f"value {name!r}" if name else "value"
        raise TypeError(f"{where} is {value!r}; it takes a number or a truth value")
    return value if isinstance(value, bool) else float(value)


def _table(table: Table | None) -> dict[str, Any] | None:
    if table is None:
        return None
    return {"columns": [str(c) for c in table.columns], "rows": [[_cell(c) for c in row] for row in table.rows]}


def _cell(value: Any) -> Any:
    value = _scalar(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _scalar(value: Any) -> Any:
    """Turn a NumPy scalar or a tensor of one element into Python's own number."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError):
        return value


def _error(reason: str, trace: str = "") -> dict[str, Any]:
    return {"outcome": "error", "reason": reason, "traceback": trace}


def _raised(error: Exception, spec: TaskSpec) -> dict[str, Any]:
    own = error.__traceback__ and error.__traceback__.tb_next  # without this module's frame
    trace = "".join(traceback.format_exception(error.with_traceback(own)))
    return _error(without_paths(_line(error)), without_paths(trace, paper_folder(spec)))


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _die_with_supervisor() -> None:
    """Have the kernel end this process group when the supervisor, which holds our standard input open, is gone.

    A thread that watches the pipe would do the same, except while foreign code holds the interpreter's lock.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # it was gone before
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Neither threads that a claim left behind nor a slow teardown of its libraries hold up the run.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
