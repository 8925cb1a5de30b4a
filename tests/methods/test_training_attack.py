import torch

from equipoise import goals
from equipoise.methods.stage import TrainingAttack
from equipoise.methods.training_attack import attacked
from tiny import images_and_labels, same, weights, wide_resnet

EPSILON = torch.tensor([0.0, 0.02, 0.05, 0.1] * 2)


def attack(module, epsilon=EPSILON, norm="Linf", seed=0, **settings):
    images, labels = images_and_labels()
    goal = goals.cross_entropy(module, labels)
    search = TrainingAttack(**({"steps": 3, "relative_step": 0.5} | settings))
    generator = torch.Generator().manual_seed(seed)
    return images, attacked(module, goal, images, epsilon, search, norm, generator)


def test_each_image_stays_within_its_own_epsilon_and_reaches_it():
    clean, found = attack(wide_resnet())
    distance = (found - clean).abs().amax(dim=(1, 2, 3))
    assert bool((distance <= EPSILON + 1e-6).all())
    assert torch.allclose(distance, EPSILON, atol=1e-6)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_the_geometry_is_the_norms():
    clean, found = attack(wide_resnet(), epsilon=0.5, norm="L2")
    lengths = (found - clean).flatten(1).norm(dim=1)
    assert bool((lengths <= 0.5 + 1e-5).all())
    assert float(lengths.max()) > 0.3


def test_the_network_is_attacked_in_eval_mode_and_comes_back_untouched():
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


def test_the_mode_under_attack_is_a_setting_and_statistics_never_move():
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
