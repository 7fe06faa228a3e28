import pytest
from median_of_means import MedianOfMeans


def test_it_is_the_median_of_the_means_of_blocks():
    assert MedianOfMeans(3)([0.0, 1.0, 10.0, 2.0, 3.0, 90.0]) == 2.0


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="values has 2 numbers; it takes 3"):
        MedianOfMeans(3)([1.0, 2.0])
