"""Evaluate a model and write the record beside it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from equipoise.api.evaluation_inputs import (
    EvaluationImages,
    data_of,
    load_stand_in,
    load_surrogates,
    resolve_inputs,
)
from equipoise.api.evaluation_result import EvaluationResult
from equipoise.api.evaluation_settings import (
    EvaluationChoices,
    EvaluationSettings,
    trusted_code,
)
from equipoise.api.fresh_state import known_results, run_from_fresh_state
from equipoise.attacks.threat import THREATS, Threat
from equipoise.data import DataSet, Split
from equipoise.deployment.publish import write_card
from equipoise.evaluation import (
    EvaluationFacts,
    Profile,
    SearchOptions,
    Suite,
    images_hash,
    measure_profile,
    model_internals,
    record_of,
    suites_for,
)
from equipoise.evaluation.external_images import external_suites
from equipoise.evaluation.free_gate import free_gate
from equipoise.evaluation.fresh_copy import FreshCopies
from equipoise.evaluation.model_kinds import ask_rightly, marks_of
from equipoise.evaluation.self_checks import self_checks
from equipoise.models import AdaptiveNetwork, count_parameters
from equipoise.models.io.model_folder import home_of
from equipoise.models.io.model_source import LoadedModel
from equipoise.recipes import Evaluation
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.trust import trusting

MARKED_IMAGES = 1000
"""Number of images, the first ones, from which the numbers of marks are taken."""

ATTACK_SHARE = 900
"""Thousandths of the progress bar for the attacks; the self-checks take the rest."""


def evaluate(
    model: Path | str | nn.Module,
    data: Any = None,
    *,
    dataset: DataSet | Split | None = None,
    evaluation: Evaluation | None = None,
    checks: bool = True,
    reporter: Reporter | None = None,
    **choices: Unpack[EvaluationChoices],
) -> EvaluationResult:
    """Attack a model at many strengths and write the record beside it.

    Results are cached under ``evaluations/`` next to the record: an interrupted evaluation
    continues where it stopped, and one with more strengths or attacks computes only what is new.

    Args:
        model: A run folder, a model folder, ``hf://owner/name``, or an external network:
            ``module:function``, an ONNX file, a ``torch.export`` file, or an ``nn.Module`` in
            eval mode, whose records go to ``runs/`` and the name of its class.
        data: Labelled images: ``(images, labels)`` as tensors or arrays, a ``torch`` ``Dataset`` or
            ``DataLoader``, a ``datasets.Dataset``, a ``Split`` or a ``DataSet``; see
            ``data.as_split``. By default the data that the model was trained on; a path is their
            folder on this machine, and for an ``nn.Module`` a folder of images.
        dataset: A data set to evaluate on, in place of ``data``.
        evaluation: Strengths, attacks and images; by default those of the model's recipe.
        checks: Run the self-checks for signs of gradient masking, and R_free for AFA models.
        reporter: Receives progress and log messages.
        choices: See ``EvaluationChoices``: ``epsilons``, ``suites``, ``images``, ``seed``, ...

    Returns:
        The record and the path of its file, with a table, a plot and a data frame.

    Raises:
        ModelFolderError: If the model cannot be loaded.
        DataError: If the data cannot be read.
        ValueError: If model, data and suites do not fit together.
        EvaluationError: If a result does not hold when it is computed again.

    Example:
        >>> result = evaluate("runs/demo/afa_digits")  # doctest: +SKIP
        >>> result.accuracy[0.1], result.checks_passed  # doctest: +SKIP
        (0.889, True)
    """
    code = trusted_code(choices, data)
    with torch.inference_mode(False), torch.enable_grad(), trusting(*code):
        return _evaluate(
            model, data_of(model, data, dataset), evaluation, checks, reporter, choices
        )


def _evaluate(
    model: Path | str | nn.Module,
    source: tuple[DataSet | Split | None, Path | None],
    evaluation: Evaluation | None,
    checks: bool,
    reporter: Reporter | None,
    choices: EvaluationChoices,
) -> EvaluationResult:
    loaded, images, settings = resolve_inputs(model, source, evaluation, choices)
    trust = choices.get("trust", ())
    record = run_evaluation(
        loaded,
        images,
        settings,
        surrogates=load_surrogates(settings.surrogates, trust),
        stand_in=load_stand_in(settings.gradient_of, trust),
        checks=checks,
        workers=choices.get("workers", 1),
        reporter=reporter or NullReporter(),
    )
    path = write_record(record, loaded, settings)
    if loaded.folder is not None and home_of(loaded.folder) == loaded.home:
        write_card(loaded.folder)
    return EvaluationResult(record, path)


def run_evaluation(
    model: LoadedModel,
    images: EvaluationImages,
    settings: EvaluationSettings,
    *,
    surrogates: Mapping[str, nn.Module],
    stand_in: nn.Module | None = None,
    checks: bool,
    workers: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """Attack a model and describe the result as a record; only the cache is written.

    Args:
        model: The model.
        images: The images and their data set.
        settings: What to do.
        surrogates: Networks of the suite ``transfer``, by name.
        stand_in: Differentiable stand-in for the backward pass.
        checks: Run the self-checks.
        workers: Processes that share the batches.
        reporter: Receives progress.

    Returns:
        The record.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = replace(images, split=images.split.to(device))
    model = replace(model, network=model.network.to(device))
    as_asked = partial(_as_asked, split=images.split, settings=settings, stand_in=stand_in)
    run = partial(
        _attack_and_check,
        images=images,
        settings=settings,
        surrogates=surrogates,
        checks=checks,
        workers=workers,
        reporter=reporter,
    )
    return run_from_fresh_state(
        model, images.split, _threats(settings), run, reporter.log, as_asked
    )


