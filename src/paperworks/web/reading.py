"""The reading list: shown with more like it, and taken from and given to reference managers."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response

from paperworks.feed.limits import limit
from paperworks.feed.reading_files import Imported, export_reading_list, import_reading_list
from paperworks.feed.search.fused import fuse
from paperworks.web.account import download, me, writer
from paperworks.web.cards import cards
from paperworks.web.lists import page_of
from paperworks.web.pages import PageNumber, marks, site_of
from paperworks.web.protection import UPLOADS
from paperworks.web.site import Page, Site

router = APIRouter(include_in_schema=False)
PATH = "/reading-list/import"
UPLOADS[PATH] = 2 * 2**20
IMPORTS = {"times": 20, "seconds": 3600}
"""How many files one person may import: to read a large one takes seconds."""
_LAST, _EACH, _SHOWN = 30, 20, 5
"""More like the list is what is nearest to its last papers, each by itself: a list may be of several subjects."""
_MEDIA = {"bib": "application/x-bibtex", "ris": "application/x-research-info-systems", "csv": "text/csv"}


@router.get("/reading-list")
def reading_list(request: Request, page: PageNumber = 1) -> Response:
    """Show someone's reading list, page by page: an import may bring thousands of papers."""
    return _shown(request, site_of(request), me(request), page=page)


@router.post(PATH)
def import_file(request: Request, file: Annotated[bytes, File()], form_token: Annotated[str, Form()] = "") -> Response:
    """Put the papers of a file on the reading list."""
    site, person = writer(request, form_token, "/reading-list")
    limit(site.store, "import", str(person), **IMPORTS)
    try:
        imported = import_reading_list(site.people, person, file)
    except ValueError as error:
        return _shown(request, site, person, problem=str(error)[:1].upper() + str(error)[1:300], status=400)
    return _shown(request, site, person, imported=imported)


@router.get("/account/reading-list.{kind}")
def export(request: Request, kind: str) -> Response:
    """Give someone's reading list as a file."""
    site, person = site_of(request), me(request)
    if kind not in _MEDIA:
        raise LookupError(f"there is no reading list as {kind[:20]!r}; there are {', '.join(_MEDIA)}")
    body = export_reading_list(site.people, person, kind)
    return Response(body, media_type=f"{_MEDIA[kind]}; charset=utf-8", headers=download(f"reading-list.{kind}"))


def _shown(
    request: Request,
    site: Site,
    person: int,
    *,
    page: int = 1,
    imported: Imported | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    kept = site.people.reading_list(person)
    listing = page_of("Reading list", kept, page)
    values = {
        "listing": listing,
        "cards": cards(site.store, listing.ids),
        "similar": cards(site.store, more_like(site, kept)),
        "imported": imported,
        "problem": problem,
        **marks(site, person),
    }
    return site.render(request, Page("reading_list.html", values, status=status))


def more_like(site: Site, papers: list[int]) -> list[int]:
    """Return the papers that are nearest in meaning to some, without those themselves."""
    if site.meaning is None:
        return []
    near = [[found for found, _ in site.meaning.similar(paper, _EACH)] for paper in papers[:_LAST]]
    kept = set(papers)
    return [paper for paper in fuse(near) if paper not in kept][:_SHOWN]
