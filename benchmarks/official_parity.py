"""Parity with the authors' own code, run beside checkouts that the caller names.

Run it from the repository::

    python benchmarks/official_parity.py --trades ../TRADES --mart ../MART --fat ../Friendly-... \
        --lbgat ../LBGAT --oat ../Once-for-All-... --afs ../afs_code \\
        --avm ../cifar10_challenge --tla ../Metric_Learning_Adversarial_Robustness \\
        --gat ../GAMA-GAT --nfgsm ../N-FGSM

Each checkout is that of the method's authors. Nothing of them is copied: their functions are
imported, or compiled from the file that holds them, with ``cuda`` replaced by a function that does
nothing, and with the same random start as ours. Everything is in float64. Compared are the loss of
a step, its gradients and the adversarial images; the record has the largest relative difference of
each, to be below 1e-9.

AVM and TLA are TensorFlow 1 code, which current Python cannot run. AVM's images and labels are made
in NumPy: only its gradients are ours. TLA's ``triplet_loss`` runs with the few functions that it
takes from TensorFlow, such as ``reduce_sum``, replaced by those of torch; their choice of positives
and negatives, from which ours deviates, is not compared.
"""

import argparse
import datetime
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from official_scripts import avm, gat, nfgsm, tla
from parity_setup import (
    ATTACK,
    EPSILON,
    IMAGES,
    STEP_SIZE,
    STEPS,
    Differences,
    batch,
    drawn_once,
    functions_of,
    gradients,
    imported,
    network,
    on_cpu,
    our_step,
    relative,
)
from torch import Tensor, nn
from torch.nn import functional

from equipoise.attacks.threat import Linf
from equipoise.methods import AFS, TrainingAttack
from equipoise.methods.afs import MergerTask
from equipoise.models import FeatureStack
from equipoise.objectives import FAT, LBGAT, MART, PGDAT, TRADES, Objective
from equipoise.runtime.environment import environment
from equipoise.runtime.files import write_json
from equipoise.training.schedule import Schedule

LIMIT = 1e-9


def loss_function(
    official: Callable[..., Tensor], objective: Objective, *teachers: nn.Module, beta: float
) -> Differences:
    """TRADES, MART and LBGAT: one function makes the images and returns the loss."""
    net, (images, labels) = network(), batch()
    noise = drawn_once(torch.randn, images)
    loss, adversarial = our_step(objective, net, images, labels, images + 0.001 * noise)
    own = gradients(net, *teachers)
    net, seen = network(), list[Tensor]()  # a fresh one: the step moved the running statistics

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append(inputs[0].detach().clone())

    hook = net.register_forward_pre_hook(record)
    with on_cpu(("randn", noise)):
        theirs = official(
            net,
            *teachers,
            images,
            labels,
            torch.optim.SGD(net.parameters(), lr=0.1),
            step_size=STEP_SIZE,
            epsilon=EPSILON,
            perturb_steps=STEPS,
            beta=beta,
        )
        theirs.backward()
    hook.remove()
    (their_images,) = (given for given in seen if not torch.equal(given, images))
    return {
        "loss": relative(loss, theirs.detach()),
        "gradient": relative(own, gradients(net, *teachers)),
        "images": relative(adversarial, their_images),
    }


def trades(folder: Path) -> Differences:
    """TRADES, beta 6."""
    return loss_function(imported(folder, "trades").trades_loss, TRADES(beta=6.0), beta=6.0)


def mart(folder: Path) -> Differences:
    """MART, beta 5."""
    return loss_function(imported(folder, "mart").mart_loss, MART(beta=5.0), beta=5.0)


def lbgat(folder: Path) -> Differences:
    """LBGAT with TRADES, beta 6; the gradients are those of network and teacher."""
    teacher = network(seed=5).train()
    objective = LBGAT(beta=6.0).with_companion(teacher)
    official = imported(folder, "lbgat").lbgat_loss
    return loss_function(official, objective, teacher, beta=6.0)


