"""What training minimises and what its attack climbs: one file an objective, listed here."""

from equipoise.objectives.contract import Objective as Objective
from equipoise.objectives.pgd_at import PGDAT as PGDAT
from equipoise.objectives.standard import Standard as Standard

AnyObjective = Standard | PGDAT
"""Every objective a recipe may name; a new one is one file, one import and one entry here."""
