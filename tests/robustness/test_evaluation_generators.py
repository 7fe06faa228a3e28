import numpy as np
import pytest
import torch
from scipy import fft
from torch import nn
from torch.nn import functional

from paperworks.robustness import (
    VQVAE,
    AutoencoderGenerator,
    LinearGenerator,
    PixelGenerator,
    StyleGenerator,
    VQGenerator,
    diversity,
    ssim,
)
from paperworks.robustness.evaluation.vq import nearest


def images(n=30, c=1, h=8, w=8, seed=0, dtype=torch.float64):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("n", [30, 200])  # fewer images than pixels, and more
def test_components_are_those_of_the_singular_values(n):
    x = images(n)
    generator = LinearGenerator.pca(x, 6, residual=False)
    rows = x.flatten(1) - x.flatten(1).mean(0)
    top = torch.linalg.svd(rows, full_matrices=False)[2][:6]
    expected = (x.flatten(1).mean(0) + rows @ top.T @ top).view_as(x)
    torch.testing.assert_close(generator.project(x), expected)
    torch.testing.assert_close(generator.encode(x).abs(), (rows @ top.T).abs())
    torch.testing.assert_close(generator.project(generator.project(x)), expected)


def test_what_components_do_not_span_stays():
    x = images()
    generator = LinearGenerator.pca(x, 6)
    z = generator.encode(x)
    assert torch.equal(generator.decode(z, x), x)
    moved = generator.decode(z + 1.0, x)
    torch.testing.assert_close(generator.encode(moved), z + 1)
    torch.testing.assert_close((moved - x).flatten(1).norm(dim=1), torch.full((30,), 6**0.5, dtype=torch.float64))


def test_cosines_are_those_of_scipy():
    x = images(c=3, h=8, w=12)
    generator = LinearGenerator.dct(8, 12, 5)
    expected = fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")[:, :, :5, :5]
    np.testing.assert_allclose(generator.encode(x), expected, atol=1e-6)
    whole = LinearGenerator.dct(8, 8, 8, residual=False)
    torch.testing.assert_close(whole.project(images()), images(), atol=1e-6, rtol=0)
    assert torch.equal(generator.project(x), x)


def test_cosines_of_blocks():
    x = images(h=8, w=12)
    generator = LinearGenerator.dct(8, 12, 2, block=4)
    blocks = x[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).numpy()
    expected = fft.dctn(blocks, axes=(2, 3), norm="ortho")[:, :, :2, :2].transpose(0, 2, 1, 3).reshape(4, 6)
    np.testing.assert_allclose(generator.encode(x)[0, 0], expected, atol=1e-6)


