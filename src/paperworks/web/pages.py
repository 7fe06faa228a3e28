"""The pages that need no account."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, cast
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from paperworks.evidence.benchmark import read_benchmarks
from paperworks.evidence.results import results_of
from paperworks.evidence.week import week_of
from paperworks.feed.bibtex import to_bibtex
from paperworks.feed.housekeeping import SENDS_KEPT
from paperworks.feed.search.query import BadQuery
from paperworks.feed.sessions import SESSION_LIFE
from paperworks.feed.submissions import Submissions
from paperworks.feed.trending import votes_of
from paperworks.papers import fields as all_fields
from paperworks.papers import load_all
from paperworks.web import lists
from paperworks.web.cards import cards, find_paper, href
from paperworks.web.display import STATIC
from paperworks.web.lists import MAX_PAGE, Listing
from paperworks.web.markdown import MARKDOWN, paper_as_markdown, prefers_markdown, write_llms
from paperworks.web.records import record_of
from paperworks.web.site import PUBLIC, Made, Page, Site, by_script
from paperworks.web.sitemap import XML, write_sitemap, write_sitemap_index
from paperworks.web.syndication import Format, as_feed

router = APIRouter(include_in_schema=False)
PageNumber = Annotated[int, Query(ge=1, le=MAX_PAGE)]
SIMILAR = 6
PRIVACY = {"session": SESSION_LIFE.days, "sends": SENDS_KEPT.days}
SINCE = {"7d": "the last week", "31d": "the last month", "366d": "the last year"}


def site_of(request: Request) -> Site:
    """Return the site that a request is for."""
    return cast(Site, request.app.state.site)


@router.get("/")
async def newest(request: Request, page: PageNumber = 1) -> Response:
    """Show the newest papers."""
    return await _list(request, "newest", "/newest", lambda site: lists.newest(site.store, page))


@router.get("/newest.{suffix}")
async def newest_feed(request: Request, suffix: Format) -> Response:
    """Give the newest papers as a feed."""
    site = site_of(request)
    return await site.alike(request, lambda: as_feed(site, suffix, lists.newest(site.store), "/"))


@router.get("/search")
async def search(request: Request, q: str = "", field: str = "", since: str = "", page: PageNumber = 1) -> Response:
    """Show what a search finds; its results are swapped in while it is typed."""
    site = site_of(request)
    text = _with_filters(q, field, since)

    def make(person: int | None) -> Page:
        values = {"q": q, "field": field, "since": since, "text": text, "since_choices": SINCE, "problem": ""}
        status, listing = 200, Listing("Search", [])
        try:
            if text:
                listing = lists.found(site.store, text, site.meaning, page, as_typed=by_script(request))
        except BadQuery as error:
            values["problem"], status = str(error), 200 if by_script(request) else 400
        shown = cards(site.store, listing.ids)
        more = {"feed": "/search", "kind": "search", "cards": shown, "listing": listing, **marks(site, person)}
        return Page("search.html", values | more, status=status)

    return await site.page(request, make, searching=bool(text))


@router.get("/search.{suffix}")
async def search_feed(request: Request, suffix: Format, q: str = "", field: str = "", since: str = "") -> Response:
    """Give what a search finds as a feed, the newest first."""
    site = site_of(request)
    text = _with_filters(q, field, since)

    def make() -> Made:
        return as_feed(site, suffix, lists.found(site.store, text, None), f"/search?{request.url.query}")

    return await site.alike(request, make, searching=True)


def _with_filters(q: str, field: str, since: str) -> str:
    parts = [" ".join(q.split())]
    if field in all_fields():
        parts.append(f"field:{field}")
    if since in SINCE:
        parts.append(f"since:{since}")
    return " ".join(part for part in parts if part)


def _add_lists() -> None:
    def add(kind: str, listing: Callable[[Site, str, int], Listing]) -> None:
        @router.get(f"/{kind}/{{name}}.{{suffix}}", name=f"{kind} as a feed")
        async def feed(request: Request, name: str, suffix: str) -> Response:
            if suffix not in ("atom", "rss"):  # a category such as cs.LG
                return await page(request, f"{name}.{suffix}")
            site = site_of(request)
            form = cast(Format, suffix)
            return await site.alike(request, lambda: as_feed(site, form, listing(site, name, 1), f"/{kind}/{name}"))

        @router.get(f"/{kind}/{{name}}", name=kind)
        async def page(request: Request, name: str, page: PageNumber = 1) -> Response:
            return await _list(request, kind, f"/{kind}/{name}", lambda site: listing(site, name, page), name=name)

    for kind in ("day", "week", "month"):
        add(kind, functools.partial(_span, kind))
    add("fields", lambda site, name, page: lists.of_field(site.store, name, page))


def _span(kind: str, site: Site, name: str, page: int) -> Listing:
    return lists.span(site.store, kind, name, page)


_add_lists()


async def _list(request: Request, kind: str, feed: str, listing: Callable[[Site], Listing], **more: Any) -> Response:
    site = site_of(request)

    def make(person: int | None) -> Page:
        found = listing(site)
        values = {"listing": found, "kind": kind, "feed": feed, "cards": cards(site.store, found.ids)}
        return Page("list.html", values | marks(site, person) | {"name": "", "field": "", **more})

    return await site.page(request, make)


def marks(site: Site, person: int | None) -> dict[str, set[int]]:
    """Return which papers someone voted for, and which they keep."""
    if person is None:
        return {"voted": set(), "kept": set()}
    return {"voted": set(site.people.votes(person)), "kept": set(site.people.reading_list(person))}


@router.get("/trending/{name}.{suffix}")
async def trending_feed(request: Request, name: str, suffix: Format, field: str = "") -> Response:
    """Give what is trending as a feed."""
    site = site_of(request)
    path = f"/trending/{name}" + (f"?{request.url.query}" if field else "")
    return await site.alike(request, lambda: as_feed(site, suffix, lists.hot(site.store, name, field=field), path))


@router.get("/trending/{name}")
async def trending_in(request: Request, name: str, field: str = "", page: PageNumber = 1) -> Response:
    """Show what is trending, in all fields or in one."""
    return await _list(
        request,
        "trending",
        f"/trending/{name}",
        lambda site: lists.hot(site.store, name, page, field),
        name=name,
        field=field,
    )


@router.get("/trending")
def trending() -> Response:
    """Lead to what is trending this week."""
    return RedirectResponse("/trending/week", 307)


@router.get("/paper/{key:path}.bib")
async def bibtex(request: Request, key: str) -> Response:
    """Give a paper as BibTeX."""
    site = site_of(request)

    def make() -> Made:
        return Made(to_bibtex(find_paper(site.store, key)).encode(), "application/x-bibtex; charset=utf-8")

    return await site.alike(request, make)


@router.get("/paper/{key:path}.md")
async def paper_markdown(request: Request, key: str) -> Response:
    """Give a paper as Markdown."""
    site = site_of(request)
    headers = {**PUBLIC, "Link": f'<{site.settings.base_url}/paper/{quote(key)}>; rel="canonical"'}
    return await site.alike(request, lambda: Made(paper_as_markdown(site, key), MARKDOWN), headers)


@router.get("/paper/{key:path}")
async def paper(request: Request, key: str) -> Response:
    """Show a paper; whoever would rather have Markdown is led to that."""
    site = site_of(request)
    if prefers_markdown(request.headers.get("accept", "")):
        return RedirectResponse(f"/paper/{quote(key)}.md", 307, {"Vary": "Accept"})

    def make(person: int | None) -> Page:
        paper = find_paper(site.store, key)
        near = site.meaning.similar(paper.id, SIMILAR) if site.meaning else []
        record = record_of(paper.slug)
        elsewhere = Submissions(site.store).of(record.paper, (*record.claims, *record.peers)) if record else {}
        values = {
            "paper": paper,
            "names": [name for name in paper.authors.split("\n") if name],
            "href": href(paper),
            "record": record,
            "elsewhere": elsewhere,
            "votes": votes_of(site.store, [paper.id])[paper.id],
            "similar": cards(site.store, [found for found, _ in near]),
            "bibtex": to_bibtex(paper),
            **marks(site, person),
        }
        return Page("paper.html", values, reads=paper.id)

    return await site.page(request, make)


@router.get("/figures/{slug}/{name}")
def figure(slug: str, name: str) -> Response:
    """Give a figure or a recording of a claim."""
    record = record_of(slug)
    if record is None or name not in record.paths:
        raise HTTPException(404, "There is no such figure.")
    policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # an SVG opened by itself may run nothing
    headers = {"Content-Security-Policy": policy, "Cache-Control": "public, max-age=300"}
    return FileResponse(record.paths[name], headers=headers)


@router.get("/fields")
async def fields(request: Request) -> Response:
    """Show the fields, each with our papers in it."""

    def make(person: int | None) -> Page:
        papers = {field: [p for p in load_all() if p.field == field] for field in all_fields()}
        return Page("fields.html", {"papers": papers})

    return await site_of(request).page(request, make)


@router.get("/results")
async def results(request: Request) -> Response:
    """Show what was measured of all our papers."""

    def make(person: int | None) -> Page:
        records = [found for paper in load_all() if (found := record_of(paper.slug))]
        return Page("results.html", {"records": records, "benchmarks": read_benchmarks()})

    return await site_of(request).page(request, make)


@router.get("/results/week")
async def week(request: Request) -> Response:
    """Show what was measured in the last seven days."""

    def make(person: int | None) -> Page:
        return Page("week.html", {"week": week_of(results_of(load_all()), datetime.now(UTC).date())})

    return await site_of(request).page(request, make)


@router.get("/about")
async def about(request: Request) -> Response:
    """Say what the site is."""
    site = site_of(request)
    return await site.page(request, lambda person: Page("about.html", {"count": site.store.count()}))


@router.get("/api")
async def api(request: Request) -> Response:
    """Document the JSON API."""
    calls = [
        (
            "" if method == "get" else method.upper(),
            path,
            call.get("description", ""),
            [_parameter(found) for found in call.get("parameters", [])],
        )
        for path, methods in request.app.openapi()["paths"].items()
        for method, call in methods.items()
    ]
    return await site_of(request).page(request, lambda person: Page("api.html", {"calls": calls}))


def _parameter(found: dict[str, Any]) -> tuple[str, str]:
    """Return the name of a parameter and what it takes."""
    schema = found["schema"]
    takes = found.get("description") or ", ".join(schema.get("enum", [])) or schema.get("type", "")
    return found["name"], takes if found["required"] else f"{takes}, optional"


@router.get("/privacy")
async def privacy(request: Request) -> Response:
    """Say what is kept of people."""
    return await site_of(request).page(request, lambda person: Page("privacy.html", PRIVACY))


@router.get("/abs/{key:path}")
def abstract(request: Request, key: str) -> Response:
    """Lead from an address as arXiv has it to a paper's page."""
    return RedirectResponse(href(find_paper(site_of(request).store, key)), 307)


