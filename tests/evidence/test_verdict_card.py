import io
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from paperworks.evidence import paper_views, read_evidence
from paperworks.evidence.verdict_card import HEIGHT, WIDTH, _drawn, badge, tally, verdict_card, verdict_sentence
from paperworks.papers import load

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def claim():
    paper = load("dpm-solver")
    return next(view for view in paper_views(paper, read_evidence(paper.slug)) if view.kind == "claim")


@pytest.fixture
def of(claim):
    """Make views that have these verdicts, the first of what the paper is known for."""
    return lambda *names: [
        replace(claim, verdict=name, headline=number == 0, says=f"claim {number}") for number, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["holds"], "Its one claim holds."),
        (["holds"] * 3, "All 3 claims hold."),
        (["falls short"], "Of 1 claim none hold and 1 falls short."),
        (["holds", "falls short", "known shortfall"], "Of 3 claims 1 holds and 2 fall short."),
        (["holds", "holds", "undecided", "error"], "Of 4 claims 2 hold, 1 is undecided and 1 is not measured."),
    ],
)
def test_claims_are_counted_in_a_sentence(of, verdicts, says):
    assert tally(of(*verdicts)) == says


def test_the_claim_that_a_paper_is_known_for_comes_first(of):
    assert verdict_sentence(of("not measured", "error")) == "None of its claims has been measured yet."
    assert verdict_sentence(of("undecided", "holds")).startswith("What it is known for can't be decided yet: claim 0.")
    nothing_of_the_main_one = verdict_sentence(of("error", "holds"))
    assert nothing_of_the_main_one == "Of 2 claims 1 holds and 1 is not measured."


@pytest.mark.parametrize(
    ("verdicts", "text", "colour"),
    [
        (["holds", "holds"], "2 of 2 claims hold", "#166534"),
        (["holds", "falls short"], "1 of 2 claims hold", "#854d0e"),
        (["falls short"], "0 of 1 claims hold", "#b3261e"),
        (["not measured"], "not measured yet", "#5a5a62"),
    ],
)
def test_a_badge_says_how_many_hold(of, verdicts, text, colour):
    root = ET.fromstring(badge(of(*verdicts)))
    assert root.findall(f".//{SVG}text")[1].text == text
    assert root.findall(f"{SVG}rect")[1].get("fill") == colour
    assert root.find(f"{SVG}title").text == f"Paperworks: {text}"


def test_a_card_has_the_size_that_is_shared_and_writes_everything_as_it_is(of):
    paper = replace(load("dpm-solver"), title="$\\frac{ <script> & " + "a very long title of a paper " * 20)
    views = of(*["holds", "undecided", "known shortfall"] * 8)
    with Image.open(io.BytesIO(verdict_card(paper, views))) as image:
        assert image.size == (WIDTH, HEIGHT)
    drawn = verdict_card(paper, views, "svg")
    assert drawn == verdict_card(paper, views, "svg"), "the same card is the same file"
    root = ET.fromstring(drawn)
    assert not [element for element in root.iter() if "script" in element.tag or element.tag == f"{SVG}text"]


@pytest.mark.parametrize("title", ["W" * 46, "a\x0b\x1b b", "שלום", "$\\frac{1}{0}$ --> </svg><script>x</script>"])
def test_any_title_is_drawn_within_the_card(of, title):
    paper = replace(load("dpm-solver"), title=title)
    root = ET.fromstring(verdict_card(paper, of("holds"), "svg"))
    assert not root.findall(f".//{SVG}script")
    image = np.asarray(Image.open(io.BytesIO(verdict_card(paper, of("holds"), "png"))).convert("L"))
    assert image[:, -60:].min() > 200, "nothing is drawn on the right margin"


def test_more_claims_than_have_room_are_counted_and_other_packages_named(of):
    figure = _drawn(replace(load("dpm-solver"), origin="median_of_means"), of(*["holds"] * 25))
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("✓") == 18
    assert "+7" in texts
    assert texts[0].endswith("a record of median_of_means")
