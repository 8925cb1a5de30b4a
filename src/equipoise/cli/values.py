"""How values on the command line are read, with errors that name the rule and what was given."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from equipoise.runtime.errors import did_you_mean

REGISTRY = ConstructorRegistry()
"""Rules for ``tyro.cli``: numbers, choices, and ``None`` for the flags that may be left out."""

_NUMBERS: dict[Any, str] = {int: "a whole number", float: "a number"}


@REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type not in _NUMBERS:
        return None

    def read(texts: list[str]) -> Any:
        try:
            return info.type(texts[0])
        except ValueError:
            raise ValueError(f"must be {_NUMBERS[info.type]}, got {texts[0]!r}.") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=info.type.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, info.type)),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _choice(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if get_origin(info.type) is not Literal:
        return None
    choices = {str(choice): choice for choice in get_args(info.type)}

    def read(texts: list[str]) -> Any:
        if texts[0] not in choices:
            raise ValueError(
                f"must be one of {', '.join(choices)}, got {texts[0]!r}"
                f"{did_you_mean(texts[0], choices)}"
            )
        return choices[texts[0]]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=read,
        is_instance=lambda value: value in choices.values(),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _tuple(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Any number of values that are one word each; tyro's own rule hides their errors."""
    kinds = get_args(info.type)
    if info.type_origin is not tuple or len(kinds) != 2 or kinds[1] is not Ellipsis:
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if isinstance(inner, UnsupportedTypeAnnotationError) or inner.nargs != 1:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{inner.metavar} [{inner.metavar} ...]]",
        instance_from_str=lambda texts: tuple(inner.instance_from_str([text]) for text in texts),
        is_instance=lambda value: isinstance(value, tuple) and all(map(inner.is_instance, value)),
        str_from_instance=lambda value: [inner.str_from_instance(part)[0] for part in value],
    )


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A type or ``None``: errors are those of the type."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if info.type_origin not in (Union, UnionType) or len(kinds) != 1:
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if isinstance(inner, UnsupportedTypeAnnotationError):
        return None
    return PrimitiveConstructorSpec(
        nargs=inner.nargs,
        metavar="{None}|" + inner.metavar,
        instance_from_str=lambda texts: (
            None if texts == ["None"] else inner.instance_from_str(texts)
        ),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else inner.str_from_instance(value)
        ),
    )
