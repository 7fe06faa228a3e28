import gzip
import struct

import numpy as np
import pytest
import torch

from paperworks.testbeds import data
from paperworks.testbeds.data import DatasetMissing, digits, fashion_mnist


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for data of one's own, and no data that was loaded before."""
    (tmp_path / "fashion-mnist").mkdir()
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    fashion_mnist.cache_clear()
    yield tmp_path / "fashion-mnist"
    fashion_mnist.cache_clear()


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_digits():
    images = digits()
    assert len(images) == 1797
    assert images.shape == (1, 8, 8)
    assert images.classes == 10
    assert images[:].min() == -1
    assert images[:].max() == 1
    assert torch.equal(images[torch.tensor([3, 0])], images[:4][[3, 0]])


def test_fashion_mnist_from_a_folder_of_ones_own(folder):
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    write_idx(folder / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.array([7, 3]))
    images = fashion_mnist("test")
    assert images.labels.tolist() == [7, 3]
    assert images.shape == (1, 28, 28)
    assert torch.allclose(images[:][:, 0], torch.from_numpy(pixels).float() / 127.5 - 1, atol=1e-6)


def test_fashion_mnist_of_the_system():
    fashion_mnist.cache_clear()
    try:
        images = fashion_mnist("test")
    except DatasetMissing:
        pytest.skip("dataset-fashion-mnist isn't installed")
    assert len(images) == 10_000
    assert images.labels.bincount().tolist() == [1000] * 10
    assert images.pixels.double().mean() / 255 == pytest.approx(0.2868, abs=1e-4)


def test_missing_data_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(data, "_SYSTEM", folder / "nowhere")
    with pytest.raises(DatasetMissing, match="apt install dataset-fashion-mnist") as caught:
        fashion_mnist("train")
    assert str(folder) in str(caught.value)
    assert "PAPERWORKS_DATA" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"\0\0\x08\x03\0\0\0\x02"), gzip.compress(b"text")],
    ids=["not gzip", "cut short", "other content"],
)
def test_broken_data_says_which_file(folder, content):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DatasetMissing, match=r"t10k-images-idx3-ubyte\.gz is not a whole IDX file"):
        fashion_mnist("test")


def test_unknown_split():
    with pytest.raises(ValueError, match="split is 'valid'"):
        fashion_mnist.__wrapped__.__wrapped__("valid")
