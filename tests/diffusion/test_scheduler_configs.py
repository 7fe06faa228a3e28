"""Configurations of diffusers' schedulers: what ours make of them, refuse, carry along, and keep in files."""

import itertools
import json

import numpy as np
import pytest
import torch

from paperworks.diffusion import (
    BDIADDIMInverseScheduler,
    BDIADDIMScheduler,
    DPMSolverScheduler,
    PFGMPPScheduler,
    PNDMScheduler,
)
from paperworks.diffusion.schedulers import zero_terminal_levels
from paperworks.diffusion.sigma_grids import spaced_steps

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.usefixtures("untyped"), pytest.mark.filterwarnings("ignore")]

OURS = [DPMSolverScheduler, PNDMScheduler, BDIADDIMScheduler, BDIADDIMInverseScheduler]
THEIRS = ["DDIM", "DDPM", "PNDM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerDiscrete",
          "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "UniPCMultistep"]  # fmt: skip
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def network(x, t):
    return torch.tanh(x) * (0.5 + float(t) / 2000) + 0.2 * x


def run(scheduler, x=X, **placed):
    scheduler.set_timesteps(**placed)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    return x


# What differs: theirs gives the network rounded or cut off steps, and takes its levels in single precision.
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-2),
        ({"timestep_spacing": "leading", "steps_offset": 1}, 1e-5),
        ({"timestep_spacing": "trailing"}, 1e-5),
        ({"timestep_spacing": "trailing", "euler_at_final": True}, 1e-5),
        ({"timestep_spacing": "leading", "final_sigmas_type": "sigma_min"}, 1e-5),
        ({"use_karras_sigmas": True}, 1e-2),
        ({"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, 1e-2),
        ({"use_exponential_sigmas": True}, 1e-2),
        ({"use_beta_sigmas": True}, 1e-2),
        ({"use_lu_lambdas": True}, 1e-2),
        ({"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}, 1e-2),
        ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}, 2e-3),
        ({"thresholding": True, "timestep_spacing": "trailing"}, 1e-5),
        ({"thresholding": True, "timestep_spacing": "trailing", "sample_max_value": 1.5}, 1e-5),
        ({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading", "lambda_min_clipped": -5.1}, 1e-4),
    ],
)
@pytest.mark.parametrize("steps", [8, 20])
def test_settings_do_what_they_do_in_diffusers(settings, tolerance, steps):
    theirs = diffusers.DPMSolverMultistepScheduler(**settings)
    ours = DPMSolverScheduler.from_config(theirs.config)
    expected, found = (run(scheduler, num_inference_steps=steps) for scheduler in (theirs, ours))
    assert (theirs.timesteps - ours.timesteps).abs().max() < 1
    # Where a trajectory starts at pure noise, the level that stands for it is a matter of taste.
    begin = 1 if settings.get("rescale_betas_zero_snr") else 0
    torch.testing.assert_close(ours.sigmas[begin:], theirs.sigmas[begin:], rtol=3e-3 if tolerance == 1e-2 else 1e-4,
                               atol=1e-6)  # fmt: skip
    assert (found - expected).abs().max() < tolerance * max(1, expected.abs().max())


def saved(scheduler):
    """Return the configuration as a file holds it: with every setting said outright."""
    return json.loads(scheduler.to_json_string())


@pytest.mark.parametrize("name", ["DEISMultistep", "UniPCMultistep"])
def test_a_solver_of_another_name_becomes_the_nearest_one(name):
    scheduler = DPMSolverScheduler.from_config(saved(getattr(diffusers, f"{name}Scheduler")()))
    nearest = DPMSolverScheduler()
    assert (scheduler.config.algorithm_type, scheduler.config.solver_type) == ("dpmsolver++", "midpoint")
    assert torch.equal(run(scheduler, num_inference_steps=9), run(nearest, num_inference_steps=9))


def test_singlestep_agrees_with_diffusers():
    theirs = diffusers.DPMSolverSinglestepScheduler()
    ours = DPMSolverScheduler.from_config(theirs.config, method="singlestep")
    torch.testing.assert_close(run(ours, num_inference_steps=9), run(theirs, num_inference_steps=9), rtol=0, atol=1e-3)


def test_a_flow_matching_scheduler_becomes_a_flow():
    ours = DPMSolverScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    theirs = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    assert (run(ours, num_inference_steps=10) - run(theirs, num_inference_steps=10)).abs().max() < 1e-2
    assert DPMSolverScheduler.from_config(ours.config, flow_shift=1.0).config.flow_shift == 1.0
    with pytest.raises(ValueError, match="PNDMScheduler doesn't know the setting 'shift'"):
        PNDMScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler().config)


def test_a_flow_is_solved_from_pure_noise():
    # Data of variance .25: x_t keeps the ratio to its standard deviation, and v = E[z - x_0 | x_t].
    scheduler = DPMSolverScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=3, use_dynamic_shifting=True
    )
    for placed in (
        {"sigmas": torch.linspace(1, 0, 81)},
        {"timesteps": torch.linspace(1000, 12, 80)},
        {"num_inference_steps": 80},
        {"num_inference_steps": 80, "mu": 1.0},
    ):
        scheduler.set_timesteps(**placed)
        x = X.double()
        for t in scheduler.timesteps:
            s = float(t) / 1000
            x = scheduler.step(x * (s - 0.25 * (1 - s)) / (s**2 + 0.25 * (1 - s) ** 2), t, x).prev_sample
        assert (x - 0.5 * X).abs().max() < 2e-2
    assert scheduler.add_noise(X, torch.ones_like(X), torch.tensor([1000])).sub(1).abs().max() < 2e-3
    assert torch.equal(scheduler.add_noise(X, torch.zeros_like(X), torch.tensor([250])), 0.75 * X)


