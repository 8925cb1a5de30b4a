"""What every objective, attack, model, data reader and recipe guarantees, as checks.

The tests of this project and ``equipoise check-extension`` run the same checks. A check is a
function whose name says what holds; it raises ``BrokenContract`` with what was seen instead.
"""

from equipoise.contracts.attacks import ATTACK_CHECKS, AttackCase, small_network
from equipoise.contracts.base import BrokenContract, Check, Outcome, run_checks
from equipoise.contracts.models import MODEL_CHECKS, ModelCase
from equipoise.contracts.objectives import OBJECTIVE_CHECKS
from equipoise.contracts.readers import READER_CHECKS, TwoLoads
from equipoise.contracts.recipes import RECIPE_CHECKS, RecipeCase
from equipoise.contracts.searches import SEARCH_CHECKS

__all__ = [
    "ATTACK_CHECKS",
    "MODEL_CHECKS",
    "OBJECTIVE_CHECKS",
    "READER_CHECKS",
    "RECIPE_CHECKS",
    "SEARCH_CHECKS",
    "AttackCase",
    "BrokenContract",
    "Check",
    "ModelCase",
    "Outcome",
    "RecipeCase",
    "TwoLoads",
    "run_checks",
    "small_network",
]
