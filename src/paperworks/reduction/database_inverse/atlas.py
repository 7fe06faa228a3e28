"""A brain atlas from an installed package, and volumes of other scanners brought onto its grid."""

import gzip
import os
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.ndimage import affine_transform

from paperworks.core.validation import check_count, check_number


@dataclass(frozen=True, eq=False)
class BrainAtlas:
    """Tissue of an average brain on a grid of cubes.

    Attributes
    ----------
    wm, gm : np.ndarray
        Shares of white and grey matter in each voxel.
    spacing_mm : float
        Edge of a voxel in mm.
    affine : np.ndarray
        From indices of voxels to mm, 4 x 4, as NIfTI files have it.

    Examples
    --------
    >>> import numpy as np
    >>> BrainAtlas(np.ones((2, 2, 2)), np.zeros((2, 2, 2)), 4.0, np.diag([4.0, 4.0, 4.0, 1.0])).shape
    (2, 2, 2)
    """

    wm: Float[np.ndarray, "x y z"]
    gm: Float[np.ndarray, "x y z"]
    spacing_mm: float
    affine: Float[np.ndarray, "4 4"]

    def __post_init__(self) -> None:
        for name in ("wm", "gm"):
            if np.ndim(getattr(self, name)) != 3 or np.shape(getattr(self, name)) != np.shape(self.wm):
                raise ValueError(f"{name} has shape {np.shape(getattr(self, name))}; it takes volumes of one shape")
        check_number("spacing_mm", self.spacing_mm, gt=0)
        if not _is_affine(self.affine):
            raise ValueError(f"affine is {self.affine}; it takes a matrix of shape (4, 4) that can be inverted")

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.wm.shape

    def read_mask(
        self, path: str | os.PathLike[str], label: int | Sequence[int] | None = None
    ) -> Bool[np.ndarray, "x y z"]:
        """Read a segmentation that is registered to the atlas, of any orientation and spacing, onto its grid.

        Parameters
        ----------
        path
            A NIfTI file with whole numbers, which says where its voxels are.
        label
            Which number marks the region, or which numbers do, as 1 and 4 the core in BraTS's segmentations; None, the
            default, takes all that are not 0.

        Returns
        -------
        np.ndarray
            Whether each voxel of the atlas is in the region; that of the nearest voxel of the file. A region that
            reaches out of the atlas is cut, with a warning.

        Raises
        ------
        ValueError
            Where the file is damaged, or no volume of whole numbers with a place, or does not overlap the atlas.
        ImportError
            Where nibabel is not installed.
        """
        labels = None if label is None else [_whole(value) for value in np.atleast_1d(np.asarray(label, object))]
        values, to_mm = _read(path)
        region = values != 0 if labels is None else np.isin(values, labels)
        voxels = np.argwhere(region)
        to_atlas = np.linalg.inv(self.affine) @ to_mm
        at = voxels @ to_atlas[:3, :3].T + to_atlas[:3, 3]
        inside = ((at >= -0.5) & (at <= np.array(self.shape) - 0.5)).all(1).mean() if len(voxels) else 1.0
        if inside == 0:
            raise ValueError(f"path is {str(path)!r}, whose region misses the atlas; register it to MNI space first")
        if inside < 0.99:
            warnings.warn(
                f"path is {str(path)!r}, of whose region {1 - inside:.0%} is out of the atlas; is it registered to MNI"
                " space?",
                stacklevel=2,
            )
        to_file = np.linalg.inv(to_atlas)
        found = affine_transform(region.astype(np.uint8), to_file[:3, :3], to_file[:3, 3], self.shape, order=0)
        if len(voxels) and not found.any():
            raise ValueError(
                f"path is {str(path)!r}, whose region of {len(voxels)} voxels falls between those of the atlas; it"
                f" takes a region larger than a voxel of {self.spacing_mm:g} mm"
            )
        return found.astype(bool)

    def write(self, values: Shaped[np.ndarray, "x y z"], path: str | os.PathLike[str]) -> None:
        """Write a volume on the atlas's grid as a NIfTI file; a file that was there is replaced at the end.

        Parameters
        ----------
        values
            The volume, such as a concentration or a mask.
        path
            A name that ends in .nii or .nii.gz.

        Raises
        ------
        ValueError
            Where the shape is another, values are not finite, the name ends otherwise, or there is no such folder.
        ImportError
            Where nibabel is not installed.
        """
        nibabel = _nibabel()
        target = Path(path)
        ending = next((e for e in (".nii.gz", ".nii") if target.name.endswith(e)), None)
        if ending is None:
            raise ValueError(f"path is {str(path)!r}; it takes a name that ends in .nii or .nii.gz")
        if target.is_dir() or not target.parent.is_dir():
            raise ValueError(f"path is {str(path)!r}; it takes a file in a folder that exists")
        volume = np.asarray(values)
        if volume.shape != self.shape:
            raise ValueError(f"values have shape {volume.shape}; it takes the atlas's, {self.shape}")
        if volume.dtype.kind not in "fiub" or not np.isfinite(volume).all():
            raise ValueError(f"values are {volume.dtype} or not finite; it takes finite real numbers")
        image = nibabel.Nifti1Image(volume.astype(np.float32), self.affine)
        image.header.set_xyzt_units("mm")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # a file in it has the usual permissions
            nibabel.save(image, Path(folder) / f"volume{ending}")
            os.replace(Path(folder) / f"volume{ending}", target)


