"""Typed fields: what a configuration, a study file and a record may hold, and what is said of a value that does not fit.

A field's type is checked when its section is made. Limits of a number are a part of its type, as in
``Annotated[int, Bounds(at_least=1)]``.
"""

import os
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from xceptlab.errors import Refused
from xceptlab.text import shortened

T = TypeVar("T")


class FieldError(Refused):
    """A key of a configuration or of a study file whose value is refused; its text is the one line that the user sees.

    Attributes:
        key: The dotted key, such as ``train.lr``.
        value: The value that is refused.
        allowed: What may stand there, in words.
        depends: Other keys that decide what is allowed.
        origin: What gave the value: a file, an option such as ``--train.lr``, or an arm of a study; empty for a default.
        is_default: Whether nothing gave the value, where that is known.
        context: What gave the keys of ``depends`` where that is something else, such as ``--data.size 32``.
    """

    def __init__(self, key: str, value: Any, allowed: str, depends: tuple[str, ...] = ()) -> None:
        super().__init__(key, value, allowed, depends)
        self.key = key
        self.value = value
        self.allowed = allowed
        self.depends = depends
        self.origin = ""
        self.is_default = False
        self.context: list[str] = []

    @property
    def problem(self) -> str:
        """What is wrong with the value, and what is allowed."""
        default = ", the default," if self.is_default else ""
        return f"{shown(self.value)}{default} is not allowed; it must be {self.allowed}"

    def __str__(self) -> str:
        place = "" if self.origin in ("", f"--{self.key}") else f"{self.origin}: "
        context = f" (with {', '.join(self.context)})" if self.context else ""
        return f"{place}{shortened(self.key, 100)}: {self.problem}{context}"

    def within(self, place: str) -> "FieldError":
        self.origin = f"{place}: {self.origin}" if self.origin else place
        return self

    def traced(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> "FieldError":
        """Note what gave the refused value, and what gave others that make it impossible.

        Args:
            values: By dotted key the value of each field that was given.
            origins: By dotted key what gave it.
        """
        self.origin = origins.get(self.key, "")
        self.is_default = self.key not in origins
        for key in self.depends:
            origin = origins.get(key, self.origin)
            if origin == f"--{key}":
                self.context.append(f"{origin} {shown(values[key])}")
            elif origin != self.origin:
                self.context.append(f"{key}: {shown(values[key])} of {origin}")
        return self


class MissingKey(FieldError):
    """A required key that is not there."""

    @property
    def problem(self) -> str:
        return f"is missing; it must be {self.allowed}"


class UnknownKey(FieldError):
    """A key that does not exist; ``allowed`` names the one that was probably meant, or those that exist."""

    @property
    def problem(self) -> str:
        return f"there is no such key; {self.allowed}"


class Misread(FieldError):
    """Text that stands for another value than its reader thinks; ``allowed`` says for which, and what to write."""

    @property
    def problem(self) -> str:
        return self.allowed


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a number, each of which may be left out."""

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
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None)


class Mapped(dict[str, Any]):
    """A mapping as the value of a field: like its section it is not to be changed, and has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a configuration or of a study file: frozen, checked when it is made.

    In a field with the metadata ``path`` a first ``~`` stands for the user's home.
    """

    PREFIX: ClassVar[str] = ""
    """Prefix of this section's keys, such as ``model.``."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if error := type_error(f.type, value, self.PREFIX + f.name):
                raise error
            if f.metadata.get("path") and value.startswith("~"):  # a shell expands only some of them
                object.__setattr__(self, f.name, os.path.expanduser(value))
            kind, _ = without_bounds(f.type)
            if kind is float:  # 1 and 1.0 are the same science
                object.__setattr__(self, f.name, float(value))
            elif get_origin(kind) is tuple:  # YAML and JSON keep it as a list
                object.__setattr__(self, f.name, tuple(value))

    def _require(self, name: str, holds: bool, allowed: str, *depends: str) -> None:
        """Refuse the value of a field unless a condition holds; ``depends`` are fields of this section that it depends on."""
        if not holds:
            raise FieldError(self.PREFIX + name, getattr(self, name), allowed, tuple(self.PREFIX + other for other in depends))


def from_file(schema: type[T], values: Any) -> T:
    """The dataclass whose fields a file of ours holds, so that whoever reads them may rely on their types.

    Raises:
        Refused: The values are no mapping, a key is not known or missing, or a value is not of its field's type.
    """
    if not isinstance(values, dict):
        raise Refused(f"{shown(values)} is no mapping")
    known = {f.name: f for f in fields(schema)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise Refused(f"{shown(key)}: there is no such key")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise Refused(f"{name}: is missing")
        if name in values and (error := type_error(f.type, values[name], name)):
            raise error
    return schema(**values)


def type_error(kind: Any, value: Any, key: str) -> FieldError | None:
    """What is wrong with a value that is not of a field's type; in a mapping its key is that of the place that does not fit."""
    if isinstance(value, str) and "\0" in value:  # which no path may hold
        return FieldError(key, value, "text without the character NUL")
    kind, bounds = without_bounds(kind)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return _list_error(kind, value, key)
    if origin is dict and isinstance(value, dict):
        return _dict_error(kind, value, key)
    if origin in (Union, types.UnionType):
        fits = not all(type_error(one, value, key) for one in inner)
    elif origin is Literal:
        fits = value in inner
    elif isinstance(value, bool):
        fits = origin in (bool, Any)
    elif origin is float:
        fits = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    else:
        fits = origin is Any or isinstance(value, origin)
    if not fits:
        quotes = ", in quotes" if kind is str and isinstance(value, int | float) else ""
        return FieldError(key, value, in_words(kind) + quotes)
    if bounds and not bounds.hold(value):
        return FieldError(key, value, str(bounds))
    return None


def _list_error(kind: Any, values: list[Any] | tuple[Any, ...], key: str) -> FieldError | None:
    """The error of a list or tuple of a wrong length, or with an item that does not fit."""
    item_kind, *others = get_args(kind)
    if get_origin(kind) is tuple and ... not in others and len(values) != 1 + len(others):
        return FieldError(key, values, in_words(kind))
    for item in values:
        if error := type_error(item_kind, item, key):
            return FieldError(key, values, _list_in_words(kind, error.allowed))
    return None


def _dict_error(kind: Any, values: dict[Any, Any], key: str) -> FieldError | None:
    """The error of the first key of a mapping, or else of its first value, that does not fit."""
    key_kind, value_kind = get_args(kind)
    of_keys = (type_error(key_kind, name, key) for name in values)
    of_values = (type_error(value_kind, value, f"{key}.{name}") for name, value in values.items())
    return next(filter(None, (*of_keys, *of_values)), None)


def without_bounds(kind: Any) -> tuple[Any, Bounds | None]:
    """A field's type and the limits that ``Annotated`` adds to it."""
    if get_origin(kind) is not Annotated:
        return kind, None
    kind, bounds = get_args(kind)
    return kind, bounds


def in_words(kind: Any) -> str:
    """What values a field's type allows."""
    kind, bounds = without_bounds(kind)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return "a mapping with keys of " + ", ".join(f.name for f in fields(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(map(in_words, inner))
    if origin is Literal:
        return "one of " * (len(inner) > 1) + ", ".join(map(str, inner))
    if origin in (list, tuple):
        return _list_in_words(kind, in_words(inner[0]) if inner[0] is not Any else "")
    return f"{WORDS[origin]}, {bounds}" if bounds else WORDS[origin]


def _list_in_words(kind: Any, item: str) -> str:
    inner = get_args(kind)
    length = f" of {len(inner)}" if get_origin(kind) is tuple and ... not in inner else ""
    return f"a list{length} (each {item})" if item else f"a list{length}"


WORDS = {
    int: "a whole number", float: "a finite number", bool: "true or false", str: "text", dict: "a mapping", type(None): "null",
}  # fmt: skip


PLAIN = {"None": "null", "True": "true", "False": "false"}
"""How YAML spells None, True and False, for messages."""


def shown(value: Any) -> str:
    """A value as a configuration file or a study file has it, in one line that is not too long."""
    text = _in_yaml(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _in_yaml(value: Any) -> str:
    if isinstance(value, Section):
        value = vars(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_in_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_in_yaml, value)) + "]"
    return PLAIN.get(str(value), repr(value)) if value is None or isinstance(value, bool) else repr(value)
