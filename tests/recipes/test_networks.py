from dataclasses import replace

import pytest
import tiny

from equipoise.models import PreActResNet, ResNet, ResNet9, WideResNet
from equipoise.recipes import (
    RECIPES,
    PreActResNetShape,
    ResNet9Shape,
    ResNetShape,
    WideResNetShape,
    from_json,
    to_json,
)

SHAPES = {
    WideResNet: WideResNetShape(depth=10, width=2, activation="silu"),
    ResNet: ResNetShape(depth=34, width=2, stem="imagenet"),
    PreActResNet: PreActResNetShape(depth=34, width=2),
    ResNet9: ResNet9Shape(widths=(4, 4, 8, 8), residual=(1, 0, 2), pooling="average"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_makes_its_network_for_the_data(kind):
    network = SHAPES[kind].maker(tiny.digits())()
    assert type(network) is kind
    assert (network.config["classes"], network.config["channels"]) == (10, 1)
    for name, value in vars(SHAPES[kind]).items():
        assert network.config[name] == value


def test_each_call_makes_a_fresh_network():
    make = WideResNetShape(depth=10, width=1).maker(tiny.digits())
    assert not tiny.same(tiny.weights(make()), tiny.weights(make()))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_recipe_with_any_network_goes_through_json_and_back(kind):
    recipe = replace(RECIPES["pgd_at_digits"](), network=SHAPES[kind])
    content = to_json(recipe)
    assert content["network"]["kind"] == type(SHAPES[kind]).__name__
    assert from_json(content) == recipe


def test_a_network_without_a_kind_is_a_wide_resnet():
    recipe = RECIPES["pgd_at_digits"]()
    content = to_json(recipe)
    del content["network"]["kind"]
    assert from_json(content) == recipe


@pytest.mark.parametrize(
    ("network", "message"),
    [({"kind": "MAGIC"}, "MAGIC"), ({"depth": 10}, "width"), ({"kind": 3}, "3")],
)
def test_an_invalid_network_is_refused_by_name(network, message):
    content = to_json(RECIPES["pgd_at_digits"]()) | {"network": network}
    with pytest.raises(ValueError, match=rf"not a recipe of this version: .*{message}"):
        from_json(content)
