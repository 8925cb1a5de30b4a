"""A few hundred fuzzed inputs a target; ``benchmarks/fuzz.py`` runs ten thousand."""

import itertools
import os
import pickle

import fuzzing
import pytest
from fuzzing import TARGETS, Choices, Executed, mutated, survives, watched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_input_is_read_or_clearly_refused(name):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.binary(max_size=64))
    def run(data: bytes) -> None:
        survives(TARGETS[name], data)

    run()


def test_the_watch_sees_what_is_executed():
    with watched(), pytest.raises(Executed, match=r"os\.system"):
        os.system("true")


def test_the_watch_sees_a_pickle_being_read():
    with watched(), pytest.raises(Executed, match=r"pickle\.find_class"):
        pickle.loads(pickle.dumps(os.path.join))


def test_the_watch_sees_a_file_written_elsewhere(tmp_path):
    with watched() as folder:
        (folder / "inside").write_text("")
        with pytest.raises(Executed, match="outside of"):
            (tmp_path / "outside").write_text("")
    (tmp_path / "outside").write_text("")


def test_an_unclear_error_comes_through():
    def target(data: bytes) -> None:
        raise KeyError(data)

    with pytest.raises(KeyError):
        survives(target, b"")


def test_every_kind_of_place_is_reached_by_some_bytes():
    document = {"a": [1, {"b": 2}], "c": "d"}
    drawn = itertools.product(range(8), repeat=3)
    seen = [mutated(document, Choices(bytes([i, j, k, i ^ k, j, i, k, j]))) for i, j, k in drawn]
    assert any("c" not in found for found in seen)
    assert any(isinstance(found.get("a"), list) and len(found["a"]) == 1 for found in seen)
    assert any(set(found) - {"a", "c"} for found in seen)
    assert fuzzing.TARGETS
