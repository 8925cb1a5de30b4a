import copy
import pickle
from functools import partial

import pytest
import torch
from tiny import images_and_labels, together, wide_resnet
from torch import nn

from equipoise.models import FusedBatchNorm2d, MultiBatchNorm2d, fuse_branches, with_branches
from equipoise.models.afa.layer_placement import first_convolution

PLACEMENTS = ["input", "stem", "per_norm"]
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)


@pytest.fixture
def adaptive(branched):
    def make(placement, **settings):
        torch.manual_seed(0)
        return fuse_branches(branched, placement=placement, hidden=4, **settings).eval()

    return make


@pytest.mark.parametrize("affine", [True, False])
def test_the_fused_affine_is_the_blend_of_two_norms(affine, generator):
    pair = MultiBatchNorm2d(nn.BatchNorm2d(4, affine=affine, eps=0.01), branches=3).eval()
    for tensor in pair.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2.0, generator=generator)
    features = torch.randn(5, 4, 3, 3, generator=generator)
    weight = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0])
    share = weight[:, None, None, None]
    blend = share * pair(features, branch=0) + (1 - share) * pair(features, branch=2)
    fused = FusedBatchNorm2d.of(pair, first=0, last=2)
    torch.testing.assert_close(fused(features, weight), blend, rtol=1e-5, atol=1e-5)


@every_placement
@pytest.mark.parametrize(("first", "last"), [(0, None), (0, 1), (2, 0)])
def test_weight_one_is_the_first_branch_and_weight_zero_the_last(
    placement, first, last, adaptive, branched, images
):
    model = adaptive(placement, first=first, last=last)
    last = 2 if last is None else last
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(model(images, weight=1.0), branched(images, branch=first), **close)
    torch.testing.assert_close(model(images, weight=0.0), branched(images, branch=last), **close)


@every_placement
def test_each_image_has_its_own_weight(placement, adaptive, images):
    model = adaptive(placement)
    weight = torch.tensor([0.0, 1.0, 0.3, 0.5, 0.5, 1.0])
    logits, used = model.logits_and_weight(images, weight=weight)
    alone = [model(images[i : i + 1], weight=weight[i].item()) for i in range(6)]
    assert torch.equal(used, weight)
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ceiling", [1.0, 0.6])
@every_placement
def test_the_returned_weight_is_the_one_that_produced_the_logits(
    placement, ceiling, adaptive, images
):
    model = adaptive(placement, ceiling=ceiling)
    logits, weight = model.logits_and_weight(images)
    assert weight.shape == (6,)
    assert ((weight > 0) & (weight < 1)).all()
    assert torch.equal(model(images), logits)
    if placement != "per_norm":  # whose weight is a mean of several
        torch.testing.assert_close(model(images, weight=weight), logits)


@every_placement
def test_gradient_reaches_the_image_through_the_generator(placement, adaptive, images):
    model = adaptive(placement)
    images.requires_grad_(True)
    logits, weight = model.logits_and_weight(images)
    (of_weight,) = torch.autograd.grad(weight.sum(), images, retain_graph=True)
    (whole,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert (of_weight.flatten(1).abs().amax(dim=1) > 0).all()
    if placement != "per_norm":
        (held,) = torch.autograd.grad(model(images, weight=weight.detach())[:, 0].sum(), images)
        assert not torch.allclose(whole, held)


@every_placement
def test_only_the_generator_trains(placement, adaptive, images):
    model = adaptive(placement).train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model(images).square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("generator" in name for name in trained)
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for p in model.generator_parameters()
        if p.ndim > 1
    )
    for name, value in model.network.state_dict().items():
        if "generator" not in name:
            assert torch.equal(value, before[name])


@every_placement
def test_the_frozen_network_stays_in_eval_mode(placement, adaptive):
    model = adaptive(placement).train()
    generators = {module for g in model.generators() for module in g.modules()}
    for module in model.network.modules():
        assert module.training == (module in generators)
    assert all(module.training for module in generators)
    assert not any(module.training for module in model.eval().modules())


