import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import jaxtyping
import onnx
import pytest
import tiny
import torch
from exportable import CARD, MODELS, adaptive
from PIL import Image
from torch import nn

from equipoise import PGD, Linf
from equipoise.api.evaluate import evaluate
from equipoise.attacks import goals
from equipoise.data import Digits
from equipoise.deployment import export as export_module
from equipoise.deployment import export_model, predict_images
from equipoise.deployment.export import TOLERANCE, DeployedModel, ExportError, difference
from equipoise.evaluation import images_hash
from equipoise.models import load, save
from equipoise.models.io.exported import CARD_KEY
from equipoise.models.io.external import load_external
from equipoise.recipes import Evaluation
from equipoise.records.files import iterate_records
from equipoise.runtime.errors import RunError
from equipoise.runtime.trust import trusting

# Without the tests' shape checks, which would fix the batch size of what torch traces.
pytestmark = pytest.mark.usefixtures("few_digits", "no_shape_checks")
FORMS = {"onnx": ".onnx", "torch-export": ".pt2"}


def attacked(model, images, labels):
    """Adversarial images of the original, made independently of the export's own verification."""
    goal = goals.margin(model, labels)
    adversarial = PGD(steps=3, relative_step=0.5)(
        goal, images, Linf(0.2), torch.Generator().manual_seed(5)
    )
    assert (adversarial - images).abs().max() > 0.1
    return adversarial


