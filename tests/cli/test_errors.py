"""Errors name the flag, the rule and the value, and suggest what was probably meant."""

import runpy
from pathlib import Path

import pytest
import tiny
from commands import output, refused, run
from PIL import Image

from equipoise.cli.catalogue import INDEX
from equipoise.models import save

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "pgd_at_digits"], "there is no command 'trian'; did you mean train?"),
        (["xx"], "there is no command 'xx'. The commands are demo, list, train"),
        (["reproduce"], "`equipoise reproduce --list` lists them"),
        (["reproduce", "list"], "there is no table or figure 'list'"),
        (["train", "pgd_digits"], "Did you mean pgd_at_digits"),
        (["train", "pgd_at_digits", "--seed", "x"], "must be a whole number, got 'x'"),
        (["train", "pgd_at_digits", "--learning-rate", "x"], "must be a number, got 'x'"),
        (["evaluate", "m", "--images", "ten"], "--images: must be a whole number, got 'ten'"),
        (["export", "m", "--format", "onx", "--out", "a"], "got 'onx'; did you mean onnx?"),
    ],
)
def test_an_error_says_what_is_expected_and_what_was_given(capsys, arguments, message):
    said = refused(capsys, *arguments)
    assert message in said
    assert "'None'" not in said


def test_every_model_is_looked_for_before_one_is_attacked(capsys, tmp_path, monkeypatch):
    def attack(*_, **__):
        raise AssertionError("a model was evaluated")

    monkeypatch.setattr("equipoise.api.evaluate.evaluate", attack)
    save(tiny.wide_resnet(), tmp_path / "model", {"name": "tiny"})
    said = refused(capsys, "evaluate", str(tmp_path / "model"), "nowhere")
    assert "nowhere is not a model folder" in said


def test_an_unknown_suite_suggests_the_nearest(capsys, tmp_path):
    save(tiny.wide_resnet(), tmp_path / "model", {"name": "tiny"})
    said = refused(capsys, "evaluate", tmp_path / "model", "--epsilons", "0", "--suite", "quik")
    assert "a suite must be one of quick, tables" in said
    assert "got 'quik'; did you mean quick?" in said


def test_a_folder_without_a_record_is_named(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refused(capsys, "report", str(tmp_path / "empty"))
    assert "has no record; evaluate the model first, with `equipoise evaluate" in said


def test_reproduce_lists_its_entries(capsys):
    run("reproduce", "--list")
    assert "afs-fig-4b" in output(capsys)


def test_the_index_of_recipes_is_up_to_date():
    index = runpy.run_path(str(ROOT / "tools" / "recipe_index.py"))["index"]
    assert INDEX.read_text(encoding="utf-8") == index(), "run make index"


class TestPredictOnFolders:
    @pytest.fixture
    def model(self, tmp_path):
        save(
            tiny.wide_resnet(),
            tmp_path / "model",
            {"classes": [*"abcdefghij"], "image_shape": [1, 8, 8]},
        )
        return str(tmp_path / "model")

    @pytest.fixture
    def photos(self, tmp_path):
        folder = tmp_path / "photos"
        (folder / "more").mkdir(parents=True)
        for name in ("a.webp", "more/b.png", ".hidden.png"):
            Image.new("L", (8, 8), 100).save(folder / name)
        (folder / "broken.png").write_text("no image")
        (folder / "notes.txt").write_text("no image either")
        return folder

    def test_what_can_be_read_is_classified_and_the_rest_is_named(self, capsys, model, photos):
        said = refused(capsys, "predict", model, photos, "no.png", status=1)
        assert "skipped: no.png does not exist." in said
        assert "broken.png cannot be read as an image: it is none of BMP, GIF" in said
        assert "BytesIO" not in said
        assert "hidden" not in said
        assert "notes" not in said

    def test_without_a_broken_file_it_ends_well(self, capsys, model, photos):
        (photos / "broken.png").unlink()
        run("predict", model, photos)
        said = output(capsys)
        assert "a.webp" in said
        assert "b.png" in said

    def test_a_folder_without_images_is_refused(self, capsys, model, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "has no image; the endings are .bmp" in refused(
            capsys, "predict", model, str(tmp_path / "empty")
        )
