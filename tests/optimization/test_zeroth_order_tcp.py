"""Machines over TCP: real processes that are killed and join, garbage, late ones and those that differ."""

import contextlib
import functools
import socket
import struct
import threading
import time
import zlib

import pytest
import torch

from paperworks.optimization import OneByteSPSA, Peer, ReplicaDivergence, Round, ScalarCodec, TCPTransport, TrainingLog
from paperworks.optimization.zeroth_order.greetings import greeting, misfit
from paperworks.papers.one_byte.machines import Machine, at_once, told

TARGET = torch.linspace(-1, 1, 40)


def start(machine=0, peers=(), w=None, transport=None, **options):
    w = torch.zeros(40) if w is None else w
    transport = transport or TCPTransport(peers=peers, deadline=options.pop("deadline", 10.0), timeout=20.0,
                                          machines=options.pop("machines", 1))  # fmt: skip
    options = {"lr": 0.02, "samples": 2, "run_seed": 5, **options}
    return Peer(OneByteSPSA([w], machine_id=machine, transport=transport, **options))


def loss_of(peer):
    (w,) = peer.optimiser.tensors
    own = TARGET + 0.1 * peer.optimiser.machine_id
    return lambda: (w - own).square().sum()


def weights(peer):
    return peer.optimiser.tensors[0]


def together(*peers, steps):
    at_once(*(functools.partial(peer.run, loss_of(peer), steps) for peer in peers))


def waits(peer, machines):
    return functools.partial(peer.transport.wait, machines)


@pytest.fixture
def leaving():
    with contextlib.ExitStack() as stack:
        yield lambda peer: stack.enter_context(peer)


def test_one_of_three_processes_is_killed_and_another_joins_and_all_weights_are_the_same():
    found = []
    try:
        for machine in range(3):
            found.append(Machine(machine, [m.address for m in found], 3))
        states = told(found, "run", 20)
        assert len(set(states)) == 1
        found[0].end()  # the one that closes rounds
        with pytest.raises(RuntimeError, match="a machine died"):
            found[0].answer()
        assert len(set(told(found[1:], "run", 40))) == 1
        found.append(Machine(3, [], 1))
        found[3].pipe.send(("join", found[1].address))
        told(found[1:3], "wait", 3)
        found[3].answer()
        states = told(found[1:], "run", 60)
    finally:
        for machine in found:
            machine.end()
    assert len(set(states)) == 1
    data, _, log = states[0]
    history = TrainingLog.from_bytes(log)
    assert history.t == 60
    assert [[m for m, _, _ in history.rounds[t].messages] for t in (0, 30, 59)] == [[0, 1, 2], [1, 2], [1, 2, 3]]
    w = torch.zeros(1000)
    history.replay([w])
    assert w.numpy().tobytes() == data


@pytest.mark.parametrize("options", [{}, {"rule": "adam", "scale_weight": 0.1, "restore_every": 16}])
def test_a_process_that_joins_has_the_same_weights(leaving, options):
    first = leaving(start(**options))
    first.run(loss_of(first), 70)  # beyond a comparison of the weights
    second = leaving(start(1, [first.address], **options))
    third = leaving(start(2, w=torch.ones(40), **options))  # other weights: it gets the right ones
    at_once(waits(first, 2), second.transport.join)
    at_once(waits(first, 3), waits(second, 3), lambda: third.join(second.address))
    together(first, second, third, steps=70)
    assert first.optimiser.round == 140
    assert [m for m, _, _ in first.optimiser.log.rounds[-1].messages] == [0, 1, 2]
    first.optimiser.restore()
    for peer in (second, third):
        peer.optimiser.restore()
        assert torch.equal(weights(peer), weights(first))
        assert peer.optimiser.digest == first.optimiser.digest
    assert first.optimiser.log.to_bytes() == second.optimiser.log.to_bytes()


def pair(leaving, **options):
    first = leaving(start(machines=2, **options))
    return first, leaving(start(1, [first.address], machines=2, **options))


def test_bytes_on_the_wire(leaving):
    first, second = pair(leaving)
    together(first, second, steps=30)
    sent = sum(p.transport.traffic[str(kind)] for p in (first, second) for kind in (3, 4))
    payload = 30 * 2 * 2  # of two machines with two samples; each machine's bytes travel once more, to the other
    assert 0 < (sent - 2 * payload) / 30 / 2 <= 64


