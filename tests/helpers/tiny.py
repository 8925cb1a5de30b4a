"""Tiny splits, networks and recipes for tests, all made from a seed."""

import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from equipoise.data import DataSet, Digits, Split
from equipoise.methods import TrainingAttack
from equipoise.methods.single_network import network_stage
from equipoise.models import WideResNet
from equipoise.objectives import Standard
from equipoise.recipes import RECIPES, Evaluation, Recipe
from equipoise.runtime.reporter import NullReporter
from equipoise.training import Trainer, TrainingConfig, fit
from equipoise.training.schedule import Schedule
from equipoise.training.stage import Stage

ATTACK = TrainingAttack(steps=2, relative_step=0.5)
SCHEDULE = Schedule(epochs=2, learning_rate=0.1)
LOOP = TrainingConfig(
    batch_size=16, validation_images=16, validation_steps=1, checkpoint_seconds=0.0
)


def split(count: int = 32, classes: int = 10, seed: int = 0) -> Split:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Split(images=images, labels=labels, classes=classes)


def learnable(count: int = 64) -> Split:
    """Two classes that a linear network tells apart: dark and bright."""
    labels = torch.arange(count) % 2
    images = split(count).images // 4 + (labels * 160).to(torch.uint8)[:, None, None, None]
    return Split(images=images, labels=labels, classes=2)


def images_and_labels(count: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch of noise in [0, 1]."""
    return split(count, seed=seed).batch(slice(None))


@functools.cache
def digits(train: int = 112, test: int = 24) -> DataSet:
    """The first so many digits."""
    whole = Digits().load()
    return replace(
        whole, train=whole.train.take(slice(0, train)), test=whole.test.take(slice(0, test))
    )


def wide_resnet(classes: int = 10, seed: int = 0) -> WideResNet:
    """WRN-10-1 for one channel."""
    torch.manual_seed(seed)
    return WideResNet(depth=10, width=1, classes=classes, channels=1)


def drawn_norms(
    module: nn.Module, generator: torch.Generator, *, statistics: bool = False
) -> nn.Module:
    """Draw the scales and shifts of all batch norms and, if asked for, their statistics."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            if statistics:
                norm.running_mean.normal_(generator=generator)
                norm.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, generator=generator)
    return module


def linear(classes: int = 10, seed: int = 0) -> nn.Module:
    """A linear classifier of 8x8 images."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def fgsm_trained(data: Split) -> nn.Module:
    """A small convolutional network, trained briefly on digits with FGSM."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    )
    images, labels = data.batch(slice(None))
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(60):
        points = images.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(network(points), labels)
        (gradient,) = torch.autograd.grad(loss, points)
        attacked = (images + 0.1 * gradient.sign()).clamp(0, 1)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(attacked), labels).backward()
        optimiser.step()
    return network.eval()


def recipe(name: str = "standard_digits", **changes: Any) -> Recipe:
    """A digits recipe cut down to a few steps: two epochs, cheap attacks, a checkpoint a step."""
    found = RECIPES[name]()
    method: Any = replace(found.method, attack=ATTACK, schedule=SCHEDULE)
    for later in ("gate_schedule", "merger_schedule"):
        if hasattr(method, later):
            method = replace(method, **{later: replace(SCHEDULE, epochs=1)})
    if hasattr(method, "budgets"):
        method = replace(method, budgets=(0.1, 0.2))
    evaluation = Evaluation(epsilons=(0.0, 0.1), steps=2, restarts=1)
    return replace(found, method=method, loop=LOOP, evaluation=evaluation, **changes)


