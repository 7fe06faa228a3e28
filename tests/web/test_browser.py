import re
import shutil
import threading
import time

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from contrast import LOW_CONTRAST
from mail_server import free_port
from paperworks.evidence import read_evidence
from paperworks.feed import Entry
from paperworks.feed.submissions import submission
from paperworks.papers import load
from paperworks.web import Settings, create_app
from paperworks.web.server import config
from site_visitor import EVIL, embed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
WIDTHS = (360, 768, 1440)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def app(tmp_path, post):
    feed = str(tmp_path / "feed.db")
    url = f"http://localhost:{free_port()}"
    settings = Settings(base_url=url, feed=feed, smtp=post.url, sender="papers@example.org", digests=False)
    return create_app(settings, embed=embed)


@pytest.fixture
def url(app):
    url = app.state.settings.base_url
    server = uvicorn.Server(config(app, "127.0.0.1", int(url.rpartition(":")[2]), log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    app.state.site.store.add([EVIL])
    yield url
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def page(browser, url):
    context = browser.new_context(base_url=url, viewport={"width": 1000, "height": 800})
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if is_problem(message) else None)
    yield page
    context.close()
    assert page.problems == []


def is_problem(message):
    """Tell errors from htmx's word that a search was given up for a newer one."""
    return message.type == "error" and not message.text.startswith(("htmx:sendAbort", "htmx:afterRequest"))


def link_to(post, url):
    text = post.got[-1][1].get_payload(decode=True).decode()
    return re.search(rf"{url}(/\S+)", text)[1]


def sign_in(page, post, url, email="ann@example.org"):
    page.goto("/sign-in")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    page.goto(link_to(post, url))
    page.get_by_role("button", name=f"Sign in as {email}").click()
    expect(page.get_by_role("link", name="Account")).to_be_visible()


def test_results_come_while_a_search_is_typed(page):
    page.goto("/search")
    page.get_by_role("searchbox", name="Search", exact=True).press_sequentially("sample in ten ste")
    expect(page.locator("#results article").first).to_contain_text("DPM-Solver")
    assert "q=sample" in page.url
    page.get_by_label("Field").select_option("audio")
    expect(page.locator("#results")).not_to_contain_text("DPM-Solver")
    page.get_by_label("Field").select_option("")
    page.get_by_role("searchbox", name="Search", exact=True).fill("-noise")
    expect(page.get_by_role("alert")).to_contain_text("only words to leave out")


def test_a_vote_and_the_reading_list(page, post, url):
    sign_in(page, post, url)
    page.goto("/paper/dpm-solver")
    page.get_by_role("button", name="▲ 0").click()
    expect(page.get_by_role("button", name="▲ 1")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="+ Keep").click()
    expect(page.get_by_role("button", name="✓ Kept")).to_be_visible()
    page.get_by_role("link", name="Reading list").click()
    expect(page.locator("#kept article")).to_have_count(1)
    page.get_by_role("button", name="✓ Kept").click()
    expect(page.locator("#kept").get_by_role("button", name="+ Keep")).to_be_visible()
    page.reload()
    expect(page.locator("#kept article")).to_have_count(0)


def test_subscribe_confirm_and_unsubscribe(page, post, url):
    page.goto("/")
    page.get_by_role("link", name="Get trending papers by e-mail").click()
    page.get_by_label("E-mail address").fill("bo@example.org")
    page.get_by_label("weekly").check()
    page.get_by_role("button", name="Subscribe").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    page.goto(link_to(post, url))
    page.get_by_role("button", name="Send the weekly digest").click()
    expect(page.get_by_role("heading", name="You are subscribed")).to_be_visible()
    sign_in(page, post, url, "bo@example.org")
    page.goto("/account")
    expect(page.locator("#digest")).to_contain_text("You get the weekly digest")
    page.get_by_role("button", name="Unsubscribe").click()
    expect(page.locator("#digest")).to_contain_text("You get no digest")


def test_the_front_page_s_invitation(page, post, url):
    page.goto("/")
    page.get_by_label("Get trending papers in your inbox").fill("bo@example.org")
    page.get_by_label("How often").select_option("weekly")
    page.get_by_role("button", name="Subscribe").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    page.goto(link_to(post, url))
    expect(page.get_by_role("button", name="Send the weekly digest to bo@example.org")).to_be_visible()


def test_the_header_s_search_shows_results_as_they_are_typed(page):
    page.goto("/about")
    page.keyboard.press("/")
    page.keyboard.type("sample in ten ste")
    expect(page.locator("#found article").first).to_contain_text("DPM-Solver")
    page.locator("#found h2 a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("DPM-Solver")
    page.keyboard.press("/")
    page.keyboard.type("noise")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Search")
    page.locator("main").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.matches('main input')")


MATHEMATICS = Entry(
    title=r"Sharp $\ell_\infty$ bounds with $\mathcal{O}(n \log n)$ samples",
    arxiv_id="2611.00002",
    abstract=r"We show $$\sum_i x_i \le \sqrt{n}$$ and \(\frac{$ stays, as does $\nonsense{x}$.",
)


def test_mathematics_is_typeset(page, app):
    app.state.site.store.add([MATHEMATICS])
    page.goto("/paper/2611.00002")
    expect(page.locator("h1 .katex")).to_have_count(2)
    expect(page.locator("section .katex-display")).to_have_count(1)
    assert "KaTeX_Main" in page.evaluate("getComputedStyle(document.querySelector('.katex')).fontFamily")
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px KaTeX_Main'))")
    assert page.evaluate("[...document.querySelectorAll('script')].every((s) => s.src.startsWith(location.origin))")
    page.goto("/about")
    assert page.evaluate("typeof katex") == "undefined"  # 270 KB that no other page needs


def test_a_phone_has_it_all_in_reach(browser, url, app):
    app.state.site.store.add([MATHEMATICS])
    context = browser.new_context(base_url=url, viewport={"width": 360, "height": 740}, has_touch=True)
    page = context.new_page()
    page.goto("/")
    assert page.evaluate("document.querySelector('.top').offsetHeight") < 72  # one line
    expect(page.get_by_role("link", name="Trending", exact=True)).to_be_hidden()
    page.get_by_role("checkbox", name="Menu").check()
    page.get_by_role("link", name="Trending", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Trending")
    page.goto("/paper/dpm-solver")
    figure = page.locator("figure img").first
    figure.scroll_into_view_if_needed()
    before = figure.bounding_box()["width"]
    figure.tap()
    assert figure.bounding_box()["width"] > 2 * before
    page.get_by_role("link", name="Close").click()
    assert figure.bounding_box()["width"] == before
    context.close()


def test_a_phone_shows_a_verdict_without_scrolling_sideways(browser, url):
    context = browser.new_context(base_url=url, viewport={"width": 360, "height": 740}, has_touch=True)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("searchbox", name="Search papers").fill("sample in ten steps")
    page.get_by_role("searchbox", name="Search papers").press("Enter")
    page.locator("article").get_by_role("link", name="DPM-Solver").first.tap()
    claim = page.locator("#claims tbody tr").first
    claim.locator(".verdict").first.scroll_into_view_if_needed()  # the whole card may be taller than the screen
    expect(claim.locator(".verdict").first).to_be_in_viewport(ratio=1)
    cells = {
        name: claim.locator("td").nth(i).bounding_box() for i, name in enumerate(("claim", "reported", "measured"))
    }
    cells |= {name: claim.locator("td").nth(i).bounding_box() for i, name in ((3, "bar"), (4, "verdict"))}
    assert sorted(cells, key=lambda name: cells[name]["y"]) == ["verdict", "measured", "bar", "claim", "reported"]
    assert all(cell["x"] >= 0 and cell["x"] + cell["width"] <= 360 for cell in cells.values())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('.claims')].every((e) => e.scrollWidth <= e.clientWidth)")
    context.close()


def test_figures_follow_the_colour_scheme(browser, url):
    seen = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(base_url=url, color_scheme=scheme)
        page = context.new_page()
        page.goto("/paper/dpm-solver")
        seen[scheme] = page.evaluate("getComputedStyle(document.querySelector('figure img')).filter")
        context.close()
    assert seen["light"] == "none"
    assert "invert" in seen["dark"]


def test_usage_is_copied_by_a_button(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/paper/dpm-solver")
    usage = page.locator("#usage")
    usage.get_by_role("button", name="Copy").click()
    expect(usage.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == load("dpm-solver").usage.strip()


def test_usage_is_selected_where_copying_is_refused(page):
    page.goto("/paper/dpm-solver")
    refuse = "Promise.reject(new DOMException('no', 'NotAllowedError'))"
    page.evaluate(f"() => {{ navigator.clipboard.writeText = () => {refuse}; }}")
    page.locator("#usage").get_by_role("button", name="Copy").click()
    expect(page.locator("#usage").get_by_role("button", name="Selected")).to_be_visible()
    assert page.evaluate("getSelection().toString()").strip() == load("dpm-solver").usage.strip()


def test_dark_mode_is_kept(page):
    page.goto("/")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark mode").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.goto("/about")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    expect(page.get_by_role("button", name="Dark mode")).to_have_attribute("aria-pressed", "true")


def test_everything_works_without_scripts(browser, url, post):
    context = browser.new_context(base_url=url, java_script_enabled=False)
    page = context.new_page()
    sign_in(page, post, url)
    page.goto("/search?q=sample+in+ten+steps")
    page.get_by_role("button", name="▲ 0").first.click()
    expect(page.get_by_role("button", name="▲ 1")).to_be_visible()
    page.get_by_role("button", name="Follow this search").click()
    expect(page.locator("#searches")).to_contain_text("sample in ten steps")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_width_and_text_stands_out(browser, url, scheme):
    context = browser.new_context(base_url=url, color_scheme=scheme)
    page = context.new_page()
    for path in (
        "/",
        "/paper/dpm-solver",
        "/search?q=noise",
        "/results",
        "/subscribe",
        "/fields",
        "/fields/diffusion",
        "/trending/week?field=audio",
        "/paper/signaltrain",
        "/results/week",
        "/api",
        "/about",
        "/privacy",
    ):
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        assert page.evaluate(LOW_CONTRAST) == [], path
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_someone_s_own_works_without_scripts_and_fits(browser, url, post, tmp_path, scheme):
    context = browser.new_context(base_url=url, java_script_enabled=False, color_scheme=scheme)
    page = context.new_page()
    sign_in(page, post, url)
    page.goto("/paper/dpm-solver")
    page.get_by_text("Follow", exact=True).click()
    page.get_by_role("button", name="Cheng Lu").click()
    expect(page.locator("#searches")).to_contain_text('author:"Cheng Lu"')
    page.get_by_label("What it is for").fill("my laptop")
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("pre").first).to_contain_text("pw_")
    page.goto("/reading-list")
    page.get_by_label("A BibTeX, RIS or CSV file").set_input_files(
        {"name": "list.csv", "mimeType": "text/csv", "buffer": b"Title,Extra\nx,arXiv:2206.00927\nNot here,\n"}
    )
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("status")).to_contain_text("1 paper of the file is new on the list")
    expect(page.locator("#kept article")).to_have_count(1)
    page.goto("/paper/dpm-solver")
    page.get_by_text("I re-measured this").click()
    file = {"name": "e.json", "mimeType": "application/json"}
    page.get_by_label("The file, of at most 256 KiB").set_input_files(
        {**file, "buffer": submission("dpm-solver", read_evidence("dpm-solver"))}
    )
    page.get_by_role("button", name="Show it").click()
    expect(page.locator("#claims").get_by_text("Holds on 2 of 2 machines").first).to_be_visible()
    with_scripts = browser.new_context(base_url=url, color_scheme=scheme, storage_state=context.storage_state())
    shown = with_scripts.new_page()
    for path in ("/account", "/reading-list", "/paper/dpm-solver"):
        for width in WIDTHS:
            shown.set_viewport_size({"width": width, "height": 800})
            shown.goto(path)
            shown.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
            assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        assert shown.evaluate(LOW_CONTRAST) == [], path
    with_scripts.close()
    context.close()


def test_the_keyboard_reaches_the_content_first(page):
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
