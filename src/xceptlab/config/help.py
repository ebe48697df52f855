"""The help of ``xceptlab train --help``, and the meaning of every field: the docstring below it in
the source. The JSON Schemas show these docstrings, too.
"""

import ast
import functools
import inspect
import itertools
import json
import shutil
import sys
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from xceptlab.config.field_types import in_words
from xceptlab.config.schema import RunConfig

USAGE = """\
usage: xceptlab train [-c FILE ...] [--SECTION.FIELD VALUE ...]

Train, evaluate and record one run. Layers of configuration apply in the order
in which they stand; the last one wins.

options:
  -h, --help            show this help message and exit
  -c FILE, --config FILE
                        a layer of configuration, a YAML file; repeatable
  --print_config        print the resulting configuration and exit
"""
"""Beginning of the help, above that of the fields."""
WIDEST = 110
"""Largest width of the help, in columns; longer lines are hard to read."""


def print_help() -> None:
    """Print the help of ``xceptlab train``: each field of a run with the allowed values, the
    default and the meaning, section by section.
    """
    columns = min(shutil.get_terminal_size().columns, WIDEST)
    lines = [USAGE]
    for f in fields(RunConfig):
        if is_dataclass(f.type):
            meaning = " ".join((f.type.__doc__ or "").split())
            lines += textwrap.wrap(f"{f.name}: {meaning}", columns)
            lines += _options(f.type, columns)
            lines.append("")
    lines += _options(RunConfig, columns)
    print("\n".join(lines))


def _options(section: Any, columns: int) -> list[str]:
    """Format the help of a section's fields: lines of at most so many columns, each field's option
    with its meaning below. Fields that are sections themselves are left out.
    """
    meanings = docstrings(section)
    lines = []
    for f in fields(section):
        if not is_dataclass(f.type):
            option = f"--{section.PREFIX}{f.name}: {in_words(f.type)} (default: {_default(f)})"
            lines += _wrapped(option, columns, "  ")
            lines += _wrapped(meanings[f.name], columns, "      ")
    return lines


def _default(f: Field[Any]) -> str:
    """Format a field's default as one would write it on the command line."""
    value = f.default if f.default_factory is MISSING else f.default_factory()
    if isinstance(value, str) and value:
        return value
    return json.dumps(value)


def _wrapped(text: str, columns: int, indent: str) -> list[str]:
    """Wrap a text into lines of at most so many columns: ``indent`` begins the first line, 6 spaces
    begin the others.
    """
    return textwrap.wrap(
        text, columns, initial_indent=indent, subsequent_indent="      ", break_on_hyphens=False
    )


def docstrings(schema: Any) -> dict[str, str]:
    """Return the meaning of each field of a dataclass, by name: the docstring below the field in
    the source, joined into one line.

    Raises:
        KeyError: A field has no docstring.
    """
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        module, name = base.__module__, base.__name__
        if is_dataclass(base):
            found |= _texts_of(module)[name]
    return {f.name: found[f.name] for f in fields(schema)}


@functools.cache
def _texts_of(module: str) -> dict[str, dict[str, str]]:
    """Read a module's source, and return the docstrings below the fields of its classes, as
    ``{class: {field: text}}``.
    """
    source = inspect.getsource(sys.modules[module])
    found = {}
    for definition in ast.parse(source).body:
        if isinstance(definition, ast.ClassDef):
            found[definition.name] = _texts_below_fields(definition.body)
    return found


def _texts_below_fields(statements: list[ast.stmt]) -> dict[str, str]:
    """Return the docstrings below the fields in the body of a class, by name; fields without one
    are left out.
    """
    texts = {}
    for above, below in itertools.pairwise(statements):
        match above, below:
            case ast.AnnAssign(target=name), ast.Expr(value=ast.Constant(value=str(text))):
                texts[ast.unparse(name)] = " ".join(text.split())
    return texts
