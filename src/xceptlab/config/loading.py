"""Load configurations from the command line and YAML files, in LightningCLI's syntax, and write
them as YAML.

``-c FILE`` may be repeated; a file that is shipped with xceptlab is found from any folder. Files
and ``--section.field value`` overrides are layers: of a key that several layers give, the last
value counts, except that the modules in ``extensions`` are collected from all layers. Whatever
cannot be used is raised as a ``Refused`` of one line; for a value that is not allowed, the line
names the value, its key, the file that it comes from, if any, and what is allowed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from xceptlab.config import options, shipped
from xceptlab.config.field_errors import FieldError
from xceptlab.config.fields import Section, from_values, keys
from xceptlab.config.layers import Layer, Origin, file_layer, layer, resolve
from xceptlab.config.schema import RunConfig, RuntimeConfig
from xceptlab.errors import Refused

T = TypeVar("T", bound=Section)


@dataclass(frozen=True)
class Value:
    """A value that Python gives for a key, in the place of an option of the command line."""

    key: str
    """The dotted key, such as ``train.lr``."""
    value: Any
    """The value: text, a number, true or false, None, or a list or mapping of such."""

    @property
    def text(self) -> str:
        """The value as one would type it: text as it is, anything else as JSON. Options of a model
        family are read as YAML, so that text which YAML takes for something else is in quotes.
        """
        from xceptlab.config import strict_yaml

        is_text = isinstance(self.value, str)
        if is_text and (not options.is_option(self.key) or strict_yaml.is_text(self.value)):
            return str(self.value)
        return strict_yaml.as_json(self.value)

    @property
    def option(self) -> str:
        """The option that one would type, such as ``--train.lr=0.05``."""
        return f"--{self.key}={self.text}"


Argument = str | Value
"""A piece of a command line, or a value that Python gives in the place of an option."""

PRINT_CONFIG = ("print_config", None)
"""The option ``--print_config``, which prints the run's configuration and exits, as ``overrides``
returns it.
"""


# ---- a run ---------------------------------------------------------------------------------------


def load_run(args: Sequence[Argument] = (), *, of_run: str = "") -> RunConfig:
    """Load the configuration of a run from arguments such as
    ``["-c", "configs/data/digits.yaml", "--train.lr", "0.05"]``.

    With ``--print_config`` among the arguments the configuration is printed, and the process exits
    with code 0.

    Args:
        args: Files and overrides, as on the command line or as values.
        of_run: Path of the config.yaml in a run's folder, below all other layers. As it may come
            from anyone, it must not name code. Empty for none.

    Raises:
        Refused: A file cannot be read, a module of ``extensions`` cannot be loaded, or a key or a
            value is not as the schema allows.
    """
    below = [_run_layer(of_run)] if of_run else []
    config = resolve([*below, *layers_of(args)])
    if PRINT_CONFIG in overrides(args):
        print(dump(config), end="", flush=True)
        raise SystemExit(0)
    return config


def outputs_of(args: Sequence[Argument]) -> Path:
    """Return the outputs folder (``runtime.outputs``) that arguments ask for, or else the default
    one. The arguments alone need not make a valid configuration: they may be overrides of that of a
    run which is yet to be found in this folder.

    Raises:
        Refused: A file cannot be read, a key is unknown, or a value is missing or not of its type.
    """
    folder = RuntimeConfig.outputs
    for one in layers_of(args):
        folder = one.values.get("runtime.outputs", folder)
    return Path(os.path.expanduser(folder))


def overrides(args: Sequence[Argument]) -> list[tuple[str, str | None]]:
    """Split arguments into pairs of text such as ``("config", FILE)`` and ``("train.lr", "0.05")``,
    in their order.

    The second element is None for ``--print_config``, and where the value is missing.
    """
    pairs = []
    for key, given in _split(args):
        pairs.append((key, given.text if isinstance(given, Value) else given))
    return pairs


def _split(args: Sequence[Argument]) -> list[tuple[str, Argument | None]]:
    """Split arguments into pairs of a key, ``config`` for a file, and the text that was given for
    it or the ``Value`` that Python gives, in their order.

    The second element is None for ``--print_config``, and where the value is missing.
    """
    found: list[tuple[str, Argument | None]] = []
    pieces = iter(args)
    for piece in pieces:
        if isinstance(piece, Value):
            found.append((piece.key, piece))
            continue
        flag, equals, value = piece.partition("=")
        key = "config" if flag == "-c" else flag.removeprefix("--")
        if equals:
            found.append((key, value))
        elif key == "print_config":
            found.append(PRINT_CONFIG)
        else:
            found.append((key, next(pieces, None)))
    return found


def layers_of(args: Sequence[Argument]) -> list[Layer]:
    """Read each file and override as a layer, in their order; ``--print_config`` is passed over.

    Raises:
        Refused: A file cannot be read, a key is unknown, or a value is missing or not of its type.
    """
    found = []
    for key, given in _split(args):
        if isinstance(given, Value):
            found.append(layer({key: given.value}, Origin.of_value(key)))
        elif (key, given) != PRINT_CONFIG:
            found.append(_typed_layer(key, given))
    return found


def _typed_layer(key: str, text: str | None) -> Layer:
    """Make the layer of one file or override that was typed on the command line.

    Args:
        key: ``config`` for a file, else the dotted key.
        text: The file's path or the key's value; None where it is missing.

    Raises:
        Refused: The file cannot be read, the key is unknown, or the value is missing or not of its
            type.
    """
    if key == "config":
        if not text:
            raise Refused("argument -c/--config: expected one argument")
        return file_layer(str(shipped.find(text)))
    if text is None and (key in keys(RunConfig) or options.is_option(key)):
        raise Refused(f"argument --{key}: expected one argument")
    return layer({key: text}, Origin.of_option(key))


def _run_layer(file: str) -> Layer:
    """Read the config.yaml in a run's folder as a layer.

    Raises:
        Refused: The file cannot be read, is no configuration of a run, or names modules to be
            executed (``extensions``), which ``dump_run`` never writes.
    """
    found = file_layer(file)
    if found.values.get("extensions"):
        raise Refused(
            f"{file}: names extensions; a run's folder may not, as they are executed: name them with --extensions"
        )
    return found


def dump(config: RunConfig) -> str:
    """Format a run's configuration as YAML, from which the same configuration can be loaded."""
    # PyYAML takes a while to load, for which --help and errors need not wait.
    from xceptlab.config import strict_yaml

    return strict_yaml.dump(config.to_dict())


