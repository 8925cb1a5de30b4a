"""Rows of the papers' ablation tables that differ in one number, on digits and compact CIFAR-10."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from equipoise.objectives import FAT, TRADES
from equipoise.recipes import cifar10, digits
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import Recipe, row

Make = Callable[[], Recipe]


def _named(name: str, what: str, base: Make, **method: Any) -> Make:
    """Another recipe, with fields of its method set otherwise."""
    found = base()
    changed: Any = replace(found.method, **method)
    return row(replace(found, name=name, method=changed), what)


def _wider(name: str, what: str, base: Make, depth: int, width: int) -> Make:
    """Another recipe, with a larger network."""
    network = WideResNetShape(depth=depth, width=width)
    return row(replace(base(), name=name, network=network), what)


def _budgets(place: str, base: Make, top: float, *, stacked: bool = False) -> Iterable[Make]:
    """AFS Table I: single networks at k eighths of the top strength; 0 and 8 have recipes.

    Networks that are to be stacked draw their weights by names of their own.
    """
    for k in (1, 2, 3, 4, 5, 6, 7, 9):
        what = f"PGD-AT at {k}/8 of the strongest strength: AFS's network #{k}."
        own = {"stage": f"budget_{k}"} if stacked else {}
        yield _named(f"pgd_at_{place}_budget_{k}", what, base, epsilon=top * k / 8, **own)


def _alphas(place: str, base: Make, alphas: Iterable[float]) -> Iterable[Make]:
    """AFS Table II."""
    for alpha in alphas:
        name = f"afs_{place}_alpha_{alpha:g}".replace(".", "_")
        yield _named(name, f"AFS, alpha {alpha:g}.", base, alpha=alpha)


def _afa_k(k: int, strengths: tuple[float, ...]) -> Make:
    name = f"afa_cifar10_compact_k{k}"
    return _named(name, f"AFA, K = {k}.", cifar10.afa_cifar10_compact, strengths=strengths)


SERIES: tuple[Make, ...] = (
    *_budgets("digits", digits.pgd_at_digits, digits.STRENGTHS[-1]),
    *_alphas("digits", digits.afs_digits, (0.4, 0.6)),
    _wider(
        "large_digits",
        "PGD-AT of a network three times as wide.",
        digits.pgd_at_digits,
        depth=10,
        width=3,
    ),
    _wider(
        "surrogate_digits",
        "Standard training of a wider network, from which attacks are transferred.",
        digits.standard_digits,
        depth=10,
        width=2,
    ),
    _named(
        "pgd_at_cifar10_compact_budget_0",
        "Standard training: AFS's network #0.",
        cifar10.standard_cifar10_compact,
        stage="budget_0",
    ),
    *_budgets(
        "cifar10_compact", cifar10.pgd_at_cifar10_compact, cifar10.STRENGTHS[-1], stacked=True
    ),
    *_alphas("cifar10_compact", cifar10.afs_cifar10_compact, (0, 0.2, 0.4, 0.5, 0.6, 0.8, 1)),
    *(
        _named(
            f"afs_cifar10_compact_mask_{mask}",
            f"AFS of the extractors {mask} among budgets 0, 4 and 8.",
            cifar10.afs_cifar10_compact,
            budgets=(0.0, 4 / 255, 8 / 255),
            mask=mask,
        )
        for mask in ("111", "101", "011", "001")
    ),
    _afa_k(2, (0.0, 8 / 255)),
    _afa_k(5, cifar10.STRENGTHS),
    _afa_k(9, tuple(k / 255 for k in range(9))),
    _named(
        "fat_trades_cifar10_compact",
        "Friendly adversarial training over TRADES, three steps.",
        cifar10.pgd_at_cifar10_compact,
        objective=FAT(over=TRADES(), tau=1),
        attack=replace(cifar10.pgd_at_cifar10_compact().method.attack, steps=3, relative_step=0.5),
    ),
    _wider(
        "large_cifar10_compact",
        "PGD-AT of a network three times as wide.",
        cifar10.pgd_at_cifar10_compact,
        depth=10,
        width=6,
    ),
    _wider(
        "surrogate_cifar10_compact",
        "Standard training of a wider network, from which attacks are transferred.",
        cifar10.standard_cifar10_compact,
        depth=10,
        width=4,
    ),
)
"""Recipe functions, made rather than written: each is a number's worth of text."""