def record(model: str = "one", **changes: Any) -> dict[str, Any]:
    """A record of two images at two strengths, with what every record must hold and no more."""
    attack = {"name": "pgd"}
    suite = {"name": "quick", "accuracy": [1.0, 0.5], "attacks": [attack]}
    suite |= {"broken_at": [-1, 1], "broken_by": [None, "pgd"]}
    headline = {
        "accuracy": [1.0, 0.5],
        "interval": [[0.3, 1.0], [0.1, 0.9]],
        "average": 0.75,
        "clean_and_strongest": 0.75,
    }
    return {
        "format": 1,
        "model": model,
        "data": "digits",
        "norm": "Linf",
        "images": 2,
        "epsilons": [0.0, 0.1],
        "epsilons_written": ["0", "0.1"],
        "headline": headline,
        "suites": [suite],
        "broken_at": [-1, 1],
    } | changes


def fabric() -> Fabric:
    """The processor, in float32."""
    found = Fabric(accelerator="cpu", devices=1)
    found.launch()
    return found


def one_stage(
    make: Callable[..., nn.Module],
    objective: Any = None,
    epsilon: float = 0.0,
    *,
    name: str = "network",
    schedule: Schedule = SCHEDULE,
) -> Stage:
    """A stage that trains one network; ``Standard`` by default."""
    return network_stage(
        name,
        make,
        objective=objective or Standard(),
        epsilon=epsilon,
        attack=ATTACK,
        schedule=schedule,
        norm="Linf",
    )


def fit_stage(stage: Stage, task: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """Run one stage on tiny data."""
    images = {"train": learnable(), "validation": learnable(16)}
    images |= {name: changes.pop(name) for name in images.keys() & changes.keys()}
    settings: dict[str, Any] = {"loop": LOOP, "fabric": fabric(), "seed": 0} | changes
    trainer = Trainer(stage, task, settings.pop("loop"), **settings)
    return fit(trainer, **images, folder=folder)


def replace_attacks(monkeypatch: Any, attack: Callable[..., Tensor]) -> None:
    """Let a function make the images of every training attack.

    It is called with a function that runs the real search, and with the attack's ``module``,
    ``goal``, ``clean``, ``epsilon`` and ``start_noise`` by name.
    """
    against = TrainingAttack.against

    @contextlib.contextmanager
    def replaced(settings: TrainingAttack, module: nn.Module, start_noise: float | None = None):
        with against(settings, module, start_noise) as search:

            def run(goal: Any, clean: Tensor, threat: Any, generator: torch.Generator) -> Tensor:
                return attack(
                    lambda: search(goal, clean, threat, generator),
                    module=module,
                    goal=goal,
                    clean=clean,
                    epsilon=threat.epsilon,
                    start_noise=start_noise,
                )

            yield run

    monkeypatch.setattr(TrainingAttack, "against", replaced)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class AfterSteps(NullReporter):
    """Calls something once, when a stage has done so many steps; ``stages`` are those begun.

    The loop reports every fifth step of an epoch and its last one.
    """

    def __init__(self, steps: int, act: Any, stage: str | None = None) -> None:
        self.steps, self.act, self.stage = steps, act, stage
        self.stages: list[str] = []
        self.lines: list[str] = []

    def begin(self, stage: str, steps: int, done: int) -> None:
        """Remember the stage."""
        self.stages.append(stage)

    def step(self, done: int, text: str) -> None:
        """Act, once."""
        here = self.stage is None or self.stages[-1] == self.stage
        if here and done >= self.steps and self.act is not None:
            act, self.act = self.act, None
            act()

    def log(self, text: str) -> None:
        """Remember the line."""
        self.lines.append(text)


def together(calls: dict[Any, Callable[[], Tensor]], stem: nn.Module) -> dict[Any, Tensor]:
    """What calls from threads of their own answer, all under way before one is past the stem."""
    meet, answers = threading.Barrier(len(calls), timeout=30), {}

    def wait(module: nn.Module, inputs: Any, output: Any) -> None:
        meet.wait()

    def call(key: Any) -> None:
        answers[key] = calls[key]()

    handle = stem.register_forward_hook(wait)
    threads = [threading.Thread(target=call, args=(key,)) for key in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    return answers
