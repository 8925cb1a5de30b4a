"""An objective of another package: stored by name, trained with, refused with the reason."""

import json
from dataclasses import replace

import pytest
import torch
from by_hand import batch as batch_of
from tiny import images_and_labels, learnable, wide_resnet
from torch import nn

import equipoise
from equipoise.methods import SingleNetwork
from equipoise.objectives import TRADES, AnyObjective, ImportedObjective, Objective
from equipoise.objectives.imported import _made
from equipoise.recipes import RECIPES, from_json, to_json
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.reporter import NullReporter
from equipoise.runtime.trust import trusting
from equipoise.training.schedule import Schedule


@pytest.fixture(autouse=True)
def not_imported_before():
    """Each test starts as a new process does, so that none passes by what another has trusted."""
    _made.cache_clear()


MINE = ImportedObjective(function="equipoise.objectives:TRADES", arguments={"beta": 2.0})


def test_it_behaves_as_the_objective_that_the_function_makes():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    clean, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    batch = batch_of(clean, (clean + 0.1).clamp(0, 1), labels, network, network, seed=0)
    with trusting("equipoise"):
        assert isinstance(MINE, Objective)
        assert MINE.start_noise == TRADES().start_noise
        torch.testing.assert_close(MINE.losses(batch), TRADES(beta=2.0).losses(batch))
        torch.testing.assert_close(
            MINE.goal(network, clean, labels)(batch.adversarial),
            TRADES().goal(network, clean, labels)(batch.adversarial),
        )


def test_a_recipe_stores_it_by_name():
    assert from_json(json.loads(json.dumps(to_json(MINE))), AnyObjective) == MINE


@pytest.mark.usefixtures("no_shape_checks")  # they ask what they check
@pytest.mark.parametrize("name", ["pgd_at_digits", "afa_digits", "afs_digits", "oat_digits"])
def test_a_recipe_is_read_without_its_code_and_planned_only_with_it(name):
    recipe = RECIPES[name]()
    recipe = replace(recipe, method=replace(recipe.method, objective=MINE))
    read = from_json(json.loads(json.dumps(to_json(recipe))))
    assert read == recipe

    def run():
        task = read.method.stages(lambda: wide_resnet())[0].build({})
        return task(*images_and_labels(2), torch.Generator(), 0.0)

    with pytest.raises(RunError, match=r"equipoise\.objectives, which is not trusted"):
        run()
    with trusting("equipoise"):
        assert run()["loss"].isfinite()


def test_what_a_method_cannot_train_with_is_refused_before_training():
    plain = ImportedObjective(function="equipoise.objectives:Standard")
    recipe = RECIPES["afa_digits"]()
    method = replace(recipe.method, objective=plain)
    with trusting("equipoise"), pytest.raises(InvalidInput, match="AFA needs an objective with an"):
        method.stages(lambda: wide_resnet())


def test_a_method_in_python_takes_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    schedule = Schedule(epochs=1, learning_rate=0.1)
    method = SingleNetwork(objective=MINE, epsilon=0.1, schedule=schedule)
    with trusting("equipoise.objectives"):
        model = equipoise.train(network, learnable(), method=method, reporter=NullReporter())
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 2)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            "equipoise.objectives:TRADES",
            {"gamma": 1},
            r"cannot be called .*gamma",
        ),
        (
            "torch.nn:Flatten",
            {},
            r"got Flatten, which lacks attacks, start",
        ),
        ("equipoise.objectives:LBGAT", {}, r"must return an objective, got LBGAT, which lacks"),
    ],
)
def test_what_makes_no_objective_is_refused(function, arguments, message):
    imported = ImportedObjective(function=function, arguments=arguments)
    with trusting("equipoise", "torch.nn"), pytest.raises(InvalidInput, match=message):
        _ = imported.attacks


def test_code_runs_only_if_it_is_trusted_and_named_in_full():
    with pytest.raises(RunError, match="json:loads is code in the module json, which is not trust"):
        _ = ImportedObjective(function="json:loads").attacks
    with pytest.raises(InvalidInput, match="written module:function"):
        ImportedObjective(function="mine")
