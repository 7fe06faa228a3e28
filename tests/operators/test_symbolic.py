"""Trees, tokens and families of equations: against SymPy, SciPy and physics, by properties, and what is refused."""

import math
import pickle

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from paperworks.operators import (
    FAMILIES,
    PLACEHOLDER,
    Expr,
    ODEFamily,
    SymbolicTokenizer,
    System,
    add_noise,
    expression_scores,
    forecast_errors,
    generate_dataset,
    integrate_systems,
    simulate,
)

U = [Expr.variable(i) for i in range(3)]
TOKENIZER = SymbolicTokenizer()


def rounded(value):
    return float(f"{value:.2e}")


LEAVES = st.one_of(
    st.sampled_from(U),
    st.integers(-10, 10).map(Expr),
    st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6 or x == 0).map(lambda x: Expr(rounded(x))),
    st.just(Expr(PLACEHOLDER)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda head, a, b: Expr(head, (a, b)), st.sampled_from(["add", "sub", "mul", "div"]), inner, inner),
        st.builds(lambda head, a: Expr(head, (a,)), st.sampled_from(["neg", "inv", "sin", "cos", "pow2"]), inner),
    ),
    max_leaves=12,
)
SYSTEMS = st.lists(TREES, min_size=3, max_size=3).map(lambda trees: System(tuple(trees)))


# Trees ------------------------------------------------------------------------------------------------------


def test_operators_build_trees_and_evaluate_them():
    tree = (2 - U[0]) / (1 + U[1].square()) + 1 / U[2] - (-U[0]).cos() * 0.5
    u = np.random.default_rng(0).uniform(1, 2, (5, 3))
    x, y, z = u.T
    assert np.allclose(tree.evaluate(u), (2 - x) / (1 + y**2) + 1 / z - np.cos(x) * 0.5, rtol=1e-14)
    assert str(Expr(PLACEHOLDER) * U[0].sin()) == "(? * sin(u_0))"
    for dtype in (torch.float32, torch.float64):
        assert tree.evaluate(torch.from_numpy(u).to(dtype)).dtype == dtype
    assert System((tree, U[0], Expr(1))).evaluate(u.astype(np.float32)).dtype == np.float32


