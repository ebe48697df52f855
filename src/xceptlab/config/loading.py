"""From YAML files and dotted overrides to checked dataclasses, in LightningCLI's syntax.

``-c FILE`` may be repeated; a shipped file is found from anywhere. The files and ``--section.field value`` overrides are layers
of values by dotted key, of which the last one wins, and every value knows what gave it. Whatever is wrong becomes a ``Refused``
of one line that names the file, the key, the value and what is allowed.
"""

import difflib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from xceptlab import register
from xceptlab.config import shipped
from xceptlab.config.fields import FieldError, Misread, MissingKey, Section, UnknownKey, in_words, type_error
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused

T = TypeVar("T", bound=Section)

SYNONYMS = {
    "learning_rate": "lr", "max_epochs": "epochs", "num_epochs": "epochs", "bs": "batch_size", "wd": "weight_decay",
    "scheduler": "schedule", "amp": "precision", "activation": "intermediate", "blocks": "middle_blocks", "dataset": "name",
    "img_size": "size", "image_size": "size", "num_workers": "workers", "device": "accelerator",
}  # fmt: skip
"""What fields are called elsewhere."""
OPTIONS = "model.options"
"""The mapping whose own keys are a registered family's; ``model.options.depth`` is one of them."""
MOVED = {"runtime.compile": "train.compile", "runtime.deterministic": "train.deterministic"}
"""Keys in the configuration files of runs of earlier versions, and what they are called now."""


@dataclass(frozen=True)
class Layer:
    """Some values of a run's configuration, each of its field's type."""

    origin: str
    """What gave them: a file, an option such as ``--train.lr``, or an arm of a study."""
    values: dict[str, Any]
    """By dotted key."""


def load_run(args: Sequence[str] = (), *, of_run: str = "") -> RunConfig:
    """The run that layers and overrides such as ``["-c", "configs/data/digits.yaml", "--train.lr", "0.05"]`` describe.

    ``--print_config`` prints it and exits.

    Args:
        args: As on the command line.
        of_run: The configuration that a run's folder holds, as a layer below; it may come from anywhere, and names no code.

    Raises:
        Refused: One line, for anything that is not as the schema allows.
    """
    config = resolve([*([_run_layer(of_run)] if of_run else []), *layers(args)])
    if ("print_config", None) in overrides(args):
        print(dump(config), end="", flush=True)
        raise SystemExit(0)
    return config


def overrides(args: Sequence[str]) -> list[tuple[str, str | None]]:
    """Layers, ``("config", FILE)``, and overrides, ``("train.lr", "0.05")``, in their order; None where a value is missing."""
    pieces = iter(args)
    found: list[tuple[str, str | None]] = []
    for piece in pieces:
        flag, equals, value = piece.partition("=")
        key = "config" if flag == "-c" else flag.removeprefix("--")
        if equals:
            found.append((key, value))
        elif key == "print_config":
            found.append((key, None))
        else:
            found.append((key, next(pieces, None)))
    return found


def layers(args: Sequence[str]) -> list[Layer]:
    """What the files and overrides of a command line give, each a layer; every file is read once."""
    return [_of_argument(key, text) for key, text in overrides(args) if (key, text) != ("print_config", None)]


def _of_argument(key: str, text: str | None) -> Layer:
    if key == "config":
        if not text:
            raise Refused("argument -c/--config: expected one argument")
        return file_layer(str(shipped.find(text)))
    if text is None and key in keys(RunConfig):
        raise Refused(f"argument --{key}: expected one argument")
    return layer({key: text}, f"--{key}")


def file_layer(file: str) -> Layer:
    """What a YAML file gives, with ``MOVED`` keys where they are now."""
    from xceptlab.config import strict_yaml  # which takes some time that --help and errors need not wait for

    return layer(strict_yaml.read(file), file, MOVED)


def _run_layer(file: str) -> Layer:
    """What the configuration in a run's folder gives.

    Raises:
        Refused: It asks for code to be executed, which ``dump_run`` never writes.
    """
    found = file_layer(file)
    if found.values.get("extensions"):
        raise Refused(f"{file}: names extensions; a run's folder may not, as they are executed: name them with --extensions")
    return found


def layer(values: Mapping[Any, Any], origin: str, moved: Mapping[str, str] | None = None) -> Layer:
    """Values, by keys that are dotted or nested, as a layer.

    Raises:
        Refused: A key is not known or given twice, or a value is not of its field's type; the line names the origin.
    """
    known = keys(RunConfig)
    checked: dict[str, Any] = {}
    for given, value in _dotted(values):
        key = (moved or {}).get(given, given)
        if key.startswith(f"{OPTIONS}."):
            value = _as_option(value, key, origin)
        elif key not in known:
            fields_alone = [name for name, kind in known.items() if not is_dataclass(kind)]
            raise unknown(key, fields_alone).within(origin)
        else:
            value = _as_needed(known[key], value, key, origin)
            if key == "extensions":
                value = register.located([value] if isinstance(value, str) else value, _folder(origin))
            if error := type_error(known[key], value, key):
                raise error.within(origin)
        found = {key: value}
        if key == OPTIONS and value:  # without any, it drops those of the layers before
            found = {f"{OPTIONS}.{name}": option for name, option in value.items()}
        for name, one in found.items():
            if name in checked:
                raise Refused(f"{origin}: the key {name} stands there twice")
            checked[name] = one
    return Layer(origin, checked)


