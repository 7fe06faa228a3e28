import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.core.validation import check_choice, check_count, check_finite, check_number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_number_comes_back(value):
    assert check_number("x", value) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"x is .*; it takes a finite number"):
        check_number("x", value)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [({"ge": 0}, 0, -1), ({"gt": 0}, 1, 0), ({"le": 1}, 1, 2), ({"lt": 1}, 0, 1), ({"ge": 0, "lt": 1}, 0, 1)],
)
def test_bounds_of_a_number(bounds, inside, outside):
    assert check_number("x", inside, **bounds) == inside
    with pytest.raises(ValueError, match=r"x is"):
        check_number("x", outside, **bounds)


@pytest.mark.parametrize("value", ["1", None, True, [1.0, 2.0]])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="x is"):
        check_number("x", value)


@pytest.mark.parametrize("value", [1.0, "1", True, None])
def test_what_is_no_count_is_a_type_error(value):
    with pytest.raises(TypeError, match="steps is"):
        check_count("steps", value)


@pytest.mark.parametrize("value", [0, 11])
def test_bounds_of_a_count(value):
    with pytest.raises(ValueError, match=r"steps is .*; it takes a whole number >= 1 and <= 10"):
        check_count("steps", value, at_most=10)


def test_a_choice_names_the_choices():
    with pytest.raises(ValueError, match="method is 'b'; it takes one of 'a', 'c'"):
        check_choice("method", "b", ["a", "c"])


def test_finite_tensors_pass_even_where_their_sum_overflows():
    large = torch.full((4,), 3e38)
    assert check_finite("x", large) is large


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_tensor_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="x has 1 NaN or infinite elements of 3"):
        check_finite("x", torch.tensor([0.0, bad, 1.0]))
