"""Tests of the learner of rate and momentum."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from paperworks.numerics import FrozenCurvature, mlp, seeded
from paperworks.training import LanczosLRScheduler, batch_outlier, deflate_eigenvalue


def quadratic(out, y):
    return (out - y).square().sum(1).mean() / 2


def batch(values=(4.0, 1.0, 0.25)):
    """Inputs with which the Hessian of a linear model is diagonal with these values."""
    n = len(values)
    x = torch.diag(torch.tensor(values, dtype=torch.float64) * n).sqrt()
    return x, torch.zeros(n, 1, dtype=torch.float64)


def linear(n=3):
    with seeded(0):
        return nn.Linear(n, 1, bias=False).double()


def learner(optimizer, model, loss=quadratic, **options):
    return LanczosLRScheduler(optimizer, model, loss, **{"safety": 1.0, **options})


def polyak(high, low):
    high, low = math.sqrt(high), math.sqrt(low)
    return (2 / (high + low)) ** 2, ((high - low) / (high + low)) ** 2


@pytest.mark.parametrize(
    ("options", "low"),
    [({"ratio": 0.25}, 1.0), ({"floor": "damping", "damping": 0.5}, 0.5), ({"floor": "damping", "damping": 9.0}, 4.0)],
)
def test_rate_and_momentum_are_polyaks(options, low):
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    record = learner(optimizer, model, **options).step(batch())
    lr, momentum = polyak(4.0, low)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (pytest.approx(lr), pytest.approx(momentum))
    assert (record.lam, record.lam_floor, record.products) == (pytest.approx(4.0), pytest.approx(low), 3)


def test_the_bulk_is_the_heaviest_node():
    values = (4.0, *[0.1] * 9)
    model = linear(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    record = learner(optimizer, model, floor="bulk", random_state=1).step(batch(values))
    assert record.lam_floor == pytest.approx(0.1)
    flat = learner(optimizer, model, floor="bulk", random_state=1).step(batch((4.0, *[0.0] * 9)))
    assert flat.lam_floor == pytest.approx(0.004)


@pytest.mark.parametrize(("options", "factor"), [({}, 2.0), ({"momentum": 0.9}, 3.8),
                                                 ({"momentum": 0.9, "nesterov": True}, 3.8 / 2.8)])  # fmt: skip
def test_fixed_momentum_gives_a_share_of_the_largest_stable_rate(options, factor):
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **options)
    learner(optimizer, model, momentum="fixed", safety=0.5).step(batch())
    (rate,) = (group["lr"] for group in optimizer.param_groups)
    assert rate == pytest.approx(0.5 * factor / 4)
    x, y = batch()
    for times, stable in ((1.9, True), (2.1, False)):  # of the rate with half the safety
        for group in optimizer.param_groups:
            group["lr"] = times * rate
        with torch.no_grad():
            model.weight.fill_(1.0)
        optimizer.state.clear()
        for _ in range(400):
            optimizer.zero_grad()
            quadratic(model(x), y).backward()
            optimizer.step()
        assert (float(model.weight.detach().abs().max()) < 1.1) == stable


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p, lr: torch.optim.Adam(p, lr, amsgrad=True),
                                  torch.optim.AdamW])  # fmt: skip
def test_adam_is_as_stable_as_its_preconditioned_curvature(make):
    model, (x, y) = linear(), batch()
    optimizer = make(model.parameters(), lr=1e-3)
    scheduler = learner(optimizer, model, refresh=3)
    assert scheduler.step((x, y)) is None  # no second moments yet
    quadratic(model(x), y).backward()
    before = model.weight.grad.clone()
    optimizer.step()
    record = scheduler.step((x, y))
    scale = 1 / (before.abs().flatten() + 1e-8)
    top = float((scale * torch.tensor([4.0, 1.0, 0.25])).max())
    assert record.lr == pytest.approx(38 / top, rel=1e-4)
    assert math.isnan(record.momentum)
    assert scheduler.step((x, y)) is None
    assert scheduler.step((x, y)) is not None  # the fourth step


def test_groups_keep_their_ratios_and_scale_the_curvature():
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 1)).double()
    model[2].requires_grad_(False)
    groups = [{"params": model[0].parameters(), "lr": 0.5, "weight_decay": 0.3},
              {"params": model[1].parameters(), "lr": 2.0}, {"params": model[2].parameters()}]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.1)
    record = learner(optimizer, model, momentum="fixed").step(batch())
    op = FrozenCurvature(model, quadratic, [batch()])
    matrix = op @ torch.eye(4, dtype=torch.float64)
    matrix += torch.diag(torch.tensor([0.3, 0.3, 0.3, 0.0], dtype=torch.float64))
    root = torch.tensor([0.25, 0.25, 0.25, 1.0], dtype=torch.float64).sqrt()
    top = float(torch.linalg.eigvalsh(root[:, None] * matrix * root)[-1])
    assert record.lam == pytest.approx(top)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([record.lr / 4, record.lr, record.lr / 20])


def test_adam_is_judged_by_what_has_had_a_gradient():
    """Parameters that are never used, words that were not seen, and layers that are frozen at first."""
    with seeded(0):
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    model[3].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler, y = LanczosLRScheduler(optimizer, model, functional.cross_entropy, refresh=1), torch.arange(3)

    def step(words):
        functional.cross_entropy(model(words), y).backward()
        record = scheduler.step((words, y))
        optimizer.step()
        return record

    assert step(torch.arange(3)) is None
    known = step(torch.arange(3)).lam
    assert step(torch.arange(6, 9)).lam < 20 * known  # not those of 1 / eps
    model[3].requires_grad_(True)
    assert step(torch.arange(3)) is not None


def test_a_group_that_is_added_comes_in_with_its_rate():
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1.0)
    scheduler = learner(optimizer, model, refresh=5, steps=8)
    scheduler.step(batch())
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.add_param_group({"params": model[1].parameters(), "lr": 2.0})
    record = scheduler.measure(batch())
    assert scheduler.get_last_lr() == pytest.approx([record.lr / 4, record.lr])
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}], 2.0)
    assert record.lr == pytest.approx(learner(optimizer, model, steps=8).step(batch()).lr)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_rates_are_those_of_the_loss_times_any_number(scale):
    def rate(times):
        with seeded(0):
            model = mlp([5, 8, 3], nn.Tanh)
            x, y = torch.randn(60, 5), torch.randint(3, (60,))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = LanczosLRScheduler(optimizer, model, lambda out, t: times * functional.cross_entropy(out, t))
        return scheduler.step((x, y)).lr

    assert scale * rate(scale) == pytest.approx(rate(1.0), rel=1e-4)


def test_eigenvalues_of_larger_batches_are_converted():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    record = learner(optimizer, model, batch_size=2, s2=5.0, n_data=100).step(batch())
    assert record.lam == pytest.approx(batch_outlier(deflate_eigenvalue(4.0, 5.0, 3, 100), 5.0, 2, 100))


def test_changes_are_bounded_and_bad_curvature_changes_nothing():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = learner(optimizer, model, ratio=1.0, refresh=1, memory=0.9)
    assert scheduler.step(batch()).lr == pytest.approx(0.25)
    assert scheduler.step(batch((400.0, 1.0, 1.0))).lr == pytest.approx(0.125)
    assert scheduler.step(batch()).lam == pytest.approx(360)
    indefinite = LanczosLRScheduler(optimizer, model, lambda out, y: -quadratic(out, y))
    with pytest.warns(RuntimeWarning, match="largest eigenvalue -"):
        assert indefinite.step(batch()) is None
    x, y = batch()
    with pytest.warns(RuntimeWarning, match="isn't finite"):
        assert scheduler.step((x * math.nan, y)) is None
    assert scheduler.skipped == indefinite.skipped == 1
    assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == pytest.approx(0.0625)


def test_a_loaded_state_goes_on_as_before():
    def make():
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return optimizer, learner(optimizer, model, refresh=2, steps=2)

    (a, straight), (b, stopped) = make(), make()
    for k in range(3):
        straight.step(batch((4.0 + k, 1.0, 0.25)))
        stopped.step(batch((4.0 + k, 1.0, 0.25)))
    c, resumed = make()
    c.load_state_dict(b.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    for k in range(3, 6):
        assert straight.step(batch((4.0 + k, 1.0, 0.25))) == resumed.step(batch((4.0 + k, 1.0, 0.25)))
    assert a.param_groups[0]["lr"] == c.param_groups[0]["lr"]
    assert straight.state_dict() == resumed.state_dict()
    two = torch.optim.SGD([{"params": [p]} for p in (*linear().parameters(), torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="state_dict is of 2 groups"):
        resumed.load_state_dict({**stopped.state_dict(), "relative": [1.0] * len(two.param_groups)})


class Network(nn.Module):
    """Convolution, batch normalisation, dropout, and a matrix used twice."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.1))
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(self.features(x)))))


