import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest
import tiny
import torch
from commands import output, refused, run, shown_help
from PIL import Image

from equipoise.api.train import train
from equipoise.attacks import Square
from equipoise.cli.main import COMMANDS
from equipoise.data import SOURCES, DataError
from equipoise.evaluation import SuiteName, suites
from equipoise.models import save
from equipoise.models.io.external import import_network
from equipoise.recipes import RECIPES, Evaluation, to_json
from equipoise.records.files import iterate_records, read_record
from equipoise.runtime.environment import version
from equipoise.runtime.errors import InvalidInput, RunError, TrainingError, UserError
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.trust import trusting

pytestmark = pytest.mark.usefixtures("few_digits", "no_self_checks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run whose recipe evaluates eight digits quickly."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    quick = Evaluation(epsilons=(0.0, 0.1), suites=("quick",), steps=1, restarts=1, images=8)
    train(replace(tiny.recipe(), evaluation=quick), folder, dataset=tiny.digits())
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["report", "--help"],
        ["export", "--help"],
        ["predict", "--help"],
        ["list", "afs", "digits"],
    ],
)
def test_help_and_list_do_not_import_torch(arguments):
    code = (
        "import sys\nfrom equipoise.cli.main import main\n"
        f"try:\n    main({arguments})\n"
        "except SystemExit as exit_info:\n    assert exit_info.code == 0, exit_info.code\n"
        "assert 'torch' not in sys.modules and 'equipoise.recipes' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("afs_digits" if arguments[0] == "list" else "usage: equipoise") in done.stdout


def test_version_prints_the_version_of_the_package(capsys):
    run("--version")
    assert output(capsys) == f"equipoise {version('equipoise')}"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["evaluate", "--help"]])
def test_a_closed_pipe_ends_the_command_quietly(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "equipoise", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_shows_placeholders_of_positional_arguments(capsys):
    for command, word in (("evaluate", "MODEL..."), ("compare", "RECORD_OR_FOLDER...")):
        with pytest.raises(SystemExit):
            run(command, "--help")
        assert f"{word} " in output(capsys)
    with pytest.raises(SystemExit):
        run("train", "afs", "--help")
    assert "usage: equipoise train afs [-h]" in output(capsys)


def test_python_dash_m_runs_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_list_begins_with_what_two_cores_can_train(capsys):
    run("list")
    printed = output(capsys)
    assert "pgd_at_digits" in printed
    assert "AFS, Table III" in printed
    assert "extractor_9_cifar10_paper" not in printed


def test_list_names_every_recipe_and_what_it_trains(capsys):
    run("list", "--all")
    printed = output(capsys)
    for name in RECIPES:
        assert name in printed
    assert "Standard training on digits." in printed


def test_list_shows_only_recipes_that_match_all_words(capsys):
    run("list", "AFS", "paper", "table")
    printed = output(capsys)
    assert "AFS, Table III" in printed
    assert "extractor_9_cifar10_paper" in printed
    assert "afa_cifar10_paper" not in printed
    assert "digits" not in printed


def test_list_refuses_words_that_match_no_recipe(capsys):
    assert "no recipe matches the words afa speling" in refused(capsys, "list", "afa", "speling")


def test_an_unknown_recipe_is_refused_with_a_suggestion(capsys):
    assert "Did you mean afa_digits" in refused(capsys, "train", "afa_digitz")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "afa_digits", "--speling", "3"],
        ["evaluate", "somewhere", "--speling", "3"],
        ["--speling"],
        ["speling"],
    ],
)
def test_an_unknown_flag_or_command_is_refused_by_name(capsys, arguments):
    assert "speling" in refused(capsys, *arguments)


def test_a_recipe_without_a_name_is_refused(capsys):
    assert "equipoise list" in refused(capsys, "train")


def test_a_data_folder_without_data_is_refused(capsys, tmp_path):
    printed = refused(
        capsys,
        *("train", "standard_cifar10_compact", "--data", tmp_path, "--out", tmp_path / "run"),
    )
    assert "holds no data/train-*.parquet" in printed
    assert not (tmp_path / "run").exists()


def test_a_data_folder_for_digits_is_refused(capsys, tmp_path):
    digits = ("train", "standard_digits", "--dataset", "digits", "--data")
    assert "leave --data out" in refused(capsys, *digits, tmp_path)
    printed = refused(capsys, "train", "standard_digits", "--data", tmp_path / "none")
    assert "does not exist" in printed


