"""Leaving the lab: a model as an ONNX or torch.export file, and predictions on pictures."""

from equipoise.deployment.export import Exported as Exported
from equipoise.deployment.export import export as export
from equipoise.deployment.predict import Prediction as Prediction
from equipoise.deployment.predict import as_json as as_json
from equipoise.deployment.predict import predict as predict
from equipoise.deployment.predict import rich_predictions as rich_predictions
