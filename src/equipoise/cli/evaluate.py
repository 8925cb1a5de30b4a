"""The command ``equipoise evaluate``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from equipoise.cli.options import Sources, Suites, console, errors, optional, print_line
from equipoise.records.epsilon import Epsilons
from equipoise.runtime.errors import InvalidInput

if TYPE_CHECKING:
    from equipoise.report.gates import Requirement

Count = Annotated[int | None, optional("N")]


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Flags of ``equipoise evaluate``.

    Args:
        epsilons: Attack strengths, such as 0 1/255 2/255 4/255 8/255; by default the recipe's.
        suite: Attack suites, in order: quick, tables, paper, standard, autoattack, adaptive,
            transfer. By default the recipe's.
        steps: Steps per search in the suites quick, adaptive and transfer.
        restarts: Random restarts in the suite quick.
        images: Evaluate on N images: the first ones, or evenly spaced ones if images are sorted by
            class.
        part: test, or validation for the images held out of training; choose settings on those.
        norm: Norm of the threat, Linf or L2.
        dataset: Data set, for a model that does not name the one it was trained on: digits,
            cifar10, cifar100, svhn, tinyimagenet, imagefolder or npz.
        data: Folder or file of the data set, if it is elsewhere on this machine.
        size: With --dataset imagefolder, resize images to this height and width.
        surrogates: Models that the suite transfer attacks in place of the evaluated one.
        logits: Which part of the model's output holds the logits: a key, an index, or binary.
        trust: Modules whose code may run to build an external network, and .pt2 files that may be
            read.
        draws: For a randomised model, the draws that attacks average; 10 by default if the model is
            found to be random.
        reject_class: The last of K + 1 logits means "reject", which is not an error under attack.
        gradient_of: Differentiable stand-in for the backward pass (BPDA): module:function or a
            torch.export file that returns logits.
        preferences: For OAT, the values of lambda to evaluate at; one record each.
        search_precision: Precision of the searches; scores are always float32.
        order: descending starts at the strongest epsilon, which is much faster on robust models:
            images that resist it are not attacked at weaker ones.
        images_from: Files with adversarial images that others made, such as those of `equipoise
            attack`; after a check of their distance they count as a further attack.
        allow_rounding: Take 8-bit images of --images-from that rounding left outside the threat by
            up to half a grey level, and move them back before they are scored.
        self_checks: Look for signs of gradient masking; for AFA models also measure R_free, the
            accuracy that is left if the attacker sets the fusing weight.
        workers: Processes that share the batches.
        seed: Random seed for the attacks.
        batch_size: Images attacked at once.
        per_class: Also print the accuracy of each class.
        fail_under: Exit with status 1 if an accuracy is lower, such as 0.3@8/255, or 0.8@0 for
            clean images. A failed self-check always does.
        sarif: Also write the findings to this file as SARIF 2.1.0.
    """

    epsilons: Annotated[Epsilons, optional("EPSILON...")] = ()
    suite: Annotated[tuple[Suites, ...] | None, optional("SUITE...")] = None
    steps: Count = None
    restarts: Count = None
    images: Count = None
    part: Annotated[Literal["test", "validation"] | None, optional("PART")] = None
    norm: Annotated[Literal["Linf", "L2"] | None, optional("NORM")] = None
    dataset: Annotated[Sources | None, optional("NAME")] = None
    data: Annotated[Path | None, optional("PATH")] = None
    size: Annotated[int | None, optional("PIXELS")] = None
    surrogates: Annotated[tuple[str, ...], optional("MODEL...")] = ()
    logits: Annotated[str | None, optional("KEY")] = None
    trust: Annotated[tuple[str, ...], optional("MODULE...")] = ()
    draws: Count = None
    reject_class: bool = False
    gradient_of: Annotated[str | None, optional("MODULE:FUNCTION")] = None
    preferences: Annotated[tuple[float, ...], optional("LAMBDA...")] = ()
    search_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    order: Literal["ascending", "descending"] = "ascending"
    images_from: Annotated[tuple[Path, ...], optional("FILE...")] = ()
    allow_rounding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    self_checks: bool = True
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    per_class: Annotated[bool, optional()] = False
    fail_under: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, optional("ACCURACY@EPSILON...")
    ] = ()
    sarif: Annotated[Path | None, optional("FILE")] = None

    def choices(self) -> dict[str, Any]:
        """Return the flags that were given, as keyword arguments of ``evaluate``."""
        elsewhere: tuple[str, ...] = (
            "dataset",
            "data",
            "size",
            "preferences",
            "self_checks",
            "suite",
        )
        elsewhere += ("per_class", "fail_under", "sarif")
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in elsewhere
        }
        given |= {"epsilons": self.epsilons or None, "suites": self.suite}
        return {name: value for name, value in given.items() if value is not None}


