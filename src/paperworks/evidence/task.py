"""The process of one task: `python -m paperworks.evidence.task FOLDER`.

It reads `spec.json` in the folder, measures, and leaves `result.json` and the figure there.
"""

import importlib
import importlib.util
import json
import math
import os
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from paperworks.core.processes import follow_parent
from paperworks.evidence import provenance
from paperworks.evidence.bars import Bar
from paperworks.evidence.digests import reached
from paperworks.evidence.entry import plain
from paperworks.evidence.estimates import Estimate
from paperworks.evidence.files import write_atomically
from paperworks.evidence.measurement import Measurement, NotAtThisScale, Table
from paperworks.evidence.run import Run, Task, tasks_of
from paperworks.evidence.spec import TaskSpec, claims_module, paper_folder
from paperworks.evidence.spool import ProgressWriter
from paperworks.evidence.verdicts import EACH

_ERROR_RATE = 0.05  # the chance that an interval misses, over all looks at the same bar together
_LOOKS = 4  # so that seeds and rounds grow eightfold at most


def main(folder: Path) -> None:
    """Measure what `spec.json` in `folder` asks for."""
    follow_parent()
    spec: TaskSpec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    _limit_memory(spec["memory_limit"])
    result = perform(spec, folder)
    write_atomically(folder / "result.json", json.dumps(plain(result), allow_nan=False).encode())


def perform(spec: TaskSpec, folder: Path) -> dict[str, Any]:
    """Measure, and return the part of an entry that only this process knows; the figure goes to `folder`.

    Digest and revision are taken before anything is imported, so that code edited during the run makes the entry
    outdated and never fresh.
    """
    started, processor = time.perf_counter(), _processor_seconds()
    code = reached(paper_folder(spec), spec["kind"], spec["id"])
    origin = {"digest": code.digest, "revision": provenance.revision_of(code.files)}
    result = _attempt(spec, folder)
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": _processor_seconds() - processor,
        **origin,
        "modules": provenance.top_level_modules(),
        "blas": provenance.loaded_blas(),
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
    try:
        smoke = _smoke(task, run) if spec["smoke"] and run.scale != "smoke" and not task.exclusive else {}
        return {**_decide(task, run, spec, folder), **smoke}
    except NotAtThisScale as why:
        return {"outcome": "not at this scale", "reason": str(why)}
    except MemoryError as error:
        return _error(f"ran out of memory: {_line(error)}")
    except ImportError as error:
        if kind == "peer" and (error.name or "").partition(".")[0] != "paperworks":
            return {"outcome": "not run", "reason": _line(error)}
        return _raised(error, spec)
    except Exception as error:
        if _is_missing_data(error):
            return {"outcome": "missing data", "reason": " ".join(str(error).split())}
        return _raised(error, spec)


def _decide(task: Task, run: Run, spec: TaskSpec, folder: Path) -> dict[str, Any]:
    """Measure, and again with twice the seeds and rounds while a bar is undecided and the budget allows it.

    Each look at the bars spends half of what is left of the error rate, and the last one all of it, so that looking
    again and again doesn't find by luck what isn't there.
    """
    bars = {name: Bar.parse(text) for name, text in spec["bars"].items()}
    left = _ERROR_RATE
    for look in range(_LOOKS):
        wall, started = time.perf_counter(), _processor_seconds()
        measurement = task.function(run)
        seconds, used = time.perf_counter() - wall, _processor_seconds() - started
        if not isinstance(measurement, Measurement):
            raise TypeError(f"the function returned {type(measurement).__name__}; it has to return a Measurement")
        _check_words(measurement)
        values = {name: _without_hidden_nan(estimate) for name, estimate in measurement.values.items()}
        measurement = replace(measurement, value=values)
        chance = any(estimate.method != "exact" for estimate in measurement.values.values())
        last = look == _LOOKS - 1 or 2 * used >= spec["budget"] or not chance
        level = 1 - (left if last else left / 2)
        left -= 1 - level
        intervals = {name: estimate.interval(level) for name, estimate in measurement.values.items()}
        undecided = any(
            bars[name].decide(*ends) is None and not measurement.values[name].method.startswith(EACH)
            for name, ends in intervals.items()
            if name in bars
        )
        if last or not undecided:
            break
        run = replace(run, seeds=tuple(range(2 * len(run.seeds))), effort=2 * run.effort)
    return {"seconds": seconds, "processor_seconds": used, **_measured(measurement, run, level, intervals, folder)}


