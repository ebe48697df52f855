"""Layers of a run's configuration: values by dotted key from files, options and arms of a study.

The last layer wins. Each layer knows its origin, so that an error can name what gave a value.
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
"""Present names of keys that configuration files of earlier versions have, by earlier name."""


@dataclass(frozen=True)
class Origin:
    """Source of a layer's values: a file, an option of the command line, a value that Python gives,
    or an arm of a study.
    """

    text: str
    """The source as errors name it: a file's path, an option such as ``--train.lr``, or an arm with
    its study's file.
    """
    folder: Path = Path()
    """Folder in which relative paths of ``extensions`` begin; by default the working directory."""
    is_command_line: bool = False
    """Whether the values are text as it was typed, in which a number is not a number yet."""

    @classmethod
    def of_file(cls, file: str) -> "Origin":
        """Make the origin of values in a YAML file. Relative paths of ``extensions`` in it begin in
        the file's folder, or in the working directory where it is no regular file, such as a pipe.
        """
        path = Path(file)
        # A pipe such as /dev/stdin has no folder in which the user's modules lie.
        folder = path.parent if path.is_file() else Path()
        return cls(file, folder)

    @classmethod
    def of_option(cls, key: str) -> "Origin":
        """Make the origin of a value that an option of the command line gives, ``--KEY VALUE``."""
        return cls(f"--{key}", is_command_line=True)

    @classmethod
    def of_value(cls, key: str) -> "Origin":
        """Make the origin of a value that Python gives; messages name it like an option."""
        return cls(f"--{key}")


@dataclass(frozen=True)
class Layer:
    """Values of a run's configuration from one source; each value is of its field's type, but
    options of a model family are not checked yet.
    """

    origin: Origin
    values: Values
    """Values by dotted key; each option of a model family has a key of its own, such as
    ``model.options.depth``.
    """


def file_layer(file: str) -> Layer:
    """Read a YAML file as a layer; keys of earlier versions get their present names (``MOVED``).

    Raises:
        Refused: The file cannot be read or is no mapping in YAML, a key in it is unknown or given
            twice, or a value is not of its field's type.
    """
    # PyYAML takes a while to load, for which --help and errors need not wait.
    from xceptlab.config import strict_yaml

    return layer(strict_yaml.read(file), Origin.of_file(file), MOVED)


def layer(
    values: Mapping[Any, Any], origin: Origin, moved: Mapping[str, str] | None = None
) -> Layer:
    """Make a layer from values whose keys are dotted or nested.

    Args:
        values: The values as a file or the command line has them.
        origin: Source of the values.
        moved: Present names of renamed keys, by earlier name; None renames nothing.

    Raises:
        Refused: A key is unknown or given twice, or a value is not of its field's type; the message
            names the origin.
    """
    renamed = moved or {}
    found: Values = {}
    for given, value in by_dotted_key(values, origin.text).items():
        key = renamed.get(given, given)
        for name, one in _as_typed_values(key, value, origin).items():
            _add(found, name, one, origin.text)
    return Layer(origin, found)


# ---- keys ----------------------------------------------------------------------------------------


def by_dotted_key(values: Mapping[Any, Any], place: str) -> Values:
    """Flatten a run's values to dotted keys: ``{"train": {"lr": 1}}`` becomes ``{"train.lr": 1}``.

    Raises:
        Refused: A key is given twice; the message names ``place``, such as a file.
    """
    found: Values = {}
    _add_nested(found, values, "", place)
    return found


def _add_nested(found: Values, values: Mapping[Any, Any], prefix: str, place: str) -> None:
    """Add nested values to ``found``, by dotted keys that begin with ``prefix``; refuse a key that
    is given twice, in an error that names ``place``.
    """
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
    # Empty options are a value of their own: they drop the options of the layers before.
    if key == options.OPTIONS:
        return bool(value)
    known = keys(RunConfig)
    if key in known:
        return is_dataclass(known[key])
    # The error for a section that does not exist names the keys in it, if there are any.
    return bool(value)


def _add(found: Values, key: str, value: Any, place: str) -> None:
    """Add a value to ``found``, or refuse it if its key is there already."""
    if key in found:
        raise Refused(f"{place}: the key {key} stands there twice")
    found[key] = value


def unknown_run_key(key: str, known: Iterable[str]) -> UnknownKey:
    """Make the error for a key that a run does not have; it names the key among ``known`` that was
    probably meant, or else the command that explains all keys.
    """
    return unknown_key(key, known, otherwise="xceptlab train --help explains the keys")


# ---- values --------------------------------------------------------------------------------------


def _as_typed_values(key: str, value: Any, origin: Origin) -> Values:
    """Check the value that a file, an option or an arm gives for a key, and return it by dotted key.

    Text is parsed if the field wants another type, and paths in ``extensions`` become absolute.
    ``model.options`` gives a value for each option in it. The type of an option is not checked, as
    only its model family knows it.

    Raises:
        Refused: The key is unknown, or the value is not of its field's type.
    """
    if options.is_option(key):
        return {key: _option(value, key, origin)}
    kind = _type_of(key, origin)
    value = _read_text(kind, value, key, origin)
    if key == "extensions":
        value = _located(value, origin)
    error = type_error(kind, value, key)
    if error:
        raise error.within(origin.text)
    if key == options.OPTIONS and value:
        return options.by_key(value)
    return {key: value}


def _type_of(key: str, origin: Origin) -> Any:
    """Return the type of a key's field, or refuse a key that a run does not have."""
    known = keys(RunConfig)
    if key not in known:
        without_sections = [name for name, kind in known.items() if not is_dataclass(kind)]
        raise unknown_run_key(key, without_sections).within(origin.text)
    return known[key]


