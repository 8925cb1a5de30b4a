import json

import numpy
import pytest
import tiny
import torch
from commands import refused, run
from torch import nn

from equipoise.api.corruptions import evaluate_corruptions
from equipoise.models import save
from equipoise.recipes import to_json


class Bright(nn.Module):
    """Class 1 if the image is brighter than the middle."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


def write(folder, names=("fog", "saturate")):
    """Four images at each severity; severity s darkens s - 1 of the two bright ones, at most 2."""
    folder.mkdir()
    levels = numpy.array([[0, 0, 255, 255]] * 5)
    levels[1, 2:3] = levels[2:, 2:] = 0
    pixels = numpy.broadcast_to(levels.reshape(20, 1, 1, 1), (20, 8, 8, 1)).astype(numpy.uint8)
    for number, name in enumerate(names):
        numpy.save(folder / f"{name}.npy", pixels if number == 0 else pixels[:4].repeat(5, axis=0))
    numpy.save(folder / "labels.npy", numpy.tile([0, 0, 1, 1], 5))
    return folder


def test_accuracy_of_each_severity_and_the_mean_without_extra_corruptions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, path = evaluate_corruptions(Bright().eval(), write(tmp_path / "C"))
    assert result["corruptions"]["fog"] == [1.0, 0.75, 0.5, 0.5, 0.5]
    assert result["mean"] == pytest.approx(0.65)  # saturate does not count
    assert (result["clean"], result["images"], result["data"]) == (None, 4, "C")
    assert path.as_posix() == "runs/Bright/corruptions/Bright__C.json"
    assert json.loads(path.read_text())["corruptions"] == result["corruptions"]


def test_the_first_images_of_each_severity_are_taken_and_too_many_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "C", ("fog",))
    assert evaluate_corruptions(Bright().eval(), folder, images=2)[0]["images"] == 2
    with pytest.raises(ValueError, match="images must be at most 4, all of the corrupted part"):
        evaluate_corruptions(Bright().eval(), folder, images=5)


def test_a_network_of_other_images_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(5, 2)).eval()
    with pytest.raises(ValueError, match=r"fails on images of shape \(1, 8, 8\).*its own data"):
        evaluate_corruptions(network, write(tmp_path / "C"))
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_clean_accuracy_each_corruption_and_the_mean(tmp_path, capsys):
    recipe = tiny.recipe()
    card = {"name": "mine", "dataset": to_json(recipe)["dataset"]}
    save(tiny.wide_resnet(), tmp_path / "model", card)
    folder = write(tmp_path / "C")
    run("evaluate", tmp_path / "model", "--corrupted", folder, "--images", "3")
    printed = capsys.readouterr().out
    assert "mine on C: accuracy in %, 3 images per severity" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}
    assert len(rows["clean"]) == 1
    assert len(rows["fog"]) == 6
    assert rows["saturate"][0] == "(extra)"
    assert printed.splitlines()[-1].endswith("corruptions/mine__C.json")


def test_flags_of_attacks_are_refused(tmp_path, capsys):
    printed = refused(
        capsys, "evaluate", "m", "--corrupted", tmp_path, "--epsilons", "0.1", "--suite", "quick"
    )
    assert "to which --epsilons and --suite does not apply; leave it out" in printed
