"""How strong a model really is: suites of attacks over a grid of strengths, carried upwards."""

from equipoise.evaluation.attack import Attack as Attack
from equipoise.evaluation.attack import Found as Found
from equipoise.evaluation.attack import SearchAttack as SearchAttack
from equipoise.evaluation.profile import Profile as Profile
from equipoise.evaluation.profile import Tried as Tried
from equipoise.evaluation.profile import profile as profile
from equipoise.evaluation.profile import robust_accuracy as robust_accuracy
from equipoise.evaluation.record import insides as insides
from equipoise.evaluation.record import record_of as record_of
from equipoise.evaluation.rescoring import EvaluationError as EvaluationError
from equipoise.evaluation.store import Store as Store
from equipoise.evaluation.store import fingerprint as fingerprint
from equipoise.evaluation.store import images_hash as images_hash
from equipoise.evaluation.store import known_place as known_place
from equipoise.evaluation.suites import Suite as Suite
from equipoise.evaluation.suites import SuiteName as SuiteName
from equipoise.evaluation.suites import suites_for as suites_for
