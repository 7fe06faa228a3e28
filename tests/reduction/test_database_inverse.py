import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, zoom

from paperworks.reduction import (
    BrainAtlas,
    FisherKolmogorov,
    GrowthRanges,
    TumorAutoencoder,
    TumorDatabase,
    TumorQuery,
    best_match_preservation,
    brain_atlas,
    dice,
    hd95,
    topk_overlap,
)
from paperworks.reduction.database_inverse import growth
from paperworks.reduction.database_inverse.packed import PackedMasks

RNG = np.random.default_rng(0)
BALL = np.linalg.norm(np.stack(np.meshgrid(*[np.linspace(-1, 1, 18)] * 3)), axis=0) < 1
BRAIN = FisherKolmogorov(BALL * 0.7, BALL * 0.3, 6.0)


@pytest.fixture(scope="module")
def database():
    return TumorDatabase.generate(BRAIN, 60, random_state=0)


def regions(field, thresholds=(0.2, 0.6)):
    return [field >= t * field.max() for t in thresholds]


def patient(seed=99):
    return regions(TumorDatabase.generate(BRAIN, 1, random_state=seed).fields[0])


@pytest.fixture(params=["numba", "NumPy"])
def loops(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(growth, "_compiled", lambda: None)
    else:
        pytest.importorskip("numba")


@pytest.mark.usefixtures("loops")
def test_without_growth_mass_is_kept_and_nothing_leaves_the_brain():
    wm = np.where(BALL, RNG.uniform(0.2, 1, BALL.shape), 0)
    brain = FisherKolmogorov(wm, np.zeros_like(wm), 6.0, dtype=np.float64)
    start, end = (brain.solve(0.01, 0.0, T, (0.4, 0.5, 0.6)) for T in (0.0, 400.0))
    assert end.sum() == pytest.approx(start.sum(), rel=1e-11)
    assert (end[~BALL] == 0).all()
    assert end.max() < 0.5 * start.max()


@pytest.mark.usefixtures("loops")
def test_without_diffusion_growth_is_logistic():
    brain = FisherKolmogorov(np.ones((6, 6, 6)), np.zeros((6, 6, 6)), 6.0, dtype=np.float64)
    start, end = (brain.solve(0.0, 0.03, T, (0.5, 0.5, 0.5)) for T in (0.0, 100.0))
    assert end == pytest.approx(start * np.exp(3) / (1 + start * np.expm1(3)), rel=1e-12)


@pytest.mark.usefixtures("loops")
def test_diffusion_is_second_order_on_a_gaussian():
    errors = []
    for n in (24, 48):
        h, s = 192.0 / n, 18.0
        brain = FisherKolmogorov(np.ones((n, n, n)), np.zeros((n, n, n)), h, dtype=np.float64)
        c = brain.solve(0.01, 0.0, 30.0, (0.5, 0.5, 0.5), seed_width_mm=s)
        axis = (np.arange(n) + 0.5) * h - 96
        squares = sum(np.meshgrid(axis**2, axis**2, axis**2))
        wide = s**2 + 2 * 0.01 * 30 * 100  # cm² are 100 mm²
        exact = (s**2 / wide) ** 1.5 * np.exp(-squares / (2 * wide))
        errors.append(np.sqrt(((c - exact) ** 2).mean()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)


def test_both_loops_agree(monkeypatch):
    pytest.importorskip("numba")
    place = (0.35, 0.5, 0.6)
    compiled = BRAIN.solve(0.004, 0.03, 250.0, place)
    monkeypatch.setattr(growth, "_compiled", lambda: None)
    assert np.abs(BRAIN.solve(0.004, 0.03, 250.0, place) - compiled).max() < 1e-4


def test_grey_matter_slows_diffusion():
    ones, zeros = np.ones((20, 20, 20)), np.zeros((20, 20, 20))
    white, grey = FisherKolmogorov(ones, zeros, 6.0), FisherKolmogorov(zeros, ones, 6.0)
    slow, fast = grey.solve(0.01, 0.02, 100.0, (0.5,) * 3), white.solve(0.001, 0.02, 100.0, (0.5,) * 3)
    assert np.abs(slow - fast).max() < 1e-5


def test_a_simulation_that_grows_too_large_ends():
    assert BRAIN.solve(0.01, 0.1, 500.0, (0.5, 0.5, 0.5), largest_volume=50) is None
    assert BRAIN.solve(0.001, 0.01, 100.0, (0.5, 0.5, 0.5), largest_volume=500) is not None


def test_a_database_grows_without_changing_and_survives_the_disk(database, tmp_path):
    few = TumorDatabase.generate(BRAIN, 20, random_state=0)
    assert np.array_equal(few.fields, database.fields[:20])
    assert np.array_equal(few.params, database.params[:20])
    volumes = [(f >= 0.2 * f.max()).sum() * 0.216 for f in database.fields]
    assert 1 <= min(volumes) <= max(volumes) <= 250
    database.save(tmp_path / "db")
    again = TumorDatabase.load(tmp_path / "db")
    assert isinstance(again.fields, np.memmap)
    assert np.array_equal(again.fields, database.fields)
    assert np.array_equal(again.params, database.params)
    with pytest.raises(ValueError, match="holds something"):
        database.save(tmp_path / "db")
    (tmp_path / "db" / "params.npz").unlink()
    with pytest.raises(ValueError, match="no whole database"):
        TumorDatabase.load(tmp_path / "db")


def test_parameters_are_within_their_ranges(database):
    ranges = GrowthRanges()
    for name in database.params.dtype.names:
        low, high = getattr(ranges, name)
        assert low <= database.params[name].min() <= database.params[name].max() <= high


def by_loop(database, masks, metric="dice"):
    scores = []
    for field in database.fields:
        pair = list(zip(regions(field), masks, strict=True))
        if metric == "dice":
            scores.append(sum(dice(a, b) for a, b in pair))
        elif metric == "l2":
            scores.append(sum(np.linalg.norm(a.astype(float) - b) for a, b in pair))
        else:
            scores.append(sum(hd95(a, b, 6.0) for a, b in pair))
    scores = np.array(scores)
    order = np.lexsort([np.arange(len(scores)), -scores if metric == "dice" else scores])
    return order, scores


@pytest.mark.parametrize("metric", ["dice", "l2", "hd95"])
def test_the_query_is_a_for_loop(database, metric):
    masks = patient()
    order, scores = by_loop(database, masks, metric)
    found = TumorQuery(database, metric).fit().query(*masks, k=15)
    assert np.array_equal(found.indices, order[:15])
    assert found.scores == pytest.approx(scores[order[:15]], rel=1e-12)
    assert np.array_equal(found.params, database.params[found.indices])


@given(st.integers(0, 10**6), st.lists(st.integers(1, 19), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_packed_masks_share_what_masks_do(seed, shape):
    rng = np.random.default_rng(seed)
    masks, other = rng.random((5, *shape)) < rng.random(), rng.random((1, *shape)) < rng.random() ** 2
    packed, one = PackedMasks.of(masks), PackedMasks.of(other)
    shared = (masks & other).sum((1, 2, 3))
    assert packed.volumes.tolist() == masks.sum((1, 2, 3)).tolist()
    assert packed.shared(one).tolist() == shared.tolist()
    assert packed.shared(one, np.array([4, 1])).tolist() == shared[[4, 1]].tolist()
    assert packed.take(np.array([2])).joined(one).shared(one).tolist() == [shared[2], other.sum()]
    blocks = itertools.product(*(range(0, n, 8) for n in shape))
    cubes = [tuple(slice(start, start + 8) for start in block) for block in blocks]
    most = [sum(min(mask[c].sum(), other[0][c].sum()) for c in cubes) for mask in masks]
    assert packed.most_shared(one).tolist() == most


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from(["dice", "l2"]))
@settings(max_examples=25, deadline=None)
def test_pruning_changes_nothing(database, seed, k, metric):
    rng = np.random.default_rng(seed)
    flair = rng.random(BALL.shape) < rng.random() ** 3
    t1gd = flair & (rng.random(BALL.shape) < 0.5)
    if not flair.any():
        flair[0, 0, 0] = True
    slow, fast = (TumorQuery(database, metric, prune=prune).fit().query(flair, t1gd, k) for prune in (False, True))
    assert np.array_equal(slow.indices, fast.indices)
    assert np.array_equal(slow.scores, fast.scores)
    assert fast.scored <= slow.scored == 60


def test_pruning_skips_entries(database):
    query = TumorQuery(database.take(np.tile(np.arange(60), 20))).fit()
    masks = regions(database.fields[7])
    found = query.query(*masks, k=3)
    assert found.indices.tolist() == [7, 67, 127]  # copies tie, the lower number comes first
    assert found.scored <= 200


def test_a_member_finds_itself(database):
    query = TumorQuery(database).fit()
    for i in (0, 17, 59):
        found = query.query(*regions(database.fields[i]), k=1)
        assert (found.indices[0], found.scores[0]) == (i, 2.0)


def test_update_is_fit(database):
    masks = patient()
    for options in ({}, {"representation": "downsample"}):
        whole = TumorQuery(database, **options).fit().query(*masks)
        grown = TumorQuery(database.take(slice(0, 40)), **options).fit().update(database.take(slice(40, 60)))
        assert np.array_equal(grown.query(*masks).indices, whole.indices)
    coded = TumorQuery(database.take(slice(0, 40)), representation="pca").fit().update(database.take(slice(40, 60)))
    assert len(coded.query(*masks, k=60).indices) == 60


def test_down_sampling_takes_the_voxels_of_nearest_interpolation(database):
    masks = patient()
    small = [zoom(mask.astype(float), 0.5, order=0) > 0.5 for mask in masks]
    scores = [
        sum(dice(zoom(a.astype(float), 0.5, order=0) > 0.5, b) for a, b in zip(regions(f), small, strict=True))
        for f in database.fields
    ]
    found = TumorQuery(database, representation="downsample", factor=2).fit().query(*masks, k=60)
    assert found.scores == pytest.approx(np.sort(scores)[::-1])


@pytest.mark.parametrize("representation", ["downsample", "pca"])
def test_what_is_ranked_cheaply_can_be_scored_again(database, representation):
    masks = patient()
    _, scores = by_loop(database, masks)
    found = TumorQuery(database, representation=representation, rerank=30).fit().query(*masks, k=5)
    assert found.scores == pytest.approx(scores[found.indices])
    assert (np.diff(found.scores) <= 0).all()
    for metric in ("dice", "l2", "hd95", "bernoulli"):
        again = TumorQuery(database, metric, representation=representation, rerank=60).fit().query(*masks, k=5)
        full = TumorQuery(database, metric).fit().query(*masks, k=5)
        assert np.array_equal(again.indices, full.indices)
        assert again.scores == pytest.approx(full.scores)


@pytest.mark.parametrize("metric", ["dice", "bernoulli"])
def test_an_entry_without_a_tumour_is_last_and_one_with_nan_refused(database, metric):
    fields, masks = database.fields.copy(), patient()
    fields[3] = 0
    found = TumorQuery(TumorDatabase(fields, database.params, 6.0), metric).fit().query(*masks, k=60)
    assert np.isfinite(found.scores).all()
    if metric == "dice":
        assert found.scores[found.indices == 3] == 0
    fields[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        TumorQuery(TumorDatabase(fields, database.params, 6.0), metric).fit()


def test_a_database_that_was_not_written_to_the_end_is_not_there(database, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space"):
            database.save(tmp_path / "db")
    assert not list(tmp_path.iterdir())
    (tmp_path / "db").mkdir()
    database.save(tmp_path / "db")
    for name in ("params.npz", "fields.npy"):
        whole = (tmp_path / "db" / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 255
        cut = [whole[: int(share * len(whole))] for share in (0, 0.1, 0.5, 0.99)]
        for damaged in (*cut, *([flipped] if name == "params.npz" else [])):
            (tmp_path / "db" / name).write_bytes(damaged)
            with pytest.raises(ValueError, match="no whole database"):
                TumorDatabase.load(tmp_path / "db")
        (tmp_path / "db" / name).write_bytes(whole)
    assert len(TumorDatabase.load(tmp_path / "db")) == 60
    np.save(tmp_path / "db" / "fields.npy", database.fields[:3])
    with pytest.raises(ValueError, match="no whole database"):
        TumorDatabase.load(tmp_path / "db")


def test_the_likelihood_is_largest_for_the_tumour_itself(database):
    masks = regions(database.fields[11])
    assert TumorQuery(database, "bernoulli").fit().query(*masks, k=1).indices[0] == 11
    small = np.array([f.sum() for f in database.fields]).argmin()
    legacy = TumorQuery(database, "legacy").fit().query(*regions(database.fields[small]), k=1).indices[0]
    assert database.fields[legacy].sum() > 3 * database.fields[small].sum()  # the shortcut rewards what is too large


def test_codes_of_an_autoencoder(database):
    net = TumorAutoencoder(BALL.shape, latent_dim=16, channels=2)
    masks = np.array([regions(f)[0] for f in database.fields])
    before = float(net.loss(torch.tensor(masks).float()).detach())
    net.fit(masks, epochs=3, random_state=0)
    after = float(net.loss(torch.tensor(masks).float()).detach())
    assert after < before
    codes = net.codes(masks)
    assert np.linalg.norm(codes, axis=1) == pytest.approx(np.ones(60), rel=1e-5)
    query = TumorQuery(database, representation="autoencoder", encoders=(net, net)).fit()
    assert query.query(*regions(database.fields[4]), k=1).indices[0] == 4
    variational = TumorAutoencoder(BALL.shape, latent_dim=4, channels=2, variational=True).fit(masks, epochs=1)
    assert variational.encode(torch.tensor(masks[:2]).float()).log_variance.shape == (2, 4)
    assert sum(p.numel() for p in TumorAutoencoder((128, 128, 128)).parameters()) > 5e8  # the paper's size


def test_the_estimate_has_a_spread(database):
    found = TumorQuery(database).fit().query(*patient()).estimate()
    assert set(found) == {"Dw_T", "rho_T", "x", "y", "z"}
    assert all(spread > 0 for _, spread in found.values())


def test_dice_of_nothing_is_nothing():
    assert dice(np.zeros(4, dtype=bool), np.zeros(4, dtype=bool)) == 0
    assert dice(np.ones(4), np.ones(4)) == 1


def test_hd95_of_shifted_boxes_and_against_brute_force():
    A = np.zeros((12, 12, 12), dtype=bool)
    A[3:7, 3:7, 3:7] = True
    assert hd95(A, A) == 0
    assert hd95(A, np.roll(A, 2, axis=0), 3.0) == 6.0
    assert hd95(A, np.zeros_like(A)) == np.inf
    B = distance_transform_edt(~np.roll(A, 3, 1)) < 2
    inner = [m & ~(np.all([np.roll(m, s, a) for a in range(3) for s in (1, -1)], axis=0)) for m in (A, B)]
    points = [np.argwhere(m) for m in inner]
    apart = np.linalg.norm(points[0][:, None] - points[1], axis=-1)
    assert hd95(A, B) == pytest.approx(np.percentile(np.concatenate([apart.min(1), apart.min(0)]), 95))


def test_rankings():
    exact = np.array([[0, 1, 2], [3, 4, 5]])
    assert best_match_preservation(np.array([[0, 2, 1], [4, 3, 9]]), exact) == 0.5
    assert topk_overlap(np.array([[0, 2, 1], [4, 3, 9]]), exact) == pytest.approx(5 / 6)


def test_the_atlas_reads_what_other_scanners_write(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("nilearn")
    atlas = brain_atlas(6)
    core = np.zeros(atlas.shape, dtype=np.uint8)
    core[12:18, 15:22, 10:16] = 1
    for axes, flips in itertools.product(((0, 1, 2), (2, 0, 1)), ((1, 1, 1), (-1, 1, -1))):
        orientation = np.column_stack([np.argsort(axes), np.ones(3)])
        turned = nibabel.Nifti1Image(core, atlas.affine).as_reoriented(orientation)
        turned = turned.as_reoriented(np.column_stack([np.arange(3), flips]))
        nibabel.save(turned, tmp_path / "turned.nii.gz")
        assert np.array_equal(atlas.read_mask(tmp_path / "turned.nii.gz"), core.astype(bool))
    fine = nibabel.Nifti1Image(core.repeat(2, 0).repeat(2, 1).repeat(2, 2) * 3, _finer(atlas.affine))
    nibabel.save(fine, tmp_path / "fine.nii")
    assert np.array_equal(atlas.read_mask(tmp_path / "fine.nii", label=3), core.astype(bool))
    assert not atlas.read_mask(tmp_path / "fine.nii", label=1).any()
    atlas.write(core * 0.5, tmp_path / "c.nii.gz")
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "c.nii.gz").dataobj), core * np.float32(0.5))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("tmp")]


def _finer(affine):
    fine = affine.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= affine[:3, :3] @ np.full(3, 0.25)
    return fine


@pytest.mark.usefixtures("untyped")
def test_files_that_are_no_segmentation_are_refused(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    atlas = BrainAtlas(np.ones((4, 4, 4)), np.zeros((4, 4, 4)), 6.0, np.diag([6.0, 6, 6, 1]))
    far, flat = np.eye(4), np.diag([1.0, 1, 0, 1])
    far[:3, 3] = 1e4
    ones = np.ones((4, 4, 4), np.uint8)
    colours = np.zeros((4, 4, 4), dtype=[(name, "u1") for name in "RGB"])
    cases = {
        "values that are not whole .complex64": lambda p: nibabel.save(
            nibabel.Nifti1Image(ones.astype(np.complex64), np.eye(4)), p
        ),
        "values that are not whole": lambda p: nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), p),
        "does not say where": lambda p: nibabel.save(nibabel.Nifti1Image(ones, None), p),
        "cannot be inverted": lambda p: _save_with(nibabel, ones, flat, p),
        "falls between": lambda p: nibabel.save(
            nibabel.Nifti1Image(ones[:1, :1, :1], np.array([[1.0, 0, 0, 3], [0, 1, 0, 3], [0, 0, 1, 3], [0, 0, 0, 1]])),
            p,
        ),
        "no readable NIfTI": lambda p: p.write_bytes(b"\x00" * 999),
        "not whole": lambda p: nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)), p),
        "takes a volume": lambda p: nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4, 2), np.uint8), np.eye(4)), p),
        "misses the atlas": lambda p: nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), far), p),
    }
    for message, write in cases.items():
        write(tmp_path / "x.nii")
        with pytest.raises(ValueError, match=message):
            atlas.read_mask(tmp_path / "x.nii")
    with pytest.raises(ValueError, match="no readable"):
        atlas.read_mask(tmp_path / "none.nii")
    nibabel.save(nibabel.gifti.GiftiImage(), tmp_path / "surface.gii")
    with pytest.raises(ValueError, match="it is a GiftiImage"):
        atlas.read_mask(tmp_path / "surface.gii")
    nibabel.save(nibabel.Nifti1Image(ones, np.diag([6.0, 6, 6, 1])), tmp_path / "good.nii")
    hostile = bytearray((tmp_path / "good.nii").read_bytes())
    hostile[42:48] = b"\xff\x7f" * 3  # 32767 voxels along each axis
    (tmp_path / "hostile.nii").write_bytes(hostile)
    with pytest.raises(ValueError, match="no readable NIfTI volume: it asks for more memory"):
        atlas.read_mask(tmp_path / "hostile.nii")
    for values, message in ((np.full((4, 4, 4), np.nan), "not finite"), (np.ones((4, 4, 4)) * 1j, "complex128")):
        with pytest.raises(ValueError, match=message):
            atlas.write(values, tmp_path / "y.nii")
    with pytest.raises(ValueError, match="a folder that exists"):
        atlas.write(np.ones((4, 4, 4)), tmp_path / "none" / "y.nii")
    assert not (tmp_path / "y.nii").exists()
    with pytest.raises(TypeError, match="label is '1'"):
        atlas.read_mask(tmp_path / "good.nii", label="1")


