"""What people do: sign in by a link, vote, keep papers and searches, subscribe, and take their data with them."""

import json
import logging
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from paperworks.feed.api_tokens import ApiTokens
from paperworks.feed.limits import limit
from paperworks.feed.mail import NotSent, Uncertain
from paperworks.feed.people import clean_email
from paperworks.feed.search.query import BadQuery
from paperworks.feed.submissions import Submissions
from paperworks.web.cards import cards
from paperworks.web.pages import marks, site_of
from paperworks.web.protection import local_path, same_origin
from paperworks.web.site import Page, Site, by_script, client

router = APIRouter(include_in_schema=False)
log = logging.getLogger("paperworks.web")
Text = Annotated[str, Form()]
Frequency = Annotated[str, Form(pattern="^(daily|weekly)$")]
MAILS = {"times": 6, "seconds": 3600}
"""How many mails one client may ask for."""
MAILS_TO_ONE = {"times": 3, "seconds": 3600}
"""How many of them to one address."""
MAILS_IN_ALL = {"times": 20, "seconds": 3600}
"""How many one address may get, whoever asks: enough that some who ask for it lock nobody out."""
WRITES = {"times": 120, "seconds": 60}


class SignInFirst(Exception):
    """The page is of someone who is signed in; `next` is where to go on afterwards."""

    def __init__(self, next: str = "/") -> None:
        super().__init__(next)
        self.next = next


def me(request: Request, next: str = "") -> int:
    """Return who is signed in.

    Raises
    ------
    SignInFirst
        Where nobody is.
    """
    person = site_of(request).person(request)
    if person is None:
        raise SignInFirst(next or request.url.path)
    return person


def writer(request: Request, form_token: str, next: str = "/") -> tuple[Site, int]:
    """Return the site and who writes to it, after the checks that every write goes through."""
    site, person = site_of(request), me(request, next)
    site.forms.check(request, form_token)
    limit(site.store, "write", str(person), **WRITES)
    return site, person


# Signing in


@router.get("/sign-in")
def sign_in(request: Request, next: str = "/") -> Response:
    """Ask for an address."""
    return site_of(request).render(request, Page("sign_in.html", {"next": local_path(next), "problem": ""}))


@router.post("/sign-in")
def send_link(request: Request, email: Text = "", next: Text = "/", form_token: Text = "") -> Response:
    """Send a link that signs someone in."""
    site = site_of(request)
    site.forms.check(request, form_token)
    try:
        email = clean_email(email)
    except ValueError as error:
        page = Page("sign_in.html", {"next": local_path(next), "problem": str(error)}, status=400)
        return site.render(request, page)
    link = f"/sign-in/{site.tokens.make('sign-in', {'email': email, 'next': local_path(next)})}"
    text = "Open this link to sign in to Daily Papers. It is good for 15 minutes, and for one use:"
    return _send(request, site, email, "Sign in to Daily Papers", text, link)


@router.get("/sign-in/{token}")
def show_link(request: Request, token: str) -> Response:
    """Ask whoever opened a link to go on: programs that look at links in mails sign nobody in."""
    site = site_of(request)
    said = site.tokens.read("sign-in", token)
    return site.render(request, Page("link.html", {"title": "Sign in", "button": f"Sign in as {said['email']}"}))


@router.post("/sign-in/{token}")
def follow_link(request: Request, token: str, form_token: Text = "") -> Response:
    """Sign someone in."""
    site = site_of(request)
    site.forms.check(request, form_token)
    said = site.tokens.spend(site.store, "sign-in", token)
    response = RedirectResponse(local_path(said["next"]), 303)
    site.sign_in(request, response, site.people.of_email(said["email"]))
    return response


@router.post("/sign-out")
def sign_out(request: Request, form_token: Text = "") -> Response:
    """Sign someone out, on all their devices."""
    site, person = writer(request, form_token)
    response = RedirectResponse("/", 303)
    site.sign_out(response, person)
    return response


def _send(request: Request, site: Site, email: str, subject: str, text: str, link: str) -> Response:
    """Mail a link to an address; the client's limits come first: who has reached them costs the address nothing."""
    asking = client(request)
    limit(site.store, "mail from", asking, **MAILS)
    limit(site.store, "mail from to", f"{asking} {email}", **MAILS_TO_ONE)
    limit(site.store, "mail to", email, **MAILS_IN_ALL)
    body = f"{text}\n\n{site.settings.base_url}{link}\n\nIf you didn't ask for this, do nothing.\n"
    values: dict[str, Any] = {"title": "Look into your mail", "email": email, "logged": not site.settings.smtp}
    try:
        site.mail(email, subject, body)
    except (NotSent, Uncertain) as error:
        log.error("A mail was not sent: %s", error)
        return site.render(request, Page("mail_failed.html", {"title": "The mail could not be sent"}, status=503))
    return site.render(request, Page("mail_sent.html", values))


# Votes and searches


@router.post("/papers/{paper}/{mark}")
def mark(
    request: Request, paper: int, mark: str, wanted: Annotated[int, Form()] = 1, next: Text = "/", form_token: Text = ""
) -> Response:
    """Vote for a paper or keep it, or take that back."""
    site, person = writer(request, form_token, local_path(next))
    if mark not in ("vote", "keep") or paper >= 2**62:
        raise LookupError(f"there is no paper {paper}")
    (site.people.vote if mark == "vote" else site.people.keep)(person, paper, bool(wanted))
    if by_script(request):
        [card] = cards(site.store, [paper])
        values = {"id": card.id, "votes": card.votes, "next": local_path(next), **marks(site, person)}
        return site.render(request, Page("_actions.html", values))
    return RedirectResponse(local_path(next), 303)


