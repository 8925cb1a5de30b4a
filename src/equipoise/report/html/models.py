"""Records to models: means over seeds, intervals, what broke the images, and who is drawn how."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from equipoise.records.statistics import wilson_interval
from equipoise.report.self_checks import VERDICTS, checks_of
from equipoise.report.table import Record, check_comparable, fullest

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's, which the colour-blind tell apart; grey for their black, no yellow."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number of a model, a fraction.

    Args:
        mean: Over its seeds.
        spread: Standard deviation over its seeds; ``None`` for a single one.
        interval: 95 % Wilson interval of the mean for the count of images, which all seeds share;
            ``None`` where the number is no share of images.
    """

    mean: float
    spread: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """All records of one model.

    Args:
        number: Its place among the models; says how it is drawn.
        name: Its name.
        paths: Where its records lie.
        records: One for each training seed.
    """

    number: int
    name: str
    paths: tuple[Path, ...]
    records: tuple[Record, ...]

    @property
    def colour(self) -> str:
        """The colour of its lines."""
        return COLOURS[self.number % len(COLOURS)]

    @property
    def dash(self) -> str:
        """The dashes of its lines."""
        return DASHES[self.number // len(COLOURS) % len(DASHES)]

    @property
    def symbol(self) -> str:
        """The shape of its points."""
        return SYMBOLS[self.number % len(SYMBOLS)]

    @property
    def accuracies(self) -> list[Value]:
        """Headline accuracy at each strength."""
        count = self.records[0]["images"]
        columns = zip(*(r["headline"]["accuracy"] for r in self.records), strict=True)
        return [
            value(column, wilson_interval(round(mean(column) * count), count)) for column in columns
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
    def checks(self) -> dict[str, int]:
        """How many self-checks ended in each verdict."""
        found = [check["verdict"] for record in self.records for check in checks_of(record)]
        return {verdict: found.count(verdict) for verdict in VERDICTS}

    @property
    def verdict(self) -> str:
        """The worst verdict of its self-checks, or ``"none"``."""
        return next((verdict for verdict in VERDICTS[::-1] if self.checks[verdict]), "none")

    def broken_by(self) -> dict[str, float]:
        """How many images each attack was the first to break, mean over seeds.

        Returns:
            ``"clean"`` for those wrong without an attack, every attack as ``suite/attack`` in the
            order tried, ``"never"`` for those that nothing broke; empty for records that do not
            say.
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
        """A field that records of its kind of model hold, such as ``"importance"``; of each record
        that has it."""
        return [record[name] for record in self.records if name in record]


def value(values: Sequence[float], interval: tuple[float, float] | None = None) -> Value:
    """Mean and deviation over seeds."""
    spread = stdev(values) if len(values) > 1 else None
    return Value(mean=mean(values), spread=spread, interval=interval)


def models_of(found: Sequence[tuple[Path, Record]]) -> list[Model]:
    """Group records by model; of several evaluations of one trained model, keep the fullest.

    Args:
        found: Records of the same images at the same strengths, with their paths.

    Returns:
        Models, in the order in which they first appear.

    Raises:
        ValueError: If there is no record, or they do not compare.
    """
    check_comparable([record for _, record in found], "report")
    kept = {id(record) for record in fullest([record for _, record in found])}
    names = dict.fromkeys(record["model"] for _, record in found)
    models = []
    for number, name in enumerate(names):
        own = [(p, r) for p, r in found if r["model"] == name and id(r) in kept]
        paths, records = zip(*own, strict=True)
        models.append(Model(number=number, name=name, paths=paths, records=records))
    return models


def seed_of(record: Record) -> str:
    """A record's model with its training seed, where it names one."""
    seed = record.get("training_seed")
    name: str = record["model"]
    return name if seed is None else f"{name}, seed {seed}"


def published_beside(record: Record) -> list[dict[str, Any]]:
    """Published numbers that may stand beside a record's.

    Args:
        record: Any of those reported.

    Returns:
        For each published model of the same data set and norm with the record's strongest strength:
        model, clean and robust accuracy as fractions, attack, network and source.
    """
    text = resources.files("equipoise.report").joinpath("published.json").read_text()
    strongest = record["epsilons_written"][-1]
    return [
        {
            "model": row["model"],
            "clean": row["accuracy"]["0"] / 100,
            "robust": row["accuracy"][strongest] / 100,
            **{name: table[name] for name in ("attack", "network", "source")},
        }
        for table in json.loads(text)["tables"]
        if (table["data"], table["norm"]) == (_plain(record["data"]), record["norm"])
        for row in table["rows"]
        if strongest in row["accuracy"]
    ]


def _plain(data: str) -> str:
    """A data set's name as the literature has it: our CIFAR-10 says so if its images are JPEGs."""
    return re.sub("-jpeg$", "", data.lower())
