"""Train, attack and evaluate image classifiers that balance clean accuracy against robustness.

Importing this package does not import torch; the names below do, when they are first used.

Example:
    >>> import equipoise
    >>> equipoise.Linf(8 / 255)
    Linf(epsilon=0.03137254901960784)
    >>> equipoise.find_recipe("afa_digits").seed
    0
"""

from typing import TYPE_CHECKING, Any

from equipoise.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from equipoise.api.evaluate import evaluate
    from equipoise.api.evaluation_result import EvaluationResult, compare
    from equipoise.api.train import find_recipe, train
    from equipoise.api.train_network import stack
    from equipoise.attacks import APGD, PGD, Square
    from equipoise.attacks.goals import cross_entropy, margin
    from equipoise.attacks.threat import L2, Linf
    from equipoise.data import as_split
    from equipoise.deployment import export_model
    from equipoise.deployment.publish import push
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
    "EvaluationResult",
    "Linf",
    "Recipe",
    "SingleNetwork",
    "Square",
    "__version__",
    "as_split",
    "compare",
    "cross_entropy",
    "evaluate",
    "export_model",
    "find_recipe",
    "fuse_branches",
    "load",
    "margin",
    "push",
    "save",
    "stack",
    "train",
    "with_branches",
]

_MODULES = {
    "attacks": ("APGD", "PGD", "Square"),
    "attacks.goals": ("cross_entropy", "margin"),
    "attacks.threat": ("L2", "Linf"),
    "methods": ("AFA", "AFS", "OAT", "SingleNetwork"),
    "models": ("fuse_branches", "load", "save", "with_branches"),
    "recipes": ("RECIPES", "Evaluation", "Recipe"),
    "api.evaluate": ("evaluate",),
    "api.evaluation_result": ("EvaluationResult", "compare"),
    "deployment.publish": ("push",),
    "api.train": ("find_recipe", "train"),
    "api.train_network": ("stack",),
    "data": ("as_split",),
    "deployment": ("export_model",),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("equipoise")
    return lazy_names("equipoise", _MODULES)(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
