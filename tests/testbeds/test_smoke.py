"""Smoke around a disc: pressure takes all divergence off, whatever solves for it."""

import numpy as np
import pytest

from paperworks.solvers import cg
from paperworks.testbeds import rising_smoke


def test_no_fluid_is_lost_and_smoke_rises():
    frames = list(rising_smoke(24, 30))
    assert max(np.abs(f.outflow).max() for f in frames) < 1e-10
    assert all(not f.b[~f.domain.fluid.ravel()].any() for f in frames)
    assert all(f.b.any() for f in frames)
    heights = [float((f.smoke * np.arange(24)).sum() / f.smoke.sum()) for f in frames]
    assert heights[-1] > heights[0] + 2
    assert all(f.smoke.min() >= 0 and f.smoke.max() <= 1 for f in frames)
    assert len({f.domain.fluid.tobytes() for f in frames}) > 10  # the disc moves


def test_another_solver_gives_the_same_flow():
    solve = lambda domain, b: cg(domain.operator(), b, rtol=1e-12).x  # noqa: E731
    for ours, direct in zip(rising_smoke(16, 8, solve), rising_smoke(16, 8), strict=True):
        np.testing.assert_allclose(ours.smoke, direct.smoke, atol=1e-8)


@pytest.mark.parametrize(("n", "frames"), [(4, 1), (8, 0)])
def test_what_makes_no_sense_is_refused(n, frames):
    with pytest.raises(ValueError, match=r"n is 4|frames is 0"):
        next(rising_smoke(n, frames))
