"""From the command line and YAML files to checked dataclasses and back, in LightningCLI's syntax.

``-c FILE`` may be repeated; a shipped file is found from anywhere. Files and
``--section.field value`` overrides are layers, of which the last one wins. Whatever is wrong
becomes a ``Refused`` of one line that names the file, the key, the value and what is allowed.
"""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from xceptlab.config import shipped
from xceptlab.config.field_errors import FieldError
from xceptlab.config.fields import Section, from_values, keys
from xceptlab.config.layers import Layer, file_layer, layer, resolve
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused

T = TypeVar("T", bound=Section)

PRINT_CONFIG = ("print_config", None)
"""The option ``--print_config`` as ``overrides`` returns it: print the run's configuration and
exit.
"""


# ---- a run ---------------------------------------------------------------------------------------


def load_run(args: Sequence[str] = (), *, of_run: str = "") -> RunConfig:
    """Load the run that arguments such as
    ``["-c", "configs/data/digits.yaml", "--train.lr", "0.05"]`` describe.

    ``--print_config`` prints it and exits.

    Args:
        args: Files and overrides, as on the command line.
        of_run: The config.yaml of a run, as the lowest layer; since it may come from anyone, it
            must not name code.

    Raises:
        Refused: One line, for anything that is not as the schema allows.
    """
    below = [_run_layer(of_run)] if of_run else []
    config = resolve([*below, *layers_of(args)])
    if PRINT_CONFIG in overrides(args):
        print(dump(config), end="", flush=True)
        raise SystemExit(0)
    return config


def overrides(args: Sequence[str]) -> list[tuple[str, str | None]]:
    """Split arguments into pairs, ``("config", FILE)`` or ``("train.lr", "0.05")``, in their order;
    None for a missing value.
    """
    found: list[tuple[str, str | None]] = []
    pieces = iter(args)
    for piece in pieces:
        flag, equals, value = piece.partition("=")
        key = "config" if flag == "-c" else flag.removeprefix("--")
        if equals:
            found.append((key, value))
        elif key == "print_config":
            found.append(PRINT_CONFIG)
        else:
            found.append((key, next(pieces, None)))
    return found


def layers_of(args: Sequence[str]) -> list[Layer]:
    """Make a layer from each file and override of a command line; every file is read once."""
    found = []
    for key, text in overrides(args):
        if (key, text) != PRINT_CONFIG:
            found.append(_layer_of_argument(key, text))
    return found


def _layer_of_argument(key: str, text: str | None) -> Layer:
    if key == "config":
        if not text:
            raise Refused("argument -c/--config: expected one argument")
        return file_layer(str(shipped.find(text)))
    if text is None and key in keys(RunConfig):
        raise Refused(f"argument --{key}: expected one argument")
    return layer({key: text}, f"--{key}")


def _run_layer(file: str) -> Layer:
    """Read the configuration in a run's folder as a layer.

    Raises:
        Refused: It asks for code to be executed, which ``dump_run`` never writes.
    """
    found = file_layer(file)
    if found.values.get("extensions"):
        raise Refused(
            f"{file}: names extensions; a run's folder may not, as they are executed: name them with --extensions"
        )
    return found


def dump(config: RunConfig) -> str:
    """Format a run's configuration as YAML, from which the same configuration can be loaded."""
    # which takes some time that --help and errors need not wait for
    from xceptlab.config import strict_yaml

    return strict_yaml.dump(config.to_dict())


def dump_run(config: RunConfig) -> str:
    """Format a run's configuration for its folder: the user's modules stand in a comment, so that
    no reader executes them.
    """
    from xceptlab.config import strict_yaml

    values = config.to_dict()
    modules = json.dumps(values.pop("extensions", []))
    contents = strict_yaml.dump(values)
    used = [f"{name} {version}" for name, version in config.registered_versions().items()]
    if not used:
        return contents
    return f"# Uses {', '.join(used)} from outside; to read this file, add --extensions={modules}\n{contents}"


# ---- other files ---------------------------------------------------------------------------------


def load_file(schema: type[T], file: str, section: str = "") -> T:
    """Load the dataclass ``schema`` from a YAML file, or from one of its sections; raises
    ``Refused`` as ``load_run`` does.
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
