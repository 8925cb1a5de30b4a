import torch
from torch import nn

from equipoise.evaluation.store import fingerprint, images_hash, unit_key, weights_hash
from equipoise.models import conditioned
from equipoise.models.foreign import LogitsOf
from tiny import linear, split, wide_resnet

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


def test_labels_are_part_of_the_images_hash():
    data = split(4)
    other = type(data)(images=data.images, labels=(data.labels + 1) % 10, classes=10)
    assert images_hash(data) != images_hash(other)


def test_one_network_taken_in_two_ways_is_two_models():
    data = split(4)
    assert fingerprint(LogitsOf(linear(), "0"), data) != fingerprint(LogitsOf(linear(), "1"), data)
    network = conditioned(wide_resnet(), preferences=(0.0, 1.0), size=4)
    assert fingerprint(network.at(0.0), data) != fingerprint(network.at(1.0), data)
