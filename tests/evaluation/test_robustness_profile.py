import pytest
import torch
from linear_oracle import exact, grey
from scripted import EPSILONS, STRENGTHS, AlwaysZero, Scripted, always_zero, numbered, run, scripted
from tiny import linear, same, split, weights, wide_resnet
from torch import nn

from equipoise.attacks.threat import L2, Linf
from equipoise.evaluation import EvaluationError, Suite, suites_for
from equipoise.evaluation.profile import NEVER
from equipoise.evaluation.verification import rescore


def test_an_image_broken_at_a_strength_stays_broken_above_it():
    found = run(always_zero(), numbered(), [scripted("a", {0.02: {3}, 0.1: {4}})])
    assert found.correct().tolist() == [
        [True] * 6,
        [True, True, True, False, True, True],
        [True, True, True, False, True, True],
        [True, True, True, False, False, True],
        [True, True, True, False, False, True],
    ]
    assert found.accuracy() == pytest.approx([1, 5 / 6, 5 / 6, 4 / 6, 4 / 6])
    assert found.broken_by() == [None, None, None, "a/a", "a/a", None]


class Unusual(AlwaysZero):
    """Returns ``value`` as every logit where the last pixel is above ``above``."""

    def __init__(self, value: float, above: float) -> None:
        super().__init__()
        self.value, self.above = value, above

    def forward(self, images):
        odd = images[:, 0, 7, 7, None] > self.above
        return torch.where(odd, self.value, super().forward(images))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_with_logits_that_are_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"NaN or infinity for 6 of 6 clean images.* find where"):
        run(Unusual(value, above=-1.0).eval(), numbered(), [scripted("a", {})])


def test_nan_under_attack_counts_as_misclassified():
    model = Unusual(torch.nan, above=0.01).eval()
    found = run(model, numbered(), [scripted("a", {0.1: {0, 1}})], epsilons=(0.1,))
    assert found.accuracy() == pytest.approx([1, 4 / 6])
    assert found.rescored.images == 2


def test_only_survivors_are_attacked_at_the_next_strength():
    first, second = [], []
    suites = [
        scripted("a", {0.02: {0}, 0.1: {1}}, first),
        scripted("b", {0.05: {2}}, second),
    ]
    found = run(always_zero(), numbered(wrong=1), suites, batch_size=100)
    # Image 5 is wrong without an attack; what one suite broke, the next one does not see.
    assert first == [
        (0.02, [0, 1, 2, 3, 4]),
        (0.05, [1, 2, 3, 4]),
        (0.1, [1, 2, 3, 4]),
        (0.2, [2, 3, 4]),
    ]
    assert second == [(0.02, [1, 2, 3, 4]), (0.05, [1, 2, 3, 4]), (0.1, [3, 4]), (0.2, [3, 4])]
    assert [outcome.images_attacked for outcome in found.outcomes] == [(5, 4, 4, 3), (4, 4, 2, 2)]
    assert [outcome.broken_at.tolist() for outcome in found.outcomes] == [
        [1, 3, -1, -1, -1, 0],
        [-1, -1, 2, -1, -1, 0],
    ]
    assert found.broken_by() == ["a/a", "a/a", "b/b", None, None, "clean"]
    assert found.broken_by("a") == ["a/a", "a/a", None, None, None, "clean"]


def test_an_independent_suite_attacks_every_image_and_counts_for_the_worst_case_only():
    first, second, third = [], [], []
    suites = [
        scripted("a", {0.1: {0}}, first),
        scripted("column", {0.1: {0, 1}}, second, independent=True),
        scripted("b", {0.1: {2}}, third),
    ]
    found = run(always_zero(), numbered(), suites, epsilons=(0.1, 0.2))
    # At the strongest strength, survivors first; then, for "alone", what weaker ones broke.
    assert second == [(0.1, [0, 1, 2, 3, 4, 5]), (0.2, [2, 3, 4, 5]), (0.2, [0, 1])]
    assert third == [(0.1, [1, 2, 3, 4, 5]), (0.2, [1, 3, 4, 5])]
    assert found.accuracy("column") == pytest.approx([1, 4 / 6, 4 / 6])
    assert found.accuracy("b") == pytest.approx([1, 4 / 6, 4 / 6])
    assert found.accuracy() == pytest.approx([1, 3 / 6, 3 / 6])
    assert found.broken_by() == ["a/a", "column/column", "b/b", None, None, None]


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_an_independent_attack_has_its_accuracy_at_the_strongest_strength_alone(order):
    """Image 1 breaks at 0.1 only and image 2 at 0.2 only; image 5 is wrong without an attack."""
    column = scripted("column", {0.1: {0, 1}, 0.2: {0, 2}}, independent=True)
    found = run(always_zero(), numbered(wrong=1), [column], epsilons=(0.1, 0.2), order=order)
    (outcome,) = found.outcomes
    assert outcome.alone == pytest.approx(3 / 6)
    if order == "ascending":
        assert found.accuracy() == pytest.approx([5 / 6, 3 / 6, 2 / 6])
        assert outcome.broken_at.tolist() == [1, 1, 2, -1, -1, 0]
        assert outcome.images_attacked == (5, 5)


