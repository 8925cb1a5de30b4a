import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import (
    ATTACK,
    LOOP,
    SCHEDULE,
    digits,
    drawn_norms,
    fit_stage,
    images_and_labels,
    learnable,
    replace_attacks,
    same,
    weights,
    wide_resnet,
)
from torch import nn

from equipoise.attacks import losses
from equipoise.methods import OAT
from equipoise.methods.oat import ConditionalTask
from equipoise.models import ConditionalNetwork
from equipoise.models.film import FiLM
from equipoise.objectives import FAT, IAT, LBGAT, MART, PGDAT, TRADES, Standard
from equipoise.recipes import from_json, to_json

EPSILON = 0.1


def method(**settings) -> OAT:
    return OAT(**({"epsilon": EPSILON, "attack": ATTACK, "schedule": SCHEDULE} | settings))


def make_task(classes: int = 10, **settings) -> ConditionalTask:
    """A task whose norms and FiLM layers differ from each other."""
    (stage,) = method(**settings).stages(partial(wide_resnet, classes))
    torch.manual_seed(2)
    conditional = drawn_norms(stage.build({}), torch.Generator().manual_seed(1))
    for module in conditional.modules():
        if isinstance(module, FiLM):
            nn.init.ones_(module.linears[-1].bias)
    return conditional


def step(task: nn.Module, count: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    images, labels = images_and_labels(count)
    return task(images, labels, torch.Generator().manual_seed(seed), 0.0)


def fixed(monkeypatch, preference: list[float]) -> torch.Tensor:
    """Make every batch draw these preferences."""
    drawn = torch.tensor(preference)
    monkeypatch.setattr(OAT, "draw", lambda self, images, generator: drawn)
    return drawn


def norms(task: nn.Module, branch: int) -> list[nn.BatchNorm2d]:
    return [module for name, module in task.named_modules() if name.endswith(f"norms.{branch}")]


def calls(task: nn.Module, branch: int) -> set[int]:
    """How often each norm of a branch has updated its statistics."""
    return {int(norm.num_batches_tracked) for norm in norms(task, branch)}


def test_the_plan_is_one_stage_validated_clean_and_attacked():
    (stage,) = method(encoding="none").stages(wide_resnet)
    assert (stage.name, stage.validation, stage.needs) == ("conditional", (0.0, EPSILON), ())
    network = stage.build({}).outcome()
    assert isinstance(network, ConditionalNetwork)
    assert network.preferences == (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    assert (network.encoding, network.default) == ("none", 1.0)


def test_validation_uses_preference_zero_for_clean_and_one_for_attacked_images():
    task = make_task().eval()
    images, _ = images_and_labels()
    assert torch.equal(task.predictor(0.0)(images), task.network(images, preference=0.0))
    assert torch.equal(task.predictor(EPSILON)(images), task.network(images, preference=1.0))


@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 128])
def test_a_fixed_share_of_a_batch_has_preference_zero(count):
    for seed in range(5):
        drawn = method().draw(count, torch.Generator().manual_seed(seed))
        assert drawn.shape == (count,)
        assert int((drawn == 0).sum()) == -(-count // 6)  # rounded up: 22 of 128 in the original


def test_preferences_are_drawn_uniformly_at_random_positions():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([method().draw(12, generator) for _ in range(600)])
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 1.0])
    assert counts.tolist() == pytest.approx([1200] * 6, rel=0.1)
    by_place = (drawn == 0).float().mean(dim=0)
    assert by_place.tolist() == pytest.approx([1 / 6] * 12, rel=0.35)


def test_without_zero_among_the_preferences_none_is_drawn():
    task = method(preferences=(0.5, 1.0), zero_share=0.0)
    drawn = task.draw(50, torch.Generator().manual_seed(0))
    assert drawn.unique().tolist() == [0.5, 1.0]


def test_the_loss_weights_clean_and_adversarial_terms_by_each_images_preference(
    monkeypatch, attacks
):
    task = make_task().eval()
    preference = fixed(monkeypatch, [0.1, 0.0, 1.0, 0.0, 0.4, 0.1, 0.2, 0.3])
    loss = step(task)["loss"]
    images, labels = images_and_labels()
    rows = preference > 0
    adversarial = images.clone()
    adversarial[rows] = attacks[0]["adversarial"]
    terms = []
    for i in range(8):
        weight = preference[i : i + 1]
        clean, attacked = (
            losses.cross_entropy(task.network(x[i : i + 1], preference=weight), labels[i : i + 1])
            for x in (images, adversarial)
        )
        terms.append((1 - weight) * clean + weight * attacked)
    torch.testing.assert_close(loss, torch.cat(terms).mean())


