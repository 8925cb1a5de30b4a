"""An evaluation after an edit gives what one from nothing gives, and state is found."""

import importlib
import sys
from dataclasses import replace

import pytest
import tiny
import torch

from equipoise.api import demo
from equipoise.api.evaluate import evaluate
from equipoise.api.evaluation_settings import EvaluationSettings
from equipoise.data import DataSet
from equipoise.runtime.files import write_json

HEADER = """
import torch
from torch import nn
from torch.nn import functional as F
from edited_helper import FACTOR

class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()
    @staticmethod
    def backward(ctx, gradient):
        return -gradient

class Net(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(10, 64, generator=generator)
        self.weight = nn.Parameter(SCALE * weight)
        self.seen = []

    def logits(self, images):
        return FACTOR * F.linear(images.flatten(1), self.weight)
"""
PLAIN = "    def forward(self, images): return self.logits(images)\n"
MASKED = """
    def forward(self, images):
        logits = self.logits(images)
        off = ((images * 255 - (images * 255).round()).abs().amax((1, 2, 3)) > 1e-3)[:, None]
        return torch.where(off, F.one_hot(logits.argmax(1), 10) * 20. + 0 * logits, logits)
"""
AT_STRONGEST = """
    def forward(self, images):
        logits = self.logits(images)
        moved = images.flatten(1).amin(1, keepdim=True) < 0.2  # clean pixels are 0.25 or more
        return torch.where(moved, logits.roll(1, 1), logits)
"""


def body(text):
    return f"    def forward(self, images): return {text}\n"


