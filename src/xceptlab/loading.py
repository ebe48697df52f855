"""From YAML layers and dotted overrides to checked dataclasses, in LightningCLI's syntax; the one file that knows jsonargparse.

``-c FILE`` may be repeated; the files and ``--section.field value`` overrides apply in the order in which they stand, the last
one wins. Whatever is wrong becomes a ``ValueError`` of one line that names the file, the key, the value and what is allowed.
"""

import contextlib
import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from xceptlab.schema import RunConfig

if TYPE_CHECKING:  # jsonargparse takes a quarter of a second, which --help and errors need not wait for
    from jsonargparse import ArgumentParser

T = TypeVar("T")


def load_run(args: Sequence[str] = (), command: str = "train") -> RunConfig:
    """The run that layers and overrides such as ``["-c", "configs/data/digits.yaml", "--train.lr", "0.05"]`` describe."""
    return parse(RunConfig, args, command)


def parse(schema: type[T], args: Sequence[str], command: str) -> T:
    """An instance of the dataclass ``schema`` from command-line arguments; ``--help`` and ``--print_config`` print and exit.

    Raises:
        ValueError: One line, for anything that is not as the schema allows.
    """
    given = overrides(args)
    try:
        return _attempt(schema, given, command)
    except ValueError as error:
        raise ValueError(_culprit(schema, given, command, str(error)) + str(error)) from None


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


def _attempt(schema: type[T], given: list[tuple[str, str | None]], command: str) -> T:
    from jsonargparse import ArgumentError, Namespace

    for key, file in given:
        if key == "config" and file and Path(file).is_file():
            _refuse_duplicates(Path(file))
    args = [f"--{key}" if value is None else f"--{key}={value}" for key, value in given]
    try:
        values = _parser(schema, command).parse_args(args)  # type: ignore[arg-type]  # a class is hashable
    except UnicodeDecodeError as error:
        raise ValueError(f"not a text in UTF-8 ({error.reason} at byte {error.start})") from None
    except ArgumentError as error:
        raise ValueError(_one_line(str(error), _keys(schema))) from None
    values.pop("config")
    return _build(schema, values.as_dict() if isinstance(values, Namespace) else values)


def _refuse_duplicates(file: Path) -> None:
    """YAML readers let the last of two equal keys win, so that an arm could vanish without a word."""
    import yaml

    def walk(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
                raise ValueError(f"line {node.start_mark.line + 1}: the key {twice[0]} stands there twice")
        for child in node.value if isinstance(node, yaml.CollectionNode) else []:
            for item in child if isinstance(child, tuple) else [child]:
                walk(item)

    with contextlib.suppress(yaml.YAMLError, UnicodeError):  # the parser says these better
        walk(yaml.compose(file.read_bytes(), yaml.SafeLoader))


@functools.cache
def _parser(schema: type, command: str) -> "ArgumentParser":
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
    parser.add_class_arguments(schema, None)
    return parser


def _build(schema: Any, values: Any, key: str = "") -> Any:
    """The dataclass from nested plain values, which the parser has checked one by one."""
    if not isinstance(values, dict):
        raise ValueError(f"{key}: {values!r} is not allowed; it must be a mapping with keys of {', '.join(_keys(schema))}")
    built = {}
    for f in fields(schema):
        value = values[f.name]
        inner = (get_args(f.type) or (None,))[0]
        if is_dataclass(f.type):
            value = _build(f.type, value, f.name)
        elif is_dataclass(inner) and isinstance(value, list):  # list[Claim]
            value = [_build(inner, item.as_dict() if hasattr(item, "as_dict") else item, f.name) for item in value]
        built[f.name] = value
    return schema(**built)


def _keys(schema: Any, prefix: str = "") -> list[str]:
    keys = []
    for f in fields(schema):
        keys += _keys(f.type, f"{prefix}{f.name}.") if is_dataclass(f.type) else [prefix + f.name]
        keys += [key for inner in get_args(f.type) if is_dataclass(inner) for key in _keys(inner)]  # list[Claim]
    return keys


def _culprit(schema: type, given: list[tuple[str, str | None]], command: str, message: str) -> str:
    """``FILE: `` when one of the files by itself is refused with the same message, else nothing."""
    for key, file in given:
        if key == "config":
            try:
                _attempt(schema, [(key, file)], command)
            except ValueError as error:
                if str(error) == message:
                    return f"{file}: "
    return ""


def _one_line(message: str, keys: list[str]) -> str:
    """jsonargparse's message in our form: what, where, what is allowed."""
    if unknown := re.search(
        r"(?:Group '(?P<group>[\w.]+)' does not accept option|Option|unrecognized arguments:) ?'?(?:--)?(?P<key>[^\s'=]+)",
        message,
    ):
        key = f"{unknown['group']}.{unknown['key']}" if unknown["group"] else unknown["key"]
        near = difflib.get_close_matches(key, keys, n=1)
        return f"{key}: there is no such key" + (f"; did you mean {near[0]}?" if near else "; see --help for the keys")
    if wrong := re.search(r'Parser key "(?P<key>[^"]+)":\s*Expected an? (?P<type>.+)\. Got value: (?P<value>.*)', message, re.S):
        allowed = wrong["type"].removeprefix("typing.").removeprefix("<class '").removesuffix("'>")
        if allowed.startswith("Literal"):
            allowed = "one of " + allowed.removeprefix("Literal").strip("[]").replace("'", "")
        else:
            allowed = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}.get(allowed, allowed)
        return f"{wrong['key']}: {wrong['value'].strip()!r} is not allowed; it must be {allowed}"
    if message.startswith("Unexpected config"):
        return f"holds {message.partition(':')[2].strip() or 'nothing'!r}; it must hold keys such as {keys[0]}"
    return " ".join(message.replace('Parser key "config": ', "").split())