def framed(greeting):
    frame = struct.pack("<IB", len(greeting), 1) + greeting
    return frame + struct.pack("<I", zlib.crc32(frame))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        struct.pack("<IB", 10, 1) + b"not a json" + b"abcd",
        struct.pack("<IB", 2**31, 7),
        framed(b"[" * 100_000),
        framed(b'{"machine": 1}'),
        b"",
    ],
)
def test_callers_that_send_garbage_are_cut_off_and_training_goes_on(leaving, garbage):
    first, second = pair(leaving)
    with socket.create_connection(first.address, timeout=10) as caller:
        caller.sendall(garbage)
        together(first, second, steps=5)
        caller.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert caller.recv(1000) == b""
    together(first, second, steps=5)
    assert torch.equal(weights(first), weights(second))
    assert set(first.transport.links) == {1}


@pytest.mark.parametrize("how", ["bytes", "checksum", "identity", "payload", "kind", "asks", "nan"])
def test_a_machine_that_turns_to_garbage_is_cut_off_and_the_others_go_on(leaving, how, caplog):
    options = {"codec": "fp32"} if how == "nan" else {}
    first = leaving(start(machines=3, **options))
    second = leaving(start(1, [first.address], machines=3, **options))
    third = leaving(start(2, [first.address], machines=3, **options))
    together(first, second, third, steps=4)
    link = third.transport.links[0]
    message = {
        "identity": Round(4, (0.02,), 0, ((1, 2, b"@@"),)),  # another's
        "payload": Round(4, (0.02,), 0, ((2, 2, b"@@@"),)),
        "nan": Round(4, (0.02,), 0, ((2, 1, struct.pack("<f", float("nan"))),)),
    }.get(how)

    def corrupt():
        if message:
            link.send(3, bytes(8) + message.to_bytes())
        elif how == "kind":
            link.send(7, b"a state that nobody asked for")
        elif how == "asks":
            link.send(6, bytes(12))
            link.send(6, bytes(12))  # a state is large
        else:
            link.writer.write({"bytes": b"\x00" * 64, "checksum": struct.pack("<IB", 4, 3) + b"abcdefgh"}[how])

    third.transport.loop.call_soon_threadsafe(corrupt)
    together(first, second, steps=4)
    assert "machine 2 sent garbage" in caplog.text
    assert torch.equal(weights(first), weights(second))
    assert [m for m, _, _ in first.optimiser.log.rounds[-1].messages] == [0, 1]
    # It joins again and gets the rounds that it lacks.
    at_once(waits(first, 3), waits(second, 3), third.transport.rejoin)
    together(first, second, third, steps=4)
    assert torch.equal(weights(first), weights(third))
    assert [m for m, _, _ in first.optimiser.log.rounds[-1].messages] == [0, 1, 2]


@pytest.mark.parametrize(("kind", "t"), [(3, 3), (4, 2)])  # a message for a round to come, one that is announced
def test_another_shift_ends_no_training(leaving, kind, t):
    first, second = pair(leaving, deadline=0.3)
    together(first, second, steps=2)
    content = bytes(8 * (kind == 3)) + Round(t, (0.02,), 3, ((1, 2, b"@@"),)).to_bytes()
    second.transport.loop.call_soon_threadsafe(second.transport.links[0].send, kind, content)
    first.run(loss_of(first), 3)
    assert [m for m, _, _ in first.optimiser.log.rounds[-1].messages] == [0]


def test_more_in_a_recipe_than_is_known_is_a_misfit():
    ours = greeting(OneByteSPSA([torch.ones(3)], lr=0.1), ("127.0.0.1", 1), True, [])
    assert "['codes']" in misfit(ours, {**ours, "recipe": {**ours["recipe"], "codes": 1}})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"noise": "rademacher"}, "noise is 'rademacher'"),
        ({"run_seed": 6}, "run_seed is 6"),
        ({"codec": "fp16"}, "codec is"),
        ({"w": torch.zeros(41)}, "parameters differ: number 0"),
        ({"w": torch.zeros(40, dtype=torch.float64)}, "torch.float64"),
        ({"machine": 0}, "machine_id 0 is taken"),
    ],
)
def test_machines_that_do_not_fit_are_refused_with_a_reason(leaving, other, told):
    first = leaving(start())
    first.run(loss_of(first), 2)
    with pytest.raises(ValueError, match=told):
        leaving(start(**{"machine": 1, **other})).join(first.address)
    first.run(loss_of(first), 2)
    assert first.optimiser.round == 4


