"""Evaluation: attack suites over a grid of strengths, each image's worst case, and self-checks.

Importing this package does not import torch: reports use its ``statistics``.
"""

from typing import TYPE_CHECKING

from equipoise.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from equipoise.evaluation.attack import Attack, AttackResult, SearchAttack
    from equipoise.evaluation.cache import EvaluationCache, fingerprint, images_hash
    from equipoise.evaluation.identity import open_cache
    from equipoise.evaluation.profile import AttackOutcome, Profile
    from equipoise.evaluation.quick_accuracy import robust_accuracy
    from equipoise.evaluation.record import EvaluationFacts, model_internals, record_of
    from equipoise.evaluation.robustness_profile import SearchOptions, measure_profile
    from equipoise.evaluation.suite import Suite, SuiteName
    from equipoise.evaluation.suites import suites_for
    from equipoise.evaluation.verification import EvaluationError

__all__ = [
    "Attack",
    "AttackOutcome",
    "AttackResult",
    "EvaluationCache",
    "EvaluationError",
    "EvaluationFacts",
    "Profile",
    "SearchAttack",
    "SearchOptions",
    "Suite",
    "SuiteName",
    "fingerprint",
    "images_hash",
    "measure_profile",
    "model_internals",
    "open_cache",
    "record_of",
    "robust_accuracy",
    "suites_for",
]

_MODULES = {
    "attack": ("Attack", "AttackResult", "SearchAttack"),
    "cache": ("EvaluationCache", "fingerprint", "images_hash"),
    "identity": ("open_cache",),
    "profile": ("AttackOutcome", "Profile"),
    "quick_accuracy": ("robust_accuracy",),
    "record": ("EvaluationFacts", "model_internals", "record_of"),
    "robustness_profile": ("SearchOptions", "measure_profile"),
    "suite": ("Suite", "SuiteName"),
    "suites": ("suites_for",),
    "verification": ("EvaluationError",),
}
__getattr__ = lazy_names(__name__, _MODULES)
