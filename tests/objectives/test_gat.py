"""GAT against its formula; its attack starts half of epsilon away and is guided."""

import pytest
import torch
from by_hand import batch as batch_of
from tiny import images_and_labels, wide_resnet

from equipoise.attacks import PGD, goals
from equipoise.attacks.threat import Linf
from equipoise.objectives import GAT
from equipoise.runtime.errors import InvalidInput


def test_the_loss_is_clean_cross_entropy_plus_ten_squared_distances():
    network = wide_resnet().eval()
    images, labels = images_and_labels(4)
    batch = batch_of(images, (images + 0.1).clamp(0, 1), labels, network)
    p, q = (network(part).softmax(dim=1) for part in (batch.clean, batch.adversarial))
    expected = -p.log()[range(4), labels] + 10 * ((p - q) ** 2).sum(dim=1)
    assert torch.allclose(GAT().losses(batch)["loss"], expected, atol=1e-6)


def test_its_goal_adds_the_distance_from_the_clean_prediction():
    network = wide_resnet().eval()
    images, labels = images_and_labels(4)
    moved = (images + 0.1).clamp(0, 1)
    goal = GAT(weight=3.0).goal(network, images, labels)
    distance = (network(moved).softmax(dim=1) - network(images).softmax(dim=1)).square().sum(dim=1)
    expected = goals.cross_entropy(network, labels)(moved) + 3 * distance
    assert torch.allclose(goal(moved), expected, atol=1e-6)


def test_its_start_is_half_of_epsilon_away_in_every_pixel():
    seen = []

    def goal(images):
        seen.append(images.detach())
        return images.sum(dim=(1, 2, 3))

    clean, generator = torch.full((2, 1, 8, 8), 0.5), torch.Generator().manual_seed(0)
    search = PGD(steps=1, relative_step=1.0, start_noise=GAT().start_noise)
    search(goal, clean, Linf(torch.tensor([0.1, 0.2])), generator)
    moved = (seen[0] - clean).flatten(1)
    assert torch.allclose(moved.abs(), torch.tensor([[0.05], [0.1]]).expand(2, 64))
    assert 0.3 < float((moved > 0).float().mean()) < 0.7


def test_the_weight_rises_at_its_share_of_the_training():
    rising = GAT(weight=5.0, raise_at=0.5, raise_by=2.0)
    assert [rising.at(share).weight for share in (0.0, 0.49, 0.5, 1.0)] == [5.0, 5.0, 10.0, 10.0]
    assert GAT().at(0.9) == GAT()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight and raise_by must be 0 or more, got -1.0"),
        ({"raise_at": 1.0}, r"raise_at must be a share of the training in \(0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        GAT(**settings)
