"""Alarms: what goes wrong in adversarial training without any error, told from validations."""

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
"""PGD accuracy of this share of its best is a collapse; robust overfitting costs a tenth."""
FALL_POINTS = 0.1
"""But no smaller loss than this: validation splits are small."""
FGSM_KEPT_RATIO = 0.9
"""FGSM accuracy of this share of what it was then has stayed."""
ONE_CLASS_SHARE = 0.9
"""A class with this share of the predictions ..."""
ONE_CLASS_RATIO = 1.5
"""... and this many times its share of the labels has swallowed the others."""


@dataclass(frozen=True, kw_only=True)
class Symptoms:
    """What a validation sees at one strength.

    Args:
        pgd: Accuracy under the validation attack.
        fgsm: Accuracy under FGSM on the same images; the same number at strength 0.
        favourite: The class predicted most often for clean images.
        share: Its share of the predictions.
        truth: Its share of the labels.
    """

    pgd: float
    fgsm: float
    favourite: int
    share: float
    truth: float


def symptoms(
    predict: Predict,
    split: Split,
    *,
    threat: Threat,
    pgd: float,
    generator: torch.Generator,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    batch_size: int = 256,
    total: Callable[[Tensor], Tensor] = lambda right: right,
) -> Symptoms:
    """Look at one strength: FGSM, and the classes that clean images are put into.

    Args:
        predict: Images to logits; its networks in eval mode.
        split: Validation images on the network's device.
        threat: Of the validation attack.
        pgd: Accuracy under that attack, measured already.
        generator: For FGSM, which draws nothing from it today.
        autocast: Precision of the search.
        batch_size: Images at once.
        total: Adds up what processes with a shared generator have counted.

    Returns:
        What was seen.
    """
    accuracy = pgd
    if not isinstance(threat.epsilon, float) or threat.epsilon > 0:
        accuracy = robust_accuracy(
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
            found = predict(split.batch(rows)[0]).argmax(dim=1)
            counts += found.bincount(minlength=split.classes)[: split.classes]
    favourite = int(counts.argmax())
    return Symptoms(
        pgd=pgd,
        fgsm=accuracy,
        favourite=favourite,
        share=int(counts[favourite]) / len(split),
        truth=int((split.labels == favourite).sum()) / len(split),
    )


class Watch:
    """Turns validations into alarms, each kind said once a stage.

    *Catastrophic overfitting*: accuracy under PGD falls to half of its best or less while accuracy
    under FGSM stays or rises: the network has learned to mislead one gradient step.
    *Collapse to one class*: at two validations in a row, or at the stage's last one, a class gets
    nine tenths of the predictions and 1.5 times its share of the labels or more. Once may happen
    to any network that has hardly begun.

    Args:
        stage: The stage's name.
        state: What ``state`` was at the checkpoint; empty at the beginning.

    Attributes:
        state: JSON values: what was seen of each strength, and which kinds were said.

    Source:
        Wong et al. 2020 (2001.03994), who stop where PGD accuracy on a training batch drops.
        The thresholds are ours.
    """

    def __init__(self, stage: str, state: dict[str, Any]) -> None:
        self.stage, self.state = stage, state

    def look(
        self, epoch: int, seen: Mapping[float, Symptoms], *, best_epoch: int, last: bool
    ) -> list[str]:
        """Alarms of this validation.

        Args:
            epoch: Of the validation, from 0.
            seen: What was seen at each strength.
            best_epoch: The epoch whose weights are kept as best.
            last: Whether this validation is the stage's last.

        Returns:
            A sentence or two for each kind of alarm that is new.
        """
        kept = f"{BEST} keeps the weights of epoch {best_epoch}."
        best, crowded = (self.state.setdefault(name, {}) for name in ("best", "crowded"))
        found: dict[str, str] = {}
        for epsilon, now in seen.items():
            strength = format_epsilon(epsilon)
            collapsed = now.share >= ONE_CLASS_SHARE and now.share >= ONE_CLASS_RATIO * now.truth
            if collapsed and (last or crowded.get(strength, False)):
                found["one class"] = (
                    f"Alarm in stage {self.stage}, epoch {epoch}: {now.share:.2f} of the "
                    f"validation images are predicted as class {now.favourite}, which is the "
                    f"label of {now.truth:.2f}. The network has collapsed to one class. {kept} "
                    "Remedy: lower the learning rate, or let epsilon warm up."
                )
            crowded[strength] = collapsed
            before = best.get(strength)
            if epsilon > 0 and before is not None and _overfitted(before, now):
                found["overfitting"] = (
                    f"Alarm in stage {self.stage}, epoch {epoch}: accuracy under PGD at "
                    f"{strength} fell to {now.pgd:.3f} from {before['pgd']:.3f} in epoch "
                    f"{before['epoch']}, while under FGSM it is {now.fgsm:.3f} and was "
                    f"{before['fgsm']:.3f}. This is catastrophic overfitting. {kept} Remedy: "
                    "give the training attack more steps, shorter ones and a random start, or "
                    "train at a smaller epsilon."
                )
            if before is None or now.pgd > before["pgd"]:
                best[strength] = {"epoch": epoch, "pgd": now.pgd, "fgsm": now.fgsm}
        said = self.state.setdefault("said", [])
        new = [kind for kind in found if kind not in said]
        said += new
        return [found[kind] for kind in new]


def _overfitted(before: Mapping[str, Any], now: Symptoms) -> bool:
    fallen = now.pgd <= FALL_RATIO * before["pgd"] and now.pgd <= before["pgd"] - FALL_POINTS
    return bool(fallen and now.fgsm >= FGSM_KEPT_RATIO * before["fgsm"])
