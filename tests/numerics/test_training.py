import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from paperworks.numerics import EarlyStopping, ExponentialAverage, mlp, seeded, torch_generator, train, warmup_cosine


def fitted(seed=0, steps=30, **options):
    with seeded(seed):
        network = mlp([2, 8, 1], nn.Tanh)
    rng = torch_generator(seed)
    x = torch.linspace(-1, 1, 40).reshape(20, 2)
    y = x.prod(1, keepdim=True)

    def loss(step):
        chosen = torch.randint(20, (5,), generator=rng)
        return functional.mse_loss(network(x[chosen]), y[chosen])

    return network, train(loss, torch.optim.Adam(network.parameters(), 1e-2), steps, **options)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_same_seed_gives_the_same_training_and_another_another():
    (a, losses), (b, again), (c, _) = fitted(), fitted(), fitted(1)
    assert torch.equal(weights(a), weights(b))
    assert np.array_equal(losses, again)
    assert not torch.equal(weights(a), weights(c))
    assert losses[-10:].mean() < losses[:10].mean()


def test_a_schedule_scales_the_rates_of_each_optimizer_as_torchs_does():
    schedule = lambda step: warmup_cosine(step, 3, 20)  # noqa: E731

    def run(theirs):
        p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        optimizers = [torch.optim.SGD([p], 0.1, momentum=0.9), torch.optim.Adam([q], 0.3)]

        def loss(step):
            return (p**2).sum() + (p * q).sum() + (q**4).sum()

        if not theirs:
            train(loss, optimizers, 20, schedule=schedule)
        else:
            schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
            for step in range(20):
                for o in optimizers:
                    o.zero_grad()
                loss(step).backward()
                for o, s in zip(optimizers, schedulers, strict=True):
                    o.step()
                    s.step()
        return torch.cat([p, q]).detach()

    torch.testing.assert_close(run(False), run(True), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("clip", [0.5, lambda step: 0.5])
def test_gradients_are_clipped_together(clip):
    p, q = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    train(lambda step: 3 * p.sum() + 4 * q.sum(), torch.optim.SGD([p, q], 1.0), 1, clip=clip)
    torch.testing.assert_close(torch.cat([p, q]).detach(), torch.tensor([-0.3, -0.4]))


def test_progress_wraps_the_steps_and_a_callback_ends_them():
    seen = []

    def progress(items, label=""):
        seen.append((list(items), label))
        return items

    _, losses = fitted(steps=10, callback=lambda step, loss: step == 3, progress=progress, label="fitting")
    assert len(losses) == 4
    assert seen == [(list(range(10)), "fitting")]


def test_early_stopping_brings_the_best_weights_back():
    network, values = nn.Linear(1, 1), iter([3.0, 2.0, 5.0, 4.0, 1.0])
    kept = []

    def validate():
        kept.append(weights(network))
        return next(values)

    stopping = EarlyStopping(network, validate, patience=2, every=3)
    losses = train(
        lambda step: network(torch.ones(1, 1)).sum(), torch.optim.SGD(network.parameters(), 0.1), 99, callback=stopping
    )
    assert len(losses) == 12
    assert (stopping.best, stopping.best_step) == (2.0, 5)
    assert torch.equal(weights(network), kept[1])
    assert network.training


def test_the_average_follows_and_copies_buffers():
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = ExponentialAverage(network, 0.99)
    start = weights(network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
        network[1].running_mean.fill_(7)
    average.update(10**6)
    torch.testing.assert_close(weights(average.network), start + 0.01, rtol=0, atol=1e-6)
    assert average.network[1].running_mean.item() == 7
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fitted(steps=0), ValueError, "steps is 0"),
        (lambda: fitted(clip=0.0), ValueError, "clip is 0.0"),
        (lambda: fitted(clip=math.nan), ValueError, "clip is nan"),
        (lambda: mlp([3]), ValueError, "sizes is"),
        (lambda: ExponentialAverage(nn.Linear(1, 1), 1.5), ValueError, "decay is 1.5"),
        (lambda: EarlyStopping(nn.Linear(1, 1), float, patience=0), ValueError, "patience is 0"),
        (lambda: EarlyStopping(nn.Linear(1, 1), float, every=0), ValueError, "every is 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_loss_that_is_not_a_number_ends_the_training_before_the_weights_are_lost():
    p = nn.Parameter(torch.ones(1))
    with pytest.raises(FloatingPointError, match="nan in step 1"):
        train(lambda step: p.sum() * (math.nan if step else 1), torch.optim.SGD([p], 0.5), 5)
    assert p.item() == 0.5
