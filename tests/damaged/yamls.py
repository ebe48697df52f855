"""Damaged YAML and JSON: the structure of their values, or the text."""

import copy
import math
import re
from random import Random
from typing import Any

import yaml

from damaged.case import BYTES, Case
from xceptlab.config.fields import keys
from xceptlab.config.schema import RunConfig

FIELDS = [key for key in keys(RunConfig) if "." in key]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        0.5,
        -0.5,
        1.0,
        1e-300,
        1e300,
        10**9,
        2**31,
        2**63,
        10**30,
        -(10**30),
        1e5,
    ),
    *(
        math.nan,
        math.inf,
        -math.inf,
        [],
        {},
        [[]],
        [{}],
        {"": ""},
        [None],
        [0, 0],
        [1, "a"],
        {"a": {"b": [1]}},
        list(range(50)),
    ),
]
TEXTS = [
    *(
        "",
        " ",
        "null",
        "true",
        "on",
        "all",
        "none",
        "auto",
        "0",
        "-1",
        "1e3",
        "1_000",
        "0x10",
        "010",
        "12:30",
        "nan",
        "1e999",
    ),
    *(
        "é",
        "日本語",
        "\u202eabc",
        "\U0001f600",
        "a\nb",
        "a\tb",
        "\x1b[31mred",
        "\x7f",
        "x" * 5000,
        "[bold]",
        "[/]",
        "{}",
        "%s",
    ),
    *(
        "../..",
        "/dev/null",
        "~",
        "~nobody/x",
        "$HOME",
        "hf://",
        "hf://a/b",
        "hf_hub:a/b",
        "resnet18",
        "--help",
        "a,b",
        "a=b",
    ),
]
UNQUOTED = [
    *(
        "010",
        "0b11",
        "0o17",
        "12:30",
        "190:20:30",
        "1_000",
        ".nan",
        "-.inf",
        "1e3",
        "1e999",
        "~",
        "yes",
        "=",
        "<<",
        "2026-01-01",
    ),
    *(
        "!!python/object/apply:os.system [exit]",
        "!!python/name:os.system",
        "!!binary aGVsbG8=",
        "!!binary '?'",
        "!!int x",
    ),
    *(
        "!!float 3",
        "!!str 3",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!timestamp x",
        "!own {a: 1}",
        "!",
        "&a [*a]",
        "&a {b: *a}",
    ),
    *(
        "*nowhere",
        "[1, 2",
        "{a: 1",
        '"open',
        "{a: 1, a: 2}",
        "{? [1, 2] : 3}",
        "{? {a: 1} : 2}",
        "- 1",
        "|\n  block",
        "@x",
        "%x",
    ),
]
"""Values as they stand in YAML; ``dump`` puts them where ``strange`` has left their numbers."""


def damaged_yaml(case: Case, tree: Any) -> bytes:
    """A tree of values as YAML: its structure damaged, or its text, or both."""
    how = case.rng.random()
    if how < 0.75:
        restructure(case, tree)
    data = dump(tree)
    return case.damage(case.rng.choice([TEXT, TEXT, BYTES]), data) if how > 0.6 else data


def dump(tree: Any) -> bytes:
    """A tree as YAML, with the unquoted values in place."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return re.sub(r"'?UNQUOTED(\d+)END'?", lambda found: UNQUOTED[int(found[1])], text).encode()


def strange(rng: Random) -> Any:
    """A value that hardly belongs where it stands."""
    unquoted = f"UNQUOTED{rng.randrange(len(UNQUOTED))}END"
    return copy.deepcopy(rng.choice([rng.choice(VALUES), rng.choice(TEXTS), unquoted]))


# The structure.


def restructure(case: Case, tree: Any) -> Any:
    """Change a tree of values in one to three places."""
    for _ in range(case.rng.choice([1, 1, 2, 3])):
        if places := _places(tree):
            case.damage(STRUCTURE, *case.rng.choice(places))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in nested mappings and lists."""
    if isinstance(tree, dict):
        inside = list(tree)
    elif isinstance(tree, list):
        inside = list(range(len(tree)))
    else:
        return []
    return [(tree, key) for key in inside] + [
        place for key in inside for place in _places(tree[key])
    ]


def replaced(rng: Random, tree: Any, key: Any) -> None:
    tree[key] = strange(rng)


def scaled(rng: Random, tree: Any, key: Any) -> None:
    """A number stays one."""
    is_number = isinstance(tree[key], int | float) and not isinstance(tree[key], bool)
    tree[key] = (
        tree[key] * rng.choice([-1, 0, 0.1, 0.5, 2, 3, 10, 1000, 10**9])
        if is_number
        else strange(rng)
    )


def removed(rng: Random, tree: Any, key: Any) -> None:
    del tree[key]


