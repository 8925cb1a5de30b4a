import pytest
from tiny import record

from equipoise.cli.main import main
from equipoise.records.epsilon import parse_epsilon
from equipoise.report.curves_figure import write_curves
from equipoise.report.papers.line_figures import accuracy_curves, trade_off_scatter
from equipoise.report.papers.measurements import Drawing, Result
from equipoise.runtime.files import write_json


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_same_records_give_the_same_file(tmp_path, kind):
    files = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for file in files:
        write_curves([record("one"), record("two")], file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_every_model_is_in_the_legend_and_none_is_cut_off(tmp_path):
    names = ["a_rather_long_name_of_a_model", "another_name_that_is_quite_long"]
    write_curves([record(name) for name in names], tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for name in names:
        assert f">{name}<" in text
    assert "worst case per image" in text
    assert 'x="-' not in text


def test_each_of_many_models_has_its_own_line_style():
    names = [f"model {number}" for number in range(20)]
    measured = {name: [Result(recipe={}, record=record(name))] for name in names}
    drawing = Drawing(measured=measured, published={}, published_as="", measured_as="")
    panel = accuracy_curves(drawing).axes[0]
    lines = [line for line in panel.lines if line.get_label() in names]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names)


@pytest.mark.parametrize(
    ("written", "marks", "axis"),
    [
        (["0", "4/255"], ["0", "4"], "strength ε, in 255ths"),
        (["0", "128/255", "1"], ["0", "128/255", "1"], "strength ε"),
    ],
)
def test_ticks_lose_their_denominator_only_if_the_axis_title_has_it(written, marks, axis):
    epsilons = [parse_epsilon(text) for text in written]
    evaluation = record(epsilons=epsilons, epsilons_written=written)
    evaluation["headline"]["accuracy"] = [1.0, 0.5, 0.4][: len(written)]
    measured = {"one": [Result(recipe={}, record=evaluation)]}
    drawing = Drawing(measured=measured, published={}, published_as="", measured_as="")
    panel = accuracy_curves(drawing).axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == marks
    assert panel.get_xlabel() == axis


@pytest.mark.parametrize("draw", [accuracy_curves, trade_off_scatter])
def test_models_that_are_only_published_are_in_the_legend(draw):
    measured = {"one": [Result(recipe={}, record=record("one"))]}
    values = {"0": 90.0, "8/255": 40.0, "PGD": 45.0}
    published = {"other + AFA": values, "one": values, "other": values}
    figure = draw(Drawing(measured=measured, published=published, published_as="", measured_as=""))
    assert [text.get_text() for text in figure.legends[0].texts] == ["one", "other + AFA", "other"]


@pytest.mark.parametrize(
    ("records", "file", "message"),
    [
        ([record()], "x.gif", r"must end in .svg, .png, .pdf, got .*x.gif"),
        ([], "x.svg", "a figure needs at least one record, got none"),
    ],
)
def test_an_unknown_ending_and_no_records_are_refused(tmp_path, records, file, message):
    with pytest.raises(ValueError, match=message):
        write_curves(records, tmp_path / file)
    assert not any(tmp_path.iterdir())


def test_the_report_command_writes_curves(tmp_path, capsys):
    write_json(tmp_path / "r.json", record())
    main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "x.png")])
    assert "curves:" in capsys.readouterr().out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
