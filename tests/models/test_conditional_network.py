import copy
import pickle
from functools import partial

import pytest
import torch
from tiny import together
from torch import nn

from equipoise.models import (
    ConditionalNetwork,
    PreActResNet,
    ResNet,
    WideResNet,
    load,
    save,
    with_conditioning,
)
from equipoise.models.conditional_network import norms_without_film
from equipoise.models.film import FiLM
from equipoise.models.preference_encoding import PreferenceCode

ENCODINGS = ["none", "onehot", "dct", "random"]
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
close = {"rtol": 1e-4, "atol": 1e-5}


def trained(model, generator):
    """Give every norm different statistics and affine parameters; return it in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return model.eval()


@pytest.fixture
def conditional(external_cnn, generator):
    def make(**settings):
        torch.manual_seed(0)
        return trained(with_conditioning(external_cnn, **({"size": 8} | settings)), generator)

    return make


def wide_resnet(depth=10, width=1):
    return WideResNet(depth=depth, width=width, classes=10)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def norms(model, branch):
    """Return the norms of a branch, in order."""
    suffix = f"norms.{branch}"
    return [module for name, module in model.named_modules() if name.endswith(suffix)]


def moved(norm):
    return int(norm.num_batches_tracked) > 0


@every_encoding
@pytest.mark.parametrize("training", [True, False])
def test_with_identity_film_and_one_norm_the_network_is_unchanged(
    encoding, training, external_cnn, images, generator
):
    trained(external_cnn, generator).train(training)
    model = with_conditioning(external_cnn, encoding=encoding, size=8, dual=False, start="identity")
    model.train(training)
    preference = torch.tensor([0.0, 0.1, 1.0, 0.0, 0.4, 0.2])
    answers = model(images, preference=preference)
    torch.testing.assert_close(answers, external_cnn(images), rtol=0, atol=0)
    assert torch.equal(norms(model, 0)[0].running_mean, external_cnn.shared_norm.running_mean)


@every_encoding
@pytest.mark.parametrize("dual", [True, False])
def test_each_image_of_a_batch_gets_the_logits_of_its_own_preference(
    encoding, dual, conditional, images
):
    model = conditional(encoding=encoding, dual=dual)
    preference = torch.tensor([0.1, 0.0, 1.0, 0.0, 0.4, 0.1])
    alone = [model(images[i : i + 1], preference=round(preference[i].item(), 1)) for i in range(6)]
    torch.testing.assert_close(model(images, preference=preference), torch.cat(alone), **close)
    assert not torch.allclose(model(images, preference=0.0), model(images, preference=1.0))
    assert not torch.allclose(model(images, preference=0.1), model(images, preference=1.0))


def test_permuting_the_batch_permutes_the_logits(conditional, images, generator):
    model = conditional()
    preference = torch.tensor([0.1, 0.0, 1.0, 0.0, 0.4, 0.1])
    answers = model(images, preference=preference)
    for _ in range(5):
        order = torch.randperm(6, generator=generator)
        permuted = model(images[order], preference=preference[order])
        torch.testing.assert_close(permuted, answers[order], **close)


def test_permuting_a_batch_in_train_mode_permutes_the_logits_and_keeps_the_statistics(
    conditional, images
):
    model, order = conditional().train(), torch.tensor([5, 0, 3, 1, 2, 4])
    twin = copy.deepcopy(model)
    preference = torch.tensor([0.1, 0.0, 1.0, 0.0, 0.4, 0.1])
    answers = model(images, preference=preference)
    permuted = twin(images[order], preference=preference[order])
    torch.testing.assert_close(permuted, answers[order], **close)
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), **close)


def test_parts_of_a_batch_give_the_logits_of_the_whole(conditional, images):
    model = conditional()
    preference = torch.tensor([0.0, 0.0, 0.0, 0.4, 1.0, 0.1])
    parts = zip(images.chunk(2), preference.chunk(2), strict=True)
    answers = [model(part, preference=p) for part, p in parts]
    torch.testing.assert_close(torch.cat(answers), model(images, preference=preference), **close)


@pytest.mark.parametrize(
    ("preference", "clean", "robust"),
    [
        (0.0, True, False),
        (0.4, False, True),
        ([0.0] * 6, True, False),
        ([0.1] * 6, False, True),
        ([0.0, 1.0] * 3, True, True),
    ],
)
def test_a_call_updates_only_its_own_norms(preference, clean, robust, conditional, images):
    model = conditional().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    if isinstance(preference, list):
        preference = torch.tensor(preference)
    model(images, preference=preference)
    assert [moved(norm) for norm in norms(model, 0)] == [clean] * 2
    assert [moved(norm) for norm in norms(model, 1)] == [robust] * 2


def test_each_norm_sees_the_rows_of_its_own_preferences(images):
    first = nn.BatchNorm2d(3)
    model = with_conditioning(nn.Sequential(first, nn.Flatten()), size=6).train()
    preference = torch.tensor([0.1, 0.0, 1.0, 0.0, 0.4, 0.1])
    model(images, preference=preference)
    for branch, rows in ((0, preference == 0), (1, preference > 0)):
        (norm,) = norms(model, branch)
        expected = 0.1 * images[rows].mean(dim=(0, 2, 3))
        torch.testing.assert_close(norm.running_mean, expected)


def test_in_train_mode_a_split_batch_equals_separate_calls_including_gradients(conditional, images):
    together = conditional().train()
    apart = copy.deepcopy(together)
    preference = torch.tensor([0.1, 0.0, 1.0, 0.0, 0.4, 0.1])
    answers = together(images, preference=preference)
    answers.square().sum().backward()
    parts = torch.empty_like(answers)
    for rows in (preference == 0, preference > 0):
        parts[rows] = apart(images[rows], preference=preference[rows])
    parts.square().sum().backward()
    torch.testing.assert_close(answers, parts, **close)
    torch.testing.assert_close(together.state_dict(), apart.state_dict(), **close)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("zeros", [0, 1])
def test_small_batches_run_in_train_mode(count, zeros, conditional, images):
    model = conditional().train()
    preference = torch.full((count,), 0.3)
    preference[:zeros] = 0.0
    answers = model(images[:count], preference=preference)
    assert answers.shape == (count, 3)
    assert answers.isfinite().all()


def test_every_norm_gets_one_film_even_if_it_is_used_twice(conditional):
    films = [module for module in conditional().modules() if isinstance(module, FiLM)]
    assert len(films) == 2
    assert [film.linears[0].in_features for film in films] == [8, 8]


def test_both_norms_start_as_copies_of_the_networks(external_cnn, generator):
    trained(external_cnn, generator)
    model = with_conditioning(external_cnn, size=8)
    for branch in (0, 1):
        torch.testing.assert_close(
            norms(model, branch)[0].state_dict(), external_cnn.shared_norm.state_dict()
        )
    assert isinstance(external_cnn.shared_norm, nn.BatchNorm2d)  # copied, not changed


class Residual(nn.Module):
    """Named as in torchvision, with the shortcut's norm at ``downsample.1``."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 3)

    def forward(self, images):
        features = self.bn1(self.conv1(images)) + self.downsample(images)
        return self.fc(features.relu().mean(dim=(2, 3)))


