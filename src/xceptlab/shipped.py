"""What travels with the package: the recipes in ``configs/`` and the studies in ``experiments/``.

In a checkout both stand at the repository's root; in an installed package they are beside this file.
"""

import functools
from pathlib import Path
from typing import Any

SECTIONS = ("model", "data", "train")
"""Sections of which recipes give values that can change a result."""


@functools.cache
def root() -> Path:
    """The folder that holds ``configs/`` and ``experiments/``."""
    package = Path(__file__).parent
    return package if (package / "experiments").is_dir() else package.parents[1]


def find(path: str) -> Path:
    """A file or folder as the user names it or, where there is none, the shipped one of that path."""
    shipped = root() / path
    return Path(path) if Path(path).exists() or not shipped.exists() else shipped


@functools.cache
def recipes() -> dict[str, list[dict[str, Any]]]:
    """By section what each shipped configuration file says of it, by dotted key; sorted by file name."""
    import yaml

    found: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for file in sorted((root() / "configs").glob("*/*.yaml")):
        values = yaml.safe_load(file.read_text("utf-8"))
        for section in SECTIONS:
            if section in values:
                found[section].append({f"{section}.{name}": value for name, value in values[section].items()})
    return found
