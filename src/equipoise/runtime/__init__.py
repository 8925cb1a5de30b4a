"""Files, environment, seeds, signals and memory. Never imports torch."""

from equipoise.runtime.errors import RunError, TrainingError
from equipoise.runtime.run_folder import RunFolder

__all__ = ["RunError", "RunFolder", "TrainingError"]