def test_data_of_an_unknown_format_are_refused_with_the_known_ones(capsys, tmp_path):
    printed = refused(capsys, "train", "standard_digits", "--data", tmp_path)
    assert "must be data in a known format: folders of images named after" in printed


def test_a_recipe_without_data_names_the_flag_for_it(capsys, tmp_path, monkeypatch):
    import datasets

    def unreachable(*names):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    printed = refused(capsys, "train", "standard_cifar10_compact", "--out", tmp_path / "run")
    assert "--data FOLDER" in printed


def test_a_file_is_refused_as_run_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "--out" in refused(capsys, "train", "standard_digits", "--out", tmp_path / "file")


@pytest.mark.slow
def test_training_evaluating_and_reporting_from_the_command_line(capsys, tmp_path):
    recipe = replace(tiny.recipe(), evaluation=Evaluation(epsilons=(0.0, 0.1), steps=1))
    write_json(tmp_path / "recipe.json", to_json(recipe))
    folder = tmp_path / "run"
    run("train", tmp_path / "recipe.json", "--out", folder)
    assert f"equipoise evaluate {folder}" in output(capsys).replace(" /", "/").replace(
        "evaluate/", "evaluate /"
    )
    refusal = refused(capsys, "train", tmp_path / "recipe.json", "--out", folder)
    assert "already holds a run" in refusal
    run(
        *("evaluate", folder, "--epsilons", "0", "26/255", "--suite", "quick"),
        *("--steps", "1", "--restarts", "1", "--images", "8"),
    )
    ((_, record),) = iterate_records(folder)
    assert record["epsilons"] == [0.0, 26 / 255]
    assert record["images"] == 8
    assert "standard_digits" in output(capsys)
    run("report", folder)
    printed = output(capsys)
    assert "ε 26/255" in printed
    assert f"{100 * record['headline']['accuracy'][0]:.1f}" in printed


@pytest.mark.slow
def test_evaluate_uses_the_recipes_settings_by_default(capsys, trained):
    run("evaluate", trained)
    (path,) = (trained / "records").iterdir()
    assert read_record(path)["images"] == 8
    assert "8 test images" in output(capsys)


def test_evaluate_without_a_model_is_refused(capsys, tmp_path):
    assert "at least one model" in refused(capsys, "evaluate")
    assert "is not a model folder" in refused(capsys, "evaluate", tmp_path)


def test_evaluate_refuses_an_epsilon_of_8(capsys, trained):
    printed = refused(capsys, "evaluate", trained, "--epsilons", "0", "8")
    assert "write 8/255" in printed
    assert "NoneType" not in printed


def test_strengths_may_be_separated_by_commas(monkeypatch, trained):
    given = {}
    monkeypatch.setattr(
        "equipoise.api.evaluate.evaluate",
        lambda *a, **settings: given.update(settings) or exit(),
    )
    with pytest.raises(SystemExit):
        run("evaluate", trained, "--epsilons", "0,1/255", "8/255")
    assert given["epsilons"] == (0.0, 1 / 255, 8 / 255)


def test_an_image_size_of_zero_is_refused(capsys, trained, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "d.png")
    printed = refused(capsys, "predict", trained, tmp_path / "d.png", "--size", "0", "8")
    assert "--size must be two numbers of 1 or more, got (0, 8)" in printed


def test_report_into_updates_the_tables_between_markers(capsys, trained, tmp_path):
    run("evaluate", trained)
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- records: {trained} -->\n<!-- end records -->\nafter\n")
    output(capsys)
    run("report", "--into", page)
    assert "updated" in output(capsys)
    text = page.read_text()
    assert "| standard_digits |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    run("report", "--into", page)
    assert "was up to date" in output(capsys)


def test_report_out_writes_a_page_with_images(capsys, trained, tmp_path):
    run("evaluate", trained)
    (path,) = (trained / "records").iterdir()
    run("report", path, "--out", tmp_path / "report.html", "--gallery", "2")
    assert "report.html" in output(capsys)
    text = (tmp_path / "report.html").read_text()
    accuracy = read_record(path)["headline"]["accuracy"][0]
    assert f'<td data-value="{accuracy}">{100 * accuracy:.1f}' in text
    assert text.count('<article class="picture">') == 2


def test_a_gallery_without_a_page_is_refused(capsys, tmp_path):
    assert "name the page with --out" in refused(capsys, "report", tmp_path, "--gallery", "2")


