"""AutoAttack: its four attacks at their original settings, run by its own package.

Equipoise calls nothing else AutoAttack. The package itself cannot resume, reports no progress and
takes one strength; so each part is run as an ordinary attack, on batches of surviving images.
"""

import contextlib
import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from equipoise.attacks.finishable_goals import PassCount
from equipoise.attacks.threat import Linf, Threat
from equipoise.evaluation.asked_model import fold_of, misclassifies
from equipoise.evaluation.attack import Attack, AttackResult, Autocast, Kind
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, Logits, Predict

Part = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
PARTS: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The parts of the standard version, in its order."""

SETTINGS: dict[str, dict[str, int]] = {
    "apgd-ce": {"steps": 100, "restarts": 1},
    "apgd-t": {"steps": 100, "restarts": 1, "targets": 9},
    "fab-t": {"steps": 100, "restarts": 1, "targets": 9},
    "square": {"queries": 5000, "restarts": 1},
}


@dataclass(frozen=True, kw_only=True)
class AutoAttackPart(Attack):
    """One of the four attacks of AutoAttack.

    Args:
        part: Name of the attack.
        seed: Random seed; the package starts from it again for every batch.
        classes: Number of classes. The targeted attacks aim at 9 wrong classes, or at all of them
            if there are fewer.

    Raises:
        ValueError: If there are fewer than 4 classes; from ``run``, if the package is not
            installed.

    Source:
        Croce and Hein 2020; https://github.com/fra31/auto-attack, through ``pyautoattack``.
        Deviation: with fewer than 10 classes, the number of targets is reduced as its documentation
        requires.

    Example:
        >>> from equipoise.evaluation.autoattack import AutoAttackPart
        >>> AutoAttackPart(part="apgd-t", seed=0, classes=5).describe()["targets"]
        4
    """

    part: Part
    seed: int
    classes: int

    def __post_init__(self) -> None:
        if self.classes < 4:
            raise InvalidInput(
                f"AutoAttack needs 4 classes or more, got {self.classes}: its targeted loss uses "
                "the fourth largest logit. Use the suite standard, which uses the margin instead."
            )

    @property
    def name(self) -> str:
        """The package's own name of the attack."""
        return self.part

    @property
    def kind(self) -> Kind:
        """What the attacker knows: Square uses the logits alone."""
        return "black box" if self.part == "square" else "white box"

    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
        autocast: Autocast = contextlib.nullcontext,
    ) -> AttackResult:
        """Attack a batch, always in float32. The generator is not used."""
        try:
            from pyautoattack import AutoAttack
        except ImportError as error:
            raise InvalidInput(
                "the suite autoattack needs the package pyautoattack: "
                "pip install 'equipoise[autoattack]'."
            ) from error
        if fold_of(model) is not None:
            raise InvalidInput(
                "the package of AutoAttack has no rule for a reject option: it would count "
                "rejected images as broken. Use the suite standard."
            )
        counted = _Counted(model)
        labels = labels.long()
        # Its warnings about the model repeat what the self-checks report.
        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            autoattack = AutoAttack(
                counted,
                norm="Linf" if isinstance(threat, Linf) else "L2",
                eps=float(threat.epsilon),
                seed=self.seed,
                device=images.device,
                version="standard",
            )
            autoattack.attacks_to_run = [self.part]
            autoattack.apgd_targeted.n_target_classes = min(9, self.classes - 1)
            autoattack.fab.n_target_classes = min(9, self.classes - 1)
            images = images.contiguous()
            adversarial, _ = autoattack.run_standard_evaluation(
                images, labels, batch_size=len(images)
            )
        with torch.no_grad():
            broken = misclassifies(model, adversarial, labels)
        return AttackResult(
            broken=broken,
            images=adversarial.detach(),
            forward_passes=counted.passes.forward,
            backward_passes=counted.passes.backward,
        )

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key."""
        settings = dict(SETTINGS[self.part])
        if "targets" in settings:
            settings["targets"] = min(9, self.classes - 1)
        return {
            "name": self.part,
            "kind": self.kind,
            "by": "pyautoattack",
            "seed": self.seed,
            **settings,
        }


class _Counted(nn.Module):
    """A model in eval mode, as the package asks for one, that counts its passes."""

    def __init__(self, predict: Predict) -> None:
        super().__init__()
        self.predict, self.passes = predict, PassCount()
        self.eval()

    def forward(self, images: Images) -> Logits:
        self.passes.add(images)
        return self.predict(images)
