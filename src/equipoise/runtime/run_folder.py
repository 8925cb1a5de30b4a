"""The paths inside a run folder.

A run folder::

    runs/<name>/
      .lock                        exists while a process trains here
      recipe.json                  the resolved recipe; `equipoise train FILE` repeats the run
      environment.json             commit, package versions, hardware
      stages/<stage>/              metrics.jsonl, two checkpoints, best and last weights,
                                   and done.json once the stage is finished, or
                                   failed.json if its loss became NaN
      failed/<number>/             earlier runs in this folder that failed so
      model/                       config.json, model.safetensors, README.md
      last/                        the model of the last epoch, if it differs from model/
      records/<record>.json        one per evaluation
      gallery/<record>.json        example images for the HTML report
      corruptions/<result>.json    accuracy on corrupted images
      latency.json                 time of inference, measured at the last export
      evaluations/                 cached results of attacks
"""

from dataclasses import dataclass
from pathlib import Path

from equipoise.runtime.files import LOCK


@dataclass(frozen=True)
class RunFolder:
    """A run folder: the path of each file and subfolder that a run writes.

    Building one touches no file; nothing has to exist.

    Args:
        path: The folder of the run.

    Example:
        >>> from pathlib import Path
        >>> run = RunFolder(Path("runs/pgd_at_digits"))
        >>> run.recipe.as_posix()
        'runs/pgd_at_digits/recipe.json'
        >>> run.stage("train").as_posix()
        'runs/pgd_at_digits/stages/train'
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.json"

    @property
    def environment(self) -> Path:
        """Commit, package versions and hardware of the run."""
        return self.path / "environment.json"

    @property
    def stages(self) -> Path:
        """The folder with one subfolder per training stage."""
        return self.path / "stages"

    def stage(self, name: str) -> Path:
        """The folder of one training stage."""
        return self.stages / name

    @property
    def model(self) -> Path:
        """The model folder that evaluation and export use."""
        return self.path / "model"

    @property
    def last(self) -> Path:
        """The model folder of the last epoch; missing if it equals ``model``."""
        return self.path / "last"

    @property
    def records(self) -> Path:
        """The folder with one JSON record per evaluation."""
        return self.path / "records"

    @property
    def gallery(self) -> Path:
        """The folder with example images for the HTML report, one file per record."""
        return self.path / "gallery"

    @property
    def latency(self) -> Path:
        """Time of inference, measured at the last export."""
        return self.path / "latency.json"

    @property
    def evaluations(self) -> Path:
        """The folder with cached results of attacks."""
        return self.path / "evaluations"

    @property
    def lock(self) -> Path:
        """The lock file, which exists while a process trains in the folder."""
        return self.path / LOCK
