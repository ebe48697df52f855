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

    If there is nothing at that path, it is looked up among the shipped files. The path as it was
    named is returned where there is no such file, either.
    """
    named = Path(os.path.expanduser(path))
    shipped = root() / named
    if not named.exists() and shipped.exists():
        return shipped
    return named


@functools.cache
def recipes() -> dict[str, list[Recipe]]:
    """Return the recipes for each section that the shipped files give, alone and combined; the
    defaults are an empty recipe among them.

    Files are combined as they are layered, at most one from each folder. The section ``data``, for
    example, comes from a file in ``data/`` and one in ``train/``, which sets the augmentation.
    """
    folders = [_contents(folder) for folder in SECTIONS]
    return {section: _combined(section, folders) for section in SECTIONS}


def _combined(section: str, folders: list[list[Contents]]) -> list[Recipe]:
    """Return the recipes for one section from all combinations of files, at most one from each
    folder.
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
    """Read every file in a folder of ``configs/``, sorted by name."""
    paths = (root() / "configs" / folder).glob("*.yaml")
    return [_sections(path) for path in sorted(paths)]


def _sections(file: Path) -> Contents:
    """Read the sections of a configuration file. Empty for a file that cannot be read, as recipes
    only serve to name runs.
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
