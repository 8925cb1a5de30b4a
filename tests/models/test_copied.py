"""Copies of networks that copy.deepcopy alone refuses."""

import threading

import pytest
import torch
from torch import nn

from equipoise.models import fuse_branches, with_branches
from equipoise.models.copied import copied


@pytest.fixture
def normed():
    with pytest.warns(FutureWarning, match="weight_norm"):
        conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))


def test_a_network_with_old_weight_norm_is_copied_and_the_copy_still_trains(normed, images):
    twin = copied(normed)
    with torch.no_grad():
        twin[0].weight_g.mul_(2)
    assert not torch.equal(twin.eval()(images), normed.eval()(images))
    twin(images).sum().backward()
    assert twin[0].weight_v.grad is not None
    assert normed[0].weight_v.grad is None


def test_its_branches_can_be_fused(normed, images):
    branched = with_branches(normed, 2)
    expected = branched.eval()(images, branch=1)
    fused = fuse_branches(branched, placement="input").eval()
    torch.testing.assert_close(fused(images, weight=0.0), expected)


def test_what_cannot_be_copied_is_refused():
    network = nn.Flatten()
    network.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Flatten cannot be copied .*lock.*module:function"):
        copied(network)
