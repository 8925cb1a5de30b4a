import pytest
from headline_records import record
from rich.console import Console

from equipoise.report import rich_per_class
from equipoise.report.per_class import class_rows, worst_class


def rows(*robust: float) -> list[dict]:
    return [{"class": c, "images": 9, "accuracy": [0.9, share]} for c, share in enumerate(robust)]


def printed(*records: dict) -> list[str]:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(rich_per_class(records))
    return [line.strip() for line in captured.get().splitlines()]


def test_classes_are_means_over_seeds():
    first, second = class_rows([{"per_class": rows(0.2, 0.5)}, {"per_class": rows(0.4, 0.5)}])
    assert (first.number, first.images) == (0, 9)
    assert first.accuracy == pytest.approx((0.9, 0.3))
    assert worst_class([first, second]) is first


def test_the_table_has_a_row_for_each_class_and_a_table_for_each_model():
    lines = printed(record("one", per_class=rows(0.25, 0.5)), record("two", per_class=rows(1.0)))
    assert lines.count("class  images  clean  ε 8/255") == 2
    assert "0       9   90.0     25.0" in lines
    assert lines.index("one") < lines.index("two")


def test_a_record_without_classes_is_named():
    assert "Its record holds no classes; evaluate the model again." in printed(record())


def test_records_of_other_images_are_refused():
    with pytest.raises(ValueError, match="records of one table of classes must agree in images"):
        rich_per_class([record(), record("two", images=3)])
