"""Keyword arguments of a function, which are a JSON object on the command line."""

import json
from typing import Annotated, Any

import tyro

from equipoise.runtime.errors import InvalidInput


def _parse_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"arguments must be a JSON object, got {text!r} ({error})") from None
    if not isinstance(value, dict):
        raise InvalidInput(
            f"arguments must be a JSON object such as '{{\"depth\": 3}}', got {text!r}"
        )
    return value


JsonObject = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: _parse_object(words[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]
"""Keyword arguments of a function; a JSON object on the command line."""
