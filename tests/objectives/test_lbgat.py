import numpy as np
import pytest
import torch
from by_hand import ADVERSARIAL, CLEAN, LABELS, Answers, agree, batch, cross_entropy, divergence
from tiny import ATTACK, SCHEDULE, fit_stage, images_and_labels, weights, wide_resnet
from torch import nn

from equipoise.attacks import losses
from equipoise.methods import AFA, AFS, SingleNetwork, TrainingAttack
from equipoise.models import ResNet
from equipoise.objectives import LBGAT

GUIDE = np.array([[0.5, 0.1, 1.0, 0.0], [2.0, 0.3, 0.0, 0.2], [0, 1.0, 0, 0.5], [1.0, 0, 0, 3.0]])


def make_two() -> nn.Module:
    """A fresh network for two classes."""
    return wide_resnet(2, seed=int(torch.randint(1000, ())))


def make_task(**settings):
    method = SingleNetwork(
        objective=LBGAT(**settings), epsilon=0.1, attack=ATTACK, schedule=SCHEDULE
    )
    (stage,) = method.stages(make_two)
    return stage, stage.build({})


def step(task) -> dict[str, torch.Tensor]:
    images, labels = images_and_labels()
    return task(images, labels % 2, torch.Generator().manual_seed(0), 0.0)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_loss_and_gradients_match_the_formula(beta):
    arrays = [CLEAN.copy(), ADVERSARIAL.copy(), GUIDE.copy()]
    clean, adversarial, guide = arrays
    networks = [Answers(array) for array in arrays]
    objective = LBGAT(beta=beta).with_companion(networks[2])
    images = torch.zeros(4, 1, 2, 2)
    loss = objective.losses(batch(images, images, torch.tensor(LABELS), networks[0], networks[1]))[
        "loss"
    ]

    def by_hand():
        distance = ((adversarial - guide) ** 2).mean(axis=1)
        return cross_entropy(guide, LABELS) + distance + beta * divergence(clean, adversarial)

    logits = [network.logits for network in networks]
    first = 0 if beta else 1  # without a divergence, clean logits have no gradient at all
    agree(loss, logits[first:], by_hand, arrays[first:])


def test_the_authors_teacher_is_a_resnet_18_for_the_networks_images_and_classes():
    teacher = LBGAT(teacher="resnet18").make_companion(make_two)
    assert isinstance(teacher, ResNet)
    expected = {"kind": "resnet", "depth": 18, "classes": 2, "channels": 1}
    assert expected.items() <= teacher.config.items()
    assert teacher(images_and_labels()[0]).shape == (8, 2)


def test_a_resnet_18_beside_a_network_without_a_convolution_is_refused():
    with pytest.raises(ValueError, match=r'cannot teach Linear.*Set teacher="same"'):
        LBGAT(teacher="resnet18").make_companion(lambda: nn.Linear(4, 10))


def test_the_gradient_reaches_network_and_teacher():
    _, task = make_task()
    task.train()
    step(task)["loss"].backward()
    for part in (task.network, task.companion):
        assert all(bool(p.grad.any()) for p in part.parameters() if p.ndim > 1)


def test_the_distance_also_trains_the_teacher():
    """The teacher's logits are not detached."""
    teacher, network = Answers(GUIDE), Answers(ADVERSARIAL)
    images = torch.zeros(4, 1, 2, 2)
    objective = LBGAT().with_companion(teacher)
    terms = objective.losses(batch(images, images, torch.tensor(LABELS), network))
    (gradient,) = torch.autograd.grad(terms["loss_distance"].sum(), teacher.logits)
    expected = torch.tensor(GUIDE - ADVERSARIAL) * 2 / 4
    torch.testing.assert_close(gradient, expected)


def test_the_teacher_is_trained_and_checkpointed_but_not_part_of_the_outcome(tmp_path):
    stage, task = make_task()
    before = weights(task)
    fit_stage(stage, task, tmp_path)
    after = weights(task)
    for part in ("network.", "companion."):
        moved = [name for name in before if name.startswith(part) and name.endswith("weight")]
        assert any(not torch.equal(before[name], after[name]) for name in moved)
    assert set(task.outcome().state_dict()) == set(wide_resnet(2).state_dict())
    assert task.predictor(0.1) is task.outcome()
    again = stage.build({})
    fit_stage(stage, again, tmp_path)  # resumes from the checkpoint, teacher included
    assert torch.equal(weights(again)["companion.conv.weight"], after["companion.conv.weight"])


def test_the_teacher_stays_in_training_mode_while_the_network_is_attacked():
    _, task = make_task()
    task.train()
    modes = []
    task.network.conv.register_forward_hook(
        lambda *_: modes.append((task.network.training, task.companion.training))
    )
    step(task)
    assert (False, True) in modes
    assert (True, True) in modes
    assert all(teacher for _, teacher in modes)


def test_with_beta_zero_clean_images_still_update_the_networks_statistics():
    _, task = make_task(beta=0.0)
    task.train()
    step(task)
    assert int(task.network.norm.num_batches_tracked) == 2
    assert int(task.companion.norm.num_batches_tracked) == 1


def test_its_attack_maximises_the_divergence_even_with_beta_zero(generator):
    clean = torch.rand(3, 1, 2, 2, generator=generator)
    other = torch.rand(3, 1, 2, 2, generator=generator)
    objective = LBGAT().with_companion(nn.Flatten())
    goal = objective.goal(lambda images: images.flatten(1), clean, torch.tensor([0, 1, 2]))
    expected = losses.kl_divergence(other.flatten(1), clean.flatten(1))
    assert torch.equal(goal(other), expected)
    assert objective.start_noise == 0.001


def test_the_networks_initial_weights_do_not_depend_on_the_teacher():
    """The network is made first."""
    networks = []

    def make():
        networks.append(wide_resnet(2, seed=len(networks)))
        return networks[-1]

    method = SingleNetwork(objective=LBGAT(), epsilon=0.1, attack=ATTACK, schedule=SCHEDULE)
    task = method.stages(make)[0].build({})
    assert task.network is networks[0]
    assert task.companion is networks[1]


def test_afs_trains_each_extractor_with_its_own_teacher():
    method = AFS(
        objective=LBGAT(),
        budgets=(0.05, 0.1),
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=SCHEDULE,
    )
    stages = method.stages(make_two)
    tasks = [stage.build({}).train() for stage in stages[:2]]
    assert all(bool(step(extractor)["loss"].isfinite()) for extractor in tasks)
    assert tasks[0].companion is not tasks[1].companion
    stack = stages[2].build({s.name: t.outcome() for s, t in zip(stages, tasks, strict=False)})
    assert stack.outcome().sizes() == [64, 64]


def test_afa_refuses_it():
    with pytest.raises(ValueError, match="AFA cannot train LBGAT, which trains a companion"):
        AFA(
            objective=LBGAT(),
            strengths=(0.0, 0.1),
            attack=TrainingAttack(steps=1),
            schedule=SCHEDULE,
            gate_schedule=SCHEDULE,
        )


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match="beta must be 0 or more, got -1"):
        LBGAT(beta=-1.0)
