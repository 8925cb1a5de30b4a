"""Accuracy on validation images at each strength, and diagnostics for alarms."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from equipoise.attacks import PGD
from equipoise.attacks.threat import THREATS
from equipoise.data import Split
from equipoise.distributed.ranks import Ranks
from equipoise.evaluation import robust_accuracy
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import TrainingError
from equipoise.training.config import TrainingConfig
from equipoise.training.micro_batches import first_line, is_out_of_memory, release_cached_memory
from equipoise.training.monitors import Diagnostics, diagnose
from equipoise.training.stage import Stage

VALIDATION_BATCH = 256
"""Images attacked at a time, if memory allows."""
_Result = TypeVar("_Result")


class Validation:
    """Attacks a task on validation images at the strengths of its stage.

    All processes share the images. Validation has its own generators, so that its frequency does
    not change the trained weights. If memory runs out in a single process, half as many images are
    attacked at a time from then on.

    Args:
        stage: Strengths and norm of the attack.
        split: Validation images on the training device.
        config: Steps of the attack.
        ranks: The processes that validate.
        seed: Random seed of the attack.
    """

    def __init__(
        self, stage: Stage, split: Split, config: TrainingConfig, ranks: Ranks, seed: int
    ) -> None:
        self.stage, self.split, self.ranks, self.seed = stage, split, ranks, seed
        self.search = PGD(steps=config.validation_steps, relative_step=0.25, keep="best")
        self.batch_size = VALIDATION_BATCH

    def __call__(self, task: Any) -> dict[float, float]:
        """Measure the accuracy at each strength; the result is the same on all ranks.

        Raises:
            TrainingError: If memory does not suffice for one image.
        """
        return self._accuracy(task, self.stage.validation)

    def clean(self, task: Any) -> float:
        """Measure the accuracy without an attack."""
        return self._accuracy(task, (0.0,))[0.0]

    def _accuracy(self, task: Any, strengths: Iterable[float]) -> dict[float, float]:
        def measure(epsilon: float) -> float:
            return robust_accuracy(
                task.predictor(epsilon), self.split, search=self.search, **self._settings(epsilon)
            )

        with _under_attack(task):
            return self._within_memory(measure, strengths)

    def diagnose(self, task: Any, scores: Mapping[float, float]) -> dict[float, Diagnostics]:
        """Measure diagnostics at each strength, given the accuracies measured before."""

        def measure(epsilon: float) -> Diagnostics:
            return diagnose(
                task.predictor(epsilon), self.split, pgd=scores[epsilon], **self._settings(epsilon)
            )

        with _under_attack(task):
            return self._within_memory(measure, scores)

    def _settings(self, epsilon: float) -> dict[str, Any]:
        return {
            "threat": THREATS[self.stage.norm](epsilon),
            "generator": self.ranks.generator(self.seed),
            "batch_size": self.batch_size,
            "autocast": self.ranks.fabric.autocast,
            "total": self.ranks.sum,
        }

    def _within_memory(
        self, measure: Callable[[float], _Result], strengths: Iterable[float]
    ) -> dict[float, _Result]:
        while True:
            try:
                return {epsilon: measure(epsilon) for epsilon in strengths}
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.ranks.world > 1:
                    raise
                message = first_line(error)
            release_cached_memory()
            if self.batch_size == 1:
                raise TrainingError(
                    f"memory does not suffice to validate one image ({message}). Earlier "
                    "checkpoints are kept. Use a smaller network or image, or a device with more "
                    "memory."
                )
            self.batch_size //= 2


@contextmanager
def _under_attack(task: Any) -> Iterator[None]:
    task.eval()
    with attack_mode(task):
        yield
