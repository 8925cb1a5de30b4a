import pytest
import torch

from equipoise import losses
from equipoise.methods import SingleNetwork, adversarial_training
from equipoise.methods.adversarial_training import NetworkTask
from equipoise.objectives import PGDAT, Standard
from tiny import ATTACK, SCHEDULE, images_and_labels, linear, wide_resnet


@pytest.fixture
def attacks(monkeypatch):
    """Every attack that a step runs, as (epsilon, images); each turns the images black."""
    seen = []

    def spy(module, goal, clean, epsilon, attack, norm, generator):
        seen.append((epsilon, clean))
        return torch.zeros_like(clean)

    monkeypatch.setattr(adversarial_training, "attacked", spy)
    return seen


def step(task: NetworkTask) -> dict[str, torch.Tensor]:
    images, labels = images_and_labels()
    return task(images, labels, torch.Generator().manual_seed(0), 0.0)


def mean_loss(network, black=False) -> torch.Tensor:
    images, labels = images_and_labels()
    images = torch.zeros_like(images) if black else images
    return losses.cross_entropy(network(images), labels).mean()


def test_a_single_network_is_one_stage_validated_at_its_own_strength():
    method = SingleNetwork(objective=PGDAT(), epsilon=0.1, schedule=SCHEDULE)
    (stage,) = method.stages(wide_resnet)
    assert (stage.name, stage.validation, stage.needs) == ("network", (0.1,), ())
    task = stage.build({})
    assert isinstance(task.outcome(), type(wide_resnet()))
    assert task.predictor(0.1) is task.outcome()


def test_pgd_at_trains_on_the_attacked_images(attacks):
    network = linear()
    terms = step(NetworkTask(network, PGDAT(), 0.1, ATTACK, "Linf"))
    assert [epsilon for epsilon, _ in attacks] == [0.1]
    assert torch.equal(terms["loss"], mean_loss(network, black=True))


def test_standard_training_runs_no_attack_and_trains_on_clean_images(attacks):
    network = linear()
    terms = step(NetworkTask(network, Standard(), 0.1, ATTACK, "Linf"))
    assert attacks == []
    assert torch.equal(terms["loss"], mean_loss(network))


def test_at_strength_zero_no_attack_is_run(attacks):
    network = linear()
    terms = step(NetworkTask(network, PGDAT(), 0.0, ATTACK, "Linf"))
    assert attacks == []
    assert torch.equal(terms["loss"], mean_loss(network))


def test_the_attack_raises_the_loss():
    network = wide_resnet().eval()
    clean = mean_loss(network).item()
    attacked = step(NetworkTask(network, PGDAT(), 0.1, ATTACK, "Linf"))["loss"].item()
    assert attacked > clean
