"""Attack table: one column for each attack, beside the worst case, which is the result to quote."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from equipoise.report.compare import broken_at
from equipoise.report.marks import apart_last, marked_name, marks_caption
from equipoise.report.record import Record
from equipoise.report.table import NONE, WIDTH, check_comparable, seeds_sentence, wrap_name
from equipoise.runtime.errors import InvalidInput

WORST = "worst case"
HEADS = {
    "fgsm": "FGSM",
    "pgd-10": "PGD-10",
    "pgd-20": "PGD-20",
    "cw-30-kappa-50": "C&W",
    "square-5000": "Square",
}
"""The papers' names for the attacks of our suite ``paper``."""
_LEADING = 3  # model, clean, worst case: repeated where the attacks need several tables


def attack_rows(
    records: Sequence[Record], suite: str = "paper"
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of an attack table, in percent, at the strongest strength.

    In an independent suite, whose attacks each ran on every image, a cell is the accuracy under
    that attack alone. In any other suite, it is the accuracy left after that attack and all before
    it. Either way an image broken at a lower strength counts as broken.

    Args:
        records: Evaluations of models on the same images at the same strengths. Several records of
            one model are its training seeds; their row holds the mean and, in parentheses, the
            standard deviation.
        suite: Suite whose attacks become columns.

    Returns:
        Column names (model, clean, worst case, then the attacks), and one list of cells for each
        model in the order in which they first appear, those that are black box only last; a dash
        for an attack that was not run.

    Raises:
        ValueError: If there is no record, they differ in images or strengths, none has the suite,
            or it is independent in some of them only.
    """
    check_comparable(records, "table of attacks")
    _independent(records, suite)
    records = apart_last(records)
    scores = [_scores(record, suite) for record in records]
    attacks = list(dict.fromkeys(name for score in scores for name in score))
    by_model: dict[str, list[dict[str, float]]] = defaultdict(list)
    for record, score in zip(records, scores, strict=True):
        worst = record["headline"]["accuracy"]
        by_model[record["model"]].append({"clean": worst[0], WORST: worst[-1], **score})
    names = ("clean", WORST, *attacks)
    body = [
        [
            marked_name(model, records),
            *(_cell([score.get(name) for score in seeds]) for name in names),
        ]
        for model, seeds in by_model.items()
    ]
    return ["model", "clean", WORST, *(HEADS.get(name, name) for name in attacks)], body


def rich_columns(records: Sequence[Record], title: str, suite: str = "paper") -> Group:
    """Attack table for the terminal, split into as many tables as fit into 80 columns.

    Args:
        records: Evaluations, as for ``markdown_columns``.
        title: Title above the tables.
        suite: Suite whose attacks become columns.

    Returns:
        Tables with a caption. The worst case is bold. The attacks are dim and, for several seeds,
        without their deviation.

    Raises:
        ValueError: As ``markdown_columns``.
    """
    header, full = attack_rows(records, suite)
    # Attacks without their spread over seeds: with it they do not fit.
    body = [[*row[:_LEADING], *(cell.split()[0] for cell in row[_LEADING:])] for row in full]
    attacks = [wrap_name(name, 6, after="-") for name in header[_LEADING:]]
    heads = [header[0], "clean", "worst\ncase", *attacks]
    widths = [
        max(map(len, [*head.split("\n"), *(row[number] for row in body)]))
        for number, head in enumerate(heads)
    ]
    widths[0] = min(widths[0], 26)
    gap = 2 if sum(widths) + 2 * len(widths) <= WIDTH + 2 else 1
    parts: list[Table | Text] = [Text(title, style="italic")]
    for chosen in _chunks([width + gap for width in widths]):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0))
        table.add_column(heads[0], overflow="fold", max_width=widths[0])
        for number in chosen[1:]:
            style = "bold" if number == 2 else "dim" if number >= _LEADING else ""
            table.add_column(
                heads[number],
                justify="right",
                style=style,
                header_style=style,
                min_width=widths[number],
            )
        for row in body:
            table.add_row(
                Text(wrap_name(row[0], widths[0])), *(row[number] for number in chosen[1:])
            )
        parts += [table, Text()]
    return Group(*parts, Text(columns_caption(records, suite), style="dim italic"))


def markdown_columns(records: Sequence[Record], suite: str = "paper") -> str:
    """Attack table as Markdown, with its caption.

    Args:
        records: Evaluations of models on the same images at the same strengths. Several records of
            one model are its training seeds; their row holds the mean and, in parentheses, the
            standard deviation.
        suite: Suite whose attacks become columns.

    Returns:
        A table, accuracies in percent; the worst case is bold, the names of attacks in italics.

    Raises:
        ValueError: If there is no record, they differ in images or strengths, none has the suite,
            or it is independent in some of them only.

    Example:
        >>> attacks = [{"name": "fgsm", "broken_at": [0, -1, -1, -1]},
        ...            {"name": "pgd-20", "broken_at": [0, 1, -1, -1]}]
        >>> record = {
        ...     "model": "afa", "data": "digits", "norm": "Linf", "images": 4,
        ...     "epsilons": [0.0, 0.1], "epsilons_written": ["0", "0.1"],
        ...     "broken_at": [0, 1, -1, -1], "headline": {"accuracy": [0.75, 0.5]},
        ...     "suites": [{"name": "paper", "independent": True, "attacks": attacks}],
        ... }
        >>> print(markdown_columns([record]).split("\\n\\n")[0])
        | model | clean | **worst case** | *FGSM* | *PGD-20* |
        |---|---:|---:|---:|---:|
        | afa | 75.0 | **50.0** | 75.0 | 50.0 |
    """
    header, body = attack_rows(records, suite)
    names = [*header[:2], f"**{WORST}**", *(f"*{name}*" for name in header[_LEADING:])]
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for model, clean, worst, *rest in body:
        lines.append("| " + " | ".join([model, clean, f"**{worst}**", *rest]) + " |")
    return "\n".join([*lines, "", columns_caption(records, suite)]) + "\n"


def columns_caption(records: Sequence[Record], suite: str = "paper") -> str:
    """Caption of an attack table: what the numbers are, and which of them to quote."""
    first = records[0]
    names = [
        attack["name"]
        for record in records
        for tried in record["suites"]
        if tried["name"] == suite
        for attack in tried["attacks"]
    ]
    shown = {name: HEADS.get(name, name) for name in names}
    renamed = {f"{head} is {name}" for name, head in shown.items() if head.lower() != name}
    how = (
        "each attack alone on every image"
        if _independent(records, suite)
        else "the accuracy left after that attack and all before it"
    )
    return (
        f"Accuracy in % on {first['images']} {first.get('part', 'test')} images of "
        f"{first['data']}, {first['norm']} {first['epsilons_written'][-1]}."
        f"{seeds_sentence(records)} Quote the worst case: an image counts as correct only if no "
        "attack in the record broke it. The columns after it are diagnostics of suite "
        f'"{suite}": {how}; an image broken at a lower strength counts as broken.'
        + (f" {', '.join(sorted(renamed))}." if renamed else "")
        + marks_caption(records)
    )


def _independent(records: Sequence[Record], suite: str) -> bool:
    """Whether each attack of a suite ran on every image; the same for all records that have it."""
    models = {
        bool(tried.get("independent", False)): record["model"]
        for record in records
        for tried in record["suites"]
        if tried["name"] == suite
    }
    if not models:
        known = dict.fromkeys(tried["name"] for record in records for tried in record["suites"])
        raise InvalidInput(
            f"suite must be one that a record has, got {suite}; these records have "
            f"{', '.join(known)}. Choose one of them, or evaluate with that suite."
        )
    if len(models) > 1:
        raise InvalidInput(
            f"records of one table of attacks must agree in independent: suite {suite} is "
            f"independent for {models[True]} and not for {models[False]}; evaluate both in the "
            "same way."
        )
    return next(iter(models))


def _scores(record: Record, suite: str) -> dict[str, float]:
    """Accuracy at the strongest strength under each attack of the suite; empty without it."""
    last = len(record["epsilons"]) - 1
    wrong_when_clean = [level == 0 for level in broken_at(record)]
    for number, tried in enumerate(record["suites"]):
        if tried["name"] != suite:
            continue
        columns = {attack["name"]: _broken_by(tried, attack) for attack in tried["attacks"]}
        if tried.get("independent", False):
            return {
                name: 1 - _share(_or(wrong_when_clean, column)) for name, column in columns.items()
            }
        # Strengths run in turn: before the strongest, every attack has run at the weaker ones.
        broken = wrong_when_clean
        for earlier in record["suites"][:number]:
            if not earlier.get("independent", False):  # one that is hides nothing from later suites
                broken = _or(broken, earlier["broken_at"])
        for column in columns.values():
            broken = _or(broken, [level if level < last else -1 for level in column])
        scores = {}
        for name, column in columns.items():
            broken = _or(broken, [level if level == last else -1 for level in column])
            scores[name] = 1 - _share(broken)
        return scores
    return {}


def _or(broken: list[bool], levels: Sequence[int]) -> list[bool]:
    """Images broken before, or at one of these levels; -1 is an image that was not broken."""
    return [before or level >= 0 for before, level in zip(broken, levels, strict=True)]


def _broken_by(suite: dict[str, Any], attack: dict[str, Any]) -> list[int]:
    """Strength at which an attack broke each image; older records only name the first attack."""
    if "broken_at" in attack:
        return list(attack["broken_at"])
    pairs = zip(suite["broken_at"], suite["broken_by"], strict=True)
    return [level if name == attack["name"] else -1 for level, name in pairs]


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
