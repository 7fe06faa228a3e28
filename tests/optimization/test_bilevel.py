"""The penalty method on problems with known answers, its options, its counts, and what it refuses."""

import math
import warnings
from functools import partial

import pytest
import torch

from paperworks.optimization import (
    PolynomialDecay,
    penalty_bilevel,
    prox_ball,
    prox_box,
    prox_simplex,
)

pytestmark = pytest.mark.usefixtures("untyped")

b = torch.tensor([1.0, 2.0], dtype=torch.float64)
ZERO, ORIGIN = torch.tensor(0.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
METHODS = ["double_loop", "single_loop", "f2sa"]


def held_out(x, y):
    return ((y - b / 1.5) ** 2).sum()


def ridge(x, y):
    return ((y - b) ** 2).sum() / 2 + x * (y**2).sum() / 2


def noisy(objective):
    return lambda x, y, batch: objective(x, y) + (batch @ y).mean() * 0.1


def sampler(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(2, count, 2, generator=generator, dtype=torch.float64).unbind()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_the_ridge_that_fits_held_out_data(method):
    found = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, method=method, steps=150)
    assert float(found.x) == pytest.approx(0.5, abs=2e-3)
    assert found.y == pytest.approx(b / 1.5, abs=2e-3)


def test_a_constant_sigma_stops_where_the_gradient_is_small():
    options = {"sigma": lambda k: 0.1, "lr_x": 0.1, "prox_rho": math.inf}
    found = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, steps=1000, atol=1e-6, **options)
    assert found.success
    assert found.message == "Converged."
    assert found.grad_norm <= 1e-6 < found.history["grad_norm"][-2]
    assert found.steps == len(found.history["sigma"]) < 1000


def test_a_falling_sigma_has_to_be_small_as_well():
    found = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, steps=20, atol=1e-3)
    assert not found.success


def test_momentum_of_share_one_is_the_double_loop_with_one_step_bit_for_bit():
    options = {"sigma": 0.1, "lr_x": 0.01, "lr_y": 0.3, "steps": 40}
    one = penalty_bilevel(noisy(held_out), noisy(ridge), ZERO, ORIGIN, method="single_loop", momentum=1.0,
                          sampler=sampler(), **{**options, "sigma": PolynomialDecay(0.1, 0.2)})  # fmt: skip
    two = penalty_bilevel(noisy(held_out), noisy(ridge), ZERO, ORIGIN, inner_steps=1, averaging=1.0, prox_rho=math.inf,
                          batch_size=1, sampler=sampler(),
                          **{**options, "sigma": PolynomialDecay(0.1, 0.2), "lr_x": PolynomialDecay(0.01, 0.6, 10),
                             "lr_y": PolynomialDecay(0.3, 0.4, 10)})  # fmt: skip
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.y, two.y)
    assert torch.equal(one.z, two.z)


def test_without_noise_momentum_corrects_exactly():
    """The same objective at both points: each estimate is the gradient itself, whatever the share."""
    options = {"method": "single_loop", "sigma": 0.1, "lr_x": 0.05, "steps": 30}
    plain = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, **options)
    with_momentum = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, momentum=lambda k: 0.3, **options)
    assert float(with_momentum.x) == pytest.approx(float(plain.x), rel=1e-12)


def test_momentum_averages_noise():
    """A linear upper objective in noise that nothing moves: late estimates have the variance of an average."""
    options = {"method": "single_loop", "sigma": 0.1, "lr_x": 1e-9, "lr_y": 1e-9, "steps": 150}
    kick = lambda x, y, batch: batch[:, 0].mean() * x + y.sum() * 0.0  # noqa: E731
    still = lambda x, y, batch: y.square().sum()  # noqa: E731
    spread = []
    for momentum in (1.0, 0.05):
        found = penalty_bilevel(kick, still, ZERO, ORIGIN, sampler=sampler(3), momentum=momentum, **options)
        spread.append(sum(v * v for v in found.history["grad_norm"][50:]) / 100)
    assert spread[1] < 0.1 * spread[0]