def dump_run(config: RunConfig) -> str:
    """Format a run's configuration as the config.yaml of its folder.

    The user's modules (``extensions``) are left out, so that nobody who reads the file executes
    them. If the run uses registered components, a comment names the components and the modules.
    """
    from xceptlab.config import strict_yaml

    values = config.to_dict()
    modules = values.pop("extensions", [])
    contents = strict_yaml.dump(values)
    used = [f"{name} {version}" for name, version in config.registered_versions().items()]
    if not used:
        return contents
    hint = "registered by an installed package or in the process, and by no module of extensions"
    if modules:
        hint = f"to read this file, add --extensions={strict_yaml.as_json(modules)}"
    return f"# Uses {', '.join(used)} from outside; {hint}\n{contents}"


# ---- other files ---------------------------------------------------------------------------------


def load_file(schema: type[T], file: str, section: str = "") -> T:
    """Load a dataclass from a YAML file.

    Args:
        schema: The dataclass.
        file: Path of the file.
        section: Key of the file whose mapping holds the fields; empty for the whole file. A file
            without this key gives the defaults.

    Raises:
        Refused: The file cannot be read, or a key or value is not as the dataclass allows.
    """
    from xceptlab.config import strict_yaml

    values: Any = strict_yaml.read(file)
    if section:
        values = values.get(section, {})
        if not isinstance(values, dict):
            raise FieldError(section, values, "a mapping").within(file)
    try:
        return from_values(schema, values)
    except Refused as error:
        raise error.within(file) from None
