"""AVM: adversarial vertex mixup, between a clean image and a point beyond the adversarial one."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.distributed.shared_generator import rand
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class AVM:
    """Soft cross-entropy at a random point between each image and its adversarial vertex.

    The vertex lies beyond the adversarial image, on the line from the clean one, inside the pixel
    box. Labels are softer the nearer the point is to it. With 10 classes, the default label at the
    vertex is exactly uniform: the network becomes flat there and hides its gradients, so judge it
    by attacks that see through this (the paper's PGD gives twice AutoAttack's accuracy).

    Args:
        stretch: Distance of the vertex, in lengths of the perturbation; the paper's gamma.
        clean_share: The label's share of the target at the clean image, [0, 1]; the rest is
            spread over the other classes. The paper's lambda 1.
        vertex_share: The same at the vertex; the paper's lambda 2.

    Raises:
        ValueError: If a share is not in [0, 1] or stretch is not above 0.

    Source:
        Lee et al. 2020, Algorithm 1, and ``perturb_avmixup`` of their code, with Beta(1, 1), which
        is uniform; one weight an image. Mixed images go through the adversarial branch. Without an
        attack the vertex is the image itself, whose labels are then smoothed at random.
    """

    stretch: float = 2.0
    clean_share: float = 1.0
    vertex_share: float = 0.1

    attacks = True
    start_noise = None
    per_image_loss = True

    def __post_init__(self) -> None:
        for name in ("clean_share", "vertex_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if not self.stretch > 0:
            raise ValueError(f"stretch must be above 0, got {self.stretch}.")

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Cross-entropy of the label."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Soft cross-entropy at the mixed images."""
        clean = batch.clean
        weight = rand(len(clean), batch.generator).to(clean.device)[:, None]
        vertex = (clean + self.stretch * (batch.adversarial - clean)).clamp(0.0, 1.0)
        # Not torch.lerp: under bf16 autocast it refuses a float32 weight.
        share = weight[:, :, None, None]
        mixed = share * clean + (1 - share) * vertex
        logits = batch.predict_adversarial(mixed)
        classes = logits.shape[1]
        hard = smoothed(batch.labels, classes, self.clean_share)
        soft = smoothed(batch.labels, classes, self.vertex_share)
        targets = weight * hard + (1 - weight) * soft
        return {"loss": losses.soft_cross_entropy(logits, targets)}


def smoothed(labels: Labels, classes: int, share: float) -> Float[Tensor, "batch classes"]:
    """Targets in which the label has a share and the other classes have equal parts of the rest.

    Args:
        labels: Class indices.
        classes: How many there are.
        share: The label's, [0, 1].

    Returns:
        Probabilities.

    Source:
        Lee et al. 2020, their label smoothing; unlike ``label_smoothing``, whose rest goes to all
        classes.
    """
    hot = functional.one_hot(labels, classes).float()
    return share * hot + (1 - share) / (classes - 1) * (1 - hot)