def test_gradients_and_samples_are_counted():
    found = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, inner_steps=4, steps=5, lr_y=0.1, prox_rho=1.0)
    assert (found.n_grad_f, found.n_grad_g, found.n_samples) == (5 * 5, 5 * 10, 0)
    options = {"sampler": sampler(), "steps": 5, "lr_y": 0.1}
    found = penalty_bilevel(noisy(held_out), noisy(ridge), ZERO, ORIGIN, inner_steps=2, batch_size=lambda k: k + 1,
                            inner_batch_size=3, prox_rho=1.0, **options)  # fmt: skip
    assert found.n_samples == 5 * 6 + 15
    found = penalty_bilevel(noisy(held_out), noisy(ridge), ZERO, ORIGIN, method="single_loop", **options)
    assert found.n_samples == 10
    assert found.n_grad_f == 2 + 4 * 4


def test_constraints_hold_at_both_levels():
    """A projection on a simplex above and a box below; the lower solution is the clipped x."""
    target = torch.tensor([0.9, 0.4, -0.5], dtype=torch.float64)
    found = penalty_bilevel(
        lambda x, y: (y - target).square().sum(), lambda x, y: (y - 2 * x).square().sum() / 2,
        torch.full((3,), 1 / 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64),
        project_x=prox_simplex, project_y=partial(prox_box, upper=1.0), lr_x=0.02, sigma=0.05, steps=400, inner_steps=3,
    )  # fmt: skip
    assert float(found.x.sum()) == pytest.approx(1.0)
    assert float(found.x.min()) >= 0
    assert bool(((found.y >= 0) & (found.y <= 1)).all())
    # 2 x1 near 0.9 and 2 x2 near 0.4 leave weight that no longer helps: it goes where the box cuts it off, or to x3.
    loss = float((found.y - target).square().sum())
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    third = 1 - first - second
    points = torch.stack([first, second, third], -1)[third >= 0]
    best = float(((2 * points).clamp(0, 1) - target).square().sum(-1).min())
    assert loss <= best + 0.01


