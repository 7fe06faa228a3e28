"""Compressors, step sizes and the simulator: contraction, exact values, guarantees, and what is refused."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.optimization import (
    EF21,
    EF21Optimizer,
    FunctionClients,
    HardThreshold,
    Identity,
    LeastSquaresClients,
    LogisticClients,
    NaturalCompression,
    RandK,
    RankR,
    ScaledSign,
    TopK,
    clone_counts,
    estimate_smoothness,
    sgd_constants,
    stepsize_ef21,
    xi,
)
from paperworks.optimization.compression.selection import largest
from paperworks.optimization.compression.stepsizes import contraction

DETERMINISTIC = [
    TopK(2),
    TopK(ratio=0.3),
    ScaledSign(),
    NaturalCompression(stochastic=False),
    RankR(2, rows=3),
    Identity(),
]
LEAF = torch.ones(1, requires_grad=True)
RANDOM = [RandK(2), RandK(ratio=0.5), NaturalCompression()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uneven(n=12, m=6, d=8, seed=0, spread=1.5, owned=None, regularization=1e-3):
    rng = generator(seed)
    A = torch.randn(n, m, d, generator=rng, dtype=torch.float64)
    A *= torch.exp(spread * torch.randn(n, 1, 1, generator=rng, dtype=torch.float64))
    if owned is not None:
        A = A * owned[:, None]
    b = torch.sign(torch.randn(n, m, generator=rng, dtype=torch.float64))
    return LogisticClients(A, b, regularization=regularization, owned=owned)


@pytest.mark.parametrize("compressor", DETERMINISTIC, ids=repr)
@given(seed=st.integers(0, 10_000), heavy=st.floats(0.1, 3))
@settings(max_examples=10, deadline=None)
def test_as_much_is_kept_as_alpha_says(compressor, seed, heavy):
    v = torch.randn(3, 12, generator=generator(seed), dtype=torch.float64)
    v = v.sign() * v.abs() ** heavy
    error = (compressor.decompress(compressor.compress(v)) - v).square().sum(1)
    assert (error <= (1 - compressor.alpha(12)) * v.square().sum(1) * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("compressor", "v"),
    [
        (TopK(2), torch.ones(8)),
        (ScaledSign(), torch.eye(8)[3]),
        (NaturalCompression(stochastic=False), torch.full((8,), 1.5)),
        (RankR(1, rows=4), torch.eye(4).flatten()),
    ],
    ids=repr,
)
def test_alpha_is_attained(compressor, v):
    v = v.double()
    error = (compressor.decompress(compressor.compress(v)) - v).square().sum()
    assert float(error / v.square().sum()) == pytest.approx(1 - compressor.alpha(len(v)))


@pytest.mark.parametrize("compressor", RANDOM, ids=repr)
def test_random_ones_keep_alpha_on_average(compressor):
    v = torch.randn(6, generator=generator(), dtype=torch.float64)
    many = v.expand(40_000, 6).contiguous()
    error = (compressor.decompress(compressor.compress(many, generator())) - v).square().sum(1) / v.square().sum()
    assert float(error.mean()) <= 1 - compressor.alpha(6) + 4 * float(error.std()) / 200


def test_natural_compression_is_unbiased_but_for_its_scale():
    v = torch.full((100_000,), -1.3, dtype=torch.float64)
    found = NaturalCompression().compress(v, generator())
    assert float(NaturalCompression().decompress(found).mean() * 9 / 8) == pytest.approx(-1.3, abs=0.006)


@pytest.mark.parametrize("compressor", [*DETERMINISTIC, *RANDOM, HardThreshold(0.5)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shape_and_type_come_back_and_random_ones_repeat(compressor, dtype):
    for shape in ((12,), (4, 12)):
        v = torch.randn(shape, generator=generator()).to(dtype)
        first, second = (compressor.decompress(compressor.compress(v, generator(1))) for _ in range(2))
        assert (first.dtype, first.shape) == (dtype, v.shape)
        assert torch.equal(first, second)
        assert torch.isfinite(first).all()


@pytest.mark.parametrize("compressor", [*DETERMINISTIC, HardThreshold(0.5)], ids=repr)
def test_only_those_that_say_so_are_positively_homogeneous(compressor):
    v = torch.randn(12, generator=generator(), dtype=torch.float64)
    once, twice = (compressor.decompress(compressor.compress(t * v)) / t for t in (1.0, 1.4))
    assert torch.allclose(once, twice, rtol=1e-12) == compressor.positively_homogeneous


@pytest.mark.parametrize("compressor", [NaturalCompression(stochastic=False), RankR(1)], ids=repr)
def test_large_numbers_stay_within_the_range_of_half_precision(compressor):
    v = torch.full((64,), 60_000.0, dtype=torch.float16)
    assert torch.allclose(compressor.decompress(compressor.compress(v)), v, rtol=0.1)


def test_a_share_that_is_a_whole_number_of_entries_is_that_number():
    assert [TopK(ratio=share).count(100) for share in (0.29, 0.57, 0.999, 1.0, 1e-9)] == [29, 57, 99, 100, 1]


def test_bits_are_32_a_value_and_those_of_an_index():
    v = torch.randn(5, 1000)
    assert TopK(10).bits(1000) == RandK(10).bits(1000) == 10 * (32 + 10)
    assert TopK(10).sent_bits(TopK(10).compress(v)) == 5 * 420
    assert (Identity().bits(1000), ScaledSign().bits(1000), NaturalCompression().bits(1000)) == (32_000, 1032, 9000)
    assert RankR(2, rows=25).bits(1000) == 32 * 2 * 65
    kept = HardThreshold(1.0).compress(v)
    assert HardThreshold(1.0).sent_bits(kept) == 42 * int((v.abs() >= 1).sum())
    assert HardThreshold(1.0).bits(1000) == 42_000
    assert TopK(1).bits(1) == 32


@pytest.mark.parametrize(("d", "k"), [(12, 5), (12, 1), (200_000, 2000), (200_000, 3)])
def test_the_lowest_index_wins_among_equals(d, k):
    v = torch.randint(-3, 4, (d,), generator=generator()).double()
    expected = np.sort(np.lexsort((np.arange(d), -v.abs().numpy()))[:k])
    np.testing.assert_array_equal(largest(v[None], k).numpy(), expected)
    np.testing.assert_array_equal(largest(torch.zeros(1, d), k).numpy(), np.arange(k))


@pytest.mark.parametrize("kind", ["normal", "heavy", "sorted", "blocks", "sparse", "subnormal"])
def test_selection_by_a_sample_is_exact(kind):
    v = torch.randn(300_000, generator=generator(3))
    if kind == "heavy":
        v = v**5
    elif kind == "sorted":
        v = v.sort().values
    elif kind == "blocks":
        v[100_000:101_000] *= 1000
    elif kind == "sparse":
        v[torch.rand(v.shape, generator=generator()) < 0.999] = 0
    elif kind == "subnormal":
        v = v * 1e-44
    for k in (1, 100, 3000, 14_000):
        found = largest(v[None], k)
        expected = np.sort(np.argsort(-v.abs().numpy(), kind="stable")[:k])
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: TopK(0), ValueError, "k is 0"),
        (lambda: TopK(), ValueError, "takes one of them"),
        (lambda: TopK(1, ratio=0.1), ValueError, "takes one of them"),
        (lambda: RandK(ratio=0.0), ValueError, "ratio is 0"),
        (lambda: TopK(5).compress(torch.ones(4)), ValueError, "k is 5"),
        (lambda: TopK(5).alpha(4), ValueError, "k is 5"),
        (lambda: RankR(3, rows=2).compress(torch.ones(8)), ValueError, "r is 3"),
        (lambda: HardThreshold(0.0), ValueError, "threshold"),
        (lambda: TopK(1).compress(torch.tensor([1.0, math.nan])), ValueError, "v has 1 NaN"),
        (lambda: TopK(1).compress(torch.ones(2, dtype=torch.int64)), TypeError, "floating-point"),
        (lambda: TopK(1).compress(torch.eye(2).to_sparse()), TypeError, "dense"),
        (lambda: TopK(1).compress(torch.ones(0)), ValueError, "not empty"),
        (lambda: xi(0.0), ValueError, "alpha is 0"),
        (lambda: xi(1.5), ValueError, "alpha is 1.5"),
        (lambda: stepsize_ef21(1.0, [1.0, 0.0], 0.5), ValueError, "L_i has 0"),
        (lambda: stepsize_ef21(0.0, [1.0], 0.5), ValueError, "L is 0"),
        (lambda: stepsize_ef21(1.0, [1.0], 0.5, "best"), ValueError, "rule is 'best'"),
        (lambda: stepsize_ef21(1.0, [1.0], HardThreshold(1.0).alpha(3)), TypeError, "alpha is None"),
        (lambda: stepsize_ef21(1.0, [1.0], 0.5, participation=0.0), ValueError, "participation is 0"),
        (lambda: stepsize_ef21(1.0, [1.0], 0.5, participation=[0.5, 0.5]), ValueError, "participation has 2"),
        (lambda: stepsize_ef21(1.0, [1.0], 0.5, sgd=0.5), ValueError, "sgd is 0.5"),
        (lambda: EF21(uneven(), HardThreshold(1.0)), TypeError, "alpha is None"),
        (lambda: EF21(uneven(), TopK(1), variant="w", weights=[0.1] * 12), ValueError, "sum 1.2"),
        (lambda: EF21(uneven(), TopK(1), weights=[1 / 12] * 12), ValueError, "takes none"),
        (lambda: EF21(uneven(), TopK(1), variant="w-sgd"), ValueError, "batch_size is None"),
        (lambda: EF21(uneven(), TopK(1), variant="w-pp"), ValueError, "participation is None"),
        (lambda: EF21(uneven(), TopK(1), variant="rf"), ValueError, "own no variables"),
        (lambda: EF21(uneven(), TopK(1), 0.1, "w-pp", participation=-2), ValueError, "participation is -2"),
        (lambda: EF21(uneven(), TopK(1), 0.1, "w-pp", participation=[0.5] * 3), ValueError, "participation has 3"),
        (lambda: EF21(uneven(), TopK(1)).run(torch.zeros(8), 1), ValueError, "float32"),
        (lambda: RandK(ratio=0.5).alpha(0), ValueError, "d is 0"),
        (lambda: EF21(uneven(), TopK(1)).run(torch.zeros(3).double(), 1), ValueError, "x0 is"),
        (lambda: EF21(uneven(), TopK(1), 1e200).run(torch.ones(8).double(), 50), ValueError, "step is 1e"),
        (lambda: LogisticClients(torch.ones(1, 1, 1), torch.zeros(1, 1)), ValueError, "labels"),
        (lambda: LeastSquaresClients(torch.ones(1, 2, 1), torch.zeros(1, 1)), ValueError, "b has shape"),
        (lambda: FunctionClients([], 1, []), ValueError, "0 functions"),
        (lambda: FunctionClients([torch.sum], 1, [1.0]).sample(torch.ones(1), 1), TypeError, "no rows"),
        (lambda: estimate_smoothness(torch.sum, []), ValueError, "points is empty"),
        (lambda: EF21Optimizer([LEAF], 0.1, n_clients=2, weights=[1, 1]), ValueError, "sum 2"),
        (lambda: EF21Optimizer([LEAF], 0.1, momentum=-1), ValueError, "momentum"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("untyped")
def test_what_makes_no_sense_is_refused_by_name(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


def test_the_paper_s_example_of_means():
    L_i = [1.0, 1.0, 1.0, 100.0]
    alpha = 0.01
    arithmetic = 1 / stepsize_ef21(1.0, L_i, alpha) - 1
    quadratic = 1 / stepsize_ef21(1.0, L_i, alpha, "quadratic") - 1
    assert arithmetic / xi(alpha) == pytest.approx(25.75)
    assert quadratic / xi(alpha) == pytest.approx(50.01, abs=0.005)
    assert 1 / stepsize_ef21(1.0, L_i, alpha, "cloned") - 1 == pytest.approx(math.sqrt(2) * arithmetic)
    assert stepsize_ef21(None, L_i, 1.0) == pytest.approx(1 / 25.75)


@given(alpha=st.floats(1e-6, 1))
@settings(max_examples=20, deadline=None)
def test_the_forms_of_xi_agree(alpha):
    root = math.sqrt(1 - alpha)
    assert xi(alpha) == pytest.approx(root / (1 - root), rel=1e-6)
    assert xi(alpha) == pytest.approx(contraction(alpha).xi, rel=1e-6)


def test_partial_participation_costs_and_full_costs_nothing():
    L_i = [1.0, 2.0, 3.0]
    full = stepsize_ef21(2.0, L_i, 0.2)
    assert stepsize_ef21(2.0, L_i, 0.2, participation=1.0) == full
    assert stepsize_ef21(2.0, L_i, 0.2, participation=1 - 1e-10) == pytest.approx(full, rel=1e-3)
    half, mixed = (stepsize_ef21(2.0, L_i, 0.2, participation=p) for p in (0.5, [0.5, 1.0, 0.7]))
    assert half < full
    assert half <= mixed < full
    # The best rho, looked for on a grid.
    theta, beta = contraction(0.2)
    rho = np.linspace(1e-6, theta * 0.999999, 200_000)
    ratio = (0.5 * beta + 0.5 * (1 + 1 / rho)) / (0.5 * theta - 0.5 * rho)
    assert 1 / half == pytest.approx(2 + 2 * math.sqrt(ratio.min()), rel=1e-6)


def test_constants_of_contraction_are_exact_where_little_is_kept():
    theta, beta = contraction(1e-17)
    assert (theta, beta) == pytest.approx((0.5e-17, 2e17), rel=1e-12)
    assert contraction(1e-9).xi == pytest.approx(xi(1e-9), rel=1e-12)


def test_constants_may_be_a_tensor_that_is_differentiated():
    L_i = torch.tensor([1.0, 3.0], requires_grad=True)
    assert stepsize_ef21(2.0, L_i, 0.5) == stepsize_ef21(2.0, [1.0, 3.0], 0.5)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.9, 1.0])
def test_the_constants_of_sampling_bound_the_recursion(alpha):
    s, _, theta, beta = sgd_constants(alpha)
    assert 0 < theta <= 1
    # (1 - alpha) (1 + s) |e + dx|^2, for vectors on a line, is at most the right-hand side.
    e, dx = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-50, 50, 2001))
    assert ((1 - alpha) * (1 + s) * (e + dx) ** 2 <= (1 - theta) * e**2 + beta * dx**2 + 1e-9).all()
    assert math.sqrt(beta / theta) >= xi(alpha)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_clones_are_at_most_twice_as_many_and_alike(L_i):
    counts = clone_counts(L_i)
    assert int(counts.sum()) <= 2 * len(L_i)
    assert (torch.tensor(L_i, dtype=torch.float64) / counts <= np.mean(L_i) * (1 + 1e-9)).all()


def test_smoothness_is_found_along_a_trajectory():
    A = torch.diag(torch.tensor([1.0, -7.0, 3.0]))
    assert estimate_smoothness(lambda x: x @ A @ x / 2, [torch.ones(3)], generator=generator(), steps=20) == (
        pytest.approx(10.5, rel=1e-3)
    )
    assert estimate_smoothness(lambda x: x[0] ** 4, [torch.zeros(1), torch.ones(1)], safety=1.0) == pytest.approx(12)


@pytest.mark.parametrize("rare", [False, True])
@pytest.mark.parametrize("kind", [LogisticClients, LeastSquaresClients])
def test_gradients_and_constants_are_those_of_the_functions(kind, rare):
    owned = torch.rand(3, 4, generator=generator()) < 0.6 if rare else None
    A = torch.randn(3, 5, 4, generator=generator(), dtype=torch.float64)
    A = A * owned[:, None] if rare else A
    clients = kind(A, A[..., 0].sign() + (A[..., 0] == 0), regularization=0.1, owned=owned)
    x = torch.randn(4, generator=generator(), dtype=torch.float64, requires_grad=True)
    values, gradients = clients.evaluate(x)
    for i in range(3):
        (expected,) = torch.autograd.grad(values[i], x, retain_graph=True)
        assert torch.allclose(gradients[i], expected)
    assert rare == (not gradients[~owned].any() if rare else False)
    every = torch.stack([clients.sample(x.detach(), 2, generator(seed)) for seed in range(300)])
    assert torch.allclose(every.mean(0), gradients, atol=0.3 * float(every.std()))
    assert torch.allclose(clients.sample(x, 5, generator()), gradients)
    hessians = [
        torch.autograd.functional.hessian(lambda x, i=i: clients.evaluate(x)[0][i], torch.zeros(4).double())
        for i in range(3)
    ]
    for hessian, bound in zip(hessians, clients.L_i, strict=True):
        assert float(torch.linalg.matrix_norm(hessian, 2)) <= float(bound) * (1 + 1e-12)
    assert float(torch.linalg.matrix_norm(sum(hessians) / 3, 2)) <= clients.L * (1 + 1e-12) <= float(clients.L_i.mean())


def by_hand(clients, k, step, weights, steps):
    """EF21 as in the paper, one client after the other."""
    n = clients.n
    x, shifts = torch.zeros(clients.size).double(), torch.zeros(n, clients.size).double()
    squares = []
    for number in range(steps + 1):
        if number:
            x = x - step * sum(w * g for w, g in zip(weights, shifts, strict=True))
        gradients = clients.evaluate(x)[1]
        squares.append(float(gradients.mean(0).square().sum()))
        for i in range(n):
            u = gradients[i] / (n * weights[i]) - shifts[i]
            for j in sorted(range(len(u)), key=lambda j: (-abs(u[j]), j))[:k]:
                shifts[i, j] += u[j]
    return x, squares


@pytest.mark.parametrize("variant", ["ef21", "w"])
def test_it_is_the_algorithm_of_the_paper(variant):
    clients = uneven()
    weights = clients.L_i / clients.L_i.sum() if variant == "w" else torch.full((12,), 1 / 12).double()
    history = EF21(clients, TopK(2), variant=variant).run(torch.zeros(8).double(), 40)
    x, squares = by_hand(clients, 2, history.step, weights, 40)
    assert torch.allclose(history.x, x, atol=1e-12)
    np.testing.assert_allclose(history.grad_norm_sq, squares, rtol=1e-10)
    assert history.bits_up.tolist() == [12 * 2 * (32 + 3) * t for t in range(1, 42)]
    assert history.bits_down[-1] == 41 * 12 * 8 * 32


def test_without_compression_it_is_gradient_descent():
    clients = uneven()
    x = torch.zeros(8).double()
    history = EF21(clients, Identity()).run(x, 30)
    for _ in range(30):
        x = x - history.step * clients.evaluate(x)[1].mean(0)
    assert torch.allclose(history.x, x, atol=1e-12)
    assert float(history.distance.max()) < 1e-20
    assert history.step == pytest.approx(1 / clients.L)


@pytest.mark.parametrize("compressor", [TopK(1), ScaledSign(), NaturalCompression(stochastic=False)], ids=repr)
def test_weights_change_nothing_for_homogeneous_compressors_alone(compressor):
    clients, x0 = uneven(), torch.zeros(8).double()
    step = EF21(clients, compressor).step
    plain, weighted = (EF21(clients, compressor, step, variant).run(x0, 100) for variant in ("ef21", "w"))
    gap = float((weighted.grad_norm_sq / plain.grad_norm_sq - 1).abs().max())
    assert (gap < 1e-9) == compressor.positively_homogeneous


OWNED = torch.rand(12, 8, generator=generator(5)) < 0.3
OWNED[torch.arange(8), torch.arange(8)] = True
OWNED[8:, 0] = True


@pytest.mark.parametrize(
    ("variant", "rule", "options"),
    [
        ("ef21", "quadratic", {}),
        ("ef21", "arithmetic", {}),
        ("w", "arithmetic", {}),
        ("w", "cloned", {}),
        ("rf", "quadratic", {}),
        ("rf", "arithmetic", {}),
        ("w-rf", "arithmetic", {}),
        ("w-pp", "arithmetic", {"participation": 0.5}),
        ("ef21", "quadratic", {"participation": 0.5}),
    ],
)
def test_the_guarantee_holds_and_points_converge(variant, rule, options):
    clients = uneven(owned=OWNED if "rf" in variant else None)
    method = EF21(clients, TopK(1), rule, variant, **options)
    for warm_start in ("compressed", "full"):
        method.warm_start = warm_start
        history = method.run(torch.zeros(8).double(), 150, generator=generator())
        assert (history.averages <= history.bound).all()
        assert torch.isfinite(history.bound).all()
        assert history.grad_norm_sq[-1] < history.grad_norm_sq[0]


def test_rare_features_allow_larger_steps_of_either_rule():
    L_i, alpha = uneven(owned=OWNED).L_i, 0.2
    steps = {
        (rule, rare): stepsize_ef21(0.1, L_i, alpha, rule, owned=OWNED if rare else None)
        for rule, rare in itertools.product(("quadratic", "arithmetic"), (False, True))
    }
    assert steps["quadratic", True] > steps["quadratic", False]
    assert steps["arithmetic", True] > steps["arithmetic", False]
    assert steps["arithmetic", True] >= steps["quadratic", True]
    with pytest.raises(ValueError, match="cloned"):
        stepsize_ef21(0.1, L_i, alpha, "cloned", owned=OWNED)


def test_one_client_with_all_the_curvature_gains_nothing_from_rare_features():
    # The mean is then that client's function over n, and sqrt(c / n) times the mean constant would be too little.
    owned = torch.eye(4, dtype=torch.bool)
    found = stepsize_ef21(1.0, [4.0, 1e-9, 1e-9, 1e-9], 0.1, owned=owned)
    assert found == pytest.approx(stepsize_ef21(1.0, [4.0, 1e-9, 1e-9, 1e-9], 0.1), rel=1e-6)
    assert found == pytest.approx(stepsize_ef21(1.0, [4.0, 1e-9, 1e-9, 1e-9], 0.1, "quadratic", owned=owned), rel=1e-6)


def test_within_rare_features_bits_and_entries_are_the_client_s_own():
    clients = uneven(owned=OWNED)
    widest = int(OWNED.sum(1).max())
    for compressor in (TopK(1), RandK(1), ScaledSign()):
        history = EF21(clients, compressor, 0.01, "rf").run(torch.zeros(8).double(), 5, generator=generator())
        assert history.bits_up[-1] == 6 * 12 * compressor.bits(widest)


def test_those_who_take_no_part_send_nothing():
    clients = uneven()
    method = EF21(clients, TopK(1), variant="w-pp", participation=0.5)
    history = method.run(torch.zeros(8).double(), 200, generator=generator())
    rounds = history.bits_up.diff() / TopK(1).bits(8)
    assert float(rounds.mean()) == pytest.approx(6, abs=0.5)
    assert torch.equal(history.bits_down.diff(), (rounds * 8 * 32).long())
    assert not math.isfinite(EF21(clients, TopK(1), 1e3, "w").run(torch.zeros(8).double(), 1).bound[0])


def test_sampled_gradients_repeat_with_their_generator_and_promise_nothing():
    clients = uneven()
    first, second = (
        EF21(clients, TopK(1), variant="w-sgd", batch_size=2).run(torch.zeros(8).double(), 50, generator=generator(7))
        for _ in range(2)
    )
    assert torch.equal(first.x, second.x)
    assert torch.isinf(first.bound).all()
    everything = EF21(clients, TopK(1), variant="w-sgd", batch_size=6).run(torch.zeros(8).double(), 50)
    assert torch.allclose(everything.x, EF21(clients, TopK(1), variant="w").run(torch.zeros(8).double(), 50).x)


def test_clients_with_constant_functions_do_no_harm():
    A = torch.randn(4, 3, 5, generator=generator(), dtype=torch.float64)
    A[0] = 0
    clients = LeastSquaresClients(A, torch.ones(4, 3).double() * (A != 0).any(2))
    history = EF21(clients, TopK(1), variant="w").run(torch.zeros(5).double(), 100)
    assert (history.averages <= history.bound).all()


def test_functions_of_any_kind_are_clients_and_callbacks_are_called():
    centres = torch.arange(6.0).reshape(3, 2).double()
    clients = FunctionClients([lambda x, c=c: (x - c).square().sum() / 2 for c in centres], 2, [1.0] * 3, lower_bound=0)
    seen = []
    history = EF21(clients, TopK(1)).run(
        torch.zeros(2).double(), 100, callback=lambda number, x: seen.append(number), progress=lambda items: items
    )
    assert torch.allclose(history.x, centres.mean(0), atol=1e-4)
    assert seen == list(range(1, 101))
    assert history.rounds_to(1e-30) == math.inf or history.rounds_to(1e-30) > history.rounds_to(1e-3)


def linear_loss(p, rows):
    return (rows @ p - 1).square().mean()


@pytest.mark.parametrize("weights", [None, [0.2, 0.3, 0.5]])
def test_the_optimiser_is_the_simulated_method(weights):
    A = torch.randn(3, 6, 10, generator=generator(), dtype=torch.float64)
    clients = LeastSquaresClients(A, torch.ones(3, 6).double())
    variant = "ef21" if weights is None else "w"
    history = EF21(clients, TopK(2), 0.05, variant, weights).run(torch.zeros(10).double(), 20)
    first, second = (torch.zeros(4).double().requires_grad_(), torch.zeros(6).double().requires_grad_())
    optimizer = EF21Optimizer([first, second], 0.05, TopK(2), n_clients=3, weights=weights)
    for _ in range(20):
        for client in range(3):
            optimizer.zero_grad()
            (linear_loss(torch.cat([first, second]), A[client]) / 2).backward()
            optimizer.send(client)
        optimizer.step()
    assert torch.allclose(torch.cat([first, second]).detach(), history.x, atol=1e-12)


def test_shifts_of_the_optimiser_keep_their_precision_through_a_checkpoint():
    def start(seed):
        p = torch.nn.Parameter(torch.randn(50, generator=generator(seed)).bfloat16())
        return p, EF21Optimizer([p], 0.1, TopK(3), momentum=0.5, weight_decay=0.01)

    p, optimizer = start(0)

    def go(p, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (p.float() - 0.3).square().sum().backward()
            optimizer.step()

    go(p, optimizer, 4)
    q, other = start(1)
    q.data.copy_(p)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[q]["shifts"].dtype == torch.float32
    assert torch.equal(other.state[q]["shifts"], optimizer.state[p]["shifts"])
    go(p, optimizer, 4)
    go(q, other, 4)
    assert torch.equal(p, q)


def test_the_optimiser_is_copied_and_pickled_whole():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = EF21Optimizer([p], 0.1, TopK(1), n_clients=2, weights=[0.25, 0.75])
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.send(1)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (q,) = other.param_groups[0]["params"]
        q.grad = p.grad.clone()
        other.send(0)
        other.step()
        assert q.tolist() == pytest.approx([1, 1, 0.7])


def test_a_gradient_that_is_not_finite_leaves_all_groups_as_they_were():
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = EF21Optimizer([{"params": [p]}, {"params": [q]}], 0.1)
    p.grad, q.grad = torch.ones(3), torch.full((3,), math.nan)
    with pytest.raises(ValueError, match="gradient has 3"):
        optimizer.send(0)
    assert not optimizer.state[p]["shifts"].any()


def test_parameters_without_entries_are_passed_over():
    p, q = torch.nn.Parameter(torch.zeros(0)), torch.nn.Parameter(torch.ones(2))
    p.grad, q.grad = torch.zeros(0), torch.ones(2)
    optimizer = EF21Optimizer([{"params": [p]}, {"params": [q]}], 0.5, TopK(2))
    optimizer.step()
    assert q.tolist() == [0.5, 0.5]


def test_the_optimiser_refuses_what_does_not_say_whose_gradient_it_is():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = EF21Optimizer([p], 0.1, n_clients=2)
    with pytest.raises(TypeError, match="send"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(ValueError, match="client is 2"):
        optimizer.send(2)
    p.grad = torch.full((3,), math.inf)
    with pytest.raises(ValueError, match="gradient has"):
        optimizer.send(0)
    p.grad = None
    p.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (3,))
    with pytest.raises(TypeError, match="layout"):
        optimizer.send(0)
    with pytest.raises(TypeError, match="compressor"):
        EF21Optimizer([p], 0.1, "top")
    z = torch.nn.Parameter(torch.ones(1, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(TypeError, match="complex64"):
        EF21Optimizer([z], 0.1).step()
    one = EF21Optimizer([torch.nn.Parameter(torch.ones(3))], 0.1)
    one.param_groups[0]["params"][0].grad = torch.ones(3)
    one.step()
    with pytest.raises(ValueError, match="state_dict is of 1 clients; it takes one of 2"):
        optimizer.load_state_dict(one.state_dict())
