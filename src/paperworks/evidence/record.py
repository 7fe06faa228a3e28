"""The record of a paper, read from its `paper.toml`."""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paperworks.evidence import notebook
from paperworks.evidence.bars import Bar
from paperworks.evidence.measurement import SINGLE

Scale = Literal["smoke", "desk", "full"]
SCALES: tuple[Scale, ...] = ("smoke", "desk", "full")


class RecordError(ValueError):
    """A `paper.toml` that can't be read; the message names the file and what is wrong in it."""


@dataclass(frozen=True)
class Claim:
    """One sentence of what the paper reports, and the bars that decide it.

    `where` is the place in the paper that says so. `bars` maps the name of each measured value to its bar, and
    `labels` to words for a reader; a claim with one value uses the empty name. `scale` is the least scale at which
    the bars decide. `note` explains a known shortfall.

    Parameters
    ----------
    id
        Its name within the paper, such as ``c1-orders``.
    says
        The sentence that is claimed.
    reported
        The paper's own figure, in words.
    measure
        What is measured, in words.
    bars
        The bar of each measured value by its name; the empty name where there is one value.
    scale
        Least scale at which the bars decide.
    headline
        Whether the claim stands for the paper in lists.
    note
        Why a known shortfall falls short, else empty.
    where
        Place in the paper that says so.
    labels
        Words for a reader by the name of each value.
    """

    id: str
    says: str
    reported: str
    measure: str
    bars: Mapping[str, Bar]
    scale: Scale = "desk"
    headline: bool = False
    note: str = ""
    where: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def _repr_html_(self) -> str:
        star = "★ " if self.headline else ""
        told = {"says": self.says, "reported": self.reported, "where": self.where, "measured": self.measure}
        return notebook.facts(f"{star}{self.id}", {**told, "bar": _bar_text(self), "note": self.note})


@dataclass(frozen=True)
class Peer:
    """An existing package that does the same job, and the bars of the race against it.

    Parameters
    ----------
    id
        Its name within the paper.
    package
        Name of the package that does the same job.
    says
        What is raced, in one sentence.
    bars
        The bar of each measured value by its name; the empty name where there is one value.
    scale
        Least scale at which the bars decide.
    note
        Why a known shortfall falls short, else empty.
    labels
        Words for a reader by the name of each value.
    """

    id: str
    package: str
    says: str
    bars: Mapping[str, Bar]
    scale: Scale = "desk"
    note: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def _repr_html_(self) -> str:
        told = {"package": self.package, "says": self.says, "bar": _bar_text(self), "note": self.note}
        return notebook.facts(self.id, told)


@dataclass(frozen=True)
class Paper:
    """A paper: what it is, its methods, its claims and its peers.

    `questions` are those that it answers, in the words of people who have the problem. `origin` is empty for
    Paperworks' own papers, else the package or folder that it comes from.

    Parameters
    ----------
    slug
        Its name in commands, and of its folder.
    folder
        Folder that holds the record.
    title
        Title of the publication.
    year
        Year in which it appeared.
    authors
        Names of the authors in their order.
    field
        Field package that its methods are in.
    summary
        The problem, the idea and when to use it, in our own words.
    arxiv, doi
        Identifiers of the publication, empty where unknown.
    methods
        Full names of the classes and functions that implement it.
    tags
        Words that lists and searches go by.
    questions
        What it answers, in the words of people who have the problem.
    links
        Further addresses by their names.
    note
        A remark of the record, mostly empty.
    claims
        What it reports, in the record's order.
    peers
        Packages that it is raced against.
    origin
        The package or folder that it comes from, empty for Paperworks' own papers.
    """

    slug: str
    folder: Path
    title: str
    year: int
    authors: tuple[str, ...]
    field: str
    summary: str
    arxiv: str = ""
    doi: str = ""
    methods: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""
    claims: tuple[Claim, ...] = ()
    peers: tuple[Peer, ...] = ()
    origin: str = ""

    @property
    def planned(self) -> bool:
        """Whether nothing of the paper can be measured yet."""
        return not (self.folder / "claims.py").exists()

    @property
    def usage(self) -> str:
        """The source of `usage.py`, empty for a planned paper."""
        path = self.folder / "usage.py"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _repr_html_(self) -> str:
        return notebook.lines(
            self._head_html(),
            notebook.listed(self.methods),
            notebook.table(
                "Claims",
                ("claim", "says", "reported", "bar"),
                [(c.id, c.says, c.reported, _bar_text(c)) for c in self.claims],
            ),
            notebook.folded("Usage", notebook.code(self.usage)) if self.usage else "",
        )

    def _head_html(self) -> notebook.Html:
        """Return what heads whatever a notebook shows of the paper."""
        address = self.links.get("paper", "")
        by = f"{', '.join(self.authors)} · {self.year} · {self.field}"
        return notebook.lines(notebook.link(address, self.title), by, self.summary, self.note)


_TEXT = {"title", "field", "summary", "arxiv", "doi", "note"}
_TEXTS = {"authors", "methods", "tags", "questions"}
_PAPER_KEYS = _TEXT | _TEXTS | {"year", "links", "claims", "peers"}
_CLAIM_KEYS = {"id", "says", "reported", "where", "measure", "bar", "labels", "scale", "headline", "note"}
_PEER_KEYS = {"id", "package", "says", "bar", "labels", "scale", "note"}


