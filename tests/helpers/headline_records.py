"""Records with nothing but what the headline table reads."""

import copy

OUTCOMES = {"broken_at": [-1] * 450, "broken_by": [None] * 450}
RECORD = {
    "format": 1,
    "model": "one",
    "data": "digits",
    "norm": "Linf",
    "images": 450,
    "epsilons": [0.0, 8 / 255],
    "epsilons_written": ["0", "8/255"],
    "headline": {
        "accuracy": [0.9, 0.5],
        "interval": [[0.88, 0.92], [0.45, 0.55]],
        "average": 0.7,
        "clean_and_strongest": 0.7,
    },
    "suites": [
        {"name": "pgd", "accuracy": [0.9, 0.6], "attacks": [{"name": "a"}, {"name": "b"}]}
        | OUTCOMES,
        {"name": "gate", "accuracy": [0.9, 0.5], "attacks": [{"name": "c"}]} | OUTCOMES,
    ],
}


def record(model: str = "one", clean: float = 0.9, robust: float = 0.5, **changes) -> dict:
    found = copy.deepcopy(RECORD) | {"model": model} | changes
    found["headline"] |= {
        "accuracy": [clean, robust],
        "average": (clean + robust) / 2,
        "clean_and_strongest": (clean + robust) / 2,
    }
    return found
