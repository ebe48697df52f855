"""JSON Schemas of YAML files, made from the dataclasses that check these files, so that editors can
complete and check what is written.

A schema knows each key's type, limits, default and meaning. It does not know which values exclude
each other: that is checked when a file is used.
"""

import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from xceptlab.config.field_types import UNIONS, Bounds, without_bounds
from xceptlab.config.fields import is_required
from xceptlab.config.help import docstrings

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The version of JSON Schema that YAML's language server, which editors use, supports in full."""
PLAIN: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}
"""JSON Schema of each elementary type."""
LIMITS = {
    "at_least": "minimum",
    "above": "exclusiveMinimum",
    "at_most": "maximum",
    "below": "exclusiveMaximum",
}
"""JSON Schema's name of each limit in ``Bounds``."""


def of_dataclass(schema: Any) -> dict[str, Any]:
    """Return the JSON Schema of a mapping that has the fields of a dataclass."""
    meanings = docstrings(schema)
    properties = {f.name: _of_field(f, meanings[f.name]) for f in fields(schema)}
    found: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    required = [f.name for f in fields(schema) if is_required(f)]
    if required:
        found["required"] = required
    return found


def _of_field(f: Field[Any], meaning: str) -> dict[str, Any]:
    """Return the JSON Schema of a field's values, with the field's meaning and its default, unless
    that is None or made by a factory.
    """
    found = of_type(f.type)
    found["description"] = meaning.replace("``", "`")
    if f.default is not MISSING and f.default is not None:
        found["default"] = f.default
    return found


def of_type(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of the values of a field's type. In that of a tuple all items are of
    the first one's type.
    """
    kind, bounds = without_bounds(kind)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return of_dataclass(kind)
    if origin in UNIONS:
        return {"anyOf": [of_type(one) for one in inner]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is dict:
        return {"type": "object", "additionalProperties": of_type(inner[1])}
    if origin is list or (origin is tuple and ... in inner):
        return {"type": "array", "items": of_type(inner[0])}
    if origin is tuple:
        return {
            "type": "array",
            "items": of_type(inner[0]),
            "minItems": len(inner),
            "maxItems": len(inner),
        }
    return PLAIN[origin] | _limits(bounds)


def _limits(bounds: Bounds | None) -> dict[str, float]:
    """Return the limits of a number by JSON Schema's keywords; empty for a type without limits."""
    found = {}
    for name, word in LIMITS.items():
        limit = getattr(bounds, name, None)
        if limit is not None:
            found[word] = limit
    return found


def text(title: str, schema: dict[str, Any]) -> str:
    """Format a schema, with its dialect and title, as the JSON text of a schema file."""
    contents = {"$schema": DIALECT, "title": title} | schema
    return json.dumps(contents, indent=1, ensure_ascii=False) + "\n"
