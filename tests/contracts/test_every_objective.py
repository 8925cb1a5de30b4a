"""What every objective guarantees. To test a new one, add a line to ``OBJECTIVES``."""

import json

import pytest

from equipoise.contracts import OBJECTIVE_CHECKS
from equipoise.contracts.base import title
from equipoise.contracts.objectives import saturated_logits_give_finite_losses_and_gradients
from equipoise.objectives import (
    AVM,
    FAT,
    GAT,
    IAT,
    LBGAT,
    MART,
    PGDAT,
    TLA,
    TRADES,
    AnyObjective,
    Standard,
)
from equipoise.recipes import from_json, to_json

OBJECTIVES = [
    Standard(),
    Standard(label_smoothing=0.1),
    PGDAT(),
    PGDAT(label_smoothing=0.1),
    TRADES(),
    TRADES(beta=1.0),
    MART(),
    IAT(),
    FAT(),
    FAT(over=TRADES(beta=2.0), tau=1),
    FAT(over=MART(), tau=3),
    GAT(),
    GAT(weight=1.0),
    TLA(),
    LBGAT(),
    LBGAT(beta=6.0),
    AVM(),
]

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


@every_objective
@pytest.mark.parametrize("check", OBJECTIVE_CHECKS, ids=title)
def test_every_check_of_an_objective_holds(check, objective):
    check(objective)


@every_objective
def test_logits_that_float32_can_hardly_hold_give_finite_losses_and_gradients(objective):
    if isinstance(objective, LBGAT):
        pytest.skip("the distance of logits is their square")
    saturated_logits_give_finite_losses_and_gradients(objective, sizes=(1e30,))


@every_objective
def test_two_with_the_same_settings_are_equal_and_frozen(objective):
    assert objective == type(objective)(**vars(objective))
    with pytest.raises(AttributeError, match="cannot assign"):
        objective.label_smoothing = 0.5


@every_objective
def test_it_goes_through_json_and_back(objective):
    text = json.dumps(to_json(objective), allow_nan=False)
    assert from_json(json.loads(text), AnyObjective) == objective
