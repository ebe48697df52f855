"""Options of a registered model family, the mapping ``model.options``: only the family knows its
keys and their types.

The schema has a field ``model.options``, but none for an option such as ``model.options.depth``.
Still an option is set, layered, varied in a study and compared by a dotted key of its own. How such
keys are recognised, and how their values are layered, checked and compared, is in this module.
"""

import inspect
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from xceptlab.config.field_errors import FieldError
from xceptlab.config.field_types import CHECKED, canonical, is_checked
from xceptlab.config.fields import Values, from_values
from xceptlab.errors import Refused

OPTIONS = "model.options"
"""Key of the field that holds a family's options."""
PREFIX = f"{OPTIONS}."
"""Prefix of the key of every option, as in ``model.options.depth``."""
PATTERN = f"^{re.escape(PREFIX)}"
"""Regular expression that the key of every option matches, for JSON Schema."""


class Options(dict[str, Any]):
    """Options of a model family, by name.

    The frozen section that holds them is hashable, so they have to be, too. Their hash is that of
    their contents, so nothing may change them once a section holds them.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


# ---- keys ----------------------------------------------------------------------------------------


def is_option(key: str) -> bool:
    """Whether a dotted key is that of an option, such as ``model.options.depth``."""
    return key.startswith(PREFIX)


def field_of(key: str) -> str:
    """Return the schema's field that a dotted key belongs to: ``model.options`` for an option, else
    the key itself.
    """
    return OPTIONS if is_option(key) else key


def by_key(options: Mapping[Any, Any]) -> Values:
    """Return options by dotted key: ``{"depth": 2}`` becomes ``{"model.options.depth": 2}``."""
    return {f"{PREFIX}{name}": value for name, value in options.items()}


def overlay(values: Values, layer: Values) -> None:
    """Overwrite values by dotted key, in place, with those of a layer above them.

    Among ``values`` all options are one mapping, under ``model.options``. The layer has a key for
    each option, such as ``model.options.depth``, which replaces that option alone; its
    ``model.options: {}`` drops the options that were set.
    """
    for key, value in layer.items():
        if is_option(key):
            name = key.removeprefix(PREFIX)
            values[OPTIONS] = values.get(OPTIONS, {}) | {name: value}
        else:
            values[key] = value


def is_declared(key: str, declared: Collection[str]) -> bool:
    """Whether a dotted key is among those that an arm of a study declares; an arm that declares
    ``model.options`` declares every option.
    """
    return key in declared or field_of(key) in declared


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the options in which two networks differ, by dotted key.

    Args:
        before: All options of one network, by name.
        after: All options of the other.

    Returns:
        The two values of each option, ``(before, after)``, by a key such as
        ``model.options.depth``; None in place of a value that the network does not have.
    """
    found = {}
    for name in {**before, **after}:
        one, other = before.get(name), after.get(name)
        if differ(one, other):
            found[f"{PREFIX}{name}"] = (one, other)
    return found


def differ(one: Any, other: Any) -> bool:
    """Whether two values of options differ, as 1 does from true and from 1.0, which Python takes for
    equal.
    """
    return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


# ---- values --------------------------------------------------------------------------------------


def checked(schema: type, given: Mapping[str, Any]) -> Options:
    """Check options against the types of the family's dataclass, and return those that differ from
    their defaults, in canonical form.

    Options that have their defaults are left out, so that a run which sets them has the same id as
    one which does not.

    Args:
        schema: The dataclass of the family's options.
        given: The options that are set, by name.

    Raises:
        Refused: There is no such option, its value is not allowed, or its type is none that can be
            checked.
    """
    _refuse_unchecked_types(schema)
    try:
        made: Any = from_values(schema, given, PREFIX)
        defaults: Any = from_values(schema, {}, PREFIX)
    except FieldError as error:
        error.depends = ("model.family",)
        raise
    except Refused as error:
        raise error.within(OPTIONS) from None
    differing = Options()
    for f in fields(schema):
        value = canonical(f.type, getattr(made, f.name))
        default = canonical(f.type, getattr(defaults, f.name))
        if differ(value, default):
            differing[f.name] = value
    return differing


def _refuse_unchecked_types(schema: type) -> None:
    """Refuse a family whose options have a type against which no value can be checked."""
    for f in fields(schema):
        if not is_checked(f.type):
            declared = inspect.formatannotation(f.type)
            key = f"{PREFIX}{f.name}"
            raise Refused(
                f"{key}: the family declares it as {declared}, which is not allowed; it must be {CHECKED}"
            )


def with_defaults(schema: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a family by name: the given values, and the defaults of the rest."""
    defaults = schema()
    values = {f.name: getattr(defaults, f.name) for f in fields(schema)}
    return {**values, **given}
