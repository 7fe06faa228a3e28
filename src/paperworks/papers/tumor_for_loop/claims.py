"""What the paper says of a database of simulated tumours that is asked by a loop."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import zoom

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    difference,
    exact,
    interleaved,
    mean,
    measures,
    median,
    proportion,
    races,
)
from paperworks.papers.tumor_for_loop.rivals import (
    fit_by_cma,
    loop_over_volumes,
    posterior_estimates,
    slice_whole_volume,
)
from paperworks.reduction import (
    BrainAtlas,
    FisherKolmogorov,
    QueryResult,
    TumorAutoencoder,
    TumorDatabase,
    TumorQuery,
    brain_atlas,
)

THRESHOLDS = (0.2, 0.6)
HELD_OUT = 10_000  # seeds of patients are far from those of databases


def atlas_of(run: Run) -> BrainAtlas:
    """Return the atlas of the scale."""
    return brain_atlas(run.at(smoke=12, desk=6, full=4))


def solver_of(run: Run) -> FisherKolmogorov:
    """Return the growth model of the scale."""
    atlas = atlas_of(run)
    return FisherKolmogorov(atlas.wm, atlas.gm, atlas.spacing_mm)


def database_of(run: Run, n: int, seed: int = 0) -> TumorDatabase:
    """Return the first entries of one database, which is simulated once for all claims of a scale."""
    solver = solver_of(run)
    size = run.at(smoke=30, desk=1000, full=5000) if seed == 0 else n

    def make() -> dict[str, Any]:
        made = TumorDatabase.generate(
            solver, size, random_state=seed, progress=lambda items: run.progress(items, label="simulations")
        )
        return {"fields": made.fields.astype(np.float16), "params": np.array(made.params.tolist())}

    found = run.cached("tumours", make, size=size, seed=seed, resolution=solver.spacing_mm)
    params = np.zeros(size, dtype=[(name, np.float64) for name in ("Dw", "rho", "T", "x", "y", "z")])
    for name, column in zip(params.dtype.names or (), found["params"].T, strict=True):
        params[name] = column
    return TumorDatabase(found["fields"].astype(np.float32), params, solver.spacing_mm).take(slice(0, n))


def patients_of(run: Run, n: int) -> TumorDatabase:
    """Return tumours that are in no database."""
    return database_of(run, n, seed=HELD_OUT + run.seed)


def regions(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the two images of a patient show."""
    return field >= THRESHOLDS[0] * field.max(), field >= THRESHOLDS[1] * field.max()


def answers(query: TumorQuery, patients: TumorDatabase, k: int = 15) -> list[QueryResult]:
    """Ask for each patient."""
    return [query.query(*regions(field), k=k) for field in patients.fields]


def products(params: np.ndarray) -> np.ndarray:
    """Return the logarithms of what one image identifies, (n, 2)."""
    return np.log(np.stack([params["Dw"] * params["T"], params["rho"] * params["T"]], axis=1))


@measures("t1-order-of-magnitude")
def order_of_magnitude(run: Run) -> Measurement:
    """Race a query against a sampling solver that is let run until it fits as well."""
    solver = solver_of(run)
    database = database_of(run, run.at(smoke=30, desk=500, full=5000))
    most = run.at(smoke=20, desk=150, full=1000)
    query = TumorQuery(database).fit()
    ratios, rows, theirs = [], [], []
    for i, field in enumerate(patients_of(run, run.at(smoke=2, desk=8, full=10)).fields):
        flair, t1gd = regions(field)
        seconds = [query.query(flair, t1gd).seconds for _ in range(5)]
        best = query.query(flair, t1gd)
        fit = fit_by_cma(solver, flair, t1gd, goal=float(best.scores[0]), most=most, seed=run.seed + i)
        ratios.append(fit.seconds / float(np.median(seconds)))
        theirs.append(fit.seconds)
        rows.append([i, float(best.scores[0]), fit.score, fit.simulations, float(np.median(seconds)), fit.seconds])
    started = time.perf_counter()
    TumorDatabase.generate(solver, run.at(smoke=3, desk=20, full=20), random_state=HELD_OUT - 1)
    an_entry = (time.perf_counter() - started) / run.at(smoke=3, desk=20, full=20)
    return Measurement(
        median(ratios, of="patients"),
        table=Table(
            ["patient", "score of the query", "of CMA-ES", "its simulations", "s of the query", "of CMA-ES"], rows
        ),
        remark=f"An entry of the database costs {an_entry:.2f} s with the draws that are thrown away:"
        f" {len(database)} cost as much as CMA-ES for {len(database) * an_entry / np.mean(theirs):.0f} patients.",
    )


