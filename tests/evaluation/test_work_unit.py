"""Results are cached and reused, and other processes compute them too."""

import dataclasses
import multiprocessing
import os

import pytest
import torch
from scripted import (
    STRENGTHS,
    AlwaysZero,
    Scripted,
    adaptive,
    always_zero,
    labelled_by,
    numbered,
    run,
    scripted,
)
from tiny import linear, split
from torch import nn

from equipoise.evaluation import EvaluationCache, EvaluationError, Suite, suites_for, work_unit
from equipoise.evaluation.work_unit import AttackKey

ATTACK = {"name": "a", "steps": 3}
KEY = AttackKey(attack=ATTACK, norm="Linf", epsilon=0.1, seed=0)


def test_a_key_depends_on_everything_that_decides_a_result():
    changes = [
        {},
        {"attack": ATTACK | {"steps": 4}},
        {"norm": "L2"},
        {"epsilon": 0.2},
        {"seed": 1},
        {"precision": "bf16-mixed"},
    ]
    names = {dataclasses.replace(KEY, **change).name() for change in changes}
    assert len(names) == 6
    assert dataclasses.replace(KEY, attack=dict(reversed(ATTACK.items()))).name() in names


def test_a_key_changes_with_the_version(monkeypatch):
    before = KEY.name()
    monkeypatch.setattr(work_unit, "version", lambda package: "99")
    assert KEY.name() != before


def test_the_keys_of_existing_caches_stay_valid(monkeypatch):
    """Computed before ``AttackKey`` existed, when a key was a list."""
    monkeypatch.setattr(work_unit, "version", lambda package: "1.2.3")
    attack = {"name": "a/b", "steps": 3, "kind": "white box"}
    key = AttackKey(attack=attack, norm="Linf", epsilon=8 / 255, seed=0)
    assert key.name() == "a_b_78b90a2f8959"
    attack = {"steps": 3, "name": "pgd", "relative_step": None}
    key = AttackKey(attack=attack, norm="L2", epsilon=0.5, seed=7, precision="bf16-mixed")
    assert key.name() == "pgd_5c8de69abec4"


def test_results_on_disk_are_not_computed_again(tmp_path):
    breaks = {0.02: {0}, 0.1: {1}}
    first = run(
        always_zero(), numbered(), [scripted("a", breaks)], cache=EvaluationCache(6, tmp_path)
    )
    calls = []
    again = run(
        always_zero(),
        numbered(),
        [scripted("a", breaks, calls)],
        cache=EvaluationCache(6, tmp_path),
    )
    assert calls == []
    assert again == dataclasses.replace(
        first,
        suites=again.suites,
        outcomes=again.outcomes,
        clean=again.clean,
        adversarial=again.adversarial,
    )
    assert [row for row, _, _ in again.adversarial] == [row for row, _, _ in first.adversarial]
    assert again.broken_at().tolist() == first.broken_at().tolist()
    assert again.outcomes[0].forward_passes == first.outcomes[0].forward_passes


def test_more_strengths_and_suites_reuse_cached_results(tmp_path):
    breaks = {0.02: {0}, 0.05: {1}, 0.1: {2}}
    calls = []
    run(
        always_zero(),
        numbered(),
        [scripted("a", breaks)],
        epsilons=(0.02, 0.1),
        cache=EvaluationCache(6, tmp_path),
    )
    suites = [scripted("a", breaks, calls), scripted("b", {})]
    found = run(
        always_zero(), numbered(), suites, epsilons=(0.05,), cache=EvaluationCache(6, tmp_path)
    )
    assert calls == [(0.05, [0, 1, 2, 3, 4, 5])]
    assert found.accuracy() == pytest.approx([1, 5 / 6])
    calls.clear()
    run(
        always_zero(),
        numbered(),
        suites,
        epsilons=(0.02, 0.05, 0.1),
        cache=EvaluationCache(6, tmp_path),
    )
    assert calls == []


def test_results_of_other_attack_code_are_not_reused(tmp_path, monkeypatch):
    for name in work_unit.CODE:
        path = tmp_path / f"{name.replace('*', 'goals')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("the code of an earlier commit")
    calls = []
    suites = [scripted("a", {}, calls)]
    for place in (work_unit.PACKAGE, tmp_path):
        monkeypatch.setattr(work_unit, "PACKAGE", place)
        work_unit.code_hash.cache_clear()
        run(always_zero(), numbered(), suites, epsilons=(0.1,), cache=EvaluationCache(6, tmp_path))
    work_unit.code_hash.cache_clear()
    assert len(calls) == 2


