"""NeuralStagger: pieces, modes, residuals against exact solutions, training without labels, the limit by scale."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from torch import nn

from paperworks.numerics import seeded, torch_generator
from paperworks.operators import (
    AdvectionDiffusion,
    Burgers,
    DilatedResNet,
    Heat,
    NavierStokesVelocity,
    NavierStokesVorticity,
    NeuralStagger,
    PeriodicUNet,
    RolloutDiverged,
    StatePool,
    late_growth,
    physics_loss,
    physics_train,
    recommend_factor,
    stagger_information_loss,
    stagger_merge,
    stagger_split,
)
from paperworks.testbeds import PeriodicGrid, advection_diffusion, burgers, navier_stokes, sine_fields

untyped = pytest.mark.usefixtures("untyped")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fields(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch_generator(seed))


def backbone(channels=1, heads=1, dims=1, extra=0, width=6):
    """A small periodic network in double precision."""
    convolution = CONVOLUTIONS[dims - 1]

    def make():
        return nn.Sequential(
            convolution(channels + extra, width, 3, padding=1, padding_mode="circular"),
            nn.Tanh(),
            convolution(width, heads * channels, 3, padding=1, padding_mode="circular"),
        ).double()

    return make


def solver(factors, time_factor=1, *, seed=0, **options):
    """A solver that isn't the identity any more."""
    heads = time_factor if options.get("temporal") == "bundle" else 1
    channels, extra = options.get("channels", 1), int("mask" in options)
    with seeded(seed):
        made = backbone(channels, heads, len(factors), extra)
        return NeuralStagger(made, factors, time_factor, zero_init=False, **options)


class TestPieces:
    @given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3), st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_merging_gives_back_what_was_split(self, axes, seed):
        factors = tuple(s for s, _ in axes)
        u = fields(2, 3, *(s * n for s, n in axes), seed=seed)
        pieces = stagger_split(u, factors)
        assert pieces.shape == (2, math.prod(factors), 3, *(n for _, n in axes))
        assert torch.equal(stagger_merge(pieces, factors), u)

    def test_a_piece_is_every_second_point_from_its_offset(self):
        u = fields(1, 1, 6, 8)
        pieces = stagger_split(u, (3, 2))
        for i in range(3):
            for j in range(2):
                assert torch.equal(pieces[:, 2 * i + j], u[:, :, i::3, j::2])

    def test_in_the_plane_it_is_the_pixel_shuffle(self):
        u = fields(2, 1, 8, 8)
        assert torch.equal(stagger_split(u, 2)[:, :, 0], nn.functional.pixel_unshuffle(u, 2))

    @untyped
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: stagger_split(fields(1, 1, 9), 2), "divide"),
            (lambda: stagger_split(fields(1, 1, 8), (2, 2)), "factors has 2"),
            (lambda: stagger_split(fields(1, 8), 2), "u has shape"),
            (lambda: stagger_split(fields(1, 1, 8), 0), "factors is 0"),
            (lambda: stagger_merge(fields(1, 3, 1, 4), 2), "3 pieces"),
            (lambda: stagger_merge(fields(1, 3, 1), 2), "pieces has shape"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.int32, torch.bool])
    def test_any_type_in_any_order_of_memory_is_kept(self, dtype):
        u = torch.arange(96).reshape(8, 6, 1, 2).permute(3, 2, 0, 1).to(dtype)
        assert not u.is_contiguous()
        pieces = stagger_split(u, (4, 3))
        assert pieces.dtype == dtype
        assert torch.equal(stagger_merge(pieces, (4, 3)), u)
        assert stagger_split(u[:0], 2).shape == (0, 4, 1, 4, 3)


