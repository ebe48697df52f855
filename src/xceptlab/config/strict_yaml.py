"""YAML without its traps: a value is read as a person reads it, or refused.

Tags are refused, so nothing in a file is executed. Unlike in PyYAML, 1e-3 is a number and a date is
text.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from xceptlab import files, text
from xceptlab.config.field_errors import shown
from xceptlab.errors import Refused

MOST_DIGITS = 100
"""Largest number of digits of a whole number. Python cannot make a float of one with more than some
300 digits.
"""
MOST_VALUES = 10_000
"""Largest number of values that a file may hold, far above what any study needs. Keys, lists and
mappings count, too, and what an alias stands for counts again for each alias.
"""

# PyYAML has these names for the types of scalars.
INT = "tag:yaml.org,2002:int"
FLOAT = "tag:yaml.org,2002:float"
TIMESTAMP = "tag:yaml.org,2002:timestamp"

EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
"""Pattern of a number such as 1e-3, which PyYAML reads as text."""
NUMBER_BEGINS = list("-+.0123456789")
"""Characters that a number may begin with; PyYAML chooses by the first character which patterns it
tries.
"""


class Trap(Refused):
    """The error for something that YAML allows and nobody means, such as a key that is given twice.

    Attributes:
        problem: What is wrong, without the number of the line.
    """

    def __init__(self, node: yaml.Node | yaml.Event | None, problem: str) -> None:
        """Make the error.

        Args:
            node: A node or an event of PyYAML, whose line the error names; None for the document as
                a whole.
            problem: What is wrong, in words.
        """
        mark = node.start_mark if node else None
        place = f"line {mark.line + 1}: " if mark else ""
        super().__init__(place + problem)
        self.problem = problem


def read(file: str) -> dict[Any, Any]:
    """Read a YAML file, which must hold one mapping, and return this mapping.

    Raises:
        Refused: The file cannot be read, it is not YAML in UTF-8, it holds nothing or something
            other than a mapping, or ``parse`` refuses something in it, such as a key given twice.
            The message names the file.
    """
    try:
        contents = Path(file).read_bytes()
    # Python raises a ValueError for a name that no file can have.
    except (OSError, ValueError) as error:
        raise Refused(f"{file}: {_reason(error)}") from None
    try:
        values = parse(files.decoded(contents))
    except (Refused, yaml.YAMLError) as error:
        raise Refused(f"{file}: {_reason(error)}") from None
    if values is None:
        raise Refused(f"{file}: holds nothing; it must hold a mapping, KEY: VALUE")
    if not isinstance(values, dict):
        raise Refused(f"{file}: holds {shown(values)}; it must hold a mapping, KEY: VALUE")
    return values


def _reason(error: Exception) -> str:
    """Return in one line, which does not name the file, why it could not be read or parsed."""
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, yaml.MarkedYAMLError):
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reasons = [reason for reason in (error.context, error.problem) if reason]
        return place + ", ".join(reasons)
    return " ".join(str(error).split())


def parse(contents: str) -> Any:
    """Parse a text as YAML and return its value; None for an empty text.

    Raises:
        Trap: It holds something that YAML allows and nobody means, such as a key given twice; an
            escape in it is no character of Unicode; it holds too many values, or is nested too
            deeply.
        yaml.YAMLError: It is not YAML, or more than one document.
    """
    loader = _Loader(contents)
    try:
        root = _composed(loader)
        if root is None:
            return None
        _refuse_traps(root, loader)
        return loader.construct_document(root)
    except RecursionError:
        raise Trap(None, "its values are nested too deeply") from None
    finally:
        loader.dispose()


def _composed(loader: "_Loader") -> yaml.Node | None:
    """Return the tree of nodes of a loader's text; None for an empty text.

    Raises:
        Trap: A value has a tag, or an escape is no character of Unicode.
        yaml.YAMLError: The text is not YAML, or more than one document.
    """
    try:
        return loader.get_single_node()
    except Refused:
        raise
    # PyYAML's scanner calls chr() on the number in an escape such as "\U00110000".
    except (OverflowError, ValueError):
        raise Trap(None, "an escape in it is no character of Unicode") from None


def value_of(contents: str) -> Any:
    """Parse the text of an override as YAML and return its value: None for empty text, and the text
    itself where it is not YAML.

    Raises:
        Trap: It holds something that YAML allows and nobody means, such as a key given twice; an
            escape in it is no character of Unicode; it holds too many values, or is nested too
            deeply.
    """
    try:
        return parse(contents)
    except yaml.YAMLError:
        return contents


def is_text(contents: str) -> bool:
    """Whether a text stays the same text when it is parsed as the YAML of an override: false for
    ``5`` and ``true``, which become other values, for empty text, and for text that is refused.
    """
    try:
        return bool(value_of(contents) == contents)
    except Refused:
        return False


def dump(values: dict[str, Any]) -> str:
    """Format a mapping as YAML that ``parse`` reads back as it is. Its values must be text,
    numbers, true, false, null, or lists and mappings of these; a tuple is read back as a list.
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


# ---- scalars -------------------------------------------------------------------------------------


def _patterns_without_dates() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return PyYAML's patterns of scalars, without those of dates: pairs of a tag and a pattern, by
    the scalar's first character.
    """
    patterns = {}
    for first, of_first in yaml.SafeLoader.yaml_implicit_resolvers.items():
        patterns[first] = [(tag, pattern) for tag, pattern in of_first if tag != TIMESTAMP]
    return patterns


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but tags are refused, dates are text and 1e-3 is a number."""

    yaml_implicit_resolvers = _patterns_without_dates()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        # PyYAML would raise errors of many types for a value that does not fit its tag.
        if tag:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise Trap(event, f"a value has no tag here, such as {short}")
        return super().compose_node(parent, index)


