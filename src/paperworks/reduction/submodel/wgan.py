"""Wasserstein GAN with gradient penalty: draws new samples of a law that only examples are known of."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import clone
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_number
from paperworks.numerics import ExponentialAverage, seeded, silent, torch_generator
from paperworks.reduction.submodel.conditions import Conditions, finite
from paperworks.reduction.submodel.files import read_model, write_model
from paperworks.reduction.submodel.metrics import sliced_w1
from paperworks.reduction.submodel.networks import ConvCritic, ConvGenerator, MLPCritic, MLPGenerator
from paperworks.reduction.submodel.penalty import slopes
from paperworks.reduction.submodel.transforms import KINDS, FieldScaler, PODTransform


class WGANGP:
    r"""A generator of samples, trained against a critic that measures how far they are from data.

    The critic D minimises :math:`E[D(\tilde x)] - E[D(x)] + \lambda E[(\|\nabla D(\hat x)\|_2 - 1)^2]`, the generator
    :math:`-E[D(\tilde x)]` with :math:`\tilde x = g(z)`, :math:`z \sim N(0, I)`. What is kept of the generator is the
    moving average of its weights that is nearest to validation data in sliced Wasserstein distance.

    Parameters
    ----------
    generator
        A network from (batch, latent_dim) to samples. None, the default, makes one as the data ask for: of
        convolutions for (n, C, n_b, n_t), else of layers of neurons.
    critic
        A network from samples to (batch,), without batch norm. None, the default, makes the generator's counterpart.
    latent_dim
        Length of the latent vector; 64 by default.
    gp_weight
        The penalty's weight :math:`\lambda`; 10 by default.
    n_critic
        Steps of the critic for each one of the generator; 5 by default.
    lr
        Adam's step size; 1e-4 by default.
    betas
        Adam's decays, two floats; (0.0, 0.9) by default. These four defaults are Gulrajani et al.'s, arXiv:1704.00028.
    ema
        Decay of the moving average of the generator's weights; None, the default, takes the weights as they are.
    transform
        What is done to data before they are learned: ``"max"``, the default, divides each component by its largest
        absolute value, ``"standard"`` standardises it, ``"none"`` takes data as they are; or a `FieldScaler` or a
        `PODTransform`, which `WGANGP.on_modes` sets with what suits it.
    one_sided
        Whether the penalty is on gradients above 1 alone; False by default.

    Attributes
    ----------
    distances_ : list of tuple
        For each check the step, the critic's gap on validation data, and the sliced distance.
    best_step_ : int
        Steps after which the generator was taken that is kept.

    References
    ----------
    Boukraichi, Akkari, Casenave and Ryckelynck, "Uncertainty quantification in a mechanical submodel driven by a
    Wasserstein-GAN", arXiv:2110.13680, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(3.0, 0.1, size=(64, 1, 2, 8))
    >>> gan = WGANGP.on_modes(n_modes=2, latent_dim=4).fit(X, steps=3, batch_size=16)
    >>> gan.sample(5).shape
    (5, 1, 2, 8)
    """

    def __init__(
        self,
        generator: nn.Module | None = None,
        critic: nn.Module | None = None,
        latent_dim: int = 64,
        gp_weight: float = 10.0,
        n_critic: int = 5,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        ema: float | None = None,
        transform: "str | FieldScaler | PODTransform" = "max",
        one_sided: bool = False,
    ) -> None:
        for name, network in (("generator", generator), ("critic", critic)):
            if network is not None and not isinstance(network, nn.Module):
                raise TypeError(f"{name} is {type(network).__name__}; it takes a torch.nn.Module or None")
        if critic is not None and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules()):
            raise ValueError("critic has batch norm, which mixes samples; it takes a network of single samples")
        self.generator, self.critic = generator, critic
        self.latent_dim = check_count("latent_dim", latent_dim)
        self.gp_weight = check_number("gp_weight", gp_weight, ge=0)
        self.n_critic = check_count("n_critic", n_critic)
        self.lr = check_number("lr", lr, gt=0)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas is {betas!r}; it takes two numbers from 0 to 1")
        # Adam refuses decays of which one is an int.
        self.betas = (check_number("betas", betas[0], ge=0, lt=1), check_number("betas", betas[1], ge=0, lt=1))
        self.ema = None if ema is None else check_number("ema", ema, ge=0, lt=1)
        if isinstance(transform, str):
            if transform not in KINDS:
                raise ValueError(f"transform is {transform!r}; it takes one of {', '.join(map(repr, KINDS))}")
            transform = FieldScaler(transform)
        if not isinstance(transform, (FieldScaler, PODTransform)):
            raise TypeError(
                f"transform is {type(transform).__name__}; it takes a FieldScaler, a PODTransform or a name"
            )
        self.transform = clone(transform)  # it is fitted here
        self.one_sided = bool(one_sided)
        self.average: nn.Module | None = None
        self.conditions = Conditions()

    @classmethod
    def on_modes(cls, n_modes: int | None = None, rtol: float | None = 1e-3, **options: Any) -> "WGANGP":
        r"""Make one that learns coefficients of modes, which takes a fraction of the time on a processor.

        Parameters
        ----------
        n_modes, rtol
            As in `PODTransform`; modes to a relative error of 1e-3 by default.
        **options
            Other parameters of `WGANGP`; here the penalty's weight is 1, `lr` 5e-4 and `ema` 0.995 by default.

        Returns
        -------
        WGANGP
            The untrained model.
        """
        options = {"gp_weight": 1.0, "lr": 5e-4, "ema": 0.995, **options}
        return cls(transform=PODTransform(n_modes, rtol), **options)

    @torch.enable_grad()
    def fit(
        self,
        X: Any,
        steps: int,
        batch_size: int = 64,
        callback: Callable[[int, float], bool | None] | None = None,
        *,
        condition: Any = None,
        validation: Any = None,
        check_every: int = 100,
        patience: int | None = None,
        schedule: Callable[[int], float] | None = None,
        random_state: int = 0,
        progress: Any = silent,
    ) -> "WGANGP":
        """Train both networks, from where they are.

        Parameters
        ----------
        X
            Samples (n, ...), such as histories (n, C, n_b, n_t).
        steps
            Steps of the generator.
        batch_size
            Samples in a step; 64 by default.
        callback
            ``callback(step, gap)``, called after each step with the critic's gap on its last batch; where it returns
            True, training ends. None, the default, calls nothing.
        condition
            What samples are conditioned on (n, k), such as material parameters; None, the default, for nothing.
        validation
            Samples (m, ...) by which the generator that is kept is chosen, with conditions a pair (samples,
            conditions). None, the default, keeps the last one.
        check_every
            Steps from one check by validation samples to the next; 100 by default. The last step has one too.
        patience
            Checks without a lower distance or gap after which training ends, such as 10; None, the default, takes all
            steps.
        schedule
            ``schedule(step)`` is the share of `lr` in a step; None, the default, is 1.
        random_state
            Seed of all that is drawn, and of the weights of networks that are made here; 0 by default.
        progress
            Wraps the range of steps, as `Run.progress` does; silent by default.

        Returns
        -------
        WGANGP
            The trained model.

        Raises
        ------
        ValueError
            For data that are not finite, fewer than a batch, or conditions that do not fit.
        FloatingPointError
            Where the critic's loss is NaN or infinite.
        """
        X = finite("X", X)
        check_count("steps", steps)
        if check_count("batch_size", batch_size) > len(X):
            raise ValueError(f"batch_size is {batch_size} for {len(X)} samples; it takes at most as many as there are")
        check_count("check_every", check_every)
        if patience is not None and check_count("patience", patience) and validation is None:
            raise ValueError(f"patience is {patience} without validation; it takes samples to check by")
        self.transform.fit(X)
        self.conditions = Conditions.of(condition, len(X))
        data = torch.as_tensor(self.transform.transform(X), dtype=torch.float32)
        self._make_networks(data, random_state)
        generator, critic = self._networks()
        device = next(generator.parameters()).device
        data = data.to(device, next(generator.parameters()).dtype)
        given = self.conditions(condition, len(X), data)
        rng = torch_generator(check_count("random_state", random_state, at_least=0), 1)
        check = None if validation is None else self._validation(validation, random_state)
        average = ExponentialAverage(generator, self.ema if self.ema is not None else 0.0)
        optimizers = [
            torch.optim.Adam(n.parameters(), self.lr, betas=self.betas, fused=True) for n in (critic, generator)
        ]
        best: dict[str, Tensor] = {}
        least, gap_least, since = math.inf, math.inf, 0
        self.distances_: list[tuple[int, float, float]] = []
        self.best_step_ = steps
        for network in (generator, critic):
            network.requires_grad_(True).train()
        for step in progress(range(steps), label="training"):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * (1.0 if schedule is None else schedule(step))
            for _ in range(self.n_critic):
                gap = self._critic_step(optimizers[0], data, given, batch_size, rng)
            self._generator_step(optimizers[1], data, given, batch_size, rng)
            average.update(step)
            if check is not None and ((step + 1) % check_every == 0 or step + 1 == steps):
                distance, value = check(average.network)
                self.distances_.append((step + 1, value, distance))
                since = 0 if distance < least or value < gap_least else since + 1
                gap_least = min(gap_least, value)
                if distance < least:
                    least, self.best_step_ = distance, step + 1
                    best = {name: t.clone() for name, t in average.network.state_dict().items()}
            stop = callback is not None and callback(step, gap)
            if stop or (patience is not None and since >= patience):
                break
        if best:
            average.network.load_state_dict(best)
        else:
            self.best_step_ = step + 1
        self.average = average.network
        for network in (generator, critic):
            network.eval().requires_grad_(False)
        return self

    def sample(
        self, n: int, generator: torch.Generator | None = None, condition: Any = None
    ) -> Float[np.ndarray, "n ..."]:
        """Draw samples.

        Parameters
        ----------
        n
            How many are drawn.
        generator
            Draws the latent vectors; None, the default, takes torch's global one.
        condition
            What each is conditioned on, (n, k), or one (k,) for all; None, the default, where it was trained without.

        Returns
        -------
        np.ndarray
            Samples of shape (n, ...), in the unit of the data.

        Raises
        ------
        RuntimeError
            Where it is not trained.
        """
        network = self._trained()
        return np.asarray(self.transform.inverse_transform(self._drawn(network, n, generator, condition).cpu().numpy()))

    @torch.no_grad()
    def critic_gap(self, X: Any, generator: torch.Generator | None = None, condition: Any = None) -> float:
        r"""Return the critic's estimate :math:`E[D(x)] - E[D(\tilde x)]` between samples and as many drawn ones.

        It is no distance: the best critic under the penalty is steeper than 1, by a factor of
        :math:`1 + d/(2\lambda)` between two points at a distance d.

        Parameters
        ----------
        X
            Samples (n, ...) of the shape of the data.
        generator
            Draws the latent vectors; None, the default, takes torch's global one.
        condition
            What each is conditioned on, (n, k); None, the default, where it was trained without.

        Returns
        -------
        float
            The difference of the means, in scaled units.
        """
        network = self._trained()
        _, critic = self._networks()
        X = finite("X", X)
        fake = self._drawn(network, len(X), generator, condition)
        real = torch.as_tensor(self.transform.transform(X)).to(fake)
        given = self.conditions(condition, len(X), fake)
        return float(critic(real, *given).mean() - critic(fake, *given).mean())

    def slopes(
        self, X: Any, generator: torch.Generator | None = None, condition: Any = None
    ) -> Float[np.ndarray, " n"]:
        """Return the norms of the critic's gradient at points between samples and drawn ones, as in the penalty.

        Parameters
        ----------
        X
            Samples (n, ...) of the shape of the data.
        generator
            Draws latent vectors and points; None, the default, takes torch's global one.
        condition
            What each is conditioned on, (n, k); None, the default, where it was trained without.

        Returns
        -------
        np.ndarray
            One norm for each sample; near 1 where the penalty does its work.
        """
        network = self._trained()
        _, critic = self._networks()
        X = finite("X", X)
        fake = self._drawn(network, len(X), generator, condition)
        real = torch.as_tensor(self.transform.transform(X)).to(fake)
        given = self.conditions(condition, len(X), fake)
        return slopes(critic, real, fake, given[0] if given else None, generator).detach().cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """Write networks, transform and settings to one file at `path`, whole or not at all.

        Returns
        -------
        Path
            The file, in the format of safetensors.

        Raises
        ------
        TypeError
            Where a network isn't one of ours, and no file could say how it is made.
        """
        self._trained()
        write_model(self, Path(path))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "WGANGP":
        """Read a model that `save` wrote to `path`; nothing in the file is executed.

        Returns
        -------
        WGANGP
            The trained model.

        Raises
        ------
        ValueError
            Where the file isn't one of them.
        """
        return read_model(cls, Path(path))

    def _critic_step(self, optimizer: Any, data: Tensor, given: tuple[Tensor, ...], size: int, rng: Any) -> float:
        generator, critic = self._networks()
        rows = torch.randint(len(data), (size,), generator=rng)
        z = torch.randn(size, self.latent_dim, generator=rng, dtype=data.dtype).to(data.device)
        real, beside = data[rows], tuple(c[rows] for c in given)
        with torch.no_grad():
            fake = generator(z, *beside)
        values = critic(torch.cat([real, fake]), *(torch.cat([c, c]) for c in beside))
        gap = values[:size].mean() - values[size:].mean()
        loss = -gap
        if self.gp_weight:
            norms = slopes(critic, real, fake, beside[0] if beside else None, rng)
            excess = (norms - 1).relu() if self.one_sided else norms - 1
            loss = loss + self.gp_weight * (excess**2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the critic's loss is {value}; lower lr")
        optimizer.step()
        return float(gap.detach())

    def _generator_step(self, optimizer: Any, data: Tensor, given: tuple[Tensor, ...], size: int, rng: Any) -> None:
        generator, critic = self._networks()
        beside = tuple(c[torch.randint(len(data), (size,), generator=rng)] for c in given)
        z = torch.randn(size, self.latent_dim, generator=rng, dtype=data.dtype).to(data.device)
        critic.requires_grad_(False)
        optimizer.zero_grad(set_to_none=True)
        (-critic(generator(z, *beside), *beside).mean()).backward()
        critic.requires_grad_(True)
        optimizer.step()

    def _validation(self, validation: Any, random_state: int) -> Callable[[nn.Module], tuple[float, float]]:
        """Return a function that gives a generator's sliced distance to validation samples, and the critic's gap."""
        samples, condition = validation if isinstance(validation, tuple) else (validation, None)
        samples = finite("validation", samples)
        real = np.asarray(self.transform.transform(samples))
        _, critic = self._networks()

        @torch.no_grad()
        def check(network: nn.Module) -> tuple[float, float]:
            weight = next(network.parameters())
            # The same latent vectors each time, so that two checks differ by the generator alone.
            rng, repeats = torch_generator(random_state, 2), max(1, 2000 // len(real))
            z = torch.randn(repeats * len(real), self.latent_dim, generator=rng, dtype=weight.dtype).to(weight.device)
            own = self.conditions(condition, len(real), weight, "validation")
            beside = tuple(c.repeat(repeats, 1) for c in own)
            fake = network(z, *beside)
            truth = torch.as_tensor(real).to(weight)
            gap = critic(truth, *own).mean() - critic(fake, *beside).mean()
            a, b = fake.cpu().numpy().reshape(len(fake), -1), real.reshape(len(real), -1)
            if own:  # the joint law of samples and conditions
                a, b = (np.hstack([x, c.cpu().numpy()]) for x, c in ((a, beside[0]), (b, own[0])))
            return sliced_w1(a, b), float(gap)

        return check

    def _make_networks(self, data: Tensor, random_state: int) -> None:
        shape, k = tuple(data.shape[1:]), self.conditions.dim
        with seeded(random_state):
            if self.generator is None:
                self.generator = (ConvGenerator if len(shape) == 3 else MLPGenerator)(
                    self.latent_dim, shape, condition_dim=k
                )
            if self.critic is None:
                self.critic = (ConvCritic if len(shape) == 3 else MLPCritic)(shape, condition_dim=k)
        made: Any = getattr(self.generator, "config", {})
        for name, asked in (("latent_dim", self.latent_dim), ("condition_dim", k)):
            if made.get(name, asked) != asked:
                raise ValueError(f"generator has {name} {made[name]}; the model asks for {asked}")
        weight = next(self.generator.parameters())
        with torch.no_grad():
            z = torch.zeros(2, self.latent_dim, dtype=weight.dtype, device=weight.device)
            beside = () if not k else (torch.zeros(2, k).to(z),)
            made_shape = tuple(self.generator(z, *beside).shape)
            if made_shape != (2, *shape):
                raise ValueError(f"generator makes samples of shape {made_shape[1:]}; the data ask for {shape}")
            found = tuple(self.critic(torch.zeros(2, *shape).to(z), *beside).shape)
            if found != (2,):
                raise ValueError(f"critic returns shape {found} for two samples; it takes one that returns (2,)")

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        assert self.generator is not None
        assert self.critic is not None
        return self.generator, self.critic

    def _trained(self) -> nn.Module:
        if self.average is None:
            raise RuntimeError("this WGANGP is not trained; call fit, or load one")
        return self.average

    @torch.no_grad()
    def _drawn(self, network: nn.Module, n: int, generator: torch.Generator | None, condition: Any) -> Tensor:
        """Draw scaled samples, in parts that fit into memory."""
        check_count("n", n)
        weight = next(network.parameters())
        where = generator.device if generator is not None else "cpu"
        z = torch.randn(n, self.latent_dim, generator=generator, dtype=weight.dtype, device=where).to(weight.device)
        parts = [z, *self.conditions(condition, n, weight)]
        return torch.cat([network(*part) for part in zip(*(p.split(2048) for p in parts), strict=True)])