def best_of(found: list[QueryResult]) -> np.ndarray:
    """Return the entries that were found, (queries, k)."""
    return np.array([one.indices for one in found])


@measures("t2-down-sampling")
def down_sampling(run: Run) -> Measurement:
    """Compare rankings by every voxel with those by every second and every fourth."""
    n, queries = run.at(smoke=(30, 8), desk=(500, 300), full=(5000, 300))
    database, patients = (_finer(part) for part in (database_of(run, n), patients_of(run, queries)))
    full = TumorQuery(database).fit()
    truth = answers(full, patients)
    kept, inside, gaps, rows = {}, {}, {}, []
    for factor in (2, 4):
        fast = answers(TumorQuery(database, representation="downsample", factor=factor).fit(), patients)
        kept[factor] = best_of(fast)[:, 0] == best_of(truth)[:, 0]
        inside[factor] = np.array([t.indices[0] in f.indices for t, f in zip(truth, fast, strict=True)])
        gaps[factor] = [
            float(t.scores[0] - _score_of(full, field, int(f.indices[0])))
            for t, f, field in zip(truth, fast, patients.fields, strict=True)
        ]
        seconds = [float(np.median([one.seconds for one in found])) for found in (truth, fast)]
        rows.append([factor, *(float(np.mean(x[factor])) for x in (kept, inside, gaps)), *seconds])
    return Measurement(
        {
            "best_kept": proportion(int(kept[2].sum()), queries, of="queries"),
            "in_top_15": proportion(int(inside[2].sum()), queries, of="queries"),
            "score_gap": mean(gaps[2], of="queries"),
        },
        table=Table(["factor", "best kept", "in the top 15", "mean loss of score", "s of a full query", "s"], rows),
    )


def _finer(database: TumorDatabase) -> TumorDatabase:
    """Interpolate concentrations to half the spacing."""
    fields = np.array([zoom(field, 2, order=1, grid_mode=True, mode="nearest") for field in database.fields])
    return TumorDatabase(fields, database.params, database.spacing_mm / 2)


def _score_of(query: TumorQuery, field: np.ndarray, entry: int) -> float:
    """Return the score of one entry for a patient."""
    single = TumorQuery(query.database.take([entry])).fit()
    return float(single.query(*regions(field), k=1).scores[0])


