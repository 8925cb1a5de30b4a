"""AutoAttack: its four attacks at their original settings, run by its own package.

Equipoise calls nothing else AutoAttack.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from equipoise.attacks.threat import Linf, Threat, check_images
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, Logits, Predict

Part = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
PARTS: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The attacks of the standard version, in its order."""


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """AutoAttack's standard version, or some of its four attacks.

    Args:
        classes: Number of classes. The targeted attacks aim at 9 wrong classes, or at all of them
            if there are fewer.
        parts: Names of the attacks.
        seed: Random seed; the package starts from it again for every batch.

    Raises:
        ValueError: If there are fewer than 4 classes; from a call, if the package is not installed.

    Source:
        Croce and Hein 2020; https://github.com/fra31/auto-attack, through ``pyautoattack``.
        Deviation: with fewer than 10 classes, the number of targets is reduced as its documentation
        requires.

    Example:
        >>> import torch
        >>> from equipoise.attacks import AutoAttack
        >>> from equipoise.attacks.threat import Linf
        >>> images, labels = torch.full((1, 1, 1, 4), 0.5), torch.tensor([0])
        >>> attack = AutoAttack(classes=4, parts=("apgd-ce",))
        >>> attack(torch.nn.Flatten(), images, labels, Linf(0.25)).flatten()[0].item()
        0.25
    """

    classes: int
    parts: tuple[Part, ...] = PARTS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes < 4:
            raise InvalidInput(
                f"AutoAttack needs 4 classes or more, got {self.classes}: its targeted loss uses "
                "the fourth largest logit. Use the suite standard, which uses the margin instead."
            )

    @property
    def targets(self) -> int:
        """Number of wrong classes that the targeted attacks aim at."""
        return min(9, self.classes - 1)

    def __call__(self, model: Predict, images: Images, labels: Labels, threat: Threat) -> Images:
        """Return adversarial images, or the clean image where no attack succeeds.

        Args:
            model: Images to logits, without randomness; it is asked in float32.
            images: ``(batch, channel, height, width)`` in [0, 1].
            labels: Class indices.
            threat: ``Linf`` or ``L2``.
        """
        try:
            import pyautoattack
        except ImportError as error:
            raise InvalidInput(
                "AutoAttack needs the package pyautoattack: pip install 'equipoise[autoattack]'."
            ) from error
        check_images(images)
        # Its warnings about the model repeat what the self-checks report.
        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            package = pyautoattack.AutoAttack(
                _InEvalMode(model),
                norm="Linf" if isinstance(threat, Linf) else "L2",
                eps=float(threat.epsilon),
                seed=self.seed,
                device=images.device,
                version="standard",
            )
            package.attacks_to_run = list(self.parts)
            package.apgd_targeted.n_target_classes = self.targets
            package.fab.n_target_classes = self.targets
            adversarial: Images
            adversarial, _ = package.run_standard_evaluation(
                images.contiguous(), labels.long(), batch_size=len(images)
            )
        return adversarial.detach()


class _InEvalMode(nn.Module):
    """A model in eval mode, as the package asks for one."""

    def __init__(self, predict: Predict) -> None:
        super().__init__()
        self.predict = predict
        self.eval()

    def forward(self, images: Images) -> Logits:
        return self.predict(images)