def test_the_norm_of_a_shortcut_is_dual_without_film(images):
    model = with_conditioning(Residual(), size=8)
    assert norms_without_film(Residual()) == ("downsample.1",)
    assert model.network.bn1.film is not None
    assert model.network.downsample[1].film is None
    assert len(model.network.downsample[1].norm.norms) == 2
    assert model(images).shape == (6, 3)


def test_the_names_of_norms_without_film_may_be_given(images):
    model = with_conditioning(Residual(), size=8, without_film=("bn1",))
    assert model.network.bn1.film is None
    assert model.network.downsample[1].film is not None
    everywhere = with_conditioning(Residual(), size=8, without_film=())
    assert sum(isinstance(module, FiLM) for module in everywhere.modules()) == 2


def test_the_final_norm_of_a_wide_resnet_gets_no_film_even_in_a_wrapper():
    inner = nn.Sequential(nn.Identity(), wide_resnet())
    assert norms_without_film(wide_resnet()) == ("norm",)
    assert norms_without_film(inner) == ("1.norm",)
    assert norms_without_film(PreActResNet(width=4, classes=3)) == ("norm",)
    model = with_conditioning(wide_resnet())
    assert model.network.norm.film is None
    assert sum(isinstance(module, FiLM) for module in model.modules()) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "width", "plain", "single", "dual"),
    [
        (16, 8, 10_961_370, 15_437_370, 16_228_922),
        (40, 2, 2_243_546, 3_226_682, 3_886_394),
    ],
)
def test_wide_resnets_have_as_many_parameters_as_in_oats_code(depth, width, plain, single, dual):
    """Counted with OAT's code: d = 1 with one norm, d = 128 with two."""
    with torch.device("meta"):
        network = wide_resnet(depth, width)
    network = network.to_empty(device="cpu")
    assert parameters(network) == plain
    assert parameters(with_conditioning(network, encoding="none", dual=False)) == single
    assert parameters(with_conditioning(network)) == dual


@pytest.mark.slow
def test_resnet_34_has_as_many_parameters_as_in_oats_code():
    with torch.device("meta"):
        network = ResNet(depth=34, classes=10)
    network = network.to_empty(device="cpu")
    millions = [
        parameters(model) / 1e6
        for model in (
            network,
            with_conditioning(network, encoding="none", dual=False),
            with_conditioning(network),
        )
    ]
    assert millions == pytest.approx([21.28, 31.40, 33.36], abs=0.005)


@every_encoding
def test_a_loaded_model_keeps_its_codes_and_default(encoding, images, tmp_path, generator):
    torch.manual_seed(0)
    model = with_conditioning(
        wide_resnet(), encoding=encoding, size=8, default=0.2, without_film=("norm",)
    )
    model.code = PreferenceCode(model.preferences, encoding, size=8, seed=3)
    save(trained(model, generator), tmp_path)
    torch.manual_seed(1)
    loaded = load(tmp_path)
    assert isinstance(loaded, ConditionalNetwork)
    assert loaded.config == model.config
    assert (loaded.preferences, loaded.default) == (model.preferences, 0.2)
    preference = torch.tensor([0.1, 0.0, 1.0, 0.0, 0.4, 0.1])
    for given in (0.0, 0.3, 1.0, preference, None):
        answers = model(images, preference=given)
        assert torch.equal(loaded(images, preference=given), answers)
    assert torch.equal(loaded(images), model.at(0.2)(images))


