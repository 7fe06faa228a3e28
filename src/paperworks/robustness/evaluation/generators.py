"""Ways to move through images: what a generator can make of an image is what the search can show."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_count, check_number

Images = Float[Tensor, "batch channels height width"]
_SHARE = 0.03  # of the spread of latents, in a step: that of 0.25 among images of 28 x 28 pixels


class ImageGenerator(ABC):
    """Makes images of latents.

    A subclass says how images become latents and back; `decode` also gets the images that the latents came from, for
    generators that only change them.
    """

    @abstractmethod
    def encode(self, images: Images) -> Float[Tensor, " batch *latent"]:
        """Return the latents of images.

        Returns
        -------
        Tensor of shape (batch, ...)
            One row of latents for each image.
        """

    @abstractmethod
    def decode(self, latents: Float[Tensor, " batch *latent"], images: Images) -> Images:
        """Return the images of latents that came from given images; gradients flow to the latents.

        Returns
        -------
        Images
            The images, of the shape of those given.
        """

    def project(self, images: Images) -> Images:
        """Return what the generator makes of images without any change: their reconstruction.

        Returns
        -------
        Images
            The reconstructions, of the same shape.
        """
        return self.decode(self.encode(images), images)

    def step_size(self, images: Images) -> float | Float[Tensor, " batch"]:
        """Return the length of a step in latents, of all images or of each.

        It is 0.25 for 28 x 28 pixels, and in proportion to the root of their number. That holds where latents are as
        long as images; generators with other latents say otherwise.

        Returns
        -------
        float or Tensor of shape (batch,)
            Length of a step in latents, in their unit. It depends on nothing but the image itself.
        """
        return 0.25 * math.sqrt(images[0].numel() / 784)


class PixelGenerator(ImageGenerator):
    """The pixels themselves: the search is then projected gradient ascent within what the judges accept.

    Examples
    --------
    >>> images = torch.rand(2, 1, 28, 28)
    >>> torch.equal(PixelGenerator().project(images), images), PixelGenerator().step_size(images)
    (True, 0.25)
    """

    def encode(self, images: Images) -> Images:
        """Return the images.

        Returns
        -------
        Images
            The images themselves, as latents.
        """
        return images.clone()

    def decode(self, latents: Images, images: Images) -> Images:
        """Return the latents.

        Parameters
        ----------
        images
            The images that the latents came from, not used here.

        Returns
        -------
        Images
            The latents, which are images themselves.
        """
        return latents


@runtime_checkable
class _Basis(Protocol):
    """Orthonormal directions in the space of images."""

    def analyse(self, images: Tensor) -> Tensor:
        """Return coordinates."""

    def synthesise(self, latents: Tensor, shape: torch.Size) -> Tensor:
        """Return the image of coordinates."""


class _Dense:
    def __init__(self, directions: Tensor) -> None:
        wide = directions.double()
        apart = float((wide.T @ wide - torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)).abs().max())
        if not apart < 1e-3:
            raise ValueError(f"directions are off by {apart:.1e} from orthonormal; it takes orthonormal columns")
        self.directions = directions

    def analyse(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.directions.to(images)

    def synthesise(self, latents: Tensor, shape: torch.Size) -> Tensor:
        return (latents @ self.directions.to(latents).T).view(shape)


class _Cosines:
    def __init__(self, down: Tensor, across: Tensor) -> None:
        self.down, self.across = down, across

    def analyse(self, images: Tensor) -> Tensor:
        return self.down.to(images).T @ images @ self.across.to(images)

    def synthesise(self, latents: Tensor, shape: torch.Size) -> Tensor:
        return self.down.to(latents) @ latents @ self.across.to(latents).T


class LinearGenerator(ImageGenerator):
    """Images plus combinations of a few orthonormal directions: principal components or low frequencies.

    ``encode(x) = V^T (x - mean)`` and ``decode(z) = x + V (z - encode(x))``, so that what the directions don't span
    stays as it is; without `residual`, ``decode(z) = mean + V z``, and `project` is the orthogonal projection.

    Parameters
    ----------
    directions
        (pixels, k) with orthonormal columns; see `pca` and `dct`.
    mean
        (channels, height, width); zero by default.
    residual
        Whether to keep what the directions don't span.

    Raises
    ------
    ValueError
        For columns that aren't orthonormal.

    Examples
    --------
    >>> images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> generator = LinearGenerator.pca(images, components=5)
    >>> generator.encode(images).shape, torch.equal(generator.project(images), images)
    (torch.Size([50, 5]), True)
    """

    def __init__(
        self, directions: Float[Tensor, "pixels k"] | _Basis, mean: Tensor | None = None, *, residual: bool = True
    ) -> None:
        self._basis = _Dense(directions) if isinstance(directions, Tensor) else directions
        self.mean = mean
        self.residual = residual

    @classmethod
    def pca(cls, images: Images, components: int = 100, *, residual: bool = True) -> "LinearGenerator":
        """Use the directions in which given images vary most.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.
        components
            Number of directions, at most what the images determine.
        residual
            Whether to keep what they don't span.

        Returns
        -------
        LinearGenerator
            A generator whose latents are the coordinates.

        Raises
        ------
        ValueError
            For more components than the images can determine.
        """
        rows = images.flatten(1).double()
        n, pixels = rows.shape
        check_count("components", components, at_most=min(n - 1, pixels))
        centred = rows - rows.mean(0)
        if pixels <= n:
            directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -components:]
        else:  # the same from products of images, of which there are fewer
            directions = centred.T @ torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -components:]
            directions = directions / directions.norm(dim=0)
        return cls(directions.flip(1).to(images.dtype), images.mean(0), residual=residual)

    @classmethod
    def dct(
        cls, height: int, width: int, frequencies: int = 8, *, block: int | None = None, residual: bool = True
    ) -> "LinearGenerator":
        """Use the lowest frequencies of cosine transforms, of each channel, as many in each direction.

        Parameters
        ----------
        height, width
            Sides of the images in pixels.
        frequencies
            Number of cosines in each direction, of the image or of each block.
        block
            Side of the blocks that are transformed one by one, as in JPEG; the whole image by default.
        residual
            Whether to keep what they don't span.

        Returns
        -------
        LinearGenerator
            A generator whose latents are the coefficients.

        Raises
        ------
        ValueError
            For more frequencies than pixels, or blocks that don't fill the image.
        """
        sides = []
        for name, side in (("height", height), ("width", width)):
            length = check_count(name, side) if block is None else check_count("block", block)
            if side % length:
                raise ValueError(f"block is {block}; it takes a divisor of the {name}, {side}")
            cosines = _cosines(length, check_count("frequencies", frequencies, at_most=length))
            sides.append(torch.block_diag(*[cosines] * (side // length)))
        return cls(_Cosines(*sides), residual=residual)

    def encode(self, images: Images) -> Float[Tensor, " batch *latent"]:
        """Return the coordinates along the directions.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.

        Returns
        -------
        Tensor of shape (batch, ...)
            One row of coordinates for each image.
        """
        return self._basis.analyse(images if self.mean is None else images - self.mean.to(images))

    def decode(self, latents: Float[Tensor, " batch *latent"], images: Images) -> Images:
        """Return the images of coordinates.

        Parameters
        ----------
        latents
            Latents as `encode` gives them.
        images
            The images that the latents came from, whose rest is kept.

        Returns
        -------
        Images
            Images of the shape of those given.
        """
        if self.residual:
            return images + self._basis.synthesise(latents - self.encode(images), images.shape)
        made = self._basis.synthesise(latents, images.shape)
        return made if self.mean is None else made + self.mean.to(made)


def _cosines(side: int, n: int) -> Float[Tensor, "side n"]:
    """Return the first orthonormal cosines on a line of pixels, the DCT-II."""
    places = torch.arange(side, dtype=torch.float64) + 0.5
    table = torch.cos(math.pi / side * places[:, None] * torch.arange(n)) * math.sqrt(2 / side)
    table[:, 0] /= math.sqrt(2)
    return table.float()


class StyleGenerator(ImageGenerator):
    """The same scene in another light: contrast and colour, brightness, sharpness and grain, but no shapes.

    ``decode(z) = mean + (1 + A) (x - mean) + b``, with the mean over places, a matrix A over channels and a shift b, as
    by adaptive instance normalisation; then a step towards a blurred image, or away from it, and a fixed noise.

    Parameters
    ----------
    blur
        Standard deviation of the Gaussian of the blurred image, in pixels.
    random_state
        Seed of the noise.

    Raises
    ------
    ValueError
        For a blur that isn't positive.

    Examples
    --------
    >>> images = torch.rand(2, 3, 8, 8)
    >>> generator = StyleGenerator()
    >>> generator.encode(images).shape, torch.allclose(generator.project(images), images)
    (torch.Size([2, 14]), True)
    """

    def __init__(self, blur: float = 1.0, random_state: int = 0) -> None:
        self.blur = check_number("blur", blur, gt=0)
        self.random_state = random_state

    def encode(self, images: Images) -> Float[Tensor, "batch parameters"]:
        """Return zeros: no change.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.

        Returns
        -------
        Tensor of shape (batch, parameters)
            Zeros, one row for each image.
        """
        channels = images.shape[1]
        return images.new_zeros(len(images), channels**2 + channels + 2)

    def decode(self, latents: Float[Tensor, "batch parameters"], images: Images) -> Images:
        """Return images in another style.

        Parameters
        ----------
        latents
            Latents as `encode` gives them.

        Returns
        -------
        Images
            Images of the shape of those given.
        """
        channels = images.shape[1]
        matrix, shift, blur, noise = latents.split([channels**2, channels, 1, 1], dim=1)
        mean = images.mean((2, 3), keepdim=True)
        centred = (images - mean).flatten(2)
        colours = centred + matrix.view(-1, channels, channels) @ centred
        styled = mean + colours.view_as(images) + shift[:, :, None, None]
        styled = styled + blur[:, :, None, None] * (self._blurred(styled) - styled)
        grain = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(self.random_state))
        return styled + noise[:, :, None, None] * grain.to(images)

    def step_size(self, images: Images) -> float:
        """Return 0.02: two in a hundred of the range of brightness, or of contrast.

        Parameters
        ----------
        images
            Images, which are not read here.

        Returns
        -------
        float
            The number 0.02, in the unit of the parameters.
        """
        return 0.02

    def _blurred(self, images: Tensor) -> Tensor:
        reach = math.ceil(2 * self.blur)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / self.blur) ** 2)
        line = (line / line.sum()).to(images.dtype)
        channels = images.shape[1]
        padded = functional.pad(images, (reach,) * 4, mode="replicate")
        down = functional.conv2d(padded, line.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
        return functional.conv2d(down, line.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)


class AutoencoderGenerator(ImageGenerator):
    """Any pair of functions to latents and back, such as the autoencoder of a latent diffusion model.

    Parameters
    ----------
    encode, decode
        From images in [0, 1] to latents and from latents to images; gradients must flow through the second.

    Examples
    --------
    >>> halves = AutoencoderGenerator(lambda x: 0.5 * x, lambda z: 2 * z)
    >>> halves.project(torch.ones(1, 1, 2, 2))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]) -> None:
        self._encode, self._decode = encode, decode

    @classmethod
    def from_diffusers(cls, model: Any) -> "AutoencoderGenerator":
        """Use an autoencoder of diffusers, continuous (`AutoencoderKL`) or quantised (`VQModel`), or a pipeline's.

        Parameters
        ----------
        model
            The autoencoder, or a pipeline that has one.

        Returns
        -------
        AutoencoderGenerator
            The autoencoder as a generator of images.
        """
        autoencoder = getattr(model, "vae", None) or getattr(model, "vqvae", None) or model

        def encode(images: Tensor) -> Tensor:
            found = autoencoder.encode(2 * images - 1)
            return found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents

        return cls(encode, lambda latents: (autoencoder.decode(latents).sample + 1) / 2)

    def encode(self, images: Images) -> Float[Tensor, " batch *latent"]:
        """Return the latents of images.

        Returns
        -------
        Tensor of shape (batch, ...)
            One row of latents for each image.
        """
        return self._encode(images)

    def decode(self, latents: Float[Tensor, " batch *latent"], images: Images) -> Images:
        """Return the images of latents.

        Returns
        -------
        Images
            Images of the shape of those given.
        """
        return self._decode(latents)

    def step_size(self, images: Images) -> Float[Tensor, " batch"]:
        """Return the length of each image's step: 3 in 100 of the spread of its own latents.

        Parameters
        ----------
        images
            Images of shape (batch, channels, height, width), in the range the generator takes.

        Returns
        -------
        Tensor of shape (batch,)
            Lengths of steps in latents, in their unit.
        """
        with torch.no_grad():
            latents = self.encode(images).flatten(1)
        return _SHARE * latents.std(1) * math.sqrt(latents.shape[1])
