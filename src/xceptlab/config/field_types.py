"""Types of fields: whether a value is of a type, its canonical form, and the allowed values in
words.

Limits of a number are a part of its type, as in ``Annotated[int, Bounds(at_least=1)]``.
"""

import sys
import types
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from xceptlab.config.field_errors import FieldError

UNIONS = (Union, types.UnionType)
"""The origins of ``Union[int, str]`` and of ``int | str``."""
PLAIN_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Any: "any value",
}
"""Allowed values of each elementary type, in the words of errors and of the help."""
CHECKED = (
    "int, float, bool, str, None, Any, Literal[...], Annotated[int or float, Bounds(...)], "
    "or list[...], tuple[...], dict[str, ...] and unions of these"
)
"""The types that ``is_checked`` accepts, in words."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a number; None for a limit that the number does not have."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a number is within the limits."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least} and {self.at_most}"
        words = []
        for name in ("at_least", "above", "at_most", "below"):
            limit = getattr(self, name)
            if limit is not None:
                words.append(f"{name.replace('_', ' ')} {limit}")
        return " and ".join(words)


Count = Annotated[int, Bounds(at_least=1)]
"""A whole number of at least 1."""
CountOrZero = Annotated[int, Bounds(at_least=0)]
"""A whole number of at least 0."""
Positive = Annotated[float, Bounds(above=0)]
"""A decimal number above 0."""
NotNegative = Annotated[float, Bounds(at_least=0)]
"""A decimal number of at least 0."""
Rate = Annotated[float, Bounds(at_least=0, below=1)]
"""A decimal number of at least 0 and below 1."""


def without_bounds(kind: Any) -> tuple[Any, Bounds | None]:
    """Split a field's type into the type itself and its ``Bounds``, None for a type without
    ``Annotated``.
    """
    if get_origin(kind) is not Annotated:
        return kind, None
    kind, bounds = get_args(kind)
    return kind, bounds


def is_checked(kind: Any) -> bool:
    """Whether a type is one of those in ``CHECKED``, which an option of a model family may have;
    false for a dataclass.
    """
    origin = get_origin(kind)
    inner = get_args(kind)
    if origin is Annotated:
        number, *limits = inner
        has_bounds_alone = len(limits) == 1 and isinstance(limits[0], Bounds)
        return number in (int, float) and has_bounds_alone
    if origin is Literal:
        return True
    if origin is dict:
        key_kind, value_kind = inner
        return key_kind is str and is_checked(value_kind)
    if origin in (list, tuple, *UNIONS):
        parts = [one for one in inner if one is not ...]
        return bool(parts) and all(map(is_checked, parts))
    return any(kind is plain for plain in PLAIN_WORDS)


# ---- values --------------------------------------------------------------------------------------


def type_error(kind: Any, value: Any, key: str) -> FieldError | None:
    """Check a value against its field's type.

    Args:
        kind: The type: one of those that ``is_checked`` accepts, or one such as ``Paper`` or
            ``list[Claim]`` with a dataclass, of which the value or its items must be instances.
        value: The value.
        key: The field's dotted key, for the error. For a type ``dict[...]`` the error names the
            first entry whose value does not fit: ``arms.a`` for the entry ``a`` of ``arms``.

    Returns:
        The error, which the caller raises; None for a value that is of the type. Text with the
        character NUL is an error whatever the type.
    """
    # No path may hold NUL, and opening one would raise an error that names no key.
    if isinstance(value, str) and "\0" in value:
        return FieldError(key, value, "text without the character NUL")
    kind, bounds = without_bounds(kind)
    origin = get_origin(kind)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return _list_error(kind, value, key)
    if origin is dict and isinstance(value, dict):
        return _dict_error(kind, value, key)
    if not _is_of(kind, value):
        return FieldError(key, value, _asked_for(kind, value))
    if bounds and not bounds.hold(value):
        return FieldError(key, value, str(bounds))
    return None


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value is of a type without ``Bounds``. The items of a list or a mapping are not
    looked at, unless the type is a union.
    """
    origin = get_origin(kind) or kind
    if origin is Any:
        return True
    if origin in UNIONS:
        return any(type_error(one, value, "") is None for one in get_args(kind))
    if origin is Literal:
        return bool(_equal_choices(kind, value))
    # Python takes true and false for whole numbers; a field does not.
    if isinstance(value, bool):
        return origin is bool
    if origin is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return isinstance(value, origin)


def _equal_choices(kind: Any, value: Any) -> list[Any]:
    """Return the choices of a ``Literal`` that equal a value: one, or none. Python takes true for 1;
    a field does not.
    """
    return [
        choice
        for choice in get_args(kind)
        if choice == value and isinstance(choice, bool) == isinstance(value, bool)
    ]


def _asked_for(kind: Any, value: Any) -> str:
    """Say in words what a type allows, for the error of a wrong value; where a number, true or
    false stands in the place of text, also that it needs quotes.
    """
    if kind is str and isinstance(value, int | float):
        return f"{in_words(kind)}, in quotes"
    return in_words(kind)


