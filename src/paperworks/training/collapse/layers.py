"""Collapse from layer to layer of a network: recording of features, measures of many layers, layer-wise training."""

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.modes import evaluating
from paperworks.numerics.training import Progress, silent, train
from paperworks.training.collapse.meter import NeuralCollapseMeter
from paperworks.training.collapse.metrics import NCMetrics, Which

Loss = Literal["mse", "cross_entropy"]


class FeatureRecorder:
    """Keeps what a layer of a network puts out, or gets, in the last pass; as a context it goes when the block ends.

    Parameters
    ----------
    model
        The network that holds the layer.
    layer
        One of its modules, or its name as `named_modules` gives it.
    inputs
        Whether to keep what the layer gets: with the last layer, the features before it.

    Raises
    ------
    ValueError
        For a layer that isn't of the model.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> with FeatureRecorder(network, "2", inputs=True) as recorder:
    ...     _ = network(torch.ones(4, 3))
    >>> recorder.features.shape
    torch.Size([4, 5])
    """

    def __init__(self, model: nn.Module, layer: nn.Module | str, *, inputs: bool = False) -> None:
        found = dict(model.named_modules(remove_duplicate=False))
        module = found.get(layer) if isinstance(layer, str) else layer
        if module is None:
            raise ValueError(f"layer is {layer!r}; it takes one of {', '.join(map(repr, filter(None, found)))}")
        if not any(module is other for other in found.values()):
            raise ValueError(f"layer is a {type(layer).__name__} that is no module of the model")
        self._features: Tensor | None = None
        self._name, hook = type(module).__name__, self._keep_inputs if inputs else self._keep_output
        self._handle: Any = module.register_forward_hook(hook, with_kwargs=True)

    @property
    def features(self) -> Float[Tensor, "batch d"]:
        """What was kept, one flat row a sample, without its graph.

        Returns
        -------
        Tensor
            As many rows as the last batch had.

        Raises
        ------
        RuntimeError
            Where no batch has gone through the layer.
        """
        if self._features is None:
            raise RuntimeError(f"no batch has gone through the layer, a {self._name}; call the model, if that calls it")
        return self._features

    def close(self) -> None:
        """Record no more; what was kept stays."""
        self._handle.remove()

    def __enter__(self) -> "FeatureRecorder":
        """Return the recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Record no more."""
        self.close()

    def _keep_inputs(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self._keep(next(iter((*inputs, *named.values())), None))

    def _keep_output(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self._keep(output)

    @torch.compiler.disable  # the hook itself isn't to be compiled
    def _keep(self, value: Any) -> None:
        if not isinstance(value, Tensor) or not value.ndim:
            what = type(value).__name__ if not isinstance(value, Tensor) else "number"
            raise TypeError(f"what the layer, a {self._name}, keeps is a {what}; it takes a layer of tensors with rows")
        self._features = value.detach().reshape(len(value), -1).clone()  # a layer in place may follow


def layer_metrics(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    layers: Sequence[str] | None = None,
    *,
    which: Sequence[Which] = ("nc1", "nc1_trace", "nc2"),
    empty: Literal["raise", "skip"] = "raise",
    progress: Progress = silent,
) -> dict[str, NCMetrics]:
    """Measure the collapse of what every layer puts out, in one pass over the data.

    Parameters
    ----------
    model
        Any network; it is in evaluation mode meanwhile.
    batches
        Pairs of what the model takes and labels 0 to `num_classes` - 1.
    num_classes
        Number of classes.
    layers
        Names of modules as `named_modules` gives them; by default the model's children.
    which, empty
        As in `NeuralCollapseMeter.compute`. For "nc1" a matrix of a layer's values by its values is kept, which is too
        large for feature maps of early layers; "nc1_trace" and "nc2" need none.
    progress
        Wraps the batches.

    Returns
    -------
    dict[str, NCMetrics]
        The measures of each layer, by its name.

    Raises
    ------
    ValueError
        For no batches, unknown layers, and as `NeuralCollapseMeter` does.

    Examples
    --------
    >>> x, y = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.8, 0.1]]), torch.tensor([0, 0, 1, 1])
    >>> layer_metrics(nn.Sequential(nn.Identity(), nn.Tanh()), [(x, y)], 2, which=("nc1_trace",))
    {'0': NCMetrics(nc1_trace=0.01023), '1': NCMetrics(nc1_trace=0.007458)}
    """
    names = [name for name, _ in model.named_children()] if layers is None else list(layers)
    meters: dict[str, NeuralCollapseMeter] = {}
    with ExitStack() as stack, torch.no_grad():
        recorders = {name: stack.enter_context(FeatureRecorder(model, name)) for name in names}
        stack.enter_context(evaluating(model))
        for x, y in progress(batches, label="batches"):
            model(x)
            for name, recorder in recorders.items():
                features = recorder.features
                if name not in meters:
                    size, place = features.shape[1], features.device
                    meters[name] = NeuralCollapseMeter(num_classes, size, covariance="nc1" in which, device=place)
                meters[name].update(features, y)
    if not meters:
        raise ValueError("batches or layers: got none; it takes one or more")
    return {name: meters[name].compute(which=which, empty=empty) for name in names}


class LayerwiseTrainer:
    """Trains a network one block after the other, each with a last layer of its own on blocks that are frozen.

    Source of the protocol and its defaults: Section 5 of arXiv 2210.16658.

    Parameters
    ----------
    blocks
        The layers, in order; each goes from features to features. They are trained in place.
    num_classes
        Number of classes.
    loss
        "mse" on one-hot rows, half the squared distance, with a last layer without bias; or "cross_entropy", with bias.
    epochs, batch_size
        Epochs for each block, and samples in a batch.
    lr, momentum, weight_decay
        Settings of SGD; `lr` is divided by 10 after every `decay_epochs`.
    decay_epochs
        Epochs from one division to the next.

    Attributes
    ----------
    metrics_ : list[NCMetrics]
        Measures of the given features, and of what each block puts out.
    network_ : nn.Sequential
        The blocks and the deepest last layer.

    Raises
    ------
    ValueError
        For no blocks, an unknown loss, and counts or rates out of range.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(40, 4, generator=generator), torch.arange(40) % 2
    >>> blocks = [nn.Sequential(nn.Linear(a, 8), nn.ReLU()) for a in (4, 8)]
    >>> trainer = LayerwiseTrainer(blocks, 2, epochs=2, batch_size=20).fit(x, y, generator)
    >>> len(trainer.metrics_), trainer.network_(x).shape
    (3, torch.Size([40, 2]))
    """

    metrics_: list[NCMetrics]
    network_: nn.Sequential

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        num_classes: int,
        *,
        loss: Loss = "mse",
        epochs: int = 60,
        batch_size: int = 64,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        decay_epochs: int = 40,
    ) -> None:
        self.blocks, self.num_classes = list(blocks), check_count("num_classes", num_classes, at_least=2)
        if not self.blocks:
            raise ValueError("blocks is empty; it takes one or more modules")
        self.loss = check_choice("loss", loss, ("mse", "cross_entropy"))
        self.epochs, self.batch_size = check_count("epochs", epochs), check_count("batch_size", batch_size)
        self.lr, self.momentum = check_number("lr", lr, gt=0), check_number("momentum", momentum, ge=0, lt=1)
        self.weight_decay = check_number("weight_decay", weight_decay, ge=0)
        self.decay_epochs = check_count("decay_epochs", decay_epochs)

    def fit(
        self,
        features: Float[Tensor, "N ..."],
        labels: Int[Tensor, " N"],
        generator: torch.Generator | None = None,
        *,
        which: Sequence[Which] = ("nc1", "nc1_trace", "nc2"),
        progress: Progress = silent,
    ) -> "LayerwiseTrainer":
        """Train block after block, and measure what each puts out.

        Parameters
        ----------
        features
            What the first block takes, one entry of the first axis a sample.
        labels
            Class of each sample, 0 to `num_classes` - 1; each class has samples.
        generator
            Draws last layers and batches.
        which
            Measures to take, as in `nc_metrics`.
        progress
            Wraps the blocks.

        Returns
        -------
        LayerwiseTrainer
            The trainer itself, with `metrics_` and `network_`.

        Raises
        ------
        ValueError
            For labels out of range or a class without samples.
        FloatingPointError
            Where a loss is NaN or infinite.
        """
        h, self.metrics_ = features, [self._measured(features, labels, which)]
        for block in progress(self.blocks, label="blocks"):
            block.train()
            with torch.no_grad():  # as many inputs as the block puts out, whose buffers stay as they are
                width = copy.deepcopy(block)(h[:2]).flatten(1).shape[1]
            last = nn.Linear(width, self.num_classes, bias=self.loss == "cross_entropy").to(h)
            with torch.no_grad():
                for parameter in last.parameters():
                    parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)
            self._train(nn.Sequential(block, nn.Flatten(), last), h, labels, generator)
            block.eval()
            with torch.no_grad():
                h = torch.cat([block(part) for part in h.split(1024)])
            self.metrics_.append(self._measured(h, labels, which))
        self.network_ = nn.Sequential(*self.blocks, nn.Flatten(), last)
        return self

    def _train(self, network: nn.Module, h: Tensor, labels: Tensor, generator: torch.Generator | None) -> None:
        each = -(-len(h) // self.batch_size)
        order = labels
        onehot = functional.one_hot(labels, self.num_classes).to(h)

        def of_step(step: int) -> Tensor:
            nonlocal order
            if step % each == 0:
                order = torch.randperm(len(h), generator=generator).to(h.device)
            rows = order[step % each * self.batch_size :][: self.batch_size]
            if self.loss == "mse":
                return (network(h[rows]) - onehot[rows]).square().sum() / (2 * len(rows))
            return functional.cross_entropy(network(h[rows]), labels[rows])

        optimizer = torch.optim.SGD(
            network.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        train(
            of_step,
            optimizer,
            self.epochs * each,
            schedule=lambda step: 10.0 ** -(step // (self.decay_epochs * each)),
        )

    def _measured(self, h: Tensor, labels: Tensor, which: Sequence[Which]) -> NCMetrics:
        flat = h.flatten(1)
        meter = NeuralCollapseMeter(self.num_classes, flat.shape[1], covariance="nc1" in which, device=h.device)
        meter.update(flat.double(), labels)
        return meter.compute(which=which)
