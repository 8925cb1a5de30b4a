"""Verification: usable clean logits, and adversarial images evaluated again in other batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.attacks.losses import margin
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.asked_model import AskedModel, draws_of, folded_logits, misclassifies
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.types import Images, Labels, Predict

LOGIT_ROUNDING = 1e-4
"""Relative change of a logit that another batch size may cause in float32, as a share of the
image's largest logit."""


class EvaluationError(RunError):
    """An evaluation that cannot be trusted or cannot continue; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Rescoring:
    """Counts of the verification, for the record.

    Args:
        images: Number of adversarial images that were evaluated again.
        batch_size: Number of images at once.
        boundary: Number of those that were correctly classified this time, because they are so
            near the decision boundary that rounding decides, or the draws of a randomised model.
    """

    images: int
    batch_size: int
    boundary: int


@torch.no_grad()
def rescore(
    model: Predict,
    split: Split,
    threat: Callable[[float], Threat],
    adversarial: Sequence[tuple[int, float, Tensor]],
    *,
    other_than: int,
) -> Rescoring:
    """Check that adversarial images are inside their threat and still misclassified.

    Args:
        model: Images to logits, in eval mode.
        split: The clean images.
        threat: Builds the threat of a strength.
        adversarial: Row in the split, strength, and image ``(1, channel, height, width)`` of each.
        other_than: Batch size of the evaluation; about a third of it is used here.

    Returns:
        Counts for the record.

    Raises:
        EvaluationError: If an image is outside its threat, or is now classified correctly by more
            than rounding explains.
    """
    size = max(1, other_than // 3 + 1) if other_than > 1 else 2
    boundary = failed = 0
    device = split.device
    for first in range(0, len(adversarial), size):
        batch = adversarial[first : first + size]
        rows = torch.tensor([row for row, _, _ in batch], device=device)
        epsilon = torch.tensor([strength for _, strength, _ in batch], device=device)
        images = torch.cat([image for _, _, image in batch]).to(device)
        clean, labels = split.batch(rows)
        batch_threat = threat(float(epsilon.max())).with_epsilon(epsilon)
        moved = (batch_threat.project(images, clean) - images).abs().amax(dim=(1, 2, 3))
        outside = ~(moved <= 1e-5)  # NaN is outside, too
        if bool(outside.any()):
            bad = int(outside.nonzero()[0])
            raise EvaluationError(
                f"the adversarial version of image {int(rows[bad])} is outside its threat of "
                f"{format_epsilon(float(epsilon[bad]))} or outside [0, 1]. The attack that made it "
                "is wrong; fix it and evaluate again."
            )
        images = images.contiguous(memory_format=torch.channels_last)
        correct = ~misclassifies(model, images, labels, purpose="verification")
        near = _near_boundary(model, images, labels)
        boundary += int((correct & near).sum())
        failed += int((correct & ~near).sum())
    if failed:
        raise EvaluationError(
            f"{failed} of {len(adversarial)} adversarial images were classified correctly when "
            f"they were evaluated again in batches of {size} instead of {other_than}: the model is "
            "random or depends on the other images of a batch, so none of its scores is reliable. "
            "Put every layer into eval mode, give batch norms running statistics "
            "(track_running_stats=True) and switch randomness off; if the model is meant to be "
            "random, ask for its draws with --draws 10."
        )
    return Rescoring(images=len(adversarial), batch_size=size, boundary=boundary)


def _near_boundary(model: Predict, images: Images, labels: Labels) -> Tensor:
    """Whether rounding, or other draws of a randomised model, may decide about each image."""
    if draws_of(model):
        return torch.ones_like(labels, dtype=torch.bool)
    logits = folded_logits(model, images, labels)
    tolerance = LOGIT_ROUNDING * logits.abs().amax(dim=1).clamp_min(1e-6)
    return margin(logits, labels) >= -tolerance


@torch.no_grad()
def misclassified_images(model: Predict, split: Split, batch_size: int) -> Tensor:
    """Return which clean images are misclassified.

    Raises:
        ValueError: If the model returns anything but one row of finite logits per image.
    """
    batches, not_finite = [], 0
    for rows in torch.arange(len(split), device=split.device).split(batch_size):
        images, labels = split.batch(rows)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        _check_shape(model, logits, len(images), split.classes)
        not_finite += int((~logits.isfinite()).any(dim=1).sum())
        batches.append(misclassifies(model, images, labels, clean=True))
    if not_finite:
        raise InvalidInput(
            f"the model must return finite logits, got NaN or infinity for {not_finite} of "
            f"{len(split)} clean images; find where it arises (a logarithm or a division by 0, "
            "weights that diverged, a range that float16 does not have)."
        )
    return torch.cat(batches)


def _check_shape(model: Predict, logits: Any, images: int, classes: int) -> None:
    rejects = isinstance(model, AskedModel) and model.reject
    columns = classes + rejects
    if isinstance(logits, Tensor) and logits.shape == (images, columns):
        return
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    advice = ""
    if rejects:
        advice = ' and the last logit means "reject"'
    elif isinstance(logits, Tensor) and logits.shape == (images, classes + 1):
        advice = '. If the last logit means "reject", pass --reject-class (reject_class=True)'
    elif isinstance(logits, Tensor) and logits.shape[0] == images and logits.shape[-1] > classes:
        advice = (
            ". If the images lack its last classes, say how many there are: "
            f"as_split(data, classes={logits.shape[-1]})"
        )
    raise InvalidInput(
        f"the model must return logits of shape ({images}, {columns}), got {got}; the data has "
        f"{classes} classes{advice}."
    )
