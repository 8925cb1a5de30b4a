from equipoise.deployment.robustbench import robustbench_entry
from records import WIDE, document, record

FIELDS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "unreliable", "footnote",
}  # fmt: skip


def test_an_entry_has_robustbenchs_fields_and_the_records_numbers_as_strings():
    checked = record()
    checked["self_checks"][1]["verdict"] = "pass"
    entry, notes = robustbench_entry(document(), checked)
    assert set(entry) == FIELDS
    assert (entry["eps"], entry["clean_acc"], entry["reported"]) == ("8/255", "91.20", "40.60")
    assert (entry["dataset"], entry["architecture"]) == ("cifar10", "WideResNet-28-10")
    assert (entry["additional_data"], entry["number_forward_passes"]) == (False, 1)
    assert entry["autoattack_acc"] is None
    assert entry["link"] == entry["name"] == entry["authors"] == entry["venue"] == ""
    assert entry["unreliable"] is False
    assert notes == [
        "RobustBench requires 10000 test images; the record has 500.",
        "autoattack_acc is null: evaluate with --suite autoattack first.",
        "link, name, authors and venue are empty: fill in those of your paper.",
    ]


def auto(first: bool) -> list:
    suites = record()["suites"]
    suite = {"name": "autoattack", "accuracy": [0.912, 0.65, 0.42], "attacks": []}
    return [suite, *suites] if first else [*suites, suite]


def test_autoattacks_accuracy_is_reported_if_it_ran_first():
    entry, notes = robustbench_entry(document(), record(suites=auto(True)))
    assert entry["autoattack_acc"] == "42.00"
    assert entry["external"] == "40.60"  # more attacks found more
    assert not any("autoattack_acc" in note for note in notes)


def test_autoattacks_accuracy_is_null_if_it_ran_after_other_suites():
    entry, _ = robustbench_entry(document(), record(suites=auto(False)))
    assert entry["autoattack_acc"] is None
    assert "external" not in entry


def test_another_strength_than_robustbenchs_is_noted():
    changed = record(epsilons=[0.0, 0.1, 0.2], epsilons_written=["0", "0.1", "0.2"])
    entry, notes = robustbench_entry(document(), changed)
    assert entry["eps"] == "0.2"
    assert "eps is 0.2; RobustBench requires 8/255 in Linf." in notes


def test_robustbenchs_strength_is_reported_even_if_a_stronger_one_was_evaluated():
    changed = record(epsilons=[0.0, 8 / 255, 16 / 255], epsilons_written=["0", "8/255", "16/255"])
    entry, _ = robustbench_entry(document(), changed)
    assert (entry["eps"], entry["reported"]) == ("8/255", "63.40")


def test_other_data_is_noted():
    _, notes = robustbench_entry(document(), record(data="digits"))
    assert "RobustBench has no leaderboard for digits." in notes
    entry, notes = robustbench_entry(document(), record(data="cifar10-jpeg"))
    assert entry["dataset"] == "cifar10"
    assert "the images are cifar10-jpeg, not the original pixels." in notes


def test_each_member_of_a_stack_is_a_forward_pass():
    entry, _ = robustbench_entry(document({"kind": "stack", "members": [WIDE] * 3}), record())
    assert entry["number_forward_passes"] == 3


def test_extra_images_are_additional_data_and_an_unknown_value_is_null():
    extra = document(training={"loop": {"extra": "file.npz"}})
    assert robustbench_entry(extra, record())[0]["additional_data"] is True
    entry, notes = robustbench_entry(document(training={}), record())
    assert entry["additional_data"] is None
    assert "additional_data is null: the model folder does not specify it." in notes


def test_a_failed_check_makes_a_model_unreliable():
    failed = record()
    failed["self_checks"][1]["verdict"] = "fail"
    assert robustbench_entry(document(), failed)[0]["unreliable"] is True


def checked(**changes) -> dict:
    passed = record()["self_checks"][:1]
    return record(**{"self_checks": passed} | changes)


def test_a_missed_image_makes_a_model_unreliable_and_a_note_says_why():
    entry, notes = robustbench_entry(document(), record())
    assert entry["unreliable"] is True
    assert "unreliable is true: check missed: warn." in notes


def test_checks_that_did_not_run_make_a_model_unreliable():
    entry, notes = robustbench_entry(document(), checked(self_checks=[]))
    assert entry["unreliable"] is True
    assert "unreliable is true: no self-check ran." in notes


def test_a_mark_is_in_the_footnote_and_may_make_a_model_unreliable():
    suites = [{"name": "s", "accuracy": [1.0] * 3, "attacks": [{"name": "a", "kind": "black box"}]}]
    entry, notes = robustbench_entry(document(), checked(suites=suites))
    assert entry["unreliable"] is True
    assert "Mark: black box only. No attack used the model's gradients." in entry["footnote"]
    lower = [{"name": "lower precision", "meaning": "Scored in float16."}]
    entry, notes = robustbench_entry(document(), checked(marks=lower))
    assert entry["unreliable"] is False
    assert entry["footnote"].endswith("Mark: lower precision. Scored in float16.")
    assert not any("unreliable" in note for note in notes)
