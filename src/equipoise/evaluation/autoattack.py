"""AutoAttack's four attacks at their original settings, run by its own package.

Only this is ever called AutoAttack. The package's own resumption does not work, it is silent and
takes one strength; so the engine feeds it batches of survivors and keeps the state.
"""

import contextlib
import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from equipoise.attacks.goals import PassCount, misclassified
from equipoise.attacks.threat import Linf, Threat
from equipoise.evaluation.attack import Attack, AttackResult, Autocast, Kind
from equipoise.types import Images, Labels, Logits, Predict

Part = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
PARTS: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The standard version, in its order."""

SETTINGS: dict[str, dict[str, int]] = {
    "apgd-ce": {"steps": 100, "restarts": 1},
    "apgd-t": {"steps": 100, "restarts": 1, "targets": 9},
    "fab-t": {"steps": 100, "restarts": 1, "targets": 9},
    "square": {"queries": 5000, "restarts": 1},
}


@dataclass(frozen=True, kw_only=True)
class AutoAttackPart(Attack):
    """One part of AutoAttack.

    Args:
        part: Which one.
        seed: The package draws everything from it anew for every batch.
        classes: Number of classes. The targeted parts aim at 9, or at all wrong ones where there
            are fewer; with fewer than 4 classes ``apgd-t`` cannot run.

    Raises:
        ValueError: If there are too few classes; from ``run``, if the package is not installed.

    Source:
        Croce and Hein 2020; https://github.com/fra31/auto-attack, through ``pyautoattack``.
        Deviation: with fewer than 10 classes the number of targets is cut, as its documentation
        asks for.
    """

    part: Part
    seed: int
    classes: int

    def __post_init__(self) -> None:
        if self.classes < 4:
            raise ValueError(
                f"AutoAttack needs 4 classes or more, got {self.classes}: its targeted loss takes "
                "the fourth largest logit. Use the suite standard, which has the margin instead."
            )

    @property
    def name(self) -> str:
        """The package's own name of the part."""
        return self.part

    @property
    def kind(self) -> Kind:
        """Square sees logits alone."""
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
        """Attack a batch, always in float32; the generator is not used."""
        try:
            from pyautoattack import AutoAttack
        except ImportError as error:
            raise ValueError(
                "the suite autoattack needs the package pyautoattack: "
                "pip install 'equipoise[autoattack]'."
            ) from error
        counted = _Counted(model)
        labels = labels.long()
        # Its notes about the model are what the self-checks say in their own words.
        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            judge = AutoAttack(
                counted,
                norm="Linf" if isinstance(threat, Linf) else "L2",
                eps=float(threat.epsilon),
                seed=self.seed,
                device=images.device,
                version="standard",
            )
            judge.attacks_to_run = [self.part]
            judge.apgd_targeted.n_target_classes = min(9, self.classes - 1)
            judge.fab.n_target_classes = min(9, self.classes - 1)
            images = images.contiguous()
            found, _ = judge.run_standard_evaluation(images, labels, batch_size=len(images))
        with torch.no_grad():
            broken = misclassified(model(found), labels)
        return AttackResult(
            broken=broken,
            images=found.detach(),
            forward_passes=counted.passes.forward,
            backward_passes=counted.passes.backward,
        )

    def describe(self) -> dict[str, Any]:
        """Its settings, for the record."""
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
