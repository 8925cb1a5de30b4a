import copy
from functools import partial

import pytest
import torch
from tiny import together
from torch import nn

from equipoise.models import BranchedNetwork, MultiBatchNorm2d, WideResNet, with_branches
from equipoise.models.afa.branches import model_soup
from equipoise.models.afa.layer_placement import first_convolution


def norms(model):
    """Each norm's branches, in order."""
    return [list(m.norms) for m in model.modules() if isinstance(m, MultiBatchNorm2d)]


def statistics(norm):
    return [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]


@pytest.fixture
def features(generator):
    return torch.randn(6, 4, 3, 3, generator=generator)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"momentum": None}, {"eps": 0.1}])
def test_one_branch_is_a_batch_norm(training, settings, features):
    plain = nn.BatchNorm2d(4, **settings)
    multi = MultiBatchNorm2d(plain, branches=1)
    for batch in (features, 2 * features + 1):
        torch.testing.assert_close(multi(batch, branch=0), plain(batch), rtol=0, atol=0)
    plain.train(training)
    multi.train(training)
    torch.testing.assert_close(multi(features, branch=0), plain(features), rtol=0, atol=0)
    assert torch.equal(multi.norms[0].running_mean, plain.running_mean)
    assert torch.equal(multi.norms[0].running_var, plain.running_var)
    assert multi.norms[0].num_batches_tracked == plain.num_batches_tracked


