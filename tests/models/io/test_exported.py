import json

import pytest
import torch
from tiny import images_and_labels, linear, wide_resnet
from torch import nn

from equipoise.models.io.exported import CARD_FILE
from equipoise.models.io.external import load_external
from equipoise.runtime.errors import RunError


@pytest.fixture
def images():
    return images_and_labels(4)[0]


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
