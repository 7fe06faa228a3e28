"""Directions, codecs, logs, the optimiser's exactness and its theory."""

import copy
import json
import math
import pickle
import struct
import threading
import zlib
from datetime import timedelta

import numpy as np
import pytest
import torch

from paperworks.optimization import (
    LocalTransport,
    OneByteSPSA,
    Recipe,
    ReplicaDivergence,
    Round,
    ScalarCodec,
    SharedDirection,
    TrainingLog,
    decode,
    encode,
    spsa_contraction,
    spsa_lr,
)
from paperworks.optimization.zeroth_order.directions import NOISES, Stream, quantile_means
from paperworks.optimization.zeroth_order.transports import _join

NETWORK = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))


def test_bits_are_those_of_philox():
    # The first block of Philox 4x64 with ten rounds for key 0 and counter 0, as in the known answers of Random123.
    words = np.array([0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B], "<u8")
    found = Stream(bytes(16), "gaussian-lut").read(0, 32)
    assert np.array_equal(found, quantile_means()[words.view(np.uint8)])


@pytest.mark.parametrize("noise", NOISES)
def test_any_slice_of_a_direction_is_made_by_itself(noise):
    directions = SharedDirection(3, noise)
    z = directions.fill_(torch.empty(70_000), 1, 2, 3)
    assert torch.equal(directions.fill_(torch.empty(50), 1, 2, 3, offset=65_530), z[65_530:65_580])
    assert torch.equal(directions.add_(torch.ones(9, 7).T, -2.0, 1, 2, 3), 1 - 2 * z[:63].view(7, 9))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert abs(float(z @ directions.fill_(torch.empty(70_000), *other))) < 5 * math.sqrt(70_000)
    assert abs(float(z.mean())) < 5 / math.sqrt(70_000)
    assert float(z.var()) == pytest.approx(1, abs=0.03)
    assert float(z.pow(4).mean()) == pytest.approx(directions.fourth_moment, abs=0.15)
    assert directions.fill_(torch.empty(10, dtype=torch.bfloat16), 1, 2, 3).dtype == torch.bfloat16


def test_the_table_has_unit_variance_and_lighter_tails_than_the_normal_law():
    table = quantile_means().astype(float)
    assert np.mean(table) == 0
    assert np.mean(table**2) == pytest.approx(1, abs=1e-7)
    assert 2.8 < SharedDirection(0).fourth_moment < 3


def test_codes_are_within_half_a_level():
    g = np.concatenate([np.geomspace(0.0196, 51.2, 1000), -np.geomspace(0.0196, 51.2, 1000)])
    found = decode(encode(g))
    assert np.abs(found / g - 1).max() <= math.exp(1 / 32) - 1 + 1e-6
    assert np.array_equal(encode(decode(np.arange(256)))[1:128], np.arange(1, 128))
    assert decode(encode([1e9, -1e9])).tolist() == pytest.approx([math.exp(63 / 16), -math.exp(63 / 16)])
    assert encode([math.exp(-63.51 / 16), math.exp(-63.49 / 16)]).tolist() == [0, 1]
    wide = ScalarCodec(step=1 / 8)
    assert wide.decode(wide.encode([1e-3, 2e3]), 2) == pytest.approx([1e-3, 2e3], rel=0.07)


