"""YAML without its traps: what a file or an override holds is what its reader takes it for, or is
refused.

Safe: no tags, so nothing is executed. Unlike in PyYAML, 1e-3 is a number and a date is text.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from xceptlab import files, text
from xceptlab.config.field_errors import shown
from xceptlab.errors import Refused

MOST_DIGITS = 100
"""The longest whole number that is read; one of more than some 300 digits cannot become a decimal
number.
"""
MOST_VALUES = 10_000
"""The largest number of values that a file may hold; no study comes near."""

INT = "tag:yaml.org,2002:int"
FLOAT = "tag:yaml.org,2002:float"
TIMESTAMP = "tag:yaml.org,2002:timestamp"

EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
"""A number such as 1e-3, which PyYAML reads as text."""
NUMBER_BEGINS = list("-+.0123456789")
"""The characters that a number may begin with, by which PyYAML chooses the patterns to try."""


class Trap(Refused):
    """Something that YAML allows and nobody means.

    Attributes:
        problem: What is wrong, without the line.
    """

    def __init__(self, node: Any, problem: str) -> None:
        """Make the error for a node or an event of PyYAML, whose line it names; None for the
        document as a whole.
        """
        place = f"line {node.start_mark.line + 1}: " if node else ""
        super().__init__(place + problem)
        self.problem = problem


def read(file: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds.

    Raises:
        Refused: There is no such file, or it is no YAML of one mapping without traps; the line
            names the file.
    """
    try:
        values = parse(files.decoded(Path(file).read_bytes()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(f"{file}: {_reason(error)}") from None
    if values is None:
        raise Refused(f"{file}: holds nothing; it must hold a mapping, KEY: VALUE")
    if not isinstance(values, dict):
        raise Refused(f"{file}: holds {shown(values)}; it must hold a mapping, KEY: VALUE")
    return values


def _reason(error: Exception) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, yaml.MarkedYAMLError):
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reasons = [reason for reason in (error.context, error.problem) if reason]
        return place + ", ".join(reasons)
    return " ".join(str(error).split())


def parse(contents: str) -> Any:
    """The value that a text stands for.

    Raises:
        Trap: It holds what nobody means, or is nested too deeply.
        yaml.YAMLError: It is no YAML of one document.
    """
    loader = _Loader(contents)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_traps(root)
        return loader.construct_document(root)
    except RecursionError:
        raise Trap(None, "its values are nested too deeply") from None
    finally:
        loader.dispose()


def value_of(contents: str) -> Any:
    """The value that a text stands for, or the text itself where it is no YAML; traps are refused
    as by ``parse``.
    """
    try:
        return parse(contents)
    except yaml.YAMLError:
        return contents


def dump(values: dict[str, Any]) -> str:
    """Values as YAML, which ``parse`` reads back as they are."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


# ---- scalars -------------------------------------------------------------------------------------


def _patterns_without_dates() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's patterns of scalars by their first character, without those of dates."""
    patterns = {}
    for first, of_first in yaml.SafeLoader.yaml_implicit_resolvers.items():
        patterns[first] = [(tag, pattern) for tag, pattern in of_first if tag != TIMESTAMP]
    return patterns


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without tags and dates, for which 1e-3 is a number."""

    yaml_implicit_resolvers = _patterns_without_dates()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag:  # PyYAML would raise errors of many kinds for values that do not fit it
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise Trap(event, f"a value has no tag here, such as {short}")
        return super().compose_node(parent, index)


def _number(construct: Callable[[_Loader, Any], Any]) -> Callable[[_Loader, Any], Any]:
    """PyYAML's constructor of a number, which also refuses what is no number, or what only YAML
    reads as it does.
    """

    def checked(loader: _Loader, node: Any) -> Any:
        written = node.value
        if node.tag == INT and len(written) > MOST_DIGITS:
            raise Trap(node, f"a number of {len(written)} digits is too large")
        base = _unusual_base(written)
        if base:
            raise Trap(
                node,
                f"{written} would be read in base {base}; write a decimal number, or text in quotes",
            )
        try:
            number = construct(loader, node)
        except ValueError:
            raise Trap(
                node, f"{written} looks like a number and is none; text stands in quotes"
            ) from None
        if "_" in written:
            raise Trap(
                node,
                f"{written} would be read as {number}; write the number without _, or text in quotes",
            )
        return number

    return checked


def _unusual_base(number: str) -> int:
    """The base, 8 or 60, in which only YAML reads a number; 0 for all others, such as 0x1F and
    0b11, which are read as usual.
    """
    if ":" in number:
        return 60
    if re.fullmatch(r"[-+]?0[0-7_]+", number):
        return 8
    return 0


_Loader.add_implicit_resolver(FLOAT, EXPONENT, NUMBER_BEGINS)
_Loader.add_constructor(FLOAT, _number(yaml.SafeLoader.construct_yaml_float))
_Loader.add_constructor(INT, _number(yaml.SafeLoader.construct_yaml_int))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that ``parse`` would read as a number."""


_Dumper.add_implicit_resolver(FLOAT, EXPONENT, NUMBER_BEGINS)


# ---- keys and aliases ----------------------------------------------------------------------------


def _refuse_traps(root: Any) -> None:
    """Refuse keys that are given twice or are no text, and aliases without end.

    Of two equal keys the last would win, so that an arm could vanish without a word. An alias may
    stand for a value that it is in itself, or nested ones for more values than memory holds.
    """
    for count, node in enumerate(_nodes(root, ()), start=1):
        if count > MOST_VALUES:
            raise Trap(node, f"its aliases stand for more than {MOST_VALUES:,} values")
        if node.id == "mapping":
            _refuse_bad_keys(node, outermost=node is root)


def _nodes(node: Any, above: tuple[Any, ...]) -> Iterator[Any]:
    """Iterate over a node and all nodes in it; a node with aliases comes once for each of them."""
    if any(node is other for other in above):
        raise Trap(node, "an alias stands in the value that it stands for")
    yield node
    for child in _children(node):
        yield from _nodes(child, (*above, node))


def _children(node: Any) -> list[Any]:
    """Child nodes of a node: the items of a list, the keys and values of a mapping, none for a
    scalar.
    """
    if node.id == "sequence":
        return node.value
    if node.id == "mapping":
        return [child for pair in node.value for child in pair]
    return []


def _refuse_bad_keys(mapping: Any, outermost: bool) -> None:
    """Refuse a key that a mapping has twice, or that is no text."""
    names: set[str] = set()
    for key, _ in mapping.value:
        _refuse_key_that_is_no_text(key, outermost)
        if key.value in names:
            raise Trap(key, f"the key {text.shortened(key.value, 100)} stands there twice")
        names.add(key.value)


def _refuse_key_that_is_no_text(key: Any, outermost: bool) -> None:
    """Refuse a key that is a list, a mapping or null, and in the outermost mapping also a number, a
    date or the like.

    Further in they are left to the schema, which names their place.
    """
    if key.id == "sequence":
        raise Trap(key, "a key is a list; it must be text")
    if key.id == "mapping":
        raise Trap(key, "a key is a mapping; it must be text")
    is_text = key.tag.endswith((":str", ":merge"))
    is_null = key.tag.endswith(":null")
    if is_null or (outermost and not is_text):
        found = text.shortened(key.value, 100) or "null"
        raise Trap(key, f"a key is {found}; it must be text")
