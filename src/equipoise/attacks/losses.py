"""Per-image losses: logits in, one number an image out. No reduction, no model.

All are computed in float32 whatever the logits' precision, so that autocast does not round them.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from equipoise.types import Labels, Logits, PerImage


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


def soft_cross_entropy(logits: Logits, targets: Float[Tensor, "batch classes"]) -> PerImage:
    """Cross-entropy against a distribution over the classes.

    Args:
        logits: Unnormalised scores.
        targets: Probabilities; each row sums to 1.

    Returns:
        ``(batch,)``, not reduced.
    """
    return functional.cross_entropy(logits.float(), targets.float(), reduction="none")


def kl_divergence(logits: Logits, reference: Logits) -> PerImage:
    """How far a prediction is from a reference: ``sum_c p_c (log p_c - log q_c)``.

    Both are taken in log space, so that value and gradient stay finite where a probability is 0 in
    float32. (With a target of probabilities, torch's own gradient is NaN there.)

    Args:
        logits: Of q, the prediction.
        reference: Logits of p, what it should be; the gradient flows to them as well.

    Returns:
        ``(batch,)``, 0 or more up to rounding; 0 where both predictions are the same.

    Source:
        Zhang et al. 2019 (TRADES): the loss inside their maximum, as their code takes it.
    """
    ours, wanted = (each.float().log_softmax(dim=1) for each in (logits, reference))
    terms = functional.kl_div(ours, wanted, reduction="none", log_target=True)
    return terms.sum(dim=1)


def boosted_cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """MART's BCE: cross-entropy plus a margin term, ``-log p_y - log(1 - max_{j != y} p_j)``.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.

    Returns:
        ``(batch,)``; the margin term is at most 9.21, since 1.0001 stands for the 1 under its log.

    Source:
        Wang et al. 2020 (MART), "boosted cross-entropy"; the 1.0001 and the 1e-12 are of
        their code.
    """
    logits = logits.float()
    wrong = logits.scatter(1, labels[:, None], float("-inf")).argmax(dim=1, keepdim=True)
    likeliest = logits.softmax(dim=1).gather(1, wrong).squeeze(1)
    return cross_entropy(logits, labels) - torch.log(1.0001 - likeliest + 1e-12)


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


def dlr(logits: Logits, labels: Labels) -> PerImage:
    """The margin over the difference of the largest and the third largest logit.

    A positive factor on the logits leaves it as it is, so that a network cannot hide behind large
    logits. It is positive exactly where misclassified.

    Returns:
        ``(batch,)``; 1 wherever the label's logit is the third largest, so flat there.

    Raises:
        ValueError: If there are fewer than three classes.

    Source:
        Croce and Hein 2020, Eq. (6), "difference of logits ratio"; the 1e-12 is of their code.
    """
    _check_classes(logits, least=3, name="DLR")
    first, _, third = logits.float().topk(3, dim=1).values.unbind(dim=1)
    return margin(logits, labels) / (first - third + 1e-12)


def targeted_margin(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """The target's logit minus the label's.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        targets: Class indices, for each image the wrong class to push it to.

    Returns:
        ``(batch,)``; where it is positive, the image is misclassified (as any class).
    """
    logits = logits.float()
    label, target = (logits.gather(1, each[:, None]).squeeze(1) for each in (labels, targets))
    return target - label


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """The targeted margin, made independent of the logits' scale.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        targets: Class indices, for each image the wrong class to push it to.

    Returns:
        ``(batch,)``; the largest logit minus the mean of the third and fourth divides it.

    Raises:
        ValueError: If there are fewer than four classes.

    Source:
        Croce and Hein 2020, Eq. (7); the 1e-12 is of their code.
    """
    _check_classes(logits, least=4, name="targeted DLR")
    first, _, third, fourth = logits.float().topk(4, dim=1).values.unbind(dim=1)
    return targeted_margin(logits, labels, targets) / (first - (third + fourth) / 2 + 1e-12)


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


def carlini_wagner(logits: Logits, labels: Labels, kappa: float = 0.0) -> PerImage:
    """The C&W loss with its confidence: ``-max(z_y - max_{j != y} z_j + kappa, 0)``.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        kappa: Wanted lead of the wrong class, in units of logits; the gradient is zero beyond it.

    Returns:
        ``(batch,)``, 0 or less.

    Source:
        Carlini and Wagner 2017, f_6, in the L-inf form of Madry et al. 2018, which has kappa 50.
    """
    return -(kappa - margin(logits, labels)).clamp_min(0.0)


def _check_classes(logits: Logits, least: int, name: str) -> None:
    classes = logits.shape[1]
    if classes < least:
        raise ValueError(
            f"the {name} loss needs {least} classes or more, got {classes}. "
            "Use the margin, which needs two."
        )
