import pytest
import torch
from torch.nn import functional

from equipoise.data import Augmentation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int = 50) -> torch.Tensor:
    """Image i is filled with i / count."""
    return (torch.arange(count) / count)[:, None, None, None].expand(count, 1, 8, 8).contiguous()


def test_without_shift_and_flip_augmentation_is_the_identity():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    assert torch.equal(Augmentation()(images, generator()), images)


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = torch.rand(200, 1, 4, 4, generator=generator())
    augmented = Augmentation(flip=True)(images, generator(1))
    unchanged = (augmented == images).flatten(1).all(dim=1)
    mirrored = (augmented == images.flip(3)).flatten(1).all(dim=1)
    assert bool((unchanged ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_shifted_image_is_a_crop_of_the_padded_image_and_all_crops_occur(padding, mode):
    images = torch.rand(300, 2, 5, 6, generator=generator())
    augmented = Augmentation(shift=1, padding=padding)(images, generator(1))
    padded = functional.pad(images, [1] * 4, mode=mode)
    crops = [padded[:, :, r : r + 5, c : c + 6] for r in range(3) for c in range(3)]
    hits = torch.stack([(crop == augmented).flatten(1).all(dim=1) for crop in crops])
    assert bool((hits.sum(dim=0) == 1).all())
    assert int(hits.sum(dim=1).min()) > 15  # of 33 expected for each of the nine places


def test_zero_padding_leaves_a_black_border_and_reflection_does_not():
    white = torch.ones(50, 1, 8, 8)
    assert float(Augmentation(shift=2, padding="zeros")(white, generator()).min()) == 0
    assert float(Augmentation(shift=2, padding="reflect")(white, generator()).min()) == 1


def test_augmentation_never_mixes_images():
    images = numbered()
    augmented = Augmentation(shift=3, padding="reflect", flip=True)(images, generator())
    assert torch.equal(augmented, images)


def test_augmentation_depends_only_on_the_generator():
    images = torch.rand(20, 1, 8, 8, generator=generator())
    augmentation = Augmentation(shift=2, flip=True)
    first, again, other = (augmentation(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_negative_shift_is_refused():
    with pytest.raises(ValueError, match=r"shift must be 0 or more pixels, got -1"):
        Augmentation(shift=-1)
