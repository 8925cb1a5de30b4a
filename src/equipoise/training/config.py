"""Settings of the training loop."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from equipoise.data import Augmentation, DataError
from equipoise.runtime.errors import InvalidInput

VALIDATION_SHARE = 0.2
"""Largest share of the training part that is held out for validation."""
Averaging = Literal["none", "ema", "swa"]
_DEFAULT_STARTS: dict[str, float] = {"none": 0.0, "ema": 0.025, "swa": 0.75}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the training loop, the same for every method.

    Args:
        batch_size: Images per step, over all processes together. AFA's stage I trains on K times
            as many.
        validation_images: Images held out of the training part to choose the best epoch, but at
            most a fifth of it.
        validation_steps: PGD steps of the validation attack, each of size epsilon / 4.
        validate_every: Epochs between validations; the last epoch is always validated.
        augmentation: Shifts and flips of training images.
        precision: ``"bf16-mixed"`` runs networks under autocast; weights and scores stay float32.
        channels_last: Use the channels-last memory layout for networks and images.
        sync_batch_norm: When several processes share a batch, normalise training batches by the
            statistics of the whole batch, not of each process's images.
        checkpoint_seconds: Longest time between checkpoints.
        averaging: Average of the weights that is validated and kept: ``"ema"`` for an exponential
            moving average over steps, ``"swa"`` for the mean over ends of epochs, with running
            statistics measured again for it.
        averaging_decay: Decay of ``"ema"`` per step, [0, 1).
        averaging_start: Share of a stage's steps, [0, 1), after which averaging begins; before
            that, the weights themselves are validated and kept. The default is 0.025 for ``"ema"``
            and 0.75 for ``"swa"``.
        awp_gamma: Strength of adversarial weight perturbation: length of each layer's perturbation
            relative to the norm of its weights. 0 turns it off; the authors use 0.005 and 0.01. A
            step then takes twice the time.
        awp_start: Share of a stage's steps, [0, 1), after which weight perturbation begins.
        extra: ``.npz`` file with arrays ``image`` (uint8; rows, height, width, channel) and
            ``label``, such as a generated data set. Its images are mixed into every batch.
        extra_share: Share of extra images in a batch, in (0, 1). The number of steps per epoch
            stays the same, so an epoch contains only the remaining share of the training images.
        clean_budget: For a trained network as start: the clean accuracy on validation images that
            the kept weights may have lost, (0, 1]; 0.05 is five points. The most robust epoch
            within the budget is kept. ``None`` keeps the most robust of all.
        alarms: Report when a stage overfits catastrophically or collapses to one class. Costs one
            gradient step and one forward pass per validation image and strength.

    Raises:
        ValueError: If a number is out of range, or ``averaging`` is unknown.

    Source:
        Averages: Gowal et al. 2020 (2010.03593), whose decay and start are the defaults, and
        Izmailov et al. 2018 (1803.05407); perturbation: Wu et al. 2020 (2004.05884); extra images:
        Gowal et al. 2021 (2110.09468).

    Example:
        >>> TrainingConfig(batch_size=256, averaging="ema").averages_from
        0.025
        >>> TrainingConfig(batch_size=0)
        Traceback (most recent call last):
        equipoise...InvalidInput: batch_size must be 1 or more, got 0.
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
    clean_budget: float | None = None
    alarms: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "validation_images", "validation_steps", "validate_every"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.averaging not in get_args(Averaging):
            raise InvalidInput(f"averaging must be none, ema or swa, got {self.averaging!r}.")
        for name in ("averaging_decay", "averaging_start", "awp_start"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise InvalidInput(f"{name} must be in [0, 1), got {share}.")
        if not 0 < self.extra_share < 1:
            raise InvalidInput(
                f"extra_share must be between 0 and 1, got {self.extra_share}. To train without "
                "extra images, leave extra out."
            )
        if self.clean_budget is not None and not 0 < self.clean_budget <= 1:
            raise InvalidInput(
                "clean_budget must be a share of the images in (0, 1], such as 0.05, got "
                f"{self.clean_budget}."
            )
        if not (self.awp_gamma >= 0 and math.isfinite(self.awp_gamma)):
            raise InvalidInput(f"awp_gamma must be 0 or more, got {self.awp_gamma}.")

    def held_out(self, images: int) -> int:
        """Number of images held out for validation.

        Args:
            images: Number of images of the training part.

        Raises:
            DataError: If there are fewer than two.

        Example:
            >>> TrainingConfig(validation_images=1000).held_out(1600)
            320
        """
        if images < 2:
            raise DataError(
                f"training needs 2 images or more, one of them for validation, got {images}; give "
                "data with a training part."
            )
        return min(self.validation_images, max(1, int(images * VALIDATION_SHARE)))

    def describe_images(self, images: int) -> str:
        """Describe in one sentence what becomes of the images of the training part.

        Example:
            >>> TrainingConfig(batch_size=128).describe_images(1600)
            '1,280 images are trained on, 10 batches of 128 per epoch; 320 are for validation.'
        """
        held_out = self.held_out(images)
        trained_on = images - held_out
        size = min(self.batch_size, trained_on)
        batches = (
            f"{trained_on // size} batch{'es' * (trained_on >= 2 * size)} of {size:,} per epoch"
        )
        if size < self.batch_size:
            batches += f" (fewer than --loop.batch-size {self.batch_size})"
        return f"{trained_on:,} images are trained on, {batches}; {held_out:,} are for validation."

    @property
    def averages_from(self) -> float:
        """Share of a stage's steps after which averaging begins."""
        if self.averaging_start is not None:
            return self.averaging_start
        return _DEFAULT_STARTS[self.averaging]
