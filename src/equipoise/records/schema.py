"""Fields of a record, checked whenever one is read: records may come from other people."""

import functools
import math
import operator
from functools import partial
from typing import Any, NewType, NotRequired, TypedDict

import cattrs

from equipoise.runtime.errors import InvalidInput

FORMAT = 1
LARGEST = 1e30
"""Numbers beyond this are refused, so that sums and products of a table stay finite."""

Share = NewType("Share", float)
"""A number in [0, 1]."""


class Headline(TypedDict):
    """Worst case over all attacks."""

    accuracy: list[Share]
    interval: list[list[Share]]
    average: Share
    clean_and_strongest: Share


class AttackOutcome(TypedDict):
    """Result of one attack."""

    name: str
    broken_at: NotRequired[list[int]]
    images_attacked: NotRequired[list[int]]
    forward_passes: NotRequired[int]
    backward_passes: NotRequired[int]
    alone: NotRequired[Share]


class SuiteOutcome(TypedDict):
    """Result of one attack suite."""

    name: str
    accuracy: list[Share]
    attacks: list[AttackOutcome]
    broken_at: list[int]
    broken_by: list[str | None]
    independent: NotRequired[bool]


class CheckNumbers(TypedDict):
    """Numbers of a self-check that reports use; a check may hold more."""

    could_flatter: NotRequired[float]


class Mark(TypedDict):
    """A fact that limits what a score means, such as ``"black box only"``."""

    name: str
    meaning: str


_ClassAccuracy = TypedDict("_ClassAccuracy", {"class": int, "images": int, "accuracy": list[float]})
"""Worst-case accuracy on the images of one class, at each strength."""


class Check(TypedDict):
    """Result of one self-check."""

    name: str
    verdict: str
    found: str
    meaning: str
    numbers: NotRequired[CheckNumbers]


class Verification(TypedDict):
    """Second pass over the adversarial images."""

    images: int


class Environment(TypedDict):
    """Software and hardware that a record was computed with."""

    commit: str | None
    python: str
    versions: dict[str, str]
    processor: str
    cores: int | None
    threads: NotRequired[int | None]
    devices: list[str]


class FusingWeight(TypedDict):
    """W1 of an AFA model at one strength."""

    mean: float
    std: float
    per_image: NotRequired[list[float]]


class FusingWeights(TypedDict):
    """W1 at each strength, for images attacked in two ways."""

    through_generator: list[FusingWeight]
    through_robust_branch: list[FusingWeight]


class FreeGate(TypedDict):
    """Accuracy of an AFA model if the attacker also chooses W0 within its range."""

    accuracy: list[float]
    range: list[float]
    gates: int


class Record(TypedDict):
    """Fields that tables, comparisons and reports use; a record may hold more."""

    format: int
    model: str
    data: str
    norm: str
    images: int
    epsilons: list[float]
    epsilons_written: list[str]
    headline: Headline
    suites: list[SuiteOutcome]
    broken_at: NotRequired[list[int]]
    broken_by: NotRequired[list[str | None]]
    fusing_weight: NotRequired[FusingWeights]
    r_free: NotRequired[FreeGate]
    importance: NotRequired[list[float]]
    rescored: NotRequired[Verification]
    settings: NotRequired[list[Any]]
    seed: NotRequired[int]
    batch_size: NotRequired[int]
    search_precision: NotRequired[str]
    seconds: NotRequired[float]
    forward_passes: NotRequired[int]
    backward_passes: NotRequired[int]
    parameters: NotRequired[int]
    environment: NotRequired[Environment]
    training_seed: NotRequired[int | None]
    training_commit: NotRequired[str | None]
    training_warnings: NotRequired[list[str]]
    self_checks: NotRequired[list[Check] | None]
    marks: NotRequired[list[Mark]]
    per_class: NotRequired[list[_ClassAccuracy]]


class Scores(TypedDict):
    """Numbers of a record that are stored inside an exported file."""

    data: str
    images: int
    norm: str
    epsilons: list[float]
    w1: list[FusingWeight] | None
    warning: NotRequired[str | None]


class ScoreCard(TypedDict):
    """Metadata of an exported file."""

    name: str
    classes: list[str]
    image_shape: list[int]
    outputs: list[str]
    scores: Scores | None