@pytest.mark.usefixtures("untyped")
def test_codecs_have_their_size_and_refuse_what_is_not_theirs():
    g = np.array([0.5, -3.25, 0.0, 1e-3, -7.0, 2.0, 2.0, 2.0, -1.0])
    for name, size in {"int8-log": 9, "fp32": 36, "fp16": 18, "sign": 2}.items():
        codec = ScalarCodec(name)
        payload = codec.encode(g)
        assert len(payload) == codec.nbytes(9) == size
        assert np.array_equal(np.sign(codec.decode(payload, 9))[[0, 1, 4]], [1, -1, -1])
        with pytest.raises(ValueError, match="payload has"):
            codec.decode(payload + b"x", 9)
    assert ScalarCodec("fp32").decode(ScalarCodec("fp32").encode(g), 9) == pytest.approx(g)
    assert ScalarCodec("sign").decode(ScalarCodec("sign").encode([0.0]), 1) == 1
    assert np.isfinite(ScalarCodec("fp16").decode(ScalarCodec("fp16").encode([1e30]), 1)).all()
    with pytest.raises(ValueError, match="NaN or infinity"):
        ScalarCodec("fp32").decode(np.array([np.inf], "<f4").tobytes(), 1)
    with pytest.raises(ValueError, match="g is"):
        encode([math.nan])
    with pytest.raises(ValueError, match="codec is 'int7'"):
        ScalarCodec("int7")
    with pytest.raises(ValueError, match="step is"):
        ScalarCodec(step=0)
    with pytest.raises(ValueError, match="code is 256"):
        decode([256])


def test_stochastic_rounding_is_right_in_the_mean():
    codec = ScalarCodec(stochastic=True)
    for g in (1.02, -0.4, 0.005):
        found = codec.decode(codec.encode(np.full(40_000, g), random_state=0), 40_000)
        assert float(found.mean(dtype=float)) == pytest.approx(g, abs=5 * float(found.std()) / 200 + 1e-9)


def test_the_shift_follows_the_magnitudes():
    codec, shift = ScalarCodec(adaptive=True), 0
    for _ in range(40):
        shift = codec.next_shift(codec.encode([1e-5, 2e-5, 3e-5], shift), shift)
    assert codec.decode(codec.encode([2e-5], shift), 1, shift) == pytest.approx([2e-5], rel=0.04)


def quadratic(w):
    return lambda: (w * w).sum() / 2


@pytest.mark.parametrize("noise", NOISES)
def test_a_step_contracts_a_quadratic_as_the_formula_says(noise):
    size, samples, rounds = 50, 4, 300
    lr = spsa_lr(1.0, size, samples, noise)
    w, ratios = torch.ones(size, dtype=torch.float64), []
    optimiser = OneByteSPSA([w], lr=lr, samples=samples, codec="fp32", noise=noise, scale="mean")
    for _ in range(rounds):
        w.copy_(torch.ones(size))
        optimiser.step(quadratic(w))
        ratios.append(float(w @ w) / size)
    expected = spsa_contraction(lr, 1.0, size, samples, noise)
    assert expected == pytest.approx(1 - lr)
    assert abs(np.mean(ratios) - expected) < 4 * np.std(ratios) / math.sqrt(rounds)


@pytest.mark.parametrize("exact", [False, True])
def test_weights_are_untouched_by_evaluations(exact):
    network = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    before = [p.detach().clone() for p in network.parameters()]
    losses = []

    def closure():
        losses.append(float(network(x).square().mean() + network.linear1.weight.data.sum()))
        return losses[-1]

    OneByteSPSA(network.parameters(), lr=0.0, samples=3, exact=exact).step(closure)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert len(set(losses)) == 6
    failing = OneByteSPSA(network.parameters(), lr=0.1, exact=exact)
    with pytest.raises(ZeroDivisionError):
        failing.step(lambda: 1 / 0)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_both_ways_to_evaluate_give_the_same_training():
    x, y = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    found = []
    for exact in (False, True):
        network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
        network.load_state_dict(NETWORK.state_dict())
        optimiser = OneByteSPSA(network.parameters(), lr=0.01, samples=4, exact=exact, variance_scaling=True)
        for _ in range(20):
            loss = optimiser.step(lambda k, net=network: torch.nn.functional.cross_entropy(net(x[k::4]), y[k::4]))
        found.append((float(loss), optimiser.digest, optimiser.update_norm))
    assert found[0] == found[1]