@pytest.mark.parametrize("make", [lambda m: m, torch.compile])
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_a_network_with_batch_norm_learns_its_rate(make, batch_norm):
    with seeded(0):
        model = Network()
        x, y = torch.randn(60, 1, 4, 4), torch.randint(3, (60,))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5, weight_decay=1e-4)
        scheduler = LanczosLRScheduler(
            optimizer, make(model), functional.cross_entropy, refresh=5, batch_norm=batch_norm
        )
        losses = []
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for _ in range(40):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x), y)
                loss.backward()
                gradients = [p.grad.clone() for p in model.parameters()]
                statistics = model.features[1].running_mean.clone()
                scheduler.step((x, y))
                assert torch.equal(statistics, model.features[1].running_mean)
                assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
                optimizer.step()
                losses.append(float(loss))
    assert all(part.training for part in model.modules())
    assert losses[-1] < 0.7 * losses[0]
    assert len(scheduler.history) == 8
    assert scheduler.products == 8 * 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, o: learner(torch.optim.Adagrad(m.parameters()), m), "optimizer is of type Adagrad"),
        (lambda m, o: learner(torch.optim.SGD(m.parameters(), 0.1, maximize=True), m), "maximizes"),
        (lambda m, o: learner(torch.optim.SGD(m.parameters(), 0.1, 0.9, dampening=0.1), m), "dampening"),
        (lambda m, o: learner(torch.optim.Adam(m.parameters()), m, momentum="learned"), "momentum is 'learned'"),
        (lambda m, o: learner(torch.optim.SGD(m.parameters(), 0.0), m), "optimizer has the rates"),
        (lambda m, o: learner(torch.optim.SGD([torch.ones(1)], 0.1), m), "no parameter of the model"),
        (lambda m, o: learner(o, m, s2=1.0), "s2 takes the batch_size"),
        (lambda m, o: learner(o, m, batch_size=4), "which takes s2 too"),
        (lambda m, o: learner(o, m, batch_size=4, s2=-1.0), "s2 is -1"),
        (lambda m, o: learner(o, m, damping=0.1), "damping is given for the floor 'ratio'"),
        (lambda m, o: learner(o, m, floor="damping"), "damping is 0"),
        (lambda m, o: learner(o, m, floor="mean"), "floor"),
        (lambda m, o: learner(o, m, ratio=0.0), "ratio is 0"),
        (lambda m, o: learner(o, m, safety=-1.0), "safety is -1"),
        (lambda m, o: learner(o, m, refresh=0), "refresh is 0"),
        (lambda m, o: learner(o, m, max_change=0.5), "max_change is 0.5"),
        (lambda m, o: learner(o, m, kind="fisher"), "kind"),
        (lambda m, o: learner(o, m, batch_norm="off"), "batch_norm"),
        (lambda m, o: learner(o, m).step(3), "data"),
        (lambda m, o: learner(o, m).step((torch.ones(2, 3).double(), torch.ones(1, 1).double())), "2 inputs and 1"),
        (lambda m, o: learner(o, mlp([2, 2]).to("meta")), "no parameter of the model"),
    ],
)  # fmt: skip
def test_bad_input(make, message):
    model = linear()
    with pytest.raises((ValueError, TypeError), match=message):
        make(model, torch.optim.SGD(model.parameters(), lr=0.1))
