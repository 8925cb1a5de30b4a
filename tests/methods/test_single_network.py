from dataclasses import replace

import pytest
import torch
from tiny import ATTACK, SCHEDULE, images_and_labels, linear, replace_attacks, wide_resnet

from equipoise.attacks import losses
from equipoise.methods import SingleNetwork
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT, TRADES, Standard


@pytest.fixture
def attacks(monkeypatch):
    """Record every attack of a step as (epsilon, images); each turns the images black."""
    seen = []

    def spy(search, clean, epsilon, **call):
        seen.append((epsilon, clean))
        return torch.zeros_like(clean)

    replace_attacks(monkeypatch, spy)
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


@pytest.mark.parametrize("objective", [PGDAT, Standard])
def test_the_loss_has_the_objectives_label_smoothing(attacks, objective):
    network, (images, labels) = linear(), images_and_labels()
    terms = step(NetworkTask(network, objective(label_smoothing=0.3), 0.1, ATTACK, "Linf"))
    seen = torch.zeros_like(images) if objective is PGDAT else images
    assert torch.equal(terms["loss"], losses.cross_entropy(network(seen), labels, 0.3).mean())


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


def test_the_attack_uses_the_objectives_start_and_the_warm_up(monkeypatch):
    seen = []

    def spy(search, clean, epsilon, start_noise, **call):
        seen.append((epsilon, start_noise))
        return clean

    replace_attacks(monkeypatch, spy)
    images, labels = images_and_labels()
    for objective in (PGDAT(), TRADES()):
        task = NetworkTask(linear(), objective, 0.1, replace(ATTACK, warm_up=0.5), "Linf")
        task(images, labels, torch.Generator(), 0.25)
    assert seen == [(0.05, None), (0.05, 0.001)]


BUDGETS = (0.0, 0.05, 0.1)


def drawn(attacks, seed=0, count=8, budgets=BUDGETS) -> torch.Tensor:
    """The strengths of one step's images."""
    task = NetworkTask(linear(), PGDAT(), 0.3, ATTACK, "Linf", random_budgets=budgets)
    images, labels = images_and_labels(count)
    task(images, labels, torch.Generator().manual_seed(seed), 0.0)
    return attacks[-1][0]


def test_random_budgets_are_drawn_uniformly_for_each_image_at_each_step(attacks):
    strengths = torch.stack([drawn(attacks, seed, count=60) for seed in range(20)])
    assert strengths.shape == (20, 60)
    for budget in BUDGETS:
        share = torch.isclose(strengths, torch.tensor(budget)).float().mean()
        assert share.item() == pytest.approx(1 / 3, abs=0.05)
    assert not torch.equal(strengths[0], strengths[1])
    assert torch.equal(drawn(attacks, seed=3), drawn(attacks, seed=3))


def test_each_image_is_attacked_at_the_strength_that_was_drawn_for_it():
    images, labels = images_and_labels()
    network = linear()
    task = NetworkTask(network, PGDAT(), 0.3, ATTACK, "Linf", random_budgets=BUDGETS)
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    task(images, labels, torch.Generator().manual_seed(0), 0.0)
    distance = (seen[-1] - images).abs().amax(dim=(1, 2, 3))
    nearest = (distance[:, None] - torch.tensor(BUDGETS)).abs().amin(dim=1)
    torch.testing.assert_close(nearest, torch.zeros(8), rtol=0, atol=1e-6)
    assert len(distance.round(decimals=3).unique()) == 3


def test_validation_uses_epsilon_whatever_the_random_budgets(attacks):
    method = SingleNetwork(
        objective=PGDAT(), epsilon=0.3, random_budgets=BUDGETS, attack=ATTACK, schedule=SCHEDULE
    )
    (stage,) = method.stages(linear)
    assert stage.validation == (0.3,)
    step(stage.build({}))
    assert isinstance(attacks[0][0], torch.Tensor)


def test_random_budgets_of_an_objective_without_an_attack_are_refused():
    with pytest.raises(ValueError, match="random_budgets need an objective with an attack, got"):
        SingleNetwork(objective=Standard(), epsilon=0.0, random_budgets=BUDGETS, schedule=SCHEDULE)
