from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import (
    ATTACK,
    SCHEDULE,
    fit_stage,
    images_and_labels,
    linear,
    weights,
    wide_resnet,
)

from equipoise.attacks import losses
from equipoise.methods import AFS
from equipoise.methods.afs import MergerTask
from equipoise.models import FeatureExtractor, FeatureStack, WideResNet, save
from equipoise.objectives import AVM, FAT, IAT, LBGAT, MART, PGDAT, TLA, TRADES


def method(**settings) -> AFS:
    defaults = {
        "objective": PGDAT(),
        "budgets": (2 / 255, 0.1),
        "attack": ATTACK,
        "schedule": SCHEDULE,
        "merger_schedule": SCHEDULE,
        "merger_epsilon": 0.2,
    }
    return AFS(**(defaults | settings))


def make_task(classes: int = 10, **settings) -> MergerTask:
    members = [wide_resnet(classes, seed=1), wide_resnet(classes, seed=2)]
    torch.manual_seed(3)
    return MergerTask(FeatureStack(members, classes), method(**settings))


def step(task: MergerTask, count: int = 8) -> dict[str, torch.Tensor]:
    images, labels = images_and_labels(count)
    return task(images, labels, torch.Generator().manual_seed(0), 0.0)


def test_the_plan_is_one_extractor_for_each_budget_then_the_merger():
    stages = method().stages(wide_resnet)
    assert [s.name for s in stages] == ["extractor0_2_255", "extractor1_0.1", "merger"]
    assert [s.validation for s in stages] == [(2 / 255,), (0.1,), (0.0, 0.2)]
    assert [s.needs for s in stages] == [(), (), ("extractor0_2_255", "extractor1_0.1")]
    members = {s.name: s.build({}).outcome() for s in stages[:2]}
    stack = stages[2].build(members).outcome()
    assert stack.sizes() == [64, 64]


def test_each_extractor_is_attacked_at_its_own_budget():
    stages = method().stages(wide_resnet)
    assert [stage.build({}).epsilon for stage in stages[:2]] == [2 / 255, 0.1]


@pytest.mark.parametrize(
    "objective",
    [PGDAT(), TRADES(), IAT(), MART(), FAT(over=MART(), tau=1), TLA(), LBGAT(), AVM()],
    ids=repr,
)
def test_extractors_train_with_every_objective(objective):
    stages = method(objective=objective).stages(wide_resnet)
    built = {}
    for stage in stages[:2]:
        extractor = stage.build({}).train()
        loss = step(extractor)["loss"]
        loss.backward()
        assert bool(loss.isfinite())
        assert all(bool(p.grad.any()) for p in extractor.network.parameters() if p.ndim > 1)
        built[stage.name] = extractor.outcome()
    merger = stages[2].build(built)
    assert bool(step(merger)["loss"].isfinite())


def test_the_mergers_attack_goes_through_the_whole_stack(attacks):
    merger = make_task(alpha=0.0)
    images, labels = images_and_labels()
    loss = step(merger)["loss"]
    (attack,) = attacks
    assert attack["epsilon"] == 0.2
    assert attack["module"] is merger.stack
    expected = losses.cross_entropy(merger.stack(images), labels)
    assert torch.equal(attack["goal"](images), expected)
    distance = (attack["adversarial"] - attack["clean"]).abs().amax(dim=(1, 2, 3))
    assert torch.allclose(distance, torch.full((8,), 0.2), atol=1e-6)
    whole = losses.cross_entropy(merger.stack(attack["adversarial"]), labels).mean()
    assert torch.allclose(loss, whole)


def test_the_mergers_attack_gets_gradients_through_every_member(attacks):
    merger = make_task(alpha=0.0)
    step(merger)
    images, labels = images_and_labels()
    given = images.requires_grad_()
    (gradient,) = torch.autograd.grad(attacks[0]["goal"](given).sum(), given)

    def through(members):
        """The gradient that reaches the images through these members alone."""
        parts = [merger.stack.members[n](given) for n in (0, 1)]
        parts = [part if n in members else part.detach() for n, part in enumerate(parts)]
        logits = merger.stack.merger(torch.cat(parts, dim=1))
        return torch.autograd.grad(losses.cross_entropy(logits, labels).sum(), given)[0]

    assert torch.allclose(gradient, through({0, 1}), atol=1e-6)
    for alone in ({0}, {1}):
        assert float((gradient - through(alone)).abs().max()) > 1e-3


def test_alpha_weighs_the_clean_term_against_the_adversarial_one():
    terms = step(make_task(alpha=0.3))
    expected = 0.3 * terms["loss_clean"] + 0.7 * terms["loss_adversarial"]
    assert torch.allclose(terms["loss"], expected)
    images, labels = images_and_labels()
    clean = losses.cross_entropy(make_task().stack(images), labels).mean()
    assert torch.allclose(terms["loss_clean"], clean)
    assert terms["loss_adversarial"].item() > clean.item()


def test_with_alpha_one_there_is_no_attack_and_only_the_clean_term(attacks):
    terms = step(make_task(alpha=1.0))
    assert attacks == []
    assert torch.equal(terms["loss"], terms["loss_clean"])
    assert terms["loss_adversarial"].item() == 0


def test_with_alpha_zero_there_is_only_the_adversarial_term():
    terms = step(make_task(alpha=0.0))
    assert torch.equal(terms["loss"], terms["loss_adversarial"])
    assert terms["loss_clean"].item() == 0


