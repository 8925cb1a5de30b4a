"""Per-image losses: logits in, one number an image out. No reduction, no model.

All are computed in float32 whatever the logits' precision, so that autocast does not round them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"]
PerImage = Float[Tensor, " batch"]


def cross_entropy(logits: Logits, labels: Labels, label_smoothing: float = 0.0) -> PerImage:
    """Negative log-probability of the label.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        label_smoothing: Share of the target spread evenly over all classes, [0, 1].

    Returns:
        ``(batch,)``, not reduced.
    """
    return functional.cross_entropy(
        logits.float(), labels, reduction="none", label_smoothing=label_smoothing
    )


def margin(logits: Logits, labels: Labels) -> PerImage:
    """Largest wrong logit minus the label's logit; positive exactly where misclassified.

    Returns:
        ``(batch,)``; a tie is 0 and counts as not misclassified.

    Source:
        Carlini and Wagner 2017, f_6 with kappa left out; ascending it is the C&W attack of
        Madry et al. 2018.
    """
    logits = logits.float()
    wrong = logits.scatter(1, labels[:, None], float("-inf"))
    return wrong.amax(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)


def weight_cross_entropy(weight: PerImage, target: float | PerImage) -> PerImage:
    """Binary cross-entropy of a fusing weight against where it should be.

    Args:
        weight: Fusing weight in [0, 1] (AFA's W0, or W1).
        target: Wanted value in [0, 1], one for all or one an image.

    Returns:
        ``(batch,)``; finite at saturated weights (clamped at 1e-6 as in a float32 sigmoid).

    Source:
        AFA Sec. 5.2, "Adaptive attack"; the paper does not print the target.
    """
    weight = weight.float()
    wanted = torch.as_tensor(target, dtype=weight.dtype, device=weight.device).expand_as(weight)
    return functional.binary_cross_entropy(weight, wanted, reduction="none")
