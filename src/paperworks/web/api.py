"""The JSON API: all that the pages show to everyone."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, get_type_hints

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, create_model
from pydantic_core import to_json

from paperworks.evidence.views import ClaimView
from paperworks.feed.schema import FeedPaper
from paperworks.feed.search.query import MAX_LENGTH
from paperworks.feed.trending import votes_of
from paperworks.papers import fields as all_fields
from paperworks.papers import load_all
from paperworks.web import lists
from paperworks.web.cards import Card, cards, find_paper, href
from paperworks.web.display import safe_links, versions
from paperworks.web.lists import Listing
from paperworks.web.pages import PageNumber, site_of
from paperworks.web.records import record_of
from paperworks.web.site import Made, Site

_COPIED = ("id", "title", "authors", "text", "published", "withdrawn")
router = APIRouter(prefix="/api", tags=["papers"])
Key = Annotated[str, Path(description="Short name, arXiv id or number of a paper", max_length=80)]


class Verdicts(BaseModel):
    """How many claims hold, and of how many."""

    hold: int
    of: int


class PaperInList(BaseModel):
    """A paper in a list."""

    id: int
    url: str
    title: str
    authors: str
    text: str
    published: datetime | None
    withdrawn: bool
    categories: list[str]
    votes: int
    claims: Verdicts | None


class PaperList(BaseModel):
    """A page of a list of papers."""

    title: str
    page: int
    more: bool
    papers: list[PaperInList]


# A claim or race as every other place shows it, its figures by name.
_FIELDS: dict[str, Any] = {name: (hint, ...) for name, hint in get_type_hints(ClaimView).items()}
Claim = create_model("Claim", **{**_FIELDS, "figures": (list[str], ...), "own": (dict[str, Any] | None, None)})


class PaperDetails(BaseModel):
    """All that is known of a paper."""

    id: int
    url: str
    slug: str | None
    arxiv: str | None
    version: int
    versions: dict[int, datetime]
    withdrawn: bool
    comment: str
    journal_ref: str
    doi: str | None
    title: str
    authors: list[str]
    abstract: str
    summary: str
    categories: list[str]
    published: datetime | None
    updated: datetime | None
    links: dict[str, str]
    votes: int
    methods: list[str]
    usage: str
    claims: list[Claim]  # type: ignore[valid-type]
    peers: list[Claim]  # type: ignore[valid-type]


class Result(BaseModel):
    """What was measured of a paper of ours."""

    slug: str
    title: str
    field: str
    verdicts: dict[str, int]


@router.get("/papers", response_model=PaperList)
async def newest(request: Request, page: PageNumber = 1) -> Response:
    """List the newest papers."""
    return await _answer(request, lambda site: list_of(site, lists.newest(site.store, page)))


@router.get("/trending/{period}", response_model=PaperList)
async def trending(request: Request, period: Literal["day", "week", "month"], page: PageNumber = 1) -> Response:
    """List what is trending."""
    return await _answer(request, lambda site: list_of(site, lists.hot(site.store, period, page)))


@router.get("/search", response_model=PaperList)
async def search(request: Request, q: Annotated[str, Query(max_length=MAX_LENGTH)], page: PageNumber = 1) -> Response:
    """Search by words and by meaning; a query takes "phrases", -without, author:, title:, field: and since:."""
    return await _answer(request, lambda site: list_of(site, lists.found(site.store, q, site.meaning, page)), True)


@router.get("/papers/{key:path}/similar", response_model=PaperList)
async def similar(request: Request, key: Key) -> Response:
    """List the papers whose meaning is nearest to a paper's."""

    def make(site: Site) -> PaperList:
        paper = find_paper(site.store, key)
        near = site.meaning.similar(paper.id, 10) if site.meaning else []
        return list_of(site, Listing(f"Similar to {paper.title}", [found for found, _ in near]))

    return await _answer(request, make, True)


@router.get("/papers/{key:path}", response_model=PaperDetails)
async def paper(request: Request, key: Key) -> Response:
    """Show a paper, with its claims and races where it is ours."""
    return await _answer(request, lambda site: _details(site, find_paper(site.store, key)))


@router.get("/fields")
def fields() -> list[str]:
    """List the fields of our papers."""
    return all_fields()


@router.get("/fields/{field}", response_model=PaperList)
async def field(request: Request, field: str, page: PageNumber = 1) -> Response:
    """List the papers of a field, or of a category of arXiv such as cs.LG."""
    return await _answer(request, lambda site: list_of(site, lists.of_field(site.store, field, page)))


@router.get("/results", response_model=list[Result])
async def results(request: Request) -> Response:
    """List our papers with the verdicts on their claims and races."""

    def make(site: Site) -> list[Result]:
        records = [found for paper in load_all() if (found := record_of(paper.slug))]
        return [
            Result(slug=r.paper.slug, title=r.paper.title, field=r.paper.field, verdicts=dict(r.verdicts))
            for r in records
        ]

    return await _answer(request, make)


async def _answer(request: Request, make: Callable[[Site], Any], searching: bool = False) -> Response:
    """Answer with what is alike for all, as JSON."""
    site = site_of(request)

    def made() -> Made:
        return Made(to_json(make(site), inf_nan_mode="null"), "application/json")

    return await site.alike(request, made, searching=searching)


def _details(site: Site, paper: FeedPaper) -> PaperDetails:
    record = record_of(paper.slug)
    return PaperDetails(
        id=paper.id,
        url=site.settings.base_url + href(paper),
        slug=paper.slug,
        arxiv=paper.arxiv_id,
        version=paper.version,
        versions=dict(versions(paper.versions)),
        withdrawn=paper.withdrawn,
        comment=paper.comment,
        journal_ref=paper.journal_ref,
        doi=paper.doi,
        title=paper.title,
        authors=[name for name in paper.authors.split("\n") if name],
        abstract=paper.abstract,
        summary=paper.summary,
        categories=paper.categories.split(),
        published=paper.published,
        updated=paper.updated,
        links=safe_links(paper.links),
        votes=votes_of(site.store, [paper.id])[paper.id],
        methods=list(record.paper.methods) if record else [],
        usage=record.paper.usage if record else "",
        claims=[view.to_json() for view in record.claims] if record else [],
        peers=[view.to_json() for view in record.peers] if record else [],
    )


def list_of(site: Site, listing: Listing) -> PaperList:
    """Return a page of a list as the API gives it."""
    shown = cards(site.store, listing.ids)
    return PaperList(
        title=listing.title, page=listing.page, more=listing.more, papers=[_in_list(site, card) for card in shown]
    )


def _in_list(site: Site, card: Card) -> PaperInList:
    values: dict[str, Any] = {name: getattr(card, name) for name in _COPIED}
    claims = Verdicts(hold=card.claims[0], of=card.claims[1]) if card.claims else None
    url = site.settings.base_url + card.href
    return PaperInList(**values, url=url, categories=list(card.categories), votes=card.votes, claims=claims)
