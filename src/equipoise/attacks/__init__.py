"""Searches: each climbs a goal inside a threat and knows no model. This list is the catalogue."""

from equipoise.attacks.apgd import APGD
from equipoise.attacks.pgd import PGD, Search, fgsm, iterative_fgsm
from equipoise.attacks.square import Square

__all__ = [
    "APGD",
    "PGD",
    "Search",
    "Square",
    "fgsm",
    "iterative_fgsm",
]
