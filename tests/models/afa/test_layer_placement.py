"""A weight generator at the end of a named layer, against passes that are written out by hand."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tiny import together, weights, wide_resnet
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.losses import gate_cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.models import AtLayer, fuse_branches, with_branches
from equipoise.models.afa.branches import RoutedNorm
from equipoise.models.afa.layer_placement import layer_path, traced
from equipoise.models.attack_mode.context import attack_mode

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NORMS_BEFORE = {"stem": 0, "shared_norm": 1, "block.0": 1, "block.1": 2, "block.2": 2, "block": 2}
"""Layers of ``SomebodysCNN`` and how many of its three calls of norms end before or with them."""
ORDER = {"robust": 2, "clean": 0}

Norm = Callable[[RoutedNorm, Tensor], Tensor]


def by_hand(network: nn.Module, images: Tensor, norms: list[Norm]) -> dict[str, Tensor]:
    """``SomebodysCNN`` with a rule for each of its three calls of norms."""
    outputs = {"stem": network.stem(images)}
    outputs["shared_norm"] = norms[0](network.shared_norm, outputs["stem"])
    features = outputs["shared_norm"].relu()
    outputs["block.0"] = network.block[0](features)
    outputs["block.1"] = norms[1](network.block[1], outputs["block.0"])
    outputs["block.2"] = outputs["block.1"].relu()
    outputs["block"] = network.block[3](outputs["block.2"])
    last = norms[2](network.shared_norm, features + outputs["block"])
    outputs["logits"] = network.head(last.relu().mean(dim=(2, 3)))
    return outputs


def branch(k: int) -> Norm:
    return lambda routed, features: routed.norm(features, k)


def blend(weight: Tensor) -> Norm:
    share = weight[:, None, None, None]
    return lambda routed, features: (
        share * routed.norm(features, 0) + (1 - share) * routed.norm(features, 2)
    )


def fused(branched: nn.Module, layer: str, **settings):
    torch.manual_seed(0)
    before = settings.pop("before", "robust")
    placement = AtLayer(layer=layer, before=before)
    return fuse_branches(branched, placement=placement, hidden=4, **settings).eval()


@pytest.fixture
def adaptive(branched):
    return partial(fused, branched)


every_layer = pytest.mark.parametrize(("layer", "before_it"), NORMS_BEFORE.items())
both_branches = pytest.mark.parametrize("before", ["robust", "clean"])


@every_layer
@both_branches
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_norms_before_the_layer_use_the_fixed_branch_and_norms_after_it_the_weight(
    layer, before_it, before, weight, adaptive, branched, images
):
    model = adaptive(layer, before=before)
    fixed, fuse = branch(ORDER[before]), blend(torch.full((6,), weight))
    if weight in (0.0, 1.0):
        fuse = branch(0 if weight else 2)
    norms = [fixed] * before_it + [fuse] * (3 - before_it)
    expected = by_hand(branched.network, images, norms)["logits"]
    torch.testing.assert_close(model(images, weight=weight), expected, **CLOSE)


@every_layer
@both_branches
def test_the_generator_reads_the_layers_output(
    layer, before_it, before, adaptive, branched, images
):
    model = adaptive(layer, before=before, ceiling=0.7)
    fixed = by_hand(branched.network, images, [branch(ORDER[before])] * 3)
    expected = 0.7 * model.generator(fixed[layer])
    logits, weight = model.logits_and_weight(images)
    torch.testing.assert_close(weight, expected, **CLOSE)
    assert weight.std() > 0
    norms = [branch(ORDER[before])] * before_it + [blend(expected)] * (3 - before_it)
    whole = by_hand(branched.network, images, norms)["logits"]
    torch.testing.assert_close(logits, whole, **CLOSE)
    torch.testing.assert_close(model(images, weight=weight), logits)


def test_with_the_robust_branch_before_it_weight_zero_is_the_robust_branch(
    adaptive, branched, images
):
    model = adaptive("block.0")
    torch.testing.assert_close(model(images, weight=0.0), branched(images, branch=2), **CLOSE)
    clean = adaptive("block.0", before="clean")
    torch.testing.assert_close(clean(images, weight=1.0), branched(images, branch=0), **CLOSE)
    assert not torch.allclose(clean(images, weight=0.0), branched(images, branch=2))


def test_the_kept_branches_are_those_that_were_chosen(adaptive, branched, images):
    model = adaptive("block.0", first=2, last=1)
    torch.testing.assert_close(model(images, weight=0.0), branched(images, branch=1), **CLOSE)


def test_the_first_convolution_is_the_placement_stem(branched, images):
    torch.manual_seed(0)
    stem = fuse_branches(branched, placement="stem", hidden=4).eval()
    assert torch.equal(fused(branched, "stem")(images), stem(images))


class BackToFront(nn.Module):
    """Registers its layers in the reverse of the order in which it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.last_norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(4)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(self.first_norm(self.stem(images)).relu())
        return self.head(self.last_norm(features).relu().mean(dim=(2, 3)))


