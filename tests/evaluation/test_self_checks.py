"""Every check has a model that must set it off; honest models must set off none."""

import json
from dataclasses import asdict, replace

import bad_models as bad
import pytest
import torch
from tiny import digits, same, split, weights, wide_resnet
from torch import nn

from equipoise.attacks.losses import cross_entropy
from equipoise.attacks.threat import L2, Linf
from equipoise.data import Split
from equipoise.evaluation import self_checks as module
from equipoise.evaluation.robustness_profile import AttackOutcome
from equipoise.evaluation.self_check_attacks import Finding, graded, scale_free_cross_entropy
from equipoise.evaluation.self_checks import check_range, self_checks
from equipoise.models import fuse_branches, with_branches

IMAGES = 128


def data(count: int = IMAGES) -> Split:
    return digits(test=count).test


def tried(kind, broken_at, name="attack") -> AttackOutcome:
    """What an attack did, by image."""
    return AttackOutcome(
        suite="suite",
        name=name,
        kind=kind,
        broken_at=torch.as_tensor(broken_at),
        images_attacked=(),
        forward_passes=0,
        backward_passes=0,
        seconds=0.0,
        settings={},
    )


def run(model, on=None, **changes) -> dict[str, Finding]:
    settings = {"threat": Linf, "epsilons": (0.0, bad.EPSILON), "tried": (), "seed": 0}
    found = self_checks(model, on or data(), **(settings | changes))
    return {finding.name: finding for finding in found}


def amiss(found: dict[str, Finding]) -> dict[str, str]:
    return {name: one.verdict for name, one in found.items() if one.verdict != "pass"}


@pytest.fixture
def only(monkeypatch):
    """Run one check alone."""

    def choose(name: str) -> None:
        for table in ("LOOKS", "ATTACKS"):
            kept = {key: check for key, check in getattr(module, table).items() if key == name}
            monkeypatch.setattr(module, table, kept)

    return choose


HONEST = {
    "standard": (lambda: bad.standard(), Linf, 0.1),
    "standard, all broken": (lambda: bad.standard(), Linf, 0.2),
    "robust": (lambda: bad.robust(), Linf, 0.2),
    "robust, L2": (lambda: bad.robust(), L2, 0.5),
    "robust, L2, most broken": (lambda: bad.robust(), L2, 1.0),
    "another robust one": (lambda: bad.robust(1), Linf, 0.2),
    "a stack of both": (bad.stack, Linf, 0.2),
}


@pytest.mark.parametrize(("make", "threat", "epsilon"), HONEST.values(), ids=HONEST)
def test_an_honest_model_sets_off_nothing(make, threat, epsilon):
    found = run(make(), threat=threat, epsilons=(0.0, epsilon))
    assert amiss(found) == {}
    assert set(found) == {*module.LOOKS, *module.ATTACKS} - {"gate", "missed"}


def test_an_honest_model_sets_off_nothing_with_other_random_numbers():
    assert amiss(run(bad.robust(1), seed=1)) == {}


DISHONEST = {
    "noise": (lambda: bad.Noisy(bad.robust()), {"randomised"}),
    "noise on attacked images": (lambda: bad.NoisyWhenAttacked(bad.robust()), {"randomised"}),
    "batch statistics": (lambda: bad.OnBatchStatistics(bad.robust()), {"batch-dependent"}),
    "place in the batch": (lambda: bad.ByPlace(bad.robust()), {"batch-dependent"}),
    "softmax": (lambda: bad.Probabilities(bad.robust()), {"probabilities"}),
    "softmax of a standard network": (
        lambda: bad.Probabilities(bad.standard()),
        {"probabilities"},
    ),
    "NaN": (lambda: bad.NotNumbers(bad.robust()), {"probabilities"}),
    "logits times 100": (
        lambda: bad.Times(bad.robust(), 100.0),
        {"gradients", "logit scale", "goals disagree"},
    ),
    "quantised images": (
        lambda: bad.Quantised(bad.robust()),
        {"gradients", "black box", "huge epsilon"},
    ),
    "no gradient at all": (lambda: bad.Detached(bad.robust()), {"gradients"}),
    "rippled images": (lambda: bad.Rippled(bad.robust()), {"one step"}),
    "gradient turned round": (
        lambda: bad.Reversed(bad.robust()),
        {"one step", "black box", "huge epsilon"},
    ),
    "slow gradient": (lambda: bad.Slow(bad.robust()), {"more steps"}),
    "flattened cross-entropy": (lambda: bad.flattened(), {"goals disagree"}),
}