def _check_words(measurement: Measurement) -> None:
    for name in ("unit", "remark", "settings"):
        if not isinstance(text := getattr(measurement, name), str):
            raise TypeError(f"{name} of the Measurement is {text!r}; it takes words")


def _without_hidden_nan(estimate: Estimate) -> Estimate:
    """Return an estimate that is NaN where one of its samples is, which an order statistic can pass over."""
    if not any(math.isnan(number) for number in (estimate.value, *estimate.samples)):
        return estimate
    return replace(estimate, value=math.nan, interval=lambda level: (math.nan, math.nan), varies=False)


def _measured(
    measurement: Measurement, run: Run, level: float, intervals: dict[str, tuple[float, float]], folder: Path
) -> dict[str, Any]:
    result = {
        "outcome": "measured",
        "seeds": list(run.seeds),
        "level": round(level, 6),
        "values": {
            name: {
                "value": estimate.value,
                "low": intervals[name][0],
                "high": intervals[name][1],
                "method": estimate.method,
                "samples": list(estimate.samples),
            }
            for name, estimate in measurement.values.items()
        },
        "unit": measurement.unit,
        "table": _table(measurement.table),
        "remark": measurement.remark,
        "settings": measurement.settings,
        "floor": None if measurement.floor is None else float(measurement.floor),
    }
    if measurement.figure is not None:
        from paperworks.evidence.figures import save_figure

        save_figure(measurement.figure, folder / "figure")
    if recordings := getattr(measurement, "recordings", ()):
        from paperworks.evidence.recordings import save_recordings

        save_recordings(recordings, folder / "figure")
        result["recordings"] = [recording.says for recording in recordings]
    return result


def _smoke(task: Task, run: Run) -> dict[str, Any]:
    """Measure at smoke scale, by which changed code is later told from code that gives other values."""
    try:
        found = task.function(replace(run, scale="smoke", seeds=(0,)))
    except NotAtThisScale:
        return {}
    table = _table(found.table) or {"rows": []}
    values: dict[str, Estimate] = found.values
    return {"smoke": {"values": {name: e.value for name, e in values.items()}, "rows": table["rows"]}}


def _is_missing_data(error: Exception) -> bool:
    """Tell whether a data set isn't there; the module that would say so is not imported for that."""
    data = sys.modules.get("paperworks.testbeds.data")
    return data is not None and isinstance(error, data.DatasetMissing)


def _load_claims(spec: TaskSpec) -> ModuleType:
    name = claims_module(spec["folder"])
    if not os.path.isabs(spec["folder"]):
        return importlib.import_module(name)
    root = paper_folder(spec)
    for _ in name.split(".")[:-1]:
        root = root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    found = importlib.util.spec_from_file_location(name, paper_folder(spec) / "claims.py")
    if found is None or found.loader is None:
        raise ImportError(f"can't import {name}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _table(table: Table | None) -> dict[str, Any] | None:
    if table is None:
        return None
    return {"columns": [str(c) for c in table.columns], "rows": [[_cell(c) for c in row] for row in table.rows]}


def _cell(value: Any) -> Any:
    with suppress(AttributeError, ValueError, RuntimeError):
        value = value.item()  # of a NumPy scalar or a tensor of one element
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _error(reason: str, trace: str = "") -> dict[str, Any]:
    return {"outcome": "error", "reason": reason, "traceback": trace}


def _raised(error: Exception, spec: TaskSpec) -> dict[str, Any]:
    own = frame = error.__traceback__
    while frame:  # without the frames up to the last of this module
        if frame.tb_frame.f_globals is globals() and frame.tb_next:
            own = frame.tb_next
        frame = frame.tb_next
    trace = "".join(traceback.format_exception(error.with_traceback(own)))
    text = provenance.without_paths(_line(error))
    return _error(text, provenance.without_paths(trace, paper_folder(spec)))


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ImportError) and error.path:  # Python adds where on this machine the module is
        text = text.replace(f" ({error.path})", "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _limit_memory(limit: int | None) -> None:
    """Have the kernel refuse memory beyond the limit, where it can, so that the claim fails and not the machine."""
    try:
        import resource
    except ImportError:  # not on this system; the supervisor polls
        return
    if limit is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Neither threads that a claim left behind nor a slow teardown of its libraries hold up the run.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by the claim, and of no use any more
            stream.flush()
    os._exit(0)
