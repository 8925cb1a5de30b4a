"""AVM: adversarial vertex mixup, between a clean image and a point beyond the adversarial one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.distributed.shared_generator import rand
from equipoise.objectives.base import Batch
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class AVM:
    """Soft cross-entropy at a random point between each image and its adversarial vertex.

    The vertex lies beyond the adversarial image, on the line from the clean one, inside the pixel
    box. The closer the point is to it, the softer the label. With 10 classes, the default label at
    the vertex is exactly uniform: the network becomes flat there and hides its gradients, so
    evaluate it with attacks that do not rely on them (the accuracy under the paper's PGD is twice
    that under AutoAttack).

    Args:
        stretch: Distance of the vertex, in lengths of the perturbation, above 0; the paper's gamma.
        clean_share: Target of the label at the clean image, [0, 1]; the rest is spread over the
            other classes. The paper's lambda 1.
        vertex_share: Target of the label at the vertex, [0, 1]; the paper's lambda 2.

    Raises:
        ValueError: If a share is not in [0, 1] or stretch is not above 0.

    Source:
        Lee et al. 2020, Algorithm 1, and ``perturb_avmixup`` of their code, with Beta(1, 1), which
        is uniform; one weight for each image. Mixed images go through the adversarial branch.
        Without an attack the vertex is the image itself, whose label is then smoothed at random.

    Example:
        >>> AVM(stretch=0.0)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: stretch must be above 0, got 0.0.
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
                raise InvalidInput(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if not self.stretch > 0:
            raise InvalidInput(f"stretch must be above 0, got {self.stretch}.")

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return the cross-entropy."""
        return goals.cross_entropy(predict, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute the soft cross-entropy at the mixed images."""
        clean = batch.clean
        weight = rand(len(clean), batch.generator).to(clean)[:, None]
        vertex = (clean + self.stretch * (batch.adversarial - clean)).clamp(0.0, 1.0)
        # Not torch.lerp: under bf16 autocast it refuses a float32 weight.
        share = weight[:, :, None, None]
        mixed = share * clean + (1 - share) * vertex
        logits = batch.predict_adversarial(mixed)
        classes = logits.shape[1]
        clean_target = smoothed_targets(batch.labels, classes, self.clean_share, clean.dtype)
        vertex_target = smoothed_targets(batch.labels, classes, self.vertex_share, clean.dtype)
        targets = weight * clean_target + (1 - weight) * vertex_target
        return {"loss": losses.soft_cross_entropy(logits, targets)}


def smoothed_targets(
    labels: Labels, classes: int, share: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "batch classes"]:
    """Make targets that give the label a share and split the rest evenly over the other classes.

    Args:
        labels: Class indices.
        classes: Number of classes.
        share: Probability of the label, [0, 1].
        dtype: Precision of the targets.

    Returns:
        Probabilities.

    Source:
        Lee et al. 2020, their label smoothing. Unlike ``label_smoothing``, it spreads the rest over
        the other classes only.

    Example:
        >>> import torch
        >>> smoothed_targets(torch.tensor([1]), classes=3, share=0.5)
        tensor([[0.2500, 0.5000, 0.2500]])
    """
    one_hot = functional.one_hot(labels, classes).to(dtype)
    return share * one_hot + (1 - share) / (classes - 1) * (1 - one_hot)
