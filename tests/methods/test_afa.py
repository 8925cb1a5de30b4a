import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import (
    ATTACK,
    SCHEDULE,
    drawn_norms,
    fit_stage,
    images_and_labels,
    replace_attacks,
    same,
    weights,
    wide_resnet,
)
from torch import nn

from equipoise.attacks import losses
from equipoise.distributed.shared_generator import SharedGenerator
from equipoise.methods import AFA, Gate, afa
from equipoise.methods.afa import BranchTask, GateTask
from equipoise.models import AtLayer, fuse_branches, with_branches
from equipoise.models.afa.weight_generator import WeightGenerator
from equipoise.objectives import AVM, FAT, IAT, MART, PGDAT, TLA, TRADES, Standard
from equipoise.training.metrics import METRICS

STRENGTHS = (0.0, 0.05, 0.2)
EVERY_PLACEMENT = (
    {"placement": "input"},
    {"placement": "stem"},
    {"placement": "layer", "layer": "stages.0"},
    {"placement": "layer", "layer": "stages.1.0", "before": "clean"},
    {"placement": "per_norm"},
)


def method(**settings) -> AFA:
    defaults = {
        "objective": PGDAT(),
        "strengths": STRENGTHS,
        "attack": ATTACK,
        "schedule": SCHEDULE,
        "gate_schedule": SCHEDULE,
    }
    return AFA(**(defaults | settings))


def branched(classes: int = 10) -> nn.Module:
    """A network whose three branches give different logits."""
    return drawn_norms(with_branches(wide_resnet(classes), 3), torch.Generator().manual_seed(1))


def gate_task(classes: int = 10, **settings) -> GateTask:
    network = branched(classes)
    torch.manual_seed(2)
    gate = Gate(**settings)
    return GateTask(fuse_branches(network, placement=gate.reads), method(gate=gate))


def step(task: nn.Module, seed: int = 0, progress: float = 0.0) -> dict[str, torch.Tensor]:
    images, labels = images_and_labels()
    return task(images, labels, torch.Generator().manual_seed(seed), progress)


def test_the_plan_is_branches_then_gate():
    stages = method().stages(wide_resnet)
    assert [stage.name for stage in stages] == ["branches", "gate"]
    assert stages[1].needs == ("branches",)
    assert all(stage.validation == (0.0, 0.2) for stage in stages)
    network = stages[0].build({}).outcome()
    assert network.branches == 3
    assert stages[1].build({"branches": network}).outcome().placement == "input"


def test_a_soup_replaces_the_gate():
    branches, last = method(soup=0.25, separate="affine").stages(wide_resnet)
    assert (last.name, last.trains, last.needs) == ("soup", False, ("branches",))
    network = branches.build({}).outcome()
    assert network.separate == "affine"
    souped = last.build({"branches": network}).outcome()
    assert souped.config == wide_resnet().config


class LeakyNorm(nn.BatchNorm2d):
    """A norm that does more than normalise."""


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), "keeps no running statistics.*=True"),
        (LeakyNorm(4), "LeakyNorm cannot be fused.*module of its own"),
    ],
)
def test_norms_that_stage_2_cannot_fuse_are_refused_before_stage_1(norm, message):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 3))
    branches, _ = method().stages(lambda: network)
    with pytest.raises(ValueError, match=message):
        branches.build({})
    branches, soup = method(soup=0.5).stages(lambda: network)
    soup.build({"branches": branches.build({}).outcome()})


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_soup_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=rf"soup must be a share in \[0, 1\], got {share}"):
        method(soup=share)


def test_all_branches_are_attacked_as_one_batch_each_row_at_its_own_strength(attacks):
    step(BranchTask(branched(), method()))
    (attack,) = attacks
    assert attack["epsilon"].tolist() == pytest.approx([0.05] * 8 + [0.2] * 8)
    distance = (attack["adversarial"] - attack["clean"]).abs().amax(dim=(1, 2, 3))
    assert torch.allclose(distance, attack["epsilon"], atol=1e-6)
    images, _ = images_and_labels()
    assert torch.equal(attack["clean"], torch.cat([images, images]))


