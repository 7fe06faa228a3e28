"""Learning rate and momentum learnt during training, from a few Lanczos steps on the curvature of a batch."""

import math
import warnings
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.curvature import Loss
from paperworks.numerics.frozen import BatchNormMode, FrozenCurvature, FrozenKind
from paperworks.numerics.random import torch_generator
from paperworks.numerics.spectra import Spectrum, largest_eigenvalue
from paperworks.training.batch_size.noise import gather
from paperworks.training.batch_size.outliers import batch_outlier, deflate_eigenvalue
from paperworks.training.stability.operators import Data

Floor = Literal["ratio", "damping", "bulk"]
Momentum = Literal["learned", "fixed"]
_LEAST_FLOOR = 1e-3  # of the largest eigenvalue


class LearnedRate(NamedTuple):
    """What a scheduler set at a step.

    Parameters
    ----------
    step
        The step of training, from 0 on.
    lam
        Largest eigenvalue that the rate is set for.
    lam_floor
        Smallest one that the momentum is set for; NaN where the momentum is fixed.
    lr
        The greatest learning rate of the optimiser's groups.
    momentum
        The momentum; NaN where it is fixed.
    products
        Products with the matrix that were made.

    Examples
    --------
    >>> LearnedRate(10, 4.0, 0.04, 0.4, 0.67, 8).lr
    0.4
    """

    step: int
    lam: float
    lam_floor: float
    lr: float
    momentum: float
    products: int


