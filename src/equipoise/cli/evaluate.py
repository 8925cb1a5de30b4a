"""What several commands do with a model that is trained: evaluate it, export it, say so."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from equipoise.cli.options import Sources, Suites, console
from equipoise.records.epsilon import Epsilons


def evaluate_and_print(
    models: Sequence[str], preferences: Sequence[float | None] = (None,), **settings: Any
) -> None:
    """Evaluate models at each preference, and print one table, the self-checks and the records.

    Args:
        models: As for ``evaluate``.
        preferences: Of OAT's networks; ``None`` for their own.
        settings: Further arguments of ``evaluate``.
    """
    from equipoise.cli.progress import Terminal
    from equipoise.report import rich_checks, rich_columns, rich_table
    from equipoise.workflows.evaluate import evaluate

    records, paths = [], []
    with Terminal(console) as terminal:
        for model, preference in product(models, preferences):
            record, path = evaluate(model, preference=preference, reporter=terminal, **settings)
            records.append(record)
            paths.append(path)
    console.print(rich_table(records, "Worst case per image"))
    for suite in records[0]["suites"]:
        if suite["independent"]:
            console.print(rich_columns(records, "Attack by attack", suite["name"]))
    console.print(rich_checks(*records))
    for path in paths:
        console.print(f"record: {path}", highlight=False, soft_wrap=True)


def evaluate(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    epsilons: Epsilons = (),
    suite: tuple[Suites, ...] | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    images: int | None = None,
    part: Literal["test", "validation"] | None = None,
    norm: Literal["Linf", "L2"] | None = None,
    dataset: Sources | None = None,
    data: Path | None = None,
    size: int | None = None,
    surrogates: tuple[str, ...] = (),
    logits: str | None = None,
    trust: tuple[str, ...] = (),
    preferences: tuple[float, ...] = (),
    search_precision: Literal["32-true", "bf16-mixed"] = "32-true",
    order: Literal["ascending", "descending"] = "ascending",
    self_checks: bool = True,
    workers: int = 1,
    seed: int = 0,
    batch_size: int = 256,
) -> None:
    """Attack models at many strengths and print one table; a record is written beside each.

    Stopped or killed, the same command goes on; with more strengths or suites it re-uses what is
    known.

    Args:
        models: Run folders, model folders, hf://owner/name, module:function, ONNX or torch.export
            files.
        epsilons: Strengths such as 0 1/255 2/255 4/255 8/255; the recipe's by default.
        suite: Attacks to try, in order; the recipe's by default.
        steps: Steps of each search of quick, adaptive and transfer.
        restarts: Random restarts of quick.
        images: Only so many: the first ones, or evenly spaced ones of images sorted by class.
        part: "validation" for the images held out of training, on which settings are chosen.
        norm: Geometry of the threat.
        dataset: Data for a model that does not say on what it was trained.
        data: Folder or file of the data set, if it lies elsewhere here.
        size: With --dataset imagefolder: bring images to so many pixels a side.
        surrogates: Models that the suite transfer attacks in the model's place.
        logits: Which part of the model's answer holds the logits: a key, a place, or binary.
        trust: Modules whose code may be run to build a network that Equipoise did not write, and
            .pt2 files that may be read.
        preferences: For OAT's networks: evaluate at each of these lambdas; one record each.
        search_precision: Of the searches; scores are float32 always.
        order: Descending begins at the strongest epsilon: much faster on robust models, as an image
            that nothing breaks there is not attacked below.
        self_checks: Look for signs that the score is too good.
        workers: Processes among which batches of images are shared out.
        seed: Of the attacks.
        batch_size: Images attacked at once.
    """
    from equipoise.workflows.datasets import named_source

    if not models:
        raise ValueError("evaluate needs at least one model, got none.")
    if size is not None and dataset is None:
        raise ValueError("--size is for images named by --dataset imagefolder; name them.")
    changes = {
        "epsilons": epsilons or None, "suites": suite, "steps": steps, "restarts": restarts,
        "images": images, "part": part, "norm": norm,
    }  # fmt: skip
    source = named_source(dataset, data, size) if dataset is not None else None
    evaluate_and_print(
        models,
        preferences or (None,),
        changes={name: value for name, value in changes.items() if value is not None},
        dataset=source.load() if source is not None else None,
        data=data,
        seed=seed,
        batch_size=batch_size,
        surrogates=surrogates,
        logits=logits,
        trust=trust,
        search_precision=search_precision,
        order=order,
        checks=self_checks,
        workers=workers,
    )
