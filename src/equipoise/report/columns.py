"""One column an attack, as papers print them; the worst case beside them is the number to quote."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from equipoise.report.compare import NONE, broken_at
from equipoise.report.table import WIDTH, Record, check_comparable, in_lines, seeds_said

WORST = "worst case"
HEADS = {
    "fgsm": "FGSM",
    "pgd-10": "PGD-10",
    "pgd-20": "PGD-20",
    "cw-30-kappa-50": "C&W",
    "square-5000": "Square",
}
"""What the papers call attacks of our suite ``paper``."""
_LEADING = 3  # model, clean, worst case: repeated where the attacks need several tables


def attack_rows(
    records: Sequence[Record], suite: str = "paper"
) -> tuple[list[str], list[list[str]]]:
    """Header and cells, in percent, at the strongest strength.

    Of a suite whose attacks each saw every image, a cell is the accuracy under that attack alone.
    Of any other, it is what was left after that attack and all that came before it. Either way an
    image broken at a lower strength counts as broken.

    Args:
        records: Of models evaluated on the same images at the same strengths; several of one model
            (its seeds) become one row of mean and, in parentheses, standard deviation.
        suite: The suite whose attacks become columns.

    Returns:
        Column names (model, clean, worst case, then the attacks) and one list of cells a model, in
        the order the models first appear; a dash where a model was not attacked so.

    Raises:
        ValueError: If there is no record, they are not of the same images and strengths, none has
            the suite, or it is independent in some only.
    """
    check_comparable(records, "table of attacks")
    _independent(records, suite)
    scores = [_scores(record, suite) for record in records]
    attacks = list(dict.fromkeys(name for score in scores for name in score))
    by_model: dict[str, list[dict[str, float]]] = defaultdict(list)
    for record, score in zip(records, scores, strict=True):
        worst = record["headline"]["accuracy"]
        by_model[record["model"]].append({"clean": worst[0], WORST: worst[-1], **score})
    body = [
        [
            model,
            *(_cell([found.get(name) for found in group]) for name in ("clean", WORST, *attacks)),
        ]
        for model, group in by_model.items()
    ]
    return ["model", "clean", WORST, *(HEADS.get(name, name) for name in attacks)], body


def rich_columns(records: Sequence[Record], title: str, suite: str = "paper") -> Group:
    """The attacks for a terminal, in as many tables as it takes to fit into 80 columns.

    Args:
        records: As for ``attack_rows``.
        title: Printed above.
        suite: The suite whose attacks become columns.

    Returns:
        Tables, and what their numbers are. The worst case is bold; the diagnostics are dim, and of
        several seeds the mean.
    """
    header, full = attack_rows(records, suite)
    # Diagnostics without their spread over seeds: with it they do not fit.
    body = [[*row[:_LEADING], *(cell.split()[0] for cell in row[_LEADING:])] for row in full]
    heads = [
        header[0],
        "clean",
        "worst\ncase",
        *(in_lines(name, 6, after="-") for name in header[_LEADING:]),
    ]
    widths = [
        max(map(len, [*head.split("\n"), *(row[number] for row in body)]))
        for number, head in enumerate(heads)
    ]
    widths[0] = min(widths[0], 26)
    gap = 2 if sum(widths) + 2 * len(widths) <= WIDTH + 2 else 1
    parts: list[Table | Text] = [Text(title, style="italic")]
    for chosen in _chunks([width + gap for width in widths]):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0))
        for number in chosen:
            style = "bold" if number == 2 else "dim" if number >= _LEADING else ""
            if number == 0:
                table.add_column(heads[0], overflow="fold", max_width=widths[0])
            else:
                table.add_column(
                    heads[number],
                    justify="right",
                    style=style,
                    header_style=style,
                    min_width=widths[number],
                )
        for row in body:
            name = in_lines(row[0], widths[0])
            table.add_row(name, *(row[number] for number in chosen[1:]))
        parts += [table, Text()]
    return Group(*parts, Text(columns_caption(records, suite), style="dim italic"))


def markdown_columns(records: Sequence[Record], suite: str = "paper") -> str:
    """The attacks as Markdown, with the caption under the table.

    Args:
        records: As for ``attack_rows``.
        suite: The suite whose attacks become columns.

    Returns:
        A table; the worst case is bold, the heads of the diagnostics are in italics.
    """
    header, body = attack_rows(records, suite)
    names = [*header[:2], f"**{WORST}**", *(f"*{name}*" for name in header[_LEADING:])]
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for model, clean, worst, *rest in body:
        lines.append("| " + " | ".join([model, clean, f"**{worst}**", *rest]) + " |")
    return "\n".join([*lines, "", columns_caption(records, suite)]) + "\n"


def columns_caption(records: Sequence[Record], suite: str = "paper") -> str:
    """What the numbers are, and which of them to quote."""
    first = records[0]
    alone = _independent(records, suite)
    names = [
        a["name"] for r in records for s in r["suites"] if s["name"] == suite for a in s["attacks"]
    ]
    shown = {name: HEADS.get(name, name) for name in names}
    renamed = {f"{head} is {name}" for name, head in shown.items() if head.lower() != name}
    how = (
        "each attack alone on every image"
        if alone
        else "what is left after that attack and all before it"
    )
    return (
        f"{first['data']}, {first['images']} {first.get('part', 'test')} images, {first['norm']} "
        f"{first['epsilons_written'][-1]}, accuracy in %.{seeds_said(records)} Quote the worst "
        "case: each image counts as right only if nothing in the record broke it. The columns "
        "after it are "
        f'diagnostics, suite "{suite}": {how}, carried upwards from lower strengths.'
        + (f" {', '.join(sorted(renamed))}." if renamed else "")
    )


def _independent(records: Sequence[Record], suite: str) -> bool:
    found = {
        bool(each.get("independent", False)): record["model"]
        for record in records
        for each in record["suites"]
        if each["name"] == suite
    }
    if not found:
        known = dict.fromkeys(each["name"] for record in records for each in record["suites"])
        raise ValueError(
            f"suite must be one that a record has, got {suite}; these records have "
            f"{', '.join(known)}. Choose one of them, or evaluate with that suite."
        )
    if len(found) > 1:
        raise ValueError(
            f"records of one table of attacks must agree in independent: suite {suite} is "
            f"independent of {found[True]} and not of {found[False]}; evaluate both alike."
        )
    return next(iter(found))


def _scores(record: Record, suite: str) -> dict[str, float]:
    """Accuracy at the strongest strength under each attack of the suite; empty without it."""
    last = len(record["epsilons"]) - 1
    wrong = [at == 0 for at in broken_at(record)]  # when clean
    for number, each in enumerate(record["suites"]):
        if each["name"] != suite:
            continue
        columns = {attack["name"]: _of_attack(each, attack) for attack in each["attacks"]}
        if each.get("independent", False):
            return {
                name: 1 - _share([bad or at >= 0 for bad, at in zip(wrong, column, strict=True)])
                for name, column in columns.items()
            }
        # Strengths are tried one after another: before the strongest, all attacks have had a go.
        gone = list(wrong)
        for before in record["suites"][:number]:
            if before.get("independent", False):
                continue  # it leaves nothing out of what later suites see
            gone = [bad or at >= 0 for bad, at in zip(gone, before["broken_at"], strict=True)]
        for column in columns.values():
            gone = [bad or 0 <= at < last for bad, at in zip(gone, column, strict=True)]
        left = {}
        for name, column in columns.items():
            gone = [bad or at == last for bad, at in zip(gone, column, strict=True)]
            left[name] = 1 - _share(gone)
        return left
    return {}


def _of_attack(suite: dict[str, Any], attack: dict[str, Any]) -> list[int]:
    """Where an attack broke each image; in older records it follows from who broke it first."""
    if "broken_at" in attack:
        return list(attack["broken_at"])
    pairs = zip(suite["broken_at"], suite["broken_by"], strict=True)
    return [at if by == attack["name"] else -1 for at, by in pairs]


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)


def _cell(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values):
        return NONE
    return f"{mean(known):.1f}" + (f" ({stdev(known):.1f})" if len(known) > 1 else "")


def _chunks(widths: list[int]) -> list[list[int]]:
    """Columns of each table: the leading ones, and as many attacks as fit beside them."""
    leading = list(range(_LEADING))
    chunks = [list(leading)]
    for number in range(_LEADING, len(widths)):
        used = sum(widths[other] for other in chunks[-1])
        if used + widths[number] > WIDTH + 1 and len(chunks[-1]) > _LEADING:
            chunks.append(list(leading))
        chunks[-1].append(number)
    return chunks
