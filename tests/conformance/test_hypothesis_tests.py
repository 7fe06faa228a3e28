"""Every exported hypothesis test: a result in SciPy's style, from data that it leaves alone."""

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from conformance.discovery import Export, of_kind
from conformance.suite import CAUGHT, Subject, Suite, arguments, untyped

pytestmark = pytest.mark.usefixtures("untyped")

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 80)
SERIES = RNG.normal(size=(60, 2))
X, Y = load_iris(return_X_y=True)
SIMILAR = {
    "x": lambda: SERIES[:30],
    "y": lambda: SERIES[30:],
    "series": lambda: SERIES,
    "y_true": lambda: LABELS,
    "predictions": lambda: tuple(np.where(RNG_ROWS[i] < 0.2, 1 - LABELS, LABELS) for i in range(2)),
    "table_or_y": lambda: np.array([[30.0, 9.0], [8.0, 33.0]]),
    "losses_1": lambda: RNG_ROWS[0],
    "losses_2": lambda: RNG_ROWS[1],
    "sample_1": lambda: RNG_ROWS[0],
    "sample_2": lambda: RNG_ROWS[1],
    "accuracy_1": lambda: 0.8,
    "accuracy_2": lambda: 0.79,
    "n_1": lambda: 100,
    "scores": lambda: np.array([[0.8, 0.7, 0.9], [0.6, 0.8, 0.7], [0.9, 0.8, 0.7], [0.7, 0.9, 0.8]]),
    "estimator_1": GaussianNB,
    "estimator_2": lambda: LogisticRegression(max_iter=200),
    "X": lambda: X,
}
RNG_ROWS = np.random.default_rng(3).random((3, 80))
# Where the null hypothesis is far from true; other arguments as above.
DIFFERENT = {
    "y": lambda: SERIES[30:] * 9 + 3,
    "series": lambda: SERIES.cumsum(axis=0),
    "predictions": lambda: (LABELS, 1 - LABELS),
    "table_or_y": lambda: np.array([[30.0, 40.0], [1.0, 33.0]]),
    "losses_2": lambda: RNG_ROWS[1] + 1,
    "sample_2": lambda: RNG_ROWS[1] + 1,
    "accuracy_2": lambda: 0.2,
    "scores": lambda: np.arange(3.0) + np.zeros((8, 1)),
    "estimator_2": lambda: DecisionTreeClassifier(max_depth=1),
}


def values(thing: Any, **other: Any) -> dict[str, Any]:
    table = {**SIMILAR, **other}
    if "estimator_1" in inspect.signature(thing).parameters:
        table["y"] = lambda: Y
    return table


def call(subject: Subject, data: dict[str, Any] | None = None, **options: Any) -> Any:
    thing = subject.export.thing
    given = data or made(thing)
    names = inspect.signature(thing).parameters
    spread = next((n for n, p in names.items() if p.kind is p.VAR_POSITIONAL), None)
    options = {name: value for name, value in options.items() if name in names}
    if spread is None:
        return thing(**given, **options)
    return thing(*(given[n] for n in given if n != spread), *given[spread], **options)


def made(thing: Any, **other: Any) -> dict[str, Any]:
    """Data by the names of the arguments, those of `*args` as a tuple."""
    table = values(thing, **other)
    found = arguments(thing, table, {})
    for name, parameter in inspect.signature(thing).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            found[name] = table[name]()
    return found


def equal(a: Any, b: Any) -> bool:
    return np.array_equal(a.statistic, b.statistic) and np.array_equal(a.pvalue, b.pvalue)


def arrays(data: dict[str, Any]) -> dict[str, np.ndarray]:
    flat = {}
    for name, value in data.items():
        for i, item in enumerate(value if isinstance(value, tuple) else [value]):
            if isinstance(item, (np.ndarray, float)):
                flat[f"{name}[{i}]" if isinstance(value, tuple) else name] = item
    return flat


def replaced(data: dict[str, Any], name: str, item: Any) -> dict[str, Any]:
    base, _, rest = name.partition("[")
    if not rest:
        return {**data, base: item}
    changed = list(data[base])
    changed[int(rest[:-1])] = item
    return {**data, base: tuple(changed)}


SUITE = Suite("hypothesis test")


@SUITE.check
def its_data_are_left_alone(subject):
    data = made(subject.export.thing)
    before = {name: np.array(value) for name, value in arrays(data).items()}
    call(subject, data, random_state=0)
    assert all(np.array_equal(before[name], value) for name, value in arrays(data).items())


@SUITE.check
def it_has_a_statistic_and_a_pvalue(subject):
    result = call(subject, random_state=0)
    assert np.all(np.isfinite(result.statistic))
    assert np.all((np.asarray(result.pvalue) >= 0) & (np.asarray(result.pvalue) <= 1))
    assert isinstance(result.pvalue, (float, np.ndarray))
    assert equal(pickle.loads(pickle.dumps(result)), result)


@SUITE.check
def it_tells_the_different_from_the_similar(subject):
    thing = subject.export.thing
    similar, different = made(thing), made(thing, **DIFFERENT)
    assert np.max(call(subject, similar, random_state=0).pvalue) > 0.05
    assert np.min(call(subject, different, random_state=0).pvalue) < 0.05


@SUITE.check
def nan_is_refused_by_name(subject):
    data = made(subject.export.thing)
    for name, value in arrays(data).items():
        broken = np.array(value, dtype=float)
        broken[(0,) * broken.ndim] = np.nan
        with pytest.raises(ValueError, match=r"(?i)nan|finite|whole numbers|number >= 0") as told:
            call(subject, replaced(data, name, broken if broken.ndim else float("nan")), random_state=0)
        words = (name, name.partition("[")[0], name.partition("_")[0])
        assert any(word in str(told.value) for word in words), told.value


@SUITE.check
def other_lengths_are_refused(subject):
    data = made(subject.export.thing)
    vectors = {name: value for name, value in arrays(data).items() if np.ndim(value)}
    wants_pairs = {"y_true", "losses_1", "X"} & data.keys()
    for name, value in vectors.items():
        broken = value[:-1] if wants_pairs else value[..., None]
        with pytest.raises((ValueError, TypeError)):
            call(subject, replaced(data, name, broken), random_state=0)


@SUITE.check
def seeds_repeat(subject):
    assert equal(call(subject, random_state=3), call(subject, random_state=3))
    if "random_state" not in inspect.signature(subject.export.thing).parameters:
        assert equal(call(subject), call(subject))


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
@pytest.mark.filterwarnings("ignore")
def test_it_keeps_the_contract_of_hypothesis_tests(check, subject):
    check(subject)


class Result(tuple):
    statistic, pvalue = float("nan"), -1.0

    def __reduce__(self):
        raise TypeError


def careless(x, y, random_state=None):
    x += np.random.random()  # noqa: NPY002
    result = Result()
    result.statistic = np.random.random() if random_state else float("nan")  # noqa: NPY002
    return result


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_each_check_catches_a_careless_test(check):
    before = SERIES.copy()
    try:
        with pytest.raises(CAUGHT):
            check(Subject(Export("inference", "careless", careless)))
    finally:
        SERIES[:] = before


def test_all_are_found():
    with untyped():
        assert len(of_kind("hypothesis test")) >= 14
