"""A vector-quantised autoencoder: images are grids of words of a learned vocabulary."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count
from paperworks.numerics import seeded, torch_generator, train
from paperworks.robustness.evaluation.generators import _SHARE, ImageGenerator, Images


class VQVAE(nn.Module):
    """A small vector-quantised autoencoder (arXiv 1711.00937).

    Parameters
    ----------
    channels
        Number of channels of the images.
    width
        Channels of the hidden layers.
    codes, dim
        Number of codes in the codebook, and length of each.
    halvings
        How often the encoder halves the resolution.

    Raises
    ------
    ValueError
        For sizes below 1.

    Examples
    --------
    >>> network = VQVAE(width=8, codes=16, dim=4)
    >>> network.encoder(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 4, 7, 7])
    """

    def __init__(self, channels: int = 1, width: int = 32, codes: int = 128, dim: int = 16, halvings: int = 2) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("width", width), ("codes", codes), ("dim", dim)):
            check_count(name, value)
        check_count("halvings", halvings)
        widths = [min(width * 2**k, 4 * width) for k in range(halvings)]
        down: list[nn.Module] = []
        up: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1), nn.SiLU()]
        for inputs, outputs in zip([channels, *widths], widths, strict=False):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.SiLU()]
        for inputs, outputs in zip(widths[::-1], [*widths[-2::-1], width], strict=True):
            up += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], dim, 3, padding=1))
        self.codebook = nn.Parameter(torch.randn(codes, dim) / math.sqrt(dim))
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, channels, 3, padding=1))

    def loss(self, images: Images) -> Float[Tensor, ""]:
        """Return the squared error of reconstruction plus those of codes and, by a quarter, of what they stand for.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.

        Returns
        -------
        Tensor without axes
            The loss, one number for the batch.
        """
        latents = self.encoder(images)
        codes = nearest(latents, self.codebook)
        error = functional.mse_loss(self.decoder(latents + (codes - latents).detach()), images)
        moved = functional.mse_loss(codes, latents.detach()) + 0.25 * functional.mse_loss(latents, codes.detach())
        return error + moved


class VQGenerator(ImageGenerator):
    """Images through a vector-quantised autoencoder, moved by its latents before they are quantised.

    The gradient passes the quantisation as if it weren't there (straight through).

    Parameters
    ----------
    encoder
        From images to latents (batch, dim, height, width).
    codebook
        The codes in rows, of shape (codes, dim).
    decoder
        From quantised latents to images.

    Notes
    -----
    The paper's own generator is a VQGAN trained on ImageNet; `fit` trains a small one.

    Examples
    --------
    >>> network = VQVAE(width=8, codes=16, dim=4)
    >>> generator = VQGenerator(network.encoder, network.codebook, network.decoder)
    >>> generator.project(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, encoder: nn.Module, codebook: Float[Tensor, "codes dim"], decoder: nn.Module) -> None:
        self.encoder, self.codebook, self.decoder = encoder, codebook.detach(), decoder

    @classmethod
    def fit(
        cls,
        images: Images,
        steps: int = 1000,
        *,
        batch_size: int = 128,
        lr: float = 2e-3,
        width: int = 32,
        codes: int = 128,
        dim: int = 16,
        halvings: int = 2,
        random_state: int = 0,
    ) -> "VQGenerator":
        """Train a `VQVAE` on images by Adam, with codes that nothing uses replaced by latents of the last batch.

        Parameters
        ----------
        images
            Images to train on, of shape (batch, channels, height, width).
        steps
            Number of steps of Adam.
        batch_size
            Images of one step.
        lr
            Greatest step size of Adam, in a one-cycle schedule.
        width
            Channels of the hidden layers.
        codes
            Number of codes in the book.
        dim
            Length of a code.
        halvings
            How many times encoding halves height and width.
        random_state
            Seed of the random numbers.

        Returns
        -------
        VQGenerator
            The trained network as a generator.

        Raises
        ------
        ValueError
            For counts below 1.
        """
        check_count("steps", steps)
        check_count("batch_size", batch_size)
        generator = torch_generator(random_state)
        with seeded(random_state):
            network = VQVAE(images.shape[1], width, codes, dim, halvings).to(images.device)
        optimizer = torch.optim.Adam(network.parameters(), lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        renewals = {0, *(steps * k // 20 for k in range(1, 11))}

        def of_step(step: int) -> Tensor:
            chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
            if step in renewals:
                _renew(network, chosen, all_of_them=step == 0, generator=generator)
            return network.loss(chosen)

        train(of_step, optimizer, steps, callback=lambda *_: schedule.step())
        network.eval().requires_grad_(False)
        return cls(network.encoder, network.codebook, network.decoder)

    def encode(self, images: Images) -> Float[Tensor, "batch dim h w"]:
        """Return the latents before quantisation.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.

        Returns
        -------
        Tensor of shape (batch, dim, h, w)
            Latents before quantisation, of shape (batch, dim, h, w).
        """
        return self.encoder(images)

    def decode(self, latents: Float[Tensor, "batch dim h w"], images: Images) -> Images:
        """Return the images of quantised latents.

        Returns
        -------
        Images
            Images of the shape of those given.
        """
        return self.decoder(latents + (nearest(latents.detach(), self.codebook) - latents.detach()))

    def step_size(self, images: Images) -> float:
        """Return the length of a step: 3 in 100 of the spread of a grid of codes.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.

        Returns
        -------
        float
            Length of a step in latents, in their unit.
        """
        with torch.no_grad():
            places = self.encode(images[:1])[0, 0].numel()
        spread = (self.codebook - self.codebook.mean(0)).square().sum(1).mean().sqrt()
        return _SHARE * float(spread) * math.sqrt(places)


def nearest(
    latents: Float[Tensor, "batch dim h w"], codebook: Float[Tensor, "codes dim"]
) -> Float[Tensor, "batch dim h w"]:
    """Return the nearest code at each place."""
    rows = latents.permute(0, 2, 3, 1)
    with torch.no_grad():
        # The square of the latents is the same for all codes.
        index = torch.addmm(codebook.square().sum(1), rows.flatten(0, 2), codebook.T, alpha=-2).argmin(1)
    return functional.embedding(index.view(rows.shape[:3]), codebook).permute(0, 3, 1, 2)


@torch.no_grad()
def _renew(network: VQVAE, images: Tensor, *, all_of_them: bool, generator: torch.Generator) -> None:
    rows = network.encoder(images).permute(0, 2, 3, 1).flatten(0, 2)
    used = torch.zeros(len(network.codebook), dtype=torch.bool, device=rows.device)
    if not all_of_them:
        used[torch.cdist(rows, network.codebook).argmin(1)] = True
    unused = (~used).nonzero()[:, 0]
    network.codebook[unused] = rows[torch.randint(len(rows), (len(unused),), generator=generator)]
