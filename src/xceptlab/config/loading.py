"""From YAML files and dotted overrides to checked dataclasses, in LightningCLI's syntax; the one file that knows jsonargparse.

``-c FILE`` may be repeated; a shipped file is found from anywhere. The files and ``--section.field value`` overrides apply in the
order in which they stand, the last one wins. Whatever is wrong becomes a ``Refused`` of one line that names the file, the key,
the value and what is allowed.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from xceptlab import files, text
from xceptlab.config import shipped
from xceptlab.config.fields import PLAIN, Section, in_words, shown
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused

if TYPE_CHECKING:  # jsonargparse takes a quarter of a second, which --help and errors need not wait for
    from jsonargparse import ArgumentParser

T = TypeVar("T", bound=Section)

MOST_DIGITS = 100
"""Beyond some 300 a whole number cannot become a decimal one."""
MOST_VALUES = 10_000
"""So many a file may hold; no study comes near."""

SYNONYMS = {
    "learning_rate": "lr", "max_epochs": "epochs", "num_epochs": "epochs", "bs": "batch_size", "wd": "weight_decay",
    "scheduler": "schedule", "amp": "precision", "activation": "intermediate", "blocks": "middle_blocks", "dataset": "name",
    "img_size": "size", "image_size": "size", "num_workers": "workers", "device": "accelerator",
}  # fmt: skip
"""What fields are called elsewhere."""
MOVED = {"compile", "deterministic"}
"""Fields of ``train`` that stand in ``runtime`` in the configurations of runs of earlier versions."""


def load_run(args: Sequence[str] = (), command: str = "train") -> RunConfig:
    """The run that layers and overrides such as ``["-c", "configs/data/digits.yaml", "--train.lr", "0.05"]`` describe.

    ``--help`` and ``--print_config`` print and exit.

    Raises:
        Refused: One line, for anything that is not as the schema allows.
    """
    given = [(key, str(shipped.find(value)) if key == "config" and value else value) for key, value in overrides(args)]
    printed = ("print_config", None) in given
    given = [each for each in given if each != ("print_config", None)]
    known = keys(RunConfig)
    for key, value in given:
        if key == "config" and value:
            read(value)
        elif value and (known.get(key, str) is not str or value.lstrip().startswith("!")):  # text is taken as it is, but for tags
            _check_override(key, value)
    try:
        config = _attempt(given, command)
    except Refused as error:
        raise Refused(_culprit(given, command, str(error)) + str(error)) from None
    if printed:
        print(dump(config), end="", flush=True)
        raise SystemExit(0)
    return config


def dump(config: RunConfig) -> str:
    """A run's configuration as YAML, which reads back as it is."""
    return _dumped(config.to_dict())


