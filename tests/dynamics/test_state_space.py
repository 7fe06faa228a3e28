"""State-space models: known facts of HiPPO, perturbations of any matrix, layers in three modes, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

from paperworks.dynamics import (
    S4D,
    S4DPLR,
    S4PTD,
    S5,
    S5PTD,
    dplr_legs,
    gap_bound,
    hippo_legs,
    operator_gap,
    perturb_then_diagonalize,
    pseudospectrum,
    resolvent_norm,
    spike_frequencies,
    transfer_function,
)
from paperworks.dynamics.state_space import kernels
from paperworks.dynamics.state_space.diagonalization import half

LAYERS = [
    lambda **o: S4D(4, 8, **o),
    lambda **o: S4D(4, 8, "lin", **o),
    lambda **o: S4D(4, 8, "inv", **o),
    lambda **o: S4PTD(4, 9, **o),
    lambda **o: S4DPLR(4, 8, **o),
    lambda **o: S5(4, 16, 2, transposed=True, **o),
    lambda **o: S5PTD(4, 18, 2, transposed=True, **o),
]
NAMES = ["S4D", "S4D lin", "S4D inv", "S4PTD", "S4DPLR", "S5", "S5PTD"]


def test_hippo_is_the_matrix_of_its_facts():
    A, B = hippo_legs(64)
    assert float(torch.linalg.matrix_norm(A, 2)) == pytest.approx(2607.65, abs=0.01)
    assert torch.linalg.eigvals(hippo_legs(8)[0]).real.sort().values.tolist() == pytest.approx(list(range(-8, 0)))
    for n, square in ((8, 2.75), (16, 3.00), (32, 3.18), (64, 3.32)):
        assert float(resolvent_norm(hippo_legs(n)[0], 0.0)) ** 2 == pytest.approx(square, abs=5e-3)
    parts = dplr_legs(64)
    normal = A + torch.outer(parts.P, parts.P)
    back = parts.V @ torch.diag(parts.eigenvalues) @ parts.V.mH
    torch.testing.assert_close(back.real, normal, rtol=0, atol=1e-9)
    assert (parts.eigenvalues.real == -0.5).all()
    torch.testing.assert_close(B, math.sqrt(2) * parts.P)
    assert float(spike_frequencies(64)[0]) == pytest.approx(64**2 / math.pi, rel=1e-3)


def test_transfer_functions_of_matrices_and_of_eigenvalues_agree():
    g = torch.Generator().manual_seed(0)
    A, s = torch.randn(6, 6, generator=g, dtype=torch.float64), 1j * torch.randn(2, 5, generator=g, dtype=torch.float64)
    B, C = torch.randn(6, 2, generator=g, dtype=torch.float64), torch.randn(3, 6, generator=g, dtype=torch.float64)
    eigenvalues, V = torch.linalg.eig(A)
    found = transfer_function(A, B, C, s)
    assert found.shape == (2, 5, 3, 2)
    torch.testing.assert_close(found, transfer_function(eigenvalues, torch.linalg.solve(V, B + 0j), (C + 0j) @ V, s))
    assert transfer_function(A, B[:, 0], C[0], s).shape == (2, 5)
    assert transfer_function(A, B, C[0], s).shape == (2, 5, 2)
    torch.testing.assert_close(transfer_function(A, B[:, 1], C, s), found[..., 1])
    # A lower triangular matrix is solved by substitution, to the same.
    L, _ = hippo_legs(6)
    full = torch.linalg.inv(s[0, 0] * torch.eye(6) - L)
    torch.testing.assert_close(transfer_function(L, B, C, s[0, 0]), (C + 0j) @ full @ (B + 0j))


def test_pseudospectra_are_least_singular_values():
    A = torch.tensor([[0.0, 10.0], [0.0, 0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0, 1.0], [1j, 3 + 4j]], dtype=torch.complex128)
    for i in range(2):
        for j in range(2):
            least = torch.linalg.svdvals(z[i, j] * torch.eye(2) - A)[-1]
            torch.testing.assert_close(pseudospectrum(A, z)[i, j], least)
    assert math.isinf(float(resolvent_norm(A, 0.0)))


@pytest.mark.parametrize("n", [2, 5, 16])
def test_perturbed_matrices_are_what_they_say(n):
    A, _ = hippo_legs(n)
    for method in ("optimized", "random", "normal"):
        found = perturb_then_diagonalize(A, method=method)
        back = found.V @ torch.diag(found.eigenvalues) @ torch.linalg.inv(found.V)
        torch.testing.assert_close(back.real, A + found.E, rtol=0, atol=1e-7 * n**2)
        assert float(back.imag.abs().max()) < 1e-7 * n**2
        torch.testing.assert_close(torch.linalg.vector_norm(found.V, dim=0), torch.ones(n, dtype=torch.float64))
        assert found.cond == pytest.approx(float(torch.linalg.cond(found.V, 2)), rel=1e-6)
        assert found.rel_norm == pytest.approx(
            float(torch.linalg.matrix_norm(found.E, 2) / torch.linalg.matrix_norm(A, 2))
        )
        assert found.eigenvalues.real.max() < 0
        assert (found.eigenvalues.imag.diff() >= -1e-6 * n**2).all()
    same = perturb_then_diagonalize(A)
    assert torch.equal(same.E, perturb_then_diagonalize(A).E)


def test_the_perturbed_system_is_close_at_every_frequency_and_the_cut_one_is_not():
    (A, B), n = hippo_legs(16), 16
    u = B / B.norm()
    found = perturb_then_diagonalize(A)
    V = found.V
    perturbed = found.eigenvalues, torch.linalg.solve(V, u.to(V.dtype)), u.to(V.dtype) @ V
    parts = dplr_legs(n)
    cut = parts.eigenvalues, parts.V.mH @ u.to(V.dtype) / 2, u.to(V.dtype) @ parts.V
    gap, _ = operator_gap((A, u, u), perturbed)
    spike, frequency = operator_gap((A, u, u), cut)
    assert gap < 5e-3
    assert spike == pytest.approx(0.400, abs=2e-3)
    assert abs(frequency) == pytest.approx(float(spike_frequencies(n)[0]), rel=0.01)
    w = 1j * torch.linspace(-300, 300, 101, dtype=torch.float64)
    E = 0.01 * found.E
    apart = (transfer_function(A + E, u, u, w) - transfer_function(A, u, u, w)).abs()
    assert (apart <= gap_bound(A, E, w) * (1 + 1e-9)).all()
    assert torch.isinf(gap_bound(A, 1e6 * E, w)).all()


def test_any_matrix_can_be_perturbed():
    jordan = torch.diag(torch.ones(5, dtype=torch.float64), 1) + 3 * torch.eye(6, dtype=torch.float64)
    found = perturb_then_diagonalize(jordan, stability_margin=None, steps=200)
    assert found.cond < 200
    assert found.rel_norm < 0.5
    assert float(found.eigenvalues.real.min()) > 1  # no state matrix: nothing is pushed to the left
    with pytest.warns(UserWarning, match="is moved to"):
        moved = perturb_then_diagonalize(torch.eye(3) * 5, method="random", size=1e-6)
    assert float(moved.eigenvalues.real.max()) == pytest.approx(-1e-3)


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
@pytest.mark.parametrize("make", LAYERS, ids=NAMES)
def test_streams_and_whole_sequences_agree(make, rule):
    torch.manual_seed(0)
    layer, u = make(rule=rule), torch.randn(2, 4, 300)
    y = layer(u)
    layer.setup_step()
    state, steps = layer.init_state(2), []
    for k in range(300):
        out, state = layer.step(u[:, :, k], state)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, -1), y, rtol=0, atol=1e-5)
    if not isinstance(layer, S4DPLR):
        first, carried = layer(u[:, :, :130], layer.init_state(2))
        second, carried = layer(u[:, :, 130:], carried)
        torch.testing.assert_close(torch.cat([first, second], -1), y, rtol=0, atol=1e-5)
        torch.testing.assert_close(carried, state, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", LAYERS, ids=NAMES)
def test_both_directions_layouts_copies_and_gradients(make):
    torch.manual_seed(0)
    layer, u = make(bidirectional=True), torch.randn(3, 4, 50, requires_grad=True)
    y = layer(u)
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert torch.isfinite(u.grad).all()
    # What comes later matters, and what came before.
    with torch.no_grad():
        moved = u.detach().clone()
        moved[:, :, 25] += 1
        apart = (layer(moved) - y).abs().amax((0, 1))
    assert apart[:25].max() > 1e-6
    assert apart[26:].max() > 1e-6
    torch.testing.assert_close(copy.deepcopy(layer)(u), y)
    other = make(bidirectional=True)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(u), y)
    with pytest.raises(ValueError, match="both directions"):
        layer.setup_step()


def test_a_layer_is_causal_and_takes_both_layouts():
    torch.manual_seed(0)
    layer, u = S4PTD(4, 8), torch.randn(2, 4, 60)
    moved = u.clone()
    moved[:, :, 30] += 1
    apart = (layer(moved) - layer(u)).abs().amax((0, 1))
    assert apart[:30].max() < 1e-5
    assert apart[30:].max() > 1e-3
    torch.manual_seed(0)
    last = S4PTD(4, 8, transposed=False)
    torch.testing.assert_close(last(u.mT), layer(u).mT)


def test_layers_approximate_the_full_one_where_they_should():
    """With equal steps and outputs the perturbed kernel is S4's to some thousandths; the cut one isn't at its spike."""
    n, dt, length = 16, 0.03, 64
    _, B = hippo_legs(n)
    u = B / B.norm()
    apart = {}
    for cls in (S4DPLR, S4PTD, S4D):
        torch.manual_seed(0)
        layer = cls(1, n, dt_min=dt, dt_max=dt * 1.001)
        found = perturb_then_diagonalize(hippo_legs(n)[0]) if cls is S4PTD else None
        with torch.no_grad():
            layer.log_dt.fill_(math.log(dt))
            if cls is S4DPLR:
                layer.C.copy_(u)
            else:
                V = found.V if found else dplr_legs(n).V
                b = torch.linalg.solve(V, B.to(V.dtype)) / (1 if found else 2)
                chosen, _ = half(found.eigenvalues if found else dplr_legs(n).eigenvalues)
                layer.C.copy_(torch.view_as_real(((u.to(V.dtype) @ V) * b)[chosen].to(torch.complex64)))
            apart[cls] = layer.kernel(length)[0]
    wave = torch.cos(spike_frequencies(n)[0].float() * dt * torch.arange(length))
    answer = {cls: kernels.convolved(wave[None, None], k[None])[0, 0] for cls, k in apart.items()}
    size = answer[S4DPLR].square().mean().sqrt()
    errors = {cls: float((answer[cls] - answer[S4DPLR]).square().mean().sqrt() / size) for cls in (S4PTD, S4D)}
    assert errors[S4PTD] < 0.1
    assert errors[S4D] > 50 * errors[S4PTD]


def test_long_sequences_as_streams_and_as_convolutions():
    torch.manual_seed(0)
    layer, length = S4PTD(2, 8), 65_536
    u = torch.randn(1, 2, length)
    with torch.no_grad():
        y = layer(u)
        scan = layer(u, mode="scan")
    torch.testing.assert_close(scan, y, rtol=0, atol=1e-5)
    layer.setup_step()
    state = layer.init_state(1)
    for k in range(4000):
        out, state = layer.step(u[:, :, k], state)
    torch.testing.assert_close(out, y[:, :, 3999], rtol=0, atol=1e-5)


def test_kernels_scans_and_powers_are_their_definitions():
    g = torch.Generator().manual_seed(0)
    factor = torch.polar(
        torch.rand(3, 5, generator=g, dtype=torch.float64), torch.randn(3, 5, generator=g, dtype=torch.float64)
    )
    weight = torch.randn(3, 5, 2, generator=g, dtype=torch.float64).view(3, 5, 2)
    weight = torch.view_as_complex(weight)
    for length in (1, 2, 7, 64, 100):
        k = torch.arange(length)
        plain = (weight[..., None] * factor[..., None] ** k).sum(1).real
        torch.testing.assert_close(kernels.kernel(factor, weight, length), plain)
        inputs = torch.view_as_complex(torch.randn(2, length, 5, 2, generator=g, dtype=torch.float64))
        state, states = torch.ones(2, 5, dtype=torch.complex128), []
        for i in range(length):
            state = factor[0] * state + inputs[:, i]
            states.append(state)
        found = kernels.scanned(inputs, factor[0], torch.ones(2, 5, dtype=torch.complex128))
        torch.testing.assert_close(found, torch.stack(states, 1))
    z = torch.tensor([1e-9, 1e-4, 0.3, 2.0], dtype=torch.float64) * (-1 + 2j)
    one = torch.ones((), dtype=torch.float64)
    _, gain = kernels.discretized(z, one, "zoh")
    torch.testing.assert_close(gain[2:], (z[2:].exp() - 1) / z[2:])
    assert abs(complex(gain[0]) - 1) < 1e-8


def test_real_eigenvalues_count_once():
    """A perturbed matrix of odd size has one at least; the layer's kernel is the whole system's."""
    torch.manual_seed(0)
    layer = S4PTD(1, 9, dt_min=0.01, dt_max=0.0101)
    assert (layer.pairs == 1).sum() % 2 == 1
    assert int(layer.pairs.sum()) == 9
    eigenvalues, weights = layer.eigenvalues()[0], torch.view_as_complex(layer.C)[0]
    single, pair = layer.pairs == 1, layer.pairs == 2
    whole = torch.cat([eigenvalues[single], eigenvalues[pair], eigenvalues[pair].conj()])
    outputs = torch.cat([weights[single], weights[pair], weights[pair].conj()])
    times = layer.log_dt.exp() * torch.arange(20)
    plain = (outputs * ((whole * layer.log_dt.exp()).exp() - 1) / whole) @ (whole[:, None] * times).exp()
    torch.testing.assert_close(layer.kernel(20)[0], plain.real, rtol=1e-4, atol=1e-5)


def test_parameters_of_the_system_are_marked():
    layer = S4PTD(4, 8, lr_ssm=5e-4)
    marked = {name for name, p in layer.named_parameters() if hasattr(p, "_optim")}
    assert marked == {"log_dt", "log_decay", "frequency"}
    assert layer.log_dt._optim == {"weight_decay": 0.0, "lr": 5e-4}
    assert S4D(4, 8, lr_ssm=None).log_dt._optim == {"weight_decay": 0.0}


def test_it_learns_in_a_network_and_half_precision_autocast_runs():
    torch.manual_seed(0)
    x = torch.randn(64, 1, 40)
    y = (x[:, 0, :20].sum(1) > 0).long()
    network = nn.Sequential(nn.Conv1d(1, 8, 1), S4PTD(8, 8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.isfinite(network(x)).all()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: hippo_legs(0), ValueError, "n is 0"),
        (lambda: spike_frequencies(4, 3), ValueError, "k is 3"),
        (lambda: perturb_then_diagonalize(torch.ones(2, 3)), ValueError, "A has shape"),
        (lambda: perturb_then_diagonalize(torch.full((2, 2), math.nan)), ValueError, "A has 4 NaN"),
        (lambda: perturb_then_diagonalize(torch.eye(2) + 0j), TypeError, "real matrix"),
        (lambda: perturb_then_diagonalize([[1.0]]), TypeError, "A is a list"),
        (lambda: perturb_then_diagonalize(torch.ones(2, 2, dtype=torch.int64)), TypeError, "A is of torch.int64"),
        (lambda: perturb_then_diagonalize(torch.eye(2), method="best"), ValueError, "method is 'best'"),
        (lambda: perturb_then_diagonalize(hippo_legs(13)[0], method="none"), ValueError, "12 at most"),
        (lambda: perturb_then_diagonalize(torch.eye(3), method="normal"), ValueError, "HiPPO-LegS"),
        (lambda: transfer_function(torch.eye(2), torch.ones(3), torch.ones(2), 0.0), ValueError, "B has shape"),
        (lambda: S4D(4, 1), ValueError, "d_state is 1"),
        (lambda: S4D(4, 7, "lin"), ValueError, "even number"),
        (lambda: S4D(4, 8, "hippo"), ValueError, "init is 'hippo'"),
        (lambda: S4PTD(4, 8, dt_min=0.1, dt_max=0.1), ValueError, "dt_min is 0.1"),
        (lambda: S4DPLR(4, 8, rule="euler"), ValueError, "rule is 'euler'"),
        (lambda: S5PTD(4, 9, 2), ValueError, "d_state is 9"),
        (lambda: S4PTD(4, 8)(torch.ones(2, 5, 6)), ValueError, "u has shape"),
        (lambda: S5(4, 8)(torch.ones(2, 5, 6)), ValueError, "u has shape"),
        (lambda: S4PTD(4, 8).step(torch.ones(2, 5), None), ValueError, "u has shape"),
        (lambda: S4PTD(4, 8)(torch.ones(2, 4, 6), mode="rnn"), ValueError, "mode is 'rnn'"),
        (lambda: S4PTD(4, 8, bidirectional=True)(torch.ones(2, 4, 6), mode="scan"), ValueError, "both directions"),
        (lambda: S4DPLR(4, 8)(torch.ones(2, 4, 6), mode="scan"), NotImplementedError, "no scan"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def stream(layer, u):
    state, found = layer.init_state(len(u)), []
    for now in u.unbind(2):
        y, state = layer.step(now, state)
        found.append(y)
    return torch.stack(found, 2)


@pytest.mark.parametrize("make", LAYERS, ids=NAMES)
def test_steps_see_parameters_that_were_trained_loaded_moved_or_replaced(make):
    torch.manual_seed(0)
    layer, other, u = make(), make(), torch.randn(2, 4, 12)
    agree = lambda one: torch.testing.assert_close(stream(one, u), one(u), rtol=1e-4, atol=1e-5)  # noqa: E731
    agree(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(u).square().sum().backward()
    optimizer.step()
    agree(layer)
    layer.load_state_dict(other.state_dict())
    agree(layer)
    layer.C = nn.Parameter(torch.randn_like(layer.C))
    agree(layer)
    agree(copy.deepcopy(layer))
    with torch.inference_mode():
        agree(make())
    layer.double()
    u = u.double()
    torch.testing.assert_close(stream(layer, u), layer(u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", LAYERS, ids=NAMES)
def test_layers_in_half_precision_compute_their_systems_in_single(make, dtype):
    torch.manual_seed(0)
    layer, u = make().to(dtype), torch.randn(2, 4, 20).to(dtype)
    exact, y = copy.deepcopy(layer).double()(u.double()), layer(u)
    assert y.dtype == stream(layer, u).dtype == dtype
    scale = exact.abs().max()
    assert (y.double() - exact).abs().max() < 4 * torch.finfo(dtype).eps * scale
    assert (stream(layer, u).double() - exact).abs().max() < 4 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("make", LAYERS, ids=NAMES)
def test_empty_batches_pass_and_steps_of_other_shapes_are_refused(make):
    layer = make()
    assert layer(torch.zeros(0, 4, 10)).shape == (0, 4, 10)
    with pytest.raises(ValueError, match="one step or more"):
        layer(torch.zeros(2, 4, 0))
    with pytest.raises((ValueError, TypeError), match="u"):
        layer.step(torch.zeros(2, 3), layer.init_state(2))
    with pytest.raises((ValueError, TypeError), match="state"):
        layer.step(torch.zeros(2, 4), layer.init_state(3))
    with pytest.raises(ValueError, match="both directions"):
        make(bidirectional=True).init_state(2)


def test_blocks_are_counted():
    with pytest.raises(ValueError, match="blocks is 0"):
        S5PTD(4, 8, blocks=0)
