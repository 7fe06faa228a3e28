"""Multigrid layers: linear, textbook multigrid with its weights, true to their boundary; networks, losses, scaling."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.operators import (
    DifferenceH1Loss,
    FieldNormalizer,
    MgNO,
    MultigridConv,
    RelativeH1Loss,
    RelativeL2Loss,
    as_linear_operator,
)

MODES = ["zeros", "reflect", "circular", ("zeros", "circular"), (("zeros", "reflect"), ("reflect", "zeros"))]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(*args, **options):
    torch.manual_seed(0)
    return MultigridConv(*args, **options).double()


@settings(max_examples=10, deadline=None)
@given(
    height=st.integers(8, 21), width=st.integers(8, 21), mode=st.sampled_from(MODES), padding=st.sampled_from([0, 1]),
    residual=st.booleans(), growth=st.sampled_from(["constant", "linear"]), known=st.booleans(),
)  # fmt: skip
def test_it_is_linear_on_every_grid(height, width, mode, padding, residual, growth, known):
    levels = 3 if min(height, width) > 14 else 2
    made = layer(
        2, 3, levels, [(1, 1), (2, 1), (1, 0)][-levels:], mode, residual, level_growth=growth,
        transfer_padding=padding, resolution=(height, width) if known else None,
    )  # fmt: skip
    x, y = randn(2, 4, 2, height, width)
    found = made(x - 2.5 * y)
    assert found.shape == (4, 3, height, width)
    torch.testing.assert_close(found, made(x) - 2.5 * made(y))
    assert made(randn(1, 2, height + 1, width + 1)).shape == (1, 3, height + 1, width + 1)


@pytest.mark.parametrize("options", [{}, {"residual_restriction": True}, {"resolution": 32}, {"resolution": 33}])
def test_circular_padding_commutes_with_shifts_of_the_coarsest_grid(options):
    made, x = layer(1, 3, 4, padding_mode="circular", **options), randn(2, 1, 32, 40)
    shift = lambda v: v.roll((8, -16), (2, 3))  # noqa: E731
    torch.testing.assert_close(made(shift(x)), shift(made(x)))
    assert not torch.allclose(made(x.roll(4, 2)), made(x).roll(4, 2))  # the coarsest grid tells these apart


def test_reflection_is_that_of_the_field_continued_by_its_mirror_image():
    made, x = layer(1, 2, 3, [(1, 1), (1, 1), (2, 0)], "reflect", resolution=17), randn(1, 1, 17, 17)
    # Periodic with period 32, even about both ends; kernels are made even, as the mirror image of a field asks for.
    for module in made.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            with torch.no_grad():
                module.weight.copy_((module.weight + module.weight.flip(2)) / 2)
                module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    whole = torch.cat([x, x[:, :, 1:-1].flip(2)], 2)
    whole = torch.cat([whole, whole[:, :, :, 1:-1].flip(3)], 3)
    periodic = layer(1, 2, 3, [(1, 1), (1, 1), (2, 0)], "circular", resolution=17)
    periodic.load_state_dict(made.state_dict())
    torch.testing.assert_close(periodic(whole)[:, :, :17, :17], made(x))


def test_information_crosses_the_grid_in_one_layer():
    x = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    x[0, 0, 0, 0] = 1
    assert layer(1, 1, 5)(x)[0, 0, -1, -1] != 0
    assert layer(1, 1, 1, [(5, 0)])(x)[0, 0, -1, -1] == 0


def v_cycle(n, levels, damping, coarse):
    """A V(1, 1)-cycle by dense matrices of the inner nodes of [0, 1], from the textbook."""

    def matrix(m):
        return (2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)) * (m + 1) ** 2

    def cycle(f, level):
        m = len(f)
        A = matrix(m)
        relax = damping / (2 * (m + 1) ** 2)
        u = np.zeros(m)
        for _ in range(coarse if level == levels - 1 else 1):
            u = u + relax * (f - A @ u)
        if level == levels - 1:
            return u
        P = np.zeros((m, (m - 1) // 2))
        for j in range((m - 1) // 2):
            P[2 * j : 2 * j + 3, j] = 0.5, 1, 0.5
        u = u + P @ cycle(P.T @ (f - A @ u) / 2, level + 1)
        return u + relax * (f - A @ u)

    return lambda f: cycle(f, 0)


def test_the_weights_of_multigrid_give_its_cycle_in_one_dimension():
    n, levels = 33, 4
    made = layer(1, 1, levels, [(1, 1)] * 3 + [(3, 0)], residual_restriction=True, ndim=1, boundary_mask=True)
    made.galerkin_(1 / (n - 1), 0.7)
    f = randn(n - 2)
    found = made(nn.functional.pad(f, (1, 1))[None, None])[0, 0]
    assert found[0] == found[-1] == 0
    np.testing.assert_allclose(found[1:-1].detach(), v_cycle(n, levels, 0.7, 3)(f.numpy()), rtol=1e-12)


@pytest.mark.parametrize("transfer", [0, 1])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_cycles_converge_at_the_rate_of_theory(ndim, transfer):
    n = 17 if ndim < 3 else 9
    n -= 2 * (1 - transfer)  # without the boundary
    levels = 3 if ndim < 3 else 2
    made = layer(
        2, 2, levels, [(1, 1)] * (levels - 1) + [(30, 0)], residual_restriction=True, ndim=ndim,
        boundary_mask=bool(transfer), transfer_padding=transfer,
    ).galerkin_(1.0)  # fmt: skip
    inside = slice(1, -1) if transfer else slice(None)
    f = torch.zeros(1, 2, *[n] * ndim, dtype=torch.float64)
    f[(slice(None), slice(None), *[inside] * ndim)] = 1 + randn(*f[(slice(None), slice(None), *[inside] * ndim)].shape)
    A, u, sizes = made.residual[0], torch.zeros_like(f), []
    with torch.no_grad():
        for _ in range(12):
            r = torch.zeros_like(f)
            r[(slice(None), slice(None), *[inside] * ndim)] = (f - A(u))[(slice(None), slice(None), *[inside] * ndim)]
            sizes.append(r.norm())
            u = u + made(r)
    assert sizes[-1] / sizes[-2] < (0.5 if ndim < 3 else 0.65)
    assert sizes[-1] < 1e-3 * sizes[0]


def test_without_its_mask_the_same_cycle_diverges():
    made = layer(1, 1, 5, [(1, 1)] * 4 + [(2, 0)], residual_restriction=True).galerkin_(1 / 32)
    f, A = torch.zeros(1, 1, 33, 33, dtype=torch.float64), made.residual[0]
    f[..., 1:-1, 1:-1] = randn(31, 31)
    u = torch.zeros_like(f)
    with torch.no_grad():
        for _ in range(12):
            before, r = u, f - A(u)
            u = u + made(r)
    assert (f - A(u)).norm() > 1.2 * (f - A(before)).norm()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_as_an_operator_it_is_the_layer_and_has_its_adjoint(mode):
    made = layer(2, 3, 2, padding_mode=mode)
    operator, x = as_linear_operator(made, (4, 6)), randn(2, 4, 6)
    np.testing.assert_allclose(operator @ x.flatten().numpy(), made(x[None])[0].flatten().detach(), rtol=1e-12)
    dense = operator @ np.eye(48)
    np.testing.assert_allclose(operator.H @ np.eye(72), dense.T, atol=1e-12)
    assert operator.dtype == np.float64
    assert as_linear_operator(made.float(), (6, 8)).dtype == np.float32


@pytest.mark.parametrize(("dtype", "kind"), [(torch.half, np.float16), (torch.bfloat16, np.float32)])
def test_operators_of_half_precision_have_a_type_that_numpy_knows(dtype, kind):
    found = as_linear_operator(layer(1, 1, 2).to(dtype), (4, 4)) @ np.ones(16)
    assert found.dtype == kind
    np.testing.assert_allclose(found, as_linear_operator(layer(1, 1, 2), (4, 4)) @ np.ones(16), atol=0.02)


def test_a_textbook_cycle_on_a_grid_that_is_not_square():
    height, width, levels = 17, 33, 3
    made = layer(1, 1, levels, [(1, 1)] * 2 + [(3, 0)], residual_restriction=True, boundary_mask=True)
    made.galerkin_(0.5, 0.8)

    def matrix(h, n, m):
        line = lambda k: 2 * np.eye(k) - np.eye(k, k=1) - np.eye(k, k=-1)  # noqa: E731
        return (np.kron(line(n), np.eye(m)) + np.kron(np.eye(n), line(m))) / h**2

    def interpolation(k):
        P = np.zeros((k, (k - 1) // 2))
        for j in range((k - 1) // 2):
            P[2 * j : 2 * j + 3, j] = 0.5, 1, 0.5
        return P

    def cycle(f, n, m, level):
        h = 0.5 * 2**level
        A, u = matrix(h, n, m), np.zeros(n * m)
        for _ in range(3 if level == levels - 1 else 1):
            u = u + 0.8 * h**2 / 4 * (f - A @ u)
        if level == levels - 1:
            return u
        P = np.kron(interpolation(n), interpolation(m))
        u = u + P @ cycle(P.T @ (f - A @ u) / 4, (n - 1) // 2, (m - 1) // 2, level + 1)
        return u + 0.8 * h**2 / 4 * (f - A @ u)

    f = randn(height - 2, width - 2)
    found = made(nn.functional.pad(f, (1, 1, 1, 1))[None, None])[0, 0, 1:-1, 1:-1]
    wanted = cycle(f.flatten().numpy(), height - 2, width - 2, 0).reshape(f.shape)
    np.testing.assert_allclose(found.detach(), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("untyped")
def test_it_compiles_to_one_graph_and_keeps_its_values():
    for mode in ("zeros", "reflect", "circular"):
        torch.manual_seed(0)
        network = MgNO(hidden_channels=2, n_layers=1, levels=2, padding_mode=mode)
        compiled, x = torch.compile(network, backend="eager", fullgraph=True), randn(1, 1, 9, 12, dtype=torch.float32)
        torch.testing.assert_close(compiled(x), network(x))


def test_kernels_of_three_are_those_of_four_without_their_last():
    three, four = layer(1, 2, 3, resolution=17), layer(1, 2, 3)
    state = {k: v[..., :3, :3] for k, v in four.state_dict().items()}
    three.load_state_dict(state)
    torch.testing.assert_close(three(randn(2, 1, 17, 17)), four(randn(2, 1, 17, 17)))


def test_it_restricts_what_the_official_code_does():
    """Two levels written out: f itself goes down, u goes down by a map of its own, and no smoothing comes after."""
    made, x = layer(1, 2, 2, [(1, 0), (2, 0)]), randn(1, 1, 8, 8)
    conv = lambda module, v: module.conv(v)  # noqa: E731
    u = conv(made.down[0][0].S, x)
    f, v = conv(made.restrict_f[0], x), conv(made.restrict_u[0], u)
    for smoother in made.down[1]:
        v = v + conv(smoother.S, f - conv(smoother.A, v))
    whole = u + nn.functional.conv_transpose2d(v, made.prolong[0].conv.weight, stride=2, padding=1)
    torch.testing.assert_close(made(x), whole)


def test_parameters_are_those_of_the_prototype_and_no_grid_changes_them():
    count = lambda network: sum(p.numel() for p in network.parameters())  # noqa: E731
    assert count(MgNO(hidden_channels=16, n_layers=4, resolution=65)) == 194_004
    assert count(MgNO(hidden_channels=16, n_layers=4, resolution=33)) == 194_004
    network = MgNO(hidden_channels=2, n_layers=1)
    assert all(network(torch.zeros(1, 1, n, n)).shape[-1] == n for n in (16, 33, 50))


@pytest.mark.parametrize(
    ("name", "side"),
    [("darcy", 64), ("darcy-rough", 65), ("navier-stokes", 64), ("helmholtz", 101), ("helmholtz-constant", 101)],
)
def test_variants_run_and_learn(name, side):
    torch.manual_seed(0)
    network = MgNO.variant(name, hidden_channels=2, n_layers=2)
    x = randn(2, 1, side, side, dtype=torch.float32)
    y = network(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    if name == "helmholtz":  # channels grow by level
        assert network.layers[1].cycle.prolong[-1].conv.weight.shape[:2] == (10, 8)


def test_a_trained_step_lowers_the_loss_and_checkpoints_change_nothing():
    torch.manual_seed(0)
    network = MgNO(hidden_channels=4, n_layers=2, levels=3)
    again = MgNO(hidden_channels=4, n_layers=2, levels=3, checkpointing=True)
    again.load_state_dict(network.state_dict())
    x, y = randn(2, 4, 1, 16, 16, dtype=torch.float32)
    loss = RelativeH1Loss()
    for made in (network, again):
        loss(made(x), y).backward()
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    before = loss(network(x), y).item()
    optimizer.step()
    assert loss(network(x), y).item() < before


def test_half_precision():
    network = MgNO(hidden_channels=2, n_layers=1, levels=3)
    x = randn(1, 1, 16, 16, dtype=torch.float32)
    half = network.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()


def test_norms_and_activations():
    for norm, activation in itertools.product(("layer", "group"), ("gelu", "relu", "silu", "tanh")):
        network = MgNO(
            hidden_channels=2,
            n_layers=1,
            levels=2,
            norm=norm,
            activation_norm=norm,
            activation=activation,
            resolution=8,
        )
        assert torch.isfinite(network(randn(1, 1, 8, 8, dtype=torch.float32))).all()
    made = layer(1, 4, 2, norm="group")
    assert not made.linear
    with pytest.raises(ValueError, match="layer has a bias or a norm"):
        as_linear_operator(made, (8, 8))


def test_without_any_bias_zero_goes_to_zero():
    network = MgNO(hidden_channels=2, n_layers=2, levels=2, skip=None)
    assert not network(torch.zeros(1, 1, 8, 8)).any()
    assert MgNO(hidden_channels=2, n_layers=2, levels=2)(torch.zeros(1, 1, 8, 8)).any()


def test_xavier_restrictions_are_small():
    made = MultigridConv(1, 8, 2, init="xavier")
    assert made.restrict_u[0].conv.weight.abs().max() <= (6 / (2 * 8 * 9)) ** 0.5 / 64


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultigridConv(1, 1, padding_mode="symmetric"), "padding_mode is 'symmetric'"),
        (lambda: MultigridConv(1, 1, padding_mode=("zeros",)), "padding_mode has 1 entries"),
        (lambda: MultigridConv(1, 1, padding_mode=(("circular", "zeros"), "zeros")), "both of its sides"),
        (lambda: MultigridConv(1, 1, 2, [(1, 0)]), "smoothing is"),
        (lambda: MultigridConv(1, 1, 2, [(0, 1), (1, 0)]), "smoothing is"),
        (lambda: MultigridConv(1, 1, 2, [(1, 0), (1, 1)]), "smoothing is"),
        (lambda: MultigridConv(1, 1, norm="layer"), "resolution"),
        (lambda: MultigridConv(1, 1, norm="batch"), "norm is 'batch'"),
        (lambda: MultigridConv(1, 1, ndim=4), "ndim is 4"),
        (lambda: MultigridConv(1, 1, resolution=8), r"the grid has \(8, 8\) nodes; 5 levels take 16"),
        (lambda: MultigridConv(1, 1, resolution=(16, 16, 16)), "resolution has 3 entries"),
        (lambda: MultigridConv(1, 1, transfer_padding=2), "transfer_padding is 2"),
        (lambda: MultigridConv(1, 1, transfer_padding=0, boundary_mask=True), "boundary_mask is True"),
        (lambda: MultigridConv(1, 1)(torch.zeros(1, 1, 8, 8)), "5 levels take 16"),
        (lambda: MultigridConv(1, 1, padding_mode="reflect")(torch.zeros(1, 1, 16, 16)), "to reflect"),
        (lambda: MultigridConv(2, 1)(torch.zeros(1, 1, 16, 16)), "f has shape"),
        (lambda: MultigridConv(1, 1).galerkin_(), "textbook multigrid"),
        (lambda: MultigridConv(1, 2, residual_restriction=True).galerkin_(), "textbook multigrid"),
        (lambda: MultigridConv(1, 1, residual_restriction=True).galerkin_(damping=2.0), "damping is"),
        (lambda: as_linear_operator(MultigridConv(1, 1), (8, 8)), "5 levels take 16"),
        (lambda: MgNO(residual=True, in_channels=2), "residual is True"),
        (lambda: MgNO(activation="elu"), "activation is 'elu'"),
        (lambda: MgNO(activation_norm="layer"), "activation_norm is 'layer'"),
        (lambda: MgNO(skip="linear"), "skip is"),
        (lambda: MgNO.variant("burgers"), "name is 'burgers'"),
        (lambda: MgNO()(torch.zeros(1, 2, 16, 16)), "x has shape"),
        (lambda: MultigridConv(1, 1, 2, [1, 2]), "smoothing is"),
        (lambda: MgNO(levels=2, norm="layer", resolution=8)(torch.zeros(1, 1, 9, 9)), "x has a grid of"),
        (lambda: MultigridConv(1, 1, 2, norm="layer", resolution=8)(torch.zeros(1, 1, 8, 9)), "f has a grid of"),
        (lambda: RelativeL2Loss()(torch.ones(1, 1, 4), torch.zeros(1, 1, 4)), "target has a sample that is all zero"),
        (lambda: RelativeH1Loss()(torch.ones(1, 1, 4), torch.full((1, 1, 4), torch.inf)), "target has a sample"),
        (lambda: RelativeH1Loss()(torch.ones(0, 1, 4), torch.ones(0, 1, 4)), "prediction has shape"),
        (lambda: DifferenceH1Loss()(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4)), "two nodes or more"),
        (lambda: RelativeL2Loss()(torch.ones(1, 1, 4), torch.ones(1, 1, 5)), "prediction has shape"),
        (lambda: RelativeH1Loss(kmax=0), "kmax is 0"),
        (lambda: RelativeH1Loss(reduction="max"), "reduction is 'max'"),
        (lambda: DifferenceH1Loss(-1.0), "weight is"),
        (lambda: FieldNormalizer.of(torch.ones(1, 1, 4)), "fields has shape"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("untyped")
def test_other_types_are_refused():
    for bad in (torch.zeros(1, 1, 16, 16, dtype=torch.int64), torch.zeros(1, 1, 16, 16, dtype=torch.complex64)):
        for module in (MgNO(), MultigridConv(1, 1)):
            with pytest.raises(TypeError, match="real floating-point"):
                module(bad)
    with pytest.raises(TypeError, match="layer is a Conv2d"):
        as_linear_operator(nn.Conv2d(1, 1, 3), (8, 8))
    for mode in (None, ("zeros", None)):
        with pytest.raises(TypeError, match="padding_mode is"):
            MultigridConv(1, 1, padding_mode=mode)
    for dtype in (torch.int64, torch.complex64):
        y = torch.ones(2, 1, 4, 4, dtype=dtype)
        for loss in (RelativeL2Loss(), RelativeH1Loss(), DifferenceH1Loss()):
            with pytest.raises(TypeError, match="prediction is of type"):
                loss(y, y)
        with pytest.raises(TypeError, match="fields is of type"):
            FieldNormalizer.of(y)


@pytest.mark.parametrize("loss", [RelativeL2Loss("mean"), RelativeH1Loss(reduction="mean")], ids=["L2", "H1"])
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e300, torch.float64), (1e-300, torch.float64), (1e37, torch.float32), (1e-37, torch.float32), (99, torch.half)],
)
def test_relative_errors_know_no_unit(loss, scale, dtype):
    y = randn(2, 1, 65, 64).clamp(-4, 4)
    p = y + 0.25 * y.roll(1, -1)
    found = loss((p * scale).to(dtype), (y * scale).to(dtype))
    assert found.dtype == dtype
    assert found.item() == pytest.approx(loss(p, y).item(), rel=2e-3 if dtype == torch.half else 1e-5)


@pytest.mark.parametrize("loss", [RelativeL2Loss(), RelativeH1Loss(), DifferenceH1Loss()], ids=["L2", "H1", "FD"])
def test_where_there_is_no_error_the_gradient_is_zero(loss):
    y = randn(2, 1, 6, 6)
    p = y.clone().requires_grad_()
    loss(p, y).backward()
    assert not p.grad.any()


@pytest.mark.parametrize("shape", [(64,), (33, 48), (9, 10, 12)])
def test_the_sobolev_loss_is_that_of_its_definition(shape):
    p, y = randn(2, 3, 2, *shape)
    waves = np.meshgrid(*[np.fft.fftfreq(n, 1 / n) for n in shape], indexing="ij")
    weight = np.sqrt(1 + sum(np.where(np.abs(k) < 20, k, 0) ** 2 for k in waves))
    transformed = [np.fft.fftn(x.numpy(), axes=range(2, 2 + len(shape))) * weight for x in (p - y, y)]
    wanted = np.divide(*(np.linalg.norm(x.reshape(3, -1), axis=1) for x in transformed))
    np.testing.assert_allclose(RelativeH1Loss(reduction="none")(p, y), wanted, rtol=1e-12)
    assert RelativeH1Loss()(p, y).item() == pytest.approx(wanted.sum())
    assert RelativeH1Loss(beta=0, reduction="mean")(p, y).item() == pytest.approx(RelativeL2Loss("mean")(p, y).item())
    assert RelativeH1Loss()(p.float(), y.float()).dtype == torch.float32


def test_the_loss_of_differences_is_exact_for_planes():
    n = 20
    x = torch.linspace(0, 1 - 1 / n, n, dtype=torch.float64)
    error = (2 * x[:, None] - 3 * x[None]).reshape(1, 1, n, n)
    wanted = (10 * error.square().sum() + 13 * n**2).sqrt()
    torch.testing.assert_close(DifferenceH1Loss()(error, torch.zeros_like(error)), wanted)


@pytest.mark.parametrize("pointwise", [True, False])
def test_scaling_is_undone(pointwise):
    fields = 5 + 3 * randn(64, 2, 6, 6)
    scale = FieldNormalizer.of(fields, pointwise)
    code = scale.encode(fields)
    assert scale.mean.shape == ((1, 2, 6, 6) if pointwise else (1, 2, 1, 1))
    torch.testing.assert_close(scale.decode(code), fields)
    assert code.mean().abs() < 1e-10
    assert code.std() == pytest.approx(1, abs=0.02)
    same = FieldNormalizer.of(torch.ones(3, 1, 4))
    assert not same.encode(torch.ones(3, 1, 4)).any()
