"""Every check fails for a model made for it; sound models pass all checks."""

import json
from dataclasses import asdict, replace

import bad_models as bad
import pytest
import torch
from checking import ALL_CHECKS, IMAGES, NEED_ATTACK, TABLES, data, not_passed, outcome, run
from tiny import same, split, weights, wide_resnet
from torch import nn

from equipoise.attacks.losses import cross_entropy
from equipoise.attacks.threat import L2, Linf
from equipoise.evaluation import self_checks as module
from equipoise.evaluation.self_check_finding import grade
from equipoise.evaluation.self_check_measures import scale_free_cross_entropy
from equipoise.evaluation.self_checks import check_range
from equipoise.models import fuse_branches, with_branches

SOUND = {
    "standard": (lambda: bad.standard(), Linf, 0.1),
    "standard, all broken": (lambda: bad.standard(), Linf, 0.2),
    "robust": (lambda: bad.robust(), Linf, 0.2),
    "robust, L2": (lambda: bad.robust(), L2, 0.5),
    "robust, L2, most broken": (lambda: bad.robust(), L2, 1.0),
    "another robust one": (lambda: bad.robust(1), Linf, 0.2),
    "a stack of both": (bad.stack, Linf, 0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "threat", "epsilon"), SOUND.values(), ids=SOUND)
def test_a_sound_model_passes_every_check(make, threat, epsilon):
    found = run(make(), threat=threat, epsilons=(0.0, epsilon))
    assert not_passed(found) == {}
    assert set(found) == ALL_CHECKS - {"gate", "missed"}


@pytest.mark.slow
def test_a_sound_model_passes_with_another_seed_too():
    assert not_passed(run(bad.robust(1), seed=1)) == {}


MISLEADING = {
    "noise": (lambda: bad.Noisy(bad.robust()), {"randomised"}),
    "noise on attacked images": (lambda: bad.NoisyWhenAttacked(bad.robust()), {"randomised"}),
    "batch statistics": (lambda: bad.OnBatchStatistics(bad.robust()), {"batch-dependent"}),
    "place in the batch": (lambda: bad.ByPlace(bad.robust()), {"batch-dependent"}),
    "softmax": (lambda: bad.Probabilities(bad.robust()), {"probabilities"}),
    "softmax of a standard network": (
        lambda: bad.Probabilities(bad.standard()),
        {"probabilities"},
    ),
    "NaN": (
        lambda: bad.NotNumbers(bad.robust()),
        {"probabilities", "gradients", "finite difference"},
    ),
    "logits times 100": (
        lambda: bad.Times(bad.robust(), 100.0),
        {"logit scale", "goals disagree"},
    ),
    "quantised images": (
        lambda: bad.Quantised(bad.robust()),
        {"gradients", "black box", "huge epsilon", "finite difference"},
    ),
    "no gradient at all": (lambda: bad.Detached(bad.robust()), {"gradients", "black box"}),
    "rippled images": (
        lambda: bad.Rippled(bad.robust()),
        {"one step", "black box", "finite difference"},
    ),
    "gradient turned round": (
        lambda: bad.Reversed(bad.robust()),
        {"one step", "black box", "huge epsilon", "finite difference"},
    ),
    "slow gradient": (lambda: bad.Slow(bad.robust()), {"black box", "finite difference"}),
    "noise in the gradient": (
        lambda: bad.NoisyBackward(bad.standard()),
        {"finite difference", "more steps"},
    ),
    "flattened cross-entropy": (lambda: bad.flattened(), {"goals disagree"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "failing"), MISLEADING.values(), ids=MISLEADING)
def test_a_misleading_model_fails_exactly_the_checks_made_for_it(make, failing):
    torch.manual_seed(0)  # the random models draw from the global generator
    found = not_passed(run(make()))
    assert {name for name, verdict in found.items() if verdict == "fail"} == failing
    # Warnings may follow from the same fault; more than two would make the checks unspecific.
    assert len(found) - len(failing) <= 2


def test_every_check_fails_for_some_model_of_these_tests():
    caught = set().union(*(failing for _, failing in MISLEADING.values()))
    elsewhere = {"mode", "range", "gate", "missed", "grid", "collapsed", "flat curve"}
    assert ALL_CHECKS - caught == elsewhere  # test_self_checks_everywhere.py


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-2, 10.0])
def test_logits_of_an_unusual_scale_do_not_fail(factor):
    found = run(bad.Times(bad.robust(), factor))
    assert found["logit scale"].verdict == ("warn" if factor < 1 else "pass")


