"""Every exported solver of differential equations: accuracy, direction, tolerances, gradients, and loud failure.

The examples at the end prove the checks.
"""

import inspect
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import paperworks.numerics
from conformance.discovery import Export, asks_for, kind_of
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, variants
from paperworks.dynamics import BrownianTree
from paperworks.numerics import Solution, solve_ode

pytestmark = pytest.mark.usefixtures("untyped")

U = torch.linspace(-1.2, 1.5, 12, dtype=torch.float64).reshape(4, 3)


class Decay(nn.Module):
    """u' = -(rate + cos t) u, which is not autonomous, with a parameter; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.calls = 0

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        self.calls += 1
        place = t.reshape(-1, *[1] * (u.ndim - 1)) if t.ndim else t
        return -(self.rate.to(u) + torch.cos(place)) * u


def exact(u: Tensor, end: float, start: float = 0.0) -> Tensor:
    return u * math.exp(-(end - start) - math.sin(end) + math.sin(start))


def autonomous(t: Tensor, u: Tensor) -> Tensor:
    return u * (1 - u)  # logistic


def logistic(u: Tensor, end: float) -> Tensor:
    return u * math.exp(end) / (1 - u + u * math.exp(end))


def solved(subject: Subject, func: Any, u0: Tensor, span: tuple[float, float] = (0.0, 1.0), **options: Any) -> Any:
    """Return the solution at the end, or at the times asked for, and the number of evaluations."""
    thing, given = subject.export.thing, {"atol": 1e-6, "rtol": 1e-6, **subject.options, **options}
    if inspect.isclass(thing):
        states, info = thing(func, t_span=span, **given).eval()(u0)
        return states, info.nfe
    solution = thing(func, u0, span, **given)
    return (solution.states if "t_eval" in given else solution.states[-1]), int(solution.nfe.max())


def subjects(export: Export) -> list[Subject]:
    return [Subject(export, options) for options in variants(export.thing)]


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach() - wanted).abs().max())


SUITE = Suite("ODE solver", subjects)
CHECKS = SUITE.checks


@SUITE.check
def errors_follow_the_tolerances(subject):
    positive = U.abs() + 0.1
    for func, u0, wanted in ((Decay(), U, exact(U, 1.0)), (autonomous, positive, logistic(positive, 1.0))):
        tolerances = (1e-3, 1e-5, 1e-7)
        errors = [gap(solved(subject, func, u0, atol=tol, rtol=tol)[0], wanted) for tol in tolerances]
        assert all(error < 10 * tol for error, tol in zip(errors, tolerances, strict=True))
        assert errors[2] < errors[0] / 30


@SUITE.check
def time_runs_backwards_or_is_refused(subject):
    end = exact(U, 1.0)
    forth = Decay()
    if inspect.isclass(subject.export.thing):  # a layer refuses, and time is turned round by hand
        with pytest.raises(ValueError, match=r"^t_span is \(1.0, 0.0\)"):
            solved(subject, forth, end, (1.0, 0.0))
        back, _ = solved(subject, lambda t, u: -forth(1 - t, u), end, atol=1e-9, rtol=1e-9)
    else:
        back, _ = solved(subject, forth, end, (1.0, 0.0), atol=1e-9, rtol=1e-9)
    assert gap(back, U) < 1e-6


@SUITE.check
def each_sample_has_its_tolerance(subject):
    tight = torch.tensor([1e-8, 1e-3, 1e-3, 1e-3], dtype=torch.float64)
    found, calls = solved(subject, Decay(), U, atol=tight, rtol=tight)
    assert gap(found[:1], exact(U[:1], 1.0)) < 1e-6
    assert calls > solved(subject, Decay(), U, atol=1e-3, rtol=1e-3)[1]


@SUITE.check
def gradients_are_those_of_finite_differences(subject):
    func, u0 = Decay(), U.clone().requires_grad_()

    def loss() -> Tensor:
        return solved(subject, func, u0, atol=1e-8, rtol=1e-8)[0].square().sum()

    by_state, by_rate = torch.autograd.grad(loss(), [u0, func.rate])
    with torch.no_grad():
        for value, got in ((func.rate, by_rate), (u0[1, 2], by_state[1, 2])):
            losses = []
            for shift in (1e-5, -2e-5):
                value.add_(shift)
                losses.append(loss())
            value.add_(1e-5)
            assert float(got) == pytest.approx(float(losses[0] - losses[1]) / 2e-5, rel=1e-4)


@SUITE.check
def stiff_problems_fail_loudly(subject):
    with pytest.raises(RuntimeError, match=r"stopped at t=0\.\d+.*stiff"):
        solved(subject, lambda t, u: -1e6 * (u - 1), U, max_steps=300)


@SUITE.check
def what_is_not_finite_fails_loudly(subject):
    def late(t: Tensor, u: Tensor) -> Tensor:
        slope = -u
        return torch.where((t > 0.5).reshape(-1, *[1] * (u.ndim - 1)) if t.ndim else t > 0.5, float("nan"), slope)

    for func in (late, lambda t, u: u * float("inf"), lambda t, u: (u + 2) ** 4):  # the last explodes in finite time
        with pytest.raises(RuntimeError, match=r"stopped at t=|NaN or infinity"):
            solved(subject, func, U, max_steps=2000)


@SUITE.check
def bad_input_is_refused_by_name(subject):
    broken = U.clone()
    broken[1, 1] = float("nan")
    for u0, options, error, match in (
        (broken, {}, ValueError, "^u0 has 1 NaN"),
        (U.long(), {}, TypeError, "^u0 is torch.int64"),
        (U[0, 0], {}, ValueError, "^u0 has shape"),
        (U[:0], {}, ValueError, "^u0 has shape"),
        (U, {"atol": 0.0}, ValueError, "^atol is 0"),
        (U, {"rtol": -1.0}, ValueError, "^rtol is -1"),
        (U, {"atol": torch.tensor([1e-3, 0.0, 1.0, 1.0])}, ValueError, "^atol is down to 0"),
        (U, {"max_steps": 0}, ValueError, "^max_steps is 0"),
        (U, {"span": (1.0, 1.0)}, ValueError, "^t_span is"),
        (U, {"t_eval": [0.5, 2.0]}, ValueError, "^t_eval is"),
        (U, {"t_eval": [0.5, 0.2]}, ValueError, "^t_eval is"),
    ):
        with pytest.raises(error, match=match):
            solved(subject, Decay(), u0, **options)
    with pytest.raises(ValueError, match=r"^func returned shape \(4, 1\).*\(4, 3\)"):
        solved(subject, lambda t, u: u[:, :1], U)


@SUITE.check
def its_input_and_the_global_generator_are_left_alone(subject):
    u0, before = U.clone(), torch.get_rng_state()
    found, _ = solved(subject, lambda t, u: u, u0)
    found.detach().add_(1)
    assert torch.equal(u0, U)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(solved(subject, Decay(), U)[0], solved(subject, Decay(), U)[0])


@SUITE.check
def precision_and_device_are_kept(subject):
    for device in DEVICES:
        for dtype in (torch.float32, torch.float64):
            found, _ = solved(subject, Decay().to(device), U.to(device, dtype), atol=1e-5, rtol=1e-5)
            assert (found.dtype, found.device.type) == (dtype, device)
            assert gap(found.cpu().double(), exact(U, 1.0)) < 1e-4


@SUITE.check
def a_batch_is_its_rows(subject):
    rows = torch.cat([solved(subject, Decay(), row[None])[0] for row in U])
    assert gap(solved(subject, Decay(), U)[0], rows.detach()) < 1e-5
    assert solved(subject, Decay(), U[:, 0])[0].shape == (4,)
    assert solved(subject, Decay(), U.reshape(4, 3, 1, 1))[0].shape == (4, 3, 1, 1)


@SUITE.check
def it_tells_the_solution_at_times(subject):
    times = [0.0, 0.1, 0.15, 0.7, 1.0]
    found, _ = solved(subject, Decay(), U, atol=1e-8, rtol=1e-8, t_eval=times)
    assert found.shape == (5, 4, 3)
    assert gap(found, torch.stack([exact(U, time) for time in times])) < 1e-6


@SUITE.check
def evaluations_are_counted(subject):
    func = Decay()
    _, calls = solved(subject, func, U)
    assert calls == func.calls
    assert solved(subject, func, U, atol=1e-8, rtol=1e-8)[1] > calls


@SUITE.check
def it_can_be_pickled(subject):
    if inspect.isclass(subject.export.thing):
        layer = subject.export.thing(Decay(), **subject.options).eval()
        assert torch.equal(pickle.loads(pickle.dumps(layer))(U)[0], layer(U)[0])
    else:
        assert pickle.loads(pickle.dumps(subject.export.thing)) is subject.export.thing


NUMERICS = [Export("numerics", name, getattr(paperworks.numerics, name)) for name in paperworks.numerics.__all__]
BELOW = [
    pytest.param(check, subject, id=f"{subject.id}-{check.__name__}")
    for export in NUMERICS
    if callable(export.thing) and kind_of(export) == "ODE solver"
    for subject in subjects(export)
    for check in CHECKS
]


@pytest.mark.parametrize(("check", "subject"), [*SUITE.cases(), *BELOW])
def test_it_keeps_the_contract_of_ode_solvers(check, subject):
    check(subject)


# Stochastic equations.
def drift(t: Tensor, u: Tensor) -> Tensor:
    return 0.3 * u


def diffusion(t: Tensor, u: Tensor) -> Tensor:
    return 0.5 * u


def noisy(subject: Subject, seed: int, u0: Tensor = U, f: Any = drift, g: Any = diffusion, **options: Any) -> Any:
    """Return the solution at the end, and the number of evaluations."""
    thing, given = subject.export.thing, {"atol": 1e-2, "rtol": 1e-2, **subject.options, **options}
    if inspect.isclass(thing):
        states, info = thing(f, g, **given).eval()(u0, random_state=seed)
        return states, info.nfe
    path = BrownianTree(tuple(u0.shape), (0.0, 1.0), seed, u0.dtype, u0.device)
    solution = thing(f, g, u0, (0.0, 1.0), path, **given)
    return solution.states[-1], int(solution.nfe.max())


NOISY = Suite("SDE solver", subjects)


@NOISY.check
def a_path_is_the_same_in_all_steps(subject):
    path = BrownianTree(tuple(U.shape), (0.0, 1.0), 3)
    wanted = U * (0.3 - 0.125 + 0.5 * path(0.0, 1.0)[0]).exp()
    errors = [gap(noisy(subject, 3, atol=tol, rtol=tol)[0], wanted) for tol in (1e-1, 5e-3)]
    assert errors[0] < 0.3
    assert errors[1] < min(errors[0] / 5, 5e-3)


@NOISY.check
def without_noise_it_solves_the_ordinary_equation(subject):
    found, _ = noisy(subject, 0, f=Decay(), g=lambda t, u: torch.zeros_like(u))
    assert gap(found, exact(U, 1.0)) < 1e-3


@NOISY.check
def seeds_repeat_and_differ(subject):
    before = torch.get_rng_state()
    assert torch.equal(noisy(subject, 1)[0], noisy(subject, 1)[0])
    assert not torch.equal(noisy(subject, 1)[0], noisy(subject, 2)[0])
    assert torch.equal(torch.get_rng_state(), before)


@NOISY.check
def gradients_of_a_path_are_those_of_finite_differences(subject):
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        # The steps are of one length, so that a small change of the parameter changes none of them.
        return noisy(subject, 0, f=lambda t, u: scale * u, atol=10.0, rtol=10.0)[0].square().sum()

    (got,) = torch.autograd.grad(loss(), scale)
    with torch.no_grad():
        losses = []
        for shift in (1e-6, -2e-6):
            scale.add_(shift)
            losses.append(loss())
    assert float(got) == pytest.approx(float(losses[0] - losses[1]) / 2e-6, rel=1e-3)


@NOISY.check
def what_fails_fails_loudly(subject):
    for f, options in (
        (lambda t, u: u * torch.where(t > 0.5, float("nan"), 1.0), {}),
        (lambda t, u: u * float("nan"), {}),
        (lambda t, u: -1e6 * (u - 1), {"max_steps": 50}),
    ):
        with pytest.raises(RuntimeError, match=r"stopped at t=|NaN or infinity"):
            noisy(subject, 0, f=f, **options)


@NOISY.check
def bad_noisy_input_is_refused_by_name(subject):
    for u0, options, error, match in (
        (U * float("nan"), {}, ValueError, "^u0 has 12 NaN"),
        (U.long(), {}, TypeError, "^u0 is torch.int64"),
        (U, {"atol": 0.0}, ValueError, "^atol is 0"),
        (U, {"max_steps": 0}, ValueError, "^max_steps is 0"),
        (U, {"f": lambda t, u: u[:, :1]}, ValueError, r"returned shape \(4, 1\)"),
        (U, {"g": lambda t, u: u[:, :1]}, ValueError, r"returned shape \(4, 1\)"),
    ):
        with pytest.raises(error, match=match):
            noisy(subject, 0, u0, **options)


@NOISY.check
def the_state_keeps_its_precision(subject):
    found, _ = noisy(subject, 0, U.float(), atol=1e-2, rtol=1e-2)
    assert found.dtype == torch.float32
    assert gap(found.double(), noisy(subject, 0)[0]) < 1e-3


@pytest.mark.parametrize(("check", "subject"), NOISY.cases())
def test_it_keeps_the_contract_of_sde_solvers(check, subject):
    check(subject)


def right(func, u0, t_span, *, atol=1e-6, rtol=1e-6, t_eval=None, max_steps=1000):
    """Solve in as many pieces as there are times."""
    times = [t_span[1]] if t_eval is None else t_eval
    return solve_ode(func, u0, t_span, pair="dopri5", atol=atol, rtol=rtol, t_eval=times, max_steps=max_steps)


class Careless(nn.Module):
    """A hundred steps of Euler's, whatever is asked for."""

    def __init__(self, func: Any, t_span: Any = (0.0, 1.0), atol: Any = 0, rtol: Any = 0, **others: Any) -> None:
        super().__init__()
        self.func = lambda t, u: func(t, u)
        self.times = others.get("t_eval") or [1.0]

    def forward(self, u0: Tensor) -> tuple[Tensor, Any]:
        torch.rand(())
        u = u0.detach()
        for i in range(100):
            step = 0.01 * self.func(torch.tensor(i / 100), u)
            u = u.add_(step) if u.is_floating_point() else u
        u = u.nan_to_num().float() + 0.01 * u.float().mean() + torch.rand(())
        return u, Solution(u, 7, 7, 7)  # type: ignore[arg-type]


