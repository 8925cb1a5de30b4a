"""Export a model as an ONNX or torch.export file, and classify image files with it."""

from equipoise.deployment.export import ExportedFile, export_model
from equipoise.deployment.predict import (
    Prediction,
    predict_images,
    predictions_as_json,
    rich_predictions,
)

__all__ = [
    "ExportedFile",
    "Prediction",
    "export_model",
    "predict_images",
    "predictions_as_json",
    "rich_predictions",
]
