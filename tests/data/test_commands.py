"""Data sets on the command line and in recipes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy
import pytest
import tiny
from commands import output, refused, run
from sklearn.datasets import load_digits
from writers import write_images

from equipoise.data import (
    SOURCES,
    Cifar10,
    DataSource,
    Digits,
    ImageFolder,
    ImportedData,
    NpzFile,
)
from equipoise.recipes import RECIPES, from_json, to_json
from equipoise.recipes.datasets import named_source
from equipoise.records.files import iterate_records, read_record
from equipoise.runtime.files import read_json


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits as PNG files: 20 per class, one folder per class."""
    data = load_digits()
    grey = numpy.rint(data.images * (255 / 16)).astype(numpy.uint8)[:, None]
    rows = [row for digit in range(10) for row in numpy.flatnonzero(data.target == digit)[:20]]
    images = {f"{data.target[row]}/{row:04d}": grey[row] for row in rows}
    return write_images(tmp_path_factory.mktemp("data") / "my_digits", images)


def test_every_source_has_a_name_on_the_command_line_or_is_imported_by_name():
    assert set(get_args(DataSource)) == {*SOURCES.values(), ImportedData}


@pytest.mark.parametrize("name", SOURCES)
def test_a_data_set_round_trips_through_json_with_its_folder(name, tmp_path):
    source = named_source(name, None if name == "digits" else tmp_path)
    recipe = replace(tiny.recipe(), dataset=source)
    content = json.loads(json.dumps(to_json(recipe)))
    assert content["dataset"]["kind"] == type(source).__name__
    assert from_json(content) == recipe
    if name != "digits":
        assert str(tmp_path) in content["dataset"].values()


def test_old_recipe_files_are_still_read():
    before = {"kind": "Cifar10", "folder": "/data/cifar10", "limit": 5}
    source = from_json(before, DataSource)
    assert source == Cifar10(folder=Path("/data/cifar10"), limit=5)
    assert from_json({"kind": "Digits"}, DataSource) == Digits()


def test_only_image_folders_take_a_size(tmp_path, capsys):
    assert named_source("imagefolder", tmp_path, 32) == ImageFolder(folder=tmp_path, size=32)
    (tmp_path / "a.npz").touch()
    assert named_source("npz", tmp_path / "a.npz") == NpzFile(path=tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"b.npz does not exist .* check --data"):
        named_source("npz", tmp_path / "b.npz")
    with pytest.raises(ValueError, match="--size is for folders of images, got 32 for Cifar10"):
        named_source("cifar10", tmp_path, 32)
    assert "--size needs --data or --dataset" in refused(
        capsys, "evaluate", "somewhere", "--size", "32"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_self_checks")
def test_a_recipe_is_trained_and_evaluated_on_an_image_folder(digits, tmp_path, capsys):
    run(
        *("train", "standard_digits", "--data", digits),
        *("--dataset.size", "8", "--dataset.grey", "--name", "mine", "--out", tmp_path / "mine"),
        *("--loop.validation-images", "32", "--loop.batch-size", "32"),
        *("--method.schedule.epochs", "1"),
    )
    printed = output(capsys)
    assert (
        "my_digits: 157 training and 43 test images, 8x8, grey; 10 classes of 12 (1) to 19 (3) "
        "training images" in printed
    )
    with pytest.raises(SystemExit, match="1"):  # trained this briefly, it has collapsed
        run(
            *("evaluate", tmp_path / "mine", "--epsilons", "0", "0.1", "--suite", "quick"),
            "--steps",
            1,
        )
    ((_, record),) = iterate_records(tmp_path / "mine")
    assert (record["data"], record["images"]) == ("my_digits", 43)
    stored = from_json(read_json(tmp_path / "mine" / "recipe.json"))
    assert stored.dataset == ImageFolder(folder=digits, size=8, grey=True)


@pytest.mark.usefixtures("no_self_checks")
def test_a_network_is_evaluated_on_an_image_folder(digits, tmp_path, capsys, monkeypatch):
    (tmp_path / "colour_networks.py").write_text(
        "from torch import nn\n\n\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    run(
        *("evaluate", "colour_networks:make", "--data", digits),
        *("--size", 6, "--epsilons", "0.1", "--images", 8, "--steps", 2),
    )
    (path,) = (tmp_path / "runs" / "colour_networks.make" / "records").glob("*.json")
    assert read_record(path)["data"] == "my_digits"


def test_fields_of_another_data_set_become_flags(monkeypatch, tmp_path):
    recipes = []
    monkeypatch.setattr(
        "equipoise.api.train.train", lambda recipe, folder, **rest: recipes.append(recipe)
    )
    arguments = ("--dataset=cifar100", "--dataset.limit", "7", "--data", tmp_path)
    run("train", "standard_digits", *arguments)
    base = RECIPES["standard_digits"]()
    source = replace(SOURCES["cifar100"](), limit=7, folder=tmp_path)
    assert recipes == [replace(base, dataset=source)]


def test_an_unknown_data_set_is_refused_with_the_names(capsys):
    printed = refused(capsys, "train", "standard_digits", "--dataset", "mnist")
    assert "--dataset must be one of digits, cifar10," in printed
    assert "got 'mnist'" in printed
    assert "imagefolder" in printed
    assert "dataset" in refused(capsys, "train", "standard_digits", "--dataset")
