"""Marks of a record: facts about its model or its attacks that limit what the score means."""

from collections.abc import Sequence

from equipoise.report.record import Record
from equipoise.runtime.errors import InvalidInput

BLACK_BOX = "black box only"
"""Mark of a model that was attacked without its gradients."""
APART = f"{BLACK_BOX}: not comparable"
"""Heading of the rows with that mark, which are below all others."""
_BLACK_BOX_MEANING = (
    "No attack used the model's gradients. An attacker who has them may break far more images."
)
_WITHOUT_GRADIENTS = {"black box", "transfer"}
"""Kinds of attack that do not use the gradients of the evaluated model."""


def marks_of(record: Record) -> list[Record]:
    """Marks of a record, each with at least ``name`` and ``meaning``.

    A record that does not say that it is black box only is given the mark if it has attacks and
    none of them used the model's gradients.

    Args:
        record: An evaluation.

    Raises:
        ValueError: If a mark has no name or meaning.

    Example:
        >>> attack = {"name": "square-1000", "kind": "black box"}
        >>> record = {"model": "net", "suites": [{"name": "standard", "attacks": [attack]}]}
        >>> [mark["name"] for mark in marks_of(record)]
        ['black box only']
    """
    marks: list[Record] = list(record.get("marks") or [])
    for mark in marks:
        if not {"name", "meaning"} <= mark.keys():
            raise InvalidInput(
                f"a mark must have a name and a meaning, got {mark} for {record['model']}; "
                "evaluate the model again."
            )
    kinds = {
        attack.get("kind") for suite in record.get("suites", []) for attack in suite["attacks"]
    }
    inferred = bool(kinds) and kinds <= _WITHOUT_GRADIENTS
    if inferred and all(mark["name"] != BLACK_BOX for mark in marks):
        marks.append({"name": BLACK_BOX, "meaning": _BLACK_BOX_MEANING})
    return marks


def black_box_only(record: Record) -> bool:
    """Whether a record's model was attacked without its gradients."""
    return any(mark["name"] == BLACK_BOX for mark in marks_of(record))


def apart_models(records: Sequence[Record]) -> set[str]:
    """Names of the models that are ranked apart: one of their records is black box only."""
    return {record["model"] for record in records if black_box_only(record)}


def apart_last(records: Sequence[Record]) -> list[Record]:
    """The same records, with those of models that are ranked apart below the others."""
    apart = apart_models(records)
    return sorted(records, key=lambda record: record["model"] in apart)


def lettered_marks(records: Sequence[Record]) -> dict[str, Record]:
    """All marks of records by the letter that stands for them in a table, from ``a`` on."""
    by_name = {mark["name"]: mark for record in apart_last(records) for mark in marks_of(record)}
    letters = (chr(ord("a") + number) for number in range(len(by_name)))
    return dict(zip(letters, by_name.values(), strict=True))


def marked_name(model: str, records: Sequence[Record]) -> str:
    """Name of a model with the letters of its marks.

    Args:
        model: Name of the model.
        records: All records of the table.

    Example:
        >>> record = {"model": "net", "marks": [{"name": "randomised", "meaning": "Draws."}]}
        >>> marked_name("net", [record])
        'net [a]'
    """
    own = {
        mark["name"] for record in records if record["model"] == model for mark in marks_of(record)
    }
    letters = [letter for letter, mark in lettered_marks(records).items() if mark["name"] in own]
    return f"{model} [{', '.join(letters)}]" if letters else model


def marks_caption(records: Sequence[Record]) -> str:
    """What each letter stands for, as sentences of a caption; empty without marks.

    Example:
        >>> record = {"model": "net", "marks": [{"name": "randomised", "meaning": "It draws."}]}
        >>> marks_caption([record])
        ' [a] randomised: It draws.'
    """
    return "".join(
        f" [{letter}] {mark['name']}: {' '.join(str(mark['meaning']).split())}"
        for letter, mark in lettered_marks(records).items()
    )
