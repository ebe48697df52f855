"""What every field of a configuration means: the docstring below it, for ``xceptlab train --help`` and the JSON Schemas."""

import ast
import functools
import inspect
import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from xceptlab.config.fields import in_words
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
"""Columns of a text that is easily read."""


def print_help() -> None:
    """Print every field of a run with what is allowed, its default and its meaning, section by section."""
    columns = min(shutil.get_terminal_size().columns, WIDEST)
    lines = [USAGE]
    for f in fields(RunConfig):
        if is_dataclass(f.type):
            about = f"{f.name}: {' '.join((f.type.__doc__ or '').split())}"
            lines += [*textwrap.wrap(about, columns), *_options(f.type, columns), ""]
    lines += _options(RunConfig, columns)
    print("\n".join(lines))


def _options(section: Any, columns: int) -> Iterator[str]:
    """Of each field of a section that is no section itself the option, and its meaning in further lines."""
    meanings = docstrings(section)
    for f in fields(section):
        if not is_dataclass(f.type):
            value = f.default if f.default_factory is MISSING else f.default_factory()
            default = value if isinstance(value, str) and value else json.dumps(value)
            option = f"--{section.PREFIX}{f.name}: {in_words(f.type)} (default: {default})"
            yield from _wrapped(option, columns, "  ")
            yield from _wrapped(meanings[f.name], columns, "      ")


def _wrapped(text: str, columns: int, indent: str) -> list[str]:
    return textwrap.wrap(text, columns, initial_indent=indent, subsequent_indent="      ", break_on_hyphens=False)


def docstrings(schema: Any) -> dict[str, str]:
    """By name of a dataclass's field the text that stands below it in the source, in one line."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        module, name = base.__module__, base.__name__
        if is_dataclass(base):
            found |= _texts_of(module)[name]
    return {f.name: found[f.name] for f in fields(schema)}


@functools.cache
def _texts_of(module: str) -> dict[str, dict[str, str]]:
    """By class of a module the texts below its fields, by name."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for definition in tree.body:
        if isinstance(definition, ast.ClassDef):
            found[definition.name] = dict(_texts_below_fields(definition.body))
    return found


def _texts_below_fields(statements: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for above, below in itertools.pairwise(statements):
        if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield ast.unparse(above.target), " ".join(str(below.value.value).split())
