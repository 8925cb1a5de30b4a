"""Each check of a contract fails on something that was made to break it, and says why."""

import itertools
from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from torch import nn

from equipoise.attacks import PGD, losses
from equipoise.attacks import goals as goals_of
from equipoise.contracts import (
    ATTACK_CHECKS,
    MODEL_CHECKS,
    OBJECTIVE_CHECKS,
    READER_CHECKS,
    RECIPE_CHECKS,
    SEARCH_CHECKS,
    AttackCase,
    BrokenContract,
    ModelCase,
    RecipeCase,
    TwoLoads,
    run_checks,
    small_network,
)
from equipoise.data import Split
from equipoise.evaluation import AttackResult, SearchAttack
from equipoise.models import WideResNet
from equipoise.objectives import PGDAT

GOOD = PGD(steps=2, relative_step=0.5, keep="best")
COUNT = itertools.count()


def far(goal, clean, threat, generator):
    return (clean + 0.9).clamp(0, 1)


def visits_far(goal, clean, threat, generator):
    goal(clean + 0.9)
    return clean.clone()


def lowers(goal, clean, threat, generator):
    points = clean.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(goal(points).sum(), points)
    radius = torch.as_tensor(threat.epsilon).view(-1, 1, 1, 1)
    return threat.project(clean - radius * threat.ascent(gradient), clean).detach()


def moves_anyway(goal, clean, threat, generator):
    return (clean + 0.01).clamp(0, 1)


def unseeded(goal, clean, threat, generator):
    return threat.random_start(clean, torch.Generator().manual_seed(next(COUNT)))


def global_seed(goal, clean, threat, generator):
    torch.rand(1)
    return clean.clone()


def itself(goal, clean, threat, generator):
    return clean


def accumulates(goal, clean, threat, generator):
    points = clean.clone().requires_grad_(True)
    goal(points).sum().backward()
    return clean.clone()


def switches_modes(goal, clean, threat, generator):
    for network in (cell.cell_contents for cell in goal.__closure__):
        if isinstance(network, nn.Module):
            network[0].weight.data.add_(1)
    return clean.clone()


SEARCHES = {
    "stays_in_the_ball_and_in_0_to_1": (far, r"moved by 0.*; epsilon is 0"),
    "evaluates_the_goal_only_there": (visits_far, "outside"),
    "never_worse_than_clean": (lowers, "the goal of an image fell by 0"),
    "returns_the_clean_image_where_epsilon_is_0": (moves_anyway, r"moved by 0.01 under Linf"),
    "the_same_generator_gives_the_same_images": (unseeded, "same seed differ"),
    "does_not_use_the_global_generator": (global_seed, "global generator was used"),
    "returns_new_detached_images": (itself, "returned, not a copy"),
    "leaves_the_model_as_it_was": (switches_modes, "weights and buffers changed"),
    "gives_the_weights_no_gradient": (accumulates, "model's gradients changed"),
}


