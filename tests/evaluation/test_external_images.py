"""Adversarial images from files: what is read, what is refused, and how they count."""

import math

import numpy
import pytest
import tiny
import torch
from scripted import run

from equipoise.attacks.threat import L2, Linf
from equipoise.data import DataError, Split
from equipoise.evaluation import suites_for
from equipoise.evaluation.external_files import file_sha256
from equipoise.evaluation.external_images import external_suites

EPSILON = 0.1
COUNT = 12


@pytest.fixture
def data() -> Split:
    split = tiny.split(COUNT)
    images = split.images.clamp(30, 225)
    return Split(images=images, labels=split.labels, classes=10)


def shifted(split: Split, by: float = EPSILON) -> numpy.ndarray:
    """Every pixel moved by the same amount, ``(n, height, width, channel)`` in float32."""
    images, _ = split.batch(slice(None))
    return (images + by).permute(0, 2, 3, 1).numpy()


def suites(path, split, **changes):
    settings = {"rows": torch.arange(len(split)), "part_size": len(split), "norm": "Linf"}
    return external_suites([path], split, **(settings | {"epsilons": (0.0, EPSILON)} | changes))


def attack_of(path, split, **changes):
    (suite,) = suites(path, split, **changes)
    assert suite.name == "external"
    assert suite.independent
    return suite.attacks[0]


def save(path, **arrays):
    numpy.savez(path, **arrays)
    return path


def test_without_files_there_is_no_suite(data):
    settings = {"rows": torch.arange(COUNT), "part_size": COUNT, "norm": "Linf", "epsilons": (0.1,)}
    assert external_suites([], data, **settings) == []


@pytest.mark.parametrize("name", ["theirs.npy", "theirs.npz", "named.npz"])
@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_read_in_either_layout(tmp_path, data, name, channels_first, dtype):
    array, path = shifted(data).astype(dtype), tmp_path / name
    array = array.transpose(0, 3, 1, 2) if channels_first else array
    if name == "theirs.npy":
        numpy.save(path, array)
    else:
        save(path, **({"arr_0": array} if name == "theirs.npz" else {"x_adv": array, "y": [1]}))
    attack = attack_of(path, data)
    expected = torch.from_numpy(shifted(data)).permute(0, 3, 1, 2)
    torch.testing.assert_close(attack.images, expected)
    assert float(attack.distance.max()) == pytest.approx(EPSILON, abs=1e-6)
    assert attack.digest == file_sha256(path)


def test_eight_bit_images_on_the_grid_need_no_allowance(tmp_path, data):
    numpy.save(tmp_path / "a.npy", (data.images + 25).permute(0, 2, 3, 1).numpy())
    assert float(attack_of(tmp_path / "a.npy", data).distance.max()) == pytest.approx(25 / 255)


def test_rounding_is_allowed_only_if_asked_and_moved_back_into_the_threat(tmp_path, data):
    numpy.save(tmp_path / "a.npy", (data.images + 26).numpy())  # 0.1 is 25.5 levels
    with pytest.raises(DataError, match="rounding explains it: add --allow-rounding"):
        suites(tmp_path / "a.npy", data)
    attack = attack_of(tmp_path / "a.npy", data, allow_rounding=True)
    assert float(attack.distance.max()) <= EPSILON + 1e-6
    assert attack.describe()["rounding"] is True


@pytest.mark.parametrize("levels", [27, 60])
def test_no_allowance_reaches_further_than_half_a_level(tmp_path, data, levels):
    numpy.save(tmp_path / "a.npy", (data.images.int() + levels).clamp(0, 255).byte().numpy())
    with pytest.raises(DataError, match=r"12 of 12 images are outside .* project them"):
        suites(tmp_path / "a.npy", data, allow_rounding=True)


def test_float_images_get_no_allowance(tmp_path, data):
    numpy.save(tmp_path / "a.npy", shifted(data, EPSILON + 0.001))
    with pytest.raises(DataError, match=r"the furthest at 0\.101; project them"):
        suites(tmp_path / "a.npy", data, allow_rounding=True)