def _dumped(values: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes text that would read as a number: to ``read``, other than to PyYAML, 1e-3 is one."""

    number = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return yaml.dump(values, Dumper=Dumper, sort_keys=False)


def load_file(schema: type[T], file: str, section: str = "") -> T:
    """An instance of the dataclass ``schema`` from a YAML file or from one of its sections; ``Refused`` as of ``load_run``."""
    values = read(file)
    if section:
        values = values.get(section, {})
        if not isinstance(values, dict):
            raise Refused(f"{file}: {section}: {shown(values)} is not allowed; it must be a mapping")
    try:
        return _build(schema, values)
    except Refused as error:
        raise Refused(f"{file}: {error}") from None


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
        Refused: There is no such file, or it is no YAML of one mapping without traps (see ``_refuse_traps``).
    """
    import yaml
    from jsonargparse import get_loader  # PyYAML's safe one, but for 1e-3, which is a number

    try:
        contents = files.decoded(Path(file).read_bytes())
        _refuse_traps(contents)
        values = get_loader("yaml")(contents)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Refused(f"{file}: {place}{', '.join(filter(None, (error.context, error.problem)))}") from None
    except RecursionError:
        raise Refused(f"{file}: its values are nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise Refused(f"{file}: {reason}") from None
    if not isinstance(values, dict):
        raise Refused(f"{file}: holds {'nothing' if values is None else shown(values)}; it must hold a mapping, KEY: VALUE")
    return values


def _check_override(key: str, value: str) -> None:
    """Refuse a value that means another thing to YAML than to its reader; what is no YAML is left to the parser."""
    import yaml

    try:
        _refuse_traps(value)
    except ValueError as error:
        raise Refused(f"{key}: {str(error).removeprefix('line 1: ')}") from None
    except RecursionError:
        raise Refused(f"{key}: its value is nested too deeply") from None
    except yaml.YAMLError:
        pass


def _refuse_traps(contents: str) -> None:
    """Refuse what YAML allows and nobody means: see the messages.

    Of two equal keys the last would win, so that an arm could vanish without a word; a few lines of nested aliases may stand for
    more values than memory holds; and 010 would be 8, and 12:30 would be 750.

    Raises:
        Refused, RecursionError, yaml.YAMLError: It is refused, nested too deeply, or no YAML.
    """
    import yaml

    class Untagged(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if tag := getattr(event, "tag", None):  # with one, PyYAML would stumble over what does not fit it
                line = event.start_mark.line + 1
                raise Refused(f"line {line}: a value has no tag here, such as {tag.replace('tag:yaml.org,2002:', '!!')}")
            return super().compose_node(parent, index)

    above: list[Any] = []
    count = 0

    def visit(node: Any) -> None:
        nonlocal count
        count += 1
        line = f"line {node.start_mark.line + 1}: "
        if any(node is other for other in above):
            raise Refused(f"{line}an alias stands in the value that it stands for")
        if count > MOST_VALUES:
            raise Refused(f"{line}its aliases stand for more than {MOST_VALUES:,} values")
        if node.id == "scalar":
            if node.tag.endswith(":int") and len(node.value) > MOST_DIGITS:
                raise Refused(f"{line}a number of {len(node.value)} digits is too large")
            if base := _unusual_base(node):
                raise Refused(f"{line}{node.value} would be read in base {base}; write a decimal number, or text in quotes")
            _refuse_malformed(node, line)
            return
        pairs = node.value if node.id == "mapping" else []
        names: set[str] = set()
        for key, _ in pairs:
            line = f"line {key.start_mark.line + 1}: "
            _refuse_key(key, line, outermost=not above)
            if key.value in names:
                raise Refused(f"{line}the key {text.shortened(key.value, 100)} stands there twice")
            names.add(key.value)
        above.append(node)
        for child in [one for pair in pairs for one in pair] or (node.value if node.id == "sequence" else []):
            visit(child)
        above.pop()

    if root := yaml.compose(contents, Untagged):
        visit(root)


def _refuse_key(key: Any, line: str, outermost: bool) -> None:
    """Refuse a key that is no text; an inner one that is a number is left to the schema, which names its place."""
    if key.id == "scalar":
        is_text = key.tag.endswith((":str", ":merge"))
        if is_text or not (outermost or key.tag.endswith(":null")):
            return
        found = text.shortened(key.value, 100) or "null"
    else:
        found = "a list" if key.id == "sequence" else "a mapping"
    raise Refused(f"{line}a key is {found}; it must be text")


def _refuse_malformed(scalar: Any, line: str) -> None:
    """Refuse what looks like a date or a number to YAML and is none, such as 2026-13-45, over which PyYAML stumbles."""
    import yaml

    try:
        yaml.SafeLoader("").construct_object(scalar)
    except yaml.YAMLError:  # which the parser says itself
        pass
    except Exception:  # of any kind: PyYAML lets through what its constructors raise
        kind = "date" if scalar.tag.endswith(":timestamp") else "number"
        raise Refused(f"{line}{scalar.value} looks like a {kind} and is none; text stands in quotes") from None


def _unusual_base(node: Any) -> int:
    """8 or 60 for a number that YAML reads so and nobody else does; else 0. 0x1F, 0b11 and 1_000 are what they are elsewhere."""
    if not node.tag.endswith((":int", ":float")):
        return 0
    if ":" in node.value:
        return 60
    return 8 if re.fullmatch(r"[-+]?0[0-7_]+", node.value) else 0


def _attempt(given: list[tuple[str, str | None]], command: str) -> RunConfig:
    from jsonargparse import ArgumentError

    arguments = []
    for key, value in given:
        if key == "config" and value:  # the text, which jsonargparse would read in the encoding of the terminal
            value = _contents(value)
        arguments.append(f"--{key}" if value is None else f"--{key}={value}")
    try:
        values = _parser(command).parse_args(arguments)
    except ArgumentError as error:
        raise Refused(_one_line(str(error))) from None
    values.pop("config")
    return _build(RunConfig, values.as_dict())


def _contents(file: str) -> str:
    """The text of a YAML file, with ``MOVED`` fields in the section that has them now."""
    values = read(file)
    runtime, train = values.get("runtime"), values.setdefault("train", {})
    if not isinstance(runtime, dict) or not isinstance(train, dict) or runtime.keys().isdisjoint(MOVED):
        return files.read(file)
    for name in runtime.keys() & MOVED:
        train[name] = runtime.pop(name)
    return _dumped(values)


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
            raise Refused(unknown(f"{schema.PREFIX}{key}", [schema.PREFIX + name for name in known]))
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise Refused(f"{schema.PREFIX}{name}: is missing; it must be {in_words(f.type)}")
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
            raise Refused(f"{f.name.removesuffix('s')} {name}: {error}") from None
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
    return f"{text.shortened(key, 100)}: there is no such key; " + (f"did you mean {near[0]}?" if near else there)


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
        return f"{key}: {PLAIN.get(wrong[1]) or shown(wrong[1])} is not allowed; it must be {in_words(known[key])}"
    return " ".join(message.replace('Parser key "config": ', "").split())