def _attack_and_check(
    model: LoadedModel,
    copies: FreshCopies,
    *,
    images: EvaluationImages,
    settings: EvaluationSettings,
    surrogates: Mapping[str, nn.Module],
    checks: bool,
    workers: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """Attack a model, check its score, and describe both as a record."""
    evaluation, network, split = settings.evaluation, model.network, images.split
    suites = _suites(network, images, settings, surrogates)
    threat = THREATS[evaluation.norm]
    known = known_results(model, copies, split, _threats(settings), reporter.log)
    with known as (cache, fresh):
        reporter.begin(f"evaluate {model.name}", 0, 0)
        began = time.monotonic()
        measured = measure_profile(
            network,
            split,
            threat=threat,
            epsilons=evaluation.epsilons,
            suites=suites,
            seed=settings.seed,
            options=SearchOptions(
                batch_size=settings.batch_size,
                cache=cache,
                precision=settings.search_precision,
                order=settings.order,
                workers=workers,
                copies=fresh,
            ),
            report=lambda text, share: reporter.step(int(ATTACK_SHARE * share), text),
        )
        if settings.on_profile is not None:
            settings.on_profile(measured)
        extra = _extra_facts(model, images, settings) | {"identity": cache.identity}
        extra |= model_internals(
            network, split, threat=threat, epsilons=measured.epsilons, seed=settings.seed
        )
        if marks := marks_of(network, *split.first(MARKED_IMAGES).batch(slice(None))):
            extra["marks"] = marks
        if checks:
            extra["self_checks"] = _self_checks(network, split, settings, measured, reporter)
        if checks and isinstance(network, AdaptiveNetwork):
            extra["r_free"] = _r_free(network, split, settings, measured)
    reporter.step(1000, "done")
    return record_of(
        measured,
        EvaluationFacts(
            model=model.name,
            data=images.data,
            part=evaluation.part,
            images_sha256=images_hash(split),
            norm=evaluation.norm,
            seed=settings.seed,
            batch_size=settings.batch_size,
            search_precision=settings.search_precision,
            seconds=time.monotonic() - began,
            parameters=count_parameters(network),
            labels=split.labels,
            extra=extra,
        ),
    )


def _suites(
    network: nn.Module,
    images: EvaluationImages,
    settings: EvaluationSettings,
    surrogates: Mapping[str, nn.Module],
) -> list[Suite]:
    """The suites that the settings name, and the one of images from files."""
    evaluation, split = settings.evaluation, images.split
    suites = suites_for(
        network,
        evaluation.suites,
        classes=split.classes,
        steps=evaluation.steps,
        restarts=evaluation.restarts,
        seed=settings.seed,
        surrogates={name: surrogate.to(split.device) for name, surrogate in surrogates.items()},
    )
    return suites + external_suites(
        settings.images_from,
        split,
        rows=images.rows,
        part_size=images.part_size,
        norm=evaluation.norm,
        epsilons=evaluation.epsilons,
        allow_rounding=settings.allow_rounding,
    )


def _as_asked(
    network: nn.Module, split: Split, settings: EvaluationSettings, stand_in: nn.Module | None
) -> nn.Module:
    """A model as the engine must ask it."""
    images, _ = split.first(MARKED_IMAGES).batch(slice(None))
    return ask_rightly(
        network,
        images.contiguous(memory_format=torch.channels_last),
        _threats(settings),
        draws=settings.draws,
        reject=settings.reject_class,
        stand_in=None if stand_in is None else stand_in.to(split.device),
    )


def write_record(record: dict[str, Any], model: LoadedModel, settings: EvaluationSettings) -> Path:
    """Write a record into the ``records`` folder of its model.

    A record without self-checks takes over those of an earlier record of the same function, images
    and settings, if the same images were broken.

    Args:
        record: The record; ``self_checks`` may be added to it.
        model: The model that was evaluated.
        settings: What the evaluation was asked to do.

    Returns:
        The file.
    """
    usual = model.card.get("evaluation")
    name = settings.record_name(record["model"], record["training_seed"], usual)
    path = RunFolder(model.home).records / name
    if "self_checks" not in record and path.exists():
        earlier = read_json(path)
        same = ("identity", "weights_sha256", "images_sha256", "settings", "broken_at")
        known = record.get("identity") is not None
        if (
            known
            and "self_checks" in earlier
            and all(earlier.get(key) == record.get(key) for key in same)
        ):
            record["self_checks"] = earlier["self_checks"]
    write_json(path, record)
    return path


def _threats(settings: EvaluationSettings) -> list[Threat]:
    """Return the threats at all strengths above 0, ascending."""
    evaluation = settings.evaluation
    threat = THREATS[evaluation.norm]
    return [threat(epsilon) for epsilon in sorted(set(evaluation.epsilons)) if epsilon != 0]


def _extra_facts(
    model: LoadedModel, images: EvaluationImages, settings: EvaluationSettings
) -> dict[str, Any]:
    facts = {
        "settings": settings.to_json(),
        "data_digest": images.digest,
        "training_seed": model.card.get("seed"),
        "training_commit": model.card.get("commit"),
    }
    if warnings := model.card.get("warnings"):
        facts["training_warnings"] = warnings
    return facts if model.weights is None else facts | {"weights_sha256": model.weights}


def _r_free(
    network: AdaptiveNetwork, split: Split, settings: EvaluationSettings, measured: Profile
) -> dict[str, Any]:
    return free_gate(
        network,
        split,
        measured,
        threat=THREATS[settings.evaluation.norm],
        seed=settings.seed,
        steps=settings.evaluation.steps,
        batch_size=settings.batch_size,
    )


def _self_checks(
    network: nn.Module,
    split: Split,
    settings: EvaluationSettings,
    measured: Profile,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    report: Callable[[str, float], None] = lambda text, share: reporter.step(  # noqa: E731
        int(ATTACK_SHARE + (1000 - ATTACK_SHARE) * share), text
    )
    findings = self_checks(
        network,
        split,
        measured,
        threat=THREATS[settings.evaluation.norm],
        seed=settings.seed,
        report=report,
    )
    return [asdict(finding) for finding in findings]
