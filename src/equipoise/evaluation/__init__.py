"""How strong a model really is: suites of attacks over a grid of strengths, carried upwards."""

from equipoise.evaluation.attack import Attack, Found, SearchAttack
from equipoise.evaluation.cache import Store, fingerprint, images_hash, known_place
from equipoise.evaluation.record import insides, record_of
from equipoise.evaluation.robustness_profile import Profile, Tried, profile, robust_accuracy
from equipoise.evaluation.suites import Suite, SuiteName, suites_for
from equipoise.evaluation.verification import EvaluationError

__all__ = [
    "Attack",
    "EvaluationError",
    "Found",
    "Profile",
    "SearchAttack",
    "Store",
    "Suite",
    "SuiteName",
    "Tried",
    "fingerprint",
    "images_hash",
    "insides",
    "known_place",
    "profile",
    "record_of",
    "robust_accuracy",
    "suites_for",
]
