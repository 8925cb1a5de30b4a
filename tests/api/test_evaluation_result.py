"""What an evaluation returns in Python: numbers, table, figure, file, comparison."""

import pytest
import torch
from tiny import learnable
from torch import nn

import equipoise
from equipoise import EvaluationResult, compare, evaluate
from equipoise.api.evaluation_inputs import data_of
from equipoise.runtime.errors import InvalidInput, RunError

STRENGTHS = (0.0, 0.02, 0.05)


def linear(scale: float) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-scale], [scale]]).expand(2, 64))
        network[1].bias.copy_(torch.tensor([64 * 0.4 * scale, -64 * 0.4 * scale]))
    return network.eval()


@pytest.fixture
def result(tmp_path) -> EvaluationResult:
    return evaluate(
        linear(1.0),
        learnable().batch(slice(None)),
        epsilons=STRENGTHS,
        name="bright",
        folder=tmp_path / "bright",
        checks=False,
    )


def test_a_result_has_the_numbers_of_its_record(result, tmp_path):
    record, path = result
    assert path.parent == tmp_path / "bright" / "records"
    assert list(result.accuracy.values()) == record["headline"]["accuracy"]
    assert tuple(result.accuracy) == STRENGTHS
    assert result.checks_passed is None
    frame = result.to_frame()
    assert frame["accuracy"].tolist() == record["headline"]["accuracy"]
    assert bool((frame["low"] <= frame["accuracy"]).all())
    assert set(frame["model"]) == {"bright"}


def test_a_result_prints_as_its_table_and_as_html(result):
    assert "bright" in repr(result)
    assert "ε 0.05" in repr(result)
    assert "| bright |" in result.table()
    html = result._repr_html_()
    assert html.startswith("<pre")
    assert "bright" in html
    assert "\x1b" not in html + repr(result)


def test_a_result_is_saved_and_read_again(result, tmp_path):
    path = result.save(tmp_path / "copy.json")
    assert EvaluationResult.load(path).record == result.record
    with pytest.raises(RunError, match=r"none\.json"):
        EvaluationResult.load(tmp_path / "none.json")


def test_a_figure_has_a_line_for_each_model(result, tmp_path):
    other = evaluate(
        linear(-1.0),
        learnable(),
        epsilons=STRENGTHS,
        name="dark",
        folder=tmp_path / "dark",
        checks=False,
    )
    figure = result.plot(other)
    lines = figure.axes[0].get_lines()
    assert {line.get_label() for line in lines} >= {"bright", "dark"}
    assert figure._repr_png_().startswith(b"\x89PNG")
    found = compare(result, other)
    assert "dark against bright" in repr(found)
    assert "worse" in found.table()
    assert "<pre" in found._repr_html_()
    assert repr(compare(result.path, other)) == repr(found)


def test_what_cannot_be_compared_is_refused(result, tmp_path):
    with pytest.raises(InvalidInput, match="needs a baseline and at least one other result"):
        compare(result)
    fewer = evaluate(
        linear(1.0),
        learnable(40),
        epsilons=STRENGTHS,
        name="fewer",
        folder=tmp_path / "fewer",
        checks=False,
    )
    with pytest.raises(InvalidInput, match="must agree in images"):
        compare(result, fewer)


def test_checks_run_on_a_network_in_memory(tmp_path):
    result = evaluate(linear(1.0), learnable(), epsilons=(0.0, 0.02), folder=tmp_path / "a")
    assert result.checks_passed is True
    assert "checks:" in repr(result)


def test_a_network_without_data_says_how_to_pass_them():
    with pytest.raises(InvalidInput, match=r"evaluate\(network, \(images, labels\), epsilons"):
        evaluate(linear(1.0), epsilons=STRENGTHS)
    with pytest.raises(InvalidInput, match=r"must be the name of a model or an nn.Module"):
        data_of(lambda images: images, learnable())


def test_a_network_in_memory_is_exported(tmp_path):
    file = tmp_path / "net.pt2"
    done = equipoise.export_model(linear(1.0), file, data=learnable())
    assert file.exists()
    assert done.images == 64
    network = linear(1.0)
    equipoise.export_model(network, file, data=learnable())
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(RunError, match="pass labelled images with data="):
        equipoise.export_model(linear(1.0), file)


@pytest.mark.slow
def test_images_that_lack_the_last_classes_say_how_to_name_them(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    data = learnable().batch(slice(None))
    with pytest.raises(InvalidInput, match=r"as_split\(data, classes=4\)"):
        evaluate(network, data, epsilons=(0.0, 0.02), folder=tmp_path)
    split = equipoise.as_split(data, classes=4)
    assert len(evaluate(network, split, epsilons=(0.0, 0.02), folder=tmp_path).accuracy) == 2


def test_a_saved_model_keeps_its_own_name():
    with pytest.raises(InvalidInput, match=r"name can be given for an nn\.Module only; runs/a has"):
        evaluate("runs/a", learnable(), epsilons=STRENGTHS, name="mine")