def test_nests_and_modules_are_taken():
    model = torch.nn.Linear(2, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    X = torch.eye(2, dtype=torch.float64)

    def fit(y):
        return torch.func.functional_call(model, y, (X,))[:, 0]

    found = penalty_bilevel(
        lambda x, y: ((fit(y) - b / 1.5) ** 2).sum(),
        lambda x, y: ((fit(y) - b) ** 2).sum() / 2 + x["decay"] * fit(y).square().sum() / 2,
        {"decay": ZERO}, model, steps=40, method="single_loop", lr_x=0.1,
    )  # fmt: skip
    assert float(found.x["decay"]) == pytest.approx(0.5, abs=0.1)
    assert list(found.y) == ["weight"]


def test_steps_may_differ_between_entries():
    """A batch of independent problems runs as one, each entry with its own step."""
    x0 = torch.zeros(3, 1, dtype=torch.float64)
    lr = torch.tensor([[0.01], [0.05], [0.1]], dtype=torch.float64)

    def up(x, y):
        return ((y - b / 1.5) ** 2).sum()

    def low(x, y):
        return ((y - b) ** 2).sum() / 2 + (x * y**2).sum() / 2

    together = penalty_bilevel(up, low, x0, torch.zeros(3, 2, dtype=torch.float64), lr_x=lr, lr_y=0.5,
                               prox_rho=math.inf, steps=20)  # fmt: skip
    for row, step in enumerate(lr):
        alone = penalty_bilevel(up, low, x0[:1], torch.zeros(1, 2, dtype=torch.float64), lr_x=float(step), lr_y=0.5,
                                prox_rho=math.inf, steps=20)  # fmt: skip
        assert float(together.x[row]) == pytest.approx(float(alone.x), rel=1e-12)


def test_the_callback_follows_and_stops():
    seen = []

    def follow(result):
        seen.append(float(result.x))
        if result.steps == 3:
            raise StopIteration

    found = penalty_bilevel(held_out, ridge, ZERO, ORIGIN, callback=follow)
    assert (found.status, found.steps, len(seen)) == (2, 3, 3)


def test_starts_are_left_alone():
    x0, y0 = ZERO.clone(), ORIGIN.clone()
    penalty_bilevel(held_out, ridge, x0, y0, steps=3)
    assert torch.equal(x0, ZERO)
    assert torch.equal(y0, ORIGIN)


def test_it_warns_where_sigma_is_smaller_than_the_inner_accuracy():
    with pytest.warns(UserWarning, match="inner accuracy"):
        penalty_bilevel(held_out, ridge, ZERO, ORIGIN, sigma=1e-6, lr_x=1e-9, lr_y=0.01, inner_steps=1, steps=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"sigma": lambda k: 0.1 + 0.1 * k}, "sigma rises"),
        ({"prox_rho": 0.0}, "prox_rho is 0"),
        ({"averaging": 1.5}, "averaging is 1.5"),
        ({"steps": 0}, "steps is 0"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"lr_x": -1.0}, "lr_x is -1"),
        ({"lr_x": torch.tensor([-1.0])}, "lr_x has entries"),
        ({"lr_y": 0.0}, "lr_y is 0"),
        ({"lr_y": 1e9}, "left the finite numbers"),
        ({"atol": -1.0}, "atol is -1"),
        ({"method": "triple"}, "method is 'triple'"),
        ({"method": "single_loop", "inner_steps": 3}, "inner_steps is 3"),
        ({"method": "single_loop", "momentum": 2.0}, "momentum is 2"),
        ({"momentum": 0.5}, "momentum is 0.5; it takes None"),
        ({"method": "f2sa", "project_y": prox_ball}, "project_y is"),
        ({"project_y": partial(prox_box, lower=1.0)}, "y0 is .* away from its set"),
        ({"project_x": lambda x: x.clamp(min=2.0)}, "x0 is .* away from its set"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        penalty_bilevel(held_out, ridge, ZERO, ORIGIN, **options)


@pytest.mark.parametrize(
    ("f", "g", "x0", "y0", "message"),
    [
        (None, ridge, ZERO, ORIGIN, "f is NoneType"),
        (held_out, lambda x, y: y, ZERO, ORIGIN, "g returned a tensor of shape"),
        (held_out, ridge, 0.5, ORIGIN, "x0 has float"),
        (held_out, ridge, ZERO, torch.zeros(2, dtype=torch.int64), "y0 has torch.int64"),
    ],
)
def test_bad_types_are_refused_by_name(f, g, x0, y0, message):
    with pytest.raises(TypeError, match=message):
        penalty_bilevel(f, g, x0, y0)


def test_bad_values_are_refused_by_name():
    with pytest.raises(ValueError, match="y0 has entries that are not finite"):
        penalty_bilevel(held_out, ridge, ZERO, torch.tensor([math.nan, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="x0 is empty"):
        penalty_bilevel(held_out, ridge, [], ORIGIN)


@pytest.mark.parametrize("name", ["f", "g"])
def test_objectives_that_are_not_differentiable_in_y_are_refused(name):
    objectives = {"f": held_out, "g": ridge, name: lambda x, y: y.detach().square().sum()}
    with pytest.raises(RuntimeError, match=f"{name} is not differentiable in y"):
        penalty_bilevel(objectives["f"], objectives["g"], ZERO, ORIGIN)


def test_it_has_not_converged_before_the_lower_level_is_solved():
    # The pull of the proximal term, or a lower level that hardly moves, makes the first gradients small.
    f, curvature = (lambda x, y: (y - 1).square().sum() / 2), torch.tensor([1e-3, 1.0], dtype=torch.float64)

    def g(x, y):
        return (curvature * (y - x).square()).sum() / 2

    for options in ({}, {"prox_rho": math.inf, "inner_steps": 1, "lr_y": 1.0}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = penalty_bilevel(f, g, ORIGIN, ORIGIN, sigma=lambda k: 1e-4, lr_x=0.1, atol=0.01, steps=5, **options)
        assert not found.success


def test_a_schedule_may_end_with_the_run():
    table = [0.1 * 0.9**k for k in range(5)]
    assert penalty_bilevel(held_out, ridge, ZERO, ORIGIN, sigma=lambda k: table[k], lr_x=0.1, steps=5).steps == 5
