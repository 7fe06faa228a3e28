import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from paperworks.reduction import ConvergenceError, ElastoViscoPlastic, MaterialState

TABLES = {
    "E": ([20.0, 800.0], [2e5, 1.2e5]),
    "nu": ([20.0, 800.0], [0.28, 0.34]),
    "alpha": ([20.0, 800.0], [1.5e-5, 2e-5]),
    "K": ([20.0, 800.0], [300.0, 150.0]),
    "n": ([20.0, 800.0], [30.0, 8.0]),
    "C": ([20.0, 800.0], [1e5, 4e4]),
    "D": lambda T: 1000 - T / 2,
    "R0": 10.0,
}


def strained(law, c, n=50, steps=5, dt=0.1, seed=0):
    rng = np.random.default_rng(seed)
    rate, T = rng.normal(size=(n, c)) * 1e-3, rng.uniform(20, 800, n)
    state, eps = MaterialState.virgin(n, c), np.zeros((n, c))
    for _ in range(steps):
        eps = eps + rate
        _, state, _ = law.integrate(eps, T, state, dt)
    return eps + rate, T, state


@pytest.mark.parametrize("c", [4, 6])
@pytest.mark.parametrize("law", [ElastoViscoPlastic(), ElastoViscoPlastic(**TABLES)], ids=["card", "tables"])
def test_the_tangent_is_the_derivative_of_the_step(law, c):
    eps, T, state = strained(law, c)
    tangent = law.integrate(eps, T, state, 0.1)[2]
    for k in range(c):
        d = 1e-7 * (np.arange(c) == k)
        differences = law.integrate(eps + d, T, state, 0.1)[0] - law.integrate(eps - d, T, state, 0.1)[0]
        assert np.abs(differences / 2e-7 - tangent[:, :, k]).max() < 1e-6 * np.abs(tangent).max()


def test_the_step_satisfies_the_implicit_equations():
    law, dt = ElastoViscoPlastic(**TABLES), 0.1
    eps, T, old = strained(law, 6)
    sigma, new, _ = law.integrate(eps, T, old, dt)
    k = law.coefficients(T)
    elastic = eps - new.eps_p
    elastic[:, :3] -= (k["alpha"] * (T - law.T_ref))[:, None]
    lame = k["E"] * k["nu"] / (1 + k["nu"]) / (1 - 2 * k["nu"])
    hooke = (k["E"] / (1 + k["nu"]))[:, None] * elastic
    hooke[:, :3] += (lame * elastic[:, :3].sum(1))[:, None]
    np.testing.assert_allclose(sigma, hooke, atol=1e-8)
    s = sigma.copy()
    s[:, :3] -= sigma[:, :3].mean(1, keepdims=True)
    z = s - (2 / 3 * k["C"])[:, None] * new.a
    J = np.sqrt(1.5 * (z**2).sum(1))
    dp = new.p - old.p
    np.testing.assert_allclose(dp / dt, np.maximum((J - k["R0"]) / k["K"], 0) ** k["n"], rtol=1e-6)
    np.testing.assert_allclose(new.eps_p - old.eps_p, (1.5 * dp / J)[:, None] * z, atol=1e-12)
    np.testing.assert_allclose(new.a - old.a, new.eps_p - old.eps_p - (k["D"] * dp)[:, None] * new.a, atol=1e-12)


def test_small_steps_tend_to_the_solution_of_the_differential_equations():
    law, rate = ElastoViscoPlastic(), 2e-3
    G, C, D, R0, K, n = 2e5 / 2.6, 1e5, 1000.0, 10.0, 300.0, 30.0

    def rates(t, y):  # pure shear: stress, back strain, both times the root of 2 as in the vectors
        tau, a = y
        z = np.sqrt(2) * tau - 2 / 3 * C * a
        J = np.sqrt(1.5) * abs(z)
        dp = max((J - R0) / K, 0) ** n
        flow = 1.5 * z / J * dp if J else 0.0
        return [2 * G * (rate - flow / np.sqrt(2)), flow - D * a * dp]

    exact = solve_ivp(rates, (0, 2), [0.0, 0.0], method="LSODA", rtol=1e-9, atol=1e-12).y[:, -1]
    errors = []
    for steps in (50, 100, 200):
        state = MaterialState.virgin(1, 4)
        for k in range(1, steps + 1):
            eps = np.array([[0, 0, 0, np.sqrt(2) * rate * 2 * k / steps]])
            sigma, state, _ = law.integrate(eps, np.array([20.0]), state, 2 / steps)
        errors.append(abs(sigma[0, 3] / np.sqrt(2) - exact[0]))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.25)  # the implicit rule is of first order
    assert errors[2] < 0.01 * exact[0]


