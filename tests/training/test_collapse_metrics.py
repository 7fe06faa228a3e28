"""Measures of collapse: exact values, every kind of input, one pass, shards and processes."""

import math
import pickle
import re

import numpy as np
import pytest
import torch

from paperworks.training import NCMetrics, NeuralCollapseMeter, nc_metrics

ALL = ("nc1", "nc1_trace", "nc2", "nc3", "nc3_distance", "nc4", "cdnv")
STREAMED = tuple(name for name in ALL if name != "nc4")


def by_definition(X, y, W):
    """The measures as they are written down, with all matrices built."""
    X, W = np.asarray(X, float), np.asarray(W, float)
    classes = np.unique(y)
    K, means = len(classes), np.array([X[y == k].mean(0) for k in classes])
    centred = X - means[np.searchsorted(classes, y)]
    within, M = centred.T @ centred / len(X), (means - means.mean(0)).T
    between = M @ M.T / K
    simplex = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    variance = [np.square(X[y == k] - means[i]).sum() / (y == k).sum() for i, k in enumerate(classes)]
    pairs = [(i, j) for i in range(K) for j in range(K) if i != j]
    nearest = np.square(X[:, None] - means).sum(2).argmin(1)
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / K,
        "nc1_trace": np.trace(within) / np.trace(between),
        "nc2": np.linalg.norm(M.T @ M / np.linalg.norm(M.T @ M) - simplex),
        "nc3": np.linalg.norm(W @ M / np.linalg.norm(W @ M) - simplex),
        "nc3_distance": np.linalg.norm(W / np.linalg.norm(W) - M.T / np.linalg.norm(M)),
        "nc4": np.mean((X @ W.T).argmax(1) != nearest),
        "cdnv": np.mean([(variance[i] + variance[j]) / 2 / np.square(means[i] - means[j]).sum() for i, j in pairs]),
    }


def problem(K=5, d=7, N=300, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(K), rng.integers(K, size=N - K)])
    return 3 + rng.normal(size=(K, d))[y] + 0.7 * rng.normal(size=(N, d)), y, rng.normal(size=(K, d))


def close(found, expected, rtol=1e-10):
    for name in expected:
        assert getattr(found, name) == pytest.approx(expected[name], rel=rtol, abs=1e-13), name


@pytest.mark.parametrize(("K", "d"), [(5, 7), (2, 3), (9, 4), (40, 3), (3, 1)])
def test_they_are_what_is_written_down_for_unbalanced_classes_and_any_k_and_d(K, d):
    X, y, W = problem(K, d)
    close(nc_metrics(X, y, W, which=ALL), by_definition(X, y, W))


def test_labels_may_be_of_any_kind():
    X, y, W = problem(3)
    expected = nc_metrics(X, y, W, which=ALL)
    assert nc_metrics(X, np.array(["ant", "bee", "cat"])[y], W, which=ALL) == expected
    assert nc_metrics(X, np.array([-7, 0, 1000])[y], W, which=ALL) == expected
    assert nc_metrics(torch.tensor(X), torch.tensor([-7, 0, 1000])[y], torch.tensor(W), which=ALL) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_of_any_precision_are_measured_in_double(dtype):
    X, y, W = problem()
    X = torch.tensor(X).to(dtype)
    exact = nc_metrics(X.double(), y, W, which=ALL)
    assert nc_metrics(X, y, W, which=ALL) == exact
    meter = NeuralCollapseMeter(5, 7)
    meter.update(X, y)
    close(meter.compute(W, which=STREAMED), {name: getattr(exact, name) for name in STREAMED}, 1e-5)


