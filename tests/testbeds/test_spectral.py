"""The spectral solver: closed forms, orders of convergence, an implicit solver, invariants, random fields' laws."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from paperworks.testbeds import (
    PeriodicGrid,
    SemilinearEquation,
    advection_diffusion,
    allen_cahn,
    burgers,
    gaussian_fields,
    heat,
    korteweg_de_vries,
    kuramoto_sivashinsky,
    navier_stokes,
    sine_fields,
    velocity_of,
    vortex_sheets,
    vorticity_of,
)

TURN = 2 * math.pi


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def smooth(grid: PeriodicGrid, batch: int = 2) -> torch.Tensor:
    return sine_fields(grid, batch, generator=seed())


@pytest.mark.parametrize("shape", [(12,), (8, 10), (8, 9, 6)])
def test_heat_and_advection_are_exact_in_each_dimension(shape):
    equation = advection_diffusion(shape, [0.3, -0.2, 0.5][: len(shape)], 0.01)
    x = equation.grid.coordinates()
    wave = sum(x[1:], 2 * x[0])

    def truth(t):
        shift = t * (2 * 0.3 + sum([-0.2, 0.5][: len(shape) - 1]))
        return (TURN * (wave - shift)).sin() * math.exp(-0.01 * t * TURN**2 * (4 + len(shape) - 1))

    states = equation.simulate(truth(0), dt=0.7, n=3)
    for i in range(4):
        torch.testing.assert_close(states[i], truth(0.7 * i), rtol=0, atol=1e-13)
    warm = heat(shape, 0.01).simulate(truth(0), dt=1.0, n=1)[-1]
    factor = math.exp(-0.01 * TURN**2 * (4 + len(shape) - 1))
    torch.testing.assert_close(warm, factor * truth(0), rtol=0, atol=1e-13)


def test_forced_heat_goes_to_its_balance_and_follows_forcing_in_time():
    grid = PeriodicGrid(16, 1.0)
    (x,) = grid.coordinates()
    field = (TURN * x).sin()
    still = heat(16, 1.0, forcing=TURN**2 * field).simulate(torch.zeros(16).double(), dt=2.0, n=1, substeps=3)
    torch.testing.assert_close(still[-1], field, rtol=0, atol=1e-12)
    # u = sin(t) field solves u_t = u_xx + (cos t + 4 pi^2 sin t) field.
    source = lambda t: (torch.cos(t) + TURN**2 * torch.sin(t)) * field  # noqa: E731
    moving = heat(16, 1.0, forcing=lambda t: source(torch.as_tensor(t))).simulate(0 * x, dt=1.0, n=2, substeps=200)
    torch.testing.assert_close(moving[-1], math.sin(2) * field, rtol=0, atol=1e-6)
    late = heat(16, 1.0, forcing=lambda t: source(torch.as_tensor(t)))
    late = late.simulate(math.sin(1) * field, dt=1.0, n=1, substeps=200, start=1.0)
    torch.testing.assert_close(late[-1], math.sin(2) * field, rtol=0, atol=1e-6)


def test_burgers_is_the_transform_of_heat():
    """Cole and Hopf: u = -2 nu (log phi)_x for phi of the heat equation, here from u0 = sin on a circle of 2 pi."""
    nu, t = 0.1, 1.0
    equation = burgers(128, nu, TURN)
    (x,) = equation.grid.coordinates()
    found = equation.simulate(x.sin(), dt=t, n=1, substeps=100)[-1]

    def truth(at):
        weight = lambda y: math.exp((math.cos(y) - 1) / (2 * nu) - (at - y) ** 2 / (4 * nu * t))  # noqa: E731
        top = quad(lambda y: (at - y) / t * weight(y), at - 6, at + 6, epsabs=1e-13, limit=200)[0]
        return top / quad(weight, at - 6, at + 6, epsabs=1e-13, limit=200)[0]

    for i in (5, 40, 60, 90):
        assert float(found[i]) == pytest.approx(truth(float(x[i])), abs=2e-8)


def test_a_soliton_travels_unchanged():
    equation, speed = korteweg_de_vries(256, 40.0), 1.5
    (x,) = equation.grid.coordinates()
    wave = lambda middle: speed / 2 / torch.cosh(math.sqrt(speed) / 2 * (x - middle)) ** 2  # noqa: E731
    states = equation.simulate(wave(12.0), dt=2.0, n=3, substeps=400)
    # Its tail at the ends of the circle is exp(-sqrt(speed) 12) = 4e-7.
    torch.testing.assert_close(states[-1], wave(21.0), rtol=0, atol=5e-6)
    assert float((states[-1] ** 2).mean() / (states[0] ** 2).mean()) == pytest.approx(1, abs=1e-8)


def test_taylor_and_greens_vortices_decay_and_drag_slows():
    equation = navier_stokes((16, 24), 0.05, TURN, drag=0.1)
    x, y = equation.grid.coordinates()
    start = 2 * x.sin() * y.sin()
    states = equation.simulate(start, dt=1.0, n=2, substeps=10)
    torch.testing.assert_close(states[-1], math.exp(-2 * (0.1 + 0.1)) * start, rtol=0, atol=1e-13)


def test_a_forced_shear_flow_is_in_balance():
    """Of Kolmogorov's flow: the vorticity nu k^2 a cos(k y) balances its forcing, and advects nothing."""
    grid = PeriodicGrid((16, 16))
    _, y = grid.coordinates()
    balance = -(4 * y).cos() / (0.1 * 16) * 4
    equation = navier_stokes(16, 0.1, TURN, forcing=-4 * (4 * y).cos())
    states = equation.simulate(torch.stack([balance, 0 * balance]), dt=20.0, n=1, substeps=200)
    torch.testing.assert_close(states[0, -1], balance, rtol=0, atol=1e-12)
    torch.testing.assert_close(states[1, -1], balance, rtol=0, atol=1e-12)


