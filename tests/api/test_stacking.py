"""Stacking what exists: saved models and functions; nothing is trained but the merger."""

from dataclasses import replace

import pytest
import tiny
import torch

from equipoise import load, save
from equipoise.api.evaluate import evaluate
from equipoise.api.stacking import stacking
from equipoise.api.train import train
from equipoise.cli.main import main
from equipoise.data import Augmentation
from equipoise.methods import AFS
from equipoise.methods.afs import load_extractor
from equipoise.models import AdaptiveNetwork, WideResNet, fuse_branches, with_branches
from equipoise.models.io.external import import_network
from equipoise.recipes import RECIPES, Evaluation, to_json
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_json
from equipoise.runtime.trust import trusting

CARD = {
    "data": "digits",
    "dataset": {"kind": "Digits"},
    "seed": 0,
    "validation_images": 16,
    "evaluation": to_json(Evaluation(epsilons=(0.0, 0.1), steps=1, norm="L2")),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Model folders of several architectures and sizes, as the command line names them."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    wide = WideResNet(depth=10, width=2, classes=10, channels=1)
    adaptive = fuse_branches(with_branches(tiny.wide_resnet(), 2), placement="stem")
    with trusting("user_nets"):
        foreign = import_network("user_nets:small", {"classes": 10, "channels": 1})
    models = {"wide": wide, "adaptive": adaptive, "foreign": foreign}
    for name, model in models.items():
        save(model.eval(), folder / name, CARD | {"name": name})
    colour = WideResNet(depth=10, width=1, classes=10, channels=3)
    save(colour, folder / "colour", CARD | {"seed": 7})
    save(with_branches(wide, 2), folder / "branched", CARD)
    save(WideResNet(depth=10, width=1, classes=3, channels=1), folder / "three", CARD)
    return {path.name: str(path) for path in folder.iterdir()}


def short(recipe):
    """The merger trained for a moment."""
    schedule = replace(tiny.SCHEDULE, epochs=1)
    method = replace(recipe.method, attack=tiny.ATTACK, merger_schedule=schedule)
    return replace(recipe, method=method, loop=tiny.LOOP)


def stack_of(*names: str):
    return short(stacking(names))


@pytest.mark.slow
def test_stacking_trained_models_trains_only_the_merger(saved, tmp_path):
    names = [saved["wide"], saved["adaptive"], saved["foreign"], "user_nets:ten"]
    trust = ("user_nets",)
    data = tiny.digits()
    heard = tiny.AfterSteps(0, None)
    made = stack_of(*names)
    model = train(made, tmp_path / "run", dataset=data, trust=trust, reporter=heard)
    assert heard.stages == ["merger"]
    lines = [line for line in heard.lines if not line.startswith("Warning")]
    assert lines == [data.summary(), tiny.LOOP.describe_images(len(data.train))]
    assert model.sizes() == [128, 64, 6, 7]
    assert isinstance(model.members[1].network, AdaptiveNetwork)
    with trusting("user_nets"):
        for name, member in zip(names, model.members, strict=True):
            assert tiny.same(tiny.weights(member.network), tiny.weights(load_extractor(name)))
    with pytest.raises(RunError, match="is not trusted"):
        load(tmp_path / "run")
    loaded = load(tmp_path / "run", trust=trust)
    assert loaded.config == model.config
    assert tiny.same(tiny.weights(loaded), tiny.weights(model))
    settings = Evaluation(epsilons=(0.0, 0.1), suites=("quick",), steps=1, images=8)
    record, _ = evaluate(
        tmp_path / "run", evaluation=settings, dataset=data, trust=trust, checks=False
    )
    assert record["model"] == "afs"
    assert len(record["importance"]) == 4


def test_data_evaluation_and_seed_come_from_the_first_saved_model(saved):
    recipe = stacking(["user_nets:ten", saved["colour"], saved["wide"]])
    assert (recipe.name, recipe.seed, recipe.loop.validation_images) == ("afs", 7, 16)
    assert recipe.evaluation == Evaluation(epsilons=(0.0, 0.1), steps=1, norm="L2")
    assert (recipe.method.merger_epsilon, recipe.method.norm) == (0.1, "L2")
    assert recipe.method.extractors == ("user_nets:ten", saved["colour"], saved["wide"])
    tuned = RECIPES["afs_digits"]()
    assert recipe.dataset == tuned.dataset
    assert recipe.method.merger_schedule == tuned.method.merger_schedule


def test_augmentation_comes_from_the_first_saved_model(tmp_path):
    recipe = RECIPES["pgd_at_digits"]()
    loop = replace(recipe.loop, augmentation=Augmentation(shift=2, padding="reflect", flip=False))
    training = {"training": {"loop": to_json(loop)}}
    save(tiny.wide_resnet(), tmp_path / "one", CARD | training)
    found = stacking([str(tmp_path / "one")])
    assert found.loop.augmentation == loop.augmentation


def test_a_stack_of_functions_only_needs_a_recipe_for_its_data():
    with pytest.raises(
        ValueError, match=r"equipoise train afs --extractors runs/a runs/b.*afs_dig"
    ):
        stacking(["user_nets:ten"])


def test_members_with_other_validation_images_or_data_are_reported(saved, tmp_path):
    heard = tiny.AfterSteps(0, None)
    recipe = replace(stack_of(saved["wide"]), seed=1)
    train(recipe, tmp_path / "run", dataset=tiny.digits(), reporter=heard)
    assert [line for line in heard.lines if "had other validation images" in line]
    heard.lines.clear()
    other = replace(tiny.digits(), name="another")
    train(stack_of(saved["wide"]), tmp_path / "two", dataset=other, reporter=heard)
    lines = [line for line in heard.lines[2:] if not line.startswith("Warning")]
    assert lines == [f"{saved['wide']} was trained on digits, not on another."]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", r"three must return 10 logits per image, got shape \(2, 3\)"),
        ("colour", r"colour fails on images of shape \(1, 8, 8\): images must have 3 channels"),
        ("branched", r"branched cannot be stacked: it is the branched network"),
        ("user_nets:five", r"user_nets:five must return 10 logits per image, got shape \(2, 5\)"),
        ("user_nets:head_first", r"HeadFirst does not end in its last linear .* body, head"),
        ("a.onnx", r"a.onnx cannot be stacked: the layers of an exported network"),
        ("nowhere", "nowhere is not a model folder"),
    ],
)
def test_a_member_that_does_not_fit_is_refused_by_name(saved, tmp_path, name, message):
    recipe = stack_of(saved["wide"])
    names = (saved["wide"], saved.get(name, name))
    recipe = replace(recipe, method=replace(recipe.method, extractors=names))
    with pytest.raises((ValueError, RunError), match=message):
        train(recipe, tmp_path / "run", dataset=tiny.digits(), trust=("user_nets",))
    assert not (tmp_path / "run").exists()