def test_only_images_with_a_preference_above_zero_are_attacked(monkeypatch, attacks):
    task = make_task().train()
    preference = fixed(monkeypatch, [0.1, 0.0, 1.0, 0.0, 0.4, 0.1, 0.2, 0.3])
    step(task)
    images, labels = images_and_labels()
    rows = preference > 0
    assert torch.equal(attacks[0]["clean"], images[rows])
    distance = (attacks[0]["adversarial"] - images[rows]).abs().amax(dim=(1, 2, 3))
    assert distance.tolist() == pytest.approx([EPSILON] * 6)
    task.eval()
    separate = [
        losses.cross_entropy(
            task.network(images[i : i + 1], preference=preference[i].item()), labels[i : i + 1]
        )
        for i in rows.nonzero().flatten().tolist()
    ]
    torch.testing.assert_close(
        attacks[0]["goal"](images[rows]), torch.cat(separate), rtol=1e-4, atol=1e-5
    )


def test_the_attack_runs_in_eval_mode_and_through_the_adversarial_norms_only():
    task = make_task().train()
    modes = {0: [], 1: []}
    for branch, seen in modes.items():
        norm = norms(task, branch)[0]
        norm.register_forward_hook(lambda module, *_, seen=seen: seen.append(module.training))
    step(task)
    assert modes[0] == [True]  # the clean forward
    assert modes[1] == [True] + [False] * ATTACK.steps + [True]


def test_each_norms_statistics_are_updated_by_its_own_images(monkeypatch):
    def black(search, clean, **call):
        return torch.zeros_like(clean)

    replace_attacks(monkeypatch, black)
    task = make_task().train()
    preference = fixed(monkeypatch, [0.1, 0.0, 1.0, 0.0, 0.4, 0.1, 0.2, 0.3])
    step(task)
    assert calls(task, 0) == {1}
    assert calls(task, 1) == {2}  # the clean images above 0, then the adversarial ones
    images, _ = images_and_labels()
    network = task.network.network
    stem = lambda x: network.conv(network.normalise(x)).mean(dim=(0, 2, 3)).detach()  # noqa: E731
    clean, other = (stem(images[rows]) for rows in (preference == 0, preference > 0))
    torch.testing.assert_close(norms(task, 0)[0].running_mean, 0.1 * clean)
    adversarial = stem(torch.zeros_like(images))
    expected = 0.9 * 0.1 * other + 0.1 * adversarial
    torch.testing.assert_close(norms(task, 1)[0].running_mean, expected)


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize(
    "preference", [[0.0] * 8, [0.3] * 8, [1.0] * 8, [0.0] + [1.0] * 7, [0.0], [0.4], [0.0, 0.1]]
)
def test_any_mixture_of_preferences_trains_at_any_batch_size(monkeypatch, dual, preference):
    task = make_task(dual=dual).train()
    drawn = fixed(monkeypatch, preference)
    terms = step(task, len(preference))
    terms["loss"].backward()
    assert set(terms) == {"loss", "loss_clean", "loss_adversarial"}
    assert all(bool(term.isfinite()) for term in terms.values())
    assert (terms["loss_adversarial"] > 0) == bool((drawn > 0).any())
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    if dual:
        assert (calls(task, 0) == {0}) == bool((drawn > 0).all())
        assert (calls(task, 1) == {0}) == bool((drawn == 0).all())


@pytest.mark.parametrize("encoding", ["none", "onehot", "dct", "random"])
@pytest.mark.parametrize("start", ["fresh", "identity"])
def test_a_step_gives_every_film_layer_and_both_norms_a_gradient(encoding, start):
    (stage,) = method(encoding=encoding, start=start, size=8).stages(wide_resnet)
    task = stage.build({}).train()
    step(task)["loss"].backward()
    films = [module for module in task.modules() if isinstance(module, FiLM)]
    assert len(films) == 6
    for film in films:
        last = film.linears[-1]
        assert last.weight.grad.abs().max() > 0
        assert last.bias.grad.abs().max() > 0
        first = film.linears[0].weight.grad.abs().max() > 0
        assert bool(first) == (start == "fresh")  # behind a zero weight there is none yet
    for branch in (0, 1):
        assert all(norm.weight.grad.abs().max() > 0 for norm in norms(task, branch))


@pytest.mark.parametrize("objective", [PGDAT(), TRADES(), MART()], ids=repr)
def test_other_objectives_with_a_per_image_loss_train(objective, attacks):
    task = make_task(objective=objective).train()
    terms = step(task)
    terms["loss"].backward()
    assert bool(terms["loss"].isfinite())
    assert attacks[0]["start_noise"] == objective.start_noise


def test_the_attack_warms_up(attacks):
    task = make_task(attack=replace(ATTACK, warm_up=0.5)).train()
    images, labels = images_and_labels()
    task(images, labels, torch.Generator().manual_seed(0), 0.25)
    assert attacks[0]["epsilon"] == EPSILON / 2


