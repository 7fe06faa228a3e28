"""Every exported model that learns a law from samples and draws new ones. The example at the end proves the checks."""

import inspect
import pickle

import numpy as np
import pytest
import torch

from conformance.discovery import Export, kind_of
from conformance.suite import CAUGHT, Subject, Suite, arguments

pytestmark = pytest.mark.usefixtures("untyped")

X = np.random.default_rng(0).normal(3, 1, size=(40, 3)) @ np.random.default_rng(1).normal(size=(3, 24))
X = X.reshape(40, 2, 3, 4)
# What a fit takes besides the samples, and what makes a model and its fit quick.
VALUES = {"X": lambda: X, "steps": lambda: 2}
QUICK = {"batch_size": 8, "latent_dim": 3, "components": 2}


def made(subject):
    return subject.export.thing(**quick(subject.export.thing))


def quick(function):
    return {name: value for name, value in QUICK.items() if name in inspect.signature(function).parameters}


def fitted(subject, data=X):
    model = made(subject)
    return model.fit(**{**arguments(model.fit, VALUES, quick(model.fit)), "X": data})


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


SUITE = Suite("generative model")


@SUITE.check
def a_fit_returns_the_model_and_leaves_its_input_alone(subject):
    model, data = made(subject), X.copy()
    assert model.fit(**{**arguments(model.fit, VALUES, quick(model.fit)), "X": data}) is model
    assert np.array_equal(data, X)


@SUITE.check
def samples_have_the_shape_of_the_data_and_are_finite(subject):
    model = fitted(subject)
    for n in (1, 7):
        drawn = model.sample(n)
        assert drawn.shape == (n, *X.shape[1:])
        assert np.isfinite(drawn).all()
    flat = fitted(subject, X[:, 0, 0])
    assert flat.sample(3).shape == (3, 4)


@SUITE.check
def samples_repeat_from_their_generator(subject):
    model = fitted(subject)
    first, again, other = (model.sample(9, generator=rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@SUITE.check
def samples_follow_the_scale_of_the_data(subject):
    # Twice the data, in the same draw: all of these models scale what they learn.
    once, twice = (fitted(subject, scale * X).sample(9, generator=rng()) for scale in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-3 * np.abs(X).max())


@SUITE.check
def bad_data_are_refused(subject):
    broken = X.copy()
    broken[0, 0, 0, 0] = np.nan
    for bad in (broken, X[:0]):
        with pytest.raises(ValueError, match=r"NaN|shape|sample"):
            fitted(subject, bad)


@SUITE.check
def it_has_to_be_fitted_first(subject):
    with pytest.raises(RuntimeError, match=r"not (fitted|trained)"):
        made(subject).sample(3)


@SUITE.check
def conditions_are_refused_where_none_were_learned(subject):
    with pytest.raises(ValueError, match="condition"):
        fitted(subject).sample(3, condition=np.zeros((3, 1)))


@SUITE.check
def it_can_be_pickled(subject):
    model = fitted(subject)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.sample(3, generator=rng()), model.sample(3, generator=rng()))


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_a_generative_model(check, subject):
    check(subject)


class Broken:
    """Draws zeros of another shape, whatever it was given."""

    def fit(self, X):
        X[0] = 0
        return None

    def sample(self, n, generator=None, condition=None):
        return np.full((n, 2), np.nan)


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_the_checks_find_what_is_wrong(check):
    export = Export("reduction", "Broken", Broken)
    assert kind_of(export) == "generative model"
    with pytest.raises((*CAUGHT, pytest.fail.Exception)):
        check(Subject(export))
    X.setflags(write=True)