def test_an_attack_that_sees_only_survivors_has_no_accuracy_of_its_own():
    found = run(always_zero(), numbered(), [scripted("a", {0.1: {0}})], epsilons=(0.1,))
    assert found.outcomes[0].alone is None


def test_passes_are_counted():
    found = run(always_zero(), numbered(), [scripted("a", {})], epsilons=(0.1,), batch_size=4)
    assert (found.outcomes[0].forward_passes, found.outcomes[0].backward_passes) == (12, 2)


def test_an_image_outside_its_threat_is_refused():
    class Cheating(Scripted):
        def run(self, model, images, labels, threat, generator, autocast=None):
            return super().run(
                model, images, labels, threat.with_epsilon(2 * threat.epsilon), generator
            )

    attack = Cheating(name="a", breaks={0.2: {3}}, calls=[])
    with pytest.raises(EvaluationError, match=r"version of image 3 is outside its threat of 0.1"):
        run(always_zero(), numbered(), [Suite(name="s", attacks=(attack,))], epsilons=(0.1,))


def test_a_model_that_depends_on_the_batch_is_refused_by_the_verification():
    class Batchwise(nn.Module):
        def forward(self, images):
            wrong = images[:, 0, 7, 7] > 0.01
            lit = (wrong & torch.tensor(len(images) > 4)).long()
            return nn.functional.one_hot(lit, 2) + 0 * images[:, 0, 0, :2]

    suites = [scripted("a", {0.1: {0, 1}})]
    with pytest.raises(
        EvaluationError, match="2 of 2 adversarial images were classified correctly"
    ):
        run(Batchwise().eval(), numbered(), suites, epsilons=(0.1,), batch_size=6)


@pytest.mark.slow
def test_every_adversarial_image_is_evaluated_again_in_batches_of_another_size(of_adaptive):
    found = of_adaptive[3]
    broken = [
        level for outcome in found.outcomes for level in outcome.broken_at.tolist() if level > 0
    ]
    assert found.rescored.images == len(broken) > 0
    assert found.rescored.batch_size != 256
    assert found.rescored.boundary == 0


@pytest.mark.slow
def test_searches_of_lower_precision_start_from_the_same_clean_accuracy(of_adaptive):
    model, data, suites, _ = of_adaptive
    found = run(model, data, suites[:1], epsilons=STRENGTHS, precision="bf16-mixed")
    assert found.accuracy()[0] == pytest.approx(22 / 24)
    assert found.rescored.boundary == 0


def test_a_later_suite_may_break_an_image_at_a_lower_strength_than_an_earlier_one():
    suites = [scripted("a", {0.2: {1}}), scripted("b", {0.02: {1}})]
    found = run(always_zero(), numbered(), suites)
    assert found.accuracy("a") == pytest.approx([1, 1, 1, 1, 5 / 6])
    assert found.accuracy("b") == found.accuracy()
    assert found.accuracy() == pytest.approx([1, 5 / 6, 5 / 6, 5 / 6, 5 / 6])


def test_later_attacks_of_a_suite_see_the_survivors_of_earlier_ones():
    calls = []
    suite = scripted("a", {0.02: {0, 1}}, calls)
    (second,) = scripted("b", {}, calls).attacks
    suite = Suite(name="both", attacks=(*suite.attacks, second))
    run(always_zero(), numbered(), [suite], epsilons=(0.02,))
    assert [rows for _, rows in calls] == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5]]