def test_the_default_can_be_changed_before_saving(images, tmp_path):
    model = with_conditioning(wide_resnet(), size=8).eval()
    assert model.default == 1.0
    model.default = 0.1
    save(model, tmp_path)
    assert torch.equal(load(tmp_path)(images), model.at(0.1)(images))


def test_a_fixed_preference_is_a_classifier_that_shares_the_weights(conditional, images):
    model = conditional()
    clean, robust = model.at(0.0), model.at(1.0)
    for view, preference in ((clean, 0.0), (robust, 1.0)):
        assert not view.training
        assert view.preference == preference
        assert torch.equal(view(images), model(images, preference=preference))
    with torch.no_grad():
        model.network.head.bias.add_(1.0)
    assert torch.equal(robust(images), model(images, preference=1.0))
    assert {id(p) for p in robust.parameters()} == {id(p) for p in model.parameters()}


def test_a_fixed_preference_needs_a_code(conditional):
    with pytest.raises(ValueError, match=r"preference 0.5 has no code"):
        conditional().at(0.5)
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got 8"):
        conditional(encoding="none").at(8)
    assert conditional(encoding="none").at(0.5).preference == 0.5


def test_no_routing_state_outlives_a_call_even_a_failing_one(conditional, images):
    model = conditional()
    model(images)
    with pytest.raises(AssertionError, match="called outside its network"):
        model.network(images)

    def fail(module, inputs):
        raise RuntimeError("out of memory")

    hook = model.network.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(images)
    hook.remove()
    with pytest.raises(AssertionError, match="called outside its network"):
        model.network(images)


def test_threads_that_share_a_model_do_not_mix_their_preferences(conditional, images):
    model = conditional()
    calls = {p: partial(model, images, preference=p) for p in (0.0, 1.0)}
    expected = {preference: call() for preference, call in calls.items()}
    answers = together(calls, model.network.stem)
    assert all(torch.equal(answers[p], expected[p]) for p in calls)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_the_norms_of_a_copy_share_the_copys_route(copied, images):
    model = with_conditioning(wide_resnet(), size=8).eval()
    twin = copied(model)
    assert twin.route is twin.network.norm.route
    assert twin.route is not model.route
    assert torch.equal(twin(images, preference=0.1), model(images, preference=0.1))


def test_a_network_that_mixes_rows_takes_one_preference_only(images):
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images):
            return self.norm(images.reshape(-1, 3, 4, 8)).reshape(len(images), -1)

    model = with_conditioning(Folded(), size=8).eval()
    assert model(images, preference=0.1).shape == (6, 192)
    with pytest.raises(ValueError, match="a norm got 12 rows in a call of 6 images"):
        model(images, preference=torch.full((6,), 0.1))


def test_a_preference_for_another_number_of_images_is_refused(conditional, images, no_shape_checks):
    for shape in ((5,), (6, 1), ()):
        with pytest.raises(ValueError, match="one number or one for each of the 6 images"):
            conditional()(images, preference=torch.zeros(shape))


@pytest.mark.parametrize("preference", [1.5, -0.1, float("nan")])
def test_a_preference_out_of_range_is_refused(preference, conditional, images):
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got"):
        conditional()(images, preference=preference)
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got"):
        conditional()(images, preference=torch.full((6,), preference))


def test_a_network_without_batch_norm_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten())
    with pytest.raises(ValueError, match=r"Sequential has no nn.BatchNorm2d.*OAT needs"):
        with_conditioning(network)


def test_names_that_are_not_norms_are_refused():
    with pytest.raises(ValueError, match=r"must name norms .*bn1, downsample.1; got bn2"):
        with_conditioning(Residual(), without_film=("bn2",))
    with pytest.raises(ValueError, match="names every norm"):
        with_conditioning(Residual(), without_film=("bn1", "downsample.1"))


def test_unknown_settings_are_refused(external_cnn, no_shape_checks):
    with pytest.raises(ValueError, match="start must be one of"):
        with_conditioning(external_cnn, start="ones")
    with pytest.raises(ValueError, match="encoding must be one of"):
        with_conditioning(external_cnn, encoding="fourier")
    with pytest.raises(ValueError, match=r"default must be one of the preferences .*got 0.5"):
        with_conditioning(external_cnn, default=0.5)
    with pytest.raises(ValueError, match="preferences must be one or more"):
        with_conditioning(external_cnn, preferences=())
    assert with_conditioning(external_cnn, encoding="none", default=0.5).default == 0.5


def test_a_network_without_a_config_can_be_conditioned_but_not_saved(conditional):
    with pytest.raises(ValueError, match="cannot be saved as a model folder"):
        _ = conditional().config
