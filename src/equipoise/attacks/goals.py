"""Goals: what an attack maximises. A goal takes images and returns one number per image.

A goal closes over everything it needs (a model's ``predict``, labels, a surrogate), so a search
never sees a model. ``predict`` is any function from images in [0, 1] to logits.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.attacks import losses
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, Logits, PerImage, Predict

JointForward = Callable[[Images], tuple[Logits, Logits, PerImage | float]]
"""One forward pass with three results: the logits that decide whether an image is misclassified,
the logits that the loss is computed from, and a term that is added to the loss."""

Confirm = Callable[[Images, Labels], Bool[Tensor, " batch"]]
"""Whether each image is misclassified, asked of another function than the one under search."""

Fold = Callable[[Logits, Labels], Logits]
"""Changes logits, given the labels, before they are scored."""


@runtime_checkable
class Goal(Protocol):
    """A function from images ``(batch, channel, height, width)`` to one number per image.

    Higher is worse for the model. Row i of the result depends on row i of the images alone.
    """

    def __call__(self, images: Images, /) -> PerImage:
        """Return the value to maximise, per image."""
        ...


@runtime_checkable
class Finishable(Goal, Protocol):
    """A goal that knows which images need no further search, so that a search can drop them."""

    @property
    def finished(self) -> Bool[Tensor, " batch"]:
        """Whether each image needs no further search."""
        ...

    def replace_finished(self, images: Images) -> Images:
        """Return ``images`` with each finished one replaced by its stored adversarial image."""
        ...

    def select(self, rows: Int[Tensor, " rows"]) -> "Finishable":
        """Return the goal for some of the images; it shares what it has visited with this one."""
        ...


def value_and_gradient(goal: Goal, images: Images) -> tuple[PerImage, Images]:
    """Return the goal at ``images`` and its gradient with respect to them, both detached.

    Raises:
        ValueError: If the goal has no gradient.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidInput(
            "there are no gradients inside torch.inference_mode(); call the attack outside of it."
        )
    points = images.detach().requires_grad_(True)
    with torch.enable_grad():
        value = goal(points)
        if not value.requires_grad:
            raise InvalidInput(
                "the goal does not depend on the images as far as gradients tell: the model "
                "detaches its output or runs under no_grad. Attack it with Square, or use "
                "evaluate, which attacks such models as a black box."
            )
        (gradient,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), gradient


@torch.no_grad()
def value_only(goal: Goal, images: Images) -> PerImage:
    """Return the goal at ``images``, computed without a gradient."""
    return goal(images)


def cross_entropy(predict: Predict, labels: Labels) -> Goal:
    """Build the goal that maximises the cross-entropy of the labels.

    Returns:
        The goal of PGD-AT, AFS Eq. (3)-(5) and the papers' PGD evaluations.

    Example:
        >>> import torch
        >>> from equipoise.attacks import fgsm
        >>> from equipoise.attacks.goals import cross_entropy
        >>> from equipoise.attacks.threat import Linf
        >>> predict = lambda images: torch.stack([images.sum((1, 2, 3)), torch.ones(2)], dim=1)
        >>> goal = cross_entropy(predict, labels=torch.tensor([0, 1]))
        >>> fgsm()(goal, torch.full((2, 1, 1, 1), 0.5), Linf(0.1), torch.Generator()).flatten()
        tensor([0.4000, 0.6000])
    """
    return lambda images: losses.cross_entropy(predict(images), labels)


def margin(predict: Predict, labels: Labels) -> Goal:
    """Build the goal that maximises the largest wrong logit minus the label's logit.

    Returns:
        The goal of the C&W attack in its L-inf form without kappa. It is positive exactly where
        the image is misclassified, so the best point of a search is misclassified if any was.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import margin
        >>> predict = lambda images: images.flatten(1)  # two pixels are the two logits
        >>> goal = margin(predict, labels=torch.tensor([0, 0]))
        >>> goal(torch.tensor([[0.75, 0.25], [0.25, 1.0]]).reshape(2, 1, 1, 2))
        tensor([-0.5000,  0.7500])
    """
    return lambda images: losses.margin(predict(images), labels)


