"""Text to LaTeX and back; mathematics between dollars stays as it is."""

import functools
import re
from typing import Any

_MATHEMATICS = re.compile(r"((?<!\\)\$(?:[^$\\%]|\\[^()\[\]])+\$)")
_PLACE = "\ue000"
"""Stands for a formula while the rest is read."""
_SPECIAL = {c: f"\\{c}" for c in "&%$#_"} | {
    "{": r"\textbraceleft{}",  # BibTeX counts braces, whether or not there is a backslash before them
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
_LIGATURE = re.compile(r"([-`'])(?=\1)|([!?])(?=`)")
_WORDS = {"textbraceleft": "{", "textbraceright": "}", "textasciicircum": "^", "textasciitilde": "~"} | {
    "textless": "<",
    "textgreater": ">",
    "LaTeX": "LaTeX",
    "TeX": "TeX",
    "slash": "/",
    "newline": " ",
}
_AS_THEY_ARE = (
    "url",
    "texttt",
    "textsf",
    "textup",
    "textmd",
    "textnormal",
    "mbox",
    "nolinkurl",
    "uppercase",
    "lowercase",
)
_ACCENTED = re.compile(
    r"\{?\\(?:[`'^\"~=.]\s*(?:\{\\?[A-Za-z]+\s*\}|\\?[A-Za-z])|[cubdvHkrt](?:\s*\{\\?[A-Za-z]+\}|\s+[A-Za-z])"
    r"|(?:ss|ae|AE|oe|OE|aa|AA|o|O|l|L|i|j)(?![A-Za-z])(?:\{\}|\s)?)\}?"
)


def to_latex(text: str) -> str:
    r"""Return text as LaTeX, with what is special escaped but in mathematics.

    Examples
    --------
    >>> print(to_latex("Cost & noise in $L_{2}$ for $5"))
    Cost \& noise in $L_{2}$ for \$5
    """
    parts = _MATHEMATICS.split(text)
    return "".join(part if odd and _balanced(part) else _escape(part) for odd, part in _odd(parts))


def to_text(latex: str) -> str:
    r"""Return LaTeX as text; braces that only group are dropped, but not in mathematics.

    Examples
    --------
    >>> to_text(r"{{D}PM}-Solver: {\'e}tude in {$L_{2}$} \& 50\%")
    'DPM-Solver: étude in $L_{2}$ & 50%'
    """
    if not re.search(r"[\\{}$~`'!?-]", latex):
        return latex
    latex = re.sub(r"(?<!\\)%", r"\\%", latex.replace(_PLACE, ""))  # BibTeX has no comments in fields
    formulae = iter(_MATHEMATICS.findall(latex))
    text = _decoder().latex_to_text(_MATHEMATICS.sub(_PLACE, latex))
    return re.sub(_PLACE, lambda _: next(formulae, ""), text)


def without_accents(text: str) -> str:
    r"""Return text in which accented letters that are written as in LaTeX are letters; the rest stays as it is.

    Examples
    --------
    >>> print(without_accents(r"Poincar\'e and M{\"o}bius, 50% of $\'e$"))
    Poincaré and Möbius, 50% of $\'e$
    """
    if "\\" not in text:
        return text
    parts = _MATHEMATICS.split(text)
    decode = _decoder().latex_to_text
    return "".join(part if odd else _ACCENTED.sub(lambda said: decode(said[0]), part) for odd, part in _odd(parts))


def _odd(parts: list[str]) -> list[tuple[bool, str]]:
    return [(bool(number % 2), part) for number, part in enumerate(parts)]


def _escape(text: str) -> str:
    text = _LIGATURE.sub(lambda sign: f"{sign[0]}\x00", text)  # the two would become one other sign
    return "".join(_SPECIAL.get(c, c) for c in text).replace("\x00", "{}")


def _balanced(text: str) -> bool:
    depth = 0
    for sign in re.findall(r"[{}]", text):
        depth += 1 if sign == "{" else -1
        if depth < 0:
            return False
    return depth == 0


@functools.cache
def _decoder() -> Any:
    from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db
    from pylatexenc.latexwalker import get_default_latex_context_db as get_walker_db
    from pylatexenc.macrospec import MacroSpec

    texts = get_default_latex_context_db()
    words = [MacroTextSpec(name, simplify_repl=word) for name, word in _WORDS.items()]
    kept = [MacroTextSpec(name, simplify_repl="%s") for name in _AS_THEY_ARE]
    texts.add_context_category("paperworks", prepend=True, macros=words + kept)
    walker = get_walker_db()
    arguments = [MacroSpec(name, "{") for name in _AS_THEY_ARE] + [MacroSpec(name, "") for name in _WORDS]
    walker.add_context_category("paperworks", prepend=True, macros=arguments)

    class Decoder(LatexNodes2Text):
        def latex_to_text(self, latex: str) -> str:
            return str(super().latex_to_text(latex, latex_context=walker))

    return Decoder(latex_context=texts, math_mode="verbatim", keep_comments=True)
