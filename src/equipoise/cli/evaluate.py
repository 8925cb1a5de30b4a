"""The command ``equipoise evaluate``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from equipoise.cli.attack import AttackFlags
from equipoise.cli.options import Count, Switch, console, errors, optional, print_line
from equipoise.runtime.errors import InvalidInput

if TYPE_CHECKING:
    from equipoise.report.gates import Requirement


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(AttackFlags):
    """Flags of ``equipoise evaluate``.

    Args:
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
        corrupted: Measure the accuracy on this folder of corrupted images in the layout of
            CIFAR-10-C, without any attack.
        self_checks: Look for signs of gradient masking; for AFA models also measure R_free, the
            accuracy that is left if the attacker sets the fusing weight.
        per_class: Also print the accuracy of each class.
        fail_under: Exit with status 1 if an accuracy is lower, such as 0.3@8/255, or 0.8@0 for
            clean images. A failed self-check always does.
        sarif: Also write the findings to this file as SARIF 2.1.0.
    """

    draws: Count = None
    reject_class: bool = False
    gradient_of: Annotated[str | None, optional("MODULE:FUNCTION")] = None
    preferences: Annotated[tuple[float, ...], optional("LAMBDA...")] = ()
    search_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    order: Literal["ascending", "descending"] = "ascending"
    images_from: Annotated[tuple[Path, ...], optional("FILE...")] = ()
    allow_rounding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    corrupted: Annotated[Path | None, optional("FOLDER")] = None
    self_checks: bool = True
    per_class: Switch = False
    fail_under: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, optional("ACCURACY@EPSILON...")
    ] = ()
    sarif: Annotated[Path | None, optional("FILE")] = None


def evaluate(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, optional("MODEL...")],
    options: Annotated[EvaluateFlags, tyro.conf.OmitArgPrefixes],
) -> None:
    """Attack models at many strengths, print one table, and write a record next to each model.
    To continue an interrupted evaluation, run the same command again. Exit status 1: an accuracy is
    lower than --fail-under, or a self-check failed; the records are written all the same.

    Args:
        models: Run folders, model folders, hf://owner/name, module:function[@CHECKPOINT], ONNX
            files or torch.export files.
        options: What to attack, and how.
    """
    from equipoise.report.gates import check_strengths, parse_requirement

    if not models:
        raise InvalidInput("evaluate needs at least one model, got none.")
    if options.corrupted is not None:
        _evaluate_corrupted(models, options, options.corrupted)
        return
    requirements = [parse_requirement(text) for texts in options.fail_under for text in texts]
    if options.epsilons:
        check_strengths(requirements, options.epsilons)
    evaluated = evaluate_and_print(
        models,
        options.preferences or (None,),
        dataset=options.load_dataset(),
        data=options.data,
        checks=options.self_checks,
        **options.choices(),
    )
    if options.per_class:
        from equipoise.report import rich_per_class

        console.print(rich_per_class([record for record, _ in evaluated]))
    exit_on_failure(evaluated, requirements, options.sarif)


def _evaluate_corrupted(models: Sequence[str], options: EvaluateFlags, folder: Path) -> None:
    """Measure the accuracy on corrupted images, and print one table for each model."""
    from equipoise.api.corruptions import evaluate_corruptions
    from equipoise.report.corruption_table import rich_corruptions
    from equipoise.runtime.progress import Terminal

    ignored = (
        "epsilons",
        "suites",
        "steps",
        "restarts",
        "part",
        "norm",
        "images_from",
        "fail_under",
        "sarif",
        "per_class",
    )
    given = [
        f"--{name.replace('_', '-').replace('suites', 'suite')}"
        for name in ignored
        if getattr(options, name)
    ]
    if given:
        raise InvalidInput(
            f"--corrupted measures accuracy without an attack, to which {' and '.join(given)} does "
            "not apply; leave it out, or run two commands."
        )
    dataset, results = options.load_dataset(), []
    with Terminal(console) as terminal:
        for model, preference in product(models, options.preferences or (None,)):
            results.append(
                evaluate_corruptions(
                    model,
                    folder,
                    dataset=dataset,
                    data=options.data,
                    images=options.images,
                    batch_size=options.batch_size,
                    logits=options.logits,
                    preference=preference,
                    trust=options.trust,
                    reporter=terminal,
                )
            )
    for result, path in results:
        console.print(rich_corruptions(result))
        print_line(f"result: {path}")


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
    models: Sequence[str],
    preferences: Sequence[float | None] = (None,),
    before: dict[str, Any] | None = None,
    **settings: Any,
) -> list[tuple[dict[str, Any], Path]]:
    """Evaluate models and print one table, the self-checks and the paths of the records.

    Args:
        models: As for ``api.evaluate.evaluate``.
        preferences: Values of lambda for conditional networks; ``None`` is the network's default.
        before: Arguments of ``api.evaluate.evaluate`` for another model, the first in the table.
        settings: Other arguments of ``api.evaluate.evaluate``.

    Returns:
        The records and their files.
    """
    from equipoise.api.evaluate import evaluate
    from equipoise.models.io.model_source import find_model
    from equipoise.report import r_free_sentence, rich_checks, rich_columns, rich_table
    from equipoise.runtime.progress import Terminal

    for model in models[1:]:
        find_model(model, trust=settings.get("trust", ()))  # before the first is attacked for hours
    asked = [
        {"model": model, "preference": preference, **settings}
        for model, preference in product(models, preferences)
    ]
    records, paths = [], []
    with Terminal(console) as terminal:
        for arguments in [*([before] if before else []), *asked]:
            record, path = evaluate(**arguments, reporter=terminal)
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