def test_the_scale_of_the_logits_is_measured(only):
    only("logit scale")
    plain = run(bad.robust())["logit scale"].numbers["logit_deviation"]
    scaled = run(bad.Times(bad.robust(), 100.0))["logit scale"].numbers["logit_deviation"]
    assert scaled == pytest.approx(100 * plain, rel=1e-4)


def test_the_scale_free_loss_removes_the_scale_and_keeps_the_ascent_direction():
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(6)
    value = scale_free_cross_entropy(logits, labels)
    torch.testing.assert_close(value, scale_free_cross_entropy(1000 * logits, labels))
    normal = (logits / logits.std(dim=1, keepdim=True)).detach().requires_grad_()
    (one,) = torch.autograd.grad(value.sum(), logits)
    (other,) = torch.autograd.grad(cross_entropy(normal, labels).sum(), normal)
    torch.testing.assert_close(one.sign(), other.sign())
    assert scale_free_cross_entropy(torch.zeros(2, 10), labels[:2]).isfinite().all()


def in_train_mode() -> nn.Module:
    return bad.network().train()


def with_dropout_in_train_mode() -> nn.Module:
    model = nn.Sequential(bad.network(), nn.Dropout(0.5)).eval()
    model[1].train()
    return model


def with_a_norm_in_train_mode() -> nn.Module:
    model = wide_resnet().eval()
    model.norm.train()
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (in_train_mode, "the model itself."),
        (with_dropout_in_train_mode, "1 module is in train mode: 1."),
        (with_a_norm_in_train_mode, "1 module is in train mode: norm."),
        (lambda: bad.Wrapper(bad.network()).train(), "the model itself."),
    ],
)
def test_modules_in_train_mode_fail_and_are_named(only, make, named):
    only("mode")
    model = make()
    found = run(model)["mode"]
    assert found.verdict == "fail"
    assert named in found.found
    assert "model.eval()" in found.meaning


def test_a_module_that_ignores_the_mode_may_be_in_train_mode(only):
    only("mode")
    model = wide_resnet().eval()
    model.linear.train()
    assert not_passed(run(model)) == {}


def test_an_unknown_module_in_train_mode_counts(only):
    only("mode")
    model = nn.Sequential(bad.Wrapper(bad.network())).eval()
    model[0].training = True
    assert run(model)["mode"].numbers == {"modules_in_train_mode": 1, "could_flatter": 1.0}


@pytest.mark.parametrize(
    ("images", "verdict"),
    [
        (torch.rand(4, 1, 8, 8), "pass"),
        (torch.tensor([0.0, 1.0]), "pass"),
        (torch.tensor([-0.01, 1.0]), "fail"),
        (torch.tensor([0.0, 1.01]), "fail"),
        (torch.tensor([0.0, 255.0]), "fail"),
        (torch.tensor([0.0, 1.0]) / 255, "fail"),
        (torch.tensor([0.0, 0.5, torch.nan]), "fail"),
    ],
)
def test_images_must_fill_the_pixel_range(images, verdict):
    found = check_range(images)
    assert found.verdict == verdict
    json.dumps(asdict(found), allow_nan=False)


def test_images_divided_by_255_twice_fail(only):
    only("range")
    dark = replace(data(), images=data().images // 255)
    assert run(bad.standard(), dark)["range"].verdict == "fail"


# Attacks of the evaluation

NEVER_BROKEN = [-1] * IMAGES


def broken(rows, level: int = 1) -> list[int]:
    return [level if row in rows else -1 for row in range(IMAGES)]


def unbroken_by_gradients() -> list[int]:
    """Images that gradient attacks cannot break, for an outcome in which Square breaks them."""
    correct = bad.Quantised(bad.robust())(data().batch(slice(None))[0]).argmax(1) == data().labels
    return correct.nonzero().flatten().tolist()[:30]


def test_images_that_only_black_box_attacks_break_fail(only):
    only("black box")
    outcomes = [
        outcome("white box", NEVER_BROKEN),
        outcome("black box", broken(unbroken_by_gradients())),
    ]
    found = run(bad.Quantised(bad.robust()), outcomes=outcomes)["black box"]
    assert found.verdict == "fail"
    assert 0.2 < found.numbers["resisting"] <= 30 / IMAGES


def test_images_that_gradients_break_too_do_not_count_for_the_black_box(only):
    """Later attacks see survivors only, so ``outcomes`` cannot tell; the check attacks again."""
    only("black box")
    images, labels = data().batch(slice(None))
    found = (bad.robust()(bad.attacked(bad.robust(), images, labels)).argmax(1) != labels).nonzero()
    assert len(found) > 30
    square = outcome("black box", broken(found.flatten().tolist()))
    found = run(bad.robust(), outcomes=[square])["black box"]
    assert found.verdict == "pass"
    assert found.numbers["resisting"] <= 1 / IMAGES  # one, found by this check's own queries


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "level", "counts"),
    [("white box", 1, False), ("white box", 2, True), ("gate", 1, True)],
)
def test_a_black_box_attack_counts_if_white_box_ones_need_more_strength(only, kind, level, counts):
    only("black box")
    rows = unbroken_by_gradients()
    outcomes = [outcome("transfer", broken(rows, 1)), outcome(kind, broken(rows, level))]
    model = bad.Quantised(bad.robust())
    found = run(model, outcomes=outcomes, epsilons=(0.0, 0.05, bad.EPSILON))["black box"]
    assert (found.numbers["resisting"] > 0.2) == counts


