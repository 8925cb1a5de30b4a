"""What training minimises and what its attack climbs: one file an objective, listed here."""

from equipoise.objectives.avm import AVM as AVM
from equipoise.objectives.contract import Accompanied as Accompanied
from equipoise.objectives.contract import Objective as Objective
from equipoise.objectives.contract import unaccompanied as unaccompanied
from equipoise.objectives.fat import FAT as FAT
from equipoise.objectives.fat import Befriended as Befriended
from equipoise.objectives.iat import IAT as IAT
from equipoise.objectives.lbgat import LBGAT as LBGAT
from equipoise.objectives.mart import MART as MART
from equipoise.objectives.pgd_at import PGDAT as PGDAT
from equipoise.objectives.standard import Standard as Standard
from equipoise.objectives.tla import TLA as TLA
from equipoise.objectives.trades import TRADES as TRADES

AnyObjective = Standard | PGDAT | TRADES | MART | IAT | FAT | TLA | LBGAT | AVM
"""Every objective a recipe may name; a new one is one file, one import and one entry here."""
