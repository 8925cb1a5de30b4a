import math

import pytest
import torch
from torch.nn import functional

from equipoise.data import Augmentation
from equipoise.data.augmentation import OPERATIONS, moved


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int = 50) -> torch.Tensor:
    """Image i is filled with i / count."""
    return (torch.arange(count) / count)[:, None, None, None].expand(count, 1, 8, 8).contiguous()


def test_without_shift_and_flip_augmentation_is_the_identity():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    assert torch.equal(Augmentation()(images, generator()), images)


def test_a_flip_mirrors_about_half_of_the_images_left_to_right():
    images = torch.rand(200, 1, 4, 4, generator=generator())
    found = Augmentation(flip=True)(images, generator(1))
    kept = (found == images).flatten(1).all(dim=1)
    mirrored = (found == images.flip(3)).flatten(1).all(dim=1)
    assert bool((kept ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_a_shifted_image_is_one_of_the_crops_of_itself_and_all_crops_occur(padding, mode):
    images = torch.rand(300, 2, 5, 6, generator=generator())
    found = Augmentation(shift=1, padding=padding)(images, generator(1))
    padded = functional.pad(images, [1] * 4, mode=mode)
    crops = [padded[:, :, r : r + 5, c : c + 6] for r in range(3) for c in range(3)]
    hits = torch.stack([(crop == found).flatten(1).all(dim=1) for crop in crops])
    assert bool((hits.sum(dim=0) == 1).all())
    assert int(hits.sum(dim=1).min()) > 15  # of 33 expected for each of the nine places


def test_zeros_leave_a_black_border_and_reflection_does_not():
    white = torch.ones(50, 1, 8, 8)
    assert float(Augmentation(shift=2, padding="zeros")(white, generator()).min()) == 0
    assert float(Augmentation(shift=2, padding="reflect")(white, generator()).min()) == 1


def test_augmentation_never_mixes_images():
    images = numbered()
    found = Augmentation(shift=3, padding="reflect", flip=True)(images, generator())
    assert torch.equal(found, images)


def test_augmentation_depends_on_the_generator_alone():
    images = torch.rand(20, 1, 8, 8, generator=generator())
    augmentation = Augmentation(shift=2, flip=True)
    first, again, other = (augmentation(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def drawn(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Which operation each image of a batch gets, and its strength in [-1, 1]."""
    which, strength, _, _ = torch.rand(4, count, generator=generator(seed))
    return (which * len(OPERATIONS)).long(), 2 * strength - 1


def operated(images: torch.Tensor, magnitude: float = 0.8, rounds: int = 1) -> torch.Tensor:
    return Augmentation(operations=rounds, magnitude=magnitude)(images, generator(1))


def test_operations_are_all_drawn_and_stay_in_the_unit_interval():
    images = torch.rand(300, 3, 9, 11, generator=generator())
    found = operated(images, magnitude=1.0, rounds=3)
    assert found.shape == images.shape
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert drawn(300)[0].bincount().min() > 25
    unchanged = (operated(images) == images).flatten(1).all(dim=1)
    assert int(unchanged.sum()) < 10  # a square may be too small to hold a pixel


def test_brightness_contrast_and_colour_are_what_their_names_say():
    images = torch.rand(120, 3, 4, 4, generator=generator(), dtype=torch.float64).float()
    which, strength = drawn(120)
    found = operated(images)
    for row, (kind, amount) in enumerate(zip(which.tolist(), strength.tolist(), strict=True)):
        image, factor = images[row].double(), 1 + 0.9 * 0.8 * amount
        expected = {
            "brightness": image * factor,
            "contrast": image.mean() * (1 - factor) + image * factor,
            "colour": image.mean(dim=0) * (1 - factor) + image * factor,
        }.get(OPERATIONS[kind])
        if expected is not None:
            assert torch.allclose(found[row].double(), expected.clamp(0, 1), atol=1e-6)


def test_cutout_greys_one_rectangle_and_nothing_else():
    images = torch.rand(300, 1, 16, 16, generator=generator()) * 0.4  # no grey in it
    which, _ = drawn(300)
    found = operated(images, magnitude=1.0)[which == OPERATIONS.index("cutout")]
    images = images[which == OPERATIONS.index("cutout")]
    assert bool(((found == 0.5) | (found == images)).all())
    holes = (found == 0.5)[:, 0]
    sizes = holes.any(dim=2).sum(dim=1) * holes.any(dim=1).sum(dim=1)
    assert torch.equal(sizes, holes.sum(dim=(1, 2)))
    assert 16 < int(sizes.max()) <= 81


def test_a_magnitude_of_0_changes_nothing():
    images = torch.rand(60, 3, 8, 8, generator=generator())
    assert torch.allclose(operated(images, magnitude=0.0), images, atol=1e-5)


def test_a_quarter_turn_and_a_shift_by_whole_pixels_are_exact():
    images = torch.rand(2, 3, 8, 8, generator=generator())
    turn, still = torch.tensor([0.0, math.pi / 2]), torch.zeros(2)
    found = moved(images, turn, still, still)
    assert torch.allclose(found[0], images[0], atol=1e-5)
    assert torch.allclose(found[1], images[1].rot90(-1, (1, 2)), atol=1e-5)
    found = moved(images, still, torch.tensor([0.5, 0.0]), torch.tensor([0.0, -0.25]))
    assert torch.allclose(found[0, :, :, 2:], images[0, :, :, :-2], atol=1e-5)
    assert not found[0, :, :, :2].any()
    assert torch.allclose(found[1, :, :-1], images[1, :, 1:], atol=1e-5)


def test_a_long_image_is_turned_without_being_sheared():
    images = torch.zeros(1, 1, 9, 21)
    images[0, 0, 4, 10:14] = 1  # a line from the middle to the right
    found = moved(images, torch.tensor([math.pi / 2]), torch.zeros(1), torch.zeros(1))
    assert torch.allclose(found[0, 0, 4:8, 10], torch.ones(4), atol=1e-4)
    assert float(found.sum()) == pytest.approx(4, abs=1e-3)


def test_operations_are_each_images_own_and_depend_on_the_generator_alone():
    images = torch.rand(20, 3, 8, 8, generator=generator())
    augmentation = Augmentation(operations=2, padding="reflect")
    first, again, other = (augmentation(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    changed = images.clone()
    changed[3] = 0
    rest = [row for row in range(20) if row != 3]
    assert torch.equal(augmentation(changed, generator(1))[rest], first[rest])


@pytest.mark.parametrize(
    ("field", "value"),
    [("shift", -1), ("operations", -1), ("magnitude", 1.5), ("magnitude", -0.1),
     ("magnitude", float("nan"))],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field} .*must be"):
        Augmentation(**{field: value})