def renamed(rng: Random, tree: Any, key: Any) -> None:
    name = str(key)
    mistyped = name[: len(name) // 2] + name[len(name) // 2 + 1 :]
    new = rng.choice(
        [mistyped, name.upper(), f"{name}.{name}", f" {name}", "", 3, None, True, 1.5, *TEXTS]
    )
    if isinstance(tree, dict):
        tree[new] = tree.pop(key)
    else:
        tree[key] = {new: tree[key]}


def wrapped(rng: Random, tree: Any, key: Any) -> None:
    value = tree[key]
    tree[key] = rng.choice([[value], {key: value}, [value, copy.deepcopy(value)], {"name": value}])


def nested(rng: Random, tree: Any, key: Any) -> None:
    for _ in range(rng.choice([2, 20, 100])):
        tree[key] = [tree[key]]


def taken_out(rng: Random, tree: Any, key: Any) -> None:
    """One of a mapping's values takes the mapping's place."""
    if isinstance(tree[key], dict) and tree[key]:
        tree[key] = rng.choice(list(tree[key].values()))


def as_text(rng: Random, tree: Any, key: Any) -> None:
    tree[key] = str(tree[key])


def added(rng: Random, tree: Any, key: Any) -> None:
    if isinstance(tree, dict):
        tree[rng.choice([*TEXTS, *FIELDS, "seed", "config"])] = strange(rng)
    else:
        tree.append(strange(rng))


STRUCTURE = replaced, replaced, scaled, removed, renamed, wrapped, nested, taken_out, as_text, added


# The text.


def byte_order_mark(rng: Random, data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data


def crlf(rng: Random, data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def utf_16(rng: Random, data: bytes) -> bytes:
    return data.decode().encode("utf-16")


def latin_1(rng: Random, data: bytes) -> bytes:
    return "# café\n".encode("latin-1") + data


def tabs(rng: Random, data: bytes) -> bytes:
    return data.replace(b"  ", b"\t")


def control_character(rng: Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return (
        data[:place]
        + rng.choice(["\0", "\x1b", "\x07", "\x85", "\u2028", "\ufeff"]).encode()
        + data[place:]
    )


def long_line(rng: Random, data: bytes) -> bytes:
    return (
        rng.choice([b"# " + b"x" * 10**6, b"x" * 10**5 + b": 1", b"seed: " + b"9" * 10**4])
        + b"\n"
        + data
    )


def deep(rng: Random, data: bytes) -> bytes:
    """Lists in lists, or mappings in mappings; as many as a list has in a line, or fewer, each
    indented further.
    """
    depth = rng.choice([50, 1000, 20_000])
    blocks = "".join(f"{' ' * level}a:\n" for level in range(min(depth, 1000))).encode()
    return (
        rng.choice(
            [b"a: " + b"[" * depth + b"]" * depth, b"a: " + b"{a: " * depth + b"}" * depth, blocks]
        )
        + b"\n"
        + data
    )


def alias_bomb(rng: Random, data: bytes) -> bytes:
    """A list of nine, of nine lists of nine, and so on: up to 9 ** 9 values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, rng.choice([3, 9])):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join([*lines, ""]).encode() + data


def recursive(rng: Random, data: bytes) -> bytes:
    """The first mapping in the file contains itself, and so does one after its end."""
    return (
        re.sub(rb"(?m)^(\w+):\n( +)", rb"\1: &self\n\2itself: *self\n\2", data, count=1)
        + b"again: &again {a: *again}\n"
    )


def merged_key(rng: Random, data: bytes) -> bytes:
    return data + rng.choice(
        [b"<<: {seed: 3}\n", b"<<: 3\n", b"x: &x {a: 1}\ny: {<<: [*x, *x]}\n", b"<<: [1]\n"]
    )


def several_documents(rng: Random, data: bytes) -> bytes:
    return rng.choice(
        [
            data + b"---\n" + data,
            b"---\n---\n" + data,
            data + b"...\n" + data,
            b"%YAML 9.9\n---\n" + data,
        ]
    )


def doubled_line(rng: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    return b"".join(lines[: place + 1] + lines[place:])


def misaligned(rng: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    lines[place] = rng.choice([lines[place].lstrip(), b" " + lines[place]])
    return b"".join(lines)


def no_mapping(rng: Random, data: bytes) -> bytes:
    return rng.choice(
        [
            b"3\n",
            b"[a, b]\n",
            b"text\n",
            b"~\n",
            b"...\n",
            b"# only a comment\n",
            b"? \n",
            b"- a: 1\n",
        ]
    )


TEXT = (
    *(
        byte_order_mark,
        crlf,
        utf_16,
        latin_1,
        tabs,
        control_character,
        long_line,
        deep,
        alias_bomb,
        recursive,
        merged_key,
    ),
    *(several_documents, doubled_line, misaligned, no_mapping),
)