@measures("t3-learned-codes")
def learned_codes(run: Run) -> Measurement:
    """Rank by codes of an autoencoder, at full scale of a variational one too, and by every second voxel."""
    n, queries, train, epochs = run.at(smoke=(30, 8, 15, 1), desk=(500, 60, 300, 10), full=(5000, 200, 1500, 300))
    latent, channels = run.at(smoke=(16, 2), desk=(256, 8), full=(1024, 24))
    database, patients = database_of(run, n), patients_of(run, queries)
    others = database_of(run, train, seed=HELD_OUT - 2)  # the codes are learned from entries that are in no database
    truth = answers(TumorQuery(database).fit(), patients)
    kinds: dict[str, TumorQuery] = {"every second voxel": TumorQuery(database, representation="downsample").fit()}
    for kind in run.at(smoke=["autoencoder"], desk=["autoencoder"], full=["autoencoder", "vae"]):
        encoders = tuple(
            _trained(run, kind, region, others, latent, channels, epochs) for region in range(len(THRESHOLDS))
        )
        kinds[kind] = TumorQuery(database, representation=kind, encoders=encoders).fit()
    kept, inside, rows, seconds = {}, {}, [], {}
    for kind, query in kinds.items():
        fast = answers(query, patients)
        kept[kind] = best_of(fast)[:, 0] == best_of(truth)[:, 0]
        inside[kind] = np.array([t.indices[0] in f.indices for t, f in zip(truth, fast, strict=True)])
        rows.append(
            [kind, float(kept[kind].mean()), float(inside[kind].mean()), float(np.median([f.seconds for f in fast]))]
        )
    masks = regions(patients.fields[0])
    jobs: dict[str, Callable[[], Any]] = {
        "loop": lambda: loop_over_volumes(database.fields, *masks, THRESHOLDS),
        "codes": lambda: kinds["autoencoder"].query(*masks),
        "bits": lambda: TumorQuery.query(full, *masks),
    }
    full = TumorQuery(database).fit()
    times = interleaved(run, jobs, run.repeats(smoke=2, desk=7, full=7))
    seconds = times.medians()
    return Measurement(
        {
            "speed": times.ratio("loop", "codes"),
            "in_top_15": proportion(int(inside["autoencoder"].sum()), queries, of="queries"),
            "downsampling_minus_codes": difference(
                kept["every second voxel"].astype(float).tolist(),
                kept["autoencoder"].astype(float).tolist(),
                of="queries",
            ),
        },
        table=Table(["ranked by", "best kept", "in the top 15", "s of a query"], rows),
        remark=f"Over bits, a query of full volumes takes {seconds['bits'] * 1e3:.2f} ms, by codes"
        f" {seconds['codes'] * 1e3:.2f} ms, of which the encoder is nearly all; the loop over volumes"
        f" {seconds['loop'] * 1e3:.0f} ms. At this size codes lose to bits.",
    )


def _trained(
    run: Run, kind: str, region: int, others: TumorDatabase, latent: int, channels: int, epochs: int
) -> TumorAutoencoder:
    """Return an autoencoder of one region, trained once."""
    masks = np.array([regions(field)[region] for field in others.fields])

    def train(network: Any) -> None:
        network.fit(masks, epochs=epochs, random_state=run.seed)

    network = TumorAutoencoder(others.shape, latent, channels, variational=kind == "vae")
    options = {"region": region, "latent": latent, "channels": channels, "epochs": epochs, "seed": run.seed}
    return run.trained(f"tumour-{kind}", network, train, n=len(others), shape=others.shape, **options)


@measures("t4-recovery")
def recovery(run: Run) -> Measurement:
    """Ask databases of growing size for parameters that are known."""
    sizes = run.at(smoke=(10, 20, 30), desk=(100, 200, 500, 1000), full=(100, 500, 1000, 5000))
    patients = patients_of(run, run.at(smoke=10, desk=50, full=63))
    truth = products(patients.params)
    whole = database_of(run, sizes[-1])
    scores, errors, rows = {}, {}, []
    for size in sizes:
        found = answers(TumorQuery(whole.take(slice(0, size))).fit(), patients)
        scores[size] = np.array([one.scores[0] for one in found])
        errors[size] = np.abs(products(np.array([one.params[0] for one in found])) - truth).mean(1)
        rows.append([size, float(scores[size].mean()), float(np.median(scores[size])), float(errors[size].mean())])
    random = np.abs(truth[:, None] - products(whole.params)[None]).mean((1, 2))
    rows.append(["a random entry", None, None, float(random.mean())])
    small, large = sizes[0], sizes[-1]
    member = TumorQuery(whole).fit().query(*regions(whole.fields[7]), k=1)
    figure = _gallery(run, whole, patients)
    return Measurement(
        {
            "score_growth": difference(scores[large].tolist(), scores[small].tolist(), of="patients"),
            "median_score": median(scores[large].tolist(), of="patients"),
            "error_to_small": _quotient(errors[large], errors[small]),
            "error_to_random": _quotient(errors[large], random),
            "member_score": exact(float(member.scores[0])),
        },
        table=Table(["entries", "mean score", "median score", "error of log(Dw T), log(rho T)"], rows),
        figure=figure,
    )