def test_each_path_is_attacked_through_its_own_branch(attacks):
    task = BranchTask(branched(), method()).eval()
    step(task)
    images, labels = images_and_labels()
    separate = [losses.cross_entropy(task.network(images, branch=k), labels) for k in (1, 2)]
    goal = attacks[0]["goal"](torch.cat([images, images]))
    assert torch.allclose(goal, torch.cat(separate), atol=1e-6)


def test_clean_images_go_through_branch_zero_and_strength_k_through_branch_k(attacks):
    task = BranchTask(branched(), method()).eval()
    terms = step(task)
    images, labels = images_and_labels()
    inputs = [images, *attacks[0]["adversarial"].chunk(2)]
    for k, given in enumerate(inputs):
        expected = losses.cross_entropy(task.network(given, branch=k), labels).mean()
        assert torch.allclose(terms[f"loss_{k}"], expected, atol=1e-6)
    assert torch.allclose(terms["loss"], sum(terms[f"loss_{k}"] for k in range(3)) / 3)


def test_a_step_updates_each_branchs_statistics_with_its_own_images(monkeypatch):
    def brighter(search, clean, epsilon, **call):
        return (clean * 0.2 + epsilon[:, None, None, None] * 3).clamp(0, 1)

    replace_attacks(monkeypatch, brighter)
    task = BranchTask(branched(), method()).train()
    step(task)
    first = next(m for m in task.modules() if isinstance(m, afa.BranchedNetwork)).network
    norms = first.stages[0][0].norm1.norm.norms
    means = [norm.running_mean for norm in norms]
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)
    assert not torch.allclose(means[0], means[1])
    assert not torch.allclose(means[1], means[2])


OBJECTIVES = [PGDAT(), TRADES(), IAT(), MART(), FAT(over=TRADES(), tau=1), TLA(), AVM()]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


@every_objective
def test_a_step_trains_every_branch_whatever_the_objective(objective):
    task = BranchTask(branched(), method(objective=objective)).train()
    terms = step(task)
    assert set(terms) == {"loss", "loss_0", "loss_1", "loss_2"}
    assert all(bool(term.isfinite()) for term in terms.values())
    terms["loss"].backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("count", [8, 7])
def test_a_split_batch_attacks_every_image_for_one_branch(attacks, count):
    task, seen = BranchTask(branched(), method(split_batch=True)).eval(), []
    task.network.register_forward_pre_hook(
        lambda _, inputs, settings: seen.append((inputs[0], settings["branch"])), with_kwargs=True
    )
    images, labels = images_and_labels(count)
    terms = task(images, labels, torch.Generator().manual_seed(0), 0.0)
    half = count // 2  # two attacked branches; an odd image is for the clean one alone
    (attack,) = attacks
    assert torch.equal(attack["clean"], images[: 2 * half])
    assert attack["epsilon"].tolist() == pytest.approx([0.05] * half + [0.2] * half)
    (given,) = [given for given, branch in seen if branch == 0]
    assert torch.equal(given, images)
    parts = [images, *attack["adversarial"].chunk(2)]
    rows = [labels, labels[:half], labels[half : 2 * half]]
    for k, (part, truth) in enumerate(zip(parts, rows, strict=True)):
        expected = losses.cross_entropy(task.network(part, branch=k), truth).mean()
        assert torch.allclose(terms[f"loss_{k}"], expected, atol=1e-6)


@every_objective
def test_a_split_batch_trains_every_branch_whatever_the_objective(objective):
    task = BranchTask(branched(), method(objective=objective, split_batch=True)).train()
    terms = step(task)
    terms["loss"].backward()
    assert all(bool(term.isfinite()) for term in terms.values())
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name


def test_a_batch_that_is_too_small_to_split_is_refused():
    task = BranchTask(branched(), method(split_batch=True))
    images, labels = images_and_labels(1)
    with pytest.raises(ValueError, match="among 2 attacked branches, so it needs at least"):
        task(images, labels, torch.Generator(), 0.0)


