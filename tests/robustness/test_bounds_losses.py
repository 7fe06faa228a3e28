"""Loss fusion and schedules of radii."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_checks import reached
from paperworks.robustness import (
    AdaptiveScheduler,
    BoundedModule,
    BoundedParameter,
    BoundedTensor,
    CrossEntropyWrapper,
    LinearScheduler,
    PerturbationLpNorm,
    SmoothedScheduler,
    margin_spec,
    robust_cross_entropy,
)


def classifier(classes=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, classes)).double()


def data(classes=5, batch=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (batch,), generator=generator)


def test_margins_are_those_of_the_label():
    x, labels = data()
    logits = classifier()(x)
    margins = torch.einsum("bsk,bk->bs", margin_spec(labels, 5).double(), logits)
    for i, y in enumerate(labels):
        torch.testing.assert_close(
            margins[i], torch.cat([logits[i, y] - logits[i, :y], logits[i, y] - logits[i, y + 1 :]])
        )
    torch.testing.assert_close(robust_cross_entropy(margins), F.cross_entropy(logits, labels, reduction="none"))
    with pytest.raises(ValueError, match="labels go from 0 to 5; they take 0 to 4"):
        margin_spec(torch.tensor([0, 5]), 5)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN", "forward+backward", "forward"])
@pytest.mark.parametrize("fusion", ["merged", "separate"])
def test_the_fused_loss_is_bounded(method, fusion):
    model, (x, labels) = classifier(), data()
    fused = BoundedModule(CrossEntropyWrapper(model), (x, labels), {"fusion": fusion})
    torch.testing.assert_close(fused(x, labels), F.cross_entropy(model(x), labels, reduction="none"))
    ball = PerturbationLpNorm(0.1)
    _, upper = fused.compute_bounds((BoundedTensor(x, ball), labels), method, bound_lower=False)
    _, greatest = reached(lambda z: F.cross_entropy(model(z), labels, reduction="none"), ball, x)
    assert (upper >= greatest).all()
    assert (upper <= greatest + 3).all()


@pytest.mark.parametrize("classes", [2, 5, 70])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
def test_fusing_is_never_worse_given_the_same_intervals(classes, eps):
    model, (x, labels) = classifier(classes), data(classes)
    ball = BoundedTensor(x, PerturbationLpNorm(eps))
    wrapped = CrossEntropyWrapper(model)
    opts = {"fusion": "merged", "intersect": False}
    _, fused = BoundedModule(wrapped, (x, labels), opts).compute_bounds((ball, labels), "CROWN-IBP", bound_lower=False)
    margins = BoundedModule(model, x, {"intersect": False})
    # With intervals from the merged last layer, each chord is taken below its right end, that is below exp(-margin).
    lower, _ = margins.compute_bounds(ball, "IBP", C=margin_spec(labels, classes).double(), bound_upper=False)
    assert (fused <= robust_cross_entropy(lower) + 1e-9).all()


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN", "forward", "alpha-CROWN"])
def test_exponentials_that_underflow_are_no_trouble(method):
    model, (x, labels) = nn.Linear(6, 5), data()
    x = x.float()
    with torch.no_grad():
        model.weight.mul_(200)
    fused = BoundedModule(CrossEntropyWrapper(model), (x, labels), {"steps": 2})
    ball = PerturbationLpNorm(0.3)
    lower, upper = fused.compute_bounds((BoundedTensor(x, ball), labels), method)
    least, greatest = reached(lambda z: F.cross_entropy(model(z), labels, reduction="none"), ball, x)
    assert (lower <= least + 1e-3).all()
    assert (upper >= greatest - 1e-3).all()
    assert upper.isfinite().all()
    assert (upper > 100).any(), "some sums underflow"


def test_the_gradient_of_the_fused_loss_is_right():
    model, (x, labels) = classifier(), data()
    fused = BoundedModule(CrossEntropyWrapper(model), (x, labels))

    def loss():
        ball = BoundedTensor(x, PerturbationLpNorm(0.05))
        return fused.compute_bounds((ball, labels), "CROWN-IBP", bound_lower=False)[1].mean()

    loss().backward()
    for p in model.parameters():
        direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            p += 1e-6 * direction
            up = loss()
            p -= 2e-6 * direction
            down = loss()
            p += 1e-6 * direction
        torch.testing.assert_close((p.grad * direction).sum(), (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


def test_one_row_serves_all_classes():
    """The coefficients that the fused loss sends back have one row, of the size of a single margin's."""
    from paperworks.robustness.bounds import backward

    seen = []
    model, (x, labels) = classifier(50), data(50)
    fused = BoundedModule(CrossEntropyWrapper(model), (x, labels), {"fusion": "separate"})
    original = backward.propagate
    backward.propagate = lambda call, start, rows, stop=(): seen.append(len(rows)) or original(call, start, rows, stop)
    try:
        fused.compute_bounds((BoundedTensor(x, PerturbationLpNorm(0.1)), labels), "CROWN-IBP", bound_lower=False)
    finally:
        backward.propagate = original
    assert seen == [1]


