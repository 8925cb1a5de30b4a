"""An objective of your own: adversarial training with logit pairing, for a few steps on digits.

Run it with ``python examples/own_objective.py``. docs/how-to/your-own-objective.md explains it.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric

from equipoise import PGD, Linf
from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.data import Digits
from equipoise.evaluation import robust_accuracy
from equipoise.execution.local import execute
from equipoise.methods import Schedule
from equipoise.methods.single_network import network_stage
from equipoise.methods.stage import TrainingAttack
from equipoise.models import WideResNet
from equipoise.training import TrainingConfig
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class LogitPairing:
    """Cross-entropy of both images, plus the squared distance between their logits."""

    weight: float = 0.5

    attacks = True
    start_noise = None
    per_image_loss = True

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        return goals.cross_entropy(predict, labels)

    def losses(
        self,
        predict_clean: Predict,
        predict_adversarial: Predict,
        clean: Images,
        adversarial: Images,
        labels: Labels,
        generator: torch.Generator,
    ) -> dict[str, PerImage]:
        natural, attacked = predict_clean(clean), predict_adversarial(adversarial)
        entropy = losses.cross_entropy(natural, labels) + losses.cross_entropy(attacked, labels)
        distance = (natural - attacked).float().square().mean(dim=1)
        return {"loss": entropy / 2 + self.weight * distance, "loss_pairing": distance}


def main(folder: Path = Path("runs/own_objective")) -> None:
    dataset = Digits().load()
    stage = network_stage(
        "network",
        partial(WideResNet, depth=10, width=1, classes=10, channels=1),
        objective=LogitPairing(weight=0.5),
        epsilon=0.1,
        attack=TrainingAttack(steps=3, relative_step=0.5),
        schedule=Schedule(epochs=3, learning_rate=0.2, shape="one_cycle"),
        norm="Linf",
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    network, _ = execute(
        [stage],
        train=dataset.train,
        loop=TrainingConfig(batch_size=64, validation_images=100, validation_steps=3),
        folder=folder,
        seed=0,
        fabric=fabric,
    )
    for epsilon in (0.0, 0.1):
        accuracy = robust_accuracy(
            network,
            dataset.test,
            threat=Linf(epsilon),
            search=PGD(steps=10, relative_step=0.25, keep="best"),
            generator=torch.Generator().manual_seed(0),
        )
        print(f"accuracy at epsilon {epsilon}: {accuracy:.3f}")


if __name__ == "__main__":
    main()
