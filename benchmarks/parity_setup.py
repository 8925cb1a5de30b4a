"""What ``official_parity.py`` compares with: a network, a batch, a step, the authors' functions."""

import ast
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Linf
from equipoise.methods import TrainingAttack
from equipoise.models import WideResNet
from equipoise.objectives import Batch, Objective

EPSILON, STEP_SIZE, STEPS, IMAGES = 8 / 255, 2 / 255, 10, 8
ATTACK = TrainingAttack(steps=STEPS, step_size=STEP_SIZE, relative_step=None)
Differences = dict[str, float]


def network(seed: int = 0) -> nn.Module:
    """WRN-10-1 in float64, with norms that do something."""
    torch.manual_seed(seed)
    made = WideResNet(depth=10, width=1, classes=10).double()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return made


def batch(count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """Images whose ball stays inside the pixel box, so that no clipping differs; and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 32, 32, generator=generator, dtype=torch.float64)
    return 0.1 + 0.8 * images, torch.randint(10, (count,), generator=generator)


def drawn_once(draw: Callable[..., Tensor], images: Tensor) -> Tensor:
    """The random numbers of both starts."""
    generator = torch.Generator().manual_seed(3)
    return draw(images.shape, dtype=torch.float64, generator=generator)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300))


def gradients(*modules: nn.Module) -> Tensor:
    """All gradients, which are then cleared."""
    found = [p.grad.flatten() for m in modules for p in m.parameters() if p.grad is not None]
    for module in modules:
        module.zero_grad()
    return torch.cat(found)


@contextlib.contextmanager
def on_cpu(*draws: tuple[str, Tensor]) -> Iterator[None]:
    """Let ``cuda`` do nothing, and functions of torch that draw return given numbers instead.

    For another shape they return zeros: FAT adds noise of weight 0 at every step.
    """

    def drawn(value: Tensor, shape: torch.Size) -> Tensor:
        return value if shape == value.shape else torch.zeros(shape, dtype=value.dtype)

    with contextlib.ExitStack() as stack:
        for kind in (Tensor, nn.Module):
            stack.enter_context(mock.patch.object(kind, "cuda", lambda self, *_: self))
        for name, value in draws:
            stack.enter_context(mock.patch.object(torch, name, partial(drawn, value)))
        yield


def imported(folder: Path, name: str) -> Any:
    """A module of a checkout, without what other checkouts call by the same names."""
    for known in list(sys.modules):
        if known.split(".")[0] in ("models", "utils", "attacks"):
            del sys.modules[known]
    sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def functions_of(file: Path, scope: dict[str, Any]) -> dict[str, Any]:
    """Compile the functions of a script, and nothing else of it, into a scope."""
    tree = ast.parse(file.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    exec(compile(tree, str(file), "exec"), scope)  # the caller named this checkout
    return scope


def loop_of(file: Path, line: str, scope: dict[str, Any]) -> None:
    """Run a loop of a script: the innermost one that starts with this line."""
    text = file.read_text()
    loops = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.For) and text.splitlines()[node.lineno - 1].strip().startswith(line)
    ]
    tree = ast.Module(body=[loops[0]], type_ignores=[])
    exec(compile(tree, str(file), "exec"), scope)  # the caller named this checkout


def our_step(
    objective: Objective,
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    attack: TrainingAttack = ATTACK,
) -> tuple[Tensor, Tensor]:
    """Our loss of a step, after its backward pass, and its adversarial images."""
    net.train()
    goal, generator = objective.goal(net, images, labels), torch.Generator()
    with attack.against(net, objective.start_noise) as search:
        adversarial = search(goal, images, Linf(EPSILON), generator, start)
    given = Batch(
        clean=images,
        adversarial=adversarial,
        labels=labels,
        predict_clean=net,
        predict_adversarial=net,
        generator=generator,
    )
    loss = objective.losses(given)["loss"].mean()
    loss.backward()
    return loss.detach(), adversarial