def test_distances_up_to_rounding_of_float32_are_inside(tmp_path, data):
    numpy.save(tmp_path / "a.npy", shifted(data, EPSILON + 5e-7))
    suites(tmp_path / "a.npy", data)
    numpy.save(tmp_path / "a.npy", shifted(data, EPSILON + 5e-6))
    with pytest.raises(DataError, match="12 of 12 images are outside the Linf threat"):
        suites(tmp_path / "a.npy", data)


def test_one_image_outside_is_enough_to_refuse_a_file(tmp_path, data):
    array = shifted(data, 0.0)
    array[7, 3, 3] += 0.2
    numpy.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=r"1 of 12 images are outside .* the furthest at 0\.2"):
        suites(tmp_path / "a.npy", data)


def test_l2_distances_are_euclidean(tmp_path, data):
    numpy.save(tmp_path / "a.npy", shifted(data, 0.05))  # 64 pixels: 0.4
    assert float(attack_of(tmp_path / "a.npy", data, norm="L2", epsilons=(0.41,)).epsilon) == 0.41
    with pytest.raises(DataError, match=r"outside the L2 threat of 0\.39, the furthest at 0\.4;"):
        suites(tmp_path / "a.npy", data, norm="L2", epsilons=(0.39,))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numpy.zeros((COUNT, 9, 8, 1), numpy.uint8), r"\(n, 8, 8, 1\) or \(n, 1, 8, 8\).*9, 8, 1"),
        (numpy.zeros((COUNT, 64), numpy.uint8), "must hold images of shape"),
        (numpy.zeros((COUNT, 8, 8), numpy.float16), "got float16; convert them"),
        (numpy.full((COUNT, 8, 8), 200.0), "got 200 to 200; divide them by 255"),
        (numpy.full((COUNT, 8, 8), -1.5), "got -1.5 to -1.5; undo normalisation"),
        (numpy.full((COUNT, 8, 8), math.nan), "in .0, 1., got nan to nan"),
        (numpy.zeros((COUNT - 1, 8, 8), numpy.uint8), "each of the 12 .* got 11; .* --images 11"),
        (numpy.zeros((0, 8, 8), numpy.uint8), "got 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, data, array, message):
    numpy.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        suites(tmp_path / "a.npy", data)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": numpy.zeros(COUNT, int)}, r"of 12 labels differ .* in another order"),
        ({"label": numpy.zeros(3, int)}, "label must be one whole number below 10"),
        ({"label": numpy.full(COUNT, 10)}, r"below 10 .* in 10\.\.10"),
        ({"row": numpy.arange(COUNT) + 1}, r"row must be one whole number below 12"),
        ({"row": numpy.zeros(COUNT, int)}, "row names an image twice"),
        ({"row": numpy.zeros(COUNT)}, "row must be one whole number .* got float64"),
        ({"epsilon": 0.2}, "at 0.2, but the largest strength of the evaluation is 0.1; add it"),
        ({"epsilon": 0.05}, "12 of 12 images are outside the Linf threat of 0.05"),
        ({"epsilon": -1.0}, "epsilon must be one number of 0 or more"),
        ({"epsilon": [0.1, 0.2]}, "save each strength in a file of its own"),
        ({"norm": "L2"}, "the norm L2, but the evaluation's is Linf; add --norm L2"),
    ],
)
def test_arrays_that_contradict_the_evaluation_are_refused(tmp_path, data, arrays, message):
    path = save(tmp_path / "a.npz", image=shifted(data), **arrays)
    with pytest.raises(DataError, match=message):
        suites(path, data)


