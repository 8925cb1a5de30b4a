"""Validation of a model's card, which may come from an untrusted file."""

import re
from typing import Any

from equipoise.runtime.errors import InvalidInput

MAX_IMAGE_SIDE = 1 << 12  # pixels
_NAME = re.compile(r"[\w@+(),=][\w@+(),=. -]{0,99}")  # the name is part of file names


def check_card(card: Any) -> None:
    """Reject a card whose text could escape a folder or send control codes to a terminal.

    Raises:
        ValueError: If the name or seed cannot be part of a file name, classes or warnings are not
            printable, the image shape is not valid, or a section is not an object.
    """
    if not isinstance(card, dict):
        raise InvalidInput(f"the card must be an object, got {type(card).__name__}.")
    name, classes = card.get("name", "model"), card.get("classes", [])
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            "the name must be 1 to 100 letters, digits, spaces or any of . _ - @ + = ( ) , and not "
            f"begin with a dot or dash, got {str(name)[:100]!r}."
        )
    names = classes if isinstance(classes, list) else [None]
    if not all(isinstance(n, str) and len(n) <= 100 and n.isprintable() for n in names):
        raise InvalidInput(
            "classes must be a list of printable names of at most 100 letters, got "
            f"{str(classes)[:100]!r}."
        )
    warnings = card.get("warnings", [])
    listed = warnings if isinstance(warnings, list) else [None]
    if not all(isinstance(w, str) and len(w) <= 1000 and w.isprintable() for w in listed):
        raise InvalidInput(
            "warnings must be a list of printable texts of at most 1000 letters, got "
            f"{str(warnings)[:100]!r}."
        )
    for key in ("seed", "validation_images"):  # the seed is part of file names too
        if type(card.get(key, 0)) is not int:
            raise InvalidInput(f"{key} must be a whole number, got {str(card[key])[:100]!r}.")
    for key in ("evaluation", "dataset", "training"):
        if not isinstance(card.get(key, {}), dict):
            raise InvalidInput(f"{key} must be an object, got {str(card[key])[:100]!r}.")
    shape = card.get("image_shape", [1, 1, 1])
    sides = shape if isinstance(shape, list) and len(shape) == 3 else [0]
    if not all(type(side) is int and 1 <= side <= MAX_IMAGE_SIDE for side in sides):
        raise InvalidInput(
            f"image_shape must be three whole numbers in [1, {MAX_IMAGE_SIDE}], got "
            f"{str(shape)[:100]}."
        )
