import os
import time

import pytest
import torch
from tiny import linear, split, wide_resnet
from torch import nn

from equipoise.evaluation import AttackResult, Store
from equipoise.evaluation.cache import (
    BROKEN,
    SURVIVED,
    UNKNOWN,
    fingerprint,
    images_hash,
    known_place,
    unit_key,
    weights_hash,
)
from equipoise.models import with_conditioning
from equipoise.models.io.logits_of import LogitsOf
from equipoise.runtime.files import PART

ATTACK = {"name": "a", "steps": 3}


def test_a_unit_is_known_by_everything_that_decides_it():
    keys = {
        unit_key(ATTACK, "Linf", 0.1, 0, "32-true"),
        unit_key(ATTACK | {"steps": 4}, "Linf", 0.1, 0, "32-true"),
        unit_key(ATTACK, "L2", 0.1, 0, "32-true"),
        unit_key(ATTACK, "Linf", 0.2, 0, "32-true"),
        unit_key(ATTACK, "Linf", 0.1, 1, "32-true"),
        unit_key(ATTACK, "Linf", 0.1, 0, "bf16-mixed"),
    }
    assert len(keys) == 6
    assert unit_key(dict(reversed(ATTACK.items())), "Linf", 0.1, 0, "32-true") in keys


def test_a_fingerprint_follows_weights_and_images():
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


def test_one_network_taken_in_two_ways_is_two_models():
    data = split(4)
    assert fingerprint(LogitsOf(linear(), "0"), data) != fingerprint(LogitsOf(linear(), "1"), data)
    network = with_conditioning(wide_resnet(), preferences=(0.0, 1.0), size=4)
    assert fingerprint(network.at(0.0), data) != fingerprint(network.at(1.0), data)


def test_a_new_version_computes_everything_anew(monkeypatch):
    before = unit_key(ATTACK, "Linf", 0.1, 0, "32-true")
    monkeypatch.setattr("equipoise.evaluation.cache.version", lambda package: "99")
    assert unit_key(ATTACK, "Linf", 0.1, 0, "32-true") != before


class Rounded(nn.Module):
    """Reads rounded pixels. Its code decides what it answers, and how its gradient looks."""

    def __init__(self, levels: float, straight_through: bool) -> None:
        super().__init__()
        self.network = linear()
        self.how = [levels, straight_through]  # in no weight and in no repr

    def forward(self, images):
        levels, straight_through = self.how
        rounded = (images * levels).round() / levels
        return self.network(images + (rounded - images).detach() if straight_through else rounded)


@pytest.mark.parametrize("changed", [(8.0, False), (4.0, True)], ids=["forward", "backward alone"])
def test_what_is_known_of_a_function_is_not_taken_for_another_with_the_same_weights(
    tmp_path, changed
):
    data = split(4)
    before, after = Rounded(4.0, False).eval(), Rounded(*changed).eval()
    assert fingerprint(before, data) == fingerprint(after, data)
    place = known_place(tmp_path, "x", before, data)
    other = known_place(tmp_path, "x", after, data)
    assert place.parent == other.parent == tmp_path
    assert place.name.startswith("x_")
    assert other.name == f"{place.name}-2"
    assert known_place(tmp_path, "x", before, data) == place
    assert known_place(tmp_path, "x", after, data) == other


def test_a_gradient_of_nan_is_alike_only_to_one_that_is_nan_there_too(tmp_path):
    class Root(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :2] + 0.0 * images[:, :, 0, 0].mul(self.keep).sqrt()

    model, data = Root().eval(), split(4)
    places = []
    for model.keep in (1.0, 0.0, 0.0, 1.0):  # the square root's gradient at 0 is infinite
        places.append(known_place(tmp_path, "x", model, data).name)
    assert places[0] == places[3] != places[1] == places[2]


def test_rounding_makes_no_other_function(tmp_path):
    data, model = split(4), Rounded(1e9, False).eval()
    place = known_place(tmp_path, "x", model, data)
    model.how = [1e8, False]
    assert known_place(tmp_path, "x", model, data) == place


def test_units_whose_function_nobody_noted_are_left_alone(tmp_path):
    model, data = linear().eval(), split(4)
    older = tmp_path / f"x_{fingerprint(model, data)[:12]}"
    (older / "pgd_1").mkdir(parents=True)
    assert known_place(tmp_path, "x", model, data) == older.with_name(f"{older.name}-2")


def test_a_function_that_cannot_be_judged_leaves_nothing_behind(tmp_path):
    class Answers(nn.Module):
        def forward(self, images):
            return {"logits": images.flatten(1)}

    empty = linear().eval()
    nn.init.constant_(empty[-1].bias, torch.nan)
    for model in (Answers().eval(), linear().train(), empty):
        assert known_place(tmp_path, "x", model, split(4)).parent == tmp_path
    assert not list(tmp_path.iterdir())


def found(*broken) -> AttackResult:
    """What an attack did to so many images."""
    return AttackResult(
        broken=torch.tensor(broken, dtype=torch.bool),
        images=torch.rand(len(broken), 1, 8, 8),
        forward_passes=1,
        backward_passes=1,
    )


def test_what_one_of_two_evaluations_broke_the_other_does_not_mend(tmp_path):
    one, other = Store(6, tmp_path), Store(6, tmp_path)
    one.put("pgd", torch.tensor([0, 1, 2]), found(0, 0, 1), 1.0)
    other.put("pgd", torch.tensor([0, 2, 3]), found(0, 0, 1), 1.0)  # as many, and the same first
    other.put("pgd", torch.tensor([3, 4]), found(0, 0), 1.0)
    wanted = [SURVIVED, SURVIVED, BROKEN, BROKEN, SURVIVED, UNKNOWN]
    again = Store(6, tmp_path)
    assert again.outcome("pgd", torch.arange(6)).tolist() == wanted
    assert [row for row, _ in again.found("pgd")] == [2, 3]


def test_what_another_evaluation_is_writing_is_left_alone(tmp_path):
    (tmp_path / "pgd").mkdir()
    fresh, old = (tmp_path / "pgd" / f".{name}{PART}" for name in ("fresh", "old"))
    fresh.touch()
    old.touch()
    long_ago = time.time() - 2 * 86400
    os.utime(old, (long_ago, long_ago))
    Store(6, tmp_path)
    assert (fresh.exists(), old.exists()) == (True, False)
