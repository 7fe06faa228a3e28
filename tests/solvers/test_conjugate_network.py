"""The network and its training: exact sizes, any grid, files, and a loss that only directions matter to."""

import numpy as np
import pytest
import torch

from paperworks.numerics import seeded
from paperworks.solvers import (
    DCDMNet,
    DCDMSolver,
    PoissonDomain,
    RitzDataset,
    cg,
    dcdm_loss,
    flexible_cg,
    train_dcdm,
)

BOX = PoissonDomain(np.ones((10, 10), bool))


@pytest.mark.parametrize(
    ("dim", "levels", "variant", "parameters"),
    [(3, 1, "n64", 97_457), (3, 1, "n128", 152_881), (2, 1, "n64", 32_657), (2, 2, "n64", 51_217)],
)
def test_it_has_as_many_parameters_as_the_papers(dim, levels, variant, parameters):
    net = DCDMNet(dim, levels=levels, variant=variant)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("grid", [(8, 8), (9, 13), (1, 5), (5, 6, 7)])
@pytest.mark.parametrize("variant", ["n64", "n128"])
def test_grids_of_any_size_are_kept(grid, variant):
    net = DCDMNet(len(grid), channels=2, levels=2, variant=variant)
    assert net(torch.randn(3, *grid)).shape == (3, *grid)


def test_padding_is_of_zeros_and_rows_of_a_batch_are_apart():
    with seeded(0):
        net = DCDMNet(2, channels=4)
    r = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(r), net(torch.nn.functional.pad(r, (0, 1, 0, 1)))[:, :5, :7])
    torch.testing.assert_close(net(r)[1:], net(r[1:]), atol=1e-6, rtol=1e-5)


def test_the_lowest_level_sees_far():
    with seeded(0):
        one, two = DCDMNet(2, channels=4), DCDMNet(2, channels=4, levels=3)
    r = torch.zeros(1, 128, 4)
    changed = r.clone()
    changed[0, 0] = 1
    reach = [int((net(changed) != net(r))[0].any(1).nonzero().max()) for net in (one, two)]
    assert reach[1] > 2 * reach[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_files_hold_all_of_it(tmp_path, dtype):
    net = DCDMNet(3, channels=2, levels=2, variant="n128").to(dtype).eval()
    net.save(tmp_path / "net.pt")
    again = DCDMNet.load(tmp_path / "net.pt")
    r = torch.randn(1, 4, 4, 4, dtype=dtype)
    assert torch.equal(net(r), again(r))


def test_files_of_something_else_are_refused(tmp_path):
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no DCDMNet"):
        DCDMNet.load(tmp_path / "other.pt")
    torch.save(PoissonDomain, tmp_path / "code.pt")  # which isn't executed
    with pytest.raises(ValueError, match=r"holds no DCDMNet.*weights_only"):
        DCDMNet.load(tmp_path / "code.pt")
    for content in (b"", b"hello"):
        (tmp_path / "text.pt").write_bytes(content)
        with pytest.raises(ValueError, match="holds no DCDMNet"):
            DCDMNet.load(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        DCDMNet.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda settings, weights: settings.update(dim=3),
        lambda settings, weights: settings.update(more=3),
        lambda settings, weights: settings.update(channels=10**7),
        lambda settings, weights: settings.update(levels=10**9),
        lambda settings, weights: settings.clear(),
        lambda settings, weights: weights.clear(),
        lambda settings, weights: weights.popitem(),
        lambda settings, weights: weights.update({key: w.int() for key, w in weights.items()}),
        lambda settings, weights: weights.update({key: w + 0j for key, w in weights.items()}),
        lambda settings, weights: weights.update({key: w * np.nan for key, w in weights.items()}),
        lambda settings, weights: weights.update(dict.fromkeys(weights, "text")),
        lambda settings, weights: weights.update({"last.bias": weights["last.bias"].double()}),
    ],
)
def test_files_that_were_tampered_with_are_refused(tmp_path, change):
    file = tmp_path / "net.pt"
    DCDMNet(2, channels=2).save(file)
    found = torch.load(file, weights_only=True)
    change(found["settings"], found["weights"])
    torch.save(found, file)
    with pytest.raises(ValueError, match="holds no DCDMNet"):
        DCDMNet.load(file)


