"""A model folder's README.md: what the model is, what it withstood, and what nobody has tried."""

import json
from collections.abc import Sequence
from itertools import groupby

from equipoise.records.redaction import functions_named, without_folders
from equipoise.report.score_card import of_each_threat, preference_in
from equipoise.report.self_checks import markdown_checks
from equipoise.report.table import Record, attack_count

_NOTE = "<!-- Made from config.json and records by `equipoise card`; edits are lost. -->"


def model_card(document: Record, records: Sequence[Record]) -> str:
    """The card as Markdown with the hub's front matter; every number comes from a record.

    Args:
        document: The folder's ``config.json``.
        records: The model's evaluations on test images; the fullest of each threat is shown.

    Returns:
        The whole file.
    """
    card, shown = document["card"], of_each_threat(records)
    parts = [
        _front_matter(card, shown),
        f"# {card.get('name', 'An Equipoise model')}\n\n{_NOTE}",
        _what(document),
        "## Scores",
        *([_scores(record) for record in shown] or [_NO_SCORES]),
        "## Limits",
        _limits(shown),
        "## Training",
        _training(document),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_NO_SCORES = "Not evaluated yet: `equipoise evaluate` writes its scores here."


def architecture(config: Record) -> str:
    """A model's configuration in words, such as ``3 x WideResNet-28-10, stacked (AFS)``."""
    kind = config.get("kind")
    resnets = {"resnet": "ResNet", "preact_resnet": "PreActResNet"}
    if kind in resnets:
        return f"{resnets[kind]}-{config['depth']}"
    if kind == "wide_resnet":
        return f"WideResNet-{config['depth']}-{config['width']}"
    if kind == "stack":
        members = [architecture(member) for member in config["members"]]
        return f"{' + '.join(_counted(members))}, stacked (AFS)"
    if kind == "imported":
        return f"`{config['function']}`"
    inside = architecture(config["network"]) if "network" in config else str(kind)
    how = {
        "adaptive": "two fused branches (AFA)",
        "branched": f"{config.get('branches')} branches",
        "conditional": "conditional on a preference (OAT)",
    }
    return f"{inside}, {how[kind]}" if kind in how else inside


def percent(share: float) -> str:
    """An accuracy in %, to one digit."""
    return f"{100 * share:.1f}"


def _counted(names: list[str]) -> list[str]:
    runs_of = [(name, len(list(group))) for name, group in groupby(names)]
    return [f"{count} x {name}" if count > 1 else name for name, count in runs_of]


def _front_matter(card: Record, records: Sequence[Record]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data, hub = card.get("data"), card.get("dataset", {}).get("hub")
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=hub if hub and record["data"] == data else str(record["data"]),
            dataset_name=record["data"],
            dataset_split="test",
            metric_type="accuracy",
            metric_name=_metric(record, written, str(card.get("name", record["model"]))),
            metric_value=round(accuracy, 4),
        )
        for record in records
        for written, accuracy in zip(
            record["epsilons_written"], record["headline"]["accuracy"], strict=True
        )
    ]
    method = card.get("training", {}).get("method", {}).get("kind")
    facts = ModelCardData(
        library_name="equipoise",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", *([method.lower()] if method else [])],
        datasets=[hub] if hub else None,
        metrics=["accuracy"],
        model_name=str(card.get("name", "model")),
        eval_results=results or None,
    )
    return f"---\n{facts.to_yaml()}\n---"


def _metric(record: Record, written: str, name: str) -> str:
    asked = preference_in(record["model"], name)
    under = "clean accuracy" if written == "0" else f"worst case at {record['norm']} {written}"
    return f"{under}, preference {asked}" if asked else under


def _what(document: Record) -> str:
    card = document["card"]
    classes, shape = card.get("classes", []), card.get("image_shape")
    size = (
        f"`(batch, {', '.join(map(str, shape))})`" if shape else "`(batch, channel, height, width)`"
    )
    lines = [
        f"{architecture(document['model'])}"
        + (f", trained on {card['data']}." if "data" in card else "."),
        f"Images in [0, 1], shape {size}, to logits; normalisation is inside.",
        f"{len(classes)} classes: {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}."
        if classes
        else "",
        "Nothing in this folder can execute code.",
    ]
    modules = sorted({name.partition(":")[0] for name in functions_named(document["model"])})
    trust = f", trust={modules}" if modules else ""
    if modules:
        lines[-1] += f" The network is made by code of yours in {', '.join(modules)}."
    use = f'import equipoise\n\nmodel = equipoise.load("FOLDER"{trust})  # or "hf://owner/name"'
    return "\n".join(line for line in lines if line) + f"\n\n```python\n{use}\n```"


def _scores(record: Record) -> str:
    headline = record["headline"]
    count = record["images"]
    rows = [
        f"| {written} | {percent(accuracy)} | {percent(low)} to {percent(high)} | {count} |"
        for written, accuracy, (low, high) in zip(
            record["epsilons_written"], headline["accuracy"], headline["interval"], strict=True
        )
    ]
    tried = [
        f"- `{suite['name']}`: {', '.join(attack['name'] for attack in suite['attacks']) or 'none'}"
        for suite in record["suites"]
    ]
    curve = record.get("fusing_weight", {}).get("through_generator", [])
    pairs = zip(curve, record["epsilons_written"], strict=False)  # no curve without a generator
    weights = ", ".join(f"{point['mean']:.3f} at {written}" for point, written in pairs)
    return "\n".join(
        [
            f"### {record['model']}: {record['norm']} on {record['data']}",
            "",
            f"Accuracy in % under {record['norm']} attacks, with pixels in [0, 1]: an image counts "
            f"as right at a strength only if none of {attack_count(record)} attacks, at that "
            "strength or below, broke it. Wilson intervals.",
            "",
            "| strength | accuracy | 95 % interval | test images |",
            "|---|---:|---|---:|",
            *rows,
            "",
            "Attacks tried:",
            "",
            *tried,
            "",
            *([f"Mean W1, the robust branch's share: {weights}.", ""] if weights else []),
            f"Evaluated at commit `{record.get('environment', {}).get('commit')}`, "
            f"seed {record.get('seed')}.",
            "Self-" + markdown_checks(record).strip(),
        ]
    )


def _limits(records: Sequence[Record]) -> str:
    if not records:
        return "Nothing is known of its robustness."
    lines = [
        f"- {record['model']}: robust only to {record['norm']} changes of up to "
        f"{record['epsilons_written'][-1]}, and only as far as {attack_count(record)} attacks on "
        f"{record['images']} test images of {record['data']} could tell. An attack that was not "
        "tried may do better."
        for record in records
    ]
    return "\n".join(
        [
            *lines,
            "- Other changes (larger ones, other norms, blur, weather, patches) and other images "
            "than these were not tried.",
        ]
    )


def _training(document: Record) -> str:
    card = document["card"]
    facts = {"model": document["model"]} | without_folders(card.get("training", {}))
    return (
        f"Seed {card.get('seed')}, commit `{card.get('commit')}`.\n\n"
        f"```json\n{json.dumps(facts, indent=2)}\n```"
    )
