"""What travels with the package: the recipes in ``configs/`` and the studies in ``experiments/``.

In a checkout both stand at the repository's root; in an installed package they are beside this file.
"""

import functools
import itertools
import os
from pathlib import Path
from typing import Any

SECTIONS = ("model", "data", "train")
"""The folders of ``configs/``, in the order in which they are layered, and the sections of a run that can change its result."""

Contents = dict[str, dict[str, Any]]
"""A configuration file: by section its values, by name."""
Recipe = dict[str, Any]
"""The values that files set in one section, by dotted key."""


@functools.cache
def root() -> Path:
    """The folder that holds ``configs/`` and ``experiments/``."""
    package = Path(__file__).parents[1]
    if (package / "experiments").is_dir():
        return package
    return package.parents[1]


def find(path: str) -> Path:
    """A file or folder as the user names it, ``~`` for their home, or, where there is none, the shipped one of that path."""
    named = Path(os.path.expanduser(path))
    shipped = root() / named
    if not named.exists() and shipped.exists():
        return shipped
    return named


@functools.cache
def recipes() -> dict[str, list[Recipe]]:
    """By section all that the shipped files make of it, by dotted key; the defaults are among them, as an empty layer.

    Files are combined as they are layered, one or none of each folder: a set of ``data/``, and then the augmentation that a
    recipe in ``train/`` sets for it.
    """
    folders = [_contents(folder) for folder in SECTIONS]
    return {section: _combined(section, folders) for section in SECTIONS}


def _combined(section: str, folders: list[list[Contents]]) -> list[Recipe]:
    """All that the files of these folders make of one section."""
    choices = []
    for files in folders:
        layers = [file[section] for file in files if section in file]
        choices.append([{}, *layers])
    combined = []
    for chosen in itertools.product(*choices):
        recipe = {}
        for layer in chosen:
            for name, value in layer.items():
                recipe[f"{section}.{name}"] = value
        combined.append(recipe)
    return combined


def _contents(folder: str) -> list[Contents]:
    """Every file in a folder of ``configs/``."""
    paths = (root() / "configs" / folder).glob("*.yaml")
    return [_sections(path) for path in sorted(paths)]


def _sections(file: Path) -> Contents:
    """The sections that a configuration file holds; none of one that cannot be read: only the names of runs are made of them."""
    import yaml

    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except Exception:  # whatever PyYAML stumbles over
        return {}
    if not isinstance(values, dict):
        return {}
    return {section: layer for section, layer in values.items() if isinstance(layer, dict)}