def test_training_goes_on_after_a_file(tmp_path):
    data = RitzDataset(BOX, 20, 100)
    with seeded(0):
        net = DCDMNet(2, channels=4)
    first = train_dcdm(net, data, BOX, epochs=2)
    net.save(tmp_path / "net.pt")
    again = DCDMNet.load(tmp_path / "net.pt")
    found = [train_dcdm(each, data, BOX, epochs=2, random_state=1) for each in (net, again)]
    np.testing.assert_array_equal(found[0].losses, found[1].losses)
    assert found[0].validation < first.validation


def test_as_an_operator_it_is_homogeneous_and_stays_in_the_fluid():
    domain = PoissonDomain(np.tri(10, dtype=bool))
    with seeded(0):
        M = DCDMNet(2, channels=4).as_linear_operator(domain)
    r = np.where(domain.fluid, np.random.default_rng(0).standard_normal((10, 10)), 0).ravel()
    np.testing.assert_allclose(M @ (1000 * r), 1000 * (M @ r), rtol=1e-4, atol=1e-4)
    assert not (M @ r)[~domain.fluid.ravel()].any()
    assert not (M @ np.zeros(100)).any()
    np.testing.assert_allclose(M @ (1e-200 * r) * 1e200, M @ r, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="complex"):
        M @ (1j * r)
    with pytest.raises(ValueError, match="takes 3 dimensions"):
        DCDMNet(3).as_linear_operator(domain)


def test_the_loss_is_what_the_line_search_leaves():
    rng = np.random.default_rng(0)
    r, z = (torch.from_numpy(rng.standard_normal((3, 10, 10))) for _ in range(2))
    A = BOX.matrix().toarray()
    expected = []
    for a, b in zip(r.reshape(3, -1).numpy(), z.reshape(3, -1).numpy(), strict=True):
        alpha = (a @ b) / (b @ A @ b)
        expected.append(((a - alpha * A @ b) ** 2).sum())
    assert float(dcdm_loss(z, r, BOX.apply)) == pytest.approx(np.mean(expected), rel=1e-9)
    assert float(dcdm_loss(-7 * z, r, BOX.apply)) == pytest.approx(np.mean(expected), rel=1e-9)
    assert float(dcdm_loss(z, BOX.apply(z), BOX.apply)) < 1e-18


def test_gradients_go_through_the_scale_too():
    r = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    domain = PoissonDomain(np.ones((3, 3), bool))
    assert torch.autograd.gradcheck(lambda z: dcdm_loss(z, r, domain.apply), (z,))
    (gradient,) = torch.autograd.grad(dcdm_loss(z, r, domain.apply), z)
    assert abs((gradient * z).sum().item()) < 1e-12  # along a direction itself nothing changes


def test_samples_are_mixtures_with_more_of_the_lower_half():
    data = RitzDataset(BOX, n_ritz=40, n_samples=2000)
    exact = np.linalg.eigvalsh(BOX.matrix().toarray())
    assert exact[0] - 1e-9 <= float(data.values[0]) <= float(data.values[-1]) <= exact[-1] + 1e-9
    torch.testing.assert_close(data.samples.flatten(1).norm(dim=1), torch.ones(2000))
    # Shares of the norm by Ritz vector: 22 of weight 81 to 18 of weight 1. Vectors come from the samples themselves.
    v = np.linalg.svd(data.samples.flatten(1).double().numpy(), full_matrices=False)[1] ** 2
    assert (v[:40] / v.sum() > 1e-6).all()
    assert v[40:].sum() / v.sum() < 1e-10
    assert v[22:].sum() / v.sum() == pytest.approx(18 / (22 * 81 + 18), rel=0.1)


def test_an_exhausted_space_counts_what_it_found():
    # Few of the 36 eigenvalues of a square differ; the Krylov space ends before it has 36 dimensions.
    data = RitzDataset(PoissonDomain(np.ones((6, 6), bool)), 36, n_samples=4000)
    shares = np.linalg.svd(data.samples.flatten(1).double().numpy(), full_matrices=False)[1] ** 2
    low = round(0.55 * len(data.values))
    assert shares[low] < shares[low - 1] / 30