@every_objective
def test_each_branch_sees_only_images_of_its_own_strength_in_training(objective, monkeypatch):
    """Every attack sets all pixels of an image to its strength."""

    def paint(search, clean, epsilon, **call):
        assert epsilon.shape == (len(clean),)
        return epsilon[:, None, None, None].expand_as(clean)

    replace_attacks(monkeypatch, paint)
    task, seen = BranchTask(branched(), method(objective=objective)).train(), []
    task.network.register_forward_pre_hook(
        lambda _, inputs, settings: seen.append((inputs[0], settings["branch"])), with_kwargs=True
    )
    # Black clean images: AVM's mixtures of clean and vertex stay between black and the vertex.
    _, labels = images_and_labels()
    task(torch.zeros(8, 1, 8, 8), labels, torch.Generator().manual_seed(0), 0.0)
    through = {0: [], 1: [], 2: []}
    for images, branch in seen:
        paths = (branch,) if isinstance(branch, int) else branch
        for path, group in zip(paths, images.chunk(len(paths)), strict=True):
            through[path].append(group)
    assert all(float(images.max()) <= TLA().noise + 1e-6 for images in through[0])
    for path in (1, 2):
        (images,) = through[path]
        reach = objective.stretch if isinstance(objective, AVM) else 1.0
        assert float(images.max()) <= STRENGTHS[path] * reach + 1e-6
        if not isinstance(objective, AVM):
            assert torch.allclose(images, torch.full_like(images, STRENGTHS[path]))


def in_training(task: BranchTask) -> list[tuple[int, object]]:
    """Rows and branch of every forward pass in training mode, from now on."""
    seen: list[tuple[int, object]] = []

    def record(module, inputs, settings):
        if module.training:
            seen.append((len(inputs[0]), settings["branch"]))

    task.network.register_forward_pre_hook(record, with_kwargs=True)
    return seen


@pytest.mark.parametrize("split_batch", [False, True])
@pytest.mark.parametrize("objective", [TRADES(), MART(), FAT(over=TRADES(), tau=1)], ids=repr)
def test_clean_images_are_predicted_once_a_step(objective, split_batch):
    """And BN_0's statistics move once, whatever the number of attacked branches."""
    task = BranchTask(branched(), method(objective=objective, split_batch=split_batch)).train()
    seen = in_training(task)
    step(task)
    assert [rows for rows, branch in seen if branch == 0] == [8]
    norms = task.network.network.stages[0][0].norm1.norm.norms
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1, 1]


@pytest.mark.parametrize("objective", [TRADES(), MART()], ids=repr)
def test_the_recalled_prediction_gives_the_losses_and_gradients_of_a_repeated_one(objective):
    """In float64 and training mode, against K - 1 predictions of the clean images a step."""
    task = BranchTask(branched().double(), method(objective=objective)).train()
    images, labels = images_and_labels()
    images = images.double()
    generator = torch.Generator().manual_seed(0)
    terms = task(images, labels, generator, 0.0)
    terms["loss"].backward()
    ours = {name: p.grad.clone() for name, p in task.named_parameters()}
    task = BranchTask(branched().double(), method(objective=objective)).train()
    batch = task._attack(
        objective,
        (1, 2),
        torch.cat([images, images]),
        labels.repeat(2),
        torch.Generator().manual_seed(0),
        0.0,
    )
    first = losses.cross_entropy(task.network(images, branch=0), labels).mean()
    rest = objective.losses(batch)["loss"].chunk(2)
    expected = (first + sum(part.mean() for part in rest)) / 3
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-10, atol=0)
    expected.backward()
    for name, parameter in task.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-7, atol=1e-10)


def test_the_clean_term_through_path_k_is_a_switch():
    """Algorithm 1 as it reads after "switch to kth path": TRADES, all of it through branch k."""
    own = method(objective=TRADES(), clean_term="own_branch")
    task = BranchTask(branched(), own).eval()
    terms = step(task)
    images, labels = images_and_labels()
    adversarial = task._attack(
        TRADES(),
        (1, 2),
        torch.cat([images, images]),
        labels.repeat(2),
        torch.Generator().manual_seed(0),
        0.0,
    ).adversarial.chunk(2)
    for k in (1, 2):
        clean, attacked = (task.network(given, branch=k) for given in (images, adversarial[k - 1]))
        expected = losses.cross_entropy(clean, labels) + 6 * losses.kl_divergence(attacked, clean)
        assert torch.allclose(terms[f"loss_{k}"], expected.mean(), atol=1e-5)


def test_an_unknown_clean_term_is_refused(no_shape_checks):
    with pytest.raises(ValueError, match="clean_term must be branch_0 or own_branch, got 'k'"):
        method(clean_term="k")