def test_small_steps_tend_to_an_independent_solution_in_3d_with_tables_of_temperature():
    tables = TABLES | {"n": ([20.0, 800.0], [12.0, 8.0]), "D": ([20.0, 800.0], [1000.0, 600.0])}
    rng = np.random.default_rng(1)
    A, B = (x + x.T for x in rng.normal(size=(2, 3, 3)) * 1e-3)
    unit = np.eye(3)

    def at(t):
        """Temperature, coefficients and strain at a time; the path is not proportional."""
        T = 20 + 300 * t
        k = {name: np.interp(T, *table) if isinstance(table, tuple) else table for name, table in tables.items()}
        return T, k, A * t + B * np.sin(3 * t)

    def stress(t, eps_p):
        T, k, eps = at(t)
        e = eps - eps_p - k["alpha"] * (T - 20) * unit
        return k["E"] / (1 + k["nu"]) * (e + k["nu"] / (1 - 2 * k["nu"]) * np.trace(e) * unit)

    def rates(t, y):
        eps_p, a = y[:18].reshape(2, 3, 3)
        k, s = at(t)[1], stress(t, eps_p)
        z = s - np.trace(s) / 3 * unit - 2 / 3 * k["C"] * a
        J = np.sqrt(1.5 * (z * z).sum())
        dp = max((J - k["R0"]) / k["K"], 0) ** k["n"]
        flow = 1.5 * z / J * dp if J else 0 * z
        return np.concatenate([flow.ravel(), (flow - k["D"] * a * dp).ravel(), [dp]])

    exact = solve_ivp(rates, (0, 1.5), np.zeros(19), method="LSODA", rtol=1e-9, atol=1e-13).y[:, -1]
    sigma = stress(1.5, exact[:9].reshape(3, 3))
    law, errors = ElastoViscoPlastic(**tables), []
    rows, columns = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])
    scale = np.where(rows == columns, 1, np.sqrt(2))
    for steps in (100, 200):
        state = MaterialState.virgin(1, 6)
        for t in np.linspace(0, 1.5, steps + 1)[1:]:
            T, _, eps = at(t)
            found, state, _ = law.integrate((scale * eps[rows, columns])[None], np.array([T]), state, 1.5 / steps)
        errors.append([np.abs(found[0] / scale - sigma[rows, columns]).max(), abs(state.p[0] - exact[18])])
    np.testing.assert_allclose(np.log2(np.divide(*errors)), 1, atol=0.1)
    assert errors[1][0] < 1e-4 * np.abs(sigma).max()
    assert errors[1][1] < 2e-3 * exact[18]


@given(
    st.lists(st.floats(-0.05, 0.05), min_size=6, max_size=6), st.floats(1e-6, 1e6), st.floats(0, 1), st.floats(1, 40)
)
def test_any_strain_converges_and_flow_keeps_the_volume(eps, dt, share, n):
    law = ElastoViscoPlastic(n=n, D=2000 * share, R0=100 * share)
    sigma, state, tangent = law.integrate(np.array([eps]), np.array([20.0]), MaterialState.virgin(1, 6), dt)
    assert np.isfinite(sigma).all()
    assert np.isfinite(tangent).all()
    assert state.p[0] >= 0
    assert abs(state.eps_p[0, :3].sum()) < 1e-12
    assert sigma[0] @ state.eps_p[0] >= -1e-9  # flow dissipates


def test_plane_strain_is_3d_with_four_components():
    law = ElastoViscoPlastic()
    eps, T, state = strained(law, 4)
    wide = [np.pad(x, ((0, 0), (0, 2))) for x in (eps, state.eps_p, state.a)]
    flat = law.integrate(eps, T, state, 0.1)
    full = law.integrate(wide[0], T, MaterialState(wide[1], wide[2], state.p), 0.1)
    np.testing.assert_allclose(full[0][:, :4], flat[0], rtol=1e-12)
    np.testing.assert_allclose(full[2][:, :4, :4], flat[2], rtol=1e-10, atol=1e-6)


def test_nothing_flows_below_the_threshold_and_heat_alone_is_hydrostatic():
    law = ElastoViscoPlastic()
    sigma, state, tangent = law.integrate(np.zeros((1, 4)), np.array([120.0]), MaterialState.virgin(1, 4), 1.0)
    assert sigma[0, :3] == pytest.approx(-law.thermal_stress(np.array([120.0])).repeat(3))
    assert sigma[0, 0] == pytest.approx(-2e5 / 0.4 * 2e-5 * 100)
    assert not state.p.any()
    np.testing.assert_allclose(tangent[0], tangent[0].T)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ElastoViscoPlastic(E=-1.0), ValueError, "E is -1"),
        (lambda: ElastoViscoPlastic(nu=0.5), ValueError, "nu is 0.5"),
        (lambda: ElastoViscoPlastic(n=0.5), ValueError, "n is 0.5"),
        (lambda: ElastoViscoPlastic(K="hot"), TypeError, "K is 'hot'"),
        (lambda: ElastoViscoPlastic(K=([20.0, 10.0], [1.0, 2.0])), ValueError, "the temperatures rising"),
        (lambda: ElastoViscoPlastic(K=([20.0, 30.0], [1.0, -2.0])), ValueError, "K is -2"),
        (lambda: ElastoViscoPlastic(K=lambda T: -T).coefficients(np.ones(2)), ValueError, "K is -1"),
        (lambda: step(np.zeros((2, 5))), ValueError, "eps, T and eps_p"),
        (lambda: step(np.zeros((2, 4)), dt=0.0), ValueError, "dt is 0"),
        (lambda: step(np.zeros((2, 4)), T=np.full(2, np.nan)), ValueError, "T or state has values"),
        (lambda: step(np.zeros((2, 4)), p=np.full(2, np.nan)), ValueError, "T or state has values"),
        (lambda: step(np.zeros((2, 4)), p=np.zeros(3)), ValueError, r"\(3,\); they take"),
        (lambda: ElastoViscoPlastic(K=([20.0, np.inf], [1.0, 2.0])), ValueError, "the temperatures rising"),
        (lambda: ElastoViscoPlastic(K=lambda T: np.ones(5)).coefficients(np.ones(2)), ValueError, "K is a function"),
        (lambda: step(np.full((2, 4), np.nan)), ConvergenceError, "finite"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def step(eps, dt=1.0, T=np.full(2, 20.0), **state):
    return ElastoViscoPlastic().integrate(eps, T, MaterialState.virgin(2, 4)._replace(**state), dt)
