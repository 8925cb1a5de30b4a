"""Every training method the papers name, on digits: one backbone, one schedule, one evaluation."""

from dataclasses import replace
from typing import Any

from equipoise.methods import OAT, SingleNetwork
from equipoise.objectives import AVM, FAT, IAT, LBGAT, MART, PGDAT, TLA, TRADES, AnyObjective
from equipoise.recipes import digits
from equipoise.recipes.digits import ATTACK, SCHEDULE, STRENGTHS
from equipoise.recipes.recipe import Recipe

TOP = STRENGTHS[-1]


def trades_digits() -> Recipe:
    """TRADES, beta 6."""
    return _single("trades_digits", TRADES())


def mart_digits() -> Recipe:
    """MART, beta 5."""
    return _single("mart_digits", MART())


def iat_digits() -> Recipe:
    """Interpolated adversarial training."""
    return _single("iat_digits", IAT())


def fat_digits() -> Recipe:
    """Friendly adversarial training over PGD-AT, stopped one step after the flip."""
    return _single("fat_digits", FAT(over=PGDAT(), tau=1))


def fat_trades_digits() -> Recipe:
    """Friendly adversarial training over TRADES."""
    return _single("fat_trades_digits", FAT(over=TRADES(), tau=1))


def fat_mart_digits() -> Recipe:
    """Friendly adversarial training over MART."""
    return _single("fat_mart_digits", FAT(over=MART(), tau=1))


def tla_digits() -> Recipe:
    """Triplet loss adversarial training."""
    return _single("tla_digits", TLA(noise=TOP))


def lbgat_digits() -> Recipe:
    """Learnable boundary guided training, with a teacher of the student's own kind."""
    return _single("lbgat_digits", LBGAT())


def avm_digits() -> Recipe:
    """Adversarial vertex mixup: it hides gradients, which the self-checks say."""
    return _single("avm_digits", AVM())


def random_budget_digits() -> Recipe:
    """PGD-AT with a strength drawn for each image."""
    base = _single("random_budget_digits", PGDAT())
    assert isinstance(base.method, SingleNetwork)
    return replace(base, method=replace(base.method, random_budgets=STRENGTHS))


def oat_digits() -> Recipe:
    """Once-for-all adversarial training, its FiLM layers beginning as the identity."""
    method = OAT(
        epsilon=TOP,
        attack=ATTACK,
        schedule=SCHEDULE,
        encoding="none",
        size=1,
        start="identity",
    )
    return replace(digits.standard_digits(), name="oat_digits", method=method)


def afa_trades_digits() -> Recipe:
    """AFA over TRADES."""
    return _afa("afa_trades_digits", TRADES())


def afa_mart_digits() -> Recipe:
    """AFA over MART."""
    return _afa("afa_mart_digits", MART())


def afa_iat_digits() -> Recipe:
    """AFA over IAT."""
    return _afa("afa_iat_digits", IAT())


def afs_trades_digits() -> Recipe:
    """AFS whose extractors are trained by TRADES."""
    base = digits.afs_digits()
    return replace(base, name="afs_trades_digits", method=replace(base.method, objective=TRADES()))


def afs_one_budget_digits() -> Recipe:
    """AFS of three extractors of one budget: what is stacking budgets, what just an ensemble."""
    base = digits.afs_digits()
    method: Any = base.method
    return replace(
        base, name="afs_one_budget_digits", method=replace(method, budgets=(TOP, TOP, TOP))
    )


def _single(name: str, objective: AnyObjective) -> Recipe:
    base = digits.pgd_at_digits()
    return replace(base, name=name, method=replace(base.method, objective=objective))


def _afa(name: str, objective: AnyObjective) -> Recipe:
    base = digits.afa_digits()
    return replace(base, name=name, method=replace(base.method, objective=objective))
