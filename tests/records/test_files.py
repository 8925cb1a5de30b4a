import json

import pytest
import tiny

from equipoise.records.files import iterate_records, read_record
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_json


@pytest.mark.parametrize(
    ("content", "found"), [({"format": 99}, "99"), ({"a": 1}, "None"), ([1], "list")]
)
def test_record_of_another_format_is_refused(tmp_path, content, found):
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"not a record of format 1 \(got {found}\)"):
        read_record(tmp_path / "record.json")


def test_records_below_a_folder_come_in_the_order_of_their_paths(tmp_path):
    for place in ("b/records/x.json", "a/records/y.json", "a/model/config.json"):
        write_json(tmp_path / place, tiny.record(place))
    found = [record["model"] for _, record in iterate_records(tmp_path)]
    assert found == ["a/records/y.json", "b/records/x.json"]


def test_records_are_found_in_a_folder_named_records(tmp_path):
    write_json(tmp_path / "records" / "x.json", tiny.record())
    assert len(list(iterate_records(tmp_path / "records"))) == 1