@every_objective
def test_eq_3_read_literally_adds_a_cross_entropy_to_every_attacked_path(objective, attacks):
    plain, literal = (
        BranchTask(branched(), method(objective=objective, adds_cross_entropy=adds)).eval()
        for adds in (False, True)
    )
    before, after = step(plain), step(literal)
    labels = images_and_labels()[1]
    adversarial = (
        attacks[-1]["adversarial"].chunk(2)
        if objective.per_image_loss
        else [call["adversarial"] for call in attacks[-2:]]
    )
    assert torch.allclose(before["loss_0"], after["loss_0"], atol=1e-6)
    for k in (1, 2):
        extra = losses.cross_entropy(literal.network(adversarial[k - 1], branch=k), labels).mean()
        assert torch.allclose(after[f"loss_{k}"], before[f"loss_{k}"] + extra, atol=1e-5)


def test_eq_3s_cross_entropy_costs_no_forward_pass():
    task = BranchTask(branched(), method(adds_cross_entropy=True)).train()
    seen = in_training(task)
    step(task)
    assert seen == [(8, 0), (16, (1, 2))]


def test_an_objective_that_mixes_images_is_attacked_one_strength_at_a_time(attacks):
    step(BranchTask(branched(), method(objective=IAT())).train())
    assert [attack["epsilon"].tolist() for attack in attacks] == [
        pytest.approx([0.05] * 8),
        pytest.approx([0.2] * 8),
    ]
    assert attacks[0]["start_noise"] is None


def test_all_branches_are_attacked_before_any_is_trained(monkeypatch):
    """So no branch's statistics depend on the order of the branches."""
    task, modes = BranchTask(branched(), method(objective=IAT())).train(), []
    task.network.register_forward_hook(lambda *_: modes.append(task.network.training))
    step(task)
    assert modes == sorted(modes)


def test_the_attack_uses_the_objectives_start_and_the_warm_up(attacks):
    warming = method(objective=TRADES(), attack=replace(ATTACK, warm_up=0.5))
    step(BranchTask(branched(), warming), progress=0.25)
    assert attacks[0]["start_noise"] == 0.001
    assert attacks[0]["epsilon"].tolist() == pytest.approx([0.025] * 8 + [0.1] * 8)


def test_sum_is_k_times_mean():
    mean, total = (
        step(BranchTask(branched(), method(reduction=reduction)).eval())["loss"]
        for reduction in ("mean", "sum")
    )
    assert torch.allclose(total, 3 * mean)


def test_validation_of_stage_one_uses_the_branch_of_the_strength():
    task = BranchTask(branched(), method()).eval()
    images, _ = images_and_labels()
    for k, epsilon in enumerate(STRENGTHS):
        expected = task.network(images, branch=k)
        assert torch.equal(task.predictor(epsilon)(images), expected)


@pytest.mark.parametrize("placement", EVERY_PLACEMENT[:3], ids=str)
def test_stage_two_trains_the_generator_and_nothing_else(placement, tmp_path):
    whole = method(gate=Gate(**placement))
    _, gate = whole.stages(partial(wide_resnet, 2))
    task = gate.build({"branches": branched(classes=2)})
    before = weights(task)
    fit_stage(replace(gate, keep="last"), task, tmp_path)
    after = weights(task)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    generator = {name for name in before if name.startswith("network.generator.")}
    assert moved <= generator
    assert {name for name in generator if name.endswith("weight")} <= moved


@pytest.mark.parametrize("gate", EVERY_PLACEMENT, ids=str)
def test_only_the_generator_gets_gradients(gate):
    task = gate_task(**gate).train()
    step(task)["loss"].backward()
    inside = {id(p) for p in task.network.generator_parameters()}
    assert inside
    for parameter in task.parameters():
        assert (parameter.grad is not None) == (id(parameter) in inside)
        assert parameter.requires_grad == (id(parameter) in inside)


@pytest.mark.parametrize("placement", EVERY_PLACEMENT[:3], ids=str)
def test_stage_twos_attack_goes_through_the_generator(placement, attacks):
    task = gate_task(**placement)
    step(task)
    images, labels = images_and_labels()
    task.eval()
    with torch.no_grad():
        expected = losses.cross_entropy(task.network(images), labels)
        assert torch.equal(attacks[0]["goal"](images), expected)
    # The gradient differs from the one at the same, fixed weight: the generator is on its path.
    weight = task.network.logits_and_weight(images)[1].detach()
    given = images.requires_grad_()
    (through,) = torch.autograd.grad(attacks[0]["goal"](given).sum(), given)
    fixed = losses.cross_entropy(task.network(given, weight=weight), labels)
    (around,) = torch.autograd.grad(fixed.sum(), given)
    assert float((through - around).abs().max()) > 1e-6


