"""Real diffusers pipelines with tiny networks: what is inverted comes back, whatever they are conditioned on."""

import dataclasses
import functools
import json

import pytest
import torch

from paperworks.diffusion import BDIADDIMScheduler, BDIAPipeline, BDIASampler, DPMSolverScheduler, wrap_model

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.usefixtures("untyped"), pytest.mark.filterwarnings("ignore")]

NOISE = {"beta_start": 8.5e-4, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
         "clip_sample": False, "set_alpha_to_one": False}  # fmt: skip
CROSS = {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
         "cross_attention_dim": 8, "attention_head_dim": 2, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
         "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}  # fmt: skip


def embeddings(seed, pooled=False):
    generator = torch.Generator().manual_seed(seed)
    names = ["prompt_embeds", "negative_prompt_embeds"]
    found = {name: torch.randn(2, 4, 8, generator=generator) for name in names}
    if pooled:
        names = ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        found |= {name: torch.randn(2, 8, generator=generator) for name in names}
    return found


def vae():
    return diffusers.AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1,
                                   down_block_types=("DownEncoderBlock2D",) * 2,
                                   up_block_types=("UpDecoderBlock2D",) * 2).eval()  # fmt: skip


def plain_unet(**options):
    return diffusers.UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                                 down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
                                 **options).eval()  # fmt: skip


@functools.cache
def pipeline(kind, prediction_type="epsilon"):
    torch.manual_seed(0)
    scheduler = diffusers.DDIMScheduler.from_config(NOISE, prediction_type=prediction_type)
    if kind == "DDPM":
        made = diffusers.DDPMPipeline(plain_unet(), diffusers.DDPMScheduler())
    elif kind == "DDIM":
        made = diffusers.DDIMPipeline(plain_unet(), scheduler)
    elif kind == "StableDiffusionXL":
        unet = diffusers.UNet2DConditionModel(
            **CROSS, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 8,
        )  # fmt: skip
        made = diffusers.StableDiffusionXLPipeline(vae(), None, None, None, None, unet.eval(), scheduler)
    elif kind == "PixArtSigma":
        transformer = diffusers.PixArtTransformer2DModel(
            sample_size=8, num_layers=1, patch_size=2, attention_head_dim=4, num_attention_heads=2, caption_channels=8,
            in_channels=4, cross_attention_dim=8, out_channels=8, use_additional_conditions=False,
        )  # fmt: skip
        made = diffusers.PixArtSigmaPipeline(None, None, vae(), transformer.eval(), scheduler)
    else:
        unet = diffusers.UNet2DConditionModel(**CROSS).eval()
        made = diffusers.StableDiffusionPipeline(vae(), None, None, unet, scheduler, None, None,
                                                 requires_safety_checker=False)  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def inputs_of(kind, seed=0):
    if kind in ("DDPM", "DDIM"):
        return {}
    if kind == "PixArtSigma":
        masks = {f"{name}prompt_attention_mask": torch.ones(2, 4) for name in ("", "negative_")}
        return {**embeddings(seed), **masks, "negative_prompt": None, "use_resolution_binning": False}
    return embeddings(seed, pooled=kind == "StableDiffusionXL")


def image(channels=3, size=16):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(7))


def picture(kind):
    return 2 * image(size=8) - 1 if kind in ("DDPM", "DDIM") else image()


