"""Attacks: searches that maximise a goal inside a threat.

An attack is ``search(goal, clean, threat, generator)``. The search (``PGD``, ``APGD``, ``Square``)
never sees a model; the goal (``attacks.goals``) is what it maximises, and the threat
(``attacks.threat``) is the set of allowed perturbations. ``AutoAttack``, which its own package
runs, takes a model instead: ``attack(model, images, labels, threat)``.
"""

from equipoise.attacks.apgd import APGD
from equipoise.attacks.autoattack import AutoAttack
from equipoise.attacks.nfgsm import NFGSM
from equipoise.attacks.noise import Noise
from equipoise.attacks.pgd import PGD, Search, fgsm, iterative_fgsm
from equipoise.attacks.square import Square

__all__ = [
    "APGD",
    "NFGSM",
    "PGD",
    "AutoAttack",
    "Noise",
    "Search",
    "Square",
    "fgsm",
    "iterative_fgsm",
]
