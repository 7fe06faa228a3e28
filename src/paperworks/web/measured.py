"""What readers measured themselves: taken in, and taken back."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response
from fastapi.responses import RedirectResponse

from paperworks.feed.limits import limit
from paperworks.feed.submissions import MAX_BYTES, BadSubmission, Submissions
from paperworks.web.account import writer
from paperworks.web.protection import UPLOADS
from paperworks.web.site import Page

router = APIRouter(include_in_schema=False)
PATH = "/evidence"
UPLOADS[PATH] = MAX_BYTES + 8 * 1024  # with the rest of the form
SENT = {"times": 30, "seconds": 3600}
"""How many files one person may send."""


@router.post(PATH)
def submit(request: Request, file: Annotated[bytes, File()], form_token: Annotated[str, Form()] = "") -> Response:
    """Take in what someone measured, whose address was confirmed by the mail that they signed in with."""
    site, person = writer(request, form_token, "/account")
    limit(site.store, "evidence", str(person), **SENT)
    try:
        slug, _ = Submissions(site.store).add(person, file)
    except BadSubmission as error:
        page = Page("error.html", {"title": "Not taken", "problem": f"Nothing was kept: {error}"}, status=400)
        return site.render(request, page)
    return RedirectResponse(f"/paper/{slug}#claims", 303)


@router.post("/evidence/{slug}/delete")
def take_back(request: Request, slug: str, form_token: Annotated[str, Form()] = "") -> Response:
    """Delete what someone sent of a paper."""
    site, person = writer(request, form_token, "/account")
    Submissions(site.store).drop(person, slug)
    return RedirectResponse("/account#measured", 303)