def test_styles():
    x = images(c=3)
    generator = StyleGenerator()
    z = generator.encode(x)
    torch.testing.assert_close(generator.decode(z, x), x)
    shifted, scaled, blurred = z.clone(), z.clone(), z.clone()
    shifted[:, 9:12] = torch.tensor([0.1, 0.0, -0.2])
    torch.testing.assert_close(
        generator.decode(shifted, x), x + torch.tensor([0.1, 0.0, -0.2], dtype=x.dtype).view(3, 1, 1)
    )
    scaled[:, [0, 4, 8]] = 0.5
    made = generator.decode(scaled, x)
    torch.testing.assert_close(made.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(made.std((2, 3)), 1.5 * x.std((2, 3)))
    blurred[:, 12] = 1
    made = generator.decode(blurred, x)
    assert (made.var((2, 3)) < 0.5 * x.var((2, 3))).all()
    flat = torch.full_like(x, 0.3)
    torch.testing.assert_close(generator.decode(blurred, flat), flat)
    noisy = z.clone()
    noisy[:, 13] = 0.1
    grain = generator.decode(noisy, x) - x
    assert torch.equal(grain[0].float(), grain[1].float()) or (grain[0] - grain[1]).abs().max() < 1e-12
    assert grain.std() == pytest.approx(0.1, abs=0.02)


def test_a_code_is_the_nearest():
    z = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    codebook = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    rows = z.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = codebook[torch.cdist(rows, codebook).argmin(1)].view(3, 5, 6, 4).permute(0, 3, 1, 2)
    assert torch.equal(nearest(z, codebook), expected)


def test_the_gradient_passes_straight_through_the_codes():
    torch.manual_seed(0)
    decoder = nn.Conv2d(4, 1, 1)
    codebook = torch.randn(20, 4)
    generator = VQGenerator(nn.Conv2d(1, 4, 1), codebook, decoder)
    x = images(2, dtype=torch.float32)
    z = generator.encode(x).detach().requires_grad_()
    made = generator.decode(z, x)
    torch.testing.assert_close(made, decoder(nearest(z.detach(), codebook)))
    (gradient,) = torch.autograd.grad(made.sum(), z)
    torch.testing.assert_close(gradient, decoder.weight.detach().sum(0).expand_as(gradient))


def test_a_trained_vocabulary_reconstructs_stripes():
    generator = torch.Generator().manual_seed(0)
    upright = torch.rand(200, 1, 1, 1, generator=generator) < 0.5
    stripes = (torch.arange(8) // 2 % 2).float()
    x = torch.where(upright, stripes.view(1, 1, 1, 8), stripes.view(1, 1, 8, 1)).expand(200, 1, 8, 8)
    learned = VQGenerator.fit(x, 150, lr=1e-2, width=8, codes=8, dim=4, halvings=1, batch_size=32)
    again = VQGenerator.fit(x, 150, lr=1e-2, width=8, codes=8, dim=4, halvings=1, batch_size=32)
    assert functional.mse_loss(learned.project(x), x) < 0.02 < x.var()
    assert torch.equal(learned.project(x), again.project(x))
    assert learned.step_size(x) > 0


def test_losses_of_an_autoencoder_reach_all_of_it():
    torch.manual_seed(0)
    network = VQVAE(channels=2, width=4, codes=8, dim=3, halvings=3)
    x = images(2, c=2, h=16, w=24, dtype=torch.float32)
    assert network.encoder(x).shape == (2, 3, 2, 3)
    assert network.decoder(network.encoder(x)).shape == x.shape
    network.loss(x).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_autoencoders_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    x = images(2, c=3, h=16, w=16, dtype=torch.float32)
    options = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4}
    for autoencoder in (diffusers.AutoencoderKL(**options).eval(), diffusers.VQModel(**options).eval()):
        generator = AutoencoderGenerator.from_diffusers(autoencoder)
        z = generator.encode(x).detach().requires_grad_()
        made = generator.decode(z, x)
        assert made.shape == x.shape
        torch.testing.assert_close(made, (autoencoder.decode(z).sample + 1) / 2)
        assert torch.autograd.grad(made.sum(), z)[0].abs().sum() > 0
        assert (generator.step_size(x) > 0).all()

    class Pipeline:
        vae = autoencoder

    torch.testing.assert_close(AutoencoderGenerator.from_diffusers(Pipeline()).encode(x), generator.encode(x))


def test_steps_in_proportion_to_the_size_of_images():
    assert PixelGenerator().step_size(images(h=28, w=28)) == 0.25
    assert PixelGenerator().step_size(images(h=56, w=56)) == 0.5
    unit = AutoencoderGenerator(lambda x: x, lambda z: z)
    x = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit.step_size(x), 0.03 * 28 * x.flatten(1).std(1))
    assert float(unit.step_size(x).mean()) == pytest.approx(0.03 * 28, rel=0.01)


def test_similarity_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = images(3, c=2, h=20, w=24), images(3, c=2, h=20, w=24, seed=1)
    expected = [
        metrics.structural_similarity(
            p.numpy(), q.numpy(), channel_axis=0, gaussian_weights=True, use_sample_covariance=False, data_range=1.0
        )
        for p, q in zip(a, 0.7 * a + 0.3 * b, strict=True)
    ]
    assert ssim(a, 0.7 * a + 0.3 * b).tolist() == pytest.approx(expected, abs=1e-9)
    assert ssim(a[..., :5, :5], a[..., :5, :5]).tolist() == pytest.approx([1, 1, 1])


def test_diversity_is_the_mean_over_pairs():
    changes = images(6) - 0.5
    rows = functional.normalize(changes.flatten(1))
    cosines = rows @ rows.T
    assert diversity(changes) == pytest.approx(float((cosines.sum() - 6) / 30))
    assert np.isnan(diversity(changes[:1]))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearGenerator(torch.ones(4, 2)), "directions are off by"),
        (lambda: LinearGenerator(torch.full((4, 2), torch.nan)), "directions are off by"),
        (lambda: LinearGenerator.pca(images(5), 5), "components is 5"),
        (lambda: LinearGenerator.dct(8, 8, 9), "frequencies is 9"),
        (lambda: LinearGenerator.dct(8, 12, 2, block=8), "block is 8"),
        (lambda: StyleGenerator(blur=0), "blur is 0"),
        (lambda: VQVAE(codes=0), "codes is 0"),
        (lambda: VQGenerator.fit(images(dtype=torch.float32), steps=0), "steps is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
