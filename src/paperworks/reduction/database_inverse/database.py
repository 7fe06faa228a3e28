"""A database of simulated tumours: parameters, and the concentrations that they lead to."""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from paperworks.core.validation import check_count, check_number
from paperworks.reduction.database_inverse.growth import FisherKolmogorov

PARAMETERS = np.dtype([(name, np.float64) for name in ("Dw", "rho", "T", "x", "y", "z")])


@dataclass(frozen=True)
class GrowthRanges:
    """Ranges from which parameters are drawn, uniformly and independently; the defaults are the paper's.

    Attributes
    ----------
    Dw : tuple of float
        Diffusion in white matter in cm²/day.
    rho : tuple of float
        Proliferation in 1/day.
    T : tuple of float
        Time of growth in days.
    x, y, z : tuple of float
        Place of the start, in shares of the edges of the volume.

    Examples
    --------
    >>> GrowthRanges(T=(50.0, 500.0)).rho
    (0.002, 0.2)
    """

    Dw: tuple[float, float] = (2e-4, 1.5e-2)
    rho: tuple[float, float] = (2e-3, 2e-1)
    T: tuple[float, float] = (50.0, 1500.0)
    x: tuple[float, float] = (0.15, 0.7)
    y: tuple[float, float] = (0.2, 0.8)
    z: tuple[float, float] = (0.15, 0.7)

    def __post_init__(self) -> None:
        for name in PARAMETERS.names or ():
            if np.shape(getattr(self, name)) != (2,):
                raise ValueError(f"{name} is {getattr(self, name)}; it takes two bounds, the smaller one first")
            most = 1.0 if name in "xyz" else None
            low, high = (check_number(name, value, ge=0, le=most) for value in getattr(self, name))
            if low > high:
                raise ValueError(f"{name} is {(low, high)}; it takes the smaller bound first")