def test_a_flow_without_friction_keeps_energy_and_enstrophy_and_moves_with_its_mean():
    grid = PeriodicGrid((32, 32), 1.0)
    start = smooth(grid)
    states = navier_stokes(32, 0.0).simulate(start, dt=0.5, n=1, substeps=200)
    energy = velocity_of(grid, states).square().mean((-3, -2, -1))
    torch.testing.assert_close(energy[:, 0], energy[:, 1], rtol=1e-6, atol=0)
    enstrophy = states.square().mean((-2, -1))
    torch.testing.assert_close(enstrophy[:, 0], enstrophy[:, 1], rtol=1e-5, atol=0)
    assert (states[:, 1] - states[:, 0]).abs().max() > 0.01


def test_allen_cahn_follows_the_ordinary_equation_and_keeps_its_layer():
    u = allen_cahn((8, 8), 0.05).simulate(torch.full((8, 8), 0.1).double(), dt=1.0, n=1, substeps=100)[-1]
    truth = 0.1 * math.e / math.sqrt(1 - 0.01 + 0.01 * math.e**2)
    torch.testing.assert_close(u, torch.full_like(u, truth), rtol=0, atol=1e-8)
    equation = allen_cahn(256, 0.02)
    (x,) = equation.grid.coordinates()
    layers = torch.tanh((x - 0.25) / (math.sqrt(2) * 0.02)) - torch.tanh((x - 0.75) / (math.sqrt(2) * 0.02)) - 1
    states = equation.simulate(layers, dt=1.0, n=1, substeps=100)
    torch.testing.assert_close(states[-1], layers, rtol=0, atol=1e-6)


CASES = {
    "kuramoto_sivashinsky": (kuramoto_sivashinsky(64, 22.0), 1.0, 16),
    "burgers": (burgers(64, 0.05), 0.25, 8),
    "korteweg_de_vries": (korteweg_de_vries(32), 0.5, 8),
    "allen_cahn": (allen_cahn((16, 16), 0.2), 1.0, 4),
    "navier_stokes": (navier_stokes(16, 0.01), 0.5, 8),
}


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_orders_of_convergence(name, order):
    equation, time, steps = CASES[name]
    u0 = smooth(equation.grid)
    solve = lambda substeps, order=order: equation.simulate(u0, time, 1, substeps, order=order)[:, -1]  # noqa: E731
    truth = solve(steps * 32, 4)
    errors = [float((solve(steps * k) - truth).abs().max()) for k in (2, 4)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.45)


def test_an_implicit_solver_says_the_same():
    equation = kuramoto_sivashinsky(48, 22.0)
    (x,) = equation.grid.coordinates()
    u0 = (TURN * x / 22).cos() * (1 + (TURN * x / 22).sin())
    found = equation.simulate(u0, dt=10.0, n=1, substeps=640)[-1]
    ik, kept = equation.grid.derivatives[0].numpy(), equation.grid.kept.numpy()
    symbol = equation.symbol.numpy()

    def slope(t, u):
        modes = np.fft.rfft(u)
        square = np.fft.rfft(np.fft.irfft(kept * modes, 48) ** 2)
        return np.fft.irfft(symbol * modes - ik / 2 * kept * square, 48)

    truth = solve_ivp(slope, (0, 10), u0.numpy(), method="Radau", rtol=1e-9, atol=1e-9).y[:, -1]
    assert np.abs(found.numpy() - truth).max() < 1e-7