def test_strengths_are_sorted_and_zero_is_always_among_them():
    found = run(always_zero(), numbered(), [scripted("a", {})], epsilons=(0.2, 0.05, 0.2))
    assert found.epsilons == (0.0, 0.05, 0.2)


def test_a_model_whose_images_are_all_broken_has_a_whole_profile():
    found = run(always_zero(), numbered(), [scripted("a", {0.02: set(range(6))})])
    assert found.accuracy() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert run(always_zero(), numbered(wrong=6), [scripted("a", {})]).accuracy() == [0.0] * 5


@pytest.mark.parametrize("threat", [Linf, L2])
def test_attacks_without_a_correctly_classified_image_change_nothing(threat):
    suites = suites_for(always_zero(), ("quick",), classes=2, steps=2, restarts=2)
    assert run(always_zero(), numbered(wrong=6), suites, threat=threat).accuracy() == [0.0] * 5


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 256])
def test_a_linear_models_robust_accuracy_is_exact(batch_size):
    model, data = linear(2).eval(), grey()
    suites = suites_for(model, ("quick",), classes=2, steps=20, restarts=1)
    found = run(model, data, suites, batch_size=batch_size)
    shares = []
    for level, epsilon in enumerate(EPSILONS):
        left = exact(model, data, epsilon, float("inf"))
        clear = left.abs() > 1e-4
        assert torch.equal(found.correct()[level][clear], (left > 0)[clear])
        shares.append(float((left > 0).double().mean()))
    assert len(set(shares)) >= 3  # or the strengths would test nothing


@pytest.mark.slow
def test_a_linear_models_robust_accuracy_is_exact_under_l2_too():
    model, data = linear(2).eval(), grey()
    suites = suites_for(model, ("quick",), classes=2, steps=40, restarts=1)
    found = run(model, data, suites, threat=L2, epsilons=(0.05, 0.15))
    for level, epsilon in enumerate((0.0, 0.05, 0.15)):
        left = exact(model, data, epsilon, 2)
        clear = left.abs() > 5e-3
        assert int(clear.sum()) > 150
        assert torch.equal(found.correct()[level][clear], (left > 0)[clear])
    assert 0.05 < found.accuracy()[-1] < 0.95


@pytest.mark.slow
def test_the_profile_is_monotone_and_starts_at_the_clean_accuracy(of_adaptive):
    accuracy = of_adaptive[3].accuracy()
    assert accuracy[0] == pytest.approx(22 / 24)
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[-1] < accuracy[0]


@pytest.mark.slow
def test_the_first_suite_alone_equals_a_run_with_that_suite_only(of_adaptive):
    model, data, suites, found = of_adaptive
    alone = run(model, data, suites[:1], epsilons=STRENGTHS)
    assert alone.accuracy() == found.accuracy("quick")
    assert torch.equal(alone.broken_at(), found.broken_at("quick"))
    assert alone.broken_by() == found.broken_by("quick")


@pytest.mark.slow
def test_more_suites_never_give_a_higher_accuracy(of_adaptive):
    _, _, _, found = of_adaptive
    both, alone = found.accuracy(), found.accuracy("quick")
    assert all(a <= b for a, b in zip(both, alone, strict=True))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_profile(of_adaptive):
    model, data, suites, found = of_adaptive
    again = run(model, data, suites, epsilons=STRENGTHS)
    assert torch.equal(again.broken_at(), found.broken_at())
    assert again.broken_by() == found.broken_by()
    assert [t.images_attacked for t in again.outcomes] == [
        t.images_attacked for t in found.outcomes
    ]


def test_every_attack_at_every_strength_has_its_own_seed():
    def drawn(seed):
        seen = []

        class Noting(Scripted):
            def run(self, model, images, labels, threat, generator, autocast=None):
                seen.append(generator.initial_seed())
                return super().run(model, images, labels, threat, generator)

        attacks = tuple(Noting(name=name, breaks={}, calls=[]) for name in "abcd")
        suites = [Suite(name="s", attacks=attacks)]
        run(always_zero(), numbered(), suites, epsilons=(0.1, 0.2), seed=seed)
        return seen

    first = drawn(0)
    assert len(set(first)) == 8
    assert drawn(0) == first
    assert not set(drawn(1)) & set(first)


def test_the_model_is_left_as_it_was_found():
    model = wide_resnet().eval()
    model.norm.weight.requires_grad_(False)
    model.linear.train()
    before, modes = weights(model), [m.training for m in model.modules()]
    data = split(8)
    run(model, data, suites_for(model, ("quick",), classes=10, steps=2, restarts=1))
    assert same(weights(model), before)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None for p in model.parameters())


