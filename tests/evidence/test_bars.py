import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.evidence.bars import Bar

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_each_comparison_means_what_it_says(bar, value):
    text = repr(bar)
    assert Bar.parse(f">= {text}").holds(value) == (value >= bar)
    assert Bar.parse(f"> {text}").holds(value) == (value > bar)
    assert Bar.parse(f"<= {text}").holds(value) == (value <= bar)
    assert Bar.parse(f"< {text}").holds(value) == (value < bar)
    assert Bar.parse(f"== {text}").holds(value) == (value == bar)


@given(numbers, numbers, numbers)
def test_between_includes_both_ends(a, b, value):
    low, high = sorted((a, b))
    bar = Bar.parse(f"between {low!r} and {high!r}")
    assert bar.holds(value) == (low <= value <= high)
    assert bar.holds(low)
    assert bar.holds(high)


@pytest.mark.parametrize("text", [">= 0", "> -1e300", "<= 0", "< 1e300", "== 0", "between -1 and 1", "true"])
def test_nan_never_holds(text):
    assert not Bar.parse(text).holds(math.nan)


def test_infinity_clears_a_bar_that_is_open_on_its_side():
    assert Bar.parse(">= 5").holds(math.inf)
    assert not Bar.parse("<= 5").holds(math.inf)


def test_true_takes_a_truth_value():
    assert Bar.parse("true").holds(True)
    assert not Bar.parse("true").holds(False)
    assert not Bar.parse("true").holds(0.5)


@pytest.mark.parametrize(
    "text",
    ["", "5", "=> 5", ">= five", ">= nan", "between 1", "between 1 and", "false", ">= 1 or so", "between 2 and 1"],
)
def test_what_is_not_of_the_grammar_is_refused(text):
    with pytest.raises(ValueError, match="bar"):
        Bar.parse(text)


def test_a_bar_keeps_its_text():
    assert str(Bar.parse("  >=2.80 ")) == ">=2.80"


@pytest.mark.parametrize(
    ("text", "low", "high", "expected"),
    [
        (">= 1", 1.0, 2.0, True),
        (">= 1", 0.9, 2.0, None),
        (">= 1", 0.5, 0.9, False),
        ("> 1", 1.0, 2.0, None),
        ("<= 1", 0.0, 1.0, True),
        ("< 1", 0.5, 1.0, None),
        ("between 0 and 1", 0.2, 0.8, True),
        ("between 0 and 1", -1.0, 2.0, None),
        ("between 0 and 1", -0.5, 0.5, None),
        ("between 0 and 1", 1.5, 2.0, False),
        ("== 1", 1.0, 1.0, True),
        ("== 1", 0.9, 1.1, None),
        ("== 1", 1.1, 1.2, False),
        ("true", 1.0, 1.0, True),
        ("true", 0.0, 1.0, None),
        ("true", 0.0, 0.0, False),
        (">= 1", -math.inf, math.inf, None),
        (">= 1", math.nan, math.nan, False),
    ],
)
def test_an_interval_is_decided_only_when_all_of_it_is_on_one_side(text, low, high, expected):
    assert Bar.parse(text).decide(low, high) is expected


@given(numbers, numbers)
def test_a_point_is_decided_as_a_value(bar, value):
    for comparison in (">=", ">", "<=", "<", "=="):
        parsed = Bar.parse(f"{comparison} {bar!r}")
        assert parsed.decide(value, value) is parsed.holds(value)