def test_nothing_is_lost_near_collapse():
    rng, (_, y, W) = np.random.default_rng(1), problem()
    noise = rng.normal(size=(300, 7))
    noise -= np.array([noise[y == k].mean(0) for k in range(5)])[y]
    means = 5 + rng.normal(size=(5, 7))
    expected = by_definition(means[y] + noise, y, W)["nc1_trace"] * 1e-14
    X = means[y] + 1e-7 * noise
    meter = NeuralCollapseMeter(5, 7)
    for part in range(0, 300, 50):
        meter.update(X[part : part + 50], y[part : part + 50])
    assert nc_metrics(X, y).nc1_trace == pytest.approx(expected, rel=1e-6)
    assert meter.compute().nc1_trace == pytest.approx(expected, rel=1e-6)


def test_collapsed_features_have_0_and_one_sample_a_class_too():
    found = nc_metrics(np.eye(4), np.arange(4), np.eye(4), which=ALL)
    assert found.nc1 == found.nc1_trace == found.nc4 == found.cdnv == 0
    assert found.nc2 == pytest.approx(0, abs=1e-15)
    assert found.nc3 == pytest.approx(0, abs=1e-15)
    exact = nc_metrics(2 * np.eye(4), np.arange(4), np.eye(4), which=("nc2", "nc3", "nc3_distance"), orthogonal=True)
    assert max(exact.nc2, exact.nc3, exact.nc3_distance) < 1e-15


def test_means_that_are_not_apart_give_infinity_not_nan():
    X = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) + 0.1
    found = nc_metrics(X, np.array([0, 0, 1, 1]), np.eye(2), which=("nc1", "nc1_trace", "nc2", "nc3", "cdnv"))
    assert [found.nc1, found.nc1_trace, found.nc2, found.nc3, found.cdnv] == [math.inf] * 5
    same = nc_metrics(np.ones((4, 2)), np.array([0, 0, 1, 1]))
    assert same.nc1_trace == math.inf


def test_what_was_not_asked_for_is_none():
    X, y, _ = problem()
    assert nc_metrics(X, y, which=("nc2", "nc3")) == NCMetrics(nc2=nc_metrics(X, y).nc2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 7, 300])
def test_one_pass_measures_what_two_do(batch, dtype):
    X, y, W = problem()
    X = X.astype(dtype)
    meter = NeuralCollapseMeter(5, 7)
    for start in range(0, 300, batch):
        meter.update(X[start : start + batch], y[start : start + batch])
    exact = by_definition(X, y, W)
    close(meter.compute(W, which=STREAMED), {n: exact[n] for n in STREAMED}, 1e-11 if dtype == np.float64 else 1e-5)
    assert meter.disagreement(X, W) == exact["nc4"]
    meter.reset()
    assert not meter.counts.any()


def test_many_samples_go_through_blocks():
    X, y, W = problem(K=3, d=2, N=20_000)
    meter = NeuralCollapseMeter(3, 2)
    meter.update(X, y)
    exact = by_definition(X, y, W)
    close(nc_metrics(X, y, W, which=ALL), exact)
    close(meter.compute(W, which=STREAMED), {n: exact[n] for n in STREAMED})


def test_many_classes_go_through_blocks():
    X, y, W = problem(K=600, d=3, N=2000)
    exact = by_definition(X, y, W)
    meter = NeuralCollapseMeter(600, 3)
    meter.update(X, y)
    close(nc_metrics(X, y, W, which=ALL), exact, 1e-8)
    close(meter.compute(W, which=STREAMED), {n: exact[n] for n in STREAMED}, 1e-8)


def shards():
    X, y, W = problem()
    meters = []
    order = np.argsort(y, kind="stable")  # so that shards have different classes
    for part in np.array_split(order, 4):
        meters.append(NeuralCollapseMeter(5, 7))
        meters[-1].update(X[part], y[part])
    return meters, by_definition(X, y, W), W


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_shards_merge_in_any_order(order):
    meters, exact, W = shards()
    total = NeuralCollapseMeter(5, 7)
    for place in order:
        total.merge(pickle.loads(pickle.dumps(meters[place])))
    assert total.counts.sum() == 300
    close(total.compute(W, which=STREAMED), {n: exact[n] for n in STREAMED})
    close(
        (meters[0].merge(meters[1])).merge(meters[2].merge(meters[3])).compute(W, which=("nc1",)), {"nc1": exact["nc1"]}
    )


