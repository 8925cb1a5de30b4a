import base64
import io
import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from equipoise.api.evaluate import evaluate
from equipoise.api.gallery import search, spread_out, write_galleries
from equipoise.api.train import train
from equipoise.models import load, save
from equipoise.records.files import iterate_records
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a tiny model, on the first test digits, with one record."""
    folder = tmp_path_factory.mktemp("gallery") / "run"
    train(tiny.recipe(), folder, dataset=tiny.digits())
    evaluate(folder, images=16, checks=False)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def only(folder):
    """The record of a run folder, with its path."""
    (pair,) = iterate_records(folder)
    return pair


def pixels(png: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(png)))).astype(int)


def test_images_are_the_data_an_attack_inside_the_threat_and_the_difference(run):
    path, record = only(run)
    (written,) = write_galleries([(path, record)], 4)
    assert written == run / "gallery" / path.name
    gallery = read_json(written)
    test = tiny.digits().test
    assert len(gallery["pictures"]) == 4
    assert gallery["epsilon_written"] == "0.1"
    for picture in gallery["pictures"]:
        clean = test.images[picture["row"], 0].numpy().astype(int)
        assert (pixels(picture["clean"]) == clean).all()
        assert picture["label"] == int(test.labels[picture["row"]])
        change = pixels(picture["adversarial"]) - clean
        assert 0 < np.abs(change).max() <= 0.1 * 255 + 1
        shown = (pixels(picture["perturbation"]) - 127.5) / picture["times"]
        assert shown == pytest.approx(change, abs=1)


def test_predictions_are_the_models_and_agree_with_the_record(run):
    path, record = only(run)
    (written,) = write_galleries([(path, record)], 16)
    model, pictures = load(run), read_json(written)["pictures"]
    images, _ = tiny.digits().test.batch(torch.tensor([each["row"] for each in pictures]))
    chances = model(images).softmax(dim=1).max(dim=1)
    assert [each["before"]["class"] for each in pictures] == chances.indices.tolist()
    confidences = [each["before"]["confidence"] for each in pictures]
    assert confidences == pytest.approx(chances.values.tolist(), abs=1e-4)
    wrong = [each["row"] for each in pictures if each["before"]["class"] != each["label"]]
    assert sorted(wrong) == [row for row, at in enumerate(record["broken_at"]) if at == 0]


def test_the_search_climbs_the_margin(generator):
    model, (images, labels) = tiny.linear().eval(), tiny.images_and_labels(8)
    examples = search(model, images, labels, "Linf", 0.1, generator)

    def true_class(probabilities):
        return probabilities.gather(1, labels[:, None])

    assert (true_class(examples.after) < true_class(examples.before)).all()


def test_images_are_ordered_from_easily_broken_to_never_broken():
    one = {"epsilons": [0.0, 0.1, 0.2], "images": 5, "broken_at": [-1, 2, 0, 1, -1]}
    other = one | {"broken_at": [-1, 2, 0, 1, 2]}
    assert spread_out([one, other], 5) == [2, 3, 1, 4, 0]
    assert spread_out([one, other], 3) == [2, 1, 0]
    assert spread_out([one], 1) == [2]


def test_the_same_record_gives_the_same_gallery(run):
    path, record = only(run)
    first, second = (write_galleries([(path, record)], 3)[0].read_bytes() for _ in range(2))
    assert first == second


def test_a_model_folder_with_its_own_records_has_a_gallery(run):
    model = (run / "model").rename(run.parent / "last")
    shutil.move(run / "records", model)
    (written,) = write_galleries([only(model)], 2)
    assert written.parent == model / "gallery"


def test_a_gallery_larger_than_the_data_is_refused(run):
    with pytest.raises(ValueError, match="1 to 16 images, got 17"):
        write_galleries([only(run)], 17)


def test_a_record_without_a_model_next_to_it_is_refused(run):
    shutil.rmtree(run / "model")
    with pytest.raises(RunError, match=r"no model next to .* leave --gallery out"):
        write_galleries([only(run)], 2)


def test_data_other_than_the_records_are_refused(run):
    path, record = only(run)
    with pytest.raises(RunError, match="are not the images of the record"):
        write_galleries([(path, record | {"images_sha256": "0" * 64})], 2)


def test_a_model_other_than_the_evaluated_one_is_refused(run):
    path, record = only(run)
    card = read_json(run / "model" / "config.json")["card"]
    save(tiny.wide_resnet(seed=5), run / "model", card)
    with pytest.raises(RunError, match="is not the one that was evaluated"):
        write_galleries([(path, record)], 16)
    assert not (run / "gallery").exists()
