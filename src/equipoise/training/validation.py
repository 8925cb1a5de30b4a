"""What is measured on validation images: accuracy at each strength, and symptoms."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from equipoise.attacks import PGD
from equipoise.data import Split
from equipoise.evaluation import robust_accuracy
from equipoise.methods.stage import THREATS, Stage
from equipoise.models import attack_mode
from equipoise.training.alarms import Symptoms, symptoms
from equipoise.training.loop import Loop
from equipoise.training.ranks import Ranks


class Validation:
    """Attacks a task on validation images at the stage's strengths; the ranks share them out.

    It draws from generators of its own: how often one validates must not change what is trained.

    Args:
        stage: Its strengths and norm.
        split: Validation images on the device.
        loop: Steps of the attack.
        ranks: Who validates.
        seed: Of the stage.
    """

    def __init__(self, stage: Stage, split: Split, loop: Loop, ranks: Ranks, seed: int) -> None:
        self.stage, self.split, self.ranks, self.seed = stage, split, ranks, seed
        self.search = PGD(steps=loop.validation_steps, relative_step=0.25, keep="best")

    def __call__(self, task: Any) -> dict[float, float]:
        """Accuracy at each strength, the same on every rank."""
        with _under_attack(task):
            return {
                epsilon: robust_accuracy(
                    task.predictor(epsilon),
                    self.split,
                    threat=THREATS[self.stage.norm](epsilon),
                    search=self.search,
                    generator=self.ranks.generator(self.seed),
                    autocast=self.ranks.fabric.autocast,
                    total=self.ranks.sum,
                )
                for epsilon in self.stage.validation
            }

    def symptoms(self, task: Any, scores: Mapping[float, float]) -> dict[float, Symptoms]:
        """What alarms are made from, with each strength's accuracy as measured before."""
        with _under_attack(task):
            return {
                epsilon: symptoms(
                    task.predictor(epsilon),
                    self.split,
                    threat=THREATS[self.stage.norm](epsilon),
                    pgd=score,
                    generator=self.ranks.generator(self.seed),
                    autocast=self.ranks.fabric.autocast,
                    total=self.ranks.sum,
                )
                for epsilon, score in scores.items()
            }


@contextmanager
def _under_attack(task: Any) -> Iterator[None]:
    task.eval()
    with attack_mode(task):
        yield
