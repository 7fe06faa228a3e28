r"""Mathematics in titles and abstracts: TeX between dollars or ``\(`` and ``\)``, which a script typesets."""

import functools
import logging
import re

from markupsafe import Markup, escape

MAX_TEX = 500
_TEX = re.compile(
    r"(?<![\\$])\$\$(?P<block>[^$]+)\$\$"
    r"|(?<![\\$])\$(?=[^\s$])(?P<inline>(?:[^$\\]|\\.)*?[^\s\\$])\$(?![\d$])"  # not "$5 and $10"
    r"|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]"
)


def mathematics(text: str) -> Markup:
    r"""Return a text as HTML, its formulas in Unicode and marked with their TeX, which a script typesets.

    Examples
    --------
    >>> mathematics(r"Bounds in $\ell_\infty$ & more")
    Markup('Bounds in <span class="math" data-tex="\\ell_\\infty">ℓ_∞</span> &amp; more')
    >>> mathematics("from $5 to $10")
    Markup('from $5 to $10')
    """
    parts, end = [], 0
    for found in _TEX.finditer(text):
        tex = found[found.lastgroup or 0].strip()
        if not 0 < len(tex) <= MAX_TEX:
            continue
        block = Markup(" data-block") if found.lastgroup in ("block", "square") else ""
        parts += [
            escape(text[end : found.start()]),
            Markup('<span class="math" data-tex="{}"{}>{}</span>').format(tex, block, _in_unicode(tex)),
        ]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def plain(text: str) -> str:
    r"""Return a text with its formulas in Unicode, for where there is no markup.

    Examples
    --------
    >>> plain(r"An $\mathcal{O}(n^2)$ method")
    'An 𝒪(n^2) method'
    """
    return _TEX.sub(lambda found: _in_unicode(found[found.lastgroup or 0].strip()[:MAX_TEX]), text)


@functools.lru_cache(maxsize=4000)
def _in_unicode(tex: str) -> str:
    from pylatexenc.latex2text import LatexNodes2Text

    logging.getLogger("pylatexenc").setLevel(logging.ERROR)
    try:
        return " ".join(LatexNodes2Text(math_mode="text").latex_to_text(tex).split()) or tex
    except Exception:  # whatever is wrong with it, it can be read as it is
        return tex
