import os
from types import SimpleNamespace

import pytest
import tiny

from equipoise.deployment import publish
from equipoise.models import save, with_conditioning
from equipoise.models.io.model_folder import ModelFolderError
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_bytes, write_json

CARD = {"name": "tiny", "data": "digits", "seed": 0, "evaluation": {"norm": "Linf"}}

SUITE = {"name": "quick", "accuracy": [1.0, 0.5], "attacks": [{"name": "pgd"}]}
OUTCOMES = {"broken_at": [-1, 1, 1], "broken_by": [None, "pgd", "pgd"]}
THREE = {"images": 3, "broken_at": [-1, 1, 1], "suites": [SUITE | OUTCOMES]}


@pytest.fixture
def folder(tmp_path):
    """A run folder with a model and no record."""
    save(tiny.wide_resnet(), tmp_path / "run" / "model", CARD)
    return tmp_path / "run"


def put(folder, name, **changes):
    """Write a record of the model's present weights."""
    record = tiny.record(
        changes.pop("model", "tiny"),
        training_seed=0,
        weights_sha256=publish.weights_sha256(folder / "model"),
        **changes,
    )
    path = folder / "records" / f"{name}.json"
    write_json(path, record)
    os.utime(path, ns=(len(list(path.parent.iterdir())) * 10**9,) * 2)


def test_a_card_is_made_from_the_records_of_the_model(folder):
    assert "Not evaluated yet" in publish.write_card(folder).read_text()
    put(folder, "b")
    path = publish.write_card(folder)
    assert path == folder / "model" / "README.md"
    assert "| 0.1 | 50.0 | 10.0 to 90.0 | 2 |" in path.read_text()


def test_a_model_folder_outside_a_run_holds_its_own_records(folder, tmp_path):
    (folder / "model").rename(tmp_path / "alone")
    assert publish.home_of(tmp_path / "alone") == tmp_path / "alone"
    assert publish.records_of(tmp_path / "alone") == []


def test_records_of_weights_that_were_replaced_no_longer_count(folder):
    put(folder, "a")
    save(tiny.wide_resnet(seed=1), folder / "model", CARD)
    assert publish.records_of(folder / "model") == []
    assert "Not evaluated yet" in publish.write_card(folder).read_text()


def test_the_newest_of_equal_records_is_shown(folder):
    put(folder, "z", seed=1)
    put(folder, "a", seed=2)
    assert publish.record_at(folder / "model")["seed"] == 2


def test_a_record_with_attacks_is_preferred_to_one_of_clean_images(folder):
    headline = {"accuracy": [1.0], "interval": [[0.3, 1.0]]}
    suite = {"name": "quick", "accuracy": [1.0], "attacks": [{"name": "pgd"}]}
    outcomes = {"broken_at": [-1] * 3, "broken_by": [None] * 3}
    put(folder, "a")
    put(
        folder,
        "b",
        images=3,
        epsilons=[0.0],
        epsilons_written=["0"],
        headline=headline | {"average": 1.0, "clean_and_strongest": 1.0},
        suites=[suite | outcomes],
        broken_at=[-1] * 3,
    )
    assert publish.record_at(folder / "model")["epsilons"][-1] > 0


def test_a_record_on_the_models_own_data_is_preferred(folder):
    put(folder, "a")
    put(folder, "b", data="elsewhere", **THREE)
    assert publish.record_at(folder / "model")["data"] == "digits"


def test_a_record_with_the_recipes_norm_is_preferred_to_a_fuller_one(folder):
    put(folder, "a", norm="L2", **THREE)
    assert publish.record_at(folder / "model")["norm"] == "L2"
    put(folder, "b")
    assert publish.record_at(folder / "model")["norm"] == "Linf"


def test_a_preference_has_its_own_record(folder):
    put(folder, "a", model="tiny@0.2")
    assert publish.record_at(folder / "model", 0.2)["model"] == "tiny@0.2"
    assert publish.record_at(folder / "model", 1.0) is None
    assert publish.record_at(folder / "model") is None


def test_an_at_sign_in_a_name_is_not_read_as_a_preference(folder):
    save(tiny.wide_resnet(), folder / "model", CARD | {"name": "tiny@home"})
    put(folder, "a", model="tiny@home")
    put(folder, "b", model="tiny@home@0.2")
    put(folder, "c", model="tiny")
    assert len(publish.records_of(folder / "model")) == 2
    assert publish.record_at(folder / "model")["model"] == "tiny@home"
    assert publish.record_at(folder / "model", 0.2)["model"] == "tiny@home@0.2"


def test_a_robustbench_entry_is_written_from_the_record(folder, tmp_path):
    put(folder, "a")
    notes = publish.robustbench(folder, tmp_path / "entry.json")
    assert read_json(tmp_path / "entry.json")["reported"] == "50.00"
    assert "RobustBench has no leaderboard for digits." in notes


def test_the_entry_of_a_conditional_model_is_for_its_default_preference(tmp_path):
    model = with_conditioning(
        tiny.wide_resnet(), preferences=(0.0, 0.5), encoding="none", default=0.5
    )
    save(model, tmp_path / "run" / "model", CARD)
    put(tmp_path / "run", "a", model="tiny@0")
    put(tmp_path / "run", "b", model="tiny@0.5", **THREE)
    publish.robustbench(tmp_path / "run", tmp_path / "entry.json")
    assert "on 3 test images" in read_json(tmp_path / "entry.json")["footnote"]


def test_no_entry_is_written_without_a_record(folder, tmp_path):
    with pytest.raises(RunError, match=r"has no record; run: equipoise evaluate"):
        publish.robustbench(folder, tmp_path / "entry.json")
    assert not (tmp_path / "entry.json").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [("nowhere", "is not a model folder"), ("hf://owner/name", "for a local folder, got hf:")],
)
def test_a_card_is_written_only_for_local_model_folders(model, message):
    with pytest.raises(ModelFolderError, match=message):
        publish.write_card(model)


@pytest.fixture
def upload(monkeypatch):
    received = SimpleNamespace(files={}, private=None)

    def upload(repository, contents, *, private):
        received.files = {
            name: content if isinstance(content, bytes) else content.read_bytes()
            for name, content in contents.items()
        }
        received.private = private
        return f"https://hub/{repository}"

    monkeypatch.setattr(publish, "upload", upload)
    return received


def test_a_pushed_folder_loads_with_its_card_and_records(folder, upload, tmp_path):
    put(folder, "a")
    assert publish.push(folder, "owner/name", private=True) == "https://hub/owner/name"
    assert upload.private is True
    assert set(upload.files) == {"config.json", "model.safetensors", "README.md", "records/a.json"}
    for name, content in upload.files.items():
        write_bytes(tmp_path / "copy" / name, content)
    assert publish.record_at(tmp_path / "copy")["images"] == 2
    assert "| 0.1 | 50.0 |" in (tmp_path / "copy" / "README.md").read_text()


def test_no_absolute_path_is_pushed(folder, upload):
    card = CARD | {"dataset": {"kind": "Cifar10", "folder": "/home/somebody/cifar10"}}
    save(tiny.wide_resnet(), folder / "model", card)
    put(folder, "a", surrogates=["/home/somebody/other"])
    publish.push(folder, "owner/name")
    assert not any(b"/home" in content for content in upload.files.values())
    assert b'"folder": "cifar10"' in upload.files["config.json"]


def test_a_folder_that_does_not_load_is_not_pushed(folder, upload):
    (folder / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFolderError, match="is damaged"):
        publish.push(folder, "owner/name")
    assert not upload.files
