"""What a language model answered: found in whatever it wrote, and brought to the types of the parameters."""

import ast
import json
import math
import re
from typing import Any, NamedTuple

from paperworks.optimization.workflows.nodes import ParameterNode


class AnswerError(ValueError):
    """Raised where an answer holds no suggestion that can be read."""


class Answer(NamedTuple):
    """What a language model suggests.

    Parameters
    ----------
    suggestion
        New values by the name of the variable.
    reasoning
        Its reasons, in words.
    answer
        Its answer to the problem, where it gave one.
    terminate
        Whether it said that nothing is to be changed any more.

    Examples
    --------
    >>> from paperworks.optimization import Answer
    >>> Answer({"x": 3}).terminate
    False
    """

    suggestion: dict[str, Any]
    reasoning: str = ""
    answer: str = ""
    terminate: bool = False


_TERMINATE = re.compile(r"\bTERMINATE\b")


def parse_answer(text: str, names: "list[str] | tuple[str, ...]" = ()) -> Answer:
    """Find the suggestion in the answer of a language model.

    In turn: the text as JSON (with raw line breaks in strings, in a code fence or not); the outermost braces; a search
    for the names of the variables with what follows their colons.

    Parameters
    ----------
    text
        What the model wrote.
    names
        Names of the variables, for answers that are no JSON or leave out `suggestion`.

    Returns
    -------
    Answer
        The suggestion, with reasons where there are some.

    Raises
    ------
    AnswerError
        Where nothing can be read.

    Examples
    --------
    >>> from paperworks.optimization import parse_answer
    >>> parse_answer('Sure! {"reasoning": "too low", "suggestion": {"x0": 3}} Good luck.').suggestion
    {'x0': 3}
    >>> parse_answer("TERMINATE").terminate
    True
    """
    stripped = re.sub(r"(?s)<think>.*?</think>", "", text).strip()
    for found in _objects(stripped):
        answer = _from_object(found, names)
        if answer is not None:
            return answer
    scanned = _scan(stripped, names)
    if scanned:
        return Answer(scanned)
    if _TERMINATE.search(stripped):
        return Answer({}, terminate=True)
    raise AnswerError(f"the answer has no suggestion for any of {list(names)}: {text[:300]!r}")


def _objects(text: str) -> Any:
    """Yield objects that the text may hold: the whole, code in fences, the outermost braces, each braced part."""
    candidates = [text, *re.findall(r"```(?:json|python)?\s*(.*?)```", text, re.DOTALL)]
    start, end = text.find("{"), text.rfind("}")
    if start >= 0 and end > start:
        candidates.append(text[start : end + 1])
    decoder = json.JSONDecoder(strict=False)
    for candidate in candidates:
        for read in (lambda c: json.loads(c, strict=False), ast.literal_eval, _repaired):
            try:
                found = read(candidate)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found
    for place in [m.start() for m in re.finditer(r"\{", text)][:50]:
        try:
            found, _ = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            continue
        yield found


def _repaired(text: str) -> Any:
    """Read JSON with commas before closing brackets, or cut off before its last braces."""
    text = re.sub(r",\s*([}\]])", r"\1", text[text.find("{") :])
    for closing in ("", "}", "}}", '"}', '"}}'):
        try:
            return json.loads(text + closing, strict=False)
        except ValueError:
            continue
    raise ValueError("no JSON")


def _from_object(found: dict[Any, Any], names: Any) -> Answer | None:
    suggestion = found.get("suggestion")
    reasoning, said = str(found.get("reasoning", "")), str(found.get("answer", ""))
    if isinstance(suggestion, str):
        if _TERMINATE.search(suggestion):
            return Answer({}, reasoning, said, True)
        try:
            suggestion = json.loads(suggestion, strict=False)
        except ValueError:
            suggestion = {names[0]: suggestion} if len(names) == 1 else None
    if isinstance(suggestion, list) and all(isinstance(s, dict) for s in suggestion):
        suggestion = {k: v for s in suggestion for k, v in s.items()}
    if isinstance(suggestion, dict):
        if not suggestion and (_TERMINATE.search(reasoning) or _TERMINATE.search(said)):
            return Answer({}, reasoning, said, True)
        return Answer({str(k): v for k, v in suggestion.items()}, reasoning, said)
    direct = {str(k): v for k, v in found.items() if k in names}
    if direct:
        return Answer(direct, reasoning, said)
    if "suggestion" in found and (suggestion is None or suggestion == []):
        return Answer({}, reasoning, said, bool(_TERMINATE.search(json.dumps(found, default=str))))
    if _TERMINATE.search(json.dumps(found, default=str)):
        return Answer({}, reasoning, said, True)
    return None


