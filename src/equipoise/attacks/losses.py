"""Per-image losses: logits in, one number per image out. No reduction, no model.

All losses are computed in float32 or, for float64 logits, in float64, so that autocast does not
round them and float64 runs lose nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from equipoise.runtime.errors import InvalidInput
from equipoise.types import Labels, Logits, PerImage


def at_least_float32(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return float16 and bfloat16 values in float32; float32 and float64 stay as they are.

    Args:
        values: Logits, features or other floating-point numbers of any shape.

    Returns:
        The same shape, on the same graph.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import at_least_float32
        >>> [at_least_float32(torch.ones(1, dtype=d)).dtype for d in (torch.half, torch.double)]
        [torch.float32, torch.float64]
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def cross_entropy(logits: Logits, labels: Labels, label_smoothing: float = 0.0) -> PerImage:
    """Return the negative log-probability of the label.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1].

    Returns:
        ``(batch,)``, not reduced.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import cross_entropy
        >>> cross_entropy(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor([0.1269, 0.6931])
    """
    return functional.cross_entropy(
        at_least_float32(logits), labels, reduction="none", label_smoothing=label_smoothing
    )


def soft_cross_entropy(logits: Logits, targets: Float[Tensor, "batch classes"]) -> PerImage:
    """Return the cross-entropy against a distribution over the classes.

    Args:
        logits: Unnormalised scores.
        targets: Probabilities; each row sums to 1.

    Returns:
        ``(batch,)``, not reduced.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import soft_cross_entropy
        >>> soft_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([1.1269])
    """
    logits = at_least_float32(logits)
    return functional.cross_entropy(logits, targets.to(logits.dtype), reduction="none")


def kl_divergence(logits: Logits, reference: Logits) -> PerImage:
    """Return the KL divergence ``sum_c p_c (log p_c - log q_c)`` of q from the reference p.

    Both are taken in log space, so that value and gradient stay finite where a probability
    underflows to 0 in float32. (With probabilities as the target, torch's own gradient is NaN
    there.)

    Args:
        logits: Logits of the prediction q.
        reference: Logits of the reference p; the gradient flows to them as well.

    Returns:
        ``(batch,)``, 0 or more up to rounding; 0 where both predictions are equal.

    Source:
        Zhang et al. 2019 (TRADES), the loss inside their maximum, as implemented in their code.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import kl_divergence
        >>> clean = torch.tensor([[2.0, 0.0]])
        >>> kl_divergence(torch.tensor([[0.0, 0.0]]), clean)
        tensor([0.3278])
        >>> kl_divergence(clean, clean)
        tensor([0.])
    """
    log_q, log_p = (at_least_float32(part).log_softmax(dim=1) for part in (logits, reference))
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def squared_distance(logits: Logits, reference: Logits) -> PerImage:
    """Return the squared distance of two predictions, ``sum_c (q_c - p_c)^2`` of probabilities.

    Args:
        logits: Logits of one prediction.
        reference: Logits of the other; the gradient flows to both.

    Returns:
        ``(batch,)``, in [0, 2].

    Source:
        Sriramanan et al. 2020 (GAT), Eq. (3).

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import squared_distance
        >>> squared_distance(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
        tensor([2.])
    """
    q, p = (at_least_float32(part).softmax(dim=1) for part in (logits, reference))
    return (q - p).square().sum(dim=1)


def boosted_cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """Return MART's boosted cross-entropy, ``-log p_y - log(1 - max_{j != y} p_j)``.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.

    Returns:
        ``(batch,)``; the second term is at most 9.21, because 1.0001 replaces the 1 in its log.

    Source:
        Wang et al. 2020 (MART), "boosted cross-entropy"; the constants 1.0001 and 1e-12 are from
        their code.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import boosted_cross_entropy
        >>> boosted_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([1.3861])
    """
    logits = at_least_float32(logits)
    wrong = logits.scatter(1, labels[:, None], float("-inf")).argmax(dim=1, keepdim=True)
    largest_wrong = logits.softmax(dim=1).gather(1, wrong).squeeze(1)
    return cross_entropy(logits, labels) - torch.log(1.0001 - largest_wrong + 1e-12)


def margin(logits: Logits, labels: Labels) -> PerImage:
    """Return the largest wrong logit minus the label's; positive exactly where misclassified.

    Returns:
        ``(batch,)``; 0 for a tie, which counts as not misclassified.

    Source:
        Carlini and Wagner 2017, f_6 without kappa; maximising it is the C&W attack of Madry et
        al. 2018.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import margin
        >>> margin(torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2]))
        tensor([-1.5000,  2.0000])
    """
    logits = at_least_float32(logits)
    wrong = logits.scatter(1, labels[:, None], float("-inf"))
    return wrong.amax(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)


def dlr(logits: Logits, labels: Labels) -> PerImage:
    """Return the difference of logits ratio: the margin over (largest - third largest logit).

    Multiplying the logits by a positive factor does not change it, so a network cannot mask its
    gradients by large logits. It is positive exactly where misclassified.

    Returns:
        ``(batch,)``; constantly 1, and so without a gradient, where the label's logit is the third
        largest.

    Raises:
        ValueError: If there are fewer than three classes.

    Source:
        Croce and Hein 2020, Eq. (6), "difference of logits ratio"; the 1e-12 is from their code.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import dlr
        >>> logits, label = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
        >>> dlr(logits, label), dlr(1000 * logits, label)
        (tensor([-0.5000]), tensor([-0.5000]))
    """
    _check_classes(logits, least=3, name="DLR")
    first, _, third = at_least_float32(logits).topk(3, dim=1).values.unbind(dim=1)
    return margin(logits, labels) / (first - third + 1e-12)


def targeted_margin(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return the target's logit minus the label's.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        targets: The wrong class to push each image towards.

    Returns:
        ``(batch,)``; where it is positive, the image is misclassified (as some class, not
        necessarily as the target).

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import targeted_margin
        >>> logits = torch.tensor([[2.0, 0.5, -1.0]])
        >>> targeted_margin(logits, labels=torch.tensor([0]), targets=torch.tensor([2]))
        tensor([-3.])
    """
    logits = at_least_float32(logits)
    label_logit = logits.gather(1, labels[:, None]).squeeze(1)
    target_logit = logits.gather(1, targets[:, None]).squeeze(1)
    return target_logit - label_logit


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return the targeted margin, made independent of the scale of the logits.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        targets: The wrong class to push each image towards.

    Returns:
        ``(batch,)``: the targeted margin divided by the largest logit minus the mean of the third
        and the fourth.

    Raises:
        ValueError: If there are fewer than four classes.

    Source:
        Croce and Hein 2020, Eq. (7); the 1e-12 is from their code.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import targeted_dlr
        >>> logits = torch.tensor([[4.0, 3.0, 1.0, -1.0]])
        >>> targeted_dlr(logits, labels=torch.tensor([0]), targets=torch.tensor([1]))
        tensor([-0.2500])
    """
    _check_classes(logits, least=4, name="targeted DLR")
    first, _, third, fourth = at_least_float32(logits).topk(4, dim=1).values.unbind(dim=1)
    return targeted_margin(logits, labels, targets) / (first - (third + fourth) / 2 + 1e-12)


def gate_cross_entropy(gate: PerImage, target: float | PerImage) -> PerImage:
    """Return the binary cross-entropy of AFA's fusing weight W0 against a target.

    Args:
        gate: The fusing weight before its sigmoid, so that the loss has a gradient even where the
            weight itself saturates.
        target: Target for W0, in [0, 1]: one for all images, or one per image.

    Returns:
        ``(batch,)``.

    Source:
        AFA Sec. 5.2, "Adaptive attack"; the paper does not print the target.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import gate_cross_entropy
        >>> gate_cross_entropy(torch.tensor([0.0, 4.0]), target=1.0)
        tensor([0.6931, 0.0181])
    """
    gate = at_least_float32(gate)
    targets = torch.as_tensor(target, dtype=gate.dtype, device=gate.device).expand_as(gate)
    return functional.binary_cross_entropy_with_logits(gate, targets, reduction="none")


def carlini_wagner(logits: Logits, labels: Labels, kappa: float = 0.0) -> PerImage:
    """Return the C&W loss with confidence kappa, ``-max(z_y - max_{j != y} z_j + kappa, 0)``.

    Args:
        logits: Unnormalised scores.
        labels: Class indices.
        kappa: Lead of the wrong class, in units of logits, beyond which the gradient is zero.

    Returns:
        ``(batch,)``, 0 or less.

    Source:
        Carlini and Wagner 2017, f_6, in the L-inf form of Madry et al. 2018 with kappa 50.

    Example:
        >>> import torch
        >>> from equipoise.attacks.losses import carlini_wagner
        >>> logits = torch.tensor([[2.0, 0.5], [0.0, 3.0], [0.0, 9.0]])
        >>> carlini_wagner(logits, torch.tensor([0, 0, 0]), kappa=5.0)
        tensor([-6.5000, -2.0000, -0.0000])
    """
    return -(kappa - margin(logits, labels)).clamp_min(0.0)


def _check_classes(logits: Logits, least: int, name: str) -> None:
    classes = logits.shape[1]
    if classes < least:
        raise InvalidInput(
            f"the {name} loss needs at least {least} classes, got {classes}. "
            "Use the margin, which needs two."
        )