class TestSolver:
    @pytest.mark.parametrize("share", [False, True])
    @pytest.mark.parametrize("factors", [(4,), (2, 2), (2, 1, 2)])
    def test_each_piece_goes_through_its_own_network(self, factors, share):
        model = solver(factors, channels=2, share_weights=share)
        u = fields(3, 1, 2, *[8] * len(factors))
        pieces = stagger_split(u[:, 0], factors)
        by_hand = [pieces[:, i] + model.networks[0 if share else i](pieces[:, i]) for i in range(model.pieces)]
        torch.testing.assert_close(model(u)[:, 0], stagger_merge(torch.stack(by_hand, 1), factors))

    @pytest.mark.parametrize("temporal", ["interleave", "bundle"])
    def test_grouped_networks_are_the_single_ones(self, temporal):
        one = solver((2, 2), 3, temporal=temporal, grouped=False)
        many = solver((2, 2), 3, temporal=temporal, grouped=True)
        u = fields(2, 3, 1, 8, 8)
        torch.testing.assert_close(one(u), many(u))
        torch.testing.assert_close(*(_gradient(model, u) for model in (one, many)))

    @pytest.mark.parametrize(
        "network",
        [
            lambda: nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.GELU(), nn.Conv1d(4, 1, 3, padding=1)),
            lambda: DilatedResNet(1, 1, width=8),
            lambda: PeriodicUNet(1, 1, width=8, multipliers=(1, 2)),
        ],
    )
    def test_before_training_nothing_changes(self, network):
        u = torch.randn(2, 1, 1, 32)
        assert torch.equal(NeuralStagger(network, (2,))(u), u)

    def test_a_bundle_begins_from_the_last_state(self):
        model = NeuralStagger(backbone(heads=3), (2,), 3, temporal="bundle")
        u = fields(2, 3, 1, 8)
        assert torch.equal(model(u), u[:, -1:].expand(2, 3, 1, 8))
        moved = solver((2,), 3, temporal="bundle")
        assert torch.equal(moved(u), moved(u[:, -1:]))

    def test_shared_weights_commute_with_shifts(self):
        model, u = solver((4,), share_weights=True), fields(2, 1, 1, 32)
        torch.testing.assert_close(model(u.roll(3, -1)), model(u).roll(3, -1))
        apart = solver((4,))
        assert not torch.allclose(apart(u.roll(3, -1)), apart(u).roll(3, -1))

    @pytest.mark.parametrize("grouped", [False, True])
    def test_statistics_of_normalisation_are_learnt(self, grouped):
        model = NeuralStagger(lambda: nn.BatchNorm1d(1), (2,), grouped=grouped)
        u = torch.randn(4, 1, 1, 8) + 5
        model(u)
        for i, network in enumerate(model.networks):
            torch.testing.assert_close(network.running_mean[0], 0.1 * u[..., i::2].mean())
        model.eval()
        pieces = stagger_split(u[:, 0], 2)
        by_hand = torch.stack([pieces[:, i] + network(pieces[:, i]) for i, network in enumerate(model.networks)], 1)
        torch.testing.assert_close(model(u)[:, 0], stagger_merge(by_hand, 2))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_a_state_dict_makes_the_same_solver_in_the_same_precision(self, dtype):
        mask = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1])
        with seeded(0):
            one = NeuralStagger(backbone(extra=1), (2,), zero_init=False, mask=mask).to(dtype)
        other = NeuralStagger(backbone(extra=1), (2,), mask=torch.ones(8)).to(dtype)
        other.load_state_dict(one.state_dict())
        u = fields(2, 1, 1, 8).to(dtype)
        assert other(u).dtype == dtype
        assert torch.equal(other(u), one(u))
        assert torch.equal(copy.deepcopy(one)(u), one(u))

    def test_obstacles_stay_as_they_are_and_are_seen(self):
        mask = torch.ones(8, 8)
        mask[2:5, 3:6] = 0
        model, u = solver((2, 2), mask=mask), fields(2, 1, 1, 8, 8)
        new = model(u)
        assert torch.equal(new[..., 2:5, 3:6], u[..., 2:5, 3:6])
        assert (new != u)[..., mask.bool()].all()
        seen = torch.cat(
            [stagger_split(u[:, 0], 2), stagger_split(mask[None, None].double(), 2).expand(2, 4, 1, 4, 4)], 2
        )
        by_hand = model.networks[1](seen[:, 1]) * seen[:, 1, 1:] + stagger_split(u[:, 0], 2)[:, 1]
        torch.testing.assert_close(stagger_split(new[:, 0], 2)[:, 1], by_hand)

    @pytest.mark.parametrize(("boundary", "beyond"), [("neumann", None), (0.7, 0.7), ("periodic", None)])
    def test_every_piece_is_padded_by_what_lies_beyond(self, boundary, beyond):
        with seeded(0):
            model = NeuralStagger(
                lambda: nn.Conv1d(1, 1, 3, padding=1).double(), (2,), zero_init=False, boundary=boundary, halo=1
            )
        u = fields(1, 1, 1, 8)
        piece = stagger_split(u[:, 0], 2)[:, 1]
        mode = {"neumann": "replicate", "periodic": "circular"}.get(str(boundary), "constant")
        padded = nn.functional.pad(piece, (1, 1), mode, beyond)
        network = model.networks[1]
        by_hand = piece + nn.functional.conv1d(padded, network.weight, network.bias)
        torch.testing.assert_close(model(u)[0, 0, :, 1::2], by_hand[0])

    def test_boundaries_differ_from_axis_to_axis(self):
        with seeded(0):
            model = NeuralStagger(
                lambda: nn.Conv2d(1, 1, 3).double(), (2, 2), zero_init=False, boundary=("periodic", 0.0), halo=1
            )
        with pytest.raises(ValueError, match="backbone returned"):  # it doesn't keep the size of what it sees
            model(fields(1, 1, 1, 8, 8))
        with seeded(0):
            same = NeuralStagger(
                lambda: nn.Conv2d(1, 1, 3, padding=1).double(), (2, 2), zero_init=False,
                boundary=("periodic", 0.0), halo=1,
            )  # fmt: skip
        u = fields(1, 1, 1, 8, 8)
        torch.testing.assert_close(same(u.roll(2, -2)), same(u).roll(2, -2))
        assert not torch.allclose(same(u.roll(2, -1)), same(u).roll(2, -1))

    @untyped
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: NeuralStagger(backbone(), (2,), 0), ValueError, "time_factor is 0"),
            (lambda: NeuralStagger(backbone(), (2,), temporal="other"), ValueError, "temporal"),
            (lambda: NeuralStagger(backbone(), (2,), boundary="wall"), ValueError, "boundary"),
            (lambda: NeuralStagger(backbone(), (2,), boundary=("periodic", "neumann")), ValueError, "2 kinds"),
            (lambda: NeuralStagger(backbone(), (2,), mask=torch.ones(7)), ValueError, "divide"),
            (lambda: NeuralStagger(backbone(), (2,), mask=torch.ones(8, 8)), ValueError, "mask has shape"),
            (lambda: NeuralStagger(lambda: 3, (2,)), TypeError, "backbone_factory"),
            (lambda: NeuralStagger(lambda made=backbone()(): made, (2,)), ValueError, "one module twice"),
            (lambda: NeuralStagger(backbone(), (2,), mask=torch.full((8,), 0.5)), ValueError, "mask takes"),
            (lambda: NeuralStagger(backbone(), (2,), mask=torch.zeros(8)), ValueError, "mask takes"),
            (lambda: NeuralStagger(backbone(), (2,), mask=np.ones(8)), TypeError, "mask is ndarray"),
            (lambda: NeuralStagger(backbone(), (2,), halo=5)(fields(1, 1, 1, 8)), ValueError, "halo is 5"),
            (lambda: solver((2,)).advance(fields(1, 1, 0, 1, 8), []), ValueError, "pieces has shape"),
            (lambda: solver((2,)).advance(fields(1, 1, 2, 3, 8)), ValueError, "pieces has shape"),
            (lambda: solver((2,), 2, temporal="bundle")(fields(1, 0, 1, 8)), ValueError, "pieces has shape"),
            (lambda: solver((2,))(fields(1, 1, 1, 7)), ValueError, "divide"),
            (lambda: solver((2,))(fields(1, 2, 1, 8)), ValueError, "block has shape"),
            (lambda: solver((2,))(fields(1, 1, 2, 8)), ValueError, "block has shape"),
            (lambda: solver((2,)).advance(fields(1, 1, 2, 1, 8), [0]), ValueError, "pieces has shape"),
            (lambda: solver((2,)).advance(fields(1, 1, 1, 1, 8), [2]), ValueError, "below 2"),
            (lambda: solver((2,), mask=torch.ones(8))(fields(1, 1, 1, 16)), ValueError, "mask"),
            (lambda: solver((2,), 2).rollout(fields(1, 1, 8), 4), ValueError, "warmup is None"),
            (lambda: solver((2,), 2).rollout(fields(1, 1, 8), 3, mode="coarsest"), ValueError, "multiple"),
            (lambda: solver((2,), 2).rollout(fields(1, 1, 8), 4, lambda u, n: u), ValueError, "warmup returned"),
            (lambda: solver((2,)).rollout(fields(1, 1, 8), 4, mode="fast"), ValueError, "mode"),
            (lambda: solver((2,)).rollout(fields(1, 1, 8), 4, piece=2), ValueError, "piece"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


def _gradient(model, u):
    model.zero_grad()
    model(u).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


class TestModes:
    @pytest.mark.parametrize("temporal", ["interleave", "bundle"])
    @pytest.mark.parametrize("factors", [(4,), (2, 2)])
    def test_coarse_modes_are_samples_of_the_full_one(self, factors, temporal):
        model = solver(factors, 3, temporal=temporal)
        u0 = fields(2, 1, *[8] * len(factors))
        warmup = lambda u, n: torch.stack([u * (1 - 0.1 * k) for k in range(1, n + 1)], 1)  # noqa: E731
        full = model.rollout(u0, 9, warmup)
        assert full.shape == (2, 10, 1, *[8] * len(factors))
        assert torch.equal(full[:, 0], u0)
        if temporal == "interleave":
            assert torch.equal(full[:, 1:3], warmup(u0, 2))
        every_third = model.rollout(u0, 9, mode="coarse-time")
        torch.testing.assert_close(every_third, full[:, ::3])
        for piece in (0, model.pieces - 1):
            sampled = stagger_split(full.flatten(0, 1), factors)[:, piece].unflatten(0, (2, 10))
            torch.testing.assert_close(model.rollout(u0, 9, warmup, "coarse-space", piece), sampled)
            torch.testing.assert_close(model.rollout(u0, 9, mode="coarsest", piece=piece), sampled[:, ::3])

    @pytest.mark.parametrize("temporal", ["interleave", "bundle"])
    @pytest.mark.parametrize("boundary", ["periodic", "neumann", 0.3])
    @pytest.mark.parametrize(("share", "grouped"), [(True, False), (False, False), (False, True)])
    def test_they_are_with_obstacles_and_any_boundary(self, temporal, boundary, share, grouped):
        mask = torch.ones(8, 12)
        mask[2:5, 3:7] = 0
        model = solver(
            (2, 3), 2, temporal=temporal, boundary=boundary, halo=2, share_weights=share, grouped=grouped, mask=mask
        )
        u0, warmup = 0.1 * fields(2, 1, 8, 12), lambda u, n: u[:, None].expand(-1, n, -1, -1, -1) * 0.9
        full = model.rollout(u0, 4, warmup)
        torch.testing.assert_close(model.rollout(u0, 4, mode="coarse-time"), full[:, ::2])
        pieces = stagger_split(full.flatten(0, 1), (2, 3)).unflatten(0, full.shape[:2])
        for piece in range(6):
            torch.testing.assert_close(model.rollout(u0, 4, warmup, "coarse-space", piece), pieces[:, :, piece])
            torch.testing.assert_close(model.rollout(u0, 4, mode="coarsest", piece=piece), pieces[:, ::2, piece])

    def test_any_number_of_steps_is_the_start_of_more(self):
        model, warmup = solver((2,), 3), lambda u, n: u[:, None].expand(-1, n, -1, -1)
        u0 = fields(1, 1, 8)
        longest = model.rollout(u0, 8, warmup)
        for n in range(1, 8):
            torch.testing.assert_close(model.rollout(u0, n, warmup), longest[:, : n + 1])

    def test_gradients_flow_through_a_rollout(self):
        model, u0 = solver((2,), 2), fields(1, 1, 8).requires_grad_()
        torch.autograd.gradcheck(lambda u: model.rollout(u, 4, lambda v, n: v[:, None]), u0)

    def test_what_came_before_a_divergence_is_kept(self):
        class Explodes(nn.Module):
            def forward(self, x):
                return x * 1e200

        model = NeuralStagger(Explodes, (2,))
        with pytest.raises(RolloutDiverged) as caught:
            model.rollout(torch.ones(2, 1, 8, dtype=torch.float64), 5)
        assert caught.value.step == 2
        assert caught.value.states.shape == (2, 2, 1, 8)
        assert torch.isfinite(caught.value.states).all()

    def test_a_bundle_diverges_at_its_own_time_and_only_if_asked_for(self):
        class Later(nn.Module):
            def forward(self, x):
                return torch.cat([x * 0, x * math.inf], 1)

        model, u0 = NeuralStagger(Later, (2,), 2, temporal="bundle"), torch.ones(2, 1, 8)
        assert model.rollout(u0, 1).shape == (2, 2, 1, 8)
        with pytest.raises(RolloutDiverged) as caught:
            model.rollout(u0, 3)
        assert caught.value.step == 2
        assert torch.equal(caught.value.states, torch.ones(2, 2, 1, 8))


def wave(n, seed=0, dims=1, batch=2):
    """Smooth fields with one channel."""
    grid = PeriodicGrid([n] * dims, 1.0)
    return sine_fields(grid, batch, generator=torch_generator(seed))[:, None]


class TestResiduals:
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_exact_transport_has_no_residual(self, dims):
        c, d = [0.7, -0.4, 0.2][:dims], 0.02
        exact = advection_diffusion([16] * dims, c, d).simulate(wave(16, dims=dims)[:, 0], 0.1, 3)
        residual = AdvectionDiffusion([16] * dims, 0.1, c, d)
        assert residual.along(exact[:, :, None]).abs().max() < 1e-12
        assert residual(exact[:, :1], exact[:, 2:3]).abs().max() > 1e-3

    @pytest.mark.parametrize("edge", ["periodic", "dirichlet", "neumann"])
    def test_central_differences_of_heat_are_those_of_a_matrix(self, edge):
        n, h = 12, 1 / 12
        matrix = np.diag(np.full(n, -2.0)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
        if edge == "periodic":
            matrix[0, -1] = matrix[-1, 0] = 1
        else:  # the value beyond a face is the mirrored one, or its negative
            matrix[0, 0] = matrix[-1, -1] = -3 if edge == "dirichlet" else -1
        step = torch.from_numpy(expm(0.3 * 0.01 * matrix / h**2))
        u = fields(4, 1, n)
        residual = Heat(n, 0.01, 0.3, boundary=edge, derivatives="central")
        torch.testing.assert_close(residual(u, torch.zeros_like(u)), -(u @ step.T))
        theta = Heat(n, 0.01, 0.3, boundary=edge, derivatives="central", scheme="theta", theta=0.7)
        v, slope = fields(4, 1, n, seed=1), torch.from_numpy(0.3 * matrix / h**2)
        by_hand = v - u - 0.01 * (0.7 * v @ slope.T + 0.3 * u @ slope.T)
        torch.testing.assert_close(theta(u, v), by_hand)

    @pytest.mark.parametrize("scheme", ["exponential", "theta"])
    def test_a_step_of_burgers_is_second_order(self, scheme):
        u0, truth = wave(64), burgers(64, 0.05).simulate(wave(64)[:, 0], 0.2, 1, 400)[:, 1]
        errors = []
        for n in (20, 40, 80):
            residual = Burgers(64, 0.2 / n, 0.05, scheme=scheme)
            states = residual.solve(u0, n, corrections=12)
            assert residual.along(torch.cat([u0[:, None], states], 1)).abs().max() < 1e-9
            errors.append(float((states[:, -1, 0] - truth).abs().max()))
        assert 1.8 < math.log2(errors[0] / errors[1]) < 2.6
        assert 1.8 < math.log2(errors[1] / errors[2]) < 2.3

    @pytest.mark.parametrize("scheme", ["exponential", "theta"])
    def test_the_residual_of_an_exact_solution_is_third_order(self, scheme):
        equation, sizes = burgers(64, 0.05), []
        for dt in (0.01, 0.005):
            states = equation.simulate(wave(64)[:, 0], dt, 1, 100)
            sizes.append(float(Burgers(64, dt, 0.05, scheme=scheme).along(states[:, :, None]).abs().max()))
        assert 2.6 < math.log2(sizes[0] / sizes[1]) < 3.3

    def test_crank_and_nicolson_hardly_damp_the_smallest_wave(self):
        """What a piece can't see: with the integrating factor it is gone after a step."""
        saw = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(64)[None, None]
        old = Burgers(128, 0.01, 0.01, scheme="theta").solve(saw, 1, 1)[0, 0, 0] / saw[0, 0]
        k = math.pi * 128
        assert float(old[0]) == pytest.approx((1 - 0.01 * k**2 * 0.005) / (1 + 0.01 * k**2 * 0.005), rel=1e-6)
        new = Burgers(128, 0.01, 0.01).solve(saw, 1, 1)[0, 0, 0] / saw[0, 0]
        assert float(new[0]) == pytest.approx(math.exp(-0.01 * k**2 * 0.01), abs=1e-9)

    def test_central_differences_come_near_the_spectral_ones(self):
        u0 = wave(32)
        apart = []
        for n in (64, 128):
            u0 = wave(n)
            a, b = (Burgers(n, 0.01, 0.05, derivatives=d)(u0, u0) for d in ("spectral", "central"))
            apart.append(float((a - b).abs().max()))
        assert 1.7 < math.log2(apart[0] / apart[1]) < 2.3

    def test_burgers_is_cole_and_hopfs_solution(self):
        nu, k = 0.05, 2 * math.pi
        x = torch.arange(128, dtype=torch.float64) / 128

        def exact(t):
            small = 0.5 * math.exp(-nu * k**2 * t)
            return (2 * nu * k * small * (k * x).sin() / (1 + small * (k * x).cos()))[None]

        errors = [
            float((Burgers(128, dt, nu).solve(exact(0), n)[-1] - exact(0.2)).abs().max())
            for n, dt in ((10, 0.02), (20, 0.01))
        ]
        assert errors[1] < 5e-5
        assert 1.7 < math.log2(errors[0] / errors[1]) < 2.3

    @pytest.mark.parametrize("n", [8, 15])
    def test_taylor_and_greens_vorticity_has_no_residual(self, n):
        x = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
        vortices = (2 * x.sin()[:, None] * x.sin())[None]
        residual = NavierStokesVorticity(n, 0.1, 0.1, 2 * math.pi)
        assert residual(vortices, vortices * math.exp(-0.02)).abs().max() < 1e-13

    @pytest.mark.parametrize("edge", ["periodic", "dirichlet", "neumann"])
    @pytest.mark.parametrize("n", [9, 16])
    def test_heat_decays_as_its_kernel_says(self, edge, n):
        x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        k = 2 * math.pi if edge == "periodic" else math.pi
        start = ((k * x).cos() if edge == "neumann" else (k * x).sin())[None]
        assert Heat(n, 0.1, 0.3, boundary=edge)(start, start * math.exp(-0.03 * k**2)).abs().max() < 1e-13

    @pytest.mark.parametrize("dims", [2, 3])
    def test_projected_velocities_of_odd_and_oblong_grids_have_no_divergence(self, dims):
        residual = NavierStokesVelocity([5, 8, 9][:dims], 0.01, length=[1.0, 1.3, 1.6][:dims])
        u = residual.project(fields(2, dims, *residual.points))
        assert residual.divergence(u).abs().max() < 1e-10
        assert residual.divergence(residual.solve(u, 3)).abs().max() < 1e-10

    def test_a_call_in_inference_mode_leaves_gradients_to_others(self):
        residual = Burgers(16, 0.01)
        with torch.inference_mode():
            residual.solve(torch.zeros(1, 16), 1)
        u = torch.ones(1, 16, requires_grad=True)
        residual(u, u).square().sum().backward()
        assert torch.isfinite(u.grad).all()

    @untyped
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.complex64])
    def test_what_has_no_transform_is_refused(self, dtype):
        u = torch.ones(1, 16, dtype=dtype)
        for call in (lambda: Heat(16, 0.1)(u, u), lambda: Burgers(16, 0.1).solve(u, 1)):
            with pytest.raises(TypeError, match=r"takes torch\.float32"):
                call()

    def test_vorticity_moves_as_the_reference_solver_moves_it(self):
        x = torch.arange(32, dtype=torch.float64) / 32
        phase = 2 * math.pi * (x[:, None] + x)
        force = 0.1 * (phase.sin() + phase.cos())
        u0 = 5 * wave(32, dims=2)
        truth = navier_stokes(32, 1e-2, forcing=force).simulate(u0[:, 0], 0.1, 1, 200)[:, 1]
        errors = []
        for n in (10, 20):
            residual = NavierStokesVorticity(32, 0.1 / n, 1e-2, forcing=force)
            errors.append(float((residual.solve(u0, n, corrections=6)[:, -1, 0] - truth).abs().max()))
        assert errors[1] < 1e-3
        assert 1.8 < math.log2(errors[0] / errors[1]) < 2.3

    @pytest.mark.parametrize("dims", [2, 3])
    def test_velocities_keep_momentum_and_energy_and_are_projected(self, dims):
        residual = NavierStokesVelocity([8] * dims, 0.01, 0.0)
        u = residual.project(fields(2, dims, *[8] * dims))
        assert residual.divergence(u).abs().max() < 1e-12
        torch.testing.assert_close(residual.project(u), u)
        flux = residual._fluxes(u)
        axes = tuple(range(2, 2 + dims))
        assert flux.sum(axes).abs().max() < 1e-10
        assert (flux * u).sum().abs() < 1e-10 * float(u.square().sum())
        # The pressure's gradient takes off exactly what the projection takes off.
        gradient = torch.stack(
            [(residual.pressure(u) - residual.pressure(u).roll(1, a)) * 8 for a in range(-dims, 0)], 1
        )
        torch.testing.assert_close(-flux - gradient, residual.project(-flux))

    def test_taylor_and_green_decay_in_three_dimensions(self):
        """Their vortices stay in the plane and decay as exp(-2 nu k^2 t), to the second order of the spacing."""
        errors = []
        for n in (8, 16):
            residual = NavierStokesVelocity((n, n, 4), 0.02, 0.05, 2 * math.pi)
            face = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
            middle = face + math.pi / n
            u = (face.sin()[:, None] * middle.cos())[:, :, None].expand(n, n, 4)
            v = -(middle.cos()[:, None] * face.sin())[:, :, None].expand(n, n, 4)
            start = torch.stack([u, v, torch.zeros_like(u)])
            assert residual.divergence(start).abs().max() < 1e-12
            end = residual.solve(start, 50)[-1]
            errors.append(float((end - start * math.exp(-0.1)).abs().max()))
            assert residual.divergence(end).abs().max() < 1e-10
        assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2

    def test_a_new_velocity_with_divergence_has_a_residual(self):
        residual = NavierStokesVelocity((8, 8, 8), 0.01)
        u0 = residual.project(fields(3, 8, 8, 8))
        u1 = residual.solve(u0, 1, corrections=20)[0]
        assert residual(u0, u1).abs().max() < 1e-9
        p = fields(8, 8, 8, seed=1)
        gradient = torch.stack([p - p.roll(1, a) for a in range(-3, 0)])
        assert residual(u0, u1 + gradient).abs().max() > 0.1

    def test_precision_is_kept(self):
        for dtype in (torch.float32, torch.float64):
            u = torch.randn(2, 1, 16, dtype=dtype)
            assert Burgers(16, 0.01)(u, u).dtype == dtype
            assert Burgers(16, 0.01).solve(u, 2).dtype == dtype

    def test_gradients_are_right(self):
        residual = NavierStokesVelocity((4, 4), 0.01)
        torch.autograd.gradcheck(residual, (fields(2, 4, 4).requires_grad_(), fields(2, 4, 4).requires_grad_()))

    @untyped
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: Heat(16, 0.0), "dt is 0"),
            (lambda: Heat(16, 0.1, -1.0), "diffusivity"),
            (lambda: Heat(2, 0.1), "points"),
            (lambda: Heat(16, 0.1, boundary="wall"), "boundary"),
            (lambda: Heat(16, 0.1, boundary=("periodic", "neumann")), "2 kinds"),
            (lambda: Heat(16, 0.1, length=(1.0, 1.0)), "2 sides"),
            (lambda: Heat(16, 0.1, scheme="euler"), "scheme"),
            (lambda: Heat(16, 0.1, theta=2.0), "theta"),
            (lambda: Heat(16, 0.1, derivatives="odd"), "derivatives"),
            (lambda: AdvectionDiffusion(16, 0.1, [1.0, 2.0]), "2 parts"),
            (lambda: Burgers(16, 0.1, 0.0), "nu"),
            (lambda: Burgers((8, 8), 0.1), "points has 2 axes"),
            (lambda: Heat((8, 8), 0.1, boundary=3), "boundary is 3"),
            (lambda: NavierStokesVorticity(8, 0.1, forcing=torch.full((8, 8), torch.nan)), "forcing has 64"),
            (lambda: NavierStokesVorticity([16], 0.1), "1 axes"),
            (lambda: NavierStokesVorticity(16, 0.1, forcing=torch.zeros(8, 8)), "forcing"),
            (lambda: NavierStokesVelocity([16], 0.1), "1 axis"),
            (lambda: NavierStokesVelocity([8, 8], 0.1, forcing=torch.zeros(3, 8, 8)), "forcing"),
            (lambda: Heat(16, 0.1)(fields(1, 16), fields(2, 16)), "u1 has shape"),
            (lambda: Heat(16, 0.1)(fields(1, 8), fields(1, 8)), "it takes"),
            (lambda: Heat(16, 0.1).along(fields(1, 1, 16)), "1 time"),
            (lambda: Heat(16, 0.1).solve(fields(1, 16), 0), "steps is 0"),
            (lambda: NavierStokesVelocity([8, 8], 0.1).divergence(fields(3, 8, 8)), "u has shape"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_too_long_a_step_is_said(self):
        with pytest.raises(FloatingPointError, match="lower dt"):
            Burgers(32, 10.0, 1e-3).solve(1e6 * wave(32), 20)


class TestLoss:
    @pytest.mark.parametrize("time_factor", [1, 3])
    def test_it_is_the_one_of_the_fine_grid(self, time_factor):
        model, residual = solver((4,), time_factor), Burgers(32, 0.01)
        block = fields(2, time_factor, 1, 32)
        new = model(block)
        states = torch.cat([block[:, -1:], new], 1)
        vanilla = sum(residual(states[:, k], states[:, k + 1]).square().mean() for k in range(time_factor))
        torch.testing.assert_close(physics_loss(residual, block, new), vanilla / time_factor)

    def test_obstacles_do_not_count(self):
        residual, mask = Heat((8, 8), 0.1), torch.ones(8, 8)
        mask[:4] = 0
        block, new = fields(1, 1, 1, 8, 8), fields(1, 1, 1, 8, 8, seed=1)
        by_hand = residual(block[:, 0], new[:, 0])[..., 4:, :].square().mean()
        torch.testing.assert_close(physics_loss(residual, block, new, mask), by_hand)

    @untyped
    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="predicted has shape"):
            physics_loss(Heat(8, 0.1), fields(1, 1, 1, 8), fields(2, 1, 1, 8))
        with pytest.raises(ValueError, match="mask has shape"):
            physics_loss(Heat(8, 0.1), fields(1, 1, 1, 8), fields(1, 1, 1, 8), torch.ones(4))
        with pytest.raises(ValueError, match="mask takes"):
            physics_loss(Heat(8, 0.1), fields(1, 1, 1, 8), fields(1, 1, 1, 8), torch.zeros(8))
        with pytest.raises(ValueError, match="predicted has shape"):
            physics_loss(Heat(8, 0.1), fields(1, 1, 1, 8), fields(1, 0, 1, 8))