def read_toml(path: Path) -> dict[str, Any]:
    """Return what stands in a file of TOML."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_paper(folder: Path, parse: Callable[[Path], dict[str, Any]] = read_toml, origin: str = "") -> Paper:
    """Read `paper.toml` of a paper's folder.

    Parameters
    ----------
    folder
        The paper's folder; its name is the slug.
    parse
        Returns what stands in a file of TOML, and raises what `tomllib` does; `read_toml` by default.
    origin
        The package or folder that the paper comes from, empty for Paperworks itself.

    Returns
    -------
    Paper
        The record, checked against the rules.

    Raises
    ------
    RecordError
        Where the file is missing, is not TOML, or a key is missing, unknown or of the wrong type.
    """
    path = folder / "paper.toml"
    try:
        data = parse(path)
    except OSError as error:
        raise RecordError(f"{path}: can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not TOML: {error}") from None
    try:
        return _paper(folder, data, origin)
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from None


def _paper(folder: Path, data: dict[str, Any], origin: str) -> Paper:
    _only(data, _PAPER_KEYS, "the record")
    for key in ("title", "year", "authors", "field", "summary"):
        if key not in data:
            raise ValueError(f"'{key}' is missing")
    if not (data.get("arxiv") or data.get("doi")):
        raise ValueError("'arxiv' is missing (or 'doi', where the arXiv id is not known)")
    for key in _TEXT & data.keys():
        _typed(data[key], str, key)
    for key in _TEXTS & data.keys():
        for item in _typed(data[key], list, key):
            _typed(item, str, f"{key}[]")
    _typed(data["year"], int, "year")
    for name, link in _typed(data.get("links", {}), dict, "links").items():
        _typed(link, str, f"links.{name}")
    claims = tuple(_claim(c) for c in _tables(data, "claims"))
    peers = tuple(_peer(p) for p in _tables(data, "peers"))
    for kind, ids in (("claim", [c.id for c in claims]), ("peer", [p.id for p in peers])):
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"{kind} id '{twice[0]}' stands twice")
    texts: dict[str, Any] = {key: data[key] for key in _TEXT & data.keys()}
    texts |= {key: tuple(data[key]) for key in _TEXTS & data.keys()}
    return Paper(
        slug=folder.name.replace("_", "-"),
        folder=folder,
        year=data["year"],
        links=data.get("links", {}),
        claims=claims,
        peers=peers,
        origin=origin,
        **texts,
    )


def _bar_text(item: Claim | Peer) -> str:
    return "; ".join(f"{item.labels.get(name, name)}: {bar}" if name else str(bar) for name, bar in item.bars.items())


def _tables(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [_typed(item, dict, f"{key}[]") for item in _typed(data.get(key, []), list, key)]


def _claim(data: dict[str, Any]) -> Claim:
    where = _entry(data, "claim", _CLAIM_KEYS, ("id", "says", "reported", "measure", "bar"))
    headline = _typed(data.get("headline", False), bool, f"{where}: headline")
    bars = _bars(data["bar"], where)
    labels = _labels(data, bars, where)
    return Claim(headline=headline, bars=bars, labels=labels, **_texts(data, where, "bar", "labels", "headline"))


def _peer(data: dict[str, Any]) -> Peer:
    where = _entry(data, "peer", _PEER_KEYS, ("id", "package", "says", "bar"))
    bars = _bars(data["bar"], where)
    return Peer(bars=bars, labels=_labels(data, bars, where), **_texts(data, where, "bar", "labels"))


def _entry(data: dict[str, Any], kind: str, keys: set[str], required: tuple[str, ...]) -> str:
    where = f"{kind} '{data.get('id', '?')}'"
    _only(data, keys, where)
    for key in required:
        if key not in data:
            raise ValueError(f"{where}: '{key}' is missing")
    if data.get("scale", "desk") not in SCALES:
        raise ValueError(f"{where}: scale is {data['scale']!r}; it takes one of {', '.join(SCALES)}")
    return where


def _texts(data: dict[str, Any], where: str, *others: str) -> dict[str, Any]:
    return {key: _typed(value, str, f"{where}: {key}") for key, value in data.items() if key not in others}


def _bars(bar: Any, where: str) -> dict[str, Bar]:
    try:
        if isinstance(bar, dict):
            if not bar:
                raise ValueError("bar names no value")
            return {name: Bar.parse(_typed(text, str, f"bar.{name}")) for name, text in bar.items()}
        return {SINGLE: Bar.parse(_typed(bar, str, "bar"))}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _labels(data: dict[str, Any], bars: Mapping[str, Bar], where: str) -> dict[str, str]:
    labels = _typed(data.get("labels", {}), dict, f"{where}: labels")
    if unknown := sorted(labels.keys() - bars.keys()):
        raise ValueError(f"{where}: labels names '{unknown[0]}', which has no bar; it takes {', '.join(bars)}")
    return {name: _typed(text, str, f"{where}: labels.{name}") for name, text in labels.items()}


def _only(data: dict[str, Any], keys: set[str], where: str) -> None:
    if unknown := sorted(data.keys() - keys):
        raise ValueError(f"{where}: unknown key '{unknown[0]}'; it takes {', '.join(sorted(keys))}")


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} is {value!r}; it takes a {kind.__name__}")
    return value
