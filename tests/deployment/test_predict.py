import json

import numpy
import pytest
import tiny
import torch
from exportable import CARD, MODELS
from PIL import Image
from rich.console import Console

from equipoise.deployment import (
    Prediction,
    export_model,
    predict_images,
    predictions_as_json,
    rich_predictions,
)
from equipoise.deployment import predict as predict_module
from equipoise.deployment.predict import estimated_strength
from equipoise.models import load, save
from equipoise.models.io.model_folder import weights_sha256
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_json
from equipoise.runtime.trust import trusting

pytestmark = pytest.mark.usefixtures("few_digits", "no_shape_checks")


@pytest.fixture
def pictures(tmp_path):
    """The first three test digits as files."""
    paths = []
    for number in range(3):
        pixels = tiny.digits().test.images[number, 0].numpy()
        paths.append(tmp_path / f"digit{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def add_record(folder, means):
    curve = [{"mean": mean, "std": 0.01} for mean in means]
    record = tiny.record(
        "tiny",
        training_seed=0,
        weights_sha256=weights_sha256(folder / "model"),
        fusing_weight={"through_generator": curve, "through_robust_branch": curve},
    )
    write_json(folder / "records" / "tiny.json", record)


def test_an_image_file_gets_the_models_prediction_for_its_pixels(folder, pictures):
    images, _ = tiny.digits().test.batch(slice(0, 3))
    with torch.no_grad():
        logits, w0 = load(folder).logits_and_weight(images)
    predictions = predict_images(str(folder), pictures)
    assert [prediction.image for prediction in predictions] == [str(path) for path in pictures]
    assert [prediction.label for prediction in predictions] == logits.argmax(dim=1).tolist()
    assert [prediction.class_name for prediction in predictions] == [
        f"digit {k}" for k in logits.argmax(dim=1)
    ]
    for prediction, row, weight in zip(predictions, logits, w0, strict=True):
        assert prediction.probability == pytest.approx(float(row.softmax(0).max()), abs=1e-5)
        assert prediction.w1 == pytest.approx(1 - float(weight), abs=1e-5)
        assert prediction.notices == ()
        assert prediction.strength is None  # no record, so nothing to compare with


def test_predictions_of_several_batches_keep_the_order_of_images(folder, pictures, monkeypatch):
    monkeypatch.setattr(predict_module, "BATCH", 2)
    many = [pictures[k] for k in (0, 1, 2, 1, 0)]
    w1 = [prediction.w1 for prediction in predict_images(str(folder), many)]
    assert w1[3] == pytest.approx(w1[1], abs=1e-4)
    assert w1[4] == pytest.approx(w1[0], abs=1e-4)
    assert abs(w1[0] - w1[1]) > 1e-2


def test_an_image_of_another_size_is_fitted_with_a_notice(folder, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(numpy.full((48, 64, 3), 90, dtype=numpy.uint8)).save(photo)
    (prediction,) = predict_images(str(folder), [photo])
    assert "resized from 64x48 to 8x8, with its edges cut off" in prediction.notices


def test_a_model_without_a_weight_generator_has_no_w1(tmp_path, pictures):
    save(MODELS["afs"](), tmp_path / "model", CARD)
    assert {prediction.w1 for prediction in predict_images(str(tmp_path / "model"), pictures)} == {
        None
    }


def test_the_preference_can_be_chosen(tmp_path, pictures):
    save(MODELS["oat"](), tmp_path / "model", CARD)
    clean, robust = (
        predict_images(str(tmp_path / "model"), pictures, preference=preference)
        for preference in (0.0, 1.0)
    )
    default = predict_images(str(tmp_path / "model"), pictures)
    assert [prediction.probability for prediction in default] == [
        prediction.probability for prediction in robust
    ]
    assert [prediction.probability for prediction in default] != [
        prediction.probability for prediction in clean
    ]


def test_a_folder_without_class_names_gives_numbers(tmp_path, pictures):
    save(MODELS["wide resnet"](), tmp_path / "model", {"name": "tiny"})
    (prediction,) = predict_images(str(tmp_path / "model"), pictures[:1], size=(8, 8))
    assert prediction.class_name == str(prediction.label)


def scores(means, std=0.01, epsilons=(0.0, 0.1, 0.2)):
    curve = [{"mean": mean, "std": std} for mean in means]
    return {"epsilons": list(epsilons), "w1": curve, "norm": "Linf"}


@pytest.mark.parametrize(
    ("means", "w1", "epsilon", "or_more"),
    [
        ([0.5, 0.7, 0.9], 0.4, 0.0, False),  # below the clean mean
        ([0.5, 0.7, 0.9], 0.5, 0.0, False),
        ([0.5, 0.7, 0.9], 0.6, 0.05, False),
        ([0.5, 0.7, 0.9], 0.75, 0.125, False),
        ([0.5, 0.7, 0.9], 0.9, 0.2, True),
        ([0.5, 0.7, 0.9], 0.99, 0.2, True),
        ([0.5, 0.9, 0.8], 0.85, 0.0875, False),  # falls again: the lowest strength that fits
        ([0.5, 0.9, 0.8], 0.95, 0.1, True),
        ([0.5, 0.4, 0.9], 0.7, 0.15, False),  # from the running maximum, 0.5, not from 0.4
    ],
)
def test_a_strength_is_interpolated_from_the_mean_weights(means, w1, epsilon, or_more):
    strength = estimated_strength(w1, scores(means))
    assert strength.epsilon == pytest.approx(epsilon)
    assert strength.or_more is or_more
    assert (strength.at_clean, strength.at_strongest) == (means[0], max(means))
    assert strength.strongest == [0.0, 0.1, 0.2][means.index(max(means))]


@pytest.mark.parametrize(
    "known",
    [
        None,
        scores([]),
        {**scores([]), "w1": None},
        scores([0.5, 0.505, 0.4]),
        scores([0.9, 0.5, 0.4]),
    ],
)
def test_an_uninformative_weight_gives_no_strength(known):
    assert estimated_strength(0.7, known) is None


def test_the_mean_weights_come_from_the_folders_record(folder, pictures):
    (without,) = predict_images(str(folder), pictures[:1])
    add_record(folder, [without.w1 - 0.1, without.w1 + 0.1])
    (prediction,) = predict_images(str(folder), pictures[:1])
    assert prediction.strength.epsilon == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "needs at least one image, got none"),
        ({"images": ["no.png"]}, "no.png does not exist"),
        ({"model": "nowhere"}, "nowhere is not a model folder"),
        ({"model": "nowhere.onnx"}, "nowhere.onnx does not exist"),
        ({"preference": 0.5}, "takes no preference"),
    ],
)
def test_unusable_inputs_are_refused(arguments, message, folder, pictures):
    inputs = {"model": str(folder), "images": pictures, "preference": None} | arguments
    with pytest.raises((ValueError, RunError), match=message):
        predict_images(inputs["model"], inputs["images"], preference=inputs["preference"])


