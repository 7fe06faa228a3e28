"""PDE-Refiner: variances to the last digit, posteriors, losses by hand, both forms, baselines, metrics, networks."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.numerics import seeded
from paperworks.operators import (
    AdditiveScheduler,
    DenoisingStepper,
    DilatedResNet,
    ErrorCorrection,
    OneStepMSE,
    PDERefiner,
    PeriodicUNet,
    PushForward,
    RefinerScheduler,
    RolloutDiverged,
    VarianceScheduler,
    channel_conditioned,
    correlation,
    high_correlation_time,
    pairwise_correlation,
    sobolev_error,
    spectral_error,
    squared_error,
    time_above,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fields(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng(seed))


def levels_of(*levels: int) -> torch.Tensor:
    return torch.tensor(levels)


class TestVariances:
    def test_those_of_the_paper(self):
        scheduler = RefinerScheduler(3, 4e-7)
        assert scheduler.betas == pytest.approx([4.0e-7, 5.4288352e-5, 7.3680630e-3, 1.0], rel=1e-7)
        roots = [math.sqrt(v) for v in scheduler.noise_variances]
        assert roots == pytest.approx([6.3246e-4, 7.3953e-3, 8.6153e-2, 1.0], rel=1e-4)
        assert scheduler.alphas_cumprod[-1] == 0
        assert scheduler.timesteps == (3, 2, 1, 0)

    @pytest.mark.parametrize(("levels", "betas"), [(0, [1.0]), (1, [1e-4, 1.0]), (2, [1e-4, 1e-2, 1.0])])
    def test_few_levels(self, levels, betas):
        assert RefinerScheduler(levels, 1e-4).betas == pytest.approx(betas, rel=1e-12)
        sigmas = AdditiveScheduler(levels, 1e-4).sigmas
        assert sigmas[1:] == pytest.approx([1e-4 ** (k / levels) for k in range(1, levels + 1)], rel=1e-12)

    @given(st.integers(1, 9), st.floats(1e-9, 0.5))
    @settings(max_examples=30, deadline=None)
    def test_signal_and_noise_share_the_variance_and_small_ones_keep_their_digits(self, levels, smallest):
        scheduler = RefinerScheduler(levels, smallest)
        assert scheduler.alphas_cumprod + scheduler.noise_variances == pytest.approx(1, abs=1e-15)
        assert scheduler.noise_variances[0] == pytest.approx(smallest, rel=1e-12)
        assert (scheduler.noise_variances[1:] > scheduler.noise_variances[:-1]).all()

    def test_single_precision_gets_the_rounded_roots(self):
        scheduler = RefinerScheduler(3, 4e-7)
        noisy = scheduler.add_noise(torch.zeros(1, 1, 4), torch.ones(1, 1, 4), levels_of(0))
        assert float(noisy[0, 0, 0]) == pytest.approx(math.sqrt(4e-7), rel=1e-7)

    @pytest.mark.parametrize("scheduler", [RefinerScheduler, AdditiveScheduler])
    @pytest.mark.parametrize(
        ("call", "message"),
        [((-1,), "num_refinement_steps is -1"), ((3, 0.0), "min_noise is 0"), ((3, 1.0), "min_noise")],
    )
    def test_levels_out_of_range_are_refused(self, scheduler, call, message):
        with pytest.raises(ValueError, match=message):
            scheduler(*call)

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize("scheduler", [RefinerScheduler(), AdditiveScheduler()])
    def test_levels_and_shapes_that_do_not_fit_are_refused(self, scheduler):
        u = fields(2, 1, 8)
        for level in (-1, 4):  # -1 would count from the end
            with pytest.raises(ValueError, match="timestep is"):
                scheduler.step(u, level, u)
            for call in (scheduler.add_noise, scheduler.get_target):
                with pytest.raises(ValueError, match="timesteps is"):
                    call(u, u, levels_of(0, level))
        for call, message in (
            (lambda: scheduler.step(u[:1], 1, u), "output has shape"),
            (lambda: scheduler.add_noise(u, u[:1], levels_of(0, 1)), "noise has shape"),
            (lambda: scheduler.add_noise(u, u, levels_of(1)), "timesteps has shape"),
        ):
            with pytest.raises(ValueError, match=message):
                call()

    @pytest.mark.parametrize("betas", [[], [0.0], [1.5], [math.nan]])
    def test_variances_out_of_range_are_refused(self, betas):
        with pytest.raises(ValueError, match="betas"):
            VarianceScheduler(betas)


class TestPosterior:
    def test_a_perfect_answer_gives_the_law_of_the_level_below(self):
        """From x of level i and the true v, the next x has the mean and variance of level i - 1, given y."""
        scheduler, n = VarianceScheduler([0.1, 0.3, 0.6]), 200_000
        y = torch.full((n, 1, 1), 2.0, dtype=torch.float64)
        generator = rng()
        noise = torch.randn(y.shape, dtype=torch.float64, generator=generator)
        for level in (2, 1):
            at = torch.full((n,), level)
            x, v = scheduler.add_noise(y, noise, at), scheduler.get_velocity(y, noise, at)
            step = scheduler.step(v, level, x, generator)
            torch.testing.assert_close(step.pred_original_sample, y)
            below = math.sqrt(scheduler.alphas_cumprod[level - 1]) * 2.0
            assert float(step.prev_sample.mean()) == pytest.approx(below, abs=0.01)
            assert float(step.prev_sample.var()) == pytest.approx(scheduler.noise_variances[level - 1], rel=0.02)

    def test_answers_come_from_velocities(self):
        scheduler = RefinerScheduler(2, 1e-3)
        y, noise, at = fields(3, 1, 8), fields(3, 1, 8, seed=1), levels_of(0, 1, 2)
        x, v = scheduler.add_noise(y, noise, at), scheduler.get_velocity(y, noise, at)
        for row, level in enumerate((0, 1, 2)):
            step = scheduler.step(v[row : row + 1], level, x[row : row + 1], rng())
            torch.testing.assert_close(step.pred_original_sample, y[row : row + 1])
        torch.testing.assert_close(x[2], noise[2])  # at the last level there is noise alone
        torch.testing.assert_close(v[2], -y[2])

    def test_the_other_form_by_hand(self):
        scheduler = AdditiveScheduler(2, 1e-2)
        y, noise, at = fields(3, 1, 8), fields(3, 1, 8, seed=1), levels_of(0, 1, 2)
        seen, target = scheduler.add_noise(y, noise, at), scheduler.get_target(y, noise, at)
        torch.testing.assert_close(seen, torch.stack([0 * y[0], y[1] + 0.1 * noise[1], y[2] + 0.01 * noise[2]]))
        torch.testing.assert_close(target, torch.stack([y[0], noise[1], noise[2]]))
        first = scheduler.step(y, 0, scheduler.begin(y), rng(3)).prev_sample
        torch.testing.assert_close(first, y + 0.1 * torch.randn(3, 1, 8, dtype=torch.float64, generator=rng(3)))
        last = scheduler.step(noise, 2, y + 0.01 * noise, rng(3))
        torch.testing.assert_close(last.prev_sample, y)


def blend(x, cond, step):
    """A backbone: half the state before, told by what is seen and by the level."""
    return 0.5 * x[:, -1:] + 0.1 * x[:, :1] + 0.001 * step[:, None, None]


class TestRefiner:
    @pytest.mark.parametrize("parameterization", ["v", "eps"])
    def test_the_loss_by_hand(self, parameterization):
        model = PDERefiner(blend, 2, 1e-3, parameterization, difference_scale=0.5)
        before, after = fields(5, 1, 8), fields(5, 1, 8, seed=1)
        found = model.loss(before, after, generator=rng(4))
        generator = rng(4)
        levels = torch.randint(3, (5,), generator=generator)
        noise = torch.randn(5, 1, 8, dtype=torch.float64, generator=generator)
        y = (after - before) / 0.5
        seen = model.scheduler.add_noise(y, noise, levels)
        answer = blend(torch.cat([seen, before], 1), None, levels.double() * 500)
        torch.testing.assert_close(found, ((answer - model.scheduler.get_target(y, noise, levels)) ** 2).mean())

    def test_without_refinement_it_predicts_in_one_step(self):
        before = fields(4, 1, 8)
        eps = PDERefiner(blend, 0, parameterization="eps", difference_scale=0.5)
        plain = OneStepMSE(lambda x, cond, step: 0.5 * x, difference_scale=0.5)
        torch.testing.assert_close(eps.step(before), plain.step(before))
        after = fields(4, 1, 8, seed=1)
        torch.testing.assert_close(eps.loss(before, after), plain.loss(before, after))
        v = PDERefiner(lambda x, cond, step: -0.5 * x[:, -1:], 0, difference_scale=0.5)
        torch.testing.assert_close(v.step(before), plain.step(before))

    def test_it_calls_its_network_once_for_each_level_from_1000_to_0(self):
        seen = []

        def backbone(x, cond, step):
            seen.append(float(step[0]))
            return x[:, :1]

        PDERefiner(backbone, 4).step(fields(2, 1, 8))
        assert seen == [1000, 750, 500, 250, 0]
        seen.clear()
        PDERefiner(backbone, 2, parameterization="eps").step(fields(2, 1, 8))
        assert seen == [0, 500, 1000]

    @pytest.mark.parametrize("predict_difference", [True, False])
    def test_states_and_targets_invert(self, predict_difference):
        model = PDERefiner(blend, predict_difference=predict_difference)
        before, after = fields(2, 1, 8), fields(2, 1, 8, seed=1)
        torch.testing.assert_close(model.to_state(before, model.to_target(before, after)), after)

    def test_samples_differ_and_rows_of_a_batch_have_noise_of_their_own(self):
        with seeded(0):
            model = PDERefiner(DilatedResNet(2, 1, width=4)).double()
        samples = model.rollout(fields(1, 1, 16).expand(2, 1, 16), 2, n_samples=3, generator=rng())
        flat = samples[:, :, 1].flatten(0, 1)
        apart = (flat[:, None] - flat[None]).abs().amax((2, 3)) + torch.eye(6)
        assert (apart > 1e-6).all()

    def test_agreement_falls_where_the_truth_is_lost(self):
        noisy = DenoisingStepper(lambda x, cond, step: 0 * x[:, :1], VarianceScheduler([0.5]), difference_scale=0.3)
        found = noisy.uncertainty(fields(4, 1, 64), 200, 0.5, n_samples=8, generator=rng())
        assert found.correlation.shape == (4, 201)
        assert (found.correlation[:, 0] > 1 - 1e-9).all()
        assert ((found.time > 0) & (found.time < 100)).all()
        with pytest.raises(ValueError, match="n_samples is 1"):
            noisy.uncertainty(fields(4, 1, 64), 2, 0.5, n_samples=1)

    @pytest.mark.usefixtures("untyped")
    def test_unknown_forms_are_refused(self):
        with pytest.raises(ValueError, match="parameterization is 'x0'"):
            PDERefiner(blend, parameterization="x0")


class TestBaselines:
    def test_pushing_forward_has_the_gradient_of_the_last_step_alone(self):
        weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        model = PushForward(lambda x, cond, step: weight * x, pushes=2, predict_difference=False)
        before, after = fields(2, 1, 8), fields(2, 1, 8, seed=1)
        model.loss(before, after).backward()
        state = 0.25 * before
        torch.testing.assert_close(weight.grad, (2 * (0.5 * state - after) * state).mean())

    def test_history_is_stacked_and_moved_on(self):
        model = OneStepMSE(lambda x, cond, step: x[:, :1] + x[:, 1:], history=2, predict_difference=False)
        u0 = torch.ones(3, 2, 8)
        rolled = model.rollout(u0, 4)
        assert rolled[0, :, 0, 0].tolist() == [1, 2, 3, 5, 8]  # Fibonacci's
        assert float(model.loss(u0, 2 * torch.ones(3, 1, 8))) == 0
        with pytest.raises(ValueError, match="u_prev has shape"):
            model.step(torch.ones(3, 3, 8))

    def test_correction_adds_what_is_missing(self):
        target = fields(2, 1, 8, seed=1)
        half = ErrorCorrection(lambda x, cond, step: 0.5 * (target - x[:, :1]), 3, predict_difference=False)
        torch.testing.assert_close(half.step(fields(2, 1, 8)), (1 - 0.5**4) * target)
        perfect = ErrorCorrection(lambda x, cond, step: target - x[:, :1], 2, predict_difference=False)
        assert float(perfect.loss(fields(2, 1, 8), target, generator=rng())) < 1e-25

    def test_noise_on_the_input_is_of_training_alone(self):
        seen = []
        backbone = lambda x, cond, step: seen.append(x) or x  # noqa: E731
        model = OneStepMSE(backbone, input_noise=0.1, predict_difference=False)
        u = torch.zeros(400, 1, 64)
        model.step(u)
        model.loss(u, u, generator=rng())
        assert not seen[0].any()
        assert float(seen[1].std()) == pytest.approx(0.1, rel=0.02)

    def test_sobolevs_error_is_that_of_field_and_slope(self):
        x = torch.arange(32, dtype=torch.float64) * 2 * math.pi / 32
        apart = ((2 * x).sin() + 0.3 * (5 * x).cos())[None, None]
        slope = (2 * (2 * x).cos() - 1.5 * (5 * x).sin())[None, None]
        zero = torch.zeros_like(apart)
        truth = squared_error(apart, zero) + squared_error(slope, zero)
        torch.testing.assert_close(sobolev_error(apart, zero), truth)
        field = fields(2, 3, 6, 9)
        torch.testing.assert_close(sobolev_error(field, 0 * field, 0.0), squared_error(field, 0 * field))

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: squared_error(fields(2, 1, 8), fields(2, 1, 9)), "target has shape"),
            (lambda: PushForward(blend, -1), "pushes is -1"),
            (lambda: ErrorCorrection(blend, -1), "corrections is -1"),
            (lambda: OneStepMSE(blend, input_noise=-1.0), "input_noise is -1"),
            (lambda: OneStepMSE(blend, history=0), "history is 0"),
            (lambda: PDERefiner(blend, difference_scale=-1.0), "difference_scale is -1"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_a_rollout_that_diverges_stops_at_its_step(self):
        model = OneStepMSE(lambda x, cond, step: x * 1e100, predict_difference=False)
        with pytest.raises(RolloutDiverged, match="step 4 gave") as caught:
            model.rollout(torch.ones(2, 1, 8).double(), 10)
        assert caught.value.states.shape == (2, 4, 1, 8)
        sent = pickle.loads(pickle.dumps(caught.value))
        assert (str(sent), sent.step) == (str(caught.value), 4)
        assert torch.equal(sent.states, caught.value.states)
        with pytest.raises(RolloutDiverged, match="step 4 gave NaN or infinite values; the 4 states") as caught:
            model.rollout(torch.ones(2, 1, 8).double(), 10, n_samples=3)
        assert caught.value.states.shape == (3, 2, 4, 1, 8)

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize("kind", [OneStepMSE, ErrorCorrection, PDERefiner])
    def test_a_backbone_of_another_shape_is_refused_instead_of_broadcast(self, kind):
        model = kind(lambda x, cond, step: x[:, :1, :1])
        for call in (lambda: model.step(fields(2, 1, 8)), lambda: model.loss(fields(2, 1, 8), fields(2, 1, 8))):
            with pytest.raises(ValueError, match="backbone returned shape"):
                call()

    @pytest.mark.usefixtures("untyped")
    def test_states_that_are_no_numbers_are_refused(self):
        model, u = PDERefiner(blend), fields(2, 1, 8)
        with pytest.raises(TypeError, match=r"u_prev has dtype torch\.int64"):
            model.step(u.long())
        with pytest.raises(TypeError, match=r"u_prev has dtype torch\.complex128"):
            model.step(u + 0j)
        for call, message in (
            (lambda: model.rollout(u * math.nan, 2), "u0 has 16 NaN"),
            (lambda: model.step(u[..., :0]), "u_prev has shape"),
            (lambda: model.loss(u[:0], u[:0]), "u_prev has shape"),  # the mean over none is NaN
            (lambda: model.loss(u, u.float()), r"u_next .* dtype torch\.float32"),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        assert model.rollout(u[:0], 2).shape == (0, 3, 1, 8)


class TestMetrics:
    def test_correlation_is_pearsons_over_channels_and_space(self):
        a, b = fields(2, 3, 2, 8), fields(2, 3, 2, 8, seed=1)
        found = correlation(a, b)
        for i in range(2):
            for t in range(3):
                truth = torch.corrcoef(torch.stack([a[i, t].flatten(), b[i, t].flatten()]))[0, 1]
                torch.testing.assert_close(found[i, t], truth)
        assert torch.isnan(correlation(0 * a, b)).all()

    @pytest.mark.parametrize(
        ("dtype", "scale"), [(torch.float64, 1e-300), (torch.float64, 1e300), (torch.float32, 1e-30)]
    )
    def test_correlation_has_no_scale(self, dtype, scale):
        a, b = fields(2, 3, 1, 8).to(dtype), fields(2, 3, 1, 8, seed=1).to(dtype)
        torch.testing.assert_close(correlation(a * scale, b), correlation(a, b))
        torch.testing.assert_close(pairwise_correlation(torch.stack([a, b]) * scale), correlation(a, b))

    def test_a_constant_state_has_no_correlation_however_its_mean_rounds(self):
        for value in (0.1, 3.3, 1e30):
            assert torch.isnan(correlation(torch.full((1, 1, 1, 7), value), fields(1, 1, 1, 7).float())).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_summed_in_single(self, dtype):
        u = fields(2, 3, 1, 512).to(dtype)
        assert (correlation(u, u) == 1).all()
        assert correlation(u, u).dtype == dtype
        error, truth = spectral_error(u[:, 0], u[:, 1]), spectral_error(u[:, 0].float(), u[:, 1].float())
        assert error.error.dtype == dtype
        torch.testing.assert_close(error.error.float(), truth.error, rtol=0.02, atol=0.01)
        loss = sobolev_error(u[:, 0], u[:, 1], 0.0)
        assert loss.dtype == dtype
        assert float(loss) == pytest.approx(float(squared_error(u[:, 0].float(), u[:, 1].float())), rel=0.01)

    def test_pairs_are_averaged(self):
        samples = fields(4, 2, 3, 1, 8)
        pairs = [correlation(samples[i], samples[j]) for i in range(4) for j in range(i)]
        torch.testing.assert_close(pairwise_correlation(samples), torch.stack(pairs).mean(0))

    def test_times_end_at_the_first_fall(self):
        curve = torch.tensor([[1, 0.9, 0.79, 1, 1], [1, 1, 1, 1, 0.81], [1, 1, float("nan"), 1, 1], [0, 1, 1, 1, 1]])
        assert time_above(curve, 2.0).tolist() == [2, 8, 2, 0]

    def test_the_mean_curve_decides_or_each_its_own(self):
        truth = fields(2, 5, 1, 64)
        pred = truth.clone()
        pred[0, 3:] = -truth[0, 3:]
        assert float(high_correlation_time(pred, truth, 0.5)) == 1.0
        assert high_correlation_time(pred, truth, 0.5, per_trajectory=True).tolist() == [1.0, 2.0]
        assert float(high_correlation_time(pred, truth, 0.5, threshold=-0.5)) == 2.0

    def test_spectra_count_waves_in_any_dimension(self):
        axis = torch.arange(12, dtype=torch.float64) * 2 * math.pi / 12
        x, y = torch.meshgrid(axis, axis, indexing="ij")
        truth = (3 * x + 4 * y).cos()[None, None]  # five waves along their own direction
        found = spectral_error(1.2 * truth, truth)
        assert int(found.amplitude.argmax()) == 5
        assert float(found.relative[5]) == pytest.approx(0.2)
        assert found.error.shape == (7,)

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: correlation(fields(2, 3, 1, 8), fields(2, 3, 1, 9)), "pred has shape"),
            (lambda: correlation(fields(2, 3, 8), fields(2, 3, 8)), "pred has shape"),
            (lambda: pairwise_correlation(fields(1, 2, 3, 1, 8)), "samples has shape"),
            (lambda: spectral_error(fields(2, 8), fields(2, 8)), "pred has shape"),
            (lambda: time_above(fields(3), 0.0), "dt is 0"),
            (lambda: time_above(fields(3), 1.0, math.nan), "threshold is nan"),
            (lambda: time_above(fields(3)[:0], 1.0), "curve has shape"),
            (lambda: high_correlation_time(fields(0, 3, 1, 8), fields(0, 3, 1, 8), 1.0), "not empty"),
            (lambda: spectral_error(fields(0, 1, 8), fields(0, 1, 8)), "not empty"),
            (lambda: squared_error(fields(0, 1, 8), fields(0, 1, 8)), "not empty"),
            (lambda: sobolev_error(fields(2, 1, 8), fields(2, 1, 8), math.nan), "order is nan"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize("error", [squared_error, sobolev_error, spectral_error])
    def test_whole_and_complex_numbers_are_refused(self, error):
        for wrong in (torch.ones(2, 1, 8, dtype=torch.long), torch.ones(2, 1, 8) + 0j):
            with pytest.raises(TypeError, match="they take real floating-point"):
                error(wrong, wrong)


def unzeroed(network):
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return network.double()


class TestNetworks:
    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize("kind", ["resnet", "unet"])
    def test_they_move_with_the_field_in_each_dimension(self, kind, dims):
        with seeded(0):
            made = DilatedResNet(1, 2, 4, dims=dims, dilations=(1, 5)) if kind == "resnet" else None
            network = unzeroed(made or PeriodicUNet(1, 2, 4, multipliers=(1, 2), blocks=1, dims=dims))
        x = fields(1, 1, *[8, 6, 4][:dims])
        shift, axes = [2] * dims, tuple(range(2, 2 + dims))
        torch.testing.assert_close(network(x.roll(shift, axes)), network(x).roll(shift, axes))

    def test_gaps_may_reach_round_a_small_box(self):
        with seeded(0):
            network = unzeroed(DilatedResNet(1, 1, 4, dilations=(8,)))
        x = fields(2, 1, 3)  # 8 = 2 (mod 3), so that taps are those of a gap of 2
        twice = network(torch.cat([x] * 8, -1))
        torch.testing.assert_close(twice[..., :3], network(x))

    def test_they_begin_at_zero_and_hear_level_and_parameters(self):
        with seeded(0):
            network = DilatedResNet(1, 1, 8, conditions=[(0.5, 100.0)])
        x = torch.randn(2, 1, 16, generator=rng())
        assert not network(x, torch.ones(2, 1)).any()
        network = unzeroed(network)
        cond, step = torch.full((2, 1), 0.5).double(), torch.zeros(2).double()
        base = network(x.double(), cond, step)
        assert not torch.allclose(network(x.double(), cond, step + 333), base)
        assert not torch.allclose(network(x.double(), cond + 0.01, step), base)
        torch.testing.assert_close(network(x.double(), cond), base)

    def test_the_unet_has_as_many_parameters_as_the_papers(self):
        with torch.device("meta"):
            network = PeriodicUNet(2, 1, conditions=[(0.15, 100.0), (0.2, 100.0)])
        assert sum(p.numel() for p in network.parameters()) == 53_924_225

    def test_any_network_is_told_by_channels(self):
        network = torch.nn.Conv1d(4, 1, 1, bias=False)
        torch.nn.init.ones_(network.weight)
        found = channel_conditioned(network)(torch.ones(2, 2, 8), torch.full((2, 1), 5.0), torch.tensor([0.0, 500.0]))
        assert found[:, 0, 0].tolist() == [7.0, 7.5]
        refiner = PDERefiner(channel_conditioned(torch.nn.Conv1d(3, 1, 1)))
        assert refiner.step(torch.zeros(2, 1, 8)).shape == (2, 1, 8)

    @pytest.mark.usefixtures("untyped")
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: DilatedResNet(1, 1, dims=4), "dims is 4"),
            (lambda: DilatedResNet(0, 1), "in_channels is 0"),
            (lambda: DilatedResNet(1, 1, dilations=(0,)), "dilations is 0"),
            (lambda: DilatedResNet(1, 1)(torch.zeros(2, 2, 8)), "x has shape"),
            (lambda: DilatedResNet(1, 1)(torch.zeros(2, 1, 8), torch.zeros(2, 1)), "cond has shape"),
            (lambda: DilatedResNet(1, 1, conditions=[(0.0, 1.0)])(torch.zeros(2, 1, 8)), "cond has shape None"),
            (lambda: PeriodicUNet(1, 1, 8)(torch.zeros(2, 1, 12)), "multiples of 8"),
            (lambda: PeriodicUNet(1, 1, 8)(torch.zeros(2, 1, 0)), "x has shape"),
            (lambda: DilatedResNet(1, 1)(torch.zeros(2, 1, 8), step=torch.zeros(1)), "step has shape"),
            (lambda: DilatedResNet(1, 1, conditions=[(0.5,)]), "conditions has"),
            (lambda: DilatedResNet(1, 1, conditions=[(math.nan, 1.0)]), "conditions is nan"),
            (
                lambda: channel_conditioned(torch.nn.Conv1d(2, 1, 1))(torch.zeros(2, 1, 8), None, torch.zeros(3)),
                "step has",
            ),
            (
                lambda: channel_conditioned(torch.nn.Conv1d(3, 1, 1))(torch.zeros(2, 1, 8), torch.zeros(3, 1)),
                "cond has",
            ),
            (lambda: PeriodicUNet(1, 1, multipliers=(1, 0)), "multipliers is 0"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()