EDITS = {
    "a constant in the weights": (("1.0", PLAIN, "1.0"), ("-1.0", PLAIN, "1.0")),
    "a mask is removed": (("1.0", MASKED, "1.0"), ("1.0", PLAIN, "1.0")),
    "a mask is added": (("1.0", PLAIN, "1.0"), ("1.0", MASKED, "1.0")),
    "a softmax is added": (
        ("1.0", PLAIN, "1.0"),
        ("1.0", body("self.logits(images).softmax(1)"), "1.0"),
    ),
    "preprocessing": (("1.0", PLAIN, "1.0"), ("1.0", body("self.logits(images ** 2)"), "1.0")),
    "a helper module": (("1.0", PLAIN, "1.0"), ("1.0", PLAIN, "-1.0")),
    "the backward pass alone": (
        ("1.0", body("self.logits(Wrong.apply(images))"), "1.0"),
        ("1.0", PLAIN, "1.0"),
    ),
    "off the grid alone": (
        ("1.0", PLAIN, "1.0"),
        ("1.0", body("self.logits((images * 255).round() / 255)"), "1.0"),
    ),
    "at the strongest strength alone": (
        ("1.0", PLAIN, "1.0"),
        ("1.0", AT_STRONGEST, "1.0"),
    ),
    "the order of the classes": (
        ("1.0", PLAIN, "1.0"),
        ("1.0", body("self.logits(images).flip(1)"), "1.0"),
    ),
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("edited_model", "edited_helper"):
        sys.modules.pop(name, None)


@pytest.fixture
def data() -> DataSet:
    split = tiny.split(16)
    split = replace(split, images=64 + split.images // 2)
    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    labels = (split.images.flatten(1).float() @ weight.T).argmax(1)
    split = replace(split, labels=labels)
    return DataSet(name="d", train=split, test=split, class_names=tuple("abcdefghij"))


def write(folder, scale, forward, factor):
    """Write the code of a model, as an editor would between two commands."""
    (folder / "edited_helper.py").write_text(f"FACTOR = {factor}\n")
    make = "\ndef make(): return Net().eval()\n"
    (folder / "edited_model.py").write_text(f"SCALE = {scale}\n{HEADER}{forward}{make}")
    for name in ("edited_model", "edited_helper"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def measure(data, **settings):
    settings = {"checks": False, "epsilons": (0.0, 0.02, 0.1), "steps": 3} | settings
    record, path = evaluate("edited_model:make", dataset=data, suites=("quick",), **settings)
    times = ("seconds", "environment", "identity")
    kept = {key: value for key, value in record.items() if key not in times}
    for suite in kept["suites"]:
        for attack in suite["attacks"]:
            del attack["seconds"]
    return kept, path


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_an_evaluation_after_an_edit_gives_the_record_of_one_from_nothing(
    edit, data, tmp_path, monkeypatch
):
    before, after = EDITS[edit]
    write(tmp_path, *before)
    measure(data)
    write(tmp_path, *after)
    edited, _ = measure(data)
    (tmp_path / "runs").rename(tmp_path / "earlier")
    from_nothing, _ = measure(data)
    assert edited == from_nothing


def test_an_unchanged_model_is_not_attacked_again(data, tmp_path):
    write(tmp_path, "1.0", PLAIN, "1.0")
    first, path = measure(data)
    folders = sorted((path.parents[1] / "evaluations").iterdir())
    units = {unit: unit.stat().st_mtime_ns for unit in folders[0].rglob("*.safetensors")}
    assert measure(data)[0] == first
    assert sorted((path.parents[1] / "evaluations").iterdir()) == folders
    assert units == {unit: unit.stat().st_mtime_ns for unit in folders[0].rglob("*.safetensors")}


@pytest.mark.slow
def test_behaviour_that_no_file_tells_of_is_noticed_where_searches_ended(data, tmp_path):
    """The source is the same, and a variable says whether the mask is there."""
    switch = MASKED.replace("return torch", "if REPAIRED: return logits\n        return torch")
    write(tmp_path, "1.0\nREPAIRED = False", switch, "1.0")
    measure(data)
    sys.modules["edited_model"].REPAIRED = True
    edited, path = measure(data)
    assert len(list((path.parents[1] / "evaluations").iterdir())) == 2
    (tmp_path / "runs").rename(tmp_path / "earlier")
    assert measure(data)[0] == edited


@pytest.mark.slow
def test_checks_are_carried_over_only_to_the_same_function(data, tmp_path):
    write(tmp_path, "1.0", PLAIN, "1.0")
    checked, path = measure(data, checks=True)
    assert measure(data)[0]["self_checks"] == checked["self_checks"]
    write(tmp_path, "1.0", body("self.logits(images).softmax(1)"), "1.0")
    record, later = measure(data)
    assert later == path
    assert "self_checks" not in record


COUNTS = """
    def forward(self, images):
        self.calls = self.calls + 1
        logits = self.logits(images)
        if self.calls <= {limit}: return logits
        return F.one_hot(logits.argmax(1), 10) * 9. + 0 * logits
"""
REPEATS = """
    def forward(self, images):
        logits, answers = self.logits(images), []
        for image, own in zip(images.detach(), logits):
            old = [a for i, a in self.seen if (i - image).abs().amax() <= 0.11]
            answers.append(own - own.detach() + old[0] if old else own)
        self.seen = self.seen + list(zip(images.detach(), logits.detach()))
        return torch.stack(answers)
"""
STATEFUL = {
    "counts queries": COUNTS.format(limit=30),
    "changes with the first call": COUNTS.format(limit=1),
    "repeats its answers": REPEATS,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATEFUL)
def test_a_model_that_remembers_queries_gets_the_score_of_a_fresh_one_and_a_mark(
    kind, data, tmp_path
):
    write(tmp_path, "1.0", PLAIN, "1.0")
    truth, _ = measure(data)
    assert "marks" not in truth
    write(tmp_path, "1.0", STATEFUL[kind], "1.0")
    record, _ = measure(data)
    assert record["headline"] == truth["headline"]
    assert [mark["name"] for mark in record["marks"]] == ["stateful"]
    again, _ = measure(data)
    assert again == record


@pytest.mark.slow
def test_a_stateful_model_has_a_finding_that_says_so(data, tmp_path):
    write(tmp_path, "1.0", STATEFUL["changes with the first call"], "1.0")
    record, _ = measure(data, checks=True)
    (finding,) = (f for f in record["self_checks"] if f["name"] == "stateful")
    assert finding["verdict"] == "warn"
    assert finding["numbers"]["could_flatter"] == 0


def test_the_demo_uses_a_record_again_only_of_the_same_weights(tmp_path, monkeypatch):
    recipe, calls = tiny.recipe(), []
    monkeypatch.setattr(demo, "train", lambda *arguments, **settings: None)
    monkeypatch.setattr(demo, "weights_sha256", lambda folder: "these weights")
    monkeypatch.setattr(demo, "evaluate", lambda folder, reporter: calls.append(folder) or [{}])
    settings = EvaluationSettings(evaluation=recipe.evaluation).to_json()
    made = tiny.record() | {"weights_sha256": "these weights", "settings": settings}
    path = tmp_path / "records" / f"{recipe.name}__seed{recipe.seed}.json"
    changes: list[dict] = [{}, {"weights_sha256": "others"}, {"settings": []}]
    for change in changes:
        write_json(path, made | change)
        demo.train_and_evaluate(recipe, tmp_path, reporter=demo.NullReporter())
    assert len(calls) == 2
