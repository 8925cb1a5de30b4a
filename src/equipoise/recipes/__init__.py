"""Recipes: Python functions that return a frozen dataclass. This dict is the catalogue."""

from collections.abc import Callable

from equipoise.recipes import cifar10, cifar10_methods, digits, methods
from equipoise.recipes.networks import WideResNetShape as WideResNetShape
from equipoise.recipes.recipe import Evaluation as Evaluation
from equipoise.recipes.recipe import Recipe as Recipe
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
        methods.trades_digits,
        methods.mart_digits,
        methods.iat_digits,
        methods.fat_digits,
        methods.fat_trades_digits,
        methods.fat_mart_digits,
        methods.tla_digits,
        methods.lbgat_digits,
        methods.avm_digits,
        methods.random_budget_digits,
        methods.oat_digits,
        methods.afa_trades_digits,
        methods.afa_mart_digits,
        methods.afa_iat_digits,
        methods.afs_trades_digits,
        methods.afs_one_budget_digits,
        cifar10.standard_cifar10_compact,
        cifar10.pgd_at_cifar10_compact,
        cifar10.afa_cifar10_compact,
        cifar10.afa_cifar10_compact_plain,
        cifar10.afs_cifar10_compact,
        cifar10_methods.trades_cifar10_compact,
        cifar10_methods.mart_cifar10_compact,
        cifar10_methods.iat_cifar10_compact,
        cifar10_methods.fat_cifar10_compact,
        cifar10_methods.lbgat_cifar10_compact,
        cifar10_methods.avm_cifar10_compact,
        cifar10_methods.oat_cifar10_compact,
        cifar10_methods.afa_trades_cifar10_compact,
        cifar10_methods.afa_mart_cifar10_compact,
        cifar10_methods.afa_iat_cifar10_compact,
    )
}
"""Every recipe by name; a new one is one function and one entry."""
