"""Run a few fuzzed inputs per target; ``benchmarks/fuzz.py`` runs ten thousand."""

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
def test_damaged_input_is_read_or_clearly_refused(name):
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


def test_audit_hook_detects_executed_commands():
    with watched(), pytest.raises(Executed, match=r"os\.system"):
        os.system("true")


def test_audit_hook_detects_unpickling():
    with watched(), pytest.raises(Executed, match=r"pickle\.find_class"):
        pickle.loads(pickle.dumps(os.path.join))


def test_audit_hook_detects_a_file_written_elsewhere(tmp_path):
    with watched() as folder:
        (folder / "inside").write_text("")
        with pytest.raises(Executed, match="outside"):
            (tmp_path / "outside").write_text("")
    (tmp_path / "outside").write_text("")


def test_unclear_error_is_raised():
    def target(data: bytes) -> None:
        raise KeyError(data)

    with pytest.raises(KeyError):
        survives(target, b"")


def test_mutations_change_delete_and_add_values():
    document = {"a": [1, {"b": 2}], "c": "d"}
    seeds = itertools.product(range(8), repeat=3)
    mutants = [mutated(document, Choices(bytes([i, j, k, i ^ k, j, i, k, j]))) for i, j, k in seeds]
    assert any("c" not in mutant for mutant in mutants)
    assert any(isinstance(mutant.get("a"), list) and len(mutant["a"]) == 1 for mutant in mutants)
    assert any(set(mutant) - {"a", "c"} for mutant in mutants)
    assert fuzzing.TARGETS