class TumorDatabase:
    """Simulated tumours in one atlas, with the parameters of each.

    Parameters
    ----------
    fields
        Concentrations, (n, x, y, z).
    params
        For each the parameters, a structured array with the fields Dw, rho, T, x, y and z.
    spacing_mm
        Edge of a voxel in mm.

    References
    ----------
    Ezhov et al., "A for-loop is all you need", arXiv:2205.04550, the database.

    Examples
    --------
    >>> import numpy as np
    >>> brain = FisherKolmogorov(np.ones((12, 12, 12)), np.zeros((12, 12, 12)), 6.0)
    >>> database = TumorDatabase.generate(brain, 3, random_state=0)
    >>> len(database), database.fields.shape
    (3, (3, 12, 12, 12))
    """

    def __init__(self, fields: Float[np.ndarray, "n x y z"], params: np.ndarray, spacing_mm: float) -> None:
        if fields.ndim != 4 or not len(fields) or not np.issubdtype(fields.dtype, np.floating):
            raise ValueError(f"fields have shape {fields.shape}, {fields.dtype}; it takes concentrations (n, x, y, z)")
        if params.dtype != PARAMETERS or params.shape != fields.shape[:1]:
            takes = f"{len(fields)} records of {', '.join(PARAMETERS.names or ())}"
            raise ValueError(f"params have shape {params.shape}, {params.dtype}; it takes {takes}")
        self.fields = fields
        self.params = params
        self.spacing_mm = check_number("spacing_mm", spacing_mm, gt=0)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.fields)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.fields.shape[1:]

    @classmethod
    def generate(
        cls,
        solver: FisherKolmogorov,
        n: int,
        *,
        ranges: GrowthRanges | None = None,
        volume_bounds: tuple[float, float] = (1.0, 250.0),
        random_state: int = 0,
        n_jobs: int = 1,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> "TumorDatabase":
        """Draw parameters and simulate until there are enough tumours of a plausible size.

        Entry i is the same whatever n is, so that a database can be made larger.

        Parameters
        ----------
        solver
            The forward model, in the atlas.
        n
            How many entries.
        ranges
            Ranges of the parameters; None, the default, takes the paper's.
        volume_bounds
            The least and largest volume in cm³ of the whole tumour, where the concentration is at least 0.2 of its
            largest; 1 and 250 by default, about what collections of patients have.
        random_state
            The seed of the parameters; 0 by default.
        n_jobs
            How many simulations run beside each other; 1 by default.
        progress
            Wraps the range of entries, such as tqdm; none by default.

        Returns
        -------
        TumorDatabase
            The simulated tumours and their parameters.

        Raises
        ------
        ValueError
            Where bounds are in the wrong order, or 1000 draws in a row have an implausible size, or 10 000 no tissue.
        """
        check_count("n", n)
        if np.shape(volume_bounds) != (2,):
            raise ValueError(f"volume_bounds are {volume_bounds}; it takes two, the smaller one first")
        low, high = (check_number("volume_bounds", bound, ge=0) for bound in volume_bounds)
        if low >= high:
            raise ValueError(f"volume_bounds are {volume_bounds}; it takes the smaller bound first")
        ranges = GrowthRanges() if ranges is None else ranges
        rng = np.random.default_rng(random_state)
        fields, params = np.empty((n, *solver.tissue.shape), dtype=np.float32), np.zeros(n, dtype=PARAMETERS)
        waiting: list[tuple[tuple[float, ...], np.ndarray]] = []
        failed = 0
        for i in progress(range(n)):
            while not waiting:
                drawn = [_draw(rng, ranges, solver) for _ in range(4 * n_jobs)]
                found = solver.solve_batch(
                    [(*d[:3], d[3:]) for d in drawn], n_jobs=n_jobs, largest_volume=max(high, 1e-9)
                )
                for values, field in zip(drawn, found, strict=True):
                    plausible = field is not None and low <= _volume(field, solver.spacing_mm) <= high
                    failed = 0 if plausible else failed + 1
                    if plausible and field is not None:
                        waiting.append((values, field))
                if failed >= 1000:
                    raise ValueError(f"volume_bounds are {volume_bounds}; 1000 draws in a row are out of them")
            values, fields[i] = waiting.pop(0)
            params[i] = values
        return cls(fields, params, solver.spacing_mm)

    def add(self, other: "TumorDatabase") -> "TumorDatabase":
        """Return a database with the entries of another after one's own.

        Parameters
        ----------
        other
            A database in the same atlas.

        Returns
        -------
        TumorDatabase
            A database with the entries of both.
        """
        if not isinstance(other, TumorDatabase):
            raise TypeError(f"other is {type(other).__name__}; it takes a TumorDatabase")
        if other.shape != self.shape or other.spacing_mm != self.spacing_mm:
            raise ValueError(f"other has shape {other.shape} at {other.spacing_mm} mm; it takes {self.shape}")
        joined = np.concatenate([self.fields, other.fields])
        return TumorDatabase(joined, np.concatenate([self.params, other.params]), self.spacing_mm)

    def take(self, entries: slice | Sequence[int] | Int[np.ndarray, " k"]) -> "TumorDatabase":
        """Return some of the entries.

        Parameters
        ----------
        entries
            A slice, or the numbers of entries.

        Returns
        -------
        TumorDatabase
            A database of those entries, in that order.
        """
        if isinstance(entries, (int, np.integer)):
            raise TypeError(f"entries is {entries}; it takes a slice, or the numbers of several entries")
        return TumorDatabase(self.fields[entries], self.params[entries], self.spacing_mm)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the database into a folder, which appears when all is written.

        Parameters
        ----------
        folder
            A folder that does not exist, or is empty.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"folder is {str(folder)!r}, which holds something; it takes a new or an empty one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            whole = Path(temporary) / "database"
            whole.mkdir()
            np.save(whole / "fields.npy", self.fields)
            np.savez(whole / "params.npz", params=self.params, spacing_mm=self.spacing_mm)
            if target.exists():
                target.rmdir()
            whole.rename(target)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "TumorDatabase":
        """Open a database that was saved; concentrations stay on disk until they are read.

        Parameters
        ----------
        folder
            Where it was saved.

        Returns
        -------
        TumorDatabase
            The database, whose fields are a memory map.

        Raises
        ------
        ValueError
            Where the folder has no whole database.
        """
        source = Path(folder)
        try:
            with np.load(source / "params.npz", allow_pickle=False) as data:
                params, spacing = data["params"], float(data["spacing_mm"])
            fields = np.lib.format.open_memmap(source / "fields.npy", mode="r")
            return cls(fields, params, spacing)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"folder is {str(folder)!r}, which has no whole database: {error}") from None


def _draw(rng: np.random.Generator, ranges: GrowthRanges, solver: FisherKolmogorov) -> tuple[float, ...]:
    """Draw parameters whose place has tissue."""
    for _ in range(10_000):
        values = tuple(float(rng.uniform(*getattr(ranges, name))) for name in PARAMETERS.names or ())
        if solver.tissue[solver.locate(values[3:])]:
            return values
    raise ValueError(f"ranges have x, y, z in {ranges.x}, {ranges.y}, {ranges.z}, where there is no tissue")


def _volume(field: np.ndarray, spacing_mm: float) -> float:
    """Return the volume of the whole tumour in cm³."""
    return float((field >= 0.2 * field.max()).sum() * (spacing_mm / 10) ** 3)
