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


@functools.cache
def root() -> Path:
    """The folder that holds ``configs/`` and ``experiments/``."""
    package = Path(__file__).parents[1]
    return package if (package / "experiments").is_dir() else package.parents[1]


def find(path: str) -> Path:
    """A file or folder as the user names it, ``~`` for their home, or, where there is none, the shipped one of that path."""
    path = os.path.expanduser(path)
    shipped = root() / path
    return Path(path) if Path(path).exists() or not shipped.exists() else shipped


@functools.cache
def recipes() -> dict[str, list[dict[str, Any]]]:
    """By section what the shipped files set in it, by dotted key: nothing, or as one of each folder is layered, such as a set of
    ``data/`` and then the augmentation of a recipe in ``train/``."""
    files = []
    for folder in SECTIONS:
        paths = sorted((root() / "configs" / folder).glob("*.yaml"))
        files.append([_sections(path) for path in paths])
    found: dict[str, list[dict[str, Any]]] = {}
    for section in SECTIONS:
        layers = [[{}, *(values[section] for values in contents if section in values)] for contents in files]
        merged = [{key: value for layer in chosen for key, value in layer.items()} for chosen in itertools.product(*layers)]
        found[section] = [{f"{section}.{key}": value for key, value in one.items()} for one in merged]
    return found


def _sections(file: Path) -> dict[str, dict[str, Any]]:
    """The sections that a configuration file holds; none of one that cannot be read: only the names of runs are made of them."""
    import yaml

    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except Exception:  # whatever PyYAML stumbles over
        return {}
    if not isinstance(values, dict):
        return {}
    return {section: layer for section, layer in values.items() if isinstance(layer, dict)}