@router.get("/favicon.ico")
def favicon() -> Response:
    """Give the site's icon where browsers look for it."""
    return FileResponse(STATIC / "favicon.ico", headers={"Cache-Control": "public, max-age=86400"})


@router.get("/llms.txt")
async def llms(request: Request) -> Response:
    """Tell language models what is here, and where it is as Markdown."""
    site = site_of(request)
    return await site.alike(request, lambda: Made(write_llms(site), "text/plain; charset=utf-8"))


@router.get("/robots.txt")
def robots(request: Request) -> Response:
    """Tell robots where not to go, and where they find all papers."""
    lines = [f"Disallow: {path}" for path in ("/search", "/api/", "/sign-in", "/account", "/subscribe")]
    body = "\n".join(["User-agent: *", *lines, "", f"Sitemap: {site_of(request).settings.base_url}/sitemap.xml", ""])
    return Response(body, media_type="text/plain")


@router.get("/sitemap.xml")
async def sitemap(request: Request) -> Response:
    """List the parts of the site's map."""
    site = site_of(request)
    return await site.alike(request, lambda: Made(write_sitemap_index(site.store, site.settings.base_url), XML))


@router.get("/sitemap-{part}.xml")
async def sitemap_part(request: Request, part: Annotated[int, Path(ge=0, le=10**6)]) -> Response:
    """List the pages of a part of the site's map."""
    site = site_of(request)
    return await site.alike(request, lambda: Made(write_sitemap(site.store, site.settings.base_url, part), XML))