def test_a_split_batch_gives_each_image_one_of_the_two_terms(attacks):
    merger = make_task(alpha=0.25, split_batch=True)
    terms = step(merger)
    images, labels = images_and_labels()
    assert torch.equal(attacks[0]["clean"], images[2:])
    clean = losses.cross_entropy(merger.stack(images[:2]), labels[:2]).mean()
    adversarial = losses.cross_entropy(merger.stack(attacks[0]["adversarial"]), labels[2:]).mean()
    assert torch.allclose(terms["loss"], 0.25 * clean + 0.75 * adversarial)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_loss_of_a_split_batch_is_one_mean_over_its_images(alpha, count):
    merger = make_task(alpha=alpha, split_batch=True)
    images, labels = images_and_labels(count)
    with torch.no_grad():
        terms = step(merger, count=count)
    natural = int(count * alpha)
    by_term = natural * terms["loss_clean"] + (count - natural) * terms["loss_adversarial"]
    assert torch.allclose(terms["loss"], by_term / count)
    clean = losses.cross_entropy(merger.stack(images[:natural]), labels[:natural]).sum()
    assert torch.allclose(natural * terms["loss_clean"], clean)


@pytest.mark.parametrize("alpha", [0.1, 0.9])
def test_a_split_batch_too_small_for_one_of_the_terms_still_has_a_loss(alpha):
    assert bool(step(make_task(alpha=alpha, split_batch=True), count=1)["loss"].isfinite())
    assert bool(step(make_task(alpha=alpha, split_batch=True), count=2)["loss"].isfinite())


def test_training_changes_the_merger_and_leaves_the_extractors_bit_identical(tmp_path):
    merger = make_task(classes=2)
    before = weights(merger)
    stage = method().stages(partial(wide_resnet, 2))[-1]
    fit_stage(replace(stage, keep="last"), merger, tmp_path)
    after = weights(merger)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"stack.merger.weight", "stack.merger.bias"}


def test_only_the_merger_gets_gradients():
    merger = make_task().train()
    step(merger)["loss"].backward()
    with_gradient = {name for name, p in merger.named_parameters() if p.grad is not None}
    assert with_gradient == {"stack.merger.weight", "stack.merger.bias"}


def test_members_of_different_sizes_are_stacked():
    def make_two():
        sizes = iter([wide_resnet, linear])
        return lambda: next(sizes)()

    stages = method().stages(make_two())
    members = {s.name: s.build({}).outcome() for s in stages[:2]}
    assert stages[2].build(members).outcome().sizes() == [64, 64]


@pytest.mark.parametrize("alpha", [2.0, -0.1, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got"):
        method(alpha=alpha)


def test_an_unknown_merger_is_refused():
    changed = method()
    object.__setattr__(changed, "merger", "mean")  # bypasses the type checker
    with pytest.raises(ValueError, match="merger must be trained or average, got 'mean'"):
        changed.__post_init__()


def test_the_same_folder_spelled_differently_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"extractors must differ, but .* is named twice"):
        method(extractors=(f"{tmp_path}/a", f"{tmp_path}/b/../a/"))


def test_no_budgets_are_refused():
    with pytest.raises(ValueError, match="budgets must name at least one strength"):
        method(budgets=())


def test_saved_models_are_stacked_without_training_any(tmp_path):
    networks = [
        WideResNet(depth=10, width=width, classes=10, channels=1).eval() for width in (1, 2)
    ]
    for number, network in enumerate(networks):
        save(network, tmp_path / f"{number}")
    saved = method(extractors=(str(tmp_path / "0"), str(tmp_path / "1")))
    (merger,) = saved.stages(lambda: pytest.fail("a network was made"))
    stack = merger.build({}).outcome()
    assert stack.sizes() == [64, 128]
    images = torch.rand(2, 1, 8, 8)
    expected = [FeatureExtractor(network)(images) for network in networks]
    assert torch.equal(stack.features(images), torch.cat(expected, dim=1))


def test_a_mask_leaves_out_extractors_and_does_not_change_the_others():
    stages = method(budgets=(0.0, 0.1, 0.2), mask="101").stages(wide_resnet)
    assert [s.name for s in stages] == ["extractor0_0", "extractor2_0.2", "merger"]
    assert [s.build({}).epsilon for s in stages[:2]] == [0.0, 0.2]
    members = {s.name: s.build({}).outcome() for s in stages[:2]}
    assert stages[2].build(members).outcome().sizes() == [64, 64]


def test_a_mask_chooses_among_saved_models(tmp_path):
    networks = [wide_resnet(seed=1), wide_resnet(seed=2)]
    folders = tuple(str(tmp_path / str(number)) for number in range(2))
    for network, folder in zip(networks, folders, strict=True):
        save(network, folder)
    (merger,) = method(extractors=folders, mask="01").stages(wide_resnet)
    (member,) = merger.build({}).outcome().members
    torch.testing.assert_close(weights(member.network), weights(networks[1]))


@pytest.mark.parametrize("mask", ["1", "00", "1x", "111"])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match=f"each of the 2 extractors.*got '{mask}'"):
        method(mask=mask)


def test_an_average_has_nothing_to_train():
    *extractors, merger = method(merger="average").stages(wide_resnet)
    members = {s.name: s.build({}).outcome().eval() for s in extractors}
    assert not merger.trains
    images, _ = images_and_labels()
    expected = sum(network(images) for network in members.values()) / 2
    torch.testing.assert_close(merger.build(members).outcome()(images), expected)
