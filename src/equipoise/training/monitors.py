"""Alarms for failures of adversarial training that raise no error, detected at validation."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.attacks import fgsm
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation import robust_accuracy
from equipoise.records.epsilon import format_epsilon
from equipoise.training.stage_files import BEST
from equipoise.types import Predict

FALL_RATIO = 0.5
"""PGD accuracy at or below this share of its best is a collapse; robust overfitting is slower."""
FALL_POINTS = 0.1
"""Smallest loss of PGD accuracy that counts as a collapse: validation splits are small."""
FGSM_KEPT_RATIO = 0.9
"""FGSM accuracy at or above this share of its earlier value has not fallen."""
ONE_CLASS_SHARE = 0.9
"""A class has swallowed the others if it has this share of the predictions ..."""
ONE_CLASS_RATIO = 1.5
"""... and this multiple of its share of the labels."""


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Measurements of one validation at one strength.

    Args:
        pgd: Accuracy under the validation attack.
        fgsm: Accuracy under FGSM on the same images; the clean accuracy at strength 0.
        top_class: Class that is predicted most often for clean images.
        predicted_share: Share of the predictions that are this class.
        label_share: Share of the labels that are this class.
    """

    pgd: float
    fgsm: float
    top_class: int
    predicted_share: float
    label_share: float


def diagnose(
    predict: Predict,
    split: Split,
    *,
    threat: Threat,
    pgd: float,
    generator: torch.Generator,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    batch_size: int = 256,
    total: Callable[[Tensor], Tensor] = lambda right: right,
) -> Diagnostics:
    """Measure accuracy under FGSM and count the predicted classes of clean images.

    Args:
        predict: Images to logits; its networks are in eval mode.
        split: Validation images on the network's device.
        threat: Threat of the validation attack.
        pgd: Accuracy under that attack.
        generator: Generator for FGSM, which draws nothing from it today.
        autocast: Context manager that sets the precision of the search.
        batch_size: Images at a time.
        total: Sums counts over the processes that share the images.

    Returns:
        The measurements.
    """
    fgsm_accuracy = pgd
    if not isinstance(threat.epsilon, float) or threat.epsilon > 0:
        fgsm_accuracy = robust_accuracy(
            predict,
            split,
            threat=threat,
            search=fgsm(),
            generator=generator,
            batch_size=batch_size,
            autocast=autocast,
            total=total,
        )
    counts = torch.zeros(split.classes, dtype=torch.long, device=split.device)
    with torch.no_grad():
        for rows in torch.arange(len(split), device=split.device).split(batch_size):
            predicted = predict(split.batch(rows)[0]).argmax(dim=1)
            counts += predicted.bincount(minlength=split.classes)[: split.classes]
    top_class = int(counts.argmax())
    return Diagnostics(
        pgd=pgd,
        fgsm=fgsm_accuracy,
        top_class=top_class,
        predicted_share=int(counts[top_class]) / len(split),
        label_share=int((split.labels == top_class).sum()) / len(split),
    )


