import numpy as np
import pytest
import torch
from by_hand import ADVERSARIAL, CLEAN, LABELS, Answers, agree, batch, cross_entropy, divergence
from tiny import ATTACK, SCHEDULE, fit_stage, images_and_labels, weights, wide_resnet
from torch import nn

from equipoise.attacks import losses
from equipoise.methods import AFA, AFS, SingleNetwork, TrainingAttack
from equipoise.objectives import LBGAT

GUIDE = np.array([[0.5, 0.1, 1.0, 0.0], [2.0, 0.3, 0.0, 0.2], [0, 1.0, 0, 0.5], [1.0, 0, 0, 3.0]])


def make_two() -> nn.Module:
    """A network for two classes, each call another one."""
    return wide_resnet(2, seed=int(torch.randint(1000, ())))


def task(**settings):
    method = SingleNetwork(
        objective=LBGAT(**settings), epsilon=0.1, attack=ATTACK, schedule=SCHEDULE
    )
    (stage,) = method.stages(make_two)
    return stage, stage.build({})


def step(of) -> dict[str, torch.Tensor]:
    images, labels = images_and_labels()
    return of(images, labels % 2, torch.Generator().manual_seed(0), 0.0)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_loss_and_gradients_are_those_of_the_formula(beta):
    arrays = [CLEAN.copy(), ADVERSARIAL.copy(), GUIDE.copy()]
    clean, adversarial, guide = arrays
    networks = [Answers(each) for each in arrays]
    objective = LBGAT(beta=beta).with_companion(networks[2])
    images = torch.zeros(4, 1, 2, 2)
    loss = objective.losses(batch(images, images, torch.tensor(LABELS), networks[0], networks[1]))[
        "loss"
    ]

    def by_hand():
        distance = ((adversarial - guide) ** 2).mean(axis=1)
        return cross_entropy(guide, LABELS) + distance + beta * divergence(clean, adversarial)

    logits = [each.logits for each in networks]
    first = 0 if beta else 1  # without a divergence, clean logits have no gradient at all
    agree(loss, logits[first:], by_hand, arrays[first:])


def test_the_gradient_reaches_network_and_teacher():
    _, found = task()
    found.train()
    step(found)["loss"].backward()
    for part in (found.network, found.companion):
        assert all(bool(p.grad.any()) for p in part.parameters() if p.ndim > 1)


def test_the_distance_moves_the_teacher_too():
    """It is not detached: without cross-entropy the teacher still follows the network."""
    teacher, network = Answers(GUIDE), Answers(ADVERSARIAL)
    images = torch.zeros(4, 1, 2, 2)
    objective = LBGAT().with_companion(teacher)
    terms = objective.losses(batch(images, images, torch.tensor(LABELS), network))
    (gradient,) = torch.autograd.grad(terms["loss_distance"].sum(), teacher.logits)
    wanted = torch.tensor(GUIDE - ADVERSARIAL, dtype=torch.float32) * 2 / 4
    torch.testing.assert_close(gradient, wanted)


def test_the_teacher_is_trained_and_checkpointed_and_left_out_of_the_outcome(tmp_path):
    stage, found = task()
    before = weights(found)
    fit_stage(stage, found, tmp_path)
    after = weights(found)
    for part in ("network.", "companion."):
        moved = [name for name in before if name.startswith(part) and name.endswith("weight")]
        assert any(not torch.equal(before[name], after[name]) for name in moved)
    assert set(found.outcome().state_dict()) == set(wide_resnet(2).state_dict())
    assert found.predictor(0.1) is found.outcome()
    again = stage.build({})
    fit_stage(stage, again, tmp_path)  # goes on from the checkpoint, teacher included
    assert torch.equal(weights(again)["companion.conv.weight"], after["companion.conv.weight"])


def test_the_teacher_stays_in_training_mode_while_the_network_is_attacked():
    _, found = task()
    found.train()
    modes = []
    found.network.conv.register_forward_hook(
        lambda *_: modes.append((found.network.training, found.companion.training))
    )
    step(found)
    assert (False, True) in modes
    assert (True, True) in modes
    assert all(teacher for _, teacher in modes)


def test_with_beta_zero_clean_images_still_move_the_networks_statistics():
    _, found = task(beta=0.0)
    found.train()
    step(found)
    assert int(found.network.norm.num_batches_tracked) == 2
    assert int(found.companion.norm.num_batches_tracked) == 1


def test_its_attack_climbs_the_divergence_even_with_beta_zero(generator):
    clean = torch.rand(3, 1, 2, 2, generator=generator)
    other = torch.rand(3, 1, 2, 2, generator=generator)
    objective = LBGAT().with_companion(nn.Flatten())
    goal = objective.goal(lambda images: images.flatten(1), clean, torch.tensor([0, 1, 2]))
    wanted = losses.kl_divergence(other.flatten(1), clean.flatten(1))
    assert torch.equal(goal(other), wanted)
    assert objective.start_noise == 0.001


def test_the_networks_own_weights_do_not_depend_on_the_teacher():
    """The companion is made second."""
    made = []

    def make():
        made.append(wide_resnet(2, seed=len(made)))
        return made[-1]

    method = SingleNetwork(objective=LBGAT(), epsilon=0.1, attack=ATTACK, schedule=SCHEDULE)
    found = method.stages(make)[0].build({})
    assert found.network is made[0]
    assert found.companion is made[1]


def test_afs_trains_an_extractor_with_a_teacher_of_its_own_each():
    method = AFS(
        objective=LBGAT(),
        budgets=(0.05, 0.1),
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=SCHEDULE,
    )
    stages = method.stages(make_two)
    tasks = [stage.build({}).train() for stage in stages[:2]]
    assert all(bool(step(each)["loss"].isfinite()) for each in tasks)
    assert tasks[0].companion is not tasks[1].companion
    stack = stages[2].build({s.name: t.outcome() for s, t in zip(stages, tasks, strict=False)})
    assert stack.outcome().sizes() == [64, 64]


def test_afa_refuses_it_and_says_why():
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
