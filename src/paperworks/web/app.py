"""The web application."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy.exc import DataError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from paperworks import __version__
from paperworks.feed.limits import TooOften
from paperworks.feed.people import BadAddress
from paperworks.feed.search.meaning import Embed
from paperworks.feed.search.query import BadQuery
from paperworks.feed.tokens import BadToken
from paperworks.web import account, api, health, measured, pages, reading, scripts, sharing
from paperworks.web.account import SignInFirst
from paperworks.web.display import STATIC, query
from paperworks.web.protection import HEADERS, Protection
from paperworks.web.settings import Settings
from paperworks.web.site import Page, Site
from paperworks.web.work import Busy

log = logging.getLogger("paperworks.web")
_STATUS: dict[type[Exception], int] = {
    LookupError: 404,
    BadQuery: 400,
    BadToken: 400,
    BadAddress: 400,
    TooOften: 429,
    Busy: 503,
    RequestValidationError: 422,
    DataError: 400,  # PostgreSQL's: a number or a character that no column of ours can hold
    OverflowError: 400,  # SQLite's
    Exception: 500,
}


def create_app(settings: Settings | None = None, *, embed: Embed | None = None) -> FastAPI:
    """Return the Daily Papers site as an ASGI application.

    Parameters
    ----------
    settings
        Of the site.
    embed
        The sentence model; by default MiniLM's.

    Raises
    ------
    FutureSchema, ValueError
        At start, as `FeedStore`.

    Examples
    --------
    >>> app = create_app(Settings(feed="sqlite://"))
    >>> app.title
    'Daily Papers'
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        site = await run_in_threadpool(Site, settings, embed)
        app.state.site = site
        await run_in_threadpool(site.start)
        try:
            yield
        finally:
            await run_in_threadpool(site.stop)

    app = FastAPI(
        title="Daily Papers",
        version=__version__,
        description="Papers in time, with the claims that were measured.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.add_middleware(Protection, secure=settings.secure)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    app.mount("/static", _Static(directory=STATIC))
    for router in (
        health.router,
        scripts.router,  # before the others of the API, one of which takes any path
        api.router,
        sharing.router,
        pages.router,
        reading.router,
        scripts.pages,
        measured.router,
        account.router,
    ):
        app.include_router(router)
    for kind in (*_STATUS, HTTPException):
        app.add_exception_handler(kind, _explain)
    app.add_exception_handler(SignInFirst, _sign_in_first)
    return app


class _Static(StaticFiles):
    """Files whose addresses change when they do, and that browsers therefore keep."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _explain(request: Request, error: Exception) -> Response:
    """Answer an error: as JSON in the API, else as a page."""
    headers = dict(getattr(error, "headers", None) or {})
    if isinstance(error, HTTPException):
        status, problem = error.status_code, str(error.detail)
    else:
        status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
        problem = str(error.args[0]) if error.args else ""
    if isinstance(error, RequestValidationError):
        problem = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
    if isinstance(error, DataError | OverflowError):
        problem = "This holds a number or a character that nothing here has."
    if isinstance(error, TooOften | Busy):
        headers["Retry-After"] = str(error.seconds)
    if status == 500:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        problem = "Something went wrong on our side."
        headers |= HEADERS  # such answers are made outside of what protects the others
    problem = problem[:1].upper() + problem[1:300]
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": problem}, status, headers)
    page = Page("error.html", {"title": HTTPStatus(status).phrase, "problem": problem}, status=status)
    response = request.app.state.site.render(request, page)
    response.headers.update(headers)
    return response


def _sign_in_first(request: Request, error: Exception) -> Response:
    return RedirectResponse(query("/sign-in", next=getattr(error, "next", "/")), 303)