def _quotient(ours: np.ndarray, theirs: np.ndarray) -> Any:
    """Return the ratio of mean errors over patients."""
    return bootstrap(lambda a, b: float(a.mean() / b.mean()), ours.tolist(), theirs.tolist(), of="patients")


def _gallery(run: Run, database: TumorDatabase, patients: TumorDatabase) -> Any:
    """Show three patients, and what the database has for them, in the slice with most of the tumour."""
    atlas, query = atlas_of(run), TumorQuery(database).fit()
    figure, axes = run.figure(1, 3)
    for axis, field in zip(axes, patients.fields, strict=False):
        found = query.query(*regions(field), k=1)
        layer = int(field.sum((0, 1)).argmax())
        axis.imshow((atlas.wm + 0.5 * atlas.gm)[:, :, layer].T, cmap="gray", origin="lower")
        axis.contour(regions(field)[0][:, :, layer].T, [0.5], colors="tab:orange")
        match = database.fields[found.indices[0]]
        axis.contour(regions(match)[0][:, :, layer].T, [0.5], colors="tab:blue", linestyles="dashed")
        axis.set(title=f"score {found.scores[0]:.2f}", xticks=[], yticks=[])
    axes[0].set_ylabel("patient: line, best entry: dashes")
    return figure


@measures("t5-solver")
def solver(run: Run) -> Measurement:
    """Check the speed of a front, the mass, and the order in the spacing."""
    rho, D = 0.1, 0.004
    n, h = run.at(smoke=(400, 1.0), desk=(700, 0.5), full=(1400, 0.25))
    line = FisherKolmogorov(np.ones((n, 1, 1)), np.zeros((n, 1, 1)), h, dtype=np.float64)
    places = []
    for T in (500.0, 600.0):
        c = line.solve(D, rho, T, (0.0, 0.5, 0.5), seed_width_mm=2.0)[:, 0, 0]
        last = int(np.flatnonzero(c >= 0.5)[-1])
        places.append((last + (c[last] - 0.5) / (c[last] - c[last + 1])) * h / 10)
    speed = (places[1] - places[0]) / 100 / (2 * np.sqrt(rho * D))
    drift = {}
    for dtype in (np.float32, np.float64):
        brain = FisherKolmogorov(*_tissue(run), dtype=dtype)
        start, end = (brain.solve(0.005, 0.0, T, (0.35, 0.5, 0.45)) for T in (0.0, 500.0))
        drift[dtype] = abs(float(end.sum(dtype=np.float64) / start.sum(dtype=np.float64)) - 1)
    errors, sizes = [], run.at(smoke=(24, 48), desk=(24, 48, 96), full=(48, 96, 192))
    for m in sizes:
        cube = FisherKolmogorov(np.ones((m, m, m)), np.zeros((m, m, m)), 192.0 / m, dtype=np.float64)
        c = cube.solve(0.01, 0.0, 30.0, (0.5, 0.5, 0.5), seed_width_mm=18.0)
        axis = (np.arange(m) + 0.5) * 192.0 / m - 96
        wide = 18.0**2 + 2 * 0.01 * 30 * 100
        truth = (18.0**2 / wide) ** 1.5 * np.exp(-sum(np.meshgrid(axis**2, axis**2, axis**2)) / (2 * wide))
        errors.append(float(np.sqrt(((c - truth) ** 2).mean())))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    return Measurement(
        {
            "speed": exact(abs(speed - 1)),
            "mass_drift": exact(drift[np.float32]),
            "mass_drift_double": exact(drift[np.float64]),
            "order": exact(float(orders.min())),
        },
        table=Table(["voxels along an edge", "error"], [list(row) for row in zip(sizes, errors, strict=True)]),
        remark=f"The front moves at {speed:.4f} of 2 sqrt(D rho) between rho T = 50 and 60; it approaches 1 from below,"
        " as 1 - 3/(4 rho T) (Bramson).",
    )


