"""Darcy's and Helmholtz' equations: exact solutions, orders of convergence, and what is refused."""

import numpy as np
import pytest
import torch

from paperworks.testbeds import (
    darcy_images,
    darcy_multiscale,
    darcy_piecewise,
    darcy_rough,
    darcy_solve,
    helmholtz,
    helmholtz_solve,
    neumann_fields,
)


def grid(n):
    return np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")


def test_a_smooth_coefficient_gives_second_order():
    def error(n):
        x, y = grid(n)
        u = np.sin(np.pi * x) * np.sin(2 * np.pi * y)
        a = 1 + 0.5 * x * y
        ux, uy = (
            np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y),
            2 * np.pi * np.sin(np.pi * x) * np.cos(2 * np.pi * y),
        )
        f = 5 * np.pi**2 * a * u - 0.5 * (y * ux + x * uy)
        return np.abs(darcy_solve(a, f) - u).max()

    assert error(33) < 0.02
    assert np.log2(error(33) / error(65)) == pytest.approx(2, abs=0.05)


def test_the_system_is_the_one_of_fluxes():
    rng = np.random.default_rng(0)
    a = rng.uniform(1, 10, (9, 9))
    u = darcy_solve(a, 1.0)
    mean = lambda p, q: 2 / (1 / p + 1 / q)  # noqa: E731
    out = sum(
        mean(a[1:-1, 1:-1], np.roll(a, s, k)[1:-1, 1:-1]) * (u - np.roll(u, s, k))[1:-1, 1:-1]
        for s in (1, -1)
        for k in (0, 1)
    )
    np.testing.assert_allclose(out * 64, 1.0, rtol=1e-10)
    assert not u[[0, -1]].any()
    assert not u[:, [0, -1]].any()


def test_a_single_inner_node_is_a_grid():
    a = np.array([[1.0, 2, 1], [4, 1, 3], [1, 5, 1]])
    faces = sum(2 / (1 + 1 / neighbour) for neighbour in (2, 4, 3, 5))
    assert darcy_solve(a, 8.0)[1, 1] == pytest.approx(8 / 4 / faces)


def test_helmholtz_is_second_order_and_separable_waves_are_exact():
    def error(n, k=5.0):
        x, _ = grid(n)
        return np.abs(helmholtz_solve(np.full((n, n), 2.0), 2 * k, 1.0) + np.cos(k * x) / (k * np.sin(k))).max()

    assert error(33) < 0.05
    assert np.log2(error(65) / error(129)) == pytest.approx(2, abs=0.05)


def test_fields_have_the_covariance_that_is_asked_for():
    n, tau, power = 17, 3.0, 2.0
    fields = neumann_fields(n, 4000, tau, power, 0)
    x = np.linspace(0, 1, n)
    waves = np.where(np.arange(n) == 0, 1, np.sqrt(2)) * np.cos(np.pi * np.outer(x, np.arange(n)))
    k = np.pi * np.arange(n)
    spectrum = (k[:, None] ** 2 + k**2 + tau**2) ** -power * tau ** (2 * (power - 1))
    spectrum[0, 0] = 0
    variance = np.einsum("ik,jl,kl->ij", waves**2, waves**2, spectrum)
    found = fields.var(0) / variance
    assert np.ptp(found / found.mean()) < 0.3
    np.testing.assert_array_equal(fields[:5], neumann_fields(n, 4000, tau, power, 0)[:5])
    assert (fields[0] != neumann_fields(n, 1, tau, power, 1)[0]).any()


@pytest.mark.parametrize("draw", [darcy_piecewise, darcy_rough, darcy_multiscale, helmholtz], ids=lambda f: f.__name__)
def test_samples_are_pairs_of_fields(draw):
    pairs = draw(17, 3, random_state=1)
    assert pairs.inputs.shape == pairs.outputs.shape == (3, 1, 17, 17)
    assert torch.isfinite(pairs.outputs).all()
    assert torch.equal(pairs.outputs, draw(17, 3, random_state=1).outputs)
    assert pairs[1:].inputs.shape[0] == 2
    if draw is not helmholtz:
        assert (pairs.outputs[:, :, 1:-1, 1:-1] > 0).all()


def test_photographs_are_two_phases():
    pairs = darcy_images(33)
    assert pairs.inputs.unique().tolist() == [3.0, 12.0]
    assert len(pairs.inputs) == 7


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: darcy_solve(np.ones((3, 4))), "a has shape"),
        (lambda: darcy_solve(-np.ones((5, 5))), "a has elements"),
        (lambda: darcy_solve(np.full((5, 5), np.nan)), "a has elements"),
        (lambda: darcy_solve(1j * np.ones((5, 5))), "a has elements"),
        (lambda: darcy_solve(np.ones((5, 5)), np.nan), "f has elements"),
        (lambda: darcy_solve(np.ones((5, 5)), np.ones(5)), "f has shape"),
        (lambda: helmholtz_solve(np.ones((5, 5)), 1.0, 1j), "flux has elements"),
        (lambda: helmholtz_solve(np.ones((5, 5)), 1.0, np.ones(4)), "flux has shape"),
        (lambda: helmholtz_solve(np.ones((4, 5)), 1.0, 1.0), "c has shape"),
        (lambda: helmholtz_solve(np.zeros((5, 5)), 1.0, 1.0), "c has elements"),
        (lambda: helmholtz_solve(np.ones((5, 5)), 0.0, 1.0), "omega is"),
        (lambda: neumann_fields(2, 1, 1.0, 1.0, 0), "n is 2"),
        (lambda: neumann_fields(5, 1, 0.0, 1.0, 0), "tau is"),
        (lambda: darcy_piecewise(9, 0), "samples is 0"),
        (lambda: darcy_piecewise(9, 1, (0.0, 1.0)), "contrast is"),
        (lambda: darcy_piecewise(9, 1, (1.0, 2.0, 3.0)), "contrast is"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
