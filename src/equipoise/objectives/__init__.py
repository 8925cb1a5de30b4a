"""Training objectives, one file each: what training minimises and what its attack maximises."""

from equipoise.objectives.avm import AVM
from equipoise.objectives.base import (
    Batch,
    Objective,
    TwoNetworkObjective,
    single_network_objective,
)
from equipoise.objectives.fat import FAT, FATBase
from equipoise.objectives.gat import GAT
from equipoise.objectives.iat import IAT
from equipoise.objectives.imported import ImportedObjective
from equipoise.objectives.lbgat import LBGAT
from equipoise.objectives.mart import MART
from equipoise.objectives.pgd_at import PGDAT
from equipoise.objectives.standard import Standard
from equipoise.objectives.tla import TLA
from equipoise.objectives.trades import TRADES

AnyObjective = (
    Standard | PGDAT | TRADES | MART | IAT | FAT | GAT | TLA | LBGAT | AVM | ImportedObjective
)
"""Every objective that a recipe may name. To add one: one file, one import and one entry here."""

__all__ = [
    "AVM",
    "FAT",
    "GAT",
    "IAT",
    "LBGAT",
    "MART",
    "PGDAT",
    "TLA",
    "TRADES",
    "AnyObjective",
    "Batch",
    "FATBase",
    "ImportedObjective",
    "Objective",
    "Standard",
    "TwoNetworkObjective",
    "single_network_objective",
]
