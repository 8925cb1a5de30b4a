"""Write the index of recipes that ``equipoise list`` reads: ``python tools/recipe_index.py``."""

import json

from equipoise.cli.catalogue import INDEX
from equipoise.recipes import GROUPS
from equipoise.runtime.files import write_bytes


def index() -> str:
    """All recipes by group, with the first line of their docstrings, as JSON."""
    groups = {
        group: [(make.__name__, (make.__doc__ or "").splitlines()[0]) for make in recipes]
        for group, recipes in GROUPS.items()
    }
    return json.dumps(groups, indent=1) + "\n"


if __name__ == "__main__":
    write_bytes(INDEX, index().encode())
