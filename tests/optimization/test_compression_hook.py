"""The hook for DDP, on real processes: it is the algorithm, whatever the buckets, checkpoints and deaths."""

import math
import pickle

import pytest
import torch
import torch.distributed as dist

from optimization.test_compression_workers import (
    CASES,
    call,
    data_of_clients,
    disagreeing,
    half_precision,
    least_squares,
    resumed_training,
    whole_and_broken_training,
)
from paperworks.optimization import (
    EF21,
    EF21State,
    HardThreshold,
    Identity,
    LeastSquaresClients,
    NaturalCompression,
    RankR,
    ScaledSign,
    TopK,
)
from paperworks.papers.ef21_w.workers import in_processes

PATIENCE = 60.0


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone", "untyped")
def test_shifts_stay_with_their_parameters_when_buckets_are_formed_anew():
    a, b, c = (torch.zeros(n) for n in (3, 2, 4))
    state = EF21State(compressor=Identity(), warm_start="compressed")
    call(state, torch.arange(9.0), [a, b, c])
    state.compressor = TopK(1)  # from here on, one entry of each bucket moves
    call(state, torch.tensor([5.0, 6.0, 7.0, 8.0, 3.0, 4.0]), [c, b], last=False)
    found = call(state, torch.tensor([0.0, 1.0, 9.0]), [a], index=1)
    assert found.tolist() == [0, 1, 9]
    shifts = {number: entry["shift"].tolist() for number, entry in enumerate(state.state_dict()["params"])}
    assert shifts == {0: [0, 1, 9], 1: [3, 4], 2: [5, 6, 7, 8]}
    before = dict(state._buckets)
    call(state, torch.ones(6), [c, b], last=False)
    call(state, torch.ones(3), [a], index=1)
    assert before == state._buckets  # nothing is put together a second time
    assert state.iteration == 3


@pytest.mark.usefixtures("alone", "untyped")
def test_a_gradient_that_is_not_finite_reaches_the_optimiser_and_no_shift():
    p = torch.zeros(4)
    for compressor in (TopK(2), NaturalCompression(), ScaledSign(), RankR(1), Identity()):
        state = EF21State(compressor=compressor, warm_start="compressed")
        call(state, torch.tensor([1.0, -2.0, 3.0, 4.0]), [p])
        before = state.state_dict()["params"][0]["shift"]
        assert torch.isnan(call(state, torch.tensor([1.0, math.inf, 0.0, 0.0]), [p])).all()
        assert torch.equal(state.state_dict()["params"][0]["shift"], before)
        assert torch.isfinite(call(state, torch.ones(4), [p])).all()
    full = EF21State()
    assert torch.isnan(call(full, torch.full((4,), math.nan), [p])).all()
    assert call(full, torch.ones(4), [p]).tolist() == [1] * 4


@pytest.mark.usefixtures("alone", "untyped")
def test_shifts_of_half_precision_gradients_are_in_single_precision():
    p, state = torch.zeros(4), EF21State(compressor=TopK(4))
    for dtype in (torch.float16, torch.bfloat16):
        assert call(state, torch.ones(4, dtype=dtype), [p]).dtype == dtype
        assert state.state_dict()["params"][0]["shift"].dtype == torch.float32


@pytest.mark.usefixtures("alone", "untyped")
@pytest.mark.parametrize("options", [{}, {"warm_start": "compressed", "dtype": torch.float16}], ids=str)
def test_finite_gradients_whose_sum_is_not_are_finite(options):
    p, state = torch.zeros(1000), EF21State(compressor=TopK(1000), **options)
    for _ in range(3):
        assert call(state, torch.full((1000,), 500.0, dtype=torch.float16), [p]).unique().tolist() == [500]
    assert "shift" in state.state_dict()["params"][0]


@pytest.mark.usefixtures("alone", "untyped")
def test_it_starts_to_compress_when_asked_and_counts_what_it_sends():
    p, state = torch.zeros(100), EF21State(compressor=TopK(5), start_compress_iter=2)
    for number in range(5):
        call(state, torch.arange(100.0) + number, [p])
    # Two averages and a warm start are whole, then five values and indices of four bytes each are sent.
    assert (state.bytes_sent, state.bytes_dense) == (3 * 400 + 2 * 40, 5 * 400)


@pytest.mark.usefixtures("alone", "untyped")
def test_an_iteration_that_is_not_complete_is_undone():
    a, b = torch.zeros(3), torch.zeros(2)
    state = EF21State(compressor=TopK(1))
    call(state, torch.ones(3), [a], last=False)
    call(state, torch.ones(2), [b], index=1)
    saved = state.state_dict()
    call(state, torch.tensor([1.0, 5.0, 1.0]), [a], last=False)  # and then a worker dies
    again = state.state_dict()
    assert again["iteration"] == saved["iteration"] == 1
    for before, after in zip(saved["params"], again["params"], strict=True):
        assert torch.equal(before["shift"], after["shift"])
        assert torch.equal(before["total"], after["total"])