@given(SYSTEMS)
def test_polish_order_makes_the_tree_again(system):
    assert all(Expr.from_prefix(tree.prefix()) == tree for tree in system.components)
    assert system.skeleton().skeleton() == system.skeleton()
    assert system.with_numbers(system.skeleton().with_numbers([1.0] * len(system.numbers())).numbers()).skeleton() == (
        system.skeleton()
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_sympy_and_back_keeps_values(name):
    system = FAMILIES[name].system(FAMILIES[name].sample_parameters(0))
    u = np.random.default_rng(0).uniform(-2, 2, (20, system.dimension))
    again = System.from_sympy(system.to_sympy())
    assert np.allclose(again.evaluate(u), system.evaluate(u), rtol=1e-10, atol=1e-10)
    symbols = sympy.symbols(f"u_:{system.dimension}")
    theirs = np.stack([np.broadcast_to(sympy.lambdify(symbols, e)(*u.T), 20) for e in system.to_sympy()], 1)
    assert np.allclose(theirs, system.evaluate(u), rtol=1e-10, atol=1e-10)


def test_sympy_placeholders_powers_and_what_trees_lack():
    x, c = sympy.symbols("u0 C_0")
    assert str(Expr.from_sympy(c * x**3)) == "(? * (u_0 * pow2(u_0)))"
    assert Expr.from_sympy(x**-2) == Expr("inv", (U[0].square(),))
    values = Expr.from_sympy(x**5 - sympy.Rational(1, 3) * x - 2).evaluate(np.array([[2.0]]))
    assert values[0] == pytest.approx(32 - 2 / 3 - 2)
    for bad in (sympy.exp(x), sympy.Symbol("z"), x**0.5, x**99):
        with pytest.raises(ValueError, match="expression has"):
            Expr.from_sympy(bad)


def test_sympy_numbers_are_one_leaf_and_placeholders_keep_apart():
    x, y = sympy.symbols("u_0 u_1")
    assert str(Expr.from_sympy(-3 * x * y)) == "((-3 * u_0) * u_1)"
    assert str(Expr.from_sympy(-sympy.Rational(8, 3) * x)) == "((-8 * u_0) / 3)"
    assert Expr.from_sympy(x**2.0) == U[0].square()
    assert Expr.from_sympy(np.int64(2)) == Expr(2)
    first, second = System((PLACEHOLDER * U[0], PLACEHOLDER * U[1])).to_sympy()
    assert not {s for s in first.free_symbols if s.name[0] == "C"} & second.free_symbols
    for bad in (True, sympy.oo, sympy.I * x, sympy.sqrt(2) * x):
        with pytest.raises(ValueError, match=r"expression has|head is"):
            Expr.from_sympy(bad)


@pytest.mark.usefixtures("untyped")
def test_leaves_are_those_of_python_whoever_made_them():
    for head in (np.int64(3), np.uint8(3), 3):
        assert TOKENIZER.encode(Expr(head)) == ["3"]
    assert type(Expr(np.float32(0.5)).head) is float
    assert hash(Expr("neg", [U[0]])) == hash(-U[0])
    with pytest.raises(TypeError, match="takes trees"):
        Expr("neg", (3,))
    for head in (10**400, "u_00", "u_\u0663"):
        with pytest.raises(ValueError, match="head is"):
            Expr(head)


def test_arrays_of_any_layout_are_evaluated():
    u = np.arange(1.0, 7.0).reshape(3, 2)
    still = u.copy()
    still.setflags(write=False)
    for states in (u[::-1][::-1], u.astype(">f8"), still, np.asfortranarray(u)):
        assert (U[0] * U[1]).evaluate(states).tolist() == [2.0, 12.0, 30.0]
    assert U[1].evaluate(u[::-1]).tolist() == [6.0, 4.0, 2.0]


def test_terms_are_those_of_the_sum_with_their_signs():
    tree = -(U[0] - 2 * U[1]) - (U[2] - 1)
    assert [(sign, str(term)) for sign, term in tree.terms()] == [
        (-1, "u_0"),
        (1, "(2 * u_1)"),
        (-1, "u_2"),
        (1, "1"),
    ]
    u = np.random.default_rng(0).normal(size=(4, 3))
    assert np.allclose(Expr.from_terms(tree.terms()).evaluate(u), tree.evaluate(u))


def test_perturbation_adds_and_deletes_one_term_and_never_the_only_one():
    system = FAMILIES["four_wing"].system().skeleton()
    counts = [len(c.terms()) for c in system.components]
    for seed in range(60):
        more = system.perturb(seed, 1, 0)
        less = system.perturb(seed, 0, 1)
        assert sum(len(c.terms()) for c in more.components) == sum(counts) + 1
        assert sum(len(c.terms()) for c in less.components) == sum(counts) - 1
        assert TOKENIZER.decode(TOKENIZER.encode(more)) == more
    alone = System((U[0], U[1].sin()))
    assert all(alone.perturb(seed, 0, 1) == alone for seed in range(10))
    assert system.perturb(3, 0, 0) == system
    assert system.perturb(5) == system.perturb(5)
    changed = np.mean([system.perturb(seed) != system for seed in range(400)])
    assert changed == pytest.approx(1 - 0.85**2, abs=0.07)


def test_numbers_of_many_systems_with_one_skeleton_go_through_at_once():
    family = FAMILIES["sprott_b"]
    rows = np.stack([family.sample_parameters(seed, 0.5) for seed in range(4)])
    u = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    systems = [family.system(row) for row in rows]
    numbers = torch.tensor([system.numbers() for system in systems], dtype=torch.float64)
    together = systems[0].skeleton().evaluate(u, numbers)
    assert torch.equal(together, torch.cat([s.evaluate(u[i : i + 1]) for i, s in enumerate(systems)]))


@pytest.mark.usefixtures("untyped")
def test_what_is_no_tree_or_system_is_refused():
    for head, args in (("exp", ()), ("add", (U[0],)), (math.nan, ()), ("u_x", ()), (2, (U[0],))):
        with pytest.raises(ValueError, match=r"head is|args has"):
            Expr(head, args)
    with pytest.raises(ValueError, match="heads is"):
        Expr.from_prefix(["add", "u_0"])
    with pytest.raises(ValueError, match="these are 2"):
        Expr.from_prefix(["u_0", "u_1"])
    with pytest.raises(ValueError, match="variable u_1"):
        System((U[1],))
    with pytest.raises(ValueError, match="components is empty"):
        System(())
    with pytest.raises(TypeError, match="takes trees"):
        System((1.0,))
    system = System((U[0], U[1]))
    with pytest.raises(TypeError, match="floating point"):
        system.evaluate(np.ones((2, 2), dtype=int))
    with pytest.raises(ValueError, match="u has shape"):
        system.evaluate(np.ones((2, 1)))
    with pytest.raises(ValueError, match="placeholders"):
        System((Expr(PLACEHOLDER),)).evaluate(np.ones((1, 1)))
    with pytest.raises(ValueError, match="numbers has"):
        system.with_numbers([1.0])
    with pytest.raises(ValueError, match="numbers has shape"):
        system.evaluate(torch.ones(2, 2), torch.ones(2, 1))
    with pytest.raises(ValueError, match="p_add is"):
        system.perturb(0, 2)
    with pytest.raises(ValueError, match="terms is empty"):
        Expr.from_terms([])


# Tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "tokens"),
    [
        (-0.17, "- N170 E-3"),
        (28.0, "+ N280 E-1"),
        (9.999, "+ N100 E-1"),
        (0.0, "+ N000 E0"),
        (1e-12, "+ N000 E0"),
        (3, "3"),
        (-10, "-10"),
        (11, "+ N110 E-1"),
        (-0.0, "+ N000 E0"),
        (9.994e12, "+ N999 E10"),
        (-9.999e-9, "- N100 E-10"),
    ],
)
def test_numbers_are_these_tokens(number, tokens):
    assert TOKENIZER.encode(Expr(number)) == tokens.split()


