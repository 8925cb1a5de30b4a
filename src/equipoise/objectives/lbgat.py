"""LBGAT: a teacher that learns clean images beside the network, and guides its boundary."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.objectives.base import Batch, Objective
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class LBGAT:
    """The network's logits at adversarial images follow a teacher's logits at the clean ones.

    The teacher is trained at the same time, by cross-entropy of clean images and by the gradient of
    the distance, which is not cut off from it. The network itself has no cross-entropy. These are
    settings; the objective is what ``beside`` returns.

    Args:
        beta: Weight of TRADES' divergence, 0 or more. With 0, the attack still climbs it and the
            network still sees clean images, as in the authors' code.

    Raises:
        ValueError: If beta is negative.

    Source:
        Cui et al. 2021 and ``lbgat.py`` of their code. Deviations: the teacher is a network like
        the one it guides, where theirs is a ResNet-18; the divergence is taken in log space; the
        attack's start is projected onto the threat.
    """

    beta: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"beta must be 0 or more, got {self.beta}.")

    def companion(self, make_network: Callable[[], nn.Module]) -> nn.Module:
        """The teacher: a fresh network of the same maker."""
        return make_network()

    def beside(self, companion: nn.Module) -> Objective:
        """The objective, guided by this teacher."""
        return Guided(teacher=companion, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class Guided:
    """LBGAT beside its teacher.

    Args:
        teacher: Trained along; called with clean images, in whatever mode it is in.
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
        """KL divergence from the network's own prediction at the clean images."""
        return goals.kl_divergence(predict, clean)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """The teacher's cross-entropy, the distance of logits, and beta times the divergence."""
        adversarial_logits = batch.predict_adversarial(batch.adversarial)
        clean_logits = batch.predict_clean(batch.clean)
        teacher_logits = self.teacher(batch.clean)
        teacher = losses.cross_entropy(teacher_logits, batch.labels)
        distance = (adversarial_logits.float() - teacher_logits.float()).square().mean(dim=1)
        loss = teacher + distance
        if self.beta:
            loss = loss + self.beta * losses.kl_divergence(adversarial_logits, clean_logits)
        return {"loss": loss, "loss_teacher": teacher, "loss_distance": distance}