def test_processes_gather_all_samples(tmp_path, monkeypatch):
    meters, exact, W = shards()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        alone = meters[0].gathered()
    finally:
        torch.distributed.destroy_process_group()
    assert alone.counts.tolist() == meters[0].counts.tolist()
    sent = [pickle.dumps(meter) for meter in meters]

    def gather(found, mine, group=None):
        found[:] = [pickle.loads(pickle.dumps(mine)), *map(pickle.loads, sent[1:])]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 4)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    close(meters[0].gathered().compute(W, which=STREAMED), {n: exact[n] for n in STREAMED})


def test_classes_without_samples_are_an_error_or_left_out():
    X, y, W = problem()
    meter = NeuralCollapseMeter(8, 7)
    places = np.array([0, 2, 3, 5, 7])
    meter.update(X, places[y])
    with pytest.raises(ValueError, match="3 of 8 classes have no samples; empty='skip'"):
        meter.compute()
    full = np.ones((8, 7))
    full[places] = W
    exact = by_definition(X, y, W)
    close(meter.compute(full, which=STREAMED, empty="skip"), {n: exact[n] for n in STREAMED})
    with pytest.raises(ValueError, match="3 of 8 classes have no samples"):
        meter.disagreement(X, full)


def test_without_a_covariance_no_matrix_is_kept():
    X, y, _ = problem()
    meter = NeuralCollapseMeter(5, 7, covariance=False)
    meter.update(X, y)
    assert meter.compute(which=("nc1_trace",)).nc1_trace == pytest.approx(nc_metrics(X, y).nc1_trace)
    with pytest.raises(ValueError, match="covariance=True"):
        meter.compute()


def test_a_bad_batch_leaves_the_meter_as_it_was():
    X, y, _ = problem()
    meter = NeuralCollapseMeter(5, 7)
    meter.update(X, y)
    before = meter.compute()
    bad = X.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="features has 1 NaN"):
        meter.update(bad, y)
    with pytest.raises(ValueError, match="labels go from 0 to 5; they take 0 to 4"):
        meter.update(X, np.where(y == 4, 5, y))
    with pytest.raises(ValueError, match=r"features has shape \(300, 6\)"):
        meter.update(X[:, :6], y)
    with pytest.raises((ValueError, TypeError)):
        meter.update(X, y[:9])
    meter.update(X[:0], y[:0])
    assert meter.compute() == before
    with pytest.raises(ValueError, match="needs samples again"):
        meter.compute(which=("nc4",))
    with pytest.raises(ValueError, match="other has dim 3; it takes 7"):
        meter.merge(NeuralCollapseMeter(5, 3))
    with pytest.raises(ValueError, match=r"weight has shape \(4, 7\)"):
        meter.compute(np.ones((4, 7)))
    with pytest.raises(ValueError, match="0 classes have samples"):
        NeuralCollapseMeter(5, 7).compute(empty="skip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.full((300, 7), np.nan)}, "features has 2100 NaN or infinite entries"),
        ({"labels": np.zeros(300, int)}, "labels are of 1 class; it takes two or more"),
        ({"labels": np.zeros(20, int)}, "it takes one for each row"),
        ({"labels": np.full(300, np.nan)}, "labels has NaN"),
        ({"weight": np.ones((6, 7))}, "a row for each of the 5 classes that have samples"),
        ({"weight": np.full((5, 7), np.inf)}, "weight or bias has NaN"),
        ({"bias": np.ones(4)}, r"bias has shape \(4,\); it takes \(5,\)"),
        ({"which": ("nc5",)}, "which is 'nc5'; it takes one of 'nc1'"),
        ({"which": "nc1"}, "it takes a sequence of names"),
        ({"rtol": 0.0}, "rtol is 0.0"),
    ],
)
def test_bad_input_is_named(change, message):
    X, y, W = problem()
    arguments = {"features": X, "labels": y, "weight": W, **change}
    with pytest.raises((ValueError, TypeError)) as caught:
        nc_metrics(**arguments)
    # Shapes and names are found by the tests' type checker first.
    assert isinstance(caught.value, TypeError) or re.search(message, str(caught.value))


