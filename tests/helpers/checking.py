"""Run self-checks after an evaluation that a test makes up."""

import torch
from bad_models import EPSILON
from tiny import digits

from equipoise.attacks.threat import Linf
from equipoise.data import Split
from equipoise.evaluation import self_checks as module
from equipoise.evaluation.profile import AttackOutcome, Profile
from equipoise.evaluation.self_check_finding import Finding
from equipoise.evaluation.self_checks import self_checks
from equipoise.evaluation.verification import Rescoring

TABLES = ("PASSIVE_CHECKS", "QUERY_CHECKS", "ATTACK_CHECKS", "LAST_CHECKS")
ALL_CHECKS = {name for table in TABLES for name in getattr(module, table)}
NEED_ATTACK = ALL_CHECKS - set(module.PASSIVE_CHECKS)
IMAGES = 128


def data(count: int = IMAGES) -> Split:
    return digits(test=count).test


def outcome(kind, broken_at, name="attack") -> AttackOutcome:
    """The outcome of an attack that broke each image at the given level."""
    return AttackOutcome(
        suite="suite",
        name=name,
        kind=kind,
        broken_at=torch.as_tensor(broken_at),
        images_attacked=(),
        forward_passes=0,
        backward_passes=0,
        seconds=0.0,
        settings={},
    )


def clean_of(model, on) -> torch.Tensor:
    """Which clean images a model classifies correctly; all if it cannot be asked."""
    images, labels = on.batch(slice(None))
    if any(module.training for module in model.modules()):
        return torch.ones(len(on), dtype=torch.bool)
    try:
        with torch.no_grad():
            return model(images).argmax(1) == labels
    except (RuntimeError, AttributeError):
        return torch.ones(len(on), dtype=torch.bool)


def run(model, on=None, *, epsilons=(0.0, EPSILON), outcomes=(), **changes):
    """Check after an evaluation in which the given attacks were all that broke an image."""
    on = on or data()
    profile = Profile(
        epsilons=tuple(epsilons),
        suites=(),
        outcomes=tuple(outcomes),
        clean=clean_of(model, on),
        rescored=Rescoring(images=0, batch_size=86, boundary=0),
    )
    found = self_checks(model, on, profile, **({"threat": Linf, "seed": 0} | changes))
    return {finding.name: finding for finding in found}


def not_passed(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.verdict for name, finding in found.items() if finding.verdict != "pass"}
