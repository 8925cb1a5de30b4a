"""Ablations: recipes on digits and compact CIFAR-10 with one thing changed."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from equipoise.objectives import FAT, TRADES
from equipoise.objectives.fat import AUTHORS_RAISES
from equipoise.recipes import cifar10_compact as cifar10
from equipoise.recipes import digits
from equipoise.recipes.networks import WideResNetShape
from equipoise.recipes.recipe import MakeRecipe, row, variant


def _gate(name: str, summary: str, **changes: Any) -> MakeRecipe:
    """AFA on digits with some fields of its gate changed."""
    return variant(name, summary, digits.afa_digits, gate=replace(digits.GUIDED_GATE, **changes))


def _wider(name: str, summary: str, base: MakeRecipe, width: int) -> MakeRecipe:
    """Another recipe with a wider network."""
    network = WideResNetShape(depth=10, width=width)
    return row(replace(base(), name=name, network=network), summary)


def _budgets(
    data: str, base: MakeRecipe, top: float, *, stacked: bool = False
) -> Iterable[MakeRecipe]:
    """AFS Table I: single networks at k eighths of the top strength; 0 and 8 have recipes.

    Networks that are to be stacked get stages of different names, so that they do not start from
    the same weights.
    """
    for k in (1, 2, 3, 4, 5, 6, 7, 9):
        summary = f"PGD-AT at {k}/8 of the strongest strength: AFS's network #{k}."
        stage = {"stage": f"budget_{k}"} if stacked else {}
        yield variant(f"pgd_at_{data}_budget_{k}", summary, base, epsilon=top * k / 8, **stage)


def _alphas(data: str, base: MakeRecipe, alphas: Iterable[float]) -> Iterable[MakeRecipe]:
    """AFS Table II."""
    for alpha in alphas:
        name = f"afs_{data}_alpha_{alpha:g}".replace(".", "_")
        yield variant(name, f"AFS, alpha {alpha:g}.", base, alpha=alpha)


def _afa_k(strengths: tuple[float, ...]) -> MakeRecipe:
    """AFA Table 4."""
    k = len(strengths)
    name = f"afa_cifar10_compact_k{k}"
    return variant(name, f"AFA, K = {k}.", cifar10.afa_cifar10_compact, strengths=strengths)


def _fat_trades(data: str, base: MakeRecipe, top: float) -> MakeRecipe:
    """AFS Table IV, row FAT: trained at twice the strongest strength, tau from 0 to 3.

    The attack on compact CIFAR-10 has three steps instead of one, which tau would not change.
    """
    changes = {"attack": cifar10.THREE_STEPS} if data == "cifar10_compact" else {}
    return variant(
        f"fat_trades_{data}_afs",
        "Friendly adversarial training over TRADES at twice the strength, tau from 0 to 3.",
        base,
        objective=FAT(over=TRADES(), raise_at=AUTHORS_RAISES),
        epsilon=2 * top,
        **changes,
    )


DIGITS: tuple[MakeRecipe, ...] = (
    variant(
        "afs_digits_average",
        "AFS's three extractors, the mean of their logits in place of a merger.",
        digits.afs_digits,
        merger="average",
    ),
    variant(
        "afs_digits_alpha_0",
        "AFS, alpha 0: the merger sees attacked images alone.",
        digits.afs_digits,
        alpha=0.0,
    ),
    variant(
        "afs_digits_alpha_0_5", "AFS, alpha 0.5, the paper's default.", digits.afs_digits, alpha=0.5
    ),
    variant("afs_digits_alpha_0_8", "AFS, alpha 0.8.", digits.afs_digits, alpha=0.8),
    variant(
        "afs_digits_alpha_1",
        "AFS, alpha 1: the merger sees clean images alone.",
        digits.afs_digits,
        alpha=1.0,
    ),
    variant(
        "afs_digits_mask_101",
        "AFS of the first and the last extractor.",
        digits.afs_digits,
        mask="101",
    ),
    variant(
        "afs_digits_mask_011",
        "AFS of the extractors of the two highest budgets.",
        digits.afs_digits,
        mask="011",
    ),
    variant(
        "afs_digits_mask_001",
        "A merger over the extractor of the highest budget alone.",
        digits.afs_digits,
        mask="001",
    ),
    variant(
        "afa_digits_k2",
        "AFA, K = 2: no branch between clean and strongest.",
        digits.afa_digits,
        strengths=(0.0, digits.TOP),
    ),
    variant(
        "afa_digits_k5",
        "AFA, K = 5.",
        digits.afa_digits,
        strengths=tuple(digits.TOP * k / 4 for k in range(5)),
    ),
    variant(
        "afa_digits_k9",
        "AFA, K = 9.",
        digits.afa_digits,
        strengths=tuple(digits.TOP * k / 8 for k in range(9)),
    ),
    _gate(
        "afa_digits_stem",
        "AFA whose generator reads the first convolution's output.",
        placement="stem",
    ),
    _gate(
        "afa_digits_layer",
        "AFA whose generator reads the end of the first stage, robust branch before it.",
        placement="layer",
        layer="stages.0",
    ),
    _gate(
        "afa_digits_layer_clean",
        "AFA whose generator reads the end of the first stage, clean branch before it.",
        placement="layer",
        layer="stages.0",
        before="clean",
    ),
    _gate(
        "afa_digits_per_norm",
        "AFA with a small generator in front of each pair of norms.",
        placement="per_norm",
    ),
    _gate(
        "afa_digits_channels",
        "AFA with a fusing weight for each channel of each norm.",
        each="channel",
    ),
    variant(
        "afa_digits_statistics",
        "AFA whose branches have separate statistics and share the affine maps.",
        digits.afa_digits,
        separate="statistics",
    ),
    variant(
        "afa_digits_affine",
        "AFA whose branches have separate affine maps and share the statistics.",
        digits.afa_digits,
        separate="affine",
    ),
    variant(
        "afa_digits_soup",
        "The weight soup of AFA's outermost branches: 5 % clean, no generator.",
        digits.afa_digits,
        soup=0.05,
    ),
)
"""What each part of AFA and AFS contributes."""

SERIES: tuple[MakeRecipe, ...] = (
    _fat_trades("digits", digits.pgd_at_digits, digits.TOP),
    _fat_trades("cifar10_compact", cifar10.pgd_at_cifar10_compact, cifar10.TOP),
    *_budgets("digits", digits.pgd_at_digits, digits.TOP),
    *_alphas("digits", digits.afs_digits, (0.4, 0.6)),
    _wider("large_digits", "PGD-AT of a network three times as wide.", digits.pgd_at_digits, 3),
    _wider(
        "surrogate_digits",
        "Standard training of a wider network, from which attacks are transferred.",
        digits.standard_digits,
        2,
    ),
    variant(
        "pgd_at_cifar10_compact_budget_0",
        "Standard training: AFS's network #0.",
        cifar10.standard_cifar10_compact,
        stage="budget_0",
    ),
    *_budgets("cifar10_compact", cifar10.pgd_at_cifar10_compact, cifar10.TOP, stacked=True),
    *_alphas("cifar10_compact", cifar10.afs_cifar10_compact, (0, 0.2, 0.4, 0.5, 0.6, 0.8, 1)),
    *(
        variant(
            f"afs_cifar10_compact_mask_{mask}",
            f"AFS of the extractors {mask} among budgets 0, 4 and 8.",
            cifar10.afs_cifar10_compact,
            budgets=(0.0, 4 / 255, 8 / 255),
            mask=mask,
        )
        for mask in ("111", "101", "011", "001")
    ),
    variant(
        "afa_cifar10_compact_layer",
        "AFA whose generator reads the end of the first stage, robust branch before it.",
        cifar10.afa_cifar10_compact,
        gate=replace(cifar10.GUIDED_GATE, placement="layer", layer="stages.0"),
    ),
    _afa_k((0.0, 8 / 255)),
    _afa_k(cifar10.STRENGTHS),
    _afa_k(tuple(k / 255 for k in range(9))),
    variant(
        "fat_trades_cifar10_compact",
        "Friendly adversarial training over TRADES, three steps.",
        cifar10.pgd_at_cifar10_compact,
        objective=FAT(over=TRADES(), tau=1),
        attack=cifar10.THREE_STEPS,
    ),
    _wider(
        "large_cifar10_compact",
        "PGD-AT of a network three times as wide.",
        cifar10.pgd_at_cifar10_compact,
        6,
    ),
    _wider(
        "surrogate_cifar10_compact",
        "Standard training of a wider network, from which attacks are transferred.",
        cifar10.standard_cifar10_compact,
        4,
    ),
)
"""Rows of the papers' tables and points of their figures that differ in one number."""