def noise(count, generator):
    return torch.randn(count, 1, 1, 16, dtype=torch.float64, generator=generator)


class TestPool:
    def test_blocks_are_replaced_at_their_age(self):
        pool = StatePool(lambda n, generator: torch.zeros(n, 1, 1, 4), 3, max_age=2)
        rows = torch.tensor([0, 1])
        pool.put(rows, torch.ones(2, 1, 1, 4))
        assert pool.ages.tolist() == [1, 1, 0]
        assert pool.blocks[:, 0, 0, 0].tolist() == [1, 1, 0]
        pool.put(rows[:1], torch.full((1, 1, 1, 4), 2.0))
        assert pool.ages.tolist() == [0, 1, 0]
        assert pool.blocks[:, 0, 0, 0].tolist() == [0, 1, 0]

    def test_the_age_may_grow_with_the_step(self):
        pool = StatePool(lambda n, generator: torch.zeros(n, 1, 1, 4), 1, max_age=lambda step: 1 + step)
        for step, age in [(0, 0), (2, 1), (2, 2), (2, 0)]:
            pool.put(torch.tensor([0]), torch.ones(1, 1, 1, 4), step)
            assert pool.ages.item() == age

    def test_what_is_not_finite_is_dropped_and_counted(self):
        calls = []

        def sampler(count, generator):
            calls.append(count)
            fresh = torch.zeros(count, 1, 1, 4)
            if len(calls) == 1:
                fresh[0] = torch.inf
            return fresh

        pool = StatePool(sampler, 3, max_age=5)
        assert calls == [3, 1]
        assert pool.dropped == 1
        bad = torch.ones(3, 1, 1, 4)
        bad[1, 0, 0, 2] = torch.nan
        pool.put(torch.arange(3), bad)
        assert pool.dropped == 2
        assert pool.ages.tolist() == [1, 0, 1]
        assert pool.blocks[:, 0, 0, 0].tolist() == [1, 0, 1]

    def test_what_is_beyond_the_limit_has_diverged(self):
        pool = StatePool(lambda n, generator: torch.zeros(n, 1, 1, 4), 2, max_age=5, limit=2.0)
        pool.put(torch.arange(2), torch.tensor([2.0, -2.1]).reshape(2, 1, 1, 1).expand(2, 1, 1, 4))
        assert pool.dropped == 1
        assert pool.blocks[:, 0, 0, 0].tolist() == [2, 0]

    def test_of_a_longer_block_the_last_states_are_kept(self):
        pool = StatePool(lambda n, generator: torch.zeros(n, 1, 1, 4), 1, max_age=5)
        pool.put(torch.tensor([0]), torch.arange(3.0).reshape(1, 3, 1, 1).expand(1, 3, 1, 4))
        assert pool.blocks.unique().tolist() == [2.0]

    def test_a_state_is_of_its_own_time_and_gives_the_same_again(self):
        pool = StatePool(noise, 4, max_age=3, generator=torch_generator(0))
        state = pool.state_dict()

        def drawn():
            found = []
            for _ in range(6):
                rows, blocks = pool.draw(2)
                pool.put(rows, 2 * blocks)
                found.append(pool.blocks.clone())
            return torch.stack(found)

        once = drawn()
        pool.load_state_dict(state)
        assert torch.equal(drawn(), once)

    def test_draws_are_of_different_rows(self):
        rows, blocks = StatePool(noise, 8, generator=torch_generator(0)).draw(8)
        assert sorted(rows.tolist()) == list(range(8))
        assert blocks.shape == (8, 1, 1, 16)

    @pytest.mark.parametrize("steps", [7, 100])
    def test_growth_is_late_monotone_and_reaches_the_horizon(self, steps):
        ages = [late_growth(steps, 6)(step) for step in range(steps)]
        assert ages == sorted(ages)
        assert ages[-1] == 6
        assert set(ages[: steps // 2]) == {1}
        assert {late_growth(10, 1)(step) for step in range(10)} == {1}

    @untyped
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: StatePool(noise, 0), ValueError, "size"),
            (lambda: StatePool(noise, 2, max_age=0), ValueError, "max_age"),
            (lambda: StatePool(noise, 2, limit=0.0), ValueError, "limit"),
            (lambda: StatePool(noise, 2).draw(3), ValueError, "batch_size"),
            (lambda: StatePool(noise, 2).put(torch.tensor([0]), fields(1, 1, 2, 16)), ValueError, "blocks has shape"),
            (lambda: StatePool(lambda n, g: torch.zeros(1, 1, 1, 4), 2), ValueError, "sampler returned"),
            (lambda: StatePool(lambda n, g: torch.full((n, 1, 1, 4), torch.nan), 2), FloatingPointError, "in turn"),
            (lambda: StatePool(noise, 2).load_state_dict(StatePool(noise, 3).state_dict()), ValueError, "state has"),
            (lambda: StatePool(noise, 2).put(torch.tensor([0]), fields(16)), ValueError, "blocks has shape"),
            (lambda: StatePool(lambda n, g: np.zeros((n, 1, 1, 4)), 2), TypeError, "sampler returned ndarray"),
            (lambda: StatePool(lambda n, g: torch.ones(n, 1, 1, 4).int(), 2), TypeError, "sampler returned torch.int"),
            (
                lambda: StatePool(lambda n, g: torch.ones(n, 1, 1, 2 * n), 2).put(
                    torch.tensor([0]), fields(1, 1, 1, 4)
                ),
                ValueError,
                "sampler returned",
            ),
            (
                lambda: StatePool(noise, 2).load_state_dict(StatePool(noise, 2, 1, torch_generator(0)).state_dict()),
                ValueError,
                "generator of its own",
            ),
            (lambda: late_growth(10, 0), ValueError, "horizon"),
            (lambda: late_growth(10, 2, 1.5), ValueError, "fresh"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


def trained(steps=30, checkpoint=None, callback=None, temporal="interleave", time_factor=1):
    with seeded(0):
        made = backbone(heads=time_factor if temporal == "bundle" else 1)
        model = NeuralStagger(made, (2,), time_factor, temporal=temporal)
    residual = Burgers(16, 0.01, 0.05)

    def sampler(count, generator):
        grid = PeriodicGrid(16, 1.0)
        u0 = sine_fields(grid, count, frequencies=(1,), generator=generator)[:, None]
        warm = model.needed - 1
        return torch.cat([u0[:, None], residual.solve(u0, warm)], 1) if warm else u0[:, None]

    pool = StatePool(sampler, 16, late_growth(steps, 4), torch_generator(0))
    losses = physics_train(
        model, residual, pool, steps, batch_size=8, lr=5e-3, checkpoint=checkpoint, save_every=10, callback=callback
    )
    return model, pool, losses


class TestTraining:
    @pytest.mark.parametrize(
        ("temporal", "time_factor", "steps", "share"),
        [("interleave", 1, 200, 0.7), ("interleave", 3, 200, 0.7), ("bundle", 3, 400, 0.9)],
    )
    def test_without_labels_it_comes_nearer_to_the_truth(self, temporal, time_factor, steps, share):
        model, _, losses = trained(steps, temporal=temporal, time_factor=time_factor)
        assert losses[-20:].mean() < 0.5 * losses[:20].mean()
        u0 = wave(16, seed=5, batch=8)
        truth = burgers(16, 0.05).simulate(u0[:, 0], 0.01, 6, 20)[:, :, None]
        warmup = Burgers(16, 0.01, 0.05).solve
        rolled = model.rollout(u0, 6, warmup)
        assert (rolled - truth)[:, -1].norm() < share * (u0 - truth[:, -1]).norm()

    def test_a_resumed_training_is_the_uninterrupted_one(self, tmp_path):
        whole, pool, losses = trained()
        path = tmp_path / "training.pt"
        trained(checkpoint=path, callback=lambda step, loss: step == 14)
        again, other, resumed = trained(checkpoint=path)
        assert np.array_equal(losses, resumed)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        assert torch.equal(pool.blocks, other.blocks)
        assert np.array_equal(trained(checkpoint=path)[2], losses)  # done already
        assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]
        with pytest.raises(ValueError, match="of a training of 30 steps"):
            trained(20, checkpoint=path)

    def test_rows_that_explode_are_left_out_and_counted(self):
        class Sometimes(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

            def forward(self, block):
                bad = block.abs().amax((1, 2, 3), keepdim=True) > 3
                return block * self.scale * torch.where(bad, torch.inf, 1.0)

        def sampler(count, generator):
            blocks = torch.ones(count, 1, 1, 16, dtype=torch.float64)
            blocks[::4] = 4.0
            return blocks

        pool = StatePool(sampler, 8)
        losses = physics_train(Sometimes(), Heat(16, 0.1), pool, 3, batch_size=8)
        assert pool.dropped >= 2
        assert np.isfinite(losses).all()
        with pytest.raises(FloatingPointError, match="every prediction"):
            physics_train(Sometimes(), Heat(16, 0.1), StatePool(lambda n, g: sampler(n, g) * 5, 4), 3, batch_size=4)


class TestInformation:
    @staticmethod
    def problem(n=64, dims=1):
        k = np.fft.fftfreq(n, 1 / n)
        waves = np.meshgrid(*[k] * dims, indexing="ij")
        square = sum(w**2 for w in waves)
        power = (square + 9) ** -2.0
        odd = [np.where(2 * np.abs(w) == n, 0, w) for w in waves]
        return power, np.exp(-2j * np.pi * 0.03 * sum(odd) - 4 * np.pi**2 * square * 1e-4)

    @pytest.mark.parametrize("piece", [0, 3])
    def test_the_closed_form_is_what_regression_finds(self, piece):
        power, gain = self.problem()
        expected = stagger_information_loss(power, gain, 4)
        rng = np.random.default_rng(0)
        modes = np.fft.fft(rng.standard_normal((20_000, 64))) * np.sqrt(power)
        before, after = np.fft.ifft(modes).real, np.fft.ifft(modes * gain).real
        x, y = before[:, piece::4], after[:, piece::4]
        weights = np.linalg.lstsq(x, y, rcond=None)[0]
        found = np.sqrt(((x @ weights - y) ** 2).sum() / (y**2).sum())
        assert found == pytest.approx(expected, rel=0.01)

    def test_it_is_the_formula(self):
        power, gain = self.problem()
        p, g = power.reshape(4, 16), gain.reshape(4, 16)
        lost = (np.abs(g) ** 2 * p).sum(0) - np.abs((g * p).sum(0)) ** 2 / p.sum(0)
        expected = math.sqrt(lost.sum() / (np.abs(gain) ** 2 * power).sum())
        assert stagger_information_loss(power, gain, 4) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize(("n", "factors", "dims"), [(24, (3,), 1), (30, (5,), 1), (8, (2, 4), 2)])
    def test_it_is_what_is_left_of_the_covariance(self, n, factors, dims):
        power, gain = self.problem(n, dims)
        transform = np.fft.fft(np.eye(n)) / np.sqrt(n)
        if dims == 2:
            transform = np.kron(transform, transform)
        covariance = (transform.conj().T * power.ravel() @ transform).real
        move = (transform.conj().T * gain.ravel() @ transform).real
        places = np.arange(n**dims).reshape([n] * dims)
        left = whole = 0.0
        for offset in itertools.product(*map(range, factors)):
            at = places[tuple(slice(i, None, s) for i, s in zip(offset, factors, strict=True))].ravel()
            seen, both = covariance[np.ix_(at, at)], (move @ covariance)[np.ix_(at, at)]
            after = (move @ covariance @ move.T)[np.ix_(at, at)]
            left += np.trace(after - both @ np.linalg.solve(seen, both.T))
            whole += np.trace(after)
        expected = math.sqrt(left / whole)
        assert stagger_information_loss(power, gain, factors) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("unit", [1e-300, 1e-30, 1e300])
    def test_it_has_no_unit(self, unit):
        power, gain = self.problem()
        expected = stagger_information_loss(power, gain, 4)
        assert stagger_information_loss(unit * power, gain, 4) == pytest.approx(expected)
        assert stagger_information_loss(power, unit * gain, 4) == pytest.approx(expected)

    def test_nothing_is_lost_where_nothing_looks_alike(self):
        power, gain = self.problem(32, 2)
        assert stagger_information_loss(power, gain, 1) == pytest.approx(0, abs=1e-12)
        assert stagger_information_loss(power, np.full((32, 32), 0.7), 4) == pytest.approx(0, abs=1e-12)
        k = np.abs(np.fft.fftfreq(32, 1 / 32))
        low = power * (k[:, None] < 4) * (k < 4)
        assert stagger_information_loss(low, gain, (4, 4)) == pytest.approx(0, abs=1e-12)
        assert stagger_information_loss(low, gain, (8, 1)) > 1e-4

    @given(st.integers(0, 50))
    @settings(max_examples=15, deadline=None)
    def test_more_pieces_lose_more(self, seed):
        rng = np.random.default_rng(seed)
        power, gain = rng.random(32), rng.standard_normal(32)
        found = [stagger_information_loss(power, gain, s) for s in (1, 2, 4, 8, 16)]
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(found))
        assert found[-1] <= 1

    def test_the_factor_is_the_largest_that_is_good_enough(self):
        power, gain = self.problem()
        losses = {s: stagger_information_loss(power, gain, s) for s in (2, 4, 8, 16, 32)}
        for tol in (1e-9, 0.02, 0.05, 0.2, 1.0):
            expected = max([s for s, loss in losses.items() if loss <= tol], default=1)
            assert recommend_factor(power, gain, tol) == expected

    @untyped
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: stagger_information_loss(np.ones(8), np.ones(4), 2), "propagator has shape"),
            (lambda: stagger_information_loss(-np.ones(8), np.ones(8), 2), "below 0"),
            (lambda: stagger_information_loss(np.zeros(8), np.ones(8), 2), "zero everywhere"),
            (lambda: stagger_information_loss(np.ones(8), np.ones(8), 3), "divide"),
            (lambda: stagger_information_loss(1j * np.ones(8), np.ones(8), 2), "spectrum is complex"),
            (lambda: stagger_information_loss(np.ones([2] * 4), np.ones([2] * 4), 2), "one to three axes"),
            (lambda: recommend_factor(-np.ones(7), np.ones(7)), "below 0"),
            (lambda: recommend_factor(np.ones(8), np.ones(8), -1.0), "rtol"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()
