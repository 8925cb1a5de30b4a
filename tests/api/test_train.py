import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch
from rich.console import Console

from equipoise import load
from equipoise.api.demo import DEMO, demo
from equipoise.api.evaluate import evaluate
from equipoise.api.train import find_recipe, train
from equipoise.data import DataError
from equipoise.deployment import publish
from equipoise.evaluation import images_hash, measure_profile
from equipoise.models import AdaptiveNetwork, save, with_conditioning
from equipoise.models.io import model_folder
from equipoise.models.io.model_folder import ModelFolderError, read_config, weights_sha256
from equipoise.recipes import Evaluation, to_json
from equipoise.records.files import read_record
from equipoise.report.self_checks import rich_checks
from equipoise.runtime.environment import commit
from equipoise.runtime.errors import RunError, TrainingError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.reporter import NullReporter
from equipoise.runtime.seeds import derive_seed
from equipoise.training import checkpoint
from equipoise.training.validation import Validation

# Self-checks have their own tests and would take most of the time here.
pytestmark = pytest.mark.usefixtures("no_self_checks")
QUICK = Evaluation(epsilons=(0.0, 0.1), suites=("quick",), steps=1, restarts=1, images=8)


@pytest.fixture(scope="module")
def data():
    return tiny.digits()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("jobs") / "run"
    train(tiny.recipe(), folder, dataset=data)
    return folder


def test_training_returns_the_saved_model_in_eval_mode(tmp_path, data):
    model = train(tiny.recipe("afa_digits"), tmp_path / "run", dataset=data)
    saved = load(tmp_path / "run")
    assert isinstance(saved, AdaptiveNetwork)
    assert not model.training
    assert tiny.same(tiny.weights(saved), tiny.weights(model))


@pytest.mark.slow
@pytest.mark.parametrize(("scores", "kept"), [((0.9, 0.1), "best"), ((0.1, 0.9), "last")])
def test_the_last_epoch_is_saved_as_a_model_if_the_best_is_another(
    tmp_path, data, monkeypatch, scores, kept
):
    following = iter(scores)
    monkeypatch.setattr(Validation, "__call__", lambda self, task: {0.0: next(following)})
    trained = train(tiny.recipe(), tmp_path, dataset=data)
    stage = tmp_path / "stages" / "network"
    stored = {
        name: checkpoint.unpack(stage / f"{name}.safetensors")[0] for name in ("best", "last")
    }
    assert tiny.same(stored["best"], stored["last"]) == (kept == "last")

    def of_network(name):
        return {key.removeprefix("network."): value for key, value in stored[name].items()}

    assert tiny.same(tiny.weights(trained), of_network(kept))
    assert tiny.same(tiny.weights(load(tmp_path)), of_network(kept))
    assert (tmp_path / "last").exists() == (kept == "best")
    if kept == "best":
        assert tiny.same(tiny.weights(load(tmp_path / "last")), of_network("last"))
        record, path = evaluate(tmp_path / "last", evaluation=QUICK, dataset=data)
        assert (record["model"], path.parent) == (
            "standard_digits_last",
            tmp_path / "last" / "records",
        )


def test_a_run_leaves_its_recipe_environment_and_card(trained):
    assert find_recipe(str(trained)) == tiny.recipe()
    assert {"commit", "versions"} <= set(read_json(trained / "environment.json"))
    card = read_config(trained / "model")["card"]
    assert (card["name"], card["data"], card["seed"]) == ("standard_digits", "digits", 0)
    assert card["classes"] == [str(i) for i in range(10)]
    assert {path.name for path in trained.iterdir()} == {
        "recipe.json",
        "environment.json",
        "stages",
        "model",
    }


def test_warnings_of_training_are_in_the_card_and_in_records(trained, tmp_path, data):
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(folder / "model")
    done = folder / "stages" / "network" / "done.json"
    content = read_json(done)
    assert content["threads"] == torch.get_num_threads()
    write_json(done, content | {"warnings": ["the accuracy is at chance."]})
    train(tiny.recipe(), folder, dataset=data, resume=True)
    warning = "stage network: the accuracy is at chance."
    assert f"> **Warning** (training): {warning}" in (folder / "model" / "README.md").read_text()
    assert load(folder) is not None
    record, _ = evaluate(folder, evaluation=QUICK, dataset=data)
    assert record["training_warnings"] == [warning]
    console = Console(record=True, width=200)
    console.print(rich_checks(record))
    assert f"warning {record['model']}: {warning}" in console.export_text()