def _number(construct: Callable[[_Loader, Any], Any]) -> Callable[[_Loader, Any], Any]:
    """Wrap PyYAML's constructor of a number into one that raises a ``Trap`` for what is no number,
    for what YAML reads as another number than people do, for a number with ``_``, and for a whole
    number that is written with more than ``MOST_DIGITS`` characters.
    """

    def checked(loader: _Loader, node: yaml.Node) -> Any:
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
    """Return the base, 8 or 60, in which YAML reads a number that people read as decimal; 0 for
    every other number, also for 0x1F and 0b11, which show their base.
    """
    if ":" in number:
        return 60
    if re.fullmatch(r"[-+]?0[0-7_]+", number):
        return 8
    return 0


_Loader.add_implicit_resolver(FLOAT, EXPONENT, NUMBER_BEGINS)
_Loader.add_constructor(FLOAT, _number(yaml.SafeLoader.construct_yaml_float))
_Loader.add_constructor(INT, _number(yaml.SafeLoader.construct_yaml_int))


def as_json(value: Any) -> str:
    """Format a value as text that ``parse`` reads as the same value: JSON, except that a character
    beyond U+FFFF, such as an emoji, is written as one escape of YAML.

    JSON would write such a character as two escapes, which YAML reads as two characters. Numbers
    must be finite: infinity and NaN would be read as text.
    """
    pair = r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}"

    def one_escape(found: re.Match[str]) -> str:
        backslashes, escapes = found.groups()
        character = json.loads(f'"{escapes}"')
        return f"{backslashes}\\U{ord(character):08x}"

    return re.sub(rf"(?<!\\)((?:\\\\)*)({pair})", one_escape, json.dumps(value))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that ``parse`` would read as a number."""


_Dumper.add_implicit_resolver(FLOAT, EXPONENT, NUMBER_BEGINS)


# ---- keys and aliases ----------------------------------------------------------------------------


def _refuse_traps(root: yaml.Node, loader: _Loader) -> None:
    """Refuse what YAML allows and nobody means, in a tree of nodes.

    Of two equal keys the last one would win, so that an arm of a study could vanish unnoticed. An
    alias may stand for a value in which it is itself, and nested aliases for more values than fit
    into memory.

    Args:
        root: The tree's outermost node.
        loader: Turns keys into their values, which are compared.

    Raises:
        Trap: A mapping has a key twice, or one that is a list, a mapping or null; the outermost
            mapping has any other key that is not text; an alias stands in the value that it stands
            for; or there are more than ``MOST_VALUES`` values, those for which aliases stand
            included.
    """
    for count, node in enumerate(_nodes(root, ()), start=1):
        if count > MOST_VALUES:
            raise Trap(
                node,
                f"it holds more than {MOST_VALUES:,} values, those that aliases stand for included",
            )
        if isinstance(node, yaml.MappingNode):
            _refuse_bad_keys(node, loader, outermost=node is root)


def _nodes(node: yaml.Node, above: tuple[yaml.Node, ...]) -> Iterator[yaml.Node]:
    """Yield a node of PyYAML's tree and, recursively, all nodes in it. A node that aliases refer to
    is yielded where it stands and once more for each alias, and so are the nodes in it.

    Args:
        node: The node.
        above: The nodes that contain it, outermost first.

    Raises:
        Trap: A node contains itself, by an alias.
    """
    if any(node is other for other in above):
        raise Trap(node, "an alias stands in the value that it stands for")
    yield node
    for child in _children(node):
        yield from _nodes(child, (*above, node))


def _children(node: yaml.Node) -> list[yaml.Node]:
    """Return the nodes directly in a node: the items of a list, the keys and values of a mapping;
    empty for a scalar.
    """
    if isinstance(node, yaml.SequenceNode):
        return node.value
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return []


def _refuse_bad_keys(mapping: yaml.MappingNode, loader: _Loader, outermost: bool) -> None:
    """Refuse a key that a mapping has twice, and one that is a list, a mapping or null; in the
    ``outermost`` mapping also any other key that is not text.

    As Python takes 0.1, 0.10 and 1e-1 for one key, and true for 1, so does this check.
    """
    names: set[Any] = set()
    for key, _ in mapping.value:
        _refuse_key_that_is_no_text(key, outermost)
        is_merge = key.tag.endswith(":merge")
        name = key.value if is_merge else loader.construct_object(key)
        if name in names:
            raise Trap(key, f"the key {text.shortened(key.value, 100)} stands there twice")
        names.add(name)


def _refuse_key_that_is_no_text(key: yaml.Node, outermost: bool) -> None:
    """Refuse a key that is a list, a mapping or null; in the outermost mapping also any other key
    that is not text, such as a number.

    Further in, numbers and the like are left to the schema, whose errors name their place.
    """
    if isinstance(key, yaml.SequenceNode):
        raise Trap(key, "a key is a list; it must be text")
    if isinstance(key, yaml.MappingNode):
        raise Trap(key, "a key is a mapping; it must be text")
    is_text = key.tag.endswith((":str", ":merge"))
    is_null = key.tag.endswith(":null")
    if is_null or (outermost and not is_text):
        found = text.shortened(key.value, 100) or "null"
        raise Trap(key, f"a key is {found}; it must be text")
