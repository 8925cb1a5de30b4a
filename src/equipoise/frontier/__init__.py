"""Fronts of clean against robust accuracy, every method at the same measured training cost."""

from equipoise.frontier.budget import fit_to_budget
from equipoise.frontier.plan import KNOBS, Candidate, Contender, contender, parse_contender
from equipoise.frontier.run import Frontier, FrontierSettings, frontier

__all__ = [
    "KNOBS",
    "Candidate",
    "Contender",
    "Frontier",
    "FrontierSettings",
    "contender",
    "fit_to_budget",
    "frontier",
    "parse_contender",
]