def test_a_batch_is_its_rows_with_lengths_times_and_coefficients_of_their_own():
    lengths, times, nus = (torch.tensor(v).double() for v in ([20.0, 24.0], [0.5, 0.7], [0.8, 1.2]))
    together = kuramoto_sivashinsky(32, lengths, nus)
    u0 = smooth(together.grid)
    states = together.simulate(u0, times, n=3, substeps=4)
    assert states.shape == (2, 4, 32)
    for i in range(2):
        alone = kuramoto_sivashinsky(32, float(lengths[i]), float(nus[i])).simulate(u0[i], float(times[i]), 3, 4)
        torch.testing.assert_close(states[i], alone, rtol=0, atol=1e-12)
    # One field, several coefficients.
    assert kuramoto_sivashinsky(32, 22.0, nus).simulate(u0[0], 0.5, 1).shape == (2, 2, 32)


def test_the_mean_of_kuramoto_and_sivashinsky_stays_and_precision_is_the_callers():
    equation = kuramoto_sivashinsky(64, 22.0)
    u0 = (smooth(equation.grid) + 0.3).float()
    states = equation.simulate(u0, dt=1.0, n=5, substeps=8)
    assert states.dtype == torch.float32
    torch.testing.assert_close(states.mean(-1), u0.mean(-1, keepdim=True).expand(2, 6), rtol=0, atol=1e-6)
    assert equation.simulate(u0, 1.0, 0).shape == (2, 1, 64)


@pytest.mark.parametrize("shape", [(9,), (8, 6), (6, 5, 4)])
def test_transforms_and_derivatives_invert(shape):
    grid = PeriodicGrid(shape, [1.0, 2.0, 3.0][: len(shape)])
    field = torch.randn(3, *shape, dtype=torch.float64, generator=seed())
    torch.testing.assert_close(grid.real(grid.modes(field)), field)
    x = grid.coordinates()[-1]
    side = float(grid.lengths[-1])
    slope = grid.real(grid.derivatives[-1] * grid.modes((TURN * x / side).sin()))
    torch.testing.assert_close(slope, TURN / side * (TURN * x / side).cos(), rtol=0, atol=1e-12)


def test_velocity_and_vorticity_invert_each_other_and_nothing_flows_out():
    grid = PeriodicGrid((16, 24), [1.0, 2.0])
    vorticity = smooth(grid, 3)
    velocity = velocity_of(grid, vorticity)
    torch.testing.assert_close(vorticity_of(grid, velocity), vorticity, rtol=0, atol=1e-12)
    u, v = grid.modes(velocity).unbind(-3)
    assert (grid.derivatives[0] * u + grid.derivatives[1] * v).abs().max() < 1e-10


def test_gaussian_fields_have_their_spectrum_on_any_grid():
    amplitude = lambda k: torch.where(k == 0, 0, (k**2 + 9) ** -2.0)  # noqa: E731
    counted = torch.arange(-40, 41).double()
    variance = float(amplitude(torch.cartesian_prod(counted, counted).norm(dim=1)).square().sum())
    for n in (16, 24):
        draws = gaussian_fields(PeriodicGrid((n, n)), 400, amplitude, seed(n))
        assert draws.mean((-2, -1)).abs().max() < 1e-12
        assert float(draws.var()) == pytest.approx(variance, rel=0.05)


