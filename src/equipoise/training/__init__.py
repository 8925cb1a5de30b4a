"""The one training loop: ``fit`` runs a stage, whatever method it belongs to, and its switches."""

from equipoise.distributed.ranks import Ranks, Strategy, launched
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.reporter import Reporter, Silent
from equipoise.runtime.signals import Interrupted
from equipoise.training.batches import ExtraImages
from equipoise.training.config import Loop
from equipoise.training.loop import fit
from equipoise.training.monitors import Watch
from equipoise.training.stage_files import BEST, DONE, LAST, is_done, load_weights
from equipoise.training.weight_averaging import Average
from equipoise.training.weight_perturbation import perturbed

__all__ = [
    "BEST",
    "DONE",
    "LAST",
    "Average",
    "ExtraImages",
    "Interrupted",
    "Loop",
    "Ranks",
    "Reporter",
    "Silent",
    "Strategy",
    "TrainingError",
    "Watch",
    "fit",
    "is_done",
    "launched",
    "load_weights",
    "perturbed",
]