def _list_error(kind: Any, values: list[Any] | tuple[Any, ...], key: str) -> FieldError | None:
    """Check a list or tuple against its type.

    Returns:
        An error about the whole list, for a wrong length or for the first item that does not fit;
        None if all is right.
    """
    length = _fixed_length(kind)
    if length and len(values) != length:
        return FieldError(key, values, in_words(kind))
    item_kinds = _item_kinds(kind, len(values))
    for item_kind, item in zip(item_kinds, values, strict=True):
        error = type_error(item_kind, item, key)
        if error:
            return FieldError(key, values, _list_in_words(kind, error.allowed))
    return None


def _dict_error(kind: Any, values: dict[Any, Any], key: str) -> FieldError | None:
    """Check a mapping against its type ``dict[K, V]``.

    Returns:
        The error of the first wrong key, else of the first wrong value, else None.
    """
    key_kind, value_kind = get_args(kind)
    for name in values:
        error = type_error(key_kind, name, key)
        if error:
            return error
    for name, value in values.items():
        error = type_error(value_kind, value, f"{key}.{name}")
        if error:
            return error
    return None


def canonical(kind: Any, value: Any) -> Any:
    """Return a value of a type in canonical form: equal settings become equal values, and so give
    one run id.

    A whole number becomes a float where the type is ``float``, and -0.0 becomes 0.0. A value of a
    ``Literal`` becomes the choice that it equals: 1 becomes 1.0 for ``Literal[1.0]``. A list
    becomes a tuple where the type is ``tuple``, as YAML and JSON know lists only, and a tuple a
    list where it is ``list``. All this holds within lists, mappings and unions, too, but a value
    whose own class is in the union stays as it is. A value that is not of the type is returned as
    it is; in a mapping this concerns only the entries that do not fit.
    """
    kind, _ = without_bounds(kind)
    origin = get_origin(kind)
    if origin in UNIONS:
        return _canonical_in_union(get_args(kind), value)
    if kind is float and _is_of(float, value):
        # -0.0 becomes 0.0, which is the same setting.
        return float(value) + 0.0
    if origin is Literal and _is_of(kind, value):
        return _equal_choices(kind, value)[0]
    if origin in (list, tuple) and type_error(kind, value, "") is None:
        items = []
        item_kinds = _item_kinds(kind, len(value))
        for item_kind, item in zip(item_kinds, value, strict=True):
            items.append(canonical(item_kind, item))
        return tuple(items) if origin is tuple else items
    if origin is dict and isinstance(value, dict):
        _, value_kind = get_args(kind)
        return {name: canonical(value_kind, item) for name, item in value.items()}
    return value


def _canonical_in_union(kinds: tuple[Any, ...], value: Any) -> Any:
    """Return a value of a union in canonical form.

    A value whose own class is in the union stays as it is, so that ``int | float`` keeps 1 and 1.0
    apart. So does a value that fits none of the types. Otherwise the first type that fits decides.
    """
    fitting = [kind for kind in kinds if type_error(kind, value, "") is None]
    if not fitting:
        return value
    for kind in fitting:
        plain_kind, _ = without_bounds(kind)
        if plain_kind is type(value):
            return value
    return canonical(fitting[0], value)


# ---- words ---------------------------------------------------------------------------------------


def in_words(kind: Any) -> str:
    """Say in words which values a field's type allows, for errors and the help."""
    kind, bounds = without_bounds(kind)
    origin = get_origin(kind) or kind
    inner = get_args(kind)
    if is_dataclass(kind):
        names = ", ".join(f.name for f in fields(kind))
        return f"a mapping with keys of {names}"
    if origin in UNIONS:
        return " or ".join(map(in_words, inner))
    if origin is Literal:
        choices = ", ".join(map(str, inner))
        return f"one of {choices}" if len(inner) > 1 else choices
    if origin in (list, tuple):
        item_kind = inner[0]
        return _list_in_words(kind, "" if item_kind is Any else in_words(item_kind))
    if origin is dict:
        return "a mapping"
    words = PLAIN_WORDS[origin]
    return f"{words}, {bounds}" if bounds else words


def _list_in_words(kind: Any, item: str) -> str:
    """Say in words what a type of lists allows, such as ``a list of 2 (each text)``.

    Args:
        kind: The type.
        item: What each item must be, in words; empty for anything. It is not used for a type such
            as ``tuple[int, str]``, whose items differ.
    """
    length = _fixed_length(kind)
    words = f"a list of {length}" if length else "a list"
    inner = get_args(kind)
    items_differ = len(set(inner)) > 1
    if length and items_differ:
        kinds = ", ".join(map(in_words, inner))
        return f"{words} ({kinds})"
    return f"{words} (each {item})" if item else words


def _item_kinds(kind: Any, count: int) -> tuple[Any, ...]:
    """Return the type of each item that a list or tuple type asks for.

    Args:
        kind: The type, such as ``list[int]`` or ``tuple[int, str]``.
        count: Number of items of the value; for a tuple type with a fixed length, that length.
    """
    inner = get_args(kind)
    if _fixed_length(kind):
        return inner
    kind_of_all = inner[:1]
    return kind_of_all * count


def _fixed_length(kind: Any) -> int:
    """Return the length that a type such as ``tuple[str, str]`` asks for; 0 for lists, and for
    tuples of any length.
    """
    inner = get_args(kind)
    if get_origin(kind) is not tuple or ... in inner:
        return 0
    return len(inner)
