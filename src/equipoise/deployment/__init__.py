"""Leaving the lab: a model as an ONNX or torch.export file, and predictions on pictures."""

from equipoise.deployment.export import Exported, export
from equipoise.deployment.predict import Prediction, as_json, predict, rich_predictions

__all__ = [
    "Exported",
    "Prediction",
    "as_json",
    "export",
    "predict",
    "rich_predictions",
]
