"""Evaluate a model as a deployment that is asked for the first time, from what is known of it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation import EvaluationCache, EvaluationError
from equipoise.evaluation.fresh_copy import (
    STATE_QUESTIONS,
    STATEFUL_MARK,
    FreshCopies,
    FreshEachCall,
    StateCheck,
    StatefulModelError,
    is_reset,
)
from equipoise.evaluation.identity import mark_stateful, open_cache
from equipoise.evaluation.self_check_finding import Finding
from equipoise.models.io.model_source import LoadedModel
from equipoise.runtime.run_folder import RunFolder

Record = dict[str, Any]


def run_from_fresh_state(
    model: LoadedModel,
    split: Split,
    threats: Sequence[Threat],
    run: Callable[[LoadedModel, FreshCopies], Record],
    log: Callable[[str], None],
    as_asked: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Record:
    """Evaluate a model; if it turns out to remember queries, evaluate it again, reset each time.

    Args:
        model: The model, before its first query.
        split: The images, on the model's device.
        threats: The threats at all strengths above 0, ascending.
        run: Evaluates a model, given copies of it; raises ``StatefulModelError`` if it differs from
            them.
        log: Receives a sentence if the model is evaluated a second time.
        as_asked: Wraps a network that is random, rejects or has no gradient, as ``ask_rightly``
            does. A model that is reset is judged again: what looked like chance may have been
            memory.

    Returns:
        The record. That of a model that was reset has the mark ``"stateful"``, and a finding of
        that name if it has self-checks.

    Source:
        docs/decisions/029-what-a-cached-result-belongs-to.md
    """
    given = FreshCopies(model.network)
    asked = replace(model, network=as_asked(model.network))
    copies = FreshCopies(asked.network)
    try:
        record = run(asked, copies)
        return _with_finding(record, _not_copied(copies)) if copies.shared else record
    except StatefulModelError as error:
        log(f"{model.name} remembers queries: {error} It is evaluated reset before every query.")
    reset = replace(model, network=as_asked(FreshEachCall(given)))
    copies = FreshCopies(reset.network)
    check = StateCheck(reset.network, copies, _questions(split), threats[-1])
    record = run(reset, copies)
    record["marks"] = [*record.get("marks", []), STATEFUL_MARK]
    try:
        check.compare()
        return _with_finding(record, _reset())
    except StatefulModelError as error:
        return _with_finding(record, _cannot_be_reset(error, record["headline"]["accuracy"][-1]))


@contextlib.contextmanager
def known_results(
    model: LoadedModel,
    copies: FreshCopies,
    split: Split,
    threats: Sequence[Threat],
    log: Callable[[str], None],
) -> Iterator[tuple[EvaluationCache, FreshCopies | None]]:
    """Open the cache of a model, and compare the model with fresh copies around a ``with`` block.

    Args:
        model: The model under evaluation.
        copies: Copies of it in the state in which it was given.
        split: The images, on the model's device.
        threats: The threats at all strengths above 0, ascending.
        log: Receives a sentence if results of another function were found.

    Returns:
        A context manager. It gives the cache, and the copies that searches compare with.

    Raises:
        StatefulModelError: If the model answers differently after it has been asked; its cache is
            never used again.
    """
    evaluations = RunFolder(model.home).evaluations
    cache = open_cache(
        evaluations,
        model.name,
        copies,
        split,
        threats=threats,
        modules=model.modules,
        log=log,
    )
    if cache.identity is None or not threats or is_reset(model.network):
        yield cache, None
        return
    check = StateCheck(model.network, copies, _questions(split), threats[-1])
    try:
        check.compare()
        try:
            yield cache, None if check.randomised else copies
        except EvaluationError:
            check.compare()
            raise
        check.compare()
    except StatefulModelError:
        mark_stateful(cache)
        raise


def _questions(split: Split) -> Any:
    return split.batch(slice(0, STATE_QUESTIONS))[0]


def _with_finding(record: Record, finding: Finding) -> Record:
    if "self_checks" in record:
        record["self_checks"] = [*record["self_checks"], asdict(finding)]
    return record


def _reset() -> Finding:
    return Finding(
        name="stateful",
        verdict="warn",
        found="the model's answers depend on earlier queries, so it was reset before each one.",
        meaning="this is the score of a fresh deployment that sees each image once; a deployment "
        "that remembers queries has no other advantage against attacks that transfer to it.",
        numbers={"could_flatter": 0.0},
    )


def _cannot_be_reset(error: StatefulModelError, accuracy: float) -> Finding:
    return Finding(
        name="stateful",
        verdict="fail",
        found=f"the model's state cannot be reset: {error}",
        meaning="attacks were answered by another function than a first visitor is, so the score "
        "may be too high; keep state in attributes of the module, or switch it off.",
        numbers={"could_flatter": accuracy},
    )


def _not_copied(copies: FreshCopies) -> Finding:
    return Finding(
        name="stateful",
        verdict="warn",
        found=f"{', '.join(copies.shared)} of the model cannot be copied.",
        meaning="state that is kept there was not looked for; make the model copyable "
        "(copy.deepcopy), or see to it that a query changes nothing.",
        numbers={},
    )
