"""What is measured on validation images: accuracy at each strength, and symptoms."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from equipoise.attacks import PGD
from equipoise.data import Split
from equipoise.distributed.ranks import Ranks
from equipoise.evaluation import robust_accuracy
from equipoise.methods.stage import THREATS, Stage
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import TrainingError
from equipoise.training.config import TrainingConfig
from equipoise.training.micro_batches import is_out_of_memory
from equipoise.training.monitors import Symptoms, symptoms

VALIDATION_BATCH = 256
"""Images attacked at the same time, if memory allows."""
_Measured = TypeVar("_Measured")


class Validation:
    """Attacks a task on validation images at the stage's strengths; the ranks share them out.

    It draws from generators of its own: how often one validates must not change what is trained.
    Where memory does not suffice, it takes half as many images at once from then on, unless several
    processes validate.

    Args:
        stage: Its strengths and norm.
        split: Validation images on the device.
        loop: Steps of the attack.
        ranks: Who validates.
        seed: Of the stage.
    """

    def __init__(
        self, stage: Stage, split: Split, loop: TrainingConfig, ranks: Ranks, seed: int
    ) -> None:
        self.stage, self.split, self.ranks, self.seed = stage, split, ranks, seed
        self.search = PGD(steps=loop.validation_steps, relative_step=0.25, keep="best")
        self.at_once = VALIDATION_BATCH

    def __call__(self, task: Any) -> dict[float, float]:
        """Accuracy at each strength, the same on every rank.

        Raises:
            TrainingError: If memory does not suffice for one image.
        """

        def measure() -> dict[float, float]:
            return {
                epsilon: robust_accuracy(
                    task.predictor(epsilon),
                    self.split,
                    threat=THREATS[self.stage.norm](epsilon),
                    search=self.search,
                    generator=self.ranks.generator(self.seed),
                    batch_size=self.at_once,
                    autocast=self.ranks.fabric.autocast,
                    total=self.ranks.sum,
                )
                for epsilon in self.stage.validation
            }

        with _under_attack(task):
            return self._that_fits(measure)

    def symptoms(self, task: Any, scores: Mapping[float, float]) -> dict[float, Symptoms]:
        """What alarms are made from, with each strength's accuracy as measured before."""

        def measure() -> dict[float, Symptoms]:
            return {
                epsilon: symptoms(
                    task.predictor(epsilon),
                    self.split,
                    threat=THREATS[self.stage.norm](epsilon),
                    pgd=score,
                    generator=self.ranks.generator(self.seed),
                    batch_size=self.at_once,
                    autocast=self.ranks.fabric.autocast,
                    total=self.ranks.sum,
                )
                for epsilon, score in scores.items()
            }

        with _under_attack(task):
            return self._that_fits(measure)

    def _that_fits(self, measure: Callable[[], _Measured]) -> _Measured:
        while True:
            try:
                return measure()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.ranks.world > 1:
                    raise
                said = (str(error) or type(error).__name__).splitlines()[0]
            # Out of the except clause: the error's frames hold the tensors that must go.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.at_once == 1:
                raise TrainingError(
                    f"memory does not suffice to validate one image ({said}). Earlier checkpoints "
                    "are kept. Use a smaller network or image, or a device with more memory."
                )
            self.at_once //= 2


@contextmanager
def _under_attack(task: Any) -> Iterator[None]:
    task.eval()
    with attack_mode(task):
        yield
