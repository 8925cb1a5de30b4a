"""Searches: each climbs a goal inside a threat and knows no model. This list is the catalogue."""

from equipoise.attacks.apgd import APGD as APGD
from equipoise.attacks.gradient import PGD as PGD
from equipoise.attacks.gradient import Search as Search
from equipoise.attacks.gradient import fgsm as fgsm
from equipoise.attacks.gradient import iterative_fgsm as iterative_fgsm
from equipoise.attacks.square import Square as Square
