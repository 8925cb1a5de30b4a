"""Group records by model: means over seeds, intervals, what broke each image, and line styles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from equipoise.evaluation.statistics import wilson_interval
from equipoise.report.marks import APART, BLACK_BOX, marks_of
from equipoise.report.papers.published import published_tables
from equipoise.report.per_class import ClassRow, class_rows
from equipoise.report.record import Record
from equipoise.report.reliability import group_of
from equipoise.report.self_checks import VERDICTS, checks_of
from equipoise.report.series import GREY, OKABE_ITO
from equipoise.report.table import check_comparable, fullest

COLOURS = (*OKABE_ITO, GREY)
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")


@dataclass(frozen=True, kw_only=True)
class Value:
    """A quantity of a model, as a fraction.

    Args:
        mean: Mean over the model's seeds.
        spread: Standard deviation over seeds; ``None`` for a single one.
        interval: 95 % Wilson interval of the mean, for the number of images that all seeds share;
            ``None`` where the quantity is not a share of images.
    """

    mean: float
    spread: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """All records of one model.

    Args:
        number: Index among the models of the report; determines colour, dashes and symbol.
        name: Name of the model.
        paths: Paths of its records.
        records: Its records, one for each training seed.
    """

    number: int
    name: str
    paths: tuple[Path, ...]
    records: tuple[Record, ...]

    @property
    def colour(self) -> str:
        """Colour of its lines."""
        return COLOURS[self.number % len(COLOURS)]

    @property
    def dash(self) -> str:
        """Dash style of its lines."""
        return DASHES[self.number // len(COLOURS) % len(DASHES)]

    @property
    def symbol(self) -> str:
        """Symbol of its points."""
        return SYMBOLS[self.number % len(SYMBOLS)]

    @property
    def accuracies(self) -> list[Value]:
        """Headline accuracy at each strength."""
        images = self.records[0]["images"]
        columns = zip(*(r["headline"]["accuracy"] for r in self.records), strict=True)
        return [
            value(column, wilson_interval(round(mean(column) * images), images))
            for column in columns
        ]

    @property
    def average(self) -> Value:
        """Mean headline accuracy over all strengths."""
        return value([record["headline"]["average"] for record in self.records])

    @property
    def trade_off(self) -> Value:
        """(clean + strongest) / 2."""
        return value([record["headline"]["clean_and_strongest"] for record in self.records])

    @property
    def label(self) -> str:
        """Its name, with a note if it is black box only."""
        return f"{self.name} ({BLACK_BOX})" if self.group == APART else self.name

    @property
    def group(self) -> str:
        """Heading of the group in which it is ranked; empty for the first."""
        return group_of(self.records)

    @property
    def marks(self) -> list[Record]:
        """Its marks, one of each name."""
        return list({m["name"]: m for record in self.records for m in marks_of(record)}.values())

    @property
    def classes(self) -> list[ClassRow]:
        """Accuracy of each class; empty for records that do not hold it."""
        return class_rows(self.records)

    @property
    def checks(self) -> dict[str, int]:
        """Number of self-checks with each verdict."""
        verdicts = [check["verdict"] for record in self.records for check in checks_of(record)]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    @property
    def verdict(self) -> str:
        """Worst verdict of its self-checks, or ``"none"``."""
        return next((verdict for verdict in VERDICTS[::-1] if self.checks[verdict]), "none")

    def broken_by(self) -> dict[str, float]:
        """Number of images that each attack was the first to break, mean over seeds.

        Returns:
            ``"clean"`` for images misclassified without an attack, every attack as
            ``suite/attack`` in the order in which they ran, ``"never"`` for images that no attack
            broke. Empty for records that do not hold it.
        """
        if not all("broken_by" in record for record in self.records):
            return {}
        attacks = [
            f"{suite['name']}/{attack['name']}"
            for record in self.records
            for suite in record["suites"]
            for attack in suite["attacks"]
        ]
        names = dict.fromkeys(["clean", *attacks, None])
        return {
            name or "never": mean(record["broken_by"].count(name) for record in self.records)
            for name in names
        }

    def model_internals(self, name: str) -> list[Any]:
        """Values of a field that only some kinds of model have, such as ``"importance"``."""
        return [record[name] for record in self.records if name in record]


def value(values: Sequence[float], interval: tuple[float, float] | None = None) -> Value:
    """Mean and standard deviation over seeds."""
    spread = stdev(values) if len(values) > 1 else None
    return Value(mean=mean(values), spread=spread, interval=interval)


def models_of(pairs: Sequence[tuple[Path, Record]]) -> list[Model]:
    """Group records by model; keep the most complete evaluation of each trained model.

    Args:
        pairs: Paths and records, all of the same images at the same strengths.

    Returns:
        Models, in the order in which they first appear.

    Raises:
        ValueError: If there is no record, or records differ in one of ``MUST_AGREE``.
    """
    check_comparable([record for _, record in pairs], "report")
    shown = {id(record) for record in fullest([record for _, record in pairs])}
    models = []
    for number, name in enumerate(dict.fromkeys(record["model"] for _, record in pairs)):
        chosen = [(p, r) for p, r in pairs if r["model"] == name and id(r) in shown]
        paths, records = zip(*chosen, strict=True)
        models.append(Model(number=number, name=name, paths=paths, records=records))
    return models


def seed_of(record: Record) -> str:
    """Name of a record's model, with its training seed if the record names one."""
    seed = record.get("training_seed")
    name: str = record["model"]
    return name if seed is None else f"{name}, seed {seed}"


def published_beside(record: Record) -> list[dict[str, Any]]:
    """Published results that can be shown beside a record's.

    Args:
        record: Any record of the report.

    Returns:
        Each published model with the same data set, norm and strongest strength: its name, clean
        and robust accuracy as fractions, attack, network and source.
    """
    strongest = record["epsilons_written"][-1]
    return [
        {
            "model": row["model"],
            "clean": row["accuracy"]["0"] / 100,
            "robust": row["accuracy"][strongest] / 100,
            **{name: table[name] for name in ("attack", "network", "source")},
        }
        for table in published_tables()
        if (table["data"], table["norm"]) == (_original_name(record["data"]), record["norm"])
        for row in table["rows"]
        if strongest in row["accuracy"]
    ]


def _original_name(data: str) -> str:
    """A data set's name in the literature; ours marks CIFAR-10 that is stored as JPEGs."""
    return re.sub("-jpeg$", "", data.lower())
