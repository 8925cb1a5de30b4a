"""Evaluation: attack suites over a grid of strengths, each image's worst case, and self-checks."""

from equipoise.evaluation.attack import Attack, AttackResult, SearchAttack
from equipoise.evaluation.cache import (
    EvaluationCache,
    fingerprint,
    images_hash,
)
from equipoise.evaluation.identity import open_cache
from equipoise.evaluation.profile import AttackOutcome, Profile
from equipoise.evaluation.quick_accuracy import robust_accuracy
from equipoise.evaluation.record import EvaluationFacts, model_internals, record_of
from equipoise.evaluation.robustness_profile import SearchOptions, measure_profile
from equipoise.evaluation.suites import Suite, SuiteName, suites_for
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
