"""Training methods, each a plan of stages. The training loop contains no code for any of them."""

from equipoise.methods.afa import AFA, Gate
from equipoise.methods.afs import AFS
from equipoise.methods.oat import OAT
from equipoise.methods.single_network import SingleNetwork
from equipoise.methods.training_attack import TrainingAttack

AnyMethod = SingleNetwork | AFA | AFS | OAT
"""Every method that a recipe may name. To add one: one file, one import and one entry here."""

__all__ = [
    "AFA",
    "AFS",
    "OAT",
    "AnyMethod",
    "Gate",
    "SingleNetwork",
    "TrainingAttack",
]
