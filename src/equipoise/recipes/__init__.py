"""Recipes: Python functions that return a frozen dataclass. This dict is the catalogue."""

from collections.abc import Callable

from equipoise.recipes import cifar10, digits
from equipoise.recipes.recipe import Evaluation as Evaluation
from equipoise.recipes.recipe import Recipe as Recipe
from equipoise.recipes.recipe import WideResNetShape as WideResNetShape
from equipoise.recipes.recipe import from_json as from_json
from equipoise.recipes.recipe import to_json as to_json

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        digits.standard_digits,
        digits.pgd_at_digits,
        digits.afa_digits,
        digits.afa_digits_plain,
        digits.afs_digits,
        cifar10.standard_cifar10_compact,
        cifar10.pgd_at_cifar10_compact,
        cifar10.afa_cifar10_compact,
        cifar10.afa_cifar10_compact_plain,
        cifar10.afs_cifar10_compact,
    )
}
"""Every recipe by name; a new one is one function and one entry."""
