"""YAML without its traps: what a file or an override holds is what its reader takes it for, or is refused.

Safe: no tags, so nothing is executed. Apart from PyYAML, 1e-3 is a number and a date is text.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from xceptlab import files, text
from xceptlab.config.fields import shown
from xceptlab.errors import Refused

MOST_DIGITS = 100
"""Beyond some 300 a whole number cannot become a decimal one."""
MOST_VALUES = 10_000
"""So many a file may hold; no study comes near."""
TIMESTAMP, FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
"""A number as 1e-3, which is text to PyYAML."""


class Trap(Refused):
    """What YAML allows and nobody means; of a node or an event of PyYAML's, whose line is told, or of the whole."""

    def __init__(self, node: Any, problem: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {problem}" if node else problem)
        self.problem = problem


def read(file: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds.

    Raises:
        Refused: There is no such file, or it is no YAML of one mapping without traps; the line names the file.
    """
    try:
        values = parse(files.decoded(Path(file).read_bytes()))
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Refused(f"{file}: {place}{', '.join(filter(None, (error.context, error.problem)))}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise Refused(f"{file}: {reason}") from None
    if not isinstance(values, dict):
        raise Refused(f"{file}: holds {'nothing' if values is None else shown(values)}; it must hold a mapping, KEY: VALUE")
    return values


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
    """The value that a text stands for, or the text itself where it is no YAML; traps are refused as by ``parse``."""
    try:
        return parse(contents)
    except yaml.YAMLError:
        return contents


def dump(values: dict[str, Any]) -> str:
    """Values as YAML, which ``parse`` reads back as they are."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without tags and dates, for which 1e-3 is a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if tag := getattr(event, "tag", None):  # with one, PyYAML would stumble over what does not fit it
            raise Trap(event, f"a value has no tag here, such as {tag.replace('tag:yaml.org,2002:', '!!')}")
        return super().compose_node(parent, index)


def _number(construct: Callable[[_Loader, Any], Any]) -> Callable[[_Loader, Any], Any]:
    """Construct a number, unless it is none or only YAML reads it as it does."""

    def checked(loader: _Loader, node: Any) -> Any:
        if node.tag.endswith(":int") and len(node.value) > MOST_DIGITS:
            raise Trap(node, f"a number of {len(node.value)} digits is too large")
        if base := _unusual_base(node.value):
            raise Trap(node, f"{node.value} would be read in base {base}; write a decimal number, or text in quotes")
        try:
            return construct(loader, node)
        except ValueError:
            raise Trap(node, f"{node.value} looks like a number and is none; text stands in quotes") from None

    return checked


def _unusual_base(number: str) -> int:
    """8 or 60 for a number that YAML reads so and nobody else does; else 0. 0x1F, 0b11 and 1_000 are what they are elsewhere."""
    if ":" in number:
        return 60
    return 8 if re.fullmatch(r"[-+]?0[0-7_]+", number) else 0


_Loader.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))
_Loader.add_constructor(FLOAT, _number(yaml.SafeLoader.construct_yaml_float))
_Loader.add_constructor("tag:yaml.org,2002:int", _number(yaml.SafeLoader.construct_yaml_int))


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``parse`` would read as a number."""


_Dumper.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))


def _refuse_traps(root: Any) -> None:
    """Refuse two equal keys, of which the last would win, so that an arm could vanish without a word; keys that are no text; and
    aliases that stand for themselves or, nested, for more values than memory holds."""
    for count, node in enumerate(_nodes(root, ()), start=1):
        if count > MOST_VALUES:
            raise Trap(node, f"its aliases stand for more than {MOST_VALUES:,} values")
        names: set[str] = set()
        for key, _ in node.value if node.id == "mapping" else ():
            _refuse_key(key, outermost=node is root)
            if key.value in names:
                raise Trap(key, f"the key {text.shortened(key.value, 100)} stands there twice")
            names.add(key.value)


def _nodes(node: Any, above: tuple[Any, ...]) -> Iterator[Any]:
    """A node and those in it; one that aliases stand for comes once for each."""
    if any(node is other for other in above):
        raise Trap(node, "an alias stands in the value that it stands for")
    yield node
    children = node.value if node.id == "sequence" else ()
    if node.id == "mapping":
        children = [child for pair in node.value for child in pair]
    for child in children:
        yield from _nodes(child, (*above, node))


def _refuse_key(key: Any, outermost: bool) -> None:
    """Refuse a key that is no text; an inner one that is a number is left to the schema, which names its place."""
    if key.id == "scalar":
        is_text = key.tag.endswith((":str", ":merge"))
        if is_text or not (outermost or key.tag.endswith(":null")):
            return
        found = text.shortened(key.value, 100) or "null"
    else:
        found = "a list" if key.id == "sequence" else "a mapping"
    raise Trap(key, f"a key is {found}; it must be text")
