"""The id of a run, such as ``digits-lr0.05-seed3-c6a3e5812a``: what tells it from the shipped recipes, and a hash."""

import functools
import hashlib
import json
import re
from dataclasses import fields
from typing import Any

from xceptlab.config import shipped
from xceptlab.config.fields import Section, Values

SCIENCE_VERSION = 2
"""Part of every run's identity; raised whenever a change of the code changes results."""
HASH = 10
"""Characters of the hash at the end of a run's id."""
READABLE = 54
"""Characters of a run's id that tell it from the shipped recipes, at most, between the data set's name and the seed."""
SHORT = 6
"""Digits of the digest of pretrained weights that are shown, in a run's id and where arms are compared."""
NOT_READABLE = ("data.name", "data.content", "data.num_classes")
"""Keys that are no readable part: the name of the data set stands in front, and digests are in the hash at the end."""


def science_of(section: Section) -> Values:
    """The science of a section by dotted key, each value as JSON and YAML hold it."""
    science = {}
    for f in fields(section):
        if f.metadata.get("identity", True):
            science[section.PREFIX + f.name] = _plain(getattr(section, f.name))
    return science


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    return value


def science_hash(changed: Values, version: int) -> str:
    """The hash at the end of a run's id.

    Args:
        changed: All science that differs from its default.
        version: ``SCIENCE_VERSION`` as it is, or was.
    """
    science = json.dumps([version, changed], sort_keys=True)
    digest = hashlib.sha256(science.encode()).hexdigest()
    return digest[:HASH]


# ---- the readable part ------------------------------------------------------------------------------------------------------


@functools.lru_cache(1000)
def readable_parts(*sections: Section) -> list[str]:
    """What tells a run from the shipped recipes, such as ``lr0.05``: per section from the one with which it shares most.

    What does not fit into ``READABLE`` characters is left out, and ``etc`` stands for it.
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
    """The science in which a section differs from the recipe with which it shares most; of its data set, if there is one."""
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
    """The values of a section in every shipped recipe, by dotted key."""
    defaults = science_of(kind())
    name = kind.PREFIX.removesuffix(".")
    return [defaults | recipe for recipe in shipped.recipes()[name]]


def _as_part(key: str, value: Any) -> str:
    """A field's value as a part of a run's id: ``lr0.05``, ``residual_none``, ``flip_true``, ``fc64_32``."""
    _, _, name = key.partition(".")
    if key == "model.weights_digest":
        part = f"weights{value[:SHORT]}"
    elif isinstance(value, dict):
        part = "-".join(f"{option}{level}" for option, level in value.items())
    else:
        part = name + _as_text(value)
    return re.sub(r"[^\w.+-]", "_", part)


def _as_text(value: Any) -> str:
    """A value behind its field's name; words stand apart from it, numbers do not."""
    if isinstance(value, list):
        return "_".join(map(str, value)) or "_none"
    if isinstance(value, bool):
        return f"_{str(value).lower()}"
    if isinstance(value, str):
        return f"_{value or 'none'}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
