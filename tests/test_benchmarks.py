"""What the speed benchmarks rest on. The scripts themselves are run by ``make bench``."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import timing

    return timing


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import steps

    return steps


def turns_of(timing, **wall):
    return timing.Turns(wall=wall, processor=wall)


def test_everybody_takes_a_turn_in_every_round_and_the_order_changes(timing):
    seen = []
    found = timing.take_turns({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert seen == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [len(times) for times in found.wall.values()] == [3, 3]


def test_an_alternative_in_a_process_of_its_own_is_timed_there(timing):
    apart = timing.Apart(partial(partial, time.sleep, 0.2))
    found = timing.take_turns({"apart": apart}, 2)
    assert all(wall >= 0.2 for wall in found.wall["apart"])
    assert all(spent < 0.1 for spent in found.processor["apart"])


def test_a_ratio_is_of_each_round_and_not_of_the_medians(timing):
    turns = turns_of(timing, ours=[1.0, 2.0, 10.0], other=[4.0, 6.0, 20.0])
    assert timing.comparison(turns, "it", "ours", "other")["ratio"] == {
        "median": 3.0,
        "quartiles": [2.5, 3.5],
    }
    cost = timing.comparison(turns, "it", "ours", "other", sense="cost")
    assert cost["ratio"]["median"] == pytest.approx(1 / 3, rel=1e-3)
    assert cost["seconds"] == {"ours": 2.0, "against": 6.0}


def test_the_share_of_the_ceiling_is_that_of_operations_a_second(timing):
    product = timing.Product(dtype=torch.float32, size=10, repeats=5)
    assert product.operations == 10_000
    turns = turns_of(timing, ours=[2.0], ceiling=[1.0])
    found = timing.share_of_ceiling(turns, "ours", 10_000, product)
    assert found["median"] == 0.5


def test_the_ceiling_is_the_kernel_with_most_operations_a_second(timing, monkeypatch):
    def seconds(kernel):
        favourite = getattr(kernel, "channels", 0) == 320
        return kernel.operations * (1e-12 if favourite else 1e-11), 0.0

    monkeypatch.setattr(timing, "seconds_of", seconds)
    for kind in (timing.Product, timing.Convolution):
        monkeypatch.setattr(kind, "__call__", lambda self: None)
    found = timing.fastest(torch.float32)
    assert str(found) == "3x3 convolution of 320 channels, 16x16"


def test_a_kernel_does_the_operations_that_it_counts(timing):
    kernel = timing.Convolution(dtype=torch.float32, channels=4, size=6, count=2, repeats=3)
    with timing.FlopCounterMode(display=False) as counter:
        kernel()
    assert counter.get_total_flops() == kernel.operations
    kernel = timing.Product(dtype=torch.float32, size=8)
    with timing.FlopCounterMode(display=False) as counter:
        kernel()
    assert counter.get_total_flops() == kernel.operations


def test_operations_of_a_convolution_are_twice_its_multiplications(timing):
    network = torch.nn.Conv2d(3, 4, 1)
    assert timing.operations(network, torch.zeros(2, 3, 5, 5)) == 2 * 2 * 25 * 3 * 4


def test_the_exponent_of_a_power_is_found(timing):
    assert timing.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


@pytest.mark.parametrize("steps_of_peer", [9, 10])
def test_one_attack_step_less_is_noticed(steps, steps_of_peer):
    images, labels = steps.batch(4, size=16)
    ours = steps.our_step(steps.pgd_task(steps.network(10, 1), 10), images, labels, "64-true")
    exact = steps.exact(steps.network(10, 1), images, labels)
    peer = steps.peer_step(*exact, steps_of_peer, lean=True)
    if steps_of_peer == 10:
        assert len(steps.check_equal([ours, peer], "it")) == 2
    else:
        with pytest.raises(ValueError, match="do not compute the same"):
            steps.check_equal([ours, peer], "it")


def test_a_peer_in_half_precision_has_the_same_loss_within_that(steps):
    images, labels = steps.batch(4, size=16)
    full = steps.peer_step(steps.network(10, 1), images, labels, 3, lean=True)
    half = steps.peer_step(steps.network(10, 1), images, labels, 3, lean=True, half=True)
    assert float(half()) == pytest.approx(float(full()), rel=0.02)


@pytest.mark.parametrize("lean", [True, False])
def test_peers_and_ours_come_to_the_same_loss(steps, lean):
    images, labels = steps.batch(4, size=16)
    ours = steps.our_step(steps.pgd_task(steps.network(10, 1), 3), images, labels, "64-true")
    exact = steps.exact(steps.network(10, 1), images, labels)
    peer = steps.peer_step(*exact, 3, lean=lean)
    assert float(ours()) == pytest.approx(float(peer()), rel=1e-6)
    task = steps.branch_task(steps.network(10, 1), 3, 2, split_batch=False)
    branched = steps.with_branches(steps.network(10, 1), 3)
    peer = steps.algorithm_1(*steps.exact(branched, images, labels), 2, lean=lean)
    ours = steps.our_step(task, images, labels, "64-true")
    assert float(ours()) == pytest.approx(float(peer()), rel=1e-6)


def test_alternatives_that_differ_are_refused(steps):
    one, other = (lambda: torch.tensor(1.0)), (lambda: torch.tensor(1.0001))
    assert steps.check_equal([one, one], "it") == [1.0, 1.0]
    with pytest.raises(ValueError, match="it: the alternatives do not compute the same"):
        steps.check_equal([one, other], "it")


def test_no_benchmark_hides_a_module_of_pythons_own():
    assert not {path.stem for path in FOLDER.glob("*.py")} & sys.stdlib_module_names


def test_every_seeded_fault_still_has_its_place_and_its_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import seeded_faults

    faults = seeded_faults.read_faults()
    assert len({fault["name"] for fault in faults}) == len(faults) >= 40
    for fault in faults:
        seeded_faults.with_fault(fault)  # refuses a text that is not there exactly once
        assert fault["original"] != fault["replacement"]
        for test in fault["tests"]:
            path, _, name = test.partition("::")
            assert f"def {name}(" in (FOLDER.parent / path).read_text() or not name, test


def test_a_seeded_fault_whose_place_has_changed_is_refused_by_name(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import seeded_faults

    fault = {"name": "no step", "file": "attacks/pgd.py", "original": "no such line"}
    with pytest.raises(ValueError, match=r"no step: .* in attacks/pgd\.py once, got 0 times"):
        seeded_faults.with_fault(fault)


def test_the_record_of_seeded_faults_says_that_all_in_the_list_were_caught(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import seeded_faults

    names = [fault["name"] for fault in seeded_faults.read_faults()]
    record = json.loads((FOLDER / "seeded_faults.json").read_text())
    assert dict.fromkeys(names, "caught") == {
        name: result["outcome"] for name, result in record["faults"].items()
    }
    assert record["caught"] == record["listed"] == len(names)


def test_the_record_of_the_official_code_has_no_difference_beyond_rounding():
    record = json.loads((FOLDER / "official_parity.json").read_text())
    assert record["methods"].keys() == {
        *("trades", "mart", "fat", "lbgat", "oat", "avm", "tla", "gat", "nfgsm", "afs")
    }
    assert record["limit"] == 1e-9
    for method in record["methods"].values():
        assert len(method["commit"]) == 40
        assert max(method["differences"].values()) < record["limit"]
