"""What every objective promises. A new objective is one line below."""

import pytest
import torch
from torch import nn

from equipoise.objectives import PGDAT, Standard

OBJECTIVES = [
    Standard(),
    Standard(label_smoothing=0.1),
    PGDAT(),
    PGDAT(label_smoothing=0.1),
]

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
batches_and_classes = pytest.mark.parametrize(
    ("batch", "classes"), [(4, 10), (1, 10), (5, 2), (3, 7)]
)


@pytest.fixture
def setup(generator):
    def make(batch=4, classes=10):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
        )
        clean = torch.rand(batch, 3, 8, 8, generator=generator)
        noise = 0.05 * torch.randn(clean.shape, generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)
        return network, clean, (clean + noise).clamp(0, 1), labels

    return make


@every_objective
@batches_and_classes
def test_losses_are_one_finite_number_an_image(objective, batch, classes, setup, generator):
    network, clean, adversarial, labels = setup(batch, classes)
    terms = objective.losses(network, network, clean, adversarial, labels, generator)
    assert "loss" in terms
    for value in terms.values():
        assert value.shape == (batch,)
        assert value.isfinite().all()


@every_objective
@batches_and_classes
def test_gradient_reaches_every_parameter(objective, batch, classes, setup, generator):
    network, clean, adversarial, labels = setup(batch, classes)
    terms = objective.losses(network, network, clean, adversarial, labels, generator)
    terms["loss"].mean().backward()
    for parameter in network.parameters():
        assert parameter.grad.abs().max() > 0


@every_objective
def test_a_step_downhill_lowers_the_loss(objective, setup, generator):
    network, clean, adversarial, labels = setup()

    def loss():
        terms = objective.losses(network, network, clean, adversarial, labels, generator)
        return terms["loss"].mean()

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.01 * parameter.grad
    assert loss() < before


@every_objective
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_saturated_logits_are_no_nan(objective, size, setup, generator):
    network, clean, adversarial, labels = setup()
    clean, adversarial = clean.requires_grad_(True), adversarial.requires_grad_(True)

    def predict(images):
        return size * network(images)

    loss = objective.losses(predict, predict, clean, adversarial, labels, generator)["loss"]
    (loss / size).sum().backward()
    assert loss.isfinite().all()
    for tensor in (*network.parameters(), clean, adversarial):
        assert tensor.grad is None or tensor.grad.isfinite().all()


@every_objective
@batches_and_classes
def test_its_goal_is_one_number_an_image_that_depends_on_it_alone(objective, batch, classes, setup):
    network, clean, adversarial, labels = setup(batch, classes)
    adversarial.requires_grad_(True)
    value = objective.goal(network, clean, labels)(adversarial)
    (gradient,) = torch.autograd.grad(value[-1], adversarial)
    assert value.shape == (batch,)
    assert value.isfinite().all()
    assert gradient[-1].abs().max() > 0
    assert (gradient[:-1] == 0).all()


@every_objective
def test_same_generator_gives_the_same_losses(objective, setup):
    network, clean, adversarial, labels = setup()
    first, second = (
        objective.losses(
            network, network, clean, adversarial, labels, torch.Generator().manual_seed(7)
        )
        for _ in range(2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_objective
def test_without_an_attack_only_clean_images_count(objective, setup, generator):
    network, clean, adversarial, labels = setup()
    other = objective.losses(network, network, clean, adversarial, labels, generator)["loss"]
    same = objective.losses(network, network, clean, clean, labels, generator)["loss"]
    assert torch.equal(other, same) == (not objective.attacks)


@every_objective
def test_clean_and_adversarial_images_go_through_their_own_function(objective, setup, generator):
    network, clean, adversarial, labels = setup()
    seen = []

    def predict_clean(images):
        seen.append(("clean", images))
        return network(images)

    def predict_adversarial(images):
        seen.append(("adversarial", images))
        return network(images)

    objective.losses(predict_clean, predict_adversarial, clean, adversarial, labels, generator)
    assert seen
    for name, images in seen:
        assert torch.equal(images, clean if name == "clean" else adversarial)
    assert objective.attacks == ("adversarial" in dict(seen))


@every_objective
def test_two_with_the_same_settings_are_equal_and_frozen(objective):
    assert objective == type(objective)(**vars(objective))
    with pytest.raises(AttributeError, match="cannot assign"):
        objective.label_smoothing = 0.5
