"""A record and a model configuration for tests of what is made from them."""

import copy
from typing import Any

RECORD: dict[str, Any] = {
    "format": 1,
    "model": "tiny",
    "data": "cifar10",
    "part": "test",
    "norm": "Linf",
    "images": 500,
    "images_sha256": "ab" * 32,
    "epsilons": [0.0, 4 / 255, 8 / 255],
    "epsilons_written": ["0", "4/255", "8/255"],
    "headline": {
        "accuracy": [0.912, 0.634, 0.406],
        "interval": [[0.884, 0.934], [0.591, 0.675], [0.364, 0.449]],
        "average": 0.65,
        "clean_and_strongest": 0.66,
    },
    "suites": [
        {
            "name": "quick",
            "independent": False,
            "accuracy": [0.912, 0.64, 0.43],
            "attacks": [{"name": "pgd-margin"}, {"name": "apgd-dlr"}],
        },
        {
            "name": "adaptive",
            "independent": False,
            "accuracy": [0.912, 0.634, 0.406],
            "attacks": [{"name": "gate-to-clean-1"}],
        },
    ],
    "seed": 7,
    "training_seed": 3,
    "environment": {"commit": "feed" * 10},
    "self_checks": [
        {"name": "mode", "verdict": "pass", "found": "F.", "meaning": "M.", "numbers": {}},
        {"name": "missed", "verdict": "warn", "found": "F2.", "meaning": "M2.", "numbers": {}},
    ],
}
WIDE = {"kind": "wide_resnet", "depth": 28, "width": 10, "classes": 3, "channels": 3}
DOCUMENT: dict[str, Any] = {
    "format": 1,
    "model": WIDE,
    "card": {
        "name": "tiny",
        "data": "cifar10",
        "dataset": {"kind": "Cifar10", "folder": "/home/me/data", "hub": "uoft-cs/cifar10"},
        "classes": ["cat", "dog", "ship"],
        "image_shape": [3, 32, 32],
        "seed": 3,
        "commit": "beef" * 10,
        "training": {
            "network": {"depth": 28},
            "method": {"kind": "AFA", "extractors": ["/home/somebody/secret/model"]},
            "loop": {"batch_size": 128, "extra": None},
        },
    },
}


def record(**changes: Any) -> dict[str, Any]:
    """A record of an AFA model, changed."""
    return copy.deepcopy(RECORD) | changes


def document(model: Any = WIDE, **changes: Any) -> dict[str, Any]:
    """A model folder's config.json, with changes to its card."""
    found = copy.deepcopy(DOCUMENT)
    return found | {"model": model, "card": found["card"] | changes}