def test_during_the_lead_the_attack_goes_through_the_fixed_robust_branch(attacks):
    task = gate_task(lead=0.5)
    images, labels = images_and_labels()
    for progress in (0.0, 0.49, 0.5):
        step(task, progress=progress)
    task.eval()
    robust = losses.cross_entropy(task.network(images, weight=0.0), labels)
    adaptive = losses.cross_entropy(task.network(images), labels)
    assert not torch.allclose(robust, adaptive)
    for attack, expected in zip(attacks, (robust, robust, adaptive), strict=True):
        assert torch.allclose(attack["goal"](images), expected)


def test_strengths_are_drawn_for_each_image_from_the_training_strengths(attacks):
    task = gate_task()
    for seed in range(8):
        step(task, seed)
    drawn = torch.cat([attack["epsilon"] for attack in attacks])
    assert sorted({round(e, 4) for e in drawn.tolist()}) == list(STRENGTHS)
    counts = [int((drawn - e).abs().lt(1e-6).sum()) for e in STRENGTHS]
    assert min(counts) > 8  # of 64 / 3


def test_pairs_put_each_image_into_the_batch_clean_and_attacked(attacks):
    task = gate_task(pairs=True).train()
    seen = []
    read = task.network.generator.blocks
    read.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    step(task)
    images, _ = images_and_labels()
    assert torch.allclose(seen[-1] + 0.5, torch.cat([images, attacks[0]["adversarial"]]), atol=1e-6)
    assert float(attacks[0]["epsilon"].min()) > 0


def test_detection_adds_the_cross_entropy_of_the_weight_with_targets_by_strength(monkeypatch):
    task, drawn = gate_task(pairs=True, detection=0.5).eval(), []

    def keep(search, clean, epsilon, **call):
        drawn.append(epsilon)
        return clean

    replace_attacks(monkeypatch, keep)
    terms = step(task)
    images, labels = images_and_labels()
    logits, weight = task.network.logits_and_weight(images)
    classification = losses.cross_entropy(logits, labels).mean()
    assert torch.allclose(terms["loss_classification"], classification)
    target = 1 - drawn[0] / 0.2
    assert set(target.tolist()) == {0.0, 0.75}
    clean = -weight.log()
    attacked = -(target * weight.log() + (1 - target) * (1 - weight).log())
    expected = classification + 0.5 * torch.cat([clean, attacked]).mean()
    assert torch.allclose(terms["loss"], expected, atol=1e-5)


def test_the_logged_weights_are_means_over_clean_and_most_attacked_images(attacks):
    task = gate_task(pairs=True).eval()
    terms = step(task)
    images, _ = images_and_labels()
    top = attacks[0]["epsilon"] > 0.19
    assert bool(top.any())
    with torch.no_grad():
        clean = task.network.logits_and_weight(images)[1].mean()
        most = task.network.logits_and_weight(attacks[0]["adversarial"][top])[1].mean()
    assert torch.allclose(terms["weight_clean"], clean, atol=1e-6)
    assert torch.allclose(terms["weight_attacked"], most, atol=1e-6)


def test_the_weight_of_images_that_the_batch_lacks_is_unknown_not_zero(monkeypatch):
    replace_attacks(monkeypatch, lambda search, clean, **call: clean)
    task = gate_task(pairs=True).eval()  # all clean images, and some attacked ones
    drawn = torch.full((8,), 0, dtype=torch.long)
    monkeypatch.setattr(afa, "randint", lambda *_: drawn)  # the lower strength for every image
    terms = step(task)
    assert bool(terms["weight_attacked"].isnan())
    assert 0 < float(terms["weight_clean"]) < 1