def _dotted(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"train": {"lr": 1}}`` as ``("train.lr", 1)``; what should be a section and is no mapping, as it is."""
    known = keys(RunConfig)
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = is_dataclass(known[key]) if key in known else bool(value)  # of a strange one the keys are told
        if is_section and isinstance(value, dict):
            yield from _dotted(value, f"{key}.")
        else:
            yield key, value


def _as_needed(kind: Any, value: Any, key: str, origin: str) -> Any:
    """A value as it is; text in the place of a number, a list or the like is read as YAML, wherever it comes from."""
    if kind is str or is_dataclass(kind) or not isinstance(value, str) or not value.strip():
        return value
    if type_error(kind, value, key) is None:  # one of several words
        return value
    from xceptlab.config import strict_yaml

    try:
        return strict_yaml.value_of(value)
    except strict_yaml.Trap as trap:
        raise Misread(key, value, trap.problem).within(origin) from None


def _as_option(value: Any, key: str, origin: str) -> Any:
    """An option of a family, whose type only the family knows: text of the command line is read as YAML."""
    return _as_needed(int, value, key, origin) if origin == f"--{key}" else value


def _folder(origin: str) -> Path:
    """Where the files lie that a layer names: beside a configuration file, or else in the working directory."""
    return Path(origin).parent if Path(origin).is_file() else Path()


def resolve(layers: Iterable[Layer]) -> RunConfig:
    """The run that layers describe, of which the last one wins; the modules that any of them names are all loaded.

    Raises:
        Refused: A value is impossible beside the others; the line names what gave it and them.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    extensions: dict[str, None] = {}
    for each in layers:
        _overlay(values, each.values)
        origins |= dict.fromkeys(each.values, each.origin)
        extensions |= dict.fromkeys(each.values.get("extensions", ()))
    if extensions:
        register.load(extensions)
        values["extensions"] = list(extensions)
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    try:
        return _build(RunConfig, nested)
    except FieldError as error:
        raise error.traced(values, origins) from None


def _overlay(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add a layer to values by dotted key; an option of a family replaces that option alone."""
    for key, value in more.items():
        if key.startswith(f"{OPTIONS}."):
            values[OPTIONS] = {**values.get(OPTIONS, {}), key.removeprefix(f"{OPTIONS}."): value}
        else:
            values[key] = value


def dump(config: RunConfig) -> str:
    """A run's configuration as YAML, which reads back as it is."""
    from xceptlab.config import strict_yaml

    return strict_yaml.dump(config.to_dict())


def dump_run(config: RunConfig) -> str:
    """A run's configuration as its folder keeps it: code that it used is told of, and never executed by who reads the file."""
    from xceptlab.config import strict_yaml

    values = config.to_dict()
    modules = json.dumps(values.pop("extensions", []))
    used = ", ".join(f"{name} {version}" for name, version in config.from_outside().items())
    remark = f"# Uses {used} from outside; to read this file, add --extensions={modules}\n" if used else ""
    return remark + strict_yaml.dump(values)


def load_file(schema: type[T], file: str, section: str = "") -> T:
    """An instance of the dataclass ``schema`` from a YAML file or from one of its sections; ``Refused`` as of ``load_run``."""
    from xceptlab.config import strict_yaml

    values: Any = strict_yaml.read(file)
    if section:
        values = values.get(section, {})
        if not isinstance(values, dict):
            raise FieldError(section, values, "a mapping").within(file)
    try:
        return _build(schema, values)
    except Refused as error:
        raise error.within(file) from None


def _build(schema: Any, values: Any) -> Any:
    """The dataclass, and those in it, from nested plain values; what is no mapping is left for the schema to judge."""
    if not isinstance(values, dict):
        return values
    known = {f.name: f for f in fields(schema)}
    for key in values:
        if key not in known:
            raise unknown(f"{schema.PREFIX}{key}", [schema.PREFIX + name for name in known])
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise MissingKey(schema.PREFIX + name, None, in_words(f.type))
    return schema(**{name: _part(known[name], value) for name, value in values.items()})


def _part(f: Field[Any], value: Any) -> Any:
    part = next((kind for kind in (f.type, *get_args(f.type)) if is_dataclass(kind)), None)
    if part is None or get_origin(f.type) is not list:
        return _build(part, value) if part else value
    if not isinstance(value, list):
        return value
    items = []
    for number, item in enumerate(value, start=1):
        try:
            items.append(_build(part, item))
        except Refused as error:
            name = repr(item["id"]) if isinstance(item.get("id"), str) else number
            raise error.within(f"{f.name.removesuffix('s')} {name}") from None
    return items


@functools.cache
def keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """The dotted keys of a schema, those of its sections among them, with their types."""
    found: dict[str, Any] = {}
    for f in fields(schema):
        found[prefix + f.name] = f.type
        if isinstance(f.type, type) and is_dataclass(f.type):
            found |= keys(f.type, f"{prefix}{f.name}.")
    return found


def unknown(key: str, known: Iterable[str]) -> UnknownKey:
    """The error of a key that is not known, with the one that was probably meant."""
    known = list(known)
    near = [*synonyms(key, known), *difflib.get_close_matches(key, known, n=1)]
    there = f"there are {', '.join(known)}" if len(known) < 12 else "xceptlab train --help explains the keys"
    return UnknownKey(key, None, f"did you mean {near[0]}?" if near else there)


def synonyms(key: str, known: Iterable[str]) -> list[str]:
    """Other known keys of the same last part, or of what it is called elsewhere."""
    last = key.rpartition(".")[2]
    return [other for other in known if other != key and other.rpartition(".")[2] == SYNONYMS.get(last, last)]
