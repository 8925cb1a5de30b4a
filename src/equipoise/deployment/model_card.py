"""A model folder's README.md: what the model is, its scores, and the limits of its evaluation."""

import json
from collections.abc import Sequence
from itertools import groupby

from equipoise.deployment.latency import latency_sentence
from equipoise.records.redaction import functions_named, without_folders
from equipoise.report.marks import marks_of
from equipoise.report.record import Record, attack_count
from equipoise.report.reliability import warning_of
from equipoise.report.score_card import fullest_by_threat, preference_in
from equipoise.report.self_checks import markdown_checks

_NOTE = "<!-- Generated from config.json and records by `equipoise card`; edits will be lost. -->"
_NO_SCORES = "Not evaluated yet: `equipoise evaluate` writes the scores here."
_CLASSES_SHOWN = 20


def model_card(document: Record, records: Sequence[Record], latency: Record | None = None) -> str:
    """Model card as Markdown with the front matter of the Hugging Face hub.

    Every number comes from a record. Folders of this machine are left out.

    Args:
        document: The model folder's ``config.json``.
        records: Evaluations of the model on test images; the most complete one of each threat is
            shown.
        latency: What ``measure_latency`` returned at the last export.

    Returns:
        The whole file.

    Example:
        >>> network = {"kind": "wide_resnet", "depth": 28, "width": 10}
        >>> text = model_card({"model": network, "card": {"name": "afa", "data": "cifar10"}}, [])
        >>> [line for line in text.splitlines() if line.startswith(("# ", "WideResNet"))]
        ['# afa', 'WideResNet-28-10, trained on cifar10.']
    """
    card, shown = document["card"], fullest_by_threat(records)
    parts = [
        _front_matter(card, shown),
        f"# {card.get('name', 'An Equipoise model')}\n\n{_NOTE}",
        *(f"> **Warning** (training): {warning}" for warning in card.get("warnings", [])),
        *_warnings(shown),
        _description(document),
        "## Scores",
        *([_scores(record) for record in shown] or [_NO_SCORES]),
        "## Limits",
        _limits(shown),
        *(["## Cost", latency_sentence(latency)] if latency else []),
        "## Training",
        _training(document),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _warnings(records: Sequence[Record]) -> list[str]:
    """What is wrong with the model or its scores, as quotes at the top of the card."""
    warned = [(record, warning_of(record)) for record in records]
    return [
        f"> **Warning** ({record['model']}, {record['norm']} on {record['data']}): {warning}"
        for record, warning in warned
        if warning
    ]


def architecture(config: Record) -> str:
    """Describe a model's configuration in words.

    Example:
        >>> member = {"kind": "wide_resnet", "depth": 28, "width": 10}
        >>> architecture({"kind": "stack", "members": [member, member, member]})
        '3 x WideResNet-28-10, stacked (AFS)'
    """
    kind = config.get("kind")
    resnets = {"resnet": "ResNet", "preact_resnet": "PreActResNet"}
    if kind in resnets:
        return f"{resnets[kind]}-{config['depth']}"
    if kind == "resnet9":
        return f"ResNet-9 with widths {', '.join(map(str, config['widths']))}"
    if kind == "wide_resnet":
        return f"WideResNet-{config['depth']}-{config['width']}"
    if kind == "stack":
        members = [architecture(member) for member in config["members"]]
        return f"{' + '.join(_counted(members))}, stacked (AFS)"
    if kind == "imported":
        return f"`{config['function']}`"
    network = architecture(config["network"]) if "network" in config else str(kind)
    extensions = {
        "adaptive": "two fused branches (AFA)",
        "branched": f"{config.get('branches')} branches",
        "conditional": "conditional on a preference (OAT)",
    }
    return f"{network}, {extensions[kind]}" if kind in extensions else network


def percent(share: float) -> str:
    """Format a fraction as a percentage with one digit."""
    return f"{100 * share:.1f}"


def _counted(names: list[str]) -> list[str]:
    groups = [(name, len(list(group))) for name, group in groupby(names)]
    return [f"{count} x {name}" if count > 1 else name for name, count in groups]


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
    preference = preference_in(record["model"], name)
    metric = "clean accuracy" if written == "0" else f"worst case at {record['norm']} {written}"
    return f"{metric}, preference {preference}" if preference else metric


def _description(document: Record) -> str:
    card = document["card"]
    classes, shape = card.get("classes", []), card.get("image_shape")
    sizes = ", ".join(map(str, shape)) if shape else "channel, height, width"
    trained_on = f", trained on {card['data']}" if "data" in card else ""
    lines = [
        f"{architecture(document['model'])}{trained_on}.",
        f"Input: images in [0, 1] of shape `(batch, {sizes})`; normalisation is part of the "
        "model. Output: logits.",
    ]
    if classes:
        names = ", ".join(classes[:_CLASSES_SHOWN])
        more = ", ..." if len(classes) > _CLASSES_SHOWN else ""
        lines.append(f"{len(classes)} classes: {names}{more}.")
    modules = sorted({name.partition(":")[0] for name in functions_named(document["model"])})
    lines.append("No file in this folder can execute code.")
    if modules:
        lines[-1] += f" The network is built by your own code in {', '.join(modules)}."
    trust = f", trust={modules}" if modules else ""
    usage = f'import equipoise\n\nmodel = equipoise.load("FOLDER"{trust})  # or "hf://owner/name"'
    return "\n".join(lines) + f"\n\n```python\n{usage}\n```"


def _scores(record: Record) -> str:
    headline, written = record["headline"], record["epsilons_written"]
    rows = [
        f"| {strength} | {percent(accuracy)} | {percent(low)} to {percent(high)} | "
        f"{record['images']} |"
        for strength, accuracy, (low, high) in zip(
            written, headline["accuracy"], headline["interval"], strict=True
        )
    ]
    suites = [
        f"- `{suite['name']}`: {', '.join(attack['name'] for attack in suite['attacks']) or 'none'}"
        for suite in record["suites"]
    ]
    curve = record.get("fusing_weight", {}).get("through_generator", [])
    pairs = zip(curve, written, strict=False)  # no curve without a generator
    weights = ", ".join(f"{point['mean']:.3f} at {strength}" for point, strength in pairs)
    return "\n".join(
        [
            f"### {record['model']}: {record['norm']} on {record['data']}",
            "",
            f"Accuracy in % under {record['norm']} attacks, with pixels in [0, 1]. An image counts "
            f"as correct at a strength only if none of {attack_count(record)} attacks broke it at "
            "that strength or below. Wilson intervals.",
            "",
            "| strength | accuracy | 95 % interval | test images |",
            "|---|---:|---|---:|",
            *rows,
            "",
            "Attacks:",
            "",
            *suites,
            "",
            *(f"**{mark['name']}**: {mark['meaning']}\n" for mark in marks_of(record)),
            *([f"Mean W1, the weight of the robust branch: {weights}.", ""] if weights else []),
            f"Evaluated at commit `{record.get('environment', {}).get('commit')}`, "
            f"seed {record.get('seed')}.",
            "Self-" + markdown_checks(record).strip(),
        ]
    )


def _limits(records: Sequence[Record]) -> str:
    if not records:
        return "Its robustness has not been measured."
    lines = [
        f"- {record['model']}: the scores hold for {record['norm']} perturbations of up to "
        f"{record['epsilons_written'][-1]}, under {attack_count(record)} attacks, on "
        f"{record['images']} test images of {record['data']}. Other attacks may break more images."
        for record in records
    ]
    other = (
        "- Other perturbations (larger ones, other norms, blur, weather, patches) and other images "
        "were not tested."
    )
    return "\n".join([*lines, other])


def _training(document: Record) -> str:
    card = document["card"]
    facts = {"model": document["model"]} | without_folders(card.get("training", {}))
    return (
        f"Seed {card.get('seed')}, commit `{card.get('commit')}`.\n\n"
        f"```json\n{json.dumps(facts, indent=2)}\n```"
    )
