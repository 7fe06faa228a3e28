"""Rooms, sources, closed forms, walls and the wave solver."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.audio import (
    RIGID,
    GaussianSource,
    ImpedanceBoundary,
    Room,
    box_modes,
    fdtd,
    fit_admittance,
    free_field_3d,
    gaussian_width,
    image_source_1d,
    porous_layer,
    random_source_fields,
)

L = Room.l_shape((2.0, 2.0), (1.0, 1.0))


def test_a_room_knows_what_is_inside():
    points = [[0.5, 1.5], [1.5, 1.5], [1.0, 1.5], [2.0, 1.0], [2.0, 2.0], [2.0, 1.5], [-0.1, 0.5], [2.0, 0.0]]
    assert L.contains(points).tolist() == [True, False, True, True, False, False, False, True]
    assert L.cells(0.5).sum() == 12
    assert len(L.nodes(0.5)) == 25 - 4
    table = Room((2.0, 2.0, 2.0), removed=[((0.5, 0.5, 0.0), (1.0, 1.0, 0.5))])
    assert table.contains([[0.7, 0.7, 0.0], [0.7, 0.7, 0.5], [0.5, 0.7, 0.2]]).tolist() == [False, True, True]
    dome = Room((2.0, 2.0), inside=lambda x: ((x - [1, 0]) ** 2).sum(1) <= 1.0 + 1e-9)
    assert dome.contains([[1.0, 0.9], [0.1, 0.9]]).tolist() == [True, False]


def test_random_points_keep_away_from_walls():
    x = L.random_points(200, margin=0.2)
    assert all(L.contains(x + step).all() for step in 0.2 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]))
    assert (L.random_points(200, margin=0.2) == x).all()
    with pytest.raises(ValueError, match="margin"):
        L.random_points(5, margin=1.1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Room(()), "1 to 3 sides"),
        (lambda: Room((2.0, -1.0)), "size"),
        (lambda: Room((2.0,), removed=[((1.0,), (0.5,))]), "removed"),
        (lambda: L.contains([[0.5]]), "2 coordinates"),
        (lambda: L.check_inside("receivers", [1.5, 1.5]), "receivers has .* outside"),
        (lambda: GaussianSource([np.nan]), "position"),
        (lambda: GaussianSource([1.0], sigma=0.0), "sigma"),
        (lambda: GaussianSource([1.0]).pressure([[1.0, 1.0]]), "points"),
        (lambda: image_source_1d(2.0, GaussianSource([1.0, 1.0]), [1.0], [0.0]), "coordinates"),
        (lambda: image_source_1d(2.0, GaussianSource([1.0]), [1.0], [0.0], xi=0.0), "xi"),
        (lambda: box_modes((2.0, 2.0), GaussianSource([1.0]), [[1.0]], [0.0]), "2 coordinates"),
        (lambda: free_field_3d([-1.0], [0.0], 0.2), "r has -1"),
        (lambda: free_field_3d([1.0], [np.nan], 0.2), "t has nan"),
        (lambda: image_source_1d(2.0, GaussianSource([1.0]), [2.5], [0.0]), "x has .* outside"),
        (lambda: image_source_1d(2.0, GaussianSource([2.5]), [1.0], [0.0]), "source has .* outside"),
        (lambda: image_source_1d(2.0, GaussianSource([1.0]), [1.0], [np.nan]), "t has nan"),
        (lambda: box_modes((2.0,), GaussianSource([1.0]), [[-1.0]], [0.0]), "points has .* outside"),
        (lambda: box_modes((2.0,), GaussianSource([1.0]), [[1.0]], [-0.1]), "t has -0.1"),
        (lambda: Room(2.0), "size"),
        (lambda: Room((1.0, 1.0), removed=((0.0, 0.0), (1.0, 1.0))), "removed"),
        (lambda: Room((1.0,), removed=[((2.0,), (3.0,))]), "outside the room"),
        (lambda: Room.l_shape((1.0, 1.0), (2.0, 0.5)), "notch"),
        (lambda: Room((1.0, 1.0), inside=lambda x: True).contains([[0.5, 0.5]]), "inside returns"),
        (lambda: L.random_points(3, margin=math.nan), "margin"),
        (lambda: ImpedanceBoundary(xi=math.nan), "xi is nan"),
        (lambda: GaussianSource("a"), "position"),
        (lambda: random_source_fields(1, [np.linspace(0, 2, 41)], centres=[[99.0]]), "centres"),
        (lambda: random_source_fields(1, [np.array([0.0])]), "axes"),
        (lambda: fdtd(L, GaussianSource([0.5, 0.5], amplitude=1e40), 0.01, h=0.1, dtype="float32"), "float32"),
        (
            lambda: fdtd(Room((2.0,), removed=[((0.95,), (1.0,))]), GaussianSource([0.5]), 0.01, h=0.1),
            "too wide for the box",
        ),
        (lambda: ImpedanceBoundary(xi=-1.0), "xi"),
        (lambda: ImpedanceBoundary(xi=2.0, Y_inf=1.0), "one of the two"),
        (lambda: ImpedanceBoundary(Y_inf=1e-3, real_poles=[(1.0, -5.0)]), "decay rates > 0"),
        (lambda: ImpedanceBoundary(Y_inf=1e-3, real_poles=[(-10.0, 500.0)]), "real part"),
        (lambda: ImpedanceBoundary(Y_inf=1e-6, complex_poles=[(0.0, 1.0, 1.0, 5000.0)]), "real part"),
        (lambda: porous_layer([0.0]), "frequencies > 0"),
        (lambda: fit_admittance([100.0, 200.0], [1.0, 1.0], 2, 2), "enough to fit"),
        (lambda: fit_admittance(np.arange(1, 50), -np.ones(49)), "real part"),
        (lambda: fit_admittance(np.arange(1, 50), np.ones(49), steps=-1), "steps"),
        (lambda: fit_admittance(np.zeros(49), np.ones(49)), "f has zeros"),
        (lambda: fdtd(L, GaussianSource([0.5, 0.5]), 0.01, h=0.1, cfl=0.8), "cfl"),
        (lambda: fdtd(L, GaussianSource([1.5, 1.5]), 0.01, h=0.1), "source"),
        (lambda: fdtd(L, GaussianSource([0.5, 0.5]), 0.01, h=0.1, receivers=[[1.5, 1.5]]), "receivers"),
        (lambda: fdtd(L, GaussianSource([0.5, 0.5]), 0.01, {"z0": RIGID}, h=0.1), "boundary"),
        (lambda: fdtd(L, np.zeros((1, 3, 3)), 0.01, h=0.1), "source"),
        (lambda: fdtd(L, np.zeros((1, 3, 3)), 0.01), "h is None"),
        (lambda: fdtd(L, GaussianSource([0.5, 0.5]), 0.0, h=0.1), "t_max"),
        (lambda: random_source_fields(2, [np.linspace(0, 2, 21)], centres=[[1.0]]), "centres"),
    ],
)
def test_bad_input_is_refused(make, says, untyped):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_source_has_the_paper_s_width_and_spectrum():
    assert gaussian_width(1000.0) == pytest.approx(0.21836, abs=1e-5)
    source = GaussianSource([1.0], sigma=0.1)
    x = np.linspace(0, 2, 4001)
    k = 2 * np.pi * 500 / 343
    transform = np.trapezoid(source.pressure(x[:, None])[0] * np.cos(k * (x - 1.0)), x)
    assert source.spectrum([500.0])[0] == pytest.approx(transform, rel=1e-9)


def test_random_fields_are_smooth_windowed_and_of_maximum_one():
    axes = [np.linspace(0, 2, 41)] * 2
    fields = random_source_fields(4, axes, centres=[[1.0, 1.0]] * 4)
    assert np.abs(fields).max((1, 2)) == pytest.approx(1.0)
    spectrum = np.abs(np.fft.rfft2(fields)) ** 2
    k = 2 * np.pi * np.hypot(np.fft.fftfreq(41, 0.05)[:, None], np.fft.rfftfreq(41, 0.05))
    assert spectrum[:, k > 4 / gaussian_width()].sum() < 0.01 * spectrum.sum()
    assert np.abs(fields[:, 0]).max() < 0.1


def test_images_and_modes_agree_where_both_are_exact():
    source, x, t = GaussianSource([[0.9], [1.1]]), np.linspace(0, 2, 9), np.linspace(0, 0.02, 7)
    images, modes = image_source_1d(2.0, source, x, t), box_modes((2.0,), source, x[:, None], t)
    assert np.abs(images - modes).max() < 1e-6


def test_modes_in_parts_are_all_modes(monkeypatch):
    source, x, t = GaussianSource([[0.9, 1.0], [0.8, 0.7]]), [[0.1, 0.2], [1.5, 0.4]], np.linspace(0, 0.02, 7)
    whole = box_modes((2.0, 1.6), source, x, t)
    monkeypatch.setattr("paperworks.audio.acoustics.closed_forms._MEMORY", 300)
    assert box_modes((2.0, 1.6), source, x, t) == pytest.approx(whole, abs=1e-12)
    narrow = GaussianSource([500.0], sigma=0.05)  # as many modes as there were points of the transform
    far = box_modes((1000.0,), narrow, [[500.0], [500.1]], [0.0])
    assert far[0, 0] == pytest.approx([1.0, np.exp(-4)], abs=1e-6)


@pytest.mark.parametrize("xi", [1.0, 5.83, math.inf])
def test_a_source_at_a_wall_begins_cut_off_and_travels(xi):
    source, x, t = GaussianSource([[0.1], [2.0]]), np.linspace(0, 2, 41), np.linspace(0, 0.02, 9)
    p = image_source_1d(2.0, source, x, t, xi)
    assert p[:, 0] == pytest.approx(source.pressure(x[:, None]))
    solved = fdtd(Room((2.0,)), source, 0.02, ImpedanceBoundary(xi=xi), h=0.002, cfl=0.5, receivers=x[:, None])
    exact = image_source_1d(2.0, source, x, solved.times, xi)
    assert np.sqrt(np.mean((solved.pressure - exact) ** 2)) < 0.03


@pytest.mark.parametrize("wall", ["constant", "porous"])
def test_no_pressure_stays_of_a_source_near_a_wall_that_absorbs(wall):
    f = np.geomspace(20, 2000, 60)
    boundary = ImpedanceBoundary(xi=2.0) if wall == "constant" else fit_admittance(f, porous_layer(f))
    room = Room.l_shape((1.0, 1.0), (0.5, 0.5))
    p = fdtd(room, GaussianSource([0.1, 0.2]), 0.5, boundary, h=0.1, receivers=[[0.3, 0.3]]).pressure[0, :, 0]
    # A porous layer before a wall yields as a spring does: the air's mean pressure halves, and then all but stays.
    assert np.abs(p[-100:]).max() < (1e-6 if wall == "constant" else 0.4)
    assert np.abs(p[-1]) <= np.abs(p[len(p) // 2]) + 1e-9


def test_receivers_on_walls_in_single_precision_are_read():
    room = Room((1.0,))
    places = np.array([[-1e-7], [1.0000001]])
    p = fdtd(room, GaussianSource([0.4]), 0.005, h=0.1, receivers=places).pressure
    assert p == pytest.approx(fdtd(room, GaussianSource([0.4]), 0.005, h=0.1, receivers=[[0.0], [1.0]]).pressure)


def test_modes_of_a_cube_begin_as_the_free_field():
    x = np.array([[1.5, 1.0, 1.0], [1.0, 1.0, 1.0], [1.2, 1.3, 1.1]])
    t = np.linspace(0, 0.0012, 5)
    free = free_field_3d(np.linalg.norm(x - 1.0, axis=1), t, gaussian_width())
    assert np.abs(box_modes((2.0,) * 3, GaussianSource([1.0] * 3), x, t)[0] - free).max() < 1e-3


@pytest.mark.parametrize("xi", [0.3, 1.0, 5.83, math.inf])
def test_a_wall_of_impedance_reflects_its_factor(xi):
    source, wall = GaussianSource([1.0]), ImpedanceBoundary(xi=xi)
    field = fdtd(Room((2.0,)), source, 0.01, wall, h=0.01, cfl=0.5)
    exact = image_source_1d(2.0, source, field.points[:, 0], field.times, xi)
    assert np.abs(field.pressure - exact).max() < 5e-3


@pytest.mark.parametrize(
    ("size", "place"), [((2.0,), [0.9]), ((2.0, 1.6), [0.9, 0.7]), ((1.6, 1.6, 2.0), [0.7, 0.8, 0.9])]
)
def test_the_solver_is_of_second_order(size, place):
    errors = []
    for h in (0.1, 0.05):
        field = fdtd(Room(size), GaussianSource(place), 0.004, h=h, cfl=0.5, receivers=Room(size).nodes(0.4))
        exact = box_modes(size, GaussianSource(place), field.points, field.times[-1:])[0]
        errors.append(np.sqrt(np.mean((field.pressure[:, -1] - exact) ** 2)))
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.3


@pytest.mark.parametrize(
    ("room", "place"),
    [
        (Room((2.0, 1.0)), [0.5, 0.5]),
        (L, [0.5, 0.5]),
        (Room((1.0, 1.0, 1.0), removed=[((0.2, 0.2, 0.0), (0.6, 0.6, 0.4))]), [0.7, 0.7, 0.7]),
        (Room((2.0, 1.0), inside=lambda x: (x[:, 0] - 1) ** 2 + x[:, 1] ** 2 < 1), [1.0, 0.5]),
    ],
)
def test_the_energy_stays_between_rigid_walls_and_falls_at_others(room, place):
    for wall in (RIGID, ImpedanceBoundary(xi=3.0)):
        energy = fdtd(room, GaussianSource(place), 0.02, wall, h=0.1, energy=True).energy[0]
        rises = np.diff(energy) / energy[0]
        assert rises.max() < 1e-12
        assert wall.is_rigid == (abs(energy[-1] / energy[0] - 1) < 1e-12)
        assert wall.is_rigid == (energy[-1] > 0.5 * energy[0])


def test_a_mask_of_everything_is_the_box():
    options = {"t_max": 0.01, "boundary": {"x0": ImpedanceBoundary(xi=2.0), "y1": fitted_layer()}, "h": 0.1}
    source = GaussianSource([[0.5, 0.6], [1.0, 0.3]])
    box = fdtd(Room((2.0, 1.0)), source, **options)
    masked = fdtd(Room((2.0, 1.0), inside=lambda x: np.ones(len(x), bool)), source, **options)
    # The weights' way, which boxes don't take.
    half = fdtd(Room((4.0, 1.0), removed=[((2.0, 0.0), (4.0, 1.0))]), source, **options)
    assert np.abs(box.pressure - masked.pressure).max() < 1e-12
    assert np.abs(box.pressure - half.pressure).max() < 1e-12


def fitted_layer():
    f = np.geomspace(20, 2000, 60)
    return fit_admittance(f, porous_layer(f))


def test_the_spacing_is_a_tenth_of_the_shortest_wavelength():
    points = fdtd(Room((2.0,)), GaussianSource([1.0]), 0.001).points
    assert points[1, 0] == pytest.approx(0.0343, abs=2e-4)


def test_a_batch_is_its_rows_and_fields_are_taken_as_sources():
    room, wall = L, fitted_layer()
    both = fdtd(room, GaussianSource([[0.5, 0.6], [1.5, 0.3]]), 0.01, wall, h=0.1)
    one = fdtd(room, GaussianSource([1.5, 0.3]), 0.01, wall, h=0.1)
    assert np.abs(both.pressure[1:] - one.pressure).max() < 1e-13
    grid = np.stack(np.meshgrid(*room.axes(0.1), indexing="ij"), -1)
    given_field = GaussianSource([1.5, 0.3]).pressure(grid.reshape(-1, 2)).reshape(1, 21, 21)
    assert np.abs(fdtd(room, given_field, 0.01, wall, h=0.1).pressure - one.pressure).max() < 1e-13
    single = fdtd(room, GaussianSource([1.5, 0.3]), 0.01, wall, h=0.1, dtype="float32")
    assert single.pressure.dtype == np.float32
    assert np.abs(single.pressure - one.pressure).max() < 1e-4


def test_receivers_between_nodes_are_interpolated_and_steps_are_skipped():
    room, source = Room((2.0, 2.0)), GaussianSource([0.8, 1.1])
    whole = fdtd(room, source, 0.004, h=0.1)
    some = fdtd(room, source, 0.004, h=0.1, receivers=[[0.3, 0.7], [0.35, 0.7]], save_every=3)
    at = [int(np.argmin(np.abs(whole.points - x).sum(1))) for x in ([0.3, 0.7], [0.4, 0.7])]
    kept = whole.pressure[0, ::3][:, at]
    assert np.abs(some.pressure[0, :, 0] - kept[:, 0]).max() < 1e-12
    assert np.abs(some.pressure[0, :, 1] - kept.mean(1)).max() < 1e-12
    assert (some.times == whole.times[::3]).all()


@pytest.mark.parametrize(("n_real", "n_pairs"), [(2, 2), (0, 5), (2, 6)])
@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_fits_of_noise_are_passive_between_all_samples(n_real, n_pairs, noise):
    f = np.geomspace(20, 2000, 100)
    rng = np.random.default_rng(1)
    y = porous_layer(f) * (1 + noise * (rng.normal(size=100) + 1j * rng.normal(size=100)))
    wall = fit_admittance(f, y.real.clip(0) + 1j * y.imag, n_real, n_pairs)
    poles = [np.abs(b + a * np.linspace(-10, 10, 4001)) / (2 * np.pi) for *_, a, b in wall.complex_poles]
    found = wall.admittance(np.concatenate([[0.0], np.geomspace(1e-2, 1e7, 100_000), *poles]))
    assert found.real.min() > -1e-6 * np.abs(found).max()


def test_a_wall_that_makes_sound_beyond_hearing_is_refused(untyped):
    with pytest.raises(ValueError, match="real part"):  # at 48 kHz alone
        ImpedanceBoundary(Y_inf=1e-3, complex_poles=[(-100.0, 0.0, 3e3, 3e5)])


def test_fits_of_silence_and_of_the_other_sign_convention():
    f = np.geomspace(20, 2000, 100)
    assert fit_admittance(f, np.zeros(100)).is_rigid
    with pytest.warns(UserWarning, match="conjugate"):
        fit_admittance(f, porous_layer(f).conj())


def test_an_admittance_of_known_poles_is_found():
    true = ImpedanceBoundary(Y_inf=1e-3, real_poles=[(0.5, 900.0)], complex_poles=[(1.2, 0.4, 700.0, 4000.0)])
    f = np.geomspace(20, 3000, 80)
    found = fit_admittance(f, true.admittance(f), n_real=1, n_pairs=1)
    assert np.abs(found.admittance(f) / true.admittance(f) - 1).max() < 1e-6
    assert found.real_poles[0] == pytest.approx(true.real_poles[0], rel=1e-4)
    assert found.complex_poles[0] == pytest.approx(true.complex_poles[0], rel=1e-4)


@pytest.mark.filterwarnings("ignore:the fit is off")
def test_a_fit_that_would_make_sound_is_mended():
    # Two panels that lose little, and too few poles for them: without the constraint the real part is negative.
    f = np.geomspace(50, 1000, 60)
    omega = 2 * np.pi * f
    panels = [1 / (50.0 - 1j * omega * mass + 1j * 1e7 / omega) for mass in (2.0, 9.0)]
    wall = fit_admittance(f, sum(panels), n_real=1, n_pairs=1)
    y = wall.admittance(np.geomspace(1, 2e4, 4000))
    assert y.real.min() > -1e-4 * np.abs(y).max()
    exact = fit_admittance(f, sum(panels), n_real=0, n_pairs=2)
    assert np.abs(exact.admittance(f) / sum(panels) - 1).max() < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.floats(2e3, 5e4), st.floats(0.02, 0.2))
def test_porous_layers_absorb_and_thick_ones_have_their_characteristic_impedance(resistivity, thickness):
    f = np.geomspace(60, 2000, 30)
    assert (porous_layer(f, resistivity, thickness).real > 0).all()
    thick = 1 / porous_layer(f, resistivity, 100.0) / (1.2 * 343)
    assert np.abs(thick - (1 + (0.070 + 0.107j) * (f / resistivity) ** -0.632)).max() < 1e-3


def test_the_trapezoidal_filter_is_the_admittance_at_the_warped_frequency():
    wall, dt = fitted_layer(), 1e-4
    advance, drive, outputs = wall.filter(dt)
    f = np.array([100.0, 700.0])
    z = np.exp(-2j * np.pi * f * dt)  # of exp(-i omega t)
    state = [np.linalg.solve(zz * np.eye(len(drive)) - advance, drive * (zz + 1)) for zz in z]
    warped = np.tan(np.pi * f * dt) / (np.pi * dt)
    assert np.abs(wall.Y_inf + np.array(state) @ outputs - wall.admittance(warped)).max() < 1e-12


def test_absorption_and_reflection_belong_together():
    wall = ImpedanceBoundary(xi=5.83)
    assert wall.reflection([50.0, 500.0]).real == pytest.approx(4.83 / 6.83)
    assert wall.absorption([50.0]) == pytest.approx(1 - (4.83 / 6.83) ** 2)
    assert RIGID.is_rigid
    assert RIGID.reflection([1.0]).real == pytest.approx(1.0)
