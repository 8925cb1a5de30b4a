"""Evaluate a model, saved or foreign, and write the record beside it."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from equipoise.data import DataSet, Split
from equipoise.evaluation import (
    EvaluationCache,
    EvaluationFacts,
    Profile,
    evaluation_cache_folder,
    images_hash,
    measure_profile,
    model_internals,
    record_of,
    suites_for,
)
from equipoise.evaluation.robustness_profile import Order
from equipoise.evaluation.self_checks import self_checks
from equipoise.evaluation.suites import Suite
from equipoise.methods.stage import THREATS
from equipoise.models.io.trust import Trusted
from equipoise.recipes import Evaluation, from_json, to_json
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.seeds import derive_seed
from equipoise.workflows import model_card
from equipoise.workflows.datasets import part_of, source_of
from equipoise.workflows.model_source import at_preference, find_model


def evaluate(
    model: Path | str,
    *,
    evaluation: Evaluation | None = None,
    changes: Mapping[str, Any] | None = None,
    dataset: DataSet | None = None,
    data: Path | None = None,
    seed: int = 0,
    batch_size: int = 256,
    surrogates: Sequence[Path | str] = (),
    logits: str | None = None,
    trust: Sequence[Trusted] = (),
    preference: float | None = None,
    search_precision: Literal["32-true", "bf16-mixed"] = "32-true",
    order: Order = "ascending",
    checks: bool = True,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model and write the record beside it.

    What was found is kept under ``evaluations/`` next to the record, unit by unit: an evaluation
    that was cut short goes on, and one at more strengths or with more attacks re-uses it.

    Args:
        model: A run folder, a model folder, or a foreign network: ``module:function``, an ONNX
            file, a ``torch.export`` file.
        evaluation: What to try; by default what the model's recipe says.
        changes: Fields of it that are set otherwise.
        dataset: The data; by default what the model's recipe says.
        data: Folder of that data, if it lies elsewhere here.
        seed: Of the attacks' random starts.
        batch_size: Images attacked at once.
        surrogates: Models that the suite ``transfer`` attacks in this one's place.
        logits: Which part of the model's answer holds the logits.
        trust: Code that may be run because a model folder names it, as in ``load``.
        preference: For a conditional network (OAT), the lambda to fix; its default if not given.
        search_precision: Of the searches; scores are float32 always.
        order: ``"descending"`` begins at the strongest epsilon and goes down with what was broken;
            an image that nothing breaks there is not attacked below.
        checks: Run the self-checks.
        workers: Processes among which batches of images are shared out.
        reporter: Who is told.

    Returns:
        The record and where it was written.

    Raises:
        ModelFolderError: If the model cannot be loaded.
        DataError: If the data cannot be read.
        ValueError: If model, data and suites do not fit.
        EvaluationError: If what was found does not hold when it is judged again.
    """
    reporter = reporter or NullReporter()
    for what, number in (("batch_size", batch_size), ("workers", workers)):
        if number < 1:
            raise ValueError(f"{what} must be 1 or more, got {number}.")
    subject = find_model(str(model), logits, trust)
    card, place = subject.card, subject.home
    network, name = at_preference(subject.network, subject.name, preference)
    if evaluation is None:
        evaluation = _settings(card, str(model), changes or {})
    elif changes:
        evaluation = replace(evaluation, **changes)
    dataset = dataset or source_of(card, data).load()
    split = part_of(dataset, card, evaluation.part)
    if evaluation.images is not None:
        split = split.first(evaluation.images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, split = network.to(device), split.to(device)
    suites = _suites(network, evaluation, split.classes, seed, surrogates, device, trust)
    threat = THREATS[evaluation.norm]
    known = evaluation_cache_folder(place / "evaluations", name, network, split)
    reporter.begin(f"evaluate {name}", 0, 0)
    report: Callable[[str, float], None] = lambda text, share: reporter.step(int(share), text)  # noqa: E731
    began = time.monotonic()
    found = measure_profile(
        network,
        split,
        threat=threat,
        epsilons=evaluation.epsilons,
        suites=suites,
        seed=seed,
        batch_size=batch_size,
        cache=EvaluationCache(len(split), known),
        precision=search_precision,
        order=order,
        workers=workers,
        report=lambda text, share: report(text, 900 * share),
    )
    settings = settings_of(evaluation, seed, batch_size, search_precision, logits, surrogates)
    settings += [] if order == "ascending" else [order]
    digest = dataset.digest()
    if card.get("data") != dataset.name or card.get("data_digest", digest) != digest:
        # Not what it was trained on, or nobody knows.
        settings += [{"data": dataset.name, "digest": digest}]
    extra = {
        "settings": settings,
        "data_digest": digest,
        "training_seed": card.get("seed"),
        "training_commit": card.get("commit"),
        **({} if subject.weights is None else {"weights_sha256": subject.weights}),
        **model_internals(network, split, threat=threat, epsilons=found.epsilons, seed=seed),
    }
    if checks and getattr(network, "gives_gradients", True):
        extra["self_checks"] = _checked(
            network,
            split,
            evaluation,
            found,
            seed,
            lambda text, share: report(text, 900 + 100 * share),
        )
    reporter.step(1000, "done")
    record = record_of(
        found,
        EvaluationFacts(
            model=name,
            data=dataset.name,
            part=evaluation.part,
            images_sha256=images_hash(split),
            norm=evaluation.norm,
            seed=seed,
            batch_size=batch_size,
            search_precision=search_precision,
            seconds=time.monotonic() - began,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            extra=extra,
        ),
    )
    usual = [card.get("evaluation"), 0, 256, "32-true", None]
    path = place / "records" / _record_name(record, settings, usual)
    if "self_checks" not in record:
        record |= _earlier_checks(path, record)
    write_json(path, record)
    if subject.folder is not None and model_card.home_of(subject.folder) == place:
        model_card.write_card(subject.folder)
    return record, path


def settings_of(
    evaluation: Evaluation,
    seed: int = 0,
    batch_size: int = 256,
    search_precision: str = "32-true",
    logits: str | None = None,
    surrogates: Sequence[Path | str] = (),
) -> list[Any]:
    """What an evaluation was asked, as its record says it under ``"settings"``.

    Args:
        evaluation: As for ``evaluate``, and so are the others.
        seed: Of the attacks.
        batch_size: Images attacked at once.
        search_precision: Of the searches.
        logits: Which part of the model's answer holds the logits.
        surrogates: Models that were attacked in its place.

    Returns:
        Plain values, as JSON gives them back.
    """
    settings = [to_json(evaluation), seed, batch_size, search_precision, logits, *surrogates]
    found: list[Any] = json.loads(json.dumps(settings, default=str))
    return found


def _settings(card: dict[str, Any], model: str, changes: Mapping[str, Any]) -> Evaluation:
    """What the model's recipe says, or, for a foreign model, what is given alone."""
    if "evaluation" in card:
        found: Evaluation = from_json(card["evaluation"], Evaluation)
        return replace(found, **changes)
    if "epsilons" not in changes:
        raise RunError(
            f"{model} does not say how it was to be evaluated; name the strengths with --epsilons."
        )
    return Evaluation(**changes)


def _suites(
    network: nn.Module,
    evaluation: Evaluation,
    classes: int,
    seed: int,
    surrogates: Sequence[Path | str],
    device: str,
    trust: Sequence[Trusted],
) -> list[Suite]:
    sources: dict[str, nn.Module] = {}
    for surrogate in surrogates:
        found = find_model(str(surrogate), None, trust)
        name = found.name if found.name not in sources else f"{found.name}-{len(sources)}"
        sources[name] = found.network.to(device)
    return suites_for(
        network,
        evaluation.suites,
        classes=classes,
        steps=evaluation.steps,
        restarts=evaluation.restarts,
        seed=seed,
        surrogates=sources,
    )


def _checked(
    network: nn.Module,
    split: Split,
    evaluation: Evaluation,
    found: Profile,
    seed: int,
    report: Callable[[str, float], None],
) -> list[dict[str, Any]]:
    findings = self_checks(
        network,
        split,
        threat=THREATS[evaluation.norm],
        epsilons=found.epsilons,
        outcomes=found.outcomes,
        seed=seed,
        report=report,
    )
    return [asdict(finding) for finding in findings]


def _earlier_checks(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What checks of the same model, images and settings had found, if a record of it is there."""
    before = read_json(path) if path.exists() else {}
    same = ("weights_sha256", "images_sha256", "settings")
    if "self_checks" in before and all(before.get(key) == record.get(key) for key in same):
        return {"self_checks": before["self_checks"]}
    return {}


def _record_name(record: dict[str, Any], settings: list[Any], usual: list[Any]) -> str:
    """Another evaluation of the same model never replaces the usual one."""
    other = f"__{derive_seed(0, json.dumps(settings)) % 16**6:06x}" if settings != usual else ""
    return f"{record['model']}__seed{record['training_seed'] or 0}{other}.json"