def test_the_last_step_may_leave_no_signal():
    betas = np.append(np.linspace(1e-4, 2e-2, 999), 1.0)
    with pytest.raises(ValueError, match="PNDM takes some"):
        PNDMScheduler(trained_betas=betas)
    for Ours in (DPMSolverScheduler, BDIADDIMScheduler):
        scheduler = Ours(trained_betas=betas, prediction_type="v_prediction", timestep_spacing="trailing")
        assert json.loads(json.dumps(scheduler.config)) == scheduler.config
        scheduler.set_timesteps(20)
        assert scheduler.timesteps[0] == 999
        # Data that are standard normal: v is 0 whatever the state, and nothing moves.
        x = X
        for t in scheduler.timesteps:
            x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
        assert 0.9 < (x / X).mean() < 1.1


def test_rescaled_noise_is_diffusers():
    theirs = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    levels = theirs.alphas_cumprod.double()
    with pytest.raises(ValueError, match="rescale_betas_zero_snr is True, which changes samples"):
        PNDMScheduler.from_config(theirs.config)
    for Ours in (DPMSolverScheduler, BDIADDIMScheduler):
        ours = Ours.from_config(theirs.config).alphas_cumprod
        assert (ours - levels).abs().max() < 1e-5
    exact = zero_terminal_levels(np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)))
    assert exact[-1] == 0
    assert exact[0] == pytest.approx(1 - 1e-4)


def test_noise_levels_may_be_chosen():
    scheduler = DPMSolverScheduler(beta_start=8.5e-4, beta_end=0.012, beta_schedule="scaled_linear")
    sigmas = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    scheduler.set_timesteps(sigmas=sigmas)
    levels = (1 - scheduler.alphas_cumprod).sqrt() / scheduler.alphas_cumprod.sqrt()
    expected = np.interp(np.log(sigmas[:-1]), levels.log().numpy(), np.arange(1000))
    assert np.allclose(scheduler.timesteps, expected, atol=0.02)
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas, abs=1e-3)
    for bad in ([1.0, 2.0], [20.0, 1.0], [], [-1.0], [float("nan"), 0.1]):
        with pytest.raises(ValueError, match="sigmas is"):
            scheduler.set_timesteps(sigmas=bad)
    with pytest.raises(ValueError, match="mu is"):
        scheduler.set_timesteps(5, mu=1.0)


def test_whole_steps_fit_or_are_refused():
    for spacing in ("leading", "trailing", "linspace"):
        steps = spaced_steps(spacing, 50, 7)
        assert len(steps) == 7
        assert all(a > b >= 0 for a, b in itertools.pairwise(steps))
    with pytest.raises(ValueError, match="leads beyond"):
        spaced_steps("leading", 50, 4, offset=30)


@pytest.mark.parametrize("Ours", OURS)
@pytest.mark.parametrize(
    ("setting", "value"),
    [("thresholding", True), ("use_karras_sigmas", True), ("use_flow_sigmas", True), ("invert_sigmas", True),
     ("timestep_type", "continuous"), ("shift_terminal", 0.1), ("made_up", 1), ("clip_sample", True)],
)  # fmt: skip
def test_what_changes_samples_is_refused_by_name(Ours, setting, value):
    dpm = Ours is DPMSolverScheduler
    inert = setting == "clip_sample" and Ours in (DPMSolverScheduler, PNDMScheduler)
    if inert or (dpm and setting in ("thresholding", "use_karras_sigmas")):
        assert Ours.from_config({setting: value}).config[setting] == value
    else:
        with pytest.raises(ValueError, match="flow takes" if dpm and "flow" in setting else setting):
            Ours.from_config({setting: value})
        if setting != "made_up":
            Ours.from_config({setting: value}, **{setting: None if setting == "shift_terminal" else
                                                  "discrete" if setting == "timestep_type" else False})  # fmt: skip


