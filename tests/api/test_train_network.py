"""Training a network in memory: a copy, with defaults, resumed, refused."""

from functools import partial

import numpy
import pytest
import torch
from tiny import learnable, split
from torch import nn

import equipoise
from equipoise.methods import AFA
from equipoise.models import AdaptiveNetwork, FeatureStack, WideResNet, load
from equipoise.objectives import TRADES
from equipoise.recipes.default_methods import METHODS, default_method
from equipoise.runtime.errors import InvalidInput, RunError, TrainingError
from equipoise.runtime.reporter import NullReporter
from equipoise.training.schedule import Schedule

SHORT = Schedule(epochs=1, learning_rate=0.1)
train = partial(
    equipoise.train,
    epsilon=0.1,
    epochs=1,
    learning_rate=0.1,
    batch_size=16,
    reporter=NullReporter(),
)


def network(classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1, classes=classes, channels=1).eval()


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_copy_is_trained_and_the_same_seed_gives_the_same_weights():
    start, data = network(), learnable()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    trained = [train(start, data, seed=seed) for seed in (0, 0, 1)]
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    assert not start.training
    assert not trained[0].training
    assert type(trained[0]) is WideResNet
    assert not same_weights(start, trained[0])
    assert same_weights(trained[0], trained[1])
    assert not same_weights(trained[0], trained[2])


@pytest.mark.slow
def test_training_learns_what_can_be_learned():
    images, labels = learnable(256).batch(slice(None))
    trained = train(network(), (images, labels), epochs=4)
    assert float((trained(images).argmax(dim=1) == labels).float().mean()) > 0.9


def test_training_starts_from_the_weights_of_the_network():
    """With a learning rate of almost 0 the outcome is the start."""
    start = network()
    near = train(start, learnable(), method="standard", learning_rate=1e-9)
    for before, after in zip(start.parameters(), near.parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_named_method_has_its_highest_strength_where_it_is_asked_for(name):
    method = default_method(name, epsilon=0.05, schedule=SHORT)
    strengths = [getattr(method, "epsilon", 0.0), *getattr(method, "strengths", ())]
    strengths += getattr(method, "budgets", ())
    assert max(strengths) == pytest.approx(0.0 if name == "standard" else 0.05)
    assert method.schedule == SHORT


@pytest.mark.slow
def test_afa_and_afs_return_their_own_kinds_of_network():
    adaptive = train(network(), learnable(), method="afa")
    assert isinstance(adaptive, AdaptiveNetwork)
    stacked = train(network(), learnable(), method="afs")
    assert isinstance(stacked, FeatureStack)
    assert len(stacked.members) == 4


def test_a_method_brings_its_own_settings():
    method = AFA(objective=TRADES(), strengths=(0.0, 0.1), schedule=SHORT, gate_schedule=SHORT)
    quiet = NullReporter()
    model = equipoise.train(network(), learnable(), method=method, batch_size=16, reporter=quiet)
    assert isinstance(model, AdaptiveNetwork)
    with pytest.raises(InvalidInput, match=r"epsilon belong to the method AFA\(...\); set them"):
        equipoise.train(network(), learnable(), method=method, epsilon=0.1)


def test_a_stack_keeps_its_members_and_trains_the_merger():
    members = [network(), nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()]
    before = [{name: v.clone() for name, v in m.state_dict().items()} for m in members]
    stacked = equipoise.stack(
        members, learnable(), epsilon=0.1, epochs=1, batch_size=16, reporter=NullReporter()
    )
    assert stacked.sizes() == [64, 64]
    for member, kept in zip(members, before, strict=True):
        assert all(torch.equal(kept[name], value) for name, value in member.state_dict().items())
    with pytest.raises(InvalidInput, match="a stack needs two or more networks, got 1"):
        equipoise.stack(members[:1], learnable())


def test_a_folder_continues_its_own_run_and_refuses_another(tmp_path):
    folder = tmp_path / "run"
    first = train(network(), learnable(), folder=folder)
    again = train(network(), learnable(), folder=folder)
    assert same_weights(first, again)
    assert same_weights(first, load(folder))
    with pytest.raises(RunError, match=r"holds another run \(differs in method.epsilon\)"):
        train(network(), learnable(), epsilon=0.2, folder=folder)
    with pytest.raises(RunError, match=r"differs in images"):
        train(network(), learnable(40), folder=folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and holds no run"):
        train(network(), learnable(), folder=tmp_path / "notes")


@pytest.mark.slow
def test_training_and_evaluation_read_a_path(tmp_path):
    images, labels = learnable().batch(slice(None))
    pixels = (images * 255).round().to(torch.uint8).numpy()
    arrays = {"images": pixels, "labels": labels.numpy()}
    parts = {f"{part}_{name}": arrays[name] for part in ("train", "test") for name in arrays}
    numpy.savez(tmp_path / "mine.npz", **parts)
    trained = train(network(), tmp_path / "mine.npz")
    result = equipoise.evaluate(
        trained, tmp_path / "mine.npz", epsilons=(0.0, 0.02), folder=tmp_path / "records"
    )
    assert len(result.accuracy) == 2


def test_a_network_that_cannot_be_built_again_is_trained_all_the_same(tmp_path):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    train(linear, learnable(), folder=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "pgd"}, "method must be one of .* got 'pgd'; did you mean pgd_at"),
        ({"metod": "pgd_at"}, "train takes no argument metod; it takes method, epsilon"),
        ({"validation": 0.5}, r"validation must be a share in \(0, 0\.2\], got 0.5"),
        ({"epsilon": -0.1}, "must"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(InvalidInput, match=message):
        equipoise.train(network(), learnable(), **settings)


def test_what_is_no_network_or_does_not_fit_is_refused():
    with pytest.raises(
        InvalidInput, match=r"must be an nn.Module or module:function, got function"
    ):
        equipoise.train(lambda images: images, learnable())
    with pytest.raises(TrainingError, match="must return 10 logits per image"):
        equipoise.train(network(classes=2), split(), epochs=1)
