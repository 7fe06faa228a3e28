import pytest
import torch

from paperworks.testbeds import DatasetMissing, PastedGarments, accuracy, pasted_garments, trained_garment_classifier
from paperworks.testbeds.garments import erased


@pytest.fixture(scope="module")
def garments():
    try:
        return pasted_garments("test", n=300)
    except DatasetMissing as missing:
        pytest.skip(str(missing))


def test_the_object_is_known_to_the_pixel(garments):
    assert isinstance(garments, PastedGarments)
    assert garments.shape == (1, 56, 56)
    assert len(garments.labels) == 300
    images, behind = garments[:], garments.backgrounds(slice(None))
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images * ~garments.objects, behind * ~garments.objects)
    # Only the middle can hold an object, and each has one in one piece of reasonable size.
    places = garments.objects.any(0)[0].nonzero()
    assert places.min() >= 14 - 6
    assert places.max() < 42 + 6
    share = garments.objects.float().mean((1, 2, 3))
    assert 0.01 < share.min() < share.max() < 0.3


def test_garments_have_no_holes(garments):
    # From outside, growing over what is no object, everything that is none is reached.
    outside = torch.zeros_like(garments.objects, dtype=torch.float)
    outside[..., 0, :] = 1
    cross = torch.tensor([[[[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]]])
    for _ in range(200):
        outside = (torch.nn.functional.conv2d(outside, cross, padding=1) > 0) * (~garments.objects).float()
    assert torch.equal(outside > 0, ~garments.objects)


def test_it_is_the_same_for_the_same_seed_and_textures_differ(garments):
    again = pasted_garments.__wrapped__("test", n=300)
    assert torch.equal(again.pixels, garments.pixels)
    assert not torch.equal(pasted_garments.__wrapped__("test", n=300, random_state=1).behind, garments.behind)
    spread = garments.backgrounds(slice(None)).mean((1, 2, 3))
    assert spread.std() > 0.1


def test_erasing_hides_rectangles_of_three_in_four():
    images = torch.zeros(2000, 1, 56, 56)
    hidden = erased(images, torch.Generator().manual_seed(0)) > 0
    share = hidden.float().mean((1, 2, 3))
    assert (share > 0).float().mean().item() == pytest.approx(0.75, abs=0.04)
    assert share[share > 0].mean().item() == pytest.approx(0.175, abs=0.02)
    assert share.max() < 0.36
    rows, columns = hidden.any(3).sum(2), hidden.any(2).sum(2)
    assert torch.equal(hidden.sum((2, 3)), rows * columns)


@pytest.mark.parametrize("erasing", [False, True])
def test_a_classifier_is_trained_once(garments, tmp_path, erasing):
    first = trained_garment_classifier(erasing=erasing, size="smoke", root=tmp_path)
    folders = list(tmp_path.glob("garment-classifier-*[!k]"))
    second = trained_garment_classifier(erasing=erasing, size="smoke", root=tmp_path)
    assert list(tmp_path.glob("garment-classifier-*[!k]")) == folders
    assert torch.equal(first(garments[:5]), second(garments[:5]))
    assert not first.training
    assert first.first[1].num_batches_tracked > 0  # batch norms know the data
    assert first.first[1].running_var.std() > 0
    assert accuracy(first, garments[:], garments.labels) > 0.05


@pytest.mark.usefixtures("untyped")
def test_bad_input():
    with pytest.raises(ValueError, match="size is 'tiny'"):
        trained_garment_classifier(size="tiny")


@pytest.mark.usefixtures("untyped", "garments")
def test_bad_number():
    with pytest.raises(ValueError, match="n is 10001"):
        pasted_garments("test", n=10_001)