def _scan(text: str, names: Any) -> dict[str, Any]:
    """Return what follows the names of variables and a colon or an equals sign."""
    found: dict[str, Any] = {}
    decoder = json.JSONDecoder(strict=False)
    for name in names:
        for place in re.finditer(rf"[\"'`]?\b{re.escape(name)}\b[\"'`]?\s*[:=]\s*", text):
            rest = text[place.end() :]
            try:
                found[name], _ = decoder.raw_decode(rest)
                continue
            except (ValueError, RecursionError):
                pass
            # A text that its own quotes cut short: up to the quote before the next key or the end.
            quoted = re.match(r"([\"'])(.*?)\1\s*(?=,\s*[\"']\w+[\"']\s*:|\}|$)", rest, re.DOTALL)
            word = re.match(r"[^\s,;}]+", rest)
            if quoted:
                found[name] = quoted.group(2).replace("\\n", "\n").replace('\\"', '"')
            elif word:
                found[name] = word.group(0).rstrip(".")
    return found


def coerce(value: Any, parameter: ParameterNode) -> Any:
    """Bring a suggested value to the type of a parameter's present value.

    Parameters
    ----------
    value
        What was suggested, as JSON or a text.
    parameter
        The parameter, whose type and constraints decide.

    Returns
    -------
    Any
        The value, of the parameter's type.

    Raises
    ------
    ValueError
        Where it can't be of that type, isn't finite, or the parameter can't take it.

    Examples
    --------
    >>> from paperworks.optimization import coerce, node
    >>> coerce("1e-3", node(0.5, trainable=True)), coerce("False", node(True, trainable=True))
    (0.001, False)
    """
    current = parameter._data
    shown = f"value {value!r} for {parameter.name}"
    if parameter.language:
        made: Any = _unfenced(value) if isinstance(value, str) else value
    elif isinstance(current, bool):
        made = _truth(value, shown)
    elif isinstance(current, int):
        number = _number(value, shown)
        if number != int(number):
            raise ValueError(f"{shown} is no whole number")
        made = int(number)
    elif isinstance(current, float):
        made = _number(value, shown)
    elif isinstance(current, str):
        made = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    elif isinstance(current, (list, tuple, set, frozenset, dict)):
        read = _literal(value, shown)
        wanted = dict if isinstance(current, dict) else (list, tuple, set)
        if not isinstance(read, wanted):
            raise ValueError(f"{shown} is a {type(read).__name__}; it takes a {type(current).__name__}")
        made = type(current)(read)
    elif hasattr(current, "__array__") and not isinstance(current, type):
        import numpy as np

        try:
            made = np.asarray(_literal(value, shown), dtype=np.asarray(current).dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{shown} is no array like the present one: {error}") from error
        if made.shape != np.shape(current) or not np.all(np.isfinite(made)):
            raise ValueError(f"{shown} has shape {made.shape}; it takes finite numbers of shape {np.shape(current)}")
        made = made.item() if np.ndim(current) == 0 else made
    else:
        made = value
        if current is not None and not isinstance(value, type(current)):
            raise ValueError(f"{shown} is a {type(value).__name__}; it takes a {type(current).__name__}")
    if problem := parameter.problem_with(made):
        raise ValueError(f"{shown}: {problem}")
    return made


def _unfenced(text: str) -> str:
    fenced = re.search(r"```(?:python)?\s*\n(.*?)```", text, re.DOTALL)
    return (fenced.group(1) if fenced else text).strip("\n")


def _literal(value: Any, shown: str) -> Any:
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    raise ValueError(f"{shown} is no literal")


def _number(value: Any, shown: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{shown} is no number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{shown} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{shown} is not finite")
    return number


def _truth(value: Any, shown: str) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    text = str(value).strip().lower()
    if text not in known:
        raise ValueError(f"{shown} is no truth value")
    return known[text]
