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


def gate_cross_entropy(gate: PerImage, target: float | PerImage) -> PerImage:
    """Binary cross-entropy of a fusing weight against where it should be.

    Args:
        gate: The fusing weight W0 before its sigmoid, so that the loss still pulls where the
            weight itself has saturated.
        target: Wanted W0 in [0, 1], one for all or one an image.

    Returns:
        ``(batch,)``.

    Source:
        AFA Sec. 5.2, "Adaptive attack"; the paper does not print the target.
    """
    wanted = torch.as_tensor(target, dtype=torch.float32, device=gate.device).expand_as(gate)
    return functional.binary_cross_entropy_with_logits(gate.float(), wanted, reduction="none")