def _save_with(nibabel, values, affine, path):
    """Write a file whose matrix nibabel itself would refuse to write."""
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    raw[280:328] = affine[:3].astype(np.float32).tobytes()
    path.write_bytes(raw)


def test_damaged_files_are_refused_wherever_they_are_cut(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    atlas = BrainAtlas(np.ones((9, 9, 9)), np.zeros((9, 9, 9)), 6.0, np.diag([6.0, 6, 6, 1]))
    mask = (RNG.random((9, 9, 9)) < 0.5).astype(np.uint8)
    for name in ("good.nii", "good.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(mask, atlas.affine), tmp_path / name)
        assert np.array_equal(atlas.read_mask(tmp_path / name), mask)
        raw = (tmp_path / name).read_bytes()
        bad = tmp_path / f"bad-{name}"
        for count in (0, 5, len(raw) // 2, len(raw) - 8, len(raw) - 1):
            bad.write_bytes(raw[:count])
            with pytest.raises(ValueError, match="no readable NIfTI volume") as error:
                atlas.read_mask(bad)
            assert "\n" not in str(error.value)
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 0x10  # the checksum of the stream tells it, or the stream itself
    bad.write_bytes(flipped)
    with pytest.raises(ValueError, match="no readable NIfTI volume"):
        atlas.read_mask(bad)


def test_files_in_other_units_dimensions_scalings_and_labels(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    atlas = BrainAtlas(np.ones((9, 9, 9)), np.zeros((9, 9, 9)), 6.0, np.diag([6.0, 6, 6, 1]))
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2:5, 3:6, 1:4], labels[5, 3:6, 1:4] = 1, 4
    path = tmp_path / "x.nii.gz"
    for unit, factor in (("meter", 1e-3), ("micron", 1e3), ("mm", 1.0)):
        image = nibabel.Nifti1Image(labels, np.diag([6 * factor] * 3 + [1.0]))
        image.header.set_xyzt_units(unit)
        nibabel.save(image, path)
        assert np.array_equal(atlas.read_mask(path), labels > 0)
        assert np.array_equal(atlas.read_mask(path, label=[1, 4]), labels > 0)
        assert np.array_equal(atlas.read_mask(path, label=4), labels == 4)
    scaled = nibabel.Nifti1Image(labels * 60, atlas.affine)
    scaled.header.set_slope_inter(1 / 60, 0)
    for image in (scaled, nibabel.Nifti1Image(labels[..., None, None], atlas.affine)):
        nibabel.save(image, path)
        assert np.array_equal(atlas.read_mask(path, label=4), labels == 4)
    shifted = atlas.affine.copy()
    shifted[0, 3] = 24.0
    nibabel.save(nibabel.Nifti1Image(labels, shifted), path)
    with pytest.warns(UserWarning, match="25% is out of the atlas"):
        assert atlas.read_mask(path)[6:9].sum() == 27
    with pytest.raises(ValueError, match=r"ends in \.nii"):
        atlas.write(np.ones((4, 4, 4)), tmp_path / "x.png")
    with pytest.raises(ValueError, match="values have shape"):
        atlas.write(np.ones((4, 4, 5)), tmp_path / "y.nii")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: FisherKolmogorov(np.ones((3, 3, 3)), np.ones((3, 3, 2)), 1.0), "gm has shape"),
        (lambda d: BrainAtlas(np.ones((3, 3, 3)), np.ones((3, 3, 2)), 1.0, np.eye(4)), "gm has shape"),
        (lambda d: BrainAtlas(np.ones((3, 3, 3)), np.ones((3, 3, 3)), -1.0, np.eye(4)), "spacing_mm is -1"),
        (lambda d: BrainAtlas(np.ones((3, 3, 3)), np.ones((3, 3, 3)), 1.0, np.eye(3)), "affine is"),
        (
            lambda d: FisherKolmogorov(np.full((3, 3, 3), 2.0), np.zeros((3, 3, 3)), 1.0),
            "wm has values out",
        ),
        (lambda d: FisherKolmogorov(np.full((3, 3, 3), np.nan), np.zeros((3, 3, 3)), 1.0), "not finite"),
        (lambda d: FisherKolmogorov(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), 1.0), "no voxel with tissue"),
        (lambda d: FisherKolmogorov(np.ones((3, 3, 3)), np.zeros((3, 3, 3)), 1.0, dtype=int), "dtype is int64"),
        (lambda d: BRAIN.solve(-1, 0, 1, (0.5,) * 3), "Dw is -1"),
        (lambda d: BRAIN.solve(1, 0, np.inf, (0.5,) * 3), "T is inf"),
        (lambda d: BRAIN.solve(1, 0, 1, (0.0,) * 3), "without tissue"),
        (lambda d: BRAIN.solve(1, 0, 1, (0.5,) * 2), "x0 has 2 numbers"),
        (lambda d: BRAIN.solve(1, 0, 1, (1.5,) * 3), "x0 is 1.5"),
        (lambda d: GrowthRanges(T=(5.0, 1.0)), "T is"),
        (lambda d: GrowthRanges(T=5.0), "T is 5.0; it takes two bounds"),
        (lambda d: GrowthRanges(x=(0.5, 1.5)), "x is 1.5"),
        (
            lambda d: TumorDatabase.generate(BRAIN, 1, ranges=GrowthRanges(x=(0, 0.01), y=(0, 0.01), z=(0, 0.01))),
            "no tissue",
        ),
        (lambda d: TumorDatabase.generate(BRAIN, 1, volume_bounds=3), "volume_bounds are 3"),
        (lambda d: BRAIN.solve(1, 0, 1, (0.5,) * 3, seed_width_mm=1e-3), "seed_width_mm is 0.001"),
        (lambda d: TumorQuery(d, thresholds=0.2), "thresholds are 0.2; it takes two"),
        (lambda d: TumorQuery(d, representation="autoencoder", encoders=(1, 2)).fit(), "encoders are"),
        (lambda d: TumorDatabase.generate(BRAIN, 1, volume_bounds=(3, 2)), "volume_bounds are"),
        (lambda d: TumorDatabase.generate(BRAIN, 1, volume_bounds=(0, 1e-6)), "1000 draws"),
        (lambda d: TumorDatabase(d.fields, d.params[:3], 6.0), "params have shape"),
        (lambda d: TumorDatabase(d.fields[0], d.params, 6.0), "fields have shape"),
        (lambda d: TumorQuery(d, "jaccard"), "metric is 'jaccard'"),
        (lambda d: TumorQuery(d, thresholds=(0.6, 0.2)), "thresholds are"),
        (lambda d: TumorQuery(d, thresholds=(0.0, 0.2)), "thresholds is 0"),
        (lambda d: TumorQuery(d, representation="hash"), "representation is 'hash'"),
        (lambda d: TumorQuery(d).query(BALL, BALL), "not fitted"),
        (lambda d: TumorQuery(d).fit().query(BALL[:5], BALL), "flair has shape"),
        (lambda d: TumorQuery(d).fit().query(BALL * 2, BALL), "flair has values other"),
        (lambda d: TumorQuery(d).fit().query(BALL & False, BALL & False), "both empty"),
        (lambda d: TumorQuery(d).fit().query(BALL, BALL, k=0), "k is 0"),
        (lambda d: dice(np.ones(3), np.ones(4)), "B has shape"),
        (lambda d: dice(np.full(3, 2), np.ones(3)), "A has values"),
        (lambda d: topk_overlap(np.ones((2, 3)), np.ones((2, 4))), "fast and exact"),
        (lambda d: TumorAutoencoder((4, 4)), "shape is"),
        (lambda d: brain_atlas(0), "resolution_mm is 0"),
    ],
)
def test_bad_input_is_refused(database, call, message):
    with pytest.raises(ValueError, match=message):
        call(database)


def test_swapped_regions_warn(database):
    flair, t1gd = patient()
    with pytest.warns(UserWarning, match="swapped"):
        TumorQuery(database).fit().query(t1gd, flair)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: TumorQuery(3), "database is int"),
        (lambda d: d.add(3), "other is int"),
        (lambda d: d.take(3), "entries is 3"),
    ],
)
def test_other_types_are_refused(database, call, message):
    with pytest.raises(TypeError, match=message):
        call(database)
