import pytest
from checking import TABLES
from scripted import STRENGTHS, adaptive, labelled_by, run

from equipoise.evaluation import self_checks as module
from equipoise.evaluation import suites_for


@pytest.fixture(scope="module")
def of_adaptive():
    model = adaptive()
    data = labelled_by(model)
    suites = suites_for(model, ("quick", "adaptive"), classes=10, steps=2, restarts=2)
    return model, data, suites, run(model, data, suites, epsilons=STRENGTHS)


@pytest.fixture
def only(monkeypatch):
    """Run one check alone."""

    def choose(name: str) -> None:
        for table in TABLES:
            chosen = {key: check for key, check in getattr(module, table).items() if key == name}
            monkeypatch.setattr(module, table, chosen)

    return choose
