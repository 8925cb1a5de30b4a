import pytest
import yaml

from equipoise.deployment.model_card import architecture, model_card
from records import RECORD, WIDE, document, record


def front_matter(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_is_valid_for_the_hub():
    matter = front_matter(model_card(document(), [record()]))
    assert matter["library_name"] == "equipoise"
    assert matter["pipeline_tag"] == "image-classification"
    assert {"adversarial-robustness", "afa"} <= set(matter["tags"])
    assert matter["datasets"] == ["uoft-cs/cifar10"]
    (index,) = matter["model-index"]
    assert index["name"] == "tiny"
    (result,) = index["results"]
    assert result["dataset"] == {"name": "cifar10", "type": "uoft-cs/cifar10", "split": "test"}
    assert [(metric["name"], metric["value"]) for metric in result["metrics"]] == [
        ("clean accuracy", 0.912),
        ("worst case at Linf 4/255", 0.634),
        ("worst case at Linf 8/255", 0.406),
    ]


def test_the_card_has_every_score_with_interval_and_count():
    text = model_card(document(), [record()])
    for row in (
        "| 0 | 91.2 | 88.4 to 93.4 | 500 |",
        "| 4/255 | 63.4 | 59.1 to 67.5 | 500 |",
        "| 8/255 | 40.6 | 36.4 to 44.9 | 500 |",
    ):
        assert row in text


def test_the_card_has_attacks_checks_training_commits_and_limits():
    text = model_card(document(), [record()])
    assert "- `quick`: pgd-margin, apgd-dlr\n- `adaptive`: gate-to-clean-1\n" in text
    assert "Self-checks: 1 pass, 1 warn, 0 fail" in text
    assert "missed. F2. M2." in text
    assert '"batch_size": 128' in text
    assert "beef" * 10 in text
    assert "feed" * 10 in text
    assert (
        "the scores hold for Linf perturbations of up to 8/255, under 3 attacks, on 500 test"
        in text
    )
    assert "WideResNet-28-10, trained on cifar10." in text
    assert "3 classes: cat, dog, ship." in text


def test_a_changed_record_changes_the_card():
    worse = record()
    worse["headline"]["accuracy"][-1] = 0.123
    before, after = (model_card(document(), [shown]) for shown in (RECORD, worse))
    assert "| 8/255 | 12.3 |" in after
    assert "value: 0.123" in after
    assert "| 8/255 | 12.3 |" not in before


def test_no_path_of_this_machine_is_in_the_card():
    text = model_card(document(), [record()])
    assert "/home" not in text
    assert '"model"' in text


def test_each_threat_has_its_scores_and_its_limit():
    l2 = record(norm="L2", epsilons_written=["0", "0.25", "0.5"])
    text = model_card(document(), [record(), l2])
    assert "### tiny: Linf on cifar10" in text
    assert "### tiny: L2 on cifar10" in text
    assert "the scores hold for L2 perturbations of up to 0.5" in text


def test_the_model_index_names_the_preference():
    matter = front_matter(model_card(document(), [record(model="tiny@0.2")]))
    names = [metric["name"] for metric in matter["model-index"][0]["results"][0]["metrics"]]
    assert names[0] == "clean accuracy, preference 0.2"


def test_a_model_without_a_record_has_no_scores():
    text = model_card(document(), [])
    assert "Not evaluated yet" in text
    assert "Its robustness has not been measured." in text
    assert "model-index" not in front_matter(text)


def test_a_folder_without_a_card_still_has_a_readme():
    text = model_card({"format": 1, "model": WIDE, "card": {}}, [])
    assert "# An Equipoise model" in text


def test_the_card_has_the_fusing_weight_of_afa():
    curve = [{"mean": mean, "std": 0.1} for mean in (0.1, 0.5, 0.75)]
    text = model_card(document(), [record(fusing_weight={"through_generator": curve})])
    assert "robust branch: 0.100 at 0, 0.500 at 4/255, 0.750 at 8/255." in text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (WIDE, "WideResNet-28-10"),
        ({"kind": "preact_resnet", "depth": 18}, "PreActResNet-18"),
        ({"kind": "resnet", "depth": 50}, "ResNet-50"),
        ({"kind": "imported", "function": "mine.nets:make"}, "`mine.nets:make`"),
        ({"kind": "adaptive", "network": WIDE}, "WideResNet-28-10, two fused branches (AFA)"),
        ({"kind": "branched", "branches": 3, "network": WIDE}, "WideResNet-28-10, 3 branches"),
        (
            {"kind": "conditional", "network": WIDE},
            "WideResNet-28-10, conditional on a preference (OAT)",
        ),
        (
            {"kind": "stack", "members": [WIDE, WIDE, WIDE | {"width": 2}]},
            "2 x WideResNet-28-10 + WideResNet-28-2, stacked (AFS)",
        ),
    ],
)
def test_an_architecture_is_described_in_words(config, words):
    assert architecture(config) == words


def test_a_network_built_by_user_code_names_its_modules():
    inner = {"kind": "imported", "function": "mine.nets:make", "arguments": {}}
    text = model_card(document({"kind": "adaptive", "network": inner}), [])
    assert "equipoise.load(\"FOLDER\", trust=['mine.nets'])" in text
    assert "built by your own code in mine.nets" in text
    assert "trust" not in model_card(document(), [])


def test_an_unreliable_or_collapsed_model_has_a_warning_before_anything_else():
    failed = record()
    failed["self_checks"][0] |= {"verdict": "fail", "numbers": {"could_flatter": 0.12}}
    text = model_card(document(), [failed])
    warning = "> **Warning** (tiny, Linf on cifar10): The scores are not reliable (check mode: fail"
    assert warning in text
    assert text.index(warning) < text.index("WideResNet-28-10, trained on")
    assert "M. Could flatter the score by up to 12.0 points." in text
    flat = record()
    flat["headline"]["accuracy"] = [0.1] * 3
    assert "This model has collapsed. Accuracy is 10.0 % at every" in model_card(document(), [flat])
    sound = record(self_checks=record()["self_checks"][:1])
    assert "Warning" not in model_card(document(), [sound])


def test_the_card_has_the_marks_of_each_record():
    marked = record(marks=[{"name": "randomised", "meaning": "Means over 20 draws."}])
    assert "**randomised**: Means over 20 draws." in model_card(document(), [marked])