@router.post("/searches")
def save_search(request: Request, q: Text = "", next: Text = "", form_token: Text = "") -> Response:
    """Follow what a search finds: an author, a field, or words."""
    site, person = writer(request, form_token, local_path(next or f"/search?q={quote(q)}"))
    try:
        site.people.save_search(person, q)
    except (BadQuery, ValueError) as error:
        return site.render(request, Page("error.html", {"title": "Not saved", "problem": str(error)}, status=400))
    return RedirectResponse("/account#searches", 303)


@router.post("/searches/{search}/delete")
def drop_search(request: Request, search: int, form_token: Text = "") -> Response:
    """Forget a saved search."""
    site, person = writer(request, form_token, "/account")
    site.people.drop_search(person, search)
    return RedirectResponse("/account#searches", 303)


# The digest


@router.get("/subscribe")
def subscribe(request: Request) -> Response:
    """Ask for an address and how often."""
    return site_of(request).render(request, Page("subscribe.html", {"problem": "", "email": "", "frequency": "daily"}))


@router.post("/subscribe")
def send_confirmation(
    request: Request, email: Text = "", frequency: Frequency = "daily", form_token: Text = ""
) -> Response:
    """Send a link that confirms a subscription; until it is followed nothing is kept.

    The form on the front page, which is alike for all, has no token: the browser says whether the page is ours.
    """
    site = site_of(request)
    try:
        if not same_origin(request):
            site.forms.check(request, form_token)
        email = clean_email(email)
    except ValueError as error:
        page = Page("subscribe.html", {"problem": str(error), "email": email, "frequency": frequency}, status=400)
        return site.render(request, page)
    link = f"/confirm/{site.tokens.make('confirm', {'email': email, 'frequency': frequency})}"
    text = f"Open this link to get the {frequency} digest of Daily Papers:"
    return _send(request, site, email, "Confirm your subscription to Daily Papers", text, link)


@router.get("/confirm/{token}")
def show_confirmation(request: Request, token: str) -> Response:
    """Ask whoever opened a link to go on."""
    site = site_of(request)
    said = site.tokens.read("confirm", token)
    button = f"Send the {said['frequency']} digest to {said['email']}"
    return site.render(request, Page("link.html", {"title": "Confirm your subscription", "button": button}))


@router.post("/confirm/{token}")
def confirm(request: Request, token: str, form_token: Text = "") -> Response:
    """Confirm a subscription."""
    site = site_of(request)
    site.forms.check(request, form_token)
    said = site.tokens.spend(site.store, "confirm", token)
    person = site.people.of_email(said["email"])
    site.people.subscribe(person, said["frequency"])
    site.people.confirm(person)
    text = f"The {said['frequency']} digest will come to {said['email']}. Every copy has a link to stop it."
    return site.render(request, Page("message.html", {"title": "You are subscribed", "text": text}))


@router.get("/unsubscribe/{token}")
def show_unsubscribe(request: Request, token: str) -> Response:
    """Ask whether to stop the digest."""
    site = site_of(request)
    site.tokens.read("unsubscribe", token)
    return site.render(request, Page("link.html", {"title": "Stop the digest", "button": "Unsubscribe"}))


@router.post("/unsubscribe/{token}")
def unsubscribe(request: Request, token: str) -> Response:
    """Stop the digest at one click, as mail programs do (RFC 8058): the link itself says whose it is."""
    site = site_of(request)
    if site.people.unsubscribe_by_key(str(site.tokens.read("unsubscribe", token)["subscription"])):
        text = "You will get no more digests. You can subscribe again at any time."
    else:
        text = (
            "The subscription that this link is of had ended already. Digests of a later one have links of their own."
        )
    return site.render(request, Page("message.html", {"title": "You are unsubscribed", "text": text}))


@router.get("/subscription")
def manage(request: Request) -> Response:
    """Lead to where the subscription is changed."""
    me(request, "/account")
    return RedirectResponse("/account#digest", 303)


@router.post("/subscription")
def change(request: Request, frequency: Text = "", form_token: Text = "") -> Response:
    """Change how often the digest comes; who signed in by a mailed link has shown that the address is theirs."""
    site, person = writer(request, form_token, "/account")
    if frequency in ("daily", "weekly"):
        site.people.subscribe(person, frequency)
        site.people.confirm(person)
    else:
        site.people.unsubscribe(person)
    return RedirectResponse("/account#digest", 303)


# The account


@router.get("/account")
def account(request: Request) -> Response:
    """Show someone's account."""
    site, person = site_of(request), me(request)
    values = {
        "email": site.people.email(person),
        "searches": site.people.searches(person),
        "subscription": site.people.subscription(person),
        "tokens": ApiTokens(site.store).of(person),
        "measured": Submissions(site.store).papers(person),
    }
    return site.render(request, Page("account.html", values))


@router.get("/account/export.json")
def export_json(request: Request) -> Response:
    """Give someone all that is kept of them."""
    site, person = site_of(request), me(request)
    body = json.dumps(site.people.export(person), indent=1, ensure_ascii=False)
    return Response(body, media_type="application/json", headers=download("daily-papers.json"))


@router.post("/account/delete")
def delete(request: Request, sure: Text = "", form_token: Text = "") -> Response:
    """Remove someone and all that is kept of them."""
    site, person = writer(request, form_token, "/account")
    if not sure:
        text = "Tick the box that says that you are sure."
        return site.render(request, Page("error.html", {"title": "Not deleted", "problem": text}, status=400))
    site.people.delete(person)
    text = "Your votes, reading list, searches and subscription are gone."
    response = site.render(request, Page("message.html", {"title": "Your account is deleted", "text": text}))
    site.sign_out(response, person)
    return response


def download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
