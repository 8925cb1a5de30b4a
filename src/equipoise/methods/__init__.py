"""Methods as plans of stages. The training loop knows stages and no method by name."""

from equipoise.methods.adversarial_training import SingleNetwork as SingleNetwork
from equipoise.methods.afa import AFA as AFA
from equipoise.methods.afa import Gate as Gate
from equipoise.methods.afs import AFS as AFS
from equipoise.methods.oat import OAT as OAT
from equipoise.methods.stage import MakeNetwork as MakeNetwork
from equipoise.methods.stage import Schedule as Schedule
from equipoise.methods.stage import Stage as Stage
from equipoise.methods.stage import Task as Task

AnyMethod = SingleNetwork | AFA | AFS | OAT
"""Every method a recipe may name; a new one is one file, one import and one entry here."""
