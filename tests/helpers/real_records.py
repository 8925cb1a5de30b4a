"""This repository's own records, to be changed at will, and a gallery for one."""

from pathlib import Path

from equipoise.records.files import iterate_records

RESULTS = Path(__file__).resolve().parents[2] / "results"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
HOSTILE = "</script><script>document.title='owned'</script><b onclick=x>"


def digits(*names: str) -> list[tuple[Path, dict]]:
    """Records of this repository, by the beginning of their names."""
    found = list(iterate_records(RESULTS / "digits"))
    return [pair for name in names for pair in found if pair[0].name.startswith(name)]


def gallery(record: dict) -> dict:
    """Two images, of which the second one fools the model."""
    pictures = [
        {
            **{"row": row, "label": 3, "clean": DOT, "adversarial": DOT, "perturbation": DOT},
            **{"times": 2.5, "before": {"class": 3, "confidence": 0.9}},
            "after": {"class": after, "confidence": 0.6},
        }
        for row, after in ((0, 3), (7, 8))
    ]
    return {
        **{"format": 1, "images_sha256": record["images_sha256"], "epsilon_written": "0.2"},
        **{"classes": [f"class {number}" for number in range(10)], "pictures": pictures},
    }
