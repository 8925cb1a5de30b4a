"""Equipoise: image classifiers that keep their clean accuracy and stand up to attacks of unknown
strength. AFA and AFS, trained, attacked and reported.

Importing this package does not import torch; the names below do, when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.attacks import PGD as PGD
    from equipoise.cards import push as push
    from equipoise.models import load as load
    from equipoise.models import save as save
    from equipoise.models import with_branches as with_branches
    from equipoise.threat import L2 as L2
    from equipoise.threat import Linf as Linf

_HOMES = {
    "L2": "threat",
    "Linf": "threat",
    "PGD": "attacks",
    "load": "models",
    "push": "cards",
    "save": "models",
    "with_branches": "models",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'equipoise' has no attribute {name!r}")
    return getattr(importlib.import_module(f"equipoise.{_HOMES[name]}"), name)