def test_a_model_in_train_mode_is_refused():
    with pytest.raises(ValueError, match=r"train mode.*call model.eval\(\) first"):
        run(wide_resnet().train(), split(4), [scripted("a", {})])


def test_a_model_of_another_class_count_is_refused():
    with pytest.raises(ValueError, match=r"logits of shape \(4, 10\), got \(4, 7\); the data has"):
        run(wide_resnet(classes=7).eval(), split(4), [scripted("a", {})])


def test_a_model_that_does_not_return_a_tensor_is_refused():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    with pytest.raises(ValueError, match="got tuple"):
        run(Pair().eval(), split(4), [scripted("a", {})])


def test_a_strength_above_one_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"For the papers' 8 write 8 ?/ ?255"):
        run(always_zero(), numbered(), [scripted("a", {})], epsilons=(8.0,))


def test_an_evaluation_without_suites_is_refused():
    with pytest.raises(
        ValueError, match=r"suites must hold at least one suite, got none.*Add quick"
    ):
        run(always_zero(), numbered(), [])


def test_progress_is_reported_as_a_share_from_0_to_1():
    seen = []
    run(
        always_zero(),
        numbered(),
        [scripted("a", {}), scripted("b", {})],
        report=lambda text, share: seen.append((text, share)),
    )
    assert seen[0] == ("a a 0.02", 0.0)
    assert len({text for text, _ in seen}) == 8
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] <= 1


@pytest.mark.slow
def test_the_interval_surrounds_the_accuracy(of_adaptive):
    found = of_adaptive[3]
    for (low, high), accuracy in zip(found.interval(), found.accuracy(), strict=True):
        assert low <= accuracy <= high
        assert high - low > 0.1  # 24 images give a wide interval


def test_never_broken_is_minus_one():
    found = run(always_zero(), numbered(), [scripted("a", {})])
    assert found.broken_at().tolist() == [NEVER] * 6


def test_the_given_function_builds_the_threat_of_each_strength():
    made = []

    def threat(epsilon):
        made.append(epsilon)
        return Linf(epsilon)

    run(always_zero(), numbered(), [scripted("a", {})], threat=threat, epsilons=(0.02, 0.1))
    assert set(made) == {0.02, 0.1}


def test_descending_order_attacks_only_images_that_were_broken_above():
    first, second = [], []
    suites = [
        scripted("a", {0.05: {0}, 0.1: {0, 1}, 0.2: {0, 1, 2}}, first),
        scripted("b", {0.02: {0, 1}, 0.05: {1}, 0.2: {3}}, second),
    ]
    found = run(always_zero(), numbered(wrong=1), suites, order="descending")
    # Image 4 is never broken, so it is attacked at the strongest strength alone.
    assert first == [
        (0.2, [0, 1, 2, 3, 4]),
        (0.1, [0, 1, 2]),
        (0.05, [0, 1]),
        (0.02, [0]),
    ]
    # Images 2 and 3 hold at 0.1, so they are not attacked below it.
    assert second == [(0.2, [3, 4]), (0.1, [2, 3]), (0.05, [1]), (0.02, [0, 1])]
    assert [outcome.images_attacked for outcome in found.outcomes] == [(1, 2, 3, 5), (2, 1, 2, 2)]
    assert found.broken_at().tolist() == [1, 1, 4, 4, -1, 0]
    assert found.broken_by() == ["b/b", "b/b", "a/a", "b/b", None, "clean"]
    assert found.order == "descending"


@pytest.mark.slow
def test_descending_order_is_exact_for_a_linear_model():
    model, data = linear(2).eval(), grey()
    suites = suites_for(model, ("quick",), classes=2, steps=20, restarts=1)
    up, down = (run(model, data, suites, order=order) for order in ("ascending", "descending"))
    assert torch.equal(up.broken_at(), down.broken_at())


@pytest.mark.parametrize("threat", [Linf, L2])
def test_an_image_of_nan_is_outside_every_threat(threat):
    data = split(4)
    found = [(1, 0.1, torch.full((1, 1, 8, 8), torch.nan))]
    with pytest.raises(EvaluationError, match="image 1 is outside its threat"):
        rescore(linear().eval(), data, threat, found, other_than=4)