def test_a_file_that_equipoise_did_not_export_is_refused(tmp_path, pictures):
    program = torch.export.export(tiny.linear(), (torch.rand(1, 1, 8, 8),))
    torch.export.save(program, tmp_path / "other.pt2")
    with (
        trusting(str(tmp_path / "other.pt2")),
        pytest.raises(
            RunError, match=r"does not contain the names of its classes.*equipoise export"
        ),
    ):
        predict_images(str(tmp_path / "other.pt2"), pictures)


def test_the_size_of_an_exported_file_is_fixed(folder, pictures, tmp_path):
    save(MODELS["wide resnet"](), tmp_path / "model", CARD)
    path = tmp_path / "file.pt2"
    export_model(str(tmp_path / "model"), path, form="torch-export", images=4)
    with (
        trusting(str(path)),
        pytest.raises(ValueError, match="with a fixed preference and size; leave out"),
    ):
        predict_images(str(path), pictures, size=(9, 9))


def test_a_model_that_outputs_nan_is_refused(tmp_path, pictures):
    model = tiny.wide_resnet()
    torch.nn.init.constant_(model.linear.bias, float("nan"))
    save(model, tmp_path / "model", CARD)
    with pytest.raises(RunError, match="outputs NaN or infinity"):
        predict_images(str(tmp_path / "model"), pictures)


def test_too_few_class_names_are_refused(tmp_path, pictures):
    save(tiny.wide_resnet(), tmp_path / "model", CARD | {"classes": ["a", "b"]})
    with pytest.raises(RunError, match="one class name for each of its 10 outputs, got 2"):
        predict_images(str(tmp_path / "model"), pictures)


def prediction(w1=None, known=None, **changes):
    strength = None if w1 is None else estimated_strength(w1, known)
    fields = {
        "image": "[red]a.png", "class_name": "cat [b]", "label": 0, "probability": 0.987654,
        "notices": ("made grey",), "w1": w1, "strength": strength,
    }  # fmt: skip
    return Prediction(**(fields | changes))


def printed(*predictions):
    console = Console(width=100)
    with console.capture() as captured:
        console.print(rich_predictions(predictions))
    return " ".join(captured.get().split())


def test_the_table_prints_names_without_markup_and_the_notices():
    text = printed(prediction())
    assert "[red]a.png cat [b] 0.988" in text
    assert "[red]a.png: made grey." in text
    assert "W1" not in text


def test_the_table_has_the_estimated_attack_strength_and_its_basis():
    known = scores([0.9, 0.94, 0.98], epsilons=(0.0, 4 / 255, 8 / 255))
    text = printed(prediction(0.95, known), prediction(0.99, known))
    assert "0.988 0.950 5.0/255" in text
    assert "0.988 0.990 8.0/255 or more" in text
    assert "on average 0.900 for clean images and 0.980 for images attacked at 8/255 (Linf)" in text
    assert "a single image is rough" in text
    assert "0.988 0.950 ?" in printed(prediction(0.95))


def test_json_holds_every_field():
    (content,) = json.loads(predictions_as_json([prediction(0.95, scores([0.9, 0.94, 0.98]))]))
    assert content["class_name"] == "cat [b]"
    assert content["notices"] == ["made grey"]
    assert content["strength"]["epsilon"] == pytest.approx(0.125)