@pytest.mark.parametrize("Ours", OURS)
@pytest.mark.parametrize("name", THEIRS)
def test_a_configuration_comes_back_from_ours(Ours, name):
    Theirs = getattr(diffusers, f"{name}Scheduler")
    settings = {"beta_schedule": "scaled_linear", "beta_end": 0.012, "clip_sample": False, "set_alpha_to_one": False}
    scheduler = Theirs.from_config({**settings, "num_train_timesteps": 500})
    for config in (dict(scheduler.config), saved(scheduler)):
        ours = Ours.from_config(config)
        again = Theirs.from_config(ours.config)
        ours_again = Ours.from_config(again.config)
        for key in Theirs().config:
            if not key.startswith("_") and key not in ("algorithm_type", "solver_type"):
                assert again.config[key] == scheduler.config[key], key
        for key in set(ours.config) - {"_use_default_values"}:
            assert ours_again.config[key] == ours.config[key], key
        assert ours.config.num_train_timesteps == len(ours) == 500


def test_edms_network_is_known_by_its_configuration():
    scheduler = PFGMPPScheduler.from_config(diffusers.EDMEulerScheduler(sigma_max=40.0).config)
    assert (scheduler.config.sigma_max, scheduler.config.prediction_type) == (40.0, "raw")
    with pytest.raises(ValueError, match="doesn't know the setting"):
        DPMSolverScheduler.from_config(diffusers.EDMEulerScheduler().config)
    with pytest.raises(ValueError, match="doesn't know the setting 'beta"):
        PFGMPPScheduler.from_config(diffusers.DDIMScheduler().config)


@pytest.mark.parametrize("Ours", [*OURS, PFGMPPScheduler])
def test_it_is_saved_and_loaded(Ours, tmp_path):
    scheduler = Ours.from_config({}, **({"D": 64} if Ours is PFGMPPScheduler else {"beta_end": 0.012}))
    scheduler.save_pretrained(tmp_path / "scheduler")
    for again in (
        Ours.from_pretrained(tmp_path, subfolder="scheduler"),
        Ours.from_pretrained(tmp_path / "scheduler"),
        Ours.from_pretrained(tmp_path / "scheduler" / "scheduler_config.json"),
    ):
        assert again.config == scheduler.config
    with pytest.raises(FileNotFoundError):
        Ours.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="push_to_hub"):
        scheduler.save_pretrained(tmp_path, push_to_hub=True)


def test_a_learned_variance_is_not_read():
    theirs = diffusers.DPMSolverMultistepScheduler(variance_type="learned_range")
    ours = DPMSolverScheduler.from_config(theirs.config)
    ours.set_timesteps(5)
    both = torch.cat([X, 7 * X], dim=1)
    found = ours.step(both, ours.timesteps[0], X)
    plain = DPMSolverScheduler()
    plain.set_timesteps(5)
    assert torch.equal(found["prev_sample"], plain.step(X, plain.timesteps[0], X)[0])
    assert found.keys() == ("prev_sample",)
    assert found.to_tuple() == (found[0],)
    with pytest.raises(ValueError, match="model_output has shape"):
        plain.step(both, plain.timesteps[1], X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["DPMSolverMultistep", "PNDM"])
def test_half_precision_is_no_worse_than_diffusers(dtype, name):
    theirs = getattr(diffusers, f"{name}Scheduler")(timestep_spacing="trailing")
    ours = (DPMSolverScheduler if name.startswith("DPM") else PNDMScheduler).from_config(theirs.config)
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = []
    for scheduler in (ours, theirs):
        exact, found = run(scheduler, x, num_inference_steps=20), run(scheduler, x.to(dtype), num_inference_steps=20)
        assert found.dtype == dtype
        errors.append((found.float() - exact).square().mean().sqrt())
    assert errors[0] < 1.05 * errors[1]


@pytest.mark.parametrize("skip_prk_steps", [False, True])
def test_pndm_starts_at_any_entry_without_a_begin_index(skip_prk_steps):
    ends = []
    for begin in range(0, 14):
        for announced in (True, False):
            scheduler = PNDMScheduler(skip_prk_steps=skip_prk_steps)
            scheduler.set_timesteps(10)
            if begin >= len(scheduler.timesteps):
                break
            if announced:
                scheduler.set_begin_index(begin)
            x = X
            for t in scheduler.timesteps[begin:]:
                x = scheduler.step(network(x, t), t, x).prev_sample
            ends.append(x)
    for with_index, without in zip(ends[::2], ends[1::2], strict=True):
        assert torch.equal(with_index, without)


def test_a_prior_of_finite_d_is_drawn_by_the_scheduler():
    scheduler = PFGMPPScheduler(D=64)
    scheduler.set_timesteps(4)
    x = X * scheduler.init_noise_sigma
    with pytest.raises(ValueError, match="sample is no draw of sample_prior"):
        scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.set_begin_index(0)
    scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.set_timesteps(4)
    x = scheduler.sample_prior(X.shape, torch.Generator().manual_seed(0))
    scheduler.step(x, scheduler.timesteps[0], x)
    edm = PFGMPPScheduler()
    edm.set_timesteps(4)
    edm.step(x, edm.timesteps[0], x)