def test_the_update_is_the_sum_over_directions():
    w, tall = torch.zeros(3, 5), torch.zeros(7, 2).T
    optimiser = OneByteSPSA(
        [{"params": [w]}, {"params": [tall], "lr": 0.5}], lr=0.1, samples=2, codec="fp32", run_seed=9
    )
    optimiser.step(lambda k: (k + 1) * (w.sum() + tall.sum()))
    (message,) = optimiser.log.rounds[0].messages
    g = ScalarCodec("fp32").decode(message[2], 2)
    directions = SharedDirection(9)
    for p, lr, offset in ((w, 0.1, 0), (tall, 0.5, 32)):
        z = [directions.fill_(torch.empty(p.shape), 0, 0, k, offset) for k in range(2)]
        torch.testing.assert_close(p, -lr / math.sqrt(2) * (g[0] * z[0] + g[1] * z[1]))
    assert optimiser.update_norm == pytest.approx(float(torch.cat([w.ravel(), tall.ravel()]).norm()), rel=1e-5)


def test_what_is_logged_replays_to_the_same_bytes(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    first = {k: v.clone() for k, v in network.state_dict().items()}
    codec = ScalarCodec(stochastic=True, adaptive=True)
    optimiser = OneByteSPSA(network.parameters(), lr=0.01, samples=3, codec=codec, weight_decay=0.1,
                            variance_scaling=True, noise="rademacher")  # fmt: skip
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    x = torch.ones(2, 5)
    for _ in range(10):
        optimiser.step(lambda k: network(x + k).square().sum())
        schedule.step()
    optimiser.log.save(tmp_path / "run.log")
    last = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(first)
    log = TrainingLog.load(tmp_path / "run.log")
    log.replay(network)
    assert log.recipe == optimiser.recipe
    assert log.rounds == optimiser.log.rounds
    assert all(torch.equal(v, last[k]) for k, v in network.state_dict().items())
    assert list(tmp_path.iterdir()) == [tmp_path / "run.log"]


@pytest.mark.usefixtures("untyped")
def test_a_broken_log_is_refused():
    log = TrainingLog(Recipe(), [Round(0, (0.1,), 0, ((0, 1, b"@"),))])
    data = log.to_bytes()
    assert TrainingLog.from_bytes(data).rounds == log.rounds
    for bad, told in ((data[:-1], "broken"), (data[:-1] + b"?", "broken"), (b"pickle", "begins with"),
                      (data[:8], "no recipe"), (data + b"x", "broken")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            TrainingLog.from_bytes(bad)
    with pytest.raises(ValueError, match="takes round 1"):
        log.append(Round(2, (0.1,), 0, ()))
    with pytest.raises(ValueError, match="no round"):
        Round.from_bytes(b"1234")
    unordered = Round(0, (0.1,), 0, ((3, 1, b"@"), (0, 1, b"@"))).to_bytes()
    with pytest.raises(ValueError, match="no round"):
        Round.from_bytes(unordered)
    with pytest.raises(ValueError, match="no recipe"):
        Recipe.from_json({"codec": {"name": "int8-log"}, "noise": 3})


def test_training_goes_on_exactly_where_it_was():
    def begin():
        w = torch.ones(8)
        return w, OneByteSPSA([w], lr=0.05, codec=ScalarCodec(stochastic=True, adaptive=True), weight_decay=0.01)

    (w, one), (v, two) = begin(), begin()
    for _ in range(5):
        one.step(quadratic(w))
    v.copy_(w)
    two.load_state_dict(one.state_dict())
    for _ in range(5):
        one.step(quadratic(w))
        two.step(quadratic(v))
    assert torch.equal(w, v)
    assert (one.round, one.shift, one.digest) == (two.round, two.shift, two.digest)
    assert (two.log.rounds[0].t, len(two.log)) == (5, 5)


def threads(group, run):
    failures = []

    def guarded(machine, transport):
        try:
            run(machine, transport)
        except Exception as error:
            failures.append(error)

    started = [threading.Thread(target=guarded, args=pair, daemon=True) for pair in enumerate(group)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()
    return failures


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_moments_are_those_of_torch(rule):
    w, other = torch.linspace(-1, 1, 300), torch.linspace(-1, 1, 300).requires_grad_()
    optimiser = OneByteSPSA([w], lr=0.01, samples=3, codec="fp32", rule=rule, betas=(0.8, 0.99))
    theirs = (
        torch.optim.SGD([other], lr=0.01, momentum=0.8)
        if rule == "momentum"
        else torch.optim.Adam([other], lr=0.01, betas=(0.8, 0.99))
    )
    directions = SharedDirection(0)
    for t in range(5):
        optimiser.step(lambda: (w - 2).square().sum())
        (_, count, data), scalars = optimiser.log.rounds[-1].messages[0], ScalarCodec("fp32")
        z = [directions.fill_(torch.empty(300), 0, t, k) for k in range(count)]
        other.grad = sum(float(g) * z_k for g, z_k in zip(scalars.decode(data, count), z, strict=True)) / math.sqrt(3)
        theirs.step()
    assert torch.allclose(w, other.detach(), atol=1e-6)


def test_a_training_with_memory_replays_and_goes_on_to_the_same_bytes():
    def make(w):
        return OneByteSPSA([w[:7], w[7:]], lr=0.01, samples=2, rule="adam", scale_weight=0.3)

    w = torch.ones(500)
    optimiser = make(w)
    for _ in range(6):
        optimiser.step(lambda: w.square().sum())
    again = torch.ones(500)
    memory = TrainingLog.from_bytes(optimiser.log.to_bytes()).replay([again[:7], again[7:]])
    assert torch.equal(again, w)
    assert memory.log_scale == optimiser.memory.log_scale != 0
    assert all(np.array_equal(memory.second[i], optimiser.memory.second[i]) for i in range(2))
    late = make(again)
    late.load_state_dict(optimiser.state_dict())
    for one, weights in ((optimiser, w), (late, again)):
        one.step(lambda weights=weights: weights.square().sum())
    assert torch.equal(again, w)
    assert late.last_eps == optimiser.last_eps
    with pytest.raises(ValueError, match="memory is None"):
        optimiser.recipe.apply([[w]], optimiser.log.rounds[0])
    with pytest.raises(ValueError, match="begins with round 3"):
        TrainingLog(optimiser.recipe, optimiser.log.rounds[3:]).replay([again])


def test_a_length_that_is_learned_shrinks_where_far_losses_are_great():
    w = torch.zeros(20)
    optimiser = OneByteSPSA([w], lr=0.02, samples=8, eps=1.0, scale_weight=0.5)
    for _ in range(50):
        optimiser.step(lambda: w.square().sum())
    assert optimiser.last_eps < 0.9


def test_weights_moved_there_and_back_are_restored():
    w, same = torch.linspace(-1, 1, 1000), []
    optimiser = OneByteSPSA([w], lr=1e-3, samples=3, restore_every=4, check_every=8)
    for _ in range(8):
        optimiser.step(lambda: w.square().sum())
        again = torch.linspace(-1, 1, 1000)
        optimiser.log.replay([again])
        assert torch.allclose(again, w, atol=1e-5)
        same.append(torch.equal(again, w))
    assert same == [False, False, False, True] * 2
    optimiser.step(lambda: w.square().sum())
    optimiser.restore()
    optimiser.log.replay([again := torch.linspace(-1, 1, 1000)])
    assert torch.equal(again, w)
    with pytest.raises(ZeroDivisionError):
        optimiser.step(lambda: 1 / 0)
    assert torch.allclose(again, w, atol=1e-5)


def test_both_sides_may_be_evaluated_in_one_call():
    one, two = (torch.nn.Linear(5, 3) for _ in range(2))
    two.load_state_dict(one.state_dict())
    x = torch.randn(6, 5)
    names = [name for name, _ in one.named_parameters()]

    def pair(k, tensors):
        return torch.func.vmap(
            lambda ps: torch.func.functional_call(one, dict(zip(names, ps, strict=True)), x).square().mean()
        )(tensors)

    paired, plain = (OneByteSPSA(m.parameters(), lr=0.1, samples=2, codec="fp32") for m in (one, two))
    for _ in range(5):
        paired.step(pair, paired=True)
        plain.step(lambda: two(x).square().mean())
    assert torch.allclose(one.weight, two.weight, atol=1e-3)
    with pytest.raises(ValueError, match="two losses"):
        paired.step(lambda k, tensors: torch.zeros(()), paired=True)


def test_machines_of_one_process_stay_the_same():
    found = {}

    def run(machine, transport):
        w = torch.zeros(6)
        optimiser = OneByteSPSA([w], lr=0.05, samples=machine + 1, transport=transport, machine_id=machine)
        for _ in range(8):
            optimiser.step(lambda: (w - machine).square().sum())
        found[machine] = w, optimiser

    assert not threads(LocalTransport.group(3, timeout=20), run)
    assert all(torch.equal(found[0][0], w) for w, _ in found.values())
    assert [count for _, count, _ in found[0][1].log.rounds[0].messages] == [1, 2, 3]


def test_machines_that_differ_are_told():
    def run(machine, transport):
        w = torch.full((6,), float(machine))
        OneByteSPSA([w], lr=0.05, transport=transport, machine_id=machine).step(quadratic(w))

    failures = threads(LocalTransport.group(2, timeout=20), run)
    assert [type(f) for f in failures] == [ReplicaDivergence] * 2

    def otherwise(machine, transport):
        w = torch.ones(6)
        OneByteSPSA([w], lr=0.05, transport=transport, machine_id=machine, run_seed=machine).step(quadratic(w))

    failures = threads(LocalTransport.group(2, timeout=20), otherwise)
    assert [type(f) for f in failures] == [ReplicaDivergence] * 2  # in the first round

    def the_same(machine, transport):
        OneByteSPSA([torch.ones(2)], lr=0.1, transport=transport).step(lambda: 0.0)

    failures = threads(LocalTransport.group(2, timeout=20), the_same)
    assert {type(f) for f in failures} == {ValueError, TimeoutError}  # one tells the other
    with pytest.raises(ValueError, match="machine_id is 4 on 2 machines"):  # ranks that forgot to say who they are
        _join([bytes(8) + Round(0, (0.1,), 0, ((4, 1, b"@"),)).to_bytes()] * 2)

    def twice(machine, transport):
        w = torch.ones(2)
        optimiser = OneByteSPSA([w], lr=0.1, transport=transport)
        with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
            optimiser.step(quadratic(w))
        optimiser.step(quadratic(w))

    (failure,) = threads(LocalTransport.group(2, timeout=0.1)[:1], twice)
    assert "a new group" in str(failure)


def test_ranks_of_torch_distributed_are_machines(tmp_path):
    from paperworks.optimization import DistributedTransport

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    try:
        w = torch.ones(4)
        optimiser = OneByteSPSA([w], lr=0.1, transport=DistributedTransport(), samples=2)
        optimiser.step(quadratic(w))
        assert optimiser.log.rounds[0].messages[0][:2] == (0, 2)
    finally:
        torch.distributed.destroy_process_group()


def test_losses_that_are_not_finite_count_as_nothing():
    w = torch.ones(4)
    optimiser = OneByteSPSA([w], lr=0.1)
    optimiser.step(lambda: math.nan)
    assert optimiser.nonfinite == 1
    assert torch.equal(w, torch.ones(4))


@pytest.mark.usefixtures("untyped")
def test_bad_input_is_named():
    w = torch.ones(3)
    for options, told in (
        ({"lr": -1.0}, "lr is"), ({"eps": 0.0}, "eps is"), ({"samples": 0}, "samples is"), ({"codec": "x"}, "codec is"),
        ({"noise": "x"}, "noise is"), ({"scale": "x"}, "scale is"), ({"run_seed": -1}, "run_seed is"),
        ({"machine_id": 2**16}, "machine_id is"), ({"weight_decay": -1.0}, "weight_decay is"),
        ({"params": [torch.arange(3)]}, "int64"), ({"params": [torch.eye(2).to_sparse()]}, "sparse_coo"),
        ({"params": [{"params": [torch.ones(1)]} for _ in range(256)]}, "more groups"),
        ({"variance_scaling": True}, "variance_scaling"),
        ({"rule": "x"}, "rule is"), ({"betas": (0.9, 1.0)}, r"betas\[1\] is"),
        ({"scale_weight": -1.0}, "scale_weight is"),
        ({"restore_every": 5}, "restore_every is"), ({"restore_every": 16, "exact": True}, "restore_every is"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            OneByteSPSA(**{"params": [w], "lr": 0.1, **options})
    optimiser = OneByteSPSA([w], lr=0.1)
    for lr in (math.inf, math.nan, -1.0):  # of a scheduler
        optimiser.param_groups[0]["lr"] = lr
        with pytest.raises(ValueError, match="lr is"):
            optimiser.step(quadratic(w))
    optimiser = OneByteSPSA([w, w], lr=0.1)
    assert len(optimiser.tensors) == 1  # tied weights move once
    for closure in (lambda: w, lambda: "loss", lambda: None):
        with pytest.raises(ValueError, match="closure returned"):
            optimiser.step(closure)
    with pytest.raises(ValueError, match="one_byte"):
        optimiser.load_state_dict(torch.optim.SGD([w], lr=0.1).state_dict())
    with pytest.raises(ValueError, match="takes round 0"):
        optimiser.apply(Round(1, (0.1,), 0, ((0, 1, b"@"),)))
    with pytest.raises(ValueError, match="curvature is"):
        spsa_lr(0.0, 3)


@pytest.mark.usefixtures("untyped")  # betas may be a list
def test_copies_go_on_by_themselves():
    w = torch.ones(40)
    optimiser = OneByteSPSA([w], lr=0.05, samples=2, rule="adam", betas=[0.9, 0.99], restore_every=4, run_seed=3)
    for _ in range(6):
        optimiser.step(quadratic(w))
    for other in (copy.deepcopy(optimiser), pickle.loads(pickle.dumps(optimiser))):
        (v,) = other.tensors
        assert torch.equal(v, w)
        other.step(quadratic(v))
        assert (len(other.log), len(optimiser.log)) == (7, 6)
        assert TrainingLog.from_bytes(other.log.to_bytes()).recipe == other.recipe
        again = torch.ones(40)
        other.log.replay([again])
        other.restore()
        assert torch.equal(again, v)
    with pytest.raises(TypeError, match="transport is LocalTransport"):
        copy.deepcopy(OneByteSPSA([w], lr=0.1, transport=LocalTransport.group(1)[0]))


def signed(recipe):
    """Return a log of one record, with its checksum."""
    record = recipe if isinstance(recipe, bytes) else json.dumps(recipe).encode()
    return b"PWOB\x01\x00\x00\x00" + struct.pack("<II", len(record), zlib.crc32(record)) + record


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (b"[" * 100_000, "endless depth"),
        ({**Recipe().to_json(), "factors": ["x"]}, "factors is 'x'"),
        ({**Recipe().to_json(), "factors": [math.nan]}, "factors is nan"),
        ({**Recipe().to_json(), "betas": [0.9]}, "betas is"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_a_log_that_somebody_wrote_is_refused(recipe, told):
    with pytest.raises(ValueError, match=told):
        TrainingLog.from_bytes(signed(recipe))


def test_a_replay_that_fails_changes_nothing():
    log = TrainingLog(Recipe(), [Round(0, (0.1,), 0, ((0, 1, b"@"),)), Round(1, (0.1,), 0, ((0, 2, b"@"),))])
    w = torch.ones(3)
    with pytest.raises(ValueError, match="payload has 1 bytes"):
        log.replay([w])
    assert torch.equal(w, torch.ones(3))
