import json
import sys
import textwrap

import pytest
import torch
from tiny import images_and_labels, linear, wide_resnet
from torch import nn

from equipoise.models.io.exported import CARD_FILE
from equipoise.models.io.external import is_external, load_external
from equipoise.models.io.logits_of import LogitsOf
from equipoise.runtime.errors import RunError


class Returns(nn.Module):
    """Returns the result of a function of the images."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images.flatten(1)[:, :10])


@pytest.fixture
def images():
    return images_and_labels(4)[0]


def test_a_tensor_of_logits_is_returned_unchanged(images):
    model = LogitsOf(Returns(lambda logits: logits))
    assert torch.equal(model(images), images.flatten(1)[:, :10])


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("make", "select"),
    [
        (lambda logits: {"logits": logits, "features": logits + 1}, "logits"),
        (lambda logits: (logits + 1, logits), "1"),
        (Output, "logits"),
    ],
)
def test_a_part_of_the_output_is_selected(images, make, select):
    model = LogitsOf(Returns(make), select)
    assert torch.equal(model(images), images.flatten(1)[:, :10])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_becomes_two(images, shape):
    single = LogitsOf(Returns(lambda logits: (logits[:, 0] - 0.5).reshape(shape)), "binary")
    result = single(images)
    assert result.shape == (4, 2)
    assert torch.equal(result.argmax(dim=1), (images[:, 0, 0, 0] > 0.5).long())


@pytest.mark.parametrize(
    ("make", "select", "message"),
    [
        (lambda z: {"a": z, "b": z}, None, r"a dict with the keys \['a', 'b'\].*with --logits"),
        (lambda z: (z, z), None, r"a tuple of 2 parts.*with --logits"),
        (lambda z: {"a": z}, "b", r"no part 'b': it is a dict with the keys \['a'\]"),
        (lambda z: (z, z), "2", r"no part '2': it is a tuple of 2 parts"),
        (lambda z: z[:, 0], None, r"one number per image.*--logits binary"),
        (lambda z: z[:, :, None], None, r"logits of shape \(batch, classes\), got shape"),
    ],
)
def test_an_output_without_logits_is_refused_with_the_remedy(images, make, select, message):
    with pytest.raises(ValueError, match=message):
        LogitsOf(Returns(make), select)(images)


@pytest.fixture
def importable(tmp_path, monkeypatch):
    name = "networks_for_a_test"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn


            def make():
                torch.manual_seed(0)
                return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))


            def make_nothing():
                return 3


            def needs_more(depth):
                return nn.Identity()
            """)
    )
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_an_importable_function_gives_a_network_in_eval_mode(importable, images):
    result = load_external(f"{importable}:make")
    assert not result.training
    assert result(images).shape == (4, 10)
    assert sys.path[0] != "."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:make_nothing", "must return an nn.Module, got int"),
        ("{}:needs_more", r"gives no network \(.*depth"),
        ("{}:missing", r"gives no network \(.*missing"),
        ("no_such_module:make", r"gives no network \(No module named"),
        ("missing.onnx", "missing.onnx does not exist"),
    ],
)
def test_a_name_without_a_network_is_refused(importable, name, message):
    with pytest.raises(RunError, match=message):
        load_external(name.format(importable))


def test_files_and_functions_are_external_and_folders_are_not(tmp_path):
    assert not is_external(str(tmp_path))
    assert not is_external("runs/demo")
    assert is_external("module:function")
    assert is_external("model.onnx")
    assert is_external("model.pt2")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_exported_network_gives_the_logits_of_the_original(tmp_path, images, kind):
    model = wide_resnet().eval()
    path = tmp_path / f"model.{kind}"
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    if kind == "pt2":
        torch.export.save(program, path)
    else:
        torch.onnx.export(program, (), str(path), verbose=False, dynamo=True)
    result = load_external(str(path), trust=[str(path)])
    more = torch.cat([images, images[:3]])
    with torch.no_grad():
        torch.testing.assert_close(result(more), model(more), rtol=1e-4, atol=1e-5)
    assert result.eval().training is False
    if kind == "pt2":
        more.requires_grad_(True)
        (gradient,) = torch.autograd.grad(result(more).sum(), more)
        assert gradient.abs().sum() > 0
    else:
        assert not result.gives_gradients


class WithConstant(nn.Module):
    """Creates a tensor in its forward pass, so that its program names a device."""

    def __init__(self):
        super().__init__()
        self.network = linear()

    def forward(self, images):
        return self.network(images) + torch.arange(10, device=images.device)


def test_an_exported_network_runs_on_the_device_of_the_images(tmp_path, images):
    path, model = tmp_path / "model.pt2", WithConstant().eval()
    torch.export.save(torch.export.export(model, (images,)), path)
    result = load_external(str(path), trust=[str(path)])
    answer = result(images)
    assert torch.equal(answer, model(images))
    assert result(images.to("meta")).device.type == "meta"


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_broken_file_is_refused(tmp_path, kind):
    path = tmp_path / f"model.{kind}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match="cannot be read"):
        load_external(str(path), trust=[str(path)])


def test_a_model_on_the_hub_is_not_external():
    assert not is_external("hf://owner/name")


CARD = {"name": "a", "classes": ["b"], "image_shape": [1, 8, 8], "outputs": [], "scores": None}
POINT = {"mean": 0.5, "std": 0.1}
SCORES = {"data": "d", "images": 1, "norm": "Linf", "epsilons": [0.0, 0.1], "w1": [POINT, POINT]}


@pytest.mark.parametrize("changes", [{}, {"scores": SCORES}, {"scores": SCORES | {"w1": None}}])
def test_a_score_card_is_read_back(tmp_path, changes):
    program = torch.export.export(nn.Flatten(), (torch.rand(2, 1, 8, 8),))
    text = json.dumps(CARD | changes)
    torch.export.save(program, tmp_path / "model.pt2", extra_files={CARD_FILE: text})
    assert (
        load_external(str(tmp_path / "model.pt2"), trust=[str(tmp_path / "model.pt2")]).card
        == CARD | changes
    )


@pytest.mark.parametrize(
    "card",
    [
        "{",
        "[]",
        "[" * 100_000,
        json.dumps(CARD | {"name": "../up"}),
        json.dumps(CARD | {"classes": ["\x1b[2J"]}),
        json.dumps(CARD | {"image_shape": [1, 10**9, 10**9]}),
        json.dumps({name: CARD[name] for name in CARD if name != "scores"}),
        json.dumps(CARD | {"scores": SCORES | {"w1": [POINT]}}),
        json.dumps(CARD | {"scores": SCORES | {"w1": ["high", "low"]}}),
    ],
    ids=range(9),
)
def test_a_damaged_score_card_is_refused(tmp_path, card):
    program = torch.export.export(nn.Flatten(), (torch.rand(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "model.pt2", extra_files={CARD_FILE: card})
    with pytest.raises(RunError, match=r"model.pt2 has a damaged score card .*export it again"):
        load_external(str(tmp_path / "model.pt2"), trust=[str(tmp_path / "model.pt2")])


def test_an_untrusted_torch_export_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(linear(), (torch.rand(1, 1, 8, 8),)), path)
    monkeypatch.setattr(torch.export, "load", lambda *args, **kwargs: pytest.fail("was read"))
    with pytest.raises(RunError, match=r"model.pt2 is a file of torch.export.*--trust .*model.pt2"):
        load_external(str(path))
    with pytest.raises(RunError, match="was not read"):
        load_external(str(path), trust=[str(tmp_path), "model", "torch"])