def brain_atlas(resolution_mm: int = 4) -> BrainAtlas:
    """Return the MNI152 average brain, which nilearn carries.

    Parameters
    ----------
    resolution_mm
        Edge of a voxel in whole mm; 4 by default.

    Returns
    -------
    BrainAtlas
        White and grey matter on the grid.

    Raises
    ------
    ImportError
        Where nilearn is not installed.

    Examples
    --------
    >>> brain_atlas(8).shape
    (26, 30, 25)
    """
    resolution = check_count("resolution_mm", resolution_mm, at_most=40)
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template
    except ImportError as error:
        raise ImportError("the atlas comes with nilearn; `pip install 'paperworks[imaging]'` installs it") from error
    wm, gm = load_mni152_wm_template(resolution=resolution), load_mni152_gm_template(resolution=resolution)
    shares = [np.clip(np.asarray(image.dataobj, dtype=np.float64), 0, 1) for image in (wm, gm)]
    return BrainAtlas(shares[0], shares[1], float(resolution), np.asarray(wm.affine, dtype=np.float64))


def _read(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole numbers of a volume, and the matrix from its indices to mm."""
    nibabel = _nibabel()
    what = f"path is {os.fspath(path)!r}"
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise ValueError(f"it is a {type(image).__name__}")
        values = np.asarray(image.dataobj)
        if str(path).endswith((".gz", ".mgz")):  # nibabel reads no further than it must, and sees no checksum
            with gzip.open(path) as stream:
                while stream.read(2**20):
                    pass
    except (nibabel.filebasedimages.ImageFileError, OSError, ValueError, EOFError, MemoryError, zlib.error) as error:
        reason = " ".join(str(error).split()) or "it asks for more memory than there is"
        raise ValueError(f"{what}, which is no readable NIfTI volume: {reason}") from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"{what} with shape {values.shape}; it takes a volume (x, y, z)")
    # Numbers that were scaled on the way to the file are whole to its rounding.
    whole = values.dtype.kind in "fiub" and np.isfinite(values).all()
    rounded = np.round(values) if whole else values
    if not whole or (np.abs(values - rounded) > 1e-4).any():
        raise ValueError(f"{what} with values that are not whole ({values.dtype}); it takes a segmentation")
    header = image.header
    if isinstance(image, nibabel.Nifti1Pair) and not (header["sform_code"] or header["qform_code"]):
        raise ValueError(f"{what}, which does not say where its voxels are (sform and qform codes are 0)")
    units = header.get_xyzt_units()[0] if isinstance(image, nibabel.Nifti1Pair) else "mm"
    to_mm = np.diag([{"meter": 1e3, "micron": 1e-3}.get(units, 1.0)] * 3 + [1.0]) @ image.affine
    if not _is_affine(to_mm):
        raise ValueError(f"{what}, whose matrix from voxels to mm is not finite or cannot be inverted")
    return rounded, to_mm


def _is_affine(matrix: Any) -> bool:
    """Whether a matrix takes indices of voxels to mm and back."""
    return bool(np.shape(matrix) == (4, 4) and np.isfinite(matrix).all() and np.linalg.matrix_rank(matrix) == 4)


def _whole(label: Any) -> int:
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise TypeError(f"label is {label!r}; it takes a whole number, or several")
    return int(label)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("volumes are read by nibabel; `pip install 'paperworks[imaging]'` installs it") from error
    return nibabel
