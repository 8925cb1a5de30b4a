"""Checks look at every strength, compare gradient and function, and weigh what they find."""

from dataclasses import replace

import bad_models as bad
import pytest
import torch
from checking import data, not_passed, outcome, run

from equipoise.attacks.threat import Linf
from equipoise.evaluation import measure_profile, suites_for
from equipoise.evaluation.self_checks import self_checks

N = 64


def evaluated(model, *epsilons, suites=("quick",), steps=10):
    """Accuracies of an evaluation, and its checks by name."""
    profile = measure_profile(
        model,
        data(N),
        threat=Linf,
        epsilons=epsilons,
        suites=suites_for(model, suites, classes=10, steps=steps),
        seed=0,
    )
    findings = self_checks(model, data(N), profile, threat=Linf)
    return profile.accuracy(), {finding.name: finding for finding in findings}


@pytest.mark.slow
@pytest.mark.parametrize("epsilons", [(0.15,), (0.15, 1.0)])
def test_a_wrong_backward_pass_is_flagged_whichever_strengths_are_added(epsilons):
    accuracy, found = evaluated(bad.Decoy(bad.standard()), *epsilons)
    assert accuracy[1] < 0.6  # 83 to 86 % before the suite asked queries; the truth is 10 %
    failed = {name for name, finding in found.items() if finding.verdict == "fail"}
    assert {"finite difference", "black box", "missed"} <= failed
    assert found["finite difference"].numbers["could_flatter"] > 0.9 * accuracy[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: bad.Decoy(bad.robust()),
        lambda: bad.Reversed(bad.robust()),
        lambda: bad.Rippled(bad.robust()),
        lambda: bad.StraightThrough(bad.robust(), lambda x: x.flip(2)),
        lambda: bad.Quantised(bad.robust()),
    ],
    ids=["decoy", "reversed", "rippled", "straight through a flip", "quantised"],
)
def test_a_gradient_that_is_not_the_functions_fails(only, make):
    only("finite difference")
    found = run(make(), data(N))["finite difference"]
    assert found.verdict == "fail"
    assert found.numbers["share"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: bad.standard(),
        lambda: bad.robust(),
        lambda: bad.Times(bad.robust(), 1000.0),
        lambda: bad.Times(bad.robust(), 1e-4),
        lambda: bad.Pooled(bad.robust()),
        lambda: bad.StraightThrough(bad.robust(), lambda x: (x * 15).round() / 15),
        bad.stack,
    ],
    ids=["standard", "robust", "x1000", "x0.0001", "max pool", "honest straight through", "stack"],
)
def test_an_honest_gradient_passes(only, make):
    only("finite difference")
    assert not_passed(run(make(), data(N))) == {}


@pytest.mark.slow
def test_a_model_that_goes_flat_off_the_grid_fails():
    found = run(bad.FlatOffGrid(bad.robust()), data(N))
    assert found["grid"].verdict == "fail"
    assert found["grid"].numbers["share"] > 0.9
    assert found["gradients"].verdict == "fail"


@pytest.mark.slow
def test_one_class_for_every_image_is_collapse():
    found = run(bad.Constant(), data(N), outcomes=[outcome("white box", [-1] * N)])
    assert found["collapsed"].verdict == "fail"
    assert found["collapsed"].numbers["one_class"] == 1.0


def test_guessing_is_collapse_even_where_attacks_break_every_image(only):
    only("collapsed")
    wrong = replace(data(N), labels=(data(N).labels + 3) % 10)
    for broken in (-1, 1):
        found = run(bad.standard(), wrong, outcomes=[outcome("white box", [broken] * N)])
        assert found["collapsed"].verdict == "fail"
    assert run(bad.standard(), data(N))["collapsed"].verdict == "pass"


@pytest.mark.parametrize(("make", "verdict"), [(bad.Constant, "fail"), (bad.robust, "pass")])
def test_a_flat_curve_fails_where_no_attack_breaks_it(only, make, verdict):
    only("flat curve")
    with torch.no_grad():
        labels = make()(data(N).batch(slice(None))[0]).argmax(1)  # right for every image
    on = replace(data(N), labels=labels)
    found = run(make(), on, epsilons=(0.0, 0.01, 0.02))["flat curve"]
    assert found.numbers["strengths"] == 3
    assert found.verdict == verdict


@pytest.mark.parametrize("factor", [50.0, 1000.0])
def test_honest_large_logits_whose_score_is_the_truth_fail_nothing(factor):
    accuracy, found = evaluated(bad.Times(bad.standard(), factor), 0.2)
    assert accuracy[1] < 0.15
    assert not_passed(found) == {}


def test_a_score_that_cannot_be_flattered_cannot_fail(only):
    only("probabilities")
    for broken, verdict in (([1] * N, "warn"), ([-1] * N, "fail")):
        found = run(
            bad.Probabilities(bad.robust()), data(N), outcomes=[outcome("white box", broken)]
        )["probabilities"]
        assert found.verdict == verdict
        assert (found.numbers["could_flatter"] > 0.5) == (verdict == "fail")
        assert "points too high because of this" in found.found


@pytest.mark.slow
def test_images_broken_at_every_strength_are_not_looked_at():
    broken = [1] * 40 + [-1] * (N - 40)
    found = run(bad.robust(), data(N), outcomes=[outcome("white box", broken)])
    looked_at = int(found["more steps"].found.split(" images")[0].split()[-1])
    assert 10 <= looked_at <= N - 40


@pytest.mark.slow
def test_each_image_is_attacked_at_the_strongest_strength_that_it_survived():
    levels = [2] * 20 + [-1] * (N - 20)  # the first twenty survived 0.02 and not 0.2
    outcomes = [outcome("white box", levels)]
    found = run(bad.standard(), data(N), epsilons=(0.0, 0.02, 0.2), outcomes=outcomes)
    missed = round(found["missed"].numbers["share"] * N)
    assert 25 < missed <= N - 20


def test_a_model_that_answers_otherwise_when_a_gradient_is_asked_for_fails(only):
    class Watched(bad.Wrapper):
        def forward(self, images):
            return self.net(images) * (2.0 if images.requires_grad else 1.0)

    only("batch-dependent")
    assert run(Watched(bad.robust()), data(8))["batch-dependent"].verdict == "fail"