@pytest.mark.parametrize("kind", ["StableDiffusion", "StableDiffusionXL", "PixArtSigma", "DDPM", "DDIM"])
def test_what_is_inverted_comes_back(kind):
    bdia = BDIAPipeline(pipeline(kind))
    inputs = inputs_of(kind) if kind in ("DDPM", "DDIM") else {**inputs_of(kind), "guidance_scale": 7.5}
    noise = bdia.invert(picture(kind), 12, **inputs)
    back = bdia.resume(noise, output_type="pt", **inputs)
    start = bdia.encode(picture(kind))
    assert (back.sample - start).abs().max() <= 1e-5
    assert (noise.sample - start).abs().max() > 0.1
    assert (noise.nfe, back.nfe) == (12, 11)
    # And the images are those of the encoder and decoder alone.
    if kind in ("DDPM", "DDIM"):
        expected = (start / 2 + 0.5).clamp(0, 1)
    else:
        vae = bdia.pipeline.vae
        expected = (vae.decode(start / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).detach()
    assert (back.images - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_every_prediction_gamma_and_strength(gamma, prediction_type, strength):
    bdia = BDIAPipeline(pipeline("StableDiffusion", prediction_type), gamma)
    noise = bdia.invert(image(), 10, strength=strength, guidance_scale=3.0, **embeddings(0))
    assert len(noise.times) == 1 + round(10 * strength)
    back = bdia.resume(noise, output_type="latent", guidance_scale=3.0, **embeddings(0))
    assert (back.sample - bdia.encode(image())).abs().max() <= 1e-5
    assert torch.equal(back.images, back.sample)


def test_half_precision_and_many_steps_come_back_too():
    torch.manual_seed(0)
    made = diffusers.DDPMPipeline(plain_unet().to(torch.bfloat16), diffusers.DDPMScheduler())
    made.set_progress_bar_config(disable=True)
    bdia = BDIAPipeline(made)
    noise = bdia.invert(picture("DDPM"), 40)
    assert noise.sample.dtype == torch.bfloat16
    assert (bdia.resume(noise).sample - bdia.encode(picture("DDPM"))).abs().max() <= 1e-5


def test_an_edit_changes_the_image_and_a_weak_one_changes_it_less():
    bdia = BDIAPipeline(pipeline("StableDiffusion"))
    start = bdia.encode(image())
    options = {"guidance_scale": 3.0, "output_type": "pt", **embeddings(0)}
    same, strong, weak = (
        bdia.edit(image(), target, 10, strength=strength, **options)
        for target, strength in (({}, 1.0), (embeddings(1), 1.0), (embeddings(1), 0.3))
    )
    moved = [(found.sample - start).abs().mean() for found in (same, weak, strong)]
    assert moved[0] <= 1e-5
    assert moved[0] < moved[1] < moved[2]
    assert strong.nfe == 19
    assert strong.images.shape == (2, 3, 16, 16)
    again = bdia.edit(image(), {"guidance_scale": 1.5}, 10, **options)
    assert (again.sample - start).abs().mean() > 1e-3


def test_an_edited_image_is_inverted_from_its_pair_by_the_sampler_and_noise_is_resumed_by_it():
    made = pipeline("DDPM")
    bdia = BDIAPipeline(made)
    noise = bdia.invert(picture("DDPM"), 12)
    schedule = BDIADDIMScheduler().schedule
    sampler = BDIASampler(wrap_model(lambda x, t: made.unet(x, t).sample, schedule), schedule)
    back = sampler.resume(noise)
    assert (back.sample - picture("DDPM")).abs().max() <= 1e-3  # single precision, without the pipeline's care
    again = sampler.invert(*back.pair, timesteps=back.times)
    assert (again.sample - noise.sample).abs().max() <= 1e-3


def test_a_prompt_in_words_and_a_generator(tmp_path):
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", "dog</w>", "ca", "do"]
    letters = [part for letter in "acdgot" for part in (letter, f"{letter}</w>")]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words + letters))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"),
                                           model_max_length=8)  # fmt: skip
    text = transformers.CLIPTextConfig(vocab_size=len(vocabulary), hidden_size=8, intermediate_size=8,
                                       num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=8,
                                       bos_token_id=0, eos_token_id=1)  # fmt: skip
    torch.manual_seed(0)
    plain = pipeline("StableDiffusion")
    made = diffusers.StableDiffusionPipeline(
        plain.vae, transformers.CLIPTextModel(text).eval(), tokenizer, plain.unet, plain.scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    bdia = BDIAPipeline(made)
    drawn = bdia.encode(image(), torch.Generator().manual_seed(1))
    assert not torch.equal(drawn, bdia.encode(image()))
    options = {"prompt": "a cat", "guidance_scale": 5.0, "output_type": "latent"}
    both = [
        bdia.edit(image(), {"prompt": to}, 6, generator=torch.Generator().manual_seed(1), **options)
        for to in ("a cat", "a dog")
    ]
    assert (both[0].sample - drawn).abs().max() <= 1e-5
    assert (both[1].sample - drawn).abs().max() > 1e-3


def test_the_pipeline_stays_as_it_is_and_its_own_scheduler_counts():
    made = pipeline("StableDiffusion")
    before, config = made.scheduler, dict(made.config)
    BDIAPipeline(made).invert(image(), 4, **embeddings(0))
    assert made.scheduler is before
    assert dict(made.config) == config
    own = diffusers.DDPMPipeline(plain_unet(), BDIADDIMScheduler(gamma=0.8, timestep_spacing="trailing"))
    own.set_progress_bar_config(disable=True)
    bdia = BDIAPipeline(own)
    assert bdia.gamma == 0.8
    assert bdia.invert(picture("DDPM"), 5).times[-1] == 1.0


def test_bad_input():
    bdia = BDIAPipeline(pipeline("StableDiffusion"))
    with pytest.raises(ValueError, match="inputs have num_inference_steps"):
        bdia.invert(image(), 5, num_inference_steps=5, **embeddings(0))
    with pytest.raises(ValueError, match="strength is 0"):
        bdia.invert(image(), 5, strength=0, **embeddings(0))
    with pytest.raises(ValueError, match="steps is 1"):
        bdia.invert(image(), 1, **embeddings(0))
    with pytest.raises(ValueError, match="gamma is 0"):
        BDIAPipeline(pipeline("StableDiffusion"), gamma=0.0)
    with pytest.raises(TypeError, match="takes no latents"):
        BDIAPipeline(object())
    with pytest.raises(TypeError, match="takes a tensor of states"):
        BDIAPipeline(pipeline("DDPM")).invert([[1.0]], 5)
    flow = diffusers.DDPMPipeline(plain_unet(), diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler, whose noise"):
        BDIAPipeline(flow)


def test_the_way_back_starts_from_what_invert_returned_and_nothing_else():
    bdia = BDIAPipeline(pipeline("DDPM"))
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = bdia.invert(image, steps=4)
    sampler = BDIASampler(wrap_model(bdia.pipeline.unet, DPMSolverScheduler().schedule), DPMSolverScheduler().schedule)
    for resume, name in ((bdia.resume, "noise"), (sampler.resume, "pair")):
        with pytest.raises(ValueError, match=f"{name} has 5 times that don't rise"):
            resume(bdia.resume(noise))
        with pytest.raises(ValueError, match=f"{name} has 0 times"):
            resume(dataclasses.replace(noise, times=()))
    with pytest.raises(TypeError, match="pair is NoneType"):
        sampler.resume(None, 4)
    with pytest.raises(TypeError, match="noise is tuple; it takes what invert"):
        bdia.resume(noise.pair)
    with pytest.raises(TypeError, match="inputs have prompt"):
        bdia.invert(image, 4, prompt="a cat")
    for wrong in (image[0], image[:, :1]):
        with pytest.raises(ValueError, match=r"it takes \(batch, 3, ...\)"):
            bdia.invert(wrong, 4)


def test_an_interrupted_pipeline_gives_no_result():
    bdia = BDIAPipeline(pipeline("StableDiffusion"))

    def interrupt(made, index, t, inputs):
        made._interrupt = index == 2
        return inputs

    latents = torch.zeros(2, 4, 8, 8)
    with pytest.raises(RuntimeError, match="interrupted before the last of 6 steps"):
        bdia.invert(latents, 6, guidance_scale=1.0, callback_on_step_end=interrupt, **embeddings(0))
    assert bdia.invert(latents, 6, guidance_scale=1.0, **embeddings(0)).nfe == 6
