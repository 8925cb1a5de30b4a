"""Make one self-contained HTML page from records: no server, no network, no build step."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from equipoise.report.compare import broken_at
from equipoise.report.extras import report_extra
from equipoise.report.html import figures
from equipoise.report.html.models import Model, models_of, published_beside, seed_of
from equipoise.report.per_class import worst_class
from equipoise.report.record import Record, attack_count
from equipoise.report.reliability import GROUPS, RANKING_RULE
from equipoise.report.run_files import (
    member_names,
    read_gallery,
    read_recipe,
    read_training_curves,
)
from equipoise.report.self_checks import checks_line, checks_of, open_checks
from equipoise.report.table import best_model
from equipoise.runtime.files import write_bytes

SCRIPTS = ("plotly-basic.min.js", "page.js")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters at which a spreadsheet begins a formula."""


def write_page(pairs: Sequence[tuple[Path, Record]], file: Path) -> None:
    """Write the page to a file, atomically.

    Args:
        pairs: Paths and records, as for ``html_report``.
        file: HTML file, replaced if it exists.

    Raises:
        ValueError, RunError: As ``html_report``.
    """
    write_bytes(file, html_report(pairs).encode())


def html_report(pairs: Sequence[tuple[Path, Record]]) -> str:
    """Make the page as text; the same records give the same bytes.

    The recipe, training curves and gallery in a record's run folder are shown as well. Records are
    untrusted input: their text is escaped, and the page's content security policy allows no script
    but its own two.

    Args:
        pairs: Paths and records, all of the same images at the same strengths.

    Returns:
        One HTML document.

    Raises:
        ValueError: If there is no record, or records differ in one of ``MUST_AGREE``.
        RunError: If jinja2 is not installed, or a file of a run folder is damaged.

    Example:
        >>> record = {
        ...     "model": "afa", "data": "digits", "norm": "Linf", "images": 450,
        ...     "epsilons": [0.0, 0.1], "epsilons_written": ["0", "0.1"],
        ...     "headline": {"accuracy": [0.9, 0.5], "average": 0.7, "clean_and_strongest": 0.7},
        ...     "suites": [{"name": "quick", "accuracy": [0.9, 0.6], "attacks": [{"name": "a"}]}],
        ... }
        >>> page = html_report([(Path("records/afa.json"), record)])
        >>> "<h1>Accuracy on digits, clean and under attack</h1>" in page
        True
    """
    models = models_of(pairs)
    record = models[0].records[0]
    shown = [(path, r) for m in models for path, r in zip(m.paths, m.records, strict=True)]
    records = [shown_record for _, shown_record in shown]
    published = published_beside(record)
    drawn = {
        "curves": figures.curves(models),
        "scatter": figures.scatter(models, published),
        "weights": figures.weights(models),
        "weights-per-image": figures.weights_per_image(models),
        "importance": figures.importance(models, _members(models)),
    }
    trainings, untrained = [], []
    for number, (path, shown_record) in enumerate(shown):
        if curves := read_training_curves(path):
            drawn[f"accuracy-{number}"], drawn[f"loss-{number}"] = figures.training(curves)
            trainings.append((number, _model_of(shown_record, models), seed_of(shown_record)))
        else:
            untrained.append(seed_of(shown_record))
    scripts = [_asset(name) for name in SCRIPTS]
    return _template(
        record=record,
        models=models,
        ranked=[
            (heading, sorted(group, key=lambda model: -model.average.mean))
            for heading in GROUPS
            if (group := [model for model in models if model.group == heading])
        ],
        best=next((model for model in models if model.name == best_model(records)), None),
        rule=RANKING_RULE,
        marks={m["name"]: m for model in models for m in model.marks}.values(),
        worst_class=worst_class,
        heads=["clean", *(f"ε = {text}" for text in record["epsilons_written"][1:])],
        left_out=len(pairs) - len(shown),
        attacks=sorted(set(map(attack_count, records))),
        checks_line=checks_line(*records),
        open_checks={m.number: open_checks(*m.records) for m in models},
        passed={m.number: _passed(m) for m in models},
        published=published,
        figures={name: figure for name, figure in drawn.items() if figure is not None},
        trainings=trainings,
        untrained=untrained,
        gallery=_gallery(models),
        details=[(path, r, _model_of(r, models), read_recipe(path)) for path, r in shown],
        csv=table_as_csv(models),
        records=records,
        scripts=scripts,
        style=_asset("page.css"),
        policy=_policy(scripts),
    )


