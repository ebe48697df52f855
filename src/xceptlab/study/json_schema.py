"""The JSON Schemas that are shipped, of configuration files and of study files.

``python -m xceptlab.study.json_schema`` writes them.
"""

from pathlib import Path
from typing import Any

from xceptlab import files
from xceptlab.config import options, shipped
from xceptlab.config.json_schema import of_dataclass, text
from xceptlab.config.schema import RunConfig
from xceptlab.study.definition import FACTORS, Study

CONFIGURATION, STUDY = "configs/configuration.schema.json", "configs/study.schema.json"


def contents() -> dict[str, str]:
    """The text of each schema, by its path relative to the repository's root."""
    return {
        CONFIGURATION: text("A configuration file of xceptlab", of_dataclass(RunConfig)),
        STUDY: text("A study file of xceptlab", _study()),
    }


def _study() -> dict[str, Any]:
    """A study's schema, in which arms, grid and effects know the keys that may be factors."""
    schema = of_dataclass(Study)
    keys = schema["properties"]
    keys["arms"]["additionalProperties"] = _of_factors({})
    keys["grid"] |= _of_factors({"type": "array"})
    keys["claims"]["items"]["properties"]["effect"] |= _of_factors(
        {"type": "array", "minItems": 2, "maxItems": 2}
    )
    arm = {"type": ["string", "number"]}  # which may be named by numbers
    keys["claims"]["items"]["properties"]["contrast"]["anyOf"][0]["items"] = arm
    return schema | {"definitions": _factors()}


def _factors() -> dict[str, Any]:
    """The schema of a factor's level, by the factor's dotted key."""
    sections = of_dataclass(RunConfig)["properties"]
    found = {}
    for key in FACTORS:
        section, name = key.split(".")
        found[key] = sections[section]["properties"][name]
    return found


def _of_factors(levels: dict[str, Any]) -> dict[str, Any]:
    """The schema of a mapping by factors, whose keys are dotted or nested as in a configuration
    file.

    Args:
        levels: The schema of a list of levels, for values that are lists; empty for values that are
            a single level.
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
    of_options = {options.PATTERN: levels}  # of a registered family, which knows their types
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": sections | dotted,
        "patternProperties": of_options,
    }


def write(root: Path) -> None:
    """Write the schemas below a checkout's root."""
    for name, schema in contents().items():
        files.write_atomically(root / name, schema.encode())


if __name__ == "__main__":
    write(shipped.root())
