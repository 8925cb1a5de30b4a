"""LBGAT: a teacher trained on clean images together with the network guides its boundary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.models.backbones.resnet import ResNet
from equipoise.models.last_linear import as_linear, find_last_linear
from equipoise.objectives.base import Batch, Objective
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict

Teacher = Literal["same", "resnet18"]
"""Architecture of LBGAT's teacher."""


@dataclass(frozen=True, kw_only=True)
class LBGAT:
    """Pull the network's logits at adversarial images to a teacher's logits at the clean ones.

    The teacher is trained at the same time, by the cross-entropy of clean images and by the
    gradient of the distance, which is not detached. The network itself has no cross-entropy. This
    class holds the settings; ``with_companion`` gives the objective.

    Args:
        beta: Weight of TRADES' divergence, 0 or more. With 0, the attack still maximises it and the
            network still predicts clean images, as in the authors' code.
        teacher: ``"same"``, a network of the same architecture, or ``"resnet18"``, the authors'.

    Raises:
        ValueError: If beta is negative or the teacher unknown; from ``make_companion``, if a
            ResNet-18 is asked beside a network without a convolution and a linear layer, from
            which its channels and classes are read.

    Source:
        Cui et al. 2021 and ``lbgat.py`` of their code. Deviations: by default the teacher has the
        network's architecture, where theirs is a ResNet-18; the divergence is computed in log
        space; the attack's start is projected onto the threat.

    Example:
        >>> from equipoise.objectives import Objective
        >>> teacher = LBGAT().make_companion(lambda: nn.Linear(4, 10))
        >>> isinstance(LBGAT().with_companion(teacher), Objective)
        True
    """

    beta: float = 0.0
    teacher: Teacher = "same"

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InvalidInput(f"beta must be 0 or more, got {self.beta}.")
        if self.teacher not in get_args(Teacher):
            raise InvalidInput(f"teacher must be same or resnet18, got {self.teacher!r}.")

    def make_companion(self, make_network: Callable[[], nn.Module]) -> nn.Module:
        """Make the teacher, with fresh weights."""
        like = make_network()
        if self.teacher == "same":
            return like
        channels = [m.in_channels for m in like.modules() if isinstance(m, nn.Conv2d)]
        if not channels:
            raise InvalidInput(
                f"a ResNet-18 cannot teach {type(like).__name__}, which has no nn.Conv2d to read "
                'the number of channels from. Set teacher="same".'
            )
        classes = as_linear(find_last_linear(like)).out_features
        return ResNet(depth=18, classes=classes, channels=channels[0])

    def with_companion(self, companion: nn.Module) -> Objective:
        """Return the objective that is guided by this teacher."""
        return GuidedObjective(teacher=companion, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class GuidedObjective:
    """LBGAT with its teacher.

    Args:
        teacher: Trained with the network; called with clean images, in the mode that it is in.
        beta: Weight of TRADES' divergence.

    Source:
        Cui et al. 2021; see ``LBGAT``.
    """

    teacher: nn.Module
    beta: float = 0.0

    attacks = True
    start_noise = 0.001  # as in TRADES
    per_image_loss = True

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the KL divergence from the network's own prediction at the clean images."""
        return goals.kl_divergence(predict, clean)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the teacher's cross-entropy, the logits' distance and beta times the divergence.

        The distance is the mean squared difference over classes.
        """
        adversarial_logits = batch.predict_adversarial(batch.adversarial)
        clean_logits = batch.predict_clean(batch.clean)
        teacher_logits = self.teacher(batch.clean)
        teacher = losses.cross_entropy(teacher_logits, batch.labels)
        student, guide = map(losses.at_least_float32, (adversarial_logits, teacher_logits))
        distance = (student - guide).square().mean(dim=1)
        loss = teacher + distance
        if self.beta:
            loss = loss + self.beta * losses.kl_divergence(adversarial_logits, clean_logits)
        return {"loss": loss, "loss_teacher": teacher, "loss_distance": distance}
