"""Recipes: Python functions that return a frozen dataclass. This dict is the catalogue."""

from collections.abc import Callable

from equipoise.recipes import (
    ablations,
    afa_paper,
    afs_paper,
    cifar10,
    cifar10_methods,
    digits,
    digits_methods,
    other_datasets_compact,
    series,
)
from equipoise.recipes.networks import (
    ImportedNetwork,
    PreActResNetShape,
    ResNetShape,
    WideResNetShape,
)
from equipoise.recipes.recipe import Evaluation, Recipe, from_json, to_json

Make = Callable[[], Recipe]
GROUPS: dict[str, tuple[Make, ...]] = {
    "Digits": (
        digits.standard_digits,
        digits.pgd_at_digits,
        digits.afa_digits,
        digits.afa_digits_plain,
        digits.afs_digits,
        digits_methods.trades_digits,
        digits_methods.mart_digits,
        digits_methods.iat_digits,
        digits_methods.fat_digits,
        digits_methods.fat_trades_digits,
        digits_methods.fat_mart_digits,
        digits_methods.tla_digits,
        digits_methods.lbgat_digits,
        digits_methods.avm_digits,
        digits_methods.random_budget_digits,
        digits_methods.oat_digits,
        digits_methods.afa_trades_digits,
        digits_methods.afa_mart_digits,
        digits_methods.afa_iat_digits,
        digits_methods.afs_trades_digits,
        digits_methods.afs_one_budget_digits,
    ),
    "Digits: AFA and AFS with one thing changed": (
        ablations.afs_digits_average,
        ablations.afs_digits_alpha_0,
        ablations.afs_digits_alpha_0_5,
        ablations.afs_digits_alpha_0_8,
        ablations.afs_digits_alpha_1,
        ablations.afs_digits_mask_101,
        ablations.afs_digits_mask_011,
        ablations.afs_digits_mask_001,
        ablations.afa_digits_k2,
        ablations.afa_digits_k5,
        ablations.afa_digits_k9,
        ablations.afa_digits_stem,
        ablations.afa_digits_per_norm,
        ablations.afa_digits_channels,
        ablations.afa_digits_statistics,
        ablations.afa_digits_affine,
        ablations.afa_digits_soup,
    ),
    "CIFAR-10, compact": (
        cifar10.standard_cifar10_compact,
        cifar10.pgd_at_cifar10_compact,
        cifar10.afa_cifar10_compact,
        cifar10.afa_cifar10_compact_plain,
        cifar10.afa_split_cifar10_compact,
        cifar10.afs_cifar10_compact,
        cifar10_methods.trades_cifar10_compact,
        cifar10_methods.mart_cifar10_compact,
        cifar10_methods.iat_cifar10_compact,
        cifar10_methods.fat_cifar10_compact,
        cifar10_methods.tla_cifar10_compact,
        cifar10_methods.random_budget_cifar10_compact,
        cifar10_methods.lbgat_cifar10_compact,
        cifar10_methods.avm_cifar10_compact,
        cifar10_methods.oat_cifar10_compact,
        cifar10_methods.afa_trades_cifar10_compact,
        cifar10_methods.afa_mart_cifar10_compact,
        cifar10_methods.afa_iat_cifar10_compact,
    ),
    "CIFAR-100, compact": other_datasets_compact.CIFAR100_COMPACT,
    "SVHN, compact": other_datasets_compact.SVHN_COMPACT,
    "Tiny-ImageNet, compact": other_datasets_compact.TINY_IMAGENET_COMPACT,
    "Series of figures": series.SERIES,
    "AFA, Figure 1": afa_paper.FIGURE_1,
    "AFA, Table 1, SVHN": afa_paper.TABLE_1_SVHN,
    "AFA, Table 1, CIFAR-10": afa_paper.TABLE_1_CIFAR10,
    "AFA, Table 2": afa_paper.TABLE_2,
    "AFA, Table 3": afa_paper.TABLE_3,
    "AFA, Table 4": afa_paper.TABLE_4,
    "AFS, Table I": afs_paper.TABLE_1,
    "AFS, Table II": afs_paper.TABLE_2,
    "AFS, Table III": afs_paper.TABLE_3,
    "AFS, Table IV": afs_paper.TABLE_4,
    "AFS, Table V": afs_paper.TABLE_5,
    "AFS, Table VI": afs_paper.TABLE_6,
}
"""All recipes as ``equipoise list`` groups them; a new one is one function and one entry."""

RECIPES: dict[str, Make] = {
    recipe.__name__: recipe for group in GROUPS.values() for recipe in group
}
"""Every recipe by name."""

__all__ = [
    "GROUPS",
    "RECIPES",
    "Evaluation",
    "ImportedNetwork",
    "Make",
    "PreActResNetShape",
    "Recipe",
    "ResNetShape",
    "WideResNetShape",
    "from_json",
    "to_json",
]