def test_the_loss_is_bounded_over_a_ball_of_weights():
    model, (x, labels) = classifier(), data()
    for i in (0, 2, 4):
        model[i].weight = BoundedParameter(model[i].weight, PerturbationLpNorm(0.02, 2))
    fused = BoundedModule(CrossEntropyWrapper(model), (x, labels))
    _, upper = fused.compute_bounds((x, labels), "CROWN-IBP", bound_lower=False)
    center = {f"{i}.weight": model[i].weight.detach().as_subclass(torch.Tensor) for i in (0, 2, 4)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        steps = {n: torch.randn(w.shape, dtype=w.dtype, generator=generator) for n, w in center.items()}
        moved = {n: w + 0.02 * steps[n] / steps[n].norm() for n, w in center.items()}
        with torch.no_grad():
            logits = torch.func.functional_call(model, moved, (x,))
        assert (F.cross_entropy(logits, labels, reduction="none") <= upper).all()
    upper.sum().backward()
    assert all(model[i].weight.grad.any() for i in (0, 2, 4))


def radii(scheduler, steps, losses=None):
    found = [scheduler.eps]
    for i in range(steps):
        scheduler.step(None if losses is None else losses[i])
        found.append(scheduler.eps)
    return found


def test_schedules_grow_from_nothing_to_the_greatest_radius():
    linear = radii(LinearScheduler(0.2, 3, 10), 20)
    assert linear[3] == 0
    assert linear[8] == pytest.approx(0.1)
    assert linear[13:] == [0.2] * 8
    smooth = SmoothedScheduler(0.2, 3, 100, mid=0.4)
    found = radii(smooth, 120)
    assert found[3] == 0
    assert found[103:] == pytest.approx([0.2] * 18)
    growth = [b - a for a, b in pairwise(found)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(growth[:44]))
    assert growth[50] == pytest.approx(growth[90])
    assert growth[44] == pytest.approx(growth[42], rel=0.1)  # the slopes match
    assert smooth.kappa == pytest.approx(0.0)
    assert LinearScheduler(0.2, 3, 10).kappa == 1


def test_the_smoothed_schedule_is_the_official_one():
    # Computed as in auto_LiRPA 0.7.1's SmoothedScheduler(0.3, "start=2,length=3,mid=0.25,beta=4"), 8 batches an epoch.
    init, final = 8, 32
    mid = int((final - init) * 0.25) + init
    t = (mid - init) ** 3.0
    alpha = 0.3 / ((final - mid) * 4 * t + (mid - init) * t)
    expected = []
    for step in range(40):
        power = alpha * max(step - init, 0) ** 4
        value = alpha * (mid - init) ** 4
        line = min(value + (0.3 - value) * (step - mid) / (final - mid), 0.3)
        expected.append((line if step >= mid else power) if step > init else 0.0)
    assert radii(SmoothedScheduler(0.3, 8, 24), 39) == pytest.approx(expected)


def test_the_adaptive_schedule_looks_at_the_loss():
    falling = radii(AdaptiveScheduler(0.1, min_step=1e-4, max_step=1e-3), 30, [2 * 0.9**i for i in range(30)])
    rising = radii(AdaptiveScheduler(0.1, min_step=1e-4, max_step=1e-3), 30, [2 * 1.6**i for i in range(30)])
    assert falling[-1] > 3 * rising[-1] > 0
    assert max(b - a for a, b in pairwise(falling)) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="loss is None"):
        AdaptiveScheduler(0.1).step()
    with pytest.raises(ValueError, match="it takes min_step <= max_step"):
        AdaptiveScheduler(0.1, min_step=1.0)
    with pytest.raises(ValueError, match="max_eps is 0"):
        LinearScheduler(0.0, 0, 1)
    with pytest.raises(ValueError, match="length is 0"):
        LinearScheduler(0.1, 0, 0)
    with pytest.raises(ValueError, match="mid is 0"):
        SmoothedScheduler(0.1, 0, 1, mid=0.0)
