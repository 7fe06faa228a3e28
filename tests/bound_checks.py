"""How far outputs get on points of a set, against which bounds are tested."""

import torch

from paperworks.papers.auto_lirpa.points import attacked, random_points
from paperworks.robustness import BoundedTensor

METHODS = ("IBP", "forward", "forward+backward", "CROWN-IBP", "CROWN", "alpha-CROWN")


def reached(f, ptb, x, n=30, steps=5):
    """Return the least and greatest outputs (batch, *output) met on random points and by an attack on each output."""
    points = list(random_points(ptb, x, n, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        outputs = [f(p) for p in points]
    size = outputs[0][0].numel()
    for i in range(min(size, 6)):
        for sign in (1, -1):
            found = attacked(lambda z, i=i, s=sign: s * f(z).reshape(len(z), -1)[:, i], ptb, x, steps)
            with torch.no_grad():
                outputs.append(f(found))
    stacked = torch.stack(outputs)
    return stacked.amin(0), stacked.amax(0)


def check_bounds(bounded, f, ptb, x, methods=METHODS, tolerance=1e-10, **options):
    """Check that bounds by every method hold what is reached, and return their mean widths by method."""
    least, greatest = reached(f, ptb, x, **options)
    slack = tolerance * (1 + greatest.abs().amax())
    widths = {"reached": float((greatest - least).mean())}
    for method in methods:
        lower, upper = bounded.compute_bounds(BoundedTensor(x, ptb), method)
        assert lower.shape == least.shape
        assert (lower <= least + slack).all(), (method, float((lower - least).detach().max()))
        assert (upper >= greatest - slack).all(), (method, float((greatest - upper).detach().max()))
        widths[method] = float((upper - lower).mean().detach())
    return widths