class CarelessNoise(nn.Module):
    """A hundred steps of Euler's with noise of nobody's path."""

    def __init__(self, drift: Any, diffusion: Any, t_span: Any = (0.0, 1.0), **others: Any) -> None:
        super().__init__()
        self.drift, self.diffusion = drift, diffusion

    def forward(self, u0: Tensor, random_state: int | None = None) -> tuple[Tensor, Any]:
        u = u0.detach().double()
        for i in range(100):
            g = self.diffusion(torch.tensor(i / 100), u)
            u = u + 0.01 * self.drift(torch.tensor(i / 100), u) + 0.1 * (g + 0.1) * torch.randn(u.shape)
        return u.nan_to_num(), Solution(u, 7, 7, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_right_ode_solver_passes_each_check_and_a_careless_one_fails(check):
    example = Export("dynamics", "right", right)
    assert kind_of(example) == "ODE solver"
    assert asks_for(example, "max_steps")
    if check is not it_can_be_pickled:
        check(Subject(example))
    kept = U.clone()
    with pytest.raises(CAUGHT):
        check(Subject(Export("dynamics", "Careless", Careless)))
    U.copy_(kept)  # which it changes


@pytest.mark.parametrize("check", NOISY.checks, ids=lambda check: check.__name__)
def test_a_careless_sde_solver_fails_each_check(check):
    with pytest.raises(CAUGHT):
        check(Subject(Export("dynamics", "CarelessNoise", CarelessNoise)))
