import pytest
import torch
from tiny import images_and_labels, same, weights, wide_resnet

from equipoise.attacks import PGD, goals
from equipoise.attacks.threat import L2, THREATS, Linf
from equipoise.methods import TrainingAttack
from equipoise.objectives import MART, TRADES

EPSILON = torch.tensor([0.0, 0.02, 0.05, 0.1] * 2)


def attack(
    module, epsilon=EPSILON, norm="Linf", seed=0, start_noise=None, progress=1.0, **settings
):
    """Attack noise through a module; the clean and the adversarial images."""
    images, labels = images_and_labels()
    goal = goals.cross_entropy(module, labels)
    settings = TrainingAttack(**({"steps": 3, "relative_step": 0.5} | settings))
    generator = torch.Generator().manual_seed(seed)
    strength = settings.strength(epsilon, progress)
    with settings.against(module, start_noise) as search:
        return images, search(goal, images, THREATS[norm](strength), generator)


def test_each_image_stays_within_its_own_epsilon_and_reaches_it():
    clean, adversarial = attack(wide_resnet())
    distance = (adversarial - clean).abs().amax(dim=(1, 2, 3))
    assert bool((distance <= EPSILON + 1e-6).all())
    assert torch.allclose(distance, EPSILON, atol=1e-6)
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1


def test_the_perturbation_is_measured_in_the_norm():
    clean, adversarial = attack(wide_resnet(), epsilon=0.5, norm="L2")
    lengths = (adversarial - clean).flatten(1).norm(dim=1)
    assert bool((lengths <= 0.5 + 1e-5).all())
    assert float(lengths.max()) > 0.3


def test_the_network_is_attacked_in_eval_mode_and_left_unchanged():
    network = wide_resnet().train()
    network.norm.eval()  # a frozen norm must not wake
    before, modes = weights(network), [m.training for m in network.modules()]
    seen = []
    network.conv.register_forward_hook(lambda *_: seen.append(network.training))
    attack(network)
    assert seen
    assert not any(seen)
    assert same(weights(network), before)
    assert [m.training for m in network.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_an_attack_in_training_mode_does_not_change_the_statistics():
    network = wide_resnet().eval()
    before, seen = weights(network), []
    network.conv.register_forward_hook(lambda *_: seen.append(network.training))
    attack(network, mode="train")
    assert seen
    assert all(seen)
    assert same(weights(network), before)
    assert not network.training


def test_the_generator_is_the_only_source_of_randomness():
    network = wide_resnet()
    first, again, other = (attack(network, seed=seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_random_start_there_is_no_randomness():
    network = wide_resnet()
    first, other = (attack(network, seed=seed, random_start=False)[1] for seed in (1, 2))
    assert torch.equal(first, other)


@pytest.mark.parametrize(
    ("warm_up", "progress", "share"),
    [
        (0.5, 0.0, 0.0),
        (0.5, 0.1, 0.2),
        (0.5, 0.25, 0.5),
        (0.5, 0.5, 1.0),
        (0.5, 0.9, 1.0),
        (1.0, 0.75, 0.75),
        (0.0, 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("epsilon", [EPSILON, 0.1])
def test_epsilon_rises_linearly_from_zero_during_the_warm_up(warm_up, progress, share, epsilon):
    clean, adversarial = attack(wide_resnet(), epsilon, warm_up=warm_up, progress=progress)
    distance = (adversarial - clean).abs().amax(dim=(1, 2, 3))
    expected = torch.as_tensor(epsilon).expand(8) * share
    torch.testing.assert_close(distance, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_warm_up_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=r"warm_up must be a share of the steps in \[0, 1\], got"):
        TrainingAttack(warm_up=share)


def first_point(seed=0, **settings):
    """The clean images and the point at which a search starts."""
    seen = []
    network = wide_resnet()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    clean, _ = attack(network, 0.1, seed=seed, steps=1, **settings)
    return clean, seen[0]


@pytest.mark.parametrize("random_start", [True, False])
def test_the_objectives_start_overrides_the_attacks(random_start):
    clean, first = first_point(start_noise=0.001, random_start=random_start)
    inside = (clean > 0.01) & (clean < 0.99)
    moved = (first - clean)[inside]
    assert moved.std().item() == pytest.approx(0.001, rel=0.15)
    assert abs(moved.mean().item()) < 0.0002
    assert moved.unique().numel() > 0.9 * moved.numel() ** 0.5


def test_without_a_start_from_the_objective_the_attacks_own_is_used():
    clean, first = first_point()
    assert float((first - clean).abs().max()) > 0.05
    clean, first = first_point(random_start=False)
    assert torch.equal(first, clean)


@pytest.mark.parametrize("threat", [Linf(0.0005), L2(0.001), Linf(torch.tensor([0.0, 0.1]))])
def test_noise_is_projected_onto_the_threat(threat, generator):
    seen = []
    clean = torch.rand(2, 1, 4, 4, generator=generator)
    goal = lambda images: seen.append(images.detach().clone()) or images.sum((1, 2, 3))  # noqa: E731
    PGD(steps=1, relative_step=1.0, start_noise=0.01)(goal, clean, threat, generator)
    torch.testing.assert_close(seen[0], threat.project(seen[0], clean))
    assert bool((seen[0] - clean).any())


def test_each_restart_draws_new_noise(generator):
    seen = []
    clean = torch.rand(2, 1, 4, 4, generator=generator)
    goal = lambda images: seen.append(images.detach().clone()) or images.sum((1, 2, 3))  # noqa: E731
    attack = PGD(steps=1, relative_step=1.0, random_start=False, start_noise=0.01, restarts=2)
    attack(goal, clean, Linf(0.1), generator)
    assert not torch.equal(seen[0], seen[2])  # each restart evaluates its start and its end


@pytest.mark.parametrize("noise", [0.0, -0.1, float("nan")])
def test_start_noise_that_is_not_positive_is_refused(noise):
    with pytest.raises(ValueError, match=r"start_noise must be above 0, got .* random_start=False"):
        PGD(steps=1, step_size=0.1, start_noise=noise)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps and restarts must be whole numbers of 1 or more"),
        ({"step_size": 2 / 255}, "exactly one of step_size"),
        ({"relative_step": -1.0}, "above 0"),
        ({"warm_up": 2.0}, "warm_up must be a share"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_training(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainingAttack(**settings)


def test_attacks_on_a_divergence_start_at_noise_as_in_the_authors_code():
    """At the clean image itself the divergence is flat, so that such an attack would not move."""
    assert TRADES().start_noise == MART().start_noise == 0.001