def test_one_step_is_the_same_with_the_same_generator():
    first, second = (
        {n: v.detach() for n, v in step(make_task().train()).items()} for _ in range(2)
    )
    other = step(make_task().train(), seed=1)
    assert same(first, second)
    assert not torch.equal(first["loss"], other["loss"])


def test_the_preference_codes_are_not_trained(tmp_path):
    (stage,) = method(size=8).stages(partial(wide_resnet, 2))
    task = stage.build({})
    before = weights(task)
    fit_stage(stage, task, tmp_path)
    after = weights(task)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert "network.code.table" in still
    assert not any(".film." in name for name in still)
    assert not any(".norms." in name for name in still)


@pytest.mark.slow
def test_it_learns_to_distinguish_dark_from_bright_images(tmp_path):
    schedule = replace(SCHEDULE, epochs=8)
    (stage,) = method(schedule=schedule, start="identity").stages(partial(wide_resnet, 2))
    torch.manual_seed(0)
    task = stage.build({})
    fit_stage(stage, task, tmp_path)
    images, labels = learnable(16).batch(slice(None))
    for preference in task.network.preferences:
        right = task.network.eval().at(preference)(images).argmax(dim=1) == labels
        assert right.float().mean() > 0.9


class Killed(Exception):
    pass


def test_a_killed_run_on_digits_resumes_bit_identically(tmp_path, monkeypatch):
    data = digits().train
    splits = {"train": data.take(slice(0, 80)), "validation": data.take(slice(80, 112))}
    (stage,) = method(size=8).stages(wide_resnet)

    def build() -> ConditionalTask:
        torch.manual_seed(0)
        return stage.build({})

    whole = build()
    summary = fit_stage(stage, whole, tmp_path / "whole", loop=LOOP, **splits)
    assert summary["stage"] == "conditional"

    killed, real, left = build(), ConditionalTask.forward, iter(range(7))

    def forward(self, *arguments):
        if next(left, None) is None:
            raise Killed
        return real(self, *arguments)

    monkeypatch.setattr(ConditionalTask, "forward", forward)
    with pytest.raises(Killed):
        fit_stage(stage, killed, tmp_path / "killed", loop=LOOP, **splits)
    monkeypatch.undo()
    resumed = build()
    assert fit_stage(stage, resumed, tmp_path / "killed", loop=LOOP, **splits)
    assert same(weights(resumed), weights(whole))


def test_it_goes_through_json_and_back():
    from equipoise.methods import AnyMethod

    whole = method(encoding="dct", dual=False)
    content = json.loads(json.dumps(to_json(whole), allow_nan=False))
    assert content["kind"] == "OAT"
    assert from_json(content, AnyMethod) == whole


def test_the_defaults_are_the_originals():
    whole = OAT(epsilon=8 / 255, schedule=SCHEDULE)
    assert whole.preferences == (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    assert (whole.encoding, whole.size, whole.dual, whole.start) == ("random", 128, True, "fresh")
    assert whole.objective == PGDAT()
    assert whole.attack.steps == 7
    assert whole.attack.relative_step * 8 / 255 == pytest.approx(10 / 7 / 255)
    assert whole.attack.mode == "eval"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preferences": (0.0,)}, "preferences must include one above 0"),
        ({"preferences": (1.0, 0.0)}, "preferences must be one or more numbers in asc"),
        ({"preferences": (0.0, 1.5)}, r"preference must be in \[0, 1\], got 1.5"),
        ({"preferences": (0.5, 1.0)}, "zero_share must be in .* 0 if it is not"),
        ({"zero_share": 0.0}, "zero_share must be in"),
        ({"zero_share": 1.0}, "zero_share must be in"),
        ({"epsilon": 0.0}, "OAT needs an epsilon above 0"),
        ({"objective": Standard()}, "OAT needs an objective that runs an attack.*got Standard"),
        ({"objective": IAT()}, "treats each image separately, .* got IAT"),
        ({"objective": FAT()}, "treats each image separately, .* got FAT"),
        ({"objective": LBGAT()}, "OAT cannot train LBGAT, which trains a companion"),
        ({"size": 3}, "size must be at least the number of preferences, 6, got 3"),
    ],
    ids=str,
)
def test_inconsistent_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        method(**settings)


def test_an_unknown_encoding_is_refused(no_shape_checks):
    with pytest.raises(ValueError, match="encoding must be one of"):
        method(encoding="fourier")


def test_a_network_without_batch_norm_is_refused():
    (stage,) = method().stages(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(ValueError, match=r"Sequential has no nn.BatchNorm2d.*OAT needs"):
        stage.build({})
