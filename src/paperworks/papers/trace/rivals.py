"""What the races share: awkward answers, parsers, and imports in fresh processes."""

import importlib
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paperworks.evidence import Run
from paperworks.optimization import parse_answer

AWKWARD = [
    '{"reasoning": "r", "suggestion": {"x": "5"}}',
    'Here you are:\n```json\n{"suggestion": {"x": "5"}}\n```\nGood luck!',
    '{"reasoning": "r",\n "suggestion": {"x": "a\nb"}}',
    "{'reasoning': 'r', 'suggestion': {'x': '5'}}",
    '{"reasoning": "r", "suggestion": {"x": "5",},}',
    '{"x": "5"}',
    '{"suggestion": {"x": "5"}',
    '<think>{"x": 1}</think>{"suggestion": {"x": "5"}}',
    'First {"a": 1}. Then {"suggestion": {"x": "5"}}.',
    'x = "5"',
    '{"suggestion": "{\\"x\\": \\"5\\"}"}',
    '{"suggestion": [{"x": "5"}]}',
    '{"reasoning": "say "hi"", "suggestion": {"x": "5"}}',
]


@contextmanager
def standing_in(module: str) -> Iterator[None]:
    """Let a module import, with empty ones for packages that are missing and that what is raced doesn't use."""
    added: list[str] = []
    try:
        for _ in range(30):
            try:
                importlib.import_module(module)
                break
            except ModuleNotFoundError as error:
                if not error.name or error.name.startswith("opto"):
                    raise
                stub: Any = types.ModuleType(error.name)
                stub.__path__ = []
                stub.__getattr__ = lambda name: object if not name.startswith("__") else None
                sys.modules[error.name] = stub
                added.append(error.name)
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def ours_reads(answer: str) -> bool:
    try:
        return str(parse_answer(answer, ["x"]).suggestion.get("x")) in ("5", "a\nb")
    except ValueError:
        return False


def theirs_read() -> list[bool]:
    with standing_in("opto.optimizers.optoprime"):
        from opto.optimizers.optoprime import OptoPrime as Theirs

        quiet = types.SimpleNamespace(ignore_extraction_error=True)
        found = []
        for answer in AWKWARD:
            try:
                found.append(str(Theirs.extract_llm_suggestion(quiet, answer).get("x")) in ("5", "a\nb"))
            except Exception:
                found.append(False)
    return found


OURS = "from paperworks.optimization import OpenAICompatibleClient, OptoPrime, bundle, node"


def imports(run: Run, module: str) -> dict[str, list[float]]:
    """Return the seconds that a fresh process takes to import ours and another package, less those of an empty one."""

    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
        return time.perf_counter() - started

    jobs = {"ours": OURS, "theirs": f"import {module}"}
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(run.repeats(smoke=1, desk=7, full=10)):
        for name, code in jobs.items():
            found[name].append(seconds(code))
    return found
