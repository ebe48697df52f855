"""What the parts of a configuration and of a study file have in common: each field's value is checked against its type.

Whatever does not fit is a ``Refused`` of one line: the key, the value and what is allowed.
"""

import os
import sys
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from xceptlab.errors import Refused

T = TypeVar("T")


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
            if wrong := type_error(f.type, value, self.PREFIX + f.name):
                raise Refused(wrong)
            if f.metadata.get("path") and value.startswith("~"):  # a shell expands only some of them
                object.__setattr__(self, f.name, os.path.expanduser(value))
            kind = float if f.type is float else tuple if get_origin(f.type) is tuple else None
            if kind:  # 1 and 1.0, and what YAML and JSON keep as a list, are the same science
                object.__setattr__(self, f.name, kind(value))

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise Refused(f"{self.PREFIX}{name}: {shown(getattr(self, name))} is not allowed; it must be {allowed}")


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
        if name in values and (wrong := type_error(f.type, values[name], name)):
            raise Refused(wrong)
    return schema(**values)


def type_error(kind: Any, value: Any, place: str) -> str:
    """One line if a value is not of a field's type, naming the place in it that is not; else nothing."""
    if isinstance(value, str) and "\0" in value:  # which no path may hold
        return f"{place}: {shown(value)} is not allowed; no text may hold the character NUL"
    origin, inner = get_origin(kind) or kind, get_args(kind)
    parts: list[tuple[Any, Any, str]] = []
    if origin in (list, tuple) and isinstance(value, list | tuple):
        fits = origin is list or ... in inner or len(value) == len(inner)
        parts = [(inner[0], item, place) for item in value]
    elif origin is dict and isinstance(value, dict):
        fits = True
        parts = [(inner[0], key, place) for key in value] + [(inner[1], item, f"{place}.{key}") for key, item in value.items()]
    elif origin in (Union, types.UnionType):
        fits = not all(type_error(one, value, place) for one in inner)
    elif origin is Literal:
        fits = value in inner
    elif isinstance(value, bool):
        fits = origin in (bool, Any)
    elif origin is float:
        fits = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    else:
        fits = origin is Any or isinstance(value, origin)
    if fits:
        return next(filter(None, (type_error(*part) for part in parts)), "")
    quotes = ", in quotes" if kind is str and isinstance(value, int | float) else ""
    return f"{place}: {shown(value)} is not allowed; it must be {in_words(kind)}{quotes}"


def in_words(kind: Any) -> str:
    """What values a field's type allows."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return "a mapping with keys of " + ", ".join(f.name for f in fields(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(map(in_words, inner))
    if origin is Literal:
        return "one of " * (len(inner) > 1) + ", ".join(map(str, inner))
    if origin in (list, tuple):
        length = f" of {len(inner)}" if origin is tuple and ... not in inner else ""
        return f"a list{length}" + (f" (each {in_words(inner[0])})" if inner[0] is not Any else "")
    return WORDS[origin]


WORDS = {
    int: "a whole number", float: "a finite number", bool: "true or false", str: "text", dict: "a mapping", type(None): "null",
}  # fmt: skip


PLAIN = {"None": "null", "True": "true", "False": "false"}
"""What Python calls otherwise than YAML."""


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