def test_one_whose_weights_differ_fetches_them_anew(leaving):
    first, second = pair(leaving, check_every=8)
    third = leaving(start(2, [first.address], machines=2, check_every=8))
    for peer in (first, second, third):
        peer.transport.machines = 3
    together(first, second, third, steps=6)
    weights(third)[3] += 1e-6  # a bit that flipped
    together(first, second, third, steps=20)
    assert torch.equal(weights(first), weights(third))
    assert [m for m, _, _ in first.optimiser.log.rounds[-1].messages] == [0, 1, 2]


def test_one_whose_weights_differ_is_told_where_it_steps_by_itself(leaving):
    first, second = pair(leaving)
    third = leaving(start(2, [first.address], machines=3))
    first.transport.machines = second.transport.machines = 3
    together(first, second, third, steps=2)
    third.optimiser.digest = bytes(8)
    other = threading.Thread(target=together, args=(first, second), kwargs={"steps": 1}, daemon=True)
    other.start()
    with pytest.raises(ReplicaDivergence, match="most have other weights or went on"):
        third.optimiser.step(loss_of(third))
    other.join(20)
    assert first.optimiser.round == 3


def test_a_late_machine_is_not_waited_for_and_applies_what_the_others_closed(leaving):
    first, second = pair(leaving, deadline=0.3)
    together(first, second, steps=3)
    first.run(loss_of(first), 4)  # the second one is late for all of these
    assert [len(r.messages) for r in first.optimiser.log.rounds] == [2, 2, 2, 1, 1, 1, 1]
    deadline = time.monotonic() + 10
    while len(second.transport._closed) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert second.run(loss_of(second), 4) == [None] * 4
    assert torch.equal(weights(first), weights(second))


def test_one_that_closes_no_round_is_left_behind_and_comes_back(leaving):
    first, second = pair(leaving)
    together(first, second, steps=3)
    second.transport.timeout = second.transport.deadline = 0.1
    second.run(loss_of(second), 3)  # while the first one, which would close these rounds, is elsewhere
    assert second.transport.links == {}
    with pytest.raises(ReplicaDivergence, match="went on"):
        first.optimiser.step(loss_of(first))
    second.transport.timeout = second.transport.deadline = 20.0
    at_once(waits(second, 2), first.transport.rejoin)  # where it met the second one, though that called it
    together(first, second, steps=4)
    assert first.optimiser.log.to_bytes() == second.optimiser.log.to_bytes()
    assert torch.equal(weights(first), weights(second))
    assert [len(r.messages) for r in first.optimiser.log.rounds] == [2] * 3 + [1] * 3 + [2] * 4


def test_a_training_goes_on_from_a_state_with_all_its_machines(leaving):
    options = {"rule": "adam", "codec": ScalarCodec(adaptive=True)}
    first, second = pair(leaving, **options)
    together(first, second, steps=3)
    states = [peer.optimiser.state_dict() for peer in (first, second)]
    again = [leaving(start(w=weights(first).clone(), machines=2, **options))]
    again.append(leaving(start(1, [again[0].address], weights(first).clone(), machines=2, **options)))
    for peer, state in zip(again, states, strict=True):
        peer.optimiser.load_state_dict(state)
    late = threading.Timer(0.3, again[1].run, (loss_of(again[1]), 2))
    late.start()
    again[0].run(loss_of(again[0]), 2)
    late.join(20)
    together(first, second, steps=2)
    assert torch.equal(weights(again[0]), weights(first))
    assert torch.equal(weights(again[1]), weights(first))


def test_a_round_that_waits_for_a_late_machine_is_waited_for(leaving):
    first = leaving(start(machines=3, deadline=1.0))
    second, third = (leaving(start(m, [first.address], machines=3, deadline=1.0)) for m in (1, 2))
    together(first, second, third, steps=2)
    second.transport.timeout = 0.3  # less than what the first one waits for the third
    together(first, second, steps=2)
    assert set(second.transport.links) == {0, 2}
    assert first.optimiser.log.to_bytes() == second.optimiser.log.to_bytes()