def test_sheets_are_two_thin_layers_of_opposite_vorticity():
    grid = PeriodicGrid((64, 64), 1.0)
    flat = vortex_sheets(grid, 1, amplitude=0.0, generator=seed())[0]
    _, y = grid.coordinates()
    layer = lambda middle: sum(torch.cosh((y - middle - image) / 0.05) ** -2 for image in (-1, 0, 1))  # noqa: E731
    exact = (layer(0.75) - layer(0.25)) / 0.05
    torch.testing.assert_close(flat, exact, rtol=0, atol=1e-3)
    waving = vortex_sheets(grid, 2, generator=seed())
    assert not torch.allclose(waving[0], waving[1])
    states = navier_stokes(64, 1e-3).simulate(waving, dt=0.5, n=1, substeps=100)
    assert bool((states.abs().amax((-2, -1))[:, 1] < states.abs().amax((-2, -1))[:, 0]).all())


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PeriodicGrid(3), "points is 3"),
        (lambda: PeriodicGrid((8, 8, 8, 8)), "number of axes is 4"),
        (lambda: PeriodicGrid((8, 8), [1.0]), "length has 1 sides"),
        (lambda: PeriodicGrid(8, -1.0), "length is -1.0"),
        (lambda: PeriodicGrid(8, torch.tensor([1.0, 0.0])), "length is tensor"),
        (lambda: kuramoto_sivashinsky(16, nu=0.0), "nu is 0.0"),
        (lambda: kuramoto_sivashinsky(16, nu=torch.tensor([1.0, math.nan])), "nu is tensor"),
        (lambda: burgers(16, -1.0), "nu is -1.0"),
        (lambda: burgers(16, forcing=torch.zeros(8)), "forcing has shape"),
        (lambda: allen_cahn(16, 0.0), "epsilon is 0.0"),
        (lambda: heat(16, 0.0, forcing=None) and heat(16, -1.0), "diffusivity is -1.0"),
        (lambda: advection_diffusion((8, 8), [1.0]), "velocity has 1 parts"),
        (lambda: navier_stokes((8, 8, 8)), "points has 3 axes"),
        (lambda: navier_stokes(8, drag=-1.0), "drag is -1.0"),
        (lambda: heat(8).simulate(torch.zeros(9), 1.0, 1), "u0 has shape"),
        (lambda: heat(8).simulate(torch.zeros(8), 0.0, 1), "dt is 0.0"),
        (lambda: heat(8).simulate(torch.zeros(8), 1.0, -1), "n is -1"),
        (lambda: heat(8).simulate(torch.zeros(8), 1.0, 1, 0), "substeps is 0"),
        (lambda: heat(8).simulate(torch.zeros(8), 1.0, 1, order=3), "order is 3"),
        (lambda: gaussian_fields(PeriodicGrid(8), 0, torch.ones_like), "batch_size is 0"),
        (lambda: sine_fields(PeriodicGrid(8), 1, terms=0), "terms is 0"),
        (lambda: vortex_sheets(PeriodicGrid(8), 1), "grid has 1 axes"),
        (lambda: vortex_sheets(PeriodicGrid((8, 8)), 1, thickness=0.0), "thickness is 0.0"),
        (lambda: velocity_of(PeriodicGrid((8, 8)), torch.zeros(8, 9)), "vorticity has shape"),
        (lambda: velocity_of(PeriodicGrid(8), torch.zeros(8)), "grid has 1 axes"),
        (lambda: vorticity_of(PeriodicGrid(8), torch.zeros(2, 8)), "grid has 1 axes"),
        (lambda: vorticity_of(PeriodicGrid((8, 8)), torch.zeros(3, 8, 8)), "velocity has shape"),
        (lambda: heat(8).simulate(torch.full((8,), math.nan), 1.0, 1), "u0 has 8 NaN"),
        (lambda: heat(8).simulate(torch.zeros(0, 8), 1.0, 1), "u0 has shape"),
        (lambda: heat(8).simulate(torch.zeros(3, 8), torch.ones(2), 1), "it doesn't go with dt of shape"),
        (lambda: heat(8).simulate(torch.zeros(8), 1.0, 1, start=math.nan), "start is nan"),
        (lambda: advection_diffusion(8, math.inf), "velocity is inf"),
        (lambda: gaussian_fields(PeriodicGrid(8), 1, lambda k: 1 / k), "amplitude gives"),
        (lambda: sine_fields(PeriodicGrid(8), 1, frequencies=()), "frequencies is"),
        (lambda: sine_fields(PeriodicGrid(8), 1, frequencies=(1.5,)), "frequencies is"),
        (lambda: sine_fields(PeriodicGrid(8), 1, frequencies=(5,)), "frequencies is"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heat(8).simulate(torch.arange(8), 1.0, 1), "u0 has dtype torch.int64"),
        (lambda: heat(8).simulate(torch.ones(8) + 0j, 1.0, 1), "u0 has dtype torch.complex64"),
        (lambda: heat(8).simulate([0.0] * 8, 1.0, 1), "u0 has type list"),
        (lambda: heat(8).simulate(torch.zeros(8), "1", 1), "dt is '1'"),
        (lambda: burgers(8, forcing=1.0), "forcing has type float"),
        (lambda: PeriodicGrid(8.0), "points is 8.0"),
    ],
)
def test_what_is_no_field_is_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.usefixtures("untyped")
def test_counts_of_numpy_are_counts():
    assert PeriodicGrid(np.int64(8)).shape == (8,)
    assert navier_stokes(np.int64(8)).grid.shape == (8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_velocities_have_the_callers_precision(dtype):
    grid = PeriodicGrid((16, 16))
    vorticity = gaussian_fields(grid, 1, lambda k: (k < 4).double(), seed())[0]
    vorticity = vorticity - vorticity.mean()
    velocity = velocity_of(grid, vorticity.to(dtype))
    assert velocity.dtype == vorticity_of(grid, velocity).dtype == dtype
    torch.testing.assert_close(vorticity_of(grid, velocity).double(), vorticity, rtol=0.01, atol=0.05)


def test_states_whose_sum_overflows_are_no_blow_up():
    states = heat(16).simulate(torch.full((16,), 6e4, dtype=torch.float16), 1.0, 1)
    assert (states == 6e4).all()


def test_a_blown_up_state_is_told():
    equation = SemilinearEquation(PeriodicGrid(8), torch.full((5,), 1e3), None)
    with pytest.raises(FloatingPointError, match="state 1 of 2"):
        equation.simulate(torch.ones(8), 1.0, 2)
