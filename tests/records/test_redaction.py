from equipoise.records.redaction import without_folders


def test_absolute_paths_are_shortened_to_their_last_part_at_any_depth():
    content = {"a": ["/home/me/data", {"b": "/x/y.npz"}], "c": "runs/z", "d": 3, "e": None}
    assert without_folders(content) == {
        "a": ["data", {"b": "y.npz"}], "c": "runs/z", "d": 3, "e": None,
    }  # fmt: skip
