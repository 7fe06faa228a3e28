"""A brain atlas from an installed package, and volumes of other scanners brought onto its grid."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import affine_transform

from paperworks.core.validation import check_count


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

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.wm.shape

    def read_mask(self, path: str | os.PathLike[str], label: int | None = None) -> Bool[np.ndarray, "x y z"]:
        """Read a segmentation that is registered to the atlas, of any orientation and spacing, onto its grid.

        Parameters
        ----------
        path
            A NIfTI file with whole numbers.
        label
            Which number marks the region; None, the default, takes all that are not 0.

        Returns
        -------
        np.ndarray
            Whether each voxel of the atlas is in the region; that of the nearest voxel of the file.

        Raises
        ------
        ValueError
            Where the file is no volume of whole numbers, or does not overlap the atlas.
        ImportError
            Where nibabel is not installed.
        """
        nibabel = _nibabel()
        try:
            image = nibabel.load(path)
            values = np.asarray(image.dataobj)
        except (nibabel.filebasedimages.ImageFileError, OSError, ValueError, EOFError) as error:
            raise ValueError(f"path is {str(path)!r}, which is no readable NIfTI volume: {error}") from None
        values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
        if values.ndim != 3:
            raise ValueError(f"path is {str(path)!r} with shape {values.shape}; it takes a volume (x, y, z)")
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise ValueError(f"path is {str(path)!r} with values that are not whole; it takes a segmentation")
        region = (values != 0) if label is None else values == label
        to_file = np.linalg.inv(image.affine) @ self.affine
        found = affine_transform(region.astype(np.uint8), to_file[:3, :3], to_file[:3, 3], self.shape, order=0)
        if region.any() and not found.any():
            raise ValueError(f"path is {str(path)!r}, whose region misses the atlas; register it to MNI space first")
        return found.astype(bool)

    def write(self, values: Float[np.ndarray, "x y z"], path: str | os.PathLike[str]) -> None:
        """Write a volume on the atlas's grid as a NIfTI file; a file that was there is replaced at the end.

        Parameters
        ----------
        values
            The volume, such as a concentration.
        path
            A name that ends in .nii or .nii.gz.

        Raises
        ------
        ValueError
            Where the shape is another, or the name ends otherwise.
        ImportError
            Where nibabel is not installed.
        """
        nibabel = _nibabel()
        target = Path(path)
        ending = next((e for e in (".nii.gz", ".nii") if target.name.endswith(e)), None)
        if ending is None:
            raise ValueError(f"path is {str(path)!r}; it takes a name that ends in .nii or .nii.gz")
        if np.shape(values) != self.shape:
            raise ValueError(f"values have shape {np.shape(values)}; it takes the atlas's, {self.shape}")
        handle, name = tempfile.mkstemp(suffix=ending, dir=target.parent)
        os.close(handle)
        try:
            nibabel.save(nibabel.Nifti1Image(np.asarray(values, dtype=np.float32), self.affine), name)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise


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


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("volumes are read by nibabel; `pip install 'paperworks[imaging]'` installs it") from error
    return nibabel
