"""The form in which texts are indexed and searched, so that both databases and the ranking see the same words.

A change of `plain` takes a migration that makes the index anew: SQLite takes a paper out of its index by the words that
it was put in with.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable

_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_BETWEEN = "\x1d"
"""Stands between texts that are folded at once; one_line leaves it in none."""
_TO_SPACES = bytes(code if code >= 128 or code == 29 or chr(code).isalnum() else 32 for code in range(256))
_BUT_HYPHENS = bytes(45 if code in b"-'" else to for code, to in enumerate(_TO_SPACES))
_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h", "ı": "i", "ŧ": "t", "ŋ": "ng"}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u02bc\u2018\u2019", "'")
)
"""What Unicode's own foldings leave: letters with a stroke, ligatures that are letters, other hyphens, apostrophes."""
_CJK = re.compile(
    r"[\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc-\u30fe\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    r"\U00020000-\U0003ffff]+"
)
_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta"},
    **{"ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "ο": "omicron", "π": "pi"},
    **{"ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega"},
}
_GREEK_ALONE = re.compile(r"(?<![^\W_])[α-ω](?![^\W_])")
_EDGE = "\x1f"
"""Where a Greek letter's name ends: a space, unless a hyphen is there."""
_ACCENT = re.compile(r"\{?\\(?:[`'^\"~=.]|[cubdvhkrt](?![a-z]))\s*\{?\\?([a-z])\}?\}?")
_LETTER = re.compile(r"\{?\\(ss|ae|oe|aa|o|l|i|j)(?![a-z])(?:\{\}|\s|\})?")
_BRACED = re.compile(r"(?<![a-z^_}])\{([^{}\\]*)\}")
_SCRIPT = re.compile(r"(?<![a-z0-9])([a-z0-9]{1,2})[_^]\{?([a-z]|\d{1,2})\}?(?![a-z0-9])")


def plain(text: str) -> str:
    r"""Return a text's words as they are indexed, with spaces between them.

    Case, width, accents, ligatures and super- and subscripts don't count, whether they are written in Unicode or in
    LaTeX; a Greek letter is its name. Of Chinese, Japanese and Korean, whose words no spaces part, every two characters
    that follow one another are a word, and the last one of a run is another. At the end stand the words that hyphens
    and apostrophes join, as one.

    Examples
    --------
    >>> plain("Łukasz’s PDE‑Reﬁner").split()
    ['lukasz', 's', 'pde', 'refiner', 'lukaszs', 'pderefiner']
    >>> plain(r"$L^2$ of Poincar\'e, L² of Poincaré, β-VAE").split()
    ['l2', 'of', 'poincare', 'l2', 'of', 'poincare', 'beta', 'vae', 'betavae']
    >>> plain("扩散模型").split()
    ['扩散', '散模', '模型', '型']
    """
    if not text:
        return ""
    folded = _fold(text)
    words = folded.translate(_TO_SPACES)
    if b"-" in folded or b"'" in folded:
        words = b" ".join([words, *_joined(folded.translate(_BUT_HYPHENS))])
    return words.decode()


def _joined(text: bytes) -> dict[bytes, None]:
    """Return the words that hyphens join, as one; only what stands beside a hyphen is looked at."""
    found: dict[bytes, None] = {}
    compound, parts = b"", 0
    for piece in text.split(b"-"):
        first, space, rest = piece.partition(b" ")
        compound, parts = compound + first, parts + bool(first)
        if space or not first:
            if parts > 1:
                found[compound] = None
            compound = rest.rpartition(b" ")[2]
            parts = int(bool(compound))
    if parts > 1:
        found[compound] = None
    return found


def counted(texts: Iterable[str]) -> list[bytes]:
    """Return texts in which words are counted: as `plain`, without those that are joined, after a space, in UTF-8.

    Examples
    --------
    >>> counted(["Naïve PDE-Refiner", "Łódź"])
    [b' naive pde refiner', b' lodz']
    """
    return _fold(" " + f"{_BETWEEN} ".join(texts)).translate(_TO_SPACES).split(_BETWEEN.encode())


def words_of(text: str) -> tuple[str, ...]:
    """Return the words that a search for a text looks for, next to each other.

    Examples
    --------
    >>> words_of("PDE-Refiner à la carte"), words_of("扩散模型"), words_of("型")
    (('pde', 'refiner', 'a', 'la', 'carte'), ('扩散', '散模', '模型'), ('型',))
    """
    words = _fold(text).translate(_TO_SPACES).decode().split()
    if len(words) > 1 and len(words[-1]) == 1 and is_cjk(words[-1]) and words[-2][1:] == words[-1]:
        del words[-1]  # the run may go on in what is found
    return tuple(words)


def is_cjk(word: str) -> bool:
    """Return whether a word is Chinese, Japanese or Korean.

    Examples
    --------
    >>> is_cjk("扩散"), is_cjk("noise")
    (True, False)
    """
    return _CJK.match(word) is not None


def _fold(text: str) -> bytes:
    text = text.lower()
    if not text.isascii():
        text = _NON_ASCII.sub(lambda run: _fold_short(run[0]) if len(run[0]) < 8 else _fold_run(run[0]), text)
        if _EDGE in text:
            text = text.replace(f"{_EDGE}-", "-").replace(f"-{_EDGE}", "-").replace(_EDGE, " ")
    if "\\" in text:
        text = _LETTER.sub(r"\1", _ACCENT.sub(r"\1", text))
    if "$" in text:
        text = text.replace("$", "")
    if "{" in text:
        text = _BRACED.sub(r"\1", text)
    if "^" in text or "_" in text:
        text = _SCRIPT.sub(r"\1\2", text)
    return text.encode()


def _fold_run(text: str) -> str:
    """Return a run of other than ASCII characters, folded."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not _is_accent(c))
    text = unicodedata.normalize("NFC", text)
    text = "".join(c if c.isascii() or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    text = _GREEK_ALONE.sub(lambda letter: f"{_EDGE}{_GREEK.get(letter[0], letter[0])}{_EDGE}", text)
    return _CJK.sub(lambda run: f" {' '.join(run[0][i : i + 2] for i in range(len(run[0])))} ", text)


_fold_short = functools.lru_cache(4096)(_fold_run)


def _is_accent(character: str) -> bool:
    """Return whether a mark only modifies a letter; those that make Indic syllables and Japanese voiced ones don't."""
    order = unicodedata.combining(character)
    return order == 1 or order > 9 or unicodedata.category(character) == "Cf"
