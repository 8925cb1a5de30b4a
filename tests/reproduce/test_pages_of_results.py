"""The reproduced tables in the documentation are those of the records beside them."""

import re
from pathlib import Path

import pytest

from equipoise.recipes import to_json
from equipoise.records.files import read_record
from equipoise.report.papers import ENTRIES, SCALES, Result, Table
from equipoise.report.papers.tables import markdown_entry
from equipoise.reproduce.plan import plan_models

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "reproduced").glob("*/index.md"))
TABLES = [entry for entry in ENTRIES.values() if isinstance(entry.content, Table)]


def results_of(scale, tmp_path):
    models, _ = plan_models(list(ENTRIES.values()), scale, (0,), tmp_path, None)
    folder = ROOT / "results" / "reproduced" / scale.name / "records"
    results = {}
    for (name, seed), model in models.items():
        of_it = re.compile(rf"{name}(@[\d.]+)?__seed{seed}(__\w+)?\.json")
        paths = [path for path in sorted(folder.iterdir()) if of_it.fullmatch(path.name)]
        records = [read_record(path) for path in paths]
        matching = [record for record in records if record["settings"] == model.settings(None)]
        transfer = [r for r in records if [s["name"] for s in r["suites"]] == ["transfer"]]
        if matching:
            recipe = to_json(model.recipe)
            results[name] = [
                Result(recipe=recipe, record=matching[0], transfer=next(iter(transfer), None))
            ]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_a_page_of_reproduced_tables_equals_its_records(page, tmp_path):
    scale, text = SCALES[page.parent.name], page.read_text()
    results = results_of(scale, tmp_path)
    shown = [entry for entry in ENTRIES.values() if f"## {entry.paper}: " in text]
    # Multiply-adds are counted on the models, which are not in the repository.
    tables = [e for e in shown if e in TABLES and "multiply-adds" not in e.under()]
    assert len(tables) > 2
    for entry in tables:
        assert markdown_entry(entry, scale, results) in text, entry.name
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert {name.removesuffix(".svg") for name in pictures} == {
        entry.name for entry in shown if entry not in TABLES
    }
    assert all((page.parent / name).is_file() for name in pictures)
    # A changed record changes a table.
    (result,) = next(seeds for name, seeds in results.items() if name.startswith("afa_"))
    result.record["headline"]["accuracy"][0] = 0.01234
    assert any(markdown_entry(entry, scale, results) not in text for entry in tables)