@pytest.mark.parametrize(("make", "failing"), DISHONEST.values(), ids=DISHONEST)
def test_a_dishonest_model_fails_the_checks_made_for_it(make, failing):
    torch.manual_seed(0)  # of the random models, which draw as they please
    found = amiss(run(make()))
    assert {name for name, verdict in found.items() if verdict == "fail"} == failing
    # What warns besides is a consequence; more than two would be a check that cannot tell.
    assert len(found) - len(failing) <= 2


def test_every_check_is_set_off_by_some_model_of_these_tests():
    caught = set().union(*(failing for _, failing in DISHONEST.values()))
    assert {*module.LOOKS, *module.ATTACKS} - caught == {"mode", "range", "gate", "missed"}


@pytest.mark.parametrize("factor", [1e-2, 10.0])
def test_logits_of_a_somewhat_odd_scale_do_not_fail(factor):
    found = run(bad.Times(bad.robust(), factor))
    assert found["logit scale"].verdict == ("warn" if factor < 1 else "pass")


def test_the_logits_scale_is_measured(only):
    only("logit scale")
    plain = run(bad.robust())["logit scale"].numbers["logit_deviation"]
    scaled = run(bad.Times(bad.robust(), 100.0))["logit scale"].numbers["logit_deviation"]
    assert scaled == pytest.approx(100 * plain, rel=1e-4)


def test_the_scale_free_loss_takes_out_the_scale_and_keeps_the_ascent_direction():
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


def with_dropout_awake() -> nn.Module:
    model = nn.Sequential(bad.network(), nn.Dropout(0.5)).eval()
    model[1].train()
    return model


def with_a_norm_awake() -> nn.Module:
    model = wide_resnet().eval()
    model.norm.train()
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (in_train_mode, "the model itself."),
        (with_dropout_awake, "1 modules are in train mode: 1."),
        (with_a_norm_awake, "1 modules are in train mode: norm."),
        (lambda: bad.Around(bad.network()).train(), "the model itself."),
    ],
)
def test_a_model_in_train_mode_fails_and_the_modules_are_named(only, make, named):
    only("mode")
    model = make()
    found = run(model)["mode"]
    assert found.verdict == "fail"
    assert named in found.found
    assert "model.eval()" in found.meaning


def test_a_module_that_does_the_same_in_both_modes_may_be_in_either(only):
    only("mode")
    model = wide_resnet().eval()
    model.linear.train()
    assert amiss(run(model)) == {}


def test_a_strangers_module_in_train_mode_counts(only):
    only("mode")
    model = nn.Sequential(bad.Around(bad.network())).eval()
    model[0].training = True
    assert run(model)["mode"].numbers == {"modules_in_train_mode": 1}


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