def test_report_refuses_missing_files(capsys, tmp_path):
    assert "does not exist" in refused(capsys, "report", tmp_path / "none.json")
    assert "none.md" in refused(capsys, "report", "--into", tmp_path / "none.md")


def test_report_without_records_is_refused(capsys, tmp_path):
    assert "has no record" in refused(capsys, "report", tmp_path)


@pytest.mark.parametrize(
    "bug",
    [
        lambda: int("not a number"),
        lambda: {}["missing"],
        lambda: torch.zeros(2).view(3),
        lambda: torch.distributions.Bernoulli(probs=2.0),  # a ValueError of torch
    ],
    ids=["ValueError", "KeyError", "RuntimeError of torch", "ValueError of torch"],
)
def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path, bug):
    monkeypatch.setattr("equipoise.api.train.train", lambda *a, **settings: bug())
    with pytest.raises((ValueError, KeyError, RuntimeError)) as error_info:
        run("train", "standard_digits", "--out", tmp_path)
    assert not isinstance(error_info.value, UserError)


@pytest.mark.parametrize("error", [InvalidInput, RunError, TrainingError, DataError])
def test_an_error_of_the_user_ends_in_its_message_wherever_it_is_raised(
    monkeypatch, capsys, tmp_path, error
):
    def refuse(*arguments, **settings):
        raise error("alpha must be in [0, 1], got 2.")

    monkeypatch.setattr("equipoise.api.train.train", refuse)
    printed = refused(capsys, "train", "standard_digits", "--out", tmp_path)
    assert printed.endswith("error: alpha must be in [0, 1], got 2.")


def test_ctrl_c_outside_of_training_exits_130(monkeypatch, tmp_path):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("equipoise.api.train.train", interrupted)
    with pytest.raises(SystemExit) as exit_info:
        run("train", "standard_digits", "--out", tmp_path)
    assert exit_info.value.code == 130


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_an_evaluation_and_tells_how_to_continue(
    monkeypatch, tmp_path, capsys, number, status
):
    before = signal.getsignal(signal.SIGTERM)
    # Who starts the tests in the background of a shell has SIGINT ignored for them.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(
        "equipoise.api.evaluate.evaluate", lambda *given, **rest: os.kill(os.getpid(), number)
    )
    with pytest.raises(SystemExit) as exit_info:
        run("evaluate", tmp_path)
    signal.signal(signal.SIGINT, ignored)
    assert exit_info.value.code == status
    assert "Run the same command to continue" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def importable(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n\n\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.network = make()\n\n"
        "    def forward(self, images):\n"
        "        return {'features': images, 'logits': self.network(images)}\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_networks", None)


FOREIGN = ("--dataset", "digits", "--epsilons", "0.1", "--images", "8", "--steps", "2")


def test_evaluate_takes_any_importable_network(capsys, importable):
    run("evaluate", "my_networks:make", *FOREIGN)
    assert "my_networks.make" in output(capsys)
    (path,) = (importable / "runs" / "my_networks.make" / "records").glob("*.json")
    record = read_record(path)
    assert (record["data"], record["images"], record["part"]) == ("digits", 8, "test")


def test_evaluate_finds_the_logits_in_an_output_or_tells_how_to_name_them(capsys, importable):
    run("evaluate", "my_networks:Pair", *FOREIGN, "--logits", "logits")
    printed = refused(capsys, "evaluate", "my_networks:Pair", *FOREIGN)
    assert "a dict with the keys ['features', 'logits']" in printed
    assert "--logits" in printed


def test_evaluate_asks_for_strengths_and_data_of_an_external_network(capsys, importable):
    assert "name the strengths with --epsilons" in refused(capsys, "evaluate", "my_networks:make")
    printed = refused(capsys, "evaluate", "my_networks:make", "--epsilons", "0.1")
    assert "name them with --data, or a data set with --dataset" in printed


def test_evaluate_attacks_from_a_surrogate(capsys, importable, trained):
    run(
        *("evaluate", "my_networks:make", *FOREIGN),
        *("--suite", "transfer", "--surrogates", trained),
    )
    (path,) = (importable / "runs" / "my_networks.make" / "records").glob("*.json")
    (suite,) = read_record(path)["suites"]
    assert [attack["name"] for attack in suite["attacks"]] == [
        "from-standard_digits-cross-entropy",
        "from-standard_digits-margin",
    ]


