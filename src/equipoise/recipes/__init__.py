"""Recipes: Python functions without arguments that return a frozen dataclass. The catalogue.

- ``digits``: every method on digits, in under a minute each (``trades_digits``).
- ``cifar10_compact``: the main methods on CIFAR-10 for two cores (``trades_cifar10_compact``).
- ``other_datasets_compact``: the same on CIFAR-100, SVHN and Tiny-ImageNet.
- ``ablations``: recipes of the first two with one thing changed.
- ``afa_paper``, ``afs_paper``: the papers' tables at full scale (``trades_cifar10_paper``).
"""

from equipoise.recipes import (
    ablations,
    afa_paper,
    afs_paper,
    cifar10_compact,
    digits,
    other_datasets_compact,
)
from equipoise.recipes.networks import (
    ImportedNetwork,
    PreActResNetShape,
    ResNet9Shape,
    ResNetShape,
    WideResNetShape,
)
from equipoise.recipes.recipe import Evaluation, MakeRecipe, Recipe, from_json, to_json

GROUPS: dict[str, tuple[MakeRecipe, ...]] = {
    "Digits": (
        digits.standard_digits,
        digits.pgd_at_digits,
        digits.afa_digits,
        digits.afa_digits_plain,
        digits.afs_digits,
        digits.trades_digits,
        digits.mart_digits,
        digits.iat_digits,
        digits.fat_digits,
        digits.fat_trades_digits,
        digits.fat_mart_digits,
        digits.tla_digits,
        digits.lbgat_digits,
        digits.avm_digits,
        digits.random_budget_digits,
        digits.oat_digits,
        digits.afa_trades_digits,
        digits.afa_mart_digits,
        digits.afa_iat_digits,
        digits.afs_trades_digits,
        digits.afs_one_budget_digits,
    ),
    "Digits: AFA and AFS with one thing changed": ablations.DIGITS,
    "CIFAR-10, compact": (
        cifar10_compact.standard_cifar10_compact,
        cifar10_compact.pgd_at_cifar10_compact,
        cifar10_compact.afa_cifar10_compact,
        cifar10_compact.afa_cifar10_compact_plain,
        cifar10_compact.afa_split_cifar10_compact,
        cifar10_compact.afs_cifar10_compact,
        cifar10_compact.trades_cifar10_compact,
        cifar10_compact.mart_cifar10_compact,
        cifar10_compact.iat_cifar10_compact,
        cifar10_compact.fat_cifar10_compact,
        cifar10_compact.tla_cifar10_compact,
        cifar10_compact.random_budget_cifar10_compact,
        cifar10_compact.lbgat_cifar10_compact,
        cifar10_compact.avm_cifar10_compact,
        cifar10_compact.oat_cifar10_compact,
        cifar10_compact.afa_trades_cifar10_compact,
        cifar10_compact.afa_mart_cifar10_compact,
        cifar10_compact.afa_iat_cifar10_compact,
    ),
    "CIFAR-100, compact": other_datasets_compact.CIFAR100_COMPACT,
    "SVHN, compact": other_datasets_compact.SVHN_COMPACT,
    "Tiny-ImageNet, compact": other_datasets_compact.TINY_IMAGENET_COMPACT,
    "Ablations in one number": ablations.SERIES,
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
"""All recipes as ``equipoise list`` groups them. To add one: one function and one entry."""

RECIPES: dict[str, MakeRecipe] = {
    recipe.__name__: recipe for group in GROUPS.values() for recipe in group
}
"""Every recipe by name."""

__all__ = [
    "GROUPS",
    "RECIPES",
    "Evaluation",
    "ImportedNetwork",
    "MakeRecipe",
    "PreActResNetShape",
    "Recipe",
    "ResNet9Shape",
    "ResNetShape",
    "WideResNetShape",
    "from_json",
    "to_json",
]
