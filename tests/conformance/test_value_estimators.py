"""What every estimator of a value function does: it leaves its family alone, forgets nothing and repeats itself."""

import numpy as np
import pytest

from conformance.discovery import of_kind
from paperworks.dynamics import LinearValue
from paperworks.testbeds import OUQuadratic

OU = OUQuadratic()


@pytest.fixture(scope="module")
def paths():
    return OU.sample(400, 40, random_state=0)


@pytest.mark.parametrize("export", of_kind("value estimator"), ids=lambda e: e.where)
def test_it_keeps_the_contract_of_value_estimators(export, paths):
    family = LinearValue(OU.features, OU.offset, vanishes_at=1.0)
    estimator = export.thing(family)
    with pytest.raises(ValueError, match="isn't fitted"):
        estimator.predict(0.0, 0.5)
    with pytest.raises(TypeError, match="Trajectories"):
        estimator.fit(paths.x)
    assert estimator.fit(paths) is estimator
    theta = estimator.theta_.copy()
    with pytest.raises(ValueError, match="isn't set"):
        _ = family.theta  # what it was given stays as it was
    t, x = np.broadcast_to(paths.t, paths.x.shape), paths.x
    assert estimator.predict(t, x).shape == x.shape
    assert np.shape(estimator.predict(0.0, 0.5)) == ()
    np.testing.assert_allclose(estimator.predict(np.ones(5), x[:5, -1]), OU.offset(1.0, x[:5, -1]), atol=1e-12)
    worst = np.sqrt(np.mean((OU.offset(t, x) - OU.value(t, x)) ** 2))
    assert np.sqrt(np.mean((estimator.predict(t, x) - OU.value(t, x)) ** 2)) < worst
    np.testing.assert_array_equal(estimator.fit(paths).theta_, theta)