def dlr(predict: Predict, labels: Labels) -> Goal:
    """Build the goal that maximises the difference of logits ratio.

    Returns:
        The goal of APGD-DLR, for three classes or more: the margin, made independent of the scale
        of the logits.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import dlr
        >>> predict = lambda images: 100 * images.flatten(1)
        >>> goal = dlr(predict, labels=torch.tensor([0]))
        >>> goal(torch.tensor([0.75, 0.5, 0.25]).reshape(1, 1, 1, 3))
        tensor([-0.5000])
    """
    return lambda images: losses.dlr(predict(images), labels)


def kl_divergence(predict: Predict, clean: Images) -> Goal:
    """Build the goal that maximises the KL divergence from the prediction at the clean images.

    The clean prediction is computed once, at the first call of the goal, so that it is made in the
    mode in which the network is attacked.

    Returns:
        The goal of TRADES' training attack. Its gradient is zero at the clean images themselves,
        so a search has to start next to them.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import kl_divergence
        >>> clean = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
        >>> goal = kl_divergence(lambda images: images.flatten(1), clean)
        >>> goal(clean), goal(1 - clean)
        (tensor([0.]), tensor([0.4621]))
    """
    reference = _predicted_once(predict, clean)

    def goal(images: Images) -> PerImage:
        at_clean = reference()  # first, because FAT takes the last prediction for that of images
        return losses.kl_divergence(predict(images), at_clean)

    return goal


def guided_cross_entropy(predict: Predict, clean: Images, labels: Labels, weight: float) -> Goal:
    """Build the goal that maximises cross-entropy and the distance from the clean prediction.

    Args:
        predict: Images to logits.
        clean: The clean images, predicted once, at the first call of the goal.
        labels: Class indices.
        weight: Weight of the squared distance between the probabilities.

    Returns:
        The goal of GAT's training attack.

    Example:
        >>> import torch
        >>> clean, labels = torch.tensor([50.0, 0.0]).reshape(1, 1, 1, 2), torch.tensor([0])
        >>> goal = guided_cross_entropy(lambda images: images.flatten(1), clean, labels, weight=10)
        >>> goal(torch.zeros(1, 1, 1, 2))  # log 2, and 10 times twice 0.25
        tensor([5.6931])
    """
    reference = _predicted_once(predict, clean)

    def goal(images: Images) -> PerImage:
        at_clean = reference()
        logits = predict(images)
        distance = losses.squared_distance(logits, at_clean)
        return losses.cross_entropy(logits, labels) + weight * distance

    return goal


def _predicted_once(predict: Predict, clean: Images) -> Callable[[], Logits]:
    """The prediction at the clean images, made at the first call, in the mode of that moment."""

    @cache
    def reference() -> Logits:
        with torch.no_grad():
            return predict(clean)

    return reference


def misclassified(logits: Logits, labels: Labels) -> Bool[Tensor, " batch"]:
    """Return whether the largest logit of each row is not the label's.

    A row that contains a NaN counts as misclassified whatever its label.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import misclassified
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [torch.nan, 1.0]])
        >>> misclassified(logits, torch.tensor([0, 1, 0]))
        tensor([False,  True,  True])
    """
    return (logits.argmax(dim=1) != labels) | logits.isnan().any(dim=1)


def fold_reject(logits: Logits, labels: Labels) -> Float[Tensor, "batch known"]:
    """Fold the last class, "reject", into the label's: rejecting an attacked image is not an error.

    Args:
        logits: ``(batch, classes + 1)``; the last column is the logit of "reject".
        labels: Class indices.

    Returns:
        ``(batch, classes)``: the label's logit becomes the larger of its own and that of "reject",
        so the image is misclassified exactly where the largest of all logits is neither of them.

    Source:
        Tramer et al. 2020, the rule for defences that may reject an input.

    Example:
        >>> import torch
        >>> from equipoise.attacks.goals import fold_reject, misclassified
        >>> logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]])  # two classes and "reject"
        >>> misclassified(fold_reject(logits, torch.tensor([0, 0])), torch.tensor([0, 0]))
        tensor([False,  True])
    """
    known, reject = logits[:, :-1], logits[:, -1:]
    index = labels[:, None].long()
    return known.scatter(1, index, torch.maximum(known.gather(1, index), reject))
