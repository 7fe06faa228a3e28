"""What feedback says: a score, a direction, a target."""

import math
import re
from typing import Any, NamedTuple

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RAISE = r"higher|larger|greater|bigger|increase|raise|more|up|too (?:low|small|little|weak|short|slow)"
_LOWER = r"lower|smaller|less|decrease|reduce|fewer|down|too (?:high|large|big|much|strong|long|fast)"
_DONE = r"correct|solved|perfect|good enough|on target|ok|success"
_TARGET = re.compile(
    r"(?:should (?:be|have been|equal)|target(?: is| was|:)?|expected(?: output)?(?: is| was|:)?|must be|want(?:ed)?)"
    rf"\s*(?:exactly\s*)?({NUMBER})",
    re.IGNORECASE,
)
_SCORE = re.compile(rf"\b(?:score|reward|accuracy)\b\s*(?:is|was|=|:)?\s*({NUMBER})", re.IGNORECASE)
_GRADIENT = re.compile(rf"\bgradient\b\s*(?:is|was|=|:)?\s*({NUMBER})", re.IGNORECASE)


class Feedback(NamedTuple):
    """A score with words, as a guide gives it.

    Parameters
    ----------
    score
        A number, higher is better unless an optimiser is told otherwise; None where there is none.
    text
        What is said in words.

    Examples
    --------
    >>> from paperworks.optimization import Feedback
    >>> Feedback(0.5, "Half of the tests pass.").score
    0.5
    """

    score: float | None
    text: str

    def __str__(self) -> str:
        return self.text if self.score is None else f"{self.text}\nScore: {self.score:.12g}".strip()


def read_feedback(feedback: Any) -> Feedback:
    """Return a score and words from feedback of any form.

    Parameters
    ----------
    feedback
        A number, a text (which may say `score: 0.5`), a pair of both, or a node with one of these.

    Returns
    -------
    Feedback
        Its score, None where none is said or it is not finite, and its text.

    Examples
    --------
    >>> from paperworks.optimization import read_feedback
    >>> read_feedback("Too slow. Score: 0.25")
    Feedback(score=0.25, text='Too slow. Score: 0.25')
    """
    feedback = getattr(feedback, "_data", feedback)
    if isinstance(feedback, tuple) and len(feedback) == 2:
        score = None if feedback[0] is None else _finite(feedback[0])
        return Feedback(score, str(feedback[1]))
    if isinstance(feedback, (bool, int, float)) or (hasattr(feedback, "item") and getattr(feedback, "size", 0) == 1):
        return Feedback(_finite(feedback), "")
    found = _SCORE.search(str(feedback))
    return Feedback(_finite(found.group(1)) if found else None, str(feedback))


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def target_in(text: str) -> float | None:
    """Return the value that the output should have, as in "should be 3.5", or None where none is said."""
    found = _TARGET.search(text)
    return float(found.group(1)) if found else None


def direction_in(text: str) -> float | None:
    """Return +1 for "higher", -1 for "lower", 0 for "correct", minus a gradient that is stated, or None."""
    if found := _GRADIENT.search(text):
        return -float(found.group(1))
    places = [
        (m.start(), sign)
        for sign, words in ((1.0, _RAISE), (-1.0, _LOWER), (0.0, _DONE))
        if (m := re.search(rf"\b(?:{words})\b", text, re.IGNORECASE))
    ]
    return min(places)[1] if places else None


def hints_in(text: str, names: list[str]) -> dict[str, float]:
    """Return the direction for each variable that the text names, from the words between it and the next name."""
    found = {}
    pattern = "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True))
    if not pattern:
        return {}
    places = list(re.finditer(rf"\b({pattern})\b", text))
    for place, after in zip(places, [*places[1:], None], strict=False):
        words = text[place.end() : after.start() if after else len(text)]
        hint = direction_in(words)
        if hint is not None:
            found[place.group(1)] = hint
    return found
