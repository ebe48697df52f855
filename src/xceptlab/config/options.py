"""Options of a registered model family: the one mapping of a configuration whose keys only the
family knows.

``model.options`` is a field of the schema. ``model.options.depth`` is none, and yet a key of its
own for whoever writes it, layers it, varies it in a study or looks for what differs. Whatever is
special about such keys is here.
"""

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from xceptlab.config.field_errors import FieldError
from xceptlab.config.field_types import CHECKED, is_checked
from xceptlab.config.fields import Values, from_values
from xceptlab.errors import Refused

OPTIONS = "model.options"
"""Key of the field that holds a family's options."""
PREFIX = f"{OPTIONS}."
"""Prefix of the key of every option, as in ``model.options.depth``."""
PATTERN = f"^{re.escape(PREFIX)}"
"""Regular expression that the key of every option matches, for JSON Schema."""


class Options(dict[str, Any]):
    """Options of a model family, by name. It is hashable like the frozen section that holds it, so
    it must not be changed.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


# ---- keys ----------------------------------------------------------------------------------------


def is_option(key: str) -> bool:
    """Whether a dotted key is that of one option of a family."""
    return key.startswith(PREFIX)


def field_of(key: str) -> str:
    """The field of the schema that a dotted key belongs to: ``model.options`` for an option, and
    any other key itself.
    """
    return OPTIONS if is_option(key) else key


def by_key(options: Mapping[Any, Any]) -> Values:
    """Give options their dotted keys: ``{"depth": 2}`` becomes ``{"model.options.depth": 2}``."""
    return {f"{PREFIX}{name}": value for name, value in options.items()}


def overlay(values: Values, layer: Values) -> None:
    """Add a layer to values. An option replaces that option alone, an empty mapping drops all of
    them.
    """
    for key, value in layer.items():
        if is_option(key):
            name = key.removeprefix(PREFIX)
            values[OPTIONS] = values.get(OPTIONS, {}) | {name: value}
        else:
            values[key] = value


def is_declared(key: str, declared: Collection[str]) -> bool:
    """Whether a key is among those that an arm declares; one that declares ``model.options: {}``
    declares every option.
    """
    return key in declared or field_of(key) in declared


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options in which two networks differ, by dotted key, with both values; None where a network
    has no such option.
    """
    found = {}
    for name in {**before, **after}:
        one, other = before.get(name), after.get(name)
        if one != other:
            found[f"{PREFIX}{name}"] = (one, other)
    return found


# ---- values --------------------------------------------------------------------------------------


def checked(schema: type, given: Mapping[str, Any]) -> Options:
    """Check options by the types of the family's own dataclass, and return those that differ from
    their defaults.

    Those that have their defaults are left out, as if nobody had set them, so that both are the
    same run.

    Raises:
        Refused: There is no such option, its value is not of its type, or its type is none that can
            be checked.
    """
    _refuse_unchecked_types(schema)
    try:
        made: Any = from_values(schema, given, PREFIX)
        defaults = schema()
    except FieldError as error:
        error.depends = ("model.family",)
        raise
    except ValueError as error:  # of the dataclass itself
        raise Refused(f"{OPTIONS}: {error}") from None
    differing = Options()
    for f in fields(schema):
        value = getattr(made, f.name)
        if value == getattr(defaults, f.name):
            continue
        if f.type is float:  # 1 and 1.0 are the same science
            value = float(value)
        differing[f.name] = value
    return differing


def _refuse_unchecked_types(schema: type) -> None:
    for f in fields(schema):
        if not is_checked(f.type):
            declared = inspect.formatannotation(f.type)
            key = f"{PREFIX}{f.name}"
            raise Refused(
                f"{key}: the family declares it as {declared}, which is not allowed; it must be {CHECKED}"
            )


def with_defaults(schema: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a family by name: the given ones, and the defaults of the rest."""
    defaults = schema()
    values = {f.name: getattr(defaults, f.name) for f in fields(schema)}
    return {**values, **given}