def test_resuming_a_finished_run_trains_nothing_and_changes_no_weights(trained, data):
    before = (trained / "model" / "model.safetensors").stat().st_mtime_ns
    reporter = tiny.AfterSteps(0, lambda: pytest.fail("it trained again"))
    model = train(tiny.recipe(), trained, dataset=data, resume=True, reporter=reporter)
    assert reporter.stages == []
    assert (trained / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert tiny.same(tiny.weights(load(trained)), tiny.weights(model))


def test_a_half_written_model_folder_is_completed(tmp_path, data):
    folder = tmp_path / "run"
    train(tiny.recipe(), folder, dataset=data)
    whole = (folder / "model" / "config.json").read_bytes()
    (folder / "model" / "config.json").unlink()
    train(tiny.recipe(), folder, dataset=data, resume=True)
    assert (folder / "model" / "config.json").read_bytes() == whole


def test_a_folder_that_holds_a_run_is_refused_without_resume(trained, data):
    with pytest.raises(RunError, match=r"already holds a run.*--resume.*--out"):
        train(tiny.recipe(), trained, dataset=data)


def test_a_run_whose_loss_became_nan_makes_room_for_another(tmp_path, data):
    recipe = tiny.recipe()
    schedule = replace(recipe.method.schedule, learning_rate=1e30)
    wild = replace(recipe, method=replace(recipe.method, schedule=schedule))
    with pytest.raises(TrainingError) as caught:
        train(wild, tmp_path / "run", dataset=data)
    assert "--method.schedule.clip-norm 1" in str(caught.value)
    assert "The same command with other settings, without --resume, starts a new run" in str(
        caught.value
    )
    train(recipe, tmp_path / "run", dataset=data)
    assert (tmp_path / "run" / "model" / "config.json").exists()
    assert (tmp_path / "run" / "failed" / "1" / "recipe.json").exists()
    with pytest.raises(RunError, match="already holds a run"):
        train(recipe, tmp_path / "run", dataset=data)


def test_a_folder_that_holds_something_else_is_refused(tmp_path, data):
    (tmp_path / "holiday.jpg").write_text("x")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"is not a run folder; choose another.*--out"):
            train(tiny.recipe(), tmp_path, dataset=data, resume=resume)


def test_a_file_is_refused_as_run_folder(tmp_path, data):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError, match=r"--out"):
        train(tiny.recipe(), tmp_path / "run", dataset=data)


def test_an_empty_folder_is_accepted(tmp_path, data):
    train(tiny.recipe(), tmp_path, dataset=data)
    assert (tmp_path / "model" / "config.json").exists()


def test_a_run_of_another_recipe_is_refused_with_the_differences(trained, data):
    other = tiny.recipe(seed=7)
    other = replace(other, loop=replace(other.loop, batch_size=9))
    with pytest.raises(RunError, match=r"differs in loop.batch_size, seed\)") as refusal:
        train(other, trained, dataset=data, resume=True)
    assert f"equipoise train {trained / 'recipe.json'} --out {trained} --resume" in str(
        refusal.value
    )


def test_a_damaged_recipe_in_the_folder_is_refused(trained, tmp_path, data):
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        train(tiny.recipe(), tmp_path, dataset=data, resume=True)


def test_recipes_are_found_by_name_file_or_run_folder(trained):
    assert find_recipe("afa_digits").name == "afa_digits"
    assert find_recipe(str(trained / "recipe.json")) == tiny.recipe()
    assert find_recipe(str(trained)) == tiny.recipe()


def test_an_unknown_recipe_names_the_nearest_ones():
    with pytest.raises(ValueError, match=r"'afa_digitz'. Did you mean afa_digits"):
        find_recipe("afa_digitz")
    with pytest.raises(ValueError, match="See `equipoise list`"):
        find_recipe("resnet")


def test_an_unknown_field_in_a_recipe_file_is_refused_by_name(tmp_path):
    content = to_json(tiny.recipe()) | {"speling": 1}
    write_json(tmp_path / "recipe.json", content)
    with pytest.raises(RunError, match=r"recipe.json is not a recipe of this.*speling"):
        find_recipe(str(tmp_path))


def timeless(part):
    """A record, or part of one, without its times."""
    if isinstance(part, dict):
        return {name: timeless(value) for name, value in part.items() if name != "seconds"}
    return [timeless(each) for each in part] if isinstance(part, list) else part


@pytest.mark.slow
def test_several_workers_write_the_same_record_as_one(tmp_path, trained, data):
    records = []
    for workers in (1, 2):
        folder = shutil.copytree(trained, tmp_path / str(workers) / "run")
        settings = {"evaluation": QUICK, "dataset": data, "batch_size": 3}
        records.append(evaluate(folder, workers=workers, **settings)[0])
    assert timeless(records[0]) == timeless(records[1])