def test_compare_pairs_models_image_by_image_and_refuses_other_images(capsys, importable):
    for name in ("make", "Pair"):
        run("evaluate", f"my_networks:{name}", *FOREIGN, "--logits", "logits")
    capsys.readouterr()
    places = sorted((importable / "runs").rglob("records"))
    run("compare", *places)
    printed = output(capsys)
    assert "my_networks.make against my_networks.Pair" in printed
    assert "no significant difference" in " ".join(printed.split())
    run("evaluate", "my_networks:make", *FOREIGN[:-4], "--images", "6", "--steps", "2")
    (eight,) = places[0].glob("*.json")
    (six,) = (p for p in places[1].glob("*.json") if read_record(p)["images"] == 6)
    assert "must agree in images" in refused(capsys, "compare", eight, six)


@pytest.mark.parametrize("command", ["evaluate", "attack"])
def test_the_help_names_every_suite_and_data_set(command, capsys):
    words = shown_help(capsys, command, "--help").replace(",", " ").replace(".", " ").split()
    assert [name for name in (*get_args(SuiteName), *SOURCES) if name not in words] == []


def test_unknown_suites_and_data_sets_are_refused_with_all_names(capsys):
    message = refused(capsys, "evaluate", "nowhere", "--dataset", "fast")
    assert "one of digits, cifar10, " in message
    assert "module:function" in message
    message = refused(capsys, "train", "standard_digits", "--evaluation.suites", "fast")
    assert "one of quick, tables, " in message
    assert "got 'fast'" in message


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray(tiny.digits().test.images[0, 0].numpy()).save(path)
    return path


def test_a_model_is_exported_and_the_file_predicts(
    capsys, trained, picture, tmp_path, no_shape_checks, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt2"
    run("export", trained, "--format", "torch-export", "--out", path, "--images", "4")
    printed = output(capsys)
    assert "outputs differ from the original's by at most 0 on 4 images" in printed
    run("predict", path, picture, "--json", "--trust", path)
    (prediction,) = json.loads(capsys.readouterr().out)
    assert (prediction["image"], prediction["notices"]) == (str(picture), [])
    run("predict", trained, picture.name)
    printed = output(capsys)
    assert "digit.png" in printed
    assert f"{prediction['class_name']} {prediction['probability']:.3f}" in printed


def test_a_wrong_suffix_is_refused(capsys, trained, tmp_path):
    printed = refused(
        capsys, "export", trained, "--format", "onnx", "--out", tmp_path / "model.pt2"
    )
    assert "a file of onnx must end in .onnx" in printed


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_an_image_file_that_cannot_be_read_is_refused(capsys, trained, tmp_path, content):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    printed = refused(capsys, "predict", trained, tmp_path / "x.png", status=1)
    assert "cannot be read as an image" in printed or "does not exist" in printed


def test_card_rewrites_the_card_and_writes_a_robustbench_entry(capsys, trained, tmp_path):
    run("evaluate", trained)
    output(capsys)
    run("card", trained, "--robustbench", tmp_path / "entry.json")
    printed = output(capsys)
    assert "README.md" in printed
    assert "RobustBench has no leaderboard for digits" in printed
    assert read_json(tmp_path / "entry.json")["dataset"] == "digits"


def test_an_external_network_is_exported_and_used_only_if_trusted(
    capsys, importable, picture, no_shape_checks
):
    with trusting("my_networks"):
        model = import_network("my_networks:make", {})
    save(model, importable / "model", {"name": "own", "image_shape": [1, 8, 8]})
    command = ["export", "model", "--format", "torch-export", "--out", "own.pt2", "--images", "4"]
    assert "my_networks" in refused(capsys, *command)
    run(*command, "--trust", "my_networks")
    assert "differ from the original's by at most 0" in output(capsys)
    run("predict", "model", picture, "--json", "--trust", "my_networks")
    (expected,) = json.loads(capsys.readouterr().out)
    assert "--trust own.pt2" in refused(capsys, "predict", "own.pt2", picture)
    run("predict", "own.pt2", picture, "--json", "--trust", "own.pt2")
    (prediction,) = json.loads(capsys.readouterr().out)
    assert prediction["probability"] == pytest.approx(expected["probability"], abs=1e-4)


@pytest.mark.parametrize("suite", ["tables", "paper"])
def test_an_independent_suite_prints_a_table_of_its_attacks(suite, trained, capsys, monkeypatch):
    monkeypatch.setattr(
        suites, "Square", lambda queries: replace(Square(queries=queries), queries=2)
    )
    run("evaluate", trained, "--suite", suite, "--images", 4)
    assert f'diagnostics of suite "{suite}": each attack alone' in output(capsys)
