import pytest

from paperworks.core.deprecation import release, renamed, renamed_arguments

RELEASES = {"since": "0.2.0", "removed": "0.3.0"}


class Scale:
    def __init__(self, factor):
        self.factor = factor


def test_an_old_class_warns_and_makes_the_new_one():
    Factor = renamed(Scale, "Factor", **RELEASES)
    with pytest.warns(FutureWarning, match=r"^Factor is deprecated since 0\.2\.0 and goes in 0\.3\.0; use Scale$"):
        made = Factor(3)
    assert isinstance(made, Scale)
    assert made.factor == 3
    assert (Factor.__name__, Factor.__module__) == ("Factor", __name__)


def test_an_old_function_passes_everything_on():
    def new(a, *, b):
        """Add."""
        return a + b

    old = renamed(new, "old", **RELEASES)
    with pytest.warns(FutureWarning, match="^old is .* use new$"):
        assert old(1, b=2) == 3
    assert old.__name__ == "old"


def test_old_arguments_are_taken_once(recwarn):
    @renamed_arguments({"n": "count", "r": "rate"}, **RELEASES)
    def draw(count, rate=1.0):
        return count * rate

    assert draw(2, rate=3.0) == 6.0
    assert len(recwarn) == 0
    with pytest.warns(FutureWarning, match="^n of draw is deprecated since .* use count$"):
        assert draw(n=4) == 4.0
    with pytest.raises(TypeError, match="draw got count and n, its old name"):
        draw(count=1, n=2)
    with pytest.raises(TypeError), pytest.warns(FutureWarning):
        draw(1, n=2)


@pytest.mark.parametrize("bad", [{"since": "0.2.0", "removed": "0.2.0"}, {"since": "0.3.0", "removed": "0.2.9"}])
def test_a_deprecation_lasts_for_a_release(bad):
    with pytest.raises(ValueError, match=r"removed is .*; it takes a release after"):
        renamed(Scale, "Factor", **bad)


@pytest.mark.parametrize("version", ["0.2", "1.0.0rc1", "", "v1.0.0"])
def test_what_is_no_release_is_refused(version):
    with pytest.raises(ValueError, match=r"version is .*; it takes a release such as"):
        release(version)