def _tissue(run: Run) -> tuple[np.ndarray, np.ndarray, float]:
    atlas = atlas_of(run)
    return atlas.wm, atlas.gm, atlas.spacing_mm


@measures("t6-exact-pruning")
def exact_pruning(run: Run) -> Measurement:
    """Ask with and without the bound."""
    n, queries = run.at(smoke=(30, 8), desk=(500, 200), full=(5000, 200))
    database, patients = database_of(run, n), patients_of(run, queries)
    slow, fast = (TumorQuery(database, prune=prune).fit() for prune in (False, True))
    differ, scored = 0, {1: 0, 15: 0}
    for field in patients.fields:
        for k in scored:
            a, b = (query.query(*regions(field), k=k) for query in (slow, fast))
            differ += not (np.array_equal(a.indices, b.indices) and np.array_equal(a.scores, b.scores))
            scored[k] += b.scored
    return Measurement(
        {"differences": exact(differ), "pruning": exact(n * queries / scored[1])},
        remark=f"For the best 15, {n * queries / scored[15]:.1f} times fewer entries are scored.",
    )


@races("numpy")
def against_numpy(run: Run) -> Measurement:
    """Race the query against a loop over volumes, and the solver against slices of the whole volume."""
    database = database_of(run, run.at(smoke=30, desk=500, full=1000))
    masks = regions(patients_of(run, 1).fields[0])
    query, brain, tissue = TumorQuery(database).fit(), solver_of(run), _tissue(run)
    growth: Any = (0.003, 0.03, 300.0, (0.4, 0.5, 0.45))
    brain.solve(*growth)
    times = interleaved(
        run,
        {
            "query": lambda: query.query(*masks),
            "loop": lambda: loop_over_volumes(database.fields, *masks, THRESHOLDS),
            "solver": lambda: brain.solve(*growth),
            "slices": lambda: slice_whole_volume(tissue, growth),
        },
        run.repeats(smoke=2, desk=9, full=9),
    )
    error = float(np.abs(brain.solve(*growth) - slice_whole_volume(tissue, growth)).max())
    return Measurement(
        {"query": times.ratio("query", "loop"), "solver": times.ratio("solver", "slices")},
        remark=f"Both solvers agree to {error:.1e}; both take the same steps.",
    )


@races("scikit-learn")
def against_scikit_learn(run: Run) -> Measurement:
    """Race a query of one region against scikit-learn's brute force by Dice."""
    from sklearn.neighbors import NearestNeighbors

    database = database_of(run, run.at(smoke=30, desk=500, full=1000))
    flair, _ = regions(patients_of(run, 1).fields[0])
    masks = np.array([regions(field)[0] for field in database.fields]).reshape(len(database), -1)
    theirs = NearestNeighbors(metric="dice", algorithm="brute").fit(masks)
    query, nothing = TumorQuery(database).fit(), np.zeros_like(flair)
    flat = flair.reshape(1, -1)
    times = interleaved(
        run,
        {"ours": lambda: query.query(flair, nothing), "theirs": lambda: theirs.kneighbors(flat, 15)},
        run.repeats(smoke=2, desk=15, full=15),
    )
    apart, _ = theirs.kneighbors(flat, 15)
    error = np.abs(1 - apart[0] - query.query(flair, nothing).scores).max()
    return Measurement(times.ratio("ours", "theirs"), remark=f"The scores agree to {error:.1e}.")


