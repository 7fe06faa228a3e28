"""Projections and proximal operators against their definition, in both libraries."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from paperworks.optimization import prox_affine, prox_ball, prox_box, prox_l1, prox_product, prox_simplex

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 6)), RNG.normal(size=2)
OPERATORS = {
    "simplex": prox_simplex,
    "wide simplex": partial(prox_simplex, radius=3.0),
    "box": partial(prox_box, lower=-0.5, upper=np.linspace(0, 1, 6)),
    "orthant": prox_box,
    "l1": partial(prox_l1, weight=0.7),
    "weighted l1": partial(prox_l1, weight=np.linspace(0, 2, 6)),
    "ball": partial(prox_ball, radius=0.8, center=0.1),
    "affine": prox_affine(A, B),
    "product": prox_product((2, prox_simplex), (3, prox_l1), (1, prox_ball)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_they_are_firmly_nonexpansive_and_alike_in_torch_and_in_batches(name):
    prox, points = OPERATORS[name], 3 * RNG.normal(size=(40, 6))
    before = points.copy()
    ends = prox(points, 0.6)
    assert np.array_equal(points, before)
    np.testing.assert_allclose(ends, np.stack([prox(p, 0.6) for p in points]), atol=1e-14)
    if name != "weighted l1":
        np.testing.assert_allclose(prox(torch.from_numpy(points), 0.6).numpy(), ends, atol=1e-13)
    gap, ended = points[:, None] - points, ends[:, None] - ends
    assert ((ended * gap).sum(-1) >= (ended**2).sum(-1) - 1e-12).all()


@pytest.mark.parametrize("radius", [1.0, 2.5, 1e-3])
def test_the_simplex_is_that_of_a_quadratic_programme(radius):
    for _ in range(5):
        v = RNG.normal(size=5)
        sums = {"type": "eq", "fun": lambda x: x.sum() - radius}
        found = minimize(lambda x, v=v: ((x - v) ** 2).sum(), np.full(5, radius / 5), bounds=[(0, None)] * 5,
                         constraints=sums, options={"ftol": 1e-14})  # fmt: skip
        np.testing.assert_allclose(prox_simplex(v, radius=radius), found.x, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_the_simplex_holds_at_every_scale(scale, shift):
    ends = prox_simplex(scale * RNG.normal(size=(20, 1000)) + shift)
    assert (ends >= 0).all()
    np.testing.assert_allclose(ends.sum(-1), 1, rtol=1e-12)
    assert np.array_equal(prox_simplex(np.full(4, scale)), np.full(4, 0.25))


def test_ends_are_in_their_sets_for_huge_entries():
    np.testing.assert_allclose(prox_ball(np.array([3e200, 4e200])), [0.6, 0.8])
    np.testing.assert_allclose(prox_ball(np.zeros(2), radius=0.0), 0)
    np.testing.assert_allclose(A @ prox_affine(A, B)(RNG.normal(size=6)), B, atol=1e-12)


def test_rank_deficient_equations_have_their_projection():
    twice = np.vstack([A, A])
    np.testing.assert_allclose(
        prox_affine(twice, np.concatenate([B, B]))(np.ones(6)), prox_affine(A, B)(np.ones(6)), atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_and_place_stay(dtype):
    for name, prox in OPERATORS.items():
        if name != "weighted l1":
            assert prox(torch.randn(6, dtype=dtype), 0.5).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prox_simplex(np.array([1.0, np.nan])), "not finite"),
        (lambda: prox_simplex(np.empty(0)), "no entries"),
        (lambda: prox_simplex(np.ones(2), radius=0), "radius is 0"),
        (lambda: prox_box(np.ones(2), lower=1, upper=0), "lower is 1"),
        (lambda: prox_l1(np.ones(2), weight=-1), "weight is -1"),
        (lambda: prox_ball(np.ones(2), radius=-1), "radius is -1"),
        (lambda: prox_affine(np.ones((2, 3)), np.ones(3)), "A has shape"),
        (lambda: prox_product(), "parts have"),
        (lambda: prox_product((2, prox_box))(np.ones(3)), "3 entries"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("untyped")
def test_lists_are_refused():
    with pytest.raises(TypeError, match="v is list"):
        prox_simplex([1.0, 2.0])