def test_the_mean_of_an_epoch_counts_only_steps_that_know_the_weight(tmp_path, monkeypatch):
    """The first step has no most attacked image, the others have nothing else."""
    _, gate = method().stages(partial(wide_resnet, 2))
    task, calls = gate.build({"branches": branched(classes=2)}), []

    def drawn(count, rows, generator):
        calls.append(rows)
        return torch.full((rows,), 0 if len(calls) == 1 else 2, dtype=torch.long)

    monkeypatch.setattr(afa, "randint", drawn)
    fit_stage(replace(gate, schedule=replace(SCHEDULE, epochs=2)), task, tmp_path)
    first, second = (json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines())
    assert {"weight_clean", "weight_attacked"} <= first["train"].keys()
    assert first["train"]["weight_attacked"] > 0.2  # steps that do not know it are no zeros
    assert "weight_clean" not in second["train"]
    assert "weight_attacked" in second["train"]


def test_the_generator_is_in_eval_mode_under_attack_and_in_training_mode_in_the_step():
    task = gate_task().train()
    modes = []
    generator = next(m for m in task.modules() if isinstance(m, WeightGenerator))
    generator.blocks.register_forward_hook(lambda *_: modes.append(generator.training))
    step(task)
    assert modes == [False] * ATTACK.steps + [True]


@pytest.mark.parametrize(
    "strengths", [(0.1, 0.2), (0.0,), (), (0.0, 0.2, 0.1), (0.0, 0.0, 0.1), (0.2, 0.0)]
)
def test_strengths_that_do_not_ascend_from_zero_are_refused(strengths):
    with pytest.raises(ValueError, match="strengths must be two or more and ascend from 0"):
        method(strengths=strengths)


def test_an_objective_without_an_attack_is_refused():
    with pytest.raises(ValueError, match="AFA needs an objective with an attack, got Standard"):
        method(objective=Standard())


def test_the_gates_ceiling_bounds_the_weight():
    stage = method(gate=Gate(ceiling=0.6)).stages(wide_resnet)[1]
    network = stage.build({"branches": branched()}).outcome()
    with torch.no_grad():
        network.generator.linears[-1].bias.fill_(50)
        weight = network.logits_and_weight(images_and_labels()[0])[1]
    assert weight.tolist() == pytest.approx([0.6] * 8)


def test_the_gates_layer_is_the_generators():
    gate = Gate(placement="layer", layer="stages.1", before="clean", hidden=4)
    assert gate.reads == AtLayer(layer="stages.1", before="clean")
    stages = method(gate=gate).stages(wide_resnet)
    network = stages[1].build({"branches": branched()}).outcome()
    assert network.layer == AtLayer(layer="stages.1", before="clean", channels=32)


def test_a_wrong_layer_is_refused_before_stage_one():
    stages = method(gate=Gate(placement="layer", layer="stages.7")).stages(wide_resnet)
    with pytest.raises(ValueError, match=r"got 'stages.7'. Near names: stages.*stages"):
        stages[0].build({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "layer"}, r"layer must name a layer if placement is 'layer' .* layer None"),
        ({"layer": "stages.0"}, r"None otherwise, got placement 'input' and layer 'stages.0'"),
        ({"placement": "layer", "layer": "conv", "each": "channel"}, "each must be 'image' if"),
    ],
)
def test_a_gate_with_a_layer_that_it_cannot_use_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Gate(**settings)


def test_one_step_is_the_same_with_the_same_generator():
    first, second = (terms_of_a_step() for _ in range(2))
    assert same(first, second)


def terms_of_a_step() -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in step(BranchTask(branched(), method())).items()}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ceiling": 2.0}, r"ceiling must be in \(0, 1\], got 2.0"),
        ({"ceiling": 0.0}, r"ceiling must be in \(0, 1\], got 0.0"),
        ({"lead": 7.0}, r"lead must be a share in \[0, 1\], got 7.0"),
        ({"detection": -1.0}, "detection must be 0 or more, got -1.0"),
        ({"hidden": 0}, "hidden must be 1 channel or more, got 0"),
    ],
)
def test_a_gate_that_cannot_be_trained_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Gate(**settings)


def test_a_batch_shared_by_several_processes_cannot_be_split():
    task = BranchTask(branched(), method(split_batch=True))
    images, labels = images_and_labels()
    generator = SharedGenerator.of(images.device, 0, 2)
    with pytest.raises(ValueError, match="split_batch divides the batch of one process"):
        task(images, labels, generator, 0.0)