@pytest.mark.usefixtures("alone", "untyped")
def test_it_is_pickled_without_its_group_and_goes_on():
    p, q, r = torch.zeros(6), torch.zeros(6), torch.zeros(6)
    state = EF21State(dist.group.WORLD, TopK(2), warm_start="compressed")
    gradients = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for g in gradients[:2]:
        call(state, g.clone(), [p])
    restored = pickle.loads(pickle.dumps(state))
    assert restored.process_group is None
    twice = pickle.loads(pickle.dumps(restored))  # before it has met its parameters
    for g in gradients[2:]:
        expected = call(state, g.clone(), [p])
        assert torch.equal(call(restored, g.clone(), [q]), expected)
        assert torch.equal(call(twice, g.clone(), [r]), expected)


@pytest.mark.usefixtures("alone", "untyped")
def test_states_that_do_not_fit_are_refused():
    p, state = torch.zeros(4), EF21State(compressor=TopK(1))
    call(state, torch.ones(4), [p])
    saved = state.state_dict()
    with pytest.raises(ValueError, match="entries"):
        EF21State().load_state_dict({})
    with pytest.raises(ValueError, match="TopK"):
        EF21State(compressor=TopK(2)).load_state_dict(saved)
    for change, match in (
        ({"saved_by": (2, 0)}, "saved by 2 workers"),
        ({"saved_by": (1, 3)}, "worker 3's"),
        ({"params": [{"numel": 5}]}, "other parameters"),
    ):
        other = EF21State(compressor=TopK(1))
        other.load_state_dict(saved | change)
        with pytest.raises(RuntimeError, match=match):
            call(other, torch.ones(4), [p])
    fixed = EF21State(compressor=TopK(1), params=[torch.zeros(4)])
    with pytest.raises(RuntimeError, match="params"):
        call(fixed, torch.ones(4), [p])
    with pytest.raises(RuntimeError, match="another model"):
        call(state, torch.ones(3), [torch.zeros(3)])
    state._weights = [0.5, 0.5]
    with pytest.raises(RuntimeError, match="1 workers, it had 2"):
        call(state, torch.ones(4), [p])


@pytest.mark.usefixtures("alone", "untyped")
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"compressor": "top"}, TypeError, "compressor"),
        ({"compressor": HardThreshold(1.0)}, ValueError, "fixed size"),
        ({"weight": "equal"}, ValueError, "weight is 'equal'"),
        ({"weight": 0.0}, ValueError, "weight is 0"),
        ({"weight": "smoothness"}, ValueError, "smoothness is None"),
        ({"smoothness": 1.0}, ValueError, "weight is 'uniform'"),
        ({"start_compress_iter": -1}, ValueError, "start_compress_iter"),
        ({"warm_start": "cold"}, ValueError, "warm_start"),
        ({"dtype": torch.int32}, TypeError, "dtype"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options, error, match):
    with pytest.raises(error, match=match):
        EF21State(**options)


@pytest.mark.usefixtures("alone", "untyped")
def test_what_can_not_be_sent_is_refused():
    p = torch.zeros(4)
    with pytest.raises(TypeError, match="layout"):
        call(EF21State(), torch.eye(2).to_sparse(), [p])
    with pytest.raises(ValueError, match="weight"):
        call(EF21State(weight=0.5), torch.ones(4), [p])
    with pytest.raises(ValueError, match="k is 5"):
        call(EF21State(compressor=TopK(5), warm_start="compressed"), torch.ones(4), [p])


def test_a_worker_that_dies_is_told_of_and_training_resumes_bit_for_bit(tmp_path):
    first, second = in_processes(whole_and_broken_training, 2, str(tmp_path), timeout=PATIENCE, may_die=True)
    assert second is None
    whole, buckets, message, iteration = first
    assert buckets == (2, 2)  # formed anew, and as they were
    assert "a worker was lost" in message
    assert "resume all workers" in message
    assert iteration == 5
    for resumed in in_processes(resumed_training, 2, str(tmp_path), timeout=PATIENCE):
        assert torch.equal(resumed, whole)


def test_the_hook_is_the_simulated_method_and_sends_what_it_says():
    clients = LeastSquaresClients(data_of_clients(), data_of_clients()[..., 0])
    workers = in_processes(least_squares, 2, CASES, timeout=PATIENCE)
    for number, (compressor, options) in enumerate(CASES):
        weight = options.get("weight")
        variant = "ef21" if weight is None else "w"
        weights = list(weight) if isinstance(weight, tuple) else None
        history = EF21(clients, compressor, 0.02, variant, weights).run(torch.zeros(10).double(), 15)
        for worker in workers:
            assert torch.allclose(worker[number][0], history.x, atol=1e-12)
    assert workers[0][0][1:] == (15 * 2 * (8 + 4), 15 * 2 * (8 + 4))  # here values are in double precision


def test_rounding_of_the_first_average_in_half_precision_is_forgotten():
    for found, expected in in_processes(half_precision, 2, timeout=PATIENCE):
        assert torch.equal(found, expected)


def test_workers_that_do_not_belong_together_are_told_so():
    for resumed, weights in in_processes(disagreeing, 2, timeout=PATIENCE):
        assert "resume at iterations [0, 1]" in resumed
        assert "of sum 0.6" in weights
