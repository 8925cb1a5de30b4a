"""Print comparisons of models, for the terminal and as Markdown."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from equipoise.report.compare import Comparison, Difference, compare_models, seed_list
from equipoise.report.marks import apart_models, marked_name, marks_caption
from equipoise.report.record import Record
from equipoise.report.table import NONE

_OUTCOMES = {"broken_at", "images_attacked", "forward_passes", "backward_passes", "seconds"}
"""Fields of an attack in a record that are results, not settings."""
_MODEL_SPECIFIC_SUITES = {"adaptive", "gate"}
NOT_COMPARABLE = "not comparable"
"""Verdict where only one of two models was attacked with its gradients."""
_STYLES: dict[str, str] = {
    "better": "green",
    "worse": "red",
    "no significant difference": "dim",
}


def rich_comparison(records: Sequence[Record], title: str = "Compared image by image") -> Group:
    """Comparison for the terminal: one table for each model after the first.

    Args:
        records: Evaluations, as for ``compare_models``.
        title: Title above the tables.

    Returns:
        Tables with a caption, for ``rich.print``.

    Raises:
        ValueError: As ``compare_models``.
    """
    comparisons, unlike = compare_models(records), _unlike(records)
    parts = list[Table | Text]([Text(title, style="italic")])
    for comparison in comparisons:
        model = marked_name(comparison.model, records)
        heading = f" against {_baseline(comparison, records)}"
        parts.append(Text.assemble("\n", (model, "bold"), heading))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        for name in _header(comparison):
            # Only the verdict may be broken into lines where a terminal is narrow.
            words = name in ("accuracy", "verdict")
            table.add_column(name, justify="left" if words else "right", no_wrap=name != "verdict")
        for row in comparison.rows:
            *cells, verdict = _cells(row, comparison.model in unlike)
            table.add_row(*cells, Text(verdict, style=_STYLES.get(verdict, "dim")))
        parts.append(table)
    return Group(*parts, Text("\n" + _caption(records, comparisons), style="dim italic"))


def markdown_comparison(records: Sequence[Record]) -> str:
    """Comparison as Markdown: one table for each model after the first, and a caption.

    Args:
        records: Evaluations, as for ``compare_models``.

    Returns:
        Markdown text.

    Raises:
        ValueError: As ``compare_models``.

    Example:
        >>> shared = {"data": "digits", "norm": "Linf", "images": 40, "images_sha256": "ab",
        ...           "epsilons": [0.0, 0.1], "epsilons_written": ["0", "0.1"], "suites": []}
        >>> records = [shared | {"model": "pgd_at", "broken_at": [1] * 10 + [-1] * 30},
        ...            shared | {"model": "afa", "broken_at": [-1] * 40}]
        >>> print(markdown_comparison(records).splitlines()[5])
        | ε 0.1 | 100.0 | 75.0 | +25.0 | +10.1 to +37.5 | 0.0020 | better |
    """
    comparisons, unlike, lines = compare_models(records), _unlike(records), []
    for comparison in comparisons:
        header = _header(comparison)
        model = marked_name(comparison.model, records)
        lines += [f"**{model}** against {_baseline(comparison, records)}", ""]
        lines += [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 2) + "---|"]
        rows = [_cells(row, comparison.model in unlike) for row in comparison.rows]
        lines += [*(f"| {' | '.join(cells)} |" for cells in rows), ""]
    return "\n".join([*lines, _caption(records, comparisons)]) + "\n"


def _caption(records: Sequence[Record], comparisons: list[Comparison]) -> str:
    """What the numbers are, what the interval covers, and what it does not cover."""
    first = records[0]
    several_seeds = {len(comparison.seeds) > 1 for comparison in comparisons}
    text = (
        f"Accuracy in % on {first['images']} {first.get('part', 'test')} images of "
        f"{first['data']}, {first['norm']}, worst case per image; trade-off: "
        "(clean + strongest)/2. Difference: model minus baseline, in percentage points, with its "
        "95 % interval (Agresti and Min 2005, outcomes paired by image). The interval covers the "
        "choice of test images for these trained models; it does not cover retraining."
    )
    if True in several_seeds:
        text += (
            " Means over seeds. sd: standard deviation of the difference over seeds, which shows "
            "the effect of retraining. agree: seeds whose difference has the sign of the mean."
        )
    if False in several_seeds:
        text += " p: exact McNemar test, which is more conservative than the interval."
    text += (
        " No significant difference: the interval contains 0. Intervals are not corrected for "
        "multiple comparisons."
    )
    if first.get("images_sha256") is None:
        text += " These records do not identify their images, which are assumed to be the same."
    names = _differently_attacked(records)
    if names:
        text += f" Caution: not attacked as the first model was: {', '.join(names)}."
    if _unlike(records):
        text += " Not comparable: one of the two models was attacked as a black box only."
    return text + marks_caption(records)


def _header(comparison: Comparison) -> list[str]:
    uncertainty = ["sd", "agree"] if len(comparison.seeds) > 1 else ["p"]
    return ["accuracy", "model", "baseline", "diff", "95 % interval", *uncertainty, "verdict"]


def _cells(row: Difference, unlike: bool) -> list[str]:
    if row.spread is not None:
        uncertainty = [f"{100 * row.spread:.1f}", f"{row.agreeing}/{len(row.by_seed)}"]
    else:
        uncertainty = [_p_value(row.p_values[0]) if row.p_values else NONE]
    accuracies = [f"{100 * value:.1f}" for value in (row.accuracy, row.baseline)]
    interval = " to ".join(map(_points, row.interval))
    verdict = NOT_COMPARABLE if unlike else row.verdict
    return [row.label, *accuracies, _points(row.difference), interval, *uncertainty, verdict]


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into 0.0


def _p_value(value: float) -> str:
    return "<.0001" if value < 0.0001 else f"{value:.4f}"


def _baseline(comparison: Comparison, records: Sequence[Record]) -> str:
    """Name of the baseline, with the training seeds compared where they are not obvious."""
    text, (mine, its) = marked_name(comparison.baseline, records), comparison.seeds[0]
    if mine != its:
        text += f", training seeds {mine} and {its}"
    elif len(comparison.seeds) > 1 or comparison.left_out:
        text += f", training seeds {seed_list(seed for seed, _ in comparison.seeds)}"
    if comparison.left_out:
        text += f" (without {seed_list(comparison.left_out)}, not in both)"
    return text


def _unlike(records: Sequence[Record]) -> set[str]:
    """Models that cannot be compared with the first: exactly one of the two is black box only."""
    apart, names = apart_models(records), {record["model"] for record in records}
    return names - apart if records[0]["model"] in apart else apart


def _differently_attacked(records: Sequence[Record]) -> list[str]:
    """Models whose attacks, or their settings, differ from those of the first record."""
    first, names = _settings(records[0]), {}
    for record in records:
        settings = _settings(record)
        for suite, attack in {*first, *settings}:
            expected, actual = first.get((suite, attack)), settings.get((suite, attack))
            both = expected and actual
            if expected != actual and (both or suite not in _MODEL_SPECIFIC_SUITES):
                names[record["model"]] = True
    return list(names)


def _settings(record: Record) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (suite["name"], attack["name"]): {k: v for k, v in attack.items() if k not in _OUTCOMES}
        for suite in record["suites"]
        for attack in suite["attacks"]
    }
