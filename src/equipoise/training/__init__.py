"""The training loop of every method: ``fit`` trains a stage, ``Trainer`` takes one step."""

from equipoise.training.batches import ExtraImages
from equipoise.training.config import TrainingConfig
from equipoise.training.loop import fit
from equipoise.training.monitors import TrainingMonitor
from equipoise.training.stage_files import BEST, DONE, FAILED, LAST, is_done, load_weights
from equipoise.training.trainer import Trainer
from equipoise.training.weight_averaging import WeightAverage
from equipoise.training.weight_perturbation import perturbed_weights

__all__ = [
    "BEST",
    "DONE",
    "FAILED",
    "LAST",
    "ExtraImages",
    "Trainer",
    "TrainingConfig",
    "TrainingMonitor",
    "WeightAverage",
    "fit",
    "is_done",
    "load_weights",
    "perturbed_weights",
]
