"""Layers of values by dotted key, of which the last one wins, and the run that they describe; every
value knows what gave it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from xceptlab import register
from xceptlab.config import options
from xceptlab.config.field_errors import FieldError, Misread, UnknownKey, unknown_key
from xceptlab.config.field_types import type_error
from xceptlab.config.fields import Values, from_values, keys
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused

MOVED = {"runtime.compile": "train.compile", "runtime.deterministic": "train.deterministic"}
"""Keys that runs of earlier versions have in their configuration files, each with its present name.
"""


@dataclass(frozen=True)
class Layer:
    """Values of a run's configuration from one source, such as a file or an option; each value is
    of its field's type.
    """

    origin: str
    """Source of the values, for error messages: a file, an option such as ``--train.lr``, or an arm
    of a study.
    """
    values: Values
    """Values by dotted key; each option of a model family has a key of its own, such as
    ``model.options.depth``.
    """


def file_layer(file: str) -> Layer:
    """Read a YAML file as a layer; keys of earlier versions get their present names (``MOVED``)."""
    # which takes some time that --help and errors need not wait for
    from xceptlab.config import strict_yaml

    return layer(strict_yaml.read(file), file, MOVED)


def layer(values: Mapping[Any, Any], origin: str, moved: Mapping[str, str] | None = None) -> Layer:
    """Make a layer from values whose keys are dotted or nested.

    Args:
        values: The values as a file or the command line has them.
        origin: Source of the values, for error messages.
        moved: Present names of renamed keys, by earlier name.

    Raises:
        Refused: A key is not known or given twice, or a value is not of its field's type; the line
            names the origin.
    """
    renamed = moved or {}
    found: Values = {}
    for given, value in by_dotted_key(values, origin).items():
        key = renamed.get(given, given)
        for name, one in _checked(key, value, origin).items():
            _add(found, name, one, origin)
    return Layer(origin, found)


# ---- keys ----------------------------------------------------------------------------------------


def by_dotted_key(values: Mapping[Any, Any], place: str) -> Values:
    """Flatten a run's values to dotted keys: ``{"train": {"lr": 1}}`` becomes ``{"train.lr": 1}``.

    Raises:
        Refused: A key is given twice; the line names the place.
    """
    found: Values = {}
    _add_nested(found, values, "", place)
    return found


def _add_nested(found: Values, values: Mapping[Any, Any], prefix: str, place: str) -> None:
    """Add nested values to ``found`` by dotted keys, which begin with the prefix."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if _stands_for_its_keys(key, value):
            _add_nested(found, value, f"{key}.", place)
        else:
            _add(found, key, value, place)


def _stands_for_its_keys(key: str, value: Any) -> bool:
    """Whether a value is a mapping of further keys, such as a section, rather than the value of
    ``key`` itself.
    """
    if not isinstance(value, dict) or options.is_option(key):
        return False
    if key == options.OPTIONS:
        return bool(value)  # an empty mapping is a value: it drops the options of the layers before
    known = keys(RunConfig)
    if key in known:
        return is_dataclass(known[key])
    return bool(value)  # so that the error of a section that does not exist names the keys in it


def _add(found: Values, key: str, value: Any, place: str) -> None:
    """Add a value to ``found``, or refuse it where its key is there already."""
    if key in found:
        raise Refused(f"{place}: the key {key} stands there twice")
    found[key] = value


def unknown_run_key(key: str, known: Iterable[str]) -> UnknownKey:
    """Make the error for a key that a run does not have, which names the one of ``known`` that was
    probably meant.
    """
    return unknown_key(key, known, otherwise="xceptlab train --help explains the keys")


# ---- values --------------------------------------------------------------------------------------


def _checked(key: str, value: Any, origin: str) -> Values:
    """Check a value against its field's type; returns it by dotted key, options of a model family
    each by a key of its own.
    """
    known = keys(RunConfig)
    if options.is_option(key):
        return {key: _option(value, key, origin)}
    if key not in known:
        without_sections = [name for name, kind in known.items() if not is_dataclass(kind)]
        raise unknown_run_key(key, without_sections).within(origin)
    value = _read_text(known[key], value, key, origin)
    if key == "extensions":
        named = [value] if isinstance(value, str) else value
        value = register.located(named, _folder(origin))
    error = type_error(known[key], value, key)
    if error:
        raise error.within(origin)
    if key == options.OPTIONS and value:
        return options.by_key(value)
    return {key: value}


def _option(value: Any, key: str, origin: str) -> Any:
    """The value of a model family's option, whose type only the family knows; text from the command
    line is parsed as YAML.
    """
    is_of_command_line = origin == f"--{key}"
    if is_of_command_line and isinstance(value, str):
        return _read_yaml(value, key, origin)
    return value


def _read_text(kind: Any, value: Any, key: str, origin: str) -> Any:
    """Parse text as YAML, also from a file, where its field wants a number, a list or the like;
    other values stay as they are.
    """
    is_to_be_text = kind is str or is_dataclass(kind)
    if is_to_be_text or not isinstance(value, str):
        return value
    if type_error(kind, value, key) is None:  # one of several words
        return value
    return _read_yaml(value, key, origin)


def _read_yaml(text: str, key: str, origin: str) -> Any:
    """Parse text as YAML; empty text stays empty text."""
    from xceptlab.config import strict_yaml

    if not text.strip():
        return text
    try:
        return strict_yaml.value_of(text)
    except strict_yaml.Trap as trap:
        raise Misread(key, text, trap.problem).within(origin) from None


def _folder(origin: str) -> Path:
    """The folder where relative paths of a layer begin: that of its configuration file, or else the
    working directory.
    """
    file = Path(origin)
    return file.parent if file.is_file() else Path()


# ---- the run -------------------------------------------------------------------------------------


def resolve(layers: Iterable[Layer]) -> RunConfig:
    """Combine layers, of which the last one wins, into a run's configuration; load the modules that
    any of them names.

    Raises:
        Refused: A value is impossible beside the others; the line names what gave it and them.
    """
    values: Values = {}
    origins: dict[str, str] = {}
    extensions: dict[str, None] = {}
    for one in layers:
        options.overlay(values, one.values)
        for key in one.values:
            origins[key] = origins[options.field_of(key)] = one.origin
        extensions |= dict.fromkeys(one.values.get("extensions", ()))
    if extensions:
        register.load(extensions)
        values["extensions"] = list(extensions)
    try:
        return from_values(RunConfig, _nested(values))
    except FieldError as error:
        raise error.traced(values, origins) from None


def _nested(values: Values) -> dict[str, Any]:
    """Nest values by section, as a file does: ``{"train.lr": 1}`` becomes ``{"train": {"lr": 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        place = nested.setdefault(section, {}) if section else nested
        place[name] = value
    return nested
