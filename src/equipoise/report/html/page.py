"""Records to one HTML page that needs nothing but itself: no server, no network, no build."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from equipoise.report.compare import broken_at
from equipoise.report.html import figures
from equipoise.report.html.models import Model, models_of, published_beside, seed_of
from equipoise.report.run_files import curves_of, gallery_of, members_of, recipe_of
from equipoise.report.self_checks import checks_line, checks_of, open_checks
from equipoise.report.table import Record
from equipoise.runtime.files import write_bytes

SCRIPTS = ("plotly-basic.min.js", "page.js")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_page(found: Sequence[tuple[Path, Record]], to: Path) -> None:
    """Write the page to a file, in one step.

    Args:
        found: As for ``html_report``.
        to: The file; replaced if it is there.
    """
    write_bytes(to, html_report(found).encode())


def html_report(found: Sequence[tuple[Path, Record]]) -> str:
    """The page as text; the same records give the same bytes.

    What lies beside a record is shown as well: recipe, training curves, gallery. Records are not
    trusted: their text is escaped, and the page's policy lets no script run but its own two.

    Args:
        found: Records of the same images at the same strengths, with their paths.

    Returns:
        One HTML document.

    Raises:
        ValueError: If there is no record, or they do not compare.
        RunError: If what lies beside a record is damaged.
    """
    models = models_of(found)
    record = models[0].records[0]
    published = published_beside(record)
    runs_shown = [(path, one) for m in models for path, one in zip(m.paths, m.records, strict=True)]
    recipes = [recipe_of(path) for path, _ in runs_shown]
    drawn = {
        "curves": figures.curves(models),
        "scatter": figures.scatter(models, published),
        "weights": figures.weights(models),
        "weights-per-image": figures.weights_per_image(models),
        "importance": figures.importance(models, _members(models)),
    }
    trainings, untrained = [], []
    for number, (path, one) in enumerate(runs_shown):
        if curves := curves_of(path):
            drawn[f"accuracy-{number}"], drawn[f"loss-{number}"] = figures.training(curves)
            trainings.append((number, _model_of(one, models), seed_of(one)))
        else:
            untrained.append(seed_of(one))
    scripts = [_asset(name) for name in SCRIPTS]
    return (
        _environment()
        .get_template("page.html")
        .render(
            record=record,
            models=models,
            ranked=sorted(models, key=lambda model: -model.trade_off.mean),
            heads=["clean", *(f"ε = {text}" for text in record["epsilons_written"][1:])],
            left_out=len(found) - len(runs_shown),
            attacks=sorted(
                {sum(len(s["attacks"]) for s in one["suites"]) for _, one in runs_shown}
            ),
            checks_line=checks_line(*(one for _, one in runs_shown)),
            open_checks={m.number: open_checks(*m.records) for m in models},
            passed={m.number: _passed(m) for m in models},
            published=published,
            figures={name: figure for name, figure in drawn.items() if figure is not None},
            trainings=trainings,
            untrained=untrained,
            gallery=_gallery(models),
            details=list(zip(runs_shown, recipes, strict=True)),
            csv=table_as_csv(models),
            records=[one for _, one in runs_shown],
            scripts=scripts,
            style=_asset("page.css"),
            policy=_policy(scripts),
        )
    )


def table_as_csv(models: Sequence[Model]) -> str:
    """The headline table for a spreadsheet, in fractions, one line a model and strength.

    Args:
        models: Those of the report.

    Returns:
        CSV with a header. A name that a spreadsheet would take for a formula begins with ``'``.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "seeds", "at", "accuracy", "low", "high", "sd_over_seeds"])
    for model in models:
        name = "'" + model.name if model.name.startswith(_FORMULA) else model.name
        written = model.records[0]["epsilons_written"]
        numbers = [*model.accuracies, model.average, model.trade_off]
        for at, number in zip([*written, "average", "trade-off"], numbers, strict=True):
            ends = number.interval or (None, None)
            writer.writerow([name, len(model.records), at, number.mean, *ends, number.spread])
    return buffer.getvalue()


def _gallery(models: Sequence[Model]) -> dict[str, Any] | None:
    """Images by row, each with what every model says: of each model, the first gallery found."""
    shown = []
    for model in models:
        pairs = zip(model.paths, model.records, strict=True)
        each = ((record, gallery_of(path, record)) for path, record in pairs)
        found = next(((record, gallery) for record, gallery in each if gallery), None)
        if found is not None:
            shown.append((model, *found))
    if not shown:
        return None
    rows: dict[int, dict[str, Any]] = {}
    for model, record, gallery in shown:
        at = broken_at(record)
        by = record.get("broken_by", ["an attack"] * record["images"])
        for picture in gallery["pictures"]:
            row = picture["row"]
            image = rows.setdefault(row, {"first": picture, "answers": []})
            written = record["epsilons_written"][at[row]] if at[row] >= 0 else None
            image["answers"].append((model, picture, written, by[row]))
    return {"classes": shown[0][2]["classes"], "images": rows, "at": shown[0][2]["epsilon_written"]}


def _members(models: Sequence[Model]) -> dict[int, list[str]]:
    """What each stack's members are called, where its recipe lies beside it."""
    found = {}
    for model in models:
        method = (recipe_of(model.paths[0]) or {}).get("method", {})
        shares = model.model_internals("importance")
        if shares and "budgets" in method:
            names = members_of(method)
            if len(names) == len(shares[0]):
                found[model.number] = names
    return found


def _model_of(record: Record, models: Sequence[Model]) -> Model:
    return next(model for model in models if model.name == record["model"])


def _passed(model: Model) -> list[str]:
    """Names of the checks that passed in all of a model's records."""
    failed = {check.name for check in open_checks(*model.records)}
    names = dict.fromkeys(c["name"] for record in model.records for c in checks_of(record))
    return [name for name in names if name not in failed]


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched, and only these scripts run."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    return (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'; script-src " + " ".join(f"'sha256-{digest}'" for digest in hashes)
    )


def _asset(name: str) -> str:
    return (resources.files("equipoise.report.html") / "assets" / name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["breakable"] = _breakable
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}"
    environment.filters["pretty"] = lambda content: json.dumps(content, indent=2)
    environment.filters["seed_of"] = seed_of
    return environment


def _breakable(name: str) -> Markup:
    """A name that may be broken after its underscores, where a page is narrow."""
    return Markup("_<wbr>").join(name.split("_"))