def test_images_that_were_divided_by_255_twice_are_noticed(only):
    only("range")
    dark = replace(data(), images=data().images // 255)
    assert run(bad.standard(), dark)["range"].verdict == "fail"


# Attacks of the evaluation

NEVER_BROKEN = [-1] * IMAGES


def broken(rows, level: int = 1) -> list[int]:
    return [level if row in rows else -1 for row in range(IMAGES)]


def by_noise_only() -> list[int]:
    """Images that Square is said to have broken in a model which gradients do not break."""
    right = bad.Quantised(bad.robust())(data().batch(slice(None))[0]).argmax(1) == data().labels
    return right.nonzero().flatten().tolist()[:30]


def test_what_black_box_attacks_alone_break_fails(only):
    only("black box")
    outcomes = [tried("white box", NEVER_BROKEN), tried("black box", broken(by_noise_only()))]
    alone = run(bad.Quantised(bad.robust()))["black box"]
    found = run(bad.Quantised(bad.robust()), tried=outcomes)["black box"]
    assert found.verdict == "fail"
    assert found.numbers["share"] > alone.numbers["share"] + 0.1
    assert found.numbers["noise"] == alone.numbers["noise"]


def test_what_a_black_box_attack_broke_first_is_no_sign_if_gradients_break_it_too(only):
    """Survivors alone are attacked on, so ``tried`` cannot tell; the check attacks again."""
    only("black box")
    images, labels = data().batch(slice(None))
    found = (bad.robust()(bad.attacked(bad.robust(), images, labels)).argmax(1) != labels).nonzero()
    assert len(found) > 30
    square = tried("black box", broken(found.flatten().tolist()))
    assert run(bad.robust(), tried=[square])["black box"].verdict == "pass"


@pytest.mark.parametrize(
    ("kind", "level", "ahead"),
    [("white box", 1, False), ("white box", 2, True), ("gate", 1, True)],
)
def test_a_black_box_attack_is_ahead_where_white_box_ones_need_more_strength(
    only, kind, level, ahead
):
    only("black box")
    rows = by_noise_only()
    outcomes = [tried("transfer", broken(rows, 1)), tried(kind, broken(rows, level))]
    model = bad.Quantised(bad.robust())
    found = run(model, tried=outcomes, epsilons=(0.0, 0.05, bad.EPSILON))["black box"]
    assert (found.numbers["share"] > 0.2) == ahead


def test_only_images_that_are_looked_at_count_for_the_black_box(only):
    only("black box")
    always_right = replace(data(), labels=torch.zeros(IMAGES).long())
    square = tried("black box", [-1] * 8 + [1] * (IMAGES - 8))
    for images, share in ((8, 0.0), (16, 0.5)):
        found = run(bad.Constant(), always_right, tried=[square], images=images)["black box"]
        assert found.numbers["share"] == share


def test_images_that_the_evaluation_counts_as_right_but_are_not_are_reported():
    found = run(bad.robust(), tried=[tried("white box", NEVER_BROKEN)])
    assert amiss(found) == {"missed": "warn"}
    assert found["missed"].numbers["share"] > 0.2
    assert "at 0.2 the score is too high" in found["missed"].meaning


def test_an_evaluation_that_broke_as_much_has_missed_nothing():
    thorough = [tried("white box", NEVER_BROKEN), tried("white box", [1] * IMAGES)]
    assert run(bad.robust(), tried=thorough)["missed"].verdict == "pass"


@pytest.fixture(scope="module")
def adaptive() -> nn.Module:
    return fuse_branches(with_branches(wide_resnet(), 2), placement="input").eval()


@pytest.mark.parametrize(
    ("count", "verdict"), [(0, "pass"), (1, "pass"), (5, "pass"), (12, "warn"), (30, "fail")]
)
@pytest.mark.parametrize("kind", ["gate", "transfer"])
def test_the_gate_decides_where_only_attacks_on_it_break_images(
    only, adaptive, kind, count, verdict
):
    only("gate")
    elsewhere = broken(range(64, IMAGES))
    outcomes = [
        tried("white box", elsewhere),
        tried("black box", elsewhere),
        tried(kind, broken({*range(count), *range(64, IMAGES)})),
    ]
    found = run(adaptive, tried=outcomes, images=4)["gate"]
    assert found.verdict == verdict
    assert found.numbers == {"share": pytest.approx(count / IMAGES), "attacks": 1}
    if verdict != "pass":
        assert "the gate decides" in found.meaning


def test_a_gate_that_nothing_attacked_is_a_warning(only, adaptive):
    only("gate")
    found = run(adaptive, tried=[tried("white box", NEVER_BROKEN)])["gate"]
    assert (found.verdict, found.found) == ("warn", "no attack on the weight generator was tried.")


def test_a_model_without_a_gate_has_no_finding_about_one(only):
    only("gate")
    assert run(bad.robust(), tried=[tried("gate", [1] * IMAGES)]) == {}


# What does not apply, what raises, what is left behind


def test_a_check_in_which_the_model_raises_fails_with_the_errors_text():
    found = run(bad.Raising(bad.robust()))
    assert found["more steps"].verdict == "fail"
    assert found["more steps"].found == "the model raised RuntimeError: these are no digits"
    assert found["gradients"].verdict == "pass"


def test_a_model_that_returns_no_tensor_is_a_finding_and_no_crash():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    found = run(Pair().eval())
    assert set(amiss(found)) >= {"randomised", "probabilities", "gradients", "more steps"}


def test_a_model_without_gradients_is_told_once():
    found = run(bad.Detached(bad.robust()))
    assert amiss(found) == {"gradients": "fail"}
    assert not set(found) & set(module.ATTACKS)


def test_a_model_that_is_always_wrong_is_not_attacked():
    wrong = replace(data(), labels=torch.ones_like(data().labels))
    assert not set(run(bad.Constant(), wrong)) & {"gradients", *module.ATTACKS}


def test_an_evaluation_without_a_strength_attacks_nothing():
    assert not set(run(bad.robust(), epsilons=(0.0,))) & set(module.ATTACKS)


def test_one_image_is_enough():
    assert "batch-dependent" not in run(bad.robust(), data(1))


def test_a_geometry_of_somebody_elses_has_no_huge_epsilon():
    class Box:
        def __init__(self, epsilon):
            self.inner, self.epsilon = Linf(epsilon), epsilon

        def at(self, epsilon):
            return Box(epsilon)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    class Somebodys(Box):
        project = lambda self, *args: self.inner.project(*args)  # noqa: E731
        random_start = lambda self, *args: self.inner.random_start(*args)  # noqa: E731
        ascent = lambda self, *args: self.inner.ascent(*args)  # noqa: E731

        def at(self, epsilon):
            return Somebodys(epsilon)

    found = run(bad.robust(), threat=Somebodys)
    assert amiss(found) == {}
    assert "huge epsilon" not in found


def test_the_same_seed_gives_the_same_findings():
    first = run(bad.robust(), seed=3)
    assert run(bad.robust(), seed=3) == first
    assert run(bad.robust(), seed=4) != first


def test_the_batch_size_does_not_matter_to_an_honest_model():
    assert amiss(run(bad.robust(), batch_size=50)) == {}


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    run(bad.robust(), data(8))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_is_left_as_it_was_found():
    model = with_a_norm_awake()
    model.linear.weight.requires_grad_(False)
    before, modes = weights(model), [m.training for m in model.modules()]
    run(model, split(6))
    assert same(weights(model), before)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None for p in model.parameters())


