"""The one training loop: ``fit`` runs a stage, whatever method it belongs to, and its switches."""

from equipoise.training.batches import ExtraImages
from equipoise.training.config import TrainingConfig
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
    "TrainingConfig",
    "Watch",
    "fit",
    "is_done",
    "load_weights",
    "perturbed",
]