def test_stem_reads_the_first_convolution_before_any_norm(adaptive, images):
    model = adaptive("stem")
    _, weight = model.logits_and_weight(images)
    torch.testing.assert_close(weight, model.generator(model.network.stem(images)))


def test_per_norm_has_a_generator_for_each_pair(adaptive):
    model = adaptive("per_norm")
    assert len(model.generators()) == 2  # one for the norm that is used twice
    assert model.generator is None


def test_the_branched_network_is_copied_and_not_changed(adaptive, branched, images):
    before = branched(images, branch=1)
    model = adaptive("stem").train()
    model(images)
    nn.init.zeros_(model.network.head.weight)
    assert torch.equal(branched(images, branch=1), before)
    assert all(parameter.requires_grad for parameter in branched.parameters())


def fail(module, inputs):
    raise RuntimeError("out of memory")


@every_placement
@pytest.mark.parametrize("weight", [None, 0.5])
@pytest.mark.parametrize("fails", [False, True])
def test_no_state_outlives_a_call(placement, weight, fails, adaptive, images):
    model = adaptive(placement)
    expected = model(images)
    if fails:
        hook = model.network.head.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(images, weight=weight)
        hook.remove()
    else:
        model(images, weight=weight)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(images), expected)
    if placement != "per_norm":
        with pytest.raises(AssertionError, match="before its network had a fusing weight"):
            model.network(images)


class ActivatedNorm(nn.BatchNorm2d):
    """A norm that includes an activation, like timm's BatchNormAct2d."""

    def forward(self, features):
        return super().forward(features).relu()


def test_a_norm_that_does_more_than_normalise_is_kept_or_refused(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), ActivatedNorm(4), nn.Flatten(), nn.Linear(144, 3))
    model = with_branches(network, branches=2).eval()
    try:
        adaptive = fuse_branches(model, placement="input")
    except ValueError as refusal:
        assert "ActivatedNorm" in str(refusal)  # noqa: PT017
    else:
        torch.testing.assert_close(adaptive(images, weight=1.0), model(images, branch=0))


def test_a_config_attribute_of_an_external_network_is_ignored(external_cnn, images):
    external_cnn.config = {"hidden_size": 4}
    model = with_branches(external_cnn, branches=2).eval()
    assert fuse_branches(model, placement="stem").eval()(images).shape == (6, 3)


def test_the_adaptive_network_is_on_the_device_of_the_branches(branched):
    # The meta device takes the place of a GPU.
    model = fuse_branches(branched.to("meta"), placement="stem")
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.usefixtures("no_shape_checks")
def test_an_unknown_placement_is_refused(branched):
    with pytest.raises(ValueError, match=r"placement must be one of .*'stem'.* got 'roof'"):
        fuse_branches(branched, placement="roof")


@pytest.mark.parametrize("branches", [{"first": 3}, {"last": 7}, {"last": -1}])
def test_branches_that_do_not_exist_are_refused(branches, branched):
    with pytest.raises(IndexError, match=r"branch must be in \[0, 3\), got"):
        fuse_branches(branched, placement="input", **branches)


@every_placement
@pytest.mark.usefixtures("no_shape_checks")
def test_a_weight_for_another_number_of_images_is_refused(placement, adaptive, images):
    with pytest.raises(ValueError, match=r"one for each of the 6 images, got shape \(2,\)"):
        adaptive(placement)(images, weight=torch.tensor([0.1, 0.2]))


@every_placement
def test_with_a_weight_for_each_channel_every_norm_reads_its_own(placement, adaptive, images):
    model = adaptive(placement, each="channel")
    norms = [module for module in model.modules() if isinstance(module, FusedBatchNorm2d)]
    sizes = [norm.scale.shape[1] for norm in norms]
    outputs = [generator.linears[-1].out_features for generator in model.generators()]
    assert outputs == (sizes if placement == "per_norm" else [sum(sizes)])
    seen = {}
    for norm in norms:
        norm.register_forward_hook(lambda norm, given, out: seen.update({norm: given[1]}))
    _, gate = model.logits_and_gate(images)
    assert gate.shape == (6,)
    assert [tuple(seen[norm].shape) for norm in norms] == [(6, size) for size in sizes]
    assert not torch.allclose(seen[norms[0]][:, 0], seen[norms[0]][:, 1])
    if placement != "per_norm":
        everything = torch.cat([seen[norm] for norm in norms], dim=1)
        torch.testing.assert_close(torch.logit(everything).mean(1), gate)