@races("faiss")
def against_faiss(run: Run) -> Measurement:
    """Race a query by voxels that differ against a flat index of bits."""
    import faiss

    database, patients = database_of(run, run.at(smoke=30, desk=1000, full=5000)), patients_of(run, 20)
    masks = np.array([np.concatenate([r.ravel() for r in regions(field)]) for field in database.fields])
    wide = np.zeros((len(masks), -(-masks.shape[1] // 64) * 64), dtype=bool)
    wide[:, : masks.shape[1]] = masks
    index = faiss.IndexBinaryFlat(wide.shape[1])
    index.add(np.packbits(wide, axis=1))
    query = TumorQuery(database, "l2").fit()
    asked = []
    for field in patients.fields:
        one = np.zeros((1, wide.shape[1]), dtype=bool)
        one[0, : masks.shape[1]] = np.concatenate([r.ravel() for r in regions(field)])
        asked.append((regions(field), one))
    differ = 0
    for pair, one in asked:
        apart, _ = index.search(np.packbits(one, axis=1), len(database))
        ours = query.query(*pair, k=len(database))
        differ += not np.array_equal(np.sort(_counts(query, pair)), np.sort(apart[0]))
        differ += len(ours.indices) != len(database)

    def search() -> None:
        for _, one in asked[:5]:
            index.search(np.packbits(one, axis=1), 15)

    def loop() -> None:
        for pair, _ in asked[:5]:
            query.query(*pair)

    times = interleaved(run, {"ours": loop, "theirs": search}, run.repeats(smoke=2, desk=15, full=15))
    return Measurement(
        {"time": times.ratio("ours", "theirs"), "differences": exact(differ)},
        remark="The index adds the voxels of both regions that differ and looks at every entry; the query adds the"
        " roots of the two numbers, and skips entries that its bound excludes.",
    )


def _counts(query: TumorQuery, masks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return how many voxels of both regions differ for each entry."""
    fields = query.database.fields
    largest = fields.reshape(len(fields), -1).max(1)[:, None, None, None]
    pairs = zip(THRESHOLDS, masks, strict=True)
    return sum(((fields >= t * largest) != mask).reshape(len(fields), -1).sum(1) for t, mask in pairs)


@races("cma", exclusive=False)
def against_cma(run: Run) -> Measurement:
    """Let a sampling solver have 150 simulations for each patient."""
    solver, query = solver_of(run), TumorQuery(database_of(run, run.at(smoke=30, desk=500, full=1000))).fit()
    ours, theirs = [], []
    for i, field in enumerate(patients_of(run, run.at(smoke=2, desk=12, full=30)).fields):
        flair, t1gd = regions(field)
        ours.append(float(query.query(flair, t1gd, k=1).scores[0]))
        fit = fit_by_cma(solver, flair, t1gd, goal=2.0, most=run.at(smoke=20, desk=150, full=150), seed=i)
        theirs.append(fit.score)
    return Measurement(
        difference(ours, theirs, of="patients"),
        table=Table(
            ["patient", "query", "CMA-ES"], [[i, *pair] for i, pair in enumerate(zip(ours, theirs, strict=True))]
        ),
    )


@races("sbi")
def against_sbi(run: Run) -> Measurement:
    """Estimate parameters by the posterior that a network learns from the same database."""
    database = database_of(run, run.at(smoke=30, desk=1000, full=5000))
    patients = patients_of(run, run.at(smoke=5, desk=50, full=63))
    query = TumorQuery(database).fit()
    truth = products(patients.params)
    ours = np.abs(products(np.array([one.params[0] for one in answers(query, patients, 1)])) - truth).mean(1)
    spread = np.abs(np.array([products(one.params).mean(0) for one in answers(query, patients)]) - truth).mean(1)
    estimate, ask = posterior_estimates(
        database, patients, regions, products, seed=run.seed, epochs=run.at(smoke=2, desk=200, full=500)
    )
    theirs = np.abs(estimate - truth).mean(1)
    masks = regions(patients.fields[0])
    times = interleaved(
        run, {"ours": lambda: query.query(*masks), "theirs": lambda: ask(0)}, run.repeats(smoke=2, desk=9, full=9)
    )
    return Measurement(
        {"error": _quotient(ours, theirs), "time": times.ratio("ours", "theirs")},
        table=Table(
            ["estimate", "mean error"],
            [
                ["best match", float(ours.mean())],
                ["mean of the best 15", float(spread.mean())],
                ["sbi", float(theirs.mean())],
            ],
        ),
    )