@pytest.mark.slow
def test_evaluating_a_run_writes_a_record_into_its_folder(trained, data):
    record, path = evaluate(trained, evaluation=QUICK, dataset=data)
    try:
        assert path.parent == trained / "records"
        assert path.name.startswith("standard_digits__seed0__")  # settings of its own
        assert read_record(path) == json.loads(json.dumps(record))
        assert record["images"] == 8
        assert record["epsilons"] == [0.0, 0.1]
        assert (record["training_seed"], record["seed"]) == (0, 0)
        assert record["training_commit"] == commit()
    finally:
        path.unlink()
        path.parent.rmdir()


@pytest.mark.slow
def test_a_model_folder_can_be_evaluated_without_its_run(trained, tmp_path, data):
    shutil.copytree(trained / "model", tmp_path / "elsewhere")
    record, path = evaluate(tmp_path / "elsewhere", evaluation=QUICK, dataset=data)
    assert path.parent == tmp_path / "elsewhere" / "records"
    again, _ = evaluate(tmp_path / "elsewhere", evaluation=QUICK, dataset=data)
    assert {**record, "seconds": 0} == {**again, "seconds": 0}


@pytest.mark.slow
def test_evaluation_takes_settings_and_data_from_the_card(tmp_path, trained):
    shutil.copytree(trained / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    content = read_json(path)
    content["card"]["evaluation"] = to_json(QUICK)
    write_json(path, content)
    record, path_of_record = evaluate(tmp_path / "model")
    # It was trained on a few of them, so that these are other data.
    assert path_of_record.name.startswith("standard_digits__seed0__")
    assert (record["images"], record["data"]) == (8, "digits")
    attack = record["suites"][0]["attacks"][0]
    assert (attack["steps"], attack["restarts"]) == (1, 1)


@pytest.mark.slow
def test_evaluations_with_other_settings_have_their_own_records(trained, tmp_path, data):
    shutil.copytree(trained / "model", tmp_path / "model")
    changes = [{}, {"seed": 1}, {"evaluation": replace(QUICK, steps=2)}]
    paths = [
        evaluate(tmp_path / "model", dataset=data, **({"evaluation": QUICK} | change))[1]
        for change in changes
    ]
    assert len(set(paths)) == 3
    assert evaluate(tmp_path / "model", dataset=data, evaluation=QUICK)[1] == paths[0]


@pytest.mark.slow
def test_evaluations_on_other_data_have_their_own_records(trained, tmp_path, data):
    shutil.copytree(trained / "model", tmp_path / "model")
    evaluate_model = partial(evaluate, tmp_path / "model", evaluation=QUICK)
    labels = data.test.labels.roll(1)
    others = [
        replace(data, name="others"),
        replace(data, test=replace(data.test, labels=labels)),  # of the same name
    ]
    paths = [evaluate_model(dataset=each)[1] for each in (data, *others)]
    assert len(set(paths)) == 3
    shown = publish.record_at(tmp_path / "model")
    assert shown["images_sha256"] == read_json(paths[0])["images_sha256"]


@pytest.mark.slow
def test_a_model_without_known_data_has_a_record_per_data_set(tmp_path, data):
    save(tiny.wide_resnet(), tmp_path / "model")
    evaluate_model = partial(evaluate, tmp_path / "model", evaluation=QUICK)
    other = replace(data, name="others")
    assert (
        evaluate_model(dataset=data)[1]
        == evaluate_model(dataset=data)[1]
        != evaluate_model(dataset=other)[1]
    )


@pytest.mark.slow
def test_data_with_the_models_classes_in_another_order_are_refused(trained, tmp_path, data):
    shutil.copytree(trained / "model", tmp_path / "model")
    moved = replace(data, class_names=(*data.class_names[1:], data.class_names[0]))
    with pytest.raises(ValueError, match=r"got 0 in the model and 9 in the data"):
        evaluate(tmp_path / "model", evaluation=QUICK, dataset=moved)
    named = replace(data, class_names=tuple(f"digit {n}" for n in data.class_names))
    assert evaluate(tmp_path / "model", evaluation=QUICK, dataset=named)


@pytest.mark.slow
def test_earlier_self_checks_stay_in_the_record(trained, tmp_path, data):
    shutil.copytree(trained / "model", tmp_path / "model")
    evaluate_model = partial(evaluate, tmp_path / "model", evaluation=QUICK, dataset=data)
    checked, path = evaluate_model()
    again, same = evaluate_model(checks=False)
    assert (again["self_checks"], same) == (checked["self_checks"], path)
    other, _ = evaluate_model(checks=False, seed=1)
    assert "self_checks" not in other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": -1}, "images must be a whole number of 1 or more, got -1"),
        ({"epsilons": ()}, "epsilons must name at least one, got none"),
        ({"suites": ()}, "suites must name at least one, got none"),
        ({"suites": ("quick", "tables", "quick")}, "suites must differ, but quick is named twice"),
    ],
)
def test_empty_and_repeated_evaluation_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **changes)


