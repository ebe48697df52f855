"""The files that travel with the package: the recipes in ``configs/`` and the studies in
``experiments/``.

In a checkout both folders are at the repository's root; in an installed package they are in the
package's folder.
"""

import functools
import itertools
import os
from pathlib import Path
from typing import Any

SECTIONS = ("model", "data", "train")
"""Names of the folders of ``configs/``, in the order in which their files are layered; also of the
sections of a run that can change its result.
"""

Contents = dict[str, dict[str, Any]]
"""Contents of a configuration file, as ``{section: {field: value}}``."""
Recipe = dict[str, Any]
"""Values that one file or several layered ones set in a section, by dotted key."""


@functools.cache
def root() -> Path:
    """Return the folder that holds ``configs/`` and ``experiments/``."""
    package = Path(__file__).parents[1]
    if (package / "experiments").is_dir():
        return package
    return package.parents[1]


def find(path: str) -> Path:
    """Return the path of a file or folder that the user names, with ``~`` expanded.

    If there is nothing at that path, a shipped file or folder of this name is returned, such as
    that of ``configs/data/digits.yaml``. If there is none either, the user's path is returned.
    """
    named = Path(os.path.expanduser(path))
    shipped = root() / named
    if not named.exists() and shipped.exists():
        return shipped
    return named


@functools.cache
def recipes() -> dict[str, list[Recipe]]:
    """Return the recipes that the shipped files give for each section in ``SECTIONS``, by section.

    There is a recipe for each combination of files that set the section, at most one from each
    folder. That of no file is empty and stands for the defaults. The section ``data``, for example,
    comes from a file in ``data/`` and one in ``train/``, which sets the augmentation.
    """
    folders = [_contents(folder) for folder in SECTIONS]
    return {section: _combined(section, folders) for section in SECTIONS}


def _combined(section: str, folders: list[list[Contents]]) -> list[Recipe]:
    """Return the recipes for one section: one for each combination of the files that set it, at
    most one from each folder. The first recipe, that of no file, is empty.

    Args:
        section: Name of the section.
        folders: The contents of the files of each folder. Where two files set the same field, the
            file of the later folder wins.
    """
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
    """Return the contents of each YAML file in a folder of ``configs/``, sorted by its name."""
    paths = (root() / "configs" / folder).glob("*.yaml")
    return [_sections(path) for path in sorted(paths)]


def _sections(file: Path) -> Contents:
    """Return the sections of a configuration file; an empty mapping for a file that cannot be read.
    A section that is no mapping is left out. Neither is an error, as recipes only serve to name
    runs.
    """
    import yaml

    # PyYAML raises errors of many types for a damaged file.
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except Exception:
        return {}
    if not isinstance(values, dict):
        return {}
    return {section: layer for section, layer in values.items() if isinstance(layer, dict)}
