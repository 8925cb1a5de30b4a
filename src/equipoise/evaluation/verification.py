"""The second pass: every adversarial image found is judged again, in batches of another size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.attacks.goals import misclassified
from equipoise.attacks.losses import margin
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.errors import RunError
from equipoise.types import Predict

ROUNDING = 1e-4
"""Share of an image's largest logit that another batch size may move a logit by, in float32."""


class EvaluationError(RunError):
    """An evaluation that cannot be trusted or cannot go on; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Rescoring:
    """What the second pass found.

    Args:
        images: Adversarial images judged again.
        batch_size: How many at once.
        boundary: Those that lie so near the boundary that rounding put them on the other side this
            time.
    """

    images: int
    batch_size: int
    boundary: int


@torch.no_grad()
def rescore(
    model: Predict,
    split: Split,
    threat: Callable[[float], Threat],
    found: Sequence[tuple[int, float, Tensor]],
    *,
    other_than: int,
) -> Rescoring:
    """Judge adversarial images again, each inside its threat, in batches of another size.

    Args:
        model: Images to logits, in eval mode.
        split: The clean images.
        threat: Makes the threat of a strength.
        found: Place in the split, strength and image ``(1, channel, height, width)`` of each.
        other_than: Batch size of the first pass; about a third of it is used here.

    Returns:
        Counts for the record.

    Raises:
        EvaluationError: If an image lies outside its threat, or is classified rightly now by more
            than rounding explains.
    """
    size = max(1, other_than // 3 + 1) if other_than > 1 else 2
    boundary = failed = 0
    device = split.device
    for first in range(0, len(found), size):
        part = found[first : first + size]
        rows = torch.tensor([row for row, _, _ in part], device=device)
        epsilon = torch.tensor([strength for _, strength, _ in part], device=device)
        images = torch.cat([image for _, _, image in part]).to(device)
        clean, labels = split.batch(rows)
        within = threat(float(epsilon.max())).with_epsilon(epsilon)
        moved = (within.project(images, clean) - images).abs().amax(dim=(1, 2, 3))
        outside = ~(moved <= 1e-5)  # NaN is outside, too
        if bool(outside.any()):
            bad = int(outside.nonzero()[0])
            raise EvaluationError(
                f"the adversarial image found for image {int(rows[bad])} lies outside its threat "
                f"of {format_epsilon(float(epsilon[bad]))} or outside [0, 1]: the attack that made "
                "it is at fault, and the evaluation was not counted."
            )
        logits = model(images.contiguous(memory_format=torch.channels_last))
        wrong = margin(logits, labels)
        right = ~misclassified(logits, labels)
        near = wrong >= -ROUNDING * logits.abs().amax(dim=1).clamp_min(1e-6)
        boundary += int((right & near).sum())
        failed += int((right & ~near).sum())
    if failed:
        raise EvaluationError(
            f"{failed} of {len(found)} adversarial images did not fool the model when they were "
            f"judged again in batches of {size} instead of {other_than}: its answer is random or "
            "depends on the rest of the batch, so that no score of it can be trusted. Put every "
            "layer into eval mode and switch randomness off."
        )
    return Rescoring(images=len(found), batch_size=size, boundary=boundary)