def _option(value: Any, key: str, origin: Origin) -> Any:
    """Return the value of a model family's option, whose type only the family knows; text from the
    command line is parsed as YAML.
    """
    if origin.is_command_line and isinstance(value, str):
        return _read_yaml(value, key, origin)
    return value


def _read_text(kind: Any, value: Any, key: str, origin: Origin) -> Any:
    """Parse the text given for a key, on the command line or in quotes in a file, as YAML if the
    key's type is another one than text, such as a number or a list.

    Returned as they are: a value that is not text, text that the type allows (a word of a Literal),
    text for a whole section, empty text, and text that is not YAML.

    Args:
        kind: The type of the key's field.
        value: The value given.
        key: The dotted key, for the error.
        origin: Where the value was given, for the error.

    Raises:
        Misread: The text holds something that YAML allows and nobody means, such as a number with a
            leading 0, or it is otherwise refused by ``strict_yaml``, as for a tag.
    """
    is_to_be_text = kind is str or is_dataclass(kind)
    if is_to_be_text or not isinstance(value, str):
        return value
    # A word that a field such as `Literal["all"] | int` allows is no YAML to be parsed.
    if type_error(kind, value, key) is None:
        return value
    return _read_yaml(value, key, origin)


def _read_yaml(text: str, key: str, origin: Origin) -> Any:
    """Parse text as YAML; empty text stays empty text, and text that is no YAML stays as it is.

    Raises:
        Misread: The text holds something that YAML allows and nobody means, such as a number with a
            leading 0; the message names the key and the origin.
    """
    from xceptlab.config import strict_yaml

    if not text.strip():
        return text
    try:
        return strict_yaml.value_of(text)
    except strict_yaml.Trap as trap:
        raise Misread(key, text, trap.problem).within(origin.text) from None


def _located(extensions: Any, origin: Origin) -> Any:
    """Make the paths of the user's modules absolute, where relative ones begin in the origin's
    folder; a single module becomes a list of one. Any other value is returned as it is.
    """
    named = [extensions] if isinstance(extensions, str) else extensions
    return register.located(named, origin.folder)


# ---- the run -------------------------------------------------------------------------------------


def resolve(layers: Iterable[Layer]) -> RunConfig:
    """Combine layers, the last of which wins, into a run's configuration.

    The user's modules (``extensions``) of all layers are executed, each once, and the configuration
    names all of them.

    Raises:
        Refused: A module cannot be loaded; an option of a model family is unknown or not of its
            type; or a value is not allowed, by itself or beside others. A ``FieldError`` names
            the origin of the value and, where theirs is another, of these others.
    """
    values: Values = {}
    origins: dict[str, str] = {}
    extensions: dict[str, None] = {}
    for one in layers:
        options.overlay(values, one.values)
        for key in one.values:
            origins[key] = one.origin.text
            origins[options.field_of(key)] = one.origin.text
        extensions |= dict.fromkeys(one.values.get("extensions", ()))
    if extensions:
        register.load(extensions)
        values["extensions"] = list(extensions)
    try:
        return from_values(RunConfig, _nested(values))
    except FieldError as error:
        raise error.traced(values, origins) from None


def _nested(values: Values) -> dict[str, Any]:
    """Nest values by section as in files: ``{"train.lr": 1}`` becomes ``{"train": {"lr": 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        place = nested.setdefault(section, {}) if section else nested
        place[name] = value
    return nested