def test_members_with_different_class_counts_are_refused(saved):
    settings = {"objective": RECIPES["afs_digits"]().method.objective, "budgets": ()}
    settings |= {"schedule": tiny.SCHEDULE, "merger_schedule": tiny.SCHEDULE}
    method = AFS(**settings, extractors=(saved["wide"], saved["three"]))
    (merger,) = method.stages(lambda: pytest.fail("a network was made"))
    with pytest.raises(
        ValueError, match=r"same number of classes, but .*wide has 10, .*three has 3"
    ):
        merger.build({})
    with pytest.raises(ValueError, match="wide is named twice"):
        AFS(**settings, extractors=(saved["wide"], saved["wide"]))


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks of ``train``."""
    found = []
    monkeypatch.setattr(
        "equipoise.api.train.train",
        lambda recipe, folder, **rest: found.append((recipe, folder, rest)),
    )
    return found


def run(*arguments) -> None:
    main([str(argument) for argument in arguments])


def test_the_command_line_stacks_the_named_models(saved, asked, capsys):
    names = (saved["wide"], "user_nets:ten", saved["foreign"])
    run("train", "afs", "--extractors", *names, "--method.alpha", "0.7", "--trust", "user_nets")
    run("train", "afs_digits", "--out", "here", "--extractors", "user_nets:ten")
    (first, folder, rest), (second, _, other) = asked
    base = stacking(names)
    assert first == replace(base, method=replace(base.method, alpha=0.7))
    assert str(folder) == "runs/afs"
    assert rest["trust"] == ("user_nets", "user_nets:ten")
    assert second.method.extractors == ("user_nets:ten",)
    assert other["trust"] == ("user_nets:ten",)
    said = " ".join(capsys.readouterr().out.split())
    assert "took: 0 s" in said
    assert "next: equipoise evaluate runs/afs --trust user_nets user_nets:ten" in said


def test_the_command_line_accepts_your_own_network_for_any_recipe(asked, tmp_path):
    run(
        *("train", "afa_digits", "--network", "user_nets:small", "--logits", "scores"),
        *("--network.arguments", '{"answer": "dict"}', "--network.last-linear", "linear"),
        *("--network.weights", "w.safetensors", "--seed", "2"),
    )
    ((recipe, _, rest),) = asked
    assert (recipe.network.function, recipe.network.logits) == ("user_nets:small", "scores")
    assert recipe.network.arguments == {"answer": "dict"}
    assert recipe.network.last_linear == "linear"
    assert str(recipe.network.weights) == "w.safetensors"
    base = RECIPES["afa_digits"]()
    assert replace(recipe, network=base.network) == replace(base, seed=2)
    assert rest["trust"] == ("user_nets:small",)
    write_json(tmp_path / "recipe.json", to_json(recipe))
    run("train", tmp_path / "recipe.json")  # a file alone allows nothing
    assert asked[1][0] == recipe
    assert asked[1][2]["trust"] == ()


def test_help_for_afs_needs_no_model(capsys):
    with pytest.raises(SystemExit) as left:
        run("train", "afs", "--help")
    assert left.value.code == 0
    assert "--extractors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "afs"), "afs needs saved models to stack"),
        (("train", "afa_digits", "--network", "net.pt2"), "can only be evaluated"),
        (("train", "afa_digits", "--network", "a:b", "--network.arguments", "[1]"), "JSON object"),
        (("train", "afa_digits", "--network", "a:b", "--network.arguments", "{"), "JSON object"),
        (("train", "afa_digits", "--network", "no_such:thing"), "no_such:thing cannot be imported"),
        (("train", "pgd_at_digits", "--network", "user_nets:vit"), "fails on images of shape"),
        (
            ("train", "afa_digits", "--network", "user_nets:norm_free"),
            "Small has no nn.BatchNorm2d",
        ),
    ],
)
def test_the_command_line_refuses(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    found = capsys.readouterr()
    assert left.value.code == 2
    assert message in " ".join((found.out + found.err).replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