@pytest.mark.slow
def test_images_that_the_evaluation_missed_are_reported():
    found = run(bad.robust(), outcomes=[outcome("white box", NEVER_BROKEN)])
    assert not_passed(found) == {"missed": "fail"}
    assert found["missed"].numbers["could_flatter"] > 0.2
    assert f"up to {100 * found['missed'].numbers['could_flatter']:.1f} points" in (
        found["missed"].found
    )


def test_an_evaluation_that_broke_everything_leaves_nothing_to_attack():
    thorough = [outcome("white box", NEVER_BROKEN), outcome("white box", [1] * IMAGES)]
    assert not set(run(bad.robust(), outcomes=thorough)) & NEED_ATTACK


@pytest.fixture(scope="module")
def adaptive() -> nn.Module:
    return fuse_branches(with_branches(wide_resnet(), 2), placement="input").eval()


@pytest.mark.parametrize(
    ("count", "verdict"), [(0, "pass"), (1, "pass"), (5, "pass"), (12, "warn"), (30, "fail")]
)
@pytest.mark.parametrize("kind", ["gate", "transfer"])
def test_images_that_only_gate_attacks_break_are_counted(only, adaptive, kind, count, verdict):
    only("gate")
    elsewhere = broken(range(64, IMAGES))
    outcomes = [
        outcome("white box", elsewhere),
        outcome("black box", elsewhere),
        outcome(kind, broken({*range(count), *range(64, IMAGES)})),
    ]
    found = run(adaptive, outcomes=outcomes, images=4)["gate"]
    assert found.verdict == verdict
    assert found.numbers["share"] == pytest.approx(count / IMAGES)
    assert found.numbers["attacks"] == 1
    if verdict != "pass":
        assert "the score depends on the gate" in found.meaning


def test_a_gate_that_the_evaluation_did_not_attack_is_attacked_by_the_check(only, adaptive):
    only("gate")
    found = run(adaptive, outcomes=[outcome("white box", NEVER_BROKEN)])["gate"]
    assert found.verdict == "fail"  # the network is untrained, so the gate attacks break it
    assert "did not attack the weight generator; these checks did" in found.found


def test_a_model_without_a_gate_has_no_finding_about_one(only):
    only("gate")
    assert run(bad.robust(), outcomes=[outcome("gate", [1] * IMAGES)]) == {}


# Checks that do not apply, errors, and side effects


@pytest.mark.slow
def test_a_model_that_raises_fails_with_the_text_of_the_error():
    found = run(bad.Raising(bad.robust()))
    assert found["more steps"].verdict == "fail"
    assert found["more steps"].found.startswith("the model raised RuntimeError: not a digit. ")
    assert found["mode"].verdict == "pass"


def test_a_model_that_does_not_return_a_tensor_is_a_finding():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    found = run(Pair().eval())
    assert set(not_passed(found)) >= {"randomised", "probabilities", "gradients", "more steps"}


@pytest.mark.slow
def test_a_model_without_gradients_is_attacked_by_queries_alone():
    found = run(bad.Detached(bad.robust()))
    assert not_passed(found) == {"gradients": "fail", "black box": "fail"}
    assert not set(found) & set(module.ATTACK_CHECKS)


@pytest.mark.slow
def test_a_model_that_says_it_has_no_gradients_gets_the_checks_that_need_none():
    model = bad.Detached(bad.robust())
    model.gives_gradients = False
    found = run(model, data(16))
    assert set(found) == {*module.PASSIVE_CHECKS, *module.QUERY_CHECKS} - {"gate", "collapsed"}
    assert found["gradients"].verdict == "warn"
    assert "only black-box attacks" in found["gradients"].found


def test_a_model_that_is_always_wrong_is_not_attacked():
    wrong = replace(data(), labels=torch.ones_like(data().labels))
    assert not set(run(bad.Constant(), wrong)) & NEED_ATTACK


def test_an_evaluation_of_clean_images_runs_no_attack_check():
    assert not set(run(bad.robust(), epsilons=(0.0,))) & NEED_ATTACK


