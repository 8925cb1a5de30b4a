import pytest
from exportable import CARD, adaptive

from equipoise.models import save


@pytest.fixture
def folder(tmp_path):
    save(adaptive(), tmp_path / "run" / "model", CARD)
    return tmp_path / "run"
