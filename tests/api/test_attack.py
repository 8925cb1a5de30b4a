"""Adversarial images out of an evaluation, as arrays and PNG files, and back in."""

import csv
from dataclasses import replace

import numpy
import pytest
import tiny
import torch
from commands import output, refused, run
from PIL import Image

from equipoise.api.adversarial_files import StrengthImages
from equipoise.api.attack import attack
from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.data import DataSet, Split
from equipoise.evaluation import verification
from equipoise.models import save
from equipoise.recipes import Evaluation
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import read_json

EPSILONS = (0.0, 0.05, 0.15)
SETTINGS = {"epsilons": EPSILONS, "suites": ("quick",), "steps": 2, "images": 20}
pytestmark = pytest.mark.usefixtures("few_digits", "no_self_checks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of an adaptive network that evaluates a few digits quickly."""
    folder = tmp_path_factory.mktemp("attack") / "run"
    quick = Evaluation(epsilons=EPSILONS, suites=("quick",), steps=2, restarts=1, images=20)
    train(replace(tiny.recipe("afa_digits"), evaluation=quick), folder, dataset=tiny.digits())
    return folder


def arrays(path):
    with numpy.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.slow
def test_every_strength_gets_a_file_whose_arrays_say_what_they_are(trained, tmp_path):
    metadata = attack(trained, tmp_path / "out", **SETTINGS)
    record, _ = evaluate(trained, checks=False, **SETTINGS)
    assert [entry["epsilon"] for entry in metadata["strengths"]] == [0.05, 0.15]
    assert metadata["complete"]
    assert metadata == read_json(tmp_path / "out" / "metadata.json")
    test = tiny.digits().test.take(slice(0, 20))
    clean = test.images.permute(0, 2, 3, 1).numpy() / numpy.float32(255)
    for level, entry in enumerate(metadata["strengths"], start=1):
        file = arrays(tmp_path / "out" / entry["file"])
        assert file["image"].dtype == numpy.float32
        assert file["image"].shape == (20, 8, 8, 1)
        assert file["row"].tolist() == list(range(20))
        assert file["label"].tolist() == test.labels.tolist()
        assert (file["broken"] == (file["prediction"] != file["label"])).all()
        assert 1 - file["broken"].mean() == pytest.approx(record["headline"]["accuracy"][level])
        assert (float(file["epsilon"]), str(file["norm"])) == (entry["epsilon"], "Linf")
        distance = abs(file["image"].astype(float) - clean).max(axis=(1, 2, 3))
        assert distance.max() <= entry["epsilon"] + 1e-6
        assert (distance[~file["broken"]] == 0).all()
        assert int(file["broken"].sum()) == entry["broken"] > 0


@pytest.mark.slow
def test_the_images_that_were_written_count_the_same_when_they_are_read_again(trained, tmp_path):
    attack(trained, tmp_path / "out", **SETTINGS)
    files = sorted((tmp_path / "out").glob("*.npz"))
    record, path = evaluate(trained, checks=False, images_from=files, **SETTINGS)
    external = record["suites"][-1]
    assert external["name"] == "external"
    assert external["independent"]
    assert external["accuracy"] == record["headline"]["accuracy"]
    without, other_path = evaluate(trained, checks=False, **SETTINGS)
    assert without["headline"] == record["headline"]
    assert path != other_path


@pytest.mark.slow
def test_stronger_images_from_a_file_lower_the_headline_and_never_raise_it(trained, tmp_path):
    attack(trained, tmp_path / "out", **SETTINGS)
    weak = SETTINGS | {"steps": 1, "suites": ("tables",)}
    weak_record, _ = evaluate(trained, checks=False, **weak)
    files = sorted((tmp_path / "out").glob("*.npz"))
    both, _ = evaluate(trained, checks=False, images_from=files, **weak)
    pairs = zip(both["headline"]["accuracy"], weak_record["headline"]["accuracy"], strict=True)
    assert all(now <= before for now, before in pairs)
    assert both["suites"][0] == weak_record["suites"][0]
    kinds = {attack["kind"] for attack in both["suites"][-1]["attacks"]}
    assert kinds == {"external"}


@pytest.mark.slow
def test_png_files_are_the_images_that_were_scored(trained, tmp_path):
    metadata = attack(trained, tmp_path / "out", png=True, **SETTINGS)
    from equipoise.models import load

    model = load(trained / "model")
    for entry in metadata["strengths"]:
        folder = tmp_path / "out" / entry["png_folder"]
        with (folder / "labels.csv").open() as table:
            lines = list(csv.DictReader(table))
        pixels = numpy.stack([numpy.array(Image.open(folder / line["file"])) for line in lines])
        file = arrays(tmp_path / "out" / entry["file"])
        assert (pixels == file["image_8bit"][..., 0]).all()
        clean = tiny.digits().test.images[:20, 0].numpy().astype(int)
        assert abs(pixels - clean).max() <= int(255 * entry["epsilon"] + 1e-6)
        with torch.no_grad():
            predicted = model(torch.from_numpy(pixels)[:, None] / 255).argmax(dim=1)
        assert predicted.tolist() == [int(line["prediction"]) for line in lines]
        fooled = [line for line in lines if line["broken"] == "1"]
        assert len(fooled) == entry["broken_png"] <= entry["broken"]
        assert entry["broken_png_by_rounding"] <= entry["broken_png"]


@pytest.mark.slow
def test_repeating_the_command_writes_the_same_files_without_attacking(
    trained, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr("equipoise.api.attack.environment", dict)  # it names the commit
    attack(trained, out, png=True, **SETTINGS)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    next(out.glob("*.npz")).unlink()
    monkeypatch.setattr(
        "equipoise.evaluation.attack.SearchAttack.run", lambda *arguments: pytest.fail("attacked")
    )
    attack(trained, out, png=True, **SETTINGS)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_interrupted_attack_continues_in_its_folder(trained, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(StrengthImages, "arrays", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attack(trained, out, **SETTINGS)
    assert read_json(out / "metadata.json")["complete"] is False
    assert attack(trained, out, **SETTINGS)["complete"]


def test_a_folder_with_other_content_is_refused_and_kept(trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("two years")
    with pytest.raises(RunError, match=r"holds other files, such as thesis\.tex; choose a new"):
        attack(trained, tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file; choose another folder"):
        attack(trained, tmp_path / "thesis.tex", **SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "field"),
    [({"seed": 1}, "settings"), ({"images": 8}, "images"), ({"png": True}, "png")],
)
def test_a_folder_of_another_attack_is_refused(trained, tmp_path, changes, field):
    attack(trained, tmp_path / "out", **SETTINGS)
    with pytest.raises(RunError, match=f"another attack, which differs in .*{field}"):
        attack(trained, tmp_path / "out", **(SETTINGS | changes))


@pytest.mark.slow
def test_rows_are_those_of_the_data_when_the_images_are_spread_over_it(trained, tmp_path):
    test = tiny.digits().test
    order = test.labels.argsort(stable=True)
    data = replace(tiny.digits(), test=test.take(order))
    attack(trained, tmp_path / "out", dataset=data, **(SETTINGS | {"images": 6}))
    file = arrays(tmp_path / "out" / "epsilon_0.15.npz")
    assert file["row"].tolist() == [0, 4, 8, 12, 16, 20]
    settings = SETTINGS | {"images": 6}
    record, _ = evaluate(
        trained,
        checks=False,
        dataset=data,
        images_from=[tmp_path / "out" / "epsilon_0.15.npz"],
        **settings,
    )
    assert record["suites"][-1]["accuracy"][-1] == record["headline"]["accuracy"][-1]


@pytest.mark.slow
def test_strengths_of_almost_the_same_size_have_different_file_names(trained, tmp_path):
    epsilons = (0.0, 0.12345, 0.12346, 8 / 255)
    metadata = attack(trained, tmp_path / "out", **(SETTINGS | {"epsilons": epsilons, "images": 2}))
    names = [entry["file"] for entry in metadata["strengths"]]
    assert names == ["epsilon_8_255.npz", "epsilon_0.12345.npz", "epsilon_0.12346.npz"]


def test_attack_needs_a_strength_above_zero(trained, tmp_path):
    with pytest.raises(InvalidInput, match="attack needs a strength above 0; name it with"):
        attack(trained, tmp_path / "out", **(SETTINGS | {"epsilons": (0.0,)}))
    assert not (tmp_path / "out").exists()


def test_png_files_need_one_or_three_channels(tmp_path):
    images = torch.zeros(4, 2, 8, 8, dtype=torch.uint8)
    split = Split(images=images, labels=torch.tensor([0, 1, 0, 1]), classes=2)
    data = DataSet(name="pairs", train=split, test=split, class_names=("a", "b"))
    from equipoise.models import WideResNet

    network = WideResNet(depth=10, width=1, classes=2, channels=2).eval()
    save(network, tmp_path / "model", card={"name": "pairs"})
    with pytest.raises(InvalidInput, match="--png needs images with 1 or 3 channels, got 2"):
        attack(
            tmp_path / "model",
            tmp_path / "out",
            png=True,
            dataset=data,
            **(SETTINGS | {"images": 4}),
        )


@pytest.mark.slow
def test_the_record_of_an_afa_model_has_r_free_and_the_terminal_says_it(trained, capsys):
    record, _ = evaluate(trained, **SETTINGS)
    assert len(record["r_free"]["accuracy"]) == len(EPSILONS)
    assert all(
        free <= score
        for free, score in zip(
            record["r_free"]["accuracy"], record["headline"]["accuracy"], strict=True
        )
    )
    unchecked, _ = evaluate(trained, checks=False, **SETTINGS)
    assert unchecked["headline"] == record["headline"]
    run("evaluate", trained)
    assert "R_free of afa_digits:" in output(capsys)


def test_a_network_without_a_gate_has_no_r_free(tmp_path):
    save(tiny.wide_resnet().eval(), tmp_path / "model", card={"name": "plain"})
    record, _ = evaluate(tmp_path / "model", dataset=tiny.digits(), **SETTINGS)
    assert "r_free" not in record


@pytest.mark.slow
def test_the_command_writes_the_images_and_counts_them(trained, tmp_path, capsys):
    flags = ("--epsilons", "0", "0.15", "--steps", "2", "--images", "20", "--png")
    run("attack", trained, *flags, "--out", tmp_path / "out")
    printed = output(capsys)
    assert "0.15: " in printed
    assert "of 20 images fool the model; as PNG" in printed
    assert f"images: {tmp_path / 'out'}" in printed.replace(" /", "/").replace(
        "images:/", "images: /"
    )
    run("evaluate", trained, "--images-from", tmp_path / "out" / "epsilon_0.15.npz", "--steps", "1")
    assert "external" in output(capsys)


def test_the_command_refuses_files_that_do_not_fit(trained, tmp_path, capsys):
    numpy.save(tmp_path / "a.npy", numpy.zeros((20, 8, 8, 1), numpy.uint8))
    printed = refused(capsys, "evaluate", trained, "--images-from", tmp_path / "a.npy")
    assert "20 of 20 images are outside the Linf threat of 0.15" in printed
    printed = refused(capsys, "attack", trained, "--size", "8", "--out", tmp_path / "out")
    assert "--size needs --data or --dataset" in printed
    assert "--out" in refused(capsys, "attack", trained)


@pytest.mark.slow
def test_a_wrong_attack_is_still_caught_by_the_verification(trained, tmp_path, monkeypatch):
    attack(trained, tmp_path / "out", **SETTINGS)
    file = tmp_path / "out" / "epsilon_0.15.npz"
    for module in ("external_files", "external_images"):  # as if the check of distances failed
        monkeypatch.setattr(f"equipoise.evaluation.{module}.TOLERANCE", 0.1)
    content = arrays(file)
    content["image"] = (content["image"] + numpy.float32(0.05)).clip(0, 1)
    numpy.savez(tmp_path / "far.npz", **content)
    with pytest.raises(verification.EvaluationError, match="outside its threat"):
        evaluate(trained, checks=False, images_from=[tmp_path / "far.npz"], **SETTINGS)
