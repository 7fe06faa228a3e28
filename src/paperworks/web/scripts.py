"""What scripts do for someone by a token: read and change their reading list, votes and what they follow."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from pydantic_core import to_json

from paperworks.feed.api_tokens import ApiTokens
from paperworks.feed.limits import limit
from paperworks.feed.search.query import MAX_LENGTH
from paperworks.web.account import WRITES, writer
from paperworks.web.api import PaperList, list_of
from paperworks.web.cards import find_paper
from paperworks.web.lists import Listing
from paperworks.web.pages import site_of
from paperworks.web.site import Page, Site, client

router = APIRouter(prefix="/api/me", tags=["with a token"])
pages = APIRouter(include_in_schema=False)
_bearer = HTTPBearer(auto_error=False, description="A token that you make on your account's page.")
GUESSES = {"times": 20, "seconds": 3600}
"""How many unknown tokens one client may send."""
_MOST = 1000


class Followed(BaseModel):
    """A search that someone follows."""

    id: int
    query: str


def _acting(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> tuple[Site, int]:
    """Return the site, and for whom a script acts."""
    site = site_of(request)
    if credentials is None:
        challenge = {"WWW-Authenticate": "Bearer"}
        raise HTTPException(401, "This takes a token: Authorization: Bearer pw_...", challenge)
    person = ApiTokens(site.store).person(credentials.credentials)
    if person is None:
        limit(site.store, "token guess", client(request), **GUESSES)
        raise HTTPException(401, "There is no such token.", {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    limit(site.store, "write", str(person), **WRITES)
    return site, person


Acting = Annotated[tuple[Any, Any], Depends(_acting)]


@router.get("/reading-list", response_model=PaperList)
def reading_list(acting: Acting) -> Response:
    """List the papers on your reading list, the last first."""
    site, person = acting
    return _private(list_of(site, Listing("Reading list", site.people.reading_list(person)[:_MOST])))


@router.put("/reading-list/{key:path}", status_code=204)
def keep(acting: Acting, key: str) -> Response:
    """Put a paper on your reading list, by its short name, arXiv id or DOI."""
    site, person = acting
    site.people.keep(person, find_paper(site.store, key).id, True)
    return Response(status_code=204)


@router.delete("/reading-list/{key:path}", status_code=204)
def drop(acting: Acting, key: str) -> Response:
    """Take a paper off your reading list."""
    site, person = acting
    site.people.keep(person, find_paper(site.store, key).id, False)
    return Response(status_code=204)


@router.get("/votes", response_model=PaperList)
def votes(acting: Acting) -> Response:
    """List the papers that you voted for, the last first."""
    site, person = acting
    return _private(list_of(site, Listing("Votes", site.people.votes(person)[:_MOST])))


@router.put("/votes/{key:path}", status_code=204)
def vote(acting: Acting, key: str) -> Response:
    """Vote for a paper."""
    site, person = acting
    site.people.vote(person, find_paper(site.store, key).id, True)
    return Response(status_code=204)


@router.delete("/votes/{key:path}", status_code=204)
def take_back(acting: Acting, key: str) -> Response:
    """Take a vote back."""
    site, person = acting
    site.people.vote(person, find_paper(site.store, key).id, False)
    return Response(status_code=204)


@router.get("/searches", response_model=list[Followed])
def searches(acting: Acting) -> Response:
    """List the searches that you follow."""
    site, person = acting
    return _private([Followed(id=id, query=query) for id, query in site.people.searches(person)])


@router.post("/searches", response_model=Followed, status_code=201)
def follow(acting: Acting, q: Annotated[str, Query(max_length=MAX_LENGTH)]) -> Response:
    """Follow a search, such as author:"Ann Lee" or field:diffusion."""
    site, person = acting
    try:
        return _private(Followed(id=site.people.save_search(person, q), query=" ".join(q.split())), 201)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


@router.delete("/searches/{search}", status_code=204)
def unfollow(acting: Acting, search: int) -> Response:
    """Follow a search no more."""
    site, person = acting
    site.people.drop_search(person, search)
    return Response(status_code=204)


def _private(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, {"Cache-Control": "no-store"}, "application/json")


# Pages of the account


@pages.post("/account/tokens")
def make_token(
    request: Request, name: Annotated[str, Form()] = "", form_token: Annotated[str, Form()] = ""
) -> Response:
    """Make a token, and show it once."""
    site, person = writer(request, form_token, "/account")
    try:
        token = ApiTokens(site.store).make(person, name)
    except ValueError as error:
        return site.render(request, Page("error.html", {"title": "Not made", "problem": str(error)}, status=400))
    return site.render(request, Page("token.html", {"token": token}))


@pages.post("/account/tokens/{token}/end")
def end_token(request: Request, token: int, form_token: Annotated[str, Form()] = "") -> Response:
    """End a token."""
    site, person = writer(request, form_token, "/account")
    ApiTokens(site.store).end(person, token)
    return RedirectResponse("/account#tokens", 303)