def evaluate(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, optional("MODEL...")],
    options: Annotated[EvaluateFlags, tyro.conf.OmitArgPrefixes],
) -> None:
    """Attack models at many strengths, print one table, and write a record next to each model.
    To continue an interrupted evaluation, run the same command again. Exit status 1: an accuracy is
    lower than --fail-under, or a self-check failed; the records are written all the same.

    Args:
        models: Run folders, model folders, hf://owner/name, module:function, ONNX files or
            torch.export files.
        options: What to attack, and how.
    """
    from equipoise.api.datasets import named_source
    from equipoise.report.gates import check_strengths, parse_requirement

    if not models:
        raise InvalidInput("evaluate needs at least one model, got none.")
    if options.size is not None and options.dataset is None:
        raise InvalidInput("--size needs --dataset imagefolder; add it, or leave --size out.")
    requirements = [parse_requirement(text) for texts in options.fail_under for text in texts]
    if options.epsilons:
        check_strengths(requirements, options.epsilons)
    source = None
    if options.dataset is not None:
        source = named_source(options.dataset, options.data, options.size)
    evaluated = evaluate_and_print(
        models,
        options.preferences or (None,),
        dataset=source.load() if source is not None else None,
        data=options.data,
        checks=options.self_checks,
        **options.choices(),
    )
    if options.per_class:
        from equipoise.report import rich_per_class

        console.print(rich_per_class([record for record, _ in evaluated]))
    exit_on_failure(evaluated, requirements, options.sarif)


def exit_on_failure(
    evaluated: Sequence[tuple[dict[str, Any], Path]],
    requirements: "Sequence[Requirement]" = (),
    sarif: Path | None = None,
) -> None:
    """Exit with status 1 if an accuracy is too low or a self-check failed; say which.

    Args:
        evaluated: Records and their files.
        requirements: Lowest accuracies.
        sarif: File for the findings as SARIF, if any.
    """
    from equipoise.report.gates import failures_of
    from equipoise.report.sarif import sarif_log
    from equipoise.runtime.files import write_json

    records, paths = zip(*evaluated, strict=True)
    failures = failures_of(records, requirements)
    if sarif is not None:
        write_json(sarif, sarif_log(records, paths, failures))
        print_line(f"SARIF: {sarif}")
    if failures:
        failed = "; ".join(failure.text for failure in failures)
        errors.print(
            f"failed: {failed}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)


def evaluate_and_print(
    models: Sequence[str], preferences: Sequence[float | None] = (None,), **settings: Any
) -> list[tuple[dict[str, Any], Path]]:
    """Evaluate models and print one table, the self-checks and the paths of the records.

    Args:
        models: As for ``api.evaluate.evaluate``.
        preferences: Values of lambda for conditional networks; ``None`` is the network's default.
        settings: Other arguments of ``api.evaluate.evaluate``.

    Returns:
        The records and their files.
    """
    from equipoise.api.evaluate import evaluate
    from equipoise.report import r_free_sentence, rich_checks, rich_columns, rich_table
    from equipoise.runtime.progress import Terminal

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
    for record in records:
        if "r_free" in record:
            print_line(r_free_sentence(record))
    console.print(rich_checks(*records))
    for path in paths:
        print_line(f"record: {path}")
    return list(zip(records, paths, strict=True))