@pytest.mark.slow
def test_a_run_stopped_at_any_unit_continues_to_the_same_profile(tmp_path):
    model = adaptive()
    data = labelled_by(model)
    suites = suites_for(model, ("quick",), classes=10, steps=3, restarts=2)
    whole = run(model, data, suites, epsilons=STRENGTHS, batch_size=7)

    class Cut(EvaluationCache):
        left = 0

        def put(self, *arguments):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            super().put(*arguments)

    for units in (0, 1, 3, 6):
        folder = tmp_path / str(units)
        store = Cut(len(data), folder)
        store.left = units
        with pytest.raises(KeyboardInterrupt):
            run(model, data, suites, epsilons=STRENGTHS, batch_size=7, cache=store)
        assert len(list(folder.rglob("*.safetensors"))) == units
        again = run(
            model,
            data,
            suites,
            epsilons=STRENGTHS,
            batch_size=7,
            cache=EvaluationCache(len(data), folder),
        )
        assert [t.broken_at.tolist() for t in again.outcomes] == [
            t.broken_at.tolist() for t in whole.outcomes
        ]


def test_a_damaged_unit_is_computed_again(tmp_path):
    run(always_zero(), numbered(), [scripted("a", {0.1: {2}})], cache=EvaluationCache(6, tmp_path))
    unit = sorted(tmp_path.rglob("*.safetensors"))[0]
    unit.write_bytes(unit.read_bytes()[:20])
    calls = []
    found = run(
        always_zero(),
        numbered(),
        [scripted("a", {0.1: {2}}, calls)],
        cache=EvaluationCache(6, tmp_path),
    )
    assert len(calls) == 1
    assert found.accuracy()[-1] == pytest.approx(5 / 6)


def test_an_attack_that_fails_is_named_and_finished_units_are_kept(tmp_path):
    class Failing(Scripted):
        def run(self, model, images, *rest, **more):
            if len(self.calls) == 1:
                raise RuntimeError("out of memory")
            return super().run(model, images, *rest, **more)

    attack = Failing(name="a", breaks={}, calls=[])
    with pytest.raises(EvaluationError, match=r"s/a failed at 0.02 .*out of memory.*kept"):
        run(
            always_zero(),
            numbered(),
            [Suite(name="s", attacks=(attack,))],
            batch_size=3,
            cache=EvaluationCache(6, tmp_path),
        )
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


@pytest.mark.slow
def test_several_processes_give_the_result_of_one(of_adaptive, tmp_path):
    model, data, suites, _ = of_adaptive
    settings = {"epsilons": STRENGTHS, "batch_size": 5}
    one = run(model, data, suites, **settings)
    two = run(
        model, data, suites, workers=2, cache=EvaluationCache(len(data), tmp_path), **settings
    )
    assert [t.broken_at.tolist() for t in two.outcomes] == [
        t.broken_at.tolist() for t in one.outcomes
    ]
    assert [t.forward_passes for t in two.outcomes] == [t.forward_passes for t in one.outcomes]


@pytest.mark.slow
def test_a_failure_in_another_process_is_named():
    attack = dataclasses.replace(
        suites_for(linear(), ("quick",), classes=10)[0].attacks[0], search=fails
    )
    with pytest.raises(EvaluationError, match=r"s/pgd-margin failed .*no such thing"):
        run(linear().eval(), split(8), [Suite(name="s", attacks=(attack,))], workers=2)


def fails(*arguments):
    raise RuntimeError("no such thing")


class Dies(AlwaysZero):
    """Kills the process that loads it, as the kernel does when memory runs out."""

    def __setstate__(self, state):
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        super().__setstate__(state)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 10**6])  # also more than a pipe takes at once
def test_a_process_that_dies_while_loading_is_an_error_with_a_remedy(size):
    model = Dies().eval()
    model.weight = nn.Parameter(torch.zeros(size))
    with pytest.raises(EvaluationError, match=r"a process .* was killed .*with fewer --workers"):
        run(model, numbered(), [scripted("a", {})], workers=2, batch_size=2)


def test_a_model_that_cannot_be_pickled_is_an_error_with_a_remedy():
    model = always_zero()
    model.unpicklable = lambda: None
    with pytest.raises(EvaluationError, match=r"cannot be copied .*--workers 1"):
        run(model, numbered(), [scripted("a", {})], workers=2)