def table_as_csv(models: Sequence[Model]) -> str:
    """Headline table as CSV, in fractions, one line for each model and strength.

    Args:
        models: Models of the report.

    Returns:
        CSV with a header. A name that a spreadsheet would read as a formula begins with ``'``.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "seeds", "at", "accuracy", "low", "high", "sd_over_seeds", "marks"])
    for model in models:
        name = "'" + model.name if model.name.startswith(_FORMULA) else model.name
        marks = "; ".join(mark["name"] for mark in model.marks)
        labels = [*model.records[0]["epsilons_written"], "average", "trade-off"]
        values = [*model.accuracies, model.average, model.trade_off]
        for label, value in zip(labels, values, strict=True):
            ends = value.interval or (None, None)
            row = [name, len(model.records), label, value.mean, *ends, value.spread, marks]
            writer.writerow(row)
    return buffer.getvalue()


def _gallery(models: Sequence[Model]) -> dict[str, Any] | None:
    """Images by row, each with the answer of every model, from the first gallery of each model."""
    shown = []
    for model in models:
        for path, record in zip(model.paths, model.records, strict=True):
            if gallery := read_gallery(path, record):
                shown.append((model, record, gallery))
                break
    if not shown:
        return None
    rows: dict[int, dict[str, Any]] = {}
    for model, record, gallery in shown:
        levels = broken_at(record)
        attacks = record.get("broken_by", ["an attack"] * record["images"])
        for picture in gallery["pictures"]:
            row = picture["row"]
            image = rows.setdefault(row, {"first": picture, "answers": []})
            level = levels[row]
            strength = record["epsilons_written"][level] if level >= 0 else None
            image["answers"].append((model, picture, strength, attacks[row]))
    first = shown[0][2]
    return {"classes": first["classes"], "images": rows, "at": first["epsilon_written"]}


def _members(models: Sequence[Model]) -> dict[int, list[str]]:
    """Names of each stack's members by model number, where the run folder holds the recipe."""
    members = {}
    for model in models:
        method = (read_recipe(model.paths[0]) or {}).get("method", {})
        shares = model.model_internals("importance")
        if shares and "budgets" in method:
            names = member_names(method)
            if len(names) == len(shares[0]):
                members[model.number] = names
    return members


def _model_of(record: Record, models: Sequence[Model]) -> Model:
    return next(model for model in models if model.name == record["model"])


def _passed(model: Model) -> list[str]:
    """Names of the checks that passed in all of a model's records."""
    failed = {check.name for check in open_checks(*model.records)}
    names = dict.fromkeys(c["name"] for record in model.records for c in checks_of(record))
    return [name for name in names if name not in failed]


def _policy(scripts: Sequence[str]) -> str:
    """Content security policy: nothing is fetched, and only these scripts run."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    return (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'; script-src " + " ".join(f"'sha256-{digest}'" for digest in hashes)
    )


def _asset(name: str) -> str:
    return (resources.files("equipoise.report.html") / "assets" / name).read_text(encoding="utf-8")


def _template(**values: Any) -> str:
    """Fill the page's template, which escapes every value."""
    with report_extra("an HTML page"):
        import jinja2
        from markupsafe import Markup
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        # A name that may be broken after its underscores, where the page is narrow.
        "breakable": lambda name: Markup("_<wbr>").join(name.split("_")),
        "percent": lambda share, digits=1: f"{100 * share:.{digits}f}",
        "pretty": lambda content: json.dumps(content, indent=2),
        "seed_of": seed_of,
    }
    return environment.get_template("page.html").render(**values)