def test_files_that_hold_no_images_are_refused(tmp_path, data):
    path = save(tmp_path / "a.npz", weights=numpy.zeros(3), bias=numpy.zeros(3))
    with pytest.raises(DataError, match=r"named image or images .* got the arrays weights, bias"):
        suites(path, data)
    (tmp_path / "a.txt").write_text("no array")
    with pytest.raises(DataError, match=r"cannot be read as \.npz or \.npy"):
        suites(tmp_path / "a.txt", data)
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        suites(tmp_path / "none.npz", data)
    numpy.save(tmp_path / "pickled.npy", numpy.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as"):
        suites(tmp_path / "pickled.npy", data)


def test_a_file_of_the_whole_part_serves_an_evaluation_of_some_of_its_images(tmp_path, data):
    rows = torch.tensor([1, 4, 9])
    numpy.save(tmp_path / "a.npy", shifted(data))
    attack = attack_of(tmp_path / "a.npy", data.take(rows), rows=rows, part_size=COUNT)
    expected = torch.from_numpy(shifted(data)).permute(0, 3, 1, 2)[rows]
    torch.testing.assert_close(attack.images, expected)


def test_rows_say_which_images_a_file_holds(tmp_path, data):
    rows = numpy.array([9, 4])
    labels = data.labels.numpy()[rows]
    path = save(tmp_path / "a.npz", image=shifted(data)[rows], row=rows, label=labels)
    attack = attack_of(path, data)
    assert attack.distance.isfinite().nonzero().flatten().tolist() == [4, 9]
    assert attack.describe()["images"] == 2
    few = data.take(torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"holds none of the 2 images that are evaluated"):
        suites(path, few, rows=torch.tensor([0, 1]), part_size=COUNT)


def bright_is_wrong(split: Split) -> torch.nn.Module:
    """Right on every image that is at most 0.07 brighter than the clean one on average."""

    class ByBrightness(torch.nn.Module):
        def forward(self, images):
            known, labels = split.batch(slice(None))
            distance = torch.cdist(images.flatten(1), known.flatten(1))
            nearest = distance.argmin(dim=1)
            brighter = (images - known[nearest]).mean(dim=(1, 2, 3)) > 0.07
            answer = torch.where(brighter, (labels[nearest] + 1) % 10, labels[nearest])
            return torch.nn.functional.one_hot(answer, 10).float() + 0 * images.sum()

    return ByBrightness().eval()


@pytest.mark.slow
def test_external_images_count_at_each_strength_that_their_distance_does_not_exceed(tmp_path, data):
    by = numpy.full((COUNT, 1, 1, 1), 0.09, numpy.float32)
    by[3] = 0.01
    numpy.save(tmp_path / "a.npy", shifted(data, 0.0) + by)
    model, epsilons = bright_is_wrong(data), (0.0, 0.05, 0.09, 0.2)
    external = suites(tmp_path / "a.npy", data, epsilons=epsilons)
    quick = suites_for(model, ["quick"], classes=10, steps=1)
    without = run(model, data, quick, epsilons=epsilons, batch_size=5)
    profile = run(model, data, [*quick, *external], epsilons=epsilons, batch_size=5)
    assert profile.accuracy("external") == pytest.approx([1.0, 1.0, 1 / 12, 1 / 12])
    assert all(a <= b for a, b in zip(profile.accuracy(), without.accuracy(), strict=True))
    assert profile.accuracy("quick") == without.accuracy()
    assert any(name.startswith("external/a-") for name in profile.broken_by() if name)
    assert profile.outcomes[-1].kind == "external"
    assert profile.outcomes[-1].backward_passes == 0
    assert (profile.outcomes[-1].broken_at[3] == -1).all()


@pytest.mark.parametrize(("threat", "norm"), [(Linf, "Linf"), (L2, "L2")])
def test_the_verification_accepts_external_images_at_the_border(tmp_path, data, threat, norm):
    epsilon = EPSILON if norm == "Linf" else EPSILON * 8
    numpy.save(tmp_path / "a.npy", shifted(data))
    external = suites(tmp_path / "a.npy", data, epsilons=(epsilon,), norm=norm)
    profile = run(bright_is_wrong(data), data, external, epsilons=(epsilon,), threat=threat)
    assert profile.accuracy() == [1.0, 0.0]