@settings(max_examples=200)
@given(SYSTEMS)
def test_systems_come_back_from_their_tokens(system):
    tokens = TOKENIZER.encode(system)
    assert TOKENIZER.decode(tokens) == system
    ids, mask = TOKENIZER.batch([tokens, ["u_0"]], ends=True)
    assert TOKENIZER.tokens(ids[0]) == tokens
    assert mask.sum(1).tolist() == [len(tokens) + 2, 3]


@given(st.floats(1e-4, 1e11))
def test_rounding_is_relative(number):
    assert TOKENIZER.rounded(number) == pytest.approx(number, rel=0.005001)
    long = SymbolicTokenizer(float_precision=5, mantissa_len=3)
    assert long.rounded(number) == float(f"{number:.5e}")


@given(st.lists(st.sampled_from([*TOKENIZER.vocabulary[:60], "nonsense", "E", "N", ""]), max_size=30))
def test_no_tokens_make_decoding_raise(tokens):
    found = TOKENIZER.decode(tokens)
    assert found is None or isinstance(found, System)


def test_tokens_that_make_no_system_decode_to_none():
    for text in ("", "add u_0", "u_0 u_0", "u_1", "u_0 |", "+ N100", "+ E1 N100", "N100", "+ N100 E99", "+ N10 E1"):
        assert TOKENIZER.decode(text.split()) is None, text
    assert TOKENIZER.decode(["u_0", *["|", "u_0"] * 5]) is None  # more components than there may be
    assert TOKENIZER.decode(["neg"] * 5000 + ["u_0"]) is None
    assert TOKENIZER.decode(["add", "u_0", "+", "N100", "E-2"]) == System((U[0] + 1.0,))


@pytest.mark.usefixtures("untyped")
def test_what_has_no_tokens_is_refused():
    for bad in ("u_0", [1, 2]):
        with pytest.raises(TypeError, match="tokens "):
            TOKENIZER.decode(bad)
    for ids in ([-1], [10**5]):
        with pytest.raises(ValueError, match="ids has"):
            TOKENIZER.tokens(torch.tensor(ids))
    for number in (math.nan, math.inf, 9.995e12):
        with pytest.raises(ValueError, match="number is"):
            TOKENIZER.rounded(number)
    with pytest.raises(ValueError, match="6 components"):
        TOKENIZER.encode(System(tuple(map(Expr.variable, range(6)))))
    with pytest.raises(ValueError, match="u_5"):
        TOKENIZER.encode(Expr.variable(5))
    with pytest.raises(ValueError, match=r"number is 1e\+30"):
        TOKENIZER.encode(Expr(1e30))
    with pytest.raises(ValueError, match="'exp'"):
        TOKENIZER.batch([["exp"]])
    with pytest.raises(ValueError, match="mantissa_len is 2"):
        SymbolicTokenizer(mantissa_len=2)
    with pytest.raises(ValueError, match="at most 4"):
        SymbolicTokenizer(float_precision=5)