def check_outputs(path, model):
    """Check that a file has the model's outputs on clean and adversarial images."""
    exported = load_external(str(path), trust=[str(path)])
    images, labels = tiny.digits().test.batch(slice(0, 11))
    adversarial = attacked(model, images, labels)
    with torch.no_grad():
        for batch in (images, adversarial, adversarial[:1]):
            torch.testing.assert_close(exported(batch), model(batch), rtol=0, atol=TOLERANCE)
        assert model(adversarial).std() > 0.1
    return exported, adversarial


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an AFA model and its record."""
    folder = tmp_path_factory.mktemp("export") / "run"
    save(adaptive(), folder / "model", CARD)
    quick = Evaluation(epsilons=(0.0, 0.1), suites=("quick",), steps=1, restarts=1, images=8)
    evaluate(folder, evaluation=quick, dataset=tiny.digits(), checks=False)
    return folder


@pytest.fixture(scope="module", params=FORMS)
def exported(request, run):
    """The run exported in each format, and the result of the export."""
    jaxtyping.config.update("jaxtyping_disable", True)
    path = run / f"file{FORMS[request.param]}"
    done = export_model(str(run), path, form=request.param, images=4)
    return path, done


@pytest.mark.slow
def test_an_afa_file_equals_the_original_on_adversarial_images(exported, run):
    path, done = exported
    model = load(run)
    loaded, adversarial = check_outputs(path, model)
    with torch.no_grad():
        w0 = model.logits_and_weight(adversarial)[1]
        assert w0.std() > 0.1
        torch.testing.assert_close(loaded.outputs(adversarial)[1], 1 - w0, rtol=0, atol=TOLERANCE)
    assert 0 <= max(done.difference_clean, done.difference_adversarial) <= TOLERANCE
    assert (done.epsilon, done.images) == (0.1, 4)
    assert done.source.startswith("digits (")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form"), [("afs", "onnx"), *((kind, "torch-export") for kind in MODELS)]
)
def test_a_file_of_any_model_equals_the_original_on_adversarial_images(kind, form, tmp_path):
    model = MODELS[kind]()
    save(model, tmp_path / "model", CARD)
    path = tmp_path / f"file{FORMS[form]}"
    export_model(str(tmp_path / "model"), path, form=form, images=4)
    check_outputs(path, model)


def test_the_file_contains_the_score_card(exported, run):
    path, done = exported
    ((_, record),) = iterate_records(run / "records")
    card = load_external(str(path), trust=[str(path)]).card
    assert card == json.loads(json.dumps(done.card))
    assert card["classes"] == CARD["classes"]
    assert card["outputs"] == ["logits", "w1"]
    assert card["image_shape"] == [1, 8, 8]
    assert card["scores"]["accuracy"] == record["headline"]["accuracy"]
    assert card["scores"]["images"] == 8
    assert [point["mean"] for point in card["scores"]["w1"]] == [
        point["mean"] for point in record["fusing_weight"]["through_generator"]
    ]
    assert "contains the scores on 8 test images of digits" in done.summary()
    if path.suffix == ".onnx":
        model = onnx.load(path)
        (entry,) = model.metadata_props
        assert (entry.key, json.loads(entry.value)) == (CARD_KEY, card)
        (batch, *sizes) = model.graph.input[0].type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert [size.dim_value for size in sizes] == [1, 8, 8]


@pytest.mark.slow
def test_an_exported_file_can_be_evaluated(exported, run, tmp_path, monkeypatch):
    path, _ = exported
    monkeypatch.chdir(tmp_path)
    suite = "quick" if path.suffix == ".pt2" else "transfer"
    settings = Evaluation(epsilons=(0.0, 0.1), suites=(suite,), steps=1, restarts=1, images=8)
    record, record_path = evaluate(
        path,
        evaluation=settings,
        dataset=tiny.digits(),
        checks=False,
        trust=[str(path)],
        surrogates=[run] if suite == "transfer" else (),
    )
    ((_, original),) = iterate_records(run / "records")
    assert record["headline"]["accuracy"][0] == original["headline"]["accuracy"][0]
    assert record_path.is_relative_to("runs")


def test_an_exported_file_gives_the_predictions_of_its_folder(exported, run, tmp_path):
    path, _ = exported
    pictures = [tmp_path / f"{number}.png" for number in range(3)]
    for picture, pixels in zip(pictures, tiny.digits().test.images, strict=False):
        Image.fromarray(pixels[0].numpy()).save(picture)
    with trusting(str(path)):
        exported_predictions = predict_images(str(path), pictures)
        predictions = predict_images(str(run), pictures)
    for actual, expected in zip(exported_predictions, predictions, strict=True):
        assert (actual.class_name, actual.notices) == (expected.class_name, expected.notices)
        assert actual.probability == pytest.approx(expected.probability, abs=1e-4)
        assert actual.w1 == pytest.approx(expected.w1, abs=1e-4)
        assert (actual.strength is None) == (expected.strength is None)


@pytest.mark.slow
def test_a_preference_is_fixed_in_the_file(tmp_path):
    model = MODELS["oat"]()
    save(model, tmp_path / "model", CARD)
    path = tmp_path / "file.pt2"
    done = export_model(
        str(tmp_path / "model"), path, form="torch-export", preference=0.0, images=4
    )
    assert done.card["name"] == "tiny@0"
    images = tiny.images_and_labels()[0]
    with torch.no_grad():
        logits = load_external(str(path), trust=[str(path)])(images)
        torch.testing.assert_close(logits, model(images, preference=0.0), rtol=0, atol=TOLERANCE)
        assert (logits - model(images, preference=1.0)).abs().max() > 0.1


class Wrong(nn.Module):
    """Outputs of the original, except one logit of adversarial images or of all images."""

    def __init__(self, deployed, off, only):
        super().__init__()
        self.deployed, self.off, self.only = deployed, off, only

    def outputs(self, images):
        logits, *rest = self.deployed(images)
        if self.only == "everywhere" or (self.only == "adversarial") == _is_attacked(images):
            logits = logits.clone()
            logits[-1, 3] += self.off
        return (logits, *rest)


def _is_attacked(images):
    """Digits have 17 pixel levels; adversarial images have others."""
    levels = images * 255
    return bool((levels - levels.round()).abs().max() > 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("off", "only"),
    [(2e-4, "everywhere"), (-1.0, "adversarial"), (1.0, "clean"), (float("nan"), "everywhere")],
)
def test_a_file_with_other_outputs_is_refused_and_not_written(
    off, only, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        export_module,
        "load_external",
        lambda name, trust: Wrong(DeployedModel(load(folder)), off, only),
    )
    path = tmp_path / "out" / "file.pt2"
    with pytest.raises(
        ExportError,
        match=r"must differ from the original's by at most 0.0001, got .* was not written",
    ):
        export_model(str(folder), path, form="torch-export", images=4)
    assert not path.exists()


@pytest.mark.slow
def test_a_refused_export_keeps_an_earlier_file(folder, tmp_path, monkeypatch):
    path = tmp_path / "file.pt2"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(export_module, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="was not written"):
        export_model(str(folder), path, form="torch-export", images=4)
    assert path.read_bytes() == b"earlier"
    assert not list(tmp_path.glob(".*"))


def test_the_difference_is_the_largest_of_any_output_and_image():
    deployed = DeployedModel(adaptive())
    images = tiny.images_and_labels()[0]
    for off in (0.5, -0.25):
        largest = difference(Wrong(deployed, off, "everywhere"), deployed, images)
        assert largest == pytest.approx(abs(off), rel=1e-4)


@pytest.mark.parametrize(("scale", "expected"), [(0.1, 0.3), (3000.0, 1e-4)])
def test_the_difference_of_large_logits_is_relative_to_the_largest(scale, expected):
    def deployed(images):
        return (scale * images.flatten(1),)

    file = SimpleNamespace(outputs=lambda images: (deployed(images)[0] + 0.3,))
    assert difference(file, deployed, torch.ones(3, 1, 2, 2)) == pytest.approx(expected, rel=1e-2)


def test_the_comparison_covers_all_classes_of_sorted_data(tmp_path, monkeypatch):
    data = tiny.digits()
    part = data.test.take(data.test.labels.argsort())
    monkeypatch.setattr(Digits, "load", lambda self: replace(data, test=part))
    save(MODELS["wide resnet"](), tmp_path / "model", CARD)
    done = export_model(
        str(tmp_path / "model"), tmp_path / "file.pt2", form="torch-export", images=4
    )
    assert done.source == f"digits ({images_hash(part.first(4))[:12]})"


def test_a_model_without_its_data_is_compared_on_noise(tmp_path):
    card = CARD | {"dataset": {"kind": "Cifar10", "folder": str(tmp_path), "limit": None}}
    save(MODELS["wide resnet"](), tmp_path / "model", card)
    done = export_model(
        str(tmp_path / "model"), tmp_path / "file.pt2", form="torch-export", images=4
    )
    assert done.source == "noise"
    assert done.epsilon == 8 / 255
    assert "contains no scores" in done.summary()


def test_a_folder_without_an_image_size_requires_one(tmp_path):
    save(MODELS["wide resnet"](), tmp_path / "model", {"name": "tiny"})
    model, path = str(tmp_path / "model"), tmp_path / "file.pt2"
    with pytest.raises(RunError, match="--size HEIGHT WIDTH"):
        export_model(model, path, form="torch-export")
    done = export_model(model, path, form="torch-export", size=(12, 16), images=4)
    assert done.card["image_shape"] == [1, 12, 16]
    with torch.no_grad():
        assert load_external(str(path), trust=[str(path)])(torch.rand(3, 1, 12, 16)).shape == (
            3,
            10,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "file.onnx"}, r"torch-export must end in .pt2, got .*file.onnx"),
        ({"images": 1}, "images must be 2 or more, got 1"),
        ({"model": "module:function"}, "cannot be imported"),
        ({"model": "nowhere"}, "nowhere is not a model folder"),
    ],
)
def test_unusable_arguments_are_refused(changes, message, folder, tmp_path):
    arguments = {"model": str(folder), "file": "file.pt2", "images": 4} | changes
    with pytest.raises(RunError, match=message):
        export_model(
            arguments["model"],
            tmp_path / arguments["file"],
            form="torch-export",
            images=arguments["images"],
        )
    assert not (tmp_path / arguments["file"]).exists()


class Untraceable(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10] * (
            2 if float(images.sum()) > 3 else 1
        )  # a choice by value


@pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning")
def test_a_network_that_cannot_be_traced_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "equipoise.models.io.model_source.load", lambda folder, trust: Untraceable().eval()
    )
    path = tmp_path / "file.pt2"
    with pytest.raises(ExportError, match="Untraceable cannot be exported: torch could not trace"):
        export_model(str(folder), path, form="torch-export", images=4)
    assert not path.exists()


def test_onnx_without_its_packages_names_the_extra_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"pip install 'equipoise\[onnx\]'"):
        export_model(str(folder), tmp_path / "file.onnx", form="onnx", images=4)


def test_an_onnxscript_that_is_too_old_for_torch_is_reported(folder, tmp_path, monkeypatch):
    def too_old(*arguments, **settings):
        raise ModuleNotFoundError("No module named 'onnxscript.of_later'")

    monkeypatch.setattr(torch.onnx, "export", too_old)
    with pytest.raises(
        ExportError, match=r"needs other packages .*of_later.*pip install --upgrade"
    ):
        export_model(str(folder), tmp_path / "file.onnx", form="onnx", images=4)
    assert not (tmp_path / "file.onnx").exists()
