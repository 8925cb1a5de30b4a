"""One adversarial training step: as our loop makes it, and as peers write it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from equipoise.distributed.ranks import FloatInputPrecision
from equipoise.methods import AFA, TrainingAttack
from equipoise.methods.afa import BranchTask
from equipoise.methods.single_network import NetworkTask
from equipoise.models import BranchedNetwork, WideResNet, with_branches
from equipoise.objectives import PGDAT, AnyObjective
from equipoise.runtime.malloc import keep_freed_memory
from equipoise.training.schedule import Schedule

EPSILON, STEP_SIZE, RATE = 8 / 255, 2 / 255, 1e-3
STRENGTHS = {
    2: (0.0, 8 / 255),
    3: (0.0, 4 / 255, 8 / 255),
    5: (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255),
    9: tuple(number / 255 for number in range(9)),
}
TOLERANCE = 1e-6
"""Of losses in float64; one attack step less, or a step half as long, changes them a hundred times
as much."""
Step = Callable[[], Tensor]


def network(depth: int, width: int) -> WideResNet:
    """A wide ResNet with norms that do something, as after some training."""
    torch.manual_seed(0)
    made = WideResNet(depth=depth, width=width, classes=10)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return made


def batch(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, size, size, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def sgd(module: nn.Module) -> torch.optim.SGD:
    """The papers' optimiser."""
    return torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)


def pgd_task(net: nn.Module, steps: int) -> NetworkTask:
    """PGD-AT at 8/255."""
    attack = TrainingAttack(steps=steps, step_size=STEP_SIZE, relative_step=None)
    return NetworkTask(net, PGDAT(), EPSILON, attack, "Linf")


def branch_task(
    net: nn.Module,
    branches: int,
    steps: int,
    *,
    split_batch: bool,
    objective: AnyObjective | None = None,
) -> BranchTask:
    """AFA's stage I, over PGD-AT by default."""
    schedule = Schedule(epochs=1, learning_rate=0.1)
    method = AFA(
        objective=objective or PGDAT(),
        strengths=STRENGTHS[branches],
        attack=TrainingAttack(steps=steps),
        split_batch=split_batch,
        schedule=schedule,
        gate_schedule=schedule,
    )
    return BranchTask(with_branches(net, branches), method)


def our_step(
    task: nn.Module, images: Tensor, labels: Tensor, precision: str = "bf16-mixed"
) -> Step:
    """What ``equipoise.training.Trainer`` does with one batch, and with its process."""
    keep_freed_memory()
    mixed = precision == "bf16-mixed"
    plugins = [FloatInputPrecision("cpu")] if mixed else None
    fabric: Any = Fabric(
        accelerator="cpu", devices=1, precision=None if mixed else precision, plugins=plugins
    )
    fabric.launch()
    if precision == "64-true":
        images = images.double()
    else:
        task.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    module, optimiser = fabric.setup(task, sgd(task))
    generator = torch.Generator().manual_seed(2)

    def step() -> Tensor:
        task.train()
        terms = module(images, labels, generator, 0.5)
        optimiser.zero_grad()
        fabric.backward(terms["loss"])
        values = torch.stack([term.detach().double() for term in terms.values()])
        if not bool(values.isfinite().all()):
            raise FloatingPointError("the loss is not finite")
        optimiser.step()
        return terms["loss"].detach()

    return step


def peer_attack(
    predict: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    step_size: float,
    steps: int,
    generator: torch.Generator,
    *,
    lean: bool,
) -> Tensor:
    """PGD as peers write it: float32, NCHW, a loss read back each step. With ``lean`` the gradient
    is taken for the images alone, else through the weights, by ``loss.backward()``."""
    noise = torch.empty_like(images).uniform_(-1.0, 1.0, generator=generator)
    adversarial = torch.clamp(images + epsilon * noise, 0, 1)
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_(True)
        loss = functional.cross_entropy(predict(adversarial), labels)
        if lean:
            (gradient,) = torch.autograd.grad(loss, [adversarial])
        else:
            model.zero_grad()
            loss.backward()
            assert adversarial.grad is not None
            gradient = adversarial.grad
            loss.item()
        adversarial = adversarial.detach() + step_size * torch.sign(gradient)
        adversarial = torch.min(torch.max(adversarial, images - epsilon), images + epsilon)
        adversarial = torch.clamp(adversarial, 0, 1)
    return adversarial.detach()


def peer_step(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    *,
    lean: bool,
    half: bool = False,
) -> Step:
    """PGD-AT's step as peers write it. With ``half`` in bfloat16 and channels_last, which none of
    them has: what is left of ours is then our loop."""
    optimiser, generator = sgd(net), torch.Generator().manual_seed(2)
    predict: Callable[[Tensor], Tensor] = net
    if half:
        net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

        def predict(shown: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return net(shown).float()

    def step() -> Tensor:
        net.eval()
        adversarial = peer_attack(
            predict, net, images, labels, EPSILON, STEP_SIZE, steps, generator, lean=lean
        )
        net.train()
        optimiser.zero_grad()
        loss = functional.cross_entropy(predict(adversarial), labels)
        loss.backward()
        optimiser.step()
        loss.item()
        return loss.detach()

    return step


def algorithm_1(
    net: BranchedNetwork, images: Tensor, labels: Tensor, steps: int, *, lean: bool
) -> Step:
    """AFA's stage I as its Algorithm 1 is printed: one path after the other."""
    optimiser, generator = sgd(net), torch.Generator().manual_seed(2)
    strengths = STRENGTHS[net.branches]

    def step() -> Tensor:
        net.eval()
        given = [images]
        for path, epsilon in enumerate(strengths[1:], start=1):
            through = partial(net, branch=path)
            given.append(
                peer_attack(
                    through, net, images, labels, epsilon, epsilon / 4, steps, generator, lean=lean
                )
            )
        net.train()
        optimiser.zero_grad()
        loss = torch.zeros(())
        for path, part in enumerate(given):
            own = functional.cross_entropy(net(part, branch=path), labels)
            own.item()
            loss = loss + own / len(given)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def exact(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """A peer's network and batch in float64. In float32 ten signs of gradients near 0 end in other
    images after one rounding, on a network as deep as WRN-28-10 in a third of all pixels."""
    return net.double(), images.double(), labels


def check_equal(steps: Sequence[Step], what: str) -> list[float]:
    """Refuse alternatives whose losses, in float64, differ by more than rounding.

    Returns:
        The loss of each in a second step, after an update from the same weights and start.
    """
    for _ in range(2):
        losses = [float(step()) for step in steps]
        if max(losses) - min(losses) > TOLERANCE * abs(losses[0]):
            raise ValueError(f"{what}: the alternatives do not compute the same: losses {losses}.")
    return losses
