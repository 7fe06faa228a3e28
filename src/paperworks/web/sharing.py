"""Pictures of what was found of a paper: its verdict card and its badge."""

import functools
import threading
from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, HTTPException, Request, Response

from paperworks.evidence.verdict_card import badge, verdict_card
from paperworks.web.pages import site_of
from paperworks.web.records import Record, record_of
from paperworks.web.site import Made

router = APIRouter(include_in_schema=False)
_SVG_ALONE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
_KEPT = {"Cache-Control": "public, max-age=300"}


@router.get("/cards/{slug}.{kind}")
async def card(request: Request, slug: str, kind: Literal["svg", "png"]) -> Response:
    """Give the verdict card of a paper of ours."""
    return await _picture(request, kind, lambda: _card(_record(slug), kind))


@router.get("/badges/{slug}.svg")
async def badge_of(request: Request, slug: str) -> Response:
    """Give the badge of a paper of ours, which pages elsewhere may show."""
    response = await _picture(request, "svg", lambda: badge(_record(slug).claims))
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


def _record(slug: str) -> Record:
    record = record_of(slug)
    if record is None:
        raise HTTPException(404, "There is no such paper of ours.")
    return record


async def _picture(request: Request, kind: str, make: Callable[[], bytes]) -> Response:
    media_type = "image/svg+xml" if kind == "svg" else "image/png"
    headers = _KEPT | (_SVG_ALONE if kind == "svg" else {})
    return await site_of(request).alike(request, lambda: Made(make(), media_type), headers)


_drawing = threading.Lock()  # matplotlib draws in one thread at a time


@functools.lru_cache(maxsize=100)
def _card(record: Record, kind: Literal["svg", "png"]) -> bytes:
    with _drawing:
        return verdict_card(record.paper, record.claims, kind)
