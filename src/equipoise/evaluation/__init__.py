"""How strong a model really is: suites of attacks over a grid of strengths, carried upwards."""

from equipoise.evaluation.attack import Attack, AttackResult, SearchAttack
from equipoise.evaluation.cache import Store, fingerprint, images_hash, known_place
from equipoise.evaluation.record import model_internals, record_of
from equipoise.evaluation.robustness_profile import AttackOutcome, Profile, profile, robust_accuracy
from equipoise.evaluation.suites import Suite, SuiteName, suites_for
from equipoise.evaluation.verification import EvaluationError

__all__ = [
    "Attack",
    "AttackOutcome",
    "AttackResult",
    "EvaluationError",
    "Profile",
    "SearchAttack",
    "Store",
    "Suite",
    "SuiteName",
    "fingerprint",
    "images_hash",
    "known_place",
    "model_internals",
    "profile",
    "record_of",
    "robust_accuracy",
    "suites_for",
]
