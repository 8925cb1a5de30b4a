"""Parity with authors' code that is a script or TensorFlow 1: AVM, TLA, GAT, N-FGSM."""

import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
from parity_setup import (
    EPSILON,
    STEP_SIZE,
    STEPS,
    Differences,
    batch,
    drawn_once,
    functions_of,
    gradients,
    imported,
    loop_of,
    network,
    on_cpu,
    our_step,
    relative,
)
from torch import Tensor, nn
from torch.nn import functional

from equipoise.methods import TrainingAttack
from equipoise.models.last_linear import features_and_logits
from equipoise.objectives import AVM, GAT, PGDAT, TLA
from equipoise.objectives import tla as our_tla


def avm(folder: Path) -> Differences:
    """AVM: ``perturb_avmixup``, whose session asks our network for gradients."""
    net, (images, labels) = network(), batch()
    noise = (2 * drawn_once(torch.rand, images) - 1) * EPSILON
    weights = torch.linspace(0.05, 0.95, len(images), dtype=torch.float64)
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach()) if module.training else None
    )
    with mock.patch("equipoise.objectives.avm.rand", return_value=weights):
        loss, _ = our_step(AVM(), net, images, labels, images + noise)
    hook.remove()
    own, asked = gradients(net), network().eval()

    def to_pixels(given: Tensor) -> Any:
        return 255 * given.permute(0, 2, 3, 1).numpy()

    def run(_: Any, feed_dict: dict[str, Any]) -> Any:
        given = torch.from_numpy(feed_dict["x"] / 255).permute(0, 3, 1, 2).requires_grad_(True)
        entropy = functional.cross_entropy(asked(given), torch.from_numpy(feed_dict["y"]))
        return to_pixels(torch.autograd.grad(entropy, given)[0])

    model = types.SimpleNamespace(
        x_input="x", y_input="y", is_training="mode", xent=None, num_classes=10
    )
    tensorflow: Any = types.SimpleNamespace(gradients=lambda *_: [None])
    with mock.patch.dict(sys.modules, {"tensorflow": tensorflow, "cifar10_input": tensorflow}):
        attack = imported(folder, "pgd_attack").LinfPGDAttack(
            model, 255 * EPSILON, STEPS, 255 * STEP_SIZE, True, "xent"
        )
    shares = weights.numpy()[:, None, None, None]
    with (
        mock.patch.object(numpy.random, "uniform", return_value=to_pixels(noise)),
        mock.patch.object(numpy.random, "beta", return_value=shares),
    ):
        one_hot = numpy.eye(10)[labels.numpy()]
        session = types.SimpleNamespace(run=run)
        mixed, targets = attack.perturb_avmixup(
            to_pixels(images), one_hot, 2.0, 1.0, 0.1, session, False
        )
    mixed, targets = torch.from_numpy(mixed / 255).permute(0, 3, 1, 2), torch.from_numpy(targets)
    net = network().train()
    theirs = functional.cross_entropy(net(mixed), targets)
    theirs.backward()
    return {
        "loss": relative(loss, theirs.detach()),
        "gradient": relative(own, gradients(net)),
        "images": relative(seen[0], mixed),
    }


def tla(folder: Path) -> Differences:
    """TLA: ``triplet_loss`` with their settings for CIFAR-10, on the same triplets."""
    net, (images, labels) = network(), batch()
    labels = torch.arange(len(labels)) // 2  # two images of each class
    noise = (2 * drawn_once(torch.rand, images) - 1) * EPSILON
    loss, adversarial = zero_noise_step(net, images, labels, images + noise)
    own = gradients(net)
    net = network().train()
    anchor, logits = features_and_logits(net, adversarial)
    noisy, _ = features_and_logits(net, images)
    natural, _ = features_and_logits(net, images)
    same = labels[:, None] == labels[None]
    negative = natural[our_tla._hardest_negative(anchor, natural, same)]
    second = natural[torch.arange(len(labels)) ^ 1]  # the other image of the class
    scope = {"tf": TENSORFLOW}
    triplet = functions_of(folder / "utils.py", scope)["triplet_loss"]
    terms = [triplet(anchor, near, negative, "cos", 1e-3, 0.03)[0] for near in (noisy, second)]
    theirs = functional.cross_entropy(logits, labels) + 2 * (terms[0] + terms[1])
    theirs.backward()
    return {"loss": relative(loss, theirs.detach()), "gradient": relative(own, gradients(net))}