class LanczosLRScheduler:
    r"""Sets learning rate and momentum of an optimiser every few steps, from the spectrum of a batch's curvature.

    For the heavy ball they are Polyak's for curvatures from ``lam_floor`` to ``lam``: the rate
    ``safety (2 / (lam^(1/2) + lam_floor^(1/2)))^2``, and the momentum that goes with it. With a fixed momentum the rate
    is `safety` times the largest stable one, for Adam that of the curvature divided by its preconditioner, over what
    has had a gradient. Where groups have different rates, their ratios are kept, and the curvature is scaled by them; a
    group that is added later comes in with the rate that it then has. What others set, such as PyTorch's schedulers,
    lasts until the next refresh.

    Parameters
    ----------
    optimizer
        `torch.optim.SGD` without dampening, or of Adam's family, whose momentum stays fixed.
    model, loss_fn
        The network and ``loss_fn(outputs, targets)``, the mean over a batch. Gradients and modes aren't touched.
    momentum
        ``learned``, or ``fixed`` at what the groups have. By default it is learnt for SGD without Nesterov's.
    floor
        What the smallest curvature is taken for: ``ratio`` times the largest, a ``damping``, or ``bulk``: the size of
        the Ritz value with the largest weight, where most of the spectrum is.
    ratio
        For the floor ``ratio``. 0.01 and a safety of 0.5 were the best of seven settings on one problem.
    damping
        For the floor ``damping``; the least weight decay of the groups by default.
    safety
        Factor of the rate, since curvature grows until the next refresh.
    refresh
        Steps from one to the next. A refresh costs about two to three gradients for each Lanczos step, so that 8 of
        them every 20 steps take about as long as the training itself.
    steps
        Lanczos steps of a refresh.
    batch_size, s2, n_data
        The batch size of training, the noise of the Hessian, and the number of all data. With them eigenvalues of
        larger batches are converted to those of training by ``deflate_eigenvalue`` and ``batch_outlier``; without, the
        batches given are as large as those of training.
    kind
        ``hessian``, or ``gauss_newton``, which is never indefinite.
    batch_norm
        As in `FrozenCurvature`; ``train`` is what the gradients of training see.
    max_change
        Greatest factor of the rate from one refresh to the next, but for the first, which sets it.
    memory
        A smaller eigenvalue than before is taken for at least this share of it. Batches differ, and one that looks flat
        is no reason for a larger rate: with 0.9 trainings on digits ended at up to 11 times the least loss of a grid,
        with 1 at up to 4 times.
    random_state
        Seed of the starts.

    Raises
    ------
    TypeError
        For an optimiser of another family.
    ValueError
        For numbers out of bounds, dampening, ``maximize``, a momentum that can't be learnt, or an optimiser without a
        parameter of the model.

    Warns
    -----
    RuntimeWarning
        Where the curvature of a batch isn't finite or has no positive eigenvalue: the rate then stays as it is.

    References
    ----------
    arXiv 2006.09092, the on-the-fly learner; Polyak (1964) for its rule; for Adam: Cohen et al., arXiv 2207.14484,
    equation 3.

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> scheduler = LanczosLRScheduler(optimizer, model, nn.functional.mse_loss, safety=1.0, ratio=0.25)
    >>> batch = torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1)
    >>> record = scheduler.step(batch)  # of curvature 2: (2 / (2^0.5 + 0.5^0.5))^2
    >>> round(record.lr, 4), round(optimizer.param_groups[0]["momentum"], 4)
    (0.8889, 0.1111)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        loss_fn: Loss,
        *,
        momentum: Momentum | None = None,
        floor: Floor = "ratio",
        ratio: float = 0.01,
        damping: float | None = None,
        safety: float = 0.5,
        refresh: int = 20,
        steps: int = 8,
        batch_size: int | None = None,
        s2: float | None = None,
        n_data: int | None = None,
        kind: FrozenKind = "hessian",
        batch_norm: BatchNormMode = "eval",
        max_change: float = 2.0,
        memory: float = 0.99,
        random_state: int = 0,
    ) -> None:
        self.optimizer, self.model, self.loss_fn = optimizer, model, loss_fn
        self._adam = _family(optimizer) == "adam"
        nesterov = any(group.get("nesterov") for group in optimizer.param_groups)
        if momentum is None:
            momentum = "fixed" if self._adam or nesterov else "learned"
        self.momentum: Momentum = check_choice("momentum", momentum, get_args(Momentum))
        if momentum == "learned" and (self._adam or nesterov):
            raise ValueError("momentum is 'learned', which takes SGD without Nesterov's; it takes 'fixed' here")
        self.floor: Floor = check_choice("floor", floor, get_args(Floor))
        self.ratio = check_number("ratio", ratio, gt=0, le=1)
        self.safety = check_number("safety", safety, gt=0)
        self.refresh, self.lanczos_steps = check_count("refresh", refresh), check_count("steps", steps)
        self.max_change = check_number("max_change", max_change, ge=1)
        self.memory = check_number("memory", memory, ge=0, le=1)
        self.random_state = check_count("random_state", random_state, at_least=0)
        self.kind: FrozenKind = check_choice("kind", kind, get_args(FrozenKind))
        self.batch_norm: BatchNormMode = check_choice("batch_norm", batch_norm, get_args(BatchNormMode))
        self._noise = self._check_noise(batch_size, s2, n_data)
        self.damping = self._check_damping(damping)
        self.steps = self.products = self.skipped = 0
        self.lam = math.nan
        self.history: list[LearnedRate] = []
        self._relative = _ratios(self.get_last_lr())
        self._moved()

    def _check_noise(self, batch_size: int | None, s2: float | None, n_data: int | None) -> tuple[Any, ...] | None:
        if s2 is None:
            if batch_size is not None or n_data is not None:
                raise ValueError("batch_size and n_data are for batches of other sizes, which takes s2 too")
            return None
        if batch_size is None or self._adam:
            raise ValueError(
                "s2 takes the batch_size of training too, and SGD: Adam divides its noise by something else"
            )
        batch_outlier(1.0, s2, batch_size, n_data)  # which checks them
        return s2, batch_size, n_data

    def _check_damping(self, damping: float | None) -> float:
        if self.floor != "damping":
            if damping is not None:
                raise ValueError(f"damping is given for the floor {self.floor!r}, which doesn't take it")
            return 0.0
        if damping is None:
            damping = min(float(group.get("weight_decay", 0)) for group in self.optimizer.param_groups)
        return check_number("damping", damping, gt=0)

    def _moved(self) -> list[tuple[Tensor, int]]:
        """Return the model's parameters that the optimiser moves, in the model's order, with their group."""
        groups = {id(p): k for k, group in enumerate(self.optimizer.param_groups) for p in group["params"]}
        moved: list[tuple[Tensor, int]] = [
            (p, groups[id(p)]) for p in self.model.parameters() if id(p) in groups and p.requires_grad
            and self._relative[groups[id(p)]] > 0
        ]  # fmt: skip
        if not moved:
            raise ValueError("optimizer has no parameter of the model that takes a gradient")
        return moved

    def step(self, data: Data) -> LearnedRate | None:
        """Count a step of training, and set the rate in the first and then every `refresh` steps.

        Parameters
        ----------
        data
            Inputs and targets of the step: a pair, or batches that are put together. Call it before the optimiser's
            own step, so that the first one has a rate.

        Returns
        -------
        LearnedRate or None
            What was set; None between refreshes, and where the curvature told nothing. Until a first rate was set,
            as for Adam after its first step, each step tries.
        """
        self.steps += 1
        due = (self.steps - 1) % self.refresh == 0 or math.isnan(self.lam)
        return self.measure(data) if due else None

    def measure(self, data: Data) -> LearnedRate | None:
        """Set the rate at once.

        Parameters
        ----------
        data
            As in `step`.

        Returns
        -------
        LearnedRate or None
            What was set; None where the curvature told nothing.
        """
        if len(self._relative) != len(self.optimizer.param_groups):  # another matrix, which has no memory
            self._relative, self.lam = _ratios(self.get_last_lr()), math.nan
        moved = self._moved()
        if self._adam:  # which makes a state for what has a gradient, in its first step
            moved = [(p, k) for p, k in moved if "exp_avg_sq" in self.optimizer.state.get(p, {})]
        if not moved:
            return None
        spectrum, count = self._spectrum(data, moved)
        if spectrum is None or not spectrum.largest > 0:
            self.skipped += 1
            why = "isn't finite" if spectrum is None else f"has the largest eigenvalue {spectrum.largest:.3g}"
            warnings.warn(f"the curvature at step {self.steps} {why}; the rate stays", RuntimeWarning, stacklevel=3)
            return None
        lam = spectrum.largest
        if self._noise is not None:
            s2, batch_size, n_data = self._noise
            lam = batch_outlier(deflate_eigenvalue(lam, s2, count, n_data), s2, batch_size, n_data)
        first = math.isnan(self.lam)
        self.lam = lam if first else max(lam, self.memory * self.lam)
        floor, momentum, lr = self._rule(spectrum)
        now = max(self.get_last_lr())
        if not first:
            lr = min(max(lr, now / self.max_change), now * self.max_change)
        for group, relative in zip(self.optimizer.param_groups, self._relative, strict=True):
            _set(group, "lr", lr * relative)
            if self.momentum == "learned":
                group["momentum"] = momentum
        record = LearnedRate(self.steps - 1, self.lam, floor, lr, momentum, spectrum.nodes.shape[1])
        self.products += record.products
        self.history.append(record)
        return record

    def _rule(self, spectrum: Spectrum) -> tuple[float, float, float]:
        """Return the floor, the momentum, both NaN where it is fixed, and the rate."""
        groups = self.optimizer.param_groups
        if self.momentum == "learned":
            floor = min(self._floor(spectrum), self.lam)
            high, low = math.sqrt(self.lam), math.sqrt(floor)
            return floor, ((high - low) / (high + low)) ** 2, self.safety * (2 / (high + low)) ** 2
        if self._adam:
            factor = min((2 + 2 * group["betas"][0]) / (1 - group["betas"][0]) for group in groups)
        else:  # Nesterov's sees the curvature where its momentum leads
            factor = min(2 * (1 + g["momentum"]) / (1 + 2 * g["momentum"] * g["nesterov"]) for g in groups)
        return math.nan, math.nan, self.safety * float(factor) / self.lam

    def _floor(self, spectrum: Spectrum) -> float:
        if self.floor == "damping":
            return self.damping
        if self.floor == "ratio":
            return self.ratio * self.lam
        heaviest = spectrum.nodes[0, spectrum.weights[0].argmax()]
        return max(abs(float(heaviest)), _LEAST_FLOOR * self.lam)

    def _scales(self, moved: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Return the roots of what each parameter's step is multiplied by, and its weight decay."""
        scales, decays = [], []
        for p, k in moved:
            dtype = torch.promote_types(p.dtype, torch.float32)
            group, scale = self.optimizer.param_groups[k], torch.full_like(p, self._relative[k], dtype=dtype)
            if self._adam:
                state = self.optimizer.state[p]
                square = state.get("max_exp_avg_sq", state["exp_avg_sq"]).to(dtype)
                correction = 1 - float(group["betas"][1]) ** float(state["step"])
                # What never had a gradient, such as a word that wasn't seen, has no preconditioner yet.
                scale = torch.where(square > 0, scale / ((square / correction).sqrt() + group["eps"]), 0.0)
            decay = 0.0 if _decoupled(self.optimizer, group) else float(group.get("weight_decay", 0))
            scales.append(scale.detach().sqrt().flatten())
            decays.append(torch.full_like(scales[-1], decay))
        return torch.cat(scales), torch.cat(decays)

    def _spectrum(self, data: Data, moved: list[tuple[Tensor, int]]) -> tuple[Spectrum | None, int]:
        inputs, targets = gather(data)
        scale, decay = self._scales(moved)
        op = FrozenCurvature(self.model, self.loss_fn, [(inputs, targets)], self.kind, params=[p for p, _ in moved],
                             batch_norm=self.batch_norm)  # fmt: skip
        generator = torch_generator(self.random_state, self.steps, device=scale.device)

        def product(v: Tensor) -> Tensor:
            inner = scale[:, None] * v
            return scale[:, None] * (op @ inner + decay[:, None] * inner)

        try:
            found = largest_eigenvalue(product, op.n, generator, rtol=0, steps=self.lanczos_steps, dtype=scale.dtype)
        except RuntimeError as error:
            if "NaN or infinite" not in str(error):
                raise
            return None, len(targets)
        return found.spectrum, len(targets)

    def get_last_lr(self) -> list[float]:
        """Return the present rates, as PyTorch's schedulers do.

        Returns
        -------
        list[float]
            One for each group.
        """
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what a scheduler needs to go on; the rates themselves are in the optimiser's own state.

        Returns
        -------
        dict[str, Any]
            Counts, the last eigenvalue, the ratios of groups and the history, as plain numbers.
        """
        return {
            "steps": self.steps,
            "products": self.products,
            "skipped": self.skipped,
            "lam": self.lam,
            "relative": list(self._relative),
            "history": [tuple(record) for record in self.history],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another scheduler was.

        Parameters
        ----------
        state_dict
            From `state_dict`; that of the optimiser is loaded by itself.

        Raises
        ------
        ValueError
            For the state of an optimiser with another number of groups.
        """
        if len(state_dict["relative"]) != len(self._relative):
            count = len(state_dict["relative"])
            raise ValueError(f"state_dict is of {count} groups; it takes one of {len(self._relative)}")
        self.steps, self.products = int(state_dict["steps"]), int(state_dict["products"])
        self.skipped, self.lam = int(state_dict["skipped"]), float(state_dict["lam"])
        self._relative = [float(r) for r in state_dict["relative"]]
        self.history = [LearnedRate(*record) for record in state_dict["history"]]


def _family(optimizer: torch.optim.Optimizer) -> str:
    groups = optimizer.param_groups
    if any(group.get("maximize") for group in groups):
        raise ValueError("optimizer maximizes; it takes one that minimizes")
    if isinstance(optimizer, torch.optim.SGD):
        if any(group["dampening"] for group in groups):
            raise ValueError("optimizer has a dampening; its momentum is another than the heavy ball's, so it takes 0")
        return "sgd"
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return "adam"
    raise TypeError(f"optimizer is of type {type(optimizer).__name__}; it takes torch's SGD, Adam or AdamW")


def _ratios(rates: list[float]) -> list[float]:
    if not max(rates) > 0:
        raise ValueError(f"optimizer has the rates {rates}; their ratios are kept, so one has to be above 0")
    return [rate / max(rates) for rate in rates]


def _decoupled(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    return isinstance(optimizer, torch.optim.AdamW) or bool(group.get("decoupled_weight_decay"))


def _set(group: dict[str, Any], name: str, value: float) -> None:
    """Set a number of a group, in place where it is a tensor, as compiled optimisers keep it."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
