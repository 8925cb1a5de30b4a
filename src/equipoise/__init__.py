"""Train, attack and evaluate image classifiers that balance clean accuracy against robustness.

Importing this package does not import torch; the names below do, when they are first used.

Example:
    >>> import equipoise
    >>> equipoise.Linf(8 / 255)
    Linf(epsilon=0.03137254901960784)
    >>> equipoise.find_recipe("afa_digits").seed
    0
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.api.evaluate import evaluate
    from equipoise.api.publish import push
    from equipoise.api.train import find_recipe, train
    from equipoise.attacks import APGD, PGD, Square
    from equipoise.attacks.threat import L2, Linf
    from equipoise.methods import AFA, AFS, OAT, SingleNetwork
    from equipoise.models import fuse_branches, load, save, with_branches
    from equipoise.recipes import RECIPES, Evaluation, Recipe

    __version__: str

__all__ = [
    "AFA",
    "AFS",
    "APGD",
    "L2",
    "OAT",
    "PGD",
    "RECIPES",
    "Evaluation",
    "Linf",
    "Recipe",
    "SingleNetwork",
    "Square",
    "__version__",
    "evaluate",
    "find_recipe",
    "fuse_branches",
    "load",
    "push",
    "save",
    "train",
    "with_branches",
]

_MODULES = {
    "attacks": ("APGD", "PGD", "Square"),
    "attacks.threat": ("L2", "Linf"),
    "methods": ("AFA", "AFS", "OAT", "SingleNetwork"),
    "models": ("fuse_branches", "load", "save", "with_branches"),
    "recipes": ("RECIPES", "Evaluation", "Recipe"),
    "api.evaluate": ("evaluate",),
    "api.publish": ("push",),
    "api.train": ("find_recipe", "train"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("equipoise")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'equipoise' has no attribute {name!r}")
    return getattr(importlib.import_module(f"equipoise.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
