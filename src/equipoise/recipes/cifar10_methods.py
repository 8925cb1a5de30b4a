"""The main methods on CIFAR-10 at compact size: the backbone, schedule and one-step inner attack
of `pgd_at_cifar10_compact` throughout."""

from dataclasses import replace
from typing import Any

from equipoise.methods import OAT
from equipoise.objectives import AVM, FAT, IAT, LBGAT, MART, PGDAT, TLA, TRADES, AnyObjective
from equipoise.recipes import cifar10
from equipoise.recipes.recipe import Recipe


def trades_cifar10_compact() -> Recipe:
    """TRADES, beta 6."""
    return _single("trades_cifar10_compact", TRADES())


def mart_cifar10_compact() -> Recipe:
    """MART, beta 5."""
    return _single("mart_cifar10_compact", MART())


def iat_cifar10_compact() -> Recipe:
    """Interpolated adversarial training."""
    return _single("iat_cifar10_compact", IAT())


def fat_cifar10_compact() -> Recipe:
    """Friendly adversarial training over PGD-AT.

    It takes three steps: with one there is nothing to stop early.
    """
    base = _single("fat_cifar10_compact", FAT(over=PGDAT(), tau=1))
    method = base.method
    attack = replace(method.attack, steps=3, relative_step=0.5)
    return replace(base, method=replace(method, attack=attack))


def tla_cifar10_compact() -> Recipe:
    """Triplet loss adversarial training."""
    return _single("tla_cifar10_compact", TLA())


def random_budget_cifar10_compact() -> Recipe:
    """PGD-AT with a strength from 3/255 to 8/255 drawn for each image."""
    base = _single("random_budget_cifar10_compact", PGDAT())
    method: Any = base.method
    return replace(base, method=replace(method, random_budgets=tuple(k / 255 for k in range(3, 9))))


def lbgat_cifar10_compact() -> Recipe:
    """Learnable boundary guided training, with a teacher of the student's own kind."""
    return _single("lbgat_cifar10_compact", LBGAT())


def avm_cifar10_compact() -> Recipe:
    """Adversarial vertex mixup."""
    return _single("avm_cifar10_compact", AVM())


def oat_cifar10_compact() -> Recipe:
    """Once-for-all adversarial training, its FiLM layers beginning as the identity."""
    base = cifar10.pgd_at_cifar10_compact()
    method = OAT(
        epsilon=cifar10.STRENGTHS[-1],
        attack=base.method.attack,
        schedule=base.method.schedule,
        encoding="none",
        size=1,
        start="identity",
    )
    return replace(base, name="oat_cifar10_compact", method=method)


def afa_trades_cifar10_compact() -> Recipe:
    """AFA over TRADES."""
    return _afa("afa_trades_cifar10_compact", TRADES())


def afa_mart_cifar10_compact() -> Recipe:
    """AFA over MART."""
    return _afa("afa_mart_cifar10_compact", MART())


def afa_iat_cifar10_compact() -> Recipe:
    """AFA over IAT."""
    return _afa("afa_iat_cifar10_compact", IAT())


def _single(name: str, objective: AnyObjective) -> Recipe:
    base = cifar10.pgd_at_cifar10_compact()
    return replace(base, name=name, method=replace(base.method, objective=objective))


def _afa(name: str, objective: AnyObjective) -> Recipe:
    base = cifar10.afa_cifar10_compact()
    return replace(base, name=name, method=replace(base.method, objective=objective))
