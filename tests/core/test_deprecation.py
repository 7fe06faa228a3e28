import dataclasses
import enum
import inspect
import pickle

import pytest
from sklearn.base import BaseEstimator, clone

from paperworks.core.deprecation import release, renamed, renamed_arguments

RELEASES = {"since": "0.2.0", "removed": "0.3.0"}


class Scale:
    def __init__(self, factor):
        self.factor = factor


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting."""

    width: int


class Ridge(BaseEstimator):
    def __init__(self, alpha=1.0):
        self.alpha = alpha


OldSetting = renamed(Setting, "OldSetting", **RELEASES)
OldRidge = renamed(Ridge, "OldRidge", **RELEASES)
pytestmark = pytest.mark.filterwarnings("ignore:Old:FutureWarning")


def test_an_old_class_warns_and_makes_the_new_one():
    Factor = renamed(Scale, "Factor", **RELEASES)
    with pytest.warns(FutureWarning, match=r"^Factor is deprecated since 0\.2\.0 and goes in 0\.3\.0; use Scale$"):
        made = Factor(3)
    assert isinstance(made, Scale)
    assert made.factor == 3
    assert (Factor.__name__, Factor.__module__) == ("Factor", __name__)


def test_what_an_old_class_makes_is_of_the_new_one():
    assert OldSetting(3) == Setting(3)
    assert type(OldSetting(3)) is Setting
    assert pickle.loads(pickle.dumps(OldSetting(3))) == Setting(3)
    assert pickle.loads(pickle.dumps(OldSetting)) is OldSetting
    assert isinstance(Setting(3), OldSetting)
    assert not isinstance(3, OldSetting)
    assert issubclass(Setting, OldSetting)
    assert inspect.signature(OldSetting).parameters.keys() == {"width"}
    assert clone(OldRidge(alpha=2.0)).get_params() == {"alpha": 2.0}


def test_a_class_of_an_old_class_is_one_of_its_own():
    class Mine(OldSetting):
        pass

    with pytest.warns(FutureWarning, match="use Setting$"):
        made = Mine(width=4)
    assert (type(made), made.width) == (Mine, 4)
    assert isinstance(made, Setting)
    assert isinstance(made, OldSetting)
    assert not isinstance(Setting(4), Mine)


def test_a_tuple_goes_on_by_its_old_name():
    Pair = renamed(inspect.FullArgSpec, "Pair", **RELEASES)
    with pytest.warns(FutureWarning, match="^Pair is"):
        made = Pair(1, 2, 3, 4, 5, 6, annotations=7)
    assert type(made) is inspect.FullArgSpec


@pytest.mark.parametrize("kind", [KeyError, enum.Enum("Colour", ["RED"])])
def test_what_has_to_stay_the_same_class_is_refused(kind):
    with pytest.raises(TypeError, match="it takes no exception or enumeration: let Former be the same class"):
        renamed(kind, "Former", **RELEASES)


@pytest.mark.parametrize("old", [OldSetting, renamed(dataclasses.replace, "old", **RELEASES)])
def test_an_old_name_has_the_documentation_of_the_new_one(old):
    first, second = old.__doc__.split("\n\n")[:2]
    assert " is deprecated since 0.2.0 " in first
    assert first.endswith(".")
    assert second in (Setting.__doc__, inspect.getdoc(dataclasses.replace).split("\n\n")[0])


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


class TestArgumentsOfClasses:
    def test_an_initialiser_is_told_by_its_class(self):
        class Walk:
            @renamed_arguments({"n": "steps"}, **RELEASES)
            def __init__(self, steps):
                self.steps = steps

        with pytest.warns(FutureWarning, match="^n of Walk is deprecated"):
            assert Walk(n=3).steps == 3

    def test_a_class_is_no_function(self):
        with pytest.raises(TypeError, match="function is the class Setting; it takes functions, such as its __init__"):
            renamed_arguments({"size": "width"}, **RELEASES)(Setting)

    def test_a_new_name_is_one_that_the_function_takes(self):
        with pytest.raises(TypeError, match="names has 'stepz', which walk doesn't take"):

            @renamed_arguments({"n": "stepz"}, **RELEASES)
            def walk(steps): ...


@pytest.mark.parametrize(
    "bad",
    [
        {"since": "0.2.0", "removed": "0.2.0"},
        {"since": "0.3.0", "removed": "0.2.9"},
        {"since": "0.2.0", "removed": "0.2.1"},  # a patch only mends
    ],
)
def test_a_deprecation_lasts_for_a_release(bad):
    with pytest.raises(ValueError, match=r"removed is .*; it takes a release after"):
        renamed(Scale, "Factor", **bad)


@pytest.mark.parametrize("version", ["0.2", "1.0.0rc1", "", "v1.0.0"])
def test_what_is_no_release_is_refused(version):
    with pytest.raises(ValueError, match=r"version is .*; it takes a release such as"):
        release(version)
