"""What travels with the package: the recipes in ``configs/`` and the studies in ``experiments/``.

In a checkout both stand at the repository's root; in an installed package they are beside this
file.
"""

import functools
import itertools
import os
from pathlib import Path
from typing import Any

SECTIONS = ("model", "data", "train")
"""The folders of ``configs/``, in the order in which they are layered, and the sections of a run
that can change its result.
"""

Contents = dict[str, dict[str, Any]]
"""Contents of a configuration file, as ``{section: {name: value}}``."""
Recipe = dict[str, Any]
"""Values that one or several files together set in a section, by dotted key."""


@functools.cache
def root() -> Path:
    """The folder that holds ``configs/`` and ``experiments/``."""
    package = Path(__file__).parents[1]
    if (package / "experiments").is_dir():
        return package
    return package.parents[1]


def find(path: str) -> Path:
    """Path of a file or folder that the user names, ``~`` expanded; where there is none, that of
    the shipped one of that name.
    """
    named = Path(os.path.expanduser(path))
    shipped = root() / named
    if not named.exists() and shipped.exists():
        return shipped
    return named


@functools.cache
def recipes() -> dict[str, list[Recipe]]:
    """All recipes for each section that combinations of the shipped files give, and the defaults as
    an empty recipe.

    Files are combined as they are layered, one or none of each folder: a set of ``data/``, and then
    the augmentation that a recipe in ``train/`` sets for it.
    """
    folders = [_contents(folder) for folder in SECTIONS]
    return {section: _combined(section, folders) for section in SECTIONS}


def _combined(section: str, folders: list[list[Contents]]) -> list[Recipe]:
    """Recipes for one section from all combinations of files, at most one of each folder."""
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
    """Sections of a configuration file; empty for an unreadable file, since recipes only serve to
    name runs.
    """
    import yaml

    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except Exception:  # whatever PyYAML stumbles over
        return {}
    if not isinstance(values, dict):
        return {}
    return {section: layer for section, layer in values.items() if isinstance(layer, dict)}