def test_the_worst_case_costs_about_450_passes_over_the_images():
    model = bad.Constant()
    always_right = replace(data(8), labels=torch.zeros(8).long())
    square = tried("black box", [1] * 8)
    found = run(model, always_right, tried=[square])
    assert found["more steps"].verdict == "pass"  # nothing breaks, so every step is taken
    assert 400 * 8 < model.seen <= 500 * 8


def test_only_the_first_images_are_looked_at():
    model = bad.Constant()
    run(model, replace(data(), labels=torch.zeros(IMAGES).long()), images=2)
    assert model.seen <= 500 * 2


def test_findings_go_into_a_record_as_they_are():
    for model in (bad.NotNumbers(bad.robust()), bad.robust()):
        for finding in run(model, data(16)).values():
            assert json.loads(json.dumps(asdict(finding), allow_nan=False))["name"] == finding.name


def test_found_and_meaning_are_sentences():
    for model in (bad.Quantised(bad.robust()), bad.robust()):
        for finding in run(model, data(16)).values():
            assert finding.found.endswith(".")
            assert finding.meaning.endswith(".")


def test_progress_is_reported_between_nothing_and_all():
    seen = []
    run(bad.standard(), data(4), report=lambda text, share: seen.append((text, share)))
    assert [text for text, _ in seen] == [
        f"self-check: {name}" for name in (*module.LOOKS, *module.ATTACKS)
    ]
    shares = [share for _, share in seen]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1


@pytest.mark.parametrize(
    ("hits", "count", "verdict"),
    [
        (0, 128, "pass"),
        (1, 2, "pass"),  # one image may be chance at any count
        (3, 128, "pass"),  # 2.3 %, but not beyond the noise of 128 images
        (6, 128, "warn"),
        (300, 10_000, "warn"),
        (1000, 10_000, "fail"),
        (128, 128, "fail"),
    ],
)
def test_a_verdict_allows_for_the_noise_of_few_images(hits, count, verdict):
    assert graded(hits, count, warn=0.02, fail=0.08) == verdict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilons": ()}, r"epsilons must ascend from 0, got \(\)"),
        ({"epsilons": (0.1, 0.2)}, r"epsilons must ascend from 0, got \(0.1, 0.2\)"),
        ({"epsilons": (0.0, 0.2, 0.1)}, r"epsilons must ascend from 0"),
        ({"epsilons": (0.0, 8.0)}, r"For the papers' 8 write 8 ?/ ?255"),
        ({"images": 0}, r"images and batch_size must be 1 or more, got 0 and 256"),
        ({"batch_size": 0}, r"got 128 and 0"),
        ({"tried": [tried("gate", [-1] * 3)]}, r"suite/attack was tried on 3 images but the split"),
        ({"tried": [tried("gate", [-1, 0, 1, 2])]}, r"index into the 2 epsilons, got -1..2"),
        ({"tried": [tried("gate", [-2, 0, 1, 1])]}, r"got -2..1"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(bad.standard(), data(4), **changes)
