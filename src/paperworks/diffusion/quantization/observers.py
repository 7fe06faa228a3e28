"""What a quantiser does with activations while it is calibrated: bounds, then a histogram, then the best candidates."""

import torch
from torch import Tensor

from paperworks.core.validation import check_finite
from paperworks.diffusion.quantization.config import QuantConfig
from paperworks.diffusion.quantization.histogram import Histogram
from paperworks.diffusion.quantization.quantizer import UniformAffineQuantizer, group_of_rows
from paperworks.diffusion.quantization.search import error_sums, pick, scores_of, search, shortlist


class WholeSetObserver:
    """Finds a quantiser's range over all batches of a calibration set, which it sees three times."""

    def __init__(self, quantizer: UniformAffineQuantizer, config: QuantConfig) -> None:
        groups = config.timewise_groups
        self.quantizer, self.config = quantizer, config
        self.lo, self.hi = torch.full((groups,), torch.inf), torch.full((groups,), -torch.inf)
        self.histogram: Histogram | None = None
        self.scale = self.zero_point = torch.empty(0)
        self.sums: Tensor | None = None

    def bound(self, x: Tensor) -> Tensor:
        """See a batch for the first time: keep the least and the greatest number."""
        check_finite("an activation", x)
        for group, part in self._parts(x):
            lo, hi = part.aminmax()
            self.lo[group] = torch.minimum(self.lo[group], lo)
            self.hi[group] = torch.maximum(self.hi[group], hi)
        return x

    def count(self, x: Tensor) -> Tensor:
        """See it for the second time: count it into a histogram."""
        assert self.histogram is not None
        for group, part in self._parts(x):
            self.histogram.add(group, part)
        return x

    def refine(self, x: Tensor) -> Tensor:
        """See it for the third time: score the candidates on the shortlist."""
        assert self.sums is not None
        for group, part in self._parts(x):
            chosen = (self.scale[group, None].to(x), self.zero_point[group, None].to(x))
            rows = part.reshape(1, -1)
            c = self.config
            self.sums[group] += error_sums(rows, None, *chosen, self.quantizer.n_bits, c.scale_method, c.metric_p)[0]
        return x

    @property
    def seen(self) -> bool:
        """Whether any activation came by, in every group of times."""
        return bool((self.hi >= self.lo).all())

    def start_counting(self) -> bool:
        """Go from bounds to counts, and tell whether these are needed."""
        self.histogram = Histogram.between(self.lo, self.hi)
        return self.config.scale_method != "minmax"

    def start_refining(self) -> bool:
        """Go from counts to a shortlist, and tell whether it has anything to choose from."""
        assert self.histogram is not None
        c = self.config
        self.scale, self.zero_point = shortlist(
            self.histogram, c.scale_method, c.symmetric_a, self.quantizer.n_bits, c.metric_p, c.candidates
        )
        self.histogram = None
        parts = 3 if c.scale_method == "cosine" else 1
        self.sums = torch.zeros(*self.scale.shape, parts, dtype=torch.float64)
        return self.scale.shape[1] > 1

    def finish(self) -> None:
        """Give the quantiser its scale."""
        scale, zero_point = self.scale, self.zero_point
        if scale.shape[1] > 1:
            assert self.sums is not None
            scale, zero_point = pick(scale, zero_point, scores_of(self.sums, self.config.scale_method), 1)
        whole = self.config.timewise_groups == 1
        self.quantizer.set_parameters(*((scale[0, 0], zero_point[0, 0]) if whole else (scale[:, 0], zero_point[:, 0])))

    def _parts(self, x: Tensor) -> list[tuple[int, Tensor]]:
        x = x.detach()
        if self.config.timewise_groups == 1:
            return [(0, x)]
        assert self.quantizer.group is not None
        group = group_of_rows(self.quantizer.group, x)
        return [(int(g), x[group == g]) for g in group.unique()]


class MovingAverageObserver:
    """Finds a range batch by batch, averages it, and quantises each batch with it, as the released code does."""

    momentum = 0.1

    def __init__(self, quantizer: UniformAffineQuantizer, config: QuantConfig) -> None:
        self.quantizer, self.config = quantizer, config
        self.range: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """See a batch and return it quantised."""
        c, last = self.config, self.quantizer.levels - 1
        rows = check_finite("an activation", x.detach()).reshape(1, -1).float()
        bits, method = self.quantizer.n_bits, c.scale_method
        scale, zero_point = search(
            rows, method, symmetric=c.symmetric_a, n_bits=bits, p=c.metric_p, candidates=c.candidates
        )
        found = torch.cat([-zero_point * scale, (last - zero_point) * scale])
        self.range = found if self.range is None else torch.lerp(self.range, found, self.momentum)
        self.quantizer.set_range(*self.range)
        return self.quantizer.quantized(x)
