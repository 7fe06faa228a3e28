"""Tests of the maps from weights to entries, their signs, and of recovering and folding."""

import numpy as np
import pytest
import torch

from paperworks.training import SharedParameter, ShareMap, inner_product_variance, linear_capacity, sharing_matrix
from paperworks.training.sharing.kernels import Piece, fold, kept_index, recover
from paperworks.training.sharing.maps import mixed, mixed_words

MAPPINGS = ("randomfold", "hashednet", "roast", "robe", "random")
TENSORS = [(0, (50, 40)), (2000, (8, 3, 5, 5)), (2600, (7,)), (2607, (393,))]
N = 3000


def reference(share, offset, shape):
    """The entry of each weight by the definitions, one at a time."""
    flat = np.arange(offset, offset + int(np.prod(shape)))
    p, o = flat // share.m, flat % share.m
    u = share.rotation(torch.from_numpy(p)).numpy()
    return torch.from_numpy((u + o) % share.m).view(shape)


@pytest.mark.parametrize("m", [1, 7, 64, 299, 1000, 2999, 3000, 4001])
def test_randomfold_is_its_definition(m):
    share = ShareMap(N, m, random_state=3)
    for offset, shape in TENSORS:
        assert torch.equal(share.index(offset, shape), reference(share, offset, shape))
    loads = share.load(TENSORS)
    assert int(loads.sum()) == N
    if m <= N:
        assert {int(loads.min()), int(loads.max())} <= {N // m, -(-N // m)}
    else:
        assert int(loads.max()) == 1  # no collision
    for p in range(-(-N // m)):  # nor within a partition
        size = min(m, N - p * m)
        assert share.index(p * m, (size,)).unique().numel() == size


def test_weights_of_different_partitions_collide_by_chance():
    m, hits = 20, []
    for seed in range(300):
        index = ShareMap(2 * m, m, random_state=seed).index(0, (2, m))
        hits.append(float((index[0, 3] == index[1, 11]).double()))
    share = np.mean(hits)
    assert abs(share - 1 / m) < 4 * np.sqrt(1 / m / 300)


@pytest.mark.parametrize("mapping", ["hashednet", "random"])
def test_independent_entries_are_uniform(mapping):
    n, m = 40_000, 50
    loads = ShareMap(n, m, mapping).load().double()
    chi = float((loads - n / m).square().sum() / (n / m))
    assert abs(chi - (m - 1)) < 5 * np.sqrt(2 * (m - 1))
    used = (ShareMap(n, n, mapping).load() > 0).double().mean()
    assert abs(float(used) - (1 - np.exp(-1))) < 0.01


def test_roast_takes_tiles_of_the_transposed_weight():
    share = ShareMap(N, 100, "roast", block=(4, 8))
    index = share.index(0, (50, 40))  # (outputs, inputs)
    for out in range(0, 48, 8):
        for row in range(0, 40, 4):
            tile = index[out : out + 8, row : row + 4].T
            assert torch.equal(tile - tile[0, 0], torch.arange(32).view(4, 8)[: tile.shape[0], : tile.shape[1]])
    first = index[::8, ::4]
    assert first.unique().numel() > 30  # of 68 places
    assert int(index.max()) < 100
    conv = share.index(2000, (8, 3, 5, 5))
    assert torch.equal(conv, share.index(2000, (8, 75)).view(8, 3, 5, 5))
    table = share.index(0, (50, 40), by_rows=True).view(50, 5, 8)
    assert torch.equal(table - table[..., :1], torch.arange(8).expand(50, 5, 8))
    with pytest.raises(ValueError, match="m is 32; roast takes more entries than the 32 of a tile 4 by 8"):
        ShareMap(N, 32, "roast", block=(4, 8)).index(0, (50, 40))


def test_robe_takes_blocks_of_the_flat_index_circularly():
    share = ShareMap(64, 10, "robe", block=(1, 8))
    blocks = share.index(0, (64,)).view(8, 8)
    assert torch.equal((blocks - blocks[:, :1]) % 10, torch.arange(8).expand(8, 8))
    assert blocks[:, 0].unique().numel() > 2


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_rows_are_rows(mapping):
    share, rows = ShareMap(N, 1100, mapping), torch.tensor([3, 0, 41, 3])
    for by_rows in (False, True):
        whole = share.signed_index(0, (50, 40), by_rows=by_rows)
        assert torch.equal(share.signed_index(0, (50, 40), by_rows=by_rows, rows=rows), whole[rows])


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_seed_decides_everything(mapping):
    def drawn(seed):
        return ShareMap(N, 1100, mapping, seed).signed_index(0, (50, 40))

    assert torch.equal(drawn(0), drawn(0))
    same = float((drawn(0) == drawn(1)).double().mean())
    assert same < 0.01


def test_signs_are_fair_and_independent():
    sign = ShareMap(200_000, 10).sign(0, (200_000,)).double()
    for lag in (0, 1, 2, 8, 31, 32, 33, 64, 1000):
        products = sign if not lag else sign[lag:] * sign[:-lag]
        assert abs(float(products.mean())) < 4.5 / np.sqrt(len(products))


def test_words_of_32_bits_are_those_of_64_and_change_with_every_bit():
    keys = (123456789, 4123456789)
    words = mixed_words(77, 1000, keys).astype(np.int64)
    assert torch.equal(torch.from_numpy(words), mixed(torch.arange(77, 1077), keys))
    x = torch.randint(0, 2**40, (4000,), generator=torch.Generator().manual_seed(0))
    flips = torch.stack(
        [(mixed(x, keys) ^ mixed(x ^ (1 << bit), keys))[:, None] >> torch.arange(32) & 1 for bit in (0, 5, 31, 35)]
    )
    assert float((flips.double().mean(1) - 0.5).abs().max()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("m", [40, 70, 1100, 2800])
def test_recovering_and_folding_are_a_matrix_and_its_transpose(mapping, m, dtype):
    share = ShareMap(N, m, mapping, 5, block=(3, 8))
    values = torch.randn(m, generator=torch.Generator().manual_seed(0)).to(dtype)
    for offset, shape in TENSORS:
        piece = Piece(offset, shape, 0.75, False)
        index, sign = share.index(offset, shape), share.sign(offset, shape).to(dtype)
        expected = values[index] * sign * 0.75
        for kept in (None, kept_index(share, piece, values.device)):
            weights = recover(values, share, piece, kept)
            torch.testing.assert_close(weights, expected)
            sums = torch.zeros(m, dtype=torch.float64)
            sums.index_add_(0, index.flatten(), (weights * sign * 0.75).double().flatten())
            torch.testing.assert_close(
                fold(weights, share, piece, kept).double(),
                sums,
                rtol=1e-2 if dtype == torch.bfloat16 else 1e-5,
                atol=1e-6 if dtype != torch.bfloat16 else 0.02,
            )


def test_large_tensors_are_recovered_chunk_by_chunk():
    share = ShareMap(400_001, 150_000, random_state=1)
    piece = Piece(1, (400_000,), 2.0, False)
    values = torch.randn(150_000, generator=torch.Generator().manual_seed(0))
    sign, index = share.sign(1, (400_000,)), share.index(1, (400_000,))
    weights = recover(values, share, piece, None)
    assert torch.equal(weights, 2 * values[index] * sign)
    expected = torch.zeros(150_000).index_add_(0, index, 2 * weights * sign)
    torch.testing.assert_close(fold(weights, share, piece, None), expected)


@pytest.mark.parametrize("method", ["hashing", "randomfold", "pruning"])
def test_variances_are_those_of_random_maps(method):
    n, m, trials = 24, 8, 1500
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.standard_t(4, size=n)) for _ in range(2))
    found = []
    for seed in range(trials):
        if method == "pruning":
            chosen = rng.permutation(n)[:m]
            found.append(float((x * y)[chosen].sum()) * n / m)
        else:
            S = sharing_matrix(ShareMap(n, m, "hashednet" if method == "hashing" else "randomfold", seed))
            found.append(float((S.T @ x) @ (S.T @ y)))
    squares = (np.array(found) - float(x @ y)) ** 2
    assert abs(np.mean(found) - float(x @ y)) < 4 * np.std(found) / np.sqrt(trials)
    assert abs(squares.mean() - inner_product_variance(x, y, m, method)) < 4 * squares.std() / np.sqrt(trials)


def test_folding_is_never_worse_than_hashing_and_exact_without_compression():
    rng = np.random.default_rng(0)
    for n, m in ((7, 3), (100, 11), (64, 64), (5, 9)):
        x, y = (torch.from_numpy(rng.standard_t(2, size=n)) for _ in range(2))
        fold_variance, hashing = (inner_product_variance(x, y, m, kind) for kind in ("randomfold", "hashing"))
        assert fold_variance <= hashing * (1 + 1e-12)
        assert (fold_variance < 1e-9 * hashing) == (m >= n)


def test_linear_capacity_is_that_of_least_squares():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 12, generator=rng).double(), torch.randn(200, generator=rng).double()
    S = sharing_matrix(ShareMap(12, 5), [0.5, 2.0], [(2, 3), (6,)])
    residual = y - x @ S @ torch.linalg.lstsq(x @ S, y[:, None]).solution[:, 0]
    moments = x.T @ x / 200, x.T @ y / 200, float(y.square().mean())
    assert linear_capacity(S, *moments) == pytest.approx(float(residual.square().mean()), rel=1e-10)
    empty = torch.cat([S, torch.zeros(12, 2)], 1)  # entries that no weight has don't matter
    assert linear_capacity(empty, *moments) == pytest.approx(linear_capacity(S, *moments), rel=1e-10)


def test_a_sharing_matrix_is_what_a_store_does():
    store = SharedParameter(30, num_params=7, init_std=0.5, dtype=torch.float64, scaler="none")
    pieces = [store.add((4, 5), 0.25), store.add((10,), 2.0)]
    weights = torch.cat([store.weight(piece).flatten() for piece in pieces])
    S = sharing_matrix(store.share, [0.5, 4.0], [(4, 5), (10,)])
    torch.testing.assert_close(S @ store.values, weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ShareMap(0, 1), "n is 0"),
        (lambda: ShareMap(1, 0), "m is 0"),
        (lambda: ShareMap(2**40, 2**31), "m is 2147483648"),
        (lambda: ShareMap(4, 2, "fold"), "mapping"),
        (lambda: ShareMap(4, 2, block=(1, 2, 3)), "block"),
        (lambda: ShareMap(4, 2, random_state=-1), "random_state is -1"),
        (lambda: ShareMap(4, 2).index(1, (2, 2)), "offset is 1; a tensor of 4 weights"),
        (lambda: ShareMap(4, 2).index(0, ()), "shape is"),
        (lambda: inner_product_variance(torch.ones(3), torch.ones(2), 2, "hashing"), "x and y have shapes|y"),
        (lambda: inner_product_variance(torch.ones(3), torch.ones(3), 4, "pruning"), "m is 4"),
        (lambda: inner_product_variance(torch.ones(3), torch.full((3,), torch.nan), 2, "hashing"), "y has 3 NaN"),
        (lambda: inner_product_variance(torch.ones(3), torch.ones(3), 2, "sketch"), "method"),
        (lambda: inner_product_variance(torch.ones(3) * 1j, torch.ones(3), 2, "hashing"), "x and y|x"),
        (lambda: linear_capacity(torch.ones(3, 2), torch.eye(3), torch.tensor(1.0)), "S, Sigma and b have shapes|b"),
        (lambda: linear_capacity(torch.ones(3, 2), torch.eye(2), torch.ones(3)), "S, Sigma and b have shapes|Sigma"),
        (lambda: linear_capacity(torch.ones(3, 2), torch.eye(3), torch.ones(3), -1), "variance is -1"),
        (lambda: sharing_matrix(ShareMap(4, 2), [1.0], [(2,)]), "shapes have 2 weights and 1 scales"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
