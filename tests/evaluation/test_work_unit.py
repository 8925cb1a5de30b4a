"""What was found is kept and taken again, and other processes help to find it."""

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

from equipoise.evaluation import EvaluationError, Store, Suite, suites_for, work_unit


def test_what_is_on_disk_is_not_computed_again(tmp_path):
    breaks = {0.02: {0}, 0.1: {1}}
    first = run(always_zero(), numbered(), [scripted("a", breaks)], store=Store(6, tmp_path))
    calls = []
    again = run(always_zero(), numbered(), [scripted("a", breaks, calls)], store=Store(6, tmp_path))
    assert calls == []
    assert again == dataclasses.replace(
        first, suites=again.suites, tried=again.tried, clean=again.clean
    )
    assert again.broken_at().tolist() == first.broken_at().tolist()
    assert again.tried[0].forward_passes == first.tried[0].forward_passes


def test_more_strengths_and_suites_reuse_what_is_known(tmp_path):
    breaks = {0.02: {0}, 0.05: {1}, 0.1: {2}}
    calls = []
    run(
        always_zero(),
        numbered(),
        [scripted("a", breaks)],
        epsilons=(0.02, 0.1),
        store=Store(6, tmp_path),
    )
    suites = [scripted("a", breaks, calls), scripted("b", {})]
    found = run(always_zero(), numbered(), suites, epsilons=(0.05,), store=Store(6, tmp_path))
    assert calls == [(0.05, [0, 1, 2, 3, 4, 5])]
    assert found.accuracy() == pytest.approx([1, 5 / 6])
    calls.clear()
    run(always_zero(), numbered(), suites, epsilons=(0.02, 0.05, 0.1), store=Store(6, tmp_path))
    assert calls == []


def test_what_other_code_of_an_attack_found_is_not_taken(tmp_path, monkeypatch):
    for name in work_unit.CODE:
        path = tmp_path / f"{name.replace('*', 'goals')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("the code of an earlier commit")
    calls = []
    suites = [scripted("a", {}, calls)]
    for place in (work_unit.PACKAGE, tmp_path):
        monkeypatch.setattr(work_unit, "PACKAGE", place)
        work_unit.code_hash.cache_clear()
        run(always_zero(), numbered(), suites, epsilons=(0.1,), store=Store(6, tmp_path))
    work_unit.code_hash.cache_clear()
    assert len(calls) == 2


def test_a_run_cut_short_at_any_unit_ends_in_the_same_profile(tmp_path):
    model = adaptive()
    data = labelled_by(model)
    suites = suites_for(model, ("quick",), classes=10, steps=3, restarts=2)
    whole = run(model, data, suites, epsilons=STRENGTHS, batch_size=7)

    class Cut(Store):
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
            run(model, data, suites, epsilons=STRENGTHS, batch_size=7, store=store)
        assert len(list(folder.rglob("*.safetensors"))) == units
        again = run(
            model, data, suites, epsilons=STRENGTHS, batch_size=7, store=Store(len(data), folder)
        )
        assert [t.broken_at.tolist() for t in again.tried] == [
            t.broken_at.tolist() for t in whole.tried
        ]


def test_a_damaged_unit_is_computed_again(tmp_path):
    run(always_zero(), numbered(), [scripted("a", {0.1: {2}})], store=Store(6, tmp_path))
    unit = sorted(tmp_path.rglob("*.safetensors"))[0]
    unit.write_bytes(unit.read_bytes()[:20])
    calls = []
    found = run(
        always_zero(), numbered(), [scripted("a", {0.1: {2}}, calls)], store=Store(6, tmp_path)
    )
    assert len(calls) == 1
    assert found.accuracy()[-1] == pytest.approx(5 / 6)


def test_an_attack_that_fails_midway_is_named_and_what_was_finished_is_kept(tmp_path):
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
            store=Store(6, tmp_path),
        )
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


@pytest.mark.slow
def test_several_processes_find_what_one_finds(of_adaptive, tmp_path):
    model, data, suites, _ = of_adaptive
    settings = {"epsilons": STRENGTHS, "batch_size": 5}
    one = run(model, data, suites, **settings)
    two = run(model, data, suites, workers=2, store=Store(len(data), tmp_path), **settings)
    assert [t.broken_at.tolist() for t in two.tried] == [t.broken_at.tolist() for t in one.tried]
    assert [t.forward_passes for t in two.tried] == [t.forward_passes for t in one.tried]


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
    """Ends the process that loads it, as the kernel does where memory runs out."""

    def __setstate__(self, state):
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        super().__setstate__(state)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 10**6])  # also more than a pipe takes at once
def test_a_process_that_dies_while_it_loads_is_named_with_the_remedy(size):
    model = Dies().eval()
    model.weight = nn.Parameter(torch.zeros(size))
    with pytest.raises(EvaluationError, match=r"a process .* was killed .*with fewer --workers"):
        run(model, numbered(), [scripted("a", {})], workers=2, batch_size=2)


def test_a_model_that_cannot_be_copied_asks_for_one_process():
    model = always_zero()
    model.unpicklable = lambda: None
    with pytest.raises(EvaluationError, match=r"cannot be copied .*--workers 1"):
        run(model, numbered(), [scripted("a", {})], workers=2)
