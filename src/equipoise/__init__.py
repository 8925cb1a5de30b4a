"""Equipoise: image classifiers that keep their clean accuracy and stand up to attacks of unknown
strength. AFA and AFS, trained, attacked and reported.

Importing this package does not import torch; the names below do, when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.attacks import PGD as PGD
    from equipoise.attacks.threat import L2 as L2
    from equipoise.attacks.threat import Linf as Linf
    from equipoise.models import load as load
    from equipoise.models import save as save
    from equipoise.models import with_branches as with_branches
    from equipoise.workflows.model_card import push as push

_HOMES = {
    "L2": "attacks.threat",
    "Linf": "attacks.threat",
    "PGD": "attacks",
    "load": "models",
    "push": "workflows.model_card",
    "save": "models",
    "with_branches": "models",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'equipoise' has no attribute {name!r}")
    return getattr(importlib.import_module(f"equipoise.{_HOMES[name]}"), name)
