"""From YAML files and dotted overrides to checked dataclasses, in LightningCLI's syntax; the one file that knows jsonargparse.

``-c FILE`` may be repeated; the files and ``--section.field value`` overrides apply in the order in which they stand, the last
one wins. Whatever is wrong becomes a ``ValueError`` of one line that names the file, the key, the value and what is allowed.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from xceptlab.schema import RunConfig
from xceptlab.section import Section, in_words

if TYPE_CHECKING:  # jsonargparse takes a quarter of a second, which --help and errors need not wait for
    from jsonargparse import ArgumentParser

T = TypeVar("T", bound=Section)

SYNONYMS = {
    "learning_rate": "lr", "max_epochs": "epochs", "num_epochs": "epochs", "bs": "batch_size", "wd": "weight_decay",
    "scheduler": "schedule", "amp": "precision", "activation": "intermediate", "blocks": "middle_blocks", "dataset": "name",
    "img_size": "size", "image_size": "size", "num_workers": "workers", "device": "accelerator",
}  # fmt: skip
"""What fields are called elsewhere."""


def load_run(args: Sequence[str] = (), command: str = "train") -> RunConfig:
    """The run that layers and overrides such as ``["-c", "configs/data/digits.yaml", "--train.lr", "0.05"]`` describe.

    ``--help`` and ``--print_config`` print and exit.

    Raises:
        ValueError: One line, for anything that is not as the schema allows.
    """
    given = sorted(overrides(args), key=lambda each: each[0] == "print_config")  # it prints what stands before it
    for key, file in given:
        if key == "config" and file:
            read(file)
    try:
        return _attempt(given, command)
    except ValueError as error:
        raise ValueError(_culprit(given, command, str(error)) + str(error)) from None


def load_file(schema: type[T], file: str) -> T:
    """An instance of the dataclass ``schema`` from a YAML file; ``ValueError`` as of ``load_run``."""
    values = read(file)
    try:
        return _build(schema, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def overrides(args: Sequence[str]) -> list[tuple[str, str | None]]:
    """Layers, ``("config", FILE)``, and overrides, ``("train.lr", "0.05")``, in their order; None where a value is missing."""
    pieces = iter(args)
    found = []
    for piece in pieces:
        flag, equals, value = piece.partition("=")
        key = "config" if flag == "-c" else flag.removeprefix("--")
        alone = key in ("help", "print_config")
        found.append((key, value if equals else None if alone else next(pieces, None)))
    return found


def read(file: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ValueError: There is no such file, or it is no YAML of one mapping, in which no key stands twice.
    """
    import yaml
    from jsonargparse import get_loader  # PyYAML's safe one, but for 1e-3, which is a number

    try:
        text = Path(os.path.expanduser(file)).read_text("utf-8")
        _refuse_duplicates(yaml.compose(text, yaml.SafeLoader))
        values = get_loader("yaml")(text)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{file}: {place}{', '.join(filter(None, (error.context, error.problem)))}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(f"{file}: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: holds {'nothing' if values is None else repr(values)}; it must hold a mapping, KEY: VALUE")
    return values


def _refuse_duplicates(node: Any) -> None:
    """YAML readers let the last of two equal keys win, so that an arm could vanish without a word."""
    pairs = node.value if node and node.id == "mapping" else []
    keys = [key.value for key, _ in pairs]
    if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
        raise ValueError(f"line {node.start_mark.line + 1}: the key {twice[0]} stands there twice")
    for child in [value for _, value in pairs] or (node.value if node and node.id == "sequence" else []):
        _refuse_duplicates(child)


def _attempt(given: list[tuple[str, str | None]], command: str) -> RunConfig:
    from jsonargparse import ArgumentError

    arguments = []
    for key, value in given:
        if key == "config" and value:  # the text, which jsonargparse would read in the encoding of the terminal
            value = Path(os.path.expanduser(value)).read_text("utf-8")
        arguments.append(f"--{key}" if value is None else f"--{key}={value}")
    try:
        values = _parser(command).parse_args(arguments)
    except ArgumentError as error:
        raise ValueError(_one_line(str(error))) from None
    values.pop("config")
    return _build(RunConfig, values.as_dict())


@functools.cache
def _parser(command: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        prog=f"xceptlab {command}",
        usage="%(prog)s [-c FILE ...] [--SECTION.FIELD VALUE ...]",
    )
    parser.add_argument(
        "-c", "--config", action="config", metavar="FILE", help="A layer of configuration; repeatable, the last wins."
    )
    parser.add_class_arguments(RunConfig, None)
    return parser


def _build(schema: Any, values: Any) -> Any:
    """The dataclass, and those in it, from nested plain values; what is no mapping is left for the schema to judge."""
    if not isinstance(values, dict):
        return values
    known = {f.name: f for f in fields(schema)}
    for key in values:
        if key not in known:
            raise ValueError(unknown(f"{schema.PREFIX}{key}", [schema.PREFIX + name for name in known]))
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{schema.PREFIX}{name}: is missing; it must be {in_words(f.type)}")
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
        except ValueError as error:
            name = repr(item["id"]) if isinstance(item.get("id"), str) else number
            raise ValueError(f"{f.name.removesuffix('s')} {name}: {error}") from None
    return items


def keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """The dotted keys of a schema, those of its sections among them, with their types."""
    found: dict[str, Any] = {}
    for f in fields(schema):
        found |= {prefix + f.name: f.type} | (keys(f.type, f"{prefix}{f.name}.") if is_dataclass(f.type) else {})
    return found


def unknown(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is not known, with the one that was probably meant."""
    known = list(known)
    near = [*synonyms(key, known), *difflib.get_close_matches(key, known, n=1)]
    there = f"there are {', '.join(known)}" if len(known) < 12 else "xceptlab train --help explains the keys"
    return f"{key}: there is no such key; " + (f"did you mean {near[0]}?" if near else there)


def synonyms(key: str, known: Iterable[str]) -> list[str]:
    """Other known keys of the same last part, or of what it is called elsewhere."""
    last = key.rpartition(".")[2]
    return [other for other in known if other != key and other.rpartition(".")[2] == SYNONYMS.get(last, last)]


def _culprit(given: list[tuple[str, str | None]], command: str, message: str) -> str:
    """``FILE: `` when one of the files by itself is refused with the same message, else nothing."""
    for key, file in given:
        if key == "config" and file:
            try:
                _attempt([(key, file)], command)
            except ValueError as error:
                if str(error) == message:
                    return f"{file}: "
    return ""


def _one_line(message: str) -> str:
    """jsonargparse's message in our form: what, where, what is allowed."""
    known = keys(RunConfig)
    no_key = r"(?:Group '([\w.]+)' does not accept option|Option|unrecognized arguments:) '?(?:--)?([^\s'=]+)"
    if strange := re.search(no_key, message):
        return unknown(".".join(filter(None, strange.groups())), [key for key, kind in known.items() if not is_dataclass(kind)])
    key = ["", *re.findall(r'Parser key "([^"]+)"', message)][-1]
    wrong = re.search(r'.*(?:value:|Unable to load config) "?(.*?)"?$', message, re.S)
    if key in known and wrong:
        return f"{key}: {wrong[1]!r} is not allowed; it must be {in_words(known[key])}"
    return " ".join(message.replace('Parser key "config": ', "").split())
