"""One attack of AutoAttack as an attack of an evaluation.

The package itself cannot resume, reports no progress and takes one strength; so each part is run as
an ordinary attack, on batches of surviving images.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from equipoise.attacks.autoattack import AutoAttack, Part
from equipoise.attacks.finishable_goals import PassCount
from equipoise.attacks.threat import Threat
from equipoise.evaluation.asked_model import fold_of, misclassifies
from equipoise.evaluation.attack import Attack, AttackResult, Autocast, Kind
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, Logits, Predict

SETTINGS: dict[str, dict[str, int]] = {
    "apgd-ce": {"steps": 100, "restarts": 1},
    "apgd-t": {"steps": 100, "restarts": 1, "targets": 9},
    "fab-t": {"steps": 100, "restarts": 1, "targets": 9},
    "square": {"queries": 5000, "restarts": 1},
}
"""The package's own settings, for the record."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackPart(Attack):
    """One of the four attacks of AutoAttack.

    Args:
        part: Name of the attack.
        seed: Random seed.
        classes: Number of classes.

    Raises:
        ValueError: See ``AutoAttack``; from ``run``, if the model has a reject option.

    Example:
        >>> from equipoise.evaluation.autoattack_part import AutoAttackPart
        >>> AutoAttackPart(part="apgd-t", seed=0, classes=5).describe()["targets"]
        4
    """

    part: Part
    seed: int
    classes: int

    def __post_init__(self) -> None:
        self._attack()

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
        if fold_of(model) is not None:
            raise InvalidInput(
                "the package of AutoAttack has no rule for a reject option: it would count "
                "rejected images as broken. Use the suite standard."
            )
        passes = PassCount()

        def counted(points: Images) -> Logits:
            passes.add(points)
            return model(points)

        adversarial = self._attack()(counted, images, labels, threat)
        with torch.no_grad():
            broken = misclassifies(model, adversarial, labels)
        return AttackResult(
            broken=broken,
            images=adversarial,
            forward_passes=passes.forward,
            backward_passes=passes.backward,
        )

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key."""
        settings = dict(SETTINGS[self.part])
        if "targets" in settings:
            settings["targets"] = self._attack().targets
        return {
            "name": self.part,
            "kind": self.kind,
            "by": "pyautoattack",
            "seed": self.seed,
            **settings,
        }

    def _attack(self) -> AutoAttack:
        return AutoAttack(classes=self.classes, parts=(self.part,), seed=self.seed)
