import os
import time

import pytest
import torch
from tiny import linear, split, wide_resnet
from torch import nn

from equipoise.evaluation import AttackResult, EvaluationCache
from equipoise.evaluation.cache import (
    BROKEN,
    SURVIVED,
    UNKNOWN,
    fingerprint,
    images_hash,
    weights_hash,
)
from equipoise.evaluation.fresh_copy import FreshCopies
from equipoise.evaluation.identity import open_cache
from equipoise.models import with_conditioning
from equipoise.models.io.logits_of import LogitsOf
from equipoise.runtime.files import PART


def cache_folder(parent, name, model, data):
    return open_cache(parent, name, FreshCopies(model), data).folder


def test_a_fingerprint_depends_on_weights_and_images():
    model, data = linear(), split(4)
    before = fingerprint(model, data)
    assert fingerprint(linear(), split(4)) == before
    assert fingerprint(model, split(4, seed=1)) != before
    with torch.no_grad():
        model[-1].bias[0] += 1
    assert fingerprint(model, data) != before
    assert weights_hash(model) != weights_hash(linear())
    assert weights_hash(nn.Sequential(nn.ReLU())) != weights_hash(nn.Sequential(nn.GELU()))


def test_weights_in_bfloat16_have_a_hash_too():
    model = linear().bfloat16()
    before = weights_hash(model)
    with torch.no_grad():
        model[-1].bias[0] += 1
    assert weights_hash(model) != before


def test_labels_are_part_of_the_images_hash():
    data = split(4)
    other = type(data)(images=data.images, labels=(data.labels + 1) % 10, classes=10)
    assert images_hash(data) != images_hash(other)


def test_two_uses_of_one_network_are_two_models():
    data = split(4)
    assert fingerprint(LogitsOf(linear(), "0"), data) != fingerprint(LogitsOf(linear(), "1"), data)
    network = with_conditioning(wide_resnet(), preferences=(0.0, 1.0), size=4)
    assert fingerprint(network.at(0.0), data) != fingerprint(network.at(1.0), data)


class Rounded(nn.Module):
    """Rounds pixels; settings that are in no weight decide its logits and its gradient."""

    def __init__(self, levels: float, straight_through: bool) -> None:
        super().__init__()
        self.network = linear()
        self.how = [levels, straight_through]  # neither in a weight nor in the repr

    def forward(self, images):
        levels, straight_through = self.how
        rounded = (images * levels).round() / levels
        return self.network(images + (rounded - images).detach() if straight_through else rounded)


@pytest.mark.parametrize("changed", [(8.0, False), (4.0, True)], ids=["forward", "backward alone"])
def test_two_functions_with_the_same_weights_have_different_folders(tmp_path, changed):
    data = split(4)
    before, after = Rounded(4.0, False).eval(), Rounded(*changed).eval()
    assert fingerprint(before, data) == fingerprint(after, data)
    place = cache_folder(tmp_path, "x", before, data)
    other = cache_folder(tmp_path, "x", after, data)
    assert place.parent == other.parent == tmp_path
    assert place.name.startswith("x_")
    assert other.name == f"{place.name}-2"
    assert cache_folder(tmp_path, "x", before, data) == place
    assert cache_folder(tmp_path, "x", after, data) == other


def test_a_gradient_of_nan_equals_only_one_that_is_nan_too(tmp_path):
    class Root(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :2] + 0.0 * images[:, :, 0, 0].mul(self.keep).sqrt()

    model, data = Root().eval(), split(4)
    places = []
    for model.keep in (1.0, 0.0, 0.0, 1.0):  # the square root's gradient at 0 is infinite
        places.append(cache_folder(tmp_path, "x", model, data).name)
    assert places[0] == places[3] != places[1] == places[2]


def test_rounding_does_not_make_another_function(tmp_path):
    data, model = split(4), Rounded(1e9, False).eval()
    place = cache_folder(tmp_path, "x", model, data)
    model.how = [1e8, False]
    assert cache_folder(tmp_path, "x", model, data) == place


def test_units_without_stored_answers_are_left_alone(tmp_path):
    model, data = linear().eval(), split(4)
    older = tmp_path / f"x_{fingerprint(model, data)[:12]}"
    (older / "pgd_1").mkdir(parents=True)
    assert cache_folder(tmp_path, "x", model, data) == older.with_name(f"{older.name}-2")


def test_a_model_that_cannot_be_evaluated_leaves_no_files(tmp_path):
    class Answers(nn.Module):
        def forward(self, images):
            return {"logits": images.flatten(1)}

    empty = linear().eval()
    nn.init.constant_(empty[-1].bias, torch.nan)
    for model in (Answers().eval(), linear().train(), empty):
        assert cache_folder(tmp_path, "x", model, split(4)).parent == tmp_path
    assert not list(tmp_path.iterdir())


def result(*broken) -> AttackResult:
    """Result of an attack on ``len(broken)`` images."""
    return AttackResult(
        broken=torch.tensor(broken, dtype=torch.bool),
        images=torch.rand(len(broken), 1, 8, 8),
        forward_passes=1,
        backward_passes=1,
    )


def test_an_image_broken_by_one_of_two_evaluations_stays_broken(tmp_path):
    one, other = EvaluationCache(6, tmp_path), EvaluationCache(6, tmp_path)
    one.put("pgd", torch.tensor([0, 1, 2]), result(0, 0, 1), 1.0)
    other.put("pgd", torch.tensor([0, 2, 3]), result(0, 0, 1), 1.0)  # same length, same first row
    other.put("pgd", torch.tensor([3, 4]), result(0, 0), 1.0)
    wanted = [SURVIVED, SURVIVED, BROKEN, BROKEN, SURVIVED, UNKNOWN]
    again = EvaluationCache(6, tmp_path)
    assert again.outcome("pgd", torch.arange(6)).tolist() == wanted
    assert [row for row, _ in again.adversarial_images("pgd")] == [2, 3]


def test_files_that_another_evaluation_is_writing_are_left_alone(tmp_path):
    (tmp_path / "pgd").mkdir()
    fresh, old = (tmp_path / "pgd" / f".{name}{PART}" for name in ("fresh", "old"))
    fresh.touch()
    old.touch()
    long_ago = time.time() - 2 * 86400
    os.utime(old, (long_ago, long_ago))
    EvaluationCache(6, tmp_path)
    assert (fresh.exists(), old.exists()) == (True, False)
