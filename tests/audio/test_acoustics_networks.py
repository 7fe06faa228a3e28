"""Operator networks of rooms: layers, stored queries, training, transfer, parts of rooms, published weights."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch

from paperworks.audio import (
    ASPECT_PRESERVING,
    AcousticDeepONet,
    DecomposedDeepONet,
    FrequencyFeatures,
    GaussianSource,
    ModifiedMLP,
    PartitionOfUnity,
    ResNetBranch,
    Room,
    RoomFrame,
    SelfAdaptiveWeights,
    SineMLP,
    box_modes,
    ceod,
    load_official_deeponet,
    low_precision_branch,
    make_acoustic_deeponet,
    train_deeponet,
    transfer,
)

SQUARE = RoomFrame(Room((2.0, 2.0)))


def small(frame=SQUARE, seed=0, **options):
    torch.manual_seed(seed)
    return make_acoustic_deeponet(frame, **{"hidden": 16, "n_layers": 2, "q": 8} | options).eval()


def test_the_modified_network_is_its_equations():
    torch.manual_seed(0)
    network = ModifiedMLP(3, 5, 2, 4)
    with torch.no_grad():
        for layer in (*network.layers, network.gate_u, network.gate_v, network.output):
            layer.bias.uniform_(-1, 1)
    y = torch.randn(7, 3)
    u, v = torch.sin(network.gate_u(y)), torch.sin(network.gate_v(y))
    h = torch.sin(30 * y @ network.layers[0].weight.T + network.layers[0].bias)
    h = h * u + (1 - h) * v
    h = torch.sin(network.layers[1](h))
    h = h * u + (1 - h) * v
    assert torch.allclose(network(y), network.output(h), atol=1e-6)
    linear = copy.deepcopy(network)
    linear.gate_activation = False
    u, v = network.gate_u(y), network.gate_v(y)
    h = torch.sin(30 * y @ network.layers[0].weight.T + network.layers[0].bias)
    h = torch.lerp(v, u, h)
    h = torch.lerp(v, u, torch.sin(network.layers[1](h)))
    assert torch.allclose(linear(y), network.output(h), atol=1e-6)


@pytest.mark.parametrize("kind", [SineMLP, ModifiedMLP])
def test_weights_are_drawn_as_published(kind):
    torch.manual_seed(0)
    network = kind(20, 400, 2, 50)
    bounds = {
        network.layers[0]: 1 / 20,
        network.layers[1]: math.sqrt(6 / 400) / 30,
        network.output: math.sqrt(6 / 400) / 30,
    }
    if kind is ModifiedMLP:
        bounds |= {network.gate_u: 1 / 20, network.gate_v: 1 / 20}
    for layer, bound in bounds.items():
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    plain = kind(20, 400, 2, 50, activation="tanh")
    assert plain.w0 == plain.hidden_w0 == 1.0
    assert kind(20, 40, 2, 5, siren_hidden=True).hidden_w0 == 30.0


def test_features_are_coordinates_then_cosines_then_sines():
    y = torch.tensor([[0.3, -0.2]])
    waves = [2 * math.pi * f / 343 for f in (500, 250)]
    wanted = [y] + [torch.cos(w * y) for w in waves] + [torch.sin(w * y) for w in waves]
    features = FrequencyFeatures((500, 250))
    assert torch.allclose(features(y), torch.cat(wanted, 1))
    assert features.out_dim(2) == 10
    assert torch.equal(FrequencyFeatures(())(y), y)


def test_sensors_and_coordinates_are_those_of_the_paper():
    frame = RoomFrame(Room((2.0, 3.0)))
    assert frame.sensor_shape == (13, 19)
    y = frame.normalised(torch.tensor([[0.0, 3.0, 0.01], [1.5, 1.5, 0.0]]))
    assert torch.allclose(y, torch.tensor([[-1.0, 1.0, 3.43 / 3 / 2], [0.0, 0.0, 0.0]]))
    aspect = RoomFrame(Room((2.0, 3.0)), time_scale=ASPECT_PRESERVING).normalised(torch.tensor([[0.0, 0.0, 3 / 343]]))
    assert aspect[0, 2] == pytest.approx(2.0)  # across the room, from -1 to 1
    u = frame.source_fields([[1.0, 1.5]])
    assert u.shape == (1, 13, 19)
    assert u[0, 6, 9] == pytest.approx(1.0)
    corner = RoomFrame(Room.l_shape((2.0, 2.0), (1.0, 1.0))).source_fields([0.7, 0.7])
    assert not corner[0, 7:, 7:].any()
    with pytest.warns(UserWarning, match="nearer"):
        frame.source_fields([0.1, 1.5])


@pytest.mark.parametrize("branch", ["modified-mlp", "mlp", "resnet", "linear"])
@pytest.mark.parametrize("room", [Room((2.0,)), Room((2.0, 1.5)), Room((1.0, 1.0, 1.5))])
def test_all_ways_to_ask_agree(branch, room):
    frame = RoomFrame(room)
    model = small(frame, branch=branch)
    sources = 0.5 * np.array(room.size) * [[1.0], [0.9]]
    ears, times = 0.3 * np.array(room.size) * [[1.0], [2.0], [1.3]], np.linspace(0, 0.01, 5)
    u, y = frame.source_fields(sources), frame.coordinates(ears, times)
    with torch.no_grad():
        p = model(u, y)
        apart = model(u, y.repeat(2, 1, 1))
    wanted = p.reshape(2, 3, 5)
    assert torch.allclose(apart, p, atol=1e-6)
    assert torch.allclose(model.cache_receivers(y).query(u), p, atol=1e-6)
    assert torch.allclose(model.cache_source(u).query(y), p, atol=1e-6)
    assert torch.allclose(model.impulse_response(sources, ears, times), wanted, atol=1e-6)
    assert model.cache_receivers(y).nbytes == 8 * 15 * 4
    assert p.std() > 0


def test_a_linear_branch_superposes_and_others_do_not():
    y = SQUARE.coordinates([[0.4, 0.6]], [0.001, 0.002])
    a, b = SQUARE.source_fields([0.7, 0.8]), SQUARE.source_fields([1.2, 1.1])
    for branch, holds in (("linear", True), ("mlp", False), ("modified-mlp", False)):
        model = small(branch=branch)
        with torch.no_grad():
            apart = (model(2 * a - b, y) - 2 * model(a, y) + model(b, y)).abs().max() / model(a, y).abs().max()
        assert (apart < 1e-4) == holds


def test_sixteen_bits_change_little():
    model = small(hidden=128, q=50)
    u, y = SQUARE.source_fields([[0.7, 0.8], [1.2, 0.4]]), SQUARE.coordinates([[0.4, 0.6]], np.linspace(0, 0.01, 40))
    with torch.no_grad():
        p, q = model(u, y), low_precision_branch(model)(u, y)
    assert 0 < (p - q).norm() < 0.02 * p.norm()
    assert model.branch.output.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ModifiedMLP(3, 8, 2, 4)(torch.zeros(2, 4)), "3 inputs"),
        (lambda: ModifiedMLP(3, 8, 2, 4, activation="gelu"), "activation"),
        (lambda: SineMLP(3, 8, 0, 4), "n_layers"),
        (lambda: ResNetBranch((5,) * 4, 3), "axes"),
        (lambda: ResNetBranch((5,), 3, channels=(4,), blocks=(1, 1)), "groups"),
        (lambda: FrequencyFeatures((-1.0,)), "freqs_hz"),
        (lambda: RoomFrame(Room((2.0,)), time_scale=0.0), "time_scale"),
        (lambda: SQUARE.coordinates([[0.5, 0.5]], [-1.0]), "times"),
        (lambda: SQUARE.coordinates([[2.5, 0.5]], [0.0]), "points has .* outside"),
        (lambda: SQUARE.source_fields([2.5, 0.5]), "positions"),
        (lambda: SQUARE.normalised(torch.zeros(2, 2)), "y has shape"),
        (
            lambda: AcousticDeepONet(torch.nn.Linear(2, 3), torch.nn.Linear(2, 4), 3)(
                torch.ones(1, 2), torch.ones(1, 2)
            ),
            "q = 3",
        ),
        (
            lambda: AcousticDeepONet(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3), 3).impulse_response(
                [1.0], [1.0], [0.0]
            ),
            "frame",
        ),
        (lambda: small().cache_receivers(torch.zeros(2, 3)).impulse_response([1.0, 1.0]), "n_times"),
        (lambda: small(branch="cnn"), "branch"),
        (lambda: make_acoustic_deeponet(SQUARE, hidden=0), "hidden"),
        (lambda: make_acoustic_deeponet(SQUARE, hidden=8, n_layers=0), "n_layers"),
        (lambda: small()(torch.zeros(169), torch.zeros(2, 3)), "u has shape"),
        (lambda: small()(torch.zeros(2, 13, 13), torch.zeros(3, 5, 3)), "y has shape"),
        (lambda: small().impulse_response([1.0, 1.0], [[1.0, 1.0]], []), "times is empty"),
        (lambda: train_deeponet(small(), torch.ones(0, 13, 13), torch.ones(5, 3), torch.ones(0, 5), 1), "u is empty"),
        (
            lambda: train_deeponet(
                small().requires_grad_(False), torch.ones(2, 13, 13), torch.ones(5, 3), torch.ones(2, 5), 1
            ),
            "model has no parameter",
        ),
        (lambda: SelfAdaptiveWeights(0), "n is"),
        (lambda: train_deeponet(small(), torch.ones(2, 13, 13), torch.ones(5, 3), torch.ones(2, 4), 1), "p takes"),
        (
            lambda: train_deeponet(small(), torch.ones(2, 13, 13), torch.ones(5, 3), torch.full((2, 5), math.nan), 1),
            "NaN",
        ),
        (lambda: ceod(torch.ones(2, 3), torch.ones(3, 3), torch.ones(2, 3), torch.ones(2, 3)), "samples"),
        (lambda: transfer(small(), small(hidden=8)), "other layers"),
        (lambda: transfer(small(), small(), branch=(2,)), "branch has layer 2"),
        (lambda: transfer(small(branch="linear"), small(branch="linear")), "no numbers"),
        (lambda: PartitionOfUnity([[[1.0], [0.0]]], 0.1), "boxes"),
        (lambda: PartitionOfUnity.of_grid((2.0,), (4,), 0.6), "overlap"),
        (lambda: PartitionOfUnity.of_grid((2.0,), (2,), 0.6).weights([[2.5]]), "no box"),
        (lambda: DecomposedDeepONet([small()], PartitionOfUnity.of_grid((2.0, 2.0), (2, 1), 0.6)), "models"),
    ],
)
def test_bad_input_is_refused(make, says, untyped):
    with pytest.raises(ValueError, match=says):
        make()


def test_queries_answer_by_the_training_s_statistics_and_leave_the_mode():
    model = small(branch="resnet").train()
    before = copy.deepcopy(model.state_dict())
    places, times = [[1.0, 0.5]], np.linspace(0, 0.01, 5)
    one = model.impulse_response([1.0, 1.0], places, times)
    two = model.impulse_response([[1.0, 1.0], [0.5, 0.7]], places, times)
    assert torch.allclose(one, two[:1], atol=1e-7)
    assert model.training
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_another_precision_are_asked_by_places(dtype):
    model, places, times = small(), [[1.0, 0.5]], np.linspace(0, 0.01, 5)
    p = model.impulse_response([1.0, 1.0], places, times)
    q = copy.deepcopy(model).to(dtype).impulse_response([1.0, 1.0], places, times)
    assert q.dtype == dtype
    assert (p - q).norm() < (1e-5 if dtype == torch.float64 else 0.1) * p.norm()
    assert (
        low_precision_branch(copy.deepcopy(model).double()).impulse_response([1.0, 1.0], places, times).isfinite().all()
    )


def test_times_beyond_the_training_warn():
    frame, u, y, p = square_data()
    model = small(frame)
    train_deeponet(model, u, y, p, 1)
    model.impulse_response([1.0, 1.0], [[1.0, 1.0]], [0.0, 0.003])
    with pytest.warns(UserWarning, match=r"beyond the training's 0\.003 s"):
        model.impulse_response([1.0, 1.0], [[1.0, 1.0]], [0.01])


def test_a_refused_transfer_leaves_the_target_as_it_was():
    target = small(seed=1)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match="branch has layer 7"):
        transfer(small(), target, branch=(7,))
    assert all(torch.equal(a, before[name]) for name, a in target.state_dict().items())


def square_data(n=6):
    rng = np.random.default_rng(0)
    frame = RoomFrame(Room((2.0, 2.0)), time_scale=ASPECT_PRESERVING)
    sources, points, times = rng.uniform(0.5, 1.5, (n, 2)), frame.room.nodes(0.25), np.linspace(0, 0.003, 5)
    p = box_modes((2.0, 2.0), GaussianSource(sources, frame.sigma), points, times).transpose(0, 2, 1).reshape(n, -1)
    return (
        frame,
        frame.source_fields(sources),
        frame.coordinates(points, times),
        torch.as_tensor(p, dtype=torch.float32),
    )


@pytest.mark.parametrize("options", [{}, {"shared": False}, {"adaptive": True}, {"batch_size": 3}])
def test_training_lowers_the_error_and_is_repeated_by_its_seed(options):
    frame, u, y, p = square_data()
    found = []
    for _ in range(2):
        model = small(frame, hidden=32, q=16)
        given = options | ({"adaptive": SelfAdaptiveWeights(len(y))} if "adaptive" in options else {})
        losses = train_deeponet(model, u, y, p, 100, coordinates=200, lr=1e-2, clip=1.0, random_state=1, **given)
        found.append(losses)
        assert not model.training
        with torch.no_grad():
            assert (model(u, y) - p).square().mean() < 0.7 * p.square().mean()
    assert (found[0] == found[1]).all()


def test_adaptive_weights_grow_where_the_error_is_and_are_clipped():
    weights = SelfAdaptiveWeights(4, lr=0.5, greatest=2.0)
    for _ in range(5):
        weights(torch.tensor([[1.0, 0.01], [3.0, 0.02]]), torch.tensor([1, 2])).backward()
        weights.ascend()
    assert weights.values.tolist() == pytest.approx([1.0, 2.0, 2.0, 1.0])
    value = weights(torch.tensor([[1.0, 3.0]]), torch.tensor([0, 1]))
    assert value.item() == pytest.approx((1 * 1 + 2 * 3) / 2)


def test_the_discrepancy_is_a_squared_distance():
    torch.manual_seed(0)
    x, y, a, b = (torch.rand(6, k, dtype=torch.float64) for k in (3, 5, 3, 5))
    assert ceod(x, y, a, b) > 0
    assert float(ceod(x, y, a, b)) == pytest.approx(float(ceod(a, b, x, y)))
    assert float(ceod(x, y, x, y)) == pytest.approx(0.0, abs=1e-12)

    # By the traces of its definition.
    def k(s, t):
        return torch.exp(-5 * torch.cdist(s, t) ** 2)

    p, q = (torch.linalg.inv(k(s, s) + 6 * torch.eye(6)) for s in (x, a))
    traces = [
        torch.trace(p @ k(y, y) @ p @ k(x, x)),
        torch.trace(q @ k(b, b) @ q @ k(a, a)),
        torch.trace(p @ k(y, b) @ q @ k(a, x)),
    ]
    assert float(ceod(x, y, a, b)) == pytest.approx(float(traces[0] + traces[1] - 2 * traces[2]))


def test_transfer_freezes_the_paper_s_layers_and_trains_the_others():
    frame, u, y, p = square_data()
    source, target = small(frame), small(frame, seed=1)
    transfer(source, target)
    before = copy.deepcopy(target.state_dict())
    assert all(torch.equal(a, source.state_dict()[name]) for name, a in before.items())
    train_deeponet(target, u, y, p, 3, source_fields=u)
    moved = {name for name, a in target.state_dict().items() if not torch.equal(a, before[name])}
    inner = "trunk.1"
    kept = {f"branch.{layer}" for layer in ("layers.0", "layers.1", "gate_u", "gate_v")}
    kept |= {f"{inner}.{layer}" for layer in ("layers.0", "gate_u", "gate_v")}
    assert {name.rsplit(".", 1)[0] for name in before if name not in moved} == kept
    convolutional = [small(frame, branch="resnet", seed=seed) for seed in (0, 1)]
    transfer(*convolutional, trunk=(), gates=False)
    free = {
        name.split(".")[1] for name, q in convolutional[1].named_parameters() if q.requires_grad and "branch" in name
    }
    assert free == {"output"}


def test_parts_of_a_room_add_up_smoothly():
    parts = PartitionOfUnity.of_grid((4.0, 2.0), (2, 2), overlap=0.5)
    x = np.stack(np.meshgrid(np.linspace(0, 4, 81), np.linspace(0, 2, 41)), -1).reshape(-1, 2)
    weights = parts.weights(x)
    assert np.abs(weights.sum(1) - 1).max() < 1e-12
    assert not weights[~parts.contains(x)].any()
    assert parts.weights([[0.0, 0.0], [4.0, 2.0], [2.0, 1.0]])[[0, 1], [0, 3]].tolist() == [1.0, 1.0]
    assert parts.weights([[2.0, 1.0]])[0] == pytest.approx(0.25)
    line = parts.weights(np.stack([np.linspace(1.5, 2.5, 2001), np.full(2001, 0.3)], 1))[:, 0]
    assert np.abs(np.diff(line, 2)).max() < 2e-5  # no kinks


def test_parts_of_an_l_answer_on_its_walls():
    parts = PartitionOfUnity([[[0.0, 0.0], [1.0, 2.0]], [[0.8, 0.0], [2.0, 1.0]]], margin=0.2)
    assert parts.weights([[1.0, 1.5], [1.5, 1.0], [0.9, 0.5]]).tolist() == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]


def test_equal_networks_in_parts_are_the_whole():
    frame = RoomFrame(Room((4.0, 2.0)))
    model = small(frame)
    parts = PartitionOfUnity.of_grid((4.0, 2.0), (2, 1), overlap=0.5)
    sources, ears, times = [[0.7, 1.0], [2.0, 1.0]], [[0.3, 0.3], [2.1, 1.0], [3.9, 0.2]], np.linspace(0, 0.01, 4)
    whole = model.impulse_response(sources, ears, times)
    assert torch.allclose(
        DecomposedDeepONet([model] * 2, parts).impulse_response(sources, ears, times), whole, atol=1e-6
    )
    both = DecomposedDeepONet([model] * 4, parts, parts)
    assert torch.allclose(both.impulse_response(sources, ears, times), whole, atol=1e-6)
    other = small(frame, seed=1)
    mixed = DecomposedDeepONet([model, other], parts).impulse_response(sources, ears, times)
    assert torch.allclose(mixed[:, 0], whole[:, 0], atol=1e-6)
    assert torch.allclose(mixed[:, 2], other.impulse_response(sources, ears, times)[:, 2], atol=1e-6)


def flax_tree(rng, tag, sizes, gates=True):
    tree = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        tree[f"{tag}/params/linear_{tag}_{i}/kernel"] = rng.normal(size=(a, b)) / a
        tree[f"{tag}/params/linear_{tag}_{i}/bias"] = rng.normal(size=b) / 10
    for gate in "UV" if gates else "":
        tree[f"{tag}/params/transformer{gate}_{tag}/kernel"] = rng.normal(size=sizes[:2]) / sizes[0]
        tree[f"{tag}/params/transformer{gate}_{tag}/bias"] = rng.normal(size=sizes[1]) / 10
    return tree


def flax_answer(tree, tag, x, gate=np.sin):
    """The published network in NumPy."""
    part = {key.split("/")[2] + "/" + key.split("/")[3]: a for key, a in tree.items() if key.startswith(tag)}
    layers = len([key for key in part if key.startswith("linear") and key.endswith("kernel")])
    gates = "transformerU_" + tag + "/kernel" in part
    u, v = (
        gate(x @ part[f"transformer{g}_{tag}/kernel"] + part[f"transformer{g}_{tag}/bias"]) if gates else None
        for g in "UV"
    )
    for i in range(layers):
        w, b = part[f"linear_{tag}_{i}/kernel"], part[f"linear_{tag}_{i}/bias"]
        if i == layers - 1:
            return x @ w + b
        x = np.sin((30 if i == 0 else 1) * (x @ w) + b)
        x = x * u + (1 - x) * v if gates else x


@pytest.mark.parametrize("gates", [True, False])
def test_published_weights_give_the_published_network(tmp_path, gates):
    rng = np.random.default_rng(0)
    tree = flax_tree(rng, "bn", [169, 12, 12, 7], gates) | flax_tree(rng, "tn", [21, 12, 12, 12, 7], gates)
    tree |= {"b0": np.array(0.3), "adaptive_weights": np.ones(5)}
    np.savez(tmp_path / "square.npz", **tree)
    u, y = SQUARE.source_fields([[0.7, 0.8], [1.2, 1.1]]), SQUARE.coordinates([[0.4, 0.6]], [0.001, 0.004])
    features = FrequencyFeatures((500, 250, 167))(SQUARE.normalised(y)).numpy()
    for activated in (True, False):
        model = load_official_deeponet(tmp_path / "square.npz", SQUARE, gate_activation=activated)
        gate = np.sin if activated else (lambda z: z)
        wanted = (
            flax_answer(tree, "bn", u.flatten(1).numpy() / 2, gate) @ flax_answer(tree, "tn", features, gate).T + 0.3
        )
        assert np.abs(model(u, y).detach().numpy() - wanted).max() < 1e-5


def resnet_tree(rng, channels, blocks, dense, norms=True):
    tree, width, n = {}, channels[0], 0

    def norm(path, size):
        tree.update(
            {f"bn/params/{path}/scale": rng.uniform(0.5, 1.5, size), f"bn/params/{path}/bias": rng.normal(size=size)}
        )
        if norms:
            tree[f"bn/batch_stats/{path}/mean"] = rng.normal(size=size)
            tree[f"bn/batch_stats/{path}/var"] = rng.uniform(0.5, 1.5, size)

    tree["bn/params/Conv_0/kernel"] = rng.normal(size=(3, 3, 1, width)) / 3
    norm("BatchNorm_0", width)
    for group, (wide, count) in enumerate(zip(channels, blocks, strict=True)):
        for i in range(count):
            path = f"ResNetBlock_{n}"
            tree[f"bn/params/{path}/Conv_0/kernel"] = rng.normal(size=(3, 3, width, wide)) / 6
            tree[f"bn/params/{path}/Conv_1/kernel"] = rng.normal(size=(3, 3, wide, wide)) / 6
            norm(f"{path}/BatchNorm_0", wide)
            norm(f"{path}/BatchNorm_1", wide)
            if i == 0 and group > 0:
                tree[f"bn/params/{path}/Conv_2/kernel"] = rng.normal(size=(1, 1, width, wide)) / 2
                tree[f"bn/params/{path}/Conv_2/bias"] = rng.normal(size=wide)
            width, n = wide, n + 1
    for i, (a, b) in enumerate(itertools.pairwise(dense)):
        tree[f"bn/params/Dense_{i}/kernel"], tree[f"bn/params/Dense_{i}/bias"] = (
            rng.normal(size=(a, b)) / a,
            rng.normal(size=b),
        )
    return tree


def same_convolution(x, kernel, stride):
    """JAX's SAME padding, channels last, by hand."""
    n, k = x.shape[1], kernel.shape[0]
    out = -(-n // stride)
    missing = max((out - 1) * stride + k - n, 0)
    x = np.pad(x, ((0, 0), *[(missing // 2, missing - missing // 2)] * 2, (0, 0)))
    taken = [[x[:, i * stride : i * stride + k, j * stride : j * stride + k] for j in range(out)] for i in range(out)]
    return np.stack([np.stack([np.einsum("bijc,ijcd->bd", part, kernel) for part in row], 1) for row in taken], 1)


def test_published_convolutions_give_the_published_network():
    frame, rng = RoomFrame(Room((1.0, 1.0)), f_max=2200.0), np.random.default_rng(0)
    side = frame.sensor_shape[0]
    assert side % 2 == 0  # where strides pad one side alone
    half = side // 2
    tree = resnet_tree(rng, (3, 4), (1, 2), [4 * half * half, 6, 5]) | flax_tree(rng, "tn", [21, 8, 5])
    model = load_official_deeponet(tree, frame)
    u = frame.source_fields([[0.5, 0.4], [0.3, 0.6]])

    def norm(x, path):
        scale, bias, mean, var = (
            tree[f"bn/{kind}/{path}/{name}"]
            for kind, name in (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def relu(x):
        return np.maximum(x, 0)

    p = "bn/params"
    x = relu(norm(same_convolution(u.numpy()[..., None] / 2, tree[f"{p}/Conv_0/kernel"], 1), "BatchNorm_0"))
    for i, stride in enumerate((1, 2, 1)):
        block = f"ResNetBlock_{i}"
        z = relu(norm(same_convolution(x, tree[f"{p}/{block}/Conv_0/kernel"], stride), f"{block}/BatchNorm_0"))
        z = norm(same_convolution(z, tree[f"{p}/{block}/Conv_1/kernel"], 1), f"{block}/BatchNorm_1")
        if stride == 2:
            x = same_convolution(x, tree[f"{p}/{block}/Conv_2/kernel"], 2) + tree[f"{p}/{block}/Conv_2/bias"]
        x = relu(z + x)
    x = np.sin(x.reshape(2, -1) @ tree[f"{p}/Dense_0/kernel"] + tree[f"{p}/Dense_0/bias"])
    wanted = x @ tree[f"{p}/Dense_1/kernel"] + tree[f"{p}/Dense_1/bias"]
    found = model.branch_features(u).detach().numpy()
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tree: tree.pop("tn/params/linear_tn_1/bias"), "lack"),
        (lambda tree: tree.pop("tn/params/linear_tn_0/kernel"), "layers"),
        (lambda tree: tree.update({"bn/params/linear_bn_0/kernel": np.zeros((5, 12))}), "5 sensors"),
        (lambda tree: tree.update({"tn/params/linear_tn_0/kernel": np.zeros((5, 12))}), "trunk of 5"),
        (lambda tree: tree.update({"b0": np.array(np.nan)}), "finite"),
        (lambda tree: tree.update({"tn/params/linear_tn_0/bias": np.zeros(3)}), "shape"),
        (lambda tree: tree.update({"tn/params/linear_tn_0/kernel": np.zeros(5)}), "2 axes"),
        (lambda tree: tree.update({"b0": np.zeros(3)}), "b0"),
        (lambda tree: tree.update({"tn/params/linear_tn_0/bias": np.full(12, 1e300)}), "single precision"),
        (lambda tree: tree.update({"tn/params/linear_tn_0/bias": np.full(12, 1j)}), "real numbers"),
        (lambda tree: tree.update({"bn/params/Conv_0/kernel": np.zeros((3, 3, 1, 4))}), "convolutional"),
    ],
)
def test_broken_weights_are_refused(spoil, says, tmp_path):
    rng = np.random.default_rng(0)
    tree = flax_tree(rng, "bn", [169, 12, 7], False) | flax_tree(rng, "tn", [21, 12, 7], False)
    load_official_deeponet(tree, SQUARE)
    spoil(tree)
    with pytest.raises(ValueError, match=says):
        load_official_deeponet(tree, SQUARE)
    np.savez(tmp_path / "whole.npz", **tree)
    np.save(tmp_path / "one.npy", np.ones(3))
    whole = bytearray((tmp_path / "whole.npz").read_bytes())
    whole[500] ^= 255
    contents = [b"not an archive", b"", bytes(whole), *(bytes(whole[:n]) for n in (10, 1000, len(whole) - 5))]
    for content in [*contents, (tmp_path / "one.npy").read_bytes()]:
        (tmp_path / "no.npz").write_bytes(content)
        with pytest.raises(ValueError, match="can't be read"):
            load_official_deeponet(tmp_path / "no.npz", SQUARE)
