"""What an evaluation returns: the record, its file, and ways to show, plot and keep it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from equipoise.records.files import read_record
from equipoise.report import (
    markdown_comparison,
    markdown_table,
    rich_checks,
    rich_comparison,
    rich_table,
)
from equipoise.report.curves_figure import curves_figure
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class EvaluationResult(NamedTuple):
    """The record of an evaluation and the file that holds it; a notebook shows its table.

    Attributes:
        record: The record: accuracies, attacks, self-checks, settings.
        path: Its file.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from equipoise import evaluate
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
        >>> images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
        >>> result = evaluate(
        ...     network,
        ...     (images, labels),
        ...     epsilons=(0.0, 0.1),
        ...     folder=Path(tempfile.mkdtemp()),
        ... )
        >>> list(result.to_frame().columns)
        ['model', 'epsilon', 'accuracy', 'low', 'high']
        >>> result.accuracy.keys()
        dict_keys([0.0, 0.1])
    """

    record: dict[str, Any]
    path: Path

    @classmethod
    def load(cls, path: Path | str) -> "EvaluationResult":
        """Read a saved result.

        Raises:
            RunError: If the file is missing or is not a record.
        """
        return cls(read_record(Path(path)), Path(path))

    @property
    def accuracy(self) -> dict[float, float]:
        """Share of images classified correctly in the worst case, by strength in pixel units."""
        headline = self.record["headline"]["accuracy"]
        return dict(zip(self.record["epsilons"], headline, strict=True))

    @property
    def checks_passed(self) -> bool | None:
        """Whether no self-check failed; ``None`` if none ran."""
        if "self_checks" not in self.record:
            return None
        return all(check["verdict"] != "fail" for check in self.record["self_checks"])

    def table(self) -> str:
        """Return the headline table as Markdown."""
        return markdown_table([self.record])

    def to_frame(self) -> "DataFrame":
        """Return one row for each strength: accuracy and 95 % interval, as shares.

        Raises:
            ImportError: If pandas is not installed.
        """
        from pandas import DataFrame

        headline = self.record["headline"]
        low, high = zip(*headline["interval"], strict=True)
        return DataFrame(
            {
                "model": self.record["model"],
                "epsilon": self.record["epsilons"],
                "accuracy": headline["accuracy"],
                "low": low,
                "high": high,
            }
        )

    def plot(self, *others: "EvaluationResult") -> "Figure":
        """Draw accuracy against strength, for this result and others of other models.

        Args:
            others: Results at the same strengths.

        Raises:
            RunError: If matplotlib is not installed.
            ValueError: If strengths differ.
        """
        return curves_figure([self.record, *(other.record for other in others)])

    def save(self, path: Path | str) -> Path:
        """Write the record as JSON to another file; the one at ``path`` stays."""
        write_json(Path(path), self.record)
        return Path(path)

    def __repr__(self) -> str:
        return _as_text(*self._parts())

    def _repr_html_(self) -> str:
        return _as_html(*self._parts())

    def _parts(self) -> list[Any]:
        return [rich_table([self.record], self.record["model"]), rich_checks(self.record)]


class ComparisonResult(NamedTuple):
    """Models compared with a baseline, image by image; a notebook shows its tables.

    Attributes:
        records: The records, the baseline's first.
    """

    records: tuple[dict[str, Any], ...]

    def table(self) -> str:
        """Return the comparison as Markdown."""
        return markdown_comparison(self.records)

    def plot(self) -> "Figure":
        """Draw accuracy against strength for every model."""
        return curves_figure(self.records)

    def __repr__(self) -> str:
        return _as_text(rich_comparison(self.records))

    def _repr_html_(self) -> str:
        return _as_html(rich_comparison(self.records))


def compare(
    baseline: EvaluationResult | Path | str, *others: EvaluationResult | Path | str
) -> ComparisonResult:
    """Compare models with a baseline, image by image, with paired intervals.

    Args:
        baseline: A result, or the file of its record.
        others: Results of other models on the same images at the same strengths.

    Raises:
        ValueError: If there is nothing to compare, or the results are not of the same images,
            strengths and norm.
        RunError: If a file cannot be read.

    Source:
        Agresti and Min 2005 for the interval of a paired difference; McNemar 1947.
    """
    results = [
        result if isinstance(result, EvaluationResult) else EvaluationResult.load(result)
        for result in (baseline, *others)
    ]
    if not others:
        raise InvalidInput("compare needs a baseline and at least one other result, got one.")
    comparison = ComparisonResult(tuple(result.record for result in results))
    comparison.table()  # refuses what cannot be compared
    return comparison


def _recorded(parts: Sequence[Any], width: int) -> Any:
    from rich.console import Console

    console = Console(file=io.StringIO(), record=True, width=width, force_jupyter=False)
    console.print(*parts)
    return console


def _as_text(*parts: Any) -> str:
    text: str = _recorded(parts, width=80).export_text()
    return text.rstrip()


def _as_html(*parts: Any) -> str:
    style = "font-family:ui-monospace,Menlo,Consolas,monospace;line-height:1.3"
    html: str = _recorded(parts, width=100).export_html(
        inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'
    )
    return html