def zero_noise_step(
    net: nn.Module, images: Tensor, labels: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """A step of TLA whose first positive is the clean image itself."""
    with mock.patch.object(our_tla, "uniform_like", lambda clean, *_: torch.zeros_like(clean)):
        return our_step(TLA(), net, images, labels, start)


class _Fixed(nn.Module):
    """A network whose mode never changes: GAT's code predicts in both, ours in the attack's."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network().eval()
        self.seen: list[Tensor] = []

    def train(self, mode: bool = True) -> "_Fixed":
        """Change nothing."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Predict, and note the images."""
        self.seen.append(images.detach().clone())
        return self.network(images)


def gat(folder: Path) -> Differences:
    """GAT: a step of their training loop, with the distance in the attack."""
    net, (images, labels) = _Fixed(), batch()
    draw = drawn_once(torch.rand, images)
    start = images + (0.5 - draw).sign() * EPSILON / 2
    attack = TrainingAttack(steps=1, relative_step=1.0)
    loss, adversarial = our_step(GAT(), net, images, labels, start, attack)
    own, net, found = gradients(net), _Fixed(), list[Any]()
    optimiser = types.SimpleNamespace(
        zero_grad=net.zero_grad, step=lambda: found.append(gradients(net))
    )
    scope: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "Variable": lambda given, requires_grad=False: given.requires_grad_(requires_grad),
        "zero_gradients": lambda given: None,
        "sys": sys,
        "train_loader": [(images.clone(), labels)],
        "model": net,
        "loss": nn.CrossEntropyLoss(),
        "optimizer": optimiser,
        **{"B_val": 255 * EPSILON / 2, "Feps": 255 * EPSILON, "l_ce": 1.0, "l2_reg": 10.0},
        **{
            "counter": 1,
            "iteration": 1,
            "epoch": 0,
            "train_size": 1,
            "TRAIN_BATCH_SIZE": 1,
            "MAX_EPOCHS": 1,
        },
        **{"total_ce_loss": torch.zeros(1), "total_reg_loss": torch.zeros(1)},
    }
    file = folder / "CIFAR10" / "GAT_cifar10.py"
    functions_of(file, scope)
    with on_cpu(), mock.patch.object(torch, "rand_like", return_value=draw):
        loop_of(file, "for data, target in train_loader", scope)
    return {
        "loss": relative(loss, scope["cost"].detach()),
        "gradient": relative(own, found[0]),
        "images": relative(adversarial, net.seen[-2]),
    }


def nfgsm(folder: Path) -> Differences:
    """N-FGSM: a step of their training loop, attacked in training mode."""
    net, (images, labels) = network(), batch()
    noise = (2 * drawn_once(torch.rand, images) - 1) * 2 * EPSILON
    start = (images + noise).clamp(0, 1)
    attack = TrainingAttack(steps=1, relative_step=1.0, noise=2.0, mode="train")
    loss, adversarial = our_step(PGDAT(), net, images, labels, start, attack)
    own, net, seen, found = gradients(net), network().train(), list[Tensor](), list[Any]()
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    channels = iter(noise.unbind(dim=1))

    def uniform(part: Tensor, *_: float) -> Tensor:
        return part.copy_(next(channels))

    unused: Any = types.SimpleNamespace(datasets=None, transforms=None)
    with mock.patch.dict(sys.modules, {"torchvision": unused}):
        module = imported(folder, "utils.attack_utils")
    scope: dict[str, Any] = {
        "torch": torch,
        "F": functional,
        "train_loader": [(images.clone(), labels, None)],
        "args": types.SimpleNamespace(dataset="CIFAR10", unif=2.0, clip=-1),
        "epsilon": torch.full((3, 1, 1), EPSILON, dtype=torch.float64),
        "alpha": EPSILON,
        "attack_utils": module.AttackUtils(torch.zeros(1), torch.ones(1), 1),
        "model": net,
        "opt": types.SimpleNamespace(
            zero_grad=net.zero_grad, step=lambda: found.append(gradients(net))
        ),
        "scheduler": types.SimpleNamespace(step=lambda: None),
        **{"train_loss": 0.0, "train_acc": 0, "train_n": 0, "iter_count": 0},
    }
    with on_cpu(), mock.patch.object(Tensor, "uniform_", uniform):
        loop_of(folder / "train.py", "for i, (X, y, batch_idx) in enumerate(train_loader)", scope)
    return {
        "loss": relative(loss, scope["loss"].detach()),
        "gradient": relative(own, found[0]),
        "images": relative(adversarial, seen[-1]),
    }


TENSORFLOW = types.SimpleNamespace(
    abs=torch.abs,
    expand_dims=torch.unsqueeze,
    maximum=torch.clamp_min,
    reduce_mean=lambda value, axis=None: value.mean() if axis is None else value.mean(axis),
    reduce_sum=lambda value, axis: value.sum(axis),
    reshape=torch.reshape,
    shape=lambda value: value.shape,
)
"""What ``triplet_loss`` takes from TensorFlow."""