@pytest.mark.parametrize("change", [lambda X: X[::-1].copy()[::-1], lambda X: X.astype(">f8")])
def test_arrays_of_any_layout_are_taken(change):
    X, y, W = problem()
    expected = nc_metrics(X, y, W, which=STREAMED)
    meter = NeuralCollapseMeter(5, 7)
    meter.update(change(X), y[::-1].copy()[::-1])
    assert nc_metrics(change(X), y, W, which=STREAMED) == expected
    close(meter.compute(W[::-1].copy()[::-1], which=STREAMED), {n: getattr(expected, n) for n in STREAMED})


@pytest.mark.filterwarnings("error")
def test_memory_maps_are_read_without_a_warning(tmp_path):
    X, y, _ = problem()
    np.save(tmp_path / "features.npy", X)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    meter = NeuralCollapseMeter(5, 7)
    meter.update(mapped, y)
    assert nc_metrics(mapped, y) == nc_metrics(X, y)
    assert meter.compute().nc1_trace == pytest.approx(nc_metrics(X, y).nc1_trace)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int16])
def test_labels_may_be_of_any_whole_numbers(kind):
    X, y, _ = problem()
    meter = NeuralCollapseMeter(5, 7)
    meter.update(X, y.astype(kind))
    assert meter.counts.tolist() == np.bincount(y).tolist()
    with pytest.raises(TypeError, match="labels"):
        meter.update(X, y + 0j)


def test_a_meter_goes_from_inference_mode_to_none_and_back():
    X, y, _ = problem()
    with torch.inference_mode():
        meter = NeuralCollapseMeter(5, 7)
        meter.update(torch.tensor(X[:100]), torch.tensor(y[:100]))
        meter.merge(NeuralCollapseMeter(5, 7))
    meter.update(X[100:200], y[100:200])
    with torch.inference_mode():
        meter.update(X[200:], y[200:])
    assert meter.compute().nc1 == pytest.approx(nc_metrics(X, y).nc1)


@pytest.mark.parametrize("scale", [1e-60, 1e-30, 1e45, 1e60])
def test_no_measure_depends_on_the_scale(scale):
    X, y, W = problem()
    meter = NeuralCollapseMeter(5, 7)
    meter.update(X * scale, y)
    exact = nc_metrics(X, y, W, which=ALL)
    close(nc_metrics(X * scale, y, W / scale, which=ALL), {n: getattr(exact, n) for n in ALL if n != "nc4"}, 1e-8)
    close(meter.compute(W / scale, which=STREAMED), {n: getattr(exact, n) for n in STREAMED}, 1e-8)


def test_sizes_whose_powers_overflow_are_named():
    X, y, W = problem()
    for scale in (1e-90, 1e90):
        with pytest.raises(ValueError, match=r"features is of size .*; it takes 1e-70 to 1e70"):
            nc_metrics(X * scale, y)
        with pytest.raises(ValueError, match=r"weight is of size .*; it takes 1e-70 to 1e70"):
            nc_metrics(X, y, W * scale)
    meter = NeuralCollapseMeter(5, 7)
    meter.update((X * 1e25).astype(np.float32), y)
    with pytest.raises(ValueError, match="squares of features overflow"):
        meter.compute()


def test_the_meta_device_is_refused():
    X, y, W = problem()
    for call in (
        lambda: nc_metrics(torch.tensor(X, device="meta"), y),
        lambda: nc_metrics(X, y, torch.tensor(W, device="meta")),
        lambda: NeuralCollapseMeter(5, 7).update(torch.tensor(X, device="meta"), y),
        lambda: NeuralCollapseMeter(5, 7, device="meta"),
    ):
        with pytest.raises(ValueError, match="meta"):
            call()
