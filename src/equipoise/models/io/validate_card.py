"""What may stand on a model's card, wherever it comes from."""

import re
from typing import Any

LARGEST_SIDE = 1 << 12  # of an image, in pixels
_NAME = re.compile(r"[\w@+(),=][\w@+(),=. -]{0,99}")  # goes into file names


def check_card(card: Any) -> None:
    """Refuse a card whose words could lead out of a folder, or play tricks on a terminal.

    Raises:
        ValueError: If its name or seed is unfit for a file, its classes are no printable names, its
            images have no shape, or what tells of its training is no object.
    """
    if not isinstance(card, dict):
        raise ValueError(f"the card must be an object, got {type(card).__name__}.")
    name, classes = card.get("name", "model"), card.get("classes", [])
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "the name must be 1 to 100 letters, digits, spaces or any of . _ - @ + = ( ) , and not "
            f"begin with a dot or dash, got {str(name)[:100]!r}."
        )
    words = classes if isinstance(classes, list) else [None]
    if not all(isinstance(w, str) and len(w) <= 100 and w.isprintable() for w in words):
        raise ValueError("classes must be a list of printable names of at most 100 letters.")
    for key in ("seed", "validation_images"):  # the seed goes into file names, too
        if type(card.get(key, 0)) is not int:
            raise ValueError(f"{key} must be a whole number, got {str(card[key])[:100]!r}.")
    for key in ("evaluation", "dataset", "training"):
        if not isinstance(card.get(key, {}), dict):
            raise ValueError(f"{key} must be an object, got {str(card[key])[:100]!r}.")
    shape = card.get("image_shape", [1, 1, 1])
    sides = shape if isinstance(shape, list) and len(shape) == 3 else [0]
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(
            f"image_shape must be three whole numbers in [1, {LARGEST_SIDE}], got "
            f"{str(shape)[:100]}."
        )
