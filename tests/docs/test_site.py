"""Builds the documentation strictly, without running the tutorials, and holds its pages to what a reader needs."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock
from playwright.sync_api import expect, sync_playwright

from contrast import LOW_CONTRAST
from paperworks.papers import FIELDS, load_all

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = ("_build", "gallery", "auto_tutorials", "__pycache__", "*.rst")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
pytestmark = pytest.mark.timeout(1800)  # the first test builds the site, and the others wait for it
WIDE = ["index", "verdicts", "methods/diffusion", "gallery/audio", "auto_tutorials/index"]  # one of each kind
WIDE += ["auto_tutorials/plot_sample_in_ten_steps", "api/diffusion/dpm_solver", "api/operators/multigrid"]
NAVIGATION = {"genindex.html", "search.html", "py-modindex.html"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Build a copy of the documentation, once for all workers, so that nothing is left in the checkout."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            build(folder)
            (folder / "built").touch()
    return folder / "html"


def build(folder):
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns(*GENERATED), dirs_exist_ok=True)
    shutil.copytree(DOCS / "tutorials", folder / "docs/tutorials", dirs_exist_ok=True)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-D", "plot_gallery=0", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(folder / "docs"), str(folder / "html")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-5000:]


class Page(HTMLParser):
    """What the tests ask of a page: its headings, ids, links and images."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.ids, self.links, self.images = [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if not {"_modules", "_static"} & set(path.parts)}


def written(pages):
    """Leave out the pages that only list others."""
    return {path: page for path, page in pages.items() if path.name not in NAVIGATION}


def test_each_link_leads_to_a_page_and_a_place_on_it(site, pages):
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if address.fragment and target in pages:
                assert unquote(address.fragment) in pages[target].ids, f"{path.relative_to(site)}: {link}"


def test_headings_are_in_order_below_one(pages):
    for path, page in written(pages).items():
        assert page.headings.count(1) == 1, path
        steps = zip(page.headings, page.headings[1:], strict=False)
        assert all(after <= before + 1 for before, after in steps), f"{path}: {page.headings}"


def without_words(images):
    """Return the images with no alternative text, or with the file's name that Sphinx puts in its place."""
    decorative = "_thumb.png"  # beside the title of a tutorial, which says it
    return [
        image["src"]
        for image in images
        if not image["src"].endswith(decorative) and not re.sub(r"\S+\.(png|svg|jpg)", "", image.get("alt", "")).strip()
    ]


def test_each_image_says_what_it_shows(pages):
    assert {path: found for path, page in pages.items() if (found := without_words(page.images))} == {}
    evidence = [image for page in pages.values() for image in page.images if "evidence" in image.get("class", "")]
    assert len(evidence) > 100
    assert [image["alt"] for image in evidence if len(image["alt"]) < 20] == []


def test_what_has_no_words_is_found(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        '<img src="a.png"><img src="b.png" alt=""><img src="c.png" alt="x/c.png"><img src="d.png" alt="A d.">'
    )
    assert without_words(Page(path).images) == ["a.png", "b.png", "c.png"]


def test_nothing_is_fetched_from_elsewhere(pages):
    fetched = {link for page in pages.values() for link in page.links if urlsplit(link).scheme in ("http", "https")}
    assert {link for link in fetched if link.endswith((".js", ".css", ".woff2", ".svg", ".png"))} == set()


def test_each_page_is_there_in_markdown_too(site, pages):
    for path in written(pages):
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        assert text.startswith("# "), path
    index = (site / "llms.txt").read_text(encoding="utf-8")
    assert index.startswith("# Paperworks\n\n> ")
    for name in ("start.md", "methods/diffusion.md", "api/diffusion/dpm_solver.md", "gallery/audio.md"):
        assert f"({name})" in index


def test_tutorials_are_notebooks_of_code_and_markdown(site):
    notebooks = {path.stem: json.loads(path.read_text("utf-8")) for path in site.rglob("_downloads/*/plot_*.ipynb")}
    assert set(notebooks) == {path.stem for path in (DOCS / "tutorials").glob("plot_*.py")}
    for name, notebook in notebooks.items():
        assert notebook["nbformat"] == 4
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
        text = "\n".join(source for kind, source in cells if kind == "markdown")
        assert text.lstrip().startswith("# "), name
        assert re.findall(r":\w+:`.*?`|^\.\. |^[-=]{4,}$", text, re.MULTILINE) == [], f"{name} shows markup of Sphinx"
        for kind, source in cells:
            assert kind == "markdown" or compile(source, name, "exec")


def test_every_public_name_is_documented_where_it_is_imported(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        known = {name for kind in InventoryFile.load(file, "", "/".join).values() for name in kind}
    from test_public_api import PUBLIC

    elsewhere = {"paperworks.papers.Paper", "paperworks.papers.RecordError"}  # where they are defined, in `evidence`
    of_pages = {f"{package}.{name}" for package, name in PUBLIC} - elsewhere
    assert sorted(of_pages - known) == []


def test_every_paper_has_a_section_and_a_row(site):
    for field in FIELDS:
        gallery = (site / f"gallery/{field}.html").read_text(encoding="utf-8")
        methods = (site / f"methods/{field}.html").read_text(encoding="utf-8")
        for paper in load_all():
            if paper.field == field and not paper.planned:
                assert f'id="paper-{paper.slug}"' in gallery
                assert f"gallery/{field}.html#paper-{paper.slug}" in methods


def test_types_say_shapes_and_lead_to_what_is_public(site):
    page = (site / "api/diffusion/dpm_solver.md").read_text(encoding="utf-8")
    assert r"[Float](../index.md)[Tensor, 'batch \*shape']" in page
    assert "[NoiseSchedule](schedules.md)" in page
    assert "[arXiv 2206.00927](https://arxiv.org/abs/2206.00927)" in page
    assert "~" not in page


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_width_and_text_stands_out_from_files_alone(browser, site, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    elsewhere, problems = [], []
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    for name in WIDE:
        for width in (360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
        assert page.evaluate(LOW_CONTRAST) == [], name
    assert page.locator(".math .katex").count() > 0, "formulas are typeset"
    page.add_style_tag(content="p { color: #999 !important; background: #888 }")
    assert page.evaluate(LOW_CONTRAST) != [], "what stands out too little is found"
    assert [url for url in elsewhere if not url.startswith(("file:", "data:"))] == []
    assert problems == []
    context.close()


@needs_browser
def test_the_search_finds_a_method_from_files_alone(browser, site):
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=DPMSolver")
    expect(page.locator("#search-results a").first).to_contain_text("DPMSolver", timeout=30_000)
    page.close()


@needs_browser
def test_sounds_play(browser, site):
    page = browser.new_page()
    page.goto((site / "gallery/audio.html").as_uri())
    script = "e => new Promise((done) => { e.onloadedmetadata = () => done(e.duration); e.onerror = done; e.load(); })"
    assert page.locator("audio").count() > 0
    assert page.locator("audio").first.evaluate(script) > 0
    page.close()


def test_words_are_spelled_right():
    command = [sys.executable, "-m", "codespell_lib", "docs", "src", *(path.name for path in ROOT.glob("*.md"))]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