def test_integers_are_numbers_too():
    A = BOX.matrix().astype(int)
    assert torch.equal(RitzDataset(A, 10, 3).samples, RitzDataset(BOX, 10, 3).samples)


def test_null_directions_are_left_out():
    closed = PoissonDomain(np.ones((6, 6), bool), bc="neumann")
    for n_ritz in (10, 20):  # a square of six has 18 different eigenvalues above 0
        data = RitzDataset(closed, n_ritz, n_samples=5)
        assert data.samples.sum((1, 2)).abs().max() < 1e-5
    assert float(RitzDataset(closed, 10, 1).values[0]) > 0.1


def test_the_same_seeds_give_the_same_network_and_others_others():
    def weights(random_state):
        data = RitzDataset(BOX, 20, 40, random_state=random_state)
        with seeded(0):
            net = DCDMNet(2, channels=2)
        train_dcdm(net, data, BOX, epochs=1, random_state=random_state)
        return net.last.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_training_keeps_the_best_weights_and_time_ends_it():
    data = RitzDataset(BOX, 20, 100)
    with seeded(0):
        net = DCDMNet(2, channels=4)
    held_out = data.samples[90:]
    found = train_dcdm(net, data, BOX, epochs=4)
    with torch.no_grad():
        assert float(dcdm_loss(net(held_out), held_out, BOX.apply)) == pytest.approx(found.validation, rel=1e-4)
    assert found.validation < found.losses[0]
    assert not net.training
    assert len(train_dcdm(net, data, BOX, epochs=50, max_seconds=1e-6).losses) == 1


def test_a_network_trained_for_two_seconds_is_better_than_none():
    with seeded(0):
        net = DCDMNet(2, channels=8)
    train_dcdm(net, RitzDataset(BOX, 50, 400), BOX, epochs=8)
    domain = PoissonDomain(np.tri(10, k=3, dtype=bool))
    b = np.where(domain.fluid, np.random.default_rng(0).standard_normal((10, 10)), 0).ravel()
    theirs = cg(domain.matrix(), b, rtol=1e-4).iterations
    solver = DCDMSolver(net)
    solver.solve(domain, b)
    assert solver.iterations_[0] <= 0.7 * theirs
    flexible = flexible_cg(domain.operator(), b, rtol=1e-4, M=net.as_linear_operator(domain))
    assert flexible.converged
    assert flexible.iterations <= 0.7 * theirs


DATA = RitzDataset(BOX, 4, 4)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DCDMNet(4), "dim"),
        (lambda: DCDMNet(2, channels=0), "channels"),
        (lambda: DCDMNet(2, levels=0), "levels"),
        (lambda: DCDMNet(2, levels=10**9), "levels"),
        (lambda: DCDMNet(2, variant="n32"), "variant"),
        (lambda: DCDMNet(2)(torch.zeros(8, 8)), "r has shape"),
        (lambda: dcdm_loss(torch.ones(2, 10, 10), torch.ones(1, 10, 10), BOX.apply), "net_out has shape"),
        (lambda: RitzDataset(PoissonDomain([[1]], bc="neumann"), 1, 1), "maps a random vector to 0"),
        (lambda: RitzDataset(np.full((4, 4), np.nan), 1, 1), "NaN"),
        (lambda: RitzDataset(BOX, 101, 10), "n_ritz"),
        (lambda: RitzDataset(BOX, 10, 0), "n_samples"),
        (lambda: RitzDataset(BOX, 10, 10, low_weight=0.0), "low_weight"),
        (lambda: RitzDataset(BOX, 10, 10, theta_frac=0.6), "theta_frac"),
        (lambda: train_dcdm(DCDMNet(3), DATA, BOX), "dataset has grids"),
        (lambda: train_dcdm(DCDMNet(2), DATA, PoissonDomain(np.ones((4, 4), bool))), "dataset has grids"),
        (lambda: train_dcdm(DCDMNet(2), DATA, BOX, max_seconds=0.0), "max_seconds"),
        (lambda: train_dcdm(DCDMNet(2), RitzDataset(BOX, 4, 1), BOX), "dataset has 1 samples"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