def attack(search=GOOD, **changes):
    return SearchAttack(**{"name": "bad", "search": search, "loss": "margin"} | changes)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Claims that every image is broken, or that none is; does something on the way."""

    broken: bool = True
    before: object = None
    name: str = "claims"
    kind: str = "white box"

    def run(self, model, images, labels, threat, generator, autocast=None):
        if self.before is not None:
            self.before(model, images)
        claims = torch.full(labels.shape, self.broken)
        return AttackResult(broken=claims, images=images, forward_passes=0, backward_passes=0)

    def describe(self):
        return {"name": self.name, "kind": self.kind}


class Restless(Claims):
    def describe(self):
        return super().describe() | {"number": next(COUNT)}


ATTACKS = {
    "stays_in_the_ball_and_in_0_to_1": (attack(far), r"an image moved by 0.*; epsilon is 0.1"),
    "breaks_only_what_is_misclassified": (Claims(), "6 images are called broken, but classified"),
    "never_worse_than_clean": (Claims(broken=False), "6 of 6 images that are wrong from the start"),
    "the_same_generator_gives_the_same_result": (attack(unseeded), "differ in images"),
    "does_not_use_the_global_generator": (attack(global_seed), "global generator was used"),
    "leaves_the_clean_images_alone": (
        Claims(before=lambda model, images: images.mul_(0.5)),
        "clean images were changed",
    ),
    "leaves_the_model_as_it_was": (
        Claims(before=lambda model, images: model.train()),
        "the model's train or eval mode changed",
    ),
    "describes_itself_in_json": (Restless(), "survive JSON|changes from call to call"),
    "can_be_sent_to_other_processes": (attack(lambda *given: given[1]), "pickle"),
}


class Bad(nn.Module):
    """An objective that is right except for what a subclass breaks."""

    attacks, start_noise, per_image_loss = True, None, True

    def goal(self, predict, clean, labels):
        return goals_of.cross_entropy(predict, labels)

    def losses(self, batch):
        logits = batch.predict_adversarial(batch.adversarial)
        return {"loss": self.change(losses.cross_entropy(logits, batch.labels), batch)}

    def change(self, loss, batch):
        return loss


def objective(**changes):
    return type("Changed", (Bad,), changes)()


def goal_of(change):
    def goal(self, predict, clean, labels):
        return change(predict, clean, goals_of.cross_entropy(predict, labels))

    return {"goal": goal}


def mixed(predict, clean, goal):
    return lambda images: goal(images) + goal(images).sum()


def asks(predict, clean, goal):
    predict(clean)
    return goal


def through_clean(self, batch):
    return {"loss": losses.cross_entropy(batch.predict_clean(batch.adversarial), batch.labels)}


def overflowing(self, loss, batch):
    return loss + batch.predict_adversarial(batch.adversarial).square().square().mean(dim=1)


def half(self, batch):
    logits = batch.predict_adversarial(batch.adversarial)
    return {"loss": logits.logsumexp(dim=1) - logits.gather(1, batch.labels[:, None])[:, 0]}


def of_the_class(self, loss, batch):
    scale = 1 if isinstance(batch.predict_adversarial, nn.Module) else 2
    return scale * loss


OBJECTIVES = {
    "it_has_the_parts_of_an_objective": (
        objective(with_companion=lambda self, other: self, make_companion=lambda self, make: None),
        "asks for a companion",
    ),
    "losses_are_one_finite_number_for_each_image": (
        objective(change=lambda self, loss, batch: loss * float("nan")),
        r"loss of 4 images and 10 classes is \[nan",
    ),
    "the_gradient_reaches_every_parameter": (
        objective(change=lambda self, loss, batch: loss.detach()),
        "detached from the network",
    ),
    "a_step_downhill_lowers_the_loss": (
        objective(change=lambda self, loss, batch: loss.detach() - (loss - loss.detach())),
        "the loss went from",
    ),
    "saturated_logits_give_finite_losses_and_gradients": (
        objective(change=overflowing),
        "with logits times 1e.15 the loss is not finite",
    ),
    "its_goal_is_one_number_for_each_image_from_that_image_only": (
        objective(**goal_of(mixed)),
        "depends on other images",
    ),
    "its_goal_predicts_nothing_before_the_search_runs": (
        objective(**goal_of(asks)),
        r"goal\(\) itself called the network",
    ),
    "the_same_generator_gives_the_same_losses": (
        objective(change=lambda self, loss, batch: loss + next(COUNT)),
        "same seed differ",
    ),
    "does_not_use_the_global_generator": (
        objective(change=lambda self, loss, batch: loss + torch.rand(1)),
        "global generator was used",
    ),
    "adversarial_images_matter_exactly_if_it_attacks": (
        objective(attacks=False),
        "attacks is False, but the loss depends",
    ),
    "clean_and_adversarial_images_go_through_their_own_function": (
        objective(losses=through_clean),
        "predict_adversarial got 0 batches",
    ),
    "a_partial_of_a_network_gives_the_same_losses": (
        objective(change=of_the_class),
        "the losses differ",
    ),
    "a_per_image_loss_does_not_depend_on_other_images": (
        objective(change=lambda self, loss, batch: loss.mean().expand_as(loss)),
        "other images change the loss",
    ),
    "its_start_noise_is_none_or_small": (objective(start_noise=0.1), "start_noise is 0.1"),
    "it_trains_under_bf16_autocast": (
        objective(losses=half),
        r"the loss is torch.bfloat16; compute it in float32",
    ),
}


class Model(nn.Module):
    """A network that is right except for what a function changes."""

    def __init__(self, change, frozen=False):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        self.network.requires_grad_(not frozen)
        self.register_buffer("calls", torch.zeros(()))
        self.change = change

    def forward(self, images):
        return self.change(self, self.network(images))


def remembers(model, logits):
    if not model.training:
        model.calls += 1
    return logits


class Shared(Model):
    def __deepcopy__(self, memo):
        return self


class Trained(WideResNet):
    """Saved like a WideResNet, from which one parameter less is trained."""

    def __init__(self):
        super().__init__(depth=10, width=1, classes=3)
        next(self.parameters()).requires_grad_(False)


def moved_in_train_mode(model, logits):
    model.calls += 1
    return logits


MODELS = {
    "gives_finite_logits_of_every_class": (Model(lambda m, x: x[:, :2]), r"shape \(6, 2\), not"),
    "in_eval_mode_an_image_does_not_depend_on_its_batch": (
        Model(lambda m, x: x - x.mean(dim=0)),
        "alone, an image's logits differ by",
    ),
    "in_eval_mode_a_call_does_not_change_the_model": (Model(remembers), "weights and buffers"),
    "the_gradient_reaches_every_image": (Model(lambda m, x: x.detach()), "have no gradient"),
    "trainable_parameters_get_a_gradient": (
        Model(lambda m, x: x, frozen=True),
        "no parameter that requires a gradient",
    ),
    "an_attack_does_not_change_the_model": (Model(moved_in_train_mode), "weights and buffers"),
    "saving_and_loading_give_identical_logits": (Trained(), "trains other parameters"),
    "a_copy_gives_the_same_logits_and_shares_no_tensors": (
        Shared(lambda m, x: x),
        "shares tensors",
    ),
}


def loads(**changes):
    whole = replace(tiny.digits(), **changes)
    return TwoLoads(whole, whole)


def part(name, change):
    split = getattr(tiny.digits(), name)
    return {name: change(split)}


def with_images(change):
    return lambda split: replace(split, images=change(split.images))


def in_another_order():
    whole = tiny.digits()
    return TwoLoads(whole, replace(whole, test=whole.test.take(torch.arange(23, -1, -1))))


READERS = {
    "both_parts_have_images": (
        loads(**part("train", Split.none)),
        "the training part has no images",
    ),
    "both_parts_have_the_same_shape_and_classes": (
        loads(**part("test", lambda split: replace(split, classes=12))),
        "the test part 12, and there are 10 class names",
    ),
    "class_names_can_stand_in_a_model_card": (loads(class_names=("a",) * 10), "two classes have"),
    "every_class_has_training_images": (
        loads(**part("train", lambda split: split.take(slice(0, 3)))),
        "no training images of 0, 2, 4, 6, 7",
    ),
    "pixels_use_the_range_0_to_255": (
        loads(**part("train", with_images(lambda images: images // 255))),
        "the largest pixel is 1; multiply",
    ),
    "a_second_load_gives_the_same_content": (in_another_order(), "labels of test differ"),
}

RECIPE = tiny.recipe("pgd_at_digits")


class Twice:
    def __init__(self, method):
        self.method = method

    def stages(self, make_network):
        return 2 * self.method.stages(make_network)


def recipes(**changes):
    return RecipeCase(lambda: replace(RECIPE, **changes), tiny.digits())


class Nothing(PGDAT):
    def losses(self, batch):
        return {"loss": 0 * super().losses(batch)["loss"]}


BAD_RECIPES = {
    "it_is_the_same_frozen_value_each_time": (
        RecipeCase(lambda: replace(RECIPE, seed=next(COUNT)), tiny.digits()),
        "two calls return recipes that differ",
    ),
    "its_name_can_name_a_folder": (recipes(name="../up"), "the name must be 1 to 100 letters"),
    "it_survives_json": (
        recipes(method=replace(RECIPE.method, objective=Nothing())),
        "JSON changes|Nothing",
    ),
    "its_stages_have_names_of_their_own_and_need_only_earlier_ones": (
        recipes(method=Twice(RECIPE.method)),
        "the name network is used twice",
    ),
    "a_step_of_every_stage_gives_gradients_to_what_it_trains": (
        recipes(method=replace(RECIPE.method, objective=Nothing())),
        "only 0 of .* parameters of network get a gradient",
    ),
}


def model_case(model):
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return ModelCase(model.eval(), images, torch.tensor([0, 1, 2, 0, 1, 2]), classes=3)


def attack_case(attack):
    return AttackCase(attack, small_network())


KINDS = {
    "search": (SEARCH_CHECKS, SEARCHES, lambda subject: subject),
    "attack": (ATTACK_CHECKS, ATTACKS, attack_case),
    "objective": (OBJECTIVE_CHECKS, OBJECTIVES, lambda subject: subject),
    "model": (MODEL_CHECKS, MODELS, model_case),
    "reader": (READER_CHECKS, READERS, lambda subject: subject),
    "recipe": (RECIPE_CHECKS, BAD_RECIPES, lambda subject: subject),
}
CASES = {
    f"{kind}: {check.__name__}": (check, case, bad.get(check.__name__))
    for kind, (checks, bad, case) in KINDS.items()
    for check in checks
}


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(("check", "case", "bad"), CASES.values(), ids=CASES)
def test_a_check_fails_on_what_breaks_it_and_says_why(check, case, bad):
    subject, reason = bad
    (outcome,) = run_checks([check], case(subject))
    assert outcome.reason is not None
    with pytest.raises(BrokenContract, match=reason):
        raise BrokenContract(outcome.reason)
