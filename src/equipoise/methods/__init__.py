"""Methods as plans of stages. The training loop knows stages and no method by name."""

from equipoise.methods.afa import AFA, Gate
from equipoise.methods.afs import AFS
from equipoise.methods.oat import OAT
from equipoise.methods.single_network import SingleNetwork
from equipoise.methods.stage import MakeNetwork, Schedule, Stage, Task

AnyMethod = SingleNetwork | AFA | AFS | OAT
"""Every method a recipe may name; a new one is one file, one import and one entry here."""

__all__ = [
    "AFA",
    "AFS",
    "OAT",
    "AnyMethod",
    "Gate",
    "MakeNetwork",
    "Schedule",
    "SingleNetwork",
    "Stage",
    "Task",
]
