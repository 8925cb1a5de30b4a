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
    "Digits": digits.DIGITS,
    "Digits: AFA and AFS with one thing changed": ablations.DIGITS,
    "CIFAR-10, compact": cifar10_compact.CIFAR10_COMPACT,
    "CIFAR-100, compact": other_datasets_compact.CIFAR100_COMPACT,
    "SVHN, compact": other_datasets_compact.SVHN_COMPACT,
    "Tiny-ImageNet, compact": other_datasets_compact.TINY_IMAGENET_COMPACT,
    "Ablations in one number": ablations.SERIES,
    "AFA, Figure 1": afa_paper.FIGURE_1,
    "AFA, Table 1, SVHN": afa_paper.TABLE_1_SVHN,
    "AFA, Table 1, CIFAR-10": afa_paper.TABLE_1_CIFAR10,
    "AFA, Table 1, CIFAR-10: other readings of Sec. 4.3": afa_paper.READINGS,
    "AFA, Table 2": afa_paper.TABLE_2,
    "AFA, Table 3": afa_paper.TABLE_3,
    "AFA, Table 4": afa_paper.TABLE_4,
    "AFA, Figure 6": afa_paper.FIGURE_6,
    "AFS, Table I": afs_paper.TABLE_1,
    "AFS, Table II": afs_paper.TABLE_2,
    "AFS, Table III": afs_paper.TABLE_3,
    "AFS, Table IV": afs_paper.TABLE_4,
    "AFS, Table V": afs_paper.TABLE_5,
    "AFS, Table VI": afs_paper.TABLE_6,
}
"""All recipes as ``equipoise list`` groups them. To add one: one entry in its group."""

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
