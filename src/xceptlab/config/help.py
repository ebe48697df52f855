"""What every field of a configuration means: the docstring below it, for ``xceptlab train --help``
and the JSON Schemas.
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
WIDEST = 110
"""Largest width of the help, in columns; longer lines are hard to read."""


def print_help() -> None:
    """Print every field of a run with what is allowed, its default and its meaning, section by
    section.
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
    """Lines of help for a section: each field's option with its meaning below; nested sections are
    left out.
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
    """A field's default as one would write it on the command line."""
    value = f.default if f.default_factory is MISSING else f.default_factory()
    if isinstance(value, str) and value:
        return value
    return json.dumps(value)


def _wrapped(text: str, columns: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, columns, initial_indent=indent, subsequent_indent="      ", break_on_hyphens=False
    )


def docstrings(schema: Any) -> dict[str, str]:
    """Meaning of each field of a dataclass, by name: the text below the field in the source, joined
    into one line.
    """
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        module, name = base.__module__, base.__name__
        if is_dataclass(base):
            found |= _texts_of(module)[name]
    return {f.name: found[f.name] for f in fields(schema)}


@functools.cache
def _texts_of(module: str) -> dict[str, dict[str, str]]:
    """Texts below the fields of a module's classes, as ``{class: {field: text}}``."""
    source = inspect.getsource(sys.modules[module])
    found = {}
    for definition in ast.parse(source).body:
        if isinstance(definition, ast.ClassDef):
            found[definition.name] = _texts_below_fields(definition.body)
    return found


def _texts_below_fields(statements: list[ast.stmt]) -> dict[str, str]:
    """Texts below the fields in the body of a class, by name; fields without a text are left out."""
    texts = {}
    for above, below in itertools.pairwise(statements):
        match above, below:
            case ast.AnnAssign(target=name), ast.Expr(value=ast.Constant(value=str(text))):
                texts[ast.unparse(name)] = " ".join(text.split())
    return texts
