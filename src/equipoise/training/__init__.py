"""The one training loop: ``fit`` runs a stage, whatever method it belongs to, and its switches."""

from equipoise.signals import Interrupted as Interrupted
from equipoise.training.alarms import Watch as Watch
from equipoise.training.averaging import Average as Average
from equipoise.training.extra import ExtraImages as ExtraImages
from equipoise.training.fitting import fit as fit
from equipoise.training.loop import Loop as Loop
from equipoise.training.loop import Reporter as Reporter
from equipoise.training.loop import Silent as Silent
from equipoise.training.loop import TrainingError as TrainingError
from equipoise.training.perturbation import perturbed as perturbed
from equipoise.training.ranks import Ranks as Ranks
from equipoise.training.ranks import Strategy as Strategy
from equipoise.training.ranks import launched as launched
from equipoise.training.weights import BEST as BEST
from equipoise.training.weights import DONE as DONE
from equipoise.training.weights import LAST as LAST
from equipoise.training.weights import is_done as is_done
from equipoise.training.weights import load_weights as load_weights