def fat(folder: Path) -> Differences:
    """FAT for TRADES, tau 1: the images of early-stopped PGD, in the order of the batch."""
    net, (images, labels) = network(), batch()
    labels[: IMAGES // 2] = net.eval()(images)[: IMAGES // 2].argmax(dim=1)  # right at the start
    noise = drawn_once(torch.randn, images)
    objective = FAT(over=TRADES(), tau=1)
    _, adversarial = our_step(objective, net, images, labels, images + 0.001 * noise)
    net = network()  # a fresh one: the step moved the running statistics
    module: Any = imported(folder, "earlystop")
    module.nn, module.F = nn, functional  # its star import takes them from its networks
    with on_cpu(("randn", noise)):
        start = "normal_distribution_randominit"
        settings = (STEP_SIZE, EPSILON, STEPS, 1, start, "kl")
        found, _, natural, _ = module.earlystop(net, images, labels, *settings)
    rows = [int((natural == image).flatten(1).all(dim=1).nonzero()[0]) for image in images]
    return {"images": relative(adversarial, found[rows])}


def oat(folder: Path) -> Differences:
    """OAT's training attack: seven steps of 1.25 epsilon / 7."""
    net, (images, labels) = network().eval(), batch()
    draw = drawn_once(torch.rand, images)
    search = TrainingAttack(steps=7, relative_step=1.25 / 7).search()
    goal, start = PGDAT().goal(net, images, labels), images + (2 * draw - 1) * EPSILON
    adversarial = search(goal, images, Linf(EPSILON), torch.Generator(), start)
    with on_cpu(("rand", draw)):
        found = imported(folder, "attacks.pgd").PGD(EPSILON).attack(net, images, labels)
    return {"images": relative(adversarial, found.detach())}


class _OneBatch:
    """A loader of one batch that calls itself two long, since their log divides by half of it."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.batch = images, labels

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.batch


def afs(folder: Path) -> Differences:
    """AFS's merger with alpha 0.5, a step of their ``train``: gradients of merger and bias."""
    images, labels = batch(count=10)
    torch.manual_seed(7)
    stack = FeatureStack([network(1), network(2)], 10).double()
    schedule = Schedule(epochs=1, learning_rate=0.1)
    method = AFS(
        objective=PGDAT(),
        budgets=(0.1, 0.2),
        attack=ATTACK,
        schedule=schedule,
        merger_schedule=schedule,
        alpha=0.5,
        merger_epsilon=EPSILON,
        split_batch=True,
    )
    start, seen = 0.6 * EPSILON * torch.ones_like(images[5:]), []
    with mock.patch.object(Linf, "random_start", lambda self, clean, generator: clean + start):
        task = MergerTask(stack, method).train()
        task(images, labels, torch.Generator(), 0.0)["loss"].backward()
    own = gradients(stack.merger)
    optimiser = types.SimpleNamespace(
        param_groups=[{}], zero_grad=lambda: None, step=lambda: seen.append(gradients(stack.merger))
    )
    draws = (torch.full_like(start, 0.6), torch.zeros_like(start))
    scope = {
        "torch": torch,
        "ta": torch.autograd,
        "tqdm": lambda given: given,
        "criterion_cross_entropy": nn.CrossEntropyLoss(),
        "classifier": stack.merger,
        "brother": types.SimpleNamespace(brother_feature_forward=stack.features),
        "optimizer": optimiser,
        "args": types.SimpleNamespace(ratio=0.5, root_path=""),
        "batch_size": len(images),
        "lr": 0.1,
        "decay": [3, 6, 9, 10000],
        "trainloader": _OneBatch(images, labels),
    }
    stack.eval()
    with on_cpu(), mock.patch.object(torch, "rand_like", side_effect=draws):
        functions_of(folder / "train_feature_brother.py", scope)["train"](0)
    return {"gradient": relative(own, seen[0])}


METHODS: dict[str, Callable[[Path], Differences]] = {
    "trades": trades,
    "mart": mart,
    "fat": fat,
    "lbgat": lbgat,
    "oat": oat,
    "avm": avm,
    "tla": tla,
    "gat": gat,
    "nfgsm": nfgsm,
    "afs": afs,
}


def commit_of(folder: Path) -> str | None:
    """The commit of a checkout; ``None`` without its history."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def main() -> None:
    """Compare, print, write the record; end with status 1 if a difference is too large."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in METHODS:
        parser.add_argument(f"--{name}", type=Path, help="checkout of the authors' repository")
    default = Path(__file__).with_suffix(".json")
    parser.add_argument("--record", type=Path, default=default, help="by default beside the script")
    given = vars(parser.parse_args())
    torch.set_default_dtype(torch.float64)
    found: dict[str, Any] = {}
    for name, compare in METHODS.items():
        if given[name] is not None:
            found[name] = {"differences": compare(given[name]), "commit": commit_of(given[name])}
            values = found[name]["differences"].items()
            print(name, *(f"{part} {value:.1e}" for part, value in values))
    if not found:
        parser.error("name at least one checkout, such as --trades PATH.")
    record = {
        "benchmark": "official_parity",
        "date": datetime.date.today().isoformat(),
        "limit": LIMIT,
        "methods": found,
        "environment": environment(),
    }
    write_json(given["record"], record)
    worst = max(value for entry in found.values() for value in entry["differences"].values())
    print(f"largest relative difference {worst:.1e}, to be below {LIMIT:g}")
    sys.exit(worst >= LIMIT)


if __name__ == "__main__":
    main()
