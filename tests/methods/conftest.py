import pytest
from tiny import replace_attacks


@pytest.fixture
def attacks(monkeypatch):
    """Every attack of a step: its module, goal, images, strength and what it found."""
    seen = []

    def spy(search, **call):
        seen.append(call | {"adversarial": search()})
        return seen[-1]["adversarial"]

    replace_attacks(monkeypatch, spy)
    return seen