@pytest.mark.parametrize("what", ["batch_size", "workers"])
def test_batch_size_and_workers_below_1_are_refused(what, trained, data):
    with pytest.raises(ValueError, match=f"{what} must be 1 or more, got 0"):
        evaluate(trained, evaluation=QUICK, dataset=data, **{what: 0})


def test_a_run_continues_only_on_the_data_it_started_with(tmp_path, data):
    recipe = tiny.recipe()
    train(recipe, tmp_path, dataset=data)
    train(recipe, tmp_path, dataset=data, resume=True)
    other = replace(data, train=data.train.take(slice(1, None)))
    with pytest.raises(RunError, match="started on different data"):
        train(recipe, tmp_path, dataset=other, resume=True)


def test_a_test_set_is_refused_before_anything_is_written(tmp_path, data):
    only_test = replace(data, train=data.test.none())
    with pytest.raises(DataError, match=r"training needs 2 images or more, .* got 0; give data"):
        train(tiny.recipe(), tmp_path / "run", dataset=only_test)
    assert not (tmp_path / "run").exists()


def test_what_is_trained_on_is_said_and_validation_is_at_most_a_fifth(tmp_path, data):
    recipe = tiny.recipe()
    recipe = replace(recipe, loop=replace(recipe.loop, batch_size=500, validation_images=1000))
    lines = []
    reporter = NullReporter()
    reporter.log = lines.append
    train(recipe, tmp_path / "run", dataset=data, reporter=reporter)
    assert (
        "90 images are trained on, 1 batch of 90 per epoch (fewer than --loop.batch-size 500); 22 "
        "are for validation."
    ) in lines
    assert read_config(tmp_path / "run" / "model")["card"]["validation_images"] == 22


@pytest.mark.slow
def test_a_subset_of_sorted_images_covers_all_classes(trained, tmp_path, data):
    model = shutil.copytree(trained / "model", tmp_path / "model")
    part = data.test.take(data.test.labels.argsort())
    settings = {"evaluation": QUICK, "dataset": replace(data, test=part)}
    record, _ = evaluate(model, **settings)
    assert record["images_sha256"] == images_hash(part.first(8))
    assert len(part.first(8).labels.unique()) > len(part.labels[:8].unique())


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="is not a model folder"):
        evaluate(tmp_path, evaluation=QUICK)


def test_data_with_another_number_of_classes_are_refused(trained):
    from equipoise.data import DataSet

    other = DataSet(
        name="two",
        train=tiny.learnable(),
        test=tiny.learnable(),
        class_names=("dark", "bright"),
    )
    with pytest.raises(ValueError, match="the data has 2 classes"):
        evaluate(trained, evaluation=QUICK, dataset=other)


@pytest.mark.slow
def test_the_demo_trains_and_evaluates_its_recipes_once(tmp_path, monkeypatch):
    small = {name: (lambda name=name: tiny.recipe(name)) for name in DEMO[:2]}
    monkeypatch.setattr("equipoise.api.demo.RECIPES", small)
    monkeypatch.setattr("equipoise.api.demo.DEMO", DEMO[:2])
    reporters: dict[str, tiny.AfterSteps] = {}

    def listen(name: str) -> tiny.AfterSteps:
        return reporters.setdefault(name, tiny.AfterSteps(0, None))

    first = demo(tmp_path, workers=2, reporter=listen)
    assert [record["model"] for record in first] == list(small)
    assert reporters["pgd_at_digits"].stages == ["network", "evaluate pgd_at_digits"]
    reporters.clear()
    again = demo(tmp_path, workers=2, reporter=listen)
    assert again == json.loads(json.dumps(first))
    assert all(reporter.stages == [] for reporter in reporters.values())


@pytest.mark.slow
def test_validation_images_are_those_held_out_of_this_training(trained, data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "equipoise.api.evaluate.measure_profile",
        lambda model, split, **rest: seen.append(split) or measure_profile(model, split, **rest),
    )
    settings = replace(QUICK, images=None, part="validation")
    record, path = evaluate(trained, evaluation=settings, dataset=data)
    held_out = data.train.hold_out(16, derive_seed(0, "validation"))[1]
    assert torch.equal(seen[0].images, held_out.images)
    assert (record["part"], record["images"]) == ("validation", 16)
    path.unlink()