def test_the_order_is_that_of_execution_and_not_of_registration(images):
    branched = with_branches(BackToFront(), 2).eval()
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
    model = fused(branched, "body")
    network = branched.network
    features = network.body(network.first_norm.norm(network.stem(images), 1).relu())
    last = network.last_norm.norm(features, 0).relu()
    expected = network.head(last.mean(dim=(2, 3)))
    torch.testing.assert_close(model(images, weight=1.0), expected, **CLOSE)
    torch.testing.assert_close(
        model.logits_and_weight(images)[1], model.generator(features), **CLOSE
    )


class Twice(nn.Module):
    """Runs one block twice, and changes its output in place after the first."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.linear = nn.Linear(4, 3)
        self.inplace = inplace

    def forward(self, images: Tensor) -> Tensor:
        features = self.block(self.stem(images))
        features = features.mul_(1.5) if self.inplace else features * 1.5
        return self.linear(self.block(features).relu().mean(dim=(2, 3)))


def test_the_first_output_of_a_layer_that_runs_twice_counts_and_may_be_changed_in_place(images):
    torch.manual_seed(0)
    branched = with_branches(Twice(), 2).eval()
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
    model, network = fused(branched, "block"), branched.network
    conv, norm = network.block[0], network.block[1].norm
    first = norm(conv(network.stem(images)), 1)
    weight = model.generator(first)
    torch.testing.assert_close(model.logits_and_weight(images)[1], weight, **CLOSE)
    share, second = weight[:, None, None, None], conv(first * 1.5)
    features = (share * norm(second, 0) + (1 - share) * norm(second, 1)).relu()
    expected = network.linear(features.mean(dim=(2, 3)))
    torch.testing.assert_close(model(images), expected, **CLOSE)
    model.network.inplace = False
    torch.testing.assert_close(model(images), expected, **CLOSE)
    model.network.inplace = True
    model.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in model.generator_parameters())


class Smooth(nn.Module):
    """``SomebodysCNN`` without kinks, at which finite differences are wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 4, 1)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.tanh(self.shared_norm(self.stem(images)))
        features = features + self.block(features)
        return self.head(torch.tanh(self.shared_norm(features)).mean(dim=(2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["stem", "block.0", "block.3"])
@both_branches
def test_gradients_through_the_generator_are_those_of_finite_differences(layer, before, generator):
    torch.manual_seed(0)
    branched = with_branches(Smooth(), 2)
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    model = fused(branched.double(), layer, before=before)
    for index in (2, 5):
        model.generator.blocks[index] = nn.Tanh()
    model.generator.linears[1] = nn.Tanh()
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(model.logits_and_gate, (images,), eps=1e-6, atol=1e-7)
    assert torch.autograd.gradcheck(model.logits_and_weight, (images,), eps=1e-6, atol=1e-7)
    names = [name for name, _ in model.generator.named_parameters()]

    def of_parameters(*values: Tensor) -> Tensor:
        given = {f"generator.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(model, given, (images.detach(),))

    values = tuple(p.detach().clone().requires_grad_() for p in model.generator.parameters())
    assert torch.autograd.gradcheck(of_parameters, values, eps=1e-6, atol=1e-7)


def test_the_gradient_of_the_weight_passes_through_the_norms_before_the_layer(
    adaptive, branched, images
):
    model = adaptive("block.0")
    images.requires_grad_(True)
    (ours,) = torch.autograd.grad(model.logits_and_weight(images)[1].sum(), images)
    read = by_hand(branched.network, images, [branch(2)] * 3)["block.0"]
    (expected,) = torch.autograd.grad(model.generator(read).sum(), images)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)
    (whole,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    held = model.logits_and_weight(images)[1].detach()
    (around,) = torch.autograd.grad(model(images, weight=held)[:, 0].sum(), images)
    assert not torch.allclose(whole, around)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_an_attack_on_the_weight_moves_it(target, images, labels, generator):
    torch.manual_seed(1)
    branched = with_branches(wide_resnet(3), 2).eval()
    model = fused(branched, "stages.1")
    model.generator.linears[-1].weight.data.mul_(20)
    images = images[:, :1]

    def goal(points: Tensor) -> Tensor:
        gate = model.logits_and_gate(points)[1]
        return -gate_cross_entropy(gate, torch.full_like(gate, target))

    before = model.logits_and_gate(images)[1].mean()
    with attack_mode(model, fold=True):
        moved = PGD(steps=5, relative_step=0.4)(goal, images, Linf(0.1), generator)
        attacked = PGD(steps=2, relative_step=0.5)(
            cross_entropy(model, labels), images, Linf(0.1), generator
        )
    after = model.logits_and_gate(moved)[1].mean()
    assert (after > before) == bool(target)
    assert not torch.equal(attacked, images)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("weight", [None, 0.5])
def test_no_state_outlives_a_call(fails, weight, adaptive, images):
    model = adaptive("block.0")
    expected = model(images)
    if fails:
        hook = model.network.head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(images, weight=weight)
        hook.remove()
    else:
        model(images, weight=weight)
    assert not any(module._forward_hooks for module in model.modules())
    assert (model.state.weight, model.state.given, model.state.before) == (None, None, None)
    assert model.state.gates == []
    assert torch.equal(model(images), expected)
    with pytest.raises(AssertionError, match="before its network had a fusing weight"):
        model.network(images)


def test_only_the_generator_trains_and_the_rest_stays_in_eval_mode(adaptive, images):
    model = adaptive("block.0").train()
    before = weights(model)
    model(images).square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("generator.") for name in trained)
    assert all(bool(p.grad.abs().max() > 0) for p in model.generator_parameters() if p.ndim > 1)
    for name, value in model.state_dict().items():
        assert name.startswith("generator.") or torch.equal(value, before[name])
    assert not any(module.training for module in model.network.modules())


def test_threads_that_share_a_model_do_not_mix_their_weights(adaptive, images):
    model = adaptive("block.0")
    calls = {
        "clean": partial(model, images, weight=1.0),
        "robust": partial(model, images.flip(0), weight=0.0),
        "own": partial(model, 1 - images),
    }
    expected = {name: call() for name, call in calls.items()}
    answers = together(calls, model.network.stem)
    assert all(torch.equal(answers[name], expected[name]) for name in calls)


def test_a_copy_has_its_own_state_and_gives_the_same_answer(adaptive, images):
    model = adaptive("block.0")
    twin = copy.deepcopy(model)
    assert twin.state is not model.state
    assert torch.equal(twin(images), model(images))


def test_tracing_leaves_the_network_alone(branched):
    branched.train()
    before, modes = weights(branched), [module.training for module in branched.modules()]
    torch.manual_seed(0)
    found = traced(branched, AtLayer(layer="block.0"))
    assert found == AtLayer(layer="block.0", channels=4)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in branched.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in weights(branched).items())
    assert not any(module._forward_hooks for module in branched.modules())


class Fixed(nn.Module):
    """Takes images of one size only."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5 * side * side, 3)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] == self.side, "another size"
        features = self.second(self.norm(self.conv(images)))
        return self.head(self.last(features).flatten(1))


def test_the_channels_are_found_for_networks_of_a_fixed_size():
    branched = with_branches(Fixed(28), 2)
    assert traced(branched, AtLayer(layer="second")).channels == 5


def test_channels_that_are_given_need_no_trace():
    branched = with_branches(Fixed(12), 2).eval()
    with pytest.raises(ValueError, match=r"second.*\(another size\).*AtLayer\(channels=\.\.\.\)"):
        fuse_branches(branched, placement=AtLayer(layer="second"))
    model = fuse_branches(branched, placement=AtLayer(layer="second", channels=5)).eval()
    assert model(torch.rand(2, 3, 12, 12)).shape == (2, 3)
    wrong = fuse_branches(branched, placement=AtLayer(layer="second", channels=7)).eval()
    message = r"layer 'second' must return maps of shape \(batch, 7, height, width\).*\(2, 5, 12"
    with pytest.raises(ValueError, match=message):
        wrong(torch.rand(2, 3, 12, 12))


def test_the_trace_runs_on_the_device_of_the_network(branched):
    model = fused(branched.to("meta"), "block.0")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


class Odd(nn.Module):
    """Layers that a generator cannot read, each for its own reason."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList([nn.BatchNorm2d(4)])
        self.unused = nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.gain = nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4)
        self.tail = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layers[0](self.stem(images))
        gain = self.gain(self.flat(self.pool(features)))
        features = self.norm(features * gain[:, :, None, None])
        return self.head(self.tail(features).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stam", r"layer must name a layer of Odd as in named_modules\(\), got 'stam'\. .*: stem"),
        ("layers.1", r"got 'layers.1'. Near names: layers.0, layers"),
        ("layers.0.norm", "layer must name a layer of Odd"),
        ("layers", r"read layer 'layers' of Odd: it does not run in a forward pass.*: layers.0"),
        ("unused", "'unused' of Odd: it does not run in a forward pass, so it has no output"),
        ("gain", r"must return maps of shape .*, got a tensor of shape \(2, 4\) for 2 images"),
        ("norm", "no batch norm runs after it, so its weight would fuse nothing"),
        ("tail", r"would fuse nothing\. Layers that can be read: stem, layers.0, pool\."),
        ("head", r"must return maps of shape .*, got a tensor of shape \(2, 3\)"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_by_name_with_the_rule(layer, message):
    branched = with_branches(Odd(), 2)
    with pytest.raises(ValueError, match=message):
        fuse_branches(branched, placement=AtLayer(layer=layer))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": ""}, "layer must be the name of a layer, got ''"),
        ({"layer": None}, "layer must be the name of a layer, got None"),
        ({"layer": "stem", "before": "middle"}, r"before must be one of \('robust', 'clean'\)"),
        ({"layer": "stem", "channels": 0}, "channels must be 1 or more, got 0"),
        ({"layer": "stem", "channels": True}, "channels must be 1 or more, got True"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AtLayer(**settings)


def test_the_name_of_the_layer_is_needed_and_one_weight_an_image(branched):
    with pytest.raises(ValueError, match=r"'layer' needs the layer's name: AtLayer\(layer="):
        fuse_branches(branched, placement="layer")
    with pytest.raises(ValueError, match=r"each must be 'image' with a generator at a layer"):
        fuse_branches(branched, placement=AtLayer(layer="block.0"), each="channel")


class Sometimes(Smooth):
    """Skips its block for dark images."""

    def forward(self, images: Tensor) -> Tensor:
        features = torch.tanh(self.shared_norm(self.stem(images)))
        if images.mean() > 0.2:
            features = features + self.block(features)
        return self.head(torch.tanh(self.shared_norm(features)).mean(dim=(2, 3)))


@pytest.mark.parametrize("weight", [None, 0.5])
def test_a_layer_that_does_not_run_on_some_images_is_an_error(weight, images):
    model = fused(with_branches(Sometimes(), 2), "block.0")
    assert model(images, weight=weight).shape == (6, 3)
    with pytest.raises(ValueError, match=r"layer 'block.0' did not run on these images"):
        model(images * 0, weight=weight)
    assert model.state.given is None


def test_a_layer_of_two_names_is_found_by_both():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    network.add_module("again", network[0])
    network.add_module("end", nn.BatchNorm2d(3))
    assert [layer_path(network, name) for name in ("0", "again")] == ["0", "again"]


@pytest.mark.slow
@both_branches
def test_torch_export_gives_the_same_logits_and_weights(before, adaptive, images):
    model = adaptive("block.0", before=before)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
            return self.model.logits_and_weight(given)

    program = torch.export.export(
        Both(), (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), Both()(images), **CLOSE)
