"""Names of people and papers, and dates, as bibliographies and arXiv write them."""

import re
from datetime import UTC, datetime

from paperworks.feed.entry import MalformedEntry
from paperworks.feed.latex import to_text, without_accents

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_SUFFIX = re.compile(r"(?:jr|sr)\.?|i{2,3}|iv", re.IGNORECASE)
_LONGEST = 4000  # characters in which ids are looked for: to look takes their square
_NOBODY = {"others", "et al.", "et al", "and others"}
_ID = r"(\d{4}\.\d{4,5}(?:v\d+)?(?!\d)|[a-z-]+(?:\.[a-z]{2})?/\d{7}(?:v\d+)?(?!\d))"
_ARXIV = re.compile(rf"(?:arxiv(?:\.org/(?:abs|pdf|html)/|[:.]?\s*)|\babs/){_ID}", re.IGNORECASE)


def bibtex_names(field: str) -> tuple[str, ...]:
    r"""Return the names of a field of BibTeX, each with its first names first.

    Examples
    --------
    >>> bibtex_names(r"Knuth, Jr., Donald and {Barnes and Noble} and von Neumann, John and {\'E}lie Cartan and others")
    ('Donald Knuth Jr.', 'Barnes and Noble', 'John von Neumann', 'Élie Cartan')
    """
    from bibtexparser.middlewares.names import parse_single_name_into_parts, split_multiple_persons_names

    field = re.sub(r"(?i)\s+and\s*$", "", field)
    if ";" in field and not re.search(r"(?i)\sand\s", field):
        field = re.sub(r"\s*;\s*", " and ", field.strip("; "))
    found = []
    for name in split_multiple_persons_names(field):
        if name.count(",") > 2:  # a list of names, not one
            found += name.split(",")
            continue
        parts = parse_single_name_into_parts(name, strict=False)
        first, suffix = parts.first, parts.jr
        if len(first) == 1 and _SUFFIX.fullmatch(first[0]) and suffix:  # Knuth, Donald, Jr.
            first, suffix = suffix, first
        found.append(" ".join([*first, *parts.von, *parts.last, *suffix]))
    return people(map(to_text, found))


def ris_name(name: str) -> str:
    """Return a name of RIS with its first names first.

    Examples
    --------
    >>> ris_name("Knuth, Donald, Jr."), ris_name("ATLAS Collaboration")
    ('Donald Knuth Jr.', 'ATLAS Collaboration')
    """
    last, first, *suffix = [*(part.strip() for part in name.split(",")), ""][:4]
    return " ".join(part for part in (first, last, *suffix) if part)


def split_authors(text: str) -> tuple[str, ...]:
    r"""Return the names in a line of arXiv's, without what stands in brackets.

    Examples
    --------
    >>> split_authors(r"The ATLAS Collaboration: G. Aad (CERN, Geneva), J. Smith, Jr., and Cl\'ement Ader")
    ('The ATLAS Collaboration', 'G. Aad', 'J. Smith Jr.', 'Clément Ader')
    """
    text = without_accents(" ".join(text.split()))
    before = ""
    while before != text:  # brackets in brackets
        before, text = text, re.sub(r"\([^()]*\)", "", text)
    text = re.sub(r"(?i)(collaborations?|team|group|consortium)\s*:", r"\1,", text)
    text = re.sub(r",\s*((?:jr|sr)\.?|i{2,3}|iv)(?=\s*(?:,|$|\sand\s))", r" \1", text, flags=re.IGNORECASE)
    return people(re.split(r"\s*[,;]\s*(?:and\s+|&\s+)?|\s+and\s+|\s+&\s+", text))


def people(names: "map[str] | list[str] | tuple[str, ...]") -> tuple[str, ...]:
    """Return names without those of nobody, such as "others"."""
    clean = (" ".join(name.split()).strip(" :;,") for name in names)
    return tuple(name for name in clean if name and name.lower() not in _NOBODY)


def arxiv_of(*texts: str) -> str:
    """Return the first arXiv id that texts speak of, or nothing.

    Examples
    --------
    >>> arxiv_of("CoRR", "https://arxiv.org/abs/hep-th/9901001v2"), arxiv_of("arXiv preprint arXiv:2206.00927")
    ('hep-th/9901001v2', '2206.00927')
    """
    for text in texts:
        if found := _ARXIV.search(text[:_LONGEST]):
            return found[1]
    return ""


def doi_of(*texts: str) -> str:
    """Return the first DOI in texts that authors fill as they like, or nothing.

    Examples
    --------
    >>> doi_of("see https://doi.org/10.1000/x, 10.1000/y"), doi_of("10.1002/(SICI)3.0.CO;2-2;10.1000/y")
    ('10.1000/x', '10.1002/(SICI)3.0.CO;2-2')
    """
    for text in texts:
        if found := re.search(r"\b10\.\d{4,9}/(?:[^\s,;}\"]|;(?=[^\s;])(?!10\.|doi|http))+", text[:_LONGEST]):
            return found[0].rstrip(".")
    return ""


def date_of(year: str, month: str = "") -> datetime | None:
    """Return the first moment of a year or month, None for something that has no year.

    Raises
    ------
    MalformedEntry
        For a year or month that isn't one.

    Examples
    --------
    >>> date_of("2022", "jun").date().isoformat(), date_of("2020/05/06").date().isoformat(), date_of("in press")
    ('2022-06-01', '2020-05-06', None)
    """
    found = re.search(r"(?<!\d)(\d{4})(?!\d)(?:[-/](\d{1,2})(?!\d)(?:[-/](\d{1,2})(?!\d))?)?", year)
    if not found:
        return None
    number, day = int(found[2] or 0), int(found[3] or 1)
    if not number and month:
        named = re.search("|".join(_MONTHS), month.lower())
        digits = re.search(r"\d{1,2}", month)
        number = _MONTHS.index(named[0]) + 1 if named else int(digits[0]) if digits else 0
    try:
        return datetime(int(found[1]), number or 1, day, tzinfo=UTC)
    except ValueError:
        raise MalformedEntry(f"date is {year!r} {month!r}; it takes a year and a month") from None