def test_a_model_without_known_validation_images_is_refused(tmp_path, data):
    model = tiny.wide_resnet()
    save(model, tmp_path, {"dataset": {"kind": "Digits"}})
    with pytest.raises(ValueError, match="does not say which validation images"):
        evaluate(tmp_path, evaluation=replace(QUICK, part="validation"), dataset=data)


@pytest.mark.slow
def test_a_conditional_network_is_evaluated_at_each_preference(tmp_path, data):
    network = with_conditioning(tiny.wide_resnet(), preferences=(0.0, 1.0), size=4)
    save(network, tmp_path / "oat", {"name": "oat", "seed": 0})
    records = {}
    for preference in (None, 0.0):
        records[preference], path = evaluate(
            tmp_path / "oat", evaluation=QUICK, dataset=data, preference=preference
        )
        assert path.exists()
    assert [records[p]["model"] for p in (None, 0.0)] == ["oat@1", "oat@0"]
    assert len(list((tmp_path / "oat" / "records").iterdir())) == 2


def test_a_plain_network_takes_no_preference(trained, data):
    with pytest.raises(ValueError, match="takes no preference"):
        evaluate(trained, evaluation=QUICK, dataset=data, preference=0.5)


@pytest.mark.slow
def test_training_and_evaluation_update_the_models_card(tmp_path, trained, data):
    shutil.copytree(trained, tmp_path / "run")
    card = tmp_path / "run" / "model" / "README.md"
    assert "Not evaluated yet" in card.read_text()
    assert '"batch_size": 16' in card.read_text()
    record, _ = evaluate(tmp_path / "run", evaluation=QUICK, dataset=data)
    first = card.read_text()
    assert f"| 0.1 | {100 * record['headline']['accuracy'][1]:.1f} |" in first
    assert "| 8 |\n" in first
    evaluate(tmp_path / "run", evaluation=replace(QUICK, images=12), dataset=data)
    assert "| 12 |\n" in card.read_text()
    evaluate(tmp_path / "run", evaluation=replace(QUICK, part="validation"), dataset=data)
    assert "| 12 |\n" in card.read_text()


@pytest.mark.slow
def test_a_record_stores_the_weights_hash_and_a_card_the_image_size(tmp_path, trained, data):
    shutil.copytree(trained / "model", tmp_path / "model")
    record, _ = evaluate(tmp_path / "model", evaluation=QUICK, dataset=data)
    assert record["weights_sha256"] == weights_sha256(tmp_path / "model")
    assert read_config(tmp_path / "model")["card"]["image_shape"] == [1, 8, 8]


@pytest.mark.slow
def test_a_record_stores_the_hash_of_the_evaluated_weights(tmp_path, trained, data, monkeypatch):
    place = tmp_path / "model"
    shutil.copytree(trained / "model", place)
    evaluated = weights_sha256(place)

    def replaced(*arguments, **settings):
        save(tiny.wide_resnet(seed=5), place, read_config(place)["card"])
        return measure_profile(*arguments, **settings)

    monkeypatch.setattr("equipoise.api.evaluate.measure_profile", replaced)
    record, _ = evaluate(place, evaluation=QUICK, dataset=data)
    assert record["weights_sha256"] == evaluated != weights_sha256(place)


@pytest.mark.slow
def test_records_of_a_hub_model_are_written_outside_the_hub_cache(
    tmp_path, trained, data, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in trained.iterdir())
    monkeypatch.setattr(model_folder, "download", lambda name: trained / "model")
    _, path = evaluate("hf://owner/name", evaluation=QUICK, dataset=data)
    assert path.parts[:3] == ("runs", "standard_digits", "records")
    assert sorted(path.name for path in trained.iterdir()) == before
    assert "Not evaluated yet" in (trained / "model" / "README.md").read_text()


def test_an_invalid_name_is_refused_before_training(tmp_path, data):
    with pytest.raises(ValueError, match="the name must be"):
        train(replace(tiny.recipe(), name="../up"), tmp_path / "run", dataset=data)
    unprintable = replace(data, class_names=("\x1b[2J", *data.class_names[1:]))
    with pytest.raises(ValueError, match="classes must be a list of printable names"):
        train(tiny.recipe(), tmp_path / "run", dataset=unprintable)
    assert not (tmp_path / "run").exists()