def test_one_that_calls_again_and_again_is_not_waited_for(leaving):
    first, second = pair(leaving)
    together(first, second, steps=2)
    second.transport.timeout = second.transport.deadline = 0.3
    done = threading.Event()

    def flap():
        while not done.is_set():
            with contextlib.suppress(ConnectionError, ReplicaDivergence):
                first.transport.rejoin()
            done.wait(0.1)

    def go_on():
        try:
            second.run(loss_of(second), 1)
        finally:
            done.set()

    at_once(flap, go_on, within=30)
    assert second.optimiser.round == 3


def test_an_identity_is_free_again_where_its_machine_is_gone(leaving):
    first, second = pair(leaving)
    together(first, second, steps=2)
    third = leaving(start(1))  # of the second one's identity, which leaves a little later
    threading.Timer(0.2, second.leave).start()
    third.join(first.address)
    assert third.optimiser.round == 2
    with pytest.raises(ValueError, match="machine_id 1 is taken"):
        leaving(start(1)).join(first.address)


def test_one_that_is_far_behind_catches_up(leaving, monkeypatch):
    monkeypatch.setattr("paperworks.optimization.zeroth_order.tcp._AHEAD", 3)
    first, second = pair(leaving, deadline=0.2)
    together(first, second, steps=2)
    first.run(loss_of(first), 10)
    assert len(second.transport._closed) <= 3
    second.run(loss_of(second), 10)
    assert torch.equal(weights(first), weights(second))


def test_one_that_leaves_is_not_waited_for(leaving):
    first, second = pair(leaving)
    together(first, second, steps=2)
    first.leave()
    second.run(loss_of(second), 3)
    assert second.optimiser.round == 5
    with pytest.raises(ConnectionError, match="closed"):
        first.optimiser.step(loss_of(first))


def test_nobody_waits_for_a_transport_that_is_closed_or_dead(leaving, caplog):
    alone = start(machines=2)
    threading.Timer(0.3, alone.leave).start()
    with pytest.raises(ConnectionError, match="closed"):
        alone.optimiser.step(loss_of(alone))  # waits for a second machine
    dead = leaving(start())
    dead.run(loss_of(dead), 1)
    dead.transport.loop.call_soon_threadsafe(dead.transport.loop.stop)
    dead.transport._thread.join(20)
    with pytest.raises(ConnectionError, match="closed"):
        dead.optimiser.step(loss_of(dead))
    dead.leave()
    assert "connections were not ended" in caplog.text


def test_a_port_that_is_taken(leaving):
    first = leaving(start())
    transport = TCPTransport(bind=first.address)
    with pytest.raises(OSError, match="in use"):
        start(transport=transport)
    transport.close()
    first.run(loss_of(first), 1)


def test_a_host_that_accepts_nobody_and_one_that_says_nothing(leaving):
    with socket.socket() as host, contextlib.ExitStack() as callers:
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        peer = leaving(start(transport=TCPTransport(timeout=0.3)))
        with pytest.raises(ConnectionError, match="no machine of this run"):
            peer.join(host.getsockname())
        for _ in range(3):  # more than may wait to be accepted
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(host.getsockname())
        with pytest.raises(ConnectionError, match="no machine answers"):
            peer.join(host.getsockname())


def test_a_joiner_asks_another_where_one_gives_no_state(leaving):
    first, second = pair(leaving)
    together(first, second, steps=2)
    third = leaving(start(2, [first.address], transport=None))
    third.transport.timeout = 0.5
    first.transport._idle = False  # as if it evaluated a loss
    at_once(waits(second, 3), third.transport.join)
    assert third.optimiser.round == 2
    assert set(third.transport.links) == {1}


def test_nobody_there(leaving):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    transport = TCPTransport(timeout=0.2)
    with pytest.raises(ConnectionError, match="no machine answers"):
        leaving(start(transport=transport)).join(address)
    alone = leaving(start(transport=TCPTransport(timeout=0.2, machines=2)))
    with pytest.raises(TimeoutError, match="1 of 2 machines"):
        alone.optimiser.step(loss_of(alone))
    with pytest.raises(TypeError, match="TCPTransport"):
        Peer(OneByteSPSA([torch.ones(2)], lr=0.1))
