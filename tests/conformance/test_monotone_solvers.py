"""Every exported solver of monotone inclusions: one result, honest counts. The examples at the end prove the checks."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import OptimizeResult

from conformance.discovery import Export, kind_of
from conformance.suite import CAUGHT, Subject, Suite
from paperworks.optimization import LeastSquaresOperator, prox_box

pytestmark = [pytest.mark.usefixtures("untyped"), pytest.mark.filterwarnings("ignore:sqrt:UserWarning")]

ROWS = np.random.default_rng(0).normal(size=(40, 3)) + 1
VALUES = ROWS @ np.array([1.0, -2.0, 0.5])


class Solver:
    """A solver, with a seed where it takes one, on a problem that all of them solve."""

    def __init__(self, subject: Subject) -> None:
        self.solve, self.options = subject.export.thing, dict(subject.options)
        self.names = inspect.signature(self.solve).parameters
        if "random_state" in self.names:
            self.options["random_state"] = 0

    def __call__(self, F: Any = None, u0: Any = None, **options: Any) -> OptimizeResult:
        F = LeastSquaresOperator(ROWS, VALUES, ridge=0.5) if F is None else F
        return self.solve(F, np.zeros(3) if u0 is None else u0, **{**self.options, **options})


SUITE = Suite("monotone solver")


@SUITE.check
def it_solves_to_its_tolerance_and_says_so(subject):
    F = LeastSquaresOperator(ROWS, VALUES, ridge=0.5)
    found = Solver(subject)(F, atol=0.05, max_passes=5000)
    assert found.success
    assert found.status == 0
    assert np.linalg.norm(F(found.x)) <= 0.05 * (1 + 1e-9)
    assert found.residual == pytest.approx(np.linalg.norm(F(found.x)))


@SUITE.check
def it_ends_in_the_constraints(subject):
    found = Solver(subject)(resolvent=prox_box, atol=0.05, max_passes=5000)
    assert found.success
    assert (found.x >= 0).all()


@SUITE.check
def it_gives_up_when_passes_run_out(subject):
    found = Solver(subject)(atol=0.0, max_passes=5)
    assert not found.success
    assert found.status == 1
    assert 5 <= found.npasses < 20


@SUITE.check
def its_histories_are_by_steps(subject):
    found = Solver(subject)(atol=0.0, max_passes=20)
    assert found.nit == len(found.residual_history) == len(found.nfev_history)
    assert found.nfev_history[-1] == found.nfev
    assert (np.diff(found.nfev_history) > 0).all()
    assert found.npasses == found.nfev / 40


@SUITE.check
def a_callback_sees_each_step_and_stops(subject):
    seen = []

    def callback(result):
        seen.append(result.nit)
        if len(seen) == 3:
            raise StopIteration

    found = Solver(subject)(atol=0.0, callback=callback)
    assert seen == [1, 2, 3]
    assert (found.status, found.success) == (2, False)


@SUITE.check
def its_start_is_left_alone(subject):
    u0 = np.ones(3)
    found = Solver(subject)(u0=u0, max_passes=10)
    assert np.array_equal(u0, np.ones(3))
    assert not np.shares_memory(found.x, u0)


@SUITE.check
def tensors_stay_tensors(subject):
    solver, parts = Solver(subject), {"L": 1.0, "n": 40, "F_batch": lambda u, index: u}
    given = {name: value for name, value in parts.items() if name in solver.names}
    for dtype in (torch.float32, torch.float64):
        found = solver(lambda u: u, torch.ones(3, dtype=dtype), max_passes=10, **given)
        assert found.x.dtype == dtype


@SUITE.check
def bad_input_is_refused_by_name(subject):
    solver = Solver(subject)
    for bad, name in (
        ({"atol": -1.0}, "atol"), ({"max_passes": 0}, "max_passes"), ({"L": -1.0}, "L is"), ({"eta": 0.0}, "eta"),
        ({"u0": np.full(3, np.nan)}, "u0"), ({"u0": np.zeros(4)}, "u0"), ({"n": 0}, "n is"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            solver(**bad)

    class Broken(LeastSquaresOperator):
        def __call__(self, u):
            return u * np.nan

    with pytest.raises(ValueError, match="F returned"):
        solver(Broken(ROWS, VALUES))


@SUITE.check
def runs_repeat(subject):
    assert np.array_equal(Solver(subject)(max_passes=20).x, Solver(subject)(max_passes=20).x)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_monotone_solvers(check, subject):
    check(subject)


def careless(F, u0, *, atol=1e-3, max_passes=100.0, callback=None, resolvent=None, n=None, L=None, eta=None):
    u0 += np.random.random(3) if isinstance(u0, np.ndarray) else 1  # noqa: NPY002
    u0 = u0.astype(np.float16) if isinstance(u0, np.ndarray) else u0.half()
    return OptimizeResult(x=u0 - 1, success=True, status=0, residual=0.0, nit=2, residual_history=[0.0], nfev=1,
                          nfev_history=[1], npasses=1.0)  # fmt: skip


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_a_careless_one_passes_no_check(check):
    with pytest.raises(CAUGHT):
        check(Subject(Export("optimization", "careless", careless)))


def test_its_kind_is_found():
    from paperworks.optimization import halpern_vr

    assert kind_of(Export("optimization", "halpern_vr", halpern_vr)) == "monotone solver"
