"""Make the tables and figures of the papers again."""

from equipoise.reproduce.making import Made as Made
from equipoise.reproduce.making import reproduce as reproduce
