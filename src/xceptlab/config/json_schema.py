"""JSON Schema of our YAML files, from the dataclasses that check them, so that an editor completes and checks what is written.

It knows each key's type, limits, default and meaning. What depends on other keys is checked when a file is used.
"""

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from xceptlab.config.fields import without_bounds
from xceptlab.config.help import docstrings

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The one that YAML's language server supports throughout."""
PLAIN: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"}, str: {"type": "string"},
    type(None): {"type": "null"}, Any: {},
}  # fmt: skip
LIMITS = {"at_least": "minimum", "above": "exclusiveMinimum", "at_most": "maximum", "below": "exclusiveMaximum"}


def of_dataclass(schema: Any) -> dict[str, Any]:
    """The schema of a mapping with the fields of a dataclass."""
    meanings = docstrings(schema)
    properties = {}
    for f in fields(schema):
        properties[f.name] = of_type(f.type) | {"description": meanings[f.name].replace("``", "`")}
        if f.default is not MISSING and f.default is not None:
            properties[f.name]["default"] = f.default
    required = [f.name for f in fields(schema) if f.default is MISSING and f.default_factory is MISSING]
    found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return found | ({"required": required} if required else {})


def of_type(kind: Any) -> dict[str, Any]:
    """The schema of a field's values."""
    kind, bounds = without_bounds(kind)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return of_dataclass(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [of_type(one) for one in inner]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is dict:
        return {"type": "object", "additionalProperties": of_type(inner[1])}
    if origin in (list, tuple):
        length = {"minItems": len(inner), "maxItems": len(inner)} if origin is tuple and ... not in inner else {}
        return {"type": "array", "items": of_type(inner[0])} | length
    limits = {word: getattr(bounds, name) for name, word in LIMITS.items() if getattr(bounds, name, None) is not None}
    return PLAIN[origin] | limits


def text(title: str, schema: dict[str, Any]) -> str:
    """The contents of a schema's file."""
    return json.dumps({"$schema": DIALECT, "title": title} | schema, indent=1, ensure_ascii=False) + "\n"
