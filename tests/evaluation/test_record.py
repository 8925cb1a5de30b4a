import json

import pytest
import torch
from tiny import linear, split, wide_resnet
from torch import nn

from equipoise.attacks.threat import L2, Linf
from equipoise.evaluation import (
    EvaluationFacts,
    measure_profile,
    model_internals,
    record_of,
    suites_for,
)
from equipoise.evaluation import record as record_module
from equipoise.models import FeatureStack, fuse_branches, with_branches

EPSILONS = (0.0, 0.1, 8 / 255)  # not sorted


def adaptive() -> nn.Module:
    torch.manual_seed(0)
    return fuse_branches(with_branches(wide_resnet(), 2), placement="input").eval()


def internals(model: nn.Module, data, epsilons=EPSILONS, threat=Linf, seed: int = 0) -> dict:
    return model_internals(model, data, threat=threat, epsilons=epsilons, seed=seed)


def record(model: nn.Module | None = None, seed: int = 0, images: int = 12) -> dict:
    model = (model or linear()).eval()
    data = split(images)
    suites = suites_for(model, ("quick", "adaptive"), classes=10, steps=2, restarts=1)
    profile = measure_profile(model, data, threat=Linf, epsilons=EPSILONS, suites=suites, seed=seed)
    facts = EvaluationFacts(
        model="a model",
        data="noise",
        part="test",
        images_sha256="0" * 64,
        norm="Linf",
        seed=seed,
        batch_size=256,
        search_precision="32-true",
        seconds=1.0,
        parameters=650,
        labels=data.labels,
        extra=internals(model, data, profile.epsilons, seed=seed),
    )
    return record_of(profile, facts)


@pytest.mark.slow
def test_a_record_is_json():
    found = record(adaptive())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_headline_is_the_worst_case_with_its_interval():
    found = record()
    headline = found["headline"]
    assert found["epsilons"] == [0.0, 8 / 255, 0.1]
    assert found["epsilons_written"] == ["0", "8/255", "0.1"]
    accuracy = headline["accuracy"]
    attacks = [attack for suite in found["suites"] for attack in suite["attacks"]]
    broken = list(zip(*(attack["broken_at"] for attack in attacks), strict=True))
    for level in range(3):
        right = [all(at == -1 or at > level for at in row) for row in broken]
        assert accuracy[level] == pytest.approx(sum(right) / 12)
        low, high = headline["interval"][level]
        assert low <= accuracy[level] <= high
    assert headline["average"] == pytest.approx(sum(accuracy) / 3)
    assert headline["clean_and_strongest"] == pytest.approx((accuracy[0] + accuracy[-1]) / 2)


@pytest.mark.slow
def test_the_record_of_an_attack_holds_its_settings():
    found = record(adaptive())
    assert [suite["name"] for suite in found["suites"]] == ["quick", "adaptive"]
    for suite in found["suites"]:
        assert len(suite["broken_at"]) == len(suite["broken_by"]) == found["images"] == 12
        for attack in suite["attacks"]:
            assert {"name", "loss", "search", "restarts"} <= set(attack)
            if attack["search"] == "PGD":
                assert (attack["steps"], attack["relative_step"]) == (2, 0.25)
            assert len(attack["broken_at"]) == 12
            assert len(attack["images_attacked"]) == 2
            assert attack["forward_passes"] >= attack["backward_passes"]
            assert attack["backward_passes"] > 0 or attack["search"] == "Square"
    assert found["forward_passes"] == sum(
        attack["forward_passes"] for suite in found["suites"] for attack in suite["attacks"]
    )


def test_a_record_holds_its_settings_and_environment():
    found = record()
    assert found["format"] == 1
    assert (found["model"], found["data"], found["norm"]) == ("a model", "noise", "Linf")
    assert (found["seed"], found["seconds"], found["parameters"]) == (0, 1.0, 650)
    assert {"commit", "versions", "processor"} <= set(found["environment"])


def test_the_same_seed_gives_the_same_record():
    assert untimed(record()) == untimed(record())


def untimed(found):
    """A record without the times of its attacks."""
    for suite in found["suites"]:
        for attack in suite["attacks"]:
            del attack["seconds"]
    return found


def test_the_internals_of_an_adaptive_network_are_its_fusing_weights():
    model, data = adaptive(), split(12)
    curves = internals(model, data)["fusing_weight"]
    assert set(curves) == {"through_generator", "through_robust_branch"}
    with torch.no_grad():
        clean = 1 - model.logits_and_weight(data.batch(slice(None))[0])[1]
    for curve in curves.values():
        assert len(curve) == 3
        assert curve[0]["mean"] == pytest.approx(float(clean.mean()))
        assert all(0 <= point["mean"] <= 1 and point["std"] >= 0 for point in curve)
        assert curve[0]["per_image"] == pytest.approx(clean.tolist(), abs=5.1e-5)
        assert all(round(w, 4) == w for point in curve for w in point["per_image"])


def test_a_record_holds_the_fusing_weights_of_the_first_images_only(monkeypatch):
    monkeypatch.setattr(record_module, "WEIGHTS_PER_RECORD", 5)
    model, data = adaptive(), split(12)
    curve = internals(model, data)["fusing_weight"]["through_generator"]
    first = internals(model, split(12).take(slice(0, 5)))["fusing_weight"]["through_generator"]
    assert curve[0]["per_image"] == first[0]["per_image"]
    assert curve[0]["mean"] != first[0]["mean"]


def test_the_internals_of_a_stack_are_the_importances_of_its_members():
    stack = FeatureStack([wide_resnet(), wide_resnet(seed=1)], 10).eval()
    importance = internals(stack, split(2))["importance"]
    assert len(importance) == 2
    assert sum(importance) == pytest.approx(1)


def test_a_plain_network_has_no_internals():
    assert internals(wide_resnet().eval(), split(2)) == {}


def test_internals_are_measured_under_the_given_threat():
    made = []

    def threat(epsilon):
        made.append(epsilon)
        return L2(epsilon)

    internals(adaptive(), split(2), (0.0, 0.5), threat)
    assert set(made) == {0.5}


def test_measuring_internals_leaves_the_model_unchanged():
    model = adaptive()
    before = [p.requires_grad for p in model.parameters()]
    internals(model, split(2))
    assert [p.requires_grad for p in model.parameters()] == before
    assert not model.training


def test_a_record_of_a_single_image_is_json_too():
    json.dumps(record(adaptive(), images=1), allow_nan=False)


def test_internals_are_measured_in_batches(monkeypatch):
    data, asked = split(300), []
    batch = type(data).batch

    def counted(self, rows):
        images, labels = batch(self, rows)
        asked.append(len(labels))
        return images, labels

    monkeypatch.setattr(type(data), "batch", counted)
    internals(adaptive(), data, epsilons=(0.0,))
    assert max(asked) == 256


def test_accuracies_per_class_average_to_the_headline():
    found = record(images=30)
    rows = found["per_class"]
    assert sum(row["images"] for row in rows) == 30
    assert [row["class"] for row in rows] == sorted(split(30).labels.unique().tolist())
    for level, accuracy in enumerate(found["headline"]["accuracy"]):
        total = sum(row["images"] * row["accuracy"][level] for row in rows)
        assert total / 30 == pytest.approx(accuracy)
