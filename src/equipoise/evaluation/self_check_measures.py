"""A loss and a distance between logits that self-checks use."""

import torch

from equipoise.attacks import losses
from equipoise.types import Labels, Logits, PerImage


def scale_free_cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """Return the cross-entropy of logits divided by their standard deviation over the classes.

    The deviation is held constant in the gradient, so that only the scale of the logits is removed:
    with large logits, softmax saturates in float32 and the gradient of cross-entropy vanishes.

    Returns:
        ``(batch,)``.

    Source:
        Ours, after the scale invariance of the DLR loss (Croce and Hein 2020, Sec. 4).

    Example:
        >>> import torch
        >>> from equipoise.evaluation.self_check_measures import scale_free_cross_entropy
        >>> logits, labels = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
        >>> scale_free_cross_entropy(logits, labels), scale_free_cross_entropy(1e4 * logits, labels)
        (tensor([0.4076]), tensor([0.4076]))
    """
    logits = logits.float()
    scale = logits.detach().std(dim=1, keepdim=True)
    return losses.cross_entropy(logits / torch.where(scale > 0, scale, 1.0), labels)


def relative_difference(logits: Logits, other: Logits) -> float:
    """Return the largest difference as a share of the logits' spread over the classes."""
    spread = logits.std(dim=1).mean().nan_to_num(1.0).clamp_min(1e-30)
    return float((logits - other).nan_to_num(0.0).abs().max() / spread)
