"""The time of inference that export measures."""

import pytest
import tiny
import torch
from exportable import adaptive
from torch import nn

from equipoise.deployment.export import export_model
from equipoise.deployment.latency import latency_sentence, measure_latency
from equipoise.models import FeatureStack, count_parameters
from equipoise.runtime.files import read_json


def test_afa_is_timed_beside_its_plain_network_and_others_alone():
    network = adaptive()
    before = tiny.weights(network)
    measured = measure_latency(network, (1, 8, 8), batches=(1, 3), seconds=0.01)
    assert list(measured["milliseconds"]) == list(measured["plain"]) == ["1", "3"]
    assert measured["parameters"] == count_parameters(network)
    assert measured["threads"] == torch.get_num_threads()
    assert tiny.same(tiny.weights(network), before)
    assert "times as long as the network without AFA" in latency_sentence(measured)
    stack = FeatureStack([tiny.wide_resnet(), tiny.wide_resnet()], classes=10).eval()
    measured = measure_latency(stack, (1, 8, 8), batches=(2,), seconds=0.01)
    assert measured["plain"] is None
    assert "AFA" not in latency_sentence(measured)


def test_the_time_is_the_median_of_a_call_in_milliseconds(monkeypatch):
    now = [0.0]

    class Clock(nn.Module):
        """Takes a second for each image, and in its first call much longer."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, images):
            self.calls += 1
            now[0] += len(images) if self.calls > 1 else 1000
            return images.flatten(1)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    measured = measure_latency(Clock(), (1, 2, 2), batches=(1, 4), seconds=0.01)
    assert measured["milliseconds"] == {"1": 1000.0, "4": 4000.0}


@pytest.mark.slow
def test_export_prints_the_cost_and_writes_it_on_the_card(folder, tmp_path):
    done = export_model(folder, tmp_path / "model.pt2")
    measured = read_json(folder / "latency.json")
    assert done.card["latency"] == measured
    assert done.summary().endswith(latency_sentence(measured))
    text = (folder / "model" / "README.md").read_text()
    assert f"## Cost\n\n{latency_sentence(measured)}" in text
