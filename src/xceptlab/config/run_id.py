"""The id of a run, such as ``digits-lr0.05-seed3-c6a3e5812a``: its data set, how it differs from
the shipped recipes, its seed, and a hash of all that can change its result.

W&B's id of a run is another: ``training.weights_and_biases``.
"""

import functools
import hashlib
import json
import re
from dataclasses import fields
from typing import Any

from xceptlab.config import shipped
from xceptlab.config.fields import Section, Values

SCIENCE_VERSION = 2
"""Version of the results, part of every run's identity: raised whenever a change of the code
changes what a run computes.
"""
HASH = 10
"""Number of characters of the hash at the end of a run's id."""
READABLE = 54
"""Largest number of characters of the readable part of a run's id, between the data set's name and
the seed, with a hyphen for each value; a last ``etc`` is not counted.
"""
SHORT = 6
"""Number of hexadecimal digits that are shown of the digest of ``model.weights``, in a run's id and
elsewhere.
"""
NOT_READABLE = ("data.name", "data.content", "data.num_classes")
"""Keys that are left out of the readable part of a run's id: the data set's name stands in front
anyway, and a digest of a user's files cannot be read. The hash at the end covers them all.
"""


def science_of(section: Section) -> Values:
    """Return the values of a section that can change a result, by dotted key, as JSON and YAML have
    them: tuples become lists.
    """
    science = {}
    for f in fields(section):
        if f.metadata.get("identity", True):
            science[section.PREFIX + f.name] = _plain(getattr(section, f.name))
    return science


def _plain(value: Any) -> Any:
    """Return a value with lists for tuples and plain dictionaries for mappings, at every depth."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def science_hash(changed: Values, version: int) -> str:
    """Return the hash at the end of a run's id, ``HASH`` hexadecimal digits.

    Args:
        changed: The values that can change a result and differ from their defaults, by dotted key.
        version: The ``SCIENCE_VERSION`` to hash under, today's or an earlier one.
    """
    science = json.dumps([version, changed], sort_keys=True)
    digest = hashlib.sha256(science.encode()).hexdigest()
    return digest[:HASH]


# ---- the readable part ---------------------------------------------------------------------------


@functools.lru_cache(1000)
def readable_parts(*sections: Section) -> list[str]:
    """Return parts of a run's id such as ``lr0.05``: the values in which sections differ from their
    closest shipped recipe, except those of ``NOT_READABLE``.

    Parts that do not fit into ``READABLE`` characters are left out; ``etc`` at the end tells of
    them. The list is cached, so it must not be changed.
    """
    parts: list[str] = []
    for section in sections:
        for key, value in _differing_from_closest_recipe(section).items():
            if key not in NOT_READABLE:
                parts.append(_as_part(key, value))
    kept: list[str] = []
    length = 0
    for part in parts:
        if length + len(part) + 1 <= READABLE:
            kept.append(part)
            length += len(part) + 1
    if kept != parts:
        kept.append("etc")
    return kept


def _differing_from_closest_recipe(section: Section) -> Values:
    """Return the values in which a section differs from the shipped recipe that is closest to it,
    by dotted key. The closest recipe is that with the fewest such values, among those of the same
    data set if there are any.
    """
    science = science_of(section)
    recipes = _recipes_for(type(section))
    data_set = science.get("data.name")
    of_this_set = [recipe for recipe in recipes if recipe.get("data.name") == data_set]
    differences = []
    for recipe in of_this_set or recipes:
        differing = {key: value for key, value in science.items() if value != recipe[key]}
        differences.append(differing)
    return min(differences, key=len)


def _recipes_for(kind: type[Section]) -> list[Values]:
    """Return the values that each shipped recipe gives a section, by dotted key, including
    defaults.
    """
    defaults = science_of(kind())
    name = kind.PREFIX.removesuffix(".")
    return [defaults | recipe for recipe in shipped.recipes()[name]]


def _as_part(key: str, value: Any) -> str:
    """Format the value of a key as a part of a run's id: ``lr0.05``, ``residual_none``,
    ``flip_true``, ``fc64_32``, ``weights012345`` of a digest, or ``depth2-heads4`` of a model
    family's options. Characters other than letters, digits and ``_.+-`` become ``_``.
    """
    _, _, name = key.partition(".")
    if key == "model.weights_digest":
        part = f"weights{value[:SHORT]}"
    elif isinstance(value, dict):
        part = "-".join(f"{option}{level}" for option, level in value.items())
    else:
        part = name + _as_text(value)
    return re.sub(r"[^\w.+-]", "_", part)


def _as_text(value: Any) -> str:
    """Format a value to follow the name of its field: text, true and false after ``_``, a number
    and the items of a list directly. Empty text and an empty list are ``_none``.
    """
    if isinstance(value, list):
        return "_".join(map(str, value)) or "_none"
    if isinstance(value, bool):
        return f"_{str(value).lower()}"
    if isinstance(value, str):
        return f"_{value or 'none'}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
