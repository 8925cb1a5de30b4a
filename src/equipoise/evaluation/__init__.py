"""How strong a model really is: suites of attacks over a grid of strengths, carried upwards."""

from equipoise.evaluation.profile import Profile as Profile
from equipoise.evaluation.profile import profile as profile
from equipoise.evaluation.profile import robust_accuracy as robust_accuracy
from equipoise.evaluation.record import insides as insides
from equipoise.evaluation.record import record_of as record_of
from equipoise.evaluation.suites import Attack as Attack
from equipoise.evaluation.suites import Suite as Suite
from equipoise.evaluation.suites import SuiteName as SuiteName
from equipoise.evaluation.suites import suites_for as suites_for
