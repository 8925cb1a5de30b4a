import pytest
from datasets import ClassLabel, Image, Value

from equipoise.data import DataError
from equipoise.data.columns import find_columns

TWO = {"photo": Image(), "mask": Image(), "id": Value("int64"), "label": Value("string")}
KIND = {"png": Image(), "label": Value("int64"), "kind": ClassLabel(names=["cat", "dog"])}


def test_declared_classes_come_before_names_and_named_columns_before_both():
    assert find_columns(KIND, "pets") == ("png", "kind")
    assert find_columns(KIND, "pets", label="label") == ("png", "label")
    assert find_columns(TWO, "pets", image="mask") == ("mask", "label")
    assert (
        find_columns({"a": Image(), "cls": Value("int64"), "target": Value("int64")}, "x")[1]
        == "cls"
    )


@pytest.mark.parametrize(
    ("features", "chosen", "message"),
    [
        (TWO, {}, r"pets must have exactly one column of images, got \['photo', 'mask'\] among"),
        ({"id": Value("int64")}, {}, "exactly one column of images, got none"),
        ({"a": Image(), "id": Value("int64")}, {}, "must have a column of labels .*; say which"),
        (TWO, {"image": "picture"}, "pets lacks the column picture; it has photo, mask, id, label"),
    ],
)
def test_other_columns_are_refused_with_the_remedy(features, chosen, message):
    with pytest.raises(DataError, match=message):
        find_columns(features, "pets", remedy="say which", **chosen)
