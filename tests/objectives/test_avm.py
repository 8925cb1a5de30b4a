import numpy as np
import pytest
import torch
from by_hand import Answers, agree, batch, log_softmax

from equipoise.objectives import AVM
from equipoise.objectives.avm import smoothed_targets


class Recorded(Answers):
    def forward(self, images):
        self.seen = images
        return self.logits


def test_with_ten_classes_the_target_at_the_vertex_is_uniform():
    targets = smoothed_targets(torch.arange(10), 10, share=AVM().vertex_share)
    torch.testing.assert_close(targets, torch.full((10, 10), 0.1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("classes", [2, 10, 37])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_targets_are_distributions_that_give_the_label_its_share(classes, share):
    labels = torch.arange(classes)
    targets = smoothed_targets(labels, classes, share)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(classes))
    torch.testing.assert_close(targets[labels, labels], torch.full((classes,), share))


def run(classes: int, seed: int = 0, **settings):
    """Compute the losses of images at 0.5, perturbed so little that the vertex is in the box."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, classes, generator=generator).double().numpy()
    network = Recorded(logits)
    clean = torch.full((6, 1, 2, 2), 0.5, dtype=torch.float64)
    adversarial = clean + 0.1
    labels = torch.arange(6) % classes
    objective = AVM(**settings)
    terms = objective.losses(batch(clean, adversarial, labels, network, seed=seed))
    return objective, terms, network, logits, labels


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("settings", [{}, {"clean_share": 0.5, "vertex_share": 0.7}])
def test_loss_and_gradient_match_the_formula(classes, settings):
    objective, terms, network, logits, labels = run(classes, **settings)
    far = (network.seen[:, 0, 0, 0].numpy() - 0.5) / (0.1 * objective.stretch)
    hot = np.eye(classes)[labels.numpy()]

    def targets(share):
        return share * hot + (1 - share) * (1 - hot) / (classes - 1)

    def by_hand():
        expected = (1 - far[:, None]) * targets(objective.clean_share)
        expected = expected + far[:, None] * targets(objective.vertex_share)
        return -(expected * log_softmax(logits)).sum(axis=1)

    agree(terms["loss"], [network.logits], by_hand, [logits])


def test_each_image_has_its_own_uniform_weight():
    seen = torch.cat([run(10, seed)[2].seen for seed in range(100)])
    far = (seen - 0.5) / 0.2
    assert torch.allclose(far.amax(dim=(1, 2, 3)), far.amin(dim=(1, 2, 3)), atol=1e-6)
    one_an_image = far[:, 0, 0, 0]
    assert len(one_an_image.unique()) == 600
    assert one_an_image.mean().item() == pytest.approx(0.5, abs=0.05)
    assert one_an_image.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert 0 <= one_an_image.min() < 0.02 < 0.98 < one_an_image.max() <= 1


def test_the_vertex_stays_inside_the_pixel_box():
    network = Recorded(np.zeros((1, 10)))
    clean, adversarial = torch.full((1, 1, 2, 2), 0.9), torch.full((1, 1, 2, 2), 1.0)
    for seed in range(20):
        AVM().losses(batch(clean, adversarial, torch.tensor([0]), network, seed=seed))
        assert bool((network.seen <= 1.0).all())
        assert bool((network.seen >= 0.9).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clean_share": 1.5}, r"clean_share must be in \[0, 1\], got 1.5"),
        ({"vertex_share": -0.1}, r"vertex_share must be in \[0, 1\], got -0.1"),
        ({"stretch": 0.0}, "stretch must be above 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AVM(**settings)
