"""Codes of tumour masks by a convolutional autoencoder, plain or variational."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from paperworks.core.validation import check_count, check_number
from paperworks.numerics import torch_generator


class Encoded(NamedTuple):
    """A code, and of a variational encoder the logarithm of its variance."""

    code: Tensor
    log_variance: Tensor | None


class TumorAutoencoder(nn.Module):
    r"""A code of a mask, learned by the soft Dice loss of its reconstruction.

    The encoder has three levels of two convolutions 3³ with GELU, the first of stride 2, of c, 2c and 3c channels,
    and a linear map to the code; the decoder mirrors it and ends in a sigmoid. Volumes are brought to the next multiple
    of 8. With `variational` the code is a Gaussian's mean, and :math:`10^{-3}` times the divergence from the standard
    Gaussian is added to the loss (Ezhov et al., arXiv:2205.04550, the learned representations).

    Parameters
    ----------
    shape
        Voxels of the masks along each axis.
    latent_dim
        Length of the code L; 1024 by default, the paper's.
    channels
        Channels c of the first level; 24 by default, the paper's.
    variational
        Whether it is a variational one; False by default.

    Examples
    --------
    >>> import torch
    >>> net = TumorAutoencoder((10, 12, 9), latent_dim=8, channels=2)
    >>> net(torch.zeros(3, 10, 12, 9)).shape, net.encode(torch.zeros(3, 10, 12, 9)).code.shape
    (torch.Size([3, 10, 12, 9]), torch.Size([3, 8]))
    """

    def __init__(
        self, shape: Sequence[int], latent_dim: int = 1024, channels: int = 24, variational: bool = False
    ) -> None:
        super().__init__()
        self.shape = tuple(check_count("shape", n) for n in shape)
        if len(self.shape) != 3:
            raise ValueError(f"shape is {self.shape}; it takes three numbers of voxels")
        c, code = check_count("channels", channels), check_count("latent_dim", latent_dim)
        self.variational = bool(variational)
        self._grid = tuple(8 * math.ceil(n / 8) for n in self.shape)
        small = tuple(n // 8 for n in self._grid)
        flat = 3 * c * math.prod(small)
        levels: list[nn.Module] = []
        for fine, coarse in ((1, c), (c, 2 * c), (2 * c, 3 * c)):
            levels += [nn.Conv3d(fine, coarse, 3, 2, 1), nn.GELU(), nn.Conv3d(coarse, coarse, 3, padding=1), nn.GELU()]
        self.encoder = nn.Sequential(*levels, nn.Flatten())
        self.to_code = nn.Linear(flat, code)
        self.to_log_variance = nn.Linear(flat, code) if variational else None
        levels = [nn.Linear(code, flat), nn.GELU(), nn.Unflatten(1, (3 * c, *small))]
        for coarse, fine in ((3 * c, 2 * c), (2 * c, c), (c, 1)):
            levels += [nn.ConvTranspose3d(coarse, fine, 3, 2, 1, 1), nn.GELU(), nn.Conv3d(fine, fine, 3, padding=1)]
            levels.append(nn.GELU() if fine > 1 else nn.Sigmoid())
        self.decoder = nn.Sequential(*levels)

    def encode(self, x: Float[Tensor, "batch x y z"]) -> Encoded:
        """Return the codes of masks.

        Parameters
        ----------
        x
            Masks, as numbers from 0 to 1.

        Returns
        -------
        Encoded
            `code` of shape (batch, latent_dim), and of a variational one `log_variance`.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; it takes (batch, {', '.join(map(str, self.shape))})")
        hidden = self.encoder(interpolate(x[:, None], self._grid))
        return Encoded(self.to_code(hidden), self.to_log_variance(hidden) if self.to_log_variance is not None else None)

    def decode(self, code: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch x y z"]:
        """Return the masks that codes stand for.

        Parameters
        ----------
        code
            Codes of shape (batch, latent_dim).

        Returns
        -------
        Tensor
            Reconstructed masks, with numbers from 0 to 1.
        """
        return interpolate(self.decoder(code), self.shape)[:, 0]

    def forward(self, x: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch x y z"]:
        """Return the reconstruction of masks, of a variational one that of the mean.

        Parameters
        ----------
        x
            Masks, as numbers from 0 to 1.

        Returns
        -------
        Tensor
            Reconstructed masks, with numbers from 0 to 1.
        """
        return self.decode(self.encode(x).code)

    def loss(self, x: Float[Tensor, "batch x y z"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the soft Dice loss, and of a variational one the divergence as well.

        Parameters
        ----------
        x
            Masks, as numbers from 0 to 1.
        generator
            The source of a variational one's noise; None, the default, takes torch's.

        Returns
        -------
        Tensor
            One number, the mean over the batch.
        """
        code, log_variance = self.encode(x)
        if log_variance is not None:
            noise = torch.empty_like(code).normal_(generator=generator)
            drawn = self.decode(code + (log_variance / 2).exp() * noise)
            divergence = 0.5 * (code**2 + log_variance.exp() - 1 - log_variance).sum(1)
        else:
            drawn, divergence = self.decode(code), torch.zeros(len(x), dtype=x.dtype, device=x.device)
        shared = (x * drawn).flatten(1).sum(1)
        total = x.flatten(1).sum(1) + drawn.flatten(1).sum(1)
        return (1 - 2 * shared / (total + 1e-5) + 1e-3 * divergence).mean()

    def fit(
        self,
        masks: np.ndarray,
        *,
        validation: np.ndarray | None = None,
        epochs: int = 40,
        batch_size: int = 8,
        lr: float = 1e-3,
        random_state: int = 0,
    ) -> "TumorAutoencoder":
        """Learn codes by Adam, and keep the epoch that is best on other masks.

        Parameters
        ----------
        masks
            Masks as an array (n, x, y, z).
        validation
            Other masks; None, the default, keeps a tenth of `masks` apart.
        epochs
            How often each mask is seen; 40 by default. The paper has up to 600 at a rate of 1e-5 and batches of 2.
        batch_size
            Masks in a step; 8 by default.
        lr
            Rate of Adam; 1e-3 by default.
        random_state
            The seed of the order and the noise; 0 by default.

        Returns
        -------
        TumorAutoencoder
            Itself, with the weights of the best epoch.
        """
        check_count("epochs", epochs)
        check_count("batch_size", batch_size)
        check_number("lr", lr, gt=0)
        generator = torch_generator(random_state)
        device = self.to_code.weight.device
        data = torch.as_tensor(np.asarray(masks), dtype=self.to_code.weight.dtype, device=device)
        if validation is None:
            apart = max(1, len(data) // 10)
            held, data = data[:apart], data[apart:] if len(data) > apart else data
        else:
            held = torch.as_tensor(np.asarray(validation), dtype=data.dtype, device=device)
        optimizer = torch.optim.Adam(self.parameters(), lr)
        best, kept = math.inf, {name: value.clone() for name, value in self.state_dict().items()}
        for _ in range(epochs):
            order = torch.randperm(len(data), generator=generator)
            for batch in order.split(batch_size):
                optimizer.zero_grad()
                self.loss(data[batch], generator).backward()
                optimizer.step()
            with torch.no_grad():
                found = float(torch.stack([self.loss(part, generator) for part in held.split(batch_size)]).mean())
            if found < best:
                best, kept = found, {name: value.clone() for name, value in self.state_dict().items()}
        self.load_state_dict(kept)
        return self

    @torch.no_grad()
    def codes(self, masks: np.ndarray) -> Float[np.ndarray, "n latent"]:
        """Return codes of masks, of unit length, as they are compared.

        Parameters
        ----------
        masks
            Masks as an array (n, x, y, z).

        Returns
        -------
        np.ndarray
            Codes, one row for each mask.
        """
        weight = self.to_code.weight
        parts = torch.as_tensor(np.asarray(masks)).split(32)
        found = torch.cat([self.encode(part.to(weight.device, weight.dtype)).code for part in parts])
        return normalize(found, dim=1).cpu().numpy()