def test_a_skeleton_has_a_placeholder_for_each_number():
    tokens = TOKENIZER.skeleton(FAMILIES["thomas"].system())
    assert tokens.count(PLACEHOLDER) == 3
    assert not [t for t in tokens if t[0] in "+-NE"]


# Families ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_trees_and_tensors_say_the_same_and_tokens_say_it_exactly(family):
    parameters = family.sample_parameters(3, 0.2)
    system = family.system(parameters)
    u = torch.randn(30, family.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (system.evaluate(u) - family.rhs(u, torch.from_numpy(parameters)[None])).abs().max() < 1e-12
    assert TOKENIZER.decode(TOKENIZER.encode(system)) == system
    nominal = np.array([*family.nominal.values()])
    assert (np.abs(parameters - nominal) <= 0.2 * np.abs(nominal) * 1.01 + 0.005 * np.abs(nominal)).all()
    assert np.allclose(family.sample_parameters(0, 0), [rounded(x) for x in nominal])


@pytest.mark.parametrize(
    ("name", "state", "slopes"),
    [
        ("thomas", (1, 2, 3), (math.sin(2) - 0.17, math.sin(3) - 0.34, math.sin(1) - 0.51)),
        ("lorenz", (1, 2, 3), (10, 28 - 3 - 2, 2 - 8)),
        ("aizawa", (1, 2, 3), (2.3 - 7, 3.5 + 4.6, 0.6 + 2.85 - 9 - 1 + 0.3)),
        ("chen_lee", (1, 2, 3), (5 - 6, -20 + 3, -1.14 + 2 / 3)),
        ("dadras", (1, 2, 3), (1 - 1.25 + 6.9, 1.5 - 1.5 + 1.5, 1.6 - 12)),
        ("rossler", (1, 2, 3), (-5, 1.2, 0.1 + 3 * -13)),
        ("halvorsen", (1, 2, 3), (-0.35 - 2 - 3 - 1, -0.7 - 3 - 1 - 9 / 4, -1.05 - 1 - 2 - 1 / 4)),
        ("rabinovich_fabrikant", (1, 2, 3), (2 * 3 + 0.1, 9 + 0.2, -6 * (0.98 + 2))),
        ("sprott_b", (1, 2, 3), (2.4, 1 - 2.4, 1 - 2)),
        ("sprott_linz_f", (1, 2, 3), (5, 0, -2)),
        ("four_wing", (1, 2, 3), (0.2 + 6, 0.01 - 0.8 - 3, -3 - 2)),
        ("lorenz_96_4", (1, 2, 3, 4), ((2 - 3) * 4 - 1 + 8, (3 - 4) * 1 - 2 + 8, (4 - 1) * 2 - 3 + 8, -3 + 4)),
        ("duffing", (0, 2, 3), (1, 3, -0.06 - 2 - 40 + 8)),
        ("double_pendulum", (math.pi / 2, 0, 0, 1), (0, 1, (-4 * 9.81 - 2) / 4, 0)),
        ("double_pendulum_physical", (math.pi / 2, math.pi / 2, 0, 0), (0, 0, -9.81, 0)),
    ],
)
def test_families_have_these_slopes(name, state, slopes):
    found = FAMILIES[name].system().evaluate(np.array([state], float))[0]
    expected = np.array(slopes, float)
    if name == "double_pendulum_physical":  # both rods straight to one side: they fall as physics has it
        expected = np.array([0, 0, (-3 * 9.81 - 9.81 * math.sin(-math.pi / 2)) / 2, 0])
    assert found == pytest.approx(expected, abs=1e-12)


def energy(states, g=9.81):
    a, b, v, w = states.unbind(-1)
    return v**2 + w**2 / 2 + v * w * (a - b).cos() - 2 * g * a.cos() - g * b.cos()


def test_only_the_physical_double_pendulum_keeps_its_energy():
    start = torch.tensor([[1.0, -0.5, 0.3, 0.8], [2.0, 1.0, -1.0, 1.5]], dtype=torch.float64)
    drift = {}
    for name in ("double_pendulum", "double_pendulum_physical"):
        family = FAMILIES[name]
        rhs = lambda u, f=family: f.rhs(u, torch.tensor([[9.81]], dtype=torch.float64))  # noqa: E731
        path = energy(simulate(rhs, start, np.linspace(0, 2, 3), 1e-8, 1e-8))
        drift[name] = float((path - path[:, :1]).abs().max())
    assert drift["double_pendulum_physical"] < 1e-5
    assert drift["double_pendulum"] > 0.1


@pytest.mark.parametrize("name", ["thomas", "lorenz_96_5", "duffing"])
def test_batches_are_integrated_as_scipy_does_alone(name):
    family = FAMILIES[name]
    rows = np.stack([family.sample_parameters(seed) for seed in range(3)])
    start = np.random.default_rng(1).uniform(-2, 2, (3, family.dimension))
    times = np.linspace(0, 1, 5)
    found = simulate(lambda u: family.rhs(u, torch.from_numpy(rows)), torch.from_numpy(start), times, 1e-8, 1e-8)
    for i, row in enumerate(rows):
        f = lambda t, y, s=family.system(row): s.evaluate(y[None])[0]  # noqa: E731
        theirs = solve_ivp(f, (0, 1), start[i], "DOP853", times, rtol=1e-10, atol=1e-10).y.T
        assert np.abs(found[i].numpy() - theirs).max() < 1e-5


def test_what_runs_away_is_nan_and_leaves_the_others_alone():
    rhs = lambda u: u.square()  # noqa: E731
    found = simulate(rhs, torch.tensor([[1.0], [-1.0]], dtype=torch.float64), [0.0, 1.0, 6.0])
    assert found[0].isnan().all()
    assert found[1, :, 0].tolist() == pytest.approx([-1, -1 / 2, -1 / 7], rel=1e-4)
    pole = System((Expr(1) / (U[0] - U[0]),))
    decay = System((-U[0],))
    both = integrate_systems([pole, decay, None], torch.ones(3, 2, dtype=torch.float64), [0.0, 1.0])
    assert both[[0, 2]].isnan().all()
    assert both[1, -1].tolist() == pytest.approx([math.exp(-1), 0], rel=1e-5)
    with pytest.raises(ValueError, match="systems has 1"):
        integrate_systems([decay], torch.ones(2, 1), [0.0, 1.0])


# Data -------------------------------------------------------------------------------------------------------


def test_datasets_take_turns_and_solve_their_own_equations():
    data = generate_dataset(["thomas", "lorenz_96_4"], 10, 0, 0.0, per_draw=3, points=33, end=2.0)
    assert data.families == ("thomas",) * 3 + ("lorenz_96_4",) * 3 + ("thomas",) * 3 + ("lorenz_96_4",)
    assert data.dimensions.tolist() == [3] * 3 + [4] * 3 + [3] * 3 + [4]
    assert not data.clean[:3, :, 3].any()
    assert torch.equal(data.clean, data.observed)
    again = integrate_systems(data.systems, data.clean[:, 0].double(), data.times.tolist())
    assert (again - data.clean).abs().max() < 1e-4
    assert len({str(s) for s in data.systems}) == 4
    other = generate_dataset(["thomas", "lorenz_96_4"], 10, 0, 0.0, per_draw=3, points=33, end=2.0)
    assert torch.equal(other.clean, data.clean)
    assert (data.clean[:, 0].abs() <= 2).all()


def test_noise_has_the_size_asked_for():
    data = generate_dataset(["thomas"], 4, 0, 0.05, points=40)
    off = (data.observed - data.clean).norm(dim=(1, 2)) / data.clean.norm(dim=(1, 2))
    assert off.tolist() == pytest.approx([0.05] * 4, rel=1e-3)
    states = torch.tensor([1.0, -100.0, 0.0]).expand(2000, 1, 3).transpose(0, 1)
    noisy = add_noise(states, 0.1, 0, "multiplicative") - states
    assert noisy.std((0, 1)).tolist() == pytest.approx([0.1, 10, 0], rel=0.1)
    assert data.with_noise(0.0, 1, "additive").observed.equal(data.clean)


def test_bad_data_settings_are_refused():
    with pytest.raises(ValueError, match="families is 'nobody'"):
        generate_dataset(["nobody"], 2, 0)
    with pytest.raises(ValueError, match="families is empty"):
        generate_dataset([], 2, 0)
    with pytest.raises(ValueError, match="noise is -1"):
        add_noise(torch.ones(1, 2, 1), -1, 0)
    with pytest.raises(ValueError, match="gamma is -1"):
        FAMILIES["thomas"].sample_parameters(0, -1)
    with pytest.raises(ValueError, match="u has shape"):
        FAMILIES["thomas"].rhs(torch.ones(2, 2), torch.ones(1, 1))
    with pytest.raises(ValueError, match="parameters has"):
        FAMILIES["thomas"].rhs(torch.ones(2, 3), torch.ones(3, 1))
    with pytest.raises(ValueError, match="parameters has 2"):
        FAMILIES["thomas"].system([1, 2])
    with pytest.raises(RuntimeError, match="run away"):
        generate_dataset([ODEFamily("pole", 1, {"a": 1.0}, lambda u, p: [p["a"] / (u[0] - u[0])])], 2, 0, points=3)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_noise_is_of_its_size_at_any_scale(scale):
    states = scale * torch.ones(2, 50, 3)
    off = (add_noise(states, 0.02, 0) - states).double() / scale
    assert (off.norm(dim=(1, 2)) / 150**0.5).tolist() == pytest.approx([0.02, 0.02], rel=1e-4)
    assert not add_noise(torch.zeros(1, 5, 2), 0.02, 0).any()


@pytest.mark.usefixtures("untyped")
def test_states_that_are_no_real_numbers_are_refused():
    whole = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(TypeError, match="u is"):
        FAMILIES["thomas"].rhs(whole, torch.ones(1, 1))
    with pytest.raises(TypeError, match="u0 is"):
        integrate_systems([System((U[0],))] * 2, whole, [0.0, 1.0])
    with pytest.raises(TypeError, match="truth is"):
        forecast_errors(whole[None], whole[None])
    for bad in (whole[None], torch.ones(2, 3), torch.full((1, 2, 3), math.nan)):
        with pytest.raises(ValueError, match="states "):
            add_noise(bad, 0.1, 0)
    with pytest.raises(ValueError, match="times has 1"):
        simulate(lambda u: -u, torch.ones(1, 1), [0.0])


def test_families_go_through_pickle():
    for name, family in FAMILIES.items():
        assert pickle.loads(pickle.dumps(family)).system() == FAMILIES[name].system()


# Metrics ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untyped")
def test_errors_are_relative_and_halves_are_halves():
    truth = torch.ones(2, 4, 3)
    wrong = truth.clone()
    wrong[0, 2:] += 0.5
    found = forecast_errors(wrong, truth)
    assert found.relative.tolist() == pytest.approx([0.5 / math.sqrt(2), 0])
    assert found.first_half.tolist() == [0, 0]
    assert found.second_half.tolist() == pytest.approx([0.5, 0])
    with pytest.raises(ValueError, match="one shape"):
        forecast_errors(truth[:1], truth)


def test_scores_of_equations():
    truth = FAMILIES["sprott_b"].system()
    doubled = truth.with_numbers([2 * x for x in truth.numbers()])
    pole = System((Expr(1) / (U[0] - U[0]), U[1], U[2]))
    small = System((U[0],))
    scores = expression_scores([truth, doubled, pole, small, truth.skeleton(), None], [truth] * 6, 0)
    assert scores.valid.tolist() == [True, True, False, False, False, False]
    assert scores.skeleton.tolist() == [True, True] + [False] * 4
    assert scores.error[0] == 0
    assert 0 < scores.error[1] < 1
    assert np.isnan(scores.error[2:]).all()
    with pytest.raises(ValueError, match="as many"):
        expression_scores([truth], [], 0)
