"""The contract of a recipe: a value that JSON stores, with a plan whose stages take a step."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from equipoise.contracts.base import Check, require, seeded
from equipoise.data import DataSet
from equipoise.models.io.validate_card import check_card
from equipoise.recipes import Recipe, from_json, to_json
from equipoise.runtime.errors import InvalidInput

STEP_IMAGES = 16


@dataclass(frozen=True)
class RecipeCase:
    """A recipe's function, and data for a step.

    Args:
        make: Returns the recipe.
        dataset: Its data, or others with images of the same kind.
    """

    make: Callable[[], Recipe]
    dataset: DataSet

    def stages(self) -> list[Any]:
        """Plan the recipe's stages."""
        recipe = self.make()
        return recipe.method.stages(recipe.network.maker(self.dataset))


def it_is_the_same_frozen_value_each_time(case: RecipeCase) -> None:
    """So that a run's recipe can be compared with it."""
    recipe = case.make()
    require(recipe == case.make(), "two calls return recipes that differ")
    try:
        recipe.seed = 1  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return
    require(False, "a field can be assigned")


def its_name_can_name_a_folder(case: RecipeCase) -> None:
    """The run folder and the records are named after it."""
    name = case.make().name
    require(name in repr(case.make()), "its name is not printed")
    try:
        check_card({"name": name})
    except InvalidInput as error:
        require(False, str(error))


def it_survives_json(case: RecipeCase) -> None:
    """A run folder stores it as JSON, without NaN or infinity."""
    recipe = case.make()
    again = from_json(json.loads(json.dumps(to_json(recipe), allow_nan=False)))
    changed = [
        field.name
        for field in dataclasses.fields(Recipe)
        if getattr(again, field.name) != getattr(recipe, field.name)
    ]
    require(not changed, f"JSON changes its {', '.join(changed)}")


def its_stages_have_names_of_their_own_and_need_only_earlier_ones(case: RecipeCase) -> None:
    """A plan can be made of its network and data."""
    seen: set[str] = set()
    for stage in case.stages():
        missing = set(stage.needs) - seen
        require(not missing, f"stage {stage.name} needs {', '.join(missing)}, which come later")
        unique = stage.name not in seen and "/" not in stage.name
        require(unique, f"the name {stage.name} is used twice, or cannot name a folder")
        seen.add(stage.name)


def a_step_of_every_stage_gives_gradients_to_what_it_trains(case: RecipeCase) -> None:
    """On 16 training images; losses and gradients are finite."""
    images, labels = case.dataset.train.first(STEP_IMAGES).batch(slice(None))
    outcomes: dict[str, nn.Module] = {}
    for stage in case.stages():
        task = stage.build({need: outcomes[need] for need in stage.needs}).train()
        if not stage.trains:
            outcomes[stage.name] = task.outcome()
            logits = outcomes[stage.name].eval()(images)
            require(logits.isfinite().all(), f"the logits of {stage.name} are not finite")
            continue
        trained = [p for p in task.parameters() if p.requires_grad]
        loss = task(images, labels, seeded(), 0.0)["loss"]
        require(loss.isfinite(), f"the loss of {stage.name} is {float(loss.detach())}")
        loss.backward()
        moved = [p for p in trained if p.grad is not None and bool(p.grad.any())]
        finite = all(bool(torch.isfinite(p.grad).all()) for p in moved if p.grad is not None)
        require(finite, f"a gradient of {stage.name} is not finite")
        require(
            len(moved) > len(trained) / 2,
            f"only {len(moved)} of {len(trained)} parameters of {stage.name} get a gradient",
        )
        outcomes[stage.name] = task.outcome()


RECIPE_CHECKS: tuple[Check[RecipeCase], ...] = (
    it_is_the_same_frozen_value_each_time,
    its_name_can_name_a_folder,
    it_survives_json,
    its_stages_have_names_of_their_own_and_need_only_earlier_ones,
    a_step_of_every_stage_gives_gradients_to_what_it_trains,
)
