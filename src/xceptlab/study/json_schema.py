"""The JSON Schemas of configuration files and of study files, with which editors complete and check
them.

``python -m xceptlab.study.json_schema`` writes both into the checkout.
"""

from pathlib import Path
from typing import Any

from xceptlab import files
from xceptlab.config import options, shipped
from xceptlab.config.json_schema import of_dataclass, text
from xceptlab.config.schema import RunConfig
from xceptlab.study.definition import FACTORS, Study

CONFIGURATION, STUDY = "configs/configuration.schema.json", "configs/study.schema.json"
"""Paths of the two schemas, relative to the repository's root."""


def contents() -> dict[str, str]:
    """Return the text of each schema, by its path relative to the repository's root."""
    return {
        CONFIGURATION: text("A configuration file of xceptlab", of_dataclass(RunConfig)),
        STUDY: text("A study file of xceptlab", _study()),
    }


def _study() -> dict[str, Any]:
    """Return the schema of a study file, which knows the keys that may be factors in arms, grids
    and effects.
    """
    schema = of_dataclass(Study)
    keys = schema["properties"]
    keys["arms"]["additionalProperties"] = _of_factors({})
    keys["grid"] |= _of_factors({"type": "array"})
    keys["claims"]["items"]["properties"]["effect"] |= _of_factors(
        {"type": "array", "minItems": 2, "maxItems": 2}
    )
    # Arms may be named by numbers, too. The first alternative of a contrast is its list of two
    # names, the second is null.
    arm = {"type": ["string", "number"]}
    keys["claims"]["items"]["properties"]["contrast"]["anyOf"][0]["items"] = arm
    # Arms are tuned by a metric of validation. The first alternative of tune is its mapping; the
    # first one of select is a built-in metric, the second any name.
    tune = keys["tune"]["anyOf"][0]["properties"]
    tune["select"]["anyOf"][1]["pattern"] = "^val/"
    return schema | {"definitions": _factors()}


def _factors() -> dict[str, Any]:
    """Return the schema of a level of each factor, by the factor's dotted key."""
    sections = of_dataclass(RunConfig)["properties"]
    found = {}
    for key in FACTORS:
        section, name = key.split(".")
        found[key] = sections[section]["properties"][name]
    return found


def _of_factors(levels: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a mapping from factors to levels, with keys that are dotted or nested as
    in a configuration file.

    Args:
        levels: The schema of a list, for a mapping to lists of levels; empty for a mapping to
            single levels.
    """
    nested: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    for key in FACTORS:
        section, name = key.split(".")
        level = {"$ref": f"#/definitions/{key}"}
        dotted[key] = levels | {"items": level} if levels else level
        nested.setdefault(section, {})[name] = dotted[key]
    sections = {
        name: {"type": "object", "additionalProperties": False, "properties": keys}
        for name, keys in nested.items()
    }
    # The types of a registered family's options are known to its module only.
    of_options = {options.PATTERN: levels}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": sections | dotted,
        "patternProperties": of_options,
    }


def write(root: Path) -> None:
    """Write the JSON Schemas of configuration and study files to their paths under the repository
    ``root``.
    """
    for name, schema in contents().items():
        files.write_atomically(root / name, schema.encode())


if __name__ == "__main__":
    write(shipped.root())
