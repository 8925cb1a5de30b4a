"""Unusual input of kinds that users have tried: done, or refused with a remedy."""

import argparse
import threading

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import equipoise as eq
from equipoise.attacks import NFGSM
from equipoise.attacks.goals import value_and_gradient
from equipoise.models.io.state_dict_file import read_state_dict
from equipoise.recipes import RECIPES
from equipoise.runtime.errors import InvalidInput, RunError, TrainingError, UserError

PGD = eq.PGD(steps=2, relative_step=0.5)
SETTINGS = {"epsilons": (0.0, 0.1), "suites": ("tables",), "steps": 1, "checks": False}


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    ).eval()


def images(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def brightness(points):
    return points.sum((1, 2, 3))


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (4 * images() - 2, "images in .0, 1., got values from -"),
        (255 * images(), "divide pixels of 0 to 255 by 255"),
        (images() * float("nan"), "got NaN"),
        ((255 * images()).byte(), r"images.float\(\) / 255"),
    ],
)
@pytest.mark.parametrize("search", [PGD, NFGSM()], ids=["pgd", "nfgsm"])
@pytest.mark.usefixtures("no_shape_checks")
def test_images_that_no_threat_is_defined_for(search, moved, message):
    with pytest.raises(InvalidInput, match=message):
        search(brightness, moved, eq.Linf(0.1), torch.Generator())


@pytest.mark.parametrize("search", [PGD, NFGSM()], ids=["pgd", "nfgsm"])
@pytest.mark.parametrize("threat", [0.1, eq.Linf, None])
@pytest.mark.usefixtures("no_shape_checks")
def test_what_is_no_threat(search, threat):
    with pytest.raises(InvalidInput, match=r"threat must be a threat such as Linf\(8 / 255\), got"):
        search(brightness, images(), threat, torch.Generator())


@pytest.mark.parametrize("epsilon", ["8/255", None, True, [0.1, 0.2]])
@pytest.mark.parametrize("threat", [eq.Linf, eq.L2])
@pytest.mark.usefixtures("no_shape_checks")
def test_a_radius_that_is_no_number(threat, epsilon):
    with pytest.raises(InvalidInput, match=r"epsilon must be a number in pixel units.*got"):
        threat(epsilon)


@pytest.mark.usefixtures("no_shape_checks")
def test_half_a_step():
    with pytest.raises(InvalidInput, match=r"whole numbers of 1 or more, got 2.5 and 1"):
        eq.PGD(steps=2.5, relative_step=0.5)


def test_goals_without_a_gradient():
    with pytest.raises(InvalidInput, match=r"detaches its output .*Square"):
        value_and_gradient(lambda points: brightness(points.detach()), images())
    with (
        torch.inference_mode(),
        pytest.raises(InvalidInput, match=r"inside torch.inference_mode\(\)"),
    ):
        value_and_gradient(brightness, images())
    with torch.no_grad():
        assert value_and_gradient(brightness, images())[1].eq(1).all()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"norm": "linf"}, "norm must be one of Linf, L2, got 'linf'"),
        ({"images": 2.5}, "images must be a whole number of 1 or more, got 2.5"),
        ({"epsilons": ("0", "eight")}, "epsilon must be a number or a fraction such as 8/255"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_settings_of_an_evaluation_that_mean_nothing(choices, message, tmp_path):
    data = (images(), torch.arange(8))
    split = eq.as_split(data, classes=10)
    with pytest.raises(UserError, match=message):
        eq.evaluate(network(), split, folder=tmp_path, **(SETTINGS | choices))


@pytest.mark.slow
@pytest.mark.parametrize("epsilons", [np.array([0, 0.1]), ("0", "0.1"), [0, 0.1]])
def test_strengths_as_people_have_them(epsilons, tmp_path):
    split = eq.as_split((images(), torch.arange(8)), classes=10)
    result = eq.evaluate(network(), split, folder=tmp_path, **(SETTINGS | {"epsilons": epsilons}))
    assert list(result.accuracy) == [0.0, 0.1]


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.arange(10.0))

    def forward(self, images):
        return self.logits.expand(len(images), 10)


@pytest.mark.slow
def test_a_network_of_constant_logits_is_evaluated(tmp_path):
    split = eq.as_split((images(), torch.arange(8)), classes=10)
    result = eq.evaluate(Constant().eval(), split, folder=tmp_path, **SETTINGS)
    assert result.accuracy[0.1] == result.accuracy[0.0] == 0.0


def test_a_network_that_fails_on_the_images_is_evaluated_with_an_error(tmp_path):
    split = eq.as_split((torch.rand(4, 3, 8, 8), torch.arange(4)), classes=10)
    with pytest.raises(RunError, match=r"fails on images of shape \(3, 8, 8\): RuntimeError.*data"):
        eq.evaluate(network(), split, folder=tmp_path, **SETTINGS)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network(2)

    def forward(self, images):
        return self.inner(images).detach()


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.lock = network(2), threading.Lock()

    def forward(self, images):
        return self.inner(images)


LAZY = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Detached(), r"do not depend on its parameters.*leave out no_grad"),
        (nn.Flatten(), r"no parameter that can be trained|must return 2 logits"),
        (LAZY, r"lazy layers without weights; call it on one batch"),
        (Locked(), r"Locked cannot be copied .*module:function"),
    ],
    ids=["detached", "no parameters", "lazy", "locked"],
)
def test_networks_that_cannot_be_trained_are_refused_before_training(made, message):
    with pytest.raises((InvalidInput, TrainingError), match=message):
        eq.train(made, tiny.learnable(), epochs=1, epsilon=0.05)


def test_a_caller_without_gradients_trains_all_the_same():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not eq.train(network(2), tiny.learnable(), epochs=1, epsilon=0.05).training


def test_a_norm_that_is_used_twice_is_trained(tmp_path):
    norm = nn.BatchNorm2d(1)
    shared = nn.Sequential(
        norm, nn.Conv2d(1, 1, 3, padding=1), norm, nn.Flatten(), nn.Linear(64, 2)
    )
    trained = eq.train(shared, tiny.learnable(), epochs=1, epsilon=0.05, folder=tmp_path / "run")
    again = eq.train(shared, tiny.learnable(), epochs=1, epsilon=0.05, folder=tmp_path / "run")
    assert tiny.same(tiny.weights(trained), tiny.weights(again))


def test_training_says_what_becomes_of_the_images():
    reporter = tiny.AfterSteps(0, None)
    eq.train(network(2), tiny.learnable(), epochs=1, epsilon=0.05, reporter=reporter)
    assert any("images are trained on" in line for line in reporter.lines)


@pytest.mark.parametrize("content", [b"", b"these are no weights", b"epoch,loss\n1,2\n"])
def test_files_that_are_no_checkpoints(content, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(RunError, match=r"cannot be read as tensors and plain values"):
        read_state_dict(tmp_path / "weights.pth")


def test_scores_and_arguments_beside_the_weights(tmp_path):
    state = network().state_dict()
    about = {"best": np.float64(0.5), "args": argparse.Namespace(rate=0.1), "epoch": np.int64(3)}
    torch.save({"state_dict": state, **about}, tmp_path / "weights.pth")
    assert tiny.same(read_state_dict(tmp_path / "weights.pth"), state)


def test_a_remedy_names_the_flags_of_its_own_stage():
    _, gate = RECIPES["afa_digits"]().method.stages(lambda: None)
    assert "--method.gate-schedule.clip-norm 1" in gate.remedy(0.1)
    *_, merger = RECIPES["afs_digits"]().method.stages(lambda: None)
    assert "--method.merger-schedule.learning-rate" in merger.remedy()
