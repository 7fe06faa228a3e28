"""What every answer and every request goes through: headers, sizes, and forms that only our own pages can send."""

import asyncio
import hmac
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paperworks.feed.tokens import BadToken, Tokens
from paperworks.web.settings import Settings

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
MAX_BODY = 64 * 1024
"""Bytes of a request; the longest form is a search."""
UPLOADS: dict[str, int] = {}
"""Paths that take files, with the bytes of a request there."""
BODY_SECONDS = 10.0
"""How long they may take to come."""


class Protection:
    """Adds security headers to every answer and refuses bodies that are larger than any form of ours.

    Parameters
    ----------
    app
        What is protected.
    secure
        Whether the site is reached by TLS.
    """

    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self.app = app
        self._headers = dict(HEADERS)
        if secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                if message.get("more_body"):
                    return
                message = {"type": "http.response.body", "body": b""}
            await send_protected(message)

        if scope["method"] == "HEAD":  # the same as GET, without what it would give
            await self.app({**scope, "method": "GET"}, receive, send_head)
            return
        if scope["method"] in ("GET", "OPTIONS"):
            await self.app(scope, receive, send_protected)
            return
        most = UPLOADS.get(scope["path"], MAX_BODY)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive, most)
        except ClientDisconnect:
            return
        except TimeoutError:
            await _refuse(408, "The request takes too long.")(scope, receive, send_protected)
            return
        if len(body) > most:
            await _refuse(413, "The request is too large.")(scope, receive, send_protected)
            return

        rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return rest.pop() if rest else await receive()

        await self.app(scope, replay, send_protected)


async def _body(receive: Receive, most: int) -> bytes:
    """Return the body of a request, or as much of it as shows that it is too large."""
    body = bytearray()
    while len(body) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body)


def _refuse(status: int, text: str) -> Response:
    return Response(text, status, {"Connection": "close"}, "text/plain")  # what is still to come is not waited for


class Forms:
    """Ties forms to the browser they were shown in, so that no other site can send them.

    A random value stands in a cookie, and signed in the form; a write takes both.

    Parameters
    ----------
    tokens
        Signs.
    settings
        Of the site.
    """

    def __init__(self, tokens: Tokens, settings: Settings) -> None:
        self._tokens, self._secure = tokens, settings.secure
        self.cookie = cookie_name("visitor", secure=settings.secure)

    def visitor(self, request: Request) -> str:
        """Return the random value of the browser; a new one where it has none yet."""
        if not hasattr(request.state, "visitor"):
            known = request.cookies.get(self.cookie, "")
            request.state.visitor = known if 20 <= len(known) <= 64 else secrets.token_urlsafe(24)
        return str(request.state.visitor)

    def renew(self, request: Request) -> None:
        """Give the browser a new value, as whoever signs in must not go on with one that another may know."""
        request.state.visitor = secrets.token_urlsafe(24)

    def token(self, request: Request) -> str:
        """Return what a form carries."""
        return self._tokens.make("form", {"visitor": self.visitor(request)})

    def remember(self, request: Request, response: Response) -> None:
        """Set the cookie where a form was shown to a browser that has none."""
        visitor = getattr(request.state, "visitor", None)
        if visitor and visitor != request.cookies.get(self.cookie):
            set_cookie(response, self.cookie, visitor, secure=self._secure)

    def check(self, request: Request, token: str) -> None:
        """Refuse a form that another site sent.

        Raises
        ------
        BadToken
            Where it isn't of this browser, or too old.
        """
        try:
            known = str(self._tokens.read("form", token).get("visitor", ""))
        except BadToken:
            known = ""
        if not known or not hmac.compare_digest(known.encode(), request.cookies.get(self.cookie, "").encode()):
            raise BadToken("this form is too old, or cookies are off; go back, reload the page and try again")


def cookie_name(name: str, *, secure: bool) -> str:
    """Return the name of a cookie; behind TLS one that no other host and no page without TLS can set.

    Examples
    --------
    >>> cookie_name("session", secure=True)
    '__Host-paperworks_session'
    """
    return f"{'__Host-' if secure else ''}paperworks_{name}"


def same_origin(request: Request) -> bool:
    """Return whether a browser says that one of our own pages sends a request; an old one says nothing."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host", "-")


def set_cookie(response: Response, name: str, value: str, *, secure: bool, **more: Any) -> None:
    """Set a cookie that no script reads and no other site's form sends."""
    response.set_cookie(name, value, httponly=True, samesite="lax", secure=secure, path="/", **more)


def local_path(text: str) -> str:
    r"""Return a path on this site, or ``/`` for whatever would lead elsewhere.

    Examples
    --------
    >>> local_path("/papers?page=2"), local_path("//evil.example"), local_path("/\\evil.example")
    ('/papers?page=2', '/', '/')
    """
    safe = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and len(text) < 2000
    return text if safe else "/"
