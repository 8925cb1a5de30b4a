"""A folder of images becomes a hardened, evaluated and exported model by one documented command."""

import json
import re
import shlex
from pathlib import Path

import numpy
import onnxruntime
import pytest
import tiny
import torch
from PIL import Image

from equipoise import load
from equipoise.cli.main import main
from equipoise.records.files import iterate_records

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "data.md"
SMALL = (
    "--loop.batch-size 20 --loop.validation-images 20 --loop.validation-steps 1 "
    "--method.schedule.epochs 1 --method.gate-schedule.epochs 1 --evaluation.images 20 "
    "--evaluation.steps 1"
)
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CLASSES = sorted(NUMBERS)


def documented(folder: Path) -> list[str]:
    (command,) = re.findall(r"^equipoise (train .*--evaluate --export .*)$", PAGE.read_text(), re.M)
    return shlex.split(command.replace("FOLDER", str(folder)))


@pytest.fixture
def folder(tmp_path):
    """Ten classes of scanned digits as PNG files."""
    digits = tiny.digits(train=120, test=40)
    for part, split in (("train", digits.train), ("test", digits.test)):
        for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = tmp_path / "photos" / part / NUMBERS[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(path)
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_folder_of_images_becomes_an_exported_model_in_one_command(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*documented(folder), *SMALL.split()])
    session = onnxruntime.InferenceSession("mine.onnx")
    card = json.loads(session.get_modelmeta().custom_metadata_map["equipoise"])
    ((_, record),) = iterate_records(Path("runs/mine/records"))
    assert card["classes"] == CLASSES
    assert card["scores"]["accuracy"] == record["headline"]["accuracy"]
    assert len(record["headline"]["accuracy"]) == 5
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, w1 = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        assert numpy.abs(logits - load("runs/mine")(images).numpy()).max() < 1e-4
    assert w1.shape[0] == 3
    again = [*documented(folder), *SMALL.split()]
    main([*again, "--resume"])  # everything is there


@pytest.mark.parametrize(
    ("file", "message"),
    [("mine.pt", "must end in .onnx or .pt2, got mine.pt"), ("mine", "must end in .onnx or .pt2")],
)
def test_a_wrong_suffix_is_refused_before_training(file, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["train", "standard_digits", "--export", file])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_onnx_without_its_libraries_is_refused_before_training(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("equipoise.cli.deploy.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["train", "standard_digits", "--export", "mine.onnx"])
    assert "pip install 'equipoise[onnx]'" in capsys.readouterr().err
