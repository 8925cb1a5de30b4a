"""What several commands do with a model that is trained: evaluate it, export it, say so."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

_console = Console()


def evaluate_and_print(
    models: Sequence[str], preferences: Sequence[float | None] = (None,), **settings: Any
) -> None:
    """Evaluate models at each preference, and print one table, the self-checks and the records.

    Args:
        models: As for ``jobs.evaluate``.
        preferences: Of OAT's networks; ``None`` for their own.
        settings: Further arguments of ``jobs.evaluate``.
    """
    from equipoise import jobs
    from equipoise.report import rich_checks, rich_columns, rich_table
    from equipoise.terminal import Terminal

    records, paths = [], []
    with Terminal(_console) as terminal:
        for model, preference in product(models, preferences):
            record, path = jobs.evaluate(
                model, preference=preference, reporter=terminal, **settings
            )
            records.append(record)
            paths.append(path)
    _console.print(rich_table(records, "Worst case per image"))
    for suite in records[0]["suites"]:
        if suite["independent"]:
            _console.print(rich_columns(records, "Attack by attack", suite["name"]))
    _console.print(rich_checks(*records))
    for path in paths:
        _console.print(f"record: {path}", highlight=False)


def export_form(file: Path) -> Literal["onnx", "torch-export"]:
    """The format that a file's ending stands for.

    Raises:
        ValueError: If it stands for none, or for one whose libraries are not installed.
    """
    from equipoise.deployment.export import SUFFIXES

    forms = {suffix: form for form, suffix in SUFFIXES.items()}
    if file.suffix not in forms:
        raise ValueError(f"an exported file ends in {' or '.join(forms)}, got {file}.")
    if file.suffix == ".onnx" and None in map(find_spec, ("onnx", "onnxscript", "onnxruntime")):
        raise ValueError(f"{file} needs more libraries: pip install 'equipoise[onnx]'.")
    return forms[file.suffix]


def export_and_print(model: str, file: Path, *, trust: Sequence[str] = (), **settings: Any) -> None:
    """Export a model and print what was checked.

    Args:
        model: As for ``deployment.export``.
        file: To be written.
        trust: Code that may be run.
        settings: Further arguments of ``deployment.export``.
    """
    from equipoise import deployment
    from equipoise.models.trust import trusting

    settings.setdefault("form", export_form(file))
    with trusting(*trust):
        done = deployment.export(model, file, **settings)
    _console.print(f"{done.path}: {done.summary()}", highlight=False, soft_wrap=True)
