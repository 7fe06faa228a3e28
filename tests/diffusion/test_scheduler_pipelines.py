"""Every scheduler of ours in the pipelines of latent diffusion with tiny networks, beside its counterpart."""

import functools

import pytest
import torch

from paperworks.diffusion import BDIADDIMScheduler, DPMSolverScheduler, PFGMPPScheduler, PNDMScheduler

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.usefixtures("untyped"), pytest.mark.filterwarnings("ignore")]

NOISE = {"beta_start": 8.5e-4, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
         "timestep_spacing": "leading", "clip_sample": False, "set_alpha_to_one": False}  # fmt: skip
# Ours, its options, theirs, its options, and how far the images (from 0 to 1) may be apart.
PAIRS = {
    "DPM-Solver++ 2M": (DPMSolverScheduler, {}, "DPMSolverMultistepScheduler", {}, 1e-3),
    "DPM-Solver++ 3M": (DPMSolverScheduler, {"solver_order": 3, "legacy_3m": True}, "DPMSolverMultistepScheduler",
                        {"solver_order": 3}, 1e-3),
    "DPM-Solver 2M": (DPMSolverScheduler, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
                      "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
                      1e-3),
    "SDE-DPM-Solver++ 2M": (DPMSolverScheduler, {"algorithm_type": "sde-dpmsolver++"}, "DPMSolverMultistepScheduler",
                            {"algorithm_type": "sde-dpmsolver++"}, 1e-3),
    "DPM-Solver++ 2M Karras": (DPMSolverScheduler, {"use_karras_sigmas": True}, "DPMSolverMultistepScheduler",
                               {"use_karras_sigmas": True}, 0.02),
    "DPM-Solver++ 2S": (DPMSolverScheduler, {"method": "singlestep", "timestep_spacing": "linspace"},
                        "DPMSolverSinglestepScheduler", {"lower_order_final": True}, 0.02),
    "PLMS": (PNDMScheduler, {"skip_prk_steps": True}, "PNDMScheduler", {"skip_prk_steps": True}, 1e-3),
    "BDIA": (BDIADDIMScheduler, {"gamma": 0.0}, "DDIMScheduler", {}, 1e-3),
}  # fmt: skip


@functools.cache
def networks():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1,
                                  down_block_types=("DownEncoderBlock2D",) * 2,
                                  up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    return unet.eval(), vae.eval()


def pipeline(task, scheduler):
    unet, vae = networks()
    kind = getattr(diffusers, f"StableDiffusion{task}Pipeline")
    made = kind(vae=vae, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
                feature_extractor=None, requires_safety_checker=False)  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def images(task, scheduler, steps=8, strength=None, generator=None, **options):
    draw = torch.Generator().manual_seed(0)
    inputs = {"prompt_embeds": torch.randn(2, 4, 8, generator=draw),
              "negative_prompt_embeds": torch.randn(2, 4, 8, generator=draw)}  # fmt: skip
    image = torch.rand(2, 3, 16, 16, generator=draw)
    if task == "":
        inputs |= {"height": 16, "width": 16}
    else:
        inputs |= {"image": image, "strength": strength}
    if task == "Inpaint":
        mask = torch.zeros(2, 1, 16, 16)
        mask[..., 8:] = 1
        inputs |= {"mask_image": mask, "height": 16, "width": 16}
    generator = generator or torch.Generator().manual_seed(1)
    found = pipeline(task, scheduler)(
        num_inference_steps=steps, guidance_scale=3.0, generator=generator, output_type="pt", **inputs, **options
    )
    return found.images


@pytest.mark.parametrize(
    ("task", "strength"),
    [
        ("", None),
        ("Img2Img", 0.6),
        ("Inpaint", 0.6),
        *(
            pytest.param(task, strength, marks=pytest.mark.slow)
            for task, strength in [("Img2Img", 0.3), ("Img2Img", 1.0), ("Inpaint", 1.0)]
        ),
    ],
)
@pytest.mark.parametrize("pair", PAIRS)
def test_it_makes_the_images_of_its_counterpart(pair, task, strength):
    Ours, own, name, options, tolerance = PAIRS[pair]
    theirs = getattr(diffusers, name).from_config(NOISE, **options)
    ours = Ours.from_config(NOISE, **own)
    expected, found = (images(task, scheduler, strength=strength) for scheduler in (theirs, ours))
    assert expected.std() > 0.01
    if pair == "PLMS" and strength not in (None, 1.0):
        # Theirs takes any first step for the doubled one, and stays a step behind from there.
        assert torch.isfinite(found).all()
        return
    assert (found - expected).abs().max() < tolerance


def test_runge_kutta_steps_work_from_text_and_from_an_image():
    # Theirs starts such steps in the midst, wherever the image leads it; ours has no counterpart there.
    ours, theirs = (kind.from_config(NOISE) for kind in (PNDMScheduler, diffusers.PNDMScheduler))
    assert (images("", ours) - images("", theirs)).abs().max() < 1e-3
    assert torch.isfinite(images("Img2Img", ours, strength=0.5)).all()


def test_each_image_has_a_generator_of_its_own_or_none():
    scheduler = DPMSolverScheduler.from_config(NOISE, algorithm_type="sde-dpmsolver++")
    both = images("", scheduler, generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)])
    swapped = images("", scheduler, generator=[torch.Generator().manual_seed(seed) for seed in (2, 2)])
    assert torch.allclose(both[1], swapped[1], atol=1e-5)
    assert not torch.allclose(both[0], swapped[0], atol=1e-3)


@pytest.mark.parametrize("Ours", [DPMSolverScheduler, PNDMScheduler, BDIADDIMScheduler, PFGMPPScheduler])
def test_a_pipeline_is_saved_with_it_and_loaded(Ours, tmp_path):
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                                 down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    scheduler = Ours(**({"D": 64} if Ours is PFGMPPScheduler else {"beta_schedule": "scaled_linear"}))
    diffusers.DDPMPipeline(unet.eval(), scheduler).save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is Ours
    assert loaded.scheduler.config == scheduler.config
    loaded.set_progress_bar_config(disable=True)
    if Ours is PFGMPPScheduler:  # it draws a normal prior
        with pytest.raises(ValueError, match="sample_prior"):
            loaded(1, num_inference_steps=4)
    else:
        assert loaded(1, num_inference_steps=4, output_type="np").images.shape == (1, 8, 8, 3)
