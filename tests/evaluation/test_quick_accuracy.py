"""``robust_accuracy``, the single search that validation makes."""

from dataclasses import replace

import pytest
import torch
from linear_oracle import exact, grey
from tiny import linear

from equipoise.attacks import PGD
from equipoise.attacks.threat import Linf
from equipoise.evaluation import robust_accuracy

STRONG = PGD(steps=20, relative_step=0.25, keep="best")


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.05])
def test_robust_accuracy_is_exact_for_a_linear_model(epsilon):
    model, data = linear(2).eval(), grey()
    generator = torch.Generator().manual_seed(0)
    found = robust_accuracy(
        model, data, threat=Linf(epsilon), search=STRONG, generator=generator, batch_size=64
    )
    expected = (exact(model, data, epsilon, float("inf")) > 0).double().mean()
    assert found == pytest.approx(float(expected), abs=1 / 200)


def test_the_search_uses_autocast_and_scoring_does_not():
    calls = []

    class Autocast:
        def __enter__(self):
            calls.append("in")

        def __exit__(self, *problem):
            calls.append("out")

    def predict(images):
        calls.append("predict")
        return linear(2)(images)

    generator = torch.Generator().manual_seed(0)
    search = PGD(steps=1, relative_step=1.0)
    robust_accuracy(
        predict, grey(4), threat=Linf(0.1), search=search, generator=generator, autocast=Autocast
    )
    assert calls[:4] == ["predict", "in", "predict", "out"]
    assert set(calls[4:]) == {"predict"}  # what autocast misclassifies is confirmed without it


def test_broken_images_are_not_searched_any_more():
    model, data = linear(2).eval(), grey()
    data = replace(data, labels=torch.cat([1 - data.labels[:40], data.labels[40:]]))
    searched = []

    def predict(images):
        if torch.is_grad_enabled() and images.requires_grad:
            searched.append(len(images))
        return model(images)

    generator = torch.Generator().manual_seed(0)
    left = robust_accuracy(
        predict, data, threat=Linf(0.05), search=STRONG, generator=generator, batch_size=256
    )
    right = int((model(data.batch(slice(None))[0]).argmax(1) == data.labels).sum())
    assert 0 < left * len(data) < right < len(data)
    assert searched[0] == len(data)  # all have a random start
    assert searched[1] <= right
    assert searched[-1] < searched[1]