def check_score_card(content: Any) -> None:
    """Check the metadata of an exported file.

    Args:
        content: JSON values.

    Raises:
        ValueError: If a field is missing, of the wrong type or out of range, or its length does not
            fit the others; the message names the field.

    Example:
        >>> check_score_card({"name": "afa"})
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: a damaged score card: a field is missing @ score card.classes; ...
    """
    _check_fields(content, ScoreCard, "score card")
    scores = content["scores"]
    if scores and scores["w1"] is not None and len(scores["w1"]) != len(scores["epsilons"]):
        raise InvalidInput("a damaged score card: w1 and epsilons differ in length")


def check(content: Any) -> None:
    """Check the fields of a record.

    Args:
        content: JSON values.

    Raises:
        ValueError: If a field is missing, of the wrong type or out of range, or its length does not
            fit the others; the message names the field, and continues a sentence "PATH is ...".

    Example:
        >>> check({"format": 2})
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: not a record of format 1 (got 2)
    """
    version = content.get("format") if isinstance(content, dict) else type(content).__name__
    if version != FORMAT or isinstance(version, bool):
        raise InvalidInput(f"not a record of format {FORMAT} (got {version})")
    _check_fields(content, Record, "record")
    levels, images = len(content["epsilons"]), content["images"]
    headline, suites = content["headline"], content["suites"]
    lengths = {
        "epsilons": (levels, max(levels, 1)),
        "epsilons_written": (len(content["epsilons_written"]), levels),
        "headline.accuracy": (len(headline["accuracy"]), levels),
        "headline.interval": (len(headline["interval"]), levels),
        "suites": (len(suites), max(len(suites), 1)),
        "broken_at": (_length(content, "broken_at", images), images),
        "broken_by": (_length(content, "broken_by", images), images),
    }
    if "r_free" in content:
        lengths["r_free.accuracy"] = (len(content["r_free"]["accuracy"]), levels)
        lengths["r_free.range"] = (len(content["r_free"]["range"]), 2)
    lengths |= {
        f"fusing_weight {way}": (len(points), levels)
        for way, points in content.get("fusing_weight", {}).items()
    }
    lengths |= {
        f"headline.interval[{i}]": (len(ends), 2) for i, ends in enumerate(headline["interval"])
    }
    for row in content.get("per_class", []):
        lengths[f"per_class {row['class']}"] = (len(row["accuracy"]), levels)
    for suite in suites:
        lengths[f"accuracy of {suite['name']}"] = (len(suite["accuracy"]), levels)
        lengths[f"broken_at of {suite['name']}"] = (len(suite["broken_at"]), images)
        lengths[f"broken_by of {suite['name']}"] = (len(suite["broken_by"]), images)
        for attack in suite["attacks"]:
            name = f"broken_at of {suite['name']}/{attack['name']}"
            lengths[name] = (_length(attack, "broken_at", images), images)
    for name, (length, expected) in lengths.items():
        if length != expected:
            raise InvalidInput(f"a damaged record: {name} has {length} entries, not {expected}")


def _check_fields(content: Any, kind: type, name: str) -> None:
    try:
        _converter().structure(content, kind)
    except Exception as error:  # cattrs raises exception groups
        reasons = cattrs.transform_error(error, path=name, format_exception=_reason)
        raise InvalidInput(f"a damaged {name}: {'; '.join(reasons[:3])}") from error


def _length(content: Any, name: str, default: int) -> int:
    return len(content[name]) if name in content else default


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, _check_type)
    converter.register_structure_hook(Share, _check_share)
    for kind in (int, str):
        converter.register_structure_hook_factory(
            partial(operator.eq, kind | None),
            lambda _, kind=kind: lambda value, _: value is None or _check_type(value, kind),
        )
    return converter


def _check_type(value: Any, kind: type) -> Any:
    """Return a value if it is exactly of this type; an int is a float, too."""
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"must be of type {kind.__name__}, got {str(value)[:40]!r}")
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise ValueError(f"must be at most {LARGEST:g} in size, got {str(value)[:40]}")
    return value


def _check_share(value: Any, _: Any) -> Any:
    if type(value) in (int, float) and not 0 <= value <= 1:
        raise ValueError(f"must be in [0, 1], got {str(value)[:40]}")
    return _check_type(value, float)


def _reason(error: BaseException, kind: Any) -> str:
    return "a field is missing" if isinstance(error, KeyError) else str(error)[:200]