class TrainingMonitor:
    """Raises an alarm, once per stage and kind, when a validation shows that training has failed.

    *Catastrophic overfitting*: accuracy under PGD falls to half of its best or less while accuracy
    under FGSM does not fall: the network has learned to fool a single gradient step.
    *Collapse to one class*: at two validations in a row, or at the last one of the stage, one class
    has nine tenths of the predictions and 1.5 times its share of the labels or more. A single such
    validation is common early in training.

    Args:
        stage: Name of the stage.
        state: ``state`` as it was at the checkpoint; empty at the start.

    Attributes:
        state: JSON values: the best accuracies at each strength, and the alarms already raised.

    Source:
        Wong et al. 2020 (2001.03994), who stop training when PGD accuracy on a training batch
        drops. The thresholds are ours.

    Example:
        >>> monitor = TrainingMonitor("network", {})
        >>> healthy = Diagnostics(pgd=0.4, fgsm=0.5, top_class=0, predicted_share=0.1,
        ...                       label_share=0.1)
        >>> overfitted = Diagnostics(pgd=0.0, fgsm=0.9, top_class=0, predicted_share=0.1,
        ...                          label_share=0.1)
        >>> monitor.check(0, {8 / 255: healthy}, best_epoch=0, last=False)
        []
        >>> (alarm,) = monitor.check(1, {8 / 255: overfitted}, best_epoch=0, last=False)
        >>> "catastrophic overfitting" in alarm
        True
    """

    def __init__(self, stage: str, state: dict[str, Any]) -> None:
        self.stage, self.state = stage, state

    def check(
        self, epoch: int, diagnostics: Mapping[float, Diagnostics], *, best_epoch: int, last: bool
    ) -> list[str]:
        """Return the new alarms of a validation.

        Args:
            epoch: Epoch of the validation, from 0.
            diagnostics: Measurements at each strength.
            best_epoch: Epoch whose weights are kept as best.
            last: Whether this is the last validation of the stage.

        Returns:
            One message for each kind of alarm that was not raised before.
        """
        kept = f"{BEST} keeps the weights of epoch {best_epoch}."
        # These keys are stored in checkpoints.
        best, collapsed_before = (self.state.setdefault(key, {}) for key in ("best", "crowded"))
        alarms: dict[str, str] = {}
        for epsilon, now in diagnostics.items():
            strength = format_epsilon(epsilon)
            collapsed = _one_class(now)
            if collapsed and (last or collapsed_before.get(strength, False)):
                alarms["one class"] = (
                    f"Alarm in stage {self.stage}, epoch {epoch}: {now.predicted_share:.2f} of the "
                    f"validation images are predicted as class {now.top_class}, which is the "
                    f"label of {now.label_share:.2f}. The network has collapsed to one class. "
                    f"{kept} Remedy: lower the learning rate, or let epsilon warm up."
                )
            collapsed_before[strength] = collapsed
            before = best.get(strength)
            if epsilon > 0 and before is not None and _overfitted(before, now):
                alarms["overfitting"] = (
                    f"Alarm in stage {self.stage}, epoch {epoch}: accuracy under PGD at "
                    f"{strength} fell to {now.pgd:.3f} from {before['pgd']:.3f} in epoch "
                    f"{before['epoch']}, while under FGSM it is {now.fgsm:.3f} and was "
                    f"{before['fgsm']:.3f}. This is catastrophic overfitting. {kept} Remedy: "
                    "give the training attack more steps, shorter ones and a random start, or "
                    "train at a smaller epsilon."
                )
            if before is None or now.pgd > before["pgd"]:
                best[strength] = {"epoch": epoch, "pgd": now.pgd, "fgsm": now.fgsm}
        raised = self.state.setdefault("said", [])
        new = [kind for kind in alarms if kind not in raised]
        raised += new
        return [alarms[kind] for kind in new]


def _one_class(now: Diagnostics) -> bool:
    swallows = now.predicted_share >= ONE_CLASS_RATIO * now.label_share
    return now.predicted_share >= ONE_CLASS_SHARE and swallows


def _overfitted(before: Mapping[str, Any], now: Diagnostics) -> bool:
    fallen = now.pgd <= FALL_RATIO * before["pgd"] and now.pgd <= before["pgd"] - FALL_POINTS
    return bool(fallen and now.fgsm >= FGSM_KEPT_RATIO * before["fgsm"])


def at_chance(accuracy: dict[str, float], classes: int, images: int) -> list[str]:
    """Warn if the accuracy at the lowest strength could be that of guessing.

    Args:
        accuracy: Validation accuracy by strength.
        classes: Number of classes.
        images: Number of validation images.

    Returns:
        A warning, or nothing.

    Example:
        >>> at_chance({"0": 0.12, "0.1": 0.0}, classes=10, images=1000)[0][:64]
        'the accuracy is at chance: 12.0 % of 1000 validation images are '
        >>> at_chance({"0": 0.2}, classes=10, images=1000)
        []
    """
    chance = 1 / classes
    least = min(accuracy, key=float)
    if accuracy[least] > chance + 3 * (chance * (1 - chance) / images) ** 0.5:
        return []
    return [
        f"the accuracy is at chance: {100 * accuracy[least]:.1f} % of {images} validation images "
        f"are right, with {classes} classes. Nothing was learned; lower the learning rate or "
        "epsilon, or check that images and labels belong together."
    ]