@every_placement
def test_equal_channel_weights_equal_one_image_weight(placement, adaptive, images):
    model = adaptive(placement, each="channel")
    for generator in model.generators():
        nn.init.zeros_(generator.linears[-1].weight)
        nn.init.constant_(generator.linears[-1].bias, 0.4)
    weight = torch.sigmoid(torch.tensor(0.4)).item()
    torch.testing.assert_close(model(images), model(images, weight=weight))


@pytest.mark.usefixtures("no_shape_checks")
def test_an_unknown_granularity_is_refused(adaptive):
    with pytest.raises(ValueError, match=r"each must be one of .*, got 'pixel'"):
        adaptive("input", each="pixel")


@pytest.mark.parametrize("separate", ["statistics", "affine"])
def test_branches_that_share_statistics_or_affine_maps_are_fused(separate, external_cnn, images):
    network = with_branches(external_cnn, 2, separate)
    network(images, branch=(0, 1))
    network(2 * images[:3] - 0.5, branch=1)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2 and name.endswith(("norm.weight", "norm.bias")):
            nn.init.uniform_(parameter, 0.5, 2.0)
    model = fuse_branches(network.eval(), placement="input", hidden=4).eval()
    torch.testing.assert_close(model(images, weight=1.0), network(images, branch=0))
    torch.testing.assert_close(model(images, weight=0.0), network(images, branch=1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-5)])
def test_every_layout_and_precision_gives_the_same_map_and_gradients(layout, dtype, tolerance):
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(4, 6, 5, 3, generator=generator).to(dtype)
    norm = FusedBatchNorm2d(6)
    norm.scale.uniform_(0.5, 2.0, generator=generator)
    norm.shift.normal_(generator=generator)
    weight = torch.rand(4, generator=generator).requires_grad_(True)
    given = features.contiguous(memory_format=layout).requires_grad_(True)
    result = norm(given, weight)
    both = weight[:, None], 1 - weight[:, None]
    scale = both[0] * norm.scale[0] + both[1] * norm.scale[1]
    shift = both[0] * norm.shift[0] + both[1] * norm.shift[1]
    exact = given.float()
    expected = exact * scale[:, :, None, None] + shift[:, :, None, None]
    assert result.dtype == dtype
    assert torch.allclose(result.float(), expected, rtol=tolerance, atol=tolerance)
    ours = torch.autograd.grad(result.float().square().sum(), [given, weight], retain_graph=True)
    theirs = torch.autograd.grad(expected.square().sum(), [given, weight])
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(
            mine.float(), reference.float(), rtol=4 * tolerance, atol=40 * tolerance
        )


@every_placement
def test_threads_that_share_a_model_do_not_mix_their_weights(placement, adaptive, images):
    model = adaptive(placement)
    calls = {
        "clean": partial(model, images, weight=1.0),
        "robust": partial(model, images.flip(0), weight=0.0),
    }
    expected = {name: call() for name, call in calls.items()}
    answers = together(calls, first_convolution(model.network))
    for name, answer in expected.items():
        assert torch.equal(answers[name], answer)
    assert not torch.allclose(expected["clean"], expected["robust"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_the_norms_of_a_copy_share_the_copys_state(copied):
    images, _ = images_and_labels(3)
    model = fuse_branches(with_branches(wide_resnet(), 2), placement="input", ceiling=0.5).eval()
    twin = copied(model)
    sites = [m for m in twin.modules() if hasattr(m, "state") and m is not twin]
    assert sites
    assert all(site.state is twin.state for site in sites)
    assert twin.state is not model.state
    assert twin.state.ceiling == 0.5
    assert torch.equal(twin(images), model(images))
