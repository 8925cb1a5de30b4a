import pytest
from scripted import STRENGTHS, adaptive, labelled_by, run

from equipoise.evaluation import suites_for


@pytest.fixture(scope="module")
def of_adaptive():
    model = adaptive()
    data = labelled_by(model)
    suites = suites_for(model, ("quick", "adaptive"), classes=10, steps=2, restarts=2)
    return model, data, suites, run(model, data, suites, epsilons=STRENGTHS)
