"""How stages are run, and who is told about it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from equipoise.data import Augmentation

Averaging = Literal["none", "ema", "swa"]
_STARTS: dict[str, float] = {"none": 0.0, "ema": 0.025, "swa": 0.75}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How stages are run, whatever they train.

    Args:
        batch_size: Images a step, of all processes together. AFA's stage I makes K times as many
            of them.
        validation_images: Held out of the training part; the best epoch is chosen on them.
        validation_steps: PGD steps of the validation attack, of epsilon / 4 each.
        validate_every: Epochs between validations; the last epoch always is one.
        augmentation: Shifts and flips of training images.
        precision: ``"bf16-mixed"`` runs networks under autocast; weights and scores stay float32.
        channels_last: Memory layout of networks and images.
        sync_batch_norm: Where several processes share a batch, batch norms use the statistics of
            the whole batch in training, not of a process's own images. One process has no need.
        checkpoint_seconds: Longest time between checkpoints.
        averaging: Validate and keep an average of the weights: ``"ema"`` a moving one over steps,
            ``"swa"`` the mean over ends of epochs, with norm statistics measured anew.
        averaging_decay: Of ``"ema"``: what a step keeps of the average, [0, 1).
        averaging_start: Share of a stage's steps after which averaging begins, [0, 1); until then
            the weights themselves are validated and kept. By default 0.025 for ``"ema"`` and 0.75
            for ``"swa"``.
        awp_gamma: Adversarial weight perturbation: length of the perturbation of each layer as a
            share of its weights' norm; 0 for none. 0.005 and 0.01 are the authors' values. A step
            then takes twice the time.
        awp_start: Share of a stage's steps after which perturbation begins, [0, 1).
        extra: A file ``.npz`` with the arrays ``image`` (uint8, rows of height, width, channel)
            and ``label``: images that are mixed into every batch, as generated sets come.
        extra_share: Their share of a batch, in (0, 1). An epoch keeps its number of steps, so it
            shows only the other share of the training images.
        alarms: Say when a stage overfits catastrophically or collapses to one class: one more
            gradient step and forward pass for each validation image and strength.

    Raises:
        ValueError: If a number is out of range, or ``averaging`` is unknown.

    Source:
        Averages: Gowal et al. 2020 (2010.03593), whose decay and start are the defaults, and
        Izmailov et al. 2018 (1803.05407); perturbation: Wu et al. 2020 (2004.05884); extra images:
        Gowal et al. 2021 (2110.09468).
    """

    batch_size: int = 128
    validation_images: int = 1000
    validation_steps: int = 10
    validate_every: int = 1
    augmentation: Augmentation = Augmentation()
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = True
    sync_batch_norm: bool = False
    checkpoint_seconds: float = 60.0
    averaging: Averaging = "none"
    averaging_decay: float = 0.995
    averaging_start: float | None = None
    awp_gamma: float = 0.0
    awp_start: float = 0.0
    extra: Path | None = None
    extra_share: float = 0.7
    alarms: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "validation_steps", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.averaging not in get_args(Averaging):
            raise ValueError(f"averaging must be none, ema or swa, got {self.averaging!r}.")
        for name in ("averaging_decay", "averaging_start", "awp_start"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}.")
        if not 0 < self.extra_share < 1:
            raise ValueError(
                f"extra_share must be between 0 and 1, got {self.extra_share}. To train without "
                "extra images leave `extra` out."
            )
        if not (self.awp_gamma >= 0 and math.isfinite(self.awp_gamma)):
            raise ValueError(f"awp_gamma must be 0 or more, got {self.awp_gamma}.")

    @property
    def averages_from(self) -> float:
        """Share of a stage's steps after which averaging begins."""
        if self.averaging_start is not None:
            return self.averaging_start
        return _STARTS[self.averaging]