def test_every_branch_starts_as_a_copy_that_shares_nothing(features):
    like = nn.BatchNorm2d(4)
    like(features)
    like.weight.data.uniform_(1, 2, generator=torch.Generator().manual_seed(0))
    multi = MultiBatchNorm2d(like, branches=3)
    for norm in multi.norms:
        torch.testing.assert_close(norm.state_dict(), like.state_dict(), rtol=0, atol=0)
    pointers = [t.data_ptr() for n in (like, *multi.norms) for t in n.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_call_updates_only_its_own_branch(branch, features):
    multi = MultiBatchNorm2d(nn.BatchNorm2d(4), branches=3)
    multi(3 * features + 2, branch=branch).square().sum().backward()
    for k, norm in enumerate(multi.norms):
        moved = k == branch
        assert norm.num_batches_tracked.item() == int(moved)
        assert (norm.running_mean.abs().max() > 0) == moved
        assert (norm.weight.grad is not None) == moved
        assert (norm.bias.grad is not None) == moved


def test_a_group_of_rows_updates_only_its_own_branch(features):
    multi = MultiBatchNorm2d(nn.BatchNorm2d(4), branches=3)
    multi(features, branch=(2, 0))
    for norm, rows in zip(multi.norms, (features[3:], None, features[:3]), strict=True):
        expected = torch.zeros(4) if rows is None else 0.1 * rows.mean(dim=(0, 2, 3))
        torch.testing.assert_close(norm.running_mean, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("branch", [(0, 1, 2), (2, 0, 1), (1, 2)])
def test_the_grouped_forward_equals_separate_ones(training, branch, images):
    torch.manual_seed(0)
    # Groups never mix rows, so a whole network splits like a single norm.
    grouped = with_branches(WideResNet(depth=10, width=1, classes=3), branches=3).train(training)
    separate = copy.deepcopy(grouped)

    logits = grouped(images, branch=branch)
    logits.square().sum().backward()
    parts = [
        separate(group, branch=k)
        for k, group in zip(branch, images.chunk(len(branch)), strict=True)
    ]
    torch.cat(parts).square().sum().backward()

    torch.testing.assert_close(logits, torch.cat(parts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grouped.state_dict(), separate.state_dict())
    for a, b in zip(grouped.parameters(), separate.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


def test_each_branch_equals_a_network_with_its_norms(branched, external_cnn, images):
    external_cnn.eval()
    for k in range(3):
        shared, inner = (branches[k] for branches in norms(branched))
        external_cnn.shared_norm, external_cnn.block[1] = shared, inner
        torch.testing.assert_close(branched(images, branch=k), external_cnn(images))


def test_fresh_branches_compute_what_the_network_computes(external_cnn, images):
    external_cnn(images)
    external_cnn.eval()
    model = with_branches(external_cnn, branches=2)
    for k in range(2):
        torch.testing.assert_close(model(images, branch=k), external_cnn(images))


def test_the_given_network_is_copied_and_not_changed(external_cnn, images):
    before = copy.deepcopy(external_cnn.state_dict())
    model = with_branches(external_cnn, branches=2)
    model(images, branch=1).sum().backward()
    assert isinstance(external_cnn.shared_norm, nn.BatchNorm2d)
    torch.testing.assert_close(external_cnn.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in external_cnn.parameters())


def test_a_norm_used_twice_stays_one_norm(external_cnn, images):
    model = with_branches(external_cnn, branches=2)
    model(images, branch=1)
    shared = norms(model)[0]
    assert len(norms(model)) == 2
    assert [norm.num_batches_tracked.item() for norm in shared] == [0, 2]


def test_a_norm_with_two_names_is_replaced_under_both(images):
    norm = nn.BatchNorm2d(3)
    model = with_branches(nn.Sequential(norm, nn.ReLU(), norm, nn.Flatten()), branches=2)
    model(images, branch=1)
    assert len(norms(model)) == 1
    assert isinstance(model.network[2], type(model.network[0]))
    assert [norm.num_batches_tracked.item() for norm in norms(model)[0]] == [0, 2]


def test_a_branched_network_can_be_copied(branched, images):
    twin = copy.deepcopy(branched)
    torch.testing.assert_close(twin(images, branch=2), branched(images, branch=2))
    twin.train()
    twin(images, branch=2)
    for original, copied in zip(norms(branched), norms(twin), strict=True):
        assert not torch.equal(original[2].running_mean, copied[2].running_mean)


def test_there_is_no_default_branch(branched, images):
    with pytest.raises(TypeError, match="branch"):
        branched(images)


def test_no_routing_state_outlives_a_call(branched, images):
    branched(images, branch=1)
    with pytest.raises(AssertionError, match="called outside its network"):
        branched.network(images)


def test_no_routing_state_outlives_a_failing_call(branched, images):
    def fail(module, inputs):
        raise RuntimeError("out of memory")

    hook = branched.network.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        branched(images, branch=1)
    hook.remove()
    with pytest.raises(AssertionError, match="called outside its network"):
        branched.network(images)


@pytest.mark.parametrize("branch", [3, -1, (0, 3)])
def test_a_branch_that_does_not_exist_is_refused(branch, branched, images):
    with pytest.raises(IndexError, match=r"branch must be in \[0, 3\), got"):
        branched(images, branch=branch)


@pytest.mark.parametrize("branch", [(0, 1, 2, 0), ()])
def test_a_batch_that_does_not_split_is_refused(branch, branched, images):
    with pytest.raises(ValueError, match="a batch of 6 does not split into"):
        branched(images, branch=branch)


@pytest.mark.parametrize("branches", [0, -1])
def test_fewer_than_one_branch_is_refused(branches, external_cnn):
    with pytest.raises(ValueError, match=f"branches must be 1 or more, got {branches}"):
        with_branches(external_cnn, branches)


def test_a_network_without_batch_norm_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten())
    with pytest.raises(ValueError, match=r"Sequential has no nn.BatchNorm2d.*AFS can stack any"):
        with_branches(network, branches=2)


def test_a_network_without_a_config_can_be_branched_but_not_saved(branched):
    assert isinstance(branched, BranchedNetwork)
    with pytest.raises(ValueError, match="cannot be saved as a model folder"):
        _ = branched.config


def trained(separate, branches=3):
    """A norm whose branches differ in statistics and affine parameters."""
    generator = torch.Generator().manual_seed(0)
    multi = MultiBatchNorm2d(nn.BatchNorm2d(4), branches, separate)
    for k in range(branches):
        multi((k + 1) * torch.randn(8, 4, 3, 3, generator=generator) + k, branch=k)
    for parameter in multi.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0, generator=generator)
    return multi


@pytest.mark.parametrize("separate", ["both", "statistics", "affine"])
def test_a_copied_norm_computes_what_its_branch_computes(separate, features):
    multi = trained(separate).eval()
    for k in range(3):
        alone = multi.norm_copy(k)
        torch.testing.assert_close(alone.eval()(features), multi(features, branch=k))
        alone.weight.data.zero_()
    assert bool(multi(features, branch=(0, 1, 2)).any())  # the zeroed norms were copies


def test_branches_with_statistics_of_their_own_share_one_affine_map(features):
    multi = trained("statistics").train()
    assert [tuple(p.shape) for p in multi.parameters()] == [(1, 4), (1, 4)]
    before = [norm.running_mean.clone() for norm in multi.norms]
    multi(features, branch=1).square().sum().backward()
    moved = [not torch.equal(a, n.running_mean) for a, n in zip(before, multi.norms, strict=True)]
    assert moved == [False, True, False]
    assert multi.weight.grad.count_nonzero() == 4


def test_branches_with_affine_maps_of_their_own_share_the_statistics_of_all_rows(features):
    multi = trained("affine").train()
    assert len(multi.norms) == 1
    out = multi(features, branch=(0, 2))
    normed = nn.functional.batch_norm(features, None, None, training=True)
    for rows, k in ((slice(0, 3), 0), (slice(3, 6), 2)):
        expected = normed[rows] * multi.weight[k][:, None, None] + multi.bias[k][:, None, None]
        torch.testing.assert_close(out[rows], expected)
    out.square().sum().backward()
    assert [bool(row.any()) for row in multi.weight.grad] == [True, False, True]


@pytest.mark.parametrize("separate", ["statistics", "affine"])
def test_separating_norms_without_an_affine_map_is_refused(separate):
    with pytest.raises(ValueError, match="use separate='both'"):
        MultiBatchNorm2d(nn.BatchNorm2d(4, affine=False), 2, separate)


@pytest.mark.usefixtures("no_shape_checks")
def test_an_unknown_value_of_separate_is_refused():
    with pytest.raises(ValueError, match=r"separate must be one of .*, got 'none'"):
        MultiBatchNorm2d(nn.BatchNorm2d(4), 2, "none")


@pytest.mark.parametrize(("weight", "branch"), [(1.0, 0), (0.0, 2)])
def test_a_soup_with_all_weight_on_one_branch_is_that_branch(weight, branch, branched, images):
    branched.eval()
    network = model_soup(branched, weight).eval()
    torch.testing.assert_close(network(images), branched(images, branch=branch))
    assert not any(isinstance(module, MultiBatchNorm2d) for module in network.modules())


def test_a_soup_interpolates_the_outermost_branches(branched):
    mixed = [m for m in model_soup(branched, 0.25).modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, branches in zip(mixed, norms(branched), strict=True):
        for name in ("weight", "bias", "running_mean", "running_var"):
            clean, robust = getattr(branches[0], name), getattr(branches[2], name)
            torch.testing.assert_close(getattr(norm, name), 0.25 * clean + 0.75 * robust)


def test_a_soup_weight_outside_zero_to_one_is_refused(branched):
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 1.5"):
        model_soup(branched, 1.5)


def test_threads_that_share_a_model_do_not_mix_their_branches(branched, images):
    branched.eval()
    calls = {k: partial(branched, images, branch=k) for k in (0, 2)}
    expected = {k: call() for k, call in calls.items()}
    answers = together(calls, first_convolution(branched.network))
    assert all(torch.equal(answers[k], expected[k]) for k in calls)
    assert not torch.allclose(expected[0], expected[2])