def test_one_image_is_enough():
    assert "batch-dependent" not in run(bad.robust(), data(1))


def test_an_unknown_threat_has_no_huge_epsilon():
    class Box:
        def __init__(self, epsilon):
            self.inner, self.epsilon = Linf(epsilon), epsilon

        def with_epsilon(self, epsilon):
            return Box(epsilon)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    class Somebodys(Box):
        project = lambda self, *args: self.inner.project(*args)  # noqa: E731
        random_start = lambda self, *args: self.inner.random_start(*args)  # noqa: E731
        ascent = lambda self, *args: self.inner.ascent(*args)  # noqa: E731

        def with_epsilon(self, epsilon):
            return Somebodys(epsilon)

    found = run(bad.robust(), threat=Somebodys)
    assert not_passed(found) == {}
    assert "huge epsilon" not in found


@pytest.mark.slow
def test_the_same_seed_gives_the_same_findings():
    first = run(bad.robust(), seed=3)
    assert run(bad.robust(), seed=3) == first
    assert run(bad.robust(), seed=4) != first


@pytest.mark.slow
def test_a_sound_model_passes_at_another_batch_size():
    assert not_passed(run(bad.robust(), batch_size=50)) == {}


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    run(bad.robust(), data(8))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_is_left_as_it_was_found():
    model = with_a_norm_in_train_mode()
    model.linear.weight.requires_grad_(False)
    before, modes = weights(model), [m.training for m in model.modules()]
    run(model, split(6))
    assert same(weights(model), before)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_the_worst_case_costs_about_1900_passes_over_the_images():
    model = bad.Constant()
    always_right = replace(data(8), labels=torch.zeros(8).long())
    found = run(model, always_right)
    assert found["more steps"].verdict == "pass"  # nothing breaks, so every step is taken
    assert 1500 * 8 < model.seen <= 1900 * 8


@pytest.mark.slow
def test_only_so_many_images_are_attacked():
    model = bad.Constant()
    run(model, replace(data(), labels=torch.zeros(IMAGES).long()), images=2)
    assert model.seen <= 1900 * 2 + IMAGES


@pytest.mark.slow
def test_findings_are_json():
    for model in (bad.NotNumbers(bad.robust()), bad.robust()):
        for finding in run(model, data(16)).values():
            assert json.loads(json.dumps(asdict(finding), allow_nan=False))["name"] == finding.name


@pytest.mark.slow
def test_found_and_meaning_are_sentences():
    for model in (bad.Quantised(bad.robust()), bad.robust()):
        for finding in run(model, data(16)).values():
            assert finding.found.endswith(".")
            assert finding.meaning.endswith(".")


def test_progress_is_reported_as_a_share_from_0_to_1():
    seen = []
    run(bad.standard(), data(4), report=lambda text, share: seen.append((text, share)))
    assert [text for text, _ in seen] == [
        f"self-check: {name}" for table in TABLES for name in getattr(module, table)
    ]
    shares = [share for _, share in seen]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1


@pytest.mark.parametrize(
    ("hits", "count", "verdict"),
    [
        (0, 128, "pass"),
        (1, 2, "pass"),  # a single image may be chance
        (3, 128, "pass"),  # 2.3 %, but not beyond the noise of 128 images
        (6, 128, "warn"),
        (300, 10_000, "warn"),
        (1000, 10_000, "fail"),
        (128, 128, "fail"),
    ],
)
def test_a_grade_allows_for_sampling_noise(hits, count, verdict):
    assert grade(hits, count, warn=0.02, fail=0.08) == verdict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilons": ()}, r"epsilons must ascend from 0, got \(\)"),
        ({"epsilons": (0.1, 0.2)}, r"epsilons must ascend from 0, got \(0.1, 0.2\)"),
        ({"epsilons": (0.0, 0.2, 0.1)}, r"epsilons must ascend from 0"),
        ({"epsilons": (0.0, 8.0)}, r"For the papers' 8 write 8 ?/ ?255"),
        ({"images": 0}, r"images and batch_size must be 1 or more, got 0 and 256"),
        ({"batch_size": 0}, r"got 128 and 0"),
        (
            {"outcomes": [outcome("gate", [-1] * 3)]},
            r"suite/attack was run on 3 images but the split",
        ),
        ({"outcomes": [outcome("gate", [-1, 0, 1, 2])]}, r"index into the 2 epsilons, got -1..2"),
        ({"outcomes": [outcome("gate", [-2, 0, 1, 1])]}, r"got -2..1"),
    ],
)
def test_inconsistent_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(bad.standard(), data(4), **changes)
