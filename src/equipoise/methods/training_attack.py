"""The attack inside a training step."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.attacks.goals import Goal
from equipoise.methods.stage import THREATS, Norm, TrainingAttack
from equipoise.models.attack_mode.context import attack_mode
from equipoise.types import Images


def attacked(
    module: nn.Module,
    goal: Goal,
    clean: Images,
    epsilon: float | Float[Tensor, " batch"],
    attack: TrainingAttack,
    norm: Norm,
    generator: torch.Generator,
    *,
    start_noise: float | None = None,
    progress: float = 1.0,
) -> Images:
    """Attack a batch for one training step.

    Args:
        module: Whatever the goal calls; put into the attack's mode and restored.
        goal: What to climb.
        clean: Images in [0, 1].
        epsilon: One strength, or one an image: strengths of several branches are one batch.
        attack: How to search.
        norm: Geometry of the threat.
        generator: The only source of randomness.
        start_noise: What the objective says of the attack's start: the deviation of Gaussian noise
            around the clean images, or ``None``, and the attack's own settings hold.
        progress: Share of the stage's steps already done, for an attack that warms up; with 1 it
            has its full strength.

    Returns:
        Adversarial images, detached.
    """
    search = attack.search(start_noise)
    if progress < attack.warm_up:
        epsilon = epsilon * (progress / attack.warm_up)
    with attack_mode(module, attack.mode, fold=True):
        return search(goal, clean, THREATS[norm](epsilon), generator)
